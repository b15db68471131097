"""Databases for the tests: real PostgreSQL with pgvector, one migrated template, cheap clones.

SKYGLOSS_TEST_DATABASE chooses the server: unset or `embedded` (Unix socket, in a temporary
folder), `tcp` (the same programs as a TCP server with a password), or the URL of a server on
which the user may create databases.

Fixtures: `session` for most tests (rolled back after each); `engine` or `database_url` for tests
that commit, use several connections or start processes (a database of their own); `environment`
to point DATABASE_URL and SKYGLOSS_HOME at such a database and an empty folder.
"""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import argon2
import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.orm import Session

from db import embedded, experts, postgresql, schema
from db.engine import create_engine, normalise

SERVER = os.environ.pop("SKYGLOSS_TEST_DATABASE", "embedded")
ROOMY = 4 * 2**30  # bytes


@pytest.fixture(scope="session", autouse=True)
def _no_data_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATABASE_URL", raising=False)
        patch.setenv("SKYGLOSS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _passwords_are_cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "PROFILE", argon2.profiles.CHEAPEST)
        yield


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """The URL of a maintenance database on the server under test."""
    if SERVER == "embedded":
        with reachable_folder() as folder:
            url = embedded.start(folder / "postgres").set(database="postgres")
            _administrate(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield url
            embedded.leave(folder / "postgres")
    elif SERVER == "tcp":
        with reachable_folder() as folder, tcp_server(folder) as url:
            yield url
    else:
        yield normalise(SERVER)


@pytest.fixture(scope="session")
def template(server_url: URL) -> Iterator[URL]:
    """A migrated, empty database that is cloned and never used itself."""
    with new_database(server_url) as url:
        engine = create_engine(url)
        schema.upgrade(engine)
        engine.dispose()
        yield url


@pytest.fixture
def empty_database_url(server_url: URL) -> Iterator[URL]:
    """A database without tables."""
    with new_database(server_url) as url:
        yield url


@pytest.fixture
def database_url(server_url: URL, template: URL) -> Iterator[URL]:
    """A migrated database of this test's own."""
    with new_database(server_url, template) as url:
        yield url


@pytest.fixture
def engine(database_url: URL) -> Iterator[Engine]:
    """An engine for a migrated database of this test's own."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def environment(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """DATABASE_URL and SKYGLOSS_HOME of this test's own, set here and inherited by children."""
    variables = {
        "DATABASE_URL": database_url.render_as_string(hide_password=False),
        "SKYGLOSS_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture(scope="session")
def shared_engine(server_url: URL, template: URL) -> Iterator[Engine]:
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def session(shared_engine: Engine) -> Iterator[Session]:
    """A session whose every change, committed or not, is undone after the test."""
    with shared_engine.connect() as connection:
        transaction = connection.begin()
        with Session(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        ) as session:
            yield session
        transaction.rollback()


@contextmanager
def new_database(server_url: URL, template: URL | None = None) -> Iterator[URL]:
    """Create a database, from a template or empty, and drop it in the end."""
    name = f"skygloss_test_{secrets.token_hex(6)}"
    source = template.database if template else "template1"
    _administrate(server_url, f"CREATE DATABASE {name} TEMPLATE {source}")
    try:
        yield server_url.set(database=name)
    finally:
        _administrate(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder, in memory if that is roomy, that the server's OS user can enter too."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOMY
    folder = Path(tempfile.mkdtemp(prefix="skygloss-test-", dir=memory if roomy else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def tcp_server(folder: Path) -> Iterator[URL]:
    """A throw-away PostgreSQL that listens on TCP only and wants a password."""
    password = secrets.token_urlsafe(12) + "@:/%"
    password_file = folder / "password"
    password_file.write_text(password)
    postgresql.give(password_file)
    programs = postgresql.programs(folder)
    data = postgresql.initialise(
        folder, "data", programs, "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"
    )
    port = _free_port()
    (data / "postgresql.auto.conf").write_text(
        f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n"
        "fsync = off\nmax_connections = 100\nlog_line_prefix = '%m [%p] %d '\n"
    )
    log = folder / "server.log"
    log.touch()
    postgresql.give(log)
    start = ("start", "--pgdata=data", "--log=server.log", "--wait")
    postgresql.run(programs / "pg_ctl", *start, folder=folder)
    try:
        yield URL.create("postgresql+psycopg2", "postgres", password, "127.0.0.1", port, "postgres")
    finally:
        stop = ("stop", "--pgdata=data", "--mode=immediate")
        postgresql.run(programs / "pg_ctl", *stop, folder=folder)


def _administrate(url: URL, *statements: str) -> None:
    engine = create_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
