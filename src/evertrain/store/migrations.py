"""The schema and how it grows: ordered functions, applied under one exclusive transaction.

The schema keeps the promises: at most one waiting and one running item per partition, no state after a final one,
no running item without owner and fence, at most one open activation per partition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from evertrain.errors import StoreBusy, StoreError
from evertrain.events import Kind
from evertrain.states import ITEM_TRANSITIONS, RUN_TRANSITIONS
from evertrain.store import figures, needs, views

if TYPE_CHECKING:
    from evertrain.store.connect import Store, Tx

_FIRST = """
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('commit', 0), ('fence', 0), ('epoch', 0);
CREATE TABLE settings(name TEXT PRIMARY KEY, value TEXT NOT NULL, set_at TEXT NOT NULL, actor TEXT NOT NULL);

CREATE TABLE workers(
  owner TEXT PRIMARY KEY, boot TEXT NOT NULL, lease_until REAL NOT NULL, process TEXT NOT NULL,
  started_at TEXT NOT NULL, ended_at TEXT);
CREATE INDEX workers_alive ON workers(lease_until) WHERE ended_at IS NULL;
CREATE TABLE roles(role TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES workers(owner), since_at TEXT NOT NULL,
  ticked_at TEXT, stop_requested INTEGER NOT NULL DEFAULT 0);

CREATE TABLE snapshots(
  id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, body TEXT NOT NULL, file_digest TEXT NOT NULL,
  applied_at TEXT NOT NULL);
CREATE TABLE overrides(model TEXT NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL, set_at TEXT NOT NULL,
  actor TEXT NOT NULL, PRIMARY KEY(model, field)) WITHOUT ROWID;

CREATE TABLE sources(
  name TEXT PRIMARY KEY, stat TEXT, read_stat TEXT, changed_first_at TEXT, changed_last_at TEXT, checked_at TEXT,
  read_at TEXT, rows INTEGER, columns TEXT, problem TEXT);

CREATE TABLE models(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, generation TEXT NOT NULL,
  major INTEGER NOT NULL DEFAULT 1,
  wanted INTEGER NOT NULL DEFAULT 0, planned INTEGER NOT NULL DEFAULT 0, cause TEXT, reason TEXT, actor TEXT,
  forced INTEGER NOT NULL DEFAULT 0, training TEXT NOT NULL,
  paused INTEGER NOT NULL DEFAULT 0, declared_at TEXT NOT NULL, retired_at TEXT,
  checked_at TEXT, seconds_each REAL, extract TEXT);

CREATE TABLE partitions(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id), key TEXT NOT NULL,
  leaf INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'live' CHECK(state IN ('live', 'retired')),
  rows INTEGER, seen TEXT, asked TEXT,
  wanted INTEGER NOT NULL DEFAULT 0, planned INTEGER NOT NULL DEFAULT 0,
  cause TEXT, reason TEXT, actor TEXT, forced INTEGER NOT NULL DEFAULT 0,
  considered INTEGER NOT NULL DEFAULT 0, considered_input TEXT, considered_at TEXT, outcome TEXT, outcome_reason TEXT,
  trained INTEGER NOT NULL DEFAULT 0, trained_at TEXT, champion_id INTEGER, champion_input TEXT,
  epoch INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0,
  UNIQUE(model_id, key));
CREATE INDEX partitions_unplanned ON partitions(model_id) WHERE wanted > planned AND state = 'live';
CREATE INDEX partitions_due ON partitions(model_id) WHERE wanted > considered AND state = 'live';
CREATE INDEX partitions_behind ON partitions(model_id, trained) WHERE state = 'live';
CREATE INDEX partitions_age ON partitions(model_id, trained_at) WHERE champion_id IS NOT NULL AND state = 'live';
CREATE INDEX partitions_epoch ON partitions(epoch);

CREATE TABLE runs(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id), state TEXT NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('selective', 'full')), cause TEXT NOT NULL, reason TEXT NOT NULL,
  actor TEXT NOT NULL,
  items INTEGER NOT NULL, joined INTEGER NOT NULL DEFAULT 0,
  partitions INTEGER NOT NULL, estimate_s REAL,
  created_at TEXT NOT NULL, started_at TEXT, ended_at TEXT, outcomes TEXT, message TEXT);
