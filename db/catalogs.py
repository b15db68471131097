"""Ingest catalog files: chunk by chunk, repeatable, resumable, every bad row listed.

A chunk is one transaction: its sources, its rejections and `catalog_file.n_read` appear together,
so that a killed ingest goes on exactly where it was. While one chunk is copied into the database
the next one is read and packed. Formats are the business of `db.catalog_readers`, meaning that of
`db.column_maps`, packing that of `db.source_rows`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg2.errors
from sqlalchemy import (
    ARRAY,
    Connection,
    Engine,
    Text,
    any_,
    cast,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from db import column_maps, source_rows, uploads
from db.catalog_readers import CatalogError, CatalogFile, open_catalog
from db.column_maps import BoundMap
from db.tables import Catalog, Rejection, Source
from db.tables import CatalogFile as CatalogFileRow

CHUNK_BYTES = 16 * 2**20  # of rows as they are in the file
CHUNK_ROWS = 10_000
N_AHEAD = 2  # chunks packed before they are copied
LOCK_WAIT = "15s"  # for a killed ingest of the same catalog to be noticed
NO_MEANING = ("title", "notes", "detect", "release")  # parts of a map that change no value

Item = TypeVar("Item")


@dataclass
class Ingested:
    """What came of one file.

    `n_read` = `n_new` + `n_known` (already in the catalog) + `n_rejected`; `n_missing` rows were
    announced by the file, but cut off. `repeated`: the file had been ingested before.
    """

    catalog: str
    survey: str
    file: str
    n_read: int = 0
    n_new: int = 0
    n_known: int = 0
    n_rejected: int = 0
    n_missing: int = 0
    resumed_at: int = 0
    repeated: bool = False
    reasons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Packed:
    """A chunk ready for the database."""

    first_row: int
    n_rows: int
    survey_id: list[bytes]
    columns: list[str]
    data: bytes
    reasons: dict[int, str]


def choose_map(file: CatalogFile, survey: str = "auto", path: Path | None = None) -> dict[str, Any]:
    """Return the user's map if a path is given, else the named one, else the one that fits."""
    if path is not None:
        return column_maps.load(path)
    if survey == "auto":
        return column_maps.detect(file.columns)
    return column_maps.named(survey)


def ingest(
    engine: Engine,
    path: Path,
    column_map: dict[str, Any],
    name: str | None = None,
    release: str = "",
    drop: Sequence[str] = (),
    progress: Callable[[int], None] = lambda n_rows: None,
    chunk_rows: int | None = None,
) -> Ingested:
    """Bring the rows of a file into a catalog.

    Parameters
    ----------
    path : Path
        FITS, CSV, ECSV, Parquet or VOTable.
    column_map : dict
        See `choose_map`.
    name : str, optional
        Of the catalog; default: the survey's, or the file's where the survey is `generic`.
        An existing catalog of the same survey is added to.
    drop : sequence of str
        Patterns of columns not to keep in `extra`, besides those of the map.
    progress : callable
        Called with the number of further rows that were committed (or had been, on resuming).
    chunk_rows : int, optional
        Rows per transaction; default: by size.

    Raises
    ------
    CatalogError
        The file or the map cannot be used, or the catalog belongs to another survey.
    """
    file = open_catalog(path)
    bound = BoundMap(column_map, file.columns, drop)
    name = name or (_stem(path) if _is_generic(column_map) else column_map["survey"])
    if name == uploads.CATALOG:
        raise CatalogError(
            f"Catalog {name!r} is kept for images uploaded to search with. Choose another name "
            "with --name."
        )
    fingerprint = fingerprint_of(path)
    with engine.connect() as guard:
        guard.detach()  # closing it, not giving it back, is what ends the lock
        catalog_id = _catalog(guard, name, column_map, release or column_map.get("release", ""))
        _lock(guard, catalog_id, name)
        entry = _file_entry(guard, catalog_id, path.name, fingerprint)
        result = Ingested(
            name, column_map["survey"], path.name, repeated=entry.finished_at is not None
        )
        if not result.repeated:
            progress(entry.n_read)
            result.resumed_at = entry.n_read
            n_rows = chunk_rows or chunk_size(file)
            chunks = packed(file, bound, catalog_id, entry.n_read, n_rows)
            _copy_all(engine, entry, chunks, progress)
        result.n_missing, result.notes = file.n_missing, file.notes
        _tell(guard, entry.id, result)
    return result


