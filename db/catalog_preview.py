"""What an ingest of a catalog file would do, found out from its first rows; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from db import source_rows
from db.catalog_readers import CatalogFile, Chunk
from db.column_maps import TARGETS, BoundMap, Derivation, Rows

N_SHOWN = 5  # rows
N_EXAMINED = 10_000  # rows looked at for rejections
N_REJECTIONS = 20  # listed


@dataclass(frozen=True)
class Mapped:
    """A column of `source` and how it is made."""

    column: str
    meaning: str
    rule: str
    inputs: list[str]


@dataclass(frozen=True)
class Preview:
    """See `docs/catalogs.md`, "Look before you ingest"."""

    file: str
    format: str
    n_rows: int | None
    n_missing: int
    survey: str
    title: str
    notes: list[str]
    mapped: list[Mapped]
    absent: dict[str, str]
    warnings: list[str]
    extra: list[str]
    dropped: list[str]
    rows: list[dict[str, Any]]
    n_examined: int
    n_rejected: int
    rejections: list[dict[str, Any]]


def preview(path: Path, file: CatalogFile, bound: BoundMap) -> Preview:
    """Read the beginning of a file and say what would become of all of it."""
    chunk = next(file.chunks(0, N_EXAMINED), Chunk(0, 0, {}))
    rows = bound.apply(chunk) if chunk.n_rows else None
    rejections = sorted(rows.reasons.items()) if rows else []
    return Preview(
        file=path.name,
        format=file.format,
        n_rows=file.n_rows,
        n_missing=file.n_missing,
        survey=bound.data["survey"],
        title=bound.data.get("title", ""),
        notes=[*bound.data.get("notes", []), *file.notes],
        mapped=_mapped(bound),
        absent=bound.absent,
        warnings=bound.warnings,
        extra=list(bound.extra),
        dropped=bound.dropped,
        rows=_examples(rows) if rows else [],
        n_examined=chunk.n_rows,
        n_rejected=len(rejections),
        rejections=[{"row": i, "reason": reason} for i, reason in rejections[:N_REJECTIONS]],
    )


def _mapped(bound: BoundMap) -> list[Mapped]:
    separator = bound.data["identifier"].get("separator", "_")
    position = [
        Mapped("survey_id", "Identifier", f"joined by {separator!r}", bound.identifier),
        Mapped("ra", "Right ascension [deg]", f"from {bound.units[0]}", bound.ra),
        Mapped("dec", "Declination [deg]", f"from {bound.units[1]}", bound.dec),
    ]
    if len(bound.identifier) == 1:
        position[0] = Mapped("survey_id", "Identifier", "column", bound.identifier)
    derived = [
        Mapped(d.target, TARGETS[d.target].comment or "", d.rule, _inputs(d))
        for d in bound.derivations
    ]
    return position + derived


def _inputs(derivation: Derivation) -> list[str]:
    return [" or ".join(names) for refs in derivation.inputs.values() for names in refs]


def _examples(rows: Rows) -> list[dict[str, Any]]:
    """The first rows as they would stand in `source`."""
    shown = [i for i in range(len(rows.ra)) if i not in rows.reasons][:N_SHOWN]
    extra = {key: values[shown] for key, values in rows.extra.items()}
    documents = source_rows.json_documents(extra) if extra else [b"{}"] * len(shown)
    return [
        {
            "survey_id": rows.survey_id[i].decode("utf-8", "replace"),
            "ra": float(rows.ra[i]),
            "dec": float(rows.dec[i]),
            **{name: _plain(values[i]) for name, values in rows.values.items()},
            "extra": orjson.loads(document),
        }
        for i, document in zip(shown, documents, strict=True)
    ]


def _plain(value: Any) -> Any:
    if value is np.ma.masked:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value.item()
