"""Workers and servers that die at the worst moments: still one row per source, none lost.

Real processes, killed by real signals; the moments are found by what the fake annotator leaves in
its diary, or by what the database shows.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, text

from db import postgresql, schema
from db.engine import create_engine
from tests.conftest import reachable_folder, tcp_server
from tests.workers.fake import KILLS, PLAIN, RAISES, SLOW, make_runner
from tests.workers.field import make_field, rows_per_source

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds
LEASE = 1.5  # seconds
CHAOS = 25.0  # seconds


class WorkerProcess:
    """A worker of fake annotators (by default of the first) in a process of its own."""

    def __init__(
        self,
        folder: Path,
        options: dict[str, Any],
        annotators: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.diary = folder / "diary"
        self.diary.mkdir(parents=True)
        self.log = folder / "log"
        settings = {"batch_size": 4, "lease": LEASE, "back_off": 0.05} | options
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.fake", json.dumps(settings), *annotators],
                cwd=REPOSITORY,
                env={**os.environ, "FAKE_DIARY": str(self.diary), **environment},
                stderr=log,
            )

    def wait_until(self, what: str) -> None:
        """Wait until the annotator is `loading` or `annotating`."""
        until(lambda: any(self.diary.glob(f"{what}-*")), self)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., WorkerProcess]]:
    """Start worker processes on the test's database, and leave none behind."""
    started: list[WorkerProcess] = []

    def start_one(options: dict[str, Any] | None = None, **variables: Any) -> WorkerProcess:
        folder = tmp_path / f"worker {len(started)}"
        started.append(WorkerProcess(folder, options or {}, **variables))
        return started[-1]

    yield start_one
    for worker in started:
        worker.process.kill()
        worker.process.wait()


def until(condition: Callable[[], Any], worker: WorkerProcess | None = None) -> None:
    """Wait until something is true, or fail with what the worker said."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        said = worker.log.read_text() if worker else ""
        assert time.monotonic() < give_up, said
        assert worker is None or worker.process.poll() is None, said
        time.sleep(0.02)


def finish(engine: Engine) -> None:
    """Let another worker, here, do what is left."""
    make_runner(engine, lease=LEASE).run()


def value(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar_one()


def job_states(engine: Engine) -> list[tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT state, attempt FROM job ORDER BY block_id, id"))
        return [tuple(row) for row in rows]


def is_exactly_once(engine: Engine) -> bool:
    return set(rows_per_source(engine).values()) == {1}


def test_killed_after_claiming(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    make_field(engine, [[PLAIN] * 4] * 3)
    worker = start(FAKE_LOAD_SECONDS="60")
    worker.wait_until("loading")

    worker.end(signal.SIGKILL)
    left_behind = value(engine, "SELECT count(*) FROM job WHERE state = 'doing'")
    finish(engine)

    assert left_behind > 0
    assert is_exactly_once(engine)


def test_killed_while_annotating(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    make_field(engine, [[SLOW] * 4, [PLAIN] * 4])
    worker = start(FAKE_SLOW_SECONDS="60")
    worker.wait_until("annotating")

    worker.end(signal.SIGKILL)
    finish(engine)

    assert is_exactly_once(engine)
    assert job_states(engine)[0] == ("done", 2)


def test_killed_before_the_commit(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    make_field(engine, [[PLAIN] * 4])
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;"
                "CREATE TRIGGER dawdle AFTER INSERT ON shred EXECUTE FUNCTION dawdle()"
            )
        )
    worker = start()
    until(
        lambda: value(
            engine,
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event = 'PgSleep' AND datname = current_database()",
        ),
        worker,
    )

    worker.end(signal.SIGKILL)
    n_rows = value(engine, "SELECT count(*) FROM shred")
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER dawdle ON shred"))  # waits for the dead transaction
    finish(engine)

    assert n_rows == 0
    assert is_exactly_once(engine)
    assert job_states(engine) == [("done", 2)]


def test_killed_after_the_commit(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    make_field(engine, [[PLAIN] * 4, [SLOW] * 4])
    worker = start(FAKE_SLOW_SECONDS="60")
    until(lambda: value(engine, "SELECT count(*) FROM job WHERE state = 'done'"), worker)

    worker.end(signal.SIGKILL)
    finish(engine)

    assert is_exactly_once(engine)
    assert job_states(engine) == [("done", 1), ("done", 2)]


def test_the_server_stops_at_once_and_comes_back(tmp_path: Path) -> None:
    with private_server() as (engine, stop_server, start_server):
        environment = {
            "DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "SKYGLOSS_HOME": str(tmp_path / "home"),
        }
        make_field(engine, [[SLOW] * 2] * 10, tmp_path / "home" / "pixels")
        worker = WorkerProcess(
            tmp_path / "worker", {"batch_size": 2}, FAKE_SLOW_SECONDS="0.2", **environment
        )
        until(lambda: value(engine, "SELECT count(*) > 2 FROM job WHERE state = 'done'"), worker)

        stop_server()
        time.sleep(LEASE)
        start_server()
        exit_code = worker.process.wait(PATIENCE)

        assert exit_code == 0, worker.log.read_text()
        assert "database=away" in worker.log.read_text()
        assert is_exactly_once(engine)


@contextmanager
def private_server() -> Iterator[tuple[Engine, Callable[[], None], Callable[[], None]]]:
    """A server of the test's own, with two functions that stop it at once and start it again."""
    with reachable_folder() as folder, tcp_server(folder) as url:
        pg_ctl = postgresql.programs(folder) / "pg_ctl"
        engine = create_engine(url)
        schema.upgrade(engine)

        def stop() -> None:
            postgresql.run(pg_ctl, "stop", "--pgdata=data", "--mode=immediate", folder=folder)

        def start() -> None:
            options = ("--pgdata=data", "--log=server.log", "--wait")
            postgresql.run(pg_ctl, "start", *options, folder=folder)

        yield engine, stop, start
        engine.dispose()


