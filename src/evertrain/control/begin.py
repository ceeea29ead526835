"""Beginning: from a file of rows to a project file, with every guess and its reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain.config import PROJECT_FILES, project_file
from evertrain.errors import ConfigError, Conflict, DataError, Undecided
from evertrain.partitions import printable
from evertrain.specs import CsvFile, ParquetFile, spoken

if TYPE_CHECKING:
    from evertrain.sources.table import Table

_TARGETS = ("target", "label", "class", "y", "outcome", "species", "price", "sales", "churn", "demand", "sold", "amount",
            "quantity", "value", "score", "rating", "survived", "medhouseval")  # fmt: skip
_KEYS = ("id", "_id", "key", "uuid", "number", "record_id")
_FEW_CLASSES = 20
_MOST = 0.9  # of a column's texts that have to look alike before it is said what they look like
_DECIMAL_COMMA = r"^\s*[+-]?[0-9]+(\.[0-9]{3})*,[0-9]+\s*$"
_WRITTEN_DATE = r"^\s*([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4}|[0-9]{2})(\s.*)?$"
_NUMBER_OR_DATE = re.compile(
    r"\s*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?[0-9]+,[0-9]+|[0-9]{4}-[0-9]{2}-[0-9]{2}.*)\s*"
)
_STEPS = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}


@dataclass(frozen=True)
class Guess:
    """One guess about a file: what, the value, and why."""

    what: str
    value: str
    reason: str


@dataclass(frozen=True)
class Guessed:
    """What was guessed of a file, and the project file made from it."""

    name: str
    guesses: list[Guess]
    text: str
    target: str
    task: str
    warnings: list[str] = field(default_factory=list)


def guess(file: Path, root: Path, *, target: str | None = None) -> Guessed:
    """Return what a CSV or Parquet file seems to hold, and a commented project file for it.

    Raises:
        ConfigError: `target` is no column of the file, or there is no column that could be one.
        DataError: the file cannot be read, or has no line of column names.
    """
    relative = _relative(file, root)
    parquet = file.suffix in (".parquet", ".pq")
    source = ParquetFile(relative) if parquet else CsvFile(relative)
    table, undecided = _read(source, root)
    frame = table.frame
    if not frame.height:
        raise DataError(
            f"{relative} has no usable rows{f', {_aside(table)}' if table.set_aside_count else ''}", source=relative
        )
    if frame.width < 2:
        raise DataError(
            f"{relative} has one column; a model needs a target and something to tell it from", source=relative
        )
    warnings = undecided if parquet else [*undecided, *_header_warnings(frame.columns, relative)]
    if target is not None and target not in frame.columns:
        raise ConfigError("--target", target, ", ".join(frame.columns))
    time, key = _time(frame), _key(frame)
    if target is not None and (fault := _unfit(frame[target])):
        raise _no_target(frame, target, fault)
    aimed = (
        Guess("target", target, "you named it")
        if target
        else _target(frame, {time.value if time else "", key.value if key else ""})
    )
    warnings += _warnings(frame, dated=time is not None)
    task, why = _task(frame[aimed.value])
    guesses = [Guess("rows", f"{frame.height}", _aside(table)), aimed, Guess("task", task, why)]
    guesses += [
        one for one in (time, time and _frequency(frame, time.value), key, _partition(frame, aimed.value)) if one
    ]
    name = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")[:64] or "model"
    return Guessed(name, guesses, _text(name, source, guesses, frame.height), aimed.value, task, warnings)


def rows_of(file: Path) -> Table:
    """Return the rows of a CSV or Parquet file.

    Raises:
        DataError: the file cannot be read, or has no usable row.
    """
    from evertrain.sources.read import read

    source = ParquetFile(file.name) if file.suffix in (".parquet", ".pq") else CsvFile(file.name)
    table = read(source, file.resolve().parent)
    if not table.frame.height:
        aside = f", {_aside(table)}" if table.set_aside_count else ""
        raise DataError(f"{file.name} has no usable rows{aside}", source=file.name)
    return table


def write(root: Path, text: str, *, force: bool = False) -> Path:
    """Write a project file.

    Raises:
        Conflict: there is one and `force` was not given.
    """
    if (present := project_file(root)) and not force:
        raise Conflict(f"{present} exists; --force overwrites it")
    root.mkdir(parents=True, exist_ok=True)
    path = root / PROJECT_FILES[0]
    path.write_text(text, encoding="utf-8")
    return path


def _relative(file: Path, root: Path) -> str:
    found = file.resolve()
    return str(found.relative_to(root.resolve())) if found.is_relative_to(root.resolve()) else str(found)


def _aside(table: Any) -> str:
    return (
        "all usable"
        if not table.set_aside_count
        else f"{table.set_aside_count} set aside, the first: {table.set_aside[0].reason}"
    )


def _time(frame: Any) -> Guess | None:
    found = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    if not found:
        return None
    best = max(found, key=lambda name: frame[name].n_unique())
    return Guess("time", best, f"holds moments from {frame[best].min()} to {frame[best].max()}")


def _key(frame: Any) -> Guess | None:
    for name in frame.columns:
        whole = frame[name].dtype.is_integer() or str(frame[name].dtype) == "String"
        named = name.lower() in _KEYS or name.lower().endswith("_id")
        if named and whole and frame[name].null_count() == 0 and frame[name].n_unique() == frame.height:
            return Guess("key", name, "every value stands once, and its name says so")
    return None


def _target(frame: Any, taken: set[str]) -> Guess:
    free = [name for name in frame.columns if name not in taken]
    if not free:
        raise ConfigError("file", ", ".join(frame.columns), "a column to predict beside time and key")
    named = [column for name in _TARGETS for column in free if column.lower() == name]
    fit = [column for column in named or reversed(free) if not _unfit(frame[column])]
    if not fit:
        first = named[0] if named else free[-1]
        raise _no_target(frame, first, _unfit(frame[first]) or "")
    if named:
        return Guess("target", fit[0], "its name is a usual one for what is predicted")
    last = (
        "the last column, where the target often stands"
        if fit[0] == free[-1]
        else "the last column that could be a target"
    )
    return Guess("target", fit[0], f"{last}; --target names another")


def _read(source: CsvFile | ParquetFile, root: Path) -> tuple[Table, list[str]]:
    """Return a file's rows, and what must be declared before they can be read: such columns are texts meanwhile."""
    from evertrain.sources.read import read

    texts: dict[str, str] = {}
    warnings: list[str] = []
    while True:
        try:
            return read(source, root, texts), warnings
        except Undecided as error:
            if error.column is None or error.column in texts:
                raise
            texts[error.column] = "text"
            warnings.append(str(error))


