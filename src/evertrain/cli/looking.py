"""Looking: status, history, why, plan, versions, runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import here, show
from evertrain.cli.asking import see_through
from evertrain.cli.here import Json, ModelName, Partitions, app

if TYPE_CHECKING:
    from evertrain.control.tell import Check


@app.command()
def status(as_json: Json = False) -> None:
    """Show how everything stands, at a glance."""
    from evertrain.control import tell

    with here.opened() as opened:
        found = tell.status(opened)
    if as_json:
        show.as_json(found)
        return
    on = (
        f"monitoring since {show.moment(found.since_at)} (process {found.process['pid']})"
        if found.process
        else "not monitoring"
    )
    busy = f"; {found.running} training, {found.waiting} waiting" if found.running or found.waiting else ""
    show.line(
        f"{found.project}: {'PAUSED, ' if found.paused else ''}{on}{busy}; times in {_zone()}, schedules in {found.zone}"
    )
    rows = []
    for one in found.models:
        age = (
            "-"
            if one.age_s is None
            else show.duration(one.age_s) + (f" of {show.duration(one.limit_s)}" if one.limit_s else "")
        )
        version = ", ".join(one.versions) or "-"
        if one.partitions > 1:
            version += f" ({one.serving} of {one.partitions} serve" + (f", {one.behind} behind)" if one.behind else ")")
        rows.append(
            [
                one.name,
                one.health,
                version,
                age,
                tell.shown_score(one),
                f"{one.rows if one.rows is not None else '?'}/{one.min_rows}",
                one.decision or one.problem or "-",
                show.moment(one.next_at),
            ]
        )
    if rows:
        show.table(
            ["model", "health", "version", "age", "score", "rows/min", "last decision", "next run"],
            rows,
            styles=[show.HEALTH.get(one.health) for one in found.models],
        )
    else:
        show.line(
            "No models are declared. `evertrain init FILE.csv` makes the first, or add project.model(…) to the project file."
        )
    for one in found.models:
        if one.held:
            many = "1 training waits" if one.held == 1 else f"{one.held} trainings wait"
            show.line(f"{one.name}: {many} for the end of a blackout window, {show.moment(one.held_until)}", "magenta")
    if found.fallbacks:
        show.line(
            f"Fell back to a full run {found.fallbacks} x so far; logs/retraining.log says why each time.", "yellow"
        )
    worst = next((one for one in found.models if one.health in ("failing", "refused", "no model")), None)
    show.following(f"why {worst.name}" if worst else "start --detach" if not found.monitoring else "history")


def _zone() -> str:
    from evertrain.clock import local_zone

    return local_zone()


@app.command()
def history(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was trained, why, how it ended and how long it took."""
    from evertrain.control import tell

    with here.opened() as opened:
        found = tell.history(opened, model, limit)
    if as_json:
        show.as_json({"history": found})
        return
    if not found:
        show.line("Nothing was trained yet. Start monitoring, or train by hand.")
        show.following("start --detach")
        return
    rows = [
        [
            str(one["run"]),
            show.moment(one["at"]),
            one["model"],
            one["cause"],
            one["state"],
            show.duration(one["duration_s"]),
            one["version"] or "-",
            (one["data_hash"] or "")[2:10] or "-",
            one["verdict"] or one["description"],
        ]
        for one in found
    ]
    show.table(["run", "at", "model", "trigger", "status", "took", "version", "data", "what came of it"], rows)
    show.following(f"runs {found[0]['run']}")


