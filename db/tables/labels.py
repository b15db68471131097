"""Tables of what experts say: who they are, their label classes, every label ever given."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


class Expert(Base):
    """Somebody with an account."""

    __tablename__ = "expert"
    __table_args__ = (
        CheckConstraint("role IN ('viewer', 'expert', 'admin')", name="role"),
        CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'", name="name"),
        Index("uq_expert_lower_name", text("lower(name)"), unique=True),
    )

    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(comment="What the person signs in with")
    password_hash: Mapped[str] = mapped_column(comment="Argon2id hash of the password")
    role: Mapped[str] = mapped_column(
        server_default="expert", comment="viewer (reads), expert (labels, classes), admin (audit)"
    )
    blind: Mapped[bool] = mapped_column(
        server_default="false", comment="Whether pages hide what others said from this person"
    )
    created_at: Mapped[datetime] = now("When the account was made")
    disabled_at: Mapped[datetime | None] = mapped_column(
        comment="Since when the person may not sign in; labels stay"
    )


class Token(Base):
    """Proof of who sends a request: a session of a browser, or a program's token."""

    __tablename__ = "token"
    __table_args__ = (CheckConstraint("kind IN ('session', 'program')", name="kind"),)

    id: Mapped[int] = identity()
    expert_id: Mapped[int] = mapped_column(ForeignKey("expert.id"), index=True)
    kind: Mapped[str] = mapped_column(comment="session or program")
    sha256: Mapped[str] = mapped_column(unique=True, comment="SHA-256 of the secret")
    note: Mapped[str] = mapped_column(server_default="", comment="What it is for, or the browser")
    created_at: Mapped[datetime] = now("When it was issued")
    used_at: Mapped[datetime | None] = mapped_column(comment="Last use, to about a minute")
    expires_at: Mapped[datetime] = mapped_column(comment="Not valid after this")
    revoked_at: Mapped[datetime | None] = mapped_column(comment="When it was signed out or revoked")


class LabelClass(Base):
    """A word of the team's vocabulary. Known by its number, so that it can be renamed."""

    __tablename__ = "label_class"
    __table_args__ = (
        Index(
            "uq_label_class_lower_name",
            text("lower(name)"),
            unique=True,
            postgresql_where=text("retired_at IS NULL"),
        ),
        Index(
            "uq_label_class_key",
            "key",
            unique=True,
            postgresql_where=text("retired_at IS NULL"),
        ),
        CheckConstraint("key ~ '^[a-z0-9]$'", name="key"),
        CheckConstraint("colour BETWEEN 0 AND 11", name="colour"),
    )

    id: Mapped[int] = identity()
    name: Mapped[str] = mapped_column(comment="Name the team gave, free to change")
    key: Mapped[str | None] = mapped_column(
        comment="Key that gives this label, one letter or digit"
    )
    colour: Mapped[int] = mapped_column(SmallInteger, comment="Place in the palette of the pages")
    description: Mapped[str] = mapped_column(server_default="", comment="What belongs here")
    created_by: Mapped[int | None] = mapped_column(ForeignKey("expert.id"))
    created_at: Mapped[datetime] = now("When it was added")
    retired_at: Mapped[datetime | None] = mapped_column(
        comment="Since when it is not offered any more; labels stay"
    )


class Label(Base):
    """Something an expert said about a source, an exposure or a cell. Never changed or deleted.

    The view `label_current` holds what counts: each expert's last word on each subject.
    """

    __tablename__ = "label"
    __table_args__ = (
        UniqueConstraint("expert_id", "request", "item"),
        CheckConstraint("action IN ('label', 'clear', 'comment', 'undo')", name="action"),
        CheckConstraint("(action = 'label') = (label_class_id IS NOT NULL)", name="class"),
        CheckConstraint("(action = 'undo') = (undoes IS NOT NULL)", name="undo"),
        CheckConstraint("action <> 'comment' OR comment <> ''", name="comment"),
        CheckConstraint(
            "num_nonnulls(source_id, exposure_id, cell_row) = 1"
            " AND num_nonnulls(model_version_id, cell_row, cell_column) IN (0, 3)",
            name="subject",
        ),
        Index("ix_label_source", "source_id", postgresql_where=text("source_id IS NOT NULL")),
        Index("ix_label_exposure", "exposure_id", postgresql_where=text("exposure_id IS NOT NULL")),
        Index(
            "ix_label_cell",
            "model_version_id",
            "cell_row",
            "cell_column",
            postgresql_where=text("cell_row IS NOT NULL"),
        ),
        Index(
            "uq_label_undoes", "undoes", unique=True, postgresql_where=text("undoes IS NOT NULL")
        ),
    )

    id: Mapped[int] = identity()
    expert_id: Mapped[int] = mapped_column(ForeignKey("expert.id"), comment="Who said it")
    action: Mapped[str] = mapped_column(comment="label, clear, comment or undo")
    label_class_id: Mapped[int | None] = mapped_column(
        ForeignKey("label_class.id"), index=True, comment="What the person says it is"
    )
    source_id: Mapped[int | None] = mapped_column(
        ForeignKey("source.id", ondelete="RESTRICT"), comment="Said of this source"
    )
    exposure_id: Mapped[int | None] = mapped_column(
        ForeignKey("exposure.id", ondelete="RESTRICT"), comment="Said of this exposure"
    )
    model_version_id: Mapped[int | None] = mapped_column(
        ForeignKey("model_version.id"), comment="Said of a cell of this map"
    )
    cell_row: Mapped[int | None] = mapped_column(SmallInteger, comment="0-based row of that cell")
    cell_column: Mapped[int | None] = mapped_column(
        SmallInteger, comment="0-based column of that cell"
    )
    undoes: Mapped[int | None] = mapped_column(
        ForeignKey("label.id"), comment="The row of the same person that this one takes back"
    )
    comment: Mapped[str] = mapped_column(server_default="", comment="The person's remark")
    blind: Mapped[bool] = mapped_column(
        server_default="false", comment="Whether it was said without seeing what others said"
    )
    request: Mapped[str] = mapped_column(
        comment="Name the page gave the request, so that sending it again changes nothing"
    )
    item: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="0-based place in the request"
    )
    created_at: Mapped[datetime] = now("When it was said")


class Audit(Base):
    """Something that happened to accounts, classes and versions: who, what, when, from where."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "created_at"),)

    id: Mapped[int] = identity()
    expert_id: Mapped[int | None] = mapped_column(
        ForeignKey("expert.id"), comment="Who did it; null for the command line"
    )
    action: Mapped[str] = mapped_column(comment="What was done, e.g. sign in, add class")
    subject: Mapped[str] = mapped_column(server_default="", comment="To whom or what")
    address: Mapped[str] = mapped_column(server_default="", comment="Network address it came from")
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="Particulars")
    created_at: Mapped[datetime] = now("When it happened")
