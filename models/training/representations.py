"""Training of the encoders: many questions at once, first on a simulated sky, then on labels.

An encoder is good for search when its numbers answer every question about a source. So it learns
the volunteers' answers on a simulated sky, and then, mixed with those, the labels and tags of real
cutouts, each seen from many points of view. The network is also asked for the plain numbers of
`models.features`, which need no label. Every random choice follows from the seed. Measuring what
came out is `models.evaluation.representations`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models import registry, representations
from models.features import N_FEATURES, features
from models.labelled import Labelled
from models.questions import QUESTIONS, columns, slices
from models.training.recentre import Points, find_points, vary

BATCH = 64
ROUND = 16  # batches between two reports, and two checkpoints
TAGS = ("smooth", "spiral", "edgeon", "ring", "irregular", "merger", "lsb", "crowded")
SOFT_LABEL, SOFT_GUESS = 0.03, 0.06  # how far from 0 and 1 the answers about shreds stay
LOSS_WEIGHTS = {"votes": 0.01, "shred": 1.0, "tags": 2.0, "numbers": 0.3}
MEMORY = 0.97  # of the batch normalisation, short enough for a training of minutes
PIECE = 250  # simulated sources drawn at a time
SIMULATED_ONLY = "simulated-only.weights.h5"
COMPONENT_VIEWS = 4  # pictures of each source among which the principal components are sought

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Preset:
    """A recipe: an encoder, and how long and on what it is trained.

    `n_simulated` different simulated pictures are seen in `rounds_simulated` rounds of 16 batches,
    each time turned and varied. In the `rounds_real` rounds that follow, `share_simulated` of a
    batch stay simulated; of the rest the share `recentred` falls to zero.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    n_simulated: int = 0
    sky_seed: int = 11
    rounds_simulated: int = 0
    rounds_real: int = 0
    share_simulated: float = 0.25
    recentred: float = 0.6
    learning_rate: float = 2e-3
    learning_rate_real: float = 1e-3
    zoom: float = 0.2


PRESETS = {
    "quick": Preset(
        "efficientnetb0",
        {"view": "rings", "views": 2},
        n_simulated=500,
        rounds_simulated=4,
        rounds_real=4,
    ),
    "shipped": Preset(
        "efficientnetb0",
        {"view": "rings", "views": 2},
        n_simulated=12_000,
        rounds_simulated=105,
        rounds_real=28,
    ),
}
PRESETS["picture"] = replace(PRESETS["shipped"], options={"view": "picture", "views": 2})


@dataclass(frozen=True)
class Sky:
    """Simulated pictures with the votes of volunteers."""

    rgb: NDArray[np.uint8]  # (n, 128, 128, 3)
    votes: NDArray[np.integer]  # (n, answers)

    def __len__(self) -> int:
        return len(self.rgb)


