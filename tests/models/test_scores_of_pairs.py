from dataclasses import asdict

import numpy as np
import pytest

from models import scores_of_pairs as scores
from models.evaluation import published_blends

NAN = float("nan")
ONE_MAG = 10**0.4  # ratio of fluxes


def test_a_nanojansky_has_the_magnitude_of_the_ab_system():
    assert scores.magnitude([1.0, 100.0]) == pytest.approx([31.4, 26.4])
    assert np.isnan(scores.magnitude([0.0, -1.0, NAN])).all()


def test_scores_of_fluxes_match_those_derived_by_hand():
    true = np.array([100.0, 100, 100, 100])  # 26.4 mag each
    flux = true / ONE_MAG ** np.array([1.0, 0.5, -0.5, 0.0])
    lost, gained = 1 - ONE_MAG**-1.0, ONE_MAG**0.5 - 1
    half = 1 - ONE_MAG**-0.5

    found = scores.pair_scores(true, flux)

    assert asdict(found) == pytest.approx(
        {
            "n": 4,
            "bias": (1 + 0.5 - 0.5 + 0) / 4,
            "median": (0 + 0.5) / 2,
            "sigma": np.sqrt((0.75**2 + 0.25**2 + 0.75**2 + 0.25**2) / 4),
            "outliers": 1 / 4,
            "mag_mape": (1 + 0.5 + 0.5) / 26.4 / 4,
            "flux_mape": (lost + half + gained) / 4,
            "flux_median_ape": (half + gained) / 2,
            "undetected": 0,
        }
    )


def test_three_quarters_of_a_magnitude_is_not_yet_an_outlier():
    true = np.full(2, 100.0)

    found = scores.pair_scores(true, true / ONE_MAG ** np.array([0.7499, 0.7501]))

    assert found.outliers == 0.5


def test_undetected_galaxies_are_left_out_and_counted():
    true = np.array([[100.0, 100.0], [100.0, NAN], [100.0, 100.0]])
    flux = np.array([[110.0, NAN], [90.0, 5.0], [NAN, 100.0]])

    found = scores.pair_scores(true, flux)

    assert (found.n, found.undetected) == (3, 2)
    assert found.flux_mape == pytest.approx((0.1 + 0.1 + 0.0) / 3)


def test_a_flux_that_is_not_positive_is_an_outlier_without_magnitude():
    found = scores.pair_scores([100.0, 100.0], [100.0, -20.0])

    assert (found.n, found.outliers, found.undetected) == (2, 0.5, 0)
    assert (found.bias, found.sigma, found.mag_mape) == (0, 0, 0)
    assert found.flux_mape == pytest.approx(1.2 / 2)


def test_without_any_measured_flux_every_score_is_missing():
    found = asdict(scores.pair_scores([100.0], [NAN]))

    assert (found.pop("n"), found.pop("undetected")) == (0, 1)
    assert np.isnan(list(found.values())).all()


def test_fluxes_of_another_number_than_the_truth_are_refused():
    with pytest.raises(ValueError, match="not 1 and 2"):
        scores.pair_scores([1.0, 2.0], [1.0])


def test_six_bins_of_equal_width_span_the_data_and_hold_both_ends():
    edges = scores.equal_bins([-2.0, NAN, 0.1, 1.0])

    assert edges == pytest.approx([-2, -1.5, -1, -0.5, 0, 0.5, 1])
    numbers = scores.bin_numbers([-2, -1.5, 0.99, 1, 1.01, -2.1, NAN], edges)
    assert numbers.tolist() == [0, 1, 5, 5, -1, -1, -1]


def test_binning_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        scores.equal_bins([NAN])


def test_a_magnitude_difference_is_negative_for_a_brighter_central_galaxy():
    assert scores.magnitude_difference(np.array([[100.0, 10.0]])) == pytest.approx([-2.5])


def mape(true, flux):
    return {"mape": scores.pair_scores(true, flux).flux_mape}


def test_intervals_hold_the_value_and_widen_when_pairs_share_a_galaxy():
    rng = np.random.default_rng(1)
    error = np.repeat(rng.uniform(0, 0.3, 20), 10)
    true = np.full(200, 100.0)

    shared = scores.intervals(mape, np.repeat(np.arange(20), 10), true, true * (1 + error))["mape"]
    alone = scores.intervals(mape, np.arange(200), true, true * (1 + error))["mape"]

    assert shared.value == pytest.approx(error.mean())
    assert shared.low < shared.value < shared.high
    assert shared.high - shared.low > 2 * (alone.high - alone.low)


def test_intervals_are_the_same_for_the_same_seed():
    true, flux = np.full(6, 10.0), np.array([10.0, 11, 12, 13, 14, NAN])

    first, again, other = (
        scores.intervals(mape, [3, 3, 7, 7, 9, 9], true, flux, n_resamples=20, seed=seed)
        for seed in (0, 0, 1)
    )

    assert first == again
    assert first != other


def test_an_interval_of_nothing_is_missing():
    found = scores.intervals(mape, [0, 1], [1.0, 1.0], [NAN, NAN], n_resamples=5)["mape"]

    assert np.isnan([found.value, found.low, found.high]).all()


def test_coverage_counts_the_truths_within_the_errors():
    true, flux = np.full(5, 100.0), np.array([95.0, 110, 125, 100, NAN])
    error = np.array([5.0, 9, 20, NAN, 1])

    assert scores.coverage(true, flux, error) == pytest.approx(1 / 3)
    assert scores.coverage(true, flux, error, 2) == 1
    assert np.isnan(scores.coverage([1.0], [NAN], [1.0]))


