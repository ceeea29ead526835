"""The gate: may this challenger serve? From what was measured on one hold-out to a verdict with its reasons.

Pure. Guards come first and fail hard; then the challenger is compared with the champion on the same rows. A
challenger that equals the champion passes: it has seen newer rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evertrain import scores
from evertrain.errors import ConfigError
from evertrain.specs import Gate, ModelSpec, ScoreDrop, declared_task
from evertrain.states import ItemState

Losses = NDArray[np.float64]

# One-sided 5 % of the normal distribution: "better than guessing" must not be luck.
_BEYOND_LUCK = 1.6449
PAIRED_ROWS = 100
ROW, STEP = "hold-out row", "backtest step"


class Method(StrEnum):
    """How a verdict was reached."""

    TOLERANCE = "tolerance"  # the two scores, and the tolerance of the gate
    GUARDS = "guards"  # no comparable step: only the guards applied
    FIRST = "first"  # there is no champion to compare with


@dataclass(frozen=True)
class Measured:
    """What was measured on one hold-out, the same rows for all.

    Attributes:
        score: the name of the gate's score.
        rows: hold-out rows.
        challenger, champion, baseline: the score of each; None where it could not be had, with `incomparable`
            saying why for the champion.
        losses: loss of each row, by "challenger", "champion" and "baseline"; what the paired statistics need.
        champion_beat_baseline: whether the champion was better than guessing when it was promoted.
        problem: what a guard found already where the challenger ran, e.g. a prediction that is not a number.
        unit: what a row is called: "hold-out row", or "backtest step" of a forecast.
    """

    score: str
    rows: int
    challenger: float | None = None
    champion: float | None = None
    baseline: float | None = None
    losses: dict[str, Losses] = field(default_factory=dict)
    has_champion: bool = False
    champion_beat_baseline: bool = False
    champion_promoted: float | None = None
    incomparable: str | None = None
    problem: str | None = None
    unit: str = ROW

    @property
    def guessing(self) -> str:
        """What the baseline is called."""
        return "guessing" if self.unit == ROW else "the naive forecast"

    @property
    def on(self) -> str:
        """What the scores were measured on, in words."""
        return f"{self.rows} {self.unit}{'' if self.rows == 1 else 's'}"


@dataclass(frozen=True)
class Verdict:
    """The outcome, its reason in words, and the numbers behind it."""

    outcome: ItemState
    method: Method
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def promotes(self) -> bool:
        return self.outcome is ItemState.PROMOTED


def check(spec: ModelSpec, task: str | None = None) -> None:
    """Raise `ConfigError` for a score that does not exist, or that is of another task than the model.

    Args:
        task: what the trainer predicts, where it was loaded; else what its declaration says of it, and where that
            says nothing either, the task of the first score: those of two tasks never fit one model.
    """
    named = [(f"{spec.name}.scores", one) for one in spec.scores]
    named += [(f"{spec.name}.gate.score", spec.gate.score)] if spec.gate.score else []
    named += [
        (f"{spec.name}.triggers.score_drop.score", one.score)
        for one in spec.triggers
        if isinstance(one, ScoreDrop) and one.score
    ]
    found = [(where, name, scores.get(name).task) for where, name in named]
    if task := "regression" if spec.series else task or declared_task(spec.trainer):
        because = "which its trainer is for"
    elif found:
        task, because = found[0][2], f"as {found[0][1]} is"
    for where, name, own in found:
        if own != task:
            allowed = ", ".join(one.name for one in scores.SCORES.values() if one.task == task)
            raise ConfigError(where, name, f"a score of a {task}, {because}, not of a {own}: {allowed}")


def judge(gate: Gate, measured: Measured, *, correction: bool, least: int = 10) -> Verdict:
    """Return the verdict on a challenger; there always is one.

    A correction is promoted unless a guard fails or it is worse by more than the tolerance: its champion learnt from
    rows now known to be wrong or incomplete. A refresh owes more, the paired test; until there are rows enough for
    that test the tolerance decides for it as well, and the verdict says so.

    Args:
        least: rows without which the two are not compared.
    """
    numbers = _numbers(measured)
    if reason := _guard(gate, measured, least):
        return Verdict(ItemState.REJECTED, Method.GUARDS, reason, numbers)
    shown = _shown(measured.score, measured.challenger)
    if not measured.has_champion:
        warning = "" if _beats_baseline(measured) is not False else f"; {_guessing(measured)}"
        return Verdict(ItemState.PROMOTED, Method.FIRST, f"first model, {shown} on {measured.on}{warning}", numbers)
    if why := _incomparable(measured, least):
        return Verdict(
            ItemState.PROMOTED, Method.GUARDS, f"not compared with the champion ({why}); the guards passed", numbers
        )
    return _compare(gate, measured, numbers, correction=correction)


def _incomparable(measured: Measured, least: int) -> str | None:
    if measured.incomparable or measured.rows < least:
        return measured.incomparable or f"{measured.on}, the comparison needs {least}"
    if measured.champion is None or not math.isfinite(measured.champion):
        # A champion without a score holds nobody back: nothing could ever be shown to be as good.
        return f"its {measured.score} is not defined on {measured.on}"
    return None


def _compare(gate: Gate, measured: Measured, numbers: dict[str, Any], *, correction: bool) -> Verdict:
    better = scores.improvement(measured.score, measured.champion, measured.challenger)
    numbers |= _finite({"improvement": better.percent, "improvement_points": better.points})
    facts = (
        f"{_shown(measured.score, measured.challenger)} against {scores.format_score(measured.score, measured.champion)}"
        f"{f' ({better.percent:+.1f} %)' if better.percent is not None else ''} on {measured.on}"
    )
    paired = f"; the paired test needs {PAIRED_ROWS}" if not correction and measured.rows < PAIRED_ROWS else ""
    if better.within(gate.tolerance):
        word = (
            "better"
            if better.is_better
            else "equal"
            if better.points == 0
            else f"within the {gate.tolerance:.0%} tolerance"
        )
        return Verdict(ItemState.PROMOTED, Method.TOLERANCE, f"{facts}: {word}{paired}", numbers)
    if correction and measured.unit == STEP and not _worse_beyond_luck(measured):
        # The champion said these steps from rows now known to be wrong. Few steps decide by chance, and what people
        # corrected must come through; rows spoilt as a whole show on most steps.
        luck = f"worse by more than the {gate.tolerance:.0%} tolerance, but on too few steps to be more than luck"
        return Verdict(ItemState.PROMOTED, Method.TOLERANCE, f"{facts}: {luck}", numbers)
    return Verdict(
        ItemState.REJECTED, Method.TOLERANCE, f"{facts}: worse by more than the {gate.tolerance:.0%} tolerance", numbers
    )


@np.errstate(all="ignore")
def _worse_beyond_luck(measured: Measured) -> bool:
    """Return whether the champion was better on these rows by more than chance; with less than three, there is no saying."""
    own, old = measured.losses.get("challenger"), measured.losses.get("champion")
    if own is None or old is None or own.size < 3:
        return True
    gain = old - own
    return bool(float(np.mean(gain)) < -_BEYOND_LUCK * float(np.std(gain, ddof=1)) / math.sqrt(gain.size))


def _guard(gate: Gate, measured: Measured, least: int) -> str | None:
    if measured.problem:
        return measured.problem
    # On fewer rows nothing is compared, and a score may be undefined through no fault of the model's: r2 of one row.
    if measured.rows >= least and (measured.challenger is None or not math.isfinite(measured.challenger)):
        return f"its {measured.score} is not defined on {measured.on}"
    always = "always the same answer" if measured.unit == ROW else "repeating the last season"
    if gate.beat_baseline and measured.champion_beat_baseline and _beats_baseline(measured) is False:
        if _is_better_than_both(measured):
            return None
        return (
            f"{_guessing(measured)}: {_shown(measured.score, measured.challenger)} against"
            f" {scores.format_score(measured.score, measured.baseline)} for {always}, on"
            f" {measured.on}; the champion had"
            f" {scores.format_score(measured.score, measured.champion_promoted)} when promoted"
        )
    return None


@np.errstate(all="ignore")
def _is_better_than_both(measured: Measured) -> bool:
    """Return whether a challenger is better than guessing, if not beyond luck, and than the champion beyond luck.

    The champion that once beat guessing may be far below it on the rows of today, which is when a new one is asked for.
    """
    own, old = measured.losses.get("challenger"), measured.losses.get("champion")
    if own is None or old is None or own.size < 3:
        return False
    if not scores.improvement(measured.score, measured.baseline, measured.challenger).is_better:
        return False
    gain = old - own
    return bool(float(np.mean(gain)) > _BEYOND_LUCK * float(np.std(gain, ddof=1)) / math.sqrt(gain.size))


def _guessing(measured: Measured) -> str:
    better = scores.improvement(measured.score, measured.baseline, measured.challenger).is_better
    return f"not better than {measured.guessing} beyond luck" if better else f"no better than {measured.guessing}"


def beats_baseline(measured: Measured) -> bool:
    """Return whether the challenger is better than guessing, beyond luck; stored with each fit."""
    return bool(_beats_baseline(measured))


@np.errstate(all="ignore")
def _beats_baseline(measured: Measured) -> bool | None:
    own, guess = measured.losses.get("challenger"), measured.losses.get("baseline")
    if own is None or guess is None or own.size < 2:
        return None
    gain = guess - own
    spread = float(np.std(gain, ddof=1)) / math.sqrt(gain.size)
    mean = float(np.mean(gain))
    return mean > _BEYOND_LUCK * spread if math.isfinite(mean) else False


@np.errstate(all="ignore")
def _numbers(measured: Measured) -> dict[str, Any]:
    found = {
        "score": measured.score,
        "rows": measured.rows,
        "challenger": measured.challenger,
        "champion": measured.champion,
        "baseline": measured.baseline,
    }
    own, old = measured.losses.get("challenger"), measured.losses.get("champion")
    if own is not None and old is not None and own.size > 1:
        gain = old - own
        found["gain"] = float(np.mean(gain))
        found["gain_se"] = float(np.std(gain, ddof=1) / math.sqrt(gain.size))
    return _finite(found)


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in numbers.items()}


def _shown(score: str, value: float | None) -> str:
    return f"{scores.get(score).name} {scores.format_score(score, value)}"
