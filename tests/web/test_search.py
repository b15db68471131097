import csv
import io
import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from astropy.table import Table
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db.tables import Selection, SelectionSource
from tests.builders import make_catalog, make_model_version, make_source
from tests.web.conftest import Site
from web import create_app
from web.search_parameters import EXAMPLE, FILTERS, OPTIONS, SETS

MACHINE = {"Accept": "application/json"}
PAGES_MD = Path(__file__).parents[2] / "docs" / "pages.md"


def hits(page: str) -> list[str]:
    """Identifiers of the results on a page, nearest first."""
    return re.findall(r'aria-label="\d+: source ([^,]+),', page)


def found(client: FlaskClient, arguments: str) -> list[str]:
    """The same by the service."""
    response = client.get(f"/search.json?{arguments}")
    assert response.status_code == 200, response.text
    return [row["survey_id"] for row in response.json["sources"]]


def test_a_source_finds_what_is_nearest_to_it_and_not_itself(
    client: FlaskClient, site: Site
) -> None:
    page = client.get(f"/search?id={site.number(20)}&k=4").text

    assert hits(page) == ["src-019", "src-021", "src-018", "src-022"]
    assert "distance 1, probability of being a shred 0.950" in page
    assert "like source src-020" in page


def test_the_statement_says_metric_version_and_how_exact(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/search?id={site.number(20)}").text

    assert "Exact: all 56 representations of tiny.line were compared (L1, 40 components)." in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("survey_id=src-020", ["src-019", "src-021"]),
        ("survey_id=src-020&catalog=field", ["src-019", "src-021"]),
        ("ra=150&dec=2.0555556", ["src-019", "src-021"]),
        ("ra=10:00:00&dec=%2B02:03:20", ["src-019", "src-021"]),
    ],
)
def test_an_example_can_be_named_in_several_ways(
    client: FlaskClient, arguments: str, expected: list[str]
) -> None:
    assert found(client, f"{arguments}&k=2") == expected


def test_a_set_is_like_its_middle_and_away_from_what_it_shall_not_be_like(
    client: FlaskClient, site: Site
) -> None:
    like = f"like={site.number(30)}&like={site.number(40)}"

    assert found(client, f"{like}&k=3") == ["src-035", "src-034", "src-036"]
    assert found(client, f"{like}&unlike={site.number(15)}&k=1") == ["src-045"]
    assert found(client, f"id={site.number(30)}&like={site.number(40)}&k=1") == ["src-035"]


def test_results_offer_more_and_less_of_their_kind(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/search?id={site.number(20)}&k=1&p_min=0").text
    more, less = re.findall(r'<a href="([^"]+)" aria-label="(?:More|Less) like src-019"', page)

    together = client.get(more.replace("&amp;", "&")).text
    apart = client.get(less.replace("&amp;", "&")).text

    assert f"like={site.number(19)}" in more
    assert "p_min=0" in more
    assert "Leave src-019 out" in together
    assert "unlike source src-019" in apart
    assert hits(apart) == ["src-021"]


@pytest.mark.parametrize("example", ["id={number}", "survey_id=src-020"])
def test_the_example_cannot_be_what_the_answer_shall_be_unlike(
    client: FlaskClient, site: Site, example: str
) -> None:
    number = site.number(20)

    response = client.get(f"/search.json?{example.format(number=number)}&unlike={number}")

    assert (response.status_code, response.json["parameter"]) == (400, "unlike")
    assert "other sources than the example" in response.json["detail"]


def test_leaving_the_example_out_of_a_set_keeps_the_others(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/search?id={site.number(20)}&like={site.number(30)}").text
    without = re.search(r'<a href="([^"]+)" aria-label="Leave src-020 out"', page)

    assert without
    assert urlsplit(without[1]).query == f"like={site.number(30)}"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("p_min=0.9", ["src-019", "src-018"]),
        ("mag_min=18.5&mag_max=18.5", ["src-021", "src-006"]),
        ("in_catalog=hosts", []),
        ("opinion=flagged", ["src-009"]),
        ("near_ra=150&near_dec=2&near_radius=15", ["src-001", "src-000"]),
        ("where=mag_r+%3E+20.4", ["src-014", "src-029"]),
        ("selection=favourites", ["src-050", "src-051"]),
        ("exact=1&metric=l2", ["src-019", "src-021"]),
        ("space=embedding", ["src-019", "src-021"]),
        ("version=tiny.line", ["src-019", "src-021"]),
    ],
)
def test_filters_and_options_do_what_they_say(
    client: FlaskClient, site: Site, filters: str, expected: list[str]
) -> None:
    with Session(site.engine) as session, session.begin():
        if not session.query(Selection).count():
            chosen = Selection(name="favourites", origin={})
            session.add(chosen)
            session.flush()
            for k in (50, 51):
                session.add(SelectionSource(selection_id=chosen.id, source_id=site.number(k)))

    assert found(client, f"id={site.number(20)}&k=2&{filters}") == expected


