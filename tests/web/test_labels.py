"""Labels through the pages and through JSON: stored once, shown to whom they may, never lost."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import URL, Engine, QueuePool, text

from db.engine import create_engine
from tests.conftest import new_database
from tests.web.team import PASSWORD, Team, gather, words
from tests.workers.test_kill import private_server

EVIL = "<script>alert(1)</script>"
STYLE = Path(__file__).parents[2] / "web/static/style.css"


@pytest.fixture
def team(engine: Engine) -> Team:
    return gather(engine)


def test_a_label_is_answered_with_what_was_stored(team: Team) -> None:
    cells = [team.cell(0, 0), team.cell(1, 2)]

    answer = team.say("ada", request="r1", subjects=cells, action="label", label_class_id=team.good)

    assert answer.status_code == 201
    facts = answer.json
    assert facts is not None
    assert [label["subject"] for label in facts["labels"]] == cells
    good = {"id": team.good, "name": "Good", "key": "1", "colour": 0}
    assert facts["now"] == {cell: {"shown": good, "mine": good} for cell in cells}
    assert not facts["repeated"]


def test_a_request_repeated_after_a_lost_answer_is_stored_once(team: Team) -> None:
    body = {"request": "r1", "subjects": [team.cell(0, 0)], "label_class_id": team.good}
    first, again = team.say("ada", **body), team.say("ada", **body)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json is not None
    assert again.json is not None
    assert again.json["labels"] == first.json["labels"]
    assert again.json["repeated"]
    assert team.n_labels() == 1


def test_undo_answers_with_the_label_that_counts_again(team: Team) -> None:
    cell = team.cell(0, 0)
    team.say("ada", request="r1", subjects=[cell], label_class_id=team.good)
    team.say("ada", request="r2", subjects=[cell], label_class_id=team.bad)

    answer = team.say("ada", "/labels/undo", request="u1", of="r2")

    assert answer.status_code == 201
    assert answer.json is not None
    assert answer.json["now"][cell]["mine"]["name"] == "Good"
    again = team.say("ada", "/labels/undo", request="u2", of="r2")
    assert again.status_code == 409
    assert again.json is not None
    assert "taken back already" in again.json["detail"]


def test_json_without_a_name_of_the_act_is_refused(team: Team) -> None:
    for path, body in (
        ("/labels", {"subjects": [team.cell(0, 0)], "label_class_id": team.good}),
        ("/labels/undo", {}),
    ):
        answer = team.browser("ada").post(path, json=body)
        assert answer.status_code == 400
        assert answer.json is not None
        assert "a name of your own" in answer.json["detail"]
    assert team.n_labels() == 0


def test_nobody_takes_back_what_another_said(team: Team) -> None:
    team.say("ada", request="r1", subjects=[team.cell(0, 0)], label_class_id=team.good)

    by_name = team.say("bob", "/labels/undo", of="r1")
    last = team.say("bob", "/labels/undo")

    assert (by_name.status_code, last.status_code) == (409, 409)
    assert team.n_labels() == 1


def test_viewers_and_strangers_label_nothing(team: Team) -> None:
    body = {"subjects": [team.cell(0, 0)], "label_class_id": team.good}

    assert team.say("vera", **body).status_code == 403
    stranger = team.visitor()
    assert stranger.post("/labels", json=body).status_code == 401
    assert stranger.post("/labels/classes", data={"name": "x"}).status_code == 303
    assert team.browser("vera").post("/labels/classes", data={"name": "x"}).status_code == 403
    assert team.n_labels() == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"subjects": ["galaxy:1"], "action": "clear"}, 400),
        ({"subjects": "cell:1:0:0", "action": "clear"}, 400),
        ({"subjects": [1], "action": "clear"}, 400),
        ({"subjects": [], "action": "clear"}, 400),
        ({"subjects": ["exposure:999"], "action": "clear"}, 404),
        ({"subjects": ["exposure:1"], "action": "shout"}, 400),
        ({"subjects": ["exposure:1"], "action": "undo"}, 400),
        ({"subjects": ["exposure:1"], "action": "label"}, 400),
        ({"subjects": ["exposure:1"], "label_class_id": 999}, 404),
        ({"subjects": ["exposure:1"], "label_class_id": 10**30}, 400),
        ({"subjects": ["exposure:1"], "label_class_id": True}, 400),
        ({"subjects": ["exposure:1"], "label_class_id": {"a": 1}}, 400),
        ({"subjects": ["exposure:1"], "action": "comment"}, 400),
        ({"subjects": ["exposure:1"], "action": "comment", "comment": "a\0b"}, 400),
        ({"subjects": ["exposure:1"], "action": "clear", "request": "a b"}, 400),
        ({"subjects": [f"exposure:{k}" for k in range(1001)], "action": "clear"}, 400),
        ({"subjects": ["exposure:1"], "action": "comment", "comment": "x" * 300_000}, 413),
        ({"subjects": ["exposure:1"], "action": "clear", "expert": 99}, 401),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(
    shared: Team, body: dict[str, object], status: int
) -> None:
    answer = shared.say("ada", **body)

    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["detail"]
    assert shared.n_labels() == 0


@pytest.fixture(scope="module")
def shared(server_url: URL, template: URL) -> Iterator[Team]:
    """One application for what must not change it."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        yield gather(engine)
        engine.dispose()