CREATE INDEX runs_open ON runs(id) WHERE state IN ('queued', 'running');
CREATE INDEX runs_model ON runs(model_id, id);

CREATE TABLE items(
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL REFERENCES runs(id),
  model_id INTEGER NOT NULL, partition_id INTEGER NOT NULL REFERENCES partitions(id), state TEXT NOT NULL,
  cause TEXT NOT NULL, correction INTEGER NOT NULL, forced INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 0, available_at TEXT NOT NULL,
  wanted INTEGER, attempt INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
  alone INTEGER NOT NULL DEFAULT 0,
  fence INTEGER NOT NULL DEFAULT 0, owner TEXT, cancel_requested INTEGER NOT NULL DEFAULT 0,
  started_at TEXT, ended_at TEXT, reason TEXT, error_class TEXT, error TEXT,
  seconds REAL, cpu_s REAL, peak_mb REAL,
  CHECK((state = 'running') = (owner IS NOT NULL)));
CREATE UNIQUE INDEX items_one_waiting ON items(partition_id) WHERE state = 'waiting';
CREATE UNIQUE INDEX items_one_running ON items(partition_id) WHERE state = 'running';
CREATE INDEX items_ready ON items(priority DESC, id) WHERE state = 'waiting';
CREATE INDEX items_ready_model ON items(model_id, priority DESC, id) WHERE state = 'waiting';
CREATE INDEX items_running ON items(owner) WHERE state = 'running';
CREATE INDEX items_open ON items(run_id) WHERE state IN ('waiting', 'running');
CREATE INDEX items_run ON items(run_id, state);
CREATE INDEX items_partition ON items(partition_id, id);
CREATE TABLE joins(run_id INTEGER NOT NULL REFERENCES runs(id), item_id INTEGER NOT NULL REFERENCES items(id),
  PRIMARY KEY(run_id, item_id)) WITHOUT ROWID;
CREATE INDEX joins_item ON joins(item_id);

CREATE TABLE artifacts(
  digest TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'live' CHECK(state IN ('live', 'condemned', 'removed')), condemned_at TEXT);
CREATE TABLE versions(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id),
  run_id INTEGER REFERENCES runs(id), major INTEGER NOT NULL, minor INTEGER NOT NULL, patch INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL, UNIQUE(model_id, major, minor, patch));
CREATE UNIQUE INDEX versions_run ON versions(run_id);
CREATE TABLE fits(
  id INTEGER PRIMARY KEY, version_id INTEGER NOT NULL REFERENCES versions(id),
  partition_id INTEGER NOT NULL REFERENCES partitions(id),
  artifact TEXT NOT NULL REFERENCES artifacts(digest), start INTEGER NOT NULL, size INTEGER NOT NULL,
  digest TEXT NOT NULL, trainer TEXT NOT NULL, verdict TEXT NOT NULL, scores TEXT NOT NULL,
  rows INTEGER NOT NULL, input TEXT NOT NULL, wanted INTEGER NOT NULL, trained_until TEXT,
  signature TEXT NOT NULL, trained_at TEXT NOT NULL, condemned INTEGER NOT NULL DEFAULT 0);
CREATE INDEX fits_partition ON fits(partition_id, id);
CREATE INDEX fits_artifact ON fits(artifact);
CREATE INDEX fits_version ON fits(version_id);
CREATE TABLE activations(
  id INTEGER PRIMARY KEY AUTOINCREMENT, partition_id INTEGER NOT NULL REFERENCES partitions(id),
  fit_id INTEGER NOT NULL REFERENCES fits(id), from_at TEXT NOT NULL, until_at TEXT, actor TEXT NOT NULL,
  why TEXT NOT NULL);
CREATE UNIQUE INDEX activations_open ON activations(partition_id) WHERE until_at IS NULL;
CREATE INDEX activations_partition ON activations(partition_id, id);

