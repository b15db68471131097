"""Rows in the binary form of COPY, packed by NumPy: how, not what is in them.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; a `halfvec` is its
length and a zero as 16-bit integers, then its numbers (pgvector, `halfvec_send`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import REAL, BigInteger, Boolean, Double, Integer, SmallInteger
from sqlalchemy.types import TypeEngine

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = -1  # length of a field without a value
VECTOR_ROW = [  # of two bigints and a halfvec, up to the numbers of the vector
    *(("n_fields", ">i2"), ("length_first", ">i4"), ("first", ">i8")),
    *(("length_second", ">i4"), ("second", ">i8")),
    *(("length_vector", ">i4"), ("d", ">u2"), ("zero", ">u2")),
]
VECTOR_AT = 30  # byte of a row where `d` is
NUMBERS: tuple[tuple[type, str], ...] = (  # subclasses first
    (Boolean, "?"),
    (SmallInteger, "i2"),
    (BigInteger, "i8"),
    (Integer, "i4"),
    (Double, "f8"),
    (REAL, "f4"),
    (HALFVEC, "f2"),
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

    Every field is laid out at its full width; then the bytes that a null, a short text or short
    bytes do not need are left out, all at once.

    Parameters
    ----------
    fields : sequence of masked arrays, shape (n,), or (n, d) for vectors
        Numbers of the width of their SQL type, UTF-8 text as bytes (type `S`), or objects that are
        bytes as they are to be stored; masked values are null, and so is a vector if all its
        numbers are masked.
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
    keep, rows = np.concatenate(needed, axis=1), np.concatenate(parts, axis=1)
    return rows.ravel() if keep.all() else rows[keep], keep.sum(axis=1).cumsum()


def _payload(field: np.ma.MaskedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of a column, shape (n, width), and how many of them count in each row."""
    data = field.data
    null: NDArray[np.bool_] = np.ma.getmaskarray(field)
    if data.dtype.kind == "S":
        payload = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), data.itemsize)
        lengths = np.strings.str_len(data)
    elif data.dtype == object:
        payload, lengths = _laid_out(
            [b"" if empty else d for d, empty in zip(data, null, strict=True)]
        )
    else:
        payload = _bytes_of(data, data.dtype.newbyteorder(">"))
        if data.ndim == 2:
            payload = np.hstack([np.tile(_vector_head(data.shape[1]), (len(data), 1)), payload])
            null = np.all(null, axis=1)
        lengths = np.full(len(data), payload.shape[1])
    return payload, np.where(null, NULL, lengths)


def _laid_out(values: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of any content side by side, shape (n, longest), and the length of each."""
    lengths = np.array([len(value) for value in values], np.int64)
    width = int(lengths.max(initial=0))
    joined = b"".join(value.ljust(width, b"\0") for value in values)
    return np.frombuffer(joined, np.uint8).reshape(len(values), width), lengths


def _vector_head(d: int) -> NDArray[np.uint8]:
    """What comes before the numbers of a vector: how many they are, and a zero."""
    return np.array([d, 0], ">u2").view(np.uint8)


def _bytes_of(values: NDArray[Any], layout: Any) -> NDArray[np.uint8]:
    """Bytes of numbers in a given layout, shape (n, width)."""
    packed = np.ascontiguousarray(values.astype(layout))
    width = packed.itemsize * (packed.shape[1] if packed.ndim == 2 else 1)
    return packed.view(np.uint8).reshape(len(values), width)


def unpack_vectors(
    data: bytes,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Unpack what COPY TO gave for two bigints and a halfvec, none of them null.

    Returns
    -------
    (ndarray of int64, shape (n,), the same, ndarray of float32, shape (n, d))

    Raises
    ------
    ValueError
        The vectors are not all of the same length.
    """
    body = memoryview(data)[len(HEADER) : -len(TRAILER)]
    d = int.from_bytes(body[VECTOR_AT : VECTOR_AT + 2], "big") if body else 0
    layout = np.dtype([*VECTOR_ROW, ("vector", ">f2", (d,))])
    n, rest = divmod(len(body), layout.itemsize)
    rows = np.frombuffer(body, layout, n)
    if rest or (rows["d"] != d).any():
        raise ValueError(f"vectors of one model version must be alike in length; the first has {d}")
    vectors = rows["vector"].astype("<f2").astype(np.float32)
    return rows["first"].astype(np.int64), rows["second"].astype(np.int64), vectors
