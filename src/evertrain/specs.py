"""Declarations: what a project is made of, as frozen values that print, compare and turn into JSON and TOML.

A declaration is validated when it is made. Nothing here runs anything: trainers and functions are import paths with
parameters, so that the loop, the server and the command line can work from the stored JSON without importing a
line of user code.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, cast, dataclass_transform, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evertrain.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def spec(cls: type[T]) -> type[T]:
    """Make `cls` a validated frozen dataclass whose errors are `ConfigError`."""
    made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise config_error(cls.__name__, error) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


def config_error(where: str, error: ValidationError) -> ConfigError:
    """Return the first fault of a pydantic error in our words: name, value, what is allowed."""
    first = error.errors()[0]
    loc = [str(part) for part in first["loc"]]
    fields = _fields_of(where)
    if fields and loc[0].isdigit():  # pydantic names a positional argument by its place
        loc[0] = fields[int(loc[0])]
    name = ".".join([where, *loc])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return UnknownName(".".join([where, *loc[:-1]]) + " field", loc[-1], fields or _fields_at(where, loc[:-1]))
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(name, "missing", "a value")
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kinds = _kinds_at([where, *loc])
        listed = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else "".join(kinds)
        return ConfigError(name, first["input"], f"a table with kind = {listed}")
    cause = first.get("ctx", {}).get("error")
    allowed = str(cause) if cause else re.sub("^(Input should be|String should have) ", "", first["msg"])
    return ConfigError(name, first["input"], allowed)


def _kinds_at(loc: Sequence[str]) -> list[str]:
    """Return the kinds that a text may name at a place, quoted; an inline trainer is no text."""
    unions: dict[str, Any] = {
        "trainer": TrainerSpec,
        "triggers": Trigger,
        "trigger": Trigger,
        "sources": Source,
        "source": Source,
        "notify": Channel,
    }
    found = next((unions[step] for step in reversed(loc) if step in unions), None)
    kinds = [one.__dataclass_fields__["kind"].default for one in get_args(found) if one is not Inline]
    return [repr(one) for one in kinds]


def _fields_of(where: str) -> list[str]:
    found = globals().get(where)
    return list(getattr(found, "__dataclass_fields__", {}))


def _fields_at(where: str, loc: Sequence[str]) -> list[str]:
    """Return the fields of the declaration at a place, e.g. of the Gate at "project", ["models", "iris", "gate"]."""
    found: Any = {"project": ProjectSpec, "model": ModelSpec}.get(where)
    steps = {
        "models": ModelSpec,
        "gate": Gate,
        "series": Series,
        "keep": Retention,
        "partition_by": Dimension,
        "on_bad_rows": BadRows,
        "storm": Storm,
    }
    kinds = [*get_args(Source), *get_args(TrainerSpec), *get_args(Trigger), *get_args(Channel)]
    tags = {one.__dataclass_fields__["kind"].default: one for one in kinds}
    mapping = False
    for step in loc:
        if mapping:  # a name that a person chose
            mapping = False
            continue
        found = steps.get(step) or tags.get(step) or found
        mapping = step in ("models", "sources")
    return list(getattr(found, "__dataclass_fields__", {}))


# --- values -----------------------------------------------------------------------------------------------------

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def parse_duration(value: object) -> timedelta:
    """Return the duration that a text such as "2s", "24h", "90d" or "1h30m" names.

    >>> parse_duration("1h30m")
    datetime.timedelta(seconds=5400)
    """
    allowed = "a duration such as '2s', '10m', '24h' or '90d'"
    if isinstance(value, timedelta):
        found = value
    elif isinstance(value, str) and re.fullmatch(r"([0-9]+(\.[0-9]+)?\s*[smhdw]\s*)+", value.strip()):
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])", value)
        try:
            # Part by part: one sum of seconds would round the small ones away.
            found = sum((timedelta(seconds=float(number) * _UNITS[unit]) for number, unit in parts), timedelta(0))
        except OverflowError:
            raise ValueError(f"{allowed}, of at most {timedelta.max.days} days") from None
    else:
        raise ValueError(allowed)
    if found < timedelta(0):
        raise ValueError(allowed)
    return found


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back.

    >>> format_duration(timedelta(hours=36))
    '1d12h'
    """
    parts = [f"{value.days}d"] if value.days else []
    left = value.seconds
    for unit, size in (("h", 3600), ("m", 60)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    if left or value.microseconds or not parts:
        parts.append(f"{left}.{value.microseconds:06}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def spoken(value: timedelta) -> str:
    """Return a duration as people say it, in one unit with at most one decimal.

    >>> spoken(timedelta(hours=36)), spoken(timedelta(seconds=2.5)), spoken(timedelta(days=10))
    ('36 h', '2.5 s', '10 d')
    """
    seconds = value.total_seconds()
    for unit, size, least in (("d", 86400, 2 * 86400), ("h", 3600, 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{round(seconds / size, 1):g} {unit}"
    return f"{round(seconds, 1):g} s"


def parse_share(value: object) -> float:
    """Return the share that "5%" or 0.05 names.

    >>> parse_share("5%")
    0.05
    """
    allowed = "a share such as '5%' or 0.05, from 0 to 1"
    if isinstance(value, str) and (found := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", value)):
        number = float(found[1]) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(allowed)
    if not 0 <= number <= 1:
        raise ValueError(allowed)
    return number


def parse_name(value: object) -> str:
    """Return `value` if it can be a name: names are data and go into URLs, logs and messages, never into paths."""
    allowed = "a name of 1 to 64 characters from a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    if not isinstance(value, str) or unicodedata.normalize("NFKC", value) != value or not _NAME.fullmatch(value):
        raise ValueError(allowed)
    return value


def parse_name_of(what: str, value: object) -> str:
    """Return `value` if it can be the name of a `what`.

    Raises:
        ConfigError: it cannot.
    """
    return _checked(f"{what} name", parse_name, value)


def parse_import_path(value: object) -> str:
    if not isinstance(value, str) or not _IMPORT_PATH.fullmatch(value):
        raise ValueError("an import path such as 'features:build' (module:function)")
    return value


def _parse_features(value: object) -> object:
    if value is None or isinstance(value, str):
        return value if value is None else parse_import_path(value)
    found = _text_tuple(value)
    if not found or not isinstance(found, tuple) or any(one in found[:at] for at, one in enumerate(found)):
        raise ValueError("column names, at least one and each once, or an import path such as 'features:build'")
    return found


def _text_tuple(value: object) -> object:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError("a list of names")
    return tuple(value)


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def _parse_dimensions(value: object) -> object:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence):
        raise ValueError("a column name or a list of them")
    return tuple(Dimension(one) if isinstance(one, str) else one for one in value)


def _parse_levels(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(set(value)) == len(value):
        return tuple(sorted(value))
    raise ValueError("a list of per cents such as [80, 95], each once")


_DAYS = {name: i for i, name in enumerate(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])}
_DAY = f"(?:{'|'.join(_DAYS)})"
_WINDOW = re.compile(
    rf"(?:(?P<days>{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) )?"
    r"(?P<start>(?:[01][0-9]|2[0-3]):[0-5][0-9])-(?P<end>(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)"
)


def parse_window(value: object) -> tuple[frozenset[int], int, int]:
    """Return the days (0 = Monday) on which a window begins, and its first and last minute of the day.

    A window whose end is not after its start ends on the next day.

    >>> parse_window("sat 22:00-06:00")
    (frozenset({5}), 1320, 360)
    """
    allowed = "a window such as '08:00-18:00', 'mon-fri 08:00-18:00' or 'sat,sun 00:00-24:00'"
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    if found is None or found["start"] == found["end"]:
        raise ValueError(allowed)
    days: set[int] = set()
    for part in (found["days"] or "mon-sun").split(","):
        first, _, last = part.partition("-")
        length = (_DAYS[last or first] - _DAYS[first]) % 7
        days |= {(_DAYS[first] + i) % 7 for i in range(length + 1)}
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (found["start"], found["end"]))
    return frozenset(days), start, end


def _parse_blackout(value: object) -> object:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, Sequence):
        parse_window(value)  # says what is allowed
    found = tuple(" ".join(one.lower().split()) if isinstance(one, str) else one for one in cast("Any", listed))
    _check_ends(found)
    return found


def _check_ends(windows: Sequence[object]) -> None:
    week = bytearray(7 * 1440)
    for days, start, end in map(parse_window, windows):
        for day in days:
            for minute in range(start, end if end > start else end + 1440):
                week[(day * 1440 + minute) % len(week)] = 1
    if all(week):
        raise ValueError("windows that leave some minute of the week free; to stop training use auto='observe'")


def _parse_url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"env:[A-Za-z_][A-Za-z0-9_]*|(?!env:)[a-z][a-z0-9+._-]*:.+", value
    ):
        raise ValueError("a database URL such as 'sqlite:///shop.db', or 'env:NAME' to read it from a variable")
    return _without_password("SqlQuery.url", value)


def _parse_params(value: object) -> object:
    try:
        json.dumps(value, allow_nan=False, default=str, skipkeys=True)
    except ValueError:  # JSON has no word for them, and would quietly make them null: another model
        raise ValueError("numbers other than NaN and infinity") from None
    return value


def _parse_channel(value: object) -> object:
    return _without_password("Message.url", value) if isinstance(value, str) else value


# As SQLAlchemy divides a URL: the name ends at the first colon, the password at the "@".
_PASSWORD = re.compile(r"(?P<before>[^:/]+://[^:/@]*:)[^@]+(?P<behind>@.*)", re.DOTALL)
_SECRET = re.compile(r"([?&;](?:password|passwd|pwd|token|secret)=)[^&;]+", re.IGNORECASE)


def _without_password(name: str, value: str) -> str:
    hidden = _SECRET.sub(r"\1***", _PASSWORD.sub(r"\g<before>***\g<behind>", value))
    if hidden != value:  # the message must not carry on what it complains about
        raise ConfigError(
            name, hidden, "a URL without a password; put the whole URL into a variable and declare 'env:NAME'"
        )
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Share = Annotated[float, BeforeValidator(parse_share)]
Name = Annotated[str, BeforeValidator(parse_name)]
Params = Annotated[Mapping[str, Any], BeforeValidator(_parse_params)]
ImportPath = Annotated[str, BeforeValidator(parse_import_path)]
Columns = Annotated[tuple[str, ...], BeforeValidator(_text_tuple)]
Url = Annotated[str, BeforeValidator(_parse_url)]
Blackout = Annotated[tuple[str, ...], BeforeValidator(_parse_blackout)]
ChannelUrl = Annotated[str, Field(min_length=1), BeforeValidator(_parse_channel)]
Text = Annotated[str, Field(min_length=1)]
ColumnKind = Literal["integer", "number", "boolean", "date", "instant", "text"]
Positive = Annotated[int, Field(ge=1), BeforeValidator(_no_truth)]


class Auto(StrEnum):
    """What Evertrain may do by itself: train; record every decision and train nothing; look at nothing."""

    TRAIN = "train"
    OBSERVE = "observe"
    OFF = "off"


class Cause(StrEnum):
    """Why training was asked for: one list for triggers, decisions, runs, history and metrics."""

    DECLARATION = "declaration"
    MANUAL = "manual"
    DATA_CHANGE = "data_change"
    UPLOAD = "upload"
    SCORE_DROP = "score_drop"
    DRIFT = "drift"
    AGE = "age"
    SCHEDULE = "schedule"
    ENVIRONMENT = "environment"

    @property
    def is_correction(self) -> bool:
        """The champion learnt from data now known to be incomplete or wrong, or a person asked."""
        return self in (Cause.DECLARATION, Cause.MANUAL, Cause.DATA_CHANGE, Cause.UPLOAD)

    @property
    def trigger_type(self) -> str:
        """The word of the metrics, of the view `model_retraining_events` and of other programs: one of TRIGGER_TYPES.

        >>> Cause.DECLARATION.trigger_type
        'manual'
        """
        # A first training, or one for another declaration, is there because a person wrote it.
        return (Cause.MANUAL if self is Cause.DECLARATION else self).value


TRIGGER_TYPES = ("schedule", "age", "data_change", "score_drop", "drift", "environment", "manual", "upload")
"""Every value that `trigger_type` can have."""


# --- sources ----------------------------------------------------------------------------------------------------


@spec
class BadRows:
    """How many unusable rows a source may hold before all of it is refused: the larger of the two."""

    share: Share = 0.01
    rows: Annotated[int, Field(ge=0)] = 10


SET_ASIDE = BadRows()
REFUSE = BadRows(0.0, 0)


def _parse_bad_rows(value: object) -> object:
    named = {"set_aside": SET_ASIDE, "refuse": REFUSE}
    if isinstance(value, str):
        if value not in named:
            raise ValueError("'set_aside', 'refuse' or BadRows(share, rows)")
        return named[value]
    return value


OnBadRows = Annotated[BadRows, BeforeValidator(_parse_bad_rows)]


@spec
class CsvFile:
    """Rows in a CSV file, relative to the project's folder.

    Attributes:
        key: columns that identify a row; without them a row is identified by its content.
        time: column that says when a row happened; splits then go by time.
        delimiter: one character; by default the one of , ; tab | that divides the header most often.
        encoding: of the text; a byte order mark wins.
        null: texts that mean "missing", beside an empty cell.
        decimal: "," or "."; by default a comma where values leave no doubt, such as 3,5 in a file divided by ";".
        dates: "dmy" or "mdy" for days such as 31/12/2024; by default what a value above 12 shows.
        on_bad_rows: "set_aside" (up to 1 % or 10 rows), "refuse", or BadRows(share, rows).
        max_shrink: share of its rows that the file may lose between two reads before the read is held back.
    """

    path: Text
    key: Columns = ()
    time: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str = "utf-8"
    null: Columns = ("NA", "N/A", "NaN", "nan", "null", "NULL")
    decimal: Literal[".", ","] | None = None
    dates: Literal["dmy", "mdy"] | None = None
    on_bad_rows: OnBadRows = SET_ASIDE
    max_shrink: Share = 0.5
    kind: Literal["csv"] = "csv"


@spec
class ParquetFile:
    """Rows in a Parquet file, relative to the project's folder."""

    path: Text
    key: Columns = ()
    time: str | None = None
    on_bad_rows: OnBadRows = SET_ASIDE
    max_shrink: Share = 0.5
    kind: Literal["parquet"] = "parquet"


@spec
class SqlQuery:
    """The answer of a SELECT statement.

    Attributes:
        url: SQLAlchemy database URL, or "env:NAME".
        query: the statement; run read-only where the database can.
        probe: a cheap statement whose answer changes when the rows do, such as `select max(updated_at), count(*)
            from sales`; without it every check reads all rows.
    """

    url: Url
    query: Text
    probe: str | None = None
    key: Columns = ()
    time: str | None = None
    on_bad_rows: OnBadRows = SET_ASIDE
    max_shrink: Share = 0.5
    kind: Literal["sql"] = "sql"


def sql_table(
    url: str, table: str, *, probe: str | None = None, key: Sequence[str] = (), time: str | None = None
) -> SqlQuery:
    """Return a source of all rows of one table."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", table):
        raise ConfigError("table", table, "a table name such as sales or shop.sales; use SqlQuery for anything else")
    return SqlQuery(url, f"select * from {table}", probe=probe, key=tuple(key), time=time)  # noqa: S608


@spec
class Function:
    """The data frame that a function of yours returns; it runs in a worker child.

    Attributes:
        function: "module:name"; called with `params`, answers a pandas or Polars data frame.
        probe: "module:name" of a cheap function whose answer changes when the rows do.
    """

    function: ImportPath
    params: Params = field(default_factory=dict)
    probe: ImportPath | None = None
    key: Columns = ()
    time: str | None = None
    on_bad_rows: OnBadRows = SET_ASIDE
    max_shrink: Share = 0.5
    kind: Literal["function"] = "function"


@spec
class Dataset:
    """Rows that Evertrain keeps, with every version they had; written by `ingest`, `edit`, `delete` and `undo`.

    Attributes:
        key: columns that identify a row: the newer row of a key wins. Without them a row is its content.
        time: column that says when a row happened; splits then go by time.
        columns: types by name (integer, number, boolean, date, instant, text) of columns whose type the first batch
            may not show; others get the type that the first batch has.
        delimiter, encoding, decimal, dates: of CSV files, as in `CsvFile`.
        on_bad_rows: "refuse" the batch, "set_aside" (up to 1 % or 10 rows), or BadRows(share, rows).
        keep_history: how long rows of earlier versions are kept.
    """

    key: Columns = ()
    time: str | None = None
    columns: Mapping[str, ColumnKind] = field(default_factory=dict)
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str = "utf-8"
    decimal: Literal[".", ","] | None = None
    dates: Literal["dmy", "mdy"] | None = None
    on_bad_rows: OnBadRows = REFUSE
    max_shrink: Share = 1.0
    keep_history: Duration = timedelta(days=90)
    kind: Literal["dataset"] = "dataset"


Source = CsvFile | ParquetFile | SqlQuery | Function | Dataset
AnySource = Annotated[Source, Field(discriminator="kind")]


# --- trainers ---------------------------------------------------------------------------------------------------


@spec
class Estimator:
    """A scikit-learn estimator as import path and parameters; `Project.model` makes it from the object you pass.

    Attributes:
        preprocess: impute missing values and encode text columns first. None: unless `path` is a Pipeline.
    """

    path: ImportPath
    params: Params = field(default_factory=dict)
    preprocess: bool | None = None
    kind: Literal["sklearn"] = "sklearn"


@spec
class Command:
    """A program of yours that trains.

    `{data}` is a CSV file of the training rows and `{out}` the model file to write. With `predict=` ("… --model
    {model} --data {data} --out {out}", which writes one prediction a line under a header) the model is gated and
    served; a `.skops` file with `format="skops"` needs no `predict`. No shell is involved.

    Attributes:
        task: what the program predicts, which chooses the scores.
    """

    run: Text
    predict: str | None = None
    format: Literal["file", "skops"] = "file"
    task: Literal["classification", "regression"] = "regression"
    kind: Literal["command"] = "command"


@spec
class Custom:
    """A trainer class of yours as import path and parameters; see `Trainer` for what it must offer."""

    path: ImportPath
    params: Params = field(default_factory=dict)
    kind: Literal["custom"] = "custom"


@spec
class Inline:
    """A trainer object that lives in this process alone; needs `executor="inline"`."""

    name: str
    kind: Literal["inline"] = "inline"


TrainerSpec = Estimator | Command | Custom | Inline
AnyTrainer = Annotated[TrainerSpec, Field(discriminator="kind")]


def declared_task(trainer: TrainerSpec) -> Literal["classification", "regression"] | None:
    """Return what a trainer predicts as far as its declaration says it; None where only loading it tells.

    >>> declared_task(Estimator("sklearn.ensemble:RandomForestClassifier"))
    'classification'
    """
    if isinstance(trainer, Command):
        return trainer.task
    if isinstance(trainer, Estimator) and trainer.path.startswith("sklearn."):
        if trainer.path.endswith("Classifier"):
            return "classification"
        if trainer.path.endswith("Regressor"):
            return "regression"
    return None


class Context(Protocol):
    """What a trainer is told beside the rows."""

    target: str
    features: list[str]
    seed: int

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Report how far the fit is; throttled, so call it as often as you like."""


class SeriesContext(Context, Protocol):
    """What a forecasting trainer is told beside the rows.

    Attributes:
        freq: length of a period, as pandas writes it.
        season: periods of a season; 1 is none.
        h, level: periods ahead, and intervals in per cent, that will be asked for first.
        mean_only: whether no interval will ever be asked for, because the fit is one of a backtest; what only
            intervals need may be left out.
    """

    freq: str
    season: int
    h: int
    level: tuple[int, ...]
    mean_only: bool


class ForecastTrainer(Protocol):
    """What Evertrain asks of a trainer class of a forecasting model.

    `fit` gets a pandas frame of one regular series: `ds` (the label of each period, ascending, none left out) and
    `y` (float; NaN only under gaps="missing"). `forecast` answers "mean" and for each level "lo-80" and "hi-80",
    each of length h, as a mapping or a frame. `save`, `load` and `libraries` are those of `Trainer`.

    Two methods are optional: `least(season)` answers the fewest periods that it can learn from, below which a
    labelled naive forecast stands in; `update(fitted, frame, context)` learns the periods that are new.
    """

    @property
    def libraries(self) -> Sequence[str]: ...

    def fit(self, frame: pd.DataFrame, context: SeriesContext) -> Any: ...

    def save(self, fitted: Any) -> bytes: ...

    def load(self, data: bytes) -> Any: ...

    def forecast(self, fitted: Any, h: int, level: Sequence[int]) -> Any: ...


class Trainer(Protocol):
    """What Evertrain asks of a trainer class.

    `fit` gets a pandas frame with target and features and answers a fitted object. `save` writes that object as
    bytes and `load` reads them back; the loaded object, not the fitted one, is judged and served. `predict` answers
    one value per row, in order. `libraries` names the distributions whose version matters to saved models. `task`
    is "classification" or "regression".
    """

    @property
    def task(self) -> str: ...

    @property
    def libraries(self) -> Sequence[str]: ...

    def fit(self, frame: pd.DataFrame, context: Context) -> Any: ...

    def save(self, fitted: Any) -> bytes: ...

    def load(self, data: bytes) -> Any: ...

    def predict(self, fitted: Any, frame: pd.DataFrame) -> Any: ...


# --- triggers ---------------------------------------------------------------------------------------------------


@spec
class DataChange:
    """Rows were added, edited or removed.

    Attributes:
        quiet: how long the source must lie still before it is read.
        max_delay: after this long it is read even if it never lies still.
        rollups: how long rollups must lie still before they are trained, at most `max_delay` after their first change;
            None trains them together with their partitions.
    """

    quiet: Duration = timedelta(seconds=2)
    max_delay: Duration = timedelta(minutes=10)
    rollups: Duration | None = None
    kind: Literal["data_change"] = "data_change"

    def __post_init__(self) -> None:
        if self.rollups is not None and self.rollups > self.max_delay:
            allowed = f"at most max_delay, which is {format_duration(self.max_delay)}"
            raise ConfigError("DataChange.rollups", format_duration(self.rollups), allowed)


@spec
class MaxAge:
    """The champion was trained longer ago than `limit`."""

    limit: Duration
    kind: Literal["age"] = "age"

    def __post_init__(self) -> None:
        if not self.limit:  # every champion would be too old at once, and so would be the next
            raise ConfigError("max_age", format_duration(self.limit), "a duration longer than nothing")


@spec
class Schedule:
    """A moment of the calendar: `every` "day", "week", "month" at `at`, or a five-field cron expression.

    Attributes:
        day: of the week (0 = Monday) or of the month (1 to 31; a month that lacks it uses its last day).
        zone: IANA time zone; None is the project's.
    """

    every: Literal["day", "week", "month", "cron"]
    at: str = "03:00"
    day: int | None = None
    cron: str | None = None
    zone: str | None = None
    kind: Literal["schedule"] = "schedule"


@spec
class ScoreDrop:
    """The champion scores worse on labelled rows newer than its training than it did when promoted.

    Attributes:
        threshold: relative to the score at promotion; 5 % of 0.90 fires below 0.855.
        score: which score; None is the gate's.
        min_rows: labelled rows needed before the check says anything.
    """

    threshold: Share = 0.05
    score: str | None = None
    min_rows: Positive = 30
    kind: Literal["score_drop"] = "score_drop"


@spec
class Environment:
    """The libraries that the champion was trained with have changed (major.minor).

    Attributes:
        action: "report" records it; "retrain" also trains, one model at a time. A fit that no longer loads is
            critical and trains either way.
    """

    action: Literal["report", "retrain"] = "report"
    kind: Literal["environment"] = "environment"


@spec
class Drift:
    """The rows, the answers or the losses of a champion are no longer what they were when it was promoted.

    Every threshold is a rise, unless its name says drop, and relative to the baseline where it is in per cent.

    Attributes:
        every: how long after one check the next one is due.
        profile: "default"; "sensitive" and "conservative" move the smallest effect that counts (0.1 and 0.3 instead of
            0.2 standard deviations); "guaranteed" bounds false alarms about losses by a proof, at the price of delay;
            "seed" is the plain rules of older scripts, with their false alarms.
        severity: the least severity that retrains.
        min_confidence: per cent, likewise.
        budget, period: chance of a false alarm in one period in which nothing changes, and how long a period is.
        label_delay: how long after a prediction its actual is there; None is learnt from the actuals.
        window: age of the rows whose columns count as recent, at least the newest `min_rows`; losses are looked at as
            far back as the last promotion.
        max_rows: newest rows of a partition that one check looks at.
        min_rows: rows, and labelled rows, without which nothing is said about them.
        joint: also look at columns together: "pca", "classifier" or both.
        correction: of many signals: "bh" bounds the share of false ones, "holm" the chance of any.
        error_increase: rise of the mean loss that counts, a share of its baseline.
        outlier_increase, missing_increase, new_values: rises of shares of rows that count.
        p_value, outlier_share, r2_drop, rmse_increase: what counts under profile "seed", and nowhere else.
    """

    every: Duration = timedelta(hours=24)
    profile: Literal["default", "sensitive", "conservative", "guaranteed", "seed"] = "default"
    severity: Literal["low", "medium", "high", "critical"] = "high"
    min_confidence: Annotated[int, Field(ge=0, le=99), BeforeValidator(_no_truth)] = 0
    budget: Share = 0.05
    period: Duration = timedelta(days=30)
    label_delay: Duration | None = None
    window: Duration = timedelta(days=7)
    max_rows: Positive = 100_000
    min_rows: Positive = 100
    joint: tuple[Literal["pca", "classifier"], ...] = ()
    correction: Literal["bh", "holm"] = "bh"
    error_increase: Share = 0.15
    outlier_increase: Share = 0.03
    missing_increase: Share = 0.02
    new_values: Share = 0.01
    p_value: Share = 0.05
    outlier_share: Share = 0.05
    r2_drop: Share = 0.05
    rmse_increase: Share = 0.10
    kind: Literal["drift"] = "drift"

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise ConfigError("Drift.budget", self.budget, "a share above 0 and below 1, e.g. '5%'")
        for name in ("every", "period", "window"):
            if not getattr(self, name):
                raise ConfigError(f"Drift.{name}", format_duration(getattr(self, name)), "longer than nothing")
        if self.every > self.period:
            allowed = f"at most period, which is {format_duration(self.period)}"
            raise ConfigError("Drift.every", format_duration(self.every), allowed)


Trigger = DataChange | MaxAge | Schedule | ScoreDrop | Environment | Drift
AnyTrigger = Annotated[Trigger, Field(discriminator="kind")]


def on_data_change(
    quiet: str | timedelta = "2s", max_delay: str | timedelta = "10m", rollups: str | timedelta | None = None
) -> DataChange:
    """Train when rows change, once the source has been quiet for `quiet`, at the latest after `max_delay`.

    `rollups` is a quiet period of their own for the models above partitions, e.g. "5m".
    """
    return DataChange(
        _checked("quiet", parse_duration, quiet),
        _checked("max_delay", parse_duration, max_delay),
        None if rollups is None else _checked("rollups", parse_duration, rollups),
    )


def max_age(limit: str | timedelta) -> MaxAge:
    """Train when the champion is older than `limit`, e.g. `max_age("24h")`."""
    return MaxAge(_checked("max_age", parse_duration, limit))


def daily(at: str = "03:00", zone: str | None = None) -> Schedule:
    """Train every day at `at`, "HH:MM" in `zone`."""
    return Schedule("day", at=at, zone=zone)


def weekly(day: str | int, at: str = "03:00", zone: str | None = None) -> Schedule:
    """Train every week on `day`: "wed", or 0 (Monday) to 6 (Sunday)."""
    number = _DAYS.get(day[:3].lower(), -1) if isinstance(day, str) else day
    if number not in range(7) or isinstance(number, bool):
        raise ConfigError("day", day, "mon, tue, wed, thu, fri, sat, sun, or 0 (Monday) to 6 (Sunday)")
    return Schedule("week", at=at, day=number, zone=zone)


def monthly(at: str = "03:00", day: int = 1, zone: str | None = None) -> Schedule:
    """Train every month on day `day`, by default the first."""
    return Schedule("month", at=at, day=day, zone=zone)


def cron(expression: str, zone: str | None = None) -> Schedule:
    """Train by a five-field cron expression, e.g. `cron("0 */6 * * *")`."""
    return Schedule("cron", cron=expression, zone=zone)


def on_score_drop(threshold: str | float = "5%", score: str | None = None, min_rows: int = 30) -> ScoreDrop:
    """Train when the champion's score on new labelled rows fell by `threshold`, relative to its promotion."""
    return ScoreDrop(_checked("threshold", parse_share, threshold), score, min_rows)


def on_drift(every: str | timedelta = "24h", **options: Any) -> Drift:
    """Retrain when recent rows, predictions or losses say that the champion has become worse; see `Drift`.

    >>> on_drift("6h", profile="sensitive").every
    datetime.timedelta(seconds=21600)
    """
    return Drift(_checked("every", parse_duration, every), **options)


def on_environment_change(action: Literal["report", "retrain"] = "report") -> Environment:
    """Report, or retrain, when the libraries that the champion was trained with changed."""
    return Environment(action)


def _checked(name: str, parse: Callable[[object], T], value: object) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(name, value, str(error)) from None


# --- models and the project -------------------------------------------------------------------------------------


@spec
class Gate:
    """What a challenger must pass.

    Attributes:
        score: the score that decides; None is accuracy for classifiers, r2 for regressions, mae for forecasts.
        tolerance: how much worse than the champion's, relative, still passes for a correction, or for a refresh on
            few rows.
        min_holdout: hold-out rows, or backtest steps of a forecast, without which the two are not compared and only
            the guards apply; None is 10 rows, and one step.
        beat_baseline: refuse a challenger that is no better than guessing where the champion was.
    """

    score: str | None = None
    tolerance: Share = 0.05
    min_holdout: Positive | None = None
    beat_baseline: bool = True


@spec
class Dimension:
    """A column that divides a model into partitions, and how it reads: "1 town", "3 towns"."""

    name: Text
    singular: str | None = None
    plural: str | None = None

    def count(self, number: int) -> str:
        one = self.singular or self.name
        return f"{number} {one if number == 1 else self.plural or one + 's'}"


@spec
class Storm:
    """How many partitions one change may touch before the whole model is asked for instead: the larger of the two.

    Attributes:
        share: of the model's partitions; rollups do not count.
        partitions: never fewer than this many.
    """

    share: Share = 0.5
    partitions: Annotated[int, Field(ge=0)] = 100

    def cap(self, of: int) -> int:
        """Return how many of `of` partitions may be touched.

        >>> Storm().cap(150), Storm().cap(1000)
        (100, 500)
        """
        return max(self.partitions, int(self.share * of))


Dimensions = Annotated[tuple[Dimension, ...], BeforeValidator(_parse_dimensions)]


Gaps = Literal["zero", "linear", "last", "missing", "refuse"]


@spec
class Series:
    """How dated rows become one regular series for each partition, and how far ahead it is forecast.

    Attributes:
        h: periods ahead that are kept with every fit, ready to be read.
        freq: length of a period as pandas writes it: "D", "W-MON", "MS", "QS", "YS", "h", "15min", "B", …; None is
            inferred from the rows where they leave no doubt.
        aggregate: how the rows of one period become one value, in partitions and in rollups alike.
        gaps: what a period without rows holds: "zero", "linear" between its neighbours, the "last" value, "missing",
            or "refuse" the series. None is zero for sums and counts, linear for the others.
        unfinished: whether the period that has not ended yet counts.
        level: of the intervals, in per cent.
        season: periods of a season; None is the usual one of the frequency, such as 12 for months.
        windows: origins of the backtest that a forecaster is judged by.
        reconcile: "bottom_up" answers rollups by the sum of their partitions.
        updates: how many times a fit may be updated with the periods that are new, by a trainer that can, before it
            is fitted anew on every row; 0 is never.
    """

    h: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_no_truth)]
    freq: str | None = None
    aggregate: Literal["sum", "mean", "min", "max", "last", "count"] = "sum"
    gaps: Gaps | None = None
    unfinished: bool = False
    level: Annotated[tuple[Annotated[int, Field(ge=1, le=99)], ...], BeforeValidator(_parse_levels)] = (80, 95)
    season: Positive | None = None
    windows: Annotated[int, Field(ge=0, le=100), BeforeValidator(_no_truth)] = 2
    reconcile: Literal["none", "bottom_up"] = "none"
    updates: Annotated[int, Field(ge=0, le=10_000), BeforeValidator(_no_truth)] = 0

    def __post_init__(self) -> None:
        if self.reconcile == "bottom_up" and self.aggregate not in ("sum", "count"):
            raise ConfigError("reconcile", self.reconcile, "aggregate='sum' or 'count': other values do not add up")

    @property
    def fill(self) -> Gaps:
        """What a period without rows holds."""
        return self.gaps or ("zero" if self.aggregate in ("sum", "count") else "linear")


