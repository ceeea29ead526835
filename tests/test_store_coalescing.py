"""Many requests, little training: joining, cancelling, urgency, and trying again what failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertrain.config import Home, Settings
from evertrain.control import ask
from evertrain.control.opened import Opened
from evertrain.errors import Conflict
from evertrain.partitions import WHOLE
from evertrain.plan import PRIORITY
from evertrain.specs import Cause
from evertrain.states import ItemState
from evertrain.store import demand, leases, runs
from evertrain.store.connect import Store

from .test_store_kit import LEASE_S, SHOP, SOLO, World, model_spec


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    made = World(store, tmp_path)
    made.find("Pilar", "Hermosa", "Lima")
    made.train()
    return made


def opened(world: World) -> Opened:
    return Opened(Home(world.artifacts.folder.parent), world.store, Settings())


# --- a thousand requests ------------------------------------------------------------------------------------------


def test_a_thousand_requests_for_one_partition_are_one_waiting_item(world):
    """P-08, D-3: each is planned at once, and each requester sees the one outcome."""
    # when a thousand people ask, each for itself
    asked = [world.asked("Pilar", cause=Cause.MANUAL) for _ in range(1000)]

    # then one item waits, which all runs share
    assert world.states() == {"promoted": 5, "waiting": 1}
    claim = world.claim(world.worker())
    assert [one.id for one in claim.items] == [6]
    world.settle(claim)
    assert {world.run_state(one) for one in asked} == {"succeeded"}
    assert {tuple(world.states(one).items()) for one in asked[::100]} == {(("promoted", 1),)}


def test_requests_during_training_wait_in_one_item_that_starts_afterwards(world):
    """P-08: the running item may have read its data already, so nothing merges into it."""
    # given an item in training
    first = world.asked("Pilar")
    worker, other = world.worker(), world.worker()
    claim = world.claim(worker)

    # when a thousand more requests come
    later = [world.asked("Pilar") for _ in range(1000)]

    # then one waits, and nobody takes it while the first runs
    assert world.states() == {"promoted": 5, "running": 1, "waiting": 1}
    assert world.claim(other) is None
    world.settle(claim)
    assert world.run_state(first) == "succeeded"
    assert {world.run_state(one) for one in later} == {"queued"}

    # and afterwards that one training is all that is owed
    again = world.claim(other)
    assert len(again.items) == 1
    world.settle(again)
    assert {world.run_state(one) for one in later} == {"succeeded"}
    assert world.train() == 0


def test_a_thousand_edits_before_a_look_are_one_retraining(world):
    """P-08: what is wanted is a level, not a list."""
    commits = [world.want(["Pilar"]) for _ in range(1000)]
    assert commits == list(range(commits[0], commits[0] + 1000))

    assert world.train() == 1

    part = world.part("Pilar")
    assert part.considered == part.trained == part.wanted == commits[-1]


def test_a_request_between_reading_and_writing_is_not_lost(world):
    """P-08, T-4 "trigger between read and finalize": it was not read, so it is still owed."""
    # given an item that has read its data
    world.asked("Pilar")
    claim = world.claim(world.worker())
    # when an edit comes before its verdict is written, whatever the verdict
    news = world.want(["Pilar"])
    world.settle(claim, ItemState.REJECTED)
    # then the partition is due
    part = world.part("Pilar")
    assert part.considered < news == part.wanted
    assert world.train() == 1
    assert world.part("Pilar").considered == news


@pytest.mark.parametrize("state", [ItemState.REJECTED, ItemState.SKIPPED, ItemState.FAILED, ItemState.SHADOWED])
def test_what_ended_without_promotion_is_considered_and_not_owed_again(world, state):
    """DESIGN, level-triggered: promoted, rejected, skipped and finally failed all set considered."""
    world.asked("Pilar")
    before = world.part("Pilar")
    world.settle(world.claim(world.worker()), state)

    part = world.part("Pilar")
    assert part.considered == part.wanted
    assert (part.trained, part.champion_id) == (before.trained, before.champion_id)
    assert world.train() == 0


def test_a_retry_sets_neither_considered_nor_trained(world):
    world.asked("Pilar")
    before = world.part("Pilar")
    claim = world.claim(world.worker())
    world.retry(claim, claim.items[0].id, crashed=False)
    after = world.part("Pilar")
    assert (after.considered, after.trained) == (before.considered, before.trained)
    assert after.considered < after.wanted


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(["Pilar", "Hermosa", "Lima"]), min_size=1), st.sampled_from(list(Cause))),
        min_size=1,
        max_size=8,
    )
)
def test_however_requests_overlap_each_partition_is_trained_once(tmp_path_factory, requests):
    """P-08: the number of fits is the number of partitions asked for."""
    from evertrain.clock import ManualClock
    from evertrain.store.migrations import migrate

    folder = tmp_path_factory.mktemp("overlap")
    store = Store("sqlite:///evertrain.db", folder, clock=ManualClock())
    migrate(store)
    world = World(store, folder)
    world.find("Pilar", "Hermosa", "Lima")
    world.train()

    asked = [world.asked(*sorted(towns), cause=cause) for towns, cause in requests]

    assert world.train() == len(set().union(*(towns for towns, _ in requests)))
    assert {world.run_state(one) for one in asked} == {"succeeded"}
    store.close()


# --- joining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "ended"),
    [(ItemState.PROMOTED, "succeeded"), (ItemState.REJECTED, "succeeded"), (ItemState.FAILED, "failed")],
)
def test_two_runs_that_want_one_partition_share_its_item_and_its_outcome(world, state, ended):
    """D-3, promise 1: every requester sees the outcome."""
    # given one run for two towns, and one that wants one of them too
    first = world.asked("Pilar", "Hermosa")
    second = world.asked("Pilar")
    assert world.rows("SELECT items, joined, partitions FROM runs WHERE id = :id", id=second)[0] == (0, 1, 1)

    # when the shared item is taken, then both runs have begun
    owner = world.worker()
    claim = world.claim(owner, most=1)
    assert (world.run_state(first), world.run_state(second)) == ("running", "running")

    # and when it ends, the second is over while the first goes on
    world.settle(claim, state)
    assert (world.run_state(first), world.run_state(second)) == ("running", ended)
    assert world.states(second) == {str(state): 1}
    world.settle(world.claim(owner), ItemState.PROMOTED)
    assert world.run_state(first) == ("partial" if ended == "failed" else "succeeded")


def test_a_correction_that_joins_a_refresh_makes_it_a_correction(world):
    """DESIGN: why an item runs decides how it is judged; the stronger reason wins, and force stays."""
    world.asked("Pilar", cause=Cause.AGE)
    world.asked("Pilar", cause=Cause.MANUAL, forced=True)
    world.asked("Pilar", cause=Cause.SCHEDULE)

    item = world.claim(world.worker()).items[0]

    assert (item.cause, item.correction, item.forced) == (Cause.MANUAL, 1, 1)


def test_a_refresh_does_not_soften_a_correction_that_was_not_planned_yet(world):
    world.want(["Pilar"], Cause.DATA_CHANGE)
    world.want(["Pilar"], Cause.AGE)
    world.want(None, Cause.MANUAL)
    world.want(None, Cause.SCHEDULE)
    world.plan()
    causes = {row.key: row.cause for row in world.claim(world.worker()).items}
    assert causes['{"town":"Pilar"}'] == Cause.MANUAL
    assert set(causes.values()) == {Cause.MANUAL}


def test_a_superseded_try_hands_its_requesters_to_the_one_that_waits(world):
    """D-7: an item whose sibling waits ends superseded, and its run ends with the sibling's outcome."""
    first = world.asked("Pilar")
    owner = world.worker()
    claim = world.claim(owner)
    second = world.asked("Pilar")

    assert world.retry(claim, claim.items[0].id, crashed=False) is ItemState.SUPERSEDED
    assert (world.run_state(first), world.run_state(second)) == ("running", "queued")

    world.settle(world.claim(owner), ItemState.FAILED)
    assert (world.run_state(first), world.run_state(second)) == ("partial", "failed")
    assert world.states(first) == {"superseded": 1, "failed": 1}


