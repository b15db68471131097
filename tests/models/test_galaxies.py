from dataclasses import replace

import numpy as np
import pytest

from models.galaxies import MERGERS, OFF_CENTRE, chunks, look, simulate
from models.galaxy_light import MARGIN, Galaxy, Scene, draw
from models.questions import QUESTIONS, columns, fractions, slices
from models.volunteers import View, chances, vote

SIDE = 96
DISC = Galaxy(kind="spiral", magnitude=16.0, radius=18.0, axis_ratio=1.0, angle=0.0)


@pytest.fixture(scope="module")
def sky():
    return simulate(300, seed=5, size=64)


def picture(galaxy, seeing=4.0, size=SIDE):
    """The r band of a galaxy alone, without noise."""
    scene = Scene(size)
    draw(scene, galaxy, np.random.default_rng(0))
    return scene.seen_through(seeing)[..., 1].astype(float)


def view(galaxy, noise=0.003, seeing=4.0):
    """A galaxy as it appears above noise of this size per pixel [nanomaggy]."""
    scene = Scene(SIDE)
    seen = draw(scene, galaxy, np.random.default_rng(0))
    return look(scene, galaxy, seen, seeing, noise)


def chance(galaxy, answer, **conditions):
    return float(chances(view(galaxy, **conditions))[columns().index(answer)])


def offsets(size=SIDE):
    axis = np.arange(size) - (size - 1) / 2
    return np.meshgrid(axis, axis)


def test_a_seed_gives_the_same_sky_in_one_piece_or_in_chunks(sky):
    pieces = list(chunks(7, 5, chunk=3, size=64))

    assert [len(piece.rgb) for piece in pieces] == [3, 3, 1]
    assert np.array_equal(np.concatenate([piece.rgb for piece in pieces]), sky.rgb[:7])
    assert np.array_equal(np.concatenate([piece.votes for piece in pieces]), sky.votes[:7])


def test_another_seed_gives_another_sky(sky):
    assert not np.array_equal(simulate(1, seed=6, size=64).rgb[0], sky.rgb[0])


def test_pictures_have_the_sky_level_of_the_survey_and_something_on_it(sky):
    assert sky.rgb.shape == (300, 64, 64, 3)
    assert sky.rgb.dtype == np.uint8
    assert 20 < np.percentile(sky.rgb, 10) < 35
    assert np.mean(sky.rgb.max(axis=(1, 2, 3)) > 90) > 0.9


def test_a_question_is_asked_of_those_who_gave_the_answers_it_follows(sky):
    for question in QUESTIONS:
        asked = sky.votes[:, slices()[question.name]].sum(1)
        if question.asked_after:
            parents = [columns().index(answer) for answer in question.asked_after]
            assert np.array_equal(asked, sky.votes[:, parents].sum(1))
        else:
            assert asked.min() >= 20
            assert asked.max() <= 40


def test_votes_scatter_round_the_chances(sky):
    root = slices()["smooth-or-featured"]
    difference = fractions(sky.votes)[:, root] - sky.chances[:, root]

    assert np.abs(difference.mean(0)).max() < 0.02
    assert 0.03 < difference[:, 0].std() < 0.15


def test_a_quarter_of_the_pictures_are_centred_off_the_nucleus(sky):
    distance = np.hypot(*sky.truth["nucleus"].T)
    shred = sky.truth["is_shred"]

    assert shred.mean() == pytest.approx(OFF_CENTRE, abs=0.08)
    assert distance[shred].min() >= 8
    assert distance[~shred].max() < 3
    elsewhere = sky.chances[:, columns().index("centred-on_elsewhere")]
    assert elsewhere[shred].min() > 0.5 > elsewhere[~shred].max()


def test_people_see_mergers_where_there_is_a_companion(sky):
    merger = sky.chances[:, columns().index("merging_merger")]
    paired = sky.truth["companion"] > 0

    assert 0 < paired.mean() < MERGERS
    assert merger[~paired].max() < 0.05
    assert merger[paired & (sky.truth["radius"] > 12)].min() > 0.2


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0])
def test_edge_on_discs_are_long_and_thin_along_their_angle(angle):
    x, y = offsets()
    light = picture(replace(DISC, edge_on=True, axis_ratio=0.15, radius=12.0, angle=angle))
    light = light / light.sum()

    xx, yy, xy = ((light * product).sum() for product in (x * x, y * y, x * y))

    short, long = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    assert np.sqrt(short / long) < 0.4
    assert np.cos(2 * (0.5 * np.arctan2(2 * xy, xx - yy) - angle)) > 0.99


