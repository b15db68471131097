"""Labelled cutouts: reading a folder of them, and splitting them so that nothing leaks."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.shreds import SIZE

COLUMNS = ("objID", "label", "group")


@dataclass(frozen=True)
class Labelled:
    """Pictures with what people called them."""

    rgb: NDArray[np.uint8]  # (n, 128, 128, 3)
    label: NDArray[np.str_]  # (n,) galaxy, shred, or anything else for undecided
    group: NDArray[np.int64]  # (n,) sources of one group never part
    survey_id: NDArray[np.int64]  # (n,)
    sha256: str  # of the labels file
    tags: NDArray[np.str_] | None = None  # (n,) what every pass saw, joined by "|"
    tags_any: NDArray[np.str_] | None = None  # (n,) what at least one pass saw

    def __len__(self) -> int:
        return len(self.label)

    @property
    def is_shred(self) -> NDArray[np.bool_]:
        """True where the label is shred."""
        return self.label == "shred"

    @property
    def decided(self) -> NDArray[np.bool_]:
        """True where the label is galaxy or shred."""
        return np.isin(self.label, ("galaxy", "shred"))

    def degree(self, tag: str) -> NDArray[np.float32]:
        """How surely each source has a tag: 1 by every pass, 0.5 by one of them, 0 by none."""
        if self.tags is None or self.tags_any is None:
            raise ValueError(
                "these labels have no tags: labels.csv needs the columns tags, tags_any"
            )
        every, some = (
            np.array([tag in names.split("|") for names in column])
            for column in (self.tags, self.tags_any)
        )
        return np.where(every, 1, np.where(some, 0.5, 0)).astype(np.float32)

    def take(self, rows: NDArray) -> Labelled:
        """The rows given, by number or by mask."""
        return Labelled(
            self.rgb[rows],
            self.label[rows],
            self.group[rows],
            self.survey_id[rows],
            self.sha256,
            None if self.tags is None else self.tags[rows],
            None if self.tags_any is None else self.tags_any[rows],
        )


def read_folder(folder: Path) -> Labelled:
    """Read `labels.csv` (objID, label, group) and `images/<objID>_grz.png` beside it.

    The columns `tags` and `tags_any` are read where they are there.

    Raises
    ------
    FileNotFoundError, ValueError
        A file or a column is missing, or a picture has another size: the message names it.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"{folder} should hold labels.csv and images/<objID>_grz.png; there is no {table}"
        )
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{table} needs the columns {', '.join(COLUMNS)}: no {', '.join(missing)}")
    return Labelled(
        rgb=np.stack([_picture(folder / "images" / f"{row['objID']}_grz.png") for row in rows]),
        label=np.array([row["label"] for row in rows]),
        group=np.array([int(row["group"]) for row in rows]),
        survey_id=np.array([int(row["objID"]) for row in rows]),
        sha256=hashlib.sha256(table.read_bytes()).hexdigest(),
        tags=_column(rows, "tags"),
        tags_any=_column(rows, "tags_any"),
    )


def _column(rows: list[dict[str, str]], name: str) -> NDArray[np.str_] | None:
    return np.array([row[name] for row in rows]) if name in rows[0] else None


def _picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"{path} should be {SIZE} x {SIZE} pixels, but is {pixels.shape[:2]}")
    return pixels


def folds(group: NDArray, n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Fold of each source, 0 to n_folds - 1, with every group whole in one fold."""
    unique, member = np.unique(group, return_inverse=True)
    if len(unique) < n_folds:
        raise ValueError(f"{n_folds} folds need at least as many groups; there are {len(unique)}")
    shuffled = np.random.default_rng(seed).permutation(len(unique))
    return (np.argsort(shuffled) % n_folds)[member]
