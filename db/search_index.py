"""The HNSW indexes that make searches quick: build them beside the traffic, measure and drop them.

An index covers `representation.reduced` of one version, for one metric, up to the newest row at the
time; later rows are compared one by one until it is built anew. Searching is for `db.search`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import psycopg2
from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db import search
from db.search import METRICS, Metric, Query
from db.tables import ModelVersion, Representation, SearchIndex

M = 24  # links per row; with 16 and 64 candidates some regions could not be reached
EF_CONSTRUCTION = 128
SMALL = 20_000  # rows up to which comparing them all is as quick as an index
KILOBYTES_PER_ROW = 1.5  # of memory that building takes
MAX_MEMORY = 2 * 2**20  # kilobytes to ask of the server; a larger index is built more slowly
POLL = 0.2  # seconds between looks at the progress
LOCK = 7_243_158_020  # number of the advisory lock: one build at a time
PREFIX = "ix_representation_hnsw_"


class SearchIndexError(RuntimeError):
    """An index cannot be built or measured; the message says why and what to do."""


class NotNeeded(SearchIndexError):  # noqa: N818 (it reads as what happened)
    """So few rows that an index would not make searches quicker."""


@dataclass(frozen=True)
class Recall:
    """How well an index finds the true neighbours.

    Attributes
    ----------
    recall : float
        Mean share of the k nearest rows that the index finds; a row as near as the k-th counts.
    worst : float
        The smallest share of any search.
    k, ef, n_queries : int
    reduced : float or None
        Mean share of the k nearest in the full embedding that are among the k nearest in the
        reduced space, exact on both sides; None where it was not measured.
    n_reduced : int
        Searches that `reduced` was measured on.
    """

    recall: float
    worst: float
    k: int
    ef: int
    n_queries: int
    reduced: float | None
    n_reduced: int


def build(
    engine: Engine,
    version: ModelVersion,
    metric: str = "l1",
    force: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> SearchIndex:
    """Build the index of a version and metric over every row there is now, and start to use it.

    Workers write and searches run meanwhile: an index that is there already serves until the new
    one is ready, and is dropped then. What an interrupted build left behind is cleaned up first.

    Parameters
    ----------
    force : bool
        Build even if there are so few rows that searching without an index is as quick.
    progress : callable
        Called now and then with the share of the rows done, 0 to 1.

    Raises
    ------
    NotNeeded
        There are at most SMALL rows.
    SearchIndexError
        There is nothing to index, or another build is running.
    """
    if metric not in METRICS:
        raise SearchIndexError(f"The metric is one of {', '.join(METRICS)}, not {metric!r}.")
    with _alone(engine) as connection:
        _drop_leftovers(connection)
        n_rows, built_until = _extent(connection, version)
        if n_rows <= SMALL and not force:
            raise NotNeeded(
                f"{version.name} has {n_rows:,} representations: up to {SMALL:,}, comparing them "
                "all takes a few milliseconds, so that no index is needed."
            )
        started = time.monotonic()
        index = SearchIndex(
            id=_next_id(connection),
            model_version_id=version.id,
            metric=metric,
            built_until=built_until,
            n_rows=n_rows,
            m=M,
            ef_construction=EF_CONSTRUCTION,
        )
        _create(engine, connection, index, progress)
        index.build_seconds = time.monotonic() - started
        _switch(engine, index)
        _drop_leftovers(connection)
    with Session(engine) as session:
        return session.get_one(SearchIndex, index.id)


def index_name(search_index_id: int) -> str:
    """Return the name that an index has in PostgreSQL."""
    return f"{PREFIX}{search_index_id:d}"


def listed(session: Session, version: ModelVersion) -> Sequence[SearchIndex]:
    """Return what is known of the indexes of a version."""
    wanted = SearchIndex.model_version_id == version.id
    return session.scalars(select(SearchIndex).where(wanted).order_by(SearchIndex.metric)).all()


def drop_retired(engine: Engine) -> list[str]:
    """Drop the indexes of retired versions; return the names of those versions."""
    with _alone(engine) as connection:
        retired = connection.execute(
            text(
                "DELETE FROM search_index USING model_version AS version "
                "WHERE version.id = model_version_id AND version.state = 'retired' "
                "RETURNING version.name"
            )
        )
        names = sorted(set(retired.scalars()))
        _drop_leftovers(connection)
    return names


def measure(
    session: Session,
    index: SearchIndex,
    k: int = 50,
    n_queries: int = 200,
    ef: int | None = None,
    n_reduced: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Recall:
    """Compare an index with brute force, in searches for the neighbours of its own rows.

    Parameters
    ----------
    k, n_queries : int
        Neighbours of each search, and searches: always for the same rows.
    ef : int, optional
        `hnsw.ef_search`, at least 2 k; default what searches use.
    n_reduced : int
        Of these searches, how many to repeat in the full embedding.
    progress : callable
        Called with the number of further searches done, of n_queries + n_reduced at most.

    Raises
    ------
    SearchIndexError
        None of the rows of the index is there any more.
    """
    ef = search.enough_candidates(k, ef or index.recall_ef)
    shares = []
    for query in _sample(session, index, k, n_queries):
        shares.append(_share_found(session, query, index, ef))
        progress(1)
    if not shares:
        raise SearchIndexError("None of the rows in this index is there any more: build it anew.")
    kept = []
    for query in _sample(session, index, k, n_reduced):
        if (share := _share_kept(session, query)) is not None:
            kept.append(share)
        progress(1)
    return Recall(
        recall=float(np.mean(shares)),
        worst=min(shares),
        k=k,
        ef=ef,
        n_queries=len(shares),
        reduced=float(np.mean(kept)) if kept else None,
        n_reduced=len(kept),
    )


def record(session: Session, index: SearchIndex, measured: Recall) -> None:
    """Store a measured recall beside its index; searches use its `ef` from now on."""
    index.recall = measured.recall
    index.recall_k = measured.k
    index.recall_ef = measured.ef
    index.recall_queries = measured.n_queries
    index.recall_at = session.scalar(select(func.now()))
    session.flush()


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Connect with autocommit, as the only one who builds or drops indexes."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Not the waiting kind of lock: who waits holds a snapshot, and the build waits for that.
        if not connection.scalar(select(func.pg_try_advisory_lock(LOCK))):
            raise SearchIndexError(
                "Another process is building or dropping a search index; try again when it is done."
            )
        try:
            yield connection
        finally:
            connection.execute(select(func.pg_advisory_unlock(LOCK)))


def _drop_leftovers(connection: Connection) -> None:
    """Drop indexes that nothing refers to or that are not valid, and facts about none."""
    names = connection.execute(
        text(
            "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE indrelid = CAST('representation' AS regclass) AND starts_with(relname, :prefix) "
            "AND (NOT indisvalid OR NOT EXISTS "
            "(SELECT FROM search_index WHERE relname = :prefix || search_index.id))"
        ),
        {"prefix": PREFIX},
    )
    for name in names.scalars().all():
        _drop(connection, name)
    facts = "DELETE FROM search_index WHERE to_regclass(:prefix || id) IS NULL"
    connection.execute(text(facts), {"prefix": PREFIX})


def _drop(connection: Connection, name: str) -> None:
    quoted = connection.dialect.identifier_preparer.quote(name)
    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted}"))


def _extent(connection: Connection, version: ModelVersion) -> tuple[int, int]:
    """Count the rows with a vector, and find the ordinal of the newest."""
    n_rows, last = connection.execute(
        select(func.count(), func.max(Representation.ordinal)).where(
            Representation.model_version_id == version.id, Representation.reduced.is_not(None)
        )
    ).one()
    if not n_rows:
        raise SearchIndexError(
            f"{version.name} has no representations in the reduced space yet: a worker makes them, "
            "`skygloss annotate`."
        )
    return n_rows, last


def _next_id(connection: Connection) -> int:
    sequence = func.pg_get_serial_sequence("search_index", "id")
    number: int = connection.scalars(select(func.nextval(sequence))).one()
    return number


def _create(
    engine: Engine,
    connection: Connection,
    index: SearchIndex,
    progress: Callable[[float], None],
) -> None:
    """Run CREATE INDEX; nothing of the index is left if that fails."""
    name = index_name(index.id)
    statement = (
        f"CREATE INDEX CONCURRENTLY {name} ON representation "
        f"USING hnsw (reduced halfvec_{index.metric}_ops) "
        f"WITH (m = {index.m:d}, ef_construction = {index.ef_construction:d}) "
        f"WHERE model_version_id = {index.model_version_id:d} AND ordinal <= {index.built_until:d}"
    )
    memory = min(MAX_MEMORY, round(KILOBYTES_PER_ROW * index.n_rows))
    try:
        try:
            _follow(engine, statement, memory, {}, progress)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg2.errors.DiskFull):
                raise
            # Workers share the memory, of which containers often have little: alone it may do.
            _drop(connection, name)
            _follow(engine, statement, memory, {"max_parallel_maintenance_workers": 0}, progress)
    except BaseException:
        _drop(connection, name)
        raise


def _follow(
    engine: Engine,
    statement: str,
    kilobytes: int,
    settings: dict[str, Any],
    progress: Callable[[float], None],
) -> None:
    """Run a statement in a thread, and follow its progress in this one."""
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as builder,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher,
        ThreadPoolExecutor(1) as threads,
    ):
        builder.detach()  # so that nobody inherits its settings
        pid = builder.scalar(select(func.pg_backend_pid()))
        memory = builder.scalar(
            text("SELECT setting FROM pg_settings WHERE name = 'maintenance_work_mem'")
        )
        enough = {"statement_timeout": 0, "maintenance_work_mem": max(int(memory), kilobytes)}
        for name, value in (enough | settings).items():
            builder.execute(select(func.set_config(name, str(value), False)))
        building = threads.submit(builder.execute, text(statement))
        try:
            while wait([building], timeout=POLL).not_done:
                progress(_share_built(watcher, pid))
        except BaseException:
            watcher.execute(select(func.pg_cancel_backend(pid)))
            raise
        building.result()


def _share_built(watcher: Connection, pid: int | None) -> float:
    """Share of the table that CREATE INDEX has read, 0 to 1; what follows that is quick."""
    share = watcher.scalar(
        text(
            "SELECT CASE WHEN phase LIKE 'building index%' "
            "THEN blocks_done / greatest(blocks_total, 1)::float8 "
            "ELSE (phase LIKE 'index validation%')::int END "
            "FROM pg_stat_progress_create_index WHERE pid = :pid"
        ),
        {"pid": pid},
    )
    return float(share or 0)


def _switch(engine: Engine, index: SearchIndex) -> None:
    """Let searches use an index in place of the one before."""
    name = index_name(index.id)
    facts = {
        column.name: getattr(index, column.key)
        for column in SearchIndex.__table__.c
        if getattr(index, column.key) is not None
    }
    before = (SearchIndex.model_version_id == index.model_version_id) & (
        SearchIndex.metric == index.metric
    )
    with engine.begin() as connection:
        facts["size_bytes"] = connection.scalar(select(func.pg_relation_size(name)))
        connection.execute(delete(SearchIndex).where(before))
        columns = ", ".join(facts)
        values = ", ".join(f":{column}" for column in facts)
        # The id is chosen beforehand, because the index is named by it.
        insert = f"INSERT INTO search_index ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"  # noqa: S608
        connection.execute(text(insert), facts)


def _sample(session: Session, index: SearchIndex, k: int, n: int) -> Iterator[Query]:
    """Yield searches for the neighbours of n rows of an index, drawn by lot but always the same."""
    drawn = (
        select(Representation.source_id, Representation.reduced)
        .where(*_indexed(index))
        .order_by(func.hashint8extended(Representation.ordinal, 1))
        .limit(n)
    )
    for row in session.execute(drawn).all():
        vector = np.asarray(row.reduced, dtype=np.float32)
        if index.metric != "cosine" or vector.any():
            yield Query(
                vector=vector,
                version_id=index.model_version_id,
                metric=cast(Metric, index.metric),
                k=k,
                exclude=[row.source_id],
            )


def _indexed(index: SearchIndex) -> tuple[ColumnElement[bool], ...]:
    return (
        Representation.model_version_id == index.model_version_id,
        Representation.ordinal <= index.built_until,
        Representation.reduced.is_not(None),
    )


def _share_found(session: Session, query: Query, index: SearchIndex, ef: int) -> float:
    """Share of the true neighbours that the index finds; ties with the farthest count as found."""
    within = Representation.ordinal <= index.built_until
    true = search.scan(session, query, index.n_rows, within).rows
    found = search.walk(session, query, index, ef)
    if not true:
        return 1.0
    return sum(row.distance <= true[-1].distance for row in found) / len(true)


def _share_kept(session: Session, query: Query) -> float | None:
    """Share of the neighbours in the full embedding that are neighbours in the reduced space."""
    (source_id,) = query.exclude
    version = session.get_one(ModelVersion, query.version_id)
    vector = search.vector_of(session, source_id, version, "embedding")
    full = replace(query, vector=vector, space="embedding", exact=True)
    in_full = search.nearest(session, full).source_ids
    in_reduced = search.nearest(session, replace(query, exact=True)).source_ids
    return len(set(in_full) & set(in_reduced)) / len(in_full) if in_full else None