def _unfit(column: Any) -> str | None:
    """Return why a column cannot be a target: texts of which most are different are no classes."""
    known = column.drop_nulls()
    different = known.n_unique()
    if str(column.dtype) != "String" or different <= _FEW_CLASSES or different <= len(known) / 2:
        return None
    looks = ", which look like numbers with a decimal comma: write them with a point" if _like_decimals(column) else ""
    return f"it holds {different} different texts in {len(known)} rows{looks}"


def _no_target(frame: Any, name: str, fault: str) -> ConfigError:
    fit = [one for one in frame.columns if one != name and not _unfit(frame[one])]
    others = f", such as {', '.join(fit[:8])}" if fit else ""
    return ConfigError("--target", name, f"a column of numbers, or of texts that repeat{others}; {fault}")


# --- what may have been misread ---------------------------------------------------------------------------------


def _header_warnings(names: list[str], file: str) -> list[str]:
    data = [name for name in names if _NUMBER_OR_DATE.fullmatch(name)]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    if len(data) == len(names):
        raise DataError(
            f"line 1 of {file} does not look like column names: {shown}; write a header line above it", source=file
        )
    # Whole numbers alone may be names, as years are in a table of years.
    if any(not name.strip().isdigit() for name in data) or 2 * len(data) > len(names):
        return [f"line 1 does not look like column names: {shown}; if it is a row, write a header line above it"]
    return []


def _warnings(frame: Any, *, dated: bool) -> list[str]:
    found = []
    for name in frame.columns:
        if str(frame[name].dtype) != "String":
            continue
        if _like_decimals(frame[name]):
            found.append(
                f"column {name!r} looks like numbers with a decimal comma; it is read as text, write them with a point"
            )
        elif order := _written_dates(frame[name]):
            otherwise = "it is read as text" if dated else "rows are split at random"
            found.append(f"column {name!r} looks like dates written {order}; write YYYY-MM-DD, or {otherwise}")
    return found


def _like_decimals(column: Any) -> bool:
    known = column.drop_nulls()
    alike = known.str.contains(_DECIMAL_COMMA) | known.str.contains(r"^\s*[+-]?[0-9]+\s*$")
    return len(known) > 0 and bool(known.str.contains(_DECIMAL_COMMA).any() and alike.mean() >= _MOST)


