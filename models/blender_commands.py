"""`skygloss simulate blends`: a folder of pairs of galaxies, and the truth about their light."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from models import blender, camera_light
from models.blender_files import fits_files

COLUMNS = (
    "id",
    "split",
    "is_blend",
    "flux_central",
    "flux_companion",
    "dx",
    "dy",
    "separation",
    "noise",
    "kind_central",
    "kind_companion",
    "radius_central",
    "radius_companion",
    "parent_central",
    "parent_companion",
    "fwhm",
    "ra",
    "dec",
    "mag_r",
)
BAND = "r"
PARENT_SIZE = 128  # pixel
PIECE = 50  # parents simulated at a time by one process
GRID, STEP = 300, 20.0  # cutouts in a row on the sky, and arcsec between them
ABOVE_ZERO = click.FloatRange(0, min_open=True)

Row = dict[str, Any]
Mapper = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Order:
    """What to make; every cutout follows from it and its number."""

    out: Path
    word: str  # of the recipe
    recipe: blender.Recipe
    seed: int
    test: float
    masks: bool
    parents: Path  # folder where `_store` put them
    own: bool  # galaxies of the user


@click.command("blends")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n", "count", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=blender.FIRST_TEST_SEED,
    show_default=True,
    help="Of galaxies and pairs. Trainings draw theirs from 0 to 9; networks are judged on others.",
)
@click.option("--first", type=click.IntRange(0), default=0, help="Number of the first cutout.")
@click.option(
    "--recipe",
    "word",
    type=click.Choice(list(blender.RECIPES)),
    default="pairs",
    show_default=True,
    help="pairs: 128 pixels, for pair_flux. blends: 64 pixels, half of them one galaxy.",
)
@click.option(
    "--parents",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of FITS cutouts of isolated galaxies.  [default: simulated galaxies]",
)
@click.option("--n-parents", type=click.IntRange(10), default=2000, show_default=True)
@click.option(
    "--noise",
    "noises",
    type=ABOVE_ZERO,
    multiple=True,
    help="σ [nJy per pixel]; given twice, from .. to.  [default: the recipe's]",
)
@click.option("--singles", type=click.FloatRange(0, 1), help="Share of cutouts with one galaxy.")
@click.option(
    "--fwhm",
    type=click.FloatRange(2, 16),
    multiple=True,
    default=(3.0,),
    show_default=True,
    help="Of the simulated point spread function [pixel]; may be given several times.",
)
@click.option(
    "--test",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of cutouts, and of simulated galaxies, that are set apart for tests. Of the "
    "galaxies of --parents it is always the same fifth.",
)
@click.option("--zero-point", type=float, help="AB magnitude of one unit, for files of --parents.")
@click.option("--masks", is_flag=True, help="Also write masks.npz.")
@click.option("--processes", type=click.IntRange(1), help="[default: one for each processor]")
def blends(
    out: Path,
    count: int,
    seed: int,
    first: int,
    word: str,
    folder: Path | None,
    n_parents: int,
    noises: tuple[float, ...],
    singles: float | None,
    fwhm: tuple[float, ...],
    test: float,
    zero_point: float | None,
    masks: bool,
    processes: int | None,
) -> None:
    """Pair galaxies whose light is known, into the folder OUT.

    Writes images/ID.fits in nJy, catalog.fits for `skygloss ingest`, and truth.csv; rows of other
    cutouts stay in both tables. The same seed and parents give the same pixels, whatever the number
    of cutouts and processes.
    """
    from models.commands import explained, progress_bar

    recipe = _recipe(word, noises, singles)
    (out / "images").mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    kept = _others(out / "truth.csv", {_name(word, seed, number) for number in numbers})
    with TemporaryDirectory(dir=out, prefix=".parents-") as store, _pool(processes) as run:
        order = Order(out, word, recipe, seed, test, masks, Path(store), bool(folder))
        if folder:
            _read(folder, zero_point, order)
        else:
            _simulate(n_parents, fwhm, order, run)
        rows = run(partial(make_one, order), numbers)
        try:
            with explained(), progress_bar("cutouts", count) as step:
                _write(out, kept, rows, masks, step)
        finally:
            _write_catalog(out)
    click.echo(f"Wrote {count} cutouts to {out / 'images'}, and what they show to truth.csv.")


def _recipe(word: str, noises: tuple[float, ...], singles: float | None) -> blender.Recipe:
    recipe = blender.RECIPES[word]
    if noises:
        recipe = replace(recipe, noise=(min(noises), max(noises)))
    return recipe if singles is None else replace(recipe, singles=singles)


@contextmanager
def _pool(processes: int | None) -> Iterator[Mapper]:
    """What applies a function to many values, in order, in so many processes."""
    processes = processes or os.cpu_count() or 1
    if processes == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield partial(pool.map, chunksize=8)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _others(path: Path, names: set[str]) -> list[Row]:
    """Rows of a table that is there already, but for those of the cutouts to be made."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        rows: list[Row] = list(table)
        columns = tuple(table.fieldnames or ())
    if columns != COLUMNS:
        raise click.ClickException(
            f"{path} is no table of simulated pairs: expected the columns {', '.join(COLUMNS)}; "
            f"arrived {', '.join(columns)}. Choose another folder"
        )
    return [row for row in rows if row["id"] not in names]


