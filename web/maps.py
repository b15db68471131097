"""The maps: their cells as prototypes, density, labels or borders, and what is in one cell.

What is read is for `db.maps` to say, how labels are given for `web.labels`; exposures have their
pages in `web.exposures`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from flask import Blueprint, current_app, make_response, render_template, url_for
from werkzeug.wrappers import Response

from db import exposure_queries, labels, maps, queries
from db.labels import Subject
from db.maps import NOTHING, Kind, Map, MapName, Occupancy, Place, Said
from db.tables import LabelClass
from web import cutouts, exposure_cards, map_pictures
from web.accounts import current
from web.database import session
from web.errors import Missing
from web.formats import count
from web.map_versions import versions
from web.parameters import (
    BadParameter,
    encode_position,
    read_arguments,
    read_choice,
    read_number,
    read_positions,
)

blueprint = Blueprint("maps", __name__)


class Words(NamedTuple):
    """How pages speak of a map."""

    title: str
    one: str
    many: str


WORDS = {
    "exposure_map": Words("Map of exposures", "exposure", "exposures"),
    "source_map": Words("Map of sources", "source", "sources"),
}
SHOWS = {
    "pictures": "Prototypes",
    "density": "Density",
    "labels": "Labels",
    "umatrix": "Borders",
}
KINDS: dict[Kind, str] = {
    "random": "At random",
    "nearest": "Nearest to the prototype",
    "farthest": "Farthest from it",
    "borderline": "On the border to another cell",
}
SHOWN = {"random": 9, "nearest": 6, "farthest": 6, "borderline": 6}
MEMBER_PAGE = 96
RENDERING = 2  # raise when the same prototypes would look different
DARK = 140  # level of the colour table from which on dark text is legible on it
MAX_DRAW = 2**31
FRESH = 60  # seconds for which the order of cells by members is good enough to go on by


@dataclass(frozen=True)
class Drawn:
    """A cell as the grid shows it."""

    row: int
    column: int
    n: int
    said: Said
    label: LabelClass | None
    share: float  # of the votes that are for the label
    fill: str | None
    bright: bool  # whether dark text is legible on it
    words: str

    @property
    def short(self) -> str:
        """The number of members in three characters at most."""
        return str(self.n) if self.n < 1_000 else f"{self.n / 1_000:.0f}k"


@blueprint.get("/maps")
def listing() -> str:
    """List the maps there are."""
    return render_template("maps.html", maps=maps.versions(session()), words=WORDS)


@blueprint.get("/maps/<annotator>")
def grid(annotator: str) -> str:
    """Show all cells of a map."""
    arguments = read_arguments(("version", "show"))
    show = read_choice(arguments, "show", list(SHOWS), "pictures")
    all_versions, shown = find(annotator, arguments.get("version"))
    occupied = maps.occupancy(session(), shown)
    said = maps.said(session(), shown, only())
    classes = maps.label_classes(session())
    values = maps.u_matrix(maps.latents(session(), shown)) if show == "umatrix" else None
    cells = _drawn(shown, occupied, said, classes, show, values)
    labelled = [cell for row in cells for cell in row if cell.label]
    return render_template(
        "map.html",
        **_common(shown),
        versions=all_versions,
        show=show,
        shows=SHOWS,
        cells=cells,
        occupied=occupied,
        total=int(occupied.n.sum()),
        most=int(occupied.n.max(initial=0)),
        span=(float(np.nanmin(values)), float(np.nanmax(values))) if values is not None else None,
        n_labelled=len(labelled),
        n_covered=sum(cell.n for cell in labelled),
        legend=_legend(labelled),
        disputed=[cell for row in cells for cell in row if cell.said.disputed],
        following=_unlabelled(shown, _by_fullness(occupied), said, None),
    )


@blueprint.get("/maps/<annotator>/prototypes.png")
def sprite(annotator: str) -> Response:
    """Draw all prototypes of a map side by side."""
    arguments = read_arguments(("version", "v"))
    shown = find(annotator, arguments.get("version"))[1]
    decoded = maps.decoded(session(), shown)
    drawn = map_pictures.prototypes(
        decoded, _tile(shown, decoded.shape[-1]), grey=annotator == "source_map"
    )
    response = make_response(drawn, {"Content-Type": "image/png"})
    named = arguments.get("v") == _token(shown)
    response.headers["Cache-Control"] = cutouts.FOR_EVER if named else "no-cache"
    return response


@blueprint.get("/maps/<annotator>/<int:row>/<int:column>")
def cell(annotator: str, row: int, column: int) -> str:
    """Show a cell: its prototype, what was said of it, and some of its members."""
    arguments = read_arguments(("version", "draw"))
    draw = _draw(arguments)
    shown = find(annotator, arguments.get("version"))[1]
    place = _place(shown, row, column)
    said = maps.said(session(), shown, only())
    classes = maps.label_classes(session())
    n, error = maps.fit(session(), shown, place)
    chosen = {
        kind: maps.members(session(), shown, place, kind, SHOWN[kind], draw) for kind in KINDS
    }
    ids = list({row.id for rows in chosen.values() for row in rows})
    return render_template(
        "cell.html",
        **_common(shown),
        row=row,
        column=column,
        subject=subject(shown, place),
        n=n,
        said=said.get(place, NOTHING),
        classes=classes,
        error=error,
        chosen=chosen,
        kinds=KINDS,
        shown_at_once=SHOWN,
        draw=draw,
        cards=_cards(shown, ids),
        moves=_moves(shown, place),
        following=_unlabelled(shown, _fullest(shown), said, place),
    )


@blueprint.get("/maps/<annotator>/<int:row>/<int:column>/members")
def members(annotator: str, row: int, column: int) -> str:
    """Show all members of a cell, page by page."""
    arguments = read_arguments(("version", "after", "before"))
    shown = find(annotator, arguments.get("version"))[1]
    place = _place(shown, row, column)
    after, before = read_positions("error")
    page = maps.member_page(session(), shown, place, MEMBER_PAGE, after, before)
    return render_template(
        "members.html",
        **_common(shown),
        row=row,
        column=column,
        rows=page.rows,
        n=maps.n_members(session(), shown, place),
        cards=_cards(shown, [one.id for one in page.rows]),
        previous=encode_position(page.previous, "error"),
        next=encode_position(page.next, "error"),
    )


def find(annotator: str, name: str | None) -> tuple[list[Map], Map]:
    """Return the versions of a map and the one that is asked for, or answer 404."""
    if annotator not in WORDS:
        raise Missing(
            f"There is no map {annotator!r}.", f"There are: {' and '.join(sorted(WORDS))}."
        )
    there = versions(cast(MapName, annotator))
    if not there:
        raise Missing(
            f"No version of {annotator} has shown its prototypes yet.",
            "A worker stores them when it first loads a version: skygloss annotate.",
        )
    for one in there:
        if name in (None, one.version.name):
            return there, one
    names = ", ".join(one.version.name for one in there[:20])
    raise BadParameter("version", f"a version of {annotator} with prototypes ({names})", str(name))


def only() -> int | None:
    """Return whose labels alone the page may show: the reader's own, if the reader is blind."""
    reader = current()
    return reader.id if reader is not None and reader.blind else None


