"""Tables of self-organizing maps: their prototypes, and exposures counted by cell."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import Double, ForeignKey, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base


class Prototype(Base):
    """One cell of the map of a model version: what it stands for."""

    __tablename__ = "prototype"

    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), primary_key=True)
    cell_row: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, comment="0-based row of the map"
    )
    cell_column: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, comment="0-based column of the map"
    )
    latent: Mapped[Any] = mapped_column(HALFVEC, comment="The prototype, in the network's code")
    decoded: Mapped[Any] = mapped_column(
        HALFVEC,
        comment="What the network makes of it, 0 to 1, row by row: a cutout, its lowest row first "
        "(source_map), or a histogram over the cells of the source map (exposure_map)",
    )


class ExposureHistogram(Base):
    """An exposure's sources, counted by cell of a version of the source map."""

    __tablename__ = "exposure_histogram"

    exposure_id: Mapped[int] = mapped_column(
        ForeignKey("exposure.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="The version of the source map"
    )
    counts: Mapped[Any] = mapped_column(
        VECTOR,
        comment="Sources in each cell, row by row, times n_detected over the sources counted",
    )
    n_counted: Mapped[int] = mapped_column(comment="Sampled sources that have a cell")
    weight: Mapped[float] = mapped_column(
        Double, comment="Detected sources that a counted one stands for"
    )


class Placed:
    """Where on a map something lies: the columns of every results table of a map."""

    cell_row: Mapped[int | None] = mapped_column(
        SmallInteger, comment="0-based row of the nearest prototype; null where flags say why"
    )
    cell_column: Mapped[int | None] = mapped_column(
        SmallInteger, comment="0-based column of the nearest prototype"
    )
    quantization_error: Mapped[float | None] = mapped_column(
        comment="Euclidean distance to the nearest prototype, in the network's code"
    )
    margin: Mapped[float | None] = mapped_column(
        comment="How much farther the second nearest prototype is; near 0 is borderline"
    )


class SourceCell(Placed, Base):
    """Annotator `source_map`: the cell of the map of cutouts that the source falls into."""

    __tablename__ = "source_cell"
    __table_args__ = (
        Index(
            None,
            "model_version_id",
            "cell_row",
            "cell_column",
            "quantization_error",
            postgresql_include=["source_id", "margin"],
        ),
    )

    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which map"
    )
    flags: Mapped[int] = mapped_column(
        comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly "
        "outside the image, 8 no signal, 16 some pixels without value, 32 far from every prototype"
    )
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), comment="Who computed it, and when")


class ExposureCell(Placed, Base):
    """Annotator `exposure_map`: the cell of the map of exposures that the exposure falls into."""

    __tablename__ = "exposure_cell"
    __table_args__ = (
        Index(
            None,
            "model_version_id",
            "cell_row",
            "cell_column",
            "quantization_error",
            postgresql_include=["exposure_id", "margin"],
        ),
    )

    exposure_id: Mapped[int] = mapped_column(
        ForeignKey("exposure.id", ondelete="CASCADE"), primary_key=True
    )
    model_version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id"), primary_key=True, comment="Which map"
    )
    latent: Mapped[Any | None] = mapped_column(
        HALFVEC, comment="The exposure in the network's code: what looks alike lies close together"
    )
    flags: Mapped[int] = mapped_column(
        comment="Data problems as bits, 0 is clean: 1 no source with a cell, 2 fewer than 30 "
        "sources counted, 4 far from every prototype (novel)"
    )
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), comment="Who computed it, and when")
