"""Seeing a request through: in this process when no loop runs, else by watching the one that does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from evertrain import notify
from evertrain.clock import to_text
from evertrain.control.ask import Asked
from evertrain.control.opened import Opened
from evertrain.errors import Conflict
from evertrain.events import Event
from evertrain.executors.supervisor import Supervisor
from evertrain.store import items, leases, log, models, runs

LOOP_ROLE = "loop"
_OPEN = ("queued", "running")


@dataclass(frozen=True)
class Outcome:
    """What became of a request for training.

    Attributes:
        outcome: "promoted", "refused", "not_needed", "insufficient_samples", "failed", "cancelled", "asked" (nobody
            waited) or "mixed" (partitions came to different ends).
        reason: the verdict or the cause, in words.
        counts: how many items ended in which state.
        old_version, new_version: of the champion before and after; of the widest rollup for several partitions.
        improvement: relative per cent, positive is better; None where nothing was compared.
        announcement: what users of an application may read after it said that its records changed.
    """

    run_id: int | None
    model: str
    outcome: str
    reason: str
    counts: dict[str, int] = field(default_factory=dict)
    old_version: str | None = None
    new_version: str | None = None
    score: str | None = None
    old_score: float | None = None
    new_score: float | None = None
    improvement: float | None = None
    seconds: float = 0.0
    announcement: str = ""

    @classmethod
    def asked(cls, asked: Asked, model: str = "") -> Outcome:
        return cls(asked.run_id, model, "asked", asked.reason, announcement=asked.announcement)


Progress = Callable[[Event], None]


def loop_alive(opened: Opened) -> bool:
    """Return whether some process ticks for this project now."""
    with opened.store.read() as tx:
        return leases.holder(tx, LOOP_ROLE) is not None


def read_first(opened: Opened, model: str) -> None:
    """Read sources that were never read, so that the partitions of a model are known."""
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        if found.extract is not None or not found.spec.partition_by:
            return
        names = {user.spec.source for user in models.every(tx) if user.extract is None}
    read_now(opened, names)


def read_now(opened: Opened, names: Iterable[str], *, force: bool = False) -> None:
    """Read sources here and now; `force` accepts one that lost most of its rows."""
    with opened.alone() as hands:
        for name in names:
            hands.read_source(name, force=force)
        while hands.busy:
            hands.step(0.1)


def run_to_end(
    opened: Opened,
    asked: Asked,
    *,
    progress: Progress | None = None,
    timeout_s: float | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Wait until a run has ended and return what became of it; train it here when no loop does.

    Raises:
        Conflict: the time is over, `stop` answered true, training is paused, or a blackout holds it back; the run stays
            where it is.
    """
    if asked.run_id is None:
        return Outcome(None, "", "not_needed", asked.reason)
    hands: Supervisor | None = None
    seen, deadline = 0, time.monotonic() + timeout_s if timeout_s else None
    try:
        while True:
            alive = loop_alive(opened)
            if not alive and hands is None:
                with opened.store.write() as tx:
                    items.reap(tx)  # what a killed process left behind is taken up here
                hands = opened.supervisor()
            with opened.store.read() as tx:
                run = runs.run_row(tx, asked.run_id)
                state, paused = run.state, run.state in _OPEN and models.is_paused(tx, run.model)
                held_until = items.held_until(tx, asked.run_id) if run.state in _OPEN else None
                fresh = log.of_run(tx, asked.run_id, seen)
            for event in fresh:
                seen = event.id
                if progress:
                    progress(event)
            if state not in _OPEN:
                return replace(outcome(opened, asked.run_id), announcement=asked.announcement)
            if paused and not (hands and hands.training):
                raise Conflict(
                    f"{run.model} is paused, so run {asked.run_id} waits; what serves goes on. `evertrain resume` lets it begin"
                )
            if held_until and not (hands and hands.training):
                raise Conflict(
                    f"{run.model} is in a blackout window until {to_text(held_until)[:16]}Z, so run {asked.run_id} waits;"
                    f" what serves goes on. `evertrain trigger {run.model}` trains now"
                )
            if (deadline and time.monotonic() > deadline) or (stop is not None and stop()):
                waited = "" if timeout_s is None else f" after {timeout_s:g} s"
                raise Conflict(f"run {asked.run_id} is not done{waited}; it goes on")
            if hands is not None:
                hands.step(0.1)
                time.sleep(0 if hands.busy else 0.05)
            else:
                time.sleep(0.1)
    finally:
        if hands is not None:
            hands.close()


def outcome(opened: Opened, run_id: int) -> Outcome:
    """Return what became of an ended run."""
    with opened.store.read() as tx:
        run = runs.run_row(tx, run_id)
        told = notify.describe(tx, run_id) or {}
        counts = {str(state): number for state, number in runs.outcomes_of(tx, run_id).items()}
        reason = runs.telling_reason(tx, run_id)
    return Outcome(
        run_id,
        run.model,
        _word(counts, reason or ""),
        reason or run.reason,
        counts,
        told.get("old_version"),
        told.get("new_version"),
        told.get("score"),
        told.get("old_score"),
        told.get("new_score"),
        told.get("improvement"),
        told.get("duration", 0.0),
    )


def _word(counts: dict[str, int], reason: str) -> str:
    kinds = [state for state, number in counts.items() if number]
    if len(kinds) != 1:
        return "mixed" if kinds else "cancelled"
    words: dict[str, Any] = {
        "rejected": "refused",
        "dead": "failed",
        "promoted": "promoted",
        "failed": "failed",
        "cancelled": "cancelled",
        "shadowed": "shadowed",
        "superseded": "superseded",
    }
    if kinds[0] == "skipped":
        return "insufficient_samples" if reason.startswith("Insufficient samples") else "not_needed"
    return str(words[kinds[0]])
