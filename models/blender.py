"""Pairs of galaxies whose light is known: the published recipe of blend2flux, mended.

A pair is the sum of two isolated galaxies, the parents, which are simulated in `blender_parents` or
read from a folder by `blender_files`. All light is in nJy, arrays are indexed [y, x], a seed gives
the same pairs again.

The recipe is that of Boucaud et al. (2020), MNRAS 491, 2481, and its code. What is mended: every
draw is seeded; galaxies set apart for tests are so as companions too; a galaxy never meets itself;
the noise is the same everywhere, also where the companion was moved away from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.blender_files import is_for_tests, read_parents
from models.blender_parents import (
    DEEP,
    FIRST_TEST_SEED,
    KINDS,
    NANOMAGGY,
    SHARES,
    WIDE,
    ZERO_POINT,
    Floats,
    Generator,
    Parents,
    Population,
    joined,
    simulate_parents,
)

__all__ = [
    "BLENDS",
    "DEEP",
    "FIRST_TEST_SEED",
    "KINDS",
    "MASKS",
    "MASK_LEVEL",
    "NANOMAGGY",
    "PAIRS",
    "PUBLISHED_LEVELS",
    "PUBLISHED_SIGMA",
    "RECIPES",
    "SHARES",
    "WIDE",
    "ZERO_POINT",
    "Pairs",
    "Parents",
    "Population",
    "Recipe",
    "draw",
    "is_for_tests",
    "joined",
    "read_parents",
    "simulate_parents",
    "split",
]

MASKS = ("overlap", "central", "companion")
MASK_LEVEL = 1.0  # a galaxy's mask is where its light exceeds so many sigma of the noise
SMOOTHING = 1.5  # Gaussian sigma, for masks of parents that carry noise [pixel]
PUBLISHED_SIGMA = 0.7  # nJy in the unit of BlendHunter's noise: sep is then right as often as there
PUBLISHED_LEVELS = (5, 14, 18, 26, 35, 40)  # of noise, in that unit
TRIES = 25  # places tried for a companion before another pair is drawn
LOT, MOST_LOTS = 16, 50  # galaxies looked at together for a companion, and how often
BRIGHTER = 0.3  # mag, at most, that galaxies are made brighter or fainter for training


@dataclass(frozen=True)
class Recipe:
    """How pairs are made of parents.

    `separation` "published": the companion lies max(R1, R2) to 4 min(R1, R2) from the central,
    0.8 times the latter where that is less, and never more than `max_offset`; "uniform": anywhere
    in the square of offsets from -max_offset up to, but not including, max_offset. Offsets are
    whole pixels.
    """

    size: int = 128  # side of the cutouts [pixel]
    max_mag_difference: float = 2.0
    noise: tuple[float, float] = (0.45, 0.45)  # sigma, log-uniform from .. to [nJy per pixel]
    singles: float = 0.0  # share of cutouts that show one galaxy
    separation: str = "published"
    max_offset: int = 64  # along an axis [pixel]
    population: Population = DEEP  # what simulated parents should be drawn from


PAIRS = Recipe()
BLENDS = Recipe(
    size=64,
    noise=(5 * PUBLISHED_SIGMA, 40 * PUBLISHED_SIGMA),
    singles=0.5,
    separation="uniform",
    max_offset=25,
    population=WIDE,
)
RECIPES = {"pairs": PAIRS, "blends": BLENDS}


@dataclass(frozen=True)
class Pairs:
    """Cutouts of one or two galaxies, and the truth about each.

    Attributes
    ----------
    pixels : ndarray of float32, shape (n, size, size)
        [nJy per pixel], with noise.
    flux : ndarray of float64, shape (n, 2)
        Of central and companion, all light of the isolated parent [nJy]; NaN where there is none.
    light : ndarray of float32, shape (n, size, size, 2)
        Of each galaxy without noise, that of parents with noise as it came [nJy per pixel].
    masks : ndarray of uint8, shape (n, size, size, 3)
        Overlap, central, companion: where a galaxy's own light exceeds MASK_LEVEL times `noise`;
        for parents that carry noise, where their smoothed light does so next to their middle.
    dx, dy : ndarray of float32, shape (n,)
        By how many columns and rows the companion was moved [pixel]; NaN where there is none.
    is_blend : ndarray of bool, shape (n,)
        Whether there is a companion.
    noise : ndarray of float32, shape (n,)
        Sigma of all noise in the pixels [nJy].
    parent : ndarray of int64, shape (n, 2)
        Rows of the parents; -1 where there is none.
    kind : ndarray of int8, shape (n, 2)
        Places in KINDS; -1 where there is none or nobody knows.
    radius : ndarray of float32, shape (n, 2)
        [pixel]; NaN where there is none.
    fwhm : ndarray of float32, shape (n,)
        Of the point spread function [pixel].
    """

    pixels: NDArray[np.float32]
    flux: Floats
    light: NDArray[np.float32]
    masks: NDArray[np.uint8]
    dx: NDArray[np.float32]
    dy: NDArray[np.float32]
    is_blend: NDArray[np.bool_]
    noise: NDArray[np.float32]
    parent: NDArray[np.int64]
    kind: NDArray[np.int8]
    radius: NDArray[np.float32]
    fwhm: NDArray[np.float32]

    @property
    def separation(self) -> NDArray[np.float32]:
        """Distance of companion and central, shape (n,) [pixel]; NaN where there is none.

        That of the whole pixels dx, dy by which the companion was moved. Each galaxy lies up to
        half a pixel from the middle along both axes, so that the distance of the two centres may
        differ by up to 1.4 pixels.
        """
        return np.hypot(self.dx, self.dy)


def split(n: int, seed: int, test: float = 0.2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the galaxies for training and of those for tests; no galaxy is in both.

    It is another split with every seed, and so made for simulated galaxies, which are others with
    every seed too. Those of the user have their split by name (`is_for_tests`).
    """
    order = np.random.default_rng([seed, n]).permutation(n)
    n_test = int(test * n)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


