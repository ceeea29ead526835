"""Pages as text: one environment of templates, and how values look in them.

Every value is escaped, control characters and marks of writing direction are shown as escapes, and there is neither a
script nor a style in a page: the content security policy of the service allows none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from evertrain import __version__, scores
from evertrain.clock import from_text, local_zone
from evertrain.control.opened import Opened, zone_of
from evertrain.errors import ConfigError
from evertrain.reports import read
from evertrain.specs import spoken
from evertrain.store.tokens import Caller, Role

STATIC = Path(__file__).parent / "static"

Render = Callable[[Opened, Caller, Mapping[str, str], Mapping[str, str]], str]


@dataclass(frozen=True)
class Page:
    """One page: its path with parameters in braces, its title, and what renders it.

    Attributes:
        render: takes the opened project, who asks, the path's parameters and the query; returns HTML.
    """

    path: str
    title: str
    render: Render


# What stands in the navigation, in its order.
PLACES = (
    ("/", "Overview"), ("/runs", "Runs"), ("/data", "Data"), ("/schedules", "Schedules"), ("/decisions", "Decisions"),
    ("/events", "Events"), ("/report", "Report"),
)  # fmt: skip


def shown(
    template: str, opened: Opened, caller: Caller, query: Mapping[str, str], *, title: str, here: str, **values: Any
) -> str:
    """Return a page inside the frame that all pages share; `here` is its place in the navigation."""
    try:
        project = opened.project()
        name, zone = project.name, zone_of(project)
    except ConfigError:  # nothing was declared yet; the page says what to do
        name, zone = opened.home.root.name, local_zone()
    return _environment().get_template(template).render(
        title=title,
        here=here,
        project=name,
        zone=zone,
        now=opened.store.clock.now(),
        who=caller,
        operator=caller.role.covers(Role.OPERATOR),
        admin=caller.role.covers(Role.ADMIN),
        query=query,
        **values,
    )  # fmt: skip


def login_page(problem: str | None = None) -> str:
    """Return the page that asks for a token and posts it to `/login`; `problem` is why the last one was refused."""
    return _environment().get_template("login.html").render(title="Log in", problem=problem)


def error_page(status: int, title: str, detail: str, caller: Caller | None = None) -> str:
    """Return the page that says what went wrong and where to go on."""
    return _environment().get_template("error.html").render(title=title, status=status, detail=detail, who=caller)


def prepare() -> None:
    """Compile all templates, so that nobody waits for that when the first page is asked for."""
    made = _environment()
    for name in made.list_templates():
        made.get_template(name)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=inert,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": moment, "utc": utc, "ago": ago, "duration": duration, "number": number, "count": count, "score": score,
        "percent": percent, "segment": segment, "capital": capital, "plural": plural, "words": words,
    }  # fmt: skip
    made.globals |= {
        "places": PLACES,
        "release": __version__,
        "address": address,
        "HEALTH": HEALTH,
        "OUTCOMES": OUTCOMES,
    }
    return made


def inert(value: object) -> object:
    r"""Return a value with what is no letter, sign or line break written as an escape; what is HTML stays.

    >>> print(inert("a\x00b\u202ec"), inert(Markup("<b>")), inert(3))
    a\x00b\u202ec <b> 3
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in value)


# --- how values look --------------------------------------------------------------------------------------------

# State: the icon and the colour that go with the word.
HEALTH = {
    "fresh": ("check", "good"), "training": ("spin", "busy"), "held": ("pause", "quiet"), "behind": ("clock", "mild"),
    "refused": ("shield", "mild"), "no model": ("dash", "mild"), "failing": ("cross", "bad"),
    "paused": ("pause", "quiet"), "observing": ("eye", "info"), "off": ("dash", "quiet"),
}  # fmt: skip
# How an item or a run ended: the icon and the colour that go with the word.
OUTCOMES = {
    "promoted": ("up", "good"), "adopted": ("up", "good"), "succeeded": ("check", "good"), "rejected": ("shield", "mild"),
    "shadowed": ("eye", "info"), "superseded": ("dash", "quiet"), "skipped": ("dash", "quiet"),
    "partial": ("warn", "strong"), "failed": ("cross", "bad"), "dead": ("cross", "bad"), "cancelled": ("dash", "quiet"),
    "running": ("spin", "busy"), "waiting": ("clock", "quiet"), "queued": ("clock", "quiet"),
}  # fmt: skip


