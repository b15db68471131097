"""Where a worker's batches go: results and the state of their jobs, in one fenced transaction."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from db import annotations, jobs
from db.jobs import Claim, LostClaim
from workers.batches import Part, rows_of
from workers.database import error_text, is_away
from workers.station import Annotated, Failure, Outcome, Station, Unbegun

log = logging.getLogger(__name__)

MAX_FAILURES = 12  # in a row: more than the halving of a block around a bad row or two gives


class WorkerStopped(RuntimeError):  # noqa: N818 (it reads as what happened)
    """The worker cannot go on; the message says why."""


@dataclass
class Tally:
    """What a worker has done since it started."""

    n_annotated: int = 0


class Writer:
    """Writes for one worker, in a thread of its own."""

    def __init__(self, station: Station, progress: Callable[[int], None]) -> None:
        self.station = station
        self.progress = progress
        self.tally = Tally()
        self._in_a_row: Counter[int] = Counter()  # failures, by model version

    def write(self, outcome: Outcome) -> None:
        """Put an outcome into the database; its claims are no longer held afterwards.

        Raises
        ------
        WorkerStopped
            Everything fails, so it is not the data.
        """
        match outcome:
            case Annotated():
                self._complete(outcome)
            case Failure():
                self._fail(outcome)
            case Unbegun(claims):
                for claim in claims:
                    self._end(claim, partial(jobs.release, claim=claim))

    def _complete(self, outcome: Annotated) -> None:
        began = time.monotonic()
        n_done = sum(
            self._complete_part(outcome, part, rows) for part, rows in rows_of(outcome.parts)
        )
        self._log(outcome, n_done, time.monotonic() - began)
        self.tally.n_annotated += n_done
        self.progress(n_done)

    def _complete_part(self, outcome: Annotated, part: Part, rows: slice) -> int:
        """Write one claim's rows; the number of sources or exposures done."""

        def act(session: Session) -> None:
            jobs.complete(session, part.claim, self.station.held.seconds(part.claim))
            annotations.write(
                session,
                outcome.by.annotator.table,
                part.claim.model_version_id,
                outcome.by.run_id,
                part.waiting["id"],
                {name: values[rows] for name, values in outcome.columns.items()},
            )

        try:
            done = self._end(part.claim, act)
        except Exception as error:
            if is_away(error):
                raise
            self._fail(Failure([part.claim], error_text(error)))
            return 0
        self._in_a_row[part.claim.model_version_id] = 0
        return part.claim.n if done else 0

    def _fail(self, failure: Failure) -> None:
        error, back_off = failure.error, self.station.options.back_off
        fail = partial(jobs.fail, error=error, back_off=back_off, splits=failure.splits)
        for claim in failure.claims:
            log.error(
                "job=%d attempt=%d block=%d first=%d last=%d error=%r",
                *(claim.job_id, claim.attempt, claim.block_number, claim.first, claim.last),
                error.rstrip().rpartition("\n")[2],
            )
            self._end(claim, partial(fail, claim=claim))
        if not failure.counts:
            return
        self._in_a_row[failure.claims[0].model_version_id] += 1
        if max(self._in_a_row.values()) >= MAX_FAILURES:
            raise WorkerStopped(
                f"{MAX_FAILURES} batches failed in a row, so it is the code or the machine and not "
                f"a source. The last error was:\n{error}"
            )

    def _end(self, claim: Claim, act: Callable[[Session], Any]) -> bool:
        """Run the transaction that ends a claim; False if the claim was no longer ours."""
        try:
            self.station.database.do(act)
        except LostClaim as lost:
            log.warning("job=%d attempt=%d lost=%r", claim.job_id, claim.attempt, str(lost))
            self.station.held.drop(claim)
            return False
        self.station.held.drop(claim)
        return True

    def _log(self, outcome: Annotated, n_done: int, write_seconds: float) -> None:
        log.info(
            "annotator=%s version=%s jobs=%d %ss=%d flagged=%d"
            " read_s=%.3f annotate_s=%.3f write_s=%.3f",
            outcome.by.annotator.name,
            outcome.by.version,
            len(outcome.parts),
            outcome.by.annotator.subject,
            n_done,
            np.count_nonzero(outcome.columns["flags"]),
            outcome.read_seconds,
            outcome.seconds,
            write_seconds,
        )
