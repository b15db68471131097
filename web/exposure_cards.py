"""What a small card of an exposure shows, wherever exposures are listed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from flask import url_for
from sqlalchemy import Row

from db import exposure_queries, labels, maps
from db.labels import Subject
from db.maps import NOTHING, Map, Place, Said
from db.tables import Exposure, ExposureCell, LabelClass
from web.accounts import current
from web.database import session
from web.map_versions import versions

RENDERING = 1  # raise when the same histogram would look different


@dataclass(frozen=True)
class Card:
    """An exposure with its pictures, the label it was given, and the one its cell has."""

    exposure: Exposure
    catalog: str
    cell: ExposureCell | None
    preview: str | None
    density: str | None
    label: Row | None
    propagated: LabelClass | None
    confidence: float

    @property
    def novel(self) -> bool:
        """Whether it is far from every prototype."""
        return self.cell is not None and bool(self.cell.flags & maps.NOVEL_EXPOSURE)


def cards(rows: Sequence[Row], shown: Map | None) -> dict[int, Card]:
    """Return the cards of rows of `exposure_queries.listed`, by number of the exposure."""
    ids = [row.Exposure.id for row in rows]
    reader = current()
    direct = labels.shown(session(), [Subject("exposure", (one,)) for one in ids], reader)
    blind = reader is not None and reader.blind
    said = {} if shown is None or blind else maps.said(session(), shown)
    classes = maps.label_classes(session()) if said else {}
    counted = source_map(shown)
    have = exposure_queries.with_histogram(session(), ids, counted) if counted else set()
    found = {}
    for row in rows:
        one, carried = row.Exposure, _carried(row.ExposureCell, said)
        found[one.id] = Card(
            one,
            row.catalog,
            row.ExposureCell,
            preview(one),
            density(one, counted) if counted and one.id in have else None,
            direct.get(f"exposure:{one.id}"),
            None if carried.label is None else classes[carried.label],
            carried.confidence,
        )
    return found


def _carried(cell: ExposureCell | None, said: dict[Place, Said]) -> Said:
    """Return what is said of the cell of an exposure that belongs there."""
    if cell is None or cell.cell_row is None or cell.cell_column is None:
        return NOTHING
    if cell.flags & maps.NOVEL_EXPOSURE:
        return NOTHING
    return said.get((cell.cell_row, cell.cell_column), NOTHING)


def source_map(shown: Map | None) -> Map | None:
    """Return the map of sources whose cells a map of exposures counts, else the current one."""
    there = versions("source_map")
    name = (shown.version.card.get("inputs") or {}).get("source_map") if shown else None
    named = [one for one in there if one.version.name == name]
    return next(iter(named or there), None)


def preview(exposure: Exposure) -> str | None:
    """Return where the picture of an exposure is, None if there is none."""
    if exposure.preview is None:
        return None
    return url_for("exposures.preview", exposure_id=exposure.id, v=preview_token(exposure))


def preview_token(exposure: Exposure) -> str:
    """Return a word that changes whenever the picture does."""
    facts = (exposure.preview, exposure.fingerprint)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def density(exposure: Exposure, counted: Map) -> str:
    """Return where the density map of an exposure is."""
    return url_for(
        "exposures.density_map",
        exposure_id=exposure.id,
        version=counted.version.name,
        v=density_token(exposure, counted),
    )


def density_token(exposure: Exposure, counted: Map) -> str:
    """Return a word that changes whenever the density map may."""
    facts = (RENDERING, exposure.fingerprint, counted.version.weights_sha256)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
