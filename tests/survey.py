"""A small made-up survey in which every kind of row occurs, for pages and documented queries."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from db.tables import (
    Catalog,
    CatalogFile,
    HostMatch,
    ModelVersion,
    Rejection,
    Run,
    Shred,
    Source,
    Worker,
)
from tests.builders import (
    make_blend,
    make_catalog,
    make_model_version,
    make_pair_flux,
    make_run,
    make_source,
    make_worker,
)

N = 60
CARD = {
    "summary": "A network for tests.",
    "metrics_from": "Cross-validation by groups.",
    "metrics": {"auc": {"value": 0.98, "low": 0.96, "high": 0.99}},
    "training": {"data": "made-up discs", "n": 617},
    "limits": "Compact background galaxies.",
}
LIGHT = {
    "summary": "Two galaxies.",
    "inputs": {"bands": ["r"], "size": 16, "unit": "nJy"},
    "build": {"interval_95": 1.93},
    "metrics": {
        "coverage_68": {"value": 0.681},
        "flux_mape": {"value": 5.31, "unit": "%"},
        "accuracy_sigma_40": {"value": 0.943, "low": 0.93, "high": 0.95},
        "sep_accuracy_sigma_40": {"value": 0.66},
        "accuracy_sigma_5": {"value": 0.976},
        "sep_accuracy_sigma_5": {"value": 0.981},
    },
}
NOTHING = dict.fromkeys(
    (
        *("flux_central", "flux_central_err", "flux_companion", "flux_companion_err"),
        *("separation", "sep_flux_central", "sep_flux_companion", "sep_detections"),
    )
)
ALONE: dict[str, Any] = {"separation": None, "sep_flux_companion": None, "sep_detections": 1}
# by source: what the network and sep say of it, then what is measured of the pair
BLENDS: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {
    40: ({"p_blend": 0.99}, {}),
    41: ({"p_blend": 0.95, "sep_is_blend": False, "sep_detections": 1}, ALONE | {"separation": 1}),
    42: ({"p_blend": 0.05}, {"flux_companion": -12.3, "separation": None, "flags": 512}),
    43: ({"p_blend": 0.02, "sep_is_blend": False, "sep_detections": 1}, ALONE | {"flags": 512}),
    44: ({"p_blend": 0.97, "sep_detections": 3, "flags": 64}, {"flags": 64}),
    45: (dict.fromkeys(("p_blend", "sep_is_blend", "sep_detections")) | {"flags": 1}, NOTHING),
    46: ({"p_blend": 0.92, "sep_detections": 1}, {}),
    47: ({"p_blend": 0.98}, {"separation": 0.75, "sep_flux_companion": 1500}),
}
GOOD = {
    "mag_g": 20.1,
    "mag_r": 19.6,
    "mag_z": 19.3,
    "mag_g_err": 0.02,
    "mag_r_err": 0.02,
    "mag_z_err": 0.02,
    "type": "EXP",
    "shape_r": 2.5,
    "shape_r_err": 0.05,
    "axis_ratio": 0.7,
    "nobs_min": 3,
    "mask": 0,
    "fracmasked_max": 0.01,
    "fracflux_max": 0.1,
    "fracin_max": 0.95,
    "rchisq_max": 1.4,
    "rchisq_min": 1.1,
}


@dataclass(frozen=True)
class Survey:
    """The rows that tests ask about."""

    catalog: Catalog
    hosts: Catalog
    sources: list[Source]
    current: ModelVersion
    candidate: ModelVersion
    run: Run
    worker: Worker


def fill(session: Session) -> Survey:
    """Add 60 sources 10 arcsec apart, two hosts, two model versions and their opinions of shreds.

    Source k has probability (k % 20) / 20 from the current version, so that each value occurs
    three times; k = 7 has a flag and no probability, k = 8 no opinion at all, k = 9 is flagged as
    partly outside. Every fourth source has no magnitudes, every twentieth from k = 5 a bad fit;
    k = 3 shares its position with k = 2. Sources 2 to 11 and 22 to 31 are near a host each. What is
    said of blends, and of which sources, stands in BLENDS.
    """
    catalog = make_catalog(session, name="field", release="DR10", n_sources=N)
    hosts = make_catalog(session, name="hosts", survey="nsa", n_sources=2)
    sources = [_source(session, catalog, k) for k in range(N)]
    worker = make_worker(session, host="observatory", device="cpu", device_note="no CUDA")
    current = make_model_version(session, name="residual.v1", state="current", card=CARD)
    candidate = make_model_version(session, name="published.v1", card=CARD)
    run = make_run(session, current, worker_id=worker.id)
    other_run = make_run(session, candidate, worker_id=worker.id)
    for k, source in enumerate(sources):
        _opine(session, source, k, run, other_run)
    for k, source in enumerate(sources[:2]):
        host = make_source(
            session, hosts, ra=source.ra, dec=1.9, survey_id=f"host-{k}", redshift=0.02
        )
        near = sources[2 + 20 * k : 12 + 20 * k]
        session.add_all(
            HostMatch(source_id=s.id, host_id=host.id, separation_arcsec=360, separation_kpc=50 + i)
            for i, s in enumerate(near)
        )
    _measure(session, sources, worker)
    _reject(session, catalog)
    session.flush()
    return Survey(catalog, hosts, sources, current, candidate, run, worker)


def _source(session: Session, catalog: Catalog, k: int) -> Source:
    values = {**GOOD, "mag_r": 17.0 + (k % 15) * 0.25, "extra": {"maskbits": k % 3, "ebv": 0.03}}
    values |= {"mag_g": values["mag_r"] + 0.5, "mag_z": values["mag_r"] - 0.3}
    if k % 20 == 5:
        values["rchisq_max"] = 12.0
    if k % 4 == 3:
        values = {"type": "PSF", "shape_r": 0.0}
    place = 2 if k == 3 else k
    return make_source(
        session, catalog, ra=150.0, dec=2.0 + place / 360, survey_id=f"src-{k:03}", **values
    )


def _opine(session: Session, source: Source, k: int, run: Run, other_run: Run) -> None:
    p = (k % 20) / 20
    if k != 8:
        session.add(
            Shred(
                source_id=source.id,
                model_version_id=run.model_version_id,
                run_id=run.id,
                p_shred=None if k == 7 else p,
                flags={7: 1, 9: 4}.get(k, 0),
            )
        )
    if k < 30 and k != 8:
        session.add(
            Shred(
                source_id=source.id,
                model_version_id=other_run.model_version_id,
                run_id=other_run.id,
                p_shred=1 - p if k % 5 == 0 else p,
                flags=0,
            )
        )


def masks() -> bytes:
    """16 by 16 pixels: the central galaxy in rows 4 to 9, the companion in rows 8 to 13."""
    found = np.zeros((2, 16, 16), bool)
    found[0, 4:10, 5:11] = True
    found[1, 8:14, 9:13] = True
    return np.packbits(found).tobytes()


def _measure(session: Session, sources: list[Source], worker: Worker) -> None:
    """Add what is said of blends; of source 40 also by another version, in i, and with masks."""
    version = make_model_version(
        session, annotator="blends", name="rings.v1", state="current", card=LIGHT
    )
    shares = make_model_version(
        session, annotator="pair_flux", name="shares.v1", state="current", card=LIGHT
    )
    other = make_model_version(
        session, annotator="pair_flux", name="shares.i", card={"inputs": {"bands": ["i"]}}
    )
    runs = [make_run(session, each, worker_id=worker.id) for each in (version, shares, other)]
    for k, (said, measured) in BLENDS.items():
        make_blend(session, sources[k], runs[0], **said)
        values = measured | ({"masks": masks()} if k == 40 else {})
        make_pair_flux(session, sources[k], runs[1], **({"flags": said.get("flags", 0)} | values))
    make_pair_flux(session, sources[40], runs[2], flux_central=10_000, flux_companion=4_000)


def _reject(session: Session, catalog: Catalog) -> None:
    file = CatalogFile(
        catalog_id=catalog.id,
        name="field.fits",
        fingerprint="test",
        n_read=N + 1,
        n_new=N,
        n_rejected=1,
        finished_at=datetime.now(UTC),
    )
    session.add(file)
    session.flush()
    session.add(Rejection(catalog_file_id=file.id, row=17, survey_id="src-bad", reason="ra is NaN"))
