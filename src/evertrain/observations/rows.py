"""Rows of observations: values, ids and times as they are stored, features as bytes, and back into a window."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evertrain.errors import DataError
from evertrain.partitions import KeyText, printable

if TYPE_CHECKING:
    import polars as pl

Value: TypeAlias = int | float | str | None

_LONGEST_ID, _LONGEST_TEXT = 500, 1_000_000
MISSING = np.iinfo(np.int64).min
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)


@dataclass(frozen=True, eq=False)
class Window:
    """The newest observations, oldest first.

    Attributes:
        features: one row per observation; columns of all of them, with the widest type, null where a row has none.
        ids, keys, versions: of each row; a version is None where it was not told.
        times: when it was predicted, UTC, datetime64[us].
        predicted, actual: float64 with NaN for missing, or objects with None where any of them is a text.
        labelled: when the first actual came, datetime64[us], NaT where none did.
        probabilities: shape (rows, classes), NaN where none were given; None where no row has any.
        classes: what the columns of `probabilities` stand for.
        share: of the rows seen that are kept; below one it is a uniform sample.
        notes: what else a reader should know, each one sentence.
    """

    features: pl.DataFrame
    ids: list[str]
    keys: list[KeyText]
    versions: list[str | None]
    times: NDArray[np.datetime64]
    predicted: NDArray[Any]
    actual: NDArray[Any]
    labelled: NDArray[np.datetime64]
    probabilities: NDArray[np.float64] | None
    classes: tuple[Value, ...]
    share: float
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_actual(self) -> NDArray[np.bool_]:
        """Which rows have their actual."""
        return ~np.isnat(self.labelled)


# --- rows into bytes and back -----------------------------------------------------------------------------------


def typed(frame: object) -> pl.DataFrame:
    """Return features with one of the six types per column; what is mixed or nested becomes text.

    Raises:
        DataError: it is no table, or a text is longer than a million characters.
    """
    import polars as pl

    from evertrain.sources import read

    try:
        if isinstance(frame, Mapping):
            frame = pl.DataFrame({str(name): _column(list(values)) for name, values in frame.items()})
        elif isinstance(frame, Sequence) and not isinstance(frame, str | bytes):
            names = dict.fromkeys(name for row in frame for name in row)
            frame = pl.DataFrame({str(name): _column([row.get(name) for row in frame]) for name in names})
        try:
            found = read.framed(frame, "the rows").frame
        except DataError:
            columns: Any = frame
            plain_ = {
                str(name): _column(
                    list(columns[name].to_list() if hasattr(columns[name], "to_list") else columns[name])
                )
                for name in columns.columns
            }
            found = read.framed(pl.DataFrame(plain_), "the rows").frame
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the rows are {type(frame).__name__} ({error}); give a data frame, columns by name, or one mapping per row"
        ) from None
    for name, dtype in found.schema.items():
        if dtype == pl.String and (found[name].str.len_bytes() > _LONGEST_TEXT).any():
            raise DataError(f"column {name!r} holds a text of more than {_LONGEST_TEXT:,} bytes", column=name)
    return found


def _column(values: list[object]) -> pl.Series:
    """Return values as a column of one type: numbers where they all are, else text."""
    import polars as pl

    values = [None if _is_missing(one) else one.item() if isinstance(one, np.generic) else one for one in values]
    kinds = {type(one) for one in values if one is not None}
    if len(kinds) <= 1 and not kinds & {list, dict, tuple, set, bytes}:
        try:
            return pl.Series(values)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            pass
    if kinds and kinds <= {int, float, bool}:
        return pl.Series([None if one is None else float(one) for one in values], dtype=pl.Float64)  # type: ignore[arg-type]
    return pl.Series([None if one is None else str(one) for one in values], dtype=pl.String)


def _is_missing(value: object) -> bool:
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or bool(isinstance(value, float | np.floating | np.datetime64) and value != value)
    )


def encoded(
    frame: pl.DataFrame, count: int, probabilities: object, classes: Sequence[object] | None
) -> tuple[str, Iterable[bytes | None], Iterable[str | None]]:
    """Return the layout, and of each row the bytes of what is no text and the texts as JSON."""
    from evertrain.sources.table import schema_of

    kinds = {
        name: "missing" if frame[name].null_count() == frame.height else kind for name, kind in schema_of(frame).items()
    }
    fixed = [_bits(frame[name], kind) for name, kind in kinds.items() if kind not in ("text", "missing")]
    told: list[Value] = []
    if probabilities is not None:
        try:
            found = np.asarray(probabilities, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"the probabilities are no numbers: {error}") from None
        if found.ndim != 2 or len(found) != count or (classes is not None and found.shape[1] != len(classes)):
            wanted = f"({count}, {len(classes) if classes is not None else 'classes'})"
            raise DataError(f"the probabilities have shape {found.shape}; needed is {wanted}")
        told = plain(classes if classes is not None else range(found.shape[1]), "class")
        fixed += [np.ascontiguousarray(column).view(np.int64) for column in found.T]
    layout = json.dumps({"columns": list(kinds.items()), "classes": told}, ensure_ascii=False)
    texts: Iterable[str | None] = repeat(None, count)
    if named := [name for name, kind in kinds.items() if kind == "text"]:
        texts = [json.dumps(row, ensure_ascii=False) for row in frame.select(named).iter_rows()]
    if not fixed:
        return layout, repeat(None, count), texts
    data, width = np.column_stack(fixed).tobytes(), 8 * len(fixed)
    return layout, [data[at : at + width] for at in range(0, count * width, width)], texts


def _bits(column: pl.Series, kind: str) -> NDArray[np.int64]:
    import polars as pl

    if kind == "number":
        return column.fill_null(float("nan")).to_numpy().astype(np.float64).view(np.int64)
    whole = column.to_physical() if kind in ("date", "instant") else column
    return whole.cast(pl.Int64).fill_null(MISSING).to_numpy().astype(np.int64)


def _decoded(layout: Mapping[str, Any], rows: Sequence[tuple[Any, ...]]) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Return the features and probabilities of rows of one layout."""
    import polars as pl

    from evertrain.sources.table import DTYPES, ColumnType

    fixed = [kind for _, kind in layout["columns"] if kind not in ("text", "missing")]
    width = len(fixed) + len(layout["classes"])
    bits = np.frombuffer(b"".join(row[6] for row in rows), np.int64).reshape(-1, width) if width else None
    texts = list(zip(*(json.loads(row[7]) for row in rows), strict=True)) if rows and rows[0][7] is not None else []
    columns: dict[str, pl.Series] = {}
    place = 0
    for name, kind in layout["columns"]:
        if kind == "missing":
            columns[name] = pl.Series([None] * len(rows), dtype=pl.Null)
        elif kind == "text":
            columns[name] = pl.Series(texts.pop(0), dtype=pl.String)
        else:
            assert bits is not None
            own = np.ascontiguousarray(bits[:, place])
            place += 1
            if kind == "number":
                columns[name] = pl.Series(own.view(np.float64)).fill_nan(None)
            else:
                found = pl.Series(own).set(pl.Series(own == MISSING), None)
                columns[name] = found.cast(pl.Int32 if kind == "date" else pl.Int64).cast(DTYPES[ColumnType(kind)])
    empty: NDArray[np.float64] = np.empty((len(rows), 0))
    shares = empty if bits is None else np.ascontiguousarray(bits[:, len(fixed) :]).view(np.float64)
    return pl.DataFrame(columns), shares


