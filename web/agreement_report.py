"""What votes amount to: every number about agreement that the page and the command show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.agreement import Votes
from models import agreement
from models.agreement import Consensus, Pair

if TYPE_CHECKING:  # slow to import
    from models.scores import Interval


@dataclass(frozen=True)
class Agreement:
    """How far experts agree on the subjects of a kind."""

    votes: Votes
    n_shared: int  # subjects with two votes or more
    n_unanimous: int  # of those
    n_tied: int  # of those without a majority
    fleiss: Interval
    alpha: Interval
    pairs: Sequence[Pair]
    by_class: NDArray[np.float64]  # (k,)
    consensus: Consensus

    @property
    def n_said(self) -> NDArray[np.int64]:
        """Subjects that each expert labelled, shape (e,)."""
        return (self.votes.said != agreement.MISSING).sum(axis=0)

    @property
    def n_named(self) -> NDArray[np.int64]:
        """Votes for each class, shape (k,)."""
        return agreement.value_counts(self.votes.said, len(self.votes.classes)).sum(axis=0)


def measure(votes: Votes) -> Agreement:
    """Measure how far experts agree, with intervals."""
    k = max(1, len(votes.classes))
    counts = agreement.value_counts(votes.said, k)
    shared = counts[counts.sum(axis=1) > 1]
    fleiss, alpha = agreement.overall(votes.said)
    settled = agreement.majority(votes.said, k)[counts.sum(axis=1) > 1]
    return Agreement(
        votes=votes,
        n_shared=len(shared),
        n_unanimous=int(((shared > 0).sum(axis=1) == 1).sum()),
        n_tied=int((settled == agreement.MISSING).sum()),
        fleiss=fleiss,
        alpha=alpha,
        pairs=agreement.pairs(votes.said, k),
        by_class=agreement.by_class(votes.said, k),
        consensus=agreement.dawid_skene(votes.said, k),
    )
