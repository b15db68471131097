"""The commands `skygloss train source_map` and `exposure_map`: maps of what a database holds.

They read cutouts or histograms of exposures, train (`models.training.desom`), and register the
weights as a candidate version.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine

from db import console, histograms, home, model_versions
from db.cutouts import ON_EXPOSURES, read_block
from db.engine import session_factory
from db.model_versions import UnknownVersion, VersionConflict
from db.tables import CutoutBlock, CutoutSet
from models import registry
from workers.annotators.base import Annotator
from workers.annotators.exposure_map import ExposureMap
from workers.annotators.source_map import SourceMap
from workers.device import prepare

if TYPE_CHECKING:
    from models.training.desom import Preset, Trained

CUTOUTS = 200_000  # the paper saw no difference between these and a million
PART = 500  # exposures whose histograms are counted at a time
PRESETS = ("quick", "shipped", "published")

Progress = Callable[[int], None]


class TooLittle(ValueError):  # noqa: N818 (it reads as what happened)
    """There is nothing, or too little, to learn from."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of both commands."""
    for option in (
        click.option("--tag", help="Names the version.  [default: from catalog, preset and seed]"),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option(
            "--preset",
            type=click.Choice(PRESETS),
            default="shipped",
            show_default=True,
            help="quick: seconds, to try. published: 100,000 iterations, best on a GPU.",
        ),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            required=True,
            help="Folder for weights, card, picture and checkpoints.",
        ),
        click.option("--name", "catalog", required=True, help="Catalog of the exposures."),
    ):
        command = option(command)
    return command


@click.command("source_map")
@_options
@click.option(
    "--cutouts",
    "n_cutouts",
    type=click.IntRange(10),
    default=CUTOUTS,
    show_default=True,
    help="How many to learn from, as many from each exposure as can be.",
)
def train_source_map(
    catalog: str, out: Path, preset: str, seed: int, tag: str | None, n_cutouts: int
) -> None:
    """Train a map of cutouts (DESOM-1) on the sources detected on exposures.

    Needs no labels. An interrupted training is continued by the same command.
    """
    engine, recipe, tag = _begin(SourceMap, catalog, preset, seed, tag)
    with console.friendly_errors(TooLittle, ValueError):
        catalog_id = console.catalog_id(engine, catalog)
        with console.progress_bar("reading cutouts", n_cutouts, quiet=False) as progress:
            cutouts = read_cutouts(engine, catalog_id, n_cutouts, seed, progress)
        trained = _train(cutouts, recipe, seed, out)
    _finish(engine, SourceMap, trained, recipe, seed, out, tag, {"catalog": catalog})


@click.command("exposure_map")
@_options
@click.option("--source-map", help="Version whose cells are counted.  [default: the current one]")
def train_exposure_map(
    catalog: str, out: Path, preset: str, seed: int, tag: str | None, source_map: str | None
) -> None:
    """Train a map of exposures (DESOM-2) on how many of their sources fall into which cell.

    Needs no labels, but every source its place on a source map (skygloss annotate). An interrupted
    training is continued by the same command.
    """
    engine, recipe, tag = _begin(ExposureMap, catalog, preset, seed, tag)
    with console.friendly_errors(TooLittle, UnknownVersion, ValueError):
        catalog_id = console.catalog_id(engine, catalog)
        with session_factory(engine)() as session:
            versions = model_versions.chosen(session, [SourceMap.name], source_map)
        if not versions:
            raise UnknownVersion(
                "no version of source_map is current: run `skygloss annotate` first, or choose one "
                "with --source-map"
            )
        counts = read_histograms(engine, catalog_id, versions[0].id, versions[0].name)
        trained = _train(counts, recipe, seed, out)
    facts = {"catalog": catalog, "source_map": versions[0].name}
    _finish(engine, ExposureMap, trained, recipe, seed, out, tag, facts)


def read_cutouts(
    engine: Engine, catalog_id: int, n: int, seed: int, progress: Progress | None = None
) -> NDArray:
    """Read up to n cutouts of sources on exposures, as equally from all exposures as can be.

    One block is in memory beside them.

    Parameters
    ----------
    progress : callable, optional
        Called with the number of cutouts read.

    Returns
    -------
    ndarray, shape (m, 32, 32, 1)
        In the type that holds those of all sets.

    Raises
    ------
    TooLittle
        There are no cutouts of exposures.
    """
    statement = (
        sa.select(CutoutSet.store_path, CutoutSet.dtype, CutoutBlock.number, CutoutBlock.n)
        .join(CutoutBlock, CutoutBlock.cutout_set_id == CutoutSet.id)
        .where(CutoutSet.catalog_id == catalog_id, CutoutSet.origin == ON_EXPOSURES)
        .where(CutoutBlock.sealed_at.is_not(None))
        .order_by(CutoutBlock.id)
    )
    with engine.connect() as connection:
        blocks = connection.execute(statement).all()
    if not blocks:
        raise TooLittle(
            "the catalog holds no sources detected on exposures: skygloss ingest exposures"
        )
    rng = np.random.default_rng(seed)
    shares = _shares(np.array([block.n for block in blocks]), n, rng)
    parts = np.empty((shares.sum(), 32, 32, 1), np.result_type(*{block.dtype for block in blocks}))
    start = 0
    for block, share in zip(blocks, shares.tolist(), strict=True):
        if share:
            pixels = read_block(home.pixels(), block.store_path, block.number, 0, block.n - 1)
            parts[start : start + share] = pixels[np.sort(rng.permutation(block.n)[:share])]
            start += share
            if progress:
                progress(share)
    return parts


