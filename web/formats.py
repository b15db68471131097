"""How values read on a page: numbers, angles, times, flags and units. Filters for the templates."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from flask import Flask

from db.cutouts import CutoutFlag

DASH = "–"
UNIT = re.compile(r"^(?P<meaning>[^\[]*?)\s*\[(?P<unit>[^\]]+)\](?P<more>[;,:][^\[]*)?$")
BIT = re.compile(r"\b(\d+) ([^,;:]+)")
DECIMALS = {"ra": 6, "dec": 6, "redshift": 5, "p_shred": 3, "position_angle": 1}
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
FLAG_WORDS = {
    CutoutFlag.NO_IMAGE: "no image",
    CutoutFlag.UNREADABLE: "unreadable image",
    CutoutFlag.PARTLY_OUTSIDE: "partly outside the image",
}


def register(app: Flask) -> None:
    """Give the templates these functions as filters."""
    for function in (
        count,
        value,
        probability,
        meaning,
        unit,
        sexagesimal,
        moment,
        ago,
        duration,
        flag_words,
        legacy_viewer,
        simbad,
    ):
        app.add_template_filter(function)


def count(n: int) -> str:
    """Write a number of things with thin spaces between thousands: 1 234 567."""
    return f"{n:,}".replace(",", "\u202f")


def value(number: Any, column: str = "") -> str:
    """Write the value of a catalog column with the digits it deserves."""
    if number is None:
        return DASH
    if isinstance(number, bool):
        return "yes" if number else "no"
    if isinstance(number, float):
        if not math.isfinite(number):
            return DASH
        return f"{number:.{DECIMALS.get(column, 3)}f}".replace("-", "−")
    return str(number)


def probability(p: float | None) -> str:
    """Write a probability with three decimals, never as a certainty.

    A network's 0 and 1 are where single precision ends, so they read like their neighbours.
    """
    if p is None:
        return DASH
    if p < 0.0005:
        return "<0.001"
    if p >= 0.9995:
        return ">0.999"
    return f"{p:.3f}"


def meaning(comment: str) -> str:
    """Return a column's comment without its unit."""
    match = UNIT.match(comment)
    return match["meaning"] + (match["more"] or "") if match else comment


def unit(comment: str) -> str:
    """Return the unit in brackets that a column's comment names, if there is one."""
    match = UNIT.match(comment)
    return match["unit"].replace("deg", "°").replace("arcsec", "″") if match else ""


def sexagesimal(ra: float, dec: float) -> str:
    """Write a position [deg] as hours and degrees: 13ʰ35ᵐ45.72ˢ −03°32′59.1″."""
    centiseconds = round(ra / 15 * 360_000) % (24 * 360_000)
    minutes, cs = divmod(centiseconds, 6_000)
    hours, minutes = divmod(minutes, 60)
    tenths = round(abs(dec) * 36_000)
    arcminutes, ds = divmod(tenths, 600)
    degrees, arcminutes = divmod(arcminutes, 60)
    sign = "−" if dec < 0 else "+"
    return (
        f"{hours:02}ʰ{minutes:02}ᵐ{cs / 100:05.2f}ˢ "
        f"{sign}{degrees:02}°{arcminutes:02}′{ds / 10:04.1f}″"
    )


def moment(when: datetime | None) -> str:
    """Write a time to the minute, in UTC."""
    return when.astimezone(UTC).strftime("%-d %b %Y, %H:%M UTC") if when else DASH


def ago(when: datetime | None) -> str:
    """Write how long ago something was."""
    if when is None:
        return DASH
    return f"{duration((datetime.now(UTC) - when).total_seconds())} ago"


def duration(seconds: float | None) -> str:
    """Write a length of time in its two largest units: 2 h 5 min."""
    if seconds is None:
        return DASH
    left = max(0, round(seconds))
    for (name, size), (smaller, part) in pairwise(UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            fraction = f" {rest // part}\u202f{smaller}" if rest >= part else ""
            return f"{whole}\u202f{name}{fraction}"
    return f"{left}\u202fs"


def flag_words(flags: int | None, comment: str = "") -> str:
    """Name the bits of a flag, in the words that the column's comment has for them."""
    if not flags:
        return ""
    known = {int(flag): words for flag, words in FLAG_WORDS.items()}
    known |= {int(bit): words for bit, words in BIT.findall(comment)}
    bits = [1 << k for k in range(flags.bit_length()) if flags >> k & 1]
    return ", ".join(known.get(bit, f"flag {bit}") for bit in bits)


def legacy_viewer(ra: float, dec: float) -> str:
    """Return the address of the Legacy Surveys viewer at a position [deg]."""
    position = {"ra": f"{ra:.6f}", "dec": f"{dec:.6f}", "layer": "ls-dr10", "zoom": "16"}
    mark = f"&mark={ra:.6f},{dec:.6f}"
    return f"https://www.legacysurvey.org/viewer?{urlencode(position)}{mark}"


def simbad(ra: float, dec: float) -> str:
    """Return the address of SIMBAD's list of objects around a position [deg]."""
    around = {"Coord": f"{ra:.6f} {dec:+.6f}", "Radius": "30", "Radius.unit": "arcsec"}
    return f"https://simbad.cds.unistra.fr/simbad/sim-coo?{urlencode(around)}"
