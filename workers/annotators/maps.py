"""What the annotators share that place something on a self-organizing map (`models.desom`)."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion
from models import registry
from workers.annotators.base import Columns, Output

if TYPE_CHECKING:
    from models.desom import Desom

OUTPUTS = (
    Output("cell_row", "", "meta.id", "0-based row of the nearest prototype"),
    Output("cell_column", "", "meta.id", "0-based column of the nearest prototype"),
    Output("quantization_error", "", "stat.fit.residual", "Distance to the nearest prototype"),
    Output("margin", "", "stat.fit.residual", "How much farther the second nearest prototype is"),
)


class Map:
    """The map of one version, its weights checked against the card."""

    def __init__(self, version: ModelVersion, batch_size: int) -> None:
        from models import desom  # imports Keras

        self._desom = desom
        self._batch_size = batch_size
        self._model: Desom = registry.load(registry.from_dict(version.card))
        # a full call and one of a single input, so that every shape is compiled by now
        self.place(np.zeros((batch_size + 1, *self._model.input_length), np.float32), 1)

    def place(self, inputs: NDArray, novel: int) -> tuple[Columns, NDArray[np.float32]]:
        """The columns of `OUTPUTS`, `flags` with the bit `novel`, and the codes (n, d)."""
        placed = self._desom.place(self._model, inputs, self._batch_size)
        columns = {output.column: getattr(placed, output.column) for output in OUTPUTS}
        flags = np.where(placed.novel, novel, 0).astype(np.int32)
        return {**columns, "flags": flags}, placed.latent

    def prototypes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The prototypes, and what the network makes of them, each (rows, columns, …)."""
        return self._desom.prototypes(self._model), self._desom.decoded(self._model)
