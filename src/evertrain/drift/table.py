"""The cells of any DataFrame, column by column, as numbers or as text: what drift is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evertrain.drift.statistics import Floats, Ints
from evertrain.errors import DataError

_LONG = 100  # characters of text that are kept of a level


class Kind(StrEnum):
    """What the cells of a column are."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"
    EMPTY = "empty"


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """One column.

    Attributes:
        name: as text; the second of two equal names is "x #2".
        numbers: of kind NUMBER; missing is NaN, and infinities are still there. Booleans are 0 and 1, spans seconds.
        codes, levels: of kind TEXT: places in `levels`, -1 where missing.
        missing: of kinds TIME and EMPTY: how many cells.
    """

    name: str
    kind: Kind
    rows: int
    numbers: Floats = field(default_factory=lambda: np.empty(0))
    codes: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    levels: tuple[str, ...] = ()
    missing: int = 0


def cells(frame: pd.DataFrame, rows: Ints | None = None) -> Iterator[Cells]:
    """Yield the columns of a frame, of some of its rows where their places are given.

    Nothing in a frame makes this fail: what is neither number, time nor text is compared by its text.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"rows are a {type(frame).__name__}; a pandas DataFrame is needed")
    for name, (_, column) in zip(_names(frame.columns), frame.items(), strict=True):
        yield column_cells(name, column, rows)


def _names(columns: Iterable[Hashable]) -> list[str]:
    names = [str(column) for column in columns]
    if len(set(names)) == len(names):
        return names
    found: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name} #{number}"
        found.append(unique)
    return found


def column_cells(name: str, column: pd.Series[Any], rows: Ints | None = None) -> Cells:
    """Return the cells of one column."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
        values = column.to_numpy()
        return _numbers(name, values if rows is None else values[rows])
    if rows is not None:
        column = column.iloc[rows]
    if dtype.kind == "M":
        missing = int(column.isna().sum())
        return Cells(name, Kind.EMPTY if missing == len(column) else Kind.TIME, len(column), missing=missing)
    if dtype.kind == "m":
        return _numbers(name, column.dt.total_seconds().to_numpy())
    if isinstance(dtype, pd.CategoricalDtype):
        kinds = column_cells(name, pd.Series(dtype.categories))
        codes = np.asarray(column.cat.codes, np.int64)
        if kinds.kind is Kind.NUMBER:
            return _numbers(name, np.append(kinds.numbers, np.nan)[codes])
        return _objects(name, np.array([*dtype.categories, None], object)[codes])
    if isinstance(dtype, np.dtype) or not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
        return _objects(name, np.asarray(column, object))
    try:
        return _numbers(name, column.to_numpy(np.float64, na_value=np.nan))
    except (TypeError, ValueError):  # a sparse or foreign array
        return _objects(name, np.asarray(column, object))


def _numbers(name: str, values: npt.NDArray[Any]) -> Cells:
    return Cells(name, Kind.NUMBER, len(values), values.astype(np.float64, copy=False))


def _objects(name: str, values: npt.NDArray[np.object_]) -> Cells:
    codes, found = _coded(values)
    if not len(found):
        return Cells(name, Kind.EMPTY, len(values), missing=len(values))
    if all(isinstance(one, Number) and not isinstance(one, complex) for one in found):
        return Cells(name, Kind.NUMBER, len(values), np.array([*map(_float, found), np.nan])[codes])
    if all(isinstance(one, timedelta) for one in found):
        return Cells(name, Kind.NUMBER, len(values), np.array([*(one.total_seconds() for one in found), np.nan])[codes])
    if all(isinstance(one, date) for one in found):  # datetimes are dates
        return Cells(name, Kind.TIME, len(values), missing=int((codes < 0).sum()))
    places: dict[str, int] = {}
    # 1 and "1" are the same text.
    again = np.array([*(places.setdefault(_text(one), len(places)) for one in found), -1], np.int64)
    return Cells(name, Kind.TEXT, len(values), codes=again[codes], levels=tuple(places))


def _coded(values: npt.NDArray[np.object_]) -> tuple[Ints, npt.NDArray[np.object_]]:
    try:
        codes, found = pd.factorize(values)
    except TypeError:  # lists, dicts, arrays: what cannot be hashed
        texts = np.array(
            [one if isinstance(one, str | Number) or one is None else _text(one) for one in values], object
        )
        codes, found = pd.factorize(texts)
    return np.asarray(codes, np.int64), np.asarray(found, object)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):  # 10**400, or a signalling NaN
        return float("nan")


def _text(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if len(text) <= _LONG:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: _LONG - 17]}…{digest[:16]}"


def instants(times: object, rows: int) -> Ints:
    """Return moments as nanoseconds since 1970 (UTC where they name no zone, ISO 8601 where text); numbers as they are.

    Raises:
        DataError: there are not as many as rows, or they are no times.
    """
    dtype = getattr(times, "dtype", None)
    try:
        if isinstance(dtype, np.dtype) and dtype.kind == "M":
            return _as_many(np.asarray(times).astype("datetime64[ns]").view(np.int64), rows)
        index = pd.Index(times)  # type: ignore[call-overload]
        if pd.api.types.is_numeric_dtype(index.dtype):
            found = np.nan_to_num(index.to_numpy(np.float64), nan=-(2.0**62)).astype(np.int64)
        else:
            found = np.asarray(pd.DatetimeIndex(pd.to_datetime(index, utc=True, format="ISO8601")).as_unit("ns").asi8)
    except (TypeError, ValueError) as error:
        raise DataError(f"times cannot be read: {error}") from error
    return _as_many(found, rows)


def _as_many(found: npt.NDArray[Any], rows: int) -> Ints:
    if found.shape != (rows,):
        raise DataError(f"there are {found.size} times for {rows} rows")
    return found
