"""Filters as users write them: what they mean, and everything that is refused."""

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from db.predicates import MAX_DEPTH, PredicateError, annotated_source, parse
from tests.builders import make_catalog, make_model_version, make_run, make_shred, make_source

SOURCES = {
    "a": {"mag_g": 18.5, "mag_r": 17.5, "type": "PSF", "shape_r": 0.0, "mask": 0},
    "b": {"mag_g": 20.0, "mag_r": 19.5, "type": "EXP", "shape_r": 2.5, "mask": 3},
    "c": {"mag_g": 21.0, "mag_r": None, "type": "it's", "shape_r": 4.0, "mask": 4},
    "d": {"mag_g": None, "mag_r": 22.0, "type": None, "shape_r": None, "mask": None},
}
EXTRA = {
    "a": {"flux": "1.5", "name.x": "dotted"},
    "b": {"flux": 12, "note": None},
    "c": {"flux": "bright", "$.y": "dollar"},
    "d": None,
}
P_SHRED = {"a": 0.35, "b": 0.9}


@pytest.fixture
def filled(session: Session) -> Session:
    run = make_run(session, make_model_version(session, state="current"))
    catalog = make_catalog(session, name="deep")
    for k, (name, values) in enumerate(SOURCES.items()):
        source = make_source(
            session, catalog, survey_id=name, dec=-2.0 + k, extra=EXTRA[name], **values
        )
        if name in P_SHRED:
            make_shred(session, source, run, p_shred=P_SHRED[name])
    return session


def passing(session: Session, text: str) -> str:
    """Identifiers of the sources that pass a filter."""
    columns = annotated_source.c
    found = sa.select(columns.survey_id).where(parse(text)).order_by(columns.survey_id)
    return "".join(session.scalars(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mag_r < 18", "a"),
        ("mag_r < 18 OR mag_r > 20", "ad"),
        ("mag_r > 18 AND NOT mag_r > 20", "b"),
        ("(mag_r < 18 OR mag_r > 20) AND type = 'PSF'", "a"),
        ("mag_r < 18 OR mag_r > 20 AND type = 'PSF'", "a"),
        ("MAG_R < 18", "a"),
        ('"mag_r" < 18', "a"),
        ("annotated_source.mag_r < 18", "a"),
        ("mag_r\n<\t18", "a"),
        ("mag_r BETWEEN 17.5 AND 19.5", "ab"),
        ("mag_r NOT BETWEEN 17.5 AND 19.5", "d"),
        ("mag_r IS NULL", "c"),
        ("mag_r IS NOT NULL", "abd"),
        ("mag_r <> 17.5", "bd"),
        ("mag_r != 17.5", "bd"),
        ("type = 'it''s'", "c"),
        ("type IN ('PSF', 'EXP')", "ab"),
        ("type NOT IN ('PSF', 'EXP')", "c"),
        ("mask IN (3, 4)", "bc"),
        ("mag_r IN (17.5, -1)", "a"),
        ("type LIKE 'P%'", "a"),
        ("type ILIKE 'p_f'", "a"),
        ("type NOT ILIKE 'p%'", "bc"),
        ("lower(type) = 'psf' or upper(type) = 'IT''S'", "ac"),
        ("catalog = 'deep' and dec > 0", "d"),
        ("has_cutout", ""),
        ("not has_cutout", "abcd"),
        ("has_cutout = false and has_cutout IS NOT TRUE", "abcd"),
        ("true", "abcd"),
        ("mag_g - mag_r > 0.9", "a"),
        ("mag_g + 1 > 21.5", "c"),
        ("mag_g * 2 = 40", "b"),
        ("-mag_r > -18", "a"),
        ("mag_r ^ 2 < 320", "a"),
        ("mask % 2 = 1", "b"),
        ("mask & 4 = 4", "c"),
        ("mask / 2 = 1.5", "b"),
        ("abs(mag_r - 19) < 1", "b"),
        ("sqrt(shape_r) >= 2", "c"),
        ("power(shape_r, 2) = 16", "c"),
        ("log(shape_r * 40) = 2", "b"),
        ("ln(shape_r) > 1", "c"),
        ("least(mag_g, mag_r) < 18", "a"),
        ("greatest(mag_g, mag_r) > 20.5", "cd"),
        ("coalesce(mag_r, mag_g) > 20", "cd"),
        ("coalesce(type, 'none') = 'none'", "d"),
        ("extra ->> 'name.x' = 'dotted'", "a"),
        ("extra ->> '$.y' = 'dollar'", "c"),
        ("(extra ->> 'flux')::float > 1", "ab"),
        ("CAST(extra ->> 'flux' AS double precision) BETWEEN 10 AND 20", "b"),
        ("mag_r::int = 18", "a"),
        ("CAST(mag_r AS bigint) = 20", "b"),
        ("mag_g::int = 18", "a"),
        ("(extra ->> 'flux')::int = 2", "a"),
        ("mask::int & 4 = 4", "c"),
        ("5 / 2 = 2.5 AND mag_r < 18", "a"),
        (r"type LIKE '%\\\\'", ""),
        ("p_shred > 0.5", "b"),
        ("p_shred IS NULL", "cd"),
        ("source_id > 9223372036854775807", ""),
        ("healpix < 1e30", "abcd"),
    ],
)
def test_a_filter_passes_what_it_says(filled: Session, text: str, expected: str) -> None:
    assert passing(filled, text) == expected


