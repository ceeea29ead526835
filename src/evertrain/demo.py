"""The demo: a real project with two data files, kept fresh before your eyes, in scenes of a few seconds.

`python -m evertrain.demo` builds the folder `demo` and plays; `KEEP=1` resumes what is there and goes on watching.
Everything is the real thing: a loop in a process of its own, models trained by scikit-learn, files edited, a process
killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from evertrain import Project, registry
from evertrain.cli.show import duration, quoted
from evertrain.clock import SystemClock
from evertrain.control import data, tell
from evertrain.control.opened import Opened, open_project, reload
from evertrain.control.work import LOOP_ROLE, loop_alive
from evertrain.errors import EvertrainError
from evertrain.events import Kind, numbers
from evertrain.forecasts import Forecasts
from evertrain.serving import Predictor
from evertrain.store import demand, evaluations, items, leases, log, models

if TYPE_CHECKING:
    import pandas as pd

TOWNS = 40
_FRUITS = ("Avocado", "Banana", "Calamansi", "Durian", "Guyabano", "Jackfruit", "Mango", "Papaya")
_BATAAN = ("Abucay", "Bagac", "Balanga", "Dinalupihan", "Hermosa", "Limay", "Mariveles", "Morong", "Orani", "Orion",
           "Pilar", "Samal")  # fmt: skip
_MONTHS = 48
_DAYS, _STEP, _KNOWN_DAYS = 90, 2, 20
_DEPOTS = ("North", "Harbour", "Hills")
_WEEK = (1.15, 1.1, 1.05, 1.1, 1.3, 0.8, 0.5)  # deliveries of each weekday, Monday first
_STORE = "sqlite:///evertrain.db"
_PATIENCE_S = 90
_RECORDED_WIDTH = 112

_PROJECT = '''"""The demo project: models on two files, and forecasts of records that Evertrain keeps.

