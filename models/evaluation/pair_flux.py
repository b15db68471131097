"""How well the fluxes and masks of two blended galaxies are measured, by a network and by sep.

All methods see the very same cutouts. Formulas are those of `models.scores_of_pairs`, cutouts come
from `known_pairs`, and the page is made in `blend_report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models import extraction, scores_of_pairs
from models.blender import KINDS, Pairs
from models.evaluation.known_pairs import KnownPairs, Progress
from models.scores import Interval

if TYPE_CHECKING:
    from models.pair_flux import PairFluxes

SEP, MEAN, HALF = "sep", "mean flux", "half of the total"
OUTCOMES = ("both", "only central", "only companion", "more than two", "neither")
COVERAGES = ("coverage_68", "coverage_95")
GAUSSIAN_95 = 1.959964  # errors to each side that hold 95 %
N_RESAMPLES, N_RESAMPLES_BINS = 500, 200
N_BINS = 6
TWO = np.array([True, True])
ONE = {"central": np.array([True, False]), "companion": np.array([False, True])}

Predict = Callable[[NDArray[np.float32]], "PairFluxes"]
Table = dict[str, dict[str, Interval]]  # by method and score


@dataclass(frozen=True)
class Measured:
    """Truth, and what every method says, of n cutouts; galaxies are central, companion."""

    true: NDArray[np.float64]  # (n, 2) [nJy]
    flux: NDArray[np.float64]  # (n, methods, 2) [nJy], NaN where undetected
    error: NDArray[np.float64]  # (n, 2) of the network, half width of 68 % [nJy]
    outcome: NDArray[np.int8]  # (n,) of sep, place in OUTCOMES
    separation: NDArray[np.float64]  # (n,) [pixel]
    radius: NDArray[np.float64]  # (n, 2) half light [pixel]
    kind: NDArray[np.int8]  # (n, 2) place in KINDS
    noise: NDArray[np.float64]  # (n,) [nJy]
    parent: NDArray[np.int64]  # (n,) the central galaxy
    iou: NDArray[np.float64]  # (n, 2, 2) of network and sep
    overlap_bias: NDArray[np.float64]  # (n, 2) of network and sep

    def __len__(self) -> int:
        return len(self.true)

    @property
    def difference(self) -> NDArray[np.float64]:
        """Magnitude of the central galaxy less that of its companion, shape (n,)."""
        return scores_of_pairs.magnitude_difference(self.true)

    @property
    def magnitude_errors(self) -> NDArray[np.float64]:
        """Measured less true magnitude, shape (n, methods, 2)."""
        true = scores_of_pairs.magnitude(self.true)
        return scores_of_pairs.magnitude(self.flux) - true[:, None]

    def seen(self, *outcomes: str) -> NDArray[np.bool_]:
        """Pairs of which sep saw just that, shape (n,)."""
        return np.isin(self.outcome, [OUTCOMES.index(outcome) for outcome in outcomes])


def measure(
    known: KnownPairs,
    predict: Predict,
    mean_flux: float,
    factor: float,
    *,
    subtract: bool = False,
    kind: extraction.Kind = "isophotal",
    progress: Progress | None = None,
) -> Measured:
    """Ask the network and sep about every pair.

    Parameters
    ----------
    known : KnownPairs
    predict : function(pixels) -> PairFluxes
    mean_flux : float
        What the trivial method says of every galaxy [nJy].
    factor : float
        Puts sep's fluxes on the scale of the truth (`known_pairs.calibration`).
    subtract, kind
        See `extraction.photometry`.
    progress : callable, optional
        Called with the number of pairs done.
    """
    parts = []
    for _, pairs in known.chunks():
        by_sep = extraction.photometry(
            pairs.pixels, subtract=subtract, kind=kind, radius=pairs.radius[:, 0], masks=True
        )
        parts.append(_measured(pairs, predict(pairs.pixels), by_sep, mean_flux, factor))
        if progress:
            progress(len(pairs.pixels))
    return joined(parts)


def joined(parts: Sequence[Measured]) -> Measured:
    """Several lots of pairs as one."""
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(Measured)
    }
    return Measured(**columns)


def _measured(
    pairs: Pairs,
    by_network: PairFluxes,
    by_sep: extraction.Photometry,
    mean_flux: float,
    factor: float,
) -> Measured:
    n, true = len(pairs.pixels), pairs.flux
    half = np.repeat(true.sum(axis=1, keepdims=True) / 2, 2, axis=1)
    methods = (by_network.flux, factor * by_sep.flux, np.full((n, 2), mean_flux), half)
    shapes = pairs.masks[..., 1:]
    iou, overlap_bias = np.full((n, 2, 2), np.nan), np.full((n, 2), np.nan)
    for k, masks in enumerate((by_network.masks, by_sep.masks)):
        if masks is not None and shapes.any():
            iou[:, k] = scores_of_pairs.iou(shapes, masks)
            overlap_bias[:, k] = scores_of_pairs.overlap_bias(shapes, masks)
    return Measured(
        true=true,
        flux=np.stack(methods, axis=1).astype(np.float64),
        error=np.asarray(by_network.error, np.float64),
        outcome=_outcome(by_sep),
        separation=pairs.separation.astype(np.float64),
        radius=pairs.radius.astype(np.float64),
        kind=pairs.kind,
        noise=pairs.noise.astype(np.float64),
        parent=pairs.parent[:, 0],
        iou=iou,
        overlap_bias=overlap_bias,
    )


def _outcome(by_sep: extraction.Photometry) -> NDArray[np.int8]:
    central, companion = np.isfinite(by_sep.flux).T
    cases = [by_sep.detections > 2, central & companion, central, companion]
    places = [OUTCOMES.index(name) for name in ("more than two", *OUTCOMES[:3])]
    return np.select(cases, places, OUTCOMES.index("neither")).astype(np.int8)


@dataclass(frozen=True)
class Bins:
    """Scores in bins of some property."""

    what: str  # with its unit
    names: list[str]  # of the bins
    middles: list[float]  # for plots: the median in the bin, or its place
    tables: list[Table]


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a report, and the measurements behind them."""

    title: str
    protocol: str
    methods: tuple[str, ...]  # the network first, then sep
    measured: Measured
    factors: dict[str, float]  # of sep's fluxes, by noise
    interval_95: float  # half width of 95 % [errors]
    sets: dict[str, Table]  # by set of galaxies
    ratios: dict[str, Interval]  # flux MAPE of sep over that of the network
    binned: dict[str, Bins]
    outcomes: dict[str, float]  # shares of the pairs, by what sep saw
    masks: Table

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        binned = {
            name: {
                "what": bins.what,
                "bins": dict(zip(bins.names, map(table_as_dict, bins.tables), strict=True)),
            }
            for name, bins in self.binned.items()
        }
        return {
            "title": self.title,
            "protocol": self.protocol,
            "n_pairs": len(self.measured),
            "n_central_galaxies": len(np.unique(self.measured.parent)),
            "sep_factors": self.factors,
            "interval_95": self.interval_95,
            "sep_outcomes": self.outcomes,
            "sets": {name: table_as_dict(table) for name, table in self.sets.items()},
            "ratios": {name: each.as_dict() for name, each in self.ratios.items()},
            "binned": binned,
            "masks": table_as_dict(self.masks),
        }


