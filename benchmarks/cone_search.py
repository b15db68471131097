"""Cone search over uniform sources: the index against a sequential scan in the same run.

    python benchmarks/cone_search.py                       # 1 and 5 million sources
    python benchmarks/cone_search.py --rows 200000

Uses a database of its own on DATABASE_URL's server or the embedded one, and drops it again.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from ingest import clear, scratch_database
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from db import source_rows
from db.column_maps import Rows
from db.sky import cone, healpix
from db.tables import Source

RADII = (("10 arcsec", 10 / 3600), ("1 arcmin", 1 / 60), ("1 deg", 1.0))
ROWS_AT_ONCE = 250_000
DENSITY = 1000.0  # sources per square degree, at 5 million


def fill(engine: Engine, n_rows: int) -> None:
    """Add uniform sources north of a declination, in random order: the hardest case."""
    random = np.random.default_rng(2)
    clear(engine)
    lowest = np.sin(np.radians(lowest_declination(n_rows)))
    with engine.begin() as connection:
        catalog_id = connection.execute(
            text(
                "INSERT INTO catalog (name, survey, column_map)"
                " VALUES ('uniform', '', '{}') RETURNING id"
            )
        ).scalar_one()
        for first in range(0, n_rows, ROWS_AT_ONCE):
            n = min(ROWS_AT_ONCE, n_rows - first)
            ra = random.uniform(0, 360, n)
            dec = np.degrees(np.arcsin(random.uniform(lowest, 1, n)))
            ids = np.arange(first, first + n).astype(bytes)
            rows = Rows(ids, ra, dec, healpix(ra, dec), {}, {})
            copy(connection, rows, catalog_id)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE source"))


def put_in_order(engine: Engine) -> None:
    """Order the rows as survey files do: what is near on the sky is near on the disk."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CLUSTER source USING ix_source_healpix"))
        connection.execute(text("VACUUM ANALYZE source"))


def lowest_declination(n_rows: int) -> float:
    """Where a cap around the north pole ends that holds `n_rows` sources [deg]."""
    height = n_rows / DENSITY / (2 * np.pi * np.degrees(1) ** 2)
    return float(np.degrees(np.arcsin(1 - height)))


def copy(connection: Connection, rows: Rows, catalog_id: int) -> None:
    driver: Any = connection.connection.cursor()
    names = ", ".join(f'"{name}"' for name in source_rows.columns(rows))
    packed = io.BytesIO(source_rows.pack(rows, catalog_id))
    driver.copy_expert(f"COPY source ({names}) FROM STDIN WITH (FORMAT binary)", packed, size=2**20)


def milliseconds(action: Callable[[Any], int], arguments: Sequence[Any]) -> tuple[float, int]:
    """Median time of an action, and median of what it returns, after one that does not count."""
    times, counts = [], []
    for argument in [arguments[0], *arguments]:
        start = time.perf_counter()
        counts.append(action(argument))
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:]), int(median(counts))


def compare(session: Session, n_rows: int, order: str, repeats: int) -> None:
    """Print a line per radius."""
    random = np.random.default_rng(3)
    cursor: Any = session.connection().connection.cursor()
    for name, radius in RADII:

        def query(ra: float, dec: float, radius: float = radius) -> Any:
            return select(Source.id, Source.ra, Source.dec).where(cone(ra, dec, radius))

        def search(statement: Any) -> int:
            return len(session.execute(statement()).all())

        def server(sql: str) -> int:
            cursor.execute(sql)
            return len(cursor.fetchall())

        dec = random.uniform(lowest_declination(n_rows) + 1, 89, repeats)
        centres = list(zip(random.uniform(0, 360, repeats), dec, strict=True))
        texts = [in_words(query(*centre)) for centre in centres]
        milliseconds(server, texts)  # so that every way finds its pages in memory
        whole, n = milliseconds(search, [partial(query, *centre) for centre in centres])
        by_index, _ = milliseconds(server, texts)
        cursor.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
        by_scan, _ = milliseconds(server, texts[:5])
        cursor.execute("RESET enable_indexscan; RESET enable_bitmapscan")
        print(
            f"{n_rows:>11,} {order:>7} {name:>10} {n:>7,} {whole:>10.2f} {by_index:>9.2f}"
            f" {by_scan:>9.1f} {by_scan / by_index:>7,.0f}"
        )


def in_words(statement: Any) -> str:
    return str(
        statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--repeats", type=int, default=101)
    options = parser.parse_args()
    print("python ms: from cone() to the rows; index and scan ms: of the SQL alone, rows fetched")
    print(
        f"{'sources':>11} {'order':>7} {'radius':>10} {'found':>7} {'python ms':>10}"
        f" {'index ms':>9} {'scan ms':>9} {'ratio':>7}"
    )
    with scratch_database() as engine:
        for n_rows in options.rows:
            fill(engine, n_rows)
            with Session(engine) as session:
                compare(session, n_rows, "random", options.repeats)
            put_in_order(engine)
            with Session(engine) as session:
                compare(session, n_rows, "sky", options.repeats)


if __name__ == "__main__":
    main()
