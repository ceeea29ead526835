"""Numbers about the service, kept in the store: a restarted process goes on counting where the last one stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evertrain.store.connect import Tx


@dataclass(frozen=True)
class Counter:
    """A number that only grows, with the labels that tell it from others of its name."""

    name: str
    help: str
    value: int
    labels: Mapping[str, str] = field(default_factory=dict)


def counters(tx: Tx) -> list[Counter]:
    """Return how many runs there were of each kind, and how many times a model fell back to a full run."""
    runs = [
        Counter("evertrain_runs_total", "Runs that were planned.", tx.counter(f"runs_{kind}"), {"kind": kind})
        for kind in ("full", "selective")
    ]
    said = "Times that a full run was asked for because a selective one could not be told or broke."
    naive = "Series for which the naive forecast stood in."
    return [
        Counter("evertrain_fallback_total", said, tx.counter("fallbacks")),
        Counter("evertrain_forecast_fallback_total", naive, tx.counter("forecast_fallbacks")),
        *runs,
    ]
