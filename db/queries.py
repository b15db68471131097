"""Every read a page needs, by name. Nothing here writes, renders or keeps a session.

Written to stay fast at ten million sources: pages are keyset pages (`db.pages`), counts are
estimates where counting would take long, and every hot statement walks an index. `db.sky` is
imported where a cone is needed, because astropy takes a second to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, RowMapping, Select, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased

from db import uploads
from db.annotations import NO_PIXELS
from db.jobs import LEASE
from db.pages import Column, Order, Page, Position, keyed, page, position
from db.predicates import annotated_source
from db.tables import (
    Blend,
    Catalog,
    CatalogFile,
    Cutout,
    CutoutBlock,
    CutoutSet,
    Job,
    ModelVersion,
    PairFlux,
    Rejection,
    Representation,
    Run,
    SelectionSource,
    Shred,
    Source,
    Upload,
    Worker,
)

Opinion = Literal["any", "given", "missing", "flagged"]
Verdict = Literal["any", "disagree", "network", "sep", "both"]  # whether it is a blend
BLEND = 0.5  # p_blend from which on the network calls a source a blend
COUNT_COST = 30_000.0  # planner's cost up to which counting takes well under a second
EXPORT_ROWS = 5_000  # rows per statement of an export


@dataclass(frozen=True)
class Cone:
    """A circle on the sky: centre (ra, dec) [deg, ICRS] and radius [arcsec]."""

    ra: float
    dec: float
    radius_arcsec: float


@dataclass(frozen=True)
class Selection:
    """What the user asked to see; None does not restrict. Limits are inclusive."""

    catalog_id: int | None = None
    survey_id: str | None = None
    p_min: float | None = None
    p_max: float | None = None
    mag_min: float | None = None
    mag_max: float | None = None
    opinion: Opinion = "any"
    blend_min: float | None = None
    blend_max: float | None = None
    blend: Verdict = "any"  # by whom, the network alone, sep alone, or both; where they disagree
    cone: Cone | None = None
    saved_id: int | None = None  # of a saved selection

    @property
    def wants_opinion(self) -> bool:
        """Whether only sources with a probability can be in it."""
        return self.p_min is not None or self.p_max is not None or self.opinion == "given"

    @property
    def wants_blend(self) -> bool:
        """Whether only sources with a probability of being a blend can be in it."""
        return self.blend_min is not None or self.blend_max is not None or self.blend != "any"


@dataclass(frozen=True)
class Count:
    """A number of rows; an estimate of the planner unless exact."""

    n: int
    exact: bool


SORTS = ("catalog", "-p", "p", "mag", "-mag", "-blend", "blend")
Versions = Mapping[str, int]  # the current version of an annotator, if it has one


def sources(
    session: Session,
    selection: Selection,
    sort: str,
    size: int,
    after: Position | None = None,
    before: Position | None = None,
) -> tuple[Page, list[RowMapping]]:
    """Return a page of a selection: the keys with its neighbouring pages, and the rows to show.

    Parameters
    ----------
    sort : str
        One of SORTS: `catalog` is by catalog and survey identifier, `p` by the probability of
        being a shred, `blend` by that of being a blend, `mag` by r magnitude; `-` reverses.
    """
    versions = _current_versions(session)
    order = _order(selection, versions, sort)
    statement = keyed(_selected(selection, versions, sort), order)
    found = page(session, statement, order, size, after, before)
    return found, annotated(session, [row.id for row in found.rows])


def position_of(
    session: Session, source_id: int, selection: Selection, sort: str
) -> Position | None:
    """Return where a source stands, or would stand, in a selection; None if there is no such."""
    versions = _current_versions(session)
    order = _order(selection, versions, sort)
    statement = _joined(keyed(select(Source.id), order), versions, sort.lstrip("-"))
    statement = statement.where(Source.id == source_id)
    row = session.execute(statement).one_or_none()
    return position(row) if row else None


def condition(selection: Selection) -> ColumnElement[bool] | None:
    """Return a selection as a condition on the columns of `annotated_source`; None: everything."""
    conditions = list(_view_conditions(selection, annotated_source.c))
    return sa.and_(*conditions) if conditions else None


def represented(session: Session, version_id: int, n: int) -> list[RowMapping]:
    """Return a few sources that have a representation by a version, the latest first."""
    latest = (
        select(Representation.source_id)
        .where(
            Representation.model_version_id == version_id,
            Representation.reduced.is_not(None),
            Representation.source_id.not_in(select(Upload.source_id)),
        )
        .order_by(Representation.ordinal.desc())
        .limit(n)
    )
    return annotated(session, session.scalars(latest).all())


def n_represented(session: Session, version_id: int) -> int:
    """Return about how many sources have a representation by a version."""
    statement = select(Representation.source_id).where(
        Representation.model_version_id == version_id
    )
    return int(explain(session, statement)["Plan Rows"])


def in_saved(selection_id: int) -> ColumnElement[bool]:
    """Return the condition on `annotated_source` that a source is in a saved selection."""
    return annotated_source.c.source_id.in_(_members(selection_id))


def every_source(session: Session, selection: Selection, sort: str) -> Iterator[RowMapping]:
    """Yield every row of a selection, a few thousand per statement, in bounded memory."""
    after = None
    while True:
        found, rows = sources(session, selection, sort, EXPORT_ROWS, after)
        yield from rows
        if found.next is None:
            return
        after = found.next


def count(session: Session, selection: Selection) -> Count:
    """Count a selection if that is quick, otherwise say what the planner expects."""
    statement = _selected(selection, _current_versions(session), "catalog")
    plan = explain(session, statement)
    if plan["Total Cost"] > COUNT_COST:
        return Count(int(plan["Plan Rows"]), exact=False)
    n = session.scalar(select(func.count()).select_from(statement.subquery()))
    return Count(n or 0, exact=True)


def explain(session: Session, statement: Select) -> dict[str, Any]:
    """Return the planner's top node for a statement, without running it."""
    connection = session.connection()
    compiled = statement.compile(
        dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
    )
    explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params)
    plan: dict[str, Any] = explained.scalar_one()[0]["Plan"]
    return plan


