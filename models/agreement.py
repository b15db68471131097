"""How far experts agree, and what they say together: arrays in, arrays out.

Votes are integers of shape (n, e): what each of e experts says of each of n subjects, a class from
0 to k - 1, or MISSING (-1) where the expert said nothing. Who they are is the business of
`db.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.scores import Interval

Votes = NDArray[np.integer]

MISSING = -1
N_RESAMPLES = 1000
IMAGINED_RIGHT, IMAGINED_WRONG = 6.0, 3.0  # votes on each class, see `dawid_skene`
FEW = 30  # subjects, below which a kappa is not put into words
WORDS = ((0.0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
CAUTION = (
    "The words are a convention (Landis & Koch 1977), not a test. Kappa and alpha fall when one "
    "class is rare although experts agree as often, so that values of different samples do not "
    "compare."
)


@dataclass(frozen=True)
class Pair:
    """Two experts, by their columns, and the subjects that both labelled."""

    first: int
    second: int
    n: int
    kappa: Interval
    confusion: NDArray[np.int64]  # (k, k): rows what the first said, columns what the second said


@dataclass(frozen=True)
class Consensus:
    """What Dawid & Skene's model makes of the votes."""

    p: NDArray[np.float64]  # (n, k): probability of each class; the prior where nobody voted
    confusion: NDArray[np.float64]  # (e, k, k): rows the true class, columns what the expert says
    prior: NDArray[np.float64]  # (k,): share of each class
    log_posterior: NDArray[np.float64]  # (iterations,): never falls
    converged: bool

    @property
    def reliability(self) -> NDArray[np.float64]:
        """Estimated share of subjects that each expert gets right, shape (e,)."""
        return np.einsum("k,ekk->e", self.prior, self.confusion)


def value_counts(votes: Votes, n_classes: int | None = None) -> NDArray[np.int64]:
    """Votes for each class on each subject, shape (n, k); k is at least one more than the largest.

    Raises
    ------
    ValueError
        The votes are not a table of integers, or there is a class beyond n_classes.
    """
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.dtype.kind not in "iu":
        raise ValueError(f"expected integers of shape (n, e); got {votes.dtype} {votes.shape}")
    lowest, highest = (votes.min(), votes.max()) if votes.size else (MISSING, MISSING)
    k = max(1, int(highest) + 1) if n_classes is None else n_classes
    if lowest < MISSING or highest >= k:
        raise ValueError(f"expected classes from 0 to {k - 1}, or -1; got {lowest} to {highest}")
    counts = np.zeros((len(votes), k), np.int64)
    rows, columns = np.nonzero(votes != MISSING)
    np.add.at(counts, (rows, votes[rows, columns]), 1)
    return counts


def majority(votes: Votes, n_classes: int | None = None) -> NDArray[np.int64]:
    """The class most experts name, shape (n,); MISSING on a tie or without votes."""
    counts = value_counts(votes, n_classes)
    most = counts.max(axis=1, initial=0)
    is_clear = (most > 0) & ((counts == most[:, None]).sum(axis=1) == 1)
    return np.where(is_clear, counts.argmax(axis=1), MISSING)


