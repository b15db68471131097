"""Training of the shreds networks: from labelled cutouts to weights.

Every random choice follows from the seed. Measuring what came out is `models.evaluation.shreds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from models import registry, shreds
from models.features import features
from models.labelled import Labelled, folds
from models.training.recentre import Points, find_points, vary
from models.training.trees import grow, layer_weights

BATCH = 64
SOFT_LABEL, SOFT_GUESS = 0.03, 0.06  # how far from 0 and 1 the targets stay

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Preset:
    """A recipe: a network and how long and on what it is trained.

    A round is `round_size` freshly varied pictures. During the first rounds the share
    `recentred_first` of them are recentred ones, afterwards `recentred_after`, falling to none.
    """

    architecture: str
    first_rounds: int
    rounds: int
    round_size: int = 4096
    members: int = 1
    trees: int = 0
    recentred_first: float = 0.75
    recentred_after: float = 0.25
    learning_rate: float = 2e-3
    temperature: float = 1.0
    offset: float = 0.0
    early_stopping: int = 0  # rounds without a better validation loss; 0 trains to the end

    @property
    def options(self) -> dict[str, Any]:
        """What `shreds.build` is given."""
        if self.architecture != "polar":
            return {}
        return {
            "members": self.members,
            "trees": self.trees,
            "temperature": self.temperature,
            "offset": self.offset,
        }


PRESETS = {
    "quick": Preset("polar", first_rounds=1, rounds=3, round_size=2048),
    "shipped": Preset(
        "polar",
        first_rounds=3,
        rounds=7,
        members=3,
        trees=300,
        temperature=0.695,
        offset=-0.226,
    ),
    "published": Preset(
        "published",
        first_rounds=0,
        rounds=100,
        round_size=3200,
        recentred_after=0.0,
        learning_rate=1e-4,
        early_stopping=5,
    ),
    "plain": Preset(
        "plain", first_rounds=0, rounds=10, round_size=2048, recentred_after=0.0, learning_rate=1e-3
    ),
}


def n_steps(preset: Preset) -> int:
    """Rounds that `train` reports to its progress hook, at most."""
    return preset.members * (preset.first_rounds + preset.rounds)


def train(
    data: Labelled, preset: Preset, seed: int, progress: Progress | None = None
) -> keras.Model:
    """Train a network on every decided source of `data`.

    Parameters
    ----------
    data : Labelled
        Undecided sources give recentred pictures of their surroundings only.
    preset : Preset
    seed : int
        Member k of a polar network is trained with the seed `100 * seed + k`.
    progress : callable, optional
        Called with 1 after each round.

    Returns
    -------
    keras.Model
        Ready for `shreds.predict`.
    """
    classes = set(data.label[data.decided])
    if len(classes) < 2:
        raise ValueError(f"training needs galaxies and shreds; the labels hold {classes or 'none'}")
    if preset.architecture != "polar":
        keras.utils.set_random_seed(seed)
        model = shreds.build(preset.architecture)
        _fit(model, data, preset, seed, progress)
        return model
    model = shreds.build("polar", **preset.options)
    for k in range(preset.members):
        member = train_member(data, preset, 100 * seed + k, progress)
        model.get_layer(f"member_{k}").set_weights(member.get_weights())
    if preset.trees:
        decided = data.take(data.decided)
        grown = grow(features(decided.rgb), decided.is_shred, preset.trees, seed)
        model.get_layer("trees").set_weights(layer_weights(grown))
    return model


def train_member(
    data: Labelled, preset: Preset, seed: int, progress: Progress | None = None
) -> keras.Model:
    """Train one member of a polar network; it takes polar pictures and gives log odds."""
    keras.utils.set_random_seed(seed)
    member = shreds.polar_member()
    picture = keras.Input((shreds.SIZE, shreds.SIZE, 3))
    rings = shreds.polar_picture(picture)
    p = keras.layers.Activation("sigmoid", dtype="float32")(member(rings))
    _fit(keras.Model(picture, p), data, preset, seed, progress)
    return member


def _fit(
    model: keras.Model, data: Labelled, preset: Preset, seed: int, progress: Progress | None
) -> None:
    keras.utils.set_random_seed(seed)
    held_out = (
        folds(data.group, 5, seed) == 0 if preset.early_stopping else np.zeros(len(data), bool)
    )
    checked = data.take(held_out & data.decided)
    best, patience = (np.inf, model.get_weights()), preset.early_stopping
    _compile(model, preset)
    for pictures, targets in rounds(data.take(~held_out), preset, seed):
        model.fit(pictures.astype(np.float32), targets, batch_size=BATCH, verbose=0)
        if progress:
            progress(1)
        if preset.early_stopping:
            loss = _cross_entropy(checked.is_shred, shreds.predict(model, checked.rgb))
            patience = preset.early_stopping if loss < best[0] else patience - 1
            best = min(best, (loss, model.get_weights()), key=lambda pair: pair[0])
            if not patience:
                break
    if preset.early_stopping:
        model.set_weights(best[1])
    else:
        model.optimizer.finalize_variable_values(model.trainable_variables)


def _compile(model: keras.Model, preset: Preset) -> None:
    """RMSprop as published for the published network, else AdamW with averaged weights."""
    if preset.architecture == "published":
        model.compile(
            keras.optimizers.RMSprop(preset.learning_rate, rho=0.9, epsilon=1e-7),
            "sparse_categorical_crossentropy",
        )
        return
    steps = (preset.first_rounds + preset.rounds) * preset.round_size // BATCH
    warm_up = min(100, steps // 5)
    memory = min(0.99, 1 - 10 / max(steps, 20))  # of the averaged weights
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 * preset.learning_rate,
        steps - warm_up,
        alpha=0.01,
        warmup_target=preset.learning_rate,
        warmup_steps=warm_up,
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3, use_ema=True, ema_momentum=memory),
        "binary_crossentropy",
    )


def rounds(
    data: Labelled, preset: Preset, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield the pictures (n, 128, 128, 3) and targets (n,) of each round, balanced and shuffled."""
    rng = np.random.default_rng(seed)
    with_points = preset.recentred_first * preset.first_rounds + preset.recentred_after > 0
    points = find_points(data, rng) if with_points else None
    for number in range(preset.first_rounds + preset.rounds):
        share = preset.recentred_first
        if number >= preset.first_rounds:
            left = 1 - (number - preset.first_rounds) / preset.rounds
            share = preset.recentred_after * left
        n_recentred = int(share * preset.round_size) if points and len(points.x) else 0
        pictures, targets = _labelled_pictures(data, preset.round_size - n_recentred, rng)
        if points and n_recentred:
            more, more_targets = _recentred_pictures(data, points, n_recentred, rng)
            pictures, targets = np.concatenate([pictures, more]), np.append(targets, more_targets)
        order = rng.permutation(len(targets))
        if preset.architecture == "published":
            targets = (targets > 0.5).astype(np.float32)
        yield pictures[order], targets[order].astype(np.float32)


