import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from models import extraction, registry
from models.blender import BLENDS, simulate_parents
from models.evaluation import blend_report, blends, known_pairs, published_blends
from tests.workers import tiny_blends

QUIET, LOUD = 5 * blends.NOISE_UNIT, 40 * blends.NOISE_UNIT
N = 60


@pytest.fixture(scope="module")
def lots():
    """Sixty cutouts at each of two noises, the same galaxies at the same places."""
    parents = simulate_parents(20, 100, population=BLENDS.population)
    return [
        known_pairs.drawn(parents, N, 100, replace(BLENDS, noise=(sigma, sigma)))
        for sigma in (QUIET, LOUD)
    ]


@pytest.fixture(scope="module")
def judged(lots):
    """A network that is never wrong, and what it was shown."""
    shown = []

    def predict(pixels):
        shown.append(pixels)
        return 0.1 + 0.8 * lots[0].some(0, N).is_blend

    found = [blends.judge(lot, predict, trial=0) for lot in lots]
    return blends.joined(found), shown


@pytest.fixture(scope="module")
def evaluation(judged):
    return blends.evaluate(judged[0], "toy.<1>", "Sixty cutouts.", n_resamples=20)


def table(**columns):
    """Verdicts on four blends, two of them close, and four single galaxies of as many parents."""
    default = {
        "is_blend": np.repeat([True, False], 4),
        "separation": np.array([4.0, 6.0, 14.0, 20.0, *[np.nan] * 4]),
        "noise": np.full(8, QUIET),
        "trial": np.zeros(8, int),
        "parent": np.arange(8),
        "number": np.arange(8),
        "p_blend": np.repeat([0.9, 0.1], 4),
        "fair": np.repeat([True, False], 4),
        "told": np.repeat([True, False], 4),
        "detections": np.ones(8, int),
    }
    return blends.Judged(**(default | columns))


def test_network_and_sep_see_the_very_same_pixels(lots, judged):
    rows, shown = judged
    pairs = lots[1].some(0, N)

    fair, _ = extraction.verdict(shown[1])
    told, _ = extraction.truth_aware_verdict(shown[1], pairs.dx, pairs.dy, pairs.is_blend)

    assert np.array_equal(rows.fair[N:], fair)
    assert np.array_equal(rows.told[N:], told)
    assert np.array_equal(rows.is_blend[N:], pairs.is_blend)


def test_the_noises_show_the_same_galaxies_at_the_same_places(lots):
    quiet, loud = (lot.some(5, 10) for lot in lots)

    assert np.array_equal(quiet.parent, loud.parent)
    assert np.array_equal(quiet.dx, loud.dx, equal_nan=True)
    assert not np.array_equal(quiet.pixels, loud.pixels)


def test_a_network_that_is_never_wrong_scores_one_and_beats_sep(evaluation):
    rows, gains = evaluation.everything.rows, evaluation.everything.gains

    assert all(row.value == 1 for row in rows["toy.<1>"].values())
    assert rows[blends.FAIR]["accuracy"].value < 1
    assert gains[blends.FAIR]["accuracy"].value == pytest.approx(
        1 - rows[blends.FAIR]["accuracy"].value
    )
    assert evaluation.everything.probabilities["auc"].value == 1
    assert evaluation.everything.probabilities["calibration_error"].value == pytest.approx(0.1)


def test_sep_finds_fewer_blends_in_more_noise(evaluation):
    quiet, loud = evaluation.at_noise

    assert quiet.noise == pytest.approx(QUIET)
    assert loud.rows[blends.FAIR]["found"].value < quiet.rows[blends.FAIR]["found"].value


def test_close_and_distant_blends_are_scored_over_as_many_singles():
    fair = np.repeat([True, False], 4)
    fair[[0, 7]] = ~fair[[0, 7]]  # one close blend missed, one single called a blend

    found = blends.evaluate(table(fair=fair), "net", "", n_resamples=5).everything

    sep = {score: each.value for score, each in found.rows[blends.FAIR].items()}
    assert sep["accuracy"] == 6 / 8
    assert sep["accuracy_close"] == (1 / 2 + 3 / 4) / 2
    assert sep["accuracy_distant"] == (1 + 3 / 4) / 2
    assert found.confusion[blends.FAIR] == {"tp": 3 / 8, "fn": 1 / 8, "fp": 1 / 8, "tn": 3 / 8}
    assert found.gains[blends.FAIR]["accuracy_close"].value == 1 - sep["accuracy_close"]


