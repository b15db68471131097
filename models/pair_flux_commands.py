"""The command that trains networks for the light of pairs: thin over `models.training`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models import registry
from models.commands import FOLDER, explained, progress_bar

if TYPE_CHECKING:
    from models.blender import Parents
    from models.training.blend2flux import Published
    from models.training.pair_flux import Preset

PRESETS = (
    "quick",
    "shipped",
    "blend2flux-64",
    "blend2flux-256",
    "blend2flux-512",
    "unet",
    "blend2mask2flux",
    "blend2mask2flux-code",
)
N_HELD_OUT = 1500  # parents that errors are calibrated on
N_FOR_SEP = 1000  # isolated galaxies that sep is calibrated on
USUAL_FWHM = (3.0,)  # of the point spread function that they are calibrated for [pixel]


@click.command("pair_flux")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="shipped",
    show_default=True,
    help="quick: minutes, to try. The others: the published networks and schedules, for a GPU.",
)
@click.option(
    "--parents", type=FOLDER, help="Your own isolated galaxies (FITS), instead of simulated ones."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Fewer epochs of a published network.")
@click.option("--seed", type=click.IntRange(0, 8), default=0, show_default=True)
@click.option("--half", is_flag=True, help="Compute in bfloat16 (recent processors and GPUs).")
def train_pair_flux(
    out: Path, preset: str, parents: Path | None, epochs: int | None, seed: int, half: bool
) -> None:
    """Train a network that measures both galaxies of a pair.

    Writes the weights (float16), a card to paste into weights.toml, and what was learnt when
    (checkpoints/history.csv). An interrupted training goes on.
    """
    with explained():
        from models.training import blend2flux, pair_flux
        from models.training.shreds import save_half

        training: Any = blend2flux if preset in blend2flux.PRESETS else pair_flux
        recipe = training.PRESETS[preset]
        if epochs and training is pair_flux:
            raise ValueError(f"--epochs is for the published networks, not for {preset}")
        if epochs:
            recipe = replace(recipe, epochs=epochs)
        learnt, held_out = _parents(parents, recipe, seed)
        with progress_bar("training", training.n_steps(recipe)) as step:
            trained = training.train(
                learnt,
                held_out,
                recipe,
                seed,
                half=half,
                checkpoints=out / "checkpoints",
                progress=step,
            )
        weights = out / f"pair-flux-{recipe.architecture}.weights.h5"
        save_half(trained.model, weights)
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        source = f"folder {parents.name}" if parents else f"simulated, seed {seed}"
        card = pair_flux.card(trained, recipe, seed, weights, day, source)
        facts = {"sep_calibration": _sep_calibration(held_out, seed)}  # for workers, beside it
        card = replace(card, training={**card.training, **facts})
        (out / "card.toml").write_text(registry.to_toml(card))
    found = ", ".join(f"{name.replace('_', ' ')} {x}" for name, x in trained.metrics.items())
    click.echo(f"On galaxies held out: {found}.")
    click.echo(f"Wrote {weights} and card.toml beside it.")


def _sep_calibration(parents: Parents, seed: int) -> float:
    """What makes sep's fluxes of isolated galaxies right at the usual noise."""
    from models import extraction
    from models.evaluation.known_pairs import calibration
    from models.pair_flux import SIZE
    from models.training.pair_flux import usual

    recipe = usual(min(parents.size, SIZE))
    kind, subtract = extraction.ROW_KIND, extraction.ROW_SUBTRACT
    return round(calibration(parents, recipe, N_FOR_SEP, seed, kind=kind, subtract=subtract), 4)


def _parents(folder: Path | None, recipe: Preset | Published, seed: int) -> tuple[Parents, Parents]:
    """Galaxies to learn from, and others to calibrate errors on."""
    from models.blender import read_parents, split
    from models.training import pair_flux as training

    if folder:
        own = read_parents(folder)
        rows, others = split(len(own.flux), seed)
        return training.chosen(own, rows), training.chosen(own, others)
    wanted = (
        (recipe.n_parents, seed, recipe.fwhm),
        (N_HELD_OUT, training.HELD_OUT_SEED, USUAL_FWHM),
    )
    total = sum(-(-n // training.PIECE) for n, _, _ in wanted)
    with progress_bar("simulating galaxies", total) as step:
        learnt, held_out = (training.simulated_parents(*each, step) for each in wanted)
    return learnt, held_out
