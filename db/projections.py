"""Projections: where every source is on a plane, how many are in a square of it, who is in a lasso.

Written to stay fast at a million points: squares are ranges of Morton codes (`db.morton`), coarse
squares were counted beforehand as tiles. Layouts come in by `db.layouts`; how one is computed is
for `workers.projections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import ColumnElement, CompoundSelect, Row, Select, Subquery, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TableValuedAlias

from db import lasso, morton
from db.tables import ModelVersion, Projection, ProjectionPoint, ProjectionTile

TILE_LEVELS = 11  # the finest level that is counted beforehand: 2,048 x 2,048 tiles
HALF_OF_CELLS = 1 << 2 * morton.FINEST - 1


class Frame(NamedTuple):
    """The square that a projection fills, in its own coordinates."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def unit(self, places: ArrayLike) -> NDArray[np.float64]:
        """Return places (n, 2) as shares of the square: (0, 0) is its lower left corner."""
        low, high = np.array([[self.x_min, self.y_min], [self.x_max, self.y_max]])
        return (np.asarray(places, dtype=float) - low) / (high - low)


@dataclass(frozen=True)
class Window:
    """A square of n x n tiles of a level; (column, row) is its lower left tile."""

    level: int
    column: int
    row: int
    n: int = 1

    def codes(self) -> NDArray[np.int64]:
        """Return the tiles of the window."""
        columns, rows = np.meshgrid(*(np.arange(k, k + self.n) for k in (self.column, self.row)))
        return morton.encode(columns, rows)

    def ranges(self, finest: int = morton.FINEST) -> list[tuple[int, int]]:
        """Return the cells of level `finest` in the window."""
        return morton.ranges(self.codes(), self.level, finest)


