"""Principal components of an encoder's vectors: fitted once, kept in a file beside the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import registry

N_COMPONENTS = 40
FIT_BATCH = 1024  # vectors


@dataclass(frozen=True)
class Reduction:
    """A linear map from vectors of d numbers to their first 40 principal components.

    Vectors with fewer than 40 components are filled up with zeros, which no distance notices.
    """

    mean: NDArray[np.float32]  # (d,)
    components: NDArray[np.float32]  # (40, d)
    explained: NDArray[np.float32]  # (40,), share of the variance

    @classmethod
    def fit(cls, vectors: NDArray[np.float32]) -> Reduction:
        """Fit to vectors (n, d), two of them at least."""
        from sklearn.decomposition import IncrementalPCA

        n, d = vectors.shape
        k = min(N_COMPONENTS, n, d)
        fitted = IncrementalPCA(k, batch_size=max(FIT_BATCH, k)).fit(vectors.astype(np.float64))
        components, explained = np.zeros((N_COMPONENTS, d)), np.zeros(N_COMPONENTS)
        components[:k], explained[:k] = fitted.components_, fitted.explained_variance_ratio_
        return cls(*(each.astype(np.float32) for each in (fitted.mean_, components, explained)))

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce vectors (n, d) to (n, 40)."""
        return np.asarray((vectors - self.mean) @ self.components.T, np.float32)

    def save(self, path: Path) -> str:
        """Write the map to an `.npz` file; its SHA-256."""
        np.savez(path, mean=self.mean, components=self.components, explained=self.explained)
        return registry.sha256(path)

    @classmethod
    def load(cls, path: Path, sha256: str) -> Reduction:
        """Read the map from a file that must have this SHA-256.

        Raises
        ------
        FileNotFoundError, registry.ChecksumError
        """
        registry.verify_file(path, sha256, "the principal components")
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["mean"], stored["components"], stored["explained"])
