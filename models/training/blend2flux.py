"""Training of the published networks for pairs, with the published losses and step sizes.

blend2flux learns fluxes, the U-Net masks, and blend2mask2flux both, from a U-Net that was trained
before. Their pairs are drawn once. Not as published: blend2mask2flux learns fluxes from masks held
fixed before it learns both; pairs held out are of galaxies held out; no stage has more than 200
epochs; the code's presets had other depths and dropout. Nothing here knows `shares`, which
`models.training.pair_flux` trains.

References
----------
Boucaud et al. (2020), MNRAS 491, 2481, sect. 3; github.com/aboucaud/coindeblend.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models import blender, pair_flux
from models.training.pair_flux import PIECE, Progress, Trained, convolutions_in, usual


@dataclass(frozen=True)
class Published:
    """A published network, and how it is trained.

    Without `patience` nothing stops the training early. In every stage the learning rate is halved
    when the loss on pairs held out stays for 5 epochs, with 2 to recover. `stages` are the parts
    that are trained one after the other, each for at most `epochs`; `weights` are those of the
    losses of masks and flux.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("flux",)  # of "masks", "flux" and "joint"
    n_parents: int = 1919
    fwhm: tuple[float, ...] = (3.0,)  # [pixel]
    n_pairs: int = 20_000
    n_checked: int = 5000
    epochs: int = 200  # of each stage
    batch: int = 32
    learning_rate: float = 1e-4
    patience: int = 12  # epochs
    flips: bool = False
    weights: tuple[float, float] = (0.1, 1.0)

    @property
    def size(self) -> int:
        """Side of the cutouts [pixel]."""
        return int(self.options.get("size", pair_flux.SIZE))


_UNET = Published("unet", stages=("masks",), patience=0, flips=True)
_BOTH = Published("blend2mask2flux", stages=("masks", "flux", "joint"), patience=0, flips=True)
PRESETS = {
    **{f"blend2flux-{w}": Published("blend2flux", {"width": w}) for w in (64, 256, 512)},
    "unet": _UNET,
    "blend2mask2flux": _BOTH,  # weights of the losses as the paper has them,
    "blend2mask2flux-code": replace(
        _BOTH, options={"masks": 3}, weights=(1.0, 0.1)
    ),  # and the code
}


def n_steps(preset: Published) -> int:
    """Epochs that `train` reports to its progress hook, at most."""
    return len(preset.stages) * preset.epochs


