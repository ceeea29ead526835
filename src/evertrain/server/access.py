"""Who asks: bearer tokens and the sessions of pages, remembered in memory and forgotten when they are taken away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from evertrain.errors import EvertrainError, StoreError
from evertrain.events import Kind
from evertrain.partitions import printable
from evertrain.server.limits import WRONG_TOKENS_A_MINUTE, Limiter
from evertrain.store import tokens
from evertrain.store.connect import Store, Tx
from evertrain.store.tokens import Caller

logger = logging.getLogger("evertrain")

_LOOK_S = 0.5  # between two looks whether a token was taken away
_TRUST_S = 15.0  # for what is remembered, while the store cannot be asked
_REMEMBERED = 10_000
_TOLD_EVERY_S = 60.0
_TOLD = 100  # addresses in one such time; a flood from more is told of in one line
_TOKEN = re.compile(rb"evt_[A-Za-z0-9_-]{43}")
SESSION = b"session "  # before what a cookie holds, so that no session passes for a token
_SESSION = re.compile(rb"session [A-Za-z0-9_-]{43}")

A = TypeVar("A")
Found = tuple[Caller, datetime | None]


class Access:
    """Tells who holds a secret. `close` it in the end.

    A token or session that was taken away, by this or by any other process, is worth nothing half a second later.

    Args:
        local: who calls without any token; None where everybody must show one.
    """

    def __init__(self, store: Store, local: Caller | None = None) -> None:
        self.local = local
        self._store = store
        self._lock = threading.Lock()
        self._epoch = -1
        self._read_at = float("-inf")
        self._known: OrderedDict[bytes, Found] = OrderedDict()
        self._none: OrderedDict[bytes, None] = OrderedDict()  # sessions that are none, apart: guesses push nobody out
        self._active: dict[int, Found] = {}
        self._wrong = Limiter(WRONG_TOKENS_A_MINUTE)
        self._told: dict[str, tuple[float, int]] = {}  # address -> when it was told of, and the tries since
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Of their own, so that a flood of wrong tokens waits for itself and not before the threads that answer; and two,
        # since writing waits while another process writes.
        self._reading, self._writing = ThreadPoolExecutor(1, "access-reads"), ThreadPoolExecutor(1, "access-writes")

    def boottime(self) -> float:
        return self._store.clock.boottime()

    # --- asked on every request: memory only ---------------------------------------------------------------------

    def known(self, secret: bytes) -> Caller | None:
        """Return who holds a secret, if that is remembered and still true."""
        found = self._known.get(hashlib.sha256(secret).digest())
        if found is None or (found[1] is not None and found[1] <= self._store.clock.now()):
            return None
        if self._store.clock.boottime() - self._read_at > _TRUST_S:
            return None
        return found[0]

    def still_good(self, caller: Caller) -> bool:
        """Return whether a caller may go on, for streams that outlive their request; asks memory only."""
        if caller.token_id is None:
            return True
        with self._lock:
            found = self._active.get(caller.token_id)
        if found is None or not found[0].role.covers(caller.role):
            return False
        return found[1] is None or found[1] > self._store.clock.now()

    # --- asked once per secret: reads the store ------------------------------------------------------------------

    def of_token(self, secret: bytes) -> Caller | None:
        """Return who holds a token, None for a wrong one; may block.

        Raises:
            StoreError: the store cannot be asked.
        """
        if not _TOKEN.fullmatch(secret):
            return None  # whatever it is: not one of ours
        return self._find(secret, lambda tx: tokens.caller(tx, secret.decode()))

    def of_session(self, secret: bytes) -> Caller | None:
        """Return who began a session, None where it is none; `secret` has SESSION before it. May block.

        Raises:
            StoreError: the store cannot be asked.
        """
        if not _SESSION.fullmatch(secret):
            return None
        digest = hashlib.sha256(secret).digest()
        if digest in self._none:
            return None  # a page left open asks with the cookie of an ended session again and again
        own = secret.removeprefix(SESSION).decode()
        return self._find(secret, lambda tx: tokens.session(tx, own), remember_wrong=True)

    def _find(self, secret: bytes, ask: Callable[[Tx], Found | None], *, remember_wrong: bool = False) -> Caller | None:
        self._begin_looking()
        with self._store.read() as tx:
            found, epoch = ask(tx), tokens.epoch(tx)
        with self._lock:
            # Read before something was taken away, and arriving here after: that must not be remembered.
            if epoch == self._epoch:
                digest = hashlib.sha256(secret).digest()
                if found:
                    self._known[digest] = found
                elif remember_wrong:
                    self._none[digest] = None
                for kept in (self._known, self._none):
                    while len(kept) > _REMEMBERED:
                        kept.popitem(last=False)
        return found[0] if found else None

    def log_in(self, secret: bytes, peer: str) -> str | None:
        """Return the secret of a new session for who holds a token, None for a wrong one; may block."""
        who = self.of_token(secret)
        if who is None:
            return None
        with self._store.write(actor=who.name) as tx:
            return tokens.begin_session(tx, who, peer)

    def log_out(self, secret: str) -> None:
        """End a session; may block."""
        with self._store.write() as tx:
            tokens.end_session(tx, secret)
        self.look()

    async def ask(self, function: Callable[[A], Caller | None], secret: A) -> Caller | None:
        """Await `of_token` or `of_session`, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, function, secret)

    # --- wrong tokens ----------------------------------------------------------------------------------------------

    def refused(self, peer: str) -> int:
        """Count a wrong token from an address; return 0, or the seconds to wait where there were too many."""
        now, name = self._store.clock.boottime(), _network(peer)
        wait = self._wrong.wait(name, now)
        with self._lock:
            if name not in self._told and len(self._told) >= _TOLD:
                name = "other addresses"
            first = name not in self._told
            told_at, untold = self._told.get(name, (now, -1))
            self._told[name] = (told_at, untold + 1)
        if first:
            self.later(self._tell, name, 1)
        return wait

    def _tell(self, peer: str, count: int) -> None:
        with self._store.write() as tx:
            tx.event(Kind.SESSION_REFUSED, peer=printable(peer), count=count)

    def _tell_rest(self, *, at_once: bool = False) -> None:
        """Tell of the tries that followed those told of, of each address once a minute."""
        now = self._store.clock.boottime()
        with self._lock:
            over = {name: untold for name, (at, untold) in self._told.items() if at_once or now - at >= _TOLD_EVERY_S}
            for name, untold in over.items():
                if untold:
                    self._told[name] = (now, 0)
                else:
                    del self._told[name]
        for name, untold in over.items():
            if untold:
                self._tell(name, untold)

    def keep(self, caller: Caller, method: str, path: str, status: int, peer: str) -> None:
        """Write to the log of events that a request was made which may have changed something; may block."""
        with self._store.write(actor=caller.name) as tx:
            tx.event(Kind.REQUEST_MADE, method=method, path=printable(path)[:200], status=status, peer=printable(peer))

    # --- keeping up --------------------------------------------------------------------------------------------------

    def later(self, function: Callable[..., None], *given: object) -> None:
        """Do something in a thread, after the answer; what fails there is in the log."""

        def do() -> None:
            try:
                function(*given)
            except EvertrainError as error:
                logger.warning("the log of events lacks an entry of the access control: %s", error)
            except Exception:
                logger.exception("the log of events lacks an entry of the access control")

        with contextlib.suppress(RuntimeError):  # the service has just ended
            self._writing.submit(do)

    def look(self) -> None:
        """Forget everything if a token or a session was taken away, or a token was made, since the last look."""
        with self._store.read() as tx:
            epoch = tokens.epoch(tx)
            active = None if epoch == self._epoch else [one for one in tokens.every(tx) if one.revoked_at is None]
        with self._lock:
            self._read_at = self._store.clock.boottime()
            if active is not None and epoch > self._epoch:
                self._epoch = epoch
                self._known.clear()
                self._none.clear()
                self._active = {one.id: (Caller(one.name, one.role, one.id), one.expires_at) for one in active}

    def _begin_looking(self) -> None:
        if self._thread is not None:
            return
        self.look()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_looking, name="access-looks", daemon=True)
                self._thread.start()

    def _keep_looking(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.look()
                self._tell_rest()
            except StoreError as error:
                logger.warning("the access control cannot read the store: %s", error)

    def close(self) -> None:
        """Write what is still to be written, and stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(EvertrainError):
            self._tell_rest(at_once=True)
        self._reading.shutdown()
        self._writing.shutdown()


def _network(peer: str) -> str:
    """Return what counts as one address: of IPv6 the /64, which one customer has whole.

    >>> _network("192.0.2.7"), _network("2001:db8:1:2:3::9")
    ('192.0.2.7', '2001:db8:1:2::/64')
    """
    with contextlib.suppress(ValueError):
        if ":" in peer and (found := ipaddress.IPv6Address(peer.partition("%")[0])).ipv4_mapped is None:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return peer
