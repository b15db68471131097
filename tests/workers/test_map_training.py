"""`skygloss train source_map` and `exposure_map`: from the cutouts of exposures to versions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from cli import main
from db import cutouts, home, model_versions
from db.tables import Catalog, CutoutBlock, CutoutSet
from models import desom, registry
from tests.builders import make_catalog, make_cutout_set, make_exposure, make_source
from workers import map_training

Skygloss = Callable[..., Result]
SIZES = (30, 12, 40, 40, *[12] * 8)  # sources of each exposure


@pytest.fixture
def skygloss(environment: dict[str, str]) -> Skygloss:
    """Run a command in this process."""

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def night(engine: Engine, environment: dict[str, str]) -> int:
    """The catalog `night`: exposures whose cutouts hold the exposure's number; its id."""
    layout = {"bands": ["r"], "size": 32, "pixel_scale": 0.184, "dtype": "uint16", "unit": "adu"}
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session, name="night", survey="exposure")
        cutout_set = make_cutout_set(session, catalog, **layout, origin="exposure")
        session.commit()
        for number, n in enumerate(SIZES):
            _add_exposure(engine, session, catalog, cutout_set, number, n)
    return catalog.id


def _add_exposure(
    engine: Engine,
    session: Session,
    catalog: Catalog,
    cutout_set: CutoutSet,
    number: int,
    n: int,
) -> None:
    exposure = make_exposure(session, 0, catalog, n_detected=2 * n, n_sampled=n)
    detected = {"exposure_id": exposure.id, "ccd": 0, "x": 0.0, "y": 0.0}
    sources = [make_source(session, catalog, **detected) for _ in range(n)]
    session.commit()
    noise = np.random.default_rng(number).normal(0, 3, (n, 32, 32, 1))
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        for source, pixels in zip(sources, noise, strict=True):
            writer.append(source.id, np.rint(1000 + 20 * number + pixels).astype(np.uint16))
    newest = select(func.max(CutoutBlock.id)).where(CutoutBlock.cutout_set_id == cutout_set.id)
    exposure.block_id = session.execute(newest).scalar_one()
    session.commit()


def test_a_sample_takes_as_many_cutouts_from_every_exposure_as_it_can(
    engine: Engine, night: int
) -> None:
    seen = map_training.read_cutouts(engine, night, 168, seed=0)

    assert seen.shape == (168, 32, 32, 1)
    assert seen.dtype == np.uint16
    number = np.rint((np.median(seen, axis=(1, 2, 3)) - 1000) / 20).astype(int)
    assert np.bincount(number).tolist() == [20, 12, 20, 20, *[12] * 8]


def test_a_sample_is_the_whole_when_there_are_not_more(engine: Engine, night: int) -> None:
    assert len(map_training.read_cutouts(engine, night, 10_000, seed=0)) == sum(SIZES)


def test_the_same_seed_reads_the_same_cutouts(engine: Engine, night: int) -> None:
    first, again, other = (map_training.read_cutouts(engine, night, 30, seed) for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_maps_are_trained_from_the_database_one_upon_the_other(
    engine: Engine, skygloss: Skygloss, night: int, tmp_path: Path
) -> None:
    quick = ("--name", "night", "--preset", "quick", "--out")
    lower = "desom1.night-quick-0"

    sources = skygloss("train", "source_map", *quick, tmp_path / "s")
    placed = skygloss("annotate", "night", "--version", lower, "--json")
    exposures = skygloss(
        "train", "exposure_map", *quick, tmp_path / "e", "--source-map", lower, "--tag", "mine"
    )

    assert sources.exit_code == 0, sources.output
    assert "learnt from 196, measured on 22 held out: quantization error" in sources.output
    with Image.open(tmp_path / "s" / "prototypes.png") as drawn:
        assert drawn.size == (25 * 34, 25 * 34)
    assert placed.exit_code == 0, placed.output
    assert exposures.exit_code == 0, exposures.output
    assert "learnt from 10, measured on 2 held out" in exposures.output
    assert (tmp_path / "e" / "card.toml").read_text().startswith("[[version]]")
    with Session(engine) as session:
        below = model_versions.find(session, "source_map", lower)
        above = model_versions.find(session, "exposure_map", "desom2.mine")
        counts = map_training.read_histograms(engine, night, below.id, below.name)
    assert counts.sum(axis=1) == pytest.approx([2 * n for n in SIZES])
    assert above.card["inputs"] == {"source_map": lower, "cells": 625}
    assert below.state == above.state == "candidate"
    assert below.card["flags"]["32"] == "far from every prototype"
    card = registry.from_dict(below.card)
    assert card.path.parent == home.models()
    assert desom.prototypes(registry.load(card)).shape == (25, 25, 16)


def test_a_catalog_without_exposures_says_what_to_do(
    engine: Engine, skygloss: Skygloss, tmp_path: Path
) -> None:
    with Session(engine) as session:
        make_catalog(session, name="stars")
        session.commit()

    result = skygloss("train", "source_map", "--name", "stars", "--out", tmp_path)

    assert result.exit_code == 1
    assert "skygloss ingest exposures" in result.output


def test_exposures_without_cells_say_what_to_do(engine: Engine, night: int) -> None:
    with pytest.raises(map_training.TooLittle, match="skygloss annotate --annotator source_map"):
        map_training.read_histograms(engine, night, 1, "desom1.mine")


def test_the_name_of_a_shipped_version_is_refused_before_training(
    skygloss: Skygloss, night: int, tmp_path: Path
) -> None:
    tag = registry.find("source_map").name.split(".", 1)[1]

    result = skygloss("train", "source_map", "--name", "night", "--out", tmp_path, "--tag", tag)

    assert result.exit_code == 1
    assert "choose another name for this one, --tag" in result.output


def test_without_a_current_source_map_exposures_cannot_be_counted(
    skygloss: Skygloss, night: int, tmp_path: Path
) -> None:
    result = skygloss("train", "exposure_map", "--name", "night", "--out", tmp_path)

    assert result.exit_code == 1
    assert "--source-map" in result.output
