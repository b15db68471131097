"""Everything that was ever said, with filters: the page, and JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, render_template
from sqlalchemy import Row

from db import label_classes, labels, model_versions
from db.labels import Subject
from db.tables import ModelVersion
from web.accounts import current
from web.database import session
from web.errors import wants_json
from web.labels import facts, read_subject
from web.parameters import (
    BadParameter,
    encode_position,
    read_arguments,
    read_choice,
    read_positions,
)

blueprint = Blueprint("label_history", __name__)

FILTERS = ("expert", "class", "kind", "subject")
KIND_WORDS = {"cell": "cells of maps", "exposure": "exposures", "source": "sources"}


@blueprint.get("/labels/history")
@blueprint.get("/labels/history.json")
def page() -> Response | str:
    """Show everything that was said, the newest first; blind experts see their own."""
    arguments = read_arguments((*FILTERS, "after", "before"))
    experts, classes = labels.experts(session()), label_classes.listed(session(), retired=True)
    reader = current()
    blind = reader.id if reader is not None and reader.blind else None
    subject = read_subject(arguments["subject"]) if "subject" in arguments else None
    after, before = read_positions("labels")
    found = labels.history(
        session(),
        subject=subject,
        expert_id=blind or _named(arguments, "expert", {one.name: one.id for one in experts}),
        label_class_id=_named(arguments, "class", {str(one.id): one.id for one in classes}),
        kind=read_choice(arguments, "kind", ("", *KIND_WORDS), "") or None,
        after=after,
        before=before,
    )
    previous, following = (encode_position(one, "labels") for one in (found.previous, found.next))
    if wants_json():
        rows = [_history_row(row) for row in found.rows]
        return jsonify({"labels": rows, "previous": previous, "next": following})
    subjects = [Subject.of(row.Label) for row in found.rows]
    return render_template(
        "label_history.html",
        rows=list(zip(found.rows, subjects, strict=True)),
        links=_links(subjects),
        names=labels.names(session(), subjects if subject is None else [*subjects, subject]),
        arguments={name: word for name, word in arguments.items() if name in FILTERS},
        subject=subject,
        experts=experts,
        classes=classes,
        kind_words=KIND_WORDS,
        own_only=blind is not None,
        previous=previous,
        next=following,
    )


def _history_row(row: Row) -> dict[str, Any]:
    return facts(row.Label) | {"expert": row.expert, "class": row.name, "undone": row.undone}


def _named(arguments: Mapping[str, str], name: str, known: Mapping[str, int]) -> int | None:
    word = arguments.get(name)
    if word is None:
        return None
    if word not in known:
        there = ", ".join(list(known)[:20]) or "none yet"
        raise BadParameter(name, f"one of those who said something or were said: {there}", word)
    return known[word]


def _links(subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Return the address of the page of each subject."""
    versions = {one.id: one for one in model_versions.listed(session())}
    return {subject: _link(subject, versions) for subject in subjects}


def _link(subject: Subject, versions: Mapping[int, ModelVersion]) -> str:
    if subject.kind != "cell":
        return f"/{subject.kind}s/{subject.numbers[0]}"
    version_id, row, column = subject.numbers
    version = versions[version_id]
    return f"/maps/{version.annotator}/{row}/{column}?version={version.name}"
