"""What if: other thresholds on stored evidence."""

from __future__ import annotations

import pytest

from evertrain.drift import seed
from evertrain.drift.signal import Evidence, Family, Signal
from evertrain.errors import ConfigError, UnknownName
from evertrain.replay import WhatIf, what_if
from evertrain.specs import Drift


def check(day: int, rise: float, rows: int = 200, **more: Signal) -> Evidence:
    loss = Signal("loss", Family.PERFORMANCE, "loss_scan", 1e-12, rise, 0.15, "of the baseline loss")
    moment = f"2026-05-{day:02d}T12:00:00+00:00"
    return Evidence((loss, *more.values()), 500, 400, rows, since=moment, until=moment)


CHECKS = [check(day, rise) for day, rise in ((1, 0.05), (1, 0.20), (2, 0.40), (3, 0.70), (3, 0.05))]


def changed(found: WhatIf) -> list[int]:
    """Return the places of the checks that are decided otherwise."""
    return [
        place for place, (now, then) in enumerate(zip(found.now, found.then, strict=True)) if now.fired != then.fired
    ]


def test_a_lower_threshold_fires_more_often_and_says_on_which_days():
    found = what_if(CHECKS, Drift(), error_increase=0.10)

    assert (found.checks, found.fired_now, found.fired_then) == (5, 2, 3)
    assert found.by_day == {"2026-05-01": (2, 0, 1), "2026-05-02": (1, 1, 1), "2026-05-03": (2, 1, 1)}
    assert changed(found) == [1]
    assert str(found) == "of 5 checks 2 fire now, and 3 would"


def test_a_higher_severity_fires_less_often():
    found = what_if(CHECKS, Drift(), severity="critical")

    assert (found.fired_now, found.fired_then, changed(found)) == (2, 1, [2])


def test_the_same_thresholds_change_nothing_at_the_boundary():
    exact = [check(1, 0.30), check(2, 0.2999)]

    assert [one.fired for one in what_if(exact, Drift()).now] == [True, False]
    assert [one.fired for one in what_if(exact, Drift(), error_increase=0.1499).then] == [True, True]


def test_more_rows_needed_silence_what_fewer_rows_said():
    found = what_if([check(1, 0.7, rows=150)], Drift(), min_rows=151)

    assert (found.fired_now, found.fired_then) == (1, 0)
    assert what_if([check(1, 0.7, rows=151)], Drift(), min_rows=151).fired_then == 1
    assert found.then[0].found is not None
    assert found.then[0].found.signals[0].insufficient == "150 labelled rows, the check needs 151"


def test_stored_evidence_reads_the_same_as_fresh():
    stored = [Evidence.from_json(one.as_json()) for one in CHECKS]

    assert what_if(stored, Drift(), budget=0.001) == what_if(CHECKS, Drift(), budget=0.001)


def test_graded_evidence_gives_the_same_answer_as_raw():
    """What decisions store is graded; grading again starts from the raw p."""
    raw = what_if(CHECKS, Drift(), error_increase=0.10)
    graded = what_if([one.found for one in raw.now if one.found], Drift(), error_increase=0.10)

    assert graded == raw


def test_rules_of_profile_seed_are_tried_with_other_limits():
    """S3-18: less nervous thresholds on what was seen."""
    old = Drift(profile="seed", severity="low")
    scores = seed.performance({"rmse": 1.0, "r2": 0.8}, {"rmse": 1.12, "r2": 0.8}, old)
    checks = [Evidence((*scores, seed.data_drift("x", 0.04, 0.1, old), seed.outliers("x", 0.06, old)), 500, 400, 300)]

    calm = what_if(checks, old, p_value=0.01, outlier_share=0.10, rmse_increase=0.15)

    assert (calm.fired_now, calm.fired_then) == (1, 0)
    assert what_if(checks, old, p_value=0.01).fired_then == 1


@pytest.mark.parametrize("changes", [{"window": "7d"}, {"profile": "sensitive"}, {"max_rows": 5}, {"p_value": 0.01}])
def test_what_was_not_measured_is_refused(changes):
    with pytest.raises(ConfigError, match="error_increase"):
        what_if(CHECKS, Drift(), **changes)


def test_wrong_names_and_values_are_refused():
    with pytest.raises(UnknownName, match="min_confidence"):
        what_if(CHECKS, Drift(), confidence=80)
    with pytest.raises(ConfigError, match="high"):
        what_if(CHECKS, Drift(), severity="hihg")
    with pytest.raises(ConfigError, match="at least 100"):
        what_if(CHECKS, Drift(), min_rows=99)


def test_no_checks_are_no_days():
    found = what_if([], Drift(), severity="low")

    assert (found.checks, found.by_day) == (0, {})
