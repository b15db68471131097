"""The embedded PostgreSQL: started by the first process that needs it, stopped by the last.

Everything is in one folder: `data/`, `server.log`, `run/` with the Unix socket (there is no
TCP), and three lock files. Locks, unlike process numbers in files, vanish with their owner:

    lifecycle.lock   exclusive, for the moments of joining (maybe starting) and leaving (maybe
                     stopping), so that a start and a stop never meet
    clients.lock     shared, by every client process (and its forks) for as long as it lives;
                     who leaves and then gets it exclusively was the last, and stops the server
    server.lock      exclusive, inherited by the server and all of its children; who gets it
                     knows that no server process is alive, whatever `postmaster.pid` says

So `kill -9` of a client keeps nothing up beyond the next orderly exit of another, and after
`kill -9` of the server the next connection starts it again.
"""

import atexit
import fcntl
import hashlib
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from sqlalchemy import URL

from db import postgresql
from db.engine import DRIVER, DatabaseUnavailable
from db.home import home

DATABASE = "skygloss"
SUPERUSER = "postgres"
PORT = 5432  # only part of the socket's name
MAX_SOCKET_PATH = 100  # bytes; the shortest limit of the platforms is 103
PATIENCE = 3  # seconds of silence before saying what is waited for
UNREACHABLE = 30  # seconds a live server may refuse connections before we give up
STOP_TIMEOUT = 60  # seconds
POLL = 0.05  # seconds
ROOMY_SHARED_MEMORY = 2**30  # bytes; containers often have 64 MiB, too little for index builds

SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "max_connections": 100,
    "shared_buffers": "256MB",
    "maintenance_work_mem": "512MB",
    "work_mem": "32MB",
    "max_wal_size": "4GB",
    "random_page_cost": 1.1,
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_checkpoints": "off",
}

_logger = logging.getLogger(__name__)
_memberships: dict[Path, int] = {}  # server folder → our open clients.lock; forks inherit both


def start(folder: Path | None = None) -> URL:
    """Make sure the embedded server runs while this process lives; return its URL.

    Parameters
    ----------
    folder : Path, optional
        Where the server keeps its files; default `postgres/` in the home of Skygloss.

    Raises
    ------
    DatabaseUnavailable
        The server cannot start here; the message says why.
    """
    server = EmbeddedServer((folder or home() / "postgres").resolve())
    server.prepare()
    with server.lifecycle():
        if server.folder not in _memberships:
            _memberships[server.folder] = _locked(server.folder / "clients.lock", fcntl.LOCK_SH)
            atexit.register(leave, server.folder)
        server.ensure_running()
    return server.url()


def leave(folder: Path | None = None) -> None:
    """Give the server up; stop it if no other process uses it. Called at exit by itself."""
    server = EmbeddedServer((folder or home() / "postgres").resolve())
    membership = _memberships.pop(server.folder, None)
    if membership is None:
        return
    if not server.folder.exists():
        os.close(membership)
        return
    with server.lifecycle():
        os.close(membership)
        last = _try_lock(server.folder / "clients.lock")
        if last is not None:
            server.stop()
            os.close(last)


