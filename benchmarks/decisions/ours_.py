"""Evertrain as it comes: `measure` and `decide`, with the state of the check before, and no knob.

"names something" is any severity above none, "retrains" is a decision that fired.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np

from benchmarks.decisions.streams import Steps, Stream, answer
from evertrain.drift.profile import Profile
from evertrain.drift.signal import Severity
from evertrain.evidence import decide, measure
from evertrain.specs import Drift

BEGIN = np.datetime64("2026-01-01", "ns")


def moments(stream: Stream, first: int, rows: int) -> np.ndarray:
    """Times of rows, of which the `first` of the recent ones is 0."""
    step = np.timedelta64(round(float(stream.world["step_s"]) * 1e9), "ns")
    return BEGIN + (first + np.arange(rows)) * step


def settings(stream: Stream, name: str) -> Drift:
    """Return how often is looked: every so many rows, and what a period is: a month, or the losses of B3."""
    looks, step = stream.looks, float(stream.world["step_s"])
    if name == "for one check":
        return Drift(every=timedelta(days=30))
    if len(looks) == 1:
        return Drift()
    every = timedelta(seconds=(looks[1][1] - looks[0][1]) * step)
    return Drift(every=every, period=len(looks) * every)


def look(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    before = len(stream.reference_errors)
    reference = Profile.of(
        stream.frame("reference", answers=False), times=moments(stream, -before, before),
        predicted=stream.reference_answers, losses=stream.reference_errors,
    )  # fmt: skip
    recent, actuals = stream.frame("recent", answers=False), stream.actuals("recent")
    alone = not len(recent.columns)  # losses alone: all since the promotion are looked at
    names = ["names something", "retrains"]
    for name in ("for one check", "") if len(stream.looks) == 1 else ("",):
        config, state = settings(stream, name), None
        named, retrains, sure, kinds, graded = [], [], [], [], []
        for start, stop in stream.looks:
            first = 0 if alone else start
            found = measure(
                reference, recent.iloc[first:stop], stream.recent_answers[first:stop], actuals[first:stop],
                times=moments(stream, first, stop - first), config=config,
            )  # fmt: skip
            decision = decide(found, config, state=state)
            state = decision.evidence["state"]
            named.append(decision.severity is not Severity.NONE)
            retrains.append(decision.triggered)
            sure.append(decision.confidence / 100)
            kinds.append(str(decision.severity))
            graded.append([f"{one.family}/{one.kind}/{one.name}" for one in decision.found.signals if one.grade])
        at = [stop for _, stop in stream.looks]
        more = {"severity": kinds, "signals": graded, "confidence": sure}
        for which, alarm in zip(names, (named, retrains), strict=True):
            yield f"{which} {name}".strip(), {"at": at, "score": sure, "alarm": alarm, **more}
            more = {}


def speed(stream: Stream) -> Steps:
    """One check of columns and losses against a stored profile, exact and from the sketch; the SciPy loop beside."""
    reference, recent = stream.frame("reference", answers=False), stream.frame("recent", answers=False)
    exact = Profile.of(reference, exact=True)
    sketch = Profile.from_bytes(Profile.of(reference).to_bytes())
    config = Drift(max_rows=max(len(recent), 1))
    yield "check, exact", lambda: decide(measure(exact, recent, config=config), config)
    yield "check, from the sketch", lambda: decide(measure(sketch, recent, config=config), config)


if __name__ == "__main__":
    answer(look, speed)
