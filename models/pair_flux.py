"""The light of two overlapping galaxies: how bright each one is, and which pixels are whose.

`shares` is our own network and the one that ships; `blend2flux`, `unet` and `blend2mask2flux` are
the published ones. All take cutouts of one band with the central galaxy in the middle. Written with
`keras.ops` only, so that TensorFlow, JAX and PyTorch run the same code. Training is the business of
`models.training.pair_flux`, drawing pairs that of `models.blender`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

SIZE = 128  # pixel
STEP_TO_NOISE = 1.0484  # median absolute difference of neighbouring pixels, if noise is Gaussian
SIGNIFICANT = 0.5  # chance from which a pixel is in a mask
COUNTS_PER_NJY = 10 ** (0.4 * (25.96 - 31.4))  # of the published images, with zero point 25.96
MOST = 1e25  # nJy in a pixel; beyond it sums would leave float32
CLEAREST = 1e7  # signal of a pixel that is still believed [noise]
VIEWS = 8  # ways of turning and mirroring a square


def build(architecture: str = "shares", **options: Any) -> keras.Model:
    """Build a network with fresh weights.

    Parameters
    ----------
    architecture : {"shares", "blend2flux", "unet", "blend2mask2flux"}
        All take pixels (n, 128, 128, 1) [nJy] and give a dict with some of: `flux` (n, 2) [nJy],
        central and companion; `error` (n, 2) [nJy]; `masks` (n, 128, 128, 2 or 3), chances;
        `shares` (n, 64, 64, 3), of the light in 2 x 2 pixels: central's, companion's, the rest.
    **options
        Passed to the function of that name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {architecture!r} for pair_flux; there are {known}")
    return ARCHITECTURES[architecture](**options)


@dataclass(frozen=True)
class PairFluxes:
    """What a network says of n cutouts; index 0 is the central galaxy, 1 the companion."""

    flux: NDArray[np.float32]  # (n, 2) nJy; NaN from a network that gives masks only
    error: NDArray[np.float32]  # (n, 2) nJy, half width of 68 %; NaN from published networks
    masks: NDArray[np.bool_] | None  # (n, size, size, 2)
    separation: NDArray[np.float32]  # (n,) pixel; NaN where a mask is empty, or there is none


def predict(model: keras.Model, pixels: NDArray, batch_size: int = 64) -> PairFluxes:
    """Measure both galaxies of each cutout.

    Parameters
    ----------
    model : keras.Model
        From `build`, with trained weights.
    pixels : ndarray of float, shape (n, 128, 128)
        nJy. Pixels without value (NaN, infinite) count as empty sky.
    batch_size : int
        Cutouts at a time: only speed and memory depend on it.

    Returns
    -------
    PairFluxes
        Finite for any cutout: of a constant one the network measures no noise, takes it for an
        empty sky of noise 1 nJy, and gives fluxes of that order with errors that are as large.
        Where the companion's mask is empty its flux and error mean nothing.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[1:] != model.input_shape[1:3]:
        expected = f"(n, {model.input_shape[1]}, {model.input_shape[2]})"
        raise ValueError(f"pair_flux takes cutouts of one band, {expected}, not {pixels.shape}")
    starts = range(0, max(len(pixels), 1), batch_size)
    parts = [_measured(model, pixels[k : k + batch_size], batch_size) for k in starts]
    masks = [part.masks for part in parts if part.masks is not None]
    return PairFluxes(
        np.concatenate([part.flux for part in parts]),
        np.concatenate([part.error for part in parts]),
        np.concatenate(masks) if masks else None,
        np.concatenate([part.separation for part in parts]),
    )


def _measured(model: keras.Model, pixels: NDArray, batch_size: int) -> PairFluxes:
    """The answer for one batch (n, size, size), of at most `batch_size` cutouts."""
    n = len(pixels)
    clean = np.zeros((batch_size, *pixels.shape[1:], 1), np.float32)  # other lengths compile anew
    clean[:n, ..., 0] = np.where(np.isfinite(pixels), np.clip(pixels, -MOST, MOST), 0)
    found = {name: np.asarray(x)[:n] for name, x in model.predict_on_batch(clean).items()}
    unknown = np.full((n, 2), np.nan, np.float32)
    masks = found["masks"][..., -2:] > SIGNIFICANT if "masks" in found else None
    separation = unknown[:, 0]
    if masks is not None:
        light = masks.astype(np.float32) * np.maximum(clean[:n], 0)
        if "shares" in found:
            light *= found["shares"][..., :2].repeat(2, axis=1).repeat(2, axis=2)
        separation = _separation(light)
    return PairFluxes(found.get("flux", unknown), found.get("error", unknown), masks, separation)


def _separation(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance (n,) between the centroids of two galaxies' light (n, size, size, 2) [pixel]."""
    at = np.arange(light.shape[1], dtype=np.float32)
    total = light.sum(axis=(1, 2))
    total[total <= 0] = np.nan
    y = np.einsum("nyxk,y->nk", light, at) / total
    x = np.einsum("nyxk,x->nk", light, at) / total
    return np.hypot(y[:, 1] - y[:, 0], x[:, 1] - x[:, 0])