# --- urgency ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_urgent_edit_passes_a_full_run_of_ten_thousand(store, tmp_path):
    """Promise 1: claims go by item, and a request lifts the priority of the item it joins."""
    # given a full run by the clock over ten thousand partitions
    world = World(store, tmp_path)
    names = [f"T{i:05d}" for i in range(10_000)]
    world.find(*names)
    with store.write() as tx:
        tx.run("UPDATE partitions SET considered = wanted, planned = wanted")
        tx.run("UPDATE models SET seconds_each = 0.01")
    world.want(None, Cause.SCHEDULE)
    full = world.plan()
    assert world.states() == {"waiting": 10_001}

    # when one edit asks for the last of them
    urgent = world.asked(names[-1], cause=Cause.MANUAL)

    # then that one is taken first, and its requester is served before the full run is
    owner = world.worker()
    claim = world.claim(owner, most=1)
    assert [one.key for one in claim.items] == [f'{{"town":"{names[-1]}"}}']
    world.settle(claim)
    assert (world.run_state(urgent), world.run_state(full)) == ("succeeded", "running")

    # and without it the order is that of the plan, partitions before their rollup
    claim = world.claim(owner, most=500)
    assert [one.key for one in claim.items] == [f'{{"town":"{one}"}}' for one in names[:500]]
    assert world.states() == {"promoted": 1, "running": 500, "waiting": 9500}


