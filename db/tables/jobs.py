"""Tables of who computes what: model versions, workers, their runs and jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, identity, now


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

    id: Mapped[int] = identity()
    annotator: Mapped[str] = mapped_column(comment="The annotator's word, e.g. shreds")
    name: Mapped[str] = mapped_column(comment="architecture.tag")
    weights_sha256: Mapped[str] = mapped_column(comment="SHA-256 of the weights file")
    card: Mapped[dict[str, Any]] = mapped_column(comment="The model card")
    state: Mapped[str] = mapped_column(
        server_default="candidate", comment="candidate, current (one per annotator) or retired"
    )
    created_at: Mapped[datetime] = now("When the version was registered")


class Worker(Base):
    """A worker process, from its start to its end."""

    __tablename__ = "worker"

    id: Mapped[int] = identity()
    host: Mapped[str] = mapped_column(comment="Machine name")
    pid: Mapped[int] = mapped_column(Integer, comment="Process number")
    device: Mapped[str] = mapped_column(comment="What computes: cpu, or the name of the GPU")
    device_note: Mapped[str] = mapped_column(
        server_default="", comment="Why no GPU is used, in plain words"
    )
    code_version: Mapped[str] = mapped_column(comment="Version of Skygloss that ran")
    started_at: Mapped[datetime] = now("When the process started")
    heartbeat_at: Mapped[datetime] = now("Last sign of life")
    stopped_at: Mapped[datetime | None] = mapped_column(comment="When it left in good order")


class Run(Base):
    """One worker computing with one model version: the provenance of every value."""

    __tablename__ = "run"

    id: Mapped[int] = identity()
    worker_id: Mapped[int] = mapped_column(ForeignKey("worker.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)
    options: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="Batch size, precision, Keras backend"
    )
    started_at: Mapped[datetime] = now("When the model was loaded")
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

    id: Mapped[int] = identity()
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
    not_before: Mapped[datetime] = now("Not claimed earlier than this (back-off)")
    error: Mapped[str | None] = mapped_column(comment="Last error, kept")
    seconds: Mapped[float | None] = mapped_column(comment="From claim to completion [s]")
    finished_at: Mapped[datetime | None] = mapped_column(
        comment="When it was done, failed or split"
    )
