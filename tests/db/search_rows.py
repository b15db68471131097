"""Thousands of sources with known vectors, filled in quickly, and searches by NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import annotations
from db.tables import N_REDUCED, ModelVersion, Representation, Run
from tests.builders import make_catalog, make_model_version, make_run

FILL_SOURCES = text(
    """
    INSERT INTO source (catalog_id, survey_id, ra, "dec", healpix, mag_r)
    SELECT :catalog_id, 's' || number, 150 + number / 1000.0, 2, number, 15 + number % 1000 / 100.0
    FROM generate_series(0, :n - 1) AS number
    RETURNING id
    """
)


@dataclass(frozen=True)
class Rows:
    """Sources in the order of their vectors; mag_r is 15 + (i modulo 1000) / 100."""

    version: ModelVersion
    run: Run
    source_ids: NDArray[np.int64]  # (n,)
    vectors: NDArray[np.float32]  # (n, 40), as half precision holds them

    @property
    def mag_r(self) -> NDArray[np.float32]:
        return (15 + np.arange(len(self.source_ids)) % 1000 / 100).astype(np.float32)


def fill(session: Session, n: int, seed: int = 0, **version: Any) -> Rows:
    """Add n sources with random vectors of a new version, in clumps as real ones are."""
    defaults = {"annotator": "representations", "state": "current"}
    run = make_run(session, make_model_version(session, **(defaults | version)))
    rng = np.random.default_rng(seed)
    clumps = rng.normal(0, 3, (20, N_REDUCED))
    vectors = clumps[rng.integers(20, size=n)] + rng.normal(0, 1, (n, N_REDUCED))
    halves = vectors.astype(np.float16).astype(np.float32)
    ids = add_sources(session, n)
    represent(session, run, ids, halves)
    return Rows(session.get_one(ModelVersion, run.model_version_id), run, ids, halves)


def add_sources(session: Session, n: int) -> NDArray[np.int64]:
    """Add n sources in a row along a parallel, 3.6 arcsec apart; their ids."""
    catalog = make_catalog(session)
    ids = session.scalars(FILL_SOURCES, {"catalog_id": catalog.id, "n": n}).all()
    return np.sort(np.array(ids, np.int64))


def represent(
    session: Session,
    run: Run,
    source_ids: ArrayLike,
    reduced: ArrayLike,
    embedding: ArrayLike | None = None,
    flags: int = 0,
) -> None:
    """Give sources these vectors; an embedding is by default a longer one than `reduced`."""
    ids, vectors = np.asarray(source_ids), np.asarray(reduced, np.float32)
    longer = np.hstack([vectors, vectors[:, :8]]) if embedding is None else np.asarray(embedding)
    columns = {"embedding": longer, "reduced": vectors, "flags": np.full(len(ids), flags)}
    annotations.write(session, Representation, run.model_version_id, run.id, ids, columns)


def nearest_by_numpy(
    rows: Rows, vector: NDArray[Any], metric: str, k: int, wanted: NDArray[np.bool_] | None = None
) -> tuple[list[int], NDArray[np.float64]]:
    """Ids and distances of the k nearest rows, in double precision."""
    a, q = rows.vectors.astype(np.float64), vector.astype(np.float16).astype(np.float64)
    if metric == "cosine":
        distance = 1 - (a @ q) / (np.linalg.norm(a, axis=1) * np.linalg.norm(q))
    else:
        distance = np.linalg.norm(a - q, ord={"l1": 1, "l2": 2}[metric], axis=1)
    if wanted is not None:
        distance = np.where(wanted, distance, np.inf)
    order = np.lexsort([rows.source_ids, distance])[:k]
    order = order[np.isfinite(distance[order])]
    return rows.source_ids[order].tolist(), distance[order]
