"""Items: who may take one partition of a run, and who may write its end.

Every write of an item names owner, fence, expected state and an unexpired lease in one statement; a late writer
changes nothing and is told so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from evertrain.clock import to_text
from evertrain.errors import QueueFull, StaleAttempt
from evertrain.events import Kind, ranges
from evertrain.states import ItemState
from evertrain.store import blackouts, demand, leases, runs
from evertrain.store.connect import Record, Tx

MAX_CHILD_CRASHES = 2
MAX_LOST_WORKERS = 3
_LONGEST_DELAY_S = 600.0

# No item waits longer than that, so a later moment is one of a wall clock that was set back since.
_COME = "(available_at <= :now OR available_at > :latest)"

_FREE = "(i.cause = 'manual' OR i.model_id NOT IN :held)"

_MINE = (
    "id = :id AND owner = :owner AND fence = :fence AND state = 'running' AND EXISTS"
    f" (SELECT 1 FROM workers WHERE owner = :owner AND {leases.ALIVE})"
)


@dataclass(frozen=True)
class Claim:
    """Items of one model that this owner may work on under one fence."""

    owner: str
    fence: int
    model_id: int
    items: Sequence[Record]


@dataclass(frozen=True)
class End:
    """How one try of an item ended."""

    item_id: int
    fence: int
    state: ItemState
    reason: str
    error_class: str | None = None
    error: str | None = None
    seconds: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None


def claim(tx: Tx, owner: str, *, most: int, seconds: float) -> Claim | None:
    """Take the most urgent item and others of its model, as many as fit into `seconds` by the last measured fits.

    An item whose process died before is taken alone, so that it can harm no other. Inside a blackout window of its
    model only what a person asked for is taken.
    """
    leases.check(tx, owner)
    if tx.value("SELECT 1 FROM settings WHERE name = 'paused'"):
        return None
    ready = (
        f"i.state = 'waiting' AND {_COME} AND {_FREE} AND NOT EXISTS"
        " (SELECT 1 FROM items r WHERE r.partition_id = i.partition_id AND r.state = 'running')"
    )
    held = list(blackouts.held(tx))
    top = tx.row(
        "SELECT i.id, i.model_id, i.crashes, m.seconds_each FROM items i JOIN models m ON m.id = i.model_id"
        f" WHERE {ready} AND m.paused = 0 ORDER BY i.priority DESC, i.id LIMIT 1",
        now=tx.now_text,
        latest=_latest(tx),
        held=held,
    )
    if top is None:
        return None
    size = 1 if top.crashes else _batch_size(top.seconds_each, most, seconds)
    picked = [top.id]
    if size > 1:
        picked = [
            row[0]
            for row in tx.rows(
                f"SELECT i.id FROM items i WHERE i.model_id = :model AND i.crashes = 0 AND {ready}"
                " ORDER BY i.priority DESC, i.id LIMIT :size",
                model=top.model_id,
                now=tx.now_text,
                latest=_latest(tx),
                held=held,
                size=size,
            )
        ]
    fence = tx.next("fence")
    tx.many(
        "UPDATE items SET state = 'running', owner = :owner, fence = :fence, attempt = attempt + 1, started_at = :now,"
        " alone = :alone, wanted = (SELECT max(p.wanted, m.wanted) FROM partitions p, models m"
        " WHERE p.id = items.partition_id AND m.id = items.model_id) WHERE id = :id AND state = 'waiting'",
        [
            {"id": one, "owner": owner, "fence": fence, "now": tx.now_text, "alone": int(len(picked) == 1)}
            for one in picked
        ],
    )
    items = _claimed(tx, picked)
    runs.start_runs(tx, sorted({item.run_id for item in items}), picked)
    by_run: dict[int, list[int]] = {}
    for item in items:
        by_run.setdefault(item.run_id, []).append(item.id)
    for run_id, ids in by_run.items():
        tx.event(Kind.ITEMS_CLAIMED, run_id=run_id, items=ranges(ids), owner=owner, fence=fence)
    return Claim(owner, fence, top.model_id, items)


def _claimed(tx: Tx, ids: list[int]) -> Sequence[Record]:
    return tx.rows(
        "SELECT i.id, i.run_id, i.fence, i.partition_id, i.cause, i.correction, i.forced, i.wanted, i.attempt,"
        " i.crashes, p.key, p.leaf, p.champion_id, p.champion_input, p.rows, p.pinned FROM items i"
        " JOIN partitions p ON p.id = i.partition_id WHERE i.id IN :ids ORDER BY i.id",
        ids=ids,
    )


def begin(tx: Tx, owner: str, claimed: Sequence[Record]) -> dict[int, Record]:
    """Tie claimed items to what is wanted now, as their rows are fixed, and return those that are still held.

    The read that they waited for may itself have asked for training; they answer that request, too, so that nothing
    is planned for it once more.
    """
    mine = [
        {"id": one.id, "owner": owner, "fence": one.fence, "boot": tx.boot_id, "boottime": tx.boottime}
        for one in claimed
    ]
    tx.many(
        "UPDATE items SET wanted = (SELECT max(p.wanted, m.wanted) FROM partitions p, models m"
        f" WHERE p.id = items.partition_id AND m.id = items.model_id) WHERE {_MINE}",
        mine,
    )
    fences = {one.id: one.fence for one in claimed}
    held = [one for one in _claimed(tx, list(fences)) if one.fence == fences[one.id]]
    tx.many(
        "UPDATE partitions SET planned = max(planned, wanted) WHERE id = :id AND NOT EXISTS"
        " (SELECT 1 FROM items w WHERE w.partition_id = partitions.id AND w.state = 'waiting')",
        [{"id": one.partition_id} for one in held],
    )
    return {one.id: one for one in held}


def _latest(tx: Tx) -> str:
    return to_text(tx.now + timedelta(seconds=_LONGEST_DELAY_S))


def _batch_size(seconds_each: float | None, most: int, seconds: float) -> int:
    if seconds_each is None:
        return min(4, most)  # nothing measured yet: a few show how long one takes
    return max(1, min(most, int(seconds / max(seconds_each, 1e-6))))


def end_items(tx: Tx, owner: str, ends: Sequence[End]) -> None:
    """Write the ends of items this owner holds, and end the runs that have nothing left to do.

    Raises:
        StaleAttempt: at least one item is no longer this owner's, or cancel was asked for; nothing is written.
    """
    changed = tx.many(
        "UPDATE items SET state = :state, owner = NULL, ended_at = :now, reason = :reason, error_class = :error_class,"
        " error = :error, seconds = :seconds, cpu_s = coalesce(cpu_s + :cpu_s, :cpu_s, cpu_s), peak_mb = :peak_mb"
        f" WHERE {_MINE} AND (cancel_requested = 0 OR :state = 'cancelled')",
        [
            {
                "id": end.item_id,
                "owner": owner,
                "fence": end.fence,
                "state": end.state,
                "now": tx.now_text,
                "reason": end.reason,
                "error_class": end.error_class,
                "error": end.error,
                "seconds": end.seconds,
                "cpu_s": end.cpu_s,
                "peak_mb": end.peak_mb,
                "boot": tx.boot_id,
                "boottime": tx.boottime,
            }
            for end in ends
        ],
    )
    if changed != len(ends):
        raise StaleAttempt(f"{len(ends) - changed} of {len(ends)} items are no longer held by {owner[:8]}")
    outcomes: dict[str, list[int]] = {}
    for end in ends:
        outcomes.setdefault(end.state, []).append(end.item_id)
    for run_id, items in homes(tx, [end.item_id for end in ends]).items():
        mine = set(items)
        tx.event(
            Kind.ITEMS_SETTLED,
            run_id=run_id,
            outcomes={
                state: ranges([one for one in ids if one in mine]) for state, ids in outcomes.items() if mine & set(ids)
            },
            **_first_failure([end for end in ends if end.item_id in mine]),
        )


def _first_failure(ends: Sequence[End]) -> dict[str, Any]:
    found = next((end for end in ends if end.state == ItemState.FAILED), None)
    return {} if found is None else {"reason": found.reason, "error_class": found.error_class, "error": found.error}


def check_held(tx: Tx, owner: str, held: Sequence[tuple[int, int]]) -> None:
    """Raise `StaleAttempt` unless the owner may write the ends of all these items (id, fence) now."""
    for item_id, fence in held:
        mine = tx.value(
            f"SELECT 1 FROM items WHERE {_MINE} AND cancel_requested = 0",
            id=item_id,
            owner=owner,
            fence=fence,
            boot=tx.boot_id,
            boottime=tx.boottime,
        )
        if not mine:
            raise StaleAttempt(f"item {item_id} is no longer held by {owner[:8]}")


def homes(tx: Tx, items: Sequence[int]) -> dict[int, list[int]]:
    """Return the items by the run whose version they belong to."""
    found: dict[int, list[int]] = {}
    for run_id, item_id in tx.rows("SELECT run_id, id FROM items WHERE id IN :ids ORDER BY id", ids=list(items)):
        found.setdefault(run_id, []).append(item_id)
    return found


def retry_items(tx: Tx, owner: str, ends: Sequence[End], *, delay_s: float, crashed: bool) -> dict[int, ItemState]:
    """Send items whose try failed back to wait, or end them when their tries are used up.

    A crash (signal, memory, lost lease) counts apart: after the second the item is dead and waits for a person or
    for news. An item whose sibling already waits ends superseded: the sibling will read newer data.

    Returns:
        The state each item has now.
    """
    states: dict[int, ItemState] = {}
    for end in ends:
        row = tx.row(
            "UPDATE items SET crashes = crashes + :crashed, state = CASE"
            "  WHEN cancel_requested = 1 THEN 'cancelled'"
            "  WHEN EXISTS (SELECT 1 FROM items w WHERE w.partition_id = items.partition_id AND w.state = 'waiting')"
            "   THEN 'superseded'"
            "  WHEN crashes + :crashed >= :most_crashes THEN 'dead'"
            "  WHEN attempt >= (SELECT json_extract(spec, '$.max_attempts') FROM models WHERE id = items.model_id)"
            "   THEN 'failed' ELSE 'waiting' END,"
            " owner = NULL, available_at = :later, reason = :reason, error_class = :error_class, error = :error,"
            f" seconds = :seconds, cpu_s = coalesce(cpu_s + :cpu_s, :cpu_s, cpu_s), peak_mb = :peak_mb WHERE {_MINE}"
            " RETURNING state, run_id, attempt, partition_id, wanted",
            id=end.item_id,
            owner=owner,
            fence=end.fence,
            crashed=int(crashed),
            most_crashes=MAX_CHILD_CRASHES,
            later=to_text(tx.now + timedelta(seconds=_delay(delay_s, _attempt(tx, end.item_id)))),
            reason=end.reason,
            error_class=end.error_class,
            error=end.error,
            seconds=end.seconds,
            cpu_s=end.cpu_s,
            peak_mb=end.peak_mb,
            boot=tx.boot_id,
            boottime=tx.boottime,
        )
        if row is None:
            raise StaleAttempt(f"item {end.item_id} is no longer held by {owner[:8]}")
        states[end.item_id] = state = ItemState(row.state)
        kind = Kind.ITEMS_RETRIED if state == ItemState.WAITING else Kind.ITEMS_SETTLED
        data: dict[str, Any] = (
            {"items": str(end.item_id)} if kind == Kind.ITEMS_RETRIED else {"outcomes": {state: str(end.item_id)}}
        )
        tx.event(
            kind,
            run_id=row.run_id,
            crashed=crashed,
            attempt=row.attempt,
            reason=end.reason,
            error_class=end.error_class,
            error=end.error,
            **data,
        )
        if state != ItemState.WAITING:
            _finish(tx, end.item_id, row.partition_id, row.wanted, state, end.reason)
    return states


def _delay(first_s: float, attempt: int) -> float:
    return min(_LONGEST_DELAY_S, first_s * 2.0 ** max(0, attempt - 1))


def _attempt(tx: Tx, item_id: int) -> int:
    return int(tx.value("SELECT attempt FROM items WHERE id = :id", id=item_id) or 1)


def release_items(tx: Tx, owner: str, claimed: Sequence[tuple[int, int]]) -> None:
    """Give back items (id, fence) that were not begun, or that a graceful stop cut off: the try is not counted."""
    released: dict[int, list[int]] = {}
    for item_id, fence in claimed:
        row = tx.row(
            "UPDATE items SET attempt = attempt - 1, owner = NULL, state = CASE"
            " WHEN cancel_requested = 1 THEN 'cancelled'"
            " WHEN EXISTS (SELECT 1 FROM items w WHERE w.partition_id = items.partition_id AND w.state = 'waiting')"
            f" THEN 'superseded' ELSE 'waiting' END WHERE {_MINE} RETURNING state, run_id, partition_id, wanted",
            id=item_id,
            owner=owner,
            fence=fence,
            boot=tx.boot_id,
            boottime=tx.boottime,
        )
        if row is None:
            continue  # reaped meanwhile: no longer ours to give back
        if row.state == ItemState.WAITING:
            released.setdefault(row.run_id, []).append(item_id)
        else:
            tx.event(Kind.ITEMS_SETTLED, run_id=row.run_id, outcomes={row.state: str(item_id)})
            _finish(tx, item_id, row.partition_id, row.wanted, ItemState(row.state), "given back")
    for run_id, ids in released.items():
        tx.event(Kind.ITEMS_RELEASED, run_id=run_id, items=ranges(ids))


def reap(tx: Tx) -> int:
    """Take back the items of owners that are gone, and return how many.

    Their process, not the item, is the likely culprit, so an item is dead only after it was lost three times, the
    last time while it ran alone; a restart of the machine, or a worker that ended in good order, counts for nothing.
    """
    taken = 0
    for owner, blameless in leases.lost(tx):
        rows = tx.rows(
            "UPDATE items SET crashes = crashes + :count, attempt = attempt - :blameless, owner = NULL,"
            " error_class = 'lost_worker', available_at = :now, state = CASE WHEN cancel_requested = 1 THEN 'cancelled'"
            "  WHEN EXISTS (SELECT 1 FROM items w WHERE w.partition_id = items.partition_id AND w.state = 'waiting')"
            "   THEN 'superseded'"
            "  WHEN alone = 1 AND crashes + :count >= :most THEN 'dead' ELSE 'waiting' END"
            " WHERE state = 'running' AND owner = :owner RETURNING id, state, run_id, partition_id, wanted",
            owner=owner,
            count=int(not blameless),
            blameless=int(blameless),
            now=tx.now_text,
            most=MAX_LOST_WORKERS,
        )
        taken += len(rows)
        leases.bury(tx, owner, len(rows))
        back: dict[int, list[int]] = {}
        for row in rows:
            if row.state == ItemState.WAITING:
                back.setdefault(row.run_id, []).append(row.id)
            else:
                tx.event(Kind.ITEMS_SETTLED, run_id=row.run_id, outcomes={row.state: str(row.id)})
                _finish(tx, row.id, row.partition_id, row.wanted, ItemState(row.state), "its worker was lost")
        for run_id, ids in back.items():
            tx.event(Kind.ITEMS_REAPED, run_id=run_id, items=ranges(ids), owner=owner)
    return taken


def _finish(tx: Tx, item_id: int, partition_id: int, wanted: int | None, state: ItemState, reason: str) -> None:
    """Do what every end without a fit owes: considered is set, a superseded item's requesters move on."""
    tx.run("UPDATE items SET ended_at = :at WHERE id = :id", at=tx.now_text, id=item_id)
    if state == ItemState.SUPERSEDED:
        sibling = tx.value("SELECT id FROM items WHERE partition_id = :p AND state = 'waiting'", p=partition_id)
        if sibling is not None:
            tx.run(
                "INSERT INTO joins(run_id, item_id) SELECT run_id, :sibling FROM items WHERE id = :id"
                " AND run_id <> (SELECT run_id FROM items WHERE id = :sibling) ON CONFLICT DO NOTHING",
                id=item_id,
                sibling=sibling,
            )
            tx.run(
                "INSERT INTO joins(run_id, item_id) SELECT run_id, :sibling FROM joins WHERE item_id = :id"
                " AND run_id <> (SELECT run_id FROM items WHERE id = :sibling) ON CONFLICT DO NOTHING",
                id=item_id,
                sibling=sibling,
            )
    else:
        demand.consider(
            tx, [{"partition": partition_id, "wanted": wanted or 0, "input": None, "outcome": state, "reason": reason}]
        )
    runs.end_runs(tx, [item_id])


