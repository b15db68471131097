"""`skygloss models register`: an encoder of the user's own, from its file to its vectors."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db import cutouts, home, model_versions
from db.tables import ModelVersion, Representation
from models import encoders, registry
from models.encoders import Form
from models.registry import Card
from tests.builders import make_catalog, make_cutout_set, make_sources
from tests.encoders import SIZE, move_weights_out, write_keras, write_onnx
from workers import registration, sample
from workers.annotators.representations import Representations

Skygloss = Callable[..., Result]
SHIPPED = registry.find("representations").name


@pytest.fixture
def skygloss(environment: dict[str, str]) -> Skygloss:
    """Run a command in this process."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def field(engine: Engine, environment: dict[str, str]) -> list[int]:
    """60 sources with cutouts in two blocks, one of them without an image; their ids."""
    return make_field(engine, "field", 60)


def make_field(engine: Engine, name: str, n: int, images: NDArray | None = None) -> list[int]:
    if images is None:
        images = np.random.default_rng(2).integers(0, 255, (n, SIZE, SIZE, 3), np.uint8)
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session, name=name)
        cutout_set = make_cutout_set(session, catalog, size=SIZE)
        sources = make_sources(session, n, catalog)
        session.commit()
    for half in (range(n // 2), range(n // 2, n)):
        with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
            for k in half:
                writer.append(sources[k].id, images[k], int(k == 1))
    return [source.id for source in sources]


def register(skygloss: Skygloss, file: Path | str, *options: str) -> Result:
    words = ("models", "register", "representations", str(file), "--size", str(SIZE))
    return skygloss(*words, "--name", "tiny.mine", *options)


def test_a_registered_encoder_is_promoted_and_gives_every_source_its_vector(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    file = write_onnx(tmp_path / "tiny.onnx")

    registered = register(skygloss, file)
    file.unlink()
    promoted = skygloss("models", "promote", "representations", "tiny.mine")
    annotated = skygloss("annotate", "field", "--annotator", "representations", "--json")

    assert registered.exit_code == 0, registered.output
    assert "48 numbers per source, tried on 59 sources" in registered.output
    assert "skygloss models promote representations tiny.mine" in registered.output
    assert promoted.output == "representations: tiny.mine is current\n"
    assert json.loads(annotated.stdout) == {"n_annotated": 60, "n_failed": 0}
    with Session(engine) as session:
        rows = session.scalars(sa.select(Representation).order_by("source_id")).all()
    assert [row.source_id for row in rows] == field
    assert rows[1].embedding is None
    assert [len(row.reduced) for row in rows[2:]] == [40] * 58
    assert rows[2].reduced != rows[3].reduced


def test_a_keras_encoder_is_registered_and_promoted_in_one_go(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    result = register(skygloss, write_keras(tmp_path / "tiny.keras"), "--promote", "--json")

    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["state"] == "current"
    with Session(engine) as session:
        [version] = model_versions.current(session, ["representations"])
    stored = registry.from_dict(version.card)
    assert stored.sha256 == card["sha256"] == registry.sha256(stored.path)
    assert stored.path.parent == home.models()
    assert stored.inputs == {
        "bands": ["z", "r", "g"],
        "size": SIZE,
        "pixel_scale": 0.262,
        "unit": "display",
    }
    assert version.card["flags"]["1"] == "no image of the source"


def test_a_candidate_is_filled_by_its_name(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    register(skygloss, write_onnx(tmp_path / "tiny.onnx"))

    unknown = skygloss("annotate", "--version", "tiny.yours")
    filled = skygloss("annotate", "--version", "tiny.mine")

    assert unknown.exit_code == 1
    assert "no version 'tiny.yours' of shreds or representations or" in unknown.output
    assert filled.exit_code == 0, filled.output
    assert "representations tiny.mine: 60 of 60 sources done" in filled.output
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Representation)) == 60
        assert session.scalars(sa.select(ModelVersion.state).filter_by(name="tiny.mine")).all() == [
            "candidate"
        ]


def test_the_same_registration_twice_is_no_error_and_another_is(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    file = write_onnx(tmp_path / "tiny.onnx")
    register(skygloss, file)

    again = register(skygloss, file)
    described = register(skygloss, file, "--scale", "0-255")
    other = register(skygloss, write_onnx(tmp_path / "other.onnx", layout="nhwc"))

    assert again.exit_code == 0, again.output
    for result in (described, other):
        assert result.exit_code == 1
        assert "is registered with another file or description" in result.output
    with Session(engine) as session:
        assert len(session.scalars(sa.select(ModelVersion)).all()) == 1


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        ({"factor": 0.0}, (), "the same vector for all 59 pictures"),
        ({"factor": float("nan")}, (), "gave no number for 59 of 59 pictures"),
        ({"factor": 1e6}, (), "half precision, in which they are stored, ends at 65504"),
        ({"channels": 1}, (), "has shape (any, 1, 16, 16), but the pictures were described as"),
        ({}, ("--pixel-scale", "0.1"), "0.262 arcsec/pixel is too coarse for 0.1"),
        ({}, ("--cutout-size", "400"), "arcsec wide, 104.8 are needed"),
        ({}, ("--name", "tiny"), "a version is named ARCHITECTURE.TAG"),
        ({}, ("--name", SHIPPED), f"{SHIPPED} ships with Skygloss: choose another tag"),
        ({}, ("--pca-from", "feild"), "there is no catalog 'feild'; there are: field"),
    ],
)
def test_an_encoder_that_does_not_work_is_not_registered(
    engine: Engine,
    skygloss: Skygloss,
    field: list[int],
    tmp_path: Path,
    written: dict[str, float],
    options: tuple[str, ...],
    message: str,
) -> None:
    file = write_onnx(tmp_path / "tiny.onnx", **written)  # type: ignore[arg-type]

    result = register(skygloss, file, *options)

    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert list(home.models().iterdir()) == []
    with Session(engine) as session:
        assert session.scalars(sa.select(ModelVersion)).all() == []


def test_without_cutouts_the_advice_is_to_ingest_some(
    engine: Engine, skygloss: Skygloss, tmp_path: Path
) -> None:
    result = register(skygloss, write_onnx(tmp_path / "tiny.onnx"))

    assert result.exit_code == 1
    assert "there are no cutouts to try it on: ingest some first" in result.output


def test_a_damaged_file_is_neither_copied_nor_registered(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "tiny.onnx"
    file.write_bytes(b"not a network")

    result = register(skygloss, file)

    assert result.exit_code == 1
    assert "ONNX Runtime cannot read tiny.onnx" in result.output
    assert list(home.models().iterdir()) == []


def test_components_that_cannot_be_stored_are_refused_even_if_the_vectors_can(
    engine: Engine, skygloss: Skygloss, tmp_path: Path
) -> None:
    images = np.random.default_rng(3).integers(0, 20, (4, SIZE, SIZE, 3), np.uint8)
    images[2:] += 220
    make_field(engine, "contrast", 4, images)

    result = register(skygloss, write_onnx(tmp_path / "tiny.onnx", factor=60_000))

    assert result.exit_code == 1
    assert "the principal components have numbers of size" in result.output
    assert list(home.models().iterdir()) == []


def test_weights_in_a_second_file_are_refused_even_if_it_is_where_the_copy_would_look(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    file = write_onnx(tmp_path / "tiny.onnx")
    beside = move_weights_out(file)
    shutil.copy(beside, home.models())

    result = register(skygloss, file)

    assert result.exit_code == 1
    assert "export again with external_data=False" in " ".join(result.output.split())
    assert [each.name for each in home.models().iterdir()] == [beside.name]


def test_of_two_registrations_of_one_name_at_once_the_quicker_stays_whole(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    make_field(engine, "other", 20)
    file = write_onnx(tmp_path / "tiny.onnx")
    quick = registration.Registration(file, "tiny.mine", Form(SIZE), 0.262, SIZE, catalog="other")
    slow = replace(quick, catalog="field")
    cards: list[Card | None] = []

    def overtake(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "cutout_block" in statement and not cards:
            cards.append(None)
            cards[0] = registration.bring_in(engine, quick)

    sa.event.listen(engine, "before_cursor_execute", overtake)
    try:
        found = registration.bring_in(engine, slow)
    finally:
        sa.event.remove(engine, "before_cursor_execute", overtake)

    assert found == cards[0]
    assert found.training["components_from"] == "other"
    assert encoders.load(found).encode(np.zeros((1, SIZE, SIZE, 3), np.uint8), 1)[0].any() == 0
    assert len(list(home.models().iterdir())) == 2


def test_a_file_or_imagenet_must_be_given(skygloss: Skygloss, tmp_path: Path) -> None:
    words = ("models", "register", "representations", "--name", "a.b")

    neither = skygloss(*words)
    both = skygloss(*words, str(tmp_path / "tiny.onnx"), "--imagenet")

    for result in (neither, both):
        assert result.exit_code == 2
        assert "give either FILE or --imagenet" in result.output


def test_the_components_can_be_learnt_from_one_catalog_and_fewer_sources(
    engine: Engine, skygloss: Skygloss, field: list[int], tmp_path: Path
) -> None:
    make_field(engine, "other", 20)
    file = write_onnx(tmp_path / "tiny.onnx")

    result = register(skygloss, file, "--pca-from", "other", "--pca-sample", "10", "--json")

    facts = json.loads(result.stdout)["training"]
    assert (facts["components_from"], facts["n_sources"]) == ("other", 10)


def chosen(engine: Engine, n: int) -> list[sample.Choice]:
    inputs = {"bands": ["z", "r", "g"], "size": SIZE, "pixel_scale": 0.262, "unit": "display"}
    version = ModelVersion(annotator="representations", card={"inputs": inputs})
    with Session(engine) as session:
        return sample.choose(session, version, Representations, n)


def test_a_sample_is_spread_over_the_blocks_and_the_same_each_time(
    engine: Engine, field: list[int]
) -> None:
    first, second = (chosen(engine, 15) for _ in range(2))

    assert [len(choice.rows) for choice in first] == [8, 7]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
    assert sum(len(choice.rows) for choice in chosen(engine, 1000)) == 59


def test_a_sample_shows_the_pictures_from_the_top(engine: Engine, field: list[int]) -> None:
    [choice, _] = chosen(engine, 1000)
    stored = cutouts.read_block(
        home.pixels(), choice.cutout_set.store_path, choice.block.number, 0, choice.block.n - 1
    )

    found = sample.pictures(choice, home.pixels(), Representations.inputs_of({"inputs": {}}))

    assert len(found) == 29
    assert found.shape[1:] == (128, 128, 3)
    middle = slice(64 - SIZE // 2, 64 + SIZE // 2)
    expected: NDArray = stored[2][::-1, :, ::-1]  # g, r, z becomes z, r, g
    np.testing.assert_array_equal(found[1][middle, middle], expected)
