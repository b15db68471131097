"""`skygloss ingest exposures`: a report for people and for machines, errors in words."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from cli import main
from db.engine import create_engine
from tests.db.frames import frame, write

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder with two exposures."""
    folder = tmp_path / "night"
    folder.mkdir()
    write(folder / "a.fits", [frame(), frame(seed=2)])
    write(folder / "b.fits.fz", [frame(seed=3), frame(seed=4)])
    return folder


def ingest_exposures(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ingest", "exposures", *map(str, arguments)])


def test_the_summary_counts_exposures_ccds_and_sources(night: Path) -> None:
    result = ingest_exposures(night, "--name", "camera")

    assert result.exit_code == 0, result.output
    lines = {line[1].strip(): line[2].strip() for line in _table(result.stdout)}
    assert (lines["new exposures"], lines["CCDs"], lines["CCDs flagged"]) == ("2", "4", "0")
    assert int(lines["sources detected"]) > int(lines["sources kept"]) > 0
    assert lines["speed"].endswith("million pixels/s")


def _table(output: str) -> list[list[str]]:
    return [line.split("│") for line in output.splitlines() if line.startswith("│")]


def test_json_says_what_came_of_every_file(night: Path) -> None:
    (night / "c.fits").write_text("no FITS")

    result = ingest_exposures(night, "--name", "camera", "--sample", 4, "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [(one["name"], one["state"]) for one in report["outcomes"]] == [
        ("a", "new"),
        ("b", "new"),
        ("c", "rejected"),
    ]
    assert [one["n_sampled"] for one in report["outcomes"]] == [4, 4, 0]
    assert report["outcomes"][0]["n_pixels"] == 2 * 200 * 128


def test_a_rejected_file_is_named_with_its_reason(night: Path) -> None:
    (night / "c.fits").write_text("no FITS")

    result = ingest_exposures(night, "--name", "camera")

    assert result.exit_code == 1
    assert f"{night / 'c.fits'}: expected a FITS file" in result.stderr
    with create_engine().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM exposure")).scalar_one() == 2


def test_what_could_not_be_read_of_an_exposure_is_said(night: Path) -> None:
    whole = (night / "a.fits").read_bytes()
    (night / "a.fits").write_bytes(whole[: len(whole) * 3 // 4])

    result = ingest_exposures(night / "a.fits", "--name", "camera")

    assert result.exit_code == 0
    assert "a: CCD01: the file is cut short" in " ".join(result.stdout.split())


def test_a_second_time_there_is_nothing_to_do(night: Path) -> None:
    ingest_exposures(night, "--name", "camera")

    result = ingest_exposures(night, "--name", "camera")

    assert result.exit_code == 0
    lines = {line[1].strip(): line[2].strip() for line in _table(result.stdout)}
    assert (lines["new exposures"], lines["there before"]) == ("0", "2")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--name", "uploads"), "kept for images uploaded"),
        (("--name", "camera", "--sample", "2000"), "2000 is not in the range"),
        ((), "Missing option '--name'"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    night: Path, options: tuple[str, ...], complaint: str
) -> None:
    result = ingest_exposures(night, *options)

    assert result.exit_code in (1, 2)
    assert complaint in " ".join(result.stderr.split())