def window_of(rows: list[tuple[Any, ...]], layouts: Mapping[int, Mapping[str, Any]], share: float) -> Window:
    import polars as pl

    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row[5], []).append(place)
    newest_first = sorted(groups, key=lambda one: -groups[one][-1])
    classes = list(dict.fromkeys(one for layout in newest_first for one in layouts[layout]["classes"]))
    shares = np.full((len(rows), len(classes)), np.nan)
    parts, order = [], []
    for number in newest_first:
        places = groups[number]
        frame, own = _decoded(layouts[number], [rows[place] for place in places])
        parts.append(frame)
        order += places
        if own.shape[1]:
            shares[np.ix_(places, [classes.index(one) for one in layouts[number]["classes"]])] = own
    features, notes = _joined(parts, [layouts[number] for number in newest_first])
    if features.width:
        features = features[np.argsort(np.array(order, dtype=np.int64)).tolist()]
    if share < 1:
        notes.append(f"1 in {round(1 / share)} rows is kept: a uniform sample of all that were seen")
    return Window(
        features if rows else pl.DataFrame(),
        [row[1] for row in rows],
        [KeyText(row[3]) for row in rows],
        [row[4] for row in rows],
        np.array([row[0] for row in rows], dtype="datetime64[us]"),
        _array([row[8] for row in rows]),
        _array([row[9] for row in rows]),
        np.array([MISSING if row[10] is None else row[10] for row in rows], dtype=np.int64).view("datetime64[us]"),
        shares if classes else None,
        tuple(classes),
        share,
        tuple(notes),
    )


