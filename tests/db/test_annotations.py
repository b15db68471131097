"""Results in: what arrives in the table, and what is refused."""

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import annotations
from db.tables import (
    N_REDUCED,
    Blend,
    Cutout,
    ExposureCell,
    ModelVersion,
    PairFlux,
    Representation,
    Run,
    Shred,
    SourceCell,
)
from tests.builders import (
    make_cutout_block,
    make_cutout_set,
    make_exposure,
    make_run,
    make_shred,
    make_sources,
)


def write(
    session: Session, run: Run, source_ids: list[int], p_shred: list[float], flags: list[int]
) -> int:
    columns = {"p_shred": np.array(p_shred), "flags": np.array(flags)}
    version_id = run.model_version_id
    return annotations.write(session, Shred, version_id, run.id, np.array(source_ids), columns)


def stored(session: Session) -> dict[int, tuple[float | None, int]]:
    rows = session.execute(sa.select(Shred.source_id, Shred.p_shred, Shred.flags))
    return {source_id: (p_shred, flags) for source_id, p_shred, flags in rows}


def test_values_arrive_as_they_were_given(session: Session) -> None:
    run = make_run(session)
    ids = [source.id for source in make_sources(session, 3)]

    n = write(session, run, ids, [0.25, np.nan, 1.0], [0, 3, 2**30])

    assert n == 3
    assert stored(session) == {ids[0]: (0.25, 0), ids[1]: (None, 3), ids[2]: (1.0, 2**30)}


def test_masked_values_become_null(session: Session) -> None:
    run = make_run(session)
    [source] = make_sources(session, 1)
    columns = {"p_shred": np.ma.masked_all(1, np.float32), "flags": [1]}

    annotations.write(session, Shred, run.model_version_id, run.id, np.array([source.id]), columns)

    assert stored(session) == {source.id: (None, 1)}


def test_a_row_that_exists_is_left_alone(session: Session) -> None:
    run = make_run(session)
    first, second = make_sources(session, 2)
    make_shred(session, first, run, p_shred=0.5, flags=0)

    n = write(session, run, [first.id, second.id], [0.75, 0.75], [4, 4])

    assert n == 1
    assert stored(session) == {first.id: (0.5, 0), second.id: (0.75, 4)}


def test_a_row_without_a_value_gives_way_once_there_is_an_image(session: Session) -> None:
    old = make_run(session)
    sources = make_sources(session, 4)
    blind, no_signal = {"p_shred": None, "flags": 1}, {"p_shred": None, "flags": 8}
    for source, row in zip(sources, (blind, blind, no_signal, {}), strict=True):
        make_shred(session, source, old, **row)
    again = make_run(session, session.get_one(ModelVersion, old.model_version_id))
    ids = [source.id for source in sources]

    n = write(session, again, ids, [0.75, np.nan, 0.75, 0.75], [4, 2, 4, 4])

    assert n == 1
    assert stored(session) == {
        ids[0]: (0.75, 4),  # as if it had been written now
        ids[1]: (None, 1),  # still no image
        ids[2]: (None, 8),
        ids[3]: (0.5, 0),
    }
    runs = dict(session.execute(sa.select(Shred.source_id, Shred.run_id)).all())
    assert [runs[source_id] == again.id for source_id in ids] == [True, False, False, False]


def test_a_late_row_without_a_value_does_not_replace_one_that_has_it(session: Session) -> None:
    run = make_run(session)
    [source] = make_sources(session, 1)
    write(session, run, [source.id], [0.75], [0])

    n = write(session, run, [source.id], [np.nan], [1])

    assert n == 0
    assert stored(session) == {source.id: (0.75, 0)}


def test_a_source_whose_image_has_come_since_waits_again(session: Session) -> None:
    run = make_run(session)
    sources = make_sources(session, 3)
    block = make_cutout_block(session, sources=sources)
    for source, flags in zip(sources, (1, 1, 8), strict=True):
        make_shred(session, source, run, p_shred=None, flags=flags)
    session.execute(sa.update(Cutout).where(Cutout.position == 1).values(flags=1))

    found = annotations.waiting(session, Shred, run.model_version_id, block.id, (0, 2))

    assert found["id"].tolist() == [sources[0].id]


def test_nothing_is_written_for_no_sources(session: Session) -> None:
    assert write(session, make_run(session), [], [], []) == 0


def test_two_writes_in_one_transaction_both_arrive(session: Session) -> None:
    run = make_run(session)
    ids = [source.id for source in make_sources(session, 2)]

    n = [write(session, run, [source_id], [0.5], [0]) for source_id in ids]
    again = [write(session, run, [source_id], [0.5], [0]) for source_id in ids]

    assert (n, again) == ([1, 1], [0, 0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"flags": [0]}, "takes the columns flags, p_shred; the annotator gave flags"),
        ({"flags": [0], "p_shred": [0.1], "mood": [1]}, "gave flags, mood, p_shred"),
        ({"flags": [0], "p_shred": [0.1, 0.2]}, "expected 1 values per column"),
    ],
)
def test_other_columns_or_lengths_are_refused(
    session: Session, columns: dict[str, list[float]], message: str
) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 1)])

    with pytest.raises(ValueError, match=message):
        annotations.write(session, Shred, run.model_version_id, run.id, ids, columns)


