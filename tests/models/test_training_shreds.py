from dataclasses import replace

import keras
import numpy as np
import pytest

from models import scores, shreds
from models.labelled import Labelled
from models.training import recentre
from models.training import shreds as training


def _disc(x: float, y: float, radius: float, brightness: float) -> np.ndarray:
    """A picture (128, 128, 3) of an exponential disc at (x, y) on a grey sky."""
    rows, columns = np.mgrid[0:128, 0:128]
    light = 32 + brightness * np.exp(-np.hypot(columns - x, rows - y) / radius)
    return np.clip(light, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def _labelled(pictures: list[np.ndarray], labels: list[str]) -> Labelled:
    numbers = np.arange(len(labels))
    return Labelled(np.stack(pictures), np.array(labels), numbers, numbers, "0" * 64)


def _field(n: int, seed: int) -> Labelled:
    """Discs that are centred (galaxies) or not (shreds)."""
    rng = np.random.default_rng(seed)
    pictures, labels = [], []
    for k in range(n):
        away = 0 if k % 2 else rng.uniform(12, 30)
        turn = rng.uniform(0, 2 * np.pi)
        centre = 63.5 + away * np.array([np.cos(turn), np.sin(turn)])
        pictures.append(_disc(*centre, rng.uniform(5, 12), rng.uniform(90, 200)))
        labels.append("galaxy" if k % 2 else "shred")
    return _labelled(pictures, labels)


def test_a_galaxy_gives_shreds_on_its_disc_but_none_near_its_nucleus():
    data = _labelled([_disc(63.5, 63.5, 10, 150)], ["galaxy"])

    points = recentre.find_points(data, np.random.default_rng(0))

    assert len(points.x) >= 4
    assert points.is_shred.all()
    assert np.hypot(points.x - 64, points.y - 64).min() > 4


def test_a_shred_gives_the_nucleus_of_its_galaxy():
    data = _labelled([_disc(85, 70, 9, 150)], ["shred"])

    points = recentre.find_points(data, np.random.default_rng(0))

    nucleus = ~points.is_shred
    assert nucleus.sum() == 1
    assert points.x[nucleus] == pytest.approx(85, abs=1)
    assert points.y[nucleus] == pytest.approx(70, abs=1)


def test_an_undecided_source_gives_nothing_of_its_own_object():
    data = _labelled([_disc(63.5, 63.5, 10, 150)], ["unsure"])

    assert len(recentre.find_points(data, np.random.default_rng(0)).x) == 0


def test_a_varied_picture_is_centred_on_the_point_asked_for():
    picture = _disc(85, 70, 4, 200)

    for seed in range(5):
        seen = recentre.vary(picture, np.random.default_rng(seed), 85, 70)
        y, x = np.unravel_index(seen.sum(-1).argmax(), (128, 128))
        assert np.hypot(x - 63.5, y - 63.5) < 3


def test_what_lies_beyond_the_border_becomes_sky():
    seen = recentre.vary(_disc(2, 64, 4, 200), np.random.default_rng(0), 2, 64)

    assert np.median(seen) == pytest.approx(32, abs=4)


def test_rounds_are_balanced_and_repeat_with_the_seed():
    data = _field(8, seed=0)
    preset = training.Preset("polar", first_rounds=1, rounds=1, round_size=64)

    first = list(training.rounds(data, preset, seed=5))
    again = list(training.rounds(data, preset, seed=5))

    assert [pictures.shape for pictures, _ in first] == [(64, 128, 128, 3)] * 2
    assert abs((first[1][1] > 0.5).mean() - 0.5) < 0.2
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_labels_of_one_class_are_refused():
    with pytest.raises(ValueError, match="galaxies and shreds"):
        training.train(_labelled([_disc(64, 64, 5, 99)], ["galaxy"]), training.PRESETS["quick"], 0)


def test_the_published_recipe_uses_the_published_optimiser():
    recipe = training.PRESETS["published"]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    training._compile(model, recipe)

    settings = model.optimizer.get_config()
    assert isinstance(model.optimizer, keras.optimizers.RMSprop)
    assert settings["rho"] == pytest.approx(0.9)
    assert settings["epsilon"] == pytest.approx(1e-7)
    assert settings["learning_rate"] == pytest.approx(1e-4)
    assert (recipe.rounds, recipe.early_stopping) == (100, 5)


def test_training_stops_early_with_the_best_weights(monkeypatch):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    monkeypatch.setattr(training, "_cross_entropy", lambda *_: next(losses))
    kept = []
    preset = replace(training.PRESETS["published"], round_size=4, early_stopping=2)
    model = keras.Sequential(
        [
            keras.Input((128, 128, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )

    training._fit(
        model, _field(20, seed=1), preset, 0, lambda _: kept.append(model.get_weights()[0])
    )

    assert len(kept) == 4
    assert np.array_equal(model.get_weights()[0], kept[1])


def test_halved_weights_load_into_the_same_network(tmp_path):
    model = shreds.build("polar", members=1)
    path = tmp_path / "m.weights.h5"
    training.save_half(model, path)

    again = shreds.build("polar", members=1)
    again.load_weights(path)

    assert path.stat().st_size < 2.6 * model.count_params()
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        assert np.allclose(old, new, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_tiny_training_learns_simulated_galaxies_from_shreds():
    pytest.importorskip("galsim", reason="galsim has no wheel for this platform")
    from models.simulate import shred_cutouts

    sky = shred_cutouts(150, seed=1)
    label = np.where(sky.is_shred, "shred", "galaxy")
    number = np.arange(150)
    data = Labelled(sky.rgb, label, number, number, "0" * 64)
    preset = training.Preset("polar", first_rounds=0, rounds=5, round_size=640)

    model = training.train(data.take(number < 100), preset, seed=0)

    unseen = data.take(number >= 100)
    assert scores.auc(unseen.is_shred, shreds.predict(model, unseen.rgb)) > 0.75