@app.command()
def why(
    model: ModelName,
    partition: Partitions = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report of the last drift check into this file, as one page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show why a model was trained, or was not: the last answer of every trigger, the last verdict, the last drift check."""
    from evertrain.control import tell
    from evertrain.control.ask import keys_of
    from evertrain.reports import lines

    with here.opened() as opened:
        found = here.model(opened, model)
        keys = keys_of(found.spec, here.partitions(found, partition))
        told = tell.why(opened, model, keys[0] if keys else None)
        check = tell.last_check(opened, model, keys[0] if keys else None)
    if html:
        _save(check, model, html)
    if as_json:
        show.as_json(told)
        return
    from rich.tree import Tree

    tree = Tree(model)
    for one in told["decisions"]:
        times = f" ({one['times']} times since {show.moment(one['first_at'])})" if one["times"] > 1 else ""
        mark = {"train": "fired", "observe": "would have fired", "report": "reported"}.get(
            one["action"], "did not fire"
        )
        branch = tree.add(show.cell(f"{one['rule']}: {mark}", style=show.SEVERITY.get(one["severity"], "")))
        branch.add(show.cell(f"{one['reason']}  [{show.moment(one['last_at'])}]{times}"))
    if not told["decisions"]:
        tree.add("no trigger was evaluated yet; the loop does that")
    place = told["partition"]
    if place:
        branch = tree.add(
            show.cell(
                f"{place['name']}: {place['version'] or 'no model yet'}, {place['rows'] if place['rows'] is not None else '?'} rows"
            )
        )
        if place["verdict"]:
            branch.add(show.cell(f"serves because: {place['verdict']['reason']}"))
        if place["outcome"] and place["outcome"] != "promoted":
            branch.add(
                show.cell(
                    f"last training {place['outcome']}: {place['outcome_reason']}  [{show.moment(place['considered_at'])}]",
                    style="yellow",
                )
            )
        if place["due"]:
            later = f"; waits until {show.moment(place['not_before'])}" if place["not_before"] else ""
            branch.add(show.cell(f"due: {place['wanted']}{later}", style="cyan"))
    if check:
        of = f" of {check.partition}" if check.partition else ""
        branch = tree.add(show.cell(f"last drift check{of}  [{show.moment(check.at)}]"))
        for one in lines(check.decision, check.trigger):
            show.add_line(branch, one)
    show.console().print(tree)
    if html:
        show.line(f"The report is in {html}.")
    show.following(f"history --model {model}")


def _save(check: Check | None, model: str, path: Path) -> None:
    from evertrain.errors import NotFound
    from evertrain.reports import Report

    if check is None:
        raise NotFound(f"{model} was not checked for drift yet; `evertrain check {model}` does it")
    Report(check.decision, model, check.partition, check.trigger).save(path)


@app.command(name="what-if")
def what_if(
    model: ModelName,
    changes: Annotated[
        list[str], typer.Option("--set", help="A threshold of on_drift(), as error_increase=0.10; may be repeated.")
    ],
    days: Annotated[float, typer.Option(help="Checks of how many days are decided anew.")] = 30,
    as_json: Json = False,
) -> None:
    """Show how often other thresholds would have fired, on the stored evidence of past drift checks; trains nothing."""
    from evertrain.control import tell

    wanted = here.drift_settings(changes)
    with here.opened() as opened:
        found = tell.what_if(opened, model, days, **wanted)
    if as_json:
        days_told = {day: dict(zip(("checks", "now", "then"), each, strict=True)) for day, each in found.by_day.items()}
        totals = {"checks": found.checks, "fired_now": found.fired_now, "fired_then": found.fired_then}
        show.as_json({**totals, "by_day": days_told})
        return
    said = ", ".join(changes)
    if not found.checks:
        show.line(
            f"No drift check of {model} in the last {days:g} days; the loop does one every day, `check` does one now."
        )
        show.following(f"check {model}")
        return
    show.line(
        f"With {said}, of {found.checks} checks in {days:g} days {found.fired_then} would have fired; {found.fired_now} do."
    )
    rows = [[day, str(each[0]), str(each[1]), str(each[2])] for day, each in found.by_day.items() if each[1] or each[2]]
    if rows:
        show.table(["day", "checks", "fire now", "would fire"], rows)
    show.following(f"why {model}")


@app.command()
def plan(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    partition: Partitions = None,
    full: Annotated[bool, typer.Option("--full", help="As if the whole model were asked for by hand.")] = False,
    as_json: Json = False,
) -> None:
    """Show what would be trained now, or if you asked for it, why, and for how long; changes nothing."""
    from evertrain.control import foresee
    from evertrain.errors import ConfigError
    from evertrain.store import items, models

    if model is None and (partition or full):
        raise ConfigError("model", None, "the name of a model, before --partition or --full")
    with here.opened() as opened:
        with opened.store.read() as tx:
            names = [model] if model else [one.name for one in models.every(tx)]
            counts = items.open_counts(tx)
        keys = here.partitions(here.model(opened, model), partition) if model else None
        found = [foresee.preview(opened, name, keys, full=full, actor=here.user()) for name in names]
    if as_json:
        show.as_json([one for one in found if one.partitions])
        return
    rows = [
        [
            one.model,
            f"{one.partitions} of {one.of}" + (f" ({one.leaves} + {one.rollups} above)" if one.rollups else ""),
            ", ".join(f"{number} by {cause.replace('_', ' ')}" for cause, number in one.causes.items()),
            one.reason,
            show.duration(one.estimate_s),
            f"{show.duration(one.wall_s)} on {one.workers}",
        ]
        for one in found
        if one.partitions
    ]
    if rows:
        show.table(["model", "partitions", "causes", "because", "at most", "takes, on workers"], rows)
    else:
        show.line(
            "Nothing new is due."
            + (f" {counts.get('waiting', 0)} wait and {counts.get('running', 0)} run already." if counts else "")
        )
    for one in found:
        if one.later:
            show.line(
                f"{one.model}: {one.later} above wait for quiet, until {show.moment(one.later_at)} at the latest."
            )
        if one.held_until and one.partitions:
            show.line(f"{one.model}: a blackout window holds this back until {show.moment(one.held_until)}.")
    if partition or full:
        show.following(f"trigger {model}" + "".join(f" --partition {show.quoted(one)}" for one in partition or ()))
    else:
        show.following("start --detach" if rows else "status")


@app.command()
def versions(
    model: ModelName, limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, as_json: Json = False
) -> None:
    """List a model's versions: what each came to, and which serve."""
    from evertrain.control import back
    from evertrain.scores import format_score

    with here.opened() as opened:
        found = back.versions(opened, model, limit)
        earlier = back.can_return(opened, model)
    if as_json:
        show.as_json({"model": model, "versions": found})
        return
    if not found:
        show.line(f"{model} has no version yet.")
        show.following(f"trigger {model}")
        return
    rows = [
        [
            one["version"],
            one["state"],
            show.moment(one["created_at"]),
            one["cause"] or "-",
            str(one["fits"]),
            str(one["serving"]),
            f"{one['score']} {format_score(one['score'], one['value'])}" if one["score"] else "-",
            one["verdict"] or "-",
        ]
        for one in found
    ]
    styles = ["green" if one["serving"] else None for one in found]
    show.table(["version", "state", "at", "trigger", "fits", "serving", "score", "verdict"], rows, styles=styles)
    show.following(f"rollback {model}" if earlier else f"why {model}")


@app.command()
def runs(
    run: Annotated[int | None, typer.Argument(help="Show this run with its items.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the run.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train again what failed in the run.")] = False,
    as_json: Json = False,
) -> None:
    """List runs, or show one with its items; cancel it, or retry what failed in it."""
    from evertrain.control import ask, tell
    from evertrain.errors import ConfigError

    if run is None and (cancel or retry_failed):
        raise ConfigError("run", None, "the number of a run, as `evertrain runs` lists them")
    with here.opened() as opened:
        if run is not None and cancel:
            state = ask.cancel(opened, run, here.user())
            if as_json:
                show.as_json({"run": run, "state": state})
                return
            show.line(
                f"Run {run} is {state}."
                if state != "running"
                else f"Run {run} is being cancelled; its worker ends within seconds."
            )
            show.following(f"runs {run}")
            return
        if run is not None and retry_failed:
            asked = ask.retry_failed(opened, run, here.user())
            see_through(opened, tell.run_detail(opened, run)["model"], asked, as_json=as_json)
            return
        found: Any = tell.run_detail(opened, run) if run is not None else tell.run_list(opened, model, limit)
    if as_json:
        show.as_json(found)
    elif run is not None:
        _show_run(found)
    elif not found:
        show.line("There were no runs yet.")
        show.following("start --detach")
    else:
        rows = [
            [
                str(one["run"]),
                show.moment(one["at"]),
                one["model"],
                one["cause"],
                one["state"],
                f"{one['done']} of {one['partitions']}",
                ", ".join(f"{n} {s}" for s, n in one["counts"].items()) or "-",
                one["description"],
            ]
            for one in found
        ]
        show.table(["run", "at", "model", "trigger", "state", "done", "came to", "because"], rows)
        show.following(f"runs {found[0]['run']}")


def _show_run(found: dict[str, Any]) -> None:
    counts = ", ".join(f"{number} {state}" for state, number in found["counts"].items()) or "nothing yet"
    show.line(
        f"Run {found['run']} of {found['model']} ({found['kind']}, {found['cause']}): {found['state']}, {counts}. {found['description']}"
    )
    rows = [
        [
            one["partition"],
            one["state"],
            str(one["attempt"]),
            show.duration(one["seconds"]),
            show.duration(one["cpu_s"]),
            f"{one['peak_mb']:.0f} MB" if one["peak_mb"] else "-",
            one["reason"] or "-",
        ]
        for one in found["items"]
    ]
    show.table(["partition", "state", "tries", "took", "CPU", "memory", "reason"], rows)
    failed = [one for one in found["items"] if one["error"]]
    if failed:
        show.line(f"The first failure's own words ({failed[0]['partition']}):", "yellow")
        for text in str(failed[0]["error"]).splitlines()[-6:]:
            show.line("  " + text)
        show.line("Everything is in logs/retraining.log and logs/trainers.log.")
    show.following(f"runs {found['run']} --retry-failed" if failed else f"versions {found['model']}")
