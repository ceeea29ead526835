"""Conventions: how a file writes its numbers and its days, told by what it declares or by values that leave no doubt.

3,5 can only be a number with a decimal comma; 3,500 can be two numbers. 31/12/2024 can only begin with the day;
01/02/2024 can be two days. A file is read by one convention, decided by the values that have one reading only. Where
there is none such, the file is refused and the error names the choice: guessing would be wrong without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from evertrain.errors import Undecided
from evertrain.partitions import printable

_GROUPED = r"[0-9]{1,3}(\.[0-9]{3})+"
_COMMA = rf"^[ \t]*[+-]?({_GROUPED}|[0-9]+)(,[0-9]+)?([eE][+-]?[0-9]+)?[ \t]*$"
# One comma before three digits, with one to three digits before it that do not begin with 0, may divide thousands.
_EITHER = r"^[ \t]*[+-]?[1-9][0-9]{0,2},[0-9]{3}[ \t]*$"
_THOUSANDS = r"^[ \t]*[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?[ \t]*$"
_POINT = r"^[ \t]*[+-]?[0-9]*\.([0-9]{1,2}|[0-9]{4,})[ \t]*$"

_TIME = r"([T ][0-9].*)?"
_PART = "(0?[1-9]|[12][0-9]|3[01])"
_DAY = rf"^[ \t]*{_PART}([/.-]){_PART}([/.-])([0-9]{{4}}){_TIME}$"
_YEAR = rf"^[ \t]*([0-9]{{4}})([/.])([0-9]{{1,2}})([/.])([0-9]{{1,2}}){_TIME}$"

_ENOUGH = 20


@dataclass(frozen=True)
class Conventions:
    """How a file is read: `decimal` is "." or ",", `dates` by column "dmy" or "mdy"."""

    decimal: str
    dates: dict[str, str]


def decide(
    cells: Sequence[pl.Series], *, decimal: str | None, dates: str | None, divides: str, lines: pl.Series
) -> Conventions:
    """Return how the columns of a file are to be read; `cells` are those that need not be texts, null where missing.

    Args:
        divides: the delimiter: beside a comma that divides cells no comma is taken for a decimal one unasked.
        lines: on which line each row begins, for messages.

    Raises:
        Undecided: values can be read in two ways and nothing says which; names the choice.
    """
    if decimal is None:
        decimal = _decimal(cells, divides, lines)
    return Conventions(decimal, {one.name: order for one in cells if (order := _order(one, cells, dates, lines))})


# --- numbers ----------------------------------------------------------------------------------------------------


def _decimal(cells: Sequence[pl.Series], divides: str, lines: pl.Series) -> str:
    commas = [
        one for one in cells if one.str.contains(",", literal=True).any() and _fits(one, f"{_COMMA}|{_THOUSANDS}")
    ]
    if not commas:
        return "."
    decisive = [one for one in commas if _first(one, _COMMA, ",", unless=_EITHER) is not None]
    english = [one for one in commas if _first(one, _THOUSANDS, ",", unless=_COMMA) is not None]
    points = [one for one in cells if _fits(one, rf"{_POINT}|^[ \t]*[+-]?[0-9]+[ \t]*$") and _some(one, _POINT)]
    if decisive and not english and not points and divides != ",":
        return ","
    if english and not decisive:
        return "."  # 1,234.5: such a column is text, as it was before anybody asked
    one = (decisive or commas)[0]
    at = _first(one, _COMMA, ",", unless=_EITHER if decisive else None)
    assert at is not None
    where = f"column '{printable(one.name)}', line {lines[at]}, has '{printable(str(one[at]).strip()[:40])}'"
    why = (
        f"and column '{printable(points[0].name)}' has decimal points"
        if decisive and points
        else f"and column '{printable(english[0].name)}' has thousands divided by commas"
        if english
        else "in a file whose cells are divided by commas"
        if decisive
        else "which may be one number with a decimal comma or thousands"
    )
    raise Undecided(
        f"{where}, {why}; declare decimal=',' to read such cells as numbers or decimal='.' to leave them as they are",
        column=one.name,
    )


def with_points(texts: pl.Series) -> pl.Series:
    """Return texts in which numbers with a decimal comma have a point, and what is no such number stays none."""
    cell = pl.col("cell")
    plain = cell.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    is_point = cell.str.contains(r"^[ \t]*[+-]?[0-9]*\.[0-9]*([eE][+-]?[0-9]+)?[ \t]*$")
    changed = (
        pl.when(cell.str.contains(_COMMA)).then(plain).when(is_point).then(pl.lit("no number: ") + cell).otherwise(cell)
    )
    return texts.alias("cell").to_frame().select(changed).to_series().alias(texts.name)


# --- days -------------------------------------------------------------------------------------------------------


def _order(one: pl.Series, cells: Sequence[pl.Series], dates: str | None, lines: pl.Series) -> str | None:
    """Return in which order a column writes days and months, "" where the year is first, None where it has no days."""
    if _fits(one, _YEAR) and _some(one, _YEAR):
        return "ymd"
    if not (_some(one, _DAY) and _fits(one, _DAY)):
        return None
    if dates is not None:
        return dates
    own = _shown(one)
    if len(own) == 1:
        return own.pop()
    if len(own) == 2:
        return None  # neither order reads them all: they are texts
    others = {order for other in cells if _some(other, _DAY) and _fits(other, _DAY) for order in _shown(other)}
    if len(others) == 1:
        return others.pop()
    parts = one.str.extract_groups(_DAY).struct.unnest()
    differs = (parts["1"].cast(pl.Int64) != parts["3"].cast(pl.Int64)).fill_null(False)
    if not differs.any():
        return "dmy"  # 05/05/2024 is one day either way
    at = differs.arg_true()[0]
    text, (first, second, year) = one[at].strip(), (parts[at, "1"], parts[at, "3"], parts[at, "5"])
    raise Undecided(
        f"column '{printable(one.name)}', line {lines[at]}, has '{printable(text[:40])}', which may be"
        f" {year}-{second:0>2}-{first:0>2} or {year}-{first:0>2}-{second:0>2}; declare dates='dmy' where the day"
        " comes first or dates='mdy' where the month does",
        column=one.name,
    )


def _shown(one: pl.Series) -> set[str]:
    """Return the orders that a column's values leave no doubt of."""
    parts = one.str.extract_groups(_DAY).struct.unnest()
    first, second = parts["1"].cast(pl.Int64), parts["3"].cast(pl.Int64)
    shown = set()
    if ((first > 12) & (first <= 31) & (second <= 12)).any():
        shown.add("dmy")
    if ((second > 12) & (second <= 31) & (first <= 12)).any():
        shown.add("mdy")
    return shown


