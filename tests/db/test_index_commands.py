"""`skygloss models index` and `skygloss models recall`."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db import search, search_index
from db.engine import create_engine
from db.tables import SearchIndex
from tests.db.search_rows import Rows, fill

N = 400


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    engine = create_engine(environment["DATABASE_URL"])
    yield engine
    engine.dispose()


@pytest.fixture
def rows(engine: Engine) -> Rows:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        return fill(session, N, name="e.1")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["models", *words])


def test_an_index_is_built_and_measured_by_command(engine: Engine, rows: Rows) -> None:
    built = run("index", "representations", "--metric", "l2", "--force")
    measured = run("recall", "--metric", "l2", "--queries", "20", "-k", "10", "--ef", "77")

    assert built.exit_code == 0, built.output
    assert "e.1, l2: 400 rows in " in built.stdout
    assert measured.exit_code == 0, measured.output
    assert "e.1, l2: recall@10 " in measured.stdout
    assert "Of the 10 nearest in the full embedding, " in measured.stdout
    with Session(engine) as session:
        index = session.scalars(sa.select(SearchIndex)).one()
    assert (index.recall_k, index.recall_ef, index.recall_queries) == (10, 77, 20)


def test_results_come_as_json_for_machines(rows: Rows) -> None:
    built = json.loads(run("index", "--force", "--json").stdout)
    measured = json.loads(
        run("recall", "--queries", "5", "--embedding-queries", "0", "--json").stdout
    )

    assert built["built"]
    assert (built["version"], built["n_rows"], built["dropped"]) == ("e.1", N, [])
    assert measured["recall"] > 0.9
    assert (measured["k"], measured["ef"], measured["reduced"]) == (50, 100, None)


def test_a_small_table_is_left_without_index(engine: Engine, rows: Rows) -> None:
    said = run("index")
    measured = run("recall")

    assert (said.exit_code, measured.exit_code) == (0, 0)
    assert "no index is needed. (--force builds it.)" in said.stdout
    assert said.stderr == ""  # no bar of something that is not done
    assert "e.1 has no l1 index: every search is exact" in measured.stdout


def test_a_low_recall_fails_so_that_cron_notices(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "M", 2)  # a poor index
    monkeypatch.setattr(search_index, "EF_CONSTRUCTION", 4)
    run("index", "--force")

    result = run("recall", "--queries", "20", "-k", "100", "--at-least", "1")

    assert result.exit_code == 1
    assert "recall@100 0." in result.stdout
    assert "below 1: raise --ef, or build the index anew" in result.stderr


def test_indexes_of_retired_versions_go_with_the_next_build(engine: Engine, rows: Rows) -> None:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        old = fill(session, 50, seed=1, state="retired", name="old.1")
    search_index.build(engine, old.version, force=True)

    by_name = run("index", "--version", "old.1", "--force")
    current = run("index", "--force")

    assert "Dropped" not in by_name.stdout
    assert "Dropped the indexes of old.1." in current.stdout
    with Session(engine) as session:
        assert search.usable_index(session, old.version.id, "l1") is None


def test_a_version_that_does_not_exist_is_said(rows: Rows) -> None:
    for command in ("index", "recall"):
        result = run(command, "--version", "nobody.1")

        assert result.exit_code == 1
        assert (
            "no version 'nobody.1' of 'representations' is registered; known: e.1" in result.stderr
        )