def table_as_dict(table: Table) -> dict[str, dict[str, dict[str, float | None]]]:
    """A table, ready for JSON."""
    return {
        method: {score: each.as_dict() for score, each in row.items()}
        for method, row in table.items()
    }


def evaluate(
    measured: Measured,
    network: str,
    protocol: str,
    factors: Mapping[str, float],
    *,
    interval_95: float = GAUSSIAN_95,
    n_resamples: int = N_RESAMPLES,
    progress: Progress | None = None,
) -> Evaluation:
    """Score what was measured; intervals are at 95 %, by drawing central galaxies anew.

    Parameters
    ----------
    network : str
        What the report calls the network.
    factors : dict
        Of sep's fluxes, to be reported.
    interval_95 : float
        Half width of the network's intervals of 95 %, in units of its errors.
    progress : callable, optional
        Called with 1 after each of `N_STEPS` tables.
    """
    methods = (network, SEP, MEAN, HALF)
    step = progress or (lambda n: None)
    sets: dict[str, Table] = {}
    for name, chosen in galaxy_sets(measured).items():
        sets[name] = scored(measured, methods, chosen, interval_95, n_resamples)
        step(1)
    binned: dict[str, Bins] = {}
    for name, (what, bins) in properties(measured).items():
        few = min(n_resamples, N_RESAMPLES_BINS)
        tables = [scored(measured, methods, chosen, interval_95, few) for _, _, chosen in bins]
        binned[name] = Bins(what, [each[0] for each in bins], [each[1] for each in bins], tables)
        step(1)
    sets["total of the pair"] = _scored_totals(measured, methods, n_resamples)
    return Evaluation(
        title=f"Fluxes of pairs: {network}",
        protocol=protocol,
        methods=methods,
        measured=measured,
        factors=dict(factors),
        interval_95=interval_95,
        sets=sets,
        ratios=_ratios(measured, n_resamples),
        binned=binned,
        outcomes={name: float(measured.seen(name).mean()) for name in OUTCOMES},
        masks=_scored_masks(measured, network, n_resamples),
    )


