"""Tables: what every reader returns, and the six types that a column can have.

A type is kept as text, because the types that earlier reads established live in the store. Texts become values in
one place, `as_type`, by a grammar of our own: Python and Polars take "nan", "inf" and more for numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from evertrain.errors import DataError

Schema = dict[str, str]

SHOWN = 100


class ColumnType(StrEnum):
    """What the values of a column are; instants are UTC, integers have 64 bits."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    INSTANT = "instant"
    TEXT = "text"


DTYPES: dict[ColumnType, pl.DataType] = {
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.NUMBER: pl.Float64(),
    ColumnType.BOOLEAN: pl.Boolean(),
    ColumnType.DATE: pl.Date(),
    ColumnType.INSTANT: pl.Datetime("us", "UTC"),
    ColumnType.TEXT: pl.String(),
}


@dataclass(frozen=True)
class SetAside:
    """A row that cannot be used: where it is, why, and how it begins (at most 80 printable characters)."""

    line: int | None
    reason: str
    text: str


@dataclass(frozen=True, eq=False)
class Table:
    """The usable rows of a source, and what was left out of them.

    Attributes:
        frame: one of the six types per column; missing values are null.
        lines: the line on which each row of `frame` begins, from 1; None where the source has no lines.
        set_aside: the first 100 unusable rows, in order.
        set_aside_count: how many there are.
        counted: what `lines` counts: "line" of a text, "row" of a frame.
        bad: all of them, with line, column, value and problem; None where there are none.
        notes: what else a person should know, each one sentence.
        unfinished_line: the last line has no line end and too few or too many cells: perhaps it is being written.
    """

    frame: pl.DataFrame
    lines: pl.Series | None = None
    set_aside: list[SetAside] = field(default_factory=list)
    set_aside_count: int = 0
    notes: list[str] = field(default_factory=list)
    unfinished_line: bool = False
    bad: pl.DataFrame | None = None
    counted: str = "line"


BAD = {"line": pl.Int64(), "column": pl.String(), "value": pl.String(), "problem": pl.String()}


def bad_rows(lines: pl.Series, column: str, values: pl.Series, problem: str) -> pl.DataFrame:
    """Return rows of which one column is at fault, as `Table.bad` lists them."""
    frame = pl.DataFrame({"line": lines, "value": values.cast(pl.String)})
    return frame.select(
        pl.col("line").cast(pl.Int64), pl.lit(column).alias("column"), pl.col("value"), pl.lit(problem).alias("problem")
    )


def schema_of(frame: pl.DataFrame) -> Schema:
    """Return the type of every column.

    Raises:
        DataError: a column holds something else, such as lists or durations.

    >>> schema_of(pl.DataFrame({"height": [1.5], "town": ["Pilar"]}))
    {'height': 'number', 'town': 'text'}
    """
    return {name: _type_of(name, dtype).value for name, dtype in frame.schema.items()}


def _type_of(name: str, dtype: pl.DataType) -> ColumnType:
    if dtype.is_integer():
        return ColumnType.INTEGER
    if dtype.is_numeric():
        return ColumnType.NUMBER
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
        return ColumnType.TEXT
    for kind in (ColumnType.BOOLEAN, ColumnType.DATE, ColumnType.INSTANT):
        if dtype.base_type() == DTYPES[kind].base_type():
            return kind
    raise DataError(f"column {name!r} holds {dtype}; use {', '.join(ColumnType)}", column=name)


# Classes are spelt out: `\d` and `(?i)` of Polars' regular expressions also match digits and letters of other scripts.
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_INSTANT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?$"
)


def as_type(texts: pl.Series, kind: str) -> pl.Series:
    """Return the texts as values of `kind`, null where a text is not one.

    Blanks around a value do not matter, except in texts. Numbers are finite, decimal and written in ASCII with a
    point. Dates are YYYY-MM-DD; instants add a time after a T or a blank, are cut to microseconds, and are UTC
    unless they name a zone. A country's own formats (1,5 or 31/12/2024) are texts until a source can declare them.

    >>> as_type(pl.Series(["5", " -1e3 ", ".5", "nan", "1_000"]), "number").to_list()
    [5.0, -1000.0, 0.5, None, None]
    """
    cells = texts.alias("cell").to_frame().lazy()  # a lazy frame computes once what parts of the expression share
    return cells.select(_READ[ColumnType(kind)]).collect().to_series().alias(texts.name)


def _of_python(moment: pl.Expr) -> pl.Expr:
    """Null for the years that Polars knows and Python's dates do not."""
    return pl.when(moment.dt.year().is_between(1, 9999)).then(moment)


def _instant(cell: pl.Expr) -> pl.Expr:
    def count(digits: pl.Expr) -> pl.Expr:
        return digits.cast(pl.Int64, strict=False).fill_null(0)

    day = cell.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    clock = pl.duration(
        hours=count(cell.str.slice(11, 2)),
        minutes=count(cell.str.slice(14, 2)),
        seconds=count(pl.when(cell.str.slice(16, 1) == ":").then(cell.str.slice(17, 2))),
        microseconds=count(cell.str.extract(r"\.([0-9]{1,6})").str.pad_end(6, "0")),
    )
    zone = cell.str.extract("([+-][0-9:]{2,5})$").str.replace(":", "").str.pad_end(5, "0")
    offset = pl.duration(hours=count(zone.str.slice(1, 2)), minutes=count(zone.str.slice(3, 2)))
    moment = day + clock + pl.when(zone.str.starts_with("-")).then(offset).otherwise(-offset)
    return _of_python(moment).dt.replace_time_zone("UTC")


_CELL = pl.col("cell").str.strip_chars(" \t")
_FLOAT = _CELL.cast(pl.Float64, strict=False)
_LOWER = _CELL.str.to_lowercase()
_DAY = _CELL.str.to_date("%Y-%m-%d", strict=False)
_READ: dict[ColumnType, pl.Expr] = {
    ColumnType.INTEGER: pl.when(_CELL.str.contains(_INTEGER)).then(_CELL.cast(pl.Int64, strict=False)),
    ColumnType.NUMBER: pl.when(_CELL.str.contains(_NUMBER) & _FLOAT.is_finite()).then(_FLOAT),
    ColumnType.BOOLEAN: pl.when(_LOWER.is_in(["true", "false"])).then(_LOWER == "true"),
    ColumnType.DATE: pl.when(_CELL.str.contains(_DATE)).then(_of_python(_DAY)),
    ColumnType.INSTANT: pl.when(_CELL.str.contains(_INSTANT)).then(_instant(_CELL)),
    ColumnType.TEXT: pl.col("cell"),
}