def test_numbers_have_the_precision_of_the_column_they_stand_beside(filled: Session) -> None:
    assert passing(filled, "p_shred >= 0.35") == "ab"
    assert passing(filled, "p_shred <= 0.35") == "a"
    assert passing(filled, "p_shred = 0.35") == "a"
    assert passing(filled, "0.9 <= p_shred") == "b"
    assert passing(filled, "p_shred IN (0.9)") == "b"
    assert passing(filled, "p_shred BETWEEN 0.35 AND 0.9") == "ab"


@pytest.mark.parametrize(
    "text",
    [
        "1 / shape_r > 0 OR mag_g > 0",
        "mask % mask = 0 OR mag_g > 0",
        "sqrt(mag_r - 18) > 0 OR mag_g > 0",
        "ln(shape_r) > 0 OR mag_g > 0",
        "log(-mag_r) > 0 OR mag_g > 0",
        "shape_r ^ -1 > 0 OR mag_g > 0",
        "(-shape_r) ^ 0.5 > 0 OR mag_g > 0",
        "mag_r ^ 1000 > 0 OR mag_g > 0",
        "(extra ->> 'flux')::float > 0 OR mag_g > 0",
        "source_id * 9223372036854775807 > 0 OR mag_g > 0",
    ],
)
def test_no_row_makes_a_filter_fail(filled: Session, text: str) -> None:
    assert passing(filled, text).startswith("abc")


def test_values_are_bound_and_never_part_of_the_statement() -> None:
    text = "type = 'x''); DROP TABLE source; --' AND mag_r < 123.25"

    compiled = sa.select(1).where(parse(text)).compile(dialect=postgresql.dialect())

    assert "DROP" not in str(compiled)
    assert "123.25" not in str(compiled)
    assert {"x'); DROP TABLE source; --", 123.25} <= set(compiled.params.values())


@pytest.mark.parametrize(
    "text",
    [
        "1=1; DROP TABLE source",
        "mag_r < 18;",
        "mag_r < (SELECT 18)",
        "mag_r IN (SELECT 18)",
        "EXISTS (SELECT 1)",
        "mag_r < 18 UNION SELECT 1",
        "mag_r < 18 LIMIT 1",
        "pg_sleep(10) IS NULL",
        "pg_read_file('/etc/passwd') = ''",
        "set_config('role', 'postgres', true) = ''",
        "query_to_xml('select 1', true, true, '') IS NULL",
        "now() > 1",
        "count(*) > 1",
        "random() < 0.5",
        "log(2, mag_r) > 1",
        "abs() > 1",
        "coalesce() > 1",
        "CASE WHEN true THEN true END",
        "'source'::regclass = 1",
        "mag_r::text = '1'",
        "CAST('1' AS regclass) = 1",
        "CAST(mag_r AS numeric(3, 1)) > 1",
        "CAST(mag_r AS int[]) > 1",
        "mag_r < 18 -- and more",
        "mag_r < 18 /* and more */",
        "source.mag_r < 18",
        "pg_catalog.pg_class.relpages > 1",
        "public.annotated_source.mag_r < 18",
        "oid > 1",
        "ctid IS NULL",
        "current_user = 'a'",
        "type = ‘PSF’",
        "type = “PSF”",
        'type = "PSF"',
        "type = E'\\x41'",
        "type = U&'\\0041'",
        "type = $$PSF$$",
        "type = $1",
        "type = :name",
        "type = %(name)s",
        "type = ?",
        "type = N'PSF'",
        "type = X'41'",
        "type ~ 'P'",
        "type SIMILAR TO 'P'",
        "type LIKE 'P' ESCAPE 'x'",
        "type || 'x' = 'x'",
        "type COLLATE \"C\" = 'x'",
        "type IS DISTINCT FROM 'x'",
        "mag_r = ANY (ARRAY[1])",
        "(mag_r, mag_g) = (1, 2)",
        "ROW(1) = ROW(1)",
        "ARRAY[1] = ARRAY[1]",
        "mag_r BETWEEN SYMMETRIC 1 AND 2",
        "INTERVAL '1 day' > '1'",
        "extra -> 'flux' = '1'",
        "extra #>> '{flux}' = '1'",
        "extra @> '{}'",
        "extra ->> 0 = '1'",
        "type ->> 'x' = '1'",
        "extra = '{}'",
        "mag_r AS m",
        "mag_r m",
        "*",
        "mag_r < 0x1F",
        "mag_r < 1e400",
        "mag_r < 1e31",
        "1_000 > mag_r",
        "mag_r in ()",
        "mag_r in (mag_g)",
        "mag_r = NULL",
        "14 < mag_r < 18",
        "mag_r = '18'",
        "type = 18",
        "has_cutout > true",
        "mag_r AND true",
        "mag_r",
        "'text'",
        "lower(mag_r) = 'x'",
        "mag_r + type > 1",
        "mag_r & 1 = 1",
        "type IS TRUE",
        "mag_r <",
        "mag_r = = 1",
        "NOT",
        "()",
        "(mag_r < 18",
        "mag_r < 18)",
        "'open",
        '"open',
        "",
        "   ",
        "mag_r < 18\0",
        "mag_r < 18\u200b",
        "mag_r <\u00a018",
        "type = '\ud800'",
        "type = '\0'",
    ],
)
def test_whatever_is_not_a_plain_condition_is_refused(text: str) -> None:
    with pytest.raises(PredicateError, match="The filter cannot be used"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000 + "true" + ")" * 10_000,
        " or ".join(["mag_r < 1"] * 10_000),
        "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1),
        "not " * 1_000 + "true",
        "- " * 1_000 + "1 < 2",
        "1" + " + 1" * 250 + " > 0",
        "mag_r" + "::float" * 200 + " > 0",
        "abs(" * 500 + "1" + ")" * 500 + " > 0",
        "case " * 500,
        "mag_r in " * 300,
    ],
    ids=lambda text: text[:12],
)
def test_what_is_too_long_or_too_deep_is_refused_quickly(text: str) -> None:
    with pytest.raises(PredicateError):
        parse(text)


