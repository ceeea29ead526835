"""The gate: who may serve, judged on rows that neither model was trained on, the same for both."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain import CsvFile, Custom, Gate, Project, UnknownName, gate, holdout
from evertrain.gate import Measured, Method, judge
from evertrain.states import ItemState

from .conftest import line_model, write_rows
from .test_triggers import Monitor, Watch, declaring, spec, watch

__all__ = ["watch"]  # a fixture

RULES = Gate()


def measured(challenger: float | None, champion: float | None, **options: object) -> Measured:
    more = {"score": "r2", "rows": 50, "has_champion": True, **options}
    return Measured(challenger=challenger, champion=champion, **more)  # type: ignore[arg-type]


def losses(challenger: float, baseline: float) -> dict[str, np.ndarray]:
    wobble = np.linspace(-0.01, 0.01, 50)
    return {"challenger": challenger + wobble, "baseline": baseline - wobble}


def noisy(path: Path, rows: int = 200, *, seed: int = 7) -> None:
    noise = np.random.default_rng(seed).normal(0, 5, rows)
    path.write_text("x,y\n" + "".join(f"{i}.5,{2 * i + noise[i]}\n" for i in range(rows)))


def verdicts(monitor: Monitor) -> list[dict[str, object]]:
    return [json.loads(row[0]) for row in monitor.rows("SELECT verdict FROM fits ORDER BY id")]


# --- the rules alone --------------------------------------------------------------------------------------------


def test_a_tie_promotes() -> None:
    verdict = judge(RULES, measured(0.8, 0.8), correction=False)
    assert verdict.promotes
    assert ": equal" in verdict.reason


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize(
    ("score", "challenger", "promoted"),
    [
        ("accuracy", 0.856, True),
        ("accuracy", 0.854, False),  # 5 % of 0.90
        ("accuracy", 0.95, True),
        ("rmse", 0.944, True),  # less is better
        ("rmse", 0.946, False),
        ("rmse", 0.5, True),
    ],
)
def test_worse_by_more_than_the_tolerance_is_refused(
    score: str, challenger: float, promoted: bool, correction: bool
) -> None:
    """S1-26, 4.6 (2): 5 %, relative, for corrections, and for refreshes on few rows."""
    verdict = judge(RULES, measured(challenger, 0.9, score=score), correction=correction)
    assert verdict.promotes is promoted
    assert verdict.method is Method.TOLERANCE
    assert "on 50 hold-out rows" in verdict.reason
    assert (": worse by more than the 5% tolerance" in verdict.reason) is not promoted


def test_a_refresh_on_few_rows_says_what_it_could_not_be_put_to() -> None:
    assert "the paired test needs 100" in judge(RULES, measured(0.8, 0.8, rows=99), correction=False).reason
    assert "paired" not in judge(RULES, measured(0.8, 0.8, rows=99), correction=True).reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_no_number_never_wins(value: float | None) -> None:
    """A-37: every comparison with NaN fails the gate."""
    for champion in (0.5, -1e300, None):
        verdict = judge(RULES, measured(value, champion), correction=True)
        assert verdict.outcome is ItemState.REJECTED
        assert verdict.method is Method.GUARDS
        json.dumps(verdict.numbers, allow_nan=False)


def test_a_champion_without_a_score_holds_nobody_back() -> None:
    verdict = judge(RULES, measured(0.1, math.nan), correction=True)
    assert verdict.promotes
    assert "not defined" in verdict.reason


def test_predictions_that_are_no_numbers_are_refused_whatever_the_scores() -> None:
    """A-52."""
    verdict = judge(RULES, measured(1.0, 0.1, problem="3 of 50 predictions are no numbers"), correction=True)
    assert (verdict.outcome, verdict.reason) == (ItemState.REJECTED, "3 of 50 predictions are no numbers")


@pytest.mark.parametrize(("rows", "method"), [(9, Method.GUARDS), (10, Method.TOLERANCE)])
def test_on_too_few_rows_only_the_guards_apply_and_the_verdict_says_so(rows: int, method: Method) -> None:
    verdict = judge(RULES, measured(0.1, 0.9, rows=rows), correction=True)
    assert verdict.method is method
    assert verdict.promotes is (method is Method.GUARDS)
    if verdict.promotes:
        assert "9 hold-out rows, the comparison needs 10" in verdict.reason


def test_no_better_than_guessing_is_refused_where_the_champion_was_better() -> None:
    bad = measured(-0.1, -0.1, champion_beat_baseline=True, champion_promoted=0.9, baseline=0.0, losses=losses(2, 1))
    assert judge(RULES, bad, correction=True).outcome is ItemState.REJECTED
    assert "no better than guessing" in judge(RULES, bad, correction=True).reason
    # the guard can be switched off, and does not apply where the champion was no better either
    assert judge(Gate(beat_baseline=False), bad, correction=True).promotes
    never = measured(-0.1, -0.1, champion_beat_baseline=False, losses=losses(2, 1))
    assert judge(RULES, never, correction=True).promotes


def test_a_first_model_is_promoted_and_a_poor_one_is_warned_of() -> None:
    good = judge(RULES, measured(0.9, None, has_champion=False, losses=losses(1, 2)), correction=True)
    poor = judge(RULES, measured(-0.1, None, has_champion=False, losses=losses(2, 1)), correction=True)
    assert good.promotes
    assert poor.promotes
    assert good.method is Method.FIRST
    assert "guessing" not in good.reason
    assert "no better than guessing" in poor.reason


def test_an_unknown_score_is_named_when_declared() -> None:
    with pytest.raises(UnknownName, match="accurracy"):
        gate.check(spec(gate=Gate(score="accurracy")))


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@given(numbers, numbers, st.integers(0, 200), st.booleans(), st.booleans())
def test_there_always_is_a_verdict_in_words_and_numbers_that_are_json(
    challenger: float | None, champion: float | None, rows: int, correction: bool, has_champion: bool
) -> None:
    found = measured(challenger, champion, rows=rows, has_champion=has_champion)
    verdict = judge(RULES, found, correction=correction)
    assert verdict.reason
    json.dumps(verdict.numbers, allow_nan=False)
    if verdict.promotes and verdict.method is Method.TOLERANCE:
        assert math.isfinite(challenger if challenger is not None else math.nan)


# --- through a whole training -----------------------------------------------------------------------------------


def twin_differs(monitor: Monitor, folder: Path) -> bool:
    """Train the same rows twice; return whether the twin's score differs from the champion's at all."""
    noisy(folder / "rows.csv")
    monitor.settle()
    monitor.force("line")
    first, twin = verdicts(monitor)
    assert twin["rows"] == first["rows"]
    return not (twin["challenger"] == twin["champion"] == first["challenger"] and twin["improvement_points"] == 0)


def test_an_exact_twin_differs_by_exactly_nothing_and_is_promoted(watch: Watch, folder: Path) -> None:
    monitor = watch()
    assert not twin_differs(monitor, folder)
    assert monitor.fits()[1][2] == "promoted"
    assert verdicts(monitor)[1]["gain"] == 0


def test_the_twin_test_sees_a_hold_out_that_is_drawn_anew(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: with rows held out by chance, the champion was trained on some of those it is judged by."""
    chance = np.random.default_rng(7)

    def drawn(rows: np.ndarray, share: float) -> holdout.Split:
        held = np.zeros(len(rows), dtype=bool)
        held[chance.permutation(len(rows))[: int(share * len(rows))]] = True
        return holdout.Split(~held, held)

    monkeypatch.setattr(holdout, "by_identity", drawn)
    assert twin_differs(watch(), folder)


