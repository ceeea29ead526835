"""Evidence and decision: what changed since the champion was promoted, does it hurt, and how sure is that.

`measure` compares rows and losses, in a worker child: it imports SciPy and pandas. `decide` judges what was measured,
in the loop: it imports neither. `should_retrain` is both at once, for scripts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evertrain import scores
from evertrain.drift import grades, seed
from evertrain.drift.signal import DriftType, Evidence, Family, Severity, Signal
from evertrain.errors import DataError
from evertrain.scores import Loss, Score
from evertrain.specs import Cause, Drift
from evertrain.triggers import Decision, plural

if TYPE_CHECKING:
    import pandas as pd

    from evertrain.drift.losses import Scan
    from evertrain.drift.profile import Profile

Floats = NDArray[np.float64]
RULE = "drift"

_LOSS_WORDS = {
    Loss.WRONG: "share of wrong answers",
    Loss.SURPRISE: "mean log loss",
    Loss.ABSOLUTE: "mean absolute error",
    Loss.SQUARED: "mean squared error",
}
# Scores that are a mean of row losses, or its plain function: what a baseline of them says about the mean loss.
_MEAN_LOSS = {
    "accuracy": lambda value: 1 - value,
    "log_loss": lambda value: value,
    "rmse": lambda value: value * value,
    "mae": lambda value: value,
}
_KIND_WORDS = {
    "missing": "more missing values",
    "outliers": "more outliers",
    "new_values": "new values",
    "range": "values out of range",
    "constant": "constant now",
    "type": "gone or of another type",
}


@dataclass(frozen=True)
class Explanation:
    """What a kind of change is, what it does to a model, and what to do about it."""

    what: str
    impact: str
    solution: str


EXPLANATIONS: Mapping[DriftType, Explanation] = {
    DriftType.NONE: Explanation(
        "Nothing changed beyond chance.", "The model works on what it was made for.", "Nothing to do."
    ),
    DriftType.DATA: Explanation(
        "The distribution of the inputs, or of the answers given, is another than the model was trained on.",
        "The model answers questions that it saw rarely or never; it may be worse there, or just as good.",
        "Look which columns shifted. Label some recent rows to see whether it hurts; if it does, retrain on rows that"
        " have the new distribution.",
    ),
    DriftType.CONCEPT: Explanation(
        "The relation between inputs and target changed, while the inputs look as before.",
        "What the model has learnt is no longer true; its errors grow without a sign in the inputs.",
        "Retrain on rows since the change; older ones teach the old relation.",
    ),
    DriftType.PERFORMANCE: Explanation(
        "The model's errors have grown, and the inputs or their quality changed as well.",
        "Predictions are less accurate than when the model was promoted.",
        "Retrain with recent rows; if a column broke, mend it first.",
    ),
    DriftType.OUTLIERS: Explanation(
        "More values than before lie far outside of a column's usual spread.",
        "Either the data are damaged, or something new happens that the model has not seen.",
        "Investigate the data first, then retrain: a model fitted to damaged rows learns the damage.",
    ),
    DriftType.QUALITY: Explanation(
        "The data themselves are damaged: missing or unknown values, impossible ranges, a column gone or of another type.",
        "Predictions rest on values that are wrong; a retrained model would learn them.",
        "Fix the data; do not retrain on them.",
    ),
}


# --- measuring --------------------------------------------------------------------------------------------------


def measure(
    reference: Profile | pd.DataFrame,
    recent: pd.DataFrame,
    predictions: ArrayLike | None = None,
    actuals: ArrayLike | None = None,
    baseline: Mapping[str, float] | None = None,
    *,
    ref_losses: ArrayLike | None = None,
    times: ArrayLike | None = None,
    ref_times: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    importances: Mapping[str, float] | None = None,
    score: str | None = None,
    target: str | None = None,
    probabilities: ArrayLike | None = None,
    classes: Iterable[object] | None = None,
    config: Drift | None = None,
) -> Evidence:
    """Return everything that one check measures; nothing is judged yet.

    Args:
        reference: the rows that the champion was trained on, or their profile.
        recent: rows since, oldest first; columns are compared in the newest ones, see `Drift.window`.
        predictions, actuals: of the recent rows, or of some of them; equally many, oldest first. An actual that is
            missing (NaN, None) is not known yet.
        baseline: scores of the champion when it was promoted, by name; counts where there are no reference losses.
        ref_losses: losses of the champion on rows it had not seen, in the unit of `score`; None is what the profile
            has.
        times, ref_times: when each recent row and each row of a reference table happened; rows that depend on their
            neighbours then count for fewer, and a season is taken off.
        groups: a label per labelled row where rows come in groups, e.g. the customer.
        importances: how much the model relies on each column, any scale.
        score: by whose losses rows are judged; None is accuracy, or r2 for numbers.
        target: the column that is predicted, where the tables have it: it is no input, and recent rows may lack it.
        probabilities, classes: for scores that need them, see `scores.losses`.

    Raises:
        DataError: lengths do not fit, or values cannot be used.
        UnknownName: a score is unknown.
    """
    import pandas as pd

    from evertrain.drift.profile import Profile

    config = config or Drift()
    if not isinstance(recent, pd.DataFrame):
        raise DataError(f"recent rows are a {type(recent).__name__}; allowed: a pandas DataFrame")
    if not isinstance(reference, pd.DataFrame | Profile):
        raise DataError(f"the reference is a {type(reference).__name__}; allowed: a pandas DataFrame, a Profile")
    known_baseline = _baseline(baseline)
    notes: list[str] = []
    if isinstance(reference, pd.DataFrame):
        if target is None and actuals is not None and len(gone := reference.columns.difference(recent.columns)) == 1:
            # A training table has its target. Which column that is must be said: a lost input looks the same.
            notes.append(f"recent rows lack {gone[0]!r}; if it is the target, say target={gone[0]!r}")
        apart = [*([] if target is None else [target]), *_running_numbers(reference, notes)]
        reference = reference.drop(columns=apart, errors="ignore")
        recent = recent.drop(columns=apart, errors="ignore")
    recent = recent if target is None else recent.drop(columns=[target], errors="ignore")
    moments = _moments(times, len(recent))
    predicted = None if predictions is None else _values(predictions, "predictions")
    actual = None if actuals is None else _values(actuals, "actuals")
    aligned = predicted is not None and len(predicted) == len(recent)
    labelled = _labelled(predicted, actual, len(recent), notes)
    if moments is not None and len(order := _by_time(moments)):
        recent, moments = recent.iloc[order], moments[order]
        if aligned and predicted is not None:
            predicted = predicted[order]
            actual, groups, probabilities = (_in_order(one, order) for one in (actual, groups, probabilities))
    newest = _newest(moments, len(recent), config)
    rows, young = recent.iloc[newest], None if moments is None else moments[newest]
    if config.profile == grades.SEED and isinstance(reference, pd.DataFrame):
        signals, ref_rows = seed.columns(reference, rows, config), len(reference)
    else:
        profile = _profile(reference, ref_times, importances, config, notes)
        ref_rows = profile.rows
        ref_losses = profile.losses if ref_losses is None and len(profile.losses) else ref_losses
        said = predicted[newest] if aligned and predicted is not None else None
        signals = _compared(profile, rows, young, said, config, notes) if len(rows) else []
    tested = [one.p for one in signals if one.p is not None]
    found = Evidence(
        tuple(signals), ref_rows, len(rows), 0, grades.simes(tested) if tested else None, notes=tuple(notes),
        since=_iso(young, 0), until=_iso(moments, -1),
    )  # fmt: skip
    if labelled is None or actual is None or predicted is None:
        return found
    how = scores.get(score or _score_for(actual, predicted, known_baseline))
    return _with_losses(
        found, how, actual, predicted, known_baseline, ref_losses, moments if aligned else None, groups, config,
        probabilities=probabilities, classes=classes,
    )  # fmt: skip


def _profile(
    reference: Profile | pd.DataFrame,
    times: ArrayLike | None,
    importances: Mapping[str, float] | None,
    config: Drift,
    notes: list[str],
) -> Profile:
    """Return the reference's profile, with the importances that were given."""
    from evertrain.drift.profile import Profile

    if not isinstance(reference, Profile):
        found = Profile.of(reference, times=times, weights=importances, exact=True, joint=bool(config.joint))
    elif importances is None:
        found = reference
    else:
        found = replace(reference, weights={name: max(0.0, value) for name, value in importances.items()})
    if unknown := sorted(set(importances or {}) - {column.name for column in found.columns}):
        notes.append(f"importances name columns that the reference has not: {_some(unknown)}")
    return found