def _joined(parts: list[pl.DataFrame], layouts: list[Mapping[str, Any]]) -> tuple[pl.DataFrame, list[str]]:
    """Return frames below each other, each column with the widest type that any has."""
    import polars as pl

    from evertrain.sources.table import DTYPES, ColumnType

    kinds: dict[str, dict[str, None]] = {}
    for layout in layouts:
        for name, kind in layout["columns"]:
            kinds.setdefault(name, {})[kind] = None
    wide: dict[str, str] = {}
    notes = []
    for name, found in kinds.items():
        own = set(found) - {"missing"}
        if len(own) <= 1:
            wide[name] = next(iter(own), "text")
        elif own <= {"integer", "number", "boolean"}:
            wide[name] = "number" if "number" in own else "integer"
        elif own == {"date", "instant"}:
            wide[name] = "instant"
        else:
            wide[name] = "text"
            notes.append(f"column {name!r} is {' and '.join(sorted(own))} in different rows, so it is given as text")
    cast = [
        frame.select(
            [
                _as(frame[name], DTYPES[ColumnType(kind)]) if name in frame.columns
                else pl.lit(None, DTYPES[ColumnType(kind)]).repeat_by(frame.height).explode().alias(name)
                for name, kind in wide.items()
            ]
        )
        if wide else frame
        for frame in parts
    ]  # fmt: skip
    return (pl.concat(cast) if cast else pl.DataFrame()), notes


def _as(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    import polars as pl

    if isinstance(dtype, pl.Datetime) and column.dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return column.cast(dtype)


def _array(values: list[Value]) -> NDArray[Any]:
    if any(isinstance(one, str) for one in values):
        return np.array(values, dtype=object)
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)


# --- values -----------------------------------------------------------------------------------------------------


def plain(values: Iterable[object], what: str) -> list[Value]:
    """Return numbers and texts as they are stored; what is missing is None, and truth is 1 or 0.

    Raises:
        DataError: one is something else.

    >>> plain([1, np.float32(0.5), True, "yes", float("nan"), None], "prediction")
    [1, 0.5, 1, 'yes', None, None]
    """
    if not isinstance(values, np.ndarray) and hasattr(values, "to_numpy"):
        values = values.to_list() if hasattr(values, "to_list") else values.to_numpy()
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise DataError(f"the {what}s have shape {values.shape}; one per row is needed, shape (n,)")
        if values.dtype.kind in "fiub":
            found = values.astype(np.float64).tolist() if values.dtype.kind == "f" else values.astype(object).tolist()
            return [_number(one) for one in found]
        values = values.tolist()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"the {what}s are {type(values).__name__}; one per row is needed")
    return [_value(one, what, place) for place, one in enumerate(values, 1)]


def _number(value: float) -> Value:
    if value != value:
        return None
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else float(value)
    return value


def _value(value: object, what: str, place: int) -> Value:
    if _is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        if len(value) <= _LONGEST_TEXT:
            return value
        raise DataError(f"row {place}: the {what} is a text of {len(value):,} characters; at most {_LONGEST_TEXT:,}")
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise DataError(
        f"row {place}: the {what} is {_short(value)} ({type(value).__name__}); a number or a text is needed"
    )


def id_of(value: object, place: int) -> str:
    """Return an id as it is stored: text, so that the 7 of a file and the 7 of an application meet.

    Raises:
        DataError: it is missing or too long.

    >>> id_of(7.0, 1)
    '7'
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a column of integers with a gap becomes
    text = "" if _is_missing(value) else str(value)
    if not text or len(text) > _LONGEST_ID or "\0" in text:
        raise DataError(
            f"row {place}: the id is {_short(value)}; a number, or a text of at most {_LONGEST_ID} characters is needed"
        )
    return text


def _short(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def drawn(now: datetime, count: int) -> Iterator[str]:
    """Return new ids; neighbours in time are neighbours in the index, which makes writing them fast."""
    batch = f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(6)}"
    return (f"{batch}-{number}" for number in range(count))


def hash_of(name: str) -> int:
    """Return 32 bits that say, by how many of the last are zero, how long a row is kept."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=4).digest(), "big")


def per_row(what: str, values: Sequence[Any] | None, count: int) -> list[Any] | None:
    if values is None:
        return None
    found = list(values)
    if len(found) != count:
        raise DataError(f"there are {len(found)} {what}s for {count} rows")
    return found


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def instants(values: Sequence[object] | None, now: datetime, count: int, what: str) -> Iterable[int]:
    """Return instants in microseconds; those without a zone are UTC, as everywhere."""
    if values is None:
        return repeat(micros(now), count)
    given = per_row("time", values, count) or []
    found = [_moment(one, what, place) for place, one in enumerate(given, 1)]
    if found and (latest := max(found)) > micros(now + _AHEAD):
        place = found.index(latest) + 1
        raise DataError(f"row {place}: {what} is {_short(given[place - 1])}, more than a day ahead of now")
    return found


def _moment(value: object, what: str, place: int) -> int:
    try:
        if isinstance(value, np.datetime64) and not np.isnat(value):
            return int(value.astype("datetime64[us]").astype(np.int64))
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(found, date) and not isinstance(found, datetime):
            found = datetime(found.year, found.month, found.day)  # noqa: DTZ001 - made UTC below
        if isinstance(found, datetime) and not _is_missing(found):
            return micros(found if found.tzinfo else found.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        pass
    raise DataError(f"row {place}: {what} is {_short(value)}; an instant such as 2026-02-28T12:30:00Z is needed")
