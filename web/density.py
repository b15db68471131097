"""Counts as a picture: a colour table that is even to the eye, a logarithmic scale, a PNG.

The background is the dark sky that pictures have in both themes.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

SKY = (11, 13, 17)  # as --sky in style.css
LIGHTNESS = (0.34, 0.97)  # OKLab: of a single source, of the fullest square
CHROMA = (0.11, 0.15, 0.07)  # at the beginning, in the middle, at the end
HUE = (262.0, 85.0)  # degrees: from blue, by way of red, to yellow
OKLAB_TO_LMS = (
    (1, 0.3963377774, 0.2158037573),
    (1, -0.1055613458, -0.0638541728),
    (1, -0.0894841775, -1.2914855480),
)
LMS_TO_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def png(counts: NDArray[np.int64]) -> bytes:
    """Draw counts (n, n), row 0 at the bottom: as dark sky where there is nothing."""
    from PIL import Image

    image = Image.fromarray(levels(counts)[::-1], "P")
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def scale() -> bytes:
    """Draw the colours of 1 to the most, from left to right."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(palette()[np.newaxis, 1:]).save(buffer, "PNG")
    return buffer.getvalue()


def levels(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return colours 1 (a single source) to 255 (the most there are) by logarithm, 0 for none."""
    share = np.log(np.maximum(counts, 1)) / np.log(max(counts.max(initial=1), 2))
    return np.where(counts > 0, 1 + np.rint(254 * share), 0).astype(np.uint8)


def palette() -> NDArray[np.uint8]:
    """Return 256 colours (256, 3): the sky, then steps of equal lightness in OKLab.

    References
    ----------
    Ottosson (2020), "A perceptual color space for image processing" (the matrices).
    """
    along = np.linspace(0, 1, 255)
    lightness = np.interp(along, (0, 1), LIGHTNESS)
    chroma = np.interp(along, (0, 0.5, 1), CHROMA)
    hue = np.radians(np.interp(along, (0, 1), (HUE[0], HUE[1] + 360)))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = np.clip(np.array(LMS_TO_RGB) @ (np.array(OKLAB_TO_LMS) @ lab) ** 3, 0, 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.vstack([SKY, np.rint(encoded.T * 255)]).astype(np.uint8)
