import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from sqlalchemy import URL

from web.commands import serve


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
