"""Triggers: every evaluation is a decision with a reason, and what it causes is trained once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evertrain import (
    Custom,
    Gate,
    Project,
    Settings,
    daily,
    max_age,
    on_data_change,
    on_environment_change,
    on_score_drop,
    triggers,
)
from evertrain.clock import ManualClock
from evertrain.control import ask, tick
from evertrain.specs import Cause, Environment, MaxAge, ModelSpec, Schedule, ScoreDrop
from evertrain.store import decisions, models
from evertrain.store.connect import Record

from .conftest import line_model, write_rows


class Monitor:
    """The loop's own steps on a clock that stands still: `settle` looks and works until nothing is left to do."""

    def __init__(self, project: Project, clock: ManualClock) -> None:
        self.project, self.clock, self.opened = project, clock, project.opened
        self.hands, self.memory = self.opened.supervisor(), tick.Memory()

    def look(self, *hints: str) -> None:
        tick.look(self.opened, self.hands, self.memory, hints)
        for _ in range(30):
            self.hands.step(0)
            if not self.hands.busy:
                return
        pytest.fail("the work never comes to rest")

    def settle(self, *hints: str) -> None:
        self.look(*hints)
        for _ in range(1000):
            if not self.memory.looked:
                break
            self.clock.advance(seconds=1)
            self.look()
        self.look()

    def check(self) -> None:
        """Let the time of the next regular check come, and settle."""
        self.clock.advance(seconds=self.opened.settings.check_s)
        self.settle()

    def force(self, model: str, *partitions: dict[str, Any]) -> None:
        ask.trigger(self.opened, model, partitions or None, force=True, actor="ann")
        self.settle()

    def rows(self, sql: str, **params: object) -> list[Record]:
        with self.opened.store.read() as tx:
            return list(tx.rows(sql, **params))

    def fits(self, model: str = "line") -> list[tuple[str, str, str]]:
        """Every item: the values of its key, its cause and its state, in order."""
        found = self.rows(
            "SELECT p.key, i.cause, i.state FROM items i JOIN partitions p ON p.id = i.partition_id"
            " JOIN models m ON m.id = p.model_id WHERE m.name = :model ORDER BY i.id",
            model=model,
        )
        return [("/".join(map(str, json.loads(row[0]).values())), row[1], row[2]) for row in found]

    def decisions(self, model: str = "line", rule: str | None = None) -> list[Record]:
        """Every decision of a rule, oldest first."""
        with self.opened.store.read() as tx:
            found = decisions.history(tx, models.by_name(tx, model).id, 1000)
        return [one for one in sorted(found, key=lambda one: one.id) if rule in (None, one.rule)]

    def last(self, rule: str = "data_change", model: str = "line") -> Record:
        return self.decisions(model, rule)[-1]

    def reason(self, rule: str = "data_change", model: str = "line") -> str:
        return str(self.last(rule, model).reason)

    def close(self) -> None:
        self.hands.close()


Watch = Callable[..., Monitor]


@pytest.fixture
def watch(make, clock: ManualClock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Return a maker of monitors: `declare(project)` declares, options are the project's."""
    monkeypatch.chdir(folder)  # trainers in this process find the folder as children do
    made: list[Monitor] = []

    def build(declare: Callable[[Project], None] = line_model, **options: object) -> Monitor:
        # The lease is about processes, and not what time passes for here.
        project = make(settings=Settings(check_s=300, lease_s=1e9), clock=clock, **options)
        declare(project)
        made.append(Monitor(project, clock))
        return made[-1]

    yield build
    for one in made:
        one.close()


def declaring(**options: Any) -> Callable[[Project], None]:
    return lambda project: line_model(project, **options)


def spec(**options: Any) -> ModelSpec:
    return ModelSpec("line", "rows", **{"target": "y", "trainer": Custom("toys:Line"), **options})


# --- every evaluation answers -----------------------------------------------------------------------------------


def test_the_age_counts_from_the_training_and_not_from_the_file(watch: Watch, folder: Path) -> None:
    """S2-08 as decided in 4.6 (9): one step before the limit nothing, one after it a training."""
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(triggers=[max_age("24h")]))
    monitor.settle()

    monitor.clock.advance(hours=24, seconds=-10)
    monitor.settle()
    assert (monitor.last("age").fired, monitor.last("age").code) == (0, "young")
    assert "of 24 h" in monitor.reason("age")
    monitor.clock.advance(seconds=301)
    monitor.settle()

    assert monitor.fits()[1:] == [("", "age", "promoted")]
    fired = [one for one in monitor.decisions(rule="age") if one.fired]
    assert [one.action for one in fired] == ["train"]
    assert "the limit is 24 h" in fired[0].reason


