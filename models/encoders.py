"""Any encoder as arrays to arrays: the shipped ones, a Keras file, an ONNX file.

What pictures a file takes is described by a `Form`, since a file does not say; what it gives is
pooled to one vector and reduced to principal components (`models.reduction`). Which encoder there
is, and whether anybody uses it, is in the cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models import pixels, registry
from models.network_files import NETWORKS, EncoderError, Network, open_network, text
from models.reduction import Reduction

if TYPE_CHECKING:
    import keras

CHANNELS = ("rgb", "grey")
SCALES = {"0-255": (1.0, 0.0), "0-1": (1 / 255, 0.0), "-1-1": (1 / 127.5, -1.0)}  # factor, offset
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # mean, sigma; from 0-1
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
LAYOUTS = ("auto", "nchw", "nhwc")
POOLS = ("auto", "mean", "cls")
MAX_LENGTH = 16_000  # numbers that a halfvec can hold


class Encoder(Protocol):
    """What `load` gives."""

    def encode(
        self, pictures: NDArray[np.uint8], batch_size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embedding (n, d) and reduced vector (n, 40) of pictures (n, s, s, 3); n may be 0."""


@dataclass(frozen=True)
class Form:
    """What an encoder's file takes and gives, as its user describes it.

    Pictures are resized to `size` pixels, become grey if so wanted, and go from 0-255 to `scale`
    and `normalise`. `layout` and `pool` are found from shapes unless given, but tokens need a
    `pool`; `output` need be named only if the network has several.
    """

    size: int  # pixel
    channels: str = "rgb"  # or grey: the mean of the colours
    scale: str = "0-1"
    normalise: str = "none"
    layout: str = "auto"
    output: str = ""
    pool: str = "auto"

    def __post_init__(self) -> None:
        choices: dict[str, Sequence[str]] = {
            "channels": CHANNELS,
            "scale": list(SCALES),
            "normalise": list(NORMALISATIONS),
            "layout": LAYOUTS,
            "pool": POOLS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise EncoderError(
                    f"{name} must be {' or '.join(known)}, not {getattr(self, name)!r}"
                )
        if self.normalise != "none" and self.scale != "0-1":
            raise EncoderError(
                f"normalise {self.normalise} is for pixels from 0 to 1, but scale is {self.scale}"
            )

    def __str__(self) -> str:
        words = [f"{self.size} x {self.size} pixels", self.channels, self.scale]
        words += [f"normalised for {self.normalise}"] if self.normalise != "none" else []
        return ", ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """The form as plain values, ready for a card."""
        return asdict(self)


def load(card: registry.Card) -> Encoder:
    """Load the encoder of a card, after checking its files.

    Raises
    ------
    FileNotFoundError, registry.ChecksumError, EncoderError
    """
    if card.path.suffix not in NETWORKS:
        return Shipped(registry.load(card))
    registry.verify(card)
    described = dict(card.build)
    reduction = Reduction.load(Path(described.pop("reduction")), described.pop("reduction_sha256"))
    return FileEncoder(card.path, Form(**described), reduction)


class Shipped:
    """An encoder of `models.representations`, whose last layer is the reduction."""

    def __init__(self, model: keras.Model) -> None:
        from models import representations

        self._model = model
        self._encode = representations.encode

    def encode(
        self, pictures: NDArray[np.uint8], batch_size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Encoder`."""
        return self._encode(self._model, pictures, batch_size)


class FileEncoder:
    """An encoder from a Keras or ONNX file.

    Parameters
    ----------
    path : Path
    form : Form
    reduction : Reduction, optional
        Needed by `encode`, not by `embed`.

    Raises
    ------
    EncoderError
        The file cannot be read, or does not take or give what was described.
    """

    def __init__(self, path: Path, form: Form, reduction: Reduction | None = None) -> None:
        self.form = form
        self.reduction = reduction
        self.network = open_network(path)
        self.output = _output(self.network, form)
        self.is_channels_first = _is_channels_first(self.network, form)
        self._n_channels = _n_channels(self.network, form, self.is_channels_first)
        blank = np.zeros((1, form.size, form.size, 3), np.uint8)
        self.length = self._try(blank).shape[1]
        if self.length > MAX_LENGTH:
            raise EncoderError(
                f"vectors of {self.length} numbers are too long, {MAX_LENGTH} is the most: "
                "choose an output that is pooled"
            )

    def embed(self, pictures: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float32]:
        """Vector of each picture.

        Parameters
        ----------
        pictures : ndarray of uint8, shape (n, s, s, 3)
            As `pixels.to_rgb` makes them, beginning at the top.
        batch_size : int
            Pictures per call, unless the file has a number of its own.

        Returns
        -------
        ndarray of float32, shape (n, d)
        """
        step = self.network.input_shape[0] or batch_size
        parts = [np.empty((0, self.length), np.float32)]
        for start in range(0, len(pictures), step):
            parts.append(self._embed(pictures[start : start + step]))
        return np.concatenate(parts)

    def encode(
        self, pictures: NDArray[np.uint8], batch_size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Encoder`."""
        assert self.reduction is not None
        embedding = self.embed(pictures, batch_size)
        return embedding, self.reduction.apply(embedding)

    def _try(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed, with an error that says what the network wanted and what it got."""
        try:
            return self._embed(pictures)
        except EncoderError:
            raise
        except Exception as error:
            shape = text(self.network.input_shape)
            raise EncoderError(
                f"the network fails on pictures of {self.form}; its input is {shape}. It says: "
                f"{str(error).strip()}"
            ) from error

    def _embed(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = prepare(pictures, self.form)  # (n, s, s, c)
        if x.shape[-1] != self._n_channels:
            x = np.repeat(x, self._n_channels, axis=-1)
        if self.is_channels_first:
            x = np.moveaxis(x, -1, 1)  # (n, c, s, s)
        n, fixed = len(x), self.network.input_shape[0] or 0
        if n < fixed:
            x = np.concatenate([x, np.repeat(x[-1:], fixed - n, axis=0)])
        found = self.network.run(x.astype(self.network.input_type), self.output)[:n]
        return self._pooled(found).astype(np.float32)

    def _pooled(self, found: NDArray) -> NDArray:
        """One vector per picture from what the network gives."""
        pool = self.form.pool
        if found.ndim == 2:
            return found
        if found.ndim == 3 and pool == "auto":
            raise EncoderError(
                f"output {self.output!r} has shape {found.shape}, tokens, of which the first may "
                "or may not stand for the whole picture: say --pool cls to take it, or --pool mean"
            )
        if found.ndim == 3:  # (n, tokens, d)
            return found.mean(axis=1) if pool == "mean" else found[:, 0]
        if found.ndim == 4 and pool != "cls":
            return found.mean(axis=(2, 3) if self.is_channels_first else (1, 2))
        raise EncoderError(
            f"output {self.output!r} has shape {found.shape}, and pool {pool!r} makes no vector of "
            "it: it should be (n, d), (n, tokens, d) or a map of vectors. "
            f"{_listed(self.network)}"
        )


def prepare(pictures: NDArray[np.uint8], form: Form) -> NDArray[np.float32]:
    """Bring pictures to what a form describes.

    Parameters
    ----------
    pictures : ndarray of uint8, shape (n, s, s, 3)

    Returns
    -------
    ndarray of float32, shape (n, size, size, 3), or (n, size, size, 1) if grey
    """
    x = pixels.resize(pictures.astype(np.float32), form.size)
    if form.channels == "grey":
        x = x.mean(axis=-1, keepdims=True)
    factor, offset = SCALES[form.scale]
    mean, sigma = (np.array(each, np.float32) for each in NORMALISATIONS[form.normalise])
    if form.channels == "grey":
        mean, sigma = mean.mean(keepdims=True), sigma.mean(keepdims=True)
    return ((x * factor + offset - mean) / sigma).astype(np.float32)


def save_imagenet(path: Path, size: int) -> Form:
    """Save EfficientNetB0 with ImageNet weights, which Keras fetches, as a `.keras` file.

    Returns
    -------
    Form
        What it takes: pixels from 0 to 255, which it scales itself.

    Raises
    ------
    EncoderError
        The weights cannot be fetched.
    """
    import keras

    try:
        model = keras.applications.EfficientNetB0(
            include_top=False, weights="imagenet", input_shape=(size, size, 3), pooling="avg"
        )
    except Exception as error:
        raise EncoderError(
            f"the ImageNet weights are not on this machine and could not be fetched: {error}. "
            "Try again on a machine that is online, and bring the file it registers here"
        ) from error
    model.save(path)
    return Form(size, scale="0-255")


def _output(network: Network, form: Form) -> str:
    if form.output in network.outputs:
        return form.output
    if not form.output and len(network.outputs) == 1:
        return next(iter(network.outputs))
    wanted = f"has no output {form.output!r}" if form.output else "has several outputs"
    raise EncoderError(f"the network {wanted}: choose one with --output. {_listed(network)}")


def _is_channels_first(network: Network, form: Form) -> bool:
    """Whether pictures are (n, c, h, w) rather than (n, h, w, c)."""
    shape = network.input_shape
    if len(shape) != 4:
        raise EncoderError(
            f"input {network.input_name!r} has shape {text(shape)}: an encoder takes pictures of "
            "shape (n, c, h, w) or (n, h, w, c)"
        )
    if form.layout != "auto":
        return form.layout == "nchw"
    first, last = (shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        raise EncoderError(
            f"input {network.input_name!r} has shape {text(shape)}, from which the place of the "
            "channels does not follow: say --layout nchw or --layout nhwc"
        )
    return first


def _n_channels(network: Network, form: Form, is_channels_first: bool) -> int:
    """Channels that the network takes; that the sizes agree is checked too."""
    shape = network.input_shape
    n, *sides = (shape[axis] for axis in ((1, 2, 3) if is_channels_first else (3, 1, 2)))
    described = 1 if form.channels == "grey" else 3
    n = n or described
    if any(side not in (None, form.size) for side in sides) or n not in {described, 3}:
        raise EncoderError(
            f"input {network.input_name!r} has shape {text(shape)}, but the pictures were "
            f"described as {form} ({described} channels): adapt --size, --channels or --layout"
        )
    return n


def _listed(network: Network) -> str:
    each = ", ".join(f"{name} {text(shape)}" for name, shape in network.outputs.items())
    return f"Its outputs are: {each}"
