"""How the views on labels are planned, and what a cell's label is worth, on thousands of rows."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import labels
from db.labels import Subject
from tests.builders import (
    make_catalog,
    make_expert,
    make_exposure,
    make_label,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
)

N = 3_000
FILL = (
    "INSERT INTO exposure (catalog_id, name, path, fingerprint, n_ccds, n_detected, n_sampled,"
    " header) SELECT :catalog, k, k, k, 1, 0, 0, '{}' FROM generate_series(1, :n) AS k",
    "INSERT INTO source (catalog_id, survey_id, exposure_id, ccd, x, y)"
    " SELECT catalog_id, 'many' || exposure.id, exposure.id, 0, 0, 0 FROM exposure",
    "INSERT INTO exposure_cell (exposure_id, model_version_id, cell_row, cell_column, flags,"
    " run_id) SELECT id, :exposures, id % 20, id / 20 % 20, 0, :exposure_run FROM exposure",
    "INSERT INTO source_cell (source_id, model_version_id, cell_row, cell_column, flags, run_id)"
    " SELECT id, :sources, id % 20, id / 20 % 20, 0, :source_run FROM source",
    "INSERT INTO label (expert_id, action, label_class_id, request, model_version_id, cell_row,"
    " cell_column) SELECT :expert, 'label', :class, map || '-' || cell, map, cell % 20,"
    " cell / 20 FROM generate_series(0, 399) AS cell, unnest(ARRAY[:exposures, :sources]) AS map",
    "INSERT INTO label (expert_id, action, label_class_id, request, exposure_id)"
    " SELECT :expert, 'label', :class, 'e' || id, id FROM exposure WHERE id % 10 = 0",
    "INSERT INTO label (expert_id, action, label_class_id, request, source_id)"
    " SELECT :expert, 'label', :class, 's' || id, id FROM source WHERE id % 10 = 0",
    "ANALYZE",
)


@pytest.fixture
def many(session: Session) -> Session:
    """Thousands of exposures, each with a source, on two maps whose cells are all labelled."""
    exposures = make_model_version(session, annotator="exposure_map", state="current")
    sources = make_model_version(session, annotator="source_map", state="current")
    values = {
        "n": N,
        "catalog": make_catalog(session, survey="exposure").id,
        "exposures": exposures.id,
        "exposure_run": make_run(session, exposures).id,
        "sources": sources.id,
        "source_run": make_run(session, sources).id,
        "expert": make_expert(session).id,
        "class": make_label_class(session, "Good").id,
    }
    for statement in FILL:
        session.execute(text(statement), values)
    return session


def plan(session: Session, query: str) -> str:
    return "\n".join(session.scalars(text(f"EXPLAIN {query}")))


def test_labels_from_cells_meet_exposures_by_hashing_and_read_no_source(many: Session) -> None:
    shown = plan(many, "SELECT name, propagated_label, propagated_checked FROM annotated_exposure")

    assert "source_cell" not in shown
    [joined] = [line for line in shown.splitlines() if "Cond: ((exposure_cell.cell_row =" in line]
    assert "Hash Cond" in joined
    assert "SubPlan" not in shown


def test_sources_are_found_by_their_label_without_reading_every_source(many: Session) -> None:
    shown = plan(many, "SELECT survey_id FROM annotated_source WHERE label = 'Good'")

    assert "SubPlan" not in shown
    assert "Seq Scan on source " not in shown


@pytest.mark.parametrize("kind", ["source", "exposure"])
def test_who_does_not_ask_for_labels_does_not_pay_for_them(many: Session, kind: str) -> None:
    shown = plan(many, f"SELECT count(ra) FROM annotated_{kind} WHERE ra > 1")  # noqa: S608

    assert " label" not in shown


@pytest.mark.parametrize("kind", ["source", "exposure"])
def test_what_cells_hand_on_to_one_of_them_reads_nobody_elses_cell(
    many: Session, kind: str
) -> None:
    other = {"source": "exposure", "exposure": "source"}[kind]

    shown = plan(many, f"SELECT * FROM label_propagated WHERE {kind}_id = 7")  # noqa: S608

    assert f"{other}_cell" not in shown
    assert f"Seq Scan on {kind}_cell" not in shown


def test_the_label_of_one_cell_is_found_by_an_index(many: Session) -> None:
    shown = plan(
        many,
        "SELECT * FROM exposure_cell_label WHERE cell_row = 3 AND cell_column = 4 AND"
        " model_version_id = (SELECT max(model_version_id) FROM exposure_cell)",
    )

    assert "ix_label_cell" in shown


def test_a_checked_cell_ranks_above_one_that_nobody_checked(session: Session) -> None:
    version = make_model_version(session, annotator="exposure_map", state="current")
    make_prototypes(session, version, 1, 3)
    run = make_run(session, version)
    good, bad = (make_label_class(session) for _ in range(2))
    ada = make_expert(session)
    for column, (agree, n) in enumerate([(0, 0), (9, 10), (0, 2)]):
        make_label(session, ada, good, model_version_id=version.id, cell_row=0, cell_column=column)
        for k in range(n + 1):
            exposure = make_exposure(session, 0, name=f"{column}-{k}")
            place = {"e": exposure.id, "v": version.id, "c": column, "r": run.id}
            session.execute(
                text("INSERT INTO exposure_cell VALUES (:e, :v, 0, :c, 0, 0, NULL, 0, :r)"), place
            )
            if k < n:
                make_label(session, ada, good if k < agree else bad, exposure_id=exposure.id)
    session.flush()

    found = session.execute(
        text(
            "SELECT propagated_checked, propagated_confidence FROM annotated_exposure"
            " WHERE label IS NULL ORDER BY cell_column"
        )
    ).all()

    assert [row.propagated_checked for row in found] == [0, 10, 2]
    assert [row.propagated_confidence for row in found] == pytest.approx([1 / 2, 10 / 12, 1 / 4])


def test_novel_members_neither_confirm_a_cell_nor_speak_against_it(session: Session) -> None:
    version = make_model_version(session, annotator="exposure_map", state="current")
    make_prototypes(session, version, 1, 1)
    run = make_run(session, version)
    good, bad = (make_label_class(session) for _ in range(2))
    ada = make_expert(session)
    make_label(session, ada, good, model_version_id=version.id, cell_row=0, cell_column=0)
    member, novel = (make_exposure(session, 0) for _ in range(2))
    for exposure, flags in ((member, 0), (novel, 4)):
        place = {"e": exposure.id, "v": version.id, "f": flags, "r": run.id}
        session.execute(
            text("INSERT INTO exposure_cell VALUES (:e, :v, 0, 0, 0, 0, NULL, :f, :r)"), place
        )
    make_label(session, ada, bad, exposure_id=novel.id)

    [carried] = labels.propagated(session, Subject("exposure", (member.id,)))

    assert (carried.n_direct, carried.confidence) == (0, 0.5)
    assert labels.propagated(session, Subject("exposure", (novel.id,))) == []
