"""Tables of what surveys say: catalogs, the files they came from, sources and their hosts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


class Catalog(Base):
    """One survey table as it was ingested."""

    __tablename__ = "catalog"

    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(unique=True, comment="Name the user gave")
    survey: Mapped[str] = mapped_column(comment="Column map used, e.g. legacy, sdss, ps1, nsa")
    release: Mapped[str] = mapped_column(server_default="", comment="Data release, e.g. DR10")
    column_map: Mapped[dict[str, Any]] = mapped_column(comment="The column map, as data")
    n_sources: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources in the catalog"
    )
    created_at: Mapped[datetime] = now("When the catalog was first ingested")


class CatalogFile(Base):
    """One file read into a catalog, and how far the reading got, so that it can go on there."""

    __tablename__ = "catalog_file"
    __table_args__ = (UniqueConstraint("catalog_id", "fingerprint"),)

    id: Mapped[int] = identity()
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
    started_at: Mapped[datetime] = now("When reading began")
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
        CheckConstraint("num_nulls(ra, dec, healpix) IN (0, 3)", name="position_whole"),
        Index(None, "healpix"),
        CheckConstraint("num_nulls(exposure_id, ccd, x, y) IN (0, 4)", name="detection_whole"),
        Index(
            "ix_source_exposure", "exposure_id", postgresql_where=text("exposure_id IS NOT NULL")
        ),
        Index("ix_source_mag_r", "mag_r", postgresql_where=text("mag_r IS NOT NULL")),
    )

    id: Mapped[int] = identity()
    catalog_id: Mapped[int] = mapped_column(ForeignKey("catalog.id", ondelete="CASCADE"))
    survey_id: Mapped[str] = mapped_column(comment="Identifier in the survey, as text")
    ra: Mapped[float | None] = mapped_column(
        Double,
        comment="Right ascension, ICRS [deg]; null for uploaded images, and on CCDs without WCS",
    )
    dec: Mapped[float | None] = mapped_column(
        Double,
        comment="Declination, ICRS [deg]; null for uploaded images, and on CCDs without WCS",
    )
    healpix: Mapped[int | None] = mapped_column(
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
    exposure_id: Mapped[int | None] = mapped_column(
        ForeignKey("exposure.id", ondelete="CASCADE"),
        comment="The exposure it was detected on; null for sources of a survey's catalog",
    )
    ccd: Mapped[int | None] = mapped_column(
        SmallInteger, comment="Number of the CCD it was detected on, as in ccd.number"
    )
    x: Mapped[float | None] = mapped_column(comment="Column on that CCD, 0-based [pixel]")
    y: Mapped[float | None] = mapped_column(comment="Row on that CCD, 0-based [pixel]")
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
