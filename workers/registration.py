"""The command `skygloss models register`: an encoder of the user's own as a model version.

The file is copied, tried on stored cutouts, reduced to principal components and described by a
card in the database. Running it is the business of `models.encoders`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import console, home, model_versions
from db.engine import session_factory
from db.model_versions import VersionConflict
from db.tables import ModelVersion
from models import encoders, registry
from models.encoders import CHANNELS, LAYOUTS, NORMALISATIONS, POOLS, SCALES, FileEncoder, Form
from models.network_files import EncoderError
from models.reduction import N_COMPONENTS, Reduction
from models.registry import Card
from workers import sample
from workers.annotators.representations import LARGEST, Representations
from workers.device import prepare

SAMPLE = 10_000  # sources
PART = 64  # pictures per call of the encoder
FEWEST = 2  # pictures from which anything can be learnt
ALIKE = 1e-5  # spread of the vectors, relative to the largest number, that is none
NAME = re.compile(r"[A-Za-z0-9][\w+-]*\.[\w.+-]+")


@dataclass(frozen=True)
class Registration:
    """What a user asks for: the file, its name, what it takes, and how to learn its components."""

    file: Path
    name: str
    form: Form
    pixel_scale: float  # arcsec/pixel, of the cutout
    cutout_size: int  # pixel, of the cutout
    n_sample: int = SAMPLE
    catalog: str = ""  # all of them if empty
    origin: str = ""  # what the card says of where the file came from


@click.command()
@click.argument("annotator", type=click.Choice([Representations.name]))
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="ARCHITECTURE.TAG of the version, e.g. zoobot.mine.")
@click.option("--imagenet", is_flag=True, help="No FILE: EfficientNetB0 from ImageNet, by Keras.")
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=224,
    show_default=True,
    help="Side of the pictures that the encoder takes [pixel].",
)
@click.option(
    "--pixel-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=0.262,
    show_default=True,
    help="Scale of the cutouts that become those pictures [arcsec/pixel].",
)
@click.option(
    "--cutout-size",
    type=click.IntRange(min=1),
    help="Side of those cutouts [pixel]; they are resized to --size.  [default: the same]",
)
@click.option("--channels", type=click.Choice(CHANNELS), default="rgb", show_default=True)
@click.option("--scale", type=click.Choice(list(SCALES)), default="0-1", show_default=True)
@click.option(
    "--normalise", type=click.Choice(list(NORMALISATIONS)), default="none", show_default=True
)
@click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True)
@click.option("--output", default="", help="Which output, if the encoder has several.")
@click.option("--pool", type=click.Choice(POOLS), default="auto", show_default=True)
@click.option("--pca-from", "catalog", default="", help="Learn the components from this catalog.")
@click.option(
    "--pca-sample",
    "n_sample",
    type=click.IntRange(min=FEWEST),
    default=SAMPLE,
    show_default=True,
    help="Sources to try the encoder on and to learn the components from.",
)
@click.option("--promote", is_flag=True, help="Make it the current version at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for machines.")
def register(
    annotator: str,
    file: Path | None,
    name: str,
    imagenet: bool,
    pixel_scale: float,
    cutout_size: int | None,
    catalog: str,
    n_sample: int,
    promote: bool,
    as_json: bool,
    **described: Any,
) -> None:
    """Register FILE, a Keras (.keras) or ONNX (.onnx) encoder, as a version of ANNOTATOR.

    Say what pictures it takes; it is then tried on stored cutouts, and its first 40 principal
    components are learnt from them. docs/encoders.md has examples.
    """
    if bool(file) == imagenet:
        raise click.UsageError("give either FILE or --imagenet")
    engine = console.open_database()
    reasons = (EncoderError, VersionConflict, sample.NothingToSee, registry.ChecksumError)
    with console.friendly_errors(*reasons), tempfile.TemporaryDirectory() as folder:
        form = Form(**described)
        origin = str(file)
        if file is None or file.suffix == ".keras":
            prepare()  # Keras, without a word
        if imagenet:
            file, origin = Path(folder) / "imagenet.keras", "keras.applications"
            form = encoders.save_imagenet(file, form.size)
        assert file is not None
        wanted = Registration(
            file, name, form, pixel_scale, cutout_size or form.size, n_sample, catalog, origin
        )
        card = bring_in(engine, wanted, quiet=as_json)
        if promote:
            with session_factory(engine).begin() as session:
                model_versions.promote(session, annotator, name)
    _report(card, promote, as_json)


def bring_in(engine: Engine, wanted: Registration, quiet: bool = True) -> Card:
    """Copy, try, reduce and register an encoder; asked for the same again, change nothing.

    Parameters
    ----------
    quiet : bool
        Whether to show no progress bar.

    Raises
    ------
    EncoderError
        The file cannot be used, was described wrongly, or gives vectors that cannot be stored or
        are all alike.
    VersionConflict
        The name is taken by another version.
    workers.sample.NothingToSee
        No stored cutout serves.
    """
    _check_name(wanted.name)
    if not wanted.file.is_file():
        raise EncoderError(f"there is no file {wanted.file}")
    sha256 = registry.sha256(wanted.file)
    if known := _registered(engine, wanted, sha256):
        return known
    vectors = _try(engine, FileEncoder(wanted.file, wanted.form), wanted, quiet)
    fitted = Reduction.fit(vectors)
    _check_range("principal components", fitted.apply(vectors))
    with tempfile.TemporaryDirectory(dir=home.models()) as folder:
        encoder, components = Path(folder) / "encoder", Path(folder) / "components.npz"
        shutil.copyfile(wanted.file, encoder)
        registry.verify_file(encoder, sha256, "the copy of the encoder")
        card = _card(wanted, sha256, fitted.save(components), _facts(wanted, vectors, fitted))
        with session_factory(engine).begin() as session:
            found = _entered(session, wanted, card)
            if found.build == card.build:  # nobody else was quicker
                os.replace(encoder, card.path)
                os.replace(components, card.build["reduction"])
    return found


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise EncoderError(
            f"a version is named ARCHITECTURE.TAG, in letters, digits and -+_, such as zoobot.mine;"
            f" not {name!r}"
        )
    if name in (card.name for card in registry.cards(Representations.name)):
        raise VersionConflict(f"{name} ships with Skygloss: choose another tag")


def _inputs(wanted: Registration) -> dict[str, Any]:
    return {
        "bands": ["z", "r", "g"],
        "size": wanted.cutout_size,
        "pixel_scale": wanted.pixel_scale,
        "unit": "display",
    }


def _registered(engine: Engine, wanted: Registration, sha256: str) -> Card | None:
    """The card of this name if it is there and says the same."""
    with session_factory(engine)() as session:
        versions = model_versions.listed(session, Representations.name)
    for version in versions:
        if version.name == wanted.name:
            return _agreed(version, wanted, sha256)
    return None


def _agreed(version: ModelVersion, wanted: Registration, sha256: str) -> Card:
    """The card of a version of the name that is wanted; VersionConflict if it says otherwise."""
    asked = {**wanted.form.as_dict(), "inputs": _inputs(wanted), "sha256": sha256}
    found = {**version.card.get("build", {}), **version.card}
    if {key: found.get(key) for key in asked} != asked:
        raise VersionConflict(
            f"representations {wanted.name} is registered with another file or description."
            " A version never changes: choose another tag, --name ARCHITECTURE.TAG"
        )
    return registry.from_dict(version.card)


def _card(
    wanted: Registration, sha256: str, reduction_sha256: str, training: dict[str, Any]
) -> Card:
    """The card of an encoder, its files under names that their content gives."""
    path, reduction = (
        home.models() / f"{each[:16]}{suffix}"
        for each, suffix in ((sha256, wanted.file.suffix), (reduction_sha256, ".npz"))
    )
    files = {"reduction": str(reduction), "reduction_sha256": reduction_sha256}
    return Card(
        annotator=Representations.name,
        name=wanted.name,
        weights=str(path),
        sha256=sha256,
        summary=f"Registered from {wanted.origin or wanted.file}.",
        inputs=_inputs(wanted),
        preprocessing=f"Cutouts of {wanted.cutout_size} pixels become {wanted.form}.",
        build={**wanted.form.as_dict(), **files},
        training=training,
    )


def _entered(session: Session, wanted: Registration, card: Card) -> Card:
    """Register a card; the card of the name as it is now: another's who was quicker, perhaps."""
    content = {**card.as_dict(), **Representations.description(card.as_dict())}
    version = model_versions.register(session, card.annotator, card.name, card.sha256, content)
    return _agreed(version, wanted, card.sha256)


