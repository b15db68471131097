"""The way of pixels into a cutout set: which sources still need some, and what became of each.

An `Origin` (folder, mosaic or service) reads; `db.cutouts.Writer` stores. No transaction is open
while an origin reads, and every source of the catalog gets one row, flagged if it has no pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from sqlalchemy import Engine, NotNullable, Select, func, select, tuple_
from sqlalchemy.orm import Session

from db import uploads
from db.annotations import NO_PIXELS
from db.cutouts import CutoutFlag, Layout, Writer, create_set
from db.tables import Catalog, Cutout, CutoutSet, Source

PAGE = 8192  # sources asked of the database at a time
LISTED = 1000  # problems kept for the report; all are counted
CLEAN = CutoutFlag(0)


class NothingToRead(ValueError):  # noqa: N818 (it reads as what happened)
    """The origin has pixels for none of the sources, or cannot say of what kind they are."""


class Target(NamedTuple):
    """A source that needs pixels; `ra`, `dec` in degrees ICRS."""

    source_id: int
    survey_id: str
    ra: float
    dec: float
    healpix: int


@dataclass(frozen=True)
class Reading:
    """What an origin has for one source: pixels (h, w, b), or none and the reason why not."""

    pixels: np.ndarray | None = None
    flags: CutoutFlag = CLEAN
    reason: str = ""


class Origin(Protocol):
    """Where pixels come from."""

    word: str  # for `cutout_set.origin`
    layout: Layout

    def covers(self, targets: Sequence[Target]) -> np.ndarray:
        """Say, cheaply, for which targets there may be pixels: bool, shape (n,)."""

    def read(self, targets: Sequence[Target]) -> Iterator[Reading]:
        """Yield one reading per target, in order. Raise only if going on makes no sense."""


@dataclass
class Report:
    """What an ingest of cutouts did."""

    cutout_set: str
    layout: Layout
    n_new: int = 0
    n_refilled: int = 0
    n_present: int = 0  # sources that had their cutout before
    n_flagged: dict[str, int] = field(default_factory=dict)  # by the flag's name, this time
    problems: list[tuple[str, str]] = field(default_factory=list)  # survey id, why it has no pixels


def ingest(
    engine: Engine,
    root: Path,
    catalog_name: str,
    set_name: str,
    origin: Origin,
    retry: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Give every source of a catalog a cutout in a set; doing it again changes nothing.

    Parameters
    ----------
    root : Path
        The pixel store, `db.home.pixels()`.
    retry : bool
        Read again for the sources whose image was missing or unreadable, too.
    progress : callable, optional
        Called with the sources done and all that are to be done.

    Raises
    ------
    NothingToRead
        There is no such catalog, or the origin has pixels for none of the waiting sources.
    IncompatibleSet, SetBusy
        See `db.cutouts`.
    """
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = _find_catalog(session, catalog_name)
        cutout_set = create_set(session, catalog, set_name, origin.layout, origin.word)
    report = Report(set_name, origin.layout)
    with Writer(engine, root, cutout_set) as writer:
        waiting = [_Waiting(engine, cutout_set)]
        if retry:
            waiting.append(_Flagged(engine, cutout_set))
        n_all = sum(each.n for each in waiting)
        report.n_present = catalog.n_sources - n_all
        _check_any_covered(origin, waiting[0], catalog_name)
        outcomes = ((each, *pair) for each in waiting for pair in _readings(origin, each))
        for n_done, (each, target, reading) in enumerate(outcomes, start=1):
            each.settle(writer, report, target, reading)
            if progress:
                progress(n_done, n_all)
    return report


