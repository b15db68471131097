"""Layouts in, and densities, examples and lassos out, compared with NumPy on the same points."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import layouts, projections, selections
from db.lasso import BadPolygon
from db.projections import TILE_LEVELS, Window
from db.queries import explain
from db.tables import Projection, ProjectionPoint, ProjectionTile, Source, Upload
from tests.builders import (
    make_catalog,
    make_model_version,
    make_projection,
)
from tests.db import search_rows
from tests.db.test_lasso import is_inside

N = 500
WHOLE = Window(level=0, column=0, row=0)


@dataclass(frozen=True)
class Drawn:
    """A projection and where its points are: as they are, and on the unit square."""

    projection: Projection
    ids: NDArray[np.int64]
    places: NDArray[np.float32]
    unit: NDArray[np.float64]


@pytest.fixture
def drawn(session: Session) -> Drawn:
    """Two clumps, one of them dense, in coordinates that are far from 0 to 1."""
    random = np.random.default_rng(3)
    spread = np.where(np.arange(N) < N // 2, 0.001, 5.0)[:, None]
    places = (random.normal(size=(N, 2)) * spread + [30, -7]).astype(np.float32)
    ids = search_rows.add_sources(session, N)
    projection = make_projection(session, ids, places)
    unit = projections.frame(projection).unit(places)
    return Drawn(projection, ids, places, unit)


def test_the_frame_is_a_square_around_all_points(drawn: Drawn) -> None:
    frame = projections.frame(drawn.projection)

    assert frame.x_max - frame.x_min == pytest.approx(frame.y_max - frame.y_min, rel=1e-6)
    assert drawn.unit.min() > 0
    assert drawn.unit.max() < 1
    assert np.ptp(drawn.unit, axis=0).max() == pytest.approx(1 / 1.04, rel=1e-3)


def test_points_that_all_coincide_have_a_frame() -> None:
    frame = layouts.surround(np.full((3, 2), 7, np.float32))

    assert frame == (6.5, 7.5, 6.5, 7.5)


@pytest.mark.parametrize("depth", [0, 5, 8, TILE_LEVELS, TILE_LEVELS + 1])
def test_the_density_is_the_histogram_of_the_points(
    session: Session, drawn: Drawn, depth: int
) -> None:
    found = projections.density(session, drawn.projection.id, WHOLE, depth)

    x, y = drawn.unit.T
    bins = np.linspace(0, 1, 2**depth + 1)
    assert np.array_equal(found, np.histogram2d(y, x, (bins, bins))[0])


@pytest.mark.parametrize("level", [4, 9, 12])
def test_the_density_of_a_window_is_cut_from_the_whole(
    session: Session, drawn: Drawn, level: int
) -> None:
    column, row = (drawn.unit[0] * 2**level).astype(int) - 2
    window = Window(level, column, row, n=4)

    found = projections.density(session, drawn.projection.id, window, 4)

    x, y = (drawn.unit * 2**level - [column, row]).T
    bins = np.linspace(0, 4, 4 * 2**4 + 1)
    assert found.sum() > 0
    assert np.array_equal(found, np.histogram2d(y, x, (bins, bins))[0])


@pytest.mark.parametrize("level", [3, TILE_LEVELS, TILE_LEVELS + 2])
def test_each_tile_with_sources_has_one_of_them_as_its_example(
    session: Session, drawn: Drawn, level: int
) -> None:
    tiles = np.floor(drawn.unit * 2**level).astype(int)
    column, row = tiles[0] - 3
    window = Window(level, column, row, n=8)

    found = projections.examples(session, drawn.projection.id, window)

    within = ((tiles >= (column, row)) & (tiles < (column + 8, row + 8))).all(axis=1)
    counts = {key: int((tiles == key).all(axis=1).sum()) for key in map(tuple, tiles[within])}
    at = {source_id: k for k, source_id in enumerate(drawn.ids.tolist())}
    shown = {tuple(tiles[at[row.source_id]]): row.n for row in found}
    assert shown == counts
    places = np.array([(row.x, row.y) for row in found], np.float32)
    assert np.array_equal(places, drawn.places[[at[row.source_id] for row in found]])


def test_the_example_of_a_tile_is_from_its_fullest_part(session: Session, drawn: Drawn) -> None:
    (example,) = projections.examples(session, drawn.projection.id, WHOLE)

    assert example.n == N
    assert example.source_id in drawn.ids[: N // 2]


@pytest.mark.parametrize(
    "corners",
    [
        [[0.1, 0.1], [0.9, 0.2], [0.6, 0.9]],
        [[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]],
        [[-0.5, -0.5], [1.5, -0.5], [1.5, 1.5], [-0.5, 1.5]],
        [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]] * 2,
        *(np.random.default_rng(k).random((40, 2)).tolist() for k in range(3)),
    ],
)
def test_a_lasso_catches_what_numpy_finds_inside(
    session: Session, drawn: Drawn, corners: list[list[float]]
) -> None:
    frame = projections.frame(drawn.projection)
    sides = [frame.x_max - frame.x_min, frame.y_max - frame.y_min]
    polygon = np.array(corners) * sides + [frame.x_min, frame.y_min]

    found = session.scalars(projections.inside(drawn.projection, polygon)).all()

    truth = drawn.ids[is_inside(np.array(corners), drawn.unit)]
    assert sorted(found) == sorted(truth)
    assert projections.count_inside(session, drawn.projection, polygon) == len(truth)


def test_a_lasso_may_be_as_small_as_a_point(session: Session, drawn: Drawn) -> None:
    place = drawn.places[-1].tolist()

    found = session.scalars(projections.inside(drawn.projection, [place] * 3)).all()

    assert found == [drawn.ids[-1]]
    assert projections.count_inside(session, drawn.projection, [place] * 3) == 1


def test_a_polygon_that_is_none_is_refused(session: Session, drawn: Drawn) -> None:
    with pytest.raises(BadPolygon, match="3 to 1,000"):
        projections.count_inside(session, drawn.projection, [[0, 0]])


def test_a_source_is_found_where_it_is_and_others_nowhere(session: Session, drawn: Drawn) -> None:
    place = projections.place(session, drawn.projection.id, int(drawn.ids[5]))

    assert place == tuple(drawn.places[5])
    assert projections.place(session, drawn.projection.id, -1) is None


def test_a_new_layout_takes_the_place_of_the_old_one(session: Session, drawn: Drawn) -> None:
    again = make_projection(session, drawn.ids[:3], drawn.places[:3], name=drawn.projection.name)

    (row,) = projections.listed(session)
    assert row.Projection.id == again.id
    assert again.n_points == 3
    for table in (ProjectionPoint, ProjectionTile):
        assert set(session.scalars(select(table.projection_id))) == {again.id}


def test_a_layout_that_cannot_be_drawn_leaves_the_old_one(session: Session, drawn: Drawn) -> None:
    broken = drawn.places.copy()
    broken[7, 1] = np.nan

    with pytest.raises(ValueError, match="finite"):
        make_projection(session, drawn.ids, broken, name=drawn.projection.name)

    assert projections.find(session, drawn.projection.name) is not None
    assert session.scalar(select(func.count()).select_from(ProjectionPoint)) == N


def test_deleting_says_whether_there_was_one(session: Session, drawn: Drawn) -> None:
    assert layouts.delete(session, drawn.projection.name)
    assert not layouts.delete(session, drawn.projection.name)
    assert session.scalar(select(func.count()).select_from(ProjectionTile)) == 0


def test_a_projection_that_is_not_ready_is_not_shown(session: Session) -> None:
    version = make_model_version(session, annotator="representations")
    session.add(Projection(name="half", model_version_id=version.id, method="pca", seed=0))
    session.flush()

    assert projections.find(session, "half") is None
    assert projections.listed(session) == []


def test_a_sample_is_the_same_for_the_same_seed_and_without_uploads(session: Session) -> None:
    rows = search_rows.fill(session, 30)
    version_id = rows.version.id
    uploaded = Source(catalog_id=make_catalog(session).id, survey_id="upload")
    session.add(uploaded)
    session.flush()
    session.add(Upload(token="t", source_id=uploaded.id, file_name="", sha256="", media_type=""))
    search_rows.represent(session, rows.run, np.array([uploaded.id]), rows.vectors[:1])

    once, again, other = (layouts.sample(session, version_id, 10, seed) for seed in (1, 1, 2))

    assert once.tolist() == again.tolist()
    assert set(once) != set(other)
    everything = layouts.sample(session, version_id, 99, 1)
    assert sorted(everything) == rows.source_ids.tolist()
    assert layouts.count_vectors(session, version_id) == 30


def test_a_deep_window_walks_the_index(session: Session, drawn: Drawn) -> None:
    session.execute(select(func.set_config("enable_seqscan", "off", True)))
    ranges = Window(14, 5, 5, 8).ranges()
    wanted = select(ProjectionPoint.cell).where(
        ProjectionPoint.projection_id == drawn.projection.id,
        ProjectionPoint.cell.between(*ranges[0]),
    )

    plan = explain(session, wanted)

    assert plan["Index Name"] == "ix_projection_point_projection_id_cell"


def test_the_queries_of_the_documentation_answer(session: Session, drawn: Drawn) -> None:
    page = (Path(__file__).parents[2] / "docs/projection.md").read_text()
    in_selection, in_projection = re.findall(r"```sql\n(.*?)```", page, re.S)
    drawn.projection.name = "umap"
    wanted = select(Source.id).where(Source.id < int(drawn.ids[3]))
    selections.save(session, "ring galaxies", wanted, {})

    caught = session.connection().exec_driver_sql(in_selection).all()
    points = session.connection().exec_driver_sql(in_projection).mappings().all()

    assert len(caught) == 3
    assert [point["x"] for point in points] == pytest.approx(sorted(drawn.places[:, 0])[:20])
