"""Keyset pagination: pages of any ordered statement, as fast at the end as at the beginning.

Which rows and which orders there are is the business of `db.queries`; how a position travels in a
link is the business of the web.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Column = ColumnElement[Any] | InstrumentedAttribute[Any]


@dataclass(frozen=True)
class Position:
    """A place in an order: the key of the row on it."""

    value: Any
    tie: Any


@dataclass(frozen=True)
class Order:
    """By `value`, rows of equal value by `tie` in the same direction; a missing value comes last.

    `value` and `tie` together are unique. For speed both should be columns of one table, with an
    index on them. Where that table is outer-joined, `tie_of_missing` is the tie of rows without a
    value, and equals `tie` elsewhere; `is_missing` is how to find them, if not by `value IS NULL`.
    """

    value: Column
    tie: Column
    descending: bool = False
    nullable: bool = True
    tie_of_missing: Column | None = None
    is_missing: ColumnElement[bool] | None = None


@dataclass(frozen=True)
class Page:
    """Some rows in order, and where the pages before and after them begin (None: there is none)."""

    rows: list[Row]
    previous: Position | None
    next: Position | None


def page(
    session: Session,
    statement: Select,
    order: Order,
    size: int,
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return the `size` rows after a position, or before one, or the first ones.

    Parameters
    ----------
    statement : Select
        Without ORDER BY and LIMIT; its rows must carry the columns `key_value` and `key_tie`
        (see `keyed`).
    """
    backwards = before is not None
    start = before if backwards else after
    rows: list[Row] = []
    for part in _parts(statement, order, start, backwards):
        rows += session.execute(part.limit(size + 1 - len(rows)))
        if len(rows) > size:
            break
    more = len(rows) > size
    rows = rows[:size][::-1] if backwards else rows[:size]
    if not rows:
        return Page([], None, None)
    return Page(
        rows,
        previous=position(rows[0]) if (more if backwards else after is not None) else None,
        next=position(rows[-1]) if backwards or more else None,
    )


def keyed(statement: Select, order: Order) -> Select:
    """Add the columns that carry each row's position."""
    tie = order.tie if order.tie_of_missing is None else order.tie_of_missing
    return statement.add_columns(order.value.label("key_value"), tie.label("key_tie"))


def position(row: Row) -> Position:
    """Return where a row of a keyed statement stands."""
    return Position(row.key_value, row.key_tie)


def _parts(
    statement: Select, order: Order, start: Position | None, backwards: bool
) -> Iterator[Select]:
    """Yield the statements whose rows, one after the other, are the wanted rows in order.

    Rows with a value and rows without one are separate statements, so that each can walk an
    index.
    """
    parts = [True, False] if order.nullable else [True]
    if backwards:
        parts.reverse()
    if start is not None and (start.value is not None) in parts:
        parts = parts[parts.index(start.value is not None) :]
    elif start is not None and not backwards:
        return  # beyond the last row that has a value
    for has_value in parts:
        here = start is not None and (start.value is not None) == has_value
        yield _part(statement, order, has_value, start if here else None, backwards)


def _part(
    statement: Select,
    order: Order,
    has_value: bool,
    start: Position | None,
    backwards: bool,
) -> Select:
    if has_value:
        columns = [order.value, order.tie]
    else:
        columns = [order.tie if order.tie_of_missing is None else order.tie_of_missing]
    if order.nullable:
        is_missing = order.value.is_(None) if order.is_missing is None else order.is_missing
        statement = statement.where(order.value.is_not(None) if has_value else is_missing)
    falling = order.descending != backwards
    if start is not None:
        # Cast, because a real column never equals 0.97 in double precision.
        keys = [start.value, start.tie] if has_value else [start.tie]
        bound = sa.tuple_(
            *(sa.cast(key, column.type) for key, column in zip(keys, columns, strict=True))
        )
        row = sa.tuple_(*columns)
        statement = statement.where(row < bound if falling else row > bound)
    return statement.order_by(*(column.desc() if falling else column for column in columns))
