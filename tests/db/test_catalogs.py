"""Catalog files into the database: formats, bad input, repetition, kills, and the command."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.orm import Session

from cli import main
from db import catalogs
from db.catalog_readers import CatalogError, open_catalog
from db.tables import Catalog, CatalogFile, Rejection, Source
from tests.db.survey_tables import (
    Columns,
    legacy_columns,
    nsa_columns,
    plain_columns,
    ps1_columns,
    sdss_columns,
)

LEGACY = Path(__file__).parents[2] / "../shared/data/legacy_cutouts/catalog.fits"


def write_fits(path: Path, columns: Columns) -> Path:
    Table(columns).write(path, format="fits", overwrite=True)
    return path


def write_csv(path: Path, columns: Columns) -> Path:
    Table(columns).write(path, format="ascii.csv", overwrite=True)
    return path


def write_ecsv(path: Path, columns: Columns) -> Path:
    Table(columns).write(path, format="ascii.ecsv", overwrite=True)
    return path


def write_gzip_csv(path: Path, columns: Columns) -> Path:
    plain = write_csv(path.with_suffix(".plain"), columns)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def write_gzip_fits(path: Path, columns: Columns) -> Path:
    plain = write_fits(path.with_suffix(".fits"), columns)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def write_votable(path: Path, columns: Columns) -> Path:
    Table(columns).write(path, format="votable", overwrite=True)
    return path


def write_parquet(path: Path, columns: Columns) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


WRITERS = [
    write_fits,
    write_gzip_fits,
    write_csv,
    write_gzip_csv,
    write_ecsv,
    write_votable,
    write_parquet,
]


def ingest(engine: Engine, path: Path, **options: Any) -> catalogs.Ingested:
    column_map = catalogs.choose_map(open_catalog(path), options.pop("survey", "auto"))
    return catalogs.ingest(engine, path, column_map, **options)


def sources(engine: Engine) -> list[Source]:
    with Session(engine) as session:
        return list(session.scalars(select(Source).order_by(Source.id)))


def counts(engine: Engine) -> tuple[int, int, int]:
    """Sources, distinct identifiers, and what the catalogs say about it."""
    with engine.connect() as connection:
        n_sources = func.sum(Catalog.n_sources)
        return (
            connection.scalar(select(func.count()).select_from(Source)) or 0,
            connection.scalar(select(func.count(Source.survey_id.distinct()))) or 0,
            int(connection.scalar(select(n_sources)) or 0),
        )


def rejections(engine: Engine) -> dict[int, str]:
    with engine.connect() as connection:
        query = select(Rejection.row, Rejection.reason)
        return dict(connection.execute(query).all())


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_sources(
    engine: Engine, tmp_path: Path, write: Callable[[Path, Columns], Path]
) -> None:
    columns = plain_columns(10)
    columns["objID"] += 1237648720693755918
    columns["name"] = np.array([f"galaxy {i}" for i in range(10)])

    result = ingest(engine, write(tmp_path / "field.cat", columns), chunk_rows=3)

    found = sources(engine)
    assert (result.n_read, result.n_new, result.n_rejected) == (10, 10, 0)
    assert result.catalog == "field"
    assert [s.survey_id for s in found] == [str(i) for i in columns["objID"]]
    assert np.array([(s.ra, s.dec) for s in found]) == pytest.approx(
        np.stack([columns["ra"], columns["dec"]], axis=1), rel=1e-15
    )
    assert [s.extra for s in found] == [
        {"colour": c, "name": n} for c, n in zip(columns["colour"], columns["name"], strict=True)
    ]


@pytest.mark.parametrize("write", [write_fits, write_csv, write_votable, write_parquet])
@pytest.mark.parametrize("spell", [str.upper, str.lower])
@pytest.mark.parametrize(
    ("columns", "survey", "n_new"),
    [(legacy_columns(), "legacy", 3), (sdss_columns(), "sdss", 2), (ps1_columns(), "ps1", 3)],
)
def test_surveys_in_either_case_and_any_format(
    engine: Engine,
    tmp_path: Path,
    write: Any,
    spell: Any,
    columns: Columns,
    survey: str,
    n_new: int,
) -> None:
    path = write(tmp_path / "x", {spell(name): values for name, values in columns.items()})

    result = ingest(engine, path)

    assert (result.survey, result.catalog, result.n_new) == (survey, survey, n_new)
    by_magnitude = [s.mag_r for s in sources(engine)]
    expected = {"legacy": 17.2577, "sdss": 17.2, "ps1": 18.5}[survey]
    assert by_magnitude[0] == pytest.approx(expected, abs=1e-3)


def test_vector_columns_are_read_by_element_and_kept_as_lists(
    engine: Engine, tmp_path: Path
) -> None:
    ingest(engine, write_fits(tmp_path / "nsa.fits", nsa_columns()))

    first, second = sources(engine)
    assert first.mag_r == pytest.approx(15.0)
    assert first.redshift == pytest.approx(0.0105)
    assert second.redshift is None
    assert first.extra is not None
    assert first.extra["elpetro_nmgy"] == [10, 20, 100, 500, 1000, 1500, 2000]
    assert first.extra["programname"] == "legacy"


def test_extra_keeps_precision_and_says_null_for_nan(engine: Engine, tmp_path: Path) -> None:
    columns = plain_columns(2) | {
        "big": np.array([2**62 + 1, -(2**62)]),
        "f4": np.array([0.1, np.nan], dtype="f4"),
        "f8": np.array([np.inf, 1 / 3]),
        "flag": np.array([True, False]),
        "50%": np.array([b'a "quoted" one', b"  "]),
    }

    ingest(engine, write_fits(tmp_path / "x.fits", columns))

    first, second = (s.extra or {} for s in sources(engine))
    assert (first["big"], second["big"]) == (2**62 + 1, -(2**62))
    assert (first["f4"], second["f4"]) == (0.1, None)
    assert (first["f8"], second["f8"]) == (None, 1 / 3)
    assert (first["flag"], second["flag"]) == (True, False)
    assert (first["50%"], second["50%"]) == ('a "quoted" one', "")


def test_a_nul_is_left_out_of_extra_and_an_escape_as_typed_is_kept(
    engine: Engine, tmp_path: Path
) -> None:
    words = ["x\\u0000y", "a\0b\0\0c", "back\\\0slash", "\0"]
    table = {"id": ["1", "2", "3", "4"], "ra": [1.0] * 4, "dec": [2.0] * 4, "word": words}
    pq.write_table(pa.table(table | {"list": [[w] for w in words]}), tmp_path / "x.parquet")

    ingest(engine, tmp_path / "x.parquet")

    kept = ["x\\u0000y", "abc", "back\\slash", ""]
    assert [s.extra for s in sources(engine)] == [{"word": w, "list": [w]} for w in kept]


def test_fits_scaling_unsigned_integers_and_nulls_are_honoured(
    engine: Engine, tmp_path: Path
) -> None:
    layout: list[Any] = [
        ("id", ">i4"),
        ("ra", ">f8"),
        ("dec", ">f8"),
        ("unsigned", ">i2"),
        ("huge", ">i8"),
    ]
    layout += [("scaled", ">i2"), ("nullable", ">i4"), ("ragged", ">i4", (2,)), ("flag", "S1")]
    raw = np.zeros(2, layout)
    raw["id"], raw["ra"], raw["dec"] = [1, 2], [1, 2], [1, 2]
    raw["unsigned"], raw["huge"] = [-32767, 32767], [-(2**63), 2**63 - 1]
    raw["scaled"], raw["nullable"], raw["flag"] = [2, 5], [-1, 5], [b"T", b""]
    header = fits.BinTableHDU(raw).header
    header.update({"TZERO4": 32768, "TZERO5": 2**63, "TSCAL6": 0.5, "TZERO6": 10, "TNULL7": -1})
    header.update({"TFORM8": "1PJ(0)", "TFORM9": "L"})
    content = fits.PrimaryHDU().header.tostring() + header.tostring()
    (tmp_path / "x.fits").write_bytes(content.encode() + raw.tobytes().ljust(2880, b"\0"))

    result = ingest(engine, tmp_path / "x.fits")

    assert [s.extra for s in sources(engine)] == [
        {"unsigned": 1, "huge": 0, "scaled": 11.0, "nullable": None, "flag": True},
        {"unsigned": 65535, "huge": 2**64 - 1, "scaled": 12.5, "nullable": 5, "flag": None},
    ]
    assert result.notes == ["ragged: variable-length or complex, not read"]


def test_missing_values_of_csv_and_parquet_are_null(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "#Table1\nid,ra,dec,mag_r,n,word\n0012,1,1,18.5,7,x\n0013,2,2,,,\n0014,3,3,null,8,--\n"
    )
    table = pa.table(
        {"id": ["a", "b"], "ra": [5.0, 6.0], "dec": [5.0, 6.0], "n": pa.array([None, 2**60])}
    )
    pq.write_table(table, tmp_path / "b.parquet")

    ingest(engine, tmp_path / "a.csv")
    ingest(engine, tmp_path / "b.parquet")

    found = sources(engine)
    assert [s.survey_id for s in found] == ["0012", "0013", "0014", "a", "b"]
    assert [s.mag_r for s in found] == [18.5, None, None, None, None]
    assert [s.extra for s in found] == [
        {"n": 7, "word": "x"},
        {"n": None, "word": None},
        {"n": 8, "word": None},
        {"n": None},
        {"n": 2**60},
    ]


@pytest.mark.parametrize("odd", ["1e3", "5.0", "18446744073709551615", "x1"])
def test_long_identifiers_in_csv_keep_their_digits_whatever_stands_beside_them(
    engine: Engine, tmp_path: Path, odd: str
) -> None:
    names = ["1237648673994965559", "1237648673994965560", odd]
    lines = [f"{name},{10 + k},20,{k}.5" for k, name in enumerate(names)]
    (tmp_path / "x.csv").write_text("\n".join(["id,ra,dec,colour", *lines]))

    result = ingest(engine, tmp_path / "x.csv")

    assert (result.n_new, result.n_rejected) == (3, 0)
    assert [s.survey_id for s in sources(engine)] == names
    assert [s.extra for s in sources(engine)] == [{"colour": k + 0.5} for k in range(3)]


@pytest.mark.parametrize(
    ("separator", "name"), [("\t", "a.tsv"), (";", "a.csv"), ("|", "a.txt"), (",", "a.dat")]
)
def test_relatives_of_csv(engine: Engine, tmp_path: Path, separator: str, name: str) -> None:
    lines = [("id", "ra", "dec"), ("1", "10.5", "-3"), ("2", "11", "4")]
    (tmp_path / name).write_text("\n".join(separator.join(line) for line in lines))

    ingest(engine, tmp_path / name)

    assert [(s.survey_id, s.ra, s.dec) for s in sources(engine)] == [("1", 10.5, -3), ("2", 11, 4)]


@pytest.mark.parametrize("write", [write_fits, write_csv, write_votable, write_parquet])
def test_bad_rows_are_listed_and_good_rows_kept(engine: Engine, tmp_path: Path, write: Any) -> None:
    columns = plain_columns(9)
    columns["ra"][[1, 2, 3]] = np.nan, np.inf, 400
    columns["dec"][[4, 5]] = -999, 91
    columns["objID"][[7, 8]] = 0, 6

    result = ingest(engine, write(tmp_path / "x", columns), chunk_rows=4)

    assert {int(s.survey_id) for s in sources(engine)} == {0, 6}
    assert rejections(engine) == {
        1: "missing position",
        2: "position not finite",
        3: "right ascension out of range: 400",
        4: "missing position",
        5: "declination out of range: 91",
        7: "identifier repeated in this file",
        8: "identifier repeated in this file",
    }
    assert (result.n_read, result.n_new, result.n_known, result.n_rejected) == (9, 2, 0, 7)
    assert result.reasons["identifier repeated in this file"] == 2
    assert counts(engine) == (2, 2, 2)


def test_a_repetition_far_down_the_file_is_found(engine: Engine, tmp_path: Path) -> None:
    columns = plain_columns(40)
    columns["objID"][35] = 2

    result = ingest(engine, write_fits(tmp_path / "x.fits", columns), chunk_rows=10)

    assert rejections(engine) == {35: "identifier repeated in this file"}
    assert (result.n_new, result.n_rejected) == (39, 1)
    assert sources(engine)[2].ra == columns["ra"][2]


def test_ragged_and_unreadable_csv_rows_are_listed(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,ra,dec\n1,10,20\n2,10\n\n3,abc,20\n4,10,20,30\n"5",10,20\n,1,1\n')

    ingest(engine, path)

    assert [s.survey_id for s in sources(engine)] == ["1", "5"]
    assert rejections(engine) == {
        1: "2 fields, expected 3",
        2: "missing position",
        3: "4 fields, expected 3",
        5: "missing identifier",
    }


@pytest.mark.parametrize("n_bytes_lost", [1, 3000, 5000])
def test_a_truncated_fits_file_gives_its_readable_rows(
    engine: Engine, tmp_path: Path, n_bytes_lost: int
) -> None:
    path = write_fits(tmp_path / "x.fits", plain_columns(360))  # 11,520 bytes of rows, padded
    content = path.read_bytes()
    path.write_bytes(content[: 2 * 2880 + 360 * 32 - n_bytes_lost])
    n_missing = -(-n_bytes_lost // 32)

    result = ingest(engine, path)

    assert (result.n_new, result.n_missing) == (360 - n_missing, n_missing)
    assert counts(engine)[0] == 360 - n_missing


def test_a_broken_gzip_gives_the_rows_before_the_break(engine: Engine, tmp_path: Path) -> None:
    path = write_gzip_csv(tmp_path / "x.csv.gz", plain_columns(5_000))
    path.write_bytes(path.read_bytes()[:-60_000])

    result = ingest(engine, path)

    assert 1_000 < result.n_new < 5_000
    assert result.n_rejected <= 1
    assert "reading ended early, the file is damaged" in result.notes[0]


@pytest.mark.parametrize("damage", ["cut in half", "garbled in the middle"])
def test_a_damaged_compressed_fits_file_gives_the_rows_before_the_damage(
    engine: Engine, tmp_path: Path, damage: str
) -> None:
    columns = plain_columns(5_000)
    plain = write_fits(tmp_path / "x.fits", columns).read_bytes()
    middle = len(plain) // 2
    if damage == "cut in half":
        content = gzip.compress(plain)
        content = content[: len(content) // 2]
    else:
        content = gzip.compress(plain[:middle]) + gzip.compress(plain[middle:])[:10] + b"\xff" * 99
    path = tmp_path / "x.fits.gz"
    path.write_bytes(content)

    result = ingest(engine, path, chunk_rows=700)

    assert 1_000 < result.n_new < 4_000
    assert (result.n_rejected, result.n_new + result.n_missing) == (0, 5_000)
    assert "reading ended early, the file is damaged" in result.notes[0]
    assert [s.ra for s in sources(engine)] == columns["ra"][: result.n_new].tolist()


@pytest.mark.parametrize("write", [write_gzip_fits, write_gzip_csv])
def test_a_wrong_checksum_is_noted_and_no_row_is_lost(
    engine: Engine, tmp_path: Path, write: Any
) -> None:
    path = write(tmp_path / "x.gz", plain_columns(500))
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"\0\0\0\0" + content[-4:])

    result = ingest(engine, path)

    assert (result.n_new, result.n_missing) == (500, 0)
    assert "CRC" in result.notes[0]


def test_a_compressed_file_cut_off_before_its_table_says_so(tmp_path: Path) -> None:
    header = fits.PrimaryHDU().header.tostring().encode()
    path = tmp_path / "x.fits.gz"
    path.write_bytes(gzip.compress(header)[:-10])

    with pytest.raises(CatalogError, match="cut off before it"):
        open_catalog(path)


def test_a_compressed_file_of_nonsense_says_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 100)

    with pytest.raises(CatalogError, match=r"cannot be read.*expected"):
        open_catalog(path)


def test_a_bad_page_of_parquet_costs_only_what_comes_after_it(
    engine: Engine, tmp_path: Path
) -> None:
    columns = plain_columns(40)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=10)
    place = pq.ParquetFile(path).metadata.row_group(2).column(0).dictionary_page_offset
    content = path.read_bytes()
    path.write_bytes(content[:place] + b"\xff" * 40 + content[place + 40 :])

    result = ingest(engine, path, chunk_rows=10)

    assert (result.n_new, result.n_missing) == (20, 20)
    assert "reading ended early, the file is damaged" in result.notes[0]


def test_the_whole_file_completes_what_its_truncated_copy_began(
    engine: Engine, tmp_path: Path
) -> None:
    whole = write_fits(tmp_path / "x.fits", plain_columns(360))
    part = tmp_path / "part.fits"
    part.write_bytes(whole.read_bytes()[:9000])

    first = ingest(engine, part, name="field")
    second = ingest(engine, whole, name="field")

    assert second.n_known == first.n_new
    assert first.n_new + second.n_new == 360
    assert counts(engine) == (360, 360, 360)
    assert rejections(engine) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "begins with"),
        (b"SIMPLE  = nonsense", "damaged FITS"),
        (b"PAR1 nonsense", "damaged Parquet"),
        (b"<?xml version='1.0'?><VOTABLE><RESOURCE>", "damaged VOTable"),
        (b"just a sentence\nand another", "one column"),
        (b"\x1f\x8b\x08 not gzip", "cannot be read"),
        (b"id,ra,ra\n1,2,3", "named twice: ra"),
    ],
)
def test_an_unreadable_file_says_what_was_expected(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(content)

    with pytest.raises(CatalogError, match=rf"(?s)x\.dat.*{complaint}.*expected") as caught:
        open_catalog(path)

    assert "FITS" in str(caught.value)


def test_a_fits_image_is_not_a_catalog(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")

    with pytest.raises(CatalogError, match="holds no binary table"):
        open_catalog(tmp_path / "image.fits")


def test_the_same_file_twice_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    path = write_fits(tmp_path / "x.fits", plain_columns(30))

    first, second = ingest(engine, path), ingest(engine, path)

    assert not first.repeated
    assert second.repeated
    assert counts(engine) == (30, 30, 30)


def test_overlapping_files_of_one_catalog_add_only_what_is_new(
    engine: Engine, tmp_path: Path
) -> None:
    one = write_fits(tmp_path / "1.fits", plain_columns(20))
    two = write_csv(tmp_path / "2.csv", plain_columns(20, first=10))

    ingest(engine, one, name="field", chunk_rows=7)
    result = ingest(engine, two, name="field", chunk_rows=7)

    assert (result.n_new, result.n_known, result.n_rejected) == (10, 10, 0)
    assert counts(engine) == (30, 30, 30)


def test_a_catalog_keeps_to_one_column_map(engine: Engine, tmp_path: Path) -> None:
    ingest(engine, write_fits(tmp_path / "1.fits", plain_columns(3)), name="field")
    other = write_fits(tmp_path / "2.fits", sdss_columns())

    with pytest.raises(CatalogError, match=r"'field' was ingested with the map 'generic'.*--name"):
        ingest(engine, other, name="field")


def test_a_reworded_map_is_the_same_map_and_another_rule_is_not(
    engine: Engine, tmp_path: Path
) -> None:
    path = write_fits(tmp_path / "x.fits", plain_columns(3))
    column_map = catalogs.choose_map(open_catalog(path))
    words = {"title": "Reworded", "notes": ["New"], "detect": [["mine"]], "release": "2"}

    catalogs.ingest(engine, path, column_map)
    again = catalogs.ingest(engine, path, column_map | words)

    assert again.repeated
    with pytest.raises(CatalogError, match="another column map of 'generic'"):
        catalogs.ingest(engine, path, column_map | {"missing": [-1]})


@pytest.mark.parametrize(
    ("file", "catalog"),
    [
        ("sweep.1.csv", "sweep.1"),
        ("sweep.2.csv.gz", "sweep.2"),
        ("field.fits", "field"),
        ("field", "field"),
    ],
)
def test_without_a_name_the_catalog_is_called_after_the_whole_stem_of_the_file(
    engine: Engine, tmp_path: Path, file: str, catalog: str
) -> None:
    write = write_gzip_csv if file.endswith(".gz") else write_csv

    result = ingest(engine, write(tmp_path / file, plain_columns(2)))

    assert result.catalog == catalog


def test_two_ingests_into_one_catalog_do_not_mix(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "LOCK_WAIT", "100ms")
    path = write_fits(tmp_path / "x.fits", plain_columns(30))
    complaints = []

    def meanwhile(n_rows: int) -> None:
        if n_rows:
            with pytest.raises(CatalogError, match="Another ingest into catalog 'x'") as caught:
                ingest(engine, path)
            complaints.append(caught.value)

    ingest(engine, path, progress=meanwhile)

    assert len(complaints) == 1
    assert counts(engine) == (30, 30, 30)


class Stopped(Exception):  # noqa: N818
    """Stands for whatever ends an ingest early."""


@pytest.mark.parametrize("write", [write_fits, write_csv, write_parquet, write_votable])
def test_an_interrupted_ingest_goes_on_where_it_was(
    engine: Engine, tmp_path: Path, write: Any
) -> None:
    columns = plain_columns(100)
    columns["dec"][[5, 55]] = np.nan
    path = write(tmp_path / "x", columns)
    done = []

    def stop_after_three(n_rows: int) -> None:
        done.append(n_rows)
        if len(done) == 4:
            raise Stopped

    with pytest.raises(Stopped):
        ingest(engine, path, chunk_rows=10, progress=stop_after_three)
    result = ingest(engine, path, chunk_rows=17)

    assert 0 < result.resumed_at <= 30
    assert (result.n_read, result.n_new, result.n_rejected) == (100, 98, 2)
    assert set(rejections(engine)) == {5, 55}
    assert counts(engine) == (98, 98, 98)


SLOW_INGEST = """
import sys, time
from pathlib import Path
from db import catalogs
from db.catalog_readers import open_catalog
from db.engine import create_engine

