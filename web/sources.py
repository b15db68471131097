"""Sources: the gallery and table of a selection, its download as CSV, and one source."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator, Sequence
from itertools import chain, islice
from typing import Any

from flask import Blueprint, Response, current_app, render_template
from sqlalchemy import Row, RowMapping
from werkzeug.exceptions import BadRequest

from db import exposure_queries, queries, selections
from db.pages import Position
from db.tables import Blend, PairFlux, Shred
from web import blends, cutouts, maps, parameters, search, votable
from web.blind import without_hidden
from web.database import session, steady_session
from web.errors import Missing
from web.formats import sexagesimal
from web.parameters import encode_position

blueprint = Blueprint("sources", __name__)

PAGE_SIZES = {"gallery": 48, "table": 100}
NEIGHBOUR_RADIUS = 30.0  # arcsec
MAX_NEIGHBOURS = 12
N_ALIKE = 8
SCALE_BARS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)  # arcsec
SORT_WORDS = {
    "-p": "P(shred), highest first",
    "p": "P(shred), lowest first",
    "-blend": "P(blend), highest first",
    "blend": "P(blend), lowest first",
    "mag": "r magnitude, brightest first",
    "-mag": "r magnitude, faintest first",
    "catalog": "catalog and identifier",
}
DOWNLOAD_CHUNK = 500  # rows
MAX_VOTABLE = 50_000  # rows; astropy writes some 10,000 a second


class TooMany(BadRequest):
    """A selection is too large for a VOTable."""

    description = f"A VOTable has at most {MAX_VOTABLE:,} sources; this selection has more."
    advice = "Narrow the selection, or take it as CSV, which may have any length."


@blueprint.get("/sources")
def listing() -> str:
    """Show a page of a selection."""
    catalogs, saved = queries.catalogs(session()), selections.listed(session())
    wanted = parameters.read(catalogs, saved, paged=True)
    after, before = parameters.read_positions(wanted.sort)
    page, rows = queries.sources(
        session(), wanted.selection, wanted.sort, PAGE_SIZES[wanted.view], after, before
    )
    pictures = queries.pictures(session(), [row["source_id"] for row in rows])
    return render_template(
        "sources.html",
        wanted=wanted,
        catalogs=catalogs,
        saved=saved,
        rows=rows,
        comments=queries.column_comments(session()),
        pictures={source_id: cutouts.addresses(row) for source_id, row in pictures.items()},
        missing={row["source_id"]: cutouts.missing(pictures.get(row["source_id"])) for row in rows},
        total=queries.count(session(), wanted.selection),
        previous=encode_position(page.previous, wanted.sort),
        next=encode_position(page.next, wanted.sort),
        sort_words=SORT_WORDS,
        opinion_words=parameters.OPINION_WORDS,
        agreement_words=parameters.AGREEMENT_WORDS,
        agree=blends.agree,
        finding=blends.finding,
    )


@blueprint.get("/sources.csv")
def download() -> Response:
    """Stream every row of a selection as CSV, with the columns of `annotated_source`."""
    wanted = _wanted()
    columns = list(without_hidden(queries.column_comments(session())))
    lines = _csv(wanted, columns)
    head = next(lines)  # now, while trouble with the database can still be answered by 503
    response = current_app.response_class(
        chain([head], lines),
        content_type="text/csv; charset=utf-8; header=present",
        headers={"Content-Disposition": "attachment; filename=sources.csv"},
    )
    response.call_on_close(lines.close)
    return response


@blueprint.get("/sources.vot")
def votable_download() -> Response:
    """Send a selection as VOTable, with the columns of `annotated_source`; made in memory."""
    wanted = _wanted()
    types = without_hidden(queries.column_types(session()))
    comments = queries.column_comments(session())
    with steady_session() as own:
        every = queries.every_source(own, wanted.selection, wanted.sort)
        rows = list(islice(every, MAX_VOTABLE + 1))
        if len(rows) > MAX_VOTABLE:
            raise TooMany
        return current_app.response_class(
            votable.write(rows, types, comments),
            content_type="application/x-votable+xml",
            headers={"Content-Disposition": "attachment; filename=sources.vot"},
        )


@blueprint.get("/sources/<int:source_id>")
def one(source_id: int) -> str:
    """Show everything known about one source."""
    wanted = _wanted()
    found = queries.annotated(session(), [source_id]) if source_id < 2**63 else []
    if not found:
        raise Missing(
            f"There is no source {source_id}.",
            "The number is Skygloss's own; search by the survey's identifier on the sources page.",
        )
    source = found[0]
    picture = queries.pictures(session(), [source_id]).get(source_id)
    placed = source["ra"] is not None
    neighbours = (
        queries.neighbours(session(), source, NEIGHBOUR_RADIUS, MAX_NEIGHBOURS) if placed else []
    )
    alike = search.alike(source_id, N_ALIKE)
    beside = [*neighbours, *(alike.rows if alike else [])]
    near = queries.pictures(session(), [row["source_id"] for row in beside])
    said = queries.opinions(session(), Blend, source_id)
    pairs = queries.opinions(session(), PairFlux, source_id)
    before, after = _adjacent(wanted, source_id)
    return render_template(
        "source.html",
        wanted=wanted,
        source=source,
        source_present=[name for name, value in source.items() if value is not None],
        sexagesimal_position=sexagesimal(source["ra"], source["dec"]) if placed else None,
        comments=queries.column_comments(session()),
        opinions=queries.opinions(session(), Shred, source_id),
        agreements=[(row, blends.agreement(row.Blend), _field(row)) for row in said],
        pairs=[(row, blends.fluxes(row.PairFlux), _field(row)) for row in pairs],
        p_blend=source["p_blend"],
        blend_from=queries.BLEND,
        masks=_masks(pairs, picture),
        cutout=picture,
        addresses=cutouts.addresses(picture) if picture else None,
        missing=cutouts.missing(picture),
        scale_bar=_scale_bar(picture.CutoutSet.size, picture.CutoutSet.pixel_scale)
        if picture
        else None,
        detection=_detection(source),
        cell=_cell_of(source_id),
        neighbours=neighbours,
        alike=alike,
        pictures={key: cutouts.addresses(row) for key, row in near.items()},
        neighbour_radius=NEIGHBOUR_RADIUS,
        max_neighbours=MAX_NEIGHBOURS,
        previous=before,
        next=after,
    )


def _masks(pairs: Sequence[Row], picture: Row | None) -> blends.Masks | None:
    """Return the masks to draw over a picture: of the first version that has some."""
    for said, version, *_ in pairs:
        looked_at = said.masks and queries.looked_at(session(), said.source_id, version.id)
        if looked_at and picture:
            return blends.masks(said, version, looked_at, picture.CutoutSet)
    return None


def _field(opinion: Row) -> str:
    """Return which part of its cutout an opinion is about; empty where it is all of it."""
    version = opinion.ModelVersion
    return blends.field(version, queries.looked_at(session(), opinion[0].source_id, version.id))


def _wanted() -> parameters.Request:
    return parameters.read(queries.catalogs(session()), selections.listed(session()))


def _adjacent(wanted: parameters.Request, source_id: int) -> tuple[int | None, int | None]:
    """Return the sources before and after this one in the selection's order."""
    here = queries.position_of(session(), source_id, wanted.selection, wanted.sort)
    steps: list[dict[str, Position | None]] = [{"before": here}, {"after": here}]
    found = [
        queries.sources(session(), wanted.selection, wanted.sort, 1, **step)[1] for step in steps
    ]
    before, after = (rows[0]["source_id"] if rows else None for rows in found)
    return before, after


