"""river's detectors on the errors, as they come, and at other values of one knob each.

A detector takes the reference errors first, then the recent ones, one at a time; it is not reset, and an alarm among the
reference errors does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM, EDDM, HDDMA, HDDMW

from benchmarks.decisions.streams import Stream, answer

# Each knob from deaf to nervous; the second value is the default.
KNOBS: dict[str, tuple[Callable[[float], Any], float, tuple[float, ...]]] = {
    "ADWIN": (lambda knob: ADWIN(delta=knob), 0.002, (1e-5, 1e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)),
    "Page-Hinkley": (lambda knob: PageHinkley(threshold=knob), 50, (100, 65, 50, 40, 32, 25, 20, 16)),
    "DDM": (lambda knob: DDM(drift_threshold=knob), 3, (6, 5, 4.5, 4, 3.5, 3, 2.5)),
    "EDDM": (lambda knob: EDDM(beta=knob), 0.9, (0.5, 0.6, 0.7, 0.8, 0.9)),
    "HDDM_A": (lambda knob: HDDMA(drift_confidence=knob, warning_confidence=max(0.005, 2 * knob)), 0.001,
               (1e-6, 1e-5, 1e-4, 0.001, 0.01)),
    "HDDM_W": (lambda knob: HDDMW(drift_confidence=knob, warning_confidence=max(0.005, 2 * knob)), 0.001,
               (1e-8, 1e-6, 1e-4, 0.001)),
}  # fmt: skip


def look(stream: Stream) -> Iterator[tuple[str, dict[str, Any]]]:
    before = stream.reference_errors.astype(int).tolist()
    after = stream.recent_errors.astype(int).tolist()
    for name, (make, usual, knobs) in KNOBS.items():
        for knob in knobs:
            detector = make(knob)
            for error in before:
                detector.update(error)
            at = []
            for row, error in enumerate(after, 1):
                detector.update(error)
                if detector.drift_detected:
                    at.append(row)
            yield name, {"knob": knob, "usual": knob == usual, "at": at}


if __name__ == "__main__":
    answer(look)
