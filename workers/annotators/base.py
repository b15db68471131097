"""What an annotator is: which pixels it wants, what it says about each subject, in which flags.

Claiming, transactions, retries, logging and timing are in `workers.runner`, once for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from db.histograms import Histograms
from db.tables import Base, ModelVersion
from models.pixels import missing_border

Columns = dict[str, NDArray]

MAX_MISSING_BORDER = 0.3  # share of the wanted field that a cutout set may lack
MAX_COARSENING = 2.0  # times the wanted pixel scale


class DataFlag(IntFlag):
    """An expected problem of the data: a bit, and what it means in one line (`note`).

    Bits 1 and 2 are those of `db.cutouts.CutoutFlag`: no image, unreadable image. A row with one of
    them and without a value is replaced when there is an image (`db.annotations`).
    """

    note: str

    def __new__(cls, bit: int, note: str = "") -> Self:
        member = int.__new__(cls, bit)
        member._value_ = bit
        member.note = note
        return member


@dataclass(frozen=True)
class Output:
    """One column of the results table."""

    column: str
    unit: str  # empty for a pure number
    ucd: str  # IVOA Unified Content Descriptor
    description: str


class Scaled(Protocol):
    """What has a pixel scale."""

    @property
    def pixel_scale(self) -> float: ...


class Pixels(Scaled, Protocol):
    """What a cutout set says about its pixels."""

    @property
    def bands(self) -> Sequence[str]: ...
    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def unit(self) -> str: ...


@dataclass(frozen=True)
class Inputs:
    """The pixels a network was trained on; a cutout set near enough is cropped or resampled."""

    bands: tuple[str, ...]  # none: one band, whichever
    size: int  # pixel
    pixel_scale: float | None  # arcsec/pixel; None: whichever, never resampled
    units: tuple[str, ...]  # accepted, the preferred one first

    def mismatch(self, pixels: Pixels) -> str | None:
        """Say why these pixels cannot serve, None if they can."""
        if pixels.unit not in self.units:
            return f"the unit is {pixels.unit}, not {' or '.join(self.units)}"
        if pixels.unit == "display":
            if pixels.dtype != "uint8":
                return f"pixels in display are uint8 from 0 to 255, not {pixels.dtype}"
            if len(pixels.bands) != len(self.bands):
                return f"a picture with {len(self.bands)} planes is needed, not {len(pixels.bands)}"
        elif not self.bands and len(pixels.bands) != 1:
            return f"one band is needed, not {len(pixels.bands)}: {', '.join(pixels.bands)}"
        elif missing := [band for band in self.bands if band not in pixels.bands]:
            return f"no band {', '.join(missing)} among {', '.join(pixels.bands)}"
        scale = self.scale_for(pixels)
        if pixels.pixel_scale > MAX_COARSENING * scale:
            return f"{pixels.pixel_scale:g} arcsec/pixel is too coarse for {scale:g}"
        if self._missing(pixels) > MAX_MISSING_BORDER:
            return (
                f"the field is {pixels.size * pixels.pixel_scale:.1f} arcsec wide, "
                f"{self.size * scale:.1f} are needed"
            )
        return None

    def scale_for(self, pixels: Scaled) -> float:
        """The scale that these pixels are brought to: their own if any will do [arcsec/pixel]."""
        return pixels.pixel_scale if self.pixel_scale is None else self.pixel_scale

    def misfit(self, pixels: Pixels) -> tuple[float, float, int]:
        """Order sets that serve by how well: no border missing, same scale, preferred unit."""
        stretch = abs(np.log(pixels.pixel_scale / self.scale_for(pixels)))
        return self._missing(pixels), round(float(stretch), 3), self.units.index(pixels.unit)

    def _missing(self, pixels: Pixels) -> float:
        shape = (pixels.size, pixels.size)
        return missing_border(shape, pixels.pixel_scale, self.size, self.scale_for(pixels))

    def __str__(self) -> str:
        bands = "/".join(self.bands) or "one band, whichever,"
        scale = "any scale" if self.pixel_scale is None else f"{self.pixel_scale:g} arcsec"
        return f"{bands} in {' or '.join(self.units)}, {self.size} pixel of {scale}"


@dataclass(frozen=True)
class CutoutBatch:
    """Cutouts of some sources, as they are stored.

    `pixels` has shape (n, h, w, b), with the set's dtype and unit; where `readable` is False its
    values mean nothing and `cutout_flags` (`db.cutouts.CutoutFlag`) say why.
    """

    source_ids: NDArray[np.int64]  # (n,)
    pixels: NDArray  # (n, h, w, b)
    readable: NDArray[np.bool_]  # (n,)
    cutout_flags: NDArray[np.int32]  # (n,)
    bands: tuple[str, ...]
    pixel_scale: float  # arcsec/pixel
    unit: str  # nanomaggy, nJy, adu or display

    @property
    def size(self) -> int:
        """Side of the cutouts [pixel]."""
        return int(self.pixels.shape[1])

    def __len__(self) -> int:
        return len(self.source_ids)


Content = TypeVar("Content", CutoutBatch, Histograms)  # what an annotator gets to see


class Annotator(ABC, Generic[Content]):
    """One system that says something about every source or exposure; one small class each.

    `annotate` is pure: the same batch gives the same columns, in the length and order of the
    batch, with no session, file or log. Problems of the data become flags, never exceptions.
    """

    name: ClassVar[str]  # the word, the same at every layer
    subject: ClassVar[Literal["source", "exposure"]]
    inputs: ClassVar[Inputs]  # of an exposure: the pixels of its sources
    outputs: ClassVar[tuple[Output, ...]]
    flags: ClassVar[Iterable[DataFlag]]
    table: ClassVar[type[Base]]  # where the rows go
    after: ClassVar[tuple[str, ...]] = ()  # annotators that must have finished with a block first
    on_exposures: ClassVar[bool] = False  # whether for what was detected on exposures, or the rest

    def __init__(self, batch_size: int = 64) -> None:
        self.batch_size = batch_size  # subjects per call of the network

    @abstractmethod
    def load(self, version: ModelVersion) -> None:
        """Load and check the weights of this version and warm up. Slow; called once."""

    @abstractmethod
    def annotate(self, batch: Content) -> Columns:
        """Return a value per source or exposure for every output, and `flags` (int32)."""

    def prototypes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return what the cells of the loaded version's map are, as `db.prototypes.write` has it.

        None if the annotator is no map.
        """
        return None

    @classmethod
    def inputs_of(cls, card: Mapping[str, Any]) -> Inputs:
        """Return the pixels that a version wants, by its card: for most the same as any other."""
        return cls.inputs

    @classmethod
    def after_of(cls, card: Mapping[str, Any]) -> dict[str, str | None]:
        """Return which version of each annotator in `after` must have finished; None: current."""
        return dict.fromkeys(cls.after)

    @classmethod
    def outputs_of(cls, card: Mapping[str, Any]) -> tuple[Output, ...]:
        """Return the outputs of a version, by its card: for most the same as of any other."""
        return cls.outputs

    @classmethod
    def description(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        """What pages and services say about the columns and flag bits; goes into the card."""
        return {
            "subject": cls.subject,
            "outputs": [vars(output) for output in cls.outputs_of(card)],
            "flags": {str(int(flag)): flag.note for flag in cls.flags},
        }


def spread(values: Columns, judged: NDArray[np.bool_], subjects: str, ids: NDArray) -> Columns:
    """Columns of those that were judged, as columns of all: float32, NaN for the others.

    A network that breaks down must not pass for something that cannot be judged. What it need not
    say is masked; that becomes NaN too. A column of objects (bytes) has None for the others.

    Raises
    ------
    FloatingPointError
        A value is not finite.
    """
    columns: Columns = {}
    for name, given in values.items():
        if given.dtype == object:
            columns[name] = np.full(len(judged), None, object)
            columns[name][judged] = given
            continue
        finite = np.isfinite(np.ma.filled(given, 0)).all(axis=tuple(range(1, given.ndim)))
        if len(wrong := ids[judged][~finite]):
            raise FloatingPointError(
                f"{name}: the network gave no number for {len(wrong)} of {len(given)} {subjects}, "
                f"the first of them {wrong[0]}: damaged weights, or half precision that "
                "overflows. Compare with --precision float32"
            )
        columns[name] = np.full((len(judged), *given.shape[1:]), np.nan, np.float32)
        columns[name][judged] = np.ma.filled(given, np.nan) if np.ma.is_masked(given) else given
    return columns
