"""Experts label on the map in a real browser, and lose nothing when the server goes away."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Route, expect
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session
from werkzeug.serving import BaseWSGIServer, make_server

from db.labels import Subject
from db.tables import Label
from tests.web.chromium import NEEDS_CHROMIUM, chromium, press
from tests.web.team import PASSWORD, Team, gather

pytestmark = NEEDS_CHROMIUM
MAP = "/maps/exposure_map"


class Server:
    """The application on a port of its own; it can go away and come back."""

    def __init__(self, team: Team) -> None:
        self.team = team
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.running: tuple[BaseWSGIServer, threading.Thread] | None = None

    def start(self) -> None:
        server = make_server("127.0.0.1", self.port, self.team.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.running = server, thread

    def stop(self) -> None:
        if self.running:
            server, thread = self.running
            server.shutdown()
            thread.join()
            server.server_close()
            self.running = None


@dataclass
class Desk:
    """The server, its team, and browsers in which experts sign in."""

    server: Server
    browser: Browser
    contexts: dict[str, BrowserContext]
    errors: list[str]

    @property
    def team(self) -> Team:
        return self.server.team

    def sign_in(self, name: str, path: str = "/") -> Page:
        """Open a browser of somebody's, sign in by keyboard, and go to a page."""
        self.contexts[name] = self.browser.new_context(
            base_url=f"http://127.0.0.1:{self.server.port}", viewport={"width": 1200, "height": 800}
        )
        page = self.contexts[name].new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"/sign-in?next={path}")
        fill_in(page, name)
        return page

    def said(self) -> list[tuple[str, str, str | None]]:
        """Every label in the database: who, what was done, the class."""
        statement = (
            "SELECT expert.name, action, label_class.name FROM label"
            " JOIN expert ON expert.id = expert_id"
            " LEFT JOIN label_class ON label_class.id = label_class_id ORDER BY label.id"
        )
        with self.team.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def subjects(self) -> list[str]:
        """What each label in the database is about, by its name in the page."""
        with Session(self.team.engine) as session:
            rows = session.scalars(select(Label).order_by(Label.id))
            return [str(Subject.of(label)) for label in rows]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def desk(engine: Engine, browser: Browser) -> Iterator[Desk]:
    server = Server(gather(engine))
    server.start()
    desk = Desk(server, browser, {}, [])
    yield desk
    for context in desk.contexts.values():
        context.close()
    server.stop()
    assert desk.errors == []


def fill_in(page: Page, name: str) -> None:
    page.locator("[name=name]").fill(name)
    page.locator("[name=password]").fill(PASSWORD)
    press(page, "Enter")
    page.wait_for_url(lambda url: "/sign-in" not in url)


def state(page: Page, words: str) -> None:
    """Wait until the bar says so."""
    expect(page.locator(".label-state")).to_contain_text(words)


@contextmanager
def unreachable(page: Page) -> Iterator[None]:
    """Let no label of a page reach the server for a while."""
    page.route("**/labels", lambda route: route.abort())
    yield
    page.unroute("**/labels")


def test_an_expert_labels_a_cell_and_takes_it_back_with_the_keyboard_alone(desk: Desk) -> None:
    page = desk.sign_in("ada", MAP)
    cell = page.locator("[role=gridcell]").nth(1)
    page.locator("[role=gridcell] a").first.focus()
    press(page, "ArrowRight")
    press(page, "1")
    state(page, "Saved: Good for cell (0, 1)")
    expect(cell).to_have_class("cell labelled label-0")

    press(page, "Enter")
    expect(page.locator("h1")).to_contain_text("Row 0, column 1")
    expect(page.locator(".label-said")).to_contain_text("Good say 1 of 1")
    press(page, "2")
    expect(page.locator(".label-said")).to_contain_text("Bad seeing say 1 of 1")
    press(page, "z")
    expect(page.locator(".label-said")).to_contain_text("Good say 1 of 1")
    press(page, "z")
    expect(page.locator(".label-said")).to_contain_text("Nobody has labelled it.")

    assert [action for _, action, _ in desk.said()] == ["label", "label", "undo", "undo"]
    press(page, "z")
    state(page, "Nothing is left to take back")


