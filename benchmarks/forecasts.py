"""What forecasts cost: all against the affected alone, beside statsforecast without Evertrain, and reading them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measure import Row, spread
from evertrain import Project, Series, Settings, on_data_change
from evertrain.trainers.statsforecast import Forecaster

MONTHS, H, WINDOWS = 120, 12, 2
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def harvests(commodities: int, towns: int) -> pl.DataFrame:
    """Monthly harvests up to the last whole month: a level, a trend and a season of each pair's own, and noise."""
    random = np.random.default_rng(0)
    pairs, months = commodities * towns, np.arange(MONTHS)
    first = np.datetime64(date.today().replace(day=1), "M") - MONTHS
    level, trend = random.uniform(50, 500, (pairs, 1)), random.normal(0, 0.002, (pairs, 1))
    height, phase = random.uniform(0, 0.5, (pairs, 1)), random.uniform(0, 12, (pairs, 1))
    values = level * (1 + trend * months) * (1 + height * np.sin(2 * np.pi * (months + phase) / 12))
    values = np.maximum(values + random.normal(0, 0.08, values.shape) * level, 1)
    pair = np.repeat(np.arange(pairs), MONTHS)
    return pl.DataFrame(
        {
            "record": np.arange(pairs * MONTHS),
            "commodity": np.char.add("c", (pair // towns).astype(str)),
            "town": np.char.add("t", (pair % towns).astype(str)),
            "month": np.tile((first + months).astype("datetime64[D]"), pairs),
            "kg": values.reshape(-1).round(2),
        }
    )


@contextmanager
def farm(rows: pl.DataFrame, model: str) -> Iterator[Project]:
    """A project of these harvests, one child, with a rollup per commodity; nothing is trained yet."""
    with tempfile.TemporaryDirectory(prefix="evertrain-bench-") as folder:
        made = Project("bench", root=folder, settings=Settings(children=1, check_s=3600, tick_s=0.05))
        records = made.dataset("harvests", key="record", time="month")
        made.model(
            "kg", records, target="kg", trainer=Forecaster(model), series=Series(h=H, freq="MS", windows=WINDOWS),
            partition_by=["commodity", "town"], rollups=[["commodity"]], triggers=[on_data_change("0s")],
        )  # fmt: skip
        records.ingest(rows)
        yield made
        made.close()


_PLAIN = f"""
import sys
import polars as pl
import statsforecast.models as models
from statsforecast import StatsForecast
path, out, model = sys.argv[1:]
rows = pl.read_parquet(path)
keys = dict(unique_id=pl.concat_str("commodity", pl.lit("/"), "town"), ds=pl.col("month").cast(pl.Datetime("ns")))
leaves = rows.select(**keys, y="kg")
above = rows.group_by("commodity", "month").agg(pl.col("kg").sum()).select(
    unique_id="commodity", ds=keys["ds"], y="kg")
frame = pl.concat([leaves, above]).sort("unique_id", "ds").to_pandas()
made = StatsForecast(models=[getattr(models, model)(season_length=12)], freq="MS", n_jobs=1)
made.fit(frame)
made.predict(h={H}, level=[80, 95]).to_parquet(out)
made.cross_validation(df=frame, h={H}, n_windows={WINDOWS}, step_size={H}).to_parquet(out + ".backtest")
print(frame["unique_id"].nunique())
"""


@dataclass(frozen=True)
class _Cost:
    """What something took: seconds on the clock, and seconds of a processor, children included."""

    wall: float
    cpu: float


def _cost(work: Callable[[], object]) -> _Cost:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    return _Cost(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)


def _plain(folder: Path, model: str) -> None:
    """What a script does instead: the same fits in one process, forecasts and backtests in two files."""
    subprocess.run(
        [sys.executable, "-c", _PLAIN, str(folder / "rows.parquet"), str(folder / "forecasts.parquet"), model],
        env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def retraining(model: str, commodities: int, towns: int, times: int) -> list[Row]:
    """All forecasts anew, those of two changed pairs alone, and all by statsforecast without Evertrain, in turns."""
    rows = harvests(commodities, towns)
    number = commodities * towns + commodities
    full: list[_Cost] = []
    plain: list[_Cost] = []
    selective: list[_Cost] = []
    with farm(rows, model) as made:
        rows.write_parquet(made.root / "rows.parquet")
        made.refresh()
        for turn in range(times):
            # In turns, and each begins half of them: what else the machine does falls on both alike.
            order = [(plain, lambda: _plain(made.root, model)), (full, lambda: _all(made, number))]
            for costs, work in order if turn % 2 else reversed(order):
                costs.append(_cost(work))
            selective.append(_cost(lambda turn=turn: _two(made, turn, towns)))  # type: ignore[misc]
    wall, alone, two = (sorted(one.wall for one in costs) for costs in (full, plain, selective))
    ratios = sorted(theirs.wall / ours.wall for ours, theirs in zip(full, plain, strict=True))
    spent = statistics.median(theirs.cpu / ours.cpu for ours, theirs in zip(full, plain, strict=True))
    each = statistics.median((ours.cpu - theirs.cpu) / number * 1000 for ours, theirs in zip(full, plain, strict=True))
    what = f"{model}, {commodities} × {towns} × {MONTHS} months"
    part = statistics.median(selective[turn].wall / full[turn].wall for turn in range(times))
    return [
        Row(
            f"{what}: all {number:,} forecasts anew", f"{statistics.median(wall):.1f} s", spread(wall[0], wall[-1], digits=1),
            f"{statistics.median(ratios):.2f} × as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}) as statsforecast alone"
            f" ({statistics.median(alone):.1f} s), one process each; {spent:.2f} × by processor time, {each:.1f} ms more"
            " per series",
            "0.9 × as fast" if model != "SeasonalNaive" else "-",
        ),
        Row(
            f"{what}: two pairs changed, 4 forecasts anew (S0-26, S0-28)", f"{statistics.median(two):.2f} s",
            spread(two[0], two[-1], digits=2),
            f"{100 * (1 - part):.1f} % less time and {100 * (1 - 4 / number):.1f} % fewer fits than all",
            "70 to 90 % less",
        ),
    ]  # fmt: skip


def _all(made: Project, number: int) -> None:
    outcome = made.trigger("kg", force=True)
    assert sum(outcome.counts.values()) == number, outcome
    assert not {"failed", "skipped", "dead"} & {name for name, count in outcome.counts.items() if count}, outcome


def _two(made: Project, turn: int, towns: int) -> None:
    """Change a record of two pairs of two commodities, and do what the loop does until nothing is due."""
    places = (turn, towns * MONTHS + MONTHS + turn)
    made.dataset("harvests", key="record", time="month").edit([{"record": one, "kg": 7.5 + turn} for one in places])
    made.refresh()
    newest = made.history("kg", 1)[0]
    assert newest["partitions"] == 4, newest


def reading(number: int) -> list[Row]:
    """Forecasts read from the store by one process, partition after partition."""
    rows = harvests(20, 50)
    with farm(rows, "SeasonalNaive") as made:
        made.refresh()
        random = np.random.default_rng(1)
        asked = [{"commodity": f"c{random.integers(20)}", "town": f"t{random.integers(50)}"} for _ in range(number)]
        made.forecast("kg", partition=asked[0])
        found = []
        begun = time.perf_counter()
        for one in asked:
            started = time.perf_counter()
            made.forecast("kg", partition=one)
            found.append((time.perf_counter() - started) * 1000)
        took = time.perf_counter() - begun
    p50, p99 = np.percentile(found, [50, 99])
    return [
        Row(
            "read one of 1,020 stored forecasts, half of the time", f"{p50:.2f} ms", spread(min(found), max(found), "ms", 2),
            f"{p99:.2f} ms in 99 % of {number:,} reads; {number / took:,.0f} a second by one process", "-",
        )
    ]  # fmt: skip
