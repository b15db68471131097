"""Exposures in FITS files: their images one after the other, and what the headers say.

A file is read once from front to back, so that memory holds one extension at a time, compressed or
not, and a damaged extension costs no other. What is on the images is for `db.detection`.
"""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

from db.cutout_fits import pixel_scale

ENDINGS = (".fits", ".fit", ".fts", ".fits.fz", ".fit.fz", ".fits.gz", ".fit.gz", ".fz")
RECORD = 2880  # bytes; FITS files are made of such
LONGEST_HEADER = 4096 * RECORD  # bytes
END = b"END".ljust(80)
LARGEST_SIDE = 32_768  # pixel
LARGEST = 400_000_000  # pixels of one image
NOT_AN_EXPOSURE = {"MASK", "WEIGHT", "WGT", "WHT", "VARIANCE", "VAR", "DQ", "DQM", "ERR", "SIGMA"}
SCALES = (1e-4, 3600.0)  # arcsec/pixel that are believed

INSTRUMENT = ("INSTRUME", "CAMERA", "DETECTOR")
FILTER = ("FILTER", "FILTER01", "FILTER1", "FILTNAM", "FILTERS", "FILTNAME", "BAND")
MJD = ("MJD-OBS", "MJD_OBS", "MJDATE", "MJD", "MJD-STR", "MJDSTART")
DATE = ("DATE-OBS", "DATE_OBS", "DATE-BEG", "DATEOBS")
TIME = ("UTC-OBS", "UTC", "TIME-OBS", "UT", "UTSTART", "UT-STR")
EXPOSURE_TIME = ("EXPTIME", "EXPOSURE", "EXPOSED", "EXP_TIME", "ITIME", "INTTIME", "TEXPTIME")
SCALE = ("PIXSCALE", "PIXSCAL1", "PIXSCAL", "SECPIX", "SECPIX1", "PIXELSCL")
DATA = ("DATASEC", "TRIMSEC")
NAME = ("EXTNAME", "CCDNAME", "DETPOS", "DETNAME", "CHIPID", "IMAGEID", "CCDNUM")


BAD_HEADER = (ValueError, TypeError, KeyError, fits.VerifyError)


class NotAnExposure(ValueError):  # noqa: N818 (it reads as what happened)
    """A file is no FITS file, or has no image that may be an exposure."""


@dataclass(frozen=True)
class Facts:
    """What the headers say of a whole exposure; None is what they do not say.

    `mjd` is UTC at the start [d], `exposure_time` in s, `pixel_scale` in arcsec/pixel.
    """

    instrument: str | None
    band: str | None
    mjd: float | None
    exposure_time: float | None
    pixel_scale: float | None


@dataclass(frozen=True)
class Image:
    """One image of a file.

    `pixels` are what the header calls data, without overscan, in the file's type; the first of them
    is at column `left` and row `bottom` of the image, 0-based. They are None if they cannot be
    read: `problem` says why then.
    """

    name: str
    width: int
    height: int
    header: fits.Header
    pixels: NDArray[Any] | None = None
    left: int = 0
    bottom: int = 0
    problem: str = ""


def name_of(path: Path) -> str:
    """File name without its endings: `1234567p.fits.fz` is exposure `1234567p`."""
    return re.sub(r"(\.(fits|fit|fts))?(\.(fz|gz))?$", "", path.name, flags=re.I)


def is_exposure_file(path: Path) -> bool:
    """Tell by its name whether a file may be an exposure."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")


class ExposureFile:
    """A FITS file with the images of one exposure, compressed in any of the usual ways.

    Iterate over it for its images, one at a time; what it says about the whole file is known in the
    end. Images are not kept: who keeps one keeps its pixels in memory.

    Attributes
    ----------
    header : fits.Header
        The primary header.
    n_missing : int
        Extensions that the primary header announces and the file does not have; at least one if
        something follows that is no header.
    unreadable_from : int or None
        The byte by which the reading of such a file ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = fits.Header()
        self.n_missing = 0
        self.unreadable_from: int | None = None

    def __iter__(self) -> Iterator[Image]:
        """Yield the images of the file.

        Raises
        ------
        NotAnExposure
            The file cannot be read at all, or holds no image.
        """
        n_images = 0
        try:
            with _open(self.path) as stream:
                for header, raw, n_bytes in self._headers(stream):
                    if _is_image(header):
                        yield _read_image(stream, header, raw, n_bytes, n_images)
                        n_images += 1
                    else:
                        _skip(stream, n_bytes)
        except OSError as error:
            raise NotAnExposure(f"the file cannot be read: {error}") from error
        if not n_images:
            raise NotAnExposure(
                "expected a FITS file with images of two axes, but it has none"
                if len(self.header)
                else "expected a FITS file, but it does not begin with a FITS header"
            )

    def _headers(self, stream: BinaryIO) -> Iterator[tuple[fits.Header, bytes, int]]:
        """Yield each header, its bytes, and how many bytes of data follow, up to the damage."""
        n, is_whole = 0, False
        with suppress(*BAD_HEADER):
            while (found := _read_header(stream)) is not None:
                header, raw = found
                n_bytes = _data_size(header)
                if n == 0:
                    self.header = header
                yield header, raw, n_bytes
                n += 1
            is_whole = True
        if not is_whole:
            self.n_missing, self.unreadable_from = 1, stream.tell()
        with suppress(*BAD_HEADER):
            announced = int(self.header.get("NEXTEND", 0)) + 1
            self.n_missing = max(self.n_missing, announced - n)


