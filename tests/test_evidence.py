"""Evidence and decision: what is measured, what is decided from it, and what is said about it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evertrain
from evertrain.drift.grades import fleet_factors
from evertrain.drift.profile import Profile
from evertrain.drift.signal import DriftType, Evidence, Family, Signal
from evertrain.errors import DataError, UnknownName
from evertrain.evidence import EXPLANATIONS, decide, measure, should_retrain
from evertrain.specs import Cause, Drift

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
BASELINE = {"r2": 0.85, "rmse": 0.35, "accuracy": 0.80}
ONCE = Drift(every=timedelta(days=30))  # the whole budget for this check


def table(seed=0, rows=1000, shift=0.0, columns="abc"):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(rng.normal(size=(rows, len(columns))), columns=list(columns))
    found["a"] += shift
    return found


def answers(seed=0, rows=500, rmse=0.35):
    """Predictions and actuals of a regression with this error; the actuals' variance is that of `BASELINE`."""
    rng = np.random.default_rng(seed)
    predicted = rng.normal(size=rows) * math.sqrt(0.85 * 0.816667)
    return predicted, predicted + rmse * rng.normal(size=rows)


def wrong(seed=0, rows=500, share=0.1):
    rng = np.random.default_rng(seed)
    actual = rng.choice(["no", "yes"], rows)
    flip = rng.random(rows) < share
    return np.where(flip, np.where(actual == "no", "yes", "no"), actual), actual


def losses(seed=99, rows=1000, share=0.1):
    return np.random.default_rng(seed).permutation(np.arange(rows) < share * rows).astype(float)


# --- the call of older scripts ----------------------------------------------------------------------------------


def test_the_call_of_the_documents_answers_with_its_fields():
    """S3-08, S3-09: random predictions and actuals beside a baseline of 0.85, 0.35 and 0.80."""
    rng = np.random.default_rng(0)
    predictions, actuals = rng.normal(size=100), rng.normal(size=100)
    trigger = evertrain.should_retrain(table(0), table(1, 300), predictions, actuals, BASELINE)
    assert trigger.triggered
    assert trigger.drift_type.value == "concept_drift"
    assert trigger.severity == "critical"
    assert trigger.action == "retrain now"
    assert trigger.confidence == 99
    assert trigger.reason.startswith("the mean squared error rose by ")
    assert (trigger.cause, trigger.rule, trigger.code) == (Cause.DRIFT, "drift", "drifted")


def test_nothing_changed_is_not_called_a_change():
    predictions, actuals = answers()
    found = should_retrain(table(0), table(1, 500), predictions, actuals, BASELINE)
    assert (found.triggered, found.code, found.severity, found.drift_type) == (False, "steady", "none", "none")
    assert found.confidence < 20
    assert "nothing changed beyond chance" in found.reason
    assert found.evidence["needs"].startswith("severity high: a rise of the loss by 30 % beyond chance; now ")


@pytest.mark.parametrize(("rows", "enough"), [(99, False), (100, True)])
def test_fewer_than_100_recent_rows_decide_nothing(rows, enough):
    """S3-10."""
    rng = np.random.default_rng(0)
    found = should_retrain(table(0), table(1, rows), rng.normal(size=rows), 9 + rng.normal(size=rows), BASELINE)
    assert found.triggered is enough
    if not enough:
        assert (found.code, found.reason) == ("few_rows", "Insufficient samples: 99 < 100")
        assert found.evidence["needs"] == "1 more recent row"


@pytest.mark.parametrize(("labelled", "enough"), [(99, False), (100, True)])
def test_fewer_than_100_labels_say_nothing_about_losses(labelled, enough):
    predictions, actuals = wrong(rows=300, share=0.6)
    known = actuals.astype(object)
    known[labelled:] = None
    found = should_retrain(table(0), table(1, 300), predictions, known, ref_losses=losses())
    assert found.triggered is enough
    if not enough:
        assert "99 labelled rows, the check needs 100" in found.reason