class POLYGON(sa.types.UserDefinedType[Any]):
    """PostgreSQL's type polygon."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "polygon"


def listed(session: Session) -> Sequence[Row]:
    """Return every projection with its model version, the newest first."""
    return session.execute(_with_version().order_by(Projection.id.desc())).all()


def find(session: Session, name: str) -> Row | None:
    """Return a projection that is ready, with its model version."""
    return session.execute(_with_version().where(Projection.name == name)).one_or_none()


def frame(projection: Projection) -> Frame:
    """Return the square that a ready projection fills."""
    edges = (projection.x_min, projection.x_max, projection.y_min, projection.y_max)
    return Frame(*(edge for edge in edges if edge is not None))


def density(session: Session, projection_id: int, window: Window, depth: int) -> NDArray[np.int64]:
    """Count the sources in each small square of a window.

    Parameters
    ----------
    depth : int
        Each tile of the window is divided into 2^depth x 2^depth squares.

    Returns
    -------
    ndarray of int64, shape (n * 2^depth, n * 2^depth)
        Indexed [y, x]; row 0 is at the bottom.
    """
    cells, n = _counted(session, projection_id, window, window.level + depth)
    columns, rows = morton.decode(cells)
    picture = np.zeros((window.n << depth, window.n << depth), np.int64)
    np.add.at(picture, (rows - (window.row << depth), columns - (window.column << depth)), n)
    return picture


def examples(session: Session, projection_id: int, window: Window) -> Sequence[Row]:
    """Return one source for each tile of a window that has any: source_id, x, y, n in the tile."""
    if window.level <= TILE_LEVELS:
        tiles = _tiles(projection_id, window.codes(), window.level)
    else:
        tiles = _tiles_of_points(projection_id, window)
    return session.execute(
        select(tiles.c.source_id, ProjectionPoint.x, ProjectionPoint.y, tiles.c.n)
        .join(ProjectionPoint, ProjectionPoint.source_id == tiles.c.source_id)
        .where(ProjectionPoint.projection_id == projection_id)
        .order_by(tiles.c.cell)
    ).all()


def place(session: Session, projection_id: int, source_id: int) -> tuple[float, float] | None:
    """Return where a source is in a projection, None if it is not there."""
    found = session.get(ProjectionPoint, (projection_id, source_id))
    return (found.x, found.y) if found else None


def inside(projection: Projection, corners: ArrayLike) -> CompoundSelect[Any]:
    """Return the statement that selects the source_id of the points in a polygon.

    Inside is by the non-zero rule, the outline belongs to it.

    Parameters
    ----------
    corners : array-like, shape (v, 2)
        In the projection's coordinates, 3 to `lasso.MAX_CORNERS`; the last is joined to the first.

    Raises
    ------
    lasso.BadPolygon
    """
    unit = frame(projection).unit(lasso.polygon(corners))
    covered = lasso.cover(unit)
    whole = _points(projection.id, covered.inside, covered.level)
    partly = _points(projection.id, covered.outline, covered.level)
    return sa.union_all(
        select(whole.c.source_id),
        select(partly.c.source_id).where(_encloses(projection, unit, partly)),
    )


def count_inside(session: Session, projection: Projection, corners: ArrayLike) -> int:
    """Count the points in a polygon: as `inside`, but by the tiles where that is possible."""
    unit = frame(projection).unit(lasso.polygon(corners))
    covered = lasso.cover(unit)
    partly = _points(projection.id, covered.outline, covered.level)
    within = select(func.count()).where(_encloses(projection, unit, partly))
    if covered.level <= TILE_LEVELS:
        tiles = _tiles(projection.id, covered.inside, covered.level)
        whole = select(func.coalesce(func.sum(tiles.c.n), 0))
    else:
        points = _points(projection.id, covered.inside, covered.level)
        whole = select(func.count()).select_from(points)
    return int(session.scalar(within) or 0) + int(session.scalar(whole) or 0)


def _with_version() -> Select:
    return (
        select(Projection, ModelVersion)
        .join(ModelVersion, ModelVersion.id == Projection.model_version_id)
        .where(Projection.state == "ready")
    )


def _points(projection_id: int, codes: NDArray[np.int64], level: int) -> Subquery:
    """Select the points in some cells of a level."""
    spans = _spans(codes, level, morton.FINEST)
    point = ProjectionPoint
    found = (
        select(point.source_id, point.x, point.y, point.cell)
        .where(
            point.projection_id == projection_id,
            point.cell.between(spans.c.first, spans.c.last),
        )
        .offset(0)
        .lateral()
    )
    return select(found).select_from(spans.join(found, sa.true())).subquery()


def _tiles(
    projection_id: int, codes: NDArray[np.int64], level: int, finer: int | None = None
) -> Subquery:
    """Select cell, n and source_id of the tiles of a level, or a finer one, within some of it."""
    tile, wanted = ProjectionTile, level if finer is None else finer
    spans = _spans(codes, level, wanted)
    found = (
        select(tile.cell, tile.n, tile.source_id)
        .where(
            tile.projection_id == projection_id,
            tile.level == wanted,
            tile.cell.between(spans.c.first, spans.c.last),
        )
        .offset(0)
        .lateral()
    )
    return select(found).select_from(spans.join(found, sa.true())).subquery()


def _spans(codes: NDArray[np.int64], level: int, finest: int) -> TableValuedAlias:
    """Return cells as a table of ranges, `first` and `last`.

    What is joined to it by LATERAL with OFFSET 0 walks its index once per range, whatever the
    planner expects of the ranges.
    """
    ranges = np.array(morton.ranges(codes, level, finest), np.int64).reshape(-1, 2)
    firsts, lasts = (sa.cast(ends.tolist(), sa.ARRAY(sa.BigInteger)) for ends in ranges.T)
    names = (sa.column(name, sa.BigInteger) for name in ("first", "last"))
    return func.unnest(firsts, lasts).table_valued(*names).render_derived()


def _tiles_of_points(projection_id: int, window: Window) -> Subquery:
    """Select cell, n and source_id of the tiles of a level that was not counted beforehand."""
    points = _points(projection_id, window.codes(), window.level)
    cell = points.c.cell.op(">>")(2 * (morton.FINEST - window.level)).label("cell")
    n, source_id = func.count().label("n"), func.min(points.c.source_id).label("source_id")
    return select(cell, n, source_id).group_by(sa.text("1")).subquery()


def _counted(
    session: Session, projection_id: int, window: Window, level: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the cells of a level in a window and how many sources each has, perhaps in parts.

    They come as one string of bytes, because a hundred thousand rows would take too long.
    """
    if level <= TILE_LEVELS:
        tiles = _tiles(projection_id, window.codes(), window.level, level)
        raw = session.scalar(
            select(_joined(func.int8send(tiles.c.cell).op("||")(func.int8send(tiles.c.n))))
        )
        cells, n = np.frombuffer(raw or b"", ">i8").reshape(-1, 2).T.astype(np.int64)
        return cells, n
    points = _points(projection_id, window.codes(), window.level)
    signed = sa.cast(points.c.cell - HALF_OF_CELLS, sa.Integer)
    raw = session.scalar(select(_joined(func.int4send(signed))))
    cells = np.frombuffer(raw or b"", ">i4").astype(np.int64) + HALF_OF_CELLS
    return cells >> 2 * (morton.FINEST - level), np.ones(len(cells), np.int64)


def _joined(packed: ColumnElement[Any]) -> ColumnElement[bytes]:
    return func.string_agg(packed, sa.literal(b"", sa.LargeBinary))


def _encloses(
    projection: Projection, unit: NDArray[np.float64], points: Subquery
) -> ColumnElement[bool]:
    """Condition on points: within a polygon that is given on the unit square.

    There, because PostgreSQL's geometry takes what is within 1e-6 of the outline as on it.
    """
    x_min, x_max, y_min, y_max = frame(projection)
    outline = ",".join(f"({x!r},{y!r})" for x, y in unit.tolist())
    point = func.point(
        (sa.cast(points.c.x, sa.Double) - x_min) / (x_max - x_min),
        (sa.cast(points.c.y, sa.Double) - y_min) / (y_max - y_min),
    )
    return sa.cast(outline, POLYGON).op("@>", is_comparison=True)(point)
