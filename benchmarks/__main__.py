"""Measure and write docs/benchmarks.md: `make bench`, or `python -m benchmarks --quick`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path

from benchmarks import datasets, drift, forecasts, lists, partitions, service
from benchmarks.measure import Row, machine, memory_mb, python, repeated, spread
from evertrain import __version__

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def starts(times: int) -> list[Row]:
    """How long a command takes to be there."""
    rows = []
    heavy, *_ = repeated(lambda: python("import sklearn"), times)
    for what, code, target in (
        (
            "evertrain --help",
            "import sys; sys.argv = ['evertrain', '--help']\nfrom evertrain.cli import main\nmain()",
            "under 0.3 s",
        ),
        ("import evertrain", "import evertrain", "-"),
        ("import of the loop", "import evertrain.loop", "-"),
    ):
        middle, low, high = repeated(lambda code=code: python(code), times)  # type: ignore[misc]
        rows.append(
            Row(
                what,
                f"{middle:.3f} s",
                spread(low, high),
                f"{middle / heavy:.2f} × import sklearn ({heavy:.2f} s)",
                target,
            )
        )
    return rows


def at_rest() -> list[Row]:
    """Memory of `evertrain start`, children included, once nothing is left to do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.csv").write_text("x,y\n" + "".join(f"{i},{2 * i}\n" for i in range(100)))
        (folder / "evertrain.toml").write_text(
            'name = "rest"\n[sources.rows]\npath = "rows.csv"\n[models.rows]\ntarget = "y"\n'
            'trainer = "sklearn.linear_model:Ridge"\nmin_samples = 10\n'
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "evertrain", "-C", name, "start"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "EVERTRAIN_CHILD_IDLE_S": "3"},
        )
        try:
            time.sleep(20)
            used = memory_mb(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)
    return [Row("memory of `evertrain start` at rest", f"{used:.0f} MB", "-", "-", "under 150 MB")]


def slow_disk() -> list[Row]:
    """The same overhead with 5 ms added to every fdatasync, as an honest disk takes."""
    if not shutil.which("strace"):
        return []
    code = "from benchmarks import partitions; print(partitions.overhead(10_000, 1, ', 5 ms more in every fdatasync')[0].value)"
    done = subprocess.run(
        [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_exit=5000",
            sys.executable,
            "-c",
            code,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    value = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"failed: {done.stderr[-200:]}"
    return [
        Row("overhead per partition, 10,000 partitions, 5 ms more in every fdatasync", value, "-", "-", "at most 1 ms")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    parser.add_argument("--ten-million", action="store_true", help="edit a dataset of ten million rows, too; minutes")
    parser.add_argument("--only", choices=_OWN, help="measure these alone and keep the other rows of the page")
    arguments = parser.parse_args()
    times = 1 if arguments.quick else 3
    rows: list[Row] = []
    sizes = (100, 1_000) if arguments.quick else (100, 10_000, 100_000)
    steps = [lambda: starts(3 if arguments.quick else 7), at_rest]
    steps += [lambda size=size: partitions.overhead(size, times if size < 100_000 else 1) for size in sizes]  # type: ignore[misc]
    if not arguments.quick:
        steps += [slow_disk, lambda: partitions.two_of_many(9)]
    steps += [lambda: partitions.promotion(times), lambda: partitions.whole_loop(times)]
    many = (10_000,) if arguments.quick else (10_000, 1_000_000)
    many += (10_000_000,) if arguments.ten_million else ()
    if arguments.only:
        steps, rows = [], _measured_before(_OWN[arguments.only])
    if arguments.only in (None, "datasets"):
        steps.append(lambda: datasets.rows(many))
    if arguments.only in (None, "lists"):
        steps.append(lambda: lists.rows(10_000 if arguments.quick else 100_000))
    if not arguments.only:
        steps += _forecasts(arguments.quick)
    if arguments.only in (None, "drift"):
        steps += _drift(arguments.quick)
    if arguments.only in (None, "service"):
        steps += _service(arguments.quick)
    for step in steps:
        for row in step():
            rows.append(row)
            print(f"{row.what}: {row.value} ({row.spread}); {row.against}; target {row.target}", flush=True)
    if not arguments.quick:
        PAGE.write_text(_page(rows))


_OWN = {
    "datasets": ("one-row edit", "first ", "the same of", "merge of", "longest hold", "one partition's last"),
    "drift": ("drift of", "profile of"),
    "service": (
        "1,000 readers",
        "SIGTERM",
        "forecasts a second over HTTP",
        "memory of `evertrain serve`",
        "the slowest of",
    ),
    "lists": tuple(f"{what}, " for what in lists.SHOWN),
}


def _measured_before(own: tuple[str, ...]) -> list[Row]:
    """Return the rows of the page that do not begin with one of these."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "what" and not cells[0].startswith(own):
            found.append(Row(*cells))
    return found


def _forecasts(quick: bool) -> list[Callable[[], list[Row]]]:
    """AutoTheta at full size, and AutoETS, which takes five times as long, on a part."""
    if quick:
        return [lambda: forecasts.retraining("SeasonalNaive", 4, 10, 1), lambda: forecasts.reading(300)]
    return [
        lambda: forecasts.retraining("AutoTheta", 20, 50, 3),
        lambda: forecasts.retraining("AutoETS", 4, 25, 3),
        lambda: forecasts.retraining("SeasonalNaive", 20, 50, 3),
        lambda: forecasts.reading(5_000),
    ]


def _drift(quick: bool) -> list[Callable[[], list[Row]]]:
    if quick:
        return [lambda: drift.signals(1), lambda: drift.small(1_000)]
    return [lambda: drift.signals(5), drift.memory, lambda: drift.small(10_000)]


def _service(quick: bool) -> list[Callable[[], list[Row]]]:
    if quick:
        return [
            lambda: service.measure_readers(1, 4), lambda: service.measure_bare(1, 2), lambda: service.measure_memory(60),
            lambda: service.measure_pages(1_000),
        ]  # fmt: skip
    return [
        lambda: service.measure_readers(3, 15), lambda: service.measure_bare(5, 4), lambda: service.measure_memory(500),
        lambda: service.measure_pages(100_000),
    ]  # fmt: skip


def _page(rows: list[Row]) -> str:
    lines = [
        "# What it costs", "",
        f"Evertrain {__version__}, {machine()}, {date.today().isoformat()}; a shared machine (load",
        f"{os.getloadavg()[1]:.1f} when this was written), so read ratios before seconds.",
        "`make bench` measures it again.", "",
        "| what | median | spread | beside | target |", "|---|---|---|---|---|",
        *(f"| {row.what} | {row.value} | {row.spread} | {row.against} | {row.target} |" for row in rows), "",
        "The overhead is everything but the fit: claiming, copying rows, hold-out, saving, loading, scoring old and new,",
        "the gate, and the transaction that promotes.",
        "The bare loop groups the same rows, calls the same trainer and writes a file each: no hold-out, no comparison,",
        "no record, no swap.",
        "The datasets stand beside the same rows merged by "
        + ", ".join(f"{one} {_version(one)}" for one in ("pandas", "duckdb", "deltalake")) + ".",
        "Of these only deltalake keeps earlier versions, as whole files; none keeps a record of the batch, or answers which",
        "partitions it touched.",
        "The readers of the service each have a connection and ask about twice a second; the bare route is in a FastAPI",
        "application of its own that returns stored bytes, run as the service is, and asks for no token.",
        "statsforecast alone reads the rows from a file, adds the rollups, makes the same fits (one for the forecast, two for",
        "the backtest), and writes two files: no comparison with what served, no saved models, no record.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
