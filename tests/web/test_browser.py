"""A journey through the pages with a real browser, for what no test client can see."""

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from db import layouts, model_versions, selections
from db.tables import Representation, Upload
from tests.builders import make_projection
from tests.survey import N
from tests.web.chromium import NEEDS_CHROMIUM, chromium, press
from tests.web.conftest import Site

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(
    browser: Browser, address: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Page]:
    context = browser.new_context(
        base_url=address, color_scheme="light", viewport={"width": 1200, "height": 800}
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    yield page
    page.screenshot(path=tmp_path / f"{request.node.originalname}.png")
    context.close()
    assert errors == []


def background(page: Page) -> str:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


def test_a_reader_filters_and_opens_a_source_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/sources")
    press(page, "/")
    page.keyboard.type("src-01")
    expect(page.locator("#id")).to_have_value("src-01")
    page.locator("#id").fill("")
    page.locator("[name=p_min]").fill("0.9")
    press(page, "Enter")

    expect(page).to_have_url("/sources?p_min=0.9")
    expect(page.locator(".card")).to_have_count(6)
    press(page, "j")
    press(page, "j")
    press(page, "k")
    press(page, "j")
    expect(page.locator(".card").nth(1)).to_be_focused()
    wanted = page.locator(".card .id").nth(1).inner_text()
    press(page, "Enter")
    expect(page.locator("h1")).to_have_text(wanted)

    press(page, "j")
    expect(page.locator("h1")).not_to_have_text(wanted)
    press(page, "u")
    expect(page).to_have_url("/sources?p_min=0.9")


def test_images_are_really_drawn(page: Page) -> None:
    page.goto("/sources?id=src-020")

    width = page.locator(".card img").evaluate("image => image.naturalWidth")

    assert width == 16


def test_n_and_p_turn_pages(page: Page) -> None:
    page.goto("/sources")
    press(page, "n")
    expect(page.locator(".card")).to_have_count(14)
    press(page, "p")
    expect(page.locator(".card")).to_have_count(48)


def test_masks_are_hidden_and_shown_by_key_apart_from_the_marks(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"/sources/{site.number(40)}")
    masks, marks = page.locator("svg.masks"), page.locator("svg.overlay")
    expect(masks).to_be_visible()
    width = page.evaluate("document.documentElement.scrollWidth")

    press(page, "Shift+M")

    expect(masks).to_be_hidden()
    expect(marks).to_be_visible()
    press(page, "m")
    press(page, "Shift+M")
    expect(masks).to_be_visible()
    expect(marks).to_be_hidden()
    assert width <= 360


def test_the_chosen_theme_is_remembered(page: Page) -> None:
    page.goto("/sources")
    light = background(page)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = background(page)
    page.goto("/status")

    assert light != dark
    assert background(page) == dark


def test_dark_follows_the_system_until_the_reader_chooses(page: Page) -> None:
    page.goto("/sources")
    light = background(page)

    page.emulate_media(color_scheme="dark")

    assert background(page) != light


def test_help_opens_and_closes_by_key(page: Page) -> None:
    page.goto("/sources")
    press(page, "?")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_first_tab_leads_past_the_menu(page: Page) -> None:
    page.goto("/sources")
    press(page, "Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press(page, "Enter")

    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize(
    "path",
    [
        "/sources",
        "/sources?view=table",
        "/search",
        "/search?survey_id=src-020",
        "/status",
        "/models",
    ],
)
def test_no_page_is_wider_than_a_phone(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(path)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_status_stays_fresh_and_keeps_what_was_unfolded(page: Page) -> None:
    page.clock.install()
    page.goto("/status")
    page.locator(".failure summary").click()
    with page.expect_response("**/status"):
        page.clock.run_for(5100)

    expect(page.locator(".failure pre")).to_be_visible()


def encode_uploads(site: Site) -> None:
    """What a worker would do: give every upload the vector of source 20."""
    with Session(site.engine) as session, session.begin():
        version = model_versions.current(session, ["representations"])[0]
        twentieth = session.get_one(Representation, (site.number(20), version.id))
        values = {"model_version_id": version.id, "run_id": twentieth.run_id, "flags": 0}
        for source_id in session.scalars(select(Upload.source_id)):
            if not session.get(Representation, (source_id, version.id)):
                vectors = {"embedding": twentieth.embedding, "reduced": twentieth.reduced}
                session.add(Representation(source_id=source_id, **values, **vectors))


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (level, level, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_uploaded_image_leads_to_what_looks_like_it(page: Page, site: Site) -> None:
    page.goto("/search")
    mine = {"name": "mine.png", "mimeType": "image/png", "buffer": picture(10)}
    page.locator("#file").set_input_files(mine)  # type: ignore[arg-type]
    page.get_by_role("button", name="Upload and search").click()
    expect(page.get_by_role("heading", name="Waiting for a worker")).to_be_visible()

    encode_uploads(site)

    expect(page.locator(".hit").first).to_contain_text("src-020", timeout=10_000)
    expect(page.locator(".tray")).to_contain_text("mine.png")
    page.get_by_role("link", name="More like src-021").click()
    expect(page.locator(".tray")).to_contain_text("src-021")
    page.get_by_role("link", name="Leave src-021 out").click()
    expect(page.locator(".tray .example")).to_have_count(1)


def test_an_image_can_be_dropped_on_the_search_page(page: Page) -> None:
    page.goto("/search")
    page.wait_for_load_state("load")
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            document.body.dispatchEvent(
                new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(picture(20)),
    )

    expect(page.get_by_text("dropped.png")).to_be_visible()


def test_a_reader_searches_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/search")
    press(page, "/")
    page.keyboard.type("src-030")
    press(page, "Enter")
    expect(page).to_have_url("/search?survey_id=src-030")

    press(page, "j")
    press(page, "j")
    expect(page.locator(".hit .card").nth(1)).to_be_focused()
    press(page, "Enter")

    expect(page.locator("h1")).to_have_text("src-031")
    expect(page.get_by_role("heading", name="Looks like this")).to_be_visible()


@pytest.fixture
def placed(site: Site) -> Iterator[NDArray[np.float32]]:
    """A projection named `row`: source k at (k, 0), in a database that is left as it was."""
    places = np.stack([np.arange(N), np.zeros(N)], axis=1).astype(np.float32)
    ids = np.array([source.id for source in site.survey.sources])
    with Session(site.engine) as session, session.begin():
        make_projection(session, ids, places, name="row")
    yield places
    with Session(site.engine) as session, session.begin():
        layouts.delete(session, "row")
        selections.delete(session, "middle ones")


def test_a_lasso_drawn_with_the_mouse_becomes_a_selection(
    page: Page, placed: NDArray[np.float32]
) -> None:
    page.goto("/projections/row")
    press(page, "l")
    box = page.locator("#map").bounding_box()
    assert box is not None
    side = 59 * 1.04  # of the projection; its left edge is at -59 * 0.02
    left, right = ((k + 59 * 0.02) / side * box["width"] + box["x"] for k in (19.5, 30.5))
    top, bottom = (box["y"] + share * box["height"] for share in (0.4, 0.6))
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    expect(page.locator("#caught")).to_have_text("11 sources in the lasso.")
    expect(page.locator("#save [name=name]")).to_be_focused()

    page.keyboard.type("middle ones")
    press(page, "Enter")
    page.get_by_role("link", name="11 sources", exact=True).click()

    expect(page).to_have_url("/sources?selection=middle+ones")
    found = page.locator(".card .id").all_inner_texts()
    assert sorted(found) == [f"src-{k:03}" for k in range(20, 31)]


def test_a_lasso_around_nothing_cannot_be_saved(page: Page, placed: NDArray[np.float32]) -> None:
    page.goto("/projections/row")
    press(page, "l")
    box = page.locator("#map").bounding_box()
    assert box is not None
    save = page.locator("#save button")
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    for across, down in ((0.6, 0.1), (0.6, 0.3), (0.2, 0.3)):
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=5)
    page.mouse.up()
    expect(page.locator("#caught")).to_have_text("No source is in the lasso.")
    expect(save).to_be_disabled()

    press(page, "Escape")
    expect(page.locator("#caught")).to_have_text("All 60 sources in view.")
    expect(save).to_be_enabled()


def test_a_projection_is_moved_and_zoomed_with_the_keyboard(
    page: Page, placed: NDArray[np.float32]
) -> None:
    page.goto("/projections/row")
    press(page, "+")
    expect(page).to_have_url(re.compile("zoom=1"))
    expect(page.locator("#caught")).to_have_text(re.compile("All (29|30|31) sources in view."))

    page.locator("#map").focus()
    for _ in range(4):
        press(page, "ArrowRight")
    expect(page.locator("#examples")).not_to_contain_text(re.compile("src-0[0-2]"))
    expect(page.locator("#examples")).to_contain_text(re.compile("src-0[45]"))

    press(page, "0")
    expect(page).to_have_url("/projections/row")
    expect(page.locator("#caught")).to_have_text("All 60 sources in view.")


def test_the_pointer_names_the_source_under_it(page: Page, placed: NDArray[np.float32]) -> None:
    page.goto("/projections/row")
    page.wait_for_load_state("load")
    page.locator("#with-pictures").click()
    box = page.locator("#map").bounding_box()
    assert box is not None

    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    expect(page.locator("#hover")).to_contain_text(re.compile("src-0(29|30)"))


def test_a_search_works_without_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/search")
    page.locator("#id").fill("src-030")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit")).to_have_count(50)
    page.locator("[name=p_min]").fill("0.95")
    page.get_by_role("button", name="Apply").click()

    expect(page.locator(".hit")).to_have_count(3)
    context.close()


def test_pages_work_without_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/sources")
    page.locator("[name=p_min]").fill("0.95")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".card")).to_have_count(3)

    page.locator(".card").first.click()

    expect(page.get_by_role("heading", name="Opinions")).to_be_visible()
    context.close()
