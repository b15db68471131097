"""Tiny maps of sources and exposures with weights that know a few kinds of cutouts by heart.

Nothing is trained: the prototypes are the codes of examples. Cell k of the map of sources (2 x 3)
is kind k of `cutout`; the map of exposures (2 x 2) knows mixtures of the first three kinds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import registry
from models.registry import Card

ROWS, COLUMNS = 2, 3
KINDS = ROWS * COLUMNS
MIXTURES = ([32, 4, 4], [4, 32, 4], [4, 4, 32], [14, 13, 13])  # cells of the map of exposures
TINY = {"filters": (2, 2, 2), "latent": 16, "grid": (ROWS, COLUMNS)}
SMALL = {"widths": (32,), "latent": 8, "grid": (2, 2), "n_cells": KINDS}


def cutout(kind: int, seed: int = 0) -> NDArray[np.uint16]:
    """A cutout (32, 32, 1) of one of six kinds, each bright somewhere else, with a little noise."""
    image = np.random.default_rng(seed).normal(100, 3, (32, 32, 1))
    row, column = divmod(kind, COLUMNS)
    image[16 * row : 16 * row + 14, 10 * column : 10 * column + 9] += 3000
    return image.astype(np.uint16)


def contents(numbers: Sequence[int]) -> NDArray[np.uint16]:
    """Cutouts of an exposure, so many of each kind: (n, 32, 32, 1)."""
    kinds = np.repeat(np.arange(len(numbers)), numbers)
    return np.stack([cutout(int(kind), seed) for seed, kind in enumerate(kinds)])


def counts(numbers: Sequence[int]) -> NDArray[np.float32]:
    """The histogram of such an exposure, (6,)."""
    return np.pad(np.array(numbers, np.float32), (0, KINDS - len(numbers)))


def write_cards(folder: Path) -> Callable[[str], list[Card]]:
    """Build the two maps, and say which cards an annotator has."""
    import keras

    from models import desom

    keras.utils.set_random_seed(4)
    sources, exposures = desom.build("desom1", **TINY), desom.build("desom2", **SMALL)
    examples = np.stack([cutout(kind) for kind in range(KINDS)])
    mixtures = np.stack([counts(each) for each in MIXTURES])
    exposures.scale.fit(np.concatenate([mixtures, 2 * mixtures]))
    for model, known, reach in ((sources, examples, 1e3), (exposures, mixtures, 0.6)):
        codes = desom.place(model, known).latent
        model.cells.prototypes.assign(codes)
        apart = np.linalg.norm(codes[:, None] - codes, axis=-1)
        model.cells.reach.assign(reach * np.median(apart[apart > 0]))
    cards = {
        "source_map": _card(folder, "source_map", "desom1", sources, TINY),
        "exposure_map": _card(folder, "exposure_map", "desom2", exposures, SMALL),
    }
    return lambda annotator: [cards[annotator]] if annotator in cards else []


def _card(folder: Path, annotator: str, architecture: str, model: object, build: dict) -> Card:
    path = folder / f"{architecture}.weights.h5"
    model.save_weights(path)  # type: ignore[attr-defined]
    return Card(
        annotator,
        f"{architecture}.tiny",
        str(path),
        registry.sha256(path),
        state="current",
        inputs={"source_map": "desom1.tiny", "cells": KINDS} if annotator == "exposure_map" else {},
        build={key: list(v) if isinstance(v, tuple) else v for key, v in build.items()},
    )
