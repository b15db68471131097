"""Exposures in: which files are new, and what was found on them into the database, all or nothing.

Pixels and picture are safely on the disk before one transaction adds the exposure, its CCDs, its
sources, their block and their cutouts; a crash leaves nothing behind that anyone sees. What is on
an exposure is found by `db.exposure_contents`, in as many processes as wanted.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from db import sky, uploads
from db.catalogs import fingerprint_of
from db.cutouts import (
    MAX_BLOCK,
    ON_EXPOSURES,
    IncompatibleSet,
    Layout,
    SetBusy,
    Writer,
    create_set,
    find_set,
    sync,
)
from db.detection import SIZE
from db.engine import create_engine
from db.exposure_contents import Contents, examine
from db.exposure_files import NotAnExposure, is_exposure_file, name_of
from db.tables import Catalog, Ccd, CutoutSet, Exposure

SURVEY = "exposure"
SAMPLE = MAX_BLOCK  # sources of an exposure stored by default, and at most
UNIT = "adu"
UNKNOWN_BAND = "unknown"
UNKNOWN_SCALE = 1.0  # arcsec/pixel, where neither WCS nor header tells
SCALE_TOLERANCE = 0.05  # relative; the scale of one camera changes by less
PREVIEWS = "previews"  # folder in the pixel store


class CannotIngest(ValueError):  # noqa: N818 (it reads as what happened)
    """No exposure can go where it was meant to."""


class AlreadyThere(RuntimeError):  # noqa: N818
    """The catalog has an exposure of this name."""


@dataclass
class Outcome:
    """What came of one file.

    `known` files were in the catalog before. `rejected` ones are not in it: `reason` says why.
    `problems` are what could not be read of an exposure that is in all the same.
    """

    file: str
    name: str
    state: Literal["new", "known", "rejected"]
    reason: str = ""
    n_ccds: int = 0
    n_ccds_flagged: int = 0
    n_detected: int = 0
    n_sampled: int = 0
    n_pixels: int = 0
    flags: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What an ingest of exposures did; `seconds` by the clock on the wall."""

    catalog: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, state: str) -> list[Outcome]:
        """The files that came to this end."""
        return [outcome for outcome in self.outcomes if outcome.state == state]

    def total(self, count: str) -> int:
        """Sum of a count over the new exposures."""
        return sum(getattr(outcome, count) for outcome in self.of("new"))


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those in the folders named, each once.

    Raises
    ------
    CannotIngest
        There are none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_files_in(path) if path.is_dir() else [path]))
    if not found:
        raise CannotIngest(
            f"no exposures in {', '.join(map(str, paths))}: expected files that end in .fits, "
            ".fits.fz or .fits.gz"
        )
    return list(found)


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if is_exposure_file(p) and p.is_file())


def ingest(
    engine: Engine,
    root: Path,
    files: Sequence[Path],
    catalog: str,
    n_sample: int = SAMPLE,
    processes: int = 1,
    progress: Callable[[int], None] = lambda n_files: None,
) -> Report:
    """Bring the exposures of files into a catalog; doing it again changes nothing.

    Parameters
    ----------
    root : Path
        The pixel store, `db.home.pixels()`.
    n_sample : int
        Sources stored of an exposure, at most; 1 to `SAMPLE`.
    processes : int
        Files that are worked on at once; each holds one CCD in memory.
    progress : callable
        Called with the number of further files done.

    Raises
    ------
    CannotIngest
        The catalog holds something else, the sample is too large, or a process died.
    """
    if not 1 <= n_sample <= SAMPLE:
        raise CannotIngest(f"expected a sample of 1 to {SAMPLE} sources; arrived {n_sample}")
    start = time.monotonic()
    target = _Target(str(root), _catalog_id(engine, catalog), n_sample)
    report = Report(catalog)
    for outcome in _each(engine, target, files, processes):
        report.outcomes.append(outcome)
        progress(1)
    report.outcomes.sort(key=lambda outcome: outcome.file)
    report.seconds = time.monotonic() - start
    return report


@dataclass(frozen=True)
class _Target:
    """What is the same for all files."""

    root: str
    catalog_id: int
    n_sample: int


def _catalog_id(engine: Engine, name: str) -> int:
    """Find or make the catalog."""
    if name == uploads.CATALOG:
        raise CannotIngest(
            f"Catalog {name!r} is kept for images uploaded to search with. Choose another name "
            "with --name."
        )
    values = {"name": name, "survey": SURVEY, "column_map": {}}
    with engine.begin() as connection:
        connection.execute(postgresql.insert(Catalog).values(values).on_conflict_do_nothing())
        found = connection.execute(select(Catalog.__table__).where(Catalog.name == name)).one()
    if found.survey != SURVEY:
        raise CannotIngest(
            f"Catalog {name!r} holds the sources of a catalog of {found.survey!r}, not of "
            "exposures. Choose another name with --name."
        )
    return int(found.id)