Change it and run `evertrain reload`.
"""

from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import Ridge

from evertrain import (
    CsvFile, Dimension, Gate, Project, Series, SklearnForecaster, max_age, on_data_change, on_score_drop, weekly,
)

project = Project("demo")

# Fisher's iris flowers, as scikit-learn ships them.
iris = project.source("iris", CsvFile("data/raw/iris.csv"))
project.model(
    "iris",
    iris,
    target="species",
    trainer=RandomForestClassifier(),
    scores=["accuracy", "f1"],
    triggers=[on_data_change(quiet="1s"), max_age("24h"), weekly("wed", "03:00"), on_score_drop("5%")],
    gate=Gate("accuracy", tolerance="5%"),
    min_samples=50,
)

# Generated prices, labelled so: one model for each town, and one for all.
housing = project.source("housing", CsvFile("data/raw/housing.csv", key=["id"]))
project.model(
    "housing",
    housing,
    target="price",
    trainer=RandomForestRegressor(n_estimators=30),
    triggers=[on_data_change(quiet="1s"), max_age("48h")],
    partition_by="town",
    min_samples=30,
)

# Generated harvest records, labelled so: a forecast for each fruit in each of the 12 towns of Bataan, and for each fruit.
harvests = project.dataset("harvests", key=["record_id"], time="month")
project.model(
    "harvest",
    harvests,
    target="kg",
    trainer=SklearnForecaster(Ridge()),
    series=Series(h=6, freq="MS"),
    partition_by=[Dimension("fruit", "fruit", "fruits"), Dimension("town", "town", "towns")],
    rollups=[["fruit"]],
    triggers=[on_data_change(quiet="0s")],
)
'''

_DAYS_PROJECT = f'''"""What the demo replayed: {_DAYS} days of a delivery service, generated."""

from sklearn.linear_model import Ridge

from evertrain import Project, Series, SklearnForecaster, monthly, on_drift, weekly

project = Project("days", executor="inline")
deliveries = project.dataset("deliveries", key="id", time="at")

# How long a delivery takes: looked at for drift, and trained anew when that is found.
project.model(
    "minutes",
    deliveries,
    target="minutes",
    trainer="sklearn.linear_model:LinearRegression",
    triggers=[on_drift("{_STEP}d"), monthly("03:00")],
    features=["km", "parcels"],
    min_samples=200,
)

# How many parcels each depot will have to bring: every Monday.
project.model(
    "parcels",
    deliveries,
    target="parcels",
    trainer=SklearnForecaster(Ridge()),
    series=Series(h=14, freq="D"),
    partition_by="depot",
    triggers=[weekly("mon", "03:00")],
)
'''


@dataclass
class Screen:
    """What is seen: lines with their moment, one live line in a terminal, and the recording of it all."""

    console: Console
    recorder: Console
    started: float = field(default_factory=time.monotonic)
    moments: list[float] = field(default_factory=list)
    live: bool = False

    def line(self, text: str = "", style: str = "") -> None:
        self._clear()
        moment = time.monotonic() - self.started
        before = "" if self.console.is_terminal else f"{moment:6.1f} s  "
        self.console.print(Text((before + text).rstrip(), style=style))
        # Wrapped lines keep their indent in the recording.
        shown = Padding(Text(text.strip() or " ", style=style), (0, 0, 0, len(text) - len(text.lstrip())))
        self.moments += [moment] * len(self.recorder.render_lines(shown))
        self.recorder.print(shown)

    def scene(self, number: int, text: str) -> None:
        self.line()
        self.line(f"{number}. {text}", "bold cyan")

    def progress(self, text: str) -> None:
        """Show how far something is: one line that moves, or nothing new where there is no terminal."""
        if self.console.is_terminal:
            width = self.console.width - 4
            sys.stdout.write(f"\r\x1b[2K   {text[:width]}")
            sys.stdout.flush()
            self.live = True

    def table(self, rows: list[tuple[str, str]]) -> None:
        for name, value in rows:
            self.line(f"   {name:<34} {value}")

    def _clear(self) -> None:
        if self.live:
            sys.stdout.write("\r\x1b[2K")
            self.live = False


@dataclass
class Play:
    """The demo under way: its folder, its loop process, and what was counted."""

    root: Path
    screen: Screen
    opened: Opened
    loop: subprocess.Popen[bytes] | None = None
    seen: int = 0
    avoided: int = 0
    saved_s: float = 0.0

    def start_loop(self) -> None:
        with (self.root / "logs" / "start.log").open("ab") as out:
            self.loop = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "evertrain", "-C", str(self.root), "start"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.wait(lambda: loop_alive(self.opened), "starting")

    def stop_loop(self) -> None:
        if self.loop is None:
            return
        with contextlib.suppress(EvertrainError), self.opened.store.write() as tx:
            leases.ask_to_stop(tx, LOOP_ROLE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.loop.wait(timeout=40)
        if self.loop.poll() is None:
            os.killpg(self.loop.pid, signal.SIGKILL)
            self.loop.wait()
        self.loop = None

    def wait(self, until: Callable[[], Any], text: str) -> Any:
        """Wait until something is true, showing how far running items are; a demo that hangs says so and ends."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (found := until()):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{text} took longer than {_PATIENCE_S} s; the log is {self.root / 'logs' / 'retraining.log'}"
                )
            if self.loop is not None and self.loop.poll() is not None:
                last = (self.root / "logs" / "start.log").read_text(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"the loop ended by itself: {(last or ['it said nothing'])[0]}")
            self.screen.progress(f"{text}{self._far()}")
            time.sleep(0.1)
        return found

    def _far(self) -> str:
        run = next(iter(tell.run_list(self.opened, limit=1)), None)
        return f": {run['model']}, {run['done']} of {run['partitions']}" if run and run["state"] == "running" else ""

    def runs_after(self, number: int) -> list[dict[str, Any]]:
        return [one for one in tell.run_list(self.opened, limit=50) if one["run"] > number]

    def newest_run(self) -> int:
        return max((one["run"] for one in tell.history(self.opened, limit=1)), default=0)

    def decision(self, model: str, after: str) -> dict[str, Any] | None:
        """Return the answer of the data trigger if it was given after `after`."""
        found = next((one for one in tell.why(self.opened, model)["decisions"] if one["rule"] == "data_change"), None)
        return found if found and found["last_at"] > after else None

    def now(self) -> str:
        with self.opened.store.read() as tx:
            return tx.now_text

    def ended(self, model: str, after: int, text: str) -> dict[str, Any]:
        """Wait for the next run of a model to end."""

        def done() -> dict[str, Any] | None:
            return next(
                (
                    one
                    for one in self.runs_after(after)
                    if one["model"] == model and one["state"] not in ("queued", "running")
                ),
                None,
            )

        found: dict[str, Any] = self.wait(done, text)
        return found

    def seconds_of_all(self, model: str) -> float:
        """Return what one full retraining of a model takes, by its last measured fits."""
        with self.opened.store.read() as tx:
            found = models.by_name(tx, model)
            return (found.seconds_each or 0.0) * demand.live(tx, found.id)


