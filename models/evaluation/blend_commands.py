"""`skygloss evaluate blends` and `evaluate pair_flux`: networks and sep on the same cutouts.

Thin over `known_pairs`, `blends`, `pair_flux` and `blend_report`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models import registry
from models.commands import FOLDER, explained, progress_bar

if TYPE_CHECKING:
    from models.blender import Parents, Recipe
    from models.evaluation import blends, pair_flux
    from models.evaluation.blend_report import Example as Cutout
    from models.evaluation.known_pairs import Folder, KnownPairs
    from models.evaluation.pair_flux_report import Example

TRAINING_SEED = 0  # of the isolated galaxies that sep is calibrated on
N_ISOLATED = 400
SCALED_BY = "Its fluxes are scaled by"
NOISE_LEVELS = "5,10,15,20,25,30,35,40"  # ADU of BlendHunter
ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
SHARED = (
    click.option("--version", help="Version to judge; by default the current one."),
    click.option(
        "--cards", type=click.Path(exists=True, path_type=Path), help="Another weights.toml."
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=100,
        show_default=True,
        help="Of galaxies and pairs. Those below 100 are for training.",
    ),
    click.option(
        "--n-parents",
        type=click.IntRange(2),
        default=1000,
        show_default=True,
        help="Galaxies that the cutouts are made of.",
    ),
    click.option(
        "--fwhm",
        type=ABOVE_ZERO,
        multiple=True,
        default=(3.0,),
        show_default=True,
        help="Of the point spread function [pixel]; several make a mixture.",
    ),
    click.option(
        "--data",
        type=FOLDER,
        help="Judge on the test split of a folder of `skygloss simulate blends` instead.",
    ),
    click.option("--out", type=click.Path(path_type=Path), help="Folder for page and numbers."),
    click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON."),
)


@dataclass(frozen=True)
class Order:
    """Which cutouts to judge on."""

    seed: int
    n: int
    n_parents: int
    fwhm: tuple[float, ...]
    noises: tuple[float, ...]  # nJy; none for the recipe's own
    data: Path | None


def _shared(command: Any) -> Any:
    for option in reversed(SHARED):
        command = option(command)
    return command


@click.command("pair_flux")
@_shared
@click.option(
    "--n", type=click.IntRange(2), default=4000, show_default=True, help="Pairs at each noise."
)
@click.option(
    "--noise",
    "noises",
    type=ABOVE_ZERO,
    multiple=True,
    help="σ [nJy per pixel]; may be given several times.  [default: 0.45]",
)
@click.option(
    "--kind",
    type=click.Choice(["isophotal", "auto"]),
    default="isophotal",
    show_default=True,
    help="Flux of sep: above the threshold, as published, or within 2.5 Kron radii.",
)
@click.option("--subtract", is_flag=True, help="Let sep take its background away first.")
def evaluate_pair_flux(
    version: str | None,
    cards: Path | None,
    seed: int,
    n_parents: int,
    fwhm: tuple[float, ...],
    data: Path | None,
    out: Path | None,
    as_json: bool,
    n: int,
    noises: tuple[float, ...],
    kind: Any,
    subtract: bool,
) -> None:
    """Measure fluxes and masks of pairs whose light is known, by a network and by sep.

    Both see the very same cutouts, made of galaxies that no training saw. sep's fluxes are put on
    the scale of the truth by isolated galaxies of the training. A seed that a version was trained
    on is refused.
    """
    with explained():
        from models.evaluation import pair_flux_report as report

        card = registry.find("pair_flux", version, cards or registry.CARDS)
        order = Order(seed, n, n_parents, fwhm, noises, data)
        found, examples = _fluxes(card, order, {"kind": kind, "subtract": subtract})
        if out:
            click.echo(f"Wrote {report.write(found, examples, out)}", err=True)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else report.summary(found))


def _fluxes(
    card: registry.Card, order: Order, options: dict[str, Any]
) -> tuple[pair_flux.Evaluation, dict[str, list[Example]]]:
    """Let network and sep measure the same pairs, and score both; with pairs to be shown."""
    from models.blender import PAIRS
    from models.evaluation import known_pairs, pair_flux, pair_flux_report

    test = _test(card, order, PAIRS)
    learnt = _learnt(test, PAIRS, options)
    predict, parts = _predictor(card), []
    with progress_bar("pairs", sum(lot.n for lot in test.lots)) as step:
        for lot, factor in zip(test.lots, learnt.factors, strict=True):
            parts.append(
                pair_flux.measure(lot, predict, learnt.mean_flux, factor, progress=step, **options)
            )
    factors = {lot.name: each for lot, each in zip(test.lots, learnt.factors, strict=True)}
    protocol = f"{test.described} {_of_sep(options)} {learnt.described}"
    with progress_bar("scores", pair_flux.N_STEPS) as step:
        found = pair_flux.evaluate(
            pair_flux.joined(parts),
            card.name,
            protocol,
            factors,
            n_resamples=pair_flux.N_RESAMPLES,
            interval_95=float(card.build.get("interval_95", pair_flux.GAUSSIAN_95)),
            progress=step,
        )
    return found, pair_flux_report.examples(found, partial(known_pairs.one, test.lots), predict)


def _predictor(card: registry.Card) -> Any:
    """What a network says of pixels; takes a while to import."""
    network = import_module(f"models.{card.annotator}")
    return partial(network.predict, registry.load(card))


@dataclass(frozen=True)
class Test:
    """Cutouts to judge on, and what to say of them."""

    lots: list[KnownPairs]
    fwhm: tuple[float, ...]
    described: str
    folder: Folder | None = None


@dataclass(frozen=True)
class Learnt:
    """What isolated galaxies, none of the test's, say to methods without a network."""

    mean_flux: float  # [nJy]
    factors: list[float]  # of sep's fluxes, by lot
    described: str


