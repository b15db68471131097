"""Prototypes as one picture, and numbers as colours of cells. Knows neither requests nor tables.

The colours are those of `web.density`.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from web import density

FAINTEST = 5  # percentile of the pixels of all prototypes that is drawn black
BRIGHTEST = 99.5  # percentile that is drawn white, or in the colour of the most


def prototypes(decoded: NDArray[np.float32], tile: tuple[int, int], grey: bool) -> bytes:
    """Draw all prototypes of a map side by side as PNG, the one of row 0, column 0 upper left.

    Parameters
    ----------
    decoded : ndarray of float32, shape (rows, columns, m)
        0 to 1.
    tile : tuple of int
        Height and width of each; their product is m.
    grey : bool
        Cutouts, whose first row is the lowest; otherwise densities over another map, whose first
        row is the uppermost, all on one scale.
    """
    from PIL import Image

    (rows, columns), (height, width) = decoded.shape[:2], tile
    tiles = decoded.reshape(rows, columns, height, width)
    if grey:
        tiles = tiles[:, :, ::-1]
    sheet = tiles.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    low, high = np.percentile(sheet, (FAINTEST if grey else 0, BRIGHTEST))
    sheet = np.clip((sheet - low) / max(high - low, 1e-6), 0, 1)
    if grey:
        image = Image.fromarray(np.rint(255 * sheet).astype(np.uint8), "L")
    else:
        image = Image.fromarray(np.rint(255 * sheet).astype(np.uint8), "P")
        image.putpalette(density.palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def histogram(counts: NDArray[np.float32], weight: float) -> bytes:
    """Draw an exposure's histogram (rows, columns) as PNG, row 0 at the top.

    Parameters
    ----------
    weight : float
        What a counted source stands for; a cell with one of them has the darkest colour.
    """
    return density.png(np.rint(counts[::-1] / weight).astype(np.int64))


def count_colours(n: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the level of each count: 0 for none, 1 for a single one, 255 for the most."""
    return density.levels(n)


def even_colours(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the level of each number: 1 for the least, 255 for the largest, 0 where it is NaN."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(values.shape, np.uint8)
    low, high = values[known].min(), values[known].max()
    share = np.where(known, (values - low) / max(high - low, 1e-12), 0)
    return np.where(known, 1 + np.rint(254 * share), 0).astype(np.uint8)


def names(levels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return the colours of levels as SVG writes them."""
    hexes = np.array(["#{:02x}{:02x}{:02x}".format(*colour) for colour in density.palette()])
    return hexes[levels]


def bars(counts: NDArray[np.float32], width: float, height: float) -> str:
    """Return a histogram as the path of an SVG, one bar for each number, the largest `height`."""
    step, most = width / counts.size, max(float(counts.max(initial=0)), 1e-12)
    return "".join(
        f"M{k * step:.2f} {height}V{height * (1 - float(value) / most):.2f}h{step:.2f}V{height}"
        for k, value in enumerate(counts.ravel())
        if value > 0
    )
