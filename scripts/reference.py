"""Write docs/reference.md from the code: commands, exit codes, settings, declarations, events and states.

usage: python scripts/reference.py [--check]     --check: only say whether the file is current
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import tempfile
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo

from evertrain import config, events, specs, states
from evertrain.cli import EXIT_CODES
from evertrain.control.opened import Opened
from evertrain.project import Project
from evertrain.store import leases

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

CHAPTERS = [
    "Commands",
    "Exit codes",
    "Settings",
    "Project and model",
    "Declarations",
    "States",
    "Events",
    "SQL view",
    "Metrics",
]

STATE_WORDS = {
    "queued": "planned; nothing was taken yet",
    "waiting": "waits for a free worker, or for its next try",
    "running": "a worker has it",
    "succeeded": "every item came to a good end",
    "partial": "some items came to a good end, some did not",
    "failed": "the trainer failed on every try",
    "cancelled": "a person took it back",
    "promoted": "the new fit serves",
    "rejected": "the gate refused the new fit; the old one serves on",
    "shadowed": "the new fit was measured and was not meant to serve",
    "superseded": "a newer request took its place",
    "skipped": "there was nothing to learn, or too few rows",
    "dead": "its process died twice; it is not tried again by itself",
}

VIEW_WORDS = {
    "triggered_at": "when the run was planned, UTC",
    "trigger_type": "why: manual, data_change, upload, score_drop, drift, age, schedule, environment",
    "model": "the model's name",
    "partition": "the partition as people read it, empty where the model has none",
    "severity": "of the decision behind it: none, low, medium, high, critical",
    "confidence": "per cent, how sure that decision was; empty where it weighed no evidence",
    "reason": "of the decision",
    "execution_successful": "1: a new fit was made and judged; 0: training failed; empty: nothing was trained",
    "outcome": "promoted, refused, not_needed, insufficient_samples, failed, cancelled, superseded, waiting, running",
    "verdict": "how the item ended, in words",
    "old_version": "served before",
    "new_version": "serves afterwards; unless promoted, the old one",
    "started_at": "when a worker took the item, UTC",
    "ended_at": "when its verdict was written, UTC",
    "duration_s": "seconds between the two",
    "cpu_s": "seconds of one processor that the fit took",
    "improvement_r2_percent": "r2 of the new fit over the old one's on the same rows, relative; positive is better",
    "improvement_rmse_percent": "likewise of rmse, positive is better",
    "improvement_percent": "likewise of the score that decided",
    "improvement_score": "the score that decided",
    "rows": "rows that were read for the fit",
    "actor": "who or what asked for the run",
    "run_id": "the run",
    "item_id": "the item: one partition of the run",
}
UNITS = {"_s": "s", "_mb": "MB"}
GROUPS = [
    ("Sources", [specs.CsvFile, specs.ParquetFile, specs.SqlQuery, specs.Function, specs.BadRows]),
    ("Trainers", [specs.Estimator, specs.Command, specs.Custom]),
    ("Triggers", [specs.DataChange, specs.MaxAge, specs.Schedule, specs.ScoreDrop, specs.Drift, specs.Environment]),
    ("Gate, partitions, retention, notifications", [
        specs.Gate, specs.Dimension, specs.Storm, specs.Retention, specs.Callback, specs.Message,
    ]),
]  # fmt: skip
SHORT = [
    specs.on_data_change, specs.max_age, specs.daily, specs.weekly, specs.monthly, specs.cron, specs.on_score_drop,
    specs.on_drift, specs.on_environment_change, specs.sql_table,
]  # fmt: skip


def main() -> int:
    text = reference()
    if sys.argv[1:] == ["--check"]:
        current = TARGET.is_file() and TARGET.read_text() == text
        print("docs/reference.md is current" if current else "docs/reference.md is old: python scripts/reference.py")
        return not current
    TARGET.write_text(text)
    return 0


def reference() -> str:
    """Return the whole page."""
    parts = [
        "# Reference\n",
        "Made from the code by `scripts/reference.py`; a test holds it current.\n",
        f"{' · '.join(f'[{one}](#{one.lower().replace(chr(32), chr(45))})' for one in CHAPTERS)}\n",
        *commands(),
        *exit_codes(),
        *settings(),
        *project_and_model(),
        *declarations(),
        *state_tables(),
        *event_table(),
        *view_table(),
        *metrics_table(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def row(*cells: str) -> str:
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Return a phrase of a docstring as a cell of a table: one line, no full stop, no Python."""
    return re.sub(r"\bNone\b", "none", " ".join(text.split())).removesuffix(".")


