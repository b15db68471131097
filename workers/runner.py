"""The worker: claim, load, annotate, complete, with reading, computing and writing side by side.

A thread reads (`workers.reader`), the main thread computes, a thread writes (`workers.writer`) and
one renews the leases; short queues lie between them. No transaction is open while pixels
are read or a network computes. How a job changes hands is in `db.jobs`.
"""

import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import jobs, model_versions, prototypes, runs
from db.annotations import result_columns
from db.tables import ModelVersion
from models import registry
from workers import signals
from workers.annotators.base import Annotator, Columns
from workers.annotators.representations import Representations
from workers.batches import Batch
from workers.database import Database, error_text, first_line, is_away
from workers.device import Device
from workers.reader import Reader
from workers.station import Annotated, Failure, Loaded, Options, Outcome, Station, Unbegun
from workers.writer import Tally, WorkerStopped, Writer

log = logging.getLogger(__name__)

AHEAD = 1  # batches waiting to be computed, beside the one that is being read
UNWRITTEN = 4  # batches waiting to be written: columns only
LEAVE_WITHIN = 3.0  # seconds for giving jobs back after the second signal


class Runner:
    """One worker process.

    Parameters
    ----------
    engine : Engine
    root : Path
        The pixel store, `db.home.pixels()`.
    annotators : sequence of Annotator classes
    options : Options
    device : Device
        Where the networks compute, from `workers.device.prepare`.
    cards : callable
        Gives the cards of an annotator, by its name.
    progress : callable
        Called with 0 when a network is loaded, then with the number of sources or exposures of each
        batch that is done.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        annotators: Sequence[type[Annotator]],
        options: Options,
        device: Device,
        cards: Callable[[str], Sequence[registry.Card]] = registry.cards,
        progress: Callable[[int], None] = lambda n: None,
    ) -> None:
        stop = threading.Event()
        database = Database(engine, stop)
        by_name = {annotator.name: annotator for annotator in annotators}
        self.station = Station(database, root, by_name, cards, options, stop)
        self.device = device
        self.progress = progress
        self._loaded: dict[int, Loaded] = {}  # by model version
        self._to_compute: queue.Queue[Batch | Failure | None] = queue.Queue(AHEAD)
        self._to_write: queue.Queue[Outcome | None] = queue.Queue(UNWRITTEN)
        self._over = threading.Event()
        self._crash: BaseException | None = None

    def run(self) -> Tally:
        """Work until a signal, or until nothing is left if the options say so.

        Raises
        ------
        WorkerStopped
            No annotator can work, or everything fails.
        """
        with signals.watch(self.stop, self.leave_now):
            self.station.database.do(self._register_cards)
            self.station.worker_id = self.station.database.do(self._sign_in)
            writer = Writer(self.station, self.progress)
            write = self._thread("writer", lambda: self._write(writer))
            read = self._thread("reader", lambda: self._read(Reader(self.station)))
            beat = self._thread("heartbeat", self._beat)
            self._compute()
            read.join()
            self._to_write.put(None)
            write.join()
            self._over.set()
            beat.join()
            self._sign_off()
        if self._crash:
            raise self._crash
        return writer.tally

    def stop(self) -> None:
        """Finish the batch in hand, give the others back and return from `run`."""
        if not self.station.stop.is_set():
            log.info("stopping=1 (finishing the batch in hand; once more to leave at once)")
        self.station.stop.set()

    def leave_now(self, number: int) -> None:
        """Give every job back and end the process."""
        deadline = threading.Timer(LEAVE_WITHIN, os._exit, [128 + number])
        deadline.daemon = True
        deadline.start()
        for claim in self.station.held.all():
            try:
                self.station.database.once(partial(jobs.release, claim=claim))
            except Exception as error:
                log.warning("job=%d released=0 error=%r", claim.job_id, first_line(error))
        os._exit(128 + number)

    def _register_cards(self, session: Session) -> None:
        """Register what ships, in a transaction of its own, so that it can be promoted."""
        for name, annotator in self.station.annotators.items():
            self._register(session, name, annotator)

    def _sign_in(self, session: Session) -> int:
        self._check_weights(session)
        return runs.sign_in(
            session,
            platform.node(),
            os.getpid(),
            self.device.name,
            self.device.note,
            installed_version("skygloss"),
        )

    def _register(self, session: Session, name: str, annotator: type[Annotator]) -> None:
        known = self.station.cards(name)
        for card in known:
            content = {**card.as_dict(), **annotator.description(card.as_dict())}
            model_versions.register(session, name, card.name, card.sha256, content)
        current = model_versions.current(session, [name])
        if not known:
            if not current:
                log.warning("annotator=%s version=none (%s)", name, _how_to_get(name))
        elif not current:
            model_versions.promote(session, name, known[0].name)
        elif known[0].state == "current" and known[0].name != current[0].name:
            log.warning(
                "annotator=%s current=%s shipped=%s (skygloss models promote %s %s)",
                *(name, current[0].name, known[0].name, name, known[0].name),
            )

    def _check_weights(self, session: Session) -> None:
        """Make sure that there is a version to work with that this worker has the weights of."""
        wanted = self.station.versions(session)
        if any(self.station.has_weights(version) for version in wanted):
            return
        names = ", ".join(self.station.annotators)
        if not wanted:
            ways = "; ".join(map(_how_to_get, self.station.annotators))
            raise WorkerStopped(
                f"no version of {names} is registered, and none ships. To bring one in: {ways}"
            )
        choices = [
            f"skygloss models promote {name} {card.name}"
            for name in self.station.annotators
            for card in self.station.cards(name)[:1]
        ]
        raise WorkerStopped(
            f"the wanted version of {names} is {', '.join(version.name for version in wanted)}, "
            f"and its weights are not here. To go on with those that are: {'; '.join(choices)}"
        )

    def _thread(self, name: str, act: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=act, name=name, daemon=True)
        thread.start()
        return thread

    def _read(self, reader: Reader) -> None:
        try:
            for batch in reader.batches():
                self._to_compute.put(batch)
        except BaseException as error:
            self._crashed(error)
        finally:
            self._to_compute.put(None)

    def _compute(self) -> None:
        while (item := self._to_compute.get()) is not None:
            if isinstance(item, Failure):
                self._to_write.put(item)
            elif self.station.stop.is_set():
                self._to_write.put(Unbegun(item.claims))
            elif any(claim in self.station.held for claim in item.claims):
                self._to_write.put(self._annotate(item))
            else:
                log.warning("jobs=%d lost='the leases ran out before the turn'", len(item.claims))

    def _annotate(self, batch: Batch) -> Outcome:
        try:
            loaded = self._load(batch.model_version_id)
        except Exception as error:
            self._crashed(error)
            return Unbegun(batch.claims)
        began = time.monotonic()
        try:
            columns = _columns(loaded.annotator, batch)
        except Exception as error:
            return Failure(batch.claims, error_text(error))
        seconds = time.monotonic() - began
        return Annotated(batch.parts, loaded, columns, batch.read_seconds, seconds)

    def _load(self, version_id: int) -> Loaded:
        """Return the annotator with the weights of a version, loaded on first use."""
        if version_id not in self._loaded:
            began = time.monotonic()
            version = self.station.database.do(
                lambda session: session.get_one(ModelVersion, version_id)
            )
            annotator = self.station.annotators[version.annotator](self.station.options.batch_size)
            annotator.load(version)
            self._keep_prototypes(version_id, annotator)
            run_id = self.station.database.do(
                lambda session: runs.start(
                    session, self.station.worker_id, version_id, self._conditions()
                )
            )
            self._loaded[version_id] = Loaded(annotator, version.name, run_id)
            self.progress(0)
            log.info(
                "annotator=%s version=%s device=%s load_s=%.2f",
                *(annotator.name, version.name, self.device.name, time.monotonic() - began),
            )
        return self._loaded[version_id]

    def _keep_prototypes(self, version_id: int, annotator: Annotator) -> None:
        """Put the cells of a map into the database, unless they are there."""
        if found := annotator.prototypes():
            self.station.database.do(lambda session: prototypes.write(session, version_id, *found))

    def _conditions(self) -> dict[str, str | int]:
        options = self.station.options
        return {
            "batch_size": options.batch_size,
            "precision": options.precision,
            "backend": self.device.backend,
        }

    def _write(self, writer: Writer) -> None:
        while (outcome := self._to_write.get()) is not None:
            try:
                writer.write(outcome)
            except BaseException as error:
                self._crashed(error)

    def _beat(self) -> None:
        options, worker_id = self.station.options, self.station.worker_id
        while not self._over.wait(options.lease / 3):
            held = self.station.held.all()
            try:
                renewed = self.station.database.once(
                    partial(jobs.heartbeat, worker_id=worker_id, claims=held, lease=options.lease)
                )
            except Exception as error:
                if not is_away(error):
                    self._crashed(error)
                log.warning("heartbeat=0 error=%r", first_line(error))
            else:
                self.station.held.keep(held, renewed)

    def _crashed(self, error: BaseException) -> None:
        self._crash = self._crash or error
        self.station.stop.set()

    def _sign_off(self) -> None:
        worker_id = self.station.worker_id
        try:
            self.station.database.once(lambda session: runs.sign_off(session, worker_id))
        except Exception as error:
            log.warning("signed_off=0 error=%r", first_line(error))


def _how_to_get(annotator: str) -> str:
    """How a first version of an annotator gets here."""
    if annotator == Representations.name:
        return f"skygloss models register {annotator}"
    return f"skygloss train {annotator}, whose card belongs into models/weights.toml"


def _columns(annotator: Annotator, batch: Batch) -> Columns:
    n = len(batch.content)
    if not n:
        return {name: np.empty(0) for name in result_columns(annotator.table)}
    columns = annotator.annotate(batch.content)
    if wrong := {name: len(values) for name, values in columns.items() if len(values) != n}:
        raise ValueError(f"annotator {annotator.name} got {n} {annotator.subject}s, gave {wrong}")
    return columns
