"""Tables of lists of sources that somebody saved."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


class Selection(Base):
    """A list of sources under a name, e.g. what a lasso on a projection caught."""

    __tablename__ = "selection"

    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(unique=True, comment="Name the user gave")
    comment: Mapped[str] = mapped_column(server_default="", comment="What the user said about it")
    origin: Mapped[dict[str, Any]] = mapped_column(
        comment="How it was made: projection, model version and polygon, or the search"
    )
    n_sources: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Sources in the selection"
    )
    created_at: Mapped[datetime] = now("When it was saved")


class SelectionSource(Base):
    """A source in a saved selection."""

    __tablename__ = "selection_source"

    selection_id: Mapped[int] = mapped_column(
        ForeignKey("selection.id", ondelete="CASCADE"), primary_key=True
    )
    source_id: Mapped[int] = mapped_column(
        ForeignKey("source.id", ondelete="CASCADE"), primary_key=True, index=True
    )
