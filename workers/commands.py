"""The commands `skygloss worker` and `skygloss annotate`."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    Progress,
)
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import console, jobs, model_versions
from db.engine import session_factory
from db.home import pixels
from db.tables import ModelVersion
from models.network_files import EncoderError
from models.registry import ChecksumError
from workers import supply
from workers.annotators import ANNOTATORS
from workers.annotators.base import Annotator
from workers.database import is_away
from workers.device import PRECISIONS, prepare
from workers.runner import Runner
from workers.station import Options
from workers.writer import Tally, WorkerStopped

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds between looks at how far the work is
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

REASONS = (  # not to work, which explain themselves
    *(WorkerStopped, model_versions.VersionConflict, model_versions.UnknownVersion),
    *(ChecksumError, EncoderError, FileNotFoundError),
)
NAMES = [annotator.name for annotator in ANNOTATORS]


def how_to_work(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `worker` and `annotate` share."""
    options = (
        click.option(
            "--annotator",
            "names",
            multiple=True,
            type=click.Choice(NAMES),
            help="Only this annotator; may be repeated.  [default: all]",
        ),
        click.option(
            "--version",
            help="Only versions of this name, such as a candidate.  [default: the current ones]",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            help="Sources per call of a network.  [default: 64 on a CPU, 512 on a GPU]",
        ),
        click.option(
            "--precision",
            default=Options.precision,
            show_default=True,
            type=click.Choice(PRECISIONS),
            help="Precision of the networks; mixed precision pays on GPUs only.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@how_to_work
def worker(
    names: Sequence[str], version: str | None, batch_size: int | None, precision: str
) -> None:
    """Keep annotating whatever arrives, until stopped.

    Any number of workers on any number of machines share the work; each needs DATABASE_URL and the
    pixel store. Ctrl-C or SIGTERM finishes the batch in hand; once more leaves at once.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    options = Options(precision=precision, version=version)
    _run(console.open_database(), names, batch_size, options)


@click.command()
@click.argument("catalog", required=False)
@how_to_work
@click.option("--retry", is_flag=True, help="Try what failed once more.")
@click.option("--verify", is_flag=True, help="First look for what has no row, one by one.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for machines.")
def annotate(
    catalog: str | None,
    names: Sequence[str],
    version: str | None,
    batch_size: int | None,
    precision: str,
    retry: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Annotate what waits, of CATALOG or of all, with a progress bar, then stop."""
    engine = console.open_database()
    catalog_id = console.catalog_id(engine, catalog) if catalog else None
    options = Options(precision=precision, until_idle=True, catalog_id=catalog_id, version=version)
    chosen = _chosen(names)
    for wanted, act in ((retry, _retry), (verify, _verify)):
        if wanted:
            with (
                session_factory(engine).begin() as session,
                console.friendly_errors(model_versions.UnknownVersion),
            ):
                act(session, chosen, options)
    bar = Progress(*console.BAR, console=Console(stderr=True))
    handler = RichHandler(console=bar.console, show_path=False, level=logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    with bar:
        follower = Follower(bar, engine, chosen, options)
        tally = _run(engine, names, batch_size, options, follower)
        follower.look()
    _report(engine, tally, chosen, options, as_json)


class Follower:
    """A progress hook that shows on a bar how far these annotators are.

    It looks at the database once a second at most, and goes without while the server is away: a
    bar must not stop the work.
    """

    def __init__(
        self,
        bar: Progress,
        engine: Engine,
        annotators: Sequence[type[Annotator]],
        options: Options | None = None,
    ) -> None:
        self._bar = bar
        self._task = bar.add_task("annotating", total=None)
        self._progress = partial(_progress, engine, annotators, options or Options())
        self._due = 0.0

    def __call__(self, _n: int) -> None:
        if time.monotonic() >= self._due:
            self.look()
            self._due = time.monotonic() + LOOK_INTERVAL

    def look(self) -> None:
        """Bring the bar up to date."""
        try:
            found = self._progress()
        except Exception as error:
            if is_away(error):
                return
            raise
        n_total = sum(one.n_total for one in found)
        n_left = sum(one.n_left for one in found)
        self._bar.update(self._task, completed=n_total - n_left, total=n_total)


def _report(
    engine: Engine,
    tally: Tally,
    annotators: Sequence[type[Annotator]],
    options: Options,
    as_json: bool,
) -> None:
    """Say what was done; exit code 1 if something failed for good."""
    found = _progress(engine, annotators, options)
    n_failed = sum(one.n_failed for one in found)
    if as_json:
        click.echo(json.dumps({"n_annotated": tally.n_annotated, "n_failed": n_failed}))
    else:
        click.echo(f"{tally.n_annotated:,} annotations written")
        for one in found:
            if one.n_total or len(found) == 1:
                counts = f"{one.n_done:,} of {one.n_total:,} {one.subject}s done"
                click.echo(f"{one.annotator} {one.version}: {counts}")
        for line in _remarks(engine, annotators, options):
            click.echo(line)
        if n_left := sum(one.n_left for one in found):
            click.echo(f"{n_left:,} still wait: the same command goes on with them")
    if n_failed:
        raise click.ClickException(
            f"{n_failed:,} failed: see `skygloss status`, and try again with --retry"
        )


def _progress(
    engine: Engine, annotators: Sequence[type[Annotator]], options: Options
) -> list[jobs.Progress]:
    with session_factory(engine)() as session:
        ids = {version.id for version in _versions(session, annotators, options)}
        found = jobs.progress(session, _set_ids(session, options) if options.catalog_id else None)
    return [one for one in found if one.model_version_id in ids]


def _remarks(engine: Engine, annotators: Sequence[type[Annotator]], options: Options) -> list[str]:
    """What is passed over, and why."""
    by_name = {annotator.name: annotator for annotator in annotators}
    with session_factory(engine)() as session:
        sets = supply.cutout_sets(session, options.catalog_id)
        supplies = [
            supply.supply(version, by_name[version.annotator], sets)
            for version in _versions(session, annotators, options)
        ]
        return supply.remarks(session, supplies)


def _run(
    engine: Engine,
    names: Sequence[str],
    batch_size: int | None,
    options: Options,
    progress: Callable[[int], None] = lambda n: None,
) -> Tally:
    device = prepare(options.precision)
    options = replace(options, batch_size=batch_size or device.batch_size)
    log.info(
        "device=%s note=%r batch_size=%d precision=%s",
        *(device.name, device.note, options.batch_size, options.precision),
    )
    runner = Runner(engine, pixels(), _chosen(names), options, device, progress=progress)
    try:
        return runner.run()
    except REASONS as error:
        raise click.ClickException(str(error)) from error


def _chosen(names: Sequence[str]) -> list[type[Annotator]]:
    return [annotator for annotator in ANNOTATORS if not names or annotator.name in names]


def _set_ids(session: Session, options: Options) -> list[int]:
    return [cutout_set.id for cutout_set in supply.cutout_sets(session, options.catalog_id)]


def _versions(
    session: Session, annotators: Sequence[type[Annotator]], options: Options
) -> Sequence[ModelVersion]:
    by_name = {annotator.name: annotator for annotator in annotators}
    return supply.versions(session, by_name, options.version)


def _retry(session: Session, annotators: Sequence[type[Annotator]], options: Options) -> None:
    ids = [version.id for version in _versions(session, annotators, options)]
    n = jobs.retry(session, ids, _set_ids(session, options))
    click.echo(f"{n} failed jobs are tried once more", err=True)


def _verify(session: Session, annotators: Sequence[type[Annotator]], options: Options) -> None:
    by_name = {annotator.name: annotator for annotator in annotators}
    sets = supply.cutout_sets(session, options.catalog_id)
    n = 0
    for version in _versions(session, annotators, options):
        annotator = by_name[version.annotator]
        for set_id, better in supply.supply(version, annotator, sets).better.items():
            n += jobs.verify(session, version.id, annotator.table, set_id, better)
    click.echo(f"{n} jobs lack a row and are done again", err=True)
