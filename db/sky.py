"""Positions on the sky: the HEALPix key, cones, nearest sources and cross-matches.

Every search is the same two steps: ranges of the key that cover the cone (the index answers
them), then the exact angle. Angles use the haversine with PostgreSQL's degree functions, which is
accurate from zero to 90 degrees; beyond, the angle to the antipode is tested instead. Host
galaxies are the business of `db.hosts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude
from cdshealpix.nested import cone_search, lonlat_to_healpix, neighbours
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Double, and_, between, func, literal, or_, select, text, true
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from db.tables import Source

ORDER = 29  # of the stored key; its cells are 0.4 milliarcseconds wide
N_CELLS = 12 * 4**ORDER
CELL_SIZE = 58.6  # degrees across a cell of order 0; halves with each order
FINEST_ORDER = 27  # the finest that cone_search offers
PADDING = 1e-6  # degrees (4 mas) added to ranges, so that rounding never loses a source
FEW_RANGES = 2 / 60  # degrees: below, a cone is covered more coarsely
NEIGHBOUR_RADIUS = 10 / 3600  # degrees: up to here nine cells around a position are tight enough
NO_ANGLE = 1e-80  # degrees taken for nothing: PostgreSQL refuses to square much smaller numbers
NO_HAVERSINE = 1e-150  # more than the haversine of two such angles
N_POSITIONS = 5_000  # positions matched by one statement


@dataclass(frozen=True)
class Matches:
    """Pairs of a position and a source.

    Attributes
    ----------
    position : ndarray of int64, shape (n,)
        Index of the position asked for (`cross_match`) or id of the first source
        (`match_catalogs`).
    source_id : ndarray of int64, shape (n,)
    separation : ndarray of float64, shape (n,)
        Angle between the two [deg].
    """

    position: NDArray[np.int64]
    source_id: NDArray[np.int64]
    separation: NDArray[np.float64]


def healpix(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Key of each position: nested HEALPix cell of order 29, as HATS writes `_healpix_29`.

    Parameters
    ----------
    ra, dec : array_like of float, shape (n,)
        ICRS [deg], finite; declination from -90 to 90.
    """
    lon = Longitude(np.atleast_1d(np.asarray(ra, dtype=float)), u.deg, copy=False)
    lat = Latitude(np.atleast_1d(np.asarray(dec, dtype=float)), u.deg, copy=False)
    return lonlat_to_healpix(lon, lat, ORDER).astype(np.int64)


def cone_ranges(ra: float, dec: float, radius: float) -> NDArray[np.int64]:
    """Ranges of the key that cover a cone, first and last cell included.

    Parameters
    ----------
    ra, dec, radius : float
        [deg]

    Returns
    -------
    ndarray of int64, shape (n, 2)
        Ascending, never touching: two to five ranges of three to five times the area of a small
        cone, about ten of 1.5 to 2 times the area of a large one.
    """
    _check(ra, dec, radius)
    reach = radius + PADDING
    if reach >= 90:  # half the sky and more: no index helps
        return np.array([[0, N_CELLS - 1]])
    finer = 0 if reach < FEW_RANGES else 2  # fewer ranges against fewer sources tested in vain
    order = int(np.clip(np.log2(CELL_SIZE / reach) + finer, 0, FINEST_ORDER))
    cells, orders, _ = cone_search(Longitude(ra, u.deg), Latitude(dec, u.deg), reach * u.deg, order)
    return _merge(*_bounds(cells.astype(np.int64), orders.astype(np.int64)))


def cone(ra: float, dec: float, radius: float, table: Any = Source) -> ColumnElement[bool]:
    """Condition that holds for the sources at most `radius` away from a position.

    Parameters
    ----------
    ra, dec : float
        Centre, ICRS [deg]; any right ascension, declination from -90 to 90.
    radius : float
        [deg], from 0 (the very same position) to 180 (everything).
    table : mapped class or alias with columns ra, dec and healpix

    Examples
    --------
    >>> session.scalars(select(Source).where(cone(150.1, 2.2, 10 / 3600)))
    """
    ranges = cone_ranges(ra, dec, radius).tolist()
    covered = or_(*(between(table.healpix, low, high) for low, high in ranges))
    return and_(covered, _within(ra % 360, dec, radius, table))


def separation(ra: float, dec: float, table: Any = Source) -> ColumnElement[float]:
    """Angle between a position and each source [deg]; exactly 0 at the same place."""
    haversine = _haversine(ra % 360, dec, table) - _number(NO_HAVERSINE)
    bounded = func.least(_number(1), func.greatest(_number(0), haversine))
    return _number(2) * func.asind(func.sqrt(bounded))


