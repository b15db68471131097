"""The list of exposures, and everything known about one."""

import csv
import io
import re
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from PIL import Image

from tests.web.maps import Atlas, N
from tests.web.team import sign_in, words


@pytest.fixture
def client(atlas: Atlas) -> FlaskClient:
    return atlas.team.visitor()


@pytest.fixture
def blind(atlas: Atlas) -> Iterator[FlaskClient]:
    """A browser of Ada, from whom the labels of others are hidden."""
    client = atlas.team.visitor()
    sign_in(client, "ada")
    atlas.team.change("UPDATE expert SET blind = true WHERE name = 'ada'")
    yield client
    atlas.team.change("UPDATE expert SET blind = false WHERE name = 'ada'")


def names(page: str) -> list[str]:
    return re.findall(r'<span class="id">([^<]+)</span>', page)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("catalog=camera&band=r&name=00", ["000p", "002p", "004p", "006p", "008p"]),
        ("name=odd", ["odd"]),
        ("flagged=novel", ["001p"]),
        ("cell=0,0&catalog=camera", ["odd"]),
        ("catalog=camera&flagged=unplaced", ["002p"]),
        ("label=BAD", ["000p"]),
        ("propagated=GOOD&name=00&sort=-mjd", [f"00{k}p" for k in (9, 8, 7, 6, 5, 4, 3, 0)]),
        ("sort=-error&name=01", ["013p", "012p", "011p", "010p", "001p"]),
        ("name=nobody", []),
    ],
)
def test_filters_show_what_they_say(
    client: FlaskClient, atlas: Atlas, arguments: str, expected: list[str]
) -> None:
    asked = arguments.replace("BAD", str(atlas.team.bad)).replace("GOOD", str(atlas.team.good))
    page = client.get(f"/exposures?{asked}").text

    assert names(page) == expected
    assert f'<span class="total">{len(expected)}' in page


