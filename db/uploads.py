"""Images that somebody uploads to search with.

An upload is an ordinary source without a position, in a catalog of its own that pages and views
leave out; its cutout is alone in a sealed block, so that the next worker annotates it like any
other. Pixels are written first, then every row in one transaction. After a week it is deleted.
Decoding files is for `db.pictures`; making the picture that an encoder wants, for whoever uploads.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from db import model_versions
from db.cutouts import Layout, SetBusy, Writer, create_set, layout_of
from db.tables import (
    Catalog,
    Cutout,
    CutoutBlock,
    CutoutSet,
    Job,
    ModelVersion,
    Representation,
    Source,
    Upload,
)

CATALOG = "uploads"  # nobody else's catalog may have this name
SURVEY = "upload"
ORIGIN = "upload"  # of its cutout sets
ANNOTATOR = "representations"
BANDS = ("z", "r", "g")  # what becomes red, green and blue
DEFAULT_SIZE, DEFAULT_SCALE = 128, 0.262  # pixel, arcsec/pixel: where a card names none
RETENTION = timedelta(days=7)
REUSED = timedelta(days=1)  # so long the same file sent again is the same upload
MAX_WAITING = 100  # uploads that no worker has looked at yet
MAX_PER_HOUR = 1_000
PATIENCE = 10.0  # seconds to wait for others who are uploading


class UploadRefused(RuntimeError):  # noqa: N818 (it reads as what happened)
    """There is no room for another upload now; `retry_after` [s] says when to try again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Image:
    """A picture as the encoder wants it, and where it came from.

    `pixels` are uint8 of shape (size, size, 3), row 0 at the bottom; `note` says what was done to
    the picture; `flags` are those of `db.cutouts.CutoutFlag`.
    """

    pixels: np.ndarray
    layout: Layout
    file_name: str
    sha256: str
    media_type: str
    note: str
    flags: int = 0


@dataclass(frozen=True)
class Found:
    """An upload and what became of it under the current version of the encoder.

    `waiting`: nobody has looked at it yet. `failed`: `error` says why. `flagged`: the encoder can
    make nothing of it, `flags` say why. `encoded`: it can be searched with.
    """

    upload: Upload
    state: Literal["waiting", "encoded", "flagged", "failed"]
    version: str | None
    error: str = ""
    flags: int = 0


def wanted_layout(session: Session) -> Layout:
    """Return the layout of pictures that the current encoder wants, as its card says."""
    current = model_versions.current(session, [ANNOTATOR])
    inputs = current[0].card.get("inputs", {}) if current else {}
    size, scale = inputs.get("size", DEFAULT_SIZE), inputs.get("pixel_scale", DEFAULT_SCALE)
    return Layout(BANDS, int(size), float(scale), "uint8", "display")


def store(engine: Engine, root: Path, image: Image) -> str:
    """Keep an image until a worker and a reader have seen it, and return its token.

    The same file of the same name, treated the same way, is stored once in a day, unless the
    encoder failed on it.

    Parameters
    ----------
    root : Path
        The pixel store, `db.home.pixels()`.

    Raises
    ------
    UploadRefused
        Too many uploads wait already, or have come within the hour.
    """
    prune(engine, root)
    with Session(engine, expire_on_commit=False) as session, session.begin():
        cutout_set = _make_set(session, image.layout)
    try:
        with _writer(engine, root, cutout_set) as writer, Session(engine) as session:
            if token := _same(session, cutout_set.id, image):
                return token
            _check_room(session)
            token = secrets.token_urlsafe(16)
            writer.append_new(_adder(cutout_set, token, image), image.pixels, image.flags)
            return token
    except SetBusy as error:
        raise UploadRefused("Too many uploads are arriving at once.", 30) from error


def find(session: Session, token: str) -> Found | None:
    """Return an upload and its state; None if there is none, or none any more."""
    upload = session.scalar(select(Upload).where(Upload.token == token, _is_kept()))
    if upload is None:
        return None
    current = model_versions.current(session, [ANNOTATOR])
    if not current:
        return Found(upload, "waiting", None)
    version = current[0]
    statement = select(Representation.flags, Representation.embedding.is_not(None)).where(
        Representation.source_id == upload.source_id, Representation.model_version_id == version.id
    )
    row = session.execute(statement).one_or_none()
    if row is not None:
        return Found(upload, "encoded" if row[1] else "flagged", version.name, flags=row[0])
    error = session.scalar(_failures(version, upload.source_id).limit(1))
    if error is None and not _is_as_wanted(session, upload):
        error = "The image was prepared for another encoder than the current one: upload it again."
    state: Literal["waiting", "failed"] = "waiting" if error is None else "failed"
    return Found(upload, state, version.name, error or "")


def prune(engine: Engine, root: Path) -> int:
    """Delete what is older than the retention, rows and pixels, and return how many uploads."""
    outdated = select(Cutout.cutout_set_id).join(Upload, Upload.source_id == Cutout.source_id)
    with Session(engine, expire_on_commit=False) as session:
        own = select(CutoutSet).where(CutoutSet.id.in_(outdated.where(~_is_kept())))
        sets = session.scalars(own).all()
    n = 0
    for cutout_set in sets:
        with suppress(SetBusy), _writer(engine, root, cutout_set, wait=0) as writer:
            n += writer.discard(_deleter(cutout_set))
    return n


