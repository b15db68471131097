"""A simulated camera with known faults: exposures as a wide-field imager takes them.

Decides what is on the sky and what goes wrong; `camera_light` draws it, `camera_files` writes it.
A fault has a strength from 0 (as good) to 1; from THRESHOLD on it counts as a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.camera_light import RADII, SMALL, Pictures, Seen, bleed, paste, pictures

STARS = 6.0  # per square arcminute, brighter than 24 mag, far from the Milky Way
THRESHOLD = 0.25  # strength from which an exposure is labelled with its fault


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and which of the five classes of the paper it belongs to."""

    label: str
    weak_label: str = "Good"  # below THRESHOLD
    about: str = ""


FAULTS = {
    "good": Fault("Good", about="nothing goes wrong"),
    "slight_tracking": Fault("BT", about="trails of 4 to 10 pixels"),
    "severe_tracking": Fault("RBT", "BT", about="trails of 16 to 40 pixels"),
    "seeing": Fault("B-Seeing", about="seeing from 1.13 to 2 arcsec"),
    "defocus": Fault("B-Seeing", about="rings, the mirror's image, of 4 to 13 pixels radius"),
    "gradient": Fault("BGP", about="stray light: a tilted sky, and sheets of light with edges"),
    "fringes": Fault("BGP", about="interference fringes of 0.75 to 6 times the noise"),
    "saturation": Fault("BGP", about="many bright stars that bleed"),
    "crowding": Fault("BGP", about="a field full of stars"),
    "low_exposure": Fault("BGP", about="1/6 to 1/1000 of the light"),
}
CLASSES = ("Good", "RBT", "BT", "B-Seeing", "BGP")


@dataclass(frozen=True)
class Band:
    """A filter: zero point [mag at 1 electron/s] and sky brightness [mag/arcsec²]."""

    name: str
    zero_point: float
    sky: float
    galaxies: float  # per square arcminute, brighter than 24 mag


BANDS = (
    Band("g.MP9401", 26.5, 21.8, 12.0),
    Band("r.MP9601", 26.1, 20.9, 18.0),
    Band("i.MP9701", 25.7, 20.1, 24.0),
)


