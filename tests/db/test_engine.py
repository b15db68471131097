import numpy as np
import pytest
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import URL, Engine, cast, make_url, select, text
from sqlalchemy.orm import Session

from db import engine as db_engine
from db.engine import (
    DatabaseUnavailable,
    check_server,
    create_engine,
    database_url,
    normalise,
    session_factory,
)
from db.tables import Catalog
from tests.builders import make_catalog


@pytest.mark.parametrize(
    "spelling",
    [
        "postgres://user:secret@host:5433/sky",
        "postgresql://user:secret@host:5433/sky",
        "postgresql+psycopg2://user:secret@host:5433/sky",
        "postgresql+psycopg://user:secret@host:5433/sky",
    ],
)
def test_every_spelling_of_a_postgresql_url_uses_the_same_driver(spelling: str) -> None:
    assert normalise(spelling) == make_url("postgresql+psycopg2://user:secret@host:5433/sky")


@pytest.mark.parametrize("url", ["sqlite:///sky.db", "mysql://user:hidden-word@host/sky"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="must start with postgresql://") as caught:
        normalise(url)

    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize("url", ["hidden-word", "postgresql://user:hidden-word@host:port/sky"])
def test_what_is_no_url_is_explained_without_printing_it(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="is not a URL: expected postgresql://") as caught:
        normalise(url)

    assert "hidden-word" not in str(caught.value)


def test_database_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://host/sky")

    assert database_url() == make_url("postgresql+psycopg2://host/sky")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable, match="no connection to") as caught:
        create_engine("postgresql://user:hidden-word@127.0.0.1:1/sky")

    assert "user:***@127.0.0.1:1/sky" in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_an_option_that_postgresql_does_not_know_is_named() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"(?s)no connection.*option \"foo\"") as caught:
        create_engine("postgresql://user:hidden-word@127.0.0.1:1/sky?foo=bar")

    assert "hidden-word" not in str(caught.value)


def test_a_missing_database_is_named(server_url: URL) -> None:
    with pytest.raises(DatabaseUnavailable, match='database "nowhere" does not exist'):
        create_engine(server_url.set(database="nowhere"))


def test_pgvector_is_created_where_it_may_be(empty_database_url: URL) -> None:
    engine = create_engine(empty_database_url)

    with engine.connect() as connection:
        version = connection.execute(
            text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        ).scalar_one()

    assert db_engine._version(version) >= (0, 8)
    engine.dispose()


def test_who_may_not_create_pgvector_is_told_what_an_administrator_has_to_run(
    empty_database_url: URL, unprivileged: URL
) -> None:
    with pytest.raises(DatabaseUnavailable, match="CREATE EXTENSION vector;"):
        check_server(unprivileged)


@pytest.fixture
def unprivileged(empty_database_url: URL, server_url: URL) -> URL:
    """The empty database as seen by a user without any right beyond connecting."""
    admin = create_engine(server_url)
    with admin.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS skygloss_test_guest"))
        connection.execute(text("CREATE ROLE skygloss_test_guest LOGIN PASSWORD 'guest'"))
    admin.dispose()
    return empty_database_url.set(username="skygloss_test_guest", password="guest")


@pytest.mark.parametrize(
    ("minimum", "value", "message"),
    [
        ("MINIMUM_POSTGRESQL", 99, "needs 99 or newer"),
        ("MINIMUM_PGVECTOR", (99, 0), "ALTER EXTENSION vector UPDATE;"),
    ],
)
def test_a_server_that_is_too_old_is_refused(
    database_url: URL,
    monkeypatch: pytest.MonkeyPatch,
    minimum: str,
    value: object,
    message: str,
) -> None:
    monkeypatch.setattr(db_engine, minimum, value)

    with pytest.raises(DatabaseUnavailable, match=message):
        create_engine(database_url)


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (np.float64(1.5), 1.5),
        (np.float32(0.25), 0.25),
        (np.int64(-(2**62)), -(2**62)),
        (np.uint8(200), 200),
        (np.bool_(True), True),
    ],
)
def test_numpy_scalars_arrive_as_numbers(
    session: Session, scalar: np.generic, expected: object
) -> None:
    assert session.execute(text("SELECT :value"), {"value": scalar}).scalar_one() == expected


def test_nan_arrives_as_nan(session: Session) -> None:
    answer = session.execute(
        text("SELECT CAST(:value AS real) = 'NaN'"), {"value": np.float32("nan")}
    ).scalar_one()

    assert answer is True


def test_vectors_travel_as_arrays(session: Session) -> None:
    sent = np.array([1.0, 2.5, -3.0], dtype=np.float32)

    plain = session.execute(text("SELECT CAST(:value AS vector)"), {"value": sent}).scalar_one()
    typed = session.execute(select(cast(sent, VECTOR(3)))).scalar_one()

    assert np.array_equal(plain.to_numpy(), sent)
    assert np.array_equal(typed, sent)


def test_a_session_keeps_what_its_caller_commits(engine: Engine) -> None:
    sessions = session_factory(engine)
    with sessions() as session, session.begin():
        catalog = make_catalog(session, name="kept")

    with sessions() as session:
        assert session.get_one(Catalog, catalog.id).name == "kept"


def test_what_a_test_commits_through_its_session_stays_its_own(session: Session) -> None:
    make_catalog(session, name="undone")
    session.commit()

    outside = session.get_bind().engine.connect()

    assert outside.execute(text("SELECT count(*) FROM catalog")).scalar_one() == 0
    outside.close()
