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


class NameTaken(ValueError):  # noqa: N818 (it reads as what happened)
    """There is a selection of this name."""


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
    NothingSelected
        The statement selects no source; the caller must roll back.
    """
    values = {"name": names.checked(name), "comment": comment.strip(), "origin": origin}
    added = insert(Selection).values(values).on_conflict_do_nothing()
    selection_id = session.scalar(added.returning(Selection.id))
    if selection_id is None:
        raise NameTaken(f"there is a selection {values['name']!r} already")
    wanted = sources.subquery()
    members = select(sa.literal(selection_id), wanted.c[0]).distinct().order_by(wanted.c[0])
    into = insert(SelectionSource).from_select(["selection_id", "source_id"], members)
    written = session.execute(into)
    n_sources: int = written.rowcount  # type: ignore[attr-defined]
    if not n_sources:
        raise NothingSelected("no source is in the selection, so there is nothing to save")
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
