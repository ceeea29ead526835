"""Trainers for measuring; copied into the project folder of a benchmark."""

from __future__ import annotations

import json
import time

import numpy as np


class Nothing:
    """Fits nothing, in no time: what is left is what Evertrain costs."""

    task = "regression"
    libraries = ()

    def fit(self, frame, context):
        return {"mean": 0.0}

    def save(self, fitted):
        return json.dumps(fitted).encode()

    def load(self, data):
        return json.loads(data)

    def predict(self, fitted, frame):
        return [fitted["mean"]] * len(frame)


class Stamped:
    """A forecaster whose every value tells which fit it is of, so that an answer of two fits is seen."""

    libraries = ()

    def least(self, season):
        return 1

    def fit(self, frame, context):
        return {"stamp": time.time_ns() // 1000}  # a double holds it exactly

    def save(self, fitted):
        return json.dumps(fitted).encode()

    def load(self, data):
        return json.loads(data)

    def forecast(self, fitted, h, level):
        mean = fitted["stamp"] + np.arange(h, dtype=float)
        return {"mean": mean} | {f"{a}-{one}": mean + s * one for one in level for a, s in (("lo", -1), ("hi", 1))}
