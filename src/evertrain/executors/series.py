"""Fitting forecasters, in a worker: rows to a series, a backtest beside the champion's, and the forecast to serve.

A forecaster is judged as a procedure. It is fitted on what was known at earlier origins and compared, step by step,
with what the champion really said of the same periods; where no actual values came since, with the champion's own
backtest. The fit that is stored has then seen every row, so no row of it was ever held out.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from evertrain import forecasting, gate, scores
from evertrain.errors import DataError, TrainingError
from evertrain.executors.jobs import Message
from evertrain.executors.packs import Emit, Packer
from evertrain.executors.rows import Rows, copied_rows, parts
from evertrain.executors.training import Fitting, Insufficient, Setting, champion_bytes, inside_window, seed_of, setting
from evertrain.forecasting import Freq, Regular
from evertrain.partitions import decode
from evertrain.sources import read
from evertrain.sources.extract import Reading, extract, rows_where
from evertrain.sources.table import Table
from evertrain.specs import Custom, ForecastTrainer, decode_model, decode_source, encode
from evertrain.trainers.ahead import ahead, checked
from evertrain.trainers.naive import NaiveForecaster

if TYPE_CHECKING:
    import pandas as pd

Steps = dict[tuple[int, int], float]  # a forecast value by origin and by the period it speaks of

_TELL_S = 1.0  # a series that is done sooner needs no word about its backtest
_LEAST = 3  # periods below which no forecaster of a user's is asked


@dataclass
class SeriesFitting(Fitting):
    """What a forecasting trainer is told beside the series; the `SeriesContext` of the trainer protocol."""

    freq: str = ""
    season: int = 1
    h: int = 1
    level: tuple[int, ...] = ()
    mean_only: bool = False


@dataclass
class _Work:
    """One series on its way to a fit."""

    shared: Setting
    item: Message
    series: Regular
    context: SeriesFitting
    said: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    updated: bool = False

    @cached_property
    def trainer(self) -> ForecastTrainer:
        return cast("ForecastTrainer", self.shared.trainer)

    @cached_property
    def season(self) -> int:
        return self.context.season

    @cached_property
    def least(self) -> int:
        """The fewest periods that the trainer is asked to learn from."""
        ask = getattr(self.trainer, "least", None)
        return max(int(ask(self.season)) if callable(ask) else _LEAST, 1)

    def why_naive(self, values: np.ndarray[Any, Any]) -> str | None:
        """Return why the naive forecast stands in for the trainer's own; None where it does not."""
        known = values[np.isfinite(values)]
        if known.size < self.least:
            return f"{known.size} of the {self.least} periods that {type(self.trainer).__name__} needs"
        if np.all(known == known[0]):
            return "every period is zero" if known[0] == 0 else "every period is the same"
        return None

    def fitted(self, upto: Regular, context: SeriesFitting | None = None) -> tuple[ForecastTrainer, Any]:
        """Return the trainer and what it made of a series: the model's own, or the naive one."""
        trainer = self.trainer_for(upto)
        return trainer, trainer.fit(frame_of(upto), context or self.context)

    def trainer_for(self, upto: Regular) -> ForecastTrainer:
        naive: ForecastTrainer = NaiveForecaster()
        return naive if self.why_naive(upto.values) else self.trainer

    def backtested(self, origin: int) -> np.ndarray[Any, Any]:
        """Return what this procedure would have said at an earlier origin of the periods up to the last one."""
        if origin not in self.said:
            self.said[origin] = self.would_say(origin, seed_of(self.shared.spec.name, self.item["key"], str(origin)))
        return self.said[origin]

    def would_say(self, origin: int, seed: int) -> np.ndarray[Any, Any]:
        """Return the same, drawn from a seed that both sides share: a procedure is judged, and not its luck."""
        steps = min(self.shared.series.h, self.series.last - origin)
        about = f"backtest to {self.series.freq.text(origin)}: "
        # A trainer that measures its intervals need not do so here, where nobody will ask for them.
        part = min(1 + len(self.said), self.context.parts - 1)
        context = replace(self.context, seed=seed, level=(), mean_only=True, about=about, part=part)
        if time.monotonic() - context.began > _TELL_S:
            context.progress(f"fit {part + 1} of {context.parts}", 0.0)
        trainer, fitted = self.fitted(self.series.upto(origin), context)
        mean: np.ndarray[Any, Any] = checked(trainer, fitted, steps, ())["mean"]
        return mean


