"""The cells of a map in their table."""

import threading

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import prototypes
from db.tables import Prototype
from tests.builders import make_model_version

LATENT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
DECODED = np.linspace(0, 1, 30, dtype=np.float32).reshape(2, 3, 5)


def test_every_cell_is_stored_in_its_place(session: Session) -> None:
    version = make_model_version(session)

    n = prototypes.write(session, version.id, LATENT, DECODED)

    found = {(p.cell_row, p.cell_column): p for p in session.scalars(sa.select(Prototype))}
    assert n == len(found) == 6
    assert found[1, 2].latent == LATENT[1, 2].tolist()
    assert found[0, 1].decoded == pytest.approx(DECODED[0, 1], abs=1e-3)


def test_a_second_time_nothing_is_written(session: Session) -> None:
    version = make_model_version(session)
    prototypes.write(session, version.id, LATENT, DECODED)

    assert prototypes.write(session, version.id, 2 * LATENT, DECODED) == 0


def test_two_workers_may_write_at_once(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        version_id = make_model_version(session).id
    together = threading.Barrier(2)
    added: list[int] = []

    def write() -> None:
        with Session(engine) as session, session.begin():
            together.wait(10)
            added.append(prototypes.write(session, version_id, LATENT, DECODED))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sum(added) == 6
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Prototype)) == 6


def test_numbers_that_cannot_be_stored_are_refused(session: Session) -> None:
    version = make_model_version(session)

    with pytest.raises(ValueError, match="latent must be finite"):
        prototypes.write(session, version.id, LATENT * np.nan, DECODED)
    with pytest.raises(ValueError, match=r"of \(2, 3\) cells, decoded \(1, 3\)"):
        prototypes.write(session, version.id, LATENT, DECODED[:1])
