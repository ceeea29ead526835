"""How much and how fast: sizes of requests, the pace of their bodies, and how often somebody may do something."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from starlette.types import Message, Receive

HEAD_BYTES = 16 << 10  # request line and headers together
URL_BYTES = 8 << 10
HEADERS = 100
QUERY_PARAMETERS = 200
STALL_S = 10.0  # without a byte of a body that was announced
GRACE_S = 30.0  # for a body of any pace; later it must have come at this pace on average:
PACE = 8 << 10  # bytes a second
WRITES_A_MINUTE = 60
WRONG_TOKENS_A_MINUTE = 10
_REMEMBERED = 10_000


class Limiter:
    """Lets each name do something `a_minute` times at once, and then as often as a minute brings back.

    >>> limiter = Limiter(2)
    >>> limiter.wait("ana", 0.0), limiter.wait("ana", 0.0), limiter.wait("ana", 0.0), limiter.wait("ana", 30.0)
    (0, 0, 30, 0)
    """

    def __init__(self, a_minute: int) -> None:
        self._most = float(a_minute)
        self._levels: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def wait(self, name: object, now: float) -> int:
        """Count one and return 0; or count nothing and return the seconds until one is free."""
        left = self.left(name, now)
        if left < 1:
            return math.ceil((1 - left) * 60 / self._most)
        self._levels[name] = (left - 1, now)
        self._levels.move_to_end(name)
        while len(self._levels) > _REMEMBERED:  # who has been quiet for longest has the most left
            self._levels.popitem(last=False)
        return 0

    def left(self, name: object, now: float) -> float:
        """Return how many are free now."""
        level, then = self._levels.get(name, (self._most, now))
        return min(self._most, level + max(0.0, now - then) * self._most / 60)


class Cut(Exception):
    """A body was too large or too slow; carries the status to answer and the words for it."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


class Body:
    """Receives a body within limits of size and pace.

    Attributes:
        more: whether more of it is to come.
        cut: why it was cut off, if it was.

    Raises:
        Cut: by `receive`, from the first byte or second that is too many.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._size, self.more, self._began = 0, True, asyncio.get_running_loop().time()
        self.cut: Cut | None = None

    async def receive(self) -> Message:
        if self.cut:
            raise self.cut
        if not self.more:
            return await self._receive()  # now it only waits for the client to go
        left = self._began + GRACE_S + self._size / PACE - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(STALL_S, left)))
        except TimeoutError:
            slow = f"in {STALL_S:g} s" if left > STALL_S else f"fast enough: {PACE >> 10} KiB a second are asked for"
            self.cut = Cut(408, f"the body of this request did not come {slow}; nothing was kept")
            raise self.cut from None
        self.more = message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            self.cut = too_large(self._limit)
            raise self.cut
        return message


def too_large(limit: int) -> Cut:
    """Return the answer to a body above the limit."""
    return Cut(413, f"the body of this request is larger than the {limit / (1 << 20):g} MiB that are taken here")
