"""The log of predictions and actuals: any order, twice, late, in part, corrected; bounds; what cannot be kept."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertrain import DataError, UnknownName
from evertrain.clock import ManualClock
from evertrain.errors import StoreError
from evertrain.observations import Observations, Recorder
from evertrain.partitions import WHOLE, KeyText

from .conftest import line_model, write_rows
from .test_cli import Shell, shell

__all__ = ["shell"]  # a fixture

NOW = ManualClock().now()
A, B = KeyText('{"town":"A"}'), KeyText('{"town":"B"}')


@pytest.fixture
def log(tmp_path, clock):
    found = Observations(tmp_path / "observations.db", clock)
    yield found
    found.close()


def table(log: Observations) -> list[tuple]:
    """Everything that a reader can see, and what waits."""
    window = log.window("m", limit=10**6)
    rows = list(zip(window.ids, window.keys, window.times.tolist(), window.predicted.tolist(),
                    [None if value != value else value for value in window.actual.tolist()],
                    window.labelled.tolist(), window.features.rows(), window.versions, strict=True))  # fmt: skip
    with sqlite3.connect(log.path) as connection:
        waiting = connection.execute(
            "SELECT name, actual, actual_at, labelled_at FROM observed WHERE at IS NULL ORDER BY name"
        ).fetchall()
    connection.close()
    return [*rows, *waiting]


# --- two halves -------------------------------------------------------------------------------------------------


def _call(log: Observations, call: tuple) -> None:
    kind, name, minute, value = call
    moment = [NOW - timedelta(minutes=minute)]
    if kind == "actual":
        log.actuals("m", [name], [value], times=moment)
    else:
        log.observe(
            "m", {"x": [float(value)]}, predicted=[value], ids=[name], times=moment, keys=[A if value % 2 else B]
        )


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["observe", "actual"]), st.sampled_from(["a", "b", "c"]), st.integers(0, 10_000), st.integers(0, 9)
    ),
    max_size=8,
    unique_by=lambda call: call[2],
)  # fmt: skip


@settings(max_examples=30)
@given(calls=CALLS, seed=st.randoms(use_true_random=False))
def test_the_same_calls_in_any_order_and_twice_leave_the_same_table(tmp_path_factory, calls, seed):
    folder = tmp_path_factory.mktemp("order")
    one, other = (Observations(folder / name, ManualClock()) for name in ("one.db", "other.db"))
    for log in (one, other):
        log.observe("m", {"x": [1.0]}, predicted=[1], ids=["always"])
    shuffled = [*calls, *calls]
    seed.shuffle(shuffled)

    for call in calls:
        _call(one, call)
    for call in shuffled:
        _call(other, call)

    assert table(one) == table(other)
    one.close()
    other.close()


def test_the_same_rows_again_change_nothing_and_are_no_news(log, clock):
    rows = pd.DataFrame({"x": [1.0, 2.0], "who": ["ä", None]})
    log.observe("m", rows, predicted=[1, 2], ids=[1, 2])
    log.actuals("m", [1], [5])
    before, (news,) = table(log), log.keys_with_news("m")
    clock.advance(hours=1)

    again = log.observe("m", rows, predicted=[1, 2], ids=[1, 2])
    labels = log.actuals("m", [1], [5])

    assert (again.unchanged, again.new, labels.unchanged) == (2, 0, 1)
    assert table(log) == before
    assert log.keys_with_news("m", since=news.mark) == []


def test_an_actual_before_its_prediction_waits_and_then_belongs_to_it(log):
    assert log.actuals("m", ["late"], [7.5]).waiting == 1
    assert len(log.window("m")) == 0
    log.observe("m", {"x": [1.0]}, predicted=[7], ids=["late"])

    window = log.window("m")

    assert window.actual.tolist() == [7.5]
    assert [(one.observed, one.labelled) for one in log.keys_with_news("m")] == [(1, 1)]


def test_actuals_come_in_part_late_and_corrected(log, clock):
    log.observe("m", {"x": [1.0, 2.0, 3.0]}, predicted=[1, 2, 3], ids=["a", "b", "c"])
    clock.advance(days=2)

    first = log.actuals("m", ["a", "b", "z"], [1, None, 3])
    clock.advance(days=2)
    second = log.actuals("m", ["a"], [9])
    older = log.actuals("m", ["a"], [4], times=[clock.now() - timedelta(days=1)])

    assert (first.matched, first.missing, first.waiting) == (1, 1, 1)
    assert (second.corrected, older.unchanged) == (1, 1)
    window = log.window("m")
    assert window.actual.tolist()[0] == 9
    assert window.has_actual.tolist() == [True, False, False]
    assert window.labelled[0] == np.datetime64((NOW + timedelta(days=2)).replace(tzinfo=None))  # when it first came


def test_a_newer_prediction_of_an_id_replaces_the_older_and_keeps_its_actual(log, clock):
    log.observe("m", {"x": [1.0]}, predicted=["no"], ids=["a"], keys=[A])
    log.actuals("m", ["a"], ["yes"])
    clock.advance(minutes=1)

    noted = log.observe("m", {"x": [2.0]}, predicted=["yes"], ids=["a"], keys=[B])
    late = log.observe("m", {"x": [0.0]}, predicted=["?"], ids=["a"], times=[NOW - timedelta(days=1)])

    assert (noted.replaced, late.older) == (1, 1)
    window = log.window("m")
    assert (window.predicted.tolist(), window.actual.tolist(), window.keys) == (["yes"], ["yes"], [B])


def test_an_id_twice_in_one_frame_is_one_row_the_last(log):
    noted = log.observe("m", {"x": [1.0, 2.0]}, predicted=[1, 2], ids=["a", "a"])
    labels = log.actuals("m", ["a", "a"], [1, 2])

    assert (noted.new, noted.replaced) == (1, 1)
    assert (labels.matched, labels.corrected) == (1, 1)
    window = log.window("m")
    assert (window.predicted.tolist(), window.actual.tolist()) == ([2.0], [2.0])


# --- values -----------------------------------------------------------------------------------------------------


def test_features_of_every_type_come_back_as_they_were(log):
    frame = pl.DataFrame(
        {
            "number": [0.1, None, float("inf")],
            "integer": [2**60 + 1, None, -1],
            "truth": [True, None, False],
            "text": ["ünï ☃ \0", None, "x" * 100_000],
            "day": [date(2024, 2, 29), None, date(1, 1, 1)],
            "moment": [datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC), None, datetime(1969, 1, 1, tzinfo=UTC)],
            "nothing": [None, None, None],
        }
    )
    log.observe("m", frame, predicted=[1, 2, 3], ids=["1", "2", "3"])

    found = log.window("m").features

    assert found.drop("nothing").rows() == frame.drop("nothing").rows()
    assert (
        found.drop("nothing").schema
        == frame.drop("nothing").with_columns(pl.col("moment").cast(pl.Datetime("us", "UTC"))).schema
    )
    assert found["nothing"].null_count() == 3


def test_a_column_that_changes_its_type_appears_or_vanishes_can_still_be_read(log, clock):
    for columns in ({"x": [1], "a": [1]}, {"x": [0.5], "b": ["t"]}, {"a": ["one"]}, {"x": [None]}):
        clock.advance(minutes=1)
        log.observe("m", columns, predicted=[0])

    window = log.window("m")

    assert window.features["x"].to_list() == [1.0, 0.5, None, None]
    assert window.features["a"].to_list() == ["1", None, "one", None]
    assert window.features["b"].to_list() == [None, "t", None, None]
    assert window.notes == ("column 'a' is integer and text in different rows, so it is given as text",)


def test_a_column_of_mixed_values_is_kept_as_numbers_or_as_text(log):
    log.observe("m", [{"n": 1, "m": 1}, {"n": 2.5, "m": "two"}, {"n": True, "m": None}], predicted=[1, 2, 3])
    log.observe("m", pd.DataFrame({"n": [1, 2.5], "m": ["a", [1]]}, dtype=object), predicted=[1, 2])

    window = log.window("m")

    assert sorted(window.features["n"].to_list()) == [1.0, 1.0, 1.0, 2.5, 2.5]
    assert set(window.features["m"].to_list()) == {"1", "two", None, "a", "[1]"}


def test_predictions_may_be_missing_infinite_or_texts(log):
    log.observe(
        "m", {}, predicted=[float("nan"), float("inf"), None, pd.NA, np.float32(0.5), True, 10**30], ids=range(7)
    )
    window = log.window("m")
    assert np.where(np.isnan(window.predicted), -1, window.predicted).tolist() == [-1, np.inf, -1, -1, 0.5, 1, 1e30]
    assert window.features.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predicted": [[1], [2]]}, r"row 1: the prediction is \[1\] \(list\)"),
        ({"predicted": [1]}, "1 predictions for 2 rows"),
        ({"predicted": np.ones((2, 2))}, r"shape \(2, 2\)"),
        ({"predicted": "12"}, "the predictions are str"),
        ({"ids": ["a", None]}, "row 2: the id is None"),
        ({"ids": ["a", ""]}, "row 2: the id is ''"),
        ({"ids": ["a", "b" * 501]}, "at most 500 characters"),
        ({"ids": ["a", "\0"]}, "row 2: the id is"),
        ({"ids": ["a", "\ud800"]}, "no Unicode text"),
        ({"ids": ["a"]}, "1 ids for 2 rows"),
        ({"times": [NOW, "soon"]}, "row 2: the time of a prediction is 'soon'"),
        ({"times": [NOW, None]}, "row 2: the time of a prediction is None"),
        ({"times": [NOW, NOW + timedelta(days=1, seconds=1)]}, "more than a day ahead of now"),
        ({"probabilities": [[0.5], [0.5]], "classes": ["no", "yes"]}, r"have shape \(2, 1\); needed is \(2, 2\)"),
        ({"probabilities": [["a"], ["b"]]}, "the probabilities are no numbers"),
        ({"frame": 7}, "the rows are int"),
        ({"frame": {"x": ["y" * 1_000_001, ""]}}, "a text of more than 1,000,000 bytes"),
        ({"frame": {"x": ["\ud800", ""]}}, "the rows are|no Unicode"),
        ({"keys": [WHOLE]}, "1 keys for 2 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_and_nothing_is_kept(log, change, said):
    arguments = {"frame": {"x": [1, 2]}, "predicted": [1, 2], **change}
    with pytest.raises(DataError, match=said):
        log.observe("m", arguments.pop("frame"), **arguments)
    assert len(log.window("m")) == 0


def test_times_without_a_zone_are_utc_and_a_day_ahead_is_a_wrong_clock_elsewhere(log):
    ahead = NOW + timedelta(days=1)
    log.observe("m", {}, predicted=[1, 2, 3], times=[NOW.replace(tzinfo=None), ahead, "2026-01-05 13:00:00+01:00"])
    assert log.window("m").times.tolist() == [NOW.replace(tzinfo=None)] * 2 + [ahead.replace(tzinfo=None)]


def test_no_rows_are_no_observations(log):
    assert log.observe("m", pd.DataFrame({"x": []}), predicted=[]).rows == 0
    assert log.actuals("m", [], []).rows == 0
    assert len(log.window("m")) == 0
    assert log.window("unknown").features.shape == (0, 0)
    assert log.keys_with_news("unknown") == []
    assert log.watermark("unknown") is None


def test_probabilities_come_back_by_class(log, clock):
    log.observe("m", {"x": [1.0]}, predicted=["a"], probabilities=[[0.25, 0.75]], classes=["b", "a"])
    clock.advance(seconds=1)
    log.observe("m", {"x": [1.0]}, predicted=["c"], probabilities=[[1.0]], classes=["c"])
    clock.advance(seconds=1)
    log.observe("m", {"x": [1.0]}, predicted=["c"])

    window = log.window("m")

    assert window.classes == ("c", "b", "a")
    assert np.array_equal(
        window.probabilities, [[np.nan, 0.25, 0.75], [1, np.nan, np.nan], [np.nan] * 3], equal_nan=True
    )


# --- windows and news -------------------------------------------------------------------------------------------


def test_a_window_is_the_newest_rows_of_its_partitions_in_order(log):
    times = [NOW - timedelta(minutes=one) for one in range(100)]
    log.observe("m", {"x": list(range(100))}, predicted=range(100), times=times, keys=[A, B] * 50)

    assert log.window("m", [A], limit=3).predicted.tolist() == [4, 2, 0]
    assert log.window("m", limit=3).predicted.tolist() == [2, 1, 0]
    assert log.window("m", [A, B], since=times[2], until=times[0]).predicted.tolist() == [2, 1]
    assert len(log.window("m", [KeyText('{"town":"C"}')])) == 0
    log.actuals("m", log.window("m", [A]).ids[:2], [1, 1])
    assert log.window("m", [A], labelled=True).predicted.tolist() == [98, 96]


def test_only_partitions_that_were_written_to_are_news(log):
    log.observe("m", {}, predicted=[1, 2], ids=["a", "b"], keys=[A, B])
    mark = max(one.mark for one in log.keys_with_news("m"))
    log.actuals("m", ["b"], [1])

    (news,) = log.keys_with_news("m", since=mark)

    assert (news.key, news.observed, news.labelled) == (B, 1, 1)


def test_a_limit_never_parts_what_one_write_brought(log):
    log.observe("m", {}, predicted=range(9), keys=[KeyText(f'{{"n":{one}}}') for one in range(9)])
    assert len(log.keys_with_news("m", limit=2)) == 9


def test_news_and_windows_are_found_by_index_and_not_by_looking_at_everything(log):
    log.observe("m", {"x": [1.0]}, predicted=[1])
    seen: list[str] = []
    connection = log._open()
    connection.set_trace_callback(seen.append)
    log.window("m")
    log.window("m", [WHOLE])
    log.keys_with_news("m")
    log.watermark("m", WHOLE)
    connection.set_trace_callback(None)

    plans = [
        row[3] for one in seen if one.startswith("SELECT") for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")
    ]

    assert {"partitions_seq", "observed_partition", "observed_model"} <= set(
        re.findall(r"INDEX (\w+)", " ".join(plans))
    )
    assert not [plan for plan in plans if plan.startswith("SCAN") and "json_each" not in plan and "VIRTUAL" not in plan]


# --- the watermark ----------------------------------------------------------------------------------------------


def _labels(
    log: Observations, clock: ManualClock, share: float, delay: timedelta, days: int = 20, per_day: int = 200
) -> None:
    """Fill a log as time passes: `share` of the rows get a label, after `delay`."""
    rng = np.random.default_rng(7)
    start, count = clock.now() - timedelta(days=days), days * per_day
    times = [start + timedelta(days=one / per_day) for one in range(count)]
    names = [str(one) for one in range(count)]
    log.observe("m", {}, predicted=[0] * count, ids=names, times=times)
    due = [one for one in range(count) if rng.random() < share and times[one] + delay <= clock.now()]
    log.actuals("m", [names[one] for one in due], [1] * len(due), times=[times[one] + delay for one in due])


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("hours", [0, 6, 72])
def test_the_watermark_is_where_the_expected_labels_have_come(log, clock, share, hours):
    _labels(log, clock, share, timedelta(hours=hours))
    mark = log.watermark("m", WHOLE)
    truth = clock.now() - timedelta(hours=hours)
    assert mark is not None
    assert truth - timedelta(days=2, hours=hours / 3) < mark < truth + timedelta(hours=3)


def test_labels_that_stop_coming_stop_the_watermark(log, clock):
    _labels(log, clock, 0.8, timedelta(hours=1))
    before = log.watermark("m")
    clock.advance(days=5)
    log.observe("m", {}, predicted=[0] * 1000, times=[clock.now() - timedelta(minutes=one) for one in range(1000)])

    assert before is not None
    assert log.watermark("m") < before + timedelta(hours=6)


def test_a_declared_delay_wins_and_no_labels_are_no_watermark(log, clock):
    log.observe("m", {}, predicted=[1])
    assert log.watermark("m") is None
    assert log.watermark("m", declared=timedelta(days=3)) == clock.now() - timedelta(days=3)


# --- bounds -----------------------------------------------------------------------------------------------------


def test_past_the_bound_a_uniform_sample_stays_and_says_so(tmp_path, clock):
    log = Observations(tmp_path / "o.db", clock, rows=1_000)
    count, told = 12_000, []
    for start in range(0, count, 500):
        names = [f"row-{one}" for one in range(start, start + 500)]
        noted = log.observe("m", {"x": list(range(start, start + 500))}, predicted=[0] * 500, ids=names)
        told.append(noted.thinned)
        log.actuals("m", names, [1] * 500)

    window = log.window("m", limit=10**6)

    assert len(window) <= 1_000
    assert 500 < len(window) / window.share / count * 1_000 < 1_500
    assert sum(told) == round(-np.log2(window.share))
    assert window.notes == (f"1 in {round(1 / window.share)} rows is kept: a uniform sample of all that were seen",)
    # Chi-square of the rows kept in each twelfth of what was seen; 31.3 is exceeded by chance 1 time in 1,000.
    kept = np.histogram(window.features["x"].to_numpy(), bins=12, range=(0, count))[0]
    assert ((kept - kept.mean()) ** 2 / kept.mean()).sum() < 31.3
    assert window.has_actual.all()
    assert len(table(log)) == len(window)  # no actual waits for a row that is not kept
    assert log.actuals("m", [f"row-{one}" for one in range(count)], [2] * count).sampled_out == count - len(window)
    log.close()


def test_a_reader_sees_the_uniform_sample_before_the_other_rows_are_gone(log, monkeypatch):
    monkeypatch.setattr("evertrain.observations.log._SWEEP", 10)
    log.bound = 999
    names = [str(one) for one in range(1_000)]
    assert log.observe("m", {}, predicted=[0] * 1_000, ids=names).share == 0.5

    before, stored = log.window("m").ids, len(table_names(log))
    pruned = log.prune()

    assert stored > 950
    assert pruned.thinned == stored - len(before)
    assert log.window("m").ids == before
    assert sorted(table_names(log)) == sorted(before)


def table_names(log: Observations) -> list[str]:
    connection = sqlite3.connect(log.path)
    found = [row[0] for row in connection.execute("SELECT name FROM observed")]
    connection.close()
    return found


def test_what_is_too_old_goes(log, clock):
    log.observe("m", {}, predicted=[1], ids=["old"], keys=[A])
    log.actuals("m", ["never"], [1])
    clock.advance(days=30)
    log.observe("m", {}, predicted=[1], ids=["new"], keys=[B])
    assert log.prune().waiting == 0
    clock.advance(seconds=1)
    assert log.prune().waiting == 1
    clock.advance(days=60)

    pruned = log.prune()

    assert (pruned.rows, pruned.waiting) == (1, 0)
    assert log.window("m").ids == ["new"]
    assert [one.key for one in log.keys_with_news("m")] == [B]


def test_rows_that_are_too_old_are_counted_and_not_kept(log, clock):
    limit = clock.now() - timedelta(days=90)
    noted = log.observe("m", {}, predicted=[1, 2], ids=["in", "out"], times=[limit, limit - timedelta(microseconds=1)])
    assert (noted.new, noted.too_old) == (1, 1)
    assert log.window("m").ids == ["in"]


def test_whoever_observes_removes_what_is_too_old(log, clock):
    log.observe("m", {}, predicted=[1], ids=["old"])
    clock.advance(days=91)
    log.observe("m", {}, predicted=[1], ids=["new"])
    assert log.window("m").ids == ["new"]


def test_erased_rows_leave_no_bytes_in_the_file(log):
    names = np.random.default_rng(7).permutation([f"person-{one:05d}" for one in range(3_000)]).tolist()
    log.observe("m", {"secret": [f"{name}-secret" for name in names]}, predicted=[0] * 3_000, ids=names)
    log.actuals("m", names[:1], ["answer-secret"])
    log._open().execute("PRAGMA secure_delete=OFF")  # which some builds of SQLite set, and others do not

    assert log.erase("m", [*names[:300], "unknown"]) == 300

    files = b"".join(path.read_bytes() for path in log.path.parent.iterdir())
    assert not [name for name in names[:300] if name.encode() in files]
    assert b"answer-secret" not in files
    assert f"{names[300]}-secret".encode() in files
    assert len(log.window("m")) == 2_700


# --- the file ---------------------------------------------------------------------------------------------------


def test_the_file_is_private_whatever_the_umask(tmp_path, clock):
    before = os.umask(0)
    try:
        log = Observations(tmp_path / "o.db", clock)
        log.observe("m", {}, predicted=[1])
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    log.close()


def test_a_file_that_is_no_database_is_told_so(tmp_path, clock):
    (tmp_path / "o.db").write_text("hello " * 1000)
    with pytest.raises(StoreError, match=r"o\.db: file is not a database"):
        Observations(tmp_path / "o.db", clock).observe("m", {}, predicted=[1])


WRITER = """
import sys
from pathlib import Path
from evertrain.clock import SystemClock
from evertrain.observations import Observations
log = Observations(Path(sys.argv[1]), SystemClock(), busy_s=60)
print("ready", flush=True)
for batch in range(int(sys.argv[3])):
    names = [f"{sys.argv[2]}-{batch}-{row}" for row in range(50)]
    log.observe("m", {"x": list(range(50))}, predicted=range(50), ids=names)
    log.actuals("m", names, range(50))
    print(batch, flush=True)
"""


def _writer(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(batches)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_write_and_no_row_is_lost(tmp_path, clock):
    path = tmp_path / "o.db"
    writers = [_writer(path, name, 20) for name in "ab"]
    assert [one.wait(120) for one in writers] == [0, 0]
    for one in writers:
        one.stdout.close()

    log = Observations(path, clock)
    window = log.window("m")

    assert len(window) == 2 * 20 * 50
    assert window.has_actual.all()
    assert log.check() is None
    (news,) = log.keys_with_news("m")
    assert (news.observed, news.labelled) == (2_000, 2_000)
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.11])
def test_a_killed_writer_loses_at_most_its_last_batch_and_damages_nothing(tmp_path, clock, delay):
    path = tmp_path / "o.db"
    writer = _writer(path, "a", 100_000)
    said = [writer.stdout.readline() for _ in range(5)]
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    confirmed = int(said[-1]) + 1

    log = Observations(path, clock)

    assert log.check() is None
    window = log.window("m", limit=10**6)
    assert len(window) in (confirmed * 50, (confirmed + 1) * 50)
    assert window.has_actual[: confirmed * 50].sum() >= 0
    assert log.observe("m", {}, predicted=[1]).new == 1
    log.close()


# --- a predictor that observes itself ---------------------------------------------------------------------------


@pytest.fixture
def declared(make, folder):
    write_rows(folder / "rows.csv", towns=2)
    made = make()
    line_model(made, partition_by="town", min_samples=5)
    return made


@pytest.fixture
def project(declared):
    declared.refresh()
    return declared


def test_a_predictor_keeps_what_it_answers(project):
    predictor = project.predictor("line", observe=True)
    rows = pd.DataFrame({"town": ["T00", "T01"], "x": [1.5, 2.5], "name": ["Ada", "Bo"]})
    named = predictor.answer(rows, ids=["first", "second"])
    drawn = predictor.answer(rows)
    predictor.close()

    window = project.opened.observations().window("line")

    assert named.ids == ("first", "second")
    assert set(window.ids) == {*named.ids, *drawn.ids}
    assert window.features.columns == ["x"]  # what the model does not use is nobody's business
    assert window.versions == ["1.0.0"] * 4
    assert sorted(set(window.keys)) == ['{"town":"T00"}', '{"town":"T01"}']
    assert sorted(window.predicted) == sorted([*named.values, *drawn.values])
    assert predictor.unlogged == 0
    assert project.actuals("line", {"id": ["first"], "y": [3.0]}).matched == 1


def test_a_predictor_that_is_not_asked_to_observes_nothing(project):
    assert project.predictor("line").answer({"town": ["T00"], "x": [1.5]}).ids == ()
    assert not project.opened.observations().path.exists()


def test_a_prediction_is_answered_at_once_while_the_log_is_locked_and_what_is_dropped_is_counted(project):
    log = project.opened.observations()
    log._busy_s = 0.05
    project.observe("line", {"town": ["T00"], "x": [1.5], "prediction": [1]})
    predictor = project.predictor("line", observe=True)
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log.close()  # so that the short patience counts

    started = time.perf_counter()
    answers = [predictor.predict({"town": ["T00"], "x": [1.5]}) for _ in range(5)]
    took = time.perf_counter() - started
    predictor.close()
    other.execute("ROLLBACK")
    other.close()

    assert len(answers) == 5
    assert took < 2
    assert predictor.unlogged == 5


def test_rows_beyond_what_may_wait_are_dropped_and_counted(project):
    predictor = project.predictor("line", observe=True)
    predictor._recorder._most = 3
    predictor._recorder._seconds = 60
    for _ in range(5):
        predictor.predict({"town": ["T00"], "x": [1.5]})
    predictor.close()

    assert predictor.unlogged == 2
    assert len(project.opened.observations().window("line")) == 3


def test_a_row_that_cannot_be_kept_takes_no_other_with_it(project):
    predictor = project.predictor("line", observe=True)
    predictor._recorder._seconds = 60
    for x in (1.5, 2.5):
        predictor.answer({"town": ["T00"], "x": [x]}, ids=["same"])
    good = predictor._recorder._waiting[0]
    predictor._recorder.add(replace(good, values=np.array([1 + 2j]), ids=("bad",)))
    predictor.close()

    assert predictor.unlogged == 1
    assert project.opened.observations().window("line").features["x"].to_list() == [2.5]


def test_many_threads_predict_and_every_answer_is_kept(project):
    predictor = project.predictor("line", observe=True)
    predictor._recorder._rows = 7

    def ask() -> None:
        for _ in range(50):
            predictor.predict({"town": ["T00"], "x": [1.5]})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    project.close()

    assert predictor.unlogged == 0
    log = Observations(project.root / "observations.db", ManualClock())
    assert len(log.window("line")) == 200
    log.close()


def test_ids_must_be_one_per_row(project):
    with pytest.raises(DataError, match="2 ids for 1 rows"):
        project.predictor("line", observe=True).answer({"town": ["T00"], "x": [1.5]}, ids=["a", "b"])


def test_a_recorder_that_is_closed_counts_what_comes_later(log):
    recorder = Recorder(log, "m")
    recorder.close()
    recorder.close()
    assert recorder.unlogged == 0


# --- from Python and the command line ---------------------------------------------------------------------------


def test_features_predictions_and_actuals_come_in_one_frame(declared):
    frame = pl.DataFrame({"town": ["T00", "T01"], "x": [1.0, 2.0], "y": [2.0, None], "prediction": [2.5, 4.0]})

    noted = declared.observe("line", frame)

    assert (noted.new, noted.actuals.matched, noted.actuals.missing) == (2, 1, 1)
    assert declared.opened.observations().window("line").features.columns == ["x"]


def test_predictions_and_actuals_come_as_npy_files(declared, folder):
    """S3-11"""
    np.save(folder / "predictions.npy", np.arange(60.0))
    np.save(folder / "actuals.npy", np.arange(60.0) + 1)

    noted = declared.observe(
        "line", folder / "rows.csv", predictions=folder / "predictions.npy", actuals=str(folder / "actuals.npy")
    )

    window = declared.opened.observations().window("line")
    assert (noted.new, noted.actuals.matched) == (60, 60)
    assert sorted(window.actual - window.predicted) == [1.0] * 60


def _huge(path: Path) -> None:
    np.save(path, np.zeros(2))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(2,), }          ", b"(2000000000000,),}"[:17].ljust(17)))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True), "no .npy file"),
        (lambda path: np.save(path, np.zeros((60, 2))), r"of shape \(60, 2\); one number or text per row is needed, shape \(n,\)"),
        (lambda path: np.save(path, np.float64(3)), r"of shape \(\)"),
        (lambda path: np.save(path, np.zeros(59)), "59 predictions for 60 rows"),
        (lambda path: np.save(path, np.zeros(60, dtype=complex)), "complex"),
        (lambda path: np.savez(path.open("wb"), a=np.zeros(60)), "no .npy file"),
        (lambda path: path.write_bytes(b"\x80\x04K\x01."), "no .npy file"),
        (lambda path: path.write_bytes(b""), "no .npy file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "no .npy file"),
        (_huge, "no .npy file|2 predictions"),
        (lambda path: None, "cannot be read"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_npy_file_that_is_none_is_refused_and_never_unpickled(declared, folder, write, said):
    """S3-11"""
    write(folder / "p.npy")
    with pytest.raises(DataError, match=said):
        declared.observe("line", folder / "rows.csv", predictions=folder / "p.npy")


@pytest.mark.parametrize(
    ("model", "rows", "error", "said"),
    [
        ("other", [{"x": 1}], UnknownName, "line"),
        ("line", [{"town": "T00", "x": 1}], DataError, "no prediction column 'prediction'"),
        ("line", [{"x": 1, "prediction": 1}], DataError, "tells which partition of line a row is of"),
        ("line", "missing.csv", DataError, "missing.csv"),
        ("line", "rows.xlsx", DataError, "rows.xlsx"),
        ("line", None, DataError, "the rows are NoneType"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(declared, model, rows, error, said):
    with pytest.raises(error, match=said):
        declared.observe(model, rows)


def test_ids_of_a_file_stay_the_texts_they_are(declared, folder):
    (folder / "p.csv").write_text("id,town,x,prediction\n007,T00,1,1\n7,T00,1,2\n")
    (folder / "a.csv").write_text("id,actual\n007,5\n")
    declared.observe("line", folder / "p.csv", id="id")

    assert declared.actuals("line", folder / "a.csv").matched == 1
    window = declared.opened.observations().window("line")
    assert dict(zip(window.ids, window.has_actual.tolist(), strict=True)) == {"007": True, "7": False}


def test_thinning_is_told_in_the_log(make, folder):
    from evertrain import Retention

    write_rows(folder / "rows.csv")
    project = make(keep=Retention(observations=10))
    line_model(project)
    noted = project.observe("line", {"x": list(range(40)), "prediction": [0] * 40})
    assert noted.share < 1
    with project.opened.store.read() as tx:
        (found,) = tx.rows("SELECT data FROM events WHERE kind = 'observations.thinned'")
    assert json.loads(found.data) == {"one_in": round(1 / noted.share), "rows": 10}


DECLARED = """
name = "shop"
executor = "inline"

