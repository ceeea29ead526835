"""Forecasting models: judged as a procedure, refitted on every row, and never without an answer."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from evertrain import (
    ConfigError,
    CsvFile,
    Custom,
    DataError,
    NoModelYet,
    NotFound,
    Series,
    TrainingError,
    on_data_change,
    on_score_drop,
)
from evertrain.clock import ManualClock, SystemClock
from evertrain.errors import ArtifactError
from evertrain.partitions import decode

FRUITS, TOWNS = ("Avocado", "Banana"), ("Hermosa", "Orani", "Pilar")
NOW = datetime(2026, 7, 10, tzinfo=UTC)


def months(number, first=(2024, 1)):
    place = first[0] * 12 + first[1] - 1
    return [date((place + i) // 12, (place + i) % 12 + 1, 1) for i in range(number)]


def harvests(fruits=FRUITS, towns=TOWNS, number=30):
    """Monthly records with a season; generated, each partition with its own level."""
    found = []
    for f, fruit in enumerate(fruits):
        for t, town in enumerate(towns):
            for i, day in enumerate(months(number)):
                level = 100 + 50 * f + 10 * t
                kg = level * (1 + 0.3 * math.sin(2 * math.pi * (i + t) / 12)) + (i * 7 + t * 3) % 5
                found.append({"id": f"{fruit}-{town}-{i}", "fruit": fruit, "town": town, "day": day, "kg": kg})
    return pl.DataFrame(found)


@pytest.fixture
def clock():
    return ManualClock(NOW)


def farm(make, clock, **options):
    executor = options.pop("executor", "inline")
    project = make(executor=executor, clock=clock)
    dataset = project.dataset("harvests", key="id", time="day")
    series = Series(options.pop("h", 6), **options.pop("series", {"freq": "MS"}))
    project.model(
        "kg", dataset, target="kg", series=series, **{
            "trainer": Custom("toys:Repeat"), "partition_by": ["fruit", "town"], "rollups": [["fruit"]],
            "triggers": [on_data_change("0s")], **options,
        },
    )  # fmt: skip
    return project, dataset


@pytest.fixture(params=["inline", "children"])
def served(request, make, clock):
    project, dataset = farm(make, clock, executor=request.param)
    dataset.ingest(harvests())
    project.refresh()
    return project, dataset


def everything(project, model="kg"):
    """Every stored forecast, by partition."""
    with project.opened.store.read() as tx:
        rows = tx.rows(
            "SELECT p.key, c.frame FROM partitions p JOIN forecasts c ON c.fit_id = p.champion_id"
            " JOIN models m ON m.id = p.model_id WHERE m.name = :model", model=model,
        )  # fmt: skip
    return {tuple(decode(row.key).values()): row.frame for row in rows}


def ended(project, model="kg"):
    """What the newest run's items came to."""
    with project.opened.store.read() as tx:
        rows = tx.rows(
            "SELECT p.key, i.state, i.reason FROM items i JOIN partitions p ON p.id = i.partition_id"
            " WHERE i.run_id = (SELECT max(r.id) FROM runs r JOIN models m ON m.id = r.model_id WHERE m.name = :model)",
            model=model,
        )  # fmt: skip
    return {tuple(decode(row.key).values()): (row.state, row.reason) for row in rows}


def single(make, clock, values, *, freq="D", days=True, **options):
    """A project of one series of daily values that end yesterday."""
    project = make(executor="inline", clock=clock)
    dataset = project.dataset("sales", key="date", time="date")
    project.model(
        "sold", dataset, target="sales", series=Series(options.pop("h", 7), freq, **options.pop("series", {})),
        **{"trainer": Custom("toys:Repeat", {"k": 1}), "triggers": [on_data_change("0s")], **options},
    )  # fmt: skip
    dataset.ingest(daily(values))
    project.refresh()
    return project, dataset


def daily(values, last=None):
    last = last or NOW.date() - timedelta(days=1)
    days = [last - timedelta(days=len(values) - 1 - i) for i in range(len(values))]
    return pl.DataFrame(
        {"date": days, "sales": [None if v is None else float(v) for v in values]},
        schema_overrides={"sales": pl.Float64},
    )


