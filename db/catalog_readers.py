"""Read catalog files chunk by chunk: FITS, CSV and ECSV, Parquet, VOTable.

The format is recognised by content, not by name; gzip is unpacked on the way. What the columns
mean is the business of `db.column_maps`. FITS, CSV and Parquet are streamed; a VOTable, being one
XML document, is held in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

EXPECTED = "expected FITS with a binary table, VOTable, CSV, ECSV or Parquet"
BLANKS = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "--", "\\N")
DELIMITERS = ",\t;|"
GZIP, PARQUET, FITS = b"\x1f\x8b", b"PAR1", b"SIMPLE  ="
DAMAGE = (EOFError, OSError, zlib.error)  # what a broken gzip stream raises
ENDED_EARLY = "reading ended early, the file is damaged"
LONGEST_EXACT = 15  # digits that any float64 gives back


class CatalogError(ValueError):
    """A file cannot be taken in as a catalog; the message says what was expected and what came."""


@dataclass(frozen=True)
class ColumnInfo:
    """A column of a file: its name, its type in the format's own words, its unit if given."""

    name: str
    type: str
    unit: str = ""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file.

    Attributes
    ----------
    first_row : int
        0-based row of the file the chunk begins with.
    n_rows : int
    columns : dict of str to ndarray, shape (n,) or (n, d)
        Values by column name; masked where missing. Text is `S` or Python objects.
    broken : dict of int to str
        Rows (counted from `first_row`) that could not be split into columns, and why.
    """

    first_row: int
    n_rows: int
    columns: dict[str, NDArray[Any]]
    broken: dict[int, str] = field(default_factory=dict)


class CatalogFile(Protocol):
    """A readable catalog file."""

    columns: list[ColumnInfo]
    notes: list[str]  # what could not be read

    @property
    def format(self) -> str: ...

    @property
    def n_rows(self) -> int | None:
        """Rows that can be read; None where only reading tells."""

    @property
    def n_missing(self) -> int:
        """Rows announced, but cut off."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, roughly."""

    def chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        """Yield the rows from `first_row` on, `n_rows` at a time."""
        ...


def open_catalog(path: Path) -> CatalogFile:
    """Recognise a file by its first bytes.

    Raises
    ------
    CatalogError
        It is none of the formats, is damaged at its beginning, or holds no table.
    """
    try:
        with _open_bytes(path) as file:
            start = file.read1(4096)
    except DAMAGE as error:
        raise CatalogError(f"{path}: cannot be read ({error}); {EXPECTED}") from error
    if start.startswith(FITS):
        return FitsFile(path)
    if start.startswith(PARQUET):
        return ParquetFile(path)
    if b"<VOTABLE" in start:
        return VotableFile(path)
    if not start.strip() or b"\0" in start:
        what = "it is empty" if not start.strip() else f"it begins with {start[:16]!r}"
        raise CatalogError(f"{path}: {what}; {EXPECTED}")
    return CsvFile(path)


