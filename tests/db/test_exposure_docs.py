"""docs/exposures.md: its queries run as they stand there, its tables leave nothing out."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from db import exposure_files, sky
from db.detection import CcdFlag
from db.exposure_contents import ExposureFlag
from db.tables import Ccd
from tests.builders import make_catalog, make_exposure

PAGE = (Path(__file__).parents[2] / "docs/exposures.md").read_text()
QUERIES = {
    int(number): query
    for number, query in re.findall(r"^### (\d+)\..*?```sql\n(.*?)```", PAGE, re.M | re.S)
}


@pytest.fixture(autouse=True)
def night(session: Session) -> None:
    """A good exposure, a blurred one with a dead amplifier, and a crowded one elsewhere."""
    catalog = make_catalog(session, survey="exposure")

    def add(name: str, fwhm: float, ra: float, dec: float, flags: int = 0, **values: Any) -> None:
        facts = {"mjd": 58000.5, "band": "r", "exposure_time": 100.0, "pixel_scale": 0.2}
        place = {"ra": ra, "dec": dec, "healpix": int(sky.healpix(ra, dec)[0])}
        exposure = make_exposure(session, 2, catalog, name=name, **(facts | place | values))
        for number in range(3):
            session.add(
                Ccd(
                    exposure_id=exposure.id,
                    number=number,
                    name=f"ccd{number:02d}",
                    width=100,
                    height=200,
                    background=1000.0,
                    background_rms=10.0,
                    fwhm=fwhm,
                    ellipticity=0.1,
                    n_detected=1,
                    n_sampled=1,
                    flags=flags if number == 1 else 0,
                )
            )
        session.flush()

    add("sharp", 4.0, 150.1, 2.1)
    add("blurred", 8.0, 150.3, 1.9, flags=4, mjd=58010.5)
    add("crowded", 5.0, 200.0, 2.0, band="g", n_detected=20)


def run(session: Session, number: int) -> list[RowMapping]:
    """Execute a query of the page exactly as a user would paste it."""
    return list(session.connection().exec_driver_sql(QUERIES[number]).mappings())


def test_the_page_has_five_queries() -> None:
    assert sorted(QUERIES) == list(range(1, 6))


def test_1_finds_the_blurred_nights(session: Session) -> None:
    (row,) = run(session, 1)

    assert (row["name"], str(row["night"])) == ("blurred", "2017-09-14")
    assert row["fwhm_arcsec"] == pytest.approx(1.6)


def test_2_finds_dead_amplifiers(session: Session) -> None:
    (row,) = run(session, 2)

    assert (row["name"], row["first_seen"], row["exposures"]) == ("ccd01", 58010.5, 1)


def test_3_finds_the_exposures_near_a_place(session: Session) -> None:
    assert [row["name"] for row in run(session, 3)] == ["sharp", "blurred"]


def test_4_averages_the_sky_of_clean_ccds(session: Session) -> None:
    rows = {row["band"]: row for row in run(session, 4)}

    assert {band: row["exposures"] for band, row in rows.items()} == {"g": 1, "r": 2}
    assert rows["r"]["counts_per_second"] == pytest.approx(10.0)


def test_5_finds_what_is_crowded(session: Session) -> None:
    (row,) = run(session, 5)

    assert (row["name"], row["weight"]) == ("crowded", 10.0)


@pytest.mark.parametrize(
    ("flags", "heading"), [(CcdFlag, "`ccd.flags`"), (ExposureFlag, "`exposure.flags`")]
)
def test_the_page_explains_every_flag(flags: Any, heading: str) -> None:
    table = PAGE.split(heading)[1].split("\n\n")[0]

    assert [int(bit) for bit in re.findall(r"^\| (\d+) \|", table, re.M)] == [
        flag.value for flag in flags
    ]


def test_the_page_names_every_keyword() -> None:
    kinds = ("INSTRUMENT", "FILTER", "MJD", "DATE", "TIME", "EXPOSURE_TIME", "SCALE", "NAME")
    keywords = [word for kind in kinds for word in getattr(exposure_files, kind)]

    assert [word for word in keywords if f"`{word}`" not in PAGE] == []
