"""Conditions on `annotated_source` as users write them, read into SQLAlchemy expressions.

The text is SQL, but never reaches PostgreSQL: sqlglot parses it, every node that is on the list
here is rebuilt as an expression, and anything else is refused. Values become bound parameters.

Beyond what SQL says, a predicate cannot fail on unusual rows: dividing by zero, the root or the
logarithm of what has none, and text that is no number give null, which passes no condition. A cast
to an integer rounds to the nearest, halves to even, as PostgreSQL's of double precision; `/` never
truncates.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, func
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from db.tables import (
    Blend,
    Catalog,
    LabelClass,
    ModelVersion,
    PairFlux,
    Representation,
    Shred,
    Source,
    SourceCell,
)

MAX_LENGTH = 4_000  # characters
MAX_TOKENS = 600  # words and signs
MAX_DEPTH = 20  # parentheses, signs and NOTs inside each other
MAX_NUMBER = 1e30
LARGEST_LOGARITHM = 690.0  # natural logarithm of a number that double precision still holds
Node = Any  # of sqlglot's syntax tree, whose base class goes by different names
CURLY = "‘’‚‛“”„‟´`"
NUMBER_TEXT = r"^\s*[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,2})?\s*$"
ALLOWED = (
    "A filter is made of columns of annotated_source, numbers, 'text', true, false, null, "
    "= <> < <= > >=, AND, OR, NOT, BETWEEN, IN, IS NULL, LIKE, ILIKE, + - * / % ^ &, "
    "abs, sqrt, ln, log, power, least, greatest, lower, upper, coalesce, "
    "and extra ->> 'name', which may be cast to a number"
)

annotated_source = sa.table(
    "annotated_source",
    sa.column("source_id", Source.__table__.c.id.type),
    sa.column("catalog_id", Source.__table__.c.catalog_id.type),
    sa.column("catalog", Catalog.__table__.c.name.type),
    *(
        sa.column(column.name, column.type)
        for column in Source.__table__.c
        if column.name not in ("id", "catalog_id")
    ),
    sa.column("has_cutout", sa.Boolean()),
    sa.column("p_shred", Shred.__table__.c.p_shred.type),
    sa.column("shred_flags", Shred.__table__.c.flags.type),
    sa.column("shred_version", ModelVersion.__table__.c.name.type),
    sa.column("shred_run_id", Shred.__table__.c.run_id.type),
    sa.column("representation_flags", Representation.__table__.c.flags.type),
    sa.column("representation_version", ModelVersion.__table__.c.name.type),
    sa.column("source_cell_row", SourceCell.__table__.c.cell_row.type),
    sa.column("source_cell_column", SourceCell.__table__.c.cell_column.type),
    sa.column("source_map_version", ModelVersion.__table__.c.name.type),
    sa.column("label", LabelClass.__table__.c.name.type),
    *(sa.column(name, Blend.__table__.c[name].type) for name in ("p_blend", "sep_is_blend")),
    sa.column("blend_detections", Blend.__table__.c.sep_detections.type),
    sa.column("blend_flags", Blend.__table__.c.flags.type),
    sa.column("blend_version", ModelVersion.__table__.c.name.type),
    sa.column("blend_run_id", Blend.__table__.c.run_id.type),
    *(
        sa.column(name, PairFlux.__table__.c[name].type)
        for name in (
            *("flux_central", "flux_central_err", "flux_companion", "flux_companion_err"),
            *("separation", "sep_flux_central", "sep_flux_companion"),
        )
    ),
    sa.column("pair_flux_detections", PairFlux.__table__.c.sep_detections.type),
    sa.column("pair_flux_flags", PairFlux.__table__.c.flags.type),
    sa.column("pair_flux_version", ModelVersion.__table__.c.name.type),
    sa.column("pair_flux_run_id", PairFlux.__table__.c.run_id.type),
)

TOKENS = {
    TokenType.VAR,
    TokenType.IDENTIFIER,
    TokenType.NUMBER,
    TokenType.STRING,
    TokenType.TRUE,
    TokenType.FALSE,
    TokenType.NULL,
    TokenType.AND,
    TokenType.OR,
    TokenType.NOT,
    TokenType.EQ,
    TokenType.NEQ,
    TokenType.LT,
    TokenType.LTE,
    TokenType.GT,
    TokenType.GTE,
    TokenType.BETWEEN,
    TokenType.IN,
    TokenType.IS,
    TokenType.LIKE,
    TokenType.ILIKE,
    TokenType.PLUS,
    TokenType.DASH,
    TokenType.STAR,
    TokenType.SLASH,
    TokenType.MOD,
    TokenType.CARET,
    TokenType.AMP,
    TokenType.L_PAREN,
    TokenType.R_PAREN,
    TokenType.COMMA,
    TokenType.DARROW,
    TokenType.DCOLON,
    TokenType.ALIAS,
    TokenType.DOT,
    TokenType.INT,
    TokenType.BIGINT,
    TokenType.SMALLINT,
    TokenType.FLOAT,
    TokenType.DOUBLE,
    TokenType.DECIMAL,
}
PREFIXES = {TokenType.NOT, TokenType.DASH, TokenType.PLUS}
INTEGER_TYPES = {
    exp.DataType.Type.INT,
    exp.DataType.Type.BIGINT,
    exp.DataType.Type.SMALLINT,
}
NUMBER_TYPES = INTEGER_TYPES | {
    exp.DataType.Type.FLOAT,
    exp.DataType.Type.DOUBLE,
    exp.DataType.Type.DECIMAL,
}


class PredicateError(ValueError):
    """A filter that is not understood or not allowed.

    Attributes
    ----------
    position : int or None
        0-based place in the text where the trouble begins, as far as it is known.
    """

    def __init__(self, problem: str, position: int | None = None) -> None:
        where = "" if position is None else f" at character {position + 1}"
        super().__init__(f"The filter cannot be used{where}: {problem}")
        self.position = position


@dataclass(frozen=True)
class Value:
    """A part of a predicate: its expression and what kind of value it has."""

    sql: ColumnElement[Any]
    kind: str  # a condition, a number, an integer, a text, a JSON document
    literal: float | None = None  # of a number that is written out

    @property
    def is_number(self) -> bool:
        return self.kind in ("a number", "an integer")


def parse(text: str) -> ColumnElement[bool]:
    """Read a condition like `mag_r < 18 AND p_shred < 0.1`.

    A number beside a column of single precision is taken in that precision, so that
    `p_shred >= 0.35` includes a stored 0.35.

    Parameters
    ----------
    text : str
        A boolean SQL expression over columns of `annotated_source`; see ALLOWED.

    Returns
    -------
    ColumnElement of bool
        On the columns of the table `annotated_source` of this module.

    Raises
    ------
    PredicateError
        The message says where it is not understood, and what is allowed.
    """
    tokens = _tokens(text)
    try:
        statements = Postgres().parser().parse(tokens, text)
    except SqlglotError as error:
        raise _syntax_error(error) from error
    if len(statements) != 1 or statements[0] is None:
        raise PredicateError("expected one condition.")
    value = _read(statements[0], 0)
    if value.kind != "a condition":
        raise PredicateError(
            f"expected a condition, which is true or false; this is {value.kind}. "
            "Compare it with something, like mag_r < 18."
        )
    return value.sql


def _tokens(text: str) -> list[Token]:
    """Split a text into words and signs that are all allowed, neither too many nor too deep."""
    if len(text) > MAX_LENGTH:
        raise PredicateError(f"it has {len(text):,} characters; expected at most {MAX_LENGTH:,}.")
    for position, character in enumerate(text):
        if not character.isprintable() and character not in "\t\r\n":
            raise PredicateError(f"the character {character!r} is not allowed.", position)
    try:
        tokens = Postgres().tokenize(text)
    except SqlglotError as error:
        raise PredicateError("a quotation mark is not closed.") from error
    if not tokens:
        raise PredicateError("it is empty. An example: mag_r < 18 AND p_shred < 0.1")
    if len(tokens) > MAX_TOKENS:
        raise PredicateError(
            f"it has {len(tokens)} words and signs; expected {MAX_TOKENS} at most."
        )
    for token in tokens:
        if token.comments:
            raise PredicateError("comments are not allowed.", token.start)
        if token.token_type not in TOKENS and token.text.lower() not in annotated_source.c:
            found = text[token.start : token.end + 1]
            raise PredicateError(f"{found!r} is not allowed. {ALLOWED}.", token.start)
    _check_depth(tokens)
    return tokens


def _check_depth(tokens: Sequence[Token]) -> None:
    depth = prefixes = 0
    for token in tokens:
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        prefixes = prefixes + 1 if token.token_type in PREFIXES else 0
        if depth + prefixes > MAX_DEPTH:
            raise PredicateError(
                f"it is nested more than {MAX_DEPTH} deep. Take away parentheses.", token.start
            )


def _syntax_error(error: SqlglotError) -> PredicateError:
    details = getattr(error, "errors", [{}])[0]
    highlight = details.get("highlight") or ""
    near = f" near {highlight!r}" if highlight else ""
    return PredicateError(f"it is not understood{near}. {ALLOWED}.")


def _read(node: Node, depth: int) -> Value:
    """Rebuild a node; refuse it unless it is on the list."""
    if depth > 2 * MAX_DEPTH:
        raise _refused(node, "too many operators in a row; put fewer into one expression.")
    reader = READERS.get(type(node))
    if reader is None:
        name = node.this if isinstance(node, exp.Anonymous) else node.sql("postgres")
        raise _refused(node, f"{name!r} is not allowed. {ALLOWED}.")
    return reader(node, depth + 1)


def _refused(node: Node, problem: str) -> PredicateError:
    places = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return PredicateError(problem, min(places, default=None))


def _only(node: Node, *names: str) -> None:
    """Refuse whatever a node carries beyond these arguments."""
    for name, value in node.args.items():
        if name not in names and value not in (None, False, []):
            raise _refused(node, f"{node.sql('postgres')!r} is not allowed. {ALLOWED}.")


def _column(node: Node, _depth: int) -> Value:
    _only(node, "this", "table")
    name = node.name if node.this.args.get("quoted") else node.name.lower()
    table = node.args.get("table")
    if table is not None and table.name.lower() != "annotated_source":
        raise _refused(node, f"only columns of annotated_source can be used, not {table.name}'s.")
    if name not in annotated_source.c:
        raise _refused(node, _unknown(name))
    column = annotated_source.c[name]
    if isinstance(column.type, sa.Boolean):
        return Value(column, "a condition")
    if isinstance(column.type, sa.Integer):
        return Value(column, "an integer")
    if isinstance(column.type, sa.Float):
        return Value(column, "a number")
    if isinstance(column.type, sa.JSON):
        return Value(column, "a JSON document")
    return Value(column, "a text")


def _unknown(name: str) -> str:
    if set(name) & set(CURLY):
        return f"{name!r} has typographic quotation marks. Text is in straight ones: 'PSF'."
    known = [column.name for column in annotated_source.c]
    alike = difflib.get_close_matches(name, known, n=3)
    if alike:
        return f"there is no column {name!r}. Did you mean {' or '.join(alike)}?"
    return f"there is no column {name!r}. There are: {', '.join(known)}. Text is written 'PSF'."


def _literal(node: Node, _depth: int) -> Value:
    if node.is_string:
        return Value(sa.literal(node.name, sa.Text()), "a text")
    try:
        number = float(node.name)
    except ValueError:
        raise _refused(node, f"{node.name!r} is not a number.") from None
    if not abs(number) <= MAX_NUMBER:
        raise _refused(node, f"numbers are at most {MAX_NUMBER:g}, not {node.name}.")
    return _number(int(node.name) if node.name.isdigit() else number)


def _number(number: float) -> Value:
    if isinstance(number, int) and abs(number) < 2**63:
        return Value(sa.literal(number, sa.BigInteger()), "an integer", number)
    return Value(sa.literal(float(number), sa.Double()), "a number", number)


def _boolean(node: Node, _depth: int) -> Value:
    return Value(sa.literal(bool(node.this), sa.Boolean()), "a condition")


def _null(node: Node, _depth: int) -> Value:
    raise _refused(node, "nothing equals null: write IS NULL or IS NOT NULL.")


def _paren(node: Node, depth: int) -> Value:
    _only(node, "this")
    return _read(node.this, depth)


def _junction(node: Node, depth: int) -> Value:
    combine = sa.and_ if isinstance(node, exp.And) else sa.or_
    return Value(combine(*(_condition(part, depth) for part in node.flatten())), "a condition")


def _condition(node: Node, depth: int) -> ColumnElement[bool]:
    value = _read(node, depth)
    if value.kind != "a condition":
        raise _refused(node, f"AND, OR and NOT join conditions; this is {value.kind}.")
    return value.sql


def _not(node: Node, depth: int) -> Value:
    return Value(sa.not_(_condition(node.this, depth)), "a condition")


def _comparison(node: Node, depth: int) -> Value:
    _only(node, "this", "expression")
    left, right = _read(node.this, depth), _read(node.expression, depth)
    _check_comparable(node, left, right)
    if left.kind == "a condition" and not isinstance(node, exp.EQ | exp.NEQ):
        raise _refused(node, "conditions are equal or not. A range is BETWEEN … AND ….")
    left_sql, right_sql = _beside(left, right), _beside(right, left)
    return Value(COMPARISONS[type(node)](left_sql, right_sql), "a condition")


def _between(node: Node, depth: int) -> Value:
    _only(node, "this", "low", "high")
    value = _read(node.this, depth)
    low, high = _read(node.args["low"], depth), _read(node.args["high"], depth)
    for limit in (low, high):
        _check_comparable(node, value, limit)
    return Value(value.sql.between(_beside(low, value), _beside(high, value)), "a condition")


def _in(node: Node, depth: int) -> Value:
    _only(node, "this", "expressions")
    value = _read(node.this, depth)
    members = [_read(member, depth) for member in node.expressions]
    if not members or not all(isinstance(member.sql, sa.BindParameter) for member in members):
        raise _refused(node, "IN takes a list of numbers or of texts, like IN (1, 2).")
    for member in members:
        _check_comparable(node, value, member)
    return Value(value.sql.in_([_beside(member, value) for member in members]), "a condition")


def _is(node: Node, depth: int) -> Value:
    _only(node, "this", "expression", "negate")
    value = _read(node.this, depth)
    if isinstance(node.expression, exp.Null):
        found = value.sql.is_(sa.null())
    elif isinstance(node.expression, exp.Boolean) and value.kind == "a condition":
        found = value.sql.is_(sa.true() if node.expression.this else sa.false())
    else:
        raise _refused(node, "IS is followed by NULL or NOT NULL, after conditions by TRUE too.")
    return Value(sa.not_(found) if node.args.get("negate") else found, "a condition")


def _like(node: Node, depth: int) -> Value:
    _only(node, "this", "expression", "negate")
    text, pattern = _text(node.this, depth), _text(node.expression, depth)
    if isinstance(pattern, sa.BindParameter) and _ends_in_escape(str(pattern.value)):
        raise _refused(
            node,
            r"a pattern cannot end in a single \, which escapes nothing: write \\ for the sign.",
        )
    match = text.ilike(pattern) if isinstance(node, exp.ILike) else text.like(pattern)
    return Value(sa.not_(match) if node.args.get("negate") else match, "a condition")


def _ends_in_escape(pattern: str) -> bool:
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def _check_comparable(node: Node, left: Value, right: Value) -> None:
    if left.kind == right.kind != "a JSON document" or (left.is_number and right.is_number):
        return
    if "a JSON document" in (left.kind, right.kind):
        raise _refused(node, "extra is a JSON document; take a value out, like extra ->> 'name'.")
    advice = "Numbers are written without quotation marks, texts with: 18, 'PSF'."
    raise _refused(node, f"{left.kind} cannot be compared with {right.kind}. {advice}")


def _beside(value: Value, other: Value) -> ColumnElement[Any]:
    """Expression of a value; a number written beside a column has the column's precision."""
    if value.literal is None or not isinstance(other.sql.type, sa.REAL):
        return value.sql
    return sa.literal(float(np.float32(value.literal)), sa.Double())


