"""`skygloss search`: the examples it takes, the answer it prints and writes."""

import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from astropy.table import Table
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db.engine import create_engine
from db.tables import N_REDUCED, Source, Upload, Worker
from tests.builders import make_catalog, make_source
from tests.db.search_rows import Rows, fill, nearest_by_numpy, represent

N = 200


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    engine = create_engine(environment["DATABASE_URL"])
    yield engine
    engine.dispose()


@pytest.fixture
def rows(engine: Engine) -> Rows:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        return fill(session, N, name="e.1")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    y, x = np.mgrid[:64, :64]
    light = 200 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 100)
    Image.fromarray(light.astype(np.uint8)).convert("RGB").save(tmp_path / "galaxy.png")
    return tmp_path / "galaxy.png"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["search", *map(str, words)])


def found(*words: object) -> list[int]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return [row["source_id"] for row in json.loads(result.stdout)["sources"]]


def expected(rows: Rows, i: int, k: int = 10, metric: str = "l1") -> list[int]:
    """Neighbours of row i without itself."""
    return nearest_by_numpy(rows, rows.vectors[i], metric, k + 1)[0][1:]


def test_a_search_by_number_prints_a_table_and_how_exact_it_is(rows: Rows) -> None:
    result = run("--id", rows.source_ids[3], "-k", 2)

    assert result.exit_code == 0, result.output
    heads, first, second, how, version = result.stdout.splitlines()
    assert heads.split() == ["rank", "source_id", "survey_id", "ra", "dec", "distance", "p_shred"]
    assert [int(line.split()[1]) for line in (first, second)] == expected(rows, 3, 2)
    assert first.split()[-1] == "–"
    assert how == "Exact: all 199 representations of e.1 were compared (L1, 40 components)."
    assert version == "Model version e.1, metric l1."


def test_the_example_is_named_in_several_ways(rows: Rows, engine: Engine) -> None:
    with Session(engine) as session:
        source = session.get_one(Source, int(rows.source_ids[3]))
        position = (source.ra, source.dec)
    wanted = expected(rows, 3)

    assert found("--id", rows.source_ids[3]) == wanted
    assert found("--survey-id", "s3") == wanted
    assert found("--like", rows.source_ids[3]) == wanted
    assert found("--like", rows.source_ids[3], "--metric", "cosine") == expected(
        rows, 3, metric="cosine"
    )
    assert position == (150.003, 2)


def test_a_position_is_found_on_the_sphere_in_degrees_or_sexagesimal(
    rows: Rows, engine: Engine
) -> None:
    with Session(engine) as session, session.begin():
        source = make_source(session, ra=203.94, dec=-33.35, survey_id="there")
        represent(session, session.merge(rows.run), [source.id], rows.vectors[3:4])

    in_degrees = run("--at", 203.94, -33.35)
    sexagesimal = run("--at", "13:35:45.6", "-33:21:03")

    assert "The source there is there, 0.00 arcsec away." in in_degrees.stderr
    assert "there, is 3.0 arcsec from the position asked for" in sexagesimal.stderr
    assert in_degrees.stdout == sexagesimal.stdout


def test_examples_to_be_like_and_unlike_are_combined_and_left_out(rows: Rows) -> None:
    a, b, c = (int(source_id) for source_id in rows.source_ids[:3])
    v = rows.vectors.astype(np.float64)
    mean = (v[0] + v[1]) / 2

    ids = found("--like", a, "--like", b, "--unlike", c, "-k", 20)

    near = nearest_by_numpy(rows, mean + 0.5 * (mean - v[2]), "l1", 23)[0]
    assert ids == [source_id for source_id in near if source_id not in (a, b, c)][:20]


def test_filters_narrow_the_answer(rows: Rows) -> None:
    bright = nearest_by_numpy(rows, rows.vectors[3], "l1", 11, rows.mag_r < 15.995)[0]

    ids = found("--id", rows.source_ids[3], "--where", "mag_r < 16 and p_shred is null")

    assert ids == bright[1:]  # without the example


def test_a_filter_on_what_no_source_has_says_so(rows: Rows) -> None:
    result = run("--id", rows.source_ids[3], "--where", "mag_z < 18")

    assert result.exit_code == 0
    assert "mag_z has no value for any of the sources searched." in " ".join(result.stdout.split())


