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
    BATCH_WRITTEN = "batch.written"  # rows of a dataset were added, updated or removed, or found unchanged
    FITS_QUESTIONED = "fits.questioned"  # fits were trained on rows that were undone or erased; some gave way
    OBSERVATIONS_THINNED = "observations.thinned"  # a model's observations passed their bound; fewer of them are kept
    SOURCE_READ = "source.read"  # a source was read after a change; says what changed
    SOURCE_FAILED = "source.failed"  # a source could not be used; nothing was trained from it
    PARTITIONS_FOUND = "partitions.found"  # keys appeared for the first time, or came back
    PARTITIONS_RETIRED = "partitions.retired"  # keys lost their last row
    DECISION_FIRED = "decision.fired"  # a trigger fired, or would have under auto="observe"
    WANTED_RAISED = "wanted.raised"  # training was asked for
    RUN_CREATED = "run.created"  # a plan became a run
    RUN_STARTED = "run.started"  # the first item was taken; the version number is drawn
    RUN_ENDED = "run.ended"  # every item has ended
    RUN_FALLBACK = "run.fallback"  # what exactly is due cannot be told or trained; the whole model is asked for
    RUN_CANCELLED = "run.cancelled"  # a person asked to cancel; running items end soon
    ITEMS_CLAIMED = "items.claimed"  # a worker took items
    ITEMS_SETTLED = "items.settled"  # items ended: promoted, rejected, skipped, failed …
    ITEMS_RETRIED = "items.retried"  # tries failed and will be repeated
    ITEMS_RELEASED = "items.released"  # items were given back unharmed
    ITEMS_REAPED = "items.reaped"  # a worker died or lost its lease; its items were taken back
    FORECAST_FALLBACK = "forecast.fallback"  # series got the naive forecast in the place of their trainer's
    FORECAST_TEMPORARY = "forecast.temporary"  # a forecast of filtered rows was made for one question
    ITEM_PROGRESS = "item.progress"  # how far a long training is
    CHAMPION_ROLLED_BACK = "champion.rolled_back"  # an earlier fit serves again
    CHAMPION_ADOPTED = "champion.adopted"  # an existing model file became a champion
    CHAMPION_PINNED = "champion.pinned"  # promotion is held, or free again
    ARTIFACT_DAMAGED = "artifact.damaged"  # stored bytes failed their digest; the previous good fit serves
    ARTIFACTS_COLLECTED = "artifacts.collected"  # retention removed what nothing needs
    WORKER_LOST = "worker.lost"  # a supervising process lost its lease or died
    LOOP_STARTED = "loop.started"  # a process began to tick for this project
    LOOP_STOPPED = "loop.stopped"  # the loop ended in good order
    TOKEN_CREATED = "token.created"  # somebody may use the service from now on
    TOKEN_REVOKED = "token.revoked"  # a token and the sessions begun with it are worth nothing any more
    SESSION_BEGUN = "session.begun"  # somebody logged in to the pages
    SESSION_REFUSED = "session.refused"  # wrong tokens were tried, from where
    REQUEST_MADE = "request.made"  # an HTTP request that may change something: who, what, from where, the answer
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


