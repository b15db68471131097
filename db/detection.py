"""Sources on the pixels of one CCD, and a fair sample of those of many. No files, no database.

Detection is that of SExtractor (Bertin & Arnouts 1996, A&AS 117, 393) through sep: a background
mesh, a 3 x 3 smoothing, pixels above 2 sigma of the local noise, at least 5 of them connected,
blends taken apart. What is wrong with the pixels is said by flags, never by an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 2.0  # times the local noise
MIN_AREA = 5  # connected pixels
MESH = 64  # pixel; side of a tile of the background mesh
TILE = 16  # pixel; no tile of living pixels this large is constant
MOST_DEAD = 0.95  # of the pixels without signal: then there is none
SOME_DEAD = 0.01  # of the pixels: more than the hearts of saturated stars
BRIGHT = 10.0  # times the threshold: shapes of brighter sources are worth something
QUIETEST = 0.1  # of the median noise: a tile that is quieter is not believed
KERNEL_VARIANCE = 0.5  # pixel^2, of the smoothing along either axis
FWHM_OF_SIGMA = 2.3548
LEVELS = 32  # of brightness between threshold and peak, where blends are looked for; 1: nowhere
ATTEMPTS = (  # pixels that sep holds at once, levels, times the threshold
    (300_000, LEVELS, 1.0),
    (3_000_000, LEVELS, 1.0),
    (3_000_000, 1, 1.0),
    (3_000_000, 1, 4.0),
    (3_000_000, 1, 16.0),
)
SIZE = 32  # pixel; side of a cutout


class CcdFlag(IntFlag):
    """What can be wrong with the pixels of a CCD (column `ccd.flags`)."""

    UNREADABLE = 1
    NO_SIGNAL = 2
    PARTLY_DEAD = 4
    VALUES_MISSING = 8
    NO_WCS = 16
    NOTHING_DETECTED = 32
    CROWDED = 64


@dataclass(frozen=True)
class Detection:
    """What was found on one CCD.

    Attributes
    ----------
    x, y : ndarray of float32, shape (n,)
        Centres of light, 0-based: the centre of the first pixel is (0, 0) [pixel].
    fwhm, ellipticity : float or None
        Medians of the bright sources: full width at half maximum [pixel] and 1 - b/a, from second
        moments; None if nothing was found.
    background, background_rms : float or None
        Medians of the mesh, in the unit of the pixels; None without signal.
    flags : CcdFlag
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    fwhm: float | None
    ellipticity: float | None
    background: float | None
    background_rms: float | None
    flags: CcdFlag

    @property
    def n(self) -> int:
        """Number of sources found."""
        return len(self.x)


def detect(pixels: NDArray[Any]) -> Detection:
    """Find the sources on the pixels of a CCD.

    Parameters
    ----------
    pixels : ndarray, shape (h, w)
        Integers or floats, in any byte order. Pixels that are NaN or infinite, and constant
        regions (dead amplifiers), are left out; all of them together give no source and a flag.
    """
    import sep

    if not pixels.size:
        return nothing(CcdFlag.NO_SIGNAL)
    missing = _missing(pixels)
    dead = _dead(pixels, missing)
    flags = _flags(missing, dead)
    if flags & CcdFlag.NO_SIGNAL:
        return nothing(flags)
    # One copy, which sep may change; it takes floats of this machine's byte order only.
    signal = np.array(pixels, np.float32, order="C")
    left_out = _either(missing, dead)
    if missing is not None:
        signal[missing] = 0
    background = sep.Background(signal, left_out, bw=MESH, bh=MESH)
    if not 0 < background.globalrms < np.inf or not np.isfinite(background.globalback):
        return nothing(flags | CcdFlag.NO_SIGNAL)
    background.subfrom(signal)
    if left_out is not None:
        signal[left_out] = 0  # or sep smooths what is left out into the rows beside it
    rms = background.rms()
    np.maximum(rms, QUIETEST * background.globalrms, out=rms)
    found, crowded = _extract(signal, rms, left_out)
    if crowded:
        flags |= CcdFlag.CROWDED
    if not len(found):
        flags |= CcdFlag.NOTHING_DETECTED
    return Detection(
        found["x"].astype(np.float32),
        found["y"].astype(np.float32),
        *_shape(found),
        float(background.globalback),
        float(background.globalrms),
        flags,
    )


