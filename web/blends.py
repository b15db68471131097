"""What the pages say of blends: two opinions in words, fluxes as text, masks as outlines.

Which opinions there are is read by `db.queries`; the page itself is `web.sources`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.queries import BLEND
from db.tables import Blend, CutoutSet, ModelVersion, PairFlux

ZERO_POINT = 31.4  # AB magnitude of 1 nJy
SIDE = 512  # units of the drawing over a picture
PLAIN = 4  # significant digits of a flux without error
GALAXIES = ("central", "companion")


@dataclass(frozen=True)
class Agreement:
    """What network and sep make of a source, and whether that is the same; None: cannot be said."""

    sep: str
    words: str
    agree: bool | None


@dataclass(frozen=True)
class Brightness:
    """What is said of one galaxy of a pair, ready to be printed."""

    galaxy: str
    flux: str  # nJy
    error: str
    mag: str  # AB
    mag_error: str
    sep_flux: str
    sep_mag: str
    brighter: str  # by how much sep makes it brighter than the network does [mag]
    errors: str  # the same of fluxes, in errors of the network's


@dataclass(frozen=True)
class Masks:
    """Where a network sees the galaxies of a pair: paths of SVG in a drawing of SIDE by SIDE."""

    version: str
    central: str
    companion: str
    overlap: str


def agree(p_blend: float | None, sep_is_blend: bool | None) -> bool | None:
    """Whether network and sep are of one opinion; None where one of them has none."""
    if p_blend is None or sep_is_blend is None:
        return None
    return (p_blend >= BLEND) == sep_is_blend


def finding(sep_is_blend: bool | None, detections: int | None) -> str:
    """Name what sep finds; empty where it says nothing."""
    if sep_is_blend is None or detections is None:
        return ""
    if detections == 0:
        return "nothing"
    return "blend" if sep_is_blend else "one galaxy"


def agreement(blend: Blend) -> Agreement:
    """Say what sep found, and whether it agrees with the network."""
    sep = _by_sep(blend)
    match agree(blend.p_blend, blend.sep_is_blend):
        case None:
            return Agreement(sep, "", None)
        case True:
            both = "a blend" if blend.sep_is_blend else "one galaxy"
            return Agreement(sep, f"Network and sep agree: {both}.", True)
    words = ("a blend to the network, not to sep", "one galaxy to the network, a blend to sep")
    return Agreement(sep, f"They disagree: {words[bool(blend.sep_is_blend)]}.", False)


def _by_sep(blend: Blend) -> str:
    n = blend.sep_detections
    found = finding(blend.sep_is_blend, n)
    if not found:
        return "no verdict"
    if n == 0:
        return "nothing detected"
    merged = ", marked as merged" if blend.sep_is_blend and n == 1 else ""
    return f"{found} ({n} detection{'' if n == 1 else 's'}{merged})"


def field(version: ModelVersion, looked_at: CutoutSet | None) -> str:
    """Say which part of a larger cutout a version looked at; empty where it saw all of it."""
    size = (version.card.get("inputs") or {}).get("size")
    if not size or looked_at is None or looked_at.size <= size:
        return ""
    return f"the middle {size} px, {size * looked_at.pixel_scale:.3g}″"


def fluxes(pair: PairFlux) -> list[Brightness]:
    """Return the central galaxy and the companion, with what the network and sep measure."""
    return [
        _brightness(
            galaxy,
            getattr(pair, f"flux_{galaxy}"),
            getattr(pair, f"flux_{galaxy}_err"),
            getattr(pair, f"sep_flux_{galaxy}"),
        )
        for galaxy in GALAXIES
    ]


def _brightness(
    galaxy: str, flux: float | None, error: float | None, sep: float | None
) -> Brightness:
    mag, sep_mag = magnitude(flux), magnitude(sep)
    written, its_error = rounded(flux, error)
    mag_error = brighter = errors = ""
    if flux and mag is not None and error is not None:
        mag_error = f"{2.5 / math.log(10) * error / flux:.3f}"
    if mag is not None and sep_mag is not None:
        brighter = _signed(mag - sep_mag, 3)
    if flux is not None and sep is not None and error:
        errors = _signed((sep - flux) / error, 1)
    return Brightness(
        galaxy=galaxy,
        flux=written,
        error=its_error,
        mag="" if mag is None else f"{mag:.3f}",
        mag_error=mag_error,
        sep_flux=rounded(sep)[0],
        sep_mag="" if sep_mag is None else f"{sep_mag:.3f}",
        brighter=brighter,
        errors=errors,
    )


def magnitude(flux: float | None) -> float | None:
    """Return the AB magnitude of a flux [nJy], None where it has none."""
    return ZERO_POINT - 2.5 * math.log10(flux) if flux is not None and flux > 0 else None


def rounded(number: float | None, error: float | None = None) -> tuple[str, str]:
    """Write a flux and its error: the error with two significant digits, the flux to the same."""
    if number is None or not math.isfinite(number):
        return "", ""
    leading = error if error and math.isfinite(error) else number
    digits = 2 if leading is error else PLAIN
    place = digits - 1 - math.floor(math.log10(abs(leading))) if leading else 0
    written = [_grouped(value, place) for value in (number, error) if value is not None]
    return written[0], written[1] if error is not None else ""


def _grouped(number: float, place: int) -> str:
    text = f"{round(number, place):,.{max(place, 0)}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def _signed(number: float, decimals: int) -> str:
    return f"{number:+.{decimals}f}".replace("-", "−")


def masks(
    pair: PairFlux, version: ModelVersion, looked_at: CutoutSet, shown: CutoutSet
) -> Masks | None:
    """Return the masks of a pair, made in one cutout set, in place over the picture of another.

    None where there are none, or where they lie otherwise than the picture: only one is north up.
    """
    if not pair.masks or not _lies_alike(looked_at, shown):
        return None
    central, companion = decode(pair.masks)
    field = (version.card.get("inputs") or {}).get("size") or len(central)  # pixel of the cutout
    step = SIDE * looked_at.pixel_scale / (shown.size * shown.pixel_scale)  # per pixel
    beyond = (looked_at.size - field) / 2  # of which whole pixels are left out at the lower left
    off = step * (math.floor(beyond) - beyond)
    parts = (central, companion, central & companion)
    return Masks(version.name, *(outline(part, step * field, off) for part in parts))


def _lies_alike(one: CutoutSet, other: CutoutSet) -> bool:
    return one.id == other.id or "mosaic" not in (one.origin, other.origin)


def decode(packed: bytes) -> NDArray[np.bool_]:
    """Unpack the column `masks`: bool, shape (2, size, size), central and companion."""
    size = math.isqrt(len(packed) * 4)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=2 * size * size)
    return bits.reshape(2, size, size).astype(bool)


def outline(mask: NDArray[np.bool_], width: float = SIDE, off: float = 0.0) -> str:
    """Draw around a mask (h, w) that is `width` wide in the middle of a drawing of SIDE by SIDE.

    The path is SVG, whose y runs downwards; it is empty where the mask is. `off` is how far the
    mask is off the middle, to the right and upwards.
    """
    from skimage.measure import find_contours  # takes a moment to import

    size = len(mask)
    start, step = (SIDE - width) / 2, width / size
    parts: list[Any] = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    drawn = []
    for part in parts:
        rows, columns = part[:-1].T - 0.5  # from the padded pixels' centres to edges of pixels
        x, y = start + off + step * columns, start - off + step * (size - rows)
        drawn.append("L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)))
    return "".join(f"M{points}Z" for points in drawn)
