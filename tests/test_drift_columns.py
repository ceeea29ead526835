"""Recent rows against a profile: what is found, what is left alone, and how often it is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter

from evertrain.drift import grades, joint, statistics
from evertrain.drift.columns import CAP, compare, floors
from evertrain.drift.profile import Profile
from evertrain.drift.signal import Family
from evertrain.errors import DataError
from evertrain.specs import Drift

DEFAULT = Drift()


def signals(reference, recent, config=DEFAULT, **options):
    found = compare(Profile.of(pd.DataFrame(reference)), pd.DataFrame(recent), config, **options)
    return {(one.name, one.kind): one for one in found}


def alarms(found, q=0.05):
    """Return the signals of each family that stay significant among it, and are large enough to count."""
    kept = []
    for family in Family:
        tested = [one for one in found if one.family is family and one.p is not None]
        if tested:
            adjusted = grades.adjust([one.p for one in tested])
            kept += [one for one, p in zip(tested, adjusted, strict=True) if p <= q and one.effect >= one.floor]
    return kept


def normal(n, seed=0, shift=0.0, columns=1):
    x = np.random.default_rng(seed).normal(shift, 1, (n, columns))
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(columns)])


# --- distributions ----------------------------------------------------------------------------------------------


def test_a_shift_of_numbers_is_found_by_kolmogorov_smirnov():
    """S3-01: with scipy's p, an effect in KS distance, and what a plot needs."""
    reference, recent = normal(1000), normal(800, 1, 0.3)
    one = signals(reference, recent)["x0", "ks"]
    known = stats.ks_2samp(reference.x0, recent.x0, method="asymp")
    d = known.statistic
    n_e = 1000 * 800 / 1800
    assert (one.family, one.unit, one.floor) == (Family.DATA, "KS distance", 0.08)
    assert one.detail["d"] == pytest.approx(d)
    assert one.p == pytest.approx(stats.kstwobign.sf(np.sqrt(n_e) * d))
    assert one.effect == pytest.approx(np.sqrt(d**2 - 0.7225 / n_e))
    assert (one.reference_rows, one.recent_rows) == (1000, 800)
    w1 = stats.wasserstein_distance(reference.x0, recent.x0) / reference.x0.std(ddof=0)
    assert one.detail["w1"] == pytest.approx(w1)
    assert one.detail["means"] == pytest.approx([reference.x0.mean(), recent.x0.mean()])
    histogram = one.detail["histogram"]
    assert sum(histogram["reference"]) == pytest.approx(1)
    assert sum(histogram["recent"]) == pytest.approx(1)
    counts = np.bincount(np.searchsorted(histogram["edges"], recent.x0), minlength=10)
    assert histogram["recent"] == pytest.approx((counts / 800).tolist())
    assert one.detail["psi"] == pytest.approx(float(statistics.psi([100] * 10, counts)[0]))
    assert alarms([one])


def test_few_rows_are_tested_exactly():
    reference, recent = normal(25), normal(22, 1, 0.5)
    one = signals(reference, recent)["x0", "ks"]
    assert one.p == pytest.approx(stats.ks_2samp(reference.x0, recent.x0, method="exact").pvalue)


def test_too_few_rows_say_nothing():
    one = signals(normal(1000), normal(19))["x0", "ks"]
    assert one.p is None
    assert one.insufficient == "19 effective recent rows; 20 are needed"
    assert signals(normal(19), normal(1000))["x0", "ks"].insufficient.startswith("19 effective reference")
    assert signals(normal(1000), normal(20))["x0", "ks"].insufficient == ""


def test_levels_are_compared_by_the_pooled_chi_square():
    reference = np.repeat(list("abcdef"), [400, 300, 200, 90, 8, 2])
    recent = np.repeat(list("abcdef"), [70, 60, 50, 15, 4, 1])
    one = signals({"t": reference}, {"t": recent})["t", "chi2"]
    assert one.p == pytest.approx(stats.chi2.sf(3.063829787, 3), abs=1e-6)
    assert one.effect == pytest.approx(0.034410545, abs=1e-6)
    assert one.detail["histogram"]["levels"][:2] == ["a", "b"]


