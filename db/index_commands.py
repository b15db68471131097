"""The commands `skygloss models index` and `skygloss models recall`: look after search indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine

from db import console, search, search_index
from db.engine import session_factory
from db.search import METRICS, SearchError
from db.search_index import NotNeeded, Recall, SearchIndexError
from db.tables import ModelVersion, SearchIndex

N_QUERIES = 200
N_REDUCED = 20

ANNOTATOR = click.argument(
    "annotator", default=search.ANNOTATOR, type=click.Choice([search.ANNOTATOR])
)
VERSION = click.option("--version", "name", help="Model version.  [default: the current one]")
METRIC = click.option(
    "--metric", type=click.Choice(list(METRICS)), default="l1", show_default=True, help="Distance."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result for machines.")


@click.command()
@ANNOTATOR
@VERSION
@METRIC
@click.option("--force", is_flag=True, help="Build it even if searches are quick without.")
@JSON
def index(annotator: str, name: str | None, metric: str, force: bool, as_json: bool) -> None:
    """Build the search index of a version, or build it anew, while everything goes on.

    Searches use it as soon as it is ready. Sources that come later are found all the same, by
    comparing each of them: build it anew when they have become many. Building the index of the
    current version drops those of retired ones.
    """
    engine = console.open_database()
    with console.friendly_errors(SearchError, SearchIndexError):
        version = _version(engine, name)
        try:
            with _share_bar(f"index of {version.name}", as_json) as progress:
                built = search_index.build(engine, version, metric, force, progress)
        except NotNeeded as error:
            _say(as_json, {"built": False, "reason": str(error)}, f"{error} (--force builds it.)")
            return
        dropped = search_index.drop_retired(engine) if version.state == "current" else []
    facts = {
        "built": True,
        "version": version.name,
        "metric": metric,
        "n_rows": built.n_rows,
        "seconds": round(built.build_seconds, 3),
        "size_bytes": built.size_bytes,
        "dropped": dropped,
    }
    text = (
        f"{version.name}, {metric}: {built.n_rows:,} rows in {built.build_seconds:.1f} s, "
        f"{built.size_bytes / 1e6:.1f} MB. Measure it with `skygloss models recall`."
    )
    if dropped:
        text += f"\nDropped the indexes of {', '.join(dropped)}."
    _say(as_json, facts, text)


@click.command()
@ANNOTATOR
@VERSION
@METRIC
@click.option(
    "-k",
    "--k",
    type=click.IntRange(1, search.MAX_EF_SEARCH),
    default=50,
    show_default=True,
    help="Neighbours of each search.",
)
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    default=N_QUERIES,
    show_default=True,
    help="Searches to compare, for sources chosen by lot but always the same.",
)
@click.option(
    "--ef",
    type=click.IntRange(1, search.MAX_EF_SEARCH),
    help="Candidates kept; searches keep as many from now on.  [default: as before, or 100]",
)
@click.option(
    "--embedding-queries",
    type=click.IntRange(min=0),
    default=N_REDUCED,
    show_default=True,
    help="Of these searches, how many to repeat in the full embedding.",
)
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Exit with 1 if the recall is lower.",
)
@JSON
def recall(
    annotator: str,
    name: str | None,
    metric: str,
    k: int,
    queries: int,
    ef: int | None,
    embedding_queries: int,
    at_least: float,
    as_json: bool,
) -> None:
    """Compare a search index with brute force, and keep the result beside it.

    Recall is the share of the true nearest sources that the index finds. Answers of searches state
    it. Made for cron: where there is no index, all is exact and the recall is 1.
    """
    engine = console.open_database()
    with (
        console.friendly_errors(SearchError, SearchIndexError),
        session_factory(engine)() as session,
    ):
        version = search.version(session, name)
        built = search.usable_index(session, version.id, metric)
        if built is None:
            text = f"{version.name} has no {metric} index: every search is exact."
            _say(as_json, {"version": version.name, "metric": metric, "recall": None}, text)
            return
        total = queries + embedding_queries
        with console.progress_bar("searches", total, quiet=as_json) as progress:
            found = search_index.measure(
                session, built, k, queries, ef, embedding_queries, progress
            )
        search_index.record(session, built, found)
        session.commit()
        _say(as_json, _facts(version, built, found), _words(version, built, found))
    if found.recall < at_least:
        raise click.ClickException(
            f"the recall is {found.recall:.3f}, below {at_least:g}: raise --ef, or build the index "
            "anew with `skygloss models index`."
        )


def _version(engine: Engine, name: str | None) -> ModelVersion:
    # In a session that ends here: an open transaction would keep an index from being dropped.
    with session_factory(engine)() as session:
        return search.version(session, name)


def _facts(version: ModelVersion, built: SearchIndex, found: Recall) -> dict[str, object]:
    return {
        "version": version.name,
        "metric": built.metric,
        "n_rows": built.n_rows,
        **asdict(found),
    }


def _words(version: ModelVersion, built: SearchIndex, found: Recall) -> str:
    text = (
        f"{version.name}, {built.metric}: recall@{found.k} {found.recall:.4f} in "
        f"{found.n_queries:,} searches of {built.n_rows:,} rows (ef {found.ef}); "
        f"{found.worst:.2f} in the worst of them."
    )
    if found.reduced is not None:
        text += (
            f"\nOf the {found.k} nearest in the full embedding, {found.reduced:.0%} are among the "
            f"{found.k} nearest in the components that are searched ({found.n_reduced} searches)."
        )
    return text


def _say(as_json: bool, facts: dict[str, object], text: str) -> None:
    if as_json:
        console.emit(facts)
    else:
        click.echo(text)


@contextmanager
def _share_bar(what: str, quiet: bool) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr once there is progress; yields what takes the share done, 0 to 1."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
    task = progress.add_task(what, total=1.0, start=False)

    def show(share: float) -> None:
        if not progress.live.is_started:
            progress.start()
            progress.start_task(task)
        progress.update(task, completed=share)

    try:
        yield show
        show(1.0)
    finally:
        if progress.live.is_started:
            progress.stop()
