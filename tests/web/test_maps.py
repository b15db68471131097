"""The pages of the maps: what cells show, who is in them, and what a blind expert does not see."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import URL
from sqlalchemy.orm import Session

from db.engine import create_engine
from tests.builders import make_model_version, make_prototypes
from tests.conftest import new_database
from tests.web.maps import Atlas, N
from tests.web.team import sign_in, words
from web import map_pictures

MAP = "/maps/exposure_map"


@pytest.fixture
def client(atlas: Atlas) -> FlaskClient:
    return atlas.team.visitor()


@pytest.fixture
def blind(atlas: Atlas) -> Iterator[FlaskClient]:
    """A browser of Bob, from whom the labels of others are hidden."""
    client = atlas.team.visitor()
    sign_in(client, "bob")
    atlas.team.change("UPDATE expert SET blind = true WHERE name = 'bob'")
    yield client
    atlas.team.change("UPDATE expert SET blind = false WHERE name = 'bob'")


def titles(page: str) -> dict[str, str]:
    """What each cell says of itself, by its place."""
    found = re.findall(r"<title>(Row (\d), column (\d) · .*?)</title>", page)
    return {f"{row},{column}": text for text, row, column in found}


def test_the_maps_are_listed_with_their_prototypes(client: FlaskClient) -> None:
    page = client.get("/maps").text

    assert "Map of exposures" in page
    assert "Map of sources" in page
    assert page.count("prototypes.png?version=") == 2


@pytest.mark.parametrize("show", ["pictures", "density", "labels", "umatrix"])
def test_every_cell_is_a_link_and_a_subject_whatever_is_shown(
    client: FlaskClient, atlas: Atlas, show: str
) -> None:
    page = client.get(f"{MAP}?show={show}").text

    for row, column in np.ndindex(2, 3):
        assert f'data-subject="cell:{atlas.team.version}:{row}:{column}"' in page
        assert f'href="{MAP}/{row}/{column}"' in page
    assert page.count('role="gridcell" aria-selected="false"') == 6


def test_cells_say_members_label_and_share(client: FlaskClient) -> None:
    said = titles(client.get(MAP).text)

    assert said["1,2"] == (
        f"Row 1, column 2 · {N - 1} exposures · Good (2 of 3 experts) · "
        "1 labelled themselves, 0 of them so"
    )
    assert said["0,1"] == "Row 0, column 1 · 1 exposure · Bad seeing (2 of 2 experts)"
    assert said["1,0"] == "Row 1, column 0 · 0 exposures · no label"


def test_the_legend_says_how_much_is_labelled(client: FlaskClient) -> None:
    page = words(client.get(MAP).text)

    assert f"1 cell, {N - 1} exposures" in page
    assert f"2 of 6 cells; they hold {N} of {N + 3} exposures (82 %)" in page
    assert "In 1 cell experts disagree" in page


def test_density_is_a_number_and_a_colour(client: FlaskClient) -> None:
    page = client.get(f"{MAP}?show=density").text

    assert re.search(r'<text class="dark"[^>]*>13</text>', page)
    assert f'fill="{map_pictures.names(np.array([255], np.uint8))[0]}"' in page
    assert "exposures in a cell, logarithmic" in page


def test_borders_have_a_scale(client: FlaskClient) -> None:
    page = words(client.get(f"{MAP}?show=umatrix").text)

    assert re.search(r"1\.7 2 mean distance to the prototypes beside", page)


@pytest.mark.parametrize("annotator", ["source_map", "exposure_map"])
def test_the_prototypes_are_one_picture(client: FlaskClient, annotator: str) -> None:
    address = re.search(
        r'<image href="([^"]+prototypes[^"]+)"', client.get(f"/maps/{annotator}").text
    )
    assert address is not None
    answer = client.get(address[1].replace("&amp;", "&"))

    assert Image.open(io.BytesIO(answer.data)).size == (6, 4)
    assert "immutable" in answer.headers["Cache-Control"]
    assert client.get(f"/maps/{annotator}/prototypes.png").headers["Cache-Control"] == "no-cache"


def test_cutouts_are_drawn_with_their_first_row_at_the_bottom() -> None:
    decoded = np.array([[[1, 1, 0, 0]]], np.float32)

    drawn = np.asarray(Image.open(io.BytesIO(map_pictures.prototypes(decoded, (2, 2), grey=True))))

    assert drawn.tolist() == [[0, 0], [255, 255]]


def test_a_cell_shows_nine_at_random_and_those_at_its_edges(
    client: FlaskClient, atlas: Atlas
) -> None:
    page = client.get(f"{MAP}/1/2").text
    found = re.findall(r'aria-labelledby="(\w+)-title">.*?<ul(.*?)</ul>', page, re.DOTALL)
    members = {kind: re.findall(r'href="/exposures/(\d+)"', text) for kind, text in found}

    numbers = [str(one) for k, one in enumerate(atlas.exposures) if k != 2]
    assert len(set(members["random"])) == 9
    assert members["nearest"] == numbers[:6]
    assert members["farthest"] == numbers[:-7:-1]
    assert members["borderline"] == numbers[:-7:-1]
    assert "0.125 away" in page


def test_another_nine_are_drawn_by_a_link(client: FlaskClient) -> None:
    pages = [client.get(f"{MAP}/1/2?draw={draw}").text for draw in (0, 0, 1)]
    chosen = [re.findall(r"/exposures/(\d+)", page.split("Nearest to")[0]) for page in pages]

    assert f'href="{MAP}/1/2?draw=1"' in pages[0]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


def test_a_cell_of_sources_shows_their_cutouts(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get("/maps/source_map/0/1").text

    for source in atlas.sources[1:]:
        assert f'href="/sources/{source}"' in page
        assert re.search(rf'<img class="pixels" src="/cutouts/\d+/{source}/thumbnail.png', page)


def test_all_members_are_on_a_page(client: FlaskClient, atlas: Atlas) -> None:
    page = client.get(f"{MAP}/1/2/members").text

    shown = [int(number) for number in re.findall(r'href="/exposures/(\d+)"', page)]
    assert shown == [one for k, one in enumerate(atlas.exposures) if k != 2]


def test_a_cell_leads_to_its_neighbours_and_no_farther(client: FlaskClient) -> None:
    page = client.get(f"{MAP}/1/2").text

    moves = dict(re.findall(r'data-move="(\w+)" href="([^"]+)"', page))
    assert moves == {"left": f"{MAP}/1/1", "up": f"{MAP}/0/2"}


def test_the_next_cell_is_the_fullest_without_label(client: FlaskClient, atlas: Atlas) -> None:
    def following(reader: FlaskClient, path: str) -> str:
        found = re.search(r'<a rel="next" href="([^"]+)"', reader.get(path).text)
        return found[1] if found else ""

    ada = atlas.team.browser("ada")

    assert following(client, MAP) == f"{MAP}/0/0"
    assert following(client, f"{MAP}/0/0") == ""
    assert following(ada, f"{MAP}/1/2") == f"{MAP}/0/0"
    assert following(atlas.team.browser("root"), f"{MAP}/1/2") == f"{MAP}/0/0"
    assert following(atlas.team.browser("root"), f"{MAP}/0/0") == f"{MAP}/0/1"


def test_an_older_version_keeps_its_name_in_every_link(client: FlaskClient, atlas: Atlas) -> None:
    with Session(atlas.team.engine, expire_on_commit=False) as session, session.begin():
        version = make_model_version(session, annotator="source_map", name="old.one")
        make_prototypes(session, version, 2, 3)

    page = client.get("/maps/source_map?version=old.one").text

    assert 'href="/maps/source_map/1/2?version=old.one"' in page
    assert f'data-subject="cell:{version.id}:1:2"' in page
    assert "0 sources, 2 × 3 cells" in page


@pytest.mark.parametrize(
    ("path", "status", "words_of_it"),
    [
        ("/maps/shreds", 404, "There are: exposure_map and source_map"),
        (f"{MAP}/2/0", 404, "Its rows are 0 to 1, its columns 0 to 2"),
        (f"{MAP}?version=nobody.1", 400, "a version of exposure_map with prototypes"),
        (f"{MAP}?show=stars", 400, "one of pictures, density, labels, umatrix"),
        (f"{MAP}/0/0?draw=1.5", 400, "a whole number"),
    ],
)
def test_what_is_not_there_is_explained(
    client: FlaskClient, path: str, status: int, words_of_it: str
) -> None:
    answer = client.get(path)

    assert answer.status_code == status
    assert words_of_it in answer.text


def test_a_blind_expert_sees_own_labels_only(blind: FlaskClient) -> None:
    said = titles(blind.get(MAP).text)
    cell = words(blind.get(f"{MAP}/1/2").text)

    assert "Bad seeing (1 of 1 expert)" in said["1,2"]
    assert "Good" not in "".join(said.values())
    assert "ada" not in cell
    assert "from its cell" not in cell


def test_members_show_the_label_of_the_cell_apart_from_their_own(client: FlaskClient) -> None:
    page = words(client.get(f"{MAP}/1/2/members").text)

    assert re.search(r"000p 0 away Bad seeing from its cell: 1 Good 0\.22", page)
    assert re.search(r"001p 0\.125 away novel", page)


@pytest.mark.parametrize("members", ["", "/members"])
def test_a_labelled_source_bears_its_label_among_the_members(atlas: Atlas, members: str) -> None:
    team, source = atlas.team, f"source:{atlas.sources[0]}"
    team.say(
        "ada", request=f"of-a-source{len(members)}", subjects=[source], label_class_id=team.bad
    )
    try:
        page = team.visitor().get(f"/maps/source_map/0/0{members}").text
    finally:
        team.change("DELETE FROM label WHERE source_id IS NOT NULL")

    card = page[page.index(f'data-subject="{source}"') - 100 :].split("</a>")[0]
    assert "card labelled label-1" in card
    assert 'data-label="Bad seeing"' in card
    assert ">Bad seeing</span>" in card


def test_an_empty_database_says_how_to_get_maps(server_url: URL, template: URL) -> None:
    from web import create_app

    with new_database(server_url, template) as url:
        engine = create_engine(url)
        client = create_app(engine, Path("/nowhere")).test_client()
        assert "skygloss ingest exposures" in client.get("/maps").text
        assert client.get("/maps/source_map").status_code == 404
        assert "No exposure yet" in client.get("/exposures").text
        engine.dispose()
