"""Measuring: repeated runs, medians with their spread, processes seen from outside."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table: what, how much, the spread, and against what."""

    what: str
    value: str
    spread: str
    against: str
    target: str


def repeated(work: Callable[[], float], times: int) -> tuple[float, float, float]:
    """Return median, smallest and largest of what `work` answers."""
    found = [work() for _ in range(times)]
    return statistics.median(found), min(found), max(found)


def spread(low: float, high: float, unit: str = "s", digits: int = 3) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f} {unit}"


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def python(code: str) -> float:
    """Return the seconds that a fresh interpreter takes for some code, itself included."""
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL))


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process and its children, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(memory_mb(int(one)) for one in below)


def machine() -> str:
    """Return what this was measured on, in one line."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
