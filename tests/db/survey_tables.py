"""Tiny tables with the columns and habits of each survey, for the tests of catalogs."""

from typing import Any

import numpy as np

Columns = dict[str, Any]


def legacy_columns() -> Columns:
    """Three tractor rows: a clean galaxy, one without r flux, and a star of infinite error."""
    columns: Columns = {
        "release": np.array([9010] * 3, dtype="i2"),
        "brickid": np.array([323] * 3, dtype="i4"),
        "objid": np.array([1, 2, 3], dtype="i4"),
        "type": np.array([b"EXP ", b"REX", b"PSF"]),
        "ra": np.array([150.1, 150.2, 359.99]),
        "dec": np.array([2.0, -30.0, 89.0]),
        "shape_r": np.array([2.5, 0.8, 0.0], dtype="f4"),
        "shape_r_ivar": np.array([4.0, 1.0, 0.0], dtype="f4"),
        "shape_e1": np.array([0.3, 0.1, 0.0], dtype="f4"),
        "shape_e2": np.array([-0.4, 0.0, 0.0], dtype="f4"),
        "flux_w1": np.array([1.0, np.nan, 3.0], dtype="f4"),
        "maskbits": np.array([0, 2, 4096], dtype="i4"),
    }
    for k, band in enumerate("griz"):
        columns |= {
            f"flux_{band}": np.array([100.0, -1.0 if band == "r" else 5.0, 50.0], dtype="f4"),
            f"flux_ivar_{band}": np.array([4.0, 1.0, 0.0], dtype="f4"),
            f"mw_transmission_{band}": np.array([0.8, 0.9, 1.0], dtype="f4"),
            f"nobs_{band}": np.array([2 + k, k, 3], dtype="i2"),
            f"allmask_{band}": np.array([[2, 4, 8, 0][k], 0, 0], dtype="i2"),
            f"fracmasked_{band}": np.array([0.1 * k, 0.0, 0.0], dtype="f4"),
            f"fracflux_{band}": np.array([0.1 * k, 0.0, 0.0], dtype="f4"),
            f"fracin_{band}": np.array([1.0, 0.9, 0.8], dtype="f4"),
            f"rchisq_{band}": np.array([[0.9, 1.1, 9.0, 1.2][k], 1.0, 1.0], dtype="f4"),
        }
    return columns


def sdss_columns() -> Columns:
    """A galaxy, and a star whose r magnitude and radius are missing."""
    columns: Columns = {
        "objID": np.array([1237648720693755918, 1237648720693755919]),
        "ra": np.array([180.0, 181.0]),
        "dec": np.array([0.5, 0.6]),
        "type": np.array([3, 6], dtype="i2"),
        "clean": np.array([1, 0]),
        "petroR50_r": np.array([3.5, -9999.0]),
        "petroR50Err_r": np.array([0.1, -1000.0]),
        "expAB_r": np.array([0.7, 0.05]),
        "expPhi_r": np.array([33.0, -9999.0]),
        "flags": np.array([68987912448, 0]),
    }
    for k, band in enumerate("griz"):
        columns |= {
            f"modelMag_{band}": np.array([17.7 - 0.3 * k - 0.1 * (k == 1) - 0.2 * (k == 3), 20.0]),
            f"modelMagErr_{band}": np.array([0.02, 0.1]),
            f"extinction_{band}": np.array([0.1, 0.1]),
        }
    columns["modelMag_r"] = np.array([17.3, -9999.0])
    columns["modelMag_z"] = np.array([16.6, 19.0])
    return columns


def ps1_columns() -> Columns:
    """Two good rows and one without r; a repetition, a secondary row, one without position."""
    return {
        "objID": np.array([11, 12, 13, 11, 14, 15]),
        "raMean": np.array([10.0, -999.0, 30.0, 10.0, 40.0, -999.0]),
        "decMean": np.array([1.0, -999.0, 3.0, 1.0, 4.0, -999.0]),
        "raStack": np.array([10.1, 20.5, -999.0, 10.1, 40.0, -999.0]),
        "decStack": np.array([1.1, 2.5, -999.0, 1.1, 4.0, -999.0]),
        "primaryDetection": np.array([1, 1, 1, 1, 0, 1]),
        "rKronMag": np.array([18.5, -999.0, -999.0, 18.6, 19.0, 19.0]),
        "rPSFMag": np.array([18.4, -999.0, 19.5, 18.6, 19.0, 19.0]),
        "rKronMagErr": np.array([0.01, -999.0, -999.0, 0.01, 0.01, 0.01]),
        "ng": np.array([5, 0, 3, 5, 1, 1]),
        "nr": np.array([6, 2, 3, 5, 1, 1]),
    }


def nsa_columns() -> Columns:
    """Two galaxies of the atlas, the second without a distance; bands are F N u g r i z."""
    fluxes = np.array([[10, 20, 100, 500, 1000, 1500, 2000], [1, 1, 1, 1, 1, 1, 1]], dtype="f4")
    return {
        "IAUNAME": np.array([b"J094651.40-010228.5", b"J094630.85-004554.5"]),
        "NSAID": np.array([7, 8], dtype="i4"),
        "RA": np.array([146.714208, 146.628572]),
        "DEC": np.array([-1.041289, -0.765139]),
        "Z": np.array([0.0212, 0.0], dtype="f4"),
        "ZDIST": np.array([0.0105, -9999.0], dtype="f4"),
        "ELPETRO_NMGY": fluxes,
        "ELPETRO_NMGY_IVAR": np.ones((2, 7), dtype="f4"),
        "ELPETRO_TH50_R": np.array([12.0, 5.0], dtype="f4"),
        "ELPETRO_BA": np.array([0.6, 0.9], dtype="f4"),
        "ELPETRO_PHI": np.array([40.0, 170.0], dtype="f4"),
        "PROGRAMNAME": np.array([b"legacy  ", b""]),
    }


def plain_columns(n: int, first: int = 0) -> Columns:
    """n sources with identifiers `first` and up, all over the sky, and one more column."""
    random = np.random.default_rng(first + 1)
    return {
        "objID": np.arange(first, first + n),
        "ra": random.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(random.uniform(-1, 1, n))),
        "colour": random.normal(size=n),
    }