@pytest.mark.parametrize("body", ["", "[1]", "{", '"x"', "[" * 5000])
def test_a_body_that_is_no_object_is_refused(shared: Team, body: str) -> None:
    headers = {"Content-Type": "application/json"}

    assert shared.browser("ada").post("/labels", data=body, headers=headers).status_code == 400


def form(page: str) -> dict[str, list[str]]:
    """The hidden fields of the label bar."""
    found: dict[str, list[str]] = {}
    inside = page[page.index('class="label-form"') :]
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', inside):
        found.setdefault(name, []).append(value)
    return found


def test_the_form_of_the_bar_labels_without_scripts(team: Team) -> None:
    ada, path = team.browser("ada"), f"/exposures/{team.exposures[0]}"
    fields = form(ada.get(path).text)
    assert fields["subject"] == [team.exposure(0)]

    sent = ada.post("/labels", data={**fields, "label_class_id": str(team.bad), "comment": ""})

    assert (sent.status_code, sent.headers["Location"].rstrip("?")) == (303, path)
    page = words(ada.get(path).text)
    assert "Bad seeing say 1 of 1" in page
    ada.post("/labels/undo", data=form(ada.get(path).text))
    assert "Nobody has labelled it." in words(ada.get(path).text)


def test_the_label_of_a_cell_shows_on_its_exposures_apart(team: Team) -> None:
    team.say("ada", subjects=[team.cell(0, 0)], label_class_id=team.good)

    page = team.browser("bob").get("/labels/said", query_string={"subject": team.exposure(0)}).text

    text_ = words(page)
    assert "Nobody has labelled it." in text_
    assert "Good from its cell (0, 0) , confidence 0.50" in text_
    assert "nobody said it of this exposure itself" in text_
    assert 'class="label-mark label-0 propagated"' in page


def test_a_disagreement_is_said_to_be_one(team: Team) -> None:
    for name, given in (("ada", team.good), ("bob", team.bad)):
        team.say(name, subjects=[team.cell(0, 0)], label_class_id=given)

    page = team.visitor().get("/labels/said", query_string={"subject": team.cell(0, 0)}).text

    assert "Disagreement : no label has most votes" in words(page)


