"""Jobs: tasks that were handed to an executor, and what the supervisor asks of any executor."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]

# Columns of a copy of observations beside the features.
AT, PREDICTED, ACTUAL = "__at__", "__predicted__", "__actual__"


@dataclass(eq=False)
class Job:
    """A task under way.

    Attributes:
        family: which children may do it; their libraries are in memory already.
        lane: "work" for fits, "read" for what must not wait behind an hour's fit.
        deadline_s: seconds that one item of it may take.
        memory_mb: memory that its process may use; None is no limit.
        purpose: what the supervisor keeps beside the task for itself.
        item: the item in progress; it alone is charged when the process dies.
        since: when that item began, on the monotonic clock.
    """

    task: Message
    family: str
    lane: str = "work"
    deadline_s: float = 3600.0
    memory_mb: int | None = None
    purpose: Any = None
    item: int | None = None
    since: float = 0.0
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lost:
    """The end of a job whose process died: how, in words, and its class (`oom`, `deadline`, `crash`, `cancelled`)."""

    error_class: str
    reason: str


class Allowance:
    """How often something may be told: a hundred times at once, then twice a second.

    So every epoch of one network is told, and a log of every batch of a thousand of them, which nobody would read and
    which would be kept for months, is not written.
    """

    BURST, PER_S = 100.0, 2.0

    def __init__(self) -> None:
        self._left, self._at = self.BURST, time.monotonic()

    def take(self) -> bool:
        """Return whether it may be told now."""
        now = time.monotonic()
        self._left, self._at = min(self.BURST, self._left + self.PER_S * (now - self._at)), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Executor(Protocol):
    """Where work is placed."""

    def free(self, lane: str = "work") -> int:
        """Return how many jobs of a lane could be started now."""

    def start(self, job: Job) -> None:
        """Hand over a job; its messages come from `poll`."""

    def poll(self, timeout_s: float) -> list[tuple[Job, Message | Lost]]:
        """Return what arrived, waiting at most `timeout_s`. The last of a job is `done`, `error` or `Lost`."""

    def cancel(self, job: Job, why: str) -> None:
        """End a job's process; `Lost` follows."""

    def close(self) -> None:
        """End all processes of this executor."""
