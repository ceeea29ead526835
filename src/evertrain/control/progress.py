"""How far a run is: items that ended, the share of those in training, what their trainers say, and how long it takes.

How long is learned: from what the same partitions took before, else from the model's last fits, and from how far a
trainer says it is. Where nothing of that is known no time is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evertrain.clock import from_text
from evertrain.control.opened import Opened
from evertrain.control.tell import where
from evertrain.events import Kind
from evertrain.states import ItemState, RunState
from evertrain.store import log, models, runs
from evertrain.store.connect import Record

# What has run this many times as long as usual may run on for as long again: nobody knows.
_OVERDUE = 2.0
# A trainer that has just begun says little about its end; what is usual says more.
_EARLY = 0.05
_LISTED = 500
_TELLING = 50


@dataclass(frozen=True)
class Open:
    """An item that has not ended, or several like it.

    Attributes:
        usual_s: seconds that one takes; None before any was measured.
        batch: what one worker took at once, and does one after the other; None while it waits.
        ran_s: seconds that it is in training; 0 while it waits for its turn in its batch.
        share: how far its trainer says it is, from 0 to 1.
    """

    usual_s: float | None
    batch: int | None = None
    ran_s: float = 0.0
    share: float | None = None
    count: int = 1


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: items that ended, whatever the verdict, of `total`.
        fraction: from 0 to 1, with the part of items in training; None for a run without items.
        eta_s: seconds until it ends, if nothing else takes its workers; None where nothing was ever measured.
        text: the last word of a trainer, or what the run waits for.
        counts: items by state.
    """

    run: int
    model: str
    state: str
    done: int
    total: int
    fraction: float | None
    eta_s: float | None
    text: str
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state not in (RunState.QUEUED, RunState.RUNNING)


# --- from values -----------------------------------------------------------------------------------------------------


def rest_s(one: Open) -> float | None:
    """Return how many seconds of a worker an item takes still, None where nobody knows.

    >>> rest_s(Open(usual_s=10, ran_s=4)), rest_s(Open(usual_s=10, ran_s=60, share=0.75)), rest_s(Open(usual_s=None))
    (6, 20.0, None)
    """
    if one.share and (one.share >= _EARLY or one.usual_s is None):
        return one.ran_s * (1 - one.share) / one.share
    if one.usual_s is None or one.ran_s > _OVERDUE * one.usual_s:
        return None
    return max(one.usual_s - one.ran_s, 0)


def eta_s(items: Sequence[Open], workers: int) -> float | None:
    """Return the seconds until all items have ended; None where one of them may take any time.

    Never less than the slowest batch alone, however many workers there are.

    >>> eta_s([Open(10, ran_s=4, batch=1), Open(10, count=3)], workers=2)
    18.0
    """
    total = 0.0
    batches: dict[int | None, float] = {}
    for one in items:
        rest = rest_s(one)
        if rest is None:
            return None
        total += rest * one.count
        batches[one.batch] = rest if one.batch is None else batches.get(one.batch, 0.0) + rest
    return max([total / max(workers, 1), *batches.values()])


def fraction(done: int, items: Sequence[Open]) -> float | None:
    """Return how much of a run is done, counting what is in training by its part; None where there is nothing to do.

    >>> fraction(1, [Open(10, batch=1, ran_s=5), Open(10, count=2)])
    0.375
    """
    total = done + sum(one.count for one in items)
    return (done + sum(_part(one) for one in items)) / total if total else None


def _part(one: Open) -> float:
    if one.share is not None:
        return min(max(one.share, 0.0), 1.0)
    return min(one.ran_s / one.usual_s, 0.95) if one.usual_s else 0.0


# --- from the store --------------------------------------------------------------------------------------------------


