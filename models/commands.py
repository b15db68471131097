"""The commands of `train` and `evaluate` that need no database: thin over the two packages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models import registry

if TYPE_CHECKING:
    from models.evaluation.representations import Evaluation as Judgement
    from models.evaluation.representations import Judge
    from models.evaluation.shreds import Evaluation
    from models.labelled import Labelled
    from models.training.representations import Preset

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PRESETS = ("quick", "shipped", "published", "plain")
ENCODERS = ("quick", "shipped", "picture")


@click.command("shreds")
@click.option("--data", type=FOLDER, required=True, help="Folder with labels.csv and images/.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="shipped",
    show_default=True,
    help="quick: minutes, to try. published: the published network, best on a GPU.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--half", is_flag=True, help="Compute in bfloat16 (recent processors and GPUs).")
def train_shreds(data: Path, out: Path, preset: str, seed: int, half: bool) -> None:
    """Train a network that tells galaxies from shreds, on every decided label of a folder.

    Writes the weights (float16), the pictures seen, and a card to paste into weights.toml.
    """
    with explained():
        from models.evaluation.shreds import write_fingerprints
        from models.labelled import read_folder
        from models.training import shreds as training

        recipe = training.PRESETS[preset]
        labelled = read_folder(data)
        _compute_in(half)
        with progress_bar("training", training.n_steps(recipe)) as step:
            model = training.train(labelled, recipe, seed, step)
        out.mkdir(parents=True, exist_ok=True)
        weights = out / f"shreds-{recipe.architecture}.weights.h5"
        training.save_half(model, weights)
        write_fingerprints(labelled.rgb, registry.seen_path(weights))
        card = training.card(labelled, recipe, seed, weights, f"{datetime.now(UTC):%Y-%m-%d}")
        (out / "card.toml").write_text(registry.to_toml(card))
    click.echo(f"Wrote {weights}, the pictures seen and card.toml beside it.")


@click.command("shreds")
@click.option("--data", type=FOLDER, required=True, help="Folder with labels.csv and images/.")
@click.option("--version", help="Model version to judge; by default the current one.")
@click.option("--cards", type=click.Path(exists=True, path_type=Path), help="Another weights.toml.")
@click.option("--cross-validate", is_flag=True, help="Train anew for every fold, and judge that.")
@click.option("--folds", "n_folds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--preset", type=click.Choice(PRESETS), default="shipped", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--half", is_flag=True, help="Compute in bfloat16 (recent processors and GPUs).")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for plots and the page.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def evaluate_shreds(
    data: Path,
    version: str | None,
    cards: Path | None,
    cross_validate: bool,
    n_folds: int,
    preset: str,
    seed: int,
    half: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge shipped weights on labelled sources they have never seen, or a recipe by folds.

    Sources a version was trained on are left out; if none remain, that is an error.
    """
    with explained():
        from models.evaluation import report, shreds
        from models.labelled import read_folder
        from models.training.shreds import PRESETS as RECIPES
        from models.training.shreds import n_steps

        labelled = read_folder(data)
        if cross_validate:
            _compute_in(half)
            recipe = RECIPES[preset]
            with progress_bar(f"{n_folds} folds", n_folds * n_steps(recipe)) as step:
                found = shreds.cross_validate(
                    labelled, recipe, preset, n_folds=n_folds, seed=seed, progress=step
                )
        else:
            card = registry.find("shreds", version, cards or registry.CARDS)
            found = shreds.evaluate_version(labelled, card)
        if out:
            shreds.write_numbers(found, out)
            click.echo(f"Wrote {report.write(found, out)}", err=True)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else _summary(found))


@click.command("representations")
@click.option("--data", type=FOLDER, required=True, help="Folder with labels.csv and images/.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option(
    "--preset",
    type=click.Choice(ENCODERS),
    default="shipped",
    show_default=True,
    help="quick: minutes, to try. picture: the network sees the picture itself, not rings.",
)
@click.option("--start", help="'imagenet', or a file of weights, instead of the simulated sky.")
@click.option("--seed", type=int, default=0, show_default=True)
def train_representations(data: Path, out: Path, preset: str, start: str | None, seed: int) -> None:
    """Train an encoder: on a simulated sky, then on every label and tag of a folder.

    Writes the weights (float16), the pictures seen, and a card to paste into weights.toml; beside
    them those of the simulated sky alone, to cross-validate from. An interrupted training goes on.
    """
    with explained():
        from models.evaluation.shreds import write_fingerprints
        from models.labelled import read_folder
        from models.training import representations as training
        from models.training.shreds import save_half

        recipe = training.PRESETS[preset]
        labelled = read_folder(data)
        with progress_bar("training", training.n_steps(recipe)) as step:
            model = training.train(
                labelled, recipe, seed, start=start, checkpoints=out / "checkpoints", progress=step
            )
        weights = out / f"representations-{recipe.architecture}.weights.h5"
        save_half(model, weights)
        write_fingerprints(labelled.rgb, registry.seen_path(weights))
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        card = training.card(labelled, recipe, seed, weights, day, start)
        (out / "card.toml").write_text(registry.to_toml(card))
    click.echo(f"Wrote {weights}, the pictures seen and card.toml beside it.")


