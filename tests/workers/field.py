"""A field of sources with cutouts for the fake annotator, and what became of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import cutouts
from db.home import pixels as pixel_store
from tests.builders import make_catalog, make_cutout_set, make_sources
from tests.workers.fake import SIZE


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