CREATE TABLE decisions(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id), cause TEXT NOT NULL,
  rule TEXT NOT NULL, code TEXT NOT NULL, fired INTEGER NOT NULL,
  action TEXT NOT NULL, severity TEXT NOT NULL, confidence REAL,
  reason TEXT NOT NULL, evidence TEXT NOT NULL, first_at TEXT NOT NULL, last_at TEXT NOT NULL,
  times INTEGER NOT NULL DEFAULT 1, wanted INTEGER, latest INTEGER NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX decisions_latest ON decisions(model_id, rule) WHERE latest = 1;
CREATE INDEX decisions_model ON decisions(model_id, last_at);

CREATE TABLE schedules(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id), rule TEXT NOT NULL,
  origin TEXT NOT NULL CHECK(origin IN ('declared', 'added')), next_at TEXT NOT NULL, last_at TEXT,
  removed_at TEXT);
CREATE INDEX schedules_next ON schedules(next_at) WHERE removed_at IS NULL;
CREATE TABLE slots(schedule_id INTEGER NOT NULL REFERENCES schedules(id), slot_at TEXT NOT NULL, fired_at TEXT NOT NULL,
  skipped INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(schedule_id, slot_at)) WITHOUT ROWID;

CREATE TABLE events(
  id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, model TEXT, run_id INTEGER,
  actor TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX events_run ON events(run_id, id);
CREATE INDEX events_kind ON events(kind, id);
CREATE TABLE cursors(reader TEXT PRIMARY KEY, event_id INTEGER NOT NULL, failures INTEGER NOT NULL DEFAULT 0,
  next_at TEXT NOT NULL DEFAULT '');
"""


_DATASETS = """
CREATE TABLE datasets(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, key TEXT NOT NULL, columns TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 0, horizon INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0,
  writer TEXT, writer_boot TEXT, writer_until REAL, created_at TEXT NOT NULL);
CREATE TABLE batches(
  id INTEGER PRIMARY KEY AUTOINCREMENT, dataset_id INTEGER NOT NULL REFERENCES datasets(id), version INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('ingest', 'edit', 'delete', 'undo')), source TEXT NOT NULL, actor TEXT NOT NULL,
  at TEXT NOT NULL, added INTEGER NOT NULL, updated INTEGER NOT NULL, removed INTEGER NOT NULL,
  unchanged INTEGER NOT NULL, set_aside INTEGER NOT NULL, digest TEXT NOT NULL,
  undoes INTEGER REFERENCES batches(id), token TEXT);
