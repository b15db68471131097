"""How good is a classifier, and what does that mean for a selection: every metric in one place.

The positive class is the shred throughout. Arrays in, numbers out; plots are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """The three numbers, rounded to what a card shows; None where there is none."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(x) else round(x, 4) for name, x in numbers.items()}


@dataclass(frozen=True)
class Counts:
    """The four cells of a confusion matrix."""

    tp: int
    fn: int
    tn: int
    fp: int

    @property
    def completeness(self) -> float:
        """Share of the true shreds that were called shreds; NaN without any."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the true galaxies that were called galaxies; NaN without any."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def purity(self) -> float:
        """Share of the sources called shreds that are shreds; NaN without any."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def accuracy(self) -> float:
        """Share of the sources called rightly; NaN without any."""
        return _ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def counts(is_shred: ArrayLike, p_shred: ArrayLike, threshold: float = 0.5) -> Counts:
    """Compare probabilities with labels at a threshold; a source at the threshold is a shred."""
    truth = np.asarray(is_shred, bool)
    called = np.asarray(p_shred, float) >= threshold
    return Counts(
        tp=int((truth & called).sum()),
        fn=int((truth & ~called).sum()),
        tn=int((~truth & ~called).sum()),
        fp=int((~truth & called).sum()),
    )


def accuracy(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Share of the sources called rightly at probability 0.5."""
    return counts(is_shred, p_shred).accuracy


def completeness(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Share of the true shreds found at probability 0.5."""
    return counts(is_shred, p_shred).completeness


def specificity(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Share of the true galaxies left alone at probability 0.5."""
    return counts(is_shred, p_shred).specificity


def purity(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Share of the sources called shreds at probability 0.5 that are shreds."""
    return counts(is_shred, p_shred).purity


def auc(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Chance that a shred gets a higher probability than a galaxy, ties counting half.

    NaN unless both classes are there. This is the area under the ROC curve.
    """
    truth, p = np.asarray(is_shred, bool), np.asarray(p_shred, float)
    n_shreds, n_galaxies = int(truth.sum()), int((~truth).sum())
    if not n_shreds or not n_galaxies:
        return float("nan")
    _, inverse, tied = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(tied) - (tied - 1) / 2)[inverse]
    return float((ranks[truth].sum() - n_shreds * (n_shreds + 1) / 2) / (n_shreds * n_galaxies))


def roc(
    is_shred: ArrayLike, p_shred: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curve.

    Returns
    -------
    three ndarrays of float64, shape (number of distinct probabilities + 1,)
        False positive rate and completeness, both from 0 to 1, and the threshold at each point
        (infinity at the first).
    """
    truth, p = np.asarray(is_shred, bool), np.asarray(p_shred, float)
    order = np.argsort(-p, kind="stable")
    truth, p = truth[order], p[order]
    last = np.append(np.diff(p) != 0, True) if len(p) else np.array([], bool)
    found = np.append(0, np.cumsum(truth)[last])
    false = np.append(0, np.cumsum(~truth)[last])
    return (
        false / max(1, (~truth).sum()),
        found / max(1, truth.sum()),
        np.append(np.inf, p[last]),
    )


@dataclass(frozen=True)
class Reliability:
    """Mean probability and true share in bins of probability; NaN in an empty bin."""

    edges: NDArray[np.float64]  # (bins + 1,)
    predicted: NDArray[np.float64]  # (bins,)
    observed: NDArray[np.float64]  # (bins,)
    sizes: NDArray[np.int64]  # (bins,)


def reliability(is_shred: ArrayLike, p_shred: ArrayLike, bins: int = 10) -> Reliability:
    """Set the probabilities given against the shares observed, in bins of equal width."""
    truth, p = np.asarray(is_shred, float), np.asarray(p_shred, float)
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip((p * bins).astype(int), 0, bins - 1)
    sizes = np.bincount(where, minlength=bins)
    filled = np.where(sizes, sizes, np.nan)
    return Reliability(
        edges,
        np.bincount(where, p, bins) / filled,
        np.bincount(where, truth, bins) / filled,
        sizes,
    )


def calibration_error(is_shred: ArrayLike, p_shred: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean distance of the reliability bins from the diagonal.

    References
    ----------
    Naeini, Cooper & Hauskrecht (2015), AAAI 29, 2901, eq. 3.
    """
    table = reliability(is_shred, p_shred, bins)
    if not table.sizes.sum():
        return float("nan")
    return float(
        np.nansum(np.abs(table.predicted - table.observed) * table.sizes) / table.sizes.sum()
    )


def brier(is_shred: ArrayLike, p_shred: ArrayLike) -> float:
    """Mean squared distance between probability and truth."""
    return float(np.mean((np.asarray(p_shred, float) - np.asarray(is_shred, float)) ** 2))


def log_odds(p_shred: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of the odds of a probability, which is kept away from 0 and 1 by 1e-6."""
    p = np.clip(np.asarray(p_shred, float), 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def fit_calibration(is_shred: ArrayLike, p_shred: ArrayLike) -> tuple[float, float]:
    """Temperature and offset that calibrate probabilities best, to be used on other sources.

    The calibrated log odds are `(log odds + offset) / temperature`.

    References
    ----------
    Platt (1999), Advances in Large Margin Classifiers, 61.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=100).fit(log_odds(p_shred)[:, None], np.asarray(is_shred, bool))
    slope = max(float(fitted.coef_[0, 0]), 1e-3)
    return 1 / slope, float(fitted.intercept_[0]) / slope


def calibrated(p_shred: ArrayLike, temperature: float, offset: float) -> NDArray[np.float64]:
    """Probabilities after a calibration from `fit_calibration`."""
    return 1 / (1 + np.exp(-(log_odds(p_shred) + offset) / temperature))


METRICS: dict[str, Metric] = {
    "auc": auc,
    "accuracy": accuracy,
    "completeness": completeness,
    "purity": purity,
    "specificity": specificity,
    "calibration_error": calibration_error,
    "brier": brier,
}
WITHOUT_INTERVAL = ("calibration_error",)  # biased upward by resampling


def bootstrap(
    is_shred: ArrayLike,
    p_shred: ArrayLike,
    group: ArrayLike,
    metrics: dict[str, Metric] | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Metrics with 95 % percentile intervals, resampling whole groups.

    Sources of one group (one host galaxy, one patch of sky) err together; drawing groups instead
    of sources keeps the interval from being too narrow. The calibration error gets no interval
    (NaN): resampling only ever adds to it.

    Parameters
    ----------
    is_shred, p_shred, group : array-like, shape (n,)
    metrics : dict of name to function(is_shred, p_shred) -> float, by default `METRICS`
    """
    truth, p = np.asarray(is_shred, bool), np.asarray(p_shred, float)
    _, member = np.unique(np.asarray(group), return_inverse=True)
    members = [np.flatnonzero(member == k) for k in range(member.max() + 1)]
    rng = np.random.default_rng(seed)
    wanted = METRICS if metrics is None else metrics
    drawn = [name for name in wanted if name not in WITHOUT_INTERVAL]
    draws: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(n_resamples):
        chosen = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[k] for k in chosen])
        for name in drawn:
            draws[name].append(wanted[name](truth[rows], p[rows]))
    return {
        name: Interval(metric(truth, p), *_percentiles(draws[name]))
        for name, metric in wanted.items()
    }


def _percentiles(draws: ArrayLike) -> tuple[float, float]:
    values = np.asarray(draws, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def contamination(
    n_called: int, n_sources: int, errors: Counts, *, n_draws: int = 20_000, seed: int = 0
) -> Interval:
    """Share of a selection that is shreds, corrected for classifier error, with its interval.

    The median and the central 95 % of the posterior of the share, under a flat prior from 0 to 1.
    It carries the size of the selection, and the completeness and the specificity of the
    classifier, which were measured on finitely many labels and each have the posterior of a
    Jeffreys prior. A selection with fewer calls than the classifier's false alarms would make says
    something about those too, instead of giving a negative share.

    Parameters
    ----------
    n_called, n_sources : int
        Sources of the selection called shreds, and all of them.
    errors : Counts
        Confusion matrix on labelled sources the classifier has never seen.

    Raises
    ------
    ValueError
        Nothing was judged, or the counts cannot come from a classifier with these errors.

    References
    ----------
    Rogan & Gladen (1978), Am. J. Epidemiol. 107, 71; Diggle (2011), Epidemiol. Res. Int., 608719.
    """
    if not 0 <= n_called <= n_sources or n_sources == 0:
        raise ValueError(f"called shreds must be 0 to n_sources > 0, not {n_called} of {n_sources}")
    rng = np.random.default_rng(seed)
    found = rng.beta(errors.tp + 0.5, errors.fn + 0.5, n_draws)
    spared = rng.beta(errors.tn + 0.5, errors.fp + 0.5, n_draws)
    power = found + spared - 1
    found, spared, power = (each[power > 0] for each in (found, spared, power))
    from scipy import stats  # takes seconds to import

    called = stats.beta(n_called + 1, n_sources - n_called + 1)
    lowest, highest = called.cdf(1 - spared), called.cdf(found)
    weight = (highest - lowest) / power  # likelihood of the calls, over every share
    if not weight.sum() > 0:
        raise ValueError(
            f"{n_called:,} of {n_sources:,} called shreds cannot come from a classifier with "
            f"completeness {errors.completeness:.3f} and specificity {errors.specificity:.3f}: "
            "the selection is unlike the labelled sources"
        )
    drawn = rng.choice(len(weight), n_draws, p=weight / weight.sum())
    share_called = called.ppf(rng.uniform(lowest[drawn], highest[drawn]))
    shares = np.clip((share_called + spared[drawn] - 1) / power[drawn], 0, 1)
    return Interval(float(np.median(shares)), *_percentiles(shares))
