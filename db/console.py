"""What the commands share: the database with a readable error, a progress bar, JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from sqlalchemy import Engine, select

from db import schema, uploads
from db.engine import create_engine
from db.tables import Catalog

BAR = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


def open_database() -> Engine:
    """Return an engine for a database at the migration this code expects."""
    engine = create_engine()
    schema.check(engine)
    return engine


def catalog_id(engine: Engine, name: str) -> int:
    """Return the number of a catalog, or name the catalogs there are."""
    with engine.connect() as connection:
        ours = Catalog.survey != uploads.SURVEY
        ids = dict(connection.execute(select(Catalog.name, Catalog.id).where(ours)).all())
    if name not in ids:
        there = ", ".join(sorted(ids)) or "none yet"
        raise click.ClickException(f"there is no catalog {name!r}; there are: {there}")
    return ids[name]


def emit(report: Any) -> None:
    """Print a report for machines."""
    click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def print_table(title: str, heads: Sequence[str], rows: Sequence[Any]) -> None:
    """Print rows for people; nothing if there are none."""
    if not rows:
        return
    table = Table(*heads, title=title, title_justify="left", box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


@contextmanager
def friendly_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that explain themselves into a message and exit code 1."""
    try:
        yield
    except kinds as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def progress_bar(what: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr; yields a function that takes the number of further items done."""
    with Progress(*BAR, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)
