import random

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.pages import Order, Page, Position, keyed, page
from db.tables import Source
from tests.builders import make_catalog, make_source


@pytest.fixture
def magnitudes(session: Session) -> dict[int, float | None]:
    """Sources whose magnitudes have many ties, gaps and values that a float cannot hold."""
    catalog = make_catalog(session)
    choices = [None, None, 19.97, 19.97, 0.1, 20.3, 20.300001]
    chosen = random.Random(5).choices(choices, k=60)
    sources = [make_source(session, catalog, mag_r=mag) for mag in chosen]
    return {source.id: mag for source, mag in zip(sources, chosen, strict=True)}


def walk(session: Session, order: Order, size: int, backwards: bool = False) -> list[list[int]]:
    """Follow the links from one end to the other; the ids of each page."""
    statement = keyed(select(Source.id), order)
    pages, start = [], Position(None, 2**62) if backwards else None
    while True:
        found: Page = page(
            session,
            statement,
            order,
            size,
            after=None if backwards else start,
            before=start if backwards else None,
        )
        if not found.rows:
            return pages
        pages.append([row.id for row in found.rows])
        start = found.previous if backwards else found.next
        if start is None:
            return pages


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_pages_lose_and_repeat_nothing_under_ties_and_missing_values(
    session: Session, magnitudes: dict[int, float | None], descending: bool, size: int
) -> None:
    order = Order(Source.mag_r, Source.id, descending)

    pages = walk(session, order, size)

    ids = [source_id for ids in pages for source_id in ids]
    assert sorted(ids) == sorted(magnitudes)
    assert all(len(ids) == size for ids in pages[:-1])


def test_rows_come_by_value_then_tie_and_missing_values_last(
    session: Session, magnitudes: dict[int, float | None]
) -> None:
    pages = walk(session, Order(Source.mag_r, Source.id), 13)

    ids = [source_id for ids in pages for source_id in ids]
    expected = sorted(magnitudes, key=lambda i: (magnitudes[i] is None, magnitudes[i] or 0, i))
    assert ids == expected


@pytest.mark.parametrize("descending", [False, True])
def test_walking_back_from_the_end_shows_the_same_order(
    session: Session, magnitudes: dict[int, float | None], descending: bool
) -> None:
    order = Order(Source.mag_r, Source.id, descending)
    forwards = [source_id for ids in walk(session, order, 7) for source_id in ids]
    end = Position(None, 0 if descending else 2**62)

    statement = keyed(select(Source.id), order)
    last = page(session, statement, order, len(magnitudes), before=end)

    assert [row.id for row in last.rows] == forwards
    assert last.previous is None
    assert last.next is not None


def test_the_previous_page_is_the_one_we_came_from(
    session: Session, magnitudes: dict[int, float | None]
) -> None:
    order = Order(Source.mag_r, Source.id)
    statement = keyed(select(Source.id), order)
    first = page(session, statement, order, 25)
    second = page(session, statement, order, 25, after=first.next)

    back = page(session, statement, order, 25, before=second.previous)

    assert [row.id for row in back.rows] == [row.id for row in first.rows]
    assert first.previous is None
    assert back.previous is None


def test_a_position_without_value_lies_beyond_an_order_that_has_none_missing(
    session: Session, magnitudes: dict[int, float | None]
) -> None:
    order = Order(Source.mag_r, Source.id, nullable=False)
    statement = keyed(select(Source.id).where(Source.mag_r.is_not(None)), order)

    beyond = page(session, statement, order, 5, after=Position(None, 1))
    before = page(session, statement, order, 5, before=Position(None, 1))

    assert beyond.rows == []
    assert [row.key_value for row in before.rows] == pytest.approx([20.300001] * 5, abs=1e-5)
