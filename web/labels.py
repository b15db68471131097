"""Labels on the pages: giving them, taking them back, and the bar that shows and offers them.

What is stored, and when it counts, is for `db.labels` to say; the list of everything said is for
`web.label_history`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Flask, jsonify, redirect, render_template, request
from sqlalchemy import Row
from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest, Conflict
from werkzeug.wrappers import Response

from db import label_classes, labels
from db.label_classes import UnknownClass
from db.labels import Stored, Subject
from db.tables import Expert, Label, LabelClass
from web.accounts import SignInNeeded, current, may, needs, safe_next
from web.database import session, writing_session
from web.errors import Missing, sentence, wants_json
from web.parameters import BadParameter, read_arguments

blueprint = Blueprint("labels", __name__)

MAX_BODY = 200_000  # bytes: a thousand subjects and a long comment
ACTIONS = ("label", "clear", "comment")


class NotStored(BadRequest):
    """What was sent cannot become a label."""

    advice = "Nothing was stored. Change what is wrong and send it again."


class Refused(Conflict):
    """What was sent contradicts what is stored."""

    advice = "Nothing was stored. Reload the page to see what counts at present."


@dataclass(frozen=True)
class Bar:
    """What the label bar shows of some subjects, to whoever is reading."""

    subjects: Sequence[Subject]
    names: Mapping[Subject, str]
    classes: Sequence[LabelClass]
    said: Mapping[Subject, Sequence[Row]]
    team: Mapping[Subject, Row]
    propagated: Mapping[Subject, Sequence[Row]]
    remarks: Mapping[Subject, Sequence[Row]]
    request: str
    last: Sequence[Label]
    last_words: str


def register(app: Flask) -> None:
    """Give the templates what the label bar needs."""
    app.jinja_env.globals["labelling"] = labelling


def labelling(words: Sequence[str]) -> Bar:
    """Read everything for the label bar of these subjects; blind experts get only their own."""
    subjects = [labels.parse(word) for word in words]
    reader = current()
    said = labels.current(session(), subjects)
    remarks = {subject: labels.remarks(session(), subject) for subject in subjects}
    blind = reader is not None and reader.blind
    if blind:
        said = {subject: _own(rows, reader) for subject, rows in said.items()}
        remarks = {
            subject: [row for row in rows if reader and row.Label.expert_id == reader.id]
            for subject, rows in remarks.items()
        }
    last = labels.last(session(), reader.id) if reader is not None and may("expert") else ()
    return Bar(
        subjects,
        labels.names(session(), subjects),
        label_classes.listed(session()),
        said,
        {} if blind else labels.majority(session(), subjects),
        {} if blind else {one: labels.propagated(session(), one) for one in subjects},
        remarks,
        secrets.token_urlsafe(12),
        last,
        labels.wording(session(), last) if last else "",
    )


def facts(label: Label) -> dict[str, Any]:
    """Write a label for programs."""
    return {
        "id": label.id,
        "subject": str(Subject.of(label)),
        "action": label.action,
        "label_class_id": label.label_class_id,
        "comment": label.comment,
        "blind": label.blind,
        "undoes": label.undoes,
        "request": label.request,
        "created_at": label.created_at.isoformat(),
    }


def read_subject(word: str) -> Subject:
    """Read a subject of the address."""
    try:
        return labels.parse(word)
    except labels.BadLabel:
        raise BadParameter(
            "subject", "a subject like exposure:12, source:7 or cell:3:0:1", word
        ) from None


@blueprint.post("/labels")
@needs("expert")
def give() -> Response | tuple[Response, int]:
    """Store a label, the end of an opinion, or a comment, on one or several subjects."""
    fields = _fields()
    subjects = [_understood(word) for word in fields.subjects]
    action = fields.action or ("label" if fields.label_class_id else "")

    def store(own: Session, expert: Expert) -> Stored:
        if action == "label" and fields.label_class_id is not None:
            number, words = fields.label_class_id, fields.comment
            return labels.give(own, expert.id, fields.request, subjects, number, words)
        if action == "clear":
            return labels.clear(own, expert.id, fields.request, subjects, fields.comment)
        if action == "comment":
            return labels.comment(own, expert.id, fields.request, subjects, fields.comment)
        raise NotStored(
            f"Expected an action ({', '.join(ACTIONS)}), and a label_class_id with label; arrived "
            f"{action[:40]!r}."
        )

    return _answered(store, fields)


@blueprint.post("/labels/undo")
@needs("expert")
def undo() -> Response | tuple[Response, int]:
    """Take back a whole request of the expert, that of `last` unless it is named."""
    fields = _fields()
    return _answered(
        lambda own, expert: labels.undo(own, expert.id, fields.request, fields.of or None), fields
    )


@blueprint.get("/labels/last")
@needs("expert")
def last() -> Response:
    """Say what undo takes back if no request is named."""
    said = labels.last(session(), cast(Expert, current()).id)
    if not said:
        return jsonify({"last": None})
    words = labels.wording(session(), said)
    when = said[0].created_at.isoformat()
    return jsonify({"last": {"request": said[0].request, "words": words, "created_at": when}})


@blueprint.get("/labels/said")
def said() -> str:
    """Show what is said of a subject, for the bar of a page that is open."""
    words = read_arguments(("subject",)).get("subject", "")
    return render_template("label_said.html", bar=labelling([str(read_subject(words))]))


@dataclass(frozen=True)
class Fields:
    """What a request to store something carries, from JSON or from a form."""

    request: str
    subjects: Sequence[str]
    action: str
    label_class_id: int | None
    comment: str
    of: str
    expert: int | None


def _fields() -> Fields:
    request.max_content_length = MAX_BODY
    given = _json() if request.is_json else _form()
    return Fields(
        _text(given, "request") or _name_of_form(),
        _texts(given, "subjects"),
        _text(given, "action"),
        _number(given, "label_class_id"),
        _text(given, "comment"),
        _text(given, "of"),
        _number(given, "expert"),
    )


def _name_of_form() -> str:
    """Name the act of a form that names none, as undo in the history; programs name their own."""
    if request.is_json:
        raise NotStored(
            "Expected request: a name of your own for this act, so that it is stored once also if "
            "you send it again after a lost answer."
        )
    return secrets.token_urlsafe(12)


def _json() -> Mapping[str, Any]:
    try:
        given = request.get_json(silent=True)
    except RecursionError:
        given = None
    if not isinstance(given, dict):
        raise NotStored("Expected a JSON object with request, subjects and action.")
    return given


def _form() -> Mapping[str, Any]:
    return {**request.form.to_dict(), "subjects": request.form.getlist("subject")}


def _text(given: Mapping[str, Any], name: str) -> str:
    words = given.get(name) or ""
    if not isinstance(words, str):
        raise NotStored(f"Field {name}: expected text.")
    return words


def _texts(given: Mapping[str, Any], name: str) -> Sequence[str]:
    words = given.get(name) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise NotStored(f"Field {name}: expected a list of texts.")
    return words


def _number(given: Mapping[str, Any], name: str) -> int | None:
    word = given.get(name)
    if word is None or word == "":
        return None
    if isinstance(word, bool) or not str(word).isdecimal() or len(str(word)) > 18:
        raise NotStored(f"Field {name}: expected a whole number.")
    return int(word)


def _understood(word: str) -> Subject:
    try:
        return labels.parse(word)
    except labels.BadLabel as error:
        raise NotStored(sentence(error)) from error


def _answered(store: Any, fields: Fields) -> Response | tuple[Response, int]:
    """Store something, and answer only after it is safe on the disk of the database."""
    expert = cast(Expert, current())
    if fields.expert not in (None, expert.id):
        raise SignInNeeded(f"You are signed in as {expert.name}, but somebody else said this.")
    try:
        with writing_session() as own:
            stored = store(own, expert)
            subjects = [Subject.of(label) for label in stored.labels]
            now = _now(own, subjects, expert)
            words = labels.wording(own, stored.labels)
    except (labels.BadLabel, label_classes.BadClass) as error:
        raise NotStored(sentence(error)) from error
    except (labels.UnknownSubject, UnknownClass) as error:
        raise Missing(sentence(error), "Nothing was stored. Reload the page.") from error
    except (labels.RequestTaken, labels.NothingToUndo) as error:
        raise Refused(sentence(error)) from error
    if not wants_json():
        return redirect(safe_next(request.form.get("next", "/labels/history")), 303)
    answer = {
        "request": fields.request,
        "repeated": not stored.is_new,
        "words": words,
        "labels": [facts(label) for label in stored.labels],
        "now": now,
    }
    return jsonify(answer), 201 if stored.is_new else 200


def _now(own: Session, subjects: Sequence[Subject], expert: Expert) -> dict[str, Any]:
    """Say what each subject bears after a request: on the pages, and by this expert."""
    shown = labels.shown(own, subjects, expert)
    mine = {subject: _own(rows, expert) for subject, rows in labels.current(own, subjects).items()}
    return {
        str(subject): {
            "shown": _class_of(shown.get(str(subject))),
            "mine": _class_of(mine[subject][0] if mine[subject] else None),
        }
        for subject in subjects
    }


def _own(rows: Sequence[Row], expert: Expert | None) -> list[Row]:
    return [row for row in rows if expert is not None and row.expert_id == expert.id]


def _class_of(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"id": row.label_class_id, "name": row.name, "key": row.key, "colour": row.colour}