def _arithmetic(node: Node, depth: int) -> Value:
    _only(node, "this", "expression", "typed", "safe")
    left, right = _double(node.this, depth), _double(node.expression, depth)
    return Value(ARITHMETIC[type(node)](left, right), "a number")


def _negative(node: Node, depth: int) -> Value:
    value = _read(node.this, depth)
    if value.literal is not None:
        return _number(-value.literal)
    return Value(-_double(node.this, depth), "a number")


def _bits(node: Node, depth: int) -> Value:
    left, right = _read(node.this, depth), _read(node.expression, depth)
    if not left.kind == right.kind == "an integer":
        raise _refused(node, "& takes the bits of integers, like mask & 3.")
    return Value(left.sql.bitwise_and(right.sql), "an integer")


def _double(node: Node, depth: int) -> ColumnElement[float]:
    value = _read(node, depth)
    if not value.is_number:
        advice = " Cast it: (extra ->> 'name')::float." if value.kind == "a text" else ""
        raise _refused(node, f"expected a number here, not {value.kind}.{advice}")
    return sa.cast(value.sql, sa.Double())


def _text(node: Node, depth: int) -> ColumnElement[str]:
    value = _read(node, depth)
    if value.kind != "a text":
        raise _refused(node, f"expected a text here, not {value.kind}.")
    return value.sql


