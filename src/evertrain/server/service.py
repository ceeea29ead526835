"""What every route shares: the opened project, how the service was started, its loop, and what it keeps in memory."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio.to_thread

from evertrain.control import observe
from evertrain.control.opened import Opened
from evertrain.control.work import LOOP_ROLE, loop_alive
from evertrain.errors import ConfigError, Conflict
from evertrain.loop import Loop
from evertrain.server.access import Access
from evertrain.server.metrics import Counters, Metrics
from evertrain.server.staging import Staging
from evertrain.server.streams import Streams
from evertrain.serving import Predictor
from evertrain.store import leases, models, tokens

if TYPE_CHECKING:
    from evertrain.observations import Recorder

logger = logging.getLogger("evertrain")

P = ParamSpec("P")
R = TypeVar("R")

_LOOPBACK_NAMES = ("localhost", "ip6-localhost")
_AGAIN_S = 5.0
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - to recognise them


@dataclass(frozen=True)
class Options:
    """How the service was started.

    Attributes:
        loop: whether this process keeps the models fresh as well.
        workers: processes that answer HTTP; the first of them has the loop.
        require_token: ask for a token on loopback, too.
        behind_proxy: addresses of proxies whose `X-Forwarded-*` headers are believed; never by default.
        allowed_hosts: names in the Host header beside the one that is bound.
        cors_origins: origins whose pages may call the API from a browser; none by default.
        upload_bytes, body_bytes: limits of an uploaded file and of any other body.
        max_queue: waiting items above which nothing more is accepted.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    loop: bool = True
    workers: int = 1
    require_token: bool = False
    behind_proxy: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    certfile: str | None = None
    keyfile: str | None = None
    upload_bytes: int = 50 << 20
    body_bytes: int = 1 << 20
    max_queue: int = 10_000

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service.

        >>> Options("127.0.0.1").loopback, Options("localhost").loopback, Options("0.0.0.0").loopback
        (True, True, False)
        """
        if self.host in _LOOPBACK_NAMES:
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    @property
    def needs_token(self) -> bool:
        """Whether every caller must show who they are; a proxy on this machine speaks for the whole world."""
        return self.require_token or not self.loopback or bool(self.behind_proxy)

    @property
    def wildcard(self) -> bool:
        return self.host in _WILDCARDS

    @property
    def scheme(self) -> str:
        return "https" if self.certfile else "http"

    @property
    def address(self) -> str:
        """The address to type into a browser."""
        host = "127.0.0.1" if self.wildcard else f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Service:
    """One running service.

    Attributes:
        stopping: set when the process was asked to end: streams end, nothing new is claimed, reads go on.
    """

    def __init__(self, opened: Opened, options: Options | None = None) -> None:
        self.opened, self.options = opened, options or Options()
        local = None if self.options.needs_token else tokens.Caller(opened.store.actor, tokens.Role.ADMIN)
        self.access = Access(opened.store, local)
        self.counters = Counters()
        self.metrics = Metrics(opened, self.counters)
        self.stopping = threading.Event()
        self.started_at = time.monotonic()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._loop_stop = threading.Event()
        self._lock = threading.Lock()
        self._predictors: dict[tuple[str, bool], Predictor] = {}
        self._recorders: list[Recorder] = []

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Await a function that may block, in a thread."""
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))

    # --- who may ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse to begin where anybody could do anything.

        Raises:
            Conflict: reachable from elsewhere, and no token exists.
            ConfigError: no name is given that clients may use.
        """
        if not self.options.needs_token:
            return
        with self.opened.store.read() as tx:
            if not tokens.any_active(tx):
                where = "--behind-proxy" if self.options.behind_proxy else f"--host {self.options.host}"
                if self.options.loopback and not self.options.behind_proxy:
                    where = "--require-token"
                raise Conflict(
                    f"with {where} everybody must show a token, and there is none;"
                    " `evertrain token create --role admin` makes one"
                )
        if self.options.wildcard and not self.options.allowed_hosts:
            raise ConfigError(
                "--allowed-host",
                None,
                f"the name that clients use to reach this machine, with --host {self.options.host}",
            )

    # --- the loop of this process -----------------------------------------------------------------------------

    @property
    def loop(self) -> Loop | None:
        """The loop of this process; None where it has none, or where it was stopped."""
        return self._loop

    def start_loop(self) -> bool:
        """Begin to keep the models fresh in a thread of this process; return whether that was necessary.

        Where another process does so already this one helps to train, and takes over when the other is gone.

        Raises:
            Conflict: the service, or the loop before, is about to end.
        """
        with self._lock:
            if self.stopping.is_set():
                raise Conflict("the service is about to end; models serve on elsewhere")
            if self._thread is not None and self._thread.is_alive():
                with self.opened.store.read() as tx:
                    held = leases.holder(tx, LOOP_ROLE)
                if self._loop_stop.is_set() or (held and held["stop_requested"]):
                    raise Conflict("the loop is still ending, what runs gets its time; start it again in a moment")
                return False
            self._loop_stop.clear()
            self._loop = Loop(self.opened)
            # Not one of the short-lived threads that answer requests: worker children end with the thread that began
            # them, see `executors.child`.
            self._thread = threading.Thread(target=self._keep_fresh, args=(self._loop,), name="loop", daemon=True)
            self._thread.start()
            return True

    def _keep_fresh(self, loop: Loop) -> None:
        def stop() -> bool:
            return self._loop_stop.is_set() or self.stopping.is_set()

        try:
            while True:
                try:
                    loop.run(stop)
                    break
                except Exception:
                    logger.exception("the loop of this service failed and begins anew; models serve on")
                if self._loop_stop.wait(_AGAIN_S) or stop():
                    break
                self._loop = loop = Loop(self.opened)
        finally:
            self._loop = None

    def stop_loop(self) -> bool:
        """End the loop, wherever it runs; what runs gets time to finish. Return whether there was one."""
        was_alive = loop_alive(self.opened)
        self._loop_stop.set()  # also where it only stands by: it would take over from the one that is asked to stop
        if was_alive:
            with self.opened.store.write() as tx:
                leases.ask_to_stop(tx, LOOP_ROLE)
        return was_alive

    def wait_for_loop(self, timeout_s: float | None = None) -> None:
        """Wait until the loop of this process has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    # --- answering --------------------------------------------------------------------------------------------

    def predictor(self, model: str, *, observe_rows: bool = False) -> Predictor:
        """Return what predicts with a model's champion; the same one each time.

        Raises:
            NotFound: no such model.
        """
        key = (model, observe_rows)
        with self._lock:
            if key not in self._predictors:
                with self.opened.store.read() as tx:
                    models.by_name(tx, model)
                recorder = observe.recorder(self.opened, model) if observe_rows else None
                if recorder is not None:
                    self._recorders.append(recorder)
                self._predictors[key] = Predictor(self.opened.store, self.opened.artifacts, model, recorder=recorder)
            return self._predictors[key]

    @functools.cached_property
    def streams(self) -> Streams:
        """The streams that clients have open."""
        return Streams(self)

    @functools.cached_property
    def staging(self) -> Staging:
        """Where files lie that were sent and are not read yet."""
        return Staging(self.opened.home.scratch)

    def close(self) -> None:
        """End the loop, write what is still to be kept, and close the store."""
        self.stopping.set()
        self.wait_for_loop(self.opened.settings.drain_s + 20)
        for recorder in self._recorders:
            recorder.close()
        self.staging.close()
        self.access.close()
        self.opened.close()
