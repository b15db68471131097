"""Who computes: workers sign in and off, and each of their runs is the provenance of its rows."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import Session

from db.tables import Run, Worker


def sign_in(
    session: Session, host: str, pid: int, device: str, device_note: str, code_version: str
) -> int:
    """Record a worker process that starts; its id."""
    worker = Worker(
        host=host, pid=pid, device=device, device_note=device_note, code_version=code_version
    )
    session.add(worker)
    session.flush()
    return worker.id


def start(session: Session, worker_id: int, model_version_id: int, options: dict[str, Any]) -> int:
    """Record that a worker begins to compute with a model version; the id of the run."""
    run = Run(worker_id=worker_id, model_version_id=model_version_id, options=options)
    session.add(run)
    session.flush()
    return run.id


def sign_off(session: Session, worker_id: int) -> None:
    """Record that a worker leaves in good order, and with it its runs."""
    session.execute(
        sa.update(Run)
        .where(Run.worker_id == worker_id, Run.finished_at.is_(None))
        .values(finished_at=func.now())
    )
    session.execute(sa.update(Worker).where(Worker.id == worker_id).values(stopped_at=func.now()))
