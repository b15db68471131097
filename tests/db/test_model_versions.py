"""Model versions never change, and one of each annotator is current."""

import pytest
from sqlalchemy.orm import Session

from db import model_versions
from db.model_versions import UnknownVersion, VersionConflict

SHA = "a" * 64


def register(session: Session, name: str, sha256: str = SHA) -> None:
    model_versions.register(session, "shreds", name, sha256, {"summary": "a test"})


def current_names(session: Session) -> list[str]:
    return [version.name for version in model_versions.current(session, ["shreds"])]


def test_registering_twice_changes_nothing(session: Session) -> None:
    first = model_versions.register(session, "shreds", "tiny.one", SHA, {"summary": "first"})
    again = model_versions.register(session, "shreds", "tiny.one", SHA, {"summary": "second"})

    assert again.id == first.id
    assert again.card == {"summary": "first"}
    assert again.state == "candidate"


def test_a_name_with_other_weights_is_refused(session: Session) -> None:
    register(session, "tiny.one")

    with pytest.raises(VersionConflict, match="A version never changes"):
        register(session, "tiny.one", "b" * 64)


def test_promoting_retires_the_version_before_and_can_be_undone(session: Session) -> None:
    register(session, "tiny.one")
    register(session, "tiny.two")

    seen = []
    for name in ("tiny.one", "tiny.two", "tiny.one"):
        model_versions.promote(session, "shreds", name)
        seen.append(current_names(session))

    assert seen == [["tiny.one"], ["tiny.two"], ["tiny.one"]]
    states = {version.name: version.state for version in model_versions.listed(session)}
    assert states == {"tiny.one": "current", "tiny.two": "retired"}


def test_an_unknown_version_is_not_promoted(session: Session) -> None:
    register(session, "tiny.one")

    with pytest.raises(UnknownVersion, match=r"known: tiny\.one"):
        model_versions.promote(session, "shreds", "tiny.three")
