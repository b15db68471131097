"""The queue: which range of which block is annotated with which model version, and by whom.

Knows neither pixels nor results (`db.annotations`); the loop around it is `workers.runner`.

    enqueue ──► todo ──claim──► doing ──complete──► done ──verify: a row is missing──► todo
                 ▲                │
                 ├─── release ────┤  the worker stops in good order: the attempt does not count
                 ├─── fail ───────┤  attempts 1 and 2: again after a pause, error kept
                 │                ├─► split   attempt 3: two halves, one attempt each
                 └─── retry ──────┴─► failed  attempt 3 of a single row, or of a block whose
                                              pixels are lost: error kept
    refuse ──► failed at once: no cutout set of the catalog serves the annotator

What is done again (`retry`, `verify`) takes back what followed from it: the jobs of the block with
versions that come after, and what they said of its exposure; `enqueue` makes those jobs anew.

A claim is a lease of a minute that heartbeats renew; when it runs out the job may be claimed again,
and `give_up` ends what ran out three times. Ownership is (worker, attempt): `complete`, `fail` and
`release` of a late worker change nothing. Every time is the database's, so the workers' clocks do
not matter. A job that was tried before is claimed alone (`claim_again`), so that a row that kills
its worker takes no innocent job with it.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Engine, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from db.annotations import lacking
from db.tables import (
    Base,
    CutoutBlock,
    Exposure,
    ExposureCell,
    ExposureHistogram,
    Job,
    ModelVersion,
    Worker,
)

LEASE = 60.0  # seconds
MAX_ATTEMPTS = 3
BACK_OFF = 5.0  # seconds after the first failure, four times as long after the second
CHANNEL = "skygloss_work"
RATE_WINDOW = 600.0  # seconds over which the rate of progress is taken
ERROR_LENGTH = 4000  # characters kept of an error: its end
FOLLOWING = 0x5C7_10B5  # advisory lock: nothing new may follow from what is being done again
NO_SESSION_STATE = {"synchronize_session": False}  # sessions hold no Job objects


class LostClaim(RuntimeError):  # noqa: N818 (it reads as what happened)
    """The lease ran out and somebody else has, or had, the job; or it was taken back."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one job; `worker_id` and `attempt` prove whose it is."""

    worker_id: int
    job_id: int
    attempt: int
    model_version_id: int
    block_id: int
    cutout_set_id: int
    block_number: int
    first: int
    last: int

    @property
    def n(self) -> int:
        """Positions in the range."""
        return self.last - self.first + 1


def enqueue(
    session: Session,
    model_version_id: int,
    cutout_set_ids: Sequence[int],
    after_version_ids: Sequence[int] = (),
    *,
    whole: bool = False,
) -> int:
    """Make a job of every sealed block of these sets that has none for the version; how many.

    With `after_version_ids`, only of blocks that all these versions have finished with. `whole` is
    for annotators of exposures: a block, however many sources it has, is one row, position 0.
    """
    if after_version_ids:
        session.execute(sa.select(func.pg_advisory_xact_lock_shared(FOLLOWING)))
    last = sa.literal(0) if whole else CutoutBlock.n - 1
    return _add_jobs(session, model_version_id, cutout_set_ids, last, after_version_ids)


def refuse(
    session: Session, model_version_id: int, cutout_set_ids: Sequence[int], error: str
) -> int:
    """Fail every sealed block of these sets that has no job for the version; how many."""
    return _add_jobs(
        session,
        model_version_id,
        cutout_set_ids,
        CutoutBlock.n - 1,
        (),
        state="failed",
        error=error,
        finished_at=func.now(),
    )


def accept(session: Session, model_version_id: int, cutout_set_ids: Sequence[int]) -> int:
    """Forget the refusals of these sets, for which a set that serves has come; how many."""
    return _rowcount(
        session,
        sa.delete(Job).where(
            Job.model_version_id == model_version_id,
            Job.state == "failed",
            Job.attempt == 0,
            _in_sets(cutout_set_ids),
        ),
    )


