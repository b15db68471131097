import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from models import blender, pair_flux, pair_flux_commands, registry
from models.training import blend2flux
from models.training import pair_flux as training
from models.training.shreds import save_half

TINY = training.Preset(
    options={"widths": [4, 8], "size": 32},
    n_parents=20,
    rounds=6,
    round_size=64,
    repeats=2,
    anywhere=3,
    learning_rate=5e-3,
    flux_weight=(1.0, 1.0),
    n_checked=64,
)
PUBLISHED = blend2flux.Published(
    "blend2flux", {"width": 4, "size": 32}, n_pairs=64, n_checked=32, epochs=3, learning_rate=3e-3
)


@pytest.fixture(scope="module")
def parents():
    return blender.simulate_parents(20, 0, size=32)


@pytest.fixture(scope="module")
def held_out():
    return blender.simulate_parents(12, 9, size=32)


@pytest.fixture(scope="module")
def trained(parents, held_out, tmp_path_factory):
    """A tiny network, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    return training.train(parents, held_out, TINY, 1, checkpoints=folder), folder


def test_training_lowers_the_loss_and_notes_it(trained):
    _, folder = trained

    with (folder / "history.csv").open() as file:
        lines = list(csv.DictReader(file))

    assert [int(line["rounds"]) for line in lines] == [5, 6]
    assert float(lines[-1]["loss"]) < float(lines[0]["loss"])


def test_errors_hold_about_68_percent_of_fluxes_they_were_not_calibrated_on(trained):
    found, _ = trained

    assert found.metrics["held_out_coverage"] == pytest.approx(0.68, abs=0.2)


def test_intervals_of_gaussian_errors_are_those_of_a_gaussian():
    rng = np.random.default_rng(0)
    true = rng.uniform(100, 1000, (20_000, 2))
    error = 0.1 * true
    true[::50, 1] = np.nan  # single galaxies

    half, ratio = training.intervals(true + 2 * error * rng.normal(size=true.shape), error, true)

    assert half == pytest.approx(2 * 0.9945, rel=0.02)
    assert half * ratio == pytest.approx(2 * 1.96, rel=0.02)


def test_errors_are_not_calibrated_on_nothing():
    nothing = np.full((3, 2), np.nan)

    with pytest.raises(ValueError, match="without a single pair"):
        training.intervals(nothing, nothing, nothing)


def test_an_interrupted_training_goes_on_to_the_same_end(
    trained, parents, held_out, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "KEEP", 2)

    def stop(n):
        seen.append(n)
        if len(seen) == 4:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        training.train(parents, held_out, TINY, 1, checkpoints=tmp_path, progress=stop)
    resumed = training.train(parents, held_out, TINY, 1, checkpoints=tmp_path, progress=stop)

    whole, _ = trained
    assert len(seen) == 6
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_checkpoints_of_another_training_are_refused(trained, parents, held_out):
    _, folder = trained

    with pytest.raises(ValueError, match="belongs to another training"):
        training.train(parents, held_out, replace(TINY, rounds=7), 1, checkpoints=folder)


def test_a_batch_is_the_same_whenever_it_is_drawn(parents):
    pairs = blender.draw(parents, np.arange(20), 64, 0, TINY.recipe)
    noisy = np.zeros(64, bool)
    once = training.Cutouts(pairs, noisy, TINY, 0, 3)
    again = training.Cutouts(pairs, noisy, TINY, 0, 3)
    _ = again[0]

    assert np.array_equal(once[2][0], again[2][0])
    assert np.array_equal(once[2][1]["logits"], again[2][1]["logits"])


def test_the_light_that_is_learnt_is_the_light_of_the_cutout(parents):
    pairs = blender.draw(parents, np.arange(20), 32, 0, TINY.recipe)
    preset = replace(TINY, usual_noise=1.0, repeats=1)

    pixels, true, _ = training.Cutouts(pairs, np.zeros(32, bool), preset, 0, 0)[0]

    light = true["logits"].sum(axis=-1) * pairs.noise[0]
    seen = pixels[..., 0].reshape(32, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.std(seen - light) == pytest.approx(pairs.noise[0] / 2, rel=0.05)


def test_parents_with_noise_of_their_own_keep_it(parents):
    pairs = blender.draw(parents, np.arange(20), 32, 0, TINY.recipe)
    preset = replace(TINY, usual_noise=0.0, repeats=1)

    pixels, _, _ = training.Cutouts(pairs, np.ones(32, bool), preset, 0, 0)[0]

    assert np.sort(pixels.ravel()) == pytest.approx(np.sort(pairs.pixels.ravel()))


def test_right_shares_and_masks_cost_less_than_wrong_ones():
    light = np.zeros((1, 4, 4, 2), np.float32)
    light[0, :2, :, 0] = light[0, 2:, :, 1] = 500
    shares = np.log(np.concatenate([light, np.full((1, 4, 4, 1), training.REST)], axis=-1) + 1e-9)
    right = np.concatenate([shares, light - 250], axis=-1).astype("float32")
    swapped = right[..., [1, 0, 2, 4, 3]]

    costs = [
        float(np.asarray(training.share_loss(light, x))[0]) for x in (right, 0 * right, swapped)
    ]

    assert costs == sorted(costs)
    assert costs[0] < 0.01 < costs[1]


def test_a_flux_that_is_not_known_costs_nothing():
    log_true = np.array([[1.0, np.nan], [1.0, 2.0]], np.float32)
    found = np.array([[[1.2, -1], [7, 0]], [[1.2, -1], [2, -9]]], np.float32)

    cost = np.asarray(training.flux_loss(log_true, found))
    relative = np.asarray(training.mape(log_true, found))

    scale, wrong = training.SCALE_WEIGHT, 0.2
    expected = (wrong + scale * (-1 + wrong * np.e)) / 2
    assert cost[0] == pytest.approx(expected, rel=1e-4)
    assert relative == pytest.approx([np.expm1(0.2), np.expm1(0.2) / 2], rel=1e-4)


def test_shares_are_learnt_before_fluxes():
    weights = [training.flux_weight(done, training.Preset()) for done in (0, 0.5, 0.75, 1)]

    assert weights == pytest.approx([0.5, 0.5, 0.5 * 10**0.5, 5])


def test_published_schedules_are_those_of_the_paper():
    recipe = blend2flux.PRESETS["blend2flux-256"]

    assert (recipe.learning_rate, recipe.batch, recipe.epochs, recipe.patience) == (
        1e-4,
        32,
        200,
        12,
    )
    assert blend2flux.PRESETS["unet"].patience == 0
    assert blend2flux.PRESETS["blend2mask2flux"].weights == (0.1, 1.0)
    assert blend2flux.PRESETS["blend2mask2flux-code"].weights == (1.0, 0.1)


def test_a_published_network_learns_fluxes_and_is_not_trained_again(parents, held_out, tmp_path):
    found = blend2flux.train(parents, held_out, PUBLISHED, 0, checkpoints=tmp_path)
    steps = []

    again = blend2flux.train(
        parents, held_out, PUBLISHED, 0, checkpoints=tmp_path, progress=steps.append
    )

    with (tmp_path / "history-flux.csv").open() as file:
        losses = [float(line["loss"]) for line in csv.DictReader(file)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert steps == []
    assert again.metrics == found.metrics


def test_a_folder_of_another_published_training_is_refused(tmp_path):
    blend2flux._begun(tmp_path, PUBLISHED, 0)

    with pytest.raises(ValueError, match="belongs to another training"):
        blend2flux._begun(tmp_path, PUBLISHED, 1)


def test_a_published_network_learns_masks(parents, held_out):
    preset = replace(PUBLISHED, architecture="unet", options={"size": 16}, stages=("masks",))
    preset = replace(preset, n_pairs=8, n_checked=8, epochs=1, patience=0, flips=True)
    steps = []

    found = blend2flux.train(parents, held_out, preset, 0, progress=steps.append)

    assert steps == [1]
    assert set(found.metrics) == {"held_out_iou"}


def test_masks_stay_as_they_are_while_fluxes_are_learnt_from_them():
    model = pair_flux.build("blend2mask2flux", size=64)

    learner = blend2flux._learner(model, "flux", blend2flux.PRESETS["blend2mask2flux"])

    trained = {weight.path.split("/")[0] for weight in learner.trainable_variables}
    assert trained == {*(f"conv_{k}" for k in range(7)), "dense_0", "dense_1", "counts"}


def test_a_card_names_weights_that_load(trained, tmp_path):
    found, _ = trained
    weights = tmp_path / "pair-flux-shares.weights.h5"
    save_half(found.model, weights)

    card = training.card(found, TINY, 1, weights, "test", "simulated, seed 1")
    loaded = registry.load(card)

    pixels = np.random.default_rng(0).normal(0, 1, (3, 32, 32))
    expected = pair_flux.predict(found.model, pixels).flux
    assert pair_flux.predict(loaded, pixels).flux == pytest.approx(expected, rel=0.05)
    assert card.build["interval_95"] == loaded.interval_95


def test_the_command_writes_weights_and_a_card_of_ones_own_galaxies(
    parents, held_out, tmp_path, monkeypatch
):
    monkeypatch.setitem(training.PRESETS, "quick", replace(TINY, rounds=1))
    monkeypatch.setattr(pair_flux_commands, "_parents", lambda *_: (parents, held_out))

    arguments = ["--out", str(tmp_path / "out"), "--preset", "quick"]
    run = CliRunner().invoke(pair_flux_commands.train_pair_flux, arguments)

    assert run.exit_code == 0, run.output
    assert "held out flux mape" in run.output
    card = registry.cards("pair_flux", tmp_path / "out" / "card.toml")[0]
    assert registry.load(card).input_shape == (None, 32, 32, 1)


def test_fewer_epochs_are_for_published_networks_only(tmp_path):
    arguments = ["--out", str(tmp_path), "--preset", "quick", "--epochs", "3"]

    run = CliRunner().invoke(pair_flux_commands.train_pair_flux, arguments)

    assert run.exit_code == 1
    assert "--epochs is for the published networks, not for quick" in run.output


def test_half_precision_is_for_what_is_built_meanwhile():
    with training.convolutions_in(half=True):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"

    assert keras.config.dtype_policy().name == "float32"