def test_every_partition_and_rollup_has_a_forecast_of_the_months_to_come(served):
    project, _ = served
    assert set(everything(project)) == {(f, t) for f in FRUITS for t in TOWNS} | {(f,) for f in FRUITS}
    found = project.forecast("kg", partition={"fruit": "Avocado", "town": "Pilar"})
    assert found.ds == [str(one) for one in months(6, (2026, 7))]
    assert (found.version, found.as_of, found.freq) == ("1.0.0", "2026-06-01", "MS")
    assert (found.stale, found.behind, found.fallback) == (0, False, None)
    assert found.level == [80, 95]
    frame = found.frame()
    assert list(frame.columns) == ["unique_id", "ds", "mean", "lo-80", "hi-80", "lo-95", "hi-95"]
    assert (frame["lo-95"] < frame["lo-80"]).all()
    assert (frame["lo-80"] < frame["mean"]).all()


def test_one_corrected_record_changes_its_forecast_and_its_rollup_and_no_other_bit(served):
    """S0-05, S0-06, S0-11: only forecast rows of affected combinations are replaced."""
    project, dataset = served
    before = everything(project)
    dataset.edit({"id": "Avocado-Pilar-18", "kg": 500.0})
    asked = project.forecast("kg", partition={"fruit": "Avocado", "town": "Pilar"})
    project.refresh()
    after = everything(project)
    assert {key for key in after if after[key] != before[key]} == {("Avocado", "Pilar"), ("Avocado",)}
    assert asked.version == "1.0.0", "while it was due the old one answered"
    assert project.forecast("kg", partition={"fruit": "Avocado", "town": "Pilar"}).version == "1.1.0"


def test_selective_and_full_training_give_the_same_bits(make, clock, tmp_path):
    """S0-21: same training parameters and data processing in both paths."""
    project, dataset = farm(make, clock)
    dataset.ingest(harvests())
    project.refresh()
    dataset.edit({"id": "Banana-Orani-3", "kg": 9.0})
    project.refresh()
    selective = everything(project)
    outcome = project.trigger("kg", force=True)
    assert outcome.counts == {"promoted": 8}, outcome
    assert everything(project) == selective


def test_ten_days_at_three_times_the_level_raise_the_next_week_by_more_than_half(make, clock):
    """S4-09: what was uploaded is in the next forecast."""
    project, dataset = single(make, clock, [100] * 5 + [90, 110] * 20, series={"season": 7})
    before = sum(project.forecast("sold").mean)
    clock.advance(days=10)
    dataset.ingest(daily([300] * 10, NOW.date() + timedelta(days=9)))
    project.refresh()
    found = project.forecast("sold")
    assert sum(found.mean) > 1.5 * before
    assert found.ds[0] == "2026-07-20"
    verdict = project.history("sold")[0]["verdict"]
    assert "(+0.0 %)" in verdict
    assert verdict.endswith("equal"), "the same procedure at the same origin says the same"


def test_a_forecaster_that_draws_is_judged_by_its_procedure_and_not_by_its_luck(make, clock, folder, monkeypatch):
    monkeypatch.chdir(folder)
    week = [100, 110, 120, 130, 120, 110, 90]
    project, dataset = single(make, clock, week * 8, trainer=Custom("toys:Drawn"))
    before = project.forecast("sold").mean
    for number in range(1, 4):
        clock.advance(days=7)
        dataset.ingest(daily(week, NOW.date() + timedelta(days=7 * number - 1)))
        project.refresh()
        verdict = project.history("sold")[0]["verdict"]
        assert "(+0.0 %)" in verdict
        assert verdict.endswith("equal")
    assert project.forecast("sold").mean != before, "the forecasts themselves are drawn anew"
    told = (folder / "levels").read_text().splitlines()
    assert told.count("[80, 95]") == 4, "one for each fit that serves"
    assert set(told) == {"[80, 95]", "[]"}, "and none is asked for in a backtest"


def test_who_waits_for_a_training_hears_what_the_trainer_reports(make, clock):
    project, dataset = single(make, clock, [100, 110, 120, 130, 120, 110, 90] * 8)
    dataset.edit({"date": NOW.date() - timedelta(days=1), "sales": 95.0})
    heard = []
    outcome = project.trigger("sold", progress=heard.append)
    assert outcome.outcome == "promoted"
    assert {one.run_id for one in heard} == {outcome.run_id}
    assert [one.data["text"] for one in heard if one.kind == "item.progress"] == [
        "fitting", "backtest to 2026-07-08: fitting", "backtest to 2026-07-01: fitting",
    ]  # fmt: skip
    assert heard[-1].kind == "run.ended"


def test_the_first_training_can_be_asked_for_of_partitions_that_nobody_has_read_yet(make, clock):
    project, dataset = farm(make, clock, triggers=[on_data_change("1h")])
    dataset.ingest(harvests())
    assert project.trigger("kg").counts == {"promoted": 8}