class Signal(layers.Layer):
    """Pixels in units of the noise of their own cutout, and that noise.

    The noise is the median difference of neighbouring pixels, over those that differ: what was
    filled in with one value does not count. In a constant cutout it is 1.
    """

    def call(self, pixels: Any) -> tuple[Any, Any]:
        """Pixels (n, h, w, 1) give signals (n, h, w, 1) and noise (n, 1)."""
        pixels = ops.cast(pixels, "float32")
        steps = ops.abs(pixels[:, ::2, 1::2] - pixels[:, ::2, ::2])
        steps = ops.sort(ops.reshape(steps, (-1, steps.shape[1] * steps.shape[2])), axis=1)
        empty = ops.sum(ops.cast(steps <= 0, "int32"), axis=1, keepdims=True)
        middle = (empty + steps.shape[1] - 1) // 2
        noise = STEP_TO_NOISE * ops.take_along_axis(steps, middle, axis=1)  # (n, 1)
        noise = ops.where(noise > 0, noise, 1.0)
        return ops.clip(pixels / noise[:, :, None, None], -CLEAREST, CLEAREST), noise


class Turned(layers.Layer):
    """A square picture turned and mirrored in one of 8 ways, or turned back."""

    def __init__(self, view: int, back: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.view, self.back = view, back

    def call(self, picture: Any) -> Any:
        """(n, s, s, c) gives (n, s, s, c)."""
        transposed, upside_down, mirrored = self.view & 4, self.view & 2, self.view & 1
        if transposed and not self.back:
            picture = ops.transpose(picture, (0, 2, 1, 3))
        if upside_down:
            picture = ops.flip(picture, axis=1)
        if mirrored:
            picture = ops.flip(picture, axis=2)
        if transposed and self.back:
            picture = ops.transpose(picture, (0, 2, 1, 3))
        return picture


class Radius(layers.Layer):
    """Adds a channel that says how far from the middle a place is, 1 at the edge."""

    def call(self, x: Any) -> Any:
        """(n, h, h, c) gives (n, h, h, c + 1)."""
        at = (np.arange(x.shape[1], dtype=np.float32) + 0.5) / x.shape[1] * 2 - 1
        radius = np.hypot(at[:, None], at[None])[None, :, :, None]
        radius = ops.cast(ops.convert_to_tensor(radius), x.dtype)
        where = ops.broadcast_to(radius, (ops.shape(x)[0], x.shape[1], x.shape[2], 1))
        return ops.concatenate([x, where], axis=-1)


class Which(layers.Layer):
    """Adds a number that says which galaxy is meant, -1 the central and 1 the companion."""

    def call(self, x: Any) -> Any:
        """(n, 2, c) gives (n, 2, c + 1)."""
        which = ops.convert_to_tensor(np.array([[[-1.0], [1.0]]], np.float32))
        return ops.concatenate([x, ops.broadcast_to(which, (ops.shape(x)[0], 2, 1))], axis=-1)


class Pooled(layers.Layer):
    """What is known of each of the two galaxies once every pixel is shared out.

    Gives, for the central and the companion, the logarithm of the signal in their shares, and
    numbers that tell how far to trust it: areas, mixed light, peak, and the mean features of
    their pixels.
    """

    def call(self, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Signals (n, h, h, 1), share logits (n, h, h, 3), mask logits (n, h, h, 2) and features
        (n, h, h, f) give log signals (n, 2) and numbers (n, 2, 8 + f)."""
        signal, logits, masks, features = (ops.cast(x, "float32") for x in inputs)
        share = ops.softmax(logits)[..., :2]
        mask = ops.sigmoid(masks)
        light = share * signal
        log_signal = _log(ops.sum(light, axis=(1, 2)))  # (n, 2)
        numbers = [
            log_signal,
            ops.log1p(ops.sum(share, axis=(1, 2))),
            ops.log1p(ops.sum(share * share, axis=(1, 2))),
            _log(ops.sum(light * (1 - share), axis=(1, 2))),
            ops.log1p(ops.sum(mask, axis=(1, 2))),
            _log(ops.sum(mask * signal, axis=(1, 2))),
            _log(ops.sum(mask[..., ::-1] * light, axis=(1, 2))),
            _log(ops.max(light, axis=(1, 2))),
        ]
        n_places = signal.shape[1] * signal.shape[2]
        weight = ops.reshape(share * _log(signal), (-1, n_places, 2))
        weight = weight / (ops.sum(weight, axis=1, keepdims=True) + 1e-3)
        flat = ops.reshape(features, (-1, n_places, features.shape[3]))
        seen = ops.matmul(ops.transpose(weight, (0, 2, 1)), flat)  # (n, 2, f)
        return log_signal, ops.concatenate([ops.stack(numbers, axis=-1), seen], axis=-1)


def _log(signal: Any) -> Any:
    """log(1 + x), and 0 where there is no signal."""
    return ops.log1p(ops.relu(signal))


def shares_network(widths: Sequence[int] = (16, 32, 64, 96, 128), size: int = SIZE) -> keras.Model:
    """The network inside `shares`, which knows no unit: a small U-Net on 2 x 2 pixels at a time.

    Takes signals (n, s, s, 1) and gives a dict: `shares` (n, s/2, s/2, 3) and `masks`
    (n, s/2, s/2, 2), logits; `log_flux` (n, 2), natural logarithm in units of the noise;
    `log_scale` (n, 2), of the error of that logarithm.
    """
    signal = keras.Input((size, size, 1))
    half = size // 2
    seen = _two_by_two(signal, half)  # (n, s/2, s/2, 4)
    x = Radius(name="radius")(ops.arcsinh(seen))  # (n, s/2, s/2, 5)
    levels = []
    for k, width in enumerate(widths):
        x = _convolved(x, width, f"down_{k}", stride=2 if k else 1)  # (n, s/2^(k+1), same, width)
        if k:
            x = _convolved(x, width, f"down_{k}_more")
        levels.append(x)
    context = layers.GlobalAveragePooling2D(name="context")(x)
    for k in reversed(range(len(widths) - 1)):
        x = layers.Conv2D(widths[k], 1, name=f"up_{k}_narrow")(x)
        x = layers.Add()([layers.UpSampling2D(2)(x), levels[k]])
        x = _convolved(x, widths[k], f"up_{k}")  # (n, s/2^(k+1), same, widths[k])
    shared = layers.Conv2D(3, 1, dtype="float32", name="shares")(x)  # (n, s/2, s/2, 3)
    masks = layers.Conv2D(2, 1, dtype="float32", name="masks")(x)  # (n, s/2, s/2, 2)
    light = ops.sum(seen, axis=-1, keepdims=True)
    log_flux, log_scale = _flux_head([light, shared, masks, x], context)
    return keras.Model(
        signal,
        {
            "shares": shared,
            "masks": masks,
            "log_flux": log_flux,
            "log_scale": log_scale,
        },
        name="network",
    )


def _flux_head(shared: Sequence[Any], context: Any) -> tuple[Any, Any]:
    """Log fluxes and log scales (n, 2): the light in the shares, and what to add to it."""
    log_signal, numbers = Pooled(dtype="float32", name="pooled")(shared)
    of_both = numbers.shape[-1] * 2
    own_first = ops.reshape(numbers, (-1, of_both))
    other_first = ops.reshape(numbers[:, ::-1], (-1, of_both))
    pair = ops.stack([own_first, other_first], axis=1)  # (n, 2, 2(8 + f))
    around = ops.repeat(ops.cast(context, "float32")[:, None], 2, axis=1)  # (n, 2, c)
    h = layers.LayerNormalization(dtype="float32", name="head_scale")(
        ops.concatenate([pair, around], axis=-1)
    )
    h = Which(dtype="float32", name="which")(ops.concatenate([h, pair[:, :, :8] / 10], axis=-1))
    for k, width in enumerate((128, 64)):
        h = layers.Dense(width, activation="relu", dtype="float32", name=f"head_{k}")(h)
    correction = layers.Dense(2, kernel_initializer="zeros", dtype="float32", name="correction")(h)
    return log_signal + correction[..., 0], correction[..., 1] - 2.0


def _convolved(x: Any, width: int, name: str, stride: int = 1) -> Any:
    """3 x 3 convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.98, name=f"{name}_scale")(x))