def test_errors_that_are_normal_cover_what_they_should():
    rng = np.random.default_rng(2)
    flux = rng.normal(100, 5, 20_000)

    assert scores.coverage(np.full(20_000, 100.0), flux, np.full(20_000, 5.0)) == pytest.approx(
        0.683, abs=0.01
    )
    assert scores.coverage(np.full(20_000, 100.0), flux, np.full(20_000, 5.0), 1.96) == (
        pytest.approx(0.95, abs=0.01)
    )


TRUE_MASKS = np.array([[[[1, 0], [1, 1], [0, 1], [0, 0]]]], float)  # (1, 1, 4, 2)
PROBABILITIES = np.array([[[[0.9, 0.1], [0.4, 0.8], [0.6, 0.7], [0.1, 0.6]]]])


def test_intersection_over_union_matches_that_counted_by_hand():
    central, companion = 1 / 3, 2 / 3

    found = scores.iou(TRUE_MASKS, PROBABILITIES)

    assert found[0] == pytest.approx([central, companion])
    assert scores.mean_iou(found) == pytest.approx((central + companion) / 2)


def test_intersection_over_union_of_probabilities_never_exceeds_one():
    rng = np.random.default_rng(3)
    masks = rng.random((4, 8, 8, 2))

    assert scores.iou(masks, masks) == pytest.approx(np.ones((4, 2)))
    assert scores.iou(masks, rng.random((4, 8, 8, 2))).max() < 1


def test_a_galaxy_in_neither_mask_is_left_out_of_the_mean():
    nothing = TRUE_MASKS.copy()
    nothing[..., 1] = 0

    found = scores.iou(nothing, nothing)

    assert np.isnan(found[0]).tolist() == [False, True]
    assert scores.mean_iou(found) == 1
    assert np.isnan(scores.mean_iou(scores.iou(nothing * 0, nothing * 0)))


def test_the_mean_over_pairs_weighs_each_pair_the_same():
    true = np.zeros((2, 1, 4, 2))
    true[0, 0, 0] = true[1, 0, 0, 0] = 1
    found = np.zeros((2, 1, 4, 2))
    found[0, 0, 0] = 1

    assert scores.mean_iou(scores.iou(true, found)) == pytest.approx((1 + 0) / 2)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="of one shape"):
        scores.iou(TRUE_MASKS, TRUE_MASKS[:, :, :2])


def test_too_little_overlap_is_a_positive_bias():
    true = np.ones((3, 1, 4, 2))
    true[2, ..., 1] = 0
    found = np.ones((3, 1, 4, 2))
    found[0, 0, :1, 1] = 0
    more = np.array([[[[1, 1], [0, 1], [1, 1], [0, 0]]]])

    assert scores.overlap_bias(true, found)[:2] == pytest.approx([(4 - 3) / 4, 0])
    assert np.isnan(scores.overlap_bias(true, found)[2])
    assert scores.overlap_bias(TRUE_MASKS, more) == pytest.approx([(1 - 2) / 1])


IS_BLEND = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SAID = np.array([1, 0, 1, 1, 0, 0, 0, 1], bool)
SEPARATION = np.array([3.0, 9.9, 10, 30, NAN, NAN, NAN, NAN])


def test_verdicts_are_scored_as_counted_by_hand():
    found = scores.blend_scores(IS_BLEND, SAID, SEPARATION)

    assert (found.n, found.accuracy) == (8, 6 / 8)
    assert (found.found, found.spared) == (3 / 4, 3 / 4)
    assert (found.found_close, found.found_distant) == (1 / 2, 1)
    assert found.accuracy_close == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert found.accuracy_distant == pytest.approx((1 + 3 / 4) / 2)
    assert found.confusion == {"tp": 3 / 8, "fn": 1 / 8, "fp": 1 / 8, "tn": 3 / 8}


def test_verdicts_on_one_class_leave_the_other_without_score():
    found = scores.blend_scores(IS_BLEND[4:], SAID[4:], SEPARATION[4:])

    assert (found.spared, found.accuracy) == (3 / 4, 3 / 4)
    assert np.isnan([found.found, found.found_close, found.found_distant]).all()


def test_the_share_found_by_separation_counts_blends_only():
    share, sizes = scores.found_by_separation(SEPARATION, IS_BLEND, SAID, [0, 10, 20, 25, 30])

    assert sizes.tolist() == [2, 1, 0, 1]
    assert share[[0, 1, 3]].tolist() == [0.5, 1, 1]
    assert np.isnan(share[2])


@pytest.mark.parametrize("method", ["blend2flux", "blend2mask2flux", "sep"])
def test_published_scores_of_both_galaxies_are_those_of_each_taken_together(method):
    central, companion, pooled = (
        published_blends.FLUX_SCORES[name][method] for name in ("central", "companion", "pooled")
    )
    n = central.n + companion.n

    assert n == pooled.n
    assert n + pooled.undetected == 2 * 4776
    for name in ("bias", "outliers", "mag_mape", "flux_mape"):
        mean = (getattr(central, name) * central.n + getattr(companion, name) * companion.n) / n
        assert getattr(pooled, name) == pytest.approx(mean, abs=1.5e-4)


def test_published_verdicts_agree_with_their_parts():
    for by_noise in published_blends.BLENDS_BY_NOISE.values():
        for verdicts in by_noise.values():
            assert verdicts.accuracy == pytest.approx(
                (verdicts.found + verdicts.spared) / 2, abs=2e-4
            )
    for noise, cells in published_blends.CFIS_CONFUSION.items():
        assert sum(cells) == pytest.approx(1, abs=2e-3)
        accuracy = cells[0] + cells[3]
        assert published_blends.CFIS_ACCURACY[noise] == pytest.approx(accuracy, abs=2e-3)