# --- the scenes -------------------------------------------------------------------------------------------------


def play(root: Path, screen: Screen) -> int:
    """Play all scenes in a fresh folder."""
    _build(root)
    screen.line(
        f"Evertrain keeps models fresh. Eleven scenes in {_relative(root)}, under two minutes, nothing acted;", "bold"
    )
    screen.line(f"every step is written to {_relative(root / 'logs' / 'retraining.log')}.", "bold")
    opened = open_project(root, store=_STORE, actor="demo")
    show = Play(root, screen, opened)
    try:
        for number, scene in enumerate(
            (
                _first,
                _good_rows,
                _touched,
                _shuffled,
                _one_town,
                _killed,
                _rollback,
                _harvests,
                _corrected,
                _ninety_days,
            ),
            start=1,
        ):
            scene(show, number)
        _closing(show)
        show.stop_loop()
        _dashboard(show)
    finally:
        show.stop_loop()
        opened.close()
    return 0


def _first(show: Play, number: int) -> None:
    show.screen.scene(
        number,
        f"Two models have no champion yet, so both are trained: iris, and housing for {TOWNS} towns and Overall.",
    )
    show.start_loop()

    def trained() -> bool:
        found = _of_files(show)
        return len(found) == 2 and all(one.serving == one.partitions > 0 and not one.open_items for one in found)

    show.wait(trained, "training")
    for one in _of_files(show):
        many = f", {one.partitions} partitions" if one.partitions > 1 else ""
        show.screen.line(f"   {one.name} {one.versions[0]} serves: {tell.shown_score(one)}{many}", "green")


def _of_files(show: Play) -> list[tell.ModelStatus]:
    return [one for one in tell.status(show.opened).models if one.name in ("iris", "housing")]


def _good_rows(show: Play, number: int) -> None:
    show.screen.scene(
        number, "Forty more flowers are appended to iris.csv: that model alone is retrained, compared and promoted."
    )
    before = show.newest_run()
    with (show.root / "data/raw/iris.csv").open("a") as file:
        file.writelines(_flowers()[111:])
    run = show.ended("iris", before, "waiting for the file to lie still, then training")
    show.saved_s += show.seconds_of_all("housing")
    _verdict(show, run)


def _touched(show: Play, number: int) -> None:
    show.screen.scene(
        number, "housing.csv is saved again without a change: its time is new, its rows are not, nothing is trained."
    )
    since = show.now()
    (show.root / "data/raw/housing.csv").touch()
    answer = show.wait(lambda: show.decision("housing", since), "looking at the rows")
    show.avoided += TOWNS + 1
    show.saved_s += show.seconds_of_all("housing")
    show.screen.line(f"   not trained: {answer['reason']}", "yellow")


def _shuffled(show: Play, number: int) -> None:
    show.screen.scene(number, "Somebody shuffles the labels of iris.csv; the model trained on that must not serve.")
    path, before = show.root / "data/raw/iris.csv", show.newest_run()
    good = path.read_text()
    _replace(path, _with_shuffled_labels(good))
    run = show.ended("iris", before, "training on the shuffled labels")
    _verdict(show, run)
    answer = Predictor(show.opened.store, show.opened.artifacts, "iris").answer(
        {"sepal_length": [5.1], "sepal_width": [3.5], "petal_length": [1.4], "petal_width": [0.2]}
    )
    show.screen.line(f"   asked for a small flower, {answer.versions[0]} still answers {answer.values[0]}", "green")
    since = show.now()
    _replace(path, good)
    show.wait(lambda: show.decision("iris", since) and not tell.status(show.opened).running, "putting the labels back")
    show.wait(lambda: not any(one.open_items for one in tell.status(show.opened).models), "putting the labels back")


def _one_town(show: Play, number: int) -> None:
    show.screen.scene(
        number, "Six houses are sold in Town 07: its model and Overall are retrained, the other towns left alone."
    )
    before = show.newest_run()
    with (show.root / "data/raw/housing.csv").open("a") as file:
        file.writelines(_houses("Town 07", 6, first=100_000))
    run = show.ended("housing", before, "training")
    left = TOWNS + 1 - run["partitions"]
    show.avoided += left
    show.saved_s += show.seconds_of_all("housing") * left / (TOWNS + 1)
    show.screen.line(
        f"   {run['partitions']} of {TOWNS + 1} trained in {duration(run['duration_s'])}, {left} left alone; {run['verdict']}",
        "green",
    )


