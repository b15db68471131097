"""Small real annotators, and the program of a worker process that runs them.

The pixels say what the annotator does with a source: see the markers. Whoever runs this module
starts a worker on DATABASE_URL and SKYGLOSS_HOME with the options given as JSON, and with the
annotators named after them.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from sqlalchemy import Engine

from db.engine import create_engine
from db.histograms import Histograms
from db.home import pixels as pixel_store
from db.tables import ModelVersion, Shred
from models.registry import Card
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs, Output
from workers.annotators.blends import Blends
from workers.annotators.exposure_map import ExposureMap
from workers.annotators.pair_flux import PairFluxes
from workers.annotators.source_map import SourceMap
from workers.commands import Follower
from workers.device import Device
from workers.runner import Runner
from workers.station import Options

SIZE = 8  # pixel
ROWS, COLUMNS = 2, 3  # of the fake maps
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


class FakeSourceMap(SourceMap):
    """Puts a source into the cell that its first pixel numbers, as far as there are cells."""

    def load(self, version: ModelVersion) -> None:
        self.wanted = self.inputs

    def look(self, seen: NDArray) -> Columns:
        if (seen[:, 0, 1, 0] == SLOW).any():
            _tell("annotating")
            time.sleep(float(os.environ.get("FAKE_SLOW_SECONDS", "0")))
        return _placed(np.minimum(seen[:, 0, 0, 0], ROWS * COLUMNS - 1))

    def prototypes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.ones((ROWS, COLUMNS, 2), np.float32), np.ones((ROWS, COLUMNS, 4), np.float32)


class FakeExposureMap(ExposureMap):
    """Puts an exposure into the cell where most of its sources are; the last cell is no good."""

    def load(self, version: ModelVersion) -> None:
        pass

    def annotate(self, batch: Histograms) -> Columns:
        most = batch.counts.argmax(axis=1)
        if (most == ROWS * COLUMNS - 1).any():
            _tell("placing")
            _stumble(os.environ.get("FAKE_EXPOSURE", ""))
        latent = np.stack([most, batch.n_counted], axis=1).astype(np.float32)
        return {**_placed(most), "latent": latent}

    def prototypes(self) -> None:
        return None


class FakeBlends(Blends):
    """Takes every source for a blend as likely as not; sep speaks for itself."""

    def load(self, version: ModelVersion) -> None:
        self.wanted = self.inputs
        self._model = None
        self._predict = lambda _, seen, batch_size: np.full(len(seen), 0.5, np.float32)

    def look(self, seen: NDArray[np.float32]) -> Columns:
        _dawdle(seen)
        return super().look(seen)


class FakePairFluxes(PairFluxes):
    """Gives no fluxes and no masks; sep speaks for itself."""

    def load(self, version: ModelVersion) -> None:
        self.wanted = self.inputs
        self._model = SimpleNamespace(output={})
        self._calibration = 1.0
        self._predict = self._nothing

    def look(self, seen: NDArray[np.float32]) -> Columns:
        _dawdle(seen)
        return super().look(seen)

    def _nothing(self, _: object, seen: NDArray, batch_size: int) -> SimpleNamespace:
        unknown = np.full((len(seen), 2), np.nan, np.float32)
        return SimpleNamespace(flux=unknown, error=unknown, masks=None, separation=unknown[:, 0])


def _dawdle(seen: NDArray) -> None:
    if (seen[:, 0, 0] == SLOW).any():
        _tell("annotating")
        time.sleep(float(os.environ.get("FAKE_SLOW_SECONDS", "0")))


def _placed(cells: NDArray) -> Columns:
    row, column = np.divmod(cells, COLUMNS)
    zero = np.zeros(len(cells), np.float32)
    columns = {"cell_row": row, "cell_column": column, "quantization_error": zero, "margin": zero}
    return {**columns, "flags": np.zeros(len(cells), np.int32)}


def _stumble(how: str) -> None:
    if how == "kills":
        os._exit(9)
    if how == "raises":
        raise RuntimeError("a poison exposure")
    time.sleep(float(how or 0))


MAPS = (FakeSourceMap, FakeExposureMap)
LIGHT = (FakeBlends, FakePairFluxes)
FAKES = {fake.name: fake for fake in (FakeAnnotator, OtherAnnotator, *MAPS, *LIGHT)}


def fake_cards(annotator: str) -> list[Card]:
    inputs = {"source_map": "mean.v1"} if annotator == "exposure_map" else {}
    return [Card(annotator, "mean.v1", "none", "0" * 64, state="current", inputs=inputs)]


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
    annotators = [FAKES[name] for name in sys.argv[2:]] or [FakeAnnotator]
    with Progress(disable=True) as bar:
        progress = Follower(bar, engine, annotators)
        make_runner(engine, annotators, progress, **json.loads(sys.argv[1])).run()
