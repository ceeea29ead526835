"""Runs: executions of a plan, from the first request to the last outcome."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evertrain.errors import NotFound
from evertrain.events import Kind, ranges
from evertrain.specs import Cause
from evertrain.states import ItemState, RunState, run_state
from evertrain.store import demand, figures
from evertrain.store.connect import Record, Tx, dump

# What a worker, its machine or its disk did to an item, and not its rows: where all of a run ended so, the run broke.
_MACHINERY = "('crash', 'lost_worker', 'storage')"
_FAILED = (ItemState.FAILED, ItemState.DEAD)
_LOOKED_AT = 100  # items, fits or partitions of a large run that are looked at for the one that speaks for it
_ALL_ITEMS = "(SELECT id FROM items WHERE run_id = :run UNION SELECT item_id FROM joins WHERE run_id = :run)"


@dataclass(frozen=True)
class NewItem:
    """One partition that a plan wants trained."""

    partition_id: int
    cause: str
    correction: bool
    forced: bool
    priority: int
    available_at: str
    waiting_item: int | None = None


@dataclass(frozen=True)
class NewRun:
    """A plan, ready to be stored."""

    model_id: int
    model: str
    kind: str
    cause: str
    reason: str
    actor: str
    items: Sequence[NewItem]
    estimate_s: float | None


def create_run(tx: Tx, run: NewRun) -> int:
    """Store a run; partitions that already wait are joined, with their item's priority lifted."""
    fresh = [item for item in run.items if item.waiting_item is None]
    joined = [item for item in run.items if item.waiting_item is not None]
    run_id = int(
        tx.value(
            "INSERT INTO runs(model_id, state, kind, cause, reason, actor, items, joined, partitions,"
            " estimate_s, created_at) VALUES (:model, 'queued', :kind, :cause, :reason, :actor, :items,"
            " :joined, :partitions, :estimate, :at) RETURNING id",
            model=run.model_id,
            kind=run.kind,
            cause=run.cause,
            reason=run.reason,
            actor=run.actor,
            items=len(fresh),
            joined=len(joined),
            partitions=len(run.items),
            estimate=run.estimate_s,
            at=tx.now_text,
        )
    )
    tx.many(
        "INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, forced, priority, available_at)"
        " VALUES (:run, :model, :partition, 'waiting', :cause, :correction, :forced, :priority, :available)",
        [
            {
                "run": run_id,
                "model": run.model_id,
                "partition": item.partition_id,
                "cause": item.cause,
                "correction": item.correction,
                "forced": item.forced,
                "priority": item.priority,
                "available": item.available_at,
            }
            for item in fresh
        ],
    )
    tx.many(
        "INSERT INTO joins(run_id, item_id) VALUES (:run, :item)",
        [{"run": run_id, "item": item.waiting_item} for item in joined],
    )
    tx.many(
        "UPDATE items SET priority = max(priority, :priority), available_at = min(available_at, :available),"
        # A person's request speaks for the item from now on: a blackout does not hold it back.
        " cause = CASE WHEN :cause = 'manual' OR (correction = 0 AND :correction = 1) THEN :cause ELSE cause END,"
        " correction = max(correction, :correction), forced = max(forced, :forced) WHERE id = :item",
        [
            {
                "item": item.waiting_item,
                "priority": item.priority,
                "available": item.available_at,
                "cause": item.cause,
                "correction": int(item.correction),
                "forced": int(item.forced),
            }
            for item in joined
        ],
    )
    tx.next(f"runs_{run.kind}")
    first = tx.value("SELECT min(id) FROM items WHERE run_id = :run", run=run_id)
    tx.event(
        Kind.RUN_CREATED,
        model=run.model,
        run_id=run_id,
        actor=run.actor,
        run_kind=run.kind,
        cause=run.cause,
        reason=run.reason,
        first=first,
        partitions=ranges([item.partition_id for item in fresh]),
        joined=[item.waiting_item for item in joined],
    )
    return run_id


def start_runs(tx: Tx, homes: list[int], items: list[int]) -> None:
    """Start the queued runs that these items belong to or were joined by."""
    joined = [row[0] for row in tx.rows("SELECT DISTINCT run_id FROM joins WHERE item_id IN :items", items=items)]
    started = tx.rows(
        "UPDATE runs SET state = 'running', started_at = :at WHERE id IN :ids AND state = 'queued' RETURNING id",
        at=tx.now_text,
        ids=sorted({*homes, *joined}),
    )
    for run_id in sorted(row[0] for row in started):
        tx.event(Kind.RUN_STARTED, run_id=run_id)


