"""Does a map show a fault that experts have no word for? Each is left out of the words once.

An expert without a word says nothing of such an exposure: its cell stays blank, or gets the name of
what else is in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.agreement import MISSING
from models.evaluation.exposure_map import Mapped, Protocol, carried, label

PURE = 0.9  # share of a cell's exposures that makes it a fault's own beyond doubt
FEW = 3  # exposures, below which a cell shows nothing


@dataclass(frozen=True)
class LeftOut:
    """What becomes of the exposures of a fault without a name; shares of them, mean of repeats."""

    fault: str
    n: int  # exposures with it
    own: float  # in cells of at least FEW exposures where they are more than half
    pure: float  # the same, and hardly anything else is there (PURE)
    noticed: float  # not looked at, in cells where at least half of what was looked at had no word
    blank: float  # not looked at, in cells without a label
    called_positive: float  # not looked at, in cells called positive: missed
    with_word: float  # the same when experts have a word for it
    novel: float  # far from every prototype

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON; None where there was nothing to count."""
        return {
            name: None if value != value else round(value, 4) if name in SHARES else value
            for name, value in asdict(self).items()
        }


SHARES = tuple(each.name for each in fields(LeftOut) if each.name not in ("fault", "n"))


def leave_out(
    mapped: Mapped,
    fault: NDArray[np.str_],
    novel: NDArray[np.bool_],
    protocol: Protocol,
    names: tuple[str, ...],
) -> list[LeftOut]:
    """Leave each of these faults, or classes of faults, out of the words once.

    Parameters
    ----------
    mapped : Mapped
    fault : ndarray of str, shape (n,)
        What is wrong with each exposure, as finely as is known.
    novel : ndarray of bool, shape (n,)
    protocol : Protocol
    names : tuple of str
        Faults and classes.
    """
    truth = np.array(mapped.classes)[mapped.truth]
    unknown = set(names) - set(fault.tolist()) - set(truth.tolist())
    if unknown:
        raise ValueError(f"no exposure has the fault or the class {', '.join(sorted(unknown))}")
    return [
        _left_out(mapped, (fault == name) | (truth == name), novel, protocol, name)
        for name in names
    ]


def _left_out(
    mapped: Mapped,
    has: NDArray[np.bool_],
    novel: NDArray[np.bool_],
    protocol: Protocol,
    name: str,
) -> LeftOut:
    share = _share_in_cell(mapped.cell, has, np.ones(len(mapped), bool))
    full = np.bincount(mapped.cell[mapped.cell >= 0], minlength=mapped.n_cells) >= FEW
    in_full = np.append(full, False)[mapped.cell]
    positive = mapped.classes.index(protocol.positive)
    found = []
    for repeat in range(protocol.n_repeats):
        rng = np.random.default_rng([protocol.seed, repeat])
        with_words = label(mapped, protocol, rng)
        called = carried(mapped.cell, np.where(has, MISSING, with_words.said))
        wordless = _share_in_cell(mapped.cell, has, with_words.looked)
        rows = has & ~with_words.looked
        found.append(
            [
                _mean((wordless >= 0.5)[rows]),
                _mean((called == MISSING)[rows]),
                _mean((called == positive)[rows]),
                _mean((with_words.by_cell == positive)[rows]),
            ]
        )
    noticed, blank, called_positive, with_word = np.mean(found, axis=0).tolist()
    return LeftOut(
        fault=name,
        n=int(has.sum()),
        own=_mean((in_full & (share > 0.5))[has]),
        pure=_mean((in_full & (share >= PURE))[has]),
        noticed=noticed,
        blank=blank,
        called_positive=called_positive,
        with_word=with_word,
        novel=_mean(novel[has]),
    )


def _share_in_cell(
    cell: NDArray[np.int64], has: NDArray[np.bool_], among: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Of the exposures `among` in each exposure's cell, the share that has the fault; 0 if none."""
    placed = (cell >= 0) & among
    n_cells = int(cell.max(initial=-1)) + 1
    everyone = np.bincount(cell[placed], minlength=n_cells)
    faulty = np.bincount(cell[placed & has], minlength=n_cells)
    return np.append(faulty / np.maximum(everyone, 1), 0.0)[cell]


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")
