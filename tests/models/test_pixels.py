import numpy as np
import pytest

from models.pixels import SKY_LEVEL, fit, missing_border, to_rgb


def test_empty_sky_has_the_grey_of_the_survey_viewer():
    sky = np.zeros((1, 4, 4, 3))

    rgb = to_rgb(sky, ("g", "r", "z"), "nanomaggy")

    assert rgb.dtype == np.uint8
    assert np.all(rgb == SKY_LEVEL)


def test_a_red_source_is_brightest_in_the_red_plane():
    flux = np.zeros((1, 3, 3, 3))
    flux[0, 1, 1] = (0.01, 0.1, 1.0)  # g, r, z

    rgb = to_rgb(flux, ("g", "r", "z"), "nanomaggy")

    red, green, blue = rgb[0, 1, 1]
    assert red > green > blue


def test_the_stretch_follows_the_formula_of_the_viewer():
    flux = np.full((1, 1, 1, 3), 0.02)

    rgb = to_rgb(flux, ("z", "r", "g"), "nanomaggy")

    z, r, g = 0.02 * 2.2 + 0.03, 0.02 * 3.4 + 0.03, 0.02 * 6.0 + 0.03
    mean = (z + r + g) / 3
    expected = np.array([z, r, g]) * np.arcsinh(20 * mean) / np.sqrt(20) / mean * 255
    assert np.abs(rgb[0, 0, 0] - expected).max() <= 1


def test_pixels_without_a_value_are_shown_as_sky():
    flux = np.full((1, 2, 2, 3), np.nan)

    assert np.all(to_rgb(flux, ("g", "r", "z"), "nanomaggy") == SKY_LEVEL)


def test_display_pixels_stay_as_they_are_whatever_their_planes_are_called():
    picture = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)

    assert np.array_equal(to_rgb(picture, ("red", "green", "blue"), "display"), picture)


def test_display_planes_called_g_r_z_are_put_in_z_r_g_order():
    picture = np.arange(3, dtype=np.uint8).reshape(1, 1, 1, 3)

    assert to_rgb(picture, ("g", "r", "z"), "display").ravel().tolist() == [2, 1, 0]


def test_a_missing_band_is_named():
    with pytest.raises(ValueError, match="z is not among g, r"):
        to_rgb(np.zeros((1, 2, 2, 2)), ("g", "r"), "nanomaggy")


def test_float_display_pixels_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        to_rgb(np.zeros((1, 2, 2, 3)), ("r", "g", "b"), "display")


def test_equal_scales_are_cropped_exactly_about_the_centre():
    pixels = np.arange(36.0).reshape(1, 6, 6, 1)

    assert np.array_equal(fit(pixels, 0.262, 2, 0.262), pixels[:, 2:4, 2:4])


def test_what_lies_beyond_the_border_is_filled_and_reported():
    pixels = np.ones((1, 4, 4, 1), np.uint8)

    padded = fit(pixels, 0.262, 8, 0.262, fill=SKY_LEVEL)

    assert padded[0, :2].max() == SKY_LEVEL
    assert padded[0, 2:6, 2:6].max() == 1
    assert missing_border((4, 4), 0.262, 8, 0.262) == pytest.approx(0.75)
    assert missing_border((9, 9), 0.262, 8, 0.262) == 0


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.7, 2.0])
def test_resampling_keeps_a_flat_field_and_the_position_of_the_centre(ratio):
    y, x = np.mgrid[-20:21, -20:21]
    blob = np.exp(-(x**2 + y**2) / 50.0)
    pixels = np.stack([np.ones_like(blob), blob], -1)[None]

    result = fit(pixels, 1.0, 15, ratio)

    assert np.allclose(result[0, ..., 0], 1)
    assert np.unravel_index(result[0, ..., 1].argmax(), (15, 15)) == (7, 7)


def test_flux_per_pixel_is_conserved_when_pixels_grow():
    y, x = np.mgrid[-20:21, -20:21]
    pixels = np.exp(-(x**2 + y**2) / 50.0)[None, ..., None]

    coarse = fit(pixels, 1.0, 21, 2.0, per_pixel=True)

    assert coarse.sum() == pytest.approx(pixels.sum(), rel=0.01)
