import numpy as np
import pytest
from numpy.typing import NDArray

from db import lasso, morton

SQUARE = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]]
RANDOM = np.random.default_rng(7)


def is_inside(corners: NDArray, places: NDArray) -> NDArray[np.bool_]:
    """Non-zero rule, after Sunday (2001), Algorithm 1 of his note on point in polygon."""
    winding = np.zeros(len(places), int)
    x, y = places.T
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        winding += (y0 <= y) & (y < y1) & (left > 0)
        winding -= (y1 <= y) & (y < y0) & (left < 0)
    return winding != 0


def holds(codes: NDArray, level: int, places: NDArray) -> NDArray[np.bool_]:
    """Whether each place on the unit square lies in one of some cells."""
    columns, rows = np.floor(places * (1 << level)).astype(int).T
    return np.isin(morton.encode(columns, rows), codes)


def star(n: int) -> NDArray:
    """A polygon with n corners at random distances, perhaps partly beside the unit square."""
    angles = np.sort(RANDOM.random(n)) * 2 * np.pi
    radius = RANDOM.random((n, 1)) * 0.6
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + RANDOM.random(2)


@pytest.mark.parametrize(
    "corners",
    [
        np.array(SQUARE),
        np.array(SQUARE)[[0, 2, 1, 3]],  # crosses itself
        np.array(SQUARE * 2),  # goes around twice
        np.array(SQUARE)[::-1] * 3 - 1,  # surrounds the unit square
        *(star(n) for n in (3, 5, 20, 200, 1_000)),
        *(RANDOM.random((n, 2)) for n in (4, 30)),
    ],
)
def test_cells_inside_lie_inside_and_the_rest_of_the_polygon_is_on_outline_cells(
    corners: NDArray,
) -> None:
    places = RANDOM.random((20_000, 2))

    cover = lasso.cover(corners)

    inside = holds(cover.inside, cover.level, places)
    outline = holds(cover.outline, cover.level, places)
    truth = is_inside(corners, places)
    assert not (inside & ~truth).any()
    assert not (truth & ~inside & ~outline).any()
    assert not (inside & outline).any()


def test_the_grid_is_finer_for_a_smaller_polygon() -> None:
    large, small = np.array(SQUARE), np.array(SQUARE) / 100

    assert lasso.cover(small).level > lasso.cover(large).level
    assert len(lasso.cover(small).outline) < 5_000


def test_a_polygon_beside_the_square_covers_nothing() -> None:
    cover = lasso.cover(np.array(SQUARE) + 1.5)

    assert len(cover.inside) == len(cover.outline) == 0


def test_a_single_place_is_all_outline() -> None:
    cover = lasso.cover(np.full((3, 2), 0.5))

    assert len(cover.inside) == 0
    assert 1 <= len(cover.outline) <= 16


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([[0, 0], [1, 1]], "3 to 1,000 corners; arrived 2"),
        (np.zeros((10_000, 2)), "arrived 10,000"),
        ([[0, 0], [1, 1], [1, float("nan")]], "finite"),
        ([[0, 0], [1, 1], [1, 2, 3]], "pairs"),
        ([0, 1, 2], "pairs"),
        ("lasso", "pairs"),
        ([[0, 0], [1, 1], [1, None]], "finite"),
    ],
)
def test_what_is_no_polygon_is_refused(corners: object, message: str) -> None:
    with pytest.raises(lasso.BadPolygon, match=message):
        lasso.polygon(corners)  # type: ignore[arg-type]


def test_a_corner_far_away_is_refused() -> None:
    with pytest.raises(lasso.BadPolygon, match="far outside"):
        lasso.cover(np.array([[0, 0], [1, 0], [1e9, 1]]))
