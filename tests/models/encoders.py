"""A tiny encoder and tiny data, for the tests of training and of evaluation."""

import keras
import numpy as np
from keras import layers

from models import representations
from models.labelled import Labelled
from models.questions import columns
from models.training.representations import Preset, Sky

TINY = Preset("tiny", rounds_simulated=2, rounds_real=1, n_simulated=4)


def tiny() -> keras.Model:
    """An encoder with the layers that training and evaluation know by name."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    body = keras.Model(inputs, layers.Dense(representations.LENGTH)(x), name="body")
    picture = keras.Input((128, 128, 3), name="picture")
    embedding = layers.Activation("linear", name="embedding")(
        body(layers.AveragePooling2D(8)(picture))
    )
    reduced = layers.Dense(representations.N_COMPONENTS, name="reduced")(embedding)
    return keras.Model(picture, [embedding, reduced], name="tiny")


def labelled_discs(n: int) -> Labelled:
    """Discs that are centred (smooth galaxies) or not (spiral shreds), each its own group."""
    rng = np.random.default_rng(n)
    rows, across = np.mgrid[0:128, 0:128]
    is_shred = np.arange(n) % 2 == 1
    pictures = []
    for shred in is_shred:
        turn, away = rng.uniform(0, 2 * np.pi), 22.0 * shred
        x, y = 63.5 + away * np.cos(turn), 63.5 + away * np.sin(turn)
        light = 32 + 150 * np.exp(-np.hypot(across - x, rows - y) / rng.uniform(5, 9))
        pictures.append(np.clip(light, 0, 255).astype(np.uint8)[..., None].repeat(3, -1))
    tags = np.where(is_shred, "spiral|crowded", "smooth")
    return Labelled(
        rgb=np.stack(pictures),
        label=np.where(is_shred, "shred", "galaxy").astype("U8"),
        group=np.arange(n),
        survey_id=np.arange(n) + 1000,
        sha256="0" * 64,
        tags=tags.astype("U40"),
        tags_any=tags.astype("U40"),
    )


def random_sky(n: int) -> Sky:
    """Noise with votes."""
    rng = np.random.default_rng(n)
    return Sky(
        rng.integers(20, 90, (n, 128, 128, 3), np.uint8),
        rng.integers(0, 9, (n, len(columns()))).astype(np.int16),
    )