def test_the_champion_itself_is_there_for_its_own_class_and_the_one_before_where_it_is_damaged(make, clock):
    project, dataset = single(make, clock, [100, 110, 120, 130, 120, 110, 90] * 8)
    predictor = project.predictor("sold")
    first = predictor.fitted()
    assert first["y"][-7:] == [100.0, 110.0, 120.0, 130.0, 120.0, 110.0, 90.0]
    dataset.edit({"date": NOW.date() - timedelta(days=1), "sales": 95.0})
    project.refresh()
    with project.opened.store.read() as tx:
        newest = tx.value("SELECT artifact FROM fits ORDER BY id DESC LIMIT 1")
    path = project.opened.artifacts.path(newest)
    path.chmod(0o600)
    path.write_bytes(b"x" * path.stat().st_size)
    again = project.predictor("sold")
    assert again.fitted() == first
    assert project.forecast("sold").version == "1.0.0", "its forecast serves with it"
    with pytest.raises(DataError, match="town"):
        again.fitted({"town": "Pilar"})


def test_a_worse_procedure_is_refused_against_what_the_champion_really_issued(make, clock):
    project, dataset = single(make, clock, [100, 110, 120, 130, 120, 110, 90] * 8, series={"windows": 0})
    clock.advance(days=7)
    project.model(
        "sold", "sales", target="sales", series=Series(7, "D", windows=0), trainer=Custom("toys:Repeat", {"bias": 30.0}),
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    dataset.ingest(daily([100, 110, 120, 130, 120, 110, 90], NOW.date() + timedelta(days=6)))
    project.refresh()
    state, reason = ended(project, "sold")[()]
    assert state == "rejected"
    assert "mae 30 against 0" in reason
    assert "on 7 backtest steps: worse by more than the 5% tolerance" in reason
    assert project.forecast("sold").version == "1.0.0", "the champion serves on"


def test_without_new_actuals_the_backtests_of_shared_origins_are_compared(make, clock):
    project, dataset = single(make, clock, [100, 110, 120, 130, 120, 110, 90] * 8)
    project.model(
        "sold", "sales", target="sales", series=Series(7, "D"), trainer=Custom("toys:Repeat", {"bias": 30.0}),
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    project.refresh()
    state, reason = ended(project, "sold")[()]
    assert state == "rejected"
    assert "backtest steps" in reason
    assert project.forecast("sold").version == "1.0.0"
    assert dataset.at().height == 56


def test_without_a_comparable_step_only_the_guards_decide_and_the_verdict_says_so(make, clock):
    project, dataset = single(make, clock, [1, 2, 3, 4, 5, 6, 7, 8], series={"windows": 0})
    dataset.edit({"date": str(NOW.date() - timedelta(days=1)), "sales": 9.0})
    project.refresh()
    assert ended(project, "sold")[()] == (
        "promoted", "not compared with the champion (no period has been forecast by both); the guards passed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "why", "mean"),
    [
        ([5.0], "1 of the 7 periods that Repeat needs", 5.0),
        ([5.0, 6.0, 7.0], "3 of the 7 periods that Repeat needs", 7.0),
        ([0.0] * 30, "every period is zero", 0.0),
        ([4.0] * 30, "every period is the same", 4.0),
        ([4.0, None, None, 4.0], "4 of the 7 periods that Repeat needs", 4.0),
    ],
)
def test_a_series_that_teaches_nothing_gets_a_labelled_naive_forecast(make, clock, values, why, mean):
    project, _ = single(make, clock, values)
    found = project.forecast("sold")
    assert found.fallback == f"the naive forecast: {why}"
    assert found.mean == [mean] * 7
    assert all(v is None or math.isfinite(v) for column in found.intervals.values() for v in column)
    with project.opened.store.read() as tx:
        assert tx.value("SELECT count(*) FROM events WHERE kind = 'forecast.fallback'") == 1


def test_rows_of_a_period_that_has_not_ended_are_said_to_be_no_data(make, clock):
    project, _ = single(make, clock, [3.0], freq="MS")
    assert ended(project, "sold")[()] == ("skipped", "no data: 1 rows, all in a period that has not ended")
    with pytest.raises(NoModelYet, match=r"the last training skipped \(no data"):
        project.forecast("sold")


def test_odd_series_do_not_harm_the_others_of_their_batch(make, clock):
    project, dataset = farm(make, clock, executor="children")
    odd = pl.DataFrame(
        [{"id": "x1", "fruit": "Kiwi", "town": "Short", "day": date(2026, 6, 1), "kg": 3.0}]
        + [{"id": f"z{i}", "fruit": "Kiwi", "town": "Zero", "day": d, "kg": 0.0} for i, d in enumerate(months(30))]
        + [{"id": "n1", "fruit": "Kiwi", "town": "Now", "day": date(2026, 7, 1), "kg": 3.0}]
    )
    dataset.ingest(pl.concat([harvests(), odd]))
    project.refresh()
    states = ended(project)
    assert states[("Kiwi", "Now")][0] == "skipped"
    assert {state for key, (state, _) in states.items() if key != ("Kiwi", "Now")} == {"promoted"}
    assert project.forecast("kg", partition={"fruit": "Kiwi", "town": "Now"}).answered_by == "Kiwi, Overall"


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("nan", "1 of 7 values of 'mean' are no numbers"), ("short", "Repeat.forecast answered 6 values of 'mean' for 7"),
        ("crossed", "its 80 % interval does not hold its own forecast"), ("raise", "ValueError: the forecaster is unwell"),
    ],
)  # fmt: skip
def test_a_forecaster_that_answers_nonsense_fails_and_the_champion_serves_on(
    make, clock, folder, monkeypatch, order, said
):
    monkeypatch.chdir(folder)
    project, dataset = single(make, clock, [1, 2, 3, 4, 5, 6, 7] * 4, max_attempts=1)
    before = project.forecast("sold")
    (folder / "orders").write_text(order)
    dataset.edit({"date": str(NOW.date() - timedelta(days=1)), "sales": 70.0})
    project.refresh()
    state, reason = ended(project, "sold")[()]
    assert (state, said in reason) == ("failed", True), reason
    (folder / "orders").unlink()
    found = project.forecast("sold")
    assert (found.mean, found.behind) == (before.mean, True)


