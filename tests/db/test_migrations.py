import json
import threading
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import URL, Engine, event, inspect, text
from sqlalchemy.exc import ProgrammingError

from cli import main
from db import schema
from db.engine import DatabaseUnavailable, create_engine
from db.tables import Base


@pytest.fixture
def empty(empty_database_url: URL) -> Iterator[Engine]:
    engine = create_engine(empty_database_url)
    yield engine
    engine.dispose()


def test_the_migrations_lead_to_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, Base.metadata)

    assert differences == []


def test_constraints_and_indexes_are_those_of_the_code(engine: Engine, empty: Engine) -> None:
    Base.metadata.create_all(empty)

    assert rules(engine) == rules(empty)


def rules(engine: Engine) -> set[tuple[str, str, str]]:
    """Table, name and definition of every constraint (checks, too) and index of our tables."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
                " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
                " UNION ALL SELECT tablename, indexname, indexdef"
                " FROM pg_indexes WHERE schemaname = 'public'"
            )
        )
        return {(table, name, rule) for table, name, rule in rows if table != "alembic_version"}


def test_every_column_with_a_comment_in_the_code_has_it_in_the_database(engine: Engine) -> None:
    inspector = inspect(engine)

    found = {
        (table, column["name"]): column["comment"]
        for table in Base.metadata.tables
        for column in inspector.get_columns(table)
    }

    assert found == {
        (table.name, column.name): column.comment
        for table in Base.metadata.tables.values()
        for column in table.columns
    }


def test_down_to_nothing_and_up_again(empty: Engine) -> None:
    schema.upgrade(empty)
    first = catalogue(empty)

    schema.downgrade(empty, "base")

    assert catalogue(empty) == set()
    schema.upgrade(empty)
    assert catalogue(empty) == first
    assert schema.current_revision(empty) == schema.expected_revision()


def catalogue(engine: Engine) -> set[tuple[str, str]]:
    """Names and kinds of all tables, views, indexes and functions of ours."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT relname, relkind::text FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
                " UNION ALL SELECT proname, 'function' FROM pg_proc p"
                " WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS"
                " (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
            )
        )
        return {(name, kind) for name, kind in rows if not name.startswith("alembic_version")}


def test_migrations_give_up_soon_where_they_would_block_everybody(empty: Engine) -> None:
    seen: list[tuple[str, str]] = []

    @event.listens_for(empty, "before_cursor_execute")
    def look(connection, cursor, statement, *_) -> None:
        if statement.lstrip().startswith("CREATE TABLE source "):
            cursor.execute(
                "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
            )
            seen.append(cursor.fetchone())

    schema.upgrade(empty)

    assert seen == [("5s", "15min")]


def test_timeouts_end_with_the_migration(empty: Engine) -> None:
    schema.upgrade(empty)

    with empty.connect() as connection:
        settings = connection.execute(
            text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        ).one()

    assert settings == ("0", "0")


def test_timeouts_end_with_a_migration_that_fails(empty: Engine) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE source ()"))

    with pytest.raises(ProgrammingError, match='"source" already exists'):
        schema.upgrade(empty)

    with empty.connect() as first, empty.connect() as second:
        for connection in (first, second):
            assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "0"
            assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"


def test_several_processes_may_migrate_at_once(empty: Engine) -> None:
    failures: list[Exception] = []

    def migrate() -> None:
        try:
            schema.upgrade(empty)
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=migrate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert schema.current_revision(empty) == schema.expected_revision()


def test_a_migrated_database_passes_the_check(engine: Engine) -> None:
    schema.check(engine)

    assert schema.current_revision(engine) == schema.expected_revision()


def test_an_empty_database_fails_the_check_with_the_command_to_run(empty: Engine) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"is empty.*run `skygloss migrate`"):
        schema.check(empty)


def test_a_database_from_the_future_is_told_apart_from_an_old_one(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(DatabaseUnavailable, match="newer Skygloss has been here"):
        schema.check(engine)


def test_the_command_migrates_and_says_so(
    empty_database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = empty_database_url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)

    first, second = (CliRunner().invoke(main, ["migrate", "--json"]) for _ in range(2))

    assert json.loads(first.output)["before"] is None
    assert json.loads(first.output)["after"] == schema.expected_revision()
    assert json.loads(second.output)["before"] == schema.expected_revision()


def test_a_command_without_a_database_fails_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hidden-word@127.0.0.1:1/sky")

    result = CliRunner().invoke(main, ["migrate"])

    assert result.exit_code == 1
    assert result.output.startswith("Error: no connection to postgresql://user:***@127.0.0.1:1/sky")
