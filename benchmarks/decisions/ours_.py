"""Evertrain as it comes: `measure` and `decide`, with the state of the check before, and no knob.

"names something" is any severity above none, "retrains" is a decision that fired.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np

from benchmarks.decisions.streams import Steps, Stream, answer
from evertrain.drift.grades import fleet_factors
from evertrain.drift.profile import Profile
from evertrain.drift.signal import Severity
from evertrain.evidence import decide, measure
from evertrain.specs import Drift

OF_MANY = ", one look of 30"
BEGIN = np.datetime64("2026-01-01", "ns")


def moments(stream: Stream, first: int, rows: int) -> np.ndarray:
    """Times of rows, of which the `first` of the recent ones is 0."""
    step = np.timedelta64(round(float(stream.world["step_s"]) * 1e9), "ns")
    return BEGIN + (first + np.arange(rows)) * step


def settings(stream: Stream) -> Drift:
    """Return how often is looked, how old recent rows may be, and what a period is: all looks of the stream."""
    looks, step = stream.looks, timedelta(seconds=float(stream.world["step_s"]))
    window = (looks[-1][1] - looks[-1][0]) * step
    if len(looks) == 1:
        return Drift(window=window)
    every = (looks[1][1] - looks[0][1]) * step
    return Drift(every=every, period=len(looks) * every, window=window)


def look(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    """Looks one after another; a single look as `should_retrain` takes one by itself, and as the first of a month."""
    before, config = len(stream.reference_errors), settings(stream)
    reference = Profile.of(
        stream.frame("reference", answers=False), times=moments(stream, -before, before),
        predicted=stream.reference_answers, losses=stream.reference_errors,
    )  # fmt: skip
    recent, actuals = stream.frame("recent", answers=False), stream.actuals("recent")
    at = [stop for _, stop in stream.looks]
    for name in ("", OF_MANY) if len(at) == 1 else ("",):
        level, state = config.budget if len(at) == 1 and not name else None, {}
        named, retrains, sure, kinds, graded = [], [], [], [], []
        for stop in at:
            found = measure(
                reference, recent.iloc[:stop], stream.recent_answers[:stop], actuals[:stop],
                times=moments(stream, 0, stop), config=config,
            )  # fmt: skip
            decision = decide(found, config, level=level, state=state)
            state = decision.evidence["state"]
            named.append(decision.severity is not Severity.NONE)
            retrains.append(decision.triggered)
            sure.append(decision.confidence / 100)
            kinds.append(str(decision.severity))
            graded.append([f"{one.family}/{one.kind}/{one.name}" for one in decision.found.signals if one.grade])
        more = {"severity": kinds, "signals": graded}
        yield f"names something{name}", {"at": at, "score": sure, "alarm": named, **more}
        yield f"retrains{name}", {"at": at, "score": sure, "alarm": retrains}


def speed(stream: Stream) -> Steps:
    """One check of columns against a stored profile, exact and from the sketch; or of many small partitions."""
    reference, recent = stream.frame("reference", answers=False), stream.frame("recent", answers=False)
    sketch = Profile.from_bytes(Profile.of(reference).to_bytes())
    if many := int(stream.world.get("partitions", 0)):
        rows = len(recent) // many
        config = Drift()

        def check() -> object:
            parts = {str(one): recent.iloc[one * rows : (one + 1) * rows] for one in range(many)}
            found = {key: measure(sketch, part, config=config) for key, part in parts.items()}
            factors = fleet_factors(found)
            return {key: decide(one, config, fleet=factors[key]) for key, one in found.items()}

        yield f"{many:,} partitions of {rows} rows", check
        return
    exact, config = Profile.of(reference, exact=True), Drift(max_rows=len(recent))
    yield "check, exact", lambda: decide(measure(exact, recent, config=config), config)
    yield "check, from the sketch", lambda: decide(measure(sketch, recent, config=config), config)


if __name__ == "__main__":
    answer(look, speed, has_knob=False)
