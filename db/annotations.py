"""Results in: what an annotator said about sources or exposures, by COPY into its typed table.

Works for every results table, by its columns; when a job counts as done is for `db.jobs` to say.
A row that says nothing because there was no image (`NO_PIXELS`) counts as none once there is one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray
from psycopg2.errors import UniqueViolation
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session, aliased

from db.binary_copy import HEADER, TRAILER, number_type, pack_fields
from db.tables import Base, Cutout, Exposure

PROVENANCE = ("source_id", "exposure_id", "model_version_id", "run_id")
NO_PIXELS = 3  # bits of `flags`, of cutouts and of results alike: no image, unreadable image


def result_columns(table: type[Base]) -> list[str]:
    """Names of the columns that an annotator fills, `flags` among them."""
    columns = table.__table__.columns
    return [c.name for c in columns if c.name not in PROVENANCE and c.identity is None]


def subject(table: type[Base]) -> str:
    """What a table has a row of: source or exposure."""
    return "exposure" if "exposure_id" in table.__table__.columns else "source"


def write(
    session: Session,
    table: type[Base],
    model_version_id: int,
    run_id: int,
    subject_ids: NDArray[np.int64],
    columns: Mapping[str, ArrayLike],
) -> int:
    """Add one row per source or exposure; what already has a row for this version keeps it.

    Only a row without a value, for want of an image, gives way to one that had an image.

    Parameters
    ----------
    table : class of `db.tables`
        The annotator's results table.
    subject_ids : ndarray, shape (n,)
        Of the sources or exposures.
    columns : mapping of str to array-like, shape (n,), or (n, d) for vectors
        A value for every result column of the table: numbers, 0 or 1 where the column is boolean,
        objects that are bytes or None where it holds bytes. None, NaN and masked values become
        null, in columns of integers too; of a vector all its numbers, or none.

    Returns
    -------
    int
        Rows added or replaced.

    Raises
    ------
    ValueError
        A column is missing, unknown or of another length; a vector has some numbers that are
        not finite; numbers are beyond what their type holds, or bytes are none.
    """
    n = len(subject_ids)
    _check(table, n, columns)
    if not n:
        return 0
    values = {
        f"{subject(table)}_id": subject_ids,
        "model_version_id": np.full(n, model_version_id),
        "run_id": np.full(n, run_id),
        **columns,
    }
    rows = _packed(table, values)
    try:
        with session.begin_nested():
            _copy(session, table.__tablename__, values, rows)
    except UniqueViolation:
        return _merge(session, table, values, rows)
    return n


def _copy(session: Session, name: str, columns: Iterable[str], rows: bytes) -> None:
    cursor = session.connection().connection.cursor()
    names = ", ".join(columns)
    cursor.copy_expert(f"COPY {name} ({names}) FROM STDIN (FORMAT binary)", io.BytesIO(rows))


def _merge(session: Session, table: type[Base], columns: Iterable[str], rows: bytes) -> int:
    """Add rows where some sources have one already; half as fast as `_copy` alone."""
    name, names = table.__tablename__, ", ".join(columns)
    key = f"{subject(table)}_id, model_version_id"
    # names come from the table's definition, never from a user
    source = f"SELECT {names} FROM"
    session.execute(sa.text(f"CREATE TEMPORARY TABLE incoming AS {source} {name} WITH NO DATA"))
    _copy(session, "incoming", columns, rows)
    added = session.execute(
        sa.text(
            f"INSERT INTO {name} ({names}) {source} incoming"
            f" ON CONFLICT ({key}) DO UPDATE SET {_replacement(table)}"
        )
    )
    session.execute(sa.text("DROP TABLE incoming"))
    return added.rowcount  # type: ignore[attr-defined]


def _replacement(table: type[Base]) -> str:
    """What ON CONFLICT sets, and where: see `write`. In the order of rows it is a new one."""
    name, results = table.__tablename__, result_columns(table)
    settings = [f"{column} = excluded.{column}" for column in ("run_id", *results)]
    settings += [f"{c.name} = DEFAULT" for c in table.__table__.columns if c.identity is not None]
    new = ", ".join(settings)
    is_empty = " AND ".join(f"{name}.{column} IS NULL" for column in _values(table))
    had, has = f"{name}.flags & {NO_PIXELS} = 0", f"excluded.flags & {NO_PIXELS} = 0"
    return f"{new} WHERE {is_empty} AND NOT {had} AND {has}"


def _values(table: type[Base]) -> list[str]:
    return [name for name in result_columns(table) if name != "flags"]


def lacks_row(
    table: type[Base], model_version_id: int, better_set_ids: Sequence[int] = ()
) -> ColumnElement[bool]:
    """Condition on `Cutout`: its source still needs a row from this cutout set.

    Sources with a cutout in one of `better_set_ids` get their row from there.
    """
    columns = table.__table__.columns
    is_outdated = sa.and_(  # there was no image, and now there is
        columns.flags.bitwise_and(NO_PIXELS) != 0,
        Cutout.flags.bitwise_and(NO_PIXELS) == 0,
        *(columns[name].is_(None) for name in _values(table)),
    )
    row = sa.exists().where(
        columns.source_id == Cutout.source_id,
        columns.model_version_id == model_version_id,
        ~is_outdated,
    )
    if not better_set_ids:
        return ~row
    better = aliased(Cutout)
    covered = sa.exists().where(
        better.source_id == Cutout.source_id, better.cutout_set_id.in_(better_set_ids)
    )
    return ~row & ~covered


def lacking(
    table: type[Base],
    model_version_id: int,
    block_id: sa.ColumnExpressionArgument[int] | int,
    positions: tuple[Any, Any],
    better_set_ids: Sequence[int] = (),
) -> sa.Select:
    """Select (position, id, flags) of what still needs a row in a range of a block.

    These are cutouts with their sources, or the exposure that the block is, at position 0.
    """
    if subject(table) == "source":
        return sa.select(Cutout.position, Cutout.source_id, Cutout.flags).where(
            Cutout.block_id == block_id,
            Cutout.position.between(*positions),
            lacks_row(table, model_version_id, better_set_ids),
        )
    columns = table.__table__.columns
    row = sa.exists().where(
        columns.exposure_id == Exposure.id, columns.model_version_id == model_version_id
    )
    return sa.select(sa.literal(0).label("position"), Exposure.id, sa.literal(0)).where(
        Exposure.block_id == block_id, ~row
    )


def waiting(
    session: Session,
    table: type[Base],
    model_version_id: int,
    block_id: int,
    positions: tuple[int, int],
    better_set_ids: Sequence[int] = (),
) -> NDArray:
    """Find what still needs a row in a range of a block: its cutouts' sources, or its exposure.

    Parameters
    ----------
    positions : (int, int)
        First and last position, both included.

    Returns
    -------
    structured ndarray
        Fields `position`, `id` (of the source or exposure) and `flags` (of `cutout`), ordered by
        position.
    """
    found = lacking(table, model_version_id, block_id, positions, better_set_ids)
    rows = session.execute(found.order_by("position"))
    layout = [("position", np.int64), ("id", np.int64), ("flags", np.int32)]
    return np.array([tuple(row) for row in rows], layout)


def _check(table: type[Base], n: int, columns: Mapping[str, ArrayLike]) -> None:
    expected = result_columns(table)
    if set(columns) != set(expected):
        raise ValueError(
            f"table {table.__tablename__} takes the columns {', '.join(sorted(expected))}; "
            f"the annotator gave {', '.join(sorted(columns)) or 'none'}"
        )
    lengths = {name: len(np.ma.asarray(values)) for name, values in columns.items()}
    if wrong := {name: length for name, length in lengths.items() if length != n}:
        raise ValueError(f"expected {n} values per column, one per source; got {wrong}")


def _packed(table: type[Base], columns: Mapping[str, ArrayLike]) -> bytes:
    kinds = table.__table__.columns
    fields = [
        _bytes(name, given)
        if isinstance(kinds[name].type, sa.LargeBinary)
        else _numbers(name, number_type(kinds[name].type), given)
        for name, given in columns.items()
    ]
    packed, _ = pack_fields(fields, len(fields))
    return HEADER + packed.tobytes() + TRAILER


def _numbers(name: str, kind: np.dtype, given: ArrayLike) -> np.ma.MaskedArray:
    """A column as numbers of a type, masked where they are to be null."""
    values = np.ma.masked_invalid(given)
    null = np.ma.getmaskarray(values)
    if null.ndim == 2:
        _check_vectors(name, values)
    if kind == np.bool_:
        _check_truth(name, values)
    elif kind == np.float16 or kind.kind == "i":
        _check_range(name, values, kind)
    return np.ma.MaskedArray(values.filled(0).astype(kind), null)


def _bytes(name: str, given: ArrayLike) -> np.ma.MaskedArray:
    """A column of bytes, masked where there are none."""
    values = np.asarray(given, object)
    null = np.array([value is None for value in values], bool)
    for value in values[~null]:
        if not isinstance(value, bytes):
            raise ValueError(f"{name} holds bytes or None, not {type(value).__name__}")
    return np.ma.MaskedArray(values, null)


def _check_truth(name: str, values: np.ma.MaskedArray) -> None:
    wrong = values.compressed()
    wrong = wrong[(wrong != 0) & (wrong != 1)]
    if wrong.size:
        raise ValueError(f"{name} holds true or false (1 or 0), not {wrong[0]:g}")


def _check_vectors(name: str, values: np.ma.MaskedArray) -> None:
    per_row = np.ma.getmaskarray(values).sum(axis=1)
    if partly := np.count_nonzero((per_row > 0) & (per_row < values.shape[1])):
        raise ValueError(f"{name}: {partly} vectors have some numbers that are not finite")


def _check_range(name: str, values: np.ma.MaskedArray, kind: np.dtype) -> None:
    largest = np.iinfo(kind).max if kind.kind == "i" else np.finfo(kind).max
    if (found := abs(values).max()) > largest:
        raise ValueError(f"{name} holds numbers up to {largest:g}, not {found:g}")
