"""What each partition costs beside its fit: a no-op trainer over many partitions, and two of many."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.measure import Row, repeated, spread
from evertrain import Custom, ParquetFile, Project, Settings
from evertrain.control import ask
from evertrain.control.work import run_to_end
from evertrain.executors.supervisor import Supervisor
from evertrain.loop import Loop

ROWS_EACH = 12


@contextmanager
def project(number: int) -> Iterator[Project]:
    """A trained project of `number` partitions and one rollup, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="evertrain-bench-"))
    try:
        shutil.copy(Path(__file__).with_name("toys.py"), folder / "toys.py")
        random = np.random.default_rng(0)
        rows = number * ROWS_EACH
        pl.DataFrame(
            {
                "unit": np.repeat(np.arange(number), ROWS_EACH),
                "x": random.normal(size=rows),
                "y": random.normal(size=rows),
            }
        ).write_parquet(folder / "rows.parquet")
        made = Project("bench", root=folder, settings=Settings(check_s=3600, tick_s=0.05))
        made.source("rows", ParquetFile("rows.parquet"))
        made.model("noop", "rows", target="y", trainer=Custom("toys:Nothing"), partition_by="unit", min_samples=5)
        yield made
        made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def overhead(number: int, times: int, note: str = "") -> list[Row]:
    """Everything from a due partition to a served champion, per partition, with a fit that costs nothing."""
    found, plain = [], []
    for _ in range(times):
        with project(number) as made:
            opened = made.opened
            hands = opened.supervisor()
            _first(made, hands)  # the worker is started then; how long that takes is a row of its own
            ask.trigger(opened, "noop", force=True)
            started = time.perf_counter()
            _drain(hands)
            found.append((time.perf_counter() - started) / (number + 1) * 1000)
            hands.close()
            rows = pl.read_parquet(made.root / "rows.parquet")
            plain.append(_plain(pd.DataFrame(rows.to_dict(as_series=False)), made.root, number))
    each, low, high = sorted(found)[len(found) // 2], min(found), max(found)
    return [
        Row(
            f"overhead per partition, {number:,} partitions{note}",
            f"{each:.3f} ms",
            spread(low, high, "ms"),
            f"{each / (sorted(plain)[len(plain) // 2]):.1f} × a bare loop over the same partitions that fits, writes a file and forgets",
            "at most 1 ms",
        )
    ]


def _plain(frame: pd.DataFrame, folder: Path, number: int) -> float:
    """What a script does instead, in milliseconds per partition: group, fit, save each to a file."""
    from benchmarks.toys import Nothing

    out = folder / "plain"
    out.mkdir()
    trainer = Nothing()
    started = time.perf_counter()
    for unit, rows in frame.groupby("unit"):
        (out / f"{unit}.json").write_bytes(trainer.save(trainer.fit(rows, None)))
    return (time.perf_counter() - started) / number * 1000


def _drain(hands: Supervisor) -> None:
    while True:
        hands.step(0.05)
        if not hands.busy:
            hands.step(0)
            if not hands.busy:
                return


def two_of_many(times: int) -> list[Row]:
    """Plan and run two due partitions of 100 and of 100,000: the cost must not know how many others there are."""
    found: dict[int, float] = {}
    rows = []
    for number in (100, 100_000):
        with project(number) as made:
            opened = made.opened
            hands = opened.supervisor()
            _first(made, hands)

            def once(opened=opened, hands=hands) -> float:  # type: ignore[no-untyped-def]
                started = time.perf_counter()
                ask.trigger(opened, "noop", [{"unit": 7}, {"unit": 42}], force=True, rollups=False)
                _drain(hands)
                return time.perf_counter() - started

            once()
            middle, low, high = repeated(once, times)
            hands.close()
        found[number] = middle
        ratio = f"{middle / found[100]:.2f} × of 100" if number > 100 else "-"
        rows.append(
            Row(
                f"plan and run 2 due of {number:,}",
                f"{middle * 1000:.1f} ms",
                spread(low * 1000, high * 1000, "ms", 1),
                ratio,
                "at most 1.2 ×" if number > 100 else "-",
            )
        )
    return rows


def _first(made: Project, hands: Supervisor) -> None:
    hands.read_source("rows")
    while hands.busy:
        hands.step(0.05)
    ask.plan_all(made.opened)
    _drain(hands)


def promotion(times: int) -> list[Row]:
    """A thousand promotions, as the supervisor writes them: two transactions of five hundred."""
    with project(1000) as made:
        opened = made.opened
        hands = opened.supervisor()
        _first(made, hands)
        held: list[float] = []
        settle = hands._write

        def measured(*arguments):  # type: ignore[no-untyped-def]
            started = time.perf_counter()
            settle(*arguments)
            held.append(time.perf_counter() - started)

        hands._write = measured  # type: ignore[method-assign]
        found = []
        for _ in range(times):
            held.clear()
            ask.trigger(opened, "noop", force=True)
            _drain(hands)
            found.append(sum(held))
        hands.close()
    middle = sorted(found)[len(found) // 2]
    return [
        Row(
            "promotion of 1,000, all transactions together",
            f"{middle * 1000:.0f} ms",
            spread(min(found) * 1000, max(found) * 1000, "ms", 0),
            f"{middle:.3f} ms each, beside a lock held for {max(held) * 1000:.0f} ms at most",
            "-",
        )
    ]


def whole_loop(times: int) -> list[Row]:
    """From a changed file to its champion, with children, for one small model: what a person waits."""

    def once() -> float:
        with project(1) as made:
            Loop(made.opened, watch_files=False).run(until_idle=True)
            asked = ask.trigger(made.opened, "noop", force=True)
            started = time.perf_counter()
            run_to_end(made.opened, asked)
            return time.perf_counter() - started

    middle, low, high = repeated(once, times)
    return [
        Row(
            "asked by hand to promoted, no-op trainer, children started for it",
            f"{middle:.2f} s",
            spread(low, high),
            "-",
            "-",
        )
    ]
