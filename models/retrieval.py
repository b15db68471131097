"""How good is a search by likeness: ranking neighbours, and what is among the first of them.

Arrays in, numbers out. A query's own group on the sky never counts among its neighbours: two
sources on one galaxy are alike for another reason.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.scores import Interval, auc

Metric = Literal["l1", "l2", "cosine"]
SCIPY_NAMES = {"l1": "cityblock", "l2": "euclidean", "cosine": "cosine"}


def ranked(vectors: NDArray, group: ArrayLike, metric: Metric = "l1") -> NDArray[np.int64]:
    """Rows of all others, nearest first, for every row.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, d)
    group : array-like of int, shape (n,)

    Returns
    -------
    ndarray of int64, shape (n, n)
        Where a row's own group was left out, -1 at the end.
    """
    from scipy.spatial.distance import cdist

    distance = cdist(vectors, vectors, SCIPY_NAMES[metric])
    group = np.asarray(group)
    own = group[:, None] == group[None]
    distance[own] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")
    order[np.take_along_axis(own, order, axis=1)] = -1
    return order


def _hits(neighbours: NDArray[np.int64], degree: NDArray) -> NDArray[np.bool_]:
    """Which of the neighbours have a tag, passing over those who have it by halves."""
    found = degree[neighbours[neighbours >= 0]]
    hits: NDArray[np.bool_] = found[found != 0.5] == 1
    return hits


def precision(order: NDArray[np.int64], degree: NDArray, k: int) -> NDArray[np.float64]:
    """Share of the k nearest that have the query's tag.

    Parameters
    ----------
    order : ndarray of int, shape (n, n)
        From `ranked`.
    degree : ndarray, shape (n,)
        1 has the tag, 0 has not, 0.5 is doubtful: no query, and passed over as a neighbour.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN for rows without the tag.
    """
    result = np.full(len(order), np.nan)
    for row in np.flatnonzero(degree == 1):
        hits = _hits(order[row], degree)
        if len(hits) >= k:
            result[row] = hits[:k].mean()
    return result


def average_precision(order: NDArray[np.int64], degree: NDArray) -> NDArray[np.float64]:
    """Mean precision at the rank of every other source with the query's tag; see `precision`."""
    result = np.full(len(order), np.nan)
    for row in np.flatnonzero(degree == 1):
        hits = _hits(order[row], degree)
        if hits.any():
            so_far = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            result[row] = so_far[hits].mean()
    return result


def share_among(
    order: NDArray[np.int64], is_so: NDArray[np.bool_], known: NDArray[np.bool_], k: int = 10
) -> NDArray[np.float64]:
    """Share of the k nearest known sources that are so, shape (n,); NaN where there is none."""
    result = np.full(len(order), np.nan)
    for row, neighbours in enumerate(order):
        near = neighbours[neighbours >= 0]
        near = near[known[near]][:k]
        if len(near):
            result[row] = is_so[near].mean()
    return result


def overlap(order: NDArray[np.int64], other: NDArray[np.int64], k: int = 10) -> float:
    """Mean share of the k nearest that two rankings (n, n) have in common."""
    shared = [
        len(np.intersect1d(a[:k][a[:k] >= 0], b[:k][b[:k] >= 0])) / k
        for a, b in zip(order, other, strict=True)
    ]
    return float(np.mean(shared))


def probe(
    vectors: NDArray, is_so: NDArray[np.bool_], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Probability by a linear probe that a source is so, each judged by the other folds.

    Parameters
    ----------
    vectors : ndarray, shape (n, d)
    is_so : ndarray of bool, shape (n,)
    fold : ndarray of int, shape (n,)
        From `labelled.folds`, so that groups stay together.

    Returns
    -------
    ndarray of float64, shape (n,)
        By logistic regression; NaN where the other folds hold one class only.
    """
    from sklearn.linear_model import LogisticRegression

    result = np.full(len(vectors), np.nan)
    for k in np.unique(fold):
        rows = fold != k
        if len(set(is_so[rows])) == 2:
            fitted = LogisticRegression(C=0.1, max_iter=500).fit(vectors[rows], is_so[rows])
            result[~rows] = fitted.predict_proba(vectors[~rows])[:, 1]
    return result


def standardised(vectors: NDArray) -> NDArray[np.float64]:
    """Numbers (n, d) in units of their scatter, for `probe`.

    Where there are more numbers than vectors, they are turned into the plane of the vectors,
    (n, n): a linear probe gives the same answer there, quicker.
    """
    scatter = vectors.std(axis=0)
    result = (vectors - vectors.mean(axis=0)) / np.where(scatter > 0, scatter, 1)
    if result.shape[1] > len(result):
        left, values, _ = np.linalg.svd(result.astype(np.float64), full_matrices=False)
        result = left * values
    return np.asarray(result, np.float64)


def mean_over_tags(
    values: NDArray, group: ArrayLike, *, n_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean over the tags of the mean over a tag's queries, with its 95 % interval.

    Parameters
    ----------
    values : ndarray, shape (n, t)
        One column per tag; NaN where a source is no query of it.
    group : array-like, shape (n,)
        Resampled whole. The gallery stays as it is, so the interval is that of other queries.
    """
    _, member = np.unique(np.asarray(group), return_inverse=True)
    n_groups = member.max() + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_resamples)[:, member]
    weights = np.concatenate([np.ones((1, len(values))), drawn])
    there = ~np.isnan(values)
    counted = weights @ there
    sums = weights @ np.nan_to_num(values)
    means = np.divide(sums, counted, out=np.full(sums.shape, np.nan), where=counted > 0)
    if np.isnan(means[0]).all():
        return Interval(float("nan"), float("nan"), float("nan"))
    means = means[:, ~np.isnan(means[0])]
    over_tags = np.nansum(means, axis=1) / np.maximum(1, (~np.isnan(means)).sum(axis=1))
    low, high = np.percentile(over_tags[1:], [2.5, 97.5])
    return Interval(float(over_tags[0]), float(low), float(high))


def mean_auc(
    truth: NDArray, p: NDArray, group: ArrayLike, *, n_resamples: int = 200, seed: int = 0
) -> Interval:
    """Mean over the columns of the area under the ROC curve, with its 95 % interval.

    Parameters
    ----------
    truth : ndarray, shape (n, t)
        1 or 0; NaN where it is not known.
    p : ndarray, shape (n, t)
        Probabilities; NaN where none was given.
    group : array-like, shape (n,)
        Resampled whole.
    """

    def mean(rows: NDArray) -> float:
        found = []
        for column in range(truth.shape[1]):
            asked = rows[~np.isnan(truth[rows, column]) & ~np.isnan(p[rows, column])]
            found.append(auc(truth[asked, column] == 1, p[asked, column]))
        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

    _, member = np.unique(np.asarray(group), return_inverse=True)
    members = [np.flatnonzero(member == k) for k in range(member.max() + 1)]
    rng = np.random.default_rng(seed)
    draws = [
        mean(np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))]))
        for _ in range(n_resamples)
    ]
    drawn = np.array(draws)[~np.isnan(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Interval(mean(np.arange(len(truth))), float(low), float(high))
