import io
import re

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from models.pixels import to_rgb
from tests.web.conftest import SIZE, Site
from web.cutouts import colour, render


def address(client: FlaskClient, site: Site, k: int) -> str:
    """Where the gallery says that the thumbnail of source k is."""
    page = client.get(f"/sources?id=src-{k:03}").text
    found = re.search(r'<img src="([^"]+)"', page)
    assert found
    return found[1].replace("&amp;", "&")


def test_a_thumbnail_is_the_stored_picture_as_png(client: FlaskClient, site: Site) -> None:
    response = client.get(address(client, site, 20))

    image = Image.open(io.BytesIO(response.data))
    assert response.mimetype == "image/png"
    assert image.size == (SIZE, SIZE)
    assert image.getpixel((3, 3)) == (80, 80, 80)


def test_a_picture_under_its_token_may_be_kept_for_ever(client: FlaskClient, site: Site) -> None:
    place = address(client, site, 20)

    named = client.get(place)
    plain = client.get(place.partition("?")[0])

    assert named.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert plain.headers["Cache-Control"] == "no-cache"


def test_an_unchanged_picture_is_not_sent_again(client: FlaskClient, site: Site) -> None:
    place = address(client, site, 20).partition("?")[0]
    etag = client.get(place).headers["ETag"]

    again = client.get(place, headers={"If-None-Match": etag})

    assert again.status_code == 304
    assert again.data == b""


@pytest.mark.parametrize("kind", ["/thumbnail.png", ".png"])
def test_a_missing_image_has_a_placeholder_that_says_so(
    client: FlaskClient, site: Site, kind: str
) -> None:
    response = client.get(f"/cutouts/{site.cutout_set_id}/{site.number(7)}{kind}")

    assert response.mimetype == "image/svg+xml"
    assert ">no image</text>" in response.text


def test_a_gallery_says_why_there_is_no_image(client: FlaskClient) -> None:
    assert '<span class="no-image">no image</span>' in client.get("/sources?id=src-007").text
    assert '<span class="no-image">no cutout</span>' in client.get("/sources?id=src-010").text


def test_lost_pixels_give_a_placeholder_not_an_error(
    client: FlaskClient,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = address(client, site, 20)
    monkeypatch.setitem(site.app.config, "PIXELS", tmp_path_factory.mktemp("elsewhere"))

    response = client.get(place)

    assert response.status_code == 200
    assert "pixels not found on this server" in response.text
    assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("source_id", [2**63, 2**80, 10**9])
def test_a_cutout_that_does_not_exist_is_not_found(client: FlaskClient, source_id: int) -> None:
    assert client.get(f"/cutouts/1/{source_id}.png").status_code == 404


def test_a_large_cutout_is_drawn_no_larger_than_a_thumbnail() -> None:
    png = render(np.zeros((400, 400, 3), np.uint8), ["z", "r", "g"], "display", 0.262, 192)

    assert Image.open(io.BytesIO(png)).size == (192, 192)


def test_the_first_row_of_the_store_is_drawn_at_the_bottom() -> None:
    stored = np.zeros((8, 8, 3), np.uint8)
    stored[0] = 200

    image = Image.open(io.BytesIO(render(stored, ["z", "r", "g"], "display", 0.262, None)))

    assert image.getpixel((4, 7)) == (200, 200, 200)
    assert image.getpixel((4, 0)) == (0, 0, 0)


def test_fluxes_look_the_same_at_any_pixel_scale() -> None:
    fluxes = np.linspace(0, 0.4, 48, dtype=np.float32).reshape(4, 4, 3)

    drawn = colour(fluxes, ["g", "r", "z"], "nanomaggy", 0.262)
    coarser = colour(4 * fluxes, ["g", "r", "z"], "nanomaggy", 0.524)

    np.testing.assert_array_equal(coarser, drawn)
    np.testing.assert_array_equal(drawn, to_rgb(fluxes[np.newaxis], "grz", "nanomaggy")[0])


def test_pixels_without_colours_are_drawn_grey() -> None:
    ramp = np.linspace(0, 50, 256, dtype=np.float32).reshape(16, 16, 1)
    ramp[0, 0] = np.nan

    drawn = colour(ramp, ["F606W"], "adu", 0.05)

    assert drawn.shape == (16, 16, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[..., 0] == drawn[..., 2]).all()
    assert drawn[15, 15, 0] > drawn[8, 8, 0] > drawn[0, 1, 0]


def test_a_cutout_without_any_value_is_drawn_black() -> None:
    drawn = colour(np.full((4, 4, 1), np.nan, np.float32), ["r"], "nJy", 0.2)

    assert drawn.max() == 0
