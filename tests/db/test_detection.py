"""Detection on made-up CCDs, and the fairness of the sample."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from db.detection import CcdFlag, Detection, Sampler, corners, detect
from tests.db.frames import NOISE, SKY, frame, grid_of


def matched(found: Detection, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Distance of each true place to the nearest detection, and the other way round [pixel]."""
    distance = np.hypot(x[:, None] - found.x, y[:, None] - found.y)
    return distance.min(1), distance.min(0)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", ">i2", ">f4", "float64", "int32"])
def test_stars_are_found_where_they_are(dtype: str) -> None:
    x, y = grid_of(200, 128)

    found = detect(frame(dtype=dtype))

    missed_by, false_by = matched(found, x, y)
    assert np.median(missed_by) < 0.1
    assert missed_by.max() < 0.3
    assert false_by.max() < 0.3
    assert found.flags == 0
    assert (found.x.dtype, found.n) == (np.float32, len(x))


def test_background_noise_and_shape_are_measured() -> None:
    found = detect(frame(300, 300, flux=20000.0, stretch=1.5))

    assert found.background == pytest.approx(SKY, abs=1)
    assert found.background_rms == pytest.approx(NOISE, rel=0.1)
    assert found.fwhm == pytest.approx(4.0 * np.sqrt((1 + 1.5**2) / 2), rel=0.1)
    assert found.ellipticity == pytest.approx(1 - 1 / 1.5, abs=0.05)


def test_faint_things_below_the_threshold_are_not_found() -> None:
    found = detect(frame(flux=100.0))

    assert found.n <= 2
    assert found.fwhm is None or found.fwhm > 0


def test_a_sloping_sky_is_no_source() -> None:
    pixels = frame(dtype="float32") + np.linspace(0, 500, 128, dtype="float32")

    found = detect(pixels)

    missed_by, false_by = matched(found, *grid_of(200, 128))
    assert (missed_by < 0.5).mean() > 0.95
    assert (false_by < 0.5).mean() > 0.95


def test_detection_leaves_the_pixels_as_they_were() -> None:
    pixels = frame(dtype="float32")
    before = pixels.copy()

    detect(pixels)

    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("value", [0, 65535])
def test_a_dead_half_is_flagged_and_the_other_searched(value: int) -> None:
    pixels = frame()
    pixels[:, :61] = value

    found = detect(pixels)

    x, y = grid_of(200, 128)
    assert found.flags == CcdFlag.PARTLY_DEAD
    assert found.x.min() > 58
    assert matched(found, x[x > 66], y[x > 66])[0].max() < 0.3
    assert found.background == pytest.approx(SKY, abs=3)


def test_a_half_of_nan_is_flagged_as_dead_and_without_values() -> None:
    pixels = frame(dtype="float32")
    pixels[:, :61] = np.nan

    found = detect(pixels)

    x, y = grid_of(200, 128)
    assert found.flags == CcdFlag.PARTLY_DEAD | CcdFlag.VALUES_MISSING
    assert matched(found, x[x > 66], y[x > 66])[0].max() < 0.3


def test_a_narrow_dead_stripe_is_flagged() -> None:
    pixels = frame()
    pixels[:, 70:75] = 7

    assert detect(pixels).flags == CcdFlag.PARTLY_DEAD


def test_scattered_pixels_without_value_cost_no_source() -> None:
    pixels = frame(dtype="float32")
    pixels.ravel()[np.random.default_rng(3).choice(pixels.size, 60, replace=False)] = np.nan
    pixels[50, 3] = np.inf

    found = detect(pixels)

    missed_by, _ = matched(found, *grid_of(200, 128))
    assert found.flags == CcdFlag.VALUES_MISSING
    assert (missed_by < 0.5).mean() > 0.9


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((64, 64), 1000, "uint16"),
        np.full((64, 64), np.nan, "float32"),
        np.full((64, 64), -np.inf, "float32"),
        np.zeros((1, 1), "int16"),
        np.zeros((0, 5), "float32"),
    ],
)
def test_pixels_without_signal_give_a_flag_and_no_source(pixels: NDArray) -> None:
    found = detect(pixels)

    assert found.flags & CcdFlag.NO_SIGNAL
    assert found.flags & CcdFlag.NOTHING_DETECTED
    assert (found.n, found.background, found.fwhm) == (0, None, None)


