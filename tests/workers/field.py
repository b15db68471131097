"""Sources and exposures with cutouts for the fake annotators, and what became of them."""

import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import cutouts
from db.home import pixels as pixel_store
from db.tables import Catalog, CutoutBlock, CutoutSet, Exposure, Source
from tests.builders import make_catalog, make_cutout_set, make_exposure, make_sources
from tests.workers.fake import PLAIN, SIZE

EXPOSURES = cutouts.Layout(("r",), 32, 0.184, "uint16", "adu")


def make_field(
    engine: Engine,
    blocks: Sequence[Sequence[int]],
    root: Path | None = None,
    origin: str = "folder",
) -> list[int]:
    """A catalog with one source per marker, in blocks; the ids of the sources in order."""
    rng = np.random.default_rng(1)
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session)
        cutout_set = make_cutout_set(session, catalog, size=SIZE, origin=origin)
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


def make_exposures(
    engine: Engine,
    contents: Sequence[Sequence[int] | NDArray],
    root: Path | None = None,
    markers: Sequence[int] = (),
    **values: Any,
) -> list[int]:
    """Exposures as they are ingested, into one catalog and set; their ids in order.

    What is in them is a cell of the fake map for each source, or cutouts (n, 32, 32, 1). Markers
    are one per exposure, for the first of its sources.
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = session.scalar(sa.select(Catalog).where(Catalog.survey == "exposure"))
        catalog = catalog or make_catalog(session, survey="exposure")
        cutout_set = cutouts.create_set(session, catalog, "r-uint16", EXPOSURES, "exposure")
    ids = []
    for content, marker in zip_longest(contents, markers, fillvalue=PLAIN):
        images = content if isinstance(content, np.ndarray) else _images(content, marker)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            exposure = make_exposure(session, len(images), catalog, block_id=None, **values)
            wanted = sa.select(Source.id).where(Source.exposure_id == exposure.id)
            source_ids = session.scalars(wanted.order_by(Source.id)).all()
        with cutouts.Writer(engine, root or pixel_store(), cutout_set) as writer:
            for source_id, image in zip(source_ids, images, strict=True):
                writer.append(source_id, image)
        _seal(engine, exposure.id, cutout_set)
        ids.append(exposure.id)
    return ids


def _images(cells: Sequence[int], marker: int) -> NDArray[np.uint16]:
    images = np.random.default_rng(1).integers(90, 110, (len(cells), 32, 32, 1), np.uint16)
    images[:, 0, 0, 0] = cells
    images[:1, 0, 1, 0] = marker
    return images


def _seal(engine: Engine, exposure_id: int, cutout_set: CutoutSet) -> None:
    """Say that the last block of a set is the exposure's."""
    newest = sa.select(sa.func.max(CutoutBlock.id)).where(
        CutoutBlock.cutout_set_id == cutout_set.id
    )
    with Session(engine) as session, session.begin():
        exposure = session.get_one(Exposure, exposure_id)
        exposure.block_id = session.scalar(newest)


def rows_per_exposure(engine: Engine) -> dict[int, int]:
    """How many rows of exposure_cell each exposure has."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT exposure.id, count(exposure_cell.exposure_id) FROM exposure"
                " LEFT JOIN exposure_cell ON exposure_cell.exposure_id = exposure.id GROUP BY 1"
            )
        )
        return {row[0]: row[1] for row in rows}


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


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is true, 20 s at most."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
