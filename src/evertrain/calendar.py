"""When a schedule fires: a rule in wall-clock time and a zone become instants in UTC.

A slot is a time on the wall, such as 03:00 on a Sunday. It fires at the first instant at which the clock on that
wall shows it or has passed it. That one rule (RELIABILITY D-12) settles every change of the clock:

- A time that is skipped fires when the gap ends. All slots inside one gap, and a slot at its very end, are one fire,
  so `*/15 * * * *` fires every 15 minutes of real time across a gap. A whole day that a zone leaves out
  (Pacific/Apia, 2011-12-30) is such a gap: its slots fire as the next day begins.
- A time that comes twice fires the first time only, so `*/15 * * * *` rests while an hour repeats. Who needs an
  even beat instead declares `zone="UTC"`, where no hour is skipped or repeated.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import isleap, monthrange
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import count, islice, takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from evertrain.errors import ConfigError
from evertrain.specs import Schedule, parse_window

MANY = 1000
"""Where `missed` stops counting: a minutely schedule misses 576,000 slots in 400 days, and nobody needs the digits."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Every minute, hour, day, month and weekday written out takes 358 characters; what is much longer is no expression.
_LONGEST_CRON = 500
_CRON = "five fields (minute hour day month weekday) that meet at some time, such as '0 */6 * * *'"


def check(schedule: Schedule) -> None:
    """Accept a schedule that can fire, or say what is wrong with it.

    Cron expressions follow Debian's cron, with `L` and `LW` (last day, last weekday of the month), `5L` (last Friday)
    and `1#2` (second Monday); where the field of the day or of the weekday begins with `*`, both must match.

    Raises:
        ConfigError: a time that is not "HH:MM", a day out of range or out of place, an unknown zone, an expression
            that is missing, out of place, not valid or never fires.

    >>> check(Schedule("week", day=7))
    Traceback (most recent call last):
    evertrain.errors.ConfigError: Schedule.day is 7; allowed: 0 (Monday) to 6 (Sunday)
    """
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", schedule.at):
        raise _refusal("Schedule.at", schedule.at, "a time from '00:00' to '23:59'")
    if schedule.every == "week" and schedule.day not in range(7):
        raise _refusal("Schedule.day", schedule.day, "0 (Monday) to 6 (Sunday)")
    if schedule.every == "month" and schedule.day not in range(1, 32):
        raise _refusal("Schedule.day", schedule.day, "1 to 31")
    if schedule.every in ("day", "cron") and schedule.day is not None:
        raise _refusal("Schedule.day", schedule.day, f"no day where every is {schedule.every!r}")
    if schedule.every == "cron":
        _check_cron(schedule.cron)
    elif schedule.cron is not None:
        raise _refusal("Schedule.cron", schedule.cron, f"no expression where every is {schedule.every!r}")
    _zone(schedule, "UTC")


def next_fire(schedule: Schedule, zone: str, after: datetime) -> datetime:
    """Return the first instant strictly after `after` at which the schedule fires, in UTC.

    Args:
        zone: the project's IANA zone, for a schedule without one of its own.
        after: any aware time.

    Raises:
        ConfigError: `check` refuses the schedule, or the project's zone is unknown.

    >>> str(next_fire(Schedule("day", at="02:30"), "America/New_York", datetime(2026, 3, 8, tzinfo=UTC)))
    '2026-03-08 07:00:00+00:00'
    """
    check(schedule)
    found = next(_fires(schedule, _zone(schedule, zone), _utc(after)), None)
    assert found is not None, f"{schedule} fires at some time, but not in the 50 years after {after}"
    return found


def missed(schedule: Schedule, zone: str, since: datetime, now: datetime) -> tuple[datetime | None, int]:
    """Return the latest fire in (since, now], and how many earlier ones it stands for.

    One catch-up run stands for all fires that were missed, however long the gap. The number of earlier ones is
    exact below `MANY`; `MANY` means at least that many. Without a fire, or with a clock that went back: (None, 0).

    Raises:
        ConfigError: as `next_fire`.

    >>> since, now = datetime(2026, 1, 5, 12, tzinfo=UTC), datetime(2026, 1, 8, 12, tzinfo=UTC)
    >>> latest, earlier = missed(Schedule("day", at="03:00"), "UTC", since, now)
    >>> str(latest), earlier
    ('2026-01-08 03:00:00+00:00', 2)
    """
    check(schedule)
    where, since, now = _zone(schedule, zone), _utc(since), _utc(now)
    shown = _shown(now, where)
    # In the second pass of a repeated hour the wall has shown later times already: by as much as `now` is later than
    # the first pass. The minute makes a slot at `now` itself count.
    furthest = shown + (now - _instant(shown, where)) + timedelta(minutes=1)
    backwards = (_instant(slot, where) for slot in _slots(schedule, furthest, -1))
    latest = next((fire for fire in backwards if fire <= now), since)
    if latest <= since:
        return None, 0
    earlier = takewhile(lambda fire: fire < latest, _fires(schedule, where, since))
    return latest, sum(1 for _ in islice(earlier, MANY))


