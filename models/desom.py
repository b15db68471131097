"""Self-organizing maps of what an exposure is made of, without labels.

`desom1` places cutouts of sources on a map, `desom2` places exposures, by the number of their
sources in each cell of the first map, on another. Both are an autoencoder and a map of prototypes
in its code, trained together (`models.training.desom`). Written with `keras.ops` only, so that
TensorFlow, JAX and PyTorch run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

SIZE = 32  # pixel
CELLS = 625  # of the map of cutouts, which the map of exposures counts

SOFTENING = 2.0  # where the stretch of a cutout turns from linear to logarithmic [noise]
STEP_TO_NOISE = 1.0484  # median absolute difference of neighbouring pixels, if noise is Gaussian
SMOOTHING = 1.0  # of shares over the map of cutouts [cells]
SHARES_SPAN = 15.0  # mean scatters of a cell's share over exposures that become 1
TOTAL_SCATTER = 0.03  # of the total that counts as much as such a scatter [dex]
DARKEST, BRIGHTEST = -6.0, 4000.0  # what becomes 0 and 1 [noise above the background]


def build(architecture: str = "desom1", **options: Any) -> Desom:
    """Build a map with fresh weights.

    Parameters
    ----------
    architecture : {"desom1", "desom2"}
        desom1 takes cutouts (n, 32, 32, 1) of any type in any unit; desom2 takes counts (n, 625).
        Both scale them inside.
    **options
        Passed to the function of that name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {architecture!r} for maps; there are {known}")
    return ARCHITECTURES[architecture](**options)


@dataclass(frozen=True)
class Placement:
    """Where inputs lie on a map: n entries each, in the order of the inputs."""

    cell_row: NDArray[np.int16]
    cell_column: NDArray[np.int16]
    quantization_error: NDArray[np.float32]  # distance to the nearest prototype, in the code
    margin: NDArray[np.float32]  # how much farther the second nearest is
    latent: NDArray[np.float32]  # (n, d), the code
    novel: NDArray[np.bool_]  # farther from every prototype than nearly all it learnt from


def place(model: Desom, inputs: NDArray, batch_size: int = 1024) -> Placement:
    """Find the nearest prototype of each input.

    Parameters
    ----------
    model : Desom
        From `build`, with trained weights.
    inputs : ndarray, shape (n, 32, 32, 1) or (n, 625)
        Cutouts for desom1: pixels without value (NaN) count as background, a constant cutout is
        an empty one. Counts for desom2.
    """
    latent, squared = _coded(model, inputs, batch_size)
    nearest = np.argpartition(squared, 1, axis=1)[:, :2] if len(squared) else np.empty((0, 2), int)
    distance = np.sqrt(np.take_along_axis(squared, nearest, axis=1))
    order = np.argsort(distance, axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, axis=1)
    distance = np.take_along_axis(distance, order, axis=1)
    row, column = np.divmod(nearest[:, 0], model.cells.columns)
    return Placement(
        row.astype(np.int16),
        column.astype(np.int16),
        distance[:, 0],
        distance[:, 1] - distance[:, 0],
        latent,
        distance[:, 0] > float(ops.convert_to_numpy(model.cells.reach)),
    )


def prototypes(model: Desom) -> NDArray[np.float32]:
    """The prototypes in the network's code, shape (rows, columns, d)."""
    cells = model.cells
    flat = np.asarray(ops.convert_to_numpy(cells.prototypes), np.float32)
    return flat.reshape(cells.rows, cells.columns, -1)


def decoded(model: Desom) -> NDArray[np.float32]:
    """What the network makes of its prototypes, 0 to 1, shape (rows, columns, m).

    m is 1,024 for desom1, a cutout row by row, its lowest first; for desom2 it is 625, the shares
    of the cells of the map of cutouts, relative to the largest.
    """
    code = prototypes(model)
    rows, columns, d = code.shape
    shown = np.asarray(ops.convert_to_numpy(model.decoder(code.reshape(-1, d))), np.float32)
    flat = shown.reshape(rows * columns, -1)
    if isinstance(model.scale, CountScale):
        flat = model.scale.shares(flat)
    return np.clip(flat, 0, 1).reshape(rows, columns, -1)


