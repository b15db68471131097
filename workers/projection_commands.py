"""The commands `skygloss projection build`, `list` and `delete`."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from db import console, layouts, model_versions, names, projections
from db.engine import session_factory
from db.tables import Projection
from workers.projections import METHODS, Plan, TooFew, build

ANNOTATOR = "representations"


@click.group()
def projection() -> None:
    """Lay representations out in two dimensions, to look at them all on a page."""


@projection.command("build")
@click.argument("name", required=False)
@click.option("--version", help="Version of the encoder.  [default: the current one]")
@click.option("--method", default=Plan.method, show_default=True, type=click.Choice(METHODS))
@click.option(
    "--sample",
    default=Plan.sample,
    show_default=True,
    type=click.IntRange(min=1),
    help="Sources, chosen at random, to learn the layout from; the others are placed in it.",
)
@click.option(
    "--seed",
    default=Plan.seed,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1),
    help="The same seed gives the same layout of the same vectors.",
)
@click.option(
    "--neighbours",
    default=Plan.neighbours,
    show_default=True,
    type=click.IntRange(2, 500),
    help="UMAP: how many neighbours to keep near; more shows larger structures.",
)
@click.option(
    "--min-dist",
    default=Plan.min_dist,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="UMAP: how near points may come; less shows tighter clumps.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for machines.")
def build_command(name: str | None, version: str | None, as_json: bool, **options: Any) -> None:
    """Compute projection NAME (default: the method's name), in the place of an earlier one."""
    engine = console.open_database()
    began = time.monotonic()
    reasons = (names.BadName, TooFew, layouts.Busy, layouts.NoPoints, model_versions.UnknownVersion)
    with console.friendly_errors(*reasons):
        version_id = _version_id(engine, version)
        plan = Plan(name=name or options["method"], model_version_id=version_id, **options)
        names.checked(plan.name)
        made = build(engine, plan, lambda what, n: console.progress_bar(what, n, quiet=as_json))
    seconds = time.monotonic() - began
    if as_json:
        console.emit({**_facts(made), "seconds": round(seconds, 1)})
        return
    click.echo(f"{made.name}: {made.n_points:,} sources by {made.method} in {seconds:.0f} s")
    click.echo(f"see it at /projections/{made.name} of `skygloss serve`")


@projection.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the projections for machines.")
def list_command(as_json: bool) -> None:
    """List the projections, the newest first."""
    with session_factory(console.open_database())() as session:
        found = [
            {**_facts(row.Projection), "version": row.ModelVersion.name}
            for row in projections.listed(session)
        ]
    if as_json:
        console.emit(found)
        return
    table = Table("name", "version", "method", "sources", "built", box=None, header_style="bold")
    for one in found:
        built = f"{one['created_at']:%Y-%m-%d %H:%M}"
        table.add_row(one["name"], one["version"], one["method"], f"{one['n_points']:,}", built)
    if found:
        Console().print(table)
    else:
        click.echo("There is no projection yet: skygloss projection build")


@projection.command("delete")
@click.argument("name")
def delete_command(name: str) -> None:
    """Delete projection NAME; selections made on it stay."""
    with session_factory(console.open_database()).begin() as session:
        if not layouts.delete(session, name):
            known = ", ".join(row.Projection.name for row in projections.listed(session))
            raise click.ClickException(
                f"there is no projection {name!r}; there are: {known or 'none yet'}"
            )
    click.echo(f"{name} is deleted")


def _version_id(engine: Engine, name: str | None) -> int:
    """Return the version of the encoder, or say what there is."""
    with session_factory(engine)() as session:
        if name is not None:
            return model_versions.find(session, ANNOTATOR, name).id
        current = model_versions.current(session, [ANNOTATOR])
    if not current:
        raise model_versions.UnknownVersion(
            f"no version of {ANNOTATOR} is current: run `skygloss annotate` first, or choose one "
            "with --version"
        )
    return current[0].id


def _facts(made: Projection) -> dict[str, Any]:
    names_ = ("name", "method", "n_points", "n_fitted", "seed", "options", "created_at")
    return {name: getattr(made, name) for name in names_}
