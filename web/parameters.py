"""What a request asks for: from the address to a Selection and back. Knows no database.

Whatever cannot be understood raises BadParameter, which says what was expected, what arrived and
what to do.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from flask import request
from werkzeug.exceptions import BadRequest

from db.pages import Position
from db.queries import SORTS, Cone, Opinion, Selection, Verdict
from db.tables import Catalog
from db.tables import Selection as SavedSelection

FILTERS = (
    "catalog",
    "selection",
    "p_min",
    "p_max",
    "mag_min",
    "mag_max",
    "opinion",
    "blend_min",
    "blend_max",
    "blend",
    "ra",
    "dec",
    "radius",
    "id",
)
PAGES = ("after", "before")
VIEWS = ("gallery", "table")
OPINION_WORDS = {
    "any": "any",
    "given": "with a probability",
    "missing": "without a probability",
    "flagged": "flagged",
}
AGREEMENT_WORDS = {
    "any": "any",
    "both": "to network and sep",
    "network": "to the network alone",
    "sep": "to sep alone",
    "disagree": "network and sep disagree",
}
DEFAULT_SORT = "-p"
BLEND_SORT = "-blend"  # of selections that are about blends
DEFAULT_RADIUS = 60.0  # arcsec
MAX_RADIUS = 36_000.0  # arcsec
MAX_BIGINT = 2**63 - 1
SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[:\s](\d{1,2})[:\s](\d{1,2}(?:\.\d*)?)")


class BadParameter(BadRequest):
    """A parameter that cannot be understood."""

    def __init__(self, name: str, expected: str, arrived: str, advice: str = "") -> None:
        super().__init__(f"Parameter {name}: expected {expected}; arrived {_shortened(arrived)}.")
        self.parameter = name
        self.expected = expected
        self.arrived = _shortened(arrived)
        self.advice = advice or f"Change {name}, or leave it out."


@dataclass(frozen=True)
class Request:
    """A selection with its order and looks, and the parameters it was made from."""

    selection: Selection
    sort: str
    usual_sort: str  # where none is given
    view: str
    arguments: dict[str, str]

    def link(self, **changes: str | None) -> dict[str, str]:
        """Return the arguments of a link to the same selection with changes, None drops one."""
        merged = {**self.arguments, **changes}
        return {name: value for name, value in merged.items() if value}


def read(
    catalogs: Sequence[Catalog], saved: Sequence[SavedSelection], paged: bool = False
) -> Request:
    """Read the selection from the current request's address; `paged` allows after and before."""
    arguments = read_arguments((*FILTERS, "sort", "view", *(PAGES if paged else ())))
    selection = _selection(arguments, catalogs, saved)
    usual_sort = BLEND_SORT if selection.wants_blend else DEFAULT_SORT
    sort = read_choice(arguments, "sort", SORTS, usual_sort)
    view = read_choice(arguments, "view", VIEWS, VIEWS[0])
    kept = {name: value for name, value in arguments.items() if name not in PAGES}
    return Request(selection, sort, usual_sort, view, kept)


def read_positions(sort: str) -> tuple[Position | None, Position | None]:
    """Read where the wanted page begins: (after, before), at most one of them given."""
    after, before = (request.args.get(name, "").strip() for name in PAGES)
    if after and before:
        raise BadParameter("before", "only one of after and before", before)
    return (
        decode_position("after", after, sort) if after else None,
        decode_position("before", before, sort) if before else None,
    )


def encode_position(position: Position | None, sort: str) -> str | None:
    """Write a place in an order as one word for a link."""
    if position is None:
        return None
    plain = json.dumps([sort, position.value, position.tie], separators=(",", ":"))
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_position(name: str, word: str, sort: str) -> Position:
    """Read what `encode_position` wrote for the same order."""
    try:
        plain = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        written_for, value, tie = json.loads(plain, parse_constant=_refuse)
        str(tie).encode()  # refuses half a surrogate pair, which JSON allows
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise _bad_position(name, word) from None
    if written_for != sort or not _fits(sort, value, tie):
        raise _bad_position(name, word)
    return Position(value, tie)


def read_arguments(known: Sequence[str], repeated: Sequence[str] = ()) -> dict[str, str]:
    """Read the parameters that are given, each at most once; others may be `repeated`."""
    found: dict[str, str] = {}
    for name, words in request.args.lists():
        if name in repeated:
            continue
        if name not in known:
            raise BadParameter(
                name,
                f"one of the parameters {', '.join((*known, *repeated))}",
                f"{name}={words[0]}",
            )
        given = [word.strip() for word in words if word.strip()]
        if len(given) > 1:
            raise BadParameter(name, "one value", " and ".join(given))
        if given and "\0" in given[0]:
            raise BadParameter(name, "text without null characters", repr(given[0]))
        if given:
            found[name] = given[0]
    return found