def test_one_catch_up_stands_for_every_slot_that_was_missed(watch: Watch, folder: Path) -> None:
    """P-22: after a minute, a day, 400 days."""
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(triggers=[daily("13:00")]), zone="UTC")
    monitor.settle()

    for days in (1, 2, 400):
        before = len(monitor.fits())
        monitor.clock.advance(days=days)
        monitor.settle()
        monitor.check()
        assert monitor.fits()[before:] == [("", "schedule", "promoted")], days

    assert "one catch-up" in monitor.decisions()[-1].reason
    assert json.loads(monitor.decisions()[-1].evidence)["skipped"] == 399


def test_a_source_is_read_when_it_lies_still_and_at_the_latest_after_the_maximum_delay(
    watch: Watch, folder: Path
) -> None:
    """4.6 (22): 2 s of quiet, 10 minutes at most."""
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch(declaring(triggers=[on_data_change(quiet="10s", max_delay="60s")]))
    monitor.settle()

    # one write, and then quiet
    write_rows(path, 61)
    monitor.look("rows")
    monitor.clock.advance(seconds=9)
    monitor.look()
    assert len(monitor.fits()) == 1
    monitor.clock.advance(seconds=1)
    monitor.look()
    monitor.look()
    assert len(monitor.fits()) == 2

    # writes that never end
    for i in range(60):
        write_rows(path, 70 + i)
        monitor.look("rows")
        assert len(monitor.fits()) == 2, i
        monitor.clock.advance(seconds=1)
    write_rows(path, 140)
    monitor.look("rows")
    monitor.look()
    assert len(monitor.fits()) == 3


def test_a_score_drop_on_new_labelled_rows_trains_and_says_by_how_much(watch: Watch, folder: Path) -> None:
    """S2-09."""
    path = folder / "rows.csv"
    path.write_text("x,y\n" + "".join(f"{i}.5,{2 * i + i % 3}\n" for i in range(100)))
    monitor = watch(declaring(triggers=[on_score_drop("5%", min_rows=30)], gate=Gate(score="rmse")))
    monitor.settle()
    monitor.check()
    assert monitor.last("score_drop").code == "few_rows"

    with path.open("a") as file:
        file.writelines(f"{i}.25,{5 * i}\n" for i in range(40))
    monitor.check()
    monitor.check()

    fired = [one for one in monitor.decisions(rule="score_drop") if one.fired]
    assert len(fired) == 1, monitor.reason("score_drop")
    assert "newer than the training" in fired[0].reason
    assert monitor.fits()[1][1] == "score_drop"


