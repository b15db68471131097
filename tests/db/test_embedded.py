"""The life of the embedded server, with real processes that come, go and are killed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text

from db import embedded, postgresql, schema
from db.embedded import EmbeddedServer
from db.engine import DatabaseUnavailable, create_engine
from tests.conftest import reachable_folder

CLIENT = """
import sys
from pathlib import Path
from db import embedded
embedded.start(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""

RESTLESS_CLIENT = """
import sys, psycopg2
from pathlib import Path
from db import embedded
folder = Path(sys.argv[1])
for _ in range(6):
    url = embedded.start(folder)
    connection = psycopg2.connect(user=url.username, dbname=url.database, **url.query)
    connection.cursor().execute("SELECT 1")
    connection.close()
    embedded.leave(folder)
"""

FORKING_CLIENT = """
import os, sys
from pathlib import Path
from db import embedded
embedded.start(Path(sys.argv[1]))
if os.fork() == 0:
    sys.exit()  # runs the exit handlers, as a gunicorn worker does
os.wait()
print("child left", flush=True)
sys.stdin.read()
"""


class Client:
    """A process that uses the server until told to leave."""

    def __init__(self, folder: Path, script: str = CLIENT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> "Client":
        assert self.process.stdout
        assert self.process.stdout.readline(), "the client ended before it was ready"
        return self

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def stopped_cluster() -> Iterator[Path]:
    """A server folder that was started once and is stopped, to be copied."""
    with reachable_folder() as parent:
        embedded.start(parent / "postgres")
        embedded.leave(parent / "postgres")
        yield parent / "postgres"


@pytest.fixture
def parent() -> Iterator[Path]:
    with reachable_folder() as parent:
        yield parent


@pytest.fixture
def folder(stopped_cluster: Path, parent: Path) -> Iterator[Path]:
    """A server folder of this test's own; whatever still runs there is stopped in the end."""
    folder = parent / "postgres"
    copy(stopped_cluster, folder)
    yield folder
    stop_whatever_runs(folder)


def copy(cluster: Path, folder: Path) -> None:
    subprocess.run(["cp", "-a", str(cluster), str(folder)], check=True)


def stop_whatever_runs(folder: Path) -> None:
    if server_lives(folder):
        embedded.start(folder)
    embedded.leave(folder)


def server_lives(folder: Path) -> bool:
    """Whether any process of the server is alive: they all hold its lock."""
    with (folder / "server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def postmaster(folder: Path) -> int:
    return int((folder / "data/postmaster.pid").read_text().splitlines()[0])


def kill_postmaster(folder: Path) -> int:
    """Kill the server as the kernel would for lack of memory; return its process number."""
    killed = postmaster(folder)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while server_lives(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server_lives(folder)
    return killed


def query(folder: Path, statement: str) -> list[tuple[object, ...]]:
    url = EmbeddedServer(folder).url()
    with closing(
        psycopg2.connect(user=url.username, dbname=url.database, **url.query)
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


def test_the_last_of_several_processes_stops_the_server(folder: Path) -> None:
    first, second = Client(folder).ready(), Client(folder).ready()
    shared = postmaster(folder)

    first.leave()

    assert server_lives(folder)
    assert postmaster(folder) == shared
    second.leave()
    assert not server_lives(folder)


def test_a_killed_client_does_not_keep_the_server_up(folder: Path) -> None:
    killed, other = Client(folder).ready(), Client(folder).ready()

    killed.kill()
    other.leave()

    assert not server_lives(folder)


def test_a_server_left_behind_by_its_only_client_goes_with_the_next_one(folder: Path) -> None:
    Client(folder).ready().kill()
    assert server_lives(folder)

    Client(folder).ready().leave()

    assert not server_lives(folder)


def test_a_killed_client_does_not_take_the_server_from_another(folder: Path) -> None:
    killed, other = Client(folder).ready(), Client(folder).ready()

    killed.kill()

    assert query(folder, "SELECT 1") == [(1,)]
    other.leave()


def test_a_killed_server_is_started_again_with_its_data(folder: Path) -> None:
    client = Client(folder).ready()
    query(folder, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = kill_postmaster(folder)

    embedded.start(folder)

    assert query(folder, "SELECT answer FROM kept") == [(42,)]
    assert postmaster(folder) != killed
    client.leave()


def test_an_engine_survives_the_death_of_its_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYGLOSS_HOME", str(folder.parent))
    engine = create_engine()
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    kill_postmaster(folder)

    with engine.connect() as connection:
        answer = connection.execute(text("SELECT 2")).scalar_one()

    assert answer == 2
    engine.dispose()


def test_a_new_embedded_database_gets_its_tables_when_it_is_first_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYGLOSS_HOME", str(folder.parent))
    engine = create_engine()

    schema.check(engine)

    assert schema.current_revision(engine) == schema.expected_revision()
    engine.dispose()


def test_a_stale_process_number_that_another_process_has_by_now_is_no_obstacle(
    folder: Path,
) -> None:
    user = postgresql.server_user()
    with subprocess.Popen(["sleep", "60"], user=user.pw_uid if user else None) as bystander:
        pid_file = folder / "data/postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n{folder / 'data'}\n")

        embedded.start(folder)

        assert query(folder, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
        bystander.kill()


def test_four_processes_that_start_at_once_share_one_new_server(parent: Path) -> None:
    folder = parent / "postgres"
    clients = [Client(folder) for _ in range(4)]

    for client in clients:
        client.ready()

    assert (folder / "server.log").read_text().count("starting PostgreSQL") == 1
    for client in clients:
        client.leave()
    assert not server_lives(folder)


def test_starting_and_stopping_never_meet(folder: Path) -> None:
    clients = [Client(folder, RESTLESS_CLIENT) for _ in range(3)]

    for client in clients:
        client.leave()

    assert not server_lives(folder)


def test_a_fork_that_exits_leaves_the_server_to_its_parent(folder: Path) -> None:
    client = Client(folder, FORKING_CLIENT).ready()

    assert query(folder, "SELECT 1") == [(1,)]
    client.leave()
    assert not server_lives(folder)


def test_data_survives_a_stop_and_a_start(folder: Path) -> None:
    embedded.start(folder)
    query(folder, "CREATE TABLE kept AS SELECT 'M31' AS name")
    embedded.leave(folder)
    assert not server_lives(folder)

    embedded.start(folder)

    assert query(folder, "SELECT name FROM kept") == [("M31",)]


@pytest.mark.parametrize(
    "name",
    ["a" * 150, "with space, comma", "quote ' \" $HOME `id`", "Größe 銀河"],
    ids=["long", "comma", "quotes", "unicode"],
)
def test_any_path_will_do(stopped_cluster: Path, parent: Path, name: str) -> None:
    folder = parent / name / "postgres"
    folder.parent.mkdir()
    copy(stopped_cluster, folder)

    url = embedded.start(folder)

    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW data_directory")).scalar_one() == str(folder / "data")
    engine.dispose()
    stop_whatever_runs(folder)


def test_only_the_server_and_its_owner_can_reach_the_socket(folder: Path) -> None:
    url = embedded.start(folder)

    socket_folder = Path(str(url.query["host"]))

    assert socket_folder.stat().st_mode & 0o077 == 0
    assert query(folder, "SHOW listen_addresses") == [("",)]


def test_a_socket_folder_somebody_else_prepared_is_refused(parent: Path) -> None:
    folder = parent / ("a" * 150)
    folder.mkdir()
    socket_folder = EmbeddedServer(folder).socket_folder
    socket_folder.mkdir()
    socket_folder.chmod(0o777)

    with pytest.raises(DatabaseUnavailable, match="only the database server's user can enter"):
        embedded.start(folder)

    socket_folder.rmdir()
    embedded.leave(folder)


def test_settings_are_ours_and_commits_stay_durable(folder: Path) -> None:
    embedded.start(folder)

    settings = dict(
        query(
            folder,
            "SELECT name, current_setting(name) FROM pg_settings WHERE name IN"
            " ('shared_buffers', 'max_wal_size', 'max_connections', 'jit', 'synchronous_commit',"
            " 'fsync', 'TimeZone')",
        )
    )

    assert settings == {
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "max_connections": "100",
        "jit": "off",
        "synchronous_commit": "on",
        "fsync": "on",
        "TimeZone": "UTC",
    }


def test_a_cluster_left_half_made_is_made_again(parent: Path) -> None:
    partial = parent / "postgres/data.partial"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")

    embedded.start(parent / "postgres")

    assert query(parent / "postgres", "SELECT 1") == [(1,)]
    embedded.leave(parent / "postgres")


def test_data_of_another_major_version_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "data/PG_VERSION").write_text("17\n")

    with pytest.raises(DatabaseUnavailable, match="made by PostgreSQL 17"):
        embedded.start(folder)

    assert (folder / "data/base").is_dir()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path) -> None:
    with (folder / "data/postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(DatabaseUnavailable, match=r"unrecognized configuration.*no_such_setting"):
        embedded.start(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_a_folder_the_servers_user_cannot_enter_is_named_and_not_opened(parent: Path) -> None:
    closed = parent / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(DatabaseUnavailable, match=rf"cannot enter {closed}\. Set SKYGLOSS_HOME"):
        embedded.start(closed / "postgres")

    assert closed.stat().st_mode & 0o777 == 0o700
    embedded.leave(closed / "postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_programs_the_servers_user_cannot_reach_are_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = postgresql._installation()
    subprocess.run(["cp", "-a", str(installed), str(closed / "pginstall")], check=True)
    monkeypatch.setattr(postgresql, "_installation", lambda: closed / "pginstall")

    embedded.start(folder)

    assert query(folder, "SELECT 1") == [(1,)]
    assert list(folder.glob("postgresql-18-*/bin/postgres"))
