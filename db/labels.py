"""What experts say of cells, exposures and sources: added to, never changed, never deleted.

A request is one act of an expert (a label on several subjects, say). It is stored as a whole or
not at all; sent again under the same name it changes nothing; undo takes all of it back. Which
labels count is said by the views `label_current`, `label_majority` and `label_propagated`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, func, select, text
from sqlalchemy.orm import Session, aliased

from db import pages
from db.label_classes import find as find_class
from db.label_views import SUBJECT_COLUMNS, cell_label, label_current, label_majority
from db.maps import NOVEL_EXPOSURE, NOVEL_SOURCE
from db.pages import Order, Page, Position
from db.tables import (
    Expert,
    Exposure,
    ExposureCell,
    Label,
    LabelClass,
    ModelVersion,
    Prototype,
    Source,
    SourceCell,
)

MAX_SUBJECTS = 1_000  # in one request; the published map has 625 cells
MAX_COMMENT = 2_000  # characters
PAGE_SIZE = 100  # rows of a history
REQUEST = re.compile(r"[A-Za-z0-9._:-]{1,100}")
IMPORTED = "import:"  # how the requests of imported tables begin
KINDS = {
    "cell": ("model_version_id", "cell_row", "cell_column"),
    "exposure": ("exposure_id",),
    "source": ("source_id",),
}
LARGEST = {"cell_row": 2**15, "cell_column": 2**15}  # others are bigint
NEWEST_FIRST = Order(Label.id, Label.id, descending=True, nullable=False)


class BadLabel(ValueError):  # noqa: N818 (it reads as what happened)
    """What was sent cannot be stored as a label."""


class UnknownSubject(ValueError):  # noqa: N818 (it reads as what happened)
    """A label is for something that does not exist."""


class RequestTaken(ValueError):  # noqa: N818 (it reads as what happened)
    """An earlier request of this name said something else."""


class NothingToUndo(ValueError):  # noqa: N818 (it reads as what happened)
    """There is no such request, or it was taken back already."""


@dataclass(frozen=True)
class Subject:
    """What a label is about: a cell of a map, an exposure or a source, by its numbers."""

    kind: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join((self.kind, *map(str, self.numbers)))

    @property
    def columns(self) -> dict[str, int]:
        """The columns of a label that name the subject."""
        return dict(zip(KINDS[self.kind], self.numbers, strict=True))

    @classmethod
    def of(cls, row: Any) -> Subject:
        """Return the subject of a label, or of a row of one of the views."""
        for kind, columns in KINDS.items():
            numbers = tuple(getattr(row, column) for column in columns)
            if None not in numbers:
                return cls(kind, numbers)
        raise ValueError(f"expected a row about a cell, an exposure or a source; arrived {row}")


@dataclass(frozen=True)
class Stored:
    """The labels of a request, in its order, and whether they are new or were there before."""

    labels: Sequence[Label]
    is_new: bool


def parse(word: str) -> Subject:
    """Read "cell:<version>:<row>:<column>", "exposure:<id>" or "source:<id>".

    Raises
    ------
    BadLabel
    """
    kind, _, rest = word.partition(":")
    parts = rest.split(":")
    columns = KINDS.get(kind, ())
    if len(parts) == len(columns) and all(re.fullmatch("[0-9]{1,18}", part) for part in parts):
        subject = Subject(kind, tuple(map(int, parts)))
        if all(n < LARGEST.get(name, 2**63) for name, n in subject.columns.items()):
            return subject
    raise BadLabel(
        "expected a subject like cell:<map version>:<row>:<column>, exposure:<number> or "
        f"source:<number>; arrived {word[:80]!r}"
    )


def give(
    session: Session,
    expert_id: int,
    request: str,
    subjects: Sequence[Subject],
    label_class_id: int,
    comment: str = "",
) -> Stored:
    """Give a label to each subject: all of them, or none on an error.

    Parameters
    ----------
    request : str
        Name of the act, made by the page; sent again it returns what was stored the first time.

    Raises
    ------
    BadLabel, UnknownSubject, db.label_classes.UnknownClass, RequestTaken
    """
    return _store(session, expert_id, request, "label", subjects, comment, label_class_id)


def clear(
    session: Session, expert_id: int, request: str, subjects: Sequence[Subject], comment: str = ""
) -> Stored:
    """Say that the expert has no opinion on the subjects any more.

    Raises
    ------
    BadLabel, UnknownSubject, RequestTaken
    """
    return _store(session, expert_id, request, "clear", subjects, comment)


def comment(
    session: Session, expert_id: int, request: str, subjects: Sequence[Subject], words: str
) -> Stored:
    """Remark on the subjects; labels stay as they are.

    Raises
    ------
    BadLabel, UnknownSubject, RequestTaken
    """
    if not words.strip():
        raise BadLabel("expected a comment; arrived none")
    return _store(session, expert_id, request, "comment", subjects, words)


def undo(session: Session, expert_id: int, request: str, of: str | None = None) -> Stored:
    """Take back a whole request of the expert: what was said before it counts again.

    Parameters
    ----------
    of : str, optional
        Name of the request; default: that of `last`.

    Raises
    ------
    NothingToUndo
        There is no such request of this expert, or it was taken back already.
    BadLabel, RequestTaken
    """
    expert = _begin(session, expert_id, request)
    if earlier := _stored(session, expert_id, request):
        if any(label.action != "undo" for label in earlier):
            raise _taken(request)
        return Stored(earlier, is_new=False)
    labels = _to_undo(session, expert_id, of)
    rows = [
        {
            **{name: getattr(label, name) for name in SUBJECT_COLUMNS},
            "action": "undo",
            "undoes": label.id,
        }
        for label in labels
    ]
    return _insert(session, expert, request, rows)


def last(session: Session, expert_id: int) -> Sequence[Label]:
    """Return what the expert said last and did not take back; none if there is nothing.

    Imported labels are left out: they are taken back by the name of their request only.
    """
    newest = (
        _standing(expert_id)
        .with_only_columns(Label.request)
        .where(~Label.request.startswith(IMPORTED))
        .order_by(Label.id.desc())
        .limit(1)
    )
    request = session.scalar(newest)
    return [] if request is None else _standing_of(session, expert_id, request)


def wording(session: Session, labels: Sequence[Label]) -> str:
    """Say in words what a request said, or what an undo took back: "Good for cell (3, 3)"."""
    taken_back = [label.undoes for label in labels if label.undoes is not None]
    if taken_back:
        one_by_one = select(Label).where(Label.id.in_(taken_back)).order_by(Label.item)
        return wording(session, session.scalars(one_by_one).all())
    first, subjects = labels[0], [Subject.of(label) for label in labels]
    if first.label_class_id is not None:
        said = f"{find_class(session, first.label_class_id).name} for"
    else:
        said = "comment on" if first.action == "comment" else "no opinion on"
    if len(subjects) == 1:
        return f"{said} {names(session, subjects)[subjects[0]]}"
    kinds = {subject.kind for subject in subjects}
    return f"{said} {len(subjects):,} {kinds.pop() + 's' if len(kinds) == 1 else 'subjects'}"


def current(session: Session, subjects: Sequence[Subject]) -> dict[Subject, list[Row]]:
    """Return what each expert says of each subject at present.

    Returns
    -------
    dict
        For each subject rows with label_id, expert_id, expert, label_class_id, name, key, colour,
        comment, blind and created_at, the oldest first; an empty list where nobody said anything.
    """
    view = label_current
    statement = (
        select(view, Expert.name.label("expert"), *_CLASS)
        .join(Expert, Expert.id == view.c.expert_id)
        .join(LabelClass, LabelClass.id == view.c.label_class_id)
        .where(_about(view.c, subjects))
        .order_by(view.c.label_id)
    )
    found: dict[Subject, list[Row]] = {subject: [] for subject in subjects}
    for row in session.execute(statement) if subjects else ():
        found[Subject.of(row)].append(row)
    return found


def majority(session: Session, subjects: Sequence[Subject]) -> dict[Subject, Row]:
    """Return what most experts say of each subject; those without label or with a tie are absent.

    Returns
    -------
    dict
        Rows with label_class_id, name, key, colour, n_votes and n_experts.
    """
    view = label_majority
    statement = select(view, *_CLASS).join(LabelClass, LabelClass.id == view.c.label_class_id)
    rows = session.execute(statement.where(_about(view.c, subjects))) if subjects else ()
    return {Subject.of(row): row for row in rows}


def shown(session: Session, subjects: Sequence[Subject], reader: Expert | None) -> dict[str, Row]:
    """Return the label that pages show of each subject, by its name in the page.

    It is what most experts say; a blind expert sees only what she said herself.
    """
    if reader is not None and reader.blind:
        own = current(session, subjects)
        return {
            str(subject): row
            for subject, rows in own.items()
            for row in rows
            if row.expert_id == reader.id
        }
    return {str(subject): row for subject, row in majority(session, subjects).items()}


def propagated(session: Session, subject: Subject) -> Sequence[Row]:
    """Return the labels that a source or exposure has from its cells, current maps first.

    Rows have label_class_id, name, key, colour, confidence, n_votes, n_experts, n_direct, n_agree,
    cell_row, cell_column, model_version_id, version, annotator and state. These are nobody's
    opinion of the subject itself, and never mixed with those.
    """
    found = [row for place in _cells_of(session, subject) for row in _of_cell(session, place)]
    return sorted(found, key=lambda row: (row.state != "current", -row.model_version_id))


def remarks(session: Session, subject: Subject, n: int = 20) -> Sequence[Row]:
    """Return the newest comments on a subject that were not taken back: Label and expert's name."""
    statement = (
        select(Label, Expert.name.label("expert"))
        .join(Expert, Expert.id == Label.expert_id)
        .where(_about(Label, [subject]), Label.action == "comment", ~_is_undone(Label))
        .order_by(Label.id.desc())
    )
    return session.execute(statement.limit(n)).all()


