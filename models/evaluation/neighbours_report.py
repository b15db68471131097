"""The evaluation of encoders as one Markdown page, with a picture of queries and neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from models import retrieval, scores
from models.evaluation.representations import SEARCHED, SPACES, Encoded, Evaluation, Judged

PAPER, INK, ALIKE, UNLIKE = "#12161f", "#e4e8f0", "#7dff7d", "#ff9d7d"
CELL = 132  # pixel: a picture with its frame
N_NEIGHBOURS = 8
MEASURES = {
    "map": "mAP over tags",
    "precision_at_5": "precision@5",
    "precision_at_10": "precision@10",
    "precision_at_20": "precision@20",
    "shred_auc": "nearest-neighbour shred AUC",
}
PROBES = {
    "probe_shred_accuracy": "shred accuracy",
    "probe_shred_auc": "shred AUC",
    "probe_tag_auc": "AUC over tags",
}
EXPLANATION = """\
A query's own group on the sky never counts among its neighbours. A source has a tag when both
visual passes gave it; one that only one pass gave it to is neither query nor neighbour. The
nearest-neighbour AUC ranks sources by the share of shreds among their 10 nearest decided
neighbours. Linear probes are logistic regressions, cross-validated by group within each gallery.
Intervals are at 95 %, by resampling whole groups of queries.
"""


def write(evaluation: Evaluation, folder: Path) -> Path:
    """Write `report.md`, `metrics.json` and `neighbours.png`, and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n")
    neighbours_picture(evaluation).save(folder / "neighbours.png", optimize=True)
    page = folder / "report.md"
    page.write_text(_page(evaluation))
    return page


def _page(evaluation: Evaluation) -> str:
    facts = evaluation.as_dict()
    members = ", ".join(f"{tag} {n}" for tag, n in facts["members"].items())
    return f"""# {evaluation.title}

{evaluation.protocol}

{facts["n_sources"]} sources in {facts["n_groups"]} groups; tags counted: {members}.
{EXPLANATION}
## What is found

{search_table(evaluation)}

## By tag (mAP, {SEARCHED.name})

{tag_table(evaluation)}

## Linear probes

{probe_table(evaluation)}

## Principal components

{component_table(evaluation)}

## Queries and their neighbours

The middling query of each tag ({SEARCHED.name}), and its nearest neighbours in the gallery; those
framed green have the tag by both passes. Images: DESI Legacy Imaging Surveys.

![queries and neighbours](neighbours.png)

Labels SHA-256 {facts["labels_sha256"]}
"""


def search_table(evaluation: Evaluation) -> str:
    """Every encoder in every space."""
    rows = [
        [judged.encoder, judged.space.name, *(_cell(judged.metrics[name]) for name in MEASURES)]
        for judged in evaluation.judged
    ]
    return _table(["encoder", "space", *MEASURES.values()], rows)


def tag_table(evaluation: Evaluation) -> str:
    """Every encoder, tag by tag, in the space that is searched."""
    rows = [
        [judged.encoder, *(_cell(interval) for interval in judged.per_tag.values())]
        for judged in evaluation.judged
        if judged.space == SEARCHED
    ]
    return _table(["encoder", *evaluation.tags], rows)


def probe_table(evaluation: Evaluation) -> str:
    """What a linear classifier can read from the vectors."""
    rows = [
        [judged.encoder, judged.space.vector, *(_cell(judged.metrics[name]) for name in PROBES)]
        for judged in evaluation.judged
        if judged.probed is not None
    ]
    return _table(["encoder", "vector", *PROBES.values()], rows)


def component_table(evaluation: Evaluation) -> str:
    """How much the components keep."""
    rows = [
        [name, *(f"{100 * value:.1f} %" for value in facts.values())]
        for name, facts in evaluation.facts.items()
    ]
    head = ["variance in 10", "in 15", "in 40", "10 nearest by 40 also nearest by all (L1)"]
    return _table(["encoder", *head], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(interval: scores.Interval) -> str:
    if np.isnan(interval.value):
        return "–"
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def neighbours_picture(evaluation: Evaluation) -> Image.Image:
    """One row per tag: the query of median average precision, and its nearest neighbours."""
    name = next(iter(evaluation.encoded))
    judged = next(j for j in evaluation.judged if (j.encoder, j.space) == (name, SPACES[0]))
    sheet = Image.new(
        "RGB", ((N_NEIGHBOURS + 1) * CELL + 8, len(evaluation.tags) * (CELL + 16)), PAPER
    )
    for t, tag in enumerate(evaluation.tags):
        query = middling(judged, t)
        if query is not None:
            _strip(sheet, t * (CELL + 16), evaluation, evaluation.encoded[name], query, tag)
    return sheet


def middling(judged: Judged, t: int) -> int | None:
    """Row of the query whose average precision is the median of its tag; None without queries."""
    values = judged.average_precision[:, t]
    asked = np.flatnonzero(~np.isnan(values))
    if not len(asked):
        return None
    return int(asked[np.argsort(values[asked], kind="stable")[len(asked) // 2]])


def _strip(
    sheet: Image.Image,
    top: int,
    evaluation: Evaluation,
    encoded: list[Encoded],
    query: int,
    tag: str,
) -> None:
    data, draw = evaluation.data, ImageDraw.Draw(sheet)
    gallery, rows = next((k, rows) for k, rows in enumerate(evaluation.galleries) if query in rows)
    order = retrieval.ranked(SEARCHED.of(encoded[gallery]), data.group[rows], SEARCHED.metric)
    found = order[np.flatnonzero(rows == query)[0]]
    shown = [query, *rows[found[found >= 0]][:N_NEIGHBOURS]]
    has_tag = data.degree(tag) == 1
    for place, row in enumerate(shown):
        x = place * CELL + (8 if place else 0)
        frame = INK if not place else ALIKE if has_tag[row] else UNLIKE
        draw.rectangle((x, top, x + CELL - 1, top + CELL - 1), fill=frame)
        sheet.paste(Image.fromarray(data.rgb[row]), (x + 2, top + 2))
    draw.text((2, top + CELL), f"{tag}: {data.survey_id[query]}", fill=INK)