def _name(word: str, seed: int, number: int) -> str:
    return f"{word.rstrip('s')}{seed}-{number:06d}"


def _read(folder: Path, zero_point: float | None, order: Order) -> None:
    """Read the user's galaxies, and say which files could not be used."""
    from models.commands import explained, progress_bar

    with explained(), progress_bar("files", len(fits_files(folder))) as step:
        parents = blender.read_parents(
            folder, size=PARENT_SIZE, zero_point=zero_point, split="all", progress=step
        )
    for name, why in parents.rejected.items():
        click.echo(f"Left out {name}: {why}", err=True)
    for_tests = sum(map(blender.is_for_tests, parents.ids))
    click.echo(
        f"Read {len(parents.ids)} galaxies, {for_tests} of them for tests; left out "
        f"{len(parents.rejected)}.",
        err=True,
    )
    _store(order.parents, len(parents.ids), iter([parents]))


def _simulate(n: int, fwhm: tuple[float, ...], order: Order, run: Mapper) -> None:
    """Simulate galaxies, several at a time."""
    from models.commands import explained, progress_bar

    with explained():
        camera_light.need_galsim()
    draw = partial(_piece, n, order.seed, fwhm, order.recipe.population)
    with progress_bar("galaxies", n) as step:
        _store(order.parents, n, run(draw, range(0, n, PIECE)), step)


def _piece(
    n: int, seed: int, fwhm: tuple[float, ...], population: blender.Population, first: int
) -> blender.Parents:
    return blender.simulate_parents(
        min(PIECE, n - first),
        seed,
        size=PARENT_SIZE,
        fwhm=fwhm,
        population=population,
        first=first,
    )


