"""The annotators `source_map` and `exposure_map` with networks, tiny ones."""

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import home
from db.cutouts import CutoutFlag
from db.histograms import Histograms
from db.tables import Exposure, ExposureCell, ModelVersion, Prototype, Source, SourceCell
from tests.workers.field import make_exposures
from tests.workers.tiny_maps import COLUMNS, KINDS, MIXTURES, contents, counts, cutout, write_cards
from workers.annotators.base import CutoutBatch
from workers.annotators.cutouts import PictureFlag
from workers.annotators.exposure_map import FEWEST, ExposureMap, ExposureMapFlag
from workers.annotators.source_map import SourceMap, SourceMapFlag
from workers.device import Device
from workers.runner import Runner
from workers.station import Options

MAPS = (SourceMap, ExposureMap)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return write_cards(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def source_map(cards) -> SourceMap:  # type: ignore[no-untyped-def]
    annotator = SourceMap(batch_size=4)
    annotator.load(ModelVersion(annotator="source_map", card=cards("source_map")[0].as_dict()))
    return annotator


@pytest.fixture(scope="module")
def exposure_map(cards) -> ExposureMap:  # type: ignore[no-untyped-def]
    annotator = ExposureMap(batch_size=4)
    annotator.load(ModelVersion(annotator="exposure_map", card=cards("exposure_map")[0].as_dict()))
    return annotator


def batch(pixels: np.ndarray, **values: object) -> CutoutBatch:
    n = len(pixels)
    flags, readable = np.zeros(n, np.int32), np.ones(n, bool)
    defaults = {"cutout_flags": flags, "readable": readable, "source_ids": np.arange(n) + 100}
    where = {"bands": ("r",), "pixel_scale": 0.184, "unit": "adu"}
    return CutoutBatch(pixels=pixels, **(defaults | where | values))  # type: ignore[arg-type]


def test_each_kind_of_cutout_falls_into_its_cell(source_map: SourceMap) -> None:
    columns = source_map.annotate(batch(contents([2] * KINDS)))

    expected = np.repeat(np.arange(KINDS), 2)
    assert (columns["cell_row"] * COLUMNS + columns["cell_column"]).tolist() == expected.tolist()
    assert columns["flags"].tolist() == [0] * 2 * KINDS
    assert (columns["margin"] > columns["quantization_error"]).all()


def test_any_unit_scale_and_type_gives_the_same_cell(source_map: SourceMap) -> None:
    images = contents([1] * KINDS)
    straight = source_map.annotate(batch(images))

    other = source_map.annotate(batch(images.astype(np.float32), pixel_scale=0.5, bands=("u",)))

    for name in ("cell_row", "cell_column", "flags"):
        np.testing.assert_array_equal(other[name], straight[name])


def test_larger_cutouts_are_cropped_about_their_centre(source_map: SourceMap) -> None:
    image = cutout(4)
    larger = np.pad(image, ((8, 8), (8, 8), (0, 0)), constant_values=100)

    columns = source_map.annotate(batch(np.stack([image])))
    of_larger = source_map.annotate(batch(np.stack([larger])))

    for name, values in columns.items():
        np.testing.assert_allclose(of_larger[name], values, rtol=1e-4)


def test_what_is_wrong_with_a_cutout_becomes_a_flag_and_blind_ones_get_no_cell(
    source_map: SourceMap,
) -> None:
    images = contents([5]).astype(np.float32)
    images[0], images[2, :4] = 7, np.nan
    flags = np.array([0, CutoutFlag.NO_IMAGE, 0, CutoutFlag.PARTLY_OUTSIDE, 0], np.int32)

    columns = source_map.annotate(batch(images, cutout_flags=flags))

    assert columns["flags"].tolist() == [
        PictureFlag.NO_SIGNAL,
        PictureFlag.NO_IMAGE,
        PictureFlag.NOT_FINITE,
        PictureFlag.PARTIAL,
        0,
    ]
    assert np.isnan(columns["cell_row"]).tolist() == [True, True, False, False, False]


def test_a_cutout_far_from_every_prototype_keeps_its_cell_and_is_flagged(
    source_map: SourceMap,
) -> None:
    cells = source_map._map._model.cells
    reach = np.array(cells.reach)
    cells.reach.assign(-1)

    columns = source_map.annotate(batch(contents([3])))
    cells.reach.assign(reach)

    assert columns["flags"].tolist() == [SourceMapFlag.FAR] * 3
    assert np.isfinite(columns["cell_row"]).all()


def exposures(*numbers: list[int], n_counted: list[int] | None = None) -> Histograms:
    n = len(numbers)
    found = np.stack([counts(each) for each in numbers])
    total = found.sum(axis=1).astype(int) if n_counted is None else np.array(n_counted)
    return Histograms(np.arange(n) + 7, found, total, np.ones(n))


def test_each_mixture_falls_into_its_cell(exposure_map: ExposureMap) -> None:
    columns = exposure_map.annotate(exposures(*MIXTURES))

    assert (columns["cell_row"] * 2 + columns["cell_column"]).tolist() == [0, 1, 2, 3]
    assert columns["latent"].shape == (4, 8)
    assert columns["flags"].tolist() == [0] * 4


def test_few_or_no_sources_and_strange_mixtures_are_flagged(exposure_map: ExposureMap) -> None:
    batch = exposures([33, 4, 3], [8, 1, 1], [0], [0, 0, 0, 0, 0, 40])

    columns = exposure_map.annotate(batch)

    assert columns["flags"][0] == 0
    assert columns["flags"][1] & ExposureMapFlag.FEW_COUNTED
    assert columns["flags"][2] == ExposureMapFlag.NOTHING_COUNTED
    assert columns["flags"][3] == ExposureMapFlag.NOVEL
    assert np.isnan(columns["cell_row"]).tolist() == [False, False, True, False]
    assert np.isnan(columns["latent"]).all(axis=1).tolist() == [False, False, True, False]


def test_a_new_exposure_lands_on_the_map_and_a_strange_one_is_flagged(
    engine: Engine,
    environment: dict[str, str],
    cards,  # type: ignore[no-untyped-def]
) -> None:
    def run() -> None:
        options = Options(until_idle=True)
        Runner(engine, home.pixels(), MAPS, options, Device("cpu"), cards).run()

    known = make_exposures(engine, [contents(MIXTURES[0]), contents(MIXTURES[1])])
    run()
    later, strange = make_exposures(engine, [contents([5, 5, 30]), contents([0, 0, 0, 0, 0, 40])])
    run()

    with Session(engine) as session:
        rows = {row.exposure_id: row for row in session.scalars(sa.select(ExposureCell))}
        n_cells = session.scalar(sa.select(sa.func.count()).select_from(Prototype))
        placed = sa.select(SourceCell.cell_row, SourceCell.cell_column).join(Source)
        of_strange = set(session.execute(placed.where(Source.exposure_id == strange)).all())
        n_detected = session.get_one(Exposure, later).n_detected
    assert [(rows[k].cell_row, rows[k].cell_column) for k in (*known, later)] == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]
    assert [rows[k].flags for k in (*known, later)] == [0, 0, 0]
    assert rows[strange].flags == ExposureMapFlag.NOVEL
    assert rows[strange].quantization_error > 2 * rows[later].quantization_error
    assert of_strange == {(1, 2)}
    assert n_cells == KINDS + len(MIXTURES)
    assert n_detected >= FEWEST
