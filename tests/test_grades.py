"""Grades, severity, budget and confidence: the specification's numbers, laws, and the rules of profile "seed"."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from evertrain.drift import grades, seed
from evertrain.drift.signal import DriftType, Evidence, Family, Severity, Signal
from evertrain.errors import DataError, UnknownName
from evertrain.specs import Drift

P = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
ONE_LOOK = Drift(every=timedelta(days=30), profile="default")
SHARES = st.floats(0, 1, allow_subnormal=False)


def signal(name="x", family=Family.DATA, p=1.0, effect=0.0, floor=0.1, kind="ks", **options):
    return Signal(name, family, kind, p=p, effect=effect, floor=floor, **options)


def graded(*signals, config=ONE_LOOK, **options):
    return grades.grade(Evidence(tuple(signals)), config, **options).signals


# --- many tests -------------------------------------------------------------------------------------------------


def test_corrections_are_the_ones_computed_by_hand():
    bh = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.105714, 0.216, 0.216, 0.216]
    holm = [0.01, 0.072, 0.312, 0.312, 0.312, 0.312, 0.312, 0.615, 0.615, 0.615]
    assert grades.adjust(P) == pytest.approx(bh, abs=1e-6)
    assert grades.adjust(P, "holm") == pytest.approx(holm, abs=1e-6)
    assert grades.simes(P) == pytest.approx(0.01)
    assert (grades.adjust([]), grades.simes([])) == ([], 1.0)


@given(st.lists(SHARES, min_size=1, max_size=30))
def test_corrections_agree_with_scipy_and_keep_the_order(p):
    assert grades.adjust(p) == pytest.approx(list(false_discovery_control(p)), abs=1e-12)
    for method in ("bh", "holm"):
        found = grades.adjust(p, method)
        assert all(own <= corrected <= 1 for own, corrected in zip(p, found, strict=True))
        assert sorted(range(len(p)), key=lambda i: (p[i], found[i])) == sorted(range(len(p)), key=lambda i: p[i])
    assert grades.simes(p) == pytest.approx(min(grades.adjust(p)))


@given(st.lists(SHARES, min_size=1, max_size=20), st.integers(0, 19))
def test_a_copy_of_a_column_never_doubles_the_alarm(p, place):
    """Adding a copy never lowers the family's p below half, nor raises it above twice."""
    copied = [*p, p[place % len(p)]]
    assert grades.simes(p) / 2 - 1e-12 <= grades.simes(copied) <= 2 * grades.simes(p) + 1e-12


def test_a_copy_of_a_drifted_column_never_lowers_the_family_p():
    assert grades.simes([0.01, 0.01]) >= 0.01


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1, math.inf])
def test_what_is_no_p_is_refused(wrong):
    with pytest.raises(DataError, match="p-value"):
        grades.adjust([0.5, wrong])
    with pytest.raises(DataError, match="p-value"):
        grades.simes([wrong, 0.5])


def test_an_unknown_correction_is_refused():
    with pytest.raises(UnknownName, match="bh, holm"):
        grades.adjust([0.5], "bonferroni")  # type: ignore[arg-type]


# --- budget -----------------------------------------------------------------------------------------------------


def test_the_budget_is_divided_among_the_looks_of_a_period():
    assert grades.looks(120, 1 / 25) == pytest.approx(33.6)
    every_6_hours = Drift(every=timedelta(hours=6))
    assert grades.check_level(every_6_hours, 1 / 25) == pytest.approx(0.001488095, abs=1e-9)
    assert grades.check_level(every_6_hours) == pytest.approx(0.05 / 120)
    assert grades.check_level(ONE_LOOK) == 0.05
    assert grades.looks(120, 0.0) == 1.0
    assert sum(grades.SPLIT.values()) == pytest.approx(1.0)


def test_more_looks_ask_for_more():
    once = graded(signal(p=0.004, effect=0.15))[0]
    daily = graded(signal(p=0.004, effect=0.15), config=Drift())[0]
    assert (once.grade, daily.grade) == (1, 0)
    assert daily.p_adjusted == pytest.approx(30 * once.p_adjusted)


def test_an_e_process_spends_the_budget_once():
    """Its p holds for all looks together: 5 % a period, all of it where nothing else is tested."""
    for p, expected in ((0.0499, 1), (0.0501, 0)):
        rise = signal("loss", Family.PERFORMANCE, p, effect=0.16, floor=0.15, kind="e_process")
        assert graded(rise, config=Drift(profile="guaranteed"))[0].grade == expected


