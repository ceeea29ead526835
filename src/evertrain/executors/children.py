"""Local worker children: one process per job, kept over many jobs, replaced when it dies, ages or grows."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from json import loads
from pathlib import Path

from evertrain.executors.child import send
from evertrain.executors.jobs import Job, Lost, Message

_GRACE_S = 10.0
_LOOK_S = 0.25
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
               "POLARS_MAX_THREADS", "VECLIB_MAXIMUM_THREADS")  # fmt: skip
_HEAD = struct.Struct(">I")


@dataclass(eq=False)
class _Child:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    family: str
    lane: str
    job: Job | None = None
    items: int = 0
    idle_since: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)
    ending: str | None = None  # why we are ending it
    kill_at: float | None = None


class Children:
    """An executor of local processes.

    Children are spawned, never forked: a fork copies the locks of threads. Each leads its own process group, so that
    whatever a trainer starts ends with it. Start and poll from one thread that lives as long as this object: on
    Linux a child ends with the thread that spawned it.

    Args:
        root: the project's folder; children run there and can import its modules.
        log: file for what trainers print.
        most: how many children at once, beside one for reading.
        most_items: a child is replaced after that many items.
        most_mb: a child that holds more memory after an item is replaced.
        idle_s: a child without work for that long is ended; its libraries are most of what the loop costs at rest.
    """

    def __init__(
        self, root: Path, log: Path, most: int, *, most_items: int = 5000, most_mb: float = 1500.0, idle_s: float = 60.0
    ) -> None:
        self.root, self.log = root, log
        self.most_items, self.most_mb, self.idle_s = most_items, most_mb, idle_s
        self.lanes = {"work": most, "read": 1}
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._looked = 0.0

    def free(self, lane: str = "work") -> int:
        return self.lanes[lane] - sum(child.job is not None for child in self._children if child.lane == lane)

    def start(self, job: Job) -> None:
        child = self._child_for(job.family, job.lane)
        child.job = job
        job.since = time.monotonic()
        try:
            child.channel.settimeout(30)
            send(child.channel, job.task)
        except OSError:
            pass  # it died while idle; `poll` finds its end and answers Lost
        finally:
            child.channel.setblocking(False)

    def _child_for(self, family: str, lane: str) -> _Child:
        own = [child for child in self._children if child.lane == lane]
        idle = [child for child in own if child.job is None and child.ending is None]
        for child in idle:
            if child.family == family and child.process.poll() is None:
                return child
        if len(own) >= self.lanes[lane] and idle:
            self._end(idle[0])  # make room: its libraries are not those needed now
        return self._spawn(family, lane)

    def _spawn(self, family: str, lane: str) -> _Child:
        ours, theirs = socket.socketpair()
        environment: Mapping[str, str] = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONUNBUFFERED": "1"}
        environment = {name: value for name, value in environment.items() if name != "EVERTRAIN_FAULT"} | (
            {"EVERTRAIN_FAULT": fault} if (fault := os.environ.get("EVERTRAIN_CHILD_FAULT")) else {}
        )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "evertrain.executors.child", str(theirs.fileno()), str(os.getpid())],
                cwd=self.root,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        ours.setblocking(False)
        child = _Child(process, ours, family, lane)
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def poll(self, timeout_s: float) -> list[tuple[Job, Message | Lost]]:
        found: list[tuple[Job, Message | Lost]] = []
        for key, _ in self._selector.select(timeout_s):
            found += self._read(key.data)
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            for child in list(self._children):
                self._watch(child)
        return found

    def _read(self, child: _Child) -> list[tuple[Job, Message | Lost]]:
        found: list[tuple[Job, Message | Lost]] = []
        try:
            data = child.channel.recv(1 << 20)
        except BlockingIOError:
            return found
        except OSError:
            data = b""
        if not data:
            return self._gone(child)
        child.buffer += data
        while len(child.buffer) >= _HEAD.size:
            (size,) = _HEAD.unpack_from(child.buffer)
            if len(child.buffer) < _HEAD.size + size:
                break
            message: Message = loads(bytes(child.buffer[_HEAD.size : _HEAD.size + size]))
            del child.buffer[: _HEAD.size + size]
            if child.job is None:
                continue
            found.append((child.job, message))
            self._note(child, message)
        return found

    def _note(self, child: _Child, message: Message) -> None:
        assert child.job is not None
        if message["type"] == "begin":
            child.job.item, child.job.since = message["item"], time.monotonic()
            child.items += 1
        elif message["type"] in ("done", "error"):
            child.job, child.idle_since = None, time.monotonic()
            if child.items >= self.most_items or (_memory_mb(child.process.pid) or 0) > self.most_mb:
                self._end(child)

    def _watch(self, child: _Child) -> None:
        """Hold a child to its deadline and memory, and make sure that one asked to end does end."""
        now, job = time.monotonic(), child.job
        if child.kill_at is not None:
            if now >= child.kill_at:
                _signal(child, signal.SIGKILL)
        elif job is not None:
            if now - job.since > job.deadline_s:
                self._stop(child, "deadline")
            elif job.memory_mb is not None and (used := _memory_mb(child.process.pid)) and used > job.memory_mb:
                child.ending = f"oom:{used:.0f}"
                _signal(child, signal.SIGKILL)
        elif now - child.idle_since > self.idle_s:
            self._end(child)

    def _stop(self, child: _Child, why: str) -> None:
        child.ending, child.kill_at = why, time.monotonic() + _GRACE_S
        _signal(child, signal.SIGTERM)

    def cancel(self, job: Job, why: str) -> None:
        for child in self._children:
            if child.job is job and child.ending is None:
                self._stop(child, why)

    def _gone(self, child: _Child) -> list[tuple[Job, Message | Lost]]:
        self._forget(child)
        child.channel.close()
        _signal(child, signal.SIGKILL)  # what it started must not outlive it
        code = child.process.wait()
        return [] if child.job is None else [(child.job, _lost(child, code))]

    def _end(self, child: _Child) -> None:
        self._forget(child)
        child.channel.close()
        _signal(child, signal.SIGKILL)
        child.process.wait()

    def _forget(self, child: _Child) -> None:
        self._children.remove(child)
        self._selector.unregister(child.channel)

    def pids(self) -> list[int]:
        """Return the process ids of the children."""
        return [child.process.pid for child in self._children]

    def close(self) -> None:
        for child in list(self._children):
            self._end(child)
        self._selector.close()


def _lost(child: _Child, code: int) -> Lost:
    job = child.job
    assert job is not None
    if child.ending == "deadline":
        return Lost("deadline", f"took longer than its deadline of {job.deadline_s:g} s")
    if child.ending and child.ending.startswith("oom:"):
        return Lost("oom", f"used {child.ending.removeprefix('oom:')} MB, its limit is {job.memory_mb} MB")
    if child.ending:
        return Lost("cancelled", child.ending)
    if code == 137:
        return Lost("oom", "ran out of memory")
    if code < 0:
        hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
        return Lost("crash", f"its process was ended by {signal.Signals(-code).name}{hint}")
    return Lost("crash", f"its process ended with code {code} and no result")


def _signal(child: _Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it may be gone already
        os.killpg(child.process.pid, number)


def _memory_mb(pid: int) -> float | None:
    """Return the memory of a process and all below it, in MB; None where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(_memory_mb(int(one)) or 0 for one in below)
