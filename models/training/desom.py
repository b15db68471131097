"""Training of the maps: an autoencoder and the prototypes in its code, at once and without labels.

Every random choice follows from the seed. What cutouts and exposures there are is the business of
`workers.map_training`, what the maps are good for that of `models.evaluation.exposure_map`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models import desom, registry

ROUND = 50  # iterations between two reports
KEEP = 10  # rounds between two checkpoints
HELD_OUT = 0.1  # share of the inputs that errors and novelty are measured on
LARGEST_HELD_OUT = 20_000
NOVEL_BEYOND = 99.0  # percentile of the quantization errors of inputs held out

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Preset:
    """A recipe: a network, and how long and how it is trained.

    The loss is MSE + gamma * mean_n sum_k w_nk |z_n - m_k|², with w = exp(-d²/T²), d the Manhattan
    distance on the map from the cell nearest to z_n, and T falling from `hottest` to `coldest`.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    iterations: int = 100_000
    batch: int = 256
    gamma: float = 0.0075
    hottest: float = 10.0  # cells
    coldest: float = 0.5  # cells
    learning_rate: float = 1e-3

    @property
    def rounds(self) -> int:
        """Rounds of at most 50 iterations."""
        return -(-self.iterations // ROUND)


_SOURCES = Preset("desom1")
_EXPOSURES = Preset("desom2")
PRESETS = {
    "source_map": {
        "quick": replace(_SOURCES, options={"filters": [8, 8, 8], "latent": 16}, iterations=100),
        "shipped": replace(_SOURCES, iterations=3_000),
        "published": replace(_SOURCES, options={"scale": "range"}),
    },
    "exposure_map": {
        "quick": replace(_EXPOSURES, options={"widths": [64, 64]}, iterations=200, batch=64),
        "shipped": replace(_EXPOSURES, options={"grid": [10, 10]}, iterations=3_000),
        "published": replace(_EXPOSURES, options={"form": "counts"}),
    },
}


def temperature(iteration: Any, preset: Preset) -> Any:
    """Reach of the neighbourhood [cells]: `hottest` at first, `coldest` after all iterations.

    References
    ----------
    Teimoorinia et al. (2021), AJ 161, 227.
    """
    return preset.hottest * (preset.coldest / preset.hottest) ** (iteration / preset.iterations)


@dataclass(frozen=True)
class Trained:
    """A map, and how well it fits inputs that were held out of its training."""

    model: desom.Desom
    quantization_error: float
    topographic_error: float
    n_trained: int
    n_held_out: int


def train(
    inputs: NDArray,
    preset: Preset,
    seed: int,
    *,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a map.

    Parameters
    ----------
    inputs : ndarray, shape (n, 32, 32, 1) or (n, 625)
        Cutouts of any type for desom1, counts for desom2.
    preset : Preset
    seed : int
    checkpoints : Path, optional
        Folder in which an interrupted training is continued.
    progress : callable, optional
        Called with 1 after each round.

    Raises
    ------
    ValueError
        There are fewer than 10 inputs, or the checkpoints are those of another training.
    """
    if len(inputs) < 10:
        raise ValueError(
            f"a map needs 10 inputs to learn from at the very least, not {len(inputs)}"
        )
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(inputs))
    n_held_out = min(LARGEST_HELD_OUT, int(np.ceil(HELD_OUT * len(inputs))))
    held_out, learnt = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
    model = desom.build(preset.architecture, **preset.options)
    if isinstance(model.scale, desom.CountScale):
        model.scale.fit(inputs[learnt])
    scaled = _scaled(model, inputs[learnt])
    start_from_samples(model, scaled, seed)
    kept = Checkpoints(checkpoints, preset, seed, inputs) if checkpoints else None
    _fit(model, scaled, preset, seed, kept, progress)
    return _measured(model, inputs[held_out], len(learnt))


def _scaled(model: desom.Desom, inputs: NDArray, batch: int = 4096) -> NDArray[np.float16]:
    """What the autoencoder sees of inputs: computed once, kept in half precision."""
    parts = [
        ops.convert_to_numpy(model.scale(inputs[k : k + batch].astype(np.float32)))
        for k in range(0, len(inputs), batch)
    ]
    return np.concatenate([part.astype(np.float16) for part in parts])


def start_from_samples(model: desom.Desom, scaled: NDArray, seed: int) -> None:
    """Put each prototype where a sample lies in the code: distinct ones, if there are enough."""
    n_cells = model.cells.prototypes.shape[0]
    rng = np.random.default_rng([seed, 1])
    rows = rng.choice(len(scaled), n_cells, replace=n_cells > len(scaled))
    code = model.encoder.predict(scaled[rows].astype(np.float32), batch_size=256, verbose=0)
    model.cells.prototypes.assign(code)


class Pull(layers.Layer):
    """Adds the map's part of the loss: codes and prototypes pull each other, as warm as it is.

    The weights are held constant: what is nearest is not differentiated.
    """

    def __init__(self, cells: desom.Cells, preset: Preset, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells, self.preset = cells, preset
        self.apart = desom.grid_distance(cells.rows, cells.columns) ** 2
        self.iteration = self.add_weight((), "zeros", name="iteration", trainable=False)

    def call(self, z: Any, training: bool = False) -> Any:
        """Codes (n, d) pass unchanged."""
        squared = self.cells(z)  # (n, k)
        nearest = ops.argmin(squared, axis=1)
        heat = temperature(self.iteration, self.preset)
        weight = ops.exp(-ops.take(ops.convert_to_tensor(self.apart), nearest, axis=0) / heat**2)
        pulled = ops.mean(ops.sum(ops.stop_gradient(weight) * squared, axis=1))
        self.add_loss(self.preset.gamma * pulled)
        if training:
            self.iteration.assign(self.iteration + 1)
        return z


def trainer(model: desom.Desom, preset: Preset) -> keras.Model:
    """The network that is trained: from scaled inputs through the code to the same again."""
    seen = keras.Input(model.encoder.input_shape[1:])
    code = Pull(model.cells, preset, name="pull")(model.encoder(seen))
    network = keras.Model(seen, model.decoder(code))
    compiled = (
        "auto" if keras.backend.backend() == "jax" else False
    )  # XLA halves TensorFlow's speed
    optimizer = keras.optimizers.Adam(preset.learning_rate)
    network.compile(optimizer, loss="mse", jit_compile=compiled)
    return network


def _fit(
    model: desom.Desom,
    scaled: NDArray[np.float16],
    preset: Preset,
    seed: int,
    checkpoints: Checkpoints | None,
    progress: Progress | None,
) -> None:
    network = trainer(model, preset)
    done = checkpoints.resume(network) if checkpoints else 0
    for number in range(done, preset.rounds):
        steps = min(ROUND, preset.iterations - number * ROUND)
        rng = np.random.default_rng([seed, 2, number])
        rows = rng.integers(0, len(scaled), steps * preset.batch)
        batch = scaled[rows].astype(np.float32)
        network.fit(batch, batch, batch_size=preset.batch, shuffle=False, verbose=0)
        if checkpoints and ((number + 1) % KEEP == 0 or number + 1 == preset.rounds):
            checkpoints.keep(network, number + 1)
        if progress:
            progress(1)


class Checkpoints:
    """A folder with the state of one training, whole at any moment.

    Weights and log are written under other names first. The log names the weights that belong to
    it, so that a process killed in between leaves the state before.
    """

    def __init__(self, folder: Path, preset: Any, seed: int, inputs: NDArray) -> None:
        """Find the folder, or make it; what is in it must come from the same three."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / "training.json"
        facts = {"preset": asdict(preset), "seed": seed, "inputs": _identity(inputs)}
        self.training = json.loads(json.dumps(facts))  # as it is read again: tuples are lists

    def resume(self, network: keras.Model) -> int:
        """Rounds already done; their weights are loaded.

        Raises
        ------
        ValueError
            The state is that of another training, or is damaged.
        """
        if not self.log.is_file():
            return 0
        kept = json.loads(self.log.read_text())
        other = [name for name, value in self.training.items() if kept.get(name) != value]
        if other:
            raise ValueError(
                f"{self.log} belongs to another training (other {' and '.join(other)}): remove "
                "the folder, or choose another"
            )
        network.optimizer.build(network.trainable_variables)
        weights = self.folder / kept["weights"]
        try:
            network.load_weights(weights)
        except OSError as error:
            raise ValueError(
                f"{weights} cannot be read ({error}): remove {self.folder} to begin anew"
            ) from error
        return int(kept["rounds_done"])

    def keep(self, network: keras.Model, done: int) -> None:
        """Keep the state after so many rounds in place of the one before."""
        before = set(self.folder.glob("round-*.weights.h5"))
        weights = self.folder / f"round-{done}.weights.h5"
        unfinished = self.folder / "unfinished.weights.h5"
        network.save_weights(unfinished)
        unfinished.replace(weights)
        facts = {**self.training, "rounds_done": done, "weights": weights.name}
        unfinished = self.folder / "unfinished.json"
        unfinished.write_text(json.dumps(facts))
        unfinished.replace(self.log)
        for old in before - {weights}:
            old.unlink()


def _identity(inputs: NDArray) -> str:
    """What tells inputs from any others."""
    digest = hashlib.sha256(np.ascontiguousarray(inputs).data)
    return f"{inputs.dtype} {inputs.shape} {digest.hexdigest()}"


def _measured(model: desom.Desom, held_out: NDArray, n_trained: int) -> Trained:
    """Set what counts as novel, and measure the errors, on inputs that were held out."""
    placed = desom.place(model, held_out)
    model.cells.reach.assign(np.percentile(placed.quantization_error, NOVEL_BEYOND))
    return Trained(
        model,
        desom.quantization_error(placed),
        desom.topographic_error(model, held_out),
        n_trained,
        len(held_out),
    )


def card(
    trained: Trained, preset: Preset, seed: int, weights: Path, tag: str, training: dict[str, Any]
) -> registry.Card:
    """The card of a freshly trained map.

    Parameters
    ----------
    weights : Path
        The file they were saved to.
    tag : str
        Names the version, after its architecture.
    training : dict
        What else there is to say of the training: the catalog, and for exposures `source_map`, the
        version of the map whose cells were counted.
    """
    exposures = preset.architecture == "desom2"
    inputs: dict[str, Any] = {"size": desom.SIZE, "unit": "adu"}
    if exposures:
        inputs = {"source_map": training["source_map"], "cells": trained.model.input_length[0]}
    return registry.Card(
        annotator="exposure_map" if exposures else "source_map",
        name=f"{preset.architecture}.{tag}",
        weights=str(weights.resolve()),
        sha256=registry.sha256(weights),
        summary="Lays out exposures by the kinds of their sources, without labels."
        if exposures
        else "Lays out cutouts of sources by what they look like, without labels.",
        inputs=inputs,
        preprocessing="The network scales counts itself."
        if exposures
        else "Pixels as they are in the file; the network scales each cutout itself.",
        build=preset.options,
        training={
            **training,
            "n_trained": trained.n_trained,
            "n_held_out": trained.n_held_out,
            "seed": seed,
            "recipe": json.dumps(asdict(preset)),
        },
        metrics_from="Inputs held out of the training.",
        metrics={
            "quantization_error": {"value": round(trained.quantization_error, 4)},
            "topographic_error": {"value": round(trained.topographic_error, 4)},
        },
        paper="Teimoorinia et al. (2021), AJ 161, 227",
    )


def picture(model: desom.Desom, path: Path) -> None:
    """Draw the prototypes of a map as a PNG, each at its place, row 0 at the top.

    A prototype of cutouts is shown as the cutout it decodes to, its lowest row at the bottom; one
    of exposures as the map of cutouts, its cell (0, 0) top left, brighter where more sources are.
    """
    from PIL import Image

    shown = desom.decoded(model)
    rows, columns, m = shown.shape
    side = int(np.sqrt(m))
    tiles = shown.reshape(rows, columns, side, side)
    if side == desom.SIZE:
        tiles = tiles[:, :, ::-1]
    framed = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1.0)
    whole = framed.transpose(0, 2, 1, 3).reshape(rows * (side + 2), columns * (side + 2))
    Image.fromarray((255 * whole).astype(np.uint8)).save(path)
