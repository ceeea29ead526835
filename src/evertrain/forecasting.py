"""Forecasting: from dated rows to one value per period, where to test a forecaster, and the naive forecast. Pure.

A period is a whole number: so many months, weeks or hours since 1970. Frequencies are written, and periods labelled,
as pandas does it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evertrain.errors import ConfigError, DataError
from evertrain.specs import ModelSpec, Series

Array = NDArray[Any]
Floats = NDArray[np.float64]

_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_OLD = {"M": "ME", "Q": "QE", "Y": "YE", "A": "YE", "AS": "YS", "H": "h", "T": "min", "S": "s"}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "D": 86400}
_MONTHS_OF = {"M": 1, "Q": 3, "Y": 12}
_ALLOWED = "a frequency as pandas writes it: s, min, h, D, B, W-MON, MS, ME, QS, QE, YS, YE, or 15min, 2h, …"
_LEAST = 3  # instants from which a frequency can be told
_LONGEST = 200_000  # periods; a slip of a year, and a table of empty hours fills the memory
LAST_DATE = np.datetime64("2260-01-01")
_RANGE = (np.datetime64("1680-01-01"), LAST_DATE)  # what 64 bits of nanoseconds hold


# --- frequencies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Freq:
    """The length of a period and how periods are labelled; `parse_freq` makes it.

    Attributes:
        unit: "s", "min", "h", "D", "B" (working days), "W", "M", "Q" or "Y".
        step: units in a period; more than 1 only for s, min and h.
        anchor: weekday on which a week ends, or month (0 is January) with which a quarter or year begins.
        ends: periods are labelled by their last day, else by their first.
    """

    name: str
    unit: str
    step: int = 1
    anchor: int = 0
    ends: bool = False

    SEASONS: ClassVar[Mapping[str, int]] = {"s": 60, "D": 7, "B": 5, "W": 52, "M": 12, "Q": 4, "Y": 1}

    @property
    def season(self) -> int:
        """How many periods the usual season has: a day of hours, a week of days, a year of months."""
        if self.unit in ("min", "h"):
            return max(1, 86400 // (_SECONDS[self.unit] * self.step))
        return max(1, self.SEASONS[self.unit] // self.step)

    def period(self, times: Array) -> NDArray[np.int64]:
        """Return the period of each instant (datetime64)."""
        if self.unit in _SECONDS:
            return np.asarray(_whole(times, "s") // (_SECONDS[self.unit] * self.step), dtype=np.int64)
        days = times.astype("datetime64[D]")
        if self.unit == "W":
            # 1970-01-01 was a Thursday; a week ends on its anchor, so the day after begins the next one.
            return np.asarray((_whole(days, "D") + 3 + 6 - self.anchor) // 7, dtype=np.int64)
        if self.unit == "B":
            working = np.busday_offset(days, 0, roll="forward")
            return np.asarray(np.busday_count(np.datetime64(0, "D"), working), dtype=np.int64)
        return np.asarray((_whole(days, "M") - self.anchor) // _MONTHS_OF[self.unit], dtype=np.int64)

    def start(self, periods: Array) -> Array:
        """Return the first instant of each period."""
        if self.unit in _SECONDS:
            seconds = periods * (_SECONDS[self.unit] * self.step)
            return np.asarray(seconds.astype("datetime64[s]"), dtype="datetime64[ns]")
        found: Array
        if self.unit == "W":
            found = np.asarray(periods * 7 - 3 - 6 + self.anchor).astype("datetime64[D]")
        elif self.unit == "B":
            found = np.busday_offset(np.datetime64(0, "D"), periods, roll="forward")
        else:
            found = (periods * _MONTHS_OF[self.unit] + self.anchor).astype("datetime64[M]").astype("datetime64[D]")
        return np.asarray(found, dtype="datetime64[ns]")

    def label(self, periods: Array) -> Array:
        """Return what each period is called: its first instant, or its last day."""
        if not self.ends:
            return self.start(periods)
        return np.asarray(self.start(periods + 1) - np.timedelta64(1, "D"), dtype="datetime64[ns]")

    def period_of(self, moment: datetime) -> int:
        """Return the period of one instant, in UTC."""
        plain = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        return int(self.period(np.array([plain], dtype="datetime64[us]"))[0])

    def start_of(self, period: int) -> datetime:
        """Return the first instant of one period, in UTC."""
        return datetime.fromisoformat(str(self.start(np.array([period])).astype("datetime64[s]")[0])).replace(
            tzinfo=UTC
        )

    def text(self, period: int) -> str:
        """Return the label of one period."""
        return self.texts(np.array([period]))[0]

    def texts(self, periods: Array) -> list[str]:
        """Return the labels as ISO text: dates for periods of a day and more."""
        unit = "s" if self.unit in ("s", "min", "h") else "D"
        return [str(one) for one in self.label(periods).astype(f"datetime64[{unit}]")]


def _whole(times: Array, unit: str) -> NDArray[np.int64]:
    return times.astype(f"datetime64[{unit}]").astype(np.int64)


def parse_freq(name: object) -> Freq:
    """Return the frequency that pandas writes so.

    Raises:
        ConfigError: it is none, or one with several of a day, week, month or longer.

    >>> parse_freq("MS").season, parse_freq("15min").season
    (12, 96)
    """
    found = re.fullmatch(r"([0-9]{0,4})([A-Za-z]+)(?:-([A-Z]{3}))?", name) if isinstance(name, str) else None
    if not found:
        raise ConfigError("freq", name, _ALLOWED)
    number, word, anchor = int(found[1] or 1), _OLD.get(found[2], found[2]), found[3]
    plain = {"s": "s", "min": "min", "h": "h", "D": "D", "B": "B", "MS": "M", "ME": "M"}
    if word in plain and anchor is None and number >= 1 and (number == 1 or word in ("s", "min", "h")):
        return Freq(f"{number if number > 1 else ''}{word}", plain[word], number, 0, word == "ME")
    if number == 1 and word == "W" and (anchor or "SUN") in _DAYS:
        return Freq(f"W-{anchor or 'SUN'}", "W", 1, _DAYS.index(anchor or "SUN"), ends=True)
    if number == 1 and word in ("QS", "YS") and (anchor or "JAN") in _MONTHS:
        first = _MONTHS.index(anchor or "JAN") % _MONTHS_OF[word[0]]
        return Freq(f"{word}-{anchor or 'JAN'}", word[0], 1, first)
    if number == 1 and word in ("QE", "YE") and (anchor or "DEC") in _MONTHS:
        first = (_MONTHS.index(anchor or "DEC") + 1) % _MONTHS_OF[word[0]]
        return Freq(f"{word}-{anchor or 'DEC'}", word[0], 1, first, ends=True)
    raise ConfigError("freq", name, _ALLOWED)


_CANDIDATES = ("YS", "YE", "QS", "QE", "MS", "ME", *(f"W-{day}" for day in _DAYS), "D", "h", "30min", "15min", "10min",
               "5min", "min", "s")  # fmt: skip


def infer_freq(times: Array) -> str:
    """Return the frequency of the instants of a model's rows, where they leave no doubt.

    It is the longest one whose labels all instants are, if most neighbours are one period apart; months also where all
    instants lie on one day of the month.

    Raises:
        DataError: there are too few instants, none fits, or two do; names the ones to choose from.

    >>> infer_freq(np.array(["2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01"], dtype="datetime64[D]"))
    'MS'
    """
    known = np.unique(times[~np.isnat(times)].astype("datetime64[s]"))
    if known.size < _LEAST:
        raise DataError(f"{known.size} different times are too few to tell a frequency; declare freq=, e.g. 'MS'")
    for name in _CANDIDATES:
        freq = parse_freq(name)
        periods = freq.period(known)
        apart = np.diff(periods)
        monthly = name == "MS" and _on_one_day(known)
        if (np.any(freq.label(periods) != known) and not monthly) or np.mean(apart == 1) <= 0.5:
            continue
        weekdays = (_whole(known, "D") + 3) % 7
        if name == "D" and known.size >= 10 and weekdays.max() < 5:
            raise DataError("the rows have no weekend: declare freq='B' for working days, or freq='D'")
        return name
    raise DataError(
        f"the times of the rows, such as {known[0]} and {known[1]}, fit no frequency; declare freq=, e.g. 'D' or 'MS'"
    )


def _on_one_day(known: Array) -> bool:
    """Return whether all instants lie on one day of the month at one time, such as the 5th."""
    within = known - known.astype("datetime64[M]")
    return bool(np.all(within == within[0]))


def check(spec: ModelSpec) -> None:
    """Raise `ConfigError` for a frequency that does not exist."""
    if spec.series and spec.series.freq is not None:
        try:
            parse_freq(spec.series.freq)
        except ConfigError as error:
            raise ConfigError(f"{spec.name}.series.freq", error.value, error.allowed) from None


# --- series -----------------------------------------------------------------------------------------------------


class NoData(Exception):
    """There is not a single period with a value."""


@dataclass(frozen=True)
class Regular:
    """One value for each period from `first` on, none left out.

    Attributes:
        values: float; NaN only where a period without rows is declared missing.
        left_out: how many rows lie in a period that has not ended.
    """

    freq: Freq
    first: int
    values: Floats
    left_out: int = 0

    @property
    def last(self) -> int:
        return self.first + self.values.size - 1

    @property
    def periods(self) -> NDArray[np.int64]:
        return np.arange(self.first, self.first + self.values.size)

    def upto(self, period: int) -> Regular:
        """Return the part that ends with `period`."""
        return Regular(self.freq, self.first, self.values[: period - self.first + 1])


def reach(freq: Freq, now: datetime) -> datetime:
    """Return the end of the current period, in UTC without a zone; rows behind it tell of plans or slips, not how far the records go."""
    return freq.start_of(freq.period_of(now) + 1).replace(tzinfo=None)


def regular(
    times: Array, values: Floats, how: Series, freq: Freq, *, now: datetime, latest: datetime | None = None
) -> Regular:
    """Return the series of some rows.

    Args:
        times: datetime64; a row without time or value is no row.
        now: periods that have not ended by then are left out unless the unfinished one counts.
        latest: time of the newest row of the whole model before `reach`: up to there a period without rows is a gap.

    Raises:
        NoData: no row is left.
        DataError: a period holds no rows and gaps are refused, or a date cannot be meant.
    """
    present = ~np.isnat(times) & np.isfinite(values)
    times, values = times[present], values[present]
    if (wild := (times < _RANGE[0]) | (times > _RANGE[1])).any():
        raise DataError(
            f"{wild.sum()} rows are dated like {times[wild][0].astype('datetime64[s]')}; allowed: 1680 to 2259"
        )
    current = freq.period_of(now)
    newest = current if how.unfinished else current - 1
    periods = freq.period(times)
    kept = periods <= newest
    left_out = int((~kept).sum())
    if not kept.any():
        raise NoData(
            f"no data: {left_out} rows, all in a period that has not ended" if left_out else "no data: no rows"
        )
    periods, values = periods[kept], values[kept]
    first, last = int(periods.min()), int(periods.max())
    if latest is not None:
        last = max(last, min(freq.period_of(latest), newest))
    if last - first >= _LONGEST:
        raise DataError(
            f"from {freq.text(first)} to {freq.text(last)} are {last - first + 1} periods"
            f" of {freq.name}; allowed: {_LONGEST}. Is a date wrong?"
        )
    found = _aggregated(periods - first, times[kept], values, last - first + 1, how.aggregate)
    return Regular(freq, first, _filled(found, how.fill, freq, first), left_out)


def _aggregated(places: Array, times: Array, values: Floats, number: int, how: str) -> Floats:
    """Return one value for each period; NaN where there is no row."""
    counts = np.bincount(places, minlength=number)
    found: Floats
    if how == "count":
        found = counts.astype(np.float64)
    elif how in ("sum", "mean"):
        sums = np.bincount(places, weights=values, minlength=number).astype(np.float64)
        found = sums / np.maximum(counts, 1) if how == "mean" else sums
    else:
        order = np.lexsort((values, times, places)) if how == "last" else np.lexsort((values, places))
        ends = np.flatnonzero(np.diff(places[order], append=-1))
        starts = np.concatenate(([0], ends[:-1] + 1))
        found = np.zeros(number)
        found[places[order][ends]] = values[order][starts if how == "min" else ends]
    return np.where(counts > 0, found, np.nan)


def _filled(values: Floats, how: str, freq: Freq, first: int) -> Floats:
    holes = np.isnan(values)
    if not holes.any() or how == "missing":
        return values
    if how == "zero":
        return np.where(holes, 0.0, values)
    if how == "refuse":
        label = freq.text(first + int(np.flatnonzero(holes)[0]))
        raise DataError(f"{holes.sum()} of {values.size} periods have no rows, the first is {label}; gaps='refuse'")
    known = np.flatnonzero(~holes)
    if how == "linear":  # behind the last known value it stays where it is
        return np.interp(np.arange(values.size), known, values[known])
    return values[known[np.searchsorted(known, np.arange(values.size), side="right") - 1]]


def cutoffs(series: Regular, h: int, windows: int, least: int) -> list[int]:
    """Return the newest origins of a backtest: the last period that each of its fits may see.

    They lie at multiples of h on the calendar, not at a distance from the end, so that two fits of neighbouring
    periods are tested at the same ones.
    """
    newest = series.last // h * h - 1
    found = [newest - h * number for number in range(windows)]
    return [one for one in found if one - series.first + 1 >= max(least, 1)]


# --- the naive forecast -----------------------------------------------------------------------------------------


def naive(values: Floats, season: int, h: int, level: Sequence[int]) -> dict[str, Floats]:
    """Return the forecast that repeats the last season, or the last value where there is not a whole one.

    The interval grows with the number of seasons ahead; it has no width for a constant, and is missing (NaN) where
    fewer than three values tell nothing about it.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., sections 5.2 and 5.5.
    """
    known = values[np.isfinite(values)] if np.isnan(values).any() else values
    step = season if known.size > season else 1
    ahead = np.arange(h)
    mean = known[known.size - step + ahead % step]
    errors = known[step:] - known[:-step]
    spread = math.sqrt(float(np.mean(errors**2))) if errors.size >= 2 else math.nan
    spread = 0.0 if known.size >= 2 and np.all(known == known[0]) else spread
    width = spread * np.sqrt(ahead // step + 1.0)
    found = {"mean": mean.astype(np.float64)}
    for one in level:
        reach = NormalDist().inv_cdf(0.5 + one / 200) * width
        found |= {f"lo-{one}": mean - reach, f"hi-{one}": mean + reach}
    return found
