import math
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from db.queries import column_comments
from db.tables import Cutout, HostMatch, ModelVersion, Source
from tests.builders import (
    make_catalog,
    make_cutout_block,
    make_cutout_set,
    make_model_version,
    make_run,
    make_shred,
    make_source,
)
from tests.survey import GOOD


def rows(session: Session, query: str, **values: Any) -> list[Any]:
    return list(session.execute(text(query), values))


def plan(session: Session, query: str) -> str:
    return "\n".join(line for (line,) in rows(session, f"EXPLAIN {query}"))


def test_a_source_has_one_row_however_many_versions_and_cutouts_it_has(session: Session) -> None:
    source = make_source(session)
    for state in ("current", "candidate", "retired"):
        make_shred(session, source, make_run(session, make_model_version(session, state=state)))
    for _ in range(2):
        make_cutout_block(session, sources=[source])

    found = rows(session, "SELECT source_id, has_cutout FROM annotated_source")

    assert [tuple(row) for row in found] == [(source.id, True)]


def test_a_source_without_opinion_has_nulls(session: Session) -> None:
    make_source(session)

    (row,) = rows(
        session, "SELECT p_shred, shred_flags, shred_version, shred_run_id FROM annotated_source"
    )

    assert tuple(row) == (None, None, None, None)


def test_promoting_a_version_changes_the_opinion_at_once(session: Session) -> None:
    source = make_source(session)
    old = make_model_version(session, state="current", name="a.v1")
    new = make_model_version(session, state="candidate", name="b.v1")
    make_shred(session, source, make_run(session, old), p_shred=0.25)
    make_shred(session, source, make_run(session, new), p_shred=0.75)
    query = "SELECT p_shred, shred_version FROM annotated_source"
    before = tuple(rows(session, query)[0])

    for version, state in ((old, "retired"), (new, "current")):
        session.execute(
            update(ModelVersion).where(ModelVersion.id == version.id).values(state=state)
        )

    assert before == (0.25, "a.v1")
    assert tuple(rows(session, query)[0]) == (0.75, "b.v1")


def test_a_cutout_without_readable_image_is_no_cutout(session: Session) -> None:
    source = make_source(session)
    make_cutout_block(session, sources=[source])
    session.execute(update(Cutout).values(flags=2))

    assert rows(session, "SELECT has_cutout FROM annotated_source")[0].has_cutout is False


@pytest.mark.parametrize(
    ("query", "absent"),
    [
        ("SELECT count(*) FROM annotated_source", ["shred", "catalog", "cutout"]),
        ("SELECT ra FROM annotated_source WHERE mag_r < 20", ["shred", "catalog", "cutout"]),
        ("SELECT p_shred FROM annotated_source", ["catalog", "cutout"]),
    ],
)
def test_the_planner_removes_what_a_query_does_not_mention(
    session: Session, query: str, absent: list[str]
) -> None:
    shown = plan(session, query)

    assert not [table for table in absent if f" on {table} " in shown]
    assert " on source " in shown


def test_every_column_of_the_views_is_explained(session: Session) -> None:
    for view in ("annotated_source", "saga_candidate"):
        comments = column_comments(session, view)
        assert len(comments) > 30
        assert [name for name, comment in comments.items() if not comment] == []
        assert comments["ra"].endswith("[deg]")
        assert comments["mag_r"].endswith("[mag AB]")


def make_candidate(session: Session, near_host: float | None = 40.0, **values: Any) -> Source:
    """A source that passes every published cut, unless values say otherwise."""
    catalog = make_catalog(session)
    source = make_source(session, catalog, **(GOOD | values))
    make_cutout_block(session, make_cutout_set(session, catalog), [source])
    if near_host is not None:
        host = make_source(session, redshift=0.02)
        session.add(
            HostMatch(
                source_id=source.id, host_id=host.id, separation_arcsec=9, separation_kpc=near_host
            )
        )
        session.flush()
    return source


def selected(session: Session, arguments: str = "") -> list[int]:
    query = f"SELECT source_id FROM saga_selection({arguments})"  # noqa: S608
    return [row.source_id for row in rows(session, query)]


def test_a_good_source_near_a_host_is_a_candidate(session: Session) -> None:
    source = make_candidate(session)

    found = rows(session, "SELECT source_id FROM saga_candidate")

    assert [row.source_id for row in found] == [source.id]
    assert selected(session) == [source.id]


