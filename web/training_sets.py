"""Training sets: what experts said, weighed, as the rows of a file that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import training_sets
from db.agreement import Votes
from db.export import Column
from db.tables import ModelVersion
from db.training_sets import ROWS_AT_ONCE, Kind
from models import agreement

Method = Literal["majority", "dawid-skene"]
METHODS: tuple[Method, ...] = ("majority", "dawid-skene")
CONFIDENCE = {
    "majority": "Share of the experts who spoke that say so",
    "dawid-skene": "Probability by the model of Dawid & Skene (1979)",
}


@dataclass(frozen=True)
class Weighed:
    """The label of each subject that has votes, shape (n,)."""

    votes: Votes
    method: Method
    chosen: NDArray[np.int64]  # place in votes.classes, -1 on a tie
    confidence: NDArray[np.float64]
    n_votes: NDArray[np.int64]  # for the label
    n_experts: NDArray[np.int64]  # who spoke

    def usable(self, min_experts: int) -> NDArray[np.int64]:
        """Return which subjects have a label from enough experts."""
        return np.flatnonzero((self.chosen >= 0) & (self.n_experts >= min_experts))


def weigh(votes: Votes, method: Method) -> Weighed:
    """Find the label of each subject by what the experts say of it."""
    k = max(1, len(votes.classes))
    counts = agreement.value_counts(votes.said, k)
    n_experts = counts.sum(axis=1)
    if method == "majority":
        chosen = agreement.majority(votes.said, k)
        n_votes = counts.max(axis=1, initial=0)
        return Weighed(votes, method, chosen, n_votes / n_experts, n_votes, n_experts)
    p = agreement.dawid_skene(votes.said, k).p
    chosen = p.argmax(axis=1)
    n_votes = counts[np.arange(len(counts)), chosen]
    return Weighed(votes, method, chosen, p.max(axis=1), n_votes, n_experts)


def columns(kind: Kind, method: Method) -> tuple[Column, ...]:
    """Return what the columns of a training set are."""
    name = "name" if kind == "exposure" else "survey_id"
    path = [Column("path", "text", "Where the file was when it was ingested")]
    said = f"{CONFIDENCE[method]}; of a propagated label see docs/agreement.md"
    return (
        Column(f"{kind}_id", "integer", f"Number of the {kind} in the database"),
        Column(name, "text", f"Name of the {kind}"),
        Column("catalog", "text", "Catalog it is in"),
        *(path if kind == "exposure" else ()),
        Column("ra", "real", "Right ascension, ICRS", "deg"),
        Column("dec", "real", "Declination, ICRS", "deg"),
        Column("label", "text", "Name of the label class"),
        Column("label_class_id", "integer", "Number of the label class, which outlives its name"),
        Column("origin", "text", "direct: said of it; propagated: said of its cell of a map"),
        Column("confidence", "real", f"{said}, 0 to 1"),
        Column("n_votes", "integer", "Experts who gave this label"),
        Column("n_experts", "integer", "Experts who gave any label"),
        Column("votes", "text", "Label by expert, as JSON; empty where it is propagated"),
        Column("model_version", "text", "The map, of a propagated label"),
        Column("cell_row", "integer", "0-based row of the cell, of a propagated label"),
        Column("cell_column", "integer", "0-based column of the cell, of a propagated label"),
    )


def direct_rows(
    session: Session,
    weighed: Weighed,
    min_experts: int,
    progress: Callable[[int], None] = lambda _n: None,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the subjects that experts labelled, in batches of rows."""
    kind = cast(Kind, weighed.votes.kind)
    usable = weighed.usable(min_experts)
    for first in range(0, len(usable), ROWS_AT_ONCE):
        some = usable[first : first + ROWS_AT_ONCE]
        ids = weighed.votes.subjects[some, 0].tolist()
        facts = training_sets.facts(session, kind, ids)
        yield [_direct(weighed, i, facts[number]) for i, number in zip(some, ids, strict=True)]
        progress(len(some))


def propagated_rows(
    session: Session,
    votes: Votes,
    shown: ModelVersion,
    min_experts: int,
    progress: Callable[[int], None] = lambda _n: None,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the members of labelled cells that no expert spoke of, in batches of rows.

    Who was looked at is left out even where experts disagree: a cell knows no better than they do.
    """
    kind = cast(Kind, votes.kind)
    spoken = set(votes.subjects[:, 0].tolist())
    rows: list[tuple[Any, ...]] = []
    for row in training_sets.propagated(session, kind, shown.id, min_experts):
        if row.id not in spoken:
            rows.append(_propagated(kind, row, shown.name))
        if len(rows) == ROWS_AT_ONCE:
            yield rows
            progress(len(rows))
            rows = []
    yield rows
    progress(len(rows))


def made(weighed: Weighed, min_experts: int, shown: ModelVersion | None) -> Mapping[str, str]:
    """Say how and when a training set was made, for the header of its file."""
    votes = weighed.votes
    by_cell = f"members of cells of {shown.annotator} {shown.name}" if shown else "none"
    return {
        "made_by": f"skygloss {version('skygloss')} labels export",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "subject": votes.kind,
        "consensus": weighed.method,
        "min_experts": str(min_experts),
        "propagated": by_cell,
        "experts": ", ".join(expert.name for expert in votes.experts),
        "label_classes": json.dumps({str(one.id): one.name for one in votes.classes}),
    }


def _direct(weighed: Weighed, i: int, facts: Any) -> tuple[Any, ...]:
    votes = weighed.votes
    chosen = votes.classes[weighed.chosen[i]]
    said = {
        expert.name: votes.classes[vote].name
        for expert, vote in zip(votes.experts, votes.said[i].tolist(), strict=True)
        if vote != agreement.MISSING
    }
    return (
        *_named(votes.kind, facts),
        chosen.name,
        chosen.id,
        "direct",
        float(weighed.confidence[i]),
        int(weighed.n_votes[i]),
        int(weighed.n_experts[i]),
        json.dumps(said, ensure_ascii=False),
        None,
        None,
        None,
    )


def _propagated(kind: str, row: Any, shown: str) -> tuple[Any, ...]:
    return (
        *_named(kind, row),
        row.label,
        row.label_class_id,
        "propagated",
        float(row.confidence),
        int(row.n_votes),
        int(row.n_experts),
        None,
        shown,
        row.cell_row,
        row.cell_column,
    )


def _named(kind: str, row: Any) -> tuple[Any, ...]:
    path = (row.path,) if kind == "exposure" else ()
    return (row.id, row.name, row.catalog, *path, row.ra, row.dec)
