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
    LargeBinary,
    SmallInteger,
    event,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base

N_REDUCED = 40  # principal components that searches and maps use
LIGHT_FLAGS = (  # of annotators that measure light
    "Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the "
    "image, 8 no signal, 16 some pixels without value, 64 more than two sources, 128 light cut off "
    "at the edge, 256 saturated"
)
DISAGREEMENT = "((p_blend >= 0.5) <> sep_is_blend)"  # of network and sep, as `db.queries` asks


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


class Blend(Base):
    """Annotator `blends`: is the source one galaxy or several; what the network and sep say."""

    __tablename__ = "blend"
    __table_args__ = (
        CheckConstraint("p_blend BETWEEN 0 AND 1", name="p_blend_range"),
        CheckConstraint("sep_detections >= 0", name="sep_detections_range"),
        Index(None, "model_version_id", "p_blend", "source_id"),
        Index(
            "ix_blend_disagreement",
            "model_version_id",
            "p_blend",
            "source_id",
            postgresql_where=text(f"{DISAGREEMENT} IS TRUE"),
        ),
    )

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which network said it"
    )
    p_blend: Mapped[float | None] = mapped_column(
        comment="Probability that the source is a blend, 0 to 1; null where flags say why"
    )
    sep_is_blend: Mapped[bool | None] = mapped_column(
        comment="Whether sep finds a blend: two detections or more, or one that it marks as merged"
    )
    sep_detections: Mapped[int | None] = mapped_column(
        SmallInteger, comment="How many sources sep detects in the field the network looks at"
    )
    flags: Mapped[int] = mapped_column(Integer, comment=LIGHT_FLAGS)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), comment="Who computed it, and when")


event.listen(
    Blend.__table__,
    "after_create",
    DDL(f"CREATE STATISTICS blend_disagreement ON {DISAGREEMENT} FROM blend"),  # how rare it is
)


class PairFlux(Base):
    """Annotator `pair_flux`: how bright are the two galaxies of a blend, by the network and by sep.

    Fluxes are in nJy (AB magnitude 31.4 - 2.5 log10 flux), in the band that the model card names.
    """

    __tablename__ = "pair_flux"
    __table_args__ = (
        CheckConstraint(
            "flux_central_err >= 0 AND flux_companion_err >= 0", name="flux_errors_range"
        ),
        CheckConstraint("sep_detections >= 0", name="sep_detections_range"),
    )

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which network said it"
    )
    flux_central: Mapped[float | None] = mapped_column(
        comment="Flux of the galaxy at the centre [nJy]; null where flags say why"
    )
    flux_central_err: Mapped[float | None] = mapped_column(
        comment="Error of flux_central: half the width of its 68 % interval [nJy]"
    )
    flux_companion: Mapped[float | None] = mapped_column(
        comment="Flux of the other galaxy [nJy]; means nothing where there is none (see p_blend)"
    )
    flux_companion_err: Mapped[float | None] = mapped_column(
        comment="Error of flux_companion: half the width of its 68 % interval [nJy]"
    )
    separation: Mapped[float | None] = mapped_column(
        comment="Distance between the centroids of the light of the two galaxies [arcsec]; "
        "null without a companion"
    )
    sep_flux_central: Mapped[float | None] = mapped_column(
        comment="AUTO flux of the central galaxy by sep, calibrated on the simulated galaxies of "
        "the card [nJy]; null where sep detects nothing there"
    )
    sep_flux_companion: Mapped[float | None] = mapped_column(
        comment="AUTO flux of the companion by sep, likewise [nJy]; null likewise, as a lone "
        "detection counts for the galaxy it lies at, and for no other"
    )
    sep_detections: Mapped[int | None] = mapped_column(
        SmallInteger, comment="How many sources sep detects in the field the network looks at"
    )
    masks: Mapped[bytes | None] = mapped_column(
        LargeBinary,
        comment="Where the network sees each galaxy: the mask of the central one, then that of the "
        "companion, one bit per pixel of a square field, lowest row first",
    )
    flags: Mapped[int] = mapped_column(
        Integer, comment=f"{LIGHT_FLAGS}, 512 no companion in the masks"
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