def any_ready(tx: Tx) -> bool:
    """Return whether some item may be taken now; a look that needs no write lock."""
    ready = f"SELECT 1 FROM items i WHERE i.state = 'waiting' AND {_COME} AND {_FREE} LIMIT 1"
    times = {"now": tx.now_text, "latest": _latest(tx)}
    if not tx.value(ready, held=[], **times):
        return False
    held = list(blackouts.held(tx))
    return not held or bool(tx.value(ready, held=held, **times))


def held_back(tx: Tx) -> dict[int, tuple[int, datetime]]:
    """Return for each model with items that a blackout holds back: how many, and until when."""
    until = blackouts.held(tx)
    counts = tx.rows(
        "SELECT model_id, count(*) FROM items WHERE state = 'waiting' AND cause <> 'manual' AND model_id IN :held"
        " GROUP BY model_id",
        held=list(until),
    )
    return {model_id: (number, until[model_id]) for model_id, number in counts}


def held_until(tx: Tx, run_id: int) -> datetime | None:
    """Return when the blackout ends that holds back all that is open of a run; None where some of it may go on."""
    if not (until := blackouts.held(tx)):
        return None
    open_items = tx.rows(
        "SELECT DISTINCT model_id, state = 'waiting' AND cause <> 'manual' AS waits FROM items"
        " WHERE state IN ('waiting', 'running') AND (run_id = :run"
        " OR id IN (SELECT item_id FROM joins WHERE run_id = :run))",
        run=run_id,
    )
    ends = [until.get(row.model_id) if row.waits else None for row in open_items]
    return max((one for one in ends if one), default=None) if all(ends) else None


