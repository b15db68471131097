"""A stranger's picture, as the encoder wants to look at it: its scale, its part, its colours.

Decoding the file is the business of `db.pictures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from db.cutouts import CutoutFlag, Layout
from db.pictures import SMALLEST, Picture, UnusablePicture
from models.pixels import fit, missing_border
from web.cutouts import colour

LARGEST = 1e30  # of a pixel, so that sums of several can be told from infinity
MIN_MISSING = 0.01  # share of the field from which on it counts as partly outside


@dataclass(frozen=True)
class Framed:
    """Pixels, uint8 of shape (size, size, 3), what was done to them in words, and flags."""

    pixels: np.ndarray
    note: str
    flags: int


def frame(
    picture: Picture, layout: Layout, pixel_scale: float | None = None, whole: bool = False
) -> Framed:
    """Crop, resample, pad and stretch a picture about its centre to a layout.

    Parameters
    ----------
    pixel_scale : float, optional
        What the user says [arcsec/pixel]; default: what the file says, else the layout's.
    whole : bool
        Take the picture as a whole, whatever its scale.

    Raises
    ------
    UnusablePicture
        The picture shows too little of the sky to be looked at.
    """
    height, width = picture.pixels.shape[:2]
    scale, said = _scale(picture, layout, pixel_scale, whole)
    smallest = SMALLEST * layout.pixel_scale
    if min(height, width) * scale < smallest:
        raise UnusablePicture(
            f"expected a picture at least {smallest:.1f} arcsec wide, but {width} x {height} "
            f"pixels of {scale:g} arcsec are {min(height, width) * scale:.2g} arcsec: is the pixel "
            "scale right?"
        )
    near = _centre(picture.pixels, layout.size * layout.pixel_scale / scale)
    fill = _background(near)
    has_flux = picture.unit == "nanomaggy"
    target = (layout.size, layout.pixel_scale)
    known = _filled(near, fill)[np.newaxis]
    fitted = fit(known, scale, *target, fill=fill, per_pixel=has_flux)[0]
    if picture.unit != "display":
        fitted = colour(fitted, list(picture.bands), picture.unit, layout.pixel_scale)
    missing = missing_border((height, width), scale, layout.size, layout.pixel_scale)
    flags = CutoutFlag.PARTLY_OUTSIDE if missing > MIN_MISSING else CutoutFlag(0)
    return Framed(fitted, _note(picture, layout, scale, said, missing), int(flags))


def _scale(
    picture: Picture, layout: Layout, pixel_scale: float | None, whole: bool
) -> tuple[float, str]:
    """Pixel scale [arcsec/pixel] and who says so."""
    if whole:
        longest = max(picture.pixels.shape[:2])
        return layout.size * layout.pixel_scale / longest, "so that all of it is seen"
    if pixel_scale is not None:
        return pixel_scale, "as you said"
    if picture.pixel_scale is not None:
        return picture.pixel_scale, "as its header says"
    return layout.pixel_scale, "as the encoder learnt, since the file does not say"


def _centre(pixels: np.ndarray, longest: float) -> np.ndarray:
    """The middle of a large picture, with a margin for resampling."""
    keep = math.ceil(longest * 1.1) + 8
    for axis in (0, 1):
        margin = max(0, (pixels.shape[axis] - keep) // 2)
        pixels = pixels.take(range(margin, pixels.shape[axis] - margin), axis=axis)
    return pixels


def _background(pixels: np.ndarray) -> float:
    """What the picture shows at its border, in the median."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    values = np.concatenate([edge.ravel() for edge in edges])
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 0.0


def _filled(pixels: np.ndarray, fill: float) -> np.ndarray:
    """Pixels whose every value can be computed with."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.clip(np.nan_to_num(pixels, nan=fill, posinf=fill, neginf=fill), -LARGEST, LARGEST)


def _note(picture: Picture, layout: Layout, scale: float, said: str, missing: float) -> str:
    height, width = picture.pixels.shape[:2]
    kind = picture.media_type.partition("/")[2].upper()
    words = [f"{kind}, {width} × {height} pixels of {scale:.4g}″, {said}"]
    seen, shown = layout.size * layout.pixel_scale, min(height, width) * scale
    if shown > seen * (1 + MIN_MISSING):
        words.append(f"the central {seen:.1f}″ are looked at")
    if missing > MIN_MISSING:
        words.append(f"{missing:.0%} of the field is beyond the border, filled with background")
    if picture.unit != "display":
        words.append(_stretch(picture))
    return "; ".join(words)


def _stretch(picture: Picture) -> str:
    if picture.unit == "nanomaggy" and {"g", "r", "z"} <= set(picture.bands):
        return "z, r, g fluxes in nanomaggies shown as red, green, blue"
    return f"the first plane ({picture.unit}) in grey, between its 1st and 99.5th percentile"
