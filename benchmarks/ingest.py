"""Catalog rows per second against COPY of the very same rows; peak memory for a large FITS table.

    python benchmarks/ingest.py                      # rates, 200,000 rows
    python benchmarks/ingest.py --memory 10000000    # and the peak memory for ten million

Uses a database of its own on DATABASE_URL's server or the embedded one, and drops it again.
"""

from __future__ import annotations

import argparse
import io
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits
from sqlalchemy import Engine, text

from db import catalogs, schema
from db.catalog_readers import open_catalog
from db.column_maps import BoundMap
from db.engine import create_engine, database_url

ROWS_AT_ONCE = 250_000
BANDS = ("G", "R", "I", "Z", "W1", "W2", "W3", "W4")


def sweep_layout() -> np.dtype[Any]:
    """The columns of a DR10 sweep that matter here: about a hundred, 500 bytes per row."""
    columns: list[tuple[Any, ...]] = [
        ("RELEASE", ">i2"), ("BRICKID", ">i4"), ("BRICKNAME", "S8"), ("OBJID", ">i4"),
        ("TYPE", "S3"), ("RA", ">f8"), ("DEC", ">f8"), ("RA_IVAR", ">f4"), ("DEC_IVAR", ">f4"),
        ("DCHISQ", ">f4", (5,)), ("EBV", ">f4"), ("MASKBITS", ">i4"), ("FITBITS", ">i2"),
        ("SERSIC", ">f4"), ("SHAPE_R", ">f4"), ("SHAPE_R_IVAR", ">f4"), ("SHAPE_E1", ">f4"),
        ("SHAPE_E2", ">f4"), ("REF_CAT", "S2"), ("REF_ID", ">i8"), ("PARALLAX", ">f4"),
    ]  # fmt: skip
    for band in BANDS:
        for name in ("FLUX", "FLUX_IVAR", "MW_TRANSMISSION", "RCHISQ", "FRACFLUX"):
            columns.append((f"{name}_{band}", ">f4"))
        columns.append((f"NOBS_{band}", ">i2"))
    for band in BANDS[:4]:
        for name in ("FRACMASKED", "FRACIN", "PSFSIZE", "PSFDEPTH", "FIBERFLUX"):
            columns.append((f"{name}_{band}", ">f4"))
        columns.append((f"ALLMASK_{band}", ">i2"))
    return np.dtype(columns)


def narrow_layout() -> np.dtype[Any]:
    """A file with some photometry only: 21 columns, 98 bytes per row."""
    wanted = ("RELEASE", "BRICKID", "OBJID", "TYPE", "RA", "DEC", "SHAPE_R", "EBV", "MASKBITS")
    full = sweep_layout()
    columns = [(name, full[name]) for name in wanted]
    for name in ("FLUX", "FLUX_IVAR", "MW_TRANSMISSION", "NOBS"):
        columns += [(f"{name}_{band}", full[f"{name}_{band}"]) for band in "GRZ"]
    return np.dtype(columns)