def test_two_workers_share_the_blocks(engine: Engine, start: Callable[..., WorkerProcess]) -> None:
    make_field(engine, [[SLOW] * 2] * 12)
    workers = [start({"batch_size": 2}, FAKE_SLOW_SECONDS="0.4") for _ in range(2)]

    exit_codes = [worker.process.wait(PATIENCE) for worker in workers]

    assert exit_codes == [0, 0]
    assert is_exactly_once(engine)
    assert value(engine, "SELECT count(DISTINCT run_id) FROM shred") == 2
    assert set(job_states(engine)) == {("done", 1)}


def test_a_frozen_worker_that_wakes_up_late_changes_nothing(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_field(engine, [[SLOW] * 4])
    frozen = start(FAKE_SLOW_SECONDS="1")
    frozen.wait_until("annotating")
    frozen.process.send_signal(signal.SIGSTOP)

    finish(engine)
    before = value(engine, "SELECT array_agg(shred::text ORDER BY source_id) FROM shred")
    exit_code = frozen.end(signal.SIGCONT)

    assert exit_code == 0
    assert "lost=" in frozen.log.read_text()
    assert is_exactly_once(engine)
    assert value(engine, "SELECT array_agg(shred::text ORDER BY source_id) FROM shred") == before


def test_a_row_that_kills_its_worker_is_isolated(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    *_, poison, last = make_field(engine, [[PLAIN] * 3, [KILLS, PLAIN]])
    deaths = 0

    while start().process.wait(PATIENCE) != 0:
        deaths += 1
        assert deaths < 10

    assert deaths == 4  # three attempts at the block, one at the row
    assert rows_per_source(engine)[poison] == 0
    assert rows_per_source(engine)[last] == 1
    assert sum(rows_per_source(engine).values()) == 4
    error = value(engine, "SELECT error FROM job WHERE state = 'failed'")
    assert "never heard of again" in error


def test_sigterm_finishes_the_batch_in_hand(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_field(engine, [[SLOW] * 4] * 6)
    worker = start(FAKE_SLOW_SECONDS="1.5")
    worker.wait_until("annotating")

    exit_code = worker.end(signal.SIGTERM)

    assert exit_code == 0
    assert job_states(engine) == [("done", 1)] + [("todo", 0)] * 5
    assert value(engine, "SELECT stopped_at IS NOT NULL FROM worker")
    finish(engine)
    assert is_exactly_once(engine)


def test_a_second_sigterm_leaves_at_once_and_gives_the_jobs_back(
    engine: Engine, start: Callable[..., WorkerProcess]
) -> None:
    make_field(engine, [[SLOW] * 4] * 3)
    worker = start(FAKE_SLOW_SECONDS="60")
    worker.wait_until("annotating")

    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping=1" in worker.log.read_text(), worker)
    exit_code = worker.end(signal.SIGTERM)

    assert exit_code == 128 + signal.SIGTERM
    assert job_states(engine) == [("todo", 0)] * 3


@pytest.mark.slow
def test_chaos_ends_with_one_row_per_source(tmp_path: Path) -> None:
    """Three workers are killed, frozen and stopped at random, and the server with them."""
    random = Random(5)
    markers = [[SLOW] * 6 for _ in range(40)]
    markers[10][3] = RAISES
    with private_server() as (engine, stop_server, start_server):
        environment = {
            "DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "SKYGLOSS_HOME": str(tmp_path / "home"),
        }
        source_ids = make_field(engine, markers, tmp_path / "home" / "pixels")
        names = count()

        def start() -> WorkerProcess:
            folder, options = tmp_path / f"worker {next(names)}", {"batch_size": 6}
            return WorkerProcess(folder, options, FAKE_SLOW_SECONDS="0.3", **environment)

        workers = [start() for _ in range(3)]
        end = time.monotonic() + CHAOS
        while time.monotonic() < end:
            time.sleep(random.uniform(0.3, 1.5))
            victim = random.choice(workers).process
            match random.choice(["kill", "kill", "freeze", "stop", "server"]):
                case "kill":
                    victim.kill()
                case "freeze":
                    victim.send_signal(signal.SIGSTOP)
                    time.sleep(1.5 * LEASE)
                    victim.send_signal(signal.SIGCONT)
                case "stop":
                    victim.terminate()
                case "server":
                    stop_server()
                    time.sleep(random.uniform(0, 1))
                    start_server()
            workers = [w if w.process.poll() is None else start() for w in workers]
        exit_codes = [worker.process.wait(2 * PATIENCE) for worker in workers]

        assert exit_codes == [0, 0, 0]
        poison = source_ids[10 * 6 + 3]
        expected = {source_id: int(source_id != poison) for source_id in source_ids}
        assert rows_per_source(engine) == expected
