import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from models import desom, registry

ROOT = Path(__file__).parents[2]
SMALL = {"filters": [4, 4, 4], "latent": 6, "grid": [4, 5]}


@pytest.fixture(scope="module")
def small():
    return desom.build("desom1", **SMALL)


@pytest.fixture
def cutouts():
    """Stars of growing brightness on a noisy sky, uint16 [adu]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-16:16, -16:16]
    star = np.exp(-(x**2 + y**2) / 8)
    flux = np.geomspace(50, 20_000, 7)[:, None, None]
    return (rng.normal(1200, 10, (7, 32, 32)) + flux * star).astype(np.uint16)[..., None]


def _scaled(cutouts, kind="noise"):
    layer = desom.CutoutScale(kind)
    return ops.convert_to_numpy(layer(cutouts.astype(np.float32)))[..., 0]


def test_the_map_of_cutouts_has_the_published_size():
    model = desom.build("desom1")

    assert model.encoder.count_params() + model.decoder.count_params() == 477_217
    assert desom.prototypes(model).shape == (25, 25, 160)
    assert desom.prototypes(model).size == 100_000
    assert model.decoder.output_shape == (None, 32, 32, 1)


def test_the_map_of_exposures_has_the_size_that_the_papers_widths_leave_open():
    model = desom.build("desom2", form="counts")

    assert model.encoder.count_params() + model.decoder.count_params() == 1_137_635
    assert desom.prototypes(model).shape == (20, 20, 10)
    assert desom.prototypes(model).size == 4_000


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="desom1, desom2"):
        desom.build("som")


def test_grid_distances_are_sums_of_row_and_column_differences():
    apart = desom.grid_distance(25, 25)

    row, column = np.divmod(np.arange(625), 25)
    for i, j in ((0, 624), (26, 50), (24, 25), (300, 337)):
        assert apart[i, j] == abs(row[i] - row[j]) + abs(column[i] - column[j])
    assert np.array_equal(apart, apart.T)


def test_the_published_slip_in_grid_distances_is_not_repeated():
    i, j = np.mgrid[0:625, 0:625]
    slipped = np.abs(i - j) // 25 + np.abs(i % 25 - j % 25)

    wrong = slipped != desom.grid_distance(25, 25)

    assert wrong.mean() == pytest.approx(0.46, abs=0.01)
    assert not wrong[0].any()  # from a corner both differences have one sign


def test_every_input_gets_its_nearest_prototype_and_the_margin_to_the_second(small, cutouts):
    placed = desom.place(small, cutouts)

    flat = desom.prototypes(small).reshape(20, 6)
    distance = np.linalg.norm(placed.latent[:, None] - flat, axis=-1)
    two = np.sort(distance, axis=1)[:, :2]
    assert np.array_equal(placed.cell_row * 5 + placed.cell_column, distance.argmin(axis=1))
    assert placed.quantization_error == pytest.approx(two[:, 0], abs=1e-3)
    assert placed.margin == pytest.approx(two[:, 1] - two[:, 0], abs=1e-3)
    assert placed.cell_row.dtype == placed.cell_column.dtype == np.int16
    assert placed.quantization_error.dtype == placed.latent.dtype == np.float32


def test_where_an_input_lies_does_not_depend_on_the_others(small, cutouts):
    together, by_threes = desom.place(small, cutouts), desom.place(small, cutouts, batch_size=3)
    alone = desom.place(small, cutouts[4:5])

    assert np.allclose(together.latent, by_threes.latent, atol=1e-5)
    assert np.allclose(together.latent[4], alone.latent[0], atol=1e-5)


def test_no_inputs_are_placed_nowhere(small):
    placed = desom.place(small, np.empty((0, 32, 32, 1), np.uint16))

    assert placed.cell_row.shape == placed.novel.shape == (0,)
    assert placed.latent.shape == (0, 6)


def test_inputs_of_another_shape_are_refused(small):
    with pytest.raises(ValueError, match=r"shape \(n, 32, 32, 1\), not \(2, 28, 28, 1\)"):
        desom.place(small, np.zeros((2, 28, 28, 1)))


def test_what_is_farther_than_the_map_reaches_is_novel(small, cutouts):
    error = desom.place(small, cutouts).quantization_error
    small.cells.reach.assign(np.sort(error)[-2] + 1e-4)

    assert desom.place(small, cutouts).novel.tolist() == (error == error.max()).tolist()


@pytest.mark.parametrize("kind", ["noise", "range"])
def test_gain_offset_and_type_of_the_pixels_change_nothing(cutouts, kind):
    other = cutouts.astype(np.float32) * 1.7 - 300

    assert np.allclose(_scaled(cutouts, kind), _scaled(other, kind), atol=1e-3)


@pytest.mark.parametrize("kind", ["noise", "range"])
def test_scaled_pixels_are_between_0_and_1_whatever_comes(kind):
    wild = np.zeros((4, 32, 32, 1), np.float32)
    wild[1] = np.nan
    wild[2, 3, 3] = 1e9
    wild[3] = np.random.default_rng(0).normal(0, 1e6, (32, 32, 1))
    wild[3, :5] = np.inf

    scaled = _scaled(wild, kind)

    assert np.isfinite(scaled).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert np.ptp(scaled[:2]) == 0


def test_pixels_without_value_look_like_background(cutouts):
    broken = cutouts.astype(np.float32)
    broken[:, :2] = np.nan

    difference = np.abs(_scaled(broken) - _scaled(cutouts))

    assert difference[:, 2:].max() < 0.03


def test_signal_to_noise_stays_visible_in_units_of_the_noise(cutouts):
    peaks = _scaled(cutouts)[:, 16, 16]

    assert np.all(np.diff(peaks) > 0.05)
    assert _scaled(cutouts, "range")[2:, 16, 16] == pytest.approx(1, abs=0.2)


def test_the_published_form_of_counts_is_scaled_cell_by_cell():
    counts = np.random.default_rng(0).integers(0, 9, (50, 16)).astype(np.float32)
    layer = desom.CountScale("counts", 16)
    layer.fit(counts)

    scaled = ops.convert_to_numpy(layer(counts))

    assert np.allclose(scaled.min(axis=0), 0)
    assert np.allclose(scaled.max(axis=0), 1)


def test_shares_keep_the_number_of_sources_apart_from_their_kinds():
    counts = np.random.default_rng(0).integers(1, 9, (5, 16)).astype(np.float32)
    layer = desom.CountScale("shares", 16)

    few, many = (ops.convert_to_numpy(layer.components(k * counts)) for k in (1, 10))

    assert np.allclose(few[:, :-1], many[:, :-1], atol=1e-6)
    assert np.all(many[:, -1] > few[:, -1])


def test_neighbouring_cells_share_what_falls_into_one_of_them():
    layer = desom.CountScale("shares", 25)
    counts = np.zeros((2, 25), np.float32)
    counts[0, 12] = counts[1, 0] = 50  # in the middle, and in a corner

    shares = ops.convert_to_numpy(layer.components(counts))[:, :-1] ** 2

    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert shares[0].reshape(5, 5)[2, 1] == pytest.approx(shares[0, 12] * np.exp(-0.5), rel=1e-4)
    assert shares[1].argmax() == 0


def test_the_scaling_of_shares_is_undone_to_show_them():
    counts = np.random.default_rng(0).poisson(3, (40, 25)).astype(np.float32)
    layer = desom.CountScale("shares", 25)
    layer.fit(counts)

    shown = layer.shares(ops.convert_to_numpy(layer(counts)))

    expected = counts / counts.sum(axis=1, keepdims=True) @ desom.neighbourhood(25)
    assert np.allclose(shown, expected / expected.max(axis=1, keepdims=True), atol=1e-4)


def test_a_cell_that_was_always_empty_stays_finite():
    counts = np.zeros((5, 16), np.float32)
    layer = desom.CountScale("counts", 16)
    layer.fit(counts)

    assert np.isfinite(ops.convert_to_numpy(layer(counts + 3))).all()


def test_prototypes_are_shown_as_pictures_and_histograms(small):
    exposures = desom.build("desom2", widths=[8, 8], grid=[3, 4])

    assert desom.decoded(small).shape == (4, 5, 1024)
    shown = desom.decoded(exposures)
    assert shown.shape == (3, 4, 625)
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_the_topographic_error_counts_second_best_cells_that_are_no_neighbours():
    model = desom.build("desom1", **(SMALL | {"grid": [1, 4]}))
    code = desom.place(model, np.zeros((1, 32, 32, 1))).latent
    near, far = code + 0.1, code + 5
    model.cells.prototypes.assign(np.concatenate([code, near, far, far]))
    neighbours = desom.topographic_error(model, np.zeros((3, 32, 32, 1)))
    model.cells.prototypes.assign(np.concatenate([code, far, near, far]))

    assert neighbours == 0
    assert desom.topographic_error(model, np.zeros((3, 32, 32, 1))) == 1


def test_weights_find_their_way_back_into_the_network(small, cutouts, tmp_path):
    small.save_weights(tmp_path / "m.weights.h5")
    again = desom.build("desom1", **SMALL)
    again.load_weights(tmp_path / "m.weights.h5")

    assert np.array_equal(desom.place(again, cutouts).latent, desom.place(small, cutouts).latent)
    assert np.array_equal(desom.decoded(again), desom.decoded(small))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_places_the_same_weights_in_the_same_cells(backend, cutouts, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    model = desom.build("desom1", **SMALL)
    codes = desom.place(model, cutouts).latent[:-1]  # the last is novel
    elsewhere = np.full((20 - len(codes), codes.shape[1]), 100.0) + np.arange(14)[:, None]
    model.cells.prototypes.assign(np.concatenate([codes, elsewhere])[::-1])
    model.cells.reach.assign(desom.place(model, cutouts).quantization_error[-1] / 2)
    model.save_weights(tmp_path / "m.weights.h5")
    expected = desom.place(model, cutouts)
    np.save(tmp_path / "cutouts.npy", cutouts)
    script = (
        "import numpy as np, keras\n"
        "from models import desom\n"
        f"assert keras.backend.backend() == {backend!r}\n"
        f"model = desom.build('desom1', **{SMALL})\n"
        "model.load_weights('m.weights.h5')\n"
        "placed = desom.place(model, np.load('cutouts.npy'))\n"
        "np.savez('placed.npz', **vars(placed))\n"
    )

    done = run_with(backend, script, tmp_path)

    assert done.returncode == 0, done.stderr
    placed = np.load(tmp_path / "placed.npz")
    assert len({*zip(expected.cell_row, expected.cell_column, strict=True)}) == len(codes)
    assert expected.novel.tolist() == [False] * len(codes) + [True]
    assert np.array_equal(placed["cell_row"], expected.cell_row)
    assert np.array_equal(placed["cell_column"], expected.cell_column)
    assert np.array_equal(placed["novel"], expected.novel)
    assert np.allclose(placed["latent"], expected.latent, rtol=1e-3, atol=1e-3)


def run_with(backend, script, folder):
    """Run Python code in a folder, with Keras on another backend."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_trains_and_places_with_the_same_code(backend, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    script = (
        "import numpy as np, keras\n"
        "from models import desom\n"
        "from models.training import desom as training\n"
        f"assert keras.backend.backend() == {backend!r}\n"
        f"recipe = training.Preset('desom1', {SMALL}, iterations=6, batch=8)\n"
        "cutouts = np.random.default_rng(0).normal(900, 9, (40, 32, 32, 1)).astype(np.uint16)\n"
        "trained = training.train(cutouts, recipe, seed=0)\n"
        "placed = desom.place(trained.model, cutouts[:9])\n"
        "assert np.isfinite(placed.quantization_error).all()\n"
        "assert float(desom.decoded(trained.model).max()) <= 1\n"
        "print('placed', len(placed.cell_row))\n"
    )
    done = run_with(backend, script, tmp_path)

    assert done.stdout == "placed 9\n", done.stderr


@pytest.mark.parametrize("annotator", ["source_map", "exposure_map"])
def test_the_shipped_maps_load_and_place(annotator):
    model = registry.load(registry.find(annotator))

    placed = desom.place(model, np.ones((2, *model.input_length), np.float32))

    assert np.isfinite(placed.quantization_error).all()
    assert float(ops.convert_to_numpy(model.cells.reach)) > 0
