"""Rows with good defaults, added and flushed, so that a test states only what it is about."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import layouts, sky
from db.tables import (
    Base,
    Blend,
    Catalog,
    Cutout,
    CutoutBlock,
    CutoutSet,
    Expert,
    Exposure,
    Label,
    LabelClass,
    ModelVersion,
    PairFlux,
    Projection,
    Prototype,
    Run,
    Shred,
    Source,
    SourceCell,
    Worker,
)

Row = TypeVar("Row", bound=Base)
_number = itertools.count(1)


def make_catalog(session: Session, **values: Any) -> Catalog:
    defaults = {"name": f"catalog {next(_number)}", "survey": "legacy", "column_map": {}}
    return _added(session, Catalog(**(defaults | values)))


def make_source(
    session: Session,
    catalog: Catalog | None = None,
    ra: float = 150.0,
    dec: float = 2.0,
    **values: Any,
) -> Source:
    """A source at (ra, dec) [deg], in a new catalog if none is given."""
    catalog = catalog or make_catalog(session)
    defaults = {
        "catalog_id": catalog.id,
        "survey_id": f"source-{next(_number)}",
        "ra": ra,
        "dec": dec,
        "healpix": np.asarray(sky.healpix(ra, dec)).item(),
    }
    return _added(session, Source(**(defaults | values)))


def make_sources(session: Session, n: int, catalog: Catalog | None = None) -> list[Source]:
    """n sources of one catalog, 10 arcsec apart in declination."""
    catalog = catalog or make_catalog(session)
    return [make_source(session, catalog, dec=2.0 + k / 360) for k in range(n)]


def make_cutout_set(session: Session, catalog: Catalog | None = None, **values: Any) -> CutoutSet:
    catalog = catalog or make_catalog(session)
    number = next(_number)
    defaults = {
        "catalog_id": catalog.id,
        "name": f"set {number}",
        "bands": ["g", "r", "z"],
        "size": 16,
        "pixel_scale": 0.262,
        "dtype": "uint8",
        "unit": "display",
        "store_path": f"set-{number}",
        "origin": "folder",
    }
    return _added(session, CutoutSet(**(defaults | values)))


def make_cutout_block(
    session: Session,
    cutout_set: CutoutSet | None = None,
    sources: Sequence[Source] | None = None,
    sealed: bool = True,
    **values: Any,
) -> CutoutBlock:
    """A block with a cutout row for each source (default: three new ones); no pixels."""
    cutout_set = cutout_set or make_cutout_set(session)
    if sources is None:
        catalog = session.get_one(Catalog, cutout_set.catalog_id)
        sources = make_sources(session, 3, catalog)
    defaults = {
        "cutout_set_id": cutout_set.id,
        "number": next(_number),
        "n": len(sources),
        "sealed_at": datetime.now(UTC) if sealed else None,
    }
    block = _added(session, CutoutBlock(**(defaults | values)))
    session.add_all(
        Cutout(
            source_id=source.id, cutout_set_id=cutout_set.id, block_id=block.id, position=position
        )
        for position, source in enumerate(sources)
    )
    session.flush()
    return block


def make_exposure(
    session: Session, n: int = 3, catalog: Catalog | None = None, **values: Any
) -> Exposure:
    """An exposure with n sampled sources on its first CCD, in one block of a new set; no pixels."""
    catalog = catalog or make_catalog(session, survey="exposure")
    name = f"{next(_number)}p"
    defaults: dict[str, Any] = {
        "catalog_id": catalog.id,
        "name": name,
        "path": f"/data/{name}.fits.fz",
        "fingerprint": name,
        "n_ccds": 1,
        "n_detected": n,
        "n_sampled": n,
        "header": {},
    }
    exposure = _added(session, Exposure(**(defaults | values)))
    detected = {"exposure_id": exposure.id, "ccd": 0, "x": 0.0, "y": 0.0}
    sources = [make_source(session, catalog, **detected) for _ in range(n)]
    if n and "block_id" not in values:
        layout = {"bands": ["r"], "size": 32, "pixel_scale": 0.184, "dtype": "uint16"}
        cutout_set = make_cutout_set(session, catalog, **layout, unit="adu", origin="exposure")
        exposure.block_id = make_cutout_block(session, cutout_set, sources).id
        session.flush()
    return exposure


def make_prototypes(
    session: Session, version: ModelVersion, rows: int = 2, columns: int = 3
) -> list[Prototype]:
    """The cells of a map, whose prototypes are numbered in their first component."""
    return [
        _added(
            session,
            Prototype(
                model_version_id=version.id,
                cell_row=row,
                cell_column=column,
                latent=[row * columns + column, 0],
                decoded=[0.5, 0.5, 0.5, 0.5],
            ),
        )
        for row, column in np.ndindex(rows, columns)
    ]


def make_source_cell(
    session: Session, source: Source, run: Run, cell: tuple[int, int] | None, flags: int = 0
) -> SourceCell:
    """Where a source is on the map of a run's version; nowhere without a cell."""
    row, column = cell or (None, None)
    values = {"source_id": source.id, "model_version_id": run.model_version_id, "run_id": run.id}
    return _added(session, SourceCell(**values, cell_row=row, cell_column=column, flags=flags))