def annotated(session: Session, source_ids: Sequence[int]) -> list[RowMapping]:
    """Return rows of the view `annotated_source`, in the order of the identifiers.

    OFFSET has the sources looked up one by one, or the labels of all sources would be counted.
    """
    statement = sa.text(
        "SELECT found.* FROM unnest(CAST(:ids AS bigint[])) AS wanted, LATERAL"
        " (SELECT * FROM annotated_source WHERE source_id = wanted OFFSET 0) AS found"
    )
    rows = {
        row["source_id"]: row
        for row in session.execute(statement, {"ids": list(source_ids)}).mappings()
    }
    return [rows[source_id] for source_id in source_ids if source_id in rows]


def column_comments(session: Session, relation: str = "annotated_source") -> dict[str, str]:
    """Return the comment of every column of a table or view, in the order of the columns."""
    statement = sa.text(
        "SELECT attname AS name, coalesce(col_description(attrelid, attnum), '') AS comment "
        "FROM pg_attribute "
        "WHERE attrelid = CAST(:relation AS regclass) AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum"
    )
    rows = session.execute(statement, {"relation": relation})
    return {row.name: row.comment for row in rows}


def column_types(session: Session, relation: str = "annotated_source") -> dict[str, str]:
    """Return the PostgreSQL type of every column of a table or view, in their order."""
    statement = sa.text(
        "SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute "
        "WHERE attrelid = CAST(:relation AS regclass) AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum"
    )
    rows = session.execute(statement, {"relation": relation})
    return {row.name: row.type for row in rows}


