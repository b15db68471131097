"""Saved selections: their list, and what a lasso on a projection catches, counted or saved."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, jsonify, redirect, render_template, request, url_for
from sqlalchemy import text
from werkzeug.exceptions import BadRequest, Conflict, UnprocessableEntity
from werkzeug.wrappers import Response

from db import audit, projections, selections
from db.lasso import BadPolygon
from db.names import BadName
from web.accounts import address, current, needs
from web.database import session, writing_session
from web.errors import Missing, sentence, wants_json
from web.projections import Found, find

blueprint = Blueprint("selections", __name__)

MAX_COMMENT = 2_000  # characters
SAVE_LIMIT = 120  # seconds: half a million sources take some ten


class NotSaved(BadRequest):
    """What was sent cannot become a selection."""

    advice = "Change what is wrong and send it again; nothing was saved."


class Taken(Conflict):
    """A selection of this name is there already."""

    advice = "Choose another name, or delete the old selection first."


class Full(Conflict):
    """There are as many selections as are kept."""

    advice = "Delete one that nobody needs any more."


class TooLarge(UnprocessableEntity):
    """A selection would hold more sources than any may."""

    advice = "Draw the outline around fewer; nothing was saved."


@blueprint.get("/selections")
def listing() -> str:
    """List the saved selections, the newest first."""
    return render_template("selections.html", rows=selections.listed(session()))


@blueprint.post("/selections/<name>/delete")
@needs("expert", once_accounts_exist=True)
def delete(name: str) -> Response:
    """Delete a selection, not its sources."""
    expert = current()
    with writing_session() as own:
        if "\0" in name or not selections.delete(own, name):
            raise Missing(f"There is no selection {name!r}.", "The list shows those there are.")
        audit.record(own, "delete selection", name, expert.id if expert else None, address())
    return redirect(url_for("selections.listing"), 303)


@blueprint.post("/projections/<name>/count")
def count(name: str) -> Response:
    """Count the sources within a polygon; changes nothing, but a polygon is long for an address."""
    found = find(name)
    corners = _polygon()
    try:
        n = projections.count_inside(session(), found.projection, corners)
    except BadPolygon as error:
        raise NotSaved(f"Not a polygon: {error}.") from error
    return jsonify({"n": n})


@blueprint.post("/projections/<name>/selections")
@needs("expert", once_accounts_exist=True)
def save(name: str) -> Response | tuple[Response, int]:
    """Save the sources within a polygon; 303 to them, or 201 for programs."""
    found = find(name)
    wanted, comment, corners = _words("name"), _words("comment")[:MAX_COMMENT], _polygon()
    try:
        sources = projections.inside(found.projection, corners)
        with writing_session() as own:
            own.execute(text(f"SET LOCAL statement_timeout = '{SAVE_LIMIT}s'"))
            saved = selections.save(own, wanted, sources, _origin(found, corners), comment)
    except selections.NameTaken as error:
        raise Taken(sentence(error)) from error
    except selections.TooManySelections as error:
        raise Full(sentence(error)) from error
    except selections.TooManySources as error:
        raise TooLarge(sentence(error)) from error
    except (BadPolygon, BadName, selections.NothingSelected) as error:
        raise NotSaved(sentence(error)) from error
    page = url_for("sources.listing", selection=saved.name)
    if not wants_json():
        return redirect(page, 303)
    facts = {"name": saved.name, "n_sources": saved.n_sources, "sources": page}
    return jsonify(facts), 201


def _origin(found: Found, corners: Any) -> dict[str, Any]:
    return {
        "projection": found.projection.name,
        "projection_id": found.projection.id,
        "method": found.projection.method,
        "model_version": found.version.name,
        "polygon": corners,
    }


def _words(field: str) -> str:
    words = request.form.get(field, "")
    if "\0" in words:
        raise NotSaved(f"Field {field}: expected text without null characters.")
    return words


def _polygon() -> Any:
    """Read the form's polygon, [[x, y], …] as JSON; whether it is one is for `db.lasso` to say."""
    try:
        return json.loads(request.form.get("polygon", ""))
    except (ValueError, RecursionError):
        raise NotSaved("Field polygon: expected corners as JSON, [[x, y], …].") from None
