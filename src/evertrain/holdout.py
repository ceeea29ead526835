"""Hold-out: which rows a fit may not see, so that challenger and champion are judged on the same ones.

By time where the source declares a time, else by a stable number of the row's identity (its key, or its content).
Stable means that a row stays on its side in every later run: no version ever trains on it, and an identical twin of
the champion differs from it by exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out; rows inside the gap are on neither side.

    Attributes:
        until: the newest time among the training rows, in the unit given; None without time.
    """

    train: Mask
    held: Mask
    until: float | None = None


def by_identity(numbers: NDArray[np.uint64], share: float) -> Split:
    """Split by a uniform number of each row's identity.

    >>> split = by_identity(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64), 0.2)
    >>> split.held.tolist()
    [True, False, False]
    """
    held = numbers < np.uint64(int(share * 2**64))
    return Split(~held, held)


def by_time(times: NDArray[np.float64], share: float, gap: float = 0.0) -> Split:
    """Hold out the newest rows: about `share` of them, and only such as are newer than the training rows by `gap`.

    Rows of one instant stay together. A row without time (NaN) is trained on, since nothing says it is new.

    >>> split = by_time(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 0.4)
    >>> split.train.tolist(), split.until
    ([True, True, True, False, False], 3.0)
    """
    known = np.sort(times[~np.isnan(times)])
    if known.size == 0:
        nothing = np.zeros(times.shape, dtype=bool)
        return Split(~nothing, nothing)
    last = known[max(0, min(known.size - 1, int(np.ceil(known.size * (1 - share))) - 1))]
    held = times > last + gap
    return Split(~(times > last), held, float(last))


def newer(times: NDArray[np.float64] | None, numbers: NDArray[np.uint64], until: float | None, seen: Any) -> Mask:
    """Return the rows that a fit cannot have seen: later than `until`, or not among the row numbers `seen`.

    Without either there is no saying, and no row is called new.
    """
    if until is not None and times is not None:
        return times > until
    if seen is not None:
        return ~np.isin(numbers, np.asarray(seen, dtype=np.uint64))
    return np.zeros(numbers.shape, dtype=bool)
