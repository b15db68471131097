"""Files that say what is in them, in every format."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse as parse_votable
from astropy.table import Table
from pyarrow import parquet

from db import export
from db.export import Column, ExportError

COLUMNS = (
    Column("name", "text", "Name of it, 'quoted'"),
    Column("ra", "real", "Right ascension, ICRS", "deg"),
    Column("n", "integer", "How many"),
)
ROWS: list[tuple[Any, ...]] = [("a", 150.25, 3), ("b, c", None, None), ("", 0.1, -1)]
FACTS = {"made_by": "a test", "date": "2020-01-01T00:00:00+00:00"}


def written(path: Path, rows: list[tuple[Any, ...]] = ROWS) -> Path:
    assert export.write(path, COLUMNS, [rows[:2], rows[2:]], FACTS) == len(rows)
    return path


def test_csv_reads_back_with_units_and_facts_by_astropy_and_without_by_others(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.csv")

    table = Table.read(path, format="ascii.ecsv")
    assert table["name"].tolist() == ["a", "b, c", None]
    assert table["ra"].unit == "deg"
    assert table["ra"].description == "Right ascension, ICRS"
    assert table["n"].tolist() == [3, None, -1]
    assert table.meta == FACTS
    plain = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert list(csv.reader(plain))[2] == ["b, c", "", ""]


def test_parquet_reads_back(tmp_path: Path) -> None:
    table = parquet.read_table(written(tmp_path / "a.parquet"))

    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS
    assert table.schema.metadata[b"made_by"] == b"a test"
    assert table.schema.field("ra").metadata[b"unit"] == b"deg"


def test_fits_reads_back(tmp_path: Path) -> None:
    with fits.open(written(tmp_path / "a.fits")) as file:
        header, data = file[1].header, file[1].data
        assert list(data["name"]) == ["a", "b, c", ""]
        assert np.isnan(data["ra"][1])
        assert data["n"][1] == header["TNULL3"]
        assert (header["TUNIT2"], header["TCOMM1"]) == ("deg", "Name of it, 'quoted'")
        assert "made_by: a test" in str(header["COMMENT"])


def test_votable_reads_back(tmp_path: Path) -> None:
    path = written(tmp_path / "a.vot")

    table = Table.read(path)
    assert list(table["name"]) == ["a", "b, c", ""]
    assert table["n"].mask.tolist() == [False, True, False]
    assert str(table["ra"].unit) == "deg"
    infos = {info.name: info.value for info in parse_votable(path).resources[0].infos}
    assert FACTS.items() <= infos.items()


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot"])
def test_an_empty_table_keeps_its_columns(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"a.{ending}", [])

    if ending == "parquet":
        table = parquet.read_table(path)
        assert table.column_names == ["name", "ra", "n"]
    else:
        table = Table.read(path, **({"format": "ascii.ecsv"} if ending == "csv" else {}))
        assert table.colnames == ["name", "ra", "n"]
    assert len(table) == 0


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv")
    before = path.read_text()

    def breaking_off() -> Any:
        yield ROWS
        raise RuntimeError("cable pulled")

    with pytest.raises(RuntimeError):
        export.write(path, COLUMNS, breaking_off(), FACTS)

    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_format_cannot_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"ends in .*arrived a\.xls"):
        export.write(tmp_path / "a.xls", COLUMNS, [ROWS], FACTS)
    with pytest.raises(ExportError, match="ASCII only, and column name"):
        export.write(tmp_path / "a.fits", COLUMNS, [[("Düse", 1.0, 1)]], FACTS)
    monkeypatch.setattr(export, "MAX_IN_MEMORY", 2)
    with pytest.raises(ExportError, match="at most 2 rows"):
        export.write(tmp_path / "a.vot", COLUMNS, [ROWS], FACTS)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_gathered_into_batches() -> None:
    rows = [(k,) for k in range(7)]

    batches = list(export.in_batches(rows, 3))

    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [row for batch in batches for row in batch] == rows
