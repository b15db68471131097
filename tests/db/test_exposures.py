"""Exposures in: files of every kind and damage, all or nothing, exactly once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import sep
from astropy.coordinates import SkyCoord
from astropy.io import fits
from PIL import Image
from sqlalchemy import Engine, RowMapping, text
from sqlalchemy.orm import Session

from db.cutouts import read_block
from db.detection import CcdFlag, corners
from db.exposure_contents import ExposureFlag, examine
from db.exposure_files import ExposureFile, NotAnExposure, facts, name_of, usable_wcs
from db.exposures import SURVEY, CannotIngest, Report, find_files, ingest
from db.sky import healpix
from tests.builders import make_catalog
from tests.db.frames import CARDS, frame, grid_of, wcs_cards, write

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 240.0  # seconds


def bring_in(engine: Engine, root: Path, *files: Path, **options: Any) -> Report:
    return ingest(engine, root, files, "camera", **options)


def rows(engine: Engine, query: str, **values: Any) -> list[RowMapping]:
    with engine.connect() as connection:
        return list(connection.execute(text(query), values).mappings())


def one(engine: Engine, query: str, **values: Any) -> Any:
    (row,) = rows(engine, query, **values)
    return row


def pixels_of(engine: Engine, root: Path, exposure: str) -> dict[str, Any]:
    """Cutouts of an exposure by the identifier of their source."""
    found = rows(
        engine,
        "SELECT s.survey_id, c.position, b.number, cs.store_path FROM exposure AS e"
        " JOIN source AS s ON s.exposure_id = e.id JOIN cutout AS c ON c.source_id = s.id"
        " JOIN cutout_block AS b ON b.id = c.block_id AND b.id = e.block_id"
        " JOIN cutout_set AS cs ON cs.id = b.cutout_set_id WHERE e.name = :name",
        name=exposure,
    )
    block = read_block(root, found[0]["store_path"], found[0]["number"])
    return {row["survey_id"]: block[row["position"]] for row in found}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("1234567p.fits", "1234567p"),
        ("1234567p.fits.fz", "1234567p"),
        ("c4d_1.2.FITS.GZ", "c4d_1.2"),
        ("a.fz", "a"),
        ("b.fit", "b"),
        ("no.ending", "no.ending"),
    ],
)
def test_an_exposure_has_the_name_of_its_file_without_endings(file: str, name: str) -> None:
    assert name_of(Path("/somewhere") / file) == name


@pytest.mark.parametrize("ending", [".fits", ".fits.fz", ".fits.gz"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_pixels_keep_type_and_values_however_they_are_packed(
    tmp_path: Path, ending: str, dtype: str
) -> None:
    ccds = [frame(seed=seed, dtype=dtype) for seed in (1, 2)]
    if ending == ".fits.fz" and dtype == "float32":
        ccds = [np.rint(pixels) for pixels in ccds]  # floats are packed with a loss
    path = write(tmp_path / f"a{ending}", ccds)

    images = list(ExposureFile(path))

    assert [image.name for image in images] == ["CCD00", "CCD01"]
    for image, pixels in zip(images, ccds, strict=True):
        assert image.pixels is not None
        assert image.pixels.dtype.newbyteorder("=") == dtype
        np.testing.assert_allclose(image.pixels, pixels, atol=5 if dtype == "float32" else 0)


def test_overscan_is_left_out_and_places_count_from_the_corner_of_the_image(
    tmp_path: Path,
) -> None:
    x, y = grid_of(200, 128)
    whole = np.full((200, 168), 900, "uint16")
    whole[:, 32:160] = frame()
    path = write(tmp_path / "a.fits", [whole], more={"DATASEC": "[33:160,1:200]"})

    contents = examine(path, 1000, 1)

    distance = np.hypot(contents.sample.x[:, None] - 32 - x, contents.sample.y[:, None] - y)
    assert distance.min(1).max() < 0.3
    assert contents.ccds[0].flags == 0
    assert (contents.ccds[0].width, contents.ccds[0].height) == (168, 200)


@pytest.mark.parametrize("section", ["[57:2104,51:4146]", "[0:0,0:0]", "all of it"])
def test_a_data_section_that_does_not_fit_the_image_is_not_believed(
    tmp_path: Path, section: str
) -> None:
    path = write(tmp_path / "a.fits", [frame()], more={"DATASEC": section})

    (image,) = ExposureFile(path)

    assert image.pixels is not None
    assert image.pixels.shape == (200, 128)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"SIMPLE  =", os.urandom(9000)],
    ids=["empty", "text", "cut", "noise"],
)
def test_what_is_no_fits_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(content)

    with pytest.raises(NotAnExposure, match="does not begin with a FITS header"):
        list(ExposureFile(path))


def test_a_table_is_no_exposure(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(3))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "a.fits")

    with pytest.raises(NotAnExposure, match="images of two axes, but it has none"):
        list(ExposureFile(tmp_path / "a.fits"))


def test_masks_and_weights_are_no_ccds(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU()]
    hdus += [fits.ImageHDU(frame(), name=name) for name in ("IMAGE", "MASK", "VARIANCE")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")

    assert [image.name for image in ExposureFile(tmp_path / "a.fits")] == ["IMAGE"]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        (CARDS, ("MegaPrime", "r", 58000.5, 120.0)),
        (
            {
                "INSTRUME": "DECam",
                "FILTER": "VR DECam c0007 6300.0 2600.0",
                "DATE-OBS": "2017-09-04T12:00:00",
                "EXPTIME": 90,
            },
            ("DECam", "VR", 58000.5, 90.0),
        ),
        (
            {
                "DETECTOR": "E2V",
                "FILTER01": "HSC-G",
                "DATE-OBS": "2017-09-04",
                "UT": "12:00:00.0",
                "EXPOSURE": "30",
            },
            ("E2V", "G", 58000.5, 30.0),
        ),
        ({"EXPTIME": "long", "DATE-OBS": "last night", "FILTER": ""}, (None,) * 4),
    ],
    ids=["MegaCam", "DECam", "other", "nonsense"],
)
def test_facts_are_found_under_their_usual_names(
    cards: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = facts([fits.Header(cards)])

    assert (found.instrument, found.band, found.mjd, found.exposure_time) == expected


@pytest.mark.parametrize(
    "cards",
    [
        {},
        wcs_cards() | {"CTYPE1": "RA---ZPX", "CTYPE2": "DEC--ZPX", "WAT0_001": "system=image"},
        wcs_cards() | {"CD1_1": 0.0, "CD2_2": 0.0},
        wcs_cards() | {"CD1_1": float(np.float32(1e30))},
        wcs_cards() | {"CTYPE1": "WAVE", "CTYPE2": "PIXEL"},
    ],
    ids=["none", "unknown projection", "singular", "huge", "no sky"],
)
def test_a_wcs_that_makes_no_sense_is_none(cards: dict[str, Any]) -> None:
    assert usable_wcs(fits.Header(cards), 128, 200) is None


def test_an_exposure_comes_in_whole(engine: Engine, tmp_path: Path) -> None:
    ccds = [frame(seed=1), frame(seed=2)]
    path = write(tmp_path / "1234567p.fits.fz", ccds)

    report = bring_in(engine, tmp_path / "pixels", path)

    (outcome,) = report.outcomes
    exposure = one(engine, "SELECT * FROM exposure")
    assert (outcome.state, outcome.n_ccds, outcome.flags) == ("new", 2, 0)
    assert (exposure["name"], exposure["instrument"], exposure["band"]) == (
        "1234567p",
        "MegaPrime",
        "r",
    )
    assert (exposure["mjd"], exposure["exposure_time"]) == (58000.5, 120.0)
    assert exposure["pixel_scale"] == pytest.approx(0.184, rel=1e-4)
    assert exposure["header"]["OBJECT"] == "made up"
    assert exposure["path"] == str(path)
    n_stars = 2 * len(grid_of(200, 128)[0])
    assert outcome.n_detected == exposure["n_detected"] == n_stars
    assert 0 < exposure["n_sampled"] < n_stars  # the others are too near to an edge
    assert one(engine, "SELECT n_sources, survey FROM catalog") == {
        "n_sources": exposure["n_sampled"],
        "survey": SURVEY,
    }


def test_ccds_come_with_what_was_measured_on_them(engine: Engine, tmp_path: Path) -> None:
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [frame(seed=1), frame(seed=2)]))

    first, second = rows(engine, "SELECT * FROM ccd ORDER BY number")

    assert (first["name"], first["width"], first["height"], first["flags"]) == (
        "CCD00",
        128,
        200,
        0,
    )
    assert first["background"] == pytest.approx(1000, abs=2)
    assert first["background_rms"] == pytest.approx(10, rel=0.15)
    assert first["fwhm"] == pytest.approx(4, rel=0.1)
    assert first["ellipticity"] < 0.1
    corners_of_second = np.reshape(second["footprint"], (4, 2))
    expected = SkyCoord(150.0, 2.0, unit="deg").spherical_offsets_by(
        -0.184 * (128 * 1.1 - 0.5) / 3600 * u.deg, -0.184 * 0.5 / 3600 * u.deg
    )
    assert corners_of_second[0] == pytest.approx((expected.ra.deg, expected.dec.deg), abs=1e-7)
    sampled = sum(row["n_sampled"] for row in (first, second))
    assert sampled == one(engine, "SELECT count(*) AS n FROM source")["n"]


def test_sources_have_place_position_and_the_pixels_about_them(
    engine: Engine, tmp_path: Path
) -> None:
    ccds = [frame(seed=1), frame(seed=2)]
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", ccds))

    cutouts = pixels_of(engine, tmp_path, "a")

    found = rows(engine, "SELECT * FROM source ORDER BY id")
    assert len(found) == len(cutouts)
    for row in found:
        name, ccd, _ = row["survey_id"].split("/")
        (left,), (bottom,) = corners(np.array([row["x"]]), np.array([row["y"]]))
        window = ccds[row["ccd"]][bottom : bottom + 32, left : left + 32]
        np.testing.assert_array_equal(cutouts[row["survey_id"]][..., 0], window)
        assert (name, int(ccd)) == ("a", row["ccd"])
        assert row["healpix"] == healpix(row["ra"], row["dec"])[0]
        wcs = usable_wcs(fits.Header(wcs_cards(row["ccd"])), 128, 200)
        assert wcs is not None
        there = wcs.world_to_pixel(SkyCoord(row["ra"], row["dec"], unit="deg"))
        assert np.hypot(there[0] - row["x"], there[1] - row["y"]) < 1e-3


def test_the_set_says_what_its_pixels_are(engine: Engine, tmp_path: Path) -> None:
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [frame()]))

    found = one(engine, "SELECT * FROM cutout_set")

    assert (found["name"], found["bands"], found["size"]) == ("r-uint16", ["r"], 32)
    assert (found["dtype"], found["unit"], found["origin"]) == ("uint16", "adu", "exposure")


def test_exposures_of_one_kind_share_a_set_and_others_get_their_own(
    engine: Engine, tmp_path: Path
) -> None:
    def file(name: str, dtype: str = "uint16", scale: float = 1.0, **cards: Any) -> Path:
        steps = {card: wcs_cards()[card] * scale for card in ("CD1_1", "CD2_2")}
        return write(tmp_path / name, [frame(dtype=dtype)], cards=CARDS | cards, more=steps)

    bring_in(
        engine,
        tmp_path,
        file("a.fits"),
        file("b.fits", scale=1.004),  # the camera is a little warmer
        file("c.fits", dtype="float32"),
        file("d.fits", FILTER="g.MP9402"),
        file("e.fits", scale=1.5),  # another camera
    )

    names = rows(
        engine,
        "SELECT e.name, cs.name AS set FROM exposure AS e JOIN cutout_block AS b"
        " ON b.id = e.block_id JOIN cutout_set AS cs ON cs.id = b.cutout_set_id ORDER BY e.name",
    )
    assert [tuple(row.values()) for row in names] == [
        ("a", "r-uint16"),
        ("b", "r-uint16"),
        ("c", "r-float32"),
        ("d", "g-uint16"),
        ("e", "r-uint16-0.28"),
    ]


def test_crowded_exposures_keep_the_number_detected_as_weight(
    engine: Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.fits", [frame(seed=seed) for seed in (1, 2, 3)])

    bring_in(engine, tmp_path, path, n_sample=10)

    exposure = one(engine, "SELECT n_detected, n_sampled FROM exposure")
    ccds = rows(engine, "SELECT n_detected, n_sampled FROM ccd")
    assert exposure == {"n_detected": 3 * len(grid_of(200, 128)[0]), "n_sampled": 10}
    for count in ("n_detected", "n_sampled"):
        assert sum(row[count] for row in ccds) == exposure[count]
    assert one(engine, "SELECT n FROM cutout_block")["n"] == 10


def test_the_sample_depends_on_the_content_alone(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", [frame()])
    samples = []
    for name in ("first", "second"):
        ingest(engine, tmp_path, [path], name, n_sample=5)
        samples.append(
            rows(
                engine,
                "SELECT survey_id FROM source JOIN catalog ON catalog.id = catalog_id"
                " WHERE catalog.name = :name ORDER BY survey_id",
                name=name,
            )
        )

    assert samples[0] == samples[1]


def test_the_preview_shows_the_ccds_where_they_are(engine: Engine, tmp_path: Path) -> None:
    """Two CCDs in a row: the first, in the east, is on the left."""
    bright = frame(flux=200_000.0, stars=(np.array([64.0]), np.array([150.0])))
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [bright, frame(seed=2, flux=0.0)]))

    name = one(engine, "SELECT preview FROM exposure")["preview"]

    with Image.open(tmp_path / name) as picture:
        grey = np.asarray(picture)
    height = 500 * 200 / (2.1 * 128)
    assert grey.dtype == np.dtype("uint8")
    assert grey.shape == (pytest.approx(height, abs=4), 500)
    y, x = np.unravel_index(grey.argmax(), grey.shape)
    assert x == pytest.approx(500 * 64 / (2.1 * 128), abs=15)
    assert y == pytest.approx(height - height * 150 / 200, abs=15)
    assert grey[0].max() > 10  # nothing but the CCDs is in it
    assert grey[:, 250].max() < 10  # between them


def test_an_exposure_without_wcs_has_a_preview_and_sources_without_position(
    engine: Engine, tmp_path: Path
) -> None:
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [frame(), frame(seed=2)], wcs=False))

    exposure = one(engine, "SELECT ra, dec, healpix, flags, preview, n_sampled FROM exposure")
    source = one(
        engine, "SELECT count(*) AS n, count(ra) AS placed, count(x) AS on_ccd FROM source"
    )
    assert (exposure["ra"], exposure["healpix"]) == (None, None)
    assert exposure["flags"] == ExposureFlag.NO_WCS
    assert source == {"n": exposure["n_sampled"], "placed": 0, "on_ccd": exposure["n_sampled"]}
    assert {row["flags"] for row in rows(engine, "SELECT flags FROM ccd")} == {CcdFlag.NO_WCS}
    width, height = Image.open(BytesIO((tmp_path / exposure["preview"]).read_bytes())).size
    assert (width, height) == (500, round(500 * 200 / (2.04 * 128)))
    listed = one(engine, "SELECT count(*) AS n FROM annotated_source WHERE ra IS NULL")
    assert listed["n"] == exposure["n_sampled"]


def test_a_single_extension_file_is_an_exposure_of_one_ccd(engine: Engine, tmp_path: Path) -> None:
    header = fits.Header(CARDS | wcs_cards())
    fits.PrimaryHDU(frame(), header=header).writeto(tmp_path / "a.fits")
    packed = fits.CompImageHDU(frame(seed=2), header=header)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "b.fits.fz")

    bring_in(engine, tmp_path, tmp_path / "a.fits", tmp_path / "b.fits.fz")

    for row in rows(engine, "SELECT * FROM exposure"):
        assert (row["n_ccds"], row["flags"], row["band"]) == (1, 0, "r")
        assert row["header"]["OBJECT"] == "made up"
        assert row["n_sampled"] > 0


def test_damage_to_a_ccd_is_its_flag_and_the_others_are_searched(
    engine: Engine, tmp_path: Path
) -> None:
    dead = frame(dtype="float32")
    dead[:, :61] = 0
    blank = np.full((200, 128), np.nan, "float32")
    good = frame(dtype="float32")
    path = write(tmp_path / "a.fits", [dead, blank, good])

    report = bring_in(engine, tmp_path, path)

    flags = [row["flags"] for row in rows(engine, "SELECT flags FROM ccd ORDER BY number")]
    nothing = CcdFlag.NO_SIGNAL | CcdFlag.VALUES_MISSING | CcdFlag.NOTHING_DETECTED
    assert flags == [CcdFlag.PARTLY_DEAD, nothing, 0]
    assert report.outcomes[0].n_ccds_flagged == 2
    assert one(engine, "SELECT flags FROM exposure")["flags"] == ExposureFlag.SOME_UNUSABLE
    sampled = rows(engine, "SELECT ccd, min(x) AS left FROM source GROUP BY ccd ORDER BY ccd")
    assert [row["ccd"] for row in sampled] == [0, 2]
    assert sampled[0]["left"] > 58


def test_pixels_beyond_32_bits_have_no_value(engine: Engine, tmp_path: Path) -> None:
    pixels = frame(dtype="float64")
    pixels[100, 64] = 1e300

    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [pixels]))

    found = one(engine, "SELECT flags, background, n_detected FROM ccd")
    assert found["flags"] == CcdFlag.VALUES_MISSING
    assert 900 < found["background"] < 1100
    assert found["n_detected"] > 20
    assert all(np.isfinite(each).mean() > 0.9 for each in pixels_of(engine, tmp_path, "a").values())


def test_a_ccd_that_detection_fails_on_does_not_cost_the_others_anything(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background, calls = sep.Background, []

    def fail_second(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Exception("internal error")
        return background(*arguments, **options)

    monkeypatch.setattr(sep, "Background", fail_second)
    path = write(tmp_path / "a.fits", [frame(seed=seed) for seed in (1, 2, 3)])

    report = bring_in(engine, tmp_path, path)

    flags = [row["flags"] for row in rows(engine, "SELECT flags FROM ccd ORDER BY number")]
    assert flags == [0, CcdFlag.UNREADABLE | CcdFlag.NOTHING_DETECTED, 0]
    assert report.outcomes[0].problems == ["CCD01: cannot be searched: internal error"]


def test_a_file_that_a_library_stumbles_over_does_not_keep_the_others_out(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = Image.Image.save, []

    def fail_first(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no such picture")
        save(*arguments, **options)

    monkeypatch.setattr(Image.Image, "save", fail_first)
    files = [write(tmp_path / f"{name}.fits", [frame()]) for name in "ab"]

    report = bring_in(engine, tmp_path, *files)

    assert [outcome.state for outcome in report.outcomes] == ["rejected", "new"]
    assert report.outcomes[0].reason == "not understood (ValueError: no such picture)"


def test_an_extension_that_does_not_unpack_is_flagged(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits.fz", [frame(seed=seed) for seed in (1, 2, 3)])
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[2].fileinfo()["datLoc"]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 2880)

    report = bring_in(engine, tmp_path, path)

    flags = [row["flags"] for row in rows(engine, "SELECT flags FROM ccd ORDER BY number")]
    assert flags == [0, CcdFlag.UNREADABLE | CcdFlag.NOTHING_DETECTED, 0]
    assert report.outcomes[0].problems[0].startswith("CCD01: ")


def test_a_damaged_header_is_noticed_where_nothing_says_how_many_there_are(
    engine: Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.fits", [frame(seed=seed) for seed in (1, 2, 3)])
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["NEXTEND"]
    with fits.open(path) as hdus:
        start = hdus[2].fileinfo()["hdrLoc"]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 2880)

    report = bring_in(engine, tmp_path, path)

    assert one(engine, "SELECT flags FROM exposure")["flags"] == ExposureFlag.SOME_UNUSABLE
    assert report.outcomes[0].problems == [
        f"unreadable near byte {start + 2880:,}: no header of FITS"
    ]
    assert len(rows(engine, "SELECT number FROM ccd")) == 1


def test_zeros_after_the_last_extension_are_no_damage(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", [frame()])
    path.write_bytes(path.read_bytes() + bytes(3 * 2880))

    report = bring_in(engine, tmp_path, path)

    assert (report.outcomes[0].state, report.outcomes[0].problems) == ("new", [])


@pytest.mark.parametrize("ending", [".fits", ".fits.fz", ".fits.gz"])
def test_a_file_that_is_cut_short_keeps_the_ccds_before_the_cut(
    engine: Engine, tmp_path: Path, ending: str
) -> None:
    whole = write(tmp_path / f"a{ending}", [frame(seed=seed) for seed in (1, 2, 3)])
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * 0.5)])

    report = bring_in(engine, tmp_path, whole)

    found = rows(engine, "SELECT flags FROM ccd ORDER BY number")
    assert [row["flags"] for row in found] == [
        0,
        CcdFlag.UNREADABLE | CcdFlag.NOTHING_DETECTED,
    ]
    assert one(engine, "SELECT flags FROM exposure")["flags"] == ExposureFlag.SOME_UNUSABLE
    assert report.outcomes[0].problems == [
        report.outcomes[0].problems[0],
        "1 of the extensions announced are not in the file",
    ]
    assert "cut short" in report.outcomes[0].problems[0]


def test_an_exposure_on_which_nothing_is_usable_is_kept_without_a_block(
    engine: Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.fits", [np.zeros((64, 64), "uint16")], cards={"OBJECT": "bias"})

    bring_in(engine, tmp_path, path)

    row = one(engine, "SELECT n_detected, n_sampled, block_id, flags, preview FROM exposure")
    expected = ExposureFlag.NOTHING_DETECTED | ExposureFlag.NONE_USABLE | ExposureFlag.FACTS_MISSING
    assert (row["n_detected"], row["n_sampled"], row["block_id"]) == (0, 0, None)
    assert row["flags"] == expected
    assert (tmp_path / row["preview"]).exists()


def test_the_same_file_again_adds_nothing(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", [frame()])
    bring_in(engine, tmp_path, path)
    before = rows(engine, "SELECT id FROM source ORDER BY id")

    report = bring_in(engine, tmp_path, path, n_sample=3)

    assert [outcome.state for outcome in report.outcomes] == ["known"]
    assert rows(engine, "SELECT id FROM source ORDER BY id") == before


def test_another_content_of_the_same_name_is_refused(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", [frame()])
    bring_in(engine, tmp_path, path)
    path.unlink()
    write(path, [frame(seed=2)])

    report = bring_in(engine, tmp_path, path)

    assert report.outcomes[0].state == "rejected"
    assert f"other content, which came from {path}" in report.outcomes[0].reason
    assert "--name" in report.outcomes[0].reason
    assert one(engine, "SELECT count(*) AS n FROM exposure")["n"] == 1


def test_a_file_that_is_no_exposure_does_not_keep_the_others_out(
    engine: Engine, tmp_path: Path
) -> None:
    bad = tmp_path / "a.fits"
    bad.write_text("no FITS")
    good = write(tmp_path / "b.fits", [frame()])

    report = bring_in(engine, tmp_path, bad, good, tmp_path / "not there.fits")

    assert {outcome.name: outcome.state for outcome in report.outcomes} == {
        "a": "rejected",
        "b": "new",
        "not there": "rejected",
    }


def test_exposures_do_not_go_into_the_catalog_of_something_else(
    engine: Engine, tmp_path: Path
) -> None:
    with Session(engine) as session, session.begin():
        make_catalog(session, name="camera", survey="legacy")
    path = write(tmp_path / "a.fits", [frame()])

    with pytest.raises(CannotIngest, match="'legacy', not of exposures"):
        bring_in(engine, tmp_path, path)
    with pytest.raises(CannotIngest, match="kept for images uploaded"):
        ingest(engine, tmp_path, [path], "uploads")


def test_folders_are_searched_and_files_that_are_named_are_taken(tmp_path: Path) -> None:
    inside = tmp_path / "night" / "1"
    inside.mkdir(parents=True)
    for name in ("b.fits.fz", "a.fits", "c.txt", ".d.fits"):
        (inside / name).touch()

    found = find_files([tmp_path / "night", inside / "c.txt", inside / "a.fits"])

    assert [path.name for path in found] == ["a.fits", "b.fits.fz", "c.txt"]


def test_a_folder_without_exposures_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CannotIngest, match="expected files that end in"):
        find_files([tmp_path])


def counts(engine: Engine) -> dict[str, Any]:
    return dict(
        one(
            engine,
            "SELECT (SELECT count(*) FROM exposure) AS exposures,"
            " (SELECT sum(n_sampled) FROM exposure) = (SELECT count(*) FROM source) AS all_sources,"
            " (SELECT n_sources FROM catalog) = (SELECT count(*) FROM source) AS counted,"
            " (SELECT count(*) FROM cutout) = (SELECT count(*) FROM source) AS all_cutouts,"
            " (SELECT count(*) FROM cutout_block) AS blocks,"
            " (SELECT count(*) FROM ccd) AS ccds",
        )
    )


WHOLE = {"all_sources": True, "counted": True, "all_cutouts": True}


def test_several_processes_share_the_files(engine: Engine, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.fits", [frame(seed=n)]) for n in range(4)]

    report = bring_in(engine, tmp_path / "pixels", *files, processes=2)

    assert [outcome.state for outcome in report.outcomes] == ["new"] * 4
    assert counts(engine) == {"exposures": 4, "blocks": 4, "ccds": 4} | WHOLE
    assert len(pixels_of(engine, tmp_path / "pixels", "3")) > 0


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Start ingests of a folder in processes of their own, and leave none behind."""
    with ExitStack() as started:

        def start_one(folder: Path) -> subprocess.Popen:
            words = ["ingest", "exposures", str(folder), "--name", "camera"]
            process = subprocess.Popen([sys.executable, "-m", "cli", *words], cwd=REPOSITORY)
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start_one