def train(
    parents: blender.Parents,
    held_out: blender.Parents,
    preset: Published,
    seed: int,
    *,
    half: bool = False,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a published network.

    Parameters
    ----------
    parents, held_out : Parents
        To learn from, and to decide on when to slow down and when to stop; no galaxy should be in
        both.
    preset : Published
    seed : int
    half : bool
        Compute convolutions in bfloat16 (recent processors and GPUs).
    checkpoints : Path, optional
        Folder in which an interrupted training is continued: stages that are done are not done
        again, one that was interrupted goes on after its last epoch (how long the loss has not
        fallen is counted anew). A `history-*.csv` for each stage is written there.
    progress : callable, optional
        Called with 1 after each epoch.
    """
    keras.utils.set_random_seed(seed)
    learnt = drawn(parents, preset, preset.n_pairs, seed)
    checked = drawn(held_out, preset, preset.n_checked, seed)
    with convolutions_in(half):
        model = pair_flux.build(preset.architecture, **preset.options)
    if checkpoints:
        _begun(checkpoints, preset, seed)
    for stage in preset.stages:
        done = checkpoints / f"{stage}.weights.h5" if checkpoints else None
        if done and done.is_file():
            model.load_weights(done)
            continue
        _fit(model, stage, learnt, checked, preset, seed, checkpoints, progress)
        if done:
            model.save_weights(done)
    whole = pair_flux.build(preset.architecture, **preset.options)
    whole.set_weights(model.get_weights())
    return Trained(whole, preset.options, _measured(whole, checked), len(parents.flux))


def _begun(folder: Path, preset: Published, seed: int) -> None:
    """Refuse a folder in which another training was begun."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "training.json"
    training = json.loads(json.dumps({"preset": asdict(preset), "seed": seed}))
    if not log.is_file():
        log.write_text(json.dumps(training))
    elif json.loads(log.read_text()) != training:
        raise ValueError(f"{log} belongs to another training: remove it, or choose another folder")


@dataclass(frozen=True)
class Drawn:
    """Pairs to learn from: pixels (n, s, s) and flux (n, 2) [nJy], masks (n, s, s, 3)."""

    pixels: NDArray[np.float32]
    flux: NDArray[np.float64]
    masks: NDArray[np.uint8]


def drawn(parents: blender.Parents, preset: Published, n: int, seed: int) -> Drawn:
    """Draw pairs once and for all, with the published recipe, neither turned nor made brighter."""
    recipe = usual(preset.size)
    chosen = np.arange(len(parents.flux))
    parts = []
    for first in range(0, n, PIECE):
        number = min(PIECE, n - first)
        pairs = blender.draw(parents, chosen, number, seed, recipe, first=first)
        parts.append((pairs.pixels, pairs.flux, pairs.masks))
    return Drawn(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class Batches(keras.utils.PyDataset):
    """The pairs of one epoch in batches, in their order as published; flipped at random, if so."""

    def __init__(self, pairs: Drawn, preset: Published, wanted: set[str], seed: int) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self.pairs, self.preset, self.wanted, self.seed = pairs, preset, wanted, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.pairs.flux) // self.preset.batch)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray, dict[str, NDArray]]:
        rows = slice(index * self.preset.batch, (index + 1) * self.preset.batch)
        pixels = self.pairs.pixels[rows, ..., None]
        n_masks = self.preset.options.get("masks", 2)
        masks = self.pairs.masks[rows, ..., -n_masks:]
        if self.preset.flips:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            for axis in (1, 2):
                flipped = rng.random(len(pixels)) < 0.5
                pixels, masks = (
                    np.where(flipped[:, None, None, None], np.flip(x, axis), x)
                    for x in (pixels, masks)
                )
        true = {"flux": self.pairs.flux[rows].astype(np.float32), "masks": masks.astype(np.float32)}
        return pixels, {name: true[name] for name in sorted(self.wanted)}


def _fit(
    model: keras.Model,
    stage: str,
    learnt: Drawn,
    checked: Drawn,
    preset: Published,
    seed: int,
    checkpoints: Path | None,
    progress: Progress | None,
) -> None:
    """One stage: masks alone, fluxes from masks that stay as they are, or all at once."""
    learner = _learner(model, stage, preset)
    wanted = set(learner.output)
    callbacks = _callbacks(stage, preset, checkpoints, progress)
    learner.fit(
        Batches(learnt, preset, wanted, seed),
        validation_data=Batches(checked, replace(preset, flips=False), wanted, seed),
        epochs=preset.epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    for layer in model.layers:
        layer.trainable = True


def _learner(model: keras.Model, stage: str, preset: Published) -> keras.Model:
    """The part of a network that a stage trains, compiled."""
    names = [stage] if stage != "joint" else ["masks", "flux"]
    learner = keras.Model(model.input, {name: model.output[name] for name in names})
    if stage == "flux" and "masks" in model.output:
        for layer in keras.Model(model.input, model.output["masks"]).layers:
            layer.trainable = False
    losses = {"masks": "binary_crossentropy", "flux": "mean_absolute_percentage_error"}
    weights = dict(zip(("masks", "flux"), preset.weights, strict=True))
    joint = len(names) > 1
    learner.compile(
        keras.optimizers.Adam(preset.learning_rate),
        loss={name: losses[name] for name in names},
        loss_weights={name: weights[name] for name in names} if joint else None,
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    return learner


def _callbacks(
    stage: str, preset: Published, checkpoints: Path | None, progress: Progress | None
) -> list[keras.callbacks.Callback]:
    found: list[keras.callbacks.Callback] = [
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=5, cooldown=2)
    ]
    if preset.patience:
        found.append(
            keras.callbacks.EarlyStopping(
                patience=preset.patience, min_delta=1e-3, restore_best_weights=True
            )
        )
    if checkpoints:
        found.append(keras.callbacks.CSVLogger(checkpoints / f"history-{stage}.csv", append=True))
        found.append(keras.callbacks.BackupAndRestore(checkpoints / stage))
    if progress:
        found.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: progress(1)))
    return found


def _measured(model: keras.Model, checked: Drawn) -> dict[str, float]:
    """What a network makes of pairs that it did not learn from."""
    found = pair_flux.predict(model, checked.pixels)
    metrics = {}
    if "flux" in model.output:
        wrong = np.abs(found.flux / checked.flux - 1)
        metrics["held_out_flux_mape"] = round(100 * float(wrong.mean()), 3)
    if found.masks is not None:
        true = checked.masks[..., 1:] > 0
        both = (found.masks & true).sum(axis=(1, 2))
        either = (found.masks | true).sum(axis=(1, 2))
        metrics["held_out_iou"] = round(float((both / np.maximum(either, 1)).mean()), 4)
    return metrics
