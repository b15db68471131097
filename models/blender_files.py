"""Isolated galaxies of the user: a folder of FITS cutouts, and perhaps a table about them.

Other galaxies in a cutout are covered with noise. Files that cannot be used are listed, with what
is wrong, and are never an error.
"""

from __future__ import annotations

import csv
import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.blender_parents import KINDS, NANOMAGGY, ZERO_POINT, Parents

SUFFIXES = (".fits", ".fit", ".fits.fz", ".fits.gz")
TABLE = "catalog.csv"
NANOJANSKY = {
    "njy": 1.0,
    "ujy": 1e3,
    "mjy": 1e6,
    "jy": 1e9,
    "nanomaggy": NANOMAGGY,
    "nanomaggies": NANOMAGGY,
    "nmgy": NANOMAGGY,
}
ZERO_POINT_WORDS = ("ZP", "ZEROPT", "ZEROPNT", "MAGZERO", "MAGZPT", "MAGZP", "PHOTZP")
THRESHOLD, SMALLEST = 1.5, 5  # of sep: sigma, and pixels of a detection
GROWTH = 5  # pixels that detections are grown by before the rest is taken for background
REACH = 0.125  # of the side of a cutout: its galaxy lies no farther from the middle
FOR_TESTS = 0.2  # of the user's galaxies

Map = NDArray[np.float32]


class _UnusableError(ValueError):
    """A file cannot serve as a parent."""


@dataclass(frozen=True)
class _Galaxy:
    light: Map
    flux: float
    radius: float
    kind: int
    fwhm: float
    noise: float


def read_parents(
    folder: Path,
    *,
    size: int = 128,
    zero_point: float | None = None,
    split: Literal["train", "test", "all"] = "train",
    progress: Callable[[int], None] | None = None,
) -> Parents:
    """Read isolated galaxies from the FITS cutouts in a folder and the folders in it.

    Unless it is told otherwise it leaves out those that are for tests (`is_for_tests`), so that no
    training sees a galaxy that it may be judged on, whatever its seed.

    Parameters
    ----------
    folder : Path
        Each file holds one square image, which shows its galaxy in the middle. `BUNIT` is nJy, uJy,
        mJy, Jy or nanomaggy; anything else needs the AB magnitude of one unit, as `MAGZERO` (or
        another of ZERO_POINT_WORDS) or as `zero_point`. The table catalog.csv may tell of files, by
        their names without suffix as `id`: `flux` [nJy] or `mag` [AB], `radius` with half of the
        light [pixel], `kind` (of KINDS) and `fwhm` of the point spread function [pixel]. Flux and
        radius that nobody tells are measured by sep (Kron flux, flux radius).
    size : int
        Side of the parents [pixel]: larger images are cut, smaller ones get a margin of noise.
    zero_point : float, optional
        For files that name neither a unit nor a zero point.
    split : "train", "test" or "all"
        Which galaxies to read.
    progress : callable, optional
        Called with 1 after each file.

    Notes
    -----
    The median of the background is taken away. Other detections, grown by GROWTH pixels, are
    covered with Gaussian noise whose sigma is that of the pixels where nothing was detected; no
    other noise is added.

    Raises
    ------
    ValueError
        No file can be used, or the table has no column `id`.
    """
    paths = [path for path in fits_files(folder) if _is_of(split, _name(path))]
    told = _read_table(folder / TABLE)
    galaxies: dict[str, _Galaxy] = {}
    rejected: dict[str, str] = {}
    for number, path in enumerate(paths):
        name = _name(path)
        rng = np.random.default_rng([number, size])
        try:
            if name in galaxies:
                raise _UnusableError("another file has the same name")
            galaxies[name] = _read(path, told.get(name, {}), size, zero_point, rng)
        except Exception as error:  # a damaged file can make a decoder raise anything
            rejected[str(path.relative_to(folder))] = str(error) or type(error).__name__
        if progress:
            progress(1)
    if not galaxies:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(rejected.items())[:3])
        raise ValueError(
            f"expected FITS cutouts of isolated galaxies in {folder}, but none of {len(paths)} "
            f"files can be used{'. ' + reasons if reasons else ''}"
        )
    return _together(galaxies, rejected)


