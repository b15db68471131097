"""Annotation from claim to commit, against the bare network on the same pictures in the same run.

    python benchmarks/end_to_end.py                        # the current version of shreds
    python benchmarks/end_to_end.py --sources 8192 --batch-size 512

The clock of the whole way starts when the weights are loaded and stops when the last row is
committed. Uses a database of its own on DATABASE_URL's server or the embedded one, and drops it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ingest import scratch_database
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db.cutouts import Layout, Writer, create_set
from db.tables import Catalog, ModelVersion
from models import registry
from workers.annotators.shreds import Shreds
from workers.device import PRECISIONS, Device, prepare
from workers.runner import Runner
from workers.station import Options

DISPLAY = Layout(("z", "r", "g"), 128, 0.262, "uint8", "display")


def fill(engine: Engine, root: Path, pictures: np.ndarray, layout: Layout = DISPLAY) -> None:
    """A catalog with these pictures as cutouts."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = Catalog(name="synthetic", survey="none", column_map={})
        session.add(catalog)
        session.flush()
        cutout_set = create_set(session, catalog, "pictures", layout, "benchmark")
        source_ids = session.scalars(
            text(
                "INSERT INTO source (catalog_id, survey_id, ra, dec, healpix)"
                " SELECT :catalog, k, 1, 1, k FROM generate_series(1, :n) AS k RETURNING id"
            ),
            {"catalog": catalog.id, "n": len(pictures)},
        ).all()
    with Writer(engine, root, cutout_set) as writer:
        for source_id, picture in zip(source_ids, pictures, strict=True):
            writer.append(source_id, picture)


def galaxies(n: int) -> np.ndarray:
    """Noisy exponential discs as pictures, uint8, shape (n, 128, 128, 3)."""
    random = np.random.default_rng(1)
    y, x = np.indices((128, 128)) - 63.5
    pictures = np.empty((n, 128, 128, 3), np.uint8)
    for picture in pictures:
        disc = 200 * np.exp(-np.hypot(x, y) / random.uniform(3, 15))[..., None]
        picture[:] = (disc + random.normal(32, 6, (128, 128, 3))).clip(0, 255)
    return pictures


def clocks() -> np.ndarray:
    """Seconds on the wall and of the processor, which other programs disturb less."""
    return np.array([time.perf_counter(), time.process_time()])


def model_only(network: Shreds, pictures: np.ndarray) -> np.ndarray:
    """Sources per second of the bare network, in blocks as a worker gets them, by each clock."""
    start = clocks()
    for first in range(0, len(pictures), 1024):
        network._predict(network._model, pictures[first : first + 1024], network.batch_size)
    return len(pictures) / (clocks() - start)


def end_to_end(engine: Engine, root: Path, options: Options, device: Device, n: int) -> np.ndarray:
    """Sources per second from the loaded weights to the last commit, by each clock."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE shred, job"))
    ticks: list[np.ndarray] = []
    runner = Runner(
        engine,
        root,
        [Shreds],
        options,
        device,
        progress=lambda _: ticks.append(clocks()),
    )
    runner.run()
    with engine.connect() as connection:
        n_rows = connection.execute(text("SELECT count(p_shred) FROM shred")).scalar_one()
    assert n_rows == n, f"{n_rows} of {n} sources have a value"
    return n / (ticks[-1] - ticks[0])


def main() -> None:
    """Print a line per round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=Options.batch_size)
    parser.add_argument("--precision", choices=PRECISIONS, default=Options.precision)
    choice = parser.parse_args()
    device = prepare(choice.precision)
    network = Shreds(choice.batch_size)
    card = registry.find("shreds")
    network.load(ModelVersion(annotator="shreds", name=card.name, card=card.as_dict()))
    pictures = galaxies(choice.sources)
    options = Options(choice.batch_size, choice.precision, until_idle=True)
    print(
        f"{card.name} on {device.name}, {choice.precision}, batches of {choice.batch_size}, ",
        end="",
    )
    print(f"{choice.sources:,} sources")
    print(f"{'round':<8}{'network/s':>12}{'end to end/s':>14}{'ratio':>8}{'CPU ratio':>11}")
    rates: list[tuple[np.ndarray, np.ndarray]] = []
    with scratch_database() as engine, tempfile.TemporaryDirectory() as folder:
        fill(engine, Path(folder), pictures)
        model_only(network, pictures[:1024])
        for k in range(choice.rounds):
            before = model_only(network, pictures)
            whole = end_to_end(engine, Path(folder), options, device, choice.sources)
            after = model_only(network, pictures)
            rates.append(((before + after) / 2, whole))
            report(str(k + 1), *rates[-1], whole / rates[-1][0])
    bare, whole = (np.median(column, axis=0) for column in zip(*rates, strict=True))
    report("median", bare, whole, np.median([w / b for b, w in rates], axis=0))


def report(name: str, bare: np.ndarray, whole: np.ndarray, ratio: np.ndarray) -> None:
    """Print a line of the table."""
    print(
        f"{name:<8}{bare[0]:>12.1f}{whole[0]:>14.1f}{ratio[0]:>8.3f}{ratio[1]:>11.3f}", flush=True
    )


if __name__ == "__main__":
    main()
