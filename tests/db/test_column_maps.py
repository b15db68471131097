"""Column maps: the shipped ones on small tables of each survey, and the vocabulary itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db import column_maps
from db.catalog_readers import CatalogError, Chunk, ColumnInfo
from db.column_maps import BoundMap, Rows
from db.column_rules import RULES
from tests.db.survey_tables import (
    legacy_columns,
    nsa_columns,
    plain_columns,
    ps1_columns,
    sdss_columns,
)


def bind(columns: dict[str, Any], column_map: dict[str, Any] | None = None) -> BoundMap:
    infos = [ColumnInfo(name, str(values.dtype)) for name, values in columns.items()]
    return BoundMap(column_map or column_maps.detect(infos), infos)


def rows_of(columns: dict[str, Any], column_map: dict[str, Any] | None = None) -> Rows:
    n = len(next(iter(columns.values())))
    return bind(columns, column_map).apply(Chunk(0, n, columns))


def own_map(**sections: Any) -> dict[str, Any]:
    base = {
        "survey": "mine",
        "position": {"ra": "ra", "dec": "dec"},
        "identifier": {"columns": ["id"]},
    }
    return base | sections


@pytest.mark.parametrize("survey", ["generic", "legacy", "nsa", "ps1", "sdss"])
def test_every_shipped_map_keeps_to_the_vocabulary(survey: str) -> None:
    data = column_maps.named(survey)

    column_maps.check(data)

    assert data["title"]


@pytest.mark.parametrize(
    ("columns", "survey"),
    [
        (legacy_columns(), "legacy"),
        (sdss_columns(), "sdss"),
        (ps1_columns(), "ps1"),
        (nsa_columns(), "nsa"),
        (plain_columns(3), "generic"),
    ],
)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str])
def test_the_survey_is_recognised_by_its_columns_in_any_case(
    columns: dict[str, Any], survey: str, spell: Any
) -> None:
    infos = [ColumnInfo(spell(name), "") for name in columns]

    assert column_maps.detect(infos)["survey"] == survey


@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_legacy_fluxes_become_dereddened_magnitudes(spell: Any) -> None:
    columns = {spell(name): values for name, values in legacy_columns().items()}

    rows = rows_of(columns)

    assert rows.survey_id.tolist() == [b"9010_323_1", b"9010_323_2", b"9010_323_3"]
    assert rows.values["mag_r"][0] == pytest.approx(22.5 - 2.5 * np.log10(100 / 0.8), abs=1e-5)
    assert rows.values["mag_r_err"][0] == pytest.approx(1.0857 / (100 * np.sqrt(4)), rel=1e-4)
    assert rows.values["type"].tolist() == [b"EXP", b"REX", b"PSF"]
    assert rows.values["nobs_min"].tolist() == [2, 0, 3]
    assert rows.values["mask"].tolist() == [0b110, 0, 0]
    assert rows.values["fracflux_max"][0] == pytest.approx(0.3)
    assert rows.values["rchisq_min"][0] == pytest.approx(0.9)
    assert rows.values["rchisq_max"][0] == pytest.approx(1.2)
    assert rows.values["shape_r_err"][0] == pytest.approx(0.5)


def test_a_legacy_ellipse_gets_axis_ratio_and_position_angle() -> None:
    rows = rows_of(legacy_columns())

    assert rows.values["axis_ratio"][0] == pytest.approx((1 - 0.5) / (1 + 0.5))
    assert rows.values["position_angle"][0] == pytest.approx(
        np.degrees(np.arctan2(-0.4, 0.3)) / 2 + 180
    )
    assert rows.values["axis_ratio"][2] == 1
    assert rows.values["position_angle"].tolist()[2] is None


def test_a_flux_or_error_that_says_nothing_has_no_magnitude() -> None:
    rows = rows_of(legacy_columns())

    assert rows.values["mag_r"].mask.tolist() == [False, True, False]
    assert rows.values["mag_r_err"].mask.tolist() == [False, True, True]


def test_legacy_files_without_i_band_leave_it_empty() -> None:
    columns = {n: v for n, v in legacy_columns().items() if not n.endswith("_i")}

    bound = bind(columns)

    assert "mag_i" in bound.absent
    assert {d.target for d in bound.derivations} >= {"mag_g", "mag_r", "mag_z"}


def test_missing_transmission_is_said_and_the_magnitude_left_reddened() -> None:
    columns = {n: v for n, v in legacy_columns().items() if n != "mw_transmission_r"}

    bound = bind(columns)
    rows = bound.apply(Chunk(0, 3, columns))

    assert bound.warnings == [
        "mag_r: without transmission, the file has no column mw_transmission_r"
    ]
    assert rows.values["mag_r"][0] == pytest.approx(17.5)


def test_tractor_rows_of_a_neighbouring_brick_are_rejected() -> None:
    columns = legacy_columns() | {"brick_primary": np.array([True, False, True])}

    assert rows_of(columns).reasons == {1: "brick_primary is not 1"}


@pytest.mark.parametrize("words", [("True", "False"), ("t", "f"), ("1", "0")])
def test_truth_may_be_written_in_words(words: tuple[str, str]) -> None:
    primary = np.array([words[0], words[1], words[0]], dtype=object)

    assert list(rows_of(legacy_columns() | {"brick_primary": primary}).reasons) == [1]


def test_a_missing_value_in_single_precision_is_recognised() -> None:
    columns = {"id": np.array([1]), "ra": np.ones(1), "dec": np.ones(1)}
    columns["m"] = np.array([-99.9], dtype="f4")

    rows = rows_of(columns, own_map(missing=[-99.9], columns={"mag_r": "m"}))

    assert rows.values["mag_r"].tolist() == [None]


def test_raw_fluxes_and_unmapped_columns_stay_in_extra_in_lower_case() -> None:
    columns = {name.upper(): values for name, values in legacy_columns().items()}

    extra = bind(columns).extra

    assert extra["flux_w1"] == "FLUX_W1"
    assert extra["flux_r"] == "FLUX_R"
    assert not {"ra", "dec", "type", "shape_r", "nobs_g"} & set(extra)


def test_sdss_magnitudes_are_dereddened_and_sentinels_are_null() -> None:
    rows = rows_of(sdss_columns())

    assert rows.survey_id[0] == b"1237648720693755918"
    assert rows.values["mag_r"].tolist() == [pytest.approx(17.2), None]
    assert rows.values["mag_z"][0] == pytest.approx(16.6 - 0.1 + 0.02)
    assert rows.values["type"].tolist() == [b"GALAXY", b"STAR"]
    assert rows.values["shape_r"].tolist() == [pytest.approx(3.5), None]
    assert "clean" in rows.extra


def test_ps1_prefers_the_mean_position_and_falls_back_on_the_stack() -> None:
    rows = rows_of(ps1_columns())

    assert rows.ra[:3].tolist() == [10.0, 20.5, 30.0]
    assert rows.dec[:3].tolist() == [1.0, 2.5, 3.0]
    assert rows.values["mag_r"].tolist()[:3] == [pytest.approx(18.5), None, pytest.approx(19.5)]


def test_ps1_repetitions_and_secondary_detections_are_rejected() -> None:
    rows = rows_of(ps1_columns())

    assert rows.reasons == {
        3: "identifier repeated in this file",
        4: "primaryDetection is not 1",
        5: "missing position",
    }


def test_ps1_magnitudes_are_corrected_where_the_table_has_ebv() -> None:
    columns = ps1_columns() | {"EBV": np.full(6, 0.1)}

    assert rows_of(columns).values["mag_r"][0] == pytest.approx(18.5 - 0.2271, abs=1e-4)


def test_nsa_takes_the_distance_redshift_and_band_elements() -> None:
    rows = rows_of(nsa_columns())

    assert rows.survey_id.tolist() == [b"7", b"8"]
    assert rows.values["redshift"].tolist() == [pytest.approx(0.0105), None]
    assert rows.values["mag_r"][0] == pytest.approx(22.5 - 2.5 * np.log10(1000))
    assert rows.values["mag_g"][0] == pytest.approx(22.5 - 2.5 * np.log10(500))
    assert rows.values["shape_r"][0] == pytest.approx(12.0)
    assert {"z", "elpetro_nmgy"} <= set(rows.extra)


def test_the_older_nsa_release_is_read_too() -> None:
    columns = nsa_columns()
    older = {
        {"ELPETRO_NMGY": "NMGY", "ELPETRO_NMGY_IVAR": "NMGY_IVAR"}.get(n, n): v
        for n, v in columns.items()
    }

    assert rows_of(older).values["mag_r"][0] == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("names", "position"),
    [
        (("objID", "ra", "dec"), (10, 20)),
        (("ID", "RAJ2000", "DEJ2000"), (10, 20)),
        (("source_id", "RIGHT_ASCENSION", "Declination"), (10, 20)),
    ],
)
def test_generic_finds_usual_names(names: tuple[str, str, str], position: Any) -> None:
    values = (np.array([5]), np.array([10.0]), np.array([20.0]))

    rows = rows_of(dict(zip(names, values, strict=True)))

    assert (rows.ra[0], rows.dec[0]) == position
    assert rows.survey_id.tolist() == [b"5"]


def test_a_file_without_position_names_what_was_expected_and_found() -> None:
    with pytest.raises(CatalogError, match=r"No right ascension.*ra or raj2000.*id, flux"):
        bind({"id": np.array([1]), "flux": np.array([1.0])})


@pytest.mark.parametrize(
    ("unit", "value", "degrees"), [("deg", 90, 90), ("hour", 6, 90), ("rad", np.pi / 2, 90)]
)
def test_positions_in_other_units(unit: str, value: float, degrees: float) -> None:
    position = {"ra": "ra", "dec": "dec", "unit": unit}
    columns = {"id": np.array([1]), "ra": np.array([value]), "dec": np.array([0.0])}

    assert rows_of(columns, own_map(position=position)).ra[0] == pytest.approx(degrees)


def test_the_unit_of_the_file_counts_where_the_map_is_silent() -> None:
    infos = [ColumnInfo("id", "K"), ColumnInfo("ra", "D", "rad"), ColumnInfo("dec", "D", "rad")]
    columns = {"id": np.array([1]), "ra": np.array([np.pi]), "dec": np.array([-np.pi / 4])}

    rows = BoundMap(own_map(), infos).apply(Chunk(0, 1, columns))

    assert (rows.ra[0], rows.dec[0]) == (pytest.approx(180), pytest.approx(-45))


@pytest.mark.parametrize(
    ("ra", "dec", "reason"),
    [
        (np.nan, 0, "missing position"),
        (0, np.nan, "missing position"),
        (np.inf, 0, "position not finite"),
        (361, 0, "right ascension out of range: 361"),
        (-181, 0, "right ascension out of range: -181"),
        (0, 90.5, "declination out of range: 90.5"),
        (-999, 0, "missing position"),
    ],
)
def test_a_row_without_a_usable_position_is_rejected(ra: float, dec: float, reason: str) -> None:
    columns = {"id": np.array([1, 2]), "ra": np.array([ra, 5]), "dec": np.array([dec, 5.0])}

    rows = rows_of(columns, own_map(missing=[-999]))

    assert rows.reasons == {0: reason}
    assert rows.ra[1] == 5


@pytest.mark.parametrize(("given", "kept"), [(-10, 350), (360, 0), (-1e-20, 0), (-180, 180)])
def test_right_ascension_is_brought_into_one_turn(given: float, kept: float) -> None:
    columns = {"id": np.array([1]), "ra": np.array([given]), "dec": np.array([0.0])}

    assert rows_of(columns, own_map()).ra[0] == kept


@pytest.mark.parametrize(
    ("values", "identifiers"),
    [
        (np.array([2**63 - 1, 1]), [b"9223372036854775807", b"1"]),
        (np.array([5.0, 7.0]), [b"5", b"7"]),
        (np.array([b"a ", b" b"]), [b"a", b"b"]),
        (np.array(["é", "x y"], dtype=object), ["é".encode(), b"x y"]),
        (np.array([b"\xe9", b"z"]), ["é".encode(), b"z"]),
    ],
)
def test_identifiers_become_text_without_losing_digits(values: Any, identifiers: Any) -> None:
    columns = {"id": values, "ra": np.array([1.0, 2.0]), "dec": np.array([1.0, 2.0])}

    assert rows_of(columns, own_map()).survey_id.tolist() == identifiers


def test_a_missing_or_endless_identifier_is_rejected() -> None:
    ids = np.ma.MaskedArray(np.array([b"", b"x", b"y" * 501]), [False, True, False])
    columns = {"id": ids, "ra": np.ones(3), "dec": np.ones(3)}

    reasons = rows_of(columns, own_map()).reasons

    assert reasons == {
        0: "missing identifier",
        1: "missing identifier",
        2: "identifier longer than 500 bytes",
    }


@pytest.mark.parametrize(
    ("column", "good", "impossible"),
    [
        ("shape_r", 2.5, -99),
        ("shape_r_err", 0.5, -1),
        ("axis_ratio", 0.5, 5),
        ("position_angle", -30, 9999),
        ("redshift", -0.001, -99),
    ],
)
def test_the_generic_map_leaves_impossible_values_out(
    column: str, good: float, impossible: float
) -> None:
    columns = {"id": np.array([1, 2]), "ra": np.ones(2), "dec": np.ones(2)}
    columns[column] = np.array([good, impossible])

    values = rows_of(columns).values[column]

    assert values.tolist() == [pytest.approx(good), None]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a", [4.0, None]),
        (["a", "b"], [4.0, 9.0]),
        ({"column": "a", "scale": 60}, [240.0, None]),
        ({"column": "b", "between": [0, 5]}, [None, None]),
        ({"column": "b", "missing": [16]}, [None, 9.0]),
        ({"rule": "constant", "value": 21}, [21.0, 21.0]),
        ({"rule": "magnitude", "mag": "b", "extinction": "e"}, [15.5, 8.5]),
        ({"rule": "magnitude", "mag": "b", "ab_offset": 0.5}, [16.5, 9.5]),
        ({"rule": "flux", "flux": "a", "zero_point": 0, "extinction": "e"}, [-2.00515, None]),
        ({"rule": "flux_error", "flux": "b", "error": "e"}, [0.033929, 0.060318]),
        ({"rule": "ivar_error", "ivar": "b"}, [0.25, 1 / 3]),
        ({"rule": "smallest", "columns": ["a", "b"]}, [4.0, 9.0]),
        ({"rule": "largest", "columns": ["a", "b"]}, [16.0, 9.0]),
        ({"column": "v[1]"}, [11.0, 13.0]),
    ],
)
def test_the_vocabulary(entry: Any, expected: list[float | None]) -> None:
    columns = {
        "id": np.array([1, 2]),
        "ra": np.ones(2),
        "dec": np.ones(2),
        "a": np.array([4.0, np.nan]),
        "b": np.array([16.0, 9.0]),
        "e": np.array([0.5, 0.5]),
        "v": np.array([[10.0, 11.0], [12.0, 13.0]]),
    }

    values = rows_of(columns, own_map(columns={"mag_r": entry})).values["mag_r"]

    assert values.tolist() == [None if x is None else pytest.approx(x, rel=1e-4) for x in expected]


def test_a_column_of_several_values_needs_an_element() -> None:
    columns = {"id": np.array([1]), "ra": np.ones(1), "dec": np.ones(1), "v": np.ones((1, 2))}

    with pytest.raises(CatalogError, match=r"v has several values per row; name one: v\[0\]"):
        rows_of(columns, own_map(columns={"mag_r": "v"}))
    with pytest.raises(CatalogError, match=r"the map wants element 2"):
        rows_of(columns, own_map(columns={"mag_r": "v[2]"}))


def test_numbers_too_large_for_their_column_become_null() -> None:
    columns = {"id": np.array([1]), "ra": np.ones(1), "dec": np.ones(1), "n": np.array([1e300])}
    wanted = {"mag_r": "n", "nobs_min": "n", "mask": "n"}

    values = rows_of(columns, own_map(columns=wanted)).values

    assert [values[name].mask.all() for name in wanted] == [True, True, True]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("this is not toml", "not a column map in TOML"),
        ('[position]\nra = "ra"', "must give ra and dec"),
        ('[position]\nra="a"\ndec="b"\nunit="grad"', "columns"),
        (
            '[position]\nra="a"\ndec="b"\nunit="grad"\n[identifier]\ncolumns=["i"]',
            "'grad' is none of deg, hour, rad",
        ),
        ("surprise = 1", "unknown surprise"),
        (
            '[position]\nra="a"\ndec="b"\n[identifier]\ncolumns=["i"]\n[columns]\nmagr="r"',
            "no such column of source",
        ),
        (
            '[position]\nra="a"\ndec="b"\n[identifier]\ncolumns=["i"]\n'
            '[columns]\nmag_r={rule="guess"}',
            "'guess' is none of column, constant",
        ),
        (
            '[position]\nra="a"\ndec="b"\n[identifier]\ncolumns=["i"]\n'
            '[columns]\nmag_r={rule="flux_error", flux="f"}',
            "also needs error",
        ),
    ],
)
def test_a_wrong_map_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(CatalogError, match=complaint):
        column_maps.load(path)


def test_the_map_in_the_documentation_is_a_map(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/catalogs.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0], encoding="utf-8")

    assert column_maps.load(path)["survey"] == "mine"
    for rule in RULES:
        assert f"`{rule}`" in page
