import csv
import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from models import extraction, registry
from models.blender import PAIRS, draw, simulate_parents, split
from models.evaluation import blend_commands, known_pairs, pair_flux, pair_flux_report
from models.registry import Card
from tests.workers import tiny_blends

N = 40


@dataclass
class Said:
    """What a toy network says."""

    flux: np.ndarray
    error: np.ndarray
    masks: np.ndarray | None


@pytest.fixture(scope="module")
def parents():
    return simulate_parents(20, 100)


@pytest.fixture(scope="module")
def known(parents):
    return known_pairs.drawn(parents, N, 100, PAIRS)


@pytest.fixture(scope="module")
def perfect(known):
    """A method that knows the truth, as a function of the pixels, and what it was asked."""
    asked = []

    def predict(pixels):
        asked.append(pixels)
        pairs = known.some(0, N) if len(pixels) == N else known.some(0, len(pixels))
        assert np.array_equal(pairs.pixels, pixels)
        return Said(pairs.flux, 0.1 * pairs.flux, pairs.masks[..., 1:] > 0)

    return predict, asked


@pytest.fixture(scope="module")
def measured(known, perfect):
    return pair_flux.measure(known, perfect[0], mean_flux=1000.0, factor=1.3)


@pytest.fixture(scope="module")
def evaluation(measured):
    return pair_flux.evaluate(
        measured, "toy.<1>", "Forty pairs.", {"0.45 nJy": 1.3}, n_resamples=20
    )


def table(**columns):
    """Measurements of three pairs, each around its own galaxy."""
    n = 3
    default = {
        "true": np.full((n, 2), 1000.0),
        "flux": np.full((n, 4, 2), 1000.0),
        "error": np.full((n, 2), 100.0),
        "outcome": np.zeros(n, np.int8),
        "separation": np.arange(n) + 5.0,
        "radius": np.full((n, 2), 4.0),
        "kind": np.zeros((n, 2), np.int8),
        "noise": np.full(n, 0.45),
        "parent": np.arange(n),
        "iou": np.full((n, 2, 2), 0.5),
        "overlap_bias": np.zeros((n, 2)),
    }
    return pair_flux.Measured(**(default | columns))


def test_network_and_sep_see_the_very_same_pixels(known, perfect, measured):
    shown = np.concatenate(perfect[1])
    pairs = known.some(0, N)

    by_sep = extraction.photometry(shown, radius=pairs.radius[:, 0])

    assert np.allclose(measured.flux[:, 1], 1.3 * by_sep.flux, rtol=1e-6, equal_nan=True)
    assert np.array_equal(measured.true, pairs.flux)


def test_a_perfect_method_has_no_error_and_its_masks_are_the_true_ones(evaluation):
    pooled, masks = evaluation.sets["pooled"]["toy.<1>"], evaluation.masks["toy.<1>"]

    for score in ("flux_mape", "bias", "sigma", "outliers"):
        assert pooled[score].value == 0, score
    assert pooled["coverage_68"].value == 1
    assert masks["iou"].value == 1
    assert masks["overlap_bias"].value == 0


def test_sep_errs_on_pairs_and_finds_no_overlap(evaluation):
    pooled, masks = evaluation.sets["pooled"]["sep"], evaluation.masks["sep"]

    assert 0.1 < pooled["flux_mape"].value < 1.5
    assert pooled["flux_mape_of_all"].value >= pooled["flux_mape"].value * 0.5
    assert 0.1 < masks["iou"].value < 0.7
    assert masks["overlap_bias"].value == 1


def test_trivial_methods_say_the_mean_and_half_of_what_both_have(measured):
    mean, half = measured.flux[:, 2], measured.flux[:, 3]

    assert (mean == 1000).all()
    assert np.allclose(half, measured.true.mean(axis=1, keepdims=True))


def test_the_ratio_is_taken_on_the_same_galaxies_and_counts_missed_ones_once_more():
    flux = np.full((3, 4, 2), 1000.0)
    flux[:, 0] = 1100  # the network is off by 10 %
    flux[:, 1] = 600  # and sep by 40 %,
    flux[2, 1] = np.nan  # but it does not see the last pair, where the network is off by 50 %
    flux[2, 0] = 1500
    measured = table(flux=flux, outcome=np.array([0, 0, 4], np.int8))

    ratios = pair_flux.evaluate(measured, "net", "", {}, n_resamples=5).ratios

    seen, both, everyone = (each.value for each in ratios.values())
    assert seen == pytest.approx(4)
    assert both == pytest.approx(4)
    assert everyone == pytest.approx(((0.4 + 0.4 + 1) / 3) / ((0.1 + 0.1 + 0.5) / 3))