def draw_version(tx: Tx, model_id: int, run_id: int, major: int, *, patch: bool = False) -> tuple[int, str]:
    """Return the number and the text of a run's version, drawn with its first fit: the next MINOR of its generation.

    A run that fits nothing draws none; a number that was drawn is not used again, whatever the verdicts.

    Args:
        patch: its first fits are updates of earlier ones: the next PATCH of the newest MINOR.
    """
    row = tx.row("SELECT * FROM versions WHERE run_id = :run", run=run_id)
    if row is None:
        minor, number = tx.row(
            "SELECT coalesce(max(minor), -1) AS minor, (SELECT max(patch) FROM versions WHERE model_id = :model"
            " AND major = :major AND minor = (SELECT max(minor) FROM versions WHERE model_id = :model AND major = :major))"
            " AS patch FROM versions WHERE model_id = :model AND major = :major",
            model=model_id,
            major=major,
        ) or (-1, 0)
        row = tx.row(
            "INSERT INTO versions(model_id, run_id, major, minor, patch, created_at)"
            " VALUES (:model, :run, :major, :minor, :patch, :at) RETURNING *",
            minor=minor if patch and minor >= 0 else minor + 1,
            patch=number + 1 if patch and minor >= 0 else 0,
            model=model_id,
            run=run_id,
            major=major,
            at=tx.now_text,
        )
    assert row is not None
    return row.id, f"{row.major}.{row.minor}.{row.patch}"


def end_runs(tx: Tx, items: Sequence[int]) -> list[int]:
    """End the runs of these items that have nothing open left, and return their ids."""
    runs = tx.rows(
        "SELECT r.id, r.model_id, r.state, r.kind, r.cause, m.name, r.created_at FROM runs r JOIN models m ON m.id = r.model_id"
        " WHERE r.state IN ('queued', 'running') AND r.id IN (SELECT run_id FROM items WHERE id IN :items"
        "  UNION SELECT run_id FROM joins WHERE item_id IN :items)"
        " AND NOT EXISTS (SELECT 1 FROM items i WHERE i.run_id = r.id AND i.state IN ('waiting', 'running'))"
        " AND NOT EXISTS (SELECT 1 FROM joins j JOIN items i ON i.id = j.item_id WHERE j.run_id = r.id"
        "  AND i.state IN ('waiting', 'running'))",
        items=list(items),
    )
    for run in runs:
        outcomes = outcomes_of(tx, run.id)
        state = run_state(outcomes)
        reason = telling_reason(tx, run.id)
        tx.run(
            "UPDATE runs SET state = :state, ended_at = :at, outcomes = :outcomes, message = :reason,"
            " seconds = (SELECT sum(seconds) FROM items WHERE run_id = :id) WHERE id = :id",
            state=state,
            at=tx.now_text,
            outcomes=dump(outcomes),
            reason=reason,
            id=run.id,
        )
        figures.count(tx, run.id)
        tx.event(Kind.RUN_ENDED, model=run.name, run_id=run.id, state=state, outcomes=dict(outcomes), reason=reason)
        if state is RunState.FAILED and run.kind == "selective":
            _fall_back(tx, run)
    return [run.id for run in runs]


def _fall_back(tx: Tx, run: Record) -> None:
    """Ask for the whole model once, where a selective run broke; a failing partition alone had its own tries."""
    found = tx.row(
        f"SELECT count(DISTINCT partition_id) AS partitions, max(forced) AS forced, count(*) AS items,"
        f" sum(state IN ('failed', 'dead') AND coalesce(error_class, '') IN {_MACHINERY}) AS broken"
        f" FROM items WHERE id IN {_ALL_ITEMS}",
        run=run.id,
    )
    assert found is not None
    if found.partitions < 2 or found.broken < found.items:
        return
    why = f"all {found.partitions} partitions of run {run.id} were lost ({telling_reason(tx, run.id)})"
    request = demand.Request(Cause(run.cause), why, forced=bool(found.forced))
    demand.fall_back(tx, run.model_id, run.name, request)


def outcomes_of(tx: Tx, run_id: int) -> dict[ItemState, int]:
    """Return how many items of a run, its own and those it joined, are in which state."""
    found: Counter[ItemState] = Counter()
    for state, number in tx.rows(
        "SELECT state, count(*) FROM (SELECT state FROM items WHERE run_id = :run UNION ALL"
        " SELECT i.state FROM joins j JOIN items i ON i.id = j.item_id WHERE j.run_id = :run AND i.run_id <> :run)"
        " GROUP BY state",
        run=run_id,
    ):
        found[ItemState(state)] += number
    return dict(found)


