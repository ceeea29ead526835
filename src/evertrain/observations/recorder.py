"""A predictor's own observations, written behind its back."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from evertrain.errors import DataError
from evertrain.partitions import KeyText

if TYPE_CHECKING:
    import pandas as pd
from evertrain.observations.log import Observations

logger = logging.getLogger("evertrain")


@dataclass(frozen=True, eq=False)
class Answered:
    """Rows that a predictor answered: one value, key, version and id for each row of `frame`.

    Of its columns those in `features` are kept, or all where that is None.
    """

    frame: pd.DataFrame
    features: tuple[str, ...] | None
    values: NDArray[Any]
    keys: list[KeyText]
    versions: list[str]
    ids: tuple[str, ...]
    at: datetime

    @property
    def layout(self) -> tuple[object, ...]:
        """What frames have in common that can be put below each other."""
        return (self.features, *self.frame.columns, *self.frame.dtypes)


class Recorder:
    """Writes what a predictor answers, on a thread of its own: it never delays, and never fails, an answer.

    Rows wait at most `seconds`; what cannot be written (the disk is full, the file stays locked) or does not fit into
    `most` waiting rows is dropped and counted in `unlogged`. `close`, or a regular end of the process, writes the rest.

    Args:
        rows: that are written at once.
        thinned: called with the new share when fewer rows are kept from now on.
    """

    def __init__(
        self,
        log: Observations,
        model: str,
        *,
        rows: int = 1_000,
        seconds: float = 1.0,
        most: int = 100_000,
        thinned: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.log, self.model, self.unlogged = log, model, 0
        self._rows, self._seconds, self._most, self._thinned = rows, seconds, most, thinned
        self._pid = os.getpid()
        self._waiting: list[Answered] = []
        self._count = 0
        self._lock, self._writing, self._full = threading.Lock(), threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, answered: Answered) -> None:
        """Take answered rows; returns at once."""
        count = len(answered.ids)
        with self._lock:
            if self._closed or self._count + count > self._most or os.getpid() != self._pid:
                self.unlogged += count
                return
            self._waiting.append(answered)
            self._count += count
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"observe {self.model}", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        if self._count >= self._rows:
            self._full.set()

    def flush(self) -> None:
        """Write what waits, and return when that is done."""
        with self._writing:
            with self._lock:
                taken, self._waiting, self._count = self._waiting, [], 0
            alike: dict[object, list[Answered]] = {}
            for one in taken:
                alike.setdefault(one.layout, []).append(one)
            for group in alike.values():
                try:
                    self._write(group)
                except DataError:  # a row that cannot be kept takes only those of its own call with it
                    for one in group:
                        self._write_or_drop([one])
                except Exception as error:  # noqa: BLE001 - the one who asked for a prediction has his answer
                    self._drop(group, error)

    def _write_or_drop(self, group: Sequence[Answered]) -> None:
        try:
            self._write(group)
        except Exception as error:  # noqa: BLE001 - as above
            self._drop(group, error)

    def _drop(self, group: Sequence[Answered], error: Exception) -> None:
        count = sum(len(one.ids) for one in group)
        self.unlogged += count
        logger.warning("%s: %d predictions were not logged: %s", self.model, count, error)

    def _write(self, group: Sequence[Answered]) -> None:
        import pandas as pd

        frame = pd.concat([one.frame for one in group], ignore_index=True)
        if (features := group[0].features) is not None:
            frame = frame[[name for name in features if name in frame.columns]]
        noted = self.log.observe(
            self.model,
            frame,
            predicted=[value for one in group for value in one.values],
            keys=[key for one in group for key in one.keys],
            ids=[name for one in group for name in one.ids],
            times=[one.at for one in group for _ in one.ids],
            versions=[version for one in group for version in one.versions],
        )
        if noted.thinned:
            self._thinned(noted.share)

    def close(self) -> None:
        """Write what waits, and end."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
        self._full.set()
        if self._thread is not None:
            atexit.unregister(self.close)
            if self._thread is not threading.current_thread():
                self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closed:
            self._full.wait(self._seconds)
            self._full.clear()
            self.flush()
