"""What pages and downloads of sources keep from a reader who asked not to see others' labels.

Maps, exposures and labels themselves count the reader's own labels alone (`web.maps.only`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.sql import visitors

from db.predicates import annotated_source
from web.accounts import current
from web.parameters import BadParameter

HIDDEN = "label"  # column of annotated_source: what most experts say


def is_blind() -> bool:
    """Tell whether whoever is reading asked not to see what others say."""
    reader = current()
    return reader is not None and reader.blind


def without_hidden(facts: Mapping[Any, Any]) -> dict[str, Any]:
    """Return facts by column of `annotated_source`, without the ones the reader must not see."""
    return {name: fact for name, fact in facts.items() if not (name == HIDDEN and is_blind())}


def check(condition: ColumnElement[bool] | None) -> None:
    """Refuse a condition that would tell a blind reader what others say.

    Raises
    ------
    BadParameter
    """
    if condition is None or not is_blind():
        return
    hidden = annotated_source.c[HIDDEN]
    if any(part is hidden for part in visitors.iterate(condition)):
        raise BadParameter(
            "where",
            f"a condition without the column {HIDDEN}",
            HIDDEN,
            "You are in blind mode: which label others gave is hidden from you.",
        )
