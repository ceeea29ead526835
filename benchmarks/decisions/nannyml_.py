"""NannyML, as it comes: univariate drift, realised accuracy and accuracy estimated without labels (CBPE).

The reference is cut into ten chunks, its default; recent rows are cut into chunks of the same size, one after another.
A chunk alarms beyond three standard deviations of the ten; the knob is the number of standard deviations.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import nannyml as nml
import numpy as np
import pandas as pd

from benchmarks.decisions.streams import Stream, answer

CHUNKS = 10


def look(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    reference, recent = stream.frame("reference"), stream.frame("recent")
    size = len(reference) // CHUNKS
    recent = recent.iloc[: len(recent) // size * size]
    at = [size * (chunk + 1) for chunk in range(len(recent) // size)]
    if len(reference.columns) > 1:
        drift = nml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=size)
        drift.fit(reference)
        yield "any column", {"at": at, **beyond(drift.calculate(recent))}
    for frame, part in ((reference, "reference"), (recent, "recent")):
        frame["said"] = getattr(stream, f"{part}_answers")[: len(frame)].astype(int)
        frame["true"] = stream.actuals(part)[: len(frame)].astype(int)
        chances = getattr(stream, f"{part}_chances")  # asked for even where accuracy alone is measured
        frame["chance"] = frame["said"].astype(float) if chances is None else chances[: len(frame)]
    named = {
        "y_true": "true", "y_pred": "said", "y_pred_proba": "chance",
        "problem_type": "classification_binary", "metrics": ["accuracy"],
    }  # fmt: skip
    realised = nml.PerformanceCalculator(chunk_size=size, **named)
    realised.fit(reference)
    yield "accuracy", {"at": at, **beyond(realised.calculate(recent))}
    if stream.reference_chances is not None:
        estimated = nml.CBPE(chunk_size=size, **named)
        estimated.fit(reference)
        yield "estimated accuracy", {"at": at, **beyond(estimated.estimate(recent.drop(columns="true")))}


def beyond(result: Any) -> dict[str, Any]:
    """Return, for every chunk, by how many standard deviations its worst value is off, and whether it alarms."""
    usual = result.filter(period="reference").to_df()
    found = result.filter(period="analysis").to_df()
    score = np.full(len(found), -np.inf)
    alarm = np.zeros(len(found), bool)
    for value in [name for name in found.columns if name[-1] == "value"]:
        before = usual[value].to_numpy(float)
        off = found[value].to_numpy(float) - np.mean(before)
        sides = np.abs(off) if value[0] == "accuracy" else off
        score = np.fmax(score, sides / max(float(np.nanstd(before)), 1e-12))
        alarm |= found[(*value[:-1], "alert")].fillna(False).to_numpy(bool)
    return {"score": score.tolist(), "alarm": alarm.tolist()}


def speed(stream: Stream) -> Iterator[tuple[str, Callable[[], object]]]:
    reference, recent = stream.frame("reference"), stream.frame("recent")
    drift = nml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=len(reference) // CHUNKS)
    yield "fit", lambda: drift.fit(reference)
    yield "check", lambda: drift.calculate(recent).to_df()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pd.set_option("future.no_silent_downcasting", True)
    answer(look, speed)
