"""Forecast five published panels as Evertrain would have on earlier days, and measure it: `python panels.py FOLDER`.

For each origin the clock is set to the end of that period, a project is made of the rows as they lie in the file, and
its forecasts are read from the store and compared with what came. Nothing after the origin can be seen: Evertrain
leaves out what has not ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

# As in the worker children; boosting of small series on several threads mostly waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from evertrain import CsvFile, Forecaster, Project, Series, Settings, SklearnForecaster, on_data_change
from evertrain.clock import ManualClock
from evertrain.forecasting import parse_freq
from evertrain.forecasts import Forecast

NAIVE = "SeasonalNaive"


@dataclass(frozen=True)
class Panel:
    """A file, how its rows become series, and what forecasts them.

    Attributes:
        columns: that hold a series each; empty where `unique_id` tells them apart, or where there is but one.
        season: that errors are counted in: mase is the mean error over the seasonal naive's inside the series.
    """

    name: str
    file: str
    time: str
    target: str
    freq: str
    season: int
    h: int
    origins: int
    trainers: dict[str, Any]
    columns: tuple[str, ...] = ()
    several: bool = False
    aggregate: Literal["sum", "mean"] = "sum"


@dataclass
class Found:
    """What one forecaster said of one panel, beside what came."""

    panel: str
    trainer: str
    errors: list[float] = field(default_factory=list)
    scaled: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    newest: dict[str, Forecast] = field(default_factory=dict)

    @property
    def mae(self) -> float:
        return float(np.mean(self.errors))

    @property
    def mase(self) -> float:
        return float(np.mean(self.scaled))

    @property
    def coverage(self) -> float:
        return float(np.mean(self.inside))


def _usual(**more: Any) -> dict[str, Any]:
    return {NAIVE: Forecaster(NAIVE), "AutoETS": Forecaster("AutoETS"), "AutoTheta": Forecaster("AutoTheta"), **more}


BOOSTED = SklearnForecaster(HistGradientBoostingRegressor(max_iter=100))
PANELS = (
    Panel(
        "air_passengers", "air_passengers.csv", "timestamp", "value", "MS", 12, 12, 4,
        _usual(MSTL=Forecaster("MSTL"), Ridge=SklearnForecaster(Ridge())),
    ),
    Panel(
        "retail", "m5_sales_exog_small.csv", "ds", "y", "D", 7, 14, 2,
        _usual(Boosting=BOOSTED), several=True,
    ),
    Panel(
        "transport", "public-transport-madrid.csv", "date", "y", "D", 7, 14, 4,
        _usual(MSTL=Forecaster("MSTL"), Ridge=SklearnForecaster(Ridge())),
        columns=("metro", "bus", "road", "train"), several=True,
    ),
    Panel(
        "wikipedia", "wikipedia_visits.csv", "date", "y", "D", 7, 14, 4,
        _usual(Boosting=BOOSTED), aggregate="mean",
    ),
    Panel(
        "buildings", "bdg2_hourly_sample.csv", "timestamp", "y", "h", 24, 24, 4,
        {
            NAIVE: Forecaster(NAIVE), "MSTL": Forecaster("MSTL", season_length=[24, 168]),
            "Boosting": SklearnForecaster(HistGradientBoostingRegressor(max_iter=100), lags=[1, 2, 3, 24, 48, 168]),
        },
        columns=("building_1", "building_2"), several=True,
    ),
)  # fmt: skip


def rows_of(panel: Panel, data: Path) -> pl.DataFrame:
    """Return the rows of a panel, one value each: unique_id, ds, y."""
    frame = pl.read_csv(data / panel.file, try_parse_dates=True, infer_schema_length=None)
    if panel.columns:
        frame = frame.unpivot(panel.columns, index=panel.time, variable_name="unique_id", value_name="y")
    elif "unique_id" not in frame.columns:
        frame = frame.with_columns(unique_id=pl.lit(panel.name))
    return frame.select("unique_id", pl.col(panel.time).alias("ds"), pl.col(panel.target).cast(pl.Float64).alias("y"))


def project_of(
    panel: Panel, data: Path, folder: Path, now: datetime, windows: int = 0, only: Sequence[str] = ()
) -> Project:
    """Return a project whose models are the forecasters of a panel, at a moment; one series is read where it lies."""
    made = Project(panel.name, root=folder, executor="inline", clock=ManualClock(now), settings=Settings(check_s=3600))
    if panel.several:
        rows = rows_of(panel, data)
        source: Any = made.dataset(panel.name, key=("unique_id", "ds"), time="ds")
        source.ingest(rows)
    else:
        source = made.source(panel.name, CsvFile(str((data / panel.file).resolve()), time=panel.time))
    for name, trainer in panel.trainers.items():
        if only and name not in only:
            continue
        made.model(
            name.lower(),
            source,
            target="y" if panel.several else panel.target,
            trainer=trainer,
            series=Series(panel.h, panel.freq, aggregate=panel.aggregate, windows=windows),
            partition_by="unique_id" if panel.several else (),
            triggers=[on_data_change("0s")],  # a clock that stands still never comes to rest
        )
    return made


def truth(panel: Panel, data: Path) -> dict[str, dict[str, float]]:
    """Return what happened, by series and label; "Overall" is the sum of several."""
    rows = rows_of(panel, data).drop_nulls()
    freq = parse_freq(panel.freq)
    labels = freq.texts(freq.period(rows["ds"].to_numpy()))
    rows = rows.with_columns(label=pl.Series(labels))
    found: dict[str, dict[str, float]] = {}
    for unique_id, label, y in rows.select("unique_id", "label", "y").sort("label").iter_rows():
        found.setdefault(unique_id, {})[label] = y
    if panel.several:
        above = rows.group_by("label").agg(pl.col("y").sum()).sort("label")
        found["Overall"] = dict(above.select("label", "y").iter_rows())
    return found


def measure(panel: Panel, data: Path, only: Sequence[str] = ()) -> list[Found]:
    """Return what each forecaster said at each origin, beside what came."""
    happened = truth(panel, data)
    freq, labels = parse_freq(panel.freq), max(happened.values(), key=len)
    last = int(freq.period(np.array([max(labels)], dtype="datetime64[s]"))[0])
    found = {name: Found(panel.name, name) for name in panel.trainers if not only or name in only}
    for origin in range(last - panel.h * panel.origins, last, panel.h):
        now = freq.start(np.array([origin + 1]))[0].astype("datetime64[s]").item().replace(tzinfo=UTC)
        with tempfile.TemporaryDirectory(prefix="evertrain-panels-") as folder:
            made = project_of(panel, data, Path(folder), now, only=only)
            made.refresh()
            for name, one in found.items():
                for series, values in happened.items():
                    key = {} if series == "Overall" or not panel.several else {"unique_id": series}
                    _compare(one, made.forecast(name.lower(), partition=key), series, values, panel.season)
            made.close()
    return list(found.values())


def _compare(one: Found, said: Forecast, series: str, values: dict[str, float], season: int) -> None:
    known = np.array([y for label, y in values.items() if label <= said.as_of])
    scale = float(np.mean(np.abs(known[season:] - known[:-season])))
    one.newest[series] = said
    low, high = said.intervals["lo-80"], said.intervals["hi-80"]
    for label, mean, lo, hi in zip(said.ds, said.mean, low, high, strict=True):
        if (y := values.get(label)) is not None and lo is not None and hi is not None:
            one.errors.append(abs(y - mean))
            one.scaled.append(abs(y - mean) / scale)
            one.inside.append(lo <= y <= hi)


# --- showing it -------------------------------------------------------------------------------------------------


def table(found: Sequence[Found]) -> str:
    """Return the scores as a Markdown table."""
    lines = ["| panel | forecaster | steps | mae | mase | beside seasonal naive | inside the 80 % interval |", "|---|---|---:|---:|---:|---:|---:|"]  # noqa: E501 # fmt: skip
    naive = {one.panel: one.mase for one in found if one.trainer == NAIVE}
    for one in found:
        ratio = one.mase / naive[one.panel]
        lines.append(
            f"| {one.panel} | {one.trainer} | {len(one.errors)} | {one.mae:,.4g} | {one.mase:.3f} | {ratio:.2f} ×"
            f" | {100 * one.coverage:.0f} % |"
        )
    return "\n".join(lines)


def picture(panel: Panel, data: Path, found: Sequence[Found], path: Path) -> None:
    """Draw the newest forecasts of the best forecaster and the seasonal naive over what came."""
    import matplotlib.pyplot as plt

    best = min((one for one in found if one.trainer != NAIVE), key=lambda one: one.mase)
    naive = next(one for one in found if one.trainer == NAIVE)
    happened = truth(panel, data)
    shown = [name for name in happened if name != "Overall"][:3] + [name for name in happened if name == "Overall"]
    figure, grid = plt.subplots(len(shown), 1, figsize=(9, 1 + 2 * len(shown)), layout="constrained", squeeze=False)
    for axes, series in zip(grid[:, 0], shown, strict=True):
        said, plain, values = best.newest[series], naive.newest[series], happened[series]
        ds = np.array(said.ds, dtype="datetime64[s]")
        labels = [label for label in values if label <= said.ds[-1]][-5 * panel.h :]
        axes.fill_between(
            ds,
            said.intervals["lo-80"],
            said.intervals["hi-80"],
            color="#2f7ed8",
            alpha=0.2,
            lw=0,
            label="80 % interval",
        )
        past = np.array(labels, dtype="datetime64[s]")
        axes.plot(past, [values[one] for one in labels], color="#333333", lw=1.2, label="happened")
        axes.plot(ds, plain.mean, color="#b35900", lw=1, ls="--", label="seasonal naive")
        axes.plot(ds, said.mean, color="#2f7ed8", lw=1.8, label=best.trainer)
        axes.set_title(series, loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    grid[0, 0].legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)


def overview(found: Sequence[Found], path: Path) -> None:
    """Draw the error of every forecaster over the seasonal naive's, panel by panel."""
    import matplotlib.pyplot as plt

    naive = {one.panel: one.mase for one in found if one.trainer == NAIVE}
    trainers = list(dict.fromkeys(one.trainer for one in found if one.trainer != NAIVE))
    colours = dict(zip(trainers, plt.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    place, ticks, drawn = 0.0, [], set()
    for panel, guess in naive.items():
        own = [one for one in found if one.panel == panel and one.trainer != NAIVE]
        for number, one in enumerate(own):
            label = None if one.trainer in drawn else one.trainer
            drawn.add(one.trainer)
            axes.bar(place + number, one.mase / guess, 0.9, color=colours[one.trainer], label=label)
        ticks.append(place + (len(own) - 1) / 2)
        place += len(own) + 1
    axes.axhline(1, color="#333333", lw=1, ls="--")
    axes.set_xticks(ticks, list(naive))
    axes.set_ylabel("error / seasonal naive's")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(trainers), loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Measure, print the table and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the CSV files")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the pictures")
    parser.add_argument("--only", nargs="*", default=[], choices=[one.name for one in PANELS], help="panels")
    arguments = parser.parse_args()
    found: list[Found] = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    for panel in PANELS:
        if arguments.only and panel.name not in arguments.only:
            continue
        if not (arguments.data / panel.file).is_file():
            print(f"{arguments.data / panel.file} is not there; {panel.name} is left out", file=sys.stderr)
            continue
        started = time.monotonic()
        own = measure(panel, arguments.data)
        print(f"{panel.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        picture(panel, arguments.data, own, arguments.out / f"{panel.name}.png")
        found += own
    if not found:
        raise SystemExit(f"no panel is in {arguments.data}")
    print(table(found))
    overview(found, arguments.out / "overview.png")


if __name__ == "__main__":
    main()
