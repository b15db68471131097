from pathlib import Path

import keras
import numpy as np
import pytest

from models import labelled, registry, scores, shreds

LEGACY = Path(__file__).parents[3] / "shared/data/legacy_cutouts"


@pytest.fixture(scope="module")
def shipped():
    return registry.load(registry.find("shreds"))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 255, (5, 128, 128, 3), np.uint8)


def test_the_published_network_has_the_published_number_of_parameters():
    model = shreds.build("published")

    assert model.count_params() == 10_580_258
    assert model.output_shape == (None, 2)
    assert isinstance(model.get_layer("scale"), keras.layers.Rescaling)
    assert model.get_layer("flatten").output.shape == (None, 2048)


def test_the_network_that_ships_is_much_smaller_than_the_published_one(shipped):
    assert shipped.count_params() < 0.2 * 10_580_258


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="polar, published, plain"):
        shreds.build("resnet")


@pytest.mark.parametrize("architecture", ["polar", "published", "plain"])
def test_probabilities_keep_the_order_and_length_of_the_pictures(architecture, pictures):
    model = shreds.build(architecture)

    p_shred = shreds.predict(model, pictures, batch_size=2)

    assert p_shred.shape == (5,)
    assert p_shred.dtype == np.float32
    assert np.all((p_shred >= 0) & (p_shred <= 1))
    one = shreds.predict(model, pictures[3:4])
    assert p_shred[3] == pytest.approx(one[0], abs=1e-5)


def test_no_pictures_give_no_probabilities(shipped):
    assert shreds.predict(shipped, np.empty((0, 128, 128, 3), np.uint8)).shape == (0,)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 128, 128, 3), np.float32)]
)
def test_pictures_of_another_size_or_dtype_are_refused(shipped, wrong):
    with pytest.raises(ValueError, match="uint8 of shape"):
        shreds.predict(shipped, wrong)


def test_the_same_pictures_give_the_same_probabilities(shipped, pictures):
    assert np.array_equal(shreds.predict(shipped, pictures), shreds.predict(shipped, pictures))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_or_mirroring_a_picture_changes_nothing(shipped, pictures, turns):
    turned = np.ascontiguousarray(np.rot90(pictures, turns, axes=(1, 2))[:, :, ::-1])

    assert np.allclose(
        shreds.predict(shipped, turned), shreds.predict(shipped, pictures), atol=1e-4
    )


def test_the_polar_picture_reads_radius_and_angle():
    y, x = np.mgrid[-63.5:64, -63.5:64]
    radius = np.hypot(x, y)[None, ..., None].repeat(3, -1)

    rings = np.asarray(shreds.polar_picture(radius.astype(np.float32)))[0, ..., 0] * 255

    assert np.abs(rings - shreds.ring_radii(32)[:, None]).max() < 0.6


def test_the_last_polar_plane_is_the_brightness_above_the_centre():
    picture = np.full((1, 128, 128, 3), 51.0, np.float32)
    picture[:, :, 100:] = 255

    plane = np.asarray(shreds.polar_picture(picture))[0, ..., 3]

    assert plane[0, 0] == pytest.approx(0, abs=1e-6)
    assert plane[-1, 0] == pytest.approx(0.8, abs=1e-5)
    assert plane[-1, 32] == pytest.approx(0, abs=1e-6)


@pytest.mark.legacy
@pytest.mark.skipif(not LEGACY.is_dir(), reason=f"no labelled cutouts at {LEGACY}")
def test_the_shipped_weights_recognise_cutouts_they_were_trained_on(shipped):
    """Shows that weights, preprocessing and class order fit; says nothing about accuracy."""
    data = labelled.read_folder(LEGACY)
    data = data.take(np.flatnonzero(data.decided)[:80])

    p_shred = shreds.predict(shipped, data.rgb)

    assert scores.auc(data.is_shred, p_shred) > 0.95
