"""A sky of galaxies with known shapes: pictures, true structure, and volunteers' votes.

Decides which galaxies there are and what surrounds them. `galaxy_light` draws them,
`volunteers` answers the questions about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from math import pi

import numpy as np
from numpy.typing import NDArray

from models.galaxy_light import (
    MARGIN,
    SMALL,
    Colour,
    Galaxy,
    Map,
    Scene,
    band_flux,
    draw,
    knot_places,
)
from models.pixels import to_rgb
from models.questions import columns
from models.simulate import BANDS, ZERO_POINT, noise_per_pixel
from models.volunteers import View, chances, vote

KINDS = ("elliptical", "lenticular", "spiral", "edge-on", "irregular", "dwarf")
SHARES = (0.15, 0.10, 0.36, 0.15, 0.13, 0.11)
SURFACE = {  # mean r surface brightness within half light, face on [mag/arcsec^2], and scatter
    "elliptical": (21.4, 0.9),
    "lenticular": (21.3, 0.7),
    "spiral": (22.1, 0.7),
    "edge-on": (22.3, 0.8),
    "irregular": (23.0, 0.8),
    "dwarf": (24.2, 0.6),
}
OFF_CENTRE, MERGERS, ARTIFACTS = 0.25, 0.09, 0.02  # shares of the sources
TEAL = 0.08  # share of the pictures whose z band lost extended light with the sky
JPEG = 0.8  # share of the pictures that came as JPEG, as the survey's viewer gives them
NOISE = 0.45  # of the noise at the survey's nominal depth: most of it is deeper
TRUTH = np.dtype(
    [
        ("kind", "U12"),
        ("magnitude", "f4"),  # r
        ("radius", "f4"),  # half light [pixel]
        ("axis_ratio", "f4"),
        ("angle", "f4"),  # of the long axis, from x [rad]
        ("nucleus", "f4", 2),  # x, y from the middle of the picture [pixel]
        ("is_shred", "?"),  # the picture is centred on a part of the galaxy
        ("is_artifact", "?"),
        ("edge_on", "?"),
        ("bulge", "f4"),  # share of the r flux, as the next three
        ("bar", "f4"),
        ("ring", "f4"),
        ("knots", "f4"),
        ("arms", "f4"),  # contrast, 0 to 1
        ("n_arms", "i2"),
        ("pitch", "f4"),  # [rad]
        ("companion", "f4"),  # 0 none, 1 equal and close
        ("seeing", "f4"),  # FWHM [pixel]
        ("signal", "f4"),  # signal-to-noise in r, all of the galaxy in the picture
    ]
)


@dataclass(frozen=True)
class GalaxySky:
    """Pictures of galaxies with what people say of them and what they are."""

    rgb: NDArray[np.uint8]  # (n, size, size, 3)
    votes: NDArray[np.int16]  # (n, answers), columns as `questions.columns()`
    chances: NDArray[np.float32]  # (n, answers), of each answer among those asked
    truth: NDArray[np.void]  # (n,) of dtype TRUTH


def simulate(
    n_sources: int,
    seed: int,
    *,
    size: int = 128,
    pixel_scale: float = 0.262,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
) -> GalaxySky:
    """Draw sources as a survey would cut them out, and let volunteers vote on them.

    Parameters
    ----------
    n_sources : int
    seed : int
        Source k of a seed is the same whatever `n_sources` and `first` are.
    size : int
        Side of a picture [pixel].
    pixel_scale : float
        [arcsec/pixel]
    first : int
        Number of the first source, so that a large sky can be made in pieces.
    progress : callable, optional
        Called with 1 after each source.
    """
    n_answers = len(columns())
    sky = GalaxySky(
        rgb=np.empty((n_sources, size, size, 3), np.uint8),
        votes=np.empty((n_sources, n_answers), np.int16),
        chances=np.empty((n_sources, n_answers), np.float32),
        truth=np.zeros(n_sources, TRUTH),
    )
    for k in range(n_sources):
        rng = np.random.default_rng([seed, first + k])
        flux, view, is_shred = _source(rng, size, pixel_scale)
        rgb = to_rgb(flux[None], BANDS, "nanomaggy")[0]
        sky.rgb[k] = _through_jpeg(rgb, rng) if rng.random() < JPEG else rgb
        sky.chances[k] = chances(view)
        sky.votes[k] = vote(sky.chances[k], rng)
        sky.truth[k] = _truth(view, is_shred)
        if progress:
            progress(1)
    return sky


def chunks(
    n_sources: int,
    seed: int,
    *,
    chunk: int = 1000,
    size: int = 128,
    pixel_scale: float = 0.262,
    progress: Callable[[int], None] | None = None,
) -> Iterator[GalaxySky]:
    """`simulate` in pieces of `chunk` sources: the same sky as in one piece."""
    for first in range(0, n_sources, chunk):
        count = min(chunk, n_sources - first)
        yield simulate(
            count, seed, size=size, pixel_scale=pixel_scale, first=first, progress=progress
        )


def _source(rng: np.random.Generator, size: int, pixel_scale: float) -> tuple[Map, View, bool]:
    """One picture before the stretch, (size, size, 3) in g, r, z [nanomaggy], and its view."""
    seeing = float(max(2.6, rng.normal(1.02, 0.14) / pixel_scale))  # FWHM [pixel]
    noise = (noise_per_pixel(seeing) * NOISE * np.exp(rng.normal(0, 0.2))).astype(np.float32)
    is_shred = bool(rng.random() < OFF_CENTRE)
    galaxy = draw_galaxy(rng, pixel_scale, large=is_shred)
    if is_shred:
        galaxy = _moved_off_nucleus(galaxy, size, rng)
    else:
        galaxy = replace(galaxy, nucleus=tuple(rng.normal(0, 0.4, 2)))
    scene, companion = Scene(size), None
    if not is_shred and rng.random() < MERGERS:
        galaxy, companion = _merger(galaxy, pixel_scale, rng)
    seen = draw(scene, galaxy, rng)
    brightness = 0.0
    if companion:
        draw(scene, companion, rng)
        brightness = 10 ** (-0.25 * max(0.0, companion.magnitude - galaxy.magnitude))
    crowding = _add_field(scene, rng, pixel_scale)
    if rng.random() < TEAL:
        scene.light[BANDS.index("z")] *= np.float32(rng.uniform(0.5, 0.8))
    artifact = bool(rng.random() < ARTIFACTS)
    if artifact:
        _add_artifact(scene, rng)
    picture = scene.seen_through(seeing)
    picture += rng.standard_normal(picture.shape, np.float32) * noise
    picture += rng.normal(0, 0.06, 3).astype(np.float32) * noise
    view = look(scene, galaxy, seen, seeing, float(noise[1]))
    view = replace(view, companion=brightness, artifact=artifact, crowding=crowding)
    return picture, view, is_shred


def draw_galaxy(rng: np.random.Generator, pixel_scale: float, *, large: bool = False) -> Galaxy:
    """Draw the structure of a galaxy from the population of a nearby survey.

    Parameters
    ----------
    large : bool
        From its large and well structured members, of which catalogs make several sources.
    """
    shares = np.array(SHARES) * ([0.3, 0.6, 2.2, 0.9, 0.7, 0.3] if large else 1)
    kind = str(rng.choice(KINDS, p=shares / shares.sum()))
    size = np.exp(rng.normal(np.log(9.0 if large else 2.9), 0.45 if large else 0.65))
    arcsec = float(np.clip(size, 4.5 if large else 1.2, 28))
    surface = rng.normal(*SURFACE[kind])
    galaxy = Galaxy(
        kind=kind,
        magnitude=float(surface - 2.5 * np.log10(2 * pi * arcsec**2)),
        radius=arcsec / pixel_scale,
        axis_ratio=float(rng.uniform(0.3, 1)),
        angle=float(rng.uniform(0, pi)),
        turn=float(rng.choice([-1, 1])),
        old=_colour(rng, 0.85, 0.52),
        disc=_colour(rng, 0.62, 0.38),
        young=_colour(rng, 0.38, 0.16),
    )
    return _STRUCTURE[kind](galaxy, rng)


def _colour(rng: np.random.Generator, g_r: float, r_z: float) -> Colour:
    shift = rng.normal(0, 0.08)
    return float(g_r + shift), float(r_z + shift + rng.normal(0, 0.07))


def _elliptical(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    return replace(
        galaxy,
        axis_ratio=float(1 - 0.7 * rng.beta(1.2, 1.8)),
        bulge=1.0,
        bulge_radius=galaxy.radius,
        bulge_index=int(rng.choice([2, 3, 4, 5], p=[0.25, 0.3, 0.35, 0.1])),
    )


def _with_bulge(galaxy: Galaxy, share: float, rng: np.random.Generator) -> Galaxy:
    radius = max(1.0, galaxy.radius * rng.uniform(0.12, 0.3))
    index = int(rng.choice([1, 2, 4]))
    return replace(galaxy, bulge=share, bulge_radius=float(radius), bulge_index=index)


def _with_bar(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    length = galaxy.radius * rng.uniform(0.3, 0.85)
    return replace(
        galaxy,
        bar=float(rng.uniform(0.05, 0.22)),
        bar_length=float(length),
        bar_angle=float(rng.uniform(0, pi)),
    )


def _lenticular(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    galaxy = _with_bulge(galaxy, float(rng.uniform(0.25, 0.65)), rng)
    galaxy = replace(galaxy, disc=_colour(rng, 0.75, 0.42), young=_colour(rng, 0.6, 0.35))
    if rng.random() < 0.35:
        galaxy = _with_bar(galaxy, rng)
    return _with_ring(galaxy, rng) if rng.random() < 0.35 else galaxy


def _with_ring(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    radius = galaxy.radius * rng.uniform(0.8, 1.7)
    if galaxy.bar:
        radius = max(radius, 1.15 * galaxy.bar_length)
    return replace(galaxy, ring=float(rng.uniform(0.06, 0.3)), ring_radius=float(radius))


def _spiral(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    galaxy = _with_bulge(galaxy, float(0.4 * rng.beta(1.2, 2.5)), rng)
    if rng.random() < 0.4:
        galaxy = _with_bar(galaxy, rng)
    if rng.random() < 0.1:
        galaxy = _with_ring(galaxy, rng)
    knots = 0.18 * rng.beta(1, 2)
    return replace(
        galaxy,
        n_arms=int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.06, 0.58, 0.16, 0.1, 0.06, 0.04])),
        pitch=float(np.radians(rng.uniform(8, 32))),
        arms=float(rng.uniform(0.15, 1.0)),
        flocculence=float(rng.beta(1, 2)),
        patchiness=float(rng.uniform(0.1, 0.9)),
        knots=float(knots),
        n_knots=int(10 + galaxy.radius * rng.uniform(0.5, 5) * (0.2 + knots / 0.18)),
        dust=float(rng.choice([0, rng.uniform(0.2, 0.8)])),
    )


def _edge_on(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    early = rng.random() < 0.4
    share = rng.uniform(0.15, 0.45) if early else 0.2 * rng.beta(1, 3)
    galaxy = _with_bulge(galaxy, float(share), rng)
    knots = 0.0 if early else float(rng.uniform(0, 0.15))
    return replace(
        galaxy,
        edge_on=True,
        axis_ratio=float(rng.uniform(0.1, 0.26)),
        disc=_colour(rng, 0.7, 0.42) if early else _colour(rng, 0.52, 0.28),
        bulge_index=int(rng.choice([1, 2])),
        boxiness=float(rng.uniform(0.6, 1)) if early and rng.random() < 0.4 else 0.0,
        dust=float(rng.choice([0, rng.uniform(0.3, 1.8)])),
        knots=knots,
        n_knots=int(knots * 300),
        patchiness=0.0 if early else float(rng.uniform(0, 0.5)),
        disturbance=float(rng.choice([0, 0.15 * rng.random()])),
    )


def _irregular(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    teal = rng.random() < 0.25  # strong nebular lines in g and r
    knots = float(rng.uniform(0.02, 0.25))
    return replace(
        galaxy,
        axis_ratio=float(rng.uniform(0.3, 0.9)),
        disc=_colour(rng, 0.36, 0.12),
        young=_colour(rng, 0.28, -0.25 if teal else 0.02),
        lumps=float(rng.uniform(0.1, 0.6)),
        patchiness=float(rng.uniform(0.1, 0.9)),
        knots=knots,
        n_knots=int(rng.integers(4, 30)),
        disturbance=float(rng.uniform(0.1, 0.9)),
    )


def _dwarf(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    blue = rng.random() < 0.5
    return replace(
        galaxy,
        axis_ratio=float(rng.uniform(0.45, 1)),
        disc=_colour(rng, 0.42, 0.2) if blue else _colour(rng, 0.55, 0.28),
        knots=0.05 * float(blue),
        n_knots=int(blue * rng.integers(2, 12)),
        lumps=float(blue * 0.15 * rng.random()),
    )


_STRUCTURE: dict[str, Callable[[Galaxy, np.random.Generator], Galaxy]] = {
    "elliptical": _elliptical,
    "lenticular": _lenticular,
    "spiral": _spiral,
    "edge-on": _edge_on,
    "irregular": _irregular,
    "dwarf": _dwarf,
}


def _moved_off_nucleus(galaxy: Galaxy, size: int, rng: np.random.Generator) -> Galaxy:
    """Centre the picture on a knot or another bit of the disc, at least 2 arcsec out."""
    places = knot_places(galaxy, 60, rng)
    distance = np.hypot(*places.T)
    out = (distance > max(8.0, 0.35 * galaxy.radius)) & (distance < 1.1 * size)
    if not out.any():
        turn = rng.uniform(0, 2 * pi)
        return replace(galaxy, nucleus=(9 * float(np.cos(turn)), 9 * float(np.sin(turn))))
    x, y = places[rng.choice(np.flatnonzero(out))]
    return replace(galaxy, nucleus=(-float(x), -float(y)))


def _merger(
    galaxy: Galaxy, pixel_scale: float, rng: np.random.Generator
) -> tuple[Galaxy, Galaxy | None]:
    """A disturbed galaxy and, two times in three, the one that disturbs it."""
    strength = float(rng.uniform(0.3, 1))
    tails = float(rng.uniform(0.05, 0.3)) if rng.random() < 0.7 else 0.0
    galaxy = replace(galaxy, disturbance=max(galaxy.disturbance, 0.7 * strength), tails=tails)
    if rng.random() < 0.33:
        return galaxy, None
    other = draw_galaxy(rng, pixel_scale)
    scale = galaxy.radius * rng.uniform(0.4, 1.1) / other.radius
    distance, turn = galaxy.radius * rng.uniform(0.8, 2.8), rng.uniform(0, 2 * pi)
    nucleus = np.array(galaxy.nucleus) + distance * np.array([np.cos(turn), np.sin(turn)])
    return galaxy, replace(
        other,
        magnitude=galaxy.magnitude + float(rng.uniform(-0.2, 2)),
        radius=other.radius * float(scale),
        bulge_radius=max(1.0, other.bulge_radius * float(scale)),
        bar_length=other.bar_length * float(scale),
        ring_radius=other.ring_radius * float(scale),
        nucleus=(float(nucleus[0]), float(nucleus[1])),
        disturbance=max(other.disturbance, 0.6 * strength),
        tails=0.7 * tails,
    )


def _add_field(scene: Scene, rng: np.random.Generator, pixel_scale: float) -> float:
    """Add stars and unrelated galaxies; returns how many of them catch the eye."""
    dense, cluster = rng.random() < 0.06, rng.random() < 0.08
    faint = rng.poisson(14)
    _scatter(scene, rng, 24.4 - rng.exponential(1.1, faint), _faint_colours(rng, faint))
    stars = rng.poisson(14 if dense else 1.6)
    magnitudes = np.maximum(22.8 - rng.exponential(1.5, stars), 13.5)
    _scatter(scene, rng, magnitudes, _star_colours(rng, stars), sigmas=(0.0,))
    neighbours = rng.poisson(5 if cluster else 0.6)
    for _ in range(neighbours):
        _add_neighbour(scene, rng, pixel_scale, red=cluster)
    return float((magnitudes < 20.5).sum() + neighbours)


def _scatter(
    scene: Scene,
    rng: np.random.Generator,
    magnitudes: NDArray[np.float64],
    colours: NDArray[np.float64],
    sigmas: tuple[float, ...] = (0.0, 0.0, SMALL),
) -> None:
    places = rng.uniform(-scene.side / 2, scene.side / 2, (len(magnitudes), 2))
    fluxes = band_flux(magnitudes, colours)
    width = rng.choice(sigmas, len(magnitudes))
    for sigma in set(sigmas):
        scene.scatter(places[width == sigma], fluxes[width == sigma], sigma)


def _faint_colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """From blue to the very red of distant ellipticals."""
    redness = rng.beta(1.5, 1.3, count)
    return np.stack([0.2 + 1.4 * redness, 0.1 + 1.2 * redness + rng.normal(0, 0.15, count)], 1)


def _star_colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """The stellar locus, from F stars to M dwarfs, whose r - z goes on when g - r stops."""
    place = rng.beta(0.6, 0.6, count)
    g_r = np.minimum(0.3 + 1.5 * place, 1.45)
    r_z = 0.1 + 0.6 * place + 2.0 * np.maximum(place - 0.65, 0)
    return np.stack([g_r, r_z + rng.normal(0, 0.05, count)], 1)


def _add_neighbour(
    scene: Scene, rng: np.random.Generator, pixel_scale: float, *, red: bool
) -> None:
    """An unrelated galaxy beside the source, now and then a large one that fills a corner."""
    galaxy = draw_galaxy(rng, pixel_scale)
    if red:
        galaxy = _elliptical(galaxy, rng)
    large = rng.random() < 0.1
    shrink = 1.0 if large else rng.uniform(0.2, 0.6)
    turn, distance = rng.uniform(0, 2 * pi), rng.uniform(0.22, 0.7) * scene.size
    nucleus = (float(distance * np.cos(turn)), float(distance * np.sin(turn)))
    dimming = -5 * np.log10(shrink) + rng.uniform(0, 1)
    neighbour = replace(
        galaxy,
        nucleus=nucleus,
        radius=max(1.5, galaxy.radius * float(shrink)),
        bulge_radius=max(1.0, galaxy.bulge_radius * float(shrink)),
        bar_length=galaxy.bar_length * float(shrink),
        ring_radius=galaxy.ring_radius * float(shrink),
        magnitude=galaxy.magnitude + float(dimming),
    )
    draw(scene, neighbour, rng)


def _add_artifact(scene: Scene, rng: np.random.Generator) -> None:
    """A satellite trail, a star far too bright, or a band that is missing on one side."""
    kind = rng.integers(0, 3)
    if kind == 0:
        start, turn = rng.uniform(-30, 30, 2), rng.uniform(0, 2 * pi)
        step = np.arange(-2 * scene.side, 2 * scene.side, 0.5)
        places = start + step[:, None] * [np.cos(turn), np.sin(turn)]
        trail = np.zeros((len(step), 3))
        trail[:, rng.integers(0, 3)] = rng.uniform(0.03, 0.4)
        scene.scatter(places, trail, 0.0)
    elif kind == 1:
        flux = band_flux(rng.uniform(9.5, 12.5, 1), _star_colours(rng, 1))
        place = rng.uniform(-scene.size / 2.5, scene.size / 2.5, (1, 2))
        scene.scatter(place, flux, 0.0)
        scene.scatter(place, 0.1 * flux, 25.0)
        length = rng.uniform(10, 60)
        bleed = place + np.stack([np.zeros(120), np.linspace(-length, length, 120)], 1)
        scene.scatter(bleed, np.repeat(0.003 * flux, 120, axis=0), 0.0)
    else:
        edge = MARGIN + int(rng.integers(0, scene.size))
        scene.light[rng.integers(0, 3), :, :edge] = -0.01


def look(scene: Scene, galaxy: Galaxy, seen: dict[str, Map], seeing: float, noise: float) -> View:
    """Measure how strongly the parts of a galaxy show in the picture.

    Parameters
    ----------
    seen : dict
        As `galaxy_light.draw` gives it for this scene and galaxy.
    seeing : float
        FWHM [pixel]
    noise : float
        Of a pixel in r [nanomaggy].
    """
    flux = 10 ** (0.4 * (ZERO_POINT - galaxy.magnitude))
    light = {name: part[scene.inside] for name, part in seen.items()}
    whole = float(light["all"].sum()) + 1e-9
    signal = {
        name: flux / noise * float(np.sqrt((p * p).sum())) + 1e-6 for name, p in light.items()
    }
    share = {name: float(part.sum()) / whole for name, part in light.items()}
    smeared = noise * np.sqrt(max(pi * 0.2 * galaxy.radius**2, 4.0))
    lively = min(1.0, np.sqrt(15 / max(galaxy.n_knots, 1)))  # many small knots are just light
    for name, value in (("knots", galaxy.knots * lively), ("tails", galaxy.tails)):
        if value:
            share[name] = value
            signal[name] = flux * value * min(whole, 1.0) / float(smeared)
    area = 2 * pi * galaxy.radius**2 * galaxy.axis_ratio
    signal["surface"] = flux / area / noise + 1e-6
    return View(galaxy, seeing, signal, share)


def _through_jpeg(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lose what JPEG loses, above all the colour of the noise."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=int(rng.integers(80, 96)))
    return np.asarray(Image.open(file))


def _truth(view: View, is_shred: bool) -> tuple:
    galaxy = view.galaxy
    given = {
        "is_shred": is_shred,
        "is_artifact": view.artifact,
        "companion": view.companion,
        "seeing": view.seeing,
        "signal": view.signal["all"],
    }
    return tuple(given.get(name, getattr(galaxy, name, None)) for name in TRUTH.names or ())
