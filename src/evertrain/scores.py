"""Scores: how well predictions match what happened, which direction is better, and what one unit of it means.

A score is never an exception and never a warning: where it is undefined, or overflows, it is NaN, and nothing here
counts NaN as better than anything. Written for many small partitions: a score of 30 rows takes microseconds, and
neither scikit-learn nor SciPy is imported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evertrain.errors import DataError, UnknownName

Task = Literal["classification", "regression"]
Needs = Literal["predictions", "probabilities"]
Label = str | int | float | bool
Array = NDArray[Any]
Floats = NDArray[np.float64]

FLOOR = 1e-9  # below it a score counts as zero, and a per cent of it says nothing
SMALLEST_SHARE = float(np.finfo(np.float64).eps)  # bounds a row's log loss at 36; scikit-learn's value
SUM_SLACK = 1e-3  # probabilities computed in single precision do not sum to exactly 1


class Loss(StrEnum):
    """What one row contributes to a paired comparison of two models; lower is always better."""

    WRONG = "0/1"
    SURPRISE = "log loss"
    ABSOLUTE = "absolute error"
    SQUARED = "squared error"


@dataclass(frozen=True, slots=True)
class Score:
    """One way to say how good predictions are.

    Attributes:
        unit: "share" (1 is best), "%", "target's unit", "nats", or "× naive" (1 is the naive forecast's error).
        measure: the score of rows that can be used.
        scaled: `measure` is divided by the error of a naive forecast.
    """

    name: str
    loss: Loss
    higher_is_better: bool
    unit: str
    measure: Callable[[Array, Array], float] = field(repr=False, compare=False)
    description: str
    scaled: bool = False

    @property
    def task(self) -> Task:
        return "classification" if self.loss in (Loss.WRONG, Loss.SURPRISE) else "regression"

    @property
    def needs(self) -> Needs:
        return "probabilities" if self.loss is Loss.SURPRISE else "predictions"


# --- losses of rows ---------------------------------------------------------------------------------------------


def _wrong(actual: Array, predicted: Array) -> Floats:
    return np.asarray(actual != predicted, dtype=np.float64)


def _surprise(codes: Array, shares: Array) -> Floats:
    given = shares[np.arange(codes.size), codes]
    return np.abs(np.log(np.minimum(np.maximum(given, SMALLEST_SHARE), 1.0)))


def _error(actual: Floats, predicted: Floats) -> Floats:
    return np.abs(actual - predicted)


def _squared(actual: Floats, predicted: Floats) -> Floats:
    return np.square(actual - predicted)


_LOSSES = {Loss.WRONG: _wrong, Loss.SURPRISE: _surprise, Loss.ABSOLUTE: _error, Loss.SQUARED: _squared}


# --- measures ---------------------------------------------------------------------------------------------------


def _mean(values: Array) -> float:
    return float(values.sum()) / values.size if values.size else math.nan


def _ratio(part: float, whole: float) -> float:
    """Return NaN for a `whole` that overflowed, too: dividing by infinity would make a perfect score of it."""
    return part / whole if 0 < whole < math.inf else math.nan


def _accuracy(actual: Array, predicted: Array) -> float:
    return int(np.count_nonzero(actual == predicted)) / actual.size


def _per_class(actual: Array, predicted: Array) -> list[tuple[int, int, int]]:
    """Return per class how many rows are rightly predicted, are of it, and are predicted to be."""
    right = Counter(actual[actual == predicted].tolist())
    real, said = Counter(actual.tolist()), Counter(predicted.tolist())
    return [(right[one], real[one], said[one]) for one in {**real, **said}]


def _macro(shares: list[float]) -> float:
    return math.fsum(shares) / len(shares)  # exactly rounded, so the order of rows cannot change a bit


def _balanced_accuracy(actual: Array, predicted: Array) -> float:
    return _macro([right / real for right, real, _ in _per_class(actual, predicted) if real])


def _f1(actual: Array, predicted: Array) -> float:
    return _macro([2 * right / (real + said) for right, real, said in _per_class(actual, predicted)])


def _precision(actual: Array, predicted: Array) -> float:
    return _macro([right / said if said else 0.0 for right, _, said in _per_class(actual, predicted)])


def _recall(actual: Array, predicted: Array) -> float:
    return _macro([right / real if real else 0.0 for right, real, _ in _per_class(actual, predicted)])


def _roc_auc(codes: Array, shares: Array) -> float:
    present = sorted(set(codes.tolist()))
    if len(present) < 2:
        return math.nan
    if present == [0, 1] and shares.shape[1] == 3:  # two classes and the column of the unknown ones
        present = [1]
    return _macro([_chance_above(codes == one, shares[:, one]) for one in present])


def _chance_above(positive: Array, values: Array) -> float:
    """Return how often a positive row's value lies above a negative row's, a tie counting half.

    Source: Hanley and McNeil, Radiology 143 (1982): the area under the ROC curve is the Mann-Whitney statistic.
    """
    high, low = np.sort(values[positive]), np.sort(values[~positive])  # sorted needles are found faster
    wins = low.searchsorted(high, "left").sum() + low.searchsorted(high, "right").sum()
    return int(wins) / (2 * high.size * low.size)


def _log_loss(codes: Array, shares: Array) -> float:
    return _mean(_surprise(codes, shares))


def _r2(actual: Array, predicted: Array) -> float:
    spread = actual - actual[0]  # makes a constant target exactly zero before its mean could be rounded
    return 1.0 - _ratio(_mean(_squared(actual, predicted)), _mean(np.square(spread - _mean(spread))))


def _rmse(actual: Array, predicted: Array) -> float:
    return math.sqrt(_mean(_squared(actual, predicted)))


def _mae(actual: Array, predicted: Array) -> float:
    return _mean(_error(actual, predicted))


def _mape(actual: Array, predicted: Array) -> float:
    return 100 * _mean(_error(actual, predicted) / np.abs(actual))


def _smape(actual: Array, predicted: Array) -> float:
    error, middle = _error(actual, predicted), np.abs(actual) / 2 + np.abs(predicted) / 2
    middle[error == 0] = 1.0  # zero predicted for zero is no error
    return 100 * _mean(error / middle)


def _wape(actual: Array, predicted: Array) -> float:
    return 100 * _ratio(_mae(actual, predicted), _mean(np.abs(actual)))


# --- the registry -----------------------------------------------------------------------------------------------

_SCORES = (
    Score("accuracy", Loss.WRONG, True, "share", _accuracy, "share of rows predicted right"),
    Score("balanced_accuracy", Loss.WRONG, True, "share", _balanced_accuracy, "recall, mean over the actual classes"),
    Score("f1", Loss.WRONG, True, "share", _f1, "F1, mean over the classes"),
    Score("precision", Loss.WRONG, True, "share", _precision, "precision, mean over the classes"),
    Score("recall", Loss.WRONG, True, "share", _recall, "recall, mean over the classes"),
    Score("roc_auc", Loss.SURPRISE, True, "share", _roc_auc, "chance to rank a row of a class above another's"),
    Score("log_loss", Loss.SURPRISE, False, "nats", _log_loss, "mean surprise at the actual class"),
    Score("r2", Loss.SQUARED, True, "share", _r2, "share of the target's variance that is explained"),
    Score("rmse", Loss.SQUARED, False, "target's unit", _rmse, "root of the mean squared error"),
    Score("mae", Loss.ABSOLUTE, False, "target's unit", _mae, "mean absolute error"),
    Score("mape", Loss.ABSOLUTE, False, "%", _mape, "mean of the errors in per cent of the actual values"),
    Score("smape", Loss.ABSOLUTE, False, "%", _smape, "mean of the errors in per cent of the middle of both values"),
    Score("wape", Loss.ABSOLUTE, False, "%", _wape, "sum of the errors in per cent of the sum of actual values"),
    Score("mase", Loss.ABSOLUTE, False, "× naive", _mae, "mean absolute error over the naive forecast's", scaled=True),
)
SCORES: dict[str, Score] = {score.name: score for score in _SCORES}
ALIASES = {"auc": "roc_auc", "logloss": "log_loss", "mean_absolute_error": "mae", "root_mean_squared_error": "rmse"}

FORECAST = ("mae", "rmse", "wape", "mase")  # shown for forecasts; the first one decides

_DEFAULTS: dict[Task, tuple[str, ...]] = {"classification": ("accuracy", "f1"), "regression": ("r2", "rmse", "mae")}


def get(name: str) -> Score:
    """Return the score of this name; "R2", "f1_score" and "auc" are understood.

    Raises:
        UnknownName: there is no such score.

    >>> get("f1_score").name, get("rmse").higher_is_better
    ('f1', False)
    """
    if found := SCORES.get(name):
        return found
    plain = str(name).strip().lower().replace("-", "_").replace(" ", "_").removesuffix("_score")
    if found := SCORES.get(ALIASES.get(plain, plain)):
        return found
    raise UnknownName("score", name, SCORES)


def default_scores(task: Task) -> tuple[str, ...]:
    """Return the scores that a model of this task shows when it declares none; the first one decides."""
    if task not in _DEFAULTS:
        raise UnknownName("task", task, get_args(Task))
    return _DEFAULTS[task]


def default_score(task: Task) -> str:
    """Return the score that decides when none is declared: accuracy, or r2."""
    return default_scores(task)[0]


# --- computing --------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def compute(
    name: str,
    actual: ArrayLike,
    predicted: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    classes: Iterable[object] | None = None,
    scale: float | None = None,
) -> float:
    """Return a score, or NaN where it is undefined.

    Undefined is every score of no rows, of a missing or infinite value or prediction on any row, or of a sum that
    overflows; roc_auc with one class, r2 of a constant target, mape with an actual value of zero, wape of nothing
    but zeros, mase without a positive scale; and roc_auc and log_loss without probabilities, or where a row of them
    does not sum to 1.

    f1, precision and recall are means over the classes present in `actual` or `predicted`, with two classes as
    well, so that none has to be called the positive one; a class never predicted has precision 0. roc_auc is the
    second class's with two classes, else the mean of each present class against the rest. A class that the model
    does not know has probability 0, hence a roc_auc of 0.5 and the largest log loss.

    Args:
        actual: shape (n,); labels of any kind, or numbers.
        predicted: shape (n,), like `actual`; not looked at by scores that need probabilities.
        probabilities: shape (n, k), a column for each of `classes`.
        classes: the k labels of the columns, as in a scikit-learn classifier's `classes_`.
        scale: for mase, the naive error of the training rows (`naive_error`); without it that of `actual` itself,
            one step, in the order given. Other scores ignore it.

    Raises:
        UnknownName: there is no such score.
        DataError: shapes do not fit, or numbers are none.

    Source: Hyndman and Koehler, Int. J. Forecasting 22 (2006) for mase; Makridakis, Spiliotis and Assimakopoulos,
    Int. J. Forecasting 36 (2020) for smape, which goes from 0 to 200 %.

    >>> compute("accuracy", ["a", "b", "b", "a"], ["a", "b", "a", "a"])
    0.75
    >>> compute("mape", [10.0, 20.0], [11.0, 22.0])
    10.0
    """
    score = get(name)
    truth, guess, usable = _read(score, actual, predicted, probabilities, classes)
    if not truth.size or not usable.all():
        return math.nan
    value = score.measure(truth, guess)
    if score.scaled:
        value = _ratio(value, naive_error(truth) if scale is None else scale)
    return value if math.isfinite(value) else math.nan


@np.errstate(all="ignore")
def losses(
    name: str,
    actual: ArrayLike,
    predicted: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    classes: Iterable[object] | None = None,
) -> Floats:
    """Return one loss per row, lower is better, to compare two models on the same rows.

    Wrong (1) or right (0) for scores of predicted labels; the log loss of the row for roc_auc and log_loss, because
    labels alone cannot see a worse ranking of rare classes; the squared error for rmse and r2, the absolute error
    for the others. A loss depends on its own row only, so that any part of the rows can be compared. Rows that
    `compute` could not use are NaN. Arguments and errors are those of `compute`.

    >>> losses("r2", [1.0, 2.0], [1.5, 2.0])
    array([0.25, 0.  ])
    """
    score = get(name)
    truth, guess, usable = _read(score, actual, predicted, probabilities, classes)
    found = _LOSSES[score.loss](truth, guess)
    found[~(usable & np.isfinite(found))] = np.nan
    return found


@np.errstate(all="ignore")
def naive_error(actual: ArrayLike, season: int = 1) -> float:
    """Return the mean absolute error of predicting each value by the one `season` rows before.

    NaN where there are too few rows. Rows are in order of time, without gaps.

    >>> naive_error([1.0, 2.0, 4.0])
    1.5
    """
    numbers = _numbers(actual)
    return _mean(np.abs(numbers[season:] - numbers[: max(numbers.size - season, 0)]))


def _read(
    score: Score,
    actual: ArrayLike,
    predicted: ArrayLike,
    probabilities: ArrayLike | None,
    classes: Iterable[object] | None,
) -> tuple[Array, Array, Array]:
    """Return what `score` compares, row by row, and which rows can be."""
    if score.task == "regression":
        truth, guess = _numbers(actual), _numbers(predicted)
    else:
        truth, guess = np.asarray(actual), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != guess.shape:
        raise DataError(f"{score.name} compares one prediction with each row; got {guess.shape} for {truth.shape}")
    if score.needs == "probabilities":
        codes, shares = _columns(truth, probabilities, classes)
        fits = (shares >= -SUM_SLACK).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) <= SUM_SLACK)
        return codes, shares, fits & ~_missing(truth)
    return truth, guess, ~(_missing(truth) | _missing(guess))


def _columns(
    truth: Array, probabilities: ArrayLike | None, classes: Iterable[object] | None
) -> tuple[NDArray[np.intp], Floats]:
    """Return each row's column, and the probabilities with a last column of zeros for classes the model lacks."""
    names = [] if classes is None else list(classes)
    given = np.zeros((truth.size, len(names))) if probabilities is None else _numbers(probabilities)
    if given.shape != (truth.size, len(names)):
        raise DataError(f"probabilities are {given.shape} for {truth.size} rows and {len(names)} classes")
    shares = np.zeros((truth.size, len(names) + 1))
    shares[:, :-1] = given
    place = {name: column for column, name in enumerate(names)}
    codes = np.fromiter((place.get(one, -1) for one in truth.tolist()), np.intp, truth.size)
    return codes, shares


def _numbers(values: ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"values that have to be numbers are not: {error}") from error


def _missing(values: Array) -> NDArray[np.bool_]:
    kind = values.dtype.kind
    if kind == "f":
        return ~np.isfinite(values)
    if kind == "O":
        try:
            return np.asarray((values != values) | (values == np.array(None)), dtype=np.bool_)
        except (TypeError, ValueError) as error:  # pandas' NA, or a list, is neither equal to itself nor different
            raise DataError(f"labels that cannot be compared: {error}") from error
    return np.zeros(values.shape, dtype=np.bool_)


# --- comparing and showing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Improvement:
    """How much better a new score is than an old one; positive is better whatever the score's direction.

    Attributes:
        percent: relative to the size of the old score; None where that says nothing: the old score is zero (under
            1e-9) and the new one is not, or one of them is undefined.
        points: the difference in the score's own unit; NaN where one of them is undefined.
    """

    percent: float | None
    points: float

    @property
    def is_better(self) -> bool:
        return self.points > 0

    def within(self, tolerance: float) -> bool:
        """Return whether the new score is worse by no more than the share `tolerance` of the old; never for NaN.

        Beside an old score of zero, worse by less than 1e-9 is let pass: it is rounding.

        >>> improvement("accuracy", 0.90, 0.855).within(0.05), improvement("rmse", 1.0, 1.2).within(0.05)
        (True, False)
        """
        if self.percent is None:
            return self.points >= -FLOOR
        return self.percent >= -100 * tolerance - FLOOR  # 0.90 to 0.855 is -5.000000000000004 % in floating point


def improvement(name: str, old: float | None, new: float | None) -> Improvement:
    """Return how much better `new` is than `old`; None and infinity are undefined, like NaN.

    An r2 below zero is taken by its size: from -0.5 to 0.5 is +200 %.

    >>> improvement("rmse", 2.0, 1.5)
    Improvement(percent=25.0, points=0.5)
    >>> improvement("mae", 0.0, 1.5)
    Improvement(percent=None, points=-1.5)
    """
    score = get(name)
    if old is None or new is None or not (math.isfinite(old) and math.isfinite(new)):
        return Improvement(None, math.nan)
    points = float(new - old if score.higher_is_better else old - new)
    if abs(old) < FLOOR:
        return Improvement(None if points else 0.0, points)
    return Improvement(points / abs(old) * 100, points)


@np.errstate(all="ignore")
def baseline(name: str, train_actual: ArrayLike) -> Label:
    """Return the constant that is the best guess for this score without looking at a feature; NaN for no rows.

    The most frequent class (among equals the first as text); the median where absolute errors count, else the mean.
    Missing values are left out. For roc_auc and log_loss see `class_shares`, too.

    >>> baseline("accuracy", ["b", "a", "b", "a"]), baseline("mae", [1.0, 2.0, 9.0]), baseline("r2", [1.0, 2.0, 9.0])
    ('a', 2.0, 4.0)
    """
    score = get(name)
    if score.task == "classification":
        shares = class_shares(train_actual)
        return max(shares, key=lambda label: shares[label], default=math.nan)  # of equals the first
    numbers = _numbers(train_actual)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    if score.loss is Loss.ABSOLUTE and numbers.size:
        return float(numbers[(numbers.size - 1) // 2] / 2 + numbers[numbers.size // 2] / 2)
    return _mean(numbers)


def class_shares(train_actual: ArrayLike) -> dict[Label, float]:
    """Return the share of each class, in the order of the classes as text: the trivial probabilities.

    >>> class_shares(["b", "a", "b", "b"])
    {'a': 0.25, 'b': 0.75}
    """
    labels = np.asarray(train_actual)
    counts: Counter[Label] = Counter(labels[~_missing(labels)].tolist())
    return {label: counts[label] / counts.total() for label in sorted(counts, key=str)}


def format_score(name: str, value: float | None, unit: str = "") -> str:
    """Return a score as people read it; `unit` is the target's, where it is known.

    >>> format_score("accuracy", 0.9531), format_score("rmse", 1234.56, "kg"), format_score("mape", 7.5)
    ('0.953', '1235 kg', '7.5 %')
    """
    score = get(name)
    if value is None or not math.isfinite(value):
        return "not defined"
    if score.unit == "share":
        return f"{round(value, 3) + 0.0:.3f}"  # + 0.0 turns -0.000 into 0.000
    known = unit if score.unit == "target's unit" else score.unit
    return f"{value:{'.0f' if 1000 <= abs(value) < 1e12 else '.4g'}} {known}".rstrip()
