"""What is on an exposure: its CCDs measured one by one, a fair sample of sources, a picture.

Reads a file and knows no database; `db.exposures` stores what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS
from numpy.typing import NDArray

from db import exposure_preview
from db.cutout_fits import pixel_scale
from db.detection import CcdFlag, Detection, Sample, Sampler, detect, nothing
from db.exposure_files import (
    ExposureFile,
    Facts,
    Image,
    facts,
    footprint,
    plain_header,
    to_sky,
    usable_wcs,
)
from db.exposure_preview import Miniature

UNUSABLE = CcdFlag.UNREADABLE | CcdFlag.NO_SIGNAL


class ExposureFlag(IntFlag):
    """What can be wrong with an exposure (column `exposure.flags`)."""

    NOTHING_DETECTED = 1
    SOME_UNUSABLE = 2
    NONE_USABLE = 4
    NO_WCS = 8
    FACTS_MISSING = 16


@dataclass(frozen=True)
class Ccd:
    """What is known of one CCD: `footprint` (4, 2) is ICRS [deg], None without usable WCS."""

    number: int
    name: str
    width: int
    height: int
    footprint: NDArray[np.float64] | None
    detection: Detection
    flags: CcdFlag


@dataclass(frozen=True)
class Contents:
    """What was found in the file of an exposure.

    Attributes
    ----------
    ra, dec : float or None
        The middle of the CCDs, ICRS [deg].
    sample : Sample
        Places on the CCDs are 0-based pixels of the images in the file.
    sample_ra, sample_dec : ndarray of float64, shape (n,)
        NaN on CCDs without usable WCS.
    preview : bytes
        JPEG.
    problems : list of str
        What could not be read, and why.
    """

    facts: Facts
    header: dict[str, Any]
    ra: float | None
    dec: float | None
    ccds: list[Ccd]
    sample: Sample
    sample_ra: NDArray[np.float64]
    sample_dec: NDArray[np.float64]
    preview: bytes
    flags: ExposureFlag
    n_pixels: int
    problems: list[str]

    @property
    def n_detected(self) -> int:
        """Sources detected on all CCDs."""
        return sum(ccd.detection.n for ccd in self.ccds)


def examine(path: Path, n_sample: int, seed: int) -> Contents:
    """Detect sources on all CCDs of a file and draw a fair sample of them.

    Parameters
    ----------
    n_sample : int
        Sources to draw, at most.
    seed : int
        The same file and seed give the same sample.

    Raises
    ------
    NotAnExposure
        See `db.exposure_files`.
    """
    file = ExposureFile(path)
    view = _View(Sampler(n_sample, seed))
    for number, image in enumerate(file):
        view.add(number, image)
    if file.unreadable_from is not None:
        view.problems.append(f"unreadable near byte {file.unreadable_from:,}: no header of FITS")
    elif file.n_missing:
        view.problems.append(f"{file.n_missing} of the extensions announced are not in the file")
    told = facts([file.header, view.first_header or Header()])
    sample = view.sampler.sample()
    sample_ra, sample_dec = _on_the_sky(sample, view.wcs)
    ra, dec = _middle(view.ccds)
    return Contents(
        replace(told, pixel_scale=_scale(view.wcs) or told.pixel_scale),
        _header(file.header, view),
        ra,
        dec,
        view.ccds,
        sample,
        sample_ra,
        sample_dec,
        exposure_preview.compose(view.miniatures),
        _flags(view, told, file.n_missing),
        view.n_pixels,
        view.problems,
    )


@dataclass
class _View:
    """What is kept of the CCDs that have gone by; not their pixels."""

    sampler: Sampler
    ccds: list[Ccd] = field(default_factory=list)
    wcs: list[WCS | None] = field(default_factory=list)
    miniatures: list[Miniature] = field(default_factory=list)
    first_header: Header | None = None
    n_pixels: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, number: int, image: Image) -> None:
        """Measure a CCD, and let its sources draw."""
        size = (image.width, image.height)
        wcs = usable_wcs(image.header, *size)
        corners = None if wcs is None else footprint(wcs, *size)
        found = self._measure(number, image, corners)
        flags = found.flags | (CcdFlag.NO_WCS if wcs is None else 0)
        self.first_header = self.first_header or image.header
        self.wcs.append(wcs)
        self.ccds.append(Ccd(number, image.name, *size, corners, found, flags))

    def _measure(self, number: int, image: Image, corners: NDArray[np.float64] | None) -> Detection:
        """Detect the sources of a CCD; one that cannot be measured, whyever, becomes a flag."""
        if image.pixels is None:
            self.problems.append(image.problem)
            return nothing(CcdFlag.UNREADABLE)
        pixels = _in_range(image.pixels)
        self.n_pixels += pixels.size
        try:
            found = detect(pixels)
            small = exposure_preview.shrink(pixels)
        except Exception as error:  # sep raises nothing more special
            self.problems.append(f"{image.name}: cannot be searched: {error}")
            return nothing(CcdFlag.UNREADABLE)
        self.sampler.add(number, pixels, found, image.left, image.bottom)
        self.miniatures.append(Miniature(small, (image.width, image.height), corners))
        return found


def _in_range(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels as they are, but 64-bit floats in 32 bits: what does not fit there has no value."""
    if pixels.dtype.kind != "f" or pixels.dtype.itemsize <= 4:
        return pixels
    with np.errstate(over="ignore"):
        single = pixels.astype(np.float32)
    single[np.isinf(single)] = np.nan
    return single


