"""Small made-up CCDs with stars at known places, and FITS files of them."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

SCALE = 0.184  # arcsec/pixel
SKY, NOISE = 1000.0, 10.0
CARDS = {
    "INSTRUME": "MegaPrime",
    "FILTER": "r.MP9601",
    "EXPTIME": 120.0,
    "MJD-OBS": 58000.5,
    "OBJECT": "made up",
}


def grid_of(height: int, width: int, step: int = 24) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places of stars (x, y) a step apart, each off the middle of its pixel by another fraction."""
    y, x = np.mgrid[step / 2 : height - step / 2 : step, step / 2 : width - step / 2 : step]
    shift = np.random.default_rng(4).uniform(-0.5, 0.5, (2, x.size))
    return x.ravel() + shift[0], y.ravel() + shift[1]


def frame(
    height: int = 200,
    width: int = 128,
    stars: tuple[NDArray[Any], NDArray[Any]] | None = None,
    flux: float = 8000.0,
    fwhm: float = 4.0,
    seed: int = 1,
    dtype: str = "uint16",
    stretch: float = 1.0,
) -> NDArray[Any]:
    """Round stars on a noisy sky, shape (h, w); `stretch` makes them longer along x."""
    x, y = grid_of(height, width) if stars is None else stars
    sigma = fwhm / 2.3548
    rows, columns = np.arange(height), np.arange(width)
    profile_y = np.exp(-((rows[:, None] - y) ** 2) / 2 / sigma**2)
    profile_x = np.exp(-((columns[:, None] - x) ** 2) / 2 / (sigma * stretch) ** 2)
    light = flux / (2 * np.pi * sigma**2 * stretch) * profile_y @ profile_x.T
    noise = np.random.default_rng(seed).normal(SKY, NOISE, (height, width))
    pixels = light + noise
    return np.rint(pixels).astype(dtype) if np.dtype(dtype).kind in "iu" else pixels.astype(dtype)


def wcs_cards(number: int = 0, width: int = 128, ra: float = 150.0, dec: float = 2.0) -> dict:
    """A WCS that puts CCD after CCD in a row from east to west, about (ra, dec)."""
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "RADESYS": "ICRS",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CRPIX1": 1.0 - number * width * 1.1,
        "CRPIX2": 1.0,
        "CD1_1": -SCALE / 3600,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": SCALE / 3600,
    }


def write(
    path: Path,
    ccds: Sequence[NDArray[Any]],
    wcs: bool = True,
    cards: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write CCDs to a multi-extension file; compressed as the ending says. `more` goes to each."""
    primary = fits.PrimaryHDU(header=fits.Header(CARDS if cards is None else cards))
    primary.header["NEXTEND"] = len(ccds)
    kind = fits.CompImageHDU if path.name.endswith(".fz") else fits.ImageHDU
    hdus = fits.HDUList([primary])
    for number, pixels in enumerate(ccds):
        hdu = kind(pixels, name=f"ccd{number:02d}")
        hdu.header.update((wcs_cards(number, pixels.shape[1]) if wcs else {}) | (more or {}))
        hdus.append(hdu)
    if path.name.endswith(".gz"):
        plain = path.with_suffix("")
        hdus.writeto(plain)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    else:
        hdus.writeto(path)
    return path
