"""`skygloss labels ...`: agreement in a terminal, training sets, labels from tables."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from astropy.table import Table
from click.testing import CliRunner, Result
from pyarrow import parquet
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db.engine import create_engine
from db.tables import ExposureCell, Label, LabelClass, ModelVersion
from tests.builders import (
    make_catalog,
    make_expert,
    make_exposure,
    make_label,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
    make_source,
)

CLASSES = ("Good", "BT", "RBT")


@dataclass(frozen=True)
class Team:
    """Numbers of the experts ana, bo and cy, of the classes, and of exposures e0 to e5."""

    experts: Sequence[int]
    classes: Sequence[int]
    exposures: Sequence[int]
    version: int


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    engine = create_engine(environment["DATABASE_URL"])
    yield engine
    engine.dispose()


@pytest.fixture
def team(engine: Engine) -> Team:
    """Votes like GG., GB., BBB, ..., G.., ... on the exposures; e3 and e5 lie in a Good cell."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = make_catalog(session, name="cam", survey="exposure")
        experts = [make_expert(session, name) for name in ("ana", "bo", "cy")]
        classes = [make_label_class(session, name) for name in CLASSES]
        exposures = [make_exposure(session, 0, catalog, name=f"e{k}") for k in range(6)]
        said = ("00.", "01.", "111", "...", "0..", "...")
        for exposure, votes in zip(exposures, said, strict=True):
            for expert, vote in zip(experts, votes, strict=True):
                if vote != ".":
                    make_label(session, expert, classes[int(vote)], exposure_id=exposure.id)
        version = make_model_version(session, annotator="exposure_map", state="current")
        make_prototypes(session, version)
        run = make_run(session, version)
        for k in (0, 3, 5):
            session.add(placed(exposures[k].id, run.id, version))
        cell = {"model_version_id": version.id, "cell_row": 0, "cell_column": 1}
        make_label(session, experts[0], classes[0], **cell)
    return Team(
        [one.id for one in experts],
        [one.id for one in classes],
        [one.id for one in exposures],
        version.id,
    )


def placed(exposure_id: int, run_id: int, version: ModelVersion) -> ExposureCell:
    return ExposureCell(
        exposure_id=exposure_id,
        model_version_id=version.id,
        run_id=run_id,
        cell_row=0,
        cell_column=1,
        flags=0,
    )


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["labels", *map(str, words)])


