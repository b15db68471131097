"""A real field that comes with a dependency: the Hubble eXtreme Deep Field picture of scikit-image.

The picture is a colour rendering, not photometry: its catalog has positions, sizes and fluxes in
display units, no magnitudes. Its world coordinates are nominal: the centre and the width of the
field are the published ones, north is taken to be up. Its colours are nominal too: red, green and
blue stand where the networks expect z, r and g.
"""

from __future__ import annotations

import numpy as np
import skimage.data
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from models.baselines import detect

CENTRE = (53.1625, -27.7914)  # ra, dec of the Hubble Ultra Deep Field, ICRS [deg]
WIDTH = 2.3  # arcmin, east to west
BANDS = "zrg"  # nominal, for red, green, blue
CUTOUT_SIZE = 244  # pixel: 33.7 arcsec, what the networks trained on Legacy cutouts look at
FRAME = 8.0  # arcsec from the frame's edge where nothing is catalogued


def picture() -> tuple[NDArray[np.uint8], WCS]:
    """Return the picture, shape (872, 1000, 3), row 0 in the south, and its nominal WCS."""
    image = skimage.data.hubble_deep_field()[::-1]
    height, width, _ = image.shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = CENTRE
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    wcs.wcs.cdelt = [-WIDTH / 60 / width, WIDTH / 60 / width]
    return np.ascontiguousarray(image), wcs


def catalog() -> Table:
    """Detect the sources of the picture with sep on the mean of its colours.

    Returns
    -------
    Table
        source_id, ra and dec [deg], shape_r (half-light radius [arcsec]), axis_ratio,
        flux and flux_err [display units], in the order of falling flux.
    """
    image, wcs = picture()
    found, _ = detect(image.mean(axis=2), threshold=5.0, min_area=30)
    scale = WIDTH * 60 / image.shape[1]
    height, width, _ = image.shape
    margin = FRAME / scale
    inside = (
        (found["x"] > margin)
        & (found["x"] < width - margin)
        & (found["y"] > margin)
        & (found["y"] < height - margin)
    )
    found = found[inside]
    found.sort("flux", reverse=True)
    sky = wcs.pixel_to_world(found["x"], found["y"])
    table = Table(
        {
            "source_id": [f"XDF-{number:04d}" for number in range(1, len(found) + 1)],
            "ra": sky.ra.deg,
            "dec": sky.dec.deg,
            "shape_r": found["half_light_radius"] * scale,
            "axis_ratio": found["b"] / found["a"],
            "flux": found["flux"],
            "flux_err": found["flux_err"],
        }
    )
    for name, unit in (("ra", "deg"), ("dec", "deg"), ("shape_r", "arcsec")):
        table[name].unit = unit
    return table


def mosaic() -> fits.PrimaryHDU:
    """Return the picture as a FITS image with one plane per colour and its nominal WCS."""
    image, wcs = picture()
    header = wcs.to_header()
    header["BANDS"] = (BANDS, "nominal: red, green, blue")
    header["OBJECT"] = "Hubble XDF"
    return fits.PrimaryHDU(np.moveaxis(image, 2, 0), header)
