"""Search by example: the sources whose representations are nearest to a vector, and how exact.

Three ways lead to an answer. *Exact*: the distance to every row of the version that passes the
filter. *By index*: an HNSW index of the version finds most of the nearest rows, and the rows that
are newer than the index are compared beside it. *By index with a filter*: the index is walked on
until enough rows pass; where it gives up too early, the exact way answers. Which way was taken is
part of the answer. Building the indexes and measuring them is the business of `db.search_index`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.sql import visitors

from db import model_versions, queries
from db.predicates import annotated_source
from db.representations import Space
from db.tables import N_REDUCED, Cutout, ModelVersion, Representation, SearchIndex, Source, Upload

ANNOTATOR = "representations"
Metric = Literal["l1", "l2", "cosine"]
METRICS: dict[str, str] = {"l1": "<+>", "l2": "<->", "cosine": "<=>"}  # pgvector's operators
METRIC_WORDS = {"l1": "L1", "l2": "L2", "cosine": "cosine"}
MAX_K = 10_000
MAX_HALF = 65_504.0  # largest number of a halfvec
FEW_ROWS = 120_000  # that pass a filter: comparing as many takes about a quarter of a second
COUNTED_ROWS = FEW_ROWS  # up to here the rows compared are counted, beyond they are estimated
MANY_NEWER = 100_000  # rows newer than an index from which on it should be built anew
EF_SEARCH = 100  # candidates kept while an index is searched, unless it was measured with others
EXPLAIN_LIMIT = 2  # seconds to find out why nothing passes a filter
MAX_EF_SEARCH = 1_000  # pgvector's limit
MAX_SCAN_TUPLES = 40_000  # rows of an index looked at for a filter, before the exact way is shorter
AWAY = 0.5  # how far a query moves from the unlike examples, in units of their distance
CLOSE = 2.0  # arcsec: a source farther from the position asked for may be another object
MATCH_RADIUS = 60.0  # arcsec: a source farther away is none


class SearchError(ValueError):
    """A search that cannot be done; the message says why and what to do."""


class UnknownSource(SearchError):  # noqa: N818 (it reads as what happened)
    """There is no such source, or none at this position."""


class NoRepresentation(SearchError):  # noqa: N818 (it reads as what happened)
    """The source has no vector to search with."""


@dataclass(frozen=True, eq=False)
class Query:
    """What to look for.

    Attributes
    ----------
    vector : ndarray of float, shape (40,) for `reduced` or (d,) for `embedding`
    version_id : int
        Whose representations to search.
    space : str
        `reduced` (principal components) or `embedding` (the encoder's vector; always exact).
    metric : str
        `l1`, `l2` or `cosine`.
    k : int
        Neighbours wanted, from 1 to MAX_K.
    where : ColumnElement of bool, optional
        Condition on columns of `db.predicates.annotated_source`.
    exclude : collection of int
        Sources that are not wanted, like the example itself.
    exact : bool
        Compare every row, even if there is an index.
    """

    vector: NDArray[Any]
    version_id: int
    space: Space = "reduced"
    metric: Metric = "l1"
    k: int = 50
    where: ColumnElement[bool] | None = None
    exclude: Collection[int] = ()
    exact: bool = False


@dataclass(frozen=True)
class Answer:
    """The nearest sources, nearest first, and how they were found.

    Attributes
    ----------
    source_ids : list of int
    distances : list of float
        As PostgreSQL computes them from the stored half-precision numbers; ties are in the order
        of the sources' ids.
    metric, version, space : str
        What the distances are of; `version` is a name like `efficientnetb0.legacy-1`.
    exact : bool
        Whether every row was compared.
    recall : float or None
        Of the index that was used: the share of the true neighbours that it finds. None unless it
        was measured for a search like this one: without filter, for as many neighbours at least.
    recall_k : int or None
        The number of neighbours that `recall` was measured for.
    n_newer : int
        Rows newer than the index, which were compared one by one; beyond COUNTED_ROWS roughly.
    how : str
        All of this as one sentence.
    """

    source_ids: list[int]
    distances: list[float]
    metric: str
    version: str
    space: str
    exact: bool
    recall: float | None
    recall_k: int | None
    n_newer: int
    how: str


@dataclass(frozen=True)
class Place:
    """The source at a position: how far from it [arcsec], and a warning where that is far."""

    source_id: int
    survey_id: str
    separation_arcsec: float
    warning: str


class Neighbour(NamedTuple):
    """A row of an answer; sorts by distance, then by source."""

    distance: float
    source_id: int


@dataclass(frozen=True)
class Scan:
    """Rows found by comparing all of `n`, which `number` says in words."""

    rows: list[Neighbour]
    n: int  # an estimate beyond COUNTED_ROWS
    number: str


def version(session: Session, name: str | None = None) -> ModelVersion:
    """Return a version of the representations by name, default the current one.

    Raises
    ------
    SearchError
        There is no such version, or none is current yet.
    """
    if name is not None:
        try:
            return model_versions.find(session, ANNOTATOR, name)
        except model_versions.UnknownVersion as error:
            raise SearchError(str(error)) from error
    for current in model_versions.current(session, [ANNOTATOR]):
        return current
    raise SearchError(
        "No version of the representations is current yet, so that there is nothing to search. "
        "A worker registers what is shipped: run `skygloss annotate CATALOG`."
    )


def nearest(session: Session, query: Query) -> Answer:
    """Find the sources nearest to a vector; uploads are never among them.

    Fewer than `query.k` come back only where fewer have a representation and pass the filter.
    With the metric `cosine`, vectors of nothing but zeros are no neighbours of anything.

    Raises
    ------
    SearchError
        A value of the query cannot be used; the message says which and what is expected.
    """
    _check(session, query)
    if query.where is None:
        return _nearest(session, query)
    try:
        with _undone(session):
            answer = _nearest(session, query)
    except DataError as error:
        raise SearchError(
            f"PostgreSQL cannot compute the filter: {str(error.orig).strip()}. Keep the numbers in "
            "range, for example by another condition on the same columns. A pattern of LIKE does "
            "not end in a single \\."
        ) from error
    return answer if answer.source_ids else _explained(session, query, answer)


def usable_index(session: Session, version_id: int, metric: str) -> SearchIndex | None:
    """Return what is known of the index of a version and metric, if there is a valid one."""
    found = _index(session, version_id, metric)
    return None if found is None else found[0]


def vector_of(
    session: Session, source_id: int, version: ModelVersion, space: Space = "reduced"
) -> NDArray[np.float32]:
    """Return the vector of a source, shape (40,) or, in the space `embedding`, (d,).

    Raises
    ------
    UnknownSource
    NoRepresentation
        The message says why there is none, and what to do.
    """
    row = session.execute(
        select(getattr(Representation, space).label("vector"), Representation.flags).where(
            Representation.source_id == source_id, Representation.model_version_id == version.id
        )
    ).one_or_none()
    if row is not None and row.vector is not None:
        return np.asarray(row.vector, dtype=np.float32)
    raise _missing_vector(session, source_id, version, space, None if row is None else row.flags)


def vector_of_set(like: ArrayLike, unlike: ArrayLike = ()) -> NDArray[np.float32]:
    """Return the vector to search with for more like some examples and less like others.

    Parameters
    ----------
    like : array_like of float, shape (n, d), n at least 1
    unlike : array_like of float, shape (m, d), optional

    Returns
    -------
    ndarray of float32, shape (d,)
        mean(like) + 0.5 (mean(like) - mean(unlike)), Rocchio's query with weights that sum to one,
        so that it does not depend on where the origin is; mean(like) without `unlike`.

    References
    ----------
    Rocchio (1971), in The SMART Retrieval System, ed. G. Salton, chapter 14.
    """
    wanted = np.asarray(like, dtype=np.float64)
    if wanted.ndim != 2 or not len(wanted):
        raise SearchError(
            "A search by examples needs at least one source that the others should be like."
        )
    centre = wanted.mean(axis=0)
    unwanted = np.asarray(unlike, dtype=np.float64)
    if len(unwanted):
        centre = centre + AWAY * (centre - unwanted.mean(axis=0))
    return centre.astype(np.float32)


def source_at(
    session: Session,
    ra: float,
    dec: float,
    version: ModelVersion,
    close: float = CLOSE,
    radius: float = MATCH_RADIUS,
) -> Place:
    """Return the source with a representation that is nearest to a position on the sphere.

    Parameters
    ----------
    ra, dec : float
        ICRS [deg].
    close, radius : float
        A source farther away than `close` [arcsec] comes with a warning; beyond `radius` [arcsec]
        is none.

    Raises
    ------
    UnknownSource
        Nothing is within the radius; the message says how far the nearest source is.
    NoRepresentation
        There are sources, but none of them has a vector.
    ValueError
        The position is not on the sky.
    """
    from db import sky  # here, because astropy takes a second to import

    separation = (sky.separation(ra, dec) * 3600).label("separation")
    has_vector = sa.exists().where(
        Representation.source_id == Source.id,
        Representation.model_version_id == version.id,
        Representation.reduced.is_not(None),
    )
    found = session.execute(
        select(Source.id, Source.survey_id, separation)
        .where(sky.cone(ra, dec, radius / 3600), has_vector)
        .order_by(separation, Source.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        raise _nothing_at(session, ra, dec, version, radius)
    warning = ""
    if found.separation > close:
        warning = (
            f"The nearest source, {found.survey_id}, is {found.separation:.1f} arcsec from the "
            "position asked for: it may be another object."
        )
    return Place(found.id, found.survey_id, found.separation, warning)


def _index(session: Session, version_id: int, metric: str) -> tuple[SearchIndex, bool] | None:
    """Find the valid index of a version and metric, and whether there are newer rows."""
    valid = sa.text(
        "EXISTS (SELECT FROM pg_index WHERE indisvalid "
        "AND indexrelid = to_regclass('ix_representation_hnsw_' || search_index.id))"
    )
    newest = (  # not EXISTS, for which the planner would read the whole table
        select(Representation.ordinal)
        .where(Representation.model_version_id == version_id)
        .order_by(Representation.ordinal.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = session.execute(
        select(SearchIndex, func.coalesce(newest > SearchIndex.built_until, False)).where(
            SearchIndex.model_version_id == version_id, SearchIndex.metric == metric, valid
        )
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def _nearest(session: Session, query: Query) -> Answer:
    """Choose the way and take it."""
    index, has_newer = None, False
    if not query.exact and query.space == "reduced":
        found = _index(session, query.version_id, query.metric)
        index, has_newer = found or (None, False)
    if index is None:
        return _compared(session, query, scan(session, query, _expected(session, query)))
    if query.where is not None:
        expected = _expected(session, query)
        # The planner may be wrong about a filter, so that more rows pass than are few.
        few = _counted(session, query) if expected <= FEW_ROWS else None
        if few is not None:
            return _compared(session, query, few)
    rows = walk(session, query, index)
    if len(rows) < query.k:
        return _compared(session, query, scan(session, query, _expected(session, query)))
    newer = _newer(session, query, index) if has_newer else Scan([], 0, "0")
    return _walked(session, query, sorted(rows + newer.rows)[: query.k], index, newer)


def _check(session: Session, query: Query) -> None:
    """Raise SearchError unless PostgreSQL can answer the query."""
    for name, value, known in (
        ("metric", query.metric, tuple(METRICS)),
        ("space", query.space, get_args(Space)),
    ):
        if value not in known:
            raise SearchError(f"The {name} is one of {', '.join(known)}, not {value!r}.")
    if not 1 <= query.k <= MAX_K:
        raise SearchError(f"The number of neighbours is from 1 to {MAX_K:,}, not {query.k:,}.")
    vector = np.asarray(query.vector, dtype=np.float64)
    d = N_REDUCED if query.space == "reduced" else _embedding_length(session, query.version_id)
    if vector.shape != (d or len(vector),):
        raise SearchError(
            f"A vector to search the {query.space} representations with has shape ({d},), "
            f"not {vector.shape}."
        )
    if not (np.abs(vector) <= MAX_HALF).all():
        raise SearchError(
            f"A vector to search with has finite numbers up to {MAX_HALF:,.0f}; "
            f"this one reaches {np.abs(vector).max()}."
        )
    if query.metric == "cosine" and not vector.astype(np.float16).any():
        raise SearchError(
            "All numbers of this vector are zero, so that it has no direction to compare; "
            "choose the metric l1 or l2."
        )


def _embedding_length(session: Session, version_id: int) -> int | None:
    """Length of a version's vectors; None where there is none yet."""
    return session.scalar(
        select(func.vector_dims(Representation.embedding))
        .where(Representation.model_version_id == version_id, Representation.embedding.is_not(None))
        .limit(1)
    )


def _distance(query: Query) -> ColumnElement[float]:
    vector = np.asarray(query.vector, dtype=np.float32)
    column: Any = getattr(Representation, query.space)
    value = sa.cast(sa.literal(vector, HALFVEC(len(vector))), HALFVEC(len(vector)))
    return column.op(METRICS[query.metric], return_type=sa.Double())(value)


def _conditions(query: Query) -> Iterator[ColumnElement[bool]]:
    """What every result fulfils, the filter apart."""
    yield Representation.model_version_id == query.version_id
    yield getattr(Representation, query.space).is_not(None)
    if query.exclude:
        yield Representation.source_id.not_in([int(source_id) for source_id in query.exclude])


def candidates(query: Query, *more: ColumnElement[bool]) -> Select:
    """Statement for the rows to compare, with their distances, in no order.

    The distance is written `… + 0`, which no index can sort by: so an exact search stays exact
    whatever the planner thinks, and keeps every index that serves the filter.
    """
    distance = (_distance(query) + sa.literal_column("0")).label("distance")
    conditions = [*_conditions(query), *more]
    statement = select(Representation.source_id, distance).where(*conditions)
    if query.where is None:
        return statement
    same = annotated_source.c.source_id == Representation.source_id
    return statement.join(annotated_source, same).where(query.where)


def _no_upload() -> ColumnElement[bool]:
    """Condition that a row is not an uploaded image's.

    NOT IN, where uploads are looked up in a hash, is three times as fast as an anti-join here; but
    the planner takes it to halve the rows, so that estimates are made without it.
    """
    return Representation.source_id.not_in(select(Upload.source_id))


def _expected(session: Session, query: Query, *more: ColumnElement[bool]) -> int:
    """Rows that the planner expects to have to compare."""
    return int(queries.explain(session, candidates(query, *more))["Plan Rows"])


def scan(session: Session, query: Query, expected: int, *more: ColumnElement[bool]) -> Scan:
    """Compare every row (that fulfils `more` too), and count them unless they are many."""
    counted = _counted(session, query, *more) if expected <= COUNTED_ROWS else None
    if counted is not None:
        return counted
    rows = candidates(query, _no_upload(), *more).subquery("candidates")
    found = session.execute(_first(query, rows)).all()
    if expected <= COUNTED_ROWS:
        return Scan(_neighbours(found), COUNTED_ROWS, f"(more than {COUNTED_ROWS:,})")
    return Scan(_neighbours(found), expected, f"(about {expected:,})")


def _counted(session: Session, query: Query, *more: ColumnElement[bool]) -> Scan | None:
    """Compare and count every row; None if there are more than COUNTED_ROWS.

    To be counted, the rows are kept for a moment. The limit is there because the planner cannot
    know every filter: whatever it expects, no more rows than these are kept.
    """
    limited = candidates(query, _no_upload(), *more).limit(COUNTED_ROWS + 1)
    rows = limited.cte("candidates").prefix_with("MATERIALIZED")
    n = select(func.count()).select_from(rows).scalar_subquery()
    found = session.execute(_first(query, rows).add_columns(n.label("n"))).all()
    total = found[0].n if found else 0
    return None if total > COUNTED_ROWS else Scan(_neighbours(found), total, f"{total:,}")


def _first(query: Query, rows: sa.FromClause) -> Select:
    """Statement for the nearest of some candidates."""
    ordered = select(rows.c.distance, rows.c.source_id).order_by(rows.c.distance, rows.c.source_id)
    return ordered.limit(query.k)


def walk(
    session: Session, query: Query, index: SearchIndex, ef_search: int | None = None
) -> list[Neighbour]:
    """Find nearest rows with the index, newer ones apart; fewer than k where it gave up.

    `ef_search` is by default what the recall of the index was measured with.
    """
    ef_search = ef_search or enough_candidates(query.k, index.recall_ef)
    # With plans that sort or read in the order of the table switched off, the index is the only way
    # left: the planner weighs it well, but not always.
    settings = (
        f"SET LOCAL hnsw.ef_search = {ef_search:d}; "
        "SET LOCAL hnsw.iterative_scan = relaxed_order; "
        f"SET LOCAL hnsw.max_scan_tuples = {MAX_SCAN_TUPLES:d}; "
        "SET LOCAL enable_seqscan = off; "
        "SET LOCAL enable_bitmapscan = off; "
        "SET LOCAL enable_sort = off"
    )
    with _undone(session) as connection:
        connection.exec_driver_sql(settings)
        return _neighbours(connection.execute(walk_statement(query, index)).all())


def enough_candidates(k: int, wanted: int | None) -> int:
    """Return how many candidates to keep in a search of an index for k neighbours."""
    return min(max(wanted or EF_SEARCH, 2 * k), MAX_EF_SEARCH)


def walk_statement(query: Query, index: SearchIndex) -> Select:
    """Statement that the index answers; a filter is tested row by row, as the index finds them."""
    indexed = Representation.ordinal <= index.built_until
    conditions = [*_conditions(query), _no_upload(), indexed]
    if query.where is not None:
        passes = select(query.where).select_from(annotated_source)
        same = annotated_source.c.source_id == Representation.source_id
        conditions.append(passes.where(same).correlate(Representation).scalar_subquery())
    distance = _distance(query).label("distance")
    statement = select(distance, Representation.source_id).where(*conditions)
    return statement.order_by(distance).limit(query.k)


def _newer(session: Session, query: Query, index: SearchIndex) -> Scan:
    """Compare the rows that came after an index was built."""
    is_newer = Representation.ordinal > index.built_until
    return scan(session, query, _expected(session, query, is_newer), is_newer)


@contextmanager
def _undone(session: Session) -> Iterator[Connection]:
    """Take back in the end whatever was set, and let the transaction survive an error."""
    session.flush()  # what the caller has changed is not to be taken back
    connection = session.connection()
    connection.exec_driver_sql("SAVEPOINT before_search")
    try:
        yield connection
    finally:
        back = "ROLLBACK TO SAVEPOINT before_search; RELEASE SAVEPOINT before_search"
        connection.exec_driver_sql(back)


def _neighbours(rows: Sequence[Any]) -> list[Neighbour]:
    """Rows without those that have no distance: of a zero vector there is no cosine."""
    return [Neighbour(row.distance, row.source_id) for row in rows if not np.isnan(row.distance)]


def _compared(session: Session, query: Query, scan: Scan) -> Answer:
    """Answer what was found by comparing every row."""
    name = session.get_one(ModelVersion, query.version_id).name
    return Answer(
        source_ids=[row.source_id for row in scan.rows],
        distances=[row.distance for row in scan.rows],
        metric=query.metric,
        version=name,
        space=query.space,
        exact=True,
        recall=None,
        recall_k=None,
        n_newer=0,
        how=_how_compared(query, name, scan),
    )


def _walked(
    session: Session, query: Query, rows: list[Neighbour], index: SearchIndex, newer: Scan
) -> Answer:
    """Answer what was found by an index, and among the newer rows."""
    is_measured = _unmeasured(query, index) is None
    return Answer(
        source_ids=[row.source_id for row in rows],
        distances=[row.distance for row in rows],
        metric=query.metric,
        version=session.get_one(ModelVersion, query.version_id).name,
        space=query.space,
        exact=False,
        recall=index.recall if is_measured else None,
        recall_k=index.recall_k if is_measured else None,
        n_newer=newer.n,
        how=_how_walked(query, index, newer),
    )


def _how_compared(query: Query, version: str, scan: Scan) -> str:
    passing = " that pass the filter" if query.where is not None else ""
    unit = "components" if query.space == "reduced" else "numbers"
    measure = f"{METRIC_WORDS[query.metric]}, {len(query.vector):,} {unit}"
    return (
        f"Exact: all {scan.number} representations of {version}{passing} were compared ({measure})."
    )


def _how_walked(query: Query, index: SearchIndex, newer: Scan) -> str:
    unmeasured = _unmeasured(query, index)
    if unmeasured is None:
        measured = (
            f"measured recall@{index.recall_k} {index.recall:.3f} on {index.recall_at:%Y-%m-%d}"
        )
    else:
        measured = f"recall not measured {unmeasured}"
    metric = METRIC_WORDS[index.metric]
    text = f"Approximate: {metric} HNSW index of {index.n_rows:,} rows, {measured}"
    if query.where is not None:
        text += "; rows that fail the filter were passed over"
    if newer.n:
        text += f"; {newer.number} newer rows compared exactly"
    if newer.n >= MANY_NEWER:
        text += ", which takes long: build the index anew with `skygloss models index`"
    return f"{text}."


def _unmeasured(query: Query, index: SearchIndex) -> str | None:
    """Say for what the recall of an index was not measured; None if it holds for this search."""
    if index.recall is None or index.recall_k is None:
        return "yet"
    if query.where is not None:
        return "for searches with a filter"
    if query.k > index.recall_k:
        return f"for {query.k:,} neighbours, only for {index.recall_k:,}"
    return None


def _explained(session: Session, query: Query, answer: Answer) -> Answer:
    """Name in an answer without sources what of the filter no source that is searched has."""
    assert query.where is not None
    empty = []
    with suppress(OperationalError), _undone(session) as connection:  # not worth waiting for
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{EXPLAIN_LIMIT}s'")
        for name, value in _parts(query.where).items():
            searched = replace(query, where=value.is_not(None))
            if not connection.scalar(_any(searched)):
                empty.append(name)
        if not connection.scalar(_any(replace(query, where=None))):
            return answer
    if not empty:
        return answer
    names = " and ".join((", ".join(empty[:-1]), empty[-1]) if empty[1:] else empty)
    has = "have" if empty[1:] else "has"
    return replace(
        answer, how=f"{answer.how} {names} {has} no value for any of the sources searched."
    )


def _any(query: Query) -> Select:
    return select(candidates(query, _no_upload()).exists())


def _parts(where: ColumnElement[bool]) -> dict[str, ColumnElement[Any]]:
    """Columns of `annotated_source` and values of `extra` in a filter, as users write them."""
    found: dict[str, ColumnElement[Any]] = {}
    part: Any
    for part in visitors.iterate(where):
        if isinstance(part, sa.ColumnClause) and part.table is annotated_source:
            if not isinstance(part.type, sa.JSON):
                found[part.name] = part
        elif getattr(getattr(part, "operator", None), "opstring", None) == "->>":
            found[f"extra ->> '{part.right.value}'"] = part
    return found


def _missing_vector(
    session: Session, source_id: int, version: ModelVersion, space: str, flags: int | None
) -> SearchError:
    """Say why a source has no vector."""
    source = session.get(Source, source_id)
    if source is None:
        return UnknownSource(f"There is no source {source_id}.")
    what = f"Source {source.survey_id} ({source_id}) has no representation by {version.name}"
    if flags is not None and (words := _flag_words(flags)):
        return NoRepresentation(f"{what}: {words}. Give it another image, or choose another one.")
    if flags is not None:
        return NoRepresentation(
            f"{what} in the space {space}: this encoder has no principal components yet. "
            "Search with the space embedding."
        )
    if session.scalar(select(sa.exists().where(Cutout.source_id == source_id))):
        return NoRepresentation(
            f"{what}: it has not been annotated yet. A worker does it: `skygloss annotate`."
        )
    return NoRepresentation(
        f"{what}: it has no image. Bring images in with `skygloss ingest cutouts`."
    )


def _flag_words(flags: int) -> str:
    """Name the bits of `representation.flags` that leave no vector, as its comment does."""
    comment = Representation.__table__.c.flags.comment or ""
    known = {int(bit): words for bit, words in re.findall(r"\b(\d+) ([^,;:]+)", comment)}
    return ", ".join(words for bit, words in known.items() if flags & bit)


def _nothing_at(
    session: Session, ra: float, dec: float, version: ModelVersion, radius: float
) -> SearchError:
    """Say what is at a position where no source with a vector is."""
    from db import sky

    nearest = sky.nearest(session, ra, dec)
    if nearest is None:
        return UnknownSource("There are no sources yet: `skygloss ingest catalog` brings them in.")
    source, degrees = nearest
    if degrees * 3600 <= radius:
        return _missing_vector(
            session, source.id, version, "reduced", _flags(session, source.id, version)
        )
    far = f"{degrees * 3600:.0f} arcsec" if degrees < 1 / 6 else f"{degrees:.2f} degrees"
    return UnknownSource(
        f"No source is within {radius:g} arcsec of {ra:.6f} {dec:+.6f}; the nearest, "
        f"{source.survey_id}, is {far} away."
    )


def _flags(session: Session, source_id: int, version: ModelVersion) -> int | None:
    row = session.get(Representation, (source_id, version.id))
    return None if row is None else row.flags
