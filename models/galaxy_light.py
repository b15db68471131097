"""The light of one galaxy with known structure, as a camera on the ground would see it.

Analytic profiles on a pixel grid, in float32 for speed. Which galaxies there are, and what
people say about them, is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import gamma, log, pi, sqrt, tan

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from models.simulate import ZERO_POINT

Map = NDArray[np.float32]
Colour = tuple[float, float]  # (g - r, r - z) [mag]

MARGIN = 16  # drawn beyond each border, so that light smeared out of the picture stays out [pixel]
SMALL, DIFFUSE = 1.2, 4.0  # width of faint neighbours and of tidal tails, Gaussian sigma [pixel]


@dataclass(frozen=True)
class Galaxy:
    """Structure of a galaxy: lengths in pixels, angles in radians, shares of the r flux."""

    kind: str
    magnitude: float  # r band
    radius: float  # half light, along the long axis
    axis_ratio: float  # of the disc, or of the whole where there is none
    angle: float  # of the long axis, from x
    nucleus: tuple[float, float] = (0.0, 0.0)  # x, y from the middle of the picture
    old: Colour = (0.8, 0.5)
    disc: Colour = (0.6, 0.35)
    young: Colour = (0.25, 0.05)
    edge_on: bool = False
    bulge: float = 0.0
    bulge_radius: float = 1.0
    bulge_index: int = 4  # Sersic
    boxiness: float = 0.0  # 0 an ellipse, 1 clearly boxy
    bar: float = 0.0
    bar_length: float = 1.0  # half of it, in the disc
    bar_angle: float = 0.0
    n_arms: int = 0
    pitch: float = 0.35  # between an arm and a circle
    arms: float = 0.0  # contrast, 0 to 1
    flocculence: float = 0.0
    ring: float = 0.0
    ring_radius: float = 1.0
    knots: float = 0.0
    n_knots: int = 0
    dust: float = 0.0  # depth in r of the lane or of the lanes along the arms [mag]
    lumps: float = 0.0  # share of the disc's light that lies in a few off-centre pieces
    patchiness: float = 0.0  # of the young light, 0 to 1
    disturbance: float = 0.0  # bending of the shape, 0 to 1
    tails: float = 0.0
    turn: float = 1.0  # sense of the arms, 1 or -1


@dataclass
class Scene:
    """Light before the atmosphere: (3, side, side) in g, r, z, and points that get smeared."""

    size: int
    light: Map = field(init=False)
    points: dict[float, Map] = field(default_factory=dict)  # by Gaussian sigma [pixel]

    def __post_init__(self) -> None:
        self.light = np.zeros((3, self.side, self.side), np.float32)

    @property
    def side(self) -> int:
        return self.size + 2 * MARGIN

    @property
    def inside(self) -> tuple[slice, slice]:
        return slice(MARGIN, MARGIN + self.size), slice(MARGIN, MARGIN + self.size)

    def scatter(self, places: NDArray, fluxes: NDArray, sigma: float) -> None:
        """Add points, places (n, 2) from the middle [pixel], fluxes (n, 3) [nanomaggy]."""
        plane = self.points.setdefault(sigma, np.zeros_like(self.light))
        place = places + (self.side - 1) / 2
        corner = np.floor(place).astype(int)
        right = (place - corner).astype(np.float32)
        for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = np.prod(np.where(step, right, 1 - right), axis=1)
            x, y = (corner + step).T
            kept = (x >= 0) & (x < self.side) & (y >= 0) & (y < self.side)
            for band in range(3):
                np.add.at(plane[band], (y[kept], x[kept]), (share * fluxes[:, band])[kept])

    def seen_through(self, seeing: float) -> Map:
        """The picture, (size, size, 3), behind a Kolmogorov atmosphere of this FWHM [pixel]."""
        frequency = _frequency(self.side)
        blur = np.exp(-3.442 * (frequency * np.float32(seeing / 0.976)) ** np.float32(5 / 3))
        spectrum = fft.rfft2(self.light)
        for sigma, plane in self.points.items():
            wider = np.exp(-2 * np.float32(pi * sigma) ** 2 * frequency**2) if sigma else 1
            spectrum += fft.rfft2(plane) * wider
        sharp = fft.irfft2(spectrum * blur, s=(self.side, self.side))
        return sharp[(slice(None), *self.inside)].transpose(1, 2, 0)


@lru_cache(maxsize=4)
def _frequency(side: int) -> Map:
    y, x = fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]
    return np.hypot(x, y).astype(np.float32)


@lru_cache(maxsize=4)
def _grid(side: int) -> tuple[Map, Map]:
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    return np.broadcast_to(axis[None], (side, side)), np.broadcast_to(axis[:, None], (side, side))


def band_flux(magnitude: float | NDArray, colour: Colour | NDArray) -> Map:
    """Fluxes in g, r, z [nanomaggy], shape (..., 3), of r magnitudes with (g - r, r - z)."""
    g_r, r_z = np.moveaxis(np.asarray(colour, float), -1, 0)
    magnitudes = np.stack(np.broadcast_arrays(magnitude + g_r, magnitude, magnitude - r_z), -1)
    return (10 ** (0.4 * (ZERO_POINT - magnitudes))).astype(np.float32)


def draw(scene: Scene, galaxy: Galaxy, rng: np.random.Generator) -> dict[str, Map]:
    """Add a galaxy to the scene.

    Returns
    -------
    dict of ndarray of float32, shape (side, side)
        Share of the galaxy's r flux per pixel in each part that people may see: `all`, and
        those present of `arms`, `bar`, `ring`, `bulge`, `lumps`. Knots and tails are points
        and do not appear.
    """
    x, y = _grid(scene.side)
    x, y = x - np.float32(galaxy.nucleus[0]), y - np.float32(galaxy.nucleus[1])
    if galaxy.disturbance:
        x, y = _bent(x, y, galaxy, rng)
    cos, sin = np.float32(np.cos(galaxy.angle)), np.float32(np.sin(galaxy.angle))
    along, across = x * cos + y * sin, y * cos - x * sin
    parts = _edge_on(along, across, galaxy) if galaxy.edge_on else _tilted(along, across, galaxy)
    if galaxy.patchiness and galaxy.radius > 5:
        patches = _patches(scene.side, galaxy, rng)
        for name in ("arms", "ring") if "arms" in parts else ("disc", "ring"):
            if name in parts:
                parts[name] = (parts[name][0] * patches, parts[name][1])
    if galaxy.lumps:
        parts["lumps"] = (_lumps(along, across, galaxy, rng), galaxy.young)
    if galaxy.bulge:
        parts["bulge"] = (galaxy.bulge * _bulge(along, across, galaxy), galaxy.old)
    light = sum(
        part * band_flux(galaxy.magnitude, colour)[:, None, None] for part, colour in parts.values()
    )
    if galaxy.dust:
        light = light * _through_dust(along, across, galaxy)
    scene.light += light
    if galaxy.n_knots:
        _add_knots(scene, galaxy, rng)
    if galaxy.tails:
        _add_tails(scene, galaxy, rng)
    seen = {name: part for name, (part, _) in parts.items() if name != "disc"}
    seen["all"] = np.sum([part for part, _ in parts.values()], axis=0)
    return seen


def _patches(side: int, galaxy: Galaxy, rng: np.random.Generator) -> Map:
    """Clouds of all sizes up to a third of the galaxy, 1 on average."""
    frequency = _frequency(side)
    waves = fft.rfft2(rng.standard_normal((side, side), np.float32))
    waves /= (frequency + np.float32(0.5 / max(galaxy.radius, 4))) ** np.float32(1.3)
    clouds = fft.irfft2(waves, s=(side, side))
    clouds = np.exp(clouds * np.float32(0.9 * galaxy.patchiness) / clouds.std())
    return clouds / clouds.mean()


def _bent(x: Map, y: Map, galaxy: Galaxy, rng: np.random.Generator) -> tuple[Map, Map]:
    scale = np.float32(1 / max(galaxy.radius, 3.0))
    phase = rng.uniform(0, 2 * pi, 2).astype(np.float32)
    height = np.float32(0.6 * galaxy.disturbance / scale)
    return (
        x + height * (np.sin(1.1 * scale * y + phase[0]) - np.sin(phase[0])),
        y + height * (np.sin(1.3 * scale * x + phase[1]) - np.sin(phase[1])),
    )


def _tilted(along: Map, across: Map, galaxy: Galaxy) -> dict[str, tuple[Map, Colour]]:
    """A thin disc seen from above or aslant, with what lies in it."""
    share = 1 - galaxy.bulge - galaxy.bar - galaxy.ring - galaxy.knots - galaxy.lumps
    if share < 0.01:
        return {}
    q = np.float32(galaxy.axis_ratio)
    height = across / q
    distance = np.sqrt(along**2 + height**2 + np.float32(0.1))
    scale = np.float32(galaxy.radius / 1.678)
    disc = np.exp(-distance / scale) * np.float32(share / (2 * pi * scale**2 * q))
    parts: dict[str, tuple[Map, Colour]] = {"disc": (disc, galaxy.disc)}
    if galaxy.arms:
        wave = _arm_wave(distance, np.arctan2(height, along), galaxy)
        parts["disc"] = (disc * (1 - np.float32(0.75 * galaxy.arms)), galaxy.disc)
        parts["arms"] = (disc * np.float32(0.75 * galaxy.arms) * wave, galaxy.young)
    if galaxy.bar:
        parts["bar"] = (galaxy.bar * _bar(along, height, galaxy) / q, galaxy.old)
    if galaxy.ring:
        width = np.float32(0.16 * galaxy.ring_radius)
        profile = np.exp(-0.5 * ((distance - np.float32(galaxy.ring_radius)) / width) ** 2)
        norm = galaxy.ring / (sqrt(2 * pi) ** 3 * galaxy.ring_radius * width * q)
        parts["ring"] = (profile * np.float32(norm), galaxy.young)
    return parts


def _arm_wave(distance: Map, turn: Map, galaxy: Galaxy) -> Map:
    """Logarithmic arms: 1 on average round a circle, high on the arms, smooth in the middle."""
    winding = np.log(distance * np.float32(1 / galaxy.radius)) * np.float32(1 / tan(galaxy.pitch))
    spiral = np.float32(galaxy.turn) * turn - winding
    phase = np.float32(galaxy.n_arms) * spiral
    if galaxy.flocculence:
        ragged = np.sin(3 * turn + 5 * winding * np.float32(0.3)) + np.sin(7 * turn - 2 * winding)
        phase = phase + np.float32(1.2 * galaxy.flocculence) * ragged
    sharpness = 2.2
    crest = np.exp(np.float32(sharpness) * (np.cos(phase) - 1))
    mean = np.float32(np.i0(sharpness) * np.exp(-sharpness))
    inner = np.float32(max(0.35 * galaxy.radius, 0.9 * galaxy.bar_length if galaxy.bar else 0))
    begins = 1 / (1 + (inner / distance) ** 4)
    return 1 + begins * (crest / mean - 1)


def _bar(along: Map, height: Map, galaxy: Galaxy) -> Map:
    cos, sin = np.float32(np.cos(galaxy.bar_angle)), np.float32(np.sin(galaxy.bar_angle))
    length, width = galaxy.bar_length, 0.28 * galaxy.bar_length
    lengthwise = ((along * cos + height * sin) * np.float32(1 / length)) ** 2
    crosswise = ((height * cos - along * sin) * np.float32(1 / width)) ** 2
    norm = 2 * gamma(1.25) * length * sqrt(pi) * width
    return np.exp(-lengthwise * lengthwise - crosswise) * np.float32(1 / norm)


def _bulge(along: Map, across: Map, galaxy: Galaxy) -> Map:
    """A Sersic profile of unit flux, its middle rounded off where a pixel cannot follow it."""
    n, radius = galaxy.bulge_index, galaxy.bulge_radius
    disc_like = galaxy.bulge < 0.9 and not galaxy.edge_on
    q = 0.5 + 0.5 * galaxy.axis_ratio if disc_like else max(galaxy.axis_ratio, 0.15)
    if galaxy.edge_on and galaxy.bulge < 0.9:
        q = 0.7
    power = np.float32(2 + 1.5 * galaxy.boxiness)
    if galaxy.boxiness:
        shape = np.abs(along) ** power + np.abs(across * np.float32(1 / q)) ** power
        distance = shape ** (1 / power)
    else:
        distance = np.sqrt(along**2 + (across * np.float32(1 / q)) ** 2)
    steep = 2 * n - 1 / 3 + 0.009876 / n  # Prugniel & Simien (1997), A&A 321, 111
    distance = np.sqrt(distance**2 + np.float32(0.12)) * np.float32(1 / radius)
    norm = 2 * pi * n * gamma(2 * n) * steep ** (-2 * n) * radius**2 * q
    return np.exp(-np.float32(steep) * distance ** np.float32(1 / n)) * np.float32(1 / norm)


def _edge_on(along: Map, across: Map, galaxy: Galaxy) -> dict[str, tuple[Map, Colour]]:
    """A disc seen from its side: exponential along the plane, sech^2 across it."""
    scale = np.float32(galaxy.radius / 1.678)
    thick = np.float32(max(galaxy.axis_ratio * float(scale), 0.4))
    share = 1 - galaxy.bulge - galaxy.knots - galaxy.lumps
    flat = np.exp(-np.sqrt(along**2 + np.float32(0.3) * thick**2) / scale)
    flat *= np.exp(-((along / (np.float32(3.8) * scale)) ** 4))  # discs end
    upright = 1 / np.cosh(np.minimum(np.abs(across) / thick, 30))
    upright *= upright
    return {"disc": (flat * upright * np.float32(share / (4 * scale * thick)), galaxy.disc)}


def _lumps(along: Map, across: Map, galaxy: Galaxy, rng: np.random.Generator) -> Map:
    light = np.zeros_like(along)
    count = int(rng.integers(2, 7))
    shares = rng.dirichlet(np.full(count, 1.5)) * galaxy.lumps
    for share in shares:
        place = rng.normal(0, 0.6 * galaxy.radius, 2) * (1, galaxy.axis_ratio)
        width = galaxy.radius * rng.uniform(0.12, 0.5)
        squash = rng.uniform(0.4, 1)
        lengthwise, crosswise = along - np.float32(place[0]), across - np.float32(place[1])
        shape = lengthwise**2 + (crosswise * np.float32(1 / squash)) ** 2
        norm = np.float32(share / (2 * pi * width**2 * squash))
        light += norm * np.exp(shape * np.float32(-0.5 / width**2))
    return light


def _through_dust(along: Map, across: Map, galaxy: Galaxy) -> Map:
    """What dust lets through in g, r and z, shape (3, side, side)."""
    scale = np.float32(galaxy.radius / 1.678)
    if galaxy.edge_on:
        thick = np.float32(max(0.35 * galaxy.axis_ratio * float(scale), 0.6))
        lane = np.exp(-0.5 * ((across - np.float32(0.2) * thick) / thick) ** 2)
        lane = lane * np.exp(-np.abs(along) / (np.float32(1.6) * scale))
    else:
        height = across * np.float32(1 / galaxy.axis_ratio)
        distance = np.sqrt(along**2 + height**2 + np.float32(0.1))
        lane = np.exp(-((distance / (np.float32(1.3) * scale)) ** 2))
        if galaxy.arms:
            inner_edge = np.arctan2(height, along) - np.float32(0.5 * galaxy.turn / galaxy.n_arms)
            lane = lane * np.float32(0.4) * _arm_wave(distance, inner_edge, galaxy)
    depth = np.float32(-0.4 * log(10) * galaxy.dust) * lane
    middle = np.exp(depth)
    return np.stack([middle * np.exp(np.float32(0.4) * depth), middle, np.sqrt(middle)])


def _add_knots(scene: Scene, galaxy: Galaxy, rng: np.random.Generator) -> None:
    """Groups of young stars, on the arms where there are any."""
    places = knot_places(galaxy, galaxy.n_knots, rng)
    shares = rng.pareto(1.5, galaxy.n_knots) + 0.3
    shares *= galaxy.knots / shares.sum()
    glow = rng.uniform(-0.35, 0.0, galaxy.n_knots)  # nebulae are brightest in g and r
    colours = np.stack([galaxy.young[0] + 0.5 * glow, galaxy.young[1] + glow], 1)
    fluxes = band_flux(galaxy.magnitude, colours) * shares[:, None]
    small = rng.random(galaxy.n_knots) < 0.6
    scene.scatter(places[small], fluxes[small], 0.0)
    scene.scatter(places[~small], fluxes[~small], SMALL)


def knot_places(galaxy: Galaxy, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Places in the disc, on the arms or the ring where there are any; (count, 2) [pixel]."""
    distance = galaxy.radius * rng.gamma(3, 0.4, count)
    turn = rng.uniform(0, 2 * pi, count)
    if galaxy.arms:
        arm = 2 * pi / galaxy.n_arms * rng.integers(0, galaxy.n_arms, count)
        on_arm = arm + np.log(distance / galaxy.radius) / tan(galaxy.pitch)
        on_arm = on_arm + rng.normal(0, 0.2 + 0.6 * galaxy.flocculence, count)
        turn = np.where(rng.random(count) < 0.8, galaxy.turn * on_arm, turn)
    elif galaxy.ring:
        distance = galaxy.ring_radius * rng.normal(1, 0.1, count)
    along, across = distance * np.cos(turn), galaxy.axis_ratio * distance * np.sin(turn)
    return _on_sky(along, across, galaxy)


