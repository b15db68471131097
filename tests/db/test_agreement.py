"""Votes out of the database, subjects in dispute, subjects left to say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.testing import assert_array_equal
from sqlalchemy.orm import Session

from db import agreement, labels
from db.agreement import MISSING
from db.labels import Subject
from db.tables import Expert, LabelClass
from tests.builders import (
    make_expert,
    make_exposure,
    make_label,
    make_label_class,
    make_model_version,
    make_source,
)


@dataclass(frozen=True)
class Team:
    """Three experts, three classes and some exposures."""

    session: Session
    experts: Sequence[Expert]
    classes: Sequence[LabelClass]
    exposures: Sequence[int]

    def say(self, expert: int, exposure: int, label_class: int) -> None:
        """Let an expert give a label, each by its place."""
        make_label(
            self.session,
            self.experts[expert],
            self.classes[label_class],
            exposure_id=self.exposures[exposure],
        )

    def say_all(self, votes: Sequence[str]) -> None:
        """One word per exposure: what each expert says of it, a dot for nothing."""
        for exposure, word in enumerate(votes):
            for expert, said in enumerate(word):
                if said != ".":
                    self.say(expert, exposure, int(said))


@pytest.fixture
def team(session: Session) -> Team:
    experts = [make_expert(session) for _ in range(3)]
    classes = [make_label_class(session) for _ in range(3)]
    exposures = [make_exposure(session, n=0).id for _ in range(6)]
    return Team(session, experts, classes, exposures)


def disputed(session: Session, **which: str) -> list[str]:
    page = agreement.disagreements(session, size=100, **which)
    return [str(Subject.of(row)) for row in page.rows]


def test_votes_are_an_array_of_subjects_and_experts(team: Team) -> None:
    team.say_all(["01.", ".2.", "...", "222"])

    found = agreement.votes(team.session, "exposure")

    chosen = [team.exposures[i] for i in (0, 1, 3)]
    assert_array_equal(found.subjects, np.array(chosen)[:, None])
    assert [expert.id for expert in found.experts] == [expert.id for expert in team.experts]
    assert [one.id for one in found.classes] == [one.id for one in team.classes]
    assert_array_equal(found.said, [[0, 1, MISSING], [MISSING, 2, MISSING], [2, 2, 2]])
    assert str(found.subject(2)) == f"exposure:{team.exposures[3]}"


def test_a_vote_is_the_last_word_and_nothing_that_was_taken_back(team: Team) -> None:
    session, subject = team.session, Subject("exposure", (team.exposures[0],))
    first, second, third = (expert.id for expert in team.experts)
    a, b, _ = (one.id for one in team.classes)
    labels.give(session, first, "1", [subject], a)
    labels.give(session, first, "2", [subject], b)
    labels.give(session, second, "1", [subject], a)
    labels.undo(session, second, "2")
    labels.give(session, third, "1", [subject], a)
    labels.clear(session, third, "2", [subject])

    found = agreement.votes(session, "exposure")

    assert [expert.id for expert in found.experts] == [first]
    assert [one.id for one in found.classes] == [b]
    assert_array_equal(found.said, [[0]])


def test_labels_of_a_retired_class_still_count(team: Team) -> None:
    team.say_all(["01."])
    team.classes[1].retired_at = sa.func.now()
    team.session.flush()

    found = agreement.votes(team.session, "exposure")

    assert [one.id for one in found.classes] == [one.id for one in team.classes[:2]]
    assert agreement.n_disagreements(team.session) == 1


def test_without_labels_the_arrays_are_empty(session: Session) -> None:
    found = agreement.votes(session, "cell")

    assert found.said.shape == (0, 0)
    assert found.subjects.shape == (0, 3)
    assert not found.experts


def test_cells_are_those_of_one_map_or_of_all(team: Team) -> None:
    session = team.session
    versions = [make_model_version(session, annotator="exposure_map") for _ in range(2)]
    for version in versions:
        cell = {"model_version_id": version.id, "cell_row": 1, "cell_column": 2}
        make_label(session, team.experts[0], team.classes[0], **cell)

    assert len(agreement.votes(session, "cell").said) == 2
    one = agreement.votes(session, "cell", versions[0].id)
    assert_array_equal(one.subjects, [[versions[0].id, 1, 2]])


def test_the_most_divided_subjects_come_first_then_the_newest(team: Team) -> None:
    team.say_all(["001", "00.", "01.", "012", ".10", "2.."])

    assert disputed(team.session) == [f"exposure:{team.exposures[i]}" for i in (3, 4, 2, 0)]
    assert agreement.n_disagreements(team.session) == 4


def test_a_disagreement_says_how_divided_it_is(team: Team) -> None:
    team.say_all(["001"])

    row = agreement.disagreements(team.session).rows[0]

    share = 1 / 3
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert (row.n_experts, row.n_classes) == (3, 2)
    assert row.entropy == pytest.approx(entropy, abs=1e-6)


def test_a_disagreement_ends_when_the_experts_agree_not_by_majority(team: Team) -> None:
    team.say_all(["001"])
    assert len(disputed(team.session)) == 1

    team.say(2, 0, 0)

    assert disputed(team.session) == []


def test_a_disagreement_ends_when_the_label_is_taken_back(team: Team) -> None:
    subject = Subject("exposure", (team.exposures[0],))
    team.say_all(["01."])

    labels.clear(team.session, team.experts[1].id, "1", [subject])

    assert agreement.n_disagreements(team.session) == 0


def test_disagreements_are_paged_forth_and_back(team: Team) -> None:
    team.say_all(["001", "01.", "012", ".10"])
    session = team.session
    everything = disputed(session)

    first = agreement.disagreements(session, size=2)
    second = agreement.disagreements(session, size=2, after=first.next)
    back = agreement.disagreements(session, size=2, before=second.previous)

    pages = [[str(Subject.of(row)) for row in page.rows] for page in (first, second, back)]
    assert pages == [everything[:2], everything[2:], everything[:2]]
    assert second.next is None


def test_disagreements_are_narrowed_to_a_kind_and_to_maps_in_use(team: Team) -> None:
    session = team.session
    team.say_all(["01."])
    source = make_source(session)
    used = make_model_version(session, annotator="source_map")
    retired = make_model_version(session, annotator="source_map", state="retired")
    for expert, label_class in zip(team.experts[:2], team.classes[:2], strict=True):
        make_label(session, expert, label_class, source_id=source.id)
        for version in (used, retired):
            cell = {"model_version_id": version.id, "cell_row": 0, "cell_column": 3}
            make_label(session, expert, label_class, **cell)

    assert disputed(session, kind="cell") == [f"cell:{used.id}:0:3"]
    assert disputed(session, kind="source") == [f"source:{source.id}"]
    assert len(disputed(session)) == 3


def test_an_expert_is_left_what_others_labelled(team: Team) -> None:
    team.say_all(["01.", "0..", "..0", ".1."])

    page = agreement.unsaid(team.session, team.experts[1].id, size=10)

    assert [row.exposure_id for row in page.rows] == [team.exposures[2], team.exposures[1]]
    assert agreement.n_unsaid(team.session, team.experts[1].id) == 2
    assert not {"label_class_id", "n_classes", "entropy"} & set(page.rows[0]._fields)


def test_a_queue_holds_every_subject_once_where_labels_came_in_one_request(team: Team) -> None:
    subjects = [Subject("exposure", (number,)) for number in team.exposures]
    for expert, label_class in zip(team.experts[:2], team.classes[:2], strict=True):
        labels.give(team.session, expert.id, "all", subjects, label_class.id)

    found, after = [], None
    while True:
        page = agreement.disagreements(team.session, size=1, after=after)
        found += [row.exposure_id for row in page.rows]
        if page.next is None:
            break
        after = page.next

    assert sorted(found) == list(team.exposures)
