"""Tables of what a camera took: exposures and their CCDs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


class Exposure(Base):
    """One exposure of a camera: header facts, and what was detected on it.

    Its sampled sources are the cutouts of one block, so that a worker claims a whole exposure.
    """

    __tablename__ = "exposure"
    __table_args__ = (
        UniqueConstraint("catalog_id", "name"),
        CheckConstraint("n_sampled BETWEEN 0 AND n_detected", name="sampled"),
        CheckConstraint("num_nulls(ra, dec, healpix) IN (0, 3)", name="position_whole"),
        Index(None, "healpix"),
    )

    id: Mapped[int] = identity()
    catalog_id: Mapped[int] = mapped_column(
        ForeignKey("catalog.id", ondelete="CASCADE"), comment="Catalog that its sources are in"
    )
    name: Mapped[str] = mapped_column(comment="File name without its endings, e.g. 1234567p")
    path: Mapped[str] = mapped_column(comment="Where the file was when it was ingested")
    fingerprint: Mapped[str] = mapped_column(comment="Identifies the content: size and SHA-256")
    instrument: Mapped[str | None] = mapped_column(comment="Camera, from the header")
    band: Mapped[str | None] = mapped_column(comment="Filter, from the header")
    mjd: Mapped[float | None] = mapped_column(
        Double, comment="Start of the exposure, Modified Julian Date, UTC [d]"
    )
    exposure_time: Mapped[float | None] = mapped_column(comment="Exposure time [s]")
    ra: Mapped[float | None] = mapped_column(
        Double, comment="Right ascension of the centre, ICRS [deg]; null without usable WCS"
    )
    dec: Mapped[float | None] = mapped_column(
        Double, comment="Declination of the centre, ICRS [deg]; null without usable WCS"
    )
    healpix: Mapped[int | None] = mapped_column(
        BigInteger, comment="HEALPix cell of the centre, nested scheme, order 29"
    )
    pixel_scale: Mapped[float | None] = mapped_column(comment="Pixel scale [arcsec/pixel]")
    n_ccds: Mapped[int] = mapped_column(SmallInteger, comment="CCDs in the file")
    n_detected: Mapped[int] = mapped_column(Integer, comment="Sources detected on all CCDs")
    n_sampled: Mapped[int] = mapped_column(
        Integer,
        comment="Sources stored: a fair random sample of those detected whose cutout lies wholly "
        "on the CCD; it stands for all detected",
    )
    block_id: Mapped[int | None] = mapped_column(
        ForeignKey("cutout_block.id"), unique=True, comment="Their cutouts; null if there are none"
    )
    preview: Mapped[str | None] = mapped_column(
        comment="Picture of the exposure, a file relative to the root of the pixel store"
    )
    flags: Mapped[int] = mapped_column(
        Integer,
        server_default="0",
        comment="Data problems as bits, 0 is clean: 1 nothing detected, 2 some CCDs unusable, "
        "4 no CCD usable, 8 no usable WCS, 16 header facts missing",
    )
    header: Mapped[dict[str, Any]] = mapped_column(comment="Cards of the primary header")
    created_at: Mapped[datetime] = now("When it was ingested")


class Ccd(Base):
    """One CCD of an exposure."""

    __tablename__ = "ccd"

    exposure_id: Mapped[int] = mapped_column(
        ForeignKey("exposure.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, comment="0-based place among the images of the file"
    )
    name: Mapped[str] = mapped_column(comment="Name of the extension, e.g. ccd07")
    width: Mapped[int] = mapped_column(Integer, comment="Columns [pixel]")
    height: Mapped[int] = mapped_column(Integer, comment="Rows [pixel]")
    footprint: Mapped[list[float] | None] = mapped_column(
        ARRAY(Double, dimensions=1),
        comment="Corners on the sky, ra and dec in turn, ICRS [deg]; null without usable WCS",
    )
    background: Mapped[float | None] = mapped_column(comment="Median background [file's unit]")
    background_rms: Mapped[float | None] = mapped_column(comment="Noise of a pixel [file's unit]")
    fwhm: Mapped[float | None] = mapped_column(
        comment="Median full width at half maximum of the sources [pixel]"
    )
    ellipticity: Mapped[float | None] = mapped_column(
        comment="Median 1 - b/a of the sources, 0 is round"
    )
    n_detected: Mapped[int] = mapped_column(Integer, comment="Sources detected")
    n_sampled: Mapped[int] = mapped_column(Integer, comment="Sources stored")
    flags: Mapped[int] = mapped_column(
        Integer,
        comment="Data problems as bits, 0 is clean: 1 unreadable, 2 no signal, 4 part of the "
        "pixels without signal (a dead amplifier), 8 some pixels without value, 16 no usable WCS, "
        "32 nothing detected, 64 too crowded to deblend",
    )
