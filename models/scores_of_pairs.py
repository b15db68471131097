"""How well two blended galaxies are told apart: every formula for fluxes, masks and verdicts.

Arrays in, numbers out; tables and figures are in `models.evaluation`. Fluxes may be in any one
unit, but magnitudes assume nJy. A galaxy that was not detected is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.blender import ZERO_POINT
from models.scores import Interval

OUTLIER = 0.75  # mag
CLOSE = 10.0  # pixels: blends closer than this are "close" (BlendHunter)
MASK_THRESHOLD = 0.5
Statistic = Callable[..., Mapping[str, float]]


def magnitude(flux: ArrayLike) -> NDArray[np.float64]:
    """AB magnitude of a flux in nJy; NaN where it is not positive."""
    light = np.asarray(flux, np.float64)
    return ZERO_POINT - 2.5 * np.log10(np.where(light > 0, light, np.nan))


@dataclass(frozen=True)
class PairScores:
    """How measured fluxes differ from the truth; magnitudes are measured minus true."""

    n: int  # fluxes measured
    bias: float  # mean difference [mag]
    median: float  # [mag]
    sigma: float  # standard deviation of the population [mag]
    outliers: float  # share with a difference above 0.75 mag, or with no positive flux
    mag_mape: float  # mean absolute difference over the true magnitude, 0 to 1
    flux_mape: float  # mean absolute error over the true flux, 0 to 1
    flux_median_ape: float  # median of the same
    undetected: int  # galaxies without a measured flux, left out above


def pair_scores(true: ArrayLike, flux: ArrayLike) -> PairScores:
    """Score fluxes with the formulas of blend2flux's figures 5 and 6.

    Galaxies with a NaN in either array are left out and counted as undetected, so the scores of a
    method that misses the hard ones are flattering. A flux that is zero or negative has no
    magnitude: it is an outlier, and is left out of bias, median, sigma and the magnitude's MAPE.

    Parameters
    ----------
    true, flux : array-like of float, same shape [nJy]
        True fluxes, all positive where given, and measured ones.

    Returns
    -------
    PairScores
        NaN in place of every score that has no galaxy.

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, section 4.1.
    """
    truth, measured = (np.asarray(each, np.float64).ravel() for each in (true, flux))
    if truth.shape != measured.shape:
        raise ValueError(
            f"expected as many measured fluxes as true ones, not {measured.size} and {truth.size}"
        )
    known = np.isfinite(truth)
    seen = known & np.isfinite(measured)
    truth, measured = truth[seen], measured[seen]
    true_mag = magnitude(truth)
    difference = magnitude(measured) - true_mag
    relative = np.abs(measured - truth) / truth
    defined = ~np.isnan(difference)
    return PairScores(
        n=len(truth),
        bias=_mean(difference[defined]),
        median=_median(difference[defined]),
        sigma=float(np.std(difference[defined])) if defined.any() else float("nan"),
        outliers=_mean(~(np.abs(difference) <= OUTLIER)),
        mag_mape=_mean(np.abs(difference[defined]) / true_mag[defined]),
        flux_mape=_mean(relative),
        flux_median_ape=_median(relative),
        undetected=int((known & ~seen).sum()),
    )


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def equal_bins(values: ArrayLike, bins: int = 6) -> NDArray[np.float64]:
    """Edges of bins of equal width over the range of the values, as in blend2flux's figures."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        raise ValueError("expected at least one value to bin, found none")
    return np.linspace(finite.min(), finite.max(), bins + 1)


