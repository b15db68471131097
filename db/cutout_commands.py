"""The command `skygloss ingest cutouts`: options to an origin of pixels, and a report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from astropy.utils.exceptions import AstropyWarning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from db import console, home
from db.engine import DatabaseUnavailable

if TYPE_CHECKING:
    from db.cutout_ingest import Origin, Report

SHOWN = 10  # problems in the summary; --json lists more
DEFAULT_SIZE = 128  # pixel
DEFAULT_SCALE = 0.262  # arcsec/pixel


@click.command("cutouts")
@click.argument("catalog")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of PNG, JPEG or FITS cutouts with the ids in their file names.",
)
@click.option(
    "--mosaic",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="FITS image with a WCS to cut from; repeat it for more bands and tiles.",
)
@click.option("--service", type=click.Choice(["legacy"]), help="Cutout service to fetch from.")
@click.option("--name", help="Name of the cutout set.  [default: folder, mosaic or the service]")
@click.option("--bands", help="Bands in order, like grz or F606W,F814W.  [default: as they come]")
@click.option("--pixel-scale", type=click.FloatRange(min=0, min_open=True), help="[arcsec/pixel]")
@click.option("--size", type=click.IntRange(min=1), help="Side of a cutout [pixel].")
@click.option("--unit", type=click.Choice(["nanomaggy", "nJy", "adu", "display"]))
@click.option("--pattern", help="File names in the folder, like '{id}_*.{png,jpg}'.")
@click.option("--layer", default="ls-dr10", show_default=True, help="Data release of the service.")
@click.option("--base-url", help="Another address of the service.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Requests to the service per second, at most.",
)
@click.option("--retry", is_flag=True, help="Try again where the image was missing or unreadable.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def ingest_cutouts(
    catalog: str, name: str | None, retry: bool, as_json: bool, **options: Any
) -> None:
    """Give every source of CATALOG a cutout, from a folder, from mosaics or from a service.

    Doing it again changes nothing, and sources that are new since the last time get theirs.
    """
    chosen = [word for word in ("folder", "mosaic", "service") if options[word]]
    if len(chosen) != 1:
        raise click.UsageError("Give exactly one of --folder, --mosaic and --service.")
    from db.cutout_ingest import NothingToRead, ingest
    from db.cutout_service import ServiceError
    from db.cutouts import IncompatibleSet, SetBusy

    set_name = name or options["service"] or chosen[0]
    with (
        console.friendly_errors(
            NothingToRead, ServiceError, IncompatibleSet, SetBusy, DatabaseUnavailable
        ),
        _origin(options) as origin,
        _progress(quiet=as_json) as progress,
    ):
        engine = console.open_database()
        report = ingest(engine, home.pixels(), catalog, set_name, origin, retry, progress)
    if as_json:
        console.emit(asdict(report))
    else:
        _show(report)


@contextmanager
def _origin(options: dict[str, Any]) -> Iterator[Origin]:
    """Make the origin that the options name, and close it in the end."""
    bands = _split_bands(options["bands"])
    with warnings.catch_warnings():
        # Each damaged or old-fashioned file is reported by its flag, not by a line on the terminal.
        warnings.simplefilter("ignore", AstropyWarning)
        if options["folder"]:
            yield _folder(options, bands)
        elif options["mosaic"]:
            with closing(_mosaic(options, bands)) as origin:
                yield origin
        else:
            with closing(_service(options, bands)) as origin:
                yield origin


def _folder(options: dict[str, Any], bands: tuple[str, ...] | None) -> Origin:
    from db.cutout_folder import PATTERN, Folder

    return Folder(
        options["folder"],
        options["pattern"] or PATTERN,
        bands,
        options["pixel_scale"],
        options["unit"],
        options["size"],
    )


def _mosaic(options: dict[str, Any], bands: tuple[str, ...] | None) -> Any:
    from db.cutout_mosaic import Mosaic

    if options["pixel_scale"]:
        raise click.UsageError("A mosaic has the pixel scale of its WCS; omit --pixel-scale.")
    return Mosaic.open(options["mosaic"], options["size"] or DEFAULT_SIZE, bands, options["unit"])


def _service(options: dict[str, Any], bands: tuple[str, ...] | None) -> Any:
    from db.cutout_service import BASE_URL, LegacyService, Manners

    return LegacyService(
        home.cache(),
        bands or ("g", "r", "z"),
        options["size"] or DEFAULT_SIZE,
        options["pixel_scale"] or DEFAULT_SCALE,
        options["layer"],
        options["base_url"] or BASE_URL,
        Manners(rate=options["rate"]),
    )


def _split_bands(text: str | None) -> tuple[str, ...] | None:
    """`grz` and `g,r,z` are three bands; `F606W,F814W` are two."""
    if not text:
        return None
    return tuple(word.strip() for word in text.split(",")) if "," in text else tuple(text)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("cutouts"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("cutouts", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(report: Report) -> None:
    layout = report.layout
    screen = Console()
    table = Table(title=f"Cutout set {report.cutout_set}", show_header=False)
    table.add_row("bands", ", ".join(layout.bands))
    table.add_row("size", f"{layout.size} pixels of {layout.pixel_scale:g} arcsec")
    table.add_row("pixels", f"{layout.dtype}, {layout.unit}")
    table.add_row("new", f"{report.n_new:,}")
    table.add_row("filled in", f"{report.n_refilled:,}")
    table.add_row("there before", f"{report.n_present:,}")
    for flag, n in sorted(report.n_flagged.items()):
        table.add_row(f"flagged {flag.replace('_', ' ')}", f"{n:,}")
    screen.print(table)
    for survey_id, reason in report.problems[:SHOWN]:
        screen.print(f"  {survey_id}: {reason}", markup=False)
    if len(report.problems) > SHOWN:
        screen.print("  … (--json lists more; --retry looks for them again)")
