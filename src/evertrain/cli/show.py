"""How things look in a terminal: tables, times, one `Next:` line; plain lines where there is no terminal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from evertrain.reports import Line

HEALTH = {
    "fresh": "green", "behind": "yellow", "training": "cyan", "refused": "yellow", "failing": "red", "no model": "yellow",
    "held": "magenta", "paused": "magenta", "observing": "blue", "off": "dim",
}  # fmt: skip
LEVEL = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "red"}
SEVERITY = {"none": "dim", "low": "green", "medium": "yellow", "high": "dark_orange", "critical": "red"}

# Set by `-C`, so that the commands we name work when pasted from where the user stands.
place: list[str] = []


def console(*, stderr: bool = False) -> Console:
    """Return where to print: colours and width of a terminal, or plain wide lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(
        stderr=stderr,
        highlight=False,
        width=width,
        soft_wrap=not stream.isatty(),
        emoji=False,
        markup=False,
        color_system="auto" if lively(stream) else None,
    )


def lively(stream: TextIO) -> bool:
    """Return whether colours and moving lines are welcome: on a terminal that can, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: str = "", style: str | None = None) -> None:
    """Print one line; control characters of data are shown escaped."""
    from evertrain.partitions import printable

    console().print(printable(text), style=style)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str | None] | None = None) -> None:
    """Print rows under columns; `styles` colours the first cell of each row."""
    from rich import box
    from rich.table import Table

    from evertrain.partitions import printable

    if not sys.stdout.isatty():
        _plain_table(columns, [[printable(text) for text in row] for row in rows])
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        shown.add_column(name, overflow="fold")
    for number, row in enumerate(rows):
        marks = [styles[number] if styles else None]
        shown.add_row(*(cell(text, style) for text, style in zip_longest(row, marks)))
    console().print(shown)


def cell(text: str, style: str | None = None) -> Text:
    """Return text for a tree or a table; control characters of data are shown escaped."""
    from rich.text import Text

    from evertrain.partitions import printable

    return Text(printable(text), style=style or "")


def add_line(branch: Tree, line: Line) -> None:
    """Add a line of a report, and the lines under it, to a tree."""
    under = branch.add(cell(line.text, style=line.style))
    for one in line.children:
        add_line(under, one)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, nothing wrapped and nothing cut: the reader may be a program."""
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    for row in [columns, *rows]:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def following(command: str) -> None:
    """Print the one line that says what to do next; it works when pasted."""
    console().print(f"Next: {command_line(command)}", style="bold")


def command_line(command: str) -> str:
    """Return a command of ours as it must be typed here: with `-C` where the user used it."""
    return " ".join([program(), *place, command])


def program() -> str:
    """Return how we are called here: by name where the shell finds us, else as the user did."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m evertrain"
    found = shutil.which("evertrain")
    return "evertrain" if found and Path(found).resolve() == called.resolve() else quoted(sys.argv[0])


def as_json(data: Any) -> None:
    """Print data as JSON; instants as text, objects as their fields."""
    sys.stdout.write(json.dumps(data, default=_plain, indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def moment(text: str | datetime | None) -> str:
    """Return an instant in the user's zone: the time today, day and time this week, else the date."""
    if text is None:
        return "-"
    from evertrain.clock import from_text

    found = (from_text(text) if isinstance(text, str) else text).astimezone()
    now = datetime.now(found.tzinfo)
    if found.date() == now.date():
        return found.strftime("%H:%M:%S")
    if abs(found - now) < timedelta(days=6):
        return found.strftime("%a %H:%M")
    return found.strftime("%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    """Return seconds as people say them."""
    if seconds is None:
        return "-"
    from evertrain.specs import spoken

    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 0.1 else spoken(timedelta(seconds=seconds))


def complain(error: Exception) -> int:
    """Print an error in one plain sentence and return its exit code; the log has the rest."""
    import typer

    from evertrain.cli import exit_code
    from evertrain.errors import EvertrainError
    from evertrain.partitions import printable

    out = console(stderr=True)
    if isinstance(error, typer.Abort):
        return 130
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # Click's, or Typer's own copy of it
        _usage(error)
        return int(error.exit_code)
    if isinstance(error, EvertrainError):
        out.print(printable(f"{type(error).__name__}: {error}"), style="red")
        if report := getattr(error, "report", None):
            out.print(f"Next: less {quoted(report)}", style="bold")
        return exit_code(error)
    if isinstance(error, OSError) and error.filename is not None:
        out.print(printable(f"{error.strerror}: {error.filename}"), style="red")
        return 1
    import logging
    import traceback

    logger = logging.getLogger("evertrain")
    if logger.handlers:
        logger.error("unexpected: %s", "".join(traceback.format_exception(error)))
    where = "The log has the details: logs/retraining.log" if logger.handlers else "EVERTRAIN_DEBUG=1 shows the details"
    out.print(printable(f"Unexpected {type(error).__name__}: {error}. {where}"), style="red")
    if os.environ.get("EVERTRAIN_DEBUG"):
        traceback.print_exception(error)
    return 1


def _usage(error: Any) -> None:
    """Print what is wrong with an argument, and how the command is used."""
    from evertrain.partitions import printable

    out, context = console(stderr=True), getattr(error, "ctx", None)
    if context is not None:
        out.print(context.get_usage())
        out.print(f"Try '{context.command_path} --help' for help.")
    out.print(printable(f"Error: {error.format_message()}"), style="red")


def quoted(path: str | Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))