def facts(headers: Sequence[fits.Header]) -> Facts:
    """Return what the headers of an exposure say, the first that says something."""
    return Facts(
        _text(headers, INSTRUMENT),
        _band(_text(headers, FILTER)),
        _mjd(headers),
        _positive(headers, EXPOSURE_TIME, zero=True),
        _positive(headers, SCALE),
    )


def usable_wcs(header: fits.Header, width: int, height: int) -> WCS | None:
    """Return the celestial WCS of an image; None if there is none that makes sense."""
    with _quietly():
        try:
            wcs = WCS(header, naxis=2).celestial
            if not wcs.has_celestial or not SCALES[0] < pixel_scale(wcs) < SCALES[1]:
                return None
            return wcs if np.isfinite(footprint(wcs, width, height)).all() else None
        except Exception:  # a strange header can make wcslib and astropy raise anything
            return None


def footprint(wcs: WCS, width: int, height: int) -> NDArray[np.float64]:
    """Corners of an image, shape (4, 2): ra and dec, ICRS [deg], anticlockwise from (0, 0)."""
    x = np.array([0, width, width, 0]) - 0.5
    y = np.array([0, 0, height, height]) - 0.5
    return np.stack(to_sky(wcs, x, y), axis=1)


def to_sky(
    wcs: WCS, x: NDArray[np.floating], y: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of 0-based pixels on the sky: ra from 0 to 360 and dec, ICRS [deg]."""
    places = wcs.pixel_to_world(np.asarray(x, float), np.asarray(y, float)).icrs
    ra = np.asarray(places.ra.deg) % 360.0
    return np.where(ra < 360.0, ra, 0.0), np.asarray(places.dec.deg)  # -1e-15 % 360 is 360


def plain_header(header: fits.Header) -> dict[str, Any]:
    """Return the cards of a header as JSON knows them, comments and history as one text each."""
    plain: dict[str, Any] = {}
    with _quietly():
        for card in header.cards:
            with suppress(Exception):  # a card against the rules is no loss
                value = card.value
                if card.keyword in ("COMMENT", "HISTORY", ""):
                    value = f"{plain[card.keyword]}\n{value}" if card.keyword in plain else value
                plain[card.keyword] = _json(value)
    return plain


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.replace("\0", "")
    return value if isinstance(value, (bool, int, float)) else None


def _open(path: Path) -> BinaryIO:
    """Open a file for reading from front to back, unpacking it if it is gzipped."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_gzip else open(path, "rb")  # type: ignore[return-value]


def _read_header(stream: BinaryIO) -> tuple[fits.Header, bytes] | None:
    """Read up to the record with END; None where the file ends, with padding or without.

    Raises
    ------
    ValueError, TypeError, KeyError, astropy.io.fits.VerifyError
        What follows makes no sense.
    """
    raw, record = b"", _read(stream, RECORD)
    while record and not record.strip(b"\0 "):
        record = _read(stream, RECORD)
    if not record:
        return None
    while len(raw) < LONGEST_HEADER:
        if len(record) < RECORD or not (raw or record).startswith((b"SIMPLE", b"XTENSION")):
            break
        raw += record
        if any(record[at : at + 80] == END for at in range(0, RECORD, 80)):
            with _quietly():
                return fits.Header.fromstring(raw), raw
        record = _read(stream, RECORD)
    raise ValueError("expected a header of FITS, up to its END")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a line on the terminal for each old-fashioned card."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(stream: BinaryIO, n_bytes: int) -> bytes:
    """Read so many bytes, or what there is of them."""
    try:
        return stream.read(n_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile):  # a gzipped file that is cut short or damaged
        return b""


def _skip(stream: BinaryIO, n_bytes: int) -> None:
    while n_bytes > 0:
        skipped = len(_read(stream, min(n_bytes, 2**24)))
        if not skipped:
            return
        n_bytes -= skipped


def _data_size(header: fits.Header) -> int:
    """Bytes of data that follow a header, with padding (FITS 4.0, section 4.4.1 and 7.3)."""
    n_axes = int(header.get("NAXIS", 0))
    sides = [int(header.get(f"NAXIS{axis}", 0)) for axis in range(1, n_axes + 1)]
    if not sides or min(sides) < 0:
        return 0
    n = math.prod(sides) + int(header.get("PCOUNT", 0))
    n_bytes = abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * n
    return -(-n_bytes // RECORD) * RECORD


def _is_image(header: fits.Header) -> bool:
    """Whether an extension holds an image that may be a CCD: two axes, no mask, no weights."""
    sides = _sides(header)
    words = re.split(r"[^A-Z]+", f"{header.get('EXTNAME', '')} {header.get('EXTTYPE', '')}".upper())
    return (
        len(sides) >= 2
        and all(side == 1 for side in sides[2:])
        and min(sides[:2]) >= 1
        and max(sides[:2]) <= LARGEST_SIDE
        and sides[0] * sides[1] <= LARGEST
        and not NOT_AN_EXPOSURE.intersection(words)
    )


def _sides(header: fits.Header) -> list[int]:
    """Lengths of the axes of an image, compressed or not; of other extensions, none."""
    if header.get("ZIMAGE", False):
        word = "ZNAXIS"
    elif "SIMPLE" in header or str(header.get("XTENSION", "")).strip() == "IMAGE":
        word = "NAXIS"
    else:
        return []
    with suppress(*BAD_HEADER):
        n_axes = int(header.get(word, 0))
        return [int(header.get(f"{word}{axis}", 0)) for axis in range(1, n_axes + 1)]
    return []


def _read_image(
    stream: BinaryIO, header: fits.Header, raw: bytes, n_bytes: int, number: int
) -> Image:
    width, height = _sides(header)[:2]
    name = _text([header], NAME) or f"image{number:02d}"
    try:
        data = _read(stream, n_bytes)
        if len(data) < n_bytes - RECORD:  # some programs forget to fill up the last record
            raise ValueError(f"the file is cut short, {n_bytes - len(data)} bytes are missing")
        pixels, header = _decode(raw, data)
        rows, columns = _data_section(header, width, height)
        pixels = pixels.reshape(height, width)[rows, columns]
    except Exception as error:  # damaged data can make a decoder raise anything
        return Image(name, width, height, header, problem=f"{name}: {error}")
    return Image(name, width, height, header, pixels, columns.start, rows.start)


def _decode(raw: bytes, data: bytes) -> tuple[NDArray[Any], fits.Header]:
    """Unpack the pixels of one extension, and its header as it was before it was compressed."""
    is_primary = raw.startswith(b"SIMPLE")
    primary = b"" if is_primary else fits.PrimaryHDU().header.tostring().encode()
    with _quietly(), fits.open(BytesIO(primary + raw + data)) as hdus:
        hdu = hdus[0 if is_primary else 1]
        return hdu.data, hdu.header


def _data_section(header: fits.Header, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns that hold data; all of them if the header does not say, or talks nonsense.

    Images that were trimmed often keep the section of before, which reaches beyond them.
    """
    found = re.fullmatch(r"\[(\d+):(\d+),(\d+):(\d+)\]", _text([header], DATA) or "")
    if found:
        left, right, bottom, top = map(int, found.groups())
        if 1 <= left < right <= width and 1 <= bottom < top <= height:
            return slice(bottom - 1, top), slice(left - 1, right)
    return slice(0, height), slice(0, width)


def _value(headers: Sequence[fits.Header], names: Sequence[str]) -> Iterator[Any]:
    """Yield the values that are there, header by header, name by name."""
    for header in headers:
        for name in names:
            with suppress(Exception):  # a card against the rules says nothing
                value = header.get(name)
                if value is not None and not isinstance(value, fits.card.Undefined):
                    yield value


def _text(headers: Sequence[fits.Header], names: Sequence[str]) -> str | None:
    for value in _value(headers, names):
        if text := str(value).replace("\0", "").strip():
            return text
    return None


def _positive(
    headers: Sequence[fits.Header], names: Sequence[str], zero: bool = False
) -> float | None:
    for value in _value(headers, names):
        with suppress(TypeError, ValueError):
            number = float(value)
            if math.isfinite(number) and (number > 0 or (zero and number == 0)):
                return number
    return None


def _band(text: str | None) -> str | None:
    """The letter of a filter: `r.MP9601`, `r DECam SDSS c0002` and `HSC-r` are all r."""
    if text is None:
        return None
    return re.split(r"[.\s]", text.removeprefix("HSC-"))[0] or text


def _mjd(headers: Sequence[fits.Header]) -> float | None:
    """Start of the exposure, from a Modified Julian Date or from a date and a time of day."""
    if (number := _positive(headers, MJD)) is not None:
        return number
    date, time = _text(headers, DATE), _text(headers, TIME)
    if date is None:
        return None
    stamp = date if "T" in date or time is None else f"{date}T{time}"
    with suppress(Exception):  # what is no date says nothing
        return float(Time(stamp, format="isot" if "T" in stamp else "iso", scale="utc").mjd)
    return None