path = Path(sys.argv[1])
column_map = catalogs.choose_map(open_catalog(path))
catalogs.ingest(create_engine(), path, column_map, chunk_rows=50)
"""


def test_kill_minus_9_loses_and_repeats_nothing(
    engine: Engine, environment: dict[str, str], tmp_path: Path
) -> None:
    columns = plain_columns(10_000)
    columns["dec"][[3, 9_000]] = np.nan
    columns["objID"][9_900] = 1
    path = write_fits(tmp_path / "x.fits", columns)
    arguments = [sys.executable, "-c", SLOW_INGEST, str(path)]
    n_read = select(func.coalesce(func.max(CatalogFile.n_read), 0))

    for enough in (100, 3_000):
        child = subprocess.Popen(arguments, env=os.environ | environment)
        deadline = time.monotonic() + 60
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while (connection.scalar(n_read) or 0) < enough and time.monotonic() < deadline:
                time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with engine.connect() as connection:
        before = connection.scalar(n_read) or 0
    result = ingest(engine, path)

    assert 3_000 <= before < 10_000
    assert result.resumed_at == before
    assert (result.n_read, result.n_new, result.n_rejected) == (10_000, 9_997, 3)
    assert counts(engine) == (9_997, 9_997, 9_997)
    assert set(rejections(engine)) == {3, 9_000, 9_900}


def run(*words: Any) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.usefixtures("environment")
def test_the_command_reports_what_came_of_a_file(engine: Engine, tmp_path: Path) -> None:
    columns = plain_columns(5)
    columns["ra"][1] = 999
    path = write_fits(tmp_path / "field.fits", columns)

    first, second = run("ingest", "catalog", path), run("ingest", "catalog", path)

    assert first.exit_code == second.exit_code == 0
    assert "5 rows read as generic; 4 new sources in catalog 'field'" in first.output
    assert "1  right ascension out of range" in first.output
    assert "already in catalog 'field', nothing to do" in second.output


@pytest.mark.usefixtures("environment")
def test_the_command_fails_on_a_file_that_is_cut_off_and_keeps_its_rows(
    engine: Engine, tmp_path: Path
) -> None:
    path = write_fits(tmp_path / "x.fits", plain_columns(360))
    path.write_bytes(path.read_bytes()[: 2 * 2880 + 300 * 32])

    result = run("ingest", "catalog", path)

    assert result.exit_code == 1
    assert "60 rows are missing, the file is cut off" in result.output
    assert counts(engine)[0] == 300


@pytest.mark.usefixtures("environment")
def test_the_command_speaks_json(engine: Engine, tmp_path: Path) -> None:
    path = write_fits(tmp_path / "field.fits", legacy_columns())

    result = run("ingest", "catalog", path, "--name", "dr9", "--release", "DR9", "--json")

    (report,) = json.loads(result.stdout)
    assert (report["catalog"], report["survey"], report["n_new"]) == ("dr9", "legacy", 3)
    with Session(engine) as session:
        catalog = session.scalars(select(Catalog)).one()
        assert (catalog.name, catalog.release, catalog.n_sources) == ("dr9", "DR9", 3)
        assert catalog.column_map["identifier"]["columns"] == ["release", "brickid", "objid"]


@pytest.mark.usefixtures("environment")
def test_dry_run_shows_everything_and_writes_nothing(engine: Engine, tmp_path: Path) -> None:
    columns = legacy_columns()
    columns["ra"][1] = np.nan
    path = write_fits(tmp_path / "sweep.fits", columns)

    shown = run("ingest", "catalog", path, "--dry-run", "--drop", "fracin_*")
    (report,) = json.loads(run("ingest", "catalog", path, "--dry-run", "--json").stdout)

    assert shown.exit_code == 0
    for word in ("legacy", "mag_r", "mw_transmission_r", "maskbits"):
        assert word in shown.stdout
    assert "fracin_i" in shown.stdout.split("Dropped (1)")[1]
    assert "row 1: missing position" in shown.stdout
    assert [row["survey_id"] for row in report["rows"]] == ["9010_323_1", "9010_323_3"]
    assert report["rows"][0]["extra"]["maskbits"] == 0
    assert report["absent"] == {}
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Catalog)) == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (["absent.fits"], 2, "does not exist"),
        (["README.md", "--survey", "hubble"], 2, "none of auto, generic"),
        (["README.md"], 1, "expected"),
        ([], 2, "Missing argument"),
    ],
)
def test_the_command_fails_with_a_reason(
    arguments: list[str], exit_code: int, complaint: str, environment: dict[str, str]
) -> None:
    readme = str(Path(__file__).parents[2] / "README.md")
    words = [readme if word == "README.md" else word for word in arguments]

    result = run("ingest", "catalog", *words)

    assert result.exit_code == exit_code
    assert complaint in result.output
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("environment", "engine")
def test_a_file_of_which_every_row_is_rejected_is_a_failure(tmp_path: Path) -> None:
    columns = plain_columns(3) | {"dec": np.full(3, 1000.0)}

    result = run("ingest", "catalog", write_fits(tmp_path / "x.fits", columns))

    assert result.exit_code == 1
    assert "Every row of the file was rejected" in result.output


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_one_bad_file_among_several_keeps_none_of_the_others_out(
    engine: Engine, tmp_path: Path, dry_run: list[str]
) -> None:
    one = write_fits(tmp_path / "one.fits", plain_columns(3))
    (tmp_path / "bad.fits").write_bytes(b"nonsense")
    (tmp_path / "lacking.csv").write_text("id,colour\n1,2\n")
    two = write_csv(tmp_path / "two.csv", plain_columns(4))
    files = (one, tmp_path / "bad.fits", tmp_path / "lacking.csv", two)

    shown = run("ingest", "catalog", *files, *dry_run)
    machine = run("ingest", "catalog", *files, *dry_run, "--json")

    assert shown.exit_code == machine.exit_code == 1
    for word in ("one.fits", "two.csv"):
        assert word in shown.stdout
    for word in ("bad.fits: its first line", "lacking.csv: No right ascension"):
        assert word in shown.stderr
    assert [report["file"] for report in json.loads(machine.stdout)] == ["one.fits", "two.csv"]
    assert counts(engine)[0] == (0 if dry_run else 7)


@pytest.mark.usefixtures("environment")
def test_a_map_of_ones_own(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'survey = "mine"\n[position]\nra = "alpha"\ndec = "delta"\nunit = "hour"\n'
        '[identifier]\ncolumns = ["field", "n"]\nseparator = "-"\n'
        '[columns]\nmag_r = { rule = "magnitude", mag = "m", extinction = "a" }\n'
    )
    (tmp_path / "x.csv").write_text("field,n,alpha,delta,m,a\nF1,3,12,0.1,18.5,0.25\n")

    result = run("ingest", "catalog", tmp_path / "x.csv", "--map", tmp_path / "mine.toml")

    assert result.exit_code == 0, result.output
    (source,) = sources(engine)
    assert (source.survey_id, source.ra, source.dec) == ("F1-3", 180, 1.5)
    assert source.mag_r == 18.25


@pytest.mark.legacy
@pytest.mark.usefixtures("environment")
@pytest.mark.skipif(not LEGACY.exists(), reason="the labelled Legacy cutouts are not here")
@pytest.mark.parametrize("survey", ["auto", "generic"])
def test_the_labelled_legacy_catalog(engine: Engine, survey: str) -> None:
    result = run("ingest", "catalog", LEGACY, "--survey", survey, "--name", "legacy", "--json")

    assert json.loads(result.stdout)[0]["n_new"] == 699
    assert counts(engine) == (699, 699, 699)


def test_a_source_made_elsewhere_is_not_called_a_repetition(engine: Engine, tmp_path: Path) -> None:
    path = write_fits(tmp_path / "x.fits", plain_columns(5))
    ingest(engine, write_fits(tmp_path / "y.fits", plain_columns(1, first=90)), name="x")
    with engine.begin() as connection:
        catalog_id = connection.scalar(select(Catalog.id))
        values = {"catalog_id": catalog_id, "survey_id": "3", "ra": 1, "dec": 1, "healpix": 1}
        connection.execute(insert(Source).values(values))

    result = ingest(engine, path, name="x")

    assert (result.n_new, result.n_known, result.n_rejected) == (4, 1, 0)
