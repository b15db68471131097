"""Self-organizing maps: their prototypes, who is in which cell, what experts said of cells.

Reads only, written to stay fast at 70,000 exposures and 10^8 sources with a cell: members of a cell
come out of the index alone, and beyond MOST_COUNTED rows cells are counted in a sample. What else
pages show of exposures is for `db.exposure_queries`; how labels get in is for `db.labels`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import FromClause, Row, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from db.label_views import label_current, label_majority
from db.pages import Order, Page, Position, keyed, page
from db.queries import explain
from db.tables import (
    ExposureCell,
    LabelClass,
    ModelVersion,
    Prototype,
    SourceCell,
)

MapName = Literal["source_map", "exposure_map"]
Kind = Literal["random", "nearest", "farthest", "borderline"]
Place = tuple[int, int]  # cell_row, cell_column
NOVEL_EXPOSURE, NOVEL_SOURCE = 4, 32  # bits of exposure_cell.flags and source_cell.flags
MOST_COUNTED = 3_000_000  # rows up to which counting by cell takes about a second at most
SAMPLED = 1_000_000  # rows that stand for all of them beyond that


@dataclass(frozen=True)
class Map:
    """A version of an annotator that has prototypes, on a grid of rows x columns."""

    version: ModelVersion
    rows: int
    columns: int

    @property
    def cell(self) -> type[SourceCell] | type[ExposureCell]:
        """The table that says who is in which cell."""
        return SourceCell if self.version.annotator == "source_map" else ExposureCell

    @property
    def key(self) -> InstrumentedAttribute[Any]:
        """The column of that table that names a member."""
        name = "source_id" if self.cell is SourceCell else "exposure_id"
        return cast(InstrumentedAttribute[Any], getattr(self.cell, name))

    @property
    def novel(self) -> int:
        """The bit of that table's flags that says a member is far from every prototype."""
        return NOVEL_SOURCE if self.cell is SourceCell else NOVEL_EXPOSURE


@dataclass(frozen=True)
class Occupancy:
    """How many members each cell has, shape (rows, columns), and how well they fit."""

    n: NDArray[np.int64]
    error: NDArray[np.float64]  # mean quantization error; NaN without members
    exact: bool  # otherwise estimated from a sample of the rows


@dataclass(frozen=True)
class Said:
    """What experts say of a cell, and of its members themselves: how many, by label class."""

    votes: dict[int, int] = field(default_factory=dict)
    direct: dict[int, int] = field(default_factory=dict)

    @property
    def label(self) -> int | None:
        """The class that most experts gave the cell, None on a tie (as `label_majority`)."""
        most = max(self.votes.values(), default=0)
        winners = [one for one, n in self.votes.items() if n == most]
        return winners[0] if len(winners) == 1 else None

    @property
    def disputed(self) -> bool:
        """Whether experts gave the cell different labels."""
        return len(self.votes) > 1

    @property
    def n_direct(self) -> int:
        """Members with a label of their own."""
        return sum(self.direct.values())

    @property
    def n_agree(self) -> int:
        """Members whose own label is that of the cell."""
        return self.direct.get(self.label, 0) if self.label is not None else 0

    @property
    def confidence(self) -> float:
        """How far the label can be trusted for members without one, 0 to 1 (`label_propagated`).

        By the rule of succession, half of what experts agree on while no member was looked at.
        """
        if self.label is None:
            return 0.0
        agreed = self.votes[self.label] / sum(self.votes.values())
        return agreed * (self.n_agree + 1) / (self.n_direct + 2)


NOTHING = Said()


def versions(session: Session, annotator: MapName | None = None) -> list[Map]:
    """Return the maps there are, the current version of each annotator first, then the newest."""
    size = (
        select(
            Prototype.model_version_id.label("id"),
            (func.max(Prototype.cell_row) + 1).label("rows"),
            (func.max(Prototype.cell_column) + 1).label("columns"),
        )
        .group_by(Prototype.model_version_id)
        .subquery()
    )
    statement = (
        select(ModelVersion, size.c.rows, size.c.columns)
        .join(size, size.c.id == ModelVersion.id)
        .order_by(
            ModelVersion.annotator,
            (ModelVersion.state == "current").desc(),
            ModelVersion.id.desc(),
        )
    )
    if annotator is not None:
        statement = statement.where(ModelVersion.annotator == annotator)
    return [Map(*row) for row in session.execute(statement)]


