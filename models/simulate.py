"""The synthetic sky: galaxies, and the pieces of them that catalogs take for galaxies.

GalSim draws the light (the extra `simulate`); `pixels.to_rgb` turns it into the
pictures the networks see. A seed gives the same sky again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from models.pixels import to_rgb

BANDS = ("g", "r", "z")
ZERO_POINT = 22.5  # mag of one nanomaggy
DEPTH = {"g": 24.7, "r": 23.9, "z": 23.0}  # point-source depth of the survey, 5 sigma [mag]
RED, MIXED, BLUE = (0.85, 0.40), (0.55, 0.25), (0.15, 0.00)  # (g - r, r - z) [mag]


@dataclass(frozen=True)
class Simulated:
    """Pictures of sources with what is known about each."""

    rgb: NDArray[np.uint8]  # (n, size, size, 3)
    is_shred: NDArray[np.bool_]  # (n,)
    nucleus: NDArray[np.float32]  # (n, 2), x and y of the nucleus from the centre [pixel]


@dataclass(frozen=True)
class _Host:
    """A disc galaxy with a bulge and knots of young stars, in the sky plane."""

    magnitude: float  # r band
    radius: float  # half light, of the disc [pixel]
    axis_ratio: float
    angle: float  # of the long axis, from x [rad]
    bulge: float  # share of the r flux
    knots: NDArray[np.float64]  # (k, 2) offsets from the nucleus [pixel]
    knot_flux: NDArray[np.float64]  # (k,) shares of the r flux


def shred_cutouts(
    n_sources: int,
    seed: int,
    *,
    size: int = 128,
    pixel_scale: float = 0.262,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Draw galaxies centred on their nucleus and, alternating with them, shreds of galaxies.

    Parameters
    ----------
    n_sources : int
    seed : int
        Source k of a seed is the same whatever `n_sources` is.
    size : int
        Side of a picture [pixel].
    pixel_scale : float
        [arcsec/pixel]
    progress : callable, optional
        Called with 1 after each source.
    """
    rgb = np.empty((n_sources, size, size, 3), np.uint8)
    is_shred = np.arange(n_sources) % 2 == 1
    nucleus = np.empty((n_sources, 2), np.float32)
    for k in range(n_sources):
        rng = np.random.default_rng([seed, k])
        host = _draw_host(rng)
        nucleus[k] = _off_centre(host, rng) if is_shred[k] else rng.normal(0, 0.3, 2)
        flux = _picture(host, nucleus[k], size, pixel_scale, rng)
        rgb[k] = to_rgb(flux[None], BANDS, "nanomaggy")[0]
        if progress:
            progress(1)
    return Simulated(rgb, is_shred, nucleus)


def _draw_host(rng: np.random.Generator) -> _Host:
    magnitude = rng.uniform(15, 20)
    radius = np.exp(rng.uniform(np.log(6), np.log(30))) * 10 ** (-0.1 * (magnitude - 16))
    axis_ratio, angle = rng.uniform(0.2, 1), rng.uniform(0, np.pi)
    n_knots = rng.integers(5, 60)
    distance = radius * rng.gamma(3, 0.4, n_knots)
    turn = rng.uniform(0, 2 * np.pi, n_knots)
    if rng.random() < 0.6:  # two arms on a logarithmic spiral
        pitch = np.tan(np.deg2rad(rng.uniform(10, 35)))
        arm = turn[0] + np.pi * rng.integers(0, 2, n_knots)
        turn = arm + np.log(distance / radius) / pitch + rng.normal(0, 0.25, n_knots)
    disc = np.stack([distance * np.cos(turn), axis_ratio * distance * np.sin(turn)], 1)
    cos, sin = np.cos(angle), np.sin(angle)
    share = rng.pareto(1.5, n_knots) + 0.2
    return _Host(
        magnitude=magnitude,
        radius=radius,
        axis_ratio=axis_ratio,
        angle=angle,
        bulge=rng.beta(1, 3),
        knots=disc @ np.array([[cos, sin], [-sin, cos]]),
        knot_flux=share / share.sum() * rng.uniform(0.02, 0.35),
    )