def read_in_parallel(
    read: Callable[[Target], Reading], targets: Sequence[Target], n_threads: int
) -> Iterator[Reading]:
    """Read targets in threads, a few ahead of the consumer, and yield in order."""
    ahead: deque[Future[Reading]] = deque()
    pool = ThreadPoolExecutor(n_threads)
    try:
        for target in targets:
            ahead.append(pool.submit(read, target))
            if len(ahead) > 8 * n_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Waiting:
    """The sources that have no cutout in a set, in the order of their place on the sky."""

    def __init__(self, engine: Engine, cutout_set: CutoutSet) -> None:
        self._engine = engine
        self._select = self._sources(cutout_set)
        with Session(engine) as session:
            count = select(func.count()).select_from(self._select.subquery())
            self.n: int = session.scalars(count).one()

    def _sources(self, cutout_set: CutoutSet) -> Select[int, str, float, float, int]:
        return _select_targets(cutout_set).where(~_cutouts(cutout_set).exists())

    def pages(self) -> Iterator[list[Target]]:
        """Yield the sources by the page, each read in a transaction of its own."""
        place = tuple_(Source.healpix, Source.id)
        statement = self._select.order_by(Source.healpix, Source.id).limit(PAGE)
        after: tuple[int, int] = (-1, -1)
        while True:
            with Session(self._engine) as session:
                page = [Target(*row) for row in session.execute(statement.where(place > after))]
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = (page[-1].healpix, page[-1].source_id)

    def settle(self, writer: Writer, report: Report, target: Target, reading: Reading) -> None:
        """Store what was read, or the flag that says why nothing was."""
        _note(report, target, reading)
        pixels = writer.layout.blank() if reading.pixels is None else reading.pixels
        writer.append(target.source_id, pixels, reading.flags)
        report.n_new += 1


class _Flagged(_Waiting):
    """The sources whose image was missing or unreadable when it was last looked at."""

    def _sources(self, cutout_set: CutoutSet) -> Select[int, str, float, float, int]:
        flagged = _cutouts(cutout_set).where(Cutout.flags.op("&")(NO_PIXELS) != 0)
        return _select_targets(cutout_set).where(flagged.exists())

    def settle(self, writer: Writer, report: Report, target: Target, reading: Reading) -> None:
        """Store the pixels if there are any now; otherwise leave the flagged row as it is."""
        _note(report, target, reading)
        if reading.pixels is not None:
            writer.append(target.source_id, reading.pixels, reading.flags)
            report.n_refilled += 1


def _select_targets(cutout_set: CutoutSet) -> Select[int, str, float, float, int]:
    place = (NotNullable(Source.ra), NotNullable(Source.dec), NotNullable(Source.healpix))
    return select(Source.id, Source.survey_id, *place).where(
        Source.catalog_id == cutout_set.catalog_id, Source.ra.is_not(None)
    )


def _cutouts(cutout_set: CutoutSet) -> Select[int]:
    return select(Cutout.source_id).where(
        Cutout.cutout_set_id == cutout_set.id, Cutout.source_id == Source.id
    )


def _find_catalog(session: Session, name: str) -> Catalog:
    ours = Catalog.survey != uploads.SURVEY
    catalog = session.scalar(select(Catalog).where(Catalog.name == name, ours))
    if catalog is None:
        names = select(Catalog.name).where(ours).order_by(Catalog.name).limit(20)
        known = ", ".join(session.scalars(names))
        raise NothingToRead(
            f"there is no catalog {name!r}; the database has: {known or 'none yet'}. "
            "Bring it in first with `skygloss ingest catalog`."
        )
    return catalog


def _check_any_covered(origin: Origin, waiting: _Waiting, catalog_name: str) -> None:
    """Refuse to flag a whole catalog because of a wrong folder, pattern or image."""
    example = None
    for page in waiting.pages():
        if origin.covers(page).any():
            return
        example = example or page[0]
    if example:
        raise NothingToRead(
            f"the {origin.word} has pixels for none of the {waiting.n} waiting sources of catalog "
            f"{catalog_name!r}, for example {example.survey_id!r} at ra {example.ra:.5f}, dec "
            f"{example.dec:.5f}. {getattr(origin, 'advice', '')}"
        )


def _readings(origin: Origin, waiting: _Waiting) -> Iterator[tuple[Target, Reading]]:
    for page in waiting.pages():
        covered = origin.covers(page)
        read = origin.read([target for target, there in zip(page, covered, strict=True) if there])
        for target, there in zip(page, covered, strict=True):
            yield target, next(read) if there else Reading(None, CutoutFlag.NO_IMAGE, "no image")


def _note(report: Report, target: Target, reading: Reading) -> None:
    for flag in reading.flags:
        name = str(flag.name).lower()
        report.n_flagged[name] = report.n_flagged.get(name, 0) + 1
    if reading.reason and len(report.problems) < LISTED:
        report.problems.append((target.survey_id, reading.reason))
