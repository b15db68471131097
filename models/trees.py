"""Boosted decision trees as a Keras layer, so that they live in one weights file with a network."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

DEPTH = 3  # questions asked on the way to a leaf
N_QUESTIONS, N_LEAVES = 2**DEPTH - 1, 2**DEPTH


@keras.saving.register_keras_serializable("skygloss")
class Trees(layers.Layer):
    """Log odds (n, 1) from numbers (n, f) by `count` trees of depth 3.

    Question k of a tree (0 is its root) leads to question 2 k + 1 when the number asked for is at
    most the threshold, else to 2 k + 2.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for the trees."""
        questions, leaves = (self.count, N_QUESTIONS), (self.count, N_LEAVES)
        self.column = self.add_weight(
            shape=questions, dtype="float32", trainable=False, name="column", initializer="zeros"
        )
        self.threshold = self.add_weight(
            shape=questions, dtype="float32", trainable=False, name="threshold", initializer="zeros"
        )
        self.leaf = self.add_weight(
            shape=leaves, dtype="float32", trainable=False, name="leaf", initializer="zeros"
        )
        self.start = self.add_weight(
            shape=(1,), dtype="float32", trainable=False, name="start", initializer="zeros"
        )

    def call(self, numbers: Any) -> Any:
        """Walk every tree; see the class."""
        column = ops.reshape(ops.cast(self.column, "int32"), (-1,))
        asked = ops.take(ops.cast(numbers, "float32"), column, axis=1)
        larger = ops.reshape(asked, (-1, self.count, N_QUESTIONS)) > self.threshold
        larger = ops.cast(larger, "float32")  # (n, count, questions)
        reached = [ops.ones_like(larger[..., 0])]
        for k in range(
            N_QUESTIONS
        ):  # (n, count) each: is question, or leaf, 2 k + 1 or + 2 reached
            reached += [reached[k] * (1 - larger[..., k]), reached[k] * larger[..., k]]
        at_leaf = ops.stack(reached[N_QUESTIONS:], axis=-1)  # (n, count, leaves)
        return ops.sum(at_leaf * self.leaf, axis=(1, 2))[:, None] + self.start

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return super().get_config() | {"count": self.count}
