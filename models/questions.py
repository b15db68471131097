"""The questions asked about the shape of a galaxy, and the likelihood of volunteers' votes.

`PUBLISHED` is the decision tree of Galaxy Zoo DECaLS: 10 questions, 34 answers. `SKY` holds
our own further questions, for survey cutouts. Knows no network and no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln


@dataclass(frozen=True)
class Question:
    """One question, its answers, and the answers (`question_answer`) after which it is asked."""

    name: str
    answers: tuple[str, ...]
    asked_after: tuple[str, ...] = ()  # none: asked of everybody

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


_FEATURED = ("smooth-or-featured_featured-or-disk",)
_FACE_ON = ("disk-edge-on_no",)
_ARMS = ("has-spiral-arms_yes",)
_GALAXY = ("smooth-or-featured_smooth", *_FEATURED)

# Walmsley et al. (2022), MNRAS 509, 3966 (the tree of the GZD-5 campaign).
PUBLISHED = (
    Question("smooth-or-featured", ("smooth", "featured-or-disk", "artifact")),
    Question("disk-edge-on", ("yes", "no"), _FEATURED),
    Question("has-spiral-arms", ("yes", "no"), _FACE_ON),
    Question("bar", ("strong", "weak", "no"), _FACE_ON),
    Question("bulge-size", ("dominant", "large", "moderate", "small", "none"), _FACE_ON),
    Question(
        "how-rounded", ("round", "in-between", "cigar-shaped"), ("smooth-or-featured_smooth",)
    ),
    Question("edge-on-bulge", ("boxy", "none", "rounded"), ("disk-edge-on_yes",)),
    Question("spiral-winding", ("tight", "medium", "loose"), _ARMS),
    Question("spiral-arm-count", ("1", "2", "3", "4", "more-than-4", "cant-tell"), _ARMS),
    Question("merging", ("none", "minor-disturbance", "major-disturbance", "merger"), _GALAXY),
)
SKY = (
    Question("centred-on", ("nucleus", "elsewhere"), _GALAXY),
    Question("brightness", ("ordinary", "low-surface-brightness"), _GALAXY),
    Question("irregular", ("yes", "no"), _FEATURED),
    Question("clumps", ("many", "few", "none"), _FEATURED),
    Question("ring", ("yes", "no"), _FACE_ON),
    Question("field", ("sparse", "crowded")),
)
QUESTIONS = PUBLISHED + SKY


def columns(questions: Sequence[Question] = QUESTIONS) -> tuple[str, ...]:
    """Names of all answers, `question_answer`, in the order of the columns of a table of votes."""
    return tuple(column for question in questions for column in question.columns)


def slices(questions: Sequence[Question] = QUESTIONS) -> dict[str, slice]:
    """Which columns of a table of votes belong to each question."""
    found, start = {}, 0
    for question in questions:
        found[question.name] = slice(start, start + len(question.answers))
        start += len(question.answers)
    return found


def fractions(
    votes: NDArray[np.floating], questions: Sequence[Question] = QUESTIONS
) -> NDArray[np.float32]:
    """Share of each answer among those who were asked, shape of `votes`; NaN where nobody was."""
    result = np.full(votes.shape, np.nan, np.float32)
    for part in slices(questions).values():
        asked = votes[:, part].sum(1, keepdims=True)
        np.divide(votes[:, part], asked, out=result[:, part], where=asked > 0)
    return result


def negative_log_likelihood(
    votes: NDArray[np.floating],
    concentrations: NDArray[np.floating],
    questions: Sequence[Question] = QUESTIONS,
) -> NDArray[np.float64]:
    """Minus the log of the Dirichlet-multinomial probability of the votes, for each question.

    Parameters
    ----------
    votes : ndarray, shape (n, number of answers)
        Volunteers who gave each answer.
    concentrations : ndarray, shape (n, number of answers)
        Parameters of the Dirichlet distributions, above 0.

    Returns
    -------
    ndarray, shape (n, number of questions)
        0 where nobody was asked.

    References
    ----------
    Walmsley et al. (2022), MNRAS 509, 3966 (the loss of their networks).
    """
    n_answers = len(columns(questions))
    if votes.shape != concentrations.shape or votes.shape[1:] != (n_answers,):
        raise ValueError(
            f"votes and concentrations must both have shape (n, {n_answers}); they have "
            f"{votes.shape} and {concentrations.shape}"
        )
    per_answer = (
        gammaln(votes + concentrations.astype(float))
        - gammaln(concentrations)
        - gammaln(votes.astype(float) + 1)
    )
    result = np.empty((len(votes), len(questions)))
    for column, part in enumerate(slices(questions).values()):
        total, strength = votes[:, part].sum(1), concentrations[:, part].sum(1).astype(float)
        whole = gammaln(total + 1.0) + gammaln(strength) - gammaln(total + strength)
        result[:, column] = -(whole + per_answer[:, part].sum(1))
    return result
