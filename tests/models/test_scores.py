import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models import scores

TRUTH = np.array([1, 1, 1, 0, 0, 0, 0], bool)
P_SHRED = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.3])


def test_counts_match_those_made_by_hand():
    found = scores.counts(TRUTH, P_SHRED)

    assert found == scores.Counts(tp=2, fn=1, tn=3, fp=1)
    assert found.completeness == pytest.approx(2 / 3)
    assert found.purity == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(3 / 4)
    assert found.accuracy == pytest.approx(5 / 7)


def test_auc_counts_pairs_and_halves_ties():
    by_hand = (4 + 4 + 2.5) / 12

    assert scores.auc(TRUTH, P_SHRED) == pytest.approx(by_hand)


def test_auc_and_the_roc_curve_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.4
    p = np.round(np.clip(truth * 0.3 + rng.random(200) * 0.7, 0, 1), 1)

    false, found, _ = scores.roc(truth, p)

    assert scores.auc(truth, p) == pytest.approx(roc_auc_score(truth, p))
    assert np.trapezoid(found, false) == pytest.approx(roc_auc_score(truth, p))
    assert (false[0], found[0], false[-1], found[-1]) == (0, 0, 1, 1)


def test_auc_of_a_single_class_is_not_a_number():
    assert np.isnan(scores.auc([1, 1], [0.2, 0.3]))


def test_calibration_error_is_the_mean_distance_of_the_bins():
    p = np.array([0.05] * 10 + [0.95] * 10)
    truth = np.array([1] * 2 + [0] * 8 + [1] * 10)

    by_hand = (abs(0.05 - 0.2) * 10 + abs(0.95 - 1.0) * 10) / 20

    assert scores.calibration_error(truth, p) == pytest.approx(by_hand)


def test_reliability_leaves_empty_bins_out():
    table = scores.reliability([0, 1], [0.02, 1.0], bins=4)

    assert table.sizes.tolist() == [1, 0, 0, 1]
    assert np.isnan(table.observed[1])


def test_bootstrap_by_group_is_wider_than_by_source():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(30) < 0.8, 10)
    truth = np.arange(300) % 2 == 0
    p = np.where(right, truth, ~truth).astype(float)

    def width(group):
        found = scores.bootstrap(truth, p, group, {"accuracy": scores.accuracy}, n_resamples=300)
        return found["accuracy"].high - found["accuracy"].low

    assert width(np.arange(300) // 10) > 2 * width(np.arange(300))


def test_the_calibration_error_gets_no_interval():
    found = scores.bootstrap(TRUTH, P_SHRED, np.arange(7), n_resamples=5)["calibration_error"]

    assert found.as_dict() == {"value": round(found.value, 4), "low": None, "high": None}


def test_bootstrap_repeats_with_its_seed():
    group = np.arange(7)

    first, again = (
        scores.bootstrap(TRUTH, P_SHRED, group, n_resamples=50, seed=3) for _ in range(2)
    )

    assert (first["auc"], first["accuracy"]) == (again["auc"], again["accuracy"])
    assert first["accuracy"].value == pytest.approx(5 / 7)


def test_a_metric_that_no_resample_defines_has_no_interval():
    found = scores.bootstrap([1, 0, 0], [0, 0, 0], [1, 2, 3], n_resamples=20)

    assert found["purity"].as_dict() == {"value": None, "low": None, "high": None}


def test_calibration_undoes_a_known_distortion():
    rng = np.random.default_rng(2)
    true_odds = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-true_odds))
    distorted = 1 / (1 + np.exp(-(2 * true_odds - 1)))

    temperature, offset = scores.fit_calibration(truth, distorted)

    assert temperature == pytest.approx(2, rel=0.05)
    assert offset == pytest.approx(1, abs=0.1)
    again = scores.calibrated(distorted, temperature, offset)
    assert scores.calibration_error(truth, again) < 0.02


def test_contamination_inverts_what_well_known_errors_did():
    errors = scores.Counts(tp=90_000, fn=10_000, tn=95_000, fp=5_000)
    called = 0.1 * 0.9 + 0.9 * 0.05

    found = scores.contamination(round(called * 1_000_000), 1_000_000, errors)

    assert found.value == pytest.approx(0.1, abs=0.002)
    assert found.low < 0.1 < found.high


def test_fewer_calls_than_false_alarms_still_leave_room_for_shreds():
    found = scores.contamination(5, 376, scores.Counts(tp=224, fn=8, tn=372, fp=13))

    assert 0 < found.low < found.value < found.high
    assert 0.005 < found.high < 0.05


def test_calls_that_the_errors_rule_out_are_refused():
    with pytest.raises(ValueError, match="unlike the labelled sources"):
        scores.contamination(0, 10_000_000, scores.Counts(tp=224, fn=8, tn=378, fp=200))


def test_contamination_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    truth, completeness, specificity = 0.06, 0.95, 0.97
    covered = 0
    for trial in range(200):
        errors = scores.Counts(
            tp=(tp := rng.binomial(200, completeness)),
            fn=200 - tp,
            tn=(tn := rng.binomial(300, specificity)),
            fp=300 - tn,
        )
        n_called = rng.binomial(5000, truth * completeness + (1 - truth) * (1 - specificity))
        found = scores.contamination(n_called, 5000, errors, n_draws=1000, seed=trial)
        covered += found.low <= truth <= found.high

    assert 0.90 <= covered / 200 <= 1.0


def test_contamination_widens_when_the_errors_are_less_known():
    few = scores.contamination(60, 1000, scores.Counts(tp=19, fn=1, tn=29, fp=1))
    many = scores.contamination(60, 1000, scores.Counts(tp=1900, fn=100, tn=2900, fp=100))

    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_contamination_of_nothing_is_refused():
    with pytest.raises(ValueError, match="n_sources > 0"):
        scores.contamination(0, 0, scores.Counts(1, 0, 1, 0))
