"""Is a catalog source a galaxy, or a shred: a piece of a larger galaxy?

Two networks answer from one colour picture: `published`, exactly as Di Teodoro, Peek & Wu saved
it, and `polar`, which ships. `plain` is a small ordinary network to compare with. Training,
weights and plots are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.features import N_FEATURES, features
from models.trees import Trees

SIZE = 128  # pixel
PIXEL_SCALE = 0.262  # arcsec/pixel

RINGS, RAYS = 32, 64  # the polar picture
OUTER_RADIUS = 62.0  # pixel
CORE_RADIUS = 6.0  # pixel; rings are evenly spaced inside, logarithmically outside
CORE_RINGS = 3  # the rings whose mean is the brightness of the centre
TREE_SHARE = 1 / 3  # weight of the trees' log odds in the shipped network


def build(architecture: str = "polar", **options: Any) -> keras.Model:
    """Build a network with fresh weights.

    Every network takes pictures of shape (n, 128, 128, 3) with values from 0 to 255, scales them
    itself, and gives P(shred) in the last column of its output.

    Parameters
    ----------
    architecture : {"polar", "published", "plain"}
    **options
        Passed to the function of that name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {architecture!r} for shreds; there are {known}")
    return ARCHITECTURES[architecture](**options)


def predict(
    model: keras.Model, rgb: NDArray[np.uint8], batch_size: int = 64
) -> NDArray[np.float32]:
    """Probability that each source is a shred.

    Parameters
    ----------
    model : keras.Model
        From `build`, with trained weights.
    rgb : ndarray of uint8, shape (n, 128, 128, 3)
        Pictures as `pixels.to_rgb` makes them, 0.262 arcsec/pixel, centred on the source.

    Returns
    -------
    ndarray of float32, shape (n,)
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"pictures must be uint8 of shape (n, {SIZE}, {SIZE}, 3), "
            f"not {rgb.dtype} of shape {rgb.shape}"
        )
    if not len(rgb):
        return np.empty(0, np.float32)
    pictures = rgb.astype(np.float32)
    inputs = [pictures, features(rgb)] if len(model.inputs) == 2 else pictures
    p = model.predict(inputs, batch_size=batch_size, verbose=0)
    return np.asarray(p[:, -1], np.float32)


def published() -> keras.Model:
    """The published network: 10,580,258 parameters, softmax over (galaxy, shred).

    The paper's saved model holds no scaling of the pixels; here it is an explicit first layer.

    References
    ----------
    Di Teodoro, Peek & Wu (galaxy shreds); layers from the metadata of their saved model.
    """
    picture = keras.Input((SIZE, SIZE, 3), name="picture")
    x = layers.Rescaling(1 / 255, name="scale")(picture)
    for filters, kernel, pool in ((32, 3, 2), (64, 3, 2), (128, 3, 2), (512, 5, 4)):
        x = layers.Conv2D(filters, kernel, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, kernel, activation="relu")(x)  # loses kernel - 1 per side
        x = layers.MaxPooling2D(pool)(x)  # (n, 63 | 30 | 14 | 2, same, filters)
        x = layers.Dropout(0.2)(x)
    x = layers.Flatten(name="flatten")(x)  # (n, 2048)
    x = layers.Dense(1024, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    p = layers.Dense(2, activation="softmax", dtype="float32", name="probability")(x)
    return keras.Model(picture, p, name="published")


def plain(width: int = 32) -> keras.Model:
    """A small ordinary network (0.47 M parameters), the floor that others must clear."""
    picture = keras.Input((SIZE, SIZE, 3), name="picture")
    x = layers.Rescaling(1 / 255, name="scale")(picture)
    x = layers.AveragePooling2D(2)(x)  # (n, 64, 64, 3)
    for filters in (width, 2 * width, 4 * width, 8 * width):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)  # (n, 32 | 16 | 8 | 4, same, filters)
    x = layers.Flatten()(x)  # (n, 16 * 8 * width)
    x = layers.Dropout(0.4)(x)
    x = layers.Dense(16, activation="relu")(x)
    p = layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(picture, p, name="plain")


def polar(
    members: int = 3,
    trees: int = 0,
    width: int = 20,
    temperature: float = 1.0,
    offset: float = 0.0,
) -> keras.Model:
    """The network that ships: it looks outward from the source, as a person would.

    What makes a shred is that the light around it belongs to a brighter nucleus somewhere else.
    So the picture is resampled on rings about the source, with a plane that says how much brighter
    or fainter each point is than the centre. A turned galaxy is then a shifted picture, which
    convolutions that wrap round and a pool over all angles do not mind.

    Parameters
    ----------
    members : int
        Networks of different seeds whose log odds are averaged, each over four views.
    trees : int
        Boosted trees on `features.features`, a second input, whose log odds count one third;
        0 leaves them and the second input out.
    width : int
        Filters of the first layer.
    temperature, offset : float
        The probability is that of the log odds `(mean + offset) / temperature`; both were fitted
        on unseen sources (`scores.fit_calibration`), since training balances the classes.
    """
    picture = keras.Input((SIZE, SIZE, 3), name="picture")
    rings = polar_picture(picture)
    views = Views(name="views")(rings)  # (4 n, 32, 64, 4)
    each = [polar_member(width, name=f"member_{k}")(views) for k in range(members)]
    logit = MeanOfViews(name="mean_of_views")(ops.mean(ops.stack(each), axis=0))  # (n, 1)
    inputs = [picture]
    if trees:
        numbers = keras.Input((N_FEATURES,), name="features", dtype="float32")
        logit = (1 - TREE_SHARE) * logit + TREE_SHARE * Trees(trees, name="trees", dtype="float32")(
            numbers
        )
        inputs.append(numbers)
    p = layers.Activation("sigmoid", dtype="float32", name="probability")(
        (logit + offset) / temperature
    )
    return keras.Model(inputs, p, name="polar")


def polar_picture(picture: Any) -> Any:
    """Scale pictures (n, 128, 128, 3) of 0 to 255 and resample them: (n, 32, 64, 4)."""
    return PolarView(name="rings")(layers.Rescaling(1 / 255, name="scale")(picture))


def polar_member(width: int = 20, dropout: float = 0.4, name: str = "member") -> keras.Model:
    """One network from polar pictures (n, 32, 64, 4) to the log odds of a shred (n, 1)."""
    rings = keras.Input((RINGS, RAYS, 4), name="polar_picture")
    x = rings
    for filters in (width, 2 * width, 4 * width):
        x = _wrapped_convolution(x, filters)
        x = _wrapped_convolution(x, filters)
        x = layers.MaxPooling2D(2)(x)  # (n, 16 | 8 | 4, 32 | 16 | 8, filters)
        x = layers.SpatialDropout2D(0.1)(x)
    x = _wrapped_convolution(x, 6 * width)  # (n, 4, 8, 6 width)
    x = ops.concatenate([ops.mean(x, axis=2), ops.max(x, axis=2)], axis=-1)  # (n, 4, 12 width)
    x = layers.Dropout(dropout)(layers.Flatten()(x))  # (n, 48 width)
    x = layers.Dropout(dropout)(layers.Dense(64, activation="relu")(x))
    logit = layers.Dense(1, dtype="float32", name="log_odds")(x)
    return keras.Model(rings, logit, name=name)


def _wrapped_convolution(x: Any, filters: int) -> Any:
    x = WrapAngles()(x)
    x = layers.Conv2D(filters, 3, use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.97)(x))


@keras.saving.register_keras_serializable("skygloss")
class PolarView(layers.Layer):
    """Resample pictures on rings about their centre.

    (n, 128, 128, 3) becomes (n, rings, rays, 4): the three colours, and the brightness less that
    of the centre. Rings far out are read from pictures binned 2 or 4 times, as coarse as they are.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        index, weight = ring_samples(SIZE, RINGS, RAYS)
        self.index = index.reshape(-1)
        self.weight = weight.reshape(1, -1, 4, 1)

    def call(self, picture: Any) -> Any:
        """Resample; see the class."""
        half = ops.average_pool(picture, 2)
        quarter = ops.average_pool(half, 2)
        flat = [ops.reshape(p, (-1, p.shape[1] * p.shape[2], 3)) for p in (picture, half, quarter)]
        corners = ops.take(ops.concatenate(flat, axis=1), self.index, axis=1)
        corners = ops.reshape(corners, (-1, RINGS * RAYS, 4, 3))
        colour = ops.sum(corners * ops.cast(self.weight, corners.dtype), axis=2)
        colour = ops.reshape(colour, (-1, RINGS, RAYS, 3))
        light = ops.mean(colour, axis=-1, keepdims=True)
        centre = ops.mean(light[:, :CORE_RINGS], axis=(1, 2), keepdims=True)
        return ops.concatenate([colour, light - centre], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, rings, rays, 4)."""
        return (input_shape[0], RINGS, RAYS, 4)


def ring_radii(rings: int) -> NDArray[np.float64]:
    """Radii of the rings [pixel]: even steps near the centre, growing steps outside."""
    reach = np.arcsinh(OUTER_RADIUS / CORE_RADIUS)
    return CORE_RADIUS * np.sinh((np.arange(rings) + 0.5) / rings * reach)


def ring_samples(size: int, rings: int, rays: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where each polar sample is read, and with which weights.

    Returns
    -------
    ndarray of int32, shape (rings, rays, 4)
        Its four neighbours in the flattened picture, followed by the picture binned by 2 and by 4.
    ndarray of float32, shape (rings, rays, 4)
        Bilinear weights, 1 in sum.
    """
    radius = ring_radii(rings)
    spacing = np.maximum(np.gradient(radius), radius * 2 * np.pi / rays)
    level = np.clip(np.round(np.log2(np.maximum(spacing, 1))), 0, 2).astype(int)[:, None]
    angle = 2 * np.pi * np.arange(rays) / rays
    side = size >> level
    start = np.array([0, size**2, size**2 + (size // 2) ** 2])[level]
    x = (size / 2 + radius[:, None] * np.cos(angle)) / 2**level - 0.5
    y = (size / 2 + radius[:, None] * np.sin(angle)) / 2**level - 0.5
    x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    right, up = x - left, y - low
    index = [start + (low + dy) * side + left + dx for dy in (0, 1) for dx in (0, 1)]
    weight = [(1 - up) * (1 - right), (1 - up) * right, up * (1 - right), up * right]
    return np.stack(index, -1).astype(np.int32), np.stack(weight, -1).astype(np.float32)


@keras.saving.register_keras_serializable("skygloss")
class WrapAngles(layers.Layer):
    """Continue polar pictures round the circle and add a ring of zeros inside and outside."""

    def call(self, x: Any) -> Any:
        """(n, rings, rays, c) becomes (n, rings + 2, rays + 2, c)."""
        x = ops.concatenate([x[:, :, -1:], x, x[:, :, :1]], axis=2)
        return ops.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))


@keras.saving.register_keras_serializable("skygloss")
class Views(layers.Layer):
    """Each polar picture as it is and turned by 22.5 degrees, and the mirror images of both."""

    def call(self, x: Any) -> Any:
        """(n, rings, rays, c) becomes (4 n, rings, rays, c), view by view."""
        both = ops.concatenate([x, ops.roll(x, RAYS // 16, axis=2)], axis=0)
        mirrored = ops.roll(ops.flip(both, axis=2), 1, axis=2)  # ray j becomes ray -j
        return ops.concatenate([both, mirrored], axis=0)


@keras.saving.register_keras_serializable("skygloss")
class MeanOfViews(layers.Layer):
    """Undo `Views`: (4 n, 1) becomes the mean over the four views, (n, 1)."""

    def call(self, x: Any) -> Any:
        """Average; see the class."""
        return ops.mean(ops.reshape(x, (4, -1, 1)), axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, 1); backends that try the layer on a made-up n, not a multiple of four, fail."""
        return (None, 1)


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "polar": polar,
    "published": published,
    "plain": plain,
}
