"""Agreement and consensus: published worked examples, simulated experts, degenerate votes."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from models import agreement
from models.agreement import MISSING
from models.scores import Interval

# Fleiss (1971), Psychol. Bull. 76, 378: six votes on the diagnosis of each of 30 patients
DIAGNOSES = """
444444 222555 233335 555555 222444 113333 333355 113334 114444 555555
144444 124444 222333 144444 224445 333335 111455 111112 224444 133555
555555 244444 224555 114444 144445 222224 111155 224444 133333 555555
"""
# Krippendorff (2011), Computing Krippendorff's alpha-reliability: four observers, twelve units
UNITS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
# Dawid & Skene (1979), Appl. Statist. 28, 20, Table 1: three statements of anaesthetist 1, then one
# each of anaesthetists 2 to 5, on each of 45 patients
PATIENTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223
2322223 4444444 2223343 1111111 2223212 1211111 1112111 1111111 1111111
2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222
1111111 1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343
2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""


def table(words: str) -> NDArray[np.int64]:
    """Votes from one word per subject, classes counted from 1, a dot where there is none."""
    return np.array([[-1 if c == "." else int(c) - 1 for c in word] for word in words.split()])


def simulated(
    n: int, accuracy: list[float], k: int = 3, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truth of n subjects, and the votes of experts who guess where they do not know."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    wrong = (truth[:, None] + rng.integers(1, k, (n, len(accuracy)))) % k
    return truth, np.where(rng.random(wrong.shape) < accuracy, truth[:, None], wrong)


def test_fleiss_kappa_is_that_of_the_published_example() -> None:
    votes = table(DIAGNOSES)

    shares = agreement.value_counts(votes).sum(axis=0) / votes.size
    assert_allclose(shares, [0.144, 0.144, 0.167, 0.306, 0.239], atol=5e-4)
    assert agreement.fleiss(votes) == pytest.approx(0.430, abs=5e-4)


def test_agreement_by_class_gives_the_published_kappas_of_the_classes() -> None:
    votes = table(DIAGNOSES)

    shares = agreement.value_counts(votes).sum(axis=0) / votes.size
    kappas = (agreement.by_class(votes) - shares) / (1 - shares)
    assert_allclose(kappas, [0.245, 0.245, 0.520, 0.471, 0.566], atol=5e-4)


def test_krippendorffs_alpha_is_that_of_the_published_example() -> None:
    votes = table("\n".join(UNITS)).T

    assert agreement.alpha(votes) == pytest.approx(0.743, abs=5e-4)


def test_dawid_and_skene_is_that_of_the_published_example() -> None:
    votes = table(PATIENTS)
    said = (votes[..., None] == np.arange(4)).astype(np.int64)
    said = np.concatenate([said[:, :3].sum(axis=1, keepdims=True), said[:, 3:]], axis=1)

    found = agreement.dawid_skene_counts(said, prior=0)

    assert found.converged
    assert_allclose(found.prior, [0.40, 0.42, 0.11, 0.07], atol=0.005)
    first = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert_allclose(found.confusion[0], first, atol=0.005)


def test_dawid_and_skene_find_the_error_rates_of_simulated_experts() -> None:
    truth, votes = simulated(4000, [0.95, 0.8, 0.6, 0.4])

    found = agreement.dawid_skene(votes)

    assert_allclose(found.reliability, [0.95, 0.8, 0.6, 0.4], atol=0.03)
    consensus, plain = found.p.argmax(axis=1), agreement.majority(votes)
    assert (consensus == truth).mean() > (plain == truth).mean() + 0.05
    assert found.p.max(axis=1).mean() == pytest.approx((consensus == truth).mean(), abs=0.02)


@pytest.mark.parametrize("prior", [0.0, 1.0, 5.0])
def test_the_log_posterior_never_falls(prior: float) -> None:
    _, votes = simulated(200, [0.7, 0.6, 0.5])
    votes[np.random.default_rng(1).random(votes.shape) < 0.3] = MISSING

    found = agreement.dawid_skene(votes, prior=prior)

    assert found.converged
    assert len(found.log_posterior) > 3
    assert np.diff(found.log_posterior).min() > -1e-9


def test_a_lone_expert_is_repeated_and_taken_at_the_prior() -> None:
    found = agreement.dawid_skene(np.array([[0], [1], [0], [MISSING]]), n_classes=3)

    assert_array_equal(found.p.argmax(axis=1)[:3], [0, 1, 0])
    assert_allclose(found.p[3], found.prior)
    assert 0.5 < found.reliability[0] < 0.8


def test_unanimous_experts_are_believed() -> None:
    votes = np.repeat([0, 1, 1, 2], 20)[:, None].repeat(3, axis=1)

    found = agreement.dawid_skene(votes)

    assert_array_equal(found.p.argmax(axis=1), votes[:, 0])
    assert found.p.max(axis=1).min() > 0.99
    assert found.reliability.min() > 0.85


@pytest.mark.parametrize(("n", "k"), [(40, 2), (40, 4), (150, 5)])
def test_few_votes_do_not_make_it_too_sure(n: int, k: int) -> None:
    right, sure = [], []
    for seed in range(30):
        truth, votes = simulated(n, [0.9, 0.8, 0.7], k, seed)
        found = agreement.dawid_skene(votes, k)
        disputed = (votes != votes[:, :1]).any(axis=1)
        right.append((found.p.argmax(axis=1) == truth)[disputed].mean())
        sure.append(found.p.max(axis=1)[disputed].mean())

    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.07)


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (3, 0), (3, 2)])
def test_without_votes_nothing_is_claimed(shape: tuple[int, int]) -> None:
    votes = np.full(shape, MISSING)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kappa, alpha = agreement.overall(votes)
        found = agreement.dawid_skene(votes, n_classes=2)

    assert np.isnan([kappa.value, kappa.low, alpha.value, alpha.high]).all()
    assert found.p.shape == (shape[0], 2)
    assert_allclose(found.p, 0.5)
    assert_array_equal(agreement.majority(votes), np.full(shape[0], MISSING))


def test_one_class_throughout_leaves_kappa_undefined() -> None:
    votes = np.zeros((5, 3), int)

    kappa, alpha = agreement.overall(votes)
    pair = agreement.pairs(votes, n_classes=2)[0]

    assert np.isnan([kappa.value, alpha.value, pair.kappa.value]).all()
    assert agreement.reading(pair.kappa, pair.n) == "undefined: only one class was ever used"


def test_kappa_of_a_pair_is_of_the_subjects_both_labelled() -> None:
    votes = np.array([[0, 0, 1], [0, 1, MISSING], [1, 1, MISSING], [MISSING, 0, 0], [1, 1, 1]])

    first, second, third = agreement.pairs(votes)

    assert [(pair.first, pair.second, pair.n) for pair in (first, second, third)] == [
        (0, 1, 4),
        (0, 2, 2),
        (1, 2, 3),
    ]
    assert first.kappa.value == pytest.approx(0.5)
    assert_array_equal(first.confusion, [[1, 1], [0, 2]])


def test_experts_without_a_subject_in_common_have_no_kappa() -> None:
    pair = agreement.pairs(np.array([[0, MISSING], [MISSING, 1]]))[0]

    assert pair.n == 0
    assert np.isnan([pair.kappa.value, pair.kappa.low]).all()
    assert agreement.reading(pair.kappa, pair.n) == "no subject in common"


def test_subjects_with_one_vote_change_nothing_but_the_shares_of_classes() -> None:
    votes = table("112 112 223 33.")
    more = np.vstack([votes, table("1.. .1.")])

    assert agreement.alpha(more) == agreement.alpha(votes)
    observed = np.mean([1 / 3, 1 / 3, 1 / 3, 1])
    shares = np.mean(
        [[2 / 3, 1 / 3, 0]] * 2 + [[0, 2 / 3, 1 / 3], [0, 0, 1]] + [[1, 0, 0]] * 2, axis=0
    )
    chance = (shares**2).sum()
    assert agreement.fleiss(more) == pytest.approx((observed - chance) / (1 - chance))


def test_resampled_tables_give_the_values_of_the_libraries() -> None:
    _, votes = simulated(50, [0.8, 0.7, 0.6, 0.6])
    votes[np.random.default_rng(2).random(votes.shape) < 0.2] = MISSING

    pair = agreement.pairs(votes)[0]
    coincidences = agreement._coincidences(agreement.value_counts(votes)).sum(axis=0)

    both = (votes[:, :2] != MISSING).all(axis=1)
    assert pair.kappa.value == pytest.approx(cohen_kappa_score(*votes[both, :2].T))
    assert agreement._cohen(pair.confusion[None])[0] == pytest.approx(pair.kappa.value)
    assert agreement._alpha(coincidences[None])[0] == pytest.approx(agreement.alpha(votes))


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    truth = agreement.fleiss(simulated(200_000, [0.8, 0.8], seed=99)[1])

    held = []
    for seed in range(100):
        kappa, alpha = agreement.overall(simulated(150, [0.8, 0.8], seed=seed)[1], 300)
        held.append([kappa.low < truth < kappa.high, alpha.low < truth < alpha.high])

    assert (np.mean(held, axis=0) > 0.87).all()
    assert (np.mean(held, axis=0) < 1).all()


def test_majority_is_no_word_on_a_tie() -> None:
    votes = table("112 12. 1.. ... 333")

    assert_array_equal(agreement.majority(votes), [0, MISSING, 0, MISSING, 2])


def test_purity_is_the_share_of_the_most_frequent_label() -> None:
    share, entropy = agreement.purity([[4, 0], [2, 2], [3, 1], [0, 0]])

    assert_allclose(share, [1, 0.5, 0.75, np.nan])
    assert_allclose(entropy, [0, 1, 0.811278, np.nan], atol=1e-6)


@pytest.mark.parametrize(
    ("interval", "n", "words"),
    [
        (Interval(0.7, 0.65, 0.75), 100, "substantial"),
        (Interval(0.5, 0.3, 0.7), 100, "fair to substantial"),
        (Interval(1.0, 1.0, 1.0), 200, "almost perfect"),
        (Interval(-0.1, -0.2, -0.05), 200, "poor"),
        (Interval(1.0, 1.0, 1.0), 5, "too few subjects to say (5 of at least 30)"),
    ],
)
def test_a_value_is_read_as_cautiously_as_its_interval(
    interval: Interval, n: int, words: str
) -> None:
    assert agreement.reading(interval, n) == words


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (np.array([0, 1]), "shape"),
        (np.array([[0.5]]), "integers"),
        (np.array([[-2]]), "got -2"),
        (np.array([[3]]), "from 0 to 2"),
    ],
)
def test_what_are_no_votes_is_refused(votes: NDArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agreement.majority(votes, n_classes=3)


def test_nothing_slow_is_imported_to_measure_agreement() -> None:
    script = """
import sys
import numpy as np
from models import agreement
votes = np.array([[0, 1, 1], [1, 1, 0], [0, 0, -1]])
agreement.overall(votes), agreement.pairs(votes), agreement.dawid_skene(votes)
print(*[name for name in ("scipy.stats", "sklearn", "pandas") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []
