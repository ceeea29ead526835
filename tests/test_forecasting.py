"""Series: periods as pandas has them, frequencies told from rows, gaps, origins of a backtest, the naive forecast."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain.errors import ConfigError, DataError
from evertrain.forecasting import NoData, cutoffs, infer_freq, naive, parse_freq, regular
from evertrain.specs import Series


def at(*parts):
    return datetime(*parts, tzinfo=UTC)


LATE = at(2100, 1, 1)
DAYS = ["D", "W-SUN", "W-MON", "W-WED", "MS", "ME", "QS", "QE", "QS-FEB", "QE-NOV", "YS", "YE", "YS-APR", "YE-MAR"]
SHORT = ["s", "min", "15min", "h", "2h"]


def instants(*texts):
    return np.array(texts, dtype="datetime64[us]")


def series(texts, values, freq="D", *, now=LATE, latest=None, **how):
    return regular(
        instants(*texts), np.array(values, dtype=float), Series(how.pop("h", 3), freq, **how), parse_freq(freq),
        now=now, latest=latest,
    )  # fmt: skip


@pytest.mark.parametrize("name", DAYS)
def test_periods_and_their_labels_are_those_of_pandas(name):
    times = pd.Timestamp("1961-03-04") + pd.to_timedelta(
        np.random.default_rng(1).integers(0, 70 * 365 * 86400, 2000), "s"
    )
    freq = parse_freq(name)
    found = regular(times.values, np.ones(len(times)), Series(3, name), freq, now=LATE)
    expected = pd.Series(1.0, index=times).resample(name).sum()
    assert freq.label(found.periods).tolist() == expected.index.values.tolist()
    assert found.values.tolist() == expected.tolist()


@pytest.mark.parametrize("name", SHORT)
def test_short_periods_are_those_of_pandas(name):
    times = pd.Timestamp("2026-03-04") + pd.to_timedelta(np.random.default_rng(1).integers(0, 7200, 500), "s")
    freq = parse_freq(name)
    found = regular(times.values, np.ones(len(times)), Series(3, name), freq, now=LATE)
    expected = pd.Series(1.0, index=times).resample(name).sum()
    assert freq.label(found.periods).tolist() == expected.index.values.tolist()
    assert found.values.tolist() == expected.tolist()


@given(st.sampled_from([*DAYS, *SHORT, "B"]), st.dates(date(1690, 1, 1), date(2250, 1, 1)), st.times())
def test_the_label_of_a_period_lies_in_it_and_the_next_begins_where_it_ends(name, day, time):
    freq = parse_freq(name)
    one = freq.period(np.array([datetime.combine(day, time)], dtype="datetime64[us]"))
    assert freq.period(freq.label(one)) == one
    assert freq.period(freq.start(one)) == one
    assert freq.period(freq.start(one + 1)) == one + 1
    assert freq.start(one) <= freq.label(one) < freq.start(one + 1)


def test_a_weekend_counts_for_the_next_working_day():
    freq = parse_freq("B")
    assert freq.texts(freq.period(instants("2026-11-20", "2026-11-21", "2026-11-23"))) == [
        "2026-11-20", "2026-11-23", "2026-11-23",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "month", "2MS", "0h", "W-XXX", "MS-JAN", "-1D", "99999h", None, 7, "D; drop", "１D"]
)
def test_what_is_no_frequency_is_refused_with_what_is(name):
    with pytest.raises(ConfigError, match="W-MON, MS"):
        parse_freq(name)


@pytest.mark.parametrize("name", ["YS", "QS", "MS", "ME", "W-SUN", "W-TUE", "D", "h", "15min", "YE", "QE"])
def test_a_frequency_is_told_from_rows_with_a_few_gaps(name):
    times = pd.date_range("2020-01-04", periods=40, freq=name).values
    assert infer_freq(np.delete(times, [5, 6, 20])) == name


def test_months_are_told_from_rows_on_any_one_day_of_the_month():
    times = pd.date_range("2020-01-01", periods=40, freq="MS") + pd.Timedelta(days=4, hours=6)
    assert infer_freq(times.values) == "MS"
    assert infer_freq(np.delete(times.values, [3, 4])) == "MS"


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (pd.bdate_range("2026-01-05", periods=20).values, "freq='B' for working days, or freq='D'"),
        (instants("2026-01-01", "2026-02-01"), "2 different times are too few"),
        (instants("2026-01-01", "2026-01-07", "2026-02-23", "2026-05-30"), "fit no frequency"),
    ],
)
def test_a_frequency_in_doubt_is_asked_for(times, said):
    with pytest.raises(DataError, match=said):
        infer_freq(times)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"gaps": "zero"}, [1, 0, 0, 4]), ({"gaps": "linear"}, [1, 2, 3, 4]), ({"gaps": "last"}, [1, 1, 1, 4]),
        ({"gaps": "missing"}, [1, np.nan, np.nan, 4]), ({}, [1, 0, 0, 4]), ({"aggregate": "mean"}, [1, 2, 3, 4]),
        ({"aggregate": "count"}, [1, 0, 0, 1]),
    ],
)  # fmt: skip
def test_a_period_without_rows_holds_what_is_declared(how, expected):
    assert np.array_equal(series(["2026-01-01", "2026-01-04"], [1, 4], **how).values, expected, equal_nan=True)


def test_refused_gaps_name_the_first():
    with pytest.raises(DataError, match=r"1 of 3 periods have no rows, the first is 2026-01-02"):
        series(["2026-01-01", "2026-01-03"], [1, 4], gaps="refuse")


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("sum", 9), ("mean", 3), ("min", 1), ("max", 5), ("last", 3), ("count", 3)]
)
def test_rows_of_one_period_become_one_value(aggregate, expected):
    texts = ["2026-01-01T08:00", "2026-01-01T20:00", "2026-01-01T09:00", "2026-01-02"]
    assert series(texts, [1, 3, 5, 7], aggregate=aggregate).values[0] == expected


def test_the_period_that_has_not_ended_counts_only_where_it_is_said_to():
    texts, now = ["2026-01-30", "2026-02-01", "2026-03-01"], at(2026, 2, 28, 23, 59)
    assert series(texts, [1, 2, 4], "MS", now=now).values.tolist() == [1]
    assert series(texts, [1, 2, 4], "MS", now=now).left_out == 2
    assert series(texts, [1, 2, 4], "MS", now=now, unfinished=True).values.tolist() == [1, 2]
    assert series(texts, [1, 2, 4], "MS", now=at(2026, 3, 1)).values.tolist() == [1, 2]


def test_a_partition_that_fell_silent_has_gaps_up_to_the_newest_row_of_the_model():
    found = series(["2026-01-01", "2026-01-02"], [1, 2], latest=at(2026, 1, 4))
    assert found.values.tolist() == [1, 2, 0, 0]
    early = series(["2026-01-01", "2026-01-02"], [1, 2], latest=at(2026, 1, 4), now=at(2026, 1, 4, 12))
    assert early.values.tolist() == [1, 2, 0]


def test_a_slip_of_a_date_is_named_and_fills_no_memory():
    with pytest.raises(DataError, match="9999-12-31T00:00:00; allowed: 1680 to 2259"):
        series(["2026-01-01", "9999-12-31"], [1, 2], now=at(9999, 12, 31))
    with pytest.raises(DataError, match=r"from 1926-01-01.* are 876601 periods of h; allowed: 200000"):
        series(["1926-01-01", "2026-01-01"], [1, 2], "h")


def test_rows_without_time_or_value_are_no_rows():
    with pytest.raises(NoData, match="no data: no rows"):
        regular(instants("NaT", "2026-01-01"), np.array([1, np.nan]), Series(3, "D"), parse_freq("D"), now=LATE)
    with pytest.raises(NoData, match="all in a period that has not ended"):
        series(["2026-01-05"], [1], now=at(2026, 1, 5))


@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 80), st.integers(-1000, 1000), st.integers(1, 10))
def test_origins_leave_something_to_test_and_enough_to_learn_and_neighbours_share_them(h, windows, size, first, least):
    freq = parse_freq("MS")
    found = regular(freq.start(np.arange(first, first + size)), np.arange(size) + 1.0, Series(h, "MS"), freq, now=LATE)
    origins = cutoffs(found, h, windows, least)
    assert len(origins) <= windows
    for one in origins:
        assert one < found.last
        assert one - found.first + 1 >= least
    again = cutoffs(found.upto(found.last), h, windows, least)
    assert origins == again
    if size > 1 and (found.last % h):
        before = cutoffs(found.upto(found.last - 1), h, windows, least)
        assert set(origins[:1]) <= set(before), "one period more keeps the newest origin"


def test_the_naive_forecast_repeats_the_last_season_and_its_interval_grows_with_each():
    values = np.array([10.0, 20, 30, 12, 22, 32, 11, 21, 31])
    found = naive(values, 3, 6, [80])
    assert found["mean"].tolist() == [11, 21, 31, 11, 21, 31]
    spread = np.sqrt(np.mean([4, 4, 4, 1, 1, 1]))
    # Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., table 5.2: 1.28 for 80 %.
    assert found["hi-80"][0] - 11 == pytest.approx(1.2816 * spread, rel=1e-4)
    assert found["hi-80"][3] - 11 == pytest.approx(1.2816 * spread * np.sqrt(2), rel=1e-4)


@pytest.mark.parametrize("values", [[0.0] * 5, [7.0, 7.0], [7.0], [1.0, 2.0]])
def test_the_naive_forecast_of_a_constant_or_short_series_claims_nothing_it_cannot_know(values):
    found = naive(np.array(values), 12, 2, [95])
    assert found["mean"].tolist() == [values[-1]] * 2
    known = len(values) > 2 or (len(values) == 2 and values[0] == values[1])
    assert np.isfinite(found["lo-95"]).all() == known
