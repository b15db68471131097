"""The queue of disagreements and the page about agreement: who sees what, in which order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from db import experts, labels
from db.labels import Subject
from db.tables import ExposureCell
from tests.builders import (
    make_catalog,
    make_expert,
    make_exposure,
    make_label_class,
    make_model_version,
    make_prototypes,
    make_run,
    make_source,
)
from web import create_app


@dataclass(frozen=True)
class Site:
    """A client, what signs each expert in, and numbers of classes, exposures and the map."""

    client: FlaskClient
    headers: Mapping[str, Mapping[str, str]]
    engine: Engine
    classes: Sequence[int]
    exposures: Sequence[int]
    version: int

    def get(self, address: str, name: str = "ana", **headers: str) -> TestResponse:
        wanted = {"Accept": "text/html", **self.headers[name], **headers}
        return self.client.get(address, headers=wanted)

    def words(self, address: str, name: str = "ana") -> str:
        """The text of a page, without tags and with single spaces."""
        page = self.get(address, name)
        assert page.status_code == 200, page.text
        return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())

    def say(self, name: str, subject: str, label_class: int, comment: str = "") -> None:
        with Session(self.engine) as session, session.begin():
            number = experts.find(session, name).id
            words = f"{name}{subject}{label_class}"
            class_id = self.classes[label_class]
            labels.give(session, number, words, [labels.parse(subject)], class_id, comment)


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    """Exposures e0 to e4; ana and bo and cy say 00, 01, 012 and 001 of the first four."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        people = {name: make_expert(session, name) for name in ("ana", "bo", "cy")}
        people["eve"] = make_expert(session, "eve", blind=True)
        headers = {
            name: {"Authorization": f"Bearer {experts.add_program_token(session, one, 'test', 1)}"}
            for name, one in people.items()
        }
        classes = [make_label_class(session, name) for name in ("Good", "Trail", "Blur")]
        catalog = make_catalog(session, survey="exposure")
        exposures = [make_exposure(session, 0, catalog, name=f"e{k}") for k in range(5)]
        version = make_model_version(session, annotator="exposure_map", state="current")
        make_prototypes(session, version)
        run = make_run(session, version)
        for exposure, votes in zip(exposures, ("00", "01", "012", "001", ""), strict=True):
            place = {"cell_row": 1, "cell_column": 2, "flags": 0}
            key = {"exposure_id": exposure.id, "model_version_id": version.id, "run_id": run.id}
            session.add(ExposureCell(**key, **place))
            subject = Subject("exposure", (exposure.id,))
            for name, vote in zip(("ana", "bo", "cy"), votes, strict=False):
                request = f"{name}-{exposure.name}"
                labels.give(session, people[name].id, request, [subject], classes[int(vote)].id)
    client = create_app(engine, tmp_path).test_client()
    numbers = [one.id for one in classes], [one.id for one in exposures]
    return Site(client, headers, engine, *numbers, version.id)


def following(page: str) -> str | None:
    found = re.search(r'<a rel="next" href="([^"]+)"', page)
    return found[1].replace("&amp;", "&") if found else None


def walk(site: Site, address: str | None, name: str = "ana") -> list[str]:
    """The subjects of a queue, page by page."""
    found = []
    while address:
        page = site.get(address, name).text
        found += re.findall(r'data-subjects="([^"]+)"', page)
        address = following(page)
    return found


def test_the_queue_walks_from_the_most_divided_to_the_least(site: Site) -> None:
    wanted = [f"exposure:{site.exposures[k]}" for k in (2, 1, 3)]

    assert walk(site, "/labels/disagreements") == wanted


def test_the_queue_shows_who_said_what_and_the_buttons_to_say_it_again(site: Site) -> None:
    site.say("bo", f"exposure:{site.exposures[2]}", 1, "a satellite, I think")

    words = site.words("/labels/disagreements")

    assert "Disagreements 3" in words
    assert "3 experts, 3 different labels, entropy 1.58 bit" in words
    assert "a satellite, I think" in words
    page = site.get("/labels/disagreements").text
    assert page.count('name="label_class_id"') == 3


def test_a_subject_leaves_the_queue_when_its_experts_agree(site: Site) -> None:
    site.say("bo", f"exposure:{site.exposures[1]}", 0)

    assert f"exposure:{site.exposures[1]}" not in walk(site, "/labels/disagreements")
    assert "Disagreements 2" in site.words("/labels/disagreements")


