"""Exposures on the way of the worker: sources first, then the exposure they make up."""

import threading

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, func
from sqlalchemy.orm import Session

from db import annotations, jobs, model_versions
from db.tables import (
    ExposureCell,
    ExposureHistogram,
    Job,
    ModelVersion,
    Prototype,
    Shred,
    SourceCell,
)
from models.registry import Card
from tests.workers.fake import (
    COLUMNS,
    MAPS,
    ROWS,
    FakeAnnotator,
    FakeExposureMap,
    FakeSourceMap,
    fake_cards,
    make_runner,
)
from tests.workers.field import make_exposures, make_field, rows_per_exposure, wait_for
from workers.runner import Runner

pytestmark = pytest.mark.usefixtures("environment")
ODD = ROWS * COLUMNS - 1  # the cell that makes the fake stumble


def all_of(engine: Engine, statement: sa.Select) -> list:
    with Session(engine) as session:
        return list(session.scalars(statement))


def count(engine: Engine, table: type) -> int:
    return all_of(engine, sa.select(func.count()).select_from(table))[0]


def cells(engine: Engine) -> dict[int, tuple[int, int]]:
    with Session(engine) as session:
        rows = session.scalars(sa.select(ExposureCell))
        return {row.exposure_id: (row.cell_row, row.cell_column) for row in rows}


def job_states(engine: Engine, annotator: str) -> list[str]:
    mine = sa.select(Job.state).join(ModelVersion).where(ModelVersion.annotator == annotator)
    return all_of(engine, mine.order_by(Job.block_id, Job.id))


def with_cards(runner: Runner, *cards: Card) -> Runner:
    """A runner whose installation has these versions."""
    runner.station.cards = lambda annotator: [c for c in cards if c.annotator == annotator]
    return runner


def test_an_exposure_is_placed_by_the_cells_of_its_sources(engine: Engine) -> None:
    first, second = make_exposures(engine, [[0, 4, 4], [2, 2, 1, 2]], n_detected=40)

    tally = make_runner(engine, MAPS).run()

    assert tally.n_annotated == 7 + 2
    assert cells(engine) == {first: (1, 1), second: (0, 2)}
    assert count(engine, SourceCell) == 7
    with Session(engine) as session:
        histogram = session.scalars(
            sa.select(ExposureHistogram).where(ExposureHistogram.exposure_id == second)
        ).one()
        row = session.scalars(sa.select(ExposureCell).where(ExposureCell.exposure_id == second))
        assert row.one().latent == [2, 4]
    assert (histogram.counts, histogram.weight) == ([0, 10, 30, 0, 0, 0], 10.0)
    assert set(job_states(engine, "exposure_map")) == {"done"}


def test_an_exposure_that_comes_later_is_placed_by_a_waiting_worker(engine: Engine) -> None:
    make_exposures(engine, [[0, 0]])
    runner = make_runner(engine, MAPS, until_idle=False)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        wait_for(lambda: len(cells(engine)) == 1)
        [later] = make_exposures(engine, [[3, 3, 3]])
        wait_for(lambda: cells(engine).get(later) == (1, 0))
    finally:
        runner.stop()
        thread.join(20)

    assert not thread.is_alive()


def test_exposures_and_catalogs_each_go_to_their_own_annotators(engine: Engine) -> None:
    [source_id] = make_field(engine, [[7]])
    [exposure_id] = make_exposures(engine, [[0, 1]])

    make_runner(engine, [FakeAnnotator, *MAPS]).run()

    assert rows_per_exposure(engine) == {exposure_id: 1}
    assert all_of(engine, sa.select(Shred.source_id)) == [source_id]
    assert source_id not in all_of(engine, sa.select(SourceCell.source_id))
    assert all_of(engine, sa.select(Job.state)) == ["done"] * 3


@pytest.mark.parametrize("survey", ["exposure", "legacy"])
def test_of_one_catalog_only_what_it_is_for_is_done(engine: Engine, survey: str) -> None:
    make_field(engine, [[7]])
    make_exposures(engine, [[0, 1]])
    wanted = sa.text("SELECT id FROM catalog WHERE survey = :s").bindparams(s=survey)
    with engine.connect() as connection:
        catalog_id = connection.execute(wanted).scalar_one()

    make_runner(engine, [FakeAnnotator, *MAPS], catalog_id=catalog_id).run()

    n = (count(engine, Shred), count(engine, SourceCell), count(engine, ExposureCell))
    assert n == ((0, 2, 1) if survey == "exposure" else (1, 0, 0))