def bin_numbers(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """Bin of each value, -1 outside; the last bin holds its upper edge too, others their lower."""
    x, ends = np.asarray(values, np.float64), np.asarray(edges, np.float64)
    number = np.searchsorted(ends, x, side="right") - 1
    number[x == ends[-1]] = len(ends) - 2
    return np.where((x >= ends[0]) & (x <= ends[-1]), number, -1)


def magnitude_difference(flux: ArrayLike) -> NDArray[np.float64]:
    """Magnitude of the central galaxy minus that of its companion; `flux` is (n, 2)."""
    mags = magnitude(flux)
    return mags[:, 0] - mags[:, 1]


def intervals(
    statistic: Statistic,
    group: ArrayLike,
    *arrays: ArrayLike,
    n_resamples: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """Numbers with 95 % percentile intervals, resampling whole galaxies.

    Pairs around the same central galaxy err together; drawing galaxies instead of pairs keeps the
    intervals from being too narrow. Give both methods to one statistic to compare them on the same
    draws.

    Parameters
    ----------
    statistic : function(*arrays) -> dict of name to float
    group : array-like, shape (n,)
        The central galaxy of each pair.
    arrays : array-like, shape (n, ...)
    """
    data = [np.asarray(each) for each in arrays]
    _, member = np.unique(np.asarray(group), return_inverse=True)
    order = np.argsort(member, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(seed)
    draws: list[Mapping[str, float]] = []
    for _ in range(n_resamples):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        draws.append(statistic(*(each[rows] for each in data)))
    return {
        name: Interval(value, *_ends([draw[name] for draw in draws]))
        for name, value in statistic(*data).items()
    }


def _ends(draws: list[float]) -> tuple[float, float]:
    values = np.asarray(draws, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def coverage(true: ArrayLike, flux: ArrayLike, error: ArrayLike, factor: float = 1.0) -> float:
    """Share of the true fluxes within `factor` errors of the measured ones.

    Ideal: 0.683 for a factor of 1 and 0.95 for 1.96 where errors are normal. Galaxies with a NaN
    in any array are left out; NaN without any galaxy.
    """
    truth, measured, half = (np.asarray(x, np.float64).ravel() for x in (true, flux, error))
    known = np.isfinite(truth) & np.isfinite(measured) & np.isfinite(half)
    return _mean(np.abs(truth - measured)[known] <= factor * half[known])


def iou(true: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each galaxy's mask with the true one.

    Both are cut at 0.5 before anything is counted, so probabilities and 0/1 give the right answer
    (a union counted as sum minus product is wrong for two probabilities).

    Parameters
    ----------
    true, masks : array-like, shape (n, h, w, 2)
        Central galaxy and companion, 0 to 1 or bool.

    Returns
    -------
    ndarray of float64, shape (n, 2)
        NaN where a galaxy is in neither of its masks.

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, eq. 1.
    """
    a, b = _as_masks(true), _as_masks(masks)
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"expected two arrays of masks (n, h, w, galaxies) of one shape, not {a.shape} "
            f"and {b.shape}"
        )
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return both / np.where(either, either, np.nan)


def mean_iou(iou: ArrayLike) -> float:
    """Mean of `iou`, shape (n, 2), over the galaxies of a pair, then over the pairs.

    A galaxy in neither of its masks does not count; NaN if none does.
    """
    each = np.asarray(iou, np.float64)
    known = ~np.isnan(each)
    counted = known.any(axis=1)
    total = np.where(known, each, 0).sum(axis=1)[counted]
    return _mean(total / known.sum(axis=1)[counted])


def overlap_bias(true: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Relative difference of the overlap's size: true minus found, over true.

    Positive where the masks found overlap too little.

    Parameters
    ----------
    true, masks : array-like, shape (n, h, w, 2)
        Central galaxy and companion; their overlap is where both are.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where the true masks do not overlap.
    """
    real, found = (_as_masks(x).all(axis=-1).sum(axis=(1, 2)) for x in (true, masks))
    return (real - found) / np.where(real, real, np.nan)


def _as_masks(values: ArrayLike) -> NDArray[np.bool_]:
    return np.asarray(values, np.float32) >= MASK_THRESHOLD


@dataclass(frozen=True)
class BlendScores:
    """How verdicts compare with the truth, as shares; NaN where there is nothing to count."""

    n: int
    accuracy: float
    found: float  # of the blends (completeness)
    spared: float  # of the single galaxies (specificity)
    found_close: float  # of the blends closer than 10 pixels
    found_distant: float  # of the others
    confusion: dict[str, float]  # tp, fn, fp, tn as shares of all cutouts

    @property
    def accuracy_close(self) -> float:
        """Accuracy over as many close blends as single galaxies."""
        return (self.found_close + self.spared) / 2

    @property
    def accuracy_distant(self) -> float:
        """Accuracy over as many distant blends as single galaxies."""
        return (self.found_distant + self.spared) / 2


def blend_scores(is_blend: ArrayLike, said: ArrayLike, separation: ArrayLike) -> BlendScores:
    """Compare verdicts with the truth.

    Parameters
    ----------
    is_blend, said : array-like of bool, shape (n,)
        Truth and verdict.
    separation : array-like of float, shape (n,)
        Distance of the two galaxies [pixel]; not looked at where there is one.
    """
    truth, call = np.asarray(is_blend, bool), np.asarray(said, bool)
    close = np.asarray(separation, np.float64) < CLOSE
    cells = {"tp": truth & call, "fn": truth & ~call, "fp": ~truth & call, "tn": ~truth & ~call}
    return BlendScores(
        n=len(truth),
        accuracy=_mean(truth == call),
        found=_mean(call[truth]),
        spared=_mean(~call[~truth]),
        found_close=_mean(call[truth & close]),
        found_distant=_mean(call[truth & ~close]),
        confusion={name: _mean(cell) for name, cell in cells.items()},
    )


def found_by_separation(
    separation: ArrayLike, is_blend: ArrayLike, said: ArrayLike, edges: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Share of the blends that were found, in bins of separation, as in BlendHunter's figure.

    Returns
    -------
    ndarray of float64 and ndarray of int64, both of shape (bins,)
        The share, NaN in an empty bin, and the number of blends.
    """
    truth, call = np.asarray(is_blend, bool), np.asarray(said, bool)
    number = bin_numbers(np.asarray(separation)[truth], edges)
    inside, bins = number >= 0, len(np.asarray(edges)) - 1
    sizes = np.bincount(number[inside], minlength=bins)
    hits = np.bincount(number[inside], call[truth][inside], minlength=bins)
    return hits / np.where(sizes, sizes, np.nan), sizes
