"""Cutouts in FITS files: the pixels as (h, w, b), and what the header says about them.

Row 0 of an array is row 0 of the FITS image, which most viewers show at the bottom.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

LARGEST = 4096  # pixel; larger images are not cutouts
LARGEST_BYTES = LARGEST**2 * 4 * 8  # eight bands of four bytes

UNITS = {
    "nanomaggy": "nanomaggy",
    "nanomaggies": "nanomaggy",
    "nmgy": "nanomaggy",
    "njy": "nJy",
    "adu": "adu",
    "count": "adu",
    "counts": "adu",
}


def read_cutout(
    content: bytes, largest: int = LARGEST, largest_bytes: int = LARGEST_BYTES
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the first image of a FITS file, given its bytes.

    Its size is looked at before it is unpacked: a small file can unpack to gigabytes.

    Parameters
    ----------
    largest : int
        Longest side of the image [pixel].
    largest_bytes : int
        Most that its pixels may take, unpacked [byte].

    Returns
    -------
    pixels : ndarray, shape (h, w, b)
        In the file's type, native byte order.
    told : dict
        What the header tells of `bands` (tuple), `pixel_scale` [arcsec/pixel] and `unit`.

    Raises
    ------
    OSError, ValueError
        The file is damaged, has no image of two or three axes, or one that is too large.
    """
    with fits.open(BytesIO(content)) as hdus:
        hdu = first_image(hdus)
        _check_size(hdu.header, largest, largest_bytes)
        try:
            return as_cutout(hdu.data), describe(hdu.header)
        except TypeError as error:  # "buffer is too small for requested array"
            raise ValueError(f"the file is cut short at {len(content)} bytes") from error


def _check_size(header: fits.Header, largest: int, largest_bytes: int) -> None:
    sides = [header[f"NAXIS{axis}"] for axis in range(1, header["NAXIS"] + 1)]
    n_bytes = math.prod(sides) * abs(header["BITPIX"]) // 8
    if max(sides[:2]) > largest or n_bytes > largest_bytes:
        raise ValueError(
            f"expected at most {largest} pixels on a side and {largest_bytes} bytes, but the image "
            f"has {' x '.join(map(str, sides))} pixels, {n_bytes} bytes"
        )


def first_image(hdus: fits.HDUList) -> Any:
    """Return the first HDU that holds an image, compressed or not."""
    for hdu in hdus:
        if hdu.is_image and hdu.header.get("NAXIS", 0) in (2, 3):
            return hdu
    raise ValueError("the FITS file has no image of two or three axes")


def as_cutout(data: np.ndarray) -> np.ndarray:
    """Turn FITS pixels (h, w) or (b, h, w) into (h, w, b) in native byte order."""
    cube = data[None] if data.ndim == 2 else data
    return np.ascontiguousarray(np.moveaxis(cube, 0, -1), cube.dtype.newbyteorder("="))


def describe(header: fits.Header) -> dict[str, Any]:
    """Return what a header tells of `bands`, `pixel_scale` [arcsec/pixel] and `unit`."""
    told: dict[str, Any] = {}
    if bands := str(header.get("BANDS", header.get("BAND", header.get("FILTER", "")))).strip():
        told["bands"] = tuple(bands) if "BANDS" in header else (bands.split()[0],)
    wcs = WCS(header, naxis=2)
    if wcs.has_celestial:
        told["pixel_scale"] = pixel_scale(wcs)
    if unit := UNITS.get(str(header.get("BUNIT", "")).strip().lower()):
        told["unit"] = unit
    elif "BANDS" in header:  # the cutout service of the Legacy Surveys names no unit
        told["unit"] = "nanomaggy"
    return told


def pixel_scale(wcs: WCS) -> float:
    """Return the mean side of a pixel [arcsec]."""
    return float(np.mean(proj_plane_pixel_scales(wcs.celestial)) * 3600)