def test_cutouts_that_do_not_suit_the_map_of_sources_are_refused_once(engine: Engine) -> None:
    make_exposures(engine, [[0, 1]])
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE cutout_set SET unit = 'nJy'"))

    make_runner(engine, MAPS).run()

    [job] = all_of(engine, sa.select(Job))
    assert job.state == "failed"
    assert "source_map wants one band, whichever, in adu, 32 pixel of any scale" in job.error
    assert "'r-uint16': the unit is nJy, not adu" in job.error


def test_the_cells_of_a_map_are_stored_when_it_is_first_loaded(engine: Engine) -> None:
    make_exposures(engine, [[0]])
    runners = [make_runner(engine, MAPS) for _ in range(2)]
    threads = [threading.Thread(target=runner.run) for runner in runners]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    make_exposures(engine, [[1]])
    make_runner(engine, MAPS).run()

    assert count(engine, Prototype) == ROWS * COLUMNS
    assert set(rows_per_exposure(engine).values()) == {1}


def test_exposures_are_placed_by_the_source_map_that_their_map_names(engine: Engine) -> None:
    newer = Card("source_map", "mean.v2", "none", "1" * 64, state="current")
    cards = [newer, *fake_cards("source_map"), *fake_cards("exposure_map")]
    [exposure_id] = make_exposures(engine, [[0, 1]])

    with_cards(make_runner(engine, MAPS), *cards).run()

    with Session(engine) as session:
        named = model_versions.find(session, "source_map", "mean.v1")
        [current] = model_versions.current(session, ["source_map"])
    assert current.name == "mean.v2"
    assert rows_per_exposure(engine) == {exposure_id: 1}
    assert all_of(engine, sa.select(ExposureHistogram.model_version_id)) == [named.id]
    assert count(engine, SourceCell) == 4  # by the current one too