def cancel_run(tx: Tx, run_id: int, actor: str) -> str:
    """Cancel what only this run wants: waiting items end now, running ones as soon as their worker notices.

    Returns:
        The run's state afterwards.
    """
    run = tx.row("SELECT r.*, m.name FROM runs r JOIN models m ON m.id = r.model_id WHERE r.id = :id", id=run_id)
    if run is None:
        raise NotFound(f"run {run_id} does not exist")
    if run.state not in (RunState.QUEUED, RunState.RUNNING):
        return str(run.state)
    tx.event(Kind.RUN_CANCELLED, model=run.name, run_id=run_id, actor=actor)
    # Items that another open run wants move to that run: its requesters still see their outcome, and may cancel it.
    moved = tx.rows(
        "UPDATE items SET run_id = (SELECT j.run_id FROM joins j JOIN runs r ON r.id = j.run_id"
        " WHERE j.item_id = items.id AND r.state IN ('queued', 'running') ORDER BY j.run_id LIMIT 1)"
        " WHERE run_id = :run AND state IN ('waiting', 'running') AND EXISTS (SELECT 1 FROM joins j"
        " JOIN runs r ON r.id = j.run_id WHERE j.item_id = items.id AND r.state IN ('queued', 'running'))"
        " RETURNING id, run_id",
        run=run_id,
    )
    tx.many(
        "DELETE FROM joins WHERE run_id = :run AND item_id = :item",
        [{"run": row.run_id, "item": row.id} for row in moved],
    )
    tx.run(
        "DELETE FROM joins WHERE run_id = :run"
        " AND item_id IN (SELECT id FROM items WHERE state IN ('waiting', 'running'))",
        run=run_id,
    )
    cancelled = tx.rows(
        "UPDATE items SET state = 'cancelled', ended_at = :at, reason = :reason"
        " WHERE run_id = :run AND state = 'waiting' RETURNING id, partition_id",
        run=run_id,
        at=tx.now_text,
        reason=f"cancelled by {actor}",
    )
    wanted = {
        row.id: row.wanted
        for row in tx.rows(
            "SELECT p.id, max(p.wanted, m.wanted) AS wanted FROM partitions p JOIN models m ON m.id = p.model_id"
            " WHERE m.id = :model AND p.id IN (SELECT partition_id FROM items WHERE run_id = :run)",
            model=run.model_id,
            run=run_id,
        )
    }
    demand.consider(
        tx,
        [
            {
                "partition": row.partition_id,
                "wanted": wanted[row.partition_id],
                "input": None,
                "outcome": ItemState.CANCELLED,
                "reason": f"cancelled by {actor}",
            }
            for row in cancelled
        ],
    )
    if cancelled:
        tx.event(
            Kind.ITEMS_SETTLED, run_id=run_id, outcomes={ItemState.CANCELLED: ranges([row.id for row in cancelled])}
        )
    tx.run("UPDATE items SET cancel_requested = 1 WHERE run_id = :run AND state = 'running'", run=run_id)
    _end_now(tx, run_id)
    return str(tx.value("SELECT state FROM runs WHERE id = :id", id=run_id))


def _end_now(tx: Tx, run_id: int) -> None:
    items = [row[0] for row in tx.rows(f"SELECT id FROM {_ALL_ITEMS} LIMIT 1", run=run_id)]
    if items:
        end_runs(tx, items)
    else:
        model = tx.value("SELECT m.name FROM runs r JOIN models m ON m.id = r.model_id WHERE r.id = :id", id=run_id)
        tx.run(
            "UPDATE runs SET state = 'cancelled', ended_at = :at, outcomes = '{}' WHERE id = :id",
            at=tx.now_text,
            id=run_id,
        )
        tx.event(Kind.RUN_ENDED, model=model, run_id=run_id, state=RunState.CANCELLED, outcomes={})


def run_row(tx: Tx, run_id: int) -> Record:
    """Return a run with its model's name and version.

    Raises:
        NotFound: no such run.
    """
    row = find(tx, run_id)
    if row is None:
        raise NotFound(f"run {run_id} does not exist")
    return row


def failed_partitions(tx: Tx, run_id: int) -> list[str]:
    """Return the keys of the partitions, still there, that failed, died or were cancelled in a run."""
    return [
        row[0]
        for row in tx.rows(
            "SELECT DISTINCT p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
            f" WHERE i.id IN {_ALL_ITEMS} AND i.state IN ('failed', 'dead', 'cancelled') AND p.state = 'live'"
            " ORDER BY p.id",
            run=run_id,
        )
    ]


