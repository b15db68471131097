"""Projections: representations laid out on a plane, by UMAP or PCA.

A layout is learnt from a sample, then every source is placed in it. What is saved and how is for
`db.layouts`. UMAP is imported when it is needed, because it brings TensorFlow along.

References
----------
McInnes, Healy & Melville (2018), arXiv:1802.03426 (UMAP).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from db import layouts, names, representations
from db.engine import session_factory
from db.tables import Projection
from workers.device import quiet

METHODS = ("umap", "pca")
CHUNK = 50_000  # sources placed at once; UMAP places more than 10,000 with fewer steps each
SPACE: representations.Space = "reduced"

Vectors = NDArray[np.float32]
Place = Callable[[Vectors], Vectors]
Bar = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


class TooFew(ValueError):  # noqa: N818 (it reads as what happened)
    """There are not enough representations for a layout."""


@dataclass(frozen=True)
class Plan:
    """What to lay out and how. `neighbours` and `min_dist` are UMAP's."""

    name: str
    model_version_id: int
    method: str = "umap"
    sample: int = 50_000
    seed: int = 0
    neighbours: int = 15
    min_dist: float = 0.1


@dataclass(frozen=True)
class Layout:
    """How to place vectors, and the places of the sources that it was learnt from."""

    place: Place
    known: NDArray[np.int64]
    fitted: Vectors

    def places(self, source_ids: NDArray[np.int64], vectors: Vectors) -> Vectors:
        """Return the places (n, 2) of sources with their vectors (n, d)."""
        order = np.argsort(self.known)
        nearest = np.searchsorted(self.known, source_ids, sorter=order).clip(max=len(order) - 1)
        row = order[nearest]
        found = self.fitted[row]
        is_new = self.known[row] != source_ids
        if is_new.any():
            found[is_new] = self.place(vectors[is_new])
        return found


@contextmanager
def no_bar(_what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    """Show nothing of the progress."""
    yield lambda n: None


def build(engine: Engine, plan: Plan, bar: Bar = no_bar) -> Projection:
    """Lay out every source that has a vector of a version, and save the projection.

    An earlier projection of the same name is there until the new one takes its place.

    Parameters
    ----------
    bar : callable, optional
        Called with the name of a step and its number of sources; a context that gives a function
        to call with the number of further sources done.

    Raises
    ------
    names.BadName
    layouts.Busy
        Somebody else is building a projection of this name.
    layouts.NoPoints
    TooFew
    """
    with layouts.reserved(engine, names.checked(plan.name)):
        return _build(engine, plan, bar)


def _build(engine: Engine, plan: Plan, bar: Bar) -> Projection:
    sessions = session_factory(engine)
    with sessions() as session, bar("choosing", None):
        n = layouts.count_vectors(session, plan.model_version_id)
        sample = layouts.sample(session, plan.model_version_id, plan.sample, plan.seed)
        known, vectors = representations.vectors(session, plan.model_version_id, sample, SPACE)
    _check(plan, len(known))
    place, fitted, options = fit(plan, vectors, bar)
    source_ids, places = _placed(engine, plan, Layout(place, known, fitted), n, bar)
    projection = Projection(
        name=names.checked(plan.name),
        model_version_id=plan.model_version_id,
        method=plan.method,
        seed=plan.seed,
        n_fitted=len(known),
        options=options,
    )
    with sessions.begin() as session, bar("writing", len(source_ids)) as advance:
        layouts.save(session, projection, source_ids, places, advance)
    return projection


def fit(plan: Plan, vectors: Vectors, bar: Bar = no_bar) -> tuple[Place, Vectors, dict[str, Any]]:
    """Learn a layout from vectors (n, d).

    Returns
    -------
    place : callable
        Gives vectors (m, d) their places (m, 2); the same ones for the same seed and vectors.
    fitted : ndarray of float32, shape (n, 2)
        The places of the vectors it was learnt from.
    options : dict
        What decided the layout, for the record.
    """
    if plan.method == "pca":
        return fit_pca(vectors)
    return fit_umap(vectors, plan, bar)


def fit_pca(vectors: Vectors) -> tuple[Place, Vectors, dict[str, Any]]:
    """Lay vectors out along the two directions in which they vary most; see `fit`."""
    mean = vectors.mean(axis=0, dtype=float)
    scatter = np.cov(vectors - mean, rowvar=False, bias=True)
    variances, axes = np.linalg.eigh(np.atleast_2d(scatter))
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(2)] < 0, -1, 1)

    def place(given: Vectors) -> Vectors:
        return ((given - mean) @ axes).astype(np.float32)

    explained = variances[::-1][:2] / max(variances.sum(), np.finfo(float).tiny)
    return place, place(vectors), {"space": SPACE, "explained": explained.round(6).tolist()}


def fit_umap(
    vectors: Vectors, plan: Plan, bar: Bar = no_bar
) -> tuple[Place, Vectors, dict[str, Any]]:
    """Lay vectors out so that near ones stay near; see `fit`.

    It begins from the principal components, which keeps more of the large-scale order and is
    repeatable (Kobak & Linderman 2021, Nat. Biotechnol. 39, 156). A fixed seed costs UMAP its
    threads.
    """
    with bar("loading UMAP", None), quiet():
        import umap
    options: dict[str, Any] = {
        "n_neighbors": plan.neighbours,
        "min_dist": plan.min_dist,
        "metric": "euclidean",
        "init": "pca",
    }
    reducer = umap.UMAP(**options, random_state=plan.seed, transform_seed=plan.seed, n_jobs=1)
    with bar("fitting", None), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="umap|sklearn|pynndescent|numba")
        fitted = reducer.fit_transform(vectors)

    def place(given: Vectors) -> Vectors:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="umap|sklearn|pynndescent|numba")
            return np.asarray(reducer.transform(given), np.float32)

    packages = ("umap-learn", "pynndescent", "numba")
    versions = {package: package_version(package) for package in packages}
    return place, np.asarray(fitted, np.float32), {"space": SPACE, **options, "software": versions}


def _placed(
    engine: Engine, plan: Plan, layout: Layout, n: int, bar: Bar
) -> tuple[NDArray[np.int64], Vectors]:
    """Give every source of the version its place: (source_ids, places), as they are stored."""
    parts = []
    with engine.connect() as connection, bar("placing", n) as advance:
        stream = representations.stream(connection, plan.model_version_id, SPACE, CHUNK)
        for source_ids, vectors in stream:
            connection.rollback()  # no transaction is open while the places are computed
            parts.append((source_ids, layout.places(source_ids, vectors)))
            advance(len(source_ids))
    ids, places = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(places)


def _check(plan: Plan, n: int) -> None:
    needed = plan.neighbours + 1 if plan.method == "umap" else 1
    if n < needed:
        raise TooFew(
            f"{plan.method} needs the representations of at least {needed} sources; there "
            f"{'is' if n == 1 else 'are'} {n}. Annotate more first, or use --method pca"
        )
