"""One read-only database session per request, and a writing one for the few views that need it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from flask import Flask, current_app, g
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from werkzeug.exceptions import ServiceUnavailable

from db.engine import create_engine, session_factory

TIME_LIMIT = 10  # seconds a page may ask the database for
STEP_LIMIT = 60  # seconds that each statement of a download may take
PATIENCE = 300  # seconds that a download may wait for its reader
MAX_DOWNLOADS = 2  # at once in each process, so that threads are left for pages
EXTENSION = "skygloss engine"

_downloads = threading.BoundedSemaphore(MAX_DOWNLOADS)


class Busy(ServiceUnavailable):
    """As many downloads are running as this process allows."""

    description = "Too many downloads are running at the moment."
    advice = "Try again in a minute or two."


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


def release() -> None:
    """End this request's session before long work; the next call of `session` opens another."""
    _close()


@contextmanager
def writing_session() -> Iterator[Session]:
    """Open a session that may change things; it commits in the end, or not at all on an error.

    The view must have refused requests of other sites (`web.requests.same_origin`).
    """
    with session_factory(engine()).begin() as own:
        own.execute(text(f"SET LOCAL statement_timeout = '{TIME_LIMIT}s'"))
        yield own


@contextmanager
def steady_session() -> Iterator[Session]:
    """Open a session that sees one state of the database throughout, for long downloads.

    It takes the place of the request's session, which would only sit idle meanwhile.

    Raises
    ------
    Busy
        MAX_DOWNLOADS of them are open in this process.
    """
    if not _downloads.acquire(blocking=False):
        raise Busy
    try:
        release()
        with session_factory(engine())() as own:
            own.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            own.execute(text(f"SET LOCAL statement_timeout = '{STEP_LIMIT}s'"))
            idle = "idle_in_transaction_session_timeout"
            own.execute(text(f"SET LOCAL {idle} = '{PATIENCE}s'"))
            yield own
    finally:
        _downloads.release()


def _close(_error: BaseException | None = None) -> None:
    if own := g.pop("session", None):
        own.close()
