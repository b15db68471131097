"""The queue: who may do what to which job, and what becomes of it."""

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import jobs
from db.jobs import MAX_ATTEMPTS, Claim, LostClaim
from db.tables import CutoutBlock, ExposureCell, Job, Shred, Source
from tests.builders import (
    make_catalog,
    make_cutout_block,
    make_cutout_set,
    make_exposure,
    make_model_version,
    make_run,
    make_shred,
    make_sources,
    make_worker,
)


class Queue:
    """A cutout set with sealed blocks, a version and a worker; shortcuts for claiming."""

    def __init__(self, session: Session, n_blocks: int = 1, n: int = 4) -> None:
        self.session = session
        self.version = make_model_version(session)
        self.worker = make_worker(session)
        self.set = make_cutout_set(session)
        for _ in range(n_blocks):
            self.add_block(n)
        jobs.enqueue(session, self.version.id, [self.set.id])

    def add_block(self, n: int, **values: object) -> CutoutBlock:
        sources = make_sources(self.session, n)
        return make_cutout_block(self.session, self.set, sources, **values)

    def claim(self, limit: int = 1, **values: object) -> list[Claim]:
        return jobs.claim(self.session, self.worker.id, [self.version.id], limit, **values)

    def claim_again(self) -> list[Claim]:
        self.session.execute(sa.update(Job).values(not_before=sa.func.now()))
        return jobs.claim_again(self.session, self.worker.id, [self.version.id])

    def expire(self) -> None:
        """Let every lease have run out."""
        past = sa.func.now() - sa.text("interval '1 s'")
        self.session.execute(sa.update(Job).where(Job.state == "doing").values(lease_until=past))

    def states(self) -> list[tuple[str, int, int]]:
        rows = self.session.execute(
            sa.select(Job.state, Job.first, Job.last).order_by(Job.first, Job.last.desc())
        )
        return [tuple(row) for row in rows]


def test_every_sealed_block_becomes_one_job(session: Session) -> None:
    queue = Queue(session, n_blocks=2)
    queue.add_block(4, sealed=False)

    again = jobs.enqueue(session, queue.version.id, [queue.set.id])

    assert again == 0
    assert queue.states() == [("todo", 0, 3), ("todo", 0, 3)]


def test_a_block_that_arrives_later_becomes_a_job(session: Session) -> None:
    queue = Queue(session)
    queue.add_block(2)

    assert jobs.enqueue(session, queue.version.id, [queue.set.id]) == 1


def test_a_claimed_job_is_not_claimed_again(session: Session) -> None:
    queue = Queue(session)

    [claim] = queue.claim()

    assert (claim.first, claim.last, claim.attempt, claim.n) == (0, 3, 1, 4)
    assert queue.claim() == []
    assert queue.claim_again() == []


def test_jobs_of_one_block_are_claimed_side_by_side(session: Session) -> None:
    queue = Queue(session, n_blocks=2)
    other = make_model_version(session)
    jobs.enqueue(session, other.id, [queue.set.id])

    claims = jobs.claim(session, queue.worker.id, [queue.version.id, other.id], 2)

    assert {claim.model_version_id for claim in claims} == {queue.version.id, other.id}
    assert len({claim.block_id for claim in claims}) == 1


def test_only_jobs_of_the_wanted_sets_are_claimed(session: Session) -> None:
    queue = Queue(session)

    assert queue.claim(cutout_set_ids=[queue.set.id + 1]) == []
    assert len(queue.claim(cutout_set_ids=[queue.set.id])) == 1


