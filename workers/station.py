"""What the threads of one worker share: its options, its database, its claims, when to stop."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from db.jobs import BACK_OFF, LEASE, Claim
from db.tables import ModelVersion
from models.registry import Card
from workers import supply
from workers.annotators.base import Annotator, Columns
from workers.batches import Part
from workers.database import Database
from workers.held import Held


@dataclass(frozen=True)
class Options:
    """How a worker works."""

    batch_size: int = 64  # sources or exposures per call of the network
    precision: str = "float32"
    lease: float = LEASE  # seconds
    back_off: float = BACK_OFF  # seconds before a failed job is tried again
    until_idle: bool = False  # stop when nothing is left, rather than wait for more
    catalog_id: int | None = None  # only this catalog
    version: str | None = None  # only versions of this name, rather than the current ones


@dataclass
class Station:
    """See the module."""

    database: Database
    root: Path  # the pixel store
    annotators: dict[str, type[Annotator]]  # by name
    cards: Callable[[str], Sequence[Card]]  # of an annotator, by its name
    options: Options
    stop: threading.Event  # set when no new batch is to be begun
    worker_id: int = 0
    held: Held = field(default_factory=Held)

    def versions(self, session: Session) -> Sequence[ModelVersion]:
        """The versions to work with, whether their weights are here or not."""
        return supply.versions(session, self.annotators, self.options.version)

    def has_weights(self, version: ModelVersion) -> bool:
        """Whether this version's weights ship, under any name, or are in a file that is here."""
        known = {card.sha256 for card in self.cards(version.annotator)}
        registered = Path(version.card.get("weights", ""))
        return version.weights_sha256 in known or (
            registered.is_absolute() and registered.is_file()
        )


@dataclass(frozen=True)
class Loaded:
    """An annotator with the weights of one version, and the run it makes."""

    annotator: Annotator
    version: str
    run_id: int


@dataclass(frozen=True)
class Annotated:
    """What an annotator said about a batch, whose pixels are no longer needed."""

    parts: Sequence[Part]
    by: Loaded
    columns: Columns
    read_seconds: float
    seconds: float  # of computing


@dataclass(frozen=True)
class Failure:
    """Claims that an error ended, and the error."""

    claims: Sequence[Claim]
    error: str
    splits: bool = True  # whether one of the rows may be at fault
    counts: bool = True  # whether this worker may be at fault


@dataclass(frozen=True)
class Unbegun:
    """Claims to be given back untouched."""

    claims: Sequence[Claim]


Outcome = Annotated | Failure | Unbegun