def test_a_blind_expert_sees_nothing_of_others(team: Team) -> None:
    cell, member = team.cell(0, 0), team.exposure(0)
    team.say("bob", request="r1", subjects=[cell], label_class_id=team.bad, comment="hmm")
    team.say("bob", subjects=[cell], action="comment", comment="look at this")
    ada = team.browser("ada")
    ada.post("/account/blind", data={"blind": "yes"})

    for path in (f"/labels/said?subject={cell}", f"/labels/said?subject={member}"):
        page = ada.get(path).text
        assert "is hidden from you" in words(page)
        for hidden in ("Bad seeing", "bob", "hmm", "look at this"):
            assert hidden not in page
    history = ada.get("/labels/history", headers={"Accept": "application/json"})
    assert history.json is not None
    assert history.json["labels"] == []
    assert ada.get("/labels/history?expert=bob").status_code == 200
    assert "hmm" not in ada.get("/labels/history?expert=bob").text

    answer = team.say("ada", subjects=[cell], label_class_id=team.good)
    assert answer.json is not None
    assert answer.json["now"][cell]["shown"]["name"] == "Good"
    assert answer.json["labels"][0]["blind"]


def test_the_history_is_a_page_and_json_with_filters(team: Team) -> None:
    team.say("ada", request="r1", subjects=[team.cell(0, 0)], label_class_id=team.good)
    team.say("bob", request="r2", subjects=[team.exposure(0)], label_class_id=team.bad)
    team.say("ada", "/labels/undo", request="u1")
    visitor = team.visitor()

    rows = visitor.get("/labels/history.json").json
    assert rows is not None
    assert [(row["expert"], row["action"], row["undone"]) for row in rows["labels"]] == [
        ("ada", "undo", False),
        ("bob", "label", False),
        ("ada", "label", True),
    ]

    def found(**asked: object) -> int:
        answer = visitor.get("/labels/history.json", query_string=asked).json
        assert answer is not None
        return len(answer["labels"])

    assert found(expert="ada") == 2
    assert found(kind="exposure") == 1
    assert found(subject=team.cell(0, 0)) == 2
    assert found(**{"class": team.bad}) == 1
    page = words(visitor.get("/labels/history").text)
    assert "taken back" in page
    assert "cell (0, 0)" in page
    name = re.search(r"<h1>(\w+)", visitor.get(f"/exposures/{team.exposures[0]}").text)
    assert name is not None
    assert f"exposure {name[1]}" in page


@pytest.mark.parametrize(
    "asked",
    ["expert=eve", "class=x", "class=99", "kind=galaxy", "subject=x", "after=x", "colour=1"],
)
def test_a_filter_that_means_nothing_is_explained(shared: Team, asked: str) -> None:
    answer = shared.visitor().get(f"/labels/history?{asked}")

    assert answer.status_code == 400
    assert "expected" in answer.text.lower()


def test_what_people_write_is_never_run(team: Team) -> None:
    """Not even if a name came into the database past the rule that forbids it."""
    cell = team.cell(0, 0)
    team.change(
        "UPDATE label_class SET name = '<script>alert(1)</script>', description = '\"<script>'"
        " WHERE name = 'Good'"
    )
    team.say("ada", subjects=[cell], label_class_id=team.good, comment=EVIL)
    team.say("ada", subjects=[cell], action="comment", comment=EVIL)
    ada = team.browser("ada")

    for path in (
        f"/labels/said?subject={cell}",
        f"/exposures/{team.exposures[0]}",
        "/labels/history",
        "/labels/classes",
    ):
        answer = ada.get(path)
        assert answer.status_code == 200
        assert EVIL not in answer.text
        assert "&lt;script&gt;" in answer.text
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def test_classes_are_added_changed_retired_and_restored(team: Team) -> None:
    ada = team.browser("ada")

    ada.post("/labels/classes", data={"name": "Ghosts", "key": "3", "colour": "4"})
    ada.post(
        f"/labels/classes/{team.good}",
        data={"name": "Fine", "key": "f", "colour": "7", "description": "sharp and round"},
    )
    ada.post(f"/labels/classes/{team.bad}/retire")

    page = words(ada.get("/labels/classes").text)
    assert "3 Ghosts" in page
    assert "f Fine sharp and round" in page
    assert "Retired" in page
    assert "Bad seeing" not in ada.get(f"/exposures/{team.exposures[0]}").text
    taken = ada.post("/labels/classes", data={"name": "fine"})
    assert taken.status_code == 400
    assert "has this name already" in taken.text
    assert ada.post("/labels/classes/99/retire").status_code == 404
    ada.post(f"/labels/classes/{team.bad}/restore")
    assert "Retired" not in ada.get("/labels/classes").text
    done = [action for action, _ in team.audited() if action.endswith(" class")]
    assert done[2:] == ["add class", "change class", "retire class", "restore class"]