def test_numbers_are_levels_while_both_sides_together_have_ten_values():
    random = np.random.default_rng(0)
    reference, recent = random.integers(0, 9, 500), random.integers(0, 9, 500)
    assert ("x", "chi2") in signals({"x": reference}, {"x": recent})
    recent[:2] = [9, 10]
    assert ("x", "ks") in signals({"x": reference}, {"x": recent})
    assert ("x", "ks") in signals({"x": [0, 1, 2, 3, 4, 5] * 50}, {"x": [6, 7, 8, 9, 10, 11] * 50})


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("default", [0.08, 0.04, 0.2, 0.08]), ("sensitive", [0.04, 0.01, 0.1, 0.04]),
        ("conservative", [0.12, 0.09, 0.3, 0.12]), ("guaranteed", [0.08, 0.04, 0.2, 0.08]),
    ],
)  # fmt: skip
def test_the_profile_moves_the_smallest_effect_that_counts(profile, sizes):
    config = Drift(profile=profile)
    assert list(floors(config).values()) == sizes
    assert signals(normal(100), normal(100), config)["x0", "ks"].floor == sizes[0]


def test_a_shift_too_small_to_matter_does_not_count_however_many_rows_show_it():
    one = signals(normal(100_000), normal(100_000, 1, 0.05))["x0", "ks"]
    assert one.p < 1e-12
    assert one.effect < one.floor


def test_answers_are_a_family_of_their_own():
    reference = Profile.of(normal(500), predicted=normal(500).x0)
    found = compare(reference, normal(500, 1), DEFAULT, predicted=normal(500, 1, 0.5).x0)
    (one,) = [one for one in found if one.family is Family.PREDICTION]
    assert (one.name, one.kind) == ("prediction", "ks")
    assert alarms([one])
    classes = Profile.of(normal(500), predicted=["yes", "no"] * 250)
    (one,) = [one for one in compare(classes, normal(9), DEFAULT, predicted=["yes"] * 9) if one.name == "prediction"]
    assert one.family is Family.PREDICTION


def test_answers_that_do_not_fit_the_rows_are_refused():
    with pytest.raises(DataError, match="2 predictions for 9 rows"):
        compare(Profile.of(normal(9), predicted=np.ones(9)), normal(9), DEFAULT, predicted=[1, 2])


# --- quality ----------------------------------------------------------------------------------------------------


def test_missing_values_are_compared_with_those_of_the_reference():
    reference, recent = normal(1000), normal(200, 1)
    reference.loc[:19, "x0"], recent.loc[:15, "x0"] = np.nan, np.nan
    one = signals(reference, recent)["x0", "missing"]
    assert one.p == pytest.approx(5.605019e-06, rel=1e-5)
    assert (one.effect, one.floor) == (pytest.approx(0.06), 0.02)
    recent.loc[:15, "x0"] = np.inf
    infinite = signals(reference, recent)["x0", "missing"]
    assert (infinite.p, infinite.detail["infinite"]) == (one.p, [0, 16])


def test_a_share_that_falls_is_no_harm():
    reference = normal(1000)
    reference.loc[:199, "x0"] = np.nan
    one = signals(reference, normal(500, 1))["x0", "missing"]
    assert one.p < 1e-9
    assert one.effect == 0


def test_nothing_missing_is_no_signal():
    assert ("x0", "missing") not in signals(normal(100), normal(100, 1))


def test_new_levels_are_counted_against_those_that_occur_once():
    reference = np.repeat(["a", "b"], 500)
    one = signals({"t": reference}, {"t": np.repeat(["a", "b", "c"], [97, 97, 6])})["t", "new_values"]
    assert one.p == pytest.approx(2.012124e-05, rel=1e-5)
    assert (one.effect, one.floor, one.detail["new"]) == (0.03, 0.01, ["c"])


def test_names_that_are_always_new_are_no_news():
    reference, recent = [f"name {i}" for i in range(1000)], [f"other {i}" for i in range(500)]
    assert not alarms(signals({"t": reference}, {"t": recent}).values())


