"""Search by example: a page, and the same answer as JSON, CSV and VOTable."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from flask import Blueprint, current_app, jsonify, make_response, render_template, url_for
from sqlalchemy import ColumnElement, RowMapping
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from db import queries, search, selections
from db.queries import Selection
from db.search import Answer, Query, SearchError
from db.tables import ModelVersion
from db.uploads import Found
from web import blind, cutouts, search_parameters, votable
from web.database import session
from web.errors import Missing
from web.parameters import OPINION_WORDS, BadParameter
from web.search_parameters import MOST_K, PAGE_K, Wanted
from web.uploads import MAX_BYTES, known

blueprint = Blueprint("search", __name__)

N_SUGGESTED = 12  # sources to begin with
WAIT = 3  # seconds between looks at an upload that waits
METRIC_MEANINGS = {"l1": "sum of differences", "l2": "Euclidean", "cosine": "angle"}
SPACE_WORDS = {"reduced": "principal components", "embedding": "the encoder's whole vector"}
OWN_COLUMNS = {  # beside those of annotated_source: type and comment
    "rank": ("integer", "Place in the answer, from 1"),
    "distance": ("double precision", "Distance from the example, in the metric's own unit"),
    "metric": ("text", "What the distance is: l1, l2 or cosine"),
    "space": ("text", "Vectors compared: reduced (principal components) or embedding"),
    "version": ("text", "Model version whose representations were compared"),
    "exact": ("boolean", "Whether every representation was compared"),
}


class NoExample(BadRequest):
    """The search does not say what to be like."""

    description = "A search needs an example."
    advice = (
        "Give one of id, survey_id, ra and dec, or upload; or like, once or several times, and "
        "unlike beside it."
    )


@dataclass(frozen=True)
class Example:
    """What the one example of a search turned out to be."""

    source_id: int
    upload: Found | None = None
    separation_arcsec: float | None = None
    warning: str = ""


@dataclass(frozen=True)
class Result:
    """An answer with the rows of `annotated_source` it names, and the examples' rows."""

    answer: Answer
    rows: list[RowMapping]
    example: Example | None
    examples: dict[int, RowMapping]


@blueprint.get("/search")
def page() -> Response:
    """Show a search: its form, its examples and what looks like them."""
    wanted = search_parameters.read(queries.catalogs(session()), PAGE_K)
    upload = known(wanted.upload) if wanted.upload else None
    result, problem = None, None
    if wanted.has_example and (upload is None or upload.state == "encoded"):
        try:
            result = _find(wanted, upload)
        except Missing as error:
            problem = error
    response = make_response(_render(wanted, upload, result, problem))
    response.status_code = 404 if problem else 200
    return response


@blueprint.get("/search.json")
def answer() -> Response:
    """Answer programs; 202 while an upload waits for a worker."""
    wanted = search_parameters.read(queries.catalogs(session()), MOST_K)
    upload = known(wanted.upload) if wanted.upload else None
    if upload is not None and upload.state != "encoded":
        return _not_yet(upload)
    result = _result(wanted, upload)
    example = result.example
    facts = {
        "answer": {
            name: value
            for name, value in asdict(result.answer).items()
            if name not in ("source_ids", "distances")
        },
        "k": wanted.k,
        "warning": example.warning if example else "",
        "separation_arcsec": example.separation_arcsec if example else None,
        "examples": [_plain(row) for row in result.examples.values()],
        "sources": [
            {**_plain(row), "page": url_for("sources.one", source_id=row["source_id"])}
            for row in _ranked(result)
        ],
    }
    return jsonify(facts)


@blueprint.get("/search.csv")
def download() -> Response:
    """Send an answer as CSV: rank, distance, and the columns of `annotated_source`."""
    wanted = search_parameters.read(queries.catalogs(session()), MOST_K)
    result = _result(wanted, known(wanted.upload) if wanted.upload else None)
    columns = [*OWN_COLUMNS, *blind.without_hidden(queries.column_comments(session()))]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in _ranked(result):
        cells = (row[column] for column in columns)
        writer.writerow(json.dumps(cell) if isinstance(cell, dict) else cell for cell in cells)
    kind = "text/csv; charset=utf-8; header=present"
    return _attachment(buffer.getvalue(), kind, "search.csv", result)


