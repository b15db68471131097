"""Image files of strangers: PNG, JPEG or FITS, known by their content and decoded with care.

A file's dimensions are read and judged before any pixel is unpacked, because a small file can
unpack to gigabytes. How a picture becomes what a network looks at is for others.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST, LARGEST = 16, 4096  # pixel on a side
SIDES = f"{SMALLEST} to {LARGEST:,} pixels on a side"
LARGEST_BYTES = LARGEST**2 * 4  # of a FITS image, unpacked
VIEWER_BANDS = ("z", "r", "g")  # what the Legacy Surveys viewer puts into R, G, B
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"SIMPLE  =": "image/fits",
}


class UnknownFormat(ValueError):  # noqa: N818 (it reads as what happened)
    """The file is not a still picture in PNG, JPEG or FITS."""


class UnusablePicture(ValueError):  # noqa: N818
    """The file is damaged, or its picture is too large, too small or empty."""


@dataclass(frozen=True)
class Picture:
    """What a file shows: `pixels` of shape (h, w, b), row 0 at the bottom.

    `unit` is display (uint8), nanomaggy, nJy or adu; `pixel_scale` [arcsec/pixel] is None where
    the file does not say.
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    unit: str
    pixel_scale: float | None
    media_type: str


def decode(content: bytes) -> Picture:
    """Decode a file.

    Raises
    ------
    UnknownFormat, UnusablePicture
        The message says what was expected and what arrived.
    """
    media_type = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), "")
    if not media_type:
        raise UnknownFormat(
            f"expected a PNG, JPEG or FITS file (not compressed further), but these "
            f"{len(content):,} bytes begin with {content[:8]!r}"
        )
    try:
        if media_type == "image/fits":
            return _decode_fits(content)
        return _decode_image(content, media_type)
    except (UnknownFormat, UnusablePicture):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        name = media_type.partition("/")[2].upper()
        raise UnusablePicture(f"the {name} file cannot be read: {_short(error)}") from error


def _decode_image(content: bytes, media_type: str) -> Picture:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is judged below
        try:
            image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
        except Image.DecompressionBombError:
            raise UnusablePicture(f"expected {SIDES}, but the picture has far more") from None
    with image:
        _check_sides(image.height, image.width)
        if media_type == "image/png" and getattr(image, "is_animated", False):
            raise UnknownFormat("expected a still picture, but this PNG is animated")
        if image.mode.startswith("I"):  # grey of 16 bits
            grey = np.asarray(image).astype(np.float32) / 257
            pixels = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, -1)
        else:
            pixels = np.asarray(_on_black(image))
    return Picture(pixels[::-1], VIEWER_BANDS, "display", None, media_type)


def _on_black(image: Image) -> Image:
    """Return a picture in RGB; what is transparent shows the black of the sky."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL.Image import alpha_composite, new

    seen = image.convert("RGBA")
    return alpha_composite(new("RGBA", seen.size, "black"), seen).convert("RGB")


def _decode_fits(content: bytes) -> Picture:
    from astropy.utils.exceptions import AstropyWarning

    from db.cutout_fits import read_cutout

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # of headers that are not quite right
        pixels, told = read_cutout(content, LARGEST, LARGEST_BYTES)
    _check_sides(*pixels.shape[:2])
    if pixels.dtype.kind not in "iuf":
        raise UnusablePicture(f"expected numbers as pixels, but they are {pixels.dtype}")
    with np.errstate(over="ignore"):
        pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).any():
        raise UnusablePicture("expected a picture, but no pixel has a finite value")
    bands = tuple(told.get("bands", ()))
    return Picture(
        pixels,
        bands if len(bands) == pixels.shape[-1] else ("",) * pixels.shape[-1],
        told.get("unit", "adu"),
        told.get("pixel_scale"),
        "image/fits",
    )


def _check_sides(height: int, width: int) -> None:
    if not (min(height, width) >= SMALLEST and max(height, width) <= LARGEST):
        raise UnusablePicture(f"expected {SIDES}, but the picture has {width:,} x {height:,}")


def _short(error: Exception) -> str:
    line = str(error).partition("\n")[0] or type(error).__name__
    return line if len(line) <= 200 else line[:197] + "…"
