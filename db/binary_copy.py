"""Rows in the binary form of COPY, packed by NumPy: how, not what is in them.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import REAL, BigInteger, Double, Integer, SmallInteger
from sqlalchemy.types import TypeEngine

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = -1  # length of a field without a value
NUMBERS: tuple[tuple[type, str], ...] = (  # subclasses first
    (SmallInteger, "i2"),
    (BigInteger, "i8"),
    (Integer, "i4"),
    (Double, "f8"),
    (REAL, "f4"),
)


def number_type(kind: TypeEngine) -> np.dtype:
    """NumPy type of the numbers that a column of an SQL type holds."""
    for known, code in NUMBERS:
        if isinstance(kind, known):
            return np.dtype(code)
    raise ValueError(f"a column of type {kind} holds no numbers that NumPy knows")


def pack_fields(
    fields: Sequence[np.ma.MaskedArray], n_fields: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack columns row by row: (bytes of all rows, end of each row in them).

    Every field is laid out at its full width; then the bytes that a null or a short text does
    not need are left out, all at once.

    Parameters
    ----------
    fields : sequence of masked arrays, shape (n,)
        Numbers of the width of their SQL type, or UTF-8 text as bytes; masked values are null.
    n_fields : int
        What each row states as its number of fields: more than `fields` if others follow.
    """
    n = len(fields[0])
    parts = [np.broadcast_to(_bytes_of(np.array([n_fields]), ">i2"), (n, 2))]
    needed = [np.ones((n, 2), dtype=bool)]
    for field in fields:
        payload, lengths = _payload(field)
        parts += [_bytes_of(lengths, ">i4"), payload]
        needed += [np.ones((n, 4), dtype=bool), np.arange(payload.shape[1]) < lengths[:, None]]
    keep = np.concatenate(needed, axis=1)
    return np.concatenate(parts, axis=1)[keep], keep.sum(axis=1).cumsum()


def _payload(field: np.ma.MaskedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of a column, shape (n, width), and how many of them count in each row."""
    data, null = field.data, np.ma.getmaskarray(field)
    if data.dtype.kind == "S":
        payload = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), data.itemsize)
        lengths = np.strings.str_len(data)
    else:
        payload = _bytes_of(data, data.dtype.newbyteorder(">"))
        lengths = np.full(len(data), data.itemsize)
    return payload, np.where(null, NULL, lengths)


def _bytes_of(values: NDArray[Any], layout: Any) -> NDArray[np.uint8]:
    """Bytes of numbers in a given layout, shape (n, width)."""
    packed = np.ascontiguousarray(values.astype(layout))
    return packed.view(np.uint8).reshape(len(values), packed.itemsize)