def test_the_deepest_and_the_longest_filter_work(session: Session) -> None:
    deep = "(" * MAX_DEPTH + "mag_r < 1" + ")" * MAX_DEPTH
    long = " or ".join(f"mag_r < {k}" for k in range(140))

    assert passing(session, deep) == passing(session, long) == ""


@pytest.mark.parametrize(
    ("text", "position", "advice"),
    [
        ("mag_r < 18 AND pshred < 0.1", 15, "Did you mean p_shred?"),
        ("mag_r < 18 AND xyzzy < 1", 15, "There are: source_id, catalog_id, catalog"),
        ("mag_r < 18 AND pg_sleep(1) > 1", 15, "'pg_sleep' is not allowed. A filter is made of"),
        ("mag_r < 18; select", 10, "';' is not allowed"),
        ("type = ‘PSF’", 7, "Text is in straight ones: 'PSF'"),
        ("mag_r = null", None, "write IS NULL or IS NOT NULL"),
        ("14 < mag_r < 18", 0, "a condition cannot be compared with an integer"),
        ("mag_r", None, "Compare it with something, like mag_r < 18"),
        ("extra > 1", 0, "take a value out, like extra ->> 'name'"),
        ("(extra ->> 'x') + 1 > 2", 1, "Cast it: (extra ->> 'name')::float"),
        ("type LIKE 'a\\'", 0, "cannot end in a single"),
        ("mag_r < 1 OR type NOT ILIKE 'a\\\\\\'", 13, "cannot end in a single"),
        ("source.mag_r < 1", 0, "only columns of annotated_source can be used, not source's"),
        ("mag_r < ", None, "it is not understood near '<'"),
        ("(((((((((((((((((((((true)))))))))))))))))))))", 20, "nested more than 20 deep"),
        ("mag_r < 18 -- x", 8, "comments are not allowed"),
        ("mag_r <\x07 18", 7, r"the character '\x07' is not allowed"),
    ],
)
def test_a_refusal_says_where_and_what_is_allowed(
    text: str, position: int | None, advice: str
) -> None:
    with pytest.raises(PredicateError) as caught:
        parse(text)

    assert caught.value.position == position
    assert advice in str(caught.value)
    if position is not None:
        assert f"at character {position + 1}:" in str(caught.value)


def test_random_text_is_read_or_refused_but_never_anything_else() -> None:
    words = "mag_r|mag_r < 18|type = 'x'|has_cutout|and|or|not|(|)|'x'|1|.|,|::|float|->>|extra|in"
    signs = "is|null|like|-|+|^|%|&|;|\"|'|$|--"
    choices = f"{words}|{signs}".split("|")
    rng = np.random.default_rng(0)
    n_read = 0

    for _ in range(3_000):
        text = " ".join(rng.choice(choices, size=rng.integers(1, 6)))
        try:
            n_read += parse(text) is not None
        except PredicateError:
            continue

    assert 0 < n_read < 3_000
