"""HTTP in this process, byte for byte: what a client library would tidy up reaches the application as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter

from evertrain.clock import Clock
from evertrain.control.opened import Opened, open_project
from evertrain.server import app
from evertrain.server.access import Access
from evertrain.server.guard import Guard
from evertrain.server.service import Options, Service
from evertrain.store.connect import Store

Headers = Sequence[tuple[str, str]]
ELSEWHERE = Options("192.0.2.1", allowed_hosts=("models.example",))


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    events: list[str] = field(default_factory=list)  # what the application asked for, in order

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        found = [value.decode() for own, value in self.headers if own == name.encode()]
        assert len(found) < 2, f"two headers {name}: {found}"
        return found[0] if found else None


class Wire:
    """Asks an application as a client with one address does."""

    def __init__(
        self, application: Any, runner: asyncio.Runner, *, peer: str = "127.0.0.1", scheme: str = "http"
    ) -> None:
        self.application, self.peer, self.scheme = application, peer, scheme
        self.host = "127.0.0.1:8000"
        self.headers: Headers = ()
        self._runner = runner

    def __call__(
        self, method: str, target: str, headers: Headers = (), body: Iterable[bytes] | Any = (), *, host: bool = True
    ) -> Answer:
        """Ask; a body that is no list of pieces is sent as JSON, or as it is where it is bytes, with its length.

        None in the place of a piece is the client that leaves.
        """
        sent = [("host", self.host)] if host else []
        sent += [*self.headers, *headers]
        pieces = body
        if not isinstance(body, list | tuple | Iterator):
            if not isinstance(body, bytes):
                body, sent = json.dumps(body).encode(), [*sent, ("content-type", "application/json")]
            pieces, sent = [body], [*sent, ("content-length", str(len(body)))]
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
            "scheme": self.scheme, "path": unquote(path), "raw_path": path.encode("latin-1"), "root_path": "",
            "query_string": query.encode("latin-1"), "server": ("127.0.0.1", 8000), "client": (self.peer, 40000),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent], "state": {},
        }  # fmt: skip
        return self._runner.run(self._ask(scope, iter(pieces)))

    async def _ask(self, scope: dict[str, Any], pieces: Iterator[bytes]) -> Answer:
        answer = Answer()
        following: list[bytes | None] = [next(pieces, None)]
        done = asyncio.Event()
        gone: list[bool] = []

        async def receive() -> dict[str, Any]:
            answer.events.append("receive")
            if gone or (following[0] is None and len(answer.events) > 1):
                if not gone:
                    await done.wait()
                return {"type": "http.disconnect"}
            piece = following[0] or b""
            try:
                following[0] = next(pieces)
                if following[0] is None:  # in the place of a piece: here the client leaves
                    gone.append(True)
                    return {"type": "http.request", "body": piece, "more_body": True}
            except StopIteration:
                following[0] = None
            return {"type": "http.request", "body": piece, "more_body": following[0] is not None}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert not answer.status, "an answer has one start"
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")
                if not message.get("more_body", False):
                    done.set()

        await self.application(scope, receive, send)
        assert answer.status or gone, "an answer was sent"
        return answer


@contextmanager
def service(root: Path, options: Options | None = None, *, clock: Clock | None = None) -> Iterator[Service]:
    """Yield a service over a store of its own, without a loop."""
    opened: Opened = open_project(root, store="sqlite:///evertrain.db", clock=clock, actor="ana")
    found = Service(opened, options)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def wired(
    served: Service, runner: asyncio.Runner, routers: Sequence[APIRouter] = (), **options: Any
) -> Iterator[tuple[Guard, Wire]]:
    """Yield the real application of a service and a client on this machine."""
    served.access = Access(served.opened.store, served.access.local)  # one that has seen nobody yet
    guard = app.create(served, routers)
    try:
        yield guard, Wire(guard, runner, **options)
    finally:
        served.access.close()


def kept(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table but the log of events: what must be the same where nothing may have changed."""
    with store.read() as tx:
        names = [one.name for one in tx.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {
            name: [tuple(row) for row in tx.rows(f'SELECT * FROM "{name}" ORDER BY 1')]
            for name in names
            if name not in ("events", "sqlite_sequence")
        }
