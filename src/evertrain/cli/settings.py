"""Settings and schedules at run time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, ModelName, app, schedule_app

if TYPE_CHECKING:
    from evertrain.control.opened import Opened
    from evertrain.specs import Schedule


@app.command()
def config(
    model: Annotated[str | None, typer.Argument(help="Name of the model.")] = None,
    named: Annotated[str | None, typer.Option("--model", "-m", help="The same.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: gate.tolerance=3%, auto=observe.")
    ] = None,
    reset: Annotated[str | None, typer.Option("--reset", help="Take back an override, or `all`.")] = None,
    as_json: Json = False,
) -> None:
    """Show a model's settings, override one at run time, or take an override back."""
    from evertrain import gate, triggers
    from evertrain.control import tell
    from evertrain.errors import ConfigError
    from evertrain.store import models

    if model and named and model != named:
        raise ConfigError("--model", named, f"{model}, or one of the two alone")
    name = model or named
    with here.opened() as opened:
        if name is None:
            names = list(opened.project().models)
            if as_json:
                show.as_json({"models": names})
                return
            show.line(f"Models: {', '.join(names) or 'none yet'}")
            show.following(f"config {names[0]}" if names else "init")
            return
        with opened.store.write() as tx:
            for field, value in here.assigned(change or [], "field=value, e.g. auto=observe").items():
                models.set_override(tx, name, field, _literal(value))
            if change:
                spec = models.by_name(tx, name).spec
                triggers.check(spec)
                gate.check(spec)
            if reset:
                models.by_name(tx, name)
                known = models.overrides(tx, name)
                if reset not in ("all", *known):
                    allowed = ", ".join([*known, "all"]) if known else f"nothing: no field of {name} is set at run time"
                    raise ConfigError("--reset", reset, allowed)
                models.reset_override(tx, name, None if reset == "all" else reset)
        if change or reset:
            _redeclare_schedules(opened)
        found = tell.config(opened, name)
    if as_json:
        show.as_json(found)
        return
    rows = [
        [field, value, "set at run time" if field in found["overrides"] else ""]
        for field, value in _flat(found["declaration"])
    ]
    show.table(["field", "value", "origin"], rows, styles=["cyan" if row[2] else None for row in rows])
    show.following(f"config {name} --reset all" if found["overrides"] else f"config {name} --set auto=observe")


def _redeclare_schedules(opened: Opened) -> None:
    from evertrain.control.opened import zone_of
    from evertrain.store import models, schedules

    zone = zone_of(opened.project())
    with opened.store.write() as tx:
        for one in models.every(tx):
            schedules.declare(tx, one.id, one.spec, zone)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _flat(data: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Return the fields of a declaration by their dotted names, as `--set` takes them."""
    for name, value in data.items():
        full = f"{before}{name}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{full}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) and "kind" in one for one in value):
            for one in value:
                inner = {field: own for field, own in one.items() if field != "kind"}
                yield from _flat(inner, f"{full}.{one['kind']}.") if inner else iter([(f"{full}.{one['kind']}", "")])
        else:
            yield full, "-" if value is None else value if isinstance(value, str) else json.dumps(value)


@schedule_app.command("list")
def schedule_list(as_json: Json = False) -> None:
    """List the schedules of all models, in order of their next moment."""
    from evertrain.control import tell

    with here.opened() as opened:
        found, names = tell.schedule_list(opened), list(opened.project().models)
    if as_json:
        show.as_json({"schedules": found})
        return
    if found:
        show.table(
            ["schedule", "model", "when", "next", "last", "origin"],
            [
                [
                    str(one["schedule"]),
                    one["model"],
                    one["rule"],
                    show.moment(one["next_at"]),
                    show.moment(one["last_at"]),
                    one["origin"],
                ]
                for one in found
            ],
        )
    else:
        show.line("There are no schedules; declare daily(…), weekly(…), monthly(…) or cron(…), or add one here.")
    show.following("status" if found or not names else f"schedule add {names[0]} --daily 03:00")


@schedule_app.command("add")
def schedule_add(
    model: ModelName,
    daily: Annotated[str | None, typer.Option(help="Every day at HH:MM.")] = None,
    weekly: Annotated[str | None, typer.Option(help="Every week on mon … sun, or 0 (Monday) to 6.")] = None,
    monthly: Annotated[int | None, typer.Option(help="Every month on this day.")] = None,
    cron: Annotated[str | None, typer.Option(help="Five cron fields.")] = None,
    at: Annotated[str | None, typer.Option(help="HH:MM, for weekly and monthly; 03:00 where it is not given.")] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone; else the project's.")] = None,
) -> None:
    """Add a schedule at run time; it stays until removed, whatever the project file says."""
    from evertrain.control import steer

    rule = _rule(daily, weekly, monthly, cron, at, zone)
    with here.opened() as opened:
        added = steer.add_schedule(opened, model, rule, actor=here.user())
    show.line(f"Schedule {added.schedule} added.")
    show.following("schedule list")


def _rule(
    daily: str | None, weekly: str | None, monthly: int | None, cron: str | None, at: str | None, zone: str | None
) -> Schedule:
    from evertrain import specs
    from evertrain.errors import ConfigError

    given = [one for one in (daily, weekly, monthly, cron) if one is not None]
    if len(given) != 1:
        raise ConfigError("schedule", given or "nothing", "exactly one of --daily, --weekly, --monthly, --cron")
    if at is not None and (daily is not None or cron is not None):
        own = "--daily HH:MM" if daily is not None else "--cron"
        raise ConfigError("--at", at, f"only beside --weekly or --monthly; {own} says the time itself")
    at = "03:00" if at is None else at
    if daily is not None:
        return specs.daily(daily, zone)
    if weekly is not None:
        return specs.weekly(int(weekly) if weekly.isdigit() else weekly, at, zone)
    return specs.monthly(at, monthly, zone) if monthly is not None else specs.cron(str(cron), zone)


@schedule_app.command("remove")
def schedule_remove(number: Annotated[int, typer.Argument(help="Its number, as `schedule list` shows it.")]) -> None:
    """Remove a schedule; a declared one comes back with the next reload unless the project file drops it."""
    from evertrain.control import steer

    with here.opened() as opened:
        row = steer.remove_schedule(opened, number, actor=opened.store.actor)
    show.line(
        f"Schedule {number} of {row.model} removed."
        + (" It is declared in the project file: remove it there as well." if row.origin == "declared" else "")
    )
    show.following("schedule list")
