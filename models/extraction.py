"""What SExtractor's algorithms (sep) say of a blend: how many, how bright, and what is in the way.

Two readings of the same pixels. `photometry` is that of blend2flux (hot and cold modes), `verdict`
that of BlendHunter (a low threshold). Neither is told the truth; `truth_aware_verdict` is, and says
so. Fluxes are in the unit of the pixels and not calibrated: multiply by a factor of `calibration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["isophotal", "auto"]

MATCH_RADIUS = 2.0  # pixels, of a detection from a true galaxy (BlendHunter)
CENTRAL_WITHIN = 0.5  # half-light radii, of a lone detection from the middle (blend2flux)
CORE = 2  # pixels to each side of the middle where a pixel without value means saturation
PLATEAU = 4  # touching pixels of exactly the same, highest value
PLATEAU_HEIGHT = 10.0  # σ above the median
LEAST_RADIUS = 1.75  # pixels, of an AUTO aperture
THIRD = 0.1  # share of all detected light that makes a third detection a galaxy, not a knot
OBSTACLES = ("more_than_two", "cut_off", "saturated")
ROW_KIND: Kind = "auto"  # what catalogs are measured with: its calibration hardly moves with depth
ROW_SUBTRACT = True  # a survey's pixels may have some sky left


@dataclass(frozen=True)
class Settings:
    """How sep detects: threshold [global rms], fewest pixels, and how eagerly it deblends."""

    threshold: float
    min_area: int
    contrast: float
    levels: int = 64


COLD = Settings(5.0, 10, 1e-2)
HOT = Settings(4.0, 6, 1e-4)
LOW = Settings(1.5, 5, 0.005, 32)  # of BlendHunter


@dataclass(frozen=True)
class Photometry:
    """What sep measured on n cutouts; fluxes as central, companion, in the unit of the pixels."""

    flux: NDArray[np.float32]  # (n, 2), NaN where undetected
    detections: NDArray[np.int16]  # (n,)
    truncated: NDArray[np.bool_]  # (n,) light of one reaches the border, or pixels without value
    more_than_two: NDArray[np.bool_]  # (n,) see `obstacles`
    masks: NDArray[np.bool_] | None = None  # (n, h, w, 2), the pixels of each, if asked for


def photometry(
    pixels: NDArray[np.floating],
    *,
    subtract: bool = False,
    kind: Kind = "isophotal",
    radius: NDArray[np.floating] | None = None,
    modes: Sequence[Settings] = (COLD, HOT),
    masks: bool = False,
) -> Photometry:
    """Measure the central galaxy and its companion with sep, as blend2flux's baseline did.

    The detection nearest to the middle is the central galaxy, the brightest of the others its
    companion. A lone detection is the central galaxy when it lies within half a half-light radius
    of the middle, else the companion.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)
        One band, any linear unit; pixels that are not finite are masked.
    subtract : bool
        Take sep's background away first. Published: no; the background gives the noise only.
    kind : "isophotal" or "auto"
        Light above the threshold (published), or within 2.5 Kron radii.
    radius : ndarray of float, shape (n,), optional
        Half-light radius of the central galaxy [pixel], if it is known. Without it the radius of
        the lone detection decides, which is that of both galaxies where sep took them for one.
    modes : sequence of Settings
        Tried in turn until two detections are there; the last one counts if they never are.
    masks : bool
        Also say which pixels sep gives to which galaxy; it gives a pixel to one at most.

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, section 3.4; Bertin & Arnouts (1996), A&AS 117, 393.
    """
    n = len(_cutouts(pixels))
    flux = np.full((n, 2), np.nan, np.float32)
    detections = np.zeros(n, np.int16)
    truncated, more_than_two = np.zeros(n, bool), np.zeros(n, bool)
    segments = np.zeros((*pixels.shape, 2), bool) if masks else None
    for k, image in enumerate(pixels):
        cutout = _Cutout(image, subtract)
        found = cutout.first_pair(modes)
        detections[k] = len(found.objects)
        thorough = found if found.mode == modes[-1] else cutout.extract(modes[-1])
        more_than_two[k] = thorough.has_a_third()
        for which, index in enumerate(found.pair(None if radius is None else float(radius[k]))):
            if index is not None:
                flux[k, which] = found.light(index, kind)
                truncated[k] |= found.is_cut_off(index)
                if segments is not None:
                    segments[k, ..., which] = found.segments == index + 1
    return Photometry(flux, detections, truncated, more_than_two, segments)


def calibration(
    pixels: NDArray[np.floating],
    flux: NDArray[np.floating],
    *,
    subtract: bool = False,
    kind: Kind = "isophotal",
) -> float:
    """Factor that puts sep's fluxes on the scale of the truth, from isolated galaxies.

    The median of true flux over sep's flux of the central galaxy. sep's isophotes lose light, the
    more of it the fainter the galaxy, so the factor belongs to a noise and to a population.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)
        Cutouts with one galaxy in the middle of each, with the noise of those to be measured.
    flux : ndarray of float, shape (n,)
        True fluxes, in the unit of the pixels.

    Raises
    ------
    ValueError
        sep finds none of the galaxies.
    """
    measured = photometry(pixels, subtract=subtract, kind=kind).flux[:, 0].astype(np.float64)
    usable = measured > 0
    if not usable.any():
        raise ValueError(
            f"sep finds none of the {len(pixels):,} isolated galaxies given; calibrate on brighter "
            "ones or with less noise"
        )
    return float(np.median(np.asarray(flux, np.float64)[usable] / measured[usable]))


def verdict(pixels: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.int16]]:
    """Whether sep takes each cutout for a blend, told nothing of the truth.

    A blend is two detections or more, or one that sep marks as merged, at BlendHunter's settings.
    Without a detection it is no blend.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)

    Returns
    -------
    ndarray of bool and ndarray of int16, both of shape (n,)
        The verdict, and the number of detections.
    """
    n = len(_cutouts(pixels))
    is_blend, detections = np.zeros(n, bool), np.zeros(n, np.int16)
    for k, image in enumerate(pixels):
        objects = _Cutout(image).extract(LOW).objects
        detections[k] = len(objects)
        is_blend[k] = len(objects) >= 2 or _merged(objects).any()
    return is_blend, detections


def truth_aware_verdict(
    pixels: NDArray[np.floating],
    dx: NDArray[np.floating],
    dy: NDArray[np.floating],
    is_blend: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.int16]]:
    """BlendHunter's verdict of sep, which is told where the galaxies are, with its slips removed.

    A true galaxy is matched when a detection lies within 2 pixels of it. One detection: a blend if
    merged and every galaxy is matched. More: a blend if every galaxy is matched, or if a matching
    detection is marked as merged. No detection counts as wrong. Three slips are gone: a detection
    matches one galaxy at most (the published one could match both), the middle is (side - 1) / 2
    (not side / 2), and no verdict is left over from the cutout before. One detection can therefore
    no longer be a true blend.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)
    dx, dy : ndarray of float, shape (n,)
        Offset of the companion from the middle, in columns and rows [pixel]; unused where
        `is_blend` is False.
    is_blend : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray of bool and ndarray of int16, both of shape (n,)
        The verdict, and the number of detections.
    """
    said, detections = np.zeros(len(_cutouts(pixels)), bool), np.zeros(len(pixels), np.int16)
    for k, image in enumerate(pixels):
        objects = _Cutout(image).extract(LOW).objects
        detections[k] = len(objects)
        offsets = [(0.0, 0.0)] + ([(float(dx[k]), float(dy[k]))] if is_blend[k] else [])
        said[k] = _published_rule(objects, _matches(objects, image.shape, offsets), is_blend[k])
    return said, detections


def _published_rule(objects: NDArray[Any], matches: list[int | None], is_blend: bool) -> bool:
    if not len(objects):
        return not is_blend
    all_matched = None not in matches
    merged = _merged(objects)
    if len(objects) == 1:
        return all_matched and bool(merged[0])
    return all_matched or any(merged[match] for match in matches if match is not None)


def _matches(
    objects: NDArray[Any], shape: tuple[int, ...], offsets: list[tuple[float, float]]
) -> list[int | None]:
    """For each true galaxy its detection, the closest pairs first and no detection twice."""
    matches: list[int | None] = [None] * len(offsets)
    if not len(objects):
        return matches
    middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    distance = np.array(
        [np.hypot(objects["x"] - middle[0] - x, objects["y"] - middle[1] - y) for x, y in offsets]
    )  # (galaxies, detections)
    for _ in offsets:
        galaxy, detection = np.unravel_index(np.argmin(distance), distance.shape)
        if distance[galaxy, detection] > MATCH_RADIUS:
            break
        matches[int(galaxy)] = int(detection)
        distance[galaxy, :] = distance[:, detection] = np.inf
    return matches


def obstacles(
    pixels: NDArray[np.floating], measured: Photometry | None = None
) -> dict[str, NDArray[np.bool_]]:
    """What makes a cutout one that the networks for pairs were not made for, by name.

    `more_than_two`: besides the central galaxy and its companion, sep finds a source with more than
    a tenth of all detected light, in the last of its modes (hot). Knots of irregular galaxies can
    look so, and half of all third galaxies are too close to another one to be seen. `cut_off`: the
    isophote of one of the two touches the border, or a pixel without value, as in the margin of a
    cutout that was made larger. `saturated`: see `saturated`.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)
    measured : Photometry, optional
        Of the same pixels, if it is there already.

    Returns
    -------
    dict of the names in `OBSTACLES` to ndarray of bool, shape (n,)
    """
    measured = photometry(pixels) if measured is None else measured
    flags = (measured.more_than_two, measured.truncated, saturated(pixels))
    return dict(zip(OBSTACLES, flags, strict=True))


def saturated(pixels: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether the light was too much for the camera.

    Either four touching pixels or more share exactly the highest value, well above the noise, or a
    pixel within two of the middle has no value. Cores that a survey filled in, or left round and
    wrong, are not recognised.

    Parameters
    ----------
    pixels : ndarray of float, shape (n, h, w)

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    from scipy import ndimage  # takes a while to import

    height, width = _cutouts(pixels).shape[1:]
    finite = np.isfinite(pixels)
    rows, columns = (
        slice(max(0, (side - 1) // 2 - CORE), side // 2 + CORE + 1) for side in (height, width)
    )
    result = ~finite[:, rows, columns].all(axis=(1, 2))
    light = np.where(finite, pixels, -np.inf)
    at_top = finite & (light == light.max(axis=(1, 2), keepdims=True, initial=-np.inf))
    for k in np.flatnonzero(~result & (at_top.sum(axis=(1, 2)) >= PLATEAU)):
        parts, _ = ndimage.label(at_top[k])
        values = light[k][finite[k]]
        median = np.median(values)
        noise = 1.4826 * np.median(np.abs(values - median))
        high = values.max() > median + PLATEAU_HEIGHT * noise
        result[k] = high and np.bincount(parts.ravel())[1:].max() >= PLATEAU
    return result


class _Cutout:
    """One cutout as sep wants it."""

    def __init__(self, image: NDArray[np.floating], subtract: bool = False) -> None:
        import sep

        values = np.isfinite(image)
        self.mask = None if values.all() else np.ascontiguousarray(~values)
        self.image = np.ascontiguousarray(np.where(values, image, 0.0), np.float32)
        self.rms = 0.0
        if values.any():
            background = sep.Background(self.image, mask=self.mask)
            if not _mostly_alike(self.image[values]):
                self.rms = float(background.globalrms)
            if subtract:
                self.image = np.asarray(self.image - background.back(), np.float32)

    def first_pair(self, modes: Sequence[Settings]) -> _Found:
        """Extract by one mode after the other until two objects are there."""
        for mode in modes:
            found = self.extract(mode)
            if len(found.objects) >= 2:
                break
        return found

    def extract(self, settings: Settings) -> _Found:
        """Detect; without noise there is no threshold, and nothing is found."""
        if not self.rms > 0:
            return _Found(self, settings, np.zeros(0), np.zeros(self.image.shape, np.int32))
        try:
            objects, segments = self._extracted(settings)
        except Exception as error:  # sep raises no class of its own
            if "deblending overflow" not in str(error):
                raise
            objects, segments = self._extracted(replace(settings, levels=1))  # without deblending
        return _Found(self, settings, objects, segments)

    def _extracted(self, settings: Settings) -> tuple[NDArray[Any], NDArray[np.int32]]:
        import sep

        return sep.extract(
            self.image,
            settings.threshold * self.rms,
            mask=self.mask,
            minarea=settings.min_area,
            deblend_nthresh=settings.levels,
            deblend_cont=settings.contrast,
            segmentation_map=True,
        )


@dataclass(frozen=True)
class _Found:
    """What sep found in a cutout in one mode."""

    cutout: _Cutout
    mode: Settings
    objects: NDArray[Any]  # sep's table
    segments: NDArray[np.int32]  # (h, w), object k has the pixels of k + 1

    def pair(self, radius: float | None = None) -> tuple[int | None, int | None]:
        """Which of the objects are the central galaxy and its companion."""
        if not len(self.objects):
            return None, None
        height, width = self.segments.shape
        distance = np.hypot(
            self.objects["x"] - (width - 1) / 2, self.objects["y"] - (height - 1) / 2
        )
        central = int(np.argmin(distance))
        if len(self.objects) == 1:
            radius = self._half_light_radius() if radius is None else radius
            return (0, None) if distance[0] < CENTRAL_WITHIN * radius else (None, 0)
        others = self.objects["flux"].copy()
        others[central] = -np.inf
        return central, int(np.argmax(others))

    def _half_light_radius(self) -> float:
        """Half-light radius of a lone object."""
        import sep

        one = self.objects
        radius, _ = sep.flux_radius(
            self.cutout.image, one["x"], one["y"], 6.0 * one["a"], 0.5, normflux=one["flux"]
        )
        return float(radius[0])

    def has_a_third(self) -> bool:
        """Whether a source besides the pair has a good share of the light."""
        if len(self.objects) <= 2:
            return False
        light = self.objects["flux"]
        others = np.delete(light, [index for index in self.pair() if index is not None])
        return bool(others.max() > THIRD * light.sum())

    def is_cut_off(self, index: int) -> bool:
        """Whether the isophote of an object touches the border, or a pixel without value."""
        import sep
        from scipy import ndimage  # takes a while to import

        if self.objects["flag"][index] & sep.OBJ_TRUNC:
            return True
        if self.cutout.mask is None:
            return False
        around = ndimage.binary_dilation(self.segments == index + 1)
        return bool((around & self.cutout.mask).any())

    def light(self, index: int, kind: Kind) -> float:
        """Flux of an object."""
        return float(self.objects["flux"][index]) if kind == "isophotal" else self._auto(index)

    def _auto(self, index: int) -> float:
        """SExtractor's AUTO flux: within 2.5 Kron radii, or a circle of 3.5 pixels if smaller."""
        import sep

        one, image = self.objects[index], self.cutout.image
        others = {"mask": self.cutout.mask, "segmap": self.segments, "seg_id": index + 1}
        theta = np.clip(one["theta"], -np.pi / 2, np.pi / 2)  # sep refuses what rounding left over
        ellipse = one["x"], one["y"], one["a"], one["b"], theta
        kron, _ = sep.kron_radius(image, *ellipse, 6.0, **others)
        if kron * np.sqrt(one["a"] * one["b"]) > LEAST_RADIUS:
            flux, _, _ = sep.sum_ellipse(image, *ellipse, 2.5 * kron, subpix=1, **others)
        else:
            flux, _, _ = sep.sum_circle(image, one["x"], one["y"], LEAST_RADIUS, subpix=1, **others)
        return float(flux)


def _mostly_alike(values: NDArray[np.float32]) -> bool:
    """Whether half of the pixels or more have the very same value, and so no noise.

    sep calls the noise of such pixels 1, in whatever unit, or something next to nothing.
    """
    return 2 * int((values == np.median(values)).sum()) >= values.size


def _merged(objects: NDArray[Any]) -> NDArray[np.bool_]:
    import sep

    if not len(objects):
        return np.zeros(0, bool)
    return (objects["flag"] & sep.OBJ_MERGED) != 0


def _cutouts(pixels: NDArray[np.floating]) -> NDArray[np.floating]:
    if pixels.ndim != 3:
        raise ValueError(
            f"expected cutouts of one band as (n, height, width), not an array of shape "
            f"{pixels.shape}; choose the band first"
        )
    return pixels