def _on_sky(along: NDArray, across: NDArray, galaxy: Galaxy) -> NDArray[np.float64]:
    cos, sin = np.cos(galaxy.angle), np.sin(galaxy.angle)
    return np.stack([along * cos - across * sin, along * sin + across * cos], 1) + galaxy.nucleus


def _add_tails(scene: Scene, galaxy: Galaxy, rng: np.random.Generator) -> None:
    """Two tidal tails, one the fainter, drawn as many soft points along open spirals."""
    reach, opening = rng.uniform(2.2, 4.5), rng.uniform(0.5, 1.1)
    for side, share in ((0, 0.65), (pi, 0.35 * rng.random())):
        step = np.linspace(0, 1, 160)
        distance = galaxy.radius * (1 + (reach - 1) * step)
        turn = side + galaxy.turn * np.log(1 + (reach - 1) * step) / opening
        places = _on_sky(distance * np.cos(turn), 0.8 * distance * np.sin(turn), galaxy)
        places += rng.normal(0, 0.08 * galaxy.radius, places.shape)
        weight = (1 - step) ** 0.7 * rng.gamma(4, 0.25, len(step))
        weight *= galaxy.tails * share / weight.sum()
        fluxes = band_flux(galaxy.magnitude, galaxy.disc) * weight[:, None].astype(np.float32)
        scene.scatter(places, fluxes, DIFFUSE if galaxy.radius > 14 else SMALL)
