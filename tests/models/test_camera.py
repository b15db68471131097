"""The simulated camera: does the light look as asked, is the truth kept out, does it read back."""

from dataclasses import replace

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from models import camera, camera_files, camera_light

pytest.importorskip("galsim", reason="galsim has no wheel for this platform")

TINY = camera.Camera(n_ccds=2, width=96, height=128)
STILL = np.zeros((1, 2))


def star(**changes):
    """A star as it looks through seeing of 5 pixels, shape (64, 64)."""
    seen = camera_light.Seen(fwhm=5.0, shear=(0.0, 0.0), ring=0.0, trail=STILL)
    drawn = camera_light.pictures(replace(seen, **changes), np.random.default_rng(0))
    return drawn.faint[0, 0, 0]


def moments(picture):
    """Variance along the long axis, across it, and the angle of the long axis [rad]."""
    y, x = np.indices(picture.shape) - len(picture) // 2
    xx, yy, xy = (float((picture * part).sum()) for part in (x * x, y * y, x * y))
    spread = np.hypot(xx - yy, 2 * xy)
    angle = np.arctan2(2 * xy, xx - yy) / 2
    return (xx + yy + spread) / 2, (xx + yy - spread) / 2, angle


def detected(exposure):
    """Sources by sep, 2 sigma and 5 pixels, on all CCDs."""
    found = []
    for ccd in exposure.ccds:
        pixels = ccd.astype(np.float32)
        sky = sep.Background(pixels)
        found.append(sep.extract(pixels - sky.back(), 2.0, err=sky.globalrms, minarea=5))
    return np.concatenate(found)


def take(fault="good", strength=0.0, seed=0, of=TINY):
    return camera.draw(of, fault, strength, np.random.default_rng(seed))


@pytest.mark.parametrize("fwhm", [4.0, 8.0])
def test_a_star_is_as_wide_as_the_seeing(fwhm):
    picture = star(fwhm=fwhm)

    width = 2 * np.sqrt((picture > picture.max() / 2).sum() / np.pi)

    assert width == pytest.approx(fwhm, rel=0.08)
    assert picture.sum() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_a_trail_stretches_a_star_along_its_way_by_its_variance(angle):
    way = np.linspace(-6, 6, 49)[:, None] * [np.cos(angle), np.sin(angle)]

    along, across, found = moments(star(trail=way))
    round_one, _, _ = moments(star())

    assert along - across == pytest.approx(12**2 / 12, rel=0.06)
    assert across == pytest.approx(round_one, rel=0.02)
    assert found % np.pi == pytest.approx(angle, abs=0.02)


def test_a_star_out_of_focus_is_a_ring_with_a_hole():
    picture = star(ring=12.0, fwhm=3.5)

    centre, rim = picture[32, 32], picture[32, 32 + 9]

    assert rim > 5 * centre
    assert picture[32, 32 + 16] < rim / 5


def test_a_picture_is_pasted_where_it_is_asked_for():
    drawn = camera_light.pictures(
        camera_light.Seen(4.0, (0.0, 0.0), 0.0, STILL), np.random.default_rng(0)
    )
    image = np.zeros((100, 90), np.float32)

    camera_light.paste(image, drawn.faint[0], 500.0, 40 + 1 / 3, 52 - 1 / 3)

    y, x = np.indices(image.shape)
    assert (image * x).sum() / image.sum() == pytest.approx(40 + 1 / 3, abs=0.02)
    assert (image * y).sum() / image.sum() == pytest.approx(52 - 1 / 3, abs=0.02)
    assert image.sum() == pytest.approx(500, rel=0.01)


def test_a_picture_half_outside_the_ccd_leaves_its_other_half():
    image = np.zeros((64, 64), np.float32)

    camera_light.paste(image, np.ones((1, 1, 64, 64), np.float32), 1.0, 0.0, 0.0)

    assert image.sum() == 32 * 32


def test_charge_beyond_the_full_well_runs_along_the_column_and_none_appears():
    image = np.full((60, 3), 10, np.float32)
    image[30, 1] = 1000

    camera_light.bleed(image, full_well=100)

    assert (image[:, [0, 2]] == 10).all()
    assert 8 <= (image[:, 1] == 100).sum() <= 10
    assert image.max() == 100


def test_the_noise_of_the_sky_is_that_of_its_electrons():
    empty = replace(TINY, density=0.0, read_noise=3.0)

    (ccd, _) = take(of=empty).ccds

    electrons = (ccd - empty.bias) * empty.gain
    expected = np.sqrt(electrons.mean() + 9)
    assert np.diff(electrons, axis=1).std() / np.sqrt(2) == pytest.approx(expected, rel=0.02)


def test_a_good_exposure_shows_enough_small_round_sources():
    exposure = take(of=camera.Camera(), seed=2)

    found = detected(exposure)

    assert [ccd.shape for ccd in exposure.ccds] == [(512, 256)] * 4
    assert exposure.ccds[0].dtype == np.uint16
    assert len(found) > 150
    bright = found[(found["flux"] > np.percentile(found["flux"], 80)) & (found["flag"] == 0)]
    assert np.median(2.355 * np.sqrt(bright["a"] * bright["b"])) < 8


