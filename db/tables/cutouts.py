"""Tables of where the pixels of sources are."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
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


class CutoutSet(Base):
    """Cutouts of one catalog that share bands, size, scale and unit: a group of the pixel store."""

    __tablename__ = "cutout_set"
    __table_args__ = (
        UniqueConstraint("catalog_id", "name"),
        CheckConstraint("size > 0", name="size_positive"),
        CheckConstraint("pixel_scale > 0", name="pixel_scale_positive"),
    )

    id: Mapped[int] = identity()
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
        comment="Where the pixels came from: folder, mosaic, service, upload, exposure"
    )
    created_at: Mapped[datetime] = now("When the set was made")


class CutoutBlock(Base):
    """At most 1,024 cutouts stored together; once sealed, what a worker claims."""

    __tablename__ = "cutout_block"
    __table_args__ = (UniqueConstraint("cutout_set_id", "number"),)

    id: Mapped[int] = identity()
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
