"""Pictures of some stored cutouts, from all over a catalog, to try a network on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import uploads
from db.annotations import NO_PIXELS
from db.cutouts import ON_EXPOSURES, read_block
from db.tables import Cutout, CutoutBlock, CutoutSet, ModelVersion
from workers import supply
from workers.annotators.base import Annotator, CutoutBatch, Inputs
from workers.annotators.pictures import seen

MAX_BLOCKS = 40  # that a sample is spread over
SEED = 0


class NothingToSee(ValueError):  # noqa: N818 (it reads as what happened)
    """No stored cutout serves the network."""


@dataclass(frozen=True)
class Choice:
    """Some readable cutouts of one block."""

    cutout_set: CutoutSet
    block: CutoutBlock
    rows: NDArray[np.int64]  # (n, 3): position, source, flags


def choose(
    session: Session,
    version: ModelVersion,
    annotator: type[Annotator],
    n: int,
    catalog_id: int | None = None,
) -> list[Choice]:
    """Choose up to n cutouts that serve a version, from many blocks.

    Uploads and what was detected on exposures are left out.

    The same database gives the same cutouts.

    Raises
    ------
    NothingToSee
        There are no cutouts, or none that serve; the message says what is wanted.
    """
    sets = _sets(session, version, annotator, catalog_id)
    rng = np.random.default_rng(SEED)
    blocks = _blocks(session, list(sets), rng)
    choices, left = [], n
    for k, block in enumerate(blocks):
        share = -(-left // (len(blocks) - k))
        rows = _readable(session, block)
        rows = rows[np.sort(rng.permutation(len(rows))[:share])]
        choices.append(Choice(sets[block.cutout_set_id], block, rows))
        left -= len(rows)
    return choices


def pictures(choice: Choice, root: Path, inputs: Inputs) -> NDArray[np.uint8]:
    """Read chosen cutouts and show them as a network sees them.

    Returns
    -------
    ndarray of uint8, shape (n, size, size, 3)
        Those that can be judged, the top row first.
    """
    cutout_set, block = choice.cutout_set, choice.block
    pixels = read_block(root, cutout_set.store_path, block.number, 0, block.n - 1)
    positions, source_ids, flags = choice.rows.T
    batch = CutoutBatch(
        source_ids=source_ids,
        pixels=pixels[positions],
        readable=np.ones(len(positions), bool),
        cutout_flags=flags.astype(np.int32),
        bands=tuple(cutout_set.bands),
        pixel_scale=cutout_set.pixel_scale,
        unit=cutout_set.unit,
    )
    return seen(batch, inputs)


def _sets(
    session: Session, version: ModelVersion, annotator: type[Annotator], catalog_id: int | None
) -> dict[int, CutoutSet]:
    """The cutout sets that serve, by id."""
    others = (uploads.ORIGIN, ON_EXPOSURES)
    there = [each for each in supply.cutout_sets(session, catalog_id) if each.origin not in others]
    if not there:
        raise NothingToSee(
            "there are no cutouts to try it on: ingest some first (skygloss ingest cutouts)"
        )
    supplied = supply.supply(version, annotator, there)
    if not supplied.set_ids:
        reasons = [*supplied.refused.values(), *supply.remarks(session, [supplied])]
        raise NothingToSee("; ".join(dict.fromkeys(reasons)))
    return {each.id: each for each in there if each.id in supplied.set_ids}


def _blocks(
    session: Session, set_ids: Sequence[int], rng: np.random.Generator
) -> Sequence[CutoutBlock]:
    """Blocks of these sets, chosen at random."""
    sealed = CutoutBlock.sealed_at.is_not(None)
    ids = session.scalars(
        sa.select(CutoutBlock.id)
        .where(CutoutBlock.cutout_set_id.in_(set_ids), sealed)
        .order_by(CutoutBlock.id)
    ).all()
    chosen = rng.permutation(np.array(ids, np.int64))[:MAX_BLOCKS].tolist()
    return session.scalars(
        sa.select(CutoutBlock).where(CutoutBlock.id.in_(chosen)).order_by(CutoutBlock.id)
    ).all()


def _readable(session: Session, block: CutoutBlock) -> NDArray[np.int64]:
    rows = session.execute(
        sa.select(Cutout.position, Cutout.source_id, Cutout.flags)
        .where(Cutout.block_id == block.id, Cutout.flags.bitwise_and(NO_PIXELS) == 0)
        .order_by(Cutout.position)
    )
    return np.array([tuple(row) for row in rows], np.int64).reshape(-1, 3)
