"""Layouts in: which sources to lay out, the points of a projection by COPY, its tiles in SQL.

How a layout is computed is for `workers.projections`; what is read of it, for `db.projections`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import morton
from db.binary_copy import HEADER, TRAILER, pack_fields
from db.projections import TILE_LEVELS, Frame
from db.tables import Projection

VECTORS = """
    FROM representation
    WHERE model_version_id = :version_id AND reduced IS NOT NULL
    AND source_id NOT IN (SELECT source_id FROM upload)
"""
COUNT = sa.text("SELECT count(*)" + VECTORS)
SHUFFLED = "ORDER BY hashint8extended(source_id, :seed), source_id LIMIT :n"
SAMPLE = sa.text("SELECT source_id" + VECTORS + SHUFFLED)
MARGIN = 0.02  # of the layout's extent, left free on each side
CHUNK = 100_000  # points per COPY
ARRIVALS = """
    CREATE TEMPORARY TABLE arriving_point (source_id bigint, x real, y real, cell bigint)
    ON COMMIT DROP
"""
COPY = "COPY arriving_point FROM STDIN (FORMAT binary)"
KEEP = sa.text("""
    INSERT INTO projection_point (projection_id, source_id, x, y, cell)
    SELECT :id, source_id, arriving_point.x, arriving_point.y, cell
    FROM arriving_point JOIN source ON source.id = source_id
    ORDER BY cell FOR KEY SHARE OF source
""")
NAME_LOCK = "(24, hashtext(:name))"  # advisory, of builds
TAKE, GIVE_BACK = (
    sa.text(f"SELECT {function}{NAME_LOCK}")
    for function in ("pg_try_advisory_lock", "pg_advisory_unlock")
)
FINEST_TILES = """
    INSERT INTO projection_tile (projection_id, level, cell, n, source_id)
    SELECT projection_id, :level, cell >> :shift, count(*), min(source_id)
    FROM projection_point WHERE projection_id = :id
    GROUP BY projection_id, cell >> :shift
"""
COARSER_TILES = """
    INSERT INTO projection_tile (projection_id, level, cell, n, source_id)
    SELECT projection_id, :level, cell >> 2, sum(n),
           (array_agg(source_id ORDER BY n DESC, cell))[1]
    FROM projection_tile WHERE projection_id = :id AND level = :level + 1
    GROUP BY projection_id, cell >> 2
"""


def sample(session: Session, version_id: int, n: int, seed: int) -> NDArray[np.int64]:
    """Choose sources with a reduced vector at random: the same ones for the same seed."""
    values = {"version_id": version_id, "n": n, "seed": seed}
    return np.array(session.scalars(SAMPLE, values).all(), np.int64)


def count_vectors(session: Session, version_id: int) -> int:
    """Count the sources with a reduced vector; uploaded images are none."""
    return int(session.scalar(COUNT, {"version_id": version_id}) or 0)


class Busy(RuntimeError):  # noqa: N818 (it reads as what happened)
    """A projection of this name is being built."""


class NoPoints(ValueError):  # noqa: N818 (it reads as what happened)
    """There is nothing that a layout could show."""


@contextmanager
def reserved(engine: Engine, name: str) -> Iterator[None]:
    """Keep other builds of a projection of this name out; it ends with the connection, too.

    Raises
    ------
    Busy
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(TAKE, {"name": name}):
            raise Busy(
                f"projection {name!r} is being built by somebody else: wait until it is there, or "
                "choose another name"
            )
        try:
            yield
        finally:
            connection.execute(GIVE_BACK, {"name": name})


def save(
    session: Session,
    projection: Projection,
    source_ids: NDArray[np.int64],
    places: NDArray[np.float32],
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Save a layout in the place of an earlier one of the same name.

    Until the caller commits, everybody else sees the earlier one. Sources that were deleted since
    they were placed are left out.

    Parameters
    ----------
    projection : Projection
        New, with name, version, method, seed and options; the rest is filled in.
    source_ids : ndarray, shape (n,)
    places : ndarray of float32, shape (n, 2)
        x and y of each source.
    progress : callable, optional
        Called with the number of further points written.

    Raises
    ------
    NoPoints
        There is no point of a source that is there, or one is not finite.
    """
    if not len(places) or not np.isfinite(places).all():
        raise NoPoints(f"a layout needs points that are finite; arrived {len(places)} points")
    frame = surround(places)
    projection.x_min, projection.x_max, projection.y_min, projection.y_max = frame
    projection.n_points = 0
    delete(session, projection.name)
    session.add(projection)
    session.flush()
    _copy_points(session, frame, source_ids, places, progress)
    projection.n_points = _keep_points(session, projection.id)
    if not projection.n_points:
        raise NoPoints(f"all {len(places)} sources of the layout have been deleted meanwhile")
    _count_tiles(session, projection.id)
    projection.state = "ready"
    session.flush()


def delete(session: Session, name: str) -> bool:
    """Delete a projection; False if there is none of this name."""
    gone = session.execute(sa.delete(Projection).where(Projection.name == name))
    return bool(gone.rowcount)  # type: ignore[attr-defined]


def surround(places: NDArray[np.float32]) -> Frame:
    """Return the square around all places, with a margin; rounded as the database does."""
    low, high = places.min(axis=0).astype(float), places.max(axis=0).astype(float)
    half = (high - low).max() * (0.5 + MARGIN) or 0.5
    x, y = (low + high) / 2
    edges = np.array([x - half, x + half, y - half, y + half], np.float32)
    return Frame(*(float(str(edge)) for edge in edges))


def _copy_points(
    session: Session,
    frame: Frame,
    source_ids: NDArray[np.int64],
    places: NDArray[np.float32],
    progress: Callable[[int], None],
) -> None:
    """Bring the points to the database, to a table of this transaction."""
    session.execute(sa.text(ARRIVALS))
    grid = 1 << morton.FINEST
    cells = morton.encode(*(frame.unit(places) * grid).astype(int).clip(0, grid - 1).T)
    cursor = session.connection().connection.cursor()
    for begin in range(0, len(cells), CHUNK):
        chosen = slice(begin, begin + CHUNK)
        x, y = places[chosen].T
        values = (source_ids[chosen], x, y, cells[chosen])
        packed, _ = pack_fields([np.ma.MaskedArray(v) for v in values], len(values))
        rows = io.BytesIO(HEADER + packed.tobytes() + TRAILER)
        cursor.copy_expert(COPY, rows)
        progress(len(x))


def _keep_points(session: Session, projection_id: int) -> int:
    """Keep the points whose sources are still there, near ones near on the disk; their number."""
    kept = session.execute(KEEP, {"id": projection_id})
    session.execute(sa.text("DROP TABLE arriving_point"))
    return int(kept.rowcount)  # type: ignore[attr-defined]


def _count_tiles(session: Session, projection_id: int) -> None:
    """Count the tiles of every level: the finest from the points, each other from the finer one.

    The example of a tile is that of its fullest part.
    """
    shift = 2 * (morton.FINEST - TILE_LEVELS)
    finest = {"id": projection_id, "level": TILE_LEVELS, "shift": shift}
    session.execute(sa.text(FINEST_TILES), finest)
    for level in reversed(range(TILE_LEVELS)):
        session.execute(sa.text(COARSER_TILES), {"id": projection_id, "level": level})
