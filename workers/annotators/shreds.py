"""Annotator `shreds`: is the source a galaxy, or a piece of a larger one? (`models.shreds`)"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from db.cutouts import CutoutFlag
from db.tables import ModelVersion, Shred
from models import pixels, registry
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs, Output

if TYPE_CHECKING:
    import keras

SIZE = 128  # pixel, `models.shreds.SIZE`, which cannot be imported without Keras
PIXEL_SCALE = 0.262  # arcsec/pixel
SAME_SCALE = 0.01  # relative difference that does not count as resampled
MIN_FINITE = 0.5  # share of the pixels that must carry a value


class ShredFlag(DataFlag):
    """What can be wrong with the cutout of a source."""

    NO_IMAGE = 1, "no image of the source"
    UNREADABLE = 2, "unreadable image"
    PARTIAL = 4, "part of the field lies outside the image, taken as empty sky"
    NO_SIGNAL = 8, "all pixels alike, or half of them without a value"
    NOT_FINITE = 16, "some pixels without a value, taken as empty sky"
    RESAMPLED = 32, "resampled to 0.262 arcsec/pixel"


PART = 256  # cutouts that go through the network in one call, which has a price of its own
BLIND = int(ShredFlag.NO_IMAGE | ShredFlag.UNREADABLE | ShredFlag.NO_SIGNAL)  # p_shred is null


class Shreds(Annotator):
    """P(shred) from one colour picture."""

    name: ClassVar[str] = "shreds"
    subject: ClassVar[Literal["source", "exposure"]] = "source"
    inputs: ClassVar[Inputs] = Inputs(
        bands=("g", "r", "z"), size=SIZE, pixel_scale=PIXEL_SCALE, units=("display", "nanomaggy")
    )
    outputs: ClassVar[tuple[Output, ...]] = (
        Output("p_shred", "", "stat.probability", "Probability that the source is a shred"),
    )
    flags: ClassVar[type[DataFlag]] = ShredFlag
    table: ClassVar[type[Shred]] = Shred

    def load(self, version: ModelVersion) -> None:
        """Load the network, its weights checked against the card."""
        from models import shreds  # imports Keras

        self._predict = shreds.predict
        self._model: keras.Model = registry.load(registry.find(self.name, version.name))
        # a full call and one of a single picture, so that every shape is compiled by now
        blank = np.zeros((self.batch_size + 1, SIZE, SIZE, 3), np.uint8)
        self._predict(self._model, blank, self.batch_size)

    def annotate(self, batch: CutoutBatch) -> Columns:
        """Return `p_shred` (float32, NaN where the image cannot be judged) and `flags`."""
        step = max(PART, self.batch_size)
        parts = [  # so that a block of large cutouts is never in memory as floats as a whole
            self._annotate(_rows(batch, slice(start, start + step)))
            for start in range(0, max(len(batch), 1), step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _annotate(self, batch: CutoutBatch) -> Columns:
        flags = _flags(batch, self.inputs)
        judged = (flags & BLIND) == 0
        p_shred = np.full(len(batch), np.nan, np.float32)
        if judged.any():
            images = batch.pixels if judged.all() else batch.pixels[judged]
            pictures = _pictures(batch, images)[:, ::-1]  # pictures begin at the top
            p_shred[judged] = self._predict(self._model, pictures, self.batch_size)
            _check_finite(p_shred[judged], batch.source_ids[judged])
        return {"p_shred": p_shred, "flags": flags}


def _rows(batch: CutoutBatch, rows: slice) -> CutoutBatch:
    return replace(
        batch,
        source_ids=batch.source_ids[rows],
        pixels=batch.pixels[rows],
        readable=batch.readable[rows],
        cutout_flags=batch.cutout_flags[rows],
    )


def _check_finite(p_shred: NDArray[np.float32], source_ids: NDArray[np.int64]) -> None:
    """A network that breaks down must not pass for an image that cannot be judged."""
    if len(wrong := source_ids[~np.isfinite(p_shred)]):
        raise FloatingPointError(
            f"the network gave no number for {len(wrong)} of {len(source_ids)} pictures, the first "
            f"of source {wrong[0]}: damaged weights, or half precision that overflows. Compare "
            "with --precision float32"
        )


def _flags(batch: CutoutBatch, inputs: Inputs) -> NDArray[np.int32]:
    flags = np.zeros(len(batch), np.int32)

    def mark(flag: ShredFlag, where: NDArray | bool) -> None:
        flags[np.broadcast_to(where, len(batch))] |= int(flag)

    mark(ShredFlag.NO_IMAGE, (batch.cutout_flags & CutoutFlag.NO_IMAGE) != 0)
    mark(ShredFlag.UNREADABLE, (batch.cutout_flags & CutoutFlag.UNREADABLE) != 0)
    mark(ShredFlag.UNREADABLE, ~batch.readable & (flags == 0))
    finite, varied = _signal(batch.pixels)
    mark(ShredFlag.NO_SIGNAL, batch.readable & ((finite <= MIN_FINITE) | ~varied))
    mark(ShredFlag.NOT_FINITE, batch.readable & (finite < 1))
    mark(ShredFlag.PARTIAL, (batch.cutout_flags & CutoutFlag.PARTLY_OUTSIDE) != 0)
    shape = (batch.size, batch.size)
    border = pixels.missing_border(shape, batch.pixel_scale, inputs.size, inputs.pixel_scale)
    mark(ShredFlag.PARTIAL, batch.readable & (border > SAME_SCALE))
    scale = abs(batch.pixel_scale / inputs.pixel_scale - 1)
    mark(ShredFlag.RESAMPLED, batch.readable & (scale > SAME_SCALE))
    return flags


def _signal(images: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Share of finite pixels, shape (n,), and whether the finite ones differ at all, (n,)."""
    each = (1, 2, 3)
    if np.issubdtype(images.dtype, np.integer):
        return np.ones(len(images)), images.min(axis=each) != images.max(axis=each)
    finite = np.isfinite(images)
    lowest = np.where(finite, images, np.inf).min(axis=each)
    highest = np.where(finite, images, -np.inf).max(axis=each)
    return finite.mean(axis=each), lowest < highest


def _pictures(batch: CutoutBatch, images: NDArray) -> NDArray[np.uint8]:
    """Colour pictures (n, 128, 128, 3) at the network's scale.

    Fluxes are resampled before the stretch, so that colours stay those of the sum of the light.
    """
    if batch.unit == "display":
        images = pixels.to_rgb(images, batch.bands, "display")
        return pixels.fit(images, batch.pixel_scale, SIZE, PIXEL_SCALE, fill=pixels.SKY_LEVEL)
    flux = np.nan_to_num(images, posinf=0, neginf=0).astype(np.float32)
    flux = pixels.fit(flux, batch.pixel_scale, SIZE, PIXEL_SCALE, per_pixel=True)
    return pixels.to_rgb(flux, batch.bands, "nanomaggy")
