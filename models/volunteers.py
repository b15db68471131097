"""What people would answer about a simulated galaxy, and their votes.

The chance of an answer follows what can be seen: how strong a feature is, how many times wider
than the seeing, and how far above the noise. Draws no light.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log10

import numpy as np
from numpy.typing import NDArray

from models.galaxy_light import Galaxy
from models.questions import QUESTIONS, columns, slices


@dataclass(frozen=True)
class View:
    """A galaxy as the picture shows it."""

    galaxy: Galaxy
    seeing: float  # FWHM [pixel]
    signal: dict[str, float]  # signal-to-noise in r of each part within the picture, above 0
    share: dict[str, float]  # of each part in the galaxy's light within the picture
    companion: float = 0.0  # 0 none, 1 as bright as the galaxy and close
    artifact: bool = False
    crowding: float = 0.0  # neighbours that catch the eye

    def resolved(self, length: float) -> float:
        """How well a length [pixel] can be told from a point, 0 to 1."""
        return _rise(length / self.seeing, 1.7, 0.3)

    def clear(self, part: str, length: float, contrast: float) -> float:
        """How clearly a part shows, 0 to 1; half at this contrast with the rest of the galaxy."""
        if part not in self.signal:
            return 0.0
        above_noise = _rise(log10(self.signal[part]), 1.15, 0.14)
        stands_out = _rise(self.share[part], contrast, 0.3 * contrast)
        return self.resolved(length) * above_noise * stands_out


def _rise(value: float, middle: float, width: float) -> float:
    return 1 / (1 + exp(float(np.clip((middle - value) / width, -50, 50))))


def _classes(value: float, edges: tuple[float, ...], width: float) -> NDArray[np.float64]:
    """Chances of the classes below, between and above the edges, blurred by `width`."""
    above = np.array([1.0, *(_rise(value, edge, width) for edge in edges), 0.0])
    return above[:-1] - above[1:]


def _yes(chance: float) -> NDArray[np.float64]:
    return np.array([chance, 1 - chance])


def chances(view: View) -> NDArray[np.float32]:
    """Chance of each answer among those asked, in the order of `questions.columns()`."""
    galaxy = view.galaxy
    q = galaxy.axis_ratio
    tilt_shows = view.resolved(galaxy.radius) * _rise(log10(view.signal["all"]), 1.2, 0.15)
    spacing = galaxy.radius * np.sqrt(q) * 4 * np.tan(galaxy.pitch) / max(galaxy.n_arms, 1)
    arms = view.clear("arms", min(spacing, galaxy.radius), 0.16)
    bar = view.clear("bar", galaxy.bar_length, 0.035)
    ring = view.clear("ring", galaxy.ring_radius * np.sqrt(q), 0.07)
    knots = view.clear("knots", galaxy.radius, 0.07)
    lumps = view.clear("lumps", 0.6 * galaxy.radius, 0.15)
    tails = view.clear("tails", galaxy.radius, 0.04)
    companion = view.companion * view.resolved(galaxy.radius)
    edge_on = tilt_shows * (0.97 if galaxy.edge_on else 0.9 * _rise(-q, -0.24, 0.03))
    off_centre = _rise(float(np.hypot(*galaxy.nucleus)) / view.seeing, 1.6, 0.3)
    shapeless = float(galaxy.bulge == 0 and not galaxy.edge_on)
    disturbed = max(tails, companion, galaxy.disturbance * tilt_shows * 0.9)
    features = [arms, bar, ring, knots, lumps, 0.9 * tails]
    if galaxy.bulge < 0.9:
        features += [edge_on, 0.2 * tilt_shows * (1 - galaxy.bulge)]
    featured = 0.04 + 0.93 * (1 - float(np.prod([1 - value for value in features])))
    answers = {
        "smooth-or-featured": _root(featured, view),
        "disk-edge-on": _yes(0.02 + 0.96 * edge_on),
        "has-spiral-arms": _yes(0.03 + 0.94 * arms),
        "bar": _bar(bar, galaxy),
        "bulge-size": _bulge(view),
        "how-rounded": _classes(-_blurred(view), (-0.78, -0.42), 0.05),
        "edge-on-bulge": _edge_on_bulge(view),
        "spiral-winding": _classes(float(np.degrees(galaxy.pitch)), (14.0, 23.0), 2.0),
        "spiral-arm-count": _arm_count(arms, galaxy),
        "merging": _merging(disturbed, companion),
        "centred-on": _yes(0.98 - 0.96 * off_centre),
        "brightness": _yes(_rise(log10(view.signal["surface"]), 0.85, 0.12)),
        "irregular": _yes(0.03 + 0.94 * max(lumps, shapeless * knots)),
        "clumps": _classes(-knots, (-0.75, -0.35), 0.08),
        "ring": _yes(0.02 + 0.95 * ring),
        "field": _yes(_rise(-view.crowding, -4.0, 0.8)),
    }
    result = np.concatenate([answers[question.name] for question in QUESTIONS])
    result = np.clip(result, 1e-4, None).astype(np.float32)
    for part in slices().values():
        result[part] /= result[part].sum()
    return result


def _root(featured: float, view: View) -> NDArray[np.float64]:
    artifact = 0.85 if view.artifact else 0.02 + 0.3 * _rise(-log10(view.signal["all"]), -0.5, 0.15)
    return np.array([1 - featured, featured, 0.0]) * (1 - artifact) + [0, 0, artifact]


def _bar(bar: float, galaxy: Galaxy) -> NDArray[np.float64]:
    strong = bar * _rise(galaxy.bar_length / galaxy.radius, 0.55, 0.08)
    return np.array([0.95 * strong, 0.95 * (bar - strong) + 0.04, 1 - 0.95 * bar - 0.03])


def _bulge(view: View) -> NDArray[np.float64]:
    share = view.share.get("bulge", 0.0)
    classes = _classes(log10(share + 1e-3), (-1.5, -0.9, -0.45, -0.2), 0.1)
    return classes[::-1]


def _blurred(view: View) -> float:
    """Axis ratio after the seeing."""
    galaxy, softened = view.galaxy, (view.seeing / 2.355) ** 2
    length = (0.7 * galaxy.radius) ** 2
    return float(np.sqrt((length * galaxy.axis_ratio**2 + softened) / (length + softened)))


def _edge_on_bulge(view: View) -> NDArray[np.float64]:
    present = _rise(view.share.get("bulge", 0.0), 0.08, 0.025) * view.resolved(view.galaxy.radius)
    boxy = present * _rise(view.galaxy.boxiness, 0.5, 0.12)
    return np.array([0.9 * boxy, 1 - present, present - 0.9 * boxy])


def _arm_count(arms: float, galaxy: Galaxy) -> NDArray[np.float64]:
    lost = np.clip(0.75 * galaxy.flocculence + 0.35 * (1 - arms), 0, 0.95)
    lost = lost if galaxy.n_arms else 0.95
    counts = np.exp(-0.5 * ((np.arange(1, 6) - min(galaxy.n_arms, 5)) / 0.4) ** 2)
    spread = counts / counts.sum() * (1 - lost)
    return np.array([*spread[:4], spread[4] + 0.3 * lost, 0.7 * lost])


def _merging(disturbed: float, companion: float) -> NDArray[np.float64]:
    merger = 0.9 * companion
    rest = (1 - merger) * _classes(disturbed, (0.3, 0.62), 0.08)
    return np.array([*rest, merger])


def vote(chance: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int16]:
    """Send 20 to 40 volunteers down the tree.

    Parameters
    ----------
    chance : ndarray, shape (number of answers,)
        As `chances` gives them.

    Returns
    -------
    ndarray of int16, shape (number of answers,)
        Volunteers who gave each answer; a question is asked of those who gave one of the
        answers it is asked after.
    """
    votes = np.zeros(len(chance), np.int16)
    names, everybody = columns(), int(rng.integers(20, 41))
    for question in QUESTIONS:
        part = slices()[question.name]
        asked = sum(int(votes[names.index(answer)]) for answer in question.asked_after)
        opinion = rng.dirichlet(25 * chance[part].astype(float) + 0.02)
        votes[part] = rng.multinomial(asked if question.asked_after else everybody, opinion)
    return votes