def test_values_out_of_range_are_found():
    recent = normal(500, 1)
    recent.loc[:19, "x0"] += 8
    one = signals(normal(1000), recent)["x0", "range"]
    assert one.effect == pytest.approx(0.04)
    assert one in alarms([one])


def test_outliers_are_found_by_their_rise_against_the_reference():
    """S3-02: 8 % at six sigma hide from |z| > 3, but not from the robust z; a heavy tail of the reference's own is none."""
    recent = normal(500, 1)
    recent.loc[:39, "x0"] += 6
    one = signals(normal(2000), recent)["x0", "outliers"]
    assert one.effect == pytest.approx(0.08, abs=0.01)
    assert alarms([one])
    assert (np.abs(recent.x0 - recent.x0.mean()) / recent.x0.std() > 3).mean() < 0.05
    heavy = stats.t(2)
    tails = ({"x": heavy.rvs(n, random_state=seed)} for n, seed in ((2000, 1), (500, 2)))
    one = signals(*tails)["x", "outliers"]
    assert one.detail["shares"][0] > 0.05
    assert not alarms([one])


def test_a_column_with_one_value_left_is_named():
    one = signals(normal(500), {"x0": np.full(100, 0.1)})["x0", "constant"]
    assert one.p < 1e-12
    assert one.detail["value"] == 0.1
    flags = signals({"x": [0.0, 1.0] * 250}, {"x": [1.0] * 50})["x", "constant"]
    assert flags.p == pytest.approx(0.5**49)
    assert ("x", "constant") not in signals({"x": [1.0] * 50}, {"x": [1.0] * 50})
    rare = signals({"x": [1.0] * 999 + [0.0]}, {"x": [1.0] * 50})["x", "constant"]
    assert rare.p > 0.9


@pytest.mark.parametrize(
    ("recent", "now"), [({"y": [1.0] * 9}, "gone"), ({"x": ["1", "2", "b"] * 3}, "text"), (pd.DataFrame(), "gone")]
)
def test_a_column_that_is_gone_or_of_another_type_stops(recent, now):
    one = signals({"x": np.arange(9.0)}, recent)["x", "type"]
    assert one.stop
    assert one.p is None
    assert (one.detail["was"], one.detail["is"]) == ("number", now)


@pytest.mark.parametrize(
    ("reference", "recent"),
    [
        ([1, 2, 3], [1.5, np.nan, 2]), ([True, False, True], [0, 1, 1]), ([1, 2, 3], [None, None, None]),
        ([None, None, None], ["a", "b", "c"]), (["a", "b", "a"], [None, None, None]), ([1, 2, 3], pd.array([1, None, 3], dtype="Int64")),
        (["a", "b", "a"], pd.Categorical(["a", "b", None])), ([1.0, 2, 3], pd.Series([1, 2, None], dtype=object)),
    ],
)  # fmt: skip
def test_another_way_to_write_the_same_type_does_not_stop(reference, recent):
    assert not any(one.stop for one in signals({"x": reference}, {"x": recent}).values())


def test_columns_that_the_model_does_not_use_are_left_out_unless_they_are_gone():
    reference = Profile.of(normal(300, columns=3), weights={"x0": 3.0, "x1": 0.0, "x2": 1.0})
    found = compare(reference, normal(300, 1, 2.0, columns=3), DEFAULT)
    assert {one.name: one.weight for one in found} == {"x0": 0.75, "x2": 0.25}
    (gone,) = [one for one in compare(reference, normal(300, columns=3).drop(columns="x1"), DEFAULT) if one.stop]
    assert gone.name == "x1"


# --- time -------------------------------------------------------------------------------------------------------


def ar1(phi, shape, random):
    return lfilter([1], [1, -phi], random.normal(size=(shape[0] + 200, *shape[1:])), axis=0)[200:]


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_ten_columns_that_do_not_change_rarely_alarm(phi):
    """False alarms of the test alone (BH, q = 5 %), without the floor: one series of which the end is compared."""
    random = np.random.default_rng(17)
    times, checks, hits = np.arange(2000), 150, 0
    for _ in range(checks):
        rows = pd.DataFrame(ar1(phi, (2000, 10), random))
        reference = Profile.of(rows[:1000], times=times[:1000] if phi else None)
        found = compare(reference, rows[1000:], DEFAULT, times=times[1000:])
        p = [one.p for one in found if one.kind == "ks"]
        assert len(p) == 10
        hits += grades.simes(p) <= 0.05
    # 5 % and three standard errors; without effective rows it is nearly every check at 0.9.
    assert hits / checks < 0.05 + 3 * np.sqrt(0.05 * 0.95 / checks)


