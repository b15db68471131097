"""Cones, nearest sources and cross-matches against brute force in NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session, aliased

from db import sky
from db.tables import Source
from tests.builders import make_catalog

ARCSEC = 1 / 3600  # degrees
EDGE = 1e-9  # degrees (4 microarcseconds) within which a radius may round either way

right_ascensions = st.one_of(
    st.sampled_from([0.0, 360.0, 1e-12, 359.9999999999, 45.0, 90.0, 180.0, -10.0]),
    st.floats(0, 360),
)
declinations = st.one_of(
    st.sampled_from([-90.0, 90.0, 89.9999999999, -89.9999, 0.0, 41.8103149]), st.floats(-90, 90)
)
radii = st.one_of(
    st.sampled_from([0.0, 1e-8, ARCSEC, 10 * ARCSEC, 1.0, 89.9999999, 90.0, 120.0, 179.9, 180.0]),
    st.floats(0, 180),
)


def angles(ra: Any, dec: Any, ra0: Any, dec0: Any) -> NDArray[np.float64]:
    """Angle between positions [deg], from the vectors' cross and dot product."""

    def vectors(ra: Any, dec: Any) -> NDArray[np.float64]:
        ra, dec = np.broadcast_arrays(np.radians(ra), np.radians(dec))
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)

    a, b = vectors(ra, dec), vectors(ra0, dec0)
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(across, (a * b).sum(axis=-1)))