# --- performance ------------------------------------------------------------------------------------------------


def test_a_target_that_recent_rows_lack_is_asked_for_and_not_guessed():
    """S3-08: the document gives a training table with its target, recent rows without, and actuals apart."""
    predictions, actuals = answers()
    known = table(0).assign(price=1.0)
    unsaid = should_retrain(known, table(1), predictions, actuals, BASELINE)
    assert unsaid.code == "fix_data"
    assert any("say target='price'" in one for one in unsaid.found.notes)
    said = should_retrain(known, table(1), predictions, actuals, BASELINE, target="price")
    assert not any(one.stop for one in said.found.signals)


def test_times_of_a_reference_table_show_how_alike_its_neighbours_are():
    """The same walk goes on: by itself each stretch of it lies elsewhere, and that is no news."""
    rng = np.random.default_rng(3)
    walk = np.zeros(3000)
    for i in range(1, 3000):
        walk[i] = 0.97 * walk[i - 1] + rng.normal()
    times = pd.date_range("2026-01-01", periods=3000, freq="h")
    known, recent = pd.DataFrame({"a": walk[:2500]}), pd.DataFrame({"a": walk[2500:]})
    config = Drift(window="30d")
    plain = should_retrain(known, recent, config=config)
    told = should_retrain(known, recent, times=times[2500:], ref_times=times[:2500], config=config)
    before, after = (next(one for one in found.found.signals if one.kind == "ks") for found in (plain, told))
    assert before.grade > 0
    assert after.grade == 0
    assert after.insufficient or after.reference_rows < before.reference_rows / 10


def test_labels_are_spoken_of_also_where_only_inputs_moved():
    predictions, actuals = answers(rows=1000)
    found = should_retrain(table(0), table(1, 1000, shift=0.6), predictions, actuals, BASELINE)
    assert "shifted: a" in found.reason
    assert "the mean squared error was" in found.reason


def test_a_number_of_the_row_is_no_drift():
    """Newer rows have higher ids by nature; a column of whole numbers in any other order is compared."""
    known, recent = table(0).assign(id=range(1000)), table(1).assign(id=range(1000, 2000))
    found = should_retrain(known, recent)
    assert found.severity == "none"
    assert any("id only numbers the rows" in one for one in found.found.notes)
    shuffled = known.assign(id=np.random.default_rng(0).permutation(1000))
    assert "id" in should_retrain(shuffled, recent).reason


def test_what_could_not_be_compared_is_counted_apart():
    known, recent = table(0), table(1, 120)
    recent.loc[recent.index[10:], "a"] = np.nan
    said = should_retrain(known, recent, config=Drift(missing_increase=1.0)).reason
    assert "could not be made (" in said


def test_a_rise_of_losses_names_how_much_since_when_and_on_what():
    predictions, actuals = wrong(rows=1000, share=0.1)
    worse, truth = wrong(5, rows=1000, share=0.3)
    predictions[600:], actuals[600:] = worse[600:], truth[600:]
    times = pd.date_range("2026-09-01", periods=1000, freq="h", tz="UTC")
    recent = table(1, 1000)
    found = should_retrain(table(0), recent, predictions, actuals, ref_losses=losses(), times=times)
    assert found.triggered
    assert found.found.changed_at is not None
    changed = pd.Timestamp(found.found.changed_at)
    assert abs(changed - times[600]) < timedelta(hours=72)
    assert found.reason.startswith("the share of wrong answers rose by ")
    assert f"labelled rows, since {changed.date()})" in found.reason
    week = times[times > times[-1] - timedelta(days=7)]  # columns are compared in the newest rows
    assert (found.found.since, found.found.until) == (week[0].isoformat(), week[-1].isoformat())
    assert found.found.recent_rows == len(week)


