"""The worker's loop on a real database and pixel store, with a small real annotator."""

import logging
import shutil
import threading
import time
from datetime import timedelta
from itertools import count

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import annotations, cutouts, home, model_versions, uploads
from db.tables import Catalog, CutoutSet, Job, ModelVersion, Run, Shred, Upload, Worker
from models.registry import Card
from tests.builders import make_catalog, make_cutout_set, make_sources
from tests.workers.fake import (
    PLAIN,
    RAISES,
    SIZE,
    FakeAnnotator,
    FakeFlag,
    OtherAnnotator,
    fake_cards,
    make_runner,
)
from tests.workers.field import make_field, rows_per_source, wait_for
from workers import batches
from workers.device import Device
from workers.runner import Runner
from workers.station import Options
from workers.writer import WorkerStopped

pytestmark = pytest.mark.usefixtures("environment")


def all_of(engine: Engine, statement: sa.Select) -> list:
    with Session(engine) as session:
        return list(session.scalars(statement))


def test_every_source_gets_one_row_with_its_provenance(engine: Engine) -> None:
    source_ids = make_field(engine, [[PLAIN] * 5, [PLAIN] * 3])

    tally = make_runner(engine).run()

    assert tally.n_annotated == 8
    assert rows_per_source(engine) == dict.fromkeys(source_ids, 1)
    [run] = all_of(engine, sa.select(Run))
    [worker] = all_of(engine, sa.select(Worker))
    assert set(all_of(engine, sa.select(Shred.run_id))) == {run.id}
    assert run.options == {"batch_size": 8, "precision": "float32", "backend": ""}
    assert run.worker_id == worker.id
    assert run.finished_at is not None
    assert worker.stopped_at is not None


def test_a_second_run_finds_nothing_to_do(engine: Engine) -> None:
    make_field(engine, [[PLAIN] * 5])
    make_runner(engine).run()

    assert make_runner(engine).run().n_annotated == 0


def test_the_values_belong_to_their_sources(engine: Engine) -> None:
    source_ids = make_field(engine, [[PLAIN] * 5, [PLAIN] * 3])
    with Session(engine) as session:
        [cutout_set] = session.scalars(sa.select(CutoutSet)).all()
    stored = [
        cutouts.read_block(home.pixels(), cutout_set.store_path, number, 0, n - 1)
        for number, n in ((0, 5), (1, 3))
    ]
    expected = np.concatenate(stored).mean(axis=(1, 2, 3)) / 255

    make_runner(engine).run()

    with Session(engine) as session:
        found = dict(session.execute(sa.select(Shred.source_id, Shred.p_shred)).all())
    assert [found[source_id] for source_id in source_ids] == pytest.approx(expected, rel=1e-6)


def test_several_annotators_work_on_the_same_blocks(engine: Engine) -> None:
    source_ids = make_field(engine, [[PLAIN] * 5, [PLAIN] * 3])

    make_runner(engine, annotators=[FakeAnnotator, OtherAnnotator]).run()

    assert rows_per_source(engine) == dict.fromkeys(source_ids, 2)


