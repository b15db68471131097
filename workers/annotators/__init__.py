"""The annotators there are. A new one is added to this tuple by hand."""

from workers.annotators.base import Annotator
from workers.annotators.blends import Blends
from workers.annotators.exposure_map import ExposureMap
from workers.annotators.pair_flux import PairFluxes
from workers.annotators.representations import Representations
from workers.annotators.shreds import Shreds
from workers.annotators.source_map import SourceMap

ANNOTATORS: tuple[type[Annotator], ...] = (
    Shreds,
    Representations,
    Blends,
    PairFluxes,
    SourceMap,
    ExposureMap,
)