def test_the_bar_offers_what_the_reader_may_do(team: Team) -> None:
    path = f"/exposures/{team.exposures[0]}"

    assert "Sign in</a> to label" in team.visitor().get(path).text
    assert "you need the role expert" in team.browser("vera").get(path).text
    assert 'data-key="1" data-name="Good"' in team.browser("ada").get(path).text


def colours() -> np.ndarray:
    """The palette of the labels, (12, 3) in 0 to 1."""
    found = dict(re.findall(r"\.label-(\d+) \{ --label: #([0-9a-f]{6}); \}", STYLE.read_text()))
    return np.array(
        [[int(found[str(k)][i : i + 2], 16) / 255 for i in (0, 2, 4)] for k in range(12)]
    )


# Full protanopia and deuteranopia and tritanopia: Machado, Oliveira and Fernandes (2009), table 1.
EYES = {
    "all cones": np.eye(3),
    "no L cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no M cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no S cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("eye", EYES)
def test_no_two_label_colours_look_alike(eye: str) -> None:
    from skimage.color import rgb2lab

    srgb = colours()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eye]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))

    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e9 * np.eye(12)

    assert apart.min() > 20  # CIE 1976; 2.3 is just noticeable


class Server:
    """`skygloss serve` in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["serve", "--port", str(self.port), "--workers", "1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *command],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert "Skygloss is at" in self.process.stdout.readline()

    @contextmanager
    def client(self, name: str) -> Iterator[httpx.Client]:
        """Somebody who is signed in."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60) as client:
            answer = client.post("/sign-in", data={"name": name, "password": PASSWORD})
            assert answer.status_code == 303
            yield client

    def kill(self) -> None:
        """End the server and its workers as `kill -9` does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_an_acknowledged_label_survives_the_death_of_the_server(
    environment: dict[str, str], engine: Engine
) -> None:
    team, server = gather(engine), Server(environment)
    body = {"request": "r1", "subjects": [team.cell(0, 0)], "label_class_id": team.good}
    with server.client("ada") as client:
        answer = client.post("/labels", json=body)
        server.kill()

    assert answer.status_code == 201
    assert team.n_labels() == 1
    second = Server(environment)
    with second.client("ada") as client:
        again = client.post("/labels", json=body)
    second.kill()
    assert (again.status_code, team.n_labels()) == (200, 1)


def test_acknowledged_labels_survive_an_immediate_stop_of_the_database() -> None:
    """Also where the server is set to answer before a commit is on the disk."""
    with private_server() as (engine, stop, start):
        with engine.begin() as connection:
            connection.execute(text("ALTER DATABASE postgres SET synchronous_commit = off"))
        engine.dispose()
        team = gather(engine)
        team.browser("ada")
        for k in range(3):
            body = {"subjects": [team.cell(0, k)], "label_class_id": team.good}
            answer = team.say("ada", request=f"r{k}", **body)

            stop()
            start()

            assert answer.status_code == 201
            assert team.n_labels() == k + 1


def test_sessions_of_a_request_are_closed(team: Team) -> None:
    for _ in range(30):
        team.say("ada", subjects=[team.cell(0, 0)], label_class_id=team.good)
        team.say("ada", "/labels/undo", of="nothing")

    assert isinstance(team.engine.pool, QueuePool)
    assert team.engine.pool.checkedout() == 0
