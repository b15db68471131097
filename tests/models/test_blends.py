from dataclasses import replace

import keras
import numpy as np
import pytest

from models import blends, registry
from models.scores_of_pairs import blend_scores


@pytest.fixture(scope="module")
def shipped():
    return registry.load(registry.find("blends"))


@pytest.fixture(scope="module")
def cutouts():
    """Six cutouts of noise with one or two blobs of light in each."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    pixels = rng.normal(0, 2, (6, 64, 64))
    for k in range(6):
        for x, y in ((31.5, 31.5), (40.0, 28.0))[: 1 + k % 2]:
            pixels[k] += 100 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    return pixels.astype(np.float32)


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(("hidden", "trained"), [(512, 656_641), (1024, 788_737)])
def test_the_published_network_has_the_published_number_of_parameters(hidden, trained):
    model = blends.build("vgg16", hidden=hidden)

    assert _trainable(model) == trained
    assert model.count_params() == trained + 14_714_688
    assert model.get_layer("features").output.shape == (None, 2048)


def test_the_encoder_is_frozen_under_the_published_head():
    model = blends.build("encoder")

    assert _trainable(model) == 1281 * 256 + 257 * 512 + 513
    assert not model.get_layer("body").trainable_weights


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("keras.src.applications.vgg16.file_utils.get_file", refuse)

    with pytest.raises(ValueError, match="preset encoder, which needs no download"):
        blends.build("vgg16", weights="imagenet")


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="residual, vgg16, encoder"):
        blends.build("resnet")


@pytest.mark.parametrize("architecture", ["residual", "vgg16"])
def test_probabilities_keep_the_order_and_length_of_the_cutouts(architecture, cutouts):
    model = blends.build(architecture)

    p = blends.predict(model, cutouts[:5], batch_size=2)

    assert p.shape == (5,)
    assert p.dtype == np.float32
    assert np.all((p >= 0) & (p <= 1))
    assert p[3] == pytest.approx(blends.predict(model, cutouts[3:4])[0], abs=1e-5)


def test_no_cutouts_give_no_probabilities(shipped):
    assert blends.predict(shipped, np.empty((0, 64, 64), np.float32)).shape == (0,)


def test_cutouts_of_another_size_are_refused(shipped):
    with pytest.raises(ValueError, match=r"shape \(n, 64, 64\), not \(1, 128, 128\)"):
        blends.predict(shipped, np.zeros((1, 128, 128), np.float32))


def test_neither_unit_nor_sky_level_changes_what_the_network_says(shipped, cutouts):
    p = blends.predict(shipped, cutouts)

    assert np.allclose(blends.predict(shipped, 1000 * cutouts), p, atol=1e-4)
    assert np.allclose(blends.predict(shipped, cutouts / 3631), p, atol=1e-4)
    assert np.allclose(blends.predict(shipped, cutouts + 50), p, atol=1e-3)


@pytest.mark.parametrize("rise", [2.0, -16.0])
def test_a_sloping_sky_changes_no_verdict(shipped, cutouts, rise):
    flat = blends.predict(shipped, cutouts)
    slope = rise * np.linspace(-0.5, 0.5, 64, dtype=np.float32)  # noise is 2 in the cutouts

    sloping = blends.predict(shipped, cutouts + slope + 0.5 * slope[:, None])

    np.testing.assert_array_equal(sloping >= 0.5, flat >= 0.5)
    np.testing.assert_allclose(sloping, flat, atol=0.1)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turning_or_mirroring_a_cutout_changes_nothing(shipped, cutouts, turns):
    turned = np.ascontiguousarray(np.rot90(cutouts, turns, axes=(1, 2))[:, :, ::-1])

    assert np.allclose(blends.predict(shipped, turned), blends.predict(shipped, cutouts), atol=1e-4)


def test_the_eight_views_are_all_the_ways_to_lay_a_square():
    square = np.arange(16, dtype=np.float32).reshape(1, 4, 4)

    views = np.asarray(blends.Views(8)(square))

    expected = [np.rot90(each, k) for each in (square[0], square[0].T) for k in range(4)]
    assert {view.tobytes() for view in views} == {
        np.ascontiguousarray(e).tobytes() for e in expected
    }


def test_pixels_without_value_and_constant_cutouts_give_a_probability(shipped, cutouts):
    odd = cutouts.copy()
    odd[0, :, :20] = np.nan
    odd[1] = np.nan
    odd[2] = 7
    odd[3, 10:, 10:] = np.inf

    p = blends.predict(shipped, odd)

    assert np.isfinite(p).all()


def test_a_missing_corner_says_little(shipped, cutouts):
    holed = cutouts.copy()
    holed[:, :10, :10] = np.nan

    p, q = (np.clip(blends.predict(shipped, x), 0.01, 0.99) for x in (cutouts, holed))

    assert np.abs(p - q).max() < 0.1


def test_the_noise_of_a_cutout_is_measured_beside_its_galaxies(cutouts):
    _, noise = blends.measured(cutouts)

    assert noise.ravel() == pytest.approx(2, rel=0.1)


def test_missing_pixels_make_the_noise_no_smaller(cutouts):
    holed = cutouts.copy()
    holed[:, :20], holed[:, :, 50:] = np.nan, np.nan

    _, noise = blends.measured(holed)

    assert noise.ravel() == pytest.approx(2, rel=0.2)


def test_a_picture_for_the_encoder_has_a_dark_sky_and_bright_galaxies(cutouts):
    picture = blends.grey_picture(cutouts)

    assert picture.shape == (6, 128, 128, 3)
    assert np.median(picture) == pytest.approx(32, abs=3)
    assert picture[:, 60:68, 60:68].min() > 100


def test_the_published_picture_folds_negative_pixels_and_ends_at_one():
    pixels = np.zeros((1, 64, 64), np.float32)
    pixels[0, 0, :3] = 10, -5, np.nan

    picture = blends.eight_bit(pixels)

    assert picture[0, 0, :3, 0] == pytest.approx([1, 127 / 255, 0])
    assert np.array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize("level", [5, 40])
def test_the_shipped_weights_find_close_pairs_far_better_than_sep(shipped, level):
    pytest.importorskip("galsim", reason="galsim has no wheel for this platform")
    from models import blender, extraction

    parents = blender.simulate_parents(100, 199, population=blender.BLENDS.population)
    noise = level * blender.PUBLISHED_SIGMA
    recipe = replace(blender.BLENDS, noise=(noise, noise), max_offset=7)
    drawn = blender.draw(parents, np.arange(100), 400, 199, recipe)

    p = blends.predict(shipped, drawn.pixels)
    by_network = blend_scores(drawn.is_blend, p >= 0.5, drawn.separation)
    by_sep = blend_scores(drawn.is_blend, extraction.verdict(drawn.pixels)[0], drawn.separation)

    assert by_network.accuracy_close > by_sep.accuracy_close + 0.15