def with_years_first(texts: pl.Series, order: str) -> pl.Series:
    """Return texts in which days of this order are written as 2024-02-29."""
    cell = pl.col("cell")
    pattern = _YEAR if order == "ymd" else _DAY
    year, month, day = {"ymd": (1, 3, 5), "dmy": (5, 3, 1), "mdy": (5, 1, 3)}[order]
    same = cell.str.extract(pattern, 2) == cell.str.extract(pattern, 4)
    two = [cell.str.extract(pattern, part).str.zfill(2) for part in (month, day)]
    written = pl.concat_str([cell.str.extract(pattern, year), *two], separator="-")
    whole = pl.concat_str([written, cell.str.extract(pattern, 6).fill_null("")])
    changed = pl.when(cell.str.contains(pattern) & same).then(whole).otherwise(cell)
    return texts.alias("cell").to_frame().select(changed).to_series().alias(texts.name)


# --- both -------------------------------------------------------------------------------------------------------


def _fits(one: pl.Series, pattern: str) -> bool:
    """Return whether a column's cells are of a form, but for the few misfits that its type would be allowed."""
    present = one.drop_nulls()
    spare = max(10, len(present) // 100)
    head = present.head(2 * spare + _ENOUGH)
    if int((~head.str.contains(pattern)).sum()) > spare:
        return False  # more than the column may have at all: no need to look at the others
    misfits = int((~present.str.contains(pattern)).sum())
    return misfits == 0 or (misfits <= spare and len(present) - misfits >= max(_ENOUGH, 5 * misfits))


def _some(one: pl.Series, pattern: str) -> bool:
    return bool(one.str.contains(pattern).any())


def _first(one: pl.Series, pattern: str, text: str, unless: str | None) -> int | None:
    """Return the place of the first cell of a form that holds a text and is not of another form."""
    found = one.str.contains(pattern) & one.str.contains(text, literal=True)
    if unless is not None:
        found &= ~one.str.contains(unless)
    places = found.fill_null(False).arg_true()
    return int(places[0]) if len(places) else None