def test_losses_are_looked_at_in_the_order_of_time():
    predictions, actuals = wrong(rows=1000, share=0.1)
    worse, truth = wrong(5, rows=1000, share=0.4)
    predictions[700:], actuals[700:] = worse[700:], truth[700:]
    times = pd.date_range("2026-09-01", periods=1000, freq="h")
    recent, order = table(1, 1000), np.random.default_rng(0).permutation(1000)
    straight = measure(table(0), recent, predictions, actuals, ref_losses=losses(), times=times, config=Drift())
    shuffled = measure(
        table(0), recent.iloc[order], predictions[order], actuals[order], ref_losses=losses(), times=times[order]
    )
    assert shuffled.changed_at == straight.changed_at is not None


def test_the_same_errors_on_less_varied_targets_are_no_drop():
    """S3-04: the plain r2 of these rows is under 0.6, and nothing about the model changed."""
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=800) * 0.3
    actuals = predictions + 0.35 * rng.normal(size=800)
    assert evertrain.scores.compute("r2", actuals, predictions) < 0.6
    found = should_retrain(table(0), table(1, 800), predictions, actuals, BASELINE)
    assert not found.triggered
    loss = next(one for one in found.found.signals if one.name == "loss")
    assert loss.grade == 0
    assert loss.detail["r2"] == pytest.approx(0.85, abs=0.02)
    literal = should_retrain(table(0), table(1, 800), predictions, actuals, BASELINE, config=Drift(profile="seed"))
    assert "r2 fell by" in literal.reason


def test_a_baseline_alone_sees_a_rise_of_the_error_rate():
    predictions, actuals = wrong(rows=600, share=0.35)
    found = should_retrain(table(0), table(1, 600), predictions, actuals, {"accuracy": 0.80})
    assert found.triggered
    assert "the share of wrong answers rose by" in found.reason
    calm = should_retrain(table(0), table(1, 600), *wrong(rows=600, share=0.2), {"accuracy": 0.80})
    assert not calm.triggered


def test_a_baseline_in_other_words_is_understood_and_an_unknown_one_refused():
    predictions, actuals = answers()
    assert should_retrain(table(0), table(1, 500), predictions, actuals, {"R2": 0.85, "RMSE": 0.35}).code == "steady"
    with pytest.raises(UnknownName, match="accuracy"):
        should_retrain(table(0), table(1, 500), predictions, actuals, {"goodness": 0.85})
    with pytest.raises(UnknownName):
        should_retrain(table(0), table(1, 10), predictions, actuals, {"goodness": 0.85})
    for bad in (math.nan, "0.8", None, True):
        with pytest.raises(DataError, match="allowed: a number"):
            should_retrain(table(0), table(1, 500), predictions, actuals, {"r2": bad})


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "precision", "recall"])
def test_a_baseline_that_is_no_mean_of_row_losses_is_judged_too(name):
    def check(share):
        return should_retrain(table(0), table(1, 600), *wrong(rows=600, share=share), {name: 0.9}, config=ONCE)

    assert check(0.1).severity == "none"
    worse = check(0.3)
    assert worse.triggered
    assert worse.reason.startswith(f"the gap of {name} to 1 rose by ")


def test_a_baseline_score_of_a_steady_model_seldom_looks_fallen():
    """At a p of 5 %; of 100 pairs of samples 12 or more would be chance in one of 200 seeds."""
    below = 0
    for seed in range(100):
        predictions, actuals = wrong(10_000 + seed, rows=1000, share=0.15)
        baseline = {"f1": evertrain.scores.compute("f1", actuals, predictions)}
        found = measure(table(0), table(1, 300), *wrong(seed, rows=300, share=0.15), baseline)
        below += (found.signals[-1].p or 0.0) < 0.05
    assert below < 12


def test_an_r2_or_a_percentage_error_alone_is_judged():
    predictions, actuals = answers(rows=600)
    worse, truth = answers(rows=600, rmse=0.7)
    for name in ("r2", "wape"):
        baseline = {name: evertrain.scores.compute(name, actuals, predictions)}
        assert should_retrain(table(0), table(1, 600), predictions, actuals, baseline).severity == "none"
        assert should_retrain(table(0), table(1, 600), worse, truth, baseline).triggered


