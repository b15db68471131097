"""`skygloss simulate exposures`, as a user types it."""

import csv
import sys

import pytest
from astropy.io import fits
from click.testing import CliRunner

from cli import main

pytest.importorskip("galsim", reason="galsim has no wheel for this platform")


def simulate(*arguments):
    return CliRunner().invoke(main, ["simulate", "exposures", *map(str, arguments)])


def table(folder):
    with (folder / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_of_exposures_comes_with_a_table_of_the_truth(tmp_path):
    result = simulate(tmp_path, "--n", 3, "--seed", 4, "--processes", 1)

    rows = table(tmp_path)
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in rows] == ["sim4-000000", "sim4-000001", "sim4-000002"]
    assert sorted(path.name for path in tmp_path.glob("*.fz")) == [
        row["name"] + ".fits.fz" for row in rows
    ]
    assert all((row["fault"] == "good") == (float(row["strength"]) == 0) for row in rows)


def test_an_exposure_is_the_same_in_any_number_of_them_by_any_number_of_processes(tmp_path):
    simulate(tmp_path / "a", "--n", 3, "--seed", 5, "--processes", 1)
    simulate(tmp_path / "b", "--n", 2, "--seed", 5, "--first", 1, "--processes", 2)

    for name in ("sim5-000001.fits.fz", "sim5-000002.fits.fz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert table(tmp_path / "a")[1:] == table(tmp_path / "b")


def test_the_truth_about_exposures_made_before_stays_in_the_table(tmp_path):
    simulate(tmp_path, "--n", 2, "--seed", 5, "--processes", 1)
    before = table(tmp_path)
    simulate(tmp_path, "--n", 2, "--seed", 5, "--first", 1, "--processes", 1)
    simulate(tmp_path, "--n", 1, "--seed", 6, "--processes", 1)

    rows = table(tmp_path)
    assert rows[:2] == before
    assert [row["name"] for row in rows[2:]] == ["sim5-000002", "sim6-000000"]


def test_another_table_in_the_folder_is_not_overwritten(tmp_path):
    (tmp_path / "labels.csv").write_text("name,label\nmine,Good\n")

    result = simulate(tmp_path, "--n", 1, "--processes", 1)

    assert result.exit_code == 1
    assert "is no table of simulated exposures" in result.output
    assert table(tmp_path) == [{"name": "mine", "label": "Good"}]


def test_one_fault_more_ccds_and_plain_files_can_be_asked_for(tmp_path):
    chosen = ("--fault", "crowding", "--good", 0, "--plain", "--ccds", 3)

    simulate(tmp_path, "--n", 2, "--processes", 1, *chosen)

    assert {row["fault"] for row in table(tmp_path)} == {"crowding"}
    with fits.open(tmp_path / "sim0-000000.fits") as file:
        assert [type(hdu) for hdu in file[1:]] == [fits.ImageHDU] * 3


def test_without_galsim_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "galsim", None)

    result = simulate(tmp_path, "--n", 1)

    assert result.exit_code == 1
    assert "skygloss[simulate]" in result.output
