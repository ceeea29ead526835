"""A small world for tests of the store: real SQLite, a clock moved by hand, items settled without any training."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from evertrain import registry
from evertrain.artifacts import Artifacts, Place
from evertrain.clock import ManualClock
from evertrain.control import ask
from evertrain.errors import StaleAttempt
from evertrain.events import Kind, numbers
from evertrain.gate import Method, Verdict
from evertrain.partitions import WHOLE, KeyText, encode
from evertrain.specs import Cause, CsvFile, Custom, ModelSpec, ProjectSpec
from evertrain.states import ItemState
from evertrain.store import demand, items, leases, models, runs
from evertrain.store.connect import Record, Store, Tx

LEASE_S = 30.0
SHOP = "shop"  # by town, with one rollup above
SOLO = "solo"  # without partitions


def town(name: str) -> KeyText:
    return encode({"town": name}, ["town"])


def model_spec(name: str, **options: Any) -> ModelSpec:
    return ModelSpec(name, "rows", **{"target": "y", "trainer": Custom("toys:Line"), "min_samples": 10, **options})


def project_spec(*specs: ModelSpec, **options: Any) -> ProjectSpec:
    return ProjectSpec(
        "test", sources={"rows": CsvFile("rows.csv")}, models={one.name: one for one in specs}, **options
    )


class World:
    """A store with two declared models, and every step of an item's life in one line."""

    def __init__(self, store: Store, folder: Path, *specs: ModelSpec) -> None:
        self.store = store
        assert isinstance(store.clock, ManualClock)
        self.clock = store.clock
        self.artifacts = Artifacts(folder / "artifacts")
        self.artifacts.folder.mkdir(exist_ok=True)
        self.bytes = "{}"
        self.declare(*(specs or (model_spec(SHOP, partition_by=["town"]), model_spec(SOLO))))
        with store.read() as tx:
            self.ids = {one.name: one.id for one in models.every(tx)}

    def declare(self, *specs: ModelSpec, **options: Any) -> list[str]:
        with self.store.write() as tx:
            return models.apply(tx, project_spec(*specs, **options), "python")

    def place(self) -> tuple[Place, int]:
        """Return where the bytes of a fit are; written anew when they are not there."""
        written = self.artifacts.folder / "written"
        written.write_text(self.bytes)
        digest, size = self.artifacts.take(written)
        return Place(digest, 0, size, digest), size

    # --- asking ---------------------------------------------------------------------------------------------------

    def find(self, *towns: str, rollup: bool = True, model: str = SHOP) -> int:
        keys = {town(one): True for one in towns}
        if rollup:
            keys[WHOLE] = False
        with self.store.write() as tx:
            return demand.find_partitions(
                tx, self.ids[model], model, keys, demand.Request(Cause.DECLARATION, "no model yet")
            )

    def retire(self, *towns: str, model: str = SHOP) -> None:
        with self.store.write() as tx:
            ids = [self.part(one, model, tx).id for one in towns]
            demand.retire_partitions(tx, model, ids)
            items.skip_retired(tx, ids)

    def want(
        self,
        towns: Iterable[str] | None = None,
        cause: Cause = Cause.DATA_CHANGE,
        *,
        forced: bool = False,
        model: str = SHOP,
    ) -> int:
        keys = None if towns is None else [town(one) if one else WHOLE for one in towns]
        with self.store.write() as tx:
            request = demand.Request(cause, f"because of {cause}", forced=forced)
            return demand.want(tx, self.ids[model], model, request, keys)

    def plan(self, model: str = SHOP) -> int | None:
        with self.store.write() as tx:
            return ask.plan_model(tx, self.ids[model])[0]

    def asked(
        self, *towns: str, cause: Cause = Cause.DATA_CHANGE, forced: bool = False, model: str = SHOP
    ) -> int | None:
        """Want towns and plan at once, as a person's request does; return the run."""
        self.want(towns, cause, forced=forced, model=model)
        return self.plan(model)

    def cancel(self, run_id: int | None) -> str:
        assert run_id is not None
        with self.store.write() as tx:
            return runs.cancel_run(tx, run_id, "ann")

    # --- working --------------------------------------------------------------------------------------------------

    def worker(self) -> str:
        owner = leases.new_owner()
        with self.store.write() as tx:
            leases.register(tx, owner, LEASE_S)
        return owner

    def beat(self, owner: str) -> None:
        with self.store.write() as tx:
            leases.beat(tx, owner, LEASE_S)

    def claim(self, owner: str, most: int = 100) -> items.Claim | None:
        with self.store.write() as tx:
            return items.claim(tx, owner, most=most, seconds=1e6)

    def proposal(self, item: Record, fence: int, state: ItemState = ItemState.PROMOTED, **more: Any) -> Any:
        place, size = self.place()
        values: dict[str, Any] = {
            "item_id": item.id,
            "fence": fence,
            "run_id": item.run_id,
            "major": 1,
            "partition_id": item.partition_id,
            "wanted": item.wanted,
            "input": f"1:{item.wanted:064x}",
            "compared_with": item.champion_id,
            "place": place,
            "artifact_size": size,
            "trainer": {},
            "signature": {},
            "scores": {},
            "verdict": Verdict(state, Method.FIRST, f"for the test: {state}"),
            "rows": 100,
            "seconds": 1.0,
            "cpu_s": 1.0,
            "peak_mb": None,
        }
        return registry.Proposal(**{**values, **more})

    def settle(
        self,
        claim: items.Claim,
        states: ItemState | Mapping[int, ItemState] = ItemState.PROMOTED,
        only: Sequence[int] | None = None,
        compared: Mapping[int, int | None] | None = None,
    ) -> list[int]:
        """Write the ends of a claim's items; states that come without a fit are closings."""
        proposals, closings = [], []
        for item in claim.items:
            if only is not None and item.id not in only:
                continue
            state = states if isinstance(states, ItemState) else states[item.id]
            if state in (ItemState.PROMOTED, ItemState.REJECTED, ItemState.SHADOWED):
                more = {"compared_with": compared[item.id]} if compared and item.id in compared else {}
                proposals.append(self.proposal(item, claim.fence, state, **more))
            else:
                end = items.End(item.id, claim.fence, state, f"for the test: {state}")
                closings.append(registry.Closing(end, item.partition_id, item.wanted, None))
        with self.store.write() as tx:
            return registry.settle(tx, self.artifacts, claim.owner, claim.model_id, proposals, closings)

    def retry(self, claim: items.Claim, item_id: int, *, crashed: bool) -> ItemState:
        end = items.End(item_id, claim.fence, ItemState.FAILED, "for the test", "crash" if crashed else "OSError")
        with self.store.write() as tx:
            return items.retry_items(tx, claim.owner, [end], delay_s=5.0, crashed=crashed)[item_id]

    def release(self, claim: items.Claim, ids: Iterable[int]) -> None:
        with self.store.write() as tx:
            items.release_items(tx, claim.owner, [(one, claim.fence) for one in ids])

    def reap(self) -> int:
        with self.store.write() as tx:
            return items.reap(tx)

    def train(self, state: ItemState = ItemState.PROMOTED, most: int = 100) -> int:
        """Plan and train until nothing waits; return how many items ended."""
        owner, ended = self.worker(), 0
        while True:
            for model in self.ids:
                self.plan(model)
            claim = self.claim(owner, most)
            if claim is None:
                break
            self.settle(claim, state)
            ended += len(claim.items)
        with self.store.write() as tx:
            leases.end(tx, owner)
        return ended

    # --- looking --------------------------------------------------------------------------------------------------

    def part(self, name: str = "", model: str = SHOP, tx: Tx | None = None) -> Record:
        if tx is None:
            with self.store.read() as own:
                return self.part(name, model, own)
        row = demand.partition(tx, self.ids[model], town(name) if name else WHOLE)
        assert row is not None
        return row

    def item(self, item_id: int) -> Record:
        row = self.rows("SELECT * FROM items WHERE id = :id", id=item_id)
        return row[0]

    def states(self, run_id: int | None = None) -> dict[str, int]:
        """Return how many items are in which state, of all runs or of one (with joined items)."""
        with self.store.read() as tx:
            if run_id is not None:
                return {str(state): number for state, number in runs.outcomes_of(tx, run_id).items()}
            return {row[0]: row[1] for row in tx.rows("SELECT state, count(*) FROM items GROUP BY state")}

    def run_state(self, run_id: int | None) -> str:
        return str(self.rows("SELECT state FROM runs WHERE id = :id", id=run_id)[0][0])

    def rows(self, sql: str, **params: Any) -> Sequence[Record]:
        with self.store.read() as tx:
            return tx.rows(sql, **params)

    def events(self, kind: Kind) -> list[dict[str, Any]]:
        return [
            json.loads(row[0]) for row in self.rows("SELECT data FROM events WHERE kind = :kind ORDER BY id", kind=kind)
        ]