def test_without_remembering_a_browser_shows_what_was_said_last_before_taking_it_back(
    desk: Desk,
) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    desk.team.say(
        "ada", request="r1", subjects=[desk.team.exposure(0)], label_class_id=desk.team.good
    )
    desk.team.say(
        "ada", request="import:x:0", subjects=[desk.team.cell(0, 2)], label_class_id=desk.team.good
    )

    press(page, "z")
    state(page, "Take back: Good for exposure")
    assert [action for _, action, _ in desk.said()] == ["label", "label"]
    press(page, "z")
    state(page, "Took back: Good for exposure")
    assert desk.subjects()[2] == desk.team.exposure(0)
    press(page, "z")

    state(page, "Nothing is left to take back")
    assert [action for _, action, _ in desk.said()] == ["label", "label", "undo"]


def test_after_a_label_nothing_stays_chosen(desk: Desk) -> None:
    page = desk.sign_in("ada", MAP)
    page.locator("[role=gridcell] a").first.focus()
    press(page, "Space")
    expect(page.locator("#chosen")).to_have_text("1 cell chosen")
    press(page, "2")
    expect(page.locator('[role=gridcell][aria-selected="true"]')).to_have_count(0)
    expect(page.locator("#chosen")).to_have_text("")

    press(page, "ArrowRight")
    expect(page.locator(".label-target")).to_have_text("For cell (0, 1)")
    press(page, "1")
    state(page, "Saved: Good for cell (0, 1)")

    assert desk.subjects() == [desk.team.cell(0, 0), desk.team.cell(0, 1)]


