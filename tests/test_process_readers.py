"""Forecasts across processes: eight readers ask all the time while one trains, edits come in, and one goes back."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evertrain import Custom, Project, Series, Settings, on_data_change
from evertrain.clock import from_text
from evertrain.control import data

from .conftest import TOYS
from .process_kit import Host, copy, one, rows, sound, until

pytestmark = pytest.mark.slow

FRUITS = ("Avocado", "Banana", "Chico", "Durian", "Guava", "Kiwi", "Mango", "Papaya")
TOWNS = ("Bagac", "Hermosa", "Orani", "Pilar", "Samal")
READERS, EDITS, FIRST = 8, 200, date(2025, 1, 1)
# `READS=1000000 pytest tests/test_process_readers.py -s` asks that often, without a rest between two questions.
READS = int(os.environ.get("READS", "0"))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project that has forecast forty partitions and nine rollups once."""
    root = tmp_path_factory.mktemp("readers") / "template"
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    project = Project("test", root=root, executor="children", settings=Settings(tick_s=0.05, check_s=3600))
    harvests = project.dataset("harvests", key="id", time="day")
    project.model(
        "kg", harvests, target="kg", series=Series(6, "D"), trainer=Custom("toys:Stamped"),
        partition_by=["fruit", "town"], rollups=[["fruit"], []], triggers=[on_data_change("0s")],
    )  # fmt: skip
    harvests.ingest(
        pl.DataFrame([row(fruit, town, number) for fruit in FRUITS for town in TOWNS for number in range(20)])
    )
    project.refresh()
    project.close()
    return root


@pytest.fixture
def root(template, tmp_path):
    return copy(template, tmp_path / "project")


def row(fruit: str, town: str, number: int) -> dict[str, Any]:
    day = FIRST + timedelta(days=number)
    return {"id": f"{fruit}-{town}-{number}", "fruit": fruit, "town": town, "day": day, "kg": 100.0 + number % 7}


class Readers:
    """Processes that ask all the time, and what they saw."""

    def __init__(self, host: Host, root: Path, folder: Path, number: int = READERS, **options: Any) -> None:
        self.root, self.stop = root, folder / "stop"
        self.into = [folder / f"reader-{place}.json" for place in range(number)]
        self.forked = [
            host.start("ask_forecasts_all_the_time", root, into=str(into), stop=str(self.stop), seed=place, **options)
            for place, into in enumerate(self.into)
        ]

    def told(self, seconds: float = 60, *, stop: bool = True) -> list[dict[str, Any]]:
        if stop:
            self.stop.touch()
        for forked in self.forked:
            assert forked.wait(seconds) == 0, forked.said
        return [json.loads(into.read_text()) for into in self.into]


def problems(root: Path, told: list[dict[str, Any]]) -> list[str]:
    """Return every answer that was missing, mixed or backward, by what the store says served when.

    An answer must be one fit's in all it says; and from one question to the next a reader may only go on in the list
    of what served its partition, which a way back makes longer.
    """
    fits = rows(
        root,
        "SELECT p.key, f.id, v.major || '.' || v.minor || '.' || v.patch, f.trained_at, f.signature, c.frame"
        " FROM fits f JOIN partitions p ON p.id = f.partition_id JOIN versions v ON v.id = f.version_id"
        " JOIN forecasts c ON c.fit_id = f.id",
    )
    known = {
        (key, version): (
            number,
            [version, json.loads(signature)["series"]["as_of"], from_text(at).isoformat(), json.loads(frame)],
        )
        for key, number, version, at, signature, frame in fits
    }
    served: dict[str, list[tuple[int, str]]] = {}
    for key, fit, at in rows(
        root, "SELECT key, fit_id, from_at FROM activations a JOIN partitions p ON p.id = a.partition_id ORDER BY a.id"
    ):
        served.setdefault(key, []).append((fit, at))
    found = [f"missing or in pieces: {error}" for reader in told for error in reader["errors"]]
    for reader in told:
        for key, answers in reader["seen"].items():
            text = json.dumps(json.loads(key), separators=(",", ":"), ensure_ascii=False)
            place, last = -1, -1
            for _, (epoch, version, as_of, at, frame) in answers:
                number, truth = known[text, version]
                if [version, as_of, at, frame] != truth:
                    found.append(f"mixed: {text} {version} as of {as_of}")
                    continue
                later = [i for i, (fit, _) in enumerate(served[text]) if fit == number and i > place]
                if not later or epoch <= last:
                    found.append(f"backward: {text} to {version}, epoch {epoch} after {last}")
                    continue
                place, last = later[0], epoch
    return found


