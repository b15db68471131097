import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from models import blender, blends, registry
from models.blend_commands import train_blends
from models.training import blends as training

TINY = training.Preset(
    "residual",
    options={"widths": [6, 8], "blocks": [1, 1], "views": 1, "dropout": 0},
    rounds=3,
    round_size=320,
    batch=8,
    learning_rate=5e-3,
    noise=(0.5, 1.0),
    n_checked=128,
    n_calibrated=200,
)


@pytest.fixture(scope="module")
def parents():
    """Round blobs of light of many widths, which need no GalSim."""
    rng = np.random.default_rng(0)
    n, axis = 40, np.arange(128) - 63.5
    radius = rng.uniform(2, 5, n)
    flux = rng.uniform(2000, 6000, n)
    squared = (axis[:, None] ** 2 + axis**2)[None] / radius[:, None, None] ** 2
    light = np.exp(-squared / 2)
    light *= (flux / light.sum(axis=(1, 2)))[:, None, None]
    return blender.Parents(
        light.astype(np.float32),
        flux,
        1.18 * radius,
        np.zeros(n, np.int8),
        np.full(n, 3.0),
        np.zeros(n),
        tuple(map(str, range(n))),
    )


@pytest.fixture(scope="module")
def whole(parents, tmp_path_factory):
    """A training from beginning to end, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return training.train(parents, TINY, seed=0, folder=folder), folder


def _sky(parents: blender.Parents, preset: training.Preset, seed: int = 0) -> training.Sky:
    return training.Sky(parents, preset, seed, *blender.split(len(parents.flux), seed))


def test_rounds_repeat_with_the_seed_and_are_half_blends(parents):
    sky = _sky(parents, TINY)

    pixels, truth = sky.round(1)
    again, _ = sky.round(1)

    assert pixels.shape == (320, 64, 64)
    assert np.array_equal(pixels, again)
    assert not np.array_equal(pixels, sky.round(2)[0])
    assert truth.mean() == pytest.approx(0.5, abs=0.12)


def test_galaxies_that_check_a_training_are_not_learnt_from(parents):
    sky = _sky(parents, TINY)

    assert not set(sky.learnt) & set(sky.held_out)
    assert len(sky.learnt) + len(sky.held_out) == 40


def test_cutouts_that_check_do_not_depend_on_how_many_are_drawn(parents, monkeypatch):
    sky = _sky(parents, TINY)
    few, _ = sky.checked(7)

    monkeypatch.setattr(training, "PART", 4)

    assert np.array_equal(sky.checked(9)[0][:7], few)


def test_a_short_training_lowers_the_loss(whole):
    trained, _ = whole

    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.metrics["accuracy"] > 0.6


def test_an_interrupted_training_ends_as_a_whole_one_does(whole, parents, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "KEEP", 1)
    done = []

    def stop(n: int) -> None:
        done.append(n)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(parents, TINY, seed=0, folder=tmp_path, progress=stop)
    resumed = training.train(parents, TINY, seed=0, folder=tmp_path, progress=done.append)

    assert done == [1, 1, 2, 1]
    assert [row["round"] for row in resumed.history] == [1, 2, 3]
    for old, new in zip(resumed.model.get_weights(), whole[0].model.get_weights(), strict=True):
        assert np.allclose(old, new, atol=1e-6)


def test_another_training_does_not_go_on_in_the_same_folder(whole, parents):
    _, folder = whole

    with pytest.raises(ValueError, match="other preset"):
        training.train(parents, replace(TINY, rounds=4), seed=0, folder=folder)


def test_the_published_head_learns_on_frozen_features(parents, monkeypatch):
    monkeypatch.setattr(training, "PART", 20)
    preset = replace(
        training.PRESETS["vgg16"],
        options={"weights": None},
        rounds=2,
        round_size=40,
        n_checked=20,
        n_calibrated=10,
    )
    steps = []

    trained = training.train(parents, preset, seed=0, progress=steps.append)

    assert sum(steps) == training.n_steps(preset) == 3
    assert trained.options == {}
    assert len(trained.history) == 2


def test_the_published_schedule_is_the_preset():
    preset = training.PRESETS["vgg16"]

    assert preset.options == {"weights": "imagenet"}
    assert (preset.rounds, preset.round_size, preset.batch) == (500, 36_000, 250)
    assert preset.learning_rate == pytest.approx(1e-3)


def test_the_command_writes_weights_that_its_card_loads(whole, parents, tmp_path, monkeypatch):
    monkeypatch.setitem(training.PRESETS, "quick", TINY)
    monkeypatch.setattr(training, "simulated", lambda *_: parents)
    shutil.copytree(whole[1], tmp_path / "checkpoints")

    result = CliRunner().invoke(train_blends, ["--out", str(tmp_path), "--preset", "quick"])

    assert result.exit_code == 0, result.output
    card = registry.cards("blends", tmp_path / "card.toml")[0]
    assert card.training["parents"] == "simulated galaxies, seed 0"
    assert card.build["temperature"] == pytest.approx(whole[0].options["temperature"], abs=1e-3)
    p, q = (
        blends.predict(m, parents.light[:3, 32:96, 32:96])
        for m in (whole[0].model, registry.load(card))
    )
    assert np.allclose(p, q, atol=0.02)
    with (tmp_path / "history.csv").open() as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert (tmp_path / "blends-residual.weights.h5").stat().st_size < 200_000


def test_seeds_of_test_galaxies_are_not_trained_on(tmp_path):
    result = CliRunner().invoke(train_blends, ["--out", str(tmp_path), "--seed", "100"])

    assert result.exit_code == 2
    assert "0<=x<=9" in result.output