def simulated_sky(n_sources: int, seed: int, progress: Progress | None = None) -> Sky:
    """The sky that `seed` stands for, drawn on all processors."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    starts = range(0, n_sources, PIECE)
    if len(starts) == 1:
        return Sky(*_piece(n_sources, seed, 0))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        pieces = []
        for piece in pool.map(partial(_piece, n_sources, seed), starts):
            pieces.append(piece)
            if progress:
                progress(1)
    return Sky(*(np.concatenate(part) for part in zip(*pieces, strict=True)))


def _piece(n_sources: int, seed: int, first: int) -> tuple[NDArray, NDArray]:
    from models.galaxies import simulate

    sky = simulate(min(PIECE, n_sources - first), seed, first=first)
    return sky.rgb, sky.votes


@keras.saving.register_keras_serializable("skygloss")
class DirichletMultinomial(keras.losses.Loss):
    """Minus the log likelihood of the votes, summed over the questions, per picture.

    The network gives one concentration per answer. A question nobody was asked contributes 0; the
    multinomial coefficient, which no network can change, is left out.

    References
    ----------
    Walmsley et al. (2022), MNRAS 509, 3966, sect. 4.1.
    """

    def __init__(self, most: int = 40, name: str = "dirichlet_multinomial", **kwargs: Any):
        """`most` is the largest number of votes for one question."""
        super().__init__(name=name, **kwargs)
        self.most = most
        n_answers = len(columns())
        self.asked = np.zeros((n_answers, len(QUESTIONS)), np.float32)
        for k, part in enumerate(slices().values()):
            self.asked[part, k] = 1

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Votes (n, answers) and concentrations (n, answers) give (n,)."""
        votes = ops.cast(y_true, y_pred.dtype)
        per_answer = self._log_rising(y_pred, votes)
        per_question = self._log_rising(
            ops.matmul(y_pred, self.asked), ops.matmul(votes, self.asked)
        )
        return ops.sum(per_question, axis=-1) - ops.sum(per_answer, axis=-1)

    def _log_rising(self, x: Any, n: Any) -> Any:
        """log(Gamma(x + n) / Gamma(x)) for whole n up to `most`, as a sum of n logarithms."""
        steps = np.arange(self.most, dtype=np.float32)
        terms = ops.log(x[..., None] + steps)
        return ops.sum(ops.where(steps < n[..., None], terms, 0.0), axis=-1)


def with_heads(encoder: keras.Model) -> keras.Model:
    """The network that is trained: an encoder with one linear answer sheet per kind of question."""
    embedding = encoder.get_layer("embedding").output
    kept = layers.Dropout(0.3)(embedding)
    concentration = layers.Dense(len(columns()), activation="sigmoid", dtype="float32")(kept)
    answers = {
        "votes": layers.Rescaling(100.0, offset=1.0, name="votes", dtype="float32")(concentration),
        "shred": layers.Dense(1, activation="sigmoid", dtype="float32", name="shred")(kept),
        "tags": layers.Dense(len(TAGS), activation="sigmoid", dtype="float32", name="tags")(kept),
        "numbers": layers.Dense(N_FEATURES, dtype="float32", name="numbers")(embedding),
    }
    return keras.Model(encoder.input, answers, name="with_heads")


Batch = tuple[NDArray[np.float32], dict[str, NDArray], dict[str, NDArray]]


class Pictures(keras.utils.PyDataset):
    """One round of freshly varied pictures, their answers, and which answers are known.

    Batch k of round r is the same whatever was drawn before, so a training can be resumed.
    """

    def __init__(self, makers: list[tuple[float, Maker]], seed: int, number: int, scale: Scale):
        super().__init__(workers=1, max_queue_size=6)
        self.makers, self.seed, self.number, self.scale = makers, seed, number, scale

    def __len__(self) -> int:
        return ROUND

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.seed, self.number, index])
        shares = np.array([share for share, _ in self.makers])
        counts = np.diff(np.round(np.append(0, np.cumsum(shares)) / shares.sum() * BATCH)).astype(
            int
        )
        parts = [maker(int(n), rng) for (_, maker), n in zip(self.makers, counts, strict=True) if n]
        rgb = np.concatenate([part.rgb for part in parts])
        answers = {name: np.concatenate([part.answers[name] for part in parts]) for name in ANSWERS}
        known = {name: np.concatenate([part.known[name] for part in parts]) for name in ANSWERS}
        answers["numbers"] = self.scale(rgb)
        known["numbers"] = np.ones(len(rgb), np.float32)
        return rgb.astype(np.float32), answers, known


ANSWERS = {"votes": len(columns()), "shred": 1, "tags": len(TAGS)}


@dataclass
class Part:
    """Some pictures of a batch; what is not set is not known."""

    rgb: NDArray[np.uint8]
    answers: dict[str, NDArray[np.float32]] = field(init=False)
    known: dict[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.rgb)
        self.answers = {name: np.zeros((n, width), np.float32) for name, width in ANSWERS.items()}
        self.known = {name: np.zeros(n, np.float32) for name in ANSWERS}

    def set(self, name: str, values: NDArray, known: NDArray | float = 1.0) -> None:
        """Fill in the answers to one kind of question."""
        self.answers[name][:] = np.reshape(values, self.answers[name].shape)
        self.known[name][:] = known


