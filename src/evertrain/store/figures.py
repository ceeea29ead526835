"""Figures about retraining: what each run came to, summed by the database, so that a report reads rows of runs alone.

A run's figures are written when it ends and never change. Rows of runs and items are never removed, so sums over them
only grow, whatever retention does to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evertrain.clock import from_text, to_text
from evertrain.events import Kind
from evertrain.states import ItemState
from evertrain.store.connect import Record, Tx, dump

_GOOD = f"('{ItemState.PROMOTED}', '{ItemState.REJECTED}', '{ItemState.SHADOWED}', '{ItemState.SUPERSEDED}')"
_BAD = f"('{ItemState.FAILED}', '{ItemState.DEAD}')"
# An adopted file, and what another request replaced before it was judged, took no seconds: nothing was trained there.
_TRAINED = f"i.state IN {_BAD} OR (i.state IN {_GOOD} AND i.seconds IS NOT NULL)"
_COUNTED = (
    "(trained, failed, cpu_s, peak_mb) ="
    f" (SELECT coalesce(sum({_TRAINED}), 0), coalesce(sum(i.state IN {_BAD}), 0), sum(i.cpu_s), max(i.peak_mb)"
    "  FROM items i WHERE i.run_id = runs.id),"
    f" error_class = (SELECT i.error_class FROM items i WHERE i.run_id = runs.id AND i.state IN {_BAD} ORDER BY i.id LIMIT 1),"
    # The fit of the widest rollup speaks for a run, as it does in the history.
    " (verdict, score, improvement, points) = (SELECT s.state, json_extract(f.verdict, '$.score'),"
    "  json_extract(f.verdict, '$.improvement'), json_extract(f.verdict, '$.improvement_points')"
    "  FROM fits f JOIN items s ON s.id = f.id WHERE f.id = (SELECT o.id FROM items i JOIN fits o ON o.id = i.id"
    "  JOIN partitions p ON p.id = o.partition_id WHERE i.run_id = runs.id AND i.seconds IS NOT NULL"
    "  ORDER BY p.leaf, length(p.key), o.id LIMIT 1))"
)
_SECONDS = "max(0, (julianday(r.ended_at) - julianday(r.started_at)) * 86400)"
# Of a trained run there are always both moments; ended ones are found by their index.
_WINDOW = "r.ended_at >= :since AND r.trained > 0"

TRAININGS = (
    "SELECT m.name AS model, r.cause, r.kind, r.verdict, r.score, count(*) AS runs, sum(r.failed > 0) AS failed,"
    f" json_group_array(round({_SECONDS}, 3)) AS seconds, json_group_array(coalesce(r.cpu_s, 0)) AS cpus,"
    " max(r.peak_mb) AS peak, json_group_array(r.improvement) FILTER (WHERE r.improvement IS NOT NULL) AS percents,"
    " json_group_array(r.points) FILTER (WHERE r.points IS NOT NULL) AS points"
    f" FROM runs r JOIN models m ON m.id = r.model_id WHERE {_WINDOW} GROUP BY r.model_id, r.cause, r.kind, r.verdict,"
    " r.score"
)
ENDS = (
    "SELECT m.name AS model, i.state, count(*) AS number FROM runs r INDEXED BY runs_ended CROSS JOIN items i INDEXED BY items_run"
    " ON i.run_id = r.id JOIN models m ON m.id = r.model_id"
    " WHERE r.ended_at >= :since AND i.state NOT IN ('waiting', 'running') GROUP BY r.model_id, i.state"
)


def add_columns(tx: Tx) -> None:
    """Make room in the table of runs, and fill in those that have ended."""
    for column in (
        "trained INTEGER", "failed INTEGER", "cpu_s REAL", "peak_mb REAL", "error_class TEXT", "verdict TEXT",
        "score TEXT", "improvement REAL", "points REAL",
    ):  # fmt: skip
        tx.run(f"ALTER TABLE runs ADD COLUMN {column}")
    tx.run("CREATE INDEX runs_ended ON runs(ended_at) WHERE ended_at IS NOT NULL")
    # Told by the log alone until now, which retention shortens.
    tx.run(
        "INSERT INTO counters SELECT 'forecast_fallbacks', coalesce(sum(json_extract(data, '$.count')), 0) FROM events"
        " WHERE kind = :kind",
        kind=Kind.FORECAST_FALLBACK,
    )
    tx.run(f"UPDATE runs SET {_COUNTED} WHERE ended_at IS NOT NULL")


def count(tx: Tx, run_id: int) -> None:
    """Write what a run came to, in the transaction that ends it."""
    tx.run(f"UPDATE runs SET {_COUNTED} WHERE id = :id", id=run_id)


def stood_in(tx: Tx, series: int) -> None:
    """Count series for which the naive forecast stood in."""
    tx.run("UPDATE counters SET value = value + :number WHERE name = 'forecast_fallbacks'", number=series)


# --- over a span of time ----------------------------------------------------------------------------------------


def trainings(tx: Tx, since: datetime) -> Sequence[Record]:
    """Return the trained runs that ended since a moment, grouped, each group with lists of its runs' numbers as JSON.

    One row for each model, cause, kind, verdict and score: `runs` of them, `failed` of those, `seconds` from first
    start to end, `cpus` in seconds, `peak` in MB; and of those that were compared `percents` and `points`.
    """
    return tx.rows(TRAININGS, since=to_text(since))


def ends(tx: Tx, since: datetime) -> Sequence[Record]:
    """Return how many items ended in which state, by model, in runs that ended since a moment."""
    return tx.rows(ENDS, since=to_text(since))


def first_moment(tx: Tx) -> datetime | None:
    """Return when anything was declared first; None before."""
    found = tx.value("SELECT applied_at FROM snapshots ORDER BY id LIMIT 1")
    return from_text(found) if found else None


def notable(
    tx: Tx, since: datetime, *, below: float, above: float, limit: int, models: Sequence[str] | None = None
) -> Sequence[Record]:
    """Return promoted runs whose improvement in per cent is below one number or above another, worst first."""
    where, named = ("", {}) if models is None else (" AND m.name IN :models", {"models": list(models)})
    return tx.rows(
        "SELECT r.id, m.name AS model, r.cause, r.score, r.improvement, r.points, r.ended_at, v.major, v.minor, v.patch"
        " FROM runs r JOIN models m ON m.id = r.model_id LEFT JOIN versions v ON v.run_id = r.id"
        f" WHERE {_WINDOW} AND r.verdict = 'promoted' AND (r.improvement < :below OR r.improvement > :above)"
        f"{where} ORDER BY r.improvement, r.id DESC LIMIT :limit",
        since=to_text(since),
        below=below,
        above=above,
        limit=limit,
        **named,
    )


def way_back(tx: Tx, run_id: int) -> bool:
    """Return whether the fit that speaks for a run serves still and has an earlier one, whose bytes are there."""
    return bool(
        tx.value(
            "SELECT 1 FROM versions v JOIN fits f ON f.version_id = v.id JOIN partitions p ON p.champion_id = f.id"
            " JOIN activations a ON a.partition_id = p.id AND a.fit_id < f.id JOIN fits e ON e.id = a.fit_id"
            " JOIN artifacts s ON s.digest = e.artifact WHERE v.run_id = :run AND p.state = 'live' AND e.condemned = 0"
            " AND s.state <> 'removed' LIMIT 1",
            run=run_id,
        )
    )


def fallbacks(tx: Tx, since: datetime) -> Sequence[Record]:
    """Return by kind and model how often a full run or a naive forecast stood in since a moment, as far as the log goes."""
    return tx.rows(
        "SELECT kind, model, sum(coalesce(json_extract(data, '$.count'), 1)) AS number FROM events"
        " WHERE kind IN :kinds AND at >= :since GROUP BY kind, model",
        kinds=[Kind.RUN_FALLBACK, Kind.FORECAST_FALLBACK],
        since=to_text(since),
    )


# --- since the beginning: what counters tell ----------------------------------------------------------------------


def asked_total(tx: Tx, ids: Sequence[int] | None = None) -> Sequence[Record]:
    """Return how many runs were planned, by model and cause: of all, or of these runs."""
    return tx.rows(
        "SELECT m.name AS model, r.cause, count(*) AS number FROM runs r JOIN models m ON m.id = r.model_id"
        f" WHERE TRUE{_these('r.id', ids)} GROUP BY r.model_id, r.cause",
        **_params(ids),
    )


def ended_total(tx: Tx, bounds: Sequence[float], ids: Sequence[int] | None = None) -> Sequence[Record]:
    """Return trained runs by model, whether some of it failed, error class and place in `bounds`, with their seconds."""
    cases = " ".join(f"WHEN {_SECONDS} <= {bound!r} THEN {place}" for place, bound in enumerate(bounds))
    return tx.rows(
        f"SELECT m.name AS model, r.failed > 0 AS failed, r.error_class, CASE {cases} ELSE {len(bounds)} END AS place,"
        f" count(*) AS number, sum({_SECONDS}) AS seconds FROM runs r JOIN models m ON m.id = r.model_id"
        f" WHERE r.trained > 0{_these('r.id', ids)} GROUP BY r.model_id, 2, 3, 4",
        **_params(ids),
    )


def items_total(tx: Tx, ids: Sequence[int] | None = None) -> Sequence[Record]:
    """Return how many items ended in which state, by model: of all, or of these items."""
    return tx.rows(
        "SELECT m.name AS model, i.state, count(*) AS number FROM items i JOIN models m ON m.id = i.model_id"
        f" WHERE i.state NOT IN ('waiting', 'running'){_these('i.id', ids)} GROUP BY i.model_id, i.state",
        **_params(ids),
    )


def decisions_total(tx: Tx, ids: Sequence[int] | None = None) -> Sequence[Record]:
    """Return how many decisions fired, by model, cause and what followed: of all, or of these decisions."""
    return tx.rows(
        "SELECT m.name AS model, d.cause, d.action, count(*) AS number FROM decisions d JOIN models m ON m.id = d.model_id"
        f" WHERE d.fired = 1{_these('d.id', ids)} GROUP BY d.model_id, d.cause, d.action",
        **_params(ids),
    )


# --- what changed, and where things stand -------------------------------------------------------------------------

_NO_CHANGE = [
    Kind.ITEM_PROGRESS, Kind.REQUEST_MADE, Kind.SESSION_BEGUN, Kind.SESSION_REFUSED, Kind.TOKEN_CREATED,
    Kind.TOKEN_REVOKED, Kind.FORECAST_TEMPORARY, Kind.NOTIFY_FAILED, Kind.ITEMS_CLAIMED, Kind.RUN_STARTED,
]  # fmt: skip


def oldest_event(tx: Tx) -> int:
    """Return the number of the oldest event that the log still has, 0 in an empty log."""
    return int(tx.value("SELECT coalesce(min(id), 0) FROM events"))


def touched(tx: Tx, after: int) -> set[str | None]:
    """Return the models that events behind one may have changed the partitions of; None among them stands for all."""
    return {
        row[0]
        for row in tx.rows(
            "SELECT DISTINCT coalesce(e.model, m.name) FROM events e LEFT JOIN runs r ON r.id = e.run_id"
            " LEFT JOIN models m ON m.id = r.model_id WHERE e.id > :after AND e.kind NOT IN :quiet",
            after=after,
            quiet=_NO_CHANGE,
        )
    }


def oldest_champions(tx: Tx) -> dict[str, str]:
    """Return when the oldest champion of each declared model was trained; one look at an index for each."""
    return {
        row.name: row.at
        for row in tx.rows(
            "SELECT m.name, (SELECT p.trained_at FROM partitions p WHERE p.model_id = m.id AND p.champion_id IS NOT NULL"
            " AND p.state = 'live' ORDER BY p.trained_at LIMIT 1) AS at FROM models m WHERE m.retired_at IS NULL"
        )
        if row.at
    }


def oldest_waiting(tx: Tx) -> Record | None:
    """Return run, model and moment of the request that has waited longest for a worker; None when nothing waits."""
    return tx.row(
        "SELECT r.id, r.state, m.name AS model, r.created_at AS at FROM runs r INDEXED BY runs_open JOIN models m ON m.id = r.model_id"
        " WHERE r.state IN ('queued', 'running')"
        " AND EXISTS (SELECT 1 FROM items i WHERE i.run_id = r.id AND i.state = 'waiting') ORDER BY r.id LIMIT 1"
    )


def paused(tx: Tx) -> int:
    """Return how many declared models are not trained until resumed."""
    return int(
        tx.value(
            "SELECT count(*) FROM models WHERE retired_at IS NULL"
            " AND (paused OR EXISTS (SELECT 1 FROM settings WHERE name = 'paused'))"
        )
    )


def last_tick(tx: Tx, role: str) -> str | None:
    """Return when any process that had this role signed last, be it gone or not."""
    found: str | None = tx.value("SELECT ticked_at FROM roles WHERE role = :role", role=role)
    return found


def _these(column: str, ids: Sequence[int] | None) -> str:
    return "" if ids is None else f" AND {column} IN (SELECT value FROM json_each(:ids))"


def _params(ids: Sequence[int] | None) -> dict[str, str]:
    return {} if ids is None else {"ids": dump(list(ids))}
