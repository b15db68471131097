"""Pixels as the networks expect them: the display stretch, the scale and the crop.

Reads no file and knows no network; numpy only, so that the web process may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["display", "nanomaggy"]

STRETCH = {"g": 6.0, "r": 3.4, "z": 2.2}  # weight of each band, per nanomaggy
SOFTENING = 20.0  # Q of the asinh stretch
PEDESTAL = 0.03  # added to every weighted band, so that the sky is dark grey, not black
RGB_BANDS = ("z", "r", "g")  # the bands shown as red, green and blue
SKY_LEVEL = 32  # what zero flux becomes in an 8-bit picture under this stretch


def to_rgb(pixels: NDArray, bands: Sequence[str], unit: Unit) -> NDArray[np.uint8]:
    """Turn stored pixels into the 8-bit colour picture of the Legacy Surveys viewer.

    Parameters
    ----------
    pixels : ndarray, shape (n, h, w, b)
        `display`: 8-bit values, b = 3. `nanomaggy`: flux per pixel of 0.262 arcsec, any float;
        a value that is not finite counts as empty sky.
    bands : sequence of str, length b
        Names of the planes. Pictures whose planes are not called g, r and z are taken to be in
        red, green, blue order already.
    unit : {"display", "nanomaggy"}

    Returns
    -------
    ndarray of uint8, shape (n, h, w, 3)
        z, r and g in the red, green and blue planes.

    Raises
    ------
    ValueError
        The planes do not match the names, or g, r and z cannot be found among them.

    References
    ----------
    Lupton et al. (2004), PASP 116, 133, with the constants of the Legacy Surveys viewer.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != len(bands):
        raise ValueError(
            f"pixels must have shape (n, h, w, {len(bands)}) for the bands {', '.join(bands)}; "
            f"these have shape {pixels.shape}"
        )
    if unit == "display":
        return _display(pixels, bands)
    if unit == "nanomaggy":
        return _stretch(pixels[..., _planes(bands)])
    raise ValueError(f"unit must be 'display' or 'nanomaggy', not {unit!r}")


def _planes(bands: Sequence[str]) -> list[int]:
    missing = [band for band in RGB_BANDS if band not in bands]
    if missing:
        raise ValueError(
            f"a colour picture needs the bands g, r and z; {', '.join(missing)} is not among "
            f"{', '.join(bands)}"
        )
    return [list(bands).index(band) for band in RGB_BANDS]


def _display(pixels: NDArray, bands: Sequence[str]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise ValueError(f"display pixels must be uint8 from 0 to 255, not {pixels.dtype}")
    if set(bands) == set(RGB_BANDS) and tuple(bands) != RGB_BANDS:
        return pixels[..., _planes(bands)]
    if len(bands) != 3:
        raise ValueError(f"a display picture must have 3 planes, not {len(bands)}")
    return pixels


def _stretch(flux: NDArray) -> NDArray[np.uint8]:
    weights = np.array([STRETCH[band] for band in RGB_BANDS], np.float32)
    weighted = np.nan_to_num(flux, posinf=0, neginf=0).astype(np.float32) * weights + PEDESTAL
    intensity = np.maximum(weighted, 0).mean(axis=-1, keepdims=True)
    intensity = np.maximum(intensity, 1e-6)
    shown = weighted * np.arcsinh(SOFTENING * intensity) / (np.sqrt(SOFTENING) * intensity)
    return (np.clip(shown, 0, 1) * 255).astype(np.uint8)


def fit(
    pixels: NDArray,
    pixel_scale: float,
    size: int,
    target_scale: float,
    *,
    fill: float = 0.0,
    per_pixel: bool = False,
) -> NDArray:
    """Bring cutouts to the size and the scale a network was trained on, about the same centre.

    Parameters
    ----------
    pixels : ndarray, shape (n, h, w, b)
    pixel_scale, target_scale : float
        Scale of `pixels` and of the result [arcsec/pixel].
    size : int
        Side of the result [pixel].
    fill : float
        Value beyond the border of the cutout; `missing_border` says how much that is.
    per_pixel : bool
        True where a value is a flux per pixel (nanomaggy), which grows with the pixel's area.

    Returns
    -------
    ndarray, shape (n, size, size, b)
        The dtype of `pixels`. Equal scales are cropped exactly, others resampled with a triangle
        filter that is as wide as the coarser pixel.
    """
    h, w = pixels.shape[1:3]
    ratio = target_scale / pixel_scale
    if abs(ratio - 1) < 1e-3 and (h - size) % 2 == 0 and (w - size) % 2 == 0:
        return _crop(pixels, size, fill)
    rows, columns = _resampling(h, size, ratio), _resampling(w, size, ratio)
    covered = rows.sum(1)[:, None] * columns.sum(1)[None]
    result = np.einsum("yh,nhwb,xw->nyxb", rows, pixels.astype(np.float32), columns, optimize=True)
    result *= ratio**2 if per_pixel else 1
    result += fill * (1 - covered)[None, :, :, None]
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        result = np.clip(np.rint(result), limits.min, limits.max)
    return result.astype(pixels.dtype)


def resize(pictures: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Stretch or shrink whole pictures (n, h, w, b) to (n, size, size, b), without aliasing.

    The filter is a triangle as wide as the coarser pixel, as `fit` has it, cut off at the border.
    """
    h, w = pictures.shape[1:3]
    if (h, w) == (size, size):
        return pictures
    rows, columns = (_resampling(side, size, side / size) for side in (h, w))
    rows, columns = (each / each.sum(1, keepdims=True) for each in (rows, columns))
    return np.einsum("yh,nhwb,xw->nyxb", rows, pictures, columns, optimize=True)


def missing_border(
    shape: tuple[int, int], pixel_scale: float, size: int, target_scale: float
) -> float:
    """Share of the wanted field that a cutout of shape (h, w) does not cover, 0 to 1."""
    wanted = size * target_scale
    covered = [min(side * pixel_scale, wanted) / wanted for side in shape]
    return max(0.0, 1 - covered[0] * covered[1])


def _crop(pixels: NDArray, size: int, fill: float) -> NDArray:
    for axis in (1, 2):
        margin = (pixels.shape[axis] - size) // 2
        if margin > 0:
            pixels = pixels.take(range(margin, margin + size), axis=axis)
        elif margin < 0:
            widths = [(0, 0)] * 4
            widths[axis] = (-margin, -margin)
            pixels = np.pad(pixels, widths, constant_values=fill)
    return pixels


def _resampling(old: int, new: int, ratio: float) -> NDArray[np.float32]:
    """Weights, shape (new, old), that carry one axis to pixels `ratio` times as wide."""
    centre = (np.arange(new) - (new - 1) / 2) * ratio + (old - 1) / 2
    margin = int(np.ceil(max(1, ratio))) + 1
    grid = np.arange(-margin, old + margin)
    reach = max(1.0, ratio)
    weights = np.maximum(0, 1 - np.abs(grid[None] - centre[:, None]) / reach)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    return weights[:, margin : margin + old].astype(np.float32)