def _killed(show: Play, number: int) -> None:
    show.screen.scene(
        number, "All of housing is retrained by hand, and its process is killed with SIGKILL in the middle."
    )
    before = show.newest_run()
    subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "evertrain", "-C", str(show.root), "trigger", "housing", "--force", "--no-wait"],
        check=True,
        stdout=subprocess.DEVNULL,
    )

    def some() -> int:
        found = show.runs_after(before)
        return found[0]["done"] if found and found[0]["done"] >= 8 else 0

    done = show.wait(some, "training")
    assert show.loop is not None
    os.kill(show.loop.pid, signal.SIGKILL)
    show.loop.wait()
    show.loop = None
    show.screen.line(f"   killed after {done} of {TOWNS + 1}; restarting", "yellow")
    show.start_loop()
    run = show.ended("housing", before, "going on where it stopped")
    with show.opened.store.read() as tx:
        settled = [
            one
            for event in log.of_run(tx, run["run"])
            if event.kind == Kind.ITEMS_SETTLED
            for ids in event.data["outcomes"].values()
            for one in numbers(ids)
        ]
        waiting = items.open_counts(tx)
    twice = len(settled) - len(set(settled))
    show.screen.line(
        f"   resumed: {len(set(settled))} of {TOWNS + 1} done, {twice} ended twice, {sum(waiting.values())} left over",
        "green",
    )


def _rollback(show: Play, number: int) -> None:
    show.screen.scene(number, "One command takes the iris model back to the version before.")
    command = [sys.executable, "-m", "evertrain", "-C", str(show.root), "rollback", "iris"]
    show.screen.line(f"   $ {_command('rollback iris', show.root)}", "dim")
    show.screen.progress("trying the earlier model, then swapping it in")
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    show.screen.line(f"   {next(one for one in answer.splitlines() if one.startswith('Rolled back'))}", "green")


def _harvests(show: Play, number: int) -> None:
    series = len(_FRUITS) * (len(_BATAAN) + 1)
    show.screen.scene(
        number,
        f"Four years of harvest records (generated, with a season) are ingested: {len(_FRUITS)} fruits, the"
        f" {len(_BATAAN)} towns of Bataan, {series} forecasts.",
    )
    batch = data.ingest(show.opened, "harvests", show.root / "data/raw/harvests.csv", actor="demo")
    show.screen.line(f"   {batch}")

    def ready() -> bool:
        found = next(one for one in tell.status(show.opened).models if one.name == "harvest")
        return found.serving == series and not found.open_items

    before = time.monotonic()
    show.wait(ready, "fitting, testing and forecasting")
    took = time.monotonic() - before
    show.screen.line(
        f"   {series} forecasts of 6 months are stored after {duration(took)}, each backtested first", "green"
    )


def _corrected(show: Play, number: int) -> None:
    fruit, town = "Avocado", "Hermosa"
    show.screen.scene(
        number,
        f"One record of {fruit} in {town} was typed ten times too high; it is corrected, and two forecasts follow.",
    )
    reader = Forecasts(show.opened.store, show.opened.artifacts, "harvest")
    named = [{"fruit": fruit, "town": town}, {"fruit": fruit}]
    before, all_before = [reader.read(one) for one in named], _stored(show)
    wrong = _slip()
    edit = {"record_id": wrong["record_id"], "kg": wrong["kg"] / 10}
    run = show.newest_run()
    batch = data.edit(show.opened, "harvests", [edit], actor="demo")
    for said in data.announcements(show.opened, batch):
        show.screen.line(f"   {said}")
    show.ended("harvest", run, "training two of 104")
    after, all_after = [reader.read(one) for one in named], _stored(show)
    for old, new in zip(before, after, strict=True):
        show.screen.line(
            f"   {old.partition:<17} {old.version} -> {new.version}   next 6 months"
            f" {sum(old.mean):>8,.0f} kg -> {sum(new.mean):>8,.0f} kg",
            "green",
        )
    same = sum(all_before[key] == all_after[key] for key in all_after)
    show.avoided += same
    show.saved_s += show.seconds_of_all("harvest") * same / len(all_after)
    show.screen.line(f"   {same} other forecasts are the same to the last bit, and were readable all the time")


