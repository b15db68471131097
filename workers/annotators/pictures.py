"""What annotators share whose networks look at one colour picture per source: pixels and flags.

What a network says about the pictures, and how it is loaded, is in the annotators.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from db.cutouts import CutoutFlag
from models import pixels
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs

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


class PictureAnnotator(Annotator):
    """An annotator that says something about each colour picture that can be judged.

    `load` sets `self.wanted`, the pixels that the loaded version looks at.
    """

    subject: ClassVar[Literal["source", "exposure"]] = "source"
    flags: ClassVar[type[DataFlag]] = PictureFlag
    wanted: Inputs

    @abstractmethod
    def look(self, pictures: NDArray[np.uint8]) -> Columns:
        """Return the outputs for pictures (n, size, size, 3) that begin at the top; n may be 0."""

    def annotate(self, batch: CutoutBatch) -> Columns:
        """Return the outputs (float32, NaN where the image cannot be judged) and `flags`."""
        step = max(PART, self.batch_size)
        parts = [  # so that a block of large cutouts is never in memory as floats as a whole
            self._annotate(_rows(batch, slice(start, start + step)))
            for start in range(0, max(len(batch), 1), step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _annotate(self, batch: CutoutBatch) -> Columns:
        flags, judged, pictures = seen(batch, self.wanted)
        columns: Columns = {"flags": flags}
        for name, values in self.look(pictures).items():
            _check_finite(name, values, batch.source_ids[judged])
            columns[name] = np.full((len(batch), *values.shape[1:]), np.nan, np.float32)
            columns[name][judged] = values
        return columns


def colour_inputs(given: Mapping[str, Any]) -> Inputs:
    """The g, r, z cutouts that become the colour pictures a card's `inputs` describe."""
    size, scale = int(given["size"]), float(given["pixel_scale"])
    return Inputs(("g", "r", "z"), size, scale, units=("display", "nanomaggy"))


def seen(
    batch: CutoutBatch, inputs: Inputs
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint8]]:
    """What a network gets to see of a batch.

    Returns
    -------
    flags : ndarray of int32, shape (n,)
        What is wrong with each cutout, as bits of `PictureFlag`.
    judged : ndarray of bool, shape (n,)
        Whether it can be judged all the same.
    pictures : ndarray of uint8, shape (number of those, size, size, 3)
        Colour pictures of them, the top row first.
    """
    flags = _flags(batch, inputs)
    judged = (flags & BLIND) == 0
    images = batch.pixels if judged.all() else batch.pixels[judged]
    return flags, judged, _pictures(images, batch, inputs)[:, ::-1]


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
    shape = (batch.size, batch.size)
    border = pixels.missing_border(shape, batch.pixel_scale, inputs.size, inputs.pixel_scale)
    mark(PictureFlag.PARTIAL, batch.readable & (border > SAME_SCALE))
    scale = abs(batch.pixel_scale / inputs.pixel_scale - 1)
    mark(PictureFlag.RESAMPLED, batch.readable & (scale > SAME_SCALE))
    return flags


def _pictures(images: NDArray, batch: CutoutBatch, inputs: Inputs) -> NDArray[np.uint8]:
    """Some of a batch's cutouts at the network's scale, the lowest row first.

    Fluxes are resampled before the stretch, so that colours stay those of the sum of the light.
    """
    target = (inputs.size, inputs.pixel_scale)
    if batch.unit == "display":
        images = pixels.to_rgb(images, batch.bands, "display")
        return pixels.fit(images, batch.pixel_scale, *target, fill=pixels.SKY_LEVEL)
    flux = np.nan_to_num(images, posinf=0, neginf=0).astype(np.float32)
    flux = pixels.fit(flux, batch.pixel_scale, *target, per_pixel=True)
    return pixels.to_rgb(flux, batch.bands, "nanomaggy")


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


def _check_finite(name: str, values: NDArray[np.float32], source_ids: NDArray[np.int64]) -> None:
    """A network that breaks down must not pass for an image that cannot be judged."""
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if len(wrong := source_ids[~finite]):
        raise FloatingPointError(
            f"{name}: the network gave no number for {len(wrong)} of {len(source_ids)} pictures, "
            f"the first of source {wrong[0]}: damaged weights, or half precision that overflows. "
            "Compare with --precision float32"
        )
