"""The HNSW indexes: built beside the traffic, switched, measured, cleaned up."""

import threading
from collections.abc import Iterator

import numpy as np
import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import search, search_index
from db.search import Query
from db.search_index import NotNeeded, SearchIndexError
from db.tables import ModelVersion, SearchIndex
from tests.builders import make_model_version
from tests.db.search_rows import Rows, add_sources, fill, represent

N = 600


@pytest.fixture
def rows(engine: Engine) -> Rows:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        return fill(session, N)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine, expire_on_commit=False) as session:
        yield session


def indexes(session: Session) -> list[str]:
    """Names of the HNSW indexes that PostgreSQL has, valid or not."""
    names = "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%USING hnsw%' ORDER BY 1"
    found = list(session.scalars(sa.text(names)))
    session.rollback()  # PostgreSQL drops no index under a transaction that has seen it
    return found


def how(session: Session, rows: Rows, metric: str = "l1") -> str:
    asked = Query(rows.vectors[0], rows.version.id, metric=metric, k=5)
    answer = search.nearest(session, asked)
    session.rollback()
    return answer.how


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_an_index_is_built_and_used(
    engine: Engine, session: Session, rows: Rows, metric: str
) -> None:
    shares: list[float] = []

    built = search_index.build(engine, rows.version, metric, force=True, progress=shares.append)

    assert (built.metric, built.n_rows, built.m, built.ef_construction) == (metric, N, 24, 128)
    assert built.build_seconds > 0
    assert built.size_bytes > 40 * 2 * N
    assert indexes(session) == [search_index.index_name(built.id)]
    assert how(session, rows, metric).startswith("Approximate: ")
    assert all(0 <= share <= 1 for share in shares)


def test_a_small_table_needs_no_index(engine: Engine, session: Session, rows: Rows) -> None:
    with pytest.raises(NotNeeded, match=f"has {N} representations: up to 20,000"):
        search_index.build(engine, rows.version)

    assert indexes(session) == []


def test_a_version_without_representations_cannot_be_indexed(
    engine: Engine, session: Session
) -> None:
    version = make_model_version(session, annotator="representations", name="e.1")
    session.commit()

    with pytest.raises(SearchIndexError, match=r"e\.1 has no representations in the reduced space"):
        search_index.build(engine, version, force=True)
    with pytest.raises(SearchIndexError, match="one of l1, l2, cosine, not 'l7'"):
        search_index.build(engine, version, "l7")


def test_building_anew_takes_the_newer_rows_in_and_drops_the_old_index(
    engine: Engine, session: Session, rows: Rows
) -> None:
    first = search_index.build(engine, rows.version, force=True)
    represent(session, session.merge(rows.run), add_sources(session, 5), rows.vectors[:5])
    session.commit()
    between = how(session, rows)

    second = search_index.build(engine, rows.version, force=True)

    assert "5 newer rows" in between
    assert second.n_rows == N + 5
    assert second.built_until == first.built_until + 5
    assert indexes(session) == [search_index.index_name(second.id)]
    assert how(session, rows) == (
        f"Approximate: L1 HNSW index of {N + 5} rows, recall not measured yet."
    )


def test_each_version_and_metric_has_its_index(
    engine: Engine, session: Session, rows: Rows
) -> None:
    other = fill(session, 50, seed=1, state="candidate")
    session.commit()

    for version, metric in ((rows.version, "l1"), (rows.version, "l2"), (other.version, "l1")):
        search_index.build(engine, version, metric, force=True)

    assert [index.metric for index in search_index.listed(session, rows.version)] == ["l1", "l2"]
    assert [index.n_rows for index in search_index.listed(session, other.version)] == [50]
    assert len(indexes(session)) == 3


def test_workers_write_while_an_index_is_built(
    engine: Engine, session: Session, rows: Rows
) -> None:
    written = threading.Event()

    def write(share: float) -> None:
        if not written.is_set():
            written.set()
            with Session(engine) as other, other.begin():
                run = other.merge(rows.run)
                represent(other, run, add_sources(other, 3), rows.vectors[:3])

    with Session(engine) as busy:  # holds the build up, as a worker's open transaction would
        busy.execute(sa.text("LOCK TABLE representation IN ROW EXCLUSIVE MODE"))
        release = threading.Timer(0.6, busy.rollback)
        release.start()
        built = search_index.build(engine, rows.version, force=True, progress=write)
        release.join()

    assert written.is_set()
    assert built.n_rows == N
    assert "3 newer rows compared exactly" in how(session, rows)


