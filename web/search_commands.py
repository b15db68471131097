"""The command `skygloss search`: the search of the pages, in a terminal.

It is here because images are framed, and VOTables written, as the pages do it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy import ColumnElement, Engine, RowMapping
from sqlalchemy.orm import Session

from db import console, home, pictures, queries, search, uploads
from db.engine import session_factory
from db.predicates import PredicateError, annotated_source, parse
from db.queries import Selection
from db.search import METRICS, Answer, Query, SearchError
from db.tables import ModelVersion
from web import votable
from web.framing import frame
from web.parameters import BadParameter, read_cone
from web.search import OWN_COLUMNS

POLL = 0.5  # seconds between looks at an upload that waits
TIMEOUT = 60.0  # seconds
SHOWN = ("source_id", "survey_id", "ra", "dec")  # in the table, before distance and p_shred
DIGITS = {"ra": ".5f", "dec": "+.5f", "distance": ".4f", "p_shred": ".3f"}


@click.command("search")
@click.option("--id", "source_id", type=int, help="Like this source, by Skygloss's number.")
@click.option("--survey-id", help="Like the source with this identifier of its survey.")
@click.option("--at", nargs=2, metavar="RA DEC", help="Like the source here [deg or sexagesimal].")
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Like the picture in this PNG, JPEG or FITS file; a running worker encodes it.",
)
@click.option(
    "--pixel-scale",
    type=click.FloatRange(0, 60, min_open=True),
    help="Of the image [arcsec/pixel].",
)
@click.option("--like", type=int, multiple=True, help="More like this source; may be repeated.")
@click.option("--unlike", type=int, multiple=True, help="Less like this source; may be repeated.")
@click.option("--catalog", help="Only in this catalog.")
@click.option("--where", help="Only what fulfils this, like 'mag_r < 18 AND p_shred < 0.1'.")
@click.option(
    "-k",
    type=click.IntRange(1, search.MAX_K),
    default=10,
    show_default=True,
    help="Neighbours wanted.",
)
@click.option(
    "--metric", type=click.Choice(list(METRICS)), default="l1", show_default=True, help="Distance."
)
@click.option(
    "--space",
    type=click.Choice(["reduced", "embedding"]),
    default="reduced",
    show_default=True,
    help="Principal components, or the encoder's whole vector.",
)
@click.option("--exact", is_flag=True, help="Compare every source, even if there is an index.")
@click.option("--version", "version_name", help="Model version.  [default: the current one]")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=TIMEOUT,
    show_default=True,
    help="Longest wait for a worker to encode an image [s].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer for machines.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the answer to a CSV file.",
)
@click.option(
    "--vot",
    "vot_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the answer to a VOTable.",
)
def search_command(
    as_json: bool, csv_file: Path | None, vot_file: Path | None, **options: Any
) -> None:
    """Find sources that look like others.

    Give one example (--id, --survey-id, --at or --image), several (--like), or what not to be like
    beside them (--unlike). The last line says how the answer was found, and how exact it is.
    """
    engine = console.open_database()
    with (
        console.friendly_errors(
            SearchError,
            PredicateError,
            pictures.UnknownFormat,
            pictures.UnusablePicture,
            uploads.UploadRefused,
        ),
        session_factory(engine)() as session,
    ):
        answer = _find(engine, session, options, quiet=as_json)
        rows = _ranked(answer, queries.annotated(session, answer.source_ids))
        if csv_file is not None:
            _write_csv(csv_file, rows, [*OWN_COLUMNS, *queries.column_comments(session)])
        if vot_file is not None:
            vot_file.write_bytes(_votable(session, rows))
    if as_json:
        console.emit(_facts(answer, rows))
    else:
        _show(answer, rows)
        for file in filter(None, (csv_file, vot_file)):
            click.echo(f"Written to {file}.")


def _find(engine: Engine, session: Session, options: Mapping[str, Any], quiet: bool) -> Answer:
    version = search.version(session, options["version_name"])
    catalog_id = console.catalog_id(engine, options["catalog"]) if options["catalog"] else None
    where = _condition(options)  # before anything slow
    example = _example(engine, session, version, options, catalog_id, quiet)
    like = [*example, *options["like"]]
    if not like:
        raise click.UsageError(
            "Give an example: --id, --survey-id, --at, --image, or --like once or several times."
        )
    if both := sorted(set(like) & set(options["unlike"])):
        raise click.UsageError(
            f"Source {both[0]} is both an example and given to --unlike; choose one of the two."
        )
    wanted, unwanted = (
        [search.vector_of(session, one, version, options["space"]) for one in ids]
        for ids in (like, options["unlike"])
    )
    return search.nearest(
        session,
        Query(
            vector=search.vector_of_set(np.array(wanted), np.array(unwanted)),
            version_id=version.id,
            space=options["space"],
            metric=options["metric"],
            k=options["k"],
            where=where,
            exclude=[*like, *options["unlike"]],
            exact=options["exact"],
        ),
    )


def _condition(options: Mapping[str, Any]) -> ColumnElement[bool] | None:
    parts = []
    if options["catalog"]:
        parts.append(annotated_source.c.catalog == options["catalog"])
    if options["where"] is not None:
        parts.append(parse(options["where"]))
    return sa.and_(*parts) if parts else None


def _example(
    engine: Engine,
    session: Session,
    version: ModelVersion,
    options: Mapping[str, Any],
    catalog_id: int | None,
    quiet: bool,
) -> list[int]:
    """Return the number of the one source that the options name, if they name one."""
    given = [
        name for name in ("source_id", "survey_id", "at", "image") if options[name] is not None
    ]
    if len(given) > 1:
        raise click.UsageError("Give only one of --id, --survey-id, --at and --image; see --like.")
    if not given:
        return []
    if given == ["source_id"]:
        return [options["source_id"]]
    if given == ["survey_id"]:
        return [_identified(session, options["survey_id"], catalog_id)]
    if given == ["at"]:
        return [_source_at(session, version, *options["at"])]
    return [_uploaded(engine, options, quiet)]


def _identified(session: Session, survey_id: str, catalog_id: int | None) -> int:
    selection = Selection(catalog_id=catalog_id, survey_id=survey_id)
    _, rows = queries.sources(session, selection, "catalog", 5)
    if len(rows) > 1:
        catalogs = ", ".join(row["catalog"] for row in rows)
        raise click.ClickException(
            f"{survey_id} is in the catalogs {catalogs}: choose one with --catalog."
        )
    if not rows:
        raise click.ClickException(
            f"there is no source {survey_id!r}; expected a survey's identifier"
        )
    number: int = rows[0]["source_id"]
    return number


def _source_at(session: Session, version: ModelVersion, ra: str, dec: str) -> int:
    try:
        cone = read_cone({"ra": ra, "dec": dec})
    except BadParameter as error:
        raise click.ClickException(f"{error.description} (--at {ra} {dec})") from error
    assert cone is not None
    place = search.source_at(session, cone.ra, cone.dec, version)
    found = f"The source {place.survey_id} is there, {place.separation_arcsec:.2f} arcsec away."
    click.echo(place.warning or found, err=True)
    return place.source_id


def _uploaded(engine: Engine, options: Mapping[str, Any], quiet: bool) -> int:
    """Store an image as the pages do, and wait until a worker has encoded it."""
    content = options["image"].read_bytes()
    decoded = pictures.decode(content)
    with session_factory(engine)() as session:
        layout = uploads.wanted_layout(session)
    framed = frame(decoded, layout, options["pixel_scale"])
    image = uploads.Image(
        pixels=framed.pixels,
        layout=layout,
        file_name=options["image"].name,
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=decoded.media_type,
        note=framed.note,
        flags=framed.flags,
    )
    token = uploads.store(engine, home.pixels(), image)
    with Console(stderr=True, quiet=quiet).status(f"{framed.note}; waiting for a worker …"):
        return _encoded(engine, token, options["timeout"])


def _encoded(engine: Engine, token: str, timeout: float) -> int:
    """Wait for a worker to encode an upload; the number of its source."""
    deadline = time.monotonic() + timeout
    while True:
        with session_factory(engine)() as session:
            found = uploads.find(session, token)
            alive = any(row.state == "alive" for row in queries.workers(session))
        if found is None:
            raise click.ClickException("the image was deleted before a worker saw it; try again")
        if found.state == "failed":
            raise click.ClickException(f"the encoder failed on this image: {found.error}")
        if found.state != "waiting":
            return found.upload.source_id
        if not alive:
            raise click.ClickException(
                "no worker is running to encode the image: start one with `skygloss worker`, in "
                "another terminal, and search again."
            )
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"no worker has encoded the image within {timeout:g} s; they may be busy "
                "(`skygloss status`). It is kept: search again later, or raise --timeout."
            )
        time.sleep(POLL)


def _ranked(answer: Answer, rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """Rows of an answer with the columns of OWN_COLUMNS in front."""
    distances = dict(zip(answer.source_ids, answer.distances, strict=True))
    facts = {name: getattr(answer, name) for name in ("metric", "space", "version", "exact")}
    return [
        {"rank": rank, "distance": distances[row["source_id"]], **facts, **row}
        for rank, row in enumerate(rows, start=1)
    ]


def _write_csv(file: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        for row in rows:
            cells = (row[column] for column in columns)
            writer.writerow(json.dumps(cell) if isinstance(cell, dict) else cell for cell in cells)


def _votable(session: Session, rows: list[dict[str, Any]]) -> bytes:
    types = {name: kind for name, (kind, _) in OWN_COLUMNS.items()}
    comments = {name: comment for name, (_, comment) in OWN_COLUMNS.items()}
    types |= queries.column_types(session)
    comments |= queries.column_comments(session)
    return votable.write(rows, types, comments)


def _facts(answer: Answer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("metric", "version", "space", "exact", "recall", "recall_k", "n_newer", "how")
    return {"answer": {name: getattr(answer, name) for name in names}, "sources": rows}


def _show(answer: Answer, rows: list[dict[str, Any]]) -> None:
    columns = ("rank", *SHOWN, "distance", "p_shred")
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*_cells(row, columns))
    screen = Console()
    screen.print(table)
    screen.print(
        f"{answer.how}\nModel version {answer.version}, metric {answer.metric}.",
        markup=False,
        highlight=False,
    )


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        value = row[column]
        yield "–" if value is None else format(value, DIGITS.get(column, ""))