def test_what_a_baseline_cannot_be_judged_by_is_said():
    predictions, actuals = wrong()
    undefined = should_retrain(table(0), table(1, 500), predictions, actuals, {"roc_auc": 0.8})
    assert "the score of the baseline is not defined on the recent rows" in undefined.reason
    unused = measure(table(0), table(1, 500), predictions, actuals, {"f1": 0.8, "accuracy": 0.9})
    assert unused.notes == ("not judged by the baseline's f1",)
    without = measure(table(0), table(1, 500), predictions, actuals)
    assert without.loss_rise is None
    assert any("nothing to compare losses with" in note for note in without.notes)


def test_a_model_worse_than_always_giving_the_same_answer_is_critical():
    rng = np.random.default_rng(0)
    actual = (rng.random(1000) < 0.3).astype(int)
    predicted = np.where(rng.random(1000) < 0.36, 1 - actual, actual)  # always 0 would be wrong in 30 %
    found = should_retrain(table(0), table(1, 1000), predicted, actual, ref_losses=losses(share=0.25))
    assert found.severity == "critical"
    assert "worse than always giving the same answer" in found.reason


def test_losses_of_a_profile_are_the_reference():
    profile = Profile.of(table(0), losses=losses())
    predictions, actuals = wrong(share=0.3)
    found = should_retrain(profile, table(1, 500), predictions, actuals)
    assert found.triggered
    assert found.found.loss_baseline == pytest.approx(losses().mean())


def test_rows_of_one_customer_are_not_counted_as_many():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(12), 50)
    bad = rng.permutation(np.r_[np.ones(3), np.zeros(9)])[owners]
    order = rng.permutation(600)
    actual = np.full(600, "no")
    predicted = np.where(bad == 1, "yes", "no")[order]
    alone = should_retrain(table(0), table(1, 600), predicted, actual, ref_losses=losses())
    grouped = should_retrain(table(0), table(1, 600), predicted, actual, ref_losses=losses(), groups=owners[order])
    assert alone.triggered
    assert not grouped.triggered


@pytest.mark.parametrize("profile", ["default", "sensitive", "conservative", "guaranteed", "seed"])
def test_every_profile_sees_a_model_that_broke(profile):
    predictions, actuals = wrong(rows=800, share=0.5)
    found = should_retrain(
        table(0),
        table(1, 800),
        predictions,
        actuals,
        {"accuracy": 0.9},
        ref_losses=losses(),
        config=Drift(profile=profile),
    )
    assert found.triggered
    assert json.loads(json.dumps(found.evidence, allow_nan=False)) == found.evidence
    stored = json.loads(json.dumps(found.found.as_json(), allow_nan=False))
    assert Evidence.from_json(stored).signals == found.found.signals


def test_the_larger_the_rise_the_surer():
    sure = []
    for share in (0.1, 0.13, 0.16, 0.2, 0.3):
        predictions, actuals = wrong(3, rows=600, share=share)
        sure.append(should_retrain(table(0), table(1, 600), predictions, actuals, ref_losses=losses()).confidence)
    assert sure == sorted(sure)
    assert sure[0] < 25 < 95 < sure[-1]


# --- inputs -----------------------------------------------------------------------------------------------------


def test_a_shift_that_hurts_nobody_is_named_and_not_acted_on():
    predictions, actuals = answers(rows=1000)
    found = should_retrain(table(0), table(1, 1000, shift=0.6), predictions, actuals, BASELINE)
    assert not found.triggered
    assert (found.code, found.severity, found.drift_type) == ("mild", "medium", "data_drift")
    assert found.reason.startswith("shifted: a; the mean squared error was ")
    assert found.reason.endswith("; medium, retraining waits for high")


def test_without_labels_it_is_said_how_many_to_label():
    found = should_retrain(table(0), table(1, 1000, shift=0.6))
    assert (found.triggered, found.code) == (False, "unlabelled")
    assert found.evidence["label_rows"] == 223
    assert found.reason.endswith("label 223 of them")
    assert found.confidence <= 50


