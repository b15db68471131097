import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from db.pictures import LARGEST, Picture, UnknownFormat, UnusablePicture, decode

RAMP = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)


def picture_file(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def fits_file(pixels: np.ndarray, **cards: object) -> bytes:
    buffer = io.BytesIO()
    fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(buffer)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes or so that claims any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def fits_of_size(width: int, height: int, bitpix: int = -32) -> bytes:
    cards = [
        "SIMPLE  =                    T",
        f"BITPIX  = {bitpix:20}",
        "NAXIS   =                    2",
    ]
    cards += [f"NAXIS1  = {width:20}", f"NAXIS2  = {height:20}", "END"]
    return "".join(f"{card:80}" for card in cards).encode().ljust(2880) + bytes(2880)


def test_a_colour_picture_lies_with_its_lowest_row_first() -> None:
    top = np.zeros((20, 20, 3), np.uint8)
    top[0] = (250, 120, 60)

    picture = decode(picture_file(top))

    assert picture.pixels.shape == (20, 20, 3)
    assert picture.pixels[-1, 0].tolist() == [250, 120, 60]
    assert picture.pixels[0, 0].tolist() == [0, 0, 0]
    assert (picture.unit, picture.media_type) == ("display", "image/png")


def test_grey_becomes_three_equal_planes() -> None:
    picture = decode(picture_file(RAMP))

    assert picture.pixels.shape == (20, 30, 3)
    np.testing.assert_array_equal(picture.pixels[::-1, :, 1], RAMP)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    picture = decode(picture_file(np.full((20, 20), 65_535, np.uint16)))

    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.min() == 255


@pytest.mark.parametrize(("alpha", "seen"), [(0, 0), (51, 40), (255, 200)])
def test_a_transparent_picture_lies_on_black(alpha: int, seen: int) -> None:
    picture = np.full((20, 20, 4), (200, 200, 200, alpha), np.uint8)

    assert decode(picture_file(picture)).pixels[0, 0].tolist() == [seen] * 3


def test_a_transparent_colour_of_a_palette_becomes_black() -> None:
    content = io.BytesIO()
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 250, 120, 60])
    image.save(content, "PNG", transparency=1)

    assert decode(content.getvalue()).pixels.max() == 0


def test_a_jpeg_is_known_by_its_content() -> None:
    picture = decode(picture_file(np.full((40, 40, 3), 90, np.uint8), "JPEG"))

    assert picture.media_type == "image/jpeg"
    assert abs(int(picture.pixels[5, 5, 0]) - 90) <= 2


def test_a_fits_file_tells_bands_unit_and_scale() -> None:
    header = {"BANDS": "grz", "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    scale = {"CD1_1": -0.5 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.5 / 3600}

    picture = decode(fits_file(np.ones((3, 20, 30), np.float32), **header, **scale))

    assert picture.pixels.shape == (20, 30, 3)
    assert picture.bands == ("g", "r", "z")
    assert picture.unit == "nanomaggy"
    assert picture.pixel_scale == pytest.approx(0.5)


def test_a_fits_file_of_one_plane_and_no_words_is_understood() -> None:
    picture = decode(fits_file(RAMP.astype(np.int16)))

    assert picture.pixels.shape == (20, 30, 1)
    assert picture.pixel_scale is None
    assert picture.unit == "adu"


def test_pixels_without_a_value_are_kept_as_long_as_some_have_one() -> None:
    pixels = np.full((20, 20), np.nan, np.float32)
    pixels[3, 3] = 1

    assert np.isfinite(decode(fits_file(pixels)).pixels).sum() == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"hello, this is text " * 100,
        b"GIF89a" + bytes(100),
        gzip.compress(fits_file(RAMP)),
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_other_formats_are_refused_by_their_content(content: bytes) -> None:
    with pytest.raises(UnknownFormat, match="expected a PNG, JPEG or FITS file"):
        decode(content)


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(np.full((20, 20, 3), k, np.uint8)) for k in (0, 99)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])

    with pytest.raises(UnknownFormat, match="animated"):
        decode(buffer.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_of_size(30_000, 30_000), id="bomb"),
        pytest.param(png_of_size(10_000, 10_000), id="bomb that Pillow only warns of"),
        pytest.param(png_of_size(LARGEST + 1, 20), id="too wide"),
        pytest.param(png_of_size(0, 20), id="no width"),
        pytest.param(picture_file(RAMP[:15]), id="too small"),
        pytest.param(picture_file(RAMP)[:60], id="truncated PNG"),
        pytest.param(picture_file(RAMP)[:-40], id="PNG without its end"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature only"),
        pytest.param(picture_file(np.zeros((99, 99, 3), np.uint8), "JPEG")[:500], id="cut JPEG"),
        pytest.param(fits_of_size(10**9, 1), id="FITS of a billion columns"),
        pytest.param(fits_of_size(10**9, 10**9), id="FITS bomb"),
        pytest.param(fits_of_size(-5, 20), id="FITS of negative size"),
        pytest.param(fits_of_size(100, 100), id="FITS cut short"),
        pytest.param(fits_of_size(100, 100, bitpix=7), id="FITS of seven bits"),
        pytest.param(b"SIMPLE  =", id="FITS signature only"),
        pytest.param(fits_file(np.full((20, 20), np.nan, np.float32)), id="FITS of NaN"),
        pytest.param(fits_file(np.zeros(50, np.float32)), id="FITS of one axis"),
        pytest.param(fits_file(np.zeros((2, 2, 20, 20), np.float32)), id="FITS of four axes"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_unpacked(content: bytes) -> None:
    with pytest.raises(UnusablePicture) as refused:
        decode(content)

    assert "expected" in str(refused.value) or "cannot be read" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_compressed_fits_file_that_unpacks_to_too_much_is_refused() -> None:
    buffer = io.BytesIO()
    fits.CompImageHDU(np.zeros((5_000, 100), np.int16)).writeto(buffer)

    with pytest.raises(UnusablePicture, match="4096 pixels on a side"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("seed", range(8))
def test_damage_never_raises_anything_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 255, (24, 24, 3), np.uint8)
    whole = [
        picture_file(colours),
        picture_file(colours, "JPEG"),
        fits_file(RAMP.astype(np.float32), BANDS="r"),
    ][seed % 3]
    damaged = np.frombuffer(whole, np.uint8).copy()
    places = rng.integers(12, len(damaged), 20)
    damaged[places] = rng.integers(0, 255, 20, np.uint8)

    try:
        picture = decode(damaged.tobytes())
    except (UnknownFormat, UnusablePicture):
        return
    assert isinstance(picture, Picture)
    assert picture.pixels.ndim == 3
