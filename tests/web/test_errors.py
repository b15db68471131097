import base64
import json

import pytest
from flask.testing import FlaskClient
from sqlalchemy import URL, create_engine

from tests.web.conftest import Site
from web import create_app

MACHINE = {"Accept": "application/json"}


def word(*parts: object) -> str:
    """A cursor with any content."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("arguments", "parameter", "expected"),
    [
        ("p_min=abc", "p_min", "a probability from 0 to 1"),
        ("p_min=1.5", "p_min", "a probability from 0 to 1"),
        ("p_max=-0.1", "p_max", "a probability from 0 to 1"),
        ("p_max=nan", "p_max", "a probability from 0 to 1"),
        ("p_min=0.9&p_max=0.1", "p_min", "at most p_max"),
        ("mag_min=bright", "mag_min", "a magnitude"),
        ("mag_max=inf", "mag_max", "a magnitude"),
        ("mag_max=1e300", "mag_max", "a magnitude"),
        ("catalog=nix", "catalog", "field, hosts"),
        ("opinion=maybe", "opinion", "any, given, missing, flagged"),
        ("opinion=missing&p_min=0.5", "opinion", "another opinion"),
        ("sort=colour", "sort", "one of"),
        ("view=list", "view", "gallery, table"),
        ("ra=150", "dec", "ra and dec together"),
        ("dec=2", "ra", "ra and dec together"),
        ("radius=20", "ra", "ra and dec together"),
        ("ra=361&dec=0", "ra", "degrees"),
        ("ra=10:99:00&dec=0", "ra", "sexagesimal"),
        ("ra=0&dec=91", "dec", "degrees"),
        ("ra=0&dec=0&radius=-1", "radius", "arcsec"),
        ("ra=0&dec=0&radius=1e9", "radius", "arcsec"),
        ("id=a%00b", "id", "null characters"),
        ("page=2", "page", "one of the parameters"),
        ("p_min=0.1&p_min=0.2", "p_min", "one value"),
        ("after=%21%21%21", "after", "a place in this order"),
        ("after=bm9uc2Vuc2U", "after", "a place in this order"),
        (f"after={word('-p', 'x', 1)}", "after", "a place in this order"),
        (f"after={word('-p', True, 1)}", "after", "a place in this order"),
        (f"after={word('-p', 1e39, 1)}", "after", "a place in this order"),
        (f"after={word('-p', 0.5, 2**63)}", "after", "a place in this order"),
        (f"after={word('-p', 0.5, -1)}", "after", "a place in this order"),
        (f"after={word('mag', 0.5, 1)}", "after", "a place in this order"),
        (f"after={word('-p', 0.5)}", "after", "a place in this order"),
        (f"sort=catalog&after={word('catalog', None, 'a')}", "after", "a place in this order"),
        (f"sort=catalog&before={word('catalog', 1, 2)}", "before", "a place in this order"),
        (f"sort=catalog&after={word('catalog', 1, chr(0xD800))}", "after", "a place in this order"),
        (f"after={word('-p', 1, 1)}&before={word('-p', 1, 1)}", "before", "only one of"),
        ("after=" + "W" * 5000, "after", "a place in this order"),
    ],
)
def test_a_bad_parameter_is_explained(
    client: FlaskClient, arguments: str, parameter: str, expected: str
) -> None:
    response = client.get(f"/sources?{arguments}", headers=MACHINE)

    assert response.status_code == 400
    assert response.json["parameter"] == parameter
    assert expected in response.json["expected"]
    assert len(response.json["arrived"]) <= 130
    assert response.json["advice"]


@pytest.mark.parametrize("arguments", ["p_min=abc", "after=x", "catalog=nix"])
def test_a_download_explains_a_bad_parameter_too(client: FlaskClient, arguments: str) -> None:
    assert client.get(f"/sources.csv?{arguments}").status_code == 400


def test_an_error_page_says_what_was_expected_what_arrived_and_what_to_do(
    client: FlaskClient,
) -> None:
    page = client.get("/sources?p_min=%3Cscript%3E").text

    assert "a probability from 0 to 1" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "Change p_min, or leave it out." in page


@pytest.mark.parametrize(
    "path",
    [
        "/nix",
        "/sources/0",
        f"/sources/{2**63}",
        f"/sources/{10**30}",
        "/sources/abc",
        "/models/shreds/nix",
        "/catalogs/nix/rejections",
    ],
)
def test_what_is_not_there_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.get(path, headers=MACHINE).json["status"] == 404


def test_an_address_that_ends_in_json_gets_its_error_as_json(client: FlaskClient) -> None:
    assert client.get("/nix.json").json["title"] == "Not Found"


@pytest.mark.parametrize("value", ["x", "-3"])
def test_a_bad_place_in_the_list_of_rejections_is_explained(
    client: FlaskClient, value: str
) -> None:
    response = client.get(f"/catalogs/field/rejections?after={value}", headers=MACHINE)

    assert response.status_code == 400


def test_pages_answer_only_to_reading(client: FlaskClient) -> None:
    response = client.post("/sources", headers=MACHINE)

    assert response.status_code == 405


@pytest.mark.parametrize(
    "path", ["/sources", "/status", "/models", "/healthz", "/nix", "/sources?p_min=x"]
)
def test_every_answer_carries_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers

    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/sources", "/search", "/status", "/models"])
def test_pages_carry_no_inline_script_or_style(client: FlaskClient, path: str) -> None:
    page = client.get(path).text

    assert "<script>" not in page
    assert " style=" not in page
    assert "<style" not in page
    assert " onclick=" not in page


def test_a_database_that_is_away_gives_a_page_that_says_so() -> None:
    nobody = create_engine("postgresql+psycopg2://nobody@127.0.0.1:9/none")
    client = create_app(nobody).test_client()

    page = client.get("/sources")
    ready = client.get("/readyz")

    assert page.status_code == 503
    assert "The database cannot be used at the moment" in page.text
    assert ready.status_code == 503


def test_a_question_that_takes_too_long_is_stopped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.database.TIME_LIMIT", 0.05)
    monkeypatch.setattr(
        "db.queries.catalogs", lambda s: s.connection().exec_driver_sql("SELECT pg_sleep(5)")
    )

    response = site.app.test_client().get("/sources")
    search = site.app.test_client().get("/search?id=20&space=embedding")

    assert response.status_code == search.status_code == 503
    assert "Narrow the selection" in response.text
    assert "principal components" not in response.text
    assert "Or search the principal components" in search.text


def test_a_mistake_of_ours_shows_no_details(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_session: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("db.queries.catalogs", broken)

    response = site.app.test_client().get("/sources")

    assert response.status_code == 500
    assert "secret" not in response.text


def test_a_database_without_tables_says_which_command_helps(empty_database_url: URL) -> None:
    engine = create_engine(empty_database_url)

    page = create_app(engine).test_client().get("/sources")
    engine.dispose()

    assert page.status_code == 503
    assert "skygloss migrate" in page.text
