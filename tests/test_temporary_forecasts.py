"""Forecasts of filtered rows: a partition's where one matches, else one made for the question, labelled and kept."""

from __future__ import annotations

import fcntl
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from evertrain import CsvFile, Custom, DataError, Series, Settings, on_data_change
from evertrain.clock import ManualClock
from evertrain.errors import ConfigError, Conflict, TrainingError

NOW = datetime(2026, 7, 10, tzinfo=UTC)


def sales(number=60):
    """Daily sales of two products in two regions; generated."""
    first = NOW.date() - timedelta(days=number)
    return pl.DataFrame(
        [
            {"n": f"{p}-{r}-{i}", "date": first + timedelta(days=i), "product_id": p, "region": r, "code": c,
             "sales": 100.0 * (p == "P001") + 10 * (r == "north") + i % 7}
            for i in range(number) for p, c in (("P001", 1), ("P002", 2)) for r in ("north", "south")
        ]
    )  # fmt: skip


def shop(make, executor="inline", kept="dataset", folder=None, **settings):
    project = make(executor=executor, clock=ManualClock(NOW), settings=Settings(tick_s=0.05, check_s=3600, **settings))
    if kept == "file":
        sales().write_csv(folder / "sales.csv")
        source = project.source("sales", CsvFile("sales.csv", time="date"))
    else:
        source = project.dataset("sales", key="n", time="date")
    project.model(
        "sold", source, target="sales", series=Series(7, "D"), trainer=Custom("toys:Repeat"),
        partition_by="product_id", triggers=[on_data_change("0s")],
    )  # fmt: skip
    if kept == "dataset":
        source.ingest(sales())
    project.refresh()
    return project, source


def made(project):
    with project.opened.store.read() as tx:
        return tx.value("SELECT count(*) FROM events WHERE kind = 'forecast.temporary'")


@pytest.mark.parametrize("kept", ["dataset", "file"])
@pytest.mark.parametrize("executor", ["inline", "children"])
def test_a_filter_that_is_no_partition_gets_a_forecast_of_its_own_rows(make, folder, executor, kept):
    """S4-08: with filters a temporary model is trained on the subset; labelled."""
    project, _ = shop(make, executor, kept, folder)
    found = project.forecast("sold", where={"region": "north"})
    # Two products sell beside each other: 100 + 10 and 10, and twice the day of the week.
    assert found.mean == [pytest.approx(120 + 2 * (day % 7)) for day in range(60, 67)]
    assert (found.temporary, found.version, found.partition) == (True, "", "rows where region=north")
    assert found.note == "made of 120 rows for this question"
    assert found.as_of == "2026-07-09"
    assert project.history("sold", limit=99)[0]["run"] == 1, "nothing of it is a run"


def test_a_filter_that_is_a_partition_or_rollup_is_answered_by_its_champion(make):
    """S4-08, S4-12: the partition's model when one matches."""
    project, _ = shop(make)
    found = project.forecast("sold", h=3, where={"product_id": "P001"})
    assert (found.temporary, found.version, len(found.ds)) == (False, "1.0.0", 3)
    assert found == project.forecast("sold", h=3, partition={"product_id": "P001"})
    assert project.forecast("sold", where={}).partition == "Overall"
    assert made(project) == 0


def test_the_same_question_is_answered_once_until_rows_or_declaration_change(make):
    project, dataset = shop(make)
    first = project.forecast("sold", where={"region": ["south", "north"], "code": 1})
    again = project.forecast("sold", where={"region": ["south", "north"], "code": 1})
    assert made(project) == 1
    assert (again.mean, again.note) == (first.mean, "made of 120 rows for this question; kept from an earlier question")
    dataset.edit({"n": "P001-north-59", "sales": 900.0})
    project.refresh()
    assert project.forecast("sold", where={"region": ["south", "north"], "code": 1}).mean != first.mean
    assert made(project) == 2
    project.forecast("sold", h=3, where={"region": ["south", "north"], "code": 1})
    assert made(project) == 3, "another horizon is another question"


def test_too_few_rows_and_columns_that_do_not_exist_are_named(make):
    project, _ = shop(make)
    with pytest.raises(DataError, match=r"0 rows have region=east; a forecast of their own needs 10"):
        project.forecast("sold", where={"region": "east"})
    with pytest.raises(DataError, match="'colour' is no column of sales; there are n, date, product_id, region"):
        project.forecast("sold", where={"colour": "red"})
    with pytest.raises(DataError, match="code is 'x'; allowed: integer"):
        project.forecast("sold", where={"code": "x"})
    with pytest.raises(ConfigError, match="partition and where"):
        project.forecast("sold", partition={}, where={"code": 1})
    assert made(project) == 0
    assert not list(project.opened.home.scratch.glob("temporary-*")), "nothing is left behind"


def test_hostile_values_are_values(make):
    project, _ = shop(make)
    for value in ("'; DROP TABLE datasets; --", '") OR 1=1', "a\x00b"[:1] + "\n", "😀", "../../etc"):
        with pytest.raises(DataError, match="0 rows have region="):
            project.forecast("sold", where={"region": value})
    assert project.forecast("sold").version == "1.0.0"


