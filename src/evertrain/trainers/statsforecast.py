"""Statistical forecasts by statsforecast: exponential smoothing, ARIMA, theta, decomposition and their like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evertrain.errors import ConfigError
from evertrain.specs import Context
from evertrain.trainers import series
from evertrain.trainers.series import Floats

if TYPE_CHECKING:
    import pandas as pd

# Named here, so that a declaration is checked without the library. Left out: SklearnModel needs columns beside the
# series, ConstantModel, ZeroModel and NaNModel learn nothing, ConformalSeasonalPool draws without a seed, and ARCH
# and GARCH forecast how much a series without a level varies. The first of the two lists can follow new periods
# without being estimated anew.
_FORWARD = [
    "ARIMA", "AutoARIMA", "AutoCES", "AutoETS", "AutoRegressive", "AutoTheta", "DynamicOptimizedTheta",
    "DynamicTheta", "Holt", "HoltWinters", "MSTL", "Naive", "OptimizedTheta", "SeasonalNaive", "Theta",
]  # fmt: skip
_OTHERS = [
    "ADIDA", "AutoMFLES", "AutoTBATS", "CrostonClassic", "CrostonOptimized", "CrostonSBA", "HistoricAverage",
    "IMAPA", "MFLES", "RandomWalkWithDrift", "SeasonalExponentialSmoothing",
    "SeasonalExponentialSmoothingOptimized", "SeasonalWindowAverage", "SimpleExponentialSmoothing",
    "SimpleExponentialSmoothingOptimized", "TBATS", "TSB", "UCM", "WindowAverage",
]  # fmt: skip
MODELS = sorted([*_FORWARD, *_OTHERS])

# Below these an interval would rest on next to nothing, and some models answer none, or one of no width.
_LEAST = 10
_LEARNS_SEASONS = [
    "AutoTBATS", "HoltWinters", "MSTL", "SeasonalExponentialSmoothing", "SeasonalExponentialSmoothingOptimized",
    "SeasonalNaive", "TBATS",
]  # fmt: skip

_MOST_ORIGINS = 20


@dataclass
class Fitted:
    """A fitted model of statsforecast.

    Attributes:
        state: what the fit left in the model, as plain values and arrays; None if it is fitted anew when needed.
        y: the series it knows.
        forward: whether `y` is longer than the series that the state was estimated on.
        errors: of forecasts in hindsight, shape (origins, steps), where the model knows no intervals.
    """

    model: str
    params: dict[str, Any]
    y: Floats
    state: dict[str, Any] | None
    forward: bool = False
    errors: Floats | None = None
    _live: Any = field(default=None, repr=False, compare=False)

    @property
    def live(self) -> Any:
        """The model itself, made from the state once."""
        if self._live is None:
            made = _made(self.model, self.params)
            if self.state is None:
                made = made.fit(self.y)
            else:
                vars(made).update(_from_plain(self.state))
            self._live = made
        return self._live


class Forecaster:
    """A model class of `statsforecast.models` by its name, such as "AutoETS", "AutoARIMA", "AutoTheta" or "MSTL".

    The season is the one of the series unless `season_length` is given. Models that know no intervals get them from
    the errors of forecasts in hindsight. `update` exists for models that can follow new periods without being
    estimated anew.

    Args:
        params: of the model class; those that have no such name here may also be given by keyword.

    Raises:
        ConfigError: there is no such model.

    >>> Forecaster("AutoETS", season_length=12).params
    {'season_length': 12}
    """

    libraries: Sequence[str] = ("statsforecast", "numpy", "scipy")
    extras: ClassVar[Mapping[str, str]] = {"statsforecast": "forecast"}

    def __init__(self, model: str = "AutoETS", params: Mapping[str, Any] | None = None, **more: Any) -> None:
        if model not in MODELS:
            raise ConfigError("model", model, ", ".join(MODELS))
        self.model = model
        self.params: dict[str, Any] | None = {**(params or {}), **more} or None

    def least(self, season: int) -> int:
        """Return the fewest periods that the model learns from."""
        params = self.params or {}
        given = params.get("season_length", season)
        longest = max(given) if isinstance(given, list | tuple) and given else given
        seasons = 2 if self.model in _LEARNS_SEASONS else 0
        if self.model == "SeasonalWindowAverage":
            seasons += 2 * params.get("window_size", 1)
        return max(_LEAST, seasons * (longest if isinstance(longest, int) else season))

    def fit(self, frame: pd.DataFrame, context: Context) -> Fitted:
        """Return the model fitted to a series.

        Raises:
            ConfigError: the model class refuses its parameters.
            DataError: the series has missing values or is too short, or the model cannot be fitted to it.
        """
        season, h, level = _told(context)
        y = series.values(frame, self.model, self.least(season))
        params = dict(self.params or {})
        if "season_length" in inspect.signature(_class(self.model)).parameters:
            params.setdefault("season_length", season)
        if self.model == "MSTL" and params["season_length"] == 1:
            raise ConfigError("season_length", 1, "at least 2 for MSTL, which takes the season out of a series")
        made = _made(self.model, params)
        with series.fenced(self.model):  # statsforecast raises any type, bare `Exception` among them
            fitted = _fitted(made.fit(y.copy()), self.model, params, y, 0 if series.mean_only(context) else h)
        self.forecast(fitted, h, level)  # a model that answers no numbers is found here and not by whoever asks first
        return fitted

    def forecast(self, fitted: Fitted, h: int, level: Sequence[int]) -> dict[str, Floats]:
        """Return the mean and intervals of the next h periods.

        Raises:
            DataError: the model answers no finite numbers.
        """
        levels = series.level_of(level)
        asked = levels if fitted.errors is None else []
        with series.fenced(self.model):
            ask = partial(fitted.live.forward, fitted.y) if fitted.forward else fitted.live.predict
            found = ask(h=h, level=asked) if asked else ask(h=h)
        mean = np.asarray(found["mean"], dtype=np.float64)
        if fitted.errors is None:
            bounds = {one: (found[f"lo-{one}"], found[f"hi-{one}"]) for one in levels}
        else:
            widths = {one: series.half_widths(fitted.errors, h, one) for one in levels}
            bounds = {one: (mean - width, mean + width) for one, width in widths.items()}
        return series.nested(self.model, mean, bounds)

    @property
    def update(self) -> Callable[..., Fitted]:
        """Return `update(fitted, frame, context)`, which follows new periods with the parameters as they are."""
        if self.model not in _FORWARD:
            raise AttributeError(f"{self.model} cannot follow new periods, it has to be fitted anew")
        return self._update

    def _update(self, fitted: Fitted, frame: pd.DataFrame, context: Context) -> Fitted:
        _, h, level = _told(context)
        y = np.append(fitted.y, series.values(frame, self.model, 0))
        found = Fitted(fitted.model, fitted.params, y, fitted.state, forward=True)
        self.forecast(found, h, level)
        return found

    def save(self, fitted: Fitted) -> bytes:
        return series.pack(
            {
                "model": fitted.model,
                "params": _to_plain(fitted.params),
                "y": fitted.y,
                "state": fitted.state,
                "forward": fitted.forward,
                "errors": fitted.errors,
            }
        )

    def load(self, data: bytes) -> Fitted:
        return series.unpack(data, lambda found: Fitted(**{**found, "params": _from_plain(found["params"])}))


def _told(context: Any) -> tuple[int, int, Sequence[int]]:
    return context.season, context.h, context.level


def _class(model: str) -> Any:
    with series.quiet():  # it announces changes of its own
        import statsforecast.models

    if not hasattr(statsforecast.models, model):
        raise ConfigError("model", model, "a class that the installed version of statsforecast has")
    return getattr(statsforecast.models, model)


def _made(model: str, params: Mapping[str, Any]) -> Any:
    try:
        return _class(model)(**params)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"parameters of {model}", dict(params), f"what the model takes ({error})") from error


def _fitted(live: Any, model: str, params: dict[str, Any], y: Floats, h: int) -> Fitted:
    """Return the fit of a live model, with the errors that intervals of h steps need where it knows none."""
    try:
        state = _to_plain(vars(live))
    except TypeError:
        state = None
    errors = None if not h or _knows_intervals(live) else _errors(model, params, y, h)
    # Not `live` itself: what was fitted and what is loaded are made from the same numbers in the same way.
    return Fitted(model, params, y, state, errors=errors)


def _knows_intervals(live: Any) -> bool:
    if type(live).__name__.startswith("SeasonalExponentialSmoothing"):
        return False  # it has one parameter per period of the season there where one per step belongs
    try:
        return "lo-80" in live.predict(h=1, level=[80])
    except Exception:  # noqa: BLE001 - a bare Exception says so
        return False


def _errors(model: str, params: Mapping[str, Any], y: Floats, h: int) -> Floats:
    """Errors of forecasts from up to 20 periods of the second half, each by a model that knew no later ones."""
    cuts = np.unique(np.linspace(y.size // 2, y.size - 1, _MOST_ORIGINS).astype(int))
    found = np.full((cuts.size, min(h, y.size - int(cuts[0]))), np.nan)
    for row, cut in zip(found, cuts, strict=True):
        steps = min(row.size, y.size - cut)
        mean = _made(model, params).fit(y[:cut].copy()).predict(h=steps)["mean"]
        row[:steps] = y[cut : cut + steps] - mean[:steps]
    if not np.isfinite(found[:, 0]).all():
        raise ValueError(f"half of {y.size} periods are too few to see how far its forecasts go wrong")
    return found


# --- a fitted model as plain values and arrays ------------------------------------------------------------------


def _to_plain(value: Any) -> Any:
    """Return a fitted model as `series.pack` takes it.

    Raises:
        TypeError: it holds an object that is not statsforecast's own.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value if not isinstance(value, np.generic) else np.asarray(value)
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
        return np.ascontiguousarray(value).reshape(np.shape(value))
    if isinstance(value, list):
        return [_to_plain(one) for one in value]
    if isinstance(value, tuple):
        return tuple(_to_plain(one) for one in value)
    if isinstance(value, dict) and all(isinstance(key, str) and key[:1] != "$" for key in value):
        return {key: _to_plain(one) for key, one in value.items()}
    name = type(value).__name__
    if name == "DataFrame":
        return {"$frame": {str(key): _to_plain(value[key].to_numpy()) for key in value.columns}}
    if name in _FORWARD or name == "ConformalIntervals":
        return {"$model": name, "state": _to_plain(vars(value))}
    raise TypeError(f"{name} is no plain value")


def _from_plain(value: Any) -> Any:
    match value:
        case {"$frame": columns}:
            import pandas as pd

            return pd.DataFrame(_from_plain(columns))
        case {"$model": name, "state": state}:
            made = _bare(name)
            vars(made).update(_from_plain(state))
            return made
        case dict():
            return {key: _from_plain(one) for key, one in value.items()}
        case list():
            return [_from_plain(one) for one in value]
        case tuple():
            return tuple(_from_plain(one) for one in value)
        case np.ndarray() if value.ndim == 0:
            return value[()]
    return value


def _bare(name: str) -> Any:
    """An object of a class of statsforecast, without attributes; a saved model can name no other."""
    if name == "ConformalIntervals":
        from statsforecast.utils import ConformalIntervals

        return ConformalIntervals.__new__(ConformalIntervals)
    if name not in _FORWARD:
        raise ConfigError("model", name, ", ".join(_FORWARD))
    made = _class(name)
    return made.__new__(made)
