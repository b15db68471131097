"""Cells of a square grid as one number each, in Z-order (Morton code), so that a square is a range.

At level L the square is 2^L x 2^L cells; bit 2k of a code is bit k of the column, bit 2k + 1 is bit
k of the row. A cell of level L is the range of FINEST cells that begin with its code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FINEST = 16  # level of the smallest cells: 65,536 x 65,536
SPREAD = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))
GATHER = ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF))


def encode(columns: ArrayLike, rows: ArrayLike) -> NDArray[np.int64]:
    """Return the codes of cells, whose columns and rows are from 0 to 65,535."""
    return _spread(columns) | _spread(rows) << 1


def decode(codes: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (columns, rows) of codes."""
    given = np.asarray(codes, dtype=np.int64)
    return _gathered(given), _gathered(given >> 1)


def ranges(codes: ArrayLike, level: int, finest: int = FINEST) -> list[tuple[int, int]]:
    """Return the cells of level `finest` within some cells of `level`, as few ranges.

    Both ends of each (first, last) are included.
    """
    cells = np.unique(np.asarray(codes, dtype=np.int64))
    if not len(cells):
        return []
    gaps = np.flatnonzero(np.diff(cells) > 1)
    begins, ends = cells[np.append(0, gaps + 1)], cells[np.append(gaps, len(cells) - 1)]
    shift = 2 * (finest - level)
    lasts = ((ends + 1) << shift) - 1
    return list(zip((begins << shift).tolist(), lasts.tolist(), strict=True))


def _spread(numbers: ArrayLike) -> NDArray[np.int64]:
    """Put a zero before each of 16 bits."""
    bits = np.asarray(numbers, dtype=np.int64)
    for shift, mask in SPREAD:
        bits = (bits | bits << shift) & mask
    return bits


def _gathered(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave every second bit out."""
    bits = codes & SPREAD[-1][1]
    for shift, mask in GATHER:
        bits = (bits | bits >> shift) & mask
    return bits
