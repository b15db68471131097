"""Projections: all sources on a plane as a density, to zoom into, with sources to look at.

What is in a view (`web.projection_views`) is read by `db.projections`. Saving what a lasso caught
is for `web.selections`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flask import Blueprint, jsonify, make_response, render_template, request, url_for
from numpy.typing import NDArray
from sqlalchemy import RowMapping
from werkzeug.wrappers import Response

from db import projections, queries
from db.lasso import MAX_CORNERS
from db.morton import FINEST
from db.projections import Frame, Window
from db.tables import ModelVersion, Projection
from web import cutouts, density
from web.database import session
from web.errors import Missing
from web.parameters import MAX_BIGINT, BadParameter, read_arguments, read_number
from web.projection_views import MAX_ZOOM, N_TILES, TILE_DEPTH, View, around, exists

blueprint = Blueprint("projections", __name__)

SOURCE_ZOOM = 4  # where a source is shown on the projection
HOVER_DEPTH = 3  # levels from a view's tiles to the squares that the pointer tells apart
BIN_DEPTHS = ((50_000, 4), (math.inf, 5))  # levels from tiles to bins, by n_points
PICTURE = 0.33  # tile: half of a picture with its margin, so that none hides another
CROWD = 5_000  # sources in view above which pictures would only hide where they are
CLOSE = 3  # zoom from which pictures are shown however many sources there are


class Found(NamedTuple):
    """A projection with the model version whose representations it shows."""

    projection: Projection
    version: ModelVersion

    @property
    def frame(self) -> Frame:
        """The square that it fills, in its own coordinates."""
        return projections.frame(self.projection)


@blueprint.get("/projections")
def listing() -> str:
    """List the projections."""
    return render_template("projections.html", rows=projections.listed(session()))


@blueprint.get("/projections/<name>")
def page(name: str) -> str:
    """Show a view of a projection with some of the sources in it."""
    found = find(name)
    arguments = read_arguments(("zoom", "x", "y", "source"))
    marked = _marked(found, arguments)
    view = _view(found, arguments, marked)
    counts = projections.density(session(), found.projection.id, view.window, bins(found, view))
    tiles = _tiles(found, view)
    rows = {row["source_id"]: row for row in queries.annotated(session(), list(tiles))}
    pictures = queries.pictures(session(), list(rows))
    n = int(counts.sum())
    return render_template(
        "projection.html",
        projection=found.projection,
        version=found.version,
        frame=found.frame,
        view=view,
        n=n,
        most=int(counts.max(initial=0)),
        tiles=tiles,
        rows=rows,
        pictures={key: cutouts.addresses(row) for key, row in pictures.items()},
        missing={key: cutouts.missing(pictures.get(key)) for key in rows},
        show_pictures=n <= CROWD or view.zoom >= CLOSE,
        mark=view.in_view(*marked) if marked else None,
        moves={word: address(found, to) if to else None for word, to in view.beside().items()},
        corners=_corners(found, view),
        max_zoom=MAX_ZOOM,
        max_corners=MAX_CORNERS,
    )


@blueprint.get("/projections/<name>/<int:zoom>/<int:column>/<int:row>.png")
def picture(name: str, zoom: int, column: int, row: int) -> Response:
    """Draw the density of a view."""
    found = find(name)
    if not exists(zoom, column, row):
        raise Missing(
            f"Projection {name!r} has no view {zoom}/{column}/{row}.",
            "The page of the projection shows the views there are.",
        )
    view = View(zoom, column, row)
    counts = projections.density(session(), found.projection.id, view.window, bins(found, view))
    response = make_response(density.png(counts), {"Content-Type": "image/png"})
    named = request.args.get("v") == str(found.projection.id)
    response.headers["Cache-Control"] = cutouts.FOR_EVER if named else "no-cache"
    return response


@blueprint.get("/density/scale.png")
def scale() -> Response:
    """Draw the colours from a single source to the most that a square has."""
    headers = {"Content-Type": "image/png", "Cache-Control": "public, max-age=86400"}
    return make_response(density.scale(), headers)


@blueprint.get("/projections/<name>/at.json")
def at(name: str) -> Response:
    """Name a source in the small square around a place, and how many are there."""
    found = find(name)
    arguments = read_arguments(("zoom", "x", "y"))
    zoom = _zoom(arguments, 0)
    level = min(zoom + TILE_DEPTH + HOVER_DEPTH, FINEST)
    column, row = np.floor(_place(found, arguments, (0.5, 0.5)) * (1 << level)).astype(int)
    last = (1 << level) - 1
    window = Window(level, min(int(column), last), min(int(row), last))
    examples = projections.examples(session(), found.projection.id, window)
    sources = queries.annotated(session(), [one.source_id for one in examples])
    if not sources:
        return jsonify({"n": 0})
    return jsonify({"n": examples[0].n, **_facts(sources[0])})


def find(name: str) -> Found:
    """Return a projection by its name, or answer 404 with those that there are."""
    row = projections.find(session(), name) if "\0" not in name else None
    if row is None:
        there = ", ".join(one.Projection.name for one in projections.listed(session())[:20])
        raise Missing(
            f"There is no projection {name!r}.",
            f"There are: {there}." if there else "None was made yet: skygloss projection build.",
        )
    return Found(row.Projection, row.ModelVersion)


def bins(found: Found, view: View) -> int:
    """Return how many levels the bins of a picture are finer than the tiles of its view."""
    wanted = next(depth for most, depth in BIN_DEPTHS if found.projection.n_points <= most)
    return min(wanted, FINEST - view.window.level)


def _zoom(arguments: Mapping[str, str], default: int) -> int:
    what = f"a whole number from 0 to {MAX_ZOOM}"
    given = read_number(arguments, "zoom", 0, MAX_ZOOM, what)
    if given is not None and given != int(given):
        raise BadParameter("zoom", what, arguments["zoom"])
    return default if given is None else int(given)


def _place(
    found: Found, arguments: Mapping[str, str], default: tuple[float, float]
) -> NDArray[np.float64]:
    """Read x and y, in the projection's coordinates, as a place on the unit square."""
    frame = found.frame
    x = read_number(arguments, "x", frame.x_min, frame.x_max, _between(frame.x_min, frame.x_max))
    y = read_number(arguments, "y", frame.y_min, frame.y_max, _between(frame.y_min, frame.y_max))
    given = frame.unit([[math.nan if x is None else x, math.nan if y is None else y]])[0]
    place: NDArray[np.float64] = np.where(np.isnan(given), default, given)
    return place


