"""The commands `skygloss labels ...`: how experts agree, labels out as a training set, labels in.

They are here because consensus needs `models`, which `db` does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db import agreement as votes_db
from db import console, experts, label_classes, label_import, training_sets
from db import export as files
from db.agreement import Kind
from db.engine import session_factory
from db.export import ExportError, Rows
from db.label_import import Imported, ImportRefused
from db.tables import ModelVersion
from models.agreement import CAUTION, reading
from web import agreement_report
from web import training_sets as training
from web.agreement_report import Agreement

SHOWN_NAMES = 20  # of those that an import does not know
MOST_CONFUSIONS = 6  # pairs whose tables are shown, those with most subjects; --json has all


@click.command()
@click.option(
    "--subject",
    type=click.Choice(["exposure", "source", "cell"]),
    default="exposure",
    show_default=True,
    help="What the labels are about.",
)
@click.option("--version", "version_name", help="Map that cells are of.  [default: all maps]")
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def agreement(subject: Kind, version_name: str | None, as_json: bool) -> None:
    """How well the experts agree.

    Cohen's kappa of each pair, Fleiss' kappa and Krippendorff's alpha of all, with 95 % intervals
    by bootstrap over subjects, and what the model of Dawid & Skene makes of each expert.
    """
    with session_factory(console.open_database())() as session:
        if version_name and subject != "cell":
            raise click.UsageError("--version says which map cells are of: give --subject cell.")
        shown = _version(session, None, version_name) if version_name else None
        votes = votes_db.votes(session, subject, shown.id if shown else None)
    found = agreement_report.measure(votes)
    if as_json:
        console.emit(agreement_report.facts(found))
    else:
        _show(found)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--subject",
    type=click.Choice(["exposure", "source"]),
    default="exposure",
    show_default=True,
    help="What the training set is of.",
)
@click.option(
    "--consensus",
    type=click.Choice(training.METHODS),
    default="majority",
    show_default=True,
    help="What counts as the label; ties have no majority and are left out.",
)
@click.option(
    "--min-experts",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Leave out what fewer experts labelled.",
)
@click.option(
    "--propagated", is_flag=True, help="Add members of labelled cells that nobody looked at."
)
@click.option("--version", "version_name", help="Map of those cells.  [default: the current one]")
@click.option("--json", "as_json", is_flag=True, help="Print what was written for machines.")
def export(
    file: Path,
    subject: training_sets.Kind,
    consensus: training.Method,
    min_experts: int,
    propagated: bool,
    version_name: str | None,
    as_json: bool,
) -> None:
    """Write a training set to FILE, as .csv, .parquet, .fits or .vot.

    One row for each exposure or source with a label; the file says what its columns mean and how
    it was made. CSV and Parquet are streamed and may have any length.
    """
    if version_name and not propagated:
        raise click.UsageError("--version says which map labels come from: give --propagated too.")
    with (
        console.friendly_errors(ExportError),
        session_factory(console.open_database())() as session,
    ):
        files.writer_for(file)  # before anything slow
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        shown = _version(session, training_sets.MAPS[subject], version_name) if propagated else None
        votes = votes_db.votes(session, subject)
        weighed = training.weigh(votes, consensus)
        total = None if shown else len(weighed.usable(min_experts))
        with console.progress_bar("rows", total, quiet=as_json) as progress:
            batches: Iterator[Rows] = training.direct_rows(session, weighed, min_experts, progress)
            if shown:
                more = training.propagated_rows(session, votes, shown, min_experts, progress)
                batches = chain(batches, more)
            facts = training.made(weighed, min_experts, shown)
            columns = training.columns(subject, consensus)
            n_rows = files.write(file, columns, batches, facts)
    _report_export(file, n_rows, weighed, min_experts, as_json)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--expert", required=True, help="In whose name; the account must be there.")
@click.option("--name", "catalog", required=True, help="Catalog that the labelled ones are in.")
@click.option(
    "--subject",
    type=click.Choice(["exposure", "source"]),
    default="exposure",
    show_default=True,
    help="What the labels are about.",
)
@click.option("--column", default="label", show_default=True, help="Column with the labels.")
@click.option("--add-classes", is_flag=True, help="Add label classes that are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def import_(
    file: Path,
    expert: str,
    catalog: str,
    subject: training_sets.Kind,
    column: str,
    add_classes: bool,
    as_json: bool,
) -> None:
    """Read labels from a CSV FILE, in an expert's name.

    The file has a column `name` (of exposures; `survey_id` of sources) and one of labels. Names
    that the catalog does not have are listed, all others are stored. The same file may be imported
    again: it stores nothing twice.
    """
    engine = console.open_database()
    refusals = (ImportRefused, experts.UnknownExpert, label_classes.BadClass)
    with console.friendly_errors(*refusals):
        catalog_id = console.catalog_id(engine, catalog)
        total = len(label_import.read(file, subject, column).labels)
        with console.progress_bar(file.name, total, quiet=as_json) as progress:
            found = label_import.import_labels(
                engine, file, expert, subject, catalog_id, column, add_classes, progress
            )
    if as_json:
        console.emit(asdict(found))
    else:
        _show_imported(found, catalog)
    if not found.n_stored + found.n_known:
        raise click.ClickException(f"{file}: no label was stored; the reasons are above")


def _version(session: Session, annotator: str | None, name: str | None) -> ModelVersion:
    """Find a map by its name, or the current one of an annotator."""
    maps = list(training_sets.MAPS.values()) if annotator is None else [annotator]
    statement = select(ModelVersion).where(ModelVersion.annotator.in_(maps))
    if name is None:
        statement = statement.where(ModelVersion.state == "current")
    else:
        statement = statement.where(ModelVersion.name == name)
    found = session.scalars(statement.order_by(ModelVersion.id)).first()
    if found is None:
        wanted = f"no version {name!r}" if name else "no current version"
        raise click.ClickException(
            f"there is {wanted} of {' or '.join(maps)}; `skygloss models list` shows what there is"
        )
    return found


def _show(found: Agreement) -> None:
    votes, names = found.votes, [expert.name for expert in found.votes.experts]
    screen = Console(width=max(100, Console().width))
    screen.print(
        f"{len(votes.said):,} {votes.kind}s labelled by {len(names)} experts, {found.n_shared:,} "
        f"of them by two or more: {found.n_unanimous:,} with one voice, {found.n_tied:,} tied."
    )
    if not found.n_shared:
        screen.print("Agreement shows where two experts label the same; nothing to compare yet.")
        return
    screen.print(_overall_table(found))
    screen.print(_pair_table(found, names))
    for pair in sorted(found.pairs, key=lambda pair: -pair.n)[:MOST_CONFUSIONS]:
        if pair.n:
            screen.print(_confusion_table(found, pair, names))
    screen.print(_expert_table(found, names))
    screen.print(CAUTION, style="dim")


def _overall_table(found: Agreement) -> Table:
    table = Table("all together", "value", "95 % interval", "reads as", title="Agreement")
    for name, interval in (
        ("Fleiss' kappa", found.fleiss),
        ("Krippendorff's alpha", found.alpha),
    ):
        table.add_row(name, *_interval(interval), reading(interval, found.n_shared))
    return table


def _pair_table(found: Agreement, names: list[str]) -> Table:
    table = Table("expert", "expert", "subjects", "kappa", "95 % interval", "reads as")
    table.title = "Cohen's kappa of each pair"
    for pair in found.pairs:
        words = reading(pair.kappa, pair.n)
        numbers = (f"{pair.n:,}", *_interval(pair.kappa))
        table.add_row(names[pair.first], names[pair.second], *numbers, words)
    return table


def _confusion_table(found: Agreement, pair: Any, names: list[str]) -> Table:
    classes = [one.name for one in found.votes.classes]
    first, second = names[pair.first], names[pair.second]
    table = Table(f"{first} ↓  {second} →", *classes, title=f"{first} and {second}")
    for name, row in zip(classes, pair.confusion, strict=True):
        table.add_row(name, *(f"{n:,}" if n else "·" for n in row))
    return table


def _expert_table(found: Agreement, names: list[str]) -> Table:
    table = Table("expert", "labels", "estimated share right", title="By Dawid & Skene")
    for name, n, share in zip(names, found.n_said, found.consensus.reliability, strict=True):
        table.add_row(name, f"{n:,}", f"{share:.3f}")
    return table


def _interval(interval: Any) -> tuple[str, str]:
    if np.isnan(interval.value):
        return "–", "–"
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"


def _report_export(
    file: Path, n_rows: int, weighed: training.Weighed, min_experts: int, as_json: bool
) -> None:
    n_direct = len(weighed.usable(min_experts))
    report = {
        "file": str(file),
        "n_rows": n_rows,
        "n_direct": n_direct,
        "n_propagated": n_rows - n_direct,
        "n_tied": int((weighed.chosen < 0).sum()),
        "n_too_few_experts": int((weighed.n_experts < min_experts).sum()),
    }
    if as_json:
        console.emit(report)
        return
    click.echo(
        f"{n_rows:,} rows written to {file}: {n_direct:,} with labels of their own, "
        f"{n_rows - n_direct:,} propagated from cells."
    )
    click.echo(
        f"Left out: {report['n_tied']:,} tied, {report['n_too_few_experts']:,} with fewer than "
        f"{min_experts} experts."
    )


def _show_imported(found: Imported, catalog: str) -> None:
    click.echo(
        f"{found.file}: {found.n_rows:,} rows read, {found.n_stored:,} labels stored for "
        f"{found.expert}, {found.n_known:,} were there from this file already"
    )
    if found.added_classes:
        click.echo(f"  label classes added: {', '.join(found.added_classes)}")
    if found.n_blank:
        click.echo(f"  {found.n_blank:,} rows without name or label passed over")
    for names, why in (
        (found.unknown, f"are not in catalog {catalog!r}"),
        (found.contradictory, "have several labels in the file, and got none"),
    ):
        if names:
            more = " …" if len(names) > SHOWN_NAMES else ""
            click.echo(f"  {len(names):,} {why}: {', '.join(names[:SHOWN_NAMES])}{more}", err=True)
