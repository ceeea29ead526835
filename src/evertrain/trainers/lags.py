"""Forecasts by any scikit-learn regressor that sees the last values, their means and the calendar."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evertrain.errors import ConfigError
from evertrain.specs import Context, Estimator
from evertrain.trainers import series
from evertrain.trainers.series import Floats

if TYPE_CHECKING:
    import pandas as pd

_LEAST = 10
_MOST_ORIGINS = 200
_DAY, _YEAR = 86400.0, 365.2425 * 86400
# Kwiatkowski, Phillips, Schmidt and Shin, J. Econometrics 54 (1992), table 1: level stationarity refused at 5 %.
_KPSS_5 = 0.463


@dataclass(frozen=True)
class Layout:
    """Which numbers a regressor sees of a series, and in which scale.

    Attributes:
        cycles: parts of the calendar, each as sine and cosine: "hour" of the day, "week" day, day of the "year".
        difference: it learns changes from one period to the next, so that a trend goes on behind the values seen.
        centre, scale: what is taken off the values (or changes), and what they are then divided by.
        low, high: the range that a forecast value (or change) stays in.
    """

    lags: tuple[int, ...]
    rolling: tuple[int, ...]
    cycles: tuple[str, ...]
    freq: str
    difference: bool
    centre: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @property
    def memory(self) -> int:
        """How many values back it looks."""
        return max(*self.lags, *self.rolling, 1)


@dataclass
class Fitted:
    """A regressor fitted to a series.

    Attributes:
        tail: the last values, as many as are looked back at.
        last: label of the last period, in nanoseconds since 1970.
        errors: of forecasts of periods that it had not seen, shape (origins, steps), in units of y.
    """

    regressor: Any
    layout: Layout
    tail: Floats
    last: int
    errors: Floats


class SklearnForecaster:
    """A scikit-learn regressor, or a Pipeline that ends in one, over the past of a series; step by step.

    Intervals come from forecasts of the second half of the series, by regressors that were fitted to what lay before
    (see `series.half_widths`). An unset `random_state` becomes the seed. `update` exists for regressors that have
    `partial_fit`.

    Args:
        lags: how many periods back the values lie that it sees; None is 1, 2, 3 and a season, as far as the series
            is long enough.
        rolling: over how many last periods it sees means; None is 3 and a season.
        calendar: whether it sees the hour, the weekday and the time of the year, where the series has seen two of
            their cycles.
        difference: whether it learns changes instead of values; "auto" tests whether the level of the series moves.

    Raises:
        ConfigError: it is no regressor, or a number of periods is none.

    >>> from sklearn.linear_model import Ridge
    >>> SklearnForecaster(Ridge(), lags=[1, 2]).lags
    [1, 2]
    """

    libraries: Sequence[str] = ("scikit-learn", "numpy", "scipy")

    def __init__(
        self,
        estimator: Any,
        lags: Sequence[int] | None = None,
        rolling: Sequence[int] | None = None,
        calendar: bool = True,
        difference: Literal["auto"] | bool = "auto",
    ) -> None:
        if isinstance(estimator, type) or not all(
            hasattr(estimator, name) for name in ("fit", "predict", "get_params")
        ):
            raise ConfigError("estimator", estimator, "a scikit-learn regressor, or a Pipeline that ends in one")
        for name, given in (("lags", lags), ("rolling", rolling)):
            periods = given if given is not None else [1]
            if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in periods):
                raise ConfigError(name, given, "whole numbers of periods, at least 1, or None")
        if lags is not None and not len(lags):
            raise ConfigError("lags", lags, "at least one, or None")
        if difference not in ("auto", True, False):
            raise ConfigError("difference", difference, "'auto', True or False")
        self.estimator, self.lags, self.rolling = estimator, lags, rolling
        self.calendar, self.difference = calendar, difference

    def least(self, season: int) -> int:  # noqa: ARG002 - lags that the series is too short for are left out
        """Return the fewest periods that it learns from: three times the longest lag that was chosen."""
        return max([_LEAST, *(3 * one for one in (*(self.lags or ()), *(self.rolling or ())))])

    def fit(self, frame: pd.DataFrame, context: Context) -> Fitted:
        """Return the regressor fitted to a series.

        Raises:
            ConfigError: the estimator is no regressor.
            DataError: the series has missing values or is too short, or the regressor refuses it.
        """
        from sklearn.base import clone, is_regressor

        from evertrain.trainers.sklearn import seeded

        if not is_regressor(self.estimator):
            raise ConfigError("estimator", self.estimator, "a scikit-learn regressor, or a Pipeline that ends in one")
        told: Any = context
        y = series.values(frame, self._name, self.least(told.season))
        times = frame["ds"].to_numpy().astype("datetime64[ns]")
        layout = self._layout(y, times, told)
        regressor = seeded(clone(self.estimator), context.seed)
        with series.fenced(self._name):
            # Two more fits, which a backtest has no use for.
            errors = np.empty((0, 0)) if series.mean_only(context) else _errors(regressor, layout, y, times, told.h)
            layout = _scaled(layout, y)
            found = _learn(clone(regressor), layout, y, times)
        return self._checked(Fitted(found, layout, *_end(layout, y, times), errors), told)

    def forecast(self, fitted: Fitted, h: int, level: Sequence[int]) -> dict[str, Floats]:
        """Return the mean and intervals of the next h periods.

        Raises:
            DataError: the regressor answers no finite numbers.
        """
        layout, last = fitted.layout, np.datetime64(fitted.last, "ns")
        after = series.labels_after(last, layout.freq, h).to_numpy()
        with series.fenced(self._name):
            z = _moved(layout, fitted.tail)[np.newaxis]
            steps = _steps(fitted.regressor, layout, z, _calendar(layout, after)[np.newaxis])
            mean = _back(layout, steps, fitted.tail[-1:])[0]
        widths = {one: series.half_widths(fitted.errors, h, one) for one in series.level_of(level)}
        return series.nested(self._name, mean, {one: (mean - width, mean + width) for one, width in widths.items()})

    @property
    def update(self) -> Callable[..., Fitted]:
        """Return `update(fitted, frame, context)`, which learns new periods by `partial_fit`, in their order."""
        if not hasattr(self.estimator, "partial_fit"):
            raise AttributeError(f"{self._name} has no partial_fit, it has to be fitted anew")
        return self._update

    def _update(self, fitted: Fitted, frame: pd.DataFrame, context: Context) -> Fitted:
        new = series.values(frame, self._name, 1)
        times = frame["ds"].to_numpy().astype("datetime64[ns]")
        layout, y = fitted.layout, np.append(fitted.tail, new)
        regressor = copy.deepcopy(fitted.regressor)
        with series.fenced(self._name):
            z = _moved(layout, y)
            windows = np.lib.stride_tricks.sliding_window_view(z, layout.memory)[:-1]
            regressor.partial_fit(_features(layout, windows, _calendar(layout, times)), z[layout.memory :])
        return self._checked(Fitted(regressor, layout, *_end(layout, y, times), fitted.errors), context)

    def save(self, fitted: Fitted) -> bytes:
        """Return `fitted` as bytes that `load` accepts; the regressor as `trainers.sklearn` saves it.

        Raises:
            TrainingError: the regressor cannot be saved safely.
        """
        from evertrain.trainers.describe import describe
        from evertrain.trainers.sklearn import SklearnTrainer

        spec = describe(self.estimator)
        assert isinstance(spec, Estimator)  # a regressor of scikit-learn was fitted
        regressor = np.frombuffer(SklearnTrainer(spec).save(fitted.regressor), dtype=np.uint8)
        return series.pack({**vars(fitted), "layout": asdict(fitted.layout), "regressor": regressor})

    def load(self, data: bytes) -> Fitted:
        from evertrain.trainers.sklearn import load

        def made(found: dict[str, Any]) -> Fitted:
            layout, regressor = Layout(**found.pop("layout")), load(found.pop("regressor").tobytes())
            return Fitted(regressor, layout, **found)

        return series.unpack(data, made)

    @property
    def _name(self) -> str:
        return type(self.estimator).__name__

    def _checked(self, fitted: Fitted, told: Any) -> Fitted:
        """Find a model that answers no numbers here, and not when somebody asks."""
        self.forecast(fitted, told.h, told.level)
        return fitted

    def _layout(self, y: Floats, times: Any, told: Any) -> Layout:
        season, most = told.season, y.size // 3  # the rest are rows to learn from
        seasonal = (season,) if season > 1 else ()
        lags = self.lags if self.lags is not None else sorted({1, 2, 3, *seasonal, *(one + 1 for one in seasonal)})
        rolling = self.rolling if self.rolling is not None else sorted({3, *seasonal})
        return Layout(
            tuple(one for one in lags if one <= most),
            tuple(one for one in rolling if one <= most),
            _cycles(times) if self.calendar else (),
            told.freq,
            _moves(y, season) if self.difference == "auto" else self.difference,
        )


# --- from values to what a regressor sees, and back -------------------------------------------------------------


def _cycles(times: Any) -> tuple[str, ...]:
    """The parts of the calendar that differ between periods and that came round twice."""
    seconds = (times - times[0]) / np.timedelta64(1, "s")
    step, span = float(np.median(np.diff(seconds))), float(seconds[-1])
    lengths = {"hour": _DAY, "week": 7 * _DAY, "year": _YEAR}
    return tuple(name for name, length in lengths.items() if step <= length / 2 and span >= 2 * length)


def _calendar(layout: Layout, times: Any) -> Floats:
    """Return sine and cosine of where in its cycles each period lies."""
    days = times.astype("datetime64[D]")
    year = times.astype("datetime64[Y]")
    places = {
        "hour": lambda: (times - days) / np.timedelta64(1, "D"),
        "week": lambda: (days.astype(np.int64) + 3) % 7 / 7,  # 1970-01-01 was a Thursday
        "year": lambda: (days - year.astype("datetime64[D]")) / np.timedelta64(1, "D") / 366,
    }
    angles = [2 * np.pi * places[name]() for name in layout.cycles]
    columns = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.column_stack(columns) if columns else np.empty((times.size, 0))


def _moves(y: Floats, season: int) -> bool:
    """Whether the level of a series moves, by the test of Kwiatkowski and others on the series without its season."""
    spread = float(np.std(y))
    if not spread:
        return False
    y = (y - y.mean()) / spread
    at = np.arange(y.size)
    if 1 < season <= y.size // 2:
        flat = y - np.polyval(np.polyfit(at, y, 1), at)
        y = y - (np.bincount(at % season, flat) / np.bincount(at % season))[at % season]
    y = y - y.mean()
    most = int(4 * (y.size / 100) ** 0.25)
    variance = y @ y + 2 * sum((1 - lag / (most + 1)) * (y[lag:] @ y[:-lag]) for lag in range(1, most + 1))
    return bool(variance > 0 and np.sum(np.cumsum(y) ** 2) / y.size / variance > _KPSS_5)


def _scaled(layout: Layout, y: Floats) -> Layout:
    """Return the layout with the scale of a series; a part of it has a scale of its own."""
    moved = np.diff(y) if layout.difference else y
    centre, scale = float(moved.mean()), float(moved.std())
    layout = replace(layout, centre=centre, scale=scale if scale > 0 else 1.0)
    z = _moved(layout, y)
    reach = float(z.max() - z.min())
    return replace(layout, low=float(z.min()) - reach, high=float(z.max()) + reach)


def _moved(layout: Layout, y: Floats) -> Floats:
    """Return the values, or their changes, in the layout's scale."""
    found: Floats = ((np.diff(y) if layout.difference else y) - layout.centre) / layout.scale
    return found


