"""Readers of a service: many connections in one process of their own, every answer checked.

Run as `python -m benchmarks.load '{"address": "127.0.0.1:8000", …}'`; the fields are those of `Asked`, and what is
printed is one JSON object, `Told`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Asked:
    """What the readers do.

    Attributes:
        paths: each request asks for one of them, at random.
        pause_s: mean time between an answer and the next request of the same reader.
        skip_s: requests that begin so early are made and checked, and not counted in the times.
        check: look at every answer: one fit in all its rows, its ETag the hash of its bytes, its version that of the
            header; and tell which versions each reader saw in which order.
        streams: connections beside them that listen to events.
        halves: connections beside them that send half a request and no more.
    """

    address: str
    paths: list[str]
    readers: int = 50
    seconds: float = 5.0
    pause_s: float = 0.0
    skip_s: float = 0.5
    check: bool = False
    token: str | None = None
    streams: int = 0
    stream_path: str = "/api/v1/events/live"
    halves: int = 0


@dataclass
class Told:
    """What became of it: `seen` is, by path, each reader's changes of version: [reader, asked at, answered at, version, age]."""

    requests: int = 0
    a_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    stream_bytes: int = 0
    streams_open: int = 0
    seen: dict[str, list[list[Any]]] = field(default_factory=dict)


class _Readers:
    def __init__(self, asked: Asked) -> None:
        self.asked, self.took, self.errors = asked, [], Counter()
        self.began = time.perf_counter()
        self.stale = self.answers = 0
        self.right: set[tuple[str, bytes]] = set()
        self.versions: dict[tuple[str, bytes], str] = {}
        self.seen: dict[str, list[list[Any]]] = {path: [] for path in asked.paths}
        auth = f"Authorization: Bearer {asked.token}\r\n" if asked.token else ""
        self.requests = {
            path: f"GET {path} HTTP/1.1\r\nHost: {asked.address}\r\n{auth}\r\n".encode() for path in asked.paths
        }

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.began >= self.asked.seconds


class _Reader(asyncio.Protocol):
    """One connection: a request, its answer, and the next."""

    def __init__(self, all_of_them: _Readers, done: asyncio.Future[None], seed: int) -> None:
        self.all, self.done, self.draw = all_of_them, done, random.Random(seed)
        self.buffer = b""
        self.last: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.ask()

    def ask(self) -> None:
        if self.transport.is_closing():
            return
        if self.all.over:
            self.transport.close()
            return
        self.path = self.draw.choice(self.all.asked.paths)
        self.at, self.sent = time.time(), time.perf_counter()
        self.transport.write(self.all.requests[self.path])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end]
        place = head.lower().find(b"content-length: ")
        size = int(head[place + 16 : (head + b"\r\n").find(b"\r\n", place)]) if place >= 0 else 0
        if len(self.buffer) < end + 4 + size:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + size], self.buffer[end + 4 + size :]
        now = time.perf_counter()
        if self.sent - self.all.began >= self.all.asked.skip_s:
            self.all.took.append(now - self.sent)
        self.all.answers += 1
        if not head.startswith(b"HTTP/1.1 200"):
            self.all.errors[head[:60].split(b"\r\n")[0].decode() + " " + body[:200].decode(errors="replace")] += 1
        elif self.all.asked.check:
            self.look(head, body)
        pause_s = self.all.asked.pause_s
        if pause_s:
            asyncio.get_running_loop().call_later(self.draw.uniform(0, 2 * pause_s), self.ask)
        else:
            self.ask()

    def look(self, head: bytes, body: bytes) -> None:
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        self.all.stale += b"x-stale" in fields
        etag = fields[b"etag"]
        # By what was hashed here, not by what the header says: looked at once, the same bytes are right again.
        own = f'"{hashlib.sha256(body).hexdigest()}"'.encode()
        if own != etag:
            self.all.errors["the ETag is not the hash of the body"] += 1
        version = self.all.versions.get((self.path, own))
        if version is None:
            found = json.loads(body)
            mean, version = found["mean"], found["version"]
            steps = mean == [mean[0] + place for place in range(len(mean))]
            bounds = all(
                found[f"{side}-{one}"] == [value + sign * one for value in mean]
                for one in (80, 95) for side, sign in (("lo", -1), ("hi", 1))
            )  # fmt: skip
            if not (steps and bounds and len(mean) == len(found["ds"]) > 0):
                self.all.errors["an answer of two fits"] += 1
            version = self.all.versions[self.path, own] = f"{version} {mean[0]:.0f}"
        if version.split()[0].encode() != fields[b"x-model-version"]:
            self.all.errors["the header names another version than the body"] += 1
        if self.last.get(self.path) != version:
            self.last[self.path] = version
            age_s = int(fields.get(b"age", b"0"))
            self.all.seen[self.path].append([id(self), self.at, time.time(), version, age_s])

    def connection_lost(self, error: Exception | None) -> None:
        if not self.all.over:
            self.all.errors[f"the connection ended: {error}"] += 1
        if not self.done.done():
            self.done.set_result(None)


class _Stream(asyncio.Protocol):
    """One listener to a stream of events, which reads what comes."""

    def __init__(self, asked: Asked, told: Told) -> None:
        self.asked, self.told = asked, told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        auth = f"Authorization: Bearer {self.asked.token}\r\n" if self.asked.token else ""
        request = f"GET {self.asked.stream_path} HTTP/1.1\r\nHost: {self.asked.address}\r\n{auth}\r\n"
        transport.write(request.encode())  # type: ignore[attr-defined]
        self.told.streams_open += 1

    def data_received(self, data: bytes) -> None:
        if not self.told.stream_bytes and not data.startswith(b"HTTP/1.1 200"):
            self.told.errors[f"stream: {data[:60]!r}"] = 1
        self.told.stream_bytes += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.told.streams_open -= 1


class _Half(asyncio.Protocol):
    """One connection that never comes to a whole request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"GET /api/v1/mod")  # type: ignore[attr-defined]


async def read(asked: Asked) -> Told:
    """Ask for so long, and tell what came of it."""
    loop, told = asyncio.get_running_loop(), Told()
    host, _, port = asked.address.rpartition(":")
    for _ in range(asked.streams):
        await loop.create_connection(lambda: _Stream(asked, told), host, int(port))
    for _ in range(asked.halves):
        await loop.create_connection(_Half, host, int(port))
    readers = _Readers(asked)
    ends = []
    for number in range(asked.readers):
        done = loop.create_future()
        ends.append(done)
        await loop.create_connection(lambda done=done, number=number: _Reader(readers, done, number), host, int(port))  # type: ignore[misc]
    left = asked.seconds - (time.perf_counter() - readers.began)
    await asyncio.wait(ends, timeout=left + 2 * asked.pause_s + _TIMEOUT_S)
    if missing := sum(not one.done() for one in ends):
        readers.errors[f"no answer within {_TIMEOUT_S:g} s"] += missing
    took = sorted(readers.took) or [0.0]
    told.requests, told.a_second = readers.answers, len(readers.took) / (asked.seconds - asked.skip_s)
    told.p50_ms, told.p99_ms, told.longest_ms = (1e3 * took[int(len(took) * q)] for q in (0.5, 0.99, 0.99999))
    told.errors |= readers.errors
    told.stale, told.seen = readers.stale, readers.seen
    return told


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 10_000)), hard))
    asked = Asked(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(uvloop.run(read(asked)))))


if __name__ == "__main__":
    main()