def test_only_sources_without_a_row_wait(session: Session) -> None:
    run = make_run(session)
    sources = make_sources(session, 3)
    block = make_cutout_block(session, sources=sources)
    make_shred(session, sources[1], run)

    found = annotations.waiting(session, Shred, run.model_version_id, block.id, (0, 2))

    assert found["position"].tolist() == [0, 2]
    assert found["id"].tolist() == [sources[0].id, sources[2].id]


def test_a_source_that_a_better_set_shows_does_not_wait(session: Session) -> None:
    run = make_run(session)
    sources = make_sources(session, 2)
    block = make_cutout_block(session, sources=sources)
    better = make_cutout_set(session)
    make_cutout_block(session, better, sources[:1])

    found = annotations.waiting(session, Shred, run.model_version_id, block.id, (0, 1), [better.id])

    assert found["id"].tolist() == [sources[1].id]


def write_vectors(
    session: Session,
    run: Run,
    source_ids: list[int],
    embedding: NDArray,
    reduced: NDArray,
    flags: int = 0,
) -> int:
    columns = {
        "embedding": embedding,
        "reduced": reduced,
        "flags": np.full(len(source_ids), flags),
    }
    ids, version_id = np.array(source_ids), run.model_version_id
    return annotations.write(session, Representation, version_id, run.id, ids, columns)


def stored_vectors(session: Session) -> dict[int, tuple[Any, Any, int]]:
    table = Representation
    rows = session.execute(
        sa.select(table.source_id, table.embedding, table.reduced, table.ordinal)
    )
    return {source_id: tuple(rest) for source_id, *rest in rows}


def test_vectors_arrive_as_halves_and_missing_ones_become_null(session: Session) -> None:
    run = make_run(session)
    ids = [source.id for source in make_sources(session, 3)]
    embedding = np.array([[1, -2, 65504], [np.nan] * 3, [1 / 3, 1e-4, 0]], np.float32)
    reduced = np.arange(3 * N_REDUCED, dtype=np.float32).reshape(3, -1)
    reduced[1] = np.nan

    n = write_vectors(session, run, ids, embedding, reduced)

    found = stored_vectors(session)
    assert n == 3
    assert found[ids[1]][:2] == (None, None)
    for row in (0, 2):
        expected = embedding[row].astype(np.float16).tolist()
        assert found[ids[row]][0] == pytest.approx(expected, rel=1e-6)
        assert found[ids[row]][1] == reduced[row].tolist()
    assert [found[source_id][2] for source_id in ids] == sorted(one[2] for one in found.values())


def test_a_vector_of_an_encoder_without_components_is_stored_without_them(
    session: Session,
) -> None:
    run = make_run(session)
    [source] = make_sources(session, 1)

    write_vectors(session, run, [source.id], np.ones((1, 3)), np.full((1, N_REDUCED), np.nan))

    assert stored_vectors(session)[source.id][:2] == ([1, 1, 1], None)


def test_a_vector_that_replaces_an_empty_row_counts_as_the_newest(session: Session) -> None:
    run = make_run(session)
    late, other = (source.id for source in make_sources(session, 2))
    none = np.full((1, N_REDUCED), np.nan)
    write_vectors(session, run, [late], none[:, :3], none, flags=1)
    write_vectors(session, run, [other], np.ones((1, 3)), np.ones((1, N_REDUCED)))

    n = write_vectors(session, run, [late, other], np.zeros((2, 3)), np.zeros((2, N_REDUCED)))

    found = stored_vectors(session)
    assert n == 1
    assert found[late][0] == [0, 0, 0]
    assert found[other][0] == [1, 1, 1]
    assert found[late][2] > found[other][2]


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ([[1, np.nan, 2]], "embedding: 1 vectors have some numbers that are not finite"),
        ([[1, 2, -70000]], "embedding holds numbers up to 65504, not 70000"),
    ],
)
def test_vectors_that_cannot_be_stored_are_refused(
    session: Session, embedding: list[list[float]], message: str
) -> None:
    run = make_run(session)
    [source] = make_sources(session, 1)

    with pytest.raises(ValueError, match=message):
        write_vectors(session, run, [source.id], np.array(embedding), np.ones((1, N_REDUCED)))


def cells(row: list[float], **values: Any) -> dict[str, Any]:
    """Columns of a map's table; NaN is nowhere."""
    n, nothing = len(row), np.full(len(row), np.nan)
    columns = {"cell_row": np.array(row), "cell_column": np.array(row) + 1}
    columns |= {"quantization_error": nothing, "margin": nothing, "flags": np.zeros(n, np.int32)}
    return columns | values