def test_two_ingests_of_one_folder_bring_everything_in_once(
    engine: Engine, start: Callable[[Path], subprocess.Popen], tmp_path: Path
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    for n in range(4):
        write(folder / f"{n}.fits.fz", [frame(seed=n)])

    both = [start(folder) for _ in range(2)]
    exit_codes = [process.wait(PATIENCE) for process in both]

    assert exit_codes == [0, 0]
    assert counts(engine) == {"exposures": 4, "blocks": 4, "ccds": 4} | WHOLE


def test_killed_before_the_commit_and_begun_again_everything_is_in_once(
    engine: Engine,
    start: Callable[[Path], subprocess.Popen],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    for n in range(3):
        write(folder / f"{n}.fits", [frame(seed=n)])
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF (SELECT count(*) FROM exposure) > 1 THEN PERFORM pg_sleep(2); END IF;"
                " RETURN NULL; END $$;"
                "CREATE TRIGGER dawdle AFTER INSERT ON cutout EXECUTE FUNCTION dawdle()"
            )
        )
    process = start(folder)
    give_up = time.monotonic() + PATIENCE
    asleep = (
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    while not one(engine, asleep)["n"]:
        assert time.monotonic() < give_up
        assert process.poll() is None
        time.sleep(0.02)

    process.kill()
    process.wait(PATIENCE)
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER dawdle ON cutout"))  # waits for what was killed
    after = counts(engine)
    root = Path(environment["SKYGLOSS_HOME"]) / "pixels"
    report = bring_in(engine, root, *sorted(folder.iterdir()))

    assert process.returncode == -signal.SIGKILL
    assert after == {"exposures": 1, "blocks": 1, "ccds": 1} | WHOLE
    assert [outcome.state for outcome in report.outcomes] == ["known", "new", "new"]
    assert counts(engine) == {"exposures": 3, "blocks": 3, "ccds": 3} | WHOLE
    for n in range(3):
        cutouts = pixels_of(engine, root, str(n))
        assert all(cutout.max() > 1000 for cutout in cutouts.values())


def test_a_deleted_catalog_takes_its_exposures_along(engine: Engine, tmp_path: Path) -> None:
    bring_in(engine, tmp_path, write(tmp_path / "a.fits", [frame()]))

    with engine.begin() as connection:
        connection.execute(text("DELETE FROM catalog"))

    for table in ("exposure", "ccd", "source", "cutout"):
        assert one(engine, f"SELECT count(*) AS n FROM {table}")["n"] == 0  # noqa: S608