def test_without_labels_a_second_look_at_most_of_the_model_retrains():
    config = Drift(joint=("classifier",))
    importances = {"a": 0.8, "b": 0.1, "c": 0.1}
    days = [pd.date_range(day, periods=1000, freq="min") for day in ("2026-01-01", "2026-01-02")]
    first = should_retrain(table(0), table(1, shift=2.0), importances=importances, config=config, times=days[0])
    assert (first.triggered, first.severity) == (False, "medium")
    state = json.loads(json.dumps(first.evidence["state"]))
    again = should_retrain(
        table(0), table(2, shift=2.0), importances=importances, config=config, times=days[1], state=state
    )
    assert (again.triggered, again.severity) == (True, "high")
    same_rows = should_retrain(
        table(0), table(1, shift=2.0), importances=importances, config=config, times=days[0], state=state
    )
    assert not same_rows.triggered


def test_damaged_data_block_a_retraining():
    recent = table(1, 1000)
    recent.loc[:400, "b"] = np.nan
    found = should_retrain(table(0), recent, *answers(rows=1000), BASELINE)
    assert (found.triggered, found.code, found.drift_type) == (False, "fix_data", "data_quality")
    assert "fix the data, do not retrain on it: b, and no loss has risen beyond chance" in found.reason


def test_damaged_data_that_hurt_do_not_hide_the_loss():
    recent = table(1, 1000)
    recent.loc[:400, "b"] = np.nan
    predictions, actuals = answers(rows=1000, rmse=0.7)
    found = should_retrain(table(0), recent, predictions, actuals, BASELINE)
    assert (found.triggered, found.drift_type) == (True, "performance_degradation")


def test_a_lost_column_stops_even_where_the_loss_has_risen():
    predictions, actuals = answers(rows=1000, rmse=0.9)
    found = should_retrain(table(0), table(1).drop(columns="b"), predictions, actuals, BASELINE)
    assert (found.triggered, found.code, found.severity) == (False, "fix_data", "critical")
    assert "fix the data, do not retrain on it: b is gone" in found.reason


def test_the_target_is_no_input_that_recent_rows_could_lack():
    reference = table(0).assign(price=1.0)
    assert should_retrain(reference, table(1), target="price").code == "steady"
    assert should_retrain(reference, table(1)).code == "fix_data"


def test_a_permutation_of_the_reference_never_alarms():
    reference = table(0, 600)
    old = losses(rows=600)
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(600)
        actual = np.zeros(600)
        found = should_retrain(reference, reference.iloc[order], old[order], actual, ref_losses=old, config=ONCE)
        assert (found.severity, found.code) == ("none", "steady")


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_copy_of_a_column_changes_little(seed):
    reference, recent = table(seed, 400), table(seed + 1, 300, shift=0.2)
    one = measure(reference, recent)
    two = measure(reference.assign(d=reference.a), recent.assign(d=recent.a))
    assert one.drift_p is not None
    assert two.drift_p is not None
    assert one.drift_p / 2 <= two.drift_p + 1e-12 <= 2 * one.drift_p + 1e-9


# --- how it is decided ------------------------------------------------------------------------------------------

RISE = Signal(
    "loss", Family.PERFORMANCE, "loss_scan", 1e-12, 0.4, 0.15, "of the baseline loss", 1000, 640,
    detail={"before": 0.112, "after": 0.155, "ratio": 0.384, "window": 640, "loss": "absolute error"},
)  # fmt: skip
AGE = Signal("age", Family.DATA, "ks", 1e-9, 0.3, 0.08)
INCOME = Signal("income", Family.DATA, "ks", 1e-8, 0.2, 0.08)
FOUND = Evidence(
    (RISE, INCOME, AGE), 1000, 900, 640, 1e-8, 0.043, 0.0001, 0.112, changed_at="2026-10-02T00:00:00+00:00"
)