def _each(
    engine: Engine, target: _Target, files: Sequence[Path], processes: int
) -> Iterator[Outcome]:
    """Yield what comes of the files, as they are done."""
    if processes == 1 or len(files) == 1:
        yield from (_ingest_file(engine, target, path) for path in files)
        return
    url = engine.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(files)), context, _leave_with_parent)
    try:
        waiting = [pool.submit(_ingest_in_process, url, target, path) for path in files]
        yield from (done.result() for done in as_completed(waiting))
    except BrokenProcessPool as error:
        raise CannotIngest(
            "a process died at its work, perhaps for want of memory. What was done is kept: give "
            "the same command again, perhaps with fewer --processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _ingest_in_process(url: str, target: _Target, path: Path) -> Outcome:
    return _ingest_file(_engine(url), target, path)


@functools.lru_cache(maxsize=1)
def _engine(url: str) -> Engine:
    return create_engine(url)


def _ingest_file(engine: Engine, target: _Target, path: Path) -> Outcome:
    """Bring one file in."""
    name = name_of(path)
    try:
        fingerprint = fingerprint_of(path)
        if known := _known(engine, target.catalog_id, path, fingerprint):
            return known
        contents = _examined(path, target.n_sample, int(fingerprint.split()[1], 16))
        _store(engine, target, path, fingerprint, contents)
    except AlreadyThere:  # it came from elsewhere in the meantime
        known = _known(engine, target.catalog_id, path, fingerprint)
        assert known is not None
        return known
    except (NotAnExposure, OSError, IncompatibleSet, SetBusy) as error:
        return Outcome(str(path), name, "rejected", str(error))
    except DataError as error:
        reason = f"the database does not take what is in it: {error.orig}"
        return Outcome(str(path), name, "rejected", reason)
    return Outcome(
        str(path),
        name,
        "new",
        "",
        len(contents.ccds),
        sum(bool(ccd.flags) for ccd in contents.ccds),
        contents.n_detected,
        len(contents.sample.x),
        contents.n_pixels,
        int(contents.flags),
        contents.problems,
    )


def _examined(path: Path, n_sample: int, seed: int) -> Contents:
    """What is on an exposure; whatever a library stumbles over is the fault of this file only."""
    try:
        return examine(path, n_sample, seed)
    except (NotAnExposure, OSError):
        raise
    except Exception as error:
        raise NotAnExposure(f"not understood ({type(error).__name__}: {error})") from error


def _known(engine: Engine, catalog_id: int, path: Path, fingerprint: str) -> Outcome | None:
    """What there is to say of a file whose name the catalog has; None for a new one."""
    table = Exposure.__table__
    name = name_of(path)
    same = (table.c.catalog_id == catalog_id) & (table.c.name == name)
    with engine.connect() as connection:
        found = connection.execute(select(table).where(same)).one_or_none()
    if found is None:
        return None
    if found.fingerprint == fingerprint:
        return Outcome(str(path), name, "known")
    return Outcome(
        str(path),
        name,
        "rejected",
        f"the catalog has an exposure {name!r} with other content, which came from {found.path}. "
        "Rename this file, or ingest it into another catalog with --name",
    )


def _store(
    engine: Engine, target: _Target, path: Path, fingerprint: str, contents: Contents
) -> None:
    """Keep an exposure: picture and pixels first, then every row at once."""
    root = Path(target.root)
    preview = _write_preview(root, fingerprint.split()[1], contents.preview)

    def add(connection: Connection, block_id: int | None) -> list[int]:
        exposure_id = _add_exposure(
            connection, target, path, fingerprint, contents, block_id, preview
        )
        connection.execute(insert(Ccd), _ccd_rows(exposure_id, contents))
        return _add_sources(connection, target.catalog_id, exposure_id, name_of(path), contents)

    if len(contents.sample.x):
        cutout_set = _set_for(engine, target.catalog_id, contents)
        with Writer(engine, root, cutout_set) as writer:
            writer.append_block(add, contents.sample.cutouts)
    else:
        with engine.begin() as connection:
            add(connection, None)


def _write_preview(root: Path, name: str, content: bytes) -> str:
    """Put a picture on the disk in one step, and return where it is in the pixel store."""
    path = root / PREVIEWS / name[:2] / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)  # left only if the disk is full
    sync(path.parent)
    return str(path.relative_to(root))


def _set_for(engine: Engine, catalog_id: int, contents: Contents) -> CutoutSet:
    """Return the set that takes the cutouts of an exposure, made now or long ago.

    Pixel scales need not be the same to the last digit, because they change with the temperature
    of the camera and from CCD to CCD. A camera of quite another scale gets sets of its own.
    """
    band = contents.facts.band or UNKNOWN_BAND
    scale = contents.facts.pixel_scale
    dtype = contents.sample.cutouts.dtype.name
    name = f"{band}-{dtype}"
    layout = Layout((band,), SIZE, round(scale or UNKNOWN_SCALE, 4), dtype, UNIT)
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = session.get_one(Catalog, catalog_id)
        try:
            return create_set(session, catalog, name, layout, ON_EXPOSURES)
        except IncompatibleSet:
            found = find_set(session, catalog, name)
            if found is not None and _is_near(scale, found.pixel_scale):
                return found
        layout = replace(layout, pixel_scale=float(f"{layout.pixel_scale:.2g}"))
        return create_set(session, catalog, f"{name}-{layout.pixel_scale:g}", layout, ON_EXPOSURES)


