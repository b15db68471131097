"""The annotator `representations`: from cutouts to vectors, with tiny encoders in files."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import cutouts, home, model_versions, representations
from db.tables import Job, ModelVersion, Representation
from models.registry import Card, ChecksumError
from tests.builders import make_catalog, make_cutout_set, make_sources
from tests.encoders import SIZE, make_card
from tests.workers.fake import FakeAnnotator, fake_cards
from workers.annotators.base import Annotator, CutoutBatch
from workers.annotators.pictures import PictureFlag
from workers.annotators.representations import Representations
from workers.device import Device
from workers.runner import Runner
from workers.station import Options
from workers.writer import WorkerStopped


def loaded(card: Card) -> Representations:
    annotator = Representations(batch_size=4)
    annotator.load(ModelVersion(annotator="representations", card=card.as_dict()))
    return annotator


def make_batch(images: NDArray, **values: object) -> CutoutBatch:
    n = len(images)
    defaults = {
        "source_ids": np.arange(n) + 100,
        "readable": np.ones(n, bool),
        "cutout_flags": np.zeros(n, np.int32),
        "bands": ("z", "r", "g"),
        "pixel_scale": 0.262,
        "unit": "display",
    }
    return CutoutBatch(pixels=images, **(defaults | values))  # type: ignore[arg-type]


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 255, (6, SIZE, SIZE, 3), np.uint8)


def test_the_embedding_is_that_of_the_picture_from_its_top(tmp_path: Path, images: NDArray) -> None:
    found = loaded(make_card(tmp_path)).annotate(make_batch(images))

    upright = images[:, ::-1].astype(np.float32) / 255
    parts = upright.reshape(6, 4, 4, 4, 4, 3).mean(axis=(2, 4))  # (n, y, x, c)
    assert found["embedding"] == pytest.approx(np.moveaxis(parts, 3, 1).reshape(6, 48), abs=1e-5)
    assert found["reduced"].shape == (6, 40)
    assert found["flags"].tolist() == [0] * 6


def test_a_version_looks_at_the_pixels_its_card_names(tmp_path: Path, images: NDArray) -> None:
    card = make_card(tmp_path)
    wide = replace(card, inputs={**card.inputs, "size": SIZE // 2, "pixel_scale": 0.524})

    inputs = Representations.inputs_of(wide.as_dict())
    found = loaded(wide).annotate(make_batch(images))

    assert (inputs.size, inputs.pixel_scale) == (SIZE // 2, 0.524)
    assert found["flags"].tolist() == [PictureFlag.RESAMPLED] * 6
    mean = images.mean(axis=(1, 2, 3)) / 255  # at the border some empty sky is mixed in
    assert found["embedding"].mean(axis=1) == pytest.approx(mean, abs=0.05)


def test_a_blind_row_has_no_vector(tmp_path: Path, images: NDArray) -> None:
    images[2] = 7
    readable = np.array([True, False, True, True, True, True])

    found = loaded(make_card(tmp_path)).annotate(make_batch(images, readable=readable))

    blind = np.isnan(found["embedding"]).all(axis=1)
    assert blind.tolist() == [False, True, True, False, False, False]
    assert (np.isnan(found["reduced"]).all(axis=1) == blind).all()
    assert found["flags"][[1, 2]].tolist() == [PictureFlag.UNREADABLE, PictureFlag.NO_SIGNAL]


def test_an_encoder_that_gives_no_number_is_an_error(tmp_path: Path, images: NDArray) -> None:
    annotator = loaded(make_card(tmp_path))
    object.__setattr__(annotator._encoder.reduction, "mean", np.full(48, np.nan, np.float32))

    with pytest.raises(FloatingPointError, match="reduced: the network gave no number for 6 of 6"):
        annotator.annotate(make_batch(images))


def test_numbers_beyond_half_precision_are_an_error_with_advice(
    tmp_path: Path, images: NDArray
) -> None:
    annotator = loaded(make_card(tmp_path, factor=1e6))

    with pytest.raises(OverflowError, match=r"ends at 65504\. Choose another output"):
        annotator.annotate(make_batch(images))


def test_an_encoder_whose_file_has_changed_is_not_loaded(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    components = Path(card.build["reduction"])
    components.write_bytes(components.read_bytes() + b" ")

    with pytest.raises(ChecksumError, match="the principal components in"):
        loaded(card)


def make_field(engine: Engine, images: NDArray, flags: Sequence[int] = ()) -> list[int]:
    """A catalog of sources with these cutouts; their ids."""
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session)
        cutout_set = make_cutout_set(session, catalog, size=images.shape[1])
        sources = make_sources(session, len(images), catalog)
        session.commit()
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        for k, source in enumerate(sources):
            writer.append(source.id, images[k], flags[k] if flags else 0)
    return [source.id for source in sources]


def register(engine: Engine, card: Card, state: str = "current") -> int:
    with Session(engine) as session, session.begin():
        version = model_versions.register(
            session, "representations", card.name, card.sha256, card.as_dict()
        )
        version.state = state
        return version.id


def run(
    engine: Engine,
    annotators: Sequence[type[Annotator]] = (Representations,),
    version: str | None = None,
) -> None:
    options = Options(batch_size=4, until_idle=True, back_off=0.05, version=version)

    def cards(annotator: str) -> list[Card]:
        return fake_cards(annotator) if annotator == "fake" else []

    Runner(engine, home.pixels(), annotators, options, Device("cpu"), cards).run()


@pytest.mark.usefixtures("environment")
def test_vectors_of_a_registered_encoder_reach_the_database_beside_other_annotations(
    engine: Engine, tmp_path: Path, images: NDArray
) -> None:
    ids = make_field(engine, images, [0, 0, 1, 0, 0, 0])
    card = make_card(tmp_path)
    version_id = register(engine, card)

    run(engine, [FakeAnnotator, Representations])

    stored = make_batch(images, bands=("g", "r", "z"))
    expected = loaded(card).annotate(stored)["embedding"].astype(np.float16)
    with Session(engine) as session:
        rows = session.scalars(sa.select(Representation).order_by("source_id")).all()
        where = (session, version_id, ids)
        found, embedding = representations.vectors(*where, "embedding")
        reduced = representations.vectors(*where, "reduced")[1]
        states = session.scalars(sa.select(Job.state)).all()
    assert found.tolist() == [each for each in ids if each != ids[2]]
    assert embedding == pytest.approx(np.delete(expected, 2, axis=0).astype(np.float32))
    assert reduced.shape == (5, 40)
    assert [row.flags for row in rows] == [0, 0, 1, 0, 0, 0]
    assert states == ["done", "done"]


@pytest.mark.usefixtures("environment")
def test_an_annotator_without_a_version_does_not_stop_the_others(
    engine: Engine, images: NDArray, caplog: pytest.LogCaptureFixture
) -> None:
    make_field(engine, images)

    run(engine, [FakeAnnotator, Representations])

    with Session(engine) as session:
        assert session.scalars(sa.select(Job.state)).all() == ["done"]
    assert "annotator=representations version=none (skygloss models register" in caplog.text


@pytest.mark.usefixtures("environment")
def test_a_worker_for_which_nothing_is_registered_says_how_to_register(engine: Engine) -> None:
    with pytest.raises(WorkerStopped, match="no version of representations is registered"):
        run(engine)


@pytest.mark.usefixtures("environment")
def test_a_candidate_is_filled_on_demand_while_another_is_current(
    engine: Engine, tmp_path: Path, images: NDArray
) -> None:
    make_field(engine, images)
    current = register(engine, make_card(tmp_path, "tiny.one"))
    candidate = register(engine, make_card(tmp_path, "tiny.two", layout="nhwc"), "candidate")

    run(engine, version="tiny.two")

    with Session(engine) as session:
        versions = session.scalars(sa.select(Representation.model_version_id)).all()
    assert current not in versions
    assert versions == [candidate] * 6


@pytest.mark.usefixtures("environment")
def test_a_worker_that_lacks_the_file_leaves_the_version_to_others(
    engine: Engine, tmp_path: Path, images: NDArray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_field(engine, images)
    card = make_card(tmp_path)
    register(engine, card)
    card.path.unlink()

    run(engine, [FakeAnnotator, Representations])

    assert "this worker has no weights for it: bring it" in caplog.text
    assert str(card.path) in caplog.text
