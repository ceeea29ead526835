"""The registry of scores: 4.6.1 (improvement), 4.6.20 (direction and unit), 4.6.24 (relative to the baseline)."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from evertrain.errors import ConfigError, DataError, UnknownName
from evertrain.scores import (
    FLOOR,
    SCORES,
    baseline,
    class_shares,
    compute,
    default_score,
    default_scores,
    format_score,
    get,
    improvement,
    losses,
    naive_error,
)

REGRESSION = [name for name, score in SCORES.items() if score.task == "regression"]
LABELS = [name for name, score in SCORES.items() if score.task == "classification" and score.needs == "predictions"]
PROBABILITIES = [name for name, score in SCORES.items() if score.needs == "probabilities"]
TOLERANCE = 1e-9

scikit_learn = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "f1": lambda actual, predicted: metrics.f1_score(actual, predicted, average="macro", zero_division=0),
    "precision": lambda actual, predicted: metrics.precision_score(actual, predicted, average="macro", zero_division=0),
    "recall": lambda actual, predicted: metrics.recall_score(actual, predicted, average="macro", zero_division=0),
    "r2": metrics.r2_score,
    "rmse": metrics.root_mean_squared_error,
    "mae": metrics.mean_absolute_error,
    "mape": lambda actual, predicted: 100 * metrics.mean_absolute_percentage_error(actual, predicted),
}
label_kinds = {
    "text objects": lambda codes: np.array(["low", "mid", "high", "Ünder"], dtype=object)[codes],
    "text": lambda codes: np.array(["low", "mid", "high", "Ünder"])[codes],
    "integers": lambda codes: codes - 1,
    "floats": lambda codes: codes / 2,
    "truth": lambda codes: codes > 1,
    "truth objects": lambda codes: (codes > 1).astype(object),
}

codes_pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.int64, n, elements=st.integers(0, 3))] * 2)  # type: ignore[arg-type]
)
# A quarter of the grid makes ties; 0 and 1 are the clipped ends.
shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
# A square over a square neither overflows nor underflows, yet they are 120 powers of ten apart.
extreme = st.floats(1e-60, 1e60) | st.floats(-1e60, -1e-60) | st.integers(-3, 3).map(float)
number_pairs = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float64, n, elements=extreme)] * 2)  # type: ignore[arg-type]
)
any_number = st.floats() | st.sampled_from([0.0, -0.0, 1e-10, 1e-9, 0.5, 1.0])


def quietly(function: Any, *args: Any, **kwargs: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(*args, **kwargs))


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def spread(first: Any, classes: int) -> Any:
    """Return probabilities of `classes` classes: the given numbers for the first, the rest shared unequally."""
    weights = np.arange(1, classes) / np.arange(1, classes).sum()
    return np.column_stack([first, np.outer(1 - first, weights)])


def sample(name: str, rows: int = 40, seed: int = 7) -> tuple[Any, Any, dict[str, Any]]:
    """Return actual values, imperfect predictions, and what else the score needs."""
    rng = np.random.default_rng(seed)
    if name in REGRESSION:
        actual = rng.normal(50, 10, rows)
        return actual, actual + rng.normal(0, 5, rows), {}
    actual, predicted = rng.choice(np.array(["a", "b", "c"], dtype=object), (2, rows))
    if name in LABELS:
        return actual, predicted, {}
    return actual, predicted, {"probabilities": rng.dirichlet([1, 1, 1], rows), "classes": ["a", "b", "c"]}


def perfect(name: str) -> tuple[Any, Any, dict[str, Any]]:
    actual, _, more = sample(name)
    if more:
        more["probabilities"] = (actual[:, None] == np.array(more["classes"], dtype=object)).astype(float)
    return actual, actual.copy(), more


# --- agreement with other implementations -----------------------------------------------------------------------


@pytest.mark.parametrize("name", LABELS)
@given(kind=st.sampled_from(sorted(label_kinds)), pair=codes_pairs)
@settings(deadline=None)  # scikit-learn is slow on a busy machine
@example(kind="text", pair=(np.zeros(3, int), np.zeros(3, int)))  # one class
@example(kind="text", pair=(np.zeros(3, int), np.full(3, 3)))  # one class, always taken for another
def test_scores_of_labels_agree_with_scikit_learn(name: str, kind: str, pair: tuple[Any, Any]) -> None:
    actual, predicted = (label_kinds[kind](codes) for codes in pair)

    found = compute(name, actual, predicted)

    assert close(found, quietly(scikit_learn[name], actual.astype(str), predicted.astype(str)))


@given(codes=hnp.arrays(np.int64, st.integers(2, 40), elements=st.integers(0, 1)), data=st.data())
@settings(deadline=None)  # scikit-learn is slow on a busy machine
def test_roc_auc_of_two_classes_is_scikit_learns_for_the_second_also_with_ties(codes: Any, data: Any) -> None:
    first = data.draw(hnp.arrays(np.float64, codes.size, elements=shares))
    given_shares, actual = spread(first, 2), np.array(["no", "yes"])[codes]

    found = compute("roc_auc", actual, actual, probabilities=given_shares, classes=np.array(["no", "yes"]))

    if len(set(codes)) == 1:
        assert math.isnan(found)
    else:
        assert close(found, metrics.roc_auc_score(codes, given_shares[:, 1]))


@given(
    codes=hnp.arrays(np.int64, st.integers(3, 40), elements=st.integers(0, 2)).filter(lambda c: len(set(c)) == 3),
    data=st.data(),
)
@settings(deadline=None)  # scikit-learn is slow on a busy machine
def test_roc_auc_of_more_classes_is_scikit_learns_one_against_the_rest(codes: Any, data: Any) -> None:
    given_shares = spread(data.draw(hnp.arrays(np.float64, codes.size, elements=shares)), 3)

    found = compute("roc_auc", codes, codes, probabilities=given_shares, classes=[0, 1, 2])

    assert close(found, metrics.roc_auc_score(codes, given_shares, multi_class="ovr", labels=[0, 1, 2]))


@given(codes=hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 2)), data=st.data())
@settings(deadline=None)  # scikit-learn is slow on a busy machine
def test_log_loss_agrees_with_scikit_learn_also_at_zero_and_one(codes: Any, data: Any) -> None:
    given_shares = spread(data.draw(hnp.arrays(np.float64, codes.size, elements=shares)), 3)
    actual, classes = np.array(["a", "b", "c"], dtype=object)[codes], ["a", "b", "c"]

    found = compute("log_loss", actual, actual, probabilities=given_shares, classes=classes)

    assert close(found, metrics.log_loss(actual.astype(str), given_shares, labels=classes))


@pytest.mark.parametrize("name", ["r2", "rmse", "mae", "mape"])
@pytest.mark.parametrize("size", [2, 30, 1000])
@pytest.mark.parametrize(("center", "width"), [(0, 1), (1e6, 1), (-1e-6, 1e-8), (1e12, 1e11)])
def test_scores_of_numbers_agree_with_scikit_learn(name: str, size: int, center: float, width: float) -> None:
    rng = np.random.default_rng(size)
    actual = rng.normal(center, width, size)
    predicted = actual + rng.standard_t(2, size) * width

    found = compute(name, actual, predicted)

    assert math.isclose(found, scikit_learn[name](actual, predicted), rel_tol=TOLERANCE, abs_tol=1e-12)


@given(pair=number_pairs)
@example(pair=(np.array([0.1] * 10), np.array([0.2] * 10)))  # the mean of ten 0.1 is not 0.1
@example(pair=(np.array([1e16, 1e16 + 2, 1e16 + 4]), np.array([1e16] * 3)))
def test_scores_of_numbers_agree_with_exact_arithmetic(pair: tuple[Any, Any]) -> None:
    actual, predicted = ([Fraction(one) for one in values.tolist()] for values in pair)
    n = len(actual)
    errors = [abs(one - other) for one, other in zip(actual, predicted, strict=True)]
    squares = sum(one * one for one in errors)
    around = sum((one - sum(actual) / n) ** 2 for one in actual)
    sizes = sum(abs(one) for one in actual)
    middles = [(abs(one) + abs(other)) / 2 for one, other in zip(actual, predicted, strict=True)]
    steps = [abs(one - other) for one, other in zip(actual[1:], actual, strict=False)]
    exact = {
        "mae": sum(errors) / n,
        "wape": 100 * sum(errors) / sizes if sizes else None,
        "mape": 100 * sum(e / abs(a) for e, a in zip(errors, actual, strict=True)) / n if all(actual) else None,
        "smape": 100 * sum(e / m if e else Fraction(0) for e, m in zip(errors, middles, strict=True)) / n,
        "mase": sum(errors) / n / (sum(steps) / len(steps)) if any(steps) else None,
    }

    for name, value in exact.items():
        found = compute(name, *pair)
        assert math.isnan(found) if value is None else math.isclose(found, value, rel_tol=TOLERANCE), name
    assert math.isclose(compute("rmse", *pair) ** 2, squares / n, rel_tol=TOLERANCE)
    found = compute("r2", *pair)
    assert math.isclose(1 - found, squares / around, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if around else found != found


def test_forecast_scores_have_their_textbook_values() -> None:
    actual, predicted = [10.0, 0.0, 20.0], [12.0, 0.0, 15.0]

    assert compute("wape", actual, predicted) == pytest.approx(100 * 7 / 30)
    assert compute("smape", actual, predicted) == pytest.approx(100 * (2 / 11 + 0 + 5 / 17.5) / 3)
    assert compute("smape", [1.0, -1.0], [-1.0, 0.0]) == 200.0
    assert compute("mase", actual, predicted, scale=2.0) == pytest.approx(7 / 3 / 2)
    assert compute("mase", actual, predicted) == pytest.approx(7 / 3 / 15)
    assert naive_error([1.0, 5.0, 2.0, 9.0], season=2) == 2.5
    assert math.isnan(naive_error([1.0, 5.0], season=2))
    assert math.isnan(naive_error([1.0, 5.0, 3.0, 2.0, 4.0], season=7))


def test_roc_auc_of_the_delong_example_is_point_nine_and_point_eighty_five() -> None:
    """DECISIONS §10, vector 11."""
    actual = [1, 1, 1, 1, 0, 0, 0, 0, 0]
    first = np.array([0.9, 0.8, 0.4, 0.7, 0.5, 0.3, 0.2, 0.45, 0.1])
    second = np.array([0.8, 0.45, 0.35, 0.6, 0.4, 0.5, 0.3, 0.2, 0.15])

    found = [
        compute("roc_auc", actual, actual, probabilities=np.column_stack([1 - one, one]), classes=[0, 1])
        for one in (first, second)
    ]

    assert found == pytest.approx([0.90, 0.85], abs=1e-12)


def test_scores_do_not_import_heavy_libraries() -> None:
    script = "import sys, evertrain.scores; sys.exit(bool({'sklearn', 'scipy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_sums_that_overflow_neither_warn_nor_raise() -> None:
    huge = [1e308, -1e308, 1e308, 1e308, 1e308]

    assert losses("rmse", huge, [0.0, 1e308, 1e308, 0.0, 0.0])[2] == 0.0
    assert np.isnan(losses("rmse", huge, [0.0] * 5)).all()
    assert naive_error(huge) == math.inf
    assert baseline("r2", huge) == math.inf
    assert baseline("mae", huge) == 1e308


# --- what is undefined ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_no_rows_have_no_score(name: str) -> None:
    more = {"probabilities": np.zeros((0, 2)), "classes": ["a", "b"]} if name in PROBABILITIES else {}

    assert math.isnan(compute(name, np.array([]), np.array([]), **more))
    assert losses(name, np.array([]), np.array([]), **more).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", SCORES)
def test_one_prediction_that_is_no_number_leaves_no_score_and_no_loss_of_its_row(name: str, bad: float) -> None:
    actual, predicted, more = sample(name)
    if name in LABELS:
        actual, predicted = (actual == "a").astype(float), (predicted == "a").astype(float)
    (more["probabilities"] if more else predicted)[3] = bad

    found = losses(name, actual, predicted, **more)

    assert math.isnan(compute(name, actual, predicted, **more))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("name", [*LABELS, *PROBABILITIES])
def test_a_missing_label_leaves_no_score_and_no_loss_of_its_row(name: str, missing: object) -> None:
    actual, predicted, more = sample(name)
    actual[3] = missing

    assert math.isnan(compute(name, actual, predicted, **more))
    assert np.flatnonzero(np.isnan(losses(name, actual, predicted, **more))).tolist() == [3]
    if name in LABELS:
        assert math.isnan(compute(name, predicted, actual))


@pytest.mark.parametrize(
    ("name", "actual", "predicted", "scale"),
    [
        ("r2", [3.0, 3.0, 3.0], [1.0, 2.0, 3.0], None),
        ("r2", [0.1] * 10, [0.1] * 10, None),
        ("r2", [3.0], [3.0], None),
        ("mape", [0.0, 1.0], [0.0, 1.0], None),
        ("mape", [0.0, 1.0], [1.0, 1.0], None),
        ("wape", [0.0, 0.0], [0.0, 1.0], None),
        ("mase", [2.0, 2.0], [2.0, 3.0], None),
        ("mase", [2.0], [3.0], None),
        *(("mase", [1.0, 2.0], [1.0, 3.0], scale) for scale in (0.0, -1.0, math.nan, math.inf)),
        ("rmse", [1e200, 0.0], [-1e200, 0.0], None),
        ("r2", [1e200, 0.0], [1e200, 1.0], None),  # an infinite variance must not make any error look perfect
        ("wape", [1e308, 1e308], [1e308, 9e307], None),
        ("mae", [1e308, 0.0], [-1e308, 0.0], None),
    ],
)
def test_a_score_that_cannot_be_said_is_nan(name: str, actual: Any, predicted: Any, scale: float | None) -> None:
    assert math.isnan(compute(name, actual, predicted, scale=scale))


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [3.0, 1.0], [0.0, 0.0]])
def test_numbers_that_are_no_probabilities_have_no_score(name: str, row: list[float]) -> None:
    given_shares, classes = np.array([[0.2, 0.8], [0.7, 0.3], row]), ["a", "b"]

    assert math.isnan(compute(name, ["b", "a", "a"], ["b", "a", "a"], probabilities=given_shares, classes=classes))
    assert math.isnan(compute(name, ["b", "a", "a"], ["b", "a", "a"]))
    assert np.isnan(losses(name, ["b", "a", "a"], ["b", "a", "a"])).all()


def test_single_precision_probabilities_are_probabilities() -> None:
    given_shares = np.random.default_rng(1).dirichlet([1] * 50, 200).astype(np.float32)
    actual = np.arange(200) % 50

    found = compute("log_loss", actual, actual, probabilities=given_shares, classes=range(50))

    assert found == pytest.approx(metrics.log_loss(actual, given_shares.astype(float), labels=range(50)), rel=1e-6)


def test_a_class_that_the_model_does_not_know_counts_against_it() -> None:
    actual, given_shares = ["a", "b", "new"], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])

    auc = compute("roc_auc", actual, actual, probabilities=given_shares, classes=["a", "b"])
    loss = losses("log_loss", actual, actual, probabilities=given_shares, classes=["a", "b"])

    assert auc == pytest.approx((1 + 1 + 0.5) / 3)
    assert loss == pytest.approx([-math.log(0.9), -math.log(0.8), -math.log(np.finfo(float).eps)])


def test_a_class_without_rows_is_left_out_of_the_mean() -> None:
    given_shares = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]])

    found = compute("roc_auc", ["a", "b", "a"], ["a", "b", "a"], probabilities=given_shares, classes=["a", "b", "c"])

    assert found == 1.0


@pytest.mark.parametrize("name", SCORES)
def test_lengths_that_differ_are_refused(name: str) -> None:
    actual, predicted, more = sample(name)

    with pytest.raises(DataError, match=r"\(39,\) for \(40,\)"):
        compute(name, actual, predicted[:-1], **more)
    with pytest.raises(DataError, match=r"\(40, 1\)"):  # would compare every row with every other
        losses(name, actual, predicted[:, None], **more)
    with pytest.raises(DataError, match=r"\(40, 1\)"):
        compute(name, actual[:, None], predicted[:, None], **more)


@pytest.mark.parametrize(
    "more",
    [
        {"probabilities": np.full((2, 3), 1 / 3), "classes": ["a", "b"]},
        {"probabilities": np.full((3, 2), 1 / 2), "classes": ["a", "b"]},
        {"probabilities": np.full(2, 1 / 2), "classes": ["a", "b"]},
        {"probabilities": np.full((2, 2), 1 / 2)},
    ],
)
def test_probabilities_need_a_row_for_each_row_and_a_column_for_each_class(more: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="probabilities are"):
        compute("log_loss", ["a", "b"], ["a", "b"], **more)


def test_text_where_numbers_are_needed_is_refused_with_the_text() -> None:
    with pytest.raises(DataError, match="ripe"):
        compute("mae", np.array([1.0, "ripe"], dtype=object), [1.0, 2.0])


def test_labels_that_cannot_be_compared_are_refused() -> None:
    class Unsure:
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            raise TypeError("boolean value of NA is ambiguous")  # as pandas.NA does

    with pytest.raises(DataError, match="ambiguous"):
        compute("accuracy", np.array([Unsure()], dtype=object), np.array(["a"], dtype=object))


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60))
def test_the_order_of_rows_changes_nothing_beyond_rounding(name: str, seed: int, rows: int) -> None:
    actual, predicted, more = sample(name, rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    shuffled = {**more, "probabilities": more["probabilities"][order]} if more else more
    scale = {"scale": 3.0} if name == "mase" else {}

    before = compute(name, actual, predicted, **more, **scale)
    after = compute(name, actual[order], predicted[order], **shuffled, **scale)

    assert close(before, after) or (math.isnan(before) and math.isnan(after))
    if name in LABELS:
        assert before == after
    assert (
        losses(name, actual, predicted, **more)[order] == losses(name, actual[order], predicted[order], **shuffled)
    ).all()


@pytest.mark.parametrize("name", SCORES)
@given(seed=st.integers(0, 10_000))
def test_identical_predictions_have_the_same_bits_whatever_their_memory_looks_like(name: str, seed: int) -> None:
    actual, predicted, more = sample(name, seed=seed)
    strided = np.empty((predicted.size, 3), dtype=predicted.dtype)
    strided[:, 1] = predicted
    other = {**more, "probabilities": np.asfortranarray(more["probabilities"])} if more else more

    assert compute(name, actual, predicted, **more) == compute(name, actual.copy(), strided[:, 1], **other)
    difference = losses(name, actual, predicted, **more) - losses(name, actual, strided[:, 1], **other)
    assert (difference == 0).all()


@pytest.mark.parametrize(
    ("name", "score_of"),
    [
        ("accuracy", lambda loss: 1 - loss),
        ("log_loss", lambda loss: loss),
        ("rmse", math.sqrt),
        ("mae", lambda loss: loss),
    ],
)
def test_the_mean_loss_is_the_score(name: str, score_of: Any) -> None:
    actual, predicted, more = sample(name)

    assert compute(name, actual, predicted, **more) == pytest.approx(
        score_of(losses(name, actual, predicted, **more).mean()), rel=1e-12
    )


def test_paired_losses_of_the_gate_example() -> None:
    """DECISIONS §10, vector 9: of 200 rows 12 only the old model had right, 20 only the new one."""
    actual = np.array(["yes"] * 200, dtype=object)
    old, new = actual.copy(), actual.copy()
    new[:12] = "no"
    old[12:32] = "no"

    gained = losses("accuracy", actual, old) - losses("accuracy", actual, new)

    assert gained.sum() / (200 + 2) == pytest.approx(0.039603960, abs=1e-9)


def test_a_loss_does_not_depend_on_other_rows() -> None:
    for name in SCORES:
        actual, predicted, more = sample(name)
        half = {**more, "probabilities": more["probabilities"][:20]} if more else more
        whole = losses(name, actual, predicted, **more)
        assert (whole[:20] == losses(name, actual[:20], predicted[:20], **half)).all()


# --- the registry -----------------------------------------------------------------------------------------------


def test_the_registry_holds_every_promised_score_with_direction_and_unit() -> None:
    """4.6.20."""
    promised = "accuracy balanced_accuracy f1 precision recall roc_auc log_loss r2 rmse mae mape smape wape mase"

    assert list(SCORES) == promised.split()
    assert {name: score.unit for name, score in SCORES.items() if score.unit != "share"} == {
        "log_loss": "nats",
        "rmse": "target's unit",
        "mae": "target's unit",
        "mape": "%",
        "smape": "%",
        "wape": "%",
        "mase": "× naive",
    }
    assert all(score.description for score in SCORES.values())


@pytest.mark.parametrize("name", SCORES)
def test_the_direction_is_the_one_in_which_perfect_predictions_are_better(name: str) -> None:
    """4.6.20: shown by scoring, not by repeating the table."""
    actual, predicted, more = sample(name)
    best_actual, best_predicted, best_more = perfect(name)

    imperfect = compute(name, actual, predicted, **more)
    best = compute(name, best_actual, best_predicted, **best_more)

    assert improvement(name, imperfect, best).is_better
    assert not improvement(name, best, imperfect).is_better
    assert best == (1.0 if SCORES[name].unit == "share" else 0.0)
    assert (losses(name, best_actual, best_predicted, **best_more) == 0).all()


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("R2", "r2"),
        ("r2_score", "r2"),
        ("f1_score", "f1"),
        ("AUC", "roc_auc"),
        ("Log Loss", "log_loss"),
        ("mae", "mae"),
    ],
)
def test_names_that_people_use_are_understood(given_name: str, name: str) -> None:
    assert get(given_name) is SCORES[name]


def test_an_unknown_score_or_task_lists_the_choices() -> None:
    with pytest.raises(UnknownName, match="score is 'acuracy'; allowed: accuracy, balanced_accuracy, f1"):
        get("acuracy")
    with pytest.raises(ConfigError, match="task is 'ranking'; allowed: classification, regression"):
        default_scores("ranking")  # type: ignore[arg-type]


def test_the_default_scores_are_of_their_task_and_the_first_decides() -> None:
    assert default_score("classification") == "accuracy"
    assert default_score("regression") == "r2"
    for task in ("classification", "regression"):
        assert all(SCORES[name].task == task for name in default_scores(task))  # type: ignore[arg-type]
        assert all(SCORES[name].needs == "predictions" for name in default_scores(task))  # type: ignore[arg-type]


# --- improvement ------------------------------------------------------------------------------------------------


def test_improvement_is_relative_and_positive_when_better_whatever_the_direction() -> None:
    """4.6.1."""
    accuracy, rmse = improvement("accuracy", 0.80, 0.84), improvement("rmse", 0.40, 0.30)

    assert (accuracy.percent, accuracy.points) == pytest.approx((5.0, 0.04))
    assert (rmse.percent, rmse.points) == pytest.approx((25.0, 0.10))
    assert improvement("rmse", 0.40, 0.50).percent == pytest.approx(-25.0)


def test_an_r2_below_zero_is_taken_by_its_size() -> None:
    assert improvement("r2", -0.5, 0.5).percent == 200.0
    assert improvement("r2", -0.5, -1.0).percent == -100.0


def test_r2_and_rmse_tell_the_same_residuals_apart_as_the_literature_says() -> None:
    """DECISIONS §1: at r2 0.85, rmse +10 % is r2 -3.7 %; r2 -5 % is rmse +13.3 %."""
    assert improvement("r2", 0.85, 1 - 0.15 * 1.1**2).percent == pytest.approx(-3.7, abs=0.05)
    assert improvement("rmse", 0.15**0.5, (1 - 0.95 * 0.85) ** 0.5).percent == pytest.approx(-13.3, abs=0.05)


@pytest.mark.parametrize(
    ("name", "old", "tolerance", "boundary", "beyond"),
    [
        ("accuracy", 0.90, 0.15, 0.765, 0.7649),
        ("accuracy", 0.90, 0.05, 0.855, 0.8549),
        ("rmse", 0.35, 0.10, 0.385, 0.3851),
        ("r2", 0.85, 0.05, 0.8075, 0.8074),
        ("r2", -0.50, 0.10, -0.55, -0.5501),
    ],
)
def test_a_tolerance_is_relative_to_the_old_score(
    name: str, old: float, tolerance: float, boundary: float, beyond: float
) -> None:
    """4.6.24: 0.15 of 0.90 fires below 0.765; 4.6.2: 5 % is relative."""
    assert improvement(name, old, boundary).within(tolerance)
    assert not improvement(name, old, beyond).within(tolerance)


@pytest.mark.parametrize("name", ["accuracy", "rmse"])
@given(old=any_number, new=any_number)
def test_swapping_old_and_new_flips_the_sign_of_the_points(name: str, old: float, new: float) -> None:
    there, back = improvement(name, old, new).points, improvement(name, new, old).points

    assert there == -back or (math.isnan(there) and math.isnan(back))


@pytest.mark.parametrize("name", SCORES)
@given(old=any_number, new=any_number)
def test_an_improvement_is_positive_exactly_when_the_score_is_better(name: str, old: float, new: float) -> None:
    better = new > old if SCORES[name].higher_is_better else new < old
    defined = math.isfinite(old) and math.isfinite(new)

    found = improvement(name, old, new)

    assert found.is_better == (better and defined)
    if found.percent is not None:
        assert (found.percent > 0) <= found.is_better
        assert abs(found.percent) <= abs(found.points) / FLOOR * 101  # no blow-up near zero
    if better and defined:
        assert found.within(0.0)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("undefined", [None, math.nan, math.inf, -math.inf])
@given(other=st.none() | any_number)
def test_what_is_undefined_is_never_better_nor_within_any_tolerance(
    name: str, undefined: float | None, other: float | None
) -> None:
    for found in (improvement(name, undefined, other), improvement(name, other, undefined)):
        assert not found.is_better
        assert not found.within(1e300)
        assert found.percent is None
        assert math.isnan(found.points)


def test_beside_a_zero_there_are_points_but_no_per_cent() -> None:
    assert improvement("rmse", 0.0, 0.0).percent == 0.0
    assert improvement("rmse", 0.0, 2.0) == improvement("mae", 0.0, 2.0)
    assert (improvement("rmse", 0.0, 2.0).percent, improvement("rmse", 0.0, 2.0).points) == (None, -2.0)
    assert not improvement("rmse", 0.0, 2.0).within(0.05)
    assert improvement("rmse", 3e-15, 5e-15).within(0.05)  # both are rounding
    assert improvement("r2", 0.0, 0.4).within(0.05)
    assert improvement("rmse", FLOOR, 2 * FLOOR).percent == pytest.approx(-100)
    assert improvement("rmse", FLOOR * 0.999, 2 * FLOOR).percent is None


# --- baselines and text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LABELS, "r2", "rmse", "mae", "wape", "mase"])
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 15))
def test_no_other_constant_has_a_smaller_loss_than_the_baseline(name: str, seed: int, rows: int) -> None:
    actual, others, _ = sample(name, rows, seed)

    def loss(constant: object) -> float:
        return float(losses(name, actual, np.full(rows, constant, dtype=actual.dtype)).mean())

    best = loss(baseline(name, actual))

    assert all(best <= loss(other) + 1e-9 for other in [*actual, *others])


@given(codes=hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 3)), seed=st.integers(0, 99))
def test_the_baseline_does_not_depend_on_the_order_of_rows(codes: Any, seed: int) -> None:
    labels = label_kinds["text objects"](codes)
    shuffled = np.random.default_rng(seed).permutation(labels)

    assert baseline("accuracy", labels) == baseline("accuracy", shuffled)
    assert list(class_shares(labels).items()) == list(class_shares(shuffled).items())


def test_a_baseline_leaves_missing_values_out_and_keeps_the_kind_of_label() -> None:
    assert baseline("accuracy", np.array(["b", None, None, None, math.nan], dtype=object)) == "b"
    assert baseline("f1", np.array([True, False, True])) is True
    assert baseline("accuracy", np.array([10, 9, 10, 9])) == 10  # as text "10" comes before "9"
    assert baseline("mae", [1.0, math.nan, 4.0]) == 2.5
    assert baseline("rmse", [1.0, math.nan, 4.0, 4.0]) == 3.0


@pytest.mark.parametrize("name", SCORES)
def test_the_baseline_of_no_rows_is_no_number(name: str) -> None:
    found = baseline(name, np.array([], dtype=object))

    assert isinstance(found, float)
    assert math.isnan(found)


def test_the_shares_of_the_classes_are_the_trivial_probabilities() -> None:
    actual = np.array(["b", "a", "b", "b"], dtype=object)
    trivial = class_shares(actual)

    found = compute(
        "log_loss", actual, actual, probabilities=np.tile(list(trivial.values()), (4, 1)), classes=list(trivial)
    )

    assert found == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


@pytest.mark.parametrize(
    ("name", "value", "unit", "text"),
    [
        ("accuracy", 0.95349, "", "0.953"),
        ("r2", -0.0001, "", "0.000"),
        ("r2", -12.5, "", "-12.500"),
        ("rmse", 0.000123456, "", "0.0001235"),
        ("rmse", 12.3456, "kg", "12.35 kg"),
        ("mae", 999.96, "kg", "1000 kg"),
        ("mae", 123456.7, "", "123457"),
        ("mae", 1.5e15, "", "1.5e+15"),
        ("mape", 12.3456, "kg", "12.35 %"),
        ("mase", 0.83, "kg", "0.83 × naive"),
        ("log_loss", 0.0, "", "0 nats"),
        ("accuracy", math.nan, "", "not defined"),
        ("rmse", None, "kg", "not defined"),
        ("rmse", math.inf, "kg", "not defined"),
    ],
)
def test_scores_are_shown_as_people_read_them(name: str, value: float | None, unit: str, text: str) -> None:
    assert format_score(name, value, unit) == text
