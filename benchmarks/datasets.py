"""What a dataset costs: edits, merges and earlier versions, beside the same done to a Parquet file."""

from __future__ import annotations

import importlib.util
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
_PART = 1_000_000
_SINCE = "2025-03-26"  # 90 days before the last of the 2,000 days that rows are from


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


# --- others -----------------------------------------------------------------------------------------------------


class _Pandas:
    """A Parquet file: read, merged, written beside, renamed. No earlier version stays."""

    name = "pandas, a Parquet file rewritten"

    def __init__(self, folder: Path, rows: pl.DataFrame) -> None:
        self.path = folder / "pandas.parquet"
        rows.write_parquet(self.path)

    def merge(self, rows: pl.DataFrame) -> None:
        import pandas as pd

        old, new = pd.read_parquet(self.path), rows.to_pandas()
        merged = pd.concat([old[~old["id"].isin(new["id"])], new])
        merged.to_parquet(self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def close(self) -> None:
        pass


class _DuckDb:
    """A table with a primary key in a DuckDB file. No earlier version stays."""

    name = "DuckDB, a table with a primary key"

    def __init__(self, folder: Path, rows: pl.DataFrame) -> None:
        import duckdb

        rows.write_parquet(folder / "duckdb.parquet")
        self.connection = duckdb.connect(str(folder / "rows.duckdb"))
        self.connection.execute(
            "CREATE TABLE d(id BIGINT PRIMARY KEY, date DATE, town BIGINT, fruit BIGINT, kg DOUBLE)"
        )
        self.connection.execute(f"INSERT INTO d SELECT * FROM '{folder / 'duckdb.parquet'}'")

    def merge(self, rows: pl.DataFrame) -> None:
        self.connection.register("incoming", rows.to_arrow())
        self.connection.execute("INSERT OR REPLACE INTO d SELECT * FROM incoming")
        self.connection.unregister("incoming")

    def close(self) -> None:
        self.connection.close()


class _Delta:
    """A lakehouse table, merged; earlier versions stay."""

    name = "deltalake, a lakehouse merge"

    def __init__(self, folder: Path, rows: pl.DataFrame) -> None:
        import deltalake

        deltalake.write_deltalake(str(folder / "delta"), rows.to_arrow())
        self.table = deltalake.DeltaTable(str(folder / "delta"))

    def merge(self, rows: pl.DataFrame) -> None:
        merging = self.table.merge(rows.to_arrow(), "t.id = s.id", source_alias="s", target_alias="t")
        merging.when_matched_update_all().when_not_matched_insert_all().execute()

    def close(self) -> None:
        pass


def _others(folder: Path, rows: pl.DataFrame) -> tuple[list[_Pandas | _DuckDb | _Delta], list[str]]:
    """Return those that are installed, filled with the same rows, and the names of those that are not."""
    found: list[_Pandas | _DuckDb | _Delta] = []
    missing = []
    for kind, modules in (
        (_Pandas, ("pandas", "pyarrow")),
        (_DuckDb, ("duckdb", "pyarrow")),
        (_Delta, ("deltalake", "pyarrow")),
    ):
        if all(importlib.util.find_spec(one) for one in modules):
            found.append(kind(folder, rows))
        else:
            missing.append(kind.name)
    return found, missing


# --- this ------------------------------------------------------------------------------------------------------


def rows(sizes: tuple[int, ...], times: int = 5) -> list[Row]:
    """Merge, edit and read datasets of these sizes; the others beside the last of them that has at most a million rows."""
    found: list[Row] = []
    edits: dict[int, float] = {}
    beside = max((one for one in sizes if one <= _PART), default=0)
    for number in sizes:
        with tempfile.TemporaryDirectory(prefix="evertrain-bench-") as name:
            folder = Path(name)
            store = Store("sqlite:///bench.db", folder, keeper=True)
            migrate(store)
            holds, random = _Holds(store), np.random.default_rng(0)
            took = _fill(store, random, number)
            own = _edit(store, random, number, 100)
            edits[number] = own[0]
            found.append(
                Row(
                    f"one-row edit in {number:,} rows",
                    f"{own[0]:.2f} ms",
                    spread(own[1], own[2], "ms", 2),
                    f"{own[0] / edits[sizes[0]]:.1f} × of {sizes[0]:,} rows",
                    "at most 5 ms, flat",
                )
            )
            if number == beside:
                found.append(Row(f"first {number:,} rows", f"{took:.1f} s", "-", "-", "20 s a million"))
                found += _beside(store, folder, random, number, own[0], times)
                found += _reads(store, holds)
            store.close()
    return found


def _fill(store: Store, random: np.random.Generator, number: int) -> float:
    """Bring the first rows, a million at a time, and return the seconds of all."""
    total = 0.0
    for start in range(0, number, _PART):
        part = _frame(random, np.arange(start, min(start + _PART, number)))
        started = time.perf_counter()
        datasets.ingest(store, "d", SPEC, part, told=[("fruit", "town")])
        total += time.perf_counter() - started
    return total


def _edit(store: Store, random: np.random.Generator, number: int, times: int) -> tuple[float, float, float]:
    return _times(
        lambda: datasets.edit(store, "d", [{"id": int(random.integers(number)), "kg": float(random.normal())}]), times
    )


def _beside(store: Store, folder: Path, random: np.random.Generator, number: int, edit: float, times: int) -> list[Row]:
    """Do the same to the same rows elsewhere: one row, a thousand, a hundred thousand."""
    everything = datasets.frame_at(store, "d")
    others, missing = _others(folder, everything)
    del everything
    found = [Row(f"{name}: not installed, so not measured", "-", "-", "-", "-") for name in missing]

    def some(size: int) -> pl.DataFrame:
        return _frame(random, random.choice(number, size, replace=False))

    for size, target in ((1, ""), (min(1_000, number), "200 ms"), (min(100_000, number), "6 s")):
        own = edit
        if size > 1:
            given = [some(size) for _ in range(times)]
            taken = _times(lambda given=given: datasets.ingest(store, "d", SPEC, given.pop()), times)  # type: ignore[misc]
            own = taken[0]
            label = f"merge of {size:,} into {number:,} rows"
            found.append(Row(label, f"{own:.0f} ms", spread(taken[1], taken[2], "ms", 0), "-", target))
        for other in others:
            given = [some(size) for _ in range(times)]
            taken = _times(lambda given=given, other=other: other.merge(given.pop()), times)  # type: ignore[misc]
            what = "one row" if size == 1 else f"{size:,} rows"
            found.append(
                Row(
                    f"the same of {what}: {other.name}",
                    f"{taken[0]:.0f} ms",
                    spread(taken[1], taken[2], "ms", 0),
                    f"{taken[0] / own:.2g} × of ours",
                    "-",
                )
            )
    for other in others:
        other.close()
    return found


def _reads(store: Store, holds: _Holds) -> list[Row]:
    with store.read() as tx:
        newest = table.by_name(tx, "d")
    assert newest is not None
    longest = f"{holds.longest * 1000:.0f} ms"
    found = [Row("longest hold of the write lock in all of that", longest, "-", "-", "250 ms")]

    def at(version: int) -> None:
        with store.read() as tx:
            dataset = table.by_name(tx, "d")
            assert dataset is not None
            where = " AND ".join(f"{dataset.sql(one)} = :{one}" for one in ("fruit", "town"))
            table.rows_at(
                tx, dataset, version, f"{where} AND {dataset.sql('date')} >= :since", fruit=3, town=7, since=_SINCE
            )

    now, early = _times(lambda: at(newest.version), 50), _times(lambda: at(2), 50)
    what = "one partition's last 90 days"
    found.append(Row(f"{what}, newest version", f"{now[0]:.2f} ms", spread(now[1], now[2], "ms", 2), "-", "2 ms"))
    found.append(
        Row(
            f"{what}, an early version",
            f"{early[0]:.2f} ms",
            spread(early[1], early[2], "ms", 2),
            f"{early[0] / now[0]:.1f} × of the newest",
            "2 ms",
        )
    )
    return found
