"""The few numbers an astronomer would write down about a source, from its picture alone."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RADII = (2, 4, 7, 12, 20, 32, 50)  # pixel: edges of the annuli
MIDDLE = slice(62, 66)  # pixel
ABOVE_SKY = 14  # 8-bit levels: what belongs to an object
N_FEATURES = 3 + 4 * (len(RADII) - 1) + 4


def features(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe pictures (n, 128, 128, 3) by numbers (n, 31).

    Brightness and colour of the centre; brightness, scatter, excess over the centre and
    lopsidedness in six annuli; the object the centre lies on: its size, how far the centre is from
    its barycentre and from its brightest point. Without an object the last four are 0.
    """
    if not len(rgb):
        return np.empty((0, N_FEATURES), np.float32)
    return np.stack([_describe(picture) for picture in rgb]).astype(np.float32)


@cache
def _grid() -> tuple[NDArray, NDArray, list[NDArray], list[tuple[NDArray, NDArray]]]:
    """x and y from the centre; flat indices of each annulus, and of its right and upper half."""
    y, x = np.mgrid[-63.5:64, -63.5:64]
    radius = np.hypot(x, y)
    annuli = [(radius >= inner) & (radius < outer) for inner, outer in pairwise(RADII)]
    halves = [
        (np.flatnonzero(annulus & (x > 0)), np.flatnonzero(annulus & (y > 0))) for annulus in annuli
    ]
    return x, y, [np.flatnonzero(annulus) for annulus in annuli], halves


def _describe(rgb: NDArray[np.uint8]) -> list[float]:
    light = rgb.astype(np.float32).mean(axis=2)
    smooth = ndimage.gaussian_filter(light, 2)
    centre = float(light[MIDDLE, MIDDLE].mean())
    red, green, blue = rgb[MIDDLE, MIDDLE].reshape(-1, 3).mean(axis=0)
    numbers = [centre, float(red - green), float(green - blue)]
    _, _, annuli, halves = _grid()
    for annulus, (right, upper) in zip(annuli, halves, strict=True):
        ring = light.flat[annulus]
        mean = ring.mean()
        lopsided = np.hypot(light.flat[right].mean() - mean, light.flat[upper].mean() - mean)
        numbers += [
            mean - centre,
            ring.std(),
            smooth.flat[annulus].max() - centre,
            lopsided,
        ]
    return numbers + _own_object(light, smooth)


def _own_object(light: NDArray, smooth: NDArray) -> list[float]:
    x, y, _, _ = _grid()
    sky = min(float(np.percentile(light, 20)), 45.0)
    objects, _ = ndimage.label(smooth > sky + ABOVE_SKY)
    number = objects[MIDDLE, MIDDLE].max()
    if not number:
        return [0.0, 0.0, 0.0, 0.0]
    own = objects == number
    weight = (smooth - sky) * own
    barycentre = np.hypot((weight * x).sum(), (weight * y).sum()) / weight.sum()
    peak = np.argmax(np.where(own, smooth, -1))
    size = float(np.sqrt(own.sum() / np.pi))
    offset = float(np.hypot(x.flat[peak], y.flat[peak]))
    return [size, float(barycentre / size), offset / size, offset]
