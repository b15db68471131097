import keras
import numpy as np
import pytest

from models.features import N_FEATURES, features
from models.training.trees import grow, layer_weights
from models.trees import Trees


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(400, 6)).astype(np.float32)
    return numbers, numbers[:, 0] * numbers[:, 1] + rng.normal(0, 0.3, 400) > 0.2


def test_the_layer_says_what_the_fitted_trees_say(sample):
    numbers, is_shred = sample
    grown = grow(numbers, is_shred, count=40, seed=1)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Trees(40, name="trees")(inputs))
    model.get_layer("trees").set_weights(layer_weights(grown))

    log_odds = model.predict(numbers, verbose=0)[:, 0]

    assert np.allclose(log_odds, grown.decision_function(numbers), atol=1e-4)


def test_features_of_a_centred_and_of_an_off_centre_galaxy_differ_in_the_offset():
    y, x = np.mgrid[0:128, 0:128]
    centred, shifted = (
        np.clip(32 + 150 * np.exp(-np.hypot(x - at, y - 63.5) / 6), 0, 255).astype(np.uint8)
        for at in (63.5, 78.5)
    )
    rgb = np.stack([centred, shifted])[..., None].repeat(3, -1)

    numbers = features(rgb)

    assert numbers.shape == (2, N_FEATURES)
    assert numbers[0, -1] < 1.5
    assert numbers[1, -1] == pytest.approx(15, abs=1.5)


def test_features_of_an_empty_sky_are_finite():
    blank = np.full((1, 128, 128, 3), 32, np.uint8)

    numbers = features(blank)

    assert np.isfinite(numbers).all()
    assert numbers[0, -4:].tolist() == [0, 0, 0, 0]