def history(
    session: Session,
    subject: Subject | None = None,
    expert_id: int | None = None,
    label_class_id: int | None = None,
    kind: str | None = None,
    after: Position | None = None,
    before: Position | None = None,
    size: int = PAGE_SIZE,
) -> Page:
    """Return a page of everything said, the newest first, narrowed down as wished.

    Rows have Label, expert, name, key and colour (of the class, if any), `undone` and
    `undone_request`, the request that this row took back (of an undo).
    """
    taken_back = aliased(Label)
    statement = (
        select(
            Label,
            Expert.name.label("expert"),
            *_CLASS,
            _is_undone(Label).label("undone"),
            taken_back.request.label("undone_request"),
        )
        .join(Expert, Expert.id == Label.expert_id)
        .outerjoin(LabelClass, LabelClass.id == Label.label_class_id)
        .outerjoin(taken_back, taken_back.id == Label.undoes)
    )
    conditions: list[ColumnElement[bool]] = []
    if subject is not None:
        conditions.append(_about(Label, [subject]))
    if expert_id is not None:
        conditions.append(Label.expert_id == expert_id)
    if label_class_id is not None:
        conditions.append(Label.label_class_id == label_class_id)
    if kind is not None:
        conditions.append(getattr(Label, KINDS[kind][-1]).is_not(None))
    narrowed = pages.keyed(statement.where(*conditions), NEWEST_FIRST)
    return pages.page(session, narrowed, NEWEST_FIRST, size, after, before)


