"""Exposures: the list of a selection, and everything known about one.

What is read is for `db.exposure_queries` to say; the maps have their pages in `web.maps`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from flask import Blueprint, current_app, jsonify, make_response, render_template, request
from werkzeug.wrappers import Response

from db import exposure_queries, maps, queries
from db.exposure_queries import SORTS, Flagged, Histogram, Wanted
from db.home import pixels as pixel_store
from db.maps import Map, Place
from db.tables import Exposure, ExposureCell, LabelClass
from web import cutouts, exposure_cards, map_pictures
from web.database import session
from web.errors import Missing
from web.formats import sexagesimal
from web.map_versions import versions
from web.maps import address, find, only, picture
from web.parameters import (
    MAX_BIGINT,
    BadParameter,
    encode_position,
    read_arguments,
    read_catalog,
    read_choice,
    read_number,
    read_positions,
)

blueprint = Blueprint("exposures", __name__)

PAGE_SIZE = 48
SOURCE_PAGE = 120
N_ALIKE = 8
FILTERS = ("catalog", "band", "name", "label", "propagated", "flagged", "cell", "version", "sort")
SORT_WORDS = {
    "catalog": "catalog and name",
    "-mjd": "time, latest first",
    "mjd": "time, earliest first",
    "-error": "distance to the prototype, largest first",
}
FLAGGED_WORDS = {
    "any": "any",
    "clean": "without data problem",
    "flagged": "with a data problem",
    "novel": "novel: far from every prototype",
    "unplaced": "without a cell",
}
BORDERLINE = 0.1  # of the distance to the prototype: a margin below is called borderline


@dataclass(frozen=True)
class Request:
    """Which exposures are wanted, on which map, in which order."""

    wanted: Wanted
    shown: Map | None
    sort: str
    arguments: dict[str, str]

    def link(self, **changes: str | None) -> dict[str, str]:
        """Return the arguments of a link to the same exposures with changes, None drops one."""
        merged = {**self.arguments, **changes}
        return {name: word for name, word in merged.items() if word}


@blueprint.get("/exposures")
def listing() -> str:
    """Show a page of the exposures that are wanted."""
    asked = _asked(paged=True)
    after, before = read_positions(asked.sort)
    page = exposure_queries.listed(
        session(), asked.wanted, asked.shown, asked.sort, PAGE_SIZE, after, before, only()
    )
    return render_template(
        "exposures.html",
        asked=asked,
        rows=page.rows,
        cards=exposure_cards.cards(page.rows, asked.shown),
        total=exposure_queries.count(session(), asked.wanted, asked.shown, only()),
        catalogs=[one for one in queries.catalogs(session()) if one.survey == "exposure"],
        bands=exposure_queries.bands(session()),
        classes=maps.label_classes(session()),
        sort_words=SORT_WORDS,
        flagged_words=FLAGGED_WORDS,
        blind=only() is not None,
        address=address,
        previous=encode_position(page.previous, asked.sort),
        next=encode_position(page.next, asked.sort),
    )


@blueprint.get("/exposures/<int:exposure_id>")
def one(exposure_id: int) -> str:
    """Show everything known about one exposure."""
    asked = _asked()
    row = _found(exposure_id, asked.shown)
    card = exposure_cards.cards([row], asked.shown)[exposure_id]
    counted = exposure_cards.source_map(asked.shown)
    histogram = exposure_queries.histogram(session(), exposure_id, counted) if counted else None
    alike = _alike(exposure_id, asked.shown)
    exposure = row.Exposure
    return render_template(
        "exposure.html",
        asked=asked,
        card=card,
        exposure=exposure,
        position=None if exposure.ra is None else sexagesimal(exposure.ra, exposure.dec),
        comments=_comments(),
        ccds=exposure_queries.ccds(session(), exposure_id),
        placements=exposure_queries.placements(session(), exposure_id),
        cell_words=_cell_words(asked.shown, row.ExposureCell),
        picture=picture(asked.shown) if asked.shown else None,
        source_map=counted,
        histogram=histogram,
        bars=map_pictures.bars(histogram.counts, 625, 60) if histogram else None,
        alike=alike,
        cards=exposure_cards.cards([row for row, _ in alike], asked.shown),
        subject=f"exposure:{exposure_id}",
        address=address,
        **_adjacent(asked, row),
    )


@blueprint.get("/exposures/<int:exposure_id>/sources")
def sources(exposure_id: int) -> str:
    """Show the sampled sources of an exposure, all or those on one CCD."""
    arguments = read_arguments(("ccd", "after", "before"))
    ccd = _whole(arguments, "ccd", 32_767, "the number of a CCD, as on the page of the exposure")
    after, before = read_positions("source")
    row = _found(exposure_id, None)
    page = exposure_queries.source_page(session(), exposure_id, ccd, SOURCE_PAGE, after, before)
    pictures = queries.pictures(session(), [one.Source.id for one in page.rows])
    return render_template(
        "exposure_sources.html",
        exposure=row.Exposure,
        ccd=ccd,
        ccds=exposure_queries.ccds(session(), exposure_id),
        rows=page.rows,
        pictures={key: cutouts.addresses(drawn) for key, drawn in pictures.items()},
        missing={one.Source.id: cutouts.missing(pictures.get(one.Source.id)) for one in page.rows},
        previous=encode_position(page.previous, "source"),
        next=encode_position(page.next, "source"),
    )


@blueprint.get("/exposures/<int:exposure_id>/preview.jpg")
def preview(exposure_id: int) -> Response:
    """Show the picture of an exposure."""
    exposure = _found(exposure_id, None).Exposure
    root: Path = current_app.config["PIXELS"] or pixel_store()
    if exposure.preview is None:
        return cutouts.placeholder("no picture")
    file = (root / exposure.preview).resolve()
    if not file.is_relative_to(root.resolve()) or not file.is_file():
        current_app.logger.error("preview of exposure %s is not at %s", exposure_id, file)
        return cutouts.placeholder("picture not found on this server")
    response = make_response(file.read_bytes(), {"Content-Type": "image/jpeg"})
    return _kept(response, exposure_cards.preview_token(exposure))


@blueprint.get("/exposures/<int:exposure_id>/density.png")
def density_map(exposure_id: int) -> Response:
    """Draw an exposure's histogram on the grid of the source map."""
    exposure, histogram, counted = _histogram(exposure_id)
    drawn = map_pictures.histogram(histogram.counts, histogram.weight or 1.0)
    response = make_response(drawn, {"Content-Type": "image/png"})
    return _kept(response, exposure_cards.density_token(exposure, counted))


