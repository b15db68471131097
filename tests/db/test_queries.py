import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session

from db import queries
from db.pages import Position
from db.predicates import annotated_source
from db.queries import SORTS, Cone, Selection, Verdict, condition
from db.tables import Cutout, Job, Shred
from tests.builders import (
    make_catalog,
    make_cutout_block,
    make_cutout_set,
    make_model_version,
    make_run,
    make_shred,
    make_source,
    make_worker,
)
from tests.survey import Survey, fill

N_LARGE = 20_000
LARGE = {"source", "shred", "blend", "cutout"}  # tables that no page may read from end to end


@pytest.fixture
def survey(session: Session) -> Survey:
    return fill(session)


def ids(session: Session, selection: Selection, sort: str = "catalog", size: int = 7) -> list[int]:
    """Every source of a selection, page by page."""
    found, after = [], None
    while True:
        page, rows = queries.sources(session, selection, sort, size, after)
        found += [row["source_id"] for row in rows]
        if page.next is None:
            return found
        after = page.next


def keys(session: Session, selection: Selection, sort: str) -> list[Any]:
    columns = {"p": "p_shred", "blend": "p_blend", "mag": "mag_r", "catalog": "survey_id"}
    column = columns[sort.lstrip("-")]
    _, rows = queries.sources(session, selection, sort, 100)
    return [row[column] for row in rows]


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_shows_every_source_once(session: Session, survey: Survey, sort: str) -> None:
    found = ids(session, Selection(), sort)

    assert len(found) == 62
    assert len(set(found)) == 62


@pytest.mark.parametrize("sort", SORTS)
def test_pages_can_be_walked_back(session: Session, survey: Survey, sort: str) -> None:
    forwards = ids(session, Selection(), sort)
    end, _ = queries.sources(session, Selection(), sort, 62)
    start = queries.position_of(session, forwards[-1], Selection(), sort)

    page, rows = queries.sources(session, Selection(), sort, 61, before=start)

    assert [row["source_id"] for row in rows] == forwards[:-1]
    assert page.previous is None
    assert end.next is None


@pytest.mark.parametrize("sort", ["p", "blend", "mag"])
def test_an_order_and_its_reverse_keep_missing_values_last(
    session: Session, survey: Survey, sort: str
) -> None:
    up, down = keys(session, Selection(), sort), keys(session, Selection(), f"-{sort}")
    present = [key for key in up if key is not None]

    assert present == sorted(present)
    assert [key for key in down if key is not None] == present[::-1]
    assert set(up[len(present) :]) == set(down[len(present) :]) == {None}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(p_min=0.9), [18, 19, 38, 39, 58, 59]),
        (Selection(p_max=0.0), [0, 20, 40]),
        (Selection(p_min=0.35, p_max=0.35), [27, 47]),
        (Selection(opinion="missing"), [7, 8]),
        (Selection(opinion="flagged"), [7, 9]),
        (Selection(mag_min=20.25, mag_max=20.5), [13, 14, 28, 29, 44, 58]),
        (Selection(blend_min=0.97, blend_max=0.98), [44, 47]),
        (Selection(blend="disagree"), [41, 42]),
        (Selection(blend="both", p_min=0.3), [46, 47]),
        (Selection(survey_id="src-013"), [13]),
        (Selection(survey_id="src"), []),
        (Selection(cone=Cone(150.0, 2.0, 10.0)), [0, 1]),
        (Selection(cone=Cone(150.0, 2.0, 10.0), p_min=0.01), [1]),
    ],
)
def test_filters_select_what_they_say(
    session: Session, survey: Survey, selection: Selection, expected: list[int]
) -> None:
    in_field = Selection(**{**vars(selection), "catalog_id": survey.catalog.id})

    found = ids(session, in_field)
    by_view = select(annotated_source.c.source_id).where(condition(in_field))

    assert found == [survey.sources[k].id for k in expected]
    assert sorted(session.scalars(by_view)) == sorted(found)
    assert ids(session, in_field, "-p") != [] or expected == []
    assert queries.count(session, in_field) == queries.Count(len(expected), exact=True)