def latents(session: Session, shown: Map) -> NDArray[np.float32]:
    """Return the prototypes in the network's code, shape (rows, columns, d)."""
    return _grid(session, shown, Prototype.latent)


def decoded(session: Session, shown: Map) -> NDArray[np.float32]:
    """Return what the network makes of its prototypes, 0 to 1, shape (rows, columns, m)."""
    return _grid(session, shown, Prototype.decoded)


def u_matrix(latent: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean distance of each prototype to its neighbours above, below and beside it.

    Parameters
    ----------
    latent : ndarray of float32, shape (rows, columns, d)

    Returns
    -------
    ndarray of float64, shape (rows, columns)
        Euclidean; large where the map has a border. NaN on a map of a single cell.

    References
    ----------
    Ultsch & Siemon (1990), Proc. INNC Paris, 305.
    """
    total = np.zeros(latent.shape[:2])
    neighbours = np.zeros(latent.shape[:2])
    for axis in (0, 1):
        apart = np.linalg.norm(np.diff(latent.astype(np.float64), axis=axis), axis=-1)
        before, after = (
            tuple(part if k == axis else slice(None) for k in (0, 1))
            for part in (slice(None, -1), slice(1, None))
        )
        for side in (before, after):
            total[side] += apart
            neighbours[side] += 1
    with np.errstate(invalid="ignore"):
        return total / neighbours


def occupancy(session: Session, shown: Map) -> Occupancy:
    """Count the members of every cell, or beyond MOST_COUNTED rows estimate it from a sample."""
    rows = _planned(session, shown)
    share = None if rows <= MOST_COUNTED else min(SAMPLED / rows, 1)
    n, error = _filled(shown, 0), _filled(shown, np.nan)
    for row, column, members, mean in session.execute(_counted(shown, share)):
        n[row, column] = members / (share or 1)
        error[row, column] = np.nan if mean is None else mean
    return Occupancy(np.rint(n).astype(np.int64), error, exact=share is None)


def n_members(session: Session, shown: Map, place: Place) -> int:
    """Count the members of one cell."""
    return fit(session, shown, place)[0]


def fit(session: Session, shown: Map, place: Place) -> tuple[int, float | None]:
    """Count the members of one cell and average their errors; None without members."""
    mean = func.avg(shown.cell.quantization_error)
    statement = select(func.count(), mean).select_from(shown.cell).where(*_in_cell(shown, place))
    n, error = session.execute(statement).one()
    return n, error


def n_closer(session: Session, shown: Map, place: Place, error: float) -> tuple[int, int]:
    """Count the members of a cell that lie closer to the prototype than `error`, and all."""
    closer = shown.cell.quantization_error < sa.cast(error, sa.REAL)
    statement = select(func.count().filter(closer), func.count())
    n, n_all = session.execute(
        statement.select_from(shown.cell).where(*_in_cell(shown, place))
    ).one()
    return n, n_all


def said(session: Session, shown: Map, only: int | None = None) -> dict[Place, Said]:
    """Return what experts say of cells and of members; cells that nobody spoke of are left out.

    Parameters
    ----------
    only : int, optional
        The expert whose labels alone count, for pages that hide what others said.
    """
    found: defaultdict[Place, Said] = defaultdict(Said)
    for row, column, label_class_id, n in session.execute(_votes(shown, only)):
        found[row, column].votes[label_class_id] = n
    for row, column, label_class_id, n in session.execute(_direct(shown, only)):
        found[row, column].direct[label_class_id] = n
    return dict(found)


def label_classes(session: Session) -> dict[int, LabelClass]:
    """Return every label class, retired ones too, in the order in which they were added."""
    statement = select(LabelClass).order_by(LabelClass.id)
    return {one.id: one for one in session.scalars(statement)}


def members(
    session: Session, shown: Map, place: Place, kind: Kind, n: int, seed: int = 0
) -> Sequence[Row]:
    """Return some members of a cell: id, quantization_error, margin."""
    return session.execute(chosen(shown, place, kind, seed).limit(n)).all()


def chosen(shown: Map, place: Place, kind: Kind, seed: int = 0) -> Select:
    """Return the statement that selects the members of a cell in some order.

    Parameters
    ----------
    kind : str
        `random` (the same order for the same seed), `nearest` to the prototype, `farthest` from
        it, `borderline` (the second nearest prototype is hardly farther).
    """
    cell, key = shown.cell, shown.key
    orders: dict[Kind, tuple[Any, ...]] = {
        "random": (func.hashint8extended(key, seed),),
        "nearest": (cell.quantization_error, key),
        "farthest": (cell.quantization_error.desc(), key),
        "borderline": (cell.margin, key),
    }
    return _members(shown, place).order_by(*orders[kind])


def member_page(
    session: Session,
    shown: Map,
    place: Place,
    size: int,
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return a page of all members of a cell, the nearest to the prototype first."""
    order = Order(shown.cell.quantization_error, shown.key, nullable=False)
    return page(session, keyed(_members(shown, place), order), order, size, after, before)


def _grid(session: Session, shown: Map, column: Any) -> NDArray[np.float32]:
    statement = (
        select(func.halfvec_send(column))
        .where(Prototype.model_version_id == shown.version.id)
        .order_by(Prototype.cell_row, Prototype.cell_column)
    )
    vectors = [unpacked(raw, ">f2") for raw in session.scalars(statement)]
    return np.stack(vectors).reshape(shown.rows, shown.columns, -1)


def unpacked(raw: Any, number: str) -> NDArray[np.float32]:
    """Read what `halfvec_send` and `vector_send` write: length and a zero, then the numbers."""
    return np.frombuffer(raw, number, offset=4).astype(np.float32)


def _planned(session: Session, shown: Map) -> int:
    """How many rows the planner expects a version to have."""
    cell = shown.cell
    rows = select(cell.model_version_id).where(cell.model_version_id == shown.version.id)
    return int(explain(session, rows)["Plan Rows"])


def _counted(shown: Map, share: float | None) -> Select:
    """Count members and average their errors by cell, in all of the table or in a share of it."""
    cell: Any = shown.cell
    if share is not None:
        sample = sa.tablesample(cell, func.system(100 * share), seed=sa.literal(0))
        cell = aliased(cell, sample)
    return (
        select(cell.cell_row, cell.cell_column, func.count(), func.avg(cell.quantization_error))
        .where(cell.model_version_id == shown.version.id, cell.cell_row.is_not(None))
        .group_by(cell.cell_row, cell.cell_column)
    )


def _filled(shown: Map, number: float) -> NDArray[np.float64]:
    return np.full((shown.rows, shown.columns), number)


def _in_cell(shown: Map, place: Place) -> list[sa.ColumnElement[bool]]:
    cell, (row, column) = shown.cell, place
    return [
        cell.model_version_id == shown.version.id,
        cell.cell_row == row,
        cell.cell_column == column,
    ]


def _members(shown: Map, place: Place) -> Select:
    cell = shown.cell
    return select(shown.key.label("id"), cell.quantization_error, cell.margin).where(
        *_in_cell(shown, place)
    )


def _votes(shown: Map, only: int | None) -> Select:
    """Count what experts say of cells, by class."""
    word = label_current.c
    statement = select(word.cell_row, word.cell_column, word.label_class_id, func.count()).where(
        word.model_version_id == shown.version.id
    )
    if only is not None:
        statement = statement.where(word.expert_id == only)
    return statement.group_by(word.cell_row, word.cell_column, word.label_class_id)


def _direct(shown: Map, only: int | None) -> Select:
    """Count the labels that members bear themselves, by cell and class, without novel members."""
    spoken = spoken_of(only)
    cell, key = shown.cell, shown.key
    return (
        select(cell.cell_row, cell.cell_column, spoken.c.label_class_id, func.count())
        .join(spoken, spoken.c[key.key] == key)
        .where(
            cell.model_version_id == shown.version.id,
            cell.cell_row.is_not(None),
            cell.flags.op("&")(shown.novel) == 0,
            spoken.c[key.key].is_not(None),
        )
        .group_by(cell.cell_row, cell.cell_column, spoken.c.label_class_id)
    )


def spoken_of(only: int | None) -> FromClause:
    """Return the label of each subject: what most experts say, or what one expert alone says."""
    if only is None:
        return label_majority
    return select(label_current).where(label_current.c.expert_id == only).subquery()
