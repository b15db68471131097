"""Every table of Skygloss, with its constraints, indexes and one comment per column.

The comments (with units) are what `psql \\d+`, the pages and later TAP_SCHEMA show. How rows
get in and out is the business of the other modules of `db`; views and SQL functions live in the
migrations.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {
        str: Text,
        float: REAL,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


def _identity() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(always=True), primary_key=True)


def _now(comment: str) -> Mapped[datetime]:
    return mapped_column(server_default=func.now(), comment=comment)


class Catalog(Base):
    """One survey table as it was ingested."""

    __tablename__ = "catalog"

    id: Mapped[int] = _identity()
    name: Mapped[str] = mapped_column(unique=True, comment="Name the user gave")
    survey: Mapped[str] = mapped_column(comment="Column map used, e.g. legacy, sdss, ps1, nsa")
    release: Mapped[str] = mapped_column(server_default="", comment="Data release, e.g. DR10")
    column_map: Mapped[dict[str, Any]] = mapped_column(comment="The column map, as data")
    n_sources: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources in the catalog"
    )
    created_at: Mapped[datetime] = _now("When the catalog was first ingested")


class CatalogFile(Base):
    """One file read into a catalog, and how far the reading got, so that it can go on there."""

    __tablename__ = "catalog_file"
    __table_args__ = (UniqueConstraint("catalog_id", "fingerprint"),)

    id: Mapped[int] = _identity()
    catalog_id: Mapped[int] = mapped_column(ForeignKey("catalog.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(comment="File name")
    fingerprint: Mapped[str] = mapped_column(comment="Identifies the content: size and SHA-256")
    n_read: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Rows read and committed so far"
    )
    n_new: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources this file added"
    )
    n_rejected: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Rows rejected, listed in rejection"
    )
    source_id_before: Mapped[int] = mapped_column(
        BigInteger,
        server_default="0",
        comment="Largest source id when reading began: this file added only larger ones",
    )
    started_at: Mapped[datetime] = _now("When reading began")
    finished_at: Mapped[datetime | None] = mapped_column(comment="When the last row was committed")


class Rejection(Base):
    """A catalog row that could not become a source, and why."""

    __tablename__ = "rejection"

    catalog_file_id: Mapped[int] = mapped_column(
        ForeignKey("catalog_file.id", ondelete="CASCADE"), primary_key=True
    )
    row: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, comment="0-based row in the file"
    )
    survey_id: Mapped[str | None] = mapped_column(comment="Identifier, when it was readable")
    reason: Mapped[str] = mapped_column(comment="What was wrong with the row")


class Source(Base):
    """One catalogued source: position, common photometry, shape and quality."""

    __tablename__ = "source"
    __table_args__ = (
        UniqueConstraint("catalog_id", "survey_id"),
        CheckConstraint("ra >= 0 AND ra < 360", name="ra_range"),
        CheckConstraint("dec >= -90 AND dec <= 90", name="dec_range"),
        Index(None, "healpix"),
        Index("ix_source_mag_r", "mag_r", postgresql_where=text("mag_r IS NOT NULL")),
    )

    id: Mapped[int] = _identity()
    catalog_id: Mapped[int] = mapped_column(ForeignKey("catalog.id", ondelete="CASCADE"))
    survey_id: Mapped[str] = mapped_column(comment="Identifier in the survey, as text")
    ra: Mapped[float] = mapped_column(Double, comment="Right ascension, ICRS [deg]")
    dec: Mapped[float] = mapped_column(Double, comment="Declination, ICRS [deg]")
    healpix: Mapped[int] = mapped_column(
        BigInteger, comment="HEALPix cell, nested scheme, order 29 (as in HATS _healpix_29)"
    )
    mag_g: Mapped[float | None] = mapped_column(
        comment="g magnitude, extinction-corrected [mag AB]"
    )
    mag_r: Mapped[float | None] = mapped_column(
        comment="r magnitude, extinction-corrected [mag AB]"
    )
    mag_i: Mapped[float | None] = mapped_column(
        comment="i magnitude, extinction-corrected [mag AB]"
    )
    mag_z: Mapped[float | None] = mapped_column(
        comment="z magnitude, extinction-corrected [mag AB]"
    )
    mag_g_err: Mapped[float | None] = mapped_column(comment="1-sigma error of mag_g [mag]")
    mag_r_err: Mapped[float | None] = mapped_column(comment="1-sigma error of mag_r [mag]")
    mag_i_err: Mapped[float | None] = mapped_column(comment="1-sigma error of mag_i [mag]")
    mag_z_err: Mapped[float | None] = mapped_column(comment="1-sigma error of mag_z [mag]")
    type: Mapped[str | None] = mapped_column(comment="Morphological type, in the survey's words")
    shape_r: Mapped[float | None] = mapped_column(comment="Half-light radius [arcsec]")
    shape_r_err: Mapped[float | None] = mapped_column(comment="1-sigma error of shape_r [arcsec]")
    axis_ratio: Mapped[float | None] = mapped_column(comment="Minor over major axis, 0 to 1")
    position_angle: Mapped[float | None] = mapped_column(
        comment="Position angle of the major axis, east of north [deg]"
    )
    redshift: Mapped[float | None] = mapped_column(comment="Redshift")
    nobs_min: Mapped[int | None] = mapped_column(
        SmallInteger, comment="Smallest number of exposures in any of the survey's g, r, z"
    )
    mask: Mapped[int | None] = mapped_column(
        Integer, comment="Bits masked in every exposure of g, r or z (0 is clean)"
    )
    fracmasked_max: Mapped[float | None] = mapped_column(
        comment="Largest fraction of masked pixels in g, r, z"
    )
    fracflux_max: Mapped[float | None] = mapped_column(
        comment="Largest ratio of neighbours' flux to own flux in g, r, z"
    )
    fracin_max: Mapped[float | None] = mapped_column(
        comment="Largest fraction of the model flux inside the blob in g, r, z"
    )
    rchisq_max: Mapped[float | None] = mapped_column(comment="Largest reduced chi2 in g, r, z")
    rchisq_min: Mapped[float | None] = mapped_column(comment="Smallest reduced chi2 in g, r, z")
    extra: Mapped[dict[str, Any] | None] = mapped_column(
        comment="Every column of the file that the column map does not name"
    )


class HostMatch(Base):
    """A source seen near a host galaxy with a known redshift."""

    __tablename__ = "host_match"

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    host_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        comment="The host: a source with a redshift",
    )
    separation_arcsec: Mapped[float] = mapped_column(comment="Angle to the host [arcsec]")
    separation_kpc: Mapped[float] = mapped_column(
        comment="Projected distance at the host's redshift [kpc], flat LCDM H0=70 Om0=0.3"
    )


class CutoutSet(Base):
    """Cutouts of one catalog that share bands, size, scale and unit: a group of the pixel store."""

    __tablename__ = "cutout_set"
    __table_args__ = (
        UniqueConstraint("catalog_id", "name"),
        CheckConstraint("size > 0", name="size_positive"),
        CheckConstraint("pixel_scale > 0", name="pixel_scale_positive"),
    )

    id: Mapped[int] = _identity()
    catalog_id: Mapped[int] = mapped_column(ForeignKey("catalog.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(comment="Name the user gave, unique in the catalog")
    bands: Mapped[list[str]] = mapped_column(comment="Bands, in the order of the last array axis")
    size: Mapped[int] = mapped_column(Integer, comment="Side length [pixel]")
    pixel_scale: Mapped[float] = mapped_column(Double, comment="Pixel scale [arcsec/pixel]")
    dtype: Mapped[str] = mapped_column(comment="NumPy name of the pixels' type, e.g. uint8")
    unit: Mapped[str] = mapped_column(comment="Unit of a pixel: nanomaggy, nJy, adu or display")
    store_path: Mapped[str] = mapped_column(
        comment="Group in the pixel store, relative to its root"
    )
    origin: Mapped[str] = mapped_column(
        comment="Where the pixels came from: folder, mosaic, service"
    )
    created_at: Mapped[datetime] = _now("When the set was made")


class CutoutBlock(Base):
    """At most 1,024 cutouts stored together; once sealed, what a worker claims."""

    __tablename__ = "cutout_block"
    __table_args__ = (UniqueConstraint("cutout_set_id", "number"),)

    id: Mapped[int] = _identity()
    cutout_set_id: Mapped[int] = mapped_column(ForeignKey("cutout_set.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer, comment="0-based place of the block in its set")
    n: Mapped[int] = mapped_column(SmallInteger, server_default="0", comment="Cutouts in the block")
    sealed_at: Mapped[datetime | None] = mapped_column(
        comment="When it became complete; never edited after"
    )


class Cutout(Base):
    """Where the pixels of a source are."""

    __tablename__ = "cutout"
    __table_args__ = (
        UniqueConstraint("block_id", "position"),
        Index(None, "cutout_set_id"),
    )

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    cutout_set_id: Mapped[int] = mapped_column(
        ForeignKey("cutout_set.id", ondelete="CASCADE"), primary_key=True
    )
    block_id: Mapped[int] = mapped_column(ForeignKey("cutout_block.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(SmallInteger, comment="0-based place in the block")
    flags: Mapped[int] = mapped_column(
        SmallInteger,
        server_default="0",
        comment="1 no image, 2 unreadable image, 4 partly outside the image",
    )


class ModelVersion(Base):
    """A trained network with its card. Never edited: a change is a new version."""

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("annotator", "name"),
        CheckConstraint("state IN ('candidate', 'current', 'retired')", name="state"),
        Index(
            "uq_model_version_current",
            "annotator",
            unique=True,
            postgresql_where=text("state = 'current'"),
        ),
    )

    id: Mapped[int] = _identity()
    annotator: Mapped[str] = mapped_column(comment="The annotator's word, e.g. shreds")
    name: Mapped[str] = mapped_column(comment="architecture.tag")
    weights_sha256: Mapped[str] = mapped_column(comment="SHA-256 of the weights file")
    card: Mapped[dict[str, Any]] = mapped_column(comment="The model card")
    state: Mapped[str] = mapped_column(
        server_default="candidate", comment="candidate, current (one per annotator) or retired"
    )
    created_at: Mapped[datetime] = _now("When the version was registered")


class Worker(Base):
    """A worker process, from its start to its end."""

    __tablename__ = "worker"

    id: Mapped[int] = _identity()
    host: Mapped[str] = mapped_column(comment="Machine name")
    pid: Mapped[int] = mapped_column(Integer, comment="Process number")
    device: Mapped[str] = mapped_column(comment="What computes: cpu, or the name of the GPU")
    device_note: Mapped[str] = mapped_column(
        server_default="", comment="Why no GPU is used, in plain words"
    )
    code_version: Mapped[str] = mapped_column(comment="Version of Skygloss that ran")
    started_at: Mapped[datetime] = _now("When the process started")
    heartbeat_at: Mapped[datetime] = _now("Last sign of life")
    stopped_at: Mapped[datetime | None] = mapped_column(comment="When it left in good order")


class Run(Base):
    """One worker computing with one model version: the provenance of every value."""

    __tablename__ = "run"

    id: Mapped[int] = _identity()
    worker_id: Mapped[int] = mapped_column(ForeignKey("worker.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)
    options: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="Batch size, precision, Keras backend"
    )
    started_at: Mapped[datetime] = _now("When the model was loaded")
    finished_at: Mapped[datetime | None] = mapped_column(
        comment="When the worker left in good order"
    )


class Job(Base):
    """A range of one block to be annotated with one model version (states: see `db.jobs`)."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("model_version_id", "block_id", "first", "last"),
        CheckConstraint("state IN ('todo', 'doing', 'done', 'failed', 'split')", name="state"),
        CheckConstraint("(state = 'doing') = (lease_until IS NOT NULL)", name="lease"),
        Index("ix_job_todo", "block_id", "id", postgresql_where=text("state = 'todo'")),
        Index("ix_job_doing", "lease_until", postgresql_where=text("state = 'doing'")),
        Index("ix_job_failed", "model_version_id", postgresql_where=text("state = 'failed'")),
        Index(None, "block_id"),
    )

    id: Mapped[int] = _identity()
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    block_id: Mapped[int] = mapped_column(ForeignKey("cutout_block.id", ondelete="CASCADE"))
    first: Mapped[int] = mapped_column(
        SmallInteger, comment="First position of the block, included"
    )
    last: Mapped[int] = mapped_column(SmallInteger, comment="Last position of the block, included")
    state: Mapped[str] = mapped_column(
        server_default="todo", comment="todo, doing, done, failed or split"
    )
    attempt: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="How often it was claimed"
    )
    worker_id: Mapped[int | None] = mapped_column(
        ForeignKey("worker.id"), comment="Who holds or last held it"
    )
    lease_until: Mapped[datetime | None] = mapped_column(
        comment="While doing: free again after this"
    )
    not_before: Mapped[datetime] = _now("Not claimed earlier than this (back-off)")
    error: Mapped[str | None] = mapped_column(comment="Last error, kept")
    seconds: Mapped[float | None] = mapped_column(comment="From claim to completion [s]")
    finished_at: Mapped[datetime | None] = mapped_column(
        comment="When it was done, failed or split"
    )


class Shred(Base):
    """Annotator `shreds`: is the source a piece of a larger galaxy?"""

    __tablename__ = "shred"
    __table_args__ = (
        CheckConstraint("p_shred BETWEEN 0 AND 1", name="p_shred_range"),
        Index(None, "model_version_id", "p_shred", "source_id"),
        Index(
            "ix_shred_flagged",
            "model_version_id",
            "source_id",
            postgresql_where=text("flags <> 0"),
        ),
    )

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which network said it"
    )
    p_shred: Mapped[float | None] = mapped_column(
        comment="Probability that the source is a shred, 0 to 1; null where flags say why"
    )
    flags: Mapped[int] = mapped_column(
        Integer,
        comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, "
        "4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled",
    )
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), comment="Who computed it, and when")
