"""From claims to batches: the cutouts of the claimed ranges, each block decoded once for all.

Reads the database and the pixel store and changes neither, except that the sources of an exposure
are counted (`db.histograms`) when its turn has come.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import annotations, histograms
from db.annotations import NO_PIXELS
from db.cutouts import read_block
from db.histograms import Histograms
from db.jobs import Claim
from db.tables import CutoutSet
from workers import supply
from workers.annotators.base import CutoutBatch
from workers.supply import Supply


@dataclass(frozen=True)
class Part:
    """One claim, and which of its positions still need a row."""

    claim: Claim
    waiting: NDArray  # fields position, id, flags; see `annotations.waiting`


@dataclass(frozen=True)
class Batch:
    """What one call of an annotator works on: parts of one model version.

    Cutouts are of one cutout set.
    """

    parts: tuple[Part, ...]
    content: CutoutBatch | Histograms
    read_seconds: float

    @property
    def model_version_id(self) -> int:
        """Whose turn it is."""
        return self.parts[0].claim.model_version_id

    @property
    def claims(self) -> list[Claim]:
        """The claims, in the order of the content."""
        return [part.claim for part in self.parts]


def rows_of(parts: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Each part with its place in the content of its batch."""
    start = 0
    for part in parts:
        stop = start + len(part.waiting)
        yield part, slice(start, stop)
        start = stop


def find_parts(
    session: Session, claims: Sequence[Claim], supplies: Mapping[int, Supply]
) -> list[Part]:
    """Look up which positions of each claim still need a row; `supplies` are by model version."""
    return [
        Part(claim, _waiting(session, claim, supplies[claim.model_version_id])) for claim in claims
    ]


def load(parts: Sequence[Part], sets: Mapping[int, CutoutSet], root: Path) -> Iterator[Batch]:
    """Read the pixels of the parts and put them together by cutout set and model version.

    Parameters
    ----------
    sets : mapping of int to CutoutSet
        The cutout sets, by id.
    root : Path
        The pixel store.

    Raises
    ------
    db.cutouts.PixelsMissing
    """
    for set_id, of_set in _grouped(parts, lambda part: part.claim.cutout_set_id):
        began = time.monotonic()
        decoded = {
            block_id: _decode(of_block, sets[set_id], root)
            for block_id, of_block in _grouped(of_set, lambda part: part.claim.block_id)
        }
        seconds = time.monotonic() - began
        for _, of_version in _grouped(of_set, lambda part: part.claim.model_version_id):
            images = [_chosen(part, *decoded[part.claim.block_id]) for part in of_version]
            yield Batch(tuple(of_version), _cutouts(of_version, images, sets[set_id]), seconds)


def count(session: Session, parts: Sequence[Part], supplies: Mapping[int, Supply]) -> list[Batch]:
    """Count the sources of exposures by cell and put them together by model version."""
    batches = []
    for version_id, of_version in _grouped(parts, lambda part: part.claim.model_version_id):
        began = time.monotonic()
        of_version.sort(key=lambda part: part.waiting["id"].tolist())  # as they are read
        ids = np.concatenate([part.waiting["id"] for part in of_version]).tolist()
        each = supplies[version_id]
        [source_map] = supply.before(session, each.version, each.annotator).values()
        assert source_map is not None  # otherwise there would be no job
        histograms.make(session, source_map.id, ids)
        found = histograms.read(session, source_map.id, ids)
        if found.exposure_ids.tolist() != ids:
            raise RuntimeError(f"{len(ids) - len(found)} exposures have just been deleted")
        batches.append(Batch(tuple(of_version), found, time.monotonic() - began))
    return batches


def _waiting(session: Session, claim: Claim, supply: Supply) -> NDArray:
    return annotations.waiting(
        session,
        supply.annotator.table,
        claim.model_version_id,
        claim.block_id,
        (claim.first, claim.last),
        supply.better.get(claim.cutout_set_id, ()),
    )


def _grouped(parts: Sequence[Part], key: Callable[[Part], int]) -> Iterator[tuple[int, list[Part]]]:
    for value, members in groupby(sorted(parts, key=key), key=key):
        yield value, list(members)


def _decode(parts: Sequence[Part], cutout_set: CutoutSet, root: Path) -> tuple[NDArray, int]:
    """Read what the parts of one block need, (n, h, w, b), and the position where it begins."""
    positions = np.concatenate([part.waiting["position"] for part in parts])
    if not len(positions):
        shape = (0, cutout_set.size, cutout_set.size, len(cutout_set.bands))
        return np.empty(shape, cutout_set.dtype), 0
    first, last = int(positions.min()), int(positions.max())
    number = parts[0].claim.block_number
    return read_block(root, cutout_set.store_path, number, first, last), first


def _chosen(part: Part, images: NDArray, first: int) -> NDArray:
    if len(part.waiting) == len(images):
        return images
    return images[part.waiting["position"] - first]


def _cutouts(
    parts: Sequence[Part], images: Sequence[NDArray], cutout_set: CutoutSet
) -> CutoutBatch:
    waiting = np.concatenate([part.waiting for part in parts])
    return CutoutBatch(
        source_ids=waiting["id"],
        pixels=images[0] if len(images) == 1 else np.concatenate(images),
        readable=(waiting["flags"] & NO_PIXELS) == 0,
        cutout_flags=waiting["flags"],
        bands=tuple(cutout_set.bands),
        pixel_scale=cutout_set.pixel_scale,
        unit=cutout_set.unit,
    )
