"""Sources as a VOTable with types, units, UCDs and descriptions; which sources is for others."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from web.formats import UNIT, meaning

if TYPE_CHECKING:  # astropy takes a second to import
    from astropy.table import MaskedColumn

DTYPES = {
    "boolean": "?",
    "smallint": "i2",
    "integer": "i4",
    "bigint": "i8",
    "real": "f4",
    "double precision": "f8",
}
UCDS = {
    "source_id": "meta.record",
    "survey_id": "meta.id;meta.main",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "healpix": "pos.healpix",
    "type": "src.morph.type",
    "shape_r": "phys.angSize",
    "shape_r_err": "stat.error;phys.angSize",
    "position_angle": "pos.posAng",
    "redshift": "src.redshift",
    "p_shred": "stat.probability;meta.code.class",
    "distance": "stat.value",
    "rank": "meta.number",
    "shred_flags": "meta.code.qual",
    "shred_version": "meta.version",
    "p_blend": "stat.probability;meta.code.class",
    "sep_is_blend": "meta.code.class",
    "blend_detections": "meta.number",
    "blend_flags": "meta.code.qual",
    "blend_version": "meta.version",
    "separation": "pos.angDistance",
    "pair_flux_flags": "meta.code.qual",
    "pair_flux_version": "meta.version",
}


def write(
    rows: Sequence[Mapping[Any, Any]], types: Mapping[str, str], comments: Mapping[str, str]
) -> bytes:
    """Write rows, by column name, with the PostgreSQL type and the comment of each column."""
    from astropy.io.votable import from_table
    from astropy.table import Table

    columns = [_column(name, types[name], comments[name], rows) for name in types]
    table = Table(columns, masked=True, copy=False)
    buffer = io.BytesIO()
    from_table(table, table_id="sources").to_xml(buffer, tabledata_format="binary2")
    return buffer.getvalue()


def _column(name: str, kind: str, comment: str, rows: Sequence[Mapping[Any, Any]]) -> MaskedColumn:
    from astropy.table import MaskedColumn

    values = [_cell(row[name]) for row in rows]
    missing = np.array([value is None for value in values], bool)
    array = np.array(values, object)
    array[missing] = 0 if kind in DTYPES else ""
    unit = UNIT.match(comment)
    column = MaskedColumn(
        array.astype(DTYPES.get(kind, object)),
        name,
        mask=missing,
        unit=unit["unit"].split()[0] if unit else None,  # "mag AB" is mag
        description=meaning(comment),
        meta={"ucd": _ucd(name)},
    )
    if kind not in DTYPES:
        column.meta["_votable_string_dtype"] = "unicodeChar"  # astropy guesses by a first row else
    return column


def _ucd(name: str) -> str | None:
    if name.startswith("mag_"):
        return "stat.error;phot.mag;em.opt" if name.endswith("_err") else "phot.mag;em.opt"
    if name.startswith(("flux_", "sep_flux_")):
        return (
            "stat.error;phot.flux.density;em.opt"
            if name.endswith("_err")
            else "phot.flux.density;em.opt"
        )
    return UCDS.get(name)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value