def test_people_come_before_data_and_data_before_the_clock(world):
    world.asked("Pilar", cause=Cause.AGE)
    world.asked("Hermosa", cause=Cause.DATA_CHANGE)
    world.asked("Lima", cause=Cause.MANUAL)
    owner = world.worker()
    taken = [world.claim(owner, most=1).items[0].key for _ in range(3)]
    assert taken == ['{"town":"Lima"}', '{"town":"Hermosa"}', '{"town":"Pilar"}']
    assert PRIORITY[Cause.MANUAL] > PRIORITY[Cause.DATA_CHANGE] > PRIORITY[Cause.AGE]


# --- cancelling ---------------------------------------------------------------------------------------------------


def test_cancelling_a_waiting_run_ends_it_at_once(world):
    """P-13: queued: at once; nothing is trained, and nothing is owed for it."""
    run_id = world.asked("Pilar", "Hermosa")
    assert world.cancel(run_id) == "cancelled"
    assert world.states(run_id) == {"cancelled": 2}
    assert world.train() == 0
    assert world.cancel(run_id) == "cancelled"


def test_cancelling_a_running_item_forbids_its_promotion(world):
    """P-13: the champion stays, whenever the worker notices."""
    run_id = world.asked("Pilar")
    before = world.part("Pilar").champion_id
    owner = world.worker()
    claim = world.claim(owner)
    assert world.cancel(run_id) == "running"

    for state in (ItemState.PROMOTED, ItemState.REJECTED):
        with pytest.raises(Exception, match="no longer held"):
            world.settle(claim, state)
    world.settle(claim, ItemState.CANCELLED)

    assert world.run_state(run_id) == "cancelled"
    assert world.part("Pilar").champion_id == before


