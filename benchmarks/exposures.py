"""Exposures from claim to commit: sources placed per second, then exposures placed per second.

    python benchmarks/exposures.py                      # 40 exposures of 1,024 sources
    python benchmarks/exposures.py --exposures 100 --batch-size 512

Each clock starts when the weights are loaded and stops when the last row is committed; the bare
network on the same cutouts stands beside it. Uses a database of its own on DATABASE_URL's server
or the embedded one, and drops it.
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
from db.tables import Catalog, Exposure, ModelVersion
from models import registry
from workers.annotators.base import Annotator, CutoutBatch
from workers.annotators.exposure_map import ExposureMap
from workers.annotators.source_map import SourceMap
from workers.device import Device, prepare
from workers.runner import Runner
from workers.station import Options

RAW = Layout(("r",), 32, 0.184, "uint16", "adu")
SAMPLED = 1024  # sources of an exposure
SOURCES = text(
    "INSERT INTO source (catalog_id, survey_id, exposure_id, ccd, x, y)"
    " SELECT :catalog, :exposure || '/0/' || k, :exposure, 0, k, k"
    " FROM generate_series(1, :n) AS k RETURNING id"
)


def stars(n: int) -> np.ndarray:
    """Noisy stars of some widths and brightnesses, uint16, shape (n, 32, 32, 1)."""
    random = np.random.default_rng(1)
    y, x = np.indices((32, 32)) - 15.5
    width, peak = random.uniform(1, 4, (n, 1, 1)), 10 ** random.uniform(2, 4, (n, 1, 1))
    light = peak * np.exp(-(x**2 + y**2) / (2 * width**2)) + random.normal(1000, 20, (n, 32, 32))
    return light.clip(0, 65535).astype(np.uint16)[..., None]


def fill(engine: Engine, root: Path, images: np.ndarray, n_exposures: int) -> None:
    """A catalog of exposures that all have these cutouts."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = Catalog(name="night", survey="exposure", column_map={})
        session.add(catalog)
        session.flush()
        cutout_set = create_set(session, catalog, "r-uint16", RAW, "exposure")
    n = len(images)
    for k in range(n_exposures):
        facts = {"name": str(k), "path": "", "fingerprint": str(k), "header": {}, "n_ccds": 1}
        with Session(engine) as session, session.begin():
            row = Exposure(catalog_id=catalog.id, **facts, n_detected=5 * n, n_sampled=n)
            session.add(row)
            session.flush()
            values = {"catalog": catalog.id, "exposure": row.id, "n": n}
            ids = session.scalars(SOURCES, values).all()
        with Writer(engine, root, cutout_set) as writer:
            for source_id, image in zip(ids, images, strict=True):
                writer.append(source_id, image)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE exposure SET block_id = (SELECT block_id FROM cutout JOIN source"
                " ON source_id = source.id WHERE exposure_id = exposure.id LIMIT 1)"
            )
        )


def bare(images: np.ndarray, batch_size: int) -> float:
    """Cutouts per second of the network alone, with its flags, in blocks as a worker gets them."""
    annotator = SourceMap(batch_size)
    card = registry.find("source_map")
    annotator.load(ModelVersion(annotator="source_map", name=card.name, card=card.as_dict()))
    n = len(images)
    ids, readable, flags = np.arange(n), np.ones(n, bool), np.zeros(n, np.int32)
    batch = CutoutBatch(ids, images, readable, flags, RAW.bands, RAW.pixel_scale, RAW.unit)
    annotator.annotate(batch)
    began = time.perf_counter()
    for _ in range(10):
        annotator.annotate(batch)
    return 10 * n / (time.perf_counter() - began)


def rate(
    engine: Engine,
    root: Path,
    annotators: list[type[Annotator]],
    batch_size: int,
    device: Device,
) -> float:
    """Sources or exposures per second from the loaded weights to the last commit."""
    ticks: list[float] = []
    options = Options(batch_size, until_idle=True)

    def tick(_n: int) -> None:
        ticks.append(time.perf_counter())

    tally = Runner(engine, root, annotators, options, device, progress=tick).run()
    return tally.n_annotated / (ticks[-1] - ticks[0])


def main() -> None:
    """Print the three rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--exposures", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=Options.batch_size)
    choice = parser.parse_args()
    device = prepare()
    images = stars(SAMPLED)
    print(f"{choice.exposures} exposures of {SAMPLED:,} sources on {device.name}", end="")
    print(f", batches of {choice.batch_size}")
    with scratch_database() as engine, tempfile.TemporaryDirectory() as folder:
        fill(engine, Path(folder), images, choice.exposures)
        where = (choice.batch_size, device)
        print(f"source_map, network and flags alone: {bare(images, where[0]):,.0f} cutouts/s")
        found = rate(engine, Path(folder), [SourceMap], *where)
        print(f"source_map, claim to commit:         {found:,.0f} cutouts/s")
        found = rate(engine, Path(folder), [ExposureMap], *where)
        print(f"exposure_map, claim to commit:       {found:,.0f} exposures/s")


if __name__ == "__main__":
    main()