def galaxy_sets(measured: Measured) -> dict[str, NDArray[np.bool_]]:
    """Which galaxies are in which of blend2flux's sets, (n, 2) each; "seen" is by sep."""
    n = len(measured)
    both = measured.seen("both")
    pairs: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {
        "pooled": (np.ones(n, bool), TWO),
        "central": (np.ones(n, bool), ONE["central"]),
        "companion": (np.ones(n, bool), ONE["companion"]),
        "central, seen": (measured.seen("both", "only central"), ONE["central"]),
        "companion, seen": (measured.seen("both", "only companion"), ONE["companion"]),
        "pairs of which both are seen": (both, TWO),
        "all other pairs": (~both, TWO),
        "pairs of which more than two are seen": (measured.seen("more than two"), TWO),
    }
    return {name: rows[:, None] & which for name, (rows, which) in pairs.items()}


Property = tuple[str, list[tuple[str, float, NDArray[np.bool_]]]]


def properties(measured: Measured) -> dict[str, Property]:
    """Galaxies in bins, by property: what it is; name, middle and galaxies (n, 2) of each bin."""
    pair = np.ones((1, 2))
    difference, apart = measured.difference[:, None] * pair, measured.separation[:, None] * pair
    edges = scores_of_pairs.equal_bins(difference, N_BINS)
    found: dict[str, Property] = {
        f"magnitude difference, {name}": (
            "magnitude of the central less that of the companion",
            _bins(difference, edges, which),
        )
        for name, which in ONE.items()
    }
    for name, what, values in (
        ("separation", "distance of the two [pixel]", apart),
        (
            "relative separation",
            "distance in half-light radii of the galaxy",
            apart / measured.radius,
        ),
        (
            "magnitude",
            "true magnitude of the galaxy [AB]",
            scores_of_pairs.magnitude(measured.true),
        ),
    ):
        found[name] = (what, _bins(values, _even(values), TWO))
    found["kind"] = (
        "kind of the galaxy",
        [(name, float(k), measured.kind == k) for k, name in enumerate(KINDS)],
    )
    found["noise"] = ("noise σ [nJy per pixel]", _noise_bins(measured.noise))
    return found


N_STEPS = 8 + 7  # of `evaluate`: sets and properties