@pytest.mark.parametrize("how", ["reaped", "released", "retried"])
def test_a_cancelled_item_of_a_worker_that_is_gone_is_cancelled(world, how):
    """P-13: the reaper finishes what the worker cannot."""
    run_id = world.asked("Pilar")
    claim = world.claim(world.worker())
    world.cancel(run_id)

    if how == "reaped":
        world.clock.advance(seconds=LEASE_S + 1)
        world.reap()
    elif how == "released":
        world.release(claim, [claim.items[0].id])
    else:
        world.retry(claim, claim.items[0].id, crashed=True)

    assert world.run_state(run_id) == "cancelled"
    assert world.train() == 0


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("home_first", [False, True])
def test_cancelling_one_run_leaves_what_the_other_wants(world, begun, home_first):
    """Promise 1: cancel removes only items that nobody else wants."""
    # given two runs that share one town
    first, second = world.asked("Pilar", "Hermosa"), world.asked("Pilar", "Lima")
    owner = world.worker()
    claim = world.claim(owner, most=1) if begun else None
    gone, stays = (first, second) if home_first else (second, first)

    # when one of them is cancelled
    assert world.cancel(gone) == "cancelled"

    # then its requester hears so at once, and the other gets all it asked for
    if claim is not None:
        assert claim.items[0].key == '{"town":"Pilar"}'
        world.settle(claim)
    world.settle(world.claim(owner))
    assert world.run_state(stays) == "succeeded"
    assert world.states(stays) == {"promoted": 2}
    assert world.train() == 0


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("home_first", [False, True])
def test_what_every_requester_cancelled_is_not_trained(world, begun, home_first):
    """P-13: in whichever order they cancel."""
    first, second = world.asked("Pilar"), world.asked("Pilar")
    before = world.part("Pilar").champion_id
    claim = world.claim(world.worker()) if begun else None

    for run_id in (first, second) if home_first else (second, first):
        world.cancel(run_id)

    if claim is not None:
        with pytest.raises(Exception, match="no longer held"):
            world.settle(claim)
        world.settle(claim, ItemState.CANCELLED)
    assert (world.run_state(first), world.run_state(second)) == ("cancelled", "cancelled")
    assert world.part("Pilar").champion_id == before
    assert world.train() == 0


def test_a_run_that_only_joined_can_be_cancelled_after_some_of_it_ended(world):
    """P-13: it has no items of its own, and one of those it joined has ended."""
    world.asked("Pilar", "Hermosa")
    joining = world.asked("Pilar", "Hermosa")
    owner = world.worker()
    world.settle(world.claim(owner, most=1))

    world.cancel(joining)

    assert world.run_state(joining) == "succeeded"
    assert world.states(joining) == {"promoted": 1}


def test_a_fit_of_an_item_that_moved_belongs_to_the_version_of_its_new_run(world):
    """A version is the fits of one run; the run that was cancelled fitted nothing."""
    first, second = world.asked("Pilar"), world.asked("Pilar")
    claim = world.claim(world.worker())
    world.cancel(first)
    world.settle(claim)
    found = world.rows(
        "SELECT v.run_id FROM fits f JOIN versions v ON v.id = f.version_id WHERE f.id = :id", id=claim.items[0].id
    )
    assert [row[0] for row in found] == [second]
    assert world.rows("SELECT count(*) FROM versions WHERE run_id = :run", run=first)[0][0] == 0


# --- trying again -------------------------------------------------------------------------------------------------


def test_a_retry_trains_what_failed_and_nothing_else(world):
    """Failed, dead and cancelled ones; what was promoted or refused has its answer."""
    run_id = world.asked("Pilar", "Hermosa", "Lima")
    owner = world.worker()
    claim = world.claim(owner)
    by_key = {one.key: one.id for one in claim.items}
    world.settle(
        claim,
        {
            by_key['{"town":"Pilar"}']: ItemState.PROMOTED,
            by_key['{"town":"Hermosa"}']: ItemState.FAILED,
            by_key['{"town":"Lima"}']: ItemState.REJECTED,
        },
    )
    assert world.run_state(run_id) == "partial"

    again = ask.retry_failed(opened(world), run_id, "ann")

    assert again.partitions == 1
    claim = world.claim(owner)
    assert [(one.key, one.forced, one.cause) for one in claim.items] == [('{"town":"Hermosa"}', 1, "manual")]


def test_a_run_whose_joined_item_failed_can_be_retried(world):
    """Every requester sees the outcome, and may act on it."""
    world.asked("Pilar")
    joining = world.asked("Pilar")
    world.settle(world.claim(world.worker()), ItemState.FAILED)
    assert world.run_state(joining) == "failed"

    again = ask.retry_failed(opened(world), joining, "ann")

    assert again.partitions == 1
    with world.store.read() as tx:
        assert runs.first_failure(tx, joining) is not None


