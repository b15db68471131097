"""Training of the networks that tell blends: from isolated galaxies to calibrated weights.

Cutouts are drawn from parents (`models.blender`), those for training from four fifths of them,
those that stop and calibrate a training from the others. Every random choice follows from the
seed. Measuring what came out is `models.evaluation.blends`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models import blender, blends, registry, scores
from models.blender import BLENDS, Parents, Recipe
from models.training.desom import Checkpoints

FWHM = (2.5, 3.0, 3.5, 4.0, 5.0)  # point spread functions of simulated parents [pixel]
PARENT_SIZE = 128  # pixel; a companion moved by 25 still fills a cutout
PART = 1000  # cutouts drawn, or looked at by a frozen network, at a time
KEEP = 5  # rounds between two checkpoints
HISTORY = "history.csv"
ENCODER = "efficientnetb0.legacy-1"  # the version whose features the preset encoder learns from
PATIENCE, LEAST_GAIN = 10, 1e-3  # epochs without a better loss, as published
LATER = 1_000_000  # number of the first cutout that calibrates, behind those that check

Progress = Callable[[int], None]
Row = dict[str, float]


@dataclass(frozen=True)
class Preset:
    """A recipe: a network, and how long and on what it is trained.

    A round is `round_size` cutouts. The residual network draws new ones for each, the share
    `crowded` of them with separations of at most `crowded_offset` pixels along an axis; the others
    learn from those of one round for `rounds` epochs at most, and stop early, as published.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    n_parents: int = 16_000
    rounds: int = 150
    round_size: int = 4096
    batch: int = 128
    learning_rate: float = 2e-3
    noise: tuple[float, float] = (1.5, 40.0)  # sigma, log-uniform from .. to [nJy per pixel]
    deep: float = 0.2  # share of parents as a deep field from space shows them
    crowded: float = 0.25
    crowded_offset: int = 8
    n_checked: int = 2048  # cutouts of held-out galaxies that measure each round
    n_calibrated: int = 20_000  # and that calibrate in the end

    @property
    def frozen(self) -> bool:
        """Whether only the head is trained, on features that are computed once."""
        return self.architecture in ("vgg16", "encoder")


_HEAD = Preset(
    "encoder",
    rounds=500,
    round_size=36_000,
    n_checked=36_000,
    batch=250,
    learning_rate=1e-3,
    crowded=0.0,
)
PRESETS = {
    "quick": Preset(
        "residual", n_parents=600, rounds=6, round_size=1024, n_checked=512, n_calibrated=1000
    ),
    "shipped": Preset("residual"),
    "vgg16": replace(_HEAD, architecture="vgg16", options={"weights": "imagenet"}),
    "encoder": replace(_HEAD, round_size=16_000, n_checked=4000, n_calibrated=4000),
}