@blueprint.get("/exposures/<int:exposure_id>/histogram.json")
def histogram_json(exposure_id: int) -> Response:
    """Give an exposure's histogram as JSON, row by row of the source map."""
    exposure, histogram, counted = _histogram(exposure_id)
    return jsonify(
        {
            "exposure_id": exposure.id,
            "name": exposure.name,
            "source_map": counted.version.name,
            "n_detected": exposure.n_detected,
            "n_counted": histogram.n_counted,
            "weight": histogram.weight,
            "counts": np.round(histogram.counts.astype(float), 3).tolist(),
        }
    )


@blueprint.get("/exposures/<int:exposure_id>/histogram.csv")
def histogram_csv(exposure_id: int) -> Response:
    """Give an exposure's histogram as CSV, a line for each cell of the source map."""
    _, histogram, _ = _histogram(exposure_id)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("cell_row", "cell_column", "count"))
    for (row, column), n in np.ndenumerate(histogram.counts):
        writer.writerow((row, column, f"{n:g}"))
    response = make_response(buffer.getvalue(), {"Content-Type": "text/csv; charset=utf-8"})
    response.headers["Content-Disposition"] = f"attachment; filename=histogram-{exposure_id}.csv"
    return response


def _asked(paged: bool = False) -> Request:
    """Read which exposures the address asks for."""
    arguments = read_arguments((*FILTERS, *(("after", "before") if paged else ())))
    shown = find("exposure_map", arguments.get("version"))[1] if versions("exposure_map") else None
    classes = maps.label_classes(session())
    wanted = Wanted(
        catalog_id=read_catalog(arguments, queries.catalogs(session())),
        band=arguments.get("band"),
        name=arguments.get("name"),
        label=_label(arguments, "label", classes),
        propagated=None if only() is not None else _label(arguments, "propagated", classes),
        flagged=cast(Flagged, read_choice(arguments, "flagged", get_args(Flagged), "any")),
        place=_cell(arguments),
    )
    sort = read_choice(arguments, "sort", SORTS, "catalog")
    kept = {name: word for name, word in arguments.items() if name not in ("after", "before")}
    return Request(wanted, shown, sort, kept)


