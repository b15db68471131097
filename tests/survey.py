"""A small made-up survey in which every kind of row occurs, for pages and documented queries."""

from dataclasses import dataclass
from datetime import UTC, datetime

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
from tests.builders import make_catalog, make_model_version, make_run, make_source, make_worker

N = 60
CARD = {
    "summary": "A network for tests.",
    "metrics_from": "Cross-validation by groups.",
    "metrics": {"auc": {"value": 0.98, "low": 0.96, "high": 0.99}},
    "training": {"data": "made-up discs", "n": 617},
    "limits": "Compact background galaxies.",
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
    """Add 60 sources 10 arcsec apart, two hosts, two model versions and their opinions.

    Source k has probability (k % 20) / 20 from the current version, so that each value occurs
    three times; k = 7 has a flag and no probability, k = 8 no opinion at all, k = 9 is flagged as
    partly outside. Every fourth source has no magnitudes, every twentieth from k = 5 a bad fit;
    k = 3 shares its position with k = 2. Sources 2 to 11 and 22 to 31 are near a host each.
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