def test_the_reason_is_one_plain_sentence():
    found = decide(FOUND, Drift())
    assert found.reason == (
        "the mean absolute error rose by 38 % (0.112 to 0.155 on 640 labelled rows, since 2026-10-02);"
        " shifted: age, income"
    )
    assert (found.severity, found.triggered, found.drift_type) == ("critical", True, "performance_degradation")
    assert found.found is not None
    assert [one.grade for one in found.found.signals] == [2, 2, 2]


@pytest.mark.parametrize(("severity", "fires"), [("low", True), ("high", True), ("critical", False)])
def test_only_the_wanted_severity_fires(severity, fires):
    alone = replace(FOUND, signals=(RISE,))
    found = decide(alone, Drift(severity=severity))
    assert (found.severity, found.triggered) == ("high", fires)
    if not fires:
        assert found.code == "mild"
        assert found.evidence["needs"] == "severity critical: a rise of the loss by 60 % beyond chance; now 40 %"


def test_only_the_wanted_confidence_fires():
    sure = decide(FOUND, Drift()).confidence
    assert sure is not None
    assert decide(FOUND, Drift(min_confidence=sure)).triggered
    less = replace(FOUND, loss_rise=0.012)
    found = decide(less, Drift(min_confidence=99))
    assert (found.triggered, found.code) == (False, "unsure")
    assert f"{found.confidence} % sure" in found.reason


def test_overlapping_windows_share_their_looks():
    times = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-01-26T00:00:00+00:00"}
    sliding = decide(replace(FOUND, **times), Drift(), state={"until": "2026-01-25T00:00:00+00:00"})
    apart = decide(replace(FOUND, **times), Drift())
    assert (sliding.evidence["new_share"], apart.evidence["new_share"]) == (pytest.approx(1 / 25), 1.0)
    p = [
        next(one.p_adjusted for one in found.found.signals if one.family is family)
        for family in (Family.DATA, Family.PERFORMANCE)
        for found in (sliding, apart)
    ]
    assert p[0] == pytest.approx(p[1] * 7 / 25)
    assert p[2] == p[3]  # the newest losses are new at every look
    assert sliding.evidence["state"] == {"checks": 1, "moved": True, "until": times["until"]}


def test_a_round_of_many_partitions_keeps_its_false_alarms_few():
    odd = replace(FOUND, signals=(replace(RISE, p=5e-5),))
    quiet = {str(i): replace(FOUND, signals=(replace(RISE, p=0.5),), loss_rise=0.0) for i in range(400)}
    assert decide(odd, Drift()).severity == "low"

    def together(found):
        factors = fleet_factors(found)
        return {name: decide(one, Drift(), fleet=factors[name]) for name, one in found.items()}

    assert together({"Graz": odd, **quiet})["Graz"].severity == "none"
    both = together({"Graz": FOUND, **quiet})
    assert both["Graz"].triggered
    assert not any(both[name].triggered for name in quiet)


def test_the_reason_says_how_much_of_the_model_has_moved():
    found = should_retrain(table(0), table(1, shift=0.6), importances={"a": 3, "b": 1})
    assert "shifted: a (75 % of what the model relies on)" in found.reason
    profile = Profile.of(table(0))
    assert "(60 % of" in should_retrain(profile, table(1, shift=0.6), importances={"a": 3, "b": 2}).reason


def test_profile_seed_says_what_its_rules_would_need():
    found = should_retrain(table(0), table(0), config=Drift(profile="seed", severity="critical"))
    assert found.evidence["needs"] == "severity critical: a rule at four times its limit"


def test_profile_seed_warns_that_it_alarms_often():
    found = should_retrain(table(0), table(1), config=Drift(profile="seed"))
    assert found.reason.endswith('profile "seed" alarms often: in 47 % of checks while nothing changes')


def test_profile_seed_counts_plain_outliers():
    recent = table(1)
    recent.loc[recent.index[:60], "b"] = 40.0
    found = should_retrain(table(0), recent, config=Drift(profile="seed", severity="low"))
    raised = {(one.name, one.kind) for one in found.found.signals if one.grade}
    assert ("b", "outliers") in raised
    assert found.triggered


