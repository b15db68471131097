"""Light on the pixels of the simulated camera: what a source looks like through air and optics.

GalSim says how profiles look in Fourier space (the extra `simulate`); pictures of a few sources
are made once for each CCD and pasted with numpy. Which sources there are is for `camera`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL, WIDE = 64, 192  # sides of the picture of a source and of a bright star [pixel]
FINE = {SMALL: 3, WIDE: 1}  # steps per pixel: a picture is kept at so many places in each axis
N_GALAXIES = 18  # different galaxies on one CCD
OBSCURATION = 0.45  # of the telescope's mirror by the prime focus, by radius
RADII = (  # half light [pixel], how many different ones there are, and the faintest magnitude
    (1.0, 2.2, 36, 99.0),
    (1.8, 4.0, 24, 23.0),
    (3.5, 8.0, 12, 21.0),
)

Grid = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Seen:
    """How a point looks: the seeing, a stretch, a ring when out of focus, a trail."""

    fwhm: float  # [pixel]
    shear: tuple[float, float]  # GalSim's g1, g2
    ring: float  # outer radius of the image of the mirror, 0 in focus [pixel]
    trail: NDArray[np.float64]  # (k, 2) x and y of the image at equal steps of time [pixel]


@dataclass(frozen=True)
class Pictures:
    """Sources of unit flux on one CCD, each at every step within a pixel."""

    faint: NDArray[np.float32]  # (1 + galaxies, steps, steps, SMALL, SMALL), the first is a star
    bright: NDArray[np.float32]  # (1, 1, 1, WIDE, WIDE), a star
    group: NDArray[np.int64]  # (1 + galaxies,), place in RADII; -1 is a star


def need_galsim() -> None:
    """Raise an explained error where GalSim is not installed."""
    try:
        import galsim  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            "the simulated camera needs GalSim: pip install 'skygloss[simulate]'"
        ) from error


def pictures(seen: Seen, rng: np.random.Generator) -> Pictures:
    """Draw a star and a few galaxies as they look through `seen`."""
    shapes, group = _galaxies()
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(group == g), N_GALAXIES // len(RADII), replace=False)
            for g in range(len(RADII))
        ]
    )
    blur = _blur(seen, SMALL)
    faint = np.stack([blur, *(shapes[chosen] * blur)])
    bright = _on_pixels(_blur(seen, WIDE)[None], WIDE)
    return Pictures(
        _on_pixels(faint, SMALL),
        np.maximum(bright - bright[..., WIDE // 2, 0], 0),  # a brilliant star shows no square
        np.concatenate([[-1], group[chosen]]),
    )


def paste(
    image: NDArray[np.float32], picture: NDArray[np.float32], flux: float, x: float, y: float
) -> None:
    """Add a picture (steps, steps, h, w) times a flux to an image, its centre on x, y."""
    steps, size = picture.shape[0], picture.shape[-1]
    column, row = round(x * steps), round(y * steps)
    right, up = -column % steps, -row % steps
    left = (column + right) // steps - size // 2
    bottom = (row + up) // steps - size // 2
    height, width = image.shape
    x0, x1 = max(left, 0), min(left + size, width)
    y0, y1 = max(bottom, 0), min(bottom + size, height)
    if x0 < x1 and y0 < y1:
        part = picture[up, right, y0 - bottom : y1 - bottom, x0 - left : x1 - left]
        image[y0:y1, x0:x1] += part * np.float32(flux)


def bleed(image: NDArray[np.float32], full_well: float) -> None:
    """Let charge beyond the full well run along its column, both ways, in place."""
    for column in np.flatnonzero((image > full_well).any(axis=0)):
        line = image[:, column]
        full = np.flatnonzero(line > full_well)
        for run in np.split(full, np.flatnonzero(np.diff(full) > 1) + 1):
            excess = float((line[run] - full_well).sum())
            reach = round(excess / full_well / 2)
            line[max(run[0] - reach, 0) : run[-1] + reach + 1] = full_well


def _blur(seen: Seen, size: int) -> Grid:
    """Fourier transform of a point as the pixels see it, shape (n, n // 2 + 1)."""
    import galsim

    parts = [galsim.Kolmogorov(fwhm=seen.fwhm), galsim.Pixel(1.0)]
    if seen.ring > 0:
        disc = galsim.TopHat(seen.ring)
        hole = galsim.TopHat(seen.ring * OBSCURATION) * OBSCURATION**2
        parts.append((disc - hole) / (1 - OBSCURATION**2))
    shear = galsim.Shear(g1=seen.shear[0], g2=seen.shear[1])
    still = _transform(galsim.Convolve(parts).shear(shear), size)
    return still * _trail(seen.trail, size)


def _trail(trail: NDArray[np.float64], size: int) -> Grid:
    """Fourier transform of the way of the image over the pixels."""
    n = size * FINE[size]
    way = np.zeros((n, n))
    x, y = ((trail - trail.mean(axis=0)) * FINE[size] % n).T
    left, bottom = np.floor(x).astype(int), np.floor(y).astype(int)
    for up in (0, 1):
        for right in (0, 1):
            part = (1 - abs(x - left - right)) * (1 - abs(y - bottom - up))
            np.add.at(way, ((bottom + up) % n, (left + right) % n), part)
    return np.fft.rfft2(way / len(trail))


@lru_cache(maxsize=1)
def _galaxies() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fourier transforms of galaxies of unit flux, and the group in RADII of each."""
    import galsim

    rng = np.random.default_rng(20)  # the same galaxies for every camera and seed
    shapes, group = [], []
    for number, (least, most, count, _) in enumerate(RADII):
        for _ in range(count):
            radius = float(np.exp(rng.uniform(np.log(least), np.log(most))))
            disc: Any = galsim.Exponential(half_light_radius=radius)
            bulge = galsim.DeVaucouleurs(half_light_radius=radius * 0.4)
            share = float(rng.beta(1, 3))
            shear = galsim.Shear(
                q=float(rng.uniform(0.25, 1)), beta=float(rng.uniform(0, np.pi)) * galsim.radians
            )
            shapes.append(_transform((disc * (1 - share) + bulge * share).shear(shear), SMALL))
            group.append(number)
    return np.stack(shapes).astype(np.float32), np.array(group)


def _transform(profile: Any, size: int) -> NDArray[np.float64]:
    """Half of the (real) Fourier transform of a symmetric profile, shape (n, n // 2 + 1)."""
    n = size * FINE[size]
    image = profile.drawKImage(nx=n, ny=n, scale=2 * np.pi / size)
    return np.fft.ifftshift(image.array.real)[:, : n // 2 + 1]


def _on_pixels(transforms: Grid, size: int) -> NDArray[np.float32]:
    """Pictures of unit flux from transforms (k, n, n // 2 + 1), at every step within a pixel."""
    steps = FINE[size]
    n = size * steps
    fine = np.fft.fftshift(np.fft.irfft2(transforms, (n, n)), axes=(1, 2)) * steps**2
    split = fine.reshape(-1, size, steps, size, steps)  # (k, h, steps, w, steps)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3), np.float32)