def is_finished(
    block_id: sa.ColumnExpressionArgument[int | None], model_version_id: int
) -> ColumnElement[bool]:
    """Condition: the version has annotated this block, or what of it did not fail for good."""
    mine = (Job.block_id == block_id) & (Job.model_version_id == model_version_id)
    done, open_ = Job.state == "done", Job.state.in_(["todo", "doing"])
    return sa.exists().where(mine, done) & ~sa.exists().where(mine, open_)


def claim(
    session: Session,
    worker_id: int,
    model_version_ids: Sequence[int],
    limit: int = 1,
    *,
    cutout_set_ids: Sequence[int] | None = None,
    lease: float = LEASE,
) -> list[Claim]:
    """Take up to `limit` jobs that nobody has tried yet, those of one block side by side."""
    fresh = [Job.state == "todo", Job.attempt == 0, Job.not_before <= func.now()]
    wanted = [*fresh, *_wanted(model_version_ids, cutout_set_ids)]
    return _take(session, worker_id, wanted, limit, lease)


def claim_again(
    session: Session,
    worker_id: int,
    model_version_ids: Sequence[int],
    *,
    cutout_set_ids: Sequence[int] | None = None,
    lease: float = LEASE,
) -> list[Claim]:
    """Take one job that failed before or whose lease ran out; to be worked on alone."""
    failed = sa.and_(Job.state == "todo", Job.attempt > 0, Job.not_before <= func.now())
    abandoned = sa.and_(_abandoned(), Job.attempt < MAX_ATTEMPTS)
    wanted = [failed | abandoned, *_wanted(model_version_ids, cutout_set_ids)]
    return _take(session, worker_id, wanted, 1, lease)


def heartbeat(
    session: Session, worker_id: int, claims: Collection[Claim], lease: float = LEASE
) -> set[int]:
    """Say that the worker lives and renew its leases; the ids of the jobs that are still its."""
    session.execute(
        sa.update(Worker).where(Worker.id == worker_id).values(heartbeat_at=func.now()),
        execution_options=NO_SESSION_STATE,
    )
    renewed = session.execute(
        sa.update(Job)
        .where(
            Job.worker_id == worker_id,
            Job.state == "doing",
            sa.tuple_(Job.id, Job.attempt).in_([(c.job_id, c.attempt) for c in claims]),
        )
        .values(lease_until=_after(lease))
        .returning(Job.id),
        execution_options=NO_SESSION_STATE,
    )
    return set(renewed.scalars())


def complete(session: Session, claim: Claim, seconds: float) -> None:
    """Mark the job done; call it before writing the results, in the same transaction.

    Completing twice is no error: the answer to the first commit may have been lost.

    Raises
    ------
    LostClaim
        Somebody else has the job: roll back.
    """
    _update_own(
        session,
        claim,
        ["doing", "done"],
        state="done",
        lease_until=None,
        seconds=seconds,
        finished_at=func.now(),
    )


def fail(
    session: Session,
    claim: Claim,
    error: str,
    back_off: float = BACK_OFF,
    *,
    splits: bool = True,
) -> None:
    """Give the job back after an error: a pause and another attempt, or the isolation of a row.

    `splits` is False where no single row can be at fault: then the whole range fails.
    """
    error = error[-ERROR_LENGTH:]
    if claim.attempt < MAX_ATTEMPTS:
        pause = _after(back_off * 4 ** (claim.attempt - 1))
        _update_own(
            session, claim, ["doing"], state="todo", lease_until=None, not_before=pause, error=error
        )
    elif not _isolate(session, _owned(claim, ["doing"]), error, splits):
        raise LostClaim(_lost(claim))


def release(session: Session, claim: Claim) -> None:
    """Give the job back untouched; the attempt does not count."""
    _update_own(session, claim, ["doing"], state="todo", lease_until=None, attempt=Job.attempt - 1)
    wake(session)


def give_up(session: Session) -> int:
    """Split or fail the jobs that ran out of leases and attempts; how many."""
    silent = session.execute(
        sa.select(Job.id, Worker.id, Worker.host, Worker.pid)
        .join(Worker, Worker.id == Job.worker_id)
        .where(_abandoned(), Job.attempt >= MAX_ATTEMPTS)
        .with_for_update(of=Job, skip_locked=True)
    ).all()
    for job_id, worker_id, host, pid in silent:
        error = (
            f"worker {worker_id} ({host}, process {pid}) was never heard of again: killed, out of "
            f"memory or cut off, on attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS}"
        )
        _isolate(session, [Job.id == job_id], error)
    return len(silent)


