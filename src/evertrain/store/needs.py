"""What a person has to look at, found by what is wrong: counts and first examples, never a walk over all partitions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evertrain.clock import to_text
from evertrain.events import Kind
from evertrain.store import leases
from evertrain.store.connect import Record, Tx

# Each holds only the rows of which something is wrong: where all is well a look costs nothing.
_INDEXES = (
    "CREATE INDEX items_again ON items(model_id) WHERE state = 'waiting' AND error_class IS NOT NULL",
    "CREATE INDEX partitions_broken ON partitions(model_id) WHERE state = 'live' AND outcome IN ('failed', 'dead')",
    "CREATE INDEX partitions_pinned ON partitions(model_id) WHERE state = 'live' AND pinned = 1",
    "CREATE INDEX fits_condemned ON fits(partition_id) WHERE condemned = 1",
    "CREATE INDEX batches_aside ON batches(dataset_id, id) WHERE set_aside > 0",
)


def add_indexes(tx: Tx) -> None:
    for statement in _INDEXES:
        tx.run(statement)


def pause(tx: Tx) -> Record | None:
    """Return since when, and by whom, the whole project is paused."""
    return tx.row("SELECT set_at AS at, actor FROM settings WHERE name = 'paused'")


def paused_models(tx: Tx) -> Sequence[Record]:
    """Return paused models, and as far as the log goes since when and by whom."""
    return tx.rows(
        "SELECT m.name AS model, e.at, e.actor FROM models m LEFT JOIN events e ON e.id ="
        " (SELECT max(o.id) FROM events o WHERE o.kind = :kind AND o.model = m.name)"
        " WHERE m.paused AND m.retired_at IS NULL ORDER BY m.name",
        kind=Kind.MODEL_PAUSED,
    )


def failed_sources(tx: Tx) -> Sequence[Record]:
    """Return the sources that cannot be used, with why."""
    return tx.rows("SELECT name, problem, checked_at FROM sources WHERE problem IS NOT NULL ORDER BY name")


def waiting_again(tx: Tx) -> Sequence[Record]:
    """Return by model how many items wait for their next try, when the first of those is, and an example."""
    return tx.rows(
        "SELECT m.name AS model, count(*) AS number, min(i.available_at) AS next_at, max(i.attempt) AS attempt,"
        " min(i.id) AS item, i.run_id, i.reason, i.error_class FROM items i INDEXED BY items_again"
        " JOIN models m ON m.id = i.model_id WHERE i.state = 'waiting' AND i.error_class IS NOT NULL GROUP BY i.model_id"
    )


def set_aside(tx: Tx, since: datetime) -> Sequence[Record]:
    """Return the newest batch with rows that were set aside, of each dataset and origin, unless a later one was clean."""
    return tx.rows(
        "SELECT d.name AS dataset, b.id, b.source, b.actor, b.at, b.set_aside AS number, b.report, max(b.id) AS newest"
        " FROM batches b INDEXED BY batches_aside JOIN datasets d ON d.id = b.dataset_id"
        " WHERE b.set_aside > 0 AND b.at >= :since AND NOT EXISTS (SELECT 1 FROM batches c WHERE c.dataset_id = b.dataset_id"
        "  AND c.id > b.id AND (c.undoes = b.id OR (c.kind = 'ingest' AND c.source = b.source)))"
        " GROUP BY b.dataset_id, b.source ORDER BY newest DESC LIMIT 20",
        since=to_text(since),
    )


def broken(tx: Tx) -> Sequence[Record]:
    """Return by model how many partitions ended as failed or dead with nothing newer asked for, and the latest of them."""
    return tx.rows(
        "SELECT m.name AS model, count(*) AS number, sum(p.outcome = 'dead') AS dead, count(p.champion_id) AS serving,"
        " min(p.considered_at) AS at, max(p.id) AS partition, p.key, p.outcome_reason AS reason,"
        " (SELECT max(i.run_id) FROM items i WHERE i.partition_id = p.id AND i.state IN ('failed', 'dead')) AS run_id"
        " FROM partitions p INDEXED BY partitions_broken JOIN models m ON m.id = p.model_id"
        " WHERE p.state = 'live' AND p.outcome IN ('failed', 'dead') AND m.retired_at IS NULL"
        " AND p.considered >= max(p.wanted, m.wanted) GROUP BY p.model_id ORDER BY m.name"
    )


def orphans(tx: Tx) -> int:
    """Return how many items run in the name of a process that is gone."""
    lost = [owner for owner, _ in leases.lost(tx)]
    return (
        int(tx.value("SELECT count(*) FROM items WHERE state = 'running' AND owner IN :lost", lost=lost)) if lost else 0
    )


def verdicts(tx: Tx, model_id: int, limit: int) -> Sequence[Record]:
    """Return how the newest retrainings of a model ended, newest first."""
    return tx.rows(
        "SELECT id, verdict, failed, ended_at FROM runs WHERE model_id = :model AND trained > 0 ORDER BY id DESC LIMIT :limit",
        model=model_id,
        limit=limit,
    )


def damaged(tx: Tx) -> Sequence[Record]:
    """Return by model the partitions that were not trained since the bytes of their fit were found damaged."""
    return tx.rows(
        "SELECT m.name AS model, count(DISTINCT p.id) AS number, sum(p.champion_id IS NULL OR p.champion_id = f.id) AS silent,"
        " max(f.id) AS fit, p.key FROM fits f INDEXED BY fits_condemned CROSS JOIN partitions p ON p.id = f.partition_id"
        " CROSS JOIN models m ON m.id = p.model_id WHERE f.condemned = 1 AND p.state = 'live' AND m.retired_at IS NULL"
        " AND coalesce(p.champion_id, 0) <= f.id GROUP BY m.id ORDER BY m.name"
    )


def pinned(tx: Tx) -> Sequence[Record]:
    """Return by model how many pinned champions hold back a newer model, and since when."""
    return tx.rows(
        "SELECT m.name AS model, count(*) AS number, min(p.considered_at) AS at FROM partitions p INDEXED BY partitions_pinned"
        " JOIN models m ON m.id = p.model_id WHERE p.state = 'live' AND p.pinned = 1 AND m.retired_at IS NULL"
        " AND p.outcome = 'rejected' AND p.outcome_reason LIKE 'would have been promoted%' GROUP BY m.id ORDER BY m.name"
    )


def undelivered(tx: Tx, since: datetime) -> Sequence[Record]:
    """Return the channels that cannot be told now, or that missed a message since a moment, with the newest problem."""
    return tx.rows(
        "SELECT json_extract(e.data, '$.channel') AS channel, json_extract(e.data, '$.problem') AS problem, max(e.id) AS id,"
        " e.at, max(json_extract(e.data, '$.tries')) AS tries, coalesce(c.failures, 0) AS failures, c.next_at FROM events e"
        " LEFT JOIN cursors c ON c.reader = json_extract(e.data, '$.channel') WHERE e.kind = :kind AND e.at >= :since"
        " GROUP BY 1 HAVING failures > 0 OR tries > 1 ORDER BY 1",
        kind=Kind.NOTIFY_FAILED,
        since=to_text(since),
    )


def unacted(tx: Tx) -> Sequence[Record]:
    """Return the last answers of drift and score checks that fired, and that nothing was trained for since."""
    return tx.rows(
        "SELECT m.name AS model, d.rule, d.action, d.severity, d.reason, d.last_at AS at FROM decisions d"
        " JOIN models m ON m.id = d.model_id WHERE d.latest = 1 AND d.fired = 1 AND d.action IN ('observe', 'report')"
        " AND d.rule IN ('drift', 'score_drop') AND m.retired_at IS NULL AND NOT EXISTS (SELECT 1 FROM runs r"
        "  WHERE r.model_id = m.id AND r.created_at > d.last_at) ORDER BY m.name, d.rule"
    )


def unserved(tx: Tx) -> set[int]:
    """Return the declared models of which nothing serves; one look at an index for each."""
    return {
        row[0]
        for row in tx.rows(
            "SELECT m.id FROM models m WHERE m.retired_at IS NULL AND NOT EXISTS (SELECT 1 FROM partitions p"
            " WHERE p.model_id = m.id AND p.champion_id IS NOT NULL AND p.state = 'live')"
        )
    }


def something_waits(tx: Tx) -> bool:
    """Return whether an item could be taken by a worker now."""
    return bool(
        tx.value("SELECT 1 FROM items WHERE state = 'waiting' AND available_at <= :now LIMIT 1", now=tx.now_text)
    )