def test_the_queue_goes_on_from_a_subject_that_was_just_settled(site: Site) -> None:
    first = site.get("/labels/disagreements").text
    for name in ("bo", "cy"):
        site.say(name, f"exposure:{site.exposures[2]}", 0)

    assert walk(site, following(first)) == [f"exposure:{site.exposures[k]}" for k in (1, 3)]


def test_going_back_before_the_first_shows_the_first(site: Site) -> None:
    second = site.get(str(following(site.get("/labels/disagreements").text))).text
    for name in ("bo", "cy"):
        site.say(name, f"exposure:{site.exposures[2]}", 0)

    back = re.search(r'<a rel="prev" href="([^"]+)"', second)

    assert back is not None
    page = site.get(back[1].replace("&amp;", "&")).text
    assert f'data-subjects="exposure:{site.exposures[1]}"' in page


def test_cells_and_sources_have_a_queue_of_their_own(site: Site) -> None:
    with Session(site.engine) as session, session.begin():
        source = make_source(session, survey_id="s-7").id
    cell = f"cell:{site.version}:1:2"
    for k, name in enumerate(("ana", "bo")):
        site.say(name, cell, k)
        site.say(name, f"source:{source}", k)

    assert walk(site, "/labels/disagreements?kind=cell") == [cell]
    assert walk(site, "/labels/disagreements?kind=source") == [f"source:{source}"]
    assert "Row 1, column 2 of exposure_map" in site.words("/labels/disagreements?kind=cell")
    assert "s-7" in site.words("/labels/disagreements?kind=source")
    assert len(walk(site, "/labels/disagreements")) == 5


def test_an_empty_queue_says_so(site: Site) -> None:
    words = site.words("/labels/disagreements?kind=source")

    assert "Nobody disagrees" in words


def test_the_blind_see_what_is_left_to_label_and_not_what_was_said(site: Site) -> None:
    site.say("eve", f"exposure:{site.exposures[3]}", 2)

    assert walk(site, "/labels/disagreements", "eve") == [
        f"exposure:{site.exposures[k]}" for k in (2, 1, 0)
    ]
    words = site.words("/labels/disagreements", "eve")
    assert "Yours to label 3" in words
    assert "what others say stays hidden" in words
    for hidden in ("different labels", "entropy", "cy", "bo"):
        assert f" {hidden} " not in words


def test_the_blind_see_no_agreement(site: Site) -> None:
    words = site.words("/labels/agreement", "eve")

    assert "would tell you what others say" in words
    assert "kappa" not in words
    as_json = site.get("/labels/agreement", "eve", Accept="application/json")
    assert "kappa" not in as_json.text


@pytest.mark.parametrize("address", ["/labels/disagreements", "/labels/agreement"])
def test_whoever_is_not_signed_in_is_sent_to_sign_in(site: Site, address: str) -> None:
    answer = site.client.get(address)

    assert answer.status_code == 303
    assert "/sign-in?next=" in answer.location


def test_agreement_is_measured_with_intervals_by_pair_class_and_expert(site: Site) -> None:
    words = site.words("/labels/agreement")

    assert "4 exposures have labels of 3 experts; 4 of two or more: 1 with one voice" in words
    assert "3 in dispute , 2 of those without a majority" in words
    assert "All, Fleiss’ kappa" in words
    assert "ana and bo" in words
    assert "too few subjects to say (4 of at least 30)" in words
    assert "Estimated share right" in words


def test_cells_are_listed_by_the_purity_of_their_labelled_members(site: Site) -> None:
    words = site.words("/labels/agreement")

    assert "row 1, column 2 1.00" in words
    site.say("bo", f"exposure:{site.exposures[4]}", 1)
    assert "row 1, column 2 0.67" in site.words("/labels/agreement")
    assert "/maps/exposure_map/1/2" in site.get("/labels/agreement").text


def test_programs_get_the_numbers(site: Site) -> None:
    found = site.get("/labels/agreement", Accept="application/json").json

    assert found["n_subjects"] == 4
    assert {one["expert"]: one["n"] for one in found["experts"]} == {"ana": 4, "bo": 4, "cy": 2}
    assert len(found["pairs"]) == 3


def test_agreement_without_labels_is_explained(site: Site) -> None:
    assert "There are none yet." in site.words("/labels/agreement?kind=source")


def test_what_is_no_kind_is_explained(site: Site) -> None:
    answer = site.get("/labels/disagreements?kind=star")

    assert answer.status_code == 400
    assert "exposure, source, cell" in answer.text
