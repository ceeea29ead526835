"""Who holds an item may write it, and nobody else: leases, fences, workers that died, clocks that jumped."""

from __future__ import annotations

from pathlib import Path

import pytest

from evertrain.errors import StaleAttempt
from evertrain.events import Kind
from evertrain.states import ItemState
from evertrain.store import items, leases
from evertrain.store.connect import Store

from .test_store_kit import LEASE_S, World, contents, refused


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    made = World(store, tmp_path)
    made.find("Pilar", "Hermosa")
    made.train()
    return made


def test_a_lost_lease_can_neither_record_nor_promote(world):
    """P-06: the lease ran out a moment ago, and nobody has reaped it yet."""
    # given a worker with an item, and its lease at the last moment
    world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)
    world.clock.advance(seconds=LEASE_S)

    # when it writes at that moment, it may; one moment later, nothing it writes has any effect
    world.beat(owner)
    world.clock.advance(seconds=LEASE_S + 0.001)
    for state in (ItemState.PROMOTED, ItemState.REJECTED, ItemState.SKIPPED, ItemState.FAILED):
        with refused(world.store, StaleAttempt):
            world.settle(claim, state)
    with refused(world.store, StaleAttempt):
        world.retry(claim, claim.items[0].id, crashed=True)
    with refused(world.store, StaleAttempt):
        world.beat(owner)
    with refused(world.store, StaleAttempt):
        world.claim(owner)
    before = contents(world.store)
    world.release(claim, [claim.items[0].id])

    # then the store is as it was, and another takes the item up
    assert contents(world.store) == before
    assert world.reap() == 1
    assert world.claim(world.worker()) is not None


def test_a_paused_worker_cannot_write_what_another_took_over(world):
    """P-02, P-06: the same owner and item, another fence."""
    # given an item that was given back and taken again by the very same owner
    world.asked("Pilar")
    owner = world.worker()
    first = world.claim(owner)
    world.release(first, [first.items[0].id])
    second = world.claim(owner)
    assert first.items[0].id == second.items[0].id
    assert first.fence < second.fence

    # when the first try writes late
    with refused(world.store, StaleAttempt):
        world.settle(first)
    with refused(world.store, StaleAttempt):
        world.retry(first, first.items[0].id, crashed=True)

    # then only the second one's verdict counts
    world.settle(second)
    assert world.part("Pilar").champion_id == second.items[0].id
    with refused(world.store, StaleAttempt):
        world.settle(second)


def test_one_stale_item_of_a_batch_keeps_the_whole_write_out(world):
    """P-02: all or nothing; the supervisor then writes each for itself."""
    # given a batch of two of which one was cancelled meanwhile
    run_id = world.asked("Pilar", "Hermosa")
    owner = world.worker()
    claim = world.claim(owner)
    assert len(claim.items) == 2
    world.cancel(run_id)

    # when both are written as promoted, then nothing is
    with refused(world.store, StaleAttempt):
        world.settle(claim)
    # but the end that was asked for may be written
    world.settle(claim, ItemState.CANCELLED)
    assert world.run_state(run_id) == "cancelled"


def test_a_buried_owner_stays_dead_whatever_its_lease_says(world):
    """P-06: an owner is a name for one life."""
    # given a worker that was reaped
    world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)
    world.clock.advance(seconds=LEASE_S + 1)
    world.reap()
    with world.store.write() as tx:
        tx.run("UPDATE workers SET lease_until = 1e12 WHERE owner = :owner", owner=owner)

    # when it comes back, then it may do nothing
    for late in (lambda: world.beat(owner), lambda: world.claim(owner), lambda: world.settle(claim)):
        with refused(world.store, StaleAttempt):
            late()


def test_a_reaper_takes_nothing_from_the_living(world):
    """P-06, P-07: reaping names the owner; one dead worker does not end the others' items."""
    # given two workers, one of which stopped beating
    world.asked("Pilar", "Hermosa")
    dead, living = world.worker(), world.worker()
    lost, kept = world.claim(dead, most=1), world.claim(living, most=1)
    world.clock.advance(seconds=LEASE_S / 2)
    world.beat(living)
    world.clock.advance(seconds=LEASE_S / 2 + 1)

    # when the dead one is reaped
    assert world.reap() == 1

    # then its item waits, and the other's goes on to its end
    assert world.item(lost.items[0].id).state == "waiting"
    assert world.item(kept.items[0].id).state == "running"
    world.settle(kept)
    assert world.reap() == 0