def write_fits(path: Path, layout: np.dtype[Any], n_rows: int) -> None:
    """Write a table of random sources, piece by piece."""
    random = np.random.default_rng(1)
    header = fits.BinTableHDU(np.empty(0, layout.newbyteorder("="))).header
    header["NAXIS2"] = n_rows
    with open(path, "wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode())
        file.write(header.tostring().encode())
        for first in range(0, n_rows, ROWS_AT_ONCE):
            n = min(ROWS_AT_ONCE, n_rows - first)
            file.write(random_rows(random, layout, first, n).tobytes())
        file.write(bytes(-file.tell() % 2880))


def random_rows(random: np.random.Generator, layout: np.dtype[Any], first: int, n: int) -> Any:
    """Rows with distinct identifiers all over the sky, and plausible numbers elsewhere."""
    rows = np.zeros(n, layout)
    for name in layout.names or ():
        shape = rows[name].shape
        if layout[name].base.kind == "f":
            rows[name] = random.lognormal(0, 1, shape)
        elif layout[name].base.kind == "i":
            rows[name] = random.integers(0, 20, shape)
        else:
            rows[name] = b"REX"
    rows["RELEASE"], rows["BRICKID"] = 10000, np.arange(first, first + n) // 5000
    rows["OBJID"] = np.arange(first, first + n) % 5000
    rows["RA"] = random.uniform(0, 360, n)
    rows["DEC"] = np.degrees(np.arcsin(random.uniform(-1, 1, n)))
    return rows


@contextmanager
def scratch_database() -> Iterator[Engine]:
    """A migrated database of our own."""
    server = create_engine()
    name = f"skygloss_benchmark_{secrets.token_hex(4)}"
    administrator = server.execution_options(isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = create_engine(database_url().set(database=name))
    try:
        schema.upgrade(engine)
        yield engine
    finally:
        engine.dispose()
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def time_ingest(engine: Engine, path: Path) -> float:
    """Seconds to ingest a file into an empty catalog."""
    clear(engine)
    start = time.perf_counter()
    file = open_catalog(path)
    catalogs.ingest(engine, path, catalogs.choose_map(file))
    return time.perf_counter() - start


def time_raw_copy(engine: Engine, path: Path) -> float:
    """Seconds to COPY the same rows, packed beforehand, into the same empty table."""
    clear(engine)
    file = open_catalog(path)
    bound = BoundMap(catalogs.choose_map(file), file.columns)
    with engine.begin() as connection:
        catalog_id = connection.execute(
            text(
                "INSERT INTO catalog (name, survey, column_map)"
                " VALUES ('raw', '', '{}') RETURNING id"
            )
        ).scalar_one()
    chunks = list(catalogs.packed(file, bound, catalog_id, 0, catalogs.chunk_size(file)))
    start = time.perf_counter()
    with engine.connect() as connection:
        for chunk in chunks:
            names = ", ".join(f'"{name}"' for name in chunk.columns)
            with closing(connection.connection.cursor()) as cursor:
                driver: Any = cursor
                driver.copy_expert(
                    f"COPY source ({names}) FROM STDIN WITH (FORMAT binary)",
                    io.BytesIO(chunk.data),
                    size=2**20,
                )
            connection.commit()
    return time.perf_counter() - start


def clear(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE catalog RESTART IDENTITY CASCADE"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))


def compare(engine: Engine, folder: Path, n_rows: int, repeats: int) -> None:
    """Print rates of ingest and of COPY, alternating in one run."""
    print(f"{n_rows:,} rows, median of {repeats}")
    print(
        f"{'table':<10}{'bytes/row':>10}{'ingest rows/s':>15}{'COPY rows/s':>13}"
        f"{'ratio':>7}{'again s':>9}"
    )
    for name, layout in (("sweep", sweep_layout()), ("narrow", narrow_layout())):
        path = folder / f"{name}.fits"
        write_fits(path, layout, n_rows)
        ingested, copied, again = [], [], []
        for _ in range(repeats):
            copied.append(time_raw_copy(engine, path))
            ingested.append(time_ingest(engine, path))
            start = time.perf_counter()
            catalogs.ingest(engine, path, catalogs.choose_map(open_catalog(path)))
            again.append(time.perf_counter() - start)
        rate, raw = n_rows / median(ingested), n_rows / median(copied)
        print(
            f"{name:<10}{layout.itemsize:>10}{rate:>15,.0f}{raw:>13,.0f}{rate / raw:>7.2f}"
            f"{median(again):>9.2f}"
        )
        path.unlink()


MEASURED = """
import re, sys, time
from pathlib import Path
from db import catalogs
from db.catalog_readers import open_catalog
from db.engine import create_engine

def peak():  # of this program alone; getrusage would count the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

engine, path = create_engine(sys.argv[1]), Path(sys.argv[2])
before = peak()
start = time.perf_counter()
result = catalogs.ingest(engine, path, catalogs.choose_map(open_catalog(path)))
seconds = time.perf_counter() - start
print(f"{result.n_new:,} rows in {seconds:,.0f} s, {result.n_new / seconds:,.0f} rows/s; "
      f"peak memory {peak():,.0f} MiB, {before:,.0f} MiB of it before the first row")
"""


def measure_memory(engine: Engine, folder: Path, n_rows: int) -> None:
    """Print the peak resident memory of a process that ingests a large FITS table (Linux)."""
    path = folder / "large.fits"
    write_fits(path, narrow_layout(), n_rows)
    print(f"\nnarrow table of {n_rows:,} rows, {path.stat().st_size / 1e9:.2f} GB")
    clear(engine)
    url = engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", MEASURED, url, str(path)], check=True)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, help="rows of the large table")
    options = parser.parse_args()
    with scratch_database() as engine, tempfile.TemporaryDirectory() as folder:
        compare(engine, Path(folder), options.rows, options.repeats)
        if options.memory:
            measure_memory(engine, Path(folder), options.memory)


if __name__ == "__main__":
    main()
