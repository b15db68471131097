"""`skygloss simulate exposures`: a folder of exposures with known faults, and a table of truth."""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from models import camera, camera_files, camera_light

FAULTY = tuple(name for name in camera.FAULTS if name != "good")
COLUMNS = ("name", "label", "fault", "strength", "band", "seed", "number")


@dataclass(frozen=True)
class Order:
    """What to make; every exposure follows from it and its number."""

    out: Path
    seed: int
    faults: tuple[str, ...]
    good: float
    camera: camera.Camera
    compress: bool


@click.command("exposures")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n", "count", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--first", type=click.IntRange(0), default=0, help="Number of the first exposure.")
@click.option(
    "--fault",
    "faults",
    type=click.Choice(FAULTY),
    multiple=True,
    help="Only this fault; may be given several times.  [default: all]",
)
@click.option(
    "--good",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Share of exposures where nothing goes wrong.",
)
@click.option(
    "--ccds",
    type=click.IntRange(1, 99),
    default=4,
    show_default=True,
    help="CCDs of 256 x 512 pixels in an exposure: each shows some 75 sources.",
)
@click.option("--full-size", is_flag=True, help="36 CCDs of 2048 x 4612 pixels: 700 MB each.")
@click.option("--plain", is_flag=True, help="Write .fits instead of compressed .fits.fz.")
@click.option("--processes", type=click.IntRange(1), help="[default: one for each processor]")
def exposures(
    out: Path,
    count: int,
    seed: int,
    first: int,
    faults: tuple[str, ...],
    good: float,
    ccds: int,
    full_size: bool,
    plain: bool,
    processes: int | None,
) -> None:
    """Take exposures with a simulated camera, good ones and faulty ones, into the folder OUT.

    The truth is in OUT/labels.csv and not in the exposures; rows of other exposures stay in it. The
    same seed gives the same pixels, whatever the number of exposures and processes.
    """
    from models.commands import progress_bar

    try:
        camera_light.need_galsim()
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    chosen = camera.FULL_SIZE if full_size else camera.Camera(n_ccds=ccds)
    order = Order(out, seed, faults or FAULTY, good, chosen, not plain)
    numbers = range(first, first + count)
    kept = _others(out / "labels.csv", seed, numbers)
    with (out / "labels.csv").open("w", newline="", buffering=1) as file:  # line by line
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(kept)
        with progress_bar("exposures", count) as step:
            for row in _take(order, numbers, processes or os.cpu_count() or 1):
                table.writerow(row)
                step(1)
    click.echo(f"Wrote {count} exposures to {out}, and what is wrong with them to labels.csv.")


def _others(path: Path, seed: int, numbers: range) -> list[dict[str, str]]:
    """Rows of a table that is there already, but for those of the exposures to be made."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
        columns = tuple(table.fieldnames or ())
    if rows and columns != COLUMNS:
        raise click.ClickException(
            f"{path} is no table of simulated exposures: expected the columns "
            f"{', '.join(COLUMNS)}; arrived {', '.join(columns)}. Choose another folder"
        )
    names = {_name(seed, number) for number in numbers}
    return [row for row in rows if row["name"] not in names]


def _name(seed: int, number: int) -> str:
    return f"sim{seed}-{number:06d}"


def _take(order: Order, numbers: range, processes: int) -> Iterator[dict[str, object]]:
    """Make exposures, in order, and give the row of labels.csv of each."""
    if processes == 1:
        yield from map(partial(take_one, order), numbers)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(numbers)), mp_context=context) as pool:
        yield from pool.map(partial(take_one, order), numbers)


def take_one(order: Order, number: int) -> dict[str, object]:
    """Make and write one exposure, CCD by CCD, and return its row of labels.csv."""
    rng = np.random.default_rng([order.seed, number])
    fault, strength = camera.choose(rng, order.faults, order.good)
    conditions = camera.observe(order.camera, fault, strength, rng)
    name = _name(order.seed, number)
    path = order.out / (name + (".fits.fz" if order.compress else ".fits"))
    ccds = camera.read_out(conditions)
    camera_files.write_ccds(order.camera, conditions.header, ccds, path, order.compress)
    return {
        "name": name,
        "label": camera.label(fault, strength),
        "fault": fault,
        "strength": round(strength, 4),
        "band": conditions.band.name,
        "seed": order.seed,
        "number": number,
    }
