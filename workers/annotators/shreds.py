"""Annotator `shreds`: is the source a galaxy, or a piece of a larger one? (`models.shreds`)"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion, Shred
from models import registry
from workers.annotators.base import Columns, Inputs, Output
from workers.annotators.pictures import PictureAnnotator, colour_inputs

if TYPE_CHECKING:
    import keras

SIZE = 128  # pixel, `models.shreds.SIZE`, which cannot be imported without Keras
PIXEL_SCALE = 0.262  # arcsec/pixel


class Shreds(PictureAnnotator):
    """P(shred) from one colour picture."""

    name: ClassVar[str] = "shreds"
    inputs: ClassVar[Inputs] = colour_inputs({"size": SIZE, "pixel_scale": PIXEL_SCALE})
    outputs: ClassVar[tuple[Output, ...]] = (
        Output("p_shred", "", "stat.probability", "Probability that the source is a shred"),
    )
    table: ClassVar[type[Shred]] = Shred

    def load(self, version: ModelVersion) -> None:
        """Load the network, its weights checked against the card."""
        from models import shreds  # imports Keras

        self._predict = shreds.predict
        self._model: keras.Model = registry.load(registry.from_dict(version.card))
        self.wanted = self.inputs
        # a full call and one of a single picture, so that every shape is compiled by now
        self.look(np.zeros((self.batch_size + 1, SIZE, SIZE, 3), np.uint8))

    def look(self, pictures: NDArray[np.uint8]) -> Columns:
        """Return `p_shred`, shape (n,)."""
        return {"p_shred": self._predict(self._model, pictures, self.batch_size)}