def nearest(
    session: Session, ra: float, dec: float, catalog_id: int | None = None
) -> tuple[Source, float] | None:
    """Find the source nearest to a position, and its distance [deg]; None where there is none.

    The cone grows until something is in it: an answer inside a cone is the answer.
    """
    distance = separation(ra, dec).label("distance")
    query = select(Source, distance).order_by(distance, Source.id).limit(1)
    query = query.where(true() if catalog_id is None else Source.catalog_id == catalog_id)
    for radius in (1 / 360, 1 / 36, 1 / 3, 4, 180):
        found = session.execute(query.where(cone(ra, dec, radius))).first()
        if found is not None:
            return found[0], float(found[1])
    return None


def cross_match(
    session: Session,
    ra: ArrayLike,
    dec: ArrayLike,
    radius: float | ArrayLike,
    catalog_id: int | None = None,
) -> Matches:
    """Find every source near each of many positions.

    Parameters
    ----------
    ra, dec : array_like of float, shape (n,)
        ICRS [deg].
    radius : float or array_like of float, shape (n,)
        [deg], below 90.
    catalog_id : int, optional
        Only sources of this catalog.

    Returns
    -------
    Matches
        All pairs, ordered by position, then by separation.
    """
    ra = np.atleast_1d(np.asarray(ra, dtype=float)) % 360
    dec = np.atleast_1d(np.asarray(dec, dtype=float))
    radius = np.broadcast_to(np.asarray(radius, dtype=float), ra.shape)
    rows: list[Any] = []
    for start in range(0, len(ra), N_POSITIONS):
        part = slice(start, start + N_POSITIONS)
        arrays = search_arrays(ra[part], dec[part], radius[part])
        arrays["position"] = [start + i for i in arrays["position"]]
        rows += session.execute(_PAIRS, {**arrays, "catalog_id": catalog_id}).all()
    columns = np.array([tuple(row) for row in rows], dtype="i8,i8,f8").reshape(-1)
    return Matches(columns["f0"], columns["f1"], columns["f2"])


def match_catalogs(
    session: Session, first_id: int, second_id: int, radius: float
) -> Iterator[Matches]:
    """Find the pairs of sources of two catalogs that lie within `radius` [deg] of each other.

    Yields batches, so that two large catalogs fit into little memory. `position` holds the id of
    the first catalog's source. Swapping the catalogs gives the same pairs.
    """
    last = -1
    while True:
        page = (
            select(Source.id, Source.ra, Source.dec)
            .where(Source.catalog_id == first_id, Source.id > last)
            .order_by(Source.id)
            .limit(N_POSITIONS)
        )
        rows = session.execute(page).all()
        if not rows:
            return
        ids, ra, dec = (np.array(column) for column in zip(*rows, strict=True))
        found = cross_match(session, ra, dec, radius, second_id)
        yield Matches(ids[found.position], found.source_id, found.separation)
        last = int(ids[-1])


def search_arrays(
    ra: NDArray[np.float64], dec: NDArray[np.float64], radius: NDArray[np.float64]
) -> dict[str, list[Any]]:
    """Parameters of `NEAR`: one entry per range, its position repeated beside it."""
    position, low, high = _position_ranges(ra, dec, radius)
    limit = _limit(radius)
    return {
        "position": position.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "ra": ra[position].tolist(),
        "dec": dec[position].tolist(),
        "limit": limit[position].tolist(),
    }


# FROM clause: sources in the ranges of `search_arrays`, with the haversine of their angle to the
# position. A plain join on ranges would make the planner expect a ninth of the table per range and
# scan it all; the subquery with OFFSET 0 is searched once per range, by the index.
NEAR = f"""
    unnest(CAST(:position AS bigint[]), CAST(:low AS bigint[]), CAST(:high AS bigint[]),
           CAST(:ra AS float8[]), CAST(:dec AS float8[]), CAST(:limit AS float8[]))
        AS near (position, low, high, ra, "dec", "limit")
    CROSS JOIN LATERAL (
        SELECT id, ra, "dec" FROM source
        WHERE healpix BETWEEN near.low AND near.high
          AND (CAST(:catalog_id AS bigint) IS NULL OR catalog_id = :catalog_id)
        OFFSET 0
    ) AS source
    CROSS JOIN LATERAL (
        SELECT power(sind(greatest(abs(source."dec" - near."dec"), {NO_ANGLE}) / 2), 2)
             + cosd(source."dec") * cosd(near."dec")
             * power(sind(greatest(abs(source.ra - near.ra), {NO_ANGLE}) / 2), 2) AS haversine
    ) AS angle
"""  # noqa: S608
DEGREES = f"2 * asind(sqrt(least(1, greatest(0, haversine - {NO_HAVERSINE}))))"
_PAIRS = text(
    f"SELECT near.position, source.id, {DEGREES} AS separation"  # noqa: S608
    f' FROM {NEAR} WHERE haversine <= near."limit" ORDER BY 1, 3, 2'
)