def test_a_shift_is_still_found_in_rows_with_memory():
    random, times = np.random.default_rng(18), np.arange(2000)
    found = 0
    for _ in range(30):
        x = ar1(0.9, (2000,), random)
        x[1000:] += 1.0 * x[:1000].std()
        reference = Profile.of(pd.DataFrame({"x": x[:1000]}), times=times[:1000])
        found += bool(alarms(compare(reference, pd.DataFrame({"x": x[1000:]}), DEFAULT)))
    assert found >= 27


def daily(days, seed, start=0, shift=0.0):
    hours = np.arange(start, start + 24 * days)
    x = 3 * np.sin(2 * np.pi * hours / 24) + shift + np.random.default_rng(seed).normal(size=len(hours))
    return pd.DataFrame({"x": x}), pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, "h")


@pytest.mark.parametrize("days", [10, 60])
def test_the_time_of_day_is_no_drift(days):
    """A window of four evenings beside whole days: other values, but those of evenings."""
    hits, shifted = 0, 0
    for seed in range(40):
        rows, times = daily(days, seed)
        reference = Profile.of(rows, times=times)
        for shift in (0.0, 1.5):
            recent, when = daily(4, 1000 + seed, 24 * days, shift)
            evening = when.hour >= 12
            found = compare(reference, recent[evening], DEFAULT, times=when[evening])
            one = next(one for one in found if one.kind == "ks")
            assert one.detail["season"] == 24
            hits += one.p < 0.05 and not shift
            shifted += one.p < 0.05 and shift > 0
    assert hits <= 6
    assert shifted >= 38


def test_a_season_without_times_says_nothing():
    rows, times = daily(60, 0)
    one = compare(Profile.of(rows, times=times), rows, DEFAULT)[0]
    assert one.p is None
    assert "no times" in one.insufficient


# --- sizes ------------------------------------------------------------------------------------------------------


def test_many_rows_are_thinned_evenly_unless_the_profile_is_exact():
    rows = pd.DataFrame({"x": np.arange(3.0 * CAP)})
    sketch, exact = Profile.of(rows), Profile.of(rows, exact=True)
    recent = rows.assign(x=rows.x * 1.01)
    (one,) = [one for one in compare(sketch, recent, DEFAULT) if one.kind == "ks"]
    (every,) = [one for one in compare(exact, recent, DEFAULT) if one.kind == "ks"]
    assert (one.recent_rows, every.recent_rows) == (CAP, 3 * CAP)
    assert one.detail["d"] == pytest.approx(every.detail["d"], abs=1 / 4096)


# --- laws -------------------------------------------------------------------------------------------------------

columns = st.lists(st.one_of(st.integers(-9, 9), st.floats(-1e6, 1e6), st.none()), min_size=1, max_size=80)


