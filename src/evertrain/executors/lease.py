"""Keeping a lease: a thread that beats while the supervising process is alive and well."""

from __future__ import annotations

import threading
import time

from evertrain.errors import EvertrainError, StaleAttempt
from evertrain.store import leases
from evertrain.store.connect import Store


class LeaseKeeper:
    """Beats one owner's lease every `beat_s` until closed.

    The supervising process beats, never the training one: code that holds the interpreter for a minute must not lose
    the lease. `lost` turns true when the lease has run out, or when the store could not be reached for so long that
    it may have: the owner must then end its work at once and discard it.
    """

    def __init__(self, store: Store, *, lease_s: float, beat_s: float) -> None:
        self.store, self.lease_s, self.beat_s = store, lease_s, beat_s
        self.owner = leases.new_owner()
        self.lost = False
        self._stop = threading.Event()
        with store.write() as tx:
            leases.register(tx, self.owner, lease_s)
        self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.beat_s):
            self.beat()

    def beat(self) -> None:
        """Beat once; a failing store is tried again until the lease may have run out."""
        try:
            with self.store.write() as tx:
                leases.beat(tx, self.owner, self.lease_s)
            self._beaten = time.monotonic()
        except StaleAttempt:
            self.lost = True
        except EvertrainError:
            self.lost = self.lost or time.monotonic() - self._beaten > self.lease_s - 2 * self.beat_s

    def stop(self) -> None:
        """Stop beating; the lease holds on until its time is over."""
        self._stop.set()
        self._thread.join(timeout=self.beat_s)

    def end(self) -> None:
        """End the lease in good order, if it still holds; its owner holds no item any more."""
        if not self.lost:
            with self.store.write() as tx:
                leases.end(tx, self.owner)

    def close(self) -> None:
        """Stop beating and end the lease."""
        self.stop()
        self.end()
