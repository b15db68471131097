"""Tables out, in files that say what their columns mean and how they were made.

CSV (with the header of an ECSV file, in lines that begin with #) and Parquet are streamed. FITS and
VOTable are made in memory, and therefore limited. What is in the table is for others to say.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:  # slow to import
    import pyarrow
    from astropy.table import MaskedColumn, Table

Rows = Sequence[tuple[Any, ...]]

MAX_IN_MEMORY = 1_000_000  # rows of a FITS file or a VOTable
ECSV_TYPES = {"text": "string", "integer": "int64", "real": "float64"}
BLANKS: dict[str, Any] = {"text": "", "integer": -1, "real": np.nan}


class ExportError(ValueError):
    """A table cannot be written as it was asked for."""


@dataclass(frozen=True)
class Column:
    """A column of a file. Its values are str, int or float, or None."""

    name: str
    kind: Literal["text", "integer", "real"]
    description: str
    unit: str = ""


def write(
    path: Path, columns: Sequence[Column], batches: Iterable[Rows], facts: Mapping[str, str]
) -> int:
    """Write rows to a file, in the format that its name ends in; there is all of it or nothing.

    Parameters
    ----------
    path : Path
        Ends in .csv, .ecsv, .parquet, .fits or .vot; what was there before is replaced.
    batches : iterable of sequences of tuples
        The rows, some thousands at a time, with a value per column.
    facts : mapping of str to str
        How the file was made, kept in its header; names like `made_by`.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ExportError
        The format is unknown, or cannot hold these rows.
    """
    writer = writer_for(path)
    part = path.with_name(f"{path.name}.part")
    try:
        n = writer(part, columns, batches, facts)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return n


def writer_for(path: Path) -> Callable[[Path, Sequence[Column], Iterable[Rows], Any], int]:
    """Return the function that writes the format that a file's name ends in.

    Raises
    ------
    ExportError
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ExportError(
            f"expected a file name that ends in {', '.join(WRITERS)}; arrived {path.name}"
        )
    return writer


def _write_csv(
    path: Path, columns: Sequence[Column], batches: Iterable[Rows], facts: Mapping[str, str]
) -> int:
    n = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in _ecsv_header(columns, facts))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in columns)
        for rows in batches:
            writer.writerows(rows)
            n += len(rows)
    return n


def _ecsv_header(columns: Sequence[Column], facts: Mapping[str, str]) -> Iterator[str]:
    """Lines of YAML, in which JSON is allowed; see APE 6 of Astropy."""
    yield from ("%ECSV 1.0", "---", "delimiter: ','", "datatype:")
    for column in columns:
        about = {"name": column.name, "datatype": ECSV_TYPES[column.kind]}
        if column.unit:
            about["unit"] = column.unit
        yield f"- {json.dumps(about | {'description': column.description})}"
    yield f"meta: {json.dumps(dict(facts))}"


def _write_parquet(
    path: Path, columns: Sequence[Column], batches: Iterable[Rows], facts: Mapping[str, str]
) -> int:
    import pyarrow
    from pyarrow import parquet

    kinds = {"text": pyarrow.string(), "integer": pyarrow.int64(), "real": pyarrow.float64()}
    fields = [
        pyarrow.field(
            column.name,
            kinds[column.kind],
            metadata={"description": column.description, "unit": column.unit},
        )
        for column in columns
    ]
    schema = pyarrow.schema(fields, metadata=dict(facts))
    n = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in batches:
            writer.write_table(_arrow(rows, schema))
            n += len(rows)
    return n


def _arrow(rows: Rows, schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pyarrow.array(each, field.type) for each, field in zip(values, schema, strict=True)]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _write_fits(
    path: Path, columns: Sequence[Column], batches: Iterable[Rows], facts: Mapping[str, str]
) -> int:
    from astropy.io import fits

    table = _table(columns, batches)
    for column in columns:
        if column.kind == "text" and not all(str(word).isascii() for word in table[column.name]):
            raise ExportError(
                f"FITS holds plain ASCII only, and column {column.name} has other characters; "
                "choose another format, or rename what bears them"
            )
    hdu = fits.table_to_hdu(table)
    for number, column in enumerate(columns, start=1):
        hdu.header[f"TCOMM{number}"] = column.description
    for name, fact in facts.items():
        hdu.header.add_comment(f"{name}: {fact}".encode("ascii", "replace").decode())
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
    return len(table)


def _write_votable(
    path: Path, columns: Sequence[Column], batches: Iterable[Rows], facts: Mapping[str, str]
) -> int:
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info

    table = _table(columns, batches)
    file = from_table(table)
    file.resources[0].infos.extend(Info(name=name, value=fact) for name, fact in facts.items())
    file.to_xml(str(path), tabledata_format="binary2")
    return len(table)


def _table(columns: Sequence[Column], batches: Iterable[Rows]) -> Table:
    from astropy.table import Table

    rows: list[tuple[Any, ...]] = []
    for batch in batches:
        rows += batch
        if len(rows) > MAX_IN_MEMORY:
            raise ExportError(
                f"FITS files and VOTables are made in memory, of at most {MAX_IN_MEMORY:,} rows; "
                "there are more: choose .csv or .parquet"
            )
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return Table([_column(*each) for each in zip(columns, values, strict=True)], masked=True)


def _column(column: Column, values: Sequence[Any]) -> MaskedColumn:
    from astropy.table import MaskedColumn

    dtype: Any = {"text": np.str_, "integer": np.int64, "real": np.float64}[column.kind]
    blank = BLANKS[column.kind]
    filled = [blank if value is None else value for value in values]
    made = MaskedColumn(
        np.array(filled, dtype if filled or column.kind != "text" else "U1"),
        name=column.name,
        mask=[value is None for value in values] if column.kind != "text" else False,
        unit=column.unit or None,
        description=column.description,
    )
    if column.kind == "text":
        made.meta["_votable_string_dtype"] = "unicodeChar"  # astropy guesses by a first row else
    return made


WRITERS = {
    ".csv": _write_csv,
    ".ecsv": _write_csv,
    ".parquet": _write_parquet,
    ".fits": _write_fits,
    ".vot": _write_votable,
}


def in_batches(rows: Iterable[tuple[Any, ...]], size: int = 5_000) -> Iterator[Rows]:
    """Gather rows into batches."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
