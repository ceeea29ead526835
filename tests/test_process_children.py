"""Worker children that crash, hang, grow, are cancelled or drained: who is charged, who is not, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
from datetime import datetime
from pathlib import Path

import pytest

from evertrain import Project
from evertrain.control import ask

from .conftest import TOYS, write_rows
from .process_kit import Host, alive, copy, nothing_left_over, one, predict, processes_in, rows, sound, until

pytestmark = pytest.mark.slow

TOWNS = 4
# Unruly for the one partition that the file `victim` names, well-behaved for all others.
PICKY = """
import ctypes, json, os, signal, subprocess, sys
from pathlib import Path
import toys

class Picky(toys.Unruly):
    def fit(self, frame, context):
        mine = context.partition == json.loads(Path("victim").read_text()) if Path("victim").exists() else False
        word = Path("orders").read_text() if mine and Path("orders").exists() else ""
        if word == "c":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path("grandchild").write_text(str(started.pid))
            Path("waiting").touch()
            ctypes.PyDLL(None).usleep(60_000_000)
        if mine:
            return super().fit(frame, context)
        with Path("fitted").open("a") as file:
            file.write(json.dumps(context.partition) + "\\n")
        return toys.Line.fit(self, frame, context)
"""


def prepare(root: Path, host: Host, **model: object) -> Path:
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    (root / "picky.py").write_text(PICKY)
    (root / "victim").write_text("{}")
    write_rows(root / "rows.csv", 30 * TOWNS, towns=TOWNS if "partition_by" in model else 0)
    host.run("build", root, executor="children", trainer="picky:Picky", train=False, min_samples=5, **model)
    return root


@pytest.fixture(scope="module")
def towns(tmp_path_factory, host):
    """Four towns and the rollup above them, planned and not trained; T01 is the one that obeys orders."""
    root = prepare(tmp_path_factory.mktemp("children") / "towns", host, partition_by="town", memory_mb=500)
    (root / "victim").write_text('{"town": "T01"}')
    host.run("plan", root)
    assert rows(root, "SELECT state FROM items") == [("waiting",)] * (TOWNS + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root


@pytest.fixture
def root(towns, tmp_path):
    return copy(towns, tmp_path / "project")


@pytest.fixture
def running(host):
    """Start a loop that is stopped by SIGTERM at the end, in good order."""
    started = []

    def run(root, **settings):
        started.append(host.start("loop", root, settings=settings))
        return started[-1]

    yield run
    for forked in started:
        forked.signal(signal.SIGTERM)
    codes = [forked.wait(40) for forked in started]
    assert codes == [0] * len(codes), [forked.said for forked in started]


def hurry(root: Path, nth: int = 1) -> float:
    """Wait for the nth retry of a project, return for how long it would wait, and let that time be over."""
    until(lambda: one(root, "SELECT count(*) FROM events WHERE kind = 'items.retried'") == nth, what="a retry")
    later = one(root, "SELECT available_at FROM items WHERE state = 'waiting' AND reason IS NOT NULL")
    told = one(root, "SELECT max(at) FROM events WHERE kind = 'items.retried'")
    connection = sqlite3.connect(root / "evertrain.db", timeout=20)
    with contextlib.closing(connection), connection:
        connection.execute("UPDATE items SET available_at = ? WHERE state = 'waiting'", [told])
    return (datetime.fromisoformat(later) - datetime.fromisoformat(told)).total_seconds()


def victim(root: Path, what: str) -> tuple[object, ...]:
    sql = f"SELECT {what} FROM items i JOIN partitions p ON p.id = i.partition_id WHERE p.key LIKE '%T01%'"
    return rows(root, f"{sql} ORDER BY i.id DESC")[0]


def others(root: Path) -> list[tuple[object, ...]]:
    return rows(
        root,
        "SELECT i.state, i.attempt, i.crashes FROM items i JOIN partitions p ON p.id = i.partition_id"
        " WHERE p.key NOT LIKE '%T01%'",
    )


def begun(root: Path) -> list[str]:
    return (root / "fitted").read_text().splitlines() if (root / "fitted").exists() else []


def idle(root: Path) -> bool:
    return not one(root, "SELECT 1 FROM runs WHERE state IN ('queued', 'running')")


def ended_after(root: Path, kind: str) -> float:
    """Return the seconds between an event and the end of the one item."""
    ended, told = rows(root, "SELECT i.ended_at, e.at FROM items i JOIN events e ON e.kind = ?", kind)[0]
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(told)).total_seconds()


@pytest.mark.parametrize(
    ("orders", "error_class", "says"),
    [
        ("segfault", "crash", "SIGSEGV"),
        ("exit 0", "crash", "code 0 and no result"),
        ("exit 3", "crash", "code 3 and no result"),
        ("exit 137", "oom", "ran out of memory"),
        ("memory 600", "oom", "its limit is 500 MB"),
    ],
)
def test_a_child_that_dies_is_charged_to_the_one_item_it_was_at(host, root, running, orders, error_class, says):
    """P-10, P-11: the batch's others succeed at their first try, the culprit runs alone, and is dead after two."""
    (root / "orders").write_text(orders)
    running(root)
    assert hurry(root) == pytest.approx(5, abs=1)
    until(lambda: idle(root), what="the end of the run")
    state, attempt, crashes, found, reason, alone = victim(
        root, "i.state, attempt, crashes, error_class, i.reason, alone"
    )
    assert (state, attempt, crashes, found, alone) == ("dead", 2, 2, error_class, 1)
    assert says in reason
    assert others(root) == [("promoted", 1, 0)] * TOWNS
    assert rows(root, "SELECT state FROM runs") == [("partial",)]
    sound(root)


