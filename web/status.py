"""How far everything is: catalogs and what they rejected, progress, workers, failures."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, render_template

from db import jobs, queries
from web.database import session
from web.errors import Missing
from web.parameters import encode_position, read_positions

blueprint = Blueprint("status", __name__)

REJECTIONS_PER_PAGE = 200


@blueprint.get("/status")
def status() -> str:
    """Show the state of catalogs, models, workers and failed jobs."""
    files: dict[int, list[queries.CatalogFile]] = {}
    for file in queries.catalog_files(session()):
        files.setdefault(file.catalog_id, []).append(file)
    return render_template(
        "status.html",
        now=datetime.now(UTC),
        catalogs=queries.catalogs(session()),
        files=files,
        progress=jobs.progress(session()),
        workers=queries.workers(session()),
        failed=queries.failed_jobs(session()),
    )


@blueprint.get("/catalogs/<path:name>/rejections")
def rejections(name: str) -> str:
    """List the rows of a catalog's files that could not become sources."""
    catalog = next((found for found in queries.catalogs(session()) if found.name == name), None)
    if catalog is None:
        raise Missing(f"There is no catalog {name!r}.", "The status page lists the catalogs.")
    after, before = read_positions("rejections")
    page = queries.rejections(session(), catalog.id, REJECTIONS_PER_PAGE, after, before)
    return render_template(
        "rejections.html",
        catalog=catalog,
        rows=page.rows,
        previous=encode_position(page.previous, "rejections"),
        next=encode_position(page.next, "rejections"),
    )
