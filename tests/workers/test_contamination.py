"""The share of shreds in a selection, corrected for what the classifier gets wrong."""

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.builders import make_catalog, make_model_version, make_run, make_shred, make_source
from workers.contamination import Selected, contamination_command, count, errors_of

CARD = {"name": "tiny.test", "errors": {"tp": 180, "fn": 20, "tn": 285, "fp": 15}}


def annotate(session: Session, catalog_name: str, p_shred: list[float | None]) -> None:
    version = make_model_version(session, state="current", card=CARD)
    run = make_run(session, version)
    catalog = make_catalog(session, name=catalog_name)
    for p in p_shred:
        make_shred(session, make_source(session, catalog), run, p_shred=p)
    make_source(session, make_catalog(session))


def test_judged_and_called_sources_of_a_catalog_are_counted(session: Session) -> None:
    annotate(session, "field", [0.9, 0.5, 0.1, None])

    assert count(session, "annotated_source", "field") == Selected(4, 3, 2)
    assert count(session, "annotated_source") == Selected(5, 3, 2)


def test_a_selection_that_nobody_judged_is_an_error(session: Session) -> None:
    annotate(session, "field", [])

    with pytest.raises(ValueError, match="annotate it first"):
        count(session, "saga_candidate")


def test_the_errors_are_those_of_the_card() -> None:
    errors = errors_of(CARD)

    assert (errors.completeness, errors.specificity) == (0.90, 0.95)


def test_a_card_without_errors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tiny\.test must give errors with tp, fn, tn and fp"):
        errors_of({"name": "tiny.test"})


def test_the_command_corrects_the_share_that_was_called(
    engine: Engine, environment: dict[str, str]
) -> None:
    n_shreds, n = 23, 100
    with Session(engine) as session, session.begin():
        annotate(session, "field", [0.9] * n_shreds + [0.1] * (n - n_shreds))

    result = CliRunner().invoke(contamination_command, ["--catalog", "field", "--json"])

    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    expected = (n_shreds / n + 0.95 - 1) / (0.90 + 0.95 - 1)  # Rogan & Gladen (1978), eq. 1
    assert found["contamination"]["value"] == pytest.approx(expected, abs=0.01)
    assert found["contamination"]["low"] < expected < found["contamination"]["high"]