def _quotient(left: ColumnElement[float], right: ColumnElement[float]) -> ColumnElement[float]:
    return left / func.nullif(right, 0, type_=sa.Double())


def _remainder(left: ColumnElement[float], right: ColumnElement[float]) -> ColumnElement[float]:
    divisor = func.nullif(sa.cast(right, sa.Numeric()), 0, type_=sa.Numeric())
    return sa.cast(sa.cast(left, sa.Numeric()) % divisor, sa.Double())


def _power(base: ColumnElement[float], exponent: ColumnElement[float]) -> ColumnElement[float]:
    size = func.abs(exponent * func.ln(func.nullif(func.abs(base), 0)))
    real = sa.or_(base > 0, exponent == func.trunc(exponent))
    return sa.case(
        (base == 0, sa.case((exponent > 0, 0.0), (exponent == 0, 1.0))),
        (sa.and_(real, size < LARGEST_LOGARITHM), func.power(base, exponent, type_=sa.Double())),
    )


def _number_function(node: Node, depth: int) -> Value:
    _only(node, "this")
    x = _double(node.this, depth)
    match node:
        case exp.Abs():
            return Value(func.abs(x), "a number")
        case exp.Sqrt():
            return Value(sa.case((x >= 0, func.sqrt(x))), "a number")
        case exp.Ln():
            return Value(sa.case((x > 0, func.ln(x))), "a number")
        case _:
            return Value(sa.case((x > 0, func.log(x))), "a number")