def test_the_budget_is_divided_among_the_families_that_were_tested():
    alone = graded(signal("loss", Family.PERFORMANCE, 0.01, effect=0.16, floor=0.15))[0].p_adjusted
    both = graded(signal("loss", Family.PERFORMANCE, 0.01, effect=0.16, floor=0.15), signal("x", Family.DATA, 0.5))
    assert both[0].p_adjusted == pytest.approx(alone * 0.8 / 0.5)


# --- grades -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "ratio", "grade"),
    [
        (0.05, 1, 1), (0.0501, 9, 0), (0.05, 0.99, 0), (1e-3, 2, 2), (1.1e-3, 9, 1), (1e-3, 1.99, 1), (1e-6, 4, 3),
        (1.1e-6, 9, 2), (1e-9, 3.99, 2), (0.0, 100, 3), (1.0, 100, 0),
    ],
)  # fmt: skip
def test_a_grade_needs_both_a_small_p_and_a_large_effect(p, ratio, grade):
    assert graded(signal(p=p, effect=ratio * 0.1))[0].grade == grade


@given(SHARES, st.floats(0, 10), st.floats(1, 3))
def test_a_larger_effect_never_grades_lower(p, effect, times):
    small, large = (graded(signal(p=p, effect=one))[0].grade for one in (effect, effect * times))
    assert large >= small


def test_a_column_that_the_model_hardly_uses_never_raises_severity_above_low():
    alone = signal("id", p=1e-12, effect=1.0, weight=0.009)
    found = grades.grade(Evidence((alone, signal("id", Family.QUALITY, 1e-12, 1.0, weight=0.009))), ONE_LOOK)
    assert [one.grade for one in found.signals] == [1, 1]
    assert grades.judge(found) is Severity.LOW
    used = grades.grade(Evidence((signal("id", p=1e-12, effect=1.0, weight=0.01),)), ONE_LOOK)
    assert grades.judge(used) is Severity.MEDIUM


def test_signals_without_a_p_are_left_as_they_are():
    silent = signal(p=None, insufficient="12 rows, the test needs 20")
    assert graded(silent, signal("y", p=0.5))[0] == silent


@pytest.mark.parametrize(
    ("performance", "other", "families", "severity"),
    [
        (0, 0, 0, "none"), (0, 1, 1, "low"), (1, 0, 1, "low"), (1, 1, 2, "medium"), (0, 2, 1, "medium"),
        (2, 0, 1, "high"), (1, 2, 2, "high"), (2, 2, 2, "critical"), (3, 0, 1, "critical"),
    ],
)  # fmt: skip
def test_severity_says_how_much_is_behind_it(performance, other, families, severity):
    """S3-06: one mild signal, several, strong ones, very strong ones."""
    assert grades.severity(performance, other, families) == severity
    assert grades.severity(performance, other, families, broken=True) is Severity.CRITICAL


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
def test_more_evidence_never_lowers_the_severity(performance, other, families, p_more, o_more, n_more):
    some = grades.severity(performance, other, families)
    more = grades.severity(min(3, performance + p_more), min(3, other + o_more), min(4, families + n_more))
    assert more.reaches(some)


def test_inputs_alone_never_call_for_a_retraining_while_there_are_labels():
    inputs = tuple(signal(str(i), family, grade=3) for i in range(3) for family in (Family.DATA, Family.PREDICTION))
    assert grades.judge(Evidence(inputs, labelled_rows=500)) is Severity.MEDIUM


def test_without_labels_it_takes_most_of_the_model_and_a_second_look():
    inputs = (
        signal("a", grade=2, weight=0.5),
        signal("b", weight=0.5),
        Signal("rows", Family.DATA, "classifier", grade=2, detail={"auc": 0.75}),
    )
    assert grades.judge(Evidence(inputs), persists=True) is Severity.HIGH
    assert grades.judge(Evidence(inputs), persists=False) is Severity.MEDIUM
    assert grades.judge(Evidence(inputs, labelled_rows=1), persists=True) is Severity.MEDIUM
    lighter = (signal("a", grade=2, weight=0.49), signal("b", weight=0.51), inputs[2])
    assert grades.judge(Evidence(lighter), persists=True) is Severity.MEDIUM
    vaguer = (*inputs[:2], Signal("rows", Family.DATA, "classifier", grade=2, detail={"auc": 0.74}))
    assert grades.judge(Evidence(vaguer), persists=True) is Severity.MEDIUM


# --- kinds of drift ---------------------------------------------------------------------------------------------

LOSS = signal("loss", Family.PERFORMANCE, grade=1)
DATA = signal("x", grade=1)