def test_a_galaxy_sep_missed_counts_in_no_score_but_the_last():
    flux = np.full((3, 4, 2), 1000.0)
    flux[0, 1] = np.nan

    pooled = pair_flux.evaluate(table(flux=flux), "net", "", {}, n_resamples=5).sets["pooled"]

    assert pooled["sep"]["n"].value == 4
    assert pooled["sep"]["undetected"].value == 2
    assert pooled["sep"]["flux_mape"].value == 0
    assert pooled["sep"]["flux_mape_of_all"].value == pytest.approx(2 / 6)


def test_the_interval_of_95_percent_is_as_wide_as_the_card_says():
    flux = np.full((3, 4, 2), 1000.0)
    flux[:, 0] += 250  # two errors and a half

    narrow = pair_flux.evaluate(table(flux=flux), "net", "", {}, n_resamples=5)
    wide = pair_flux.evaluate(table(flux=flux), "net", "", {}, interval_95=2.6, n_resamples=5)

    assert narrow.sets["pooled"]["net"]["coverage_95"].value == 0
    assert wide.sets["pooled"]["net"]["coverage_95"].value == 1


def test_pairs_around_one_galaxy_give_no_interval_of_their_own():
    flux = np.full((3, 4, 2), 1000.0)
    flux[:, 0, 0] = 1100, 1200, 1600

    alone = table(flux=flux, parent=np.zeros(3, int))
    tables = [
        pair_flux.scored(each, ("net", "sep", "mean", "half"), np.ones((3, 2), bool), 1.96, 200)
        for each in (alone, table(flux=flux))
    ]

    of_one, of_three = (each["net"]["flux_mape"] for each in tables)
    assert of_one.value == of_three.value == pytest.approx(0.15)
    assert of_one.low == of_one.high
    assert of_three.low < 0.1 < 0.2 < of_three.high


def test_the_sets_are_those_of_the_paper():
    measured = table(outcome=np.array([0, 1, 3], np.int8))

    sizes = {name: int(chosen.sum()) for name, chosen in pair_flux.galaxy_sets(measured).items()}

    assert sizes == {
        "pooled": 6,
        "central": 3,
        "companion": 3,
        "central, seen": 2,
        "companion, seen": 1,
        "pairs of which both are seen": 2,
        "all other pairs": 4,
        "pairs of which more than two are seen": 2,
    }


def test_every_galaxy_is_in_one_bin_of_every_property(measured):
    for name, (_, bins) in pair_flux.properties(measured).items():
        inside = np.sum([chosen for _, _, chosen in bins], axis=0)
        wanted = np.ones_like(inside)
        if name.startswith("magnitude difference"):
            wanted[:, 1 if name.endswith("central") else 0] = 0
        assert np.array_equal(inside, wanted), name


@pytest.mark.parametrize("seeds", [[3], [100, 150]])
def test_galaxies_that_a_version_was_trained_on_are_refused(seeds):
    card = Card("pair_flux", "shares.toy", "", "", training={"seed": 150})

    with pytest.raises(known_pairs.SeenError, match="may have seen them"):
        known_pairs.refuse_seen(card, seeds)


def test_numbers_are_ready_for_json(evaluation):
    facts = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))

    assert facts["n_pairs"] == N
    assert set(facts["sets"]) >= {"pooled", "total of the pair", "all other pairs"}
    assert facts["sets"]["pooled"]["toy.<1>"]["flux_mape"]["value"] == 0
    assert len(facts["binned"]["kind"]["bins"]) == 4
    assert sum(facts["sep_outcomes"].values()) == pytest.approx(1)