class FitsFile:
    """The first binary table of a FITS file, read by offset so that memory stays bounded."""

    format = "FITS"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        header, definitions, self.start = self._table(path)
        self.row_bytes = int(header["NAXIS1"])
        self.dtype = definitions.dtype.newbyteorder(">")
        if self.dtype.itemsize != self.row_bytes:
            raise CatalogError(
                f"{path}: the table says {self.row_bytes} bytes per row, but its columns take "
                f"{self.dtype.itemsize}; the header is damaged"
            )
        announced = int(header["NAXIS2"])
        self.n_rows = min(announced, self._rows_in_file())
        self.n_missing = announced - self.n_rows
        self.definitions = {c.name: c for c in definitions if _letter(c) not in "PQCM"}
        self.columns = [ColumnInfo(n, c.format, c.unit or "") for n, c in self.definitions.items()]
        left_out = [c.name for c in definitions if c.name not in self.definitions]
        self.notes += [f"{name}: variable-length or complex, not read" for name in left_out]

    @staticmethod
    def _table(path: Path) -> tuple[fits.Header, fits.ColDefs, int]:
        """Header, columns and place of the table, found without reading any further."""
        try:
            with _open_bytes(path) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                while True:
                    header = fits.Header.fromfile(file)
                    if _is_table(header):
                        table = fits.BinTableHDU.fromstring(header.tostring().encode())
                        return header, table.columns, file.tell()
                    file.seek(file.tell() + header.data_size_padded)
        except EOFError as error:
            raise CatalogError(
                f"{path}: this FITS file holds no binary table, or is cut off before it; {EXPECTED}"
            ) from error
        except (OSError, zlib.error, fits.VerifyError, TypeError, ValueError, KeyError) as error:
            raise CatalogError(f"{path}: damaged FITS ({error}); {EXPECTED}") from error

    def _rows_in_file(self) -> int:
        if not _is_gzip(self.path):
            size = self.path.stat().st_size
        else:
            size = sum(len(block) for block in _blocks(self.path, self.notes))
        return max(0, size - self.start) // self.row_bytes

    def chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        place = self.start + first_row * self.row_bytes
        pieces = _pieces(self.path, place, n_rows * self.row_bytes)
        for first in range(first_row, self.n_rows, n_rows):
            n = min(n_rows, self.n_rows - first)
            rows = np.frombuffer(next(pieces), self.dtype, n)
            columns = {
                name: _fits_values(rows[name], definition)
                for name, definition in self.definitions.items()
            }
            yield Chunk(first, n, columns)


class CsvFile:
    """Text with one line per row: CSV or its relatives with tab, semicolon or bar, and ECSV."""

    row_bytes = 1000
    n_missing = 0
    n_rows = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        try:
            with self._open() as file:
                comments, header = self._head(file)
        except DAMAGE as error:
            raise CatalogError(f"{path}: damaged before its first row ({error})") from error
        self.n_comments = len(comments)
        ecsv = bool(comments) and comments[0].startswith("# %ECSV")
        self.format = "ECSV" if ecsv else "CSV"
        self.delimiter = _ecsv_delimiter(comments) if ecsv else _delimiter(header)
        self.names = [name.strip() for name in next(csv.reader([header], delimiter=self.delimiter))]
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice or len(self.names) < 2:
            what = f"columns named twice: {', '.join(sorted(twice))}" if twice else "one column"
            raise CatalogError(
                f"{path}: its first line has {what} ({header.strip()[:80]!r}); expected a line of "
                f"different column names separated by comma, tab, semicolon or bar. {EXPECTED}"
            )
        units = _ecsv_units(comments) if ecsv else {}
        self.columns = [ColumnInfo(name, "text", units.get(name, "")) for name in self.names]

    def _open(self) -> IO[str]:
        if _is_gzip(self.path):
            return gzip.open(self.path, "rt", encoding="utf-8-sig", errors="replace", newline="")
        return open(self.path, encoding="utf-8-sig", errors="replace", newline="")

    @staticmethod
    def _head(file: IO[str]) -> tuple[list[str], str]:
        """Leading comment lines, and the line of column names after them."""
        comments: list[str] = []
        for line in file:
            if not line.startswith("#"):
                return comments, line
            comments.append(line)
        return comments, ""

    def chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        with self._open() as file:
            for _ in range(self.n_comments + 1):
                next(file)
            rows = self._rows(file)
            if sum(1 for _ in islice(rows, first_row)) < first_row:
                return
            while block := list(islice(rows, n_rows)):
                yield self._chunk(first_row, block)
                first_row += len(block)

    def _rows(self, file: IO[str]) -> Iterator[list[str]]:
        try:
            for row in csv.reader(file, delimiter=self.delimiter):
                if row:
                    yield row
        except (*DAMAGE, csv.Error) as error:
            self.notes.append(f"{ENDED_EARLY}: {error}")

    def _chunk(self, first: int, rows: list[list[str]]) -> Chunk:
        expected = len(self.names)
        broken = {}
        for i, row in enumerate(rows):
            if len(row) != expected:
                broken[i] = f"{len(row)} fields, expected {expected}"
                rows[i] = (row + [""] * expected)[:expected]
        values = zip(*rows, strict=True)
        columns = {name: _typed(v) for name, v in zip(self.names, values, strict=True)}
        return Chunk(first, len(rows), columns, broken)