def cohen(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's kappa of two experts on the subjects that both labelled.

    NaN without such a subject, and where both only ever said one and the same class: chance
    explains that as well as skill does.

    Parameters
    ----------
    first, second : array-like of int, shape (n,)

    References
    ----------
    Cohen (1960), Educ. Psychol. Meas. 20, 37.
    """
    a, b = np.asarray(first), np.asarray(second)
    both = (a != MISSING) & (b != MISSING)
    if not both.any():
        return float("nan")
    table = _table(a[both], b[both], int(max(a.max(), b.max())) + 1)
    return float(_cohen(table[None])[0])


def fleiss(votes: Votes) -> float:
    """Fleiss' kappa: agreement of any two votes on a subject, beyond chance.

    Subjects may have different numbers of votes. Those with two or more count for the agreement
    observed, each alike; those with one too for the shares of the classes. NaN without a subject
    with two votes, and where all votes are for one class.

    References
    ----------
    Fleiss (1971), Psychol. Bull. 76, 378; unequal numbers of votes: Gwet (2014), Handbook of
    Inter-Rater Reliability, 4th ed.
    """
    patterns, weights = _patterns(votes)
    return float(_fleiss(patterns, weights[None])[0])


def alpha(votes: Votes) -> float:
    """Krippendorff's alpha for classes without order.

    Subjects with one vote say nothing. NaN without a subject with two votes, and where all votes
    are for one class.

    References
    ----------
    Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C.
    """
    from krippendorff import alpha as krippendorff_alpha

    counts = value_counts(votes)
    pairable = counts[counts.sum(axis=1) > 1]
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(krippendorff_alpha(value_counts=pairable, level_of_measurement="nominal"))


def by_class(votes: Votes, n_classes: int | None = None) -> NDArray[np.float64]:
    """Of the votes for a class, the share of others on the same subject that name it too.

    Shape (k,); NaN for a class that nobody named on a subject with two votes.

    References
    ----------
    Fleiss (1971): the conditional probabilities of its last section, here with each subject
    counting by its number of votes.
    """
    coincidences = _coincidences(value_counts(votes, n_classes)).sum(axis=0)
    totals = coincidences.sum(axis=1)
    return np.diag(coincidences) / np.where(totals, totals, np.nan)


def pairs(
    votes: Votes, n_classes: int | None = None, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[Pair]:
    """Cohen's kappa of every two experts, with 95 % intervals by bootstrap over subjects."""
    return list(_each_pair(votes, n_classes, n_resamples, np.random.default_rng(seed)))


def overall(
    votes: Votes, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[Interval, Interval]:
    """Fleiss' kappa and Krippendorff's alpha, with 95 % intervals by bootstrap over subjects."""
    patterns, weights = _patterns(votes)
    n = int(weights.sum())
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, weights / n, n_resamples) if n else np.zeros((0, 0))
    coincidences = _coincidences(patterns)
    return (
        _interval(fleiss(votes), _fleiss(patterns, drawn)),
        _interval(alpha(votes), _alpha(np.tensordot(drawn, coincidences, 1))),
    )


def dawid_skene(
    votes: Votes,
    n_classes: int | None = None,
    prior: float = 1.0,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> Consensus:
    """Estimate every expert's errors and every subject's class together, by EM.

    The model: a subject has one true class; an expert errs at a rate that depends on it and on
    nothing else, whatever the others say. Where experts err together it is too sure of itself.
    With one expert it has nothing to compare, and repeats what was said.

    Parameters
    ----------
    prior : float
        Strength of what is assumed: at 1, a subject of each class, and of each expert nine votes
        on each class, six of them right. It keeps the probabilities calibrated where there are few
        votes (maximum likelihood, prior 0, is far too sure of itself with a hundred subjects).
    tolerance : float
        Stops when the log posterior rises by less than this per subject.

    References
    ----------
    Dawid & Skene (1979), Appl. Statist. 28, 20, eqs. 2.3 to 2.5.
    """
    k = value_counts(votes, n_classes).shape[1]
    said = (np.asarray(votes)[..., None] == np.arange(k)).astype(np.int64)
    return dawid_skene_counts(said, prior, tolerance, max_iterations)


def dawid_skene_counts(
    said: NDArray[np.int64],
    prior: float = 1.0,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> Consensus:
    """The same for experts who may have said several things of one subject.

    Parameters
    ----------
    said : ndarray of int64, shape (n, e, k)
        How often each expert named each class.
    """
    n, e, k = said.shape
    flat, inverse, weights = np.unique(  # subjects alike are computed once
        said.reshape(n, e * k), axis=0, return_inverse=True, return_counts=True
    )
    patterns, inverse = flat.reshape(len(flat), e, k), inverse.ravel()
    imagined = _imagined_votes(k, prior)
    p = patterns.sum(axis=1) + np.where(patterns.sum(axis=(1, 2)), 0, 1)[:, None] / k
    p = p / p.sum(axis=1, keepdims=True)
    history: list[float] = []
    converged = False
    while not converged and len(history) < max_iterations:
        shares, confusion = _maximize(patterns, weights * p.T, imagined, prior)
        p, log_posterior = _expect(patterns, weights, shares, confusion, imagined, prior)
        converged = bool(history) and log_posterior - history[-1] < tolerance * max(1, n)
        history.append(log_posterior)
    return Consensus(p[inverse], confusion, shares, np.array(history), converged)


def purity(counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the most frequent label, and entropy of the labels, of each cell or subject.

    Parameters
    ----------
    counts : array-like of int, shape (n, k)
        Labels of each class.

    Returns
    -------
    two ndarrays of float64, shape (n,)
        Share from 1/k to 1, entropy [bit] from 0; NaN where there is no label.
    """
    table = np.asarray(counts, float)
    totals = table.sum(axis=1)
    shares = table / np.where(totals, totals, np.nan)[:, None]
    entropy = (shares * np.log2(1 / np.where(shares > 0, shares, 1))).sum(axis=1)
    return shares.max(axis=1, initial=0), entropy


def reading(measured: Interval, n: int) -> str:
    """Put a kappa or alpha, measured on n subjects, into words as cautious as its interval."""
    if n == 0:
        return "no subject in common"
    if np.isnan(measured.value):
        return "undefined: only one class was ever used"
    if n < FEW:
        return f"too few subjects to say ({n} of at least {FEW})"
    low, high = _word(measured.low), _word(measured.high)
    return low if low == high else f"{low} to {high}"


def _word(kappa: float) -> str:
    return next((word for end, word in WORDS if kappa <= end), "almost perfect")


def _each_pair(
    votes: Votes, n_classes: int | None, n_resamples: int, rng: np.random.Generator
) -> Iterator[Pair]:
    k = value_counts(votes, n_classes).shape[1]
    for first, second in combinations(range(votes.shape[1]), 2):
        a, b = votes[:, first], votes[:, second]
        both = (a != MISSING) & (b != MISSING)
        table = _table(a[both], b[both], k)
        n = int(both.sum())
        shares = table.ravel() / max(n, 1)
        drawn = rng.multinomial(n, shares, n_resamples) if n else np.zeros((0, k * k))
        interval = _interval(cohen(a, b), _cohen(drawn.reshape(-1, k, k)))
        yield Pair(first, second, n, interval, table)


def _table(a: NDArray, b: NDArray, k: int) -> NDArray[np.int64]:
    """How often each class of a meets each class of b, (k, k)."""
    return np.bincount(a.astype(np.int64) * k + b, minlength=k * k).reshape(k, k)


def _patterns(votes: Votes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different rows of `value_counts` that have votes, and how many subjects have each."""
    counts = value_counts(votes)
    patterns, weights = np.unique(counts[counts.any(axis=1)], axis=0, return_counts=True)
    return patterns, weights


def _cohen(tables: NDArray) -> NDArray[np.float64]:
    """Cohen's kappa of tables, (r, k, k); NaN where all is in one class."""
    n = tables.sum(axis=(1, 2))
    observed = np.trace(tables, axis1=1, axis2=2) / n
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    return _beyond_chance(observed, chance)


def _alpha(coincidences: NDArray) -> NDArray[np.float64]:
    """Krippendorff's alpha of resampled coincidences, (r, k, k); what `alpha` says of one."""
    totals = coincidences.sum(axis=2)
    n = totals.sum(axis=1)
    observed = np.trace(coincidences, axis1=1, axis2=2) / np.where(n, n, np.nan)
    chance = (totals * (totals - 1)).sum(axis=1) / np.where(n, n * (n - 1), np.nan)
    return _beyond_chance(observed, chance)


def _fleiss(patterns: NDArray[np.int64], weights: NDArray) -> NDArray[np.float64]:
    """Fleiss' kappa of patterns of votes, (p, k), weighted in r ways, (r, p)."""
    votes = patterns.sum(axis=1)  # (p,)
    several = votes > 1
    orderings = votes * (votes - 1)
    agreement = (patterns * (patterns - 1)).sum(axis=1) / np.where(several, orderings, 1)
    n_several = weights @ several
    observed = weights @ agreement / np.where(n_several, n_several, np.nan)  # (r,)
    n = weights.sum(axis=1)
    shares = weights @ (patterns / votes[:, None]) / np.where(n, n, np.nan)[:, None]  # (r, k)
    return _beyond_chance(observed, (shares**2).sum(axis=1))


def _beyond_chance(observed: NDArray, chance: NDArray) -> NDArray[np.float64]:
    room = 1 - chance
    return (observed - chance) / np.where(room > 1e-12, room, np.nan)


def _coincidences(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ordered pairs of votes on each subject by their classes, (n, k, k); one subject counts m."""
    m = counts.sum(axis=1)
    ordered = counts[:, :, None] * counts[:, None] - counts[:, :, None] * np.eye(counts.shape[1])
    return ordered / np.maximum(m - 1, 1)[:, None, None]


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(defined):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _imagined_votes(k: int, prior: float) -> NDArray[np.float64]:
    """Votes that an expert is assumed to have given, (k, k): rows the true class."""
    return prior * np.where(np.eye(k, dtype=bool), IMAGINED_RIGHT, IMAGINED_WRONG / max(1, k - 1))


def _maximize(
    patterns: NDArray[np.int64], responsibility: NDArray, imagined: NDArray, prior: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the classes (k,), and confusion matrices (e, k, k), given who is what (k, p)."""
    shares = responsibility.sum(axis=1) + prior
    confusion = np.einsum("kp,pel->ekl", responsibility, patterns) + imagined
    totals = confusion.sum(axis=2, keepdims=True)
    uniform = np.full_like(confusion, 1 / len(shares))
    whole = shares.sum()
    shares = shares / whole if whole else np.full_like(shares, 1 / len(shares))
    return shares, np.divide(confusion, totals, out=uniform, where=totals > 0)


def _expect(
    patterns: NDArray[np.int64],
    weights: NDArray[np.int64],
    shares: NDArray,
    confusion: NDArray,
    imagined: NDArray,
    prior: float,
) -> tuple[NDArray[np.float64], float]:
    """Probability of each class given each pattern (p, k), and the log posterior of it all."""
    from scipy.special import logsumexp

    log_shares, log_confusion = (np.log(np.maximum(x, 1e-300)) for x in (shares, confusion))
    joint = log_shares + np.einsum("pel,ekl->pk", patterns, log_confusion)
    evidence = logsumexp(joint, axis=1)
    log_prior = prior * log_shares.sum() + (imagined * log_confusion).sum()
    return np.exp(joint - evidence[:, None]), float(weights @ evidence + log_prior)
