"""A small grey picture of a whole exposure, its CCDs where they are on the sky.

Made from pixels that were averaged to miniatures while the CCDs went by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 500  # pixel
GAP = 0.04  # between CCDs in a grid, as a share of their sides
DARKEST, BRIGHTEST = -3.0, 40.0  # times the noise of the miniatures, about their median
SOFTENING = 3.0  # times the noise; above, brightness goes with the logarithm
BLACK = 12  # grey of the darkest sky: what lies between the CCDs is 0
QUALITY = 88
WIDEST = 20.0  # degrees; what reaches farther is no single exposure


@dataclass(frozen=True)
class Miniature:
    """A CCD in small.

    Attributes
    ----------
    pixels : ndarray of float32, shape (h, w)
        Averages; NaN where there is no value.
    size : (int, int)
        Width and height of the CCD [pixel].
    footprint : ndarray of float64, shape (4, 2), optional
        Corners on the sky from the first pixel on, anticlockwise on the CCD [deg].
    """

    pixels: NDArray[np.float32]
    size: tuple[int, int]
    footprint: NDArray[np.float64] | None


def shrink(pixels: NDArray[Any], longest: int = SIDE) -> NDArray[np.float32]:
    """Average squares of pixels (h, w) until no side is longer; pixels without value count not."""
    factor = -(-max(pixels.shape) // longest)
    height, width = (max(1, side // factor) for side in pixels.shape)
    whole = pixels[: height * factor, : width * factor]
    values = whole.astype(np.float32)
    missing = ~np.isfinite(values) if whole.dtype.kind == "f" else None
    if missing is None or not missing.any():
        return (_sums(values, height, width) / factor**2).astype(np.float32)
    values[missing] = 0
    n = _sums((~missing).astype(np.float32), height, width)
    with np.errstate(invalid="ignore"):
        return (_sums(values, height, width) / np.where(n > 0, n, np.nan)).astype(np.float32)


def _sums(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    rows = values.reshape(height, -1, values.shape[1]).sum(1)
    return np.asarray(rows.reshape(height, width, -1).sum(2))


def compose(miniatures: Sequence[Miniature]) -> bytes:
    """Return a JPEG whose longer side has 500 pixels, as wide and high as the CCDs reach.

    North is up and east left, or CCDs lie row by row in a grid.
    """
    corners = _on_the_sky(miniatures)
    if corners is None:
        corners = _in_a_grid(miniatures)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    if len(miniatures):
        low, high = corners.min((0, 1)), corners.max((0, 1))
        scale = SIDE / max(float((high - low).max()), 1e-12)
        places = (corners - low) * scale
        width, height = np.clip(np.rint((high - low) * scale), 1, SIDE).astype(int)
        canvas = np.zeros((height, width), np.uint8)
        for miniature, grey, place in zip(miniatures, _greys(miniatures), places, strict=True):
            _paste(canvas, grey, miniature, place)
    buffer = BytesIO()
    Image.fromarray(canvas[::-1]).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _on_the_sky(miniatures: Sequence[Miniature]) -> NDArray[np.float64] | None:
    """Corners on the plane that touches the sky at their middle, x to the west and y to the north.

    Shape (n, 4, 2); None unless every CCD has a footprint in one part of the sky.
    """
    footprints = [one.footprint for one in miniatures if one.footprint is not None]
    if not footprints or len(footprints) < len(miniatures):
        return None
    ra, dec = np.moveaxis(np.deg2rad(np.stack(footprints)), -1, 0)
    x, y, z = np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)
    middle = np.array([x.mean(), y.mean(), z.mean()])
    middle /= np.linalg.norm(middle)
    ra0, dec0 = np.arctan2(middle[1], middle[0]), np.arcsin(middle[2])
    cosine = x * middle[0] + y * middle[1] + z * middle[2]
    if cosine.min() < np.cos(np.deg2rad(WIDEST)):
        return None
    east = np.cos(dec) * np.sin(ra - ra0) / cosine
    north = (np.cos(dec0) * z - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / cosine
    return np.stack([-east, north], -1)


def _in_a_grid(miniatures: Sequence[Miniature]) -> NDArray[np.float64]:
    """Corners in about a square, row by row from the lower left, shape (n, 4, 2)."""
    if not miniatures:
        return np.zeros((0, 4, 2))
    width, height = (max(one.size[axis] for one in miniatures) for axis in (0, 1))
    n_columns = max(1, round(float(np.sqrt(len(miniatures) * height / width))))
    corners = []
    for n, one in enumerate(miniatures):
        row, column = divmod(n, n_columns)
        left, bottom = column * width * (1 + GAP), row * height * (1 + GAP)
        right, top = left + one.size[0], bottom + one.size[1]
        corners.append([(left, bottom), (right, bottom), (right, top), (left, top)])
    return np.array(corners, float)


def _greys(miniatures: Sequence[Miniature]) -> list[NDArray[np.uint8]]:
    """Turn averages into greys, by one scale for all CCDs; what has no value is black."""
    values = np.concatenate([one.pixels[np.isfinite(one.pixels)] for one in miniatures])
    if not len(values):
        return [np.zeros(one.pixels.shape, np.uint8) for one in miniatures]
    low, middle, high = np.percentile(values, (16, 50, 84))
    noise = max(float(high - low) / 2, 1e-6 * max(abs(float(middle)), 1.0))
    first, last = np.arcsinh(np.array([DARKEST, BRIGHTEST]) / SOFTENING)
    greys = []
    for one in miniatures:
        bent = np.arcsinh((one.pixels - middle) / (noise * SOFTENING))
        share = np.clip((bent - first) / (last - first), 0, 1)
        grey = BLACK + (255 - BLACK) * share
        greys.append(np.where(np.isfinite(grey), grey, 0).astype(np.uint8))
    return greys


def _paste(
    canvas: NDArray[np.uint8],
    grey: NDArray[np.uint8],
    miniature: Miniature,
    corners: NDArray[np.float64],
) -> None:
    """Draw a CCD between its corners (4, 2), in pixels of the canvas from the lower left."""
    origin, along, _, up = corners
    axes = np.stack([along - origin, up - origin], 1)
    if abs(np.linalg.det(axes)) < 1e-9:
        return
    longest = max(2, int(np.ceil(max(np.linalg.norm(axes, axis=0)))))
    picture = shrink(grey, longest)
    first = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    last = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, canvas.shape[::-1])
    y, x = np.mgrid[first[1] : last[1], first[0] : last[0]]
    places = np.stack([x.ravel() + 0.5 - origin[0], y.ravel() + 0.5 - origin[1]])
    u, v = np.linalg.solve(axes, places).reshape(2, *x.shape)
    inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    row, column = (
        (part[inside] * side).astype(int) for part, side in zip((v, u), picture.shape, strict=True)
    )
    canvas[y[inside], x[inside]] = picture[row, column].astype(np.uint8)