def is_for_tests(name: str) -> bool:
    """Whether a galaxy of the user is for tests: a fifth are, by a hash of the name of the file.

    Neither a seed nor the other galaxies matter, so that no training ever sees one of them.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8]) < FOR_TESTS * 2**64


def _is_of(split: str, name: str) -> bool:
    return split == "all" or is_for_tests(name) == (split == "test")


def _name(path: Path) -> str:
    """Name of a file without suffix."""
    return path.name[: path.name.lower().rindex(".fit")]


def fits_files(folder: Path) -> list[Path]:
    """FITS files in a folder and the folders in it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.name.lower().endswith(SUFFIXES))


def _together(galaxies: dict[str, _Galaxy], rejected: dict[str, str]) -> Parents:
    each = list(galaxies.values())
    return Parents(
        light=np.stack([galaxy.light for galaxy in each]),
        flux=np.array([galaxy.flux for galaxy in each]),
        radius=np.array([galaxy.radius for galaxy in each]),
        kind=np.array([galaxy.kind for galaxy in each], np.int8),
        fwhm=np.array([galaxy.fwhm for galaxy in each]),
        noise=np.array([galaxy.noise for galaxy in each]),
        ids=tuple(galaxies),
        rejected=rejected,
    )


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of the table by id; none where there is no table."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and "id" not in rows[0]:
        raise ValueError(f"{path}: expected a column id, but it has {', '.join(rows[0])}")
    return {row["id"]: row for row in rows}


def _read(
    path: Path,
    told: dict[str, str],
    size: int,
    zero_point: float | None,
    rng: np.random.Generator,
) -> _Galaxy:
    """Read one file, leave only its galaxy, and measure what nobody tells."""
    pixels, header = _open(path)
    pixels *= _factor(header, zero_point)
    light, noise, found = _isolated(pixels, rng)
    flux, radius = _measured(light, found)
    flux = _number(told, "flux") or _from_magnitude(_number(told, "mag")) or flux
    kind = told.get("kind", "").strip().lower()
    if not flux > 0:
        raise _UnusableError(f"expected a galaxy with light, but its flux is {flux:.4g} nJy")
    return _Galaxy(
        light=_cut(light, float(found["x"]), float(found["y"]), size, noise, rng),
        flux=flux,
        radius=_number(told, "radius") or radius,
        kind=KINDS.index(kind) if kind in KINDS else -1,
        fwhm=_number(told, "fwhm") or math.nan,
        noise=noise,
    )


def _open(path: Path) -> tuple[Map, Any]:
    """First image of a file, and its header."""
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is told once, as its rejection
        pixels, header = _first_image(content)
    if pixels.shape[0] != pixels.shape[1]:
        raise _UnusableError(
            f"expected a square image, but it is {pixels.shape[1]} x {pixels.shape[0]} pixels"
        )
    if not np.isfinite(pixels).all():
        n_missing = int((~np.isfinite(pixels)).sum())
        raise _UnusableError(f"expected a value in every pixel, but {n_missing} have none")
    if np.ptp(pixels) == 0:
        raise _UnusableError(f"expected a galaxy, but every pixel is {pixels.flat[0]:.4g}")
    return pixels, header


def _first_image(content: bytes) -> tuple[Map, Any]:
    from astropy.io import fits

    with fits.open(BytesIO(content)) as hdus:
        for hdu in hdus:
            if hdu.is_image and hdu.header.get("NAXIS") == 2:
                try:
                    return np.array(hdu.data, np.float32, order="C"), hdu.header.copy()
                except TypeError as error:  # "buffer is too small for requested array"
                    message = f"the file is cut short at {len(content)} bytes"
                    raise _UnusableError(message) from error
    raise _UnusableError("expected an image of two axes, but it has none")


