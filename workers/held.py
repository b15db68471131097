"""The claims a worker holds at the moment, shared by its threads."""

import threading
import time
from collections.abc import Iterable

from db.jobs import Claim


class Held:
    """Claims by job, with the time they were taken."""

    def __init__(self) -> None:
        self._taken: dict[int, tuple[Claim, float]] = {}
        self._changed = threading.Condition()

    def add(self, claims: Iterable[Claim]) -> None:
        """Hold more claims."""
        with self._changed:
            self._taken.update({claim.job_id: (claim, time.monotonic()) for claim in claims})

    def drop(self, claim: Claim) -> None:
        """Hold a claim no longer, whatever became of it."""
        with self._changed:
            if claim in self:
                del self._taken[claim.job_id]
                self._changed.notify_all()

    def keep(self, asked: Iterable[Claim], job_ids: set[int]) -> None:
        """Of the claims asked about, hold only those of these jobs."""
        for claim in asked:
            if claim.job_id not in job_ids:
                self.drop(claim)

    def all(self) -> list[Claim]:
        """The claims held now."""
        with self._changed:
            return [claim for claim, _ in self._taken.values()]

    def seconds(self, claim: Claim) -> float:
        """Seconds since the claim was taken; 0 if it is not held."""
        with self._changed:
            return time.monotonic() - self._taken[claim.job_id][1] if claim in self else 0.0

    def wait(self, seconds: float) -> None:
        """Wait until a claim is dropped."""
        with self._changed:
            self._changed.wait(seconds)

    def __contains__(self, claim: Claim) -> bool:
        with self._changed:
            return self._taken.get(claim.job_id, (None,))[0] == claim

    def __len__(self) -> int:
        with self._changed:
            return len(self._taken)