@given(columns, st.randoms(use_true_random=False))
def test_a_permutation_never_alarms(values, random):
    rows = pd.DataFrame({"x": pd.Series(values, dtype=float), "t": [str(one) for one in values]})
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    for one in compare(Profile.of(rows), rows.iloc[shuffled], Drift(profile="sensitive")):
        assert one.p is None or one.p > 0.5
        assert one.effect == 0
        assert not one.stop


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from(["x", "t"]))
def test_a_larger_change_is_never_a_smaller_effect(seed, name):
    rows = normal(300, seed).rename(columns={"x0": "x"})
    rows["t"] = np.where(rows.x > 0, "up", "down")
    profile, before, p = Profile.of(rows), 0.0, 1.0
    for shift in (0.0, 0.05, 0.2, 0.5, 1.0, 3.0):
        moved = rows.assign(x=rows.x + shift)
        moved["t"] = np.where(moved.x > 0, "up", "down")
        (one,) = [one for one in compare(profile, moved, DEFAULT) if one.name == name and one.family is Family.DATA]
        assert one.effect >= before
        assert one.p <= p
        before, p = one.effect, one.p


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([np.exp, np.arctan, lambda x: 5 * x - 3, lambda x: x**3]))
def test_increasing_transforms_change_neither_ks_nor_psi(seed, transform):
    reference, recent = normal(400, seed), normal(150, seed + 1, 0.3)
    plain = signals(reference, recent)["x0", "ks"]
    other = signals(transform(reference), transform(recent))["x0", "ks"]
    assert (other.p, other.effect) == (plain.p, plain.effect)
    assert other.detail["psi"] == pytest.approx(plain.detail["psi"])


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 0.5))
def test_a_copy_of_a_column_never_doubles_the_alarm(seed, width, shift):
    reference, recent = normal(300, seed, columns=width), normal(200, seed + 1, columns=width)
    recent["x0"] += shift
    p = [one.p for one in compare(Profile.of(reference), recent, DEFAULT) if one.family is Family.DATA]
    for copied in reference.columns:
        two = [frame.assign(copy=frame[copied]) for frame in (reference, recent)]
        found = compare(Profile.of(two[0]), two[1], DEFAULT)
        again = [one.p for one in found if one.family is Family.DATA]
        assert len(again) == width + 1
        assert grades.simes(p) / 2 <= grades.simes(again) <= 2 * grades.simes(p)


def test_the_same_rows_in_another_order_are_the_same_signals():
    rows = normal(500, columns=3)
    rows["t"] = np.random.default_rng(0).choice(list("abc"), 500)
    recent = rows.sample(200, random_state=1)
    profile = Profile.of(rows)
    for one, other in zip(compare(profile, recent, DEFAULT), compare(profile, recent[::-1], DEFAULT), strict=True):
        assert (one.name, one.p, one.effect) == (other.name, other.p, other.effect)


# --- columns together -------------------------------------------------------------------------------------------


def pair(n, seed, together=True):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6))
    x[:, 1] = 0.9 * x[:, 0] + 0.44 * x[:, 1]
    if not together:
        x[:, 1] = random.permutation(x[:, 1])
    return pd.DataFrame(x, columns=list("abcdef"))


@pytest.mark.parametrize("kind", ["pca", "classifier"])
def test_columns_that_no_longer_go_together_are_found_though_each_is_unchanged(kind):
    reference, config = Profile.of(pair(1000, 0), joint=True), Drift(joint=(kind,))
    broken, same = pair(300, 11, together=False), pair(300, 2)
    assert not alarms(compare(reference, broken, DEFAULT))
    assert len(alarms(joint.compare(reference, broken, config))) == 1
    assert not alarms(joint.compare(reference, same, config))


def test_pca_has_its_nominal_size():
    found = [
        joint.compare(Profile.of(pair(600, seed), joint=True), pair(300, 5000 + seed), Drift(joint=("pca",)))[0].p
        for seed in range(200)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_columns_together_need_rows_of_both_sides():
    config = Drift(joint=("pca",))
    assert joint.compare(Profile.of(pair(100, 0), joint=True), pair(100, 1), DEFAULT) == []
    for reference, recent, why in (
        (Profile.of(pair(100, 0)), pair(100, 1), "keeps no rows"),
        (Profile.of(pair(100, 0), joint=True), pair(39, 1), "39 complete rows"),
        (Profile.of(pair(100, 0), joint=True), pair(100, 1).drop(columns="c"), "'c' is no column of numbers"),
        (Profile.of(pair(100, 0)[["a"]], joint=True), pair(100, 1), "1 column"),
    ):
        (one,) = joint.compare(reference, recent, config)
        assert one.p is None
        assert why in one.insufficient


def test_a_classifier_is_not_fooled_by_memory():
    random, times = np.random.default_rng(4), np.arange(1500)
    x = pd.DataFrame(ar1(0.9, (1500, 4), random))
    config = Drift(joint=("classifier",))
    reference = Profile.of(x[:1000], times=times[:1000], joint=True)
    assert not alarms(joint.compare(reference, x[1000:], config, times=times[1000:]))
