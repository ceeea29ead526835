"""When schedules fire: P-21 (changes of the clock), P-22 (missed fires), D-12, B-15, B-16, S1-06, S1-07."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from time import perf_counter
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertrain.calendar import MANY, check, missed, next_fire, words
from evertrain.errors import ConfigError
from evertrain.specs import Schedule, cron, daily, monthly, weekly

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # moves by 30 minutes
    "Africa/Casablanca",  # moves around Ramadan
    "Africa/Cairo",  # skips midnight
    "Asia/Beirut",  # skips midnight
    "America/Santiago",  # skips midnight
    "Pacific/Apia",  # skipped a whole day in 2011
    "Asia/Kolkata",
    "UTC",
]
SKIP_MIDNIGHT = ["Africa/Cairo", "Asia/Beirut", "America/Santiago"]
RISKY_TIMES = ["00:00", "00:30", "01:30", "02:00", "02:15", "02:30", "03:00", "23:00", "23:45"]
VECTORS = Path(__file__).resolve().parents[2] / "shared/data/vectors/cron_must_reject.json"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(schedule: Schedule, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """Every fire in (after, until]."""
    found = [after]
    while (moment := next_fire(schedule, zone, found[-1])) <= until:
        assert moment > found[-1], "strictly increasing"
        found.append(moment)
    return found[1:]


def first(count: int, schedule: Schedule, zone: str, after: str) -> list[str]:
    """The next fires as the wall in `zone` and its offset show them, e.g. "2026-03-08 03:00-04:00"."""

    def walk() -> Iterator[str]:
        moment = utc(after)
        while True:
            moment = next_fire(schedule, zone, moment)
            yield moment.astimezone(ZoneInfo(schedule.zone or zone)).isoformat(" ", "minutes")

    return list(islice(walk(), count))


def changes(zone: str, start: date, days: int) -> list[datetime]:
    """The UTC midnights within a day after which the clocks of `zone` change."""
    midnights = [datetime.combine(start + timedelta(i), time(), UTC) for i in range(days)]
    offsets = [midnight.astimezone(ZoneInfo(zone)).utcoffset() for midnight in midnights]
    return [midnights[i] for i in range(days - 1) if offsets[i] != offsets[i + 1]]


@cache
def risky_days() -> list[tuple[str, datetime]]:
    """Zones with a midnight before their clocks change, and some days on which nothing happens."""
    recent = [(zone, day) for zone in ZONES for day in changes(zone, date(2024, 1, 1), 4 * 366)]
    apia = [("Pacific/Apia", day) for day in changes("Pacific/Apia", date(2011, 1, 1), 366)]
    return [*recent, *apia, ("Asia/Kolkata", utc("2026-03-29")), ("UTC", utc("2026-03-29"))]


def walk_the_wall(
    matches: Callable[[datetime], bool], zone: str, after: datetime, until: datetime
) -> Iterator[datetime]:
    """The rule of D-12 read literally, a second implementation: look at the wall every minute of real time.

    A slot fires in the minute in which the wall first shows it or has passed it.
    """
    where, minute = ZoneInfo(zone), timedelta(minutes=1)
    furthest, moment = after.astimezone(where).replace(tzinfo=None), after
    while (moment := moment + minute) <= until:
        shown, fired = moment.astimezone(where).replace(tzinfo=None), False
        while furthest < shown:
            furthest += minute
            fired = fired or matches(furthest)
        if fired:
            yield moment


def quickest(call: Callable[[], object]) -> float:
    """Seconds of the best of three calls, so that a busy machine does not decide a test."""

    def once() -> float:
        started = perf_counter()
        call()
        return perf_counter() - started

    return min(once() for _ in range(3))


# --- one fire for each slot, whatever the clocks do -------------------------------------------------------------


def assert_daily(zone: str, at: str, start: datetime, days: int) -> None:
    found = fires(daily(at), zone, start, start + timedelta(days))

    local = [moment.astimezone(ZoneInfo(zone)).date() for moment in found]
    assert local == [local[0] + timedelta(i) for i in range(len(local))], "once per local day, no day left out"
    assert len(local) >= days - 1
    assert all(timedelta(hours=20) <= b - a <= timedelta(hours=28) for a, b in pairwise(found))


@pytest.mark.parametrize("zone", ZONES)
def test_a_daily_schedule_fires_once_per_local_day_at_every_risky_time(zone: str) -> None:
    """P-21, D-12: four years, strictly increasing, 20 to 28 hours apart."""
    for at in RISKY_TIMES:
        assert_daily(zone, at, utc("2024-01-01"), 4 * 365 + 1)


@settings(deadline=None, max_examples=25)
@given(zone=st.sampled_from(ZONES), at=st.times(), year=st.integers(2012, 2036))
def test_a_daily_schedule_fires_once_per_local_day_at_any_time(zone: str, at: time, year: int) -> None:
    """P-21. From 2012 on, because Apia left out 2011-12-30: that day has its own test."""
    assert_daily(zone, f"{at:%H:%M}", datetime(year, 1, 1, 12, tzinfo=UTC), 4 * 365)


@pytest.mark.slow
def test_no_zone_of_the_tz_database_loses_or_doubles_a_day() -> None:
    """P-21: all zones, four years, the days around every change of the clocks."""
    for zone in sorted(available_timezones()):
        for day in changes(zone, date(2024, 1, 1), 4 * 365):
            for at in ["00:00", "02:30", "22:30"]:
                assert_daily(zone, at, day - timedelta(days=2, hours=6), 6)


wall_lists = st.tuples(
    st.one_of(st.just("*"), st.sampled_from(["*/15", "*/7", "30-40"]), st.lists(st.integers(0, 59), min_size=1)),
    st.one_of(st.just("*"), st.sampled_from(["*/2", "1-3", "0,23"]), st.lists(st.integers(0, 23), min_size=1)),
)


def spelled(field: str | list[int]) -> str:
    return field if isinstance(field, str) else ",".join(map(str, field))


def numbers(field: str | list[int], size: int) -> set[int]:
    if isinstance(field, list):
        return set(field)
    if "-" in field:
        low, high = map(int, field.split("-"))
        return set(range(low, high + 1))
    if "," in field:
        return set(map(int, field.split(",")))
    return set(range(0, size, int(field.removeprefix("*").removeprefix("/") or 1)))


@settings(deadline=None, max_examples=60)
@given(rule=wall_lists, around=st.sampled_from(risky_days()), data=st.data())
def test_cron_fires_where_a_minute_by_minute_walk_finds_it(
    rule: tuple[str | list[int], str | list[int]], around: tuple[str, datetime], data: st.DataObject
) -> None:
    """P-21, P-22, D-12: lists, ranges, every 2 hours, every minute; before, across and after a change."""
    (minutes, hours), (zone, day) = rule, around
    wanted = numbers(minutes, 60), numbers(hours, 24)
    schedule = cron(f"{spelled(minutes)} {spelled(hours)} * * *")
    since, until = day - timedelta(hours=6), day + timedelta(hours=36)

    expected = list(walk_the_wall(lambda w: w.minute in wanted[0] and w.hour in wanted[1], zone, since, until))

    assert fires(schedule, zone, since, until) == expected
    now = since + timedelta(minutes=data.draw(st.integers(0, 42 * 60), label="minutes of downtime"))
    due = [moment for moment in expected if moment <= now]
    assert missed(schedule, zone, since, now) == ((due[-1], min(len(due) - 1, MANY)) if due else (None, 0))


@settings(deadline=None, max_examples=40)
@given(around=st.sampled_from(risky_days()), minute=st.integers(0, 60 * 24), at=st.times())
def test_a_fire_does_not_depend_on_when_one_asks(around: tuple[str, datetime], minute: int, at: time) -> None:
    """D-12: asked at any moment between two fires, the answer is the later one, and the earlier one is the latest."""
    (zone, day), schedule = around, daily(f"{at:%H:%M}")
    moment = day + timedelta(minutes=minute)

    following = next_fire(schedule, zone, moment)

    assert following > moment
    assert missed(schedule, zone, moment, following) == (following, 0)
    assert missed(schedule, zone, moment, following - timedelta(microseconds=1)) == (None, 0)
    assert next_fire(schedule, zone, following - timedelta(microseconds=1)) == following
    assert next_fire(schedule, zone, following) > following


# --- known changes of the clock ---------------------------------------------------------------------------------


def test_a_time_that_does_not_exist_fires_as_the_gap_ends() -> None:
    """D-12: New York, 2026-03-08, 02:30 is 03:00 EDT, which is 07:00 UTC."""
    found = fires(daily("02:30"), "America/New_York", utc("2026-03-07 12:00"), utc("2026-03-10"))

    assert found == [utc("2026-03-08 07:00"), utc("2026-03-09 06:30")]


def test_a_time_that_occurs_twice_fires_the_first_time_only() -> None:
    """D-12: New York, 2026-11-01, 01:30 is 05:30 UTC and not 06:30 as well."""
    found = fires(daily("01:30"), "America/New_York", utc("2026-10-31 12:00"), utc("2026-11-03"))

    assert found == [utc("2026-11-01 05:30"), utc("2026-11-02 06:30")]


@pytest.mark.parametrize("schedule", [daily("01:30"), cron("30 1 * * *")])
def test_a_question_asked_in_the_second_pass_knows_the_first(schedule: Schedule) -> None:
    """D-12: when the wall shows 01:15 for the second time, 01:30 has been and comes again tomorrow."""
    second_pass = utc("2026-11-01 06:15")

    assert next_fire(schedule, "America/New_York", second_pass) == utc("2026-11-02 06:30")
    assert missed(schedule, "America/New_York", utc("2026-11-01 05:00"), second_pass) == (utc("2026-11-01 05:30"), 0)


def test_a_gap_of_half_an_hour_ends_after_half_an_hour() -> None:
    """Lord Howe goes from 02:00 to 02:30 on 2026-10-04."""
    assert first(2, daily("02:10"), "Australia/Lord_Howe", "2026-10-03 12:00") == [
        "2026-10-04 02:30+11:00",
        "2026-10-05 02:10+11:00",
    ]


@pytest.mark.parametrize("zone", SKIP_MIDNIGHT)
def test_a_skipped_midnight_fires_at_one_on_the_same_day(zone: str) -> None:
    """P-21: 00:00 where the day begins at 01:00."""
    where = ZoneInfo(zone)
    found = [moment.astimezone(where) for moment in fires(daily("00:00"), zone, utc("2025-12-31"), utc("2026-12-31"))]

    late = [moment for moment in found if moment.time() != time(0)]
    assert [moment.time() for moment in late] == [time(1)]
    assert found[found.index(late[0]) - 1].date() == late[0].date() - timedelta(1)


def test_a_whole_day_that_is_left_out_fires_as_the_next_day_begins() -> None:
    """P-21: Apia had no 2011-12-30. Its slot is not lost, which would cost a monthly schedule a month."""
    begin = "2011-12-31 00:00+14:00"

    assert first(3, daily("00:00"), "Pacific/Apia", "2011-12-29 00:00") == [
        "2011-12-29 00:00-10:00",
        begin,  # the 30th and the 31st are one fire
        "2012-01-01 00:00+14:00",
    ]
    assert first(3, daily("03:00"), "Pacific/Apia", "2011-12-29 12:00") == [
        "2011-12-29 03:00-10:00",
        begin,  # the 30th
        "2011-12-31 03:00+14:00",
    ]
    assert first(2, monthly("03:00", day=30), "Pacific/Apia", "2011-12-01") == [begin, "2012-01-30 03:00+14:00"]
    assert first(2, cron("* * * * *"), "Pacific/Apia", "2011-12-30 09:59") == [begin, "2011-12-31 00:01+14:00"]


def test_a_gap_that_ends_at_midnight_fires_at_midnight() -> None:
    """D-12: Nuuk goes from 23:00 on a Saturday to 00:00 on Sunday, and the rule prefers that instant to the date."""
    assert first(3, daily("23:30"), "America/Nuuk", "2026-03-28 12:00") == [
        "2026-03-29 00:00-01:00",
        "2026-03-29 23:30-01:00",
        "2026-03-30 23:30-01:00",
    ]


def test_every_15_minutes_goes_on_through_a_gap() -> None:
    """P-21: four slots inside the gap and one at its end are one fire, 15 minutes of real time after the last."""
    assert first(4, cron("*/15 * * * *"), "Europe/Berlin", "2026-03-29 00:30") == [
        "2026-03-29 01:45+01:00",
        "2026-03-29 03:00+02:00",
        "2026-03-29 03:15+02:00",
        "2026-03-29 03:30+02:00",
    ]


def test_every_15_minutes_rests_while_an_hour_repeats_and_in_utc_does_not() -> None:
    """D-12: each slot once, the first time; `zone="UTC"` is the way to an even beat."""
    assert first(3, cron("*/15 * * * *"), "Europe/Berlin", "2026-10-25 00:30") == [
        "2026-10-25 02:45+02:00",
        "2026-10-25 03:00+01:00",
        "2026-10-25 03:15+01:00",
    ]
    even = fires(cron("*/15 * * * *", zone="UTC"), "Europe/Berlin", utc("2026-10-25"), utc("2026-10-26"))
    assert len(even) == 24 * 4


def test_every_two_hours_fires_twelve_times_a_day_on_days_of_23_and_25_hours() -> None:
    """P-21: */2 h."""
    for day in ["2026-03-29", "2026-10-25"]:
        start = utc(day) - timedelta(hours=3)
        found = fires(cron("0 */2 * * *"), "Europe/Berlin", start, start + timedelta(hours=30))
        local = [moment.astimezone(ZoneInfo("Europe/Berlin")) for moment in found]
        assert sum(f"{moment:%Y-%m-%d}" == day for moment in local) == 12


# --- weeks, months, zones ---------------------------------------------------------------------------------------


def test_week_days_count_from_monday_0_to_sunday_6() -> None:
    """S1-06, S1-07."""
    for day in range(7):
        found = first(2, weekly(day, "03:00"), "Europe/Berlin", "2026-01-01")
        assert [date.fromisoformat(text[:10]).weekday() for text in found] == [day, day]
    assert first(1, weekly("mon"), "UTC", "2026-01-01") == ["2026-01-05 03:00+00:00"]
    assert first(1, weekly(6), "UTC", "2026-01-01") == ["2026-01-04 03:00+00:00"]


@pytest.mark.parametrize("sunday", ["0 3 * * 0", "0 3 * * 7", "0 3 * * SUN"])
def test_cron_counts_from_sunday_0(sunday: str) -> None:
    """APScheduler 3.11 fires `0 3 * * 0` on Mondays."""
    assert first(2, cron(sunday), "UTC", "2026-01-01") == ["2026-01-04 03:00+00:00", "2026-01-11 03:00+00:00"]


def test_monthly_is_the_first_day_unless_said_otherwise() -> None:
    """S1-06."""
    assert first(2, monthly(), "UTC", "2026-01-01 03:00") == ["2026-02-01 03:00+00:00", "2026-03-01 03:00+00:00"]


def test_a_day_that_the_month_lacks_is_its_last() -> None:
    found = first(4, monthly("12:00", day=31), "UTC", "2028-01-31 12:00")

    assert [text[:10] for text in found] == ["2028-02-29", "2028-03-31", "2028-04-30", "2028-05-31"]
    assert first(1, monthly("12:00", day=30), "UTC", "2026-02-01")[0][:10] == "2026-02-28"


def test_the_schedules_own_zone_wins_over_the_projects() -> None:
    assert next_fire(daily("03:00"), "Asia/Kolkata", utc("2026-01-01")) == utc("2026-01-01 21:30")
    assert next_fire(daily("03:00", zone="UTC"), "Asia/Kolkata", utc("2026-01-01")) == utc("2026-01-01 03:00")


def test_a_fire_is_strictly_after_the_moment_asked() -> None:
    at = utc("2026-01-01 03:00")

    assert next_fire(daily("03:00"), "UTC", at - timedelta(microseconds=1)) == at
    assert next_fire(daily("03:00"), "UTC", at) == at + timedelta(days=1)
    assert next_fire(cron("0 3 * * *"), "UTC", at - timedelta(microseconds=1)) == at
    assert next_fire(cron("0 3 * * *"), "UTC", at.astimezone(ZoneInfo("Asia/Kolkata"))) == at + timedelta(days=1)


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        next_fire(daily(), "UTC", utc("2026-01-01").replace(tzinfo=None))


# --- missed fires -----------------------------------------------------------------------------------------------

NOW = utc("2026-06-01 12:00:30")


@pytest.mark.parametrize(
    ("schedule", "down", "latest", "earlier"),
    [
        (cron("* * * * *"), timedelta(minutes=1), "2026-06-01 12:00", 0),
        (cron("* * * * *"), timedelta(days=1), "2026-06-01 12:00", MANY),
        (cron("* * * * *"), timedelta(days=400), "2026-06-01 12:00", MANY),
        (cron("0 */6 * * *"), timedelta(days=1), "2026-06-01 12:00", 3),
        (daily("12:00"), timedelta(minutes=1), "2026-06-01 12:00", 0),
        (daily("03:00"), timedelta(days=1), "2026-06-01 03:00", 0),
        (daily("03:00"), timedelta(days=400), "2026-06-01 03:00", 399),
        (weekly("mon"), timedelta(days=400), "2026-06-01 03:00", 57),
        (monthly(), timedelta(days=400), "2026-06-01 03:00", 13),
    ],
)
def test_one_catch_up_stands_for_every_missed_fire(
    schedule: Schedule, down: timedelta, latest: str, earlier: int
) -> None:
    """P-22, B-15: after a minute, a day and 400 days."""
    assert missed(schedule, "UTC", NOW - down, NOW) == (utc(latest), earlier)


def test_nothing_is_missed_between_two_fires() -> None:
    """P-22."""
    assert missed(daily("03:00"), "UTC", utc("2026-06-01 03:00"), NOW) == (None, 0)
    assert missed(cron("0 0 29 2 *"), "UTC", NOW - timedelta(days=400), NOW) == (None, 0)


def test_a_fire_is_missed_from_its_own_instant_on() -> None:
    """P-22: (since, now] has its end and not its beginning."""
    at, tick = utc("2026-06-01 03:00"), timedelta(microseconds=1)

    assert missed(daily("03:00"), "UTC", at - tick, at) == (at, 0)
    assert missed(daily("03:00"), "UTC", at - tick, at - tick) == (None, 0)
    assert missed(daily("03:00"), "UTC", at, at + tick) == (None, 0)


def test_a_clock_that_went_back_has_missed_nothing() -> None:
    """P-20."""
    assert missed(cron("* * * * *"), "UTC", NOW, NOW - timedelta(days=400)) == (None, 0)


def test_400_days_of_a_minutely_schedule_are_reckoned_within_100_ms() -> None:
    """P-22."""
    since = NOW - timedelta(days=400)

    assert quickest(lambda: missed(cron("* * * * *"), "Europe/Berlin", since, NOW)) < 0.1


# --- what is refused --------------------------------------------------------------------------------------------

REFUSED = [
    "* * * * * *",  # cronsim would read seconds
    "* * * *",
    "",
    "@daily",
    "60 * * * *",
    "-1 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * 32 * *",
    "* * * 13 *",
    "* * * * 8",
    "*/0 * * * *",
    "2/ * * * *",
    "/2 * * * *",
    "1//2 * * * *",
    "1-1_0 * * * *",
    "* * 5-1 * *",
    "¹ * * * *",
    "* * * * ſun",  # "ſun".upper() is SUN
    "* * LL * *",
    "* * LWX * *",
    "* * * * 1#6",
    "* * * * 1##1",
    "* * * * MON-1//2",
    "0 0 31 2 *",
    "0 0 30 2 *",
    "0 0 31 4 *",
    "0 0 */30 * 1#2",  # the 1st or 31st is never a second Monday
    "0 0 */29 2 1#5",  # there is a fifth Monday on the 30th, but not in February
    "0 0 * *\0*",
    "1" * 5000 + " * * * *",
    "*," * 5000 + "* * * * *",
    "1/" * 5000 + "1 * * * *",
    " " * 10_000,
    "* " * 5000,
]


@pytest.mark.parametrize("expression", REFUSED, ids=lambda text: repr(text[:20]))
def test_an_expression_that_is_wrong_or_never_fires_is_refused_quickly(expression: str) -> None:
    """A-81, D-12: within 50 ms, in a short sentence."""

    def refuse() -> None:
        with pytest.raises(ConfigError, match=r"^Schedule\.cron is .*; allowed: five fields") as caught:
            check(cron(expression))
        assert len(str(caught.value)) < 300

    assert quickest(refuse) < 0.05


@pytest.mark.shared
@pytest.mark.skipif(not VECTORS.exists(), reason="the vectors lie beside the checkout")
def test_every_published_bad_expression_is_refused() -> None:
    expressions = json.loads(VECTORS.read_text())["must_reject"]

    assert len(expressions) == 183
    for expression in expressions:
        with pytest.raises(ConfigError, match="allowed: five fields"):
            check(cron(expression))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/15 * * * *", "2026-01-01 00:15"),
        ("0 */6 * * *", "2026-01-01 06:00"),
        ("15,45 8-18/5 * * mon-fri", "2026-01-01 08:15"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 L * *", "2026-01-31 00:00"),
        ("0 0 LW 2 *", "2026-02-27 00:00"),
        ("0 0 * * 5L", "2026-01-30 00:00"),
        ("0 0 * * MON#2", "2026-01-12 00:00"),
        ("0 0 13 * 5", "2026-01-02 00:00"),  # neither begins with a star: the 13th or a Friday
        ("0 0 29 2 */1", "2028-02-29 00:00"),
        (" 0\t0  1 1 * ", "2027-01-01 00:00"),
    ],
)
def test_classic_expressions_and_the_last_and_nth_days_are_kept(expression: str, expected: str) -> None:
    check(cron(expression))

    assert next_fire(cron(expression), "UTC", utc("2026-01-01")) == utc(expected)


@settings(deadline=None, max_examples=200)
@given(fields=st.lists(st.text("0123456789*,-/#LWMONSU", min_size=1, max_size=6), min_size=5, max_size=5))
def test_an_expression_is_refused_or_fires(fields: list[str]) -> None:
    """A-81: no text makes anything but a ConfigError or a fire."""
    schedule = cron(" ".join(fields))
    try:
        check(schedule)
    except ConfigError:
        return
    assert next_fire(schedule, "UTC", NOW) > NOW


@pytest.mark.parametrize(
    ("schedule", "name", "value", "allowed"),
    [
        (daily("3:00"), "Schedule.at", "3:00", "00:00"),
        (daily("24:00"), "Schedule.at", "24:00", "23:59"),
        (daily("12:60"), "Schedule.at", "12:60", "23:59"),
        (daily("03:00\n"), "Schedule.at", "03:00\n", "23:59"),
        (daily("٠٣:٠٠"), "Schedule.at", "٠٣:٠٠", "23:59"),
        (Schedule("week"), "Schedule.day", None, "0 (Monday) to 6 (Sunday)"),
        (Schedule("week", day=7), "Schedule.day", 7, "0 (Monday) to 6 (Sunday)"),
        (Schedule("week", day=-1), "Schedule.day", -1, "0 (Monday) to 6 (Sunday)"),
        (Schedule("month"), "Schedule.day", None, "1 to 31"),
        (Schedule("month", day=0), "Schedule.day", 0, "1 to 31"),
        (Schedule("month", day=32), "Schedule.day", 32, "1 to 31"),
        (Schedule("day", day=1), "Schedule.day", 1, "no day where every is 'day'"),
        (Schedule("cron", day=1, cron="0 0 * * *"), "Schedule.day", 1, "no day where every is 'cron'"),
        (Schedule("cron"), "Schedule.cron", None, "five fields"),
        (Schedule("day", cron="0 0 * * *"), "Schedule.cron", "0 0 * * *", "no expression where every is 'day'"),
        (daily(zone="Mars/Olympus"), "Schedule.zone", "Mars/Olympus", "IANA"),
        (daily(zone="Europe"), "Schedule.zone", "Europe", "IANA"),
        (daily(zone=""), "Schedule.zone", "", "IANA"),
        (daily(zone="../../etc/passwd"), "Schedule.zone", "../../etc/passwd", "IANA"),
        (daily(zone="UTC\0"), "Schedule.zone", "UTC\0", "IANA"),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_is_allowed(
    schedule: Schedule, name: str, value: object, allowed: str
) -> None:
    """S1-07."""
    for refused in (check, lambda s: next_fire(s, "UTC", NOW), lambda s: missed(s, "UTC", NOW, NOW)):
        with pytest.raises(ConfigError) as caught:
            refused(schedule)
        assert (caught.value.name, caught.value.value) == (name, value)
        assert allowed in str(caught.value)


def test_an_unknown_zone_of_the_project_is_named_as_such() -> None:
    with pytest.raises(ConfigError, match=r"^zone is 'Mars/Olympus'"):
        next_fire(daily(), "Mars/Olympus", NOW)


# --- in words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (daily("03:00"), "every day at 03:00 (Europe/Berlin)"),
        (weekly("wed", "04:30"), "every Wednesday at 04:30 (Europe/Berlin)"),
        (weekly(0, zone="UTC"), "every Monday at 03:00 (UTC)"),
        (monthly(), "on day 1 of every month at 03:00 (Europe/Berlin)"),
        (cron("0 */6 * * *"), "by cron 0 */6 * * * (Europe/Berlin)"),
        (cron(" 0\n*/6 * *  *"), "by cron 0 */6 * * * (Europe/Berlin)"),
    ],
)
def test_a_schedule_reads_as_people_say_it(schedule: Schedule, expected: str) -> None:
    """S1-06."""
    assert words(schedule, "Europe/Berlin") == expected