def _label(arguments: dict[str, str], name: str, classes: dict[int, LabelClass]) -> int | None:
    what = "the number of a label class, as on the page of the labels"
    given = _whole(arguments, name, MAX_BIGINT, what)
    if given is not None and given not in classes:
        raise BadParameter(name, what, arguments[name])
    return given


def _whole(arguments: dict[str, str], name: str, most: int, what: str) -> int | None:
    given = read_number(arguments, name, 0, most, what)
    if given is not None and not arguments[name].isdecimal():
        raise BadParameter(name, what, arguments[name])
    return None if given is None else int(arguments[name])


def _cell(arguments: dict[str, str]) -> Place | None:
    word = arguments.get("cell")
    if word is None:
        return None
    parts = word.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise BadParameter("cell", "row and column of a cell, like 3,12", word)
    row, column = (min(int(part), 32_767) for part in parts)
    return row, column


def _found(exposure_id: int, shown: Map | None) -> Any:
    found = exposure_queries.some(session(), shown, [min(exposure_id, MAX_BIGINT)])
    if not found:
        raise Missing(
            f"There is no exposure {exposure_id}.",
            "The number is Skygloss's own; look for the name on the page of the exposures.",
        )
    return found[0]


def _histogram(exposure_id: int) -> tuple[Exposure, Histogram, Map]:
    """Return an exposure's histogram over the source map that is asked for."""
    arguments = read_arguments(("version", "v"))
    exposure = _found(exposure_id, None).Exposure
    counted = find("source_map", arguments.get("version"))[1]
    histogram = exposure_queries.histogram(session(), exposure_id, counted)
    if histogram is None:
        raise Missing(
            f"Exposure {exposure.name} has no histogram over {counted.version.name}.",
            "A worker makes it when the exposure's sources have their cells: skygloss annotate.",
        )
    return exposure, histogram, counted


def _kept(response: Response, token: str) -> Response:
    named = request.args.get("v") == token
    response.headers["Cache-Control"] = cutouts.FOR_EVER if named else "no-cache"
    return response


def _alike(exposure_id: int, shown: Map | None) -> list[tuple[Any, float]]:
    """Return the exposures that are most like one, with their distances."""
    if shown is None:
        return []
    near = exposure_queries.nearest(session(), exposure_id, shown.version.id, N_ALIKE)
    rows = exposure_queries.some(session(), shown, [row.id for row in near])
    return [(row, near[k].distance) for k, row in enumerate(rows)]


def _cell_words(shown: Map | None, cell: ExposureCell | None) -> list[str]:
    """Say how well an exposure fits its cell."""
    if shown is None or cell is None or cell.cell_row is None or cell.cell_column is None:
        return []
    error, margin = cell.quantization_error or 0.0, cell.margin or 0.0
    closer, n = maps.n_closer(session(), shown, (cell.cell_row, cell.cell_column), error)
    words = [
        f"Distance to the prototype {error:.3g}: {closer} of {n - 1} other members of the cell "
        "closer."
        if n > 1
        else f"Distance to the prototype {error:.3g}; it is the only member of the cell."
    ]
    near = "Borderline: the" if margin < BORDERLINE * error else "The"
    words.append(f"{near} second nearest prototype is {margin:.3g} farther.")
    if cell.flags & maps.NOVEL_EXPOSURE:
        words.append("Novel: it lies far from every prototype, so that no label is carried to it.")
    return words


def _comments() -> dict[str, dict[str, str]]:
    """Return the comments of the columns that the page of an exposure shows."""
    return {
        name: queries.column_comments(session(), name)
        for name in ("exposure", "ccd", "exposure_cell")
    }


def _adjacent(asked: Request, row: Any) -> dict[str, int | None]:
    """Return the exposures before and after this one in the list that was asked for."""
    here = exposure_queries.position_of(session(), asked.shown, row.Exposure.id, asked.sort)
    found = {}
    for name, step in (("previous", {"before": here}), ("next", {"after": here})):
        page = exposure_queries.listed(
            session(), asked.wanted, asked.shown, asked.sort, 1, **step, only=only()
        )
        found[name] = page.rows[0].Exposure.id if page.rows else None
    return found
