"""The command `skygloss migrate`."""

import json

import click

from db import schema
from db.engine import create_engine, printable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the revisions for machines.")
def migrate(as_json: bool) -> None:
    """Bring the database to this version of Skygloss. Safe to repeat."""
    engine = create_engine()
    before = schema.current_revision(engine)
    schema.upgrade(engine)
    after = schema.current_revision(engine)
    place = printable(engine.url)
    if as_json:
        click.echo(json.dumps({"database": place, "before": before, "after": after}))
    elif before == after:
        click.echo(f"{place}: at {after}, nothing to do")
    else:
        click.echo(f"{place}: {before or 'empty'} → {after}")
