"""Folders of cutouts: files find their sources, and one bad file spoils nothing but itself."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from PIL import Image
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db.annotations import lacks_row
from db.cutout_folder import PATTERN, Folder
from db.cutout_ingest import NothingToRead, Report, Target, ingest
from db.cutouts import CutoutFlag, IncompatibleSet, read_one
from db.tables import Catalog, Cutout, CutoutBlock, CutoutSet, Shred, Source
from tests.builders import make_catalog, make_run, make_shred, make_source

SIZE = 8
LEGACY = Path(__file__).parents[2].parent / "shared/data/legacy_cutouts"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def new_catalog(engine: Engine, n: int = 3, survey_ids: list[str] | None = None) -> Catalog:
    """A catalog whose sources are called 100, 101, …"""
    names = survey_ids or [str(100 + k) for k in range(n)]
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = make_catalog(session, name="field", n_sources=len(names))
        for k, survey_id in enumerate(names):
            make_source(session, catalog, dec=2 + k / 360, survey_id=survey_id)
        return catalog


def picture(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path


def save_fits(path: Path, cube: np.ndarray, compressed: bool = False, **header: object) -> None:
    """Write (b, h, w) pixels, 0.4 arcsec each."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cdelt = [-0.4 / 3600, 0.4 / 3600]
    cards = wcs.to_header()
    cards.update(header)
    if compressed:
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(cube, cards, quantize_level=0)]
    else:
        hdus = [fits.PrimaryHDU(cube, cards)]
    fits.HDUList(hdus).writeto(path)


def load(
    engine: Engine, root: Path, folder: Path, retry: bool = False, **options: object
) -> Report:
    return ingest(engine, root, "field", "set", Folder(folder, **options), retry)  # type: ignore[arg-type]


def flags(engine: Engine) -> dict[str, int]:
    statement = select(Source.survey_id, Cutout.flags).join(Cutout)
    with Session(engine) as session:
        return {row.survey_id: row.flags for row in session.execute(statement)}


def pixels_of(engine: Engine, root: Path, survey_id: str) -> np.ndarray:
    statement = (
        select(CutoutSet.store_path, CutoutBlock.number, Cutout.position)
        .join(CutoutBlock, CutoutBlock.cutout_set_id == CutoutSet.id)
        .join(Cutout, Cutout.block_id == CutoutBlock.id)
        .join(Source, Source.id == Cutout.source_id)
        .where(Source.survey_id == survey_id)
    )
    with Session(engine) as session:
        return read_one(root, *session.execute(statement).one())


