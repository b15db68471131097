"""The commands `skygloss ingest ...`: catalogs, cutouts, exposures and host galaxies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from db import catalogs, console, hosts
from db.catalog_preview import Preview, preview
from db.catalog_readers import CatalogError, open_catalog
from db.column_maps import BoundMap, shipped


class IngestGroup(click.Group):
    """Knows `cutouts` and `exposures` too, without loading the pixel store before it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "cutouts", "exposures"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "cutouts":
            from db.cutout_commands import ingest_cutouts

            return ingest_cutouts
        if cmd_name == "exposures":
            from db.exposure_commands import ingest_exposures

            return ingest_exposures
        return super().get_command(ctx, cmd_name)


def _known_survey(_ctx: click.Context, _parameter: click.Parameter, survey: str) -> str:
    if survey not in ("auto", *shipped()):
        raise click.BadParameter(f"{survey!r} is none of auto, {', '.join(shipped())}.")
    return survey


@click.group(cls=IngestGroup)
def ingest() -> None:
    """Bring catalogs, cutouts, exposures and host galaxies in."""


@ingest.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--survey",
    default="auto",
    show_default=True,
    metavar="NAME",
    callback=_known_survey,
    help="Column map: auto (by the columns), generic, legacy, nsa, ps1 or sdss.",
)
@click.option(
    "--map",
    "map_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A column map of your own (TOML).",
)
@click.option("--name", help="Name of the catalog; several files may go into one.")
@click.option("--release", default="", help="Data release, e.g. DR10.")
@click.option("--drop", multiple=True, metavar="PATTERN", help="Columns not to keep, e.g. 'wise*'.")
@click.option("--dry-run", is_flag=True, help="Show what would happen; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def catalog(
    files: tuple[Path, ...],
    survey: str,
    map_file: Path | None,
    name: str | None,
    release: str,
    drop: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ingest catalog files: FITS, VOTable, CSV, ECSV or Parquet.

    A file that was ingested before changes nothing; one whose ingest was interrupted goes on where
    it was. Rows that cannot become sources are counted and listed in the table rejection. A file
    that cannot be used does not keep the others out; the exit code is 1 then.
    """
    if dry_run:
        _do_each(files, lambda path: _preview(path, survey, map_file, drop), as_json, _show_preview)
        return
    engine = console.open_database()

    def ingest_one(path: Path) -> catalogs.Ingested:
        return _ingest(engine, path, survey, map_file, name, release, drop, as_json)

    _do_each(files, ingest_one, as_json, _show_ingested)


@ingest.command("hosts")
@click.option("--hosts", "hosts_name", required=True, help="Catalog of hosts with redshifts.")
@click.option("--sources", "sources_name", required=True, help="Catalog of the sources near them.")
@click.option(
    "--kpc",
    default=hosts.RADIUS,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True, max=10_000),
    help="Projected distance at the host's redshift (flat LCDM, H0=70, Om0=0.3).",
)
@click.option(
    "--lowest-redshift",
    default=hosts.LOWEST_REDSHIFT,
    show_default=True,
    type=click.FloatRange(min=0.0005),
    help="Nearer hosts are passed over: their redshift tells no distance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def match_hosts(
    hosts_name: str, sources_name: str, kpc: float, lowest_redshift: float, as_json: bool
) -> None:
    """Note which sources lie near a host galaxy, in the table host_match. Safe to repeat."""
    engine = console.open_database()
    hosts_id, sources_id = (
        console.catalog_id(engine, hosts_name),
        console.catalog_id(engine, sources_name),
    )
    total = hosts.n_hosts_of(engine, hosts_id)
    with (
        console.friendly_errors(hosts.TooWide),
        console.progress_bar("hosts", total, quiet=as_json) as progress,
    ):
        found = hosts.match_hosts(engine, hosts_id, sources_id, kpc, lowest_redshift, progress)
    if as_json:
        console.emit(asdict(found))
        return
    click.echo(
        f"{found.n_hosts:,} hosts searched within {kpc:g} kpc, {found.n_new:,} new matches; "
        f"{found.n_passed_over:,} without a redshift of at least {lowest_redshift:g}"
    )


def _preview(path: Path, survey: str, map_file: Path | None, drop: tuple[str, ...]) -> Preview:
    file = open_catalog(path)
    return preview(
        path, file, BoundMap(catalogs.choose_map(file, survey, map_file), file.columns, drop)
    )


def _ingest(
    engine: Engine,
    path: Path,
    survey: str,
    map_file: Path | None,
    name: str | None,
    release: str,
    drop: tuple[str, ...],
    quiet: bool,
) -> catalogs.Ingested:
    file = open_catalog(path)
    column_map = catalogs.choose_map(file, survey, map_file)
    with console.progress_bar(path.name, file.n_rows, quiet) as progress:
        return catalogs.ingest(engine, path, column_map, name, release, drop, progress)


def _do_each(
    files: Sequence[Path], do: Callable[[Path], Any], as_json: bool, show: Callable[[Any], None]
) -> None:
    """Do something with file after file and show what came of it; fail in the end, if at all."""
    reports, failures = [], []
    for path in files:
        try:
            report = do(path)
        except CatalogError as error:
            failures.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        reports.append(report)
        if not as_json:
            show(report)
        if isinstance(report, catalogs.Ingested) and 0 < report.n_read == report.n_rejected:
            failures.append(
                f"{path}: Every row of the file was rejected. Look at the reasons above; --dry-run "
                "shows how the columns are read."
            )
        if report.n_missing:
            failures.append(
                f"{path}: {report.n_missing:,} rows are missing, the file is cut off. The rows "
                "before are good: ingest the whole file when you have it."
            )
    if as_json:
        console.emit([asdict(report) for report in reports])
    if failures:
        raise click.ClickException("\n".join(failures))


def _show_ingested(result: catalogs.Ingested) -> None:
    """Say in a few lines what came of a file."""
    if result.repeated:
        click.echo(f"{result.file}: already in catalog {result.catalog!r}, nothing to do")
    else:
        resumed = f", resumed at row {result.resumed_at:,}" if result.resumed_at else ""
        click.echo(
            f"{result.file}: {result.n_read:,} rows read as {result.survey}{resumed}; "
            f"{result.n_new:,} new sources in catalog {result.catalog!r}"
        )
    if result.n_known:
        click.echo(f"  {result.n_known:,} were there already")
    if result.n_rejected:
        click.echo(f"  {result.n_rejected:,} rejected, listed in the table rejection:")
    for reason, n in result.reasons.items():
        click.echo(f"    {n:,}  {reason}")
    for note in result.notes:
        click.echo(f"  {note}")


def _show_preview(found: Preview) -> None:
    """Show what an ingest would do, as tables."""
    screen = Console(width=max(100, Console().width))
    n_rows = "rows not counted" if found.n_rows is None else f"{found.n_rows:,} rows"
    cut = f", {found.n_missing:,} rows cut off" if found.n_missing else ""
    screen.print(f"[bold]{found.file}[/]: {found.format}, {n_rows}{cut}")
    screen.print(f"Column map [bold]{found.survey}[/]: {found.title}")
    for note in [*found.notes, *found.warnings]:
        screen.print(f"  {note}")
    screen.print(_mapped_table(found))
    if found.absent:
        screen.print(f"Left empty: {', '.join(found.absent)}")
    screen.print(f"Kept in extra ({len(found.extra)}): {', '.join(found.extra) or 'nothing'}")
    screen.print(f"Dropped ({len(found.dropped)}): {', '.join(found.dropped) or 'nothing'}")
    screen.print(f"Rejected of the first {found.n_examined:,} rows: {found.n_rejected:,}")
    for rejection in found.rejections:
        screen.print(f"  row {rejection['row']}: {rejection['reason']}")
    screen.print("Nothing was written.")


def _mapped_table(found: Preview) -> Table:
    """One line per column of source: how it is made, and its first values."""
    table = Table("column", "meaning", "rule", "from", "first values", title="Mapped")
    for mapped in found.mapped:
        values = [_short(row.get(mapped.column)) for row in found.rows[:3]]
        inputs = ", ".join(mapped.inputs)
        table.add_row(mapped.column, mapped.meaning, mapped.rule, inputs, "  ".join(values))
    return table


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
