"""Annotator `source_map`: which kind of image is the source? (`models.desom`, desom1)

It looks at raw pixels of what was detected on exposures, one band, whichever; the network scales
them.
"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion, SourceCell
from models import pixels
from workers.annotators.base import Columns, CutoutBatch, DataFlag, Inputs, Output
from workers.annotators.cutouts import CutoutAnnotator, PictureFlag
from workers.annotators.maps import OUTPUTS, Map

CUTOUTS = Inputs(bands=(), size=32, pixel_scale=None, units=("adu",))


class SourceMapFlag(DataFlag):
    """What can be wrong with the place of a source, beside its cutout."""

    FAR = 32, "far from every prototype"


class SourceMap(CutoutAnnotator):
    """The cell of the map of cutouts that a source falls into."""

    name: ClassVar[str] = "source_map"
    on_exposures: ClassVar[bool] = True
    inputs: ClassVar[Inputs] = CUTOUTS
    outputs: ClassVar[tuple[Output, ...]] = OUTPUTS
    flags: ClassVar[Iterable[DataFlag]] = (
        *(flag for flag in PictureFlag if flag is not PictureFlag.RESAMPLED),
        SourceMapFlag.FAR,
    )
    table: ClassVar[type[SourceCell]] = SourceCell

    def load(self, version: ModelVersion) -> None:
        """Load the map, its weights checked against the card."""
        self.wanted = self.inputs
        self._map = Map(version, self.batch_size)

    def see(self, images: NDArray, batch: CutoutBatch) -> NDArray:
        """Return the central 32 pixels as they are stored, the lowest row first."""
        return pixels.fit(images, 1.0, self.wanted.size, 1.0)

    def look(self, seen: NDArray) -> Columns:
        """Return the cell and how well it fits, each of shape (n,)."""
        return self._map.place(seen, int(SourceMapFlag.FAR))[0]

    def prototypes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the prototypes and the cutouts they stand for."""
        return self._map.prototypes()
