"""Losses over time, few enough numbers to store with a check and to draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evertrain.errors import DataError

BLOCKS = 40


def blocks(
    losses: ArrayLike, times: NDArray[np.datetime64] | None = None, at: int | None = None, *, most: int = BLOCKS
) -> tuple[list[list[str | int | float]], int | None]:
    """Return the mean loss block by block, and which block begins at `at`.

    Blocks are of about equal numbers of rows, and none lies across `at`. A block is its first moment (ISO 8601 UTC;
    the place of its first loss without times), its mean loss, and its number of losses.

    Args:
        losses: oldest first; those that are not finite are left out.
        times: UTC instants, one per loss.
        at: place in `losses` from which on they changed; None where they did not.
        most: how many blocks; one more where they change.

    Raises:
        DataError: there are other numbers of times than of losses.

    >>> blocks([1.0, 1.0, 1.0, 5.0, 5.0], at=3, most=3)
    ([[0, 1.0, 2], [2, 1.0, 1], [3, 5.0, 2]], 2)
    """
    values = np.asarray(losses, dtype=np.float64)
    if times is not None and len(times) != values.size:
        raise DataError(f"there are {len(times)} times for {values.size} losses")
    kept = np.flatnonzero(np.isfinite(values) if times is None else np.isfinite(values) & ~np.isnat(times))
    if not kept.size:
        return [], None
    split = kept.size if at is None else int(kept.searchsorted(at))
    each = max(1, -(-kept.size // most))
    starts = [*range(0, split, each), *range(split, kept.size, each)]
    found: list[list[str | int | float]] = []
    for first, last in zip(starts, [*starts[1:], kept.size], strict=True):
        places = kept[first:last]
        when = int(places[0]) if times is None else f"{np.datetime_as_string(times[places[0]], unit='s')}+00:00"
        found.append([when, float(values[places].mean()), len(places)])
    change = starts.index(split) if at is not None and split < kept.size else None
    return found, change
