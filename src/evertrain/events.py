"""The kinds of events in the append-only log, what each carries, and how each reads as a sentence.

History, live progress, notifications, metrics and pages are all read from this one log. An event is written in the
transaction that changes the state it tells of; one event stands for a whole batch, never one per item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What happened. The comment behind each is the reference; a test holds it complete."""

    STORE_MIGRATED = "store.migrated"  # the store was created or brought to a newer schema
    STORE_BACKED_UP = "store.backed_up"  # a verified copy of the store and its artifacts was written
    PROJECT_APPLIED = "project.applied"  # a changed declaration took effect
    PROJECT_PAUSED = "project.paused"  # nothing is trained until resumed
    PROJECT_RESUMED = "project.resumed"  # training goes on
    MODEL_DECLARED = "model.declared"  # a model was declared for the first time
    MODEL_CHANGED = "model.changed"  # a model's declaration changed; says whether a new generation begins
    MODEL_RETIRED = "model.retired"  # a model is no longer declared; its history stays
    MODEL_PAUSED = "model.paused"  # this model is not trained until resumed
    MODEL_RESUMED = "model.resumed"  # this model is trained again
    CONFIG_SET = "config.set"  # an override was set at run time
    CONFIG_RESET = "config.reset"  # an override was taken back
    SCHEDULE_ADDED = "schedule.added"  # a schedule was added at run time
    SCHEDULE_REMOVED = "schedule.removed"  # a schedule was removed
    SCHEDULE_SKIPPED = "schedule.skipped"  # slots were missed while nothing ran; one catch-up stands for them
    SOURCE_READ = "source.read"  # a source was read after a change; says what changed
    SOURCE_FAILED = "source.failed"  # a source could not be used; nothing was trained from it
    PARTITIONS_FOUND = "partitions.found"  # keys appeared for the first time, or came back
    PARTITIONS_RETIRED = "partitions.retired"  # keys lost their last row
    DECISION_FIRED = "decision.fired"  # a trigger fired, or would have under auto="observe"
    WANTED_RAISED = "wanted.raised"  # training was asked for
    RUN_CREATED = "run.created"  # a plan became a run
    RUN_STARTED = "run.started"  # the first item was taken; the version number is drawn
    RUN_ENDED = "run.ended"  # every item has ended
    RUN_CANCELLED = "run.cancelled"  # a person asked to cancel; running items end soon
    ITEMS_CLAIMED = "items.claimed"  # a worker took items
    ITEMS_SETTLED = "items.settled"  # items ended: promoted, rejected, skipped, failed …
    ITEMS_RETRIED = "items.retried"  # tries failed and will be repeated
    ITEMS_RELEASED = "items.released"  # items were given back unharmed
    ITEMS_REAPED = "items.reaped"  # a worker died or lost its lease; its items were taken back
    ITEM_PROGRESS = "item.progress"  # how far a long training is
    CHAMPION_ROLLED_BACK = "champion.rolled_back"  # an earlier fit serves again
    CHAMPION_ADOPTED = "champion.adopted"  # an existing model file became a champion
    CHAMPION_PINNED = "champion.pinned"  # promotion is held, or free again
    ARTIFACT_DAMAGED = "artifact.damaged"  # stored bytes failed their digest; the previous good fit serves
    ARTIFACTS_COLLECTED = "artifacts.collected"  # retention removed what nothing needs
    WORKER_LOST = "worker.lost"  # a supervising process lost its lease or died
    LOOP_STARTED = "loop.started"  # a process began to tick for this project
    LOOP_STOPPED = "loop.stopped"  # the loop ended in good order
    NOTIFY_FAILED = "notify.failed"  # a message could not be delivered after its last try


@dataclass(frozen=True)
class Event:
    """One entry of the log. `id` grows without a gap that a reader could skip."""

    id: int
    at: datetime
    kind: Kind
    model: str | None = None
    run_id: int | None = None
    actor: str = "evertrain"
    data: Mapping[str, Any] = field(default_factory=dict)


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers in their order as text in which neighbours are one range: short for a batch of any size.

    >>> ranges([1, 2, 3, 7, 5])
    '1-3,7,5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def numbers(text: str) -> list[int]:
    """Return the numbers that `ranges` wrote."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def sentence(event: Event) -> str:
    """Return the event as one plain line: its `text` where it brought one, else its kind and facts."""
    head = " ".join(part for part in (f"run {event.run_id}" if event.run_id else "", event.model or "") if part)
    text = event.data.get("text")
    if not text:
        facts = (f"{name}={value}" for name, value in event.data.items() if not isinstance(value, list | dict))
        text = " ".join([event.kind.replace(".", " ").replace("_", " "), *facts])
    return f"{head}: {text}" if head else str(text)