def subject(shown: Map, place: Place) -> str:
    """Return the name of a cell as a subject of labels."""
    return f"cell:{shown.version.id}:{place[0]}:{place[1]}"


def picture(shown: Map) -> dict[str, Any]:
    """Return where the prototypes of a map are drawn, and the size of their grid."""
    version = shown.version
    return {
        "href": url_for(
            "maps.sprite", annotator=version.annotator, version=version.name, v=_token(shown)
        ),
        "rows": shown.rows,
        "columns": shown.columns,
    }


def address(shown: Map, place: Place | None = None, **arguments: Any) -> str:
    """Return the address of a map, or of a cell of it; the current version goes without name."""
    version = None if shown.version.state == "current" else shown.version.name
    annotator = shown.version.annotator
    if place is None:
        return url_for("maps.grid", annotator=annotator, version=version, **arguments)
    row, column = place
    return url_for(
        "maps.cell", annotator=annotator, row=row, column=column, version=version, **arguments
    )


def _common(shown: Map) -> dict[str, Any]:
    return {
        "shown": shown,
        "version": shown.version,
        "words": WORDS[shown.version.annotator],
        "picture": picture(shown),
        "address": address,
        "subject_of": subject,
    }


def _token(shown: Map) -> str:
    return f"{RENDERING}.{shown.version.weights_sha256[:12]}"


def _tile(shown: Map, length: int) -> tuple[int, int]:
    """Return height and width of a prototype: those of the map whose cells it counts, or of a
    square, or of a line."""
    of_exposures = shown.version.annotator == "exposure_map"
    counted = exposure_cards.source_map(shown) if of_exposures else None
    if counted is not None and counted.rows * counted.columns == length:
        return counted.rows, counted.columns
    side = math.isqrt(length)
    return (side, side) if side * side == length else (1, length)


def _draw(arguments: dict[str, str]) -> int:
    what = "a whole number of zero or more: which members to draw"
    given = read_number(arguments, "draw", 0, MAX_DRAW, what)
    if given is not None and given != int(given):
        raise BadParameter("draw", what, arguments["draw"])
    return int(given or 0)


def _place(shown: Map, row: int, column: int) -> Place:
    if row >= shown.rows or column >= shown.columns:
        raise Missing(
            f"{shown.version.name} has no cell in row {row}, column {column}.",
            f"Its rows are 0 to {shown.rows - 1}, its columns 0 to {shown.columns - 1}.",
        )
    return row, column


