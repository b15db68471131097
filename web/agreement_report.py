"""What votes amount to: every number about agreement that the page and the command show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

    def matrix(self) -> list[list[Pair | None]]:
        """The pairs as a square table of the experts, (e, e); None on the diagonal."""
        table: list[list[Pair | None]] = [[None] * len(self.votes.experts) for _ in self.n_said]
        for pair in self.pairs:
            table[pair.first][pair.second] = table[pair.second][pair.first] = pair
        return table


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


def facts(found: Agreement) -> dict[str, Any]:
    """Return it all for machines."""
    votes = found.votes
    names = [expert.name for expert in votes.experts]
    return {
        "subject": votes.kind,
        "n_subjects": len(votes.said),
        "n_shared": found.n_shared,
        "n_unanimous": found.n_unanimous,
        "n_tied": found.n_tied,
        "classes": [one.name for one in votes.classes],
        "fleiss_kappa": found.fleiss.as_dict(),
        "krippendorff_alpha": found.alpha.as_dict(),
        "experts": [
            {"expert": name, "n": int(n), "reliability": round(float(reliability), 4)}
            for name, n, reliability in zip(
                names, found.n_said, found.consensus.reliability, strict=True
            )
        ],
        "pairs": [
            {
                "first": names[pair.first],
                "second": names[pair.second],
                "n": pair.n,
                "cohen_kappa": pair.kappa.as_dict(),
                "confusion": pair.confusion.tolist(),
            }
            for pair in found.pairs
        ],
        "classes_agreement": {
            one.name: None if np.isnan(share) else round(float(share), 4)
            for one, share in zip(votes.classes, found.by_class, strict=False)
        },
    }