def _store(
    folder: Path,
    n: int,
    pieces: Iterable[blender.Parents],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Put parents into files that all processes can look at."""
    light = np.lib.format.open_memmap(
        folder / "light.npy", mode="w+", dtype=np.float32, shape=(n, PARENT_SIZE, PARENT_SIZE)
    )
    columns: dict[str, list[Any]] = {name: [] for name in _columns()}
    done = 0
    for piece in pieces:
        light[done : done + len(piece.ids)] = piece.light
        done += len(piece.ids)
        for name, values in columns.items():
            values.append(getattr(piece, name))
        if progress:
            progress(len(piece.ids))
    light.flush()
    arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    np.savez(folder / "columns.npz", **arrays)


def _columns() -> list[str]:
    names = [each.name for each in fields(blender.Parents)]
    return [name for name in names if name not in ("light", "rejected")]


@lru_cache(maxsize=1)
def _stored(folder: Path) -> blender.Parents:
    """The parents that `_store` put into a folder; their light stays on disk until it is used."""
    with np.load(folder / "columns.npz") as file:
        columns: dict[str, Any] = {name: file[name] for name in _columns()}
    columns["ids"] = tuple(columns["ids"].tolist())
    return blender.Parents(light=np.load(folder / "light.npy", mmap_mode="r"), **columns)


def make_one(order: Order, number: int) -> tuple[Row, NDArray[np.uint8] | None]:
    """Make and write one cutout; return its row of truth.csv, and its masks where wanted."""
    parents = _stored(order.parents)
    for_test = np.random.default_rng([order.seed, number, 2]).random() < order.test
    chosen = _split(order, parents)[int(for_test)]
    pair = blender.draw(parents, chosen, 1, order.seed, order.recipe, first=number)
    name = _name(order.word, order.seed, number)
    ra, dec = _position(order.word, order.seed, number)
    _write_fits(order, name, pair.pixels[0], ra, dec)
    row = {
        "id": name,
        "split": "test" if for_test else "train",
        **_truth(pair, parents),
        "ra": round(ra, 7),
        "dec": round(dec, 7),
        "mag_r": _number(_magnitude(float(pair.pixels.sum(dtype=np.float64)))),
    }
    return row, pair.masks[0] if order.masks else None


def _split(order: Order, parents: blender.Parents) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the galaxies for training, and of those for tests."""
    if not order.own:
        return blender.split(len(parents.ids), order.seed, order.test)
    for_tests = np.array([blender.is_for_tests(name) for name in parents.ids])
    return np.flatnonzero(~for_tests), np.flatnonzero(for_tests)


def _truth(pair: blender.Pairs, parents: blender.Parents) -> Row:
    """What is known about the galaxies of one cutout."""
    row: Row = {"is_blend": int(pair.is_blend[0])}
    for which, galaxy in enumerate(("central", "companion")):
        kind, parent = int(pair.kind[0, which]), int(pair.parent[0, which])
        row |= {
            f"flux_{galaxy}": _number(pair.flux[0, which]),
            f"radius_{galaxy}": _number(pair.radius[0, which]),
            f"kind_{galaxy}": blender.KINDS[kind] if kind >= 0 else "",
            f"parent_{galaxy}": parents.ids[parent] if parent >= 0 else "",
        }
    return row | {
        "dx": _number(pair.dx[0]),
        "dy": _number(pair.dy[0]),
        "separation": _number(pair.separation[0]),
        "noise": _number(pair.noise[0]),
        "fwhm": _number(pair.fwhm[0]),
    }


def _number(value: float) -> str:
    return f"{value:.7g}" if math.isfinite(value) else ""


def _magnitude(flux: float) -> float:
    return blender.ZERO_POINT - 2.5 * math.log10(flux) if flux > 0 else math.nan


def _position(word: str, seed: int, number: int) -> tuple[float, float]:
    """Right ascension and declination, on a grid of its own for every seed and recipe [deg]."""
    dec = -59.0 + 2.0 * (seed % 59) + number // GRID * STEP / 3600
    start = 60.0 + 5.0 * (seed // 59) + 180.0 * list(blender.RECIPES).index(word)
    return (start + number % GRID * STEP / 3600 / math.cos(math.radians(dec))) % 360, dec


def _write_fits(
    order: Order, name: str, pixels: NDArray[np.float32], ra: float, dec: float
) -> None:
    from astropy.io import fits

    middle, step = (len(pixels) + 1) / 2, order.recipe.population.pixel_scale / 3600
    header: dict[str, Any] = {
        "OBJECT": name,
        "FILTER": BAND,
        "BUNIT": "nJy",
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CRPIX1": middle,
        "CRPIX2": middle,
        "CDELT1": -step,
        "CDELT2": step,
        "CUNIT1": "deg",
        "CUNIT2": "deg",
    }
    hdu = fits.PrimaryHDU(pixels, header=fits.Header(list(header.items())))
    hdu.writeto(order.out / "images" / f"{name}.fits", overwrite=True)


def _write(
    out: Path,
    kept: list[Row],
    made: Iterable[tuple[Row, NDArray[np.uint8] | None]],
    masks: bool,
    progress: Callable[[int], None],
) -> None:
    """Write truth.csv line by line, and masks.npz where wanted, as cutouts are made."""
    with (
        (out / "truth.csv").open("w", newline="", buffering=1) as file,
        _mask_file(out, masks, {row["id"] for row in kept}) as add,
    ):
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(kept)
        for row, mask in made:
            table.writerow(row)
            if mask is not None:
                add(row["id"], mask)
            progress(1)


@contextmanager
def _mask_file(
    out: Path, wanted: bool, kept: set[str]
) -> Iterator[Callable[[str, NDArray[np.uint8]], None]]:
    """What adds masks to masks.npz, which keeps those of other cutouts."""
    if not wanted:
        yield lambda name, mask: None
        return
    before, fresh = out / "masks.npz", out / ".masks.npz"
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as file:

        def add(name: str, mask: NDArray[np.uint8]) -> None:
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(mask))

        if before.is_file():
            with np.load(before) as masks:
                for name in kept.intersection(masks):
                    add(name, masks[name])
        try:
            yield add
        finally:
            fresh.rename(before)


def _write_catalog(out: Path) -> None:
    """Write catalog.fits of all cutouts in truth.csv: where they are and how bright they look."""
    from astropy.table import Table

    with (out / "truth.csv").open(newline="") as file:
        rows: list[Mapping[str, str]] = list(csv.DictReader(file))
    table = Table({"id": [row["id"] for row in rows]}, dtype=["U32"])
    for name in ("ra", "dec", "mag_r"):
        table[name] = [float(row[name] or "nan") for row in rows]
    table.write(out / "catalog.fits", overwrite=True)
