"""Column maps: which columns of a survey's table become which columns of `source`, and how.

A map is data (`db/surveys/*.toml`, or a user's own file; the vocabulary is in `docs/catalogs.md`).
Bound to the columns of one file it turns chunks into rows for `source`, with a reason for every
row that cannot become one. Reading files and writing to the database are done elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Text

from db import sky
from db.catalog_readers import CatalogError, Chunk, ColumnInfo
from db.column_rules import RULES
from db.column_values import as_bytes, as_floats, column_of, element, fitted
from db.tables import Source

NOT_FROM_MAPS = ("id", "catalog_id", "survey_id", "ra", "dec", "healpix", "extra")
TARGETS = {c.name: c for c in Source.__table__.columns if c.name not in NOT_FROM_MAPS}
TO_DEGREES = {"deg": 1.0, "hour": 15.0, "rad": float(np.degrees(1))}
FILE_UNITS = {"deg": "deg", "degree": "deg", "degrees": "deg", "rad": "rad", "radian": "rad"}
FILE_UNITS |= {"radians": "rad", "h": "hour", "hr": "hour", "hour": "hour", "hourangle": "hour"}
LONGEST_IDENTIFIER = 500  # bytes
SINGLE = 1e-6  # relative: -99.9 in single precision is still the -99.9 of the map
SECTIONS = (
    *("survey", "title", "release", "notes", "detect", "missing", "require", "keep", "drop"),
    *("position", "identifier", "columns"),
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Derivation:
    """A target column bound to the columns of a file."""

    target: str
    rule: str
    inputs: dict[str, list[list[str]]]  # role -> references -> alternatives present in the file
    options: dict[str, Any]


@dataclass
class Rows:
    """What a chunk became; rows with a reason are not usable.

    Attributes
    ----------
    survey_id : ndarray of bytes, shape (n,)
    ra, dec : ndarray of float64, shape (n,), [deg]
    healpix : ndarray of int64, shape (n,)
    values : dict of str to ndarray, shape (n,)
        By column of `source`: masked where null.
    extra : dict of str to ndarray
        Columns for `source.extra`, by key.
    reasons : dict of int to str
        By row of the chunk: why it cannot become a source.
    """

    survey_id: NDArray[np.bytes_]
    ra: Floats
    dec: Floats
    healpix: NDArray[np.int64]
    values: dict[str, np.ma.MaskedArray]
    extra: dict[str, NDArray[Any]]
    reasons: dict[int, str] = field(default_factory=dict)


def shipped() -> dict[str, dict[str, Any]]:
    """Return the maps that come with Skygloss, by survey."""
    folder = resources.files("db") / "surveys"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    maps = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    return {m["survey"]: m for m in sorted(maps, key=lambda m: str(m["survey"]))}


def load(path: Path) -> dict[str, Any]:
    """Read and check a user's own map.

    Raises
    ------
    CatalogError
        It is not TOML, or says something that the vocabulary does not know.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: not a column map in TOML ({error})") from error
    data.setdefault("survey", path.stem)
    check(data)
    return data


def named(survey: str) -> dict[str, Any]:
    """Return the shipped map of a survey."""
    maps = shipped()
    if survey not in maps:
        raise CatalogError(f"No column map is called {survey!r}; there are {', '.join(maps)}.")
    return maps[survey]


def detect(columns: Sequence[ColumnInfo]) -> dict[str, Any]:
    """Return the shipped map whose telltale columns the file has, `generic` failing that."""
    present = {c.name.lower() for c in columns}
    maps = shipped()
    for survey, data in maps.items():
        if any(set(telltale) <= present for telltale in data.get("detect", [])):
            return maps[survey]
    return maps["generic"]


def check(data: Mapping[str, Any]) -> None:
    """Raise CatalogError if a map uses words outside the vocabulary, or lacks a position."""
    where = f"column map {data.get('survey', '?')!r}"
    _known(where, data, SECTIONS)
    for section, needed in (("position", ("ra", "dec")), ("identifier", ("columns",))):
        if not all(key in data.get(section, {}) for key in needed):
            raise CatalogError(f"{where}: section [{section}] must give {' and '.join(needed)}")
    _known(f"{where}, [position]", data["position"], ("ra", "dec", "unit"))
    _known(f"{where}, [identifier]", data["identifier"], ("columns", "separator"))
    unit = data["position"].get("unit", "deg")
    if unit not in TO_DEGREES:
        raise CatalogError(f"{where}: position unit {unit!r} is none of {', '.join(TO_DEGREES)}")
    for target, entry in data.get("columns", {}).items():
        _check_entry(f"{where}, columns.{target}", target, _spelled_out(entry))


def _check_entry(where: str, target: str, entry: Mapping[str, Any]) -> None:
    if target not in TARGETS:
        raise CatalogError(f"{where}: no such column of source; there are {', '.join(TARGETS)}")
    name = entry["rule"]
    if name not in RULES:
        raise CatalogError(f"{where}: rule {name!r} is none of {', '.join(RULES)}")
    rule = RULES[name]
    common = ("rule", "missing", "between")
    _known(where, entry, (*common, *rule.inputs, *rule.optional, *rule.options))
    lacking = [key for key in rule.inputs if key not in entry]
    if lacking:
        raise CatalogError(f"{where}: rule {name!r} also needs {', '.join(lacking)}")


