"""How well labels of cells name exposures that nobody looked at: the DESOM paper's protocol.

Some exposures of each cell are looked at, their majority names the cell, and the cell names all
its other exposures, which alone are scored. Arrays in, numbers out; `unnamed_faults` asks whether
the map also shows a fault that experts have no word for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import agreement
from models.agreement import MISSING, majority
from models.scores import Interval

N_RESAMPLES = 2000
PUBLISHED = {  # accuracy, precision, recall; the share of exposures in blank cells is not given
    "published, labels of a supervised network": (0.940, 0.946, 0.978),
    "published, an expert on 2,000 exposures": (0.958, 0.929, 0.991),
}


@dataclass(frozen=True)
class Mapped:
    """Exposures on a map, with the truth about each."""

    cell: NDArray[np.int64]  # (n,) row by row; MISSING without a cell, or far from every prototype
    truth: NDArray[np.int64]  # (n,) place in `classes`
    classes: tuple[str, ...]
    distance: NDArray[np.float64]  # (n,) to the prototype

    def __post_init__(self) -> None:
        if len(self.truth) and not 0 <= self.truth.min() <= self.truth.max() < len(self.classes):
            raise ValueError(f"truth must be from 0 to {len(self.classes) - 1}, for {self.classes}")

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def n_cells(self) -> int:
        """Cells up to the last that is occupied."""
        return int(self.cell.max(initial=MISSING)) + 1


@dataclass(frozen=True)
class Protocol:
    """Which exposures are looked at, and by whom."""

    per_cell: int | None = 5  # exposures looked at in a cell, at most; None for no limit
    budget: float | None = None  # share of all exposures that may be looked at
    look: Literal["random", "nearest"] = "random"  # or those nearest to the prototype
    n_experts: int = 1
    error: float = 0.0  # how often an expert names a wrong class
    positive: str = "Good"
    n_repeats: int = 5  # with other exposures looked at, and other errors
    seed: int = 0


@dataclass(frozen=True)
class Labelled:
    """What came of looking once."""

    looked: NDArray[np.bool_]  # (n,)
    said: NDArray[np.int64]  # (n,) the experts' majority; MISSING where not looked at, or on a tie
    by_cell: NDArray[np.int64]  # (n,) label of the exposure's cell; MISSING if it is blank
    is_positive: NDArray[np.int64]  # (n,) the same of two classes: 1 positive, 0 rest, MISSING


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a report; means over the repeats."""

    protocol: Protocol
    classes: tuple[str, ...]
    n_exposures: int
    n_looked: float
    n_scored: float
    scores: dict[str, Interval]
    baseline: dict[str, float]  # everything is called positive
    confusion: NDArray[np.float64]  # (k, k + 1): true class by label of the cell; the last is blank
    purity: float
    mutual_information: float  # normalised

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            **asdict(self),
            "scores": {name: interval.as_dict() for name, interval in self.scores.items()},
            "confusion": np.round(self.confusion, 1).tolist(),
            "published": {
                name: dict(zip(("accuracy", "precision", "recall"), numbers, strict=True))
                for name, numbers in PUBLISHED.items()
            },
        }


def evaluate(mapped: Mapped, protocol: Protocol) -> Evaluation:
    """Label cells, and score the labels on the exposures that were not looked at."""
    repeats = [
        label(mapped, protocol, np.random.default_rng([protocol.seed, repeat]))
        for repeat in range(protocol.n_repeats)
    ]
    return score(mapped, protocol, repeats)


def score(mapped: Mapped, protocol: Protocol, repeats: list[Labelled]) -> Evaluation:
    """Score labels of cells on the exposures that were not looked at.

    Intervals are at 95 %, from exposures drawn anew for every repeat of the labelling.
    """
    positive = _positive(mapped, protocol)
    tables = [outcomes(mapped, positive, each) for each in repeats]
    confusions = [_confusion(mapped, each) for each in repeats]
    is_positive = mapped.truth == positive
    share = float(np.mean([is_positive[~each.looked].mean() for each in repeats]))
    return Evaluation(
        protocol=protocol,
        classes=mapped.classes,
        n_exposures=len(mapped),
        n_looked=float(np.mean([each.looked.sum() for each in repeats])),
        n_scored=float(np.mean([table[:, :2].sum() for table in tables])),
        scores=_with_intervals(tables, confusions, protocol.seed),
        baseline={"accuracy": share, "precision": share, "recall": 1.0},
        confusion=np.mean(confusions, axis=0),
        purity=purity(mapped),
        mutual_information=mutual_information(mapped),
    )