def of_run(opened: Opened, run_id: int) -> Progress:
    """Return how far a run is now.

    Raises:
        NotFound: no such run.
    """
    with opened.store.read() as tx:
        run = runs.run_row(tx, run_id)
        counts = {str(state): number for state, number in runs.outcomes_of(tx, run_id).items()}
        is_open = run.state in (RunState.QUEUED, RunState.RUNNING)
        listed = runs.open_items(tx, run_id, _LISTED) if is_open else []
        told = log.newest_of(tx, run_id, Kind.ITEM_PROGRESS, _TELLING) if listed else []
        settled = log.newest_of(tx, run_id, Kind.ITEMS_SETTLED, 1) if listed else []
        model = models.by_id(tx, run.model_id)
        paused = is_open and models.is_paused(tx, run.model)
        now = tx.now
    waiting = sum(counts.get(state, 0) for state in (ItemState.WAITING, ItemState.RUNNING))
    done = sum(counts.values()) - waiting
    inside = _latest(listed, told)
    items = _open(listed, inside, now, max((from_text(one.at) for one in settled), default=None), model.seconds_each)
    if waiting > len(listed):
        items.append(Open(model.seconds_each, count=waiting - len(listed)))
    workers = 1 if opened.project().executor == "inline" else opened.settings.child_count
    return Progress(
        run=run_id,
        model=run.model,
        state=run.state,
        done=done,
        total=sum(counts.values()) or run.partitions,
        fraction=fraction(done, items) if is_open else 1.0,
        eta_s=None if not is_open or paused or not items else _rounded(eta_s(items, workers)),
        text=_text(run, paused=paused, said=_said(model, listed, inside), counts=counts),
        counts=counts,
    )


def _latest(listed: Sequence[Record], told: Sequence[Record]) -> dict[int, dict[str, Any]]:
    """Return the last word about each item in training, the newest first; what was said of an earlier try is over."""
    since = {one.id: one.started_at for one in listed if one.state == ItemState.RUNNING}
    found: dict[int, dict[str, Any]] = {}
    for event in told:
        data = json.loads(event.data)
        if data["item"] in since and event.at >= since[data["item"]]:
            found.setdefault(data["item"], data)
    return found


def _open(
    listed: Sequence[Record],
    inside: Mapping[int, Mapping[str, Any]],
    now: datetime,
    settled: datetime | None,
    each: float | None,
) -> list[Open]:
    """Return open items; of a batch one is in training, the one that speaks or the first, the others wait behind it."""
    working: dict[int, int] = {}
    for one in listed:
        if one.state == ItemState.RUNNING and (one.id in inside or one.fence not in working):
            working[one.fence] = one.id
    found = []
    for one in listed:
        usual = one.usual if one.usual is not None else each
        if one.state != ItemState.RUNNING:
            found.append(Open(usual))
        elif working[one.fence] != one.id:
            found.append(Open(usual, one.fence))
        else:
            since = from_text(one.started_at)
            if settled is not None and not one.alone:
                since = max(since, settled)
            share = inside.get(one.id, {}).get("fraction")
            found.append(Open(usual, one.fence, max((now - since).total_seconds(), 0.0), share))
    return found


def _said(model: models.Model, listed: Sequence[Record], inside: Mapping[int, Mapping[str, Any]]) -> str:
    for item, data in inside.items():
        key = next(one.key for one in listed if one.id == item)
        return named(model, key, str(data["text"]))
    return ""


def named(model: models.Model, key: str, text: str) -> str:
    """Return what a trainer said, with the partition it speaks of where there are several."""
    return f"{where(model.spec, key)}: {text}" if model.spec.partition_by else text


def _text(run: Record, *, paused: bool, said: str, counts: Mapping[str, int]) -> str:
    if run.state not in (RunState.QUEUED, RunState.RUNNING):
        return str(run.state)
    if paused:
        return f"{run.model} is paused; `evertrain resume` lets it go on"
    if said:
        return said
    running = counts.get(ItemState.RUNNING, 0)
    return f"training {running}, {counts.get(ItemState.WAITING, 0)} waiting" if running else "waiting for a worker"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
