"""Search by example: the same neighbours as NumPy finds, whichever way leads to them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from db import queries, search, search_index
from db.engine import create_engine
from db.predicates import annotated_source as columns
from db.predicates import parse
from db.search import NoRepresentation, Query, SearchError, UnknownSource
from db.tables import N_REDUCED, ModelVersion, SearchIndex, Source, Upload
from tests.builders import (
    make_cutout_block,
    make_model_version,
    make_run,
    make_source,
)
from tests.conftest import new_database
from tests.db.search_rows import Rows, add_sources, fill, nearest_by_numpy, represent

N = 2000


@pytest.fixture
def rows(session: Session) -> Rows:
    return fill(session, N)


@pytest.fixture(scope="module")
def indexed(server_url: URL, template: URL) -> Iterator[tuple[Engine, Rows]]:
    """A database with two versions of N rows each, of which the first has an L1 index."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            rows = fill(session, N)
            other = fill(session, 0, state="candidate")
            represent(session, other.run, rows.source_ids, rows.vectors + 0.01)
        search_index.build(engine, rows.version, force=True)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE"))
        yield engine, rows
        engine.dispose()


@pytest.fixture
def walked(indexed: tuple[Engine, Rows]) -> Iterator[tuple[Session, Rows]]:
    """A session of that database, whose changes are undone."""
    engine, rows = indexed
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session, rows
        transaction.rollback()


def query(rows: Rows, i: int = 0, **values: Any) -> Query:
    """A search for the neighbours of row i, itself among them."""
    return Query(**({"vector": rows.vectors[i], "version_id": rows.version.id, "k": 20} | values))


def all_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from all_nodes(part)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_an_exact_search_finds_what_numpy_finds(session: Session, rows: Rows, metric: str) -> None:
    answer = search.nearest(session, query(rows, 7, metric=metric))

    ids, distances = nearest_by_numpy(rows, rows.vectors[7], metric, 20)
    assert answer.source_ids == ids
    assert answer.distances == pytest.approx(distances, rel=1e-5, abs=1e-6)
    assert answer.source_ids[0] == rows.source_ids[7]


def test_an_answer_says_how_it_was_found(session: Session, rows: Rows) -> None:
    answer = search.nearest(session, query(rows, metric="l2"))

    assert (answer.exact, answer.recall, answer.n_newer) == (True, None, 0)
    assert (answer.metric, answer.space, answer.version) == ("l2", "reduced", rows.version.name)
    name = rows.version.name
    assert (
        answer.how
        == f"Exact: all 2,000 representations of {name} were compared (L2, 40 components)."
    )


def test_the_full_embedding_is_searched_exactly(session: Session, rows: Rows) -> None:
    vector = search.vector_of(session, int(rows.source_ids[3]), rows.version, "embedding")

    answer = search.nearest(session, query(rows, vector=vector, space="embedding", k=5))

    assert vector.shape == (48,)
    assert answer.source_ids[0] == rows.source_ids[3]
    assert answer.how.endswith("were compared (L1, 48 numbers).")


def test_the_example_and_other_unwanted_sources_are_left_out(session: Session, rows: Rows) -> None:
    everyone = search.nearest(session, query(rows)).source_ids
    unwanted = everyone[:3]

    answer = search.nearest(session, query(rows, k=17, exclude=unwanted))

    assert answer.source_ids == everyone[3:]


def test_equal_distances_are_in_the_order_of_the_sources(session: Session) -> None:
    run = make_run(session, make_model_version(session, annotator="representations"))
    ids = add_sources(session, 30)
    represent(session, run, ids[::-1], np.ones((30, N_REDUCED)))

    answer = search.nearest(session, Query(np.zeros(N_REDUCED), run.model_version_id, k=10))

    assert answer.source_ids == ids[:10].tolist()
    assert answer.distances == [40.0] * 10


def test_more_neighbours_than_there_are_gives_all(session: Session, rows: Rows) -> None:
    answer = search.nearest(session, query(rows, k=10_000))

    assert sorted(answer.source_ids) == rows.source_ids.tolist()


def test_a_version_without_representations_gives_nothing(session: Session) -> None:
    version = make_model_version(session, annotator="representations")

    answer = search.nearest(session, Query(np.ones(N_REDUCED), version.id))

    assert answer.source_ids == []
    assert "all 0 representations" in answer.how


def test_a_zero_vector_is_no_neighbour_by_cosine(session: Session) -> None:
    run = make_run(session, make_model_version(session, annotator="representations"))
    ids = add_sources(session, 2)
    represent(session, run, ids, np.eye(2, N_REDUCED) * [[1], [0]])

    found = search.nearest(
        session, Query(np.eye(N_REDUCED)[0], run.model_version_id, metric="cosine")
    )

    assert found.source_ids == [ids[0]]
    assert found.distances == pytest.approx([0])


