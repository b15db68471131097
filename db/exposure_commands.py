"""The command `skygloss ingest exposures`: files to the ingest, and a report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from db import console, home

if TYPE_CHECKING:
    from db.exposures import Report

SHOWN = 10  # problems in the summary; --json lists all


@click.command("exposures")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Catalog that the sources go into.")
@click.option(
    "--sample",
    default=1024,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Sources kept of an exposure, drawn at random when more are detected.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Files worked on at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def ingest_exposures(
    paths: tuple[Path, ...], name: str, sample: int, processes: int, as_json: bool
) -> None:
    """Detect sources on exposures and keep a fair sample of them, with cutouts, in a catalog.

    PATHS are multi-extension or single FITS files, also .fits.fz and .fits.gz, or folders of them.
    An exposure that is in the catalog changes nothing, so an ingest that was interrupted goes on
    when the command is given again. What is wrong with a CCD becomes a flag; a file that is no
    exposure does not keep the others out; the exit code is 1 then.
    """
    from db.exposures import CannotIngest, find_files, ingest

    with console.friendly_errors(CannotIngest):
        files = find_files(paths)
        engine = console.open_database()
        with console.progress_bar("exposures", len(files), quiet=as_json) as progress:
            report = ingest(engine, home.pixels(), files, name, sample, processes, progress)
    if as_json:
        console.emit(asdict(report))
    else:
        _show(report)
    if rejected := report.of("rejected"):
        raise click.ClickException(
            "\n".join(f"{outcome.file}: {outcome.reason}" for outcome in rejected)
        )


def _show(report: Report) -> None:
    """Say in a few lines what came of the files."""
    new = report.of("new")
    screen = Console()
    table = Table(title=f"Catalog {report.catalog}", show_header=False)
    table.add_row("new exposures", f"{len(new):,}")
    table.add_row("there before", f"{len(report.of('known')):,}")
    table.add_row("rejected", f"{len(report.of('rejected')):,}")
    table.add_row("CCDs", f"{report.total('n_ccds'):,}")
    table.add_row("CCDs flagged", f"{report.total('n_ccds_flagged'):,}")
    table.add_row("sources detected", f"{report.total('n_detected'):,}")
    table.add_row("sources kept", f"{report.total('n_sampled'):,}")
    if new and report.seconds:
        rate = report.total("n_pixels") / report.seconds / 1e6
        table.add_row("speed", f"{rate:.1f} million pixels/s")
    screen.print(table)
    problems = [(outcome.name, problem) for outcome in new for problem in outcome.problems]
    for name, problem in problems[:SHOWN]:
        screen.print(f"  {name}: {problem}", markup=False)
    if len(problems) > SHOWN:
        screen.print(f"  … and {len(problems) - SHOWN:,} more (--json lists them)")