class Edits:
    """Corrections and new days, one record at a time, each waited for: one run of a partition and its two rollups."""

    def __init__(self, root: Path) -> None:
        self.root, self.draw, self.number = root, random.Random(0), 0
        self.days = dict.fromkeys(((fruit, town) for fruit in FRUITS for town in TOWNS), 20)

    def make(self, number: int) -> None:
        project = Project.open(self.root)
        try:
            for _ in range(number):
                self._one(project)
        finally:
            project.close()

    def _one(self, project: Project) -> None:
        before = newest_run(self.root)
        place, self.number = self.draw.choice(list(self.days)), self.number + 1
        if self.number % 2:
            change = {"id": f"{place[0]}-{place[1]}-{self.draw.randrange(20)}", "kg": 200.0 + self.number}
            data.edit(project.opened, "harvests", [change], actor="test")
        else:
            added = pl.DataFrame([row(*place, self.days[place])])
            self.days[place] += 1
            data.ingest(project.opened, "harvests", added, source="", actor="test")
        ended(self.root, before + 1)


def newest_run(root: Path) -> int:
    return int(one(root, "SELECT max(id) FROM runs"))


def ended(root: Path, run: int) -> None:
    until(
        lambda: one(root, "SELECT 1 FROM runs WHERE id = ? AND ended_at IS NOT NULL", run), 60, f"the end of run {run}"
    )


@pytest.fixture
def loop(host, root):
    """Another process that trains what is due."""
    forked = host.start("loop", root)
    yield forked
    forked.signal(signal.SIGTERM)
    assert forked.wait() == 0, forked.said


def everything_again(root: Path) -> None:
    """Train all partitions and rollups, whatever they know already."""
    project = Project.open(root)
    project.trigger("kg", force=True, wait=False)
    project.close()
    ended(root, newest_run(root))


def measured(told: list[dict[str, Any]]) -> str:
    """Return how many answers there were and how long one took."""
    took = sorted(one for reader in told for one in reader["took"])
    return (
        f"{len(took)} reads by {len(told)} processes, median {1e3 * statistics.median(took):.2f} ms,"
        f" p99 {1e3 * took[len(took) * 99 // 100]:.2f} ms, longest {1e3 * took[-1]:.0f} ms"
    )


def test_no_answer_is_missing_mixed_or_backward_while_everything_and_then_every_edit_is_trained(
    host, root, loop, tmp_path
):
    """S0-06, S0-27, S0-33, P-30, P-31: eight processes ask for random partitions while a full retraining and 200
    selective ones run.
    """
    readers = Readers(host, root, tmp_path, every_s=0 if READS else 0.02, most=READS // READERS)
    began = time.monotonic()
    everything_again(root)
    edits = Edits(root)
    edits.make(EDITS)
    while READS and not all(forked.ended.is_set() for forked in readers.forked):
        edits.make(10)  # to the last question
    print(f"{edits.number + 1} runs in {time.monotonic() - began:.0f} s", end="; ")
    told = readers.told(stop=not READS)
    print(measured(told))
    assert problems(root, told) == []
    assert rows(root, "SELECT DISTINCT state FROM items") == [("promoted",)]
    assert rows(root, "SELECT count(*), sum(items) FROM runs") == [(2 + edits.number, 2 * 49 + 3 * edits.number)]
    assert sum(len(reader["took"]) for reader in told) >= (READS or 5_000)
    changes = [len(answers) for reader in told for answers in reader["seen"].values()]
    assert len(changes) == READERS * 49
    assert max(changes) > EDITS / 10, "readers saw many of the swaps"
    sound(root)


def test_only_a_way_back_lets_an_earlier_forecast_answer_again(host, root, loop, tmp_path):
    """P-32: rolled back under constant asking, every partition goes back at once, each reader once, and on from there."""
    edits = Edits(root)
    readers = Readers(host, root, tmp_path, 4, every_s=0.005)
    everything_again(root)
    project = Project.open(root)
    for _ in range(3):
        edits.make(2)
        project.rollback("kg", to="1.0.0")
    project.close()
    told = readers.told()
    assert problems(root, told) == []
    seen = [[answer[1] for _, answer in answers] for reader in told for answers in reader["seen"].values()]
    assert any("1.0.0" in versions[1:] for versions in seen), "the way back was seen"
    # The same answers without the promotions that the way back made are backward.
    with sqlite3.connect(root / "evertrain.db") as store:
        store.execute("DELETE FROM activations WHERE why LIKE 'rolled back%'")
    assert any("backward" in problem for problem in problems(root, told))


def test_a_reader_that_asks_in_two_transactions_is_caught(host, root, loop, tmp_path):
    """P-31, the mutant: champion first, values 2 ms later, so that a swap often comes between; some answers are of two
    fits, and the same eyes see them.
    """
    readers = Readers(host, root, tmp_path, 4, pause_s=0.002)
    for _ in range(5):
        everything_again(root)
    told = readers.told()
    torn = [problem for problem in problems(root, told) if "mixed" in problem]
    print(f"{len(torn)} answers of two fits; {measured(told)}")
    assert torn
