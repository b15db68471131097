"""An origin of pixels: a folder of PNG, JPEG or FITS cutouts whose file names hold the ids."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from db.cutout_fits import LARGEST, LARGEST_BYTES, read_cutout
from db.cutout_ingest import NothingToRead, Reading, Target, read_in_parallel
from db.cutouts import CutoutFlag, Layout

PATTERN = "{id}*.{png,jpg,jpeg,fits,fits.fz}"
VIEWER_BANDS = ("z", "r", "g")  # what the Legacy Surveys viewer puts into R, G, B
VIEWER_SCALE = 0.262  # arcsec/pixel
LAST_CHARACTER = "\U0010ffff"
SAMPLE = 25  # files looked at to learn what kind of cutouts the folder holds
FITS_SUFFIXES = (".fits", ".fits.fz")


class UnreadableImage(ValueError):  # noqa: N818 (it reads as what happened)
    """An image file is damaged, or is not the kind of cutout that is wanted."""


class Folder:
    """Cutouts in a folder and its subfolders, matched to sources by file name.

    `pattern` is a file name with `{id}` where the id of the source stands, `*` for anything and
    `{a,b}` for alternatives. An id is a whole word: id 12 does not match `123.png`. Upper and
    lower case are the same.
    """

    word = "folder"

    def __init__(
        self,
        folder: Path,
        pattern: str = PATTERN,
        bands: Sequence[str] | None = None,
        pixel_scale: float | None = None,
        unit: str | None = None,
        size: int | None = None,
        n_threads: int = 4,
    ) -> None:
        """What is not given is learned from the files, or taken to be the Legacy viewer's.

        Raises
        ------
        NothingToRead
            The folder has no file that fits the pattern, or none that can be read.
        """
        self.advice = f"Files were looked for in {folder} by the pattern {pattern!r}."
        self._n_threads = n_threads
        self._pattern = _Pattern(pattern)
        self._files = _list_files(folder)
        self._names = [name for name, _ in self._files]
        kinds = self._kinds(bands, pixel_scale, unit)
        if size is not None:
            kinds = [replace(kind, size=size) for kind in kinds]
        self.layout = Counter(kinds).most_common(1)[0][0]

    def covers(self, targets: Sequence[Target]) -> np.ndarray:
        """Say for which targets there is a file: bool, shape (n,)."""
        return np.array([bool(self._matches(target)) for target in targets], bool)

    def read(self, targets: Sequence[Target]) -> Iterator[Reading]:
        """Yield one reading per target, in order."""
        return read_in_parallel(self._read_target, targets, self._n_threads)

    def _read_target(self, target: Target) -> Reading:
        matches = self._matches(target)
        try:
            if len(matches) > 1:
                names = ", ".join(path.name for path in matches[:3])
                raise UnreadableImage(
                    f"{len(matches)} files match ({names}); make the pattern narrower"
                )
            return Reading(_read_as(matches[0], self.layout))
        except UnreadableImage as error:
            return Reading(None, CutoutFlag.UNREADABLE, str(error))

    def _matches(self, target: Target) -> list[Path]:
        start = (self._pattern.prefix + target.survey_id).lower()
        end = start + LAST_CHARACTER
        near = self._files[bisect_left(self._names, start) : bisect_left(self._names, end)]
        fits = self._pattern.of(target.survey_id)
        return [path for name, path in near if fits.fullmatch(name)]

    def _kinds(
        self, bands: Sequence[str] | None, pixel_scale: float | None, unit: str | None
    ) -> list[Layout]:
        matches = self._pattern.of(None)
        paths = [path for name, path in self._files if matches.fullmatch(name)]
        if not paths:
            seen = ", ".join(path.name for _, path in self._files[:3]) or "no files at all"
            raise NothingToRead(f"no file fits the pattern. {self.advice} It has: {seen}.")
        kinds, reason = [], ""
        for path in paths[:: max(1, len(paths) // SAMPLE)]:
            try:
                kinds.append(_kind(path, bands, pixel_scale, unit))
            except UnreadableImage as error:
                reason = reason or f"{path.name}: {error}"
        if not kinds:
            raise NothingToRead(f"no image could be read, for example {reason}. {self.advice}")
        return kinds


class _Pattern:
    """A file name pattern as regular expressions on lower-case names."""

    def __init__(self, pattern: str) -> None:
        prefix, there, rest = pattern.partition("{id}")
        if not there or any(wild in prefix for wild in "*{"):
            raise NothingToRead(
                f"the pattern {pattern!r} must hold {{id}}, with nothing but plain letters before "
                f"it, for example {PATTERN!r}"
            )
        self.prefix = prefix
        self._rest = "".join(_translate(part) for part in re.split(r"(\*|\{[^}]*\})", rest))

    def of(self, survey_id: str | None) -> re.Pattern[str]:
        """Return what matches the files of one source, or of any source."""
        word = ".+" if survey_id is None else re.escape(survey_id.lower())
        return re.compile(f"{re.escape(self.prefix.lower())}{word}(?![a-z0-9]){self._rest}")


def _translate(part: str) -> str:
    if part == "*":
        return ".*"
    if part.startswith("{"):
        return "(?:" + "|".join(map(re.escape, part[1:-1].lower().split(","))) + ")"
    return re.escape(part.lower())


def _list_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (lower-case name, path) of every file below a folder, sorted."""
    if not folder.is_dir():
        raise NothingToRead(f"{folder} is not a folder")
    return sorted(
        (name.lower(), Path(parent, name)) for parent, _, names in os.walk(folder) for name in names
    )