@dataclass(frozen=True)
class _Choice:
    """Which galaxies meet, where, and how they are turned."""

    rows: tuple[int, int]  # the second is -1 for a single galaxy
    offset: tuple[int, int]  # dx, dy [pixel]
    factors: Floats  # (2,) of their light
    turns: NDArray[np.int64]  # (2,) 0 to 7


def draw(
    parents: Parents,
    chosen: NDArray[np.integer],
    n: int,
    seed: int,
    recipe: Recipe,
    *,
    first: int = 0,
    vary: bool = False,
) -> Pairs:
    """Make pairs of the chosen parents.

    Parameters
    ----------
    parents : Parents
    chosen : ndarray of int
        Rows of the parents that may be used, as central and as companion.
    n : int
    seed : int
        Pair k of a seed is always the same.
    recipe : Recipe
    first : int
        Number of the first pair.
    vary : bool
        For training: galaxies are also turned, mirrored and up to BRIGHTER mag brighter or fainter.

    Notes
    -----
    The noise of a cutout is the same in every pixel: Gaussian noise is added once, after the
    galaxies. Parents that carry noise bring theirs; where a moved companion leaves a strip
    uncovered, noise of the companion's sigma is filled in, and so much is added to all pixels that
    the total is the sigma that the recipe asks for, or what the parents bring where that is more.

    Raises
    ------
    ValueError
        No two of the chosen parents can meet, or their cutouts are smaller than the recipe's.
    """
    chosen = np.asarray(chosen)
    if not len(chosen):
        raise ValueError("expected galaxies to choose from, but there are none; give more of them")
    if parents.size < recipe.size:
        raise ValueError(
            f"expected parents of at least {recipe.size} pixels, but they have {parents.size}"
        )
    size = recipe.size
    light = np.zeros((n, 2, size, size), np.float32)
    pixels = np.empty((n, size, size), np.float32)
    noise = np.empty(n, np.float32)
    choices = []
    for k in range(n):
        rng = np.random.default_rng([seed, first + k, 1])
        choice = _choose(parents, chosen, recipe, vary, rng)
        wanted = float(np.exp(rng.uniform(*np.log(recipe.noise))))
        noise[k] = _mix(parents, choice, wanted, light[k], pixels[k], rng)
        choices.append(choice)
    return _told(parents, choices, pixels, light, noise)


def _choose(
    parents: Parents, chosen: NDArray, recipe: Recipe, vary: bool, rng: Generator
) -> _Choice:
    """Draw two galaxies that may meet and where the second goes; or one alone."""
    single = rng.random() < recipe.singles
    factors = 10 ** (0.4 * rng.uniform(-BRIGHTER, BRIGHTER, 2)) if vary else np.ones(2)
    turns = rng.integers(8, size=2) if vary else np.zeros(2, int)
    for _ in range(MOST_LOTS):
        central = int(chosen[rng.integers(len(chosen))])
        if single:
            return _Choice((central, -1), (0, 0), factors, turns)
        companion = _companion(parents, chosen, central, factors, recipe, rng)
        offset = _place(parents.radius[[central, companion]], recipe, rng)
        if companion >= 0 and offset is not None:
            return _Choice((central, companion), offset, factors, turns)
    raise ValueError(
        f"expected galaxies with the same point spread function within {recipe.max_mag_difference} "
        f"mag of each other, but found none among {len(chosen)}; choose from more of them"
    )


def _companion(
    parents: Parents,
    chosen: NDArray,
    central: int,
    factors: Floats,
    recipe: Recipe,
    rng: Generator,
) -> int:
    """Row of a galaxy that may meet the central one, or -1 where none was found."""
    largest = 10 ** (0.4 * recipe.max_mag_difference)
    flux, fwhm = parents.flux[central] * factors[0], parents.fwhm[central]
    for _ in range(MOST_LOTS):
        others = chosen[rng.integers(len(chosen), size=LOT)]
        light, seen = parents.flux[others] * factors[1], parents.fwhm[others]
        alike = (flux < largest * light) & (light < largest * flux) & (others != central)
        alike &= (seen == fwhm) | np.isnan(seen) | np.isnan(fwhm)
        if alike.any():
            return int(others[alike.argmax()])
    return -1