def test_the_page_needs_no_other_file_and_shows_the_published_numbers(
    evaluation, known, perfect, tmp_path, monkeypatch
):
    monkeypatch.setattr(pair_flux_report, "PLOTS", pair_flux_report.PLOTS[:1])
    examples = pair_flux_report.examples(
        evaluation, lambda row: known.some(0, 1), lambda pixels: perfect[0](pixels), n=1
    )
    page = pair_flux_report.write(evaluation, examples, tmp_path).read_text()

    assert not re.search(r'(src|srcset|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert "toy.&lt;1&gt;" in page
    assert "toy.<1>" not in page
    assert "published blend2mask2flux" in page
    assert "7.63" in page  # its pooled flux MAPE
    with (tmp_path / "pairs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * N


@pytest.mark.parametrize("number", range(len(pair_flux_report.PLOTS)))
def test_plots_say_what_is_on_their_axes(evaluation, number):
    figure = pair_flux_report.PLOTS[number][0](evaluation, "dark")

    assert all(axes.lines or axes.patches for axes in figure.axes)
    assert any(axes.get_ylabel() for axes in figure.axes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    words = "--n 12 --seed 100 --n-parents 20 --test 0.5 --masks --processes 1"
    result = CliRunner().invoke(main, f"simulate blends {out} {words}")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def for_tests(folder):
    """Rows of the folder's table that are set apart for tests."""
    with (folder / "truth.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def test_a_folder_is_judged_by_its_test_split_only(folder, for_tests):
    found = known_pairs.read(folder, 128)

    galaxies = {row[f"parent_{which}"] for row in for_tests for which in ("central", "companion")}
    assert [lot.n for lot in found.lots] == [len(for_tests)]
    assert (found.seeds, found.n_parents, found.fwhm) == ([100], len(galaxies), (3.0,))


def test_a_folder_gives_the_pairs_that_were_drawn(folder, for_tests, parents):
    lot = known_pairs.read(folder, 128).lots[0]
    number = int(for_tests[-1]["id"].rsplit("-")[-1])
    drawn = draw(parents, split(20, 100, 0.5)[1], 1, 100, PAIRS, first=number)

    pairs = lot.some(lot.n - 1, 1)

    assert np.array_equal(pairs.pixels, drawn.pixels)
    assert np.array_equal(pairs.masks, drawn.masks)
    assert np.allclose(pairs.flux, drawn.flux)
    assert np.array_equal(pairs.kind, drawn.kind)
    assert pairs.separation[0] == pytest.approx(drawn.separation[0])


def test_a_folder_of_the_other_recipe_is_refused(folder):
    lot = known_pairs.read(folder, 64).lots[0]

    with pytest.raises(ValueError, match="other recipe"):
        lot.some(0, 1)


def test_a_folder_whose_test_galaxies_trainings_are_given_is_refused(folder, tmp_path):
    truth = (folder / "truth.csv").read_text().replace("sim100-0000", "g")
    (tmp_path / "truth.csv").write_text(truth)

    with pytest.raises(known_pairs.SeenError, match="in the split test are for training"):
        known_pairs.read(tmp_path, 128)


def test_a_folder_without_truth_is_refused(tmp_path):
    with pytest.raises(ValueError, match="simulate blends"):
        known_pairs.read(tmp_path, 128)


@pytest.fixture
def cards(tmp_path):
    card = tiny_blends.write_cards(tmp_path)("pair_flux")[0]
    path = tmp_path / "weights.toml"
    path.write_text(registry.to_toml(replace(card, training={"seed": 0})))
    return path


@pytest.fixture
def with_singles(tmp_path):
    """A folder of few pairs and single galaxies."""
    words = "--n 24 --seed 101 --n-parents 24 --test 0.3 --singles 0.5 --processes 1"
    result = CliRunner().invoke(main, f"simulate blends {tmp_path / 'singles'} {words}")
    assert result.exit_code == 0, result.output
    return tmp_path / "singles"


def test_a_folder_with_single_galaxies_for_training_calibrates_sep_itself(
    with_singles, cards, monkeypatch
):
    monkeypatch.setattr(known_pairs, "FEWEST_ISOLATED", 3)
    monkeypatch.setattr(pair_flux, "N_RESAMPLES", 2)
    with (with_singles / "truth.csv").open() as file:
        train = [row for row in csv.DictReader(file) if row["split"] == "train"]
    isolated = known_pairs.read(with_singles, 128, only_pairs=True).isolated[0].some(0, 99)

    words = f"evaluate pair_flux --cards {cards} --data {with_singles} --json"
    result = CliRunner().invoke(main, words)

    singles = [row for row in train if row["is_blend"] == "0"]
    assert isolated.flux[:, 0] == pytest.approx([float(row["flux_central"]) for row in singles])
    printed = json.loads(result.stdout)
    assert printed["sep_factors"]["0.45 nJy"] == pytest.approx(
        extraction.calibration(isolated.pixels, isolated.flux[:, 0])
    )
    assert "isolated galaxies in the split train of the folder" in printed["protocol"]
    known = {
        row[f"parent_{galaxy}"]: row[f"flux_{galaxy}"]
        for row in train
        for galaxy in ("central", "companion")
    }
    known.pop("", None)
    folder = known_pairs.read(with_singles, 128)
    assert folder.mean_flux == pytest.approx(np.mean([float(flux) for flux in known.values()]))


def test_the_command_judges_a_version_on_a_folder(folder, cards, monkeypatch):
    monkeypatch.setattr(blend_commands, "N_ISOLATED", 12)
    monkeypatch.setattr(pair_flux, "N_RESAMPLES", 10)

    result = CliRunner().invoke(main, f"evaluate pair_flux --cards {cards} --data {folder} --json")

    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert set(printed["sets"]["pooled"]) == {
        "shares.tiny",
        "sep",
        "mean flux",
        "half of the total",
    }
    assert printed["sep_factors"]["0.45 nJy"] > 1
    assert "Those are simulated and none of the folder's" in printed["protocol"]


def test_the_command_refuses_galaxies_of_trainings(cards):
    result = CliRunner().invoke(main, f"evaluate pair_flux --cards {cards} --seed 5")

    assert result.exit_code == 1
    assert "galaxies of seed 5 are for training" in result.output
