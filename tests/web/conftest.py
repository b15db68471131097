"""A filled survey behind the pages; the pages change nothing, so that all tests share it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import URL, Engine, QueuePool
from sqlalchemy.orm import Session

from db import cutouts, model_versions
from db.engine import create_engine
from db.tables import N_REDUCED, Job, Representation
from tests.builders import make_model_version, make_run
from tests.conftest import new_database
from tests.survey import N, Survey, fill
from tests.web import maps
from tests.web.maps import Atlas
from web import create_app

SIZE = 16  # pixel


@dataclass(frozen=True)
class Site:
    """The application and what is in its database."""

    app: Flask
    engine: Engine
    survey: Survey
    cutout_set_id: int

    @property
    def pool(self) -> QueuePool:
        """The connections of the application."""
        assert isinstance(self.engine.pool, QueuePool)
        return self.engine.pool

    def number(self, k: int) -> int:
        """The number of source k in the database."""
        return self.survey.sources[k].id


@pytest.fixture(scope="session")
def site(
    server_url: URL, template: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("pixels")
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            survey = fill(session)
        cutout_set_id = add_pixels(engine, root, survey)
        with Session(engine) as session, session.begin():
            add_jobs(session, survey)
            add_representations(session, survey)
        app = create_app(engine, root)
        yield Site(app, engine, survey, cutout_set_id)
        engine.dispose()


@pytest.fixture(scope="session")
def atlas(
    server_url: URL, template: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Atlas]:
    """An application with maps, a team and a database of its own."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        yield maps.draw(engine, tmp_path_factory.mktemp("atlas"))
        engine.dispose()


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return site.app.test_client()


def add_pixels(engine: Engine, root: Path, survey: Survey) -> int:
    """Store a grey level per source; 7 has no image, 10 no cutout at all."""
    layout = cutouts.Layout(("z", "r", "g"), SIZE, 0.262, "uint8", "display")
    with Session(engine, expire_on_commit=False) as session, session.begin():
        cutout_set = cutouts.create_set(session, survey.catalog, "pictures", layout, "folder")
    with cutouts.Writer(engine, root, cutout_set) as writer:
        for k, source in enumerate(survey.sources):
            if k == 7:
                writer.append(source.id, layout.blank(), cutouts.CutoutFlag.NO_IMAGE)
            elif k != 10:
                writer.append(source.id, np.full(layout.shape, 4 * k, np.uint8))
    return cutout_set.id


def add_jobs(session: Session, survey: Survey) -> None:
    """Jobs of the one block: of the shreds done and failed, of the fluxes of pairs all done."""
    shares = model_versions.find(session, "pair_flux", "shares.v1")
    block_id = session.connection().exec_driver_sql("SELECT id FROM cutout_block").scalar_one()
    for first, last, state, error in ((0, 29, "done", None), (30, 30, "failed", "bad <pixels>")):
        session.add(
            Job(
                model_version_id=survey.current.id,
                block_id=block_id,
                first=first,
                last=last,
                state=state,
                attempt=1,
                error=error,
            )
        )
    whole = {"block_id": block_id, "first": 0, "last": N - 2}
    session.add(Job(model_version_id=shares.id, **whole, state="done", attempt=1))


def add_representations(session: Session, survey: Survey) -> None:
    """Lay the sources out in a line: source k is at k, so that its likes are k - 1 and k + 1.

    7 has no image and no vector, 8 and 10 were not looked at.
    """
    names = {"annotator": "representations", "name": "tiny.line"}
    version = make_model_version(session, **names, state="current", card={"summary": "A line."})
    run = make_run(session, version, worker_id=survey.worker.id)
    for k, source in enumerate(survey.sources):
        vector = np.zeros(N_REDUCED)
        vector[:2] = k, 1
        values = {"embedding": vector, "reduced": vector, "flags": 0}
        if k == 7:
            values = {"flags": 1}
        if k not in (8, 10):
            where = {"source_id": source.id, "model_version_id": version.id, "run_id": run.id}
            session.add(Representation(**where, **values))
