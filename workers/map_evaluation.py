"""`skygloss evaluate exposure_map`: labels of cells, scored on exposures that nobody looked at.

Reads cells and truth; what is made of them is in `models.evaluation.exposure_map`.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import agreement, console, label_import, maps, model_versions
from db.engine import session_factory
from db.tables import Exposure, ExposureCell, ModelVersion
from models.agreement import MISSING, majority
from models.evaluation import exposure_map as protocols
from models.evaluation import unnamed_faults
from models.scores import Interval

ANNOTATOR: Literal["exposure_map"] = "exposure_map"


@dataclass(frozen=True)
class Placed:
    """The exposures of a catalog, and where they are on a map."""

    exposure_id: NDArray[np.int64]
    name: NDArray[np.str_]
    on_map: NDArray[np.bool_]  # not so: nothing detected, failed, or not placed yet
    cell: NDArray[np.int64]  # MISSING if not on the map, or far from every prototype
    distance: NDArray[np.float64]  # NaN if not on the map
    novel: NDArray[np.bool_]
    topographic_error: float


@dataclass(frozen=True)
class Truth:
    """What is known about exposures by name or number."""

    label: dict[Any, str]
    fault: dict[Any, str]


@dataclass(frozen=True)
class TeamLabels:
    """What most experts say of the cells of a map."""

    by_cell: dict[int, str]  # by the number of the cell, row by row
    labelled: NDArray[np.int64]  # exposures that anybody labelled themselves


@click.command("exposure_map")
@click.option("--name", "catalog", required=True, help="Catalog of the exposures.")
@click.option("--version", help="Version of the map; by default the current one.")
@click.option(
    "--truth",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table with name and label (and fault), CSV.  [default: what experts say of exposures]",
)
@click.option(
    "--labels",
    "whose",
    type=click.Choice(["simulated", "team"]),
    default="simulated",
    show_default=True,
    help="Whose labels of cells: what experts would say who see some exposures of each, or what"
    " your experts did say.",
)
@click.option("--per-cell", type=click.IntRange(1), help="Exposures looked at in a cell.  [5]")
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    help="Look at no more than this share of all exposures, more in fuller cells.",
)
@click.option(
    "--look",
    type=click.Choice(["random", "nearest"]),
    default="random",
    show_default=True,
    help="Which exposures of a cell: any, or those nearest to its prototype.",
)
@click.option("--experts", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--error",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="How often a simulated expert names a wrong class.",
)
@click.option("--positive", default="Good", show_default=True, help="The class that is searched.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--leave-out", multiple=True, help="Only this fault, or class, in the last table.  [each fault]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers for machines.")
def evaluate_exposure_map(
    catalog: str,
    version: str | None,
    path: Path | None,
    whose: str,
    per_cell: int | None,
    budget: float | None,
    look: Any,
    experts: int,
    error: float,
    positive: str,
    repeats: int,
    seed: int,
    leave_out: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score labels of cells on exposures that nobody looked at, as the DESOM paper does.

    Some exposures of each cell are looked at, their majority names the cell, and the cell names the
    others, which alone are scored. The last table asks whether the map would show a fault that the
    experts have no word for. With --labels team the cells bear what your experts called them, and
    exposures that nobody labelled themselves are scored.
    """
    team = whose == "team"
    if team and (path is None or per_cell or budget or error or leave_out or experts > 1):
        raise click.UsageError(
            "--labels team needs --truth, and goes without the options on simulated experts "
            "(--per-cell, --budget, --experts, --error, --leave-out)"
        )
    limit = 5 if per_cell is None and budget is None else per_cell
    protocol = protocols.Protocol(
        limit, budget, look, experts, error, positive, n_repeats=repeats, seed=seed
    )
    engine = console.open_database()
    catalog_id = console.catalog_id(engine, catalog)
    with console.friendly_errors(ValueError):
        with session_factory(engine)() as session:
            chosen = _version(session, version)
            placed = read_cells(session, catalog_id, chosen)
            truth = read_table(path, positive) if path else said_by_experts(session)
            said = said_of_cells(session, chosen) if team else None
        words = set(said.by_cell.values()) if said else set()
        rows, mapped, fault = join(placed, truth, words, by_name=path is not None)
        if said:
            labelled = by_team(placed, rows, mapped, protocol, said)
            found, unnamed = protocols.score(mapped, protocol, [labelled]), []
        else:
            found = protocols.evaluate(mapped, protocol)
            names = leave_out or tuple(sorted(set(fault) - {positive}))
            unnamed = unnamed_faults.leave_out(mapped, fault, placed.novel[rows], protocol, names)
    facts = {"version": chosen.name, "labels": whose, **facts_of(placed, rows)}
    if as_json:
        left = [each.as_dict() for each in unnamed]
        click.echo(json.dumps({**facts, **found.as_dict(), "left_out": left}, indent=2))
    else:
        click.echo(report(facts, found, unnamed))


