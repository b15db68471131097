"""A small real annotator, a field for it, and the program of a worker process that runs it.

The pixels say what the annotator does with a source: see the markers. Whoever runs this module
starts a worker on DATABASE_URL and SKYGLOSS_HOME with the options given as JSON.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import cutouts
from db.engine import create_engine
from db.home import pixels as pixel_store
from db.tables import ModelVersion, Shred
from models.registry import Card
from tests.builders import make_catalog, make_cutout_set, make_sources
from workers.annotators.base import Annotator, Columns, CutoutBatch, DataFlag, Inputs, Output
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


def make_field(
    engine: Engine, blocks: Sequence[Sequence[int]], root: Path | None = None
) -> list[int]:
    """A catalog with one source per marker, in blocks; the ids of the sources in order."""
    rng = np.random.default_rng(1)
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session)
        cutout_set = make_cutout_set(session, catalog, size=SIZE)
        sources = make_sources(session, sum(map(len, blocks)), catalog)
        session.commit()
    source_ids = [source.id for source in sources]
    rest = iter(source_ids)
    for markers in blocks:
        with cutouts.Writer(engine, root or pixel_store(), cutout_set) as writer:
            for marker in markers:
                image = rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
                image[0, 0, 0] = marker
                writer.append(next(rest), image)
    return source_ids


def make_runner(
    engine: Engine, annotators: Sequence[type[Annotator]] = (FakeAnnotator,), **values: Any
) -> Runner:
    """A runner of the fake annotator that stops when nothing is left."""
    defaults = {"batch_size": 8, "until_idle": True, "lease": 2.0, "back_off": 0.05}
    options = Options(**(defaults | values))
    return Runner(engine, pixel_store(), annotators, options, Device("cpu"), cards=fake_cards)


def rows_per_source(engine: Engine) -> dict[int, int]:
    """How many annotations each source has."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT source.id, count(shred.source_id) FROM source"
                " LEFT JOIN shred ON shred.source_id = source.id GROUP BY 1"
            )
        )
        return {row[0]: row[1] for row in rows}


def _tell(what: str) -> None:
    """Leave a file that says what this process is at, if anybody asked."""
    if folder := os.environ.get("FAKE_DIARY"):
        Path(folder, f"{what}-{os.getpid()}").touch()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    make_runner(create_engine(), **json.loads(sys.argv[1])).run()