def retry(
    session: Session, model_version_ids: Sequence[int], cutout_set_ids: Sequence[int] | None = None
) -> int:
    """Try what failed once more; how many jobs. See `_again` for what follows from them."""
    failed = (Job.state == "failed") & (Job.attempt > 0)
    wanted = _wanted(model_version_ids, cutout_set_ids)
    ids = session.scalars(sa.select(Job.id).where(failed, *wanted)).all()
    return _again(session, ids, failed, attempt=1)


def verify(
    session: Session,
    model_version_id: int,
    table: type[Base],
    cutout_set_id: int,
    better_set_ids: Sequence[int] = (),
) -> int:
    """Look for done jobs with a source or exposure that has no row, and do them again; how many.

    Reads every row, unlike everything else here: for after a restore, or for peace of mind.
    `better_set_ids` are sets that are used for a source in preference to this one.
    """
    positions = (Job.first, Job.last)
    hole = lacking(table, model_version_id, Job.block_id, positions, better_set_ids).exists()
    done = Job.state == "done"
    wanted = _wanted([model_version_id], [cutout_set_id])
    ids = session.scalars(sa.select(Job.id).where(done, *wanted, hole)).all()
    return _again(session, ids, done, attempt=0)


def seconds_until_due(
    session: Session, model_version_ids: Sequence[int], cutout_set_ids: Sequence[int] | None = None
) -> float | None:
    """Seconds until the next unfinished job can be claimed or changes hands; None: all finished."""
    due = sa.case((Job.state == "todo", Job.not_before), else_=Job.lease_until)
    return session.execute(
        sa.select(sa.cast(func.extract("epoch", func.min(due) - func.now()), sa.Double)).where(
            Job.state.in_(["todo", "doing"]), *_wanted(model_version_ids, cutout_set_ids)
        )
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model version is, counted in sources with a cutout, or in exposures."""

    model_version_id: int
    annotator: str
    version: str
    state: str
    n_total: int
    n_done: int
    n_doing: int
    n_failed: int
    rate: float | None  # per second, over the last ten minutes
    seconds_left: float | None  # at that rate; None when nobody is working or nothing is left
    subject: str = "source"  # or exposure: what is counted

    @property
    def n_left(self) -> int:
        """Those that are neither done nor failed."""
        return self.n_total - self.n_done - self.n_failed


def progress(session: Session, cutout_set_ids: Sequence[int] | None = None) -> list[Progress]:
    """Count done, running and failed of every version that is current or has jobs."""
    n = Job.last - Job.first + 1
    recent = (Job.state == "done") & (Job.finished_at > func.now() - timedelta(seconds=RATE_WINDOW))
    began = func.min(Job.finished_at - Job.seconds * timedelta(seconds=1)).filter(recent)
    span = func.greatest(func.extract("epoch", func.now() - began), 1.0)

    def total(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(n).filter(condition), 0)

    counted = Job.state != "split"
    if cutout_set_ids is not None:
        counted &= _in_sets(cutout_set_ids)
    rows = session.execute(
        sa.select(
            ModelVersion.id,
            ModelVersion.annotator,
            ModelVersion.name,
            ModelVersion.state,
            func.coalesce(ModelVersion.card["subject"].astext, "source"),
            total(sa.true()),
            total(Job.state == "done"),
            total(Job.state == "doing"),
            total(Job.state == "failed"),
            sa.cast(total(recent) / span, sa.Double),
        )
        .outerjoin(Job, (Job.model_version_id == ModelVersion.id) & counted)
        .group_by(ModelVersion.id)
        .having((ModelVersion.state == "current") | (func.count(Job.id) > 0))
        .order_by(ModelVersion.annotator, ModelVersion.id.desc())
    )
    return [_progress(*row) for row in rows]


def wake(session: Session) -> None:
    """Wake the idle workers when the transaction commits."""
    session.execute(sa.select(func.pg_notify(CHANNEL, "")))


def listen(engine: Engine) -> Connection:
    """Open a connection of its own that hears `wake`; close it yourself."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()
    connection.execute(sa.text(f"LISTEN {CHANNEL}"))
    return connection


def wait(connection: Connection, seconds: float) -> bool:
    """Wait on a listening connection; True as soon as somebody calls `wake`."""
    driver: Any = connection.connection.dbapi_connection
    ready, _, _ = select.select([driver], [], [], seconds)
    if ready:
        driver.poll()
    heard = bool(driver.notifies)
    driver.notifies.clear()
    return heard


def _progress(
    version_id: int,
    annotator: str,
    name: str,
    state: str,
    subject: str,
    n_total: int,
    n_done: int,
    n_doing: int,
    n_failed: int,
    rate: float | None,
) -> Progress:
    n_left = n_total - n_done - n_failed
    seconds_left = n_left / rate if rate and n_left else None
    counts = (int(n_total), int(n_done), int(n_doing), int(n_failed))
    pace = (rate or None, seconds_left)
    return Progress(version_id, annotator, name, state, *counts, *pace, subject)


def _add_jobs(
    session: Session,
    model_version_id: int,
    cutout_set_ids: Sequence[int],
    last: ColumnElement[int],
    after_version_ids: Sequence[int],
    **values: object,
) -> int:
    block = CutoutBlock
    has_job = sa.exists().where(Job.model_version_id == model_version_id, Job.block_id == block.id)
    blocks = (
        sa.select(
            sa.literal(model_version_id),
            block.id,
            sa.literal(0),
            last,
            *map(_sql, values.values()),
        )
        .where(
            block.cutout_set_id.in_(cutout_set_ids),
            block.sealed_at.is_not(None),
            block.n > 0,
            ~has_job,
            *(is_finished(block.id, version_id) for version_id in after_version_ids),
        )
        .order_by(block.id)
    )
    columns = ["model_version_id", "block_id", "first", "last", *values]
    added = _rowcount(session, insert(Job).from_select(columns, blocks).on_conflict_do_nothing())
    if added:
        wake(session)
    return added


def _again(
    session: Session, ids: Sequence[int], condition: ColumnElement[bool], attempt: int
) -> int:
    """Do these jobs again, and forget what followed from them; how many still were as stated."""
    if not ids:
        return 0
    session.execute(sa.select(func.pg_advisory_xact_lock(FOLLOWING)))
    again = session.execute(
        sa.update(Job)
        .where(Job.id == _any(ids), condition)
        .values(state="todo", attempt=attempt, not_before=func.now(), finished_at=None)
        .returning(Job.model_version_id, Job.block_id),
        execution_options=NO_SESSION_STATE,
    ).all()
    for version_id in {row.model_version_id for row in again}:
        blocks = [row.block_id for row in again if row.model_version_id == version_id]
        _forget_followers(session, version_id, blocks)
    wake(session)
    return len(again)


def _forget_followers(session: Session, version_id: int, block_ids: Sequence[int]) -> None:
    """Delete what follows from a version on these blocks: jobs, and rows of their exposures.

    The jobs go first: a worker that is at one finds its claim lost, or has written its row.
    """
    followers = _followers(version_id)
    exposures = sa.select(Exposure.id).where(Exposure.block_id == _any(block_ids))
    for rows in (
        sa.delete(Job).where(Job.block_id == _any(block_ids), Job.model_version_id.in_(followers)),
        sa.delete(ExposureCell).where(
            ExposureCell.exposure_id.in_(exposures), ExposureCell.model_version_id.in_(followers)
        ),
        sa.delete(ExposureHistogram).where(
            ExposureHistogram.exposure_id.in_(exposures),
            ExposureHistogram.model_version_id == version_id,
        ),
    ):
        session.execute(rows, execution_options=NO_SESSION_STATE)


def _followers(version_id: int) -> sa.Select:
    """The versions about exposures that come after this one: their cards name it, or none."""
    first = aliased(ModelVersion)
    named = ModelVersion.card["inputs"][first.annotator].astext
    return sa.select(ModelVersion.id).where(
        first.id == version_id,
        ModelVersion.id != version_id,
        ModelVersion.card["subject"].astext == "exposure",
        func.coalesce(named, first.name) == first.name,
    )


def _any(ids: Sequence[int]) -> ColumnElement:
    return sa.any_(sa.literal(list(ids), sa.ARRAY(sa.BigInteger)))


def _sql(value: object) -> ColumnElement:
    return value if isinstance(value, ColumnElement) else sa.literal(value)


def _take(
    session: Session,
    worker_id: int,
    wanted: Sequence[ColumnElement[bool]],
    limit: int,
    lease: float,
) -> list[Claim]:
    picked = (
        sa.select(Job.id)
        .where(*wanted)
        .order_by(Job.block_id, Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("picked")  # never inlined, so that the limit holds whatever the plan
    )
    rows = session.execute(
        sa.update(Job)
        .where(Job.id == picked.c.id, CutoutBlock.id == Job.block_id)
        .values(
            state="doing", attempt=Job.attempt + 1, worker_id=worker_id, lease_until=_after(lease)
        )
        .returning(
            Job.id,
            Job.attempt,
            Job.model_version_id,
            Job.block_id,
            CutoutBlock.cutout_set_id,
            CutoutBlock.number,
            Job.first,
            Job.last,
        ),
        execution_options=NO_SESSION_STATE,
    )
    return sorted(
        (Claim(worker_id, *tuple(row)) for row in rows), key=lambda c: (c.block_id, c.job_id)
    )


def _isolate(
    session: Session, where: Sequence[ColumnElement[bool]], error: str, splits: bool = True
) -> bool:
    """Split a job in halves, or fail it if it is a single row; whether there was one."""
    is_split = sa.literal(splits) & (Job.first < Job.last)
    ended = session.execute(
        sa.update(Job)
        .where(*where)
        .values(
            state=sa.case((is_split, "split"), else_="failed"),
            lease_until=None,
            error=error,
            finished_at=func.now(),
        )
        .returning(Job.state, Job.model_version_id, Job.block_id, Job.first, Job.last),
        execution_options=NO_SESSION_STATE,
    ).one_or_none()
    if ended is None:
        return False
    state, version_id, block_id, first, last = ended
    if state == "split":
        middle = (first + last) // 2
        session.execute(
            insert(Job).on_conflict_do_nothing(),
            [
                {
                    "model_version_id": version_id,
                    "block_id": block_id,
                    "first": start,
                    "last": end,
                    "attempt": MAX_ATTEMPTS - 1,
                    "error": error,
                }
                for start, end in [(first, middle), (middle + 1, last)]
            ],
        )
    return True


def _update_own(session: Session, claim: Claim, states: Sequence[str], **values: object) -> None:
    statement = sa.update(Job).where(*_owned(claim, states)).values(**values)
    if not _rowcount(session, statement):
        raise LostClaim(_lost(claim))


def _owned(claim: Claim, states: Sequence[str]) -> list[ColumnElement[bool]]:
    return [
        Job.id == claim.job_id,
        Job.worker_id == claim.worker_id,
        Job.attempt == claim.attempt,
        Job.state.in_(states),
    ]


def _lost(claim: Claim) -> str:
    return (
        f"job {claim.job_id} no longer belongs to worker {claim.worker_id}, attempt "
        f"{claim.attempt}: its lease ran out and it was claimed again, or what it follows from is "
        "done again; nothing was written"
    )


def _wanted(
    model_version_ids: Sequence[int], cutout_set_ids: Sequence[int] | None
) -> list[ColumnElement[bool]]:
    versions = Job.model_version_id.in_(model_version_ids)
    return [versions] if cutout_set_ids is None else [versions, _in_sets(cutout_set_ids)]


def _in_sets(cutout_set_ids: Sequence[int]) -> ColumnElement[bool]:
    blocks = sa.select(CutoutBlock.id).where(CutoutBlock.cutout_set_id.in_(cutout_set_ids))
    return Job.block_id.in_(blocks)


def _abandoned() -> ColumnElement[bool]:
    return sa.and_(Job.state == "doing", Job.lease_until < func.now())


def _after(seconds: float) -> ColumnElement:
    return func.now() + timedelta(seconds=seconds)


def _rowcount(session: Session, statement: sa.Executable) -> int:
    result = session.execute(statement, execution_options=NO_SESSION_STATE)
    return result.rowcount  # type: ignore[attr-defined]