@blueprint.get("/search.vot")
def votable_download() -> Response:
    """Send an answer as VOTable, with the same columns as CSV."""
    wanted = search_parameters.read(queries.catalogs(session()), MOST_K)
    result = _result(wanted, known(wanted.upload) if wanted.upload else None)
    types = {name: kind for name, (kind, _) in OWN_COLUMNS.items()}
    comments = {name: comment for name, (_, comment) in OWN_COLUMNS.items()}
    types |= blind.without_hidden(queries.column_types(session()))
    comments |= queries.column_comments(session())
    content = votable.write(_ranked(result), types, comments)
    return _attachment(content, "application/x-votable+xml", "search.vot", result)


def alike(source_id: int, n: int) -> Result | None:
    """Return what looks like a source by the current version, None if that is not quick to say."""
    try:
        version = search.version(session())
        vector = search.vector_of(session(), source_id, version)
    except SearchError:
        return None
    is_few = queries.n_represented(session(), version.id) <= search.FEW_ROWS
    if not (is_few or search.usable_index(session(), version.id, Query.metric)):
        return None
    found = search.nearest(session(), Query(vector, version.id, k=n, exclude=[source_id]))
    return Result(found, queries.annotated(session(), found.source_ids), None, {})


def _result(wanted: Wanted, upload: Found | None) -> Result:
    if not wanted.has_example:
        raise NoExample
    return _find(wanted, upload)


def _find(wanted: Wanted, upload: Found | None) -> Result:
    """Search. What is not there raises Missing, what makes no sense BadParameter."""
    version = _version(wanted)
    try:
        example = _example(wanted, upload, version)
        if example and example.source_id in wanted.unlike:
            raise BadParameter(
                "unlike", "other sources than the example", str(example.source_id), "Take it away."
            )
        like = [*([example.source_id] if example else []), *wanted.like]
        examples = _rows([*like, *wanted.unlike], upload)
        vectors, unlike = (
            [search.vector_of(session(), one, version, wanted.space) for one in ids]
            for ids in (like, wanted.unlike)
        )
        query = Query(
            vector=search.vector_of_set(np.array(vectors), np.array(unlike)),
            version_id=version.id,
            space=wanted.space,
            metric=wanted.metric,
            k=wanted.k,
            where=_condition(wanted),
            exclude=[*like, *wanted.unlike],
            exact=wanted.exact,
        )
        found = search.nearest(session(), query)
    except SearchError as error:
        raise Missing(str(error), "Search with another example.") from error
    return Result(found, queries.annotated(session(), found.source_ids), example, examples)


def _rows(source_ids: list[int], upload: Found | None) -> dict[int, RowMapping]:
    """Return the rows of the examples; only its token leads to an uploaded image."""
    rows = {row["source_id"]: row for row in queries.annotated(session(), source_ids)}
    own = upload.upload.source_id if upload else None
    unknown = [one for one in source_ids if one not in rows and one != own]
    if unknown:
        raise Missing(
            f"There is no source {unknown[0]}.",
            "The number is Skygloss's own, as in the address of a source's page.",
        )
    return rows


def _version(wanted: Wanted) -> ModelVersion:
    try:
        return search.version(session(), wanted.version)
    except SearchError as error:
        if wanted.version is not None:
            raise BadParameter(
                "version", "a version of the representations", wanted.version, str(error)
            ) from error
        raise Missing(str(error), "The status page shows how far the workers are.") from error


def _example(wanted: Wanted, upload: Found | None, version: ModelVersion) -> Example | None:
    if upload is not None:
        return Example(upload.upload.source_id, upload)
    if wanted.source_id is not None:
        return Example(wanted.source_id)
    if wanted.survey_id is not None:
        return Example(_identified(wanted))
    if wanted.position is not None:
        place = search.source_at(session(), wanted.position.ra, wanted.position.dec, version)
        return Example(place.source_id, None, place.separation_arcsec, place.warning)
    return None