[sources.rows]
path = "rows.csv"

[models.line]
source = "rows"
target = "y"
features = ["x"]
trainer = "toys:Line"
min_samples = 10
"""


@pytest.fixture
def shop(folder, monkeypatch):
    (folder / "evertrain.toml").write_text(DECLARED)
    write_rows(folder / "rows.csv")
    when = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    (folder / "served.csv").write_text(f"id,x,said,when\n1,1.5,3,{when}\n2,2.5,5,{when}\n")
    (folder / "truth.csv").write_text("id,y\n1,3\n2,6\n3,1\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_files_are_observed_from_the_command_line(shell: Shell, shop):
    first = shell.ok("observe", "line", "served.csv", "--prediction", "said", "--id", "id", "--time", "when")
    assert "Observed 2 predictions of line: 2 new." in first.out
    assert shell.paste(first).code == 0
    again = shell.ok("observe", "line", "served.csv", "--prediction", "said", "--id", "id", "--time", "when", "--json")
    assert (again.json["unchanged"], again.json["ids"]) == (2, ["1", "2"])
    labels = shell.ok("actuals", "line", "truth.csv")
    assert "Read 3 actuals of line: 2 matched, 1 waiting for their prediction." in labels.out
    assert shell.paste(labels).code == 0
    assert shell.ok("actuals", "line", "truth.csv", "--json").json["unchanged"] == 3


def test_npy_files_are_observed_from_the_command_line(shell: Shell, shop):
    """S3-11"""
    np.save(shop / "p.npy", np.arange(60))
    np.save(shop / "a.npy", np.arange(60))
    said = shell.ok("observe", "line", "rows.csv", "--predictions", "p.npy", "--actuals", "a.npy")
    assert "Observed 60 predictions of line: 60 new." in said.out
    assert "Actuals: 60 matched." in said.out


def test_a_backup_holds_the_observations_and_a_restore_brings_them_back(shell: Shell, shop):
    shell.ok("observe", "line", "served.csv", "--prediction", "said", "--id", "id")
    shell.ok("backup", "copy")
    shell.ok("actuals", "line", "truth.csv")
    shell.ok("restore", "copy", "--force")

    assert (shop / "observations.db.before-restore").exists()
    assert (shop / "observations.db").stat().st_mode & 0o777 == 0o600
    log = Observations(shop / "observations.db", ManualClock())
    window = log.window("line")
    assert (window.ids, window.has_actual.any()) == (["1", "2"], False)
    log.close()
    assert "sound" in shell("doctor").out


def test_a_damaged_file_of_observations_is_what_the_doctor_finds(shell: Shell, shop):
    shell.ok("status")
    (shop / "observations.db").write_text("hello " * 1000)
    said = shell("doctor")
    assert said.code == 1
    assert "file is not a database" in said.out


def test_gc_removes_old_observations(shell: Shell, shop):
    old = datetime.now(UTC) - timedelta(days=200)
    log = Observations(shop / "observations.db", ManualClock(wall=old))
    log.observe("line", {"x": [1.0]}, predicted=[1], ids=["old"])
    log.close()
    shell.ok("gc")
    assert len(Observations(shop / "observations.db", ManualClock()).window("line")) == 0