def test_a_restarted_machine_gives_back_what_ran_and_charges_nobody(world):
    """P-05: a new boot id ends every lease at once, though the seconds since boot began anew."""
    world.asked("Pilar")
    claim = world.claim(world.worker())
    world.clock.boot_id, world.clock.since_boot = "boot-2", 5.0

    assert world.reap() == 1

    item = world.item(claim.items[0].id)
    assert (item.state, item.attempt, item.crashes) == ("waiting", 0, 0)
    with refused(world.store, StaleAttempt):
        world.settle(claim)


@pytest.mark.parametrize("days", [1, -1, 400, -400])
def test_a_jump_of_the_wall_clock_neither_ends_nor_stretches_a_lease(world, days):
    """P-20: leases are measured on the clock since boot."""
    world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)

    world.clock.jump(days=days)
    assert world.reap() == 0
    world.clock.advance(seconds=LEASE_S)
    world.settle(claim)

    world.asked("Pilar")
    world.beat(owner)
    late = world.claim(owner)
    world.clock.jump(days=-days)
    world.clock.advance(seconds=LEASE_S + 1)
    with refused(world.store, StaleAttempt):
        world.settle(late)


@pytest.mark.parametrize("days", [-1, -400])
def test_an_item_does_not_wait_for_a_clock_that_was_set_back(world, days):
    """P-20: what may be taken now may still be taken when the wall clock falls behind that moment."""
    # given an item that is ready, and one on its way back after a failed try
    world.asked("Pilar", "Hermosa")
    owner = world.worker()
    claim = world.claim(owner, most=1)
    world.retry(claim, claim.items[0].id, crashed=False)

    # when the clock is set back by far
    world.clock.jump(days=days)

    # then both are taken, without waiting until the clock has caught up
    with world.store.read() as tx:
        assert items.any_ready(tx)
    assert len(world.claim(owner, most=5).items) == 2


def test_a_failed_try_is_repeated_after_its_delay_and_not_before(world):
    """P-10: no retry sooner than five seconds, doubled each time."""
    world.asked("Pilar")
    owner = world.worker()
    for delay in (5, 10):
        claim = world.claim(owner)
        assert world.retry(claim, claim.items[0].id, crashed=False) is ItemState.WAITING
        world.clock.advance(seconds=delay - 0.001)
        with world.store.read() as tx:
            assert not items.any_ready(tx)
        assert world.claim(owner) is None
        world.clock.advance(seconds=0.001)
        world.beat(owner)
    claim = world.claim(owner)
    assert world.retry(claim, claim.items[0].id, crashed=False) is ItemState.FAILED


def test_no_delay_is_longer_than_ten_minutes(store, tmp_path):
    """D-7: 5 * 2^n seconds, at most 10 minutes."""
    from .test_store_kit import SOLO, model_spec

    world = World(store, tmp_path, model_spec(SOLO, max_attempts=20))
    world.plan(SOLO)
    owner = world.worker()
    for _ in range(19):
        world.beat(owner)
        claim = world.claim(owner)
        assert claim is not None
        world.retry(claim, claim.items[0].id, crashed=False)
        for _ in range(21):
            world.clock.advance(seconds=LEASE_S)
            world.beat(owner)
    claim = world.claim(owner)
    assert world.retry(claim, claim.items[0].id, crashed=False) is ItemState.FAILED


