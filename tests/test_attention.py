"""Attention: what needs a human is named with what clears it, and where all is well nothing is."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from evertrain import registry
from evertrain.clock import ManualClock
from evertrain.control import back
from evertrain.control.attention import Need, Urgency, attention
from evertrain.drift.signal import Severity
from evertrain.errors import TrainingError
from evertrain.events import Kind
from evertrain.specs import Cause, Custom
from evertrain.states import ItemState
from evertrain.store import decisions, leases, log, models, sources
from evertrain.store.connect import Store
from evertrain.triggers import Decision

from .api_kit import Api
from .conftest import line_model, write_rows
from .test_report import Past
from .test_store_kit import SHOP, SOLO, model_spec, project_spec


@pytest.fixture
def past(store: Store, tmp_path: Path) -> Past:
    """A store in which all is well: both models serve, and a loop lives."""
    found = Past(store, tmp_path)
    found.find("Pilar", "Hermosa")
    found.train()
    keep_alive(found)
    assert attention(found.opened) == []
    return found


def keep_alive(past: Past) -> str:
    owner = past.worker()
    with past.store.write() as tx:
        leases.take_role(tx, "loop", owner)
        leases.sign(tx, "loop")
    return owner


def needs(past: Past, *codes: str) -> list[Need]:
    found = attention(past.opened)
    assert [one.code for one in found] == list(codes)
    return found


def test_a_pause_names_who_and_since_when(past: Past) -> None:
    since = past.clock.now()
    with past.store.write("ann") as tx:
        models.pause(tx, None, paused=True)
    past.clock.advance(seconds=5)
    with past.store.write("ben") as tx:
        models.pause(tx, SOLO, paused=True)
    everything, one = needs(past, "paused", "paused")

    assert (everything.since, everything.model, everything.command) == (since, None, "resume")
    assert "paused by ann" in everything.text
    assert (one.since, one.model, one.command) == (past.clock.now(), SOLO, f"resume {SOLO}")
    assert "paused by ben" in one.text
    assert one.call is not None
    assert (one.call.method, one.call.path) == ("POST", f"/api/v1/models/{SOLO}/resume")
    with past.store.write() as tx:
        models.pause(tx, None, paused=False)
        models.pause(tx, SOLO, paused=False)
    needs(past)


def test_trainings_that_failed_for_good_are_counted_with_an_example(past: Past) -> None:
    run_id = past.retrained(state=ItemState.FAILED, model=SHOP, towns=["Pilar", "Hermosa"])
    (one,) = needs(past, "failed")

    assert one.text == f"2 trainings of {SHOP} failed for good; earlier models serve: Hermosa: for the test"
    assert one.command == f"runs {run_id} --retry-failed"
    assert one.call is not None
    assert one.call.path == f"/api/v1/runs/{run_id}/retry-failed"
    past.asked("Pilar", "Hermosa")  # somebody did something about it
    needs(past)
    past.train()
    needs(past)


def test_a_dead_item_is_a_training_that_killed_its_process(past: Past) -> None:
    past.asked("", model=SOLO)
    for _ in range(2):
        claim = past.claim(past.worker())
        assert claim is not None
        past.retry(claim, claim.items[0].id, crashed=True)
        past.clock.advance(seconds=20)
        keep_alive(past)
    (one,) = needs(past, "failed")

    assert "1 of them killed their process" in one.text
    assert one.command == "runs 3 --retry-failed"


def test_a_try_that_waits_for_the_next_one_is_told(past: Past) -> None:
    past.asked("", model=SOLO)
    claim = past.claim(past.worker())
    assert claim is not None
    past.retry(claim, claim.items[0].id, crashed=False)
    (one,) = needs(past, "retrying")

    assert one.severity is Urgency.NOTE
    assert "will be tried again: for the test" in one.text


def test_trainings_that_are_due_while_no_loop_runs_are_critical(past: Past) -> None:
    past.clock.advance(minutes=2)  # the loop's lease runs out
    needs(past)
    past.want(["Pilar"])
    (one,) = needs(past, "no_loop")

    assert (one.severity, one.command) == (Urgency.CRITICAL, "start --detach")
    past.plan(SHOP)
    needs(past, "no_loop")
    claim = past.claim(past.worker())  # a person trains in this moment, without a loop
    assert claim is not None
    needs(past)
    past.clock.advance(minutes=2)  # that process is gone as well
    assert [one.code for one in attention(past.opened) if one.code == "orphans"] == ["orphans"]


def test_a_loop_that_gives_no_sign_is_critical_after_five_minutes(past: Past) -> None:
    past.clock.jump(minutes=5)
    needs(past)
    past.clock.jump(seconds=1)
    (one,) = needs(past, "silent_loop")
    assert (one.severity, one.command) == (Urgency.CRITICAL, "stop")


def test_a_request_that_waits_for_an_hour_is_told_unless_it_is_held(past: Past) -> None:
    run_id = past.asked("Pilar")
    past.clock.jump(hours=1)
    with past.store.write() as tx:
        leases.sign(tx, "loop")
    needs(past)
    past.clock.jump(seconds=1)
    (one,) = needs(past, "slow_queue")
    assert one.command == f"runs {run_id}"
    with past.store.write("ann") as tx:
        models.pause(tx, SHOP, paused=True)
    needs(past, "paused")


def test_a_source_that_cannot_be_used_names_the_way_to_have_it_read_again(past: Past) -> None:
    with past.store.write() as tx:
        sources.looked(tx, "rows", None, "rows.csv does not exist")
        sources.looked(tx, "unused", None, "nobody reads this")
    (one,) = needs(past, "source")
    assert one.text == "rows cannot be used, and its models wait: rows.csv does not exist"
    assert one.command == f"trigger {SHOP}"

    with past.store.write() as tx:
        sources.looked(tx, "rows", None, "fell from 100 to 3 rows; `evertrain trigger MODEL --force` accepts it")
    (one,) = needs(past, "source")
    assert one.command == f"trigger {SHOP} --force"
    assert one.call is not None
    assert one.call.body == {"partitions": None, "force": True}


def test_a_model_of_which_nothing_serves_says_why(store: Store, tmp_path: Path) -> None:
    past = Past(store, tmp_path, model_spec(SOLO))
    keep_alive(past)
    (one,) = needs(past, "no_model")
    assert (one.severity, one.command) == (Urgency.CRITICAL, f"trigger {SOLO}")
    assert one.text == f"{SOLO} has no model: nothing was trained yet"

    past.retrained(state=ItemState.SKIPPED)
    (one,) = needs(past, "no_model")
    assert one.text == f"{SOLO} has no model: the last training skipped (Insufficient samples: 3 < 10)"
    past.declare(model_spec(SOLO, auto="off"))
    (one,) = needs(past, "no_model")
    assert one.severity is Urgency.NOTE  # who trains by hand alone knows
    past.asked("", model=SOLO)
    needs(past)  # it is being trained


def test_three_refusals_in_a_row_are_told_and_two_are_not(past: Past) -> None:
    for _ in range(2):
        past.retrained(state=ItemState.REJECTED, gain=-20.0)
        past.clock.advance(seconds=1)
    needs(past)
    past.retrained(state=ItemState.REJECTED, gain=-20.0)
    (one,) = needs(past, "refused")
    assert (one.model, one.command) == (SOLO, f"why {SOLO}")
    assert "the last 3 challengers" in one.text
    past.retrained(state=ItemState.PROMOTED, gain=1.0)
    needs(past)


def test_a_pin_is_told_once_it_holds_back_a_model_that_passed(past: Past) -> None:
    with past.store.write() as tx:
        registry.pin(tx, past.ids[SOLO], SOLO, None, pinned=True)
    needs(past)
    past.retrained(gain=3.0)
    (one,) = needs(past, "pinned")
    assert one.command == f"rollback {SOLO} --unpin"
    with past.store.write() as tx:
        registry.pin(tx, past.ids[SOLO], SOLO, None, pinned=False)
    needs(past)


def test_damaged_bytes_are_told_until_the_partition_is_trained_anew(past: Past) -> None:
    past.bytes = '{"second": 1}'
    past.retrained(gain=1.0)
    with past.store.write() as tx:
        fit = registry.champion(tx, past.ids[SOLO], past.part("", SOLO, tx).key)
        assert fit is not None
        registry.condemn(tx, SOLO, fit, "the digest is another")
    (one,) = needs(past, "damaged")
    assert (one.severity, one.command) == (Urgency.WARNING, f"trigger {SOLO} --force")
    assert "earlier ones serve" in one.text
    past.retrained(gain=1.0)
    needs(past)


def test_damaged_bytes_of_one_partition_ask_for_that_one_alone(past: Past) -> None:
    with past.store.write() as tx:
        fit = registry.champion(tx, past.ids[SHOP], past.part("Pilar", SHOP, tx).key)
        assert fit is not None
        registry.condemn(tx, SHOP, fit, "the digest is another")
    (one,) = needs(past, "damaged")

    assert one.severity is Urgency.CRITICAL  # there is no earlier one
    assert one.command == f"""trigger {SHOP} --partition '{{"town":"Pilar"}}' --force"""
    assert one.call is not None
    assert one.call.body == {"partitions": [{"town": "Pilar"}], "force": True}


@pytest.mark.parametrize(
    ("action", "command"), [("observe", f"trigger {SOLO}"), ("report", f"why {SOLO}"), ("train", None)]
)
def test_drift_that_was_only_observed_waits_for_a_person(past: Past, action: str, command: str | None) -> None:
    with past.store.write() as tx:
        decision = Decision(Cause.DRIFT, "drift", True, "x", "errors rose by 40 %", Severity.HIGH)
        decisions.record(tx, past.ids[SOLO], SOLO, decision, action=action)
    if command is None:
        needs(past)
        return
    (one,) = needs(past, "drift")
    assert (one.command, one.severity) == (command, Urgency.WARNING)
    assert one.text.startswith(f"{SOLO}: errors rose by 40 %; ")
    past.clock.advance(seconds=1)
    past.retrained(Cause.MANUAL)
    needs(past)


def test_a_retraining_by_hand_that_made_it_worse_names_the_way_back_for_a_week(past: Past) -> None:
    """S1-32."""
    past.bytes = '{"another": 1}'
    run_id = past.retrained(Cause.MANUAL, gain=-8.0)
    (one,) = needs(past, "worse")
    assert one.command == f"rollback {SOLO} --run {run_id}"
    assert one.call is not None
    assert (one.call.path, one.call.body) == (f"/api/v1/models/{SOLO}/rollback", {"run": run_id})
    past.clock.advance(days=7, seconds=1)
    keep_alive(past)
    needs(past)


def test_a_message_that_cannot_be_delivered_is_told_without_its_address(past: Past) -> None:
    name = "notify:slack://token:secret@host"
    with past.store.write() as tx:
        log.move_cursor(tx, name, 1)
        log.delay_cursor(tx, name, 1, past.clock.now())
        tx.event(Kind.NOTIFY_FAILED, channel=name, problem="no route", tries=1)
    (one,) = needs(past, "notify")
    assert one.text == "a message by slack://… is not delivered after 1 try: no route"
    with past.store.write() as tx:
        log.move_cursor(tx, name, 2)
    needs(past)
    with past.store.write() as tx:
        tx.event(Kind.NOTIFY_FAILED, channel=name, problem="no route", tries=8)
    (one,) = needs(past, "notify")
    assert "was given up after 8 tries" in one.text


def test_what_a_blackout_holds_is_for_information(past: Past) -> None:
    with past.store.write() as tx:
        models.apply(
            tx, project_spec(model_spec(SHOP, partition_by=["town"]), model_spec(SOLO), blackout=("00:00-23:59",)), "x"
        )
    past.asked("Pilar", cause=Cause.AGE)
    (one,) = needs(past, "blackout")
    assert (one.severity, one.command) == (Urgency.NOTE, f"trigger {SHOP}")
    assert f"a blackout of {SHOP} holds 1 training back, for " in one.text


def test_the_most_urgent_comes_first_and_of_those_what_is_so_for_longest(past: Past) -> None:
    past.retrained(state=ItemState.FAILED)
    past.clock.advance(seconds=5)
    with past.store.write("ann") as tx:
        models.pause(tx, SHOP, paused=True)
    past.want([""], model=SHOP)
    past.clock.advance(minutes=2)

    found = needs(past, "no_loop", "failed", "paused")
    assert [one.severity for one in found] == [Urgency.CRITICAL, Urgency.WARNING, Urgency.WARNING]


def test_a_look_costs_what_is_wrong_and_not_what_exists(past: Past) -> None:
    """SQLite's own count of its steps: twenty thousand partitions that are well cost what twenty do."""
    add(past, 20)
    few = steps(past)
    add(past, 20_000)
    many = steps(past)

    assert many < 2 * few
    with past.store.write() as tx:
        tx.run(
            "UPDATE partitions SET outcome = 'failed', outcome_reason = 'no rows' WHERE champion_id = 1 AND id % 10 = 0"
        )
    (one,) = needs(past, "failed")
    assert one.text.startswith(f"2002 trainings of {SHOP} failed for good")