def chunk_size(file: CatalogFile) -> int:
    """Rows of a file that are held in memory at once."""
    return max(500, min(CHUNK_ROWS, CHUNK_BYTES // max(1, file.row_bytes)))


def _is_generic(column_map: dict[str, Any]) -> bool:
    return bool(column_map["survey"] == "generic")


def _stem(path: Path) -> str:
    """Name of a file without its suffix, and without that of its compression."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def fingerprint_of(path: Path) -> str:
    """Return what identifies the content of a file: its size and its SHA-256."""
    with open(path, "rb") as file:
        return f"{path.stat().st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _catalog(connection: Connection, name: str, column_map: dict[str, Any], release: str) -> int:
    """Find or make the catalog, and check that the file belongs into it."""
    found = connection.execute(select(Catalog.__table__).where(Catalog.name == name)).one_or_none()
    if found is None:
        values = {
            "name": name,
            "survey": column_map["survey"],
            "release": release,
            "column_map": column_map,
        }
        made = insert(Catalog).values(values).returning(Catalog.id)
        try:
            catalog_id = connection.execute(made).scalar_one()
        except IntegrityError:  # another process has just made it
            connection.rollback()
            return _catalog(connection, name, column_map, release)
        connection.commit()
        return int(catalog_id)
    connection.rollback()
    if _meaning(found.column_map) != _meaning(column_map):
        same = found.survey == column_map["survey"]
        raise CatalogError(
            f"Catalog {name!r} was ingested with "
            + (f"another column map of {found.survey!r}" if same else f"the map {found.survey!r}")
            + f", not with this one of {column_map['survey']!r}: its columns would mean two "
            "things. Choose another catalog with --name."
        )
    return int(found.id)


def _meaning(column_map: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in column_map.items() if key not in NO_MEANING}


def _lock(connection: Connection, catalog_id: int, name: str) -> None:
    """Keep other ingests out of the catalog for as long as the connection lives."""
    try:
        connection.execute(text(f"SET lock_timeout = '{LOCK_WAIT}'"))
        connection.execute(text("SELECT pg_advisory_lock(20, :id)"), {"id": catalog_id % 2**31})
        connection.execute(text("RESET lock_timeout"))
        connection.commit()
    except Exception as error:
        if isinstance(getattr(error, "orig", None), psycopg2.errors.LockNotAvailable):
            raise CatalogError(f"Another ingest into catalog {name!r} is running.") from error
        raise


def _file_entry(connection: Connection, catalog_id: int, name: str, fingerprint: str) -> Any:
    """The row of `catalog_file` for this content, made if it is new."""
    table = CatalogFileRow.__table__
    same = (table.c.catalog_id == catalog_id) & (table.c.fingerprint == fingerprint)
    found = connection.execute(select(table).where(same)).one_or_none()
    if found is None:
        before = connection.execute(select(func.coalesce(func.max(Source.id), 0))).scalar_one()
        values = {"catalog_id": catalog_id, "name": name, "fingerprint": fingerprint}
        made = insert(CatalogFileRow).values(**values, source_id_before=before)
        found = connection.execute(made.returning(*table.c)).one()
    connection.commit()
    return found


def packed(
    file: CatalogFile, bound: BoundMap, catalog_id: int, first_row: int, chunk_rows: int
) -> Iterator[Packed]:
    """Read, map and pack the rows of a file from `first_row` on."""
    for chunk in file.chunks(first_row, chunk_rows):
        rows = bound.apply(chunk)
        yield Packed(
            chunk.first_row,
            chunk.n_rows,
            rows.survey_id.tolist(),
            source_rows.columns(rows),
            source_rows.pack(rows, catalog_id),
            rows.reasons,
        )


def _copy_all(
    engine: Engine, entry: Any, chunks: Iterable[Packed], progress: Callable[[int], None]
) -> None:
    """Copy chunk after chunk; straight into `source` until an identifier turns up twice."""
    straight = True
    with engine.connect() as connection:
        for chunk in _ahead(chunks):
            if straight:
                try:
                    _store(connection, entry, chunk, _copy_straight)
                except psycopg2.errors.UniqueViolation:
                    straight = False
            if not straight:
                _store(connection, entry, chunk, _copy_new)
            progress(chunk.n_rows)
        finished = update(CatalogFileRow).where(CatalogFileRow.id == entry.id)
        connection.execute(finished.values(finished_at=func.now()))
        connection.commit()


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate in another thread, a few items ahead of the consumer."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        waiting: list[Future[Item | None]] = []
        try:
            while True:
                while len(waiting) < N_AHEAD:
                    waiting.append(pool.submit(next, iterator, None))
                item = waiting.pop(0).result()
                if item is None:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()


def _store(
    connection: Connection,
    entry: Any,
    chunk: Packed,
    copy: Callable[[Connection, Any, Packed], tuple[int, dict[int, str]]],
) -> None:
    """One transaction: the sources of a chunk, its rejections, and how far reading got."""
    with connection.begin():
        n_new, repeated = copy(connection, entry, chunk)
        reasons = {**chunk.reasons, **repeated}
        if reasons:
            rejected = [
                {
                    "catalog_file_id": entry.id,
                    "row": chunk.first_row + i,
                    "survey_id": chunk.survey_id[i].decode("utf-8", "replace") or None,
                    "reason": reason,
                }
                for i, reason in sorted(reasons.items())
            ]
            connection.execute(insert(Rejection), rejected)
        connection.execute(
            update(CatalogFileRow)
            .where(CatalogFileRow.id == entry.id)
            .values(
                n_read=chunk.first_row + chunk.n_rows,
                n_new=CatalogFileRow.n_new + n_new,
                n_rejected=CatalogFileRow.n_rejected + len(reasons),
            )
        )
        connection.execute(
            update(Catalog)
            .where(Catalog.id == entry.catalog_id)
            .values(n_sources=Catalog.n_sources + n_new)
        )


def _copy_straight(connection: Connection, entry: Any, chunk: Packed) -> tuple[int, dict[int, str]]:
    """Copy into `source`: fast, but refused as a whole if an identifier is already there."""
    return _copy(connection, "source", chunk), {}


def _copy_new(connection: Connection, entry: Any, chunk: Packed) -> tuple[int, dict[int, str]]:
    """Copy beside `source` and insert what is new: (how many, repetitions within the file)."""
    names = ", ".join(_quoted(chunk.columns))
    connection.execute(
        text(f"CREATE TEMP TABLE arriving ON COMMIT DROP AS SELECT {names} FROM source LIMIT 0")  # noqa: S608
    )
    n_arriving = _copy(connection, "arriving", chunk)
    inserted = connection.execute(
        text(
            f"INSERT INTO source ({names}) SELECT {names} FROM arriving"  # noqa: S608
            " ON CONFLICT (catalog_id, survey_id) DO NOTHING RETURNING survey_id"
        )
    )
    new = {survey_id.encode() for (survey_id,) in inserted}
    if len(new) == n_arriving:
        return n_arriving, {}
    rows = {s: i for i, s in enumerate(chunk.survey_id) if i not in chunk.reasons and s not in new}
    from_this_file = connection.execute(
        select(Source.survey_id).where(
            Source.catalog_id == entry.catalog_id,
            Source.id > entry.source_id_before,
            Source.survey_id == any_(cast([s.decode() for s in rows], ARRAY(Text))),
        )
    )
    repeated = {rows[s.encode()]: "identifier repeated in this file" for (s,) in from_this_file}
    return len(new), repeated


def _copy(connection: Connection, table: str, chunk: Packed) -> int:
    names = ", ".join(_quoted(chunk.columns))
    with closing(connection.connection.cursor()) as cursor:
        driver: Any = cursor
        statement = f"COPY {table} ({names}) FROM STDIN WITH (FORMAT binary)"
        driver.copy_expert(statement, io.BytesIO(chunk.data), size=2**20)
        return int(cursor.rowcount)


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _tell(connection: Connection, entry_id: int, result: Ingested) -> None:
    """Read back what the whole file came to, earlier attempts included."""
    entry = connection.execute(
        select(CatalogFileRow.__table__).where(CatalogFileRow.id == entry_id)
    ).one()
    result.n_read, result.n_new, result.n_rejected = entry.n_read, entry.n_new, entry.n_rejected
    result.n_known = entry.n_read - entry.n_new - entry.n_rejected
    kind = func.split_part(Rejection.reason, ":", 1)
    counts = connection.execute(
        select(kind, func.count())
        .where(Rejection.catalog_file_id == entry_id)
        .group_by(kind)
        .order_by(func.count().desc())
    )
    result.reasons = {row[0]: row[1] for row in counts}
