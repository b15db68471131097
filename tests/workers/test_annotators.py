"""What every annotator keeps to; runs for each of ANNOTATORS, with the shipped weights."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from db.annotations import NO_PIXELS, result_columns
from db.cutouts import CutoutFlag
from db.histograms import Histograms
from db.tables import ModelVersion
from models import registry
from models.registry import Card
from tests.workers import tiny_blends
from tests.workers.fake import FakeAnnotator, fake_cards
from workers import device
from workers.annotators import ANNOTATORS
from workers.annotators.base import Annotator, CutoutBatch, DataFlag
from workers.annotators.cutouts import PictureFlag
from workers.annotators.light import LightAnnotator
from workers.annotators.shreds import PIXEL_SCALE, SIZE, Shreds

EVERY = [*ANNOTATORS, FakeAnnotator]
CELLS = 625  # of the shipped map of sources
RARE = ("FAR", "NOVEL")  # flags of what is unlike anything, as random numbers may well be
Batch = CutoutBatch | Histograms


@pytest.fixture(scope="module")
def loaded() -> dict[str, Annotator]:
    """Every annotator with its current weights."""
    cards = {annotator.name: registry.find(annotator.name) for annotator in ANNOTATORS}
    cards["fake"] = fake_cards("fake")[0]
    return {annotator.name: _load(annotator, cards[annotator.name]) for annotator in EVERY}


def _load(annotator: type[Annotator], card: Card) -> Annotator:
    instance = annotator(batch_size=4)
    instance.load(ModelVersion(annotator=annotator.name, card=card.as_dict()))
    return instance


def make_batch(annotator: type[Annotator], n: int = 5, **values: object) -> CutoutBatch:
    """Random readable cutouts, or pairs of galaxies, as the annotator likes them best."""
    inputs = annotator.inputs
    bands = inputs.bands or ("r",)
    shape = (n, inputs.size, inputs.size, len(bands))
    images: NDArray = np.random.default_rng(3).integers(1, 250, shape, np.uint8)
    if issubclass(annotator, LightAnnotator):
        pairs = [tiny_blends.cutout(14.0 + k, size=inputs.size, seed=k) for k in range(n)]
        images = np.array(pairs, np.float32).reshape(shape)
    defaults = {
        "source_ids": np.arange(n) + 100,
        "pixels": images,
        "readable": np.ones(n, bool),
        "cutout_flags": np.zeros(n, np.int32),
        "bands": bands,
        "pixel_scale": inputs.pixel_scale or 0.184,
        "unit": inputs.units[0],
    }
    return CutoutBatch(**(defaults | values))


def make_exposures(n: int = 5) -> Histograms:
    """Random histograms of exposures."""
    counts = np.random.default_rng(3).integers(0, 5, (n, CELLS)).astype(np.float32)
    return Histograms(np.arange(n) + 100, counts, counts.sum(axis=1).astype(int), np.ones(n))


def make(annotator: type[Annotator], n: int = 5) -> Batch:
    """What the annotator can judge without a doubt."""
    return make_exposures(n) if annotator.subject == "exposure" else make_batch(annotator, n)


def chosen(batch: Batch, rows: NDArray) -> Batch:
    per_row = [name for name, value in vars(batch).items() if isinstance(value, np.ndarray)]
    return replace(batch, **{name: getattr(batch, name)[rows] for name in per_row})


def without(batch: Batch, missing: NDArray) -> Batch:
    """The same batch without an image, or without a counted source, of some rows."""
    there = ~missing
    if isinstance(batch, Histograms):
        counts = batch.counts * there[:, None]
        return replace(batch, counts=counts, n_counted=batch.n_counted * there)
    flags = np.where(missing, int(CutoutFlag.NO_IMAGE), 0).astype(np.int32)
    pixels = batch.pixels * there[:, None, None, None]
    return replace(batch, pixels=pixels, readable=there, cutout_flags=flags)


@pytest.mark.parametrize("annotator", EVERY)
def test_outputs_are_columns_of_the_table_with_the_same_unit(annotator: type[Annotator]) -> None:
    outputs = {output.column: output for output in annotator.outputs}
    columns = annotator.table.__table__.columns

    assert {*outputs, "flags"} == set(result_columns(annotator.table))
    for name, output in outputs.items():
        assert output.description
        assert output.ucd
        comment = columns[name].comment or ""
        assert comment
        assert (f"[{output.unit}]" in comment) == bool(output.unit)


@pytest.mark.parametrize("annotator", EVERY)
def test_every_flag_is_one_bit_and_says_what_it_means(annotator: type[Annotator]) -> None:
    flags = list(annotator.flags)

    assert flags
    for flag in flags:
        assert isinstance(flag, DataFlag)
        assert int(flag).bit_count() == 1
        assert flag.note
    if annotator.subject == "source":
        shared = {flag.name: flag.value for flag in flags if flag & NO_PIXELS}
        assert shared.items() <= CutoutFlag.__members__.items()
    assert annotator.description({})["flags"] == {str(int(flag)): flag.note for flag in flags}


@pytest.mark.parametrize("annotator", EVERY)
def test_a_map_says_what_its_cells_are(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    found = loaded[annotator.name].prototypes()

    assert (found is not None) == ("cell_row" in result_columns(annotator.table))
    for values in found or ():
        assert values.ndim == 3
        assert np.isfinite(values).all()
        assert values.shape[:2] == found[0].shape[:2]


@pytest.mark.parametrize("annotator", EVERY)
def test_names_are_unique_words(annotator: type[Annotator]) -> None:
    names = [each.name for each in EVERY]

    assert names.count(annotator.name) == 1
    assert annotator.name.isidentifier()


@pytest.mark.parametrize("annotator", EVERY)
def test_rows_come_back_in_the_length_and_order_of_the_batch(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    batch = make(annotator)
    order = np.array([3, 0, 4, 1, 2])

    straight = loaded[annotator.name].annotate(batch)
    shuffled = loaded[annotator.name].annotate(chosen(batch, order))

    assert set(straight) == set(result_columns(annotator.table))
    assert straight["flags"].dtype == np.int32
    for name, values in straight.items():
        assert len(values) == len(batch)
        if values.dtype == object:
            assert shuffled[name].tolist() == values[order].tolist()
        else:
            np.testing.assert_allclose(shuffled[name], values[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("annotator", EVERY)
def test_the_same_batch_gives_the_same_values(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    batch = make(annotator)

    first, second = (loaded[annotator.name].annotate(batch) for _ in range(2))

    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


@pytest.mark.parametrize("annotator", EVERY)
def test_the_batch_is_left_as_it_was(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    batch = make(annotator)
    before = deepcopy(batch)

    loaded[annotator.name].annotate(batch)

    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(batch, name), value)


@pytest.mark.parametrize("annotator", EVERY)
def test_what_has_nothing_to_look_at_is_flagged_and_its_neighbours_are_not(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    n = 3
    missing = np.array([False, True, False])
    rare = sum(int(flag) for flag in annotator.flags if flag.name in RARE)

    columns = loaded[annotator.name].annotate(without(make(annotator, n), missing))

    assert ((columns["flags"] & ~rare != 0) == missing).all()
    for output in annotator.outputs:
        values = columns[output.column]
        is_null = np.equal(values, None) if values.dtype == object else np.isnan(values)
        assert (is_null.reshape(n, -1) == missing[:, None]).all()


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_an_empty_batch_gives_empty_columns(
    annotator: type[Annotator], loaded: dict[str, Annotator]
) -> None:
    columns = loaded[annotator.name].annotate(make(annotator, 0))

    assert all(len(values) == 0 for values in columns.values())


def test_shreds_never_has_more_pictures_at_once_than_a_call_takes(
    loaded: dict[str, Annotator], monkeypatch: pytest.MonkeyPatch
) -> None:
    shreds = loaded["shreds"]
    batch = make_batch(Shreds, 9)
    batch.cutout_flags[5] = int(CutoutFlag.PARTLY_OUTSIDE)
    predict, lengths = shreds._predict, []  # type: ignore[attr-defined]

    def watched(model: object, pictures: NDArray, batch_size: int) -> NDArray:
        lengths.append(len(pictures))
        return predict(model, pictures, batch_size)

    monkeypatch.setattr(shreds, "_predict", watched)
    monkeypatch.setattr("workers.annotators.cutouts.PART", 4)
    in_pieces = shreds.annotate(batch)
    monkeypatch.setattr("workers.annotators.cutouts.PART", 9)
    whole = shreds.annotate(batch)

    assert lengths == [4, 4, 1, 9]
    assert in_pieces["flags"].tolist() == whole["flags"].tolist()
    np.testing.assert_allclose(in_pieces["p_shred"], whole["p_shred"], rtol=1e-4, atol=1e-6)


def test_a_network_that_gives_no_number_is_an_error_and_not_a_silent_null() -> None:
    broken = _load(Shreds, registry.find("shreds"))
    last = broken._model.trainable_weights[-1]  # type: ignore[attr-defined]
    last.assign(np.full(last.shape, np.nan))

    with pytest.raises(FloatingPointError, match="2 of 2 sources, the first of them 100"):
        broken.annotate(make_batch(Shreds, 2))


def test_shreds_in_half_precision_says_nearly_the_same(
    loaded: dict[str, Annotator], flux: NDArray
) -> None:
    import keras

    device.prepare("mixed_float16")
    try:
        half = _load(Shreds, registry.find("shreds"))
    finally:
        keras.config.set_dtype_policy("float32")

    p_shred = half.annotate(flux_batch(flux))["p_shred"]

    model = half._model  # type: ignore[attr-defined]
    assert "float16" in {layer.compute_dtype for layer in model.layers}
    assert p_shred.dtype == np.float32
    assert p_shred == pytest.approx(annotate_shreds(loaded, flux_batch(flux))[0], abs=0.02)


def flux_batch(images: NDArray, **values: object) -> CutoutBatch:
    n = len(images)
    return make_batch(Shreds, n, pixels=images, unit="nanomaggy", bands=("g", "r", "z"), **values)


@pytest.fixture
def flux() -> NDArray[np.float32]:
    """A round galaxy in nanomaggies, shape (2, 128, 128, 3)."""
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    profile = np.exp(-np.hypot(x, y) / 8)[..., None] * np.array([0.2, 0.4, 0.6])
    noise = np.random.default_rng(5).normal(0, 0.003, (2, SIZE, SIZE, 3))
    return (profile + noise).astype(np.float32)


def annotate_shreds(loaded: dict[str, Annotator], batch: CutoutBatch) -> tuple[NDArray, NDArray]:
    columns = loaded["shreds"].annotate(batch)
    return columns["p_shred"], columns["flags"]


def test_shreds_judges_fluxes_without_a_flag(loaded: dict[str, Annotator], flux: NDArray) -> None:
    p_shred, flags = annotate_shreds(loaded, flux_batch(flux))

    assert flags.tolist() == [0, 0]
    assert (p_shred < 0.5).all()  # a lone round galaxy is no shred


def test_shreds_takes_pixels_without_a_value_for_sky_and_says_so(
    loaded: dict[str, Annotator], flux: NDArray
) -> None:
    flux[0, :20] = np.nan
    flux[1, :100] = np.inf

    p_shred, flags = annotate_shreds(loaded, flux_batch(flux))

    assert flags.tolist() == [
        PictureFlag.NOT_FINITE,
        PictureFlag.NOT_FINITE | PictureFlag.NO_SIGNAL,
    ]
    assert np.isnan(p_shred).tolist() == [False, True]


@pytest.mark.parametrize("level", [0.0, np.nan])
def test_shreds_says_nothing_about_an_image_without_signal(
    loaded: dict[str, Annotator], flux: NDArray, level: float
) -> None:
    flux[0] = level

    p_shred, flags = annotate_shreds(loaded, flux_batch(flux))

    assert flags[0] & PictureFlag.NO_SIGNAL
    assert np.isnan(p_shred).tolist() == [True, False]


def test_shreds_flags_a_field_that_is_cut_off(loaded: dict[str, Annotator], flux: NDArray) -> None:
    small = flux[:, 6:-6, 6:-6]
    outside = np.array([int(CutoutFlag.PARTLY_OUTSIDE), 0], np.int32)

    _, of_small = annotate_shreds(loaded, flux_batch(small))
    _, of_edge = annotate_shreds(loaded, flux_batch(flux, cutout_flags=outside))

    assert of_small.tolist() == [PictureFlag.PARTIAL] * 2
    assert of_edge.tolist() == [PictureFlag.PARTIAL, 0]


def test_shreds_resamples_other_scales_and_says_so(
    loaded: dict[str, Annotator], flux: NDArray
) -> None:
    fine = np.repeat(np.repeat(flux, 2, axis=1), 2, axis=2) / 4

    p_shred, flags = annotate_shreds(loaded, flux_batch(fine, pixel_scale=PIXEL_SCALE / 2))
    direct, _ = annotate_shreds(loaded, flux_batch(flux))

    assert flags.tolist() == [PictureFlag.RESAMPLED] * 2
    assert p_shred == pytest.approx(direct, abs=0.1)


def test_shreds_flags_what_the_store_could_not_read(loaded: dict[str, Annotator]) -> None:
    batch = make_batch(
        Shreds,
        2,
        readable=np.array([False, True]),
        cutout_flags=np.array([int(CutoutFlag.UNREADABLE), 0], np.int32),
    )

    p_shred, flags = annotate_shreds(loaded, batch)

    assert flags.tolist() == [PictureFlag.UNREADABLE, 0]
    assert np.isnan(p_shred).tolist() == [True, False]


def test_shreds_agrees_with_its_network_on_size_and_scale() -> None:
    from models import shreds

    assert (SIZE, PIXEL_SCALE) == (shreds.SIZE, shreds.PIXEL_SCALE)