def _off_centre(host: _Host, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where the nucleus lies when the picture is centred on a bright knot or a bit of the disc."""
    far = np.hypot(*host.knots.T) > max(3.0, 0.4 * host.radius)
    if far.any() and rng.random() < 0.7:
        chance = np.where(far, host.knot_flux, 0)
        return -host.knots[rng.choice(len(chance), p=chance / chance.sum())]
    distance = max(4.0, host.radius * rng.uniform(0.5, 1.8))
    turn = rng.uniform(0, 2 * np.pi)
    along, across = distance * np.cos(turn), distance * host.axis_ratio * np.sin(turn)
    cos, sin = np.cos(host.angle), np.sin(host.angle)
    return np.array([along * cos - across * sin, along * sin + across * cos])


def band_fluxes(magnitude: float, colour: tuple[float, float]) -> NDArray[np.float64]:
    """Fluxes in g, r and z [nanomaggy] of an r magnitude with a (g - r, r - z) colour."""
    mags = magnitude + np.array([colour[0], 0.0, -colour[1]])
    return 10 ** (0.4 * (ZERO_POINT - mags))


def _picture(
    host: _Host,
    nucleus: NDArray[np.floating],
    size: int,
    pixel_scale: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Flux per pixel, shape (size, size, 3) in g, r, z [nanomaggy], with field and noise."""
    import galsim

    seeing = rng.normal(1.3, 0.15) / pixel_scale  # FWHM [pixel]
    psf = galsim.Kolmogorov(fwhm=max(2.5, seeing))
    shear = galsim.Shear(q=host.axis_ratio, beta=host.angle * galsim.radians)
    disc = galsim.Exponential(half_light_radius=host.radius).shear(shear)
    bulge = galsim.DeVaucouleurs(half_light_radius=max(1.0, 0.25 * host.radius))
    total = band_fluxes(host.magnitude, MIXED)
    share = (1 - host.bulge) * (1 - host.knot_flux.sum())
    flux = _draw(disc, psf, nucleus, size)[..., None] * total * share
    flux += (
        _draw(bulge, psf, nucleus, size)[..., None] * band_fluxes(host.magnitude, RED) * host.bulge
    )
    points = np.zeros((size, size, 3))
    blue = band_fluxes(host.magnitude, BLUE)
    for offset, part in zip(host.knots, host.knot_flux, strict=True):
        _deposit(points, offset + nucleus, part * blue)
    _add_field(points, rng)
    kernel = psf.drawImage(nx=33, ny=33, scale=1.0).array
    for band in range(3):
        flux[..., band] += fftconvolve(points[..., band], kernel, mode="same")
    return flux + rng.normal(0, 1, flux.shape) * noise_per_pixel(seeing)


def _draw(profile: Any, psf: Any, offset: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """One component of unit flux, smeared by the seeing, shape (size, size)."""
    import galsim

    parameters = galsim.GSParams(maximum_fft_size=8192, folding_threshold=2e-2, maxk_threshold=5e-3)
    smeared = galsim.Convolve([profile, psf], gsparams=parameters)
    place = galsim.PositionD(float(offset[0]), float(offset[1]))
    image = smeared.drawImage(nx=size, ny=size, scale=1.0, offset=place, dtype=np.float64)
    return image.array


def _add_field(points: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Scatter unrelated faint sources over the picture, most of them red."""
    size = points.shape[0]
    for _ in range(rng.poisson(10)):
        magnitude = 24.0 - rng.exponential(1.2)
        colour = (rng.uniform(0.2, 1.6), rng.uniform(0, 1.2))
        _deposit(points, rng.uniform(-size / 2, size / 2, 2), band_fluxes(magnitude, colour))


def _deposit(
    points: NDArray[np.float64], offset: NDArray[np.floating], flux: NDArray[np.float64]
) -> None:
    """Share a point's flux among the four nearest pixels; outside the picture it is lost."""
    size = points.shape[0]
    x, y = offset + (size - 1) / 2
    left, bottom = int(np.floor(x)), int(np.floor(y))
    for row, up in ((bottom, 1 - (y - bottom)), (bottom + 1, y - bottom)):
        for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < size and 0 <= column < size:
                points[row, column] += up * right * flux


def noise_per_pixel(seeing: float) -> NDArray[np.float64]:
    """Noise per pixel in each band [nanomaggy] that gives the survey's depth at this seeing."""
    n_pixels = 4 * np.pi * (seeing / 2.355) ** 2  # noise-equivalent area of a Gaussian
    limits = np.array([10 ** (0.4 * (ZERO_POINT - DEPTH[band])) for band in BANDS])
    return limits / 5 / np.sqrt(n_pixels)
