"""The forecasting service of document 004: which model it means, forecasts with filters, and what to order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from evertrain.control.forecast import filtered
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError, Conflict, NotFound
from evertrain.specs import Dataset

LEAD_TIME_DAYS = 3  # from an order to its goods
SERVICE_LEVEL = 0.95  # share of these times in which the stock lasts
MOST_DAYS = 90


def model_of(opened: Opened, name: str | None = None) -> str:
    """Return the forecasting model that is meant: the named one, else the project's only one.

    Raises:
        NotFound: there is none, or none of this name.
        Conflict: there are several, and none is named.
    """
    known = [one.name for one in opened.project().models.values() if one.series is not None]
    if name is not None:
        if name not in known:
            raise NotFound(f"{name!r} is no forecasting model; there are {', '.join(known) or 'none'}")
        return name
    if not known:
        raise NotFound("no forecasting model is declared; one has series=Series(h=…)")
    if len(known) > 1:
        raise Conflict(f"there are several forecasting models: add ?model= with one of {', '.join(known)}")
    return known[0]


def dataset_of(opened: Opened, model: str) -> str:
    """Return the dataset that a model learns from.

    Raises:
        Conflict: its rows are in a file or a table of yours, where nobody can upload to.
    """
    project = opened.project()
    source = project.models[model].source
    if not isinstance(project.sources[source], Dataset):
        raise Conflict(f"{model} learns from {source}, which is no dataset: change the rows there, where they are")
    return source


def answer(
    opened: Opened,
    days: int = 7,
    where: Mapping[str, Any] | None = None,
    model: str | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return a forecast with a recommendation for the stock, as plain values.

    Without filters the champion answers. With filters the partition's champion does where there is one, else a model
    made of these rows for this question, which says so under "temporary" and is kept until rows change.

    Raises:
        ConfigError: `days` is no whole number from 1 to 90, or the model does not forecast days.
        DataError: too few rows have these values.
        NoModelYet: nothing was trained yet.
    """
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= MOST_DAYS:
        raise ConfigError("days", days, f"a whole number from 1 to {MOST_DAYS}")
    name = model_of(opened, model)
    target = opened.project().models[name].target
    wanted = {column: value for column, value in (where or {}).items() if value is not None}
    found = filtered(opened, name, wanted, max(days, LEAD_TIME_DAYS), [95], stop=stop)
    if found.freq != "D":
        raise ConfigError("model", name, f"one that forecasts days; periods of this one are {found.freq}")
    lower, upper = found.intervals["lo-95"], found.intervals["hi-95"]
    rows = [
        {"date": ds, target: _round(mean), "lower": _round(lo), "upper": _round(hi)}
        for ds, mean, lo, hi in zip(found.ds, found.mean, lower, upper, strict=True)
    ]
    return {
        "days": days,
        "filters": wanted,
        "forecast": rows[:days],
        "inventory": inventory(found.mean, upper),
        "model": {
            "version": found.version or None, "answered_by": found.answered_by, "temporary": found.temporary,
            "data_to": found.as_of, "fallback": found.fallback, "note": found.note,
        },
    }  # fmt: skip


def inventory(
    mean: Sequence[float],
    upper: Sequence[float | None],
    lead_time: int = LEAD_TIME_DAYS,
    service_level: float = SERVICE_LEVEL,
) -> dict[str, Any]:
    """Return reorder point and safety stock for the days that new goods take to come.

    reorder point = expected sales of the lead time + safety stock
    safety stock  = z(service level) * sqrt(sum of sigma² over these days), with sigma = (upper - mean) / z(97.5 %)

    It takes the errors of neighbouring days for independent; where a forecast is wrong, it tends to be so for days.

    Args:
        upper: upper end of the 95 % interval of each day.

    Source: Silver, Pyke and Thomas, Inventory and Production Management in Supply Chains, 4th ed. (2017), chapter 6:
    s = x_L + k sigma_L.

    >>> inventory([100.0, 100.0, 100.0], [119.6, 119.6, 119.6])["safety_stock"]
    28.5
    """
    wide = NormalDist().inv_cdf(0.975)
    known = [(high - middle) / wide for middle, high in zip(mean, upper, strict=True) if high is not None][:lead_time]
    if len(known) < lead_time:  # the naive forecast of two rows knows nothing of its own error
        return {"reorder_point": None, "safety_stock": None, "why": "the forecast's error is not known"}
    safety = NormalDist().inv_cdf(service_level) * math.sqrt(sum(one**2 for one in known))
    expected = sum(mean[:lead_time])
    return {
        "lead_time_days": lead_time,
        "service_level": service_level,
        "expected_sales": _round(expected),
        "safety_stock": _round(safety),
        "reorder_point": _round(expected + safety),
        "recommendation": f"order when stock and open orders together fall to {expected + safety:,.0f}",
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