def _try(
    engine: Engine, encoder: FileEncoder, wanted: Registration, quiet: bool
) -> NDArray[np.float32]:
    """Run an encoder on stored cutouts: vectors (n, d) that can be stored and differ."""
    version = ModelVersion(annotator=Representations.name, card={"inputs": _inputs(wanted)})
    catalog_id = console.catalog_id(engine, wanted.catalog) if wanted.catalog else None
    with session_factory(engine)() as session:
        where = (session, version, Representations, wanted.n_sample, catalog_id)
        choices = sample.choose(*where)
    inputs = Representations.inputs_of(version.card)
    total = sum(len(choice.rows) for choice in choices)
    parts = [np.empty((0, encoder.length), np.float32)]
    with console.progress_bar("trying the encoder", total, quiet) as progress:
        for choice in choices:
            pictures = sample.pictures(choice, home.pixels(), inputs)
            for start in range(0, len(pictures), PART):
                parts.append(encoder.embed(pictures[start : start + PART], PART))
                progress(len(parts[-1]))
    vectors = np.concatenate(parts)
    _check_vectors(vectors)
    return vectors


def _check_vectors(vectors: NDArray[np.float32]) -> None:
    n = len(vectors)
    if n < FEWEST:
        raise EncoderError(
            f"{n} stored cutouts can be judged, and {FEWEST} are the fewest to learn from: ingest "
            "more (skygloss ingest cutouts)"
        )
    if n_wrong := np.count_nonzero(~np.isfinite(vectors).all(axis=1)):
        raise EncoderError(
            f"the encoder gave no number for {n_wrong} of {n} pictures: is it damaged, or are its "
            "pixels on another scale (--scale, --normalise)?"
        )
    _check_range("vectors", vectors)
    if np.ptp(vectors, axis=0).max() <= ALIKE * abs(vectors).max():
        raise EncoderError(
            f"the encoder gave the same vector for all {n} pictures: are its pixels on another "
            "scale (--scale, --normalise), or is this another output than meant (--output)?"
        )