def test_two_workers_never_claim_the_same_job(engine: Engine) -> None:
    with Session(engine) as session:
        queue = Queue(session, n_blocks=60, n=1)
        version_id = queue.version.id
        worker_ids = [make_worker(session).id for _ in range(4)]
        session.commit()
    taken: list[int] = []

    def drain(worker_id: int) -> None:
        with Session(engine) as session:
            while claims := jobs.claim(session, worker_id, [version_id], 3):
                session.commit()
                taken.extend(claim.job_id for claim in claims)

    threads = [threading.Thread(target=drain, args=[worker_id]) for worker_id in worker_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 60


def test_a_lease_that_ran_out_goes_to_the_next_worker(session: Session) -> None:
    queue = Queue(session)
    queue.claim()
    queue.expire()

    [claim] = queue.claim_again()

    assert claim.attempt == 2


def test_a_heartbeat_renews_the_lease_and_names_what_is_lost(session: Session) -> None:
    queue = Queue(session, n_blocks=2)
    mine, lost = queue.claim(2)
    queue.expire()
    other = make_worker(session)
    session.execute(sa.update(Job).where(Job.id == lost.job_id).values(worker_id=other.id))

    kept = jobs.heartbeat(session, queue.worker.id, [mine, lost])

    assert kept == {mine.job_id}
    assert len(queue.claim_again()) == 1  # the other's lease was not renewed


def test_a_late_result_is_refused(session: Session) -> None:
    queue = Queue(session)
    [late] = queue.claim()
    queue.expire()
    [claim] = queue.claim_again()

    for act in (
        lambda: jobs.complete(session, late, 1.0),
        lambda: jobs.fail(session, late, "late"),
        lambda: jobs.release(session, late),
    ):
        with pytest.raises(LostClaim, match="nothing was written"):
            act()
    jobs.complete(session, claim, 1.0)

    assert queue.states() == [("done", 0, 3)]


def test_completing_twice_is_no_error(session: Session) -> None:
    queue = Queue(session)
    [claim] = queue.claim()

    jobs.complete(session, claim, 1.0)
    jobs.complete(session, claim, 1.0)

    assert queue.states() == [("done", 0, 3)]


def test_a_failed_job_waits_longer_after_each_attempt(session: Session) -> None:
    queue = Queue(session)
    pauses = []
    for claims in (queue.claim, queue.claim_again):
        [claim] = claims()
        jobs.fail(session, claim, "boom")
        pauses.append(jobs.seconds_until_due(session, [queue.version.id]))

    assert pauses == [pytest.approx(5), pytest.approx(20)]
    assert queue.states() == [("todo", 0, 3)]


def test_the_third_failure_fails_a_range_that_halving_cannot_help(session: Session) -> None:
    queue = Queue(session)
    for claims in (queue.claim, queue.claim_again, queue.claim_again):
        [claim] = claims()
        jobs.fail(session, claim, "no pixels", splits=False)

    assert queue.states() == [("failed", 0, 3)]


def test_the_third_failure_halves_the_range_down_to_the_poison_row(session: Session) -> None:
    queue = Queue(session)
    poison = 2

    claims = queue.claim()
    while claims:
        [claim] = claims
        if claim.first <= poison <= claim.last:
            jobs.fail(session, claim, "boom")
        else:
            jobs.complete(session, claim, 1.0)
        claims = queue.claim_again()

    assert queue.states() == [
        ("split", 0, 3),
        ("done", 0, 1),
        ("split", 2, 3),
        ("failed", 2, 2),
        ("done", 3, 3),
    ]
    failed = session.execute(sa.select(Job.error).where(Job.state == "failed")).scalar_one()
    assert failed == "boom"


def test_a_job_whose_workers_all_vanish_is_split_with_the_reason(session: Session) -> None:
    queue = Queue(session)
    queue.claim()
    for _ in range(MAX_ATTEMPTS - 1):
        queue.expire()
        queue.claim_again()
    queue.expire()

    assert queue.claim_again() == []
    assert jobs.give_up(session) == 1

    assert queue.states() == [("split", 0, 3), ("todo", 0, 1), ("todo", 2, 3)]
    assert "never heard of again" in session.execute(sa.select(Job.error)).scalars().first()


def test_a_released_job_is_as_good_as_new(session: Session) -> None:
    queue = Queue(session)
    [claim] = queue.claim()

    jobs.release(session, claim)

    [again] = queue.claim()
    assert again.attempt == 1


def test_a_refusal_is_forgotten_when_a_set_serves(session: Session) -> None:
    queue = Queue(session)
    other = make_model_version(session)
    jobs.refuse(session, other.id, [queue.set.id], "wants more bands")
    [before] = [one for one in jobs.progress(session) if one.model_version_id == other.id]

    jobs.accept(session, other.id, [queue.set.id])
    n_new = jobs.enqueue(session, other.id, [queue.set.id])

    assert before.n_failed == 4
    assert n_new == 1


def test_retry_brings_back_what_failed_but_not_what_was_refused(session: Session) -> None:
    queue = Queue(session, n_blocks=1, n=1)
    claims = queue.claim()
    while claims:
        jobs.fail(session, claims[0], "boom")
        claims = queue.claim_again()
    queue.add_block(1)
    jobs.refuse(session, queue.version.id, [queue.set.id], "unfit")

    assert jobs.retry(session, [queue.version.id]) == 1
    assert sorted(state for state, *_ in queue.states()) == ["failed", "todo"]


def test_verify_finds_a_done_block_with_a_missing_row(session: Session) -> None:
    queue = Queue(session, n_blocks=2, n=2)
    run = make_run(session, queue.version, worker_id=queue.worker.id)
    for claim in queue.claim(2):
        jobs.complete(session, claim, 1.0)
    for source in session.scalars(sa.select(Source).order_by(Source.id)).all()[:-1]:
        make_shred(session, source, run)

    found = jobs.verify(session, queue.version.id, Shred, queue.set.id)

    assert found == 1
    [claim] = queue.claim()
    assert claim.attempt == 1


def test_verify_leaves_sources_that_a_better_set_shows(session: Session) -> None:
    queue = Queue(session, n=1)
    [source] = session.scalars(sa.select(Source)).all()
    better = make_cutout_set(session, make_catalog(session))
    make_cutout_block(session, better, [source])
    [claim] = queue.claim()
    jobs.complete(session, claim, 1.0)

    assert jobs.verify(session, queue.version.id, Shred, queue.set.id, [better.id]) == 0
    assert jobs.verify(session, queue.version.id, Shred, queue.set.id) == 1


def test_progress_counts_sources_once_however_jobs_were_split(session: Session) -> None:
    queue = Queue(session, n_blocks=2)
    first, second = queue.claim(2)
    jobs.complete(session, first, 2.0)
    session.execute(sa.update(Job).where(Job.id == second.job_id).values(attempt=MAX_ATTEMPTS))
    jobs.fail(session, replace(second, attempt=MAX_ATTEMPTS), "boom")

    [progress] = jobs.progress(session)

    assert (progress.n_total, progress.n_done, progress.n_left) == (8, 4, 4)
    assert progress.rate == pytest.approx(4 / 2.0, rel=0.01)
    assert progress.seconds_left == pytest.approx(2.0, rel=0.01)


def test_an_exposure_is_one_job_however_many_sources_it_has(session: Session) -> None:
    exposure = make_exposure(session, 5)
    version = make_model_version(session, annotator="exposure_map", card={"subject": "exposure"})
    [set_id] = session.scalars(sa.select(CutoutBlock.cutout_set_id)).all()
    jobs.enqueue(session, version.id, [set_id], whole=True)

    [claim] = jobs.claim(session, make_worker(session).id, [version.id])
    [progress] = jobs.progress(session)
    jobs.complete(session, claim, 1.0)

    assert (claim.block_id, claim.first, claim.last) == (exposure.block_id, 0, 0)
    assert (progress.subject, progress.n_total, progress.n_doing) == ("exposure", 1, 1)
    assert jobs.verify(session, version.id, ExposureCell, set_id) == 1


def test_a_version_waits_until_another_has_annotated_part_of_the_block_and_tries_no_more(
    session: Session,
) -> None:
    queue = Queue(session, n=2)
    follower = make_model_version(session)

    def follow() -> int:
        return jobs.enqueue(session, follower.id, [queue.set.id], [queue.version.id])

    session.execute(sa.update(Job).values(attempt=MAX_ATTEMPTS - 1))
    [whole] = queue.claim_again()
    jobs.fail(session, whole, "boom")
    for _ in range(2):
        [half] = queue.claim_again()
        jobs.fail(session, half, "boom")
    when_all_failed = follow()
    jobs.retry(session, [queue.version.id])
    [half] = queue.claim_again()
    jobs.complete(session, half, 1.0)
    when_half_is_left = follow()
    [half] = queue.claim_again()
    jobs.complete(session, half, 1.0)

    assert (when_all_failed, when_half_is_left) == (0, 0)
    assert follow() == 1


def test_what_follows_is_taken_from_its_worker_when_the_sources_are_done_again(
    session: Session,
) -> None:
    queue = Queue(session, n=1)
    card = {"subject": "exposure", "inputs": {queue.version.annotator: queue.version.name}}
    follower = make_model_version(session, annotator="exposure_map", card=card)
    other_card = {"subject": "exposure", "inputs": {queue.version.annotator: "another"}}
    other = make_model_version(session, annotator="exposure_map", card=other_card)
    [claim] = queue.claim()
    jobs.complete(session, claim, 1.0)
    jobs.enqueue(session, follower.id, [queue.set.id], [queue.version.id], whole=True)
    jobs.enqueue(session, other.id, [queue.set.id], whole=True)
    [following] = jobs.claim(session, queue.worker.id, [follower.id])

    jobs.verify(session, queue.version.id, Shred, queue.set.id)

    with pytest.raises(jobs.LostClaim, match="what it follows from is done again"):
        jobs.complete(session, following, 1.0)
    left = session.scalars(sa.select(Job.model_version_id).order_by(Job.model_version_id)).all()
    assert left == [queue.version.id, other.id]
    assert jobs.enqueue(session, follower.id, [queue.set.id], [queue.version.id], whole=True) == 0


def test_an_idle_worker_is_woken_by_a_new_block(engine: Engine) -> None:
    bell = jobs.listen(engine)
    silent = jobs.wait(bell, 0.01)

    with Session(engine) as session:
        Queue(session)
        session.commit()

    assert not silent
    assert jobs.wait(bell, 5.0)
    bell.close()


def test_claiming_reads_an_index_of_unfinished_jobs_only(session: Session) -> None:
    queue = Queue(session, n_blocks=3)
    session.execute(
        text(
            "INSERT INTO job (model_version_id, block_id, first, last, state)"
            " SELECT :version, block_id, k, k, 'done' FROM job, generate_series(100, 2100) AS k"
        ),
        {"version": queue.version.id},
    )
    session.execute(text("ANALYZE job"))
    plans: list[str] = []

    @sa.event.listens_for(session.connection(), "before_cursor_execute", retval=True)
    def explain(_connection, cursor, statement, parameters, *_rest):  # type: ignore[no-untyped-def]
        if statement.startswith("WITH picked"):
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))
        return statement, parameters

    queue.claim()
    queue.claim_again()

    fresh, again = plans
    assert "ix_job_todo" in fresh
    assert "ix_job_doing" in again
    assert "Seq Scan on job" not in fresh + again