def names(session: Session, subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Return how a reader knows each subject: by its name in the survey, or its place on a map."""
    found = {
        subject: "cell ({1}, {2})".format(*subject.numbers)
        for subject in subjects
        if subject.kind == "cell"
    }
    for kind, key, name in (
        ("exposure", Exposure.id, Exposure.name),
        ("source", Source.id, Source.survey_id),
    ):
        wanted = {subject.numbers[0] for subject in subjects if subject.kind == kind}
        rows = session.execute(select(key, name).where(key.in_(wanted))) if wanted else ()
        found.update({Subject(kind, (number,)): f"{kind} {word}" for number, word in rows})
    return found


def experts(session: Session) -> Sequence[Row]:
    """Return id and name of everybody who ever said anything, by name."""
    said = sa.exists().where(Label.expert_id == Expert.id)
    statement = select(Expert.id, Expert.name).where(said).order_by(func.lower(Expert.name))
    return session.execute(statement).all()


_CLASS = (LabelClass.name, LabelClass.key, LabelClass.colour)


def _cells_of(session: Session, subject: Subject) -> Sequence[Row]:
    """Where each map has put a source or exposure that belongs there: annotator, version, cell."""
    if subject.kind == "cell":
        return []
    table: type[ExposureCell] | type[SourceCell] = ExposureCell
    novel = NOVEL_EXPOSURE
    if subject.kind == "source":
        table, novel = SourceCell, NOVEL_SOURCE
    statement = (
        select(ModelVersion.annotator, table.model_version_id, table.cell_row, table.cell_column)
        .join(ModelVersion, ModelVersion.id == table.model_version_id)
        .where(_about(table, [subject]), table.cell_row.is_not(None))
        .where(table.flags.op("&")(novel) == 0)
    )
    return session.execute(statement).all()


def _of_cell(session: Session, place: Row) -> Sequence[Row]:
    """The label of one cell, if it has one: asked for by itself, it takes an index."""
    view = cell_label[place.annotator]
    statement = (
        select(
            view,
            *_CLASS,
            ModelVersion.name.label("version"),
            ModelVersion.annotator,
            ModelVersion.state,
        )
        .join(LabelClass, LabelClass.id == view.c.label_class_id)
        .join(ModelVersion, ModelVersion.id == view.c.model_version_id)
        .where(
            view.c.model_version_id == place.model_version_id,
            view.c.cell_row == place.cell_row,
            view.c.cell_column == place.cell_column,
        )
    )
    return session.execute(statement).all()


def _about(columns: Any, subjects: Iterable[Subject]) -> ColumnElement[bool]:
    """Say that a row is about one of the subjects."""
    conditions: list[ColumnElement[bool]] = [sa.false()]
    for kind, names in KINDS.items():
        wanted = [subject.numbers for subject in subjects if subject.kind == kind]
        if wanted and len(names) == 1:
            conditions.append(getattr(columns, names[0]).in_([numbers[0] for numbers in wanted]))
        elif wanted:
            conditions.append(sa.tuple_(*(getattr(columns, name) for name in names)).in_(wanted))
    return sa.or_(*conditions)


def _is_undone(label: type[Label]) -> ColumnElement[bool]:
    later = aliased(Label)
    return sa.exists().where(later.undoes == label.id)


def _store(
    session: Session,
    expert_id: int,
    request: str,
    action: str,
    subjects: Sequence[Subject],
    words: str,
    label_class_id: int | None = None,
) -> Stored:
    unique = list(dict.fromkeys(subjects))
    _check_words(words)
    expert = _begin(session, expert_id, request)
    said = {"action": action, "label_class_id": label_class_id, "comment": words.strip()}
    if earlier := _stored(session, expert_id, request):
        same = [Subject.of(label) for label in earlier] == unique
        if not same or any(getattr(earlier[0], name) != value for name, value in said.items()):
            raise _taken(request)
        return Stored(earlier, is_new=False)
    _check_subjects(session, unique)
    if label_class_id is not None and find_class(session, label_class_id).retired_at:
        name = find_class(session, label_class_id).name
        raise BadLabel(f"label class {name!r} is retired; choose another one, or restore it")
    return _insert(session, expert, request, [said | subject.columns for subject in unique])


def _begin(session: Session, expert_id: int, request: str) -> Expert:
    """Let the requests of an expert come one after the other, and only commit for good."""
    if not REQUEST.fullmatch(request):
        raise BadLabel(
            "expected a name of the request of 1 to 100 letters, digits and . _ : -; "
            f"arrived {request[:40]!r}"
        )
    session.execute(text("SET LOCAL synchronous_commit = on"))  # survives a crash of the server
    locked = select(Expert).where(Expert.id == expert_id).with_for_update(key_share=True)
    return session.scalars(locked.execution_options(populate_existing=True)).one()


def _stored(session: Session, expert_id: int, request: str) -> Sequence[Label]:
    own = select(Label).where(Label.expert_id == expert_id, Label.request == request)
    return session.scalars(own.order_by(Label.item)).all()


def _insert(
    session: Session, expert: Expert, request: str, rows: Sequence[dict[str, Any]]
) -> Stored:
    labels = [
        Label(expert_id=expert.id, request=request, item=item, blind=expert.blind, **row)
        for item, row in enumerate(rows)
    ]
    session.add_all(labels)
    session.flush()
    return Stored(labels, is_new=True)


def _to_undo(session: Session, expert_id: int, of: str | None) -> Sequence[Label]:
    labels = _standing_of(session, expert_id, of) if of else last(session, expert_id)
    if labels:
        return labels
    if of is None:
        raise NothingToUndo("nothing is left to take back")
    if _stored(session, expert_id, of):
        raise NothingToUndo(f"request {of!r} was taken back already")
    raise NothingToUndo(f"you made no request {of[:100]!r}")


def _standing(expert_id: int) -> sa.Select[Label]:
    """Select what an expert said and did not take back."""
    return select(Label).where(
        Label.expert_id == expert_id, Label.action != "undo", ~_is_undone(Label)
    )


def _standing_of(session: Session, expert_id: int, request: str) -> Sequence[Label]:
    own = _standing(expert_id).where(Label.request == request).order_by(Label.item)
    return session.scalars(own).all()


def _check_words(words: str) -> None:
    if len(words) > MAX_COMMENT or "\0" in words:
        raise BadLabel(
            f"expected a comment of at most {MAX_COMMENT:,} characters, none of them null; "
            f"arrived {len(words):,}"
        )


def _check_subjects(session: Session, subjects: Sequence[Subject]) -> None:
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise BadLabel(f"expected 1 to {MAX_SUBJECTS:,} subjects; arrived {len(subjects):,}")
    there: set[Subject] = set()
    cell = (Prototype.model_version_id, Prototype.cell_row, Prototype.cell_column)
    for kind, key in {"cell": cell, "exposure": (Exposure.id,), "source": (Source.id,)}.items():
        wanted = [subject.numbers for subject in subjects if subject.kind == kind]
        if wanted:
            rows = session.execute(select(*key).where(sa.tuple_(*key).in_(wanted)))
            there.update(Subject(kind, tuple(row)) for row in rows)
    if missing := [subject for subject in subjects if subject not in there]:
        raise UnknownSubject(f"there is no {missing[0]}; nothing was stored")


def _taken(request: str) -> RequestTaken:
    return RequestTaken(f"request {request!r} said something else before; nothing was stored")
