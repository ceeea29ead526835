"""Forecasts: reading what is stored with the champions, so that an answer is there at once and always.

A champion and its forecast are read in one statement, and a promotion replaces both in one transaction: a reader gets
the old or the new, never none and never a mixture. A partition without a champion is answered by its nearest rollup.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evertrain import registry
from evertrain.artifacts import Artifacts
from evertrain.clock import from_text
from evertrain.errors import ConfigError, EvertrainError, NoModelYet, NotFound, TrainingError
from evertrain.forecasting import parse_freq
from evertrain.partitions import KeyText, closure, decode, encode, fallbacks, label
from evertrain.specs import ForecastTrainer, ModelSpec, Series, decode_trainer
from evertrain.store import models
from evertrain.store.connect import Record, Store
from evertrain.trainers.make import make

if TYPE_CHECKING:
    import pandas as pd

_LOOK_S = 0.25


@dataclass(frozen=True)
class Forecast:
    """A forecast, and everything one must know to trust it.

    Attributes:
        partition: name of what was asked for.
        answered_by: name of what answered; another where that has no model of its own.
        version: that answered; empty for a temporary forecast, which belongs to no version.
        ds: label of each period, ISO text.
        mean: one value for each period.
        intervals: "lo-80", "hi-80", … by name, one value for each period; None where nothing is known.
        freq: length of a period, as pandas writes it.
        as_of: label of the last period whose rows were used.
        trained_at: when the model was fitted.
        stale: how many whole periods have ended since the last one whose rows were used.
        behind: whether rows changed since; a training is due or under way.
        fallback: why another than the partition's own model, or the naive forecast, answered; None where none did.
        temporary: made for this question alone, of the rows that `partition` names.
        note: what else a reader should know, such as how rollups were reconciled.
    """

    model: str
    partition: str
    answered_by: str
    version: str
    ds: list[str]
    mean: list[float]
    intervals: dict[str, list[float | None]]
    freq: str
    as_of: str
    trained_at: datetime
    stale: int = 0
    behind: bool = False
    fallback: str | None = None
    temporary: bool = False
    note: str | None = None
    epoch: int = field(default=0, compare=False)

    @property
    def level(self) -> list[int]:
        """The intervals, in per cent."""
        return sorted(int(name.removeprefix("lo-")) for name in self.intervals if name.startswith("lo-"))

    def frame(self) -> pd.DataFrame:
        """Return a frame with `unique_id`, `ds`, `mean`, `lo-80`, `hi-80`, as forecasting libraries write it."""
        import pandas as pd

        columns: dict[str, Any] = {"unique_id": self.partition, "ds": pd.to_datetime(self.ds), "mean": self.mean}
        return pd.DataFrame(columns | self.intervals)

    def plain(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("intervals", "epoch")}
        return {**own, "trained_at": self.trained_at.isoformat(), **self.intervals}

    def only(self, h: int, level: Sequence[int]) -> Forecast:
        """Return the first periods and some of the intervals."""
        names = [f"{side}-{one}" for one in level for side in ("lo", "hi")]
        return replace(
            self, ds=self.ds[:h], mean=self.mean[:h], intervals={name: self.intervals[name][:h] for name in names}
        )


@dataclass(frozen=True, eq=False)
class Stored:
    """What one look at the store found: the champion that answers for a partition, and what it forecast.

    Attributes:
        key, answering: what was asked for, and what answers; see `Forecast.answered_by`.
        stale: see `Forecast.stale`.
        leaves: of a rollup that is answered by their sum, the forecasts of its partitions.
        mark: equal marks mean equal answers.
    """

    spec: ModelSpec
    key: KeyText
    answering: KeyText
    row: Record
    stale: int
    leaves: tuple[Mapping[str, Any], ...]
    mark: tuple[Any, ...]

    @property
    def version(self) -> str:
        return f"{self.row.major}.{self.row.minor}.{self.row.patch}"

    @property
    def trained_at(self) -> datetime:
        return from_text(self.row.trained_at)

    def holds(self, h: int | None, level: Sequence[int] | None) -> bool:
        """Return whether all that a question names is stored, so that no model has to be asked.

        Raises:
            ConfigError: `h` or `level` is none that a model could declare.
        """
        series = asked_for(self.spec, h, level)
        return series.h <= len(self.whole.ds) and set(series.level) <= set(self.whole.level)

    @cached_property
    def whole(self) -> Forecast:
        """Everything that is stored."""
        spec, frame, series = self.spec, json.loads(self.row.frame), json.loads(self.row.signature)["series"]
        fallback = series["fallback"] and f"the naive forecast: {series['fallback']}"
        if self.answering != self.key:
            by = f"{_name(spec, self.answering)} answers" + (f", by {fallback}" if fallback else "")
            fallback = f"{_name(spec, self.key)} has no model of its own; {by}"
        return Forecast(
            spec.name,
            _name(spec, self.key),
            _name(spec, self.answering),
            self.version,
            frame.pop("ds"),
            frame.pop("mean"),
            frame,
            series["freq"],
            series["as_of"],
            self.trained_at,
            self.stale,
            bool(self.row.behind),
            fallback,
            epoch=self.row.epoch,
        )


class Forecasts:
    """Reads the forecasts of one model; thread-safe, and light: neither the trainer's libraries nor its code."""

    def __init__(self, store: Store, artifacts: Artifacts, model: str, inline: Mapping[str, Any] | None = None) -> None:
        self.store, self.artifacts, self.model, self.inline = store, artifacts, model, dict(inline or {})
        self._looked = -1e9
        self._found: models.Model | None = None

    @property
    def spec(self) -> ModelSpec:
        """The declaration, looked up at most a few times a second."""
        return self.declared.spec

    @property
    def declared(self) -> models.Model:
        """The model as the store knows it, likewise."""
        if self._found is None or time.monotonic() - self._looked >= _LOOK_S:
            with self.store.read() as tx:
                self._found = models.by_name(tx, self.model)
            self._looked = time.monotonic()
            if self._found.spec.series is None:
                raise ConfigError(
                    f"{self.model}.series",
                    None,
                    "a forecasting model, declared with series=Series(h=…); this one predicts",
                )
        return self._found

    def read(
        self,
        partition: Mapping[str, Any] | None = None,
        h: int | None = None,
        level: Sequence[int] | None = None,
        *,
        exactly: bool = False,
    ) -> Forecast:
        """Return the forecast of a partition or rollup.

        Args:
            partition: values by dimension; some of them name a rollup, none the one above all.
            h: periods ahead; by default those that the model declares, beyond which the model is asked anew.
            level: intervals in per cent, likewise.
            exactly: no rollup may answer in the place of what was asked for.

        Raises:
            NoModelYet: nothing was trained yet; says how far the first training is.
            NotFound: a name is no dimension.
            ConfigError: `h` or `level` is none that a model could declare.
        """
        asked_for(self.spec, h, level)
        return self.answer(self.look(partition or {}, exactly=exactly), h, level)

    def look(self, partition: Mapping[str, Any], *, exactly: bool = False, known: Stored | None = None) -> Stored:
        """Return what answers for a partition or rollup now: champion and forecast, of one moment of the store.

        Args:
            known: what was found last time; returned again where the store holds nothing else since.

        Raises:
            NoModelYet, NotFound: as of `read`.
        """
        found = self.declared
        spec = found.spec
        key = key_of(spec, partition)
        wanted = [key] if exactly else [key, *fallbacks(decode(key), spec.dimensions, spec.levels)]
        with self.store.read() as tx:
            rows, now = registry.served_forecasts(tx, self.model, wanted), tx.now
            answering = next((one for one in wanted if one in rows), None)
            if answering is None:
                _check_level(spec, key)
                raise NoModelYet(registry.no_model_yet(tx, found.id, spec, key))
            row = rows[answering]
            stale = stale_periods(json.loads(row.signature)["series"], now)
            summed_up = spec.series is not None and spec.series.reconcile == "bottom_up" and not row.leaf
            # Of a sum every champion counts, and the counter tells whether there is a new one.
            epoch = tx.counter("epoch") if summed_up else row.epoch
            mark = (spec, key, answering, row.fit, epoch, bool(row.behind), stale)
            if known is not None and known.mark == mark:
                return known
            leaves = registry.leaf_forecasts(tx, self.model, answering) if summed_up else ()
        return Stored(spec, key, answering, row, stale, tuple(_frame_of(leaf, row) for leaf in leaves), mark)

    def answer(self, stored: Stored, h: int | None = None, level: Sequence[int] | None = None) -> Forecast:
        """Return the forecast that a look found, of so many periods and with these intervals; see `read`."""
        series = asked_for(stored.spec, h, level)
        answer = stored.whole
        if not stored.holds(h, level):
            try:
                answer = self._asked_anew(answer, stored.row.fit, max(series.h, len(answer.ds)), series.level)
            except EvertrainError as error:
                if h is not None or level is not None:
                    raise
                # The declaration changed since this fit; who asked for nothing in particular gets what there is.
                answer = replace(answer, note=f"as it was stored: {error}")
                series = replace(series, level=tuple(one for one in series.level if one in answer.level))
        answer = answer.only(series.h, series.level)
        return summed(answer, stored.leaves) if stored.leaves else answer

    def _asked_anew(self, answer: Forecast, number: int, h: int, level: Sequence[int]) -> Forecast:
        """Return the same champion's forecast of more periods, or with other intervals, than are stored."""
        from evertrain.trainers.ahead import ahead

        with self.store.read() as tx:
            fit = registry.fits(tx, [number])[number]
        trainer = cast("ForecastTrainer", make(decode_trainer(fit.trainer), Path(tempfile.gettempdir()), self.inline))
        data = self.artifacts.read(fit.place)
        try:
            series = fit.signature["series"]
            freq = parse_freq(series["freq"])
            found = ahead(trainer, trainer.load(data), freq, series["last"], h, level)
        except TrainingError as error:
            raise TrainingError(f"{answer.version} cannot forecast {h} periods: {error}") from error
        except Exception as error:  # what a trainer of a user's raises
            said = f"{type(error).__name__}: {error}"
            raise TrainingError(f"{answer.version} cannot forecast {h} periods: {said}") from error
        return replace(answer, ds=found.pop("ds"), mean=found.pop("mean"), intervals=found)

    def coherence(self) -> list[Coherence]:
        """Return how far the partitions' forecasts add up to each rollup's own, largest gap first."""
        found = self.declared
        with self.store.read() as tx:
            leaves = registry.leaf_forecasts(tx, self.model)
            keys = closure([KeyText(row.key) for row in leaves], found.spec.dimensions, found.spec.levels)
            above = [key for key in keys if len(decode(key)) < len(found.spec.dimensions)]
            rows = registry.served_forecasts(tx, self.model, above)
        gaps = [_coherence(found.spec, key, rows[key], leaves_below(leaves, key)) for key in above if key in rows]
        return sorted(gaps, key=lambda one: -abs(one.percent or 0))


