"""Trainers for measuring; copied into the project folder of a benchmark."""

from __future__ import annotations

import json


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
