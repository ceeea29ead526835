"""How values of the six column types are stored: dates as text, instants as microseconds, truth as 0 and 1."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from evertrain.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_sql(kind: str, value: Any, column: str) -> Any:
    """Return one value as it is stored.

    Raises:
        DataError: it is not of the column's type.
    """
    if value is None or value != value:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "integer" and whole:
        return value
    if kind == "number" and (whole or isinstance(value, float)):
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return int(value)
    if kind == "text" and isinstance(value, str):
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
