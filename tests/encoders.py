"""Tiny encoders in files, made by the test: they say how bright the parts of a picture are."""

from pathlib import Path
from typing import Any

import numpy as np

from models import registry
from models.encoders import FileEncoder, Form
from models.reduction import Reduction
from models.registry import Card

SIZE = 16  # pixel
GRID = 4  # a picture is cut into 4 x 4 parts


def write_onnx(
    path: Path,
    layout: str = "nchw",
    channels: int = 3,
    batch: int | str = "n",
    head: str = "vector",
    factor: float = 1.0,
    size: int | str = SIZE,
) -> Path:
    """Write an encoder whose output is (n, 48) for colours: the means of the parts, by channel.

    `head` may be `map`, shape (n, c, 4, 4) or (n, 4, 4, c), `tokens`, shape (n, 16, c), or `both`
    vector and map. Every number is multiplied by `factor`.
    """
    from onnx import TensorProto, checker, helper, save

    first = layout == "nchw"
    shape = [batch, channels, size, size] if first else [batch, size, size, channels]
    node = helper.make_node
    pooling = {"kernel_shape": [SIZE // GRID] * 2, "strides": [SIZE // GRID] * 2}
    nodes = [
        node("Transpose", ["picture"], ["planes"], perm=[0, 1, 2, 3] if first else [0, 3, 1, 2]),
        node("AveragePool", ["planes"], ["means"], **pooling),
        node("Mul", ["means", "factor"], ["scaled"]),
        node("Flatten", ["scaled"], ["vector"], axis=1),
        node("Transpose", ["scaled"], ["map"], perm=[0, 1, 2, 3] if first else [0, 2, 3, 1]),
        node("Reshape", ["scaled", "joined"], ["lines"]),
        node("Transpose", ["lines"], ["tokens"], perm=[0, 2, 1]),
    ]
    constants = [
        helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor]),
        helper.make_tensor("joined", TensorProto.INT64, [3], [0, 0, GRID * GRID]),
    ]
    names = ["vector", "map"] if head == "both" else [head]
    axes = {"vector": 2, "map": 4, "tokens": 3}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * axes[name])
        for name in names
    ]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)
    return path


def move_weights_out(path: Path) -> Path:
    """Take the weights of an ONNX file out of it; the second file, beside it, that holds them."""
    from onnx import load, numpy_helper, save

    model = load(path)
    for weights in model.graph.initializer:
        if weights.name == "factor":
            weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights), "factor"))
    moved = path.with_suffix(".data")
    options = {"save_as_external_data": True, "size_threshold": 0, "location": moved.name}
    save(model, path, **options)
    return moved


def write_keras(path: Path, channels: int = 3) -> Path:
    """Write an encoder in Keras' format with the same output, the channels of a part together."""
    import keras

    picture = keras.Input((SIZE, SIZE, channels), name="picture")
    means = keras.layers.AveragePooling2D(SIZE // GRID)(picture)
    keras.Model(picture, keras.layers.Flatten()(means)).save(path)
    return path


def make_card(folder: Path, name: str = "tiny.test", **values: Any) -> Card:
    """The card of a tiny ONNX encoder that was registered, its files in a folder."""
    path = write_onnx(folder / f"{name}.onnx", **values)
    form = Form(SIZE)
    random = np.random.default_rng(0).integers(0, 255, (100, SIZE, SIZE, 3), np.uint8)
    reduction = Reduction.fit(FileEncoder(path, form).embed(random))
    reduced = folder / f"{name}.npz"
    described = {"reduction": str(reduced), "reduction_sha256": reduction.save(reduced)}
    return Card(
        "representations",
        name,
        str(path.absolute()),
        registry.sha256(path),
        inputs={"bands": ["z", "r", "g"], "size": SIZE, "pixel_scale": 0.262, "unit": "display"},
        build={**form.as_dict(), **described},
    )