def test_each_source_gets_the_pixels_of_the_file_that_bears_its_id(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    for k in range(3):
        save(folder, f"{100 + k}_grz.png", picture(k))

    report = load(engine, tmp_path, folder)

    assert (report.n_new, report.problems) == (3, [])
    for k in range(3):
        np.testing.assert_array_equal(pixels_of(engine, tmp_path, str(100 + k)), picture(k)[::-1])


def test_a_picture_is_stored_with_its_lowest_row_first_as_in_fits(folder: Path) -> None:
    pixels = picture()
    save(folder, "1.png", pixels)

    reading = next(Folder(folder).read([Target(1, "1", 0.0, 0.0, 0)]))

    assert reading.pixels is not None
    np.testing.assert_array_equal(reading.pixels[0], pixels[-1])


def test_png_cutouts_are_taken_for_pictures_of_the_legacy_viewer(folder: Path) -> None:
    save(folder, "1_grz.png", picture())

    layout = Folder(folder).layout

    assert (layout.bands, layout.pixel_scale, layout.unit) == (("z", "r", "g"), 0.262, "display")


def test_an_id_is_not_mistaken_for_the_beginning_of_a_longer_one(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, survey_ids=["12", "123"])
    save(folder, "123_grz.png", picture())

    load(engine, tmp_path, folder)

    assert flags(engine) == {"12": CutoutFlag.NO_IMAGE, "123": 0}


def test_files_in_subfolders_and_with_capitals_are_found(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, survey_ids=["ab-1"])
    (folder / "deep/er").mkdir(parents=True)
    save(folder / "deep/er", "AB-1.PNG", picture())

    load(engine, tmp_path, folder)

    assert flags(engine) == {"ab-1": 0}


def test_a_pattern_can_put_text_before_the_id(engine: Engine, tmp_path: Path, folder: Path) -> None:
    new_catalog(engine, survey_ids=["7"])
    save(folder, "cutout-7-final.png", picture(1))
    save(folder, "7.png", picture(2))

    load(engine, tmp_path, folder, pattern="cutout-{id}-*.png")

    np.testing.assert_array_equal(pixels_of(engine, tmp_path, "7"), picture(1)[::-1])


def test_a_pattern_without_an_id_is_explained(folder: Path) -> None:
    with pytest.raises(NothingToRead, match=r"'\*\.png' must hold \{id\}"):
        Folder(folder, pattern="*.png")


def test_two_files_for_one_source_are_reported_instead_of_guessed(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 2)
    save(folder, "100_a.png", picture())
    save(folder, "100_b.png", picture())
    save(folder, "101.png", picture())

    report = load(engine, tmp_path, folder)

    assert flags(engine) == {"100": CutoutFlag.UNREADABLE, "101": 0}
    assert "2 files match" in report.problems[0][1]


def test_damaged_files_are_flagged_and_the_others_are_kept(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 6)
    for k in range(6):
        save(folder, f"{100 + k}.png", picture(k))
    whole = (folder / "101.png").read_bytes()
    (folder / "101.png").write_bytes(whole[: len(whole) // 2])
    (folder / "102.png").write_bytes(b"")
    (folder / "103.png").write_text("not a picture")
    save(folder, "104.png", picture(4, size=2 * SIZE))

    report = load(engine, tmp_path, folder)

    bad = dict.fromkeys(["101", "102", "103", "104"], int(CutoutFlag.UNREADABLE))
    assert flags(engine) == {"100": 0, "105": 0, **bad}
    assert report.n_flagged == {"unreadable": 4}
    assert {survey_id for survey_id, _ in report.problems} == set(bad)
    for k in (0, 5):
        np.testing.assert_array_equal(pixels_of(engine, tmp_path, str(100 + k)), picture(k)[::-1])


def test_a_cutout_of_another_size_is_refused_with_both_sizes(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    save(folder, "100.png", picture())
    save(folder, "101.png", picture())
    save(folder, "102.png", picture(size=SIZE // 2))

    report = load(engine, tmp_path, folder)

    assert "(8, 8, 3)" in report.problems[0][1]
    assert "(4, 4, 3)" in report.problems[0][1]


def test_an_image_that_would_unpack_to_gigabytes_is_not_unpacked(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    save(folder, "100.png", picture())
    save(folder, "101.png", picture())
    Image.new("L", (13_000, 14_000)).save(folder / "102.png")

    load(engine, tmp_path, folder)

    assert flags(engine) == {"100": 0, "101": 0, "102": CutoutFlag.UNREADABLE}


def test_a_fits_image_that_is_too_large_is_neither_read_nor_unpacked(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 4)
    for name in ("100.fits", "101.fits"):
        save_fits(folder / name, np.ones((SIZE, SIZE), "f4"), FILTER="r")
    with open(folder / "102.fits", "wb") as file:
        file.truncate(20 * 2**30)
    save_fits(folder / "103.fits.fz", np.zeros((5000, 64), "i2"), compressed=True, FILTER="r")

    report = load(engine, tmp_path, folder)

    bad = dict.fromkeys(["102", "103"], int(CutoutFlag.UNREADABLE))
    assert flags(engine) == {"100": 0, "101": 0, **bad}
    reasons = dict(report.problems)
    assert "expected at most 536870912 bytes, but it has 21474836480" in reasons["102"]
    assert "expected at most 8 pixels on a side" in reasons["103"]
    assert "64 x 5000 pixels" in reasons["103"]


def test_a_source_without_a_file_is_flagged_and_listed(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 2)
    save(folder, "100.png", picture())

    report = load(engine, tmp_path, folder)

    assert flags(engine) == {"100": 0, "101": CutoutFlag.NO_IMAGE}
    assert report.problems == [("101", "no image")]


def test_fits_cutouts_bring_bands_scale_unit_and_type_of_their_own(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 1)
    cube = np.arange(3 * SIZE * SIZE, dtype="f4").reshape(3, SIZE, SIZE)
    save_fits(folder / "100.fits", cube, BANDS="grz")

    layout = load(engine, tmp_path, folder).layout

    assert (layout.bands, layout.unit, layout.dtype) == (("g", "r", "z"), "nanomaggy", "float32")
    assert layout.pixel_scale == pytest.approx(0.4)
    np.testing.assert_array_equal(pixels_of(engine, tmp_path, "100"), np.moveaxis(cube, 0, -1))


def test_compressed_fits_cutouts_are_read(engine: Engine, tmp_path: Path, folder: Path) -> None:
    new_catalog(engine, 1)
    plane = np.arange(SIZE * SIZE, dtype="i2").reshape(SIZE, SIZE)
    save_fits(folder / "100.fits.fz", plane, compressed=True, FILTER="r DECam", BUNIT="ADU")

    layout = load(engine, tmp_path, folder).layout

    assert (layout.bands, layout.unit, layout.dtype) == (("r",), "adu", "int16")
    np.testing.assert_array_equal(pixels_of(engine, tmp_path, "100")[..., 0], plane)


def test_a_fits_cutout_with_other_bands_than_the_set_is_flagged(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    for survey_id, bands in (("100", "grz"), ("101", "grz"), ("102", "gri")):
        save_fits(folder / f"{survey_id}.fits", np.zeros((3, SIZE, SIZE), "f4"), BANDS=bands)

    report = load(engine, tmp_path, folder)

    assert flags(engine)["102"] == CutoutFlag.UNREADABLE
    assert "expected bands g, r, z, but its header says g, r, i" in report.problems[0][1]


def test_a_truncated_fits_file_is_flagged(engine: Engine, tmp_path: Path, folder: Path) -> None:
    new_catalog(engine, 2)
    for survey_id in ("100", "101"):
        save_fits(folder / f"{survey_id}.fits", np.zeros((3, 64, 64), "f4"), BANDS="grz")
    whole = (folder / "101.fits").read_bytes()
    (folder / "101.fits").write_bytes(whole[: len(whole) // 2])

    with pytest.warns(AstropyUserWarning, match="truncated"):
        report = load(engine, tmp_path, folder)

    assert flags(engine) == {"100": 0, "101": CutoutFlag.UNREADABLE}
    assert "cut short" in report.problems[0][1]


def test_doing_it_again_changes_nothing(engine: Engine, tmp_path: Path, folder: Path) -> None:
    new_catalog(engine, 3)
    save(folder, "100.png", picture())
    load(engine, tmp_path, folder)

    again = load(engine, tmp_path, folder)

    assert (again.n_new, again.n_present) == (0, 3)
    with Session(engine) as session:
        assert session.scalars(select(func.count()).select_from(CutoutBlock)).one() == 1


def test_sources_added_later_get_their_cutouts_later(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    catalog = new_catalog(engine, 1)
    save(folder, "100.png", picture())
    save(folder, "late.png", picture(9))
    load(engine, tmp_path, folder)
    with Session(engine) as session, session.begin():
        make_source(session, session.merge(catalog), survey_id="late")

    report = load(engine, tmp_path, folder)

    assert report.n_new == 1
    np.testing.assert_array_equal(pixels_of(engine, tmp_path, "late"), picture(9)[::-1])


def test_retry_fills_what_was_missing_and_lets_workers_look_again(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    save(folder, "100.png", picture(0))
    (folder / "101.png").write_bytes(b"broken")
    load(engine, tmp_path, folder)
    with Session(engine) as session, session.begin():
        run = make_run(session)
        version_id = run.model_version_id
        seen = {
            "100": (0.2, 0),
            "101": (None, CutoutFlag.UNREADABLE),
            "102": (None, CutoutFlag.NO_IMAGE),
        }
        for source in session.scalars(select(Source)).all():
            p_shred, flag = seen[source.survey_id]
            make_shred(session, source, run, p_shred=p_shred, flags=flag)
    save(folder, "101.png", picture(1))

    report = load(engine, tmp_path, folder, retry=True)

    assert (report.n_new, report.n_refilled) == (0, 1)
    assert flags(engine) == {"100": 0, "101": 0, "102": CutoutFlag.NO_IMAGE}
    np.testing.assert_array_equal(pixels_of(engine, tmp_path, "101"), picture(1)[::-1])
    with Session(engine) as session:
        waiting = select(Source.survey_id).join(Cutout).where(lacks_row(Shred, version_id))
        assert session.scalars(waiting).all() == ["101"]


def test_retry_without_new_files_changes_nothing(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 2)
    save(folder, "100.png", picture())
    load(engine, tmp_path, folder)

    report = load(engine, tmp_path, folder, retry=True)

    assert (report.n_new, report.n_refilled) == (0, 0)
    assert report.n_flagged == {"no_image": 1}
    with Session(engine) as session:
        assert session.scalars(select(func.count()).select_from(CutoutBlock)).one() == 1


def test_a_folder_of_other_sources_is_refused_before_anything_is_flagged(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 2)
    save(folder, "999.png", picture())

    with pytest.raises(NothingToRead, match=r"none of the 2 waiting .*'100'"):
        load(engine, tmp_path, folder)

    assert flags(engine) == {}


def test_an_empty_folder_is_explained(folder: Path) -> None:
    with pytest.raises(NothingToRead, match="no files at all"):
        Folder(folder)


def test_an_unknown_catalog_is_named_with_those_there_are(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 1)
    save(folder, "100.png", picture())

    with pytest.raises(NothingToRead, match=r"no catalog 'nowhere'; the database has: field"):
        ingest(engine, tmp_path, "nowhere", "set", Folder(folder))


def test_another_kind_of_cutout_wants_another_set(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 1)
    save(folder, "100.png", picture())
    load(engine, tmp_path, folder)

    with pytest.raises(IncompatibleSet, match=r"pixel scale 0\.262 there, 0\.5 now"):
        load(engine, tmp_path, folder, pixel_scale=0.5)


def test_progress_is_reported_for_every_source(
    engine: Engine, tmp_path: Path, folder: Path
) -> None:
    new_catalog(engine, 3)
    save(folder, "100.png", picture())
    calls: list[tuple[int, int]] = []

    ingest(
        engine, tmp_path, "field", "set", Folder(folder), progress=lambda *done: calls.append(done)
    )

    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_many_sources_are_found_without_searching_the_folder_for_each(folder: Path) -> None:
    for k in range(50):
        save(folder, f"{k}.png", picture(size=2))
    origin = Folder(folder, PATTERN)

    covered = origin.covers([Target(k, str(k), 0.0, 0.0, 0) for k in range(100)])

    assert covered.tolist() == [True] * 50 + [False] * 50


@pytest.mark.legacy
@pytest.mark.skipif(not LEGACY.is_dir(), reason="the labelled cutouts are not beside this clone")
def test_the_labelled_legacy_cutouts_are_read_as_they_are() -> None:
    origin = Folder(LEGACY / "images")
    path = min((LEGACY / "images").iterdir())
    target = Target(1, path.name.removesuffix("_grz.png"), 0.0, 0.0, 0)

    reading = next(origin.read([target]))

    assert origin.layout.shape == (128, 128, 3)
    np.testing.assert_array_equal(reading.pixels, np.asarray(Image.open(path))[::-1])
