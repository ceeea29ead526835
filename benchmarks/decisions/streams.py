"""What every competitor's script shares: it reads a world, looks at each stream, and answers JSON lines.

A line is one detector on one stream: at which row each look was (`at`), how much it speaks for a change (`score`,
growing), and whether the detector as it comes alarms (`alarm`). One knob calibrates a detector: a bound on its score.
Only numpy is needed here; each script runs on its own interpreter.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One stream of a world; see `worlds`."""

    number: int
    world: dict[str, np.ndarray]

    def __getattr__(self, name: str) -> Any:
        """The stream's own rows, or None where the world has none of that name."""
        return self.world[name][self.number] if name in self.world else None

    @property
    def looks(self) -> list[tuple[int, int]]:
        return [(int(start), int(stop)) for start, stop in zip(self.world["starts"], self.world["stops"], strict=True)]

    @property
    def categories(self) -> list[int]:
        return [int(column) for column in self.world["categories"]]

    def actuals(self, part: str) -> np.ndarray:
        """The true labels of the "reference" or "recent" rows."""
        return np.abs(self.world[f"{part}_answers"][self.number] - self.world[f"{part}_errors"][self.number])

    def frame(self, part: str, answers: bool = True) -> Any:
        """Rows as pandas wants them: numbers, and categories as strings; with the model's answer as a column."""
        import pandas as pd

        values = self.world[part][self.number]
        columns: dict[str, Any] = {}
        for column in range(values.shape[1]):
            one = values[:, column]
            if column in self.categories:
                names = np.array([f"c{code}" for code in range(int(np.nanmax(one)) + 1)], dtype=object)
                columns[f"x{column}"] = names[one.astype(int)]
            else:
                columns[f"x{column}"] = one
        if answers:
            names = np.array(["no", "yes"], dtype=object)
            columns["answer"] = names[self.world[f"{part}_answers"][self.number].astype(int)]
        return pd.DataFrame(columns, index=pd.RangeIndex(len(values)))


Looks = Iterator[tuple[str, dict[str, Any]]]
Steps = Iterator[tuple[str, Callable[[], object]]]


def answer(
    look: Callable[[Stream], Looks], speed: Callable[[Stream], Steps] | None = None, *, has_knob: bool = True
) -> None:
    """Print what is found in the streams of the worlds that the command line names, or how long one check takes.

    usage: MODULE PART/PARTS WORLD.npz ...      every PARTS-th stream
           MODULE speed WORLD.npz

    The first `turn` streams of a world are there to turn knobs on, and left out where there is none.
    """
    what, *paths = sys.argv[1:]
    for path in paths:
        loaded = np.load(path)
        world = {name: loaded[name] for name in loaded.files}
        if what == "speed":
            if speed is not None:
                _time(speed(Stream(0, world)))
            continue
        part, parts = (int(one) for one in what.split("/"))
        for number in range(part + (0 if has_knob else int(world["turn"])), len(world["truth"]), parts):
            began = time.perf_counter()
            for detector, found in look(Stream(number, world)):
                line = {"world": Path(path).stem, "stream": number, "detector": detector, **found}
                print(json.dumps({**line, "seconds": time.perf_counter() - began}, default=_plain), flush=True)
                began = time.perf_counter()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value.tolist()


def _time(steps: Steps) -> None:
    """Print seconds, by the clock and of the processor, and the memory that each step adds to the highest so far, in MB."""
    for name, step in steps:
        before = _peak_mb()
        began, used = time.perf_counter(), time.process_time()
        step()
        used = time.process_time() - used
        line = {
            "detector": name,
            "clock": time.perf_counter() - began,
            "seconds": used,
            "mb": _peak_mb() - before,
            "held_mb": before,
        }
        print(json.dumps(line), flush=True)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