def test_a_catalog_narrows_the_answer_too(rows: Rows, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        other = make_source(session, make_catalog(session, name="other"), survey_id="s3")
        number = other.id
        represent(session, session.merge(rows.run), [number], rows.vectors[3:4])

    assert found("--id", rows.source_ids[3], "--catalog", "other") == [number]
    twice = run("--survey-id", "s3")
    assert twice.exit_code == 1
    assert "choose one with --catalog" in twice.stderr


def test_the_whole_embedding_can_be_searched(rows: Rows) -> None:
    result = run("--id", rows.source_ids[3], "--space", "embedding", "--exact")

    assert result.exit_code == 0
    assert "(L1, 48 numbers)" in result.stdout


def test_the_answer_is_written_as_csv_and_votable(rows: Rows, tmp_path: Path) -> None:
    csv_file, vot_file = tmp_path / "a.csv", tmp_path / "a.vot"

    result = run("--id", rows.source_ids[3], "-k", 5, "--csv", csv_file, "--vot", vot_file)

    wanted = expected(rows, 3, 5)
    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader(csv_file.read_text(encoding="utf-8").splitlines()))
    assert [int(line["source_id"]) for line in lines] == wanted
    assert list(lines[0])[:6] == ["rank", "distance", "metric", "space", "version", "exact"]
    table = Table.read(vot_file)
    assert list(table["source_id"]) == wanted
    assert list(table["rank"]) == [1, 2, 3, 4, 5]
    assert table["ra"].unit == "deg"


def test_an_image_is_encoded_by_a_worker_and_searched_with(
    rows: Rows, engine: Engine, picture: Path
) -> None:
    done = threading.Event()
    worker = threading.Thread(target=encode_next, args=(engine, rows, done))
    worker.start()

    result = run("--image", picture, "--pixel-scale", 0.5)

    done.set()
    worker.join()
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[1].split()
    assert int(first[1]) == rows.source_ids[3]
    assert float(first[-2]) == 0  # the upload itself is no neighbour


def encode_next(engine: Engine, rows: Rows, done: threading.Event) -> None:
    """A worker that gives the first upload it sees the vector of row 3."""
    with Session(engine) as session, session.begin():
        session.execute(sa.update(Worker).values(heartbeat_at=sa.func.now()))
    while not done.wait(0.05):
        with Session(engine) as session, session.begin():
            source_id = session.scalar(sa.select(Upload.source_id))
            if source_id is not None:
                represent(session, session.merge(rows.run), [source_id], rows.vectors[3:4])
                return


def test_an_image_without_worker_says_how_to_start_one(
    rows: Rows, engine: Engine, picture: Path
) -> None:
    with Session(engine) as session, session.begin():
        session.execute(sa.update(Worker).values(stopped_at=sa.func.now()))

    result = run("--image", picture)

    assert result.exit_code == 1
    assert "start one with `skygloss worker`" in result.stderr


def test_waiting_for_a_worker_ends(rows: Rows, picture: Path) -> None:
    result = run("--image", picture, "--timeout", 0)

    assert result.exit_code == 1
    assert "no worker has encoded the image within 0 s" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "Give an example: --id, --survey-id"),
        (["--id", 1, "--survey-id", "s3"], 2, "Give only one of --id"),
        (["--id", 987654321], 1, "There is no source 987654321"),
        (["--id", 10**30], 1, "There is no source"),
        (["--survey-id", "nobody"], 1, "there is no source 'nobody'"),
        (["--at", 12, 80], 1, "No source is within 60 arcsec of 12.000000 +80.000000"),
        (["--at", 12, 91], 1, "Parameter dec: expected degrees from -90 to 90"),
        (["--like", 1, "-k", 0], 2, "0 is not in the range"),
        (["--like", 1, "--metric", "l3"], 2, "'l3' is not one of"),
        (["--like", 1, "--where", "mag_x < 3"], 1, "Did you mean mag_"),
        (["--like", 1, "--catalog", "nowhere"], 1, "there is no catalog 'nowhere'"),
        (["--like", 1, "--version", "v.9"], 1, "no version 'v.9'"),
        (["--unlike", 1], 2, "Give an example"),
        (["--like", 1, "--unlike", 1], 2, "Source 1 is both an example and given to --unlike"),
        (["--id", 1, "--unlike", 1], 2, "Source 1 is both an example and given to --unlike"),
        (["--image", __file__], 1, "expected a PNG, JPEG or FITS file"),
    ],
)
def test_what_cannot_be_searched_for_is_explained(
    rows: Rows, words: list[Any], code: int, message: str
) -> None:
    result = run(*words)

    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_source_without_representation_says_why(rows: Rows, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        source = make_source(session)
        number = source.id
        represent(
            session, session.merge(rows.run), [number], np.full((1, N_REDUCED), np.nan), flags=1
        )

    result = run("--id", number)

    assert result.exit_code == 1
    assert "has no representation by e.1: no image" in result.stderr