def _drawn(
    shown: Map,
    occupied: Occupancy,
    said: dict[Place, Said],
    classes: dict[int, LabelClass],
    show: str,
    values: np.ndarray | None,
) -> list[list[Drawn]]:
    """Return the cells row by row, with the colours of what is shown."""
    levels = None
    if show == "density":
        levels = map_pictures.count_colours(occupied.n)
    elif values is not None:
        levels = map_pictures.even_colours(values)
    fills = None if levels is None else map_pictures.names(levels)
    words = WORDS[shown.version.annotator]
    rows = []
    for row in range(shown.rows):
        cells = []
        for column in range(shown.columns):
            place, n = (row, column), int(occupied.n[row, column])
            spoken = said.get(place, NOTHING)
            label = classes.get(spoken.label) if spoken.label is not None else None
            cells.append(
                Drawn(
                    row,
                    column,
                    n,
                    spoken,
                    label,
                    spoken.votes[label.id] / sum(spoken.votes.values()) if label else 0.0,
                    None if fills is None else str(fills[place]),
                    levels is not None and bool(levels[place] >= DARK),
                    _words(words, place, n, occupied.exact, spoken, label),
                )
            )
        rows.append(cells)
    return rows


def _words(
    words: Words, place: Place, n: int, exact: bool, said: Said, label: LabelClass | None
) -> str:
    about = "" if exact else "about "
    parts = [f"Row {place[0]}, column {place[1]}"]
    parts.append(f"{about}{count(n)} {words.one if n == 1 else words.many}")
    if label is not None:
        of = sum(said.votes.values())
        experts = "expert" if of == 1 else "experts"
        parts.append(f"{label.name} ({said.votes[label.id]} of {of} {experts})")
    elif said.disputed:
        parts.append("experts disagree")
    else:
        parts.append("no label")
    if said.n_direct:
        bear = f"{said.n_direct} labelled themselves"
        parts.append(bear + (f", {said.n_agree} of them so" if label else ""))
    return " · ".join(parts)


def _legend(labelled: list[Drawn]) -> list[tuple[LabelClass, int, int]]:
    """Return each label with the cells that have it and the members in them."""
    classes = {cell.label.id: cell.label for cell in labelled if cell.label}
    return [
        (
            one,
            sum(cell.label is one for cell in labelled),
            sum(cell.n for cell in labelled if cell.label is one),
        )
        for one in sorted(classes.values(), key=lambda one: one.id)
    ]


def _fullest(shown: Map) -> list[Place]:
    """Return the cells with members, the fullest first, as they were up to a minute ago."""
    kept: dict[int, tuple[float, list[Place]]] = current_app.extensions.setdefault("fullest", {})
    then, places = kept.get(shown.version.id, (-math.inf, []))
    if time.monotonic() - then > FRESH:
        places = _by_fullness(maps.occupancy(session(), shown))
        kept[shown.version.id] = time.monotonic(), places
    return places


def _by_fullness(occupied: Occupancy) -> list[Place]:
    rows, columns = np.nonzero(occupied.n)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return sorted(places, key=lambda where: (-int(occupied.n[where]), where))


def _unlabelled(
    shown: Map, places: list[Place], said: dict[Place, Said], place: Place | None
) -> Place | None:
    """Return the first cell without label that comes after a place; the first after the last.

    Without label means that the reader has given none, or nobody if the reader is not signed in;
    `said` is what the page shows.
    """
    reader = current()
    own = None if reader is None else reader.id
    spoken = said if own == only() else maps.said(session(), shown, own)
    done = {where for where, one in spoken.items() if one.votes}
    start = places.index(place) + 1 if place in places else 0
    left = [where for where in (*places[start:], *places[:start]) if where not in done]
    return next((where for where in left if where != place), None)


def _moves(shown: Map, place: Place) -> dict[str, Place | None]:
    """Return the cells beside a cell by the words for the directions."""
    steps = {"left": (0, -1), "up": (-1, 0), "down": (1, 0), "right": (0, 1)}
    beside = {word: (place[0] + down, place[1] + right) for word, (down, right) in steps.items()}
    return {
        word: where if 0 <= where[0] < shown.rows and 0 <= where[1] < shown.columns else None
        for word, where in beside.items()
    }


def _cards(shown: Map, ids: list[int]) -> dict[int, Any]:
    """Return what the cards of some members show, by their number."""
    if shown.version.annotator == "exposure_map":
        return exposure_cards.cards(exposure_queries.some(session(), shown, ids), shown)
    sources = {row["source_id"]: row for row in queries.annotated(session(), ids)}
    pictures = queries.pictures(session(), ids)
    said = labels.shown(session(), [Subject("source", (one,)) for one in ids], current())
    return {
        key: {
            "source": row,
            "label": said.get(f"source:{key}"),
            "addresses": cutouts.addresses(pictures[key]) if key in pictures else None,
            "missing": cutouts.missing(pictures.get(key)),
        }
        for key, row in sources.items()
    }