def test_more_periods_and_other_intervals_than_are_stored_come_from_the_same_champion(served):
    project, _ = served
    stored = project.forecast("kg", partition={"fruit": "Banana"})
    found = project.forecast("kg", h=18, level=[50, 80], partition={"fruit": "Banana"})
    assert found.mean[:6] == stored.mean
    assert found.intervals["lo-80"][:6] == stored.intervals["lo-80"]
    assert (len(found.ds), found.level, found.ds[-1]) == (18, [50, 80], "2027-12-01")
    assert project.forecast("kg", h=2, level=[], partition={"fruit": "Banana"}).intervals == {}


def test_an_unseen_partition_is_answered_by_its_nearest_rollup_and_says_so(served):
    project, _ = served
    found = project.forecast("kg", partition={"fruit": "Banana", "town": "Samal"})
    assert (found.partition, found.answered_by) == ("Banana, Samal", "Banana, Overall")
    assert found.fallback == "Banana, Samal has no model of its own; Banana, Overall answers"
    with pytest.raises(NoModelYet, match="no model yet for Mango"):
        project.forecast("kg", partition={"fruit": "Mango", "town": "Samal"})
    with pytest.raises(NotFound, match="kg forecasts fruit=… and fruit=…, town=…; not everything together"):
        project.forecast("kg")
    with pytest.raises(NotFound, match="'colour' is no dimension; the dimensions are fruit, town"):
        project.forecast("kg", partition={"colour": "red"})


def test_an_answer_tells_how_old_its_data_are(served, clock):
    project, dataset = served
    clock.advance(days=70)
    assert project.forecast("kg", partition={"fruit": "Banana"}).stale == 2
    dataset.edit({"id": "Banana-Pilar-29", "kg": 1.0})
    with project.opened.store.write() as tx:
        from evertrain import watch

        watch.apply_versions(tx, project.spec, "harvests")
    assert project.forecast("kg", partition={"fruit": "Banana"}).behind
    assert not project.forecast("kg", partition={"fruit": "Avocado"}).behind


def test_a_month_without_records_of_a_town_is_a_month_without_harvest(make, clock):
    project, dataset = farm(make, clock, rollups=[["fruit"], []])
    dataset.ingest(harvests().filter(~((pl.col("town") == "Pilar") & (pl.col("day") >= date(2026, 5, 1)))))
    project.refresh()
    found = project.forecast("kg", partition={"fruit": "Banana", "town": "Pilar"})
    assert (found.as_of, found.ds[0]) == ("2026-06-01", "2026-07-01")