def series_context(shared: Setting, item: Message, freq: Freq) -> SeriesFitting:
    """Return what a trainer is told about the series of an item."""
    how = shared.series
    return SeriesFitting(
        "y",
        [],
        seed_of(shared.spec.name, item["key"], item["input"]),
        decode(item["key"]),
        item["id"],
        shared.emit,
        freq=freq.name,
        season=how.season or freq.season,
        h=how.h,
        level=how.level,
    )


def series_of(shared: Setting, rows: Rows) -> Regular:
    """Return the series of the rows of one partition or rollup.

    Raises:
        Insufficient: no row is left.
        DataError: the rows cannot become a series.
    """
    times = rows.columns[shared.time or ""]
    if times.dtype.kind != "M":
        raise DataError(f"the time column {shared.time!r} holds no dates; a forecast needs dates", column=shared.time)
    target = rows.columns[shared.spec.target]
    if target.dtype.kind not in "iufb":
        raise DataError(f"{shared.spec.target!r} holds no numbers; a forecast needs numbers", column=shared.spec.target)
    latest = shared.facts.get("latest")
    try:
        return forecasting.regular(
            times,
            target.astype(np.float64),
            shared.series,
            forecasting.parse_freq(shared.facts["freq"]),
            now=shared.now,
            latest=datetime.fromisoformat(latest) if latest else None,
        )
    except forecasting.NoData as error:
        raise Insufficient(str(error)) from None


def frame_of(series: Regular) -> pd.DataFrame:
    """Return a series as trainers get it, in a frame that its owner may change."""
    import pandas as pd

    # Both are new arrays, so pandas need not copy them once more.
    return pd.DataFrame({"ds": series.freq.label(series.periods), "y": series.values.copy()}, copy=False)


# --- fitting ----------------------------------------------------------------------------------------------------


def fit_series(shared: Setting, item: Message, rows: Rows, packer: Packer) -> Message:
    """Fit one series, judge the way it was fitted, and answer the fit with its forecast."""
    rows = inside_window(shared, rows)
    if len(rows) < shared.spec.least_rows:
        raise Insufficient(f"Insufficient samples: {len(rows)} < {shared.spec.least_rows}")
    series = series_of(shared, rows)
    context = series_context(shared, item, series.freq)
    work = _Work(shared, item, series, context)
    how = shared.series
    origins = forecasting.cutoffs(series, how.h, how.windows, work.least)
    context.parts = 1 + len(origins) + bool(item.get("champion"))
    updates = _updates(work)
    if updates:
        trainer, fitted, work.updated = work.trainer, _updated(work), True
        origins = [one for one in origins if one in work.said]
    else:
        trainer, fitted = work.fitted(series) if not item.get("fitted") else (work.trainer_for(series), None)
    data = champion_bytes(item["fitted"]) if item.get("fitted") else trainer.save(fitted)
    if not isinstance(data, bytes):
        raise TrainingError(f"{type(trainer).__name__}.save answered {type(data).__name__}; bytes are needed")
    # The loaded object is served, so it is the one that is asked.
    frame = ahead(trainer, trainer.load(data), series.freq, series.last, how.h, how.level)
    measured, losses, values = _measured(work, origins)
    place = packer.put(data)
    signature = {
        "target": shared.spec.target,
        "features": [],
        "task": "regression",
        "types": {},
        "function": None,
        "until": None,
        "seed": context.seed,
        "trained": series.values.size,
        "held": measured["rows"],
        "libraries": shared.versions,
        "series": {
            "freq": series.freq.name,
            "last": series.last,
            "as_of": series.freq.text(series.last),
            "season": work.season,
            "h": how.h,
            "level": list(how.level),
            "fallback": work.why_naive(series.values),
            "left_out": series.left_out,
            "digest": _digest(series.values),
            "updates": updates,
            "origins": series.freq.texts(np.array(origins, dtype=np.int64)) if origins else [],
        },
    }
    stands_in = Custom("evertrain.trainers.naive:NaiveForecaster") if isinstance(trainer, NaiveForecaster) else None
    return {
        "state": "fitted",
        "trainer": stands_in and encode(stands_in),
        **place,
        "scores": values,
        "measured": measured,
        "losses": packer.losses(losses),
        "signature": signature,
        "rows": len(rows),
        "forecast": {
            "frame": json.dumps(frame, separators=(",", ":"), allow_nan=False),
            "backtest": json.dumps({str(one): work.said[one].tolist() for one in origins}, separators=(",", ":")),
        },
    }