def _text_function(node: Node, depth: int) -> Value:
    _only(node, "this")
    function = func.lower if isinstance(node, exp.Lower) else func.upper
    return Value(function(_text(node.this, depth)), "a text")


def _choice(node: Node, depth: int) -> Value:
    """Read LEAST, GREATEST and COALESCE."""
    _only(node, "this", "expressions", "ignore_nulls")
    parts = [node.this, *node.expressions]
    function = CHOICES[type(node)]
    first = _read(node.this, depth)
    if first.kind == "a text":
        return Value(function(*(_text(part, depth) for part in parts)), "a text")
    return Value(function(*(_double(part, depth) for part in parts)), "a number")


def _extra(node: Node, depth: int) -> Value:
    """Read `extra ->> 'name'`."""
    document, path = _read(node.this, depth), node.expression
    keys = path.expressions[1:] if isinstance(path, exp.JSONPath) else []
    names = [key.this for key in keys if isinstance(key, exp.JSONPathKey)]
    plain = len(keys) == len(names) == 1 and isinstance(names[0], str)
    if document.kind != "a JSON document" or not plain:
        raise _refused(node, "->> takes a value out of extra by its name: extra ->> 'name'.")
    name = sa.literal(names[0], sa.Text())
    return Value(document.sql.op("->>", return_type=sa.Text())(name), "a text")