def quantization_error(placement: Placement) -> float:
    """Mean distance to the nearest prototype."""
    return float(placement.quantization_error.mean())


def topographic_error(model: Desom, inputs: NDArray, batch_size: int = 1024) -> float:
    """Share of the inputs whose two nearest prototypes are not neighbours on the map.

    Neighbours share an edge: their Manhattan distance is 1.
    """
    _, squared = _coded(model, inputs, batch_size)
    two = np.argsort(squared, axis=1)[:, :2]
    apart = grid_distance(model.cells.rows, model.cells.columns)[two[:, 0], two[:, 1]]
    return float((apart > 1).mean())


def grid_distance(rows: int, columns: int) -> NDArray[np.float32]:
    """Manhattan distance between cells of a map, shape (rows * columns, rows * columns).

    Rows and columns are compared each by itself. The public code divides the difference of the
    flat indices instead, which is one too small for nearly half of all pairs.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = np.abs(column[:, None] - column)
    return (np.abs(row[:, None] - row) + across).astype(np.float32)


def desom1(
    filters: Sequence[int] = (32, 64, 64),
    latent: int = 160,
    grid: Sequence[int] = (25, 25),
    scale: str = "noise",
) -> Desom:
    """The map of cutouts: a convolutional autoencoder and 25 x 25 prototypes of 160 numbers.

    577,217 parameters, 100,000 of them the map. The paper gives no filter counts; these are those
    of the code it builds on.

    Parameters
    ----------
    filters : sequence of 3 int
    latent : int
        Length of the code.
    grid : (rows, columns)
    scale : {"noise", "range"}
        See `CutoutScale`.

    References
    ----------
    Teimoorinia et al. (2021), AJ 161, 227; Forest et al. (2019), the network DESOM.
    """
    side = SIZE // 2 ** len(filters)
    rows, columns = grid
    cutout = keras.Input((SIZE, SIZE, 1))
    x = cutout
    for n in filters:
        x = layers.Conv2D(n, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)  # (n, 16 | 8 | 4, same, filters)
    z = layers.Dense(latent)(layers.Flatten()(x))  # (n, latent)
    code = keras.Input((latent,))
    y = layers.Dense(side * side * filters[-1], activation="relu")(code)
    y = layers.Reshape((side, side, filters[-1]))(y)  # (n, 4, 4, filters)
    for n in reversed(filters):
        y = layers.Conv2D(n, 3, padding="same", activation="relu")(y)
        y = layers.UpSampling2D(2)(y)  # (n, 8 | 16 | 32, same, filters)
    picture = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(y)  # (n, 32, 32, 1)
    return Desom(
        CutoutScale(scale, name="scale"),
        keras.Model(cutout, z, name="encoder"),
        keras.Model(code, picture, name="decoder"),
        Cells(rows, columns, latent, name="cells"),
    )


def desom2(
    widths: Sequence[int] = (500, 500),
    latent: int = 10,
    grid: Sequence[int] = (20, 20),
    form: str = "shares",
    n_cells: int = CELLS,
) -> Desom:
    """The map of exposures: a dense autoencoder and 20 x 20 prototypes.

    With `form="counts"` as published, 1,141,635 parameters, 4,000 of them the map. The paper
    gives neither widths nor the length of the code; these are our choice.

    Parameters
    ----------
    widths : sequence of int
        Hidden layers of the encoder; the decoder mirrors them.
    latent : int
        Length of the code.
    grid : (rows, columns)
    form : {"counts", "shares"}
        See `CountScale`.
    n_cells : int
        Cells of the map of cutouts.
    """
    scale = CountScale(form, n_cells, name="scale")
    rows, columns = grid
    counts = keras.Input((scale.length,))
    x = counts
    for width in widths:
        x = layers.Dense(width, activation="relu")(x)
    z = layers.Dense(latent)(x)  # (n, latent)
    code = keras.Input((latent,))
    y = code
    for width in reversed(widths):
        y = layers.Dense(width, activation="relu")(y)
    again = layers.Dense(scale.length)(y)
    return Desom(
        scale,
        keras.Model(counts, z, name="encoder"),
        keras.Model(code, again, name="decoder"),
        Cells(rows, columns, latent, name="cells"),
    )


class Desom(keras.Model):
    """An autoencoder and the prototypes in its code; calling it gives code and distances.

    Attributes
    ----------
    scale : keras.Layer
        Takes raw inputs to what the autoencoder sees.
    encoder, decoder : keras.Model
    cells : Cells
    """

    def __init__(
        self,
        scale: layers.Layer,
        encoder: keras.Model,
        decoder: keras.Model,
        cells: Cells,
    ) -> None:
        super().__init__()
        self.scale, self.encoder, self.decoder, self.cells = scale, encoder, decoder, cells
        self.input_length: tuple[int, ...] = scale.input_length
        self(np.zeros((1, *self.input_length), np.float32))

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Raw inputs give the code (n, d) and squared distances (n, rows * columns)."""
        z = self.encoder(self.scale(inputs))
        return z, self.cells(z)