@click.command("representations")
@click.option("--data", type=FOLDER, required=True, help="Folder with labels.csv and images/.")
@click.option("--version", help="Model version to judge; by default the current one.")
@click.option("--cards", type=click.Path(exists=True, path_type=Path), help="Another weights.toml.")
@click.option("--weights", type=FILE, help="A file of weights to judge, of the preset's network.")
@click.option("--baseline", type=FILE, help="efficientnetb0_notop.h5, to judge ImageNet beside.")
@click.option("--cross-validate", is_flag=True, help="Fine-tune anew for every fold, judge that.")
@click.option("--start", type=FILE, help="Weights of the simulated sky alone, for every fold.")
@click.option("--folds", "n_folds", type=click.IntRange(2), default=3, show_default=True)
@click.option("--preset", type=click.Choice(ENCODERS), default="shipped", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the page and pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def evaluate_representations(
    data: Path,
    version: str | None,
    cards: Path | None,
    weights: Path | None,
    baseline: Path | None,
    cross_validate: bool,
    start: Path | None,
    n_folds: int,
    preset: str,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge neighbours by their tags, on labelled sources that the weights have never seen.

    Sources a version was trained on are left out; if too few remain, that is an error.
    """
    with explained():
        from models.evaluation import neighbours_report
        from models.evaluation import representations as judging
        from models.labelled import read_folder
        from models.training.representations import PRESETS as RECIPES

        labelled, recipe = read_folder(data), RECIPES[preset]
        baselines = judging.default_baselines(seed)
        if baseline:
            baselines["ImageNet"] = judging.imagenet(baseline)
        if cross_validate:
            found = _cross_validated(labelled, recipe, preset, start, n_folds, seed, baselines)
        elif weights:
            found = judging.evaluate_weights(labelled, recipe, weights, baselines)
        else:
            card = registry.find("representations", version, cards or registry.CARDS)
            found = judging.evaluate_version(labelled, card, baselines)
        if out:
            click.echo(f"Wrote {neighbours_report.write(found, out)}", err=True)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo(f"{found.title}\n{found.protocol}\n\n{neighbours_report.search_table(found)}")


def _cross_validated(
    labelled: Labelled,
    recipe: Preset,
    preset: str,
    start: Path | None,
    n_folds: int,
    seed: int,
    baselines: dict[str, Judge],
) -> Judgement:
    from models.evaluation import representations as judging
    from models.training import representations as training

    total = training.n_steps(recipe) + (n_folds - 1) * recipe.rounds_real
    with progress_bar(f"{n_folds} folds", total) as step:
        first = training.started(recipe, start) if start else None
        sky = training.simulated_sky(recipe.n_simulated, recipe.sky_seed, step)
        if first is None:
            first = training.pretrain(sky, recipe, seed, progress=step)
        else:
            step(recipe.rounds_simulated)
        return judging.cross_validate(
            labelled,
            first,
            sky,
            recipe,
            preset,
            n_folds=n_folds,
            seed=seed,
            baselines=baselines,
            progress=step,
        )


def _summary(found: Evaluation) -> str:
    lines = [found.title, found.protocol, f"{len(found.data)} sources", ""]
    for opinion in found.opinions:
        lines.append(opinion.name)
        for name, each in opinion.intervals.items():
            known = "" if math.isnan(each.low) else f"  ({each.low:.4f} to {each.high:.4f})"
            lines.append(f"  {name.replace('_', ' '):<18} {each.value:.4f}{known}")
    return "\n".join(lines)


def _compute_in(half: bool) -> None:
    if half:
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; the hook advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def explained() -> Iterator[None]:
    """Turn an expected error into one line and exit code 1."""
    try:
        yield
    except (ValueError, FileNotFoundError, ModuleNotFoundError, registry.ChecksumError) as error:
        raise click.ClickException(str(error)) from error