def _place(radii: Floats, recipe: Recipe, rng: Generator) -> tuple[int, int] | None:
    """Offset dx, dy of the companion [pixel], or None where none was found."""
    reach: float = recipe.max_offset
    least = 0.0
    if recipe.separation == "published":
        most = min(4 * float(radii.min()), reach)
        least = float(radii.max())
        least, reach = (least, most) if least < most else (0.8 * most, most)
    for _ in range(TRIES):
        dx, dy = (int(step) for step in rng.integers(-int(reach), max(int(reach), 1), 2))
        if recipe.separation != "published" or least <= np.hypot(dx, dy) <= reach:
            return dx, dy
    return None


def _mix(
    parents: Parents,
    choice: _Choice,
    wanted: float,
    light: NDArray[np.float32],
    pixels: NDArray[np.float32],
    rng: Generator,
) -> float:
    """Fill the light and the pixels of one cutout; return the sigma of all its noise [nJy]."""
    size, brought = len(pixels), 0.0
    pixels[:] = 0
    for which, row in enumerate(choice.rows):
        if row < 0:
            continue
        factor = choice.factors[which]
        whole = _turn(parents.light[row], choice.turns[which])
        place = choice.offset if which else (0, 0)
        target, source = _windows(parents.size, size, place)
        light[(which, *target)] = whole[source] * np.float32(factor)
        sigma = parents.noise[row] * factor
        if sigma:
            uncovered = np.ones((size, size), bool)
            uncovered[target] = False
            pixels[uncovered] += np.float32(sigma) * rng.standard_normal(
                int(uncovered.sum()), np.float32
            )
            brought = float(np.hypot(brought, sigma))
    pixels += light[0]
    pixels += light[1]
    added = np.sqrt(max(wanted**2 - brought**2, 0))
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(added)
    return max(wanted, brought)


def _turn(light: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """One of the eight ways to lay a square on a square; 0 leaves it."""
    mirrored = light.T if turn & 4 else light
    return np.rot90(mirrored, turn & 3)


def _windows(
    whole: int, size: int, offset: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a moved cutout lies in the picture, and which part of it that is, as [y, x]."""
    target, source = [], []
    for step in (offset[1], offset[0]):
        start = (size - whole) // 2 + step
        low, high = max(start, 0), min(start + whole, size)
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    return (target[0], target[1]), (source[0], source[1])


def _told(
    parents: Parents,
    choices: list[_Choice],
    pixels: NDArray[np.float32],
    light: NDArray[np.float32],
    noise: NDArray[np.float32],
) -> Pairs:
    """Put the truth about all cutouts together; light is (n, 2, size, size)."""
    rows = np.array([choice.rows for choice in choices], np.int64).reshape(-1, 2)
    factors = np.array([choice.factors for choice in choices]).reshape(-1, 2)
    offsets = np.array([choice.offset for choice in choices], np.float32).reshape(-1, 2)
    there = rows >= 0
    offsets[~there[:, 1]] = np.nan
    return Pairs(
        pixels=pixels,
        flux=np.where(there, parents.flux[rows] * factors, np.nan),
        light=np.moveaxis(light, 1, -1),
        masks=_masks(light, noise, parents.noise[rows] > 0, offsets),
        dx=offsets[:, 0],
        dy=offsets[:, 1],
        is_blend=there[:, 1],
        noise=noise,
        parent=rows,
        kind=np.where(there, parents.kind[rows], -1).astype(np.int8),
        radius=np.where(there, parents.radius[rows], np.nan).astype(np.float32),
        fwhm=parents.fwhm[rows[:, 0]].astype(np.float32),
    )


def _masks(
    light: NDArray[np.float32],
    noise: NDArray[np.float32],
    noisy: NDArray[np.bool_],
    offsets: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Overlap, central and companion, shape (n, size, size, 3), of light (n, 2, size, size)."""
    n, _, size, _ = light.shape
    masks = np.empty((n, size, size, len(MASKS)), np.uint8)
    level = (MASK_LEVEL * noise)[:, None, None]
    for which in (0, 1):
        masks[..., 1 + which] = light[:, which] > level
        for k in np.flatnonzero(noisy[:, which]):
            middle = np.nan_to_num(offsets[k] if which else np.zeros(2)) + (size - 1) / 2
            masks[k, ..., 1 + which] = _smooth_mask(light[k, which], float(level[k, 0, 0]), middle)
    np.logical_and(masks[..., 1], masks[..., 2], out=masks[..., 0])
    return masks


def _smooth_mask(
    light: NDArray[np.float32], level: float, middle: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Where smoothed light exceeds a level, but only the piece nearest to the galaxy's middle."""
    bright = ndimage.gaussian_filter(light, SMOOTHING) > level
    pieces, n_pieces = ndimage.label(bright)
    if not n_pieces:
        return np.asarray(bright)
    y, x = np.nonzero(bright)
    nearest = np.hypot(x - middle[0], y - middle[1]).argmin()
    return np.asarray(pieces == pieces[y[nearest], x[nearest]])
