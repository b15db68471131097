import numpy as np
import pytest

from models.simulate import shred_cutouts

pytest.importorskip("galsim", reason="galsim has no wheel for this platform")


@pytest.fixture(scope="module")
def sky():
    return shred_cutouts(6, seed=3, size=64)


def test_a_seed_gives_the_same_sky_whatever_the_number_of_sources(sky):
    again = shred_cutouts(2, seed=3, size=64)

    assert np.array_equal(again.rgb, sky.rgb[:2])


def test_another_seed_gives_another_sky(sky):
    assert not np.array_equal(shred_cutouts(1, seed=4, size=64).rgb[0], sky.rgb[0])


def test_galaxies_are_centred_on_their_nucleus_and_shreds_are_not(sky):
    distance = np.hypot(*sky.nucleus.T)

    assert distance[~sky.is_shred].max() < 2
    assert distance[sky.is_shred].min() >= 3


def test_pictures_look_like_the_survey(sky):
    assert sky.rgb.shape == (6, 64, 64, 3)
    assert sky.rgb.dtype == np.uint8
    assert 25 < np.percentile(sky.rgb, 25) < 45
    assert sky.rgb.max() > 90