def _compared(
    profile: Profile,
    rows: pd.DataFrame,
    moments: NDArray[np.datetime64] | None,
    predicted: NDArray[Any] | None,
    config: Drift,
    notes: list[str],
) -> list[Signal]:
    """Return the signals of inputs and predictions."""
    from evertrain.drift import columns

    signals = columns.compare(profile, rows, config, times=moments, predicted=predicted)
    if config.joint:
        from evertrain.drift import joint

        signals += joint.compare(profile, rows, config, times=moments)
    if config.profile != grades.SEED:
        return signals
    notes.append("the reference is a profile: outliers by plain z-score are not looked at")
    tests = [one for one in signals if one.kind == "ks" and one.p is not None]
    return [seed.data_drift(one.name, one.p or 0.0, one.effect, config) for one in tests]


def _with_losses(
    found: Evidence,
    how: Score,
    actual: NDArray[Any],
    predicted: NDArray[Any],
    baseline: Mapping[str, float],
    ref_losses: ArrayLike | None,
    moments: NDArray[np.datetime64] | None,
    groups: ArrayLike | None,
    config: Drift,
    **chances: Any,
) -> Evidence:
    """Return the evidence with what the losses of labelled rows say."""
    from evertrain.drift import losses as scans

    live = scores.losses(how.name, actual, predicted, **chances)
    usable = np.isfinite(live)
    count = int(usable.sum())
    notes = list(found.notes)
    if unknown := int(live.size - count):
        notes.append(f"{plural(unknown, 'row')} without a usable label are left out")
    if groups is not None and np.asarray(groups).shape != live.shape:
        raise DataError(f"there are {np.asarray(groups).size} groups for {live.size} labelled rows")
    grouped = None if groups is None else np.asarray(groups)
    before = scans.finite(ref_losses if ref_losses is not None else [], "reference losses")
    result, kind, unit, words = scans.Scan(), "loss_scan", how.loss, ""
    signals = list(found.signals)
    if before.size:
        result = scans.scan(before, live, groups=grouped)
        if config.profile == "guaranteed" and not result.problem:
            alpha = config.budget * grades.SPLIT[Family.PERFORMANCE]
            result, kind = replace(result, p=scans.guaranteed_p(before, live, alpha=alpha)), "e_process"
    elif (mean := _mean_loss(how, baseline, notes)) is not None:
        unit, value = mean
        if unit is not how.loss:
            name = next(one.name for one in scores.SCORES.values() if one.loss is unit)
            live = scores.losses(name, actual, predicted, **chances)
        result, kind = scans.rise_over(value, found.reference_rows, live, groups=grouped), "baseline"
    elif other := [name for name in baseline if scores.get(name).task == how.task]:
        result, words = _fallen(other[0], baseline[other[0]], found.reference_rows, actual[usable], predicted[usable])
        kind = "baseline"
    else:
        notes.append("there is nothing to compare losses with: give reference losses, or baseline scores")
        return replace(found, labelled_rows=count, notes=tuple(notes))
    if config.profile == grades.SEED:
        signals += seed.performance(_of_losses(baseline, how, before), _scores_now(actual, predicted, usable), config)
    else:
        guessing = not words and _guessing(unit, actual[usable], result, baseline)
        loss = words or unit.value
        signals.append(_loss_signal(result, kind, loss, count, config, baseline, worse_than_guessing=guessing))
    if not words and signals and signals[-1].family is Family.PERFORMANCE:  # rows have no losses of another score
        series, change = scans.blocks(live, moments, None if result.problem else result.at)
        known_mean = {} if result.problem else {"before": result.before}
        detail = {"loss": unit.value, **known_mean, **signals[-1].detail, "series": series, "change": change}
        signals[-1] = replace(signals[-1], detail=detail)
    known = not result.problem
    changed = None if moments is None or result.at is None else moments[result.at]
    return replace(
        found,
        signals=tuple(signals),
        labelled_rows=count,
        loss_rise=result.rise if known else None,
        loss_variance=result.variance if known else None,
        loss_baseline=result.before if known else None,
        changed_at=None if changed is None else _stamp(changed),
        notes=tuple(notes),
    )


