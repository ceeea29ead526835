"""Toy trainers: small, fast, and as unruly as a test asks for. Copied into the project folder of a test."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np


class Line:
    """Fits y = a + b x on the first feature by least squares; `noise` makes it worse by that much."""

    task = "regression"
    libraries = ("numpy",)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def fit(self, frame, context):
        x = frame[context.features[0]].to_numpy(dtype=float)
        y = frame[context.target].to_numpy(dtype=float)
        b, a = np.polyfit(x, y, 1) if len(x) > 1 else (0.0, float(y.mean()))
        return {"a": float(a) + self.noise, "b": float(b), "feature": context.features[0]}

    def save(self, fitted):
        return json.dumps(fitted, sort_keys=True).encode()

    def load(self, data):
        return json.loads(data)

    def predict(self, fitted, frame):
        return fitted["a"] + fitted["b"] * frame[fitted["feature"]].to_numpy(dtype=float)


class Nothing(Line):
    """Costs nothing: for measuring what Evertrain itself costs."""

    def fit(self, frame, context):
        return {"a": 0.0, "b": 0.0, "feature": context.features[0]}


class Unruly(Line):
    """Does what the file `orders` in the project folder says before it fits: one line, a word and arguments.

    Every fit appends its partition to the file `fitted`.
    """

    def fit(self, frame, context):
        with Path("fitted").open("a") as file:
            file.write(json.dumps(getattr(context, "partition", {})) + "\n")
        orders = Path("orders").read_text().split() if Path("orders").exists() else []
        word, rest = (orders[0], orders[1:]) if orders else ("", [])
        if word == "raise":
            raise ValueError("the trainer is unwell")
        if word == "retryable":
            raise OSError("the network is unwell")
        if word == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "exit":
            os._exit(int(rest[0]))
        if word == "sleep":
            time.sleep(float(rest[0]))
        if word == "wait":  # until a file appears
            Path("waiting").touch()
            while not Path(rest[0]).exists():
                time.sleep(0.01)
        if word == "memory":
            block = bytearray(int(rest[0]) << 20)
            block[::4096] = b"x" * len(block[::4096])
            time.sleep(30)
        if word == "nan":
            return {"a": float("nan"), "b": 0.0, "feature": context.features[0]}
        if word == "child":  # starts a process of its own and waits
            import subprocess
            import sys

            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path("grandchild").write_text(str(started.pid))
            Path("waiting").touch()
            time.sleep(60)
        return super().fit(frame, context)


def told(model_name, status, duration, **more):
    """A notification callback that writes down what it was told."""
    with Path("told").open("a") as file:
        file.write(json.dumps([model_name, status, duration, more]) + "\n")


def frame():
    """A source as a function."""
    import polars as pl

    return pl.read_csv("function.csv")