@dataclass(frozen=True)
class Coherence:
    """How far the forecasts of the partitions below a rollup add up to its own, over the periods that all have.

    Attributes:
        percent: how much more (or less) the sum is than the rollup's own forecast; None where that is zero.
    """

    partition: str
    leaves: int
    periods: int
    total: float
    own: float

    @property
    def percent(self) -> float | None:
        return 100 * (self.total / self.own - 1) if self.own else None


def asked_for(spec: ModelSpec, h: int | None, level: Sequence[int] | None) -> Series:
    """Return what a model declares of its series, with the horizon and the intervals that a question names.

    Raises:
        ConfigError: they are none that a model could declare.
    """
    assert spec.series is not None
    own: dict[str, Any] = {"h": h, "level": level}
    return replace(spec.series, **{name: value for name, value in own.items() if value is not None})


def stale_periods(series: Mapping[str, Any], now: datetime) -> int:
    """Return how many whole periods have ended since the last one that a fit has seen."""
    return max(0, parse_freq(series["freq"]).period_of(now) - 1 - int(series["last"]))


def key_of(spec: ModelSpec, partition: Mapping[str, Any]) -> KeyText:
    """Return the key that a person named.

    Raises:
        NotFound: a name is no dimension of the model.
    """
    try:
        return encode(partition, spec.dimensions)
    except ValueError as error:
        raise NotFound(f"{spec.name}: {error}") from None