# Where a kind is not listed its facts are: a new kind is readable, if not nice, from its first day.
_SENTENCES: dict[Kind, str] = {
    Kind.STORE_MIGRATED: "store brought from schema {from_schema} to {to_schema}",
    Kind.STORE_BACKED_UP: "backed up: the store and {artifacts} artifacts, {bytes} bytes",
    Kind.PROJECT_APPLIED: "declaration applied: {changes}",
    Kind.PROJECT_PAUSED: "paused by {actor}: nothing is trained until resumed",
    Kind.PROJECT_RESUMED: "resumed by {actor}",
    Kind.MODEL_DECLARED: "declared",
    Kind.MODEL_CHANGED: "its declaration changed",
    Kind.MODEL_RETIRED: "no longer declared; its history stays",
    Kind.MODEL_PAUSED: "paused by {actor}",
    Kind.MODEL_RESUMED: "resumed by {actor}",
    Kind.CONFIG_SET: "{field} set to {value} by {actor}",
    Kind.CONFIG_RESET: "{field} set back to what is declared, by {actor}",
    Kind.SCHEDULE_ADDED: "schedule {schedule} added: {rule}",
    Kind.SCHEDULE_REMOVED: "schedule {schedule} removed",
    Kind.SCHEDULE_SKIPPED: "schedule {schedule}: {skipped} runs were missed while nothing ran; one stands for them",
    Kind.BATCH_WRITTEN: "{dataset} batch {batch} by {actor} ({kind} from {source}): {added} added, {updated} updated,"
    " {removed} removed, {unchanged} unchanged; version {version}",
    Kind.FITS_QUESTIONED: "{count} fits were trained on rows of {dataset} that were {kind} ({versions});"
    " {rolled_back} of them gave way to earlier ones",
    Kind.OBSERVATIONS_THINNED: "more than {rows} observations: 1 in {one_in} is kept from now on, a uniform sample",
    Kind.SOURCE_READ: "source {source} read: {rows} usable rows, {set_aside} set aside",
    Kind.SOURCE_FAILED: "source {source} cannot be used: {problem}",
    Kind.PARTITIONS_FOUND: "partitions that appeared: {count}",
    Kind.PARTITIONS_RETIRED: "partitions that lost their last row: {count}",
    Kind.DECISION_FIRED: "decided to {action}: {reason}",
    Kind.WANTED_RAISED: "training asked for by {actor}: {reason}",
    Kind.RUN_CREATED: "planned by {actor}: {reason}",
    Kind.RUN_STARTED: "started",
    Kind.RUN_ENDED: "{state}: {outcomes}",
    Kind.RUN_FALLBACK: "falls back to a full run: {reason}",
    Kind.RUN_CANCELLED: "cancel asked for by {actor}",
    Kind.ITEMS_CLAIMED: "items {items} taken by {owner}",
    Kind.ITEMS_SETTLED: "items ended: {outcomes}",
    Kind.ITEMS_RETRIED: "items {items} failed at try {attempt} and will be tried again: {reason}",
    Kind.ITEMS_RELEASED: "items {items} given back unharmed",
    Kind.ITEMS_REAPED: "items {items} taken back from {owner}, which is gone",
    Kind.FORECAST_FALLBACK: "the naive forecast stands in for {count} series, such as {example}: {why}",
    Kind.FORECAST_TEMPORARY: "a forecast of {rows} rows, filtered by {columns}, was made for {actor} in {seconds} s",
    Kind.ITEM_PROGRESS: "item {item}: {text}",
    Kind.CHAMPION_ROLLED_BACK: "rolled back to {to} by {actor}: {why}",
    Kind.CHAMPION_ADOPTED: "{version} adopted",
    Kind.CHAMPION_PINNED: "pinned: {pinned}, by {actor}",
    Kind.ARTIFACT_DAMAGED: "the bytes of {version} are damaged ({reason}); {serving} serves",
    Kind.ARTIFACTS_COLLECTED: "{count} artifacts removed that nothing needs, {bytes} bytes",
    Kind.WORKER_LOST: "worker {owner} is gone; {items} items were taken back",
    Kind.LOOP_STARTED: "loop started by {owner}",
    Kind.LOOP_STOPPED: "loop stopped in good order",
    Kind.TOKEN_CREATED: "token {token} for a {role} created by {actor}",
    Kind.TOKEN_REVOKED: "token {token} revoked by {actor}",
    Kind.SESSION_BEGUN: "{actor} logged in from {peer}",
    Kind.SESSION_REFUSED: "{count} wrong tokens from {peer}",
    Kind.REQUEST_MADE: "{actor} from {peer}: {method} {path}, answered {status}",
    Kind.NOTIFY_FAILED: "{channel} could not be told after {tries} tries: {problem}",
}


def sentence(event: Event) -> str:
    """Return the event as one plain line; what failed brings its whole error below that line.

    >>> from evertrain.clock import from_text
    >>> sentence(Event(1, from_text("2026-01-01T00:00:00.000000Z"), Kind.RUN_STARTED, "iris", 7))
    'run 7 iris: started'
    """
    head = " ".join(part for part in (f"run {event.run_id}" if event.run_id else "", event.model or "") if part)
    facts = {"actor": event.actor, **{name: _plain(name, value) for name, value in event.data.items()}}
    try:
        text = _SENTENCES[event.kind].format_map(facts)
    except KeyError:
        own = " ".join(f"{name}={value}" for name, value in facts.items())
        text = f"{event.kind.replace('.', ' ').replace('_', ' ')} {own}"
    if event.kind in (Kind.ITEMS_SETTLED, Kind.RUN_ENDED) and event.data.get("reason"):
        text += f"; {event.data['reason']}"
    if error := event.data.get("error"):
        text += f"\n{error}"
    return f"{head}: {text}" if head else text


def _plain(name: str, value: object) -> str:
    if name == "outcomes" and isinstance(value, Mapping):
        counts = (f"{len(numbers(n)) if isinstance(n, str) else n} {state}" for state, n in value.items())
        return ", ".join(counts) or "nothing to do"
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if name == "owner":
        return str(value)[:8]
    return "nothing" if value is None else str(value)