def make_model_version(session: Session, **values: Any) -> ModelVersion:
    defaults = {
        "annotator": "shreds",
        "name": f"tiny.test{next(_number)}",
        "weights_sha256": "0" * 64,
        "card": {},
        "state": "candidate",
    }
    return _added(session, ModelVersion(**(defaults | values)))


def make_worker(session: Session, **values: Any) -> Worker:
    defaults = {"host": "testhost", "pid": next(_number), "device": "cpu", "code_version": "0"}
    return _added(session, Worker(**(defaults | values)))


def make_run(session: Session, model_version: ModelVersion | None = None, **values: Any) -> Run:
    model_version = model_version or make_model_version(session)
    defaults: dict[str, Any] = {"model_version_id": model_version.id}
    if "worker_id" not in values:
        defaults["worker_id"] = make_worker(session).id
    return _added(session, Run(**(defaults | values)))


def make_shred(
    session: Session, source: Source | None = None, run: Run | None = None, **values: Any
) -> Shred:
    """An opinion on a source (default: a new one), by the model version of a run."""
    source = source or make_source(session)
    run = run or make_run(session)
    defaults = {
        "source_id": source.id,
        "model_version_id": run.model_version_id,
        "run_id": run.id,
        "p_shred": 0.5,
        "flags": 0,
    }
    return _added(session, Shred(**(defaults | values)))


def make_blend(session: Session, source: Source, run: Run, **values: Any) -> Blend:
    """What a run's version and sep say of a source: two, in agreement, if nothing else is given."""
    defaults = {"p_blend": 0.97, "sep_is_blend": True, "sep_detections": 2, "flags": 0}
    return _added(session, Blend(**(_by(source, run) | defaults | values)))


def make_pair_flux(session: Session, source: Source, run: Run, **values: Any) -> PairFlux:
    """Fluxes of the two galaxies of a source [nJy], by a run's version and by sep; no masks."""
    defaults = {
        "flux_central": 5000.0,
        "flux_central_err": 100.0,
        "flux_companion": 2000.0,
        "flux_companion_err": 80.0,
        "separation": 2.5,
        "sep_flux_central": 5100.0,
        "sep_flux_companion": 1900.0,
        "sep_detections": 2,
        "flags": 0,
    }
    return _added(session, PairFlux(**(_by(source, run) | defaults | values)))


def make_projection(
    session: Session, source_ids: NDArray[np.int64], places: NDArray[np.float32], **values: Any
) -> Projection:
    """A projection, ready to look at, with these sources at these places, shape (n, 2)."""
    defaults: dict[str, Any] = {
        "name": f"projection {next(_number)}",
        "method": "pca",
        "seed": 0,
        "n_fitted": 3,
    }
    if "model_version_id" not in values:
        defaults["model_version_id"] = make_model_version(session, annotator="representations").id
    projection = Projection(**(defaults | values))
    layouts.save(session, projection, source_ids, places)
    return projection


def make_expert(session: Session, name: str | None = None, **values: Any) -> Expert:
    """An account that nobody can sign in to, because its password is no hash."""
    defaults = {"name": name or f"expert-{next(_number)}", "password_hash": "none"}
    return _added(session, Expert(**(defaults | values)))


def make_label_class(session: Session, name: str | None = None, **values: Any) -> LabelClass:
    number = next(_number)
    defaults = {"name": name or f"class {number}", "colour": number % 12}
    return _added(session, LabelClass(**(defaults | values)))


def make_label(
    session: Session, expert: Expert, label_class: LabelClass, **subject_and_values: Any
) -> Label:
    """A label on source_id=, exposure_id= or (model_version_id=, cell_row=, cell_column=)."""
    defaults = {
        "expert_id": expert.id,
        "action": "label",
        "label_class_id": label_class.id,
        "request": f"request-{next(_number)}",
    }
    return _added(session, Label(**(defaults | subject_and_values)))


def _by(source: Source, run: Run) -> dict[str, Any]:
    return {
        "source_id": source.id,
        "model_version_id": run.model_version_id,
        "run_id": run.id,
    }


def _added(session: Session, row: Row) -> Row:
    session.add(row)
    session.flush()
    return row