def _back(layout: Layout, z: Floats, known: Floats) -> Floats:
    """Return forecast values; `known` is the last known one of each row."""
    found = z * layout.scale + layout.centre
    return known[:, np.newaxis] + np.cumsum(found, axis=1) if layout.difference else found


def _features(layout: Layout, windows: Floats, calendar: Floats) -> Floats:
    """Return a row for each window of last values, whose next one is to be learned or forecast."""
    lags = [windows[:, -one] for one in layout.lags]
    means = [windows[:, -one:].mean(axis=1) for one in layout.rolling]
    return np.column_stack([*lags, *means, calendar])


def _learn(regressor: Any, layout: Layout, y: Floats, times: Any) -> Any:
    z = _moved(layout, y)
    windows = np.lib.stride_tricks.sliding_window_view(z, layout.memory)[:-1]
    after = times[times.size - len(windows) :]
    return regressor.fit(_features(layout, windows, _calendar(layout, after)), z[layout.memory :])


def _steps(regressor: Any, layout: Layout, z: Floats, calendar: Floats) -> Floats:
    """Return forecasts of each row of `z`, shape (rows, steps): all rows at once, one step after the other.

    A forecast that leaves twice the range of what was seen is cut off there, so that none can run away.
    """
    memory, steps = layout.memory, calendar.shape[1]
    known = np.concatenate([z[:, z.shape[1] - memory :], np.empty((len(z), steps))], axis=1)
    for step in range(steps):
        seen = _features(layout, known[:, step : step + memory], calendar[:, step])
        known[:, memory + step] = np.clip(regressor.predict(seen).reshape(len(z)), layout.low, layout.high)
    return known[:, memory:]


