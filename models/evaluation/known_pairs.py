"""Cutouts whose truth is known, for networks and sep to be judged on: none that training saw.

They are drawn anew, or read from a folder that `skygloss simulate blends` wrote; judging is
elsewhere.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import extraction
from models.blender import FIRST_TEST_SEED, KINDS, Pairs, Parents, Recipe, draw, is_for_tests
from models.registry import Card

CHUNK = 128  # cutouts in memory at a time
MOST_LEVELS, N_LOTS = 12, 6  # noises that are told apart, else so many lots of cutouts
FEWEST_ISOLATED = 30  # cutouts of one galaxy that a folder must have for sep to be calibrated on
SIMULATED = re.compile(r"sim(\d+)-\d+")  # ids of simulated galaxies
NEEDED = ("id", "split", "is_blend", "parent_central", "parent_companion", "noise", "fwhm")

Progress = Callable[[int], None]


class SeenError(ValueError):
    """A network was to be judged on the very galaxies it was trained on."""


def refuse_seen(card: Card, seeds: Sequence[int]) -> None:
    """Make sure that simulated galaxies of these seeds took no part in the training.

    Raises
    ------
    SeenError
        One of the seeds is the card's `training.seed`, or below 100, where trainings draw theirs.
    """
    trained = card.training.get("seed")
    seen = sorted({seed for seed in seeds if seed == trained or seed < FIRST_TEST_SEED})
    if seen:
        raise SeenError(
            f"galaxies of seed {', '.join(map(str, seen))} are for training, and {card.name} may "
            f"have seen them: choose a --seed from {FIRST_TEST_SEED} on, other than that of its "
            "training, here or for a folder in `skygloss simulate blends --seed`"
        )


@dataclass(frozen=True)
class KnownPairs:
    """Cutouts of one noise with their truth, made or read only when they are asked for."""

    n: int
    some: Callable[[int, int], Pairs]  # number of the first, how many
    noise: tuple[float, float]  # σ, from .. to [nJy per pixel]

    @property
    def level(self) -> float:
        """The noise as one number, the middle in the logarithm [nJy per pixel]."""
        return float(np.sqrt(self.noise[0] * self.noise[1]))

    @property
    def name(self) -> str:
        """The noise in words."""
        low, high = self.noise
        return f"{low:.3g} nJy" if low == high else f"{low:.3g} to {high:.3g} nJy"

    def chunks(self) -> Iterator[tuple[int, Pairs]]:
        """Number of the first, and the cutouts, in lots that fit into memory."""
        for first in range(0, self.n, CHUNK):
            yield first, self.some(first, min(CHUNK, self.n - first))


def drawn(parents: Parents, n: int, seed: int, recipe: Recipe) -> KnownPairs:
    """Cutouts of all these parents."""
    everyone = np.arange(len(parents.flux))

    def some(first: int, count: int) -> Pairs:
        return draw(parents, everyone, count, seed, recipe, first=first)

    return KnownPairs(n, some, recipe.noise)


def one(lots: Sequence[KnownPairs], row: int) -> Pairs:
    """One cutout of several lots that are counted through."""
    for lot in lots:
        if row < lot.n:
            return lot.some(row, 1)
        row -= lot.n
    raise IndexError(f"there are {sum(lot.n for lot in lots)} cutouts, and no number {row} more")


def calibration(
    parents: Parents,
    recipe: Recipe,
    n: int,
    seed: int,
    *,
    subtract: bool = False,
    kind: extraction.Kind = "isophotal",
) -> float:
    """Factor on sep's fluxes, from n isolated galaxies with the noise of the recipe.

    Parameters
    ----------
    parents : Parents
        Of the training: sep learns its factor where a network learns.
    """
    isolated = drawn(parents, n, seed, replace(recipe, singles=1.0))
    return calibration_on(isolated, n, subtract=subtract, kind=kind)


def calibration_on(
    isolated: KnownPairs,
    most: int,
    *,
    subtract: bool = False,
    kind: extraction.Kind = "isophotal",
) -> float:
    """Factor on sep's fluxes, from cutouts of one galaxy, or the first of them if there are more.

    Parameters
    ----------
    isolated : KnownPairs
        With the noise of the pairs to be measured.
    """
    alone = isolated.some(0, min(most, isolated.n))
    return extraction.calibration(alone.pixels, alone.flux[:, 0], subtract=subtract, kind=kind)


@dataclass(frozen=True)
class Folder:
    """The test split of a folder of `skygloss simulate blends`, and what the other one teaches."""

    lots: list[KnownPairs]  # by noise
    seeds: list[int]  # of simulated galaxies
    fwhm: tuple[float, ...]  # of the point spread functions [pixel]; empty where nobody knows
    n_parents: int
    isolated: list[KnownPairs]  # by noise, one galaxy each, of the split train; none if too few
    mean_flux: float  # of the galaxies in the split train [nJy]; NaN if there are none


def read(folder: Path, size: int, *, only_pairs: bool = False) -> Folder:
    """Find the cutouts that were set apart for tests; pixels are read when they are asked for.

    Parameters
    ----------
    size : int
        Side of the cutouts that the network takes [pixel].
    only_pairs : bool
        Leave cutouts of one galaxy out.

    Raises
    ------
    ValueError
        The folder has no truth.csv of such cutouts, or none of them is for tests.
    SeenError
        A galaxy of the user in the split test is one that trainings are given.
    """
    everything = _rows(folder / "truth.csv")
    rows = [row for row in everything if row["split"] == "test"]
    train = [row for row in everything if row["split"] == "train"]
    if only_pairs:
        rows = [row for row in rows if row["is_blend"] == "1"]
    if not rows:
        raise ValueError(
            f"{folder / 'truth.csv'} names no cutout of the split test that could be judged: make "
            "some with `skygloss simulate blends`"
        )
    names, central = np.unique([row["parent_central"] for row in rows], return_inverse=True)
    companions = {row["parent_companion"] for row in rows if row["parent_companion"]}
    _refuse_learnt(folder, {*names.tolist(), *companions})
    noise = np.array([float(row["noise"]) for row in rows])
    lots = [
        _lot(folder, [rows[k] for k in lot], central[lot], noise[lot], size)
        for lot in _by_noise(noise)
    ]
    return Folder(
        lots=lots,
        seeds=_seeds({*names.tolist(), *companions}),
        fwhm=tuple(sorted({float(row["fwhm"]) for row in rows if row["fwhm"]})),
        n_parents=len({*names.tolist(), *companions}),
        isolated=_isolated(folder, train, lots, size),
        mean_flux=_mean_flux(train),
    )


def _isolated(
    folder: Path, train: list[dict[str, str]], lots: list[KnownPairs], size: int
) -> list[KnownPairs]:
    """Cutouts of one galaxy for training, with the noise of each lot; none where a lot has few."""
    found = []
    for lot in lots:
        low, high = lot.noise
        rows = [
            row for row in train if row["is_blend"] == "0" and low <= float(row["noise"]) <= high
        ]
        if len(rows) < FEWEST_ISOLATED:
            return []
        found.append(_lot(folder, rows, np.arange(len(rows)), np.array(lot.noise), size))
    return found


def _mean_flux(train: list[dict[str, str]]) -> float:
    """Mean flux of the galaxies in cutouts for training, each counted once [nJy]."""
    flux = {
        row[f"parent_{galaxy}"]: float(row[f"flux_{galaxy}"])
        for row in train
        for galaxy in ("central", "companion")
        if row[f"parent_{galaxy}"]
    }
    return float(np.mean(list(flux.values()))) if flux else float("nan")


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"expected {path}, as `skygloss simulate blends` writes it: not there")
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    missing = sorted(set(NEEDED) - set(table.fieldnames or ()))
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    return rows


def _refuse_learnt(folder: Path, names: set[str]) -> None:
    """Make sure that no galaxy of the user is one of those that trainings are given."""
    learnt = sorted(
        name for name in names if not SIMULATED.fullmatch(name) and not is_for_tests(name)
    )
    if learnt:
        raise SeenError(
            f"{folder / 'truth.csv'}: {len(learnt)} galaxies in the split test are for training, "
            f"by their names: {', '.join(learnt[:3])}; make the folder anew with `skygloss "
            "simulate blends --parents`, which sets others apart"
        )


def _seeds(names: set[str]) -> list[int]:
    """Seeds of galaxies that were simulated, by their names."""
    found = (SIMULATED.fullmatch(name) for name in names)
    return sorted({int(match.group(1)) for match in found if match})


def _by_noise(noise: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Rows of each noise, or where there are many, of lots that are equally large."""
    levels = np.unique(noise)
    if len(levels) <= MOST_LEVELS:
        return [np.flatnonzero(noise == level) for level in levels]
    return [np.sort(lot) for lot in np.array_split(np.argsort(noise), N_LOTS) if len(lot)]


