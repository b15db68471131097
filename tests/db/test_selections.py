import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import selections
from db.names import BadName
from db.selections import NameTaken, NothingSelected, TooManySelections, TooManySources
from db.tables import SelectionSource, Source
from tests.builders import make_sources

ORIGIN = {"search": "rings like 17"}


def test_a_selection_holds_what_its_statement_selects(session: Session) -> None:
    sources = make_sources(session, 5)
    wanted = select(Source.id).where(Source.id >= sources[2].id)

    saved = selections.save(session, " rings, large ", wanted, ORIGIN, comment=" look again ")

    assert (saved.name, saved.comment, saved.n_sources) == ("rings, large", "look again", 3)
    assert saved.origin == ORIGIN
    members = select(SelectionSource.source_id).where(SelectionSource.selection_id == saved.id)
    assert set(session.scalars(members)) == {source.id for source in sources[2:]}


def test_a_source_that_is_selected_twice_is_in_it_once(session: Session) -> None:
    make_sources(session, 3)
    twice = select(Source.id).union_all(select(Source.id))

    assert selections.save(session, "all", twice, ORIGIN).n_sources == 3


def test_a_name_is_given_once(session: Session) -> None:
    make_sources(session, 1)
    selections.save(session, "rings", select(Source.id), ORIGIN)

    with pytest.raises(NameTaken, match="'rings'"):
        selections.save(session, "rings", select(Source.id), ORIGIN)

    found = selections.find(session, "rings")
    assert found is not None
    assert found.n_sources == 1


@pytest.mark.parametrize("name", ["", " ", "a/b", "x" * 81, "a\nb", "-x", "a\0b", "a'; --"])
def test_a_name_that_would_be_trouble_is_refused(session: Session, name: str) -> None:
    with pytest.raises(BadName, match="1 to 80"):
        selections.save(session, name, select(Source.id), ORIGIN)


@pytest.mark.parametrize("name", ["a", "Ringe (gro\u00df), 2.", "x" * 80, "z+1"])
def test_names_may_have_letters_of_any_language_and_some_marks(session: Session, name: str) -> None:
    make_sources(session, 1)

    assert selections.save(session, name, select(Source.id), ORIGIN).name == name


def test_nothing_is_not_worth_a_selection(session: Session) -> None:
    with pytest.raises(NothingSelected):
        selections.save(session, "none", select(Source.id).where(Source.id < 0), ORIGIN)


def test_a_selection_may_be_as_large_as_the_limit_and_no_larger(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "MAX_SOURCES", 3)
    sources = make_sources(session, 4)
    fewer = select(Source.id).where(Source.id > sources[0].id)

    assert selections.save(session, "three", fewer.union_all(fewer), ORIGIN).n_sources == 3
    with pytest.raises(TooManySources, match="at most 3"):
        selections.save(session, "four", select(Source.id), ORIGIN)


def test_so_many_selections_are_kept_and_no_more(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "MAX_SELECTIONS", 1)
    make_sources(session, 1)
    selections.save(session, "first", select(Source.id), ORIGIN)

    with pytest.raises(TooManySelections, match="1 selections already"):
        selections.save(session, "second", select(Source.id), ORIGIN)

    selections.delete(session, "first")
    assert selections.save(session, "second", select(Source.id), ORIGIN).n_sources == 1


def test_selections_are_listed_newest_first_and_leave_their_sources_when_deleted(
    session: Session,
) -> None:
    make_sources(session, 2)
    for name in ("first", "second"):
        selections.save(session, name, select(Source.id), ORIGIN)

    assert [one.name for one in selections.listed(session)] == ["second", "first"]
    assert selections.delete(session, "first")
    assert not selections.delete(session, "first")
    assert selections.find(session, "first") is None
    assert session.scalar(select(func.count()).select_from(Source)) == 2
    assert session.scalar(select(func.count()).select_from(SelectionSource)) == 2