def _written_dates(column: Any) -> str | None:
    """Return the order in which most texts of a column write day, month and year; None where they do not."""
    import polars as pl

    known = column.drop_nulls()
    if not len(known) or known.str.contains(_WRITTEN_DATE).mean() < _MOST:
        return None
    first, second = (known.str.extract(_WRITTEN_DATE, group).cast(pl.Int64, strict=False).max() for group in (1, 2))
    if max(first, second) > 31 or min(first, second) > 12:
        return None
    return "m/d/Y" if second > 12 else "d/m/Y"


def _task(column: Any) -> tuple[str, str]:
    different = column.n_unique()
    if str(column.dtype) in ("String", "Boolean"):
        return "classification", f"{different} different texts"
    if column.dtype.is_integer() and different <= _FEW_CLASSES:
        return "classification", f"{different} different whole numbers"
    return "regression", f"{different} different numbers"


def _frequency(frame: Any, time: str) -> Guess | None:
    steps = frame[time].drop_nulls().unique().sort().diff().drop_nulls()
    if not len(steps):
        return None
    step, same = steps.median(), float((steps == steps.median()).mean())
    for name, size in _STEPS.items():
        if step == size:
            return Guess("frequency", name, f"{same:.0%} of the steps are {spoken(size)}")
    if isinstance(step, timedelta) and timedelta(days=28) <= step <= timedelta(days=31):
        return Guess("frequency", "monthly", "the steps are 28 to 31 days")
    return None


def _partition(frame: Any, target: str) -> Guess | None:
    for name in frame.columns:
        if name == target or str(frame[name].dtype) != "String":
            continue
        different = frame[name].n_unique()
        if 2 <= different <= 500 and frame.height / different >= 50:
            return Guess(
                "partition?",
                name,
                f"{different} values with about {frame.height // different} rows each; one model each, if you want",
            )
    return None


_TEXT = '''"""What Evertrain keeps fresh. `evertrain reload` reads this file again after a change."""

from sklearn.ensemble import {estimator}

from evertrain import {imports}

project = Project("{name}")

# {where}
rows = project.source("{name}", {source})

project.model(
    "{name}",
    rows,
    target={target},  # {target_reason}
    trainer={estimator}(),  # any scikit-learn estimator, a command, or a class of yours
    scores={scores},  # the first one decides whether a new model may serve
    gate=Gate("{score}", tolerance="5%"),  # a new model may be worse by this much and no more
    triggers=[
        on_data_change(quiet="2s"),  # when rows change and the file has been still for 2 s
        max_age("24h"),  # when the model gets old
        weekly("wed", "03:00"),  # and every Wednesday night
        on_score_drop("5%"),  # when it does worse on new labelled rows
    ],
    min_samples={least},  # with fewer rows nothing is trained
{partition})
'''


def _text(name: str, source: CsvFile | ParquetFile, guesses: list[Guess], rows: int) -> str:
    by = {one.what: one for one in guesses}
    classifies = by["task"].value == "classification"
    options = [_quoted(source.path)]
    if "key" in by:
        options.append(f"key=[{_quoted(by['key'].value)}]")
    if "time" in by:
        options.append(f"time={_quoted(by['time'].value)}")
    kind, part = type(source).__name__, by.get("partition?")
    told = [one for one in guesses if one.what in ("rows", "time", "frequency", "key")]
    return _TEXT.format(
        name=name,
        estimator="RandomForestClassifier" if classifies else "RandomForestRegressor",
        imports=", ".join(sorted([kind, "Gate", "Project", "max_age", "on_data_change", "on_score_drop", "weekly"])),
        where=printable("; ".join(f"{one.what}: {one.value} ({one.reason})" for one in told)),
        source=f"{kind}({', '.join(options)})",
        target=_quoted(by["target"].value),
        target_reason=by["target"].reason,
        scores='["accuracy", "f1"]' if classifies else '["r2", "rmse"]',
        score="accuracy" if classifies else "r2",
        least=max(10, min(100, rows // 2)),
        partition=f"    # partition_by={_quoted(part.value)},  # {part.reason}\n" if part else "",
    )


def _quoted(text: str) -> str:
    """Return a name from a file as a Python literal: names are data, whatever they hold."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


EXAMPLE = _TEXT.format(
    name="sales",
    estimator="RandomForestRegressor",
    imports="CsvFile, Gate, Project, max_age, on_data_change, on_score_drop, weekly",
    where="rows with a header line; relative to this folder",
    source='CsvFile("data/sales.csv")',
    target='"sold"',
    target_reason="the column to predict",
    scores='["r2", "rmse"]',
    score="r2",
    least=100,
    partition='    # partition_by="town",  # one model for each town, and one for all\n',
)
