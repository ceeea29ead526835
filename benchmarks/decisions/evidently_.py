"""Evidently, as it comes: the preset for drift of data, and the test of accuracy against the reference.

A report takes 0.06 s a column, most of it for pictures. The same verdicts come from the functions that a report calls
(`get_stattest` chooses them by size and kind), so streams are looked at with these; one stream of every kind of world
is also looked at with the report itself, and both must agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from evidently import BinaryClassification, DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import Accuracy
from evidently.presets import DataDriftPreset

from benchmarks.decisions.streams import Stream, answer

TOLERANCE = 0.2  # of the accuracy in the reference: Evidently's own default
SHARE = 0.5  # of drifted columns, at which the preset speaks of dataset drift


def column(name: str, reference: pd.Series, recent: pd.Series, numeric: bool) -> tuple[float, bool]:
    """Return how much one column speaks for drift, and whether Evidently says that it drifts."""
    kind = ColumnType.Numerical if numeric else ColumnType.Categorical
    reference, recent = reference.dropna(), recent.dropna()
    test = get_stattest(reference, recent, kind, None)
    found = test(reference, recent, kind, None)
    return score(found.drift_score, test.default_threshold), bool(found.drifted)


def score(value: float, threshold: float) -> float:
    """One scale for p-values, which drift below .05, and distances, which drift above .1: 1 is the default bound."""
    return threshold / max(value, 1e-300) if threshold == 0.05 else value / threshold


def look(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    reference, recent = stream.frame("reference"), stream.frame("recent")
    numeric = {name: name != "answer" and int(name[1:]) not in stream.categories for name in reference.columns}
    usual = 1 - stream.reference_errors.mean()
    best, share, alarms, accuracy = [], [], [], []
    for start, stop in stream.looks:
        accuracy.append(abs(1 - stream.recent_errors[start:stop].mean() - usual) / usual)
        if len(numeric) == 1:
            continue
        window = recent.iloc[start:stop]
        each = {name: column(name, reference[name], window[name], numeric[name]) for name in reference.columns}
        best.append(max(one for one, _ in each.values()))
        alarms.append(any(drifted for _, drifted in each.values()))
        share.append(sum(drifted for _, drifted in each.values()) / len(each))
        if stream.number == 0 and start == 0 and stream.world["verify"]:
            yield "agreement", {"same": agrees(stream, reference, window, numeric, each, accuracy[-1])}
    at = [stop for _, stop in stream.looks]
    if len(numeric) > 1:
        yield "any column", {"at": at, "score": best, "alarm": alarms}
        yield "dataset drift", {"at": at, "score": share, "alarm": [one >= SHARE for one in share]}
    yield "accuracy", {"at": at, "score": accuracy, "alarm": [one > TOLERANCE for one in accuracy]}


def agrees(
    stream: Stream,
    reference: pd.DataFrame,
    window: pd.DataFrame,
    numeric: dict[str, bool],
    each: dict[str, tuple[float, bool]],
    accuracy: float,
) -> bool:
    """Return whether the report itself says the same of every column, and of accuracy."""
    report = Report([DataDriftPreset()]).run(*datasets(window, reference, numeric))
    same = True
    for metric in report.dict()["metrics"]:
        if "ValueDrift" in metric["metric_name"]:
            mine = each[metric["config"]["column"]][0]
            same &= bool(np.isclose(score(float(metric["value"]), metric["config"]["threshold"]), mine, rtol=1e-6))
    labels = {
        part: pd.DataFrame(
            {"said": getattr(stream, f"{part}_answers").astype(int), "true": stream.actuals(part).astype(int)}
        )
        for part in ("reference", "recent")
    }
    definition = DataDefinition(
        classification=[BinaryClassification(target="true", prediction_labels="said")],
        categorical_columns=["true", "said"],
    )
    start, stop = stream.looks[0]
    made = (
        Dataset.from_pandas(one, data_definition=definition)
        for one in (labels["recent"].iloc[start:stop], labels["reference"])
    )
    found = Report([Accuracy()], include_tests=True).run(*made).dict()
    return same and (found["tests"][0]["status"].lower().endswith("success") == (accuracy <= TOLERANCE))


def datasets(window: pd.DataFrame, reference: pd.DataFrame, numeric: dict[str, bool]) -> tuple[Dataset, Dataset]:
    definition = DataDefinition(
        numerical_columns=[name for name, is_number in numeric.items() if is_number],
        categorical_columns=[name for name, is_number in numeric.items() if not is_number],
    )
    return (
        Dataset.from_pandas(window, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )


def speed(stream: Stream) -> Iterator[tuple[str, Callable[[], object]]]:
    reference, recent = stream.frame("reference"), stream.frame("recent")
    numeric = {name: name != "answer" and int(name[1:]) not in stream.categories for name in reference.columns}
    yield "check", lambda: Report([DataDriftPreset()]).run(*datasets(recent, reference, numeric)).dict()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answer(look, speed)
