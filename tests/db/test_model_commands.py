"""`skygloss status --url`; tests/workers/test_commands.py has the rest, beside a worker."""

from contextlib import closing

import psycopg2
import pytest
from click.testing import CliRunner

from cli import main
from db import embedded
from tests.conftest import reachable_folder


def test_the_address_of_the_embedded_server_is_one_that_psql_can_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with reachable_folder() as home:
        monkeypatch.setenv("SKYGLOSS_HOME", str(home))
        address = CliRunner().invoke(main, ["status", "--url"]).stdout.strip()
        try:
            with closing(psycopg2.connect(address)) as connection:
                found = connection.info.dbname
        finally:
            embedded.leave()

    assert address.startswith("postgresql://")
    assert found == "skygloss"


def test_the_address_of_a_database_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ann:secret@db.example:5433/sky")

    result = CliRunner().invoke(main, ["status", "--url"])

    assert result.exit_code == 0
    assert result.stdout == "postgresql://ann:***@db.example:5433/sky\n"