def n_steps(preset: Preset) -> int:
    """How often `train` calls its progress hook: for each round, or each part of features."""
    if preset.frozen:
        return -(-preset.round_size // PART) + -(-preset.n_checked // PART)
    return preset.rounds


@dataclass(frozen=True)
class Trained:
    """A network, how it was built, and how well it does on galaxies that were held out."""

    model: keras.Model
    options: dict[str, Any]  # of `blends.build`, calibration included
    metrics: dict[str, float]
    history: list[Row]  # of each round
    n_parents: int


def simulated(preset: Preset, seed: int, progress: Progress | None = None) -> Parents:
    """The parents that a preset learns from where the user has none, of two surveys."""
    n_deep = int(preset.deep * preset.n_parents)
    surveys = ((BLENDS.population, preset.n_parents - n_deep), (blender.DEEP, n_deep))
    parts = [
        blender.simulate_parents(
            n,
            seed,
            size=PARENT_SIZE,
            fwhm=FWHM,
            population=population,
            first=first,
            progress=progress,
        )
        for first, (population, n) in zip((0, preset.n_parents), surveys, strict=True)
    ]
    return blender.joined(parts)


def train(
    parents: Parents,
    preset: Preset,
    seed: int,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    parents : Parents
        From `simulated`, or from a folder of the user; a fifth of them is held out.
    preset : Preset
    seed : int
    folder : Path, optional
        Folder for checkpoints, in which an interrupted training is continued.
    progress : callable, optional
        Called with 1 after each round.

    Raises
    ------
    ValueError
        No pairs can be made of the parents, weights of a frozen network cannot be had, or the
        checkpoints are those of another training.
    """
    keras.utils.set_random_seed(seed)
    learnt, held_out = blender.split(len(parents.flux), seed)
    sky = Sky(parents, preset, seed, learnt, held_out)
    train_one = _train_head if preset.frozen else _train_all
    model, options, history = train_one(sky, folder, progress)
    return Trained(model, options, measured(model, sky), history, len(parents.flux))


@dataclass(frozen=True)
class Sky:
    """Where cutouts come from: the parents, and which of them may be used for what."""

    parents: Parents
    preset: Preset
    seed: int
    learnt: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def round(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cutouts (m, 64, 64) of one round, and whether they are blends, 0 or 1."""
        n = self.preset.round_size
        n_crowded = int(self.preset.crowded * n)
        plain = self._recipe()
        crowded = replace(plain, max_offset=self.preset.crowded_offset)
        parts = [
            blender.draw(
                self.parents,
                self.learnt,
                size,
                10 * self.seed + kind,
                recipe,
                first=number * size,
                vary=True,
            )
            for kind, (recipe, size) in enumerate(((plain, n - n_crowded), (crowded, n_crowded)))
            if size
        ]
        pixels = np.concatenate([part.pixels for part in parts])
        truth = np.concatenate([part.is_blend for part in parts]).astype(np.float32)
        order = np.random.default_rng([self.seed, 3, number]).permutation(n)
        return pixels[order], truth[order]

    def rounds(self, first: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """What the network is shown, from a round on; while one is learnt, the next is drawn."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._shown, first)
            for number in range(first, self.preset.rounds):
                current = following.result()
                if number + 1 < self.preset.rounds:
                    following = pool.submit(self._shown, number + 1)
                yield current

    def _shown(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pixels, truth = self.round(number)
        return blends.SHOWN[self.preset.architecture](pixels), truth

    def checked(self, n: int, first: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cutouts (n, 64, 64) of galaxies that were held out, and which half of them are blends."""
        pixels, truth = np.empty((n, blends.SIZE, blends.SIZE), np.float32), np.empty(n, bool)
        for start in range(0, n, PART):
            part = slice(start, min(start + PART, n))
            drawn = blender.draw(
                self.parents,
                self.held_out,
                part.stop - start,
                10 * self.seed + 2,
                self._recipe(),
                first=first + start,
            )
            pixels[part], truth[part] = drawn.pixels, drawn.is_blend
        return pixels, truth

    def _recipe(self) -> Recipe:
        return replace(BLENDS, noise=self.preset.noise)


def measured(model: keras.Model, sky: Sky) -> dict[str, float]:
    """Accuracy and calibration on cutouts of galaxies held out, to which nothing was fitted."""
    pixels, truth = sky.checked(sky.preset.n_calibrated, first=2 * LATER)
    p = blends.predict(model, pixels)
    return {
        "accuracy": scores.accuracy(truth, p),
        "completeness": scores.completeness(truth, p),
        "specificity": scores.specificity(truth, p),
        "calibration_error": scores.calibration_error(truth, p),
        "brier": scores.brier(truth, p),
    }


def _train_all(
    sky: Sky, folder: Path | None, progress: Progress | None
) -> tuple[keras.Model, dict[str, Any], list[Row]]:
    """Train every layer on cutouts drawn anew each round, and calibrate."""
    preset = sky.preset
    model = blends.build(preset.architecture, **{**preset.options, "views": 1})
    _compile(model, preset)
    kept = Checkpoints(folder, preset, sky.seed, sky.parents.flux) if folder else None
    done = kept.resume(model) if kept else 0
    history = _read_history(folder)[:done] if folder else []
    if progress and done:
        progress(done)
    checked, is_blend = sky.checked(preset.n_checked)
    for number, (pictures, truth) in enumerate(sky.rounds(done), start=done + 1):
        model.fit(pictures, truth, batch_size=preset.batch, shuffle=False, verbose=0)
        history.append(_row(number, is_blend, blends.predict(model, checked)))
        if kept and folder and (number % KEEP == 0 or number == preset.rounds):
            write_history(history, folder)
            kept.keep(model, number)
        if progress:
            progress(1)
    return *_calibrated(model, sky), history


def _compile(model: keras.Model, preset: Preset) -> None:
    steps = preset.rounds * -(-preset.round_size // preset.batch)
    warm_up = min(200, steps // 5)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1 * preset.learning_rate,
        steps - warm_up,
        alpha=0.0,
        warmup_target=preset.learning_rate,
        warmup_steps=warm_up,
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        "binary_crossentropy",
        jit_compile="auto" if keras.backend.backend() == "jax" else False,  # XLA is slower here
    )


def _calibrated(model: keras.Model, sky: Sky) -> tuple[keras.Model, dict[str, Any]]:
    """The same weights in a network of all views, calibrated on galaxies held out."""
    options = dict(sky.preset.options)
    pixels, truth = sky.checked(sky.preset.n_calibrated, first=LATER)
    whole = _rebuilt(model, sky.preset, options)
    temperature, offset = scores.fit_calibration(truth, blends.predict(whole, pixels))
    options |= {"temperature": round(temperature, 4), "offset": round(offset, 4)}
    return _rebuilt(model, sky.preset, options), options


def _rebuilt(model: keras.Model, preset: Preset, options: dict[str, Any]) -> keras.Model:
    again = blends.build(preset.architecture, **options)
    again.set_weights(model.get_weights())
    return again


def _train_head(
    sky: Sky, folder: Path | None, progress: Progress | None
) -> tuple[keras.Model, dict[str, Any], list[Row]]:
    """Train the head of a frozen network as published, on features computed once.

    What is mended: the best weights are kept, not the last; and a smaller last batch is not lost.
    """
    preset = sky.preset
    model = blends.build(preset.architecture, **preset.options)
    if preset.architecture == "encoder":
        _fill_encoder(model)
    body = keras.Model(model.input, model.get_layer("features").output)
    pixels, truth = sky.round(0)
    checked, is_blend = sky.checked(preset.n_checked)
    shown = blends.SHOWN[preset.architecture]
    features, checked = (_features(body, shown, each, progress) for each in (pixels, checked))
    head = model.get_layer("head")
    head.compile(keras.optimizers.Adam(preset.learning_rate), "binary_crossentropy")
    found = head.fit(
        features,
        truth,
        batch_size=preset.batch,
        epochs=preset.rounds,
        validation_data=(checked, is_blend.astype(np.float32)),
        callbacks=[
            keras.callbacks.EarlyStopping(
                patience=PATIENCE, min_delta=LEAST_GAIN, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau(
                factor=0.5, patience=PATIENCE // 2, min_delta=LEAST_GAIN, cooldown=2
            ),
        ],
        verbose=0,
    )
    history = [{"round": k, "loss": x} for k, x in enumerate(found.history["val_loss"], start=1)]
    if folder:
        write_history(history, folder)
    options = {name: value for name, value in preset.options.items() if name != "weights"}
    return model, options, history


def _fill_encoder(model: keras.Model) -> None:
    """Put the shipped encoder's weights into the frozen part."""
    shipped = registry.load(registry.find("representations", ENCODER))
    model.get_layer("body").set_weights(shipped.get_weights())


def _features(
    body: keras.Model,
    shown: Callable[[NDArray], NDArray[np.float32]],
    pixels: NDArray[np.float32],
    progress: Progress | None,
) -> NDArray[np.float32]:
    """What a frozen network makes of what it is shown of cutouts, (n, d)."""
    found = []
    for start in range(0, len(pixels), PART):
        pictures = shown(pixels[start : start + PART])
        found.append(body.predict(pictures, batch_size=64, verbose=0))
        if progress:
            progress(1)
    return np.concatenate(found)


def _row(number: int, is_blend: NDArray[np.bool_], p: NDArray[np.float32]) -> Row:
    kept = np.clip(np.where(is_blend, p, 1 - p), 1e-6, 1)
    return {
        "round": number,
        "loss": float(-np.log(kept).mean()),
        "accuracy": scores.accuracy(is_blend, p),
    }


def _read_history(folder: Path) -> list[Row]:
    path = folder / HISTORY
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]


def write_history(history: list[Row], folder: Path) -> Path:
    """Write loss (and accuracy) on cutouts of held-out galaxies, round by round."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HISTORY
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, history[0], lineterminator="\n")
        table.writeheader()
        table.writerows(
            {name: round(x, 5) if name != "round" else int(x) for name, x in row.items()}
            for row in history
        )
    return path


def card(
    trained: Trained, preset: Preset, seed: int, weights: Path, tag: str, source: str
) -> registry.Card:
    """The card of freshly trained weights.

    Parameters
    ----------
    weights : Path
        The file they were saved to.
    tag : str
        Names the version, after its architecture.
    source : str
        Where the parents are from.
    """
    return registry.Card(
        annotator="blends",
        name=f"{preset.architecture}.{tag}",
        weights=str(weights.resolve()),
        sha256=registry.sha256(weights),
        summary="Tells two galaxies that overlap from one, by one band.",
        inputs={"bands": ["r"], "size": blends.SIZE, "unit": "nJy"},
        preprocessing="Pixels in any linear unit; the network scales each cutout itself.",
        build=trained.options,
        training={
            "parents": source,
            "n_parents": trained.n_parents,
            "seed": seed,
            "recipe": json.dumps(asdict(preset)),
        },
        metrics_from="Cutouts of the fifth of the galaxies that was held out of the training and "
        "that the probabilities are calibrated on, half of them blends.",
        metrics={name: {"value": round(x, 4)} for name, x in trained.metrics.items()},
        paper="Farrens et al. (2022), A&A 657, A98",
    )