def _known(where: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [key for key in given if key not in allowed]
    if unknown:
        raise CatalogError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(allowed)}")


def _spelled_out(entry: Any) -> dict[str, Any]:
    """A bare column name, or a list of them, is short for the rule `column`."""
    if isinstance(entry, dict):
        return {"rule": "column", **entry}
    return {"rule": "column", "column": entry}


class BoundMap:
    """A column map applied to the columns of one file.

    Attributes
    ----------
    data : dict
        The map.
    derivations : list of Derivation
        What will be filled in.
    absent : dict of str to str
        What will not be, by column of `source`, and why.
    warnings : list of str
        What is computed with less than the map asks for.
    extra : dict of str to str
        Columns of the file kept in `source.extra`, by key.
    dropped : list of str
        Columns of the file that go nowhere.

    Raises
    ------
    CatalogError
        The file lacks a position or an identifier.
    """

    def __init__(
        self, data: Mapping[str, Any], columns: Sequence[ColumnInfo], drop: Sequence[str] = ()
    ) -> None:
        self.data = data
        self._names = [c.name for c in columns]
        self._by_name = {c.name.lower(): c for c in reversed(columns)}
        self._used: set[str] = set()
        self.absent: dict[str, str] = {}
        self.warnings: list[str] = []
        self.ra = self._required("right ascension", data["position"]["ra"])
        self.dec = self._required("declination", data["position"]["dec"])
        self.units = [self._unit(self.ra[0]), self._unit(self.dec[0])]
        self.identifier = self._identifier()
        self._used.update([*self.ra, *self.dec, *self.identifier])
        self.requirements = {
            self._by_name[name.lower()].name: wanted
            for name, wanted in data.get("require", {}).items()
            if name.lower() in self._by_name
        }
        entries = ((t, _spelled_out(e)) for t, e in data.get("columns", {}).items())
        bound = [self._derivation(target, entry) for target, entry in entries]
        self.derivations = [d for d in bound if d is not None]
        self._sort_out_the_rest([*data.get("drop", []), *drop])

    def apply(self, chunk: Chunk) -> Rows:
        """Compute the rows of a chunk."""
        ra = self._numbers(chunk, self.ra, ()) * TO_DEGREES[self.units[0]]
        dec = self._numbers(chunk, self.dec, ()) * TO_DEGREES[self.units[1]]
        survey_id = self._identifiers(chunk)
        reasons = self._reasons(chunk, survey_id, ra, dec)
        usable = np.ones(chunk.n_rows, dtype=bool)
        usable[list(reasons)] = False
        ra, dec = np.where(usable, ra, 0) % 360, np.where(usable, dec, 0)
        ra[ra == 360] = 0  # what a tiny negative number is, modulo 360
        values = {d.target: self._derive(chunk, d) for d in self.derivations}
        extra = {key: chunk.columns[name] for key, name in self.extra.items()}
        return Rows(survey_id, ra, dec, sky.healpix(ra, dec), values, extra, reasons)

    def _required(self, what: str, reference: Any) -> list[str]:
        found = self._resolve(reference)
        if not found:
            raise CatalogError(
                f"No {what}: map {self.data['survey']!r} expected a column called "
                f"{' or '.join(_references(reference))} (in any case); the file has "
                f"{', '.join(self._names)}. Name it in a column map of "
                "your own (--map, see docs/catalogs.md)."
            )
        return found

    def _identifier(self) -> list[str]:
        wanted = self.data["identifier"]["columns"]
        return [self._required("identifier", reference)[0] for reference in wanted]

    def _unit(self, reference: str) -> str:
        """Unit of a position: the map's word, else the file's, else degrees."""
        told = self.data["position"].get("unit")
        info = self._by_name[column_of(reference).lower()]
        return told or FILE_UNITS.get(info.unit.lower(), "deg")

    def _resolve(self, reference: Any) -> list[str]:
        """The alternatives of a reference that the file has, spelled as in the file."""
        found = []
        for name in _references(reference):
            info = self._by_name.get(column_of(name).lower())
            if info is not None:
                found.append(info.name + name[len(column_of(name)) :])
        return found

    def _derivation(self, target: str, entry: dict[str, Any]) -> Derivation | None:
        rule = RULES[entry["rule"]]
        inputs: dict[str, list[list[str]]] = {}
        for role in (*rule.inputs, *rule.optional):
            if role not in entry:
                continue
            references = entry[role] if role == "columns" else [entry[role]]
            found = [r for r in map(self._resolve, references) if r]
            if found:
                inputs[role] = found
            elif role in rule.inputs:
                names = ", ".join(name for r in references for name in _references(r))
                self.absent[target] = f"the file has no column {names}"
                return None
            else:
                names = " or ".join(_references(entry[role]))
                self.warnings.append(f"{target}: without {role}, the file has no column {names}")
        self._used.update(name for references in inputs.values() for r in references for name in r)
        taken = (*rule.inputs, *rule.optional, "rule")
        options = {key: value for key, value in entry.items() if key not in taken}
        return Derivation(target, entry["rule"], inputs, options)

    def _sort_out_the_rest(self, drop: Sequence[str]) -> None:
        keep = self.data.get("keep", [])
        self.extra: dict[str, str] = {}
        self.dropped: list[str] = []
        for name in self._names:
            key = name.lower()
            if _matches(key, drop):
                if name not in self._used:
                    self.dropped.append(name)
            elif name not in self._used or _matches(key, keep):
                self.extra[key if key not in self.extra else name] = name

    def _numbers(self, chunk: Chunk, alternatives: Sequence[str], missing: Sequence[float]) -> Any:
        """Values of a reference, row by row of the first alternative that has one."""
        sentinels = [*self.data.get("missing", []), *missing]
        result: Floats | None = None
        for name in alternatives:
            values = as_floats(element(chunk, name))
            for sentinel in sentinels:
                values[np.abs(values - sentinel) <= SINGLE * abs(sentinel)] = np.nan
            result = values if result is None else np.where(np.isnan(result), values, result)
        return result

    def _derive(self, chunk: Chunk, derivation: Derivation) -> np.ma.MaskedArray:
        options = derivation.options
        target = TARGETS[derivation.target]
        if isinstance(target.type, Text):
            return self._text(chunk, derivation)

        def get(role: str) -> Any:
            if role not in derivation.inputs:
                return None
            missing = options.get("missing", [])
            columns = [self._numbers(chunk, names, missing) for names in derivation.inputs[role]]
            return columns if role == "columns" else columns[0]

        with np.errstate(all="ignore"):
            values = np.broadcast_to(RULES[derivation.rule].compute(get, options), chunk.n_rows)
            low, high = options.get("between", (-np.inf, np.inf))
            return fitted(np.where((values >= low) & (values <= high), values, np.nan), target)

    def _text(self, chunk: Chunk, derivation: Derivation) -> np.ma.MaskedArray:
        if "column" not in derivation.inputs:
            given = np.full(chunk.n_rows, str(derivation.options["value"]).encode())
        else:
            given = as_bytes(element(chunk, derivation.inputs["column"][0][0]))
        words = derivation.options.get("values", {})
        if words:
            distinct, which = np.unique(given, return_inverse=True)
            renamed = [words.get(v.decode("utf-8", "replace"), "").encode() for v in distinct]
            given = np.array([r or v for r, v in zip(renamed, distinct, strict=True)])[which]
        return np.ma.MaskedArray(given, given == b"")

    def _identifiers(self, chunk: Chunk) -> NDArray[np.bytes_]:
        """Identifiers as text, columns joined; empty where one is missing."""
        parts = [as_bytes(element(chunk, name)) for name in self.identifier]
        separator = self.data["identifier"].get("separator", "_").encode()
        joined = parts[0]
        lacking = joined == b""
        for part in parts[1:]:
            joined = np.strings.add(np.strings.add(joined, separator), part)
            lacking |= part == b""
        return np.where(lacking, b"", joined)

    def _reasons(
        self, chunk: Chunk, survey_id: NDArray[np.bytes_], ra: Floats, dec: Floats
    ) -> dict[int, str]:
        """Why rows cannot become sources; the first reason found stays."""
        reasons = dict(chunk.broken)

        def reject(rows: NDArray[np.bool_], say: Callable[[int], str]) -> None:
            for i in np.flatnonzero(rows).tolist():
                reasons.setdefault(i, say(i))

        for name, wanted in self.requirements.items():
            values = as_floats(chunk.columns[name])
            complaint = f"{name} is not {wanted}"
            reject(values != wanted, lambda i, complaint=complaint: complaint)  # type: ignore[misc]
        reject(survey_id == b"", lambda i: "missing identifier")
        too_long = np.strings.str_len(survey_id) > LONGEST_IDENTIFIER
        reject(too_long, lambda i: f"identifier longer than {LONGEST_IDENTIFIER} bytes")
        reject(np.isnan(ra) | np.isnan(dec), lambda i: "missing position")
        reject(np.isinf(ra) | np.isinf(dec), lambda i: "position not finite")
        reject(~((ra >= -180) & (ra <= 360)), lambda i: f"right ascension out of range: {ra[i]:g}")
        reject(~((dec >= -90) & (dec <= 90)), lambda i: f"declination out of range: {dec[i]:g}")
        repeated = np.ones(chunk.n_rows, dtype=bool)
        good = np.setdiff1d(np.arange(chunk.n_rows), list(reasons))
        repeated[good[np.unique(survey_id[good], return_index=True)[1]]] = False
        reject(repeated, lambda i: "identifier repeated in this file")
        return reasons


def _references(reference: Any) -> list[str]:
    return [reference] if isinstance(reference, str) else list(reference)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)
