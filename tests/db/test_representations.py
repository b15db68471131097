"""Vectors out: of some sources, and of all in batches."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from db import annotations, representations
from db.tables import N_REDUCED, Representation, Run, Upload
from tests.builders import make_run, make_sources


def store(session: Session, run: Run, n: int, d: int = 5) -> np.ndarray:
    """n new sources whose vectors count up from their place; their ids."""
    ids = np.array([source.id for source in make_sources(session, n)])
    place = np.arange(n, dtype=np.float32)[:, None]
    columns = {
        "embedding": place + np.arange(d),
        "reduced": place + np.arange(N_REDUCED),
        "flags": np.zeros(n),
    }
    annotations.write(session, Representation, run.model_version_id, run.id, ids, columns)
    return ids


def test_vectors_come_in_the_order_asked_without_those_that_are_not_there(
    session: Session,
) -> None:
    run = make_run(session)
    ids = store(session, run, 4)

    found, vectors = representations.vectors(
        session, run.model_version_id, [ids[2], -1, ids[0]], "embedding"
    )

    assert found.tolist() == [ids[2], ids[0]]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]]


def test_no_source_gives_no_vector(session: Session) -> None:
    found, vectors = representations.vectors(session, -1, [], "reduced")

    assert found.tolist() == []
    assert len(vectors) == 0


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_a_stream_brings_every_vector_once(session: Session, batch: int) -> None:
    run, other = make_run(session), make_run(session)
    ids = store(session, run, 7)
    store(session, other, 2)

    parts = list(
        representations.stream(session.connection(), run.model_version_id, "reduced", batch)
    )

    assert max(len(found) for found, _ in parts) == min(batch, 7)
    assert np.concatenate([found for found, _ in parts]).tolist() == ids.tolist()
    vectors = np.concatenate([vectors for _, vectors in parts])
    assert vectors.shape == (7, N_REDUCED)
    assert vectors[:, 0].tolist() == list(range(7))


def test_a_stream_leaves_out_rows_without_a_vector_and_uploads_unless_asked(
    session: Session,
) -> None:
    run = make_run(session)
    ids = store(session, run, 2)
    upload = Upload(
        token="t", source_id=ids[1], file_name="a.png", sha256="0", media_type="image/png"
    )
    session.add(upload)
    session.flush()
    [blind] = make_sources(session, 1)
    columns = {
        "embedding": np.full((1, 5), np.nan),
        "reduced": np.full((1, N_REDUCED), np.nan),
        "flags": [1],
    }
    where = (session, Representation, run.model_version_id, run.id)
    annotations.write(*where, np.array([blind.id]), columns)
    connection = session.connection()

    [(found, _)] = representations.stream(connection, run.model_version_id, "embedding")
    [(everything, _)] = representations.stream(
        connection, run.model_version_id, "embedding", uploads=True
    )

    assert found.tolist() == [ids[0]]
    assert everything.tolist() == ids.tolist()


def test_vectors_of_different_lengths_are_no_array(session: Session) -> None:
    run = make_run(session)
    ids = [*store(session, run, 1, d=5), *store(session, run, 1, d=6)]

    with pytest.raises(ValueError, match="alike in length; the first has 5"):
        representations.vectors(session, run.model_version_id, ids, "embedding")


def test_other_columns_hold_no_vectors(session: Session) -> None:
    with pytest.raises(ValueError, match="no 'flags'"):
        representations.vectors(session, 1, [1], "flags")  # type: ignore[arg-type]