def test_what_ended_badly_is_not_tried_again_without_news_and_exactly_it_on_request(host, root, running):
    """P-10: dead causes no further fit; "retry failed only" trains that one partition and the run succeeds."""
    (root / "orders").write_text("segfault")
    running(root)
    hurry(root)
    until(lambda: idle(root), what="the end of the run")
    before = sorted(begun(root))
    host.run("loop", root, until_idle=True)
    assert sorted(begun(root)) == before, "fitted again without news"
    (root / "orders").unlink()
    project = Project.open(root)
    asked = ask.retry_failed(project.opened, 1, "a person")
    project.close()
    assert (asked.partitions, asked.total) == (1, TOWNS + 1)
    until(lambda: idle(root), what="the end of the second run")
    assert victim(root, "i.state") == ("promoted",)
    assert rows(root, "SELECT state FROM runs ORDER BY id") == [("partial",), ("succeeded",)]
    assert sorted(begun(root)) == sorted([*before, '{"town": "T01"}'])
    sound(root)


def test_an_error_that_may_pass_is_retried_later_and_later_another_one_is_final(host, root, running):
    """P-10: 5 s, then 10 s, then it has failed; the others are not held up; a plain error is final at once."""
    (root / "orders").write_text("retryable")
    running(root)
    assert hurry(root) == pytest.approx(5, abs=1)
    assert hurry(root, 2) == pytest.approx(10, abs=1)
    until(lambda: idle(root), what="the end of the run")
    assert victim(root, "i.state, attempt, crashes, error_class") == ("failed", 3, 0, "OSError")
    assert others(root) == [("promoted", 1, 0)] * TOWNS
    assert begun(root).count('{"town": "T01"}') == 3
    (root / "orders").write_text("raise")
    host.run("trigger", root, partitions=[{"town": "T01"}], force=True)
    until(lambda: idle(root), what="the end of the second run")
    assert victim(root, "i.state, attempt, i.reason") == ("failed", 1, "ValueError: the trainer is unwell")
    assert begun(root).count('{"town": "T01"}') == 4
    (root / "orders").write_text("retryable")
    host.run("trigger", root, partitions=[{"town": "T01"}], force=True)
    until(lambda: victim(root, "i.state, attempt") == ("waiting", 1), what="the retry")
    (root / "orders").unlink()
    hurry(root, 3)
    until(lambda: idle(root), what="the end of the third run")
    assert victim(root, "i.state, attempt") == ("promoted", 2)
    sound(root)


def test_a_champion_serves_while_its_successor_dies_and_what_fits_cost_is_recorded(host, root, running):
    """P-13, P-10, P-16: a dead challenger changes no champion; seconds, CPU seconds and peak memory are kept."""
    running(root)
    until(lambda: idle(root), what="the end of the run")
    costs = rows(root, "SELECT seconds, cpu_s, peak_mb FROM items")
    assert len(costs) == TOWNS + 1
    assert all(seconds > 0 and cpu >= 0 and 20 < peak < 2000 for seconds, cpu, peak in costs), costs
    assert sum(cpu for _, cpu, _ in costs) > 0
    champions = rows(root, "SELECT id, champion_id FROM partitions")
    (root / "orders").write_text("segfault")
    host.run("trigger", root, partitions=[{"town": "T01"}], force=True)
    hurry(root)
    until(lambda: idle(root), what="the end of the second run")
    assert victim(root, "i.state") == ("dead",)
    now = dict(rows(root, "SELECT id, champion_id FROM partitions"))
    assert [town for town, fit in champions if now[town] == fit and fit], "the victim's champion serves on"
    assert {town for town, fit in champions if now[town] != fit} == {
        one(root, "SELECT id FROM partitions WHERE leaf = 0")
    }
    told = rows(root, "SELECT kind FROM events WHERE run_id = 2 ORDER BY id")
    assert [kind for (kind,) in told].count("items.retried") == 1
    sound(root)


