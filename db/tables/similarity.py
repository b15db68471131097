"""Tables around representations: search indexes, projections, images uploaded to search with."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


class SearchIndex(Base):
    """An HNSW index over `representation.reduced` of one version, and how well it finds.

    The index itself is called `ix_representation_hnsw_<id>`.
    """

    __tablename__ = "search_index"
    __table_args__ = (
        UniqueConstraint("model_version_id", "metric"),
        CheckConstraint("metric IN ('l1', 'l2', 'cosine')", name="metric"),
        CheckConstraint("recall BETWEEN 0 AND 1", name="recall_range"),
    )

    id: Mapped[int] = identity()
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    metric: Mapped[str] = mapped_column(comment="l1, l2 or cosine")
    built_until: Mapped[int] = mapped_column(
        BigInteger, comment="Largest representation.ordinal in the index; newer rows are scanned"
    )
    n_rows: Mapped[int] = mapped_column(BigInteger, comment="Rows in the index when it was built")
    m: Mapped[int] = mapped_column(SmallInteger, comment="HNSW: links per row")
    ef_construction: Mapped[int] = mapped_column(
        SmallInteger, comment="HNSW: candidates kept while building"
    )
    build_seconds: Mapped[float] = mapped_column(comment="Time to build [s]")
    size_bytes: Mapped[int] = mapped_column(BigInteger, comment="Size on disk [byte]")
    built_at: Mapped[datetime] = now("When it was built")
    recall: Mapped[float | None] = mapped_column(
        comment="Measured share of the true nearest rows that the index finds, 0 to 1"
    )
    recall_k: Mapped[int | None] = mapped_column(
        SmallInteger, comment="Neighbours asked for when recall was measured"
    )
    recall_ef: Mapped[int | None] = mapped_column(
        SmallInteger, comment="hnsw.ef_search when recall was measured"
    )
    recall_queries: Mapped[int | None] = mapped_column(
        Integer, comment="Searches that recall was measured on"
    )
    recall_at: Mapped[datetime | None] = mapped_column(comment="When recall was measured")


class Projection(Base):
    """The representations of one version laid out in two dimensions."""

    __tablename__ = "projection"
    __table_args__ = (
        CheckConstraint("method IN ('umap', 'pca')", name="method"),
        CheckConstraint("state IN ('building', 'ready')", name="state"),
    )

    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(unique=True, comment="Name the user gave")
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), comment="Whose representations are laid out"
    )
    method: Mapped[str] = mapped_column(comment="umap or pca")
    n_points: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources in the projection"
    )
    n_fitted: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources the layout was learnt from"
    )
    seed: Mapped[int] = mapped_column(Integer, comment="Seed of the random choices")
    options: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="Options of the method"
    )
    x_min: Mapped[float | None] = mapped_column(comment="Left edge")
    x_max: Mapped[float | None] = mapped_column(comment="Right edge")
    y_min: Mapped[float | None] = mapped_column(comment="Lower edge")
    y_max: Mapped[float | None] = mapped_column(comment="Upper edge")
    state: Mapped[str] = mapped_column(server_default="building", comment="building or ready")
    created_at: Mapped[datetime] = now("When the building began")


class ProjectionPoint(Base):
    """Where a source is in a projection."""

    __tablename__ = "projection_point"
    __table_args__ = (Index(None, "projection_id", "cell"),)

    projection_id: Mapped[int] = mapped_column(
        ForeignKey("projection.id", ondelete="CASCADE"), primary_key=True
    )
    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    x: Mapped[float] = mapped_column(comment="Horizontal coordinate, arbitrary unit")
    y: Mapped[float] = mapped_column(comment="Vertical coordinate, arbitrary unit")
    cell: Mapped[int] = mapped_column(
        BigInteger,
        comment="Morton code of the point on a grid of 65,536 x 65,536 over the projection",
    )


class ProjectionTile(Base):
    """How many sources are in a square of a projection, and one to show for them."""

    __tablename__ = "projection_tile"

    projection_id: Mapped[int] = mapped_column(
        ForeignKey("projection.id", ondelete="CASCADE"), primary_key=True
    )
    level: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, comment="The projection is 2^level x 2^level tiles"
    )
    cell: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, comment="Morton code of the tile at its level"
    )
    n: Mapped[int] = mapped_column(BigInteger, comment="Sources in the tile")
    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), index=True, comment="One of them"
    )


class Upload(Base):
    """An image that somebody uploaded to search with: an ordinary source without a position."""

    __tablename__ = "upload"

    token: Mapped[str] = mapped_column(primary_key=True, comment="Unguessable name of the upload")
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"), unique=True)
    file_name: Mapped[str] = mapped_column(comment="Name of the file, as it was sent")
    sha256: Mapped[str] = mapped_column(comment="SHA-256 of the file")
    media_type: Mapped[str] = mapped_column(comment="What the file is: image/png, image/jpeg …")
    note: Mapped[str] = mapped_column(
        server_default="", comment="What was done to the image: cropped, resampled, stretched"
    )
    created_at: Mapped[datetime] = now("When it arrived")