def facts_of(placed: Placed, rows: NDArray[np.int64]) -> dict[str, Any]:
    """What there is to say of a map without any label; `rows` are those with a known truth."""
    return {
        "n_on_map": int(placed.on_map.sum()),
        "n_off_map": int((~placed.on_map[rows]).sum()),
        "quantization_error": _mean(placed.distance),
        "topographic_error": placed.topographic_error,
        "novel": float(placed.novel[placed.on_map].mean()),
    }


def read_cells(session: Session, catalog_id: int, version: ModelVersion) -> Placed:
    """Read where the exposures of a catalog lie on a map; those that are not on it come too.

    Raises
    ------
    ValueError
        None of them is on it.
    """
    placed = (ExposureCell.exposure_id == Exposure.id) & (
        ExposureCell.model_version_id == version.id
    )
    rows = session.execute(
        sa.select(
            Exposure.id,
            Exposure.name,
            ExposureCell.cell_row,
            ExposureCell.cell_column,
            ExposureCell.quantization_error,
            ExposureCell.flags,
            sa.func.halfvec_send(ExposureCell.latent),
        )
        .outerjoin(ExposureCell, placed)
        .where(Exposure.catalog_id == catalog_id)
        .order_by(Exposure.id)
    ).all()
    if all(row.cell_row is None for row in rows):
        raise ValueError(
            f"no exposure of this catalog is on the map {version.name}: "
            "place them first (skygloss annotate)"
        )
    shown = _shown(session, version)
    ids, names, cell_rows, cell_columns, errors, flags, latents = zip(*rows, strict=True)
    novel = np.array([flag or 0 for flag in flags]) & maps.NOVEL_EXPOSURE > 0
    known = np.array([row is not None for row in cell_rows])
    cell = np.full(len(rows), MISSING)
    places = np.array(cell_rows)[known] * shown.columns + np.array(cell_columns)[known]
    cell[known] = places.astype(int)
    prototypes = maps.latents(session, shown)
    codes = [maps.unpacked(raw, ">f2") for raw in latents if raw is not None]
    return Placed(
        np.array(ids),
        np.array(names),
        known,
        np.where(novel, MISSING, cell),
        np.array(errors, float),
        novel,
        protocols.topographic_error(np.array(codes).reshape(-1, prototypes.shape[-1]), prototypes),
    )


def read_table(path: Path, positive: str) -> Truth:
    """Read labels by the name of the exposure; faults too, of exposures that are not positive.

    Names with contradictory labels, and rows without one, have no truth.

    Raises
    ------
    db.label_import.ImportRefused
        The table has no columns name and label.
    """
    label = label_import.read(path, "exposure").labels
    try:
        faults = label_import.read(path, "exposure", "fault").labels
    except label_import.ImportRefused:  # no such column
        faults = {}
    fault = {
        name: each if each == positive else faults.get(name, each) for name, each in label.items()
    }
    return Truth(dict(label), fault)


def said_by_experts(session: Session) -> Truth:
    """What most experts say of each exposure themselves, by its number."""
    votes = agreement.votes(session, "exposure")
    names = [each.name for each in votes.classes]
    consensus = majority(votes.said)
    label = {
        int(number): names[k]
        for (number,), k in zip(votes.subjects, consensus, strict=True)
        if k != MISSING
    }
    return Truth(label, label)


def said_of_cells(session: Session, version: ModelVersion) -> TeamLabels:
    """What most experts say of the cells of a version, and which exposures they labelled.

    Raises
    ------
    ValueError
        They agree on no cell.
    """
    votes = agreement.votes(session, "cell", version.id)
    columns = _shown(session, version).columns
    names = [each.name for each in votes.classes]
    by_cell = {
        int(row * columns + column): names[k]
        for (_, row, column), k in zip(votes.subjects, majority(votes.said), strict=True)
        if k != MISSING
    }
    if not by_cell:
        raise ValueError(f"no cell of {version.name} bears a label: experts label some first")
    return TeamLabels(by_cell, agreement.votes(session, "exposure").subjects[:, 0])


def by_team(
    placed: Placed,
    rows: NDArray[np.int64],
    mapped: protocols.Mapped,
    protocol: protocols.Protocol,
    said: TeamLabels,
) -> protocols.Labelled:
    """The labels of cells that experts gave, as they reach the exposures of `rows`."""
    number = {name: k for k, name in enumerate(mapped.classes)}
    by_cell = [number[said.by_cell[k]] if k in said.by_cell else MISSING for k in mapped.cell]
    looked = np.isin(placed.exposure_id[rows], said.labelled)
    return protocols.labelled_by_team(mapped, protocol, np.array(by_cell, int), looked)


