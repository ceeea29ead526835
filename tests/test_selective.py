"""Selective retraining: when what is due starts, what happens in a storm, and what when it cannot be told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pytest

from evertrain import Custom, Project, Settings, Storm, on_data_change
from evertrain.clock import ManualClock
from evertrain.control import ask, data, tell
from evertrain.errors import ConfigError
from evertrain.partitions import decode
from evertrain.store.connect import Record

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
        self.told = self.newest_run()

    def newest_run(self) -> int:
        return int(self.rows("SELECT coalesce(max(id), 0) FROM runs")[0][0])

    def trained(self) -> list[tuple[Any, ...]]:
        """The keys of items that ended since this was asked last, sorted."""
        found = self.rows(
            "SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
            " WHERE i.run_id > :told AND i.state NOT IN ('waiting', 'running', 'skipped')",
            told=self.told,
        )
        self.told = self.newest_run()
        return sorted(tuple(decode(row.key).values()) for row in found)

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
        from evertrain.specs import Cause
        from evertrain.store import demand, models

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


def champions(place: Farm) -> dict[str, str]:
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
