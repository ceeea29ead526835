"""What is wanted, planned, considered and trained: the level-triggered heart of the store.

Every request draws one commit number. A partition whose `wanted` is above `considered` is due; above `trained` it is
behind; above `planned` it still needs a place in a run. A request for a whole model raises one number in the model's
row and enumerates nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from evertrain.clock import from_text, to_text
from evertrain.events import Kind
from evertrain.partitions import WHOLE, KeyText
from evertrain.specs import Cause
from evertrain.store.connect import Record, Tx, dump

# Its quiet period is over. Unrest that begins later than now is of a wall clock that was set back since.
_RIPE = "(p.not_before IS NULL OR p.not_before <= :now OR p.restless_at > :now)"
_PLACES = (
    "SELECT p.id, p.key, p.leaf, p.rows, p.wanted, p.considered, p.cause, p.reason, p.actor, p.forced,"
    " p.champion_id, w.id AS waiting_item, w.run_id AS waiting_run, w.priority AS waiting_priority"
    " FROM partitions p LEFT JOIN items w ON w.partition_id = p.id AND w.state = 'waiting'"
    " WHERE p.model_id = :model AND p.state = 'live'"
)
_CORRECTIONS = ", ".join(f"'{cause}'" for cause in Cause if cause.is_correction)


@dataclass(frozen=True)
class Request:
    """Why training is asked for, and by whom."""

    cause: Cause
    reason: str
    actor: str = "evertrain"
    forced: bool = False


@dataclass(frozen=True)
class Delay:
    """Partitions that are not planned before they lay still for `quiet`, or were restless for `most`."""

    keys: Collection[KeyText]
    quiet: timedelta
    most: timedelta


def find_partitions(tx: Tx, model_id: int, model: str, keys: Mapping[KeyText, bool], request: Request) -> int:
    """Add keys that appeared (each with whether it is a leaf) and bring retired ones back; all are due from birth.

    Returns:
        How many were new or back.
    """
    if not keys:
        return 0
    commit = tx.next("commit")
    changed = tx.many(
        "INSERT INTO partitions(model_id, key, leaf, wanted, cause, reason, actor)"
        " VALUES (:model, :key, :leaf, :commit, :cause, :reason, :actor) ON CONFLICT(model_id, key) DO UPDATE"
        " SET state = 'live', wanted = excluded.wanted, cause = excluded.cause, reason = excluded.reason,"
        " actor = excluded.actor, not_before = NULL WHERE partitions.state = 'retired'",
        [
            {
                "model": model_id,
                "key": key,
                "leaf": leaf,
                "commit": commit,
                "cause": request.cause,
                "reason": request.reason,
                "actor": request.actor,
            }
            for key, leaf in keys.items()
        ],
    )
    if changed:
        tx.event(Kind.PARTITIONS_FOUND, model=model, count=changed, commit=commit, keys=list(keys)[:20])
    return changed


def retire_partitions(tx: Tx, model: str, ids: Sequence[int]) -> None:
    """Take partitions without rows out of service; their history stays."""
    if not ids:
        return
    rows = [{"id": one, "at": tx.now_text} for one in ids]
    tx.many(
        "UPDATE partitions SET state = 'retired', champion_id = NULL, champion_input = NULL, trained_at = NULL,"
        " rows = 0, seen = NULL, asked = NULL, considered = max(considered, wanted), planned = max(planned, wanted)"
        " WHERE id = :id",
        rows,
    )
    tx.many("UPDATE activations SET until_at = :at WHERE partition_id = :id AND until_at IS NULL", rows)
    epoch = tx.next("epoch")
    tx.many("UPDATE partitions SET epoch = :epoch WHERE id = :id", [{"id": one, "epoch": epoch} for one in ids])
    tx.event(Kind.PARTITIONS_RETIRED, model=model, count=len(ids), partitions=list(ids))


def want(
    tx: Tx,
    model_id: int,
    model: str,
    request: Request,
    keys: Iterable[KeyText] | None = None,
    delay: Delay | None = None,
) -> int:
    """Ask for training of the given partitions, or of the whole model, and return the commit number.

    A refresh does not soften a correction that is still open: the correction's cause stays. What somebody asked for
    at once is not delayed by a later request that could wait.
    """
    commit = tx.next("commit")
    values: dict[str, Any] = {
        "commit": commit,
        "cause": request.cause,
        "reason": request.reason,
        "actor": request.actor,
        "forced": int(request.forced),
        "correction": int(request.cause.is_correction),
        "model": model_id,
    }
    upgrade = (
        f"CASE WHEN wanted > considered AND cause IN ({_CORRECTIONS}) AND :correction = 0 THEN {{0}} ELSE :{{0}} END"
    )
    if keys is None:
        open_ = upgrade.replace("wanted > considered", "wanted > planned")
        tx.run(
            f"UPDATE models SET cause = {open_.format('cause')}, reason = {open_.format('reason')},"
            f" actor = {open_.format('actor')},"
            " forced = CASE WHEN wanted > planned THEN max(forced, :forced) ELSE :forced END, wanted = :commit"
            " WHERE id = :model",
            **values,
        )
        tx.event(
            Kind.WANTED_RAISED,
            model=model,
            actor=request.actor,
            commit=commit,
            cause=request.cause,
            reason=request.reason,
            partitions="all",
        )
        return commit
    listed = list(keys)
    moments = _delayed(tx, model_id, delay) if delay else {}
    tx.many(
        f"UPDATE partitions SET cause = {upgrade.format('cause')}, reason = {upgrade.format('reason')},"
        f" actor = {upgrade.format('actor')},"
        " forced = CASE WHEN wanted > considered THEN max(forced, :forced) ELSE :forced END, wanted = :commit,"
        " restless_at = :restless, not_before = :later WHERE model_id = :model AND key = :key AND state = 'live'",
        [
            {**values, "key": key, "restless": since, "later": later}
            for key in listed
            for since, later in [moments.get(key, (None, None))]
        ],
    )
    tx.event(
        Kind.WANTED_RAISED,
        model=model,
        actor=request.actor,
        commit=commit,
        cause=request.cause,
        reason=request.reason,
        partitions=len(listed),
        keys=listed[:20],
    )
    return commit


def fall_back(tx: Tx, model_id: int, model: str, request: Request) -> int:
    """Ask for the whole model, because what exactly is due cannot be told or trained; says so, and counts it."""
    tx.next("fallbacks")
    tx.event(Kind.RUN_FALLBACK, model=model, actor=request.actor, reason=request.reason)
    reason = f"fell back to a full run: {request.reason}"
    return want(tx, model_id, model, replace(request, reason=reason))


def _delayed(tx: Tx, model_id: int, delay: Delay) -> dict[str, tuple[str, str]]:
    """Return since when each of these partitions is restless, and before what moment it waits."""
    found = {}
    for row in tx.rows(
        "SELECT key, wanted > planned AS open, restless_at, not_before FROM partitions"
        " WHERE model_id = :model AND state = 'live' AND key IN (SELECT value FROM json_each(:keys))",
        model=model_id,
        keys=dump(list(delay.keys)),
    ):
        if row.open and row.not_before is None:
            continue  # asked for at once, and not planned yet
        before = from_text(row.restless_at) if row.open and row.restless_at <= tx.now_text else tx.now
        found[row.key] = (to_text(before), to_text(min(tx.now + delay.quiet, before + delay.most)))
    return found


def models_to_plan(tx: Tx) -> list[int]:
    """Return the ids of models with something wanted and not yet planned; looks at due rows alone."""
    return [
        row[0]
        for row in tx.rows(
            "SELECT m.id FROM models m WHERE m.wanted > m.planned AND m.retired_at IS NULL"
            " AND EXISTS (SELECT 1 FROM partitions p WHERE p.model_id = m.id AND p.state = 'live') UNION"
            # Named, for SQLite would look through all partitions: to it one partial index is as good as another.
            " SELECT p.model_id FROM partitions p INDEXED BY partitions_unplanned JOIN models m ON m.id = p.model_id"
            f" WHERE p.wanted > p.planned AND p.state = 'live' AND m.retired_at IS NULL AND {_RIPE}",
            now=tx.now_text,
        )
    ]


def whole(tx: Tx, model_id: int) -> Record:
    """Return what was asked for the whole model last, and whether that was planned."""
    row = tx.row("SELECT wanted, planned, cause, reason, actor, forced FROM models WHERE id = :id", id=model_id)
    assert row is not None
    return row


def to_plan(tx: Tx, model_id: int, *, everything: bool) -> Sequence[Record]:
    """Return the partitions that need a place in a run, with the item that already waits for each, if any."""
    where = "" if everything else f"AND p.wanted > p.planned AND {_RIPE}"
    return tx.rows(f"{_PLACES} {where} ORDER BY p.id", model=model_id, now=tx.now_text)


def places(tx: Tx, model_id: int, keys: Sequence[KeyText]) -> Sequence[Record]:
    """Return partitions by their keys, as `to_plan` does, whether anything is wanted of them or not."""
    named = "AND p.key IN (SELECT value FROM json_each(:keys))"
    return tx.rows(f"{_PLACES} {named} ORDER BY p.id", model=model_id, keys=dump(list(keys)))


def later(tx: Tx, model_id: int) -> Record:
    """Return how many partitions wait for the end of their quiet period, and when the last of those is."""
    row = tx.row(
        "SELECT count(*) AS number, max(not_before) AS until FROM partitions p INDEXED BY partitions_unplanned"
        f" WHERE p.model_id = :model AND p.state = 'live' AND p.wanted > p.planned AND NOT {_RIPE}",
        model=model_id,
        now=tx.now_text,
    )
    assert row is not None
    return row


def mark_planned(tx: Tx, model_id: int, partition_ids: Sequence[int], *, everything: bool) -> None:
    """Record that what is wanted now has a place in a run."""
    if everything:
        tx.run("UPDATE models SET planned = wanted WHERE id = :model", model=model_id)
        tx.run(
            "UPDATE partitions SET planned = wanted WHERE model_id = :model AND state = 'live' AND planned < wanted",
            model=model_id,
        )
        return
    tx.many("UPDATE partitions SET planned = wanted WHERE id = :id", [{"id": one} for one in partition_ids])


def consider(tx: Tx, ends: Sequence[dict[str, Any]]) -> None:
    """Record that items ended: nothing is refitted until there is news beyond what they had read."""
    tx.many(
        "UPDATE partitions SET considered = max(considered, :wanted),"
        " considered_input = coalesce(:input, considered_input), considered_at = :at, outcome = :outcome,"
        " outcome_reason = :reason WHERE id = :partition",
        [{**end, "at": tx.now_text} for end in ends],
    )


def counts(tx: Tx, model_id: int) -> dict[str, int]:
    """Return how many live partitions there are, how many serve, and how many are due and behind.

    Costs what is due and behind, not what there is.
    """
    row = tx.row(
        "SELECT m.live, m.serving, CASE WHEN m.wanted > 0 THEN (SELECT count(*) FROM partitions p"
        "  INDEXED BY partitions_considered WHERE p.model_id = m.id AND p.state = 'live' AND p.considered < m.wanted)"
        " ELSE 0 END AS all_due, (SELECT count(*) FROM partitions p INDEXED BY partitions_due WHERE p.model_id = m.id"
        "  AND p.state = 'live' AND p.wanted > p.considered AND p.considered >= m.wanted) AS own_due,"
        " (SELECT count(*) FROM partitions p INDEXED BY partitions_behind WHERE p.model_id = m.id AND p.state = 'live'"
        "  AND p.trained < m.wanted) AS all_behind, (SELECT count(*) FROM partitions p INDEXED BY partitions_late"
        "  WHERE p.model_id = m.id AND p.state = 'live' AND p.wanted > p.trained AND p.trained >= m.wanted) AS own_behind"
        " FROM models m WHERE m.id = :model",
        model=model_id,
    )
    assert row is not None
    return {
        "live": row.live,
        "due": row.all_due + row.own_due,
        "behind": row.all_behind + row.own_behind,
        "serving": row.serving,
    }


def live(tx: Tx, model_id: int) -> int:
    """Return how many partitions a model has; costs the same for any number."""
    return int(tx.value("SELECT live FROM models WHERE id = :model", model=model_id))


def leaves(tx: Tx, model_id: int) -> int:
    """Return how many of them are leaves; costs the same for any number."""
    return int(tx.value("SELECT leaves FROM models WHERE id = :model", model=model_id))


def partition(tx: Tx, model_id: int, key: KeyText = WHOLE) -> Record | None:
    """Return one partition's row."""
    return tx.row("SELECT * FROM partitions WHERE model_id = :model AND key = :key", model=model_id, key=key)