def rows_of(path: Path) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def stored(engine: Engine) -> list[tuple[int, str]]:
    with Session(engine) as session:
        statement = (
            sa.select(Label.exposure_id, LabelClass.name)
            .join(LabelClass, LabelClass.id == Label.label_class_id)
            .where(Label.request.startswith("import:"))
            .order_by(Label.exposure_id)
        )
        return [(row[0], row[1]) for row in session.execute(statement)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_agreement_is_told_in_tables(team: Team) -> None:
    result = run("agreement")

    assert result.exit_code == 0, result.output
    assert "4 exposures labelled by 3 experts, 3 of them by two or more" in result.stdout
    assert "2 with one voice, 1 tied" in result.stdout
    for words in ("Fleiss' kappa", "Krippendorff's alpha", "ana and bo", "too few subjects to say"):
        assert words in result.stdout


def test_agreement_is_told_to_machines(team: Team) -> None:
    result = run("agreement", "--json")

    found = json.loads(result.stdout)
    assert (found["n_subjects"], found["n_shared"], found["n_tied"]) == (4, 3, 1)
    pair = found["pairs"][0]
    assert (pair["first"], pair["second"], pair["n"]) == ("ana", "bo", 3)
    assert pair["cohen_kappa"]["value"] == pytest.approx(0.4)
    assert pair["confusion"] == [[1, 1], [0, 1]]
    assert [one["n"] for one in found["experts"]] == [4, 3, 1]


def test_agreement_without_shared_subjects_says_so(team: Team) -> None:
    result = run("agreement", "--subject", "cell")

    assert result.exit_code == 0
    assert "nothing to compare yet" in result.stdout


def test_agreement_without_any_label_is_no_error(engine: Engine) -> None:
    result = run("agreement", "--subject", "source", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["fleiss_kappa"] == {"value": None, "low": None, "high": None}


def test_a_training_set_has_the_majority_and_leaves_ties_out(team: Team, tmp_path: Path) -> None:
    result = run("export", tmp_path / "set.csv")

    assert result.exit_code == 0, result.output
    assert "Left out: 1 tied, 0 with fewer than 1 experts." in result.stdout
    rows = rows_of(tmp_path / "set.csv")
    assert [(row["name"], row["label"], row["n_votes"], row["n_experts"]) for row in rows] == [
        ("e0", "Good", "2", "2"),
        ("e2", "BT", "3", "3"),
        ("e4", "Good", "1", "1"),
    ]
    assert {row["origin"] for row in rows} == {"direct"}
    assert json.loads(rows[1]["votes"]) == {"ana": "BT", "bo": "BT", "cy": "BT"}
    assert int(rows[0]["label_class_id"]) == team.classes[0]
    assert rows[0]["path"].endswith(".fits.fz")


def test_a_training_set_says_how_it_was_made(team: Team, tmp_path: Path) -> None:
    run("export", tmp_path / "set.csv", "--min-experts", 2)

    table = Table.read(tmp_path / "set.csv", format="ascii.ecsv")
    assert len(table) == 2
    assert table.meta["consensus"] == "majority"
    assert table.meta["min_experts"] == "2"
    assert table.meta["experts"] == "ana, bo, cy"
    assert json.loads(table.meta["label_classes"])[str(team.classes[1])] == "BT"
    assert table.meta["made_at"].startswith("20")
    assert table["ra"].unit == "deg"


def test_dawid_and_skene_leave_no_tie(team: Team, tmp_path: Path) -> None:
    result = run("export", tmp_path / "set.parquet", "--consensus", "dawid-skene", "--json")

    assert json.loads(result.stdout)["n_tied"] == 0
    rows = parquet.read_table(tmp_path / "set.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["e0", "e1", "e2", "e4"]
    assert 0.5 < rows[1]["confidence"] < rows[0]["confidence"] < 1


def test_propagated_labels_are_marked_and_never_of_what_was_looked_at(
    team: Team, tmp_path: Path
) -> None:
    result = run("export", tmp_path / "set.vot", "--propagated")

    assert result.exit_code == 0, result.output
    assert "3 with labels of their own, 2 propagated from cells" in result.stdout
    table = Table.read(tmp_path / "set.vot")
    carried = table[table["origin"] == "propagated"]
    assert list(carried["name"]) == ["e3", "e5"]
    assert list(carried["label"]) == ["Good", "Good"]
    assert list(carried["cell_column"]) == [1, 1]
    assert set(carried["votes"]) == {""}
    assert (carried["model_version"] != "").all()
    assert not (table["model_version"][table["origin"] == "direct"] != "").any()
    assert 0 < carried["confidence"][0] <= 1


def test_a_training_set_of_sources_names_them_by_survey_id(
    team: Team, engine: Engine, tmp_path: Path
) -> None:
    with Session(engine) as session, session.begin():
        source = make_source(session, make_catalog(session, name="sky"), survey_id="s-1")
        label_class = session.get_one(LabelClass, team.classes[2])
        make_label(session, make_expert(session), label_class, source_id=source.id)

    result = run("export", tmp_path / "set.fits", "--subject", "source")

    assert result.exit_code == 0, result.output
    table = Table.read(tmp_path / "set.fits")
    assert (table["survey_id"][0], table["label"][0], table["ra"][0]) == ("s-1", "RBT", 150.0)
    assert "path" not in table.colnames


def test_an_export_that_cannot_be_is_explained(team: Team, tmp_path: Path) -> None:
    ending = run("export", tmp_path / "set.xls")
    version = run("export", tmp_path / "set.csv", "--propagated", "--version", "no.such")
    alone = run("export", tmp_path / "set.csv", "--version", "no.such")

    assert (ending.exit_code, version.exit_code, alone.exit_code) == (1, 1, 2)
    assert "ends in .csv" in ending.stderr
    assert "no version 'no.such' of exposure_map" in version.stderr
    assert "give --propagated too" in alone.stderr
    assert not list(tmp_path.glob("set*"))


def test_labels_are_imported_in_an_experts_name(team: Team, engine: Engine, tmp_path: Path) -> None:
    file = write(tmp_path / "labels.csv", "name,label,fault", "e0,bt,x", "e3,Good,y", "e9,BT,z")

    result = run("import", file, "--expert", "CY", "--name", "cam")

    assert result.exit_code == 0, result.output
    assert "2 labels stored for cy, 0 were there" in result.stdout
    assert "1 are not in catalog 'cam': e9" in result.stderr
    assert stored(engine) == [(team.exposures[0], "BT"), (team.exposures[3], "Good")]


def test_an_import_stores_nothing_twice_and_adds_what_has_come_since(
    team: Team, engine: Engine, tmp_path: Path
) -> None:
    file = write(tmp_path / "labels.csv", "name,label", "e0,BT", "e9,Good")
    words = ("import", file, "--expert", "cy", "--name", "cam")
    run(*words)
    with Session(engine) as session, session.begin():
        cam = session.scalars(sa.text("SELECT id FROM catalog WHERE name = 'cam'")).one()
        later = make_exposure(session, 0, None, name="e9", catalog_id=cam).id

    second, third = run(*words, "--json"), run(*words, "--json")

    assert json.loads(second.stdout)["n_stored"] == 1
    assert [json.loads(third.stdout)[key] for key in ("n_stored", "n_known")] == [0, 2]
    assert stored(engine) == [(team.exposures[0], "BT"), (later, "Good")]


def test_an_import_in_many_requests_can_be_repeated(
    team: Team, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.labels.MAX_SUBJECTS", 2)
    lines = [f"e{k},{'Good' if k else 'BT'}" for k in range(6)]
    file = write(tmp_path / "labels.csv", "name,label", *lines)
    words = ("import", file, "--expert", "cy", "--name", "cam", "--json")

    first, again = json.loads(run(*words).stdout), json.loads(run(*words).stdout)

    assert (first["n_stored"], again["n_stored"], again["n_known"]) == (6, 0, 6)
    assert len(stored(engine)) == 6


def test_missing_classes_are_named_or_added(team: Team, engine: Engine, tmp_path: Path) -> None:
    file = write(tmp_path / "labels.csv", "# from a camera", "name,truth", "e0,BGP", "e1,good")
    words = ("import", file, "--expert", "cy", "--name", "cam", "--column", "truth")

    refused, added = run(*words), run(*words, "--add-classes")

    assert refused.exit_code == 1
    assert "no label classes 'BGP'" in refused.stderr
    assert "label classes added: BGP" in added.stdout
    assert stored(engine) == [(team.exposures[0], "BGP"), (team.exposures[1], "Good")]


def test_rows_that_contradict_each_other_are_listed(
    team: Team, engine: Engine, tmp_path: Path
) -> None:
    lines = ("e0,BT", "e1,Good", "e0,Good", "e1,Good", ",Good", "e2,")
    file = write(tmp_path / "labels.csv", "name,label", *lines)

    result = run("import", file, "--expert", "cy", "--name", "cam")

    assert "1 have several labels in the file, and got none: e0" in result.stderr
    assert "2 rows without name or label passed over" in result.stdout
    assert stored(engine) == [(team.exposures[1], "Good")]


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        (["file,label", "a,BT"], [], "expected the columns name, and label; arrived file, label"),
        (["name,label", "e77,BT"], [], "no label was stored"),
        (["name,label", "e0,BT"], ["--expert", "dora"], "there is no account 'dora'"),
        (["name,label", "e0,BT"], ["--name", "nowhere"], "there is no catalog 'nowhere'"),
        (["name,label", "e0,BT"], ["--expert", "guest"], "guest may not label"),
    ],
)
def test_an_import_that_cannot_be_is_explained(
    team: Team,
    engine: Engine,
    tmp_path: Path,
    lines: Sequence[str],
    words: Sequence[str],
    message: str,
) -> None:
    with Session(engine) as session, session.begin():
        make_expert(session, "guest", role="viewer")
    file = write(tmp_path / "labels.csv", *lines)

    result = run("import", file, "--expert", "cy", "--name", "cam", *words)

    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert stored(engine) == []
