import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from ipaddress import ip_network
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, Engine, text

from tests.web.team import PASSWORD, gather
from web.commands import believing, serve


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, port
        process.kill()


def test_a_named_proxy_is_believed_about_https_and_its_client(
    environment: dict[str, str], engine: Engine
) -> None:
    gather(engine)
    port = free_port()
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--workers", "1"]
    command += ["--proxy", "127.0.0.0/8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Skygloss is at" in process.stdout.readline()
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        body = urlencode({"name": "ada", "password": PASSWORD})
        connection.request(
            "POST",
            "/sign-in",
            body,
            {
                "Content-Type": "application/x-www-form-urlencoded",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-For": "203.0.113.1, 198.51.100.7",
            },
        )
        cookie = connection.getresponse().headers["Set-Cookie"]
        connection.close()
        process.terminate()

    assert "; Secure" in cookie
    with engine.connect() as rows:
        statement = text("SELECT address FROM audit WHERE action = 'sign in'")
        assert rows.scalars(statement).all() == ["198.51.100.7"]


@pytest.mark.parametrize(("peer", "seen"), [("10.0.0.2", "198.51.100.7"), ("10.0.1.2", "10.0.1.2")])
def test_only_a_named_proxy_tells_who_the_client_is(peer: str, seen: str) -> None:
    def view(environ: dict[str, str], start: object) -> list[bytes]:
        return [environ["REMOTE_ADDR"].encode()]

    answer = believing(view, [ip_network("10.0.0.0/24")])

    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "198.51.100.7"}
    assert answer(environ, None) == [seen.encode()]
    assert answer({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "x"}, None) == [peer.encode()]


def test_the_help_says_what_whoever_reaches_the_pages_may_do() -> None:
    words = " ".join(CliRunner().invoke(serve, ["--help"]).output.split())

    assert "can read everything and upload images to search with" in words
    assert "labels need an account (`skygloss users add`)" in words


def test_serve_prints_its_address_when_it_is_ready_and_stops_in_good_order(
    server: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = server
    assert process.stdout is not None
    line = process.stdout.readline()

    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
        ready = answer.read()
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code = process.wait(timeout=30)

    assert line == f"Skygloss is at http://127.0.0.1:{port} (stop with Ctrl-C)\n"
    assert b"ok" in ready
    assert code == 0
    assert time.monotonic() - began < 15


def test_serve_refuses_a_database_that_was_not_migrated(
    empty_database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = empty_database_url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)

    result = CliRunner().invoke(serve, ["--port", "8999"])

    assert result.exit_code == 1
    assert "skygloss migrate" in result.output


def test_serve_says_when_the_port_is_taken(
    environment: dict[str, str],
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        result = CliRunner().invoke(serve, ["--port", str(port)])

    assert result.exit_code == 1
    assert f"port {port} of 127.0.0.1 is taken" in result.output
    assert "--port" in result.output