def test_rollups_can_be_the_sum_of_their_partitions(make, clock):
    project, dataset = farm(make, clock, series={"freq": "MS", "reconcile": "bottom_up"})
    dataset.ingest(harvests())
    project.refresh()
    found = project.forecast("kg", partition={"fruit": "Banana"})
    parts = [project.forecast("kg", partition={"fruit": "Banana", "town": town}).mean for town in TOWNS]
    assert found.mean == pytest.approx([sum(one) for one in zip(*parts, strict=True)])
    assert found.note == "the sum of 3 partitions"
    (own, *_) = project.forecasts("kg").coherence()
    assert (own.leaves, own.periods) == (3, 6)
    assert own.percent == pytest.approx(0, abs=1e-9), "means of seasons add up"


def test_a_sum_of_which_a_part_is_missing_is_not_called_one(make, clock):
    project, dataset = farm(make, clock, series={"freq": "MS", "reconcile": "bottom_up"})
    dataset.ingest(harvests())
    project.refresh()
    clock.advance(days=31)
    dataset.ingest(
        pl.DataFrame([{"id": "new", "fruit": "Banana", "town": "Pilar", "day": date(2026, 7, 3), "kg": 99.0}])
    )
    project.refresh()
    found = project.forecast("kg", partition={"fruit": "Banana"})
    assert found.ds[0] == "2026-08-01"
    assert found.note == "not the sum of its partitions: 2 of 3 have no forecast of all these periods"


def test_coherence_says_how_far_partitions_add_up_to_their_rollup(make, clock):
    project, dataset = farm(make, clock, series={"freq": "MS", "aggregate": "mean"})
    dataset.ingest(harvests())
    project.refresh()
    assert [round(one.percent) for one in project.forecasts("kg").coherence()] == [200, 200], "a mean of three towns"


