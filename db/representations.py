"""Vectors out: the representations of some sources, or of all, as arrays.

Searching among them is the business of `db.search`; how they get in, of `db.annotations`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from db.binary_copy import unpack_vectors

Space = Literal["reduced", "embedding"]  # a column with vectors
BATCH = 8192  # vectors that `stream` reads at once

OF_SOURCES = """
    SELECT source_id, wanted.place, {column}
    FROM unnest(%(source_ids)s::bigint[]) WITH ORDINALITY AS wanted (id, place)
    JOIN representation ON source_id = wanted.id
    WHERE model_version_id = %(version_id)s AND {column} IS NOT NULL
    ORDER BY wanted.place
"""
OF_ALL = """
    SELECT source_id, ordinal, {column}
    FROM representation
    WHERE model_version_id = %(version_id)s AND ordinal > %(after)s AND {column} IS NOT NULL
    AND (%(uploads)s OR source_id NOT IN (SELECT source_id FROM upload))
    ORDER BY ordinal LIMIT %(batch)s
"""


def vectors(
    session: Session, version_id: int, source_ids: Sequence[int] | NDArray, column: Space
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read the vectors of some sources, uploads among them.

    Returns
    -------
    ids : ndarray of int64, shape (n,)
        Those of the sources that have a vector, in the order asked for.
    vectors : ndarray of float32, shape (n, d)
        (0, 0) if none has.
    """
    asked = np.asarray(source_ids, np.int64).tolist()
    values = {"version_id": version_id, "source_ids": asked}
    ids, _, found = _read(session.connection(), OF_SOURCES, column, values)
    return ids, found


def stream(
    connection: Connection,
    version_id: int,
    column: Space,
    batch: int = BATCH,
    *,
    uploads: bool = False,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read all vectors of a version, in the order of `ordinal`, without holding them all.

    What is written meanwhile may or may not come; nothing comes twice.

    Parameters
    ----------
    batch : int
        Vectors at once.
    uploads : bool
        Whether images that were uploaded to search with come too.

    Yields
    ------
    ids : ndarray of int64, shape (n,)
    vectors : ndarray of float32, shape (n, d)
    """
    values = {"version_id": version_id, "after": -1, "uploads": uploads, "batch": batch}
    n = batch
    while n == batch:
        ids, ordinals, found = _read(connection, OF_ALL, column, values)
        n = len(ids)
        if n:
            values["after"] = int(ordinals[-1])
            yield ids, found


def _read(
    connection: Connection, query: str, column: Space, values: dict[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    if column not in get_args(Space):
        raise ValueError(f"a vector is in {' or '.join(get_args(Space))}, there is no {column!r}")
    cursor = connection.connection.cursor()
    selection = cursor.mogrify(query.format(column=column), values).decode()
    received = io.BytesIO()
    cursor.copy_expert(f"COPY ({selection}) TO STDOUT (FORMAT binary)", received)
    return unpack_vectors(received.getvalue())
