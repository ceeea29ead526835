"""T-4: everything the store can be asked to do, in any order, against a model of what a correct system may do.

The model keeps plain Python values and knows nothing of SQL. After every step the tables must equal it, the log must
fold to the tables, and the promises of DESIGN ("Promises the schema keeps", "What is due") must hold.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from evertrain import registry
from evertrain.clock import ManualClock, from_text
from evertrain.errors import Conflict, StaleAttempt
from evertrain.partitions import WHOLE
from evertrain.specs import Cause
from evertrain.states import OPEN_ITEMS, ItemState, run_state
from evertrain.store import items, leases, models
from evertrain.store.connect import Record, Store
from evertrain.store.migrations import migrate

from .test_store_kit import LEASE_S, SHOP, SOLO, Fold, World, contents, model_spec, refused, town

TOWNS = ("A", "B", "C")
MAX_ATTEMPTS = 3
LONGEST_DELAY = timedelta(minutes=10)
WAITING, RUNNING = ItemState.WAITING, ItemState.RUNNING


@dataclass
class Part:
    """A partition of the model: what it should be."""

    id: int
    model: str
    live: bool = True
    wanted: int = 0
    planned: int = 0
    considered: int = 0
    trained: int = 0
    champion: int | None = None
    pinned: bool = False
    served: dict[int, int] = field(default_factory=dict)  # fit to its wanted
    damaged: set[int] = field(default_factory=set)

    def before(self, fit: int) -> int | None:
        return max((one for one in self.served if one < fit and one not in self.damaged), default=None)


@dataclass
class Item:
    id: int
    run: int
    part: Part
    state: ItemState = WAITING
    owner: str | None = None
    fence: int = 0
    wanted: int | None = None
    attempt: int = 0
    crashes: int = 0
    alone: bool = False
    cancel: bool = False

    @property
    def open(self) -> bool:
        return self.state in OPEN_ITEMS


@dataclass
class Run:
    id: int
    state: str = "queued"
    joined: set[int] = field(default_factory=set)
    cancelled: bool = False

    @property
    def open(self) -> bool:
        return self.state in ("queued", "running")


@dataclass
class Lease:
    boot: str
    until: float
    ended: bool = False


class StoreMachine(RuleBasedStateMachine):
    """Rules call the real store; beside each stands what must come of it."""

    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copyfile(self.template, self.folder / "evertrain.db")
        self.clock = ManualClock()
        self.store = Store("sqlite:///evertrain.db", self.folder, clock=self.clock)
        self.world = World(
            self.store,
            self.folder,
            model_spec(SHOP, partition_by=["town"], max_attempts=MAX_ATTEMPTS),
            model_spec(SOLO, max_attempts=MAX_ATTEMPTS),
        )
        self.fold = Fold()
        self.parts: dict[tuple[str, str], Part] = {}
        self.items: dict[int, Item] = {}
        self.runs: dict[int, Run] = {}
        self.leases: dict[str, Lease] = {}
        self.whole = {SHOP: [0, 0], SOLO: [0, 0]}  # wanted, planned
        self.paused = False
        self.boots = 1
        self.commit = self.counter()
        solo = self.world.part("", SOLO)
        self.parts[SOLO, ""] = Part(solo.id, SOLO, wanted=solo.wanted)
        self.claims: list[items.Claim] = []
        self.looked_at: list[tuple[str, list[registry.Return]]] = []
        self.find(set(TOWNS[:2]))
        self.start_worker()
        self.plan(SHOP)

    def counter(self) -> int:
        with self.store.read() as tx:
            return tx.counter("commit")

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.drained()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    # --- what the model knows ---------------------------------------------------------------------------------------

    def alive(self, owner: str) -> bool:
        lease = self.leases[owner]
        return not lease.ended and lease.boot == self.clock.boot_id and lease.until >= self.clock.boottime()

    def wanted(self, part: Part) -> int:
        return max(part.wanted, self.whole[part.model][0])

    def live(self, model: str) -> list[Part]:
        return [part for part in self.parts.values() if part.model == model and part.live]

    def waiting(self, part: Part) -> Item | None:
        return next((one for one in self.items.values() if one.part is part and one.state is WAITING), None)

    def held(self, claim: items.Claim, item_id: int) -> bool:
        item = self.items[item_id]
        mine = item.state is RUNNING and item.owner == claim.owner and item.fence == claim.fence
        return mine and self.alive(claim.owner)

    def wanting(self, item: Item) -> list[Run]:
        """Return the runs whose requesters wait for this item."""
        return [run for run in self.runs.values() if run.id == item.run or item.id in run.joined]

    def of_run(self, run: Run) -> list[Item]:
        return [one for one in self.items.values() if one.run == run.id or one.id in run.joined]

    def end(self, item: Item, state: ItemState) -> None:
        """Model the end of an item, whoever caused it."""
        item.state, item.owner = state, None
        part = item.part
        if state is ItemState.SUPERSEDED and (sibling := self.waiting(part)) is not None:
            for run in self.wanting(item):
                if run.id != sibling.run:
                    run.joined.add(sibling.id)
        else:
            part.considered = max(part.considered, item.wanted if item.wanted is not None else self.wanted(part))
        for run in self.wanting(item):
            self.end_run(run)

    def end_run(self, run: Run) -> None:
        own = self.of_run(run)
        if run.open and not any(one.open for one in own):
            run.state = str(run_state(Counter(one.state for one in own))) if own else "cancelled"

    def promoted(self, item: Item) -> None:
        part = item.part
        part.champion, part.trained = item.id, item.wanted or 0
        part.served[item.id] = item.wanted or 0

    # --- asking -----------------------------------------------------------------------------------------------------

    @rule(towns=st.sets(st.sampled_from(TOWNS), min_size=1))
    def find(self, towns: set[str]) -> None:
        listed = sorted(towns)
        found = self.world.find(*listed)
        self.commit += 1
        fresh = 0
        for name in [*listed, ""]:
            part = self.parts.get((SHOP, name))
            if part is None:
                part = self.parts[SHOP, name] = Part(self.world.part(name).id, SHOP)
            elif part.live:
                continue
            fresh += 1
            part.live, part.wanted = True, self.commit
        assert found == fresh

    @rule(name=st.sampled_from(TOWNS))
    def lose_all_rows(self, name: str) -> None:
        part = self.parts.get((SHOP, name))
        if part is None or not part.live:
            return
        self.world.retire(name)
        part.live, part.champion = False, None
        part.considered = max(part.considered, part.wanted)
        part.planned = max(part.planned, part.wanted)
        if (item := self.waiting(part)) is not None:
            item.state = ItemState.SKIPPED
            for run in self.wanting(item):
                self.end_run(run)

    @rule(
        names=st.sets(st.sampled_from((*TOWNS, "")), min_size=1),
        cause=st.sampled_from([Cause.MANUAL, Cause.DATA_CHANGE, Cause.AGE]),
        forced=st.booleans(),
        planned=st.booleans(),
    )
    def want(self, names: set[str], cause: Cause, forced: bool, planned: bool) -> None:
        self.commit += 1
        assert self.world.want(sorted(names), cause, forced=forced) == self.commit
        for name in names:
            part = self.parts.get((SHOP, name))
            if part is not None and part.live:
                part.wanted = self.commit
        if planned:
            self.plan(SHOP)

    @rule(
        model=st.sampled_from([SHOP, SOLO]),
        cause=st.sampled_from([Cause.MANUAL, Cause.DATA_CHANGE, Cause.SCHEDULE]),
        forced=st.booleans(),
        planned=st.booleans(),
    )
    def want_whole(self, model: str, cause: Cause, forced: bool, planned: bool) -> None:
        self.commit += 1
        assert self.world.want(None, cause, forced=forced, model=model) == self.commit
        self.whole[model][0] = self.commit
        if planned:
            self.plan(model)

    @rule(model=st.sampled_from([SHOP, SOLO]))
    def plan(self, model: str) -> None:
        whole = self.whole[model]
        everything = whole[0] > whole[1]
        wanted = [part for part in self.live(model) if everything or part.wanted > part.planned]
        joined = {item.id for part in wanted if (item := self.waiting(part)) is not None}
        run_id = self.world.plan(model)
        if not wanted:
            assert run_id is None
            return
        assert run_id is not None
        run = self.runs[run_id] = Run(run_id, joined=joined)
        by_id = {part.id: part for part in wanted}
        for row in self.world.rows("SELECT id, partition_id FROM items WHERE run_id = :run ORDER BY id", run=run_id):
            self.items[row.id] = Item(row.id, run_id, by_id.pop(row.partition_id))
        # What got no item of its own joined the one that waits.
        assert set(by_id) == {self.items[one].part.id for one in run.joined}
        for part in wanted:
            part.planned = part.wanted
        if everything:
            whole[1] = whole[0]

    # --- working ----------------------------------------------------------------------------------------------------

    @rule()
    def start_worker(self) -> None:
        self.hired()

    def hired(self) -> str:
        owner = self.world.worker()
        self.leases[owner] = Lease(self.clock.boot_id, self.clock.boottime() + LEASE_S)
        return owner

    def drawn_owner(self, data: Any) -> str:
        """Return one of all workers there ever were; the youngest is the simplest."""
        return str(data.draw(st.sampled_from(list(reversed(self.leases))), label="owner"))

    def drawn_claim(self, data: Any) -> items.Claim:
        """Return one of all claims there ever were, most often one that is still held."""
        held = [one for one in reversed(self.claims) if any(self.held(one, row.id) for row in one.items)]
        late = data.draw(st.integers(0, 3)) == 3 or not held
        claim: items.Claim = data.draw(st.sampled_from(self.claims[::-1] if late else held), label="claim")
        return claim

    @rule(data=st.data())
    def beat(self, data: Any) -> None:
        owner = self.drawn_owner(data)
        if self.alive(owner):
            self.world.beat(owner)
            self.leases[owner].until = self.clock.boottime() + LEASE_S
        else:
            with refused(self.store, StaleAttempt):
                self.world.beat(owner)

    @rule(data=st.data())
    def stop_worker(self, data: Any) -> None:
        """A worker ends its lease, whether or not it gave back what it held."""
        owner = self.drawn_owner(data)
        with self.store.write() as tx:
            leases.end(tx, owner)
        self.leases[owner].ended = True

    def ready(self) -> list[Record]:
        """Return the items that may be taken now, most urgent first, by a look at the rows in Python."""
        now = self.clock.now()
        running = {one.part.id for one in self.items.values() if one.state is RUNNING}
        rows = self.world.rows("SELECT * FROM items WHERE state = 'waiting'")

        def due(row: Record) -> bool:
            # No delay is longer than ten minutes: a later moment is a clock that was set back since.
            at: datetime = from_text(row.available_at)
            return at <= now or at > now + LONGEST_DELAY

        free = [row for row in rows if due(row) and row.partition_id not in running]
        return sorted(free, key=lambda row: (-row.priority, row.id))

    @rule(data=st.data(), most=st.integers(1, 3))
    def claim_late(self, data: Any, most: int) -> None:
        owner = self.drawn_owner(data)
        if not self.alive(owner):
            with refused(self.store, StaleAttempt):
                self.world.claim(owner, most)

    @rule(data=st.data(), most=st.integers(1, 3))
    def claim(self, data: Any, most: int) -> None:
        living = [one for one in self.leases if self.alive(one)] or [self.hired()]
        self.took(data.draw(st.sampled_from(living), label="owner"), most)

    def took(self, owner: str, most: int) -> bool:
        """Let a living worker claim, and say whether it got something: the most urgent that may be taken."""
        ready = [] if self.paused else self.ready()
        claim = self.world.claim(owner, most)
        if claim is None:
            assert not ready
            return False
        top = ready[0]
        mine = [row.id for row in ready if row.model_id == top.model_id and (row.crashes == 0 or row is top)]
        expected = [top.id] if top.crashes else mine[:most]
        assert sorted(expected) == [one.id for one in claim.items]
        for row in claim.items:
            item = self.items[row.id]
            item.state, item.owner, item.fence = RUNNING, owner, claim.fence
            item.attempt += 1
            item.alone, item.wanted = len(expected) == 1, self.wanted(item.part)
            assert (row.wanted, row.champion_id, row.attempt) == (item.wanted, item.part.champion, item.attempt)
            for run in self.wanting(item):
                run.state = "running"
        self.claims.append(claim)
        return True

    def last_word(self, item_id: int) -> ItemState:
        return ItemState.CANCELLED if self.items[item_id].cancel else ItemState.REJECTED

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def promote(self, data: Any) -> None:
        """Everything goes well: all that was claimed is promoted."""
        claim = self.drawn_claim(data)
        mine = [row.id for row in claim.items if self.held(claim, row.id) and not self.items[row.id].cancel]
        self.settle_some(claim, dict.fromkeys(mine or [row.id for row in claim.items], ItemState.PROMOTED))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        """Anyone who ever held the items writes verdicts: only who holds them now may."""
        claim = self.drawn_claim(data)
        ids = [one.id for one in claim.items]
        chosen = sorted(data.draw(st.sets(st.sampled_from(ids), min_size=1)))
        self.settle_some(claim, {one: data.draw(st.sampled_from(list(_ENDS))) for one in chosen})

    def settle_some(self, claim: items.Claim, verdicts: dict[int, ItemState]) -> None:
        chosen = list(verdicts)
        ready: dict[int, ItemState] = {}
        moved: list[int] = []
        for row in (one for one in claim.items if one.id in chosen):
            item, state = self.items[row.id], verdicts[row.id]
            part = item.part
            if state in _FITTED:
                assert row.wanted is not None
                if not part.live:
                    state = ItemState.SKIPPED
                elif part.champion != row.champion_id and part.trained > row.wanted:
                    state = ItemState.SUPERSEDED
                elif part.champion != row.champion_id:
                    moved.append(row.id)
                    continue
                elif state is ItemState.PROMOTED and part.pinned:
                    state = ItemState.REJECTED
            ready[row.id] = state

        def may(one: int) -> bool:
            return self.held(claim, one) and (not self.items[one].cancel or ready.get(one) is ItemState.CANCELLED)

        if not all(may(one) for one in chosen):
            with refused(self.store, StaleAttempt):
                self.world.settle(claim, verdicts, chosen)
            return
        assert self.world.settle(claim, verdicts, chosen) == moved
        for one, state in ready.items():
            item = self.items[one]
            if state is ItemState.PROMOTED:
                self.promoted(item)
            item.state, item.owner = state, None
            item.part.considered = max(item.part.considered, item.wanted or 0)
        for one in ready:
            for run in self.wanting(self.items[one]):
                self.end_run(run)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def judge_again(self, data: Any) -> None:
        """A verdict against the champion of now, whoever was champion when the item was taken."""
        claim = self.drawn_claim(data)
        row = data.draw(st.sampled_from(list(claim.items)))
        item = self.items[row.id]
        compared = {row.id: item.part.champion}
        if not (self.held(claim, row.id) and not item.cancel):
            with refused(self.store, StaleAttempt):
                self.world.settle(claim, ItemState.PROMOTED, [row.id], compared)
            return
        assert self.world.settle(claim, ItemState.PROMOTED, [row.id], compared) == []
        part = item.part
        state = ItemState.SKIPPED if not part.live else ItemState.REJECTED if part.pinned else ItemState.PROMOTED
        if state is ItemState.PROMOTED:
            self.promoted(item)
        self.end(item, state)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), crashed=st.booleans())
    def retry(self, data: Any, crashed: bool) -> None:
        claim = self.drawn_claim(data)
        one = data.draw(st.sampled_from([row.id for row in claim.items]))
        item = self.items[one]
        if not self.held(claim, one):
            with refused(self.store, StaleAttempt):
                self.world.retry(claim, one, crashed=crashed)
            return
        item.crashes += crashed
        if item.cancel:
            state = ItemState.CANCELLED
        elif self.waiting(item.part) is not None:
            state = ItemState.SUPERSEDED
        elif item.crashes >= 2:
            state = ItemState.DEAD
        elif item.attempt >= MAX_ATTEMPTS:
            state = ItemState.FAILED
        else:
            state = WAITING
        assert self.world.retry(claim, one, crashed=crashed) == state
        self.put_back(item, state)

    def put_back(self, item: Item, state: ItemState) -> None:
        if state is WAITING:
            item.state, item.owner = WAITING, None
        else:
            self.end(item, state)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        claim = self.drawn_claim(data)
        ids = [row.id for row in claim.items]
        chosen = sorted(data.draw(st.sets(st.sampled_from(ids), min_size=1)))
        mine = [one for one in chosen if self.held(claim, one)]
        before = contents(self.store)
        self.world.release(claim, chosen)
        if not mine:
            assert contents(self.store) == before
        for one in mine:
            item = self.items[one]
            item.attempt -= 1
            sibling = self.waiting(item.part)
            self.put_back(item, ItemState.CANCELLED if item.cancel else ItemState.SUPERSEDED if sibling else WAITING)

    @rule()
    def reap(self) -> None:
        taken = 0
        for item in list(self.items.values()):
            if item.state is not RUNNING or self.alive(item.owner or ""):
                continue
            taken += 1
            lease = self.leases[item.owner or ""]
            blameless = lease.ended or lease.boot != self.clock.boot_id
            item.crashes += not blameless
            item.attempt -= blameless
            if item.cancel:
                state = ItemState.CANCELLED
            elif self.waiting(item.part) is not None:
                state = ItemState.SUPERSEDED
            elif item.alone and item.crashes >= 3:
                state = ItemState.DEAD
            else:
                state = WAITING
            self.put_back(item, state)
        for lease in self.leases.values():
            lost = lease.boot != self.clock.boot_id or lease.until < self.clock.boottime()
            lease.ended = lease.ended or lost
        assert self.world.reap() == taken

    # --- people -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        run = self.runs[data.draw(st.sampled_from(sorted(self.runs)))]
        was_open = run.open
        answer = self.world.cancel(run.id)
        if was_open:
            run.cancelled = True
            for item in self.of_run(run):
                if not item.open:
                    continue
                others = [one for one in self.wanting(item) if one is not run and one.open]
                if item.run != run.id:
                    run.joined.discard(item.id)
                elif others:
                    heir = min(others, key=lambda one: one.id)
                    heir.joined.discard(item.id)
                    item.run = heir.id
                elif item.state is WAITING:
                    item.state = ItemState.CANCELLED
                    item.part.considered = max(item.part.considered, self.wanted(item.part))
                else:
                    item.cancel = True
            self.end_run(run)
        assert answer == run.state

    @rule(names=st.sets(st.sampled_from((*TOWNS, "")), min_size=1), pin=st.booleans())
    def roll_back(self, names: set[str], pin: bool) -> None:
        keys = [town(name) if name else WHOLE for name in sorted(names)]
        with self.store.read() as tx:
            ways = registry.returns(tx, self.world.ids[SHOP], keys=keys)
        expected = {}
        for name in names:
            part = self.parts.get((SHOP, name))
            if part is not None and part.champion is not None and (back := part.before(part.champion)) is not None:
                expected[part.id] = back
        assert {way.partition_id: way.to.id for way in ways} == expected
        if not ways:
            return
        with self.store.write() as tx:
            registry.roll_back(tx, SHOP, ways, actor="ann", why="test", pin=pin)
        for part in self.parts.values():
            if part.id in expected:
                part.champion = expected[part.id]
                part.trained = part.served[part.champion]
                part.pinned = part.pinned or pin
        self.looked_at.append((SHOP, ways))

    @precondition(lambda self: self.looked_at)
    @rule()
    def roll_back_late(self) -> None:
        """A rollback by what was seen a while ago: refused when any of those champions has changed since."""
        model, ways = self.looked_at.pop()
        by_id = {part.id: part for part in self.parts.values()}
        moved = any(by_id[way.partition_id].champion != way.champion for way in ways)
        if moved:
            with refused(self.store, Conflict), self.store.write() as tx:
                registry.roll_back(tx, model, ways, actor="ann", why="late", pin=False)
        else:
            with self.store.write() as tx:
                registry.roll_back(tx, model, ways, actor="ann", why="late", pin=False)
            for way in ways:
                part = by_id[way.partition_id]
                part.champion, part.trained = way.to.id, part.served[way.to.id]

    @rule(name=st.sampled_from((*TOWNS, "")), pinned=st.booleans())
    def pin(self, name: str, pinned: bool) -> None:
        with self.store.write() as tx:
            registry.pin(tx, self.world.ids[SHOP], SHOP, [town(name) if name else WHOLE], pinned=pinned)
        if (part := self.parts.get((SHOP, name))) is not None:
            part.pinned = pinned

    @precondition(lambda self: any(part.champion for part in self.parts.values()))
    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        part = data.draw(st.sampled_from([one for one in self.parts.values() if one.champion]))
        damaged = part.champion
        with self.store.write() as tx:
            fit = registry.fits(tx, [damaged])[damaged]
            back = registry.condemn(tx, part.model, fit, "test")
        if damaged in part.damaged:  # found before, when there was nothing to go back to
            assert back is None
            return
        part.damaged.add(damaged)
        expected = part.before(damaged)
        assert (back and back.id) == expected
        if expected is not None:
            part.champion, part.trained = expected, part.served[expected]
        else:  # nothing is left to serve, so another is due without anybody asking
            self.commit += 1
            part.wanted = self.commit

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        with self.store.write() as tx:
            models.pause(tx, None, paused=paused)
        self.paused = paused

    # --- time -------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 10, 29, 31, 700]), beaten=st.booleans())
    def wait(self, seconds: int, beaten: bool) -> None:
        self.clock.advance(seconds=seconds)
        for owner, lease in self.leases.items():
            if beaten and self.alive(owner):
                self.world.beat(owner)
                lease.until = self.clock.boottime() + LEASE_S

    @rule(hours=st.sampled_from([-400 * 24, -24, -1, 1, 24, None]))
    def upset(self, hours: int | None) -> None:
        """P-20: the wall clock jumps, or the machine restarts."""
        if hours is not None:
            self.clock.jump(hours=hours)
        else:
            self.boots += 1
            self.clock.boot_id, self.clock.since_boot = f"boot-{self.boots}", 10.0

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def rows_equal_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as tx:
            rows = {row.id: row for row in tx.rows("SELECT * FROM items")}
            found = {row.id: row for row in tx.rows("SELECT * FROM partitions")}
            run_rows = {row.id: row for row in tx.rows("SELECT * FROM runs")}
            self.fold.check(tx)
        assert set(rows) == set(self.items)
        for item in self.items.values():
            row = rows[item.id]
            assert (row.state, row.owner, row.run_id) == (item.state, item.owner, item.run)
            assert (row.attempt, row.crashes, bool(row.cancel_requested)) == (item.attempt, item.crashes, item.cancel)
            assert (row.ended_at is None) == item.open
        for part in self.parts.values():
            row = found[part.id]
            assert (row.state == "live") == part.live
            assert (row.wanted, row.considered, row.trained) == (part.wanted, part.considered, part.trained)
            assert (row.champion_id, bool(row.pinned)) == (part.champion, part.pinned)
        assert {row.id: row.state for row in run_rows.values()} == {run.id: run.state for run in self.runs.values()}
        for run in self.runs.values():
            if not run.open and (own := self.of_run(run)):
                assert run_rows[run.id].outcomes is not None
                assert run.state == run_state(Counter(one.state for one in own))

    @invariant()
    def promises_hold(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as tx:
            open_items = tx.rows(
                "SELECT partition_id, state, count(*) FROM items WHERE state IN ('waiting', 'running') GROUP BY 1, 2"
            )
            assert all(row[2] == 1 for row in open_items), "one waiting and one running item for each partition"
            counted = tx.rows(
                "SELECT m.live, m.leaves, count(p.id), coalesce(sum(p.leaf), 0) FROM models m LEFT JOIN partitions p"
                " ON p.model_id = m.id AND p.state = 'live' GROUP BY m.id"
            )
            assert all((row[0], row[1]) == (row[2], row[3]) for row in counted), "partitions are counted wrongly"
            activations = tx.rows("SELECT partition_id, fit_id FROM activations WHERE until_at IS NULL")
            found = tx.rows(
                "SELECT p.*, max(p.wanted, m.wanted) AS due_at, f.wanted AS fit_wanted, f.partition_id AS fit_partition,"
                " i.state AS fit_state, (SELECT count(*) FROM activations a WHERE a.partition_id = p.id) AS served"
                " FROM partitions p JOIN models m ON m.id = p.model_id LEFT JOIN fits f ON f.id = p.champion_id"
                " LEFT JOIN items i ON i.id = f.id"
            )
        opened = dict(tuple(row) for row in activations)
        assert len(opened) == len(activations), "one open activation for each partition"
        retired_once = {part.id for part in self.parts.values() if not part.champion}
        for row in found:
            assert opened.get(row.id) == row.champion_id
            assert row.considered <= row.due_at
            assert row.trained <= row.considered
            if row.champion_id is not None:
                assert row.fit_state == ItemState.PROMOTED
                assert (row.fit_wanted, row.fit_partition) == (row.trained, row.id)
            elif row.state == "live" and row.id not in retired_once:
                assert not row.served, "from its first promotion until it is retired a partition has a champion"
        # Nobody trains what nobody wants.
        for item in self.items.values():
            if item.open:
                wanted = [run for run in self.wanting(item) if run.open and not run.cancelled]
                assert wanted or item.cancel

    @invariant()
    def an_open_run_has_something_left_to_do(self) -> None:
        for run in getattr(self, "runs", {}).values():
            assert run.open == any(one.open for one in self.of_run(run))

    def drained(self) -> None:
        """P-08: when the queue is empty, nothing that was asked for was lost."""
        self.pause(paused=False)
        for rounds in range(5):
            assert rounds < 4, "work is never done"
            self.clock.advance(seconds=700)
            self.reap()
            owner = self.hired()
            self.plan(SHOP)
            self.plan(SOLO)
            while self.took(owner, 3):
                claim = self.claims[-1]
                self.settle_some(claim, {row.id: self.last_word(row.id) for row in claim.items})
            if not any(one.open for one in self.items.values()):
                break
        self.rows_equal_the_model()
        self.promises_hold()
        for row in self.world.rows(
            "SELECT p.key, p.considered, max(p.wanted, m.wanted) AS due_at FROM partitions p"
            " JOIN models m ON m.id = p.model_id WHERE p.state = 'live'"
        ):
            assert row.considered >= row.due_at, f"the request for {row.key} was lost"
        assert all(not run.open for run in self.runs.values())


_FITTED = (ItemState.PROMOTED, ItemState.REJECTED, ItemState.SHADOWED)
_ENDS = (
    ItemState.PROMOTED,
    ItemState.PROMOTED,
    ItemState.REJECTED,
    ItemState.SKIPPED,
    ItemState.FAILED,
    ItemState.CANCELLED,
)


def run_machine(tmp_path: Path, examples: int, steps: int) -> None:
    template = tmp_path / "template.db"
    made = Store("sqlite:///template.db", tmp_path, clock=ManualClock())
    migrate(made)
    made.close()
    machine = type("Machine", (StoreMachine,), {"template": template})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
def test_the_store_does_what_a_correct_one_may_do_in_any_order(tmp_path: Path) -> None:
    """P-02, P-06, P-08, P-13, P-16, P-20, P-32; T-4. D-1 to D-7."""
    run_machine(tmp_path, examples=150, steps=40)
