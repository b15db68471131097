from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.decomposition import IncrementalPCA

from models import labelled, registry, representations, retrieval, scores

LEGACY = Path(__file__).parents[3] / "shared/data/legacy_cutouts"
REDUCING = 1280 * 40 + 40  # parameters of the last layer


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return representations.build("efficientnetb0", view="rings")


@pytest.fixture(scope="module")
def published():
    keras.utils.set_random_seed(0)
    return representations.build("published")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), np.uint8)


def test_the_colour_form_has_the_published_number_of_parameters():
    model = representations.build("efficientnetb0")

    assert model.count_params() - REDUCING == 4_049_564 + 7  # 7 in the input normalisation


def test_the_published_form_has_the_published_number_of_parameters(published):
    assert published.count_params() - REDUCING == 4_048_988 + 3
    assert published.input_shape == (None, 424, 424, 3)


def test_pictures_become_embeddings_and_reduced_vectors(encoder, pictures):
    embedding, reduced = representations.encode(encoder, pictures, batch_size=2)

    assert (embedding.shape, reduced.shape) == ((3, 1280), (3, 40))
    assert embedding.dtype == reduced.dtype == np.float32
    alone = representations.encode(encoder, pictures[1:2])
    assert np.allclose(alone[0], embedding[1:2], atol=1e-4)


def test_no_picture_gives_no_vector(encoder):
    embedding, reduced = representations.encode(encoder, np.empty((0, 128, 128, 3), np.uint8))

    assert (embedding.shape, reduced.shape) == ((0, 1280), (0, 40))


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (128, 128, 3), (2, 128, 128, 4)])
def test_pictures_of_another_shape_are_refused(encoder, shape):
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        representations.encode(encoder, np.zeros(shape, np.uint8))


def test_unknown_encoders_and_views_are_named():
    with pytest.raises(ValueError, match="there are efficientnetb0, published"):
        representations.build("resnet")
    with pytest.raises(ValueError, match="picture or rings"):
        representations.build("efficientnetb0", view="squares")


def test_the_published_form_varies_pictures_in_training_only(published):
    picture = np.random.default_rng(1).uniform(0, 255, (1, 424, 424, 3)).astype(np.float32)
    crop = keras.Model(published.input, published.get_layer("center_crop").output)

    still = [np.asarray(crop(picture, training=False)) for _ in range(2)]
    varied = [np.asarray(crop(picture, training=True)) for _ in range(2)]

    assert still[0].shape == varied[0].shape == (1, 224, 224, 1)
    assert np.array_equal(*still)
    assert not np.array_equal(*varied)


def test_the_published_form_is_grey(published):
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 255, (1, 424, 424, 3), np.uint8)

    one, _ = representations.encode(published, picture)
    other, _ = representations.encode(published, picture[..., ::-1].copy())

    assert np.allclose(one, other, atol=1e-3)


def test_a_turned_picture_is_a_shifted_picture_on_rings():
    rng = np.random.default_rng(3)
    picture = rng.uniform(0, 255, (1, 128, 128, 3)).astype(np.float32)
    layer = representations.Rings(rings=16, rays=32, overlap=0)

    straight, turned = (np.asarray(layer(p)) for p in (picture, np.rot90(picture, axes=(1, 2))))

    assert straight.shape == (1, 16, 32, 4)
    assert np.allclose(turned[0], np.roll(straight[0], -8, axis=1), atol=0.02)


def test_the_circle_continues_at_both_ends():
    picture = np.random.default_rng(4).uniform(0, 255, (1, 128, 128, 3)).astype(np.float32)

    seen = np.asarray(representations.Rings(rings=8, rays=16, overlap=4)(picture))

    assert np.array_equal(seen[:, :, :4], seen[:, :, 16:20])
    assert np.array_equal(seen[:, :, -4:], seen[:, :, 4:8])


