"""More examples from the same pixels: look at a cutout from another point of it.

A picture centred on the nucleus of a galaxy shows a galaxy; the same picture centred on one of its
arms shows a shred. So each labelled cutout gives many examples whose answer is nearly certain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.labelled import Labelled
from models.pixels import SKY_LEVEL

ABOVE_SKY = 14  # 8-bit levels: what belongs to an object
BRIGHT = 20  # 8-bit levels: what a catalog might list
REACH = 44  # pixel: farthest point from the centre that is used
SMALLEST_NUCLEUS, SMALLEST_HOST = 12, 90  # pixel: areas of objects
MIDDLE = slice(62, 67)  # pixel: the source itself


@dataclass(frozen=True)
class Points:
    """Places in cutouts with what a catalog source there would be."""

    row: NDArray[np.int64]  # (n,) which cutout
    x: NDArray[np.float64]  # (n,) 0-based pixel
    y: NDArray[np.float64]  # (n,)
    is_shred: NDArray[np.bool_]  # (n,)
    large: NDArray[np.bool_]  # (n,) on an object of more than 150 pixels


def find_points(data: Labelled, rng: np.random.Generator) -> Points:
    """Find nuclei, and bright points far from the nucleus they belong to, in every cutout.

    Only what the label of the cutout leaves certain is used: of a source that is no decided galaxy
    or shred, nothing on the object it lies on.
    """
    found = [
        (row, *point)
        for row in range(len(data))
        for point in _points_of(data.rgb[row], data.label[row], rng)
    ]
    columns = np.array(found, float).reshape(-1, 5).T
    row, x, y, is_shred, large = columns
    return Points(row.astype(int), x, y, is_shred > 0, large > 0)


def _points_of(
    rgb: NDArray[np.uint8], label: str, rng: np.random.Generator
) -> list[tuple[float, float, bool, bool]]:
    """(x, y, is_shred, large) of the points in one cutout."""
    light = rgb.astype(np.float32).mean(axis=2)
    fine, smooth = (ndimage.gaussian_filter(light, sigma) for sigma in (1, 2))
    sky = min(float(np.percentile(light, 20)), 45.0)
    objects, n_objects = ndimage.label(smooth > sky + ABOVE_SKY)
    own = np.bincount(objects[MIDDLE, MIDDLE].ravel(), minlength=n_objects + 1)
    own[0] = 0
    points = []
    for number in range(1, n_objects + 1):
        is_own = own[number] > 0 and number == own.argmax()
        y, x = np.nonzero(objects == number)
        if len(x) < SMALLEST_NUCLEUS or (is_own and label not in ("galaxy", "shred")):
            continue
        brightest = smooth[y, x].argmax()
        centre = (64, 64) if is_own and label == "galaxy" else (x[brightest], y[brightest])
        large = len(x) >= 150
        away = np.hypot(centre[0] - 64, centre[1] - 64)
        inside = min(*centre, 127 - centre[0], 127 - centre[1]) >= 8
        if inside and away < REACH and not (is_own and (label == "galaxy" or away < 4)):
            points.append((*centre, False, large))
        if len(x) >= SMALLEST_HOST:
            unlike = not (is_own and label == "shred")
            points += [
                (*p, True, large)
                for p in _off_nucleus(x, y, centre, fine, smooth, sky, unlike, rng)
            ]
    return points


def _off_nucleus(
    x: NDArray,
    y: NDArray,
    nucleus: tuple[int, int],
    fine: NDArray,
    smooth: NDArray,
    sky: float,
    fainter: bool,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Up to six knots and four other points of an object that are well away from its nucleus.

    Where `fainter`, a knot must be fainter than the nucleus.
    """
    far = np.hypot(x - nucleus[0], y - nucleus[1]) > max(4.0, 0.35 * np.sqrt(len(x) / np.pi))
    far &= np.hypot(x - 64, y - 64) < REACH
    knots = far & (fine == ndimage.maximum_filter(fine, 5))[y, x]
    if fainter:
        knots &= smooth[y, x] < smooth[nucleus[1], nucleus[0]]
    others = far & (smooth[y, x] > sky + BRIGHT)
    chosen = [
        rng.permutation(np.flatnonzero(mask))[:most] for mask, most in ((knots, 6), (others, 4))
    ]
    return [(int(x[k]), int(y[k])) for k in np.concatenate(chosen)]


def vary(
    rgb: NDArray[np.uint8],
    rng: np.random.Generator,
    x: float = 63.5,
    y: float = 63.5,
    zoom: float = 0.2,
) -> NDArray[np.uint8]:
    """One cutout seen anew: centred on (x, y), turned, mirrored, zoomed, recoloured, noisier.

    The centre moves by at most 0.7 pixel more, since a shift changes the answer. What lies beyond
    the border becomes sky. `zoom` is the largest change of the logarithm of the scale.
    """
    scale, turn = np.exp(rng.uniform(-zoom, zoom)), rng.uniform(0, 2 * np.pi)
    mirror = rng.choice([-1, 1])
    x, y = x + 0.5 + rng.uniform(-0.7, 0.7), y + 0.5 + rng.uniform(-0.7, 0.7)
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
    a, b, d, e = cos * mirror, -sin, sin * mirror, cos
    sky = int(np.clip(np.percentile(rgb[::4, ::4], 20), 20, SKY_LEVEL + 13))
    height, width = rgb.shape[:2]
    middle = (width / 2, height / 2)
    turned = Image.fromarray(rgb).transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, x - a * middle[0] - b * middle[1], d, e, y - d * middle[0] - e * middle[1]),
        Image.Resampling.BILINEAR,
        fillcolor=(sky, sky, sky),
    )
    gain = np.exp(rng.normal(0, 0.08, 3) + rng.normal(0, 0.12))
    seen = (np.asarray(turned, np.float32) - sky) * gain.astype(np.float32) + sky
    if rng.random() < 0.5:
        seen += rng.normal(0, rng.uniform(0, 6), seen.shape).astype(np.float32)
    return np.clip(seen, 0, 255).astype(np.uint8)
