"""Training of `shares`, the network that measures both galaxies of a pair.

The light of both galaxies in every pixel is known, so the network is told how each pixel is to be
shared, not only what the sums should be. Pairs are drawn while it learns; each is seen a few times,
turned otherwise and under other noise. Every random choice follows from the seed. The published
networks are for `models.training.blend2flux`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models import blender, pair_flux, registry
from models.training.desom import Checkpoints

if TYPE_CHECKING:
    from models.training.blend2flux import Published

BATCH = 32
KEEP = 5  # rounds between two checkpoints, and two looks at pairs that are not learnt from
PIECE = 250  # parents simulated at a time
HELD_OUT_SEED = 9  # of the parents that errors are calibrated on
REST = 0.1  # light per pixel of which half is shared out [noise]
MASK_WEIGHT, SCALE_WEIGHT = 0.5, 0.1  # in the losses of shares and of fluxes

SUMMARIES = {
    "shares": "Measures both galaxies of a pair, by sharing out the light of every pixel.",
    "blend2flux": "Measures both galaxies of a pair, by regression.",
    "unet": "Finds the pixels of both galaxies of a pair.",
    "blend2mask2flux": "Finds the pixels of both galaxies of a pair, and measures them.",
}

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Preset:
    """A recipe: a network, the pairs it is shown, and for how long.

    A round is `round_size` freshly drawn pairs, each shown `repeats` times. Of the cutouts, the
    share `usual_noise` have the noise of `blender.PAIRS`, the others any from `noise` [nJy]. Every
    `anywhere`-th round has companions anywhere within 40 pixels instead of where the published
    rule puts them. After `rounds`, in which the learning rate rises and falls, come `more_rounds`
    with another one that falls again.
    """

    architecture: str = "shares"
    options: dict[str, Any] = field(default_factory=dict)
    n_parents: int = 6_000
    fwhm: tuple[float, ...] = (2.6, 3.0, 3.0, 3.0, 3.0, 3.6)  # [pixel]
    rounds: int = 46
    round_size: int = 1024
    repeats: int = 3
    singles: float = 0.05
    anywhere: int = 10
    usual_noise: float = 0.7
    noise: tuple[float, float] = (0.2, 6.0)
    learning_rate: float = 2.5e-3
    flux_weight: tuple[float, float] = (0.5, 5.0)  # of the loss, at first and in the end
    more_rounds: int = 0
    more_learning_rate: float = 1e-3
    n_checked: int = 2048  # pairs that errors are calibrated on

    @property
    def n_pairs(self) -> int:
        """Different pairs that are shown."""
        return n_steps(self) * self.round_size

    @property
    def recipe(self) -> blender.Recipe:
        """Pairs of the usual kind, in cutouts as large as the network's."""
        return usual(int(self.options.get("size", pair_flux.SIZE)))


PRESETS = {
    "quick": Preset(n_parents=1500, rounds=20, n_checked=1024),
    "shipped": Preset(more_rounds=28),
}


