"""Isolated galaxies that pairs are made of, simulated with sizes and shapes like a survey's.

How a galaxy's light looks is for `blender_light`; galaxies of the user are read in `blender_files`.
All light is in nJy, arrays are indexed [y, x], a seed gives the same galaxies again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.blender_light import (
    BULGE_INDICES,
    Knots,
    Smooth,
    half_light_radius,
    picture,
    unblurred,
)

ZERO_POINT = 31.4  # AB magnitude of one nJy
NANOMAGGY = 3631.0  # nJy
FIRST_TEST_SEED = 100  # trainings draw their galaxies from seeds 0 to 9, tests from here on
KINDS = ("bulge", "disc", "bulge+disc", "irregular")
SHARES = (352 / 1919, 433 / 1919, 702 / 1919, 432 / 1919)  # Boucaud et al. (2020), Table 1

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
    pixel_scale: float = 0.06  # arcsec/pixel


DEEP = Population()  # as from space: sep finds as many of the pairs as it did of the published ones
WIDE = Population(20.0, 23.5, 0.35, 3.5, 0.45, 0.187)  # as from the ground


def joined(pieces: Sequence[Parents]) -> Parents:
    """Several sets of parents as one."""
    names = ("light", "flux", "radius", "kind", "fwhm", "noise")
    arrays = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in names}
    ids = tuple(name for piece in pieces for name in piece.ids)
    rejected = {name: why for piece in pieces for name, why in piece.rejected.items()}
    return Parents(**arrays, ids=ids, rejected=rejected)


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