def test_a_member_is_named_as_on_its_card_and_escape_leads_back_to_the_cell(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/1")
    press(page, "j")
    name = page.locator(".members .id").inner_text()
    expect(page.locator(".label-target")).to_have_text(f"For exposure {name}")
    press(page, "Escape")
    expect(page.locator(".label-target")).to_have_text("For cell (0, 1)")

    press(page, "1")

    state(page, "Saved: Good for cell (0, 1)")
    assert desk.subjects() == [desk.team.cell(0, 1)]


def test_what_is_said_after_the_clock_was_set_back_is_sent_last(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    with unreachable(page):
        press(page, "1")
        state(page, "Not saved yet")
        page.evaluate("Date.now = () => 1_000_000")
        press(page, "2")
        expect(page.locator("#unsent")).to_have_text("2 not saved yet")
    page.reload()

    expect(page.locator("#unsent")).to_be_hidden()
    assert [given for _, _, given in desk.said()] == ["Good", "Bad seeing"]


def test_signing_out_with_something_unsent_is_asked_about(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    page.route("**/labels", lambda route: route.abort())
    press(page, "1")
    state(page, "Not saved yet")
    asked: list[str] = []

    def refuse(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    page.goto("/account")
    page.get_by_role("button", name="Sign out", exact=True).click()

    assert "One thing you said cannot be saved yet" in asked[0]
    assert page.url.endswith("/account")


def test_what_a_proxy_refuses_does_not_hold_up_the_rest(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    page.route(
        "**/labels",
        lambda route: (
            route.fulfill(status=413, body="<h1>Too large</h1>")
            if route.request.post_data_json["label_class_id"] == desk.team.good
            else route.continue_()
        ),
    )
    press(page, "1")
    state(page, "Something before the server answers 413.")
    press(page, "2")
    expect(page.locator("#unsent")).to_have_text("2 not saved yet")
    state(page, "Something before the server answers 413.")
    page.get_by_role("button", name="Drop it").click()

    state(page, "Saved: Bad seeing")
    expect(page.locator("#unsent")).to_be_hidden()
    assert desk.said() == [("ada", "label", "Bad seeing")]


def test_members_bear_the_label_of_their_cell_as_soon_as_it_is_given(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    carried = page.locator(".members .label-mark.propagated")
    expect(carried).to_have_count(0)

    press(page, "1")
    expect(carried).to_have_count(2)
    expect(carried.first).to_contain_text("Good")
    press(page, "2")
    expect(carried.first).to_contain_text("Bad seeing")
    press(page, "z")
    expect(carried.first).to_contain_text("Good")
    press(page, "z")

    expect(carried).to_have_count(0)


def test_a_frame_on_the_map_bears_the_key_of_its_label(desk: Desk) -> None:
    page = desk.sign_in("ada", MAP)
    page.locator("[role=gridcell] a").first.focus()

    press(page, "2")

    expect(page.locator("[role=gridcell]").first.locator("text")).to_have_text("2")


def test_another_act_between_lets_undo_ask_no_more(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    desk.team.say(
        "ada", request="r1", subjects=[desk.team.exposure(0)], label_class_id=desk.team.good
    )
    press(page, "z")
    state(page, "Take back: Good for exposure")

    press(page, "2")
    state(page, "Saved: Bad seeing for cell (0, 0)")
    press(page, "z")

    state(page, "Took back: Bad seeing for cell (0, 0)")


def test_several_cells_are_labelled_at_once_and_their_exposures_show_it_apart(desk: Desk) -> None:
    page = desk.sign_in("ada", MAP)
    page.locator("[role=gridcell] a").first.focus()
    press(page, "Shift+ArrowRight")
    press(page, "Shift+ArrowDown")
    expect(page.locator(".label-target")).to_have_text("For 4 selected")

    press(page, "2")

    state(page, "Saved: Bad seeing for 4 cells")
    expect(page.locator(".cell.label-1")).to_have_count(4)
    expect(page.locator("[data-key='2'] .tally")).to_have_text("4")
    page.goto(f"/exposures/{desk.team.exposures[2]}")
    expect(page.locator(".label-bar .from-cell")).to_contain_text("Bad seeing from its cell (0, 1)")
    expect(page.locator(".label-bar .label-said")).to_contain_text("Nobody has labelled it.")
    page.goto(MAP)
    press(page, "z")
    state(page, "Took back: Bad seeing for 4 cells")
    expect(page.locator(".cell.label-1")).to_have_count(0)


def test_a_comment_ends_with_enter_and_gives_no_label(desk: Desk) -> None:
    page = desk.sign_in("ada", f"/exposures/{desk.team.exposures[0]}")
    press(page, "c")
    expect(page.locator("#label-comment")).to_be_focused()
    page.keyboard.type("12 xz: a satellite?")

    press(page, "Enter")

    expect(page.locator(".remarks")).to_contain_text("12 xz: a satellite?")
    assert desk.said() == [("ada", "comment", None)]


def test_a_remark_and_a_label_go_to_the_exposure_that_the_bar_names_on_the_page_of_a_cell(
    desk: Desk,
) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/1")
    press(page, "j")
    about = page.locator(".label-target").inner_text()
    assert about.startswith("For exposure ")
    press(page, "c")
    page.keyboard.type("a satellite?")
    press(page, "Enter")
    state(page, "Saved: comment on exposure ")
    page.keyboard.type("two of them")
    press(page, "Escape")
    expect(page.locator(".label-target")).to_have_text(about)
    press(page, "2")
    state(page, "Saved: Bad seeing for exposure ")

    assert desk.subjects() == [desk.team.exposure(2)] * 2
    assert desk.said() == [("ada", "comment", None), ("ada", "label", "Bad seeing")]


def test_the_cell_with_the_focus_is_remarked_on_and_labelled_from_inside_the_bar(
    desk: Desk,
) -> None:
    page = desk.sign_in("ada", MAP)
    page.locator("[role=gridcell] a").nth(1).focus()
    press(page, "c")
    page.keyboard.type("odd")
    press(page, "Enter")
    state(page, "Saved: comment on cell (0, 1)")
    page.locator("[role=gridcell] a").nth(1).focus()
    page.locator(".label-button").first.focus()
    press(page, "Enter")
    state(page, "Saved: Good for cell (0, 1)")

    assert desk.subjects() == [desk.team.cell(0, 1)] * 2


def test_two_experts_disagree_and_the_queue_shows_it(desk: Desk) -> None:
    for name, key in (("ada", "1"), ("bob", "2")):
        page = desk.sign_in(name, f"{MAP}/0/0")
        press(page, key)
        state(page, "Saved")

    expect(page.locator(".label-said")).to_contain_text("Disagreement")
    page.goto("/labels/disagreements")

    expect(page.locator("main")).to_contain_text("Good")
    expect(page.locator("main")).to_contain_text("Bad seeing")
    expect(page.locator("main")).to_contain_text("ada")


def test_a_reload_loses_nothing(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    with unreachable(page):
        press(page, "1")
        state(page, "Not saved yet")
        expect(page.locator("#unsent")).to_have_text("1 not saved yet")
    assert desk.said() == []

    page.reload()

    expect(page.locator(".label-said")).to_contain_text("Good say 1 of 1")
    expect(page.locator("#unsent")).to_be_hidden()
    assert desk.said() == [("ada", "label", "Good")]


def test_what_was_said_while_the_server_was_gone_arrives_later_once_and_in_order(
    desk: Desk,
) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    press(page, "2")
    state(page, "Saved: Bad seeing")
    desk.server.stop()
    for key in ("1", "z", "1"):
        press(page, key)
    state(page, "Not saved yet")
    expect(page.locator("#unsent")).to_have_text("3 not saved yet")

    desk.server.start()

    expect(page.locator("#unsent")).to_be_hidden(timeout=20_000)
    expect(page.locator(".label-said")).to_contain_text("Good say 1 of 1")
    assert desk.said() == [
        ("ada", "label", "Bad seeing"),
        ("ada", "label", "Good"),
        ("ada", "undo", None),
        ("ada", "label", "Good"),
    ]


def test_a_label_whose_answer_was_lost_is_stored_once(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    lost: list[int] = []

    def lose_the_first_answer(route: Route) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().status)
            route.abort()

    page.route("**/labels", lose_the_first_answer)
    press(page, "1")
    state(page, "Not saved yet")

    expect(page.locator("#unsent")).to_be_hidden(timeout=20_000)
    assert lost == [201]
    assert desk.said() == [("ada", "label", "Good")]


def test_what_was_said_after_the_session_ended_is_kept_until_signing_in_again(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    desk.team.change("UPDATE token SET expires_at = now()")
    press(page, "1")
    state(page, "Not saved yet: You need to sign in")
    page.get_by_role("link", name="Sign in, and it is sent.").click()

    fill_in(page, "ada")

    expect(page.locator(".label-said")).to_contain_text("Good say 1 of 1")
    assert desk.said() == [("ada", "label", "Good")]


def test_somebody_else_at_the_same_browser_does_not_send_it(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    desk.team.change("UPDATE token SET expires_at = now()")
    press(page, "1")
    state(page, "Not saved yet")

    page.goto(f"/sign-in?next={MAP}/0/0")
    fill_in(page, "bob")
    press(page, "2")

    state(page, "Saved: Bad seeing")
    assert desk.said() == [("bob", "label", "Bad seeing")]


def test_a_label_that_is_refused_is_said_to_be_and_its_colour_goes(desk: Desk) -> None:
    page = desk.sign_in("ada", MAP)
    cell = page.locator("[role=gridcell]").first
    desk.team.change("UPDATE label_class SET retired_at = now() WHERE name = 'Good'")
    page.locator("[role=gridcell] a").first.focus()

    press(page, "1")

    state(page, "Not stored: Good for cell (0, 0). Label class 'Good' is retired")
    expect(cell).to_have_class("cell")
    expect(page.locator("#unsent")).to_be_hidden()
    assert desk.said() == []


def test_an_expert_labels_without_scripts(desk: Desk, browser: Browser) -> None:
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{desk.server.port}", java_script_enabled=False
    )
    page = context.new_page()
    page.goto(f"/sign-in?next={MAP}/0/0")
    fill_in(page, "ada")
    page.locator(".label-buttons [name=label_class_id]").nth(1).click()

    expect(page.locator(".label-said")).to_contain_text("Bad seeing say 1 of 1")
    page.get_by_role("button", name="undo").click()
    expect(page.locator(".label-said")).to_contain_text("Nobody has labelled it.")
    context.close()


def test_no_page_for_labels_is_wider_than_a_phone(desk: Desk) -> None:
    page = desk.sign_in("ada", f"{MAP}/0/0")
    press(page, "1")
    state(page, "Saved")
    page.set_viewport_size({"width": 360, "height": 740})

    widths = {}
    for path in ("/labels/history", "/labels/classes", "/account", f"{MAP}/0/0", "/sign-in"):
        page.goto(path)
        widths[path] = page.evaluate("document.documentElement.scrollWidth")

    assert {path: width for path, width in widths.items() if width > 360} == {}
