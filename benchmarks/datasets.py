"""What a dataset costs: edits, merges and earlier versions, beside the same done to a Parquet file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measure import Row, spread
from evertrain import datasets
from evertrain.specs import Dataset
from evertrain.store import datasets as table
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

SPEC = Dataset(key=("id",), time="date")


def _frame(random: np.random.Generator, ids: np.ndarray) -> pl.DataFrame:
    number = len(ids)
    return pl.DataFrame(
        {
            "id": ids,
            "date": (np.datetime64("2020-01-01") + random.integers(0, 2000, number)).astype("datetime64[D]"),
            "town": random.integers(0, 50, number),
            "fruit": random.integers(0, 20, number),
            "kg": random.normal(size=number),
        }
    )


class _Holds:
    """The longest time that one transaction held the write lock."""

    def __init__(self, store: Store) -> None:
        self.longest = 0.0
        real = store.write

        def write(*args: object) -> object:
            holder, outer = real(*args), self  # type: ignore[arg-type]

            class Timed:
                def __enter__(self) -> object:
                    found = holder.__enter__()
                    self.since = time.perf_counter()
                    return found

                def __exit__(self, *error: object) -> object:
                    left = holder.__exit__(*error)  # type: ignore[arg-type]
                    outer.longest = max(outer.longest, time.perf_counter() - self.since)
                    return left

            return Timed()

        store.write = write  # type: ignore[method-assign, assignment]


def _times(work: Callable[[], object], times: int) -> tuple[float, float, float]:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append((time.perf_counter() - started) * 1000)
    return statistics.median(found), min(found), max(found)


def _file_edit(path: Path, number: int) -> float:
    """The same edit where rows live in a Parquet file: read, change, write beside, rename."""
    started = time.perf_counter()
    changed = pl.when(pl.col("id") == number // 2).then(1.0).otherwise(pl.col("kg")).alias("kg")
    pl.read_parquet(path).with_columns(changed).write_parquet(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    return (time.perf_counter() - started) * 1000


def rows(sizes: tuple[int, ...]) -> list[Row]:
    """Merge, edit and read datasets of these sizes."""
    found, edits = [], {}
    for number in sizes:
        with tempfile.TemporaryDirectory(prefix="evertrain-bench-") as name:
            store = Store("sqlite:///bench.db", Path(name), keeper=True)
            migrate(store)
            holds, random = _Holds(store), np.random.default_rng(0)
            first = _frame(random, np.arange(number))
            first.write_parquet(Path(name) / "rows.parquet")
            started = time.perf_counter()
            datasets.ingest(store, "d", SPEC, first)
            took = time.perf_counter() - started
            with store.write() as tx:
                table.index(tx, _known(store), ["fruit", "town"])
            beside = _file_edit(Path(name) / "rows.parquet", number)
            edit = _times(
                lambda store=store, random=random, number=number: datasets.edit(  # type: ignore[misc]
                    store, "d", [{"id": int(random.integers(number)), "kg": float(random.normal())}]
                ),
                100,
            )
            edits[number] = edit[0]
            found.append(
                Row(
                    f"one-row edit in {number:,} rows", f"{edit[0]:.2f} ms", spread(edit[1], edit[2], "ms", 2),
                    f"{beside / edit[0]:,.0f} × faster than a Parquet file rewritten with Polars; "
                    f"{edit[0] / edits[sizes[0]]:.1f} × of {sizes[0]:,} rows",
                    "at most 5 ms, flat",
                )
            )  # fmt: skip
            if number == sizes[-1]:
                found.append(Row(f"first {number:,} rows", f"{took:.1f} s", "-", "-", "20 s a million"))
                found += _merges(store, random, number, holds)
            store.close()
    return found


def _known(store: Store) -> table.Dataset:
    with store.read() as tx:
        found = table.by_name(tx, "d")
    assert found is not None
    return found


def _merges(store: Store, random: np.random.Generator, number: int, holds: _Holds) -> list[Row]:
    found = []
    for wanted, target in ((1_000, "200 ms"), (100_000, "6 s")):
        size = min(wanted, number)
        took = _times(
            lambda size=size: datasets.ingest(
                store, "d", SPEC, _frame(random, random.choice(number, size, replace=False))
            ),  # type: ignore[misc]
            3,
        )
        found.append(
            Row(
                f"merge of {size:,} into {number:,} rows",
                f"{took[0]:.0f} ms",
                spread(took[1], took[2], "ms", 0),
                "-",
                target,
            )
        )
    found.append(
        Row("longest hold of the write lock in all of that", f"{holds.longest * 1000:.0f} ms", "-", "-", "250 ms")
    )

    def at(version: int) -> None:
        with store.read() as tx:
            dataset = _known(store)
            where = f"{dataset.sql('fruit')} IS 3 AND {dataset.sql('town')} IS 7"
            table.rows_at(tx, dataset, version, where)

    newest = _times(lambda: at(_known(store).version), 50)
    older = _times(lambda: at(2), 50)
    found.append(
        Row(
            "rows of one partition, newest version",
            f"{newest[0]:.2f} ms",
            spread(newest[1], newest[2], "ms", 2),
            "-",
            "2 ms",
        )
    )
    found.append(
        Row("rows of one partition, an early version", f"{older[0]:.2f} ms", spread(older[1], older[2], "ms", 2),
            f"{older[0] / newest[0]:.1f} × of the newest", "2 ms")
    )  # fmt: skip
    return found
