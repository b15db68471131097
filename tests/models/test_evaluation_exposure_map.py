"""The protocol of labelled cells: numbers that a reader can work out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from models.agreement import MISSING
from models.evaluation import exposure_map as protocols
from models.evaluation import unnamed_faults
from models.evaluation.exposure_map import Mapped, Protocol

BAD, GOOD = 0, 1
ONE_NEAREST = Protocol(per_cell=1, look="nearest", n_repeats=1)


def mapped(cell, truth, classes=("BT", "Good")):
    """Exposures on a map, the first of each cell the nearest to its prototype."""
    return Mapped(np.array(cell), np.array(truth), classes, np.arange(len(cell), dtype=float))


@pytest.fixture
def small():
    """Two cells and an exposure without one; the first of each cell is looked at."""
    return mapped([0, 0, 0, 0, 1, 1, 1, MISSING], [GOOD, GOOD, GOOD, BAD, BAD, BAD, GOOD, GOOD])


def random_map(n=300, n_cells=20, seed=0):
    rng = np.random.default_rng(seed)
    cell = rng.integers(0, n_cells, n)
    truth = np.where(rng.random(n) < 0.8, cell % 3, rng.integers(0, 3, n))
    return mapped(cell, truth, ("BT", "Good", "RBT"))


def test_scores_are_those_of_the_exposures_that_nobody_looked_at(small):
    found = protocols.evaluate(small, ONE_NEAREST)

    assert (found.n_looked, found.n_scored) == (2, 5)
    values = {name: interval.value for name, interval in found.scores.items()}
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["precision"] == pytest.approx(2 / 3)
    assert values["recall"] == pytest.approx(2 / 3)
    assert values["coverage"] == pytest.approx(5 / 6)
    assert found.baseline["accuracy"] == pytest.approx(4 / 6)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 2, 1]]
    assert found.purity == pytest.approx(5 / 7)


@pytest.mark.parametrize("look", ["random", "nearest"])
def test_what_is_scored_has_no_say_in_the_labels(look):
    everything, protocol = random_map(), Protocol(per_cell=3, look=look)
    labelled = protocols.label(everything, protocol, np.random.default_rng(1))

    other_truth = np.where(labelled.looked, everything.truth, (everything.truth + 1) % 3)
    changed = replace(everything, truth=other_truth)
    again = protocols.label(changed, protocol, np.random.default_rng(1))

    assert np.array_equal(again.looked, labelled.looked)
    assert np.array_equal(again.by_cell, labelled.by_cell)
    assert protocols.outcomes(everything, 1, labelled).sum() == (~labelled.looked).sum()


def test_what_was_looked_at_is_not_scored():
    everything = mapped([0] * 6, [GOOD] * 3 + [BAD] * 3)

    found = protocols.evaluate(everything, Protocol(per_cell=3, look="nearest", n_repeats=1))

    assert found.scores["accuracy"].value == 0
    assert found.confusion.tolist() == [[0, 3, 0], [0, 0, 0]]


def test_so_many_exposures_of_each_cell_are_looked_at():
    assert protocols.looks(np.array([10, 4, 1, 0]), 3, None).tolist() == [3, 3, 1, 0]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(2, [1, 1, 0, 0]), (4, [2, 1, 1, 0]), (5, [3, 1, 1, 0]), (100, [10, 4, 1, 0])],
)
def test_a_budget_is_spread_over_the_cells_by_how_full_they_are(budget, expected):
    assert protocols.looks(np.array([10, 4, 1, 0]), None, budget).tolist() == expected


def test_a_budget_is_never_exceeded():
    everything = random_map(n=333)

    found = protocols.evaluate(everything, Protocol(per_cell=None, budget=0.1))

    assert found.n_looked == 33


def test_a_tie_leaves_a_cell_blank_and_silence_does_too():
    cell = np.array([0, 0, 0, 1, 1, 2, MISSING])
    said = np.array([2, 2, 1, 0, 1, MISSING, 2])

    assert protocols.carried(cell, said).tolist() == [2, 2, 2, -1, -1, -1, -1]


def test_two_kinds_of_bad_outvote_good_although_good_is_named_most():
    everything = mapped([0] * 6, [1, 1, 0, 2, 2, 1], ("BT", "Good", "RBT"))
    protocol = Protocol(per_cell=4, look="nearest")

    labelled = protocols.label(everything, protocol, np.random.default_rng(0))

    assert set(labelled.by_cell) == {1}
    assert set(labelled.is_positive) == {MISSING}
    protocol = replace(protocol, per_cell=5)
    labelled = protocols.label(everything, protocol, np.random.default_rng(0))
    assert set(labelled.is_positive) == {0}


def test_experts_err_as_often_as_asked_and_together_they_err_less():
    truth = np.zeros(4000, int)
    rng = np.random.default_rng(0)

    votes = protocols.opinions(truth, 3, 2, 0.3, rng)
    alone = protocols.evaluate(random_map(3000), Protocol(error=0.4, n_repeats=10))
    three = protocols.evaluate(random_map(3000), Protocol(error=0.4, n_experts=7, n_repeats=10))

    assert (votes != 0).mean() == pytest.approx(0.3, abs=0.02)
    assert set(votes.ravel()) == {0, 1, 2}
    assert three.scores["accuracy"].value > alone.scores["accuracy"].value


def test_an_interval_is_as_wide_as_the_binomial_distribution_says():
    truth = [GOOD] * 361 + [BAD] * 40
    everything = mapped([0] * 401, truth)

    score = protocols.evaluate(everything, ONE_NEAREST).scores["accuracy"]

    assert score.value == pytest.approx(0.9)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 400)
    assert score.high - score.low == pytest.approx(2 * half, rel=0.1)


def test_no_mutual_information_where_cells_say_nothing_and_all_where_they_say_everything():
    told = mapped([0, 0, 1, 1], [BAD, BAD, GOOD, GOOD])
    untold = mapped([0, 1, 0, 1], [BAD, BAD, GOOD, GOOD])

    assert protocols.mutual_information(told) == pytest.approx(1)
    assert protocols.mutual_information(untold) == pytest.approx(0)


def test_a_folded_map_has_topographic_errors():
    in_order, folded = np.array([[[0.0], [1], [2]]]), np.array([[[0.0], [2], [1]]])
    latent = np.array([[0.1], [1.9]])

    assert protocols.topographic_error(latent, in_order) == 0
    assert protocols.topographic_error(latent, folded) == 0.5


def test_a_class_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match="no class 'Fine' among the labels: BT, Good"):
        protocols.evaluate(mapped([0], [0]), Protocol(positive="Fine"))


def test_a_fault_without_a_word_shows_in_cells_of_its_own():
    cell = [0] * 4 + [1] * 4 + [2] * 2
    fault = np.array(["rings"] * 4 + ["Good"] * 3 + ["rings"] + ["Good", "rings"])
    everything = mapped(cell, (fault == "Good").astype(int))
    novel = np.arange(10) == 9

    (found,) = unnamed_faults.leave_out(everything, fault, novel, ONE_NEAREST, ("rings",))

    assert found.n == 6
    assert found.own == found.pure == pytest.approx(4 / 6)
    assert found.novel == pytest.approx(1 / 6)
    # Looked at: the first of each cell. Of the five others with rings, three are in cell 0.
    assert found.noticed == found.blank == pytest.approx(3 / 5)
    assert found.called_positive == found.with_word == pytest.approx(2 / 5)


def test_a_share_of_nothing_is_no_number():
    everything = mapped([0, 1], [BAD, GOOD])
    fault = np.array(["rings", "Good"])

    (found,) = unnamed_faults.leave_out(
        everything, fault, np.zeros(2, bool), ONE_NEAREST, ("rings",)
    )

    assert found.as_dict()["noticed"] is None


def test_a_fault_alone_in_a_cell_shows_nothing():
    everything = mapped([0, 1, 1, 1, 1], [BAD, BAD, BAD, BAD, GOOD])
    fault = np.array(["rings"] * 4 + ["Good"])

    (found,) = unnamed_faults.leave_out(
        everything, fault, np.zeros(5, bool), ONE_NEAREST, ("rings",)
    )

    assert found.own == pytest.approx(3 / 4)


def test_a_class_of_several_faults_can_be_left_out():
    everything = mapped([0] * 4, [BAD, BAD, BAD, GOOD])
    fault = np.array(["rings", "trails", "trails", "Good"])

    names = ("BT", "trails")
    found = unnamed_faults.leave_out(everything, fault, np.zeros(4, bool), ONE_NEAREST, names)

    assert [each.n for each in found] == [3, 2]


def test_experts_err_where_a_fault_has_no_word_too():
    everything = mapped([0] * 4, [GOOD, GOOD, GOOD, BAD])
    fault = np.array(["Good"] * 3 + ["rings"])
    wrong = replace(ONE_NEAREST, error=1.0)

    (right,), (erring,) = (
        unnamed_faults.leave_out(everything, fault, np.zeros(4, bool), protocol, ("rings",))
        for protocol in (ONE_NEAREST, wrong)
    )

    assert (right.called_positive, erring.called_positive) == (1, 0)


def test_a_fault_that_no_exposure_has_is_refused():
    everything = mapped([0, 0], [0, 1])

    with pytest.raises(ValueError, match="has the fault or the class comets"):
        unnamed_faults.leave_out(
            everything, np.array(["BT", "Good"]), np.zeros(2, bool), ONE_NEAREST, ("comets",)
        )
