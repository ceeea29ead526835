"""The loop: start, stop, pause, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import app

if TYPE_CHECKING:
    pass


@app.command()
def start(
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background.")] = False,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Read a source from another file: NAME=PATH; may be repeated.")
    ] = None,
) -> None:
    """Keep the models fresh until stopped."""
    from evertrain.control import opened as use
    from evertrain.control.work import loop_alive
    from evertrain.loop import Loop

    if detach:
        _detach(data or [])
        return
    with here.opened(keeper=True, terminal=True) as opened:
        if loop_alive(opened):
            show.line("Monitoring is on already, in another process.")
            show.following("status")
            return
        for change in use.reload(opened, data=_paths(data or [])):
            show.line(change)
        asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: _second_ends(asked, received))
        names = ", ".join(opened.project().models) or "no models yet"
        show.line(f"Monitoring {names}. Ctrl-C ends it; what runs gets {opened.settings.drain_s:g} s to finish.")
        Loop(opened).run(lambda: bool(asked))
    show.line("Monitoring ended; models serve on.")
    show.following("status")


def _second_ends(asked: list[int], received: int) -> None:
    if asked:
        os._exit(128 + received)  # asked twice: at once
    asked.append(received)


def _paths(data: list[str]) -> dict[str, str]:
    from evertrain.errors import ConfigError

    found = {}
    for one in data:
        name, equals, path = one.partition("=")
        if not equals or not path:
            raise ConfigError("--data", one, "NAME=PATH, e.g. iris=/data/iris.csv")
        found[name] = str(Path(path).resolve())
    return found


def _detach(data: list[str]) -> None:
    from evertrain.control.work import loop_alive
    from evertrain.errors import Conflict

    with here.opened() as opened:
        root = opened.home.root
        if loop_alive(opened):
            show.line("Monitoring is on already.")
            show.following("status")
            return
        out = root / "logs" / "start.log"
        with out.open("ab") as log:
            arguments = [part for one in data for part in ("--data", one)]
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "evertrain", "-C", str(root), "start", *arguments],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        from evertrain.cli.live import waiting

        with waiting("Starting"):
            deadline = time.monotonic() + 60
            while not loop_alive(opened):
                if process.poll() is not None or time.monotonic() > deadline:
                    last = out.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                    raise Conflict(f"monitoring did not start: {last[0]}. The log: {out}")
                time.sleep(0.05)
    show.line(
        f"Monitoring in the background, process {process.pid}; log: {show.quoted(root / 'logs' / 'retraining.log')}"
    )
    show.following("status")


@app.command()
def stop() -> None:
    """End monitoring; what runs gets time to finish, and every model serves on."""
    from evertrain.cli.live import waiting
    from evertrain.control.work import LOOP_ROLE, loop_alive
    from evertrain.errors import Conflict
    from evertrain.store import leases

    with here.opened() as opened:
        if not loop_alive(opened):
            show.line("Monitoring is off.")
            show.following("start --detach")
            return
        with opened.store.write() as tx:
            leases.ask_to_stop(tx, LOOP_ROLE)
        with waiting("Stopping"):
            deadline = time.monotonic() + opened.settings.drain_s + 25
            while loop_alive(opened):
                if time.monotonic() > deadline:
                    raise Conflict("the loop did not stop in time; its process is named by `evertrain status`")
                time.sleep(0.1)
    show.line("Monitoring ended; models serve on.")
    show.following("start --detach")


@app.command()
def pause(model: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Train nothing until resumed; decisions are still recorded, and everything serves."""
    _pause(model, paused=True)


@app.command()
def resume(model: Annotated[str | None, typer.Argument(help="Only this model.")] = None) -> None:
    """Train again; what became due meanwhile is taken up."""
    _pause(model, paused=False)


def _pause(model: str | None, *, paused: bool) -> None:
    from evertrain.control import steer

    with here.opened() as opened:
        steer.pause(opened, model, paused=paused, actor=here.user())
    show.line(f"{model or 'All models'} {'paused: nothing is trained, everything serves' if paused else 'resumed'}.")
    show.following(f"resume {model or ''}".strip() if paused else "status")