def add(past: Past, number: int) -> None:
    many = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})"
    at = "'2026-01-05T00:00:00.000000Z'"
    with past.store.write() as tx:
        tx.run(
            f"{many} INSERT INTO partitions(model_id, key, leaf, outcome, considered_at, champion_id, trained_at)"
            f" SELECT {past.ids[SHOP]}, json_object('town', 'T{number}-' || i), 1, 'promoted', {at}, 1, {at} FROM n"
        )


def steps(past: Past) -> int:
    """How many steps SQLite takes for one look."""
    counted: list[int] = []

    def count(driver: Any, *_: object) -> None:
        driver.set_progress_handler(lambda: counted.append(1), 1)

    event.listen(past.store._engine, "checkout", count)
    needs(past)
    event.remove(past.store._engine, "checkout", count)
    assert len(counted) > 300
    return len(counted)


# --- what is named works ----------------------------------------------------------------------------------------


@pytest.fixture
def typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Types a command as a person would, in a project of which the store knows the declaration."""
    from evertrain.cli.commands import app

    def type_(command: str) -> str:
        capsys.readouterr()
        app(["-C", str(folder), *shlex.split(command)], standalone_mode=False)
        return capsys.readouterr().out

    return type_


@pytest.fixture
def world(make, folder: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real project whose trainer does what a test says."""
    monkeypatch.chdir(folder)
    project = make(clock=clock)
    write_rows(folder / "rows.csv")
    (folder / "evertrain.toml").write_text('name = "test"\nexecutor = "inline"\n')
    line_model(project, trainer=Custom("toys:Unruly"), max_attempts=1)
    return project