def _factor(header: Any, zero_point: float | None) -> np.float32:
    """What pixels are to be multiplied by to be in nJy."""
    unit = str(header.get("BUNIT", "")).strip()
    if factor := NANOJANSKY.get(unit.lower()):
        return np.float32(factor)
    words = (header.get(word) for word in ZERO_POINT_WORDS)
    named = next((float(value) for value in words if value is not None), zero_point)
    if named is None:
        raise _UnusableError(
            f"expected BUNIT nJy or nanomaggy, but it is {unit or 'missing'!r}, and no zero point "
            "is known: give --zero-point"
        )
    return np.float32(10 ** (0.4 * (ZERO_POINT - named)))


def _isolated(pixels: Map, rng: np.random.Generator) -> tuple[Map, float, Any]:
    """Cover other galaxies; return the light, the noise's sigma and sep's row of the galaxy."""
    import sep

    rms = sep.Background(pixels).globalrms
    level = float(np.median(pixels))
    found, segments = sep.extract(
        pixels - level, THRESHOLD * max(rms, 1e-6), minarea=SMALLEST, segmentation_map=True
    )
    middle = (len(pixels) - 1) / 2
    distance = np.hypot(found["x"] - middle, found["y"] - middle)
    if not (distance < REACH * len(pixels)).any():
        raise _UnusableError(
            f"expected a galaxy within {REACH * len(pixels):.0f} pixels of the middle, but "
            f"{len(found)} were found elsewhere"
        )
    nearest = int(distance.argmin())
    every = ndimage.binary_dilation(segments > 0, iterations=GROWTH)
    own = ndimage.binary_dilation(segments == nearest + 1, iterations=GROWTH)
    if every.all():
        raise _UnusableError("expected some background, but galaxies cover every pixel")
    level, noise = float(np.median(pixels[~every])), float(pixels[~every].std())
    light = pixels - np.float32(level)
    others = every & ~own
    light[others] = rng.normal(0, noise, int(others.sum()))
    return light, noise, found[nearest]


def _measured(light: Map, found: Any) -> tuple[float, float]:
    """Kron flux [nJy] and the radius with half of it [pixel], as SExtractor's AUTO."""
    import sep

    place = ([found["x"]], [found["y"]])
    shape = ([found["a"]], [found["b"]], [found["theta"]])
    kron, _ = sep.kron_radius(light, *place, *shape, 6.0)
    flux, _, _ = sep.sum_ellipse(light, *place, *shape, 2.5 * np.maximum(kron, 1.4), subpix=5)
    radius, _ = sep.flux_radius(light, *place, [6.0 * found["a"]], 0.5, normflux=flux, subpix=5)
    return float(flux[0]), float(radius[0])


def _cut(light: Map, x: float, y: float, size: int, noise: float, rng: np.random.Generator) -> Map:
    """Square of `size` pixels about x, y; where there is no image, noise."""
    cut = rng.normal(0, noise, (size, size)).astype(np.float32)
    left, bottom = round(x - (size - 1) / 2), round(y - (size - 1) / 2)
    x0, x1 = max(left, 0), min(left + size, light.shape[1])
    y0, y1 = max(bottom, 0), min(bottom + size, light.shape[0])
    cut[y0 - bottom : y1 - bottom, x0 - left : x1 - left] = light[y0:y1, x0:x1]
    return cut


def _number(told: dict[str, str], column: str) -> float | None:
    """A number above zero from the table; None where it tells none."""
    try:
        value = float(told.get(column, ""))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _from_magnitude(magnitude: float | None) -> float | None:
    return None if magnitude is None else float(10 ** (0.4 * (ZERO_POINT - magnitude)))