def test_the_last_layer_holds_the_principal_components(encoder, pictures):
    vectors = np.random.default_rng(5).normal(size=(60, 1280))
    fitted = IncrementalPCA(40).fit(vectors)

    representations.set_components(encoder, fitted.mean_, fitted.components_)
    embedding, reduced = representations.encode(encoder, pictures)

    assert np.allclose(reduced, fitted.transform(embedding), atol=1e-3)


def test_missing_components_are_zeros(encoder, pictures):
    vectors = np.random.default_rng(6).normal(size=(12, 1280))
    fitted = IncrementalPCA(5).fit(vectors)

    representations.set_components(encoder, fitted.mean_, fitted.components_)

    assert not representations.encode(encoder, pictures)[1][:, 5:].any()


def test_imagenet_weights_of_a_file_are_taken_over(encoder, tmp_path):
    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg")
    path = tmp_path / "theirs.weights.h5"
    theirs.save_weights(path)

    representations.load_imagenet(encoder, path)

    body = encoder.get_layer("body")
    stem, theirs_stem = (model.get_layer("stem_conv").get_weights()[0] for model in (body, theirs))
    scatter = np.sqrt([0.229, 0.224, 0.225])[:, None]
    assert np.allclose(stem[:, :, :3], theirs_stem / scatter, rtol=1e-5)
    assert not stem[:, :, 3].any()
    last = [model.get_layer("top_conv").get_weights()[0] for model in (body, theirs)]
    assert np.array_equal(*last)


def test_a_missing_or_wrong_file_of_imagenet_weights_is_explained(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        representations.load_imagenet(encoder, tmp_path / "none.h5")
    wrong = tmp_path / "wrong.weights.h5"
    wrong.write_text("no weights")
    with pytest.raises(ValueError, match="efficientnetb0_notop"):
        representations.load_imagenet(encoder, wrong)


def test_views_are_averaged_outside_training_only():
    picture = np.random.default_rng(7).uniform(0, 255, (2, 128, 128, 3)).astype(np.float32)
    views, mean = representations.Views(4), representations.MeanOfViews(4)

    every = np.asarray(views(picture, training=False))

    assert every.shape == (8, 128, 128, 3)
    assert np.array_equal(every[2:4], picture[:, :, ::-1])
    assert np.array_equal(np.asarray(views(picture, training=True)), picture)
    vectors = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    averaged = np.asarray(mean(vectors, training=False))
    assert np.array_equal(averaged[0], vectors[::2].mean(axis=0))
    assert np.array_equal(np.asarray(mean(vectors, training=True)), vectors)


def test_a_mirrored_picture_has_the_same_vector_where_both_views_are_averaged(pictures):
    model = representations.build("efficientnetb0", view="rings", views=2)

    straight, mirrored = (
        representations.encode(model, each)[0]
        for each in (pictures, np.ascontiguousarray(pictures[:, :, ::-1]))
    )

    assert np.allclose(straight, mirrored, atol=1e-3)


def test_an_unheard_of_number_of_views_is_refused():
    with pytest.raises(ValueError, match="1, 2 or 4"):
        representations.build("efficientnetb0", views=3)


@pytest.mark.legacy
@pytest.mark.skipif(not LEGACY.is_dir(), reason=f"no labelled cutouts at {LEGACY}")
def test_the_shipped_weights_put_cutouts_they_were_trained_on_beside_their_like():
    """Shows that weights, preprocessing and components fit; says nothing about accuracy."""
    data = labelled.read_folder(LEGACY)
    data = data.take(np.flatnonzero(data.decided)[:200])
    model = registry.load(registry.find("representations"))

    _, reduced = representations.encode(model, data.rgb)

    order = retrieval.ranked(reduced, data.group, "l1")
    share = retrieval.share_among(order, data.is_shred, data.decided)
    assert scores.auc(data.is_shred, share) > 0.97
    spread = reduced.std(axis=0)
    assert spread[:10].min() > spread[10:].max()  # the first ten are the published ten
