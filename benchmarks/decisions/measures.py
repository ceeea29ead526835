"""Shares with their intervals, knobs, precision at a recall, calibration of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z = 1.959963984540054  # both sides, 95 %


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's interval of 95 % (Wilson 1927)."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        return self.hits / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """
        >>> [round(one, 4) for one in Share(3, 100).interval]
        [0.0103, 0.0845]
        """
        if not self.of:
            return 0.0, 1.0
        middle = (self.value + Z * Z / (2 * self.of)) / (1 + Z * Z / self.of)
        half = Z / (1 + Z * Z / self.of) * sqrt(self.value * (1 - self.value) / self.of + Z * Z / (4 * self.of**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})" if self.of else "-"


def knob(null: Sequence[float], budget: float = 0.05) -> float:
    """Return the lowest bound that at most `budget` of the null scores exceed.

    >>> knob([float(i) for i in range(100)])
    94.0
    """
    ordered = sorted(null, reverse=True)
    return ordered[int(budget * len(ordered))]


def at_recall(score: np.ndarray, truth: np.ndarray, recall: float = 0.8) -> float:
    """Return the best precision among the bounds on the score that find at least `recall` of what is true.

    >>> at_recall(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]))
    0.6666666666666666
    """
    best = 0.0
    for bound in np.unique(score):
        found = score >= bound
        if truth[found].sum() >= recall * truth.sum():
            best = max(best, float(truth[found].mean()))
    return best


def matthews(alarm: np.ndarray, truth: np.ndarray) -> float:
    """Return Matthews' correlation of alarms with the truth; 0 where one of them never varies."""
    return float(np.corrcoef(alarm, truth)[0, 1]) if alarm.std() and truth.std() else 0.0


def clustered(values: dict[str, tuple[np.ndarray, np.ndarray]], seed: int, times: int = 1_000) -> tuple[float, float]:
    """Return the 95 % interval of the precision at recall .8 when whole kinds of change are drawn anew.

    `values` has score and truth of each kind.
    """
    rng = np.random.default_rng(seed)
    kinds = list(values)
    found = []
    for _ in range(times):
        drawn = [values[kinds[one]] for one in rng.integers(0, len(kinds), len(kinds))]
        score, truth = (np.concatenate(part) for part in zip(*drawn, strict=True))
        if truth.any():
            found.append(at_recall(score, truth))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def brier(chance: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((chance - truth) ** 2))


def reliability(chance: np.ndarray, truth: np.ndarray, bins: int = 10) -> list[tuple[int, float, float]]:
    """Return, for each tenth of the scale that has any, how many, the mean chance and the share that was true."""
    which = np.minimum((chance * bins).astype(int), bins - 1)
    groups = [which == one for one in range(bins)]
    return [
        (int(group.sum()), float(chance[group].mean()), float(truth[group].mean())) for group in groups if group.any()
    ]


def calibration_error(chance: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of ten equally wide bins (Naeini et al. 2015)."""
    return sum(number * abs(said - was) for number, said, was in reliability(chance, truth)) / len(chance)