def test_small_blocks_share_a_call_of_the_network(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_field(engine, [[PLAIN] * 2] * 4)

    make_runner(engine, batch_size=8).run()

    assert "jobs=4 sources=8" in caplog.text


def test_reading_computing_and_writing_overlap(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {(step, n): threading.Event() for step in ("read", "compute") for n in (1, 2)}
    waited: dict[str, bool] = {}
    reads, computes, writes = count(1), count(1), count(1)
    read_block, write_rows = cutouts.read_block, annotations.write

    def read(*arguments):  # type: ignore[no-untyped-def]
        begun["read", next(reads)].set()
        return read_block(*arguments)

    class Waiting(FakeAnnotator):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            begun["compute", n := next(computes)].set()
            if n == 1:
                waited["computing for reading"] = begun["read", 2].wait(5)
            return super().annotate(batch)

    def write(*arguments):  # type: ignore[no-untyped-def]
        if next(writes) == 1:
            waited["writing for computing"] = begun["compute", 2].wait(5)
        return write_rows(*arguments)

    monkeypatch.setattr(batches, "read_block", read)
    monkeypatch.setattr(annotations, "write", write)
    source_ids = make_field(engine, [[PLAIN] * 8] * 2)

    make_runner(engine, annotators=[Waiting]).run()

    assert waited == {"computing for reading": True, "writing for computing": True}
    assert rows_per_source(engine) == dict.fromkeys(source_ids, 1)


def test_an_image_that_is_missing_is_flagged(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        cutout_set = make_cutout_set(session, size=SIZE)
        [source] = make_sources(session, 1)
        session.commit()
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        writer.append(source.id, writer.layout.blank(), cutouts.CutoutFlag.NO_IMAGE)

    make_runner(engine).run()

    [row] = all_of(engine, sa.select(Shred))
    assert (row.p_shred, row.flags) == (None, FakeFlag.NO_IMAGE)


def test_an_image_that_comes_later_is_annotated_even_if_a_slow_worker_had_not_seen_it(
    engine: Engine,
) -> None:
    with Session(engine, expire_on_commit=False) as session:
        cutout_set = make_cutout_set(session, size=SIZE)
        [source] = make_sources(session, 1)
        session.commit()

    def add(brightness: int, flags: int) -> None:
        image = np.full((SIZE, SIZE, 3), brightness, np.uint8)
        with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
            writer.append(source.id, image, flags)

    class Overtaken(FakeAnnotator):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            if not batch.readable.any():
                add(51, 0)
            return super().annotate(batch)

    add(0, cutouts.CutoutFlag.NO_IMAGE)
    make_runner(engine, annotators=[Overtaken]).run()
    make_runner(engine).run()

    [row] = all_of(engine, sa.select(Shred))
    assert (row.p_shred, row.flags) == (pytest.approx(0.2), 0)
    assert set(all_of(engine, sa.select(Job.state))) == {"done"}


def test_a_row_that_raises_is_isolated_and_its_error_kept(engine: Engine) -> None:
    *_, poison, last = make_field(engine, [[PLAIN] * 3, [PLAIN, PLAIN, RAISES, PLAIN]])

    make_runner(engine).run()

    rows = rows_per_source(engine)
    assert rows[poison] == 0
    assert rows[last] == 1
    assert sum(rows.values()) == 6
    [failed] = all_of(engine, sa.select(Job).where(Job.state == "failed"))
    assert failed.error.endswith("RuntimeError: a poison row")
    assert failed.first == failed.last == 2


def test_a_value_the_table_refuses_fails_its_row_only(engine: Engine) -> None:
    class Overconfident(FakeAnnotator):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            columns = super().annotate(batch)
            columns["p_shred"][batch.source_ids == wrong] = 7.0
            return columns

    wrong, *others = make_field(engine, [[PLAIN] * 4])

    make_runner(engine, annotators=[Overconfident]).run()

    assert rows_per_source(engine) == {wrong: 0, **dict.fromkeys(others, 1)}
    [failed] = all_of(engine, sa.select(Job).where(Job.state == "failed"))
    assert "p_shred_range" in failed.error


def test_a_worker_that_only_fails_stops_and_says_why(engine: Engine) -> None:
    make_field(engine, [[RAISES] * 2] * 20)

    with pytest.raises(WorkerStopped, match=r"failed in a row(.|\n)*a poison row"):
        make_runner(engine, batch_size=2).run()

    states = all_of(engine, sa.select(Job.state))
    assert "doing" not in states
    assert "failed" not in states


def test_a_pixel_store_that_is_not_there_stops_the_worker(engine: Engine) -> None:
    make_field(engine, [[PLAIN] * 8] * 2)
    shutil.rmtree(home.pixels())

    with pytest.raises(WorkerStopped, match="SKYGLOSS_HOME"):
        make_runner(engine).run()


@pytest.mark.parametrize("n_lost", [1, 15])
def test_blocks_that_are_lost_fail_whole_and_the_others_are_done(
    engine: Engine, n_lost: int
) -> None:
    source_ids = make_field(engine, [[PLAIN] * 4] * (n_lost + 2))
    shards = sorted(home.pixels().glob("*/pixels/c.*"))
    blocks = {path: int(path.name.split(".")[1]) for path in shards}
    for path, number in blocks.items():
        if 0 < number <= n_lost:
            path.unlink()

    make_runner(engine).run()

    done = {*source_ids[:4], *source_ids[-4:]}
    assert {source_id for source_id, n in rows_per_source(engine).items() if n} == done
    failed = all_of(engine, sa.select(Job).where(Job.state != "done"))
    assert [(job.state, job.first, job.last, job.attempt) for job in failed] == (
        [("failed", 0, 3, 3)] * n_lost
    )
    assert "Does SKYGLOSS_HOME name the folder" in failed[0].error


def test_of_a_damaged_block_every_cutout_that_can_be_read_is_done(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutouts, "CHUNK_BYTES", 8 * SIZE * SIZE * 3)
    source_ids = make_field(engine, [[PLAIN] * 32])
    [shard] = home.pixels().glob("*/pixels/c.*")
    damaged = bytearray(shard.read_bytes())
    damaged[50] ^= 1
    shard.write_bytes(damaged)

    make_runner(engine).run()

    rows = rows_per_source(engine)
    assert [rows[source_id] for source_id in source_ids] == [0] * 8 + [1] * 24
    assert all_of(engine, sa.select(Job.state)).count("failed") == 8


def test_weights_that_cannot_be_loaded_stop_the_worker_and_free_its_jobs(engine: Engine) -> None:
    class Broken(FakeAnnotator):
        def load(self, version: ModelVersion) -> None:
            raise ValueError("the checksum differs")

    make_field(engine, [[PLAIN] * 8] * 3)

    with pytest.raises(ValueError, match="the checksum differs"):
        make_runner(engine, annotators=[Broken]).run()

    assert set(all_of(engine, sa.select(Job.state))) == {"todo"}
    assert set(all_of(engine, sa.select(Job.attempt))) == {0}


def test_wrong_length_from_an_annotator_is_an_error(engine: Engine) -> None:
    class Short(FakeAnnotator):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            return {name: values[1:] for name, values in super().annotate(batch).items()}

    make_field(engine, [[PLAIN]])

    make_runner(engine, annotators=[Short]).run()

    [failed] = all_of(engine, sa.select(Job).where(Job.state == "failed"))
    assert "got 1 sources, gave {'p_shred': 0, 'flags': 0}" in failed.error


def test_a_catalog_without_fitting_cutouts_fails_with_what_was_wanted(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        cutout_set = make_cutout_set(session, name="grey", size=SIZE, bands=["r"])
        [source] = make_sources(session, 1)
        session.commit()
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        writer.append(source.id, np.zeros((SIZE, SIZE, 1), np.uint8))

    make_runner(engine).run()

    [job] = all_of(engine, sa.select(Job))
    assert job.state == "failed"
    assert "wants g/r/z in display, 8 pixel of 0.262 arcsec" in job.error
    assert "'grey': a picture with 3 planes is needed, not 1" in job.error


def test_the_best_fitting_set_of_a_catalog_is_used(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session)
        coarse = make_cutout_set(session, catalog, size=SIZE, pixel_scale=0.4)
        exact = make_cutout_set(session, catalog, size=SIZE)
        both, only_coarse = make_sources(session, 2, catalog)
        session.commit()
    for cutout_set, sources, brightness in (
        (coarse, (both, only_coarse), 51),
        (exact, (both,), 204),
    ):
        with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
            for source in sources:
                image = np.full((SIZE, SIZE, 3), brightness, np.uint8)
                writer.append(source.id, image)

    make_runner(engine).run()

    with Session(engine) as session:
        found = dict(session.execute(sa.select(Shred.source_id, Shred.p_shred)).all())
    assert found == {both.id: pytest.approx(0.8), only_coarse.id: pytest.approx(0.2)}


def test_a_new_current_version_is_annotated_beside_the_old_one(engine: Engine) -> None:
    def two_cards(annotator: str) -> list[Card]:
        return [*fake_cards(annotator), Card(annotator, "mean.v2", "none", "1" * 64)]

    source_ids = make_field(engine, [[PLAIN] * 3])
    make_runner(engine).run()
    runner = Runner(
        engine, home.pixels(), [FakeAnnotator], Options(until_idle=True), Device("cpu"), two_cards
    )
    runner.run()
    with Session(engine) as session, session.begin():
        model_versions.promote(session, "fake", "mean.v2")

    with pytest.raises(WorkerStopped, match=r"mean\.v2, and its weights are not here"):
        make_runner(engine).run()
    before = rows_per_source(engine)
    Runner(
        engine, home.pixels(), [FakeAnnotator], Options(until_idle=True), Device("cpu"), two_cards
    ).run()

    assert before == dict.fromkeys(source_ids, 1)
    assert rows_per_source(engine) == dict.fromkeys(source_ids, 2)


def test_a_worker_without_the_current_weights_registers_those_it_has(engine: Engine) -> None:
    make_field(engine, [[PLAIN] * 3])
    with Session(engine) as session, session.begin():
        model_versions.register(session, "fake", "mean.v0", "2" * 64, {})
        model_versions.promote(session, "fake", "mean.v0")

    with pytest.raises(WorkerStopped, match=r"skygloss models promote fake mean\.v1"):
        make_runner(engine).run()

    with Session(engine) as session, session.begin():
        model_versions.promote(session, "fake", "mean.v1")
    make_runner(engine).run()
    assert set(rows_per_source(engine).values()) == {1}


def test_a_waiting_worker_takes_up_what_arrives(engine: Engine) -> None:
    make_field(engine, [[PLAIN] * 3])
    runner = make_runner(engine, until_idle=False)
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_for(lambda: set(rows_per_source(engine).values()) == {1})

    make_field(engine, [[PLAIN] * 4])
    wait_for(lambda: list(rows_per_source(engine).values()) == [1] * 7)
    runner.stop()
    thread.join(20)

    assert not thread.is_alive()


def test_a_lease_outlives_work_that_takes_longer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FakeAnnotator):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            time.sleep(1.0)
            return super().annotate(batch)

    source_ids = make_field(engine, [[PLAIN] * 3])
    runners = [make_runner(engine, annotators=[Slow], lease=0.4) for _ in range(2)]
    threads = [threading.Thread(target=runner.run) for runner in runners]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert rows_per_source(engine) == dict.fromkeys(source_ids, 1)
    assert all_of(engine, sa.select(Job.attempt)) == [1]


class Encoder(FakeAnnotator):
    """Stands in for the annotator that uploads are for."""

    name = "representations"


def test_uploads_are_looked_at_before_the_backlog(engine: Engine) -> None:
    seen: list[int] = []

    class Noting(Encoder):
        def annotate(self, batch):  # type: ignore[no-untyped-def]
            seen.extend(batch.pixels[:, 0, 0, 0].tolist())
            return super().annotate(batch)

    make_field(engine, [[100]] * 5)
    make_field(engine, [[101], [102]], origin="upload")

    make_runner(engine, annotators=[Noting], batch_size=1).run()

    assert seen == [101, 102, *[100] * 5]


def test_an_upload_is_served_beside_the_one_catalog_that_was_asked_for(engine: Engine) -> None:
    [wanted] = make_field(engine, [[PLAIN]])
    [other] = make_field(engine, [[PLAIN]])
    [uploaded] = make_field(engine, [[PLAIN]], origin="upload")
    [catalog_id] = all_of(engine, sa.select(sa.func.min(Catalog.id)))

    make_runner(engine, annotators=[Encoder], catalog_id=catalog_id).run()

    assert rows_per_source(engine) == {wanted: 1, other: 0, uploaded: 1}


def test_other_annotators_leave_uploads_alone(engine: Engine) -> None:
    [uploaded] = make_field(engine, [[PLAIN]], origin="upload")

    make_runner(engine).run()

    assert rows_per_source(engine) == {uploaded: 0}


def store_upload(engine: Engine, days: float) -> None:
    """Store an upload of some age."""
    layout = cutouts.Layout(uploads.BANDS, SIZE, 0.262, "uint8", "display")
    pixels = np.full(layout.shape, 7, np.uint8)
    image = uploads.Image(pixels, layout, "galaxy.png", "0" * 64, "image/png", "as it came")
    token = uploads.store(engine, home.pixels(), image)
    with Session(engine) as session, session.begin():
        session.get_one(Upload, token).created_at -= timedelta(days=days)


@pytest.mark.parametrize(("days", "n_left"), [(6, 1), (8, 0)])
def test_a_worker_deletes_the_uploads_that_are_too_old(
    engine: Engine, days: float, n_left: int
) -> None:
    store_upload(engine, days)

    make_runner(engine).run()

    assert len(all_of(engine, sa.select(Upload.token))) == n_left


def test_a_worker_that_cannot_delete_old_uploads_goes_on_with_its_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("db.cutouts.Writer.discard", fails)
    store_upload(engine, 8)
    source_ids = make_field(engine, [[PLAIN]])

    make_runner(engine).run()

    assert rows_per_source(engine)[source_ids[0]] == 1
    assert "read-only" in caplog.text