def _lot(
    folder: Path,
    rows: list[dict[str, str]],
    central: NDArray[np.int64],
    noise: NDArray[np.float64],
    size: int,
) -> KnownPairs:
    def some(first: int, count: int) -> Pairs:
        part = slice(first, first + count)
        return _told(folder, rows[part], central[part], size)

    return KnownPairs(len(rows), some, (float(noise.min()), float(noise.max())))


def _told(folder: Path, rows: list[dict[str, str]], central: NDArray[np.int64], size: int) -> Pairs:
    """Cutouts with what the table says of them; masks are empty where there is no masks.npz."""
    n = len(rows)
    kinds = [[row["kind_central"], row["kind_companion"]] for row in rows]
    return Pairs(
        pixels=np.stack([_pixels(folder, row["id"], size) for row in rows]),
        flux=_columns(rows, "flux_central", "flux_companion"),
        light=np.zeros((n, 0, 0, 2), np.float32),
        masks=_masks(folder, [row["id"] for row in rows], size),
        dx=_columns(rows, "dx")[:, 0].astype(np.float32),
        dy=_columns(rows, "dy")[:, 0].astype(np.float32),
        is_blend=np.array([row["is_blend"] == "1" for row in rows]),
        noise=_columns(rows, "noise")[:, 0].astype(np.float32),
        parent=np.stack([central, np.full(n, -1)], axis=1),
        kind=np.array(
            [[KINDS.index(kind) if kind in KINDS else -1 for kind in pair] for pair in kinds],
            np.int8,
        ),
        radius=_columns(rows, "radius_central", "radius_companion").astype(np.float32),
        fwhm=_columns(rows, "fwhm")[:, 0].astype(np.float32),
    )


def _columns(rows: list[dict[str, str]], *names: str) -> NDArray[np.float64]:
    return np.array([[float(row[name] or "nan") for name in names] for row in rows])


def _pixels(folder: Path, name: str, size: int) -> NDArray[np.float32]:
    from astropy.io import fits

    path = folder / "images" / f"{name}.fits"
    with fits.open(path) as file:
        unit = str(file[0].header.get("BUNIT", "missing"))
        pixels = np.asarray(file[0].data, np.float32)
    if unit != "nJy" or pixels.shape != (size, size):
        raise ValueError(
            f"{path} must hold {size} x {size} pixels in nJy, but has the shape {pixels.shape} and "
            f"the unit {unit}: was the folder made with the other recipe?"
        )
    return pixels


def _masks(folder: Path, names: list[str], size: int) -> NDArray[np.uint8]:
    path = folder / "masks.npz"
    if not path.is_file():
        return np.zeros((len(names), size, size, 3), np.uint8)
    with np.load(path) as stored:
        return np.stack([stored[name] for name in names])
