"""Exposures counted by cell: how many of an exposure's sources fall into each cell of a source map.

The counting is SQL, from `source_cell` to `exposure_histogram`; what a network makes of the
histograms is for the annotator `exposure_map`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import jobs
from db.maps import unpacked
from db.tables import Exposure, ExposureHistogram, Prototype

COUNT = sa.text("""
    WITH cell AS (
        SELECT cell_row, cell_column FROM prototype WHERE model_version_id = :version
    ), counted AS (
        SELECT source.exposure_id, cell_row, cell_column, count(*) AS n
        FROM source JOIN source_cell ON source_cell.source_id = source.id
        WHERE source.exposure_id = ANY(:exposures)
            AND source_cell.model_version_id = :version AND cell_row IS NOT NULL
        GROUP BY 1, 2, 3
    ), weighed AS (
        SELECT exposure.id AS exposure_id, coalesce(sum(n), 0) AS n_counted,
            coalesce(exposure.n_detected / sum(n), 0)::double precision AS weight
        FROM exposure LEFT JOIN counted ON counted.exposure_id = exposure.id
        WHERE exposure.id = ANY(:exposures)
        GROUP BY exposure.id
    )
    INSERT INTO exposure_histogram (exposure_id, model_version_id, counts, n_counted, weight)
    SELECT exposure_id, :version,
        array_agg(coalesce(n, 0) * weight ORDER BY cell_row, cell_column)::real[]::vector,
        n_counted, weight
    FROM weighed CROSS JOIN cell LEFT JOIN counted USING (exposure_id, cell_row, cell_column)
    GROUP BY exposure_id, n_counted, weight
    ON CONFLICT (exposure_id, model_version_id) DO UPDATE
    SET counts = excluded.counts, n_counted = excluded.n_counted, weight = excluded.weight
    WHERE exposure_histogram.n_counted <> excluded.n_counted
""").bindparams(sa.bindparam("exposures", type_=sa.ARRAY(sa.BigInteger)))


class NoPrototypes(LookupError):  # noqa: N818 (it reads as what happened)
    """The cells of a source map are not known yet."""


@dataclass(frozen=True)
class Histograms:
    """Histo-vectors of n exposures over the c cells of a source map, row by row of the map.

    `counts` are of all detected sources: `weight` times those counted; all zero where
    `n_counted` is.
    """

    exposure_ids: NDArray[np.int64]  # (n,)
    counts: NDArray[np.float32]  # (n, c)
    n_counted: NDArray[np.int64]  # (n,)
    weight: NDArray[np.float64]  # (n,)

    def __len__(self) -> int:
        return len(self.exposure_ids)


def finished(
    session: Session, source_map_version_id: int, catalog_id: int | None = None
) -> Sequence[int]:
    """The exposures, of one catalog or of all, whose sources all have their cell."""
    wanted = sa.true() if catalog_id is None else Exposure.catalog_id == catalog_id
    return session.scalars(
        sa.select(Exposure.id)
        .where(wanted, jobs.is_finished(Exposure.block_id, source_map_version_id))
        .order_by(Exposure.id)
    ).all()


def make(session: Session, source_map_version_id: int, exposure_ids: Sequence[int]) -> int:
    """Count the sources of these exposures; a histogram that is there is renewed if need be.

    Returns
    -------
    int
        Histograms made or changed.

    Raises
    ------
    NoPrototypes
        No worker has ever loaded this version of the source map.
    """
    known = sa.exists().where(Prototype.model_version_id == source_map_version_id)
    if not session.scalar(sa.select(known)):
        raise NoPrototypes(
            f"the cells of model version {source_map_version_id} are not in the table prototype: "
            "a worker puts them there when it first loads that version of source_map"
        )
    values = {"version": source_map_version_id, "exposures": list(exposure_ids)}
    return session.execute(COUNT, values).rowcount  # type: ignore[attr-defined]


def read(session: Session, source_map_version_id: int, exposure_ids: Sequence[int]) -> Histograms:
    """Read the histograms of those of these exposures that have one, in the order of their ids."""
    columns = ExposureHistogram
    rows = session.execute(
        sa.select(
            columns.exposure_id,
            sa.func.vector_send(columns.counts),
            columns.n_counted,
            columns.weight,
        )
        .where(
            columns.model_version_id == source_map_version_id,
            columns.exposure_id == sa.any_(sa.literal(list(exposure_ids), sa.ARRAY(sa.BigInteger))),
        )
        .order_by(columns.exposure_id)
    ).all()
    ids, counts, n_counted, weight = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Histograms(
        np.array(ids, np.int64),
        np.stack([unpacked(raw, ">f4") for raw in counts]) if rows else np.empty((0, 0), "f4"),
        np.array(n_counted, np.int64),
        np.array(weight, np.float64),
    )
