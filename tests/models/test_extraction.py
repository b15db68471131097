import numpy as np
import pytest
import sep

from models import extraction

NOISE = 10.0
SIDE = 64


def picture(*galaxies, seed=0, side=SIDE, noise=NOISE):
    """A cutout of round Gaussian galaxies, each as flux, dx, dy and optionally sigma."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.random.default_rng(seed).normal(0, noise, (side, side))
    for flux, dx, dy, *width in galaxies:
        sigma = width[0] if width else 2.0
        image += (
            flux / (2 * np.pi * sigma**2) * np.exp(-(np.hypot(x - dx, y - dy) ** 2) / 2 / sigma**2)
        )
    return image.astype(np.float32)


def pictures(*each):
    return np.stack([picture(*galaxies, seed=k) for k, galaxies in enumerate(each)])


def test_the_companion_is_never_the_central_galaxy_itself():
    rng = np.random.default_rng(1)
    angle, flux = rng.uniform(0, 2 * np.pi, 200), 10 ** rng.uniform(4, 4.8, (200, 2))
    away = rng.uniform(12, 20, 200)
    places = np.stack([away * np.cos(angle), away * np.sin(angle)], 1)
    pairs = [((f[0], 0, 0), (f[1], *place)) for f, place in zip(flux, places, strict=True)]

    measured = extraction.photometry(pictures(*pairs))

    assert (measured.detections == 2).all()
    assert (measured.flux[:, 0] != measured.flux[:, 1]).all()
    assert np.abs(measured.flux / flux - 1).max() < 0.2


def test_the_companion_is_the_brightest_of_the_others():
    measured = extraction.photometry(
        pictures([(2e4, 0, 0), (1e4, 18, 0), (3e4, -18, -10), (8e3, 5, 20)])
    )

    assert measured.detections.tolist() == [4]
    assert measured.flux[0] == pytest.approx([2e4, 3e4], rel=0.1)


def test_a_lone_detection_is_the_central_galaxy_only_near_the_middle():
    pixels = pictures([(2e4, 0.3, 0)], [(2e4, 12, 0)])

    flux = extraction.photometry(pixels).flux

    assert np.isfinite(flux).tolist() == [[True, False], [False, True]]


def test_a_known_radius_decides_which_galaxy_a_lone_detection_is():
    pixels = pictures([(2e4, 3, 0)], [(2e4, 3, 0)])

    flux = extraction.photometry(pixels, radius=np.array([2.0, 20.0])).flux

    assert np.isfinite(flux).tolist() == [[False, True], [True, False]]


def test_the_hot_mode_is_tried_only_where_the_cold_one_finds_fewer_than_two():
    faint, bright = picture((2e4, 0, 0), (1600, 20, 0)), picture((2e4, 0, 0), (2e4, 20, 0))
    pixels = np.stack([faint, bright])

    cold = extraction.photometry(pixels, modes=(extraction.COLD,))
    both = extraction.photometry(pixels)

    assert cold.detections.tolist() == [1, 2]
    assert both.detections.tolist() == [2, 2]
    assert both.flux[0, 0] > cold.flux[0, 0]
    assert both.flux[1].tolist() == cold.flux[1].tolist()


@pytest.mark.parametrize("kind", ["isophotal", "auto"])
def test_calibrated_fluxes_of_isolated_galaxies_have_the_scale_of_the_truth(kind):
    flux = np.geomspace(1e4, 4e4, 20)
    alone = pictures(*([(f, 0, 0)] for f in flux))

    factor = extraction.calibration(alone, flux, kind=kind)
    again = factor * extraction.photometry(alone, kind=kind).flux[:, 0]

    assert 1.0 < factor < 1.2
    assert np.median(again / flux) == pytest.approx(1, abs=0.01)


def test_kron_apertures_lose_less_light_than_isophotes():
    alone = pictures(*([(f, 0, 0, 3.0)] for f in (4e3, 6e3, 8e3)))

    isophotal = extraction.photometry(alone).flux[:, 0]
    auto = extraction.photometry(alone, kind="auto").flux[:, 0]

    assert (auto > 1.05 * isophotal).all()


def test_calibration_without_any_detection_says_what_to_do():
    with pytest.raises(ValueError, match="finds none of the 2 isolated galaxies"):
        extraction.calibration(pictures([], []), np.ones(2))


def test_subtracting_the_background_takes_a_pedestal_away():
    pixels = pictures([(2e4, 0, 0)]) + np.float32(20)

    with_pedestal = extraction.photometry(pixels).flux[0, 0]
    without = extraction.photometry(pixels, subtract=True).flux[0, 0]

    assert without == pytest.approx(2e4, rel=0.1)
    assert with_pedestal > 1.1 * without


def test_masks_give_each_pixel_to_one_galaxy_at_most():
    measured = extraction.photometry(pictures([(2e4, 0, 0), (2e4, 8, 0)]), masks=True)

    assert measured.masks.shape == (1, SIDE, SIDE, 2)
    assert measured.masks.any(axis=(0, 1, 2)).all()
    assert not measured.masks.all(axis=-1).any()
    assert measured.masks[0, 32, 31].tolist() == [True, False]
    assert measured.masks[0, 32, 40].tolist() == [False, True]


def test_pixels_without_value_are_masked():
    pixels = pictures([(2e4, 0, 0), (2e4, 16, 0)])
    pixels[0, :10] = np.nan

    measured = extraction.photometry(pixels, kind="auto")

    assert measured.flux[0] == pytest.approx([2e4, 2e4], rel=0.1)


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_nothing_is_found_where_there_is_no_noise_to_compare_with(value):
    pixels = np.full((2, SIDE, SIDE), value, np.float32)

    measured = extraction.photometry(pixels)

    assert measured.detections.tolist() == [0, 0]
    assert np.isnan(measured.flux).all()
    assert extraction.verdict(pixels)[0].tolist() == [False, False]
    assert extraction.saturated(pixels).tolist() == [np.isnan(value)] * 2


def test_a_noise_of_exactly_one_is_a_noise_like_any_other():
    pixels = pictures([(2e4, 0, 0), (2e4, 16, 0)])
    rms = sep.Background(pixels[0]).globalrms * np.linspace(1 - 1e-6, 1 + 1e-6, 100)
    one = next(
        scaled
        for scaled in (pixels / np.float32(unit) for unit in rms)
        if sep.Background(scaled[0]).globalrms == 1.0
    )

    assert extraction.photometry(one).flux[0] == pytest.approx([2e4 / rms[0]] * 2, rel=0.1)


def test_nothing_is_found_among_rare_counts():
    counts = np.random.default_rng(0).poisson(0.01, (4, SIDE, SIDE)).astype(np.float32)

    is_blend, detections = extraction.verdict(counts)

    assert detections.tolist() == [0] * 4
    assert not is_blend.any()


def test_pixels_of_another_byte_order_and_layout_are_measured_the_same():
    pixels = pictures([(2e4, 0, 0), (2e4, 16, 0)])
    elsewhere = np.asfortranarray(pixels.astype(">f8"))

    assert np.array_equal(extraction.photometry(elsewhere).flux, extraction.photometry(pixels).flux)


def test_no_cutouts_give_no_measurements():
    nothing = np.zeros((0, SIDE, SIDE), np.float32)

    assert extraction.photometry(nothing).flux.shape == (0, 2)
    assert extraction.verdict(nothing)[0].shape == (0,)
    assert [flag.shape for flag in extraction.obstacles(nothing).values()] == [(0,)] * 3


def test_colour_cutouts_are_refused_with_what_was_expected():
    with pytest.raises(ValueError, match="one band as \\(n, height, width\\)"):
        extraction.photometry(np.zeros((2, 8, 8, 3), np.float32))


def test_two_detections_are_a_blend_and_one_is_none():
    pixels = pictures([(2e4, 0, 0)], [(2e4, 0, 0), (2e4, 15, 4)], [])

    is_blend, detections = extraction.verdict(pixels)

    assert is_blend.tolist() == [False, True, False]
    assert detections.tolist() == [1, 2, 0]


OFFSET = np.array([12.0])
ABOVE = np.array([0.0])


def truth_aware(image, is_blend, dx=OFFSET):
    said, _ = extraction.truth_aware_verdict(image[None], dx, ABOVE, np.array([is_blend]))
    return bool(said[0])


def test_a_blend_is_told_where_a_detection_lies_at_each_galaxy():
    pair = picture((2e4, 0, 0), (2e4, 12, 0))

    assert truth_aware(pair, is_blend=True)
    assert not truth_aware(picture((2e4, 0, 0)), is_blend=True)
    assert not truth_aware(picture((2e4, 0, 0)), is_blend=False)


def test_a_second_detection_makes_a_matched_single_galaxy_a_blend():
    assert truth_aware(picture((2e4, 0, 0), (2e4, 20, 0)), is_blend=False)


def test_one_detection_matches_one_galaxy_at_most():
    between = picture((2e4, 0.5, 0))

    assert not truth_aware(between, is_blend=True, dx=np.array([1.0]))


def test_detections_away_from_both_galaxies_make_no_blend():
    assert not truth_aware(picture((2e4, -15, 0), (2e4, 0, 25)), is_blend=True)


def test_no_detection_counts_as_wrong_and_nothing_is_left_over_from_the_cutout_before():
    pixels = pictures([(2e4, 0, 0), (2e4, 12, 0)], [], [])

    said, detections = extraction.truth_aware_verdict(
        pixels, np.repeat(OFFSET, 3), np.repeat(ABOVE, 3), np.array([True, True, False])
    )

    assert said.tolist() == [True, False, True]
    assert detections.tolist() == [2, 0, 0]


def test_a_third_galaxy_is_an_obstacle_and_a_faint_knot_is_none():
    pair = [(2e4, 0, 0), (2e4, 16, 0)]
    pixels = pictures(pair, [*pair, (1.5e4, -14, 8)], [*pair, (2.5e3, -14, 8)])

    measured = extraction.photometry(pixels)

    assert extraction.obstacles(pixels, measured)["more_than_two"].tolist() == [False, True, False]
    assert measured.detections.tolist() == [2, 3, 3]


def test_light_at_the_border_is_an_obstacle_if_it_is_of_the_pair():
    pixels = pictures(
        [(2e4, 0, 0), (2e4, 16, 0)],
        [(2e4, 0, 0), (2e4, 31, 0)],
        [(2e4, 0, 0), (2e4, 16, 0), (1e4, 0, 31)],
    )

    assert extraction.obstacles(pixels)["cut_off"].tolist() == [False, True, False]


def test_light_at_a_margin_without_values_is_an_obstacle():
    pixels = pictures([(2e4, 0, 0), (2e4, 15, 0)], [(2e4, 0, 0), (2e4, 24, 0)])
    margin = np.full((2, SIDE + 20, SIDE + 20), np.nan, np.float32)
    margin[:, 10:-10, 10:-10] = pixels
    margin[:, :, -16:] = np.nan

    assert extraction.obstacles(margin)["cut_off"].tolist() == [False, True]


def test_a_plateau_well_above_the_noise_is_saturation():
    clean = picture((2e5, 0, 0))
    clipped = np.minimum(clean, 3000)
    flat_noise = np.minimum(picture(), 5)
    apart = picture()
    apart[::20, ::20] = 3000

    found = extraction.saturated(np.stack([clean, clipped, flat_noise, apart]))

    assert found.tolist() == [False, True, False, False]


def test_a_core_without_value_is_saturation_and_one_elsewhere_is_not():
    pixels = pictures([(2e4, 0, 0)], [(2e4, 0, 0)])
    pixels[0, 31, 33] = pixels[1, 31, 40] = np.nan

    assert extraction.saturated(pixels).tolist() == [True, False]


def test_light_in_too_many_pieces_for_sep_is_taken_as_one():
    limit = sep.get_sub_object_limit()
    sep.set_sub_object_limit(1)
    try:
        measured = extraction.photometry(pictures([(2e4, 0, 0), (2e4, 6, 0)]))
    finally:
        sep.set_sub_object_limit(limit)

    assert measured.detections.tolist() == [1]
