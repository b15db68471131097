"""Encoders in files: what they take, what they give, and what is wrong with others."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models import encoders, network_files, registry
from models.encoders import FileEncoder, Form
from models.network_files import EncoderError
from models.reduction import N_COMPONENTS, Reduction
from models.registry import Card
from tests.encoders import GRID, SIZE, make_card, move_weights_out, write_keras, write_onnx


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 255, (5, SIZE, SIZE, 3), np.uint8)


def means(pictures: NDArray) -> NDArray[np.float32]:
    """The mean of each part by channel, (n, 4, 4, 3), from 0 to 1."""
    part = SIZE // GRID
    parts = pictures.reshape(len(pictures), GRID, part, GRID, part, 3)
    return (parts.astype(np.float32) / 255).mean(axis=(2, 4))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_an_onnx_encoder_says_the_same_in_every_layout_and_batch(
    tmp_path: Path, pictures: NDArray, layout: str, batch: int | str
) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", layout, batch=batch)

    found = FileEncoder(path, Form(SIZE)).embed(pictures, batch_size=2)

    assert found.dtype == np.float32
    assert found == pytest.approx(np.moveaxis(means(pictures), 3, 1).reshape(5, -1), abs=1e-6)


def test_a_keras_file_is_an_encoder_too(tmp_path: Path, pictures: NDArray) -> None:
    path = write_keras(tmp_path / "tiny.keras")

    found = FileEncoder(path, Form(SIZE)).embed(pictures, batch_size=2)

    assert found == pytest.approx(means(pictures).reshape(5, -1), abs=1e-6)


def test_no_pictures_give_no_vectors(tmp_path: Path, pictures: NDArray) -> None:
    path = write_onnx(tmp_path / "tiny.onnx")

    assert FileEncoder(path, Form(SIZE)).embed(pictures[:0]).shape == (0, 48)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_map_of_vectors_is_averaged(tmp_path: Path, pictures: NDArray, layout: str) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", layout, head="map")

    found = FileEncoder(path, Form(SIZE)).embed(pictures)

    assert found == pytest.approx(means(pictures).mean(axis=(1, 2)), abs=1e-6)


def test_of_tokens_the_first_is_taken_or_their_mean(tmp_path: Path, pictures: NDArray) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", head="tokens")

    first = FileEncoder(path, Form(SIZE, pool="cls")).embed(pictures)
    mean = FileEncoder(path, Form(SIZE, pool="mean")).embed(pictures)

    assert first == pytest.approx(means(pictures)[:, 0, 0], abs=1e-6)
    assert mean == pytest.approx(means(pictures).mean(axis=(1, 2)), abs=1e-6)


def test_grey_is_the_mean_of_the_colours(tmp_path: Path, pictures: NDArray) -> None:
    form = Form(SIZE, channels="grey")
    one = FileEncoder(write_onnx(tmp_path / "one.onnx", channels=1), form)
    three = FileEncoder(write_onnx(tmp_path / "three.onnx"), form)
    expected = means(pictures).mean(axis=3).reshape(5, -1)

    assert one.embed(pictures) == pytest.approx(expected, abs=1e-6)
    assert three.embed(pictures) == pytest.approx(np.tile(expected, 3), abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "normalise", "expected"),
    [
        ("0-255", "none", [0, 51, 255]),
        ("0-1", "none", [0, 0.2, 1]),
        ("-1-1", "none", [-1, -0.6, 1]),
        ("0-1", "imagenet", [-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    ],
)
def test_pixels_are_brought_to_the_range_described(
    scale: str, normalise: str, expected: list[float]
) -> None:
    picture = np.full((1, 4, 4, 3), [0, 51, 255], np.uint8)

    found = encoders.prepare(picture, Form(4, scale=scale, normalise=normalise))

    assert found.dtype == np.float32
    assert found[0, 2, 3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [7, 24, 60])
def test_pictures_are_resized_without_moving_or_dimming_what_they_show(size: int) -> None:
    y, x = np.indices((24, 24)) - 11.5
    blob = 200 * np.exp(-(np.hypot(x - 3, y + 2) ** 2) / 50)
    picture = np.repeat(blob[None, ..., None], 3, axis=-1).astype(np.uint8)

    found = encoders.prepare(picture, Form(size, scale="0-255"))[0, ..., 0]
    flat = encoders.prepare(np.full((1, 24, 24, 3), 77, np.uint8), Form(size, scale="0-255"))

    grid = (np.arange(size) - (size - 1) / 2) * 24 / size
    assert (found.sum(0) * grid).sum() / found.sum() == pytest.approx(2.5, abs=0.3)
    assert (found.sum(1) * grid).sum() / found.sum() == pytest.approx(-1.6, abs=0.3)
    assert found.mean() == pytest.approx(picture.mean(), rel=0.02)
    assert flat == pytest.approx(np.full_like(flat, 77), abs=1e-3)


@pytest.mark.parametrize(
    ("written", "form", "message"),
    [
        ({"channels": 1}, Form(SIZE), r"has shape \(any, 1, 16, 16\), but .* rgb, 0-1 \(3 channel"),
        ({"channels": 4}, Form(SIZE, layout="nchw"), r"\(any, 4, 16, 16\), but the pictures were"),
        ({}, Form(32), r"has shape \(any, 3, 16, 16\), but the pictures were described as 32 x 32"),
        ({"channels": 4}, Form(SIZE), "say --layout nchw or --layout nhwc"),
        ({"head": "both"}, Form(SIZE), r"choose one with --output\. Its outputs are: vector \("),
        ({"head": "tokens"}, Form(SIZE), r"\(1, 16, 3\), tokens, .* say --pool cls .* --pool mean"),
        ({}, Form(SIZE, output="pooled"), "has no output 'pooled'"),
        (
            {"head": "map"},
            Form(SIZE, pool="cls"),
            r"has shape \(1, 3, 4, 4\), and pool 'cls' makes",
        ),
    ],
)
def test_a_file_that_was_described_wrongly_is_refused(
    tmp_path: Path, written: dict[str, object], form: Form, message: str
) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", **written)  # type: ignore[arg-type]

    with pytest.raises(EncoderError, match=message):
        FileEncoder(path, form)


def test_an_output_can_be_chosen_by_name(tmp_path: Path, pictures: NDArray) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", head="both")

    assert FileEncoder(path, Form(SIZE, output="map")).embed(pictures).shape == (5, 3)


def test_a_picture_that_the_network_fails_on_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "tiny.onnx", size="side")

    with pytest.raises(EncoderError, match=r"fails on pictures of 2 x 2 .* \(any, 3, any, any\)"):
        FileEncoder(path, Form(2))


@pytest.mark.parametrize("name", ["broken.onnx", "broken.keras"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not a network")

    with pytest.raises(EncoderError, match=f"cannot.* read.*{name}|{name} cannot be read"):
        network_files.open_network(path)


def test_weights_in_a_second_file_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx(tmp_path / "tiny.onnx")
    moved = move_weights_out(path)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(EncoderError, match="export again with external_data=False"):
        network_files.open_network(path)
    assert moved.is_file()


def test_files_of_other_kinds_and_missing_files_are_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "encoder.pt"
    pickle.write_bytes(b"")

    with pytest.raises(EncoderError, match=r"ends in \.onnx or \.keras, not encoder\.pt"):
        network_files.open_network(pickle)
    with pytest.raises(EncoderError, match="there is no file"):
        network_files.open_network(tmp_path / "missing.onnx")


def test_code_in_a_keras_file_is_not_run(tmp_path: Path) -> None:
    import keras

    picture = keras.Input((SIZE, SIZE, 3))
    lazy = keras.layers.Lambda(lambda x: keras.ops.mean(x, axis=(1, 2)), output_shape=(3,))
    keras.Model(picture, lazy(picture)).save(tmp_path / "lambda.keras")

    with pytest.raises(EncoderError, match=r"lambda\.keras cannot be read: .*[Ll]ambda"):
        network_files.open_network(tmp_path / "lambda.keras")


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"scale": "0-2"}, "scale must be 0-255 or 0-1 or -1-1, not '0-2'"),
        ({"channels": "ugriz"}, "channels must be rgb or grey"),
        ({"normalise": "imagenet", "scale": "0-255"}, "is for pixels from 0 to 1"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    described: dict[str, str], message: str
) -> None:
    with pytest.raises(EncoderError, match=message):
        Form(SIZE, **described)  # type: ignore[arg-type]


def test_an_encoder_is_loaded_by_its_card(tmp_path: Path, pictures: NDArray) -> None:
    card = make_card(tmp_path)

    embedding, reduced = encoders.load(card).encode(pictures, batch_size=2)

    assert embedding.shape == (5, 48)
    assert reduced.shape == (5, N_COMPONENTS)


def test_an_encoder_that_ships_is_loaded_by_its_card_too(tmp_path: Path) -> None:
    from models import representations

    weights = tmp_path / "representations-efficientnetb0.test.weights.h5"
    representations.build("efficientnetb0", size=32).save_weights(weights)
    name, sha256 = "efficientnetb0.test", registry.sha256(weights)
    card = Card("representations", name, str(weights), sha256, build={"size": 32})
    pictures = np.random.default_rng(1).integers(0, 255, (2, 32, 32, 3), np.uint8)

    embedding, reduced = encoders.load(card).encode(pictures, batch_size=2)

    assert (embedding.shape, reduced.shape) == ((2, 1280), (2, N_COMPONENTS))


def test_the_components_are_orthogonal_and_ordered_and_keep_the_distances() -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 60)) + 3).astype(np.float32)

    reduction = Reduction.fit(vectors)
    reduced = reduction.apply(vectors)

    assert reduced.shape == (500, N_COMPONENTS)
    assert (np.diff(reduction.explained[:6]) <= 0).all()
    assert reduction.explained.sum() == pytest.approx(1, abs=1e-3)
    between = np.linalg.norm(vectors[0] - vectors[1:], axis=1)
    assert np.linalg.norm(reduced[0] - reduced[1:], axis=1) == pytest.approx(between, rel=1e-3)


def test_short_vectors_are_filled_up_with_zeros(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
    reduction = Reduction.fit(vectors)
    path = tmp_path / "components.npz"

    again = Reduction.load(path, reduction.save(path))
    reduced = again.apply(vectors)

    assert reduced.shape == (50, N_COMPONENTS)
    assert (reduced[:, 3:] == 0).all()
    assert np.linalg.norm(reduced, axis=1) == pytest.approx(
        np.linalg.norm(vectors - vectors.mean(axis=0), axis=1), rel=1e-4
    )


def test_imagenet_weights_that_cannot_be_fetched_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_arguments: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    with pytest.raises(EncoderError, match=r"could not be fetched.*online"):
        encoders.save_imagenet(tmp_path / "imagenet.keras", 32)
