"""What a search asks for: from the address to examples, filters and options, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from flask import request
from sqlalchemy import ColumnElement

from db import predicates
from db.queries import Cone, Opinion, Selection
from db.search import METRICS, Metric, Space
from db.tables import Catalog
from web.errors import Missing
from web.parameters import (
    MAX_BIGINT,
    BadParameter,
    read_arguments,
    read_catalog,
    read_choice,
    read_cone,
    read_range,
)

EXAMPLE = ("id", "survey_id", "catalog", "ra", "dec", "upload")
SETS = ("like", "unlike")
FILTERS = (
    "in_catalog",
    "mag_min",
    "mag_max",
    "p_min",
    "p_max",
    "opinion",
    "near_ra",
    "near_dec",
    "near_radius",
    "where",
    "selection",
)
OPTIONS = ("k", "metric", "space", "exact", "version")
SPACES = get_args(Space)
DEFAULT_K = 50
PAGE_K, MOST_K = 500, 10_000  # neighbours on a page, and for programs
MAX_EXAMPLES = 20
MAX_WHERE = 2_000  # characters


@dataclass(frozen=True)
class Wanted:
    """A search: one example at most, more to be like or unlike, filters and options."""

    source_id: int | None
    survey_id: str | None
    catalog_id: int | None  # of `survey_id`
    position: Cone | None
    upload: str | None
    like: tuple[int, ...]
    unlike: tuple[int, ...]
    filters: Selection
    where: ColumnElement[bool] | None
    saved: str | None  # name of a saved selection
    k: int
    metric: Metric
    space: Space
    exact: bool
    version: str | None
    arguments: dict[str, str]

    @property
    def has_example(self) -> bool:
        """Whether there is anything to be like."""
        example = (self.source_id, self.survey_id, self.position, self.upload)
        return any(part is not None for part in example) or bool(self.like)

    def link(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of a link to the same search with changes, None drops one."""
        merged = {**self.arguments, "like": self.like, "unlike": self.unlike, **changes}
        return {name: value for name, value in merged.items() if value}

    def without_example(self) -> dict[str, Any]:
        """Return the filters and options alone, for another search."""
        return self.link(**dict.fromkeys((*EXAMPLE, *SETS)))


def read(catalogs: Sequence[Catalog], most: int) -> Wanted:
    """Read the search from the current request's address; `most` is the largest k."""
    arguments = read_arguments((*EXAMPLE, *FILTERS, *OPTIONS), SETS)
    like, unlike = _read_sets()
    return Wanted(
        source_id=_read_id("id", arguments["id"]) if "id" in arguments else None,
        survey_id=arguments.get("survey_id"),
        catalog_id=read_catalog(arguments, catalogs),
        position=read_cone(arguments),
        upload=arguments.get("upload"),
        like=like,
        unlike=unlike,
        filters=_read_filters(arguments, catalogs),
        where=_read_where(arguments),
        saved=arguments.get("selection"),
        k=_read_k(arguments, most),
        metric=cast(Metric, read_choice(arguments, "metric", tuple(METRICS), "l1")),
        space=cast(Space, read_choice(arguments, "space", SPACES, "reduced")),
        exact=read_choice(arguments, "exact", ("0", "1"), "0") == "1",
        version=arguments.get("version"),
        arguments=_checked(arguments),
    )


def _checked(arguments: dict[str, str]) -> dict[str, str]:
    """Refuse two examples at once, and a catalog without an identifier."""
    given = [name for name in ("id", "survey_id", "ra", "upload") if name in arguments]
    if len(given) > 1:
        raise BadParameter(
            given[1],
            "one example: id, survey_id, ra and dec, or upload",
            " and ".join(given),
            "Name one, and add others as like and unlike.",
        )
    if "catalog" in arguments and "survey_id" not in arguments:
        raise BadParameter(
            "catalog",
            "survey_id beside it",
            arguments["catalog"],
            "Add survey_id; to find only sources of a catalog, use in_catalog.",
        )
    return arguments


def _read_sets() -> tuple[tuple[int, ...], tuple[int, ...]]:
    like, unlike = (
        tuple(dict.fromkeys(_read_id(name, word) for word in request.args.getlist(name) if word))
        for name in SETS
    )
    if both := set(like) & set(unlike):
        raise BadParameter("unlike", "other sources than like", ", ".join(map(str, sorted(both))))
    if len(like) + len(unlike) > MAX_EXAMPLES:
        raise BadParameter(
            "like", f"at most {MAX_EXAMPLES} examples", f"{len(like) + len(unlike)} of them"
        )
    return like, unlike


def _read_id(name: str, word: str) -> int:
    word = word.strip()
    if not (word.isascii() and word.isdigit()):
        raise BadParameter(name, "the number of a source, as in the address of its page", word)
    number = int(word[:40])
    if number > MAX_BIGINT:
        raise Missing(f"There is no source {word[:40]}.", "Numbers of sources are smaller.")
    return number


def _read_k(arguments: Mapping[str, str], most: int) -> int:
    word = arguments.get("k", str(DEFAULT_K))
    k = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0
    if not 1 <= k <= most:
        more = f" (up to {MOST_K:,} as JSON, CSV or VOTable)" if most < MOST_K else ""
        raise BadParameter("k", f"a whole number from 1 to {most:,}{more}", word)
    return k


def _read_filters(arguments: Mapping[str, str], catalogs: Sequence[Catalog]) -> Selection:
    p_min, p_max = read_range(arguments, "p_min", "p_max", 0, 1, "a probability from 0 to 1")
    mag_min, mag_max = read_range(arguments, "mag_min", "mag_max", -50, 50, "a magnitude like 19.5")
    opinion = read_choice(arguments, "opinion", get_args(Opinion), "any")
    return Selection(
        catalog_id=read_catalog(arguments, catalogs, "in_catalog"),
        p_min=p_min,
        p_max=p_max,
        mag_min=mag_min,
        mag_max=mag_max,
        opinion=cast(Opinion, opinion),
        cone=read_cone(arguments, "near_ra", "near_dec", "near_radius"),
    )


def _read_where(arguments: Mapping[str, str]) -> ColumnElement[bool] | None:
    text = arguments.get("where")
    if text is None:
        return None
    if len(text) > MAX_WHERE:
        raise BadParameter("where", f"at most {MAX_WHERE:,} characters", f"{len(text):,} of them")
    try:
        return predicates.parse(text)
    except ValueError as error:
        raise BadParameter("where", "a condition on a source", text, str(error)) from error