def find(tx: Tx, run_id: int) -> Record | None:
    """Return a run with its model's name and version, None when there is none."""
    return tx.row(
        "SELECT r.*, m.name AS model, v.major, v.minor, v.patch FROM runs r JOIN models m ON m.id = r.model_id"
        " LEFT JOIN versions v ON v.run_id = r.id WHERE r.id = :id",
        id=run_id,
    )


def counts_of(tx: Tx, run: Record) -> dict[str, int]:
    """Return how many items of a run are in which state: as stored where it has ended, else counted."""
    if run.outcomes is not None:
        found: dict[str, int] = json.loads(run.outcomes)
        return found
    return {str(state): number for state, number in outcomes_of(tx, run.id).items()}


def newest(tx: Tx, model_id: int | None, limit: int) -> Sequence[Record]:
    """Return runs, newest first, each with its model's name and version."""
    return page(tx, model_id=model_id, state=None, before=None, limit=limit)


def page(tx: Tx, *, model_id: int | None, state: str | None, before: int | None, limit: int) -> Sequence[Record]:
    """Return runs before a number, newest first, each with its model's name and version."""
    given = {
        "model": ("r.model_id = :model", model_id),
        "state": ("r.state = :state", state),
        "before": ("r.id < :before", before),
    }
    used = {name: value for name, (_, value) in given.items() if value is not None}
    where = " AND ".join(given[name][0] for name in used)
    return tx.rows(
        "SELECT r.*, m.name AS model, v.major, v.minor, v.patch FROM runs r JOIN models m ON m.id = r.model_id"
        f" LEFT JOIN versions v ON v.run_id = r.id {'WHERE ' + where if where else ''} ORDER BY r.id DESC LIMIT :limit",
        limit=limit,
        **used,
    )


def items_of(tx: Tx, run_id: int, limit: int) -> Sequence[Record]:
    """Return a run's items, its own and joined ones, failed ones first, each with its partition's key."""
    first = items_page(tx, run_id, _FAILED, 0, limit)
    rest = items_page(tx, run_id, [state for state in ItemState if state not in _FAILED], 0, limit)
    return [*first, *rest][:limit]


def items_page(tx: Tx, run_id: int, states: Sequence[str], after: int, limit: int) -> Sequence[Record]:
    """Return items of a run in some states behind a number, oldest first, its own and joined ones, with their keys.

    State by state and merged, for the index of a run's items is by state: a page costs what it shows, of any run.
    """
    parts = [
        f"SELECT * FROM (SELECT id FROM items WHERE run_id = :run AND state = :s{n} AND id > :after ORDER BY id LIMIT :limit)"
        for n in range(len(states))
    ]
    parts.append(
        "SELECT * FROM (SELECT j.item_id AS id FROM joins j CROSS JOIN items o ON o.id = j.item_id WHERE j.run_id = :run"
        " AND o.run_id <> :run AND o.state IN :states AND j.item_id > :after ORDER BY j.item_id LIMIT :limit)"
    )
    return tx.rows(
        f"SELECT i.*, p.key, p.considered_input FROM ({' UNION ALL '.join(parts)}) o JOIN items i ON i.id = o.id"
        " JOIN partitions p ON p.id = i.partition_id ORDER BY i.id LIMIT :limit",
        run=run_id,
        after=after,
        limit=limit,
        states=list(states),
        **{f"s{n}": state for n, state in enumerate(states)},
    )


def open_items(tx: Tx, run_id: int, limit: int) -> Sequence[Record]:
    """Return a run's items that have not ended, in training first, with the seconds that their partition took last."""
    return tx.rows(
        "SELECT i.id, i.state, i.fence, i.alone, i.started_at, p.key, (SELECT e.seconds FROM items e"
        "  WHERE e.partition_id = i.partition_id AND e.seconds IS NOT NULL"
        "  AND e.state IN ('promoted', 'rejected', 'shadowed') ORDER BY e.id DESC LIMIT 1) AS usual"
        " FROM items i JOIN partitions p ON p.id = i.partition_id"
        " WHERE i.id IN (SELECT id FROM items WHERE run_id = :run AND state IN ('waiting', 'running')"
        "  UNION SELECT item_id FROM joins WHERE run_id = :run) AND i.state IN ('waiting', 'running')"
        " ORDER BY i.state = 'running' DESC, i.id LIMIT :limit",
        run=run_id,
        limit=limit,
    )