def cancelled_items(tx: Tx, owner: str) -> set[int]:
    """Return the running items of this owner that somebody asked to cancel."""
    return {
        row[0]
        for row in tx.rows(
            "SELECT id FROM items WHERE owner = :owner AND state = 'running' AND cancel_requested = 1", owner=owner
        )
    }


def skip_retired(tx: Tx, partition_ids: Iterable[int]) -> None:
    """End waiting items of partitions that have no rows any more."""
    listed = list(partition_ids)
    if not listed:
        return
    rows = tx.rows(
        "UPDATE items SET state = 'skipped', ended_at = :at, reason = 'the partition has no rows any more'"
        " WHERE partition_id IN :ids AND state = 'waiting' RETURNING id, run_id",
        ids=listed,
        at=tx.now_text,
    )
    for run_id in sorted({row.run_id for row in rows}):
        ids = [row.id for row in rows if row.run_id == run_id]
        tx.event(Kind.ITEMS_SETTLED, run_id=run_id, outcomes={ItemState.SKIPPED: ranges(ids)})
        runs.end_runs(tx, ids)


def refuse_more(tx: Tx, most: int | None) -> None:
    """Raise `QueueFull` where `most` items wait already; None takes on anything."""
    if most is not None and tx.value("SELECT 1 FROM items WHERE state = 'waiting' LIMIT 1 OFFSET :n", n=most - 1):
        raise QueueFull(f"{most:,} trainings wait already, so this one was not taken on; ask again when some are done")


def open_counts(tx: Tx) -> dict[str, int]:
    """Return how many items wait and how many run."""
    return {
        str(row[0]): int(row[1])
        for row in tx.rows("SELECT state, count(*) FROM items WHERE state IN ('waiting', 'running') GROUP BY state")
    }


def open_of(tx: Tx, model_id: int) -> int:
    """Return how many items of a model wait or run; each part by its own index, for many may wait for others."""
    return int(
        tx.value(
            "SELECT (SELECT count(*) FROM items WHERE model_id = :model AND state = 'waiting')"
            " + (SELECT count(*) FROM items WHERE model_id = :model AND state = 'running')",
            model=model_id,
        )
    )