class ParquetFile:
    """A Parquet file, read by row group."""

    format = "Parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.notes: list[str] = []
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise CatalogError(f"{path}: damaged Parquet ({error}); {EXPECTED}") from error
        self.n_rows = file.metadata.num_rows
        self.n_missing = 0
        self.columns = [ColumnInfo(c.name, str(c.type)) for c in file.schema_arrow]
        self.row_bytes = 10 * len(self.columns)

    def chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        import pyarrow as pa

        n_before = first_row
        try:
            for chunk in self._sound_chunks(first_row, n_rows):
                yield chunk
                n_before = chunk.first_row + chunk.n_rows
        except (pa.ArrowException, OSError) as error:
            self.n_missing = self.n_rows - n_before
            self.notes.append(f"{ENDED_EARLY}: {error}")

    def _sound_chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        """Chunks until the end, or until a damaged page raises."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            first = 0
            groups: list[int] = []
            for k in range(file.num_row_groups):
                n = file.metadata.row_group(k).num_rows
                if groups or first + n > first_row:
                    groups.append(k)
                else:
                    first += n
            for batch in file.iter_batches(n_rows, row_groups=groups) if groups else ():
                skipped = min(max(0, first_row - first), batch.num_rows)
                rest = batch.slice(skipped)
                first += skipped
                if rest.num_rows:
                    columns = {c.name: _arrow_values(rest[c.name]) for c in self.columns}
                    yield Chunk(first, rest.num_rows, columns)
                first += rest.num_rows


class VotableFile:
    """The first table of a VOTable, held in memory."""

    format = "VOTable"
    n_missing = 0
    row_bytes = 1000

    def __init__(self, path: Path) -> None:
        from astropy.io.votable import parse_single_table

        self.notes: list[str] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.table = parse_single_table(path).to_table(use_names_over_ids=True)
        except Exception as error:  # astropy raises many kinds: XML, VOTable and value errors
            raise CatalogError(f"{path}: damaged VOTable ({error}); {EXPECTED}") from error
        self.n_rows = len(self.table)
        self.columns = [
            ColumnInfo(c.name, str(c.dtype), str(c.unit or "")) for c in self.table.columns.values()
        ]

    def chunks(self, first_row: int, n_rows: int) -> Iterator[Chunk]:
        for first in range(first_row, self.n_rows, n_rows):
            part = self.table[first : first + n_rows]
            columns: dict[str, NDArray[Any]] = {
                name: np.ma.MaskedArray(column.data, np.ma.getmask(column))
                for name, column in part.columns.items()
            }
            yield Chunk(first, len(part), columns)


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == GZIP


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(path) if _is_gzip(path) else open(path, "rb")


def _blocks(path: Path, notes: list[str]) -> Iterator[bytes]:
    """Blocks of a gzip stream until its end, or until damage, which is noted.

    Always the same blocks: what can be had of a damaged stream depends on how it is asked for.
    """
    with gzip.GzipFile(path) as file:
        try:
            while block := file.read1(2**20):
                yield block
        except DAMAGE as error:
            notes.append(f"{ENDED_EARLY}: {error}")


def _pieces(path: Path, place: int, size: int) -> Iterator[bytes]:
    """What a file, unpacked, holds from a place on, `size` bytes at a time."""
    if not _is_gzip(path):
        with open(path, "rb") as file:
            file.seek(place)
            while piece := file.read(size):
                yield piece
        return
    skip, rest = place, bytearray()
    for block in _blocks(path, notes=[]):
        rest += block[skip:]
        skip = max(0, skip - len(block))
        while len(rest) >= size:
            yield bytes(rest[:size])
            del rest[:size]
    if rest:
        yield bytes(rest)


def _is_table(header: fits.Header) -> bool:
    """A binary table with columns, and not an image compressed into one."""
    binary = header.get("XTENSION", "").strip() == "BINTABLE"
    return binary and header["TFIELDS"] > 0 and "ZIMAGE" not in header


def _letter(definition: fits.Column) -> str:
    """Type letter of a FITS column format such as `3E` or `PE(12)`."""
    found = re.search(r"[A-Z]", definition.format)
    return found.group() if found else "P"


def _fits_values(raw: NDArray[Any], definition: fits.Column) -> NDArray[Any]:
    """Physical values of one column: scaled, in native byte order, masked where null."""
    letter = _letter(definition)
    if letter == "A":
        return np.strings.rstrip(raw) if raw.ndim == 1 else raw
    if letter == "L":
        return np.ma.MaskedArray(raw == ord("T"), raw == 0)
    values = raw.astype(raw.dtype.newbyteorder("="))
    null = definition.null
    scale, zero = definition.bscale or 1, definition.bzero or 0
    scaled = values
    if scale != 1 or zero != int(zero):
        scaled = values * float(scale) + float(zero)
    elif zero and values.dtype.itemsize == 8 and int(zero) == 2**63:
        scaled = values.view(np.uint64) ^ np.uint64(2**63)
    elif zero:
        scaled = values + (int(zero) if values.dtype.kind == "f" else np.int64(zero))
    if null is None or values.dtype.kind == "f":
        return scaled
    return np.ma.MaskedArray(scaled, values == null)


def _typed(texts: tuple[str, ...]) -> NDArray[Any]:
    """Integers, floats or text, whichever all values of a CSV column are; masked where blank.

    Numbers with leading zeros are text: they are names. So are numbers of which float64 would lose
    digits, such as long identifiers with one "1e3" among them.
    """
    values = np.strings.strip(np.array(texts))
    blank = np.isin(values, BLANKS)
    numbers = np.where(blank, "0", values) if blank.any() else values
    for kind in (np.int64, np.float64):
        try:
            converted = numbers.astype(kind)
        except (ValueError, OverflowError):
            continue
        if _leading_zeros(numbers) if kind is np.int64 else _loses_digits(numbers):
            break
        return np.ma.MaskedArray(converted, blank)
    return np.ma.MaskedArray(values.astype(object), blank)


def _leading_zeros(values: NDArray[Any]) -> bool:
    return bool((np.strings.startswith(values, "0") & (np.strings.str_len(values) > 1)).any())


def _loses_digits(values: NDArray[Any]) -> bool:
    whole = np.strings.lstrip(values, "+-")
    return bool((np.strings.isdecimal(whole) & (np.strings.str_len(whole) > LONGEST_EXACT)).any())


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _ecsv_delimiter(comments: list[str]) -> str:
    named = re.search(r"^# delimiter: *['\"]?(\\t|.)", "".join(comments), re.MULTILINE)
    return named.group(1).replace("\\t", "\t") if named else " "


def _ecsv_units(comments: list[str]) -> dict[str, str]:
    from astropy.table.meta import get_header_from_yaml

    header = get_header_from_yaml([line[2:] for line in comments[1:]])
    return {c["name"]: str(c["unit"]) for c in header["datatype"] if c.get("unit")}


def _arrow_values(column: Any) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_decimal(kind):
        column, kind = pc.cast(column, pa.float64()), pa.float64()
    if pa.types.is_temporal(kind):
        column, kind = pc.cast(column, pa.string()), pa.string()
    if pa.types.is_floating(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        filler = pa.scalar(0).cast(kind)
        values = pc.fill_null(column, filler).to_numpy(zero_copy_only=False)
        return np.ma.MaskedArray(values, column.is_null().to_numpy(zero_copy_only=False))
    items = column.to_pylist()
    values = np.empty(len(items), dtype=object)
    values[:] = items
    return np.ma.MaskedArray(values, [item is None for item in items])