def test_the_second_crash_ends_an_item_and_a_third_lost_worker_alone(world):
    """P-10: poison is dead, and dead is for a person or for news."""
    # given an item that kills its child
    world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)
    assert world.retry(claim, claim.items[0].id, crashed=True) is ItemState.WAITING
    world.clock.advance(seconds=10)

    # when it does so again, though tries are left, then it is dead
    claim = world.claim(owner)
    assert len(claim.items) == 1
    assert world.retry(claim, claim.items[0].id, crashed=True) is ItemState.DEAD

    # given an item whose whole worker dies, with a neighbour in the batch
    world.asked("Pilar", "Hermosa")
    first = world.claim(world.worker())
    assert len(first.items) == 2
    for crashes in (1, 2):
        world.clock.advance(seconds=LEASE_S + 1)
        world.reap()
        assert world.item(first.items[0].id).crashes == crashes
        again = world.claim(world.worker())
        assert len(again.items) == 1, "what was there when a process died runs alone"
    # when it dies alone for the third time, then it is dead, and its neighbour is not
    world.clock.advance(seconds=LEASE_S + 1)
    world.reap()
    assert sorted(world.item(one.id).state for one in first.items) == ["dead", "waiting"]


def test_items_of_a_worker_that_left_without_giving_them_back_return(world):
    """P-05, D-1 rule 2: there is no state a process can leave behind that no sweep looks at."""
    # given a worker that ended its lease in good order, but kept an item: a release that failed was suppressed
    run_id = world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)
    with world.store.write() as tx:
        leases.end(tx, owner)

    # when the loop looks for lost workers
    with world.store.read() as tx:
        assert [one for one, _ in leases.lost(tx)] == [owner]
    assert world.reap() == 1

    # then the item waits again, nobody is charged, and the run comes to its end
    item = world.item(claim.items[0].id)
    assert (item.state, item.attempt, item.crashes) == ("waiting", 0, 0)
    world.train()
    assert world.run_state(run_id) == "succeeded"
    with world.store.read() as tx:
        assert leases.lost(tx) == []


def test_a_worker_is_reported_lost_once(world):
    owner = world.worker()
    world.clock.advance(seconds=LEASE_S + 1)
    world.reap()
    world.reap()
    assert [one["owner"] for one in world.events(Kind.WORKER_LOST)] == [owner]


def test_the_result_for_a_partition_that_lost_its_rows_is_skipped_and_harms_no_neighbour(world):
    """P-02: a partition retired while its item ran gets no champion, and the batch goes on."""
    # given a batch of two, one partition of which loses its last row meanwhile
    run_id = world.asked("Pilar", "Hermosa")
    claim = world.claim(world.worker())
    world.retire("Pilar")

    # when the verdicts are written
    assert world.settle(claim) == []

    # then the one is skipped, the other promoted, and the run is over
    by_key = {one.key: one.id for one in claim.items}
    assert world.item(by_key['{"town":"Pilar"}']).state == "skipped"
    assert world.part("Hermosa").champion_id == by_key['{"town":"Hermosa"}']
    assert world.part("Pilar").champion_id is None
    assert world.run_state(run_id) == "succeeded"


def test_a_partition_that_left_and_came_back_is_judged_anew(world):
    """The old item's verdict spoke of a champion that is gone."""
    world.asked("Pilar")
    claim = world.claim(world.worker())
    world.retire("Pilar")
    world.find("Pilar")

    assert world.settle(claim) == [claim.items[0].id]
    assert world.item(claim.items[0].id).state == "running"
    assert world.settle(claim, compared={claim.items[0].id: None}) == []
    part = world.part("Pilar")
    assert part.champion_id == claim.items[0].id
    assert part.wanted > part.considered, "its return was news, and is still to be trained on"


def test_settling_a_full_batch_of_five_hundred_is_one_transaction(store, tmp_path):
    """P-31: items of one batch may share a transaction, at most 500."""
    world = World(store, tmp_path)
    world.find(*[f"T{i:03d}" for i in range(499)])
    run_id = world.plan()
    with store.write() as tx:
        tx.run("UPDATE models SET seconds_each = 0.001")
    owner = world.worker()
    claim = world.claim(owner, most=500)
    assert len(claim.items) == 500

    before = len(world.events(Kind.ITEMS_SETTLED))
    world.settle(claim)

    assert world.events(Kind.ITEMS_SETTLED)[before:] == [{"outcomes": {"promoted": "1-500"}}]
    assert world.run_state(run_id) == "succeeded"
    assert world.rows("SELECT count(DISTINCT epoch) FROM partitions WHERE champion_id IS NOT NULL")[0][0] == 1
