"""Polygons on the unit square as cells of a grid: those wholly inside, and those on the outline.

Inside is by the non-zero rule, as in PostgreSQL and SVG: what a self-crossing outline goes around
at least once, on balance, is inside. Reading points by these cells is for `db.projections`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from db import morton

MAX_CORNERS = 1_000
FURTHEST = 2.0  # of a corner from the unit square's sides, in widths of the square
TILES = 256  # about as many fit into the longer side of the polygon
STEP = 0.5  # tile: between the places at which an edge is looked at


class BadPolygon(ValueError):  # noqa: N818 (it reads as what happened)
    """A polygon that cannot be understood, or encloses nothing."""


@dataclass(frozen=True)
class Cover:
    """Cells of a level, as Morton codes: those wholly inside, and those perhaps partly inside."""

    level: int
    inside: NDArray[np.int64]
    outline: NDArray[np.int64]


def polygon(corners: ArrayLike) -> NDArray[np.float64]:
    """Return the corners as an array (v, 2).

    Raises
    ------
    BadPolygon
        Not 3 to MAX_CORNERS pairs of finite numbers.
    """
    try:
        given = np.asarray(corners, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise BadPolygon("expected corners as pairs of numbers, [[x, y], …]") from None
    if given.ndim != 2 or given.shape[1] != 2:
        raise BadPolygon(f"expected corners as pairs, [[x, y], …]; arrived shape {given.shape}")
    if not 3 <= len(given) <= MAX_CORNERS:
        raise BadPolygon(f"expected 3 to {MAX_CORNERS:,} corners; arrived {len(given):,}")
    if not np.isfinite(given).all():
        raise BadPolygon("expected finite numbers; arrived a corner with NaN or infinity")
    return given


def cover(corners: NDArray[np.float64]) -> Cover:
    """Find the cells that a polygon touches, by a grid about as fine as TILES along its side.

    Parameters
    ----------
    corners : ndarray, shape (v, 2)
        On the unit square, or beside it.

    Raises
    ------
    BadPolygon
        A corner is further than FURTHEST from the square.
    """
    if (np.abs(corners - 0.5) > 0.5 + FURTHEST).any():
        raise BadPolygon("expected corners on the projection or near it; one is far outside")
    extent = max(np.ptp(corners, axis=0).max(), 0.5**morton.FINEST)
    level = int(np.clip(np.log2(TILES / extent), 0, morton.FINEST))
    tiles = corners * (1 << level)
    low = np.clip(np.floor(tiles.min(axis=0)).astype(int) - 1, 0, None)
    high = np.clip(np.floor(tiles.max(axis=0)).astype(int) + 2, None, 1 << level)
    if (high <= low).any():
        return Cover(level, *np.zeros((2, 0), np.int64))
    shape = (high - low)[::-1]
    outline = _outline(tiles - low, shape)
    inside = (_winding(tiles - low, shape) != 0) & ~outline
    return Cover(level, *(_codes(mask, low) for mask in (inside, outline)))


def _outline(tiles: NDArray[np.float64], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the tiles [row, column] that an edge touches, and those around them."""
    mask = np.zeros(shape + 2, bool)
    after = np.roll(tiles, -1, axis=0)
    steps = np.ceil(np.abs(after - tiles).max(axis=1) / STEP).astype(int) + 1
    edge = np.repeat(np.arange(len(tiles)), steps)
    first = np.repeat(np.cumsum(steps) - steps, steps)
    along = ((np.arange(len(edge)) - first) / np.repeat(steps, steps))[:, None]
    places = np.floor(tiles[edge] + along * (after - tiles)[edge]).astype(int)
    columns, rows = np.clip(places + 1, 0, shape[::-1] + 1).T
    mask[rows, columns] = True
    across = mask[:, :-2] | mask[:, 1:-1] | mask[:, 2:]
    touched: NDArray[np.bool_] = across[:-2] | across[1:-1] | across[2:]
    return touched


def _winding(tiles: NDArray[np.float64], shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often the outline goes around the centre of each tile [row, column]."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    centres = np.arange(shape[0]) + 0.5
    for (x0, y0), (x1, y1) in zip(tiles, np.roll(tiles, -1, axis=0), strict=True):
        crossed = (y0 <= centres) != (y1 <= centres)
        if crossed.any():
            rows = np.flatnonzero(crossed)
            x = x0 + (centres[rows] - y0) * (x1 - x0) / (y1 - y0)
            columns = np.clip(np.ceil(x - 0.5).astype(int), 0, shape[1])
            crossings[rows, columns] += 1 if y1 > y0 else -1
    winding: NDArray[np.int64] = crossings.cumsum(axis=1)[:, :-1]
    return winding


def _codes(mask: NDArray[np.bool_], low: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, columns = np.nonzero(mask)
    return morton.encode(columns + low[0], rows + low[1])
