"""The HTTP protocol of a connection: Uvicorn's, with an end to what is never finished.

Uvicorn waits for the end of a request's headers for ever, and keeps whatever was sent of them; and it waits as long for
a client to read. Here a connection that has nothing to answer must come to a whole head of a request within seconds and
16 KiB, and who takes nothing of an answer is cut off; and there is a bound to how many connections are open.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from evertrain.server.limits import HEAD_BYTES
from evertrain.server.problems import raw

HEAD_S = 10.0
READ_S = 30.0  # in which a client must have taken what waits for it, down to a few KB
CONNECTIONS = 8_000
_OWN_FILES = 200  # for the store, artifacts, logs, and the pipes of children

# Uvicorn writes a line for each request that is no HTTP: with those, anybody could fill the log.
_logger = logging.getLogger("evertrain.http")
_logger.setLevel(logging.ERROR)


class Protocol(HttpToolsProtocol):
    """One connection; give the class to Uvicorn as `http=`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _logger
        self._in_head, self._head = False, 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.write(raw(503, "too many connections are open; those that are answered first make room"))
            transport.close()
            return
        self._timer = self.loop.call_later(HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        # What a piece holds of other things is not counted: its size is bounded anyway.
        self._head = self._head + len(data) if self._in_head else 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if not self._in_head and not idle:
            return  # a request is being answered, and its body has limits of its own
        if self._head > HEAD_BYTES:
            self._refuse(431, f"the head of this request is larger than {HEAD_BYTES >> 10} KiB")
        elif self._timer is None and (self._in_head or self.timeout_keep_alive_task is None):
            self._timer = self.loop.call_later(HEAD_S, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        if not self.url.startswith(b"/"):
            # Uvicorn would drop scheme and host of such an address and answer it under the name in the Host header.
            raise ValueError("an address with a host in it, or none")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the words are our own
        self._refuse(400, "this is not the HTTP that is spoken here")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_unread()
        super().resume_writing()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(408, f"no whole request came within {HEAD_S:g} s")

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_started:
            cycle.disconnected = True  # what the application makes of half a request goes nowhere
            cycle.message_event.set()
        if not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started):
            self.transport.write(raw(status, detail))  # else it would land inside another answer
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade was asked for, as RFC 9110, 7.8 allows."""


def most_connections() -> int:
    """Return how many connections may be open: what the limit of open files leaves room for, at most 8,000."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = CONNECTIONS if soft == resource.RLIM_INFINITY else soft - _OWN_FILES
    return max(50, min(CONNECTIONS, room))
