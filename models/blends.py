"""Is a cutout of one galaxy, or of two that overlap?

`residual` answers from the pixels of one band, whatever their unit and noise, and ships. `vgg16` is
the network of BlendHunter; `encoder` is its head on our own encoder of representations instead of
VGG16. Training, weights and measuring are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models import representations
from models.pixels import SKY_LEVEL, resize
from models.representations import MeanOfViews

SIZE = 64  # pixel
TURNS = 8  # ways to turn and mirror a square

LAPLACE_TO_NOISE = 1 / (6 * 0.6745)  # median absolute Laplacian of white noise, to its sigma
SOFTENING = 1.5  # where the stretch turns from linear to logarithmic [noise]
FAINTEST, BRIGHTEST = -6.0, 1e4  # what becomes the ends of the stretch [noise above the sky]


def build(architecture: str = "residual", **options: Any) -> keras.Model:
    """Build a network with fresh weights.

    Every network takes what `SHOWN` makes of cutouts, and gives P(blend) as (n, 1).

    Parameters
    ----------
    architecture : {"residual", "vgg16", "encoder"}
    **options
        Passed to the function of that name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {architecture!r} for blends; there are {known}")
    return ARCHITECTURES[architecture](**options)


def predict(
    model: keras.Model, pixels: NDArray[np.float32], batch_size: int = 64
) -> NDArray[np.float32]:
    """Probability that each cutout holds two overlapping galaxies.

    Parameters
    ----------
    model : keras.Model
        From `build`, with trained weights.
    pixels : ndarray of float32, shape (n, 64, 64)
        One band in any linear unit, the source in the middle; a pixel without value (NaN) counts
        as sky.

    Returns
    -------
    ndarray of float32, shape (n,)
        A constant cutout gets some probability too, which means nothing.
    """
    if pixels.ndim != 3 or pixels.shape[1:] != (SIZE, SIZE):
        raise ValueError(f"cutouts must have shape (n, {SIZE}, {SIZE}), not {pixels.shape}")
    shown, found = SHOWN[model.name], [np.empty(0, np.float32)]
    for start in range(0, len(pixels), batch_size):
        part = np.asarray(pixels[start : start + batch_size], np.float32)
        p = model.predict_on_batch(_padded(shown(part), batch_size))
        found.append(np.asarray(p, np.float32)[: len(part), 0])
    return np.concatenate(found)


def _padded(part: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    """Repeat the last picture up to the size of a batch: every other length is compiled anew."""
    return np.concatenate([part, np.repeat(part[-1:], batch_size - len(part), axis=0)])


def residual(
    widths: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (1, 1, 1),
    views: int = TURNS,
    dropout: float = 0.1,
    temperature: float = 1.0,
    offset: float = 0.0,
) -> keras.Model:
    """The network that ships: 0.12 million parameters, 17 million multiplications per view.

    Parameters
    ----------
    widths, blocks : sequences of int
        Filters, and residual blocks, at each resolution: 32 x 32, and half of it each time.
    views : {1, 8}
        Over how many turned and mirrored cutouts the log odds are averaged; in training always one.
    dropout : float
        Share of what the last layer sees that is left out, in training.
    temperature, offset : float
        The probability is that of the log odds `(mean + offset) / temperature`
        (`scores.fit_calibration`).

    References
    ----------
    He et al. (2016), CVPR, 770 (the blocks).
    """
    picture = keras.Input((SIZE, SIZE), name="picture")
    seen = Views(views, name="views")(picture)  # (8 n, 64, 64)
    x = ops.reshape(seen, (-1, SIZE // 2, 2, SIZE // 2, 2))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    x = ops.reshape(x, (-1, SIZE // 2, SIZE // 2, 4))  # (8 n, 32, 32, 4), no pixel is lost
    for k, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        x = layers.Activation("relu")(_convolution(x, width, stride=min(k + 1, 2)))
        for _ in range(n):
            y = layers.Activation("relu")(_convolution(x, width))
            x = layers.Activation("relu")(x + _convolution(y, width))  # (8 n, 32 | 16 | 8, ...)
    x = ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], axis=-1)
    x = layers.Dropout(dropout)(x)  # (8 n, 2 widths[-1])
    each = layers.Dense(1, dtype="float32", name="log_odds")(x)
    logit = MeanOfViews(views, name="mean_of_views")(each)  # (n, 1)
    p = layers.Activation("sigmoid", dtype="float32", name="probability")(
        (logit + offset) / temperature
    )
    return keras.Model(picture, p, name="residual")


def _convolution(x: Any, filters: int, stride: int = 1) -> Any:
    x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.97)(x)


