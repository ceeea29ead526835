"""What a worker sends back: results and their bytes in packs, with what each item cost."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evertrain.executors.jobs import Message

Emit = Callable[[Message], None]

SMALL = 256 * 1024  # larger models get a file of their own
_PACK_BYTES = 8 << 20


class Packer:
    """Collects results and their bytes, and sends them off in packs: at least every second, and at every large model."""

    def __init__(self, scratch: Path, emit: Emit, every_s: float = 1.0) -> None:
        self.scratch, self.emit, self.every_s = scratch, emit, every_s
        self.number = 0
        self._begin()

    def _begin(self) -> None:
        self.number += 1
        self.since = time.monotonic()
        self.data = bytearray()
        self.loss_rows: list[Any] = []
        self.loss_count = 0
        self.results: list[Message] = []

    def put(self, data: bytes) -> Message:
        """Add bytes and return their place in the pack."""
        start = len(self.data)
        self.data += data
        return {"start": start, "size": len(data), "digest": hashlib.sha256(data).hexdigest()}

    def losses(self, losses: Mapping[str, Any]) -> dict[str, list[int]]:
        """Add per-row losses and return their places in the pack's file of losses."""
        places = {}
        for name, values in losses.items():
            places[name] = [self.loss_count, len(values)]
            self.loss_rows.append(np.asarray(values, dtype="<f8"))
            self.loss_count += len(values)
        return places

    def add(self, result: Message) -> None:
        self.results.append(result)
        if (
            len(self.data) >= _PACK_BYTES
            or result.get("size", 0) >= SMALL
            or time.monotonic() - self.since >= self.every_s
        ):
            self.flush()

    def flush(self) -> None:
        """Send what is there as one pack."""
        if not self.results:
            return
        name = f"pack-{os.getpid()}-{self.number}-{time.monotonic_ns()}"
        path, losses = self.scratch / name, self.scratch / f"{name}.losses"
        message: Message = {"type": "pack", "results": self.results, "path": None, "losses": None}
        if self.data:
            _write(path, self.data)
            message["path"] = str(path)
        if self.loss_rows:
            _write(losses, np.concatenate(self.loss_rows).tobytes())
            message["losses"] = str(losses)
        self.emit(message)
        self._begin()


def _write(path: Path, data: bytes | bytearray) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


class Meter:
    """Wall and CPU seconds of a piece of work, and the peak of this process's memory meanwhile."""

    def __init__(self) -> None:
        _reset_peak()
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def read(self) -> Message:
        return {
            "seconds": round(time.perf_counter() - self.wall, 6),
            "cpu_s": round(_cpu() - self.cpu, 6),
            "peak_mb": _peak_mb(),
        }


def _cpu() -> float:
    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        found += usage.ru_utime + usage.ru_stime
    return found


def _reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - the fastest way, once per item
            file.write("5")
    except OSError:
        return  # then the peak is that of the process so far


def _peak_mb() -> float | None:
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123 - the fastest way, once per item
            for line in file:
                if line.startswith("VmHWM"):
                    return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