@spec
class ModelSpec:
    """A model: what is kept fresh. See `Project.model` for the fields in words."""

    name: Name
    source: Name
    target: Text
    trainer: AnyTrainer
    features: Annotated[tuple[str, ...] | str | None, BeforeValidator(_parse_features)] = None
    series: Series | None = None
    scores: Columns = ()
    gate: Gate = Gate()
    triggers: tuple[AnyTrigger, ...] = (DataChange(),)
    partition_by: Dimensions = ()
    rollups: tuple[Columns, ...] | None = None
    overall: str = "Overall"
    storm: Storm = Storm()
    blackout: Blackout = ()
    min_samples: Positive | None = None
    window: Duration | None = None
    holdout: Share = 0.2
    gap: Duration = timedelta(0)
    auto: Auto = Auto.TRAIN
    trainer_version: Positive = 1
    deadline: Duration = timedelta(hours=1)
    memory_mb: Annotated[int, Field(ge=64)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3

    def __post_init__(self) -> None:
        names = self.dimensions
        for kept in self.rollups or ():
            if unknown := [name for name in kept if name not in names]:
                raise UnknownName("rollups", unknown[0], names)
            if len(set(kept)) < len(kept):
                raise ConfigError("rollups", list(kept), "each dimension once")
            if len(kept) >= len(names):
                raise ConfigError("rollups", list(kept), "lists that drop at least one dimension")
        if len({frozenset(kept) for kept in self.rollups or ()}) < len(self.rollups or ()):
            raise ConfigError("rollups", [list(kept) for kept in self.rollups or ()], "each rollup once")
        if len(set(names)) < len(names):
            raise ConfigError("partition_by", names, "each column once")
        if self.target in names:
            raise ConfigError("partition_by", self.target, "columns other than the target")
        if not 0 < self.holdout < 1:
            raise ConfigError("holdout", self.holdout, "a share between 0 and 1")
        if isinstance(self.features, tuple) and self.target in self.features:
            raise ConfigError("features", self.target, "columns other than the target")
        for name, limit in (("deadline", self.deadline), ("window", self.window)):
            if limit is not None and not limit:
                raise ConfigError(name, format_duration(limit), "a duration longer than nothing")
        self._check_series()

    def _check_series(self) -> None:
        if self.series and self.features is not None:
            raise ConfigError("features", self.features, "none for a forecasting model: its rows become one series")

    @property
    def least_rows(self) -> int:
        """Rows without which nothing is trained: 100 unless declared, one for a forecast, which has fallbacks."""
        return self.min_samples or (1 if self.series else 100)

    @property
    def least_held(self) -> int:
        """Hold-out rows, or steps of a backtest, without which two fits are not compared."""
        return self.gate.min_holdout or (1 if self.series else 10)

    @property
    def dimensions(self) -> list[str]:
        return [one.name for one in self.partition_by]

    @property
    def drift(self) -> Drift | None:
        """The drift trigger, None where none is declared."""
        return next((one for one in self.triggers if isinstance(one, Drift)), None)

    @property
    def levels(self) -> list[tuple[str, ...]]:
        """The rollups above the partitions; by default one above all where there are partitions."""
        if self.rollups is not None:
            return list(self.rollups)
        return [()] if self.partition_by else []


@spec
class Callback:
    """Call "module:function" as `(model_name, status, duration, **kwargs)` for every ended run, in a worker child."""

    function: ImportPath
    kind: Literal["callback"] = "callback"


@spec
class Message:
    """Send ended runs through Apprise (needs `evertrain[notify]`); `url` is "env:NAME" or an URL without secrets.

    Attributes:
        on: which runs: "all", or only those that "changed" the champion or failed.
    """

    url: ChannelUrl
    on: Literal["all", "changed"] = "changed"
    kind: Literal["message"] = "message"


Channel = Callback | Message
AnyNotify = Annotated[Channel, Field(discriminator="kind")]


@spec
class Retention:
    """What is kept beyond the champions and their predecessors.

    Attributes:
        fits: newest fits of each partition.
        days: every fit younger than this many days.
        events_days: age of the log, in days.
        observations_days: age of logged predictions, in days.
        observations: logged predictions of each model; beyond it a uniform sample is kept, and says so.
    """

    fits: Positive = 5
    days: Annotated[int, Field(ge=0)] = 7
    events_days: Positive = 90
    observations_days: Positive = 90
    observations: Positive = 1_000_000


@spec
class ProjectSpec:
    """Everything a project declares: the snapshot that is kept in the store."""

    name: Name
    store: str = "sqlite:///evertrain.db"
    zone: str | None = None
    auto: Auto = Auto.TRAIN
    executor: Literal["children", "inline"] = "children"
    sources: Mapping[Name, AnySource] = field(default_factory=dict)
    models: Mapping[Name, ModelSpec] = field(default_factory=dict)
    notify: tuple[AnyNotify, ...] = ()
    keep: Retention = Retention()
    blackout: Blackout = ()

    def __post_init__(self) -> None:
        for name, model in self.models.items():
            if model.source not in self.sources:
                raise UnknownName(f"models.{name}.source", model.source, self.sources)
            if model.name != name:
                raise ConfigError(f"models.{name}.name", model.name, name)
            if model.window is not None and self.sources[model.source].time is None:
                raise ConfigError(
                    f"models.{name}.window",
                    format_duration(model.window),
                    "a window only where the source declares time=",
                )
            if model.series is not None and self.sources[model.source].time is None:
                raise ConfigError(f"models.{name}.series", "a forecast", "a source that declares time=")
            try:
                _check_ends([*self.blackout, *model.blackout])
            except ValueError as error:
                listed = [*self.blackout, *model.blackout]
                raise ConfigError(f"models.{name}.blackout", listed, str(error)) from None
            if isinstance(model.trainer, Inline) and self.executor != "inline":
                raise ConfigError(
                    f"models.{name}.trainer",
                    model.trainer.name,
                    "a class or function that lives in a module, or executor='inline' to train in this process",
                )


_PROJECT: TypeAdapter[ProjectSpec] = TypeAdapter(ProjectSpec)
_MODEL: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)
_TRIGGER: TypeAdapter[Trigger] = TypeAdapter(AnyTrigger)
_TRAINER: TypeAdapter[TrainerSpec] = TypeAdapter(AnyTrainer)
_SOURCE: TypeAdapter[Source] = TypeAdapter(AnySource)


