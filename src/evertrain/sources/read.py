"""Reading a source, whatever it is, into one table; and looking at it without reading."""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain.errors import ConfigError, DataError
from evertrain.specs import CsvFile, Function, ParquetFile, Source, SqlQuery

if TYPE_CHECKING:
    import polars as pl

    from evertrain.sources.table import Schema, Table


def called(source: Source) -> str:
    """Return how messages name a source: the file's name, the query, the function."""
    if isinstance(source, CsvFile | ParquetFile):
        return Path(source.path).name
    if isinstance(source, Function):
        return source.function
    if isinstance(source, SqlQuery):
        return source.query if len(source.query) <= 60 else source.query[:57] + "..."
    return "its dataset"


def look(source: Source, root: Path) -> str | None:
    """Return a text that changes when the source may have changed, without reading it; None when only reading tells.

    A file replaced by rename has another inode, so it is seen whatever its size and time.

    Raises:
        DataError: the file does not exist, or is no regular file.
    """
    if isinstance(source, CsvFile | ParquetFile):
        path = root / source.path
        try:
            found = path.stat()
        except FileNotFoundError:
            raise DataError(f"{source.path} is missing", source=source.path) from None
        except OSError as error:
            raise DataError(f"{source.path} cannot be looked at: {error.strerror}", source=source.path) from None
        if not path.is_file():
            raise DataError(f"{source.path} is no regular file", source=source.path)
        return json.dumps([found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns])
    if isinstance(source, SqlQuery) and source.probe:
        return json.dumps([list(row) for row in _select(source, source.probe, root)[1]], default=str)
    return None


def read(source: Source, root: Path, expected: Schema | None = None) -> Table:
    """Read a whole source.

    Raises:
        DataError: the source cannot be used; says where and why.
    """
    if isinstance(source, CsvFile):
        return _read_csv(source, root, expected)
    if isinstance(source, ParquetFile):
        return _read_parquet(source, root)
    if isinstance(source, SqlQuery):
        return _read_sql(source, root)
    if isinstance(source, Function):
        return _call(source)
    raise DataError("a dataset is in the store, nowhere else")


def _read_csv(source: CsvFile, root: Path, expected: Schema | None) -> Table:
    from evertrain.sources import csvtext

    try:
        data = (root / source.path).read_bytes()
    except OSError as error:
        raise DataError(f"{source.path} cannot be read: {error.strerror}", source=source.path) from None
    return csvtext.parse(data, source, expected=expected)


def _read_parquet(source: ParquetFile, root: Path) -> Table:
    import polars as pl

    try:
        # From bytes in memory, so that a file replaced while it is read cannot give a mixture.
        frame = pl.read_parquet((root / source.path).read_bytes())
    except OSError as error:
        raise DataError(f"{source.path} cannot be read: {error}", source=source.path) from None
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{source.path} is no usable Parquet file: {error}", source=source.path) from None
    return _typed(frame, called(source))


def _read_sql(source: SqlQuery, root: Path) -> Table:
    import polars as pl

    names, rows = _select(source, source.query, root)
    try:
        frame = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise DataError(f"the answer of {called(source)!r} has mixed types in a column: {error}") from None
    return _typed(frame, called(source))


def _select(source: SqlQuery, statement: str, root: Path) -> tuple[list[str], Sequence[Any]]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(_url(source, root))
        try:
            with engine.connect() as connection:
                if isinstance(driver := connection.connection.driver_connection, sqlite3.Connection):
                    driver.execute("PRAGMA query_only = ON")
                answer = connection.execute(text(statement))
                return list(answer.keys()), [tuple(row) for row in answer]
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise DataError(f"{called(source)!r} failed: {reason}") from None


def _url(source: SqlQuery, root: Path) -> Any:
    """Return the database's URL; a SQLite file is relative to the project's folder, and never made by asking."""
    from sqlalchemy import make_url

    text = source.url
    if text.startswith("env:") and not (text := os.environ.get(variable := source.url.removeprefix("env:"), "")):
        raise DataError(f"{called(source)!r} failed: the variable {variable}, which holds its URL, is not set")
    url = make_url(text)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith(("file:", ":memory:")):
        path = root / url.database
        if not path.is_file():
            raise DataError(f"{called(source)!r} failed: {path.name} is missing", source=path.name)
        url = url.set(database=str(path))
    return url


def _call(source: Function) -> Table:
    """Call a user's function; only a worker child comes here."""
    return framed(call(source.function, **dict(source.params)), source.function)


def framed(frame: Any, name: str) -> Table:
    """Return a pandas or Polars data frame as a table.

    Raises:
        DataError: it is something else, or a column holds what no column can.
    """
    import polars as pl

    if not isinstance(frame, pl.DataFrame):
        try:
            frame = pl.DataFrame({str(column): _plain(frame[column]) for column in frame.columns})
        except Exception as error:  # noqa: BLE001 - whatever a user gives
            raise DataError(
                f"{name} is {type(frame).__name__}; a pandas or Polars data frame is needed ({error})"
            ) from None
    return _typed(frame, name)


def call(path: str, **params: Any) -> Any:
    """Import "module:function" and call it.

    Raises:
        ConfigError: there is no such module or function.
    """
    return load(path)(**params)


def load(path: str) -> Any:
    """Return what an import path names."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError("import path", path, f"an importable module:name ({error})") from None
    return found


def _plain(series: Any) -> Any:
    """Return a pandas column as values that Polars takes without pyarrow."""
    import numpy as np

    if str(series.dtype).startswith("datetime64"):
        # Times without a zone are UTC, as everywhere.
        zoned = getattr(series.dtype, "tz", None) is not None
        return (series.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else series).to_numpy()
    if isinstance(series.dtype, np.dtype) and series.dtype != object:
        return series.to_numpy()
    # Objects, categories and pandas' own types write a missing value in many ways; `isna` knows them all.
    return [None if missing else value for value, missing in zip(series.tolist(), series.isna(), strict=True)]


def _typed(frame: pl.DataFrame, name: str) -> Table:
    import polars as pl

    from evertrain.sources.table import DTYPES, ColumnType, Table, schema_of

    naive = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime) and dtype.time_zone is None]
    # Columns and not `pl.col`: a column may be called "*" or "^x$", which there are patterns.
    frame = frame.with_columns(
        [frame[name].dt.replace_time_zone("UTC") for name in naive]
        + [frame[name].cast(pl.Float64) for name, dtype in frame.schema.items() if dtype.is_decimal()]
    )
    try:
        types = schema_of(frame)
        frame = frame.with_columns([frame[name].cast(DTYPES[ColumnType(kind)]) for name, kind in types.items()])
    except (DataError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{name}: {error}") from None
    return Table(frame)