def vgg16(hidden: int = 512, weights: str | None = None) -> keras.Model:
    """The published network: the convolutions of VGG16, frozen, under a head that is trained.

    The head has 656,641 parameters, or 788,737 with hidden = 1024; VGG16 has 14,714,688 more. Its
    first dense layer is linear, as published. Cutouts are folded at zero and scaled to their
    brightest pixel: `eight_bit`.

    Parameters
    ----------
    hidden : int
        512 in the paper's runs, 1024 in the public code today.
    weights : {None, "imagenet"}
        What the convolutions know: nothing, or photographs (Keras fetches the weights).

    Raises
    ------
    ValueError
        The ImageNet weights cannot be fetched.

    References
    ----------
    Farrens et al. (2022), A&A 657, A98 (BlendHunter); Simonyan & Zisserman (2015), ICLR.
    """
    picture = keras.Input((SIZE, SIZE, 3), name="picture")
    body = _vgg16_body(weights)
    body.trainable = False
    return _with_head(picture, body(picture), hidden, "vgg16")


def _vgg16_body(weights: str | None) -> keras.Model:
    try:
        return keras.applications.VGG16(
            include_top=False, weights=weights, input_shape=(SIZE, SIZE, 3), name="body"
        )
    except Exception as error:  # whatever the download, or h5py, raises
        raise ValueError(
            f"ImageNet weights for VGG16 could not be had ({error}). Run this once on a machine "
            "that is online, and bring ~/.keras/models/vgg16_weights_tf_dim_ordering_tf_kernels_"
            "notop.h5 from there; or train the preset encoder, which needs no download"
        ) from error


def encoder(hidden: int = 512, view: str = "rings", views: int = 2) -> keras.Model:
    """The published head on our encoder of representations, frozen, which needs no download.

    Parameters
    ----------
    hidden : int
        See `vgg16`.
    view, views
        As the card of the encoder says (`representations.efficientnetb0`); its weights are
        put in by the training.
    """
    side = representations.SIZE
    picture = keras.Input((side, side, 3), name="picture")
    body = representations.build("efficientnetb0", view=view, views=views)
    body.name = "body"
    body.trainable = False
    embedding, _ = body(picture)  # (n, 1280)
    return _with_head(picture, embedding, hidden, "encoder")


def _with_head(picture: Any, found: Any, hidden: int, name: str) -> keras.Model:
    features = layers.Flatten(name="features")(found)  # (n, 2048 | 1280)
    return keras.Model(picture, _head(features.shape[-1], hidden)(features), name=name)


def _head(length: int, hidden: int) -> keras.Model:
    """What is trained on frozen features (n, length): P(blend), (n, 1)."""
    features = keras.Input((length,))
    x = layers.Dense(256)(features)  # linear, as published
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(hidden, activation="relu")(x)
    p = layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(features, p, name="head")