def test_a_position_tells_how_far_its_source_is_and_warns(client: FlaskClient) -> None:
    near = client.get("/search.json?ra=150&dec=2.0001&k=1").json
    far = client.get("/search?ra=150&dec=2.168").text

    assert near["separation_arcsec"] == pytest.approx(0.36, abs=0.01)
    assert near["warning"] == ""
    assert re.search(r"src-059, is \d+\.\d arcsec from the position asked for", far)


def test_a_position_off_the_footprint_is_not_found_and_says_how_far_the_next_source_is(
    client: FlaskClient,
) -> None:
    page = client.get("/search?ra=150&dec=3")
    service = client.get("/search.json?ra=150&dec=3")

    assert page.status_code == service.status_code == 404
    assert "No source is within 60 arcsec" in page.text
    assert "degrees away" in service.json["detail"]


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ("id=abc", "id"),
        ("id=-1", "id"),
        ("id=1.5", "id"),
        ("id=%D9%A1", "id"),
        ("id=20&k=0", "k"),
        ("id=20&k=-1", "k"),
        ("id=20&k=abc", "k"),
        ("id=20&k=10001", "k"),
        ("id=20&k=1e3", "k"),
        ("id=20&metric=foo", "metric"),
        ("id=20&space=pixels", "space"),
        ("id=20&exact=yes", "exact"),
        ("id=20&version=nix", "version"),
        ("id=20&where='; DROP TABLE source; --", "where"),
        ("id=20&where=nonsense", "where"),
        ("id=20&where=pg_sleep(5)", "where"),
        ("id=20&where=mag_r+%3C", "where"),
        ("id=20&where=" + "(" * 2500, "where"),
        ("id=20&selection=nix", "selection"),
        ("id=20&in_catalog=nix", "in_catalog"),
        ("id=20&mag_min=bright", "mag_min"),
        ("id=20&near_ra=5", "near_dec"),
        ("id=20&ra=150&dec=2", "ra"),
        ("id=20&survey_id=src-020", "survey_id"),
        ("catalog=field", "catalog"),
        ("ra=150", "dec"),
        ("ra=400&dec=2", "ra"),
        ("like=1&unlike=1", "unlike"),
        ("like=x", "like"),
        ("&".join(f"like={k}" for k in range(1, 22)), "like"),
        ("page=2", "page"),
        ("id=20&id=21", "id"),
    ],
)
@pytest.mark.parametrize("path", ["/search", "/search.json"])
def test_a_bad_parameter_is_explained(
    client: FlaskClient, path: str, arguments: str, parameter: str
) -> None:
    response = client.get(f"{path}?{arguments}", headers=MACHINE)

    assert response.status_code == 400, response.text
    assert response.json["parameter"] == parameter
    assert response.json["advice"]


def test_a_page_shows_fewer_than_a_download_and_says_so(client: FlaskClient) -> None:
    refused = client.get("/search?id=20&k=501", headers=MACHINE)

    assert refused.json["expected"] == (
        "a whole number from 1 to 500 (up to 10,000 as JSON, CSV or VOTable)"
    )
    assert client.get("/search.csv?survey_id=src-020&k=10000").status_code == 200


@pytest.mark.parametrize(
    "arguments",
    [
        "id=999999",
        f"id={2**63}",
        f"id={10**39}",
        "survey_id=nobody",
        "survey_id=src-020&catalog=hosts",
        "upload=nonsense",
        "upload=a%27b",
    ],
)
@pytest.mark.parametrize("path", ["/search", "/search.json", "/search.csv", "/search.vot"])
def test_what_is_not_there_is_not_found(client: FlaskClient, path: str, arguments: str) -> None:
    response = client.get(f"{path}?{arguments}")

    assert response.status_code == 404
    assert "There is no" in response.text


@pytest.mark.parametrize(
    ("k", "reason"), [(7, "no image"), (8, "not been annotated"), (10, "it has no image")]
)
def test_a_source_without_a_vector_says_why(
    client: FlaskClient, site: Site, k: int, reason: str
) -> None:
    page = client.get(f"/search?id={site.number(k)}")

    assert page.status_code == 404
    assert reason in page.text
    assert "Search by source" in page.text


def test_programs_that_name_no_example_are_told_so(client: FlaskClient) -> None:
    answers = [client.get(f"/search.{kind}", headers=MACHINE) for kind in ("json", "csv", "vot")]

    assert {answer.status_code for answer in answers} == {400}
    assert "needs an example" in answers[0].json["detail"]