@pytest.mark.parametrize("by", ["command", "call"])
def test_what_stands_by_a_need_clears_it(world: Any, folder: Path, clock: ManualClock, typed, by: str) -> None:
    """With a real project: no model, a pause, a failed training, a pin; by what is typed and by what is requested."""
    api = Api(world)

    def clear(code: str) -> None:
        (one,) = [one for one in attention(world.opened) if one.code == code]
        if by == "command":
            typed(one.command)
            return
        assert one.call is not None
        answer = api.client.request(one.call.method, one.call.path, json=one.call.body)
        assert answer.status_code < 300, answer.text
        if "run" in answer.json():
            api.train(answer.json()["run"])

    assert [one.code for one in attention(world.opened)] == ["no_loop", "no_model"]
    clear("no_model")
    assert attention(world.opened) == []

    typed("pause")
    back.pin(world.opened, "line", pinned=True, actor="ann")
    clock.advance(seconds=1)
    clear("paused")
    (folder / "orders").write_text("raise")
    with contextlib.suppress(TrainingError):
        world.trigger("line", force=True)
    (folder / "orders").unlink()
    (one,) = attention(world.opened)
    assert one.code == "failed"
    assert "the trainer is unwell" in one.text
    clear("failed")
    assert [one.code for one in attention(world.opened)] == ["pinned"]
    clear("pinned")
    assert attention(world.opened) == []