def _selection(
    arguments: Mapping[str, str], catalogs: Sequence[Catalog], saved: Sequence[SavedSelection]
) -> Selection:
    p_min, p_max = read_range(arguments, "p_min", "p_max", 0, 1, "a probability from 0 to 1")
    mag_min, mag_max = read_range(arguments, "mag_min", "mag_max", -50, 50, "a magnitude like 19.5")
    blend_min, blend_max = read_range(
        arguments, "blend_min", "blend_max", 0, 1, "a probability from 0 to 1"
    )
    opinion = read_choice(arguments, "opinion", get_args(Opinion), "any")
    by_whom = read_choice(arguments, "blend", get_args(Verdict), "any")
    if opinion == "missing" and (p_min is not None or p_max is not None):
        raise BadParameter(
            "opinion", "another opinion than missing beside p_min and p_max", opinion
        )
    return Selection(
        catalog_id=read_catalog(arguments, catalogs),
        saved_id=read_saved(arguments, saved),
        survey_id=arguments.get("id"),
        p_min=p_min,
        p_max=p_max,
        mag_min=mag_min,
        mag_max=mag_max,
        opinion=cast(Opinion, opinion),
        blend_min=blend_min,
        blend_max=blend_max,
        blend=cast(Verdict, by_whom),
        cone=read_cone(arguments),
    )


def read_catalog(
    arguments: Mapping[str, str], catalogs: Sequence[Catalog], parameter: str = "catalog"
) -> int | None:
    """Read the name of a catalog and return its number."""
    name = arguments.get(parameter)
    if name is None:
        return None
    for catalog in catalogs:
        if catalog.name == name:
            return catalog.id
    known = ", ".join(catalog.name for catalog in catalogs[:20]) or "none: the database is empty"
    raise BadParameter(parameter, f"the name of a catalog ({known})", name)


def read_saved(arguments: Mapping[str, str], saved: Sequence[SavedSelection]) -> int | None:
    """Read the name of a saved selection and return its number."""
    name = arguments.get("selection")
    if name is None:
        return None
    for one in saved:
        if one.name == name:
            return one.id
    known = ", ".join(one.name for one in saved[:20]) or "none is saved yet"
    raise BadParameter("selection", f"the name of a saved selection ({known})", name)


def read_range(
    arguments: Mapping[str, str], low: str, high: str, lowest: float, highest: float, what: str
) -> tuple[float | None, float | None]:
    """Read two limits, either of which may be missing."""
    bounds = [read_number(arguments, name, lowest, highest, what) for name in (low, high)]
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        raise BadParameter(
            low, f"at most {high}, which is {arguments[high]}", arguments[low], "Swap the two."
        )
    return bounds[0], bounds[1]


def read_number(
    arguments: Mapping[str, str], name: str, lowest: float, highest: float, what: str
) -> float | None:
    """Read a finite number between limits, None if it is not given; `what` says what is wanted."""
    word = arguments.get(name)
    if word is None:
        return None
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not lowest <= number <= highest:
        raise BadParameter(name, what, word)
    return number


def read_cone(
    arguments: Mapping[str, str], ra: str = "ra", dec: str = "dec", radius: str = "radius"
) -> Cone | None:
    """Read a circle from the parameters of these names."""
    given = [name for name in (ra, dec, radius) if name in arguments]
    if not given:
        return None
    for name in (ra, dec):
        if name not in arguments:
            raise BadParameter(
                name, f"{ra} and {dec} together", f"only {', '.join(given)}", f"Add {name}."
            )
    degrees = "degrees from {} like {}, or sexagesimal like {}"
    arcsec = read_number(
        arguments, radius, 0, MAX_RADIUS, f"a radius from 0 to {MAX_RADIUS:g} arcsec"
    )
    return Cone(
        _angle(
            arguments, ra, 0, 360, 15, degrees.format("0 to 360", "203.94", "13:35:45.7 (hours)")
        ),
        _angle(arguments, dec, -90, 90, 1, degrees.format("-90 to 90", "-3.55", "-03:32:59")),
        DEFAULT_RADIUS if arcsec is None else arcsec,
    )


def _angle(
    arguments: Mapping[str, str], name: str, lowest: float, highest: float, unit: float, what: str
) -> float:
    word = arguments[name].replace("−", "-")
    if match := SEXAGESIMAL.fullmatch(word):
        sign, whole, minutes, seconds = match.groups()
        if int(minutes) < 60 and float(seconds) < 60:
            size = (int(whole) + int(minutes) / 60 + float(seconds) / 3600) * unit
            word = f"{sign}{size!r}"
    degrees = read_number({name: word}, name, lowest, highest, what)
    assert degrees is not None
    return degrees


def read_choice(arguments: Mapping[str, str], name: str, known: Sequence[str], default: str) -> str:
    """Read one of some words."""
    word = arguments.get(name, default)
    if word not in known:
        raise BadParameter(name, f"one of {', '.join(known)}", word)
    return word


def _fits(sort: str, value: Any, tie: Any) -> bool:
    """Whether a decoded key can be one of the order's."""
    if sort == "catalog":
        return _is_id(value) and isinstance(tie, str) and "\0" not in tie
    if sort == "rejections":
        return _is_id(value) and _is_id(tie)
    number = type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e30
    return (value is None or number) and _is_id(tie)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_BIGINT


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _bad_position(name: str, word: str) -> BadParameter:
    return BadParameter(
        name,
        "a place in this order, as the links to the next and previous page write it",
        word,
        f"Leave {name} out to begin at the first page.",
    )


def _shortened(word: str) -> str:
    return word if len(word) <= 120 else word[:117] + "…"
