import csv
import io
import re

import numpy as np
import pytest
from astropy.table import Table
from flask.testing import FlaskClient

from db.tables import Blend, CutoutSet, ModelVersion, PairFlux
from tests.survey import masks
from tests.web.conftest import Site
from web import blends


def opinions(client: FlaskClient, site: Site, k: int) -> dict[str, str]:
    """What the page of source k shows of each version, without tags; the picture as `picture`."""
    page = client.get(f"/sources/{site.number(k)}").text
    boxes = re.findall(
        r'<div class="gloss[^>]*>(.*?)</div>\s*(?=<div class="gloss|<section)', page, re.S
    )
    shown = {re.findall(r">([\w.]+)</a>", box)[0]: _text(box) for box in boxes}
    picture = re.findall(r'<section class="picture".*?</section>', page, re.S)[0]
    return shown | {"picture": picture}


def _text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html).replace("\u202f", ""))


@pytest.mark.parametrize(
    ("number", "error", "expected"),
    [
        (61234.5, 1830.2, ("61200", "1800")),
        (29100.0, 95.6, ("29100", "96")),
        (-12.34, 40.0, ("−12", "40")),
        (0.5432, 0.0321, ("0.543", "0.032")),
        (70214.9, None, ("70210", "")),
        (3.14159, None, ("3.142", "")),
        (0.0, None, ("0", "")),
        (1234.5, 0.0, ("1234", "0")),
        (None, None, ("", "")),
        (float("nan"), 1.0, ("", "")),
    ],
)
def test_a_flux_has_the_digits_of_its_error(
    number: float | None, error: float | None, expected: tuple[str, str]
) -> None:
    written = blends.rounded(number, error)

    assert tuple(part.replace("\u202f", "") for part in written) == expected


def test_a_flux_that_is_not_positive_has_no_magnitude() -> None:
    assert blends.magnitude(3631.0) == pytest.approx(22.5, abs=1e-4)
    assert blends.magnitude(0.0) is None
    assert blends.magnitude(-5.0) is None


@pytest.mark.parametrize(
    ("p_blend", "is_blend", "detections", "sep", "agree"),
    [
        (0.97, True, 2, "blend (2 detections)", True),
        (0.5, True, 1, "blend (1 detection, marked as merged)", True),
        (0.97, False, 1, "one galaxy (1 detection)", False),
        (0.03, True, 3, "blend (3 detections)", False),
        (0.03, False, 0, "nothing detected", True),
        (None, None, None, "no verdict", None),
        (None, True, 2, "blend (2 detections)", None),
    ],
)
def test_verdicts_are_put_into_words(
    p_blend: float | None,
    is_blend: bool | None,
    detections: int | None,
    sep: str,
    agree: bool | None,
) -> None:
    said = Blend(p_blend=p_blend, sep_is_blend=is_blend, sep_detections=detections)

    agreement = blends.agreement(said)

    assert (agreement.sep, agreement.agree) == (sep, agree)
    assert ("disagree" in agreement.words) == (agree is False)


@pytest.mark.parametrize("size", [5, 8])
def test_masks_of_any_size_are_unpacked(size: int) -> None:
    written = np.random.default_rng(0).integers(0, 2, (2, size, size)).astype(bool)

    read = blends.decode(np.packbits(written).tobytes())

    np.testing.assert_array_equal(read, written)