def nothing(flags: CcdFlag) -> Detection:
    """Return the detection of a CCD that has no usable pixels."""
    none = np.empty(0, np.float32)
    return Detection(none, none, None, None, None, None, flags | CcdFlag.NOTHING_DETECTED)


def _missing(pixels: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where pixels have no value; None if all have one."""
    if pixels.dtype.kind != "f":
        return None
    missing = ~np.isfinite(pixels)
    return missing if missing.any() else None


def _dead(pixels: NDArray[Any], missing: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Where pixels lie in a region that is constant or without values; None if there is none."""
    lowest, highest = _tiles(pixels, np.min), _tiles(pixels, np.max)
    constant = lowest == highest
    dead = np.zeros(pixels.shape, bool)
    for axis in (0, 1):
        dead |= np.min(pixels, axis, keepdims=True) == np.max(pixels, axis, keepdims=True)
    if constant.any():
        # Tiles do not end where amplifiers do: their neighbours count where they go on the same.
        near = _full(_grown(constant), pixels.shape)
        dead |= near & np.isin(pixels, np.unique(lowest[constant]))
    if missing is not None:
        blank = _tiles(missing, np.min)
        dead |= _full(_grown(blank), pixels.shape) & missing
    return dead if dead.any() else None


def _tiles(values: NDArray[Any], reduce: Any) -> NDArray[Any]:
    """Reduce each tile to one value, shape (h // tile, w // tile); what is left over is left out.

    Tiles are smaller on images that hold no whole one.
    """
    height, width = (max(1, side // _tile(side)) for side in values.shape)
    tile_h, tile_w = _tile(values.shape[0]), _tile(values.shape[1])
    whole = values[: height * tile_h, : width * tile_w]
    rows = reduce(whole.reshape(height, tile_h, width * tile_w), axis=1)
    return np.asarray(reduce(rows.reshape(height, width, tile_w), axis=2))


def _tile(side: int) -> int:
    return min(TILE, side)


def _grown(tiles: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tiles, and their neighbours."""
    padded = np.pad(tiles, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _full(tiles: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tiles as pixels, shape (h, w); the last tiles reach to the edge."""
    row, column = (
        np.minimum(np.arange(side) // _tile(side), n - 1)
        for side, n in zip(shape, tiles.shape, strict=True)
    )
    return np.asarray(tiles[row][:, column])


def _flags(missing: NDArray[np.bool_] | None, dead: NDArray[np.bool_] | None) -> CcdFlag:
    flags = CcdFlag(0)
    if missing is not None:
        flags |= CcdFlag.VALUES_MISSING
        if missing.all():
            flags |= CcdFlag.NO_SIGNAL
    share = 0.0 if dead is None else float(dead.mean())
    if share > MOST_DEAD:
        flags |= CcdFlag.NO_SIGNAL
    elif share > SOME_DEAD:
        flags |= CcdFlag.PARTLY_DEAD
    return flags


def _either(
    first: NDArray[np.bool_] | None, second: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _extract(
    signal: NDArray[np.float32], rms: NDArray[np.float32], left_out: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], bool]:
    """Extract with sep, by less and less demanding settings until they suffice.

    Returns
    -------
    (structured ndarray, shape (n,), bool)
        As sep gives it, and whether blends could not be taken apart.
    """
    import sep

    for stack, levels, factor in ATTEMPTS:
        sep.set_extract_pixstack(stack)
        try:
            found = sep.extract(
                signal,
                THRESHOLD * factor,
                err=rms,
                mask=left_out,
                minarea=MIN_AREA,
                filter_type="conv",
                deblend_nthresh=levels,
            )
            return found, levels < LEVELS
        except MemoryError:
            raise
        except Exception:  # what sep raises when its buffers are full has no type of its own
            continue
    return np.empty(0, [("x", "f4"), ("y", "f4")]), True


def _shape(found: NDArray[Any]) -> tuple[float | None, float | None]:
    """Median full width at half maximum [pixel] and ellipticity of the bright sources.

    Moments are taken within the outline at the threshold. Of a Gaussian whose peak is 1 / u times
    as high, they are (1 - u (1 + ln 1/u)) / (1 - u) of what they would be without a threshold.
    """
    if not len(found):
        return None, None
    bright = found[(found["cpeak"] > BRIGHT * found["thresh"]) & (found["flag"] == 0)]
    chosen = bright if len(bright) >= 5 else found
    u = np.clip(chosen["thresh"] / chosen["cpeak"], 1e-6, 0.9)
    seen = (1 - u * (1 - np.log(u))) / (1 - u)
    major, minor = (np.maximum(chosen[axis] ** 2 / seen - KERNEL_VARIANCE, 0.01) for axis in "ab")
    fwhm = FWHM_OF_SIGMA * np.sqrt((major + minor) / 2)
    return float(np.median(fwhm)), float(np.median(1 - np.sqrt(minor / major)))


@dataclass(frozen=True)
class Sample:
    """A fair random sample of those sources of many CCDs whose cutout lies wholly on the CCD.

    Attributes
    ----------
    ccd, number : ndarray of int64, shape (n,)
        The CCD, and the place of the source among those detected on it.
    x, y : ndarray of float32, shape (n,)
    cutouts : ndarray, shape (n, size, size, 1)
        In the pixels' type, native byte order.
    """

    ccd: NDArray[np.int64]
    number: NDArray[np.int64]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cutouts: NDArray[Any]


class Sampler:
    """Draws a fair sample of sources while their CCDs go by, and keeps only its cutouts.

    Every source draws a lot, and the lowest are the sample: each source whose cutout lies wholly on
    its CCD is equally likely to be in it, whatever the order and number of the CCDs.
    """

    def __init__(self, n: int, seed: int | Sequence[int], size: int = SIZE) -> None:
        """Prepare to draw at most n sources with cutouts of size x size pixels."""
        self._n, self._size = n, size
        self._random = np.random.default_rng(seed)
        self._kept: list[tuple[float, int, int, float, float, NDArray[Any]]] = []

    def add(
        self, ccd: int, pixels: NDArray[Any], detection: Detection, x0: int = 0, y0: int = 0
    ) -> None:
        """Let the sources of a CCD draw.

        `pixels` (h, w) are those that `detect` was given; the first of them is at (x0, y0) of what
        the sample is to count pixels from.
        """
        lots = self._random.random(detection.n)
        left, bottom = corners(detection.x, detection.y, self._size)
        height, width = pixels.shape
        whole = (left >= 0) & (bottom >= 0)
        whole &= (left + self._size <= width) & (bottom + self._size <= height)
        worst = self._kept[-1][0] if len(self._kept) == self._n else np.inf
        promising = np.flatnonzero(whole & (lots < worst))
        for i in promising[np.argsort(lots[promising])][: self._n].tolist():
            window = pixels[bottom[i] : bottom[i] + self._size, left[i] : left[i] + self._size]
            place = (float(detection.x[i]) + x0, float(detection.y[i]) + y0)
            self._kept.append((float(lots[i]), ccd, i, *place, window.astype(native(window.dtype))))
        self._kept = sorted(self._kept, key=lambda one: one[0])[: self._n]

    def sample(self) -> Sample:
        """Return what was drawn, in the order of CCDs and of sources on them."""
        kept = sorted(self._kept, key=lambda one: one[1:3])
        cutouts = [one[5] for one in kept]
        stacked = np.stack(cutouts)[..., None] if kept else np.empty((0, self._size, self._size, 1))
        return Sample(
            np.array([one[1] for one in kept], np.int64),
            np.array([one[2] for one in kept], np.int64),
            np.array([one[3] for one in kept], np.float32),
            np.array([one[4] for one in kept], np.float32),
            stacked,
        )


def corners(
    x: NDArray[np.floating], y: NDArray[np.floating], size: int = SIZE
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First column and row of the windows of whole pixels whose centres are nearest to (x, y)."""
    middle = (size - 1) / 2
    left, bottom = (np.rint(np.asarray(place, float) - middle).astype(np.int64) for place in (x, y))
    return left, bottom


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that cutouts are stored in: the pixels' own, but floats of at most 32 bits."""
    plain = dtype.newbyteorder("=")
    return plain if plain.kind in "iu" and plain.itemsize <= 4 else np.dtype(np.float32)