def _is_near(scale: float | None, stored: float) -> bool:
    return scale is None or abs(scale / stored - 1) < SCALE_TOLERANCE


def _add_exposure(
    connection: Connection,
    target: _Target,
    path: Path,
    fingerprint: str,
    contents: Contents,
    block_id: int | None,
    preview: str,
) -> int:
    """Add the row of an exposure, and its sources to the count of the catalog."""
    facts = contents.facts
    values: dict[str, Any] = {
        "catalog_id": target.catalog_id,
        "name": name_of(path),
        "path": str(path.absolute()),
        "fingerprint": fingerprint,
        "instrument": facts.instrument,
        "band": facts.band,
        "mjd": facts.mjd,
        "exposure_time": facts.exposure_time,
        "ra": contents.ra,
        "dec": contents.dec,
        "healpix": _cell(contents),
        "pixel_scale": facts.pixel_scale,
        "n_ccds": len(contents.ccds),
        "n_detected": contents.n_detected,
        "n_sampled": len(contents.sample.x),
        "block_id": block_id,
        "preview": preview,
        "flags": int(contents.flags),
        "header": contents.header,
    }
    statement = postgresql.insert(Exposure).values(values).on_conflict_do_nothing()
    exposure_id = connection.execute(statement.returning(Exposure.id)).scalar_one_or_none()
    if exposure_id is None:
        raise AlreadyThere(name_of(path))
    grown = Catalog.n_sources + len(contents.sample.x)
    connection.execute(
        update(Catalog).where(Catalog.id == target.catalog_id).values(n_sources=grown)
    )
    return int(exposure_id)


def _cell(contents: Contents) -> int | None:
    if contents.ra is None or contents.dec is None:
        return None
    return int(sky.healpix(contents.ra, contents.dec)[0])


def _ccd_rows(exposure_id: int, contents: Contents) -> list[dict[str, Any]]:
    n_sampled = np.bincount(contents.sample.ccd, minlength=len(contents.ccds))
    return [
        {
            "exposure_id": exposure_id,
            "number": ccd.number,
            "name": ccd.name,
            "width": ccd.width,
            "height": ccd.height,
            "footprint": None if ccd.footprint is None else ccd.footprint.ravel().tolist(),
            "background": ccd.detection.background,
            "background_rms": ccd.detection.background_rms,
            "fwhm": ccd.detection.fwhm,
            "ellipticity": ccd.detection.ellipticity,
            "n_detected": ccd.detection.n,
            "n_sampled": int(n_sampled[ccd.number]),
            "flags": int(ccd.flags),
        }
        for ccd in contents.ccds
    ]


def _add_sources(
    connection: Connection, catalog_id: int, exposure_id: int, name: str, contents: Contents
) -> list[int]:
    """Add the sampled sources, and return their ids in the order of the sample."""
    sample = contents.sample
    names = [f"{name}/{ccd}/{n}" for ccd, n in zip(sample.ccd, sample.number, strict=True)]
    placed = np.isfinite(contents.sample_ra)
    cells = np.zeros(len(names), np.int64)
    cells[placed] = sky.healpix(contents.sample_ra[placed], contents.sample_dec[placed])
    values = {
        "catalog": catalog_id,
        "exposure": exposure_id,
        "survey_id": names,
        "ra": _or_null(contents.sample_ra, placed),
        "dec": _or_null(contents.sample_dec, placed),
        "healpix": _or_null(cells, placed),
        "ccd": sample.ccd.tolist(),
        "x": sample.x.tolist(),
        "y": sample.y.tolist(),
    }
    added = connection.execute(ADD_SOURCES, values).all()
    ids: dict[str, int] = {row.survey_id: row.id for row in added}
    return [ids[survey_id] for survey_id in names]


def _or_null(values: Any, there: Any) -> list[Any]:
    return [value if has else None for value, has in zip(values.tolist(), there, strict=True)]


ADD_SOURCES = text(
    "INSERT INTO source (catalog_id, exposure_id, survey_id, ra, dec, healpix, ccd, x, y)"
    " SELECT :catalog, :exposure, row.* FROM unnest(cast(:survey_id AS text[]),"
    " cast(:ra AS float8[]), cast(:dec AS float8[]), cast(:healpix AS bigint[]),"
    " cast(:ccd AS smallint[]), cast(:x AS real[]), cast(:y AS real[])) AS row"
    " RETURNING survey_id, id"
)