class Fold:
    """The state of every item, run and champion, computed from the log of events alone: the oracle of P-16."""

    def __init__(self) -> None:
        self.read = 0
        self.items: dict[int, str] = {}
        self.partition: dict[int, int] = {}
        self.runs: dict[int, str] = {}
        self.champions: dict[int, int] = {}

    def catch_up(self, tx: Tx) -> None:
        for row in tx.rows("SELECT id, kind, run_id, data FROM events WHERE id > :id ORDER BY id", id=self.read):
            # Numbers without a gap: a reader that saw event n has seen every event before it.
            assert row.id == self.read + 1
            self.read = row.id
            self.apply(Kind(row.kind), row.run_id, json.loads(row.data))

    def apply(self, kind: Kind, run_id: int | None, data: Mapping[str, Any]) -> None:
        if kind is Kind.RUN_CREATED:
            assert run_id is not None
            self.runs[run_id] = "queued"
            for item_id, partition in enumerate(numbers(data["partitions"]), start=data["first"] or 0):
                self.items[item_id], self.partition[item_id] = "waiting", partition
        elif kind is Kind.RUN_STARTED:
            assert run_id is not None
            self.runs[run_id] = "running"
        elif kind is Kind.RUN_ENDED:
            assert run_id is not None
            self.runs[run_id] = data["state"]
        elif kind is Kind.ITEMS_CLAIMED:
            self.set(numbers(data["items"]), "running")
        elif kind in (Kind.ITEMS_RETRIED, Kind.ITEMS_RELEASED, Kind.ITEMS_REAPED):
            self.set(numbers(data["items"]), "waiting")
        elif kind is Kind.ITEMS_SETTLED:
            for state, listed in data["outcomes"].items():
                self.set(numbers(listed), state)
        else:
            self.apply_champions(kind, run_id, data)

    def apply_champions(self, kind: Kind, run_id: int | None, data: Mapping[str, Any]) -> None:
        if kind is Kind.CHAMPION_ROLLED_BACK:
            self.champions |= dict(zip(numbers(data["partitions"]), numbers(data["fits"]), strict=True))
        elif kind is Kind.PARTITIONS_RETIRED:
            for partition in data["partitions"]:
                self.champions.pop(partition, None)
        elif kind is Kind.CHAMPION_ADOPTED:
            assert run_id is not None
            self.runs[run_id] = "succeeded"
            self.items[data["fit"]], self.partition[data["fit"]] = "promoted", data["partition"]
            self.champions[data["partition"]] = data["fit"]
        elif kind is Kind.ARTIFACT_DAMAGED and data["champion"] is not None:
            self.champions[data["partition"]] = data["champion"]

    def set(self, ids: Sequence[int], state: str) -> None:
        for one in ids:
            assert self.items[one] in ("waiting", "running"), f"item {one} was {self.items[one]}, became {state}"
            self.items[one] = state
            if state == "promoted":
                self.champions[self.partition[one]] = one

    def check(self, tx: Tx) -> None:
        """Compare with the tables, exactly."""
        self.catch_up(tx)
        assert self.items == {row[0]: row[1] for row in tx.rows("SELECT id, state FROM items")}
        assert self.runs == {row[0]: row[1] for row in tx.rows("SELECT id, state FROM runs")}
        assert self.champions == {
            row[0]: row[1] for row in tx.rows("SELECT id, champion_id FROM partitions WHERE champion_id IS NOT NULL")
        }


