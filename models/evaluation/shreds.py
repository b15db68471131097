"""How well galaxies are told from shreds, measured only on sources that were never learnt from.

Two ways: `cross_validate` trains anew for every fold; `evaluate_version` asks given weights about
labelled sources and leaves out those the weights have seen. Pictures and pages are in `report`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import registry, scores, shreds
from models.features import features
from models.labelled import Labelled, folds
from models.training.shreds import Preset, Progress, train
from models.training.trees import grow

CAVEAT = (
    "The recipe was chosen by looking at such numbers, so they are slightly flattering; the "
    "intervals do not include that."
)


class SeenError(ValueError):
    """Weights were to be judged on the very sources they were trained on."""


@dataclass(frozen=True)
class Opinion:
    """One classifier's probabilities for the decided sources, in their order."""

    name: str
    p_shred: NDArray[np.float64]  # (n,)
    intervals: dict[str, scores.Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What a report shows: the sources, the first opinion, and the baselines after it."""

    title: str
    protocol: str
    data: Labelled  # decided sources only
    fold: NDArray[np.int64]  # (n,) which fold judged each
    opinions: list[Opinion]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "title": self.title,
            "protocol": self.protocol,
            "n_galaxies": int((~self.data.is_shred).sum()),
            "n_shreds": int(self.data.is_shred.sum()),
            "n_groups": len(np.unique(self.data.group)),
            "labels_sha256": self.data.sha256,
            "classifiers": {
                opinion.name: {name: each.as_dict() for name, each in opinion.intervals.items()}
                for opinion in self.opinions
            },
            "errors": {
                opinion.name: asdict(scores.counts(self.data.is_shred, opinion.p_shred))
                for opinion in self.opinions
            },
        }


def cross_validate(
    data: Labelled,
    preset: Preset,
    name: str,
    *,
    n_folds: int = 5,
    seed: int = 0,
    baselines: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Train and judge `n_folds` times, every group judged once by a network that never saw it.

    Parameters
    ----------
    data : Labelled
    preset : Preset
        Recipe of the network.
    name : str
        What the report calls it.
    baselines : bool
        Judge always-galaxy and boosted trees on simple features by the same folds.
    progress : callable, optional
        Called with 1 after each round of training.
    """
    fold = folds(data.group, n_folds, seed)

    def network(training: Labelled, unseen: Labelled, k: int) -> NDArray:
        model = train(training, preset, seed * n_folds + k, progress)
        return shreds.predict(model, unseen.rgb)

    judges: dict[str, Judge] = {name: network}
    if baselines:
        judges |= BASELINES
    decided, judged_by = data.take(data.decided), fold[data.decided]
    p_shred = {label: _by_folds(judge, data, fold)[data.decided] for label, judge in judges.items()}
    p_shred[name] = calibrate_by_folds(decided.is_shred, p_shred[name], judged_by)
    opinions = [_opinion(label, p, decided) for label, p in p_shred.items()]
    protocol = (
        f"{n_folds}-fold cross-validation, folds split by group (seed {seed}); every source is "
        "judged by a network trained without its group, calibrated on the judgements of the other "
        f"folds. {CAVEAT}"
    )
    return Evaluation(f"Shreds: {name}", protocol, decided, judged_by, opinions)


def calibrate_by_folds(
    is_shred: NDArray[np.bool_], p_shred: NDArray, fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Calibrate every fold by the probabilities of the other folds."""
    result = np.empty(len(p_shred))
    for k in np.unique(fold):
        temperature, offset = scores.fit_calibration(is_shred[fold != k], p_shred[fold != k])
        result[fold == k] = scores.calibrated(p_shred[fold == k], temperature, offset)
    return result


Judge = Callable[[Labelled, Labelled, int], NDArray]


def _by_folds(judge: Judge, data: Labelled, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    p_shred = np.full(len(data), np.nan)
    for k in np.unique(fold):
        p_shred[fold == k] = judge(data.take(fold != k), data.take(fold == k), int(k))
    return p_shred


def _always_galaxy(training: Labelled, unseen: Labelled, k: int) -> NDArray:
    return np.zeros(len(unseen))


def _boosted_trees(training: Labelled, unseen: Labelled, k: int) -> NDArray:
    training = training.take(training.decided)
    grown = grow(features(training.rgb), training.is_shred, count=300, seed=k)
    return grown.predict_proba(features(unseen.rgb))[:, 1]


BASELINES: dict[str, Judge] = {
    "always galaxy": _always_galaxy,
    "boosted trees on simple features": _boosted_trees,
}


def _opinion(name: str, p_shred: NDArray, decided: Labelled) -> Opinion:
    return Opinion(name, p_shred, scores.bootstrap(decided.is_shred, p_shred, decided.group))


def evaluate_version(data: Labelled, card: registry.Card) -> Evaluation:
    """Judge the weights of a card on the decided sources they have never seen.

    Raises
    ------
    SeenError
        Every source, or all of one class, was among the training data.
    """
    seen = np.isin(fingerprints(data.rgb), read_fingerprints(registry.seen_path(card.path)))
    unseen = data.take(~seen & data.decided)
    if len(set(unseen.label)) < 2:
        raise SeenError(
            f"{card.name} was trained on {int(seen.sum())} of these {len(data)} sources and too "
            "few others are left to judge it: its card holds the cross-validated numbers, and "
            "--cross-validate measures its recipe again"
        )
    model = registry.load(card)
    opinions = [
        _opinion(card.name, shreds.predict(model, unseen.rgb), unseen),
        _opinion("always galaxy", np.zeros(len(unseen)), unseen),
    ]
    protocol = (
        f"{len(unseen)} sources that {card.name} has never seen; {int(seen.sum())} that it was "
        "trained on are left out. Whether a host galaxy was seen from elsewhere is not known."
    )
    everyone = np.zeros(len(unseen), np.int64)
    return Evaluation(f"Shreds: {card.name}", protocol, unseen, everyone, opinions)


def fingerprints(rgb: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Twelve hexadecimal digits that tell pictures (n, h, w, 3) apart."""
    return np.array([hashlib.sha256(picture.tobytes()).hexdigest()[:12] for picture in rgb])


def write_fingerprints(rgb: NDArray[np.uint8], path: Path) -> None:
    """Keep which pictures a network has seen, beside its weights."""
    path.write_text("\n".join(sorted(fingerprints(rgb))) + "\n")


def read_fingerprints(path: Path) -> list[str]:
    """The pictures a network has seen."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} should list the pictures the network was trained on")
    return path.read_text().split()


def predictions_table(evaluation: Evaluation) -> str:
    """The first opinion source by source, as CSV."""
    lines = ["objID,group,fold,label,p_shred"]
    data, p_shred = evaluation.data, evaluation.opinions[0].p_shred
    for row in range(len(data)):
        lines.append(
            f"{data.survey_id[row]},{data.group[row]},{evaluation.fold[row]},"
            f"{data.label[row]},{p_shred[row]:.5f}"
        )
    return "\n".join(lines) + "\n"


def write_numbers(evaluation: Evaluation, folder: Path) -> None:
    """Write `metrics.json` and `predictions.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n")
    (folder / "predictions.csv").write_text(predictions_table(evaluation))