def measured(pixels: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cutouts (n, 64, 64) above their sky, and the noise of each.

    The sky is the median and a slope; a pixel without value becomes sky. The noise is the median
    absolute response to a mask that no gradient or curvature of the light along one axis excites,
    where the mask meets no missing pixel. A cutout without noise has its own scatter instead, a
    constant one 1.

    Returns
    -------
    ndarrays of float32, shapes (n, 64, 64) and (n, 1, 1)

    References
    ----------
    Immerkær (1996), Comput. Vis. Image Underst. 64, 300 (the mask).
    """
    known = np.isfinite(pixels)
    sky, _ = _middle(pixels)
    light = np.where(known, pixels, sky).astype(np.float32) - sky.astype(np.float32)
    light -= np.where(known, slope(light), np.float32(0))
    seen = np.where(known, light, np.float32(np.nan))
    across = seen[:, :, 2:] - 2 * seen[:, :, 1:-1] + seen[:, :, :-2]
    laplace = across[:, 2:] - 2 * across[:, 1:-1] + across[:, :-2]  # (n, 62, 62)
    low, high = _middle(np.abs(laplace))
    noise = LAPLACE_TO_NOISE * (low + high) / 2
    noise = np.where(noise > 0, noise, light.std(axis=(1, 2), keepdims=True))
    return light, np.where(noise > 0, noise, 1).astype(np.float32)


def slope(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plane through 0 at the middle that the sky of cutouts (n, 64, 64) follows, same shape.

    Fitted by least squares to pixels within 2 sigma of it, four times over; sigma is that of the
    pixels below it, where no galaxy is.
    """
    axis = np.linspace(-0.5, 0.5, SIZE)
    terms = np.stack([np.ones(SIZE**2), np.tile(axis, SIZE), np.repeat(axis, SIZE)])  # (3, m)
    products = (terms[:, None] * terms[None]).reshape(9, -1)
    flat = light.reshape(len(light), -1).astype(np.float64)
    found = np.zeros((len(flat), 3))
    for clip in (3.0, 2.0, 2.0, 2.0):
        left = flat - found @ terms
        below = np.where(left < 0, -left, np.nan).reshape(light.shape)
        weight = (np.abs(left) <= clip * 1.4826 * _middle(below)[0][:, :, 0]).astype(np.float64)
        normal = (weight @ products.T).reshape(-1, 3, 3) + 1e-9 * np.eye(3)
        found = np.linalg.solve(normal, ((weight * flat) @ terms.T)[:, :, None])[:, :, 0]
    return (found[:, 1:] @ terms[1:]).reshape(light.shape).astype(np.float32)


def _middle(values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The two finite values in the middle of each picture (n, h, w), as (n, 1, 1); 0 without any.

    They are the same where their number is odd.
    """
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat)
    ordered = np.sort(np.where(known, flat, np.inf), axis=1)
    last = np.maximum(known.sum(axis=1, keepdims=True) - 1, 0)
    low, high = (np.take_along_axis(ordered, k, axis=1) for k in (last // 2, (last + 1) // 2))
    some = known.any(axis=1, keepdims=True)
    return np.where(some, low, 0)[:, :, None], np.where(some, high, 0)[:, :, None]


def noise_stretch(pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    """What `residual` is shown: light in units of the noise, compressed by asinh.

    No unit, exposure or survey is left. Cutouts (n, 64, 64) become the same shape, some -1 to 5.
    """
    light, noise = measured(pixels)
    return np.arcsinh(np.clip(light / noise, FAINTEST, BRIGHTEST) / SOFTENING) / 2


def grey_picture(pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    """What the encoder of representations is shown: grey, 128 pixels, 0 to 255.

    The sky is as dark as in the pictures it learnt from, noise stays faintly visible, and the
    stretch is logarithmic above. Pixels are doubled by interpolation, since it knows pictures of
    that size only. Cutouts (n, 64, 64) become (n, 128, 128, 3).
    """
    light, noise = measured(pixels)
    span = np.arcsinh(BRIGHTEST / 10 / SOFTENING)
    grey = SKY_LEVEL + (255 - SKY_LEVEL) * np.arcsinh(light / noise / SOFTENING) / span
    large = resize(np.clip(grey, 0, 255)[..., None], representations.SIZE)
    return np.repeat(large, 3, axis=-1).astype(np.float32)


def eight_bit(pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    """What `vgg16` is shown, as published: |pixel| * 255 / brightest pixel in 8 bit, over 255.

    Cutouts (n, 64, 64) become (n, 64, 64, 3) from 0 to 1; a pixel without value becomes 0.
    """
    known = np.where(np.isfinite(pixels), pixels, 0)
    brightest = known.max(axis=(1, 2), keepdims=True)
    folded = np.abs(known) * 255 / np.where(brightest > 0, brightest, 1)
    grey = np.floor(np.clip(folded, 0, 255)) / 255
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


@keras.saving.register_keras_serializable("skygloss")
class Views(layers.Layer):
    """Each cutout turned and mirrored in all eight ways: (n, s, s) becomes (8 n, s, s)."""

    def __init__(self, views: int = TURNS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if views not in (1, TURNS):
            raise ValueError(f"views must be 1 or {TURNS}, not {views}")
        self.views = views

    def call(self, cutouts: Any, training: bool = False) -> Any:
        """View by view; in training one view only."""
        if training or self.views == 1:
            return cutouts
        both = ops.concatenate([cutouts, ops.transpose(cutouts, (0, 2, 1))], axis=0)
        both = ops.concatenate([both, ops.flip(both, axis=1)], axis=0)
        return ops.concatenate([both, ops.flip(both, axis=2)], axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(any, s, s)."""
        return (None, *input_shape[1:])


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "residual": residual,
    "vgg16": vgg16,
    "encoder": encoder,
}
SHOWN: dict[str, Callable[[NDArray[np.floating]], NDArray[np.float32]]] = {
    "residual": noise_stretch,
    "vgg16": eight_bit,
    "encoder": grey_picture,
}