def dump(tx: Tx) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    tables = [row[0] for row in tx.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {table: [tuple(row) for row in tx.rows(f"SELECT * FROM {table}")] for table in tables}


def contents(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    with store.read() as tx:
        return dump(tx)


@contextmanager
def refused(store: Store, *errors: type[Exception]) -> Any:
    """Expect the block to be refused, and to have changed nothing at all."""
    before = contents(store)
    with pytest.raises(errors or (StaleAttempt,)):
        yield
    assert contents(store) == before


def write_lock_is_free(path: Path) -> bool:
    """Try to take the write lock as another process would, without waiting."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        other.execute("ROLLBACK")
        return True


def test_the_fold_sees_what_a_whole_life_of_items_did(store: Store, tmp_path: Path) -> None:
    """P-16: the log alone tells the state of every item and run, and every champion."""
    # given two models, trained, refused, retried, cancelled
    world = World(store, tmp_path)
    world.find("Pilar", "Hermosa")
    world.train()
    world.asked("Pilar")
    world.train(ItemState.REJECTED)
    cancelled = world.asked("Hermosa")
    world.cancel(cancelled)

    # when the log is folded
    fold = Fold()
    with store.read() as tx:
        fold.check(tx)

    # then it equals the tables
    assert sorted(fold.items.values()).count("promoted") == 4
    assert fold.runs[cancelled or 0] == "cancelled"
