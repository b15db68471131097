"""A small real annotator, and the program of a worker process that runs it.

The pixels say what the annotator does with a source: see the markers. Whoever runs this module
starts a worker on DATABASE_URL and SKYGLOSS_HOME with the options given as JSON.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from rich.progress import Progress
from sqlalchemy import Engine

from db.engine import create_engine
from db.home import pixels as pixel_store
from db.tables import ModelVersion, Shred
from models.registry import Card
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs, Output
from workers.commands import Follower
from workers.device import Device
from workers.runner import Runner
from workers.station import Options

SIZE = 8  # pixel
PLAIN, RAISES, KILLS, SLOW = 0, 1, 2, 3  # markers: the first pixel of a cutout


class FakeFlag(DataFlag):
    NO_IMAGE = 1, "There is no image of the source."


class FakeAnnotator(Annotator):
    """Says the mean of the pixels; stumbles, dies or dawdles where a marker says so."""

    name: ClassVar[str] = "fake"
    subject: ClassVar[Literal["source", "exposure"]] = "source"
    inputs: ClassVar[Inputs] = Inputs(("g", "r", "z"), SIZE, 0.262, ("display",))
    outputs: ClassVar[tuple[Output, ...]] = (Output("p_shred", "", "stat.probability", "Mean"),)
    flags: ClassVar[type[DataFlag]] = FakeFlag
    table: ClassVar[type[Shred]] = Shred

    def load(self, version: ModelVersion) -> None:
        _tell("loading")
        time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")))

    def annotate(self, batch: CutoutBatch) -> Columns:
        markers = batch.pixels[:, 0, 0, 0]
        if (markers == SLOW).any():
            _tell("annotating")
            time.sleep(float(os.environ.get("FAKE_SLOW_SECONDS", "0")))
        if (markers == KILLS).any():
            os._exit(9)
        if (markers == RAISES).any():
            raise RuntimeError("a poison row")
        mean = batch.pixels.mean(axis=(1, 2, 3)).astype(np.float32) / 255
        return {
            "p_shred": np.where(batch.readable, mean, np.nan),
            "flags": np.where(batch.readable, 0, int(FakeFlag.NO_IMAGE)).astype(np.int32),
        }


class OtherAnnotator(FakeAnnotator):
    """A second opinion, to be fused with the first."""

    name: ClassVar[str] = "other"


def fake_cards(annotator: str) -> list[Card]:
    return [Card(annotator, "mean.v1", "none", "0" * 64, state="current")]


def make_runner(
    engine: Engine,
    annotators: Sequence[type[Annotator]] = (FakeAnnotator,),
    progress: Callable[[int], None] = lambda n: None,
    **values: Any,
) -> Runner:
    """A runner of the fake annotator that stops when nothing is left."""
    defaults = {"batch_size": 8, "until_idle": True, "lease": 2.0, "back_off": 0.05}
    options = Options(**(defaults | values))
    where = (engine, pixel_store(), annotators, options, Device("cpu"))
    return Runner(*where, cards=fake_cards, progress=progress)


def _tell(what: str) -> None:
    """Leave a file that says what this process is at, if anybody asked."""
    if folder := os.environ.get("FAKE_DIARY"):
        Path(folder, f"{what}-{os.getpid()}").touch()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    engine = create_engine()
    with Progress(disable=True) as bar:
        progress = Follower(bar, engine, [FakeAnnotator])
        make_runner(engine, progress=progress, **json.loads(sys.argv[1])).run()