def test_the_empty_search_offers_sources_to_begin_with(client: FlaskClient, site: Site) -> None:
    page = client.get("/search").text

    assert f"/search?id={site.number(59)}" in page
    assert "What looks like src-059" in page


def test_an_empty_database_says_what_to_run(engine: Engine) -> None:
    client = create_app(engine).test_client()

    page = client.get("/search")
    asked = client.get("/search?ra=1&dec=2")

    assert page.status_code == 200
    assert "skygloss annotate" in page.text
    assert asked.status_code == 404
    assert "nothing to search" in asked.text


def test_an_identifier_of_two_catalogs_needs_its_catalog(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        make_model_version(session, annotator="representations", state="current")
        for name in ("north", "south"):
            make_source(session, make_catalog(session, name=name), survey_id="twin")
    client = create_app(engine).test_client()

    answer = client.get("/search.json?survey_id=twin")

    assert answer.status_code == 400
    assert "catalogs north, south" in answer.json["arrived"]


def test_the_service_gives_facts_about_the_answer_and_every_column(
    client: FlaskClient, site: Site
) -> None:
    answer = client.get(f"/search.json?id={site.number(20)}&k=2").json

    assert answer["answer"] == {
        "metric": "l1",
        "version": "tiny.line",
        "space": "reduced",
        "exact": True,
        "recall": None,
        "recall_k": None,
        "n_newer": 0,
        "how": answer["answer"]["how"],
    }
    first = answer["sources"][0]
    assert (first["rank"], first["distance"], first["survey_id"]) == (1, 1.0, "src-019")
    assert first["page"] == f"/sources/{site.number(19)}"
    assert {"ra", "dec", "mag_r", "p_shred", "extra"} <= set(first)
    assert [row["survey_id"] for row in answer["examples"]] == ["src-020"]


def test_an_answer_as_csv_says_in_every_row_what_was_compared(
    client: FlaskClient, site: Site
) -> None:
    response = client.get(f"/search.csv?id={site.number(20)}&k=55")
    rows = list(csv.DictReader(io.StringIO(response.text)))

    assert len(rows) == 55
    assert [row["rank"] for row in rows[:2]] == ["1", "2"]
    assert {row["metric"] for row in rows} == {"l1"}
    assert {row["version"] for row in rows} == {"tiny.line"}
    assert {row["exact"] for row in rows} == {"True"}
    assert json.loads(rows[1]["extra"])["ebv"] == 0.03
    assert "were compared" in response.headers["Skygloss-Answer"]


def test_an_answer_as_votable_has_types_and_units(client: FlaskClient, site: Site) -> None:
    response = client.get(f"/search.vot?id={site.number(20)}&k=3&metric=cosine")
    table = Table.read(io.BytesIO(response.data), format="votable")

    assert response.mimetype == "application/x-votable+xml"
    assert table["survey_id"].tolist() == ["src-021", "src-019", "src-022"]
    assert table["distance"].dtype == "float64"
    assert table["ra"].unit == "deg"
    assert set(table["metric"]) == {"cosine"}


def test_a_source_page_shows_what_looks_like_it(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/sources/{site.number(20)}").text

    alike = re.findall(r"Source (src-\d+) looks alike, distance (\d+)", page)
    assert alike[:3] == [("src-019", "1"), ("src-021", "1"), ("src-018", "2")]
    assert len(alike) == 8
    assert f"/search?id={site.number(20)}" in page
    assert "representations of tiny.line were compared" in page


def test_a_source_page_without_a_vector_has_no_such_strip(client: FlaskClient, site: Site) -> None:
    assert "looks alike" not in client.get(f"/sources/{site.number(7)}").text


def test_a_large_catalog_without_an_index_has_no_such_strip(
    client: FlaskClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.search.FEW_ROWS", 0)

    assert "looks alike" not in client.get(f"/sources/{site.number(20)}").text


@pytest.mark.parametrize("name", [*EXAMPLE, *SETS, *FILTERS, *OPTIONS])
def test_every_parameter_is_documented(name: str) -> None:
    section = PAGES_MD.read_text().partition("## Search")[2]

    assert f"`{name}`" in section


def test_the_example_in_the_documentation_works(client: FlaskClient) -> None:
    command = re.search(r"^    (curl .*search\.json.*)$", PAGES_MD.read_text(), re.MULTILINE)
    assert command, "docs/pages.md shows no search by curl"
    address = next(word for word in shlex.split(command[1]) if word.startswith("http"))
    parts = urlsplit(address)

    answer = client.get(f"{parts.path}?{parts.query}")

    assert answer.status_code == 200
    assert len(answer.json["sources"]) == 10
    assert [row["source_id"] for row in answer.json["examples"]] == [17]
