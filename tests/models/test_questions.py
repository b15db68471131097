import numpy as np
import pytest
from scipy.stats import dirichlet_multinomial

from models.questions import (
    PUBLISHED,
    QUESTIONS,
    Question,
    columns,
    fractions,
    negative_log_likelihood,
    slices,
)


def test_the_published_tree_has_ten_questions_and_thirty_four_answers():
    assert [len(question.answers) for question in PUBLISHED] == [3, 2, 2, 3, 5, 3, 3, 3, 6, 4]
    assert len(columns(PUBLISHED)) == 34


def test_every_question_is_asked_after_an_answer_to_an_earlier_one():
    known: set[str] = set()

    for question in QUESTIONS:
        assert set(question.asked_after) <= known
        known.update(question.columns)


def test_slices_cover_every_column_once():
    covered = [columns()[k] for part in slices().values() for k in range(part.start, part.stop)]

    assert tuple(covered) == columns()
    assert columns()[slices()["bar"]] == ("bar_strong", "bar_weak", "bar_no")


def test_a_question_nobody_was_asked_has_no_fractions():
    tree = (Question("disc", ("yes", "no")), Question("bar", ("yes", "no"), ("disc_yes",)))

    shares = fractions(np.array([[0, 5, 0, 0], [4, 0, 1, 3]]), tree)

    assert np.isnan(shares[0, 2:]).all()
    assert shares[1].tolist() == [1, 0, 0.25, 0.75]


def test_the_likelihood_is_that_of_a_dirichlet_multinomial():
    tree = (Question("shape", ("round", "flat", "other")), Question("bar", ("yes", "no")))
    votes = np.array([[3.0, 5, 2, 4, 1]])
    concentrations = np.array([[2.0, 7.5, 1, 30, 4]])

    loss = negative_log_likelihood(votes, concentrations, tree)

    expected = [
        -dirichlet_multinomial.logpmf([3, 5, 2], [2, 7.5, 1], 10),
        -dirichlet_multinomial.logpmf([4, 1], [30, 4], 5),
    ]
    assert loss[0] == pytest.approx(expected)


def test_a_question_nobody_was_asked_costs_nothing():
    tree = (Question("bar", ("yes", "no")),)

    assert negative_log_likelihood(np.zeros((1, 2)), np.array([[3.0, 9]]), tree) == 0


def test_votes_of_another_tree_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 34\).*\(2, 30\)"):
        negative_log_likelihood(np.zeros((2, 30)), np.ones((2, 30)), PUBLISHED)