def _learnt(test: Test, recipe: Recipe, options: dict[str, Any]) -> Learnt:
    """Calibrate sep on galaxies of the folder that is judged on, or else on simulated ones."""
    from models.evaluation import known_pairs

    folder = test.folder
    if folder and folder.isolated:
        factors = [
            known_pairs.calibration_on(each, N_ISOLATED, **options) for each in folder.isolated
        ]
        source = "isolated galaxies in the split train of the folder, with the same noise"
        return Learnt(folder.mean_flux, factors, f"{SCALED_BY} {source}.")
    parents = _parents(N_ISOLATED, TRAINING_SEED, test.fwhm, recipe, "isolated galaxies")
    factors = [
        known_pairs.calibration(
            parents, replace(recipe, noise=lot.noise), N_ISOLATED, TRAINING_SEED, **options
        )
        for lot in test.lots
    ]
    told = f"{SCALED_BY} isolated galaxies of the training with the same noise."
    if folder is None:
        return Learnt(float(parents.flux.mean()), factors, told)
    known = math.isfinite(folder.mean_flux)
    return Learnt(
        folder.mean_flux if known else float(parents.flux.mean()),
        factors,
        f"{told} Those are simulated and none of the folder's, whose split train has fewer than "
        f"{known_pairs.FEWEST_ISOLATED} cutouts of one galaxy at each noise: write some with "
        "`skygloss simulate blends --singles`.",
    )


def _test(card: registry.Card, order: Order, recipe: Recipe, trials: int = 1) -> Test:
    """Cutouts of every noise, and trial, of galaxies that the version has not seen."""
    from models.evaluation import known_pairs

    if order.data:
        folder = known_pairs.read(order.data, recipe.size, only_pairs=not recipe.singles)
        known_pairs.refuse_seen(card, folder.seeds)
        source = f"{folder.n_parents:,} galaxies in the test split of {order.data.name}"
        described = _sentence(folder.lots, source)
        return Test(folder.lots, folder.fwhm or order.fwhm, described, folder)
    known_pairs.refuse_seen(card, [order.seed])
    parents = _parents(order.n_parents, order.seed, order.fwhm, recipe)
    recipes = [replace(recipe, noise=(sigma, sigma)) for sigma in order.noises] or [recipe]
    lots = [
        known_pairs.drawn(parents, order.n, order.seed + trial, noisy)
        for trial in range(trials)
        for noisy in recipes
    ]
    blur = ", ".join(f"{each:g}" for each in order.fwhm)
    source = (
        f"{order.n_parents:,} simulated galaxies of seed {order.seed}, which no training saw, "
        f"seen through a point spread function {blur} pixels wide (FWHM)"
    )
    return Test(lots, order.fwhm, _sentence(lots, source))


