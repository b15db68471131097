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


def test_the_page_has_its_queries() -> None:
    assert sorted(QUERIES) == list(range(1, 20))


def test_the_python_examples_make_a_table_and_masks(environment: dict[str, str]) -> None:
    example, unpacking = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    engine = create_engine()
    with Session(engine) as session, session.begin():
        fill(session)
    engine.dispose()
    names: dict[str, Any] = {}

    exec(example, names)
    exec(unpacking, names)

    likely = names["likely"]
    assert likely.colnames == ["survey_id", "ra", "dec", "mag_r", "p_shred"]
    assert sorted(likely["survey_id"]) == ["src-019", "src-039", "src-059"]
    assert likely["ra"].dtype == "float64"
    central, companion = names["central"], names["companion"]
    assert (central.sum(), companion.sum(), (central & companion).sum()) == (36, 24, 4)
    assert central[4:10, 5:11].all()


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


def test_11_counts_agreement_without_flagged_sources(session: Session, survey: Survey) -> None:
    rows = run(session, 11)

    counts = {
        (row["blend_to_network"], row["blend_to_sep"]): (row["sources"], row["mean_probability"])
        for row in rows
    }
    assert counts == {
        (False, False): (1, pytest.approx(0.02)),
        (False, True): (1, pytest.approx(0.05)),
        (True, False): (1, pytest.approx(0.95)),
        (True, True): (3, pytest.approx((0.99 + 0.92 + 0.98) / 3)),
    }


def test_12_and_13_find_what_only_one_of_them_calls_a_blend(
    session: Session, survey: Survey
) -> None:
    assert [row["survey_id"] for row in run(session, 12)] == ["src-041"]
    assert [row["survey_id"] for row in run(session, 13)] == ["src-042"]


def test_14_finds_companions_that_sep_measures_otherwise(session: Session, survey: Survey) -> None:
    (row,) = run(session, 14)

    assert row["survey_id"] == "src-047"
    assert row["errors"] == pytest.approx((1500 - 2000) / 80)


def test_15_turns_fluxes_into_magnitudes_where_they_have_one(
    session: Session, survey: Survey
) -> None:
    rows = {row["survey_id"]: row for row in run(session, 15)}

    assert set(rows) == {f"src-{k:03}" for k in (40, 41, 42, 43, 44, 46, 47)}
    assert rows["src-040"]["mag_central"] == pytest.approx(22.1526, abs=1e-4)
    assert rows["src-040"]["mag_central_err"] == pytest.approx(0.0217, abs=1e-4)
    assert rows["src-040"]["mag_total"] == pytest.approx(21.7873, abs=1e-4)
    assert rows["src-040"]["flux_total_err"] == pytest.approx((100**2 + 80**2) ** 0.5)
    assert rows["src-042"]["mag_companion"] is None


def test_16_finds_close_pairs_with_the_error_of_their_ratio(
    session: Session, survey: Survey
) -> None:
    rows = run(session, 16)

    assert [(row["survey_id"], row["separation"]) for row in rows] == [
        ("src-047", 0.75),
        ("src-041", 1.0),
    ]
    assert rows[0]["ratio"] == pytest.approx(0.4)
    assert rows[0]["ratio_err"] == pytest.approx(0.4 * (80 / 2000 + 100 / 5000))


def test_17_lists_the_bands_of_a_source_the_current_version_first(
    session: Session, survey: Survey
) -> None:
    rows = run(session, 17)

    found = [(row["name"], row["band"], row["flux_central"]) for row in rows]
    assert found == [("shares.v1", "r", 5000), ("shares.i", "i", 10000)]


def test_18_counts_what_stands_in_the_way(session: Session, survey: Survey) -> None:
    rows = [tuple(row.values()) for row in run(session, 18)]

    assert rows == [
        ("no companion in the masks", 2, 2),
        ("more than two sources", 1, 1),
        ("no image", 1, 0),
    ]


def test_19_lowers_probabilities_where_blends_are_rare(session: Session, survey: Survey) -> None:
    rows = {row["survey_id"]: row["p_here"] for row in run(session, 19)}

    assert len(rows) == 7
    assert rows["src-041"] == pytest.approx(0.095 / (0.095 + 0.045))  # odds of 19 to 1, and 1 to 9
    assert rows["src-043"] == pytest.approx(0.002 / (0.002 + 0.882))
