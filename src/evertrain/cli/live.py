"""Watching a run in the terminal: one line that moves, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from evertrain.cli.show import console, duration, lively
from evertrain.control import progress
from evertrain.control.opened import Opened
from evertrain.control.work import Progress
from evertrain.errors import EvertrainError
from evertrain.events import Event, Kind, numbers

_LOOK_S = 1.0


class RunProgress:
    """Turns a run's events into how far it is: "2 of 41", the last word of a trainer, and how long it takes still."""

    def __init__(self, opened: Opened, run_id: int, model: str, total: int) -> None:
        self.opened, self.run_id = opened, run_id
        self.model, self.total, self.done, self.last = model, total, 0.0, ""
        self.outcomes: dict[str, int] = {}
        self.left: float | None = None
        self._looked = 0.0

    def take(self, event: Event) -> None:
        if time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            with contextlib.suppress(EvertrainError):  # a busy store costs a look, and not the run
                found = progress.of_run(self.opened, self.run_id)
                self.left, self.done = found.eta_s, (found.fraction or 0.0) * self.total
        if event.kind == Kind.ITEMS_SETTLED:
            for state, ids in event.data["outcomes"].items():
                self.outcomes[state] = self.outcomes.get(state, 0) + len(numbers(ids))
            self.done = max(self.done, self.ended)
        elif event.kind == Kind.ITEM_PROGRESS:
            fraction = event.data.get("fraction")
            self.last = str(event.data["text"]) + (f" ({fraction:.0%})" if fraction is not None else "")
        elif event.kind == Kind.ITEMS_RETRIED:
            self.last = f"trying again: {event.data.get('reason')}"

    @property
    def ended(self) -> int:
        return sum(self.outcomes.values())

    def text(self) -> str:
        told = ", ".join(f"{number} {state}" for state, number in self.outcomes.items())
        return (
            f"{self.model}: {self.ended} of {self.total}"
            + (f" ({told})" if told else "")
            + (f", {self.last}" if self.last else "")
            + (f", about {duration(round(self.left))} left" if self.left and self.left >= _LOOK_S else "")
        )


@contextlib.contextmanager
def watching(opened: Opened, run_id: int, model: str, total: int) -> Iterator[Progress]:
    """Show a run's progress until the block ends."""
    from evertrain.partitions import printable

    state = RunProgress(opened, run_id, model, total)
    out = console()
    if not lively(sys.stdout):
        last = [""]

        def plain(event: Event) -> None:
            state.take(event)
            if event.kind in (Kind.ITEMS_SETTLED, Kind.ITEM_PROGRESS, Kind.ITEMS_RETRIED) and state.text() != last[0]:
                last[0] = state.text()
                out.print(printable(last[0]))

        yield plain
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    with Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=out,
        transient=True,
    ) as bars:
        task = bars.add_task(state.text(), total=max(total, 1))

        def live(event: Event) -> None:
            state.take(event)
            bars.update(task, completed=state.done, description=printable(state.text()))

        yield live


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what is being waited for, and in the end how long it took when that was over a second.

    On standard error: standard output is the answer, which may be JSON.
    """
    started, out = time.monotonic(), console(stderr=True)
    if lively(sys.stderr):
        with out.status(text):
            yield
    else:
        yield
    if (took := time.monotonic() - started) > 1:
        out.print(f"{text}: {took:.1f} s", style="dim")
