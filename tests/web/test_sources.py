import csv
import io
import json
import re

import pytest
from astropy.table import Table
from flask.testing import FlaskClient

from db.queries import SORTS
from tests.web.conftest import Site
from web.database import MAX_DOWNLOADS

PER_PAGE = 48


def shown(page: str) -> list[str]:
    """Identifiers of the cards on a page, in order."""
    return re.findall(r'aria-label="Source ([^,]+),', page)


def link(page: str, rel: str) -> str | None:
    found = re.search(rf'<a rel="{rel}" href="([^"]+)"', page)
    return found[1].replace("&amp;", "&") if found else None


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("view", ["gallery", "table"])
def test_following_next_shows_every_source_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, sort: str, view: str
) -> None:
    monkeypatch.setattr("web.sources.PAGE_SIZES", {"gallery": 9, "table": 9})
    address: str | None = f"/sources?sort={sort}&view={view}"
    found: list[str] = []
    while address:
        page = client.get(address).text
        found += re.findall(r'data-step href="[^"]*/sources/(\d+)', page)
        address = link(page, "next")

    assert len(found) == 62
    assert len(set(found)) == 62


def test_previous_leads_back_to_the_page_before(client: FlaskClient) -> None:
    first = client.get("/sources?sort=p").text
    second = client.get(link(first, "next") or "").text

    back = client.get(link(second, "prev") or "").text

    assert len(shown(first)) == PER_PAGE
    assert shown(back) == shown(first)
    assert link(first, "prev") is None
    assert link(second, "next") is None


def test_the_highest_probability_comes_first_unless_asked_otherwise(client: FlaskClient) -> None:
    page = client.get("/sources").text

    assert {*shown(page)[:3]} == {"src-019", "src-039", "src-059"}
    assert "probability of being a shred 0.950" in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("p_min=0.95", {"src-019", "src-039", "src-059"}),
        ("p_min=0.35&p_max=0.35", {"src-027", "src-047"}),
        ("opinion=missing&catalog=field", {"src-007", "src-008"}),
        ("opinion=flagged", {"src-007", "src-009"}),
        ("mag_min=20.25&mag_max=20.5&p_min=0.9", {"src-058"}),
        ("ra=150&dec=2&radius=10", {"src-000", "src-001"}),
        ("ra=10:00:00&dec=%2B02:00:00&radius=10", {"src-000", "src-001"}),
        ("ra=150&dec=2&radius=0", {"src-000"}),
        ("id=src-013", {"src-013"}),
        ("catalog=hosts", {"host-0", "host-1"}),
        ("id=+src-013+&p_min=&catalog=", {"src-013"}),
    ],
)
def test_filters_show_what_they_say(
    client: FlaskClient, arguments: str, expected: set[str]
) -> None:
    page = client.get(f"/sources?{arguments}").text

    assert set(shown(page)) == expected
    assert f'<span class="total">{len(expected)}</span>' in re.sub(r"\s+(?=<)", "", page)


def test_links_to_pages_and_sources_keep_the_selection(client: FlaskClient) -> None:
    page = client.get("/sources?p_min=0.1&sort=mag&catalog=field").text

    for address in (link(page, "next"), re.search(r'data-step href="([^"]+)"', page)[1]):  # type: ignore[index]
        assert "p_min=0.1" in (address or "")
        assert "sort=mag" in (address or "")


def test_nothing_found_says_so(client: FlaskClient) -> None:
    assert "No source matches" in client.get("/sources?id=nobody").text


