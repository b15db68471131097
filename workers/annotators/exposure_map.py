"""Annotator `exposure_map`: which kind of exposure is it? (`models.desom`, desom2)

It looks at how many of an exposure's sources fall into each cell of a map of sources: that of the
version of `source_map` which its card names.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from db.histograms import Histograms
from db.tables import ExposureCell, ModelVersion
from workers.annotators.base import Annotator, Columns, DataFlag, Inputs, Output, spread
from workers.annotators.maps import OUTPUTS, Map
from workers.annotators.source_map import CUTOUTS, SourceMap

FEWEST = 30  # sources counted, below which a histogram says little


class ExposureMapFlag(DataFlag):
    """What can be wrong with the place of an exposure."""

    NOTHING_COUNTED = 1, "no source with a cell"
    FEW_COUNTED = 2, f"fewer than {FEWEST} sources counted"
    NOVEL = 4, "far from every prototype (novel)"


class ExposureMap(Annotator[Histograms]):
    """The cell of the map of exposures that an exposure falls into."""

    name: ClassVar[str] = "exposure_map"
    subject: ClassVar[Literal["source", "exposure"]] = "exposure"
    on_exposures: ClassVar[bool] = True
    inputs: ClassVar[Inputs] = CUTOUTS
    outputs: ClassVar[tuple[Output, ...]] = (
        *OUTPUTS,
        Output("latent", "", "meta.modelled", "The exposure in the network's code"),
    )
    flags: ClassVar[Iterable[DataFlag]] = ExposureMapFlag
    table: ClassVar[type[ExposureCell]] = ExposureCell
    after: ClassVar[tuple[str, ...]] = (SourceMap.name,)

    @classmethod
    def after_of(cls, card: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the version of the source map whose cells this version counts."""
        return {SourceMap.name: card.get("inputs", {}).get(SourceMap.name)}

    def load(self, version: ModelVersion) -> None:
        """Load the map, its weights checked against the card."""
        self._map = Map(version, self.batch_size)

    def annotate(self, batch: Histograms) -> Columns:
        """Return the cell, how well it fits and the code; NaN where nothing was counted."""
        counted = batch.n_counted > 0
        flags = np.where(counted, 0, int(ExposureMapFlag.NOTHING_COUNTED)).astype(np.int32)
        flags[counted & (batch.n_counted < FEWEST)] |= int(ExposureMapFlag.FEW_COUNTED)
        said, latent = self._map.place(batch.counts[counted], int(ExposureMapFlag.NOVEL))
        flags[counted] |= said.pop("flags")
        said["latent"] = latent
        return {"flags": flags, **spread(said, counted, "exposures", batch.exposure_ids)}

    def prototypes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the prototypes and the histograms they stand for."""
        return self._map.prototypes()
