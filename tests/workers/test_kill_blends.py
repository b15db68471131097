"""Workers that die while they measure light: still one row per source and table.

As in `test_kill`, with real processes and signals.
"""

import signal
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from db.home import pixels
from tests.workers.fake import LIGHT, SLOW, make_runner
from tests.workers.test_kill import LEASE, WorkerProcess, start, value
from tests.workers.tiny_blends import make_pairs
from workers.annotators.base import Annotator

__all__ = ["start"]  # a fixture


@pytest.mark.parametrize("annotator", LIGHT, ids=lambda annotator: annotator.name)
def test_killed_while_light_is_measured(
    engine: Engine, start: Callable[..., WorkerProcess], annotator: type[Annotator]
) -> None:
    make_pairs(engine, 3, pixels(), marker=SLOW)
    rows = sa.select(sa.func.count()).select_from(annotator.table)
    worker = start(annotators=[annotator.name], FAKE_SLOW_SECONDS="60")
    worker.wait_until("annotating")

    worker.end(signal.SIGKILL)
    with engine.connect() as connection:
        before = connection.scalar(rows)
    make_runner(engine, [annotator], lease=LEASE).run()

    with engine.connect() as connection:
        after = connection.scalar(rows)
    assert (before, after) == (0, 3)
    assert value(engine, "SELECT max(attempt) FROM job WHERE state = 'done'") == 2
