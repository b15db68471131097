"""Which cutout sets serve which model version, and the jobs that follow from it.

A source that several sets of a catalog show is annotated once, from the set that fits best; sets
that fit less well are used for the sources that only they show. A catalog in units that a network
can make nothing of is passed over. One in the right unit with no set that serves gets failed jobs
that say what was wanted and what is there. Images uploaded to search with are for the
representations alone, and are served beside any catalog: somebody waits for them. What was
detected on exposures is for the annotators that are `on_exposures`, which are for nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.orm import Session

from db import jobs, model_versions, uploads
from db.cutouts import ON_EXPOSURES
from db.tables import Catalog, CutoutSet, ModelVersion
from workers.annotators.base import Annotator, Inputs


@dataclass(frozen=True)
class Supply:
    """The sets that serve one model version, each with the sets that are preferred to it."""

    version: ModelVersion
    annotator: type[Annotator]
    better: Mapping[int, tuple[int, ...]]  # by id of the set
    unused: Sequence[int] = ()  # sets that do not serve, of catalogs with one that does
    refused: Mapping[int, str] = field(default_factory=dict)  # error by id of the set
    passed_over: Sequence[CutoutSet] = ()  # sets of catalogs in other units

    @property
    def set_ids(self) -> list[int]:
        """The sets that serve."""
        return list(self.better)


def cutout_sets(
    session: Session, catalog_id: int | None = None, *, and_uploads: bool = False
) -> Sequence[CutoutSet]:
    """Return the cutout sets, of one catalog or of all, those of a catalog side by side.

    With `and_uploads`, the images that were uploaded are there beside the one catalog.
    """
    wanted = sa.true() if catalog_id is None else CutoutSet.catalog_id == catalog_id
    if and_uploads:
        wanted |= CutoutSet.origin == uploads.ORIGIN
    return session.scalars(
        sa.select(CutoutSet).where(wanted).order_by(CutoutSet.catalog_id, CutoutSet.id)
    ).all()


def supply(version: ModelVersion, annotator: type[Annotator], sets: Sequence[CutoutSet]) -> Supply:
    """Rank the sets of each catalog for an annotator, and refuse those of catalogs without any."""
    inputs = annotator.inputs_of(version.card)
    sets = [s for s in sets if (s.origin == ON_EXPOSURES) == annotator.on_exposures]
    better: dict[int, tuple[int, ...]] = {}
    unused: list[int] = []
    refused: dict[int, str] = {}
    passed_over: list[CutoutSet] = []
    for _, members in groupby(sets, key=lambda cutout_set: cutout_set.catalog_id):
        of_catalog = list(members)
        if uploads.is_upload(of_catalog[0]) and annotator.name != uploads.ANNOTATOR:
            continue
        problems = {s.id: inputs.mismatch(s) for s in of_catalog}
        serving = [s for s in of_catalog if problems[s.id] is None]
        serving.sort(key=lambda s: (inputs.misfit(s), s.id))
        ranked = tuple(s.id for s in serving)
        better |= {set_id: ranked[:rank] for rank, set_id in enumerate(ranked)}
        if serving:
            unused += [set_id for set_id in problems if set_id not in ranked]
        elif annotator.subject == "exposure":
            continue  # the annotator that places its sources says why
        elif not annotator.on_exposures and all(s.unit not in inputs.units for s in of_catalog):
            passed_over += of_catalog
        elif not uploads.is_upload(of_catalog[0]):  # what is uploaded is made for one encoder
            refused |= dict.fromkeys(
                problems, _refusal(annotator.name, inputs, of_catalog, problems)
            )
    return Supply(version, annotator, better, unused, refused, passed_over)


def remarks(session: Session, supplies: Iterable[Supply]) -> list[str]:
    """Say which catalogs are passed over and why, annotators that want the same on one line."""
    names = {row.id: row.name for row in session.execute(sa.select(Catalog.id, Catalog.name))}
    lines: dict[str, list[str]] = {}
    for each in supplies:
        if each.passed_over:
            there: dict[str, set[str]] = {}
            for cutout_set in each.passed_over:
                there.setdefault(names[cutout_set.catalog_id], set()).add(cutout_set.unit)
            wanted = " or ".join(each.annotator.inputs_of(each.version.card).units)
            for name, units in there.items():
                line = (
                    f"catalog {name} passed over; its pixels are in {' and '.join(sorted(units))}, "
                    f"they need {wanted}"
                )
                lines.setdefault(line, []).append(each.annotator.name)
    return [f"{', '.join(annotators)}: {line}" for line, annotators in lines.items()]


def enqueue(session: Session, supply: Supply) -> int:
    """Make the jobs that are missing; how many."""
    version_id = supply.version.id
    others = [*supply.unused, *(each.id for each in supply.passed_over)]
    jobs.accept(session, version_id, [*supply.set_ids, *others])
    for set_id, error in supply.refused.items():
        jobs.refuse(session, version_id, [set_id], error)
    first = before(session, supply.version, supply.annotator)
    if None in first.values():
        return 0  # nothing can have finished that is not there
    ids = [version.id for version in first.values() if version]
    whole = supply.annotator.subject == "exposure"
    return jobs.enqueue(session, version_id, supply.set_ids, ids, whole=whole)


def before(
    session: Session, version: ModelVersion, annotator: type[Annotator]
) -> dict[str, ModelVersion | None]:
    """The versions that must have finished with a block before this one, by annotator.

    None stands for one that is not registered, or where the current one is meant and none is.
    """
    wanted = annotator.after_of(version.card)
    if not wanted:
        return {}
    current = {each.annotator: each for each in model_versions.current(session, list(wanted))}
    return {
        name: _find(session, name, exactly) if exactly else current.get(name)
        for name, exactly in wanted.items()
    }


def _find(session: Session, annotator: str, name: str) -> ModelVersion | None:
    try:
        return model_versions.find(session, annotator, name)
    except model_versions.UnknownVersion:
        return None


def versions(
    session: Session, annotators: Mapping[str, type[Annotator]], name: str | None
) -> Sequence[ModelVersion]:
    """The versions to work with: those of this name or the current ones, and those they follow.

    Raises
    ------
    db.model_versions.UnknownVersion
        None of these annotators has a version of this name.
    """
    chosen = model_versions.chosen(session, list(annotators), name)
    found = {version.id: version for version in chosen}
    for version in chosen:
        for first in before(session, version, annotators[version.annotator]).values():
            if first and first.annotator in annotators:
                found.setdefault(first.id, first)
    return list(found.values())


def _refusal(
    name: str, inputs: Inputs, sets: Sequence[CutoutSet], problems: Mapping[int, str | None]
) -> str:
    found = "; ".join(f"{s.name!r}: {problems[s.id]}" for s in sets)
    return (
        f"{name} wants {inputs}, and no cutout set of this catalog serves: "
        f"{found}. Ingest cutouts that do (skygloss ingest cutouts)"
    )
