"""`skygloss simulate blends`, as a user types it."""

import csv
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from cli import main
from db.cutout_fits import read_cutout
from tests.models.test_blender import galaxy, save

pytest.importorskip("galsim", reason="galsim has no wheel for this platform")


def simulate(*arguments, galaxies=12):
    options = ["--n-parents", galaxies, "--processes", 1, *arguments]
    return CliRunner().invoke(main, ["simulate", "blends", *map(str, options)])


def table(folder):
    with (folder / "truth.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(folder):
    return {path.name: fits.getdata(path) for path in sorted((folder / "images").iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    result = simulate(out, "--n", 6, "--seed", 4, "--masks", "--test", 0.5)
    assert result.exit_code == 0, result.output
    return out


def test_a_folder_of_cutouts_comes_with_a_table_of_the_truth_and_nothing_else(folder):
    rows = table(folder)

    assert [row["id"] for row in rows] == [f"pair4-{k:06d}" for k in range(6)]
    assert sorted(pixels(folder)) == [row["id"] + ".fits" for row in rows]
    assert sorted(path.name for path in folder.iterdir()) == [
        "catalog.fits",
        "images",
        "masks.npz",
        "truth.csv",
    ]
    for row in rows:
        offset = float(row["dx"]), float(row["dy"])
        assert float(row["separation"]) == pytest.approx(np.hypot(*offset), abs=1e-4)
        assert float(row["noise"]) == pytest.approx(0.45)
        assert row["is_blend"] == "1"


def test_no_galaxy_is_in_cutouts_for_training_and_in_cutouts_for_tests(folder):
    used = {"train": set(), "test": set()}
    for row in table(folder):
        used[row["split"]] |= {row["parent_central"], row["parent_companion"]}

    assert used["train"]
    assert used["test"]
    assert not used["train"] & used["test"]


def test_headers_tell_band_scale_and_unit_and_nothing_of_the_truth(folder):
    path = folder / "images" / "pair4-000000.fits"
    cutout, told = read_cutout(path.read_bytes())

    assert cutout.shape == (128, 128, 1)
    assert cutout.dtype == np.float32
    assert told == {"bands": ("r",), "pixel_scale": pytest.approx(0.06), "unit": "nJy"}
    header = str(fits.getheader(path))
    truth = table(folder)[0]
    assert not any(truth[name] in header for name in ("flux_central", "flux_companion", "split"))


def test_masks_are_there_by_the_names_of_cutouts(folder):
    with np.load(folder / "masks.npz") as masks:
        assert sorted(masks) == [row["id"] for row in table(folder)]
        mask = masks["pair4-000003"]

    assert mask.shape == (128, 128, 3)
    assert mask.dtype == np.uint8
    assert mask[64, 64, 1] == 1
    assert (mask[..., 0] == mask[..., 1] * mask[..., 2]).all()


def test_cutouts_are_the_same_by_any_number_of_processes_and_from_any_first(folder, tmp_path):
    result = simulate(
        tmp_path, "--n", 2, "--first", 3, "--seed", 4, "--test", 0.5, "--processes", 2
    )

    assert result.exit_code == 0, result.output
    assert table(tmp_path) == table(folder)[3:5]
    everything = pixels(folder)
    assert all((cutout == everything[name]).all() for name, cutout in pixels(tmp_path).items())


def test_what_was_made_before_stays_in_the_tables(tmp_path):
    simulate(tmp_path, "--n", 2, "--masks")
    before = table(tmp_path)
    simulate(tmp_path, "--n", 2, "--first", 1, "--masks")
    simulate(tmp_path, "--n", 2, "--recipe", "blends", "--fwhm", 3.5, "--noise", 1, "--noise", 9)

    rows = table(tmp_path)
    catalog = Table.read(tmp_path / "catalog.fits")
    assert rows[:2] == before
    assert [row["id"] for row in rows[2:]] == [
        "pair100-000002",
        "blend100-000000",
        "blend100-000001",
    ]
    assert [str(name) for name in catalog["id"]] == [row["id"] for row in rows]
    assert pixels(tmp_path)["blend100-000000.fits"].shape == (64, 64)
    assert all(1 <= float(row["noise"]) <= 9 and row["fwhm"] == "3.5" for row in rows[3:])
    with np.load(tmp_path / "masks.npz") as masks:
        assert sorted(masks) == [row["id"] for row in rows[:3]]


def test_the_cutouts_can_be_ingested(folder, environment):
    run = CliRunner().invoke

    catalog = run(main, ["ingest", "catalog", str(folder / "catalog.fits"), "--name", "pairs"])
    cutouts = run(main, ["ingest", "cutouts", "pairs", "--folder", str(folder / "images")])

    assert "6 new sources in catalog 'pairs'" in catalog.output
    assert cutouts.exit_code == 0, cutouts.output
    for fact in ("r ", "128 pixels of 0.06 arcsec", "float32, nJy"):
        assert fact in cutouts.output


def test_galaxies_of_the_user_are_paired_and_files_left_out_are_named(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for k in range(4):
        save(mine / f"g{k}.fits", galaxy(64, seed=k), BUNIT="nJy")
    (mine / "notes.fits").write_text("not a FITS file")

    result = simulate(tmp_path / "out", "--n", 3, "--parents", mine, "--test", 0)

    assert result.exit_code == 0, result.output
    assert "Left out notes.fits" in result.output
    assert "Read 4 galaxies, 0 of them for tests; left out 1." in result.output
    parents = {row["parent_central"] for row in table(tmp_path / "out")}
    assert parents <= {"g0", "g1", "g2", "g3"}


def test_galaxies_of_the_user_are_for_training_or_for_tests_whatever_the_seed(tmp_path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    for k in range(10):
        save(mine / f"g{k}.fits", galaxy(64, seed=k), BUNIT="nJy")

    for seed in (1, 2):
        simulate(out, "--n", 6, "--parents", mine, "--test", 0.5, "--seed", seed)

    used = {"train": set(), "test": set()}
    for row in table(out):
        used[row["split"]] |= {row["parent_central"], row["parent_companion"]}
    assert len(table(out)) == 12
    assert used["test"] <= {"g5", "g6", "g8", "g9"}
    assert used["train"] <= {"g0", "g1", "g2", "g3", "g4", "g7"}


def test_a_folder_without_a_galaxy_for_tests_is_explained(tmp_path):
    for k in range(2):
        save(tmp_path / f"g{k}.fits", galaxy(64, seed=k), BUNIT="nJy")

    result = simulate(tmp_path / "out", "--n", 1, "--parents", tmp_path, "--test", 1)

    assert result.exit_code == 1
    assert "give more of them" in result.output


def test_too_few_galaxies_to_pair_are_explained(tmp_path):
    save(tmp_path / "only.fits", galaxy(64), BUNIT="nJy")

    result = simulate(tmp_path / "out", "--n", 1, "--parents", tmp_path, "--test", 0)

    assert result.exit_code == 1
    assert "choose from more of them" in result.output


def test_another_table_in_the_folder_is_not_overwritten(tmp_path):
    (tmp_path / "truth.csv").write_text("id,label\n1,mine\n")

    result = simulate(tmp_path, "--n", 1)

    assert result.exit_code == 1
    assert "is no table of simulated pairs" in result.output
    assert table(tmp_path) == [{"id": "1", "label": "mine"}]


def test_without_galsim_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "galsim", None)

    result = simulate(tmp_path, "--n", 1)

    assert result.exit_code == 1
    assert "pip install 'skygloss[simulate]'" in result.output