def labelled_by_team(
    mapped: Mapped,
    protocol: Protocol,
    by_cell: NDArray[np.int64],
    looked: NDArray[np.bool_],
) -> Labelled:
    """Labels that cells bear already.

    Parameters
    ----------
    by_cell : ndarray of int, shape (n,)
        Place in `classes` of the label of each exposure's cell, or MISSING.
    looked : ndarray of bool, shape (n,)
        Exposures that were labelled themselves; they are not scored.
    """
    is_positive = np.where(by_cell == MISSING, MISSING, by_cell == _positive(mapped, protocol))
    return Labelled(looked, np.full(len(mapped), MISSING), by_cell, is_positive)


def label(mapped: Mapped, protocol: Protocol, rng: np.random.Generator) -> Labelled:
    """Look at some exposures of every cell, and name the cells by what was seen."""
    looked = choose(mapped, protocol, rng)
    votes = opinions(
        mapped.truth[looked], len(mapped.classes), protocol.n_experts, protocol.error, rng
    )
    said = np.full(len(mapped), MISSING)
    said[looked] = majority(votes)
    good = np.where(said == MISSING, MISSING, said == _positive(mapped, protocol))
    return Labelled(looked, said, carried(mapped.cell, said), carried(mapped.cell, good))


def choose(mapped: Mapped, protocol: Protocol, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the exposures that experts look at, shape (n,)."""
    n_looks = looks(
        np.bincount(mapped.cell[mapped.cell >= 0], minlength=mapped.n_cells),
        protocol.per_cell,
        None if protocol.budget is None else int(protocol.budget * len(mapped)),
    )
    order = rng.random(len(mapped)) if protocol.look == "random" else mapped.distance
    looked = _rank_in_cell(mapped.cell, order) < np.append(n_looks, 0)[mapped.cell]
    return looked & (mapped.cell >= 0)


def looks(
    population: NDArray[np.int64], per_cell: int | None, budget: int | None
) -> NDArray[np.int64]:
    """How many exposures of each cell to look at.

    Within a budget every cell is looked into once, the fullest first, and then each further look
    goes to the cell with the most exposures for each look (Sainte-Laguë's quotas).

    Parameters
    ----------
    population : ndarray of int, shape (c,)
    per_cell, budget : int or None
        Most looks in a cell and in all; None for no limit.
    """
    most = np.minimum(population, per_cell) if per_cell is not None else population.copy()
    if budget is None or budget >= most.sum():
        return most
    cell = np.repeat(np.arange(len(most)), most)
    earlier = np.concatenate([np.arange(n) for n in most])  # looks into the same cell before
    quota = population[cell] / (2 * earlier + 1)
    best = np.lexsort((cell, -quota, earlier > 0))[:budget]
    return np.bincount(cell[best], minlength=len(most))


def opinions(
    truth: NDArray[np.int64], n_classes: int, n_experts: int, error: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """What simulated experts say, (n, e): the truth, or with chance `error` another class."""
    shape = (len(truth), n_experts)
    wrong = (truth[:, None] + rng.integers(1, max(n_classes, 2), shape)) % n_classes
    return np.where(rng.random(shape) < error, wrong, truth[:, None])


def carried(cell: NDArray[np.int64], said: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label of each exposure's cell, (n,): its majority; MISSING on a tie and where nobody spoke.

    Parameters
    ----------
    cell, said : ndarray of int, shape (n,)
        Cell and label of each exposure; MISSING where there is none.
    """
    rows = (cell >= 0) & (said != MISSING)
    if not rows.any():
        return np.full(len(cell), MISSING)
    rank = _rank_in_cell(np.where(rows, cell, MISSING), np.arange(len(cell)))
    votes = np.full((cell.max() + 1, rank[rows].max() + 1), MISSING)
    votes[cell[rows], rank[rows]] = said[rows]
    return np.append(majority(votes), MISSING)[cell]


def outcomes(mapped: Mapped, positive: int, labelled: Labelled) -> NDArray[np.int64]:
    """Exposures not looked at by truth (rest, positive) and answer (rest, positive, blank)."""
    unseen = ~labelled.looked
    truth = (mapped.truth[unseen] == positive).astype(int)
    answer = np.where(labelled.is_positive == MISSING, 2, labelled.is_positive)[unseen]
    return np.bincount(3 * truth + answer, minlength=6).reshape(2, 3)


def purity(mapped: Mapped) -> float:
    """Share of the exposures that belong to the most frequent class of their cell."""
    placed = mapped.cell >= 0
    counts = np.zeros((mapped.n_cells, len(mapped.classes)), int)
    np.add.at(counts, (mapped.cell[placed], mapped.truth[placed]), 1)
    occupied = counts[counts.any(axis=1)]
    if not len(occupied):
        return float("nan")
    return float(np.average(agreement.purity(occupied)[0], weights=occupied.sum(axis=1)))


def mutual_information(mapped: Mapped) -> float:
    """Normalised mutual information of class and cell, 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    placed = mapped.cell >= 0
    return float(normalized_mutual_info_score(mapped.truth[placed], mapped.cell[placed]))


def topographic_error(latent: NDArray[np.floating], prototypes: NDArray[np.floating]) -> float:
    """Share of exposures whose two nearest prototypes are not neighbours, sharing an edge.

    Parameters
    ----------
    latent : ndarray, shape (n, d)
    prototypes : ndarray, shape (rows, columns, d)

    References
    ----------
    Kiviluoto (1996), Topology preservation in self-organizing maps.
    """
    _, columns, d = prototypes.shape
    flat = prototypes.reshape(-1, d)
    squared = (flat**2).sum(axis=1) - 2 * latent @ flat.T  # (n, c), but for |latent|²
    first, second = np.argsort(squared, axis=1)[:, :2].T
    apart = abs(first // columns - second // columns) + abs(first % columns - second % columns)
    return float((apart > 1).mean()) if len(apart) else float("nan")


def _positive(mapped: Mapped, protocol: Protocol) -> int:
    if protocol.positive not in mapped.classes:
        raise ValueError(
            f"there is no class {protocol.positive!r} among the labels: {', '.join(mapped.classes)}"
        )
    return mapped.classes.index(protocol.positive)


def _rank_in_cell(cell: NDArray[np.int64], order: NDArray) -> NDArray[np.int64]:
    """Place of each exposure among those of its cell, (n,), by increasing `order`."""
    by_cell = np.lexsort((order, cell))
    sorted_cells = cell[by_cell]
    first = np.searchsorted(sorted_cells, sorted_cells)
    rank = np.empty(len(cell), int)
    rank[by_cell] = np.arange(len(cell)) - first
    return rank


def _confusion(mapped: Mapped, labelled: Labelled) -> NDArray[np.int64]:
    k, unseen = len(mapped.classes), ~labelled.looked
    answer = np.where(labelled.by_cell == MISSING, k, labelled.by_cell)[unseen]
    flat = (k + 1) * mapped.truth[unseen] + answer
    return np.bincount(flat, minlength=k * (k + 1)).reshape(k, k + 1)


def _with_intervals(
    tables: list[NDArray[np.int64]], confusions: list[NDArray[np.int64]], seed: int
) -> dict[str, Interval]:
    """Scores of the repeats together; drawing exposures anew is drawing from these tables."""
    rng = np.random.default_rng(seed)
    each = -(-N_RESAMPLES // len(tables))
    found: dict[str, Interval] = {}
    for given, metrics in ((tables, BINARY), (confusions, SEVERAL)):
        drawn = [_drawn(table, each, rng) for table in given]
        for name, metric in metrics.items():
            value = float(np.mean([metric(table[None].astype(float))[0] for table in given]))
            draws = np.concatenate([metric(part) for part in drawn])
            draws = draws[~np.isnan(draws)]
            ends = np.percentile(draws, [2.5, 97.5]) if len(draws) else (np.nan, np.nan)
            found[name] = Interval(value, float(ends[0]), float(ends[1]))
    return found


def _drawn(table: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    total = int(table.sum())
    shares = table.ravel() / max(total, 1)
    return rng.multinomial(total, shares, n).reshape(n, *table.shape).astype(float)


def _ratio(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return part / np.where(whole > 0, whole, np.nan)


BINARY = {  # of outcomes, (draws, 2, 3)
    "accuracy": lambda t: _ratio(t[:, 0, 0] + t[:, 1, 1], t[:, :, :2].sum(axis=(1, 2))),
    "precision": lambda t: _ratio(t[:, 1, 1], t[:, :, 1].sum(axis=1)),
    "recall": lambda t: _ratio(t[:, 1, 1], t[:, 1, :2].sum(axis=1)),
    "coverage": lambda t: _ratio(t[:, :, :2].sum(axis=(1, 2)), t.sum(axis=(1, 2))),
}
SEVERAL = {  # of confusions, (draws, k, k + 1)
    "accuracy_of_classes": lambda t: _ratio(
        np.trace(t, axis1=1, axis2=2), t[:, :, :-1].sum(axis=(1, 2))
    ),
    "coverage_of_classes": lambda t: _ratio(t[:, :, :-1].sum(axis=(1, 2)), t.sum(axis=(1, 2))),
}