@pytest.mark.parametrize(
    ("signals", "kind"),
    [
        ((), "none"),
        ((LOSS,), "concept_drift"),
        ((LOSS, DATA), "performance_degradation"),
        ((LOSS, signal("y", Family.QUALITY, grade=1, kind="missing")), "performance_degradation"),
        ((DATA,), "data_drift"),
        ((signal("prediction", Family.PREDICTION, grade=1),), "data_drift"),
        ((signal("y", Family.QUALITY, grade=1, kind="missing"),), "data_quality"),
        ((signal("y", Family.QUALITY, grade=1, kind="outliers"),), "outlier_increase"),
        ((DATA, signal("x", Family.QUALITY, grade=2, kind="outliers")), "data_drift"),
        ((DATA, signal("y", Family.QUALITY, grade=2, kind="outliers")), "outlier_increase"),
        ((signal("x", grade=2), signal("y", Family.QUALITY, grade=1, kind="missing")), "data_drift"),
    ],
)
def test_what_changed_names_the_kind_of_drift(signals, kind):
    assert grades.drift_type(signals) == kind


# --- confidence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "rise", "expected"),
    [(1, 0, 0.018225), (0.003, 0, 0.081922), (0.003, 0.03, 0.772744), (1e-6, 0.05, 0.999398), (0.5, 0.05, 0.993572)],
)
def test_confidence_is_the_one_computed_by_hand(p, rise, expected):
    assert grades.confidence(p, rise, 0.012**2, 0.1) == pytest.approx(expected, abs=1e-6)


def test_without_labels_confidence_stays_under_a_half():
    assert grades.confidence(1e-6) == pytest.approx(0.492043, abs=1e-6)
    assert grades.confidence(0.0) < 0.5
    assert grades.confidence() == pytest.approx(0.05 * 0.9 + 0.5 * 0.1)


@given(SHARES, SHARES, st.floats(-1, 2), st.floats(-1, 2), st.floats(1e-12, 10), st.floats(0, 5))
def test_more_evidence_never_lowers_the_confidence(p, other_p, rise, other_rise, variance, baseline):
    less = grades.confidence(max(p, other_p), min(rise, other_rise), variance, baseline)
    more = grades.confidence(min(p, other_p), max(rise, other_rise), variance, baseline)
    assert 0 <= less <= more + 1e-9 <= 1 + 1e-9


def test_a_manyfold_rise_is_believed_even_on_noisy_losses():
    """The noise of 100 squared errors is wider than half the baseline; the rise is six times the noise."""
    assert grades.confidence(1.0, 2.0, 0.33**2, 0.12) > 0.99


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_rise_that_is_no_number_counts_as_none(wrong):
    assert grades.confidence(0.5, wrong, 0.1, 0.1) == grades.confidence(0.5)


def test_extremes_are_not_certain():
    assert grades.per_cent(grades.confidence(0.0, 1e9, 1e-12, 1e-9)) == 99
    assert grades.per_cent(grades.confidence(1.0, -1e9, 1e-12, 1e-9)) == 1
    assert grades.per_cent(grades.confidence(1.0, 0.0, 0.0, 0.0)) == 1
    assert grades.per_cent(grades.confidence(1.0, 1.0, 0.0, 0.0)) == 99


# --- many partitions --------------------------------------------------------------------------------------------


def test_many_partitions_ask_for_more_from_each():
    quiet = {str(i): Evidence((signal(p=0.5),)) for i in range(99)}
    one = {"odd": Evidence((signal(p=1e-4, effect=0.3), signal("loss", Family.PERFORMANCE, 0.2)))}
    factors = grades.fleet_factors({**quiet, **one})
    assert factors["odd"][Family.DATA] == pytest.approx(100)
    assert factors["odd"][Family.PERFORMANCE] == pytest.approx(1)
    alone, among = graded(*one["odd"].signals)[0], graded(*one["odd"].signals, fleet=factors["odd"])[0]
    assert among.p_adjusted == pytest.approx(100 * alone.p_adjusted)


@given(st.lists(SHARES, min_size=1, max_size=20))
def test_a_factor_never_helps(p):
    factors = grades.fleet_factors({i: Evidence((signal(p=one),)) for i, one in enumerate(p)})
    assert all(one[Family.DATA] >= 1 for one in factors.values())


def test_rows_to_label():
    assert grades.rows_to_label(0.1, 0.05) == 223
    assert grades.rows_to_label(0.0) > 0


# --- profile "seed" ---------------------------------------------------------------------------------------------

SEED = Drift(profile="seed")


def rules(baseline, recent):
    return {one.kind: one.grade for one in seed.performance(baseline, recent, SEED)}