Maker = Callable[[int, np.random.Generator], Part]


@dataclass(frozen=True)
class Scale:
    """The numbers of `models.features` in units of their scatter over the training pictures."""

    mean: NDArray[np.float32]  # (31,)
    scatter: NDArray[np.float32]  # (31,)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, 31), kept within 5 of 0."""
        return np.clip((features(rgb) - self.mean) / self.scatter, -5, 5).astype(np.float32)

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> Scale:
        """Measure mean and scatter on pictures (n, 128, 128, 3)."""
        numbers = features(rgb)
        return cls(numbers.mean(axis=0), numbers.std(axis=0) + 1e-3)


def from_sky(sky: Sky, zoom: float) -> Maker:
    """Simulated pictures with their votes."""

    def make(n: int, rng: np.random.Generator) -> Part:
        rows = rng.integers(0, len(sky), n)
        part = Part(np.stack([vary(sky.rgb[row], rng, zoom=zoom) for row in rows]))
        part.set("votes", sky.votes[rows])
        return part

    return make


def from_labels(data: Labelled, zoom: float) -> Maker:
    """Labelled pictures with their labels where decided, and their tags."""
    degrees = np.stack([data.degree(tag) for tag in TAGS], axis=1)

    def make(n: int, rng: np.random.Generator) -> Part:
        rows = rng.integers(0, len(data), n)
        part = Part(np.stack([vary(data.rgb[row], rng, zoom=zoom) for row in rows]))
        part.set("shred", np.abs(data.is_shred[rows] - SOFT_LABEL), data.decided[rows])
        part.set("tags", degrees[rows])
        return part

    return make


def from_points(data: Labelled, points: Points, zoom: float) -> Maker:
    """Labelled pictures seen from new centres: half shreds, a quarter large, a quarter small."""
    chance = np.zeros(len(points.x))
    for kind, share in (
        (points.is_shred, 0.5),
        (~points.is_shred & points.large, 0.25),
        (~points.is_shred & ~points.large, 0.25),
    ):
        chance[kind] = share / max(1, kind.sum())
    chance /= chance.sum()

    def make(n: int, rng: np.random.Generator) -> Part:
        chosen = rng.choice(len(chance), n, p=chance)
        pictures = [
            vary(data.rgb[points.row[k]], rng, points.x[k], points.y[k], zoom) for k in chosen
        ]
        part = Part(np.stack(pictures))
        part.set("shred", np.abs(points.is_shred[chosen] - SOFT_GUESS))
        return part

    return make


