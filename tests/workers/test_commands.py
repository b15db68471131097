"""`skygloss worker`, `annotate`, `models` and `status`, as a user types them."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from rich.progress import Progress
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db import cutouts, home
from db.tables import Catalog, Job, Shred
from tests.builders import make_catalog, make_cutout_set, make_model_version, make_sources
from tests.workers import fake
from tests.workers.field import make_exposures, make_field, rows_per_source
from workers import commands
from workers.annotators import ANNOTATORS
from workers.device import Device
from workers.station import Options

Skygloss = Callable[..., Result]


@pytest.fixture
def skygloss(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Skygloss:
    """Run a command in this process."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, words)

    return run


@pytest.fixture
def only_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands know the fake annotator instead of the shipped ones."""

    class CardlessRunner(commands.Runner):
        def __init__(self, *arguments: object, **values: object) -> None:
            super().__init__(*arguments, **values, cards=fake.fake_cards)

    monkeypatch.setattr(commands, "ANNOTATORS", (fake.FakeAnnotator,))
    monkeypatch.setattr(commands, "Runner", CardlessRunner)
    monkeypatch.setattr(commands, "prepare", lambda _precision: Device("cpu", "no GPU here"))


def test_annotate_with_the_shipped_weights(engine: Engine, skygloss: Skygloss) -> None:
    with Session(engine, expire_on_commit=False) as session:
        catalog = make_catalog(session, name="field")
        cutout_set = make_cutout_set(session, catalog, size=128)
        sources = make_sources(session, 3, catalog)
        session.commit()
    random = np.random.default_rng(1)
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        for source in sources:
            writer.append(source.id, random.integers(0, 255, (128, 128, 3), np.uint8))

    result = skygloss("annotate", "field")
    again = skygloss("annotate", "field", "--json")

    assert result.exit_code == 0, result.output
    serving = [annotator for annotator in ANNOTATORS if "display" in annotator.inputs.units]
    assert f"{3 * len(serving)} annotations written" in result.output
    assert "catalog field passed over; its pixels are in display, they need" in result.output
    assert json.loads(again.stdout) == {"n_annotated": 0, "n_failed": 0}
    with Session(engine) as session:
        for annotator in serving:
            n = sa.select(sa.func.count()).select_from(annotator.table)
            assert session.scalar(n) == 3


def test_of_the_demos_one_is_chosen(skygloss: Skygloss) -> None:
    result = skygloss("demo", "--blends", "--exposures")

    assert result.exit_code == 2
    assert "--survey, --exposures and --blends are demos of their own" in result.output


@pytest.mark.usefixtures("only_fake")
def test_annotate_takes_only_the_catalog_it_is_given(engine: Engine, skygloss: Skygloss) -> None:
    make_field(engine, [[fake.PLAIN] * 2])
    with Session(engine) as session, session.begin():
        make_catalog(session, name="other")

    result = skygloss("annotate", "other", "--json")

    assert json.loads(result.stdout)["n_annotated"] == 0
    assert set(rows_per_source(engine).values()) == {0}


@pytest.mark.usefixtures("only_fake")
def test_the_bar_follows_the_work_with_few_looks(
    engine: Engine, skygloss: Skygloss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOK_INTERVAL", 3600)
    shown = []
    with Progress(disable=True) as bar:
        follower = commands.Follower(bar, engine, [fake.FakeAnnotator])
        for n in (3, 2):
            make_field(engine, [[fake.PLAIN] * n])
            skygloss("annotate")
            follower(n)
            shown.append((bar.tasks[0].completed, bar.tasks[0].total))
        follower.look()

    assert shown == [(3, 3), (3, 3)]
    assert (bar.tasks[0].completed, bar.tasks[0].total) == (5, 5)


def test_the_bar_does_without_a_server_that_is_away() -> None:
    nobody = sa.create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    with Progress(disable=True) as bar:
        commands.Follower(bar, nobody, [fake.FakeAnnotator])(1)

    assert (bar.tasks[0].completed, bar.tasks[0].total) == (0, None)


@pytest.mark.usefixtures("only_fake")
def test_annotate_says_what_failed_and_retries_on_demand(
    engine: Engine, skygloss: Skygloss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "Options", lambda **values: fast(**values))
    make_field(engine, [[fake.PLAIN, fake.RAISES]])

    first = skygloss("annotate")
    monkeypatch.setattr(fake, "RAISES", 999)
    second = skygloss("annotate", "--retry")

    assert first.exit_code == 1
    assert "1 failed: see `skygloss status`" in first.output
    assert second.exit_code == 0, second.output
    assert "1 failed jobs are tried once more" in second.output
    assert set(rows_per_source(engine).values()) == {1}


def fast(**values: Any) -> Options:
    return Options(**values, back_off=0.05)


@pytest.mark.usefixtures("only_fake")
def test_verify_finds_and_fills_a_hole(engine: Engine, skygloss: Skygloss) -> None:
    source_ids = make_field(engine, [[fake.PLAIN] * 3])
    skygloss("annotate")
    with Session(engine) as session, session.begin():
        session.execute(sa.delete(Shred).where(Shred.source_id == source_ids[1]))

    without = skygloss("annotate", "--json")
    result = skygloss("annotate", "--verify")

    assert json.loads(without.stdout)["n_annotated"] == 0
    assert "1 jobs lack a row and are done again" in result.output
    assert set(rows_per_source(engine).values()) == {1}


def test_an_unknown_catalog_is_named_with_the_known_ones(
    engine: Engine, skygloss: Skygloss
) -> None:
    with Session(engine) as session, session.begin():
        make_catalog(session, name="field")

    result = skygloss("annotate", "feild")

    assert result.exit_code == 1
    assert "there is no catalog 'feild'; there are: field" in result.output


@pytest.mark.usefixtures("only_fake")
def test_status_shows_progress_workers_and_failures(
    engine: Engine, skygloss: Skygloss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "Options", lambda **values: fast(**values))
    make_field(engine, [[fake.PLAIN, fake.RAISES]])
    skygloss("annotate")

    result = skygloss("status")
    found = json.loads(skygloss("status", "--json").stdout)

    assert result.exit_code == 0, result.output
    assert "RuntimeError: a poison row" in found["failures"][0][-1]
    [progress] = found["progress"]
    assert (progress["n_total"], progress["n_done"], progress["n_failed"]) == (2, 1, 1)
    assert found["workers"][0][-3:] == ["left", "cpu", "no GPU here"]
    for heading in ("Catalogs", "Progress", "Workers", "Failures"):
        assert heading in result.output


def test_annotate_and_status_speak_of_exposures(
    engine: Engine, skygloss: Skygloss, only_fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ANNOTATORS", (fake.FakeAnnotator, *fake.MAPS))
    make_field(engine, [[fake.PLAIN]])
    make_exposures(engine, [[0, 1, 2], [3]])
    [name] = [c.name for c in all_catalogs(engine) if c.survey == "exposure"]

    result = skygloss("annotate", name)
    rest = skygloss("annotate")

    assert result.exit_code == 0, result.output
    assert "6 annotations written" in result.output
    assert "exposure_map mean.v1: 2 of 2 exposures done" in result.output
    assert "source_map mean.v1: 4 of 4 sources done" in result.output
    assert "fake" not in result.output
    assert "fake mean.v1: 1 of 1 sources done" in rest.output
    assert "2 exposures" in skygloss("status").output


def all_catalogs(engine: Engine) -> list[Catalog]:
    with Session(engine) as session:
        return list(session.scalars(sa.select(Catalog)))


def test_models_are_listed_and_promoted(engine: Engine, skygloss: Skygloss) -> None:
    with Session(engine) as session, session.begin():
        make_model_version(session, name="tiny.one", state="current")
        make_model_version(session, name="tiny.two")

    promoted = skygloss("models", "promote", "shreds", "tiny.two")
    unknown = skygloss("models", "promote", "shreds", "tiny.three")
    listed = json.loads(skygloss("models", "list", "--json").stdout)

    assert promoted.output == "shreds: tiny.two is current\n"
    assert unknown.exit_code == 1
    assert "known: tiny.two, tiny.one" in unknown.output
    assert {one["name"]: one["state"] for one in listed} == {
        "tiny.one": "retired",
        "tiny.two": "current",
    }


def test_a_card_with_other_weights_stops_the_command(
    engine: Engine, skygloss: Skygloss, only_fake: None
) -> None:
    with Session(engine) as session, session.begin():
        make_model_version(session, annotator="fake", name="mean.v1", weights_sha256="f" * 64)

    result = skygloss("annotate")

    assert result.exit_code == 1
    assert "A version never changes" in result.output
    with Session(engine) as session:
        assert session.scalars(sa.select(Job)).all() == []
