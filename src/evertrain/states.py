"""Which state may follow which: the one table behind the code, the SQL guards, the property test and the docs."""

from __future__ import annotations

from enum import StrEnum

from evertrain.errors import IllegalTransition


class RunState(StrEnum):
    """The life of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """The life of an item: one partition of a run. Gating is a step of `running`, not a state."""

    WAITING = "waiting"
    RUNNING = "running"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    SHADOWED = "shadowed"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    # A run whose items all joined or ended elsewhere ends without having started anything itself.
    RunState.QUEUED: frozenset(RunState) - {RunState.QUEUED},
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.PARTIAL: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}

ITEM_TRANSITIONS: dict[ItemState, frozenset[ItemState]] = {
    # Waiting to skipped: the partition lost its last row before anyone took the item.
    ItemState.WAITING: frozenset({ItemState.RUNNING, ItemState.CANCELLED, ItemState.SKIPPED}),
    # Back to waiting: a retry, a released item of a graceful stop, or the item of a worker that died.
    ItemState.RUNNING: frozenset(ItemState) - {ItemState.RUNNING},
    ItemState.PROMOTED: frozenset(),
    ItemState.REJECTED: frozenset(),
    ItemState.SHADOWED: frozenset(),
    ItemState.SUPERSEDED: frozenset(),
    ItemState.SKIPPED: frozenset(),
    ItemState.FAILED: frozenset(),
    ItemState.DEAD: frozenset(),
    ItemState.CANCELLED: frozenset(),
}

OPEN_ITEMS = frozenset({ItemState.WAITING, ItemState.RUNNING})
OPEN_RUNS = frozenset({RunState.QUEUED, RunState.RUNNING})
# What counts as done well: the item ended with an answer, and no training is owed.
GOOD_ENDS = frozenset(
    {ItemState.PROMOTED, ItemState.REJECTED, ItemState.SHADOWED, ItemState.SUPERSEDED, ItemState.SKIPPED}
)


def check_item(item_id: int, state: ItemState, wanted: ItemState) -> None:
    """Raise `IllegalTransition` unless `wanted` may follow `state`."""
    if wanted not in ITEM_TRANSITIONS[state]:
        raise IllegalTransition(f"item {item_id}", state, wanted)


def check_run(run_id: int, state: RunState, wanted: RunState) -> None:
    """Raise `IllegalTransition` unless `wanted` may follow `state`."""
    if wanted not in RUN_TRANSITIONS[state]:
        raise IllegalTransition(f"run {run_id}", state, wanted)


def run_state(outcomes: dict[ItemState, int]) -> RunState:
    """Return how a run ended, from how many of its items ended in which state.

    >>> run_state({ItemState.PROMOTED: 2, ItemState.FAILED: 1})
    <RunState.PARTIAL: 'partial'>
    """
    good = sum(n for state, n in outcomes.items() if state in GOOD_ENDS)
    bad = outcomes.get(ItemState.FAILED, 0) + outcomes.get(ItemState.DEAD, 0)
    if bad:
        return RunState.PARTIAL if good else RunState.FAILED
    if outcomes.get(ItemState.CANCELLED, 0) and not good:
        return RunState.CANCELLED
    return RunState.PARTIAL if outcomes.get(ItemState.CANCELLED, 0) else RunState.SUCCEEDED