def test_no_row_that_a_champion_was_trained_on_is_among_those_it_is_judged_by(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come and go between the versions; each row stays on its side."""
    import toys

    trained: list[set[float]] = []
    judged: list[set[float]] = []
    fit, predict = toys.Line.fit, toys.Line.predict
    monkeypatch.setattr(toys.Line, "fit", lambda own, rows, c: (trained.append(set(rows.x)), fit(own, rows, c))[1])
    monkeypatch.setattr(
        toys.Line, "predict", lambda own, f, rows: (judged.append(set(rows.x)), predict(own, f, rows))[1]
    )
    noisy(folder / "rows.csv")
    monitor = watch()
    monitor.settle()
    for rows in (230, 150, 260):
        noisy(folder / "rows.csv", rows)
        monitor.check()

    assert len(trained) == 4
    everything = set().union(*trained)
    assert len(judged) == 7  # the first alone, then each challenger and its champion
    assert judged[1::2] == judged[2::2]  # on the same rows
    assert not everything & set().union(*judged)


def test_a_worse_challenger_is_refused_and_the_champion_serves_on(watch: Watch, folder: Path) -> None:
    noisy(folder / "rows.csv")
    monitor = watch()
    monitor.settle()
    before = monitor.project.predictor("line").predict({"x": [4.5]}).tolist()

    worse = watch(declaring(trainer=Custom("toys:Line", {"noise": 50.0})))
    worse.settle()

    assert worse.fits()[-1][2] == "rejected"
    assert "worse by more than the 5% tolerance" in verdicts(worse)[-1]["reason"]  # type: ignore[operator]
    predictor = worse.project.predictor("line")
    assert predictor.predict({"x": [4.5]}).tolist() == before
    assert predictor.version == "1.0.0"


def test_predictions_of_nan_never_serve(watch: Watch, folder: Path) -> None:
    """A-52."""
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(trainer=Custom("toys:Unruly")))
    monitor.settle()

    (folder / "orders").write_text("nan")
    write_rows(folder / "rows.csv", 70)
    monitor.check()

    assert monitor.fits()[-1] == ("", "data_change", "rejected")
    assert monitor.project.predictor("line").version == "1.0.0"


def timed(path: Path, days: int) -> None:
    lines = [f"2026-01-{1 + i // 4:02d}T{6 * (i % 4):02d}:00:00Z,{i}.5,{2 * i}" for i in range(4 * days)]
    path.write_text("at,x,y\n" + "\n".join(lines) + "\n")


def test_with_a_time_both_are_judged_on_rows_newer_than_either_training_by_the_gap(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toys

    trained: list[float] = []
    judged: list[list[float]] = []
    fit, predict = toys.Line.fit, toys.Line.predict
    monkeypatch.setattr(toys.Line, "fit", lambda own, rows, c: (trained.append(rows.x.max()), fit(own, rows, c))[1])
    monkeypatch.setattr(
        toys.Line, "predict", lambda own, f, rows: (judged.append(list(rows.x)), predict(own, f, rows))[1]
    )

    def declare(project: Project) -> None:
        project.source("rows", CsvFile("rows.csv", time="at"))
        line_model(project, features=["x"], gap="24h", gate=Gate(min_holdout=3))

    timed(folder / "rows.csv", 10)
    monitor = watch(declare)
    monitor.settle()
    timed(folder / "rows.csv", 14)
    monitor.check()

    assert len(trained) == 2
    assert judged[1] == judged[2]
    # a day is four rows: x grows by one from row to row
    assert min(judged[1]) > max(trained) + 4
    assert trained[1] > trained[0]

    # rows that are older than what the champion knows cannot judge it
    timed(folder / "rows.csv", 9)
    monitor.check()
    assert "trained on newer rows than are held out" in verdicts(monitor)[-1]["reason"]  # type: ignore[operator]


def test_a_champion_far_below_guessing_does_not_keep_the_place_of_one_above_it():
    """Classes became one-sided: guessing is hard to beat beyond luck, and the champion is wrong on most rows."""
    rng, rows = np.random.default_rng(0), 87

    def wrong(right):
        return rng.permutation((np.arange(rows) >= round(right * rows)).astype(float))

    losses = {"challenger": wrong(0.908), "champion": wrong(0.2), "baseline": wrong(0.862)}
    better = Measured("accuracy", rows, 0.908, 0.2, 0.862, losses, has_champion=True, champion_beat_baseline=True)
    assert judge(RULES, better, correction=False).outcome is ItemState.PROMOTED
    below = replace(better, challenger=0.80, losses={**losses, "challenger": wrong(0.80)})
    assert judge(RULES, below, correction=False).outcome is ItemState.REJECTED  # no better than guessing stays out