def n_steps(preset: Preset) -> int:
    """Rounds that `train` reports to its progress hook, the pieces of the sky among them."""
    return -(-preset.n_simulated // PIECE) + preset.rounds_simulated + preset.rounds_real


def train(
    data: Labelled,
    preset: Preset,
    seed: int,
    *,
    start: str | Path | None = None,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Train an encoder on a simulated sky and on every labelled source of `data`.

    Parameters
    ----------
    data : Labelled
        With tags.
    preset : Preset
    seed : int
    start : path or "imagenet", optional
        Weights to start from instead of the training on the simulated sky alone.
    checkpoints : Path, optional
        Folder in which an interrupted training is continued, and where the weights of the simulated
        sky alone stay.
    progress : callable, optional
        Called with 1 after each round.

    Returns
    -------
    keras.Model
        Ready for `representations.encode`, with its principal components.
    """
    done = checkpoints / SIMULATED_ONLY if checkpoints else None
    if start is None and done and done.is_file():
        start = done
    encoder = started(preset, start) if start is not None else None
    sky = simulated_sky(preset.n_simulated, preset.sky_seed, progress)
    if encoder is None:
        encoder = pretrain(sky, preset, seed, checkpoints, progress)
        if done:
            encoder.save_weights(done)
            registry.seen_path(done).write_text("")  # no real picture
    return fine_tune(encoder, data, sky, preset, seed, checkpoints, progress)


def started(preset: Preset, start: str | Path) -> keras.Model:
    """An encoder with given weights: a file of one of our encoders, or `imagenet` from the net."""
    encoder = representations.build(preset.architecture, **preset.options)
    if start == "imagenet":
        representations.load_imagenet(encoder)
    elif Path(start).is_file():
        encoder.load_weights(start)
    else:
        raise FileNotFoundError(f"there are no weights to start from at {start}")
    return encoder


def pretrain(
    sky: Sky,
    preset: Preset,
    seed: int,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Learn the volunteers' answers on a simulated sky; no real picture is seen."""
    keras.utils.set_random_seed(seed)
    encoder = representations.build(preset.architecture, **preset.options)
    scale = Scale.of(sky.rgb[:2000])

    def makers(number: int) -> list[tuple[float, Maker]]:
        return [(1.0, from_sky(sky, preset.zoom))]

    schedule = Schedule("simulated", preset.rounds_simulated, preset.learning_rate, seed)
    _fit(with_heads(encoder), makers, scale, schedule, checkpoints, progress)
    set_components(encoder, sky.rgb[:2000])
    return encoder


def fine_tune(
    encoder: keras.Model,
    data: Labelled,
    sky: Sky,
    preset: Preset,
    seed: int,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Learn labels and tags of real cutouts, with simulated ones among them; in place."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    points = find_points(data, rng)
    labels, elsewhere = from_labels(data, preset.zoom), from_points(data, points, preset.zoom)

    def makers(number: int) -> list[tuple[float, Maker]]:
        recentred = preset.recentred * (1 - number / preset.rounds_real)
        real = 1 - preset.share_simulated
        return [
            (preset.share_simulated, from_sky(sky, preset.zoom)),
            (real * recentred, elsewhere),
            (real * (1 - recentred), labels),
        ]

    schedule = Schedule("real", preset.rounds_real, preset.learning_rate_real, seed)
    _fit(with_heads(encoder), makers, Scale.of(data.rgb), schedule, checkpoints, progress)
    views = [vary(picture, rng) for picture in data.rgb for _ in range(COMPONENT_VIEWS - 1)]
    set_components(encoder, np.concatenate([data.rgb, np.stack(views)]))
    return encoder


@dataclass(frozen=True)
class Schedule:
    """One stage of a training: how many rounds, how fast, and its checkpoints' name."""

    name: str
    rounds: int
    learning_rate: float
    seed: int

    def optimizer(self) -> keras.optimizers.Optimizer:
        """AdamW whose step warms up and falls to nothing, with averaged weights."""
        steps = self.rounds * ROUND
        warm_up = min(150, steps // 5)
        rate = keras.optimizers.schedules.CosineDecay(
            0.1 * self.learning_rate,
            max(1, steps - warm_up),
            alpha=0.01,
            warmup_target=self.learning_rate,
            warmup_steps=warm_up,
        )
        memory = min(0.99, 1 - 10 / max(steps, 20))  # of the averaged weights
        return keras.optimizers.AdamW(rate, weight_decay=1e-3, use_ema=True, ema_momentum=memory)


def _fit(
    model: keras.Model,
    makers: Callable[[int], list[tuple[float, Maker]]],
    scale: Scale,
    schedule: Schedule,
    checkpoints: Path | None,
    progress: Progress | None,
) -> None:
    for layer in model.get_layer("body").layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MEMORY
    model.compile(
        schedule.optimizer(),
        loss={
            "votes": DirichletMultinomial(),
            "shred": "binary_crossentropy",
            "tags": "binary_crossentropy",
            "numbers": keras.losses.Huber(),
        },
        loss_weights=LOSS_WEIGHTS,
    )
    first = _resume(model, schedule, checkpoints)
    for number in range(first, schedule.rounds):
        pictures = Pictures(makers(number), schedule.seed, number, scale)
        history = model.fit(pictures, verbose=0, shuffle=False).history
        if checkpoints:
            _keep(model, schedule, checkpoints, number + 1, history)
        if progress:
            progress(1)
    model.optimizer.finalize_variable_values(model.trainable_variables)


def _files(schedule: Schedule, checkpoints: Path) -> tuple[Path, Path]:
    """Where a stage keeps its weights (the optimizer's among them), and what it has done."""
    return checkpoints / f"{schedule.name}.weights.h5", checkpoints / f"{schedule.name}.json"


def _resume(model: keras.Model, schedule: Schedule, checkpoints: Path | None) -> int:
    """Rounds already done; their weights are loaded.

    Raises
    ------
    ValueError
        The checkpoint is that of another training.
    """
    if checkpoints is None:
        return 0
    checkpoints.mkdir(parents=True, exist_ok=True)
    weights, log = _files(schedule, checkpoints)
    if not log.is_file():
        return 0
    kept = json.loads(log.read_text())
    if kept["schedule"] != asdict(schedule):
        raise ValueError(
            f"{log} belongs to another training ({kept['schedule']}): remove it, or choose another "
            "folder"
        )
    model.optimizer.build(model.trainable_variables)
    model.load_weights(weights)
    return int(kept["rounds_done"])


def _keep(
    model: keras.Model, schedule: Schedule, checkpoints: Path, done: int, history: dict
) -> None:
    """Write the weights first: a log without them would be worse than the reverse."""
    weights, log = _files(schedule, checkpoints)
    losses = json.loads(log.read_text())["losses"] if log.is_file() else []
    losses = [*losses[: done - 1], {name: round(each[0], 4) for name, each in history.items()}]
    model.save_weights(weights)
    log.write_text(
        json.dumps({"schedule": asdict(schedule), "rounds_done": done, "losses": losses})
    )


def set_components(encoder: keras.Model, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give an encoder the principal components of these pictures (n, 128, 128, 3).

    Returns
    -------
    ndarray of float64, shape (k,)
        Share of the variance in each component.
    """
    embedding, _ = representations.encode(encoder, rgb)
    found = principal_components(embedding)
    representations.set_components(encoder, found.mean_, found.components_)
    return np.asarray(found.explained_variance_ratio_)


def principal_components(vectors: NDArray) -> Any:
    """A fitted IncrementalPCA of vectors (n, d), with up to 40 components."""
    from sklearn.decomposition import IncrementalPCA

    n_components = min(representations.N_COMPONENTS, *vectors.shape)
    batch = max(5 * vectors.shape[1], n_components)
    return IncrementalPCA(n_components, batch_size=min(batch, len(vectors))).fit(vectors)


def card(
    data: Labelled, preset: Preset, seed: int, weights: Path, day: str, start: str | None = None
) -> registry.Card:
    """The card of freshly trained weights; its metrics are left to cross-validation."""
    decided = data.take(data.decided)
    published = preset.architecture == "published"
    return registry.Card(
        annotator="representations",
        name=f"{preset.architecture}.{day}",
        weights=str(weights.resolve()),
        sha256=registry.sha256(weights),
        summary="Gives similar sources similar vectors.",
        inputs={
            "bands": ["z", "r", "g"],
            "size": representations.PUBLISHED_SIZES[0] if published else representations.SIZE,
            "pixel_scale": representations.PIXEL_SCALE,
            "unit": "display",
        },
        preprocessing="Values 0 to 255 as pixels.to_rgb gives them; the network scales them.",
        build=preset.options,
        training={
            "n_simulated": preset.n_simulated,
            "n_sources": len(data),
            "n_decided": len(decided),
            "n_groups": len(np.unique(data.group)),
            "labels_sha256": data.sha256,
            "seed": seed,
            "start": start or "",
            "recipe": json.dumps(asdict(preset)),
        },
    )
