"""Work in this very process: for trainers that live in a notebook, and for machines too small for a second one."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any

from evertrain.executors.child import work
from evertrain.executors.jobs import Job, Lost, Message


class InProcess:
    """An executor without processes. A job runs when `poll` is called; deadlines and memory limits do not hold here,
    and a crash takes the whole process along.
    """

    def __init__(self, inline: Mapping[str, Any] | None = None) -> None:
        self.inline = dict(inline or {})
        self._waiting: deque[Job] = deque()

    def free(self, lane: str = "work") -> int:
        return 1 - sum(job.lane == lane for job in self._waiting)

    def start(self, job: Job) -> None:
        self._waiting.append(job)

    def poll(self, timeout_s: float) -> list[tuple[Job, Message | Lost]]:  # noqa: ARG002 - nothing to wait for
        found: list[tuple[Job, Message | Lost]] = []
        while self._waiting:
            job = self._waiting.popleft()
            try:
                work(job.task, lambda message, job=job: found.append((job, message)), self.inline)
                found.append((job, {"type": "done"}))
            except Exception as error:  # noqa: BLE001 - the one fence around the user's trainer
                found.append(
                    (
                        job,
                        {
                            "type": "error",
                            "reason": f"{type(error).__name__}: {error}",
                            "error": traceback.format_exc()[-8000:],
                            "data": False,
                        },
                    )
                )
        return found

    def cancel(self, job: Job, why: str) -> None:  # noqa: ARG002 - it has not begun, so nobody asks
        if job in self._waiting:
            self._waiting.remove(job)

    def close(self) -> None:
        self._waiting.clear()