def test_a_fit_is_ended_at_its_deadline_and_cancel_ends_one_even_if_stuck_and_deaf(host, tmp_path, running):
    """P-13, P-14: stuck in a C call, ignoring SIGTERM, with a grandchild: all gone 12 s after deadline or cancel."""
    stuck = prepare(tmp_path / "stuck", host, deadline="5s")
    asked = prepare(tmp_path / "asked", host)
    obeys = prepare(tmp_path / "obeys", host, deadline="5s")
    quick = prepare(tmp_path / "quick", host)
    for root, orders in ((stuck, "c"), (obeys, "child"), (asked, "c"), (quick, "child")):
        (root / "orders").write_text(orders)
        running(root)
        until((root / "waiting").exists, what="the fit")
    for root in (asked, quick):
        project = Project.open(root)
        ask.cancel(project.opened, 1, "a person")
        project.close()
    for root in (quick, obeys, stuck, asked):
        grandchild = int((root / "grandchild").read_text())
        until(lambda: idle(root), 25, f"the end of {root.name}")
        until(lambda: not alive(grandchild), 2, "the end of what the trainer had started")
        assert [line for line in processes_in(root).values() if "sleep" in line] == []
    assert ended_after(quick, "run.cancelled") < 5, "one that hears SIGTERM needs no killing"
    assert 9 < ended_after(asked, "run.cancelled") < 12
    assert ended_after(obeys, "items.claimed") < 5 + 3
    assert 5 + 9 < ended_after(stuck, "items.claimed") < 5 + 12 + 3  # a child needs its time to start, too
    for root in (obeys, stuck):
        assert rows(root, "SELECT state, attempt, error_class FROM items") == [("failed", 1, "deadline")]
        assert rows(root, "SELECT reason FROM items") == [("took longer than its deadline of 5 s",)]
    for root in (quick, asked):
        assert rows(root, "SELECT state FROM items") == rows(root, "SELECT state FROM runs") == [("cancelled",)]
    for root in (obeys, quick, stuck, asked):
        assert one(root, "SELECT count(*) FROM fits") == 0
        assert len(begun(root)) <= 1, "without news nothing is tried again"
        sound(root)


@pytest.mark.parametrize("patient", [True, False], ids=["it ends in time", "it is cut off"])
def test_a_stop_lets_a_fit_end_or_gives_it_back_and_counts_no_try(host, towns, tmp_path, patient):
    """P-12: SIGTERM takes nothing new, ends with 0 within the drain, and what was cut off is as if never begun."""
    root = prepare(tmp_path / "stop", host)
    (root / "orders").write_text("wait go")
    forked = host.start("loop", root, settings={"drain_s": 20.0 if patient else 0.3})
    until((root / "waiting").exists, what="the fit")
    if patient:
        host.run("trigger", root, force=True)  # waits behind the one that runs, and is not begun any more
    forked.signal(signal.SIGTERM)
    if patient:
        (root / "go").touch()
    assert forked.wait(10) == 0, forked.said
    assert not [line for line in processes_in(root).values() if "executors.child" in line]
    nothing_left_over(root)
    sound(root)
    states = rows(root, "SELECT state, attempt, crashes FROM items ORDER BY id")
    assert states == ([("promoted", 1, 0), ("waiting", 0, 0)] if patient else [("waiting", 0, 0)])
    (root / "go").touch()
    host.run("loop", root, until_idle=True)
    assert one(root, "SELECT count(*) FROM items WHERE state = 'waiting'") == 0
    assert rows(root, "SELECT state, attempt, crashes FROM items ORDER BY id DESC LIMIT 1") == [("promoted", 1, 0)]
    assert predict(root)[1] == 2.0


def test_children_killed_from_outside_harm_only_the_fit_they_were_at(host, root, running):
    """P-11: an idle child that dies costs nothing; one killed in a fit costs that fit one try."""
    (root / "orders").write_text("wait go")
    running(root, children=1)
    until((root / "waiting").exists, what="the victim's fit")
    (worker,) = [pid for pid, line in processes_in(root).items() if "evertrain.executors.child" in line]
    os.kill(worker, signal.SIGKILL)
    (root / "go").touch()
    hurry(root)
    until(lambda: idle(root), what="the end of the run")
    assert victim(root, "i.state, attempt, crashes") == ("promoted", 2, 1)
    assert others(root) == [("promoted", 1, 0)] * TOWNS
    (worker,) = [pid for pid, line in processes_in(root).items() if "evertrain.executors.child" in line]
    os.kill(worker, signal.SIGKILL)
    host.run("trigger", root, force=True)
    until(lambda: idle(root) and one(root, "SELECT count(*) FROM runs") == 2, what="the end of the second run")
    assert rows(root, "SELECT state, crashes FROM items WHERE run_id = 2") == [("promoted", 0)] * (TOWNS + 1)
    sound(root)


def test_thirty_retrains_leave_memory_files_and_children_as_they_were(host, tmp_path):
    """P-40: nothing grows in the supervising process, no child is spawned anew, and nothing is left on the disk."""
    root, into = prepare(tmp_path / "soak", host), tmp_path / "measured.json"
    host.run("loop", root, until_idle=True)
    host.run("soak", root, into=str(into), rounds=30)
    measured = json.loads(into.read_text())
    assert len(measured) == 30
    settled = measured[9:]
    assert len({one["files"] for one in settled}) == 1
    assert len({tuple(one["children"]) for one in settled}) == 1
    assert settled[-1]["rss_mb"] < 1.05 * settled[0]["rss_mb"]
    assert one(root, "SELECT count(*) FROM fits") == 31
    nothing_left_over(root)
    sound(root)
