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
from sqlalchemy import ColumnElement, CompoundSelect, Row, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

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
        tiles = _tiles(projection_id, window.codes(), window.level).subquery()
    else:
        tiles = _tiles_of_points(projection_id, window).subquery()
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
    return sa.union_all(
        _points(projection.id, covered.inside, covered.level),
        _points(projection.id, covered.outline, covered.level).where(_encloses(projection, unit)),
    )


def count_inside(session: Session, projection: Projection, corners: ArrayLike) -> int:
    """Count the points in a polygon: as `inside`, but by the tiles where that is possible."""
    unit = frame(projection).unit(lasso.polygon(corners))
    covered = lasso.cover(unit)
    outline = _points(projection.id, covered.outline, covered.level)
    within = outline.where(_encloses(projection, unit)).with_only_columns(func.count())
    if covered.level <= TILE_LEVELS:
        tiles = _tiles(projection.id, covered.inside, covered.level)
        whole = tiles.with_only_columns(func.coalesce(func.sum(ProjectionTile.n), 0))
    else:
        points = _points(projection.id, covered.inside, covered.level)
        whole = points.with_only_columns(func.count())
    return int(session.scalar(within) or 0) + int(session.scalar(whole) or 0)


def _with_version() -> Select:
    return (
        select(Projection, ModelVersion)
        .join(ModelVersion, ModelVersion.id == Projection.model_version_id)
        .where(Projection.state == "ready")
    )


def _points(projection_id: int, codes: NDArray[np.int64], level: int) -> Select:
    """Select the sources in some cells of a level."""
    return select(ProjectionPoint.source_id).where(
        ProjectionPoint.projection_id == projection_id,
        _within(ProjectionPoint.cell, morton.ranges(codes, level)),
    )


def _tiles(
    projection_id: int, codes: NDArray[np.int64], level: int, finer: int | None = None
) -> Select:
    """Select cell, n and source_id of the tiles of a level, or a finer one, within some of it."""
    tile, wanted = ProjectionTile, level if finer is None else finer
    return select(tile.cell, tile.n, tile.source_id).where(
        tile.projection_id == projection_id,
        tile.level == wanted,
        _within(tile.cell, morton.ranges(codes, level, wanted)),
    )


def _tiles_of_points(projection_id: int, window: Window) -> Select:
    """Select cell, n and source_id of the tiles of a level that was not counted beforehand."""
    shift = 2 * (morton.FINEST - window.level)
    tiles = _points(projection_id, window.codes(), window.level).with_only_columns(
        ProjectionPoint.cell.op(">>")(shift).label("cell"),
        func.count().label("n"),
        func.min(ProjectionPoint.source_id).label("source_id"),
    )
    return tiles.group_by(sa.text("1"))


def _counted(
    session: Session, projection_id: int, window: Window, level: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the cells of a level in a window and how many sources each has, perhaps in parts.

    They come as one string of bytes, because a hundred thousand rows would take too long.
    """
    if level <= TILE_LEVELS:
        tiles = _tiles(projection_id, window.codes(), window.level, level)
        packed = func.int8send(ProjectionTile.cell).op("||")(func.int8send(ProjectionTile.n))
        raw = session.scalar(tiles.with_only_columns(_joined(packed)))
        cells, n = np.frombuffer(raw or b"", ">i8").reshape(-1, 2).T.astype(np.int64)
        return cells, n
    points = _points(projection_id, window.codes(), window.level)
    signed = func.int4send(sa.cast(ProjectionPoint.cell - HALF_OF_CELLS, sa.Integer))
    raw = session.scalar(points.with_only_columns(_joined(signed)))
    cells = np.frombuffer(raw or b"", ">i4").astype(np.int64) + HALF_OF_CELLS
    return cells >> 2 * (morton.FINEST - level), np.ones(len(cells), np.int64)


def _joined(packed: ColumnElement[Any]) -> ColumnElement[bytes]:
    return func.string_agg(packed, sa.literal(b"", sa.LargeBinary))


def _within(
    column: InstrumentedAttribute[int], ranges: Sequence[tuple[int, int]]
) -> ColumnElement[bool]:
    return sa.or_(sa.false(), *(column.between(first, last) for first, last in ranges))


def _encloses(projection: Projection, unit: NDArray[np.float64]) -> ColumnElement[bool]:
    """Condition on points: within a polygon that is given on the unit square.

    There, because PostgreSQL's geometry takes what is within 1e-6 of the outline as on it.
    """
    x_min, x_max, y_min, y_max = frame(projection)
    outline = ",".join(f"({x!r},{y!r})" for x, y in unit.tolist())
    point = func.point(
        (sa.cast(ProjectionPoint.x, sa.Double) - x_min) / (x_max - x_min),
        (sa.cast(ProjectionPoint.y, sa.Double) - y_min) / (y_max - y_min),
    )
    return sa.cast(outline, POLYGON).op("@>", is_comparison=True)(point)