# --- updating ---------------------------------------------------------------------------------------------------


def _digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()


def _updates(work: _Work) -> int:
    """Return which update since the last full fit this one is; 0 where the series is fitted anew.

    Only periods that are new can be learnt so: a corrected past is a full fit's business.
    """
    champion, series, most = work.item.get("champion"), work.series, work.shared.series.updates
    if not champion or not most or work.item.get("fitted") or work.item.get("forced"):
        return 0
    told, own = champion["signature"].get("series") or {}, champion["signature"]
    if own.get("recipe") != work.shared.recipe or told.get("fallback") or not hasattr(work.trainer, "update"):
        return 0
    known = told["last"] - series.first + 1
    follows = 0 < known < series.values.size and told["freq"] == series.freq.name
    same = follows and told["digest"] == _digest(series.values[:known]) and told["updates"] < most
    return int(told["updates"]) + 1 if same else 0


def _updated(work: _Work) -> Any:
    """Return the champion with the new periods learnt; what it said before is what this way of fitting has said."""
    champion, series = work.item["champion"], work.series
    last = champion["signature"]["series"]["last"]
    backtest = json.loads(champion["forecast"]["backtest"])
    work.said |= {int(origin): np.array(values) for origin, values in backtest.items()}
    work.said[last] = _issued(champion)[: series.last - last]
    frame = frame_of(series).iloc[last - series.first + 1 :].reset_index(drop=True)
    updating: Any = work.trainer
    return updating.update(updating.load(champion_bytes(champion)), frame, work.context)


# --- judging ----------------------------------------------------------------------------------------------------


def _measured(work: _Work, origins: Sequence[int]) -> tuple[Message, dict[str, Any], Message]:
    """Return what the gate needs, the loss of each step, and all shown scores."""
    shared, champion = work.shared, work.item.get("champion")
    measured: Message = {"score": shared.score, "rows": 0, "has_champion": bool(champion), "unit": gate.STEP}
    own: Steps = {}
    for origin in origins:
        own |= _steps(origin, work.backtested(origin))
    old, why = _said_by(work, champion) if champion else ({}, None)
    if champion and not why:
        issued = champion["signature"]["series"]["last"]
        if work.series.first <= issued < work.series.last:
            # An update says at that origin what the champion said: it is the same fit.
            updated = work.said.get(issued) if work.updated else None
            own |= _steps(issued, work.would_say(issued, champion["signature"]["seed"]) if updated is None else updated)
    both = [step for step in own if step in old]
    steps = both or list(own)
    values: Message = {}
    losses: dict[str, Any] = {}
    if champion and not both:
        measured["incomparable"] = why or "no period has been forecast by both"
    if steps:
        actual = np.array([work.series.values[period - work.series.first] for _, period in steps])
        known = np.isfinite(actual)  # of a period without rows nobody can be right or wrong
        steps, actual = [step for step, one in zip(steps, known, strict=True) if one], actual[known]
    if not steps:
        return measured, losses, values
    scale = _scale(work)
    told = {"challenger": own, "baseline": _baseline(work, steps), **({"champion": old} if both else {})}
    for name, values_of in told.items():
        predicted = np.array([values_of[step] for step in steps])
        found = {one: scores.compute(one, actual, predicted, scale=scale) for one in shared.shown}
        values[name] = {one: value if math.isfinite(value) else None for one, value in found.items()}
        losses[name] = scores.losses(shared.score, actual, predicted)
        measured[name] = values[name][shared.score]
    measured["rows"] = len(steps)
    values.pop("baseline")
    return measured, losses, values


def _steps(origin: int, values: Sequence[float] | np.ndarray[Any, Any]) -> Steps:
    return {(origin, origin + 1 + place): float(value) for place, value in enumerate(values)}


