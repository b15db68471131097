"""Workers that die on the way from sources to exposures: still one row per exposure and version.

As in `test_kill`, with real processes and signals.
"""

import signal
from collections.abc import Callable

from sqlalchemy import Engine, text

from tests.workers.fake import COLUMNS, MAPS, ROWS, SLOW, make_runner
from tests.workers.field import make_exposures, rows_per_exposure
from tests.workers.test_kill import LEASE, WorkerProcess, start, until, value

__all__ = ["start"]  # a fixture

NAMES = [annotator.name for annotator in MAPS]
ODD = ROWS * COLUMNS - 1  # the cell that makes the fake stumble
N_PLACED = "SELECT count(*) FROM exposure_cell"
N_SOURCES = "SELECT count(*) FROM source_cell"


def finish(engine: Engine) -> None:
    """Let another worker, here, do what is left."""
    make_runner(engine, MAPS, lease=LEASE).run()


def is_exactly_once(engine: Engine, n_sources: int) -> bool:
    return set(rows_per_exposure(engine).values()) == {1} and value(engine, N_SOURCES) == n_sources


def test_killed_while_the_sources_of_an_exposure_are_placed(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_exposures(engine, [[0, 1], [2, 2]], markers=[SLOW])
    worker = start(annotators=NAMES, FAKE_SLOW_SECONDS="60")
    worker.wait_until("annotating")

    worker.end(signal.SIGKILL)
    before = value(engine, N_PLACED)
    finish(engine)

    assert before == 0
    assert is_exactly_once(engine, 4)


def test_killed_between_the_sources_and_their_exposure(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_exposures(engine, [[0, 1]])
    worker = start({"until_idle": False}, annotators=NAMES[:1])
    until(lambda: value(engine, N_SOURCES) == 2, worker)

    worker.end(signal.SIGKILL)
    before = value(engine, N_PLACED)
    finish(engine)

    assert before == 0
    assert is_exactly_once(engine, 2)


def test_killed_while_an_exposure_is_placed(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_exposures(engine, [[0, 1], [ODD, ODD, 3]])
    worker = start(annotators=NAMES, FAKE_EXPOSURE="60")
    worker.wait_until("placing")

    worker.end(signal.SIGKILL)
    n_counted = value(engine, "SELECT count(*) FROM exposure_histogram")
    finish(engine)

    assert n_counted > 0
    assert is_exactly_once(engine, 5)
    states = "SELECT array_agg(DISTINCT state) FROM job"
    assert value(engine, states) == ["done"]


def test_killed_before_an_exposure_is_committed(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_exposures(engine, [[0, 1]])
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;"
                "CREATE TRIGGER dawdle AFTER INSERT ON exposure_cell EXECUTE FUNCTION dawdle()"
            )
        )
    worker = start(annotators=NAMES)
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    until(lambda: value(engine, sleeping), worker)

    worker.end(signal.SIGKILL)
    before = value(engine, N_PLACED)
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER dawdle ON exposure_cell"))
    finish(engine)

    assert before == 0
    assert is_exactly_once(engine, 2)


def test_an_exposure_that_kills_its_worker_fails_alone(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    good, poison, other = make_exposures(engine, [[0], [ODD], [1]])
    deaths = 0

    while start(annotators=NAMES, FAKE_EXPOSURE="kills").process.wait(60) != 0:
        deaths += 1
        assert deaths < 10

    assert deaths == 3
    assert rows_per_exposure(engine) == {good: 1, poison: 0, other: 1}
    error = value(engine, "SELECT error FROM job WHERE state = 'failed'")
    assert "never heard of again" in error


def test_two_workers_place_each_exposure_once(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_exposures(engine, [[k % ODD, 1] for k in range(10)], markers=[SLOW] * 10)
    workers = [
        start({"batch_size": 2}, annotators=NAMES, FAKE_SLOW_SECONDS="0.2") for _ in range(2)
    ]

    exit_codes = [worker.process.wait(60) for worker in workers]

    assert exit_codes == [0, 0]
    assert is_exactly_once(engine, 20)
    assert value(engine, "SELECT max(attempt) FROM job") == 1