CREATE INDEX batches_dataset ON batches(dataset_id, id);
CREATE UNIQUE INDEX batches_token ON batches(dataset_id, token) WHERE token IS NOT NULL;
"""


def transition_guards() -> list[str]:
    """Return the triggers that refuse an illegal change of state, made from the one table of transitions."""
    statements = []
    tables: list[tuple[str, Mapping[str, frozenset[str]]]] = [("items", ITEM_TRANSITIONS), ("runs", RUN_TRANSITIONS)]  # type: ignore[list-item]
    for table, transitions in tables:
        cases = []
        for state, following in transitions.items():
            listed = ", ".join(f"'{one}'" for one in sorted(following)) or "NULL"
            cases.append(f"WHEN '{state}' THEN new.state IN ({listed})")
        statements += [
            f"DROP TRIGGER IF EXISTS {table}_transition",
            f"""CREATE TRIGGER {table}_transition BEFORE UPDATE OF state ON {table}
            WHEN old.state <> new.state AND NOT coalesce(CASE old.state {" ".join(cases)} END, 0)
            BEGIN SELECT RAISE(ABORT, 'illegal transition of {table}'); END""",
        ]
    return statements


def _create(tx: Tx) -> None:
    for statement in _FIRST.split(";"):
        if statement.strip():
            tx.run(statement)
    for statement in transition_guards():
        tx.run(statement)


def _add_datasets(tx: Tx) -> None:
    for statement in _DATASETS.split(";"):
        if statement.strip():
            tx.run(statement)


# How many live partitions and leaves a model has, counted as they come and go: a plan of two must not count all.
_COUNTERS = (
    "ALTER TABLE models ADD COLUMN live INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE models ADD COLUMN leaves INTEGER NOT NULL DEFAULT 0",
    (
        "UPDATE models SET live = (SELECT count(*) FROM partitions p WHERE p.model_id = models.id AND p.state = 'live'),"
        " leaves = (SELECT count(*) FROM partitions p WHERE p.model_id = models.id AND p.state = 'live' AND p.leaf)"
    ),
    (
        "CREATE TRIGGER partitions_came AFTER INSERT ON partitions WHEN new.state = 'live' BEGIN"
        " UPDATE models SET live = live + 1, leaves = leaves + new.leaf WHERE id = new.model_id; END"
    ),
    (
        "CREATE TRIGGER partitions_turned AFTER UPDATE OF state ON partitions WHEN old.state <> new.state BEGIN"
        " UPDATE models SET live = live + (new.state = 'live') - (old.state = 'live'),"
        " leaves = leaves + new.leaf * ((new.state = 'live') - (old.state = 'live')) WHERE id = new.model_id; END"
    ),
)


def _add_counters(tx: Tx) -> None:
    for statement in _COUNTERS:
        tx.run(statement)


def _add_delays(tx: Tx) -> None:
    """Rollups have a quiet period of their own: since when they are restless, and before what moment they wait."""
    tx.run("ALTER TABLE partitions ADD COLUMN restless_at TEXT")
    tx.run("ALTER TABLE partitions ADD COLUMN not_before TEXT")


def _count_runs(tx: Tx) -> None:
    """Count runs of each kind and fall-backs for good: the log and old runs may be tidied away."""
    tx.run(
        "INSERT INTO counters SELECT 'runs_full', count(*) FROM runs WHERE kind = 'full'"
        " UNION ALL SELECT 'runs_selective', count(*) FROM runs WHERE kind = 'selective'"
        " UNION ALL SELECT 'fallbacks', 0"
    )


def _add_forecasts(tx: Tx) -> None:
    tx.run(
        "CREATE TABLE forecasts(fit_id INTEGER PRIMARY KEY REFERENCES fits(id), frame TEXT NOT NULL, backtest TEXT NOT NULL)"
    )
    tx.run(
        "CREATE TABLE temporary_forecasts(key TEXT PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES models(id),"
        " answer TEXT NOT NULL, made_at TEXT NOT NULL) WITHOUT ROWID"
    )


# A check cannot be changed in place, so the table is made anew. The new one refers to itself from the beginning, or
# dropping the old one would leave its rows pointing nowhere.
_ERASE = """
CREATE TABLE batches_new(
  id INTEGER PRIMARY KEY AUTOINCREMENT, dataset_id INTEGER NOT NULL REFERENCES datasets(id), version INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('ingest', 'edit', 'delete', 'undo', 'erase')), source TEXT NOT NULL,
  actor TEXT NOT NULL, at TEXT NOT NULL, added INTEGER NOT NULL, updated INTEGER NOT NULL, removed INTEGER NOT NULL,
  unchanged INTEGER NOT NULL, set_aside INTEGER NOT NULL, digest TEXT NOT NULL,
  undoes INTEGER REFERENCES batches_new(id), token TEXT, report TEXT);
INSERT INTO batches_new(id, dataset_id, version, kind, source, actor, at, added, updated, removed, unchanged,
  set_aside, digest, undoes, token) SELECT id, dataset_id, version, kind, source, actor, at, added, updated, removed,
  unchanged, set_aside, digest, undoes, token FROM batches;
DROP TABLE batches;
ALTER TABLE batches_new RENAME TO batches;
CREATE INDEX batches_dataset ON batches(dataset_id, id);
CREATE UNIQUE INDEX batches_token ON batches(dataset_id, token) WHERE token IS NOT NULL
"""


def _allow_erase(tx: Tx) -> None:
    for statement in _ERASE.split(";"):
        tx.run(statement)


_EVALUATIONS = """
CREATE TABLE evaluations(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id),
  partition_id INTEGER NOT NULL REFERENCES partitions(id), fit_id INTEGER NOT NULL REFERENCES fits(id),
  at TEXT NOT NULL, code TEXT NOT NULL, fired INTEGER NOT NULL, severity TEXT NOT NULL, confidence INTEGER,
  drift_type TEXT NOT NULL, reason TEXT NOT NULL, rows INTEGER NOT NULL, evidence TEXT NOT NULL,
  latest INTEGER NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX evaluations_latest ON evaluations(partition_id) WHERE latest = 1;
