"""Selective retraining: when what is due starts, what happens in a storm, and what when it cannot be told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl
import pytest

from evertrain import Custom, Project, Settings, Storm, calendar, daily, on_data_change, watch
from evertrain.clock import ManualClock
from evertrain.control import ask, data, foresee, metrics, tell
from evertrain.errors import ConfigError, Conflict, NotFound, StoreError
from evertrain.partitions import decode
from evertrain.specs import Cause
from evertrain.states import ItemState
from evertrain.store import datasets, demand, items, models, runs
from evertrain.store.connect import Record, Store, Tx

from .test_store_kit import World
from .test_triggers import Monitor

FRUITS, TOWNS = ("Avocado", "Banana", "Mango"), ("Hermosa", "Pilar")
PAIRS = [(fruit, town) for fruit in FRUITS for town in TOWNS]


def rows(pairs: Sequence[tuple[str, str]], *, start: int = 0, each: int = 10, slope: float = 2.0) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"id": start + number * each + i, "fruit": fruit, "town": town, "x": i + 0.5, "y": slope * i}
            for number, (fruit, town) in enumerate(pairs)
            for i in range(each)
        ]
    )


class Farm(Monitor):
    """A model of harvests by fruit and town with an Overall for each fruit, on a clock that is moved by hand."""

    def __init__(self, project: Project, clock: ManualClock, pairs: Sequence[tuple[str, str]], options: Any) -> None:
        self.harvests = project.dataset("harvests", key="id")
        declare(project, **options)
        super().__init__(project, clock)
        self.harvests.ingest(rows(pairs))
        self.look()
        self.told: set[int] = set()
        self.trained()

    def newest_run(self) -> int:
        return int(self.rows("SELECT coalesce(max(id), 0) FROM runs")[0][0])

    def trained(self) -> list[tuple[Any, ...]]:
        """The keys of items that ended since this was asked last, sorted."""
        found = self.rows(
            "SELECT i.id, p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
            " WHERE i.state NOT IN ('waiting', 'running', 'skipped')"
        )
        fresh = [row for row in found if row.id not in self.told]
        self.told |= {row.id for row in fresh}
        return sorted(tuple(decode(row.key).values()) for row in fresh)

    def advance(self, **duration: float) -> None:
        self.clock.advance(**duration)
        self.look()

    def events(self, kind: str) -> list[Record]:
        return self.rows("SELECT * FROM events WHERE kind = :kind ORDER BY id", kind=kind)


def declare(project: Project, **options: Any) -> None:
    project.model(
        "kg", "harvests", **{"target": "y", "features": ["x"], "trainer": Custom("toys:Line"), "min_samples": 5,
        "partition_by": ["fruit", "town"], "rollups": [["fruit"]], "triggers": [on_data_change("0s")], **options},
    )  # fmt: skip


@pytest.fixture
def farm(make, clock: ManualClock) -> Iterator[Callable[..., Farm]]:
    made: list[Farm] = []

    def build(pairs: Sequence[tuple[str, str]] = PAIRS, project: dict[str, Any] | None = None, **options: Any) -> Farm:
        # The lease is about processes, and not what time passes for here.
        found = make(settings=Settings(check_s=1e9, lease_s=1e9), clock=clock, **(project or {}))
        made.append(Farm(found, clock, pairs, options))
        return made[-1]

    yield build
    for one in made:
        one.close()


# --- rollups have a quiet period of their own -------------------------------------------------------------------

CALM = [on_data_change("0s", "10m", rollups="5m")]


def test_rollups_wait_until_they_lay_still_and_their_partitions_do_not(farm) -> None:
    place = farm(triggers=CALM)
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    assert place.trained() == [("Avocado", "Hermosa")]
    with place.opened.store.read() as tx:
        assert demand.models_to_plan(tx) == []  # so that no tick plans in vain, and `refresh` comes to an end

    place.advance(seconds=299)
    assert place.trained() == []
    place.advance(seconds=1)
    assert place.trained() == [("Avocado",)]


def test_each_change_begins_the_quiet_period_anew_up_to_the_maximum_delay(farm) -> None:
    place = farm(triggers=CALM)
    ends = []
    for minute in range(13):  # a change every minute leaves no quiet period of five
        if minute < 12:
            place.harvests.edit({"id": 0, "y": minute + 1.0})
        place.look()
        ends.append(("Avocado",) in place.trained())
        place.clock.advance(minutes=1)
    assert ends == [minute == 10 for minute in range(13)]

    place.clock.advance(minutes=3)  # 5 minutes after the last change, which was 1 minute after that training
    place.look()
    assert place.trained() == [("Avocado",)]


def test_a_restart_forgets_no_rollup_that_waits(farm) -> None:
    """Level-triggered: what waits, and until when, is in the store."""
    place = farm(triggers=CALM)
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    place.trained()
    place.close()
    place.memory = type(place.memory)()
    place.hands = place.opened.supervisor()

    place.advance(seconds=299)
    assert place.trained() == []
    place.advance(seconds=1)
    assert place.trained() == [("Avocado",)]


def test_a_person_waits_for_no_quiet_period(farm) -> None:
    place = farm(triggers=CALM)
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    place.trained()
    ask.trigger(place.opened, "kg", [{"fruit": "Avocado", "town": "Hermosa"}], actor="ann")
    place.look()

    assert place.trained() == [("Avocado",)]  # its partition knows these rows already
    place.advance(minutes=30)
    assert place.trained() == []


def test_what_a_person_asked_for_at_once_is_not_delayed_by_a_later_change(farm) -> None:
    place = farm(triggers=CALM)
    with place.opened.store.write() as tx:  # asked, and not planned yet
        model = models.by_name(tx, "kg").id
        demand.want(tx, model, "kg", demand.Request(Cause.MANUAL, "asked by ann", "ann"), ['{"fruit":"Avocado"}'])
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()

    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa")]


def test_a_clock_that_is_set_back_keeps_no_rollup_waiting(farm) -> None:
    """P-20: the unrest would begin in the future, so it is over."""
    place = farm(triggers=CALM)
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    place.trained()
    place.clock.jump(days=-300)
    place.look()

    assert place.trained() == [("Avocado",)]


def test_without_a_period_of_their_own_rollups_go_with_their_partitions(farm) -> None:
    """S0-25: two leaves and two Overalls in one look."""
    place = farm()
    place.harvests.edit([{"id": 0, "y": 1.0}, {"id": 30, "y": 1.0}])
    place.look()
    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa"), ("Banana",), ("Banana", "Pilar")]


def test_an_application_that_says_what_changed_lets_rollups_wait_alike(farm) -> None:
    place = farm(triggers=CALM)
    place.harvests.edit({"id": 0, "y": 1.0})
    ask.changed(place.opened, "kg", [{"fruit": "Avocado", "town": "Hermosa"}], actor="shop")
    place.look()
    assert place.trained() == [("Avocado", "Hermosa")]
    assert tell.why(place.opened, "kg", '{"fruit":"Avocado"}')["partition"]["not_before"] is not None
    place.advance(minutes=5)
    assert place.trained() == [("Avocado",)]


def test_a_quiet_period_of_rollups_beyond_the_maximum_delay_is_refused() -> None:
    assert on_data_change(rollups="10m").rollups is not None
    with pytest.raises(ConfigError, match=r"DataChange\.rollups is '11m'; allowed: at most max_delay, which is 10m"):
        on_data_change(rollups="11m")


# --- a storm ----------------------------------------------------------------------------------------------------

SMALL = Storm(share=0.5, partitions=2)  # of 6 pairs: 3


def touching(number: int) -> list[dict[str, Any]]:
    return [{"id": 10 * pair, "y": 1.0} for pair in range(number)]


def test_a_cap_is_the_larger_of_share_and_number() -> None:
    assert [Storm(0.5, 100).cap(of) for of in (10, 200, 202, 1000)] == [100, 100, 101, 500]
    assert Storm(1.0, 0).cap(7) == 7  # never exceeded: no guard


def test_up_to_the_cap_keys_are_asked_for_and_beyond_it_the_whole_model(farm) -> None:
    place = farm(storm=SMALL)
    place.harvests.edit(touching(3))
    place.look()
    assert place.rows("SELECT kind, partitions FROM runs ORDER BY id DESC")[0] == ("selective", 5)
    assert place.reason(model="kg") == "harvests has new or changed rows in 3 of 6 partitions"

    place.harvests.edit([{"id": 10 * pair, "y": 3.0} for pair in range(4)])
    place.look()

    run, wanted = place.rows("SELECT kind, partitions FROM runs ORDER BY id DESC")[0], place.events("wanted.raised")[-1]
    assert (run.kind, run.partitions) == ("full", 9)
    assert json.loads(wanted.data)["partitions"] == "all"
    assert place.reason(model="kg") == (
        "harvests has new or changed rows in 4 of 6 partitions, more than 3: the whole model is asked for"
    )
    assert "more than 3" in json.loads(place.events("decision.fired")[-1].data)["reason"]


def champions(place: Monitor) -> dict[str, str]:
    return {
        row.key: row.digest
        for row in place.rows("SELECT p.key, f.digest FROM partitions p JOIN fits f ON f.id = p.champion_id")
    }


def test_a_storm_brings_what_selective_retraining_brings_bit_by_bit(make, clock) -> None:
    """S0-21: another way of asking, the same models; what did not change is not fitted."""
    found = []
    for number, storm in enumerate((SMALL, Storm())):
        with pytest.MonkeyPatch.context() as patch:
            project = make(settings=Settings(check_s=1e9, lease_s=1e9), clock=clock, store=f"sqlite:///{number}.db")
            patch.chdir(project.root)
            place = Farm(project, clock, PAIRS, {"storm": storm})
            place.trained()
            place.harvests.edit(touching(4))
            place.look()
            found.append(
                (champions(place), place.trained(), place.rows("SELECT kind FROM runs ORDER BY id DESC")[0][0])
            )
            place.close()
    assert found[0][:2] == found[1][:2]
    assert len(found[0][1]) == 6  # four pairs, two Overalls
    assert [one[2] for one in found] == ["full", "selective"]


def test_what_a_storm_asked_for_is_no_news_at_the_next_look(farm) -> None:
    place = farm(storm=SMALL)
    place.harvests.edit(touching(4))
    place.look()
    before = place.newest_run()
    place.harvests.edit({"id": 50, "y": 7.0})
    place.look()

    assert place.newest_run() == before + 1
    assert place.rows("SELECT partitions FROM runs ORDER BY id DESC")[0][0] == 2


def test_a_storm_is_announced_as_the_whole_model(farm) -> None:
    place = farm(storm=SMALL)
    said = "Records updated. All models of kg are being updated in the background."
    assert data.announcements(place.opened, place.harvests.edit(touching(4))) == [said]
    place.look()
    pairs = [{"fruit": fruit, "town": town} for fruit, town in PAIRS[:4]]
    asked = ask.changed(place.opened, "kg", pairs, actor="shop")
    assert asked.announcement == said
    assert asked.reason == "shop changed rows of more than 3 partitions: the whole model is asked for"
    assert asked.partitions == 9


# --- blackout windows -------------------------------------------------------------------------------------------

# The clock begins on Monday, 2026-01-05, at 12:00 UTC, which is 13:00 in Berlin.
OFFICE = {"zone": "Europe/Berlin", "blackout": "mon-fri 08:00-18:00"}


def until(place: Farm, text: str) -> None:
    """Move the clock to a moment, in UTC."""
    place.clock.advance(seconds=(datetime.fromisoformat(f"{text}+00:00") - place.clock.now()).total_seconds())


def night(place: Farm, text: str = "2026-01-06T03:00") -> Farm:
    """Move to a moment at which everything is trained."""
    until(place, text)
    place.look()
    place.trained()
    return place


@pytest.mark.parametrize("whose", ["project", "model"])
def test_inside_a_window_nothing_starts_by_itself_and_at_its_end_it_does(farm, whose) -> None:
    options = {"blackout": OFFICE["blackout"]} if whose == "model" else {}
    place = night(farm(project={"zone": "Europe/Berlin"} if options else OFFICE, **options))
    until(place, "2026-01-06T06:59:59")
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa")]  # one second before the window

    until(place, "2026-01-06T07:00")
    place.harvests.edit({"id": 0, "y": 2.0})
    place.look()
    until(place, "2026-01-06T16:59:59")
    place.look()
    assert place.trained() == []

    until(place, "2026-01-06T17:00")
    place.look()
    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa")]


def test_what_a_person_asks_for_starts_inside_a_window_even_if_it_waited(farm) -> None:
    place = night(farm(project=OFFICE))
    until(place, "2026-01-06T10:00")
    place.harvests.edit([{"id": 0, "y": 1.0}, {"id": 30, "y": 1.0}])
    place.look()
    assert place.rows("SELECT count(*) FROM items WHERE state = 'waiting'")[0][0] == 4

    ask.trigger(place.opened, "kg", [{"fruit": "Avocado", "town": "Hermosa"}], actor="ann")
    place.look()
    ended = place.rows(
        "SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id WHERE i.state = 'promoted' AND i.cause = 'manual'"
    )
    assert {row.key for row in ended} == {'{"fruit":"Avocado","town":"Hermosa"}', '{"fruit":"Avocado"}'}
    assert place.rows("SELECT count(*) FROM items WHERE state = 'waiting'")[0][0] == 2  # the Bananas wait on


def test_status_says_what_waits_and_until_when(farm) -> None:
    place = night(farm(project=OFFICE))
    until(place, "2026-01-06T10:00")
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    found = tell.status(place.opened).models[0]
    assert (found.health, found.held, str(found.held_until)) == ("held", 2, "2026-01-06 17:00:00+00:00")

    until(place, "2026-01-06T17:00")
    place.look()
    found = tell.status(place.opened).models[0]
    assert (found.health, found.held, found.held_until) == ("fresh", 0, None)


def test_refresh_ends_and_waiting_for_a_held_run_is_told(farm) -> None:
    place = night(farm(project=OFFICE))
    until(place, "2026-01-06T10:00")
    place.harvests.edit({"id": 0, "y": 1.0})
    place.project.refresh()  # would never end if it waited

    with pytest.raises(Conflict, match="kg is in a blackout window until 2026-01-06T17:00Z, so run 3 waits"):
        place.project.changed("kg", {"fruit": "Avocado", "town": "Hermosa"}, wait=True)
    assert place.project.trigger("kg", {"fruit": "Avocado", "town": "Hermosa"}).counts == {"promoted": 2}


def test_a_refresh_that_is_due_inside_a_window_waits_too(farm) -> None:
    place = night(farm(project=OFFICE, triggers=[on_data_change("0s"), daily("10:00")]))
    until(place, "2026-01-06T09:00")  # 10:00 in Berlin
    place.look()
    assert place.trained() == []
    assert tell.status(place.opened).models[0].held == 9
    until(place, "2026-01-06T17:00")
    place.look()
    assert len(place.trained()) == 9


def test_a_window_may_be_set_and_taken_back_at_run_time(farm) -> None:
    place = night(farm())
    with place.opened.store.write() as tx:
        models.set_override(tx, "kg", "blackout", ["02:00-04:00"])
    place.harvests.edit({"id": 0, "y": 1.0})
    place.look()
    assert place.trained() == []
    with place.opened.store.write() as tx:
        models.reset_override(tx, "kg", "blackout")
    place.look()
    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa")]


@pytest.mark.parametrize(
    ("window", "value"),
    [
        (["8-18"], "8-18"),
        (["08:00-08:00"], "08:00-08:00"),
        (["mo 08:00-09:00"], "mo 08:00-09:00"),
        (["24:00-25:00"], "24:00"),
        ("mon-sun 00:00-24:00", "leave some minute of the week free"),
        (["00:00-12:00", "12:00-24:00"], "leave some minute of the week free"),
        ([7], "a window such as"),
        (7, "a window such as"),
    ],
)
def test_a_window_that_is_none_is_refused_with_what_is_allowed(window, value) -> None:
    with pytest.raises(ConfigError, match=value):
        Project("shop", blackout=window)


def test_windows_of_project_and_model_may_not_cover_the_week_together(make) -> None:
    project = make(blackout="00:00-12:00")
    project.dataset("harvests", key="id")
    with pytest.raises(ConfigError, match=r"models\.kg\.blackout"):
        declare(project, blackout="12:00-24:00")


@pytest.mark.parametrize(
    ("windows", "now", "end"),
    [
        (["sat 22:00-06:00"], "2026-01-04T04:59", "2026-01-04T05:00"),  # Sunday 06:00 in Berlin: Saturday's window
        (["sat 22:00-06:00"], "2026-01-04T05:00", None),
        (["sat 22:00-06:00"], "2026-01-04T21:30", None),  # Sunday 22:30
        (["fri-sun 00:00-24:00"], "2026-01-01T23:00", "2026-01-04T23:00"),  # from Friday 00:00 to Monday 00:00
        (["08:00-10:00", "09:00-12:00"], "2026-01-05T07:30", "2026-01-05T11:00"),  # two are one
        (["08:00-10:00", "10:00-12:00"], "2026-01-05T07:30", "2026-01-05T11:00"),
        # 2026-03-29: 02:00 to 03:00 is skipped. The window begins as the gap ends.
        (["02:30-03:30"], "2026-03-29T00:59:59", None),
        (["02:30-03:30"], "2026-03-29T01:00", "2026-03-29T01:30"),
        (["02:15-02:45"], "2026-03-29T01:00", None),  # all of it is skipped
        # 2026-10-25: 02:00 to 03:00 comes twice, and counts the first time.
        (["01:00-02:30"], "2026-10-25T00:29:59", "2026-10-25T00:30"),
        (["01:00-02:30"], "2026-10-25T01:15", None),
        (["02:30-03:30"], "2026-10-25T01:15", "2026-10-25T02:30"),
    ],
)
def test_a_window_lasts_from_wall_time_to_wall_time(windows, now, end) -> None:
    """P-21: as schedules at these times would fire."""
    found = calendar.blackout_until(windows, "Europe/Berlin", datetime.fromisoformat(f"{now}+00:00"))
    assert found == (end and datetime.fromisoformat(f"{end}+00:00"))


# --- falling back to a full run ---------------------------------------------------------------------------------


def counted(place: Farm) -> dict[str, int]:
    """The counters by name and labels, as a process that starts now reads them."""
    store = Store("sqlite:///evertrain.db", place.project.root)
    try:
        with store.read() as tx:
            return {one.name.removeprefix("evertrain_") + "".join(one.labels.values()): one.value
                    for one in metrics.counters(tx)}  # fmt: skip
    finally:
        store.close()


def told(place: Farm) -> list[str]:
    return [json.loads(one.data)["reason"] for one in place.events("run.fallback")]


def test_planning_that_fails_trains_the_whole_model_once_and_loses_nothing(farm) -> None:
    """S0-20, S0-32: a row that cannot be planned from stands for any fault of planning."""
    place = farm()
    place.trained()
    ask_forced = [{"fruit": "Mango", "town": "Pilar"}]
    with place.opened.store.write() as tx:
        model = models.by_name(tx, "kg")
        keys = ask.keys_of(model.spec, ask_forced)
        demand.want(tx, model.id, "kg", demand.Request(Cause.MANUAL, "asked", "ann", forced=True), keys)
        tx.run("UPDATE partitions SET cause = 'nonsense' WHERE key = :key", key=keys[0])
    place.look()

    assert place.trained() == [("Mango", "Pilar")]  # the others know these very rows
    run = place.rows("SELECT kind, partitions, state, reason FROM runs ORDER BY id DESC")[0]
    assert (run.kind, run.partitions, run.state) == ("full", 9, "succeeded")
    assert told(place) == ["planning failed (ValueError: 'nonsense' is not a valid Cause)"]
    for _ in range(3):
        place.look()
    assert counted(place) == {
        "fallback_total": 1, "forecast_fallback_total": 0, "runs_totalfull": 2, "runs_totalselective": 0,
    }  # fmt: skip
    assert tell.status(place.opened).fallbacks == 1


def test_a_plan_that_cannot_be_made_at_all_keeps_what_is_wanted_and_holds_up_no_other_model(farm) -> None:
    place = farm()
    declare_second(place.project)
    place.opened = place.project.opened
    place.look()
    with place.opened.store.write() as tx:
        number = models.by_name(tx, "kg").id
        tx.run(f"CREATE TRIGGER no_runs BEFORE INSERT ON runs WHEN new.model_id = {number}"
               " BEGIN SELECT RAISE(ABORT, 'for the test'); END")  # fmt: skip
    place.harvests.edit({"id": 0, "y": 1.0})
    place.trained()
    for _ in range(3):
        with pytest.raises(StoreError, match=r"what is due cannot be planned: .*for the test"):
            place.look()
    place.hands.step(0)
    place.hands.step(0)
    assert place.rows("SELECT name FROM models m JOIN runs r ON r.model_id = m.id ORDER BY r.id DESC")[0][0] == "second"
    assert told(place) == []

    with place.opened.store.write() as tx:
        tx.run("DROP TRIGGER no_runs")
    place.look()
    assert {("Avocado",), ("Avocado", "Hermosa")} <= set(place.trained())


def declare_second(project: Project) -> None:
    project.model(
        "second", "harvests", target="y", features=["x"], trainer=Custom("toys:Line"), partition_by="town", min_samples=5,
        triggers=[on_data_change("0s")],
    )  # fmt: skip


def test_a_change_that_reaches_behind_the_kept_history_trains_everything(farm) -> None:
    """S0-20: what came between is gone, so nobody can tell which partitions it touched."""
    place = farm()
    place.trained()
    for number in range(3):
        place.harvests.edit({"id": 0, "y": number + 1.0})
    with place.opened.store.write() as tx:  # tidied away under a model that had seen the first version alone
        dataset = datasets.by_name(tx, "harvests")
        datasets.compact(tx, dataset, 3, 100)
    place.look()

    assert len(place.trained()) == 9
    assert told(place) == ["its rows before version 3 are gone, and kg has seen version 1"]
    assert place.reason(model="kg") == (
        "harvests changed, and its rows before version 3 are gone, and kg has seen version 1: the whole model is asked for"
    )
    place.harvests.edit({"id": 0, "y": 9.0})
    place.look()
    assert place.trained() == [("Avocado",), ("Avocado", "Hermosa")]  # and from here on it can be told again
    assert len(told(place)) == 1


def test_rows_whose_keys_cannot_be_told_train_everything_once(make, clock) -> None:
    """S0-14, S0-20: tracking the keys fails, so the whole model is trained, on the new rows."""
    project = make(settings=Settings(check_s=1e9, lease_s=1e9), clock=clock)
    days = project.dataset("days", key="id")
    project.model(
        "kg", days, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by="day", min_samples=5,
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    frame = rows([("2026-01-01", "a"), ("2026-01-02", "a")]).rename({"fruit": "day"}).drop("town")
    days.ingest(frame.with_columns(pl.col("day").str.to_date()))
    place = Monitor(project, clock)
    place.look()
    before = champions(place)
    batch = days.edit({"id": 0, "y": 5.0})
    with place.opened.store.write() as tx:  # the row as it was before the edit went bad on the disk
        assert tx.run("UPDATE ds_1 SET c2 = 'no day' WHERE until IS NOT NULL") == 1
    for _ in range(3):
        place.look()

    assert data.announcements(place.opened, batch) == [
        "Records updated. All models of kg are being updated in the background."
    ]
    run = place.rows("SELECT id, kind, partitions, outcomes FROM runs ORDER BY id DESC")[0]
    assert (run.id, run.kind, run.partitions, json.loads(run.outcomes)) == (2, "full", 3, {"promoted": 3})
    after = champions(place)
    assert {key for key in after if after[key] != before[key]} == {'{"day":"2026-01-01"}', "{}"}
    reasons = [
        json.loads(one.data)["reason"] for one in place.rows("SELECT data FROM events WHERE kind = 'run.fallback'")
    ]
    place.close()
    assert reasons == ["the keys of its rows cannot be told (Invalid isoformat string: 'no day')"]


@pytest.mark.parametrize("value", [float("inf"), b"x", ["Pilar"], "\ud800"])
def test_an_application_that_names_what_cannot_be_a_key_gets_a_full_run(farm, value) -> None:
    """S0-14, S0-20, S0-32."""
    place = farm()
    place.trained()
    asked = ask.changed(
        place.opened, "kg", [{"fruit": "Mango", "town": "Pilar"}, {"fruit": "Mango", "town": value}], actor="shop"
    )
    place.look()

    assert asked.announcement == "Records updated. All models of kg are being updated in the background."
    assert len(place.trained()) == 9
    assert "cannot be the value of a partition key" in told(place)[0]
    assert counted(place)["fallback_total"] == 1


def test_an_application_that_names_no_dimension_is_told_its_mistake(farm) -> None:
    place = farm()
    with pytest.raises(NotFound, match="'city' is no dimension; the dimensions are fruit, town"):
        ask.changed(place.opened, "kg", [{"fruit": "Mango", "city": "Pilar"}], actor="shop")
    assert told(place) == []


def lose(place: World, *, times: int, error_class: str = "crash") -> None:
    """Take whatever waits, one by one, and lose it, as a worker that dies at each item does."""
    for _ in range(times):
        place.clock.advance(seconds=700)
        owner = place.worker()
        claim = place.claim(owner, most=1)
        if claim is None:
            return
        item = claim.items[0]
        end = items.End(item.id, claim.fence, ItemState.FAILED, "its process was ended by SIGKILL", error_class)
        with place.store.write() as tx:
            items.retry_items(tx, owner, [end], delay_s=5.0, crashed=error_class == "crash")


@pytest.fixture
def world(store, tmp_path) -> World:
    place = World(store, tmp_path)
    place.find("Pilar", "Hermosa", "Orani")
    place.train()
    return place


def fallbacks(place: World) -> list[str]:
    with place.store.read() as tx:
        found = tx.rows("SELECT data FROM events WHERE kind = 'run.fallback' ORDER BY id")
    return [json.loads(row.data)["reason"] for row in found]


@pytest.mark.parametrize("error_class", ["crash", "storage"])
def test_a_selective_run_that_breaks_is_followed_by_one_full_run_and_no_more(world, error_class) -> None:
    """S0-20, S0-32: all of it was lost, whatever the partition; the full run that breaks too is the last."""
    broken = world.asked("Pilar", "Hermosa")
    lose(world, times=6, error_class=error_class)
    assert fallbacks(world) == [f"all 2 partitions of run {broken} were lost (its process was ended by SIGKILL)"]

    full = world.plan()
    with world.store.read() as tx:
        run = runs.run_row(tx, full)
    assert (run.kind, run.partitions) == ("full", 4)
    assert run.reason.startswith("fell back to a full run: all 2 partitions of run")
    lose(world, times=20, error_class=error_class)
    assert world.plan() is None
    assert len(fallbacks(world)) == 1


def test_a_selective_run_whose_workers_all_died_is_followed_by_one_full_run(world) -> None:
    """S0-20: each item was lost three times, the last time alone, with the process that held it."""
    world.asked("Pilar", "Hermosa")
    for _ in range(6):
        assert world.claim(world.worker(), most=1) is not None
        world.clock.advance(seconds=31)
        world.reap()
    assert len(fallbacks(world)) == 1
    assert "all 2 partitions" in fallbacks(world)[0]


def test_looking_for_what_is_due_costs_what_is_due(world) -> None:
    """Nothing enumerates all partitions on a tick, or for a plan of some: both go by the index of what is unplanned."""
    asked: list[str] = []

    class Explained(Tx):
        def rows(self, sql: str, **params: Any) -> Sequence[Record]:
            asked.extend(row[3] for row in super().rows(f"EXPLAIN QUERY PLAN {sql}", **params))
            return super().rows(sql, **params)

    with world.store.read() as tx:
        tx.__class__ = Explained
        demand.models_to_plan(tx)
        demand.to_plan(tx, 1, everything=False)
        demand.later(tx, 1)
    looked = [line for line in asked if line.split()[:2] in (["SCAN", "p"], ["SEARCH", "p"])]
    by_model = [line for line in looked if "partitions_unplanned" not in line]
    assert len(looked) == 4
    assert by_model == ["SEARCH p USING INDEX partitions_considered (model_id=?)"]  # whether a model has any at all


def test_a_partition_that_fails_alone_brings_no_full_run(world) -> None:
    """It had its own tries; the others of its run, or a run of one, are no sign of broken machinery."""
    world.asked("Pilar")
    lose(world, times=6)
    run = world.asked("Pilar", "Hermosa")
    claim = world.claim(world.worker(), most=2)
    world.settle(claim, only=[claim.items[0].id])
    world.retry(claim, claim.items[1].id, crashed=True)
    lose(world, times=6)

    with world.store.read() as tx:
        assert runs.run_row(tx, run).state == "partial"
    assert fallbacks(world) == []


def test_a_run_whose_trainer_fails_on_every_partition_brings_no_full_run(world) -> None:
    """The trainer would fail on the others, too: that is no fault of the machinery."""
    world.asked("Pilar", "Hermosa")
    claim = world.claim(world.worker())
    world.settle(claim, ItemState.FAILED)
    assert fallbacks(world) == []
    assert world.plan() is None


# --- looking at a plan ------------------------------------------------------------------------------------------


def everything_in(place: Farm) -> list[str]:
    """The store as text, row by row."""
    with closing(sqlite3.connect(place.opened.store.path)) as connection:
        return list(connection.iterdump())


def test_a_preview_is_what_a_request_then_trains_and_writes_nothing(farm) -> None:
    place = farm()
    pairs = [{"fruit": "Avocado", "town": "Hermosa"}, {"fruit": "Avocado", "town": "Pilar"}]
    before = everything_in(place)
    with place.opened.store.read() as tx:
        each = models.by_name(tx, "kg").seconds_each

    found = foresee.preview(place.opened, "kg", pairs, actor="ann")

    assert everything_in(place) == before
    assert (found.kind, found.partitions, found.leaves, found.rollups, found.of) == ("selective", 3, 2, 1, 9)
    assert (found.causes, found.reason) == ({"manual": 3}, "asked by ann")
    assert found.estimate_s == found.wall_s == pytest.approx(3 * each)  # one worker: this process
    assert ask.trigger(place.opened, "kg", pairs, actor="ann").partitions == 3


def test_a_preview_of_the_whole_model_is_full(farm) -> None:
    """S0-19: the full run is there to be asked for, and to be looked at before."""
    place = farm()
    found = place.project.plan("kg", full=True)
    assert (found.kind, found.partitions, found.leaves, found.rollups) == ("full", 9, 6, 3)
    assert place.project.plan("kg").partitions == 0

    place.trained()
    done = place.project.trigger("kg", force=True)
    assert done.counts == {"promoted": 9}
    assert place.rows("SELECT kind FROM runs ORDER BY id DESC")[0].kind == "full"
    place.project.trigger("kg", {"fruit": "Mango", "town": "Pilar"}, force=True)
    assert place.rows("SELECT kind, partitions FROM runs ORDER BY id DESC")[0] == ("selective", 2)


def test_a_preview_holds_what_is_due_says_what_waits_and_divides_by_workers(farm) -> None:
    place = night(farm(project=OFFICE, triggers=CALM))
    place.opened.settings = replace(place.opened.settings, children=2)
    with place.opened.store.write() as tx:
        models.apply(tx, replace(place.project.spec, executor="children"), "python")
    until(place, "2026-01-06T10:00")
    place.harvests.edit([{"id": 0, "y": 1.0}, {"id": 30, "y": 1.0}, {"id": 50, "y": 1.0}])
    with place.opened.store.write() as tx:
        watch.apply_versions(tx, place.opened.project(), "harvests")
        each = models.by_name(tx, "kg").seconds_each

    found = place.project.plan("kg")
    assert (found.partitions, found.leaves, found.causes) == (3, 3, {"upload": 3})
    assert (found.later, str(found.later_at)) == (3, "2026-01-06 10:05:00+00:00")
    assert str(found.held_until) == "2026-01-06 17:00:00+00:00"
    assert found.workers == 2
    assert (found.estimate_s, found.wall_s) == (pytest.approx(3 * each), pytest.approx(2 * each))
    assert place.project.plan("kg", {"fruit": "Mango", "town": "Hermosa"}).causes == {"upload": 3, "manual": 2}


def test_a_preview_of_an_unknown_partition_names_those_that_are(farm) -> None:
    place = farm()
    with pytest.raises(NotFound, match=r"kg has no partition .*Durian.*; it has "):
        place.project.plan("kg", {"fruit": "Durian", "town": "Pilar"})


def test_a_preview_of_what_cannot_be_planned_says_so(farm) -> None:
    place = farm()
    with place.opened.store.write() as tx:
        tx.run("UPDATE partitions SET cause = 'nonsense', wanted = wanted + 100 WHERE key LIKE '%Mango%Pilar%'")
    found = place.project.plan("kg")
    assert (found.kind, found.partitions) == ("full", 9)
    assert "planning failed" in found.reason
    assert told(place) == []
