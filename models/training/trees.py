"""Growing the boosted trees that stand beside the networks, and carrying them into a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from models.trees import DEPTH, N_LEAVES, N_QUESTIONS

LEARNING_RATE = 0.03


def grow(
    numbers: NDArray[np.float32], is_shred: NDArray[np.bool_], count: int, seed: int
) -> GradientBoostingClassifier:
    """Fit trees by stochastic gradient boosting.

    References
    ----------
    Friedman (2002), Comput. Stat. Data Anal. 38, 367.
    """
    return GradientBoostingClassifier(
        n_estimators=count,
        learning_rate=LEARNING_RATE,
        max_depth=DEPTH,
        subsample=0.5,
        max_features=6,
        min_samples_leaf=5,
        random_state=seed,
    ).fit(numbers, is_shred)


def layer_weights(grown: GradientBoostingClassifier) -> list[NDArray[np.float32]]:
    """The weights a `Trees` layer needs to say what the fitted trees say."""
    filled = [_complete(estimator.tree_) for estimator in grown.estimators_[:, 0]]
    column, threshold, leaf = (
        np.stack(each).astype(np.float32) for each in zip(*filled, strict=True)
    )
    prior = grown.init_.class_prior_
    start = np.log(prior[1] / prior[0])
    return [column, threshold, LEARNING_RATE * leaf, np.array([start], np.float32)]


def _complete(tree: Any) -> tuple[NDArray, NDArray, NDArray]:
    """Questions and leaves of one tree, early leaves repeated down to full depth."""
    column, threshold = np.zeros(N_QUESTIONS), np.zeros(N_QUESTIONS)
    leaf = np.zeros(N_LEAVES)
    nodes = {0: 0}
    for place in range(N_QUESTIONS + N_LEAVES):
        node = nodes[place]
        if place >= N_QUESTIONS:
            leaf[place - N_QUESTIONS] = tree.value[node, 0, 0]
        elif tree.children_left[node] < 0:
            nodes[2 * place + 1] = nodes[2 * place + 2] = node
        else:
            column[place], threshold[place] = tree.feature[node], tree.threshold[node]
            nodes[2 * place + 1], nodes[2 * place + 2] = (
                tree.children_left[node],
                tree.children_right[node],
            )
    return column, threshold, leaf