def _detection(source: RowMapping) -> dict[str, Any] | None:
    """Return the exposure that a source was detected on, and where; None for other sources."""
    if source["exposure_id"] is None:
        return None
    found = exposure_queries.some(session(), None, [source["exposure_id"]])[0]
    ccds = exposure_queries.ccds(session(), source["exposure_id"])
    names = {ccd.number: ccd.name for ccd in ccds}
    return {"exposure": found.Exposure, "ccd": names.get(source["ccd"], source["ccd"])}


def _cell_of(source_id: int) -> dict[str, Any] | None:
    """Return the cell that the current version of the source map, or the newest, put it into."""
    for placement, version in exposure_queries.source_placements(session(), source_id):
        if placement.cell_row is not None:
            _, shown = maps.find("source_map", version.name)
            place = (placement.cell_row, placement.cell_column)
            return {
                "placement": placement,
                "version": version,
                "address": maps.address(shown, place),
                "picture": maps.picture(shown),
            }
    return None


def _scale_bar(size: int, pixel_scale: float) -> dict[str, float]:
    """Choose a scale bar of about a quarter of the picture: length [arcsec] and share of it."""
    width = size * pixel_scale
    length = max((bar for bar in SCALE_BARS if bar <= width * 0.4), default=SCALE_BARS[0])
    return {"arcsec": length, "share": length / width}


def _csv(wanted: parameters.Request, columns: list[str]) -> Generator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    with steady_session() as own:
        rows = queries.every_source(own, wanted.selection, wanted.sort)
        for number, row in enumerate(rows, start=1):
            writer.writerow(_cell(row[column]) for column in columns)
            if number % DOWNLOAD_CHUNK == 0:
                yield _drained(buffer)
    yield _drained(buffer)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


def _drained(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