def test_one_is_made_at_a_time_and_another_waits_no_longer_than_it_may(make):
    project, _ = shop(make, temporary_s=0.3)
    lock = project.opened.home.folder / "temporary.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match=r"another forecast of filtered rows is being made, .* in 0.3 s"):
            project.forecast("sold", where={"region": "north"})
    assert project.forecast("sold", where={"region": "north"}).temporary


def test_one_that_takes_too_long_is_ended(make, folder):
    (folder / "slow.py").write_text(
        "import time, toys\n\n\nclass Slow(toys.Repeat):\n    def fit(self, frame, context):\n"
        "        if len(frame) < 99:\n            time.sleep(60)\n        return super().fit(frame, context)\n"
    )
    project, _ = shop(make, "children", temporary_s=2.0)
    project.model(
        "slow", "sales", target="sales", series=Series(7, "D"), trainer=Custom("slow:Slow"), triggers=[], auto="off",
    )  # fmt: skip
    with project.opened.store.write() as tx:
        tx.run("UPDATE models SET extract = (SELECT extract FROM models WHERE name = 'sold') WHERE name = 'slow'")
    with pytest.raises(TrainingError, match=r"rows where region=north took longer than its deadline of 2 s"):
        project.forecast("slow", where={"region": "north"})


def test_short_filtered_rows_get_a_labelled_naive_forecast(make):
    project, dataset = shop(make)
    dataset.ingest(
        pl.DataFrame([{"n": f"e{i}", "date": date(2026, 7, 9), "product_id": "P009", "region": "east", "code": 9, "sales": 5.0}
                      for i in range(12)])
    )  # fmt: skip
    found = project.forecast("sold", where={"region": "east"})
    assert found.fallback == "the naive forecast: 1 of the 7 periods that Repeat needs"
    assert found.mean == [60.0] * 7


def test_erasing_a_row_forgets_forecasts_that_were_made_of_it(make):
    project, dataset = shop(make)
    project.forecast("sold", where={"region": "north"})
    dataset.erase({"n": "P001-north-3"})
    with project.opened.store.read() as tx:
        assert tx.value("SELECT count(*) FROM temporary_forecasts") == 0
        assert "north" not in str(tx.rows("SELECT data FROM events WHERE kind = 'forecast.temporary'")[0].data)


@pytest.mark.parametrize("kept", ["dataset", "file"])
def test_a_question_that_names_no_values_or_far_too_many_is_refused_before_anything_is_made_of_it(make, folder, kept):
    project, _ = shop(make, kept=kept, folder=folder)
    many = [str(one) for one in range(100_000)]
    for where, said in (
        ({"region": []}, r"where\['region'\] is \[\]; allowed: a value, or a list of at least one"),
        ({"region": many, "product_id": many}, "10000000000 combinations of values'; allowed: at most 1000"),
        ("region=north", 'values by column, such as {"region": "north"}'),
    ):
        with pytest.raises(ConfigError, match=said):
            project.forecast("sold", where=where)
    with pytest.raises(DataError) as told:
        project.forecast("sold", where={"region": "x" * 10_000})
    assert len(str(told.value)) < 400
    assert made(project) == 0


@pytest.mark.parametrize("kept", ["dataset", "file"])
def test_a_value_is_compared_as_the_column_has_it(make, folder, kept):
    """A number typed as text names its partition; an instant without a zone is UTC, in a file as in a dataset."""
    project = make(clock=ManualClock(NOW))
    rows = sales().with_columns(at=pl.datetime(2026, 1, pl.col("code"), 3, time_zone="UTC"))
    if kept == "file":
        rows.write_csv(folder / "sales.csv")
        source = project.source("sales", CsvFile("sales.csv", time="date"))
    else:
        source = project.dataset("sales", key="n", time="date")
        source.ingest(rows)
    project.model(
        "sold", source, target="sales", series=Series(7, "D"), trainer=Custom("toys:Repeat"), partition_by="code",
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    project.refresh()
    found = project.forecast("sold", where={"code": "1"})
    assert (found.temporary, found.version) == (False, "1.0.0")
    naive = project.forecast("sold", where={"at": "2026-01-01T03:00:00"})
    assert naive.mean == found.mean
    assert project.forecast("sold", where={"at": datetime(2026, 1, 1, 3, tzinfo=UTC)}).mean == naive.mean
    assert made(project) == 1, "the same instant is the same question"


@pytest.mark.parametrize("executor", ["inline", "children"])
def test_a_trainer_that_raises_is_named_with_the_rows(make, folder, monkeypatch, executor):
    monkeypatch.chdir(folder)
    project, _ = shop(make, executor)
    (folder / "orders").write_text("raise")
    with pytest.raises(TrainingError, match="ValueError: the forecaster is unwell"):
        project.forecast("sold", where={"region": "north"})