@pytest.mark.parametrize("sort", SORTS)
def test_sources_without_a_probability_have_pages_too(
    session: Session, survey: Survey, sort: str
) -> None:
    missing = Selection(opinion="missing", catalog_id=survey.catalog.id)

    found = ids(session, missing, sort, size=1)
    position = queries.position_of(session, found[1], missing, sort)
    before, _ = queries.sources(session, missing, sort, 5, before=position)

    assert sorted(found) == [survey.sources[k].id for k in (7, 8)]
    assert [row.id for row in before.rows] == found[:1]


def test_sources_with_a_probability_are_all_but_the_two_without(
    session: Session, survey: Survey
) -> None:
    assert queries.count(session, Selection(opinion="given")).n == 58


def test_a_cone_reaches_across_right_ascension_zero(session: Session) -> None:
    catalog = make_catalog(session)
    west = make_source(session, catalog, ra=359.999, dec=0.0, survey_id="a")
    east = make_source(session, catalog, ra=0.001, dec=0.0, survey_id="b")
    make_source(session, catalog, ra=0.1, dec=0.0)

    assert ids(session, Selection(cone=Cone(0.0, 0.0, 5.0))) == [west.id, east.id]


def test_a_probability_as_it_is_printed_finds_its_source(session: Session) -> None:
    version = make_model_version(session, state="current")
    shred = make_shred(session, run=make_run(session, version), p_shred=0.97)

    assert ids(session, Selection(p_min=0.97, p_max=0.97)) == [shred.source_id]


