"""Run the migrations, on the connection handed over by `db.schema` or on a new one.

Short lock waits, so that a migration never queues behind a long query and stops everybody else.
"""

from alembic import context
from sqlalchemy import Connection, text

from db.engine import create_engine
from db.tables import Base

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "15min"


def run(connection: Connection) -> None:
    try:
        _run_hastily(connection)
    except BaseException:
        connection.invalidate()  # or else its timeouts would go back to the pool with it
        raise


def _run_hastily(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.execute(text("RESET lock_timeout"))
    connection.execute(text("RESET statement_timeout"))
    connection.commit()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with create_engine().connect() as connection:
        run(connection)
