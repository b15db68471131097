"""Mosaics: the pixels of a cutout are the pixels of the image at that place, and no others."""

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db.cutout_ingest import NothingToRead, Target, ingest
from db.cutout_mosaic import Mosaic, MosaicImage
from db.cutouts import CutoutFlag
from db.tables import Cutout, Source
from tests.builders import make_catalog, make_source

SCALE = 0.5  # arcsec/pixel


def make_wcs(x: float = 50.0, y: float = 40.0, ra: float = 150.0, dec: float = 2.0) -> WCS:
    """A WCS that puts (ra, dec) at 0-based pixel (x, y)."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [x + 1, y + 1]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    wcs.wcs.set()
    return wcs


def make_image(height: int = 80, width: int = 100, dtype: str = "float32") -> np.ndarray:
    return np.arange(1, height * width + 1).reshape(height, width).astype(dtype)


def at(wcs: WCS, x: float, y: float) -> Target:
    sky = wcs.pixel_to_world(x, y)
    return Target(1, f"{x},{y}", float(sky.ra.deg), float(sky.dec.deg), 0)


def save(path: Path, image: np.ndarray, wcs: WCS, compressed: bool = False, **cards: str) -> Path:
    header = wcs.to_header()
    header.update(cards)
    if compressed:
        hdu = fits.CompImageHDU(image, header, compression_type="GZIP_2", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    else:
        fits.PrimaryHDU(image, header).writeto(path)
    return path


def one_band(image: np.ndarray, wcs: WCS, band: str = "r") -> MosaicImage:
    return MosaicImage(image[..., None], wcs, (band,), "adu")


def cut(mosaic: Mosaic, target: Target) -> np.ndarray:
    reading = next(mosaic.read([target]))
    assert reading.pixels is not None
    return reading.pixels


@pytest.mark.parametrize(("x", "y"), [(50, 40), (8, 70), (91.0, 8.0)])
def test_a_cutout_is_the_slice_of_the_image_around_the_source(x: float, y: float) -> None:
    image, wcs = make_image(), make_wcs()

    pixels = cut(Mosaic([one_band(image, wcs)], size=7), at(wcs, x, y))

    rows, columns = slice(int(y) - 3, int(y) + 4), slice(int(x) - 3, int(x) + 4)
    np.testing.assert_array_equal(pixels[..., 0], image[rows, columns])


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("offset", [-0.49, -0.2, 0.0, 0.3, 0.49])
def test_the_window_is_the_one_whose_centre_is_nearest(size: int, offset: float) -> None:
    image, wcs = make_image(), make_wcs()
    x, y = 30 + offset, 33 - offset

    pixels = cut(Mosaic([one_band(image, wcs)], size), at(wcs, x, y))

    np.testing.assert_array_equal(pixels[..., 0], Cutout2D(image, (x, y), size).data)
    rows, columns = np.nonzero(np.isin(image, pixels))
    assert abs((columns.min() + columns.max()) / 2 - x) <= 0.5 + 1e-6
    assert abs((rows.min() + rows.max()) / 2 - y) <= 0.5 + 1e-6


def test_pixels_beyond_the_edge_are_nan_and_the_cutout_is_flagged() -> None:
    image, wcs = make_image(), make_wcs()

    reading = next(Mosaic([one_band(image, wcs)], size=7).read([at(wcs, 1, 79)]))

    assert reading.flags == CutoutFlag.PARTLY_OUTSIDE
    assert reading.pixels is not None
    np.testing.assert_array_equal(reading.pixels[:4, 2:, 0], image[76:, :5])
    assert np.isnan(reading.pixels[4:]).all()
    assert np.isnan(reading.pixels[:, :2]).all()


def test_integer_pixels_beyond_the_edge_are_zero() -> None:
    image, wcs = make_image(dtype="uint16"), make_wcs()

    pixels = cut(Mosaic([one_band(image, wcs)], size=5), at(wcs, 0, 0))

    assert pixels.dtype == np.uint16
    assert not pixels[:2].any()
    np.testing.assert_array_equal(pixels[2:, 2:, 0], image[:3, :3])


@pytest.mark.parametrize(("x", "y"), [(-2, 40), (100, 40), (50, 80.4), (5000, 40)])
def test_a_source_outside_the_image_has_no_cutout(x: float, y: float) -> None:
    image, wcs = make_image(), make_wcs()

    assert not Mosaic([one_band(image, wcs)], size=7).covers([at(wcs, x, y)])[0]


def test_a_source_on_the_other_side_of_the_sky_has_no_cutout() -> None:
    image, wcs = make_image(), make_wcs()
    antipode = Target(1, "antipode", 330.0, -2.0, 0)

    assert not Mosaic([one_band(image, wcs)], size=7).covers([antipode])[0]


def test_a_mosaic_across_ra_zero_and_one_at_the_pole_work() -> None:
    image = make_image()
    for ra, dec in ((0.0, 0.0), (120.0, 90.0)):
        wcs = make_wcs(ra=ra, dec=dec)
        mosaic = Mosaic([one_band(image, wcs)], size=5)
        for x in (20, 80):
            np.testing.assert_array_equal(
                cut(mosaic, at(wcs, x, 40))[..., 0], image[38:43, x - 2 : x + 3]
            )


def test_an_rgb_picture_in_memory_keeps_its_bytes() -> None:
    picture = np.random.default_rng(0).integers(1, 256, (80, 100, 3), np.uint8)
    wcs = make_wcs()
    mosaic = Mosaic([MosaicImage(picture, wcs, ("z", "r", "g"))], size=9)

    pixels = cut(mosaic, at(wcs, 60, 20))

    assert (mosaic.layout.unit, mosaic.layout.dtype) == ("display", "uint8")
    assert mosaic.layout.pixel_scale == pytest.approx(SCALE)
    np.testing.assert_array_equal(pixels, picture[16:25, 56:65])


def test_black_parts_of_an_image_are_no_image() -> None:
    image, wcs = make_image(), make_wcs()
    image[:, :50] = 0

    reading = next(Mosaic([one_band(image, wcs)], size=7).read([at(wcs, 20, 40)]))

    assert (reading.pixels, reading.flags) == (None, CutoutFlag.NO_IMAGE)


def test_bands_on_different_grids_are_cut_at_the_same_place_on_the_sky() -> None:
    image, here, there = make_image(), make_wcs(50, 40), make_wcs(53, 38)
    mosaic = Mosaic([one_band(image, here, "g"), one_band(image, there, "r")], size=5)

    pixels = cut(mosaic, at(here, 30, 30))

    np.testing.assert_array_equal(pixels[..., 0], image[28:33, 28:33])
    np.testing.assert_array_equal(pixels[..., 1], image[26:31, 31:36])


def test_each_cutout_comes_from_the_tile_that_has_most_of_it() -> None:
    image = make_image()
    left, right = make_wcs(95, 40), make_wcs(5, 40)  # the same sky near their common edge
    tiles = [one_band(image, left), one_band(1000 * image, right)]
    mosaic = Mosaic(tiles, size=9)

    np.testing.assert_array_equal(cut(mosaic, at(left, 92, 40))[..., 0], image[36:45, 88:97])
    np.testing.assert_array_equal(cut(mosaic, at(right, 7, 40))[..., 0], 1000 * image[36:45, 3:12])


def test_a_band_that_is_missing_at_a_place_is_nan_and_flagged() -> None:
    image, wcs = make_image(), make_wcs()
    far = one_band(image, make_wcs(ra=151.0), "g")
    mosaic = Mosaic([one_band(image, wcs, "r"), far], size=5)

    reading = next(mosaic.read([at(wcs, 50, 40)]))

    assert reading.flags == CutoutFlag.PARTLY_OUTSIDE
    assert reading.pixels is not None
    assert np.isfinite(reading.pixels[..., 0]).all()
    assert np.isnan(reading.pixels[..., 1]).all()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_fits_files_are_cut_with_bands_in_the_wanted_order(
    tmp_path: Path, compressed: bool, dtype: str
) -> None:
    image, wcs = make_image(), make_wcs()
    paths = [
        save(
            tmp_path / f"{band}.fits", (factor * image).astype(dtype), wcs, compressed, FILTER=band
        )
        for factor, band in ((1, "g"), (2, "r"))
    ]

    mosaic = Mosaic.open(paths, size=5, bands=("r", "g"))
    pixels = cut(mosaic, at(wcs, 50, 40))
    mosaic.close()

    assert mosaic.layout.bands == ("r", "g")
    assert mosaic.layout.dtype == {">i2": "int16", ">f4": "float32"}[dtype]
    np.testing.assert_array_equal(pixels[..., 1], image[38:43, 48:53])
    np.testing.assert_array_equal(pixels[..., 0], 2 * image[38:43, 48:53])


def test_scaled_integers_are_read_as_the_values_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, wcs = make_image(dtype="uint16"), make_wcs()  # FITS has no uint16: BZERO 32768
    path = save(tmp_path / "r.fits", image, wcs, FILTER="r")

    mosaic = Mosaic.open([path], size=5)
    pixels = cut(mosaic, at(wcs, 50, 40))
    monkeypatch.setattr("db.cutout_mosaic.KEPT_BYTES", 0)
    frugal = Mosaic.open([path], size=5)
    np.testing.assert_array_equal(cut(frugal, at(wcs, 50, 40)), pixels)
    frugal.close()
    mosaic.close()

    assert mosaic.layout.dtype == "uint16"
    np.testing.assert_array_equal(pixels[..., 0], image[38:43, 48:53])


def test_a_cube_brings_all_its_bands(tmp_path: Path) -> None:
    image, wcs = make_image(), make_wcs()
    path = save(tmp_path / "cube.fits", np.stack([image, 2 * image, 3 * image]), wcs, BANDS="grz")

    mosaic = Mosaic.open([path], size=5)
    pixels = cut(mosaic, at(wcs, 50, 40))
    mosaic.close()

    assert mosaic.layout.bands == ("g", "r", "z")
    np.testing.assert_array_equal(pixels[..., 2], 3 * image[38:43, 48:53])


def test_files_that_do_not_name_their_band_take_the_bands_given_in_order(tmp_path: Path) -> None:
    image, wcs = make_image(), make_wcs()
    paths = [save(tmp_path / f"{k}.fits", k * image, wcs) for k in (1, 2)]

    mosaic = Mosaic.open(paths, size=3, bands=("F606W", "F814W"))
    pixels = cut(mosaic, at(wcs, 50, 40))
    mosaic.close()

    np.testing.assert_array_equal(pixels[..., 1], 2 * pixels[..., 0])


def test_a_file_that_does_not_name_its_band_is_explained(tmp_path: Path) -> None:
    path = save(tmp_path / "image.fits", make_image(), make_wcs())

    with pytest.raises(NothingToRead, match="does not say which band"):
        Mosaic.open([path], size=3)


def test_an_image_without_a_wcs_is_explained(tmp_path: Path) -> None:
    fits.PrimaryHDU(make_image()).writeto(tmp_path / "image.fits")

    with pytest.raises(NothingToRead, match="no image with a celestial WCS"):
        Mosaic.open([tmp_path / "image.fits"], size=3, bands=("r",))


def test_a_file_that_is_not_fits_is_explained(tmp_path: Path) -> None:
    (tmp_path / "image.fits").write_text("SIMPLE but not")

    with pytest.raises(NothingToRead, match="cannot be read as FITS"):
        Mosaic.open([tmp_path / "image.fits"], size=3, bands=("r",))


def test_a_band_that_no_image_has_is_named() -> None:
    with pytest.raises(NothingToRead, match="none in z; there are r"):
        Mosaic([one_band(make_image(), make_wcs())], size=3, bands=("r", "z"))


def test_images_of_different_pixel_scales_are_refused() -> None:
    fine = make_wcs()
    fine.wcs.cdelt = [-0.1 / 3600, 0.1 / 3600]

    with pytest.raises(NothingToRead, match=r"0\.5000 and image 0\.1000"):
        Mosaic([one_band(make_image(), make_wcs()), one_band(make_image(), fine)], size=3)


def test_every_source_of_the_catalog_gets_one_row_with_its_flag(
    engine: Engine, tmp_path: Path
) -> None:
    wcs = make_wcs()
    expected = {"inside": (50, 40, 0), "edge": (1, 40, 4), "outside": (-30, 40, 1)}
    with Session(engine) as session, session.begin():
        catalog = make_catalog(session, name="field", n_sources=3)
        for survey_id, (x, y, _) in expected.items():
            sky: SkyCoord = wcs.pixel_to_world(x, y)
            make_source(session, catalog, sky.ra.deg, sky.dec.deg, survey_id=survey_id)

    report = ingest(
        engine, tmp_path, "field", "mosaic", Mosaic([one_band(make_image(), wcs)], size=9)
    )

    assert report.n_new == 3
    with Session(engine) as session:
        rows = session.execute(select(Source.survey_id, Cutout.flags).join(Cutout))
        assert {row.survey_id: row.flags for row in rows} == {
            survey_id: flags for survey_id, (_, _, flags) in expected.items()
        }


def test_a_mosaic_of_another_part_of_the_sky_is_refused(engine: Engine, tmp_path: Path) -> None:
    with Session(engine) as session, session.begin():
        make_source(session, make_catalog(session, name="field", n_sources=1), ra=10.0)

    with pytest.raises(NothingToRead, match="Images: image"):
        ingest(
            engine, tmp_path, "field", "set", Mosaic([one_band(make_image(), make_wcs())], size=9)
        )
