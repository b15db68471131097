"""What experts say: stored whole and once, taken back, and counted as it should."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from db import label_classes, labels
from db.labels import Subject
from db.tables import Audit, Expert, ExposureCell, Label, LabelClass, ModelVersion
from tests.builders import (
    make_expert,
    make_exposure,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
    make_source,
)


class Team(NamedTuple):
    """Two experts, two classes, and a map of exposures of 2 x 3 cells."""

    ada: Expert
    bob: Expert
    good: LabelClass
    bad: LabelClass
    version: ModelVersion

    def cell(self, row: int, column: int) -> Subject:
        return Subject("cell", (self.version.id, row, column))


@pytest.fixture
def team(session: Session) -> Team:
    version = make_model_version(session, annotator="exposure_map", state="current")
    make_prototypes(session, version, 2, 3)
    return Team(
        make_expert(session, "ada"),
        make_expert(session, "bob"),
        make_label_class(session, "Good", key="g", colour=0),
        make_label_class(session, "Bad seeing", key="b", colour=1),
        version,
    )


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Label)) or 0


def says(session: Session, expert: Expert, subject: Subject) -> str | None:
    """What an expert says of a subject at present."""
    rows = labels.current(session, [subject])[subject]
    return next((row.name for row in rows if row.expert_id == expert.id), None)


def test_a_subject_reads_as_it_is_written() -> None:
    for word in ("cell:3:0:24", "exposure:12", "source:9007199254740993"):
        assert str(labels.parse(word)) == word


@pytest.mark.parametrize(
    "word",
    ["", "cell", "cell:1:2", "cell:1:2:3:4", "source:-1", "source:1e3", "galaxy:1", "source:",
     "source: 1", "cell:1:32768:0", "exposure:9999999999999999999", "exposure:²"],
)  # fmt: skip
def test_anything_else_is_no_subject(word: str) -> None:
    with pytest.raises(labels.BadLabel, match="expected a subject like"):
        labels.parse(word)


def test_several_subjects_get_a_label_at_once(session: Session, team: Team) -> None:
    exposure, source = make_exposure(session), make_source(session)
    subjects = [
        team.cell(0, 0),
        team.cell(1, 2),
        Subject("exposure", (exposure.id,)),
        Subject("source", (source.id,)),
    ]

    stored = labels.give(session, team.ada.id, "r1", subjects, team.good.id, "  sharp ")

    assert stored.is_new
    assert [Subject.of(label) for label in stored.labels] == subjects
    assert {label.comment for label in stored.labels} == {"sharp"}
    for subject in subjects:
        assert says(session, team.ada, subject) == "Good"


@pytest.mark.parametrize("missing", ["cell:{}:0:3", "exposure:999", "source:999", "cell:999:0:0"])
def test_one_subject_that_does_not_exist_stops_all(
    session: Session, team: Team, missing: str
) -> None:
    unknown = labels.parse(missing.format(team.version.id))

    with pytest.raises(labels.UnknownSubject, match=f"no {unknown}"):
        labels.give(session, team.ada.id, "r1", [team.cell(0, 0), unknown], team.good.id)

    assert count(session) == 0


def test_a_request_sent_again_returns_what_was_stored(session: Session, team: Team) -> None:
    cells = [team.cell(0, 0), team.cell(0, 1)]
    first = labels.give(session, team.ada.id, "r1", cells, team.good.id)

    again = labels.give(session, team.ada.id, "r1", cells, team.good.id)

    assert not again.is_new
    assert [label.id for label in again.labels] == [label.id for label in first.labels]
    assert count(session) == 2


def test_two_experts_may_name_their_requests_alike(session: Session, team: Team) -> None:
    for expert in (team.ada, team.bob):
        assert labels.give(session, expert.id, "r1", [team.cell(0, 0)], team.good.id).is_new


def test_a_name_stands_for_one_request_only(session: Session, team: Team) -> None:
    here, there = team.cell(0, 0), team.cell(0, 1)
    labels.give(session, team.ada.id, "r1", [here], team.good.id)

    for act in (
        lambda: labels.give(session, team.ada.id, "r1", [there], team.good.id),
        lambda: labels.give(session, team.ada.id, "r1", [here], team.bad.id),
        lambda: labels.clear(session, team.ada.id, "r1", [here]),
        lambda: labels.undo(session, team.ada.id, "r1"),
    ):
        with pytest.raises(labels.RequestTaken, match="'r1' said something else"):
            act()
    assert count(session) == 1


def test_the_same_request_from_many_threads_is_stored_once(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        ada, good = make_expert(session), make_label_class(session)
        subjects = [Subject("source", (make_source(session).id,)) for _ in range(3)]

    def send(_: int) -> bool:
        with Session(engine) as own, own.begin():
            return labels.give(own, ada.id, "r1", subjects, good.id).is_new

    with ThreadPoolExecutor(8) as threads:
        new = list(threads.map(send, range(24)))

    with Session(engine) as session:
        assert (sum(new), count(session)) == (1, 3)


@pytest.mark.parametrize("request_name", ["", "a b", "x" * 101, "é", "a\0"])
def test_a_request_needs_a_plain_name(session: Session, team: Team, request_name: str) -> None:
    with pytest.raises(labels.BadLabel, match="expected a name of the request"):
        labels.give(session, team.ada.id, request_name, [team.cell(0, 0)], team.good.id)


def test_too_many_or_no_subjects_are_refused(session: Session, team: Team) -> None:
    many = [Subject("source", (k,)) for k in range(1, 1002)]

    for subjects in ([], many):
        with pytest.raises(labels.BadLabel, match="1 to 1,000 subjects"):
            labels.give(session, team.ada.id, "r1", subjects, team.good.id)


def test_a_subject_named_twice_gets_one_label(session: Session, team: Team) -> None:
    labels.give(session, team.ada.id, "r1", [team.cell(0, 0)] * 3, team.good.id)

    assert count(session) == 1


def test_undo_brings_back_the_label_before(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.give(session, team.ada.id, "r2", [cell], team.bad.id)
    assert says(session, team.ada, cell) == "Bad seeing"

    labels.undo(session, team.ada.id, "u1")
    assert says(session, team.ada, cell) == "Good"

    labels.undo(session, team.ada.id, "u2")
    assert says(session, team.ada, cell) is None
    assert count(session) == 4


def test_undo_takes_back_the_whole_of_the_last_request(session: Session, team: Team) -> None:
    cells = [team.cell(0, column) for column in range(3)]
    labels.give(session, team.ada.id, "r1", cells[:1], team.bad.id)
    labels.give(session, team.ada.id, "r2", cells, team.good.id)

    undone = labels.undo(session, team.ada.id, "u1")

    assert len(undone.labels) == 3
    assert [says(session, team.ada, cell) for cell in cells] == ["Bad seeing", None, None]


def test_undo_without_a_name_leaves_imported_labels_alone(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "import:night:0", [cell], team.good.id)

    assert labels.last(session, team.ada.id) == []
    with pytest.raises(labels.NothingToUndo, match="nothing is left"):
        labels.undo(session, team.ada.id, "u1")
    labels.undo(session, team.ada.id, "u1", of="import:night:0")

    assert says(session, team.ada, cell) is None


def test_what_was_said_and_taken_back_is_told_in_words(session: Session, team: Team) -> None:
    cells = [team.cell(1, column) for column in range(3)]
    said = labels.give(session, team.ada.id, "r1", cells, team.good.id)
    remark = labels.comment(session, team.ada.id, "r2", cells[:1], "hmm")
    cleared = labels.clear(session, team.ada.id, "r3", cells[:2])
    undone = labels.undo(session, team.ada.id, "u1", of="r1")

    assert [labels.wording(session, one.labels) for one in (said, remark, cleared, undone)] == [
        "Good for 3 cells",
        "comment on cell (1, 0)",
        "no opinion on 2 cells",
        "Good for 3 cells",
    ]


def test_undo_of_an_earlier_request_leaves_the_later_one(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.give(session, team.ada.id, "r2", [cell], team.bad.id)

    labels.undo(session, team.ada.id, "u1", of="r1")

    assert says(session, team.ada, cell) == "Bad seeing"


def test_undo_of_the_end_of_an_opinion_brings_the_opinion_back(
    session: Session, team: Team
) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.clear(session, team.ada.id, "r2", [cell])
    assert says(session, team.ada, cell) is None

    labels.undo(session, team.ada.id, "u1")

    assert says(session, team.ada, cell) == "Good"


def test_an_undo_sent_again_takes_back_nothing_more(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.give(session, team.ada.id, "r2", [cell], team.bad.id)

    first = labels.undo(session, team.ada.id, "u1")
    again = labels.undo(session, team.ada.id, "u1")

    assert [label.id for label in again.labels] == [label.id for label in first.labels]
    assert not again.is_new
    assert says(session, team.ada, cell) == "Good"


def test_what_cannot_be_taken_back_is_refused_in_words(session: Session, team: Team) -> None:
    labels.give(session, team.bob.id, "r1", [team.cell(0, 0)], team.good.id)

    with pytest.raises(labels.NothingToUndo, match="nothing is left"):
        labels.undo(session, team.ada.id, "u1")
    with pytest.raises(labels.NothingToUndo, match="you made no request 'r1'"):
        labels.undo(session, team.ada.id, "u1", of="r1")
    labels.undo(session, team.bob.id, "u1")
    with pytest.raises(labels.NothingToUndo, match="taken back already"):
        labels.undo(session, team.bob.id, "u2", of="r1")


def test_a_comment_changes_no_label_and_can_be_taken_back(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.comment(session, team.bob.id, "r1", [cell], "a satellite?")

    assert [row.Label.comment for row in labels.remarks(session, cell)] == ["a satellite?"]
    assert says(session, team.ada, cell) == "Good"
    labels.undo(session, team.bob.id, "u1")
    assert labels.remarks(session, cell) == []


@pytest.mark.parametrize("words", ["", "   ", "x" * 2001, "a\0b"])
def test_an_empty_or_endless_comment_is_refused(session: Session, team: Team, words: str) -> None:
    with pytest.raises(labels.BadLabel, match="comment"):
        labels.comment(session, team.ada.id, "r1", [team.cell(0, 0)], words)


def test_a_retired_class_is_given_no_more_but_its_labels_count(
    session: Session, team: Team
) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    label_classes.retire(session, team.good.id, team.ada.id)
    session.flush()

    with pytest.raises(labels.BadLabel, match="'Good' is retired"):
        labels.give(session, team.bob.id, "r1", [cell], team.good.id)

    assert says(session, team.ada, cell) == "Good"


def test_the_team_says_what_most_say_and_nothing_on_a_tie(session: Session, team: Team) -> None:
    cell, cleo = team.cell(0, 0), make_expert(session, "cleo")
    for expert, given in ((team.ada, team.good), (team.bob, team.bad)):
        labels.give(session, expert.id, "r1", [cell], given.id)
    assert labels.majority(session, [cell]) == {}

    labels.give(session, cleo.id, "r1", [cell], team.bad.id)

    found = labels.majority(session, [cell])[cell]
    assert (found.name, found.n_votes, found.n_experts) == ("Bad seeing", 2, 3)


def test_a_blind_expert_is_shown_only_her_own_label(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.bob.id, "r1", [cell], team.bad.id)
    team.ada.blind = True
    session.flush()
    assert labels.shown(session, [cell], team.ada) == {}

    stored = labels.give(session, team.ada.id, "r1", [cell], team.good.id)

    assert stored.labels[0].blind
    assert labels.shown(session, [cell], team.ada)[str(cell)].name == "Good"
    assert labels.shown(session, [cell], team.bob) == {}


def test_a_label_of_a_cell_reaches_its_members_apart_from_direct_ones(
    session: Session, team: Team
) -> None:
    exposure, run = make_exposure(session), make_run(session, team.version)
    session.add(
        ExposureCell(
            exposure_id=exposure.id,
            model_version_id=team.version.id,
            cell_row=0,
            cell_column=0,
            flags=0,
            run_id=run.id,
        )
    )
    session.flush()
    member = Subject("exposure", (exposure.id,))
    labels.give(session, team.ada.id, "r1", [team.cell(0, 0)], team.good.id)

    (from_cell,) = labels.propagated(session, member)

    assert (from_cell.name, from_cell.confidence) == ("Good", 0.5)
    assert labels.current(session, [member])[member] == []
    labels.give(session, team.ada.id, "r2", [member], team.bad.id)
    (from_cell,) = labels.propagated(session, member)
    assert (from_cell.name, from_cell.confidence) == ("Good", pytest.approx(1 / 3))
    assert says(session, team.ada, member) == "Bad seeing"


def said(page: labels.Page) -> list[tuple[str, str, bool]]:
    return [(row.expert, row.Label.action, row.undone) for row in page.rows]


def test_the_history_keeps_everything_the_newest_first(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)
    labels.comment(session, team.bob.id, "r1", [cell], "really?")
    labels.undo(session, team.ada.id, "u1")

    page = labels.history(session)

    assert said(page) == [("ada", "undo", False), ("bob", "comment", False), ("ada", "label", True)]
    assert page.rows[0].undone_request == "r1"


def test_the_history_is_narrowed_by_subject_expert_class_and_kind(
    session: Session, team: Team
) -> None:
    exposure = Subject("exposure", (make_exposure(session).id,))
    labels.give(session, team.ada.id, "r1", [team.cell(0, 0)], team.good.id)
    labels.give(session, team.bob.id, "r1", [exposure], team.bad.id)

    def found(**conditions: object) -> list[str]:
        return [row.expert for row in labels.history(session, **conditions).rows]  # type: ignore[arg-type]

    assert found(subject=exposure) == ["bob"]
    assert found(expert_id=team.ada.id) == ["ada"]
    assert found(label_class_id=team.bad.id) == ["bob"]
    assert found(kind="cell") == ["ada"]
    assert found(kind="source") == []


def test_the_pages_of_a_history_hold_every_row_once(session: Session, team: Team) -> None:
    for k in range(7):
        labels.give(session, team.ada.id, f"r{k}", [team.cell(0, k % 3)], team.good.id)
    seen: list[str] = []
    after = None

    while True:
        page = labels.history(session, after=after, size=3)
        seen += [row.Label.request for row in page.rows]
        if page.next is None:
            break
        after = page.next

    assert seen == [f"r{k}" for k in reversed(range(7))]


def test_current_labels_of_many_subjects_use_the_indexes(session: Session, team: Team) -> None:
    """A page of a map must not read every label there is."""
    session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = session.execute(
        text(
            "EXPLAIN SELECT * FROM label_majority"
            " WHERE (model_version_id, cell_row, cell_column) IN ((:map, 0, 0), (:map, 0, 1))"
        ),
        {"map": team.version.id},
    )

    assert "ix_label_cell" in " ".join(plan.scalars())


def classes(session: Session) -> Sequence[str]:
    return [one.name for one in label_classes.listed(session)]


def test_a_class_gets_the_next_free_key_and_colour(session: Session) -> None:
    ada = make_expert(session)

    added = [label_classes.add(session, name, ada.id, "auto") for name in ("Good", "Bad", "Ugly")]

    assert [(one.key, one.colour) for one in added] == [("1", 0), ("2", 1), ("3", 2)]
    assert classes(session) == ["Good", "Bad", "Ugly"]


def test_labels_follow_a_class_that_is_renamed(session: Session, team: Team) -> None:
    cell = team.cell(0, 0)
    labels.give(session, team.ada.id, "r1", [cell], team.good.id)

    label_classes.change(session, team.good.id, team.bob.id, name="Fine", key="f", colour=7)

    (row,) = labels.current(session, [cell])[cell]
    assert (row.name, row.key, row.colour) == ("Fine", "f", 7)
    audited = session.scalars(select(Audit)).one()
    assert audited.action == "change class"
    assert audited.details["name"] == ["Good", "Fine"]


@pytest.mark.parametrize("taken", [{"name": "gOOD"}, {"name": "Other", "key": "g"}])
def test_two_offered_classes_share_neither_name_nor_key(
    session: Session, team: Team, taken: dict[str, str]
) -> None:
    with pytest.raises(label_classes.BadClass, match="already"):
        label_classes.add(session, **taken)
    with pytest.raises(label_classes.BadClass, match="already"):
        label_classes.change(session, team.bad.id, None, **taken)

    assert classes(session) == ["Good", "Bad seeing"]


def test_a_retired_class_leaves_its_name_and_key_and_comes_back_if_they_are_free(
    session: Session, team: Team
) -> None:
    label_classes.retire(session, team.good.id, None)
    session.flush()
    new = label_classes.add(session, "Good", key="g")

    with pytest.raises(label_classes.BadClass, match="already"):
        label_classes.restore(session, team.good.id, None)

    label_classes.retire(session, new.id, None)
    session.flush()
    label_classes.restore(session, team.good.id, None)
    assert classes(session) == ["Good", "Bad seeing"]


@pytest.mark.parametrize(
    "values",
    [{"name": ""}, {"name": "<b>"}, {"name": "x", "key": "z"}, {"name": "x", "key": "ab"},
     {"name": "x", "colour": 12}, {"name": "x", "description": "a\0"}],
)  # fmt: skip
def test_a_class_that_breaks_the_rules_is_refused(
    session: Session, values: dict[str, object]
) -> None:
    with pytest.raises(label_classes.BadClass, match="expected"):
        label_classes.add(session, **values)  # type: ignore[arg-type]


def test_an_unknown_class_is_named(session: Session, team: Team) -> None:
    with pytest.raises(label_classes.UnknownClass, match="no label class 999"):
        labels.give(session, team.ada.id, "r1", [team.cell(0, 0)], 999)