def test_differences_are_taken_on_the_same_draws():
    wrong = np.repeat([True, False], 4)
    wrong[::2] = ~wrong[::2]
    data = table(fair=wrong, told=wrong, p_blend=np.where(wrong, 0.9, 0.1))

    found = blends.evaluate(data, "net", "", n_resamples=50).everything

    assert found.rows["net"]["accuracy"].low < 0.5 < found.rows["net"]["accuracy"].high
    gain = found.gains[blends.FAIR]["accuracy"]
    assert (gain.low, gain.value, gain.high) == (0, 0, 0)


def test_the_deviation_is_that_of_the_trials():
    p = np.repeat([0.9, 0.1], 4)
    p[0] = 0.1  # the first trial misses one of its four

    data = table(p_blend=p, trial=np.tile([0, 1], 4))
    found = blends.evaluate(data, "net", "", n_resamples=5).everything

    assert found.deviations["net"]["accuracy"] == pytest.approx(np.std([3 / 4, 1]))


def test_the_share_found_is_counted_by_separation():
    p = np.repeat([0.9, 0.1], 4)
    p[0] = 0.1

    found = blends.evaluate(table(p_blend=p), "net", "", n_resamples=5)

    shares = found.everything.found_by_separation["net"]
    assert found.edges[1] == pytest.approx(blends.FARTHEST / 7)
    assert found.everything.blends_by_separation == [1, 1, 1, 1, 0, 0, 0]
    assert shares == [0, 1, 1, 1, None, None, None]


def test_numbers_are_ready_for_json(evaluation):
    facts = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))

    assert facts["n_cutouts"] == 2 * N
    assert [at["noise"] for at in facts["by_noise"]] == pytest.approx([QUIET, LOUD])
    assert facts["all"]["noise"] is None
    assert set(facts["all"]["judges"]) == {"toy.<1>", blends.FAIR, blends.TOLD}


def test_the_page_needs_no_other_file_and_shows_the_published_numbers(
    evaluation, lots, tmp_path, monkeypatch
):
    monkeypatch.setattr(blend_report, "PLOTS", blend_report.PLOTS[:1])
    examples = blend_report.examples(evaluation, lambda row: known_pairs.one(lots, row), n=1)

    page = blend_report.write(evaluation, examples, tmp_path).read_text()

    assert not re.search(r'(src|srcset|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert "toy.&lt;1&gt;" in page
    assert "toy.<1>" not in page
    assert f"{100 * published_blends.BLENDS_ACCURACY['BlendHunter'][5]:.1f}" in page
    with (tmp_path / "verdicts.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * N


def test_examples_show_what_they_say(evaluation, lots):
    def one(row):
        pairs = known_pairs.one(lots, row)
        assert pairs.is_blend[0] == evaluation.judged.is_blend[row]
        return pairs

    shown = blend_report.examples(evaluation, one, n=3)

    won = next(of for what, of in shown.items() if what.startswith("Close blends"))
    assert all("sep: single" in each.caption and len(each.middles) == 2 for each in won)


@pytest.mark.parametrize("number", range(len(blend_report.PLOTS)))
def test_plots_say_what_is_on_their_axes(evaluation, number):
    figure = blend_report.PLOTS[number][0](evaluation, "dark")

    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    card = tiny_blends.write_cards(folder)("blends")[0]
    path = folder / "weights.toml"
    path.write_text(registry.to_toml(replace(card, training={"seed": 0})))
    return path


def test_the_command_judges_a_version_at_the_noises_asked_for(cards, monkeypatch):
    monkeypatch.setattr(blends, "N_RESAMPLES", 5)
    words = "--n 10 --n-parents 8 --trials 2 --noise-levels 5,20 --json"

    result = CliRunner().invoke(main, f"evaluate blends --cards {cards} {words}")

    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["n_cutouts"] == 2 * 2 * 10
    assert [at["noise"] for at in printed["by_noise"]] == pytest.approx(
        [5 * blends.NOISE_UNIT, 20 * blends.NOISE_UNIT]
    )


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("--seed 0", 1, "galaxies of seed 0 are for training"),
        ("--noise-levels 5,much", 2, "expected numbers with commas"),
        ("--noise-levels 0", 2, "expected numbers above 0"),
        ("--noise-levels nan", 2, "expected numbers above 0"),
    ],
)
def test_the_command_explains_what_it_refuses(cards, words, code, why):
    result = CliRunner().invoke(main, f"evaluate blends --cards {cards} {words}")

    assert result.exit_code == code
    assert why in result.output


def test_an_empty_folder_is_refused_before_networks_are_imported(tmp_path):
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from cli import main\n"
        f"result = CliRunner().invoke(main, ['evaluate', 'blends', '--data', {str(tmp_path)!r}])\n"
        "print(result.exit_code, 'keras' in sys.modules, result.output)\n"
    )

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert run.stdout.startswith("1 False"), run.stdout + run.stderr
    assert "as `skygloss simulate blends` writes it: not there" in run.stdout