def simulated_parents(
    n: int, seed: int, fwhm: Sequence[float], progress: Progress | None = None
) -> blender.Parents:
    """Draw parents as `blender.simulate_parents` does, on all processors.

    `progress` is called with 1 after each 250.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        coming = [
            pool.submit(
                blender.simulate_parents, min(PIECE, n - first), seed, fwhm=tuple(fwhm), first=first
            )
            for first in range(0, n, PIECE)
        ]
        pieces = []
        for piece in coming:
            pieces.append(piece.result())
            if progress:
                progress(1)
    return blender.joined(pieces)


def usual(size: int) -> blender.Recipe:
    """`blender.PAIRS`, in cutouts of this size."""
    return replace(blender.PAIRS, size=size, max_offset=size // 2)


def chosen(parents: blender.Parents, rows: NDArray[np.integer]) -> blender.Parents:
    """Some of the parents."""
    names = ("light", "flux", "radius", "kind", "fwhm", "noise")
    arrays = {name: getattr(parents, name)[rows] for name in names}
    return blender.Parents(**arrays, ids=tuple(parents.ids[row] for row in rows))


def n_steps(preset: Preset) -> int:
    """Rounds that `train` reports to its progress hook."""
    return preset.rounds + preset.more_rounds


@dataclass(frozen=True)
class Trained:
    """A network with calibrated errors, and what it makes of pairs of parents it never saw."""

    model: keras.Model
    options: dict[str, Any]
    metrics: dict[str, float]
    n_parents: int


def train(
    parents: blender.Parents,
    held_out: blender.Parents,
    preset: Preset,
    seed: int,
    *,
    half: bool = False,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the network and calibrate its errors.

    Parameters
    ----------
    parents, held_out : Parents
        To learn from, and to calibrate errors on; no galaxy should be in both.
    preset : Preset
    seed : int
    half : bool
        Compute convolutions in bfloat16 (recent processors and GPUs): twice as fast.
    checkpoints : Path, optional
        Folder in which an interrupted training is continued; `history.csv` is written there.
    progress : callable, optional
        Called with 1 after each round.

    Raises
    ------
    ValueError
        The checkpoints are those of another training.
    """
    keras.utils.set_random_seed(seed)
    learner = _learner(preset, half)
    kept = Checkpoints(checkpoints, preset, seed, parents.flux) if checkpoints else None
    history = checkpoints / "history.csv" if checkpoints else None
    checked = _checked(held_out, preset, seed)
    done = kept.resume(learner) if kept else 0
    for number, pairs in _rounds(parents, preset, seed, done):
        noisy = np.max(parents.noise[pairs.parent], axis=1) > 0
        shown = Cutouts(pairs, noisy, preset, seed, number)
        losses = learner.fit(shown, verbose=0, shuffle=False).history
        shown.forget()
        last = number + 1 == n_steps(preset)
        if kept and ((number + 1) % KEEP == 0 or last):
            kept.keep(learner, number + 1)
        if history and ((number + 1) % KEEP == 0 or last):
            _note(history, number + 1, losses, learner, checked)
        if progress:
            progress(1)
    return _calibrated(learner, preset, checked, len(parents.flux))