def _shares(sizes: NDArray[np.integer], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many cutouts to take from each block, n in all: the same from all that have so many."""
    shares = np.zeros(len(sizes), np.int64)
    left = min(n, int(sizes.sum()))
    order = rng.permutation(len(sizes))
    order = order[np.argsort(sizes[order], kind="stable")]  # small ones first: they may have less
    for k, block in enumerate(order.tolist()):
        shares[block] = min(sizes[block], -(-left // (len(order) - k)))
        left -= int(shares[block])
    return shares


def read_histograms(
    engine: Engine, catalog_id: int, version_id: int, version: str
) -> NDArray[np.float32]:
    """Read how many sources of a catalog's exposures are in which cell, (n, cells).

    What no worker has counted yet is counted, a part of the exposures at a time. Exposures of
    which no source has a cell are left out.

    Raises
    ------
    TooLittle
        No exposure has sources with a cell, or not all of them are placed yet.
    """
    parts = []
    sessions = session_factory(engine)
    with sessions() as session:
        exposures = histograms.finished(session, version_id, catalog_id)
    for start in range(0, len(exposures), PART):
        part = exposures[start : start + PART]
        with sessions.begin() as session:
            found = histograms.read(session, version_id, part)
            if uncounted := set(part) - set(found.exposure_ids.tolist()):
                histograms.make(session, version_id, sorted(uncounted))
                found = histograms.read(session, version_id, part)
        parts.append(found.counts[found.n_counted > 0])
    if not sum(map(len, parts)):
        raise TooLittle(
            f"no exposure of the catalog has its sources in cells of {SourceMap.name} {version}: "
            f"skygloss annotate --annotator {SourceMap.name}"
        )
    return np.concatenate(parts)


def _begin(
    annotator: type[Annotator], catalog: str, preset: str, seed: int, tag: str | None
) -> tuple[Engine, Preset, str]:
    """The database, the recipe and the tag; refuses a name that is taken before hours are spent."""
    prepare()
    from models.training.desom import PRESETS as RECIPES

    engine = console.open_database()
    recipe = RECIPES[annotator.name][preset]
    tag = tag or f"{re.sub(r'[^A-Za-z0-9_-]+', '-', catalog)}-{preset}-{seed}"
    name = f"{recipe.architecture}.{tag}"
    if not re.fullmatch(r"[\w.+-]+", tag):
        raise click.ClickException(f"a tag has letters, digits and -+_. only; not {tag!r}")
    with session_factory(engine)() as session:
        taken = {version.name for version in model_versions.listed(session, annotator.name)}
    if name in taken | {card.name for card in registry.cards(annotator.name)}:
        raise click.ClickException(
            f"{annotator.name} {name} is there already, and a version never changes: choose "
            "another name for this one, --tag"
        )
    return engine, recipe, tag


def _train(inputs: NDArray, recipe: Preset, seed: int, out: Path) -> Trained:
    from models.training import desom as training

    with console.progress_bar("training", recipe.rounds, quiet=False) as progress:
        return training.train(
            inputs, recipe, seed, checkpoints=out / "checkpoints", progress=progress
        )


def _finish(
    engine: Engine,
    annotator: type[Annotator],
    trained: Trained,
    recipe: Preset,
    seed: int,
    out: Path,
    tag: str,
    facts: dict[str, Any],
) -> None:
    """Write weights, card and picture, register the version, and say what came out."""
    from models.training import desom as training
    from models.training.shreds import save_half

    weights, picture = out / f"{recipe.architecture}.weights.h5", out / "prototypes.png"
    save_half(trained.model, weights)
    training.picture(trained.model, picture)
    kept = home.models() / f"{registry.sha256(weights)[:16]}.weights.h5"
    shutil.copyfile(weights, kept)
    card = training.card(trained, recipe, seed, kept, tag, facts)
    (out / "card.toml").write_text(registry.to_toml(card))
    content = {**card.as_dict(), **annotator.description(card.as_dict())}
    with console.friendly_errors(VersionConflict), session_factory(engine).begin() as session:
        model_versions.register(session, card.annotator, card.name, card.sha256, content)
    click.echo(
        f"{card.name}: learnt from {trained.n_trained:,}, measured on {trained.n_held_out:,} held "
        f"out: quantization error {trained.quantization_error:.4f}, topographic error "
        f"{trained.topographic_error:.1%}\n"
        f"The prototypes are drawn in {picture}; weights and card.toml are beside it.\n\n"
        f"It is a candidate. To fill it: skygloss annotate --version {card.name}\n"
        f"To make it current: skygloss models promote {card.annotator} {card.name}"
    )