def test_every_kind_of_drift_is_explained():
    """S3-21: what it is, what it does, what to do."""
    assert set(EXPLANATIONS) == set(DriftType)
    for one in EXPLANATIONS.values():
        assert all(text.endswith(".") and len(text) > 10 for text in (one.what, one.impact, one.solution))


def test_evidence_without_signals_is_decided():
    assert decide(Evidence(recent_rows=500), Drift()).code == "steady"
    assert decide(Evidence(), Drift()).code == "few_rows"


# --- hostile input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baseline", "allowed"),
    [({"accuracy": 85}, "0 to 1"), ({"r2": 1.1}, "at most 1"), ({"rmse": -1.0}, "0 or more"), ({"f1": -0.1}, "0 to 1")],
)
def test_a_baseline_that_cannot_be_is_refused(baseline, allowed):
    with pytest.raises(DataError, match=allowed):
        should_retrain(table(0), table(1, 500), *answers(), baseline)
    assert should_retrain(table(0), table(1, 500), *answers(), {"r2": -1.0, "rmse": 1.2}).reason


def test_recent_rows_in_any_order_of_time_are_the_same_rows():
    recent = pd.concat([table(1, 500, shift=5.0), table(2, 500)], ignore_index=True)
    times = pd.date_range("2026-01-01", periods=1000, freq="h")
    config = Drift(window=timedelta(hours=500))
    order = np.random.default_rng(0).permutation(1000)
    predictions, actuals = wrong(rows=1000)
    straight = measure(table(0), recent, predictions, actuals, {"f1": 0.9}, times=times, config=config)
    shuffled = measure(
        table(0), recent.iloc[order], predictions[order], actuals[order], {"f1": 0.9}, times=times[order], config=config
    )
    assert shuffled == straight
    assert decide(straight, config).severity == "none"


def test_rows_without_a_time_are_not_the_newest():
    times = pd.Series(pd.date_range("2026-01-01", periods=1000, freq="h"))
    times[500:] = pd.NaT
    recent = pd.concat([table(1, 500), table(2, 500, shift=5.0)], ignore_index=True)
    found = measure(table(0), recent, times=times, config=Drift(window=timedelta(hours=200)))
    assert found.recent_rows == 200
    assert found.until == "2026-01-21T19:00:00+00:00"
    assert decide(found, Drift()).severity == "none"


def test_a_state_that_no_decision_returned_is_refused():
    with pytest.raises(DataError, match="the time 'x'"):
        decide(FOUND, Drift(), state={"until": "x"})


def test_importances_of_unknown_columns_are_named():
    assert measure(table(0), table(1), importances={"a": 1, "zeal": 2}).notes == (
        "importances name columns that the reference has not: zeal",
    )


@pytest.mark.parametrize(
    ("predictions", "actuals", "message"),
    [
        (np.zeros(5), np.zeros(6), "6 actuals for 5 predictions"),
        (None, np.zeros(6), "actuals but no predictions"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "shape"),
        (["a"] * 500, np.linspace(0, 1, 500), None),
    ],
)
def test_answers_that_do_not_fit_are_refused(predictions, actuals, message):
    if message is None:
        found = should_retrain(table(0), table(1, 500), predictions, actuals, ref_losses=losses())
        assert found.found is not None
        return
    with pytest.raises(DataError, match=message):
        should_retrain(table(0), table(1, 500), predictions, actuals, BASELINE)


@pytest.mark.parametrize(
    "recent",
    [
        pd.DataFrame(),
        pd.DataFrame({"x": []}),
        pd.DataFrame({"other": range(200)}),
        pd.DataFrame({"a": [math.nan] * 200, "b": [math.inf] * 200, "c": ["text"] * 200}),
        pd.DataFrame({"a": [1.0] * 200, "b": [None] * 200, "c": [math.nan, 1.0] * 100}),
    ],
)
@pytest.mark.parametrize("profile", ["default", "guaranteed", "seed"])
def test_strange_rows_end_in_an_answer(recent, profile):
    found = should_retrain(table(0), recent, config=Drift(profile=profile))
    assert not found.triggered or profile == "seed"
    assert found.reason
    assert 1 <= found.confidence <= 99


