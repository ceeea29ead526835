"""Pictures: a forecast with its intervals behind what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evertrain.errors import ConfigError
from evertrain.forecasts import Forecast


def forecast_plot(found: Forecast, ds: Sequence[str], y: Sequence[float], target: str, path: Path) -> None:
    """Draw a forecast and what happened before into a file, PNG or SVG by its ending.

    Args:
        ds, y: the periods before, and their values; of a long series the newest part is drawn.
        target: what the values are, for the axis.

    Raises:
        ConfigError: matplotlib is not installed, or the file's ending is neither.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError("plot", path.name, "a file name that ends in .png or .svg")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plot", path.name, "matplotlib beside it: pip install 'evertrain[plot]'") from None
    shown = max(3 * len(found.ds), 24)
    before, after = np.array(ds[-shown:], dtype="datetime64[s]"), np.array(found.ds, dtype="datetime64[s]")
    figure = Figure(figsize=(9, 4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for place, level in enumerate(sorted(found.level, reverse=True)):
        low, high = (np.array(found.intervals[f"{side}-{level}"], dtype=float) for side in ("lo", "hi"))
        axes.fill_between(
            after, low, high, color="#2f7ed8", alpha=0.14 + 0.1 * place, lw=0, label=f"{level} % interval"
        )
    if len(before):
        axes.plot(before, y[-shown:], color="#333333", lw=1.4, label="happened")
        # A thin line bridges what happened and what is expected, so that the eye can follow.
        axes.plot([before[-1], after[0]], [y[-1], found.mean[0]], color="#2f7ed8", lw=1, ls=":")
    axes.plot(after, found.mean, color="#2f7ed8", lw=1.8, marker="o", ms=3, label="forecast")
    by = found.version or "made for this question"
    axes.set_title(f"{found.model}: {found.partition}", loc="left", fontsize=11)
    axes.set_title(f"{by}, data to {found.as_of}", loc="right", fontsize=8, color="#666666")
    if found.fallback:
        figure.text(0.01, 0.01, found.fallback, fontsize=8, color="#b35900")
        axes.set_xlabel(" ")
    axes.set_ylabel(target)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
    axes.margins(y=0.25)
    figure.savefig(path)
