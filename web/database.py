"""One read-only database session per request; pages never change anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from flask import Flask, current_app, g
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db.engine import create_engine, session_factory

TIME_LIMIT = 10  # seconds a page may ask the database for
EXTENSION = "skygloss engine"


def register(app: Flask, engine: Engine | None) -> None:
    """Attach the engine (None: made when first needed) and close each request's session."""
    app.extensions[EXTENSION] = engine
    app.teardown_appcontext(_close)


def engine() -> Engine:
    """Return the application's engine."""
    extensions = current_app.extensions
    if extensions[EXTENSION] is None:
        extensions[EXTENSION] = create_engine()
    return cast(Engine, extensions[EXTENSION])


def session() -> Session:
    """Return this request's session, in one read-only transaction with a time limit."""
    if "session" not in g:
        g.session = session_factory(engine())()
        g.session.execute(text("SET TRANSACTION READ ONLY"))
        g.session.execute(text(f"SET LOCAL statement_timeout = '{TIME_LIMIT}s'"))
    return cast(Session, g.session)


@contextmanager
def steady_session() -> Iterator[Session]:
    """Open a session that sees one state of the database throughout, for long downloads."""
    with session_factory(engine())() as own:
        own.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield own


def _close(_error: BaseException | None = None) -> None:
    if own := g.pop("session", None):
        own.close()