@pytest.mark.parametrize("profile", ["default", "guaranteed", "seed"])
@pytest.mark.parametrize(
    ("predictions", "actuals"),
    [
        (np.full(500, math.nan), np.full(500, math.nan)),
        (np.zeros(500), np.zeros(500)),
        (np.full(500, math.inf), np.zeros(500)),
        (np.full(500, 1e300), np.full(500, -1e300)),
        (np.array([True, False] * 250), np.array([True, True] * 250)),
        (np.array([None] * 500), np.array(["a"] * 500, dtype=object)),
        ([], []),
    ],
)
def test_strange_answers_end_in_an_answer(predictions, actuals, profile):
    for known in ({"ref_losses": losses()}, {"ref_losses": np.zeros(300)}, {"baseline_metrics": BASELINE}, {}):
        found = should_retrain(table(0), table(1, 500), predictions, actuals, config=Drift(profile=profile), **known)
        assert found.reason
        json.dumps(found.found.as_json(), allow_nan=False)
        json.dumps(found.evidence, allow_nan=False)


def test_what_is_no_table_is_refused():
    with pytest.raises(DataError, match="list; allowed: a pandas DataFrame"):
        measure(table(0), [1.0] * 200)
    with pytest.raises(DataError, match="str; allowed: a pandas DataFrame, a Profile"):
        measure("train.csv", table(0))
    with pytest.raises(DataError, match="5 times for 1000 recent rows"):
        measure(table(0), table(1), times=pd.date_range("2026-01-01", periods=5))
    with pytest.raises(DataError, match="times"):
        measure(table(0), table(1), times=["never"] * 1000)
    with pytest.raises(DataError, match="2 groups for 1000 labelled rows"):
        measure(table(0), table(1), *answers(rows=1000), BASELINE, groups=["a", "b"])


def test_answers_of_some_of_the_rows_are_taken_and_said_so():
    predictions, actuals = answers(rows=150)
    found = measure(table(0), table(1), predictions, actuals, BASELINE)
    assert found.labelled_rows == 150
    assert any("150 predictions with actuals beside 1000 recent rows" in note for note in found.notes)


def test_only_the_newest_rows_are_looked_at():
    recent = pd.concat([table(1, 500, shift=5.0), table(2, 500)], ignore_index=True)
    assert measure(table(0), recent, config=Drift(max_rows=500)).recent_rows == 500
    assert should_retrain(table(0), recent, config=Drift(max_rows=500)).severity == "none"


# --- real rows --------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not beside this checkout")
def test_houses_of_other_places_are_found_worse_while_they_are():
    reference = pd.read_csv(SHARED / "california_housing_reference.csv")
    recent = pd.read_csv(SHARED / "california_housing_analysis.csv").iloc[:7000]
    late = pd.read_csv(SHARED / "california_housing_analysis_gt.csv").set_index("id")["clf_target"]
    inputs = ["MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude"]
    before = (reference.clf_target != reference.y_pred).astype(float)
    actuals = late.reindex(recent.id).to_numpy()
    monthly = Drift(every=timedelta(days=30))
    found = should_retrain(
        reference[inputs], recent[inputs], recent.y_pred, actuals, ref_losses=before, times=recent.timestamp,
        config=monthly,
    )  # fmt: skip
    assert found.triggered
    assert found.drift_type == "performance_degradation"
    calm = should_retrain(
        reference[inputs],
        recent[inputs][:1000],
        recent.y_pred[:1000],
        actuals[:1000],
        ref_losses=before,
        config=monthly,
    )
    assert not calm.triggered
    assert calm.confidence < 50