@pytest.mark.parametrize("n_arms", [1, 2, 3])
def test_arms_repeat_as_many_times_round_a_circle(n_arms):
    x, y = offsets()
    light = picture(replace(DISC, n_arms=n_arms, arms=0.9), seeing=3.0)
    circle = np.abs(np.hypot(x, y) - DISC.radius) < 1.5
    turn = np.arctan2(y, x)[circle]

    power = [np.abs((light[circle] * np.exp(-1j * m * turn)).sum()) for m in range(1, 6)]

    assert int(np.argmax(power)) + 1 == n_arms


def test_parts_keep_the_flux_of_the_galaxy():
    whole = replace(DISC, radius=7.0, bulge=0.2, bulge_radius=2.0, bulge_index=2)
    whole = replace(whole, bar=0.1, bar_length=5.0, ring=0.1, ring_radius=8.0, n_arms=2, arms=0.5)

    assert picture(whole, size=128).sum() == pytest.approx(10 ** (0.4 * 6.5), rel=0.06)


def test_a_galaxy_out_of_the_picture_leaves_little_light_in_it():
    away = replace(DISC, nucleus=(0.0, SIDE / 2 + MARGIN + 4 * DISC.radius))

    assert picture(away).sum() < 0.03 * picture(DISC).sum()


def test_a_strong_bar_is_seen_in_a_large_bright_galaxy_only():
    barred = replace(DISC, bulge=0.15, bulge_radius=3.0, bar=0.2, bar_length=13.0)
    small = replace(barred, radius=5.0, bulge_radius=1.0, bar_length=3.6)
    faint = replace(barred, magnitude=22.0)

    assert chance(barred, "bar_strong") > 0.8
    assert chance(small, "bar_no") > 0.8
    assert chance(faint, "bar_no") > 0.8
    assert chance(replace(barred, bar=0.0), "bar_no") > 0.9


def test_arms_fade_from_the_answers_as_the_noise_grows():
    spiral = replace(DISC, n_arms=2, arms=0.8)

    seen = [chance(spiral, "has-spiral-arms_yes", noise=noise) for noise in (0.003, 0.1, 1.0)]

    assert seen[0] > 0.8
    assert seen[0] > seen[1] > seen[2]
    assert seen[2] < 0.1


def test_shape_decides_the_answer():
    elliptical = replace(DISC, kind="elliptical", bulge=1.0, bulge_radius=18.0)
    side = replace(DISC, edge_on=True, axis_ratio=0.12)
    ringed = replace(DISC, ring=0.25, ring_radius=20.0)

    assert chance(elliptical, "smooth-or-featured_smooth") > 0.8
    assert chance(elliptical, "how-rounded_round") > 0.8
    assert chance(replace(elliptical, axis_ratio=0.3), "how-rounded_cigar-shaped") > 0.8
    assert chance(side, "disk-edge-on_yes") > 0.8
    assert chance(ringed, "ring_yes") > 0.8
    assert chance(DISC, "ring_yes") < 0.1
    assert chance(replace(DISC, magnitude=20.5), "brightness_low-surface-brightness") > 0.7


def test_chances_of_every_question_sum_to_one(sky):
    for part in slices().values():
        assert sky.chances[:, part].sum(1) == pytest.approx(1, abs=1e-5)


def test_volunteers_who_agree_all_give_one_answer():
    certain = np.full(len(columns()), 1e-6)
    for question in QUESTIONS:
        certain[slices()[question.name].start] = 1.0

    votes = vote(certain, np.random.default_rng(0))

    assert votes[columns().index("smooth-or-featured_smooth")] == votes[:3].sum()
    assert votes[slices()["disk-edge-on"]].sum() == 0


def test_an_artifact_is_called_one():
    spoiled = View(DISC, 4.0, {"all": 900.0, "surface": 5.0}, {"all": 1.0}, artifact=True)

    assert chances(spoiled)[columns().index("smooth-or-featured_artifact")] > 0.8
