"""The pixel store: cutouts go in by sealed blocks and come out by block or one at a time.

One Zarr array (v3, one shard per block) for each `cutout_set`, under the root that `db.home.pixels`
names. Where pixels come from is the business of `db.cutout_folder`, `db.cutout_mosaic` and
`db.cutout_service`; which sources still need pixels, of `db.cutout_ingest`.

A block becomes visible in one step: its shard is written and synced to disk first, then one
transaction adds the block and its cutouts. What a crash leaves behind is a shard that no row
points to, and the next block overwrites it. Blocks are never edited; those of uploaded images are
discarded in the end (`db.uploads`).

Row 0 of a cutout is its lowest, in the south, as in FITS; pictures are turned over on their way in.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.jobs import CHANNEL
from db.tables import Catalog, CutoutSet

if TYPE_CHECKING:  # importing Zarr takes half a second, so only what handles pixels does it
    import zarr

MAX_BLOCK = 1024  # cutouts
MAX_BLOCK_BYTES = 512 * 2**20  # larger cutouts get blocks of fewer
CHUNK_BYTES = 512 * 2**10  # what reading one cutout decodes; see docs/decisions/0003-pixel-store.md
SCALE_TOLERANCE = 1e-3  # relative difference of pixel scales that are the same
ARRAY = "pixels"
ON_EXPOSURES = "exposure"  # origin of the sets that hold what was detected on exposures


class CutoutFlag(IntFlag):
    """What can be wrong with the pixels of a source (column `cutout.flags`)."""

    NO_IMAGE = 1
    UNREADABLE = 2
    PARTLY_OUTSIDE = 4


class IncompatibleSet(ValueError):  # noqa: N818 (it reads as what happened)
    """Pixels do not fit the cutout set they were meant for."""


class PixelsMissing(RuntimeError):  # noqa: N818
    """The database knows of pixels that the store does not have, or cannot read."""


class BlockMissing(PixelsMissing):
    """The set is there, but one of its blocks is not."""


class BlockDamaged(PixelsMissing):
    """The block is there, but some of its pixels cannot be read."""


class SetBusy(RuntimeError):  # noqa: N818
    """Another process is adding to the cutout set."""


@dataclass(frozen=True)
class Layout:
    """What all cutouts of a set share."""

    bands: tuple[str, ...]  # in the order of the last array axis
    size: int  # pixel
    pixel_scale: float  # arcsec/pixel
    dtype: str  # NumPy name, native byte order
    unit: str  # nanomaggy, nJy, adu or display

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, b)"""
        return (self.size, self.size, len(self.bands))

    @property
    def capacity(self) -> int:
        """Cutouts in a full block: a power of two, so that inner chunks divide it."""
        return _power_of_two(MAX_BLOCK_BYTES // self._bytes, MAX_BLOCK)

    @property
    def chunk(self) -> int:
        """Cutouts that are compressed together."""
        return _power_of_two(CHUNK_BYTES // self._bytes, self.capacity)

    @property
    def _bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def blank(self) -> np.ndarray:
        """Pixels (h, w, b) for a source without any: NaN, or 0 where the type has no NaN."""
        missing = np.nan if np.issubdtype(self.dtype, np.floating) else 0
        return np.full(self.shape, missing, self.dtype)


def layout_of(cutout_set: CutoutSet) -> Layout:
    """Return the layout of a stored set."""
    return Layout(
        tuple(cutout_set.bands),
        cutout_set.size,
        cutout_set.pixel_scale,
        cutout_set.dtype,
        cutout_set.unit,
    )


def create_set(
    session: Session, catalog: Catalog, name: str, layout: Layout, origin: str
) -> CutoutSet:
    """Return the named cutout set of a catalog, made now or long ago.

    Raises
    ------
    IncompatibleSet
        The set exists with another layout.
    """
    statement = insert(CutoutSet).values(
        catalog_id=catalog.id,
        name=name,
        bands=list(layout.bands),
        size=layout.size,
        pixel_scale=layout.pixel_scale,
        dtype=layout.dtype,
        unit=layout.unit,
        store_path=_new_store_path(catalog.name, name),
        origin=origin,
    )
    session.execute(statement.on_conflict_do_nothing())
    cutout_set = find_set(session, catalog, name)
    assert cutout_set is not None
    _check_same(layout_of(cutout_set), layout, name)
    return cutout_set


def find_set(session: Session, catalog: Catalog, name: str) -> CutoutSet | None:
    """Return the named cutout set of a catalog, None if there is none."""
    return session.scalar(
        select(CutoutSet).where(CutoutSet.catalog_id == catalog.id, CutoutSet.name == name)
    )


def read_block(
    root: Path, store_path: str, number: int, first: int = 0, last: int | None = None
) -> np.ndarray:
    """Read consecutive cutouts of one block. Safe to call from several threads.

    Parameters
    ----------
    root : Path
        The pixel store, `db.home.pixels()`.
    store_path : str
        `CutoutSet.store_path`.
    number : int
        `CutoutBlock.number`.
    first, last : int
        Positions in the block, both included, as in `Job`. Give `block.n - 1` as `last`: by
        default all places of the block are read, and those never filled hold zeros.

    Returns
    -------
    ndarray, shape (last - first + 1, h, w, b)
        In the set's type and unit.

    Raises
    ------
    PixelsMissing
        The store has no such set; `BlockMissing`: it has the set but no such block;
        `BlockDamaged`: the bytes that hold these positions are damaged.
    """
    array = _open(root / store_path, number)
    capacity = _capacity(array)
    stop = capacity if last is None else last + 1
    if not 0 <= first < stop <= capacity:
        raise IndexError(f"positions {first} to {last} are not in a block of {capacity}")
    return _read(array, slice(number * capacity + first, number * capacity + stop), root)


def read_one(root: Path, store_path: str, number: int, position: int) -> np.ndarray:
    """Read one cutout, shape (h, w, b); otherwise like `read_block`."""
    return read_block(root, store_path, number, position, position)[0]


class Writer:
    """Adds cutouts to a set, block by block, alone: a second writer waits its turn.

    Use as a context manager. Leaving it in good order seals the last, partly filled block; leaving
    by an exception drops the cutouts since the last full block, whose rows were never visible.

    The connection that holds the set's lock is the one that seals, so a writer that has lost its
    lock cannot seal anything.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        cutout_set: CutoutSet,
        wait: float = 60,
        capacity: int | None = None,
    ) -> None:
        """Prepare to write.

        Parameters
        ----------
        wait : float
            How long to wait for another writer of the set [s].
        capacity : int, optional
            Cutouts in a block, if the set has no pixels yet; default: the layout's.
        """
        self.layout = layout_of(cutout_set)
        self._set_id = cutout_set.id
        self._name = cutout_set.name
        self._folder = root / cutout_set.store_path
        self._engine = engine
        self._wait = wait
        self._capacity = capacity or self.layout.capacity
        self._source_ids: list[int] = []
        self._flags: list[int] = []

    def __enter__(self) -> Self:
        self._connection = self._engine.connect()
        self._connection.detach()  # closing it then ends the database session, and the lock with it
        try:
            _lock(self._connection, self._set_id, self._name, self._wait)
            self._array = _create(self._folder, self.layout, self._capacity)
            # The capacity is the stored one: this code may have been given another since.
            self._pixels = np.zeros((_capacity(self._array), *self.layout.shape), self.layout.dtype)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._source_ids:
                self._seal()
        finally:
            self._connection.close()

    def append(self, source_id: int, pixels: np.ndarray, flags: int = 0) -> None:
        """Add the cutout of one source, shape (h, w, b).

        A source that the set already has keeps its pixels, unless these were flagged as missing or
        unreadable: then the new ones take their place, and workers look again where annotations
        said nothing for want of pixels (`db.annotations.lacks_row`).
        """
        self._check(pixels, f"source {source_id}")
        self._pixels[len(self._source_ids)] = pixels
        self._source_ids.append(source_id)
        self._flags.append(flags)
        if len(self._source_ids) == len(self._pixels):
            self._seal()

    def append_new(
        self, add_source: Callable[[Connection], int], pixels: np.ndarray, flags: int = 0
    ) -> int:
        """Add a source together with its cutout, shape (h, w, b), in a block of their own.

        `add_source` adds the rows of the source and returns its id. It is called once the pixels
        are on the disk, in the transaction that adds block and cutout: all of it happens, or none.
        """
        self._check(pixels, "a new source")
        if self._source_ids:
            self._seal()
        number = self._next_number()
        self._pixels[0], self._pixels[1:] = pixels, 0
        _write_block(self._array, self._folder, number, self._pixels)
        with self._connection.begin():
            source_id = add_source(self._connection)
            self._add_rows(number, [source_id], [flags])
        return source_id

    def append_block(
        self, add_sources: Callable[[Connection, int], Sequence[int]], pixels: np.ndarray
    ) -> None:
        """Add sources together with their cutouts, shape (n, h, w, b), as a block of their own.

        `add_sources` gets the id of the block, adds the rows of the sources and returns their ids,
        in the order of the pixels. It is called as in `append_new`: all of it happens, or none.
        """
        n = len(pixels)
        if not 1 <= n <= len(self._pixels):
            raise IncompatibleSet(
                f"a block of cutout set {self._name!r} holds 1 to {len(self._pixels)} cutouts, but "
                f"{n} came"
            )
        self._check(pixels[0], "a block of new sources")
        if self._source_ids:
            self._seal()
        number = self._next_number()
        self._pixels[:n], self._pixels[n:] = pixels, 0
        _write_block(self._array, self._folder, number, self._pixels)
        with self._connection.begin():
            block_id = self._add_block(number, n)
            source_ids = add_sources(self._connection, block_id)
            self._add_cutouts(block_id, source_ids, [0] * n)

    def discard(self, delete_rows: Callable[[Connection], Sequence[int]]) -> int:
        """Delete blocks, and return how many: their rows first, then their pixels.

        `delete_rows` deletes in one transaction whatever points to the blocks, and the blocks, and
        returns their numbers. Nobody reuses a number meanwhile, because the writer is alone.
        """
        with self._connection.begin():
            numbers = delete_rows(self._connection)
        for number in numbers:
            (self._folder / ARRAY / _key(self._array, number)).unlink(missing_ok=True)
        return len(numbers)

    def _check(self, pixels: np.ndarray, whose: str) -> None:
        if pixels.shape != self.layout.shape or pixels.dtype != self.layout.dtype:
            raise IncompatibleSet(
                f"cutout set {self._name!r} holds {self.layout.dtype} pixels of shape "
                f"{self.layout.shape} (h, w, b), but {whose} came with {pixels.dtype} "
                f"pixels of shape {pixels.shape}"
            )

    def _seal(self) -> None:
        number = self._next_number()
        self._pixels[len(self._source_ids) :] = 0
        _write_block(self._array, self._folder, number, self._pixels)
        with self._connection.begin():
            self._add_rows(number, self._source_ids, self._flags)
        self._source_ids.clear()
        self._flags.clear()

    def _next_number(self) -> int:
        with self._connection.begin():
            return int(self._connection.execute(NEXT_NUMBER, {"set": self._set_id}).scalar_one())

    def _add_rows(self, number: int, source_ids: Sequence[int], flags: Sequence[int]) -> None:
        self._add_cutouts(self._add_block(number, len(source_ids)), source_ids, flags)

    def _add_block(self, number: int, n: int) -> int:
        values = {"set": self._set_id, "number": number, "n": n}
        return int(self._connection.execute(ADD_BLOCK, values).scalar_one())

    def _add_cutouts(self, block_id: int, source_ids: Sequence[int], flags: Sequence[int]) -> None:
        values: dict[str, Any] = {
            "set": self._set_id,
            "block": block_id,
            "sources": source_ids,
            "flags": flags,
        }
        self._connection.execute(ADD_CUTOUTS, values)
        self._connection.execute(WAKE_WORKERS, {"channel": CHANNEL})


NEXT_NUMBER = text(
    "SELECT coalesce(max(number) + 1, 0) FROM cutout_block WHERE cutout_set_id = :set"
)
ADD_BLOCK = text(
    "INSERT INTO cutout_block (cutout_set_id, number, n, sealed_at)"
    " VALUES (:set, :number, :n, now()) RETURNING id"
)
ADD_CUTOUTS = text(
    "INSERT INTO cutout (source_id, cutout_set_id, block_id, position, flags)"
    " SELECT source_id, :set, :block, place - 1, flags"
    " FROM unnest(cast(:sources AS bigint[]), cast(:flags AS smallint[]))"
    " WITH ORDINALITY AS row (source_id, flags, place)"
    " ON CONFLICT (source_id, cutout_set_id) DO UPDATE"
    " SET block_id = excluded.block_id, position = excluded.position, flags = excluded.flags"
    " WHERE cutout.flags & 3 <> 0"
)
WAKE_WORKERS = text("SELECT pg_notify(:channel, '')")


def _lock(connection: Connection, set_id: int, name: str, wait: float) -> None:
    """Take the set's lock for as long as the connection lives."""
    statement = text("SELECT pg_try_advisory_lock(hashtextextended('cutout_set:' || :set, 0))")
    give_up = time.monotonic() + wait
    while True:
        with connection.begin():
            if connection.execute(statement, {"set": set_id}).scalar_one():
                return
        if time.monotonic() >= give_up:
            raise SetBusy(
                f"another process is adding to cutout set {name!r}; waited {wait:g} s for it. "
                "Try again when it has finished."
            )
        time.sleep(0.1)


def _create(folder: Path, layout: Layout, capacity: int) -> zarr.Array:
    """Open the set's array for writing, made if need be."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    if (folder / ARRAY / "zarr.json").exists():
        return zarr.open_array(folder / ARRAY, mode="r+")
    folder.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(folder, mode="a")
    group.attrs.update(
        {
            "bands": list(layout.bands),
            "pixel_scale_arcsec": layout.pixel_scale,
            "unit": layout.unit,
            "axes": ["cutout", "y", "x", "band"],
        }
    )
    return group.create_array(
        ARRAY,
        shape=(0, *layout.shape),
        shards=(capacity, *layout.shape),
        chunks=(min(layout.chunk, capacity), *layout.shape),
        dtype=layout.dtype,
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},  # one folder, one file per block
        config={"write_empty_chunks": True},  # a block of black cutouts is not a missing block
    )


def _write_block(array: zarr.Array, folder: Path, number: int, pixels: np.ndarray) -> None:
    """Put a whole block (capacity, h, w, b) into the store and see it safely on the disk."""
    start, stop = number * len(pixels), (number + 1) * len(pixels)
    if array.shape[0] < stop:
        array.resize((stop, *array.shape[1:]))
    array[start:stop] = pixels
    inside = folder / ARRAY
    for path in (inside / _key(array, number), inside / "zarr.json", inside, folder, folder.parent):
        sync(path)


def sync(path: Path) -> None:
    """See a file, or the names in a folder, safely on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _capacity(array: zarr.Array) -> int:
    """Return how many cutouts a block of a stored set can hold."""
    assert array.shards is not None
    return array.shards[0]


def _key(array: zarr.Array, number: int) -> str:
    """Return the file name of a block's shard."""
    return str(array.metadata.encode_chunk_key((number, 0, 0, 0)))


def _open(folder: Path, number: int) -> zarr.Array:
    """Open a set's array for reading, having seen that the block is there.

    Without the look Zarr would hand out zeros for a block that is missing.
    """
    try:
        status = (folder / ARRAY / "zarr.json").stat()
        array = _opened(folder, status.st_ino, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise PixelsMissing(_not_there(folder, number, error)) from error
    try:
        (folder / ARRAY / _key(array, number)).stat()
    except FileNotFoundError as error:
        raise BlockMissing(_not_there(folder, number, error)) from error
    return array


def _not_there(folder: Path, number: int, error: FileNotFoundError) -> str:
    return (
        f"the database lists block {number} of the cutout set in {folder}, but {error.filename} "
        "does not exist. Does SKYGLOSS_HOME name the folder that the cutouts were ingested into?"
    )


@functools.lru_cache(maxsize=64)
def _opened(folder: Path, _inode: int, _modified: int) -> zarr.Array:
    """Open an array, again only if its description has changed because it has grown."""
    import zarr

    return zarr.open_array(folder / ARRAY, mode="r")


def _read(array: zarr.Array, part: slice, root: Path) -> np.ndarray:
    try:
        return np.asarray(array[part])
    except (ValueError, RuntimeError) as error:  # what the checksums and codecs raise
        raise BlockDamaged(
            f"cutouts {part.start} to {part.stop - 1} of {array.store_path} are damaged ({error}). "
            f"Restore {root} from a backup, or ingest this cutout set again under a new name."
        ) from error


def _power_of_two(at_most: int, largest: int) -> int:
    return min(1 << max(at_most, 1).bit_length() - 1, largest)


def _new_store_path(catalog: str, name: str) -> str:
    """A readable folder name that no other set has, in this database or another."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{catalog}-{name}").strip("-").lower()
    return f"{words[:80]}-{secrets.token_hex(4)}"


def _check_same(stored: Layout, wanted: Layout, name: str) -> None:
    differences = [
        f"{word} {getattr(stored, word)} there, {getattr(wanted, word)} now"
        for word in ("bands", "size", "dtype", "unit")
        if getattr(stored, word) != getattr(wanted, word)
    ]
    if abs(stored.pixel_scale / wanted.pixel_scale - 1) > SCALE_TOLERANCE:
        differences.append(f"pixel scale {stored.pixel_scale} there, {wanted.pixel_scale} now")
    if differences:
        raise IncompatibleSet(
            f"cutout set {name!r} exists and differs: {'; '.join(differences)}. "
            "Give these cutouts another set name."
        )