def _loss_signal(
    found: Scan,
    kind: str,
    words: str,
    count: int,
    config: Drift,
    baseline: Mapping[str, float],
    *,
    worse_than_guessing: bool,
) -> Signal:
    from evertrain.drift.losses import fixed_r2

    problem = found.problem
    if not problem and count < config.min_rows:
        problem = f"{plural(count, 'labelled row')}, the check needs {config.min_rows}"
    detail = {name: value for name, value in asdict(found).items() if name not in ("p", "problem")}
    if kind == "baseline" and words == Loss.SQUARED and "r2" in baseline and not problem:
        detail["r2"] = fixed_r2(found.after, baseline["r2"], baseline["rmse"])
    return Signal(
        "loss", Family.PERFORMANCE, kind, None if problem else found.p, max(0.0, found.ratio), config.error_increase,
        "of the baseline loss", found.reference / found.memory, found.live / found.memory, insufficient=problem,
        detail={**detail, "loss": words, "worse_than_guessing": worse_than_guessing},
    )  # fmt: skip


def _baseline(given: Mapping[str, float] | None) -> dict[str, float]:
    """Return baseline scores by their proper names; what is not finite is refused."""
    found = {}
    for name, value in (given or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise DataError(f"baseline {name} is {value!r}; allowed: a number")
        score = scores.get(name)
        if (score.unit == "share" and value > 1) or (value < 0 and score.name != "r2"):
            allowed = "at most 1" if score.name == "r2" else "0 to 1" if score.unit == "share" else "0 or more"
            raise DataError(f"baseline {name} is {value!r}; allowed: {allowed}")
        found[score.name] = float(value)
    return found


def _mean_loss(how: Score, baseline: Mapping[str, float], notes: list[str]) -> tuple[Loss, float] | None:
    """Return what the baseline says about the mean loss of a row: in which loss, and how much."""
    names = ["accuracy", "log_loss"] if how.task == "classification" else ["rmse", "mae"]
    names = sorted((one for one in names if one in baseline), key=lambda one: scores.get(one).loss is not how.loss)
    if not names:
        return None
    unused = sorted(set(baseline) - set(names[:1]) - ({"r2"} if names[:1] == ["rmse"] else set()))
    if unused:
        notes.append(f"not judged by the baseline's {', '.join(unused)}")
    return scores.get(names[0]).loss, _MEAN_LOSS[names[0]](baseline[names[0]])


def _fallen(name: str, before: float, rows: int, actual: NDArray[Any], predicted: NDArray[Any]) -> tuple[Scan, str]:
    """Return how far a score that is no mean of row losses is from its baseline, and what that distance is called."""
    from evertrain.drift.losses import fell

    higher = scores.get(name).higher_is_better

    def score(left_out: slice | None) -> float:
        kept = np.ones(actual.size, dtype=np.bool_)
        if left_out is not None:
            kept[left_out] = False
        value = scores.compute(name, actual[kept], predicted[kept])
        return 1 - value if higher else value

    return fell(1 - before if higher else before, rows, score, actual.size), f"gap of {name} to 1" if higher else name


def _guessing(unit: Loss, actual: NDArray[Any], found: Scan, baseline: Mapping[str, float]) -> bool:
    """Return whether the model is clearly worse than always giving the same answer, and was not before."""
    if found.problem:
        return False
    if unit is Loss.WRONG:
        guess = 1 - max(scores.class_shares(actual).values(), default=1.0)
    elif unit is Loss.SQUARED and "rmse" in baseline and baseline.get("r2", 1.0) < 1:
        guess = baseline["rmse"] ** 2 / (1 - baseline["r2"])  # the target's variance when the baseline was measured
    else:
        return False
    return found.before <= guess < found.after - 1.645 * math.sqrt(found.variance)


def _of_losses(baseline: Mapping[str, float], how: Score, before: Floats) -> dict[str, float]:
    """Return baseline scores, filled up with what reference losses say."""
    own = {}
    if before.size:
        mean = max(0.0, float(before.mean()))
        known = {
            Loss.WRONG: ("accuracy", 1 - mean),
            Loss.SQUARED: ("rmse", math.sqrt(mean)),
            Loss.ABSOLUTE: ("mae", mean),
        }
        own = dict([known[how.loss]] if how.loss in known else [])
    return {**own, **baseline}


def _scores_now(actual: NDArray[Any], predicted: NDArray[Any], usable: NDArray[np.bool_]) -> dict[str, float]:
    names = ("accuracy", "r2", "rmse", "mae")
    found = {}
    for name in names:
        try:
            found[name] = scores.compute(name, actual[usable], predicted[usable])
        except DataError:  # text has no mean
            continue
    return found


def _score_for(actual: NDArray[Any], predicted: NDArray[Any], baseline: Mapping[str, float]) -> str:
    """Return accuracy or r2: by what the baseline speaks of, else by what the values look like."""
    tasks = {scores.get(name).task for name in baseline}
    if len(tasks) == 1:
        return scores.default_score(tasks.pop())
    kinds = {actual.dtype.kind, predicted.dtype.kind}
    if not kinds <= set("fiu"):
        return "accuracy"
    both = np.concatenate([actual.astype(np.float64), predicted.astype(np.float64)])
    both = both[np.isfinite(both)]
    return "r2" if np.unique(both).size > 10 or np.any(both != np.round(both)) else "accuracy"


def _values(given: ArrayLike, what: str) -> NDArray[Any]:
    """Return a flat array; numbers where they can be, with None and NaN alike as missing."""
    import pandas as pd

    found = np.asarray(given)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise DataError(f"{what} have the shape {found.shape}; allowed: one value per row")
    if found.dtype.kind == "O":
        missing = np.asarray(pd.isna(found))
        found = found.copy()
        found[missing] = None
        if all(isinstance(one, int | float | np.number) and not isinstance(one, bool) for one in found[~missing]):
            found[missing] = math.nan
            return found.astype(np.float64)
    return found


def _labelled(
    predicted: NDArray[Any] | None, actual: NDArray[Any] | None, rows: int, notes: list[str]
) -> NDArray[Any] | None:
    if actual is None or predicted is None:
        if actual is not None:
            raise DataError("there are actuals but no predictions to compare them with")
        return None
    if actual.shape != predicted.shape:
        raise DataError(f"there are {actual.size} actuals for {plural(predicted.size, 'prediction')}")
    if not actual.size:
        return None
    if actual.size != rows:
        notes.append(
            f"{actual.size} predictions with actuals beside {plural(rows, 'recent row')}: taken as some of them"
        )
    return actual


def _moments(times: ArrayLike | None, rows: int) -> NDArray[np.datetime64] | None:
    """Return times as UTC instants."""
    if times is None:
        return None
    import pandas as pd

    try:
        found = pd.DatetimeIndex(pd.to_datetime(np.asarray(times), utc=True)).tz_localize(None).to_numpy()
    except (TypeError, ValueError) as error:
        raise DataError(f"times cannot be read: {error}") from error
    if len(found) != rows:
        raise DataError(f"there are {len(found)} times for {plural(rows, 'recent row')}")
    return np.asarray(found, dtype="datetime64[us]")


def _by_time(moments: NDArray[np.datetime64]) -> NDArray[np.intp]:
    """Return the places of rows in the order of time, those without a time first; none where they are in order."""
    ticks = moments.astype(np.int64)  # of NaT the smallest number
    return np.argsort(ticks, kind="stable") if (ticks[1:] < ticks[:-1]).any() else np.empty(0, dtype=np.intp)


def _in_order(values: Any, order: NDArray[np.intp]) -> Any:
    """Return the values of rows in this order; other than one per row is refused further on."""
    return values if values is None or len(values) != len(order) else np.asarray(values)[order]


def _running_numbers(reference: pd.DataFrame, notes: list[str]) -> list[str]:
    """Return the columns that only count the rows: newer rows have higher ones by nature."""
    found = [
        str(name)
        for name, dtype in reference.dtypes.items()
        if dtype.kind in "iu"
        and len(reference) > 1
        and reference[name].is_unique
        and reference[name].is_monotonic_increasing
    ]
    if found:
        one = len(found) == 1
        notes.append(
            f"{_some(found)} only {'numbers' if one else 'number'} the rows, and {'is' if one else 'are'} left out"
        )
    return found


def _newest(moments: NDArray[np.datetime64] | None, rows: int, config: Drift) -> slice:
    """Return which rows count as recent: those of the newest `window`, and at least `min_rows`."""
    count = min(rows, config.max_rows)
    if moments is not None and rows and not np.isnat(moments).all():
        young = moments > moments[-1] - np.timedelta64(config.window)
        count = min(count, max(config.min_rows, int(young.sum())))
    return slice(rows - count, None)


def _iso(moments: NDArray[np.datetime64] | None, place: int) -> str | None:
    known = None if moments is None else np.sort(moments[~np.isnat(moments)])
    return None if known is None or not known.size else _stamp(known[place])


def _stamp(moment: np.datetime64) -> str | None:
    if np.isnat(moment):
        return None
    found: datetime = moment.astype("datetime64[us]").item()
    return found.replace(tzinfo=UTC).isoformat()


# --- deciding ---------------------------------------------------------------------------------------------------


def decide(
    found: Evidence,
    config: Drift,
    *,
    level: float | None = None,
    new_share: float | None = None,
    state: Mapping[str, Any] | None = None,
    fleet: Mapping[Family, float] | None = None,
) -> Decision:
    """Return the decision on measured evidence, with every signal graded in `Decision.found`.

    Args:
        level: chance of a false alarm that this check may have; None is what the budget leaves for one check.
        new_share: of the recent rows, those that the check before had not seen; None is told by `state`.
        state: `evidence["state"]` of the decision before; with it persistence and overlapping windows are known.
        fleet: where many partitions were checked in one round: `grades.fleet_factors` of this one.
    """
    state = state or {}
    new_share = _new_share(found, state) if new_share is None else new_share
    graded = grades.grade(found, config, level=level, new_share=new_share, fleet=fleet)
    if not grades.highest(graded.signals, Family.PERFORMANCE):
        graded = replace(graded, changed_at=None)  # the likeliest moment of a change that was none
    persists = bool(state.get("moved")) and _is_apart(found, state)
    literal = config.profile == grades.SEED
    severity = seed.severity(graded.signals) if literal else grades.judge(graded, persists=persists)
    kind = seed.drift_type(graded.signals) if literal else grades.drift_type(graded.signals)
    rise = (found.loss_rise, found.loss_variance, found.loss_baseline)
    sure = grades.per_cent(grades.confidence(found.drift_p, *rise, harm=grades.CALIBRATED))
    wanted = Severity(config.severity)
    moved = grades.highest(graded.signals, Family.DATA, Family.PREDICTION) > 0
    evidence: dict[str, Any] = {
        "level": level,
        "new_share": new_share,
        "severity_wanted": wanted.value,
        "confidence_wanted": config.min_confidence,
        "rows": {"reference": found.reference_rows, "recent": found.recent_rows, "labelled": found.labelled_rows},
        "state": {"checks": int(state.get("checks", 0)) + 1, "moved": moved, "until": found.until},
    }
    code, reason, fired = "steady", _what_changed(graded), False
    if found.recent_rows < config.min_rows:
        code, reason = "few_rows", f"Insufficient samples: {found.recent_rows} < {config.min_rows}"
        severity, kind = Severity.NONE, DriftType.NONE
        evidence["needs"] = f"{plural(config.min_rows - found.recent_rows, 'more recent row')}"
    elif block := _blocked(graded, literal):
        code, reason = "fix_data", f"{reason}; fix the data, do not retrain on it: {block}"
        evidence["needs"] = "data like the reference's, or a loss that has risen"
    elif severity is Severity.NONE:
        evidence["needs"] = _needs(graded, wanted, literal)
    elif not severity.reaches(wanted):
        code = "mild"
        reason = f"{reason}; {severity.value}, retraining waits for {wanted.value}"
        evidence["needs"] = _needs(graded, wanted, literal)
    elif sure < config.min_confidence:
        code = "unsure"
        reason = (
            f"{reason}; {sure} % sure that the model has become worse, retraining waits for {config.min_confidence} %"
        )
        evidence["needs"] = f"{config.min_confidence} % confidence"
    else:
        code, fired = "drifted", True
    if code in ("steady", "mild") and not found.labelled_rows and moved:
        rows = grades.rows_to_label()
        code = "unlabelled" if code == "mild" else code
        unknown = "no actual of these rows is known yet, so nobody knows whether it hurts"
        reason = f"{reason}; {unknown}; where none will come, label {rows} of them"
        evidence["label_rows"] = rows
    if literal and code != "few_rows":
        reason = f"{reason}; {seed.WARNING}"
    return Decision(
        Cause.DRIFT, RULE, fired, code, reason, severity, evidence, None,
        confidence=sure, drift_type=kind, found=graded,
    )  # fmt: skip


def should_retrain(
    reference: Profile | pd.DataFrame,
    recent: pd.DataFrame,
    predictions: ArrayLike | None = None,
    actuals: ArrayLike | None = None,
    baseline_metrics: Mapping[str, float] | None = None,
    *,
    ref_losses: ArrayLike | None = None,
    times: ArrayLike | None = None,
    ref_times: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    importances: Mapping[str, float] | None = None,
    score: str | None = None,
    target: str | None = None,
    config: Drift | None = None,
    state: Mapping[str, Any] | None = None,
) -> Decision:
    """Return whether a model should be retrained: `triggered`, `drift_type`, `severity`, `confidence` and `reason`.

    Arguments are those of `measure`. `state` is `evidence["state"]` of the decision before, plain JSON, or {} for the
    first of many: with it the budget is divided among the checks of its period. Without it the call is a check by
    itself. Losses are looked at as far as they are given: pass all labelled rows since the promotion, not only those
    since the last call.

    >>> import pandas as pd
    >>> recent = pd.DataFrame({"x": [1.0, 2.0]})
    >>> should_retrain(recent, recent).reason
    'Insufficient samples: 2 < 100'
    """
    config = config or Drift()
    if len(recent) < config.min_rows:
        _baseline(baseline_metrics)
        return decide(Evidence(reference_rows=_rows(reference), recent_rows=len(recent)), config, state=state)
    level = config.budget if state is None else None  # a check by itself is no one of many in a month
    found = measure(
        reference, recent, predictions, actuals, baseline_metrics, ref_losses=ref_losses, times=times, ref_times=ref_times,
        groups=groups, importances=importances, score=score, target=target, config=config,
    )  # fmt: skip
    return decide(found, config, level=level, state=state)


def _rows(reference: Profile | pd.DataFrame) -> int:
    from evertrain.drift.profile import Profile

    return reference.rows if isinstance(reference, Profile) else len(reference)


def _blocked(found: Evidence, literal: bool) -> str:
    """Return why the data forbid a retraining; empty where they do not."""
    if stop := next((one for one in found.signals if one.stop), None):
        now = stop.detail.get("is", stop.kind)
        return f"{stop.name} is gone" if now == "gone" else f"{stop.name} is {now} and was {stop.detail.get('was')}"
    if literal:
        return ""
    damaged = grades.damage(found.signals)
    worst = grades.highest(damaged, Family.QUALITY)
    if worst >= 2 and not grades.highest(found.signals, Family.PERFORMANCE):
        names = list(dict.fromkeys(one.name for one in damaged if one.grade == worst))
        return _some(names) + (", and no loss has risen beyond chance" if found.labelled_rows else "")
    return ""


def _needs(found: Evidence, wanted: Severity, literal: bool) -> str:
    """Return what would have to change for the check to fire."""
    if literal:
        rules = {
            Severity.LOW: "one rule beyond its limit",
            Severity.MEDIUM: "two rules beyond their limits",
            Severity.HIGH: "a rise of the error beyond its limit, or any rule at twice its limit",
        }
        return f"severity {wanted.value}: {rules.get(wanted, 'a rule at four times its limit')}"
    rise = next((one for one in found.signals if one.family is Family.PERFORMANCE), None)
    if rise is None:
        return f"severity {wanted.value}: labelled rows whose loss has risen"
    if rise.insufficient:
        return f"severity {wanted.value}: {rise.insufficient}"
    times = {Severity.HIGH: 2, Severity.CRITICAL: 4}.get(wanted, 1)
    return f"severity {wanted.value}: a rise of the loss by {_per_cent(times * rise.floor)} beyond chance; now {_per_cent(rise.effect)}"


def _what_changed(found: Evidence) -> str:
    """Return in one sentence what the signals say."""
    parts = [_of_performance(one, found) for one in found.signals if one.family is Family.PERFORMANCE and one.grade]
    by_size = sorted((one for one in found.signals if one.grade), key=lambda one: (-one.grade, -one.ratio))
    if shifted := _names(by_size, Family.DATA):
        share = grades.moved_share(found.signals)
        relied = f" ({_per_cent(share)} of what the model relies on)" if share is not None else ""
        parts.append(f"shifted: {_some(shifted)}{relied}")
    if _names(by_size, Family.PREDICTION):
        parts.append("the predictions shifted")
    quality: dict[str, list[str]] = {}
    for one in by_size:
        if one.family is Family.QUALITY:
            quality.setdefault(_KIND_WORDS.get(one.kind, one.kind), []).append(one.name)
    parts += [f"{words}: {_some(names)}" for words, names in quality.items()]
    rise = next((one for one in found.signals if one.family is Family.PERFORMANCE), None)
    loss = ""
    if rise is not None and rise.insufficient:
        loss = f"; about losses nothing can be said yet: {rise.insufficient}"
    elif rise is not None and "after" in rise.detail:
        on = plural(int(rise.detail["window"]), "labelled row")
        loss = f"; the {loss_in_words(rise.detail['loss'])} was {rise.detail['before']:.3g} and is {rise.detail['after']:.3g} on {on}"
    if parts:
        return "; ".join(parts) + ("" if rise is not None and rise.grade else loss)
    unmade = [one for one in found.signals if one.insufficient and one is not rise]
    made = len(found.signals) - len(unmade) - bool(rise is not None and rise.insufficient)
    few = f"; {plural(len(unmade), 'comparison')} could not be made ({unmade[0].insufficient})" if unmade else ""
    on = plural(found.recent_rows, "recent row")
    if found.signals and not made:
        return f"nothing can be said yet on {on}{few}{loss}"
    return f"nothing changed beyond chance in {plural(made, 'comparison')} on {on}{few}{loss}"


def _of_performance(one: Signal, found: Evidence) -> str:
    if "after" not in one.detail:  # profile "seed"
        words = "fell" if one.kind == "performance_drop" else "rose"
        return f"{one.name} {words} by {100 * one.effect:.1f} % of its baseline (limit {_per_cent(one.floor)})"
    detail = one.detail
    since = f", since {found.changed_at[:10]}" if found.changed_at else ""
    guess = "; worse than always giving the same answer" if detail.get("worse_than_guessing") else ""
    return (
        f"the {loss_in_words(detail['loss'])} rose by {_per_cent(detail['ratio'])} ({detail['before']:.3g} to"
        f" {detail['after']:.3g} on {plural(int(detail['window']), 'labelled row')}{since}){guess}"
    )


def loss_in_words(loss: str) -> str:
    """Return what the mean of a loss is called; a score that is no such mean goes by its name."""
    return _LOSS_WORDS[Loss(loss)] if loss in set(Loss) else loss


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _names(signals: Sequence[Signal], family: Family) -> list[str]:
    return list(dict.fromkeys(one.name for one in signals if one.family is family and one.grade))


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _new_share(found: Evidence, state: Mapping[str, Any]) -> float:
    """Return the share of the recent rows' time that the check before had not seen."""
    seen, since, until = (_instant(one) for one in (state.get("until"), found.since, found.until))
    if seen is None or since is None or until is None or until <= since:
        return 1.0
    return min(1.0, max(0.0, (until - seen) / (until - since)))


def _is_apart(found: Evidence, state: Mapping[str, Any]) -> bool:
    """Return whether these rows are others than those of the check before, as far as times say."""
    seen, since = _instant(state.get("until")), _instant(found.since)
    return seen is None or since is None or since >= seen


def _instant(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError as error:
        raise DataError(f"the state has the time {text!r}; allowed: what the decision before returned") from error


__all__ = ["EXPLANATIONS", "Explanation", "decide", "loss_in_words", "measure", "should_retrain"]