def test_other_libraries_are_reported_and_train_only_where_declared(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(folder / "rows.csv")

    def declare(project: Project) -> None:
        line_model(project, "reports", triggers=[on_environment_change()])
        line_model(project, "retrains", triggers=[on_environment_change("retrain")])

    monitor = watch(declare)
    monitor.settle()
    monitor.check()
    assert monitor.last("environment", "reports").code == "same"

    monkeypatch.setattr("importlib.metadata.version", lambda library: "99.0")
    for _ in range(3):
        monitor.check()

    assert (monitor.last("environment", "reports").fired, monitor.last("environment", "reports").action) == (
        1,
        "report",
    )
    assert "-> 99.0; the champion still loads" in monitor.reason("environment", "reports")
    assert len(monitor.fits("reports")) == 1
    assert [cause for _, cause, _ in monitor.fits("retrains")] == ["declaration", "environment"]


def test_asking_by_hand_is_a_decision_and_only_force_fits_the_same_rows_again(watch: Watch, folder: Path) -> None:
    """S2-10."""
    write_rows(folder / "rows.csv")
    monitor = watch()
    monitor.settle()

    ask.trigger(monitor.opened, "line", actor="ann")
    monitor.settle()
    assert monitor.fits()[1:] == [("", "manual", "skipped")]
    monitor.force("line")
    assert monitor.fits()[2:] == [("", "manual", "promoted")]

    assert [one.reason for one in monitor.decisions(rule="manual")] == ["asked by ann", "asked by ann with force"]


# --- what decisions cause ---------------------------------------------------------------------------------------


def test_triggers_that_fire_together_train_once(watch: Watch, folder: Path) -> None:
    """S1-08: a weekly baseline and a safety net, without duplicate retraining."""
    path = folder / "rows.csv"
    write_rows(path)
    rules = [on_data_change(), max_age("24h"), daily("12:30"), daily("12:31")]
    monitor = watch(declaring(triggers=rules), zone="UTC")
    monitor.settle()

    write_rows(path, 70)
    monitor.clock.advance(hours=25)
    monitor.settle()
    monitor.check()

    fired = {one.rule for one in monitor.decisions() if one.fired}
    assert len(fired) >= 3
    assert [state for *_, state in monitor.fits()].count("promoted") == 2


def test_observing_records_what_it_would_have_done_and_trains_nothing(watch: Watch, folder: Path) -> None:
    """S3-20: observe a week."""
    path = folder / "rows.csv"
    write_rows(path)
    rules = [on_data_change(), max_age("24h"), daily("13:00")]
    monitor = watch(declaring(triggers=rules, auto="observe"), zone="UTC")
    monitor.settle()
    before = monitor.fits()

    write_rows(path, 70)
    monitor.clock.advance(hours=25)
    monitor.settle()

    assert monitor.fits() == before
    fired = [one for one in monitor.decisions() if one.fired]
    assert {one.action for one in fired} == {"observe"}
    assert "data_change" in {one.rule for one in fired}


def test_off_looks_at_nothing_and_a_person_may_train_all_the_same(watch: Watch, folder: Path) -> None:
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(triggers=[on_data_change(), max_age("1h"), daily("13:00")], auto="off"), zone="UTC")
    monitor.settle()
    before = monitor.fits()
    write_rows(folder / "rows.csv", 70)
    monitor.clock.advance(days=2)
    monitor.settle()
    assert monitor.fits() == before
    assert monitor.decisions() == []

    monitor.force("line")
    assert monitor.fits()[-1] == ("", "manual", "promoted")


@pytest.mark.parametrize("name", ["line", None])
def test_a_paused_model_decides_and_trains_after_resuming(watch: Watch, folder: Path, name: str | None) -> None:
    write_rows(folder / "rows.csv")
    monitor = watch()
    monitor.settle()

    with monitor.opened.store.write() as tx:
        models.pause(tx, name, paused=True)
    write_rows(folder / "rows.csv", 70)
    monitor.check()
    assert monitor.last().fired
    assert [state for *_, state in monitor.fits()] == ["promoted", "waiting"]

    with monitor.opened.store.write() as tx:
        models.pause(tx, name, paused=False)
    monitor.settle()
    assert [state for *_, state in monitor.fits()] == ["promoted", "promoted"]


def test_a_setting_changed_at_run_time_counts_until_it_is_reset(watch: Watch, folder: Path) -> None:
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(triggers=[max_age("24h")]))
    monitor.settle()

    with monitor.opened.store.write() as tx:
        models.set_override(tx, "line", "triggers.age.limit", "1h")
    monitor.clock.advance(hours=2)
    monitor.settle()
    assert monitor.fits()[1:] == [("", "age", "promoted")]

    with monitor.opened.store.write() as tx:
        models.reset_override(tx, "line", None)
    monitor.clock.advance(hours=2)
    monitor.settle()
    assert len(monitor.fits()) == 2


def test_one_failing_model_leaves_the_others_monitored(watch: Watch, folder: Path) -> None:
    """S2-30."""
    write_rows(folder / "rows.csv")
    (folder / "orders").write_text("raise")

    def declare(project: Project) -> None:
        line_model(project, "ill", trainer=Custom("toys:Unruly"))
        line_model(project, "well")

    monitor = watch(declare)
    monitor.settle()
    write_rows(folder / "rows.csv", 70)
    monitor.check()

    assert {state for *_, state in monitor.fits("ill")} == {"failed"}
    assert "the trainer is unwell" in monitor.rows("SELECT outcome_reason FROM partitions")[0][0]
    assert [state for *_, state in monitor.fits("well")] == ["promoted", "promoted"]


