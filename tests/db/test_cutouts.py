"""The pixel store: what goes in comes out, by block or alone, whatever is killed in between."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import URL, Engine, func, select
from sqlalchemy.orm import Session

import db.cutouts
from db import jobs
from db.cutouts import (
    BlockDamaged,
    BlockMissing,
    CutoutFlag,
    IncompatibleSet,
    Layout,
    PixelsMissing,
    SetBusy,
    Writer,
    create_set,
    read_block,
    read_one,
)
from db.engine import create_engine
from db.tables import Catalog, Cutout, CutoutBlock, CutoutSet
from tests.builders import make_catalog, make_sources

SIZE = 8
CAPACITY = 4  # cutouts in a block, here


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.cutouts, "MAX_BLOCK", CAPACITY)


def new_set(
    engine: Engine, n_sources: int, dtype: str = "uint8", name: str = "set"
) -> tuple[CutoutSet, list[int]]:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = make_catalog(session)
        source_ids = [source.id for source in make_sources(session, n_sources, catalog)]
        layout = Layout(("g", "r"), SIZE, 0.262, dtype, "nanomaggy")
        return create_set(session, catalog, name, layout, "folder"), source_ids


def random_pixels(n: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(n).normal(100, 30, (n, SIZE, SIZE, 2))
    return values.clip(0, 200).astype(dtype)


def write(
    engine: Engine, root: Path, cutout_set: CutoutSet, source_ids: list[int], pixels: np.ndarray
) -> None:
    with Writer(engine, root, cutout_set) as writer:
        for source_id, cutout in zip(source_ids, pixels, strict=True):
            writer.append(source_id, cutout)


def stored(engine: Engine, root: Path, cutout_set: CutoutSet) -> dict[int, np.ndarray]:
    """The pixels of every source, read through the rows that point to them."""
    statement = (
        select(Cutout.source_id, CutoutBlock.number, Cutout.position)
        .join(CutoutBlock, CutoutBlock.id == Cutout.block_id)
        .where(Cutout.cutout_set_id == cutout_set.id, CutoutBlock.sealed_at.is_not(None))
    )
    with Session(engine) as session:
        return {
            source_id: read_one(root, cutout_set.store_path, number, position)
            for source_id, number, position in session.execute(statement)
        }


def blocks(engine: Engine, cutout_set: CutoutSet) -> list[tuple[int, int]]:
    statement = select(CutoutBlock.number, CutoutBlock.n).order_by(CutoutBlock.number)
    with Session(engine) as session:
        rows = session.execute(statement.where(CutoutBlock.cutout_set_id == cutout_set.id))
        return [(number, n) for number, n in rows]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_pixels_come_back_with_the_values_and_the_type_they_had(
    engine: Engine, tmp_path: Path, dtype: str
) -> None:
    cutout_set, source_ids = new_set(engine, 6, dtype)
    pixels = random_pixels(6, dtype)

    write(engine, tmp_path, cutout_set, source_ids, pixels)

    first = read_block(tmp_path, cutout_set.store_path, 0)
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, pixels[:CAPACITY])


def test_a_single_cutout_equals_its_place_in_the_block(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 6)
    write(engine, tmp_path, cutout_set, source_ids, random_pixels(6))

    block = read_block(tmp_path, cutout_set.store_path, 1, 0, 1)

    for position in range(2):
        alone = read_one(tmp_path, cutout_set.store_path, 1, position)
        np.testing.assert_array_equal(alone, block[position])


def test_a_range_of_positions_is_read_with_both_ends_included(
    engine: Engine, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 4)
    pixels = random_pixels(4)
    write(engine, tmp_path, cutout_set, source_ids, pixels)

    np.testing.assert_array_equal(read_block(tmp_path, cutout_set.store_path, 0, 1, 2), pixels[1:3])


def test_nan_pixels_come_back_as_nan(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 1, "float32")
    pixels = random_pixels(1, "float32")
    pixels[0, :3] = np.nan

    write(engine, tmp_path, cutout_set, source_ids, pixels)

    np.testing.assert_array_equal(read_one(tmp_path, cutout_set.store_path, 0, 0), pixels[0])


def test_a_block_of_black_cutouts_is_stored_and_not_missing(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 4)

    write(engine, tmp_path, cutout_set, source_ids, np.zeros((4, SIZE, SIZE, 2), np.uint8))

    assert not read_block(tmp_path, cutout_set.store_path, 0).any()


def test_a_partly_filled_block_is_sealed_and_the_next_cutouts_start_another(
    engine: Engine, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 7)
    pixels = random_pixels(7)

    write(engine, tmp_path, cutout_set, source_ids[:5], pixels[:5])
    write(engine, tmp_path, cutout_set, source_ids[5:], pixels[5:])

    assert blocks(engine, cutout_set) == [(0, 4), (1, 1), (2, 2)]
    for source_id, found in stored(engine, tmp_path, cutout_set).items():
        np.testing.assert_array_equal(found, pixels[source_ids.index(source_id)])


def test_a_set_keeps_the_block_size_it_was_made_with(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutout_set, source_ids = new_set(engine, 7)
    pixels = random_pixels(7)
    write(engine, tmp_path, cutout_set, source_ids[:1], pixels[:1])
    monkeypatch.setattr(db.cutouts, "MAX_BLOCK", 2 * CAPACITY)

    write(engine, tmp_path, cutout_set, source_ids[1:], pixels[1:])

    assert blocks(engine, cutout_set) == [(0, 1), (1, 4), (2, 2)]
    for source_id, found in stored(engine, tmp_path, cutout_set).items():
        np.testing.assert_array_equal(found, pixels[source_ids.index(source_id)])


def test_a_reader_sees_blocks_that_were_added_after_it_first_looked(
    engine: Engine, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 8)
    pixels = random_pixels(8)
    write(engine, tmp_path, cutout_set, source_ids[:4], pixels[:4])
    read_one(tmp_path, cutout_set.store_path, 0, 0)

    write(engine, tmp_path, cutout_set, source_ids[4:], pixels[4:])

    np.testing.assert_array_equal(read_one(tmp_path, cutout_set.store_path, 1, 3), pixels[7])


def test_a_source_that_has_good_pixels_keeps_them(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 2)
    pixels = random_pixels(2)
    write(engine, tmp_path, cutout_set, source_ids, pixels)

    write(engine, tmp_path, cutout_set, source_ids, pixels[::-1].copy())

    found = stored(engine, tmp_path, cutout_set)
    np.testing.assert_array_equal(found[source_ids[0]], pixels[0])


def test_new_pixels_replace_a_flagged_image(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 2)
    pixels = random_pixels(2)
    with Writer(engine, tmp_path, cutout_set) as writer:
        writer.append(source_ids[0], np.zeros_like(pixels[0]), CutoutFlag.UNREADABLE)
        writer.append(source_ids[1], pixels[1])

    write(engine, tmp_path, cutout_set, source_ids[:1], pixels[:1])

    found = stored(engine, tmp_path, cutout_set)
    np.testing.assert_array_equal(found[source_ids[0]], pixels[0])
    np.testing.assert_array_equal(found[source_ids[1]], pixels[1])


def test_pixels_of_another_shape_or_type_are_refused(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 1)

    with (
        pytest.raises(IncompatibleSet, match=rf"uint8 .*{source_ids[0]} came with float64"),
        Writer(engine, tmp_path, cutout_set) as writer,
    ):
        writer.append(source_ids[0], np.zeros((SIZE, SIZE, 2)))


def test_a_set_is_found_again_by_name_and_not_made_twice(session: Session) -> None:
    catalog = make_catalog(session)
    layout = Layout(("g",), 8, 0.262, "uint8", "adu")

    first = create_set(session, catalog, "set", layout, "folder")

    assert create_set(session, catalog, "set", layout, "folder").id == first.id


def test_a_set_of_the_same_name_but_another_layout_is_refused(session: Session) -> None:
    catalog = make_catalog(session)
    create_set(session, catalog, "set", Layout(("g",), 8, 0.262, "uint8", "adu"), "folder")

    with pytest.raises(IncompatibleSet, match="size 8 there, 16 now"):
        create_set(session, catalog, "set", Layout(("g",), 16, 0.262, "uint8", "adu"), "folder")


def test_large_cutouts_get_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.cutouts, "MAX_BLOCK", 1024)

    assert Layout(("z", "r", "g"), 128, 0.262, "uint8", "display").capacity == 1024
    assert Layout(tuple("griz"), 512, 0.262, "float32", "nanomaggy").capacity == 128


def test_a_missing_block_is_an_error_and_not_a_block_of_zeros(
    engine: Engine, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 4)
    write(engine, tmp_path, cutout_set, source_ids, random_pixels(4))

    with pytest.raises(BlockMissing, match="block 7"):
        read_block(tmp_path, cutout_set.store_path, 7)


def test_the_wrong_home_is_named_as_a_likely_cause(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 4)
    write(engine, tmp_path, cutout_set, source_ids, random_pixels(4))

    with pytest.raises(PixelsMissing, match="SKYGLOSS_HOME"):
        read_block(tmp_path / "elsewhere", cutout_set.store_path, 0)


def test_a_flipped_bit_on_the_disk_is_noticed(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 4)
    write(engine, tmp_path, cutout_set, source_ids, random_pixels(4))
    shard = tmp_path / cutout_set.store_path / "pixels" / "c.0.0.0.0"
    damaged = bytearray(shard.read_bytes())
    damaged[50] ^= 1
    shard.write_bytes(damaged)

    with pytest.raises(BlockDamaged, match="damaged"):
        read_block(tmp_path, cutout_set.store_path, 0)


def test_a_second_writer_waits_and_then_says_who_is_in_the_way(
    engine: Engine, tmp_path: Path
) -> None:
    cutout_set, _ = new_set(engine, 1)

    with (
        Writer(engine, tmp_path, cutout_set),
        pytest.raises(SetBusy, match="another process is adding to cutout set 'set'"),
        Writer(engine, tmp_path, cutout_set, wait=0.2),
    ):
        pass


def test_an_exception_leaves_only_full_blocks_behind(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 6)
    pixels = random_pixels(6)

    writer = Writer(engine, tmp_path, cutout_set).__enter__()
    for source_id, cutout in zip(source_ids, pixels, strict=True):
        writer.append(source_id, cutout)
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    assert blocks(engine, cutout_set) == [(0, 4)]
    assert set(stored(engine, tmp_path, cutout_set)) == set(source_ids[:4])


def add_in_a_process(url: str, root: Path, set_id: int, source_ids: list[int], die: bool) -> None:
    """Add cutouts whose pixels say whose they are; with `die`, be killed before a seal."""
    db.cutouts.MAX_BLOCK = CAPACITY
    engine = create_engine(url)
    with Session(engine, expire_on_commit=False) as session:
        cutout_set = session.get_one(CutoutSet, set_id)
    with Writer(engine, root, cutout_set) as writer:
        if die:
            writer._add_rows = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        for source_id in source_ids:
            writer.append(source_id, pixels_that_say(source_id))


def pixels_that_say(source_id: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 2), source_id, "int16")


def start(url: URL, root: Path, cutout_set: CutoutSet, ids: list[int], die: bool = False):  # type: ignore[no-untyped-def]
    spawn = multiprocessing.get_context("spawn")
    arguments = (url.render_as_string(hide_password=False), root, cutout_set.id, ids, die)
    process = spawn.Process(target=add_in_a_process, args=arguments)
    process.start()
    return process


def test_a_writer_killed_between_pixels_and_rows_loses_and_doubles_nothing(
    engine: Engine, database_url: URL, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 10, "int16")
    write(
        engine,
        tmp_path,
        cutout_set,
        source_ids[:4],
        np.stack([pixels_that_say(source_id) for source_id in source_ids[:4]]),
    )

    killed = start(database_url, tmp_path, cutout_set, source_ids[4:], die=True)
    killed.join()

    assert killed.exitcode == -signal.SIGKILL
    left = tmp_path / cutout_set.store_path / "pixels" / "c.1.0.0.0"
    assert left.exists(), "it was killed before it wrote any pixels"
    assert blocks(engine, cutout_set) == [(0, 4)]
    rest = [pixels_that_say(source_id) for source_id in reversed(source_ids[4:])]
    write(engine, tmp_path, cutout_set, source_ids[:3:-1], np.stack(rest))
    assert blocks(engine, cutout_set) == [(0, 4), (1, 4), (2, 2)]
    found = stored(engine, tmp_path, cutout_set)
    assert sorted(found) == sorted(source_ids)
    for source_id, cutout in found.items():
        np.testing.assert_array_equal(cutout, pixels_that_say(source_id))


def test_two_processes_can_add_to_a_set_at_once(
    engine: Engine, database_url: URL, tmp_path: Path
) -> None:
    cutout_set, source_ids = new_set(engine, 20, "int16")

    processes = [
        start(database_url, tmp_path, cutout_set, source_ids[first::2]) for first in range(2)
    ]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    found = stored(engine, tmp_path, cutout_set)
    assert sorted(found) == sorted(source_ids)
    for source_id, cutout in found.items():
        np.testing.assert_array_equal(cutout, pixels_that_say(source_id))


def test_idle_workers_hear_of_a_new_block(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 1)
    ear = jobs.listen(engine)

    write(engine, tmp_path, cutout_set, source_ids, random_pixels(1))

    assert jobs.wait(ear, 5.0)
    ear.close()


def test_a_deleted_catalog_takes_its_cutout_rows_along(engine: Engine, tmp_path: Path) -> None:
    cutout_set, source_ids = new_set(engine, 2)
    write(engine, tmp_path, cutout_set, source_ids, random_pixels(2))

    with Session(engine) as session, session.begin():
        session.delete(session.get_one(Catalog, cutout_set.catalog_id))

    with Session(engine) as session:
        assert session.scalars(select(func.count()).select_from(Cutout)).one() == 0