def _check_range(what: str, vectors: NDArray[np.float32]) -> None:
    largest = float(abs(vectors).max())
    if largest > LARGEST:
        raise EncoderError(
            f"the {what} have numbers of size {largest:.3g}, and half precision, in which they "
            f"are stored, ends at {LARGEST:.0f}: choose another --output or another --scale"
        )


def _facts(wanted: Registration, vectors: NDArray[np.float32], fitted: Reduction) -> dict[str, Any]:
    """What the card says of how the components were learnt."""
    kept = {str(k): round(float(fitted.explained[:k].sum()), 4) for k in (10, N_COMPONENTS)}
    return {
        "components_from": wanted.catalog or "all catalogs",
        "n_sources": len(vectors),
        "length": vectors.shape[1],
        "variance_kept": kept,
    }


def _report(card: Card, promoted: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**card.as_dict(), "state": "current" if promoted else "candidate"}))
        return
    facts, name = card.training, card.name
    click.echo(
        f"{name}: {facts['length']:,} numbers per source, tried on {facts['n_sources']:,} sources; "
        f"{N_COMPONENTS} principal components keep "
        f"{facts['variance_kept'][str(N_COMPONENTS)]:.1%} of their variance\n"
        f"The file is now {card.path}\n"
    )
    if promoted:
        click.echo(f"It is current. To fill it: skygloss annotate --annotator {card.annotator}")
        return
    click.echo(
        f"It is a candidate. To fill it: skygloss annotate --version {name}\n"
        f"To make it current: skygloss models promote {card.annotator} {name}"
    )