def _between(low: float, high: float) -> str:
    return f"a number from {low:g} to {high:g}, the edges of the projection"


def _marked(found: Found, arguments: Mapping[str, str]) -> tuple[float, float] | None:
    """Return where the source to be marked is on the unit square."""
    word = arguments.get("source")
    if word is None:
        return None
    if not (word.isascii() and word.isdecimal() and int(word) <= MAX_BIGINT):
        raise BadParameter("source", "the number of a source, as in its address", word)
    there = projections.place(session(), found.projection.id, int(word))
    if there is None:
        raise Missing(
            f"Source {word} is not on projection {found.projection.name!r}.",
            "It had no representation when the projection was made, or it is an uploaded image.",
        )
    x, y = found.frame.unit([there])[0]
    return float(x), float(y)


def _view(found: Found, arguments: Mapping[str, str], marked: tuple[float, float] | None) -> View:
    """Read the view that is asked for; it is moved so that all of it is on the projection."""
    zoom = _zoom(arguments, SOURCE_ZOOM if marked else 0)
    return around(zoom, *_place(found, arguments, marked or (0.5, 0.5)))


def _tiles(found: Found, view: View) -> dict[int, dict[str, Any]]:
    """Return, by its example, each tile that has sources: how many, and where it is in view."""
    examples = projections.examples(session(), found.projection.id, view.window)
    tiles = {}
    for one in examples:
        x, y = view.in_view(*found.frame.unit([(one.x, one.y)])[0].tolist())
        left = min(max(math.floor(x), 0), N_TILES - 1)
        top = min(max(math.ceil(y) - 1, 0), N_TILES - 1)
        closer = around(min(view.zoom + 1, MAX_ZOOM), *view.on_square(left + 0.5, top + 0.5))
        tiles[one.source_id] = {
            "n": one.n,
            "left": left,
            "top": top,
            "x": min(max(x, left + PICTURE), left + 1 - PICTURE),
            "y": min(max(y, top + PICTURE), top + 1 - PICTURE),
            "closer": address(found, closer),
        }
    return tiles


def address(found: Found, view: View) -> str:
    """Return the address of a view."""
    (x, y), frame = view.centre, found.frame
    return url_for(
        "projections.page",
        name=found.projection.name,
        zoom=view.zoom or None,
        x=f"{frame.x_min + x * (frame.x_max - frame.x_min):.6g}" if view.zoom else None,
        y=f"{frame.y_min + y * (frame.y_max - frame.y_min):.6g}" if view.zoom else None,
    )


def _corners(found: Found, view: View) -> list[list[float]]:
    """Return the view as a polygon in the projection's coordinates."""
    frame = found.frame
    ends = ((0, N_TILES), (N_TILES, N_TILES), (N_TILES, 0), (0, 0))
    places = [view.on_square(*end) for end in ends]
    sides = (frame.x_max - frame.x_min, frame.y_max - frame.y_min)
    return [
        [round(frame.x_min + x * sides[0], 6), round(frame.y_min + y * sides[1], 6)]
        for x, y in places
    ]


def _facts(row: RowMapping) -> dict[str, Any]:
    """Return what the pointer shows of a source."""
    source_id = row["source_id"]
    drawn = queries.pictures(session(), [source_id]).get(source_id)
    thumbnail = None
    if drawn is not None and not cutouts.missing(drawn):
        thumbnail = cutouts.addresses(drawn)["thumbnail"]
    return {
        "source_id": source_id,
        "survey_id": row["survey_id"],
        "page": url_for("sources.one", source_id=source_id),
        "thumbnail": thumbnail,
    }