def encode(declared: ProjectSpec | ModelSpec | Source | TrainerSpec | Trigger | Callback | Message) -> dict[str, Any]:
    """Return a declaration as plain JSON values."""
    found: dict[str, Any] = _adapter(cast("Any", type(declared))).dump_python(declared, mode="json")
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def decode_project(data: Mapping[str, Any]) -> ProjectSpec:
    """Return the project that `encode`, or a TOML file with the same fields, describes."""
    return _decode(_PROJECT, data, "project")


def decode_model(data: Mapping[str, Any]) -> ModelSpec:
    """Return the model that `encode` wrote."""
    return _decode(_MODEL, data, "model")


def decode_trainer(data: Mapping[str, Any]) -> TrainerSpec:
    """Return the trainer that a plain mapping with its `kind` describes."""
    return _decode(_TRAINER, data, "trainer")


def decode_source(data: Mapping[str, Any]) -> Source:
    """Return the source that a plain mapping with its `kind` describes."""
    return _decode(_SOURCE, data, "source")


def decode_trigger(data: Mapping[str, Any]) -> Trigger:
    """Return the trigger that a plain mapping with its `kind` describes."""
    return _decode(_TRIGGER, data, "trigger")


def _decode(adapter: TypeAdapter[T], data: Mapping[str, Any], where: str) -> T:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise config_error(where, error) from None