def typed(model: models.Model, values: Mapping[str, str]) -> dict[str, Any]:
    """Return values by dimension that came as text, such as those of an address, as the columns hold them.

    Nothing at all is a missing value. What is not of its column's type stays text: no partition has it.
    """
    columns = (model.extract or {}).get("columns", {})
    return {name: _of_type(columns.get(name), text) for name, text in values.items()}


def _of_type(kind: str | None, text: str) -> str | int | float | bool | None:
    if not text:
        return None
    with suppress(ValueError):
        if kind == "integer":
            return int(text)
        if kind == "number" and math.isfinite(found := float(text)):
            return found
    return text.lower() == "true" if kind == "boolean" and text.lower() in ("true", "false") else text


def _check_level(spec: ModelSpec, key: KeyText) -> None:
    """Raise `NotFound` for a rollup that the model does not declare."""
    kept = set(decode(key))
    if len(kept) < len(spec.dimensions) and kept not in [set(one) for one in spec.levels]:
        named = [
            ", ".join(f"{name}=…" for name in one) or spec.overall for one in (*spec.levels, tuple(spec.dimensions))
        ]
        raise NotFound(f"{spec.name} forecasts {' and '.join(named)}; not {', '.join(kept) or 'everything together'}")


def _name(spec: ModelSpec, key: KeyText) -> str:
    return label(decode(key), spec.dimensions, spec.overall) if spec.partition_by else spec.name


