"""Exposures counted by the cells of a source map."""

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from db import histograms, jobs
from db.tables import Exposure, Run, Source
from tests.builders import (
    make_exposure,
    make_model_version,
    make_prototypes,
    make_run,
    make_source_cell,
    make_worker,
)

ROWS, COLUMNS = 2, 3


@pytest.fixture
def run(session: Session) -> Run:
    """A run of a source map of 2 x 3 cells."""
    version = make_model_version(session, annotator="source_map")
    make_prototypes(session, version, ROWS, COLUMNS)
    return make_run(session, version)


def place(
    session: Session, run: Run, exposure: Exposure, *cells: tuple[int, int] | None
) -> list[Source]:
    """Give an exposure's first sources these cells."""
    wanted = sa.select(Source).where(Source.exposure_id == exposure.id).order_by(Source.id)
    sources = list(session.scalars(wanted))
    for source, cell in zip(sources, cells, strict=False):
        make_source_cell(session, source, run, cell, flags=0 if cell else 8)
    return sources


def counted(session: Session, run: Run, *exposures: Exposure) -> histograms.Histograms:
    ids = [exposure.id for exposure in exposures]
    histograms.make(session, run.model_version_id, ids)
    return histograms.read(session, run.model_version_id, ids)


def test_sources_are_counted_by_cell_row_by_row(session: Session, run: Run) -> None:
    exposure = make_exposure(session, 4)
    place(session, run, exposure, (0, 1), (1, 0), (1, 0), (1, 2))

    found = counted(session, run, exposure)

    assert found.exposure_ids.tolist() == [exposure.id]
    assert found.counts.tolist() == [[0, 1, 0, 2, 0, 1]]
    assert found.counts.dtype == np.float32
    assert (found.n_counted.tolist(), found.weight.tolist()) == ([4], [1.0])


def test_those_counted_stand_for_all_that_were_detected(session: Session, run: Run) -> None:
    exposure = make_exposure(session, 4, n_detected=30)
    place(session, run, exposure, (0, 0), (0, 0), (1, 1), None)

    found = counted(session, run, exposure)

    assert (found.n_counted.tolist(), found.weight.tolist()) == ([3], [10.0])
    assert found.counts.tolist() == [[20, 0, 0, 0, 10, 0]]


def test_an_exposure_without_a_counted_source_has_an_empty_histogram(
    session: Session, run: Run
) -> None:
    exposure = make_exposure(session, 2)
    place(session, run, exposure, None, None)

    found = counted(session, run, exposure)

    assert found.counts.tolist() == [[0] * 6]
    assert (found.n_counted.tolist(), found.weight.tolist()) == ([0], [0.0])


def test_each_exposure_and_each_map_has_its_own(session: Session, run: Run) -> None:
    other = make_run(session, make_model_version(session, annotator="source_map"))
    first, second = make_exposure(session, 1), make_exposure(session, 2)
    place(session, run, first, (0, 0))
    place(session, run, second, (1, 2), (1, 2))

    found = counted(session, run, second, first)

    assert found.exposure_ids.tolist() == [first.id, second.id]
    assert found.counts.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2]]
    assert histograms.read(session, other.model_version_id, [first.id]).counts.shape == (0, 0)


def test_made_again_it_changes_only_if_more_sources_have_a_cell(session: Session, run: Run) -> None:
    exposure = make_exposure(session, 2)
    sources = place(session, run, exposure, (0, 0))
    ids = [exposure.id]
    made = [histograms.make(session, run.model_version_id, ids) for _ in range(2)]
    make_source_cell(session, sources[1], run, (0, 2))

    renewed = histograms.make(session, run.model_version_id, ids)

    assert (made, renewed) == ([1, 0], 1)
    assert counted(session, run, exposure).counts.tolist() == [[1, 0, 1, 0, 0, 0]]


def test_without_the_cells_of_the_map_nothing_can_be_counted(session: Session) -> None:
    version = make_model_version(session, annotator="source_map")

    with pytest.raises(histograms.NoPrototypes, match="worker puts them there"):
        histograms.make(session, version.id, [make_exposure(session).id])


def test_exposures_are_finished_when_every_job_of_theirs_is(session: Session, run: Run) -> None:
    first, second = make_exposure(session), make_exposure(session)
    worker_id = make_worker(session).id
    sets = session.scalars(sa.text("SELECT id FROM cutout_set")).all()
    jobs.enqueue(session, run.model_version_id, sets)
    done, doing = jobs.claim(session, worker_id, [run.model_version_id], 2)
    jobs.complete(session, done, 1.0)

    assert (done.block_id, doing.block_id) == (first.block_id, second.block_id)
    assert histograms.finished(session, run.model_version_id) == [first.id]
    assert histograms.finished(session, run.model_version_id, second.catalog_id) == []