def blackout_until(windows: Sequence[str], zone: str, now: datetime) -> datetime | None:
    """Return when the windows that hold at `now` are over, in UTC; None outside of all of them.

    A window begins and ends as a schedule at those times fires: a time that is skipped counts when the gap ends, one
    that comes twice counts the first time.

    >>> str(blackout_until(["mon-fri 08:00-18:00"], "Europe/Berlin", datetime(2026, 1, 5, 12, tzinfo=UTC)))
    '2026-01-05 17:00:00+00:00'
    """
    where, parsed, reached = check_zone("zone", zone), [parse_window(one) for one in windows], _utc(now)
    while reached - now < timedelta(days=8):  # together, windows of two declarations might leave no minute free
        ends = [end for one in parsed if (end := _end_of(one, where, reached)) is not None]
        if not ends:
            break
        reached = max(ends)
    return reached if reached > now else None


def _end_of(window: tuple[frozenset[int], int, int], zone: ZoneInfo, now: datetime) -> datetime | None:
    days, start, end = window
    today = _shown(now, zone).date()
    for day in (today - timedelta(days=1), today):
        if day.weekday() in days:
            midnight = datetime.combine(day, time())
            begins = _instant(midnight + timedelta(minutes=start), zone)
            ends = _instant(midnight + timedelta(minutes=end if end > start else end + 1440), zone)
            if begins <= now < ends:
                return ends
    return None


def words(schedule: Schedule, zone: str) -> str:
    """Return the rule for people.

    >>> words(Schedule("week", day=2), "Europe/Berlin")
    'every Wednesday at 03:00 (Europe/Berlin)'
    """
    match schedule.every:
        case "day":
            rule = f"every day at {schedule.at}"
        case "week":
            rule = f"every {_WEEKDAYS[schedule.day or 0]} at {schedule.at}"
        case "month":
            rule = f"on day {schedule.day} of every month at {schedule.at}"
        case _:
            rule = f"by cron {' '.join((schedule.cron or '').split())}"
    return f"{rule} ({schedule.zone or zone})"


def _fires(schedule: Schedule, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Every fire after `after`, strictly increasing."""
    reached, before = after, datetime.min  # noqa: DTZ901  (a time on the wall has no zone)
    for slot in _slots(schedule, _shown(after, zone), 1):
        # Slots that stand still would make this loop endless (APScheduler #980).
        assert slot > before, f"{schedule} came to {slot} after {before}"
        before, fire = slot, _instant(slot, zone)
        if fire > reached:
            yield fire
            reached = fire


def _slots(schedule: Schedule, start: datetime, step: Literal[1, -1]) -> Iterator[datetime]:
    """Slots on the wall in the direction of `step`, beginning on the day of `start` at the furthest."""
    if schedule.cron is not None:
        return CronSim(schedule.cron, start, reverse=step < 0)
    days = map(date.fromordinal, count(start.toordinal(), step))
    at = time.fromisoformat(schedule.at)
    return (datetime.combine(day, at) for day in days if _is_due(schedule, day))


def _is_due(schedule: Schedule, day: date) -> bool:
    if schedule.every == "week":
        return day.weekday() == schedule.day
    if schedule.every == "month":
        return day.day == min(schedule.day or 1, monthrange(day.year, day.month)[1])
    return True


def _instant(slot: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the wall in `zone` shows `slot` or has passed it."""
    # fold 0 is read by the clock from before a change and fold 1 by the one after it (PEP 495).
    old, new = (slot.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if old <= new:
        return old

    # The slot lies in a gap, and the change between the two.
    def shown_after(seconds: int) -> datetime:
        return _shown(new + timedelta(seconds=seconds), zone)

    gap = range(int((old - new).total_seconds()))
    return new + timedelta(seconds=bisect_left(gap, slot, key=shown_after))


def _shown(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return moment.astimezone(UTC)


def _zone(schedule: Schedule, zone: str) -> ZoneInfo:
    return check_zone("zone", zone) if schedule.zone is None else check_zone("Schedule.zone", schedule.zone)


def check_zone(name: str, key: str) -> ZoneInfo:
    """Return a time zone.

    Args:
        name: of the setting that names it, for the refusal.

    Raises:
        ConfigError: there is no such zone.
    """
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):  # not found; a path or not text; a folder such as "Europe"
        raise _refusal(name, key, "an IANA time zone such as 'Europe/Berlin' or 'UTC'") from None


def _check_cron(expression: str | None) -> None:
    # ASCII first: cronsim upper-cases, and "ſun" in capitals is SUN. Five fields: cronsim takes seconds as a sixth.
    if not expression or len(expression) > _LONGEST_CRON or not expression.isascii() or len(expression.split()) != 5:
        raise _refusal("Schedule.cron", expression, _CRON)
    try:
        found = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001  (any start does)
    except CronSimError as error:
        raise _refusal("Schedule.cron", expression, f"{_CRON} ({error})") from None
    # cronsim itself looks through 50 years for `0 0 */30 * 1#2`; the 14 kinds of year hold all there is, in 5 ms.
    years = {(date(year, 1, 1).weekday(), isleap(year)): year for year in range(2000, 2028)}
    days = (date.fromordinal(date(year, 1, 1).toordinal() + i) for year in years.values() for i in range(366))
    if not any(day.month in found.months and found.match_day(day) for day in days):
        raise _refusal("Schedule.cron", expression, f"{_CRON} (this one never fires)")


def _refusal(name: str, value: object, allowed: str) -> ConfigError:
    # A hostile value is cut short, because the message goes on into logs and answers.
    return ConfigError(name, f"{value[:60]}…" if isinstance(value, str) and len(value) > 60 else value, allowed)
