"""Tables of what annotators said: one row per source and model version, with flags and run."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    event,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base

N_REDUCED = 40  # principal components that searches and maps use


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


class Representation(Base):
    """Annotator `representations`: the source as a vector; what looks alike lies close together.

    `embedding` is kept out of line, so that a scan of `reduced` reads a tenth of the bytes.
    """

    __tablename__ = "representation"
    __table_args__ = (Index(None, "model_version_id", "ordinal"),)

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which encoder made it"
    )
    embedding: Mapped[Any | None] = mapped_column(
        HALFVEC, comment="The encoder's vector; null where flags say why"
    )
    reduced: Mapped[Any | None] = mapped_column(
        HALFVEC(N_REDUCED),
        comment="First 40 principal components of the embedding, as the model card defines them",
    )
    ordinal: Mapped[int] = mapped_column(
        BigInteger,
        Identity(always=True),
        comment="Grows with every row: search indexes cover the rows up to one",
    )
    flags: Mapped[int] = mapped_column(
        Integer,
        comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, "
        "4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled",
    )
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), comment="Who computed it, and when")


event.listen(
    Representation.__table__,
    "after_create",
    DDL("ALTER TABLE representation ALTER COLUMN embedding SET STORAGE EXTERNAL"),
)