@pytest.mark.parametrize("executor", ["inline", "children"])
def test_a_file_is_forecast_like_a_dataset(make, clock, folder, executor):
    harvests().write_csv(folder / "rows.csv")
    project = make(executor=executor, clock=clock)
    project.source("rows", CsvFile("rows.csv", time="day"))
    project.model(
        "kg", "rows", target="kg", series=Series(6), trainer=Custom("toys:Repeat"), partition_by=["fruit", "town"],
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    project.refresh()
    found = project.forecast("kg", partition={"fruit": "Avocado", "town": "Pilar"})
    assert (found.freq, found.ds[0]) == ("MS", "2026-07-01"), "the frequency was told from the rows"


@pytest.mark.parametrize("kept", ["dataset", "file"])
def test_a_frequency_in_doubt_trains_nothing_and_asks_for_it(make, clock, folder, kept):
    rows = pl.DataFrame({"day": [date(2026, 1, 1), date(2026, 1, 9), date(2026, 3, 1)], "kg": [1.0, 2.0, 3.0]})
    project = make(executor="inline", clock=clock)
    if kept == "file":
        rows.write_csv(folder / "rows.csv")
        project.source("rows", CsvFile("rows.csv", time="day"))
    else:
        dataset = project.dataset("rows", key="day", time="day")
        dataset.ingest(rows)
    project.model("kg", "rows", target="kg", series=Series(6), trainer=Custom("toys:Repeat"))
    project.refresh()
    with project.opened.store.read() as tx:
        reason = tx.value("SELECT problem FROM sources WHERE name = 'rows'") or tx.value("SELECT reason FROM decisions")
    assert "fit no frequency; declare freq=" in reason


def test_declarations_that_cannot_work_are_refused_with_what_would(make, folder):
    project = make()
    project.source("rows", CsvFile("rows.csv"))
    with pytest.raises(ConfigError, match="a source that declares time="):
        project.model("kg", "rows", target="kg", series=Series(6), trainer=Custom("toys:Repeat"))
    project.source("dated", CsvFile("rows.csv", time="day"))
    with pytest.raises(ConfigError, match=r"kg.series.freq is 'monthly'; allowed: a frequency as pandas writes it"):
        project.model("kg", "dated", target="kg", series=Series(6, "monthly"), trainer=Custom("toys:Repeat"))
    with pytest.raises(ConfigError, match=r"features is .*; allowed: none for a forecasting model"):
        project.model("kg", "dated", target="kg", series=Series(6), features=["x"], trainer=Custom("toys:Repeat"))
    with pytest.raises(ConfigError, match="a score of a regression"):
        project.model("kg", "dated", target="kg", series=Series(6), scores=["accuracy"], trainer=Custom("toys:Repeat"))
    for wrong in ({"h": 0}, {"h": True}, {"h": 3, "level": [80, 80]}, {"h": 3, "level": [100]}, {"h": 3, "gaps": "x"}):
        with pytest.raises(ConfigError):
            Series(**wrong)
    with pytest.raises(ConfigError, match="aggregate='sum' or 'count'"):
        Series(3, aggregate="mean", reconcile="bottom_up")


def test_a_trainer_must_be_able_to_do_what_its_model_is_for(make, folder, clock):
    rows = pl.DataFrame({"day": months(30), "x": [1.0] * 30, "kg": [1.0] * 30})
    rows.write_csv(folder / "rows.csv")
    project = make(clock=clock)
    project.source("rows", CsvFile("rows.csv", time="day"))
    project.model("kg", "rows", target="kg", series=Series(6), trainer=Custom("toys:Line"))
    project.model("row", "rows", target="kg", features=["x"], trainer=Custom("toys:Repeat"), min_samples=5)
    project.refresh()
    assert "allowed: a forecaster: Forecaster" in ended(project, "kg")[()][1]
    assert "a forecaster needs series=Series(h=…)" in ended(project, "row")[()][1]


def test_each_kind_of_model_says_how_it_is_asked(make, folder, clock):
    harvests().write_csv(folder / "rows.csv")
    project = make(clock=clock)
    project.source("rows", CsvFile("rows.csv", time="day"))
    project.model("kg", "rows", target="kg", series=Series(6), trainer=Custom("toys:Repeat"))
    project.model("row", "rows", target="kg", trainer=Custom("toys:Line"))
    with pytest.raises(
        ConfigError, match=r"a forecasting model, declared with series=Series\(h=…\); this one predicts"
    ):
        project.forecast("row")
    with pytest.raises(DataError, match=r"a forecasting model: ask `project.forecast\('kg'\)`"):
        project.predictor("kg").predict([{"fruit": "Avocado"}])


def test_a_forecast_that_turned_out_wrong_is_a_score_drop(make):
    """A whole horizon of actual values is enough to tell, however many rows the trigger asks for."""
    project, dataset = single(
        make, SystemClock(), [100, 110, 120, 130, 120, 110, 90] * 8, triggers=[on_score_drop("50%", min_rows=30)]
    )
    dataset.ingest(daily([300, 310, 290, 300, 320, 310, 300], NOW.date() + timedelta(days=6)))
    project.refresh()
    project.refresh()
    found = project.history("sold")[0]
    assert (found["cause"], found["status"]) == ("score_drop", "success"), found
    assert project.forecast("sold").mean[0] >= 290


def test_rollback_brings_the_earlier_forecast_back(served):
    project, dataset = served
    before = everything(project)
    dataset.edit({"id": "Avocado-Pilar-18", "kg": 500.0})
    project.refresh()
    project.rollback("kg", partition=[{"fruit": "Avocado", "town": "Pilar"}, {"fruit": "Avocado"}])
    assert everything(project) == before


@pytest.mark.parametrize("executor", ["inline", "children"])
def test_new_periods_are_learnt_by_an_update_and_after_some_everything_anew(make, clock, folder, monkeypatch, executor):
    """S0-38, S1-25: an incremental update is a PATCH, through the same gate, with a full fit after so many."""
    monkeypatch.chdir(folder)
    project = make(executor=executor, clock=clock)
    dataset = project.dataset("sales", key="date", time="date")
    project.model(
        "sold", dataset, target="sales", series=Series(7, "D", updates=2), trainer=Custom("toys:Follow"),
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    dataset.ingest(daily([100, 110, 120, 130, 120, 110, 90] * 8))
    project.refresh()
    versions, fits = [], []
    for day in range(4):
        (folder / "fits").write_text("")
        clock.advance(days=1)
        dataset.ingest(daily([100 + day], NOW.date() + timedelta(days=day)))
        project.refresh()
        found = project.forecast("sold")
        versions.append(found.version)
        fits.append((folder / "fits").read_text().split()[0])
        assert found.ds[0] == str(NOW.date() + timedelta(days=day + 1)), "it knows the new day"
    assert versions == ["1.0.1", "1.0.2", "1.1.0", "1.1.1"]
    assert fits == ["update", "update", "fit", "update"]
    dataset.edit({"date": str(NOW.date() - timedelta(days=3)), "sales": 95.0})
    project.refresh()
    assert project.forecast("sold").version == "1.2.0", "a corrected past is a full fit's business"
    (folder / "fits").write_text("")
    project.trigger("sold", force=True)
    assert "update" not in (folder / "fits").read_text()


def test_an_update_says_what_a_full_fit_says(make, clock, folder, monkeypatch):
    monkeypatch.chdir(folder)
    project, dataset = single(
        make, clock, [100, 110, 120, 130, 120, 110, 90] * 8, trainer=Custom("toys:Follow"), series={"updates": 9}
    )
    clock.advance(days=3)
    dataset.ingest(daily([101, 111, 121], NOW.date() + timedelta(days=2)))
    project.refresh()
    updated = project.forecast("sold")
    assert updated.version == "1.0.1"
    assert "backtest steps: equal" in project.history("sold")[0]["verdict"]
    project.trigger("sold", force=True)
    assert project.forecast("sold").mean == updated.mean


def test_a_period_that_ends_brings_its_rows_into_the_next_forecast(make, clock):
    """No row changes at the end of a month; what the month held is news all the same, once."""
    project, dataset = farm(make, clock)
    dataset.ingest(harvests(number=31))  # July is not over
    project.refresh()
    asked = {"fruit": "Banana", "town": "Pilar"}
    assert project.forecast("kg", partition=asked).ds[0] == "2026-07-01"
    clock.advance(days=21)
    project.refresh()
    assert project.forecast("kg", partition=asked).ds[0] == "2026-07-01", "one day before the end"
    clock.advance(days=1)
    project.refresh()
    found = project.forecast("kg", partition=asked)
    assert (found.ds[0], found.version) == ("2026-08-01", "1.1.0")
    newest = project.history("kg")[0]
    assert newest["description"] == "period 2026-07-01 has ended, and 8 series hold rows of it"
    project.refresh()
    assert project.history("kg")[0]["run"] == newest["run"], "it is news once"


def test_a_series_that_had_no_ended_period_is_tried_again_when_one_ends(make, clock):
    project, _ = single(make, clock, [3.0], freq="MS")
    clock.advance(days=31)
    project.refresh()
    assert project.forecast("sold").ds[0] == "2026-08-01"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"h": 0}, "h is 0; allowed: greater"), ({"h": -3}, "h is -3; allowed"), ({"h": 2.5}, "h is 2.5; allowed"),
        ({"h": 10**6}, "h is 1000000; allowed: less"), ({"level": 80}, r"level is 80; allowed: a list of per cents"),
        ({"level": [101]}, "is 101; allowed: less than or equal to 99"), ({"level": [80, 80]}, "each once"),
    ],
)  # fmt: skip
def test_a_question_that_no_model_could_declare_is_refused(make, clock, asked, said):
    project, _ = single(make, clock, [1, 2, 3, 4, 5, 6, 7] * 4)
    for where in (None, {"sales": 1.0}):
        with pytest.raises(ConfigError, match=said):
            project.forecast("sold", where=where, **asked)