def corners(path: str) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a path."""
    x, y = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path), float).T
    return x.min(), x.max(), y.min(), y.max()


def test_an_outline_follows_the_pixels_with_the_lowest_row_at_the_bottom() -> None:
    mask = np.zeros((16, 16), bool)
    mask[1:4, 10:16] = True  # rows, columns

    left, right, top, bottom = corners(blends.outline(mask))

    assert (left, right) == (10 * 32, 512)
    assert (top, bottom) == (512 - 4 * 32, 512 - 32)
    assert blends.outline(np.zeros((4, 4), bool)) == ""


def test_an_outline_is_scaled_about_the_middle() -> None:
    whole = np.ones((8, 8), bool)

    assert corners(blends.outline(whole, 256)) == (128, 384, 128, 384)
    assert corners(blends.outline(whole, 256, -2)) == (126, 382, 130, 386)


def test_a_source_shows_both_opinions_and_that_they_agree(client: FlaskClient, site: Site) -> None:
    shown = opinions(client, site, 40)

    assert "0.990 probability of being a blend" in shown["rings.v1"]
    assert "sep: blend (2 detections)" in shown["rings.v1"]
    assert "Network and sep agree: a blend." in shown["rings.v1"]
    assert "Means little" not in shown["shares.v1"]
    assert "worker observatory" in shown["rings.v1"]


def test_a_source_shows_the_fluxes_beside_those_of_sep(client: FlaskClient, site: Site) -> None:
    shown = opinions(client, site, 40)["shares.v1"]

    assert "Flux in r [nJy] 5000 ± 100 2000 ± 80" in shown
    assert "Magnitude [mag AB] 22.153 ± 0.022 23.147 ± 0.043" in shown
    assert "Flux by sep [nJy] 5100 1900" in shown
    assert "sep brighter by [mag] +0.022 −0.056" in shown
    assert "and in flux by [errors of the network] +1.0 −1.2" in shown
    assert "not corrected for extinction. Separation" in shown
    assert "Separation 2.50″ by the masks. sep detects 2 sources here." in shown


def test_light_of_a_lone_detection_of_sep_is_said_to_be_perhaps_that_of_both(
    client: FlaskClient, site: Site
) -> None:
    words = "sep made one detection: its light may be that of both."

    assert words in opinions(client, site, 41)["shares.v1"]
    assert words not in opinions(client, site, 40)["shares.v1"]


def test_the_bands_of_other_versions_follow_the_current_one(
    client: FlaskClient, site: Site
) -> None:
    shown = opinions(client, site, 40)

    assert list(shown).index("shares.v1") < list(shown).index("shares.i")
    assert "Flux in i [nJy] 10000 ± 100 4000 ± 80" in shown["shares.i"]


def test_a_disagreement_stands_out(client: FlaskClient, site: Site) -> None:
    page = client.get(f"/sources/{site.number(41)}").text

    words = "They disagree: a blend to the network, not to sep."
    assert f'<p class="disagreeing">{words}</p>' in page


def test_fluxes_of_what_is_no_blend_are_said_to_mean_little(
    client: FlaskClient, site: Site
) -> None:
    shown = opinions(client, site, 42)["shares.v1"]

    assert "Means little: P(blend) is 0.050" in shown
    assert "−12 ± 80" in shown
    assert "no companion in the masks" in shown


def test_a_source_without_fluxes_says_so_and_why(client: FlaskClient, site: Site) -> None:
    shown = opinions(client, site, 45)

    assert "No fluxes. no image" in shown["shares.v1"]
    assert "– no probability" in shown["rings.v1"]
    assert "sep: no verdict no image" in shown["rings.v1"]


def test_masks_are_drawn_over_the_picture_they_were_made_from(
    client: FlaskClient, site: Site
) -> None:
    picture = opinions(client, site, 40)["picture"]

    drawn = dict(re.findall(r'<path class="mask-(\w+)" d="(M[^"]+Z)"', picture))
    assert corners(drawn["central"]) == (5 * 32, 11 * 32, 512 - 10 * 32, 512 - 4 * 32)
    assert corners(drawn["companion"]) == (9 * 32, 13 * 32, 512 - 14 * 32, 512 - 8 * 32)
    assert corners(drawn["overlap"]) == (9 * 32, 11 * 32, 512 - 10 * 32, 512 - 8 * 32)
    assert 'id="masks" checked' in picture
    assert "shares.v1" in picture
    assert 'id="masks"' not in opinions(client, site, 41)["picture"]


def over(shown: CutoutSet, looked_at: CutoutSet) -> blends.Masks | None:
    """Masks of 16 pixels that were made from cutouts of a set, over a picture of another."""
    version = ModelVersion(name="shares.v1", card={"inputs": {"size": 16}})
    return blends.masks(PairFlux(masks=masks()), version, looked_at, shown)


def test_masks_are_scaled_to_a_picture_of_another_scale() -> None:
    looked_at = CutoutSet(id=1, size=24, pixel_scale=0.1, origin="folder")  # arcsec/pixel
    shown = CutoutSet(id=2, size=32, pixel_scale=0.2, origin="service")

    drawn = over(shown, looked_at)

    assert drawn is not None  # a pixel of the masks is half a pixel of the picture, or 8 units
    left, right, top, bottom = corners(drawn.central)
    assert (right - left, bottom - top) == (6 * 8, 6 * 8)
    assert (left, bottom) == (256 - 3 * 8, 256 + 4 * 8)


def test_masks_of_a_cutout_with_a_middle_pixel_lie_where_the_network_looked() -> None:
    odd = CutoutSet(id=1, size=17, pixel_scale=0.1, origin="folder")

    drawn = over(odd, odd)

    assert drawn is not None  # the network saw rows and columns 0 to 15 of 17
    pixel = 512 / 17
    left, _, _, bottom = corners(drawn.central)
    assert (left, bottom) == pytest.approx((5 * pixel, 512 - 4 * pixel), abs=0.1)


def test_masks_are_left_out_of_a_picture_that_lies_otherwise() -> None:
    mosaic = CutoutSet(id=1, size=16, pixel_scale=0.1, origin="mosaic")
    service = CutoutSet(id=2, size=16, pixel_scale=0.1, origin="service")

    assert over(service, mosaic) is None
    assert over(mosaic, mosaic) is not None


def shown(page: str) -> set[str]:
    return set(re.findall(r'aria-label="Source (src-\d+),', page))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("blend_min=0.97", {40, 44, 47}),
        ("blend_max=0.05", {42, 43}),
        ("blend=disagree", {41, 42}),
        ("blend=network", {41}),
        ("blend=sep", {42}),
        ("blend=both&blend_min=0.95&blend_max=0.98", {44, 47}),
        ("blend=both&p_min=0.3&catalog=field", {46, 47}),
    ],
)
def test_sources_are_selected_by_what_is_said_of_blends(
    client: FlaskClient, arguments: str, expected: set[int]
) -> None:
    page = client.get(f"/sources?{arguments}").text

    assert shown(page) == {f"src-{k:03}" for k in expected}


def test_the_likeliest_blends_come_first_if_asked(client: FlaskClient) -> None:
    page = client.get("/sources?sort=-blend").text

    found = re.findall(r'aria-label="Source (src-\d+),', page)
    assert found[:7] == [f"src-{k:03}" for k in (40, 47, 44, 41, 46, 42, 43)]
    assert "probability of being a blend 0.990, sep finds blend" in page
    assert "Under each image: P(blend)." in page


def test_a_selection_of_blends_begins_with_the_likeliest(client: FlaskClient) -> None:
    usual = client.get("/sources?blend=both").text
    otherwise = client.get("/sources?blend=both&sort=blend").text

    found = re.findall(r'aria-label="Source (src-\d+),', usual)
    assert found == [f"src-{k:03}" for k in (40, 47, 44, 46)]
    assert re.findall(r'aria-label="Source (src-\d+),', otherwise) == found[::-1]
    assert '<option value="" selected>P(blend), highest first' in usual
    assert '<option value="-p" >P(shred), highest first' in usual


def test_the_gallery_of_blends_has_their_flags_and_what_sep_finds(client: FlaskClient) -> None:
    page = client.get("/sources?blend_min=0.9").text

    assert "more than two sources" in _text(page)
    assert '<span class="disagreeing">sep: one galaxy</span>' in page
    assert page.count('<span class="quiet">sep: blend</span>') == 4


def test_the_table_has_columns_for_what_was_judged(client: FlaskClient) -> None:
    blends_only = client.get("/sources?view=table&blend=sep&catalog=field").text
    both = client.get("/sources?view=table").text

    heads = [
        re.findall(r'<th scope="col"[^>]*>([^<]+)', page.replace("<br>", " "))
        for page in (blends_only, both)
    ]
    assert "Flags (blends)" in heads[0]
    assert {"P(shred)", "Flags (shreds)"} <= set(heads[1])


def test_an_opinion_says_which_part_of_a_larger_cutout_it_is_about() -> None:
    version = ModelVersion(card={"inputs": {"size": 64}})
    larger = CutoutSet(size=128, pixel_scale=0.06)

    assert blends.field(version, larger) == "the middle 64 px, 3.84″"
    assert blends.field(version, CutoutSet(size=64, pixel_scale=0.06)) == ""
    assert blends.field(version, None) == ""


def test_the_table_says_what_sep_finds(client: FlaskClient) -> None:
    page = client.get("/sources?view=table&blend_min=0.9&sort=blend").text

    verdicts = re.findall(r'<td( class="disagreeing")?>(blend|one galaxy|nothing)</td>', page)
    assert verdicts == [("", "blend"), (' class="disagreeing"', "one galaxy"), *[("", "blend")] * 3]


def test_limits_of_blends_are_checked_like_those_of_shreds(client: FlaskClient) -> None:
    swapped = client.get("/sources?blend_min=0.9&blend_max=0.1")
    unknown = client.get("/sources?blend=perhaps")

    assert (swapped.status_code, unknown.status_code) == (400, 400)
    assert "at most blend_max, which is 0.1" in swapped.text
    assert "disagree" in unknown.text


def test_downloads_carry_fluxes_with_units(client: FlaskClient) -> None:
    address = "/sources.{}?blend_min=0.99"
    (row,) = csv.DictReader(io.StringIO(client.get(address.format("csv")).text))
    votable = client.get(address.format("vot")).data
    table = Table.read(io.BytesIO(votable), format="votable")

    assert (row["p_blend"], row["sep_is_blend"], row["blend_detections"]) == ("0.99", "True", "2")
    assert row["flux_companion"] == "2000.0"
    assert table["flux_companion"].unit == "nJy"
    assert table["flux_companion_err"].meta["ucd"] == "stat.error;phot.flux.density;em.opt"
    assert table["separation"].unit == "arcsec"
    assert table["sep_is_blend"].dtype == "bool"