def test_a_download_has_every_row_and_column_of_the_selection(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.queries.EXPORT_ROWS", 7)
    response = client.get("/sources.csv?p_min=0.5&sort=-p")

    rows = list(csv.DictReader(io.StringIO(response.text)))

    assert response.mimetype == "text/csv"
    assert len(rows) == 30
    assert [float(row["p_shred"]) for row in rows] == sorted(
        (float(row["p_shred"]) for row in rows), reverse=True
    )
    assert {"survey_id", "ra", "dec", "mag_r", "shred_version", "extra"} <= set(rows[0])
    assert rows[0]["shred_version"] == "residual.v1"


def test_a_votable_has_the_types_units_and_missing_values(client: FlaskClient, site: Site) -> None:
    response = client.get("/sources.vot?catalog=field&sort=catalog")

    table = Table.read(io.BytesIO(response.data), format="votable")

    assert response.mimetype == "application/x-votable+xml"
    assert len(table) == 60
    assert table["source_id"][5] == site.number(5)
    assert table["survey_id"][5] == "src-005"
    assert [table[name].unit for name in ("ra", "mag_r", "shape_r")] == ["deg", "mag", "arcsec"]
    assert table["mag_r"].dtype == "float32"
    assert table["ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    assert table["mag_r"].description == "r magnitude, extinction-corrected"
    assert table["p_shred"][5] == 0.25
    assert [k for k in range(60) if table["shred_flags"].mask[k]] == [8]
    assert json.loads(table["extra"][5]) == {"maskbits": 2, "ebv": 0.03}
    assert table["has_cutout"][5]
    assert not table["has_cutout"][10]


def test_a_votable_of_nothing_has_its_columns(client: FlaskClient) -> None:
    table = Table.read(io.BytesIO(client.get("/sources.vot?id=nobody").data), format="votable")

    assert len(table) == 0
    assert {"ra", "extra", "p_shred"} <= set(table.colnames)


def test_a_selection_too_large_for_a_votable_is_sent_to_csv(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.sources.MAX_VOTABLE", 61)

    response = client.get("/sources.vot")

    assert response.status_code == 400
    assert "or take it as CSV" in response.text
    assert client.get("/sources.vot?catalog=field").status_code == 200


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads of many small chunks and statements."""
    monkeypatch.setattr("db.queries.EXPORT_ROWS", 7)
    monkeypatch.setattr("web.sources.DOWNLOAD_CHUNK", 7)


@pytest.mark.usefixtures("short_steps")
def test_a_running_download_holds_one_connection(client: FlaskClient, site: Site) -> None:
    response = client.get("/sources.csv")

    assert site.pool.checkedout() == 1
    assert response.text.count("\r\n") == 63
    assert site.pool.checkedout() == 0


@pytest.mark.usefixtures("short_steps")
def test_one_download_too_many_is_told_to_wait(client: FlaskClient, site: Site) -> None:
    running = [client.get("/sources.csv") for _ in range(MAX_DOWNLOADS)]

    refused = client.get("/sources.csv")
    page = client.get("/sources")
    for response in running:
        response.close()

    assert refused.status_code == 503
    assert "Too many downloads" in refused.text
    assert page.status_code == 200
    assert client.get("/sources.csv").text.count("\r\n") == 63
    assert site.pool.checkedout() == 0


def test_asking_for_the_head_of_a_download_leaves_nothing_open(
    client: FlaskClient, site: Site
) -> None:
    answers = [client.head("/sources.csv").status_code for _ in range(MAX_DOWNLOADS + 1)]

    assert set(answers) == {200}
    assert site.pool.checkedout() == 0


def test_a_download_whose_first_statement_takes_too_long_is_stopped(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.database.STEP_LIMIT", 0.05)
    monkeypatch.setattr(
        "db.queries.every_source",
        lambda s, *_: s.connection().exec_driver_sql("SELECT pg_sleep(5)"),
    )

    response = client.get("/sources.csv")

    assert response.status_code == 503
    assert "Narrow the selection" in response.text


def test_a_source_shows_its_values_with_units_and_every_opinion(
    client: FlaskClient, site: Site
) -> None:
    page = client.get(f"/sources/{site.number(5)}").text

    assert "18.250" in page
    assert "mag AB" in page
    assert "r magnitude, extinction-corrected" in page
    assert page.index("residual.v1") < page.index("published.v1")
    assert "0.250" in page
    assert "0.750" in page
    assert "observatory" in page
    assert "ebv" in page
    assert f"ra=150.000000&amp;dec={site.survey.sources[5].dec:.6f}&amp;layer=ls-dr10" in page


def test_a_source_names_its_flags_in_words(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/sources/{site.number(9)}").text

    assert '<p class="flags">partly outside the image</p>' in page


def test_a_source_shows_its_neighbours_nearest_first(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/sources/{site.number(0)}").text

    near = re.findall(r"Source (src-\d+), ([\d.]+) arcsec away", page)
    assert [(near[0]), (near[-1])] == [("src-001", "10.0"), ("src-003", "20.0")]


def test_next_and_previous_follow_the_selection(client: FlaskClient, site: Site) -> None:
    arguments = "p_min=0.9&sort=catalog&catalog=field"
    page = client.get(f"/sources/{site.number(38)}?{arguments}").text

    assert f"/sources/{site.number(39)}?" in (link(page, "next") or "")
    assert f"/sources/{site.number(19)}?" in (link(page, "prev") or "")
    assert "p_min=0.9" in (link(page, "next") or "")


def test_a_source_outside_the_selection_still_has_a_page(client: FlaskClient, site: Site) -> None:
    response = client.get(f"/sources/{site.number(8)}?p_min=0.9&sort=p")

    assert response.status_code == 200
    assert "No annotator has looked at this source yet" in response.text


def test_an_opinion_without_probability_is_not_shown_as_zero(
    client: FlaskClient, site: Site
) -> None:
    page = client.get(f"/sources/{site.number(7)}").text

    assert '<span class="num">–</span> <span>no probability</span>' in page
