"""Connections: which database, is it fit for us, and an SQLAlchemy engine for it.

The one place that reads `DATABASE_URL`. Unset, the embedded server (`db.embedded`) is used and
started if need be. Tables and migrations are the business of `db.tables` and `db.schema`.
"""

import functools
import os
import re
from typing import Any

import numpy as np
import psycopg2
import sqlalchemy
from pgvector.psycopg2 import register_vector
from psycopg2.extensions import adapt, register_adapter
from sqlalchemy import URL, Engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

DRIVER = "postgresql+psycopg2"
MINIMUM_POSTGRESQL = 15
MINIMUM_PGVECTOR = (0, 8)
CONNECT_TIMEOUT = 10  # seconds

NUMPY_SCALARS = (
    np.bool_,
    *(np.dtype(code).type for code in np.typecodes["AllInteger"]),
    *(np.dtype(code).type for code in "efd"),
)


class DatabaseUnavailable(RuntimeError):  # noqa: N818 (it reads as what happened)
    """The database cannot be used; the message says why and what to do about it."""


def database_url() -> URL:
    """Return the URL of the database, starting the embedded server if `DATABASE_URL` is unset.

    Raises
    ------
    DatabaseUnavailable
        `DATABASE_URL` is not a PostgreSQL URL, or the embedded server cannot start.
    """
    configured = _configured_url()
    return normalise(configured) if configured else _start_embedded()


def normalise(url: str | URL) -> URL:
    """Return a PostgreSQL URL in any of its spellings with the driver Skygloss uses.

    `postgres://`, `postgresql://` and `postgresql+anything://` are accepted.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUnavailable(
            "DATABASE_URL is not a URL: expected postgresql://user:password@host:5432/database "
            "(write special characters of the password as %XX)"
        ) from None
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise DatabaseUnavailable(
            f"DATABASE_URL must start with postgresql://, but it starts with "
            f"{parsed.drivername}://; Skygloss works with PostgreSQL only"
        )
    return parsed.set(drivername=DRIVER)


def printable(url: URL) -> str:
    """Return a URL as `psql` understands it, without the password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def create_engine(url: str | URL | None = None) -> Engine:
    """Return an engine for a database that was found fit: reachable, new enough, with pgvector.

    Parameters
    ----------
    url : str or URL, optional
        Default: `DATABASE_URL`, or the embedded server. An engine for the embedded server
        restarts it when a new connection finds it gone.

    Raises
    ------
    DatabaseUnavailable
        The server cannot be reached, is too old, or lacks pgvector.
    """
    embedded = url is None and not _configured_url()
    target = database_url() if url is None else normalise(url)
    _register_numpy_scalars()
    check_server(target)
    engine = sqlalchemy.create_engine(
        target, pool_pre_ping=True, connect_args=_connect_arguments(target)
    )
    event.listen(engine, "connect", _register_pgvector)
    if embedded:
        event.listen(engine, "do_connect", _connect_or_restart)
    return engine


def is_embedded(engine: Engine) -> bool:
    """Tell whether an engine of `create_engine` is for the embedded server."""
    return event.contains(engine, "do_connect", _connect_or_restart)


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return a factory of sessions; the caller of each session owns its transaction."""
    return sessionmaker(engine, expire_on_commit=False)


def check_server(url: URL) -> None:
    """Raise DatabaseUnavailable unless this database can serve; create pgvector if allowed to."""
    engine = sqlalchemy.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=_connect_arguments(url),
    )
    try:
        with engine.connect() as connection:
            _check_postgresql(connection)
            _check_pgvector(connection, url)
    except (OperationalError, ProgrammingError) as error:  # the second: an option unknown to libpq
        raise DatabaseUnavailable(
            f"no connection to {printable(url)}: "
            f"{str(error.orig).strip()}\n"
            "Is the server running, and is DATABASE_URL right? "
            "(Unset DATABASE_URL to use the embedded server.)"
        ) from error


def _check_postgresql(connection: sqlalchemy.Connection) -> None:
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if number // 10000 < MINIMUM_POSTGRESQL:
        version = connection.execute(text("SHOW server_version")).scalar_one()
        raise DatabaseUnavailable(
            f"the server is PostgreSQL {version}, but Skygloss needs {MINIMUM_POSTGRESQL} or newer"
        )


def _check_pgvector(connection: sqlalchemy.Connection, url: URL) -> None:
    available, installed = connection.execute(
        text(
            "SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'vector'),"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        )
    ).one()
    wanted = ".".join(map(str, MINIMUM_PGVECTOR))
    if installed is None and available is None:
        raise DatabaseUnavailable(
            f"the server of database {url.database!r} has no pgvector. An administrator has to "
            f"install pgvector {wanted} or newer on it "
            "(https://github.com/pgvector/pgvector#installation) and then run, in this database:\n"
            "    CREATE EXTENSION vector;"
        )
    if _version(installed or available) < MINIMUM_PGVECTOR:
        raise DatabaseUnavailable(
            f"database {url.database!r} has pgvector {installed or available}, but Skygloss needs "
            f"{wanted} or newer. An administrator has to install a newer pgvector on the server "
            "and then run, in this database:\n    ALTER EXTENSION vector UPDATE;"
        )
    if installed is None:
        _create_pgvector(connection, url)


def _create_pgvector(connection: sqlalchemy.Connection, url: URL) -> None:
    try:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if isinstance(error.orig, psycopg2.errors.UniqueViolation):
            return  # another process has just created it
        if not isinstance(error.orig, psycopg2.errors.InsufficientPrivilege):
            raise
        raise DatabaseUnavailable(
            f"database {url.database!r} lacks the extension pgvector and user {url.username!r} "
            "may not create it. An administrator has to run, in this database:\n"
            "    CREATE EXTENSION vector;"
        ) from error


def _version(text_: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text_))


def _configured_url() -> str | None:
    return os.environ.get("DATABASE_URL") or None


def _start_embedded() -> URL:
    # Only here: the embedded server needs Unix, DATABASE_URL does not.
    from db import embedded

    return embedded.start()


def _connect_arguments(url: URL) -> dict[str, Any]:
    defaults = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "skygloss"}
    return {name: value for name, value in defaults.items() if name not in url.query}


def _connect_or_restart(
    dialect: Any, _record: Any, arguments: list[Any], keywords: dict[str, Any]
) -> Any:
    try:
        return dialect.connect(*arguments, **keywords)
    except psycopg2.OperationalError:
        _start_embedded()
        return dialect.connect(*arguments, **keywords)


def _register_pgvector(connection: Any, _record: Any) -> None:
    register_vector(connection)
    connection.rollback()


@functools.cache
def _register_numpy_scalars() -> None:
    """Let psycopg2 send NumPy scalars, whose repr it would otherwise paste into the SQL."""
    for scalar in NUMPY_SCALARS:
        register_adapter(scalar, lambda value: adapt(value.item()))
