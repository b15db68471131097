"""Where a worker's batches come from: poll, claim, read the pixels; wait when there is nothing.

Images that somebody uploaded to search with come before everything else that waits. Now and then
the reader deletes those that are too old, because a quiet web server never does.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import chain

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from db import jobs, uploads
from db.cutouts import BlockDamaged, BlockMissing
from db.jobs import Claim
from db.tables import CutoutSet, ModelVersion
from workers import batches, supply
from workers.batches import Batch, Part
from workers.database import error_text, first_line, is_away
from workers.station import Failure, Station
from workers.supply import Supply

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0  # seconds between looks for new blocks and versions while busy
POLL_SPACING = 50.0  # times as long as a look takes, so that looking costs 2 % at most
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between looks while idle, unless woken
PAUSE_NEAR_THE_END = 2.0  # seconds, when only others' jobs are left to wait for
STEP = 0.25  # seconds between looks at whether to stop
PRUNE_INTERVAL = 3600.0  # seconds between looks for uploads that are too old


class Reader:
    """Claims and reads for one worker, in a thread of its own."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self._supplies: dict[int, Supply] = {}  # by model version
        self._sets: dict[int, CutoutSet] = {}
        self._bell: Connection | None = None
        self._poll_due = 0.0
        self._prune_due = 0.0
        self._may_have_uploads = False  # that nobody has claimed, since the last poll
        self._pause = FIRST_PAUSE
        self._is_idle = False  # nothing was in hand at the last look for claims
        self._warned_of: set[int] = set()  # model versions
        self._remarks: set[str] = set()  # that were made

    def batches(self) -> Iterator[Batch | Failure]:
        """Yield batches until the worker is to stop or, if so asked, nothing is left."""
        try:
            while not self.station.stop.is_set():
                self._listen()
                if claims := self._claim():
                    self._pause = FIRST_PAUSE
                    yield from self._load(claims)
                elif self._is_finished():
                    return
                else:
                    self._idle()
        finally:
            self._hang_up()

    def _claim(self) -> Sequence[Claim]:
        self._is_idle = False
        if any(claim.attempt > 1 for claim in self.station.held.all()):
            return []  # a job that failed before is worked on alone
        database, self._is_idle = self.station.database, not len(self.station.held)
        if time.monotonic() >= self._poll_due:
            self._poll()
        claims = database.do(self._claim_fresh)
        if not claims and self._is_idle:
            self._poll()
            claims = database.do(self._claim_fresh) or database.do(self._claim_again)
        self.station.held.add(claims)
        return claims

    def _poll(self) -> None:
        """Make the jobs of blocks and versions that have come, and end the jobs nobody finishes."""
        began = time.monotonic()
        n_new, n_ended = self.station.database.do(self._renew)
        if n_new or n_ended:
            log.info("jobs_new=%d jobs_given_up=%d", n_new, n_ended)
        seconds = time.monotonic() - began
        self._poll_due = time.monotonic() + max(POLL_INTERVAL, POLL_SPACING * seconds)
        self._may_have_uploads = True
        if time.monotonic() >= self._prune_due:
            self._prune_due = time.monotonic() + PRUNE_INTERVAL
            self._prune()

    def _prune(self) -> None:
        """Delete the uploads that are too old; no failure of this keeps the worker from working."""
        try:
            n = uploads.prune(self.station.database.engine, self.station.root)
        except Exception as error:
            log.warning("uploads=kept although too old; error=%r", first_line(error))
            return
        if n:
            log.info("uploads_deleted=%d", n)

    def _renew(self, session: Session) -> tuple[int, int]:
        catalog_id = self.station.options.catalog_id
        sets = supply.cutout_sets(session, catalog_id, and_uploads=True)
        self._sets = {cutout_set.id: cutout_set for cutout_set in sets}
        self._supplies = {
            version.id: supply.supply(version, self.station.annotators[version.annotator], sets)
            for version in self.station.versions(session)
            if self._has_weights(version)
        }
        for each in self._supplies.values():
            self._look_before(session, each)
        self._say_what_is_passed_over(session)
        n_new = sum(supply.enqueue(session, each) for each in self._supplies.values())
        return n_new, jobs.give_up(session)

    def _claim_fresh(self, session: Session) -> list[Claim]:
        """Claim blocks until together they fill a call of the network, uploads before all others.

        Jobs of uploads come by a poll only, so that asking for them costs one claim a poll.
        """
        claims: list[Claim] = []
        uploaded = [set_id for set_id, each in self._sets.items() if uploads.is_upload(each)]
        if uploaded and self._may_have_uploads:
            self._may_have_uploads = self._fill(session, claims, uploaded)
        self._fill(session, claims, list(self._sets))
        return claims

    def _fill(self, session: Session, claims: list[Claim], set_ids: Sequence[int]) -> bool:
        """Add claims of these sets until a call of the network is full; False if they run out."""
        n_versions, lease = len(self._supplies), self.station.options.lease
        wanted = self.station.options.batch_size * n_versions
        while sum(claim.n for claim in claims) < wanted:
            more = jobs.claim(
                session,
                self.station.worker_id,
                list(self._supplies),
                n_versions,
                cutout_set_ids=set_ids,
                lease=lease,
            )
            if not more:
                return False
            claims += more
        return True

    def _claim_again(self, session: Session) -> list[Claim]:
        return jobs.claim_again(
            session,
            self.station.worker_id,
            list(self._supplies),
            cutout_set_ids=list(self._sets),
            lease=self.station.options.lease,
        )

    def _load(self, claims: Sequence[Claim]) -> Iterator[Batch | Failure]:
        left = list(claims)
        try:
            parts = self.station.database.do(
                lambda session: batches.find_parts(session, claims, self._supplies)
            )
            of_exposures = [part for part in parts if self._is_of_exposure(part)]
            of_sources = [part for part in parts if not self._is_of_exposure(part)]
            counted = self.station.database.do(
                lambda session: batches.count(session, of_exposures, self._supplies)
            )
            for batch in chain(counted, batches.load(of_sources, self._sets, self.station.root)):
                left = [claim for claim in left if claim not in batch.claims]
                yield batch
        except Exception as error:
            if is_away(error):
                raise
            splits = not isinstance(error, BlockMissing)
            counts = splits and not isinstance(error, BlockDamaged)
            yield Failure(left, error_text(error), splits, counts)

    def _is_of_exposure(self, part: Part) -> bool:
        return self._supplies[part.claim.model_version_id].annotator.subject == "exposure"

    def _is_finished(self) -> bool:
        if not self.station.options.until_idle or not self._is_idle:
            return False
        return self._seconds_until_due() is None

    def _seconds_until_due(self) -> float | None:
        return self.station.database.do(
            lambda session: jobs.seconds_until_due(session, list(self._supplies), list(self._sets))
        )

    def _idle(self) -> None:
        """Wait for our own claims to end, else for news, a pause or the next job that falls due."""
        if len(self.station.held):
            self.station.held.wait(STEP)
            return
        longest = PAUSE_NEAR_THE_END if self.station.options.until_idle else LONGEST_PAUSE
        due = self._seconds_until_due()
        end = time.monotonic() + min(self._pause, longest if due is None else max(due, 0.05))
        self._pause = min(2 * self._pause, longest)
        while (left := end - time.monotonic()) > 0 and not self.station.stop.is_set():
            if self._is_woken(min(left, STEP)):
                self._pause = FIRST_PAUSE
                return

    def _has_weights(self, version: ModelVersion) -> bool:
        if self.station.has_weights(version):
            return True
        self._warn_once(
            version,
            "is wanted, but this worker has no weights for it: bring it to the version of "
            f"Skygloss that has, or the file to {version.card.get('weights')}",
        )
        return False

    def _look_before(self, session: Session, each: Supply) -> None:
        """Say which version this one follows if nobody, or somebody else, is to bring it."""
        wanted = each.annotator.after_of(each.version.card)
        for name, found in supply.before(session, each.version, each.annotator).items():
            which = f"comes after {name} {wanted[name] or '(current)'}, which"
            if found is None:
                reason = f"{which} is not registered: install the Skygloss that ships it, or train "
                self._warn_once(each.version, f"{reason}it (skygloss train {name})")
            elif name not in self.station.annotators:
                self._warn_once(each.version, f"{which} this worker leaves to others")

    def _say_what_is_passed_over(self, session: Session) -> None:
        if any(each.passed_over for each in self._supplies.values()):
            for line in supply.remarks(session, self._supplies.values()):
                if line not in self._remarks:
                    self._remarks.add(line)
                    log.info("passed_over=%r", line)

    def _warn_once(self, version: ModelVersion, what: str) -> None:
        if version.id not in self._warned_of:
            self._warned_of.add(version.id)
            log.warning("annotator=%s version=%s %s", version.annotator, version.name, what)

    def _listen(self) -> None:
        """Listen before looking, so that nothing slips in between."""
        if self._bell is None:
            self._bell = self.station.database.listen()

    def _is_woken(self, seconds: float) -> bool:
        try:
            return self._bell is not None and jobs.wait(self._bell, seconds)
        except Exception as error:
            if not is_away(error):
                raise
            self._hang_up()
            return True

    def _hang_up(self) -> None:
        if self._bell is not None:
            self._bell.invalidate()
            self._bell.close()
            self._bell = None