@dataclass(frozen=True)
class Camera:
    """A mosaic of CCDs."""

    n_ccds: int = 4
    width: int = 256  # [pixel]
    height: int = 512  # [pixel]
    pixel_scale: float = 0.184  # [arcsec/pixel]
    gap: int = 70  # between CCDs [pixel]
    gain: float = 1.6  # [electron/adu]
    read_noise: float = 5.0  # [electron]
    bias: float = 300.0  # [adu]
    full_well: float = 104_000.0  # [electron]
    density: float = 3.5  # sources per area, relative to the sky: few pixels should show enough

    @property
    def n_rows(self) -> int:
        """Rows of CCDs; the mosaic is about as wide as high."""
        return max(1, round((self.n_ccds * self.width / self.height) ** 0.5))

    @property
    def n_columns(self) -> int:
        """Columns of CCDs."""
        return -(-self.n_ccds // self.n_rows)

    def corner(self, number: int) -> tuple[float, float]:
        """Where the first pixel of a CCD lies, from the middle of the mosaic [pixel]."""
        row, column = divmod(number, self.n_columns)
        x = (column - self.n_columns / 2) * (self.width + self.gap) + self.gap / 2
        y = (row - self.n_rows / 2) * (self.height + self.gap) + self.gap / 2
        return x, y


FULL_SIZE = Camera(n_ccds=36, width=2048, height=4612, density=1.0)


@dataclass(frozen=True)
class Exposure:
    """What the camera wrote: pixels by CCD, and header cards that hold no truth."""

    camera: Camera
    header: dict[str, Any]
    ccds: list[NDArray[np.uint16]]  # each (h, w) [adu]


def label(fault: str, strength: float) -> str:
    """Class of the paper that an exposure belongs to."""
    known = FAULTS[fault]
    return known.label if strength >= THRESHOLD else known.weak_label


def choose(
    rng: np.random.Generator, faults: Sequence[str] = tuple(FAULTS)[1:], good: float = 0.6
) -> tuple[str, float]:
    """Choose what goes wrong, and how strongly.

    Parameters
    ----------
    rng : Generator
    faults : sequence of str
        All equally likely.
    good : float
        Share of exposures where nothing goes wrong. A few of the others are labelled good as
        well, because their fault is too weak to count.
    """
    chosen, strength = str(rng.choice(faults)), float(rng.uniform(0.1, 1))
    return ("good", 0.0) if rng.random() < good else (chosen, strength)


def draw(camera: Camera, fault: str, strength: float, rng: np.random.Generator) -> Exposure:
    """Take one exposure.

    Parameters
    ----------
    camera : Camera
    fault : str
        One of FAULTS.
    strength : float
        From 0, as good, to 1.
    rng : Generator
        All chance comes from here.
    """
    conditions = observe(camera, fault, strength, rng)
    return Exposure(camera, conditions.header, list(read_out(conditions)))


@dataclass(frozen=True)
class Conditions:
    """All that one exposure has in common on every CCD."""

    camera: Camera
    header: dict[str, Any]
    band: Band
    light: float  # seconds of light
    seen: Seen
    sky: float  # [electron/pixel]
    waves: NDArray[np.float64]  # (k, 4) kx, ky [rad/pixel], phase, weight; of warped fringes
    fringes: float  # amplitude [electron]
    tilt: NDArray[np.float64]  # (2,) of the sky over the mosaic, relative
    sheets: NDArray[np.float64]  # (k, 5) of stray light: angle, place, edge, width, brightness
    galaxies: float  # how many there are, relative to the mean
    stars: float
    crowd: float  # more stars [per square arcminute]
    bright: float  # more bright stars [per square arcminute]
    seeds: NDArray[np.int64] = field(repr=False)  # (n_ccds,)


def observe(camera: Camera, fault: str, strength: float, rng: np.random.Generator) -> Conditions:
    """Decide the sky, the weather and what goes wrong."""
    if fault not in FAULTS:
        raise ValueError(f"fault should be one of {', '.join(FAULTS)}; got {fault!r}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength should be from 0 to 1; got {strength}")
    amount = {name: strength if name == fault else 0.0 for name in FAULTS}
    band = BANDS[rng.integers(len(BANDS))]
    if fault == "fringes":
        band = BANDS[-1]  # silicon shows them in red light only
    exposure_time = float(rng.choice([300, 450, 600]))
    light = exposure_time * 10 ** (-3 * amount["low_exposure"]) * rng.uniform(0.85, 1)
    brightness = band.sky + rng.normal(0, 0.2)
    sky = 10 ** (0.4 * (band.zero_point - brightness)) * camera.pixel_scale**2 * light
    noise = (sky + camera.read_noise**2) ** 0.5
    return Conditions(
        camera=camera,
        header=_header(camera, band, exposure_time, rng),
        band=band,
        light=light,
        seen=_seen(camera, fault, strength, rng),
        sky=sky,
        waves=_waves(rng),
        fringes=noise * (rng.uniform(0, 0.15) * (band is BANDS[-1]) + 6 * amount["fringes"] ** 1.5),
        tilt=_tilt(amount["gradient"], rng),
        sheets=_sheets(camera, amount["gradient"], rng),
        galaxies=float(np.exp(rng.normal(0, 0.15))),
        stars=float(np.exp(rng.normal(0, 0.3))),
        crowd=100 * (10 ** amount["crowding"] - 1),
        bright=5 * amount["saturation"],
        seeds=rng.integers(2**62, size=camera.n_ccds),
    )


def read_out(conditions: Conditions) -> Iterator[NDArray[np.uint16]]:
    """Pixels of one CCD after the other, each (h, w) [adu]."""
    for number, seed in enumerate(conditions.seeds):
        yield _ccd(conditions, number, np.random.default_rng(seed))


def _ccd(conditions: Conditions, number: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    camera = conditions.camera
    image = _sky(conditions, number)
    _add_sources(image, conditions, rng)
    bleed(image, camera.full_well)
    # A Gaussian as wide as Poisson's noise: from 20 electrons on nobody sees the difference.
    noise = rng.standard_normal(image.shape, np.float32)
    image += noise * np.sqrt(image + np.float32(camera.read_noise**2))
    adu = np.rint(image / camera.gain + camera.bias)
    return np.clip(adu, 0, 65535).astype(np.uint16)


def _sky(conditions: Conditions, number: int) -> NDArray[np.float32]:
    """Sky, stray light and fringes on one CCD [electron/pixel]."""
    camera = conditions.camera
    left, bottom = camera.corner(number)
    x = np.arange(camera.width, dtype=np.float32)[None, :] + np.float32(left)
    y = np.arange(camera.height, dtype=np.float32)[:, None] + np.float32(bottom)
    half = max(camera.n_columns * camera.width, camera.n_rows * camera.height) / 2
    relative = 1 + conditions.tilt[0] * x / half + conditions.tilt[1] * y / half
    for angle, place, edge, width, brightness in conditions.sheets:
        across = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - place
        rise = 1 / (1 + np.exp(-np.clip(across / edge, -30, 30)))
        relative += brightness * rise * np.exp(-np.maximum(across, 0) / width)
    sky = (np.float32(conditions.sky) * np.maximum(relative, 0.05)).astype(np.float32)
    if conditions.fringes:
        phase = sum(w * np.sin(kx * x + ky * y + p) for kx, ky, p, w in conditions.waves[1:])
        kx, ky, start, _ = conditions.waves[0]
        sky += (conditions.fringes * np.sin(kx * x + ky * y + start + phase)).astype(np.float32)
    return np.maximum(sky, 0)


def _add_sources(
    image: NDArray[np.float32], conditions: Conditions, rng: np.random.Generator
) -> None:
    seen = conditions.seen
    here = Seen(
        seen.fwhm * float(rng.normal(1, 0.02)),
        (seen.shear[0] + float(rng.normal(0, 0.006)), seen.shear[1] + float(rng.normal(0, 0.006))),
        seen.ring,
        seen.trail,
    )
    drawn = pictures(here, rng)
    magnitude, is_star = _population(conditions, rng)
    flux = 10 ** (0.4 * (conditions.band.zero_point - magnitude)) * conditions.light
    kind = _kinds(magnitude, is_star, drawn, rng)
    height, width = image.shape
    x = rng.uniform(-SMALL / 2, width + SMALL / 2, len(flux))
    y = rng.uniform(-SMALL / 2, height + SMALL / 2, len(flux))
    glare = 2000 * image.mean() ** 0.5  # from here on the wings of a star are seen far out
    for k in range(len(flux)):
        picture = drawn.bright[0] if is_star[k] and flux[k] > glare else drawn.faint[kind[k]]
        paste(image, picture, float(flux[k]), float(x[k]), float(y[k]))
    np.maximum(image, 0, out=image)


def _population(
    conditions: Conditions, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Magnitudes of the sources of one CCD, and which are stars."""
    camera = conditions.camera
    sides = (camera.width + SMALL, camera.height + SMALL)
    area = sides[0] * sides[1] * (camera.pixel_scale / 60) ** 2  # [square arcminute]
    n_galaxies = conditions.band.galaxies * conditions.galaxies * area * camera.density
    n_stars = STARS * conditions.stars * area * camera.density
    deepest = 25.6
    galaxies = _magnitudes(n_galaxies, 24.0, 0.36, 18, deepest, rng)
    stars = _magnitudes(n_stars, 24.0, 0.17, 14.5, deepest, rng)
    crowd = _magnitudes(conditions.crowd * area, 24.5, 0.25, 15.5, 24.5, rng)
    bright = _magnitudes(conditions.bright * area, 15.5, 0.2, 10, 15.5, rng)
    magnitude = np.concatenate([galaxies, stars, crowd, bright])
    return magnitude, np.arange(len(magnitude)) >= len(galaxies)


def _magnitudes(
    count: float,
    at: float,
    slope: float,
    brightest: float,
    faintest: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Magnitudes of sources whose number brighter than m is `count` × 10^(slope (m - at))."""
    low, high = 10 ** (slope * (brightest - at)), 10 ** (slope * (faintest - at))
    n = rng.poisson(count * (high - low))
    return at + np.log10(rng.uniform(low, high, n)) / slope


def _kinds(
    magnitude: NDArray[np.float64],
    is_star: NDArray[np.bool_],
    drawn: Pictures,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Which picture each source takes: brighter galaxies are larger."""
    largest = np.zeros(len(magnitude), int)
    for group, (_, _, _, faintest) in enumerate(RADII):
        largest[magnitude < faintest] = group
    kind = np.zeros(len(magnitude), int)
    for group in range(len(RADII)):
        rows = ~is_star & (largest == group)
        kind[rows] = rng.choice(np.flatnonzero(drawn.group == group), rows.sum())
    return kind


def _seen(camera: Camera, fault: str, strength: float, rng: np.random.Generator) -> Seen:
    fwhm = float(np.clip(rng.normal(0.7, 0.11), 0.5, 0.95))  # [arcsec]
    if fault == "seeing":
        fwhm = 0.85 + 1.15 * strength
    length, ring = 0.0, 0.0
    if fault == "slight_tracking":
        length = 2 + 8 * strength
    elif fault == "severe_tracking":
        length = 8 + 32 * strength
    elif fault == "defocus":
        ring = 1 + 12 * strength
    stretch, angle = abs(rng.normal(0, 0.025)), rng.uniform(0, np.pi)
    shear = (float(stretch * np.cos(2 * angle)), float(stretch * np.sin(2 * angle)))
    return Seen(fwhm / camera.pixel_scale, shear, ring, _trail(length, rng))


def _trail(length: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Way of the image in equal steps of time, (k, 2) [pixel]: drifts, curves, jumps."""
    angle, kind = rng.uniform(0, 2 * np.pi), rng.choice(["drift", "curve", "jump", "wobble"])
    time = np.linspace(0, 1, 4 * int(length) + 2)
    along, across = time - 0.5, np.zeros_like(time)
    if kind == "curve":
        across = rng.uniform(-0.6, 0.6) * (4 * along**2 - 1) / 2
    elif kind == "jump":
        along = np.clip((time - rng.uniform(0.3, 0.7)) / 0.15, -0.5, 0.5)
    elif kind == "wobble":
        along = np.sin(2 * np.pi * rng.uniform(1, 3) * time) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return length * np.stack([along * cos - across * sin, along * sin + across * cos], 1)


def _waves(rng: np.random.Generator) -> NDArray[np.float64]:
    """The fringe's own wave, then slow waves that bend it."""
    angle = rng.uniform(0, np.pi, 4)
    period = np.concatenate([rng.uniform(14, 30, 1), rng.uniform(120, 400, 3)])
    weight = np.concatenate([[1.0], rng.uniform(0.8, 2.5, 3)])
    k = 2 * np.pi / period
    return np.stack([k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 6.3, 4), weight], 1)


def _tilt(amount: float, rng: np.random.Generator) -> NDArray[np.float64]:
    size = rng.uniform(0, 0.03) + 0.5 * amount**2
    angle = rng.uniform(0, 2 * np.pi)
    return size * np.array([np.cos(angle), np.sin(angle)])


def _sheets(camera: Camera, amount: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sheets of stray light, their edges spread over the mosaic."""
    half = max(camera.n_columns * camera.width, camera.n_rows * camera.height) / 2
    n = rng.integers(3, 8) if amount else 0
    strongest = 0.01 * 300**amount
    return np.stack(
        [
            rng.uniform(0, 2 * np.pi, n),
            rng.uniform(-half, half, n),
            np.exp(rng.uniform(np.log(1.5), np.log(20), n)),
            rng.uniform(30, 300, n),
            strongest * rng.uniform(0.3, 1, n),
        ],
        1,
    )


def _header(
    camera: Camera, band: Band, exposure_time: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Cards of the primary header, named as MegaCam names them."""
    return {
        "INSTRUME": "SimCam",
        "TELESCOP": "simulated",
        "FILTER": band.name,
        "EXPTIME": exposure_time,
        "MJD-OBS": round(58000 + rng.uniform(0, 2000), 6),
        "RA_DEG": round(rng.uniform(0, 360), 6),
        "DEC_DEG": round(float(np.rad2deg(np.arcsin(rng.uniform(-0.5, 0.9)))), 6),
        "GAIN": camera.gain,
        "RDNOISE": camera.read_noise,
        "PIXSCAL1": camera.pixel_scale,
    }
