"""Running the service: one address, one or more processes that answer, one loop; and ending it in good order.

A signal ends it in this order: readiness answers 503 and streams end at once, nothing new is claimed, trainings get
their time while forecasts are answered on, then the address is given up. Ending the other way round would leave
readers without answers for as long as the longest training takes.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from evertrain.errors import Conflict
from evertrain.server import app
from evertrain.server.protocol import Protocol
from evertrain.server.service import Options, Service

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from fastapi import APIRouter

_GRACE_S = 5  # for answers that are on their way when the loop has ended
_UNREAD_MS = 20_000  # after which a connection is cut whose client takes nothing of what was sent
_LAST_S = 25  # after the time that trainings get: whatever hangs then is left behind
_FILES = 65_536
_SAME_S = 1.0  # a terminal or systemd tells every process of a group, and the first one tells the others once more


def bind(options: Options) -> socket.socket:
    """Return a socket that listens where the options say.

    Raises:
        Conflict: the address is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(
            socket, "TCP_USER_TIMEOUT"
        ):  # each connection has it, too: closing one that is not read takes for ever
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        listening.bind((options.host, options.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise Conflict(
            f"{options.host}:{options.port} cannot be used: {error.strerror or error}; --port names another port"
        ) from error
    listening.set_inheritable(True)
    return listening


def serve(
    service: Service,
    listening: socket.socket,
    routers: Sequence[APIRouter] = (),
    assets: Sequence[Traversable] = (),
    *,
    on_ready: Callable[[], None] = lambda: None,
    worker: Sequence[str] = (),
) -> None:
    """Answer on a listening socket until a signal ends it.

    Args:
        routers, assets: beside the service's own.
        on_ready: called once requests are answered.
        worker: command of one more process that answers; it is started `options.workers - 1` times, with the socket's
            number and the options as JSON appended.
    """
    _raise_files()
    options = service.options
    guard = app.create(service, routers, assets)
    server = _Server(service, guard, on_ready)
    others = _Others([*worker, str(listening.fileno()), json.dumps(asdict(options))], listening.fileno())
    if worker:
        others.keep(options.workers - 1, service.stopping)
    if options.loop:
        service.start_loop()
    try:
        server.run(sockets=[listening])
    finally:
        service.stopping.set()
        others.end()
        service.close()


class _Server(uvicorn.Server):
    """Uvicorn, which here ends only when the loop has ended."""

    def __init__(self, service: Service, application: object, on_ready: Callable[[], None]) -> None:
        options = service.options
        super().__init__(
            uvicorn.Config(
                application,  # type: ignore[arg-type]
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(options.behind_proxy),
                forwarded_allow_ips=list(options.behind_proxy),
                ssl_certfile=options.certfile,
                ssl_keyfile=options.keyfile,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=30,
            )
        )
        self._service, self._on_ready, self._asked = service, on_ready, time.monotonic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the name is uvicorn's
        if self._service.stopping.is_set():
            if time.monotonic() - self._asked >= _SAME_S:
                os._exit(128 + sig)  # asked twice: at once
            return
        self._asked = time.monotonic()
        self._service.stopping.set()
        threading.Thread(target=self._end, name="ending", daemon=True).start()

    def _end(self) -> None:
        drain_s = self._service.opened.settings.drain_s
        last = threading.Timer(drain_s + _LAST_S, os._exit, (70,))
        last.daemon = True
        last.start()
        self._service.wait_for_loop()
        self.should_exit = True


class _Others:
    """Further processes that answer on the same socket; one that dies is replaced."""

    def __init__(self, command: Sequence[str], descriptor: int) -> None:
        self._command, self._descriptor = list(command), descriptor
        self._alive: list[subprocess.Popen[bytes]] = []
        self._keeper: threading.Thread | None = None

    def keep(self, number: int, stopping: threading.Event) -> None:
        # A thread that lives as long as this process: the others end with the thread that began them.
        self._keeper = threading.Thread(target=self._keep, args=(number, stopping), name="workers", daemon=True)
        self._keeper.start()

    def _keep(self, number: int, stopping: threading.Event) -> None:
        while True:
            self._alive = [one for one in self._alive if one.poll() is None]
            while len(self._alive) < number and not stopping.is_set():
                self._alive.append(
                    subprocess.Popen(self._command, stdin=subprocess.DEVNULL, pass_fds=[self._descriptor])  # noqa: S603
                )
            if stopping.wait(1.0):
                break
        for one in self._alive:
            one.terminate()
        for one in self._alive:
            one.wait()

    def end(self) -> None:
        """Wait for the others, which were asked to end with this process."""
        if self._keeper is not None:
            self._keeper.join(_LAST_S)


def _raise_files() -> None:
    """Allow as many open connections as the system lets us: 1,024, a common default, are less than readers may come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
