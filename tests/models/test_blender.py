"""Pairs of galaxies with known light: the recipe, its mends, and galaxies of the user."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from models import blender
from models.blender import BLENDS, PAIRS, Parents

N = 24
PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulate.md"


@pytest.fixture(scope="module")
def parents():
    pytest.importorskip("galsim", reason="galsim has no wheel for this platform")
    return blender.simulate_parents(N, 3, size=64)


def round_parents(fluxes, *, size=64, radius=4.0, noise=0.0, fwhm=3.0):
    """Parents that are round Gaussians, and noise."""
    n = len(fluxes)
    axis = np.arange(size) - (size - 1) / 2
    profile = np.exp(-(axis[None] ** 2 + axis[:, None] ** 2) / 2 / 3**2) / (2 * np.pi * 9)
    light = np.array(fluxes, np.float64)[:, None, None] * profile
    light += np.random.default_rng(0).normal(0, 1, light.shape) * noise
    return Parents(
        light=light.astype(np.float32),
        flux=np.array(fluxes, np.float64),
        radius=np.broadcast_to(np.asarray(radius, np.float64), n).copy(),
        kind=np.zeros(n, np.int8),
        fwhm=np.broadcast_to(np.asarray(fwhm, np.float64), n).copy(),
        noise=np.full(n, float(noise)),
        ids=tuple(f"round{k}" for k in range(n)),
    )


def drawn(parents, n=40, recipe=PAIRS, seed=1, **options):
    recipe = replace(recipe, size=min(recipe.size, parents.size))
    return blender.draw(parents, np.arange(len(parents.flux)), n, seed, recipe, **options)


def test_a_galaxy_of_a_seed_is_the_same_in_any_number_of_them(parents):
    some = blender.simulate_parents(2, 3, size=64, first=5)

    assert (some.light == parents.light[5:7]).all()
    assert some.ids == parents.ids[5:7] == ("sim3-000005", "sim3-000006")


def test_simulated_galaxies_have_their_light_in_the_middle_and_no_noise(parents):
    axis = np.arange(64) - 31.5
    total = parents.light.sum((1, 2))
    smooth = parents.kind != blender.KINDS.index("irregular")
    x = (parents.light.sum(1) * axis).sum(1) / total

    assert parents.flux == pytest.approx(total, rel=1e-5)
    assert np.median(np.abs(x[smooth])) < 0.5
    assert (parents.light >= 0).all()
    assert (parents.light[:, 0, 0] == 0).all()
    assert (parents.noise == 0).all()


def test_kinds_and_magnitudes_follow_the_published_survey():
    rows = [blender.simulate_parents(300, seed, size=16) for seed in (1, 2)]
    kind = np.concatenate([row.kind for row in rows])
    counts = np.bincount(kind, minlength=4)

    expected = 600 * np.array(blender.SHARES)
    assert (((counts - expected) ** 2 / expected).sum()) < 16.3  # chi square, 3 freedoms, 0.1 %


def test_the_half_light_radius_of_a_known_profile_is_found():
    from models.blender_light import Smooth, half_light_radius, picture, unblurred

    disc = picture([Smooth(1, 6.0, 1.0, 0.0, 100.0)], [], (0.3, -0.2), 3.0, 128)

    assert disc.sum() == pytest.approx(100, rel=0.01)
    assert unblurred(half_light_radius(disc, (0.3, -0.2)), 3.0) == pytest.approx(6.0, abs=0.25)


def test_galaxies_for_training_and_for_tests_are_disjoint_also_as_companions(parents):
    train, test = blender.split(N, 7, 0.25)

    pairs = blender.draw(parents, test, 60, 1, replace(PAIRS, size=64, max_mag_difference=6))

    assert sorted([*train, *test]) == list(range(N))
    assert len(test) == 6
    assert set(pairs.parent.ravel()) <= set(test)


def test_a_pair_of_a_seed_is_the_same_in_any_number_of_them(parents):
    all_, some = drawn(parents, 6), drawn(parents, 2, first=3)

    assert (all_.pixels[3:5] == some.pixels).all()
    assert (all_.masks[3:5] == some.masks).all()


def test_a_galaxy_never_meets_itself_nor_one_two_magnitudes_brighter_or_fainter(parents):
    pairs = drawn(parents, 200)

    assert (pairs.parent[:, 0] != pairs.parent[:, 1]).all()
    assert np.abs(2.5 * np.log10(pairs.flux[:, 0] / pairs.flux[:, 1])).max() < 2


def test_only_galaxies_seen_through_the_same_air_meet():
    parents = round_parents([1000.0] * 8, fwhm=[2.0, 3.0] * 4)

    pairs = drawn(parents)

    assert (parents.fwhm[pairs.parent[:, 0]] == parents.fwhm[pairs.parent[:, 1]]).all()


def test_galaxies_without_a_possible_partner_are_an_explained_error():
    with pytest.raises(ValueError, match=r"within 2\.0 mag of each other, but found none among 2"):
        drawn(round_parents([1000.0, 100_000.0]), 1)


def test_the_companion_lies_between_the_larger_radius_and_four_times_the_smaller(parents):
    pairs = drawn(parents, 300)
    most = np.minimum(4 * pairs.radius.min(1), 64)
    least = pairs.radius.max(1)
    least = np.where(least < most, least, 0.8 * most)

    assert (pairs.separation >= least - 1e-4).all()
    assert (pairs.separation <= most + 1e-4).all()


def test_offsets_of_blends_cover_their_square_and_singles_are_half():
    pairs = drawn(round_parents([1000.0] * 8), 1000, BLENDS)
    offsets = np.array([pairs.dx, pairs.dy])[:, pairs.is_blend]

    assert offsets.min() == -25
    assert offsets.max() == 24
    assert pairs.is_blend.mean() == pytest.approx(0.5, abs=0.05)
    assert np.isnan(pairs.dx[~pairs.is_blend]).all()
    assert np.isnan(pairs.flux[~pairs.is_blend, 1]).all()
    assert (pairs.parent[~pairs.is_blend, 1] == -1).all()
    assert not pairs.masks[~pairs.is_blend][..., [0, 2]].any()


def test_pixels_are_the_light_of_both_where_the_truth_says_and_noise():
    pairs = drawn(round_parents([20_000.0, 30_000.0]), 5)
    residual = pairs.pixels - pairs.light.sum(-1)

    for k in range(5):
        y, x = np.unravel_index(pairs.light[k, ..., 1].argmax(), (64, 64))
        assert abs(x - 31.5 - pairs.dx[k]) <= 0.5
        assert abs(y - 31.5 - pairs.dy[k]) <= 0.5
    assert residual.std() == pytest.approx(0.45, rel=0.02)
    assert pairs.noise == pytest.approx(0.45)


def test_masks_are_where_light_exceeds_the_noise():
    pairs = drawn(round_parents([3000.0, 3000.0]), 5, replace(PAIRS, noise=(2.0, 2.0)))
    bright = pairs.light > 2

    assert (pairs.masks[..., 1:] == bright).all()
    assert (pairs.masks[..., 0] == bright.all(-1)).all()
    assert pairs.masks[..., 2].sum((1, 2)).min() > 20


def test_noise_is_log_uniform_between_its_limits():
    noise = drawn(round_parents([1000.0] * 4), 300, replace(PAIRS, noise=(0.1, 10.0))).noise

    assert noise.min() >= 0.1
    assert noise.max() <= 10
    assert np.median(noise) == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_noise_has_no_step_where_the_companion_was_moved_away_from(noise):
    parents = round_parents([10.0] * 4, noise=noise, radius=30.0)
    pairs = drawn(parents, 200, replace(PAIRS, noise=(1.0, 1.0), max_offset=20))
    strip = np.ones_like(pairs.pixels, bool)
    for k in range(200):
        dx, dy = int(pairs.dx[k]), int(pairs.dy[k])
        strip[k, max(dy, 0) : 64 + min(dy, 0), max(dx, 0) : 64 + min(dx, 0)] = False

    expected = 1.0 if noise == 0 else np.sqrt(2)
    assert strip.sum() > 50_000
    assert pairs.noise == pytest.approx(expected)
    assert pairs.pixels[strip].std() == pytest.approx(expected, rel=0.02)
    assert pairs.pixels[~strip].std() == pytest.approx(expected, rel=0.02)


def test_noise_is_added_to_that_of_parents_until_there_is_what_was_asked_for():
    parents = round_parents([10.0] * 4, noise=1.0)

    pairs = drawn(parents, 50, replace(PAIRS, noise=(3.0, 3.0)))

    assert pairs.noise == pytest.approx(3.0)
    assert pairs.pixels.std() == pytest.approx(3.0, rel=0.02)


def test_masks_of_parents_with_noise_are_one_piece_round_the_galaxy():
    pairs = drawn(round_parents([20_000.0] * 4, noise=1.0), 5)
    truth = drawn(round_parents([20_000.0] * 4), 5, replace(PAIRS, noise=(np.sqrt(2),) * 2))

    both = (pairs.masks & truth.masks).sum((1, 2))
    either = (pairs.masks | truth.masks).sum((1, 2))
    assert (pairs.dx == truth.dx).all()
    assert (both[:, 1:] / either[:, 1:]).min() > 0.8


def test_varied_galaxies_are_turned_and_as_bright_as_the_truth_says(parents):
    plain, varied = drawn(parents, 50), drawn(parents, 50, vary=True)
    ratio = varied.flux[:, 0] / parents.flux[varied.parent[:, 0]]

    assert np.abs(2.5 * np.log10(ratio)).max() <= 0.3
    assert ratio.std() > 0.05
    assert np.abs(2.5 * np.log10(varied.flux[:, 0] / varied.flux[:, 1])).max() < 2
    assert varied.light[..., 0].sum((1, 2)) == pytest.approx(varied.flux[:, 0], rel=1e-4)
    assert not np.array_equal(plain.pixels, varied.pixels)


def test_parents_smaller_than_the_cutouts_are_an_explained_error(parents):
    with pytest.raises(ValueError, match="at least 128 pixels, but they have 64"):
        blender.draw(parents, np.arange(N), 1, 0, PAIRS)


def galaxy(size, flux=5000.0, noise=0.5, at=(0.0, 0.0), seed=1):
    axis = np.arange(size) - (size - 1) / 2
    distance = (axis[None] - at[0]) ** 2 + (axis[:, None] - at[1]) ** 2
    pixels = flux * np.exp(-distance / 2 / 3**2) / (2 * np.pi * 9)
    return pixels + np.random.default_rng(seed).normal(0, noise, pixels.shape)


def save(path, pixels, **header):
    hdu = fits.PrimaryHDU(np.asarray(pixels, np.float32))
    hdu.header.update(header)
    hdu.writeto(path)


def test_galaxies_of_the_user_are_cut_measured_and_covered_around(tmp_path):
    other = galaxy(101, 3000, 0, at=(30, -25))
    save(tmp_path / "odd.fits", galaxy(101) + other + 7.0, BUNIT="nJy")
    save(tmp_path / "small.fits", galaxy(48) / 3631, BUNIT="nanomaggy")

    parents = blender.read_parents(tmp_path, size=64)

    assert parents.ids == ("odd", "small")
    assert parents.light.shape == (2, 64, 64)
    assert parents.flux == pytest.approx([5000, 5000], rel=0.05)
    assert parents.radius == pytest.approx(3 * 1.1774, rel=0.1)  # of a Gaussian of sigma 3
    assert parents.noise == pytest.approx(0.5, rel=0.05)
    assert parents.light.sum((1, 2)) == pytest.approx(5000, rel=0.05)
    assert parents.light[:, :4].std((1, 2)) == pytest.approx(0.5, rel=0.2)
    assert (parents.kind == -1).all()
    assert parents.rejected == {}


def test_a_table_beside_the_files_tells_what_is_known_about_them(tmp_path):
    save(tmp_path / "a.fits", galaxy(64), BUNIT="nJy")
    save(tmp_path / "b.fits", galaxy(64), BUNIT="nJy")
    rows = "id,mag,radius,kind,fwhm\na,22.0,5.5,Bulge,2.5\nb,,x,unheard of,\n"
    (tmp_path / "catalog.csv").write_text(rows)

    parents = blender.read_parents(tmp_path, size=64)

    assert parents.magnitude[0] == pytest.approx(22.0)
    assert parents.flux[1] == pytest.approx(5000, rel=0.05)
    assert parents.radius[0] == 5.5
    assert parents.radius[1] == pytest.approx(3.5, rel=0.1)
    assert parents.kind.tolist() == [0, -1]
    assert parents.fwhm[0] == 2.5
    assert np.isnan(parents.fwhm[1])


def test_counts_become_light_by_a_zero_point_of_the_file_or_of_the_user(tmp_path):
    save(tmp_path / "a.fits", galaxy(64, 100, 0.01), MAGZERO=25.96)
    save(tmp_path / "b.fits", galaxy(64, 100, 0.01), BUNIT="adu")

    parents = blender.read_parents(tmp_path, size=64, zero_point=22.5)

    assert parents.magnitude == pytest.approx([20.96, 17.5], abs=0.05)


def test_files_that_cannot_be_used_are_listed_with_what_is_wrong(tmp_path):
    hole = galaxy(64)
    hole[3, 3] = np.nan
    save(tmp_path / "good.fits", galaxy(64), BUNIT="nJy")
    save(tmp_path / "hole.fits", hole, BUNIT="nJy")
    save(tmp_path / "blank.fits", np.zeros((64, 64)), BUNIT="nJy")
    save(tmp_path / "long.fits", galaxy(64)[:50], BUNIT="nJy")
    save(tmp_path / "empty.fits", galaxy(64, 0), BUNIT="nJy")
    save(tmp_path / "counts.fits", galaxy(64))
    (tmp_path / "broken.fits").write_bytes((tmp_path / "good.fits").read_bytes()[:5000])
    (tmp_path / "text.fits").write_text("not a FITS file")

    parents = blender.read_parents(tmp_path, size=64, split="all")

    assert parents.ids == ("good",)
    assert "but 1 have none" in parents.rejected["hole.fits"]
    assert "every pixel is 0" in parents.rejected["blank.fits"]
    assert "64 x 50" in parents.rejected["long.fits"]
    assert "within 8 pixels of the middle" in parents.rejected["empty.fits"]
    assert "give --zero-point" in parents.rejected["counts.fits"]
    assert parents.rejected["broken.fits"] == "the file is cut short at 5000 bytes"
    assert "text.fits" in parents.rejected


def test_a_folder_without_a_usable_file_is_an_explained_error(tmp_path):
    (tmp_path / "text.fits").write_text("not a FITS file")

    with pytest.raises(ValueError, match=r"none of 1 files can be used\. text\.fits: "):
        blender.read_parents(tmp_path)


def test_a_fifth_of_the_users_galaxies_is_for_tests_by_name_and_no_training_reads_them(tmp_path):
    for k in range(8):
        save(tmp_path / f"g{k}.fits", galaxy(32, seed=k), BUNIT="nJy")

    learnt, others = (
        blender.read_parents(tmp_path, size=32, **options) for options in ({}, {"split": "test"})
    )

    assert others.ids == ("g5", "g6")
    assert learnt.ids == ("g0", "g1", "g2", "g3", "g4", "g7")
    shares = np.mean([blender.is_for_tests(f"galaxy {k}") for k in range(4000)])
    assert shares == pytest.approx(0.2, abs=0.02)


def test_no_galaxies_to_choose_from_are_an_explained_error(parents):
    with pytest.raises(ValueError, match="galaxies to choose from, but there are none"):
        blender.draw(parents, np.array([], int), 1, 0, replace(PAIRS, size=64))


def test_the_example_of_the_page_runs_and_gives_what_it_says():
    pytest.importorskip("galsim", reason="galsim has no wheel for this platform")
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}

    exec(example.replace("2000", "40").replace("1000", "3"), names)

    pairs = names["pairs"]
    assert (pairs.pixels.shape, pairs.flux.shape) == ((3, 128, 128), (3, 2))
    assert pairs.masks.shape == (3, 128, 128, 3)
    assert set(pairs.parent.ravel()) <= set(names["test"])
