"""Every read that the pages about exposures need. Nothing here writes or renders.

How exposures get in is for `db.exposures`; the cells of maps are for `db.maps`, labels for
`db.labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.orm import Session, aliased, defer

from db.label_views import label_majority
from db.maps import NOVEL_EXPOSURE, Map, Place, spoken_of, unpacked
from db.pages import Order, Page, Position, keyed, page, position
from db.tables import (
    Catalog,
    Ccd,
    Exposure,
    ExposureCell,
    ExposureHistogram,
    ModelVersion,
    Run,
    Source,
    SourceCell,
    Worker,
)

Flagged = Literal["any", "clean", "flagged", "novel", "unplaced"]
SORTS = ("catalog", "mjd", "-mjd", "-error")


@dataclass(frozen=True)
class Wanted:
    """Which exposures to list; None does not restrict."""

    catalog_id: int | None = None
    band: str | None = None
    name: str | None = None  # part of the name
    label: int | None = None  # class that was given directly
    propagated: int | None = None  # class of its cell
    flagged: Flagged = "any"
    place: Place | None = None  # cell


@dataclass(frozen=True)
class Histogram:
    """An exposure's sources by cell of a version of the source map, shape (rows, columns)."""

    version: ModelVersion
    counts: NDArray[np.float32]  # of all detected sources
    n_counted: int
    weight: float  # detected sources that a counted one stands for


def listed(
    session: Session,
    wanted: Wanted,
    shown: Map | None,
    sort: str,
    size: int,
    after: Position | None = None,
    before: Position | None = None,
    only: int | None = None,
) -> Page:
    """Return a page of exposures: Exposure, catalog, ExposureCell (None if it has no cell).

    Parameters
    ----------
    shown : Map, optional
        The map that cells are of.
    sort : str
        One of SORTS: by catalog and name, by time, or by quantization error, `-` reverses.
    only : int, optional
        The expert whose direct labels alone count.
    """
    order = _order(sort)
    statement = keyed(_selected(wanted, shown, only), order)
    return page(session, statement, order, size, after, before)


def count(session: Session, wanted: Wanted, shown: Map | None, only: int | None = None) -> int:
    """Count the exposures that are wanted."""
    statement = _selected(wanted, shown, only).with_only_columns(Exposure.id).subquery()
    return session.scalar(select(func.count()).select_from(statement)) or 0


def some(session: Session, shown: Map | None, ids: Sequence[int]) -> list[Row]:
    """Return exposures as `listed` does, in the order of their numbers."""
    statement = _selected(Wanted(), shown, None).where(Exposure.id.in_(ids))
    rows = {row.Exposure.id: row for row in session.execute(statement)}
    return [rows[one] for one in ids if one in rows]


def position_of(session: Session, shown: Map | None, exposure_id: int, sort: str) -> Position:
    """Return where an exposure stands in an order."""
    statement = keyed(_selected(Wanted(), shown, None), _order(sort))
    return position(session.execute(statement.where(Exposure.id == exposure_id)).one())


def bands(session: Session) -> Sequence[str]:
    """Return the filters that exposures were taken through."""
    statement = select(Exposure.band).where(Exposure.band.is_not(None)).distinct()
    return [band for band in session.scalars(statement.order_by(Exposure.band)) if band]


def ccds(session: Session, exposure_id: int) -> Sequence[Ccd]:
    """Return the CCDs of an exposure in the order of the file."""
    statement = select(Ccd).where(Ccd.exposure_id == exposure_id).order_by(Ccd.number)
    return session.scalars(statement).all()


def placements(session: Session, exposure_id: int) -> Sequence[Row]:
    """Return where each version of the map put an exposure, the current first, with its run."""
    statement = (
        select(ExposureCell, ModelVersion, Run, Worker)
        .join(ModelVersion, ModelVersion.id == ExposureCell.model_version_id)
        .join(Run, Run.id == ExposureCell.run_id)
        .join(Worker, Worker.id == Run.worker_id)
        .where(ExposureCell.exposure_id == exposure_id)
        .order_by((ModelVersion.state == "current").desc(), ModelVersion.id.desc())
    )
    return session.execute(statement).all()


def source_placements(session: Session, source_id: int) -> Sequence[Row]:
    """Return where each version of the source map put a source, the current first."""
    statement = (
        select(SourceCell, ModelVersion)
        .join(ModelVersion, ModelVersion.id == SourceCell.model_version_id)
        .where(SourceCell.source_id == source_id)
        .order_by((ModelVersion.state == "current").desc(), ModelVersion.id.desc())
    )
    return session.execute(statement).all()


def histogram(session: Session, exposure_id: int, shown: Map) -> Histogram | None:
    """Return an exposure's histogram over the cells of a version of the source map."""
    statement = select(
        func.vector_send(ExposureHistogram.counts).label("counts"),
        ExposureHistogram.n_counted,
        ExposureHistogram.weight,
    ).where(
        ExposureHistogram.exposure_id == exposure_id,
        ExposureHistogram.model_version_id == shown.version.id,
    )
    row = session.execute(statement).one_or_none()
    if row is None:
        return None
    counts = unpacked(row.counts, ">f4").reshape(shown.rows, shown.columns)
    return Histogram(shown.version, counts, row.n_counted, row.weight)