@dataclass(frozen=True)
class EmbeddedServer:
    """One server by its folder. Start and stop only while holding `lifecycle()`."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def socket_folder(self) -> Path:
        """Where the socket is: in the folder, unless PostgreSQL could not use that path."""
        inside = self.folder / "run"
        path = str(inside / f".s.PGSQL.{PORT}")
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH and re.fullmatch(r"[\w ./+@=~-]+", path):
            return inside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path("/tmp") / f"skygloss-{digest}"

    def url(self, database: str = DATABASE) -> URL:
        """Return the URL of a database of this server, running or not."""
        address = {"host": str(self.socket_folder), "port": str(PORT)}
        return URL.create(DRIVER, username=SUPERUSER, database=database, query=address)

    def prepare(self) -> None:
        """Create the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseUnavailable(
                f"the folder for the embedded database cannot be made: {error}. "
                "Set SKYGLOSS_HOME to a folder that you may write."
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise DatabaseUnavailable(
                f"{self.folder} belongs to another user. Set SKYGLOSS_HOME to a folder of your "
                "own, or share a server through DATABASE_URL."
            )

    @contextmanager
    def lifecycle(self) -> Iterator[None]:
        """Hold the lock under which the server is started and stopped."""
        path = self.folder / "lifecycle.lock"
        lock = _locked(path, fcntl.LOCK_EX, "another process to start or stop the database server")
        try:
            yield
        finally:
            # Not only closed: a fork made meanwhile by another thread has the file open, too.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def ensure_running(self) -> None:
        """Return once the server takes connections and has our database, starting it if needed."""
        launched = False
        said = False
        begun = last_reached = time.monotonic()
        pauses = itertools.chain([POLL] * 20, itertools.repeat(10 * POLL))
        while not (state := self._state()).ready:
            now = time.monotonic()
            if state.reached:
                last_reached = now
            elif (lock := _try_lock(self.folder / "server.lock")) is not None:
                self._launch(lock, again=launched)
                launched, last_reached = True, now
            elif now - last_reached > UNREACHABLE:
                raise DatabaseUnavailable(self._unreachable_message())
            if not said and now - begun > PATIENCE:
                said = True
                _logger.warning("waiting for the database server: %s", state.short)
            time.sleep(next(pauses))
        if not state.full:
            self._ensure_database()

    def stop(self) -> None:
        """Stop the server, finishing nobody's queries, and wait until it is gone."""
        pid = self._postmaster()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT
        while (lock := _try_lock(self.folder / "server.lock")) is None:
            if time.monotonic() > deadline:
                _logger.warning("the database server in %s is slow to stop", self.data)
                return
            time.sleep(POLL / 5)
        os.close(lock)

    def _launch(self, lock: int, *, again: bool) -> None:
        """Start the server with the open server.lock `lock`, which it inherits."""
        try:
            if again:
                raise DatabaseUnavailable(f"the database server did not start:\n{self._log_tail()}")
            self._check_place()
            programs = postgresql.programs(self.folder)
            if not self.data.exists():
                self._create_cluster(programs)
            self._check_version()
            self._write_settings()
            self._remove_traces()
            self.log.touch()
            postgresql.give(self.log)
            postgresql.run(
                programs / "pg_ctl",
                *("start", "--no-wait", f"--pgdata={self.data.name}", f"--log={self.log.name}"),
                folder=self.folder,
                pass_fds=(lock,),
            )
        finally:
            os.close(lock)

    def _remove_traces(self) -> None:
        """Remove what a killed server left, which we know to be dead since we hold server.lock.

        PostgreSQL could not tell: the process number in these files may be a zombie's (where
        process 1 does not reap, forever), or another process's by now.
        """
        named = f".s.PGSQL.{PORT}"
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / f"{named}.lock").unlink(missing_ok=True)
        (self.socket_folder / named).unlink(missing_ok=True)

    def _check_place(self) -> None:
        second = _try_lock(self.folder / "lifecycle.lock")
        if second is not None:
            os.close(second)
            raise DatabaseUnavailable(
                f"{self.folder} is on a file system without proper file locks (a network file "
                "system?). Set SKYGLOSS_HOME to a folder on a local disk."
            )
        postgresql.check_reachable(self.folder)
        _make_private(self.socket_folder)

    def _create_cluster(self, programs: Path) -> None:
        partial = self.folder / "data.partial"
        if partial.exists():
            shutil.rmtree(partial)
        postgresql.initialise(self.folder, partial.name, programs, "--auth=trust")
        with (partial / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude = 'skygloss.conf'\n")
        partial.rename(self.data)

    def _check_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        if found != str(postgresql.MAJOR):
            raise DatabaseUnavailable(
                f"{self.data} was made by PostgreSQL {found}, but the installed one is "
                f"{postgresql.MAJOR}. Move the folder away, or dump it with the version of "
                "Skygloss that made it and restore it here."
            )

    def _write_settings(self) -> None:
        settings = SETTINGS | {"unix_socket_directories": f'"{self.socket_folder}"'}
        shared_memory = Path("/dev/shm")
        if shared_memory.exists() and shutil.disk_usage(shared_memory).total < ROOMY_SHARED_MEMORY:
            settings["dynamic_shared_memory_type"] = "mmap"
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        header = "# Written by Skygloss at every start; put your own settings in postgresql.conf.\n"
        (self.data / "skygloss.conf").write_text("".join([header, *lines]))

    def _ensure_database(self) -> None:
        with closing(self._connect(SUPERUSER)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")
        with closing(self._connect(DATABASE)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SET client_min_messages = warning")
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def _connect(self, database: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=str(self.socket_folder),
            port=PORT,
            user=SUPERUSER,
            dbname=database,
            connect_timeout=5,
            application_name="skygloss",
        )

    def _state(self) -> "_State":
        try:
            self._connect(SUPERUSER).close()
        except psycopg2.OperationalError as error:
            return _State(str(error).strip())
        return _State("")

    def _postmaster(self) -> int | None:
        """Return the number of the process that listens on our socket, None if nobody does.

        The kernel's word counts where it gives it (Linux): the number in the file could be from
        another container.
        """
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket_folder / f".s.PGSQL.{PORT}"))
                recorded = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            except (OSError, ValueError, IndexError):
                return None
            if not hasattr(socket, "SO_PEERCRED"):
                return recorded
            size = struct.calcsize("3i")
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            listening = struct.unpack("3i", credentials)[0]
        return recorded if recorded == listening else None

    def _unreachable_message(self) -> str:
        return (
            f"a PostgreSQL server that uses {self.data} is alive but cannot be reached at "
            f"{self.socket_folder} (on another machine or in another container? or a long query "
            "of a killed server that has not noticed?). End it and try again, or set DATABASE_URL."
        )

    def _log_tail(self, n_lines: int = 20) -> str:
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return "\n".join([f"(end of {self.log})", *lines[-n_lines:]])
        return f"({self.log} cannot be read)"


@dataclass(frozen=True)
class _State:
    """What an attempt to connect said; empty words mean it worked."""

    words: str

    @property
    def short(self) -> str:
        return self.words.splitlines()[0].rpartition("FATAL:")[2].strip()

    @property
    def full(self) -> bool:
        return "too many clients" in self.words or "connection slots" in self.words

    @property
    def ready(self) -> bool:
        return not self.words or self.full

    @property
    def reached(self) -> bool:
        return "the database system is" in self.words  # starting up, shutting down, recovering


def _locked(path: Path, kind: int, waited_for: str = "a lock") -> int:
    """Open a file and lock it, waiting as long as it takes; the lock ends when it is closed."""
    file = _open(path)
    begun = time.monotonic()
    said = False
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if not said and time.monotonic() - begun > PATIENCE:
                said = True
                _logger.warning("waiting for %s (%s)", waited_for, path)
            time.sleep(POLL / 5)


def _try_lock(path: Path) -> int | None:
    """Open a file and lock it exclusively; None if another open file holds a lock on it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise DatabaseUnavailable(
            f"{path} belongs to another user. Set SKYGLOSS_HOME to a folder of your own, or share "
            "a server through DATABASE_URL."
        ) from error


def _make_private(folder: Path) -> None:
    """Make sure that only the server's OS user (and root) can enter the folder of the socket."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        postgresql.give(folder)
    user = postgresql.server_user()
    owner = user.pw_uid if user else os.geteuid()
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise DatabaseUnavailable(
            f"{folder} should be a folder that only the database server's user can enter, but it "
            "is not. Remove it and try again."
        )
