"""`skygloss train blends`: a network that tells two overlapping galaxies from one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models import registry

if TYPE_CHECKING:
    from models.blender import Parents
    from models.training.blends import Preset

PRESETS = ("quick", "shipped", "vgg16", "encoder")


@click.command("blends")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for weights, card, history and checkpoints.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="shipped",
    show_default=True,
    help="quick: a minute, to try. vgg16: as published, on ImageNet weights. encoder: the same on "
    "our own encoder, which needs no download.",
)
@click.option("--seed", type=click.IntRange(0, 9), default=0, show_default=True)
@click.option(
    "--parents",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of isolated galaxies of your own.  [default: simulated ones]",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0, min_open=True),
    nargs=2,
    metavar="LOW HIGH",
    help="Range of the noise of cutouts [nJy per pixel].  [default: 1.5 40]",
)
def train_blends(
    out: Path, preset: str, seed: int, folder: Path | None, noise: tuple[float, float] | None
) -> None:
    """Train a network that tells whether a cutout shows one galaxy or two that overlap.

    Draws pairs and single galaxies from simulated parents, or from your own isolated galaxies.
    Writes the weights (float16), the loss of every round, and a card to paste into weights.toml. An
    interrupted training goes on.
    """
    try:
        from models.commands import progress_bar
        from models.training import blends as training
        from models.training.shreds import save_half

        recipe = training.PRESETS[preset]
        if noise:
            recipe = replace(recipe, noise=(min(noise), max(noise)))
        parents = _parents(recipe, seed, folder)
        with progress_bar("training", training.n_steps(recipe)) as step:
            trained = training.train(
                parents, recipe, seed, folder=out / "checkpoints", progress=step
            )
        weights = out / f"blends-{recipe.architecture}.weights.h5"
        save_half(trained.model, weights)
        training.write_history(trained.history, out)
        source = f"galaxies of {folder.resolve()}" if folder else f"simulated galaxies, seed {seed}"
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        card = training.card(trained, recipe, seed, weights, day, source)
        (out / "card.toml").write_text(registry.to_toml(card))
    except (ValueError, FileNotFoundError, ModuleNotFoundError, registry.ChecksumError) as error:
        raise click.ClickException(str(error)) from error
    found = ", ".join(f"{k.replace('_', ' ')} {x:.4f}" for k, x in trained.metrics.items())
    click.echo(f"On galaxies held out: {found}.")
    click.echo(f"Wrote {weights}, history.csv and card.toml beside it.")


def _parents(recipe: Preset, seed: int, folder: Path | None) -> Parents:
    """The user's galaxies, or simulated ones."""
    from models import blender
    from models.commands import progress_bar
    from models.training.blends import simulated

    if folder:
        return blender.read_parents(folder)
    with progress_bar("galaxies", recipe.n_parents) as step:
        return simulated(recipe, seed, step)
