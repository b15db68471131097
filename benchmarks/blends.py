"""Light from claim to commit, against the network alone and sep alone on the same cutouts.

    python benchmarks/blends.py                       # blends and pair_flux, 2,048 sources
    python benchmarks/blends.py --sources 8192 --batch-size 512

The clock of the whole way starts when the weights are loaded and stops when the last row is
committed; network and sep are timed before and after it. Uses a database of its own on
DATABASE_URL's server or the embedded one, and drops it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from end_to_end import clocks, fill
from ingest import scratch_database
from sqlalchemy import Engine, func, select, text

from db.cutouts import Layout
from db.tables import ModelVersion
from models import extraction, registry
from workers.annotators.blends import Blends
from workers.annotators.light import LightAnnotator, central
from workers.annotators.pair_flux import PairFluxes
from workers.device import Device, prepare
from workers.runner import Runner
from workers.station import Options

ONE_BAND = Layout(("r",), 128, 0.2, "float32", "nJy")
BLOCK = 1024  # cutouts, as a worker gets them


def pairs(n: int) -> np.ndarray:
    """Two round galaxies in noise of 5 nJy, float32, shape (n, 128, 128, 1)."""
    random = np.random.default_rng(1)
    y, x = np.indices((128, 128)) - 63.5
    images = np.empty((n, 128, 128, 1), np.float32)
    for image in images:
        image[..., 0] = random.normal(0, 5, (128, 128))
        dx, dy = random.uniform(-20, 20, 2)
        for x0, y0 in ((0, 0), (dx, dy)):
            width, flux = random.uniform(1.5, 5), 10 ** random.uniform(3.5, 4.7)
            light = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))
            image[..., 0] += flux / (2 * np.pi * width**2) * light
    return images


def sep_of_blends(seen: np.ndarray) -> None:
    """What the annotator asks of sep."""
    extraction.verdict(seen)
    extraction.obstacles(seen, extraction.photometry(seen, modes=(extraction.HOT,)))


def sep_of_pairs(seen: np.ndarray) -> None:
    """What the annotator asks of sep."""
    kind, subtract = extraction.ROW_KIND, extraction.ROW_SUBTRACT
    extraction.obstacles(seen, extraction.photometry(seen, kind=kind, subtract=subtract))


SEP = {Blends: sep_of_blends, PairFluxes: sep_of_pairs}


def seconds_each(act: Callable[[np.ndarray], object], seen: np.ndarray) -> np.ndarray:
    """Seconds per cutout, in blocks as a worker gets them, by each clock."""
    start = clocks()
    for first in range(0, len(seen), BLOCK):
        act(seen[first : first + BLOCK])
    return (clocks() - start) / len(seen)


def worker_seconds_each(
    engine: Engine,
    root: Path,
    annotator: type[LightAnnotator],
    options: Options,
    device: Device,
    n: int,
) -> np.ndarray:
    """Seconds per source from the loaded weights to the last commit, by each clock."""
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {annotator.table.__tablename__}, job"))
    ticks: list[np.ndarray] = []

    def tick(_n: int) -> None:
        ticks.append(clocks())

    Runner(engine, root, [annotator], options, device, progress=tick).run()
    with engine.connect() as connection:
        n_rows = connection.scalar(select(func.count()).select_from(annotator.table))
    assert n_rows == n, f"{n_rows} of {n} sources have a row"
    return (ticks[-1] - ticks[0]) / n


def measure(
    engine: Engine,
    root: Path,
    annotator: type[LightAnnotator],
    images: np.ndarray,
    options: Options,
    device: Device,
    rounds: int,
) -> None:
    """Print the medians for one annotator."""
    card = registry.find(annotator.name)
    alone = annotator(options.batch_size)
    alone.load(ModelVersion(annotator=card.annotator, name=card.name, card=card.as_dict()))
    seen = central(images[..., 0], annotator.inputs.size)

    def network(part: np.ndarray) -> None:
        alone._predict(alone._model, part, options.batch_size)

    found = []
    for _ in range(rounds):
        before = [seconds_each(act, seen) for act in (network, SEP[annotator])]
        whole = worker_seconds_each(engine, root, annotator, options, device, len(images))
        after = [seconds_each(act, seen) for act in (network, SEP[annotator])]
        found.append([*(np.array(before) + np.array(after)) / 2, whole])
    of_network, of_sep, of_worker = np.median(found, axis=0)
    ratio = np.median([whole / (a + b) for a, b, whole in found], axis=0)
    print(
        f"{card.annotator + ' ' + card.name:<28}{1 / of_network[0]:>11.0f}{1 / of_sep[0]:>9.0f}"
        f"{1 / of_worker[0]:>11.0f}{ratio[0]:>8.2f}{ratio[1]:>11.2f}",
        flush=True,
    )


def main() -> None:
    """Print a line for each annotator: sources per second, and time as a share of the parts'."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=Options.batch_size)
    choice = parser.parse_args()
    device = prepare()
    options = Options(choice.batch_size, until_idle=True)
    images = pairs(choice.sources)
    print(f"{choice.sources:,} sources on {device.name}, batches of {choice.batch_size}")
    heads = f"{'network/s':>11}{'sep/s':>9}{'worker/s':>11}{'ratio':>8}{'CPU ratio':>11}"
    print(f"{'':<28}{heads}")
    with scratch_database() as engine, tempfile.TemporaryDirectory() as folder:
        fill(engine, Path(folder), images, ONE_BAND)
        where = (engine, Path(folder))
        for annotator in SEP:
            measure(*where, annotator, images, options, device, choice.rounds)


if __name__ == "__main__":
    main()
