"""Saved selections: lists of sources under a name, to filter pages by and to join with in SQL.

What decides who is in one (a lasso, a search) is for others to say, as a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CompoundSelect, Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db import names
from db.tables import Selection, SelectionSource

MAX_SELECTIONS = 1_000
MAX_SOURCES = 1_000_000  # in one of them


class NameTaken(ValueError):  # noqa: N818 (it reads as what happened)
    """There is a selection of this name."""


class TooManySelections(ValueError):  # noqa: N818 (it reads as what happened)
    """There is no room for another selection."""


class TooManySources(ValueError):  # noqa: N818 (it reads as what happened)
    """A selection would be larger than any may be."""


class NothingSelected(ValueError):  # noqa: N818 (it reads as what happened)
    """There is no source to save."""


def save(
    session: Session,
    name: str,
    sources: Select[Any] | CompoundSelect[Any],
    origin: dict[str, Any],
    comment: str = "",
) -> Selection:
    """Save what a statement selects, in one statement, however much it is.

    Parameters
    ----------
    sources : Select
        Its first column is the source_id.
    origin : dict
        How the selection was made, for whoever finds it later.

    Raises
    ------
    names.BadName
    NameTaken
        Nothing was saved.
    TooManySelections
        There are MAX_SELECTIONS already; nothing was saved.
    NothingSelected, TooManySources
        The statement selects no source, or more than MAX_SOURCES; the caller must roll back.
    """
    values = {"name": names.checked(name), "comment": comment.strip(), "origin": origin}
    _check_room(session)
    added = insert(Selection).values(values).on_conflict_do_nothing()
    selection_id = session.scalar(added.returning(Selection.id))
    if selection_id is None:
        raise NameTaken(f"there is a selection {values['name']!r} already")
    n_sources = _add_members(session, selection_id, sources)
    selection = session.get_one(Selection, selection_id)
    selection.n_sources = n_sources
    session.flush()
    return selection


def listed(session: Session) -> Sequence[Selection]:
    """Return every selection, the newest first."""
    return session.scalars(select(Selection).order_by(Selection.id.desc())).all()


def find(session: Session, name: str) -> Selection | None:
    """Return a selection by its name."""
    return session.scalar(select(Selection).where(Selection.name == name))


def delete(session: Session, name: str) -> bool:
    """Delete a selection, not its sources; False if there is none of this name."""
    gone = session.execute(sa.delete(Selection).where(Selection.name == name))
    return bool(gone.rowcount)  # type: ignore[attr-defined]


def _check_room(session: Session) -> None:
    n = session.scalar(select(sa.func.count()).select_from(Selection)) or 0
    if n >= MAX_SELECTIONS:
        raise TooManySelections(
            f"there are {n:,} selections already, and {MAX_SELECTIONS:,} is as many as are kept"
        )


def _add_members(
    session: Session, selection_id: int, sources: Select[Any] | CompoundSelect[Any]
) -> int:
    wanted = sources.subquery()
    distinct = select(wanted.c[0]).distinct().limit(MAX_SOURCES + 1).subquery()
    members = select(sa.literal(selection_id), distinct.c[0]).order_by(distinct.c[0])
    into = insert(SelectionSource).from_select(["selection_id", "source_id"], members)
    n: int = session.execute(into).rowcount  # type: ignore[attr-defined]
    if not n:
        raise NothingSelected("no source is in the selection, so there is nothing to save")
    if n > MAX_SOURCES:
        raise TooManySources(
            f"expected at most {MAX_SOURCES:,} sources in a selection; arrived more than that"
        )
    return n
