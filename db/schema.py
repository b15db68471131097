"""Which migration a database is at, which one this code expects, and the way from one to the other.

The migrations themselves are in `migrations/` beside this package; the tables in `db.tables`.
"""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from db.engine import DatabaseUnavailable, is_embedded, printable

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
ADVISORY_LOCK = 0x5C1655  # any number, the same for every process that migrates


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database up to a revision; several processes may call it at once."""
    _migrate(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Bring the database down to a revision (`base` drops every table, with its rows)."""
    _migrate(engine, command.downgrade, revision)


def current_revision(engine: Engine) -> str | None:
    """Return the revision the database is at, None before the first migration."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def expected_revision() -> str | None:
    """Return the newest revision this code comes with."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def check(engine: Engine) -> None:
    """Raise DatabaseUnavailable unless the database is at the revision this code expects.

    A new embedded database belongs to nobody else, so its tables are made at once.
    """
    if is_embedded(engine) and current_revision(engine) is None:
        upgrade(engine)
    current, expected = current_revision(engine), expected_revision()
    if current == expected:
        return
    place = printable(engine.url)
    if current is not None and not _is_known(current):
        raise DatabaseUnavailable(
            f"database {place} is at migration {current}, which this code does not know (it "
            f"expects {expected}): a newer Skygloss has been here. Update this one."
        )
    raise DatabaseUnavailable(
        f"database {place} is at migration {current or 'none (it is empty)'}, but this code "
        f"expects {expected}: run `skygloss migrate`"
    )


def _migrate(engine: Engine, step: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as guard:
        guard.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        try:
            with engine.connect() as connection:
                config.attributes["connection"] = connection
                step(config, revision)
        finally:
            guard.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})


def _is_known(revision: str) -> bool:
    return any(
        script.revision == revision
        for script in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def _config() -> Config:
    if not MIGRATIONS.is_dir():
        raise DatabaseUnavailable(
            f"the migrations are not at {MIGRATIONS}: run Skygloss from a checkout of its "
            "repository (pip install -e .)"
        )
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
