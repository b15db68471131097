"""Which sources lie near a host galaxy on the sky, within some projected kiloparsecs.

Cosmology: flat LCDM with H0 = 70 km/s/Mpc and Om0 = 0.3. The positions are matched by `db.sky`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from db.sky import DEGREES, NEAR, search_arrays
from db.tables import Source

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3)
RADIUS = 100.0  # kpc
LOWEST_REDSHIFT = 0.001  # 4.3 Mpc; 100 kpc are 1.3 degrees there, and peculiar motions rule below
N_HOSTS = 500  # hosts searched around in one transaction
WIDEST = 90.0  # degrees, the limit of `search_arrays`

_INSERT = text(
    f"""
    INSERT INTO host_match (source_id, host_id, separation_arcsec, separation_kpc)
    SELECT source.id, host.id, 3600 * separation.degrees, host.scale * separation.degrees
    FROM unnest(CAST(:hosts AS bigint[]), CAST(:scales AS float8[])) AS host (id, scale)
    JOIN ({NEAR}) ON near.position = host.id
    CROSS JOIN LATERAL (SELECT {DEGREES} AS degrees) AS separation
    WHERE haversine <= near."limit" AND source.id <> host.id
    ON CONFLICT DO NOTHING
    """  # noqa: S608
)


class TooWide(ValueError):  # noqa: N818 (it reads as what happened)
    """Around some host the radius takes up too much of the sky to be searched."""


@dataclass(frozen=True)
class HostMatches:
    """What `match_hosts` did: hosts searched around, hosts without a usable redshift, new rows."""

    n_hosts: int
    n_passed_over: int
    n_new: int


def match_hosts(
    engine: Engine,
    hosts_id: int,
    sources_id: int,
    radius: float = RADIUS,
    lowest_redshift: float = LOWEST_REDSHIFT,
    progress: Callable[[int], None] = lambda n_hosts: None,
) -> HostMatches:
    """Fill `host_match` with the sources of one catalog near the hosts of another.

    Every page of hosts is a transaction of its own. Rows that are there already stay, so that a
    repetition changes nothing and a larger radius adds.

    Parameters
    ----------
    hosts_id, sources_id : int
        Catalogs, which may be the same; a source is not its own host.
    radius : float
        Projected distance at the host's redshift [kpc].
    lowest_redshift : float
        Hosts below it, or without a redshift, are passed over: their circle would be degrees wide
        and their distance is not known from the redshift.
    progress : callable
        Called with the number of further hosts searched around.

    Raises
    ------
    TooWide
        At the redshift of a host the radius is 90 degrees or more.
    """
    n_hosts = n_new = 0
    last = 0
    while True:
        with Session(engine) as session, session.begin():
            hosts = session.execute(
                select(Source.id, Source.ra, Source.dec, Source.redshift)
                .where(Source.catalog_id == hosts_id, Source.redshift >= lowest_redshift)
                .where(Source.id > last)
                .order_by(Source.id)
                .limit(N_HOSTS)
            ).all()
            if not hosts:
                break
            ids, *columns = (np.array(column) for column in zip(*hosts, strict=True))
            n_new += _insert(session, sources_id, radius, ids, *columns)
        last = int(ids[-1])
        n_hosts += len(hosts)
        progress(len(hosts))
    return HostMatches(n_hosts, n_hosts_of(engine, hosts_id) - n_hosts, n_new)


def n_hosts_of(engine: Engine, catalog_id: int) -> int:
    """Count the sources of a catalog of hosts, with a redshift or without."""
    with Session(engine) as session:
        query = select(func.count()).select_from(Source).where(Source.catalog_id == catalog_id)
        return session.scalars(query).one()


def _insert(
    session: Session,
    sources_id: int,
    radius: float,
    ids: NDArray[np.int64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    redshift: NDArray[np.float64],
) -> int:
    scales = kpc_per_degree(redshift)
    _check_width(radius, redshift, radius / scales)
    arrays = search_arrays(ra, dec, radius / scales)
    arrays["position"] = ids[arrays["position"]].tolist()
    hosts = {"hosts": ids.tolist(), "scales": scales.tolist(), "catalog_id": sources_id}
    result = session.execute(_INSERT, {**arrays, **hosts})
    return result.rowcount  # type: ignore[attr-defined]


def _check_width(radius: float, redshift: NDArray[np.float64], width: NDArray[np.float64]) -> None:
    widest = int(width.argmax())
    if width[widest] >= WIDEST:
        raise TooWide(
            f"{radius:g} kpc at redshift {redshift[widest]:g}, that of a host, are "
            f"{width[widest]:.0f} degrees on the sky; expected less than {WIDEST:g}. Choose a "
            "smaller radius or a higher lowest redshift."
        )


def kpc_per_degree(redshift: ArrayLike) -> NDArray[np.float64]:
    """Projected kiloparsecs per degree of angle at a redshift."""
    distance = COSMOLOGY.angular_diameter_distance(np.asarray(redshift, dtype=float))
    kpc: NDArray[np.float64] = np.radians(1) * distance.to_value("kpc")
    return kpc