def is_upload(cutout_set: CutoutSet) -> bool:
    """Tell whether a cutout set holds uploaded images, which only their token shows."""
    return cutout_set.origin == ORIGIN


def _make_set(session: Session, layout: Layout) -> CutoutSet:
    values = {"name": CATALOG, "survey": SURVEY, "column_map": {}}
    session.execute(insert(Catalog).values(**values).on_conflict_do_nothing())
    catalog = session.scalars(select(Catalog).where(Catalog.name == CATALOG)).one()
    if catalog.survey != SURVEY:
        raise UploadRefused(
            f"A catalog of this database is called {CATALOG!r}, which is the name that uploads "
            "need; whoever runs this server has to rename it.",
            3600,
        )
    name = f"{layout.size} px of {layout.pixel_scale:g} arcsec"
    return create_set(session, catalog, name, layout, ORIGIN)


def _writer(engine: Engine, root: Path, cutout_set: CutoutSet, wait: float = PATIENCE) -> Writer:
    return Writer(engine, root, cutout_set, wait, capacity=1)


def _same(session: Session, cutout_set_id: int, image: Image) -> str | None:
    """Find a late upload of the same file that was treated in the same way and did not fail."""
    statement = (
        select(Upload.token)
        .join(Cutout, Cutout.source_id == Upload.source_id)
        .where(
            Cutout.cutout_set_id == cutout_set_id,
            Upload.sha256 == image.sha256,
            Upload.file_name == image.file_name,
            Upload.note == image.note,
            Upload.created_at > func.now() - REUSED,
        )
        .order_by(Upload.created_at.desc())
        .limit(1)
    )
    if current := model_versions.current(session, [ANNOTATOR]):
        failed = _failures(current[0], Upload.source_id)
        statement = statement.where(~failed.exists())
    return session.scalar(statement)


def _is_as_wanted(session: Session, upload: Upload) -> bool:
    """Whether the picture of an upload is of the kind that the current encoder wants."""
    layouts = select(CutoutSet).join(Cutout, Cutout.cutout_set_id == CutoutSet.id)
    stored = session.scalars(layouts.where(Cutout.source_id == upload.source_id)).one()
    return layout_of(stored) == wanted_layout(session)


def _check_room(session: Session) -> None:
    lately = Upload.created_at > func.now() - timedelta(hours=1)
    n_lately = session.scalar(select(func.count()).where(lately)) or 0
    if n_lately >= MAX_PER_HOUR:
        raise UploadRefused(f"{n_lately:,} images were uploaded within the last hour.", 600)
    current = model_versions.current(session, [ANNOTATOR])
    n_waiting = session.scalar(select(func.count()).where(_is_waiting(current))) or 0
    if n_waiting >= MAX_WAITING:
        raise UploadRefused(f"{n_waiting:,} uploaded images wait for a worker already.", 60)


def _is_waiting(current: Sequence[ModelVersion]) -> ColumnElement[bool]:
    """Condition on `Upload`: the current version has neither encoded it nor failed to."""
    if not current:
        return _is_kept()
    seen = sa.exists().where(
        Representation.source_id == Upload.source_id,
        Representation.model_version_id == current[0].id,
    )
    failed = _failures(current[0], Upload.source_id)
    return _is_kept() & ~seen & ~failed.exists()


def _failures(
    version: ModelVersion, source_id: sa.ColumnExpressionArgument[int] | int
) -> sa.Select[str]:
    """Errors of the jobs of a version that failed for good on a source."""
    cutout = aliased(Cutout)
    return (
        select(func.coalesce(Job.error, "no error was kept"))
        .join(cutout, cutout.block_id == Job.block_id)
        .where(Job.model_version_id == version.id, Job.state == "failed")
        .where(cutout.source_id == source_id)
    )


def _is_kept() -> ColumnElement[bool]:
    return Upload.created_at > func.now() - RETENTION


def _adder(cutout_set: CutoutSet, token: str, image: Image) -> Callable[[Connection], int]:
    def add(connection: Connection) -> int:
        values = {"catalog_id": cutout_set.catalog_id, "survey_id": token}
        source = sa.insert(Source).values(**values).returning(Source.id)
        source_id = connection.execute(source).scalar_one()
        connection.execute(
            sa.insert(Upload).values(
                token=token,
                source_id=source_id,
                file_name=image.file_name,
                sha256=image.sha256,
                media_type=image.media_type,
                note=image.note,
            )
        )
        return source_id

    return add


def _deleter(cutout_set: CutoutSet) -> Callable[[Connection], list[int]]:
    """What deletes the uploads of a set that are too old; their blocks hold nothing else."""

    def delete(connection: Connection) -> list[int]:
        outdated = select(Upload.source_id).where(~_is_kept())
        ours = (Cutout.cutout_set_id == cutout_set.id) & Cutout.source_id.in_(outdated)
        doomed = connection.execute(select(Cutout.source_id, Cutout.block_id).where(ours)).all()
        blocks = sa.delete(CutoutBlock).where(CutoutBlock.id.in_([row.block_id for row in doomed]))
        numbers = connection.scalars(blocks.returning(CutoutBlock.number)).all()
        sources = sa.delete(Source).where(Source.id.in_([row.source_id for row in doomed]))
        connection.execute(sources)
        return list(numbers)

    return delete
