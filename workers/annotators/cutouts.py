"""What annotators share that look at one cutout per source: its flags, and cutouts by parts.

What a network gets to see of a cutout, and what it says, is in the annotators.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from db.cutouts import CutoutFlag
from models import pixels
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs, spread

SAME_SCALE = 0.01  # relative difference that does not count as resampled
MIN_FINITE = 0.5  # share of the pixels that must carry a value
PART = 256  # cutouts that go through the network in one call, which has a price of its own


class PictureFlag(DataFlag):
    """What can be wrong with the cutout of a source."""

    NO_IMAGE = 1, "no image of the source"
    UNREADABLE = 2, "unreadable image"
    PARTIAL = 4, "part of the field lies outside the image, taken as empty sky"
    NO_SIGNAL = 8, "all pixels alike, or half of them without a value"
    NOT_FINITE = 16, "some pixels without a value, taken as empty sky"
    RESAMPLED = 32, "resampled to the pixel scale of the network"


BLIND = int(PictureFlag.NO_IMAGE | PictureFlag.UNREADABLE | PictureFlag.NO_SIGNAL)


class CutoutAnnotator(Annotator[CutoutBatch]):
    """An annotator that says something about each cutout that can be judged.

    `load` sets `self.wanted`, the pixels that the loaded version looks at.
    """

    subject: ClassVar[Literal["source", "exposure"]] = "source"
    wanted: Inputs

    @abstractmethod
    def see(self, images: NDArray, batch: CutoutBatch) -> NDArray:
        """Return what the network sees of some of a batch's cutouts, (n, h, w, b); n may be 0."""

    @abstractmethod
    def look(self, seen: NDArray) -> Columns:
        """Return the outputs for what `see` gave, and under `flags` more bits, if there are any."""

    def annotate(self, batch: CutoutBatch) -> Columns:
        """Return the outputs (float32, NaN where the image cannot be judged) and `flags`."""
        step = max(PART, self.batch_size)
        parts = [  # so that a block of large cutouts is never in memory as floats as a whole
            self._annotate(_rows(batch, slice(start, start + step)))
            for start in range(0, max(len(batch), 1), step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _annotate(self, batch: CutoutBatch) -> Columns:
        flags, judged, images = judge(batch, self.wanted)
        said = self.look(self.see(images, batch))
        flags[judged] |= said.pop("flags", 0)
        return {"flags": flags, **spread(said, judged, "sources", batch.source_ids)}


def judge(
    batch: CutoutBatch, inputs: Inputs
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray]:
    """Which cutouts of a batch can be judged.

    Returns
    -------
    flags : ndarray of int32, shape (n,)
        What is wrong with each cutout, as bits of `PictureFlag`.
    judged : ndarray of bool, shape (n,)
        Whether it can be judged all the same.
    images : ndarray, shape (number of those, h, w, b)
        As they are stored.
    """
    flags = _flags(batch, inputs)
    judged = (flags & BLIND) == 0
    return flags, judged, batch.pixels if judged.all() else batch.pixels[judged]


def _flags(batch: CutoutBatch, inputs: Inputs) -> NDArray[np.int32]:
    flags = np.zeros(len(batch), np.int32)

    def mark(flag: PictureFlag, where: NDArray | bool) -> None:
        flags[np.broadcast_to(where, len(batch))] |= int(flag)

    mark(PictureFlag.NO_IMAGE, (batch.cutout_flags & CutoutFlag.NO_IMAGE) != 0)
    mark(PictureFlag.UNREADABLE, (batch.cutout_flags & CutoutFlag.UNREADABLE) != 0)
    mark(PictureFlag.UNREADABLE, ~batch.readable & (flags == 0))
    finite, varied = _signal(batch.pixels)
    mark(PictureFlag.NO_SIGNAL, batch.readable & ((finite <= MIN_FINITE) | ~varied))
    mark(PictureFlag.NOT_FINITE, batch.readable & (finite < 1))
    mark(PictureFlag.PARTIAL, (batch.cutout_flags & CutoutFlag.PARTLY_OUTSIDE) != 0)
    shape, scale = (batch.size, batch.size), inputs.scale_for(batch)
    border = pixels.missing_border(shape, batch.pixel_scale, inputs.size, scale)
    mark(PictureFlag.PARTIAL, batch.readable & (border > SAME_SCALE))
    stretch = abs(batch.pixel_scale / scale - 1)
    mark(PictureFlag.RESAMPLED, batch.readable & (stretch > SAME_SCALE))
    return flags


def _rows(batch: CutoutBatch, rows: slice) -> CutoutBatch:
    return replace(
        batch,
        source_ids=batch.source_ids[rows],
        pixels=batch.pixels[rows],
        readable=batch.readable[rows],
        cutout_flags=batch.cutout_flags[rows],
    )


def _signal(images: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Share of finite pixels, shape (n,), and whether the finite ones differ at all, (n,)."""
    each = (1, 2, 3)
    if np.issubdtype(images.dtype, np.integer):
        return np.ones(len(images)), images.min(axis=each) != images.max(axis=each)
    finite = np.isfinite(images)
    lowest = np.where(finite, images, np.inf).min(axis=each)
    highest = np.where(finite, images, -np.inf).max(axis=each)
    return finite.mean(axis=each), lowest < highest