def _labelled_pictures(
    data: Labelled, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    galaxies = np.flatnonzero(data.decided & ~data.is_shred)
    rows = np.append(
        rng.choice(galaxies, n // 2), rng.choice(np.flatnonzero(data.is_shred), n - n // 2)
    )
    pictures = np.stack([vary(data.rgb[row], rng) for row in rows])
    return pictures, np.abs(data.is_shred[rows] - SOFT_LABEL)


def _recentred_pictures(
    data: Labelled, points: Points, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Half shreds, a quarter nuclei of large objects, a quarter small objects, where there are."""
    chance = np.zeros(len(points.x))
    for kind, share in (
        (points.is_shred, 0.5),
        (~points.is_shred & points.large, 0.25),
        (~points.is_shred & ~points.large, 0.25),
    ):
        chance[kind] = share / max(1, kind.sum())
    where = rng.choice(len(chance), n, p=chance / chance.sum())
    pictures = np.stack(
        [vary(data.rgb[points.row[k]], rng, points.x[k], points.y[k]) for k in where]
    )
    return pictures, np.abs(points.is_shred[where] - SOFT_GUESS)


def _cross_entropy(is_shred: NDArray[np.bool_], p: NDArray[np.float32]) -> float:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(is_shred, np.log(p), np.log(1 - p))))


def card(data: Labelled, preset: Preset, seed: int, weights: Path, day: str) -> registry.Card:
    """The card of freshly trained weights; its metrics are left to cross-validation."""
    decided = data.take(data.decided)
    return registry.Card(
        annotator="shreds",
        name=f"{preset.architecture}.{day}",
        weights=str(weights.resolve()),
        sha256=registry.sha256(weights),
        summary="Tells galaxies from shreds by one colour picture.",
        inputs={
            "bands": ["z", "r", "g"],
            "size": shreds.SIZE,
            "pixel_scale": shreds.PIXEL_SCALE,
            "unit": "display",
        },
        preprocessing="Values 0 to 255 as pixels.to_rgb gives them; the network scales them.",
        build=preset.options,
        training={
            "n_galaxies": int((~decided.is_shred).sum()),
            "n_shreds": int(decided.is_shred.sum()),
            "n_groups": len(np.unique(decided.group)),
            "labels_sha256": data.sha256,
            "seed": seed,
            "recipe": json.dumps(asdict(preset)),
        },
    )


def save_half(model: keras.Model, path: Path) -> None:
    """Save weights as float16, half the size; they load into the same float32 network.

    Those too large for float16 stay as they are.
    `path` must end in `.weights.h5`, as Keras asks.
    """
    model.save_weights(path)
    with h5py.File(path, "r") as file:
        halved = {"/": (dict(file.attrs), None)}
        file.visititems(lambda name, item: halved.update({name: _halved(item)}))
    with h5py.File(path, "w") as file:
        for name, (attributes, values) in halved.items():
            item = (
                file.require_group(name)
                if values is None
                else file.create_dataset(name, data=values)
            )
            item.attrs.update(attributes)


def _halved(item: h5py.Group | h5py.Dataset) -> tuple[dict, NDArray | None]:
    """Attributes and values of one entry, with float values as float16; a group has no values."""
    values = item[()] if isinstance(item, h5py.Dataset) else None
    if values is not None and np.issubdtype(values.dtype, np.floating):
        large = np.abs(values).max(initial=0) > np.finfo(np.float16).max
        values = values if large else values.astype(np.float16)
    return dict(item.attrs), values
