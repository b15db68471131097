"""What annotators share whose networks measure light: one band, its unit, and what is in the way.

What a network says of the light is in the annotators; what sep says, in `models.extraction`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion
from models import registry
from models.blender_parents import NANOMAGGY
from models.extraction import OBSTACLES
from workers.annotators.base import Columns, CutoutBatch, DataFlag, Inputs, Output
from workers.annotators.cutouts import CutoutAnnotator, PictureFlag

if TYPE_CHECKING:
    import keras

NANOJANSKY = {"nJy": 1.0, "nanomaggy": NANOMAGGY}  # of one unit of a pixel
FLUX = "phot.flux.density;em.opt"  # UCD of a flux in nJy
SHIPPED_BANDS = ("r",)  # unless a card names another, or none: then the only one of a set


class LightFlag(DataFlag):
    """What a network for light was not made for, in the order of `extraction.OBSTACLES`."""

    MORE_THAN_TWO = 64, "more than two sources"
    CUT_OFF = 128, "light cut off at the edge"
    SATURATED = 256, "saturated"


FLAGS = (*(flag for flag in PictureFlag if flag is not PictureFlag.RESAMPLED), *LightFlag)


def light_inputs(size: int) -> Inputs:
    """One band of any scale and depth, in a unit that can be converted to nJy."""
    return Inputs(SHIPPED_BANDS, size, None, tuple(NANOJANSKY))


class LightAnnotator(CutoutAnnotator):
    """An annotator that measures light in one band of each cutout that can be judged.

    Its network is that of the module of `models` that has its name: `predict(model, pixels,
    batch_size)` with pixels (n, size, size) [nJy].
    """

    flags: ClassVar[Iterable[DataFlag]] = FLAGS
    _model: keras.Model
    _predict: Callable[..., Any]

    @classmethod
    def inputs_of(cls, card: Mapping[str, Any]) -> Inputs:
        """Return what this version looks at: versions differ in the band."""
        bands = card.get("inputs", {}).get("bands", cls.inputs.bands)
        return replace(cls.inputs, bands=tuple(bands))

    @classmethod
    def outputs_of(cls, card: Mapping[str, Any]) -> tuple[Output, ...]:
        """Return the outputs; fluxes say in which band they are, and on which scale."""
        band = "/".join(cls.inputs_of(card).bands)
        where = f"in band {band}" if band else "in the only band of its cutouts"
        scale = "AB magnitude is 31.4 - 2.5 log10(flux)"
        return tuple(
            replace(each, description=f"{each.description}, {where}; {scale}")
            if each.ucd == FLUX
            else each
            for each in cls.outputs
        )

    def load(self, version: ModelVersion) -> None:
        """Load the network, its weights checked against the card."""
        self._predict = import_module(f"models.{self.name}").predict  # imports Keras
        self._model = registry.load(registry.from_dict(version.card))
        self.wanted = self.inputs_of(version.card)
        # a full call and one of a single cutout, so that every shape is compiled by now
        side = self.wanted.size
        noise = np.random.default_rng(0).normal(size=(self.batch_size + 1, side, side))
        self.look(noise.astype(np.float32))

    def annotate(self, batch: CutoutBatch) -> Columns:
        """Return the outputs (NaN or None where the image cannot be judged) and `flags`."""
        return super().annotate(_field(batch, self.wanted))

    def see(self, images: NDArray, batch: CutoutBatch) -> NDArray[np.float32]:
        """Return the central pixels (n, size, size) [nJy]; what lies outside has no value (NaN)."""
        return NANOJANSKY[batch.unit] * central(images[..., 0], self.wanted.size)


def light_flags(found: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.int32]:
    """Bits of `LightFlag` for what `models.extraction.obstacles` found, (n,)."""
    names = zip(OBSTACLES, LightFlag, strict=True)
    bits = [np.where(found[name], int(flag), 0) for name, flag in names]
    return np.sum(bits, axis=0, dtype=np.int32)


def central(images: NDArray, size: int) -> NDArray[np.float32]:
    """Cut or pad images (n, h, w) to (n, size, size) about their centre, without resampling.

    Padding has no value (NaN): networks and sep take it as sky. Where h - size is odd, the centre
    moves up by half a pixel.
    """
    result = np.full((len(images), size, size), np.nan, np.float32)
    (to_rows, rows), (to_columns, columns) = (_overlap(side, size) for side in images.shape[1:])
    result[:, to_rows, to_columns] = images[:, rows, columns]
    return result


def _overlap(old: int, new: int) -> tuple[slice, slice]:
    """Which part of the new axis is covered, and by which part of the old one."""
    n, margin = min(old, new), (old - new) // 2
    to, start = max(0, -margin), max(0, margin)
    return slice(to, to + n), slice(start, start + n)


def _field(batch: CutoutBatch, inputs: Inputs) -> CutoutBatch:
    """The same batch with no other band than the wanted one, and nothing beside the field.

    So that cutouts are judged by what the network looks at, and by nothing else.
    """
    plane = batch.bands.index(inputs.bands[0]) if inputs.bands else 0
    rows, columns = (_overlap(side, inputs.size)[1] for side in batch.pixels.shape[1:3])
    pixels = batch.pixels[:, rows, columns, plane : plane + 1]
    return replace(batch, pixels=pixels, bands=batch.bands[plane : plane + 1])