def _stored(show: Play) -> dict[str, str]:
    """Return every stored forecast of the harvest, by partition."""
    with show.opened.store.read() as tx:
        return {row.key: row.frame for row in registry.all_forecasts(tx, "harvest")}


def _ninety_days(show: Play, number: int) -> None:
    """Replay ninety days of a delivery service: its own project, its own clock, its own models; all else is real."""
    show.screen.scene(
        number, f"{_DAYS} days of deliveries (generated) in seconds: a moved clock, a drift check every {_STEP} days."
    )
    root, clock = show.root / "days", _Past(days=_DAYS + _KNOWN_DAYS)
    root.mkdir()
    (root / "project.py").write_text(_DAYS_PROJECT)
    with contextlib.closing(open_project(root, store=_STORE, clock=clock)) as opened:
        reload(opened)
    project = Project.open(root, clock=clock)
    days = _Deliveries(clock)
    clock.advance(days=_KNOWN_DAYS)
    data.ingest(project.opened, "deliveries", days.last(_KNOWN_DAYS), actor="demo")
    project.refresh()
    predictor, told, started = project.predictor("minutes"), "", time.monotonic()
    for day in range(_STEP, _DAYS + 1, _STEP):
        clock.advance(days=_STEP)
        rows = days.last(_STEP, longer=day > _DAYS // 3, slower=day > 2 * _DAYS // 3)
        project.observe(
            "minutes", rows[["id", "at", "km", "parcels"]], predictions=predictor.predict(rows), id="id", time="at"
        )
        project.actuals("minutes", rows[["id", "minutes"]])
        data.ingest(project.opened, "deliveries", rows, actor="demo")
        project.refresh()
        decision = next(one for one in tell.why(project.opened, "minutes")["decisions"] if one["rule"] == "drift")
        if decision["code"] != told and decision["code"] not in ("few_rows", "steady"):
            style = "green" if decision["fired"] else "yellow"
            did = "trained" if decision["fired"] else "not trained"
            show.screen.line(f"   day {day}: {decision['severity'].upper()}, {did}: {decision['reason']}", style)
            if decision["fired"]:
                _verdict(show, tell.run_list(project.opened, "minutes", 1)[0])
        told = decision["code"]
        if day == _DAYS // 2 + 1:
            _stopwatch(show, project, days, day)
        show.screen.progress(f"day {day} of {_DAYS}")
    back = project.rollback("parcels", partition={"depot": "North"}, why="the depot asked for the old forecast")
    show.screen.line(f"   day {_DAYS}: a person takes the forecast of one depot back to {back.after}", "yellow")
    checks = project.what_if("minutes", days=_DAYS)
    runs = sum(one["cause"] == "drift" for one in project.history("minutes"))
    show.avoided += checks.checks - runs
    show.screen.line(
        f"   {checks.checks} checks in {duration(time.monotonic() - started)}, {runs} training; the rule of older scripts, any"
        f" column with p < 0.05, asks for one at {_by_old_rules(project)} of them"
    )
    project.close()
    # From here on it lives in real time: trained by processes of their own, as any project is.
    (root / "project.py").write_text(_DAYS_PROJECT.replace(', executor="inline"', ""))
    with contextlib.closing(open_project(root, store=_STORE)) as opened:
        reload(opened)


def _stopwatch(show: Play, project: Project, days: _Deliveries, day: int) -> None:
    """Let a broken stopwatch write nonsense, somebody train on it, and take the batch back when that was refused."""
    batch = data.ingest(project.opened, "deliveries", days.nonsense(400), source="stopwatch.csv", actor="demo")
    project.trigger("minutes")
    show.screen.line(f"   day {day}: a broken stopwatch's 400 rows come in, and somebody trains on them", "yellow")
    _verdict(show, tell.run_list(project.opened, "minutes", 1)[0])
    data.undo(project.opened, "deliveries", batch.number, actor="demo")


def _by_old_rules(project: Project) -> int:
    """Return how many of the checks had any column with an uncorrected p below 0.05, as older scripts decide."""
    with project.opened.store.read() as tx:
        past = evaluations.history(tx, models.by_name(tx, "minutes").id, datetime(2000, 1, 1, tzinfo=UTC), _DAYS)
    found = [one.decision.found for one in past if one.decision.found]
    return sum(any(one.kind == "ks" and one.p is not None and one.p < 0.05 for one in check.signals) for check in found)


class _Past(SystemClock):
    """The real clock, some days ago: what is done takes as long as it takes, and days pass when they are told to."""

    def __init__(self, days: int) -> None:
        self._behind = timedelta(days=days)

    def now(self) -> datetime:
        return super().now() - self._behind

    def advance(self, days: int) -> None:
        self._behind -= timedelta(days=days)


class _Deliveries:
    """Days of a delivery service: 60 a day and fewer on weekends, 3 minutes a kilometre and 2 a parcel.

    Later come longer ways, then road works.
    """

    def __init__(self, clock: _Past) -> None:
        import numpy as np

        self.clock, self.rng, self.count = clock, np.random.default_rng(11), 0

    def last(self, days: int, *, longer: bool = False, slower: bool = False) -> pd.DataFrame:
        import pandas as pd

        now = self.clock.now()
        at = [
            day + timedelta(minutes=1440 * place / number)
            for day in (now - timedelta(days=back) for back in range(days, 0, -1))
            for number in (round(60 * _WEEK[day.weekday()]),)
            for place in range(number)
        ]
        rows = pd.DataFrame(
            {
                "id": range(self.count, self.count + len(at)),
                "at": at,
                "km": self.rng.gamma(4, 2, len(at)) + (2.5 if longer else 0.0),
                "parcels": self.rng.integers(1, 30, len(at)),
                "depot": self.rng.choice(_DEPOTS, len(at), p=[0.5, 0.3, 0.2]),
            }
        )
        self.count += len(at)
        pace = 4.0 if slower else 3.0
        return rows.assign(minutes=5 + pace * rows.km + 2 * rows.parcels + self.rng.normal(0, 3, len(at)))

    def nonsense(self, number: int) -> pd.DataFrame:
        """Return deliveries whose minutes have nothing to do with them."""
        rows = self.last(number // 60 + 2).tail(number)
        return rows.assign(minutes=self.rng.uniform(0, 400, len(rows)))


def _closing(show: Play) -> None:
    found = tell.history(show.opened, limit=100)
    ends: dict[str, int] = {}
    for one in found:
        for state, count in one["outcomes"].items():
            ends[state] = ends.get(state, 0) + count
    took = sum(one["duration_s"] or 0 for one in found)
    show.screen.line()
    show.screen.line("What it came to", "bold cyan")
    show.screen.table(
        [
            ("fits promoted", str(ends.get("promoted", 0))),
            ("fits refused", str(ends.get("rejected", 0))),
            ("trainings found needless", str(ends.get("skipped", 0))),
            ("trainings avoided", f"{show.avoided} (retraining everything at every change would have done them)"),
            ("seconds spent training", duration(took)),
            ("seconds saved", f"{duration(show.saved_s)} against retraining all models at every change"),
        ]
    )
    show.screen.line()
    show.screen.line("Look around:", "bold")
    again = "make demo" if Path("Makefile").exists() else f"{_python()} -m evertrain.demo"
    for command in ("status", "why iris", "history", "forecast harvest -p fruit=Mango,town=Orani"):
        show.screen.line(f"   {_command(command, show.root)}")
    show.screen.line(f"   {_command('why minutes', show.root / 'days')}")
    show.screen.line(f"Go on watching: KEEP=1 {again}, then edit the files in {_relative(show.root / 'data' / 'raw')}.")


def _dashboard(show: Play) -> None:
    """Serve the ninety days, open every page as a browser would, and stay there where somebody looks."""
    show.screen.scene(11, "The same as pages: forecasts, scores, drift, runs and reports of the ninety days.")
    root, port = show.root / "days", _free_port()
    address = f"http://127.0.0.1:{port}"
    (root / "logs").mkdir(exist_ok=True)
    with (root / "logs" / "serve.log").open("ab") as out:
        served = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "evertrain", "-C", str(root), "serve", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        show.wait(lambda: served.poll() is not None or _page(f"{address}/health"), "starting")
        pages = [
            "/",
            "/models/minutes",
            "/models/parcels",
            "/runs",
            "/data",
            "/schedules",
            "/decisions",
            "/events",
            "/report",
        ]
        slowest = 0.0
        for path in pages:
            begun = time.monotonic()
            if not _page(address + path):
                raise RuntimeError(f"{path} did not open; the log is {root / 'logs' / 'serve.log'}")
            slowest = max(slowest, time.monotonic() - begun)
        show.screen.line(f"   {len(pages)} pages opened, the slowest in {duration(slowest)}", "green")
        show.screen.line()
        if not sys.stdout.isatty():
            show.screen.line(f"Open them: {_command('serve', root)}, then http://127.0.0.1:8000", "bold")
            return
        show.screen.line(f"They are at {address} until Ctrl-C; later: {_command('serve', root)}", "bold")
        with contextlib.suppress(KeyboardInterrupt):
            served.wait()
    finally:
        if served.poll() is None:
            served.terminate()
            served.wait(60)


def _page(address: str) -> bool:
    """Return whether a page opens."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310 - our own, on this machine
            return int(answer.status) == 200
    except OSError:
        return False


def _free_port() -> int:
    """Return 8000, where people look for it, else another port that nobody uses."""
    for port in (8000, 0):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                return int(one.getsockname()[1])
    raise RuntimeError("no port is free")


def _verdict(show: Play, run: dict[str, Any]) -> None:
    promoted = run["counts"].get("promoted")
    shifted = f" {run['old_version']} -> {run['new_version']}" if promoted else ""
    word = "promoted" if promoted else "refused" if run["counts"].get("rejected") else run["state"]
    show.screen.line(f"   {word}{shifted}: {run['verdict']}", "green" if promoted else "yellow")


def keep(root: Path, screen: Screen) -> int:
    """Resume what is there and go on watching until interrupted, telling what happens."""
    opened = open_project(root, store=_STORE, actor="demo")
    show = Play(root, screen, opened)
    screen.line(
        f"Resuming {_relative(root)}. Edit the files in {_relative(root / 'data' / 'raw')}; Ctrl-C ends.", "bold"
    )
    with opened.store.read() as tx:
        show.seen = log.newest(tx)
    alive = loop_alive(opened)
    try:
        if not alive:
            show.start_loop()
        while True:
            with opened.store.read() as tx:
                found = log.after(tx, show.seen, kinds=[Kind.DECISION_FIRED, Kind.RUN_ENDED])
            for event in found:
                show.seen = event.id
                if event.kind == Kind.DECISION_FIRED:
                    screen.line(f"   {event.model}: {event.data['reason']}")
                elif event.run_id:
                    _verdict(show, tell.run_detail(opened, event.run_id))
            screen.progress("watching")
            time.sleep(0.3)
    except KeyboardInterrupt:
        screen.line("Ending; models serve on.")
    finally:
        show.stop_loop()
        opened.close()
    return 0


# --- the data ---------------------------------------------------------------------------------------------------


def _build(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    (root / "data" / "raw").mkdir(parents=True)
    (root / "logs").mkdir()
    (root / "project.py").write_text(_PROJECT)
    (root / "data/raw/iris.csv").write_text("".join(_flowers()[:111]))
    rows = [line for number in range(TOWNS) for line in _houses(f"Town {number:02d}", 60, first=number * 60)]
    (root / "data/raw/housing.csv").write_text("id,town,area_m2,rooms,age_years,price\n" + "".join(rows))
    lines = (f"{one['record_id']},{one['fruit']},{one['town']},{one['month']},{one['kg']}\n" for one in _records())
    (root / "data/raw/harvests.csv").write_text("record_id,fruit,town,month,kg\n" + "".join(lines))


def _flowers() -> list[str]:
    """Return the 150 real iris flowers as CSV lines under a header, in a fixed shuffled order."""
    import numpy as np
    from sklearn.datasets import load_iris

    found = load_iris()
    order = np.random.default_rng(7).permutation(150)
    lines = ["sepal_length,sepal_width,petal_length,petal_width,species\n"]
    for place in order:
        values = ",".join(f"{value:.1f}" for value in found.data[place])
        lines.append(f"{values},{found.target_names[found.target[place]]}\n")
    return lines


def _houses(town: str, number: int, *, first: int) -> Iterator[str]:
    """Return generated houses: a price that a model can learn, another level in each town, and noise."""
    import numpy as np

    random = np.random.default_rng([first, number, *town.encode()])
    level = 900 + 40 * (sum(town.encode()) % 17)
    for place in range(number):
        area, rooms, age = random.uniform(35, 180), int(random.integers(1, 7)), int(random.integers(0, 90))
        price = level * area + 9_000 * rooms - 450 * age + random.normal(0, 9_000)
        yield f"{first + place},{town},{area:.1f},{rooms},{age},{price:.0f}\n"


def _records() -> Iterator[dict[str, Any]]:
    """Return generated harvests of the last four years: a season for each fruit, a level for each town, and noise."""
    import numpy as np

    random = np.random.default_rng(12)
    today = date.today()  # noqa: DTZ011 - months of people's calendar
    last = today.year * 12 + today.month - 2
    number = 0
    for fruit_number, fruit in enumerate(_FRUITS):
        for town_number, town in enumerate(_BATAAN):
            level = 120 + 35 * ((fruit_number * 5 + town_number * 3) % 11)
            for month in range(last - _MONTHS + 1, last + 1):
                season = 1 + 0.45 * np.sin(2 * np.pi * (month + 1.5 * fruit_number) / 12)
                kg = level * season * (1 + 0.004 * (month - last)) + random.normal(0, 0.04 * level)
                number += 1
                slipped = 10 if (fruit, town, month) == ("Avocado", "Hermosa", last - 9) else 1
                day = f"{month // 12}-{month % 12 + 1:02}-01"
                yield {"record_id": number, "fruit": fruit, "town": town, "month": day, "kg": round(kg * slipped, 1)}


def _slip() -> dict[str, Any]:
    """Return the record that was typed ten times too high."""
    own = [one for one in _records() if (one["fruit"], one["town"]) == ("Avocado", "Hermosa")]
    return max(own, key=lambda one: float(one["kg"]))


def _with_shuffled_labels(text: str) -> str:
    import numpy as np

    head, *lines = text.splitlines()
    rows = [line.rpartition(",") for line in lines]
    labels = np.random.default_rng(3).permutation([row[2] for row in rows])
    return "\n".join([head, *(f"{row[0]},{label}" for row, label in zip(rows, labels, strict=True))]) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write a file beside and rename it, as careful programs do."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


# --- around it --------------------------------------------------------------------------------------------------


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _python() -> str:
    found = Path(sys.executable)
    return quoted(_relative(found)) if found.is_relative_to(Path.cwd()) else quoted(found)


def _command(command: str, root: Path) -> str:
    """Return a command that works when pasted here, whether or not an environment is active."""
    script = Path(sys.executable).with_name("evertrain")
    if (on_path := shutil.which("evertrain")) and Path(on_path).resolve() == script.resolve():
        program = "evertrain"
    else:
        program = quoted(_relative(script)) if script.exists() else f"{_python()} -m evertrain"
    return f"{program} -C {quoted(_relative(root))} {command}"


def record(screen: Screen, path: Path) -> None:
    """Write what was seen as an SVG that plays: each line appears at its moment, waits shortened."""
    svg = screen.recorder.export_svg(title="make demo", clear=False)
    shown, last, clock = [], 0.0, 0.0
    for moment in screen.moments:
        clock += min(moment - last, 1.5)
        last = moment
        shown.append(clock)

    def appear(found: re.Match[str]) -> str:
        number = int(found[2])
        at = shown[min(number, len(shown) - 1)] if shown else 0.0
        return f'{found[1]} style="animation: appear 0.2s {at:.2f}s both"{found[3]}'

    svg = re.sub(r'(<text class="[^"]*")(?=[^>]*clip-path="url\(#[^"]*-line-(\d+)\)")([^>]*>)', appear, svg)
    # Where animations are not played, every line simply stands there.
    svg = svg.replace("<style>", "<style>@keyframes appear { from { opacity: 0 } to { opacity: 1 } }", 1)
    path.write_text(svg)


def main() -> int:
    """Run the demo and return the exit code."""
    root = Path(os.environ.get("DEMO", "demo")).resolve()
    resume = os.environ.get("KEEP") not in (None, "", "0") and (root / "project.py").is_file()
    width = None if sys.stdout.isatty() else 1000
    recorder = Console(record=True, file=io.StringIO(), width=_RECORDED_WIDTH, force_terminal=True, highlight=False)
    screen = Screen(Console(highlight=False, emoji=False, width=width), recorder)
    try:
        code = keep(root, screen) if resume else play(root, screen)
    except KeyboardInterrupt:
        screen.line("Interrupted; what was trained serves on.")
        return 130
    except (TimeoutError, RuntimeError, EvertrainError, OSError) as error:
        screen.line(f"The demo stopped: {error}", "red")
        return 1
    if not resume:
        recording = root / "recording.svg"
        record(screen, recording)
        screen.line(f"A recording of this: {_relative(recording)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
