"""A map of sources and one of exposures with members, labels and pixels, behind an application."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import cutouts, histograms
from db.tables import Catalog, Ccd, Exposure, ExposureCell, Source
from tests.builders import (
    make_catalog,
    make_exposure,
    make_label,
    make_model_version,
    make_prototypes,
    make_run,
    make_source_cell,
)
from tests.web.team import Team, gather

N = 14  # exposures, all but two of them in cell (1, 2)


@dataclass
class Atlas:
    """A team with two maps of 2 x 3 cells, and the numbers of what is on them."""

    team: Team
    source_map: int
    exposures: list[int]  # 0 is in cell (1, 2) and labelled, 1 is novel, 2 has no cell
    sources: list[int]  # of exposure 0: in cells (0, 0), (0, 1), (0, 1); the last has no position
    odd: int  # an exposure in cell (0, 0), on which nothing is known

    def exposure(self, k: int) -> str:
        return f"/exposures/{self.exposures[k]}"


def draw(engine: Engine, root: Path) -> Atlas:
    """Fill an empty database and pixel store."""
    team = gather(engine, root)
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = make_catalog(session, name="camera", survey="exposure")
        exposures = [_exposure(session, catalog, k, root) for k in range(N)]
        odd = make_exposure(session, 0, catalog=catalog, name="odd", flags=1)
        ids = _place_sources(session, exposures[0])
        _place_exposures(session, team, [*exposures, odd])
        _label(session, team, exposures[0])
        version = make_prototype_map(session, ids)
        histograms.make(session, version, [exposures[0].id])
    with Session(engine, expire_on_commit=False) as session:
        catalog = session.get_one(Catalog, catalog.id)
    _add_pixels(engine, root, catalog, ids)
    return Atlas(team, version, [one.id for one in exposures], ids, odd.id)


def make_prototype_map(session: Session, source_ids: list[int]) -> int:
    """A current map of sources, and where these three sources are on it."""
    version = make_model_version(
        session, annotator="source_map", name="tiny.sources", state="current", card={}
    )
    make_prototypes(session, version, 2, 3)
    run = make_run(session, version)
    for source_id, cell in zip(source_ids, ((0, 0), (0, 1), (0, 1)), strict=True):
        placed = make_source_cell(session, session.get_one(Source, source_id), run, cell)
        placed.quantization_error, placed.margin = 0.25, 0.125
    session.flush()
    return version.id


def _exposure(session: Session, catalog: Catalog, k: int, root: Path) -> Exposure:
    facts = {"band": "ri"[k % 2], "mjd": 59000.5 + k, "exposure_time": 180.0, "pixel_scale": 0.2}
    one = make_exposure(
        session, 3 if k == 0 else 0, catalog=catalog, name=f"{k:03}p", n_detected=30, **facts
    )
    session.add(
        Ccd(
            exposure_id=one.id,
            number=0,
            name="ccd00",
            width=256,
            height=512,
            fwhm=4.0,
            n_detected=30,
            n_sampled=3 if k == 0 else 0,
            flags=4 if k == 3 else 0,
        )
    )
    if k == 0:
        one.preview = "preview.jpg"
        Image.new("L", (500, 500), 40).save(root / "preview.jpg")
    if k == 5:
        one.preview = "../outside.jpg"
    session.flush()
    return one


def _place_sources(session: Session, exposure: Exposure) -> list[int]:
    wanted = select(Source).where(Source.exposure_id == exposure.id).order_by(Source.id)
    sources = session.scalars(wanted).all()
    sources[2].ra = sources[2].dec = sources[2].healpix = None
    return [source.id for source in sources]


def _place_exposures(session: Session, team: Team, exposures: list[Exposure]) -> None:
    version_id = team.version
    run = make_run(session, None, model_version_id=version_id)
    for k, exposure in enumerate(exposures):
        row, column = (None, None) if k == 2 else (0, 0) if k == N else (1, 2)
        session.add(
            ExposureCell(
                exposure_id=exposure.id,
                model_version_id=version_id,
                cell_row=row,
                cell_column=column,
                quantization_error=None if k == 2 else k / 8,
                margin=None if k == 2 else 0.25 - k / 64,
                latent=None if k == 2 else [k, 0],
                flags={1: 4, 2: 1}.get(k, 0),
                run_id=run.id,
            )
        )
    session.flush()


def _label(session: Session, team: Team, exposure: Exposure) -> None:
    """Ada calls cell (1, 2) good, Bob bad; both call cell (0, 1) bad; Bob calls exposure 0 bad."""
    from db.tables import Expert, LabelClass

    people = {one.name: one for one in session.scalars(select(Expert))}
    good, bad = (session.get_one(LabelClass, key) for key in (team.good, team.bad))
    cell = {"model_version_id": team.version, "cell_row": 1, "cell_column": 2}
    make_label(session, people["ada"], good, **cell)
    make_label(session, people["root"], good, **cell)
    make_label(session, people["bob"], bad, **cell)
    for name in ("ada", "bob"):
        make_label(session, people[name], bad, **(cell | {"cell_row": 0, "cell_column": 1}))
    make_label(session, people["bob"], bad, exposure_id=exposure.id)


def _add_pixels(engine: Engine, root: Path, catalog: Catalog, source_ids: list[int]) -> None:
    layout = cutouts.Layout(("r",), 32, 0.2, "uint16", "adu")
    with Session(engine, expire_on_commit=False) as session, session.begin():
        cutout_set = cutouts.create_set(session, catalog, "r-uint16", layout, "folder")
    with cutouts.Writer(engine, root, cutout_set) as writer:
        for k, source_id in enumerate(source_ids):
            writer.append(source_id, np.full(layout.shape, 1000 + k, np.uint16))