def neighbours(
    session: Session, source: RowMapping, radius_arcsec: float, limit: int
) -> list[RowMapping]:
    """Return the nearest other sources of the same catalog, with `separation_arcsec`."""
    from db.sky import cone, separation

    ra, dec = source["ra"], source["dec"]
    statement = (
        select(Source.id, (separation(ra, dec) * 3600).label("separation_arcsec"))
        .where(
            cone(ra, dec, radius_arcsec / 3600),
            Source.catalog_id == source["catalog_id"],
            Source.id != source["source_id"],
        )
        .order_by("separation_arcsec", Source.id)
        .limit(limit)
    )
    found = {row.id: row.separation_arcsec for row in session.execute(statement)}
    return [
        {**row, "separation_arcsec": found[row["source_id"]]}  # type: ignore[misc]
        for row in annotated(session, list(found))
    ]


def opinions(
    session: Session, table: type[Shred] | type[Blend] | type[PairFlux], source_id: int
) -> Sequence[Row]:
    """Return what each version said of a source, the current version first, with its run."""
    statement = (
        select(table, ModelVersion, Run, Worker)
        .join(ModelVersion, ModelVersion.id == table.model_version_id)
        .join(Run, Run.id == table.run_id)
        .join(Worker, Worker.id == Run.worker_id)
        .where(table.source_id == source_id)
        .order_by((ModelVersion.state == "current").desc(), ModelVersion.id.desc())
    )
    return session.execute(statement).all()


def pictures(session: Session, source_ids: Sequence[int]) -> dict[int, Row]:
    """Return the cutout to show for each source that has one: readable before not, newest first."""
    readable = Cutout.flags.op("&")(NO_PIXELS) == 0
    statement = (
        _cutouts()
        .where(Cutout.source_id.in_(source_ids))
        .ext(distinct_on(Cutout.source_id))
        .order_by(Cutout.source_id, readable.desc(), Cutout.cutout_set_id.desc())
    )
    return {row.Cutout.source_id: row for row in session.execute(statement)}


def picture(session: Session, cutout_set_id: int, source_id: int) -> Row | None:
    """Return one cutout with its block and set, None if there is none."""
    return session.execute(
        _cutouts().where(Cutout.cutout_set_id == cutout_set_id, Cutout.source_id == source_id)
    ).one_or_none()


def looked_at(session: Session, source_id: int, model_version_id: int) -> CutoutSet | None:
    """Return the cutout set in which a version looked at a source, by its finished job."""
    statement = (
        select(CutoutSet)
        .join(Cutout, Cutout.cutout_set_id == CutoutSet.id)
        .join(Job, Job.block_id == Cutout.block_id)
        .where(
            Cutout.source_id == source_id,
            Cutout.position.between(Job.first, Job.last),
            Job.model_version_id == model_version_id,
            Job.state == "done",
        )
        .order_by(CutoutSet.id)
        .limit(1)
    )
    return session.scalar(statement)


def current_version_id(session: Session, annotator: str) -> int | None:
    """Return the version whose opinions an annotator shows."""
    return session.scalar(
        select(ModelVersion.id).where(
            ModelVersion.annotator == annotator, ModelVersion.state == "current"
        )
    )


def model_versions(session: Session) -> Sequence[ModelVersion]:
    """Return every model version, the current one of each annotator first."""
    return session.scalars(
        select(ModelVersion).order_by(
            ModelVersion.annotator,
            (ModelVersion.state == "current").desc(),
            ModelVersion.id.desc(),
        )
    ).all()


def model_version(session: Session, annotator: str, name: str) -> ModelVersion | None:
    """Return one model version by its names."""
    return session.scalar(
        select(ModelVersion).where(ModelVersion.annotator == annotator, ModelVersion.name == name)
    )


def catalogs(session: Session) -> Sequence[Catalog]:
    """Return every catalog by name, but not that of uploaded images."""
    return session.scalars(
        select(Catalog).where(Catalog.survey != uploads.SURVEY).order_by(Catalog.name)
    ).all()


def catalog_files(session: Session) -> Sequence[CatalogFile]:
    """Return every file read into a catalog, the newest first."""
    return session.scalars(
        select(CatalogFile).order_by(CatalogFile.catalog_id, CatalogFile.id.desc())
    ).all()