def _is_fits(path: Path) -> bool:
    return path.name.lower().endswith(FITS_SUFFIXES)


def _kind(
    path: Path, bands: Sequence[str] | None, pixel_scale: float | None, unit: str | None
) -> Layout:
    """Return the layout that one file suggests, completed by what the user said."""
    pixels, told = _read(path)
    height, width, n_bands = pixels.shape
    if height != width:
        raise UnreadableImage(f"expected a square image, but it is {width} x {height} pixels")
    _check_bands(path, told, bands)
    chosen: tuple[str, ...] = tuple(bands or told.get("bands") or _default_bands(n_bands))
    if len(chosen) != n_bands:
        raise UnreadableImage(
            f"expected {len(chosen)} bands ({', '.join(chosen)}), but it has {n_bands}"
        )
    scale = pixel_scale or told.get("pixel_scale") or VIEWER_SCALE
    chosen_unit = unit or told.get("unit") or ("adu" if _is_fits(path) else "display")
    return Layout(chosen, width, round(scale, 6), pixels.dtype.name, chosen_unit)


def _check_bands(path: Path, told: dict[str, Any], bands: Sequence[str] | None) -> None:
    if bands and told.get("bands", tuple(bands)) != tuple(bands):
        raise UnreadableImage(
            f"{path.name}: expected bands {', '.join(bands)}, but its header says "
            f"{', '.join(told['bands'])}"
        )


def _default_bands(n_bands: int) -> tuple[str, ...]:
    if n_bands == len(VIEWER_BANDS):
        return VIEWER_BANDS
    raise UnreadableImage(f"it has {n_bands} bands, and nothing says which; give --bands")


def _read_as(path: Path, layout: Layout) -> np.ndarray:
    """Read a file whose pixels (h, w, b) must be of a given layout."""
    pixels, told = _read(path, expected=layout)
    if pixels.shape != layout.shape or pixels.dtype != layout.dtype:
        raise UnreadableImage(
            f"{path.name}: expected {layout.dtype} pixels of shape {layout.shape} (h, w, b), "
            f"but they are {pixels.dtype} of shape {pixels.shape}"
        )
    _check_bands(path, told, layout.bands)
    return pixels


def _read(path: Path, expected: Layout | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Read pixels (h, w, b) of a file, and what its header tells about them."""
    largest = expected.size if expected else LARGEST
    try:
        if _is_fits(path):
            return _read_fits(path, largest)
        return _read_image(path, largest), {}
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UnreadableImage(f"{path.name}: {error}") from error


def _read_fits(path: Path, largest: int) -> tuple[np.ndarray, dict[str, Any]]:
    n_bytes = path.stat().st_size
    if n_bytes > LARGEST_BYTES:
        raise UnreadableImage(
            f"{path.name}: expected at most {LARGEST_BYTES} bytes, but it has {n_bytes}"
        )
    return read_cutout(path.read_bytes(), largest)


def _read_image(path: Path, largest: int) -> np.ndarray:
    """Decode a PNG or JPEG, having looked at its size first: a small file can unpack to gigabytes.

    Row 0 of the array is the bottom of the picture, as in FITS. Transparency is dropped.
    """
    with Image.open(path) as image:
        if max(image.size) > largest:
            raise UnreadableImage(
                f"{path.name}: expected at most {largest} pixels on a side, but it has "
                f"{image.width} x {image.height}"
            )
        plain = image if image.mode in ("L", "RGB", "I;16") else image.convert("RGB")
        return np.atleast_3d(np.asarray(plain))[::-1]
