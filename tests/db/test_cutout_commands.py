"""`skygloss ingest cutouts`: one of three origins, a report, errors in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from cli import main
from db.engine import create_engine
from db.tables import Cutout, CutoutSet
from tests.builders import make_catalog, make_source
from tests.db.test_cutout_mosaic import make_image, make_wcs, save
from tests.db.test_cutout_service import Viewer, viewer  # noqa: F401 (a fixture)


@pytest.fixture
def catalog(environment: dict[str, str]) -> str:
    """A catalog of three sources in the middle of the mosaic's field."""
    engine = create_engine()
    with Session(engine) as session, session.begin():
        catalog = make_catalog(session, name="field", n_sources=3)
        for k in range(3):
            make_source(session, catalog, 150.0, 2.0 + k * 1e-3, survey_id=str(k))
    engine.dispose()
    return "field"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(2):
        Image.fromarray(np.full((8, 8, 3), k + 1, "uint8")).save(folder / f"{k}_grz.png")
    return folder


def ingest_cutouts(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ingest", "cutouts", *map(str, arguments)])


def report(*arguments: object) -> dict[str, Any]:
    result = ingest_cutouts(*arguments, "--json")
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def stored_sets() -> list[CutoutSet]:
    with Session(create_engine()) as session:
        return list(session.scalars(select(CutoutSet)))


def test_a_folder_is_ingested_and_reported(catalog: str, pictures: Path) -> None:
    found = report(catalog, "--folder", pictures)

    assert (found["n_new"], found["n_flagged"]) == (3, {"no_image": 1})
    assert found["problems"] == [["2", "no image"]]
    (cutout_set,) = stored_sets()
    assert (cutout_set.name, cutout_set.bands, cutout_set.size) == ("folder", ["z", "r", "g"], 8)


def test_the_summary_names_what_is_wrong_with_which_source(catalog: str, pictures: Path) -> None:
    (pictures / "2_grz.png").write_text("broken")

    result = ingest_cutouts(catalog, "--folder", pictures)

    assert result.exit_code == 0
    assert "flagged unreadable" in result.output
    assert "2: 2_grz.png: cannot identify image file" in result.output


def test_retry_takes_up_images_that_were_missing(catalog: str, pictures: Path) -> None:
    report(catalog, "--folder", pictures)
    Image.fromarray(np.full((8, 8, 3), 9, "uint8")).save(pictures / "2.png")

    found = report(catalog, "--folder", pictures, "--retry")

    assert (found["n_new"], found["n_refilled"], found["n_present"]) == (0, 1, 2)
    with Session(create_engine()) as session:
        assert session.scalars(select(Cutout.flags)).all() == [0, 0, 0]


def test_a_mosaic_is_cut_in_the_bands_that_were_asked_for(catalog: str, tmp_path: Path) -> None:
    g = save(tmp_path / "g.fits", make_image(), make_wcs(), FILTER="g")
    r = save(tmp_path / "r.fits", make_image(), make_wcs(), compressed=True, FILTER="r")

    found = report(catalog, "--mosaic", g, "--mosaic", r, "--bands", "rg", "--size", 12)

    assert found["n_flagged"] == {}
    assert found["layout"] == {
        "bands": ["r", "g"],
        "size": 12,
        "pixel_scale": 0.5,
        "dtype": "float32",
        "unit": "adu",
    }


def test_a_service_is_asked_at_the_address_given(
    catalog: str,
    viewer: Viewer,  # noqa: F811 (the fixture)
) -> None:
    found = report(
        catalog, "--service", "legacy", "--base-url", viewer.address, "--size", 16, "--rate", 100
    )

    assert (found["cutout_set"], found["n_new"]) == ("legacy", 3)
    assert len(viewer.asked) == 3
    assert found["layout"]["bands"] == ["g", "r", "z"]


@pytest.mark.parametrize("arguments", [(), ("--service", "legacy", "--mosaic", __file__)])
def test_none_or_two_origins_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = ingest_cutouts("field", *arguments)

    assert result.exit_code == 2
    assert "exactly one of --folder, --mosaic and --service" in result.output


def test_an_unknown_catalog_is_an_error_in_words(catalog: str, pictures: Path) -> None:
    result = ingest_cutouts("nowhere", "--folder", pictures)

    assert result.exit_code == 1
    assert "no catalog 'nowhere'; the database has: field" in result.output