def _errors(regressor: Any, layout: Layout, y: Floats, times: Any, h: int) -> Floats:
    """Errors of forecasts from the periods of the second half, by regressors that know what lies before a part of it."""
    from sklearn.base import clone

    first = max(y.size // 2, 2 * layout.memory)
    steps = min(h, y.size - first)
    later = np.append(y, np.full(steps, np.nan))
    calendar = _calendar(layout, np.append(times, series.labels_after(times[-1], layout.freq, steps).to_numpy()))
    found = []
    for cut, until in ((first, (first + y.size) // 2), ((first + y.size) // 2, y.size)):
        part = _scaled(layout, y[:cut])
        learned = _learn(clone(regressor), part, y[:cut], times[:cut])
        origins = np.unique(np.linspace(cut, until - 1, _MOST_ORIGINS // 2).astype(int))
        ahead = origins[:, np.newaxis] + np.arange(steps)
        back = part.memory + part.difference
        z = np.stack([_moved(part, y[one - back : one]) for one in origins])
        forecasts = _back(part, _steps(learned, part, z, calendar[ahead]), y[origins - 1])
        found.append(later[ahead] - forecasts)
    return np.concatenate(found)


def _end(layout: Layout, y: Floats, times: Any) -> tuple[Floats, int]:
    return y[y.size - layout.memory - layout.difference :].copy(), int(times[-1].astype(np.int64))