def key_of(tx: Tx, item_id: int) -> str:
    """Return the key of an item's partition."""
    return str(
        tx.value("SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id WHERE i.id = :id", id=item_id)
    )


def telling_reason(tx: Tx, run_id: int) -> str | None:
    """Return the reason that tells most of how a run ended: of a failure, else of a verdict, else of any item."""
    said = (ItemState.PROMOTED, ItemState.REJECTED)
    for states in (_FAILED, said, [state for state in ItemState if state not in (*_FAILED, *said)]):
        for row in items_page(tx, run_id, states, 0, _LOOKED_AT):
            if row.reason is not None:
                return str(row.reason)
    return None


def first_failure(tx: Tx, run_id: int) -> Record | None:
    """Return error class and reason of the first item that failed or died."""
    return next(iter(items_page(tx, run_id, _FAILED, 0, 1)), None)


def seconds(tx: Tx, run_id: int) -> float:
    """Return the seconds that a run's fits took together."""
    return float(
        tx.value(
            "SELECT coalesce(CASE WHEN r.ended_at IS NULL THEN (SELECT sum(seconds) FROM items WHERE run_id = r.id)"
            " ELSE r.seconds END, 0) FROM runs r WHERE r.id = :run",
            run=run_id,
        )
    )


_SPEAKING = (
    "SELECT f.*, i.state, i.reason, v.major, v.minor, v.patch, (SELECT count(*) FROM items WHERE run_id = :run"
    " AND state = 'promoted') AS promoted FROM"
)


def speaking_fit(tx: Tx, run_id: int) -> Record | None:
    """Return the fit that speaks for a run, of its widest rollup, with its version and how many were promoted."""
    version = tx.row("SELECT id, model_id, fits FROM versions WHERE run_id = :run", run=run_id)
    if version is None or not version.fits:
        return None
    if version.fits > _LOOKED_AT:  # rather the widest partitions of the model, until one is met that has a fit in it
        found = tx.row(
            f"{_SPEAKING} (SELECT id FROM partitions INDEXED BY partitions_widest WHERE model_id = :model AND state = 'live'"
            "  ORDER BY leaf, length(key), id LIMIT :most) p"
            " CROSS JOIN fits f INDEXED BY fits_partition ON f.partition_id = p.id AND f.version_id = :version"
            " JOIN versions v ON v.id = f.version_id JOIN items i ON i.id = f.id LIMIT 1",
            run=run_id,
            model=version.model_id,
            version=version.id,
            most=_LOOKED_AT,
        )
        if found is not None:
            return found
    return tx.row(
        f"{_SPEAKING} fits f JOIN items i ON i.id = f.id"
        " JOIN versions v ON v.id = f.version_id JOIN partitions p ON p.id = f.partition_id"
        " WHERE f.version_id = :version ORDER BY p.leaf, length(p.key), f.id LIMIT 1",
        run=run_id,
        version=version.id,
    )


def version_of_fit(tx: Tx, fit_id: int | None) -> Record | None:
    """Return the version that a fit belongs to."""
    if fit_id is None:
        return None
    return tx.row("SELECT v.* FROM fits f JOIN versions v ON v.id = f.version_id WHERE f.id = :id", id=fit_id)


def open_of(tx: Tx, model_ids: Sequence[int], since: int = 2**62) -> list[int]:
    """Return the runs of models that have not ended, and all that are later than run `since`; oldest first."""
    return [
        row[0]
        for row in tx.rows(
            "SELECT id FROM runs WHERE state IN ('queued', 'running') AND model_id IN :models"
            " UNION SELECT id FROM runs WHERE id > :since AND model_id IN :models ORDER BY id",
            models=list(model_ids),
            since=since,
        )
    ]


def newest_of_cause(tx: Tx, model_id: int, cause: str) -> str | None:
    """Return when the newest run of a model for a cause was asked for."""
    found = tx.value(
        "SELECT max(created_at) FROM runs WHERE model_id = :model AND cause = :cause", model=model_id, cause=cause
    )
    return str(found) if found else None


def open_elsewhere(tx: Tx, cause: str, model_id: int) -> bool:
    """Return whether a run for this cause is open for another model."""
    return bool(
        tx.value(
            "SELECT 1 FROM runs WHERE cause = :cause AND state IN ('queued', 'running') AND model_id <> :model LIMIT 1",
            cause=cause,
            model=model_id,
        )
    )