# --- rollups and their partitions -------------------------------------------------------------------------------


def leaves_below(leaves: Sequence[Record], key: KeyText) -> list[dict[str, Any]]:
    """Return the forecasts of the partitions below a rollup, by period."""
    kept = decode(key).items()
    return [json.loads(one.frame) for one in leaves if kept <= decode(one.key).items()]


def summed(answer: Forecast, leaves: Sequence[Mapping[str, Any]]) -> Forecast:
    """Return a rollup's forecast as the sum of its partitions', with its own intervals moved onto the sum."""
    by_period = [dict(zip(one["ds"], one["mean"], strict=True)) for one in leaves]
    lacking = [one for one in by_period if any(ds not in one for ds in answer.ds)]
    if lacking:
        said = f"not the sum of its partitions: {len(lacking)} of {len(leaves)} have no forecast of all these periods"
        return replace(answer, note=said)
    mean = [sum(one[ds] for one in by_period) for ds in answer.ds]
    moved = {
        name: [None if v is None else v + new - old for v, new, old in zip(values, mean, answer.mean, strict=True)]
        for name, values in answer.intervals.items()
    }
    return replace(answer, mean=mean, intervals=moved, note=f"the sum of {len(leaves)} partitions")


def _frame_of(leaf: Record, rollup: Record) -> dict[str, Any]:
    """Return the forecast of a partition; nothing of it where its periods are others than the rollup's."""
    same = json.loads(leaf.signature)["series"]["freq"] == json.loads(rollup.signature)["series"]["freq"]
    return json.loads(leaf.frame) if same else {"ds": [], "mean": []}


def _coherence(spec: ModelSpec, key: KeyText, row: Record, leaves: Sequence[Mapping[str, Any]]) -> Coherence:
    own = json.loads(row.frame)
    own_by = dict(zip(own["ds"], own["mean"], strict=True))
    by_period = [dict(zip(one["ds"], one["mean"], strict=True)) for one in leaves]
    shared = [ds for ds in own_by if all(ds in one for one in by_period)]
    total = sum(one[ds] for one in by_period for ds in shared)
    return Coherence(_name(spec, key), len(leaves), len(shared), total, sum(own_by[ds] for ds in shared))
