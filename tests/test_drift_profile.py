"""The profile: small, true to the rows, never surprised by a frame, refusing damaged bytes."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain.drift import statistics
from evertrain.drift.columns import compare
from evertrain.drift.profile import KEPT, Levels, Numbers, Profile, Unread, kind_of
from evertrain.drift.table import Kind, instants
from evertrain.errors import ArtifactError, DataError
from evertrain.specs import Drift


def column(profile, name="x"):
    return next(one for one in profile.columns if one.name == name)


def of(values, **options):
    return Profile.of(pd.DataFrame({"x": values}), **options)


# --- what it keeps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["normal", "lognormal", "integers"])
def test_the_sketch_is_within_one_4096th_of_the_exact_distance(draw):
    random = np.random.default_rng(1)
    make = {
        "normal": lambda n, shift: random.normal(shift, 1, n),
        "lognormal": lambda n, shift: random.lognormal(shift, 2, n),
        "integers": lambda n, shift: random.poisson(30 + 5 * shift, n).astype(float),
    }[draw]
    for shift in (0.0, 0.1, 1.0):
        reference, recent = make(50_000, 0.0), np.sort(make(7_000, shift))
        exact = statistics.ks_distance(np.sort(reference), recent)
        sketched = statistics.ks_distance(column(of(reference)).order, recent)
        assert abs(sketched - exact) <= 1 / KEPT


def test_an_exact_profile_keeps_every_value():
    values = np.random.default_rng(1).normal(size=10_000)
    assert column(of(values, exact=True)).order.tolist() == np.sort(values).tolist()
    assert len(column(of(values)).order) == KEPT


def test_facts_are_those_of_the_whole_column():
    values = np.append(np.random.default_rng(2).normal(5, 2, 20_000), [np.nan, np.inf, 1e6])
    found, known = column(of(values)), values[:-3]
    facts = found.facts
    assert (found.rows, found.missing, found.infinite) == (20_001, 2, 1)
    assert facts.mean == pytest.approx(np.append(known, 1e6).mean())
    assert facts.median == pytest.approx(np.median(known), abs=1e-3)
    assert facts.spread == pytest.approx(2, rel=0.03)
    low, q1, q3, high = np.quantile(known, [0.001, 0.25, 0.75, 0.999])
    assert (facts.low, facts.high) == pytest.approx((low - (q3 - q1), high + (q3 - q1)), rel=0.01)
    assert facts.beyond == 1
    assert facts.outliers == (np.abs(np.append(known, 1e6) - facts.median) > 3.5 * facts.spread).sum()


def test_numbers_of_few_values_are_kept_as_counts():
    found = column(of([3, 1, 1, 2, 1, None]))
    assert (found.values.tolist(), found.counts.tolist(), found.missing) == ([1, 2, 3], [3, 1, 1], 1)
    assert found.order.tolist() == [1, 1, 1, 2, 3]


def test_levels_of_text_are_counted_and_capped():
    texts = [*["often"] * 50, *map(str, range(10_050))]
    found = column(of(texts))
    assert isinstance(found, Levels)
    assert (found.levels[0], found.counts[0], len(found.levels)) == ("often", 50, 10_000)
    assert (found.other, found.singles) == (51, 10_050)


def test_losses_are_the_newest_finite_ones():
    profile = of([1.0], losses=[np.nan, *range(20_005), np.inf])
    assert profile.losses.dtype == np.float64
    assert (len(profile.losses), profile.losses[0], profile.losses[-1]) == (20_000, 5.0, 20_004.0)


def test_a_small_partition_has_a_small_profile():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(100, 10)), columns=[f"feature_{i}" for i in range(10)])
    assert len(Profile.of(frame).to_bytes()) < 10_500


# --- time -------------------------------------------------------------------------------------------------------


def ar1(phi, n, seed=0):
    noise, x = np.random.default_rng(seed).normal(size=n), np.zeros(n)
    for k in range(1, n):
        x[k] = phi * x[k - 1] + noise[k]
    return x


def test_rows_that_depend_on_their_neighbours_count_less_whatever_their_order_in_the_frame():
    x, hours = ar1(0.9, 5_000), pd.date_range("2024", periods=5_000, freq="90s")
    tau = column(of(x, times=hours)).facts.tau
    assert 6 < tau < 20
    mixed = np.random.default_rng(1).permutation(5_000)
    assert column(of(x[mixed], times=hours[mixed])).facts.tau == tau
    assert column(of(x)).facts.tau == 1


@pytest.mark.parametrize(("freq", "period"), [("h", 24), ("D", 7), ("MS", 12), ("W", 52)])
def test_a_season_is_found_and_taken_off(freq, period):
    n = 12 * period
    times = pd.date_range("2010", periods=n, freq=freq)
    x = np.sin(np.arange(n) * 2 * np.pi / period) * 5 + np.random.default_rng(3).normal(size=n)
    found = column(of(x, times=times))
    assert found.season.shape == (2, period)
    assert np.abs(found.order).max() < 6
    # As recent rows will be: off the mean of the eleven other periods.
    assert found.order.std() == pytest.approx(np.sqrt(12 / 11))


def test_a_memory_is_no_season():
    times = pd.date_range("2024", periods=2_000, freq="h")
    for seed in range(20):
        assert column(of(ar1(0.97, 2_000, seed), times=times)).season.size == 0
        noise = np.random.default_rng(seed).normal(size=2_000)
        assert column(of(noise, times=times)).season.size == 0


def test_a_season_of_another_length_is_none():
    n = 22 * 40
    x = np.sin(np.arange(n) * 2 * np.pi / 22) * 5 + np.random.default_rng(3).normal(size=n)
    assert column(of(x, times=pd.date_range("2024", periods=n, freq="h"))).season.size == 0


def test_irregular_times_have_no_season():
    n = 24 * 20
    random = np.random.default_rng(3)
    times = pd.Timestamp("2024") + pd.to_timedelta(np.sort(random.uniform(0, n, n)), "h")
    x = np.sin(np.arange(n) * 2 * np.pi / 24) * 5 + random.normal(size=n)
    profile = of(x, times=times)
    assert profile.clock is None
    assert column(profile).season.size == 0


# --- odd frames -------------------------------------------------------------------------------------------------

N = 60


def odd_frames():
    random = np.random.default_rng(0)
    plain = {
        "x": random.normal(size=N), "i": random.integers(0, 100, N), "b": random.random(N) > 0.5,
        "t": random.choice(list("abc"), N),
    }  # fmt: skip
    return {
        "plain": pd.DataFrame(plain),
        "objects": pd.DataFrame(
            {
                "mixed": [None, np.nan, 1, "1", 2.5, True] * 10, "none": [None] * N, "na": [pd.NA] * N,
                "lists": [[1], [2], None] * 20, "dicts": [{"a": 1}] * N, "sets": [set()] * N,
                "arrays": [np.arange(3)] * N,
            }
        ),
        "not finite": pd.DataFrame(
            {"x": [np.inf, -np.inf, 1.0, 2, np.nan, 3] * 10, "huge": [1e308, -1e308] * 30, "i": [np.inf] * N}
        ),
        "constant": pd.DataFrame({"x": [1.0] * N, "t": ["q"] * N}),
        "times": pd.DataFrame(
            {
                "naive": pd.date_range("2020", periods=N), "zoned": pd.date_range("2020", periods=N, tz="Europe/Vienna"),
                "span": pd.to_timedelta(random.integers(0, 1000, N), "s"), "dates": [dt.date(2020, 1, 1)] * N,
                "spans": pd.Series([dt.timedelta(1)] * N, dtype=object), "none": [pd.NaT] * N,
                "periods": pd.period_range("2020", periods=N, freq="M"),
            }
        ),
        "categories": pd.DataFrame(
            {
                "t": pd.Categorical(random.choice(list("abc"), N), categories=list("abcd")),
                "i": pd.Categorical(random.integers(0, 3, N)), "none": pd.Categorical([None] * N),
                "intervals": pd.cut(random.normal(size=N), 5),
            }
        ),
        "nullable": pd.DataFrame(
            {
                "i": pd.array([1, None] * 30, dtype="Int64"), "x": pd.array([1.5, None] * 30, dtype="Float64"),
                "b": pd.array([True, None] * 30, dtype="boolean"), "t": pd.array(["a", None] * 30, dtype="string"),
                "sparse": pd.arrays.SparseArray([0.0, 1.0] * 30), "complex": np.ones(N) * 1j,
            }
        ),
        "large numbers": pd.DataFrame(
            {
                "i": [2**70, 10**400, -(2**65), 1, 2, 3] * 10, "u": np.array([2**64 - 1] * N, dtype=np.uint64),
                "x": np.arange(N) + 2**53, "dec": [decimal.Decimal("1.5"), decimal.Decimal("NaN")] * 30,
            }
        ),
        "nothing": pd.DataFrame(),
        "no rows": pd.DataFrame(plain).iloc[:0],
        "no columns": pd.DataFrame(index=range(N)),
        "one row": pd.DataFrame(plain).iloc[:1],
        "names twice": pd.DataFrame(random.normal(size=(N, 3)), columns=["x", "x", "x #2"]),
        "tuples": pd.DataFrame(random.normal(size=(N, 2)), columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])),
        "polars": pl.DataFrame(
            {
                "x": random.normal(size=N), "t": random.choice(list("ab"), N), "i": [None, 1] * 30,
                "lists": [[1, 2]] * N, "c": pl.Series(["a", "b"] * 30, dtype=pl.Categorical),
            }
        ).to_pandas(),
        "texts": pd.DataFrame({"t": ["\udc80", "ok"] * 30, "long": ["x" * 500, "y" * 500] * 30, "nul": ["a\0b", ""] * 30}),
        "strided": pd.DataFrame(random.normal(size=(2 * N, 4)), columns=list("xibt"))[::2],
        "small types": pd.DataFrame(
            {
                "x": random.normal(size=N).astype("f2"), "i": random.integers(0, 99, N).astype("i1"),
                "c": random.normal(size=N).astype(">f8"),
            }
        ),
    }  # fmt: skip


FRAMES = odd_frames()


@pytest.mark.parametrize("name", FRAMES)
def test_no_frame_makes_a_check_fail_and_none_alarms_about_itself(name):
    frame = FRAMES[name]
    answers = frame.iloc[:, 0].to_numpy() if frame.shape[1] else None
    profile = Profile.of(frame, predicted=answers, times=np.arange(len(frame)), joint=True)
    again = Profile.from_bytes(profile.to_bytes())
    assert again.to_bytes() == profile.to_bytes()
    for other, recent in FRAMES.items():
        for one in compare(again, recent, Drift(), times=np.arange(len(recent))):
            json.dumps(dict(one.detail), allow_nan=False)
            assert one.p is None or 0 <= one.p <= 1
            assert np.isfinite(one.effect)
            if other == name:
                assert not one.stop
                assert one.p is None or one.p > 0.5


def test_kinds_of_columns():
    kinds = {
        (name, one.name): str(kind_of(one))
        for name in ("objects", "times", "categories", "nullable", "large numbers")
        for one in Profile.of(FRAMES[name]).columns
    }
    expected = {
        "objects": "text empty empty text text text text",
        "times": "time time number time number empty text",
        "categories": "text number empty text",
        "nullable": "number number number text number text",
        "large numbers": "number number number number",
    }
    assert list(kinds.values()) == list(itertools.chain(*(one.split() for one in expected.values())))


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-02T00:00", "2024-01-01T00:00:00Z"],
        [dt.datetime(2024, 1, 2, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)],
        [dt.date(2024, 1, 2), dt.date(2024, 1, 1)],
        pd.Series(["2024-01-02", "2024-01-01"]),
        pd.to_datetime(["2024-01-02", "2024-01-01"]),
        pd.Series(pd.to_datetime(["2024-01-02 01:00", "2024-01-01 01:00"])).dt.tz_localize("Europe/Vienna"),
        np.array(["2024-01-02", "2024-01-01"], dtype="datetime64[D]"),
        pl.Series(["2024-01-02", "2024-01-01"]).str.to_datetime(),
    ],
)
def test_times_are_read_from_what_people_have(times):
    assert instants(times, 2).tolist() == [1704153600 * 10**9, 1704067200 * 10**9]


def test_spans_are_seconds_and_booleans_numbers():
    frame = pd.DataFrame({"span": pd.to_timedelta([90, 90], "s"), "flag": [True, False]})
    span, flag = Profile.of(frame).columns
    assert span.values.tolist() == [90.0]
    assert flag.values.tolist() == [0.0, 1.0]


def test_equal_names_are_columns_of_their_own():
    found = [one.name for one in Profile.of(FRAMES["names twice"]).columns]
    assert found == ["x", "x #2", "x #2 #2"]


def test_long_text_is_cut_but_stays_distinct():
    found = column(of(["x" * 500 + "a", "x" * 500 + "b"]))
    assert len(set(found.levels)) == 2
    assert max(map(len, found.levels)) <= 100


def test_a_column_without_a_value_is_empty():
    (found,) = Profile.of(pd.DataFrame({"x": [np.nan, np.inf]})).columns
    assert isinstance(found, Unread)
    assert (found.kind, found.missing) == (Kind.EMPTY, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [1, 2]}, "2 times for 3 rows"),
        ({"times": ["soon", "later", "now"]}, "times cannot be read"),
        ({"predicted": [1.0]}, "1 predictions for 3 rows"),
        ({"predicted": np.ones((3, 2))}, "one value for each row"),
        ({"losses": ["a"]}, "losses are no numbers"),
        ({"weights": {"x": float("nan")}}, "weight of 'x'"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(DataError, match=message):
        of([1.0, 2.0, 3.0], **options)


def test_rows_must_be_a_frame():
    with pytest.raises(DataError, match="list"):
        Profile.of([1, 2, 3])


# --- bytes ------------------------------------------------------------------------------------------------------

cell = st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=5))
frames = st.lists(st.lists(cell, min_size=8, max_size=8), max_size=4).map(
    lambda columns: pd.DataFrame({f"c{i}": pd.Series(one, dtype=object) for i, one in enumerate(columns)})
)


@given(frames, st.lists(st.floats(), max_size=5))
def test_bytes_bring_the_same_profile_back(frame, losses):
    profile = Profile.of(frame, losses=losses, weights={"c0": 0.5}, times=np.arange(len(frame)), joint=True)
    again = Profile.from_bytes(profile.to_bytes())
    assert again.to_bytes() == profile.to_bytes()
    assert again.rows == profile.rows
    assert again.weights == {"c0": 0.5}
    for old, new in zip(profile.columns, again.columns, strict=True):
        assert (type(old), old.name, old.rows, old.missing) == (type(new), new.name, new.rows, new.missing)
        if isinstance(old, Numbers):
            np.testing.assert_array_equal(old.order, new.order)
            np.testing.assert_array_equal(old.facts, new.facts)


@given(st.data())
def test_damaged_bytes_are_refused(data):
    whole = of(np.arange(40.0), losses=[1.0, 2.0]).to_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    for damaged in (flipped, whole[:place], whole + b"\0"):
        with pytest.raises(ArtifactError):
            Profile.from_bytes(damaged)


def test_bytes_of_a_newer_version_are_refused_by_name():
    whole = bytearray(of([1.0]).to_bytes())
    whole[7] = 9
    with pytest.raises(ArtifactError, match="version 9"):
        Profile.from_bytes(bytes(whole))