def test_a_map_whose_source_map_is_unknown_says_so_and_waits(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    [exposure_id] = make_exposures(engine, [[0, 1]])
    lonely = Card("exposure_map", "lonely.v1", "none", "2" * 64, inputs={"source_map": "far.v9"})

    with_cards(make_runner(engine, MAPS), lonely, *fake_cards("source_map")).run()

    assert "version=lonely.v1 comes after source_map far.v9, which is not registered" in caplog.text
    assert rows_per_exposure(engine) == {exposure_id: 0}
    assert job_states(engine, "source_map") == ["done"]
    assert job_states(engine, "exposure_map") == []


def test_a_worker_without_the_weights_of_the_named_source_map_says_so(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    make_exposures(engine, [[0, 1]])
    with Session(engine) as session, session.begin():
        model_versions.register(session, "source_map", "mean.v1", "0" * 64, {})

    with_cards(make_runner(engine, MAPS), *fake_cards("exposure_map")).run()

    assert "annotator=source_map version=mean.v1 is wanted, but this worker has no" in caplog.text
    assert count(engine, Job) == 0


def test_a_worker_of_the_map_of_exposures_alone_leaves_the_sources_to_others(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    [exposure_id] = make_exposures(engine, [[0, 1]])
    with Session(engine) as session, session.begin():
        model_versions.register(session, "source_map", "mean.v1", "0" * 64, {})

    make_runner(engine, [FakeExposureMap]).run()
    before = rows_per_exposure(engine)
    make_runner(engine, [FakeSourceMap]).run()
    make_runner(engine, [FakeExposureMap]).run()

    assert "source_map mean.v1, which this worker leaves to others" in caplog.text
    assert (before, rows_per_exposure(engine)) == ({exposure_id: 0}, {exposure_id: 1})


def test_of_several_exposures_only_the_one_that_raises_fails_and_may_be_retried(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EXPOSURE", "raises")
    good, poison, other = make_exposures(engine, [[0, 0], [ODD, ODD], [1]])

    make_runner(engine, MAPS).run()
    before = rows_per_exposure(engine)
    [failed] = all_of(engine, sa.select(Job).where(Job.state == "failed"))
    monkeypatch.setenv("FAKE_EXPOSURE", "")
    with Session(engine) as session, session.begin():
        jobs.retry(session, [failed.model_version_id])
    make_runner(engine, MAPS).run()

    assert before == {good: 1, poison: 0, other: 1}
    assert failed.error.endswith("RuntimeError: a poison exposure")
    assert (failed.first, failed.last, failed.attempt) == (0, 0, 3)
    assert rows_per_exposure(engine) == {good: 1, poison: 1, other: 1}


def test_verify_finds_an_exposure_without_a_row(engine: Engine) -> None:
    lost, kept = make_exposures(engine, [[0], [1]])
    make_runner(engine, MAPS).run()
    with Session(engine) as session, session.begin():
        session.execute(sa.delete(ExposureCell).where(ExposureCell.exposure_id == lost))
        [version] = model_versions.current(session, ["exposure_map"])
        [set_id] = session.scalars(sa.text("SELECT id FROM cutout_set")).all()
        n = jobs.verify(session, version.id, ExposureCell, set_id)

    make_runner(engine, MAPS).run()

    assert n == 1
    assert rows_per_exposure(engine) == {lost: 1, kept: 1}


def test_progress_counts_exposures_as_exposures(engine: Engine) -> None:
    make_exposures(engine, [[0, 1, 2], [3]])
    make_runner(engine, MAPS).run()

    with Session(engine) as session:
        found = {one.annotator: one for one in jobs.progress(session)}

    assert [(one.subject, one.n_total, one.n_done) for _, one in sorted(found.items())] == [
        ("exposure", 2, 2),
        ("source", 4, 4),
    ]


def test_work_that_follows_is_not_missed_by_a_worker_that_is_about_to_leave(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sources' rows are written late, when the worker has already looked for more work."""
    write = annotations.write

    def late(*arguments):  # type: ignore[no-untyped-def]
        threading.Event().wait(0.3)
        return write(*arguments)

    monkeypatch.setattr(annotations, "write", late)
    [exposure_id] = make_exposures(engine, [[0, 1]])

    make_runner(engine, MAPS).run()

    assert rows_per_exposure(engine) == {exposure_id: 1}


def test_an_exposure_whose_sources_all_failed_waits_for_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeSourceMap):
        def look(self, seen: np.ndarray) -> dict[str, np.ndarray]:
            raise RuntimeError("no memory")

    [exposure_id] = make_exposures(engine, [[0, 1]])

    make_runner(engine, [Broken, FakeExposureMap]).run()
    before = rows_per_exposure(engine)
    with Session(engine) as session, session.begin():
        [version] = model_versions.current(session, ["source_map"])
        jobs.retry(session, [version.id])
    make_runner(engine, MAPS).run()

    assert (before, rows_per_exposure(engine)) == ({exposure_id: 0}, {exposure_id: 1})


class Picky(FakeSourceMap):
    """Raises at sources of the odd cell."""

    def look(self, seen: np.ndarray) -> dict[str, np.ndarray]:
        if (seen[:, 0, 0, 0] == ODD).any():
            raise RuntimeError("no memory")
        return super().look(seen)


def test_an_exposure_placed_by_half_of_its_sources_is_placed_again_by_all_after_a_retry(
    engine: Engine,
) -> None:
    half, whole = make_exposures(engine, [[1, ODD, ODD], [2, 2]])
    make_runner(engine, [Picky, FakeExposureMap]).run()
    before = cells(engine)
    counted = sa.select(ExposureHistogram.n_counted).order_by(ExposureHistogram.exposure_id)
    n_before = all_of(engine, counted)

    with Session(engine) as session, session.begin():
        [version] = model_versions.current(session, ["source_map"])
        n = jobs.retry(session, [version.id])
    between = cells(engine)
    make_runner(engine, MAPS).run()

    assert n > 0
    assert (before, n_before) == ({half: (0, 1), whole: (0, 2)}, [1, 2])
    assert between == {whole: (0, 2)}
    assert cells(engine) == {half: (1, 2), whole: (0, 2)}
    assert all_of(engine, counted) == [3, 2]


def test_an_exposure_that_lost_a_source_is_placed_again_after_verify(engine: Engine) -> None:
    [exposure_id] = make_exposures(engine, [[1, 3, 3]])
    make_runner(engine, MAPS).run()
    with Session(engine) as session, session.begin():
        session.execute(sa.delete(SourceCell).where(SourceCell.cell_row == 1))
        [version] = model_versions.current(session, ["source_map"])
        [set_id] = session.scalars(sa.text("SELECT id FROM cutout_set")).all()
        jobs.verify(session, version.id, SourceCell, set_id)
    states = job_states(engine, "exposure_map")

    make_runner(engine, MAPS).run()

    assert states == []
    assert cells(engine) == {exposure_id: (1, 0)}
    assert count(engine, SourceCell) == 3