def _check(ra: float, dec: float, radius: float) -> None:
    if not np.isfinite([ra, dec, radius]).all():
        raise ValueError(f"A cone needs finite numbers, not ra={ra}, dec={dec}, radius={radius}.")
    if not -90 <= dec <= 90:
        raise ValueError(f"Declination is from -90 to 90 degrees, not {dec}.")
    if not 0 <= radius <= 180:
        raise ValueError(f"The radius of a cone is from 0 to 180 degrees, not {radius}.")


def _haversine(ra: float, dec: float, table: Any) -> ColumnElement[float]:
    """Square of the sine of half the angle to a position."""
    in_ra, in_dec = _half_sine_squared(table.ra, ra), _half_sine_squared(table.dec, dec)
    return in_dec + func.cosd(table.dec) * _number(_cosine(dec)) * in_ra


def _cosine(degrees: float) -> float:
    """Cosine as PostgreSQL's cosd computes it: exactly 0 at the poles."""
    return 0.0 if abs(degrees) == 90 else float(np.cos(np.radians(degrees)))


def _half_sine_squared(column: Any, value: float) -> ColumnElement[float]:
    difference = func.greatest(func.abs(column - _number(value)), _number(NO_ANGLE))
    return func.power(func.sind(difference * _number(0.5)), _number(2))


def _within(ra: float, dec: float, radius: float, table: Any) -> ColumnElement[bool]:
    if radius <= 90:
        return _haversine(ra, dec, table) <= _number(_limit(radius))
    return _haversine((ra + 180) % 360, -dec, table) >= _number(_limit(180 - radius))


def _limit(radius: Any) -> Any:
    """Haversine of a radius [deg]; at least that of `NO_ANGLE`, so that 0 means the same place."""
    return np.maximum(np.sin(np.radians(radius) / 2) ** 2, NO_HAVERSINE)


def _number(value: float) -> ColumnElement[float]:
    return literal(float(value), Double)


def _position_ranges(
    ra: NDArray[np.float64], dec: NDArray[np.float64], radius: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ranges that cover the cone around each position: (index of the position, first, last)."""
    if len(radius) and radius.max() >= 90:
        raise ValueError(f"Positions are matched within less than 90 degrees, not {radius.max()}.")
    parts = [_neighbour_ranges(ra, dec, radius, np.flatnonzero(radius <= NEIGHBOUR_RADIUS))]
    for i in np.flatnonzero(radius > NEIGHBOUR_RADIUS):
        low, high = cone_ranges(ra[i], dec[i], radius[i]).T
        parts.append((np.full(len(low), i), low, high))
    position, low, high = (np.concatenate(column) for column in zip(*parts, strict=True))
    return position, low, high


def _neighbour_ranges(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    radius: NDArray[np.float64],
    wanted: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cover small cones by the cell of their centre and its neighbours.

    A cell is nowhere narrower than 0.68 times `CELL_SIZE` / 2**order, so that a cone of half that
    width cannot leave the nine.
    """
    if not len(wanted):
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, nothing
    order = int(min(np.log2(CELL_SIZE / 2 / (radius[wanted].max() + PADDING)), ORDER))
    shift = 2 * (ORDER - order)
    centre = healpix(ra[wanted], dec[wanted]) >> shift
    cells = neighbours(centre.astype(np.uint64), order).reshape(len(wanted), -1)
    position = np.repeat(wanted, cells.shape[1])
    cells = cells.ravel()
    exists = cells >= 0  # where three base cells meet, one neighbour is missing
    low, high = _bounds(cells[exists], np.int64(order))
    return position[exists], low, high


def _bounds(cells: NDArray[np.int64], orders: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last key inside cells of coarser orders."""
    shift = 2 * (ORDER - orders)
    return cells << shift, ((cells + 1) << shift) - 1


def _merge(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort ranges and join those that touch."""
    ascending = np.argsort(low)
    low, high = low[ascending], high[ascending]
    gap = low[1:] > high[:-1] + 1
    return np.stack([low[np.append(True, gap)], high[np.append(gap, True)]], axis=1)