@pytest.mark.parametrize(
    ("values", "relaxed"),
    [
        ({"mag_r": 21.01, "mag_g": 21.5}, "max_mag_r => 22"),
        ({"shape_r": 0.05}, "min_surface_brightness => NULL"),
        ({"mag_g": 21.2}, "max_colour => 2"),
        ({"mag_z": None}, "need_magnitudes => false, max_mag_err => NULL"),
        ({"type": "PSF"}, "excluded_types => NULL"),
        ({"type": "DUP"}, "excluded_types => '{PSF}'"),
        ({"type": "DUB"}, "excluded_types => '{PSF,DUP}'"),
        ({"type": "PSF "}, "excluded_types => '{DUP}'"),
        ({"shape_r": 0.0}, "min_shape_r => NULL, min_surface_brightness => NULL"),
        ({"nobs_min": 0}, "min_nobs => 0"),
        ({"mask": 2}, "allowed_mask => 2"),
        ({"fracmasked_max": 0.35}, "max_fracmasked => 0.36"),
        ({"fracflux_max": 4.0}, "max_fracflux => 5"),
        ({"rchisq_max": 10.0}, "max_rchisq => NULL"),
        ({"rchisq_min": 4.0}, "max_rchisq_best => NULL"),
        ({"fracin_max": 0.7}, "min_fracin => 0.6"),
        ({"mag_z_err": 0.2}, "max_mag_err => 0.3"),
        ({"near_host": 100.5}, "max_host_kpc => 101"),
        ({"near_host": None}, "max_host_kpc => NULL"),
    ],
)
def test_each_cut_removes_a_source_until_its_threshold_is_relaxed(
    session: Session, values: dict[str, Any], relaxed: str
) -> None:
    source = make_candidate(session, **values)

    assert selected(session) == []
    assert selected(session, relaxed) == [source.id]


@pytest.mark.parametrize(
    "values",
    [{"mag_r": 21.0, "mag_g": 21.4}, {"nobs_min": 1}, {"near_host": 100.0}, {"type": "exp "}],
)
def test_inclusive_limits_include_their_value(session: Session, values: dict[str, Any]) -> None:
    source = make_candidate(session, **values)

    assert selected(session) == [source.id]


def test_surface_brightness_uses_the_square_of_the_radius_and_its_error(session: Session) -> None:
    r, radius, r_err, radius_err = 19.6, 2.5, 0.02, 0.05
    source = make_candidate(session)
    brightness = r + 2.5 * math.log10(2 * math.pi * radius**2)
    error = math.hypot(r_err, 5 / math.log(10) * radius_err / radius)
    limit = brightness + error - 0.7 * (r - 14)

    assert selected(session, f"min_surface_brightness => {limit - 1e-4}") == [source.id]
    assert selected(session, f"min_surface_brightness => {limit + 1e-4}") == []


def test_a_point_source_is_refused_before_its_radius_meets_a_logarithm(session: Session) -> None:
    make_candidate(session, type="PSF", shape_r=0.0)
    make_candidate(session, type="EXP", shape_r=-1.0)

    assert selected(session) == []
    assert selected(session, "min_shape_r => NULL, excluded_types => NULL") == []


@pytest.mark.parametrize("column", ["type", "mag_r", "shape_r", "nobs_min", "mask", "mag_g_err"])
def test_a_source_that_lacks_what_a_cut_needs_does_not_pass(session: Session, column: str) -> None:
    make_candidate(session, **{column: None})

    assert selected(session) == []


def test_a_missing_error_widens_no_cut(session: Session) -> None:
    source = make_candidate(session, shape_r_err=None, mag_g_err=None)
    faintness = 19.6 + 2.5 * math.log10(2 * math.pi * 2.5**2) + 0.02 - 0.7 * 5.6
    redness = 20.1 - 19.6 - 0.02 + 0.06 * 5.6
    relaxed = "max_mag_err => NULL"

    assert selected(session) == []
    assert selected(session, f"{relaxed}, min_surface_brightness => {faintness - 1e-4}") != []
    assert selected(session, f"{relaxed}, min_surface_brightness => {faintness + 1e-4}") == []
    assert selected(session, f"{relaxed}, max_colour => {redness + 1e-4}") == [source.id]
    assert selected(session, f"{relaxed}, max_colour => {redness - 1e-4}") == []


def test_a_source_without_image_is_a_candidate_only_if_none_is_needed(session: Session) -> None:
    source = make_candidate(session)
    session.execute(update(Cutout).values(flags=1))

    assert selected(session) == []
    assert selected(session, "need_cutout => false") == [source.id]


def test_the_selection_is_planned_as_part_of_the_query(session: Session) -> None:
    shown = plan(session, "SELECT ra FROM saga_selection(max_mag_r => 17)")

    assert "Function Scan" not in shown
    assert "mag_r <= '17'" in shown
