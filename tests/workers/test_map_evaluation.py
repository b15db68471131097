"""`skygloss evaluate exposure_map` on exposures in the database."""

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db.tables import Catalog, Exposure, ExposureCell, ModelVersion
from tests.builders import (
    make_catalog,
    make_expert,
    make_exposure,
    make_label,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
)

CELLS = [(0, 0)] * 4 + [(1, 2)] * 3
LABELS = ["Good", "Good", "Good", "BT", "RBT", "RBT", "Good"]


@pytest.fixture
def exposures(engine: Engine, environment: dict[str, str]) -> list[str]:
    """Seven exposures in two cells, the first of each the nearest, and a novel one; their names."""
    with Session(engine) as session, session.begin():
        catalog = make_catalog(session, name="night", survey="exposure")
        version = make_model_version(session, annotator="exposure_map", state="current")
        run = make_run(session, version)
        make_prototypes(session, version)
        names = []
        for k, (row, column) in enumerate([*CELLS, (0, 0)]):
            exposure = make_exposure(session, 0, catalog)
            session.add(
                ExposureCell(
                    exposure_id=exposure.id,
                    model_version_id=version.id,
                    cell_row=row,
                    cell_column=column,
                    quantization_error=float(k),
                    latent=[row * 3 + column + 0.1, 0],
                    flags=4 if k == len(CELLS) else 0,
                    run_id=run.id,
                )
            )
            names.append(exposure.name)
    return names


@pytest.fixture
def truth(exposures, tmp_path):
    rows = [
        f"{name},{label},{'' if label == 'Good' else 'trails'}"
        for name, label in zip(exposures, [*LABELS, "Good"], strict=True)
    ]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["name,label,fault", *rows]) + "\n")
    return path


def evaluate(*arguments):
    command = ["evaluate", "exposure_map", "--name", "night", *map(str, arguments)]
    return CliRunner().invoke(main, command)


def test_labels_of_cells_are_scored_by_a_table_of_the_truth(truth):
    chosen = ("--truth", truth, "--per-cell", 1, "--look", "nearest", "--repeats", 1)

    result = evaluate(*chosen, "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["n_exposures"], found["n_looked"], found["n_scored"]) == (8, 2, 5)
    assert found["scores"]["accuracy"]["value"] == 0.6
    assert found["scores"]["coverage"]["value"] == pytest.approx(5 / 6, abs=1e-3)
    assert found["confusion"] == [[0, 1, 0, 0], [0, 2, 1, 1], [0, 0, 1, 0]]
    assert found["topographic_error"] == 0
    assert found["novel"] == 0.125
    (trails,) = found["left_out"]
    assert (trails["fault"], trails["n"]) == ("trails", 3)


def test_the_tables_show_the_published_numbers_beside_ours(truth):
    result = evaluate("--truth", truth, "--budget", 0.25)

    assert result.exit_code == 0, result.output
    for part in ("always Good", "0.940", "0.991", "2 were looked at (25.0 %)", "trails"):
        assert part in result.output


def test_exposures_that_are_not_on_the_map_count_as_blank(truth, engine):
    with Session(engine) as session, session.begin():
        catalog = session.query(Catalog).filter_by(name="night").one()
        dark = make_exposure(session, 0, catalog).name
    truth.write_text(truth.read_text() + f"{dark},BGP,darkness\n")
    chosen = ("--truth", truth, "--per-cell", 1, "--look", "nearest", "--repeats", 1)

    found = json.loads(evaluate(*chosen, "--json").output)

    assert (found["n_exposures"], found["n_on_map"], found["n_off_map"]) == (9, 8, 1)
    assert found["scores"]["coverage"]["value"] == pytest.approx(5 / 7, abs=1e-3)
    (darkness,) = (each for each in found["left_out"] if each["fault"] == "darkness")
    assert darkness["blank"] == 1
    assert "1 with known truth are not on the map" in evaluate(*chosen).output


def test_a_table_may_have_comments_blanks_and_names_that_come_twice(exposures, tmp_path):
    path = tmp_path / "labels.csv"
    first, second, third, fourth = exposures[:4]
    rows = [f"{first},Good", f"{first},Good", f"{second},BT", f"{second},RBT", f"{third},"]
    path.write_text("\n".join(["# %ECSV 1.0", "# ---", "name,label", *rows, f"{fourth},BT"]))

    result = evaluate("--truth", path, "--per-cell", 1, "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["n_exposures"] == 2


def test_without_a_table_the_truth_is_what_most_experts_say(exposures, engine):
    with Session(engine) as session, session.begin():
        words = {name: make_label_class(session, name) for name in set(LABELS)}
        experts = [make_expert(session) for _ in range(3)]
        rows = {each.name: each.id for each in session.query(Exposure)}
        for name, label in zip(exposures, LABELS, strict=False):
            for expert in experts[:2]:
                make_label(session, expert, words[label], exposure_id=rows[name])
            make_label(session, experts[2], words["BT"], exposure_id=rows[name])

    result = evaluate("--per-cell", 1, "--look", "nearest", "--repeats", 1, "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["n_exposures"] == 7
    assert found["scores"]["accuracy"]["value"] == 0.6


def test_labels_that_a_team_gave_to_cells_are_scored_where_nobody_labelled_the_exposure(
    exposures, truth, engine
):
    with Session(engine) as session, session.begin():
        good, trails = (make_label_class(session, name) for name in ("Good", "Trails"))
        expert = make_expert(session)
        version = session.query(ModelVersion).one().id
        first = session.query(Exposure).filter_by(name=exposures[0]).one().id
        cell = {"model_version_id": version, "cell_row": 0, "cell_column": 0}
        make_label(session, expert, good, **cell)
        make_label(session, expert, trails, **{**cell, "cell_row": 1, "cell_column": 1})
        make_label(session, expert, good, exposure_id=first)

    result = evaluate("--truth", truth, "--labels", "team", "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["n_looked"], found["n_scored"]) == (1, 3)
    assert found["scores"]["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["scores"]["coverage"]["value"] == pytest.approx(3 / 7, abs=1e-3)
    assert "1 were labelled themselves" in evaluate("--truth", truth, "--labels", "team").output


def test_labels_of_a_team_need_a_truth_and_cells_that_are_labelled(truth):
    assert "needs --truth" in evaluate("--labels", "team").output
    assert "no cell of" in evaluate("--labels", "team", "--truth", truth).output


def test_what_is_missing_is_said(exposures, tmp_path):
    table, other = tmp_path / "table.csv", tmp_path / "other.csv"
    table.write_text("id,kind\n1,Good\n")
    other.write_text("name,label\nelsewhere,Good\n")

    assert (
        "expected the columns name, and label; arrived id, kind"
        in evaluate("--truth", table).output
    )
    assert "no name in the table is theirs" in evaluate("--truth", other).output
    assert "experts label some first" in evaluate().output


def test_a_catalog_that_is_not_on_the_map_is_said_to_be_so(exposures, engine):
    with Session(engine) as session, session.begin():
        make_catalog(session, name="empty")

    result = CliRunner().invoke(main, ["evaluate", "exposure_map", "--name", "empty"])

    assert result.exit_code == 1
    assert "place them first (skygloss annotate)" in result.output
