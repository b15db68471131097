"""The queries of docs/search.md, run as they stand there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import URL, Connection
from sqlalchemy.orm import Session

from db import search_index
from db.engine import create_engine
from db.predicates import parse
from tests.conftest import new_database
from tests.db.search_rows import Rows, fill, nearest_by_numpy

PAGE = (Path(__file__).parents[2] / "docs/search.md").read_text()
QUERIES = {
    int(number): query
    for number, query in re.findall(r"^### (\d+)\..*?```sql\n(.*?)```", PAGE, re.M | re.S)
}
N = 2000


@pytest.fixture(scope="module")
def indexed(server_url: URL, template: URL) -> Iterator[tuple[Connection, Rows]]:
    """A database whose last row has the ordinal that the page names, with an index."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            first = f"ALTER TABLE representation ALTER COLUMN ordinal RESTART {300_001 - N}"
            session.execute(sa.text(first))
            rows = fill(session, N)
        search_index.build(engine, rows.version, force=True)
        with engine.connect() as connection:
            yield connection, rows
        engine.dispose()


def run(connection: Connection, number: int) -> list[dict[str, Any]]:
    """Execute a query of the page exactly as a user would paste it."""
    rows = [dict(row) for row in connection.exec_driver_sql(QUERIES[number]).mappings()]
    connection.rollback()
    return rows


def test_the_page_has_five_queries() -> None:
    assert sorted(QUERIES) == [1, 2, 3, 4, 5]


def test_the_filters_of_the_page_can_be_read() -> None:
    filters = re.findall(r'--where "(.*?)"', PAGE)

    assert len(filters) == 2
    assert "annotated_source.mag_r" in str(parse(filters[0]))
    assert "annotated_source.extra" in str(parse(filters[1]))


def test_1_finds_what_looks_like_a_source(indexed: tuple[Connection, Rows]) -> None:
    connection, rows = indexed

    found = run(connection, 1)

    ids, distances = nearest_by_numpy(rows, rows.vectors[17], "l1", 21)
    assert [row["survey_id"] for row in found] == [f"s{number - 1}" for number in ids[1:]]
    assert [row["distance"] for row in found] == pytest.approx(distances[1:], rel=1e-5)


def test_2_finds_it_among_bright_sources(indexed: tuple[Connection, Rows]) -> None:
    connection, rows = indexed

    found = run(connection, 2)

    ids, _ = nearest_by_numpy(rows, rows.vectors[17], "l1", 21, rows.mag_r < 15.995)
    assert [row["survey_id"] for row in found] == [f"s{number - 1}" for number in ids[1:]]


def test_3_finds_more_like_a_set(indexed: tuple[Connection, Rows]) -> None:
    connection, rows = indexed
    members = [17, 20, 32]

    found = run(connection, 3)

    ids, _ = nearest_by_numpy(rows, rows.vectors[members].mean(axis=0), "l1", 23)
    wanted = [f"s{number - 1}" for number in ids if number - 1 not in members]
    assert len({row["survey_id"] for row in found} & set(wanted[:20])) >= 19  # rounding of the mean


def test_4_tells_what_the_indexes_cover(indexed: tuple[Connection, Rows]) -> None:
    connection, _ = indexed

    (row,) = run(connection, 4)

    assert (row["metric"], row["model_version_id"], row["built_until"]) == ("l1", 1, 300_000)
    assert row["n_rows"] == N


def test_5_is_answered_by_the_index(indexed: tuple[Connection, Rows]) -> None:
    connection, rows = indexed
    plan = QUERIES[5].replace("SELECT source_id,", "EXPLAIN SELECT source_id,")

    found = run(connection, 5)
    explained = connection.exec_driver_sql(plan).scalars().all()

    ids, _ = nearest_by_numpy(rows, rows.vectors[17], "l1", 20)
    assert [row["source_id"] for row in found] == ids
    assert any("Index Scan using ix_representation_hnsw_" in line for line in explained)