def awkward_positions() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions everywhere, and crowds at the poles, at RA 0 and where base cells meet."""
    random = np.random.default_rng(7)
    ra, dec = [random.uniform(0, 360, 300)], [np.degrees(np.arcsin(random.uniform(-1, 1, 300)))]
    for centre_ra, centre_dec in [(0, 0), (0, 90), (180, -90), (45, 0), (0, 41.8103149), (10, 20)]:
        for scale in (2 * ARCSEC, 0.01, 1.0):
            ra.append((centre_ra + random.normal(0, scale, 15)) % 360)
            dec.append(np.clip(centre_dec + random.normal(0, scale, 15), -90, 90))
    ra.append(np.array([0.0, 0.0, 120.0, 0.0, 77.0, 180.0, 359.9999999999]))
    dec.append(np.array([0.0, 90.0, 90.0, -90.0, -90.0, 0.0, 0.0]))
    return np.concatenate(ra), np.concatenate(dec)


def add_sources(session: Session, ra: Any, dec: Any) -> tuple[int, NDArray[np.int64]]:
    """A catalog with sources at these positions: (its id, their ids)."""
    catalog = make_catalog(session)
    columns = zip(ra, dec, sky.healpix(ra, dec), strict=True)
    rows = [
        {"catalog_id": catalog.id, "survey_id": str(i), "ra": r, "dec": d, "healpix": h}
        for i, (r, d, h) in enumerate(columns)
    ]
    ids = session.scalars(insert(Source).returning(Source.id, sort_by_parameter_order=True), rows)
    return catalog.id, np.array(ids.all())


def test_the_key_is_the_nested_order_29_cell() -> None:
    assert sky.healpix([45.0], [0.0])[0] >> 58 in range(12)
    assert sky.healpix([10.0], [20.0]).dtype == np.int64
    assert sky.healpix([370.0], [20.0]) == sky.healpix([10.0], [20.0])


@settings(max_examples=200, deadline=None)
@given(right_ascensions, declinations, radii)
def test_ranges_ascend_never_touch_and_hold_the_centre(
    ra: float, dec: float, radius: float
) -> None:
    ranges = sky.cone_ranges(ra, dec, radius)

    assert (ranges[:, 0] <= ranges[:, 1]).all()
    assert (ranges[1:, 0] > ranges[:-1, 1] + 1).all()
    centre = sky.healpix(ra, dec)
    assert ((ranges[:, 0] <= centre) & (centre <= ranges[:, 1])).any()
    assert len(ranges) < 60


def test_a_cone_holds_what_brute_force_finds(session: Session) -> None:
    ra, dec = awkward_positions()
    _, ids = add_sources(session, ra, dec)

    @settings(max_examples=150, deadline=None)
    @given(right_ascensions, declinations, radii)
    @example(0.0, 90.0, 0.0)
    @example(0.0, -90.0, 1.0)
    @example(359.9999999999, 0.0, ARCSEC)
    def check(ra0: float, dec0: float, radius: float) -> None:
        angle = angles(ra, dec, ra0, dec0)

        found = set(session.scalars(select(Source.id).where(sky.cone(ra0, dec0, radius))))

        assert found >= set(ids[angle < radius - EDGE])
        assert found <= set(ids[angle <= radius + EDGE])

    check()


def test_a_radius_of_zero_finds_exactly_the_position(session: Session) -> None:
    _, ids = add_sources(session, [10.0, 10.0, 10.0], [5.0, 5.0 + 1e-9, 5.0])

    found = session.scalars(select(Source.id).where(sky.cone(10.0, 5.0, 0))).all()

    assert set(found) == {ids[0], ids[2]}


def test_every_right_ascension_is_the_same_place_at_a_pole(session: Session) -> None:
    _, ids = add_sources(session, [0.0, 120.0, 77.0], [90.0, 90.0, -90.0])

    found = session.scalars(select(Source.id).where(sky.cone(200.0, 90.0, 0))).all()

    assert set(found) == set(ids[:2])


def test_the_whole_sky_but_the_antipode(session: Session) -> None:
    _, ids = add_sources(session, [180.0, 180.0 + 2 * ARCSEC, 0.0], [0.0, 0.0, 0.0])

    found = session.scalars(select(Source.id).where(sky.cone(0, 0, 180 - ARCSEC))).all()

    assert set(found) == set(ids[1:])


@pytest.mark.parametrize(
    ("cone", "complaint"),
    [
        ((10, 91, 1), "from -90 to 90 degrees, not 91"),
        ((10, 0, -1), "from 0 to 180 degrees, not -1"),
        ((10, 0, 181), "from 0 to 180 degrees, not 181"),
        ((float("nan"), 0, 1), "finite"),
    ],
)
def test_an_impossible_cone_is_refused(cone: tuple[float, float, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        sky.cone(*cone)


def test_the_nearest_source_is_the_nearest_by_brute_force(session: Session) -> None:
    ra, dec = awkward_positions()
    catalog_id, _ = add_sources(session, ra, dec)
    add_sources(session, [33.0], [33.0])

    @settings(max_examples=40, deadline=None)
    @given(right_ascensions, declinations)
    @example(33.0, 33.0)
    def check(ra0: float, dec0: float) -> None:
        source, distance = sky.nearest(session, ra0, dec0, catalog_id) or pytest.fail("none")

        assert source.catalog_id == catalog_id
        assert distance == pytest.approx(angles(ra, dec, ra0, dec0).min(), abs=EDGE)

    check()


def test_an_empty_catalog_has_no_nearest_source(session: Session) -> None:
    add_sources(session, [33.0], [33.0])

    assert sky.nearest(session, 33, 33, make_catalog(session).id) is None


def test_a_cross_match_finds_every_pair_of_brute_force(session: Session) -> None:
    ra, dec = awkward_positions()
    catalog_id, ids = add_sources(session, ra, dec)
    positions = st.lists(
        st.tuples(right_ascensions, declinations, st.floats(0, 80)), min_size=1, max_size=8
    )

    @settings(max_examples=40, deadline=None)
    @given(positions)
    @example([(0.0, 90.0, 2 * ARCSEC), (10.0, 20.0, 3 * ARCSEC), (0.0, 0.0, 0.0)])
    def check(positions: list[tuple[float, float, float]]) -> None:
        ra0, dec0, radius = (np.array(column) for column in zip(*positions, strict=True))

        found = sky.cross_match(session, ra0, dec0, radius, catalog_id)

        pairs = list(zip(found.position.tolist(), found.source_id.tolist(), strict=True))
        angle = angles(ra, dec, ra0[:, None], dec0[:, None])
        sure = np.argwhere(angle < radius[:, None] - EDGE)
        possible = np.argwhere(angle <= radius[:, None] + EDGE)
        assert len(pairs) == len(set(pairs))
        assert set(pairs) >= {(i, ids[j]) for i, j in sure}
        assert set(pairs) <= {(i, ids[j]) for i, j in possible}

    check()


def test_a_cross_match_is_ordered_by_position_and_separation(session: Session) -> None:
    _, ids = add_sources(session, [10.0, 10.0, 50.0], [5.0 + 2 * ARCSEC, 5.0 + ARCSEC, 0.0])

    found = sky.cross_match(session, [50.0, 10.0], [0.0, 5.0], 5 * ARCSEC)

    assert found.position.tolist() == [0, 1, 1]
    assert found.source_id.tolist() == [ids[2], ids[1], ids[0]]
    assert found.separation * 3600 == pytest.approx([0, 1, 2], abs=1e-6)


def test_a_cross_match_of_nothing_is_empty(session: Session) -> None:
    assert len(sky.cross_match(session, [], [], ARCSEC).source_id) == 0


def test_matching_two_catalogs_is_symmetric(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sky, "N_POSITIONS", 100)
    ra, dec = awkward_positions()
    random = np.random.default_rng(3)
    first, _ = add_sources(session, ra, dec)
    near = np.clip(dec + random.normal(0, 2 * ARCSEC, len(dec)), -90, 90)
    second, _ = add_sources(session, ra, near)

    def pairs(a: int, b: int) -> set[tuple[int, int]]:
        batches = sky.match_catalogs(session, a, b, 3 * ARCSEC)
        return {pair for m in batches for pair in zip(m.position, m.source_id, strict=True)}

    there, back = pairs(first, second), pairs(second, first)

    assert len(there) > 300
    assert there == {(a, b) for b, a in back}


@pytest.fixture
def crowded(session: Session) -> Session:
    """Enough sources that a sequential scan would not pay."""
    session.execute(
        text(
            "WITH made AS (INSERT INTO catalog (name, survey, column_map)"
            " VALUES ('many', 'generic', '{}') RETURNING id)"
            ' INSERT INTO source (catalog_id, survey_id, ra, "dec", healpix)'
            " SELECT id, i::text, 0, 0, i * 12 * (4::bigint ^ 29 / 20000)::bigint"
            " FROM made, generate_series(0, 19999) AS i"
        )
    )
    session.execute(text("ANALYZE source"))
    return session


def test_a_cone_is_answered_by_the_index(crowded: Session) -> None:
    query = select(Source.id).where(sky.cone(150.0, 2.0, 10 * ARCSEC))
    sql = query.compile(crowded.connection(), compile_kwargs={"literal_binds": True})

    plan = "\n".join(crowded.scalars(text(f"EXPLAIN {sql}")))

    assert "ix_source_healpix" in plan
    assert "Seq Scan" not in plan


def test_a_cross_match_is_answered_by_the_index(crowded: Session) -> None:
    ra, dec = np.random.default_rng(1).uniform(0, 80, (2, 1000))
    arrays = sky.search_arrays(ra, dec, np.full(1000, ARCSEC))
    statement = text(f"EXPLAIN SELECT near.position FROM {sky.NEAR}")  # noqa: S608

    plan = "\n".join(crowded.scalars(statement, {**arrays, "catalog_id": None}))

    assert "ix_source_healpix" in plan
    assert "Seq Scan" not in plan


def test_a_cone_can_search_an_alias(session: Session) -> None:
    _, ids = add_sources(session, [10.0, 20.0], [5.0, 5.0])
    first, second = aliased(Source), aliased(Source)

    pairs = session.execute(
        select(first.id, second.id)
        .join(second, first.id != second.id)
        .where(sky.cone(10.0, 5.0, ARCSEC, first), sky.cone(20.0, 5.0, ARCSEC, second))
    ).all()

    assert pairs == [(ids[0], ids[1])]
