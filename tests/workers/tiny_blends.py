"""Tiny networks for blends and for the fluxes of pairs, untrained, and cutouts for them.

What they say means nothing; that it arrives, in which unit and under which flags, is tested.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import cutouts
from models import registry
from models.registry import Card
from tests.builders import make_catalog, make_cutout_set, make_sources

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


def make_pairs(
    engine: Engine, n: int, root: Path, bands: Sequence[str] = ("r",), marker: float = 0.0
) -> list[int]:
    """A catalog with cutouts of n pairs in nJy, alike in all bands; the ids of the sources.

    The marker is the first pixel of the field that `blends` looks at, and of the whole cutout.
    """
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session)
        values = {"bands": list(bands), "unit": "nJy", "dtype": "float32", "size": 128}
        cutout_set = make_cutout_set(session, catalog, **values)
        ids = [source.id for source in make_sources(session, n, catalog)]
        session.commit()
    with cutouts.Writer(engine, root, cutout_set) as writer:
        for seed, source_id in enumerate(ids):
            pair = cutout(14.0 + seed, seed=seed)
            pair[32, 32] = pair[0, 0] = marker
            writer.append(source_id, np.stack([pair] * len(bands), axis=-1))
    return ids


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
