"""How well blends are told from single galaxies, by a network and by sep, at one noise or many.

All judges see the very same cutouts. Formulas are those of `models.scores_of_pairs` and
`models.scores`, cutouts come from `known_pairs`, and the page is made in `blend_report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import extraction, scores, scores_of_pairs
from models.blender import PUBLISHED_SIGMA as NOISE_UNIT  # nJy in BlendHunter's unit
from models.evaluation.known_pairs import KnownPairs, Progress
from models.scores import Interval

FAIR, TOLD = "sep, fair rule", "sep, told the truth"
FARTHEST = 35.36  # pixels, with offsets up to 25 along both axes
MOST_BINS, FEWEST_BLENDS = 60, 100  # of separation; in a bin on average
N_RESAMPLES = 500
SHOWN = (
    "accuracy",
    "found",
    "spared",
    "accuracy_close",
    "accuracy_distant",
    "found_close",
    "found_distant",
)

Predict = Callable[[NDArray[np.float32]], NDArray[np.floating]]
Row = dict[str, Interval]  # by score


@dataclass(frozen=True)
class Judged:
    """Truth, and what every judge says, of n cutouts."""

    is_blend: NDArray[np.bool_]  # (n,)
    separation: NDArray[np.float64]  # (n,) [pixel], NaN where there is one galaxy
    noise: NDArray[np.float64]  # (n,) [nJy]
    trial: NDArray[np.int64]  # (n,)
    parent: NDArray[np.int64]  # (n,) the central galaxy
    number: NDArray[np.int64]  # (n,) of the cutout in its trial
    p_blend: NDArray[np.float64]  # (n,) of the network
    fair: NDArray[np.bool_]  # (n,) verdict of sep
    told: NDArray[np.bool_]  # (n,) verdict of sep, which is told where the galaxies are
    detections: NDArray[np.int64]  # (n,) of sep

    def __len__(self) -> int:
        return len(self.is_blend)

    def take(self, rows: NDArray[Any]) -> Judged:
        """Some of the cutouts, by a mask or by their numbers."""
        return Judged(*(getattr(self, each.name)[rows] for each in fields(Judged)))

    @property
    def called(self) -> NDArray[np.bool_]:
        """What the network calls a blend, shape (n,): from probability 0.5."""
        return self.p_blend >= 0.5

    @property
    def levels(self) -> list[float]:
        """The noises, rising [nJy]."""
        return [float(level) for level in np.unique(self.noise)]


def judge(
    known: KnownPairs,
    predict: Predict,
    trial: int = 0,
    *,
    progress: Progress | None = None,
) -> Judged:
    """Ask the network and sep about every cutout.

    Parameters
    ----------
    known : KnownPairs
    predict : function(pixels) -> P(blend), (n,)
    trial : int
        Number of the realisation.
    progress : callable, optional
        Called with the number of cutouts done.
    """
    parts = []
    for first, pairs in known.chunks():
        count = len(pairs.pixels)
        fair, detections = extraction.verdict(pairs.pixels)
        told, _ = extraction.truth_aware_verdict(pairs.pixels, pairs.dx, pairs.dy, pairs.is_blend)
        parts.append(
            Judged(
                is_blend=pairs.is_blend,
                separation=pairs.separation.astype(np.float64),
                noise=np.full(count, known.level),
                trial=np.full(count, trial),
                parent=pairs.parent[:, 0],
                number=np.arange(first, first + count),
                p_blend=np.asarray(predict(pairs.pixels), np.float64),
                fair=fair,
                told=told,
                detections=detections.astype(np.int64),
            )
        )
        if progress:
            progress(count)
    return joined(parts)


def joined(parts: Sequence[Judged]) -> Judged:
    """Several lots of cutouts as one."""
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(Judged)
    }
    return Judged(**columns)


@dataclass(frozen=True)
class AtNoise:
    """What there is to say of the cutouts of one noise, or of all."""

    noise: float  # [nJy]; NaN for all together
    n_blends: int
    n_singles: int
    rows: dict[str, Row]  # by judge
    gains: dict[str, Row]  # network less sep, by rule of sep
    deviations: dict[str, dict[str, float]]  # over the trials, by judge and score
    probabilities: Row  # scores of P(blend)
    confusion: dict[str, dict[str, float]]  # by judge, shares of all cutouts
    found_by_separation: dict[str, list[float | None]]  # by judge
    blends_by_separation: list[int]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""

        def plain(rows: Mapping[str, Row]) -> dict[str, Any]:
            return {
                name: {score: each.as_dict() for score, each in row.items()}
                for name, row in rows.items()
            }

        return {
            "noise": None if np.isnan(self.noise) else self.noise,
            "n_blends": self.n_blends,
            "n_singles": self.n_singles,
            "judges": plain(self.rows),
            "network_less_sep": plain(self.gains),
            "deviation_over_trials": self.deviations,
            "probabilities": {name: each.as_dict() for name, each in self.probabilities.items()},
            "confusion": self.confusion,
            "found_by_separation": self.found_by_separation,
            "blends_by_separation": self.blends_by_separation,
        }


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a report, and the verdicts behind them."""

    title: str
    protocol: str
    network: str
    judged: Judged
    edges: NDArray[np.float64]  # of the bins of separation [pixel]
    at_noise: list[AtNoise]  # rising
    everything: AtNoise

    @property
    def judges(self) -> tuple[str, ...]:
        """The network first."""
        return (self.network, FAIR, TOLD)

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "title": self.title,
            "protocol": self.protocol,
            "n_cutouts": len(self.judged),
            "n_central_galaxies": len(np.unique(self.judged.parent)),
            "n_trials": len(np.unique(self.judged.trial)),
            "noise_unit": NOISE_UNIT,
            "edges": self.edges.round(3).tolist(),
            "by_noise": [each.as_dict() for each in self.at_noise],
            "all": self.everything.as_dict(),
        }