def _on_the_sky(
    sample: Sample, all_wcs: list[WCS | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the sampled sources; those that cannot be had are NaN, both together."""
    ra, dec = np.full((2, len(sample.x)), np.nan)
    for number, wcs in enumerate(all_wcs):
        if wcs is not None and (on_it := sample.ccd == number).any():
            ra[on_it], dec[on_it] = to_sky(wcs, sample.x[on_it], sample.y[on_it])
    lost = ~(np.isfinite(ra) & np.isfinite(dec))
    ra[lost] = dec[lost] = np.nan
    return ra, dec


def _header(primary: Header, view: _View) -> dict[str, Any]:
    """Cards of the primary header, and of the only image if there is but one."""
    alone = plain_header(view.first_header) if view.first_header and len(view.ccds) == 1 else {}
    return alone | plain_header(primary)


def _middle(ccds: list[Ccd]) -> tuple[float | None, float | None]:
    """The middle of the CCDs that have a place on the sky, ICRS [deg]."""
    corners = [ccd.footprint for ccd in ccds if ccd.footprint is not None]
    if not corners:
        return None, None
    ra, dec = np.deg2rad(np.concatenate(corners)).T
    x, y = (np.mean(np.cos(dec) * around) for around in (np.cos(ra), np.sin(ra)))
    middle = np.rad2deg([np.arctan2(y, x), np.arctan2(np.mean(np.sin(dec)), np.hypot(x, y))])
    ra = float(middle[0] % 360)
    return ra if ra < 360 else 0.0, float(middle[1])


def _scale(all_wcs: list[WCS | None]) -> float | None:
    """Median pixel scale [arcsec/pixel]."""
    scales = [pixel_scale(wcs) for wcs in all_wcs if wcs is not None]
    return float(np.median(scales)) if scales else None


def _flags(view: _View, told: Facts, n_missing: int) -> ExposureFlag:
    unusable = [bool(ccd.flags & UNUSABLE) for ccd in view.ccds]
    flags = ExposureFlag(0)
    if not any(ccd.detection.n for ccd in view.ccds):
        flags |= ExposureFlag.NOTHING_DETECTED
    if all(unusable):
        flags |= ExposureFlag.NONE_USABLE
    elif any(unusable) or n_missing:
        flags |= ExposureFlag.SOME_UNUSABLE
    if all(wcs is None for wcs in view.wcs):
        flags |= ExposureFlag.NO_WCS
    if None in (told.instrument, told.band, told.mjd, told.exposure_time):
        flags |= ExposureFlag.FACTS_MISSING
    return flags