def test_uploads_are_never_found(session: Session, rows: Rows) -> None:
    first = int(rows.source_ids[0])
    session.add(
        Upload(token="t", source_id=first, file_name="f", sha256="0", media_type="image/png")
    )
    session.flush()

    answer = search.nearest(session, query(rows))

    assert first not in answer.source_ids
    assert answer.how.startswith("Exact: all 1,999 ")


@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_a_filtered_search_finds_the_nearest_that_pass(
    session: Session, rows: Rows, share: float
) -> None:
    limit = 15 + 10 * share - 0.005

    answer = search.nearest(session, query(rows, where=columns.c.mag_r < limit))

    ids, _ = nearest_by_numpy(rows, rows.vectors[0], "l1", 20, rows.mag_r < limit)
    assert answer.source_ids == ids
    assert len(ids) == min(20, share * N)
    assert "that pass the filter" in answer.how


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_filtered_search_of_the_index_finds_them_too(
    walked: tuple[Session, Rows], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    session, rows = walked
    limit = 15 + 10 * share - 0.005
    monkeypatch.setattr(search, "FEW_ROWS", 0)  # so that no filter is thought selective

    answer = search.nearest(session, query(rows, where=columns.c.mag_r < limit))

    ids, _ = nearest_by_numpy(rows, rows.vectors[0], "l1", 20, rows.mag_r < limit)
    assert answer.source_ids == ids
    assert answer.exact == (share < 0.01)  # too few rows pass: the index gives up
    assert answer.exact or "rows that fail the filter were passed over" in answer.how


def test_a_filter_that_the_index_gives_up_on_is_answered_exactly(
    walked: tuple[Session, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, rows = walked
    monkeypatch.setattr(search, "FEW_ROWS", 0)
    monkeypatch.setattr(search, "MAX_SCAN_TUPLES", 1)
    where = columns.c.mag_r < 15.095

    answer = search.nearest(session, query(rows, where=where, k=25))

    ids, _ = nearest_by_numpy(rows, rows.vectors[0], "l1", 25, rows.mag_r < 15.095)
    assert answer.exact
    assert answer.source_ids == ids


def test_a_filter_that_few_rows_pass_is_applied_first(walked: tuple[Session, Rows]) -> None:
    session, rows = walked

    answer = search.nearest(session, query(rows, where=columns.c.mag_r < 16))

    assert answer.exact


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mag_g < 18", " mag_g has no value for any of the sources searched."),
        (
            "mag_g < 18 AND mag_r < 18 AND p_shred < 1",
            " mag_g and p_shred have no value for any of the sources searched.",
        ),
        ("extra ->> 'flux' = '1'", " extra ->> 'flux' has no value for any of the"),
        ("mag_r < 1", "were compared (L1, 40 components)."),
    ],
)
def test_an_answer_without_sources_names_what_none_of_them_has(
    session: Session, rows: Rows, text: str, said: str
) -> None:
    make_source(session, mag_g=17.0)  # not searched, because it has no vector

    answer = search.nearest(session, query(rows, where=parse(text)))

    assert answer.source_ids == []
    assert said in answer.how
    assert ("no value" in answer.how) == ("no value" in said)


def test_where_nothing_is_searched_no_filter_is_to_blame(session: Session) -> None:
    version = make_model_version(session, annotator="representations")
    make_source(session)

    answer = search.nearest(
        session, Query(np.ones(N_REDUCED), version.id, where=columns.c.mag_r < 18)
    )

    assert "no value" not in answer.how


def test_a_filter_that_takes_long_to_explain_is_left_unexplained(
    session: Session, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXPLAIN_LIMIT", 0.001)
    slow = sa.func.nullif(sa.cast(sa.func.pg_sleep(0.01), sa.Text()), "")
    monkeypatch.setattr(search, "_parts", lambda where: {"mag_g": slow})

    answer = search.nearest(session, query(rows, where=columns.c.mag_g < 18))

    assert "no value" not in answer.how
    assert search.nearest(session, query(rows)).source_ids  # the transaction goes on


def test_a_filter_that_cannot_be_computed_is_said_and_spares_the_transaction(
    session: Session, rows: Rows
) -> None:
    where = sa.func.power(columns.c.mag_r, 1000) > 1

    with pytest.raises(SearchError, match="cannot compute the filter: value out of range"):
        search.nearest(session, query(rows, where=where))

    assert search.nearest(session, query(rows)).source_ids


def test_a_filtered_search_keeps_what_the_caller_has_not_stored_yet(
    session: Session, rows: Rows
) -> None:
    session.add(
        Upload(
            token="t",
            source_id=int(rows.source_ids[0]),
            file_name="f",
            sha256="0",
            media_type="image/png",
        )
    )

    search.nearest(session, query(rows, where=columns.c.mag_r < 16))

    session.expire_all()
    assert session.get(Upload, "t") is not None


@pytest.mark.parametrize("i", [0, 11, 222, 1333])
def test_the_index_finds_what_an_exact_search_finds(walked: tuple[Session, Rows], i: int) -> None:
    session, rows = walked

    by_index = search.nearest(session, query(rows, i))
    exactly = search.nearest(session, query(rows, i, exact=True))

    assert not by_index.exact
    assert exactly.exact
    assert by_index.source_ids == exactly.source_ids
    assert by_index.distances == exactly.distances


def test_an_answer_by_index_states_its_recall(walked: tuple[Session, Rows]) -> None:
    session, rows = walked
    index = search.usable_index(session, rows.version.id, "l1")
    assert index is not None

    before = search.nearest(session, query(rows))
    search_index.record(session, index, search_index.measure(session, index, k=20, n_queries=20))
    after = search.nearest(session, query(rows))

    assert before.how == "Approximate: L1 HNSW index of 2,000 rows, recall not measured yet."
    assert (before.recall, before.recall_k) == (None, None)
    assert after.recall == pytest.approx(1, abs=0.05)
    assert after.recall_k == 20
    assert "measured recall@20 " in after.how


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": 21}, "recall not measured for 21 neighbours, only for 20"),
        ({"where": columns.c.mag_r < 24}, "recall not measured for searches with a filter"),
    ],
)
def test_a_recall_is_stated_only_for_searches_as_it_was_measured_with(
    walked: tuple[Session, Rows],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    reason: str,
) -> None:
    session, rows = walked
    monkeypatch.setattr(search, "FEW_ROWS", 0)
    index = search.usable_index(session, rows.version.id, "l1")
    assert index is not None
    search_index.record(session, index, search_index.measure(session, index, k=20, n_queries=5))

    answer = search.nearest(session, query(rows, **change))

    assert not answer.exact
    assert (answer.recall, answer.recall_k) == (None, None)
    assert reason in answer.how
    assert "measured recall" not in answer.how