def _learner(preset: Preset, half: bool) -> keras.Model:
    """The network that is trained, compiled: pixels in, logits and fluxes out."""
    with convolutions_in(half):
        model = pair_flux.build(preset.architecture, **preset.options)
    signal, noise = model.get_layer("signal").output
    found = model.get_layer("network")(signal)
    log_flux = found["log_flux"] + ops.log(noise)
    outputs = {
        "logits": layers.Concatenate(dtype="float32", name="logits")(
            [found["shares"], found["masks"]]
        ),
        "fluxes": layers.Concatenate(dtype="float32", name="fluxes")(
            [log_flux[..., None], found["log_scale"][..., None]]
        ),
    }
    learner = keras.Model(model.input, outputs)
    learner.compile(
        _optimizer(preset),
        loss={"logits": share_loss, "fluxes": flux_loss},
        metrics={"fluxes": [mape]},
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    return learner


@contextmanager
def convolutions_in(half: bool) -> Iterator[None]:
    """Layers built here compute in bfloat16, if so wished; weights stay float32."""
    policy = keras.config.dtype_policy()
    if half:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _optimizer(preset: Preset) -> keras.optimizers.Optimizer:
    """AdamW whose step warms up and falls to nothing."""
    per_round = preset.repeats * preset.round_size // BATCH
    steps = preset.rounds * per_round
    warm_up = min(300, steps // 5)
    rate: Any = keras.optimizers.schedules.CosineDecay(
        0.1 * preset.learning_rate,
        max(1, steps - warm_up),
        alpha=0.005,
        warmup_target=preset.learning_rate,
        warmup_steps=warm_up,
    )
    if preset.more_rounds:
        more = preset.more_rounds * per_round
        rate = Restarted(
            rate, keras.optimizers.schedules.CosineDecay(preset.more_learning_rate, more), steps
        )
    return keras.optimizers.AdamW(rate, weight_decay=1e-3, clipnorm=1.0)


class Restarted(keras.optimizers.schedules.LearningRateSchedule):
    """One schedule for so many steps, then another."""

    def __init__(self, first: Any, then: Any, steps: int) -> None:
        self.first, self.then, self.steps = first, then, steps

    def __call__(self, step: Any) -> Any:
        """Learning rate of a step."""
        after = ops.maximum(ops.cast(step, "float32") - self.steps, 0.0)
        return ops.where(step < self.steps, self.first(step), self.then(after))

    def get_config(self) -> dict[str, Any]:
        """What it is made of."""
        return {"first": self.first, "then": self.then, "steps": self.steps}


def share_loss(light: Any, logits: Any) -> Any:
    """How wrongly pixels are shared out, and masks: (n,).

    Cross entropy with the true shares, the mean over light and that over places; where the light
    of both is below REST the rest takes over. Light (n, h, h, 2) per pixel [noise], logits
    (n, h, h, 5).
    """
    light = ops.relu(ops.cast(light, "float32"))
    total = ops.sum(light, axis=-1, keepdims=True)
    true = ops.concatenate([light, ops.full_like(total, REST)], axis=-1) / (total + REST)
    wrong = -ops.sum(true * ops.log_softmax(logits[..., :3]), axis=-1)  # (n, h, h)
    weight = total[..., 0] / (ops.sum(total, axis=(1, 2)) + REST)[..., None]
    of_light = ops.sum(weight * wrong, axis=(1, 2))
    inside = ops.cast(light > blender.MASK_LEVEL, "float32")
    masks = ops.mean(_binary(inside, logits[..., 3:]), axis=(1, 2, 3))
    return of_light + ops.mean(wrong, axis=(1, 2)) + MASK_WEIGHT * masks


def _binary(true: Any, logits: Any) -> Any:
    return ops.softplus(logits) - true * logits


def flux_loss(log_true: Any, found: Any) -> Any:
    """Error of the logarithm of the flux, and how unlikely it is with the stated scale: (n,).

    The scale is that of a Laplace distribution; it is learnt from errors that it does not change,
    so that a network sure of itself does not neglect the hard ones. Fluxes that are NaN do not
    count.
    """
    known = ops.cast(ops.isfinite(log_true), "float32")  # (n, 2)
    log_true = ops.where(ops.isfinite(log_true), log_true, 0.0)
    wrong = ops.abs(found[..., 0] - log_true)
    log_scale = ops.clip(found[..., 1], -7.0, 3.0)
    unlikely = log_scale + ops.stop_gradient(wrong) * ops.exp(-log_scale)
    return ops.mean(known * (wrong + SCALE_WEIGHT * unlikely), axis=-1)


def mape(log_true: Any, found: Any) -> Any:
    """Mean absolute error of known fluxes, in units of the flux."""
    known = ops.cast(ops.isfinite(log_true), "float32")
    log_true = ops.where(ops.isfinite(log_true), log_true, 0.0)
    wrong = ops.abs(ops.exp(ops.clip(found[..., 0] - log_true, -5.0, 5.0)) - 1)
    return ops.sum(known * wrong, axis=-1) / ops.maximum(ops.sum(known, axis=-1), 1.0)


def _rounds(
    parents: blender.Parents, preset: Preset, seed: int, first: int
) -> Iterator[tuple[int, blender.Pairs]]:
    """The pairs of each round, drawn while the one before is learnt."""
    chosen = np.arange(len(parents.flux))

    def drawn(number: int) -> blender.Pairs:
        recipe = replace(preset.recipe, singles=preset.singles)
        if preset.anywhere and number % preset.anywhere == preset.anywhere - 1:
            recipe = replace(recipe, separation="uniform", max_offset=5 * recipe.size // 16)
        start = number * preset.round_size
        size = preset.round_size
        return blender.draw(parents, chosen, size, seed, recipe, first=start, vary=True)

    with ThreadPoolExecutor(1) as drawer:
        coming: Future[blender.Pairs] = drawer.submit(drawn, first)
        for number in range(first, n_steps(preset)):
            pairs = coming.result()
            if number + 1 < n_steps(preset):
                coming = drawer.submit(drawn, number + 1)
            yield number, pairs


def flux_weight(done: float, preset: Preset) -> float:
    """Weight of the loss of fluxes when the share `done` of the first rounds is over.

    Shares are learnt first: what a flux says about each pixel is mostly noise until they are good.
    In the second half the weight grows from its first to its last value.
    """
    first, last = preset.flux_weight
    return float(first * (last / first) ** min(max(0.0, 2 * done - 1), 1.0))


class Cutouts(keras.utils.PyDataset):
    """The batches of one round: its pairs in any order, turned, each time under other noise.

    Batch k of a round is always the same, so that a training can be resumed. Pairs of parents that
    carry noise keep the noise they were drawn with.
    """

    def __init__(
        self, pairs: blender.Pairs, noisy: NDArray[np.bool_], preset: Preset, seed: int, number: int
    ) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self.pairs, self.noisy, self.preset, self.key = pairs, noisy, preset, (seed, number)
        self.flux_weight = flux_weight(number / preset.rounds, preset)
        rng = np.random.default_rng([*self.key, 2])
        orders = [rng.permutation(len(pairs.flux)) for _ in range(preset.repeats)]
        self.rows = np.concatenate(orders)

    def __len__(self) -> int:
        return len(self.rows) // BATCH

    def forget(self) -> None:
        """Let go of the pairs: Keras keeps whatever it was fitted to."""
        del self.pairs

    def __getitem__(self, index: int) -> tuple[NDArray, dict[str, NDArray], dict[str, NDArray]]:
        rows = self.rows[index * BATCH : (index + 1) * BATCH]
        rng = np.random.default_rng([*self.key, 3, index])
        size = self.pairs.pixels.shape[1]
        pixels = np.empty((len(rows), size, size, 1), np.float32)
        light = np.empty((len(rows), size // 2, size // 2, 2), np.float32)
        for k, row in enumerate(rows):
            pixels[k, ..., 0], light[k] = self._seen(row, rng)
        with np.errstate(divide="ignore"):
            log_flux = np.log(self.pairs.flux[rows]).astype(np.float32)
        weights = {"logits": np.ones(len(rows)), "fluxes": np.full(len(rows), self.flux_weight)}
        return pixels, {"logits": light, "fluxes": log_flux}, weights

    def _seen(self, row: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Pixels (s, s) [nJy] and light (s/2, s/2, 2) per pixel [noise] of one pair, turned."""
        light, noise = self.pairs.light[row], self.pairs.noise[row]
        pixels = self.pairs.pixels[row]
        if not self.noisy[row]:
            if rng.random() >= self.preset.usual_noise:
                noise = np.float32(np.exp(rng.uniform(*np.log(self.preset.noise))))
            fresh = rng.standard_normal(pixels.shape, np.float32)
            pixels = light[..., 0] + light[..., 1] + noise * fresh
        wide = light[::2] + light[1::2]
        light = (wide[:, ::2] + wide[:, 1::2]) / (4 * noise)
        turn = int(rng.integers(8))
        if turn & 4:
            pixels, light = pixels.T, light.transpose(1, 0, 2)
        return np.rot90(pixels, turn & 3), np.rot90(light, turn & 3)


@dataclass(frozen=True)
class Checked:
    """Cutouts (n, s, s) [nJy] that nothing is learnt from, and the fluxes (n, 2) [nJy] in them."""

    pixels: NDArray[np.float32]
    flux: NDArray[np.float64]


def _checked(held_out: blender.Parents, preset: Preset, seed: int) -> Checked:
    chosen = np.arange(len(held_out.flux))
    parts = []
    for first in range(0, preset.n_checked, PIECE):
        n = min(PIECE, preset.n_checked - first)
        pairs = blender.draw(held_out, chosen, n, seed, preset.recipe, first=first)
        parts.append((pairs.pixels, pairs.flux))
    return Checked(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _note(
    path: Path, done: int, losses: dict[str, list[float]], learner: keras.Model, checked: Checked
) -> None:
    """Add a line to the history: what the network makes of 500 pairs that it does not learn."""
    found = learner.predict(
        checked.pixels[:500, ..., None],
        batch_size=BATCH,
        verbose=0,
    )
    wrong = np.abs(np.exp(found["fluxes"][..., 0]) / checked.flux[:500] - 1)
    line = {
        "rounds": done,
        "loss": round(losses["loss"][0], 4),
        "flux_mape": round(100 * losses["fluxes_mape"][0], 3),
        "held_out_flux_mape": round(100 * float(wrong.mean()), 3),
        "held_out_median_error": round(100 * float(np.median(wrong)), 3),
    }
    new = not path.is_file()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, list(line))
        if new:
            table.writeheader()
        table.writerow(line)


def _calibrated(learner: keras.Model, preset: Preset, checked: Checked, n_parents: int) -> Trained:
    """The finished network, with errors that hold as many held out fluxes as they say.

    Half of the pairs held out are for that, the other half for its metrics.
    """
    weights = learner.get_layer("network").get_weights()
    model = pair_flux.build(preset.architecture, **preset.options)
    model.get_layer("network").set_weights(weights)
    found, fitted = pair_flux.predict(model, checked.pixels), len(checked.flux) // 2
    flux, error, true = found.flux, found.error, checked.flux
    half, ratio = intervals(flux[:fitted], error[:fitted], true[:fitted])
    options = {**preset.options, "interval_68": round(half, 4), "interval_95": round(ratio, 4)}
    model = pair_flux.build(preset.architecture, **options)
    model.get_layer("network").set_weights(weights)
    off = np.abs(flux - true)[fitted:]
    metrics = {
        "held_out_flux_mape": round(100 * float((off / true[fitted:]).mean()), 3),
        "held_out_coverage": round(float((off < half * error[fitted:]).mean()), 4),
    }
    return Trained(model, options, metrics, n_parents)


def intervals(flux: NDArray, error: NDArray, true: NDArray) -> tuple[float, float]:
    """Factors that make errors honest.

    Parameters
    ----------
    flux, error, true : ndarray, shape (n, 2)
        Same unit; NaN where unknown.

    Returns
    -------
    float
        By which `error` is multiplied to hold 68 % of the true fluxes.
    float
        By which that product is multiplied to hold 95 %.
    """
    off = np.abs(flux - true) / error
    off = off[np.isfinite(off)]
    if not len(off):
        raise ValueError("errors cannot be calibrated without a single pair whose flux is known")
    one, two = np.quantile(off, (0.68, 0.95))
    return float(one), float(two / one)


def card(
    trained: Trained, preset: Preset | Published, seed: int, weights: Path, tag: str, source: str
) -> registry.Card:
    """The card of freshly trained weights; what they are worth is for `models.evaluation`.

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
        annotator="pair_flux",
        name=f"{preset.architecture}.{tag}",
        weights=str(weights.resolve()),
        sha256=registry.sha256(weights),
        summary=SUMMARIES[preset.architecture],
        inputs={"bands": ["r"], "size": pair_flux.SIZE, "unit": "nJy"},
        preprocessing="Pixels in nJy; the network scales them itself.",
        build=trained.options,
        training={
            "parents": source,
            "n_parents": trained.n_parents,
            "n_pairs": preset.n_pairs,
            "seed": seed,
            "recipe": json.dumps(asdict(preset)),
        },
        metrics_from="Pairs of simulated parents that were held out of the training.",
        metrics={name: {"value": value} for name, value in trained.metrics.items()},
    )