def table(*head: str) -> list[str]:
    return [row(*head), "|" + "---|" * len(head)]


# --- the command line -------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    from evertrain.cli.commands import app
    from evertrain.cli.here import everywhere, schedule_app, token_app

    yield "## Commands\n"
    yield "Every command takes `--help`, and the program itself this, before the command:\n"
    yield from parameters(everywhere)
    for one in app.registered_commands:
        yield from command("evertrain", one)
    for one in schedule_app.registered_commands:
        yield from command("evertrain schedule", one)
    for one in token_app.registered_commands:
        yield from command("evertrain token", one)


def command(before: str, registered: Any) -> Iterator[str]:
    function = registered.callback
    arguments = "".join(
        f" {name.upper()}" if needed else f" [{name.upper()}]"
        for name, needed, _, info in told_of(function)
        if isinstance(info, ArgumentInfo)
    )
    yield f"### `{before} {registered.name or function.__name__}{arguments}`\n"
    yield f"{inspect.getdoc(function)}\n"
    yield from parameters(function)


def told_of(function: Any) -> list[tuple[str, bool, Any, Any]]:
    """Return name, whether it is needed, type with default, and what was declared of each parameter of a command."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, one in inspect.signature(function).parameters.items():
        kind, info = typing.get_args(hints[name])[:2]
        found.append((name, one.default is inspect.Parameter.empty, (kind, one.default), info))
    return found


def parameters(function: Any) -> Iterator[str]:
    found = told_of(function)
    if not found:
        return
    yield from table("", "meaning", "default")
    for name, needed, (kind, default), info in found:
        words = f"`{name.upper()}`" if isinstance(info, ArgumentInfo) else f"`{option(name, kind, info)}`"
        value = "needed" if needed else "yes" if default is True else "" if default in (None, False) else f"`{default}`"
        yield row(words, info.help or LIMITS.get(name, ""), value)
    yield ""


LIMITS = {"limit": "How many, newest first."}


def option(name: str, kind: Any, info: Any) -> str:
    plain = next((one for one in (*typing.get_args(kind), kind) if one is not type(None)), kind)
    # In an annotation, the first name of an option stands where Typer has its default.
    names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    if plain is bool:
        return ", ".join(names or [f"--{name}", f"--no-{name}"])
    inner = next(iter(typing.get_args(plain)), plain)
    value = info.metavar or {"int": "NUMBER", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}[inner.__name__]
    return f"{', '.join(names or [f'--{name}'])} {value}"


def exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield from table("code", "means")
    yield from (row(str(code), meaning) for code, meaning in EXIT_CODES.items())
    yield ""


# --- settings ---------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "How one process behaves, read from its environment.\n"
    told = attributes(config.Settings)
    yield from table("variable", "default", "unit", "meaning")
    for one in dataclasses.fields(config.Settings):
        unit = next((unit for end, unit in UNITS.items() if one.name.endswith(end)), "")
        default = "cores - 1" if one.name == "children" else one.default if one.type == "str" else f"{one.default:g}"
        yield row(f"`EVERTRAIN_{one.name.upper()}`", default, unit, told[one.name])
    others = {
        "EVERTRAIN_PROJECT": "the project's folder, for commands started elsewhere",
        "EVERTRAIN_DEBUG": "set, an unexpected error is shown with its traceback",
        "NO_COLOR": "set, nothing is coloured and nothing moves",
    }
    yield from (row(f"`{name}`", "", "", meaning) for name, meaning in others.items())
    yield ""


# --- declarations -----------------------------------------------------------------------------------------------


def project_and_model() -> Iterator[str]:
    yield "## Project and model\n"
    for title, function, leave in (
        ("Project(name, …)", Project.__init__, {"root", "settings", "clock"}),
        ("project.model(name, source, …)", Project.model, set()),
    ):
        doc = inspect.getdoc(Project if function is Project.__init__ else function) or ""
        told = described(doc, "Args:")
        yield f"### `{title}`\n"
        yield f"{doc.splitlines()[0]}\n"
        yield from table("field", "default", "meaning")
        for one in inspect.signature(function).parameters.values():
            if one.name == "self" or one.name in leave:
                continue
            default = "needed" if one.default is inspect.Parameter.empty else shown(one.default)
            yield row(f"`{one.name}`", default, told.get(one.name) or WORDS.get(one.name, ""))
        yield ""


WORDS = {
    "name": "a name from a-z, 0-9, '.', '_' and '-'",
    "kind": "written in TOML only",
    "triggers": "when to train",
    "store": "where everything is kept that outlives a process: `sqlite:///FILE`",
    "path": "import path of the class, `module:Class`",
    "CsvFile.path": "the file",
    "ParquetFile.path": "the file",
    "Dimension.name": "the column",
    "Callback.function": "import path of the function, `module:function`",
    "key": "columns that identify a row",
    "time": "column that says when a row happened",
    "params": "what the class or function is called with",
    "on_bad_rows": "`set_aside` (up to 1 % or 10 rows), `refuse`, or `BadRows(share, rows)`",
    "max_shrink": "share of its rows that the source may lose between two reads before the read is held back",
    "share": "share of all rows",
    "rows": "number of rows",
    "query": "the SELECT statement",
    "run": "the command that trains, with `{data}` and `{out}`",
    "predict": "the command that predicts, with `{model}`, `{data}` and `{out}`",
    "format": "what the command writes: any file, or one that skops loads",
    "limit": "how old the champion may get",
    "every": "`day`, `week`, `month` or `cron`",
    "at": "time of day, HH:MM",
    "cron": "five fields: minute hour day month weekday",
    "singular": "how one reads",
    "plural": "how several read",
    "url": "where to: `env:NAME`, or a URL without secrets",
    "deadline": "how long one fit may take",
    "memory_mb": "how much memory one fit may take, in MB",
    "max_attempts": "how often one fit is tried",
}


def declarations() -> Iterator[str]:
    yield "## Declarations\n"
    yield "The same fields in `project.py` and in `evertrain.toml`; there a `kind` says which is meant.\n"
    for title, kinds in GROUPS:
        yield f"### {title}\n"
        for kind in kinds:
            yield from declaration(kind)
        if title == "Triggers":
            yield "As they are written in `project.py`:\n"
            yield from table("call", "means")
            yield from (row(f"`{call(one)}`", first_line(one)) for one in SHORT)
            yield ""
    yield "Durations are written `2s`, `10m`, `24h`, `90d` or `1h30m`, shares `5%` or `0.05`.\n"


def call(function: Any) -> str:
    parts = [
        one.name if one.default is inspect.Parameter.empty else f"{one.name}={one.default!r}"
        for one in inspect.signature(function).parameters.values()
    ]
    return f"{function.__name__}({', '.join(parts)})"


def declaration(kind: Any) -> Iterator[str]:
    told, hints = attributes(kind), typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    tag = f" (kind `{fields['kind'].default}`)" if "kind" in fields else ""
    yield f"#### `{kind.__name__}`{tag}\n"
    yield f"{summary(kind)}\n"
    yield from table("field", "type", "default", "meaning")
    for name, one in fields.items():
        if name == "kind":
            continue
        yield row(
            f"`{name}`",
            type_of(name, hints[name]),
            default_of(one),
            told.get(name) or WORDS.get(f"{kind.__name__}.{name}") or WORDS.get(name, ""),
        )
    yield ""


def default_of(one: Any) -> str:
    if one.default is not dataclasses.MISSING:
        return shown(one.default)
    return "needed" if one.default_factory is dataclasses.MISSING else "empty"


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if value in ((), {}):
        return "empty"
    if value == specs.SET_ASIDE:
        return "`set_aside`"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return f"`{specs.format_duration(value)}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value}`"


def type_of(name: str, hint: Any) -> str:
    if name in DURATIONS:
        return "duration"
    if name in SHARES:
        return "share"
    return specs_name(hint)


DURATIONS = {"quiet", "max_delay", "window", "gap", "deadline"} | {"limit"}
SHARES = {"share", "max_shrink", "threshold", "tolerance", "holdout"}


def specs_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return specs_name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if arguments and type(None) in arguments:
        return specs_name(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return "names"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "timedelta": "duration"}
    name = getattr(hint, "__name__", str(hint))
    return "table" if origin is not None and "Mapping" in str(origin) else words.get(name, f"`{name}`")


# --- states and events ------------------------------------------------------------------------------------------


def state_tables() -> Iterator[str]:
    yield "## States\n"
    for title, kind, transitions in (
        ("A run", states.RunState, states.RUN_TRANSITIONS),
        ("An item", states.ItemState, states.ITEM_TRANSITIONS),
    ):
        yield f"### {title}\n"
        yield from table("state", "means", "may become")
        following: dict[Any, Any] = dict(transitions)
        for state in kind:
            after = ", ".join(f"`{one}`" for one in kind if one in following[state]) or "nothing: this is an end"
            yield row(f"`{state}`", STATE_WORDS[state], after)
        yield ""


def event_table() -> Iterator[str]:
    yield "## Events\n"
    yield "One log tells everything: `logs/retraining.log` shows it as text, `evertrain history` and `why` from the store.\n"
    yield from table("event", "means")
    for name, meaning in re.findall(r'= "([a-z_.]+)"  # (.+)', inspect.getsource(events.Kind)):
        yield row(f"`{name}`", meaning)
    yield ""


# --- docstrings -------------------------------------------------------------------------------------------------


def view_table() -> Iterator[str]:
    yield "## SQL view\n"
    yield "`model_retraining_events`, in the store: one row for each partition of each run.\n"
    yield from table("column", "means")
    yield from (row(f"`{name}`", words) for name, words in VIEW_WORDS.items())
    yield ""


def metrics_table() -> Iterator[str]:
    from evertrain.server.metrics import MODELS, OTHER, Metrics
    from evertrain.store.connect import Store
    from evertrain.store.migrations import migrate

    yield "## Metrics\n"
    yield f"At `/metrics`, for Prometheus. Of more than {MODELS} models the rest share the label `{OTHER}`.\n"
    with tempfile.TemporaryDirectory() as folder:
        store = Store("sqlite:///evertrain.db", Path(folder))
        migrate(store)
        with store.write() as tx:  # a loop that was there once has an age
            leases.register(tx, "docs", 1)
            leases.take_role(tx, "loop", "docs")
            leases.sign(tx, "loop")
        found = Metrics(Opened(config.Home(Path(folder)), store, config.Settings())).families()
        store.close()
    yield from table("name", "kind", "labels", "meaning")
    for one in found:
        name = one.name + ("_total" if one.type == "counter" else "")
        yield row(f"`{name}`", one.type, ", ".join(f"`{label}`" for label in one._labelnames), one.documentation)
    yield ""


def summary(kind: Any) -> str:
    """Return a docstring up to its sections."""
    doc = inspect.getdoc(kind) or ""
    return re.split(r"\n(?:Attributes|Args|Raises|Returns):", doc)[0].strip().replace("\n", " ").replace("  ", " ")


def first_line(one: Any) -> str:
    return (inspect.getdoc(one) or "").splitlines()[0]


def attributes(kind: Any) -> dict[str, str]:
    return described(inspect.getdoc(kind) or "", "Attributes:")


def described(doc: str, section: str) -> dict[str, str]:
    """Return the names that a section of a docstring describes, with their words."""
    if section not in doc:
        return {}
    lines = doc.split(section, 1)[1].splitlines()[1:]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if not line.startswith("    "):
            break
        if head := re.match(r"    ([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line):
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


if __name__ == "__main__":
    sys.exit(main())
