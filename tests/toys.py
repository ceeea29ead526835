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


class Repeat:
    """A forecaster: the mean of the last `k` seasons, with an interval of a tenth; `bias` makes it worse by that much.

    The file `orders` in the project folder makes it unruly: "raise", "nan", "short", "crossed".
    """

    libraries = ("numpy",)

    def __init__(self, k: int = 2, bias: float = 0.0) -> None:
        self.k, self.bias = k, bias

    def least(self, season):
        return season

    def fit(self, frame, context):
        assert list(frame.columns) == ["ds", "y"]
        context.progress("fitting", 0.5)
        return {"y": frame["y"].tolist(), "season": context.season, "seed": context.seed}

    def save(self, fitted):
        return json.dumps(fitted).encode()

    def load(self, data):
        return json.loads(data)

    def forecast(self, fitted, h, level):
        orders = Path("orders").read_text() if Path("orders").exists() else ""
        if orders == "raise":
            raise ValueError("the forecaster is unwell")
        y, season = np.array(fitted["y"]), fitted["season"]
        mean = np.array([np.mean(y[-(season - i % season) :: -season][: self.k]) for i in range(h)]) + self.bias
        if orders == "nan":
            mean[0] = np.nan
        if orders == "short":
            mean = mean[:-1]
        wide = -1 if orders == "crossed" else 1
        reach = {one: 0.1 * one / 80 * wide * (1 + np.abs(mean)) for one in level}
        return {"mean": mean} | {
            f"{a}-{one}": mean + s * reach[one] for one in level for a, s in (("lo", -1), ("hi", 1))
        }


class Follow(Repeat):
    """A forecaster that can learn new periods: it counts its full fits and its updates in files."""

    def fit(self, frame, context):
        with Path("fits").open("a") as file:
            file.write(f"fit {len(frame)}\n")
        return super().fit(frame, context)

    def update(self, fitted, frame, context):
        with Path("fits").open("a") as file:
            file.write(f"update {len(frame)}\n")
        return fitted | {"y": fitted["y"] + frame["y"].tolist()}


class Drawn(Repeat):
    """A forecaster that draws: its seed moves what it says by a tenth. It writes the levels it is told of into `levels`."""

    def fit(self, frame, context):
        with Path("levels").open("a") as file:
            file.write(json.dumps(context.level) + "\n")
        return super().fit(frame, context)

    def forecast(self, fitted, h, level):
        moved = 1 + np.random.default_rng(fitted["seed"]).uniform(-0.1, 0.1)
        return {name: values * moved for name, values in super().forecast(fitted, h, level).items()}


class Stamped:
    """A forecaster whose every value tells which fit it is of: a number that no two fits share, plus the step."""

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
