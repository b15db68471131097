"""The commands `skygloss models list`, `skygloss models promote` and `skygloss status`."""

import json
from dataclasses import asdict
from typing import Any

import click
from sqlalchemy.orm import Session

from db import console, jobs, model_versions, queries
from db.engine import database_url, printable, session_factory
from db.jobs import Progress
from db.tables import Worker

N_FAILURES = 20  # shown


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the versions for machines.")
def list_(as_json: bool) -> None:
    """List the registered versions, the newest first."""
    with _session() as session:
        versions = model_versions.listed(session)
    if as_json:
        names = ("annotator", "name", "state", "weights_sha256", "created_at")
        found = [{name: getattr(v, name) for name in names} for v in versions]
        click.echo(json.dumps(found, default=str))
        return
    rows = [
        (v.annotator, v.name, v.state, v.weights_sha256[:12], f"{v.created_at:%Y-%m-%d %H:%M}")
        for v in versions
    ]
    console.print_table("", ("annotator", "version", "state", "weights", "registered"), rows)
    if not versions:
        click.echo("No version is registered yet: a worker registers what is shipped.")


@click.command()
@click.argument("annotator")
@click.argument("version")
def promote(annotator: str, version: str) -> None:
    """Make VERSION the current one of ANNOTATOR; to go back, promote the one before.

    Pages and views show the current version at once; workers annotate with it what it has not
    seen yet.
    """
    with _session() as session, session.begin():
        try:
            model_versions.promote(session, annotator, version)
        except model_versions.UnknownVersion as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{annotator}: {version} is current")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the state for machines.")
@click.option(
    "--url",
    "only_url",
    is_flag=True,
    help="Print only the address of the database, for psql; a password in it becomes ***.",
)
def status(as_json: bool, only_url: bool) -> None:
    """Show catalogs, progress, workers and failures."""
    if only_url:
        click.echo(printable(database_url()))
        return
    with _session() as session:
        found = _status(session)
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    console.print_table(
        "Catalogs", ("name", "survey", "sources"), [list(c.values()) for c in found["catalogs"]]
    )
    progress = [_progress_row(Progress(**one)) for one in found["progress"]]
    heads = ("annotator", "version", "done", "in hand", "failed", "of", "rate", "time left")
    console.print_table("Progress", heads, progress)
    console.print_table(
        "Workers", ("worker", "host", "process", "state", "device", "why no GPU"), found["workers"]
    )
    console.print_table("Failures", ("annotator", "version", "cutouts", "error"), found["failures"])


def _status(session: Session) -> dict[str, Any]:
    return {
        "catalogs": [
            {"name": c.name, "survey": f"{c.survey} {c.release}".strip(), "n_sources": c.n_sources}
            for c in queries.catalogs(session)
        ],
        "progress": [asdict(one) for one in jobs.progress(session)],
        "workers": [_worker(row.Worker, row.state) for row in queries.workers(session)],
        "failures": [_failure(row) for row in queries.failed_jobs(session, N_FAILURES)],
    }


def _worker(worker: Worker, state: str) -> tuple[int, str, int, str, str, str]:
    return worker.id, worker.host, worker.pid, state, worker.device, worker.device_note


def _failure(row: Any) -> tuple[str, str, str, str]:
    job, version = row.Job, row.ModelVersion
    is_exposure = version.card.get("subject") == "exposure"
    which = "an exposure" if is_exposure else f"{job.first} to {job.last}"
    where = f"{row.cutout_set} block {row.number}: {which}"
    return version.annotator, version.name, where, (job.error or "").rpartition("\n")[2]


def _progress_row(one: Progress) -> tuple[str, ...]:
    counts = (one.n_done, one.n_doing, one.n_failed)
    whole = f"{one.n_total:,} {one.subject}s"
    rate = f"{one.rate:.3g}/s" if one.rate and one.n_left else ""
    left = _duration(one.seconds_left) if one.seconds_left else ""
    return one.annotator, one.version, *(f"{n:,}" for n in counts), whole, rate, left


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _session() -> Session:
    return session_factory(console.open_database())()