def test_rows_that_a_batch_set_aside_are_told_with_their_list_until_they_are_sent_again(make, folder: Path) -> None:
    project = make()
    rows = project.dataset("harvests", key="record", on_bad_rows="set_aside")
    (folder / "a.csv").write_text("record,kg\n" + "".join(f"{i},{i}.5\n" for i in range(50)) + 'x7,oops\n51,"many"\n')
    rows.ingest(folder / "a.csv")
    found = [one for one in attention(project.opened) if one.code == "set_aside"]

    assert len(found) == 1
    assert found[0].file is not None
    assert Path(found[0].file).is_file()
    assert found[0].command == "batches harvests"
    (folder / "a.csv").write_text("record,kg\n50,1.5\n51,2.5\n")
    rows.ingest(folder / "a.csv")
    assert [one for one in attention(project.opened) if one.code == "set_aside"] == []


def test_the_command_tells_what_needs_somebody_and_when_nothing_does(
    make, folder: Path, clock: ManualClock, typed
) -> None:
    project = make(clock=clock)
    (folder / "evertrain.toml").write_text('name = "test"\nexecutor = "inline"\n')
    assert typed("attention").startswith("Nothing needs you.\nNext: ")
    assert json.loads(typed("attention --json")) == []
    write_rows(folder / "rows.csv")
    line_model(project)
    project.trigger("line")
    typed("pause line")

    shown = typed("attention").splitlines()
    assert shown[0].startswith("warning: line was paused by ")
    assert shown[1].endswith(f"-C {folder} resume line")
    assert shown[-1] == f"Next: {shown[1].strip()}"
    (told,) = json.loads(typed("attention --json"))
    assert (told["code"], told["severity"], told["model"]) == ("paused", "warning", "line")
    assert told["call"] == {"method": "POST", "path": "/api/v1/models/line/resume", "body": None}