def with_histogram(session: Session, exposure_ids: Sequence[int], shown: Map) -> set[int]:
    """Return those of some exposures that have a histogram."""
    statement = select(ExposureHistogram.exposure_id).where(
        ExposureHistogram.exposure_id.in_(exposure_ids),
        ExposureHistogram.model_version_id == shown.version.id,
    )
    return set(session.scalars(statement))


def nearest(session: Session, exposure_id: int, version_id: int, n: int) -> Sequence[Row]:
    """Return the exposures that are most like one in the network's code: id, distance.

    Every exposure is compared: 70,000 take some 50 ms, so that no index is needed.
    """
    asked = aliased(ExposureCell)
    this = (
        select(asked.latent)
        .where(asked.exposure_id == exposure_id, asked.model_version_id == version_id)
        .scalar_subquery()
    )
    distance = ExposureCell.latent.op("<->", return_type=sa.Float())(this)
    statement = (
        select(ExposureCell.exposure_id.label("id"), distance.label("distance"))
        .where(
            ExposureCell.model_version_id == version_id,
            ExposureCell.latent.is_not(None),
            ExposureCell.exposure_id != exposure_id,
            this.is_not(None),
        )
        .order_by("distance", ExposureCell.exposure_id)
        .limit(n)
    )
    return session.execute(statement).all()


def source_page(
    session: Session,
    exposure_id: int,
    ccd: int | None,
    size: int,
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return a page of an exposure's sources as they lie in its block: Source.

    Parameters
    ----------
    ccd : int, optional
        Only those on this CCD.
    """
    order = Order(Source.id, Source.id, nullable=False)
    statement = select(Source).where(Source.exposure_id == exposure_id)
    if ccd is not None:
        statement = statement.where(Source.ccd == ccd)
    return page(session, keyed(statement, order), order, size, after, before)


def _order(sort: str) -> Order:
    descending = sort.startswith("-")
    match sort.lstrip("-"):
        case "catalog":
            return Order(Exposure.catalog_id, Exposure.name, descending, nullable=False)
        case "mjd":
            return Order(Exposure.mjd, Exposure.id, descending)
        case "error":
            return Order(ExposureCell.quantization_error, Exposure.id, descending)
    raise ValueError(f"sort must be one of {', '.join(SORTS)}, not {sort!r}")


def _selected(wanted: Wanted, shown: Map | None, only: int | None) -> Select:
    version_id = None if shown is None else shown.version.id
    on_map = sa.and_(
        ExposureCell.exposure_id == Exposure.id, ExposureCell.model_version_id == version_id
    )
    return (
        select(Exposure, Catalog.name.label("catalog"), ExposureCell)
        .join(Catalog, Catalog.id == Exposure.catalog_id)
        .outerjoin(ExposureCell, on_map)
        .where(*_conditions(wanted, version_id, only))
        .options(defer(Exposure.header), defer(ExposureCell.latent))  # large, read when asked for
    )


def _conditions(
    wanted: Wanted, version_id: int | None, only: int | None
) -> Iterator[ColumnElement[bool]]:
    if wanted.catalog_id is not None:
        yield Exposure.catalog_id == wanted.catalog_id
    if wanted.band is not None:
        yield Exposure.band == wanted.band
    if wanted.name is not None:
        yield Exposure.name.icontains(wanted.name, autoescape=True)
    if wanted.place is not None:
        yield ExposureCell.cell_row == wanted.place[0]
        yield ExposureCell.cell_column == wanted.place[1]
    if wanted.label is not None:
        spoken = spoken_of(only)
        yield Exposure.id.in_(
            select(spoken.c.exposure_id).where(
                spoken.c.label_class_id == wanted.label, spoken.c.exposure_id.is_not(None)
            )
        )
    if wanted.propagated is not None:
        yield _in_labelled_cell(wanted.propagated, version_id)
    yield from _flagged(wanted.flagged)


def _in_labelled_cell(label_class_id: int, version_id: int | None) -> ColumnElement[bool]:
    """Condition that most experts gave an exposure's cell a label, and that it belongs there."""
    view = label_majority.c
    cells = select(view.cell_row, view.cell_column).where(
        view.model_version_id == version_id, view.label_class_id == label_class_id
    )
    return sa.and_(
        ExposureCell.flags.op("&")(NOVEL_EXPOSURE) == 0,
        sa.tuple_(ExposureCell.cell_row, ExposureCell.cell_column).in_(cells),
    )


def _flagged(which: Flagged) -> Iterator[ColumnElement[bool]]:
    problem: Any = sa.or_(
        Exposure.flags != 0, func.coalesce(ExposureCell.flags, 0).op("&")(~NOVEL_EXPOSURE) != 0
    )
    match which:
        case "clean":
            yield ~problem
        case "flagged":
            yield problem
        case "novel":
            yield ExposureCell.flags.op("&")(NOVEL_EXPOSURE) != 0
        case "unplaced":
            yield ExposureCell.cell_row.is_(None)