def _two_by_two(x: Any, half: int) -> Any:
    """(n, 2h, 2h, 1) → (n, h, h, 4)."""
    x = ops.reshape(x, (-1, half, 2, half, 2))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (-1, half, half, 4))


def shares(
    widths: Sequence[int] = (16, 32, 64, 96, 128),
    views: int = 1,
    interval_68: float = 1.0,
    interval_95: float = 2.0,
    size: int = SIZE,
) -> keras.Model:
    """Share out the light of every pixel, add it up, and say how sure the sums are.

    Each pixel's light is divided among central, companion and the rest; the fluxes are the sums of
    the shares of the pixels, and a small network corrects them for what lies below the noise or
    outside. It sees pixels in units of the cutout's noise, so it knows no unit and no exposure.

    Parameters
    ----------
    widths : sequence of int
        Channels at each halving of the resolution.
    views : 1 to 8
        Turned and mirrored cutouts that are averaged over.
    interval_68, interval_95 : float
        Half widths of the intervals that hold 68 % and 95 % of the true fluxes, the first in units
        of the scale that the network gives, the second in units of `error`; both measured on
        parents held out of the training.
    size : int
        Multiple of 2 ** len(widths).
    """
    if not 1 <= views <= VIEWS:
        raise ValueError(f"views must be 1 to {VIEWS}, not {views}")
    pixels = keras.Input((size, size, 1), name="pixels")
    signal, noise = Signal(dtype="float32", name="signal")(pixels)
    network = shares_network(widths, size)
    found = [_seen_from(network, signal, view) for view in range(views)]
    mean = {name: _average([each[name] for each in found]) for name in found[0]}
    flux = noise * ops.exp(mean["log_flux"])
    outputs = {
        "flux": flux,
        "error": interval_68 * flux * ops.exp(mean["log_scale"]),
        "masks": layers.UpSampling2D(2, interpolation="bilinear")(ops.sigmoid(mean["masks"])),
        "shares": ops.softmax(mean["shares"]),
    }
    model = keras.Model(pixels, outputs, name="shares")
    model.interval_95 = interval_95
    return model


