"""Labels on the pages: giving and undoing them, their history, and the classes of the team.

What is stored, and when it counts, is for `db.labels` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, Flask
from sqlalchemy import Row

from db import label_classes, labels
from db.tables import LabelClass
from web.accounts import current
from web.database import session

blueprint = Blueprint("labels", __name__)


@dataclass(frozen=True)
class Bar:
    """What the label bar of some subjects shows to whoever is reading."""

    classes: Sequence[LabelClass]
    said: dict[str, list[Row]]
    shown: dict[str, Row]
    propagated: dict[str, Sequence[Row]]
    remarks: dict[str, Sequence[Row]]


def register(app: Flask) -> None:
    """Give the templates what the label bar needs."""
    app.jinja_env.globals["labelling"] = labelling


def labelling(words: Sequence[str]) -> Bar:
    """Read everything for the label bar of these subjects."""
    subjects = [labels.parse(word) for word in words]
    return Bar(
        classes=label_classes.listed(session()),
        said={str(key): rows for key, rows in labels.current(session(), subjects).items()},
        shown=labels.shown(session(), subjects, current()),
        propagated={str(one): labels.propagated(session(), one) for one in subjects},
        remarks={str(one): labels.remarks(session(), one) for one in subjects},
    )