def evaluate(
    judged: Judged,
    network: str,
    protocol: str,
    *,
    n_resamples: int = N_RESAMPLES,
    progress: Progress | None = None,
) -> Evaluation:
    """Score what was said; intervals are at 95 %, by drawing central galaxies anew.

    Parameters
    ----------
    network : str
        What the report calls the network.
    progress : callable, optional
        Called with 1 after each noise, and after all noises together.
    """
    edges = separation_edges(judged)
    found = []
    for level in [*judged.levels, float("nan")]:
        rows = judged if np.isnan(level) else judged.take(judged.noise == level)
        found.append(_at_noise(rows, network, level, edges, n_resamples))
        if progress:
            progress(1)
    return Evaluation(f"Blends: {network}", protocol, network, judged, edges, found[:-1], found[-1])


def separation_edges(judged: Judged) -> NDArray[np.float64]:
    """Edges of bins of separation [pixel]: 60 as in BlendHunter's figure, or fewer for few blends.

    They go to 35.36 pixels, the corner of its square of offsets, or to the farthest pair.
    """
    n_blends = int(judged.is_blend.sum()) // max(len(judged.levels), 1)
    bins = int(np.clip(n_blends // FEWEST_BLENDS, 7, MOST_BINS))
    return np.linspace(0, max(FARTHEST, float(np.nanmax(judged.separation, initial=0))), bins + 1)


def _at_noise(
    judged: Judged,
    network: str,
    level: float,
    edges: NDArray[np.float64],
    n_resamples: int,
) -> AtNoise:
    said = {network: judged.called, FAIR: judged.fair, TOLD: judged.told}
    rows, gains = _compared(judged, said, n_resamples)
    by_separation = {
        name: scores_of_pairs.found_by_separation(judged.separation, judged.is_blend, each, edges)
        for name, each in said.items()
    }
    whole = {name: _blend_scores(judged, each) for name, each in said.items()}
    return AtNoise(
        noise=level,
        n_blends=int(judged.is_blend.sum()),
        n_singles=int((~judged.is_blend).sum()),
        rows=rows,
        gains=gains,
        deviations={name: _over_trials(judged, each) for name, each in said.items()},
        probabilities=_of_probabilities(judged, n_resamples),
        confusion={name: each.confusion for name, each in whole.items()},
        found_by_separation={
            name: [None if np.isnan(share) else float(share) for share in shares]
            for name, (shares, _) in by_separation.items()
        },
        blends_by_separation=by_separation[network][1].tolist(),
    )


def _blend_scores(judged: Judged, said: NDArray[np.bool_]) -> scores_of_pairs.BlendScores:
    return scores_of_pairs.blend_scores(judged.is_blend, said, judged.separation)


def _compared(
    judged: Judged, said: Mapping[str, NDArray[np.bool_]], n_resamples: int
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Scores of every judge, and by how much the first is better, all on the same draws."""
    names, verdicts = list(said), np.stack(list(said.values()), axis=1)

    def statistic(
        truth: NDArray[np.bool_], separation: NDArray[np.float64], verdicts: NDArray[np.bool_]
    ) -> dict[str, float]:
        numbers = {}
        each = [
            scores_of_pairs.blend_scores(truth, verdicts[:, k], separation)
            for k in range(len(names))
        ]
        for score in SHOWN:
            first = getattr(each[0], score)
            for name, one in zip(names, each, strict=True):
                numbers[f"{name}\t{score}"] = getattr(one, score)
                numbers[f"less {name}\t{score}"] = first - getattr(one, score)
        return numbers

    found = scores_of_pairs.intervals(
        statistic,
        judged.parent,
        judged.is_blend,
        judged.separation,
        verdicts,
        n_resamples=n_resamples,
    )
    rows = {name: {score: found[f"{name}\t{score}"] for score in SHOWN} for name in names}
    gains = {name: {score: found[f"less {name}\t{score}"] for score in SHOWN} for name in names[1:]}
    return rows, gains


def _over_trials(judged: Judged, said: NDArray[np.bool_]) -> dict[str, float]:
    """Standard deviation of each score over the trials, of the population."""
    each = [
        _blend_scores(judged.take(judged.trial == trial), said[judged.trial == trial])
        for trial in np.unique(judged.trial)
    ]
    return {score: float(np.std([getattr(one, score) for one in each])) for score in SHOWN}


def _of_probabilities(judged: Judged, n_resamples: int) -> Row:
    """Area under the ROC curve, calibration error and Brier score."""
    metrics: dict[str, scores.Metric] = {
        "auc": scores.auc,
        "calibration_error": scores.calibration_error,
        "brier": scores.brier,
    }
    return scores.bootstrap(
        judged.is_blend,
        judged.p_blend,
        judged.parent,
        metrics,
        n_resamples=min(n_resamples, 200),
    )
