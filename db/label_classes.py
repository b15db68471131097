"""The team's vocabulary: label classes, known by their numbers, renamed and retired freely.

Labels of a retired class stay and count; it is only not offered any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.errors import UniqueViolation
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import audit, names
from db.tables import LabelClass

N_COLOURS = 12  # in the palette of the pages
MAX_CLASSES = 100
MAX_DESCRIPTION = 1_000  # characters
KEYS = "1234567890abdefghilorsvwyq"  # in the order in which they are given out


class BadClass(ValueError):  # noqa: N818 (it reads as what happened)
    """A label class cannot be as it was asked for."""


class UnknownClass(ValueError):  # noqa: N818 (it reads as what happened)
    """There is no label class of this number."""


def listed(session: Session, retired: bool = False) -> Sequence[LabelClass]:
    """Return the classes that are offered, the oldest first; with `retired` all there ever were."""
    statement = select(LabelClass).order_by(LabelClass.id)
    if not retired:
        statement = statement.where(LabelClass.retired_at.is_(None))
    return session.scalars(statement).all()


def find(session: Session, class_id: int) -> LabelClass:
    """Return a class by its number.

    Raises
    ------
    UnknownClass
    """
    found = session.get(LabelClass, class_id) if 0 < class_id < 2**63 else None
    if found is None:
        raise UnknownClass(f"there is no label class {class_id}")
    return found


def add(
    session: Session,
    name: str,
    expert_id: int | None = None,
    key: str | None = None,
    colour: int | None = None,
    description: str = "",
    address: str = "",
) -> LabelClass:
    """Add a class to the vocabulary.

    Parameters
    ----------
    key : str, optional
        Letter or digit that gives this label; None for none, "auto" for the next free one.
    colour : int, optional
        0 to 11; None for the one that is used least.

    Raises
    ------
    BadClass
        Another offered class has this name or key, or they break the rules; nothing was changed.
    """
    if len(listed(session)) >= MAX_CLASSES:
        raise BadClass(f"there are {MAX_CLASSES} classes already, as many as are kept")
    values: dict[str, Any] = {"name": name, "description": description}
    values["key"] = free_key(session) if key == "auto" else key
    values["colour"] = free_colour(session) if colour is None else colour
    added = LabelClass(created_by=expert_id)
    _save(session, added, _checked(values))
    audit.record(session, "add class", added.name, expert_id, address, id=added.id)
    return added


def change(
    session: Session, class_id: int, expert_id: int | None, address: str = "", **values: Any
) -> LabelClass:
    """Change name, key, colour or description of a class; labels given before follow.

    Raises
    ------
    BadClass, UnknownClass
        Nothing was changed.
    """
    found = find(session, class_id)
    before = {name: getattr(found, name) for name in values}
    checked = _checked(values)
    if checked == before:
        return found
    _save(session, found, checked)
    changes = {
        name: [before[name], checked[name]] for name in values if before[name] != checked[name]
    }
    audit.record(session, "change class", found.name, expert_id, address, id=class_id, **changes)
    return found


def retire(session: Session, class_id: int, expert_id: int | None, address: str = "") -> None:
    """Offer a class no longer; labels of it stay.

    Raises
    ------
    UnknownClass
    """
    found = find(session, class_id)
    if found.retired_at is None:
        found.retired_at = session.scalar(select(func.now()))
        audit.record(session, "retire class", found.name, expert_id, address, id=class_id)


def restore(session: Session, class_id: int, expert_id: int | None, address: str = "") -> None:
    """Offer a retired class again.

    Raises
    ------
    BadClass
        Another class has its name or key by now.
    UnknownClass
    """
    found = find(session, class_id)
    if found.retired_at is not None:
        _save(session, found, {"retired_at": None})
        audit.record(session, "restore class", found.name, expert_id, address, id=class_id)


def free_key(session: Session) -> str | None:
    """Return the next key that no offered class and no page uses, None if all are taken."""
    taken = {one.key for one in listed(session)}
    return next((key for key in KEYS if key not in taken), None)


def free_colour(session: Session) -> int:
    """Return the colour that the fewest offered classes have."""
    colours = [one.colour for one in listed(session)]
    return min(range(N_COLOURS), key=colours.count)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    checked = dict(values)
    if "name" in values:
        try:
            checked["name"] = names.checked(values["name"])
        except names.BadName as error:
            raise BadClass(str(error)) from error
    key, colour = values.get("key"), values.get("colour")
    if key is not None and (len(key) != 1 or key not in KEYS):
        raise BadClass(
            f"expected one of the keys {' '.join(sorted(KEYS))}, which the pages leave free; "
            f"arrived {key[:20]!r}"
        )
    if colour is not None and colour not in range(N_COLOURS):
        raise BadClass(f"expected a colour from 0 to {N_COLOURS - 1}; arrived {colour}")
    if "description" in values:
        checked["description"] = values["description"].strip()[:MAX_DESCRIPTION]
        if "\0" in checked["description"]:
            raise BadClass("expected a description without null characters")
    return checked


def _save(session: Session, row: LabelClass, values: dict[str, Any]) -> None:
    try:
        with session.begin_nested():
            for name, value in values.items():
                setattr(row, name, value)
            session.add(row)
            session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation):
            raise
        what = "key" if "key" in (error.orig.diag.constraint_name or "") else "name"
        raise BadClass(f"another class that is offered has this {what} already") from error
