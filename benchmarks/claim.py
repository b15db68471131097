"""What the queue costs per block, with few and with very many finished jobs, and how it drains.

    python benchmarks/claim.py                     # up to a million finished blocks: 1e9 sources
    python benchmarks/claim.py --finished 0 10000

Uses a database of its own on DATABASE_URL's server or the embedded one, and drops it again.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from ingest import scratch_database
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import annotations, jobs, runs
from db.jobs import Claim
from db.tables import Shred

BLOCK = 1024  # sources
FILL = """
INSERT INTO catalog (name, survey, column_map) VALUES ('benchmark', '', '{}');
INSERT INTO cutout_set (catalog_id, name, bands, size, pixel_scale, dtype, unit, store_path, origin)
    SELECT id, 'set', '{g,r,z}', 128, 0.262, 'uint8', 'display', 'none', 'folder' FROM catalog;
INSERT INTO model_version (annotator, name, weights_sha256, card, state)
    VALUES ('shreds', 'none.none', '', '{}', 'current');
INSERT INTO source (catalog_id, survey_id, ra, dec, healpix)
    SELECT 1, k, 1, 1, k FROM generate_series(1, :blocks * 1024) AS k;
INSERT INTO cutout_block (cutout_set_id, number, n, sealed_at)
    SELECT 1, k, 1024, now() FROM generate_series(1, :blocks + :finished) AS k;
INSERT INTO cutout (source_id, cutout_set_id, block_id, position)
    SELECT k + 1, 1, :finished + 1 + k / 1024, k % 1024
    FROM generate_series(0, :blocks * 1024 - 1) AS k;
INSERT INTO job (model_version_id, block_id, first, last, state, seconds, finished_at)
    SELECT 1, k, 0, 1023, 'done', 10, now() - interval '1 day'
    FROM generate_series(1, :finished) AS k;
"""


def fill(engine: Engine, finished: int, blocks: int) -> None:
    """Blocks that wait, with their sources and cutouts, after so many finished ones."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE catalog, model_version, worker RESTART IDENTITY CASCADE"))
        for statement in filter(str.strip, FILL.split(";")):
            connection.execute(text(statement), {"finished": finished, "blocks": blocks})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def sign_in(engine: Engine) -> tuple[int, int]:
    """Ids of a new worker and its run."""
    with Session(engine) as session, session.begin():
        worker_id = runs.sign_in(session, "here", 1, "cpu", "", "0")
        return worker_id, runs.start(session, worker_id, 1, {})


def finish(session: Session, claim: Claim, run_id: int) -> None:
    """Complete a claim as a worker does, with 1,024 rows."""
    waiting = annotations.waiting(session, Shred, 1, claim.block_id, (claim.first, claim.last))
    session.commit()
    columns = {"p_shred": np.full(len(waiting), 0.5), "flags": np.zeros(len(waiting), int)}
    jobs.complete(session, claim, 1.0)
    annotations.write(session, Shred, 1, run_id, waiting["id"], columns)
    session.commit()


def milliseconds(act: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def per_block(engine: Engine, blocks: int) -> list[float]:
    """Median ms of a poll that finds nothing, a claim, a heartbeat, and the completion."""
    worker_id, run_id = sign_in(engine)
    times: dict[str, list[float]] = {"poll": [], "claim": [], "beat": [], "complete": []}
    with Session(engine) as session:
        first = milliseconds(lambda: jobs.enqueue(session, 1, [1]))
        session.commit()
        for _ in range(blocks):
            start = time.perf_counter()
            [claim] = jobs.claim(session, worker_id, [1])
            session.commit()
            claimed = time.perf_counter()
            jobs.heartbeat(session, worker_id, [claim])
            session.commit()
            renewed = time.perf_counter()
            finish(session, claim, run_id)
            times["claim"].append(1000 * (claimed - start))
            times["beat"].append(1000 * (renewed - claimed))
            times["complete"].append(1000 * (time.perf_counter() - renewed))
        for _ in range(5):
            times["poll"].append(milliseconds(lambda: jobs.enqueue(session, 1, [1])))
    return [first, *(median(values) for values in times.values())]


def drain(engine: Engine, n_workers: int) -> float:
    """Sources per second that workers get through which compute nothing."""

    def work(worker_id: int, run_id: int) -> None:
        with Session(engine) as session:
            while claims := jobs.claim(session, worker_id, [1]):
                session.commit()
                finish(session, claims[0], run_id)

    with Session(engine) as session, session.begin():
        n_blocks = jobs.enqueue(session, 1, [1])
    threads = [threading.Thread(target=work, args=sign_in(engine)) for _ in range(n_workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    with Session(engine) as session:
        n_rows, n_jobs = session.execute(
            text("SELECT (SELECT count(*) FROM shred), (SELECT count(*) FROM job)")
        ).one()
    assert (n_rows, n_jobs) == (n_blocks * BLOCK, n_blocks), "a row was lost"
    return n_blocks * BLOCK / seconds


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--finished", type=int, nargs="+", default=[0, 10_000, 1_000_000])
    parser.add_argument("--blocks", type=int, default=60)
    options = parser.parse_args()
    with scratch_database() as engine:
        print(
            f"blocks of {BLOCK:,} sources; median ms over {options.blocks} blocks, commits included"
        )
        heads = ("finished blocks", "first poll", "idle poll", "claim", "heartbeat", "complete")
        print("".join(f"{head:>16}" for head in heads))
        for finished in options.finished:
            fill(engine, finished, options.blocks)
            times = per_block(engine, options.blocks)
            print(f"{finished:>16,}" + "".join(f"{value:>16.2f}" for value in times))
        print(f"\n{'workers':>16}{'sources/s':>16}")
        for n_workers in (1, 2, 4):
            fill(engine, 0, options.blocks)
            print(f"{n_workers:>16}{drain(engine, n_workers):>16,.0f}")


if __name__ == "__main__":
    main()