def test_periods_that_the_calendar_does_not_hold_are_refused_and_not_called_by_another_date(make, clock):
    project, _ = single(make, clock, [1, 2, 3, 4, 5, 6, 7] * 8, freq="MS")
    with pytest.raises(TrainingError, match=r"cannot forecast 10000 periods: .* of MS reach beyond 2260-01-01"):
        project.forecast("sold", h=10_000)
    assert project.forecast("sold", h=2_000).ds[-1] == "2193-02-01"


def test_a_trainer_that_raises_when_it_is_asked_for_more_is_named(make, clock, folder, monkeypatch):
    monkeypatch.chdir(folder)
    project, _ = single(make, clock, [1, 2, 3, 4, 5, 6, 7] * 4)
    (folder / "orders").write_text("raise")
    with pytest.raises(
        TrainingError, match=r"1\.0\.0 cannot forecast 30 periods: ValueError: the forecaster is unwell"
    ):
        project.forecast("sold", h=30)
    assert len(project.forecast("sold").mean) == 7, "what is stored needs no trainer"


@pytest.mark.parametrize("executor", ["inline", "children"])
@pytest.mark.parametrize("day", [date(9999, 12, 31), date(1, 1, 1)])
def test_a_date_far_away_fails_its_own_partition_and_rollup_and_no_other(make, clock, executor, day):
    project, dataset = farm(make, clock, executor=executor)
    dataset.ingest(harvests())
    dataset.ingest(pl.DataFrame([{"id": "slip", "fruit": "Avocado", "town": "Pilar", "day": day, "kg": 1.0}]))
    project.refresh()
    states = ended(project)
    failed = {key for key, (state, _) in states.items() if state == "failed"}
    assert failed == {("Avocado", "Pilar"), ("Avocado",)}
    assert states[("Avocado",)][1] == f"1 rows are dated like {day}T00:00:00; allowed: 1680 to 2259"
    assert {state for key, (state, _) in states.items() if key not in failed} == {"promoted"}


