from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from models import desom, registry
from models.training import desom as training
from models.training.shreds import save_half

TINY = training.Preset(
    "desom1", {"filters": [4, 4, 4], "latent": 4, "grid": [3, 3]}, iterations=400, batch=16
)


@pytest.fixture(scope="module")
def cutouts():
    """Round stars and trails, uint16 [adu]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-16:16, -16:16]
    wide = np.where(np.arange(200) % 2, 40.0, 3.0)[:, None, None]
    light = 3000 * np.exp(-(x**2) / wide - y**2 / 3)
    return (rng.normal(1200, 10, (200, 32, 32)) + light).astype(np.uint16)[..., None]


@pytest.fixture(scope="module")
def trained(cutouts):
    return training.train(cutouts, TINY, seed=1)


def test_the_neighbourhood_cools_as_published():
    recipe = training.PRESETS["source_map"]["published"]

    reach = [training.temperature(it, recipe) for it in (0, 25_000, 50_000, 75_000, 100_000)]

    assert reach == pytest.approx([10, 4.729, 2.236, 1.057, 0.5], abs=5e-4)


def test_the_published_recipe_holds_what_the_paper_says():
    recipe = training.PRESETS["source_map"]["published"]

    assert (recipe.gamma, recipe.hottest, recipe.coldest) == (0.0075, 10, 0.5)
    assert recipe.iterations == 100_000
    assert training.PRESETS["exposure_map"]["published"].options == {"form": "counts"}


def test_the_maps_part_of_the_loss_is_the_published_sum():
    model = desom.build("desom1", **TINY.options)
    z = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    pull = training.Pull(model.cells, TINY)

    pull(z)

    flat = desom.prototypes(model).reshape(9, 4)
    squared = ((z[:, None] - flat) ** 2).sum(-1)
    weight = np.exp(-(desom.grid_distance(3, 3)[squared.argmin(1)] ** 2) / TINY.hottest**2)
    expected = TINY.gamma * (weight * squared).sum(1).mean()
    assert float(ops.convert_to_numpy(pull.losses[0])) == pytest.approx(expected, rel=1e-5)


def test_prototypes_begin_as_the_codes_of_different_samples(cutouts):
    model = desom.build("desom1", **TINY.options)
    scaled = training._scaled(model, cutouts)

    training.start_from_samples(model, scaled, seed=0)

    codes = np.asarray(model.encoder(scaled.astype(np.float32)))
    flat = desom.prototypes(model).reshape(9, 4)
    distance = np.linalg.norm(flat[:, None] - codes, axis=-1)
    assert distance.min(axis=1) == pytest.approx(0, abs=1e-4)
    assert len(set(distance.argmin(axis=1))) == 9


def test_a_map_tells_trails_from_round_stars_without_labels(trained, cutouts):
    placed = desom.place(trained.model, cutouts)

    cell = placed.cell_row * 3 + placed.cell_column
    trails, stars = (np.bincount(cell[start::2], minlength=9) for start in (1, 0))
    assert np.minimum(trails, stars).sum() <= 2
    assert (trained.n_trained, trained.n_held_out) == (180, 20)


def test_few_of_what_a_map_learnt_from_are_novel(trained, cutouts):
    noise = np.random.default_rng(3).integers(0, 65535, (5, 32, 32, 1)).astype(np.uint16)

    assert desom.place(trained.model, cutouts).novel.mean() < 0.15
    assert desom.place(trained.model, noise).novel.all()


def test_the_same_seed_gives_the_same_map(trained, cutouts):
    again = training.train(cutouts, TINY, seed=1)

    assert np.allclose(desom.prototypes(again.model), desom.prototypes(trained.model), atol=1e-3)


def test_an_interrupted_training_is_continued(trained, cutouts, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "KEEP", 1)
        with pytest.raises(KeyboardInterrupt):
            training.train(cutouts, TINY, 1, checkpoints=tmp_path, progress=stop)
        resumed = training.train(cutouts, TINY, 1, checkpoints=tmp_path, progress=calls.append)

    assert len(calls) == TINY.rounds - 1
    assert np.allclose(desom.prototypes(resumed.model), desom.prototypes(trained.model), atol=1e-2)


@pytest.mark.parametrize("crash", ["save_weights", "write_text"])
def test_a_training_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    trained, cutouts, tmp_path, monkeypatch, crash
):
    place = keras.Model if crash == "save_weights" else Path
    write, n_written, calls = getattr(place, crash), [], []

    def die_halfway(self, *arguments):
        n_written.append(1)
        if len(n_written) < 3:
            return write(self, *arguments)
        path = arguments[0] if crash == "save_weights" else self
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "KEEP", 1)
    with monkeypatch.context() as patch:
        patch.setattr(place, crash, die_halfway)
        with pytest.raises(KeyboardInterrupt):
            training.train(cutouts, TINY, 1, checkpoints=tmp_path)
    resumed = training.train(cutouts, TINY, 1, checkpoints=tmp_path, progress=calls.append)

    assert len(calls) == TINY.rounds - 2
    assert np.allclose(desom.prototypes(resumed.model), desom.prototypes(trained.model), atol=1e-2)


def test_the_checkpoint_of_another_training_is_refused(cutouts, tmp_path):
    short = replace(TINY, iterations=2)
    training.train(cutouts, short, 1, checkpoints=tmp_path)

    with pytest.raises(ValueError, match="belongs to another training \\(other seed\\)"):
        training.train(cutouts, short, 2, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="belongs to another training \\(other inputs\\)"):
        training.train(cutouts[:-1], short, 1, checkpoints=tmp_path)


def test_a_damaged_checkpoint_says_what_to_do(cutouts, tmp_path):
    short = replace(TINY, iterations=2)
    training.train(cutouts, short, 1, checkpoints=tmp_path)
    (weights,) = tmp_path.glob("*.weights.h5")
    weights.write_bytes(b"half")

    with pytest.raises(ValueError, match="to begin anew"):
        training.train(cutouts, short, 1, checkpoints=tmp_path)


def test_too_few_inputs_are_refused(cutouts):
    with pytest.raises(ValueError, match="10 inputs"):
        training.train(cutouts[:4], TINY, 0)


def test_counts_are_scaled_by_those_learnt_from():
    counts = np.random.default_rng(0).poisson(3, (60, 625)).astype(np.float32)
    recipe = training.Preset("desom2", {"widths": [8], "grid": [2, 2]}, iterations=4, batch=8)

    model = training.train(counts, recipe, 0).model

    scaled = ops.convert_to_numpy(model.scale(counts))
    assert np.abs(scaled.mean(axis=0)).max() < 0.1
    assert 0.02 < scaled[:, :-1].std() < 0.2


def test_prototypes_are_drawn_each_at_its_place(trained, tmp_path):
    training.picture(trained.model, tmp_path / "map.png")

    drawn = np.asarray(Image.open(tmp_path / "map.png"))
    shown = desom.decoded(trained.model)[1, 2].reshape(32, 32)
    assert drawn.shape == (3 * 34, 3 * 34)
    tile = drawn[34 + 1 : 68 - 1, 68 + 1 : 102 - 1]
    assert np.abs(tile[::-1] / 255 - shown).max() < 0.01


def test_a_saved_map_is_loaded_by_its_card(trained, cutouts, tmp_path):
    weights = tmp_path / "desom1.weights.h5"
    save_half(trained.model, weights)
    card = training.card(trained, TINY, 1, weights, "mine", {"catalog": "stars"})

    model = registry.load(card)

    assert card.name == "desom1.mine"
    assert card.annotator == "source_map"
    there, here = desom.place(model, cutouts), desom.place(trained.model, cutouts)
    assert (there.cell_row == here.cell_row).mean() > 0.95
    assert np.allclose(there.latent, here.latent, atol=0.05, rtol=0.05)


def test_counts_too_large_for_half_precision_survive_saving(tmp_path):
    model = desom.build("desom2", widths=[4], grid=[2, 2], form="counts")
    counts = np.zeros((2, 625), np.float32)
    counts[1] = 1e6
    model.scale.fit(counts)

    save_half(model, tmp_path / "m.weights.h5")

    again = desom.build("desom2", widths=[4], grid=[2, 2], form="counts")
    again.load_weights(tmp_path / "m.weights.h5")
    assert ops.convert_to_numpy(again.scale.span) == pytest.approx(1e6)


def test_training_lowers_what_it_minimises(cutouts):
    keras.utils.set_random_seed(0)
    model = desom.build("desom1", **TINY.options)
    scaled = training._scaled(model, cutouts).astype(np.float32)
    network = training.trainer(model, TINY)

    before = network.evaluate(scaled, scaled, verbose=0)
    training._fit(model, scaled, TINY, 0, None, None)

    assert network.evaluate(scaled, scaled, verbose=0) < before