def _identified(wanted: Wanted) -> int:
    """Return the number of the source with a survey's identifier."""
    assert wanted.survey_id is not None
    selection = Selection(catalog_id=wanted.catalog_id, survey_id=wanted.survey_id)
    _, rows = queries.sources(session(), selection, "catalog", 5)
    if not rows:
        where = f" in catalog {wanted.arguments['catalog']}" if wanted.catalog_id else ""
        raise Missing(
            f"There is no source {wanted.survey_id!r}{where}.",
            "Write the identifier as the survey does, or search by position.",
        )
    if len(rows) > 1:
        names = ", ".join(row["catalog"] for row in rows)
        raise BadParameter(
            "survey_id", "one source", f"sources of the catalogs {names}", "Add catalog."
        )
    return int(rows[0]["source_id"])


def _condition(wanted: Wanted) -> ColumnElement[bool] | None:
    """The filters as one condition on `annotated_source`."""
    blind.check(wanted.where)
    parts = [queries.condition(wanted.filters), wanted.where]
    if wanted.saved is not None:
        saved = selections.find(session(), wanted.saved)
        if saved is None:
            names = [one.name for one in selections.listed(session())[:20]]
            known = ", ".join(names) or "none is saved yet"
            raise BadParameter("selection", f"a saved selection ({known})", wanted.saved)
        parts.append(queries.in_saved(saved.id))
    given = [part for part in parts if part is not None]
    return sa.and_(*given) if given else None


def _render(
    wanted: Wanted, upload: Found | None, result: Result | None, problem: Missing | None
) -> str:
    suggested = _suggested() if result is None and upload is None else []
    rows = [*result.rows, *result.examples.values()] if result else suggested
    shown = queries.pictures(session(), [row["source_id"] for row in rows])
    states = [row.state for row in queries.workers(session())]
    return render_template(
        "search.html",
        wanted=wanted,
        upload=upload,
        result=result,
        problem=problem,
        suggested=suggested,
        pictures={source_id: cutouts.addresses(row) for source_id, row in shown.items()},
        missing={row["source_id"]: cutouts.missing(shown.get(row["source_id"])) for row in rows},
        comments=queries.column_comments(session()),
        catalogs=queries.catalogs(session()),
        saved=selections.listed(session()),
        worker_alive="alive" in states,
        wait=WAIT,
        metric_words={
            metric: f"{search.METRIC_WORDS[metric]}, {meaning}"
            for metric, meaning in METRIC_MEANINGS.items()
        },
        space_words=SPACE_WORDS,
        opinion_words=OPINION_WORDS,
        max_megabytes=MAX_BYTES // 2**20,
    )


def _suggested() -> list[RowMapping]:
    """Some sources to begin with."""
    version_id = queries.current_version_id(session(), search.ANNOTATOR)
    if version_id is None:
        return []
    return queries.represented(session(), version_id, N_SUGGESTED)


def _not_yet(upload: Found) -> Response:
    facts = {"state": upload.state, "error": upload.error, "flags": upload.flags}
    response = jsonify({**facts, "upload": url_for("uploads.state", token=upload.upload.token)})
    response.headers["Retry-After"] = str(WAIT)
    response.status_code = 202 if upload.state == "waiting" else 422
    return response


def _ranked(result: Result) -> list[dict[str, Any]]:
    """The rows of an answer with the columns of OWN_COLUMNS in front."""
    found = result.answer
    facts = {name: getattr(found, name) for name in ("metric", "space", "version", "exact")}
    pairs = zip(result.rows, found.distances, strict=True)
    return [
        {"rank": rank, "distance": distance, **facts, **row}
        for rank, (row, distance) in enumerate(pairs, start=1)
    ]


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = blind.without_hidden(row)
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in shown.items()}


def _attachment(content: str | bytes, kind: str, name: str, result: Result) -> Response:
    headers = {
        "Content-Disposition": f"attachment; filename={name}",
        "Skygloss-Answer": result.answer.how.encode("ascii", "replace").decode(),
    }
    return current_app.response_class(content, content_type=kind, headers=headers)
