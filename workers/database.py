"""The worker's way to the database: short transactions, repeated when the server was away."""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import psycopg2
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from db import jobs
from db.engine import DatabaseUnavailable, session_factory

log = logging.getLogger(__name__)

FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0  # seconds between attempts
PATIENCE = 10.0  # seconds that a worker that is to stop still waits for the server

Answer = TypeVar("Answer")


class Database:
    """Runs actions in transactions of their own.

    An action may run more than once, even if it was committed (the answer may have been lost), so
    it must be repeatable.
    """

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self.engine = engine
        self._stop = stop
        self._sessions = session_factory(engine)

    def once(self, action: Callable[[Session], Answer]) -> Answer:
        """Run an action in a transaction."""
        with self._sessions.begin() as session:
            return action(session)

    def do(self, action: Callable[[Session], Answer]) -> Answer:
        """Run an action in a transaction, again and again while the server is away.

        Once the worker is to stop, its error is raised after some more seconds.
        """
        return self._until_back(lambda: self.once(action))

    def listen(self) -> Connection:
        """Open a connection that hears when there is work; see `db.jobs.listen`."""
        return self._until_back(lambda: jobs.listen(self.engine))

    def _until_back(self, act: Callable[[], Answer]) -> Answer:
        pause, patience = FIRST_PAUSE, PATIENCE
        while True:
            try:
                return act()
            except Exception as error:
                if not is_away(error) or patience <= 0:
                    raise
                log.warning("database=away retry_in_s=%.1f error=%r", pause, first_line(error))
            if self._stop.wait(pause):
                time.sleep(FIRST_PAUSE)
                patience -= FIRST_PAUSE
            pause = min(2 * pause, MAX_PAUSE)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server cannot be reached at the moment, or was too busy."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    unreachable = (OperationalError, InterfaceError, DatabaseUnavailable)
    return isinstance(error, (*unreachable, psycopg2.OperationalError, psycopg2.InterfaceError))


def first_line(error: BaseException) -> str:
    """The gist of an error."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


def error_text(error: BaseException) -> str:
    """The traceback of an error, the message last."""
    return "".join(traceback.format_exception(error)).rstrip()