def rejections(
    session: Session, catalog_id: int, size: int, after: Position | None, before: Position | None
) -> Page:
    """Return a page of the rows of a catalog's files that could not become sources."""
    order = Order(Rejection.catalog_file_id, Rejection.row, nullable=False)
    statement = (
        select(CatalogFile.name.label("file"), Rejection.row, Rejection.survey_id, Rejection.reason)
        .join(CatalogFile, CatalogFile.id == Rejection.catalog_file_id)
        .where(CatalogFile.catalog_id == catalog_id)
    )
    return page(session, keyed(statement, order), order, size, after, before)


def workers(session: Session, limit: int = 50) -> Sequence[Row]:
    """Return the latest workers with `state`: alive, lost (no sign of life for a lease) or left."""
    silent = func.now() - Worker.heartbeat_at > sa.text(f"interval '{LEASE} s'")
    state = sa.case((Worker.stopped_at.is_not(None), "left"), (silent, "lost"), else_="alive")
    order = sa.case((Worker.stopped_at.is_not(None), 2), (silent, 1), else_=0)
    statement = select(Worker, state.label("state")).order_by(order, Worker.id.desc()).limit(limit)
    return session.execute(statement).all()


def failed_jobs(session: Session, limit: int = 50) -> Sequence[Row]:
    """Return the latest jobs that were given up, with their errors and what they were about."""
    statement = (
        select(Job, ModelVersion, CutoutSet.name.label("cutout_set"), CutoutBlock.number)
        .join(ModelVersion, ModelVersion.id == Job.model_version_id)
        .join(CutoutBlock, CutoutBlock.id == Job.block_id)
        .join(CutoutSet, CutoutSet.id == CutoutBlock.cutout_set_id)
        .where(Job.state == "failed")
        .order_by(Job.finished_at.desc().nulls_last(), Job.id.desc())
        .limit(limit)
    )
    return session.execute(statement).all()


def _cutouts() -> Select:
    return (
        select(Cutout, CutoutBlock, CutoutSet)
        .join(CutoutBlock, CutoutBlock.id == Cutout.block_id)
        .join(CutoutSet, CutoutSet.id == Cutout.cutout_set_id)
    )


def _current_versions(session: Session) -> Versions:
    """Return the version whose opinions are shown, by annotator."""
    statement = select(ModelVersion.annotator, ModelVersion.id)
    found = session.execute(statement.where(ModelVersion.state == "current"))
    return {row.annotator: row.id for row in found}


def _order(selection: Selection, versions: Versions, sort: str) -> Order:
    descending = sort.startswith("-")
    match sort.lstrip("-"):
        case "catalog":
            return Order(Source.catalog_id, Source.survey_id, descending, nullable=False)
        case "p" if selection.opinion == "missing":
            return Order(Source.id, Source.id, descending, nullable=False)
        case "p":
            nullable = not selection.wants_opinion
            missing = _no_probability(versions)
            return Order(Shred.p_shred, Shred.source_id, descending, nullable, Source.id, missing)
        case "blend":
            nullable = not selection.wants_blend
            missing = _lacks(Blend, versions.get("blends"), "p_blend")
            return Order(Blend.p_blend, Blend.source_id, descending, nullable, Source.id, missing)
        case "mag":
            nullable = selection.mag_min is None and selection.mag_max is None
            return Order(Source.mag_r, Source.id, descending, nullable)
    raise ValueError(f"sort must be one of {', '.join(SORTS)}, not {sort!r}")


def _selected(selection: Selection, versions: Versions, sort: str) -> Select:
    statement = select(Source.id).where(*_conditions(selection, versions))
    key = sort.lstrip("-")
    needed = [key]
    if selection.wants_opinion or selection.opinion != "any":
        needed.append("p")
    if selection.wants_blend:
        needed.append("blend")
    return _joined(statement, versions, *needed)


