"""Draw docs/images/camera.jpg: a corner of a simulated exposure for every fault.

python benchmarks/camera_picture.py docs/images/camera.jpg
"""

import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models import camera

SIDE, COLUMNS, STRIP = 256, 5, 18  # [pixel], pictures, [pixel] for a name
STRENGTH = 0.7


def main(path: str) -> None:
    """Write the picture."""
    rows = -(-len(camera.FAULTS) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * SIDE, rows * (SIDE + STRIP)), 0)
    ink = ImageDraw.Draw(sheet)
    for k, fault in enumerate(camera.FAULTS):
        strength = 0.0 if fault == "good" else STRENGTH
        rng = np.random.default_rng([12, k])
        pixels = camera.draw(camera.Camera(n_ccds=1), fault, strength, rng).ccds[0]
        left, top = k % COLUMNS * SIDE, k // COLUMNS * (SIDE + STRIP)
        sheet.paste(Image.fromarray(_grey(pixels[:SIDE])), (left + 1, top + STRIP))
        name = f"{fault.replace('_', ' ')} ({camera.label(fault, strength)})"
        ink.text((left + 5, top + 3), name, fill=230)
    sheet.save(path, quality=80, optimize=True)


def _grey(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Sky dark grey, noise just visible, stars white."""
    sky = np.median(pixels)
    noise = 1.5 * np.median(abs(pixels - sky)) + 1
    lifted = np.arcsinh(np.clip((pixels - sky) / noise + 3, 0, None) / 4) / np.arcsinh(10)
    return (255 * np.clip(lifted, 0, 1)).astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
