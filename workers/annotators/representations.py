"""Annotator `representations`: each source as a vector, close to those it looks like.

The encoder is the one that ships (`models.representations`) or one that a user registered; both
come by `models.encoders`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion, Representation
from models import encoders, registry
from workers.annotators.base import Columns, Inputs, Output
from workers.annotators.pictures import PictureAnnotator, colour_inputs

LARGEST = float(np.finfo(np.float16).max)  # vectors are stored in half precision


class Representations(PictureAnnotator):
    """The vector of an encoder, and its principal components."""

    name: ClassVar[str] = "representations"
    inputs: ClassVar[Inputs] = colour_inputs({"size": 128, "pixel_scale": 0.262})
    outputs: ClassVar[tuple[Output, ...]] = (
        Output("embedding", "", "src.morph.param", "Vector of the encoder"),
        Output("reduced", "", "src.morph.param", "First 40 principal components of it"),
    )
    table: ClassVar[type[Representation]] = Representation

    @classmethod
    def inputs_of(cls, card: Mapping[str, Any]) -> Inputs:
        """Return what this version's encoder looks at: encoders differ in size and scale."""
        return colour_inputs(card["inputs"]) if card.get("inputs") else cls.inputs

    def load(self, version: ModelVersion) -> None:
        """Load the encoder, its files checked against the card."""
        self.wanted = self.inputs_of(version.card)
        self._encoder = encoders.load(registry.from_dict(version.card))
        # a full call and one of a single picture, so that every shape is compiled by now
        side = self.wanted.size
        blank = np.zeros((self.batch_size + 1, side, side, 3), np.uint8)
        self._encoder.encode(blank, self.batch_size)

    def look(self, pictures: NDArray[np.uint8]) -> Columns:
        """Return `embedding`, shape (n, d), and `reduced`, shape (n, 40)."""
        embedding, reduced = self._encoder.encode(pictures, self.batch_size)
        for name, values in (("embedding", embedding), ("reduced", reduced)):
            _check_range(name, values)
        return {"embedding": embedding, "reduced": reduced}


def _check_range(name: str, values: NDArray[np.float32]) -> None:
    """Vectors that half precision cannot hold must not become infinite in silence."""
    largest = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0)
    if largest > LARGEST:
        raise OverflowError(
            f"{name} has a number of size {largest:.3g}, and half precision, in which vectors are "
            f"stored, ends at {LARGEST:.0f}. Choose another output of the encoder, or another "
            "scale of its pixels (--output, --scale, --normalise), and register it once more"
        )
