import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from models import questions, representations, retrieval
from models.training import representations as training
from tests.models.encoders import TINY, labelled_discs, random_sky, tiny

N_ANSWERS = len(questions.columns())


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(representations.ARCHITECTURES, "tiny", tiny)
    monkeypatch.setattr(training, "ROUND", 2)


def _votes(rng, n=6):
    return rng.integers(0, 9, (n, N_ANSWERS))


def _coefficient(votes):
    """Log of the multinomial coefficients, which the loss leaves out, per picture."""
    total = np.zeros(len(votes))
    for part in questions.slices().values():
        given = votes[:, part]
        total += stats.multinomial(given.sum(1), np.full(given.shape, 1 / given.shape[1])).logpmf(
            given
        ) + given.sum(1) * np.log(given.shape[1])
    return total


def test_the_loss_is_the_dirichlet_multinomial_likelihood():
    rng = np.random.default_rng(0)
    votes, concentrations = _votes(rng), rng.uniform(1, 101, (6, N_ANSWERS))
    expected = np.zeros(6)
    for part in questions.slices().values():
        for row in range(6):
            given = votes[row, part]
            expected[row] -= stats.dirichlet_multinomial.logpmf(
                given, concentrations[row, part], given.sum()
            )

    loss = training.DirichletMultinomial(most=60)
    found = np.asarray(loss.call(votes, concentrations.astype(np.float32)))

    assert found - _coefficient(votes) == pytest.approx(expected, rel=1e-3)
    theirs = questions.negative_log_likelihood(votes, concentrations).sum(axis=1)
    assert theirs == pytest.approx(expected, rel=1e-6)


def test_a_question_nobody_was_asked_contributes_nothing():
    rng = np.random.default_rng(1)
    votes, concentrations = _votes(rng, 1), rng.uniform(1, 101, (1, N_ANSWERS)).astype(np.float32)
    part = questions.slices()["bar"]
    votes[:, part] = 0
    other = concentrations.copy()
    other[:, part] = rng.uniform(1, 101, 3)

    loss = training.DirichletMultinomial()

    assert float(loss(votes, concentrations)) == pytest.approx(float(loss(votes, other)))


def test_batches_repeat_with_the_seed_and_hold_the_shares_asked_for():
    data, sky = labelled_discs(12), random_sky(20)
    makers = [(0.25, training.from_sky(sky, 0.2)), (0.75, training.from_labels(data, 0.2))]
    scale = training.Scale.of(data.rgb)

    def batch(number):
        return training.Pictures(makers, seed=3, number=number, scale=scale)[2]

    rgb, answers, known = batch(1)
    assert rgb.shape == (training.BATCH, 128, 128, 3)
    assert known["votes"].sum() == training.BATCH / 4
    assert known["tags"].sum() == training.BATCH * 3 / 4
    assert np.array_equal(rgb, batch(1)[0])
    assert not np.array_equal(rgb, batch(2)[0])
    assert answers["numbers"].shape == (training.BATCH, 31)


def test_undecided_labels_are_not_learnt_but_their_tags_are():
    data = labelled_discs(6)
    data.label[:] = "unsure"

    part = training.from_labels(data, 0.2)(10, np.random.default_rng(0))

    assert not part.known["shred"].any()
    assert part.known["tags"].all()


def test_a_tag_of_one_pass_only_is_half_a_tag():
    data = labelled_discs(2)
    data.tags[:] = ["smooth", ""]
    data.tags_any[:] = ["smooth", "smooth|ring"]

    part = training.from_labels(data, 0.2)(40, np.random.default_rng(0))

    smooth = part.answers["tags"][:, training.TAGS.index("smooth")]
    assert set(smooth) == {0.5, 1.0}


def test_an_interrupted_training_continues_where_it_was(tiny_network, tmp_path):
    sky = random_sky(20)
    whole = training.pretrain(sky, TINY, seed=4)

    class StoppedError(Exception):
        pass

    def stop(_):
        raise StoppedError

    with pytest.raises(StoppedError):
        training.pretrain(sky, TINY, seed=4, checkpoints=tmp_path, progress=stop)
    continued = training.pretrain(sky, TINY, seed=4, checkpoints=tmp_path)

    for one, other in zip(whole.get_weights()[:-2], continued.get_weights()[:-2], strict=True):
        assert np.allclose(one, other, atol=0.01)  # dropout draws anew
    assert json.loads((tmp_path / "simulated.json").read_text())["rounds_done"] == 2


def test_the_checkpoint_of_another_training_is_refused(tiny_network, tmp_path):
    sky = random_sky(20)
    training.pretrain(sky, TINY, seed=4, checkpoints=tmp_path)

    with pytest.raises(ValueError, match="belongs to another training"):
        training.pretrain(sky, replace(TINY, rounds_simulated=9), seed=4, checkpoints=tmp_path)


def test_training_keeps_the_weights_of_the_simulated_sky_alone(tiny_network, tmp_path):
    data = labelled_discs(12)

    model = training.train(data, TINY, seed=0, checkpoints=tmp_path)

    only = training.started(TINY, tmp_path / training.SIMULATED_ONLY)
    before, after = (representations.encode(m, data.rgb)[0] for m in (only, model))
    assert not np.allclose(before, after)
    assert (tmp_path / "simulated-only.seen.txt").read_text() == ""


def test_a_trained_encoder_has_its_principal_components(tiny_network):
    data = labelled_discs(12)

    model = training.fine_tune(tiny(), data, random_sky(20), TINY, seed=0)
    _, reduced = representations.encode(model, data.rgb)

    spread = reduced.std(axis=0)
    assert spread[0] == spread.max() > 0


def test_missing_weights_to_start_from_are_named(tiny_network, tmp_path):
    with pytest.raises(FileNotFoundError, match="start from"):
        training.started(TINY, tmp_path / "none.weights.h5")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_training_learns_and_finds_simulated_edge_on_galaxies(tmp_path):
    sky = training.simulated_sky(500, seed=5)
    preset = replace(training.PRESETS["shipped"], rounds_simulated=6)

    known = training.Sky(sky.rgb[:300], sky.votes[:300])
    model = training.pretrain(known, preset, seed=0, checkpoints=tmp_path)

    losses = [
        each["loss"] for each in json.loads((tmp_path / "simulated.json").read_text())["losses"]
    ]
    assert losses[-1] < 0.8 * losses[0]
    unseen, votes = sky.rgb[300:], sky.votes[300:]
    shares = questions.fractions(votes)[:, questions.slices()["disk-edge-on"]][:, 0]
    degree = np.where(shares > 0.7, 1.0, np.where(shares > 0.3, 0.5, 0.0))
    order = retrieval.ranked(representations.encode(model, unseen)[1], np.arange(len(unseen)))
    found = np.nanmean(retrieval.precision(order, degree, 5))
    assert found > 1.5 * (degree == 1).mean()
