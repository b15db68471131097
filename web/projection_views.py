"""Views of a projection: squares of 8 x 8 tiles, so that what is in one is a few ranges of cells.

A view's tiles are those of the level three below its zoom; places are on the unit square, (0, 0)
being the projection's lower left corner. Knows neither the database nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from db.projections import Window

N_TILES = 8  # along each side of a view
TILE_DEPTH = 3  # levels from a view's zoom to its tiles
MAX_ZOOM = 10


@dataclass(frozen=True)
class View:
    """A square of a projection; column and row are those of its lower left tile."""

    zoom: int
    column: int
    row: int

    @property
    def window(self) -> Window:
        """The tiles in view."""
        return Window(self.zoom + TILE_DEPTH, self.column, self.row, N_TILES)

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the view on the unit square."""
        return self.on_square(N_TILES / 2, N_TILES / 2)

    def in_view(self, x: float, y: float) -> tuple[float, float]:
        """Return where a place of the unit square is, in tiles from the upper left corner."""
        tiles = 1 << self.zoom + TILE_DEPTH
        return x * tiles - self.column, N_TILES - (y * tiles - self.row)

    def on_square(self, x: float, y: float) -> tuple[float, float]:
        """Undo `in_view`."""
        tiles = 1 << self.zoom + TILE_DEPTH
        return (self.column + x) / tiles, (self.row + N_TILES - y) / tiles

    def beside(self) -> dict[str, View | None]:
        """Return the views to go to from here by their words, None where there is no other."""
        (x, y), step = self.centre, 0.5 / (1 << self.zoom)
        steps = {
            "in": (self.zoom + 1, x, y),
            "out": (self.zoom - 1, x, y),
            "left": (self.zoom, x - step, y),
            "right": (self.zoom, x + step, y),
            "up": (self.zoom, x, y + step),
            "down": (self.zoom, x, y - step),
            "whole": (0, 0.5, 0.5),
        }
        views = {
            word: around(*place) if 0 <= place[0] <= MAX_ZOOM else None
            for word, place in steps.items()
        }
        return {word: None if view == self else view for word, view in views.items()}


def around(zoom: int, x: float, y: float) -> View:
    """Return the view whose middle is nearest to a place, with all of it on the projection."""
    tiles = 1 << zoom + TILE_DEPTH
    column, row = (round(place * tiles) - N_TILES // 2 for place in (x, y))
    last = tiles - N_TILES
    return View(zoom, min(max(column, 0), last), min(max(row, 0), last))


def exists(zoom: int, column: int, row: int) -> bool:
    """Whether a view with these numbers is on the projection."""
    return zoom <= MAX_ZOOM and max(column, row) <= (1 << zoom + TILE_DEPTH) - N_TILES
