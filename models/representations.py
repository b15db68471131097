"""What does a source look like, as numbers: pictures to vectors whose neighbours look alike.

An EfficientNetB0 gives 1,280 numbers, the `embedding`; a last linear layer takes them to their
first 40 principal components, the `reduced` vector that is searched. Training, weights and
measuring are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.shreds import ring_samples

SIZE = 128  # pixel
PIXEL_SCALE = 0.262  # arcsec/pixel
LENGTH = 1280  # numbers of an embedding
N_COMPONENTS = 40  # numbers of a reduced vector; the first 10 are the published 10

IMAGENET_SCATTER = np.array([0.229, 0.224, 0.225], np.float32)  # of red, green, blue
PUBLISHED_SIZES = (424, 300, 224)  # pixel: as stored, as read, as seen
RINGS, RAYS, OVERLAP = 48, 80, 8  # the picture on rings, and the rays repeated at each end


def build(architecture: str = "efficientnetb0", **options: Any) -> keras.Model:
    """Build an encoder with fresh weights.

    Every encoder takes colour pictures with values from 0 to 255, scales them itself, and has
    two outputs: `embedding`, shape (n, 1280), and `reduced`, shape (n, 40).

    Parameters
    ----------
    architecture : {"efficientnetb0", "published"}
    **options
        Passed to the function of that name.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {architecture!r} for representations; there are {known}")
    return ARCHITECTURES[architecture](**options)


