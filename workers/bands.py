"""The command `skygloss models band`: weights that are there, as a version for another band."""

import re
from dataclasses import replace

import click
from sqlalchemy.orm import Session

from db import console, model_versions
from db.engine import session_factory
from db.model_versions import UnknownVersion, VersionConflict
from db.tables import ModelVersion
from models import registry
from models.registry import Card
from workers.annotators import ANNOTATORS
from workers.annotators.light import LightAnnotator

LIGHT = {each.name: each for each in ANNOTATORS if issubclass(each, LightAnnotator)}
BAND = re.compile(r"[\w+]+")  # what may be part of a version's name


class UnsuitableBand(ValueError):  # noqa: N818 (it reads as what happened)
    """A band that cannot be, or is the one that the version looks at already."""


@click.command()
@click.argument("annotator", type=click.Choice(list(LIGHT)))
@click.argument("version")
@click.argument("band")
def band(annotator: str, version: str, band: str) -> None:
    """Let VERSION of ANNOTATOR look at BAND, in a version of its own with the same weights.

    It is registered as VERSION-BAND, a candidate; cutouts that have a band of this name serve it.
    """
    engine = console.open_database()
    with (
        console.friendly_errors(UnknownVersion, UnsuitableBand, VersionConflict),
        session_factory(engine).begin() as session,
    ):
        name = register(session, annotator, version, band).name
    click.echo(
        f"{name} is a candidate. To fill it: skygloss annotate --version {name}\n"
        f"To make it current: skygloss models promote {annotator} {name}"
    )


def register(session: Session, annotator: str, version: str, band: str) -> ModelVersion:
    """Register a version's weights for another band; asked for the same again, change nothing.

    Raises
    ------
    UnknownVersion
        Neither shipped nor registered.
    UnsuitableBand
    VersionConflict
        The name is taken by other weights.
    """
    card = _find(session, annotator, version)
    if not BAND.fullmatch(band):
        raise UnsuitableBand(
            f"a band is named as in the cutout set, in letters, digits and _+, such as i or F814W; "
            f"not {band!r}"
        )
    if card.inputs.get("bands") == [band]:
        raise UnsuitableBand(f"{version} looks at {band} already: skygloss annotate uses it as is")
    limits = f"These are the weights of {version}, for which nothing was measured in {band}."
    of_band = replace(
        card,
        name=f"{version}-{band}",
        state="candidate",
        inputs={**card.inputs, "bands": [band]},
        limits=f"{card.limits} {limits}".strip(),
    )
    content = {**of_band.as_dict(), **LIGHT[annotator].description(of_band.as_dict())}
    return model_versions.register(session, annotator, of_band.name, of_band.sha256, content)


def _find(session: Session, annotator: str, name: str) -> Card:
    """The card of a version that ships, or that is registered."""
    registered = model_versions.listed(session, annotator)
    cards = [*registry.cards(annotator), *(registry.from_dict(each.card) for each in registered)]
    known = {card.name: card for card in cards}
    if name not in known:
        raise UnknownVersion(
            f"no version {name!r} of {annotator}; known: {', '.join(known) or 'none'}"
        )
    return known[name]
