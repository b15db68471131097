"""The opinion of a few numbers an astronomer would write down: a baseline without a network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier

from models.labelled import Labelled

RADII = (2, 4, 7, 12, 20, 32, 50)  # pixel: edges of the annuli
MIDDLE = slice(62, 66)  # pixel


def features(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe pictures (n, 128, 128, 3) by numbers (n, 31).

    Brightness and colour of the centre; brightness, scatter and excess over the centre in annuli;
    the object the centre lies on: its size, how far the centre is from its barycentre and from its
    brightest point, and how much brighter that point is.
    """
    return np.stack([_describe(picture) for picture in rgb]).astype(np.float32)


def _describe(rgb: NDArray[np.uint8]) -> list[float]:
    light = rgb.astype(np.float32).mean(axis=2)
    smooth = ndimage.gaussian_filter(light, 2)
    y, x = np.mgrid[-63.5:64, -63.5:64]
    radius = np.hypot(x, y)
    centre = float(light[MIDDLE, MIDDLE].mean())
    red, green, blue = rgb[MIDDLE, MIDDLE].reshape(-1, 3).mean(axis=0)
    numbers = [centre, float(red - green), float(green - blue)]
    for inner, outer in pairwise(RADII):
        ring = light[(radius >= inner) & (radius < outer)]
        brightest = smooth[(radius >= inner) & (radius < outer)].max()
        half = light[(radius >= inner) & (radius < outer) & (x > 0)].mean()
        numbers += [ring.mean() - centre, ring.std(), brightest - centre, abs(half - ring.mean())]
    return numbers + _own_object(light, smooth, x, y)


def _own_object(light: NDArray, smooth: NDArray, x: NDArray, y: NDArray) -> list[float]:
    sky = min(float(np.percentile(light, 20)), 45.0)
    objects, _ = ndimage.label(smooth > sky + 14)
    number = objects[MIDDLE, MIDDLE].max()
    if not number:
        return [0.0, 0.0, 0.0, 0.0]
    own = objects == number
    weight = (smooth - sky) * own
    barycentre = np.hypot((weight * x).sum(), (weight * y).sum()) / weight.sum()
    peak = np.argmax(np.where(own, smooth, -1))
    size = np.sqrt(own.sum() / np.pi)
    offset = float(np.hypot(x.flat[peak], y.flat[peak]))
    return [float(size), float(barycentre / size), offset / float(size), offset]


def fit_and_predict(training: Labelled, unseen: Labelled, seed: int = 0) -> NDArray[np.float64]:
    """P(shred) of unseen sources, by boosted trees on the features of the decided ones."""
    training = training.take(training.decided)
    trees = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.05, max_leaf_nodes=8, l2_regularization=1.0, random_state=seed
    )
    trees.fit(features(training.rgb), training.is_shred)
    return trees.predict_proba(features(unseen.rgb))[:, 1]