def _sentence(lots: list[KnownPairs], source: str) -> str:
    noises = ", ".join(dict.fromkeys(lot.name for lot in lots))
    return f"{sum(lot.n for lot in lots):,} cutouts of {source}; noise σ per pixel: {noises}."


def _parents(
    n: int, seed: int, fwhm: tuple[float, ...], recipe: Recipe, what: str = "galaxies"
) -> Parents:
    from models.blender import simulate_parents

    with progress_bar(what, n) as step:
        return simulate_parents(n, seed, fwhm=fwhm, population=recipe.population, progress=step)


def _of_sep(options: dict[str, Any]) -> str:
    background = "taken away" if options["subtract"] else "not taken away"
    return (
        f"sep measures {options['kind']} fluxes in cold and hot mode, its background is "
        f"{background}; it is told the radius of the central galaxy."
    )


@click.command("blends")
@_shared
@click.option(
    "--n",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Cutouts at each noise in a trial, half of them blends.",
)
@click.option("--trials", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--noise-levels",
    "noises",
    default=NOISE_LEVELS,
    callback=lambda context, option, levels: _noises(levels),
    show_default=True,
    help="σ in the unit of the BlendHunter paper, with commas.",
)
def evaluate_blends(
    version: str | None,
    cards: Path | None,
    seed: int,
    n_parents: int,
    fwhm: tuple[float, ...],
    data: Path | None,
    out: Path | None,
    as_json: bool,
    n: int,
    trials: int,
    noises: tuple[float, ...],
) -> None:
    """Tell blends from single galaxies at many noises, by a network and by sep.

    All see the very same cutouts, made of galaxies that no training saw. Trials are other pairs of
    the same galaxies. A seed that a version was trained on is refused.
    """
    with explained():
        from models.evaluation import blend_report as report

        card = registry.find("blends", version, cards or registry.CARDS)
        order = Order(seed, n, n_parents, fwhm, noises, data)
        found, examples = _verdicts(card, order, trials)
        if out:
            click.echo(f"Wrote {report.write(found, examples, out)}", err=True)
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else report.summary(found))


def _noises(levels: str) -> tuple[float, ...]:
    """Noises in nJy."""
    from models.blender import PUBLISHED_SIGMA

    try:
        noises = tuple(float(level) * PUBLISHED_SIGMA for level in levels.replace(",", " ").split())
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with commas, not {levels!r}") from error
    if not noises or not min(noises) > 0:
        raise click.BadParameter(f"expected numbers above 0, not {levels!r}")
    return noises


def _verdicts(
    card: registry.Card, order: Order, trials: int
) -> tuple[blends.Evaluation, dict[str, list[Cutout]]]:
    """Let network and sep judge the same cutouts, and score both; with cutouts to be shown."""
    from models.blender import BLENDS
    from models.evaluation import blend_report, blends, known_pairs

    test = _test(card, order, BLENDS, trials)
    predict = _predictor(card)
    parts, n_noises = [], len({lot.level for lot in test.lots})
    with progress_bar("cutouts", sum(lot.n for lot in test.lots)) as step:
        for number, lot in enumerate(test.lots):
            parts.append(blends.judge(lot, predict, number // n_noises, progress=step))
    judged = blends.joined(parts)
    with progress_bar("scores", n_noises + 1) as step:
        found = blends.evaluate(
            judged, card.name, test.described, n_resamples=blends.N_RESAMPLES, progress=step
        )
    return found, blend_report.examples(found, partial(known_pairs.one, test.lots))
