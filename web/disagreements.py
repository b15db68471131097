"""Where experts disagree, one subject after the other, and how far they agree altogether.

What they said is read by `db.agreement`, what it amounts to is in `web.agreement_report`, and the
bar that says it again in `web.labels`. Blind experts see nothing here of what others said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from flask import Blueprint, Response, jsonify, render_template

from db import agreement, exposure_queries, maps, queries
from db.agreement import Kind
from db.labels import Subject
from db.maps import Map, MapName, Place
from db.pages import Page, Position
from db.tables import Expert, LabelClass
from models.agreement import CAUTION, purity, reading
from web import agreement_report, cutouts, exposure_cards
from web.accounts import current, needs
from web.database import release, session
from web.errors import wants_json
from web.maps import address, picture
from web.parameters import encode_position, read_arguments, read_choice, read_positions

blueprint = Blueprint("disagreements", __name__)

KIND_WORDS: dict[Kind, str] = {"exposure": "Exposures", "source": "Sources", "cell": "Cells"}
MAP_OF: dict[Kind, MapName] = {"exposure": "exposure_map", "source": "source_map"}
MOST_CELLS = 24  # of the least pure ones
ENOUGH = 2  # labelled members from which on a cell can be impure


@dataclass(frozen=True)
class Shown:
    """A subject of the queue: its name, its page, and its picture by kind."""

    subject: Subject
    title: str
    href: str
    card: Any = None  # of an exposure, see `exposure_cards`
    addresses: dict[str, str] | None = None  # of a source's cutout
    missing: str = ""
    prototypes: dict[str, Any] | None = None  # of a cell's map
    place: Place = (0, 0)


@dataclass(frozen=True)
class Mixed:
    """A cell by the labels that its members have themselves."""

    place: Place
    href: str
    counts: Sequence[tuple[LabelClass, int]]  # the most frequent first
    n: int
    share: float
    entropy: float  # bit


@blueprint.get("/labels/disagreements")
@needs("viewer")
def queue() -> str:
    """Show what experts disagree about, or to the blind what they have not labelled yet."""
    arguments = read_arguments(("kind", "after", "before"))
    kind = cast("Kind | None", read_choice(arguments, "kind", ("", *KIND_WORDS), "") or None)
    reader, order = current(), "labels"
    after, before = read_positions(order)
    assert reader is not None
    page = _page(reader, kind, after, before)
    if before and not page.rows:  # what was here has moved on, so that this is the beginning
        page = _page(reader, kind, None, None)
    if reader.blind:
        total = agreement.n_unsaid(session(), reader.id, kind)
    else:
        total = agreement.n_disagreements(session(), kind)
    row = page.rows[0] if page.rows else None
    return render_template(
        "disagreements.html",
        blind=reader.blind,
        kind=kind,
        kind_words=KIND_WORDS,
        total=total,
        row=row,
        shown=None if row is None else _shown(Subject.of(row)),
        paged=after is not None,
        previous=encode_position(page.previous, order),
        next=encode_position(page.next, order),
    )


@blueprint.get("/labels/agreement")
@needs("viewer")
def report() -> Response | str:
    """Show how far experts agree, whom the votes bear out, and which cells are mixed."""
    arguments = read_arguments(("kind",))
    kind = cast(Kind, read_choice(arguments, "kind", list(KIND_WORDS), "exposure"))
    reader = current()
    if reader is not None and reader.blind:
        return render_template("agreement.html", blind=True, kind=kind, kind_words=KIND_WORDS)
    votes = agreement.votes(session(), kind)
    shown = next(iter(maps.versions(session(), MAP_OF[kind])), None) if kind in MAP_OF else None
    mixed = _mixed(shown) if shown else []
    prototypes = picture(shown) if shown else None
    release()  # what follows takes a second or two when there are many labels
    found = agreement_report.measure(votes)
    if wants_json():
        return jsonify(agreement_report.facts(found))
    return render_template(
        "agreement.html",
        blind=False,
        kind=kind,
        kind_words=KIND_WORDS,
        found=found,
        reading=reading,
        caution=CAUTION,
        shown=shown,
        mixed=mixed[:MOST_CELLS],
        n_mixed=len(mixed),
        prototypes=prototypes,
    )


def _page(
    reader: Expert, kind: Kind | None, after: Position | None, before: Position | None
) -> Page:
    if reader.blind:
        return agreement.unsaid(session(), reader.id, kind, 1, after, before)
    return agreement.disagreements(session(), kind, 1, after, before)


def _shown(subject: Subject) -> Shown:
    """Return what the queue shows of a subject."""
    if subject.kind == "exposure":
        number = subject.numbers[0]
        shown = next(iter(maps.versions(session(), "exposure_map")), None)
        card = exposure_cards.cards(exposure_queries.some(session(), shown, [number]), shown)[
            number
        ]
        return Shown(subject, card.exposure.name, f"/exposures/{number}", card=card)
    if subject.kind == "source":
        number = subject.numbers[0]
        row = queries.pictures(session(), [number]).get(number)
        source = queries.annotated(session(), [number])[0]
        addresses = None if row is None else cutouts.addresses(row)
        href, missing = f"/sources/{number}", cutouts.missing(row)
        return Shown(subject, source["survey_id"], href, addresses=addresses, missing=missing)
    version_id, *place = subject.numbers
    own = next(one for one in maps.versions(session()) if one.version.id == version_id)
    where = (place[0], place[1])
    title = f"Row {place[0]}, column {place[1]} of {own.version.annotator} {own.version.name}"
    href = address(own, where)
    return Shown(subject, title, href, prototypes=picture(own), place=where)


def _mixed(shown: Map) -> list[Mixed]:
    """Return the cells with enough labelled members, the least pure first."""
    classes = maps.label_classes(session())
    said = {
        place: one.direct
        for place, one in maps.said(session(), shown).items()
        if one.n_direct >= ENOUGH
    }
    counts = np.array([[one.get(key, 0) for key in classes] for one in said.values()])
    shares, entropies = purity(counts.reshape(len(said), len(classes)))
    found = [
        Mixed(
            place,
            address(shown, place),
            [(classes[key], n) for key, n in sorted(one.items(), key=lambda item: -item[1])],
            sum(one.values()),
            float(share),
            float(entropy),
        )
        for (place, one), share, entropy in zip(said.items(), shares, entropies, strict=True)
    ]
    return sorted(found, key=lambda cell: (cell.share, -cell.n, cell.place))
