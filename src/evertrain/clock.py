"""The time: the only module that reads the system's clocks.

Two clocks, because they answer different questions. `now()` is the wall clock in UTC: what people see, what
schedules follow, free to jump. `boottime()` counts seconds since this machine started and never jumps; leases are
measured on it together with `boot_id`, so that a changed wall clock can neither stretch nor end one, and a reboot
ends all.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TEXT_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class Clock(Protocol):
    """What the rest of the package asks for the time."""

    @property
    def boot_id(self) -> str: ...

    def now(self) -> datetime: ...

    def boottime(self) -> float: ...


class SystemClock:
    """The clocks of this machine."""

    @property
    def boot_id(self) -> str:
        return _boot_id()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boottime(self) -> float:
        # CLOCK_BOOTTIME goes on counting while the machine sleeps; macOS has no such clock and gets the next best.
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass
class ManualClock:
    """A clock that a test or a replay moves by hand.

    >>> clock = ManualClock()
    >>> before = clock.now()
    >>> clock.advance(hours=1)
    >>> clock.now() - before
    datetime.timedelta(seconds=3600)
    """

    wall: datetime = datetime(2026, 1, 5, 12, tzinfo=UTC)
    since_boot: float = 1000.0
    boot_id: str = field(default="boot-1")

    def now(self) -> datetime:
        return self.wall

    def boottime(self) -> float:
        return self.since_boot

    def advance(self, **duration: float) -> None:
        """Move both clocks forward, e.g. `advance(seconds=5)`."""
        step = timedelta(**duration)
        self.wall += step
        self.since_boot += step.total_seconds()

    def jump(self, **duration: float) -> None:
        """Move the wall clock alone, as a wrong NTP answer would."""
        self.wall += timedelta(**duration)


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Without a kernel boot id the moment of booting, to the minute, tells boots apart well enough for leases.
        started = time.time() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        return str(uuid.uuid5(uuid.NAMESPACE_OID, str(round(started / 60))))


def local_zone() -> str:
    """Return the IANA name of this machine's time zone, "UTC" where it has none.

    `TZ` wins over the system's setting, as everywhere.
    """
    named = os.environ.get("TZ", "").removeprefix(":")
    link = Path("/etc/localtime")
    candidates = [named, str(link.resolve()).partition("zoneinfo/")[2] if link.is_symlink() else ""]
    with contextlib.suppress(OSError):
        candidates.append(Path("/etc/timezone").read_text().strip())
    for name in candidates:
        with contextlib.suppress(ZoneInfoNotFoundError, ValueError, OSError):
            if name:
                return ZoneInfo(name).key
    return "UTC"


def to_text(moment: datetime) -> str:
    """Return an instant as fixed-width UTC text, which sorts as the instants do.

    >>> to_text(datetime(2026, 3, 1, 9, 30, tzinfo=UTC))
    '2026-03-01T09:30:00.000000Z'
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return moment.astimezone(UTC).strftime(TEXT_FORMAT)


def from_text(text: str) -> datetime:
    """Return the instant that `to_text` wrote."""
    return datetime.strptime(text, TEXT_FORMAT).replace(tzinfo=UTC)
