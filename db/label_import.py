"""Labels from a table, in an expert's name: reads a CSV file and finds what its rows are about.

What a label is, and that it is stored safely, is for `db.labels`; the same file brought in again
adds only what it could not add before.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import experts, label_classes, labels
from db.engine import session_factory
from db.labels import Subject
from db.tables import Expert, Exposure, Label, Source

KEYS = {"exposure": ("name",), "source": ("survey_id", "name")}  # columns that name a subject
NAMES_AT_ONCE = 5_000


class ImportRefused(ValueError):  # noqa: N818 (it reads as what happened)
    """A table cannot become labels; nothing was stored."""


@dataclass(frozen=True)
class Table:
    """Names and labels of a file, each name once."""

    labels: Mapping[str, str]  # the label's name by the subject's
    n_rows: int
    n_blank: int  # rows without a label
    contradictory: Sequence[str]  # names that have several labels, and so none


@dataclass(frozen=True)
class Imported:
    """What came of a file."""

    file: str
    expert: str
    n_rows: int
    n_stored: int
    n_known: int  # stored when this file was imported before
    n_blank: int
    unknown: Sequence[str]  # names that the catalog does not have
    contradictory: Sequence[str]
    added_classes: Sequence[str]


def read(path: Path, kind: Literal["exposure", "source"], column: str = "label") -> Table:
    """Read a CSV file with a column that names the subjects and one of their labels.

    Lines that begin with # before the names of the columns are passed over.

    Raises
    ------
    ImportRefused
    """
    found: dict[str, str] = {}
    contradictory: set[str] = set()
    n_rows = n_blank = 0
    for name, label in _pairs(path, kind, column):
        n_rows += 1
        if not name or not label:
            n_blank += 1
        elif found.setdefault(name, label) != label:
            contradictory.add(name)
    kept = {name: label for name, label in found.items() if name not in contradictory}
    return Table(kept, n_rows, n_blank, sorted(contradictory))


def import_labels(
    engine: Engine,
    path: Path,
    expert_name: str,
    kind: Literal["exposure", "source"],
    catalog_id: int,
    column: str = "label",
    add_classes: bool = False,
    progress: Callable[[int], None] = lambda _n: None,
) -> Imported:
    """Store the labels of a file in an expert's name, a thousand in a transaction.

    Names that the catalog does not have are listed in the answer, all others are stored. The same
    file stores nothing twice, even if it was broken off or the expert said something else since.

    Parameters
    ----------
    add_classes : bool
        Add the classes that are missing to the vocabulary; refuse the file otherwise.
    progress : callable
        Called with the number of further labels looked at.

    Raises
    ------
    ImportRefused, db.experts.UnknownExpert, db.label_classes.BadClass
    """
    table = read(path, kind, column)
    prefix = f"{labels.IMPORTED}{_fingerprint(path, kind, catalog_id, column)}:"
    with session_factory(engine).begin() as session:
        expert = _labelling_expert(session, expert_name)
        classes, added = _classes(session, table.labels.values(), add_classes)
        subjects = _subjects(session, kind, catalog_id, list(table.labels))
        known, n_requests = _stored_before(session, expert, prefix)
    waiting: defaultdict[int, list[Subject]] = defaultdict(list)
    for name, subject in subjects.items():
        if subject not in known:
            waiting[classes[table.labels[name].lower()]].append(subject)
    progress(len(table.labels) - sum(map(len, waiting.values())))
    for number, (class_id, batch) in enumerate(_batches(waiting), start=n_requests):
        with session_factory(engine).begin() as session:
            words = f"imported from {path.name}"[: labels.MAX_COMMENT]
            labels.give(session, expert.id, f"{prefix}{number}", batch, class_id, words)
        progress(len(batch))
    return Imported(
        file=str(path),
        expert=expert.name,
        n_rows=table.n_rows,
        n_stored=sum(map(len, waiting.values())),
        n_known=len(subjects) - sum(map(len, waiting.values())),
        n_blank=table.n_blank,
        unknown=sorted(set(table.labels) - set(subjects)),
        contradictory=table.contradictory,
        added_classes=added,
    )


def _pairs(path: Path, kind: str, column: str) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(dropwhile(lambda line: line.startswith("#"), file))
            key = _key(path, kind, column, rows.fieldnames or ())
            for row in rows:
                yield (row[key] or "").strip(), (row[column] or "").strip()
    except (csv.Error, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path}: expected a CSV file in UTF-8; {error}") from error


def _key(path: Path, kind: str, column: str, there: Sequence[str]) -> str:
    key = next((name for name in KEYS[kind] if name in there), None)
    if key is None or column not in there:
        expected = " or ".join(KEYS[kind])
        raise ImportRefused(
            f"{path}: expected the columns {expected}, and {column}; "
            f"arrived {', '.join(there) or 'none'}"
        )
    return key


def _fingerprint(path: Path, *how: object) -> str:
    """Identify a file and how it is read, so that it is known when it comes again."""
    digest = hashlib.sha256(path.read_bytes())
    digest.update(repr(how).encode())
    return digest.hexdigest()[:24]


def _labelling_expert(session: Session, name: str) -> Expert:
    expert = experts.find(session, name)
    if expert.disabled_at is not None or not experts.may(expert, "expert"):
        raise ImportRefused(f"{expert.name} may not label: the account is disabled, or a viewer's")
    return expert


def _classes(
    session: Session, wanted: Iterable[str], add: bool
) -> tuple[dict[str, int], list[str]]:
    """Find the classes of these names, whatever their case; add what is missing if wished."""
    names = {name.lower(): name for name in wanted}
    there = {one.name.lower(): one.id for one in label_classes.listed(session)}
    missing = [names[lower] for lower in sorted(names.keys() - there.keys())]
    if missing and not add:
        raise ImportRefused(
            f"there are no label classes {', '.join(map(repr, missing[:20]))}; add them on the "
            "pages, or give --add-classes; nothing was stored"
        )
    for name in missing:
        there[name.lower()] = label_classes.add(session, name, key="auto").id
    return there, missing


def _subjects(
    session: Session, kind: str, catalog_id: int, names: Sequence[str]
) -> dict[str, Subject]:
    """Find the subjects of these names in a catalog; unknown ones are left out."""
    table, name = (Exposure, Exposure.name) if kind == "exposure" else (Source, Source.survey_id)
    found: dict[str, Subject] = {}
    for first in range(0, len(names), NAMES_AT_ONCE):
        some = names[first : first + NAMES_AT_ONCE]
        statement = select(name, table.id).where(table.catalog_id == catalog_id, name.in_(some))
        found |= {row[0]: Subject(kind, (row[1],)) for row in session.execute(statement)}
    return found


def _stored_before(session: Session, expert: Expert, prefix: str) -> tuple[set[Subject], int]:
    """Find what this file said before, and in how many requests."""
    own = select(Label).where(Label.expert_id == expert.id, Label.request.startswith(prefix))
    columns = (Label.source_id, Label.exposure_id, Label.request)
    rows = session.execute(own.with_only_columns(*columns)).all()
    known = {
        Subject("exposure", (row.exposure_id,))
        if row.source_id is None
        else Subject("source", (row.source_id,))
        for row in rows
    }
    return known, len({row.request for row in rows})


def _batches(waiting: Mapping[int, Sequence[Subject]]) -> Iterator[tuple[int, Sequence[Subject]]]:
    for class_id, subjects in waiting.items():
        for first in range(0, len(subjects), labels.MAX_SUBJECTS):
            yield class_id, subjects[first : first + labels.MAX_SUBJECTS]
