import numpy as np

from db import morton


def test_a_code_interleaves_the_bits_of_column_and_row() -> None:
    assert morton.encode(0b101, 0b011) == 0b01_10_11
    assert morton.encode(65_535, 65_535) == 2**32 - 1


def test_decoding_gives_back_columns_and_rows() -> None:
    random = np.random.default_rng(1)
    columns, rows = random.integers(2**morton.FINEST, size=(2, 1_000))

    found = morton.decode(morton.encode(columns, rows))

    assert np.array_equal(found, (columns, rows))


def test_adjacent_cells_become_one_range_of_finer_cells() -> None:
    assert morton.ranges([3, 0, 1, 2, 8], level=2, finest=3) == [(0, 15), (32, 35)]


def test_no_cell_is_no_range() -> None:
    assert morton.ranges([], level=4) == []
