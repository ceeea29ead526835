"""How values of the six column types are stored: dates as text, instants as microseconds, truth as 0 and 1."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from numbers import Integral, Real
from typing import Any

from evertrain.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_sql(kind: str, value: Any, column: str) -> Any:
    """Return one value as it is stored.

    Raises:
        DataError: it is not of the column's type.
    """
    number = _number(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType") or number != number:
        return None
    if kind == "integer" and isinstance(number, int) and -(2**63) <= number < 2**63:
        return number
    if kind == "number" and number is not None and abs(number) <= sys.float_info.max:
        return float(number)
    if kind == "boolean" and isinstance(value, bool):
        return int(value)
    if kind == "text" and isinstance(value, str) and _is_text(value):
        return value
    if kind in ("date", "instant"):
        return _moment(kind, value, column)
    raise DataError(f"{column} is {value!r}; allowed: {_wanted(kind)}", column=column)


def _moment(kind: str, value: Any, column: str) -> str | int:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(found, datetime):
            found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    except (ValueError, AttributeError):
        raise DataError(f"{column} is {value!r}; allowed: {_wanted(kind)}", column=column) from None
    if kind == "date":
        return found.date().isoformat()
    return (found.replace(tzinfo=found.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def _wanted(kind: str) -> str:
    return {"date": "a date such as 2026-02-28", "instant": "an instant such as 2026-02-28T12:30:00Z"}.get(kind, kind)


def from_sql(kind: str, value: Any) -> Any:
    """Return a stored value as Python has it."""
    if value is None:
        return None
    if kind == "boolean":
        return bool(value)
    if kind == "date":
        return date.fromisoformat(value)
    if kind == "instant":
        return _EPOCH + timedelta(microseconds=value)
    return value


def _number(value: Any) -> int | float | None:
    """Return a number, numpy's too, as Python has it; None for what is none."""
    if type(value) is bool or not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def _is_text(value: str) -> bool:
    """Return whether a text can be stored: without NUL, and without half a character."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
