"""Annotator `blends`: is the source one galaxy, or several that overlap? (`models.blends`)"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import Blend
from models import extraction
from workers.annotators.base import Columns, Inputs, Output
from workers.annotators.light import LightAnnotator, light_flags, light_inputs

SIZE = 64  # pixel, `models.blends.SIZE`, which cannot be imported without Keras


class Blends(LightAnnotator):
    """P(blend) of the network, and what sep says of the same pixels."""

    name: ClassVar[str] = "blends"
    inputs: ClassVar[Inputs] = light_inputs(SIZE)
    outputs: ClassVar[tuple[Output, ...]] = (
        Output(
            "p_blend",
            "",
            "stat.probability;meta.code.class",
            "Probability that the source is a blend of galaxies that overlap",
        ),
        Output(
            "sep_is_blend",
            "",
            "meta.code.class",
            "Whether sep finds a blend: two detections or more, or one that it marks as merged",
        ),
        Output("sep_detections", "", "meta.number", "How many sources sep detects"),
    )
    table: ClassVar[type[Blend]] = Blend

    def look(self, seen: NDArray[np.float32]) -> Columns:
        """Return `p_blend`, `sep_is_blend`, `sep_detections` and what was in the way, each (n,)."""
        is_blend, detections = extraction.verdict(seen)
        measured = extraction.photometry(seen, modes=(extraction.HOT,))  # what flags need
        return {
            "p_blend": self._predict(self._model, seen, self.batch_size),
            "sep_is_blend": is_blend,
            "sep_detections": detections,
            "flags": light_flags(extraction.obstacles(seen, measured)),
        }