def _said_by(work: _Work, champion: Message) -> tuple[Steps, str | None]:
    """Return what the champion said of periods whose actual values are known, and why not, where it said nothing.

    What it really issued, and its backtest of when it was fitted.
    """
    signature = champion["signature"]
    series = signature.get("series")
    if series is None:
        return {}, "the champion is no forecaster"
    if signature["target"] != work.shared.spec.target:
        return {}, f"the champion forecasts {signature['target']}"
    if series["freq"] != work.series.freq.name:
        return {}, f"the champion's periods are {series['freq']}"
    found: Steps = {}
    for origin, values in json.loads(champion["forecast"]["backtest"]).items():
        found |= _steps(int(origin), values)
    found |= _steps(series["last"], _issued(champion))
    return {step: value for step, value in found.items() if work.series.first <= step[1] <= work.series.last}, None


def _issued(champion: Message) -> np.ndarray[Any, Any]:
    """Return what a champion forecast when it was promoted."""
    return np.array(json.loads(champion["forecast"]["frame"])["mean"])


def _baseline(work: _Work, steps: Sequence[tuple[int, int]]) -> Steps:
    found: Steps = {}
    for origin in dict.fromkeys(origin for origin, _ in steps):
        values = work.series.upto(origin).values
        if values.size and np.isfinite(values).any():
            h = max(period - origin for one, period in steps if one == origin)
            found |= _steps(origin, forecasting.naive(values, work.season, h, ())["mean"])
    return {step: found.get(step, math.nan) for step in steps}


def _scale(work: _Work) -> float | None:
    """Return the error of the naive forecast inside the series, which mase is counted in."""
    if "mase" not in work.shared.shown:
        return None
    found = scores.naive_error(work.series.values, work.season)
    return found if math.isfinite(found) and found > 0 else None


def temporary(task: Message, emit: Emit, inline: Mapping[str, Any] | None = None) -> None:
    """Fit the rows that a question filters, and answer their forecast; nothing is stored."""
    started, scratch = time.monotonic(), Path(task["scratch"])
    spec = decode_model(task["model"])
    if "copied" in task:
        frame = copied_rows(Path(task["copied"]), task["columns"])
    else:
        frame = rows_where(read.read(decode_source(task["source"]), Path(task["root"])).frame, task["where"])
    if frame.height < task["floor"]:
        raise DataError(
            f"{frame.height} rows have {task['said']}; a forecast of their own needs {task['floor']}. Ask for a partition"
            " or a rollup instead"
        )
    reading = Reading(spec.name, spec.target, (), (), tuple(task["key"]), task["time"])
    made = extract(Table(frame), reading, scratch / "rows.arrow", identities=False)
    shared = setting({**task, "extract": made.path, "columns": made.columns}, emit, inline, copied=False)
    item: Message = {"id": 0, "key": "{}", "input": task["said"], "start": None, "rows": None, "leaf": False}
    ((_, rows),) = parts(shared.extract, shared.columns, shared.time, [item])
    try:
        series = series_of(shared, inside_window(shared, rows))
    except Insufficient as error:
        raise DataError(f"rows where {task['said']}: {error}") from None
    work = _Work(shared, item, series, series_context(shared, item, series.freq))
    trainer, fitted = work.fitted(series)
    emit(
        {
            "type": "answer",
            "frame": ahead(trainer, fitted, series.freq, series.last, task["h"], task["level"]),
            "as_of": series.freq.text(series.last),
            "fallback": work.why_naive(series.values),
            "rows": len(rows),
            "seconds": round(time.monotonic() - started, 3),
        }
    )


def issued_score(shared: Setting, rows: Rows, champion: Message, name: str, min_rows: int) -> Message:
    """Return how a champion's own forecast did on the periods that have ended since, and how many those are."""
    series, told = series_of(shared, inside_window(shared, rows)), champion["signature"]["series"]
    if told["freq"] != series.freq.name:
        return {"rows": 0, "value": None}
    said = _issued(champion)
    first = told["last"] + 1 - series.first
    actual = series.values[max(first, 0) : first + said.size] if first + said.size > 0 else np.empty(0)
    known = np.isfinite(actual)
    number = int(known.sum())
    if number < min_rows or first < 0:
        return {"rows": number, "value": None}
    scale = scores.naive_error(series.values[:first], told["season"])
    value = scores.compute(name, actual[known], said[: actual.size][known], scale=scale if scale > 0 else None)
    return {"rows": number, "value": value if math.isfinite(value) else None}
