"""Model versions in the database: register a card, choose the current one, list them.

The cards and the weights themselves are in `models.registry`; a registered version never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.tables import ModelVersion


class VersionConflict(ValueError):  # noqa: N818 (it reads as what happened)
    """A name that is taken by other weights."""


class UnknownVersion(ValueError):  # noqa: N818 (it reads as what happened)
    """No such version is registered."""


def register(
    session: Session, annotator: str, name: str, weights_sha256: str, card: dict[str, Any]
) -> ModelVersion:
    """Return the version of this name, adding it as a candidate if it is new.

    Raises
    ------
    VersionConflict
        The name is registered with other weights.
    """
    session.execute(
        insert(ModelVersion)
        .values(annotator=annotator, name=name, weights_sha256=weights_sha256, card=card)
        .on_conflict_do_nothing()
    )
    version = find(session, annotator, name)
    if version.weights_sha256 != weights_sha256:
        raise VersionConflict(
            f"{annotator} {name} is registered with weights of SHA-256 {version.weights_sha256}, "
            f"but the card says {weights_sha256}. A version never changes: give the new weights "
            "a new tag in models/weights.toml"
        )
    return version


def find(session: Session, annotator: str, name: str) -> ModelVersion:
    """Return a registered version; UnknownVersion if there is none of this name."""
    versions = listed(session, annotator)
    for version in versions:
        if version.name == name:
            return version
    known = ", ".join(version.name for version in versions) or "none"
    raise UnknownVersion(f"no version {name!r} of {annotator!r} is registered; known: {known}")


def listed(session: Session, annotator: str | None = None) -> Sequence[ModelVersion]:
    """Return the registered versions, of one annotator or of all, the newest first."""
    wanted = [] if annotator is None else [ModelVersion.annotator == annotator]
    return session.scalars(
        sa.select(ModelVersion)
        .where(*wanted)
        .order_by(ModelVersion.annotator, ModelVersion.id.desc())
        .execution_options(populate_existing=True)
    ).all()


def current(session: Session, annotators: Sequence[str]) -> Sequence[ModelVersion]:
    """Return the current version of each of these annotators that has one."""
    return session.scalars(
        sa.select(ModelVersion)
        .where(ModelVersion.state == "current", ModelVersion.annotator.in_(annotators))
        .order_by(ModelVersion.id)
        .execution_options(populate_existing=True)
    ).all()


def chosen(session: Session, annotators: Sequence[str], name: str | None) -> Sequence[ModelVersion]:
    """Return the versions of this name, or the current ones if it is None; see `current`.

    Raises
    ------
    UnknownVersion
        None of these annotators has a version of this name.
    """
    if name is None:
        return current(session, annotators)
    known = [version for version in listed(session) if version.annotator in annotators]
    if found := [version for version in known if version.name == name]:
        return found
    raise UnknownVersion(
        f"no version {name!r} of {' or '.join(annotators)} is registered; known: "
        f"{', '.join(version.name for version in known) or 'none'}"
    )


def promote(session: Session, annotator: str, name: str) -> ModelVersion:
    """Make a registered version the current one; to go back, promote the one before.

    Raises
    ------
    UnknownVersion
    """
    chosen = find(session, annotator, name)
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(annotator))))
    for state, condition in (
        ("retired", (ModelVersion.state == "current") & (ModelVersion.id != chosen.id)),
        ("current", ModelVersion.id == chosen.id),
    ):
        session.execute(
            sa.update(ModelVersion)
            .where(ModelVersion.annotator == annotator, condition)
            .values(state=state)
        )
    return chosen
