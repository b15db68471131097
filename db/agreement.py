"""Who said what, for comparing experts: votes as arrays, subjects in dispute, subjects left to say.

Only reads, one statement each. What the votes amount to is for `models.agreement`; how labels get
in is for `db.labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from db.label_views import SUBJECT_COLUMNS
from db.label_views import label_current as said_now
from db.labels import KINDS, Subject
from db.pages import Order, Page, Position, keyed, page
from db.tables import Expert, LabelClass, ModelVersion

Kind = Literal["exposure", "source", "cell"]

MISSING = -1  # in votes: the expert said nothing of the subject


@dataclass(frozen=True)
class Votes:
    """What each of e experts says at present of each of n subjects, in k classes."""

    kind: Kind
    subjects: NDArray[np.int64]  # (n, 1): its number; of cells (n, 3): version, row, column
    experts: Sequence[Expert]  # e, by number
    classes: Sequence[LabelClass]  # k, by number; retired ones too
    said: NDArray[np.int64]  # (n, e): place in `classes`, or MISSING

    def subject(self, i: int) -> Subject:
        """Return subject i by its name."""
        return Subject(self.kind, tuple(self.subjects[i].tolist()))


def votes(session: Session, kind: Kind, model_version_id: int | None = None) -> Votes:
    """Return every expert's last word on every subject of a kind.

    Parameters
    ----------
    model_version_id : int, optional
        The map that cells are of; all maps together by default.
    """
    columns = [said_now.c[name] for name in KINDS[kind]]
    statement = select(*columns, said_now.c.expert_id, said_now.c.label_class_id).where(
        columns[-1].is_not(None)
    )
    if model_version_id is not None:
        statement = statement.where(said_now.c.model_version_id == model_version_id)
    rows = session.execute(statement).all()
    table = np.array([tuple(row) for row in rows], np.int64).reshape(-1, len(columns) + 2)
    subjects, which = np.unique(table[:, :-2], axis=0, return_inverse=True)
    expert_ids, expert = np.unique(table[:, -2], return_inverse=True)
    class_ids, chosen = np.unique(table[:, -1], return_inverse=True)
    said = np.full((len(subjects), len(expert_ids)), MISSING, np.int64)
    said[which.ravel(), expert] = chosen
    return Votes(
        kind,
        subjects,
        session.scalars(_by_number(Expert, expert_ids)).all(),
        session.scalars(_by_number(LabelClass, class_ids)).all(),
        said,
    )


def disagreements(
    session: Session,
    kind: Kind | None = None,
    size: int = 1,
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return a page of subjects that experts name differently, the most divided first.

    A subject is listed as long as the last words on it differ, and leaves the list when they agree
    or whoever dissents takes the label back: a majority alone settles nothing. Cells of retired
    maps are left out. Ties are in order of the last word, the newest first.

    Returns
    -------
    Page
        Rows with the columns of a subject (see `Subject.of`), n_experts, n_classes and entropy
        [bit].
    """
    found = _disputed(kind).subquery()
    order = Order(found.c.entropy, found.c.last, descending=True, nullable=False)
    return page(session, keyed(select(found), order), order, size, after, before)


def n_disagreements(session: Session, kind: Kind | None = None) -> int:
    """Count the subjects that experts name differently."""
    return session.scalar(select(func.count()).select_from(_disputed(kind).subquery())) or 0


def unsaid(
    session: Session,
    expert_id: int,
    kind: Kind | None = None,
    size: int = 1,
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return a page of subjects that others labelled and this expert did not, the newest first.

    Says nothing of what the others said, so that a blind expert may see it.
    """
    found = _unsaid(expert_id, kind).subquery()
    order = Order(found.c.last, found.c.last, descending=True, nullable=False)
    return page(session, keyed(select(found), order), order, size, after, before)


def n_unsaid(session: Session, expert_id: int, kind: Kind | None = None) -> int:
    """Count the subjects that others labelled and this expert did not."""
    return (
        session.scalar(select(func.count()).select_from(_unsaid(expert_id, kind).subquery())) or 0
    )


def _by_number(table: type[Expert] | type[LabelClass], ids: NDArray[np.int64]) -> Select[Any]:
    return select(table).where(table.id.in_(ids.tolist())).order_by(table.id)


def _subject() -> list[sa.ColumnClause[Any]]:
    return [said_now.c[name] for name in SUBJECT_COLUMNS]


def _wanted(kind: Kind | None) -> list[ColumnElement[bool]]:
    """Conditions on labels: about subjects of a kind, and not about cells of a retired map."""
    version = said_now.c.model_version_id
    in_use = select(ModelVersion.id).where(ModelVersion.state != "retired")
    conditions: list[ColumnElement[bool]] = [sa.or_(version.is_(None), version.in_(in_use))]
    if kind is not None:
        conditions.append(said_now.c[KINDS[kind][-1]].is_not(None))
    return conditions


def _disputed(kind: Kind | None) -> Select[Any]:
    n = func.count().label("n")
    named = (
        select(*_subject(), n, func.max(said_now.c.label_id).label("last"))
        .where(*_wanted(kind))
        .group_by(*_subject(), said_now.c.label_class_id)
        .subquery()
    )
    total = sa.cast(func.sum(named.c.n), sa.Double)
    nats = func.ln(total) - func.sum(named.c.n * func.ln(named.c.n)) / total
    bits = sa.cast(nats / func.ln(2.0), sa.Numeric)
    subject = [named.c[name] for name in SUBJECT_COLUMNS]
    return (
        select(
            *subject,
            sa.cast(func.sum(named.c.n), sa.BigInteger).label("n_experts"),
            func.count().label("n_classes"),
            sa.cast(func.round(bits, 6), sa.Double).label("entropy"),
            func.max(named.c.last).label("last"),
        )
        .group_by(*subject)
        .having(func.count() > 1)
    )


def _unsaid(expert_id: int, kind: Kind | None) -> Select[Any]:
    own = func.bool_or(said_now.c.expert_id == expert_id)
    return (
        select(*_subject(), func.max(said_now.c.label_id).label("last"))
        .where(*_wanted(kind))
        .group_by(*_subject())
        .having(~own)
    )
