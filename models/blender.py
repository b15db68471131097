"""Pairs of galaxies whose light is known: the published recipe of blend2flux, mended.

Isolated galaxies, the parents, are simulated here or read from a folder; a pair is the sum of two
of them. How a galaxy's light looks is for `blender_light`. All light is in nJy, arrays are indexed
[y, x], a seed gives the same galaxies and the same pairs again.

The recipe is that of Boucaud et al. (2020), MNRAS 491, 2481, and its code. What is mended: every
draw is seeded; galaxies set apart for tests are so as companions too; a galaxy never meets itself;
the noise is the same everywhere, also where the companion was moved away from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.blender_light import BULGE_INDICES, Knots, Smooth, half_light_radius, picture, unblurred

ZERO_POINT = 31.4  # AB magnitude of one nJy
MASKS = ("overlap", "central", "companion")
KINDS = ("bulge", "disc", "bulge+disc", "irregular")
SHARES = (352 / 1919, 433 / 1919, 702 / 1919, 432 / 1919)  # Boucaud et al. (2020), Table 1
MASK_LEVEL = 1.0  # a galaxy's mask is where its light exceeds so many sigma of the noise
PUBLISHED_SIGMA = 0.63  # nJy in BlendHunter's unit of noise: sep is then right as often as there
PUBLISHED_LEVELS = (5, 14, 18, 26, 35, 40)  # of noise, in that unit
TRIES = 25  # places tried for a companion before another pair is drawn

Floats = NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True)
class Parents:
    """Isolated galaxies, each in the middle of its cutout.

    Attributes
    ----------
    light : ndarray of float32, shape (n, size, size)
        [nJy per pixel]; galaxies lie within half a pixel of the middle.
    flux : ndarray of float64, shape (n,)
        All light in the cutout, or for parents with noise what was measured [nJy].
    radius : ndarray of float64, shape (n,)
        Of the circle with half of the light [pixel]. Where `fwhm` is known, the blur by the point
        spread function is taken away, in quadrature.
    kind : ndarray of int8, shape (n,)
        Place in KINDS; -1 where nobody knows.
    fwhm : ndarray of float64, shape (n,)
        Of the point spread function [pixel]; NaN where nobody knows.
    noise : ndarray of float64, shape (n,)
        Sigma of the noise that is in the pixels already [nJy]; 0 for simulated parents.
    ids : tuple of str
    rejected : dict
        Of a folder: files that could not be used, and why.
    """

    light: NDArray[np.float32]
    flux: Floats
    radius: Floats
    kind: NDArray[np.int8]
    fwhm: Floats
    noise: Floats
    ids: tuple[str, ...]
    rejected: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side of the cutouts [pixel]."""
        return int(self.light.shape[1])

    @property
    def magnitude(self) -> Floats:
        """AB magnitudes, shape (n,); NaN without light."""
        flux = np.where(self.flux > 0, self.flux, np.nan)
        return np.asarray(ZERO_POINT - 2.5 * np.log10(flux))


@dataclass(frozen=True)
class Population:
    """Which galaxies there are: magnitudes, and sizes that fall with them."""

    brightest: float = 18.5  # AB magnitude
    faintest: float = 23.5
    slope: float = 0.3  # of the logarithm of numbers, per magnitude
    radius: float = 9.0  # median at 22.5 mag: half light, along the long axis [pixel]
    scatter: float = 0.67  # of the natural logarithm of the radius


DEEP = Population()  # from space, 0.06 arcsec/pixel: pairs are found as often as published
WIDE = Population(20.0, 23.5, 0.35, 3.5, 0.45)  # from the ground, 0.19 arcsec/pixel


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
        Overlap, central, companion: where a galaxy's own light exceeds MASK_LEVEL times `noise`.
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
        """Distance of companion and central, shape (n,) [pixel]; NaN where there is none."""
        return np.hypot(self.dx, self.dy)