def test_rows_newer_than_the_index_are_found(walked: tuple[Session, Rows]) -> None:
    session, rows = walked
    ids = add_sources(session, 3)
    represent(session, session.merge(rows.run), ids, rows.vectors[:3])

    answer = search.nearest(session, query(rows, 1))

    assert set(answer.source_ids[:2]) == {rows.source_ids[1], ids[1]}
    assert answer.distances[:2] == [0, 0]
    assert answer.n_newer == 3
    assert answer.how.endswith("; 3 newer rows compared exactly.")


def test_many_newer_rows_are_estimated_and_the_answer_says_to_build_the_index_anew(
    walked: tuple[Session, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, rows = walked
    monkeypatch.setattr(search, "COUNTED_ROWS", 100)
    monkeypatch.setattr(search, "MANY_NEWER", 100)
    ids = add_sources(session, 300)
    represent(session, session.merge(rows.run), ids, rows.vectors[:300])

    answer = search.nearest(session, query(rows, 1))

    assert set(answer.source_ids[:2]) == {rows.source_ids[1], ids[1]}
    assert answer.n_newer >= 100
    assert "300 newer rows" not in answer.how  # they are not counted one by one
    assert answer.how.endswith("build the index anew with `skygloss models index`.")


def test_a_filter_that_the_planner_underestimates_is_not_kept_row_by_row(
    session: Session, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.execute(sa.text("UPDATE source SET extra = jsonb_build_object('kind', 'galaxy')"))
    session.execute(sa.text("ANALYZE source, representation"))
    monkeypatch.setattr(search, "COUNTED_ROWS", 100)
    where = parse("extra ->> 'kind' = 'galaxy'")  # all, but 0.5 % by the planner's guess

    answer = search.nearest(session, query(rows, where=where))

    assert answer.source_ids == nearest_by_numpy(rows, rows.vectors[0], "l1", 20)[0]
    assert answer.how.startswith("Exact: all (more than 100) representations of ")


def test_a_filter_that_more_pass_than_the_planner_expects_is_left_to_the_index(
    walked: tuple[Session, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, rows = walked
    monkeypatch.setattr(search, "COUNTED_ROWS", 100)
    monkeypatch.setattr(search, "FEW_ROWS", 10_000)
    where = columns.c.mag_r < 20

    answer = search.nearest(session, query(rows, where=where))

    assert not answer.exact
    wanted = nearest_by_numpy(rows, rows.vectors[0], "l1", 20, rows.mag_r < 20)[0]
    assert answer.source_ids == wanted


def test_rows_that_were_deleted_are_not_found(walked: tuple[Session, Rows]) -> None:
    session, rows = walked
    first = search.nearest(session, query(rows)).source_ids
    session.execute(sa.delete(Source).where(Source.id.in_(first[:5])))

    answer = search.nearest(session, query(rows, k=15))

    assert answer.source_ids == first[5:]


def test_more_neighbours_than_the_index_has_rows_are_found(walked: tuple[Session, Rows]) -> None:
    session, rows = walked

    answer = search.nearest(session, query(rows, k=5000))

    assert answer.exact
    assert len(answer.source_ids) == N


def test_versions_never_mix(walked: tuple[Session, Rows]) -> None:
    session, rows = walked
    other = session.scalars(sa.select(ModelVersion).where(ModelVersion.state == "candidate")).one()

    first = search.nearest(session, query(rows))
    second = search.nearest(session, query(rows, version_id=other.id))

    assert (first.exact, second.exact) == (False, True)  # the other has no index
    assert first.distances[0] == 0
    assert second.distances[0] > 0.1
    assert second.version == other.name


def test_a_metric_without_index_is_searched_exactly(walked: tuple[Session, Rows]) -> None:
    session, rows = walked

    answer = search.nearest(session, query(rows, metric="cosine"))

    assert answer.exact
    assert answer.source_ids == nearest_by_numpy(rows, rows.vectors[0], "cosine", 20)[0]


def test_an_index_that_is_gone_is_not_used(walked: tuple[Session, Rows]) -> None:
    session, rows = walked
    index = session.scalars(sa.select(SearchIndex)).one()
    session.execute(sa.text(f"DROP INDEX {search_index.index_name(index.id)}"))

    assert search.nearest(session, query(rows)).exact


def test_a_search_leaves_the_settings_of_the_transaction_alone(
    walked: tuple[Session, Rows],
) -> None:
    session, rows = walked
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "enable_seqscan", "enable_sort")
    settings = sa.select(*(sa.func.current_setting(name) for name in names))
    session.execute(sa.text("SET LOCAL hnsw.ef_search = 17"))
    before = session.execute(settings).one()

    search.nearest(session, query(rows))

    assert session.execute(settings).one() == before
    assert before[0] == "17"


def test_a_search_by_index_reads_the_index_and_an_exact_one_never_does(
    walked: tuple[Session, Rows],
) -> None:
    session, rows = walked
    index = search.usable_index(session, rows.version.id, "l1")
    assert index is not None
    name = search_index.index_name(index.id)
    asked = query(rows, exclude=[1])
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))  # even if it would rather

    by_index = search.walk_statement(asked, index)
    filtered = search.walk_statement(replace(asked, where=columns.c.mag_r < 20), index)
    exact = search.candidates(asked).order_by("distance").limit(20)

    for statement in (by_index, filtered):
        limit = queries.explain(session, statement)
        scan = limit["Plans"][0]  # nothing sorts in between
        assert limit["Node Type"] == "Limit"
        assert "Order By" in scan
        assert scan["Index Name"] == name
    nodes = list(all_nodes(queries.explain(session, exact)))
    assert name not in [node.get("Index Name") for node in nodes]
    assert any("Sort" in node["Node Type"] for node in nodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "from 1 to 10,000, not 0"),
        ({"k": 10_001}, "from 1 to 10,000, not 10,001"),
        ({"metric": "l3"}, "one of l1, l2, cosine, not 'l3'"),
        ({"space": "pixel"}, "one of reduced, embedding, not 'pixel'"),
        ({"vector": np.ones(39)}, r"has shape \(40,\), not \(39,\)"),
        ({"vector": np.ones((1, 40))}, r"has shape \(40,\), not \(1, 40\)"),
        ({"vector": np.full(40, np.nan)}, "finite numbers up to 65,504; this one reaches nan"),
        ({"vector": np.full(40, 7e4)}, "finite numbers up to 65,504"),
        ({"vector": np.ones(40), "space": "embedding"}, r"has shape \(48,\), not \(40,\)"),
        ({"vector": np.zeros(40), "metric": "cosine"}, "has no direction"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(
    session: Session, change: dict[str, Any], message: str
) -> None:
    rows = fill(session, 10)

    with pytest.raises(SearchError, match=message):
        search.nearest(session, query(rows, **change))


def test_a_source_that_does_not_exist_has_no_vector(session: Session) -> None:
    version = make_model_version(session, annotator="representations")

    with pytest.raises(UnknownSource, match="There is no source 987654321"):
        search.vector_of(session, 987654321, version)


def test_a_source_without_vector_says_why(session: Session) -> None:
    run = make_run(session, make_model_version(session, annotator="representations", name="e.1"))
    version = session.get_one(ModelVersion, run.model_version_id)
    bare, waiting, broken, unreduced = (make_source(session) for _ in range(4))
    make_cutout_block(session, sources=[waiting])
    nothing = np.full((1, N_REDUCED), np.nan)
    represent(session, run, [broken.id], nothing, flags=2)
    represent(session, run, [unreduced.id], nothing, np.ones((1, 8)))

    for source, reason in (
        (bare, "it has no image. Bring images in"),
        (waiting, "it has not been annotated yet"),
        (broken, "unreadable image"),
        (unreduced, "no principal components"),
    ):
        with pytest.raises(NoRepresentation, match=reason) as caught:
            search.vector_of(session, source.id, version)
        assert f"Source {source.survey_id} ({source.id}) has no representation by e.1" in str(
            caught.value
        )


def test_a_set_of_examples_is_their_mean_moved_away_from_the_others() -> None:
    like, unlike = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[0.0, 0.0], [2.0, 2.0]])

    assert search.vector_of_set(like).tolist() == [2, 2]
    assert search.vector_of_set(like, unlike).tolist() == [2.5, 2.5]
    assert search.vector_of_set(like + 7, unlike + 7).tolist() == [9.5, 9.5]


def test_a_set_needs_an_example_to_be_like() -> None:
    with pytest.raises(SearchError, match="at least one source"):
        search.vector_of_set([], [[1.0, 2.0]])


def test_the_source_at_a_position_is_the_nearest_that_has_a_vector(session: Session) -> None:
    run = make_run(session, make_model_version(session, annotator="representations"))
    version = session.get_one(ModelVersion, run.model_version_id)
    near = make_source(session, ra=359.9999, dec=60.0)
    make_source(session, ra=0.0, dec=60.0)  # nearer, but without a vector
    represent(session, run, [near.id], np.ones((1, N_REDUCED)))

    place = search.source_at(session, 0.0, 60.0, version)

    assert place.source_id == near.id
    assert place.separation_arcsec == pytest.approx(0.0001 * 3600 / 2, rel=1e-6)
    assert place.warning == ""


def test_a_source_that_is_not_quite_at_the_position_comes_with_a_warning(
    session: Session,
) -> None:
    run = make_run(session, make_model_version(session, annotator="representations"))
    version = session.get_one(ModelVersion, run.model_version_id)
    source = make_source(session, ra=10.0, dec=-5.0)
    represent(session, run, [source.id], np.ones((1, N_REDUCED)))

    place = search.source_at(session, 10.0, -5.0 + 2.5 / 3600, version)

    assert "is 2.5 arcsec from the position asked for" in place.warning


def test_a_position_off_the_footprint_is_refused_with_the_nearest_source(session: Session) -> None:
    version = make_model_version(session, annotator="representations")

    with pytest.raises(UnknownSource, match="no sources yet"):
        search.source_at(session, 10, 10, version)

    make_source(session, ra=10.0, dec=10.0, survey_id="alone")
    with pytest.raises(
        UnknownSource, match=r"No source is within 60 arcsec .* alone, is 2\.00 degrees"
    ):
        search.source_at(session, 10, 12, version)
    with pytest.raises(UnknownSource, match="alone, is 90 arcsec away"):
        search.source_at(session, 10, 10.025, version)
    with pytest.raises(NoRepresentation, match=r"alone .* it has no image"):
        search.source_at(session, 10, 10.001, version)


def test_the_current_version_is_searched_unless_another_is_named(session: Session) -> None:
    with pytest.raises(SearchError, match="No version of the representations is current yet"):
        search.version(session)

    current = make_model_version(session, annotator="representations", state="current")
    other = make_model_version(session, annotator="representations", name="e.2")

    assert search.version(session) == current
    assert search.version(session, "e.2") == other
    with pytest.raises(SearchError, match=r"no version 'x' .* known: e\.2"):
        search.version(session, "x")


def test_the_table_has_the_columns_of_the_view(session: Session) -> None:
    types = queries.column_types(session)

    dialect = session.connection().dialect
    ours = {c.name: c.type.compile(dialect=dialect).lower() for c in columns.c}
    assert ours == types
