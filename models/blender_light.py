"""The light of isolated galaxies, whose half-light radii are known before they are drawn.

Profiles are added in Fourier space, where the point spread function is a product; GalSim (the extra
`simulate`) says how they look there. Which galaxies there are is decided in `blender`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

BULGE_INDICES = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0)  # Sersic; one table in memory for each
MOFFAT = 3.5  # power of the point spread function's wings
EDGE = 24  # pixels over which the light of large galaxies fades out before the border
FINE = 8  # rings per pixel that half of the light is looked for in
STEPS = 2048  # of a table, uniform in log(1 + k * radius)
LARGEST = 2000.0  # k * radius that a table ends with

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Smooth:
    """An elliptical Sersic profile."""

    index: float
    radius: float  # half light, of the circle of the same area [pixel]
    axis_ratio: float
    angle: float  # of the long axis, from x [rad]
    flux: float
    place: tuple[float, float] = (0.0, 0.0)  # x, y from the middle of the galaxy [pixel]


@dataclass(frozen=True)
class Knots:
    """Round pieces of one width."""

    places: NDArray[np.float64]  # (k, 2) x, y from the middle of the galaxy [pixel]
    fluxes: NDArray[np.float64]  # (k,)
    width: float  # Gaussian sigma [pixel]


def picture(
    smooth: list[Smooth], knots: list[Knots], centre: tuple[float, float], fwhm: float, size: int
) -> Map:
    """Light per pixel, shape (size, size), float32, of the parts seen through a Moffat function.

    Parameters
    ----------
    smooth, knots : list
        Parts of the galaxy.
    centre : tuple of float
        x, y of the galaxy's middle from the middle of the picture [pixel].
    fwhm : float
        Of the point spread function [pixel]; pixels are square and add their own blur.
    size : int
        Side of the picture [pixel].

    Notes
    -----
    Light fades out over the last EDGE pixels round the inscribed circle, and the corners are dark:
    a picture moved over another one shows no edge.
    """
    side = fft.next_fast_len(size * 3 // 2, real=True)
    kx, ky = _frequencies(side)
    total = np.zeros((side, side // 2 + 1), np.complex64)
    for part in smooth:
        transform = np.float32(part.flux) * _transform(part, kx, ky)
        if part.place != (0.0, 0.0):
            total += transform * _shifted(part.place, kx, ky)
        else:
            total += transform
    for group in knots:
        total += _points(group, side) * np.exp(np.float32(-0.5 * group.width**2) * (kx**2 + ky**2))
    middle = (size - 1) / 2
    total *= _blur(side, fwhm) * _shifted((centre[0] + middle, centre[1] + middle), kx, ky)
    light = fft.irfft2(total, s=(side, side))[:size, :size]
    return np.maximum(light, 0) * _fade(size)


def half_light_radius(light: Map, centre: tuple[float, float] = (0.0, 0.0)) -> float:
    """Radius of the circle about the centre with half of the light [pixel]; NaN without light.

    Parameters
    ----------
    light : ndarray of float32, shape (size, size)
    centre : tuple of float
        x, y from the middle of the picture [pixel].
    """
    axis = np.arange(len(light)) - (len(light) - 1) / 2
    distance = np.hypot(axis[None] - centre[0], axis[:, None] - centre[1])
    rings = np.bincount((FINE * distance).astype(int).ravel(), light.ravel())
    inside = np.cumsum(np.convolve(rings, np.ones(FINE) / FINE))  # a pixel is one pixel wide
    if not inside[-1] > 0:
        return float("nan")
    radii = (np.arange(len(inside)) + 1) / FINE - 0.5
    return float(max(np.interp(inside[-1] / 2, inside, radii), 0))


def unblurred(radius: float, fwhm: float) -> float:
    """Half-light radius without the point spread function, in quadrature; at least 0.5 [pixel]."""
    return float(np.sqrt(max(radius**2 - _radius_of_point(fwhm) ** 2, 0.25)))


@lru_cache(maxsize=64)
def _radius_of_point(fwhm: float) -> float:
    point = Knots(np.zeros((1, 2)), np.ones(1), 0.0)
    return half_light_radius(picture([], [point], (0.0, 0.0), fwhm, 64))


def _transform(part: Smooth, kx: Map, ky: Map) -> Map:
    """Fourier transform of a profile of unit flux, real."""
    cos, sin = np.cos(part.angle), np.sin(part.angle)
    stretch = np.sqrt(part.axis_ratio)
    along = (kx * np.float32(cos) + ky * np.float32(sin)) * np.float32(part.radius / stretch)
    across = (ky * np.float32(cos) - kx * np.float32(sin)) * np.float32(part.radius * stretch)
    square = along * along + across * across
    if part.index == 1:  # a disc: scale length radius / 1.678
        return (1 + square * np.float32(1 / 1.6783469900166605**2)) ** np.float32(-1.5)
    place = np.log1p(np.sqrt(square)) * np.float32((STEPS - 1) / np.log1p(LARGEST))
    left = np.minimum(place.astype(np.int32), STEPS - 2)
    table = _table(part.index)
    return table[left] + (place - left) * np.diff(table)[left]


@lru_cache(maxsize=16)
def _table(index: float) -> NDArray[np.float32]:
    """Transform of a round Sersic profile of half-light radius 1, at uniform log(1 + k)."""
    import galsim

    profile = galsim.Sersic(n=index, half_light_radius=1.0)
    places = np.expm1(np.linspace(0, np.log1p(LARGEST), STEPS))
    return np.array([profile.kValue(k, 0.0).real for k in places], np.float32)


@lru_cache(maxsize=8)
def _blur(side: int, fwhm: float) -> Map:
    """Transform of the point spread function on square pixels."""
    import galsim

    seen = galsim.Convolve(galsim.Moffat(beta=MOFFAT, fwhm=fwhm), galsim.Pixel(1.0))
    image = seen.drawKImage(nx=side, ny=side, scale=2 * np.pi / side).array.real
    return np.ascontiguousarray(np.fft.ifftshift(image)[:, : side // 2 + 1], np.float32)


@lru_cache(maxsize=4)
def _frequencies(side: int) -> tuple[Map, Map]:
    """Angular frequencies along x and y [1/pixel], broadcast to (side, side // 2 + 1)."""
    x = (2 * np.pi * np.fft.rfftfreq(side)).astype(np.float32)
    y = (2 * np.pi * np.fft.fftfreq(side)).astype(np.float32)
    return np.tile(x[None], (side, 1)), np.tile(y[:, None], (1, len(x)))


def _shifted(place: tuple[float, float], kx: Map, ky: Map) -> NDArray[np.complex64]:
    """Factor that moves a picture by x, y [pixel]."""
    along = np.exp(np.complex64(-1j) * kx[0] * np.float32(place[0]))
    up = np.exp(np.complex64(-1j) * ky[:, 0] * np.float32(place[1]))
    return along[None] * up[:, None]


def _points(group: Knots, side: int) -> NDArray[np.complex64]:
    """Transform of points, shared among the four nearest pixels; too far ones are lost."""
    plane = np.zeros((side, side), np.float32)
    corner = np.floor(group.places).astype(int)
    right = group.places - corner
    near = np.abs(group.places).max(axis=1) < side / 2 - 2
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.prod(np.where(step, right, 1 - right), axis=1) * group.fluxes
        x, y = (corner + step)[near].T
        np.add.at(plane, (y % side, x % side), share[near].astype(np.float32))
    return fft.rfft2(plane)


@lru_cache(maxsize=4)
def _fade(size: int) -> Map:
    """1 in the middle, 0 on and beyond the inscribed circle."""
    axis = np.arange(size) - (size - 1) / 2
    left = np.clip((size / 2 - np.hypot(axis[None], axis[:, None])) / EDGE, 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * left)).astype(np.float32)
