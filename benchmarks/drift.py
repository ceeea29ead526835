"""What a drift check costs: beside a loop over SciPy's test, its memory, and on many small partitions."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.measure import Row, spread
from evertrain.drift.columns import compare
from evertrain.drift.profile import Profile
from evertrain.specs import Drift

COLUMNS = 50
REFERENCE = 100_000


def rows(number: int, columns: int = COLUMNS, *, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Numbers of four kinds in turn (normal, skewed, heavy-tailed, uniform), of which every tenth column shifts."""
    random = np.random.default_rng(seed)
    made = {}
    for place in range(columns):
        kind = place % 4
        values = (
            random.normal(size=number) if kind == 0 else random.lognormal(size=number) if kind == 1
            else random.standard_t(3, size=number) if kind == 2 else random.uniform(size=number)
        )  # fmt: skip
        made[f"x{place}"] = values + (shift if place % 10 == 0 else 0.0)
    return pd.DataFrame(made)


def _seconds(work: Callable[[], object], times: int) -> list[float]:
    """Return processor seconds of this process: what else the machine does does not count."""
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return sorted(found)


def scipy_loop(reference: pd.DataFrame, recent: pd.DataFrame) -> list[float]:
    """What a script does instead: p of one test for each column, and nothing else."""
    from scipy import stats

    return [
        float(stats.ks_2samp(reference[name].to_numpy(), recent[name].to_numpy()).pvalue) for name in reference.columns
    ]


def presorted(reference: dict[str, np.ndarray], recent: pd.DataFrame) -> list[float]:
    """The KS distance alone, against columns that are sorted already: about the least that it can cost."""
    found = []
    for name, before in reference.items():
        now = np.sort(recent[name].to_numpy())
        every = np.concatenate([before, now])
        gaps = before.searchsorted(every, "right") / len(before) - now.searchsorted(every, "right") / len(now)
        found.append(float(np.abs(gaps).max()))
    return found


def signals(times: int) -> list[Row]:
    """All signals of 100,000 × 50 recent rows, exact and from the sketch."""
    reference, recent = rows(REFERENCE), rows(100_000, seed=1, shift=0.3)
    sketch, exact = Profile.of(reference), Profile.of(reference, exact=True)
    before = {name: np.sort(reference[name].to_numpy()) for name in reference.columns}
    found = [one for one in compare(sketch, recent, Drift()) if one.kind == "ks" and one.effect >= one.floor]
    assert {one.name for one in found} == {f"x{place}" for place in range(0, COLUMNS, 10)}, found
    loop = _seconds(lambda: scipy_loop(reference, recent), times)
    least = _seconds(lambda: presorted(before, recent), times)
    made = []
    size = len(sketch.to_bytes()) / 2**20
    for what, profile, target in (("the sketch", sketch, "3 ×"), ("exact KS", exact, "1 ×")):
        took = _seconds(lambda profile=profile: compare(profile, recent, Drift()), times)  # type: ignore[misc]
        middle = statistics.median(took)
        made.append(
            Row(
                f"drift of 100,000 × {COLUMNS} recent rows, all signals, {what}", f"{middle:.2f} s",
                spread(took[0], took[-1], digits=2),
                f"{statistics.median(loop) / middle:.1f} × as fast as a loop over scipy.stats.ks_2samp"
                f" ({statistics.median(loop):.2f} s); the distance alone from sorted columns takes"
                f" {statistics.median(least):.2f} s; processor time",
                f"{target} as fast",
            )
        )  # fmt: skip
    took = _seconds(lambda: Profile.of(reference), times)
    made.append(
        Row(
            f"profile of {REFERENCE:,} × {COLUMNS} rows", f"{statistics.median(took):.2f} s",
            spread(took[0], took[-1], digits=2), f"{size:.1f} MB at rest; processor time", "-",
        )
    )  # fmt: skip
    return made


_PEAK = """
import json, sys, time
from benchmarks import drift
from evertrain.drift.columns import compare
from evertrain.drift.profile import Profile
from evertrain.specs import Drift
exact = json.loads(sys.argv[1])
profile = Profile.of(drift.rows(drift.REFERENCE), exact=exact)
recent = drift.rows(1_000_000, seed=1, shift=0.3)
compare(profile, recent[:1000], Drift())
# Writing 5 to clear_refs sets the peak back to what is used now.
open("/proc/self/clear_refs", "w").write("5")
status = lambda name: next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith(name))
before, started = status("VmRSS"), time.process_time()
compare(profile, recent, Drift())
print(json.dumps([time.process_time() - started, status("VmHWM") - before, recent.memory_usage().sum() / 2**20]))
"""


def memory() -> list[Row]:
    """A million recent rows: time, and memory above the data's own."""
    made = []
    for what, exact in (("the sketch", False), ("exact KS, every row", True)):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, json.dumps(exact)], capture_output=True, text=True, check=True
        )
        took, more, data = json.loads(done.stdout)
        made.append(
            Row(
                f"drift of 1,000,000 × {COLUMNS} recent rows, {what}", f"{took:.2f} s", "-",
                f"{more:.0f} MB beside the data's {data:.0f} MB: {1 + more / data:.2f} × the data at its peak",
                "under 2 × the data",
            )
        )  # fmt: skip
    return made


def small(number: int) -> list[Row]:
    """Checks of many partitions of 100 rows × 10 columns, each against a profile of its own from bytes."""
    profiles = [Profile.of(rows(100, 10, seed=seed)).to_bytes() for seed in range(100)]
    recent = [rows(100, 10, seed=1_000 + seed) for seed in range(100)]

    def check() -> None:
        for place in range(number):
            compare(Profile.from_bytes(profiles[place % 100]), recent[place % 97], Drift())

    (took,) = _seconds(check, 1)
    whole = took / number * 10_000
    frames = [rows(100, 10, seed=seed) for seed in range(100)]
    (made,) = _seconds(lambda: [Profile.of(one).to_bytes() for one in frames for _ in range(10)], 1)
    return [
        Row(
            f"drift of {number:,} partitions × 10 columns × 100 rows, profiles from bytes", f"{took:.1f} s", "-",
            f"{took / number * 1000:.2f} ms each, {whole:.1f} s for 10,000; making a profile {made:.2f} ms of"
            f" {len(profiles[0]) / 1000:.0f} kB; processor time",
            "10,000 in under 10 s",
        )
    ]  # fmt: skip
