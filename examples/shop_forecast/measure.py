"""Measure on generated sales how often the intervals hold, and how often the recommended stock lasts.

usage: python measure.py [SERIES]     each takes some seconds; half of them are one product, half the whole shop
"""

from __future__ import annotations

import sys
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from hybrid import PARTS, HybridForecaster
from make_data import sales

DAYS, H, LEAD = 730, 7, 3


def series(number: int) -> pd.DataFrame:
    rows = list(sales(date(2025, 1, 1) + timedelta(days=37 * number), DAYS + H, seed=number))
    frame = pd.DataFrame(rows, columns=["ds", "product_id", "category", "region", "y"])
    frame = frame[frame["product_id"] == "P001"] if number % 2 else frame
    found = frame.groupby("ds", as_index=False)["y"].sum()
    return found.assign(ds=pd.to_datetime(found["ds"]))


def main() -> None:
    held: dict[str, list[Any]] = {"80 %": [], "95 %": [], "95 % of Prophet alone": [], "stock for 95 %": []}
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 34):
        frame = series(number)
        told = SimpleNamespace(
            freq="D", season=7, h=H, level=(80, 95), mean_only=False, seed=number, progress=lambda *_: None
        )
        fitted, actual = HybridForecaster().fit(frame.iloc[:DAYS], told), frame["y"].to_numpy()[DAYS:]
        said, alone = fitted.forecast(H, (80, 95)), PARTS.forecast(fitted.prophet, H, (95,))
        for name, found, level in (("80 %", said, 80), ("95 %", said, 95), ("95 % of Prophet alone", alone, 95)):
            held[name].append(np.mean((actual >= found[f"lo-{level}"]) & (actual <= found[f"hi-{level}"])))
        sigma = (said["hi-95"] - said["mean"])[:LEAD] / 1.96
        reorder = said["mean"][:LEAD].sum() + 1.645 * np.sqrt((sigma**2).sum())
        held["stock for 95 %"].append(actual[:LEAD].sum() <= reorder)
        print(
            f"{number + 1}: " + ", ".join(f"{name} holds {np.mean(one):.1%}" for name, one in held.items()), flush=True
        )


if __name__ == "__main__":
    main()
