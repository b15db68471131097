"""The audit: what happened to accounts, classes and selections. Rows are added, never changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.pages import Order, Page, Position, keyed, page
from db.tables import Audit, Expert

PAGE_SIZE = 100
MAX_SUBJECT = 100  # characters
NEWEST_FIRST = Order(Audit.id, Audit.id, descending=True, nullable=False)


def record(
    session: Session,
    action: str,
    subject: str = "",
    expert_id: int | None = None,
    address: str = "",
    **details: Any,
) -> None:
    """Note that something was done, in the transaction that does it.

    Parameters
    ----------
    action : str
        In the words of the page, e.g. "sign in", "add class".
    subject : str
        To whom or what.
    expert_id : int, optional
        Who did it; None for the command line.
    """
    session.add(
        Audit(
            action=action,
            subject=subject[:MAX_SUBJECT],
            expert_id=expert_id,
            address=address,
            details=details,
        )
    )


def listed(session: Session, after: Position | None = None, before: Position | None = None) -> Page:
    """Return a page of what happened, the newest first, with the name of who did it."""
    statement = select(Audit, Expert.name).outerjoin(Expert, Expert.id == Audit.expert_id)
    return page(session, keyed(statement, NEWEST_FIRST), NEWEST_FIRST, PAGE_SIZE, after, before)