@pytest.mark.parametrize(("p", "grade"), [(0.05, 0), (0.0499, 1), (1e-3, 1), (0.00099, 2), (0.99e-6, 3)])
def test_seed_data_drift_is_p_below_the_threshold(p, grade):
    """S3-01: p < 0.05, "check features"."""
    found = seed.data_drift("x", p, 0.1, SEED)
    assert (found.grade, found.detail["action"]) == (grade, "check features")


@pytest.mark.parametrize(("share", "grade"), [(0.05, 0), (0.0501, 1), (0.1, 1), (0.1001, 2), (0.2001, 3)])
def test_seed_outliers_are_a_share_above_the_threshold(share, grade):
    """S3-02: > 5 % outliers, "flag data quality"."""
    found = seed.outliers("x", share, SEED)
    assert (found.grade, found.detail["action"]) == (grade, "flag data quality")


@pytest.mark.parametrize(("accuracy", "grade"), [(0.77, 0), (0.7699, 1)])
def test_seed_concept_drift_is_an_error_rise_above_15_per_cent_of_the_baseline(accuracy, grade):
    """S3-03: of an error of 0.20, above 0.23."""
    assert rules({"accuracy": 0.80}, {"accuracy": accuracy}) == {"concept_drift": grade}
    found = seed.performance({"accuracy": 0.80}, {"accuracy": accuracy}, SEED)[0]
    assert found.detail["action"] == "high priority"


@pytest.mark.parametrize(("r2", "grade"), [(0.8075, 0), (0.8074, 1)])
def test_seed_performance_drop_is_an_r2_below_95_per_cent_of_the_baseline(r2, grade):
    """S3-04: relative, so 0.85 falls to under 0.8075; "investigate"."""
    found = seed.performance({"r2": 0.85}, {"r2": r2}, SEED)[0]
    assert (found.kind, found.grade, found.detail["action"]) == ("performance_drop", grade, "investigate")


@pytest.mark.parametrize(("rmse", "grade"), [(0.385, 0), (0.3851, 1)])
def test_seed_rmse_increase_is_above_10_per_cent_of_the_baseline(rmse, grade):
    """S3-05: of 0.35, above 0.385; "monitor"."""
    found = {one.kind: one for one in seed.performance({"rmse": 0.35}, {"rmse": rmse}, SEED)}
    assert (found["rmse_increase"].grade, found["rmse_increase"].detail["action"]) == (grade, "monitor")
    assert found["concept_drift"].grade == 0


def test_seed_thresholds_are_parameters():
    stricter = Drift(
        profile="seed", p_value=0.03, outlier_share=0.02, error_increase=0.05, r2_drop=0.03, rmse_increase=0.03
    )
    assert seed.data_drift("x", 0.04, 0.1, stricter).grade == 0
    assert seed.outliers("x", 0.03, stricter).grade == 1
    found = seed.performance({"r2": 0.85, "rmse": 0.35}, {"r2": 0.82, "rmse": 0.361}, stricter)
    assert {one.kind: one.grade for one in found} == {"concept_drift": 0, "performance_drop": 1, "rmse_increase": 1}


def test_seed_rules_without_their_scores_say_nothing():
    assert rules({"accuracy": 0.8}, {"rmse": 3.0}) == {}
    assert rules({"r2": 0.8}, {"r2": math.nan}) == {}
    assert rules({"rmse": 0.0}, {"rmse": 0.1})["rmse_increase"] == 3
    assert rules({"rmse": 0.0}, {"rmse": 0.0})["rmse_increase"] == 0


def test_seed_severity_counts_rules_not_columns():
    """S3-06."""
    mild = [seed.data_drift(name, 0.04, 0.1, SEED) for name in "abc"]
    assert seed.severity([]) is Severity.NONE
    assert seed.severity(mild) is Severity.LOW
    assert seed.severity([*mild, seed.outliers("a", 0.06, SEED)]) is Severity.MEDIUM
    assert seed.severity([seed.data_drift("a", 1e-4, 0.1, SEED)]) is Severity.HIGH
    assert seed.severity(seed.performance({"accuracy": 0.8}, {"accuracy": 0.76}, SEED)) is Severity.HIGH
    assert seed.severity(seed.performance({"r2": 0.8}, {"r2": 0.1}, SEED)) is Severity.CRITICAL
    assert seed.drift_type(mild) is DriftType.DATA
    assert seed.drift_type([*mild, *seed.performance({"rmse": 1.0}, {"rmse": 1.12}, SEED)]) is DriftType.PERFORMANCE


def test_grades_are_decided_without_heavy_libraries():
    code = (
        "import sys; import evertrain.drift.grades, evertrain.drift.seed, evertrain.evidence;"
        "print([m for m in ('scipy', 'pandas', 'sklearn', 'polars') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
