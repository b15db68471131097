"""Networks in files, of Keras and of ONNX: what they take and give, and running them.

What the pictures mean to them is the business of `models.encoders`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ONNX_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

Shape = tuple[int | None, ...]  # None where any number will do


class EncoderError(ValueError):
    """An encoder's file cannot be used, or not as it was described; the message says why."""


class Network(Protocol):
    """A network as its file has it: one picture batch in, named outputs out."""

    input_name: str
    input_shape: Shape
    input_type: type[np.generic]
    outputs: dict[str, Shape]

    def run(self, x: NDArray, output: str) -> NDArray:
        """One output for a batch."""


def open_network(path: Path) -> Network:
    """Open a network's file by its kind.

    Raises
    ------
    EncoderError
        No such file, none of these kinds, or it cannot be read.
    """
    if not path.is_file():
        raise EncoderError(f"there is no file {path}")
    if path.suffix not in NETWORKS:
        raise EncoderError(
            f"an encoder is a file that ends in {' or '.join(NETWORKS)}, not {path.name}"
        )
    try:
        return NETWORKS[path.suffix](path)
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"{path.name} cannot be read: {str(error).strip() or type(error).__name__}"
        ) from error


class OnnxNetwork:
    """A network in one ONNX file, run by ONNX Runtime on a GPU if it can.

    Weights that the file says are in a second one are never read: its SHA-256 does not cover them.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _n_threads()  # by itself it counts cores it may not use
        options.log_severity_level = 3  # errors; they are raised too
        options.add_session_config_entry(WEIGHTS_FOLDER, str(path.absolute()))  # none: it is a file
        there = onnxruntime.get_available_providers()
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=[each for each in PROVIDERS if each in there]
            )
        except Exception as error:
            raise EncoderError(
                f"ONNX Runtime cannot read {path.name}: {str(error).strip()}. Is it whole, and in "
                "one file? (Weights in a second file: export again with external_data=False)"
            ) from error
        given = self._session.get_inputs()
        if len(given) != 1:
            names = ", ".join(each.name for each in given) or "none"
            raise EncoderError(
                f"an encoder takes one input, a picture; the inputs of {path.name} are: {names}"
            )
        self.input_name = given[0].name
        self.input_shape: Shape = _known(given[0].shape)
        if given[0].type not in ONNX_TYPES:
            raise EncoderError(
                f"input {self.input_name!r} is a {given[0].type}; pictures can be "
                f"{' or '.join(ONNX_TYPES)}"
            )
        self.input_type = ONNX_TYPES[given[0].type]
        self.outputs = {each.name: _known(each.shape) for each in self._session.get_outputs()}

    def run(self, x: NDArray, output: str) -> NDArray:
        """See `Network`."""
        return np.asarray(self._session.run([output], {self.input_name: x})[0])


class KerasNetwork:
    """A network in a `.keras` file, without the code that such a file may hold."""

    input_type: type[np.generic] = np.float32

    def __init__(self, path: Path) -> None:
        import keras

        self._model = keras.saving.load_model(path, compile=False, safe_mode=True)
        if len(self._model.inputs) != 1:
            raise EncoderError(
                f"an encoder takes one input, a picture; {path.name} has {len(self._model.inputs)}"
            )
        self.input_name = self._model.inputs[0].name
        self.input_shape: Shape = tuple(self._model.inputs[0].shape)
        shapes = (tuple(each.shape) for each in self._model.outputs)
        self.outputs: dict[str, Shape] = dict(zip(self._model.output_names, shapes, strict=True))

    def run(self, x: NDArray, output: str) -> NDArray:
        """See `Network`."""
        found = self._model.predict_on_batch(x)
        if len(self.outputs) > 1:
            found = (
                found[output]
                if isinstance(found, dict)
                else found[list(self.outputs).index(output)]
            )
        return np.asarray(found)


NETWORKS: dict[str, type[OnnxNetwork | KerasNetwork]] = {
    ".onnx": OnnxNetwork,
    ".keras": KerasNetwork,
}


def text(shape: Shape) -> str:
    """A shape in words."""
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _known(shape: Sequence[Any]) -> Shape:
    """A shape of ONNX, whose free axes have a name or nothing."""
    return tuple(each if isinstance(each, int) and each > 0 else None for each in shape)


def _n_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