def test_following_next_shows_every_exposure_once(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.exposures.PAGE_SIZE", 5)
    address: str | None = "/exposures?sort=mjd"
    found: list[str] = []
    while address:
        page = client.get(address).text
        found += names(page)
        link = re.search(r'<a rel="next" href="([^"]+)"', page)
        address = link[1].replace("&amp;", "&") if link else None

    assert len(found) == len(set(found)) == N + 4
    assert found[:3] == ["000p", "001p", "002p"]


def test_a_direct_label_and_that_of_the_cell_stand_apart(client: FlaskClient) -> None:
    page = client.get("/exposures?name=000p").text

    assert re.search(r'class="card labelled label-\d+"', page)
    assert re.search(r"<span class=\"label-mark\" data-label-name>Bad seeing</span>", page)
    assert "from its cell: 1 Good 0.22" in words(page)


def test_an_exposure_shows_its_facts_and_its_cell(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get(atlas.exposure(3)).text
    text = words(page)

    assert "MJD 59003.50000" in text
    assert 'href="/maps/exposure_map/1/2"' in page
    assert "prototype 0.375: 2 of 12 other members of the cell closer." in text
    assert "The second nearest prototype is 0.203 farther." in text
    assert "part of the pixels without signal (a dead amplifier)" in text
    assert "0.80" in text  # FWHM [arcsec]


def test_novel_and_unplaced_exposures_say_so(client: FlaskClient, atlas: Atlas) -> None:
    assert "Novel: it lies far from every prototype" in client.get(atlas.exposure(1)).text
    nowhere = words(client.get(atlas.exposure(2)).text)
    assert "No cell. no source with a cell" in nowhere
    assert "No worker has counted its sources" in nowhere


def test_an_exposure_leads_to_those_like_it_nearest_first(
    client: FlaskClient, atlas: Atlas
) -> None:
    page = words(client.get(atlas.exposure(7)).text)

    found = re.findall(r"(\d{3}p) (\d) away", page.split("Looks like this")[1])
    assert found[:2] in ([("006p", "1"), ("008p", "1")], [("008p", "1"), ("006p", "1")])
    assert [distance for _, distance in found] == ["1", "1", "2", "2", "3", "3", "4", "4"]


def test_next_and_previous_follow_the_list(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get(f"{atlas.exposure(4)}?band=r&sort=-mjd").text

    assert f'<a rel="prev" href="{atlas.exposure(6)}?band=r' in page
    assert f'<a rel="next" href="{atlas.exposure(2)}?band=r' in page


def test_a_histogram_comes_as_picture_and_numbers(client: FlaskClient, atlas: Atlas) -> None:
    here = atlas.exposure(0)

    picture = Image.open(io.BytesIO(client.get(f"{here}/density.png").data)).convert("L")
    numbers = client.get(f"{here}/histogram.json").json
    rows = list(csv.reader(io.StringIO(client.get(f"{here}/histogram.csv").text)))

    assert picture.size == (3, 2)
    assert picture.getpixel((1, 0)) > picture.getpixel((0, 0)) > picture.getpixel((2, 1))  # type: ignore[operator]
    assert numbers is not None
    assert numbers["counts"] == [[10, 20, 0], [0, 0, 0]]
    assert (numbers["source_map"], numbers["weight"]) == ("tiny.sources", 10)
    assert rows[:3] == [["cell_row", "cell_column", "count"], ["0", "0", "10"], ["0", "1", "20"]]
    assert client.get(f"{atlas.exposure(3)}/histogram.json").status_code == 404


def test_a_preview_is_kept_for_ever_under_its_own_address(
    client: FlaskClient, atlas: Atlas
) -> None:
    page = client.get(atlas.exposure(0)).text
    address = re.search(r'src="([^"]+preview.jpg[^"]+)"', page)

    assert address is not None
    answer = client.get(address[1].replace("&amp;", "&"))
    assert answer.mimetype == "image/jpeg"
    assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(("k", "reason"), [(4, "no picture"), (5, "not found on this server")])
def test_a_preview_that_is_not_there_says_why(
    client: FlaskClient, atlas: Atlas, k: int, reason: str
) -> None:
    answer = client.get(f"{atlas.exposure(k)}/preview.jpg")

    assert answer.mimetype == "image/svg+xml"
    assert reason in answer.text


def test_the_sources_of_a_ccd_have_their_own_page(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get(f"{atlas.exposure(0)}/sources?ccd=0").text

    for source in atlas.sources:
        assert f'href="/sources/{source}"' in page
    assert (
        "No source is stored of this CCD" in client.get(f"{atlas.exposure(0)}/sources?ccd=7").text
    )


def test_a_source_leads_to_its_exposure_and_its_cell(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get(f"/sources/{atlas.sources[0]}").text

    assert f'href="{atlas.exposure(0)}"' in page
    assert "ccd00, x 0.0, y 0.0 pixel" in words(page)
    assert 'href="/maps/source_map/0/0"' in page
    assert "0.25 from its prototype" in words(page)
    assert f'data-subjects="source:{atlas.sources[0]}"' in page


def test_a_source_without_position_has_a_page_too(client: FlaskClient, atlas: Atlas) -> None:
    answer = client.get(f"/sources/{atlas.sources[2]}")

    assert answer.status_code == 200
    assert "Legacy Surveys viewer" not in answer.text
    assert f'href="{atlas.exposure(0)}"' in answer.text


def test_a_blind_expert_sees_no_label_of_others(blind: FlaskClient, atlas: Atlas) -> None:
    page = blind.get("/exposures?name=00").text

    assert "labelled label-" not in page
    assert "from its cell: " not in page
    assert "Label of its cell" not in page
    assert names(blind.get(f"/exposures?label={atlas.team.bad}").text) == []
    without_bar = re.sub(
        '<section class="label-bar".*?</form>', "", blind.get(atlas.exposure(0)).text, flags=re.S
    )
    assert "Good" not in words(without_bar)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/exposures/999999", 404, "There is no exposure 999999"),
        ("/exposures/99999999999999999999999", 404, "There is no exposure"),
        ("/exposures?cell=3", 400, "row and column of a cell, like 3,12"),
        ("/exposures?label=99999", 400, "the number of a label class"),
        ("/exposures?flagged=odd", 400, "one of any, clean, flagged, novel, unplaced"),
        ("/exposures?sort=name", 400, "one of catalog, mjd"),
    ],
)
def test_what_cannot_be_found_is_explained(
    client: FlaskClient, path: str, status: int, reason: str
) -> None:
    answer = client.get(path)

    assert answer.status_code == status
    assert reason in answer.text
