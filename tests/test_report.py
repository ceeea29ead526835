"""The report: figures of retraining, against numbers computed by hand."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evertrain.clock import ManualClock
from evertrain.config import Home, Settings
from evertrain.control.opened import Opened
from evertrain.control.report import TRIGGER_TYPES, Report, report, span_of
from evertrain.errors import ConfigError, NotFound
from evertrain.events import Kind
from evertrain.gate import Method, Verdict
from evertrain.specs import Cause
from evertrain.states import ItemState
from evertrain.store import figures, items, migrations
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

from .conftest import line_model, write_rows
from .test_store_kit import SHOP, SOLO, World, model_spec

DAYS = timedelta(days=30)


class Past(World):
    """A store in which retrainings took the time, cost and improvement that a test says."""

    def __init__(self, store: Store, folder: Path, *specs: Any) -> None:
        super().__init__(store, folder, *specs)
        self.opened = Opened(Home(folder), store, Settings())

    def retrained(
        self,
        cause: Cause = Cause.DATA_CHANGE,
        state: ItemState = ItemState.PROMOTED,
        *,
        gain: float | None = None,
        wall_s: float = 10.0,
        cpu_s: float = 1.0,
        peak_mb: float = 100.0,
        model: str = SOLO,
        towns: list[str] | None = None,
        error_class: str = "ValueError",
    ) -> int:
        """Ask for training, train, and write the end; each item has the same verdict and cost."""
        run_id = self.plan(model) if cause is Cause.DECLARATION else None  # due from birth
        run_id = run_id or self.asked(*(towns or [""]), cause=cause, model=model)
        assert run_id is not None
        owner = self.worker()
        claim = self.claim(owner)
        assert claim is not None
        self.clock.jump(seconds=wall_s)
        if state in (ItemState.FAILED, ItemState.SKIPPED):
            ends = [
                items.End(one.id, claim.fence, state, "for the test", error_class, "", wall_s, cpu_s, peak_mb)
                if state is ItemState.FAILED
                else items.End(one.id, claim.fence, state, "Insufficient samples: 3 < 10")
                for one in claim.items
            ]
            from evertrain import registry

            closings = [
                registry.Closing(end, one.partition_id, one.wanted, None)
                for end, one in zip(ends, claim.items, strict=True)
            ]
            with self.store.write() as tx:
                registry.settle(tx, self.artifacts, owner, claim.model_id, [], closings)
        else:
            numbers: dict[str, Any] = {"score": "accuracy"}
            if gain is not None:
                numbers |= {"improvement": gain, "improvement_points": gain / 200}
            verdict = Verdict(state, Method.TOLERANCE, f"for the test: {state}", numbers)
            cost = {"seconds": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb, "verdict": verdict}
            self.bytes = f'{{"run": {run_id}}}'
            with self.store.write() as tx:
                from evertrain import registry

                proposals = [self.proposal(one, claim.fence, state, **cost) for one in claim.items]
                registry.settle(tx, self.artifacts, owner, claim.model_id, proposals, [])
        return run_id

    def report(self, **options: Any) -> Report:
        return report(self.opened, options.pop("since", DAYS), **options)


@pytest.fixture
def past(store: Store, tmp_path: Path) -> Past:
    return Past(store, tmp_path)


@pytest.fixture
def five(past: Past) -> Past:
    """A first model, a better one, a worse one by hand, a refused one, a failure; and a skipped one."""
    past.retrained(Cause.DECLARATION, wall_s=10, cpu_s=2)
    past.retrained(Cause.DATA_CHANGE, gain=12.0, wall_s=20, cpu_s=4)
    past.retrained(Cause.MANUAL, gain=-7.0, wall_s=30, cpu_s=6, peak_mb=250)
    past.retrained(Cause.DRIFT, ItemState.REJECTED, gain=-20.0, wall_s=40, cpu_s=8)
    past.retrained(Cause.AGE, ItemState.FAILED, wall_s=50, cpu_s=1)
    past.retrained(Cause.SCHEDULE, ItemState.SKIPPED, wall_s=5)
    past.clock.advance(days=14)
    return past


def solo(found: Report) -> Any:
    return next(one for one in found.models if one.model == SOLO)


def test_a_refused_challenger_is_a_retraining_that_succeeded(five: Past) -> None:
    """S3-19: success rate: four of five retrainings came to a verdict; the skipped run trained nothing."""
    one = solo(five.report())

    assert (one.retrainings, one.succeeded, one.failed) == (5, 4, 1)
    assert one.success_percent == pytest.approx(80.0)
    assert one.verdicts == {"promoted": 3, "refused": 1, "failed": 1, "skipped": 1}


def test_the_frequency_is_over_the_time_in_which_there_was_a_project(five: Past) -> None:
    """S3-19: two weeks and some seconds old, so five in thirty days are 2.5 a week."""
    assert solo(five.report()).per_week == pytest.approx(2.5, rel=1e-3)
    five.clock.advance(days=30)
    assert solo(five.report(since=timedelta(days=60))).per_week == pytest.approx(5 / (44 / 7), rel=1e-3)


def test_triggers_are_counted_by_the_one_list(five: Past) -> None:
    """S3-19: trigger types; what was declared by a person is "manual"."""
    one = solo(five.report())

    assert one.triggers == {"manual": 2, "data_change": 1, "drift": 1, "age": 1}
    assert set(TRIGGER_TYPES) == {
        "schedule", "age", "data_change", "score_drop", "drift", "environment", "manual", "upload",
    }  # fmt: skip


def test_improvement_time_and_cost_are_those_computed_by_hand(five: Past) -> None:
    """S3-19: of promoted models that were compared: +12 % and -7 %, in points of accuracy +0.06 and -0.035."""
    one = solo(five.report(price=3.6))

    assert one.improvement is not None
    assert (one.improvement.number, one.improvement.score) == (2, "accuracy")
    assert one.improvement.median_percent == pytest.approx(2.5)
    assert one.improvement.mean_percent == pytest.approx(2.5)
    assert one.improvement.median_points == pytest.approx(0.0125)
    assert one.wall_s is not None
    assert (one.wall_s.median, one.wall_s.p90, one.wall_s.total) == pytest.approx((30, 50, 150), abs=0.01)
    assert one.cpu_s is not None
    assert (one.cpu_s.median, one.cpu_s.p90, one.cpu_s.total) == pytest.approx((4, 8, 21))
    assert one.peak_mb == 250
    assert one.money == pytest.approx(21 / 3600 * 3.6)
    assert solo(five.report()).money is None


def test_remarks_name_what_got_worse_and_what_got_much_better(five: Past) -> None:
    """S1-32: below 0 a warning, above 10 notable; the refused one, 20 % worse, never served."""
    found = five.report().remarks

    assert [(one.level, one.improvement) for one in found] == [("warning", -7.0), ("notable", 12.0)]
    assert (
        found[0].text == f"{SOLO} 1.2.0 (run 3, manual) is 7.0 % worse than the model before, accuracy worse by 0.035"
    )


@pytest.mark.parametrize(
    ("cause", "gain", "suggested"),
    [
        (Cause.MANUAL, -5.01, True),
        (Cause.MANUAL, -5.0, False),
        (Cause.AGE, -9.0, False),
        (Cause.DECLARATION, 0.0, False),
    ],
)
def test_only_a_retraining_by_hand_that_got_worse_by_more_than_five_suggests_the_way_back(past, cause, gain, suggested):
    """S1-32."""
    past.retrained(Cause.DECLARATION)
    if cause is not Cause.DECLARATION:
        past.retrained(cause, gain=gain)
    found = [one.command for one in past.report().remarks]

    assert found == ([f"rollback {SOLO} --run 2"] if suggested else [None] if gain else [])


def test_what_was_taken_back_already_suggests_nothing(past: Past) -> None:
    """A command that is shown must work: a fit that does not serve cannot be rolled back."""
    past.retrained(Cause.DECLARATION)
    past.retrained(Cause.MANUAL, gain=-8.0)
    past.retrained(Cause.AGE, gain=9.0)

    (found,) = past.report().remarks
    assert found.command is None
    assert "does not serve any more" in found.text


@pytest.mark.parametrize(
    ("gain", "level"), [(10.0, None), (10.01, "notable"), (0.0, None), (-0.05, None), (-0.06, "warning")]
)
def test_the_bounds_of_remarks(past: Past, gain: float, level: str | None) -> None:
    """S1-32."""
    past.retrained(Cause.DECLARATION)
    past.retrained(Cause.UPLOAD, gain=gain)

    assert [one.level for one in past.report().remarks] == ([level] if level else [])


def test_a_run_counts_where_it_ended_and_no_longer_after_the_span(past: Past) -> None:
    past.retrained(Cause.DECLARATION, wall_s=0)
    past.clock.advance(days=30)
    assert past.report().together.retrainings == 1
    past.clock.advance(seconds=1)
    found = past.report().together
    assert (found.retrainings, found.success_percent, found.wall_s, found.cpu_s) == (0, None, None, None)
    assert [one.model for one in past.report().models] == [SHOP, SOLO]


def test_a_run_of_many_partitions_is_one_retraining_of_all_their_cost(past: Past) -> None:
    """S0-42, S0-44: selective runs beside full ones; the widest rollup speaks for the improvement, costs are of all."""
    past.find("Pilar", "Hermosa")
    past.retrained(Cause.DECLARATION, model=SHOP, cpu_s=2)
    past.retrained(Cause.DATA_CHANGE, model=SHOP, towns=["Pilar"], gain=4.0, cpu_s=3)
    one = next(each for each in past.report().models if each.model == SHOP)

    assert one.retrainings == 2
    assert one.cpu_s is not None
    assert one.cpu_s.total == pytest.approx(2 * 3 + 3)
    assert one.verdicts == {"promoted": 4}
    assert {kind: of.retrainings for kind, of in one.kinds.items()} == {"selective": 1, "full": 1}
    selective = one.kinds["selective"].improvement
    assert selective is not None
    assert selective.median_percent == pytest.approx(4.0)
    assert one.kinds["full"].improvement is None


def test_all_models_together_are_the_sum_and_not_the_mean_of_means(five: Past) -> None:
    five.find("Pilar")
    five.retrained(Cause.DECLARATION, model=SHOP, cpu_s=10, wall_s=60)
    found = five.report()

    assert found.together.retrainings == 6
    assert found.together.success_percent == pytest.approx(100 * 5 / 6)
    assert found.together.cpu_s is not None
    assert found.together.cpu_s.total == pytest.approx(21 + 2 * 10)
    assert found.together.wall_s is not None
    assert found.together.wall_s.p90 == pytest.approx(60, abs=0.01)


def test_one_model_alone_is_asked_for_and_an_unknown_one_refused(five: Past) -> None:
    assert [one.model for one in five.report(model=SOLO).models] == [SOLO]
    assert five.report(model=SHOP).remarks == []
    with pytest.raises(NotFound, match="'nosuch' is not declared"):
        five.report(model="nosuch")
    for price in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="price"):
            five.report(price=price)
    with pytest.raises(ConfigError, match="last"):
        five.report(since=timedelta(0))


def test_full_runs_and_naive_forecasts_that_stood_in_are_counted(past: Past) -> None:
    """S0-37: fall-backs of the span, by model."""
    with past.store.write() as tx:
        tx.event(Kind.RUN_FALLBACK, model=SOLO, reason="for the test")
        tx.event(Kind.FORECAST_FALLBACK, model=SOLO, count=7, example="x", why="for the test")
        tx.event(Kind.FORECAST_FALLBACK, model=SHOP, count=2, example="x", why="for the test")
    found = past.report()

    assert (solo(found).fallbacks, solo(found).forecast_fallbacks) == (1, 7)
    assert (found.together.fallbacks, found.together.forecast_fallbacks) == (1, 9)


def test_a_store_of_before_is_counted_as_well(five: Past) -> None:
    """The figures of runs that ended before there were figures are filled in."""
    with five.store.write() as tx:
        tx.event(Kind.FORECAST_FALLBACK, model=SOLO, count=7, example="x", why="for the test")
    before = asdict(solo(five.report()))
    with five.store.write() as tx:
        for index in (
            "runs_ended",
            "items_again",
            "partitions_broken",
            "partitions_pinned",
            "fits_condemned",
            "batches_aside",
        ):
            tx.run(f"DROP INDEX {index}")
        columns = "trained failed cpu_s peak_mb error_class verdict score improvement points"
        for name in columns.split():
            tx.run(f"ALTER TABLE runs DROP COLUMN {name}")
        tx.run("DELETE FROM counters WHERE name = 'forecast_fallbacks'")
        tx.run(f"PRAGMA user_version = {migrations.MIGRATIONS.index(figures.add_columns)}")
    migrate(five.store)

    assert asdict(solo(five.report())) == before
    with five.store.read() as tx:
        assert tx.counter("forecast_fallbacks") == 7


def test_a_report_of_a_large_project_reads_what_was_retrained_by_an_index(large: Past) -> None:
    """A hundred thousand partitions, half a million events: the span is found by an index, and answered in 300 ms."""
    begun = time.perf_counter()
    found = large.report()
    took = time.perf_counter() - begun

    assert found.together.retrainings == 20_000
    with large.store.read() as tx:
        plans = [
            " ".join(str(row[-1]) for row in tx.rows(f"EXPLAIN QUERY PLAN {sql}", since="2026-01-01"))
            for sql in (figures.TRAININGS, figures.ENDS)
        ]
    assert all("SEARCH r USING INDEX runs_ended" in plan for plan in plans), plans
    assert took < 0.9  # measured 0.11 s; other tests share the machine


@pytest.fixture
def large(store: Store, tmp_path: Path) -> Past:
    past = Past(store, tmp_path, model_spec(SHOP, partition_by=["town"]))
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    day = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', '{}', '+' || (i * 100) || ' seconds')"
    with past.store.write() as tx:
        tx.run(
            f"{many.format(100_000)} INSERT INTO partitions(model_id, key, leaf) SELECT 1, json_object('town', i), 1 FROM n"
        )
        for first, start in ((0, "2025-11-01"), (20_000, "2026-01-06")):
            at = day.format(start)
            tx.run(
                f"{many.format(20_000)} INSERT INTO runs(id, model_id, state, kind, cause, reason, actor, items, partitions,"
                " created_at, started_at, ended_at, trained, failed, cpu_s, peak_mb, verdict, score, improvement, points)"
                f" SELECT {first} + i, 1, 'succeeded', 'selective', 'data_change', 'x', 'x', 6, 6, {at}, {at}, {at}, 6, 0, 1.5,"
                " 100, 'promoted', 'mae', i % 7, 0.1 FROM n"
            )
        tx.run(
            f"{many.format(240_000)} INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, available_at,"
            " seconds, cpu_s) SELECT 1 + (i - 1) / 6, 1, 1 + i % 100000, 'promoted', 'data_change', 1, '', 1, 0.25 FROM n"
        )
        tx.run(
            f"{many.format(500_000)} INSERT INTO events(at, kind, actor, data)"
            " SELECT '2026-01-06', 'item.progress', 'x', '{}' FROM n"
        )
    past.clock.advance(days=25)
    return past


@pytest.mark.parametrize("text", ["", "30", "0s", "-3d", "soon", "99999d", "999999999999d"])
def test_a_span_that_is_none_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--last"):
        span_of(text, "--last")


@pytest.fixture
def line(make, folder: Path, clock: ManualClock, capsys) -> Any:
    """A real model whose second training by hand is half as bad again, and a way to type commands."""
    from evertrain.cli.commands import app
    from evertrain.gate import Gate
    from evertrain.specs import Custom

    project = make(clock=clock)
    write_rows(folder / "rows.csv")
    (folder / "evertrain.toml").write_text('name = "test"\nexecutor = "inline"\n')

    def train(noise: float) -> None:
        trainer = Custom("toys:Line", {"noise": noise})
        line_model(project, trainer=trainer, gate=Gate(tolerance="90%"), scores=["mae"])
        project.trigger("line", force=True)
        clock.advance(seconds=1)

    def typed(command: str) -> str:
        capsys.readouterr()
        app(["-C", str(folder), *shlex.split(command)], standalone_mode=False)
        return capsys.readouterr().out

    train(2.0)
    train(3.0)
    return SimpleNamespace(project=project, typed=typed, folder=folder)


def test_the_suggested_way_back_works_when_pasted(line: Any) -> None:
    """S1-32: with a real model, through the command line."""
    (found,) = report(line.project.opened, DAYS).remarks
    assert found.command is not None
    assert found.improvement == pytest.approx(-50.0, abs=0.1)

    assert "Rolled back line: " in line.typed(found.command)
    assert report(line.project.opened, DAYS).remarks[0].command is None


def test_the_command_shows_what_the_report_says(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3-19: plain lines where there is no terminal, figures with their units, and one line that works when pasted."""
    monkeypatch.setattr("evertrain.clock.SystemClock.now", lambda _: line.project.opened.store.clock.now())
    shown = line.typed("report --last 2d --price 0.05")
    lines = shown.splitlines()

    assert lines[0].startswith("The last 2 d, since ")
    assert re.search(
        r"^line +2 +14\.0 +100 % +0 s \(0 s\) +\S+ m?s \(\S+ m?s\) +\d+ MB +0\.0000$", shown, re.MULTILINE
    ), shown
    assert re.search(r"^line +1 +-50\.0 % +-50\.0 % +mae worse by 1$", shown, re.MULTILINE), shown
    assert "together" not in shown
    assert "  manual  2 (100 %)" in lines
    assert "  promoted  2 (100 %)" in lines
    assert not set(shown) & set("█▏▎▍▌▋▊▉")
    assert any(one.startswith("warning: line 1.1.0 (run 2, manual) is 50.0 % worse") for one in lines)
    assert lines[-1].endswith(f"-C {line.folder} rollback line --run 2")

    told = json.loads(line.typed("report --json"))
    assert told["together"]["retrainings"] == 2
    assert told["together"]["improvement"]["median_percent"] == pytest.approx(-50)
    assert told["remarks"][0]["command"].endswith("rollback line --run 2")
    assert told["until"].endswith("+00:00")


def test_a_terminal_gets_bars(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evertrain.clock.SystemClock.now", lambda _: line.project.opened.store.clock.now())
    monkeypatch.setattr("evertrain.cli.show.lively", lambda _: True)

    assert "manual  " + "█" * 24 in line.typed("report")


def test_where_nothing_was_retrained_the_command_says_so(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    later = line.project.opened.store.clock.now() + timedelta(days=40)
    monkeypatch.setattr("evertrain.clock.SystemClock.now", lambda _: later)

    shown = line.typed("report")
    assert shown.startswith("Nothing was retrained in the last 30 d.\nNext: ")