def test_an_empty_sky_says_that_nothing_was_detected() -> None:
    found = detect(frame(64, 64, stars=(np.empty(0), np.empty(0))))

    assert found.n == 0
    assert found.flags == CcdFlag.NOTHING_DETECTED
    assert found.background == pytest.approx(SKY, abs=2)


def test_a_blob_of_too_many_peaks_to_deblend_is_flagged_and_still_found() -> None:
    pixels = frame(320, 320, stars=(np.array([40.0]), np.array([40.0])), dtype="float32")
    peaks = np.zeros((150, 150), "float32")
    peaks[::4, ::4] = np.random.default_rng(1).uniform(1e4, 3e4, peaks[::4, ::4].shape)
    pixels[100:250, 100:250] += 2000 + peaks

    found = detect(pixels)

    assert found.flags == CcdFlag.CROWDED
    nearest = np.hypot(found.x[:, None] - [40, 175], found.y[:, None] - [40, 175]).min(0)
    assert nearest[0] < 0.3
    assert nearest[1] < 3


def test_the_same_seed_draws_the_same_sample() -> None:
    pixels = frame()
    found = detect(pixels)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(10, seed)
        sampler.add(0, pixels, found)
        return sampler.sample().number.tolist()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_a_cutout_is_the_window_about_the_source_in_the_pixels_own_type() -> None:
    pixels = frame(dtype=">i2")
    found = detect(pixels)
    sampler = Sampler(1000, 1)
    sampler.add(3, pixels, found)

    sample = sampler.sample()

    assert sample.cutouts.dtype == np.dtype("int16")
    assert sample.cutouts.shape == (len(sample.x), 32, 32, 1)
    assert set(sample.ccd) == {3}
    left, bottom = corners(sample.x, sample.y)
    for cutout, x, y in zip(sample.cutouts, left, bottom, strict=True):
        np.testing.assert_array_equal(cutout[..., 0], pixels[y : y + 32, x : x + 32])
    assert np.abs(sample.x - (left + 15.5)).max() <= 0.5


def test_sources_whose_cutout_leaves_the_ccd_are_never_drawn() -> None:
    pixels = frame()
    found = detect(pixels)
    sampler = Sampler(1000, 1)
    sampler.add(0, pixels, found)

    sample = sampler.sample()

    inside = (found.x > 15) & (found.x < 111.9) & (found.y > 15) & (found.y < 183.9)
    assert 0 < len(sample.x) == inside.sum() < found.n


def test_every_source_of_every_ccd_is_equally_likely() -> None:
    """Three CCDs of unlike crowding, sample of 12 of 60: chi-square over 400 seeds."""
    pixels = np.zeros((100, 100), "uint16")
    sizes = (50, 9, 1)
    counts = np.zeros(sum(sizes))
    n_trials, n_sample = 400, 12

    for seed in range(n_trials):
        sampler = Sampler(n_sample, seed)
        for ccd, n in enumerate(sizes):
            places = np.full(n, 50, np.float32)
            sampler.add(ccd, pixels, Detection(places, places, 4.0, 0.1, 0.0, 1.0, CcdFlag(0)))
        sample = sampler.sample()
        assert len(sample.x) == n_sample
        counts[np.cumsum([0, *sizes])[sample.ccd] + sample.number] += 1

    expected = n_trials * n_sample / sum(sizes)
    share = n_sample / sum(sizes)  # drawn without replacement: the variance is smaller by 1 - share
    statistic = ((counts - expected) ** 2 / expected).sum() / (1 - share)
    assert statistic < chi2.ppf(0.999, sum(sizes) - 1)
    assert statistic > chi2.ppf(0.001, sum(sizes) - 1)
