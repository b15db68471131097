"""Exposures of the simulated camera as multi-extension FITS files, laid out like MegaCam's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.camera import Camera, Exposure


def write(exposure: Exposure, path: Path, compress: bool = True, *, wcs: bool = True) -> None:
    """Write an exposure, Rice-compressed unless told otherwise.

    Parameters
    ----------
    exposure : Exposure
    path : Path
        Overwritten if it exists.
    compress : bool
    wcs : bool
        False leaves out where the CCDs look.
    """
    write_ccds(exposure.camera, exposure.header, exposure.ccds, path, compress, wcs=wcs)


def write_ccds(
    camera: Camera,
    header: dict[str, Any],
    ccds: Iterable[NDArray],
    path: Path,
    compress: bool = True,
    *,
    wcs: bool = True,
) -> None:
    """Write CCDs as they come: no more than one is in memory."""
    from astropy.io import fits

    primary = fits.PrimaryHDU(header=fits.Header(list(header.items())))
    primary.header["NEXTEND"] = camera.n_ccds
    primary.writeto(path, overwrite=True)
    kind = fits.CompImageHDU if compress else fits.ImageHDU
    for number, pixels in enumerate(ccds):
        cards = fits.Header({"EXTNAME": f"ccd{number:02d}", "FILTER": header["FILTER"]})
        if wcs:
            cards.update(_wcs_cards(camera, header, number))
        with fits.open(path, mode="append") as file:
            file.append(kind(np.asarray(pixels), header=cards))


def _wcs_cards(camera: Camera, header: dict[str, Any], number: int) -> dict[str, Any]:
    """Gnomonic projection about the middle of the mosaic; x grows to the west, y to the north."""
    x, y = camera.corner(number)
    step = camera.pixel_scale / 3600
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": header["RA_DEG"],
        "CRVAL2": header["DEC_DEG"],
        "CRPIX1": 1.0 - x,
        "CRPIX2": 1.0 - y,
        "CD1_1": -step,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": step,
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "RADESYS": "ICRS",
    }


def without_amplifier(pixels: NDArray, value: float = 0.0) -> NDArray:
    """Return a CCD whose left half was never read: one value there, or NaN (then float32)."""
    broken = pixels.astype(np.float32) if np.isnan(value) else pixels.copy()
    broken[:, : pixels.shape[1] // 2] = value
    return broken


def damage(path: Path, number: int) -> None:
    """Overwrite the pixels of one CCD of a compressed file, so that it cannot be read."""
    from astropy.io import fits

    with fits.open(path, disable_image_compression=True) as file:
        place = file[number + 1].fileinfo()
    with path.open("r+b") as raw:
        raw.seek(place["datLoc"])
        raw.write(b"\xff" * place["datSpan"])
