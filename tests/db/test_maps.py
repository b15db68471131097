"""The cells of maps: who is in them, what was said of them, where the map has borders."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import exposure_queries, maps, queries
from db.exposure_queries import Wanted
from db.maps import Map
from db.tables import Exposure, ExposureCell, ExposureHistogram, Run
from tests.builders import (
    make_catalog,
    make_expert,
    make_exposure,
    make_label,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
    make_source,
    make_source_cell,
)

ROWS, COLUMNS = 2, 3


@pytest.fixture
def run(session: Session) -> Run:
    """A run of a map of exposures of 2 x 3 cells."""
    version = make_model_version(session, annotator="exposure_map", state="current")
    make_prototypes(session, version, ROWS, COLUMNS)
    return make_run(session, version)


@pytest.fixture
def shown(session: Session, run: Run) -> Map:
    return maps.versions(session, "exposure_map")[0]


def put(
    session: Session,
    run: Run,
    cell: tuple[int, int] | None,
    error: float = 0.5,
    margin: float = 0.1,
    latent: Sequence[float] | None = None,
    flags: int = 0,
    **facts: Any,
) -> Exposure:
    """An exposure in a cell of the map."""
    exposure = make_exposure(session, 0, **facts)
    row, column = cell or (None, None)
    session.add(
        ExposureCell(
            exposure_id=exposure.id,
            model_version_id=run.model_version_id,
            cell_row=row,
            cell_column=column,
            quantization_error=None if cell is None else error,
            margin=None if cell is None else margin,
            latent=latent,
            flags=flags,
            run_id=run.id,
        )
    )
    session.flush()
    return exposure


def ids(session: Session, shown: Map, kind: maps.Kind, n: int = 9, seed: int = 0) -> list[int]:
    return [row.id for row in maps.members(session, shown, (0, 1), kind, n, seed)]


def listed(session: Session, shown: Map | None, sort: str = "catalog", **wanted: Any) -> list[int]:
    page = exposure_queries.listed(session, Wanted(**wanted), shown, sort, 50)
    return [row.Exposure.id for row in page.rows]


def test_maps_are_the_versions_with_prototypes_the_current_first(session: Session) -> None:
    names = {}
    for name, state in (("old", "retired"), ("now", "current"), ("next", "candidate")):
        version = make_model_version(session, annotator="source_map", state=state, name=f"a.{name}")
        make_prototypes(session, version, 2, 3)
        names[version.id] = name
    make_model_version(session, annotator="source_map", name="a.unseen")

    found = maps.versions(session, "source_map")

    assert [names[one.version.id] for one in found] == ["now", "next", "old"]
    assert {(one.rows, one.columns) for one in found} == {(2, 3)}
    assert maps.versions(session, "exposure_map") == []


def test_prototypes_come_as_a_grid(session: Session, shown: Map) -> None:
    latent, decoded = maps.latents(session, shown), maps.decoded(session, shown)

    assert latent.shape == (2, 3, 2)
    assert latent[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert decoded.shape == (2, 3, 4)
    assert latent.dtype == decoded.dtype == np.float32


def test_the_u_matrix_is_the_mean_distance_to_the_neighbours() -> None:
    latent = np.array([[[0.0], [1.0]], [[0.0], [5.0]]], np.float32)

    assert maps.u_matrix(latent).tolist() == [[0.5, 2.5], [2.5, 4.5]]


def test_the_u_matrix_of_a_single_cell_has_no_value() -> None:
    assert np.isnan(maps.u_matrix(np.zeros((1, 1, 3), np.float32))).all()


def test_cells_know_their_members_and_how_well_they_fit(
    session: Session, run: Run, shown: Map
) -> None:
    for error in (0.2, 0.4):
        put(session, run, (0, 1), error)
    put(session, run, (1, 2), 0.5)
    put(session, run, None, flags=1)

    found = maps.occupancy(session, shown)

    assert found.n.tolist() == [[0, 2, 0], [0, 0, 1]]
    assert found.error[0, 1] == pytest.approx(0.3)
    assert np.isnan(found.error[0, 0])
    assert found.exact
    assert maps.n_members(session, shown, (0, 1)) == 2


def test_members_of_another_version_do_not_count(session: Session, run: Run, shown: Map) -> None:
    other = make_run(session, make_model_version(session, annotator="exposure_map"))
    put(session, other, (0, 1))

    assert maps.occupancy(session, shown).n.sum() == 0
    assert ids(session, shown, "nearest") == []


def test_a_large_map_is_counted_in_a_sample(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_model_version(session, annotator="source_map")
    make_prototypes(session, version, 2, 3)
    run = make_run(session, version)
    catalog = make_catalog(session)
    for k in range(40):
        make_source_cell(session, make_source(session, catalog), run, (0, k % 2))
    monkeypatch.setattr(maps, "MOST_COUNTED", 0)

    found = maps.occupancy(session, maps.versions(session, "source_map")[0])

    assert not found.exact
    assert found.n.tolist() == [[20, 20, 0], [0, 0, 0]]  # all of it, as far as the sample goes


def test_members_come_nearest_farthest_and_borderline(
    session: Session, run: Run, shown: Map
) -> None:
    a, b, c = (
        put(session, run, (0, 1), error, margin).id
        for error, margin in ((0.3, 0.2), (0.1, 0.3), (0.2, 0.1))
    )
    put(session, run, (0, 2), 0.0, 0.0)

    assert ids(session, shown, "nearest") == [b, c, a]
    assert ids(session, shown, "farthest", 2) == [a, c]
    assert ids(session, shown, "borderline") == [c, a, b]


def test_random_members_are_the_same_for_the_same_seed_only(
    session: Session, run: Run, shown: Map
) -> None:
    for k in range(40):
        put(session, run, (0, 1), k / 40)

    first = ids(session, shown, "random", 9, seed=3)

    assert first == ids(session, shown, "random", 9, seed=3)
    assert first != ids(session, shown, "random", 9, seed=4)
    assert len(set(first)) == 9


def test_every_member_is_on_some_page_once(session: Session, run: Run, shown: Map) -> None:
    wanted = [put(session, run, (0, 1), error).id for error in (0.1, 0.1, 0.2, 0.3, 0.3)]
    after, found = None, []
    while True:
        page = maps.member_page(session, shown, (0, 1), 2, after)
        found += [row.id for row in page.rows]
        if (after := page.next) is None:
            break

    assert found == wanted


def test_a_cell_has_the_label_most_experts_gave_it(session: Session, run: Run, shown: Map) -> None:
    good, bad = (make_label_class(session) for _ in range(2))
    ada, bob, cy = (make_expert(session) for _ in range(3))
    cell = {"model_version_id": run.model_version_id, "cell_row": 0, "cell_column": 1}
    for expert, label in ((ada, good), (bob, good), (cy, bad)):
        make_label(session, expert, label, **cell)
    make_label(session, ada, bad, **(cell | {"cell_column": 2}))
    make_label(session, bob, good, **(cell | {"cell_column": 2}))

    said = maps.said(session, shown)

    assert (said[0, 1].label, said[0, 1].disputed) == (good.id, True)
    assert (said[0, 2].label, said[0, 2].disputed) == (None, True)
    assert (0, 0) not in said


def test_labels_of_members_themselves_are_counted_apart(
    session: Session, run: Run, shown: Map
) -> None:
    good, bad = (make_label_class(session) for _ in range(2))
    ada = make_expert(session)
    cell = {"model_version_id": run.model_version_id, "cell_row": 0, "cell_column": 1}
    make_label(session, ada, good, **cell)
    for label in (good, good, bad):
        make_label(session, ada, label, exposure_id=put(session, run, (0, 1)).id)
    put(session, run, (0, 1))

    said = maps.said(session, shown)[0, 1]

    assert said.votes == {good.id: 1}
    assert (said.n_direct, said.n_agree) == (3, 2)


def test_a_blind_expert_sees_nothing_of_others(session: Session, run: Run, shown: Map) -> None:
    good, bad = (make_label_class(session) for _ in range(2))
    ada, bob = (make_expert(session) for _ in range(2))
    cell = {"model_version_id": run.model_version_id, "cell_row": 0, "cell_column": 1}
    exposure = put(session, run, (0, 1))
    make_label(session, bob, bad, **cell)
    make_label(session, bob, bad, exposure_id=exposure.id)
    make_label(session, ada, good, **(cell | {"cell_column": 0}))

    said = maps.said(session, shown, only=ada.id)

    assert {place: one.votes for place, one in said.items()} == {(0, 0): {good.id: 1}}
    page = exposure_queries.listed(session, Wanted(label=bad.id), shown, "catalog", 9, only=ada.id)
    assert page.rows == []


def test_confidence_is_that_of_the_view(session: Session, run: Run, shown: Map) -> None:
    good, bad = (make_label_class(session) for _ in range(2))
    experts = [make_expert(session) for _ in range(3)]
    cell = {"model_version_id": run.model_version_id, "cell_row": 0, "cell_column": 1}
    for expert, label in zip(experts, (good, good, bad), strict=True):
        make_label(session, expert, label, **cell)
    member, novel = put(session, run, (0, 1)), put(session, run, (0, 1), flags=4)
    for label in (good, bad):
        make_label(session, experts[0], label, exposure_id=put(session, run, (0, 1)).id)
    of_both = [member.id, novel.id]

    view = session.execute(
        text("SELECT * FROM label_propagated WHERE exposure_id = ANY (:ids)"), {"ids": of_both}
    ).all()

    said = maps.said(session, shown)[0, 1]
    assert [(row.exposure_id, row.label_class_id) for row in view] == [(member.id, said.label)]
    assert said.confidence == pytest.approx(view[0].confidence)
    assert said.confidence == pytest.approx(2 / 3 * 2 / 4)


def test_a_cells_label_finds_its_members_but_not_novel_ones(
    session: Session, run: Run, shown: Map
) -> None:
    good = make_label_class(session)
    cell = {"model_version_id": run.model_version_id, "cell_row": 0, "cell_column": 1}
    make_label(session, make_expert(session), good, **cell)
    member = put(session, run, (0, 1))
    put(session, run, (0, 1), flags=4)

    assert listed(session, shown, propagated=good.id) == [member.id]


def test_how_many_lie_closer_than_an_error_is_counted(
    session: Session, run: Run, shown: Map
) -> None:
    for error in (0.1, 0.2, 0.3):
        put(session, run, (0, 1), error)

    assert maps.n_closer(session, shown, (0, 1), np.float32(0.3).item()) == (2, 3)


def test_exposures_are_listed_by_what_is_asked(session: Session, run: Run, shown: Map) -> None:
    here = make_catalog(session, name="here", survey="exposure")
    facts: dict[str, Any] = {"catalog": here, "band": "r"}
    clean = put(session, run, (0, 1), 0.2, **facts, name="100p", mjd=2.0)
    flagged = put(session, run, (0, 2), 0.9, flags=2, **facts, name="101p", mjd=3.0)
    novel = put(session, run, (1, 1), 0.5, flags=4, **facts, name="102p", mjd=1.0)
    nowhere = put(session, run, None, flags=1, catalog=here, band="i", name="2_0p")

    assert listed(session, shown) == [clean.id, flagged.id, novel.id, nowhere.id]
    assert listed(session, shown, band="i") == [nowhere.id]
    assert listed(session, shown, name="2_") == [nowhere.id]
    assert listed(session, shown, place=(0, 1)) == [clean.id]
    assert listed(session, shown, flagged="clean") == [clean.id, novel.id]
    assert listed(session, shown, flagged="flagged") == [flagged.id, nowhere.id]
    assert listed(session, shown, flagged="novel") == [novel.id]
    assert listed(session, shown, flagged="unplaced") == [nowhere.id]
    assert listed(session, shown, catalog_id=here.id + 1) == []
    assert listed(session, shown, "-mjd") == [flagged.id, clean.id, novel.id, nowhere.id]
    assert listed(session, shown, "-error") == [flagged.id, novel.id, clean.id, nowhere.id]
    assert exposure_queries.count(session, Wanted(band="r"), shown) == 3


def test_exposures_are_listed_before_there_is_a_map(session: Session) -> None:
    exposure = make_exposure(session, 2)

    assert listed(session, None) == [exposure.id]
    assert listed(session, None, "-error") == [exposure.id]


def test_the_nearest_exposures_are_those_alike_in_the_networks_code(
    session: Session, run: Run
) -> None:
    here, far, near = (put(session, run, (0, 0), latent=code) for code in ([0, 0], [3, 4], [0, 1]))
    put(session, run, None, flags=1)

    found = exposure_queries.nearest(session, here.id, run.model_version_id, 5)

    assert [(row.id, row.distance) for row in found] == [(near.id, 1), (far.id, 5)]


def test_an_exposure_without_code_has_no_nearest(session: Session, run: Run) -> None:
    put(session, run, (0, 0), latent=[0, 0])
    nowhere = put(session, run, None, flags=1)

    assert exposure_queries.nearest(session, nowhere.id, run.model_version_id, 5) == []


def test_a_histogram_comes_on_the_grid_of_its_map(session: Session) -> None:
    version = make_model_version(session, annotator="source_map")
    make_prototypes(session, version, 2, 3)
    counted = maps.versions(session, "source_map")[0]
    exposure, other = make_exposure(session, 0), make_exposure(session, 0)
    session.add(
        ExposureHistogram(
            exposure_id=exposure.id,
            model_version_id=version.id,
            counts=[0, 2.5, 0, 5, 0, 0],
            n_counted=3,
            weight=2.5,
        )
    )
    session.flush()

    found = exposure_queries.histogram(session, exposure.id, counted)

    assert found is not None
    assert found.counts.tolist() == [[0, 2.5, 0], [5, 0, 0]]
    assert (found.n_counted, found.weight) == (3, 2.5)
    assert exposure_queries.histogram(session, other.id, counted) is None
    assert exposure_queries.with_histogram(session, [exposure.id, other.id], counted) == {
        exposure.id
    }


def test_the_sources_of_a_ccd_are_found(session: Session) -> None:
    exposure = make_exposure(session, 2)
    third = make_source(session, exposure_id=exposure.id, ccd=3, x=1.0, y=2.0)

    found = exposure_queries.source_page(session, exposure.id, 3, 9)

    assert [row.Source.id for row in found.rows] == [third.id]
    assert len(exposure_queries.source_page(session, exposure.id, None, 9).rows) == 3


@pytest.mark.parametrize("kind", get_args(maps.Kind))
def test_members_come_out_of_the_index_alone(session: Session, shown: Map, kind: maps.Kind) -> None:
    for setting in ("enable_seqscan", "enable_bitmapscan"):
        session.execute(text(f"SET LOCAL {setting} = off"))

    plan = queries.explain(session, maps.chosen(shown, (0, 1), kind).limit(9))

    assert '"Index Only Scan"' in json.dumps(plan)
