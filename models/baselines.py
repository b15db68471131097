"""Classical opinions: what SExtractor's algorithms (sep) see in an image."""

from __future__ import annotations

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray


def detect(
    image: NDArray[np.floating], threshold: float = 3.0, min_area: int = 12
) -> tuple[Table, NDArray[np.float32]]:
    """Find the sources of one image above its own background.

    Parameters
    ----------
    image : ndarray of float, shape (h, w)
        Any linear unit; NaN pixels are masked.
    threshold : float
        Detection threshold in units of the local background noise.
    min_area : int
        Fewest connected pixels [pixel].

    Returns
    -------
    Table
        One row per source: x, y [0-based pixel], flux and flux_err [unit of the image] in the
        isophote, half-light radius [pixel], a, b [pixel], theta [rad], flag (sep's).
    ndarray of float32, shape (h, w)
        The image less its background.

    References
    ----------
    Bertin & Arnouts (1996), A&AS 117, 393; Barbary (2016), JOSS 1, 58.
    """
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    mask = ~np.isfinite(pixels)
    background = sep.Background(pixels, mask=mask)
    residual = pixels - background.back()
    found = sep.extract(residual, threshold, err=background.rms(), mask=mask, minarea=min_area)
    radius, _ = sep.flux_radius(
        residual, found["x"], found["y"], 6.0 * found["a"], 0.5, normflux=found["flux"]
    )
    table = Table({name: found[name] for name in ("x", "y", "flux", "a", "b", "theta", "flag")})
    table["flux_err"] = background.globalrms * np.sqrt(found["npix"])
    table["half_light_radius"] = radius
    return table, residual