@pytest.mark.parametrize("kept", ["dataset", "file"])
def test_a_row_of_the_future_does_not_say_that_records_reach_until_today(make, clock, folder, kept):
    """Records end in April; a slip of a year must not make two months without any harvest out of that, anywhere."""
    known = harvests(number=28)
    slip = pl.DataFrame([{"id": "slip", "fruit": "Banana", "town": "Orani", "day": date(2062, 6, 1), "kg": 1.0}])
    if kept == "file":
        pl.concat([known, slip]).write_csv(folder / "rows.csv")
        project = make(clock=clock)
        project.source("rows", CsvFile("rows.csv", time="day"))
        project.model(
            "kg",
            "rows",
            target="kg",
            series=Series(6, "MS"),
            trainer=Custom("toys:Repeat"),
            partition_by="town",
            triggers=[on_data_change("0s")],
        )
    else:
        project, dataset = farm(make, clock, partition_by=["town"], rollups=[[]])
        dataset.ingest(known)
        dataset.ingest(slip)
        project.refresh()
        dataset.edit({"id": "Banana-Pilar-3", "kg": 99.0})
    project.refresh()
    for town in TOWNS:
        found = project.forecast("kg", partition={"town": town})
        assert (found.as_of, found.stale) == ("2026-04-01", 2)
        assert min(found.mean) > 50
    if kept == "dataset":
        dataset.ingest(
            pl.DataFrame([{"id": "new", "fruit": "Banana", "town": "Pilar", "day": date(2026, 5, 1), "kg": 99.0}])
        )
        dataset.edit({"id": "Banana-Orani-3", "kg": 99.0})
        project.refresh()
        assert project.forecast("kg", partition={"town": "Orani"}).as_of == "2026-05-01", "real news is seen beside it"


def test_a_frequency_is_told_from_instants_of_a_dataset(make, clock):
    project = make(clock=clock)
    dataset = project.dataset("rows", key="at", time="at")
    project.model(
        "kg", dataset, target="kg", series=Series(6), trainer=Custom("toys:Repeat"), triggers=[on_data_change("0s")]
    )
    start = datetime(2026, 7, 1, tzinfo=UTC)
    dataset.ingest(
        pl.DataFrame({"at": [start + timedelta(hours=i) for i in range(72)], "kg": [float(i % 24) for i in range(72)]})
    )
    project.refresh()
    assert project.forecast("kg").ds[:2] == ["2026-07-04T00:00:00", "2026-07-04T01:00:00"]


def test_a_horizon_that_was_raised_takes_no_stored_forecast_away(make, clock):
    """Until it is trained anew, what is stored answers, and says so, where its model cannot be asked any more."""
    project, _ = single(make, clock, [1, 2, 3, 4, 5, 6, 7] * 4)
    project.model(
        "sold", "sales", target="sales", series=Series(14, "D", level=[50, 80]), trainer=Custom("toys:Repeat", {"k": 1}),
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    assert (len(project.forecast("sold").ds), project.forecast("sold").note) == (14, None), "its model is asked"
    for path in project.opened.home.artifacts.glob("sha256/*/*"):
        path.write_bytes(b"damaged")
    found = project.forecast("sold")
    assert (len(found.ds), found.level, found.behind) == (7, [80], True)
    assert found.note.startswith("as it was stored: artifact")
    with pytest.raises(ArtifactError):
        project.forecast("sold", h=14)
    project.refresh()
    assert (len(project.forecast("sold").ds), project.forecast("sold").level) == (14, [50, 80])


def test_only_the_fit_that_is_stored_is_told_of_intervals(make, clock, folder, monkeypatch):
    project, dataset = farm(make, clock, series={"freq": "MS", "windows": 2})
    import toys

    told, fit = [], toys.Repeat.fit

    def listening(self, frame, context):
        told.append((context.mean_only, context.level, len(frame)))
        return fit(self, frame, context)

    monkeypatch.setattr(toys.Repeat, "fit", listening)
    dataset.ingest(harvests(FRUITS[:1], TOWNS[:1]))
    project.refresh()
    each = [(False, (80, 95), 30), (True, (), 18), (True, (), 24)]
    assert sorted(told) == sorted(2 * each)  # of the partition and of its rollup


def test_rows_of_a_series_are_copied_without_a_number_for_each(make, clock, monkeypatch):
    project, dataset = farm(make, clock)
    dataset.ingest(harvests())

    def needless(*arguments):
        raise AssertionError("a series is split by its periods, not by rows")

    monkeypatch.setattr("evertrain.sources.extract.row_digests", needless)
    project.refresh()
    assert {state for state, _ in ended(project).values()} == {"promoted"}
