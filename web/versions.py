"""Model versions: what each network is, what it was trained on and how well it does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template

from db import queries
from web.database import session
from web.errors import Missing

blueprint = Blueprint("versions", __name__)

METRIC_ORDER = (  # jsonb keeps none
    *("auc", "accuracy", "completeness", "purity", "specificity"),
    *("flux_mape", "outliers", "coverage_68", "coverage_95", "iou"),
)
SEP = "sep_"  # begins the name of a metric of sep, beside the network's of the same name
UNITS = {"size": "pixel", "pixel_scale": "arcsec/pixel"}
METRIC_WORDS = {
    "brier": "Brier score",
    "coverage_68": "coverage of the 68 % interval",
    "coverage_95": "coverage of the 95 % interval",
}
ABBREVIATIONS = {"auc": "AUC", "iou": "IoU", "mape": "MAPE"}
STATE_WORDS = {
    "current": "Its opinions are the ones shown.",
    "candidate": "Registered, but its opinions are not the ones shown.",
    "retired": "Its opinions were shown before another version took its place.",
}


@blueprint.get("/models")
def listing() -> str:
    """List every model version."""
    return render_template("models.html", versions=queries.model_versions(session()))


@blueprint.get("/models/<annotator>/<name>")
def card(annotator: str, name: str) -> str:
    """Show the card of one model version."""
    version = queries.model_version(session(), annotator, name)
    if version is None:
        raise Missing(
            f"There is no version {name!r} of {annotator!r}.", "The models page lists them all."
        )
    metrics = {metric.key: metric for metric in _metrics(version.card)}
    both = [key for key in metrics if SEP + key in metrics]
    return render_template(
        "model.html",
        version=version,
        card=version.card,
        training=_readable(version.card.get("training")),
        inputs=_readable(version.card.get("inputs")),
        build=_readable(version.card.get("build")),
        metrics=[one for key, one in metrics.items() if key.removeprefix(SEP) not in both],
        compared=[(metrics[key], metrics[SEP + key]) for key in both],
        state_words=STATE_WORDS[version.state],
        blend_from=queries.BLEND,
    )


@dataclass(frozen=True)
class Metric:
    """One figure of a card with its 95 % interval, where it has one."""

    key: str
    name: str
    value: Any
    low: float | None
    high: float | None
    unit: str


def _readable(facts: Any) -> Any:
    """Give the facts of a card their units, and unfold those that are JSON in a string."""
    if not isinstance(facts, dict):
        return facts
    named = {name: _fact(name, fact) for name, fact in facts.items()}
    return dict(sorted(named.items(), key=lambda item: isinstance(item[1], dict)))


def _fact(name: str, fact: Any) -> Any:
    if name in UNITS and fact is not None:
        return f"{fact} {UNITS[name]}"
    if isinstance(fact, str) and fact.startswith("{"):
        try:
            return json.loads(fact)
        except ValueError:
            return fact
    return fact


def _metrics(card: dict[str, Any]) -> list[Metric]:
    """Return the metrics of a card in a sensible order, whatever form they have."""
    given = card.get("metrics") or {}
    known = [name for name in METRIC_ORDER if name in given]
    rows = []
    for name in known + sorted(set(given).difference(known), key=_in_natural_order):
        metric = given[name] if isinstance(given[name], dict) else {"value": given[name]}
        interval = metric.get("low"), metric.get("high")
        rows.append(
            Metric(name, _title(name), metric.get("value", ""), *interval, metric.get("unit", ""))
        )
    return rows


def _in_natural_order(name: str) -> list[tuple[int, str]]:
    """Sort numbers within names by their size: sigma_5 before sigma_40."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _title(name: str) -> str:
    words = [ABBREVIATIONS.get(word, word) for word in name.split("_")]
    return METRIC_WORDS.get(name, " ".join(words))
