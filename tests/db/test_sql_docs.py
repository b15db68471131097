"""The queries of docs/sql.md, run as they stand there, on a survey whose answers are known."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from db.engine import create_engine
from db.queries import column_comments
from tests.builders import make_cutout_block, make_cutout_set
from tests.survey import Survey, fill

PAGE = (Path(__file__).parents[2] / "docs/sql.md").read_text()
QUERIES = {
    int(number): query
    for number, query in re.findall(r"^### (\d+)\..*?```sql\n(.*?)```", PAGE, re.M | re.S)
}


@pytest.fixture
def survey(session: Session) -> Survey:
    survey = fill(session)
    make_cutout_block(session, make_cutout_set(session, survey.catalog), survey.sources)
    return survey


def run(session: Session, number: int) -> list[RowMapping]:
    """Execute a query of the page exactly as a user would paste it."""
    return list(session.connection().exec_driver_sql(QUERIES[number]).mappings())


def test_the_page_has_ten_queries() -> None:
    assert sorted(QUERIES) == list(range(1, 11))


def test_the_python_example_makes_a_table(environment: dict[str, str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    engine = create_engine()
    with Session(engine) as session, session.begin():
        fill(session)
    engine.dispose()
    names: dict[str, Any] = {}

    exec(example, names)

    likely = names["likely"]
    assert likely.colnames == ["survey_id", "ra", "dec", "mag_r", "p_shred"]
    assert sorted(likely["survey_id"]) == ["src-019", "src-039", "src-059"]
    assert likely["ra"].dtype == "float64"


def test_the_page_names_every_column_of_the_view(session: Session) -> None:
    ranges = {"mag_r", "mag_i", "mag_r_err", "mag_i_err", "mag_z_err"}  # written mag_g … mag_z

    unnamed = [name for name in column_comments(session) if f"`{name}`" not in PAGE]

    assert set(unnamed) <= ranges


def test_the_page_names_every_threshold_of_the_selection(session: Session) -> None:
    arguments = session.connection().exec_driver_sql(
        "SELECT unnest(proargnames) FROM pg_proc WHERE proname = 'saga_selection'"
    )

    assert [name for name in arguments.scalars() if f"`{name}`" not in PAGE] == []


def test_1_finds_the_likely_shreds(session: Session, survey: Survey) -> None:
    rows = run(session, 1)

    assert {row["survey_id"] for row in rows} == {"src-019", "src-039", "src-059"}


def test_2_leaves_out_shreds_flags_and_sources_without_opinion(
    session: Session, survey: Survey
) -> None:
    found = {row["survey_id"] for row in run(session, 2)}

    assert "src-000" in found
    assert found.isdisjoint({"src-007", "src-008", "src-009", "src-010", "host-0"})
    assert len(found) == 27


def test_3_counts_and_averages_in_half_magnitudes(session: Session, survey: Survey) -> None:
    rows = run(session, 3)

    assert [float(row["mag_r_from"]) for row in rows] == [17 + k / 2 for k in range(8)]
    assert rows[0]["judged"] == 6
    assert rows[0]["mean_probability"] == pytest.approx(1.9 / 6)
    assert rows[0]["called_shreds"] == 2


def test_4_finds_the_sources_of_a_cone_nearest_first(session: Session, survey: Survey) -> None:
    rows = run(session, 4)

    found = [(row["survey_id"], round(row["separation_arcsec"], 3)) for row in rows]
    assert sorted(found[:2]) == [("src-002", 2.0), ("src-003", 2.0)]
    assert found[2:] == [("src-001", 8.0), ("src-000", 18.0), ("src-004", 22.0)]


def test_5_counts_the_candidates_of_each_host(session: Session, survey: Survey) -> None:
    rows = {row["host"]: row for row in run(session, 5)}

    assert set(rows) == {"host-0", "host-1"}
    # of 2 … 11, sources 3, 7 and 11 are point sources, 5 fits badly and 8 has no opinion
    assert rows["host-0"]["candidates"] == 6
    assert rows["host-0"]["expected_real"] == pytest.approx(0.9 + 0.8 + 0.7 + 0.55 + 0.5)


def test_6_applies_other_thresholds(session: Session, survey: Survey) -> None:
    rows = run(session, 6)

    magnitudes = [row["mag_r"] for row in rows]
    assert len(rows) == 27
    assert magnitudes == sorted(magnitudes)
    assert magnitudes[-1] == 19.0


def test_7_compares_two_selections(session: Session, survey: Survey) -> None:
    rows = {row["cuts"]: row for row in run(session, 7)}

    assert rows["published"]["candidates"] == 12
    assert rows["without chi2 cuts"]["candidates"] == 14
    assert rows["published"]["share_of_shreds"] > rows["without chi2 cuts"]["share_of_shreds"]


def test_8_finds_where_versions_disagree(session: Session, survey: Survey) -> None:
    rows = run(session, 8)

    assert [row["difference"] for row in rows] == pytest.approx([1.0, 1.0, 0.5, 0.5, 0.5])
    assert {row["survey_id"] for row in rows[:2]} == {"src-000", "src-020"}


def test_9_counts_flags_by_their_meaning(session: Session, survey: Survey) -> None:
    rows = {row["meaning"]: (row["sources"], row["judged_all_the_same"]) for row in run(session, 9)}

    assert rows == {"no image": (1, 0), "partly outside the image": (1, 1)}


def test_10_traces_a_value_to_its_run(session: Session, survey: Survey) -> None:
    (row,) = run(session, 10)

    assert (row["p_shred"], row["maskbits"], row["shred_version"]) == (0.25, 2, "residual.v1")
    assert (row["host"], row["device"]) == ("observatory", "cpu")
