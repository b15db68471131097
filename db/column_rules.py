"""The rules by which a column map computes a value: one small function each.

Which columns they are given is decided by `db.column_maps`; `docs/catalogs.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LN10_FACTOR = 2.5 / np.log(10)  # error of a magnitude per relative error of the flux

Floats = NDArray[np.float64]
Get = Callable[[str], Any]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """How one kind of derived value is computed.

    `compute(get, options)` receives `get(role)` for the values of a named input, NaN where
    missing, and the remaining options.
    """

    compute: Callable[[Get, Options], Any]
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def _column(get: Get, options: Options) -> Floats:
    scaled: Floats = get("column") * options.get("scale", 1.0)
    return scaled


def _constant(get: Get, options: Options) -> float:
    return float(options["value"])


def _magnitude(get: Get, options: Options) -> Floats:
    return get("mag") - _extinction(get, options) + options.get("ab_offset", 0.0)


def _flux(get: Get, options: Options) -> Floats:
    """AB magnitude zero_point - 2.5 log10(flux / transmission) - extinction; NaN for flux <= 0."""
    transmission = get("transmission")
    flux = get("flux") if transmission is None else get("flux") / transmission
    flux = np.where(flux > 0, flux, np.nan)
    return options["zero_point"] - 2.5 * np.log10(flux) - _extinction(get, options)


def _flux_error(get: Get, options: Options) -> Floats:
    """Error of a magnitude, 1.0857 error / flux."""
    flux = np.where(get("flux") > 0, get("flux"), np.nan)
    return np.where(get("error") > 0, LN10_FACTOR * get("error") / flux, np.nan)


def _flux_ivar_error(get: Get, options: Options) -> Floats:
    """Error of a magnitude, 1.0857 / (flux sqrt(ivar)); an inverse variance of 0 is no error."""
    flux = np.where(get("flux") > 0, get("flux"), np.nan)
    return LN10_FACTOR * _ivar_error(get, options) / flux


def _ivar_error(get: Get, options: Options) -> Floats:
    ivar = get("ivar")
    return 1 / np.sqrt(np.where(ivar > 0, ivar, np.nan))


def _extinction(get: Get, options: Options) -> Any:
    extinction = get("extinction")
    return 0.0 if extinction is None else extinction * options.get("extinction_factor", 1.0)


def _smallest(get: Get, options: Options) -> Floats:
    return np.fmin.reduce(get("columns"))


def _largest(get: Get, options: Options) -> Floats:
    return np.fmax.reduce(get("columns"))


def _bits(get: Get, options: Options) -> Floats:
    """Bitwise or; NaN where every column is missing."""
    columns = get("columns")
    bits = [np.where(np.isfinite(c), c, 0).astype(np.int64) for c in columns]
    known = np.any(np.isfinite(columns), axis=0)
    return np.where(known, np.bitwise_or.reduce(bits), np.nan)


def _axis_ratio(get: Get, options: Options) -> Floats:
    """b/a = (1 - |e|) / (1 + |e|) of the Legacy Surveys' ellipticity components."""
    e = np.hypot(get("e1"), get("e2"))
    return (1 - e) / (1 + e)


def _position_angle(get: Get, options: Options) -> Floats:
    """Half the angle of (e1, e2), from 0 to 180 degrees east of north; NaN where round."""
    e1, e2 = get("e1"), get("e2")
    angle = np.degrees(np.arctan2(e2, e1)) / 2 % 180
    return np.where((e1 == 0) & (e2 == 0), np.nan, angle)


RULES = {
    "column": Rule(_column, ("column",), options=("scale", "values")),
    "constant": Rule(_constant, (), options=("value",)),
    "magnitude": Rule(_magnitude, ("mag",), ("extinction",), ("extinction_factor", "ab_offset")),
    "flux": Rule(
        _flux, ("flux",), ("transmission", "extinction"), ("zero_point", "extinction_factor")
    ),
    "flux_error": Rule(_flux_error, ("flux", "error")),
    "flux_ivar_error": Rule(_flux_ivar_error, ("flux", "ivar")),
    "ivar_error": Rule(_ivar_error, ("ivar",)),
    "smallest": Rule(_smallest, ("columns",)),
    "largest": Rule(_largest, ("columns",)),
    "bits": Rule(_bits, ("columns",)),
    "axis_ratio": Rule(_axis_ratio, ("e1", "e2")),
    "position_angle": Rule(_position_angle, ("e1", "e2")),
}