def join(
    placed: Placed, truth: Truth, words: Set[str] = frozenset(), *, by_name: bool
) -> tuple[NDArray[np.int64], protocols.Mapped, NDArray[np.str_]]:
    """Exposures with a known truth: their rows in `placed`, where they lie, what is wrong.

    `words` are further names of classes, which none of them may have.

    Raises
    ------
    ValueError
        There is none.
    """
    keys = placed.name.tolist() if by_name else placed.exposure_id.tolist()
    rows = np.array([k for k, key in enumerate(keys) if key in truth.label], int)
    if not len(rows):
        raise ValueError(
            "the truth is known of none of these exposures: "
            + ("no name in the table is theirs" if by_name else "experts label some first")
        )
    label = [truth.label[keys[k]] for k in rows]
    classes = tuple(sorted({*label, *words}))
    mapped = protocols.Mapped(
        placed.cell[rows],
        np.array([classes.index(each) for each in label]),
        classes,
        placed.distance[rows],
    )
    return rows, mapped, np.array([truth.fault[keys[k]] for k in rows])


def report(
    facts: dict[str, Any], found: protocols.Evaluation, unnamed: list[unnamed_faults.LeftOut]
) -> str:
    """Tables for people."""
    looked = found.n_looked / found.n_exposures
    seen = "labelled themselves" if facts["labels"] == "team" else "looked at"
    lines = [
        f"{facts['version']}: {found.n_exposures:,} exposures with known truth, of"
        f" {facts['n_on_map']:,} on the map. {found.n_looked:,.0f} were {seen}"
        f" ({100 * looked:.1f} %), {found.n_scored:,.0f} of the others are scored.",
        *_off_map(facts["n_off_map"]),
        "",
        *_score_table(found),
        "",
        _line("classes: accuracy", found.scores["accuracy_of_classes"]),
        _line("classes: coverage", found.scores["coverage_of_classes"]),
        f"purity {found.purity:.3f}, normalised mutual information {found.mutual_information:.3f},"
        f" quantization error {facts['quantization_error']:.3f},"
        f" topographic error {facts['topographic_error']:.3f}, novel {100 * facts['novel']:.1f} %",
        "",
        *_confusion_table(found),
    ]
    if unnamed:
        lines += ["", *_unnamed_table(unnamed)]
    return "\n".join(lines)


def _shown(session: Session, version: ModelVersion) -> maps.Map:
    return next(each for each in maps.versions(session, ANNOTATOR) if each.version == version)


def _version(session: Session, name: str | None) -> ModelVersion:
    if name:
        return model_versions.find(session, ANNOTATOR, name)
    current = model_versions.current(session, [ANNOTATOR])
    if not current:
        raise ValueError(
            f"no version of {ANNOTATOR} is current: annotate first (skygloss annotate)"
        )
    return current[0]


def _off_map(n: int) -> list[str]:
    if not n:
        return []
    return [
        f"{n:,} with known truth are not on the map (nothing detected, failed, or not placed yet):"
        " no label reaches them, and coverage counts them as blank."
    ]


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _score_table(found: protocols.Evaluation) -> list[str]:
    columns = ("accuracy", "precision", "recall", "coverage")
    lines = [f"{'':<42}" + "".join(f"{column:<22}" for column in columns)]
    ours = "".join(f"{_cell(found.scores[column]):<22}" for column in columns)
    lines.append(f"{'labels of cells':<42}" + ours)
    always = f"always {found.protocol.positive}"
    lines.append(_numbers(always, tuple(found.baseline.values()), "1"))
    lines += [_numbers(name, each, "not given") for name, each in protocols.PUBLISHED.items()]
    return [line.rstrip() for line in lines]


def _numbers(name: str, values: tuple[float, ...], coverage: str) -> str:
    return f"{name:<42}" + "".join(f"{value:<22.3f}" for value in values) + coverage


def _cell(score: Interval) -> str:
    return f"{score.value:.3f} ({score.low:.3f}-{score.high:.3f})"


def _share(value: float) -> str:
    return f"{'-':>12}" if np.isnan(value) else f"{100 * value:>10.1f} %"


def _line(name: str, score: Interval) -> str:
    return f"{name:<20} {_cell(score)}"


def _confusion_table(found: protocols.Evaluation) -> list[str]:
    heads = [*found.classes, "blank"]
    lines = [f"{'truth, by label of the cell':<30}" + "".join(f"{head:>10}" for head in heads)]
    for name, row in zip(found.classes, found.confusion, strict=True):
        lines.append(f"{name:<30}" + "".join(f"{value:>10,.0f}" for value in row))
    return lines


def _unnamed_table(unnamed: list[unnamed_faults.LeftOut]) -> list[str]:
    heads = ("own cells", "pure cells", "noticed", "blank", "missed", "with word", "novel")
    lines = [f"{'without a word for':<20}{'n':>7}" + "".join(f"{head:>12}" for head in heads)]
    for each in unnamed:
        shares = "".join(_share(getattr(each, name)) for name in unnamed_faults.SHARES)
        lines.append(f"{each.fault:<20}{each.n:>7,}{shares}")
    return lines
