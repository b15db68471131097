"""The cells of a map into its table: what each prototype is, and what the network makes of it.

Workers write them when they first load a version; the pages read them (`db.maps`).
"""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.tables import Prototype


def write(
    session: Session,
    model_version_id: int,
    latent: NDArray[np.float32],
    decoded: NDArray[np.float32],
) -> int:
    """Store the prototypes of a version, unless they are there; several may do so at once.

    Parameters
    ----------
    latent : ndarray, shape (rows, columns, d)
        The prototypes in the network's code.
    decoded : ndarray, shape (rows, columns, p)
        What the network makes of them, 0 to 1.

    Returns
    -------
    int
        Prototypes added.

    Raises
    ------
    ValueError
        The two differ in their cells, or a number is not finite or beyond half precision.
    """
    if latent.shape[:2] != decoded.shape[:2]:
        raise ValueError(f"prototypes of {latent.shape[:2]} cells, decoded {decoded.shape[:2]}")
    if session.scalar(sa.select(sa.exists().where(Prototype.model_version_id == model_version_id))):
        return 0
    codes, pictures = _half("latent", latent), _half("decoded", decoded)
    rows = [
        {
            "model_version_id": model_version_id,
            "cell_row": row,
            "cell_column": column,
            "latent": codes[row, column],
            "decoded": pictures[row, column],
        }
        for row, column in np.ndindex(latent.shape[:2])
    ]
    statement = insert(Prototype).values(rows).on_conflict_do_nothing()
    return len(session.execute(statement.returning(Prototype.cell_row)).all())


def _half(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numbers that half precision can hold, checked; pgvector takes them as float32."""
    largest = np.finfo(np.float16).max
    if not (np.abs(values) <= largest).all():
        raise ValueError(
            f"the prototypes' {name} must be finite numbers up to {largest:g}, in half precision"
        )
    return values.astype(np.float32)