def test_a_retry_of_a_partition_that_is_gone_says_so(world):
    run_id = world.asked("Pilar")
    world.settle(world.claim(world.worker()), ItemState.FAILED)
    world.retire("Pilar")
    with pytest.raises(Conflict, match="nothing"):
        ask.retry_failed(opened(world), run_id, "ann")


def test_a_retry_where_nothing_failed_says_so(world):
    run_id = world.asked("Pilar")
    world.settle(world.claim(world.worker()))
    with pytest.raises(Conflict, match="nothing failed in run"):
        ask.retry_failed(opened(world), run_id, "ann")


# --- whole models -------------------------------------------------------------------------------------------------


def test_a_request_for_a_whole_model_touches_one_row(world):
    """Cost: partitions are enumerated when the plan is made, never when it is asked for."""
    before = [tuple(row) for row in world.rows("SELECT * FROM partitions")]
    commit = world.want(None, Cause.AGE)
    assert [tuple(row) for row in world.rows("SELECT * FROM partitions")] == before
    with world.store.read() as tx:
        assert demand.models_to_plan(tx) == [world.ids[SHOP]]
        assert demand.counts(tx, world.ids[SHOP])["due"] == 4

    assert world.train() == 4
    assert {row[0] for row in world.rows("SELECT considered FROM partitions WHERE model_id = 1")} == {commit}


def test_a_whole_model_without_partitions_is_not_planned_on_every_tick(store, tmp_path):
    """A tick costs what changed: the request stays, and is planned when the first partition is found."""
    # given a model whose source was never read, and a request for it
    world = World(store, tmp_path, model_spec(SHOP, partition_by=["town"]))
    world.want(None, Cause.MANUAL)

    # then there is nothing to plan, so the loop may be idle
    with store.read() as tx:
        assert demand.models_to_plan(tx) == []

    # and when partitions appear, they are trained
    world.find("Pilar")
    with store.read() as tx:
        assert demand.models_to_plan(tx) == [world.ids[SHOP]]
    assert world.train() == 2
    with store.read() as tx:
        assert demand.models_to_plan(tx) == []


def test_a_partition_found_while_a_full_run_goes_on_is_trained_too(world):
    world.want(None, Cause.SCHEDULE)
    world.plan()
    world.find("Quito")
    assert world.train() == 5
    assert world.part("Quito").champion_id is not None


def test_a_paused_project_takes_nothing_and_forgets_nothing(world):
    from evertrain.store import models

    with world.store.write() as tx:
        models.pause(tx, SOLO, paused=True)
    world.asked("Pilar")
    world.asked(model=SOLO)
    world.want([""], model=SOLO)
    solo = world.plan(SOLO)
    owner = world.worker()
    assert {one.model_id for one in [world.claim(owner)] if one} == {world.ids[SHOP]}
    assert world.claim(owner) is None
    with world.store.write() as tx:
        models.pause(tx, SOLO, paused=False)
        models.pause(tx, None, paused=True)
    assert world.claim(owner) is None
    with world.store.write() as tx:
        models.pause(tx, None, paused=False)
        leases.check(tx, owner)
    assert world.claim(owner).model_id == world.ids[SOLO]
    assert world.run_state(solo) == "running"


def test_a_partition_that_returns_is_due_and_keeps_its_history(world):
    world.retire("Pilar")
    part = world.part("Pilar")
    assert (part.state, part.champion_id) == ("retired", None)
    fits = world.rows("SELECT count(*) FROM fits WHERE partition_id = :id", id=part.id)[0][0]

    world.find("Pilar")
    assert world.train() == 1

    part = world.part("Pilar")
    assert part.champion_id is not None
    assert world.rows("SELECT count(*) FROM fits WHERE partition_id = :id", id=part.id)[0][0] == fits + 1
    assert world.part("", SHOP).key == WHOLE