def test_faults_do_to_an_exposure_what_they_say():
    of = replace(camera.Camera(), n_ccds=2)
    good = detected(take(of=of))
    trailed = detected(take("severe_tracking", 0.6, of=of))
    crowded = detected(take("crowding", 0.7, of=of))
    faint = detected(take("low_exposure", 0.7, of=of))

    def stretch(found):
        return np.median(found["a"] / found["b"])

    assert stretch(trailed) > 1.5 * stretch(good)
    assert len(crowded) > 1.5 * len(good)
    assert len(faint) < 0.5 * len(good)
    assert max(ccd.max() for ccd in take("saturation", 1.0, of=of).ccds) > 60_000
    for fault in ("gradient", "fringes"):
        sky = np.median(take(fault, 0.8, of=of).ccds[0].reshape(32, 16, 16, 16), axis=(1, 3))
        calm = np.median(take(of=of).ccds[0].reshape(32, 16, 16, 16), axis=(1, 3))
        assert sky.std() > 2 * calm.std()


def test_a_weak_fault_is_labelled_good_or_as_the_milder_one():
    assert camera.label("defocus", 0.2) == "Good"
    assert camera.label("defocus", 0.25) == "B-Seeing"
    assert camera.label("severe_tracking", 0.2) == "BT"
    assert camera.label("severe_tracking", 0.9) == "RBT"
    assert {fault.label for fault in camera.FAULTS.values()} == set(camera.CLASSES)


def test_the_share_of_good_exposures_is_as_asked():
    rng = np.random.default_rng(1)

    chosen = [camera.choose(rng, ["seeing", "defocus"], good=0.7) for _ in range(2000)]

    names, counts = np.unique([fault for fault, _ in chosen], return_counts=True)
    assert list(names) == ["defocus", "good", "seeing"]
    assert counts == pytest.approx([300, 1400, 300], abs=60)
    assert all(strength == 0 for fault, strength in chosen if fault == "good")


def test_a_seed_gives_the_same_pixels_again():
    first, again, other = take("gradient", 0.5), take("gradient", 0.5), take("gradient", 0.5, 1)

    assert all(np.array_equal(a, b) for a, b in zip(first.ccds, again.ccds, strict=True))
    assert not np.array_equal(first.ccds[0], other.ccds[0])


@pytest.mark.parametrize(("fault", "strength"), [("comet", 0.5), ("seeing", 1.5)])
def test_a_fault_that_is_not_known_is_refused(fault, strength):
    with pytest.raises(ValueError, match="should be"):
        take(fault, strength)


@pytest.mark.parametrize("compress", [True, False])
def test_a_file_reads_back_as_the_mosaic_it_is(tmp_path, compress):
    exposure, path = take(), tmp_path / "one.fits"

    camera_files.write(exposure, path, compress)

    with fits.open(path) as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "ccd00", "ccd01"]
        assert file[0].header["FILTER"] in {band.name for band in camera.BANDS}
        for hdu, ccd in zip(file[1:], exposure.ccds, strict=True):
            assert hdu.data.dtype == np.uint16
            assert np.array_equal(hdu.data, ccd)


def test_the_ccds_lie_beside_each_other_on_the_sky_with_a_gap(tmp_path):
    exposure, path = take(), tmp_path / "one.fits"
    camera_files.write(exposure, path)

    with fits.open(path) as file:
        left, right = (WCS(hdu.header) for hdu in file[1:])
        centre = file[0].header["RA_DEG"], file[0].header["DEC_DEG"]

    last, first = left.pixel_to_world(95, 0), right.pixel_to_world(0, 0)
    steps = last.separation(first).arcsec / TINY.pixel_scale
    assert steps == pytest.approx(TINY.gap + 1, abs=0.1)
    middle = left.pixel_to_world(95 + TINY.gap / 2 + 0.5, 64 + TINY.gap / 2)
    assert (middle.ra.deg, middle.dec.deg) == pytest.approx(centre, abs=0.01)


def test_the_truth_is_nowhere_in_the_file(tmp_path):
    path = tmp_path / "one.fits"
    camera_files.write(take("low_exposure", 0.61), path, compress=False)

    text = path.read_bytes()[:2880].decode() + repr(fits.getheader(path, 1))

    for word in (*camera.FAULTS, *camera.CLASSES, "0.61", "SEED", "STRENGTH"):
        assert word.upper() not in text.upper()


def test_a_dead_amplifier_a_lost_ccd_and_missing_coordinates_can_be_had(tmp_path):
    exposure, path = take(), tmp_path / "one.fits.fz"
    dead = camera_files.without_amplifier(exposure.ccds[0])
    blank = camera_files.without_amplifier(exposure.ccds[0], np.nan)

    camera_files.write(exposure, path, wcs=False)
    camera_files.damage(path, 1)

    assert (dead[:, :48] == 0).all()
    assert np.array_equal(dead[:, 48:], exposure.ccds[0][:, 48:])
    assert np.isnan(blank[:, :48]).all()
    with fits.open(path) as file:
        assert "CRVAL1" not in file[1].header
        assert np.array_equal(file[1].data, exposure.ccds[0])
        with pytest.raises(Exception, match="decompression"):
            _ = file[2].data
