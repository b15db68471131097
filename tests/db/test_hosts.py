"""Sources near host galaxies, against theory and brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from cli import main
from db import hosts
from db.sky import healpix
from db.tables import HostMatch
from tests.builders import make_catalog, make_source
from tests.db.test_sky import angles


def place(session: Session, catalog: Any, ra: float, dec: float, **values: Any) -> int:
    key = int(healpix(ra, dec)[0])
    return make_source(session, catalog, ra, dec, healpix=key, **values).id


def matches(engine: Engine) -> dict[tuple[int, int], tuple[float, float]]:
    with Session(engine) as session:
        return {
            (m.source_id, m.host_id): (m.separation_arcsec, m.separation_kpc)
            for m in session.scalars(select(HostMatch))
        }


@pytest.fixture
def field(engine: Engine) -> dict[str, Any]:
    """A host at z = 0.01 with sources 90 and 110 kpc away, and hosts that cannot serve."""
    degree = float(hosts.kpc_per_degree(0.01))
    with Session(engine) as session, session.begin():
        atlas, survey = make_catalog(session, name="nsa"), make_catalog(session, name="legacy")
        return {
            "atlas": atlas.id,
            "survey": survey.id,
            "host": place(session, atlas, 0.0, 10.0, redshift=0.01),
            "unknown": place(session, atlas, 50.0, 10.0),
            "nearest": place(session, atlas, 100.0, 10.0, redshift=0.0005),
            "inside": place(session, survey, 0.0, 10.0 - 90 / degree),
            "outside": place(session, survey, 0.0, 10.0 + 110 / degree),
            "at_unknown": place(session, survey, 50.0, 10.0),
            "at_nearest": place(session, survey, 100.0, 10.0),
        }


def test_the_scale_is_that_of_the_stated_cosmology() -> None:
    # Low redshift: distance c z / H0 (1 - (1 + q0) z / 2) / (1 + z), with q0 = 3/2 Om0 - 1
    z = 0.01
    distance = 299792.458 * z / 70 * (1 - (1 + 0.45 - 1) / 2 * z) / (1 + z) * 1000  # kpc

    assert hosts.kpc_per_degree(z) == pytest.approx(np.radians(distance), rel=1e-4)
    assert 100 / hosts.kpc_per_degree(hosts.LOWEST_REDSHIFT) < 1.4


def test_only_sources_within_the_radius_of_a_usable_host_match(
    engine: Engine, field: dict[str, Any]
) -> None:
    found = hosts.match_hosts(engine, field["atlas"], field["survey"])

    assert (found.n_hosts, found.n_passed_over, found.n_new) == (1, 2, 1)
    ((pair, separation),) = matches(engine).items()
    assert pair == (field["inside"], field["host"])
    assert separation[0] == pytest.approx(3600 * 90 / hosts.kpc_per_degree(0.01), rel=1e-5)
    assert separation[1] == pytest.approx(90, rel=1e-5)


def test_matching_again_changes_nothing_and_a_larger_radius_adds(
    engine: Engine, field: dict[str, Any]
) -> None:
    hosts.match_hosts(engine, field["atlas"], field["survey"])

    again = hosts.match_hosts(engine, field["atlas"], field["survey"])
    wider = hosts.match_hosts(engine, field["atlas"], field["survey"], radius=120)

    assert (again.n_new, wider.n_new) == (0, 1)
    assert {source for source, _ in matches(engine)} == {field["inside"], field["outside"]}


def test_a_host_is_not_its_own_satellite(engine: Engine, field: dict[str, Any]) -> None:
    found = hosts.match_hosts(engine, field["atlas"], field["atlas"])

    assert (found.n_hosts, found.n_new) == (1, 0)


def test_many_hosts_match_what_brute_force_finds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "N_HOSTS", 7)
    random = np.random.default_rng(5)
    with Session(engine) as session, session.begin():
        atlas, survey = make_catalog(session), make_catalog(session)
        z = random.uniform(0.002, 0.1, 20)
        at = np.stack([random.normal(0, 1, 20) % 360, random.normal(88, 1, 20).clip(-90, 90)])
        sources = np.stack([random.normal(0, 3, 80) % 360, random.normal(88, 1, 80).clip(-90, 90)])
        host_ids = [place(session, atlas, *at[:, i], redshift=z[i]) for i in range(20)]
        source_ids = [place(session, survey, *sources[:, i]) for i in range(80)]
        atlas_id, survey_id = atlas.id, survey.id
    steps: list[int] = []

    hosts.match_hosts(engine, atlas_id, survey_id, radius=500, progress=steps.append)

    kpc = angles(*sources[:, :, None], *at[:, None, :]) * hosts.kpc_per_degree(z)
    expected = {(source_ids[i], host_ids[j]) for i, j in np.argwhere(kpc <= 500)}
    assert len(expected) > 20
    assert set(matches(engine)) == expected
    assert steps == [7, 7, 6]


@pytest.mark.usefixtures("environment")
def test_a_radius_as_wide_as_the_sky_is_explained(engine: Engine, field: dict[str, Any]) -> None:
    words = ["ingest", "hosts", "--hosts", "nsa", "--sources", "legacy"]

    result = CliRunner().invoke(main, [*words, "--kpc", "10000", "--lowest-redshift", "0.0005"])

    assert result.exit_code == 1
    assert "10000 kpc at redshift 0.0005" in result.output
    assert "268 degrees" in result.output
    assert "smaller radius or a higher lowest redshift" in result.output
    assert matches(engine) == {}


def test_the_command_fills_the_table(
    field: dict[str, Any], engine: Engine, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["ingest", "hosts", "--hosts", "nsa", "--sources", "legacy"]

    result = CliRunner().invoke(main, words)
    unknown = CliRunner().invoke(main, [*words[:-1], "hubble"])

    assert result.exit_code == 0
    assert "1 hosts searched within 100 kpc, 1 new matches; 2 without" in result.output
    assert len(matches(engine)) == 1
    assert unknown.exit_code == 1
    assert "no catalog 'hubble'; there are: legacy, nsa" in unknown.output