def test_whole_numbers_may_be_null(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 3)])
    masked = np.ma.MaskedArray(np.array([7, 8, 9], np.int16), [False, False, True])

    columns = cells([3, np.nan, 0], cell_column=masked)
    annotations.write(session, SourceCell, run.model_version_id, run.id, ids, columns)

    rows = session.execute(sa.select(SourceCell.cell_row, SourceCell.cell_column)).all()
    assert sorted(rows, key=str) == [(0, None), (3, 7), (None, 8)]


def test_whole_numbers_beyond_their_column_are_refused(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 1)])

    with pytest.raises(ValueError, match="cell_row holds numbers up to 32767, not 40000"):
        annotations.write(session, SourceCell, run.model_version_id, run.id, ids, cells([40_000.0]))


def write_blends(session: Session, run: Run, ids: NDArray, **values: Any) -> int:
    columns = {
        "p_blend": np.full(len(ids), 0.5, np.float32),
        "sep_is_blend": np.ones(len(ids), bool),
        "sep_detections": np.full(len(ids), 2, np.int16),
        "flags": np.zeros(len(ids), np.int32),
    }
    return annotations.write(session, Blend, run.model_version_id, run.id, ids, columns | values)


@pytest.mark.parametrize(
    "said",
    [
        np.array([1.0, np.nan, 0.0], np.float32),
        np.ma.MaskedArray([True, True, False], [False, True, False]),
    ],
)
def test_true_false_and_unknown_arrive_as_they_were_given(session: Session, said: NDArray) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 3)])

    n = [write_blends(session, run, ids, sep_is_blend=said) for _ in range(2)]

    rows = session.execute(sa.select(Blend.source_id, Blend.sep_is_blend)).all()
    assert n == [3, 0]
    assert dict(map(tuple, rows)) == dict(zip(ids.tolist(), [True, None, False], strict=True))


def test_a_truth_in_between_is_refused(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 2)])

    with pytest.raises(ValueError, match=r"sep_is_blend holds true or false .*, not 0\.7"):
        write_blends(session, run, ids, sep_is_blend=np.array([1.0, 0.7]))


def write_fluxes(session: Session, run: Run, ids: NDArray, masks: list, flags: int = 0) -> int:
    names = annotations.result_columns(PairFlux)
    columns: dict[str, Any] = {name: np.full(len(ids), np.nan) for name in names}
    columns |= {"masks": np.array(masks, object), "flags": np.full(len(ids), flags)}
    return annotations.write(session, PairFlux, run.model_version_id, run.id, ids, columns)


def test_bytes_of_any_content_and_length_arrive_as_they_were_given(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 4)])
    masks = [b"\0\xff\0\0", None, b"", bytes(range(256)) * 16]

    n = write_fluxes(session, run, ids, masks)

    rows = session.execute(sa.select(PairFlux.source_id, PairFlux.masks)).all()
    assert n == 4
    assert dict(map(tuple, rows)) == dict(zip(ids.tolist(), masks, strict=True))


def test_a_row_with_bytes_replaces_one_for_want_of_an_image_and_no_other(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 2)])
    write_fluxes(session, run, ids[:1], [None], flags=1)
    write_fluxes(session, run, ids[1:], [b"old"])

    n = write_fluxes(session, run, ids, [b"new", b"new"])

    rows = session.execute(sa.select(PairFlux.source_id, PairFlux.masks, PairFlux.flags)).all()
    assert n == 1
    assert sorted(map(tuple, rows)) == [(ids[0], b"new", 0), (ids[1], b"old", 0)]


def test_what_is_no_bytes_is_refused(session: Session) -> None:
    run = make_run(session)
    ids = np.array([source.id for source in make_sources(session, 1)])

    with pytest.raises(ValueError, match="masks holds bytes or None, not str"):
        write_fluxes(session, run, ids, ["text"])


def test_an_exposure_gets_one_row_per_version(session: Session) -> None:
    run, exposures = make_run(session), [make_exposure(session, 2) for _ in range(2)]
    ids = np.array([exposure.id for exposure in exposures])
    latent = np.array([[0.5, 1.0], [np.nan, np.nan]])

    def write(row: float) -> int:
        columns = cells([row] * 2, latent=latent)
        return annotations.write(session, ExposureCell, run.model_version_id, run.id, ids, columns)

    added = [write(3.0), write(4.0)]

    rows = session.execute(sa.select(ExposureCell).order_by(ExposureCell.exposure_id)).scalars()
    assert added == [2, 0]
    assert [(row.cell_row, row.latent) for row in rows] == [(3, [0.5, 1.0]), (3, None)]


def test_a_block_with_an_exposure_waits_for_one_row(session: Session) -> None:
    run, exposure = make_run(session), make_exposure(session, 3)
    asked = (ExposureCell, run.model_version_id, exposure.block_id, (0, 0))

    before = annotations.waiting(session, *asked)
    columns = cells([1.0], latent=np.zeros((1, 2)))
    annotations.write(session, ExposureCell, run.model_version_id, run.id, before["id"], columns)
    after = annotations.waiting(session, *asked)

    assert before.tolist() == [(0, exposure.id, 0)]
    assert len(after) == 0