def test_a_count_that_would_take_long_is_an_estimate(
    session: Session, survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COUNT_COST", 0.0)

    assert queries.count(session, Selection()).exact is False


def test_an_export_yields_what_the_pages_show(
    session: Session, survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "EXPORT_ROWS", 11)
    selection = Selection(p_min=0.3)

    exported = [row["source_id"] for row in queries.every_source(session, selection, "-p")]

    assert exported == ids(session, selection, "-p")
    assert len(exported) == 40


def test_neighbours_are_the_nearest_of_the_same_catalog(session: Session, survey: Survey) -> None:
    (source,) = queries.annotated(session, [survey.sources[2].id])

    near = queries.neighbours(session, source, radius_arcsec=21, limit=3)

    found = [(row["survey_id"], round(row["separation_arcsec"], 3)) for row in near]
    assert found == [("src-003", 0.0), ("src-001", 10.0), ("src-000", 20.0)]


def test_opinions_come_with_their_run_and_the_current_version_first(
    session: Session, survey: Survey
) -> None:
    opinions = queries.opinions(session, Shred, survey.sources[5].id)

    assert [row.ModelVersion.name for row in opinions] == ["residual.v1", "published.v1"]
    assert [row.Shred.p_shred for row in opinions] == [0.25, 0.75]
    assert opinions[0].Run.id == survey.run.id
    assert opinions[0].Worker.host == "observatory"


def test_a_version_looked_at_a_source_in_the_set_of_its_finished_job(session: Session) -> None:
    catalog = make_catalog(session)
    source = make_source(session, catalog)
    pictures, light = (make_cutout_set(session, catalog) for _ in range(2))
    blocks = [make_cutout_block(session, each, [source]) for each in (pictures, light)]
    version = make_model_version(session, annotator="pair_flux")
    jobs = [
        Job(model_version_id=version.id, block_id=block.id, first=0, last=0, state="todo")
        for block in blocks
    ]
    session.add_all(jobs)
    session.flush()
    before = queries.looked_at(session, source.id, version.id)
    jobs[1].state = "done"
    session.flush()

    found = queries.looked_at(session, source.id, version.id)

    assert before is None
    assert found is light


def test_a_readable_cutout_is_shown_before_a_newer_one_without_image(session: Session) -> None:
    catalog = make_catalog(session)
    source = make_source(session, catalog)
    old, new = (make_cutout_set(session, catalog) for _ in range(2))
    for cutout_set in (old, new):
        make_cutout_block(session, cutout_set, [source])
    newest = queries.pictures(session, [source.id])[source.id].CutoutSet.id
    session.execute(update(Cutout).where(Cutout.cutout_set_id == new.id).values(flags=1))

    assert newest == new.id
    assert queries.pictures(session, [source.id])[source.id].CutoutSet.id == old.id


def test_workers_are_alive_lost_or_left(session: Session) -> None:
    silent = datetime.now(UTC) - timedelta(minutes=5)
    for host, values in {
        "gone home": {"stopped_at": datetime.now(UTC), "heartbeat_at": silent},
        "vanished": {"heartbeat_at": silent},
        "busy": {},
    }.items():
        make_worker(session, host=host, **values)

    found = [(row.Worker.host, row.state) for row in queries.workers(session)]

    assert found == [("busy", "alive"), ("vanished", "lost"), ("gone home", "left")]


def test_failed_jobs_come_with_their_errors(session: Session, survey: Survey) -> None:
    block = make_cutout_block(session, sources=survey.sources[:3])
    for state, error in (("failed", "bad pixels"), ("done", None)):
        position = 0 if state == "failed" else 1
        session.add(
            Job(
                model_version_id=survey.current.id,
                block_id=block.id,
                first=position,
                last=position,
                state=state,
                error=error,
            )
        )
    session.flush()

    (row,) = queries.failed_jobs(session)

    assert (row.Job.error, row.ModelVersion.name) == ("bad pixels", "residual.v1")


def test_rejections_are_listed_by_file_and_row(session: Session, survey: Survey) -> None:
    page = queries.rejections(session, survey.catalog.id, 10, None, None)

    assert [(row.file, row.row, row.reason) for row in page.rows] == [
        ("field.fits", 17, "ra is NaN")
    ]


@pytest.fixture(scope="module")
def large(shared_engine: Engine) -> Iterator[Session]:
    """A table large enough for the planner to prefer an index where there is one."""
    with shared_engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            catalog = make_catalog(session, name="large")
            run = make_run(session, make_model_version(session, state="current"))
            values = {"n": N_LARGE, "catalog": catalog.id, "run": run.id}
            session.execute(text(LARGE_SOURCES), values)
            session.execute(text(LARGE_SHREDS), values | {"version": run.model_version_id})
            blends = make_model_version(session, annotator="blends", state="current")
            values["run"] = make_run(session, blends).id
            session.execute(text(LARGE_BLENDS), values | {"version": blends.id})
            cutout_set = make_cutout_set(session, catalog)
            for number in range(N_LARGE // 1000):
                block = make_cutout_block(session, cutout_set, [], number=number)
                values = {"set": cutout_set.id, "block": block.id, "first": number * 1000}
                session.execute(text(LARGE_CUTOUTS), values | {"catalog": catalog.id})
            session.execute(text("ANALYZE source, shred, blend, cutout, catalog, representation"))
            yield session
        transaction.rollback()


LARGE_SOURCES = """
    INSERT INTO source (catalog_id, survey_id, ra, dec, healpix, mag_r)
    SELECT :catalog, 'large-' || k, k * 0.018, 0, k * 10::bigint ^ 14,
        15 + (k * 7919) % 997 / 100.0
    FROM generate_series(0, :n - 1) AS k
"""
LARGE_SHREDS = """
    INSERT INTO shred (source_id, model_version_id, p_shred, flags, run_id)
    SELECT id, :version, CASE WHEN id % 50 <> 7 THEN (id * 7919) % 1000 / 1000.0 END,
        CASE WHEN id % 500 = 0 THEN 4 ELSE 0 END, :run
    FROM source WHERE catalog_id = :catalog
"""
LARGE_BLENDS = """
    INSERT INTO blend (source_id, model_version_id, p_blend, sep_is_blend, flags, run_id)
    SELECT id, :version, CASE WHEN id % 40 <> 3 THEN (id * 7907) % 1000 / 1000.0 END,
        ((id * 7907) % 1000 >= 500) <> (id % 400 = 0), 0, :run
    FROM source WHERE catalog_id = :catalog
"""
LARGE_CUTOUTS = """
    INSERT INTO cutout (source_id, cutout_set_id, block_id, position)
    SELECT id, :set, :block, row_number() OVER () - 1
    FROM (SELECT id FROM source WHERE catalog_id = :catalog ORDER BY id OFFSET :first LIMIT 1000)
"""


def plans(session: Session, act: Any) -> list[dict[str, Any]]:
    """The plan nodes of every SELECT that a call sends."""
    sent: list[tuple[str, Any]] = []

    def keep(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            sent.append((statement, parameters))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", keep)
    act()
    event.remove(connection, "before_cursor_execute", keep)
    found = []
    for statement, parameters in sent:
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        found += list(_nodes(explained.scalar_one()[0]["Plan"]))
    return found


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def scanned(nodes: list[dict[str, Any]]) -> list[str]:
    """Large tables that a plan reads from end to end."""
    scans = [node.get("Relation Name") for node in nodes if node["Node Type"] == "Seq Scan"]
    return [name for name in scans if name in LARGE]


@pytest.mark.parametrize("sort", SORTS)
def test_a_page_in_the_middle_walks_an_index_without_scanning_or_sorting(
    large: Session, sort: str
) -> None:
    source_id = large.scalar(
        text(
            "SELECT source_id FROM annotated_source "
            "WHERE p_shred = 0.5 AND p_blend > 0.3 AND mag_r BETWEEN 19 AND 21 "
            "ORDER BY survey_id LIMIT 1"
        )
    )
    middle = queries.position_of(large, source_id, Selection(), sort)

    nodes = plans(large, lambda: queries.sources(large, Selection(), sort, 48, middle))

    sorts = [node for node in nodes if node["Node Type"] == "Sort"]
    assert scanned(nodes) == []
    assert not LARGE & {below.get("Relation Name") for node in sorts for below in _nodes(node)}, (
        json.dumps(nodes)[:2000]
    )


@pytest.mark.parametrize(
    "selection",
    [
        Selection(survey_id="large-777"),
        Selection(p_min=0.995),
        Selection(blend_min=0.995),
        Selection(opinion="flagged"),
        Selection(opinion="missing"),
        Selection(cone=Cone(10.0, 0.0, 60.0)),
        Selection(mag_min=15.0, mag_max=15.02),
    ],
)
def test_a_narrow_selection_is_found_by_an_index(large: Session, selection: Selection) -> None:
    nodes = plans(large, lambda: queries.sources(large, selection, "-p", 48))

    assert scanned(nodes) == []


@pytest.mark.parametrize("sort", ["catalog", "mag", "-p", "-blend"])
@pytest.mark.parametrize("word", ["disagree", "network", "sep"])
def test_rare_disagreements_are_taken_from_their_own_index(
    large: Session, word: Verdict, sort: str
) -> None:
    nodes = plans(large, lambda: queries.sources(large, Selection(blend=word), sort, 10))

    used = {node.get("Index Name") for node in nodes}
    assert scanned(nodes) == []
    assert "ix_blend_disagreement" in used, json.dumps(nodes)[:2000]


def test_a_page_of_disagreements_by_probability_is_not_sorted(large: Session) -> None:
    disagree = Selection(blend="disagree")
    first, _ = queries.sources(large, disagree, "-blend", 10)

    nodes = plans(large, lambda: queries.sources(large, disagree, "-blend", 10, first.next))

    sorts = [node for node in nodes if node["Node Type"] == "Sort"]
    conditions = [node.get("Index Cond", "") for node in nodes]
    assert not LARGE & {below.get("Relation Name") for node in sorts for below in _nodes(node)}
    assert any("ROW(" in condition and "p_blend" in condition for condition in conditions)


def test_a_position_far_into_ties_is_reached_by_the_index(large: Session) -> None:
    position = Position(0.5, 2**40)

    nodes = plans(
        large, lambda: queries.sources(large, Selection(opinion="given"), "-p", 5, position)
    )

    conditions = [node.get("Index Cond", "") for node in nodes]
    assert any("ROW(" in condition and "p_shred" in condition for condition in conditions)
