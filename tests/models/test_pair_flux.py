import keras
import numpy as np
import pytest

from models import blender, pair_flux, registry

SMALL = {"widths": [4, 8], "size": 32}


@pytest.fixture(scope="module")
def small():
    """A network of its kind for 32 pixels, with weights that make every output depend on all."""
    keras.utils.set_random_seed(3)
    model = pair_flux.build("shares", **SMALL)
    rng = np.random.default_rng(0)
    correction = model.get_layer("network").get_layer("correction")
    correction.set_weights([rng.normal(0, 0.05, w.shape) for w in correction.get_weights()])
    return model


@pytest.fixture(scope="module")
def cutouts():
    """Two round galaxies on noise of 1 nJy, in 6 cutouts of 32 pixels."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32] - 15.5
    central = 40 * np.exp(-(x**2 + y**2) / 18)
    companion = 25 * np.exp(-((x - 8) ** 2 + (y + 3) ** 2) / 12)
    return (rng.normal(0, 1, (6, 32, 32)) + central + companion).astype(np.float32)


@pytest.fixture(scope="module")
def shipped():
    return registry.load(registry.find("pair_flux"))


@pytest.fixture(scope="module")
def pairs():
    """64 pairs as drawn by default, of parents that no training saw."""
    parents = blender.simulate_parents(60, 100)
    return blender.draw(parents, np.arange(60), 64, 100, blender.PAIRS)


@pytest.mark.parametrize(
    ("architecture", "options", "n_parameters"),
    [
        ("blend2flux", {"width": 64}, 1_607_106),
        ("unet", {}, 8_629_954),
        ("unet", {"masks": 3}, 8_629_987),
        ("blend2mask2flux", {}, 18_467_140),
        ("blend2mask2flux", {"masks": 3}, 18_468_325),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(
    architecture, options, n_parameters
):
    assert pair_flux.build(architecture, **options).count_params() == n_parameters


@pytest.mark.parametrize(("width", "n_parameters"), [(256, 25_696_002), (512, 102_772_226)])
def test_wide_published_networks_have_their_number_of_parameters(width, n_parameters):
    model = pair_flux.build("blend2flux", width=width, size=16)
    left_out = (8 * 8 - 1) * 4 * width  # numbers before the dense layers, of 128 pixels and of 16

    assert model.count_params() + left_out * width == n_parameters


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="shares, blend2flux, unet, blend2mask2flux"):
        pair_flux.build("scarlet")


def test_published_networks_see_counts_and_answer_in_nanojansky():
    model = pair_flux.build("blend2flux", width=2, size=16)
    network = keras.Model(model.layers[1].output, model.get_layer("counts").output)
    pixels = np.random.default_rng(0).normal(0, 50, (3, 16, 16)).astype(np.float32)

    found = pair_flux.predict(model, pixels)

    counts = network.predict_on_batch(pixels[..., None] * 10 ** (-0.4 * (31.4 - 25.96)))
    expected = np.asarray(counts) * 10 ** (0.4 * (31.4 - 25.96))
    assert found.flux == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert np.isnan(found.error).all()
    assert found.masks is None


def test_a_network_of_masks_alone_gives_no_flux():
    model = pair_flux.build("unet", masks=3, size=16)

    found = pair_flux.predict(model, np.ones((2, 16, 16)))

    assert found.masks.shape == (2, 16, 16, 2)
    assert np.isnan(found.flux).all()


def test_the_network_knows_no_unit(small, cutouts):
    one, ten = pair_flux.predict(small, cutouts), pair_flux.predict(small, 10 * cutouts)

    assert ten.flux == pytest.approx(10 * one.flux, rel=1e-4)
    assert ten.error == pytest.approx(10 * one.error, rel=1e-4)
    assert (ten.masks == one.masks).mean() > 0.999


def test_fluxes_and_errors_are_positive_and_masks_as_large_as_the_cutout(small, cutouts):
    found = pair_flux.predict(small, cutouts)

    assert (found.flux > 0).all()
    assert (found.error > 0).all()
    assert found.masks.shape == (6, 32, 32, 2)


def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(small, cutouts):
    together = pair_flux.predict(small, cutouts)
    apart = pair_flux.predict(small, cutouts, batch_size=2)

    assert apart.flux == pytest.approx(together.flux, rel=1e-4)
    assert apart.separation == pytest.approx(together.separation, rel=1e-3, nan_ok=True)


def test_averaging_over_views_makes_the_answer_the_same_from_every_side(small, cutouts):
    model = pair_flux.build("shares", **SMALL, views=4)  # mirrored up-down and left-right
    model.set_weights(small.get_weights())

    upright = pair_flux.predict(model, cutouts)
    upside_down = pair_flux.predict(model, cutouts[:, ::-1])

    assert (upside_down.masks[:, ::-1] == upright.masks).mean() > 0.99
    assert upside_down.flux == pytest.approx(upright.flux, rel=0.05)  # its noise is measured anew


@pytest.mark.parametrize("view", range(pair_flux.VIEWS))
def test_a_turned_picture_is_turned_back(view):
    picture = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)

    turned = pair_flux.Turned(view)(picture)

    assert np.asarray(pair_flux.Turned(view, back=True)(turned)) == pytest.approx(picture)


def test_the_noise_of_a_cutout_is_measured_in_what_is_not_filled_in(cutouts):
    rng = np.random.default_rng(0)
    half_empty = rng.normal(0, 3, (20, 32, 32, 1)).astype(np.float32)
    half_empty[:, :, :15] = 0

    _, noise = pair_flux.Signal()(half_empty)

    assert np.mean(noise) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("pixel", [0.0, 7.0, np.nan])
def test_a_constant_cutout_gives_finite_numbers(small, pixel):
    found = pair_flux.predict(small, np.full((1, 32, 32), pixel, np.float32))

    assert np.isfinite(found.flux).all()
    assert np.isfinite(found.error).all()


def test_an_absurd_pixel_gives_finite_numbers(small, cutouts):
    absurd = cutouts[:2].copy()
    absurd[0, 3, 3], absurd[1] = 1e37, 1e-30
    absurd[1, 5, 5] = 1e5

    found = pair_flux.predict(small, absurd)

    assert np.isfinite(found.flux).all()
    assert np.isfinite(found.error).all()


def test_pixels_without_value_count_as_empty_sky(small, cutouts):
    with_gap = cutouts.copy()
    with_gap[:, :4] = np.nan
    filled = np.where(np.isnan(with_gap), 0, with_gap)

    found = pair_flux.predict(small, with_gap)

    assert found.flux == pytest.approx(pair_flux.predict(small, filled).flux)


def test_no_cutouts_give_no_fluxes(small, cutouts):
    found = pair_flux.predict(small, cutouts[:0])

    assert found.flux.shape == (0, 2)
    assert found.masks.shape == (0, 32, 32, 2)


def test_cutouts_of_another_shape_are_refused(small):
    with pytest.raises(ValueError, match=r"\(n, 32, 32\), not \(2, 16, 16\)"):
        pair_flux.predict(small, np.zeros((2, 16, 16)))


def test_separation_is_that_of_the_centroids_of_light():
    light = np.zeros((2, 8, 8, 2), np.float32)
    light[0, 2, 1, 0], light[0, 5, 5, 1] = 3, 1
    light[1, 2, 1, 0] = 3

    separation = pair_flux._separation(light)

    assert separation == pytest.approx([5, np.nan], nan_ok=True)


def test_shipped_weights_measure_pairs_far_better_than_halving_their_light(shipped, pairs):
    found = pair_flux.predict(shipped, pairs.pixels)

    wrong = np.abs(found.flux / pairs.flux - 1)
    halves = np.abs(pairs.pixels.sum(axis=(1, 2))[:, None] / 2 / pairs.flux - 1)
    assert np.median(wrong) < 0.1
    assert wrong.mean() < halves.mean() / 4


def test_shipped_errors_hold_about_as_many_fluxes_as_they_say(shipped, pairs):
    found = pair_flux.predict(shipped, pairs.pixels)

    off = np.abs(found.flux - pairs.flux) / found.error
    assert 0.5 < (off < 1).mean() < 0.85
    assert (off < shipped.interval_95).mean() > 0.85


def test_shipped_weights_see_where_the_companion_is(shipped, pairs):
    found = pair_flux.predict(shipped, pairs.pixels)

    wide = pairs.separation > 12
    assert np.median(np.abs(found.separation - pairs.separation)[wide]) < 1.5