def encode(
    model: keras.Model, rgb: NDArray[np.uint8], batch_size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embedding (n, 1280) and reduced vector (n, 40) of each picture.

    Parameters
    ----------
    model : keras.Model
        From `build`, with trained weights.
    rgb : ndarray of uint8, shape (n, s, s, 3)
        Pictures as `pixels.to_rgb` makes them, of the size the encoder takes (128 pixels of
        0.262 arcsec; 424 for `published`), centred on the source.
    """
    size = model.input_shape[1]
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pictures must be uint8 of shape (n, {size}, {size}, 3), "
            f"not {rgb.dtype} of shape {rgb.shape}"
        )
    if not len(rgb):
        return np.empty((0, LENGTH), np.float32), np.empty((0, N_COMPONENTS), np.float32)
    found = [
        model.predict_on_batch(rgb[start : start + batch_size].astype(np.float32))
        for start in range(0, len(rgb), batch_size)
    ]
    embedding, reduced = (np.concatenate(part) for part in zip(*found, strict=True))
    return embedding.astype(np.float32), reduced.astype(np.float32)


def efficientnetb0(view: str = "picture", views: int = 1, size: int = SIZE) -> keras.Model:
    """The colour form, for survey cutouts of 128 pixels.

    Parameters
    ----------
    view : {"picture", "rings"}
        What the network sees: the picture itself (4,049,571 parameters), or the picture on rings
        about the source with a fourth plane, how much brighter or fainter each point is than the
        centre (4,049,861 parameters).
    views : {1, 2, 4}
        Over how many views the embedding is averaged: the picture, its mirror image, and both
        turned by 90 degrees. In training there is always one.
    size : int
        Side of the pictures [pixel].

    References
    ----------
    Tan & Le (2019), ICML 97, 6105; Walmsley et al. (2022), MNRAS 513, 1581.
    """
    picture = keras.Input((size, size, 3), name="picture")
    if view not in VIEWS:
        raise ValueError(f"an encoder may look at {' or '.join(VIEWS)}, not at {view!r}")
    if views not in (1, 2, 4):
        raise ValueError(f"views must be 1, 2 or 4, not {views}")
    seen = VIEWS[view](Views(views, name="views")(picture))
    embedding = MeanOfViews(views, name="mean_of_views")(_network(seen))
    return _with_outputs(picture, embedding, "efficientnetb0")


def published() -> keras.Model:
    """The published form: 424 pixels, read at 300, grey, the middle 224; 4,048,991 parameters.

    In training a picture is turned by any angle, mirrored and cropped anywhere; otherwise the crop
    is central, so that a picture always gives the same vector. The network divides by 255 itself.

    References
    ----------
    Walmsley et al. (2022), MNRAS 513, 1581, sect. 2; their code for the resizing.
    """
    stored, read, seen = PUBLISHED_SIZES
    picture = keras.Input((stored, stored, 3), name="picture")
    x = layers.Resizing(read, read, interpolation="lanczos3", antialias=True)(picture)
    x = ops.mean(ops.clip(x, 0, 255), axis=-1, keepdims=True)  # (n, 300, 300, 1)
    x = layers.RandomRotation(0.5, fill_mode="reflect")(x)
    x = layers.RandomFlip("horizontal_and_vertical")(x)
    x = layers.RandomCrop(seen, seen)(x)  # (n, 224, 224, 1) in training, else as it is
    x = layers.CenterCrop(seen, seen, name="center_crop")(x)  # (n, 224, 224, 1)
    return _with_outputs(picture, _network(x), "published")


def _network(seen: Any) -> Any:
    """EfficientNetB0 without its head, which scales 0 to 255 itself: (n, h, w, c) to (n, 1280)."""
    body = keras.applications.EfficientNetB0(
        include_top=False,
        weights=None,
        input_tensor=keras.Input(seen.shape[1:]),  # input_shape would warn of a fourth plane
        pooling="avg",
        name="body",
    )
    return body(seen)


def _with_outputs(picture: Any, features: Any, name: str) -> keras.Model:
    embedding = layers.Activation("linear", dtype="float32", name="embedding")(features)
    reduced = layers.Dense(N_COMPONENTS, dtype="float32", name="reduced")(embedding)
    return keras.Model(picture, [embedding, reduced], name=name)


def _rings(picture: Any) -> Any:
    return Rings(name="rings")(picture)


def _as_it_is(picture: Any) -> Any:
    return picture


def set_components(model: keras.Model, mean: NDArray, components: NDArray) -> None:
    """Put principal components into the last layer.

    Parameters
    ----------
    mean : ndarray, shape (1280,)
    components : ndarray, shape (k, 1280), k at most 40
        Missing components give zeros, which no distance notices.
    """
    kernel = np.zeros((LENGTH, N_COMPONENTS), np.float32)
    kernel[:, : len(components)] = components.T
    model.get_layer("reduced").set_weights([kernel, -mean.astype(np.float32) @ kernel])


def load_imagenet(model: keras.Model, path: Path | None = None) -> None:
    """Put ImageNet weights of Keras into the network, for a start or as a baseline.

    Parameters
    ----------
    model : keras.Model
        From `build`. The planes of its input that a photograph has not get no weight.
    path : Path, optional
        `efficientnetb0_notop.h5` as Keras publishes it; otherwise Keras fetches it.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, it holds another network, or Keras cannot fetch it.
    """
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"{path} should hold ImageNet weights for EfficientNetB0: no file")
    try:
        known = keras.applications.EfficientNetB0(
            include_top=False, weights=str(path) if path else "imagenet", pooling="avg"
        )
    except Exception as error:  # whatever h5py, or the download, raises
        raise ValueError(
            f"ImageNet weights for EfficientNetB0 could not be read from {path or 'the net'} "
            f"({error}). Fetch efficientnetb0_notop.h5 elsewhere, and name the file"
        ) from error
    pairs = zip(_weighted(known), _weighted(model.get_layer("body")), strict=True)
    for theirs, ours in pairs:
        weights = [
            _widened(old, new.shape)
            for old, new in zip(theirs.get_weights(), ours.get_weights(), strict=True)
        ]
        if ours.name == "stem_conv":  # Keras divides by these before it, in its own network only
            weights[0][:, :, :3] /= np.sqrt(IMAGENET_SCATTER)[:, None]
        ours.set_weights(weights)


def _weighted(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.weights]


def _widened(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Zeros for the weights of further input planes."""
    values = np.asarray(values)
    if values.shape == shape:
        return values
    return np.pad(values, [(0, n - have) for n, have in zip(shape, values.shape, strict=True)])


@keras.saving.register_keras_serializable("skygloss")
class Rings(layers.Layer):
    """Resample pictures on rings about their centre, so that a turn becomes a shift.

    (n, s, s, 3) becomes (n, rings, rays + 2 overlap, 4): the colours, and the light less that of
    the centre. Rings are close together near the centre; far out they are read from pictures binned
    2 or 4 times. The circle continues at both ends.
    """

    def __init__(self, rings: int = RINGS, rays: int = RAYS, overlap: int = OVERLAP, **kwargs: Any):
        super().__init__(**kwargs)
        self.rings, self.rays, self.overlap = rings, rays, overlap

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Work out where each sample is read."""
        index, weight = ring_samples(input_shape[1], self.rings, self.rays)
        self.index = index.reshape(-1)
        self.weight = weight.reshape(1, -1, 4, 1)

    def call(self, picture: Any) -> Any:
        """Resample; see the class."""
        half = ops.average_pool(picture, 2)
        quarter = ops.average_pool(half, 2)
        flat = [ops.reshape(p, (-1, p.shape[1] * p.shape[2], 3)) for p in (picture, half, quarter)]
        corners = ops.take(ops.concatenate(flat, axis=1), self.index, axis=1)
        corners = ops.reshape(corners, (-1, self.rings * self.rays, 4, 3))
        colour = ops.sum(corners * ops.cast(self.weight, corners.dtype), axis=2)
        colour = ops.reshape(colour, (-1, self.rings, self.rays, 3))
        light = ops.mean(colour, axis=-1, keepdims=True)
        core = max(1, self.rings * 3 // 32)
        centre = ops.mean(light[:, :core], axis=(1, 2), keepdims=True)
        x = ops.concatenate([colour, light - centre], axis=-1)
        return ops.concatenate(
            [x[:, :, self.rays - self.overlap :], x, x[:, :, : self.overlap]], axis=2
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, rings, rays + 2 overlap, 4)."""
        return (input_shape[0], self.rings, self.rays + 2 * self.overlap, 4)


@keras.saving.register_keras_serializable("skygloss")
class Views(layers.Layer):
    """Pictures as they are, mirrored, and both turned: (n, s, s, c) becomes (views n, s, s, c)."""

    def __init__(self, views: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.views = views

    def call(self, picture: Any, training: bool = False) -> Any:
        """View by view; in training one view only."""
        if training or self.views == 1:
            return picture
        turned = ops.transpose(picture, (0, 2, 1, 3))
        every = [picture, ops.flip(picture, axis=2), turned, ops.flip(turned, axis=2)]
        return ops.concatenate(every[: self.views], axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(any, s, s, c)."""
        return (None, *input_shape[1:])


@keras.saving.register_keras_serializable("skygloss")
class MeanOfViews(layers.Layer):
    """Undo `Views`: (views n, d) becomes the mean over the views, (n, d)."""

    def __init__(self, views: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.views = views

    def call(self, x: Any, training: bool = False) -> Any:
        """Average; see the class."""
        if training or self.views == 1:
            return x
        return ops.mean(ops.reshape(x, (self.views, -1, x.shape[-1])), axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(any, d)."""
        return (None, input_shape[-1])


VIEWS: dict[str, Callable[[Any], Any]] = {"picture": _as_it_is, "rings": _rings}
ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "efficientnetb0": efficientnetb0,
    "published": published,
}