def _seen_from(network: keras.Model, signal: Any, view: int) -> dict[str, Any]:
    found = dict(network(Turned(view, dtype="float32")(signal) if view else signal))
    for name in ("shares", "masks") if view else ():
        found[name] = Turned(view, back=True, dtype="float32")(found[name])
    return found


def _average(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else ops.mean(ops.stack(values), axis=0)


def blend2flux(width: int = 256, size: int = SIZE) -> keras.Model:
    """The published regression: five convolutions, two dense layers, two fluxes.

    1,607,106 | 25,696,002 | 102,772,226 parameters for widths 64 | 256 | 512. It sees counts of
    the published images, which are not scaled in any other way.

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, sect. 3 and table 2.
    """
    pixels = keras.Input((size, size, 1), name="pixels")
    x = layers.Rescaling(COUNTS_PER_NJY)(pixels)
    for k, filters in enumerate((width, width, 2 * width, 2 * width, 4 * width)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{k}")(x)
        if k < 4:
            x = layers.MaxPooling2D(2)(x)  # (n, size / 2^(k+1), same, filters)
    return keras.Model(pixels, {"flux": _published_head(x, width)}, name="blend2flux")


def _published_head(x: Any, width: int) -> Any:
    """Two dense layers with SELU, and two fluxes, from counts back to nJy."""
    x = layers.Flatten()(x)
    for k in range(2):
        x = layers.Dense(width, activation="selu", name=f"dense_{k}")(x)  # (n, width)
    counts = layers.Dense(2, name="counts")(x)
    return layers.Rescaling(1 / COUNTS_PER_NJY, name="flux")(counts)  # (n, 2)


def unet(masks: int = 2, dropout: float = 0.0, size: int = SIZE) -> keras.Model:
    """The published segmentation: a U-Net of depth 5 that gives masks and no flux.

    8,629,954 parameters for 2 masks (central, companion, as in the paper), 8,629,987 for 3
    (overlap first, as in the public code).

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, sect. 3.
    """
    if masks not in (2, 3):
        raise ValueError(f"masks are 2 (central, companion) or 3 (overlap first), not {masks}")
    pixels = keras.Input((size, size, 1), name="pixels")
    counts = layers.Rescaling(COUNTS_PER_NJY)(pixels)
    return keras.Model(pixels, {"masks": _published_unet(counts, masks, dropout)}, name="unet")


def _published_unet(x: Any, masks: int, dropout: float) -> Any:
    """Chances (n, s, s, masks), from counts (n, s, s, 1)."""
    levels = []
    for k, filters in enumerate((32, 64, 128, 256)):
        x = _two_convolutions(x, filters, f"down_{k}", dropout)
        levels.append(x)
        x = layers.MaxPooling2D(2)(x)  # (n, s / 2^(k+1), same, filters)
    x = _two_convolutions(x, 512, "middle", dropout)
    for k, filters in reversed(list(enumerate((32, 64, 128, 256)))):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", name=f"up_{k}_larger")(x)
        x = layers.Concatenate()([levels[k], x])  # (n, s / 2^k, same, 2 filters)
        x = _two_convolutions(x, filters, f"up_{k}", dropout)
    return layers.Conv2D(masks, 1, activation="sigmoid", name="masks")(x)


def _two_convolutions(x: Any, filters: int, name: str, dropout: float) -> Any:
    for k in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_{k}")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    return x


def blend2mask2flux(masks: int = 2, dropout: float = 0.0, size: int = SIZE) -> keras.Model:
    """The published U-Net, and a regression that sees its masks beside the cutout.

    18,467,140 parameters with 2 masks. The paper gives no filters of the second part, and its code
    does not run; seven convolutions (128, 128, 256, 256, 512, 512, 1024), six poolings and two
    dense layers of 128 are our reading, which gives the paper's total of 18.5 million.

    References
    ----------
    Boucaud et al. (2020), MNRAS 491, 2481, sect. 3 and table 2.
    """
    pixels = keras.Input((size, size, 1), name="pixels")
    counts = layers.Rescaling(COUNTS_PER_NJY)(pixels)
    found = _published_unet(counts, masks, dropout)
    x = layers.Concatenate()([counts, found])  # (n, s, s, 1 + masks)
    for k, filters in enumerate((128, 128, 256, 256, 512, 512, 1024)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{k}")(x)
        if k < 6:
            x = layers.MaxPooling2D(2)(x)  # (n, s / 2^(k+1), same, filters)
    outputs = {"flux": _published_head(x, 128), "masks": found}
    return keras.Model(pixels, outputs, name="blend2mask2flux")


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "shares": shares,
    "blend2flux": blend2flux,
    "unet": unet,
    "blend2mask2flux": blend2mask2flux,
}