def _cast(node: Node, depth: int) -> Value:
    """Read a cast to a number; text that is none becomes null, to an integer is rounded."""
    _only(node, "this", "to")
    if node.args["to"].this not in NUMBER_TYPES or node.args["to"].expressions:
        raise _refused(node, "values can only be cast to a number, like (extra ->> 'name')::float.")
    value = _read(node.this, depth)
    is_integer = node.args["to"].this in INTEGER_TYPES
    if is_integer and value.kind == "an integer":
        return value
    number: ColumnElement[float]
    if value.kind == "a text":
        number = sa.case((value.sql.regexp_match(NUMBER_TEXT), sa.cast(value.sql, sa.Double())))
    else:
        number = _double(node.this, depth)
    return Value(func.round(number, type_=sa.Double()) if is_integer else number, "a number")


COMPARISONS: dict[type, Callable[[Any, Any], ColumnElement[bool]]] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
ARITHMETIC: dict[type, Callable[[Any, Any], ColumnElement[float]]] = {
    exp.Add: operator.add,
    exp.Sub: operator.sub,
    exp.Mul: operator.mul,
    exp.Div: _quotient,
    exp.Mod: _remainder,
    exp.Pow: _power,
}
CHOICES: dict[type, Callable[..., ColumnElement[Any]]] = {
    exp.Least: func.least,
    exp.Greatest: func.greatest,
    exp.Coalesce: func.coalesce,
}
READERS: dict[type, Callable[[Node, int], Value]] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Boolean: _boolean,
    exp.Null: _null,
    exp.Paren: _paren,
    exp.And: _junction,
    exp.Or: _junction,
    exp.Not: _not,
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Neg: _negative,
    exp.BitwiseAnd: _bits,
    exp.Lower: _text_function,
    exp.Upper: _text_function,
    exp.JSONExtractScalar: _extra,
    exp.Cast: _cast,
    **dict.fromkeys(COMPARISONS, _comparison),
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    **dict.fromkeys((exp.Abs, exp.Sqrt, exp.Ln, exp.Log), _number_function),
    **dict.fromkeys(CHOICES, _choice),
}