def _joined(statement: Select, versions: Versions, *needed: str) -> Select:
    """Join the opinions that keys of orders, or filters, are about."""
    for key, table, annotator in (("p", Shred, "shreds"), ("blend", Blend, "blends")):
        if key in needed:
            mine = table.model_version_id == versions.get(annotator)
            statement = statement.outerjoin(table, sa.and_(table.source_id == Source.id, mine))
    return statement


def _no_probability(versions: Versions) -> ColumnElement[bool]:
    return _lacks(Shred, versions.get("shreds"), "p_shred")


def _lacks(
    table: type[Shred] | type[Blend], version_id: int | None, column: str
) -> ColumnElement[bool]:
    """Condition for sources without a probability, as an anti-join that stops at LIMIT."""
    given = aliased(table)
    return ~sa.exists().where(
        given.source_id == Source.id,
        given.model_version_id == version_id,
        getattr(given, column).is_not(None),
    )


def _conditions(selection: Selection, versions: Versions) -> Iterator[ColumnElement[bool]]:
    yield Source.ra.is_not(None)  # uploaded images have no position
    if selection.catalog_id is not None:
        yield Source.catalog_id == selection.catalog_id
    if selection.saved_id is not None:
        yield Source.id.in_(_members(selection.saved_id))
    if selection.survey_id is not None:
        yield Source.catalog_id.in_(select(Catalog.id))  # so that the unique index serves
        yield Source.survey_id == selection.survey_id
    yield from _between(Shred.p_shred, selection.p_min, selection.p_max)
    yield from _between(Source.mag_r, selection.mag_min, selection.mag_max)
    match selection.opinion:
        case "given":
            yield Shred.p_shred.is_not(None)
        case "missing":
            yield _no_probability(versions)
        case "flagged":
            yield Shred.flags != 0
    yield from _blend_conditions(selection, Blend.p_blend, Blend.sep_is_blend)
    if selection.cone is not None:
        from db.sky import cone

        around = selection.cone
        yield cone(around.ra, around.dec, around.radius_arcsec / 3600)


def _members(selection_id: int) -> Select:
    return select(SelectionSource.source_id).where(SelectionSource.selection_id == selection_id)


def _view_conditions(selection: Selection, columns: Any) -> Iterator[ColumnElement[bool]]:
    if selection.catalog_id is not None:
        yield columns.catalog_id == selection.catalog_id
    if selection.saved_id is not None:
        yield in_saved(selection.saved_id)
    if selection.survey_id is not None:
        yield columns.survey_id == selection.survey_id
    yield from _between(columns.p_shred, selection.p_min, selection.p_max)
    yield from _between(columns.mag_r, selection.mag_min, selection.mag_max)
    match selection.opinion:
        case "given":
            yield columns.p_shred.is_not(None)
        case "missing":
            yield columns.p_shred.is_(None)
        case "flagged":
            yield columns.shred_flags != 0
    yield from _blend_conditions(selection, columns.p_blend, columns.sep_is_blend)
    if selection.cone is not None:
        from db.sky import cone

        around = selection.cone
        yield cone(around.ra, around.dec, around.radius_arcsec / 3600, columns)


def _blend_conditions(
    selection: Selection, p_blend: Column, sep_is_blend: Column
) -> Iterator[ColumnElement[bool]]:
    yield from _between(p_blend, selection.blend_min, selection.blend_max)
    by_network = p_blend >= sa.literal(BLEND, literal_execute=True)
    if selection.blend in ("disagree", "network", "sep"):
        # Written out as ix_blend_disagreement and the statistics on it have it.
        yield (by_network != sep_is_blend).is_(sa.true())
    match selection.blend:
        case "network":
            yield by_network
        case "sep":
            yield sa.not_(by_network)
        case "both":
            yield sa.and_(by_network, sep_is_blend)


def _between(
    column: Column, low: float | None, high: float | None
) -> Iterator[ColumnElement[bool]]:
    # Cast, because 0.9 in a real column is not 0.9 in double precision.
    if low is not None:
        yield column >= sa.cast(low, column.type)
    if high is not None:
        yield column <= sa.cast(high, column.type)
