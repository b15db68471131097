"""Maps on a phone, in a real browser: cells chosen by finger, and no page wider than the screen."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.web.chromium import NEEDS_CHROMIUM, chromium
from tests.web.maps import Atlas
from tests.web.team import PASSWORD
from tests.web.test_labelling_browser import Server

pytestmark = NEEDS_CHROMIUM
MAP = "/maps/exposure_map"
SMALLEST = 24  # CSS pixels, WCAG 2.2, 2.5.8


@pytest.fixture(scope="module")
def phone(atlas: Atlas) -> Iterator[Page]:
    """A small touch screen at which Ada is signed in."""
    server = Server(atlas.team)
    server.start()
    with chromium() as browser:
        context = browser.new_context(
            base_url=f"http://127.0.0.1:{server.port}",
            viewport={"width": 390, "height": 844},
            has_touch=True,
        )
        page = context.new_page()
        page.goto("/sign-in")
        page.locator("[name=name]").fill("ada")
        page.locator("[name=password]").fill(PASSWORD)
        page.locator("main form button").tap()
        page.wait_for_url(lambda url: "/sign-in" not in url)
        yield page
        context.close()
    server.stop()


def test_a_finger_chooses_cells_and_labels_them(phone: Page, atlas: Atlas) -> None:
    phone.goto(MAP)
    cells = phone.locator("[role=gridcell] a")
    phone.get_by_role("button", name="Choose cells").tap()
    for k in (0, 2, 3):
        cells.nth(k).tap()
    cells.nth(2).tap()

    expect(phone.locator("#chosen")).to_have_text("2 cells chosen")
    phone.locator("[data-key='1']").tap()
    expect(phone.locator(".label-state")).to_contain_text("Saved")
    labelled = phone.locator("[role=gridcell][data-label=Good]")
    subjects = labelled.evaluate_all("all => all.map((one) => one.dataset.subject)")
    atlas.team.say("ada", "/labels/undo", request="after-the-finger")

    assert {atlas.team.cell(0, 0), atlas.team.cell(1, 0)} <= set(subjects)
    assert atlas.team.cell(0, 2) not in subjects


def test_a_finger_opens_a_cell_while_nothing_is_chosen(phone: Page) -> None:
    phone.goto(MAP)

    phone.locator("[role=gridcell] a").nth(0).tap()

    phone.wait_for_url(f"**{MAP}/0/0")


def test_cells_are_large_enough_for_a_finger(phone: Page) -> None:
    phone.goto(MAP)

    box = phone.locator("[role=gridcell] .field").nth(0).bounding_box()

    assert box is not None
    assert min(box["width"], box["height"]) >= SMALLEST


@pytest.mark.parametrize(
    "path",
    [
        *(f"{MAP}?show={show}" for show in ("pictures", "density", "labels", "umatrix")),
        *(f"{MAP}/1/2", f"{MAP}/1/2/members", "/maps", "/maps/source_map", "/maps/source_map/0/1"),
        *("/exposures", "/labels/disagreements", "/labels/agreement?kind=cell"),
    ],
)
def test_no_page_about_maps_is_wider_than_a_phone(phone: Page, path: str) -> None:
    answer = phone.goto(path)

    assert answer is not None
    assert answer.status == 200
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_of_an_exposure_is_no_wider_than_a_phone(phone: Page, atlas: Atlas) -> None:
    for path in (atlas.exposure(0), f"{atlas.exposure(0)}/sources"):
        phone.goto(path)

        assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_script_a_map_offers_no_label_that_it_could_not_give(
    phone: Page, atlas: Atlas
) -> None:
    browser = phone.context.browser
    assert browser is not None
    context = browser.new_context(
        java_script_enabled=False, storage_state=phone.context.storage_state()
    )
    page = context.new_page()
    page.goto(phone.url.split("/maps")[0].split("/exposures")[0] + MAP)

    expect(page.locator(".label-bar")).to_be_hidden()
    expect(page.get_by_text("Open a cell to label it.")).to_be_visible()
    context.close()
