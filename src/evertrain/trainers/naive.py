"""The naive forecast as a trainer: what stands in, labelled, where a series is too short for its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evertrain.forecasting import naive
from evertrain.specs import SeriesContext

if TYPE_CHECKING:
    import pandas as pd


class NaiveForecaster:
    """Repeats the last season, or the last value where there is not a whole one; see `forecasting.naive`."""

    libraries: Sequence[str] = ()

    def fit(self, frame: pd.DataFrame, context: SeriesContext) -> dict[str, Any]:
        return {"y": frame["y"].to_numpy(dtype=np.float64), "season": context.season}

    def save(self, fitted: dict[str, Any]) -> bytes:
        values = [None if np.isnan(one) else one for one in fitted["y"].tolist()]
        return json.dumps({"y": values, "season": fitted["season"]}).encode()

    def load(self, data: bytes) -> dict[str, Any]:
        found = json.loads(data)
        return {"y": np.array(found["y"], dtype=np.float64), "season": int(found["season"])}

    def forecast(self, fitted: dict[str, Any], h: int, level: Sequence[int]) -> dict[str, Any]:
        return dict(naive(fitted["y"], fitted["season"], h, level))
