"""What annotators share whose networks look at one colour picture per source.

What a network says about the pictures, and how it is loaded, is in the annotators.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models import pixels
from workers.annotators.base import Columns, CutoutBatch, DataFlag, Inputs
from workers.annotators.cutouts import CutoutAnnotator, PictureFlag, judge


class PictureAnnotator(CutoutAnnotator):
    """An annotator that says something about each colour picture that can be judged."""

    flags: ClassVar[Iterable[DataFlag]] = PictureFlag

    def see(self, images: NDArray, batch: CutoutBatch) -> NDArray[np.uint8]:
        """Return colour pictures (n, size, size, 3), the top row first."""
        return _pictures(images, batch, self.wanted)[:, ::-1]

    @abstractmethod
    def look(self, seen: NDArray[np.uint8]) -> Columns:
        """Return the outputs for pictures (n, size, size, 3) that begin at the top; n may be 0."""


def colour_inputs(given: Mapping[str, Any]) -> Inputs:
    """The g, r, z cutouts that become the colour pictures a card's `inputs` describe."""
    size, scale = int(given["size"]), float(given["pixel_scale"])
    return Inputs(("g", "r", "z"), size, scale, units=("display", "nanomaggy"))


def seen(batch: CutoutBatch, inputs: Inputs) -> NDArray[np.uint8]:
    """Colour pictures (n, size, size, 3) of those cutouts that can be judged, the top row first."""
    _, _, images = judge(batch, inputs)
    return _pictures(images, batch, inputs)[:, ::-1]


def _pictures(images: NDArray, batch: CutoutBatch, inputs: Inputs) -> NDArray[np.uint8]:
    """Some of a batch's cutouts at the network's scale, the lowest row first.

    Fluxes are resampled before the stretch, so that colours stay those of the sum of the light.
    """
    target = (inputs.size, inputs.scale_for(batch))
    if batch.unit == "display":
        images = pixels.to_rgb(images, batch.bands, "display")
        return pixels.fit(images, batch.pixel_scale, *target, fill=pixels.SKY_LEVEL)
    flux = np.nan_to_num(images, posinf=0, neginf=0).astype(np.float32)
    flux = pixels.fit(flux, batch.pixel_scale, *target, per_pixel=True)
    return pixels.to_rgb(flux, batch.bands, "nanomaggy")
