"""Projections and saved selections: what the pages draw, count and save is what is there."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import URL
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from db import selections
from db.engine import create_engine
from db.projections import Window
from tests.builders import make_projection
from tests.conftest import new_database
from tests.db.test_lasso import is_inside
from tests.survey import N, Survey, fill
from tests.web.conftest import add_pixels
from web import create_app, density
from web.projection_views import MAX_ZOOM, View, around

SQUARE = [[-0.6, -0.6], [0.6, -0.6], [0.6, 0.6], [-0.6, 0.6]]


@dataclass(frozen=True)
class Chart:
    """An application of its own, for tests that save; its projection `disc` and its points."""

    client: FlaskClient
    survey: Survey
    places: NDArray[np.float32]  # (N, 2), of source k

    def post(self, what: str, json_wanted: bool = True, **fields: str) -> TestResponse:
        headers = {"Accept": "application/json"} if json_wanted else {}
        return self.client.post(f"/projections/disc/{what}", data=fields, headers=headers)

    def saved(self, name: str) -> set[str]:
        """Identifiers of the sources that the sources page shows of a selection."""
        page = self.client.get("/sources", query_string={"selection": name}).text
        return set(re.findall(r'aria-label="Source ([^,]+),', page))


@pytest.fixture(scope="module")
def chart(
    server_url: URL, template: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chart]:
    """Sources 0 to 59 at random in a disc of radius 1, but 0 to 9 all at (0.5, 0.5)."""
    random = np.random.default_rng(2)
    angle, radius = 2 * np.pi * random.random(N), np.sqrt(random.random(N))
    places = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    places[:10] = 0.5
    root = tmp_path_factory.mktemp("pixels")
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            survey = fill(session)
            ids = np.array([source.id for source in survey.sources])
            make_projection(session, ids, places, name="disc", method="umap", n_fitted=40)
        add_pixels(engine, root, survey)
        yield Chart(create_app(engine, root).test_client(), survey, places)
        engine.dispose()


def picture(chart: Chart, address: str) -> NDArray[np.uint8]:
    """The colours (n, n) of a picture, row 0 at the top."""
    response = chart.client.get(address)
    assert response.mimetype == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.data)))


def test_the_picture_has_a_colour_wherever_there_are_sources_and_nowhere_else(
    chart: Chart,
) -> None:
    drawn = picture(chart, "/projections/disc/0/0/0.png")

    low, high = chart.places.min(axis=0), chart.places.max(axis=0)
    half = (high - low).max() * 0.52
    edges = ((low + high) / 2)[:, None] + np.linspace(-half, half, 129)
    x, y = chart.places.T
    counts = np.histogram2d(y, x, (edges[1], edges[0]))[0][::-1]
    assert np.array_equal(drawn > 0, counts > 0)
    assert drawn[counts == 10] == 255
    assert set(drawn[counts == 1]) == {1}


def test_zooming_in_shows_a_part_of_the_whole(chart: Chart) -> None:
    whole = picture(chart, "/projections/disc/0/0/0.png")

    parts = [
        [picture(chart, f"/projections/disc/1/{column}/{row}.png") for column in (0, 8)]
        for row in (8, 0)
    ]

    closer = np.block(parts) > 0
    assert closer.shape == (256, 256)
    blocks = closer.reshape(128, 2, 128, 2).any(axis=(1, 3))
    assert np.array_equal(blocks, whole > 0)


def test_a_picture_may_be_kept_for_ever_if_its_projection_is_named(chart: Chart) -> None:
    page = chart.client.get("/projections/disc").text
    (address,) = re.findall(r'<image href="(/projections/disc/0/0/0.png\?v=\d+)"', page)

    assert "immutable" in chart.client.get(address).headers["Cache-Control"]
    assert chart.client.get(address + "9").headers["Cache-Control"] == "no-cache"


def test_the_page_states_how_the_projection_was_made(chart: Chart) -> None:
    page = chart.client.get("/projections/disc").text

    assert "UMAP" in page
    assert "40 of 60 sources" in page
    assert "not by distances here" in page
    assert "All 60 sources in view" in page


def test_every_example_links_to_its_source_and_the_parts_add_up(chart: Chart) -> None:
    page = chart.client.get("/projections/disc").text

    found = [int(source_id) for source_id in re.findall(r'data-step href="/sources/(\d+)"', page)]
    counts = [int(n) for n in re.findall(r"<title>(\d+) sources: look closer", page)]
    assert set(found) <= {source.id for source in chart.survey.sources}
    assert len(found) == len(set(found)) == len(counts)
    assert sum(counts) == N


def test_following_a_part_leads_to_a_view_around_it(chart: Chart) -> None:
    page = chart.client.get("/projections/disc").text
    fullest = re.search(r'<a href="([^"]+)"[^>]*><rect[^>]*><title>1\d sources', page)
    assert fullest is not None

    closer = chart.client.get(fullest[1].replace("&amp;", "&")).text

    assert 'data-zoom="1"' in closer
    (n,) = re.findall(r"All (\d+) sources in view", closer)
    assert 10 <= int(n) < N


def test_moving_about_stays_on_the_projection(chart: Chart) -> None:
    page = chart.client.get("/projections/disc?zoom=3&x=0.5&y=0.5").text
    for word in ("right", "right", "right", "right", "right", "up", "left", "down", "out", "in"):
        move = re.search(rf'data-move="{word}" href="([^"]+)"', page)
        if move:
            response = chart.client.get(move[1].replace("&amp;", "&"))
            assert response.status_code == 200
            page = response.text

    assert 'data-zoom="3"' in page


def test_a_source_is_marked_where_it_is(chart: Chart) -> None:
    source = chart.survey.sources[40]

    page = chart.client.get(f"/projections/disc?source={source.id}").text

    mark = re.search(r'<circle data-x="([\d.]+)" data-y="([\d.]+)"', page)
    assert mark is not None
    assert [float(k) for k in mark.groups()] == pytest.approx([4, 4], abs=0.51)


def test_a_source_that_is_not_on_it_is_said_to_be_missing(chart: Chart) -> None:
    assert chart.client.get("/projections/disc?source=999999").status_code == 404
    assert chart.client.get("/projections/disc?source=9223372036854775807").status_code == 404


def test_the_pointer_learns_which_source_is_there_and_how_many(chart: Chart) -> None:
    crowd = chart.client.get("/projections/disc/at.json?x=0.5&y=0.5").json
    nobody = chart.client.get("/projections/disc/at.json?x=-0.85&y=-0.85").json
    source = chart.survey.sources[33]
    x, y = chart.places[33]
    alone = chart.client.get(f"/projections/disc/at.json?x={x}&y={y}&zoom={MAX_ZOOM}").json

    assert crowd is not None
    assert crowd["n"] >= 10
    assert nobody == {"n": 0}
    assert alone is not None
    assert (alone["n"], alone["survey_id"]) == (1, source.survey_id)
    assert chart.client.get(alone["thumbnail"]).mimetype == "image/png"
    assert chart.client.get(alone["page"]).status_code == 200


@pytest.mark.parametrize(
    "arguments",
    ["zoom=11", "zoom=-1", "zoom=1.5", "zoom=x", "x=nan", "x=1e9", "y=-7", "source=x", "where=1"],
)
@pytest.mark.parametrize("page", ["", "/at.json"])
def test_what_cannot_be_understood_is_answered_by_400(
    chart: Chart, page: str, arguments: str
) -> None:
    response = chart.client.get(f"/projections/disc{page}?{arguments}")

    assert response.status_code == 400
    assert "expected" in response.text


@pytest.mark.parametrize(
    "address",
    [
        "/projections/nobody",
        "/projections/a%00b",
        "/projections/nobody/0/0/0.png",
        "/projections/nobody/at.json",
        "/projections/disc/11/0/0.png",
        "/projections/disc/0/1/0.png",
        "/projections/disc/1/0/9.png",
        "/projections/disc/99999999/0/0.png",
    ],
)
def test_what_is_not_there_is_answered_by_404(chart: Chart, address: str) -> None:
    assert chart.client.get(address).status_code == 404


def test_an_unknown_projection_names_those_that_there_are(chart: Chart) -> None:
    assert "There are: disc." in chart.client.get("/projections/nobody").text


def test_the_list_shows_each_projection(chart: Chart) -> None:
    page = chart.client.get("/projections").text

    assert 'href="/projections/disc"' in page
    assert "UMAP of 60 sources" in page


def test_without_a_projection_the_list_says_how_to_make_one(client: FlaskClient) -> None:
    assert "skygloss projection build" in client.get("/projections").text


def test_a_lasso_counts_and_saves_what_numpy_finds_inside(chart: Chart) -> None:
    corners = [[0.1, -1], [0.9, 0.7], [-0.8, 0.9], [-0.2, 0.1]]
    polygon = json.dumps(corners)
    within = is_inside(np.array(corners), chart.places)
    wanted = {source.survey_id for source, k in zip(chart.survey.sources, within, strict=True) if k}

    counted = chart.post("count", polygon=polygon)
    response = chart.post("selections", polygon=polygon, name="triangle", comment="by a test")

    assert counted.json == {"n": len(wanted)}
    assert response.status_code == 201
    assert response.json == {
        "name": "triangle",
        "n_sources": len(wanted),
        "sources": "/sources?selection=triangle",
    }
    assert chart.saved("triangle") == wanted


def test_without_a_script_the_form_saves_the_view_and_leads_to_its_sources(chart: Chart) -> None:
    page = chart.client.get("/projections/disc?zoom=2&x=0.5&y=0.5").text
    (n,) = re.findall(r"All (\d+) sources in view", page)
    (polygon,) = re.findall(r'name="polygon" value="([^"]+)"', page)

    response = chart.post("selections", json_wanted=False, polygon=polygon, name="in view")

    assert response.status_code == 303
    assert response.location == "/sources?selection=in+view"
    assert len(chart.saved("in view")) == int(n) >= 10


def test_a_saved_selection_filters_downloads_and_combines_with_other_filters(
    chart: Chart,
) -> None:
    chart.post("selections", polygon=json.dumps(SQUARE), name="square")
    wanted = chart.saved("square")

    rows = chart.client.get("/sources.csv?selection=square").text.splitlines()[1:]
    likely = chart.client.get("/sources.csv?selection=square&p_min=0.5").text.splitlines()[1:]

    assert {row.split(",")[3] for row in rows} == wanted
    assert 0 < len(likely) < len(rows)
    assert chart.client.get("/sources.vot?selection=square").status_code == 200


def test_an_unknown_selection_is_named_with_those_that_there_are(chart: Chart) -> None:
    chart.post("selections", polygon=json.dumps(SQUARE), name="known one")

    response = chart.client.get("/sources?selection=unknown")

    assert response.status_code == 400
    assert "known one" in response.text


def test_saving_under_a_name_twice_is_a_conflict(chart: Chart) -> None:
    first = chart.post("selections", polygon=json.dumps(SQUARE), name="twice")
    second = chart.post("selections", polygon=json.dumps(SQUARE[::-1]), name=" twice ")

    assert (first.status_code, second.status_code) == (201, 409)
    assert "Choose another name" in second.text


@pytest.mark.parametrize(
    ("limit", "status", "advice"),
    [("MAX_SELECTIONS", 409, "Delete one"), ("MAX_SOURCES", 422, "around fewer")],
)
def test_what_would_be_too_much_is_not_saved(
    chart: Chart, monkeypatch: pytest.MonkeyPatch, limit: str, status: int, advice: str
) -> None:
    monkeypatch.setattr(f"db.selections.{limit}", 0)

    response = chart.post("selections", polygon=json.dumps(SQUARE), name="too much")

    assert response.status_code == status
    assert advice in response.text
    assert "too much" not in chart.client.get("/selections").text


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ("", "as JSON"),
        ("[[0,0],[1,1]", "as JSON"),
        ("[" * 100_000, "as JSON"),
        ("7", "pairs"),
        ("{}", "pairs"),
        ("[[0,0],[1,1]]", "3 to 1,000 corners; arrived 2"),
        ("[[0,0],[1,1],[NaN,1]]", "finite"),
        ("[[0,0],[1,1],[1e400,1]]", "finite"),
        ("[[0,0],[1,1],[1e9,1]]", "far outside"),
        (f"[[0,0],[1,1],[1{'0' * 400},1]]", "pairs of numbers"),
        ("[[0,0],[1,1],[true,[]]]", "pairs"),
        (json.dumps([[0, 0]] * 10_000), "arrived 10,000"),
    ],
)
@pytest.mark.parametrize("what", ["count", "selections"])
def test_a_polygon_that_is_none_is_refused(
    chart: Chart, what: str, polygon: str, message: str
) -> None:
    response = chart.post(what, polygon=polygon, name="never")

    assert response.status_code == 400
    assert message in response.text
    assert "never" not in chart.client.get("/selections").text


@pytest.mark.parametrize("name", ["", "a/b", "x" * 81, "a\0b", "<script>"])
def test_a_name_that_would_be_trouble_is_refused(chart: Chart, name: str) -> None:
    response = chart.post("selections", polygon=json.dumps(SQUARE), name=name)

    assert response.status_code == 400


def test_a_lasso_around_nothing_saves_nothing(chart: Chart) -> None:
    corner = [[-0.85, -0.85], [-0.84, -0.85], [-0.85, -0.84]]

    response = chart.post("selections", polygon=json.dumps(corner), name="nothing here")

    assert response.status_code == 400
    assert "No source is in the selection" in response.text
    assert "nothing here" not in chart.client.get("/selections").text


def test_another_site_can_neither_save_nor_delete(chart: Chart) -> None:
    chart.post("selections", polygon=json.dumps(SQUARE), name="ours")
    foreign = {"Sec-Fetch-Site": "cross-site"}
    form = {"polygon": json.dumps(SQUARE), "name": "theirs"}

    saving = chart.client.post("/projections/disc/selections", data=form, headers=foreign)
    deleting = chart.client.post("/selections/ours/delete", headers=foreign)

    assert (saving.status_code, deleting.status_code) == (403, 403)
    page = chart.client.get("/selections").text
    assert "theirs" not in page
    assert "ours" in page


def test_the_list_of_selections_says_where_they_come_from_and_deletes(chart: Chart) -> None:
    chart.post("selections", polygon=json.dumps(SQUARE), name="old one", comment="a <b> comment")

    page = chart.client.get("/selections").text
    deleted = chart.client.post("/selections/old%20one/delete")

    assert 'href="/projections/disc"' in page
    assert "a &lt;b&gt; comment" in page
    assert deleted.status_code == 303
    assert "old one" not in chart.client.get("/selections").text
    assert chart.client.post("/selections/old%20one/delete").status_code == 404
    assert chart.client.post("/selections/old%00one/delete").status_code == 404


def test_a_selection_remembers_its_polygon_and_version(chart: Chart) -> None:
    chart.post("selections", polygon=json.dumps(SQUARE), name="remembers")
    engine = chart.client.application.extensions["skygloss engine"]

    with Session(engine) as session:
        saved = selections.find(session, "remembers")

    assert saved is not None
    assert saved.origin["polygon"] == SQUARE
    assert saved.origin["projection"] == "disc"
    assert saved.origin["model_version"].startswith("tiny.test")


@pytest.mark.parametrize("zoom", [0, 1, 5, MAX_ZOOM])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.37, 0.81), (1.0, 1.0)])
def test_a_view_is_on_the_projection_and_around_its_place(
    zoom: int, place: tuple[float, float]
) -> None:
    view = around(zoom, *place)

    assert view.window == Window(zoom + 3, view.column, view.row, 8)
    for middle, wanted in zip(view.centre, place, strict=True):
        nearest = min(max(wanted, 0.5**zoom / 2), 1 - 0.5**zoom / 2)
        assert middle == pytest.approx(nearest, abs=0.5 ** (zoom + 3) / 2)


def test_a_place_in_view_leads_back_to_the_square() -> None:
    view = View(1, 8, 0)

    assert view.centre == (0.75, 0.25)
    assert view.in_view(0.5, 0.5) == (0, 0)
    assert view.on_square(*view.in_view(0.61, 0.17)) == pytest.approx((0.61, 0.17))


def test_the_colours_grow_lighter_evenly() -> None:
    colours = density.palette().astype(float) / 255
    linear = np.where(colours > 0.04045, ((colours + 0.055) / 1.055) ** 2.4, colours / 12.92)
    lightness = np.cbrt(linear[1:] @ [0.2126, 0.7152, 0.0722])  # of CIE L*, up to a factor

    assert np.diff(lightness).min() > -0.004
    assert np.diff(lightness[::32]).min() > 0.5 * np.diff(lightness[::32]).max()


def test_counts_are_drawn_on_a_logarithmic_scale() -> None:
    counts = np.array([[0, 1], [10, 100]])

    assert density.levels(counts).tolist() == [[0, 1], [128, 255]]
    assert density.levels(np.zeros((2, 2), int)).max() == 0
