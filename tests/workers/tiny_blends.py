"""Tiny networks for blends and for the fluxes of pairs, untrained, and cutouts for them.

What they say means nothing; that it arrives, in which unit and under which flags, is tested.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import registry
from models.registry import Card

FWHM = 5.0  # pixel, of the galaxies
NOISE = 1.0  # sigma of a pixel [nJy]
SEP_CALIBRATION = 1.25
TINY: dict[str, tuple[str, dict[str, Any]]] = {  # architecture and its options
    "blends": ("residual", {"widths": (2, 2, 2), "views": 1}),
    "pair_flux": ("shares", {"widths": (2, 2, 2)}),
}
Cards = Callable[[str], list[Card]]


def cutout(
    dx: float = 16.0, flux: tuple[float, float] = (9000, 5000), size: int = 128, seed: int = 0
) -> NDArray[np.float32]:
    """Two round galaxies [nJy], (size, size): one in the middle, one dx columns beside it."""
    y, x = np.indices((size, size)) - (size - 1) / 2
    image = np.random.default_rng(seed).normal(0, NOISE, (size, size))
    variance = (FWHM / 2.3548) ** 2
    for light, x0 in zip(flux, (0.0, dx), strict=True):
        profile = np.exp(-((x - x0) ** 2 + y**2) / (2 * variance))
        image += light / (2 * np.pi * variance) * profile
    return image.astype(np.float32)


def write_cards(folder: Path) -> Cards:
    """Build the two networks, and say which cards an annotator has."""
    import keras

    keras.utils.set_random_seed(4)
    cards = {name: _card(folder, name, *each) for name, each in TINY.items()}
    return lambda annotator: [cards[annotator]] if annotator in cards else []


def _card(folder: Path, annotator: str, architecture: str, build: dict[str, Any]) -> Card:
    from models import blends, pair_flux

    network = {"blends": blends, "pair_flux": pair_flux}[annotator]
    path = folder / f"{annotator}.weights.h5"
    network.build(architecture, **build).save_weights(path)
    return Card(
        annotator,
        f"{architecture}.tiny",
        str(path),
        registry.sha256(path),
        state="current",
        inputs={"bands": ["r"]},
        build={key: list(v) if isinstance(v, tuple) else v for key, v in build.items()},
        training={"sep_calibration": SEP_CALIBRATION} if annotator == "pair_flux" else {},
    )
