"""Columns of a file as numbers or text of one kind, missing values included.

What a column means is the business of `db.column_maps`.
"""

from __future__ import annotations

import re
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.binary_copy import number_type
from db.catalog_readers import CatalogError, Chunk

TRUTH = {"true": 1.0, "t": 1.0, "false": 0.0, "f": 0.0}

Floats = NDArray[np.float64]


def column_of(reference: str) -> str:
    """`elpetro_nmgy[4]` refers to an element of the column `elpetro_nmgy`."""
    return re.sub(r"\[\d+\]$", "", reference)


def element(chunk: Chunk, reference: str) -> NDArray[Any]:
    """The column, or the element of it, that a reference names: shape (n,).

    Raises
    ------
    CatalogError
        It has several values per row and none is named, or fewer than the one named.
    """
    name = column_of(reference)
    values = chunk.columns[name]
    if name == reference:
        if values.ndim > 1:
            raise CatalogError(f"Column {name} has several values per row; name one: {name}[0]")
        return values
    k = int(reference[len(name) + 1 : -1])
    if values.dtype == object:
        short = [v is None or len(v) <= k for v in values]
        return np.array([np.nan if s else v[k] for s, v in zip(short, values, strict=True)])
    if values.ndim < 2 or values.shape[1] <= k:
        raise CatalogError(
            f"Column {name} has {values.shape[1:] or 'single'} values per row; the map wants "
            f"element {k}"
        )
    return values[:, k]


def as_floats(values: NDArray[Any]) -> Floats:
    """Numbers as float64, NaN where masked or not a number."""
    data = np.ma.getdata(values)
    if data.dtype.kind in "OSU":
        numbers = np.array([_as_float(v) for v in data.tolist()])
    else:
        numbers = data.astype(np.float64)
    mask = np.ma.getmaskarray(values)
    if mask.any():
        numbers[mask] = np.nan
    return numbers


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return TRUTH.get(value.strip().lower(), nan) if isinstance(value, str) else nan


def as_bytes(values: NDArray[Any]) -> NDArray[np.bytes_]:
    """Values as stripped UTF-8 text, empty where missing; whole numbers without a point."""
    data = np.ma.getdata(values)
    if data.dtype.kind == "f":
        whole = np.isfinite(data) & (data == np.trunc(data)) & (np.abs(data) < 2**53)
        text = [str(int(v) if w else v) for v, w in zip(data.tolist(), whole, strict=True)]
        result = np.array(text, dtype=bytes)
        result[np.isnan(data)] = b""
    elif data.dtype.kind == "S":
        result = _clean(data)
    elif data.dtype.kind in "OU":
        texts = [b"" if v is None else str(v).encode() for v in data.tolist()]
        result = np.array([t.replace(b"\0", b"") for t in texts], dtype=bytes)
    else:
        result = data.astype(bytes)
    return np.where(np.ma.getmaskarray(values), b"", np.strings.strip(result))


def _clean(texts: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Text as it should be: ended by a NUL, in UTF-8 (where it is not ASCII, it is Latin-1)."""
    codes = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)
    if not ((codes > 127).any() or ((codes[:, :-1] == 0) & (codes[:, 1:] != 0)).any()):
        return texts
    ended = [text.split(b"\0")[0].decode("latin-1").encode() for text in texts.tolist()]
    return np.array(ended, dtype=bytes)


def fitted(values: Floats, target: Any) -> np.ma.MaskedArray:
    """Values in the type of a column of `source`; null where NaN, infinite or too large."""
    kind = number_type(target.type)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            converted = values.astype(kind)
        return np.ma.MaskedArray(converted, ~np.isfinite(converted))
    limits = np.iinfo(kind)
    fits = (values >= limits.min) & (values <= limits.max)
    return np.ma.MaskedArray(np.where(fits, values, 0).astype(kind), ~fits)