def split(n: int, seed: int, test: float = 0.2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the galaxies for training and of those for tests; no galaxy is in both."""
    order = np.random.default_rng([seed, n]).permutation(n)
    n_test = int(test * n)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def simulate_parents(
    n: int,
    seed: int,
    *,
    size: int = 128,
    fwhm: Sequence[float] = (3.0,),
    population: Population = DEEP,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Parents:
    """Draw isolated galaxies without noise, with magnitudes, sizes and shapes like a deep field's.

    Parameters
    ----------
    n : int
    seed : int
        Galaxy k of a seed is always the same.
    size : int
        Side of a cutout [pixel].
    fwhm : sequence of float
        Of the point spread functions that galaxies are seen through [pixel]; each gets one.
    population : Population
        DEEP for the recipe PAIRS, WIDE for BLENDS: `recipe.population`.
    first : int
        Number of the first galaxy.
    progress : callable, optional
        Called with 1 after each galaxy.
    """
    light = np.empty((n, size, size), np.float32)
    radius, seen = np.empty(n), np.empty(n)
    kind = np.empty(n, np.int8)
    for k in range(n):
        rng = np.random.default_rng([seed, first + k])
        kind[k] = rng.choice(len(KINDS), p=SHARES)
        seen[k] = fwhm[int(rng.integers(len(fwhm)))]
        centre = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.5)))
        smooth, knots = _draw_galaxy(KINDS[kind[k]], population, rng)
        light[k] = picture(smooth, knots, centre, seen[k], size)
        radius[k] = unblurred(half_light_radius(light[k], centre), seen[k])
        if progress:
            progress(1)
    flux = light.sum(axis=(1, 2), dtype=np.float64)
    ids = tuple(f"sim{seed}-{first + k:06d}" for k in range(n))
    return Parents(light, flux, radius, kind, seen, np.zeros(n), ids)


def _draw_galaxy(
    kind: str, population: Population, rng: Generator
) -> tuple[list[Smooth], list[Knots]]:
    """Choose the parts of a galaxy around its middle, of a magnitude and size that go together."""
    low, high = 10 ** (population.slope * np.array([population.brightest, population.faintest]))
    magnitude = np.log10(rng.uniform(low, high)) / population.slope
    flux = float(10 ** (0.4 * (ZERO_POINT - magnitude)))
    typical = population.radius * 10 ** (-0.09 * (magnitude - 22.5))
    radius = float(np.clip(typical * np.exp(rng.normal(0, population.scatter)), 0.8, 40))
    angle = float(rng.uniform(0, np.pi))
    if kind == "irregular":
        return _irregular(flux, radius, angle, rng)
    if kind == "bulge":
        return [_bulge(flux, 0.7 * radius, angle, rng)], []
    share = float(rng.uniform(0.15, 0.7)) if kind == "bulge+disc" else 0.0
    axis_ratio = float(np.hypot(0.2, rng.uniform(0.1, 0.98)))  # thin discs, seen from anywhere
    smooth, knots = _disc(flux * (1 - share), radius, axis_ratio, angle, rng)
    if share:
        smooth.append(_bulge(flux * share, radius * rng.uniform(0.15, 0.5), angle, rng))
    return smooth, knots


def _bulge(flux: float, radius: float, angle: float, rng: Generator) -> Smooth:
    index = BULGE_INDICES[rng.integers(len(BULGE_INDICES))]
    axis_ratio = float(rng.uniform(0.5, 1))
    return Smooth(index, max(radius, 0.5) * np.sqrt(axis_ratio), axis_ratio, angle, flux)


def _disc(
    flux: float, radius: float, axis_ratio: float, angle: float, rng: Generator
) -> tuple[list[Smooth], list[Knots]]:
    """A disc; every other one shows knots, on two arms or anywhere."""
    share = float(rng.uniform(0.05, 0.3)) if rng.random() < 0.5 else 0.0
    smooth = [Smooth(1, radius * np.sqrt(axis_ratio), axis_ratio, angle, flux * (1 - share))]
    if not share:
        return smooth, []
    n_knots = int(rng.integers(30, 200))
    distance = radius * rng.gamma(3, 0.4, n_knots)
    turn = rng.uniform(0, 2 * np.pi, n_knots)
    if rng.random() < 0.6:  # two arms on a logarithmic spiral
        pitch = np.tan(np.deg2rad(rng.uniform(12, 35))) * rng.choice((-1, 1))
        arm = turn[0] + np.pi * rng.integers(0, 2, n_knots)
        turn = arm + np.log(distance / radius) / pitch + rng.normal(0, 0.2, n_knots)
    plane = np.stack([distance * np.cos(turn), axis_ratio * distance * np.sin(turn)], 1)
    width = float(radius * rng.uniform(0.05, 0.2))
    return smooth, [Knots(_turned(plane, angle), _parts(share * flux, n_knots, rng), width)]


def _irregular(
    flux: float, radius: float, angle: float, rng: Generator
) -> tuple[list[Smooth], list[Knots]]:
    """A faint body, a few lumps beside its middle and knots between them; about their centroid."""
    n_lumps, n_knots = int(rng.integers(1, 5)), int(rng.integers(20, 80))
    shares = rng.dirichlet((6, 3, 2))
    axis_ratio = float(rng.uniform(0.35, 1))
    flat = np.array([1, axis_ratio])
    places = _turned(rng.normal(0, 0.5 * radius, (n_lumps, 2)) * flat, angle)
    lumps = _parts(shares[1] * flux, n_lumps, rng)
    points = _turned(rng.normal(0, 0.7 * radius, (n_knots, 2)) * flat, angle)
    points += places[rng.integers(n_lumps, size=n_knots)] * 0.5
    knots = _parts(shares[2] * flux, n_knots, rng)
    middle = (lumps @ places + knots @ points) / flux
    long = radius * np.sqrt(axis_ratio)
    place_of_body = (-float(middle[0]), -float(middle[1]))
    smooth = [Smooth(1, long, axis_ratio, angle, shares[0] * flux, place_of_body)]
    for place, part in zip(places - middle, lumps, strict=True):
        size, round_ = radius * rng.uniform(0.25, 0.6), float(rng.uniform(0.5, 1))
        turn = float(rng.uniform(0, np.pi))
        smooth.append(Smooth(1, size, round_, turn, part, (float(place[0]), float(place[1]))))
    return smooth, [Knots(points - middle, knots, float(0.1 * radius))]


def _parts(flux: float, n: int, rng: Generator) -> Floats:
    """Share a flux among n pieces, a few of them bright."""
    share = rng.pareto(3.0, n) + 0.5
    return np.asarray(flux * share / share.sum())


def _turned(places: Floats, angle: float) -> Floats:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(places @ np.array([[cos, sin], [-sin, cos]]))


@dataclass(frozen=True)
class _Choice:
    """Which galaxies meet, where, and how they are turned."""

    rows: tuple[int, int]  # the second is -1 for a single galaxy
    offset: tuple[int, int]  # dx, dy [pixel]
    factors: tuple[float, float]  # of their light
    turns: tuple[int, int]  # 0 to 7


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
        For training: galaxies are also turned, mirrored and up to 0.3 mag brighter or fainter.

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
    for _ in range(1000):
        rows = chosen[rng.integers(len(chosen), size=2)]
        factors = 10 ** (0.4 * rng.uniform(-0.3, 0.3, 2)) if vary else np.ones(2)
        turns = rng.integers(8, size=2) if vary else np.zeros(2, int)
        offset: tuple[int, int] | None = (0, 0)
        if single:
            rows = np.array([rows[0], -1])
        elif _may_meet(parents, rows, factors, recipe):
            offset = _place(parents.radius[rows], recipe, rng)
        else:
            continue
        if offset is not None:
            return _Choice(
                (int(rows[0]), int(rows[1])),
                offset,
                (float(factors[0]), float(factors[1])),
                (int(turns[0]), int(turns[1])),
            )
    raise ValueError(
        f"none of {len(chosen)} galaxies found a partner with the same point spread function "
        f"within {recipe.max_mag_difference} mag; choose from more of them"
    )


def _may_meet(parents: Parents, rows: NDArray, factors: Floats, recipe: Recipe) -> bool:
    flux = parents.flux[rows] * factors
    first, second = parents.fwhm[rows]
    return bool(
        rows[0] != rows[1]
        and (first == second or np.isnan(first) or np.isnan(second))
        and min(flux) > 0
        and abs(np.log10(flux[0] / flux[1])) < 0.4 * recipe.max_mag_difference
    )


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
    """Put the truth about all cutouts together."""
    rows = np.array([choice.rows for choice in choices], np.int64).reshape(-1, 2)
    factors = np.array([choice.factors for choice in choices]).reshape(-1, 2)
    offsets = np.array([choice.offset for choice in choices], np.float32).reshape(-1, 2)
    there = rows >= 0
    offsets[~there[:, 1]] = np.nan
    masks = np.empty((*pixels.shape, len(MASKS)), np.uint8)
    for which in (0, 1):
        masks[..., 1 + which] = light[:, which] > (MASK_LEVEL * noise)[:, None, None]
    np.logical_and(masks[..., 1], masks[..., 2], out=masks[..., 0])
    return Pairs(
        pixels=pixels,
        flux=np.where(there, parents.flux[rows] * factors, np.nan),
        light=np.moveaxis(light, 1, -1),
        masks=masks,
        dx=offsets[:, 0],
        dy=offsets[:, 1],
        is_blend=there[:, 1],
        noise=noise,
        parent=rows,
        kind=np.where(there, parents.kind[rows], -1).astype(np.int8),
        radius=np.where(there, parents.radius[rows], np.nan).astype(np.float32),
        fwhm=parents.fwhm[rows[:, 0]].astype(np.float32),
    )