@pytest.mark.parametrize("orders", ["nan", "raise"])
def test_without_news_nothing_is_fitted_again_in_a_thousand_ticks(watch: Watch, folder: Path, orders: str) -> None:
    """Refused, failed and skipped items alike: their rows were considered, and only other rows are news."""
    write_rows(folder / "rows.csv")
    rules = [on_data_change(), max_age("1h"), on_score_drop()]

    def declare(project: Project) -> None:
        line_model(project, trainer=Custom("toys:Unruly"), triggers=rules)
        line_model(project, "small", min_samples=1000, triggers=rules)

    monitor = watch(declare)
    monitor.settle()
    (folder / "orders").write_text(orders)
    write_rows(folder / "rows.csv", 70)
    monitor.check()
    assert monitor.fits()[1][2] == ("rejected" if orders == "nan" else "failed")
    monitor.clock.advance(hours=2)
    monitor.settle()
    before = (folder / "fitted").read_text().count("\n"), monitor.fits(), monitor.fits("small")

    for tick_number in range(1000):
        monitor.clock.advance(seconds=60)
        if tick_number % 100 == 0:
            (folder / "rows.csv").touch()
        monitor.look()

    assert ((folder / "fitted").read_text().count("\n"), monitor.fits(), monitor.fits("small")) == before
    assert monitor.last("age").code == "no_news"
    # ... and news is trained on at once
    (folder / "orders").unlink()
    write_rows(folder / "rows.csv", 80)
    monitor.check()
    assert monitor.fits()[-1][2] == "promoted"


# --- the rules alone --------------------------------------------------------------------------------------------

NOW = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


def test_every_answer_has_a_reason_and_a_code() -> None:
    ages = [
        triggers.Ages(None),
        triggers.Ages(NOW - timedelta(hours=1), of=1),
        triggers.Ages(NOW - timedelta(days=2), ("{}",), of=1),  # type: ignore[arg-type]
        triggers.Ages(NOW - timedelta(days=2), waiting_for_news=1, of=1),
        triggers.Ages(NOW - timedelta(days=2), open=1, of=1),
    ]
    answers = [triggers.on_age(MaxAge(timedelta(days=1)), one, NOW) for one in ages]
    rest = {"loads": True, "busy": False}
    versions = [({"a": "1.0"}, {"a": "1.0.9"}), ({"a": "1.0"}, {"a": "1.1"}), ({"a": "1.0"}, {})]
    answers += [triggers.on_environment(Environment(), *pair, **rest) for pair in versions]
    changes = [
        triggers.Change("rows.csv", 60),
        triggers.Change("rows.csv", 60, first=True),
        triggers.Change("rows.csv", 60, known=1),
        triggers.Change("rows.csv", 0, problem="rows.csv is missing"),
        triggers.Change("rows.csv", 5, short={"Pilar": 5}),
    ]
    answers += [triggers.on_change(one, spec(), ()) for one in changes]

    assert [one.fired for one in answers] == [False, False, True, False, False, False, True, True] + [False] * 5
    for one in answers:
        assert re.fullmatch("[a-z_]+", one.code)
        assert len(one.reason) > 5
        assert one.reason.isprintable()


@pytest.mark.parametrize(("value", "fires"), [(0.8551, False), (0.8549, True), (0.95, False)])
def test_a_drop_is_relative_to_the_score_at_promotion(value: float, fires: bool) -> None:
    """4.6 (24): 5 % of 0.90 fires below 0.855."""
    found = [triggers.Recheck("{}", "line", 30, 0.90, value)]  # type: ignore[arg-type]
    assert triggers.on_score(ScoreDrop(0.05), "accuracy", found).fired is fires
    few = [triggers.Recheck("{}", "line", 29, 0.90, 0.1)]  # type: ignore[arg-type]
    assert triggers.on_score(ScoreDrop(0.05), "accuracy", few).code == "few_rows"


def test_a_champion_that_no_longer_loads_is_retrained_whatever_the_action() -> None:
    decision = triggers.on_environment(Environment("report"), {"a": "1.0"}, {"a": "2.0"}, loads=False, busy=True)
    assert decision.fired
    assert decision.retrain
    assert decision.severity is triggers.Severity.CRITICAL


def test_a_late_slot_says_so() -> None:
    slot = NOW - timedelta(hours=1)
    decision = triggers.on_schedule(Schedule("day", at="11:00"), "schedule:1", "UTC", slot, 0, NOW)
    assert decision.cause is Cause.SCHEDULE
    assert "one catch-up (1 h late)" in decision.reason
