"""Asking a forecaster, and trusting nothing it says before it was looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evertrain.errors import TrainingError
from evertrain.forecasting import LAST_DATE, Freq
from evertrain.specs import ForecastTrainer
from evertrain.trainers.naive import NaiveForecaster

_SLACK = 1e-6  # relative; a hair's breadth is rounding of the trainer's


def checked(trainer: ForecastTrainer, fitted: Any, h: int, level: Sequence[int]) -> dict[str, Any]:
    """Return a forecast: "mean", and "lo-80" and "hi-80" for each level, arrays of length h.

    Raises:
        TrainingError: an answer is missing, of another length, no number, or an interval without its mean.
    """
    answer = trainer.forecast(fitted, h, level)
    name_of = type(trainer).__name__
    found: dict[str, Any] = {}
    for name in ("mean", *(f"{side}-{one}" for one in level for side in ("lo", "hi"))):
        if name not in answer:
            raise TrainingError(f"{name_of}.forecast answered no {name!r}; there is {', '.join(map(str, answer))}")
        values = np.asarray(answer[name], dtype=np.float64).reshape(-1)
        if values.size != h:
            raise TrainingError(f"{name_of}.forecast answered {values.size} values of {name!r} for {h}")
        # The naive forecast of two values knows nothing of its own error, and says so.
        unknown = isinstance(trainer, NaiveForecaster) and name != "mean"
        if not unknown and (bad := int((~np.isfinite(values)).sum())):
            raise TrainingError(f"{bad} of {h} values of {name!r} are no numbers")
        found[name] = values
    slack = _SLACK * (1 + np.abs(found["mean"]))
    for one in level:
        if np.any((found[f"lo-{one}"] > found["mean"] + slack) | (found[f"hi-{one}"] < found["mean"] - slack)):
            raise TrainingError(f"its {one} % interval does not hold its own forecast")
    return found


def ahead(
    trainer: ForecastTrainer, fitted: Any, freq: Freq, last: int, h: int, level: Sequence[int]
) -> dict[str, list[Any]]:
    """Return a checked forecast of the periods behind `last`, as plain values with their labels under "ds".

    Raises:
        TrainingError: as `checked`, and for periods that no calendar of ours holds.
    """
    if freq.period(np.array([LAST_DATE]))[0] < last + h:
        raise TrainingError(f"{h} periods of {freq.name} reach beyond {LAST_DATE}")
    found = checked(trainer, fitted, h, level)
    values = {name: [one if math.isfinite(one) else None for one in column.tolist()] for name, column in found.items()}
    return {"ds": freq.texts(np.arange(last + 1, last + 1 + h)), **values}