def _instant(value: str | datetime) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return from_text(value)
    except ValueError:
        return _instant(datetime.fromisoformat(value))


def _time(moment_: datetime, text: str, kind: str) -> Markup:
    stamp = f"{moment_.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
    return Markup('<time datetime="{}" data-{}>{}</time>').format(stamp, kind, text)


@pass_context
def moment(context: Context, value: str | datetime | None) -> Markup | str:
    """Return an instant in the project's zone; the script turns it into the viewer's."""
    if value is None:
        return "-"
    found = _instant(value)
    zone = context["zone"]
    return _time(found, f"{found.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {zone}", "moment")


def utc(value: str | datetime) -> str:
    """Return an instant in UTC, where there can be no element around it: in titles of marks and options.

    >>> utc("2026-03-01T09:30:00.000000Z")
    '2026-03-01 09:30 UTC'
    """
    return f"{_instant(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


@pass_context
def ago(context: Context, value: str | datetime | None) -> Markup | str:
    """Return how long ago an instant was, or in how long it will be."""
    if value is None:
        return "-"
    found = _instant(value)
    seconds = (context["now"] - found).total_seconds()
    said = spoken(timedelta(seconds=round(abs(seconds))))
    return _time(found, f"{said} ago" if seconds >= 0 else f"in {said}", "ago")


def duration(seconds: float | None) -> str:
    """Return seconds as people say them.

    >>> duration(0.02), duration(3600), duration(None)
    ('20 ms', '1 h', '-')
    """
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 0.1 else spoken(timedelta(seconds=seconds))


def number(value: float | None) -> str:
    """Return a number to three digits."""
    return read.number(value)


def count(value: int | None) -> str:
    """Return a whole number with its thousands apart.

    >>> count(100000)
    '100,000'
    """
    return "-" if value is None else f"{value:,}"


def score(value: float | None, name: str | None) -> str:
    """Return a score as people read it."""
    return "-" if value is None or not name else scores.format_score(name, value)


def percent(value: float | None) -> str:
    """Return a change for the better or the worse in words: beside an error a sign would say the opposite.

    >>> percent(3.21), percent(-0.4), percent(0.0), percent(None)
    ('3.2 % better', '0.4 % worse', 'no change', '-')
    """
    if value is None:
        return "-"
    return "no change" if abs(value) < 0.05 else f"{abs(value):.1f} % {'better' if value > 0 else 'worse'}"


def segment(value: object) -> str:
    """Return a value as one segment of a path: a name with a slash is no path.

    >>> segment("a/b?c")
    'a%2Fb%3Fc'
    """
    return quote(str(value), safe="")


def address(path: str, **query: object) -> str:
    """Return a path with the query that is not empty.

    >>> address("/runs", model="iris", state=None)
    '/runs?model=iris'
    """
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept, errors='backslashreplace')}" if kept else path


def capital(text: str | None) -> str:
    """Return a sentence with its first letter in capital; the name of a score stays as it is written.

    >>> capital("nothing is due"), capital("r2 0.98 against 0.97")
    ('Nothing is due', 'r2 0.98 against 0.97')
    """
    if not text or text.split(" ", 1)[0] in scores.SCORES:
        return text or ""
    return f"{text[:1].upper()}{text[1:]}"


def words(text: str) -> str:
    """Return a name of ours as words: "data_change" is "data change"."""
    return text.replace("_", " ")


def plural(value: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun.

    >>> plural(1, "run"), plural(2000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{value:,} {one if value == 1 else many or one + 's'}"


__all__ = ["PLACES", "STATIC", "Page", "error_page", "escape", "login_page", "prepare", "shown"]
