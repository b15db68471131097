"""The page of the team's label classes: adding, renaming, recolouring, retiring.

Every expert may, because the vocabulary grows while labelling; the audit says who did what.
"""

from __future__ import annotations

from typing import Any, cast

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from db import label_classes
from db.tables import Expert
from web.accounts import address, current, needs
from web.database import session, writing_session
from web.errors import Missing, sentence

blueprint = Blueprint("label_classes", __name__)


class NotChanged(BadRequest):
    """What was sent cannot become a label class."""

    advice = "Nothing was changed. Go back, change what is wrong and send it again."


@blueprint.get("/labels/classes")
def page() -> str:
    """Show the classes, and the forms that change them to those who may."""
    every = label_classes.listed(session(), retired=True)
    return render_template(
        "label_classes.html",
        classes=[one for one in every if one.retired_at is None],
        retired=[one for one in every if one.retired_at is not None],
        keys=sorted(label_classes.KEYS),
        n_colours=label_classes.N_COLOURS,
        free_key=label_classes.free_key(session()),
        free_colour=label_classes.free_colour(session()),
    )


@blueprint.post("/labels/classes")
@needs("expert")
def add() -> Response:
    """Add a class."""
    return _changed(lambda own, who: label_classes.add(own, **_values(), **who))


@blueprint.post("/labels/classes/<int:class_id>")
@needs("expert")
def change(class_id: int) -> Response:
    """Change a class."""
    return _changed(lambda own, who: label_classes.change(own, class_id, **_values(), **who))


@blueprint.post("/labels/classes/<int:class_id>/<any(retire, restore):what>")
@needs("expert")
def retire(class_id: int, what: str) -> Response:
    """Offer a class no longer, or again."""
    act = label_classes.retire if what == "retire" else label_classes.restore
    return _changed(lambda own, who: act(own, class_id, **who))


def _changed(act: Any) -> Response:
    who = {"expert_id": cast(Expert, current()).id, "address": address()}
    try:
        with writing_session() as own:
            act(own, who)
    except label_classes.BadClass as error:
        raise NotChanged(sentence(error)) from error
    except label_classes.UnknownClass as error:
        raise Missing(f"{str(error).capitalize()}.", "The page of classes lists them.") from error
    return redirect(url_for("label_classes.page"), 303)


def _values() -> dict[str, Any]:
    colour = request.form.get("colour", "")
    if colour and not (colour.isdecimal() and len(colour) < 4):
        raise NotChanged(f"Field colour: expected a number; arrived {colour[:20]!r}.")
    return {
        "name": request.form.get("name", ""),
        "key": request.form.get("key") or None,
        "colour": int(colour) if colour else label_classes.free_colour(session()),
        "description": request.form.get("description", ""),
    }