class Cells(layers.Layer):
    """The prototypes of a map, and how far away something may be without being novel."""

    def __init__(self, rows: int, columns: int, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.columns = rows, columns
        self.prototypes = self.add_weight((rows * columns, length), "glorot_uniform", name="cells")
        self.reach = self.add_weight((), "zeros", name="reach", trainable=False)

    def call(self, z: Any) -> Any:
        """Squared Euclidean distances of codes (n, d) to all prototypes, (n, rows * columns).

        |z - m|² = |z|² - 2 z·m + |m|², which needs no (n, rows * columns, d) tensor.
        """
        m = self.prototypes
        squared = ops.sum(z * z, axis=1, keepdims=True) + ops.sum(m * m, axis=1)
        return ops.maximum(squared - 2 * ops.matmul(z, ops.transpose(m)), 0.0)


class CutoutScale(layers.Layer):
    """Take each cutout (n, 32, 32, 1) by itself to 0-1; the paper does not say how.

    `range` spreads it from its darkest to its brightest pixel. `noise` measures brightness above
    the median in units of the noise, and compresses it by asinh: so a faint source stays a faint
    one, a saturated one stays flat, and noise looks the same everywhere. The noise is that of
    the differences between neighbouring pixels: fringes, gradients and crowds do not add to it, and
    stay visible. A pixel without value becomes background (with `range`, the mean), and a
    constant cutout an even grey.
    """

    input_length = (SIZE, SIZE, 1)

    def __init__(self, scale: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if scale not in ("noise", "range"):
            raise ValueError(f"scale must be noise or range, not {scale!r}")
        self.kind = scale

    def call(self, cutouts: Any) -> Any:
        """(n, 32, 32, 1) in any unit gives the same shape in 0-1."""
        flat = ops.reshape(cutouts, (-1, SIZE * SIZE))
        known = ops.isfinite(flat)
        n_known = ops.maximum(ops.sum(ops.cast(known, "float32"), axis=1, keepdims=True), 1.0)
        mean = ops.sum(ops.where(known, flat, 0.0), axis=1, keepdims=True) / n_known
        flat = ops.where(known, flat, mean)
        scaled = self._range(flat) if self.kind == "range" else self._noise(flat, known)
        return ops.reshape(scaled, (-1, SIZE, SIZE, 1))

    def _range(self, flat: Any) -> Any:
        low, high = ops.min(flat, axis=1, keepdims=True), ops.max(flat, axis=1, keepdims=True)
        return (flat - low) / ops.where(high > low, high - low, 1.0)

    def _noise(self, flat: Any, known: Any) -> Any:
        background = ops.sort(flat, axis=1)[:, SIZE * SIZE // 2 : SIZE * SIZE // 2 + 1]
        steps = ops.sort(ops.abs(flat[:, 1:] - flat[:, :-1]), axis=1)
        noise = STEP_TO_NOISE * steps[:, SIZE * SIZE // 2 : SIZE * SIZE // 2 + 1]
        over = ops.where(known, flat - background, 0.0) / ops.where(noise > 0, noise, 1.0)
        low, high = (float(np.arcsinh(end / SOFTENING)) for end in (DARKEST, BRIGHTEST))
        return ops.clip((ops.arcsinh(over / SOFTENING) - low) / (high - low), 0.0, 1.0)


class CountScale(layers.Layer):
    """Take counts (n, n_cells) to numbers of a size that an autoencoder learns well.

    `counts` is as published: each component goes from 0 to 1 over the exposures it learnt from.
    There an exposure of a crowded field and one of poor quality are both just far away, and
    a cell that is nearly always empty weighs as much as any other. So `shares` takes the
    shares of the cells, smoothed over the map, since neighbours hold like sources; their
    square roots, whose noise is the same in all cells; and beside them the logarithm of the total.
    """

    def __init__(self, form: str, n_cells: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if form not in ("counts", "shares"):
            raise ValueError(f"form must be counts or shares, not {form!r}")
        self.form = form
        self.input_length = (n_cells,)
        self.length = n_cells + (form == "shares")
        self.spread = neighbourhood(n_cells)
        self.low = self.add_weight((self.length,), "zeros", name="low", trainable=False)
        self.span = self.add_weight((self.length,), "ones", name="span", trainable=False)

    def call(self, counts: Any) -> Any:
        """Counts (n, n_cells) give (n, length)."""
        return (self.components(counts) - self.low) / self.span

    def components(self, counts: Any) -> Any:
        """What is scaled: (n, length)."""
        if self.form == "counts":
            return counts
        total = ops.sum(counts, axis=1, keepdims=True)
        shares = ops.matmul(counts / ops.maximum(total, 1.0), self.spread)
        return ops.concatenate([ops.sqrt(shares), ops.log10(1.0 + total)], axis=1)

    def fit(self, counts: NDArray) -> None:
        """Learn from counts (n, n_cells) what is usual.

        `counts`: the smallest and largest of each component. `shares`: their means, and one
        scatter for all of them, so that the cells keep their weights.
        """
        found = ops.convert_to_numpy(self.components(np.asarray(counts, np.float32)))
        if self.form == "counts":
            low, span = found.min(axis=0), np.ptp(found, axis=0)
        else:
            low, span = found.mean(axis=0), np.full(self.length, found[:, :-1].std(axis=0).mean())
            span[-1] = TOTAL_SCATTER
            span *= SHARES_SPAN
        self.low.assign(low)
        self.span.assign(np.where(span > 0, span, 1))

    def shares(self, scaled: NDArray) -> NDArray:
        """Undo the scaling of decoded prototypes (k, length): shares of the cells, (k, n_cells).

        The largest of each prototype is 1.
        """
        n_cells = self.input_length[0]
        low, span = (ops.convert_to_numpy(each)[:n_cells] for each in (self.low, self.span))
        found = np.maximum(scaled[:, :n_cells] * span + low, 0)
        found = found if self.form == "counts" else found**2
        return found / np.maximum(found.max(axis=1, keepdims=True), 1e-9)


def neighbourhood(n_cells: int) -> NDArray[np.float32]:
    """How smoothing spreads each cell of a square map over the others, (n_cells, n_cells).

    A Gaussian of sigma SMOOTHING; rows add to 1, so that nothing is lost at the edges.
    """
    side = round(n_cells**0.5)
    row, column = np.divmod(np.arange(n_cells), side)
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    weight = np.exp(-squared / (2 * SMOOTHING**2))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _coded(
    model: Desom, inputs: NDArray, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if inputs.shape[1:] != model.input_length:
        wanted = ", ".join(map(str, model.input_length))
        raise ValueError(f"inputs must have shape (n, {wanted}), not {inputs.shape}")
    d, k = model.cells.prototypes.shape[1], model.cells.prototypes.shape[0]
    parts = [(np.empty((0, d), np.float32), np.empty((0, k), np.float32))]
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size].astype(np.float32)
        found = model.predict_on_batch(_padded(part))
        parts.append((np.asarray(found[0])[: len(part)], np.asarray(found[1])[: len(part)]))
    latent, squared = (np.concatenate(each) for each in zip(*parts, strict=True))
    return latent, squared


def _padded(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat the last input up to a power of two: every other length is compiled anew."""
    missing = (1 << (len(part) - 1).bit_length()) - len(part)
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])


ARCHITECTURES: dict[str, Callable[..., Desom]] = {"desom1": desom1, "desom2": desom2}