CREATE INDEX evaluations_model ON evaluations(model_id, id);
CREATE INDEX evaluations_fit ON evaluations(fit_id);
CREATE INDEX evaluations_old ON evaluations(at) WHERE latest = 0
"""


def _add_evaluations(tx: Tx) -> None:
    for statement in _EVALUATIONS.split(";"):
        tx.run(statement)


def _add_retraining_events(tx: Tx) -> None:
    """Add the view that people and dashboards read; it finds the decision behind each item by this index."""
    tx.run("CREATE INDEX decisions_wanted ON decisions(model_id, cause, wanted) WHERE wanted IS NOT NULL")
    tx.run(views.retraining_events())


_ACCESS = """
CREATE TABLE tokens(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, role TEXT NOT NULL CHECK(role IN('viewer','operator','admin')),
  digest TEXT NOT NULL UNIQUE, ends TEXT NOT NULL, created_at TEXT NOT NULL, created_by TEXT NOT NULL,
  expires_at TEXT, revoked_at TEXT);
CREATE UNIQUE INDEX tokens_name ON tokens(name) WHERE revoked_at IS NULL;
CREATE TABLE sessions(
  digest TEXT PRIMARY KEY, token_id INTEGER NOT NULL REFERENCES tokens(id), created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX sessions_token ON sessions(token_id);
CREATE TABLE requests(
  caller TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, at TEXT NOT NULL, status INTEGER, headers TEXT, body BLOB,
  PRIMARY KEY(caller, key)) WITHOUT ROWID;
CREATE INDEX requests_old ON requests(at);
INSERT INTO counters VALUES ('access', 0)
"""


def _add_access(tx: Tx) -> None:
    for statement in _ACCESS.split(";"):
        tx.run(statement)


# Lists are read a page at a time, so each has an index in the order of its pages; and what serves is counted as it
# changes, for a page must not count a hundred thousand champions. A repeated request finds who answers the first.
_BROWSING = (
    "CREATE INDEX partitions_widest ON partitions(model_id, leaf, length(key), id) WHERE state = 'live'",
    "CREATE INDEX partitions_considered ON partitions(model_id, considered) WHERE state = 'live'",
    "CREATE INDEX partitions_late ON partitions(model_id) WHERE state = 'live' AND wanted > trained",
    "CREATE INDEX partitions_unserved ON partitions(model_id, outcome) WHERE state = 'live' AND considered > trained",
    "CREATE INDEX runs_state ON runs(state, id)",
    "CREATE INDEX runs_model_state ON runs(model_id, state, id)",
    "CREATE INDEX events_model ON events(model, id)",
    "CREATE INDEX decisions_at ON decisions(last_at)",
    "ALTER TABLE models ADD COLUMN serving INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE versions ADD COLUMN serving INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE versions ADD COLUMN fits INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX versions_serving ON versions(model_id, id) WHERE serving > 0",
    "UPDATE models SET serving = (SELECT count(*) FROM partitions p WHERE p.model_id = models.id AND p.champion_id > 0)",
    (
        "UPDATE versions SET fits = (SELECT count(*) FROM fits f WHERE f.version_id = versions.id), serving = (SELECT"
        " count(*) FROM fits f JOIN partitions p ON p.id = f.partition_id AND p.champion_id = f.id"
        " WHERE f.version_id = versions.id)"
    ),
    (
        "CREATE TRIGGER fits_counted AFTER INSERT ON fits BEGIN"
        " UPDATE versions SET fits = fits + 1 WHERE id = new.version_id; END"
    ),
    (
        "CREATE TRIGGER champions_counted AFTER UPDATE OF champion_id ON partitions"
        " WHEN old.champion_id IS NOT new.champion_id BEGIN"
        " UPDATE versions SET serving = serving - 1 WHERE id = (SELECT version_id FROM fits WHERE id = old.champion_id);"
        " UPDATE versions SET serving = serving + 1 WHERE id = (SELECT version_id FROM fits WHERE id = new.champion_id);"
        " UPDATE models SET serving = serving + (new.champion_id IS NOT NULL) - (old.champion_id IS NOT NULL)"
        " WHERE id = new.model_id AND (new.champion_id IS NULL) <> (old.champion_id IS NULL); END"
    ),
    "ALTER TABLE runs ADD COLUMN seconds REAL",
    (
        "UPDATE runs SET seconds = (SELECT sum(i.seconds) FROM items i WHERE i.run_id = runs.id), message = (SELECT i.reason"
        " FROM items i WHERE i.run_id = runs.id AND i.reason IS NOT NULL ORDER BY i.state IN ('failed', 'dead') DESC,"
        " i.state IN ('promoted', 'rejected') DESC, i.id LIMIT 1) WHERE ended_at IS NOT NULL"
    ),
    "ALTER TABLE requests ADD COLUMN owner TEXT",
    "ALTER TABLE requests ADD COLUMN process TEXT",
    "ALTER TABLE requests ADD COLUMN done TEXT",
)


def _add_browsing(tx: Tx) -> None:
    for statement in _BROWSING:
        tx.run(statement)


# Jobs that wait for a drop of a score have no next moment. A NOT NULL cannot be taken back in place, so both tables are
# made anew, the one that points before the one it points to is dropped.
_JOBS = """
CREATE TABLE schedules_new(
  id INTEGER PRIMARY KEY AUTOINCREMENT, model_id INTEGER NOT NULL REFERENCES models(id), rule TEXT NOT NULL,
  origin TEXT NOT NULL CHECK(origin IN ('declared', 'added')), min_samples INTEGER, next_at TEXT, last_at TEXT,
  removed_at TEXT);
INSERT INTO schedules_new(id, model_id, rule, origin, next_at, last_at, removed_at)
  SELECT id, model_id, rule, origin, next_at, last_at, removed_at FROM schedules;
CREATE TABLE slots_new(schedule_id INTEGER NOT NULL REFERENCES schedules_new(id), slot_at TEXT NOT NULL,
  fired_at TEXT NOT NULL, skipped INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(schedule_id, slot_at)) WITHOUT ROWID;
INSERT INTO slots_new SELECT schedule_id, slot_at, fired_at, skipped FROM slots;
DROP TABLE slots;
DROP TABLE schedules;
ALTER TABLE schedules_new RENAME TO schedules;
ALTER TABLE slots_new RENAME TO slots;
CREATE INDEX schedules_next ON schedules(next_at) WHERE removed_at IS NULL
"""


def _add_jobs(tx: Tx) -> None:
    for statement in _JOBS.split(";"):
        tx.run(statement)
    tx.run("DROP VIEW model_retraining_events")
    tx.run(views.retraining_events())


MIGRATIONS: tuple[Callable[[Tx], None], ...] = (
    _create, _add_datasets, _add_counters, _add_delays, _count_runs, _add_forecasts, _allow_erase,
    _add_evaluations, _add_retraining_events, _add_access, _add_browsing, _add_jobs, figures.add_columns, needs.add_indexes,
)  # fmt: skip


def migrate(store: Store) -> int:
    """Bring the store to the newest schema and return its number; five starters at once do it once.

    Raises:
        StoreError: the store was written by a newer Evertrain; nothing is changed.
    """
    with contextlib.suppress(StoreBusy), store.read() as tx:  # a busy one is being made: the write below waits for it
        if tx.value("PRAGMA user_version") == len(MIGRATIONS):
            return len(MIGRATIONS)
    with store.write() as tx:
        # Read again: another starter may have migrated while this one waited for the write lock.
        found = int(tx.value("PRAGMA user_version"))
        if found > len(MIGRATIONS):
            raise StoreError(
                f"{store.path.name} has schema {found}; this Evertrain knows {len(MIGRATIONS)}."
                " Install the newer Evertrain, or restore a backup of before"
            )
        for number, step in enumerate(MIGRATIONS[found:], start=found + 1):
            step(tx)
            tx.run(f"PRAGMA user_version = {number}")
        if found < len(MIGRATIONS):
            tx.event(Kind.STORE_MIGRATED, from_schema=found, to_schema=len(MIGRATIONS))
    return len(MIGRATIONS)