def _even(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of bins that are equally full."""
    return np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, N_BINS + 1)))


def _noise_bins(noise: NDArray[np.float64]) -> list[tuple[str, float, NDArray[np.bool_]]]:
    """A bin for each noise, or where there are many, bins that are equally full."""
    both, levels = np.repeat(noise[:, None], 2, axis=1), np.unique(noise)
    if len(levels) > 2 * N_BINS:
        return _bins(both, _even(both), TWO)
    return [(f"{level:.3g}", float(level), both == level) for level in levels]


def _bins(
    values: NDArray[np.float64], edges: NDArray[np.float64], which: NDArray[np.bool_]
) -> list[tuple[str, float, NDArray[np.bool_]]]:
    number = scores_of_pairs.bin_numbers(values, edges)
    bins = []
    for k in range(len(edges) - 1):
        chosen = (number == k) & which
        middle = float(np.median(values[chosen])) if chosen.any() else float("nan")
        bins.append((f"{edges[k]:.2f} to {edges[k + 1]:.2f}", middle, chosen))
    return bins


def scored(
    measured: Measured,
    methods: Sequence[str],
    chosen: NDArray[np.bool_],
    interval_95: float,
    n_resamples: int,
) -> Table:
    """Scores of every method on the chosen galaxies, (n, 2), all on the same draws.

    Beside `scores_of_pairs.PairScores`: `flux_mape_of_all`, in which a galaxy without a measured
    flux counts as an error of 100 %, and for the network the coverage of its intervals.
    """
    rows = chosen.any(axis=1)
    if not rows.any():
        return {method: {} for method in methods}
    true = np.where(chosen, measured.true, np.nan)[rows]

    def statistic(
        true: NDArray[np.float64], flux: NDArray[np.float64], error: NDArray[np.float64]
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for k, method in enumerate(methods):
            numbers = _scores(true, flux[:, k])
            if k == 0:
                numbers |= {
                    name: scores_of_pairs.coverage(true, flux[:, 0], error, factor)
                    for name, factor in zip(COVERAGES, (1.0, interval_95), strict=True)
                }
            found |= {f"{method}\t{score}": value for score, value in numbers.items()}
        return found

    found = scores_of_pairs.intervals(
        statistic,
        measured.parent[rows],
        true,
        measured.flux[rows],
        measured.error[rows],
        n_resamples=n_resamples,
    )
    return _by_method(found, methods)


def _scores(true: NDArray[np.float64], flux: NDArray[np.float64]) -> dict[str, float]:
    numbers: dict[str, float] = asdict(scores_of_pairs.pair_scores(true, flux))
    known = np.isfinite(true)
    lost = np.where(np.isfinite(flux), flux, 0)
    numbers["flux_mape_of_all"] = float(np.mean(np.abs(lost - true)[known] / true[known]))
    return numbers


def _by_method(found: Mapping[str, Interval], methods: Sequence[str]) -> Table:
    table: Table = {method: {} for method in methods}
    for name, interval in found.items():
        method, score = name.split("\t")
        table[method][score] = interval
    return table


def _scored_totals(measured: Measured, methods: Sequence[str], n_resamples: int) -> Table:
    """The same of the light of both galaxies together; a galaxy sep did not see adds nothing."""
    nothing = np.isnan(measured.flux).all(axis=2)
    flux = np.where(nothing, np.nan, np.nansum(measured.flux, axis=2))

    def statistic(true: NDArray[np.float64], flux: NDArray[np.float64]) -> dict[str, float]:
        return {
            f"{method}\t{score}": value
            for k, method in enumerate(methods)
            for score, value in _scores(true, flux[:, k]).items()
        }

    found = scores_of_pairs.intervals(
        statistic, measured.parent, measured.true.sum(axis=1), flux, n_resamples=n_resamples
    )
    return _by_method(found, methods)


def _ratios(measured: Measured, n_resamples: int) -> dict[str, Interval]:
    """Flux MAPE of sep over that of the network, always on the same galaxies for both."""

    def statistic(
        true: NDArray[np.float64], flux: NDArray[np.float64], both: NDArray[np.bool_]
    ) -> dict[str, float]:
        relative = np.abs(flux - true[:, None]) / true[:, None]  # (n, methods, 2)
        network, sep = relative[:, 0], relative[:, 1]
        seen = np.isfinite(sep)
        counted = np.where(seen, sep, 1)
        return {
            "galaxies that sep measured": _ratio(sep[seen], network[seen]),
            "pairs of which sep saw both": _ratio(sep[both], network[both]),
            "all galaxies, one that sep missed counts as an error of 100 %": _ratio(
                counted, network
            ),
        }

    return scores_of_pairs.intervals(
        statistic,
        measured.parent,
        measured.true,
        measured.flux,
        measured.seen("both"),
        n_resamples=n_resamples,
    )


def _ratio(sep: NDArray[np.float64], network: NDArray[np.float64]) -> float:
    """Ratio of the means; NaN without galaxies, and for a network without error."""
    return float(sep.sum() / network.sum()) if network.sum() > 0 else float("nan")


def _scored_masks(measured: Measured, network: str, n_resamples: int) -> Table:
    """Mean IoU of both galaxies, of each, and the overlap's bias, by network and by sep."""
    names = (network, SEP)

    def statistic(iou: NDArray[np.float64], bias: NDArray[np.float64]) -> dict[str, float]:
        found: dict[str, float] = {}
        for k, name in enumerate(names):
            found[f"{name}\tiou"] = scores_of_pairs.mean_iou(iou[:, k])
            found[f"{name}\tiou_central"] = _known_mean(iou[:, k, 0])
            found[f"{name}\tiou_companion"] = _known_mean(iou[:, k, 1])
            found[f"{name}\toverlap_bias"] = _known_mean(bias[:, k])
            found[f"{name}\toverlap_bias_median"] = _known_median(bias[:, k])
        return found

    found = scores_of_pairs.intervals(
        statistic, measured.parent, measured.iou, measured.overlap_bias, n_resamples=n_resamples
    )
    return _by_method(found, names)


def _known_mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _known_median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
