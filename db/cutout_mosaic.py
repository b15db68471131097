"""An origin of pixels: images with a WCS, cut out around each source.

A cutout is the window of whole pixels whose centre is nearest to the source, at most half a pixel
off: pixels are copied, never resampled, rotated or merged across images.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from db.cutout_fits import describe, pixel_scale
from db.cutout_ingest import NothingToRead, Reading, Target
from db.cutouts import SCALE_TOLERANCE, CutoutFlag, Layout

KEPT_BYTES = 2**30  # of unpacked images kept in memory
NEAR = 1.2  # images are asked about sources within this many times their radius


class MosaicImage:
    """One image of the sky: pixels (h, w, b) in memory or in a FITS file, bands and a WCS."""

    def __init__(
        self,
        pixels: np.ndarray | _FitsPixels,
        wcs: WCS,
        bands: Sequence[str],
        unit: str = "display",
        name: str = "image",
    ) -> None:
        """The WCS gives the place on the sky of `pixels[y, x]`, as 0-based (x, y)."""
        self.pixels = pixels
        self.wcs = wcs.celestial
        self.bands = tuple(bands)
        self.unit = unit
        self.name = name
        self.height, self.width = pixels.shape[:2]
        self.dtype = pixels[:1, :1].dtype.newbyteorder("=")
        self.pixel_scale = pixel_scale(self.wcs)
        self._centre, self._radius = self._circle()
        if pixels.shape[2] != len(self.bands):
            raise NothingToRead(
                f"{name}: expected one band name for each of {pixels.shape[2]} planes, but got "
                f"{len(self.bands)}: {', '.join(self.bands)}"
            )

    def places(self, sky: SkyCoord) -> tuple[np.ndarray, np.ndarray]:
        """Return x, y [pixel] of sky positions (n,); NaN for those that are far away."""
        x, y = np.full(sky.shape, np.nan), np.full(sky.shape, np.nan)
        near = sky.separation(self._centre) < NEAR * self._radius
        if near.any():
            x[near], y[near] = self.wcs.world_to_pixel(sky[near])
        return x, y

    def _circle(self) -> tuple[SkyCoord, u.Quantity]:
        """Return the centre, and the angle to the farthest corner."""
        corners_x = np.array([0, 0, self.width, self.width]) - 0.5
        corners_y = np.array([0, self.height, 0, self.height]) - 0.5
        centre = self.wcs.pixel_to_world((self.width - 1) / 2, (self.height - 1) / 2)
        corners = self.wcs.pixel_to_world(corners_x, corners_y)
        return centre.icrs, corners.separation(centre).max()


class Mosaic:
    """Cutouts of one size from images that may be tiles, bands, or both.

    Each band of a cutout comes from the image that has most of it. A source outside of all images
    has none; pixels beyond the edge are NaN (0 for integers) and the cutout is flagged.
    """

    word = "mosaic"

    def __init__(
        self,
        images: Sequence[MosaicImage],
        size: int,
        bands: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> None:
        """`bands` chooses and orders them; by default all, as they come.

        Raises
        ------
        NothingToRead
            There are no images, none has a wanted band, or their pixel scales differ.
        """
        if not images:
            raise NothingToRead("expected at least one image with a WCS, but there is none")
        wanted = tuple(bands or dict.fromkeys(band for image in images for band in image.bands))
        self._images = [image for image in images if set(image.bands) & set(wanted)]
        _check_bands(images, wanted)
        _check_scales(self._images)
        self.layout = Layout(
            wanted,
            size,
            round(self._images[0].pixel_scale, 6),
            np.result_type(*(image.dtype for image in self._images)).name,
            unit or self._images[0].unit,
        )
        self.advice = f"Images: {', '.join(image.name for image in self._images[:5])}."
        self._files = ExitStack()

    @classmethod
    def open(
        cls,
        paths: Sequence[Path],
        size: int,
        bands: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> Self:
        """Open FITS files, compressed or not; close them with `close`.

        Where headers do not name the band, there must be one file for each of `bands`, in order.
        """
        with ExitStack() as files:
            images = []
            for place, path in enumerate(paths):
                told = bands[place] if bands and len(bands) == len(paths) else None
                images += _open_images(path, told, files)
            _limit_memory(images)
            mosaic = cls(images, size, bands, unit)
            mosaic._files = files.pop_all()
            return mosaic

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def covers(self, targets: Sequence[Target]) -> np.ndarray:
        """Say which targets lie on an image: bool, shape (n,)."""
        return np.asarray((self._windows(targets).image >= 0).any(axis=1))

    def read(self, targets: Sequence[Target]) -> Iterator[Reading]:
        """Yield one reading per target, in order."""
        windows = self._windows(targets)
        for n in range(len(targets)):
            yield self._cut(windows, n)

    def _windows(self, targets: Sequence[Target]) -> _Windows:
        """Choose for each target and band the image that has most of the cutout."""
        size, n_bands = self.layout.size, len(self.layout.bands)
        windows = _Windows.none(len(targets), n_bands)
        if not targets:
            return windows
        ra, dec = np.array([(target.ra, target.dec) for target in targets]).T
        sky = SkyCoord(ra * u.deg, dec * u.deg)
        for number, image in enumerate(self._images):
            x, y = image.places(sky)
            x0, y0 = np.ceil(x - size / 2), np.ceil(y - size / 2)
            inside = _on_image(x, image.width) & _on_image(y, image.height)
            area = _overlap(x0, size, image.width) * _overlap(y0, size, image.height)
            for place in self._places_of(image):
                better = inside & (area > windows.area[:, place])
                windows.set(better, place, number, x0, y0, area)
        return windows

    def _places_of(self, image: MosaicImage) -> list[int]:
        return [place for place, band in enumerate(self.layout.bands) if band in image.bands]

    def _cut(self, windows: _Windows, n: int) -> Reading:
        pixels = self.layout.blank()
        for number in np.unique(windows.image[n][windows.image[n] >= 0]):
            image = self._images[number]
            places = np.flatnonzero(windows.image[n] == number)
            planes = [image.bands.index(self.layout.bands[place]) for place in places]
            x0, y0 = int(windows.x0[n, places[0]]), int(windows.y0[n, places[0]])
            rows, from_rows = _slices(y0, self.layout.size, image.height)
            columns, from_columns = _slices(x0, self.layout.size, image.width)
            window = image.pixels[from_rows, from_columns]
            for place, plane in zip(places, planes, strict=True):
                pixels[rows, columns, place] = window[..., plane]
        if not np.nan_to_num(pixels).any():
            return Reading(None, CutoutFlag.NO_IMAGE, "no image (all pixels are 0 or NaN)")
        if (windows.area[n] < self.layout.size**2).any():
            return Reading(pixels, CutoutFlag.PARTLY_OUTSIDE)
        return Reading(pixels)


@dataclass
class _Windows:
    """For each target and band, shape (n, b): image number or -1, window corner, pixels there."""

    image: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    area: np.ndarray

    @classmethod
    def none(cls, n_targets: int, n_bands: int) -> Self:
        shape = (n_targets, n_bands)
        return cls(np.full(shape, -1), np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def set(
        self,
        where: np.ndarray,
        place: int,
        image: int,
        x0: np.ndarray,
        y0: np.ndarray,
        area: np.ndarray,
    ) -> None:
        self.image[where, place] = image
        self.x0[where, place] = x0[where]
        self.y0[where, place] = y0[where]
        self.area[where, place] = area[where]


class _FitsPixels:
    """The pixels of a FITS image as if they were an array (h, w, b), read when sliced."""

    def __init__(self, hdu: Any) -> None:
        self._hdu = hdu
        planes = hdu.shape[0] if len(hdu.shape) == 3 else 1
        self.shape = (*hdu.shape[-2:], planes)
        self.unpacked: Any = None  # unpacks a whole image, and keeps it for the next cutouts

    @property
    def is_packed(self) -> bool:
        """Say whether the image is compressed or scaled, so that it cannot be memory-mapped."""
        scaled = {"BZERO", "BSCALE", "BLANK"} & set(self._hdu.header)
        return isinstance(self._hdu, fits.CompImageHDU) or bool(scaled)

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape)) * 4

    def unpack(self) -> np.ndarray:
        """Read the whole image."""
        return np.asarray(self._hdu.section[...])

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        data = self._read(window)
        return np.moveaxis(data[None] if data.ndim == 2 else data, 0, -1)

    def _read(self, window: tuple[slice, slice]) -> np.ndarray:
        if self.unpacked:
            return np.asarray(self.unpacked(self)[..., *window])
        if self.is_packed:
            planes = (slice(None),) * (len(self._hdu.shape) - 2)
            return np.asarray(self._hdu.section[*planes, *window])
        return np.asarray(self._hdu.data[..., *window])


def _open_images(path: Path, band: str | None, files: ExitStack) -> list[MosaicImage]:
    """Open every image of a FITS file that has a place on the sky."""
    try:
        hdus = files.enter_context(fits.open(path))
        found = [hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS", 0) in (2, 3)]
    except OSError as error:
        raise NothingToRead(f"{path} cannot be read as FITS: {error}") from error
    images = [_as_image(hdu, path, band) for hdu in found if WCS(hdu.header).has_celestial]
    if not images:
        raise NothingToRead(
            f"{path} has no image with a celestial WCS (CTYPE, CRVAL, CRPIX and CD or CDELT); "
            f"it has {len(found)} image(s) without"
        )
    return images


def _as_image(hdu: Any, path: Path, band: str | None) -> MosaicImage:
    pixels = _FitsPixels(hdu)
    told = describe(hdu.header)
    bands = told.get("bands") or ((band,) if band else None)
    if bands is None:
        raise NothingToRead(
            f"{path} does not say which band it is (no BAND, BANDS or FILTER in its header); give "
            "--bands with as many bands as files, in the same order"
        )
    return MosaicImage(pixels, WCS(hdu.header), bands, told.get("unit", "adu"), path.name)


def _limit_memory(images: Sequence[MosaicImage]) -> None:
    """Let packed images be unpacked whole, but only as many at a time as fit into memory."""
    packed = [
        image.pixels
        for image in images
        if isinstance(image.pixels, _FitsPixels) and image.pixels.is_packed
    ]
    n_kept = KEPT_BYTES // max((pixels.n_bytes for pixels in packed), default=1)
    if packed and n_kept >= 2:
        unpacked = functools.lru_cache(maxsize=n_kept)(_FitsPixels.unpack)
        for pixels in packed:
            pixels.unpacked = unpacked


def _check_bands(images: Sequence[MosaicImage], wanted: Sequence[str]) -> None:
    there = list(dict.fromkeys(band for image in images for band in image.bands))
    if missing := [band for band in wanted if band not in there]:
        raise NothingToRead(
            f"expected images in {', '.join(wanted)}, but there is none in {', '.join(missing)}; "
            f"there are {', '.join(there)}"
        )


def _check_scales(images: Sequence[MosaicImage]) -> None:
    first = images[0]
    for image in images[1:]:
        if abs(image.pixel_scale / first.pixel_scale - 1) > SCALE_TOLERANCE:
            raise NothingToRead(
                f"expected one pixel scale, but {first.name} has {first.pixel_scale:.4f} and "
                f"{image.name} {image.pixel_scale:.4f} arcsec/pixel; ingest them as separate sets"
            )


def _on_image(position: np.ndarray, length: int) -> np.ndarray:
    return (position >= -0.5) & (position < length - 0.5)


def _overlap(start: np.ndarray, size: int, length: int) -> np.ndarray:
    """Return how many pixels of a window lie on an axis of a given length."""
    overlap: np.ndarray = np.clip(np.minimum(start + size, length) - np.maximum(start, 0), 0, None)
    return overlap


def _slices(start: int, size: int, length: int) -> tuple[slice, slice]:
    """Return which part of a window lies on the axis, and where."""
    first, last = max(start, 0), min(start + size, length)
    return slice(first - start, last - start), slice(first, last)
