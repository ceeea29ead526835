"""Measure decisions beside those of other tools and write docs/benchmarks-decisions.md: `make bench-decisions`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from benchmarks.decisions import page, runs, worlds

SEED = 2026
Worlds = dict[str, Callable[[], worlds.WORLD]]
EVERYONE = ("ours", "evidently", "nannyml", "river")


@dataclass(frozen=True)
class Size:
    """How many streams: to turn knobs on, and to judge on; the same for dearer worlds; with a change; …"""

    turn: int
    judge: int
    dear: int
    changed: int
    replicates: int
    scenarios: int
    big: tuple[int, ...]
    limit_s: float


FULL = Size(300, 300, 100, 60, 30, 2_000, (100_000, 1_000_000), 420)
QUICK = Size(12, 12, 4, 4, 2, 100, (20_000,), 60)


def of(streams: int) -> Size:
    """Return the full size with so many streams to judge on, and other counts of streams in proportion."""
    part = streams / FULL.judge
    counts = (max(10, round(part * one)) for one in (FULL.turn, FULL.judge, FULL.dear, FULL.changed, FULL.replicates))
    return Size(*counts, FULL.scenarios, FULL.big, FULL.limit_s)


def months(found: runs.Runs, size: Size) -> None:
    """B1: false alarms in months in which nothing changes."""
    both, dear = size.turn + size.judge, 2 * size.dear
    made: Worlds = {
        "normal, 10 columns": lambda: worlds.month("normal", 10, both, SEED, checks=30),
        "each row .9 of the one before, 10 columns": lambda: worlds.month("ar", 10, dear + size.dear, SEED, checks=30),
        "hourly with a daily cycle, 10 columns": lambda: worlds.month("season", 10, dear + size.dear, SEED, checks=30),
        "mixed, 50 columns": lambda: worlds.month("mixed", 50, dear, SEED, checks=30),
    }
    found.look(made, EVERYONE, {name: size.dear if place else size.turn for place, name in enumerate(made)})
    often: Worlds = {
        "normal, 10 columns, every 6 h": lambda: worlds.month("normal", 10, 2 * size.dear, SEED + 1, checks=120)
    }
    found.look(often, ("ours",), {})


def pairs(found: runs.Runs, size: Size) -> None:
    """B2: one check; nothing changed, or one column of 50."""
    made: Worlds = {"nothing": partial(worlds.pair, "nothing", size.turn + size.judge, SEED)}
    made |= {change: partial(worlds.pair, change, size.changed, SEED) for change in worlds.CHANGES}
    found.look(made, ("ours", "evidently", "nannyml"), {"nothing": size.turn})


def losses(found: runs.Runs, size: Size) -> None:
    """B3: streams of errors, independent or each repeating the one before with chance .3."""
    made: Worlds = {}
    for keep in (0.0, 0.3):
        made[f"nothing, {keep}"] = partial(worlds.losses, "nothing", keep, size.turn + size.judge, SEED)
        for change in worlds.JUMPS if not keep else (".20 to .30", ".20 to .40"):
            made[f"{change}, {keep}"] = partial(worlds.losses, change, keep, size.dear, SEED)
    found.look(made, EVERYONE, {"nothing, 0.0": size.turn, "nothing, 0.3": size.turn})


def harm(found: runs.Runs, size: Size) -> None:
    """B4: twelve ways to change, half of them harmful."""
    found.look({"harm": partial(worlds.harm, size.replicates, SEED)}, EVERYONE, {})


def chances(found: runs.Runs, size: Size) -> None:
    """B8: is the confidence a probability?"""
    found.look({"scenarios": partial(worlds.scenarios, size.scenarios, SEED)}, ("ours",), {})


def speed(found: runs.Runs, size: Size) -> list[tuple[str, str, object]]:
    """B9: one check of many rows, one process at a time."""
    rows: list[tuple[str, str, object]] = []
    for recent in size.big:
        path = worlds.save(found.folder / "big.npz", worlds.big(recent, SEED))
        for competitor in ("ours", "scipy", "nannyml", "evidently"):
            rows.append((f"{recent:,} × 50", competitor, found.speed(competitor, path, size.limit_s)))
            print(f"  {recent:,} {competitor}: {rows[-1][2]}", flush=True)
        path.unlink()
    many = size.big[0] // 10
    path = worlds.save(found.folder / "small.npz", worlds.small(many, SEED))
    rows.append((f"{many:,} × 100 × 10", "ours", found.speed("ours", path, size.limit_s)))
    print(f"  {rows[-1]}", flush=True)
    return rows


SECTIONS = {"B1": months, "B2": pairs, "B3": losses, "B4": harm, "B8": chances}


def main() -> None:
    size = QUICK if os.environ.get("QUICK", "") not in ("", "0") else of(int(os.environ.get("STREAMS", FULL.judge)))
    wanted = sys.argv[1:] or [*SECTIONS, "B9"]
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="decisions-") as name:
        found = runs.Runs(Path(name))
        fast = speed(found, size) if "B9" in wanted else []
        for section, work in SECTIONS.items():
            if section in wanted:
                print(f"{section}: {(work.__doc__ or '').split(':')[1].strip()}", flush=True)
                work(found, size)
    text, picture = page.written(found, fast, size, time.time() - began, date.today())
    print(text)
    for competitor, problem in found.problems.items():
        print(f"{competitor}: {problem}")
    if size is not QUICK and not sys.argv[1:]:
        page.PAGE.write_text(text)
        picture()


if __name__ == "__main__":
    main()
