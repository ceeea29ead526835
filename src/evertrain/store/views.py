"""What other programs may read of the store with SQL: one view, its text made for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from evertrain.specs import Cause
from evertrain.states import GOOD_ENDS, ItemState

Dialect = Literal["sqlite", "postgresql"]

# A later migration that makes one of these tables anew drops the view before, and creates it again from here.

# Skipped and cancelled items, and open ones, have executed nothing: neither a success nor a failure.
_SUCCESSFUL = GOOD_ENDS - {ItemState.SKIPPED}
_UNSUCCESSFUL = (ItemState.FAILED, ItemState.DEAD)


def retraining_events(dialect: Dialect = "sqlite") -> str:
    """Return the statement that creates the view `model_retraining_events`: one row for each item of a run.

    A model without partitions has one item in each run: there a row is a retraining.

    Improvements are of the challenger over the champion on the same hold-out, relative per cent, positive is better
    whatever the score's direction; NULL where the two were not compared, or did not get this score.
    `execution_successful` is true where a challenger was trained and judged, whatever the verdict, and NULL where
    nothing was trained: the item is open, was cancelled, or was skipped as not needed or for want of rows.
    """
    return f"""CREATE VIEW model_retraining_events AS
SELECT
  r.created_at AS triggered_at,
  {_trigger_type()} AS trigger_type,
  m.name AS model,
  {_partition(dialect)} AS partition,
  d.severity AS severity,
  d.confidence AS confidence,
  coalesce(d.reason, r.reason) AS reason,
  CASE WHEN i.state IN ({_listed(_SUCCESSFUL)}) THEN TRUE WHEN i.state IN ({_listed(_UNSUCCESSFUL)}) THEN FALSE END
    AS execution_successful,
  CASE i.state WHEN 'rejected' THEN 'refused' WHEN 'dead' THEN 'failed' WHEN 'skipped' THEN
    CASE WHEN i.reason LIKE 'Insufficient samples%' THEN 'insufficient_samples' ELSE 'not_needed' END
    ELSE i.state END AS outcome,
  i.reason AS verdict,
  {_version("old")} AS old_version,
  CASE WHEN i.state = 'promoted' THEN {_version("own")} ELSE {_version("old")} END AS new_version,
  i.started_at AS started_at,
  i.ended_at AS ended_at,
  {_seconds("i.started_at", "i.ended_at", dialect)} AS duration_s,
  i.cpu_s AS cpu_s,
  {_gain("r2", dialect, higher=True)} AS improvement_r2_percent,
  {_gain("rmse", dialect, higher=False)} AS improvement_rmse_percent,
  {_number("f.verdict", "improvement", dialect)} AS improvement_percent,
  {_text("f.verdict", "score", dialect)} AS improvement_score,
  f.rows AS rows,
  r.actor AS actor,
  r.id AS run_id,
  i.id AS item_id
FROM items i
JOIN runs r ON r.id = i.run_id
JOIN models m ON m.id = i.model_id
JOIN partitions p ON p.id = i.partition_id
LEFT JOIN fits f ON f.id = i.id
LEFT JOIN versions own ON own.id = f.version_id
LEFT JOIN fits g ON g.id = CASE WHEN f.id IS NOT NULL THEN {_number("f.verdict", "against", dialect)} ELSE (
  SELECT a.fit_id FROM activations a WHERE a.partition_id = i.partition_id
  AND (a.until_at IS NULL OR a.until_at > i.ended_at) AND (i.ended_at IS NULL OR a.from_at <= i.ended_at)
  ORDER BY a.id DESC LIMIT 1) END
LEFT JOIN versions old ON old.id = g.version_id
LEFT JOIN decisions d ON d.id = (
  SELECT e.id FROM decisions e WHERE e.model_id = i.model_id AND e.cause = i.cause
  AND e.wanted <= coalesce(i.wanted, CASE WHEN p.wanted > m.wanted THEN p.wanted ELSE m.wanted END)
  ORDER BY e.wanted DESC LIMIT 1)"""


def _trigger_type() -> str:
    """Return the cause of an item in the words of `Cause.trigger_type`."""
    other = [f"WHEN '{one}' THEN '{one.trigger_type}'" for one in Cause if one.trigger_type != one]
    return f"CASE i.cause {' '.join(other)} ELSE i.cause END"


def _listed(states: Iterable[ItemState]) -> str:
    return ", ".join(f"'{one}'" for one in sorted(states))


def _version(name: str) -> str:
    return f"{name}.major || '.' || {name}.minor || '.' || {name}.patch"


def _text(column: str, path: str, dialect: Dialect) -> str:
    """Return a value inside JSON; `path` is divided by points."""
    if dialect == "sqlite":
        return f"json_extract({column}, '$.{path}')"
    return f"({column}::json #>> '{{{path.replace('.', ',')}}}')"


def _number(column: str, path: str, dialect: Dialect) -> str:
    found = _text(column, path, dialect)
    return found if dialect == "sqlite" else f"{found}::double precision"


def _seconds(begin: str, end: str, dialect: Dialect) -> str:
    if dialect == "sqlite":
        return f"round((julianday({end}) - julianday({begin})) * 86400, 3)"
    return f"round(extract(epoch FROM {end}::timestamptz - {begin}::timestamptz)::numeric, 3)"


def _gain(score: str, dialect: Dialect, *, higher: bool) -> str:
    """Return by how much a score became better; as `scores.improvement`, which no database can call."""
    old, new = (_number("f.scores", f"{one}.{score}", dialect) for one in ("champion", "challenger"))
    points = f"{new} - {old}" if higher else f"{old} - {new}"
    return f"CASE WHEN abs({old}) >= 1e-9 THEN 100.0 * ({points}) / abs({old}) WHEN {new} = {old} THEN 0.0 END"


def _partition(dialect: Dialect) -> str:
    """Return a partition's name as people read it, as `partitions.label`; NULL where a model has no partitions."""
    if dialect == "sqlite":
        value = (
            "CASE v.type WHEN 'null' THEN 'no value' WHEN 'true' THEN 'True' WHEN 'false' THEN 'False' ELSE v.value END"
        )
        values = f"(SELECT group_concat({value}, ', ') FROM json_each(p.key) v)"
    else:
        value = (
            "CASE json_typeof(v.value) WHEN 'null' THEN 'no value' WHEN 'boolean' THEN initcap(v.value #>> '{}')"
            " ELSE v.value #>> '{}' END"
        )
        values = f"(SELECT string_agg({value}, ', ') FROM json_each(p.key::json) v)"
    overall = f"coalesce({_text('m.spec', 'overall', dialect)}, 'Overall')"
    return (
        f"CASE WHEN p.leaf = 0 AND p.key = '{{}}' THEN {overall} WHEN p.leaf = 0 THEN {values} || ', ' || {overall}"
        f" WHEN p.key <> '{{}}' THEN {values} END"
    )