def test_a_failed_build_leaves_nothing_and_the_old_index_serves_on(
    engine: Engine, session: Session, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search_index.build(engine, rows.version, force=True)
    monkeypatch.setattr(search_index, "M", 1000)  # more than pgvector allows

    with pytest.raises(DBAPIError, match="value 1000 out of bounds"):
        search_index.build(engine, rows.version, force=True)

    assert indexes(session) == [search_index.index_name(first.id)]
    assert how(session, rows).startswith("Approximate")


def test_an_interrupted_build_is_cancelled_and_cleaned_up(
    engine: Engine, session: Session, rows: Rows
) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with Session(engine) as busy:  # so that the build takes long enough
        busy.execute(sa.text("LOCK TABLE representation IN ROW EXCLUSIVE MODE"))
        release = threading.Timer(1, busy.rollback)
        release.start()
        with pytest.raises(KeyboardInterrupt):
            search_index.build(engine, rows.version, force=True, progress=interrupt)
        release.join()

    assert indexes(session) == []
    assert session.scalars(sa.select(SearchIndex)).all() == []
    assert search_index.build(engine, rows.version, force=True).n_rows == N  # the lock is free


def test_what_a_killed_build_left_behind_is_cleaned_up(
    engine: Engine, session: Session, rows: Rows
) -> None:
    session.execute(
        sa.text(
            "CREATE INDEX ix_representation_hnsw_77 ON representation "
            "USING hnsw (reduced halfvec_l1_ops)"
        )
    )
    session.commit()

    built = search_index.build(engine, rows.version, force=True)

    assert indexes(session) == [search_index.index_name(built.id)]


def test_two_builds_at_once_are_refused(engine: Engine, rows: Rows) -> None:
    with search_index._alone(engine), pytest.raises(SearchIndexError, match="Another process"):
        search_index.build(engine, rows.version, force=True)


def test_little_shared_memory_makes_the_build_go_on_alone(
    engine: Engine, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    follow = search_index._follow

    def once_full(*arguments: object) -> None:
        tried.append(arguments[3])
        if len(tried) == 1:
            full = psycopg2.errors.DiskFull("could not resize shared memory segment")
            raise sa.exc.OperationalError("CREATE INDEX", {}, full)
        follow(*arguments)

    monkeypatch.setattr(search_index, "_follow", once_full)

    assert search_index.build(engine, rows.version, force=True).n_rows == N
    assert tried == [{}, {"max_parallel_maintenance_workers": 0}]


def test_indexes_of_retired_versions_are_dropped(
    engine: Engine, session: Session, rows: Rows
) -> None:
    retired = fill(session, 50, seed=1, state="retired", name="old.1")
    session.commit()
    search_index.build(engine, retired.version, force=True)
    kept = search_index.build(engine, rows.version, force=True)

    assert search_index.drop_retired(engine) == ["old.1"]
    assert search_index.drop_retired(engine) == []
    assert indexes(session) == [search_index.index_name(kept.id)]


def test_recall_is_measured_against_brute_force_and_stored(
    engine: Engine, session: Session, rows: Rows
) -> None:
    index = session.merge(search_index.build(engine, rows.version, force=True))
    done: list[int] = []

    measured = search_index.measure(
        session, index, k=10, n_queries=30, n_reduced=5, progress=done.append
    )
    search_index.record(session, index, measured)
    session.commit()

    assert measured.recall > 0.95
    assert measured.worst <= measured.recall <= 1
    assert (measured.k, measured.ef, measured.n_queries, measured.n_reduced) == (10, 100, 30, 5)
    assert measured.reduced is not None
    assert 0.5 < measured.reduced <= 1  # the embedding repeats eight of the components
    assert sum(done) == 35
    stored = session.get_one(SearchIndex, index.id, populate_existing=True)
    assert stored.recall == pytest.approx(measured.recall)
    assert (stored.recall_k, stored.recall_ef, stored.recall_queries) == (10, 100, 30)
    assert stored.recall_at is not None


def test_recall_counts_rows_as_far_as_the_last_as_found(engine: Engine, session: Session) -> None:
    rows = fill(session, 1)
    same = add_sources(session, 40)
    represent(session, session.merge(rows.run), same, np.ones((40, 40)))
    session.commit()
    index = session.merge(search_index.build(engine, rows.version, force=True))

    assert search_index.measure(session, index, k=3, n_queries=41).recall == 1


def test_a_poor_index_has_a_poor_recall(
    engine: Engine, session: Session, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "M", 2)
    monkeypatch.setattr(search_index, "EF_CONSTRUCTION", 4)
    index = session.merge(search_index.build(engine, rows.version, force=True))

    poor = search_index.measure(session, index, k=50, n_queries=30, ef=1)

    assert poor.recall < 0.9


def test_the_search_keeps_as_many_candidates_as_recall_was_measured_with(
    engine: Engine, session: Session, rows: Rows
) -> None:
    index = session.merge(search_index.build(engine, rows.version, force=True))
    seen: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def listen(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    search_index.record(session, index, search_index.measure(session, index, 5, 3, ef=321))
    seen.clear()
    search.nearest(session, Query(rows.vectors[0], rows.version.id, k=5))

    assert any("hnsw.ef_search = 321" in statement for statement in seen)


def test_an_index_whose_rows_are_gone_cannot_be_measured(
    engine: Engine, session: Session, rows: Rows
) -> None:
    index = session.merge(search_index.build(engine, rows.version, force=True))
    session.execute(sa.text("DELETE FROM representation"))

    with pytest.raises(SearchIndexError, match="build it anew"):
        search_index.measure(session, index)


def test_facts_about_an_index_are_about_a_version_that_exists(
    engine: Engine, session: Session, rows: Rows
) -> None:
    built = search_index.build(engine, rows.version, force=True)

    assert session.get_one(ModelVersion, built.model_version_id).name == rows.version.name
