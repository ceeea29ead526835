"""Which fit serves each partition, how old it is, and how its last training ended: looks at champions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from evertrain.clock import from_text, to_text
from evertrain.partitions import KeyText
from evertrain.store.connect import Record, Tx, dump

_SERVING = "model_id = :model AND champion_id IS NOT NULL AND state = 'live'"


def facts(tx: Tx, partition_ids: Sequence[int]) -> dict[int, Record]:
    """Return the rows of partitions by number."""
    return {row.id: row for row in tx.rows("SELECT * FROM partitions WHERE id IN :ids", ids=list(partition_ids))}


def widest(tx: Tx, model_id: int) -> Record | None:
    """Return the partition that speaks for a model: its widest rollup, or its only partition."""
    return tx.row(
        "SELECT * FROM partitions WHERE model_id = :model AND state = 'live' ORDER BY leaf, length(key), id LIMIT 1",
        model=model_id,
    )


def oldest(tx: Tx, model_id: int) -> Record | None:
    """Return the partition whose champion is the oldest."""
    return tx.row(f"SELECT * FROM partitions WHERE {_SERVING} ORDER BY trained_at LIMIT 1", model=model_id)


def oldest_at(tx: Tx, model_id: int) -> datetime | None:
    """Return when the oldest champion was trained."""
    row = oldest(tx, model_id)
    return None if row is None else from_text(row.trained_at)


def number(tx: Tx, model_id: int) -> int:
    """Return how many partitions have a champion."""
    return int(tx.value(f"SELECT count(*) FROM partitions WHERE {_SERVING}", model=model_id))


def trained_before(tx: Tx, model_id: int, moment: datetime) -> Sequence[Record]:
    """Return the partitions whose champion is older, each with whether it is due and how its last training ended."""
    return tx.rows(
        "SELECT p.key, p.outcome, p.considered_input, p.seen, max(p.wanted, m.wanted) > p.considered AS due"
        " FROM partitions p JOIN models m ON m.id = p.model_id WHERE p.model_id = :model AND p.champion_id IS NOT NULL"
        " AND p.state = 'live' AND p.trained_at <= :moment",
        model=model_id,
        moment=to_text(moment),
    )


def outlived(tx: Tx, model_id: int, since: datetime) -> list[KeyText]:
    """Return the series whose newest rows lay in a period that had not ended then, and has by `since`.

    Those whose fit left rows out for that reason, or that had no other rows and were skipped; not those that were
    tried since, and refused.
    """
    rows = tx.rows(
        "SELECT p.key FROM partitions p JOIN models m ON m.id = p.model_id LEFT JOIN fits f ON f.id = p.champion_id"
        " WHERE p.model_id = :model AND p.state = 'live' AND max(p.wanted, m.wanted) <= p.considered AND CASE"
        " WHEN f.id IS NULL THEN p.outcome = 'skipped' AND p.considered_at < :since"
        " ELSE f.trained_at < :since AND json_extract(f.signature, '$.series.left_out') > 0"
        " AND (p.considered_at < :since OR p.outcome NOT IN ('rejected', 'failed', 'dead')) END ORDER BY p.id",
        model=model_id,
        since=to_text(since),
    )
    return [KeyText(row.key) for row in rows]


def with_news(tx: Tx, model_id: int, limit: int, *, even_if_due: bool = False) -> Sequence[Record]:
    """Return partitions that hold other rows than their champion was trained on and are not due already."""
    return tx.rows(
        "SELECT p.* FROM partitions p JOIN models m ON m.id = p.model_id WHERE p.model_id = :model"
        " AND p.state = 'live' AND p.champion_id IS NOT NULL AND p.seen IS NOT p.champion_input"
        " AND (:even_if_due OR max(p.wanted, m.wanted) <= p.considered) ORDER BY p.id LIMIT :limit",
        model=model_id,
        limit=limit,
        even_if_due=int(even_if_due),
    )


def serving(tx: Tx, model_id: int, keys: Sequence[KeyText], *, even_if_due: bool = False) -> Sequence[Record]:
    """Return those of some partitions that have a champion and are not due already."""
    return tx.rows(
        "SELECT p.* FROM partitions p JOIN models m ON m.id = p.model_id WHERE p.model_id = :model"
        " AND p.key IN (SELECT value FROM json_each(:keys)) AND p.state = 'live' AND p.champion_id IS NOT NULL"
        " AND (:even_if_due OR max(p.wanted, m.wanted) <= p.considered) ORDER BY p.id",
        model=model_id,
        keys=dump(list(keys)),
        even_if_due=int(even_if_due),
    )


def same(tx: Tx, known: Mapping[int, int]) -> set[int]:
    """Return which partitions still have the champion that is named for each."""
    rows = tx.rows(
        "SELECT id, champion_id FROM partitions WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'live'",
        ids=dump(list(known)),
    )
    return {row.id for row in rows if row.champion_id == known[row.id]}


def deciding_score(tx: Tx, model_id: int) -> str | None:
    """Return the score by which a champion of this model was judged."""
    verdict = tx.value(
        f"SELECT verdict FROM fits WHERE id = (SELECT max(champion_id) FROM partitions WHERE {_SERVING})",
        model=model_id,
    )
    found: str | None = json.loads(verdict).get("score") if verdict else None
    return found


def unserved_ends(tx: Tx, model_id: int) -> set[str]:
    """Return how trainings ended of partitions whose champion does not know what was considered."""
    return {
        str(row[0])
        for row in tx.rows(
            "SELECT DISTINCT outcome FROM partitions WHERE model_id = :model AND state = 'live' AND considered > trained",
            model=model_id,
        )
    }


def moved(tx: Tx, model_id: int, after: int) -> list[KeyText]:
    """Return the partitions whose champion changed after an epoch."""
    return [
        KeyText(row[0])
        for row in tx.rows(
            "SELECT key FROM partitions WHERE model_id = :model AND epoch > :epoch", model=model_id, epoch=after
        )
    ]


def some_keys(tx: Tx, model_id: int, limit: int = 5) -> list[str]:
    """Return a few partitions as examples for a message."""
    return [
        row[0]
        for row in tx.rows(
            "SELECT key FROM partitions WHERE model_id = :model AND state = 'live' ORDER BY leaf DESC, id LIMIT :limit",
            model=model_id,
            limit=limit,
        )
    ]


def known_keys(tx: Tx, model_id: int, keys: Sequence[KeyText]) -> set[str]:
    """Return which of the keys are live partitions."""
    return {
        row[0]
        for row in tx.rows(
            "SELECT key FROM partitions WHERE model_id = :model AND state = 'live'"
            " AND key IN (SELECT value FROM json_each(:keys))",
            model=model_id,
            keys=dump(list(keys)),
        )
    }


# How many keys one page of a search looks at: they cost some 70 ms where none of them fits.
_SEARCHED = 120_000
_FILTERS = {
    "rollup": "p.leaf <> :rollup",
    "due": "(max(p.wanted, m.wanted) > p.considered) = :due",
    "behind": "(max(p.wanted, m.wanted) > p.trained) = :behind",
    "serving": "(p.champion_id IS NOT NULL) = :serving",
    "pinned": "p.pinned = :pinned",
    "outcome": "p.outcome = :outcome",
}


def page(
    tx: Tx, model_id: int, dimensions: Sequence[str], *, words: Sequence[str] = (), after: str = "", limit: int,
    filters: Mapping[str, Any] | None = None,
) -> tuple[Sequence[Record], str | None]:  # fmt: skip
    """Return live partitions behind a key, by key, with their champions' versions; and the key to go on behind.

    A page looks at a bounded number of keys, so it may hold fewer than `limit`, even none, and not be the last.

    Args:
        dimensions: of the model; their names are no part of what is searched.
        words: each of them must be in some value of a key; ASCII letters fit in either case.
        filters: by the names in `_FILTERS`, with their values.
    """
    names = [dump(name) + ":" for name in dimensions]
    values = "k.text"
    params: dict[str, Any] = {f"d{n}": name for n, name in enumerate(names)}
    for n in range(len(names)):
        values = f"replace({values}, lower(:d{n}), '')"
    # Taking out the names of dimensions costs as much as the rest, and few words could be found in one: those come last.
    told = sorted(
        (any(one.lower() in name.lower() for name in names), one) for one in (dump(word)[1:-1] for word in words)
    )
    where = [f"instr({values if named else 'k.text'}, lower(:w{n}))" for n, (named, _) in enumerate(told)]
    params = (params if any(named for named, _ in told) else {}) | {f"w{n}": one for n, (_, one) in enumerate(told)}
    for name, value in (filters or {}).items():
        where.append(_FILTERS[name])
        params[name] = int(value) if isinstance(value, bool) else value
    rows = tx.rows(
        "SELECT p.*, m.wanted AS all_wanted, max(p.wanted, m.wanted) > p.considered AS due,"
        " max(p.wanted, m.wanted) > p.trained AS behind, v.major, v.minor, v.patch"
        f" FROM (SELECT id, {'lower(key)' if words else 'NULL'} AS text FROM partitions"
        "  WHERE model_id = :model AND key > :after ORDER BY key LIMIT :searched) k"
        " CROSS JOIN partitions p ON p.id = k.id CROSS JOIN models m ON m.id = p.model_id"
        " LEFT JOIN fits f ON f.id = p.champion_id LEFT JOIN versions v ON v.id = f.version_id"
        f" WHERE {''.join(f'{one} AND ' for one in where)}p.state = 'live' LIMIT :limit",
        model=model_id,
        after=after,
        searched=_SEARCHED,
        limit=limit + 1,
        **params,
    )
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1].key
    end = tx.value(
        "SELECT key FROM partitions WHERE model_id = :model AND key > :after ORDER BY key LIMIT 1 OFFSET :last",
        model=model_id,
        after=after,
        last=_SEARCHED - 1,
    )
    return rows, end


def version_text(row: Any) -> str | None:
    """Return "1.2.0" for a row with the columns of a version, None where it has none."""
    return None if row is None or row.major is None else f"{row.major}.{row.minor}.{row.patch}"
