"""The whole loop ended by `kill -9` at its tender points, two loops on one project, and one that slept too long."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import TOYS, write_rows
from .process_kit import Host, copy, dump, nothing_left_over, one, predict, processes_in, rows, sound, until

pytestmark = pytest.mark.slow

OLD, NEW = ("1.0.0", 2.0), ("1.1.0", 3.0)
BEGUN = 1  # the fits that the template has behind it


@pytest.fixture(scope="module")
def template(tmp_path_factory, host):
    """A project that serves 1.0.0, with changed rows that were read and one item that waits."""
    root = tmp_path_factory.mktemp("kills") / "template"
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    write_rows(root / "rows.csv")
    host.run("build", root, executor="children")
    write_rows(root / "rows.csv", 70, offset=1)
    host.run("plan", root)
    assert rows(root, "SELECT state, attempt FROM items") == [("promoted", 1), ("waiting", 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root


@pytest.fixture
def root(template, tmp_path):
    return copy(template, tmp_path / "project")


@pytest.fixture
def asker(host, root, tmp_path):
    """Another process that asks all the time; returns what it has seen once it was told to stop."""
    into, stop = tmp_path / "seen.json", tmp_path / "stop"
    forked = host.start("ask_all_the_time", root, into=str(into), stop=str(stop), every_s=0.01)
    until(into.exists, what="the first answer")

    def told():
        until(lambda: NEW[0] in into.read_text(), 1, "the new version, within a second")
        stop.touch()
        assert forked.wait() == 0, forked.said
        found = json.loads(into.read_text())
        assert found["errors"] == []
        return [(version, value) for _, version, value in found["seen"]]

    return told


def begun(root: Path) -> int:
    """Return how often the trainer was called."""
    return len((root / "fitted").read_text().splitlines())


def children(root: Path) -> list[int]:
    """Return the workers that live in a project."""
    return [pid for pid, line in processes_in(root).items() if "evertrain.executors.child" in line]


def at(root: Path, kind: str) -> datetime:
    """Return when the last event of a kind was written."""
    return datetime.fromisoformat(one(root, "SELECT max(at) FROM events WHERE kind = ?", kind))


def taken_up(host: Host, root: Path) -> None:
    """Restart the loop, insist that the lost item is taken within 2 s, and let it end."""
    started = datetime.now().astimezone()
    forked = host.start("loop", root, until_idle=True)
    assert forked.wait() == 0, forked.said
    if one(root, "SELECT count(*) FROM events WHERE kind = 'items.reaped'"):
        assert (at(root, "items.reaped") - started).total_seconds() < 2
        assert (at(root, "items.claimed") - started).total_seconds() < 2


def done_once(root: Path) -> None:
    """Insist that the item was promoted exactly once, and nothing else."""
    assert predict(root) == NEW
    sound(root)
    nothing_left_over(root)
    assert one(root, "SELECT count(*) FROM items") == 2
    assert one(root, "SELECT count(*) FROM fits") == one(root, "SELECT count(*) FROM activations") == 2
    assert one(root, "SELECT count(*) FROM events WHERE kind = 'run.ended'") == 2


@pytest.mark.parametrize(
    ("point", "left", "fits"),
    [
        ("claim.after_commit", OLD, 1),
        ("artifact.before_rename", OLD, 2),
        ("artifact.after_rename", OLD, 2),
        ("settle.after_artifact", OLD, 2),
        ("settle.after_guard", OLD, 2),
        ("settle.before_commit", OLD, 2),
        ("settle.after_commit", NEW, 1),
    ],
)
def test_killed_between_two_steps_it_is_taken_up_again_and_promoted_once(host, root, asker, point, left, fits):
    """P-01, P-03, P-05: old or new as left, an answer all the while, exactly one fit more after the restart."""
    forked = host.start("loop", root, fault=f"{point}=kill")
    assert forked.wait() == -signal.SIGKILL, forked.said
    assert predict(root) == left
    sound(root)
    until(lambda: not children(root), 2, "the end of the children")
    taken_up(host, root)
    done_once(root)
    assert begun(root) == BEGUN + fits
    lost = int(left == OLD)
    assert rows(root, "SELECT attempt, crashes FROM items WHERE id = 2") == [(1 + lost, lost)]
    assert asker() == [OLD, NEW]


@pytest.mark.parametrize("all_at_once", [False, True], ids=["the loop alone", "with its children"])
def test_killed_in_the_middle_of_a_fit_it_begins_that_fit_again(host, root, asker, all_at_once):
    """P-01, P-03, P-05, S2-35: the old version answers meanwhile, and no child outlives its loop."""
    (root / "orders").write_text("wait go")
    forked = host.start("loop", root)
    until((root / "waiting").exists, what="the fit")
    own = children(root)
    for pid in [*own, forked.pid] if all_at_once else [forked.pid]:
        os.kill(pid, signal.SIGKILL)
    assert forked.wait() == -signal.SIGKILL
    until(lambda: not children(root), 2, "the end of the children")
    assert own
    assert predict(root) == OLD
    sound(root)
    (root / "go").touch()
    taken_up(host, root)
    done_once(root)
    assert begun(root) == BEGUN + 2
    assert rows(root, "SELECT attempt, crashes FROM items WHERE id = 2") == [(2, 1)]
    assert asker() == [OLD, NEW]


def test_an_item_that_was_lost_three_times_is_left_alone_until_there_is_news(host, root):
    """P-10: a loop that dies whenever it takes one item does so three times, and then works for the others."""
    for number in range(1, 4):
        forked = host.start("loop", root, fault="claim.after_commit=kill")
        assert forked.wait() == -signal.SIGKILL, forked.said
        assert rows(root, "SELECT attempt, state FROM items WHERE id = 2") == [(number, "running")]
    host.run("loop", root, until_idle=True)
    assert rows(root, "SELECT attempt, crashes, state FROM items WHERE id = 2") == [(3, 3, "dead")]
    assert predict(root) == OLD
    assert begun(root) == BEGUN
    sound(root)
    host.run("loop", root, until_idle=True)
    assert one(root, "SELECT count(*) FROM items") == 2, "without news nothing is tried"
    host.run("trigger", root)
    host.run("loop", root, until_idle=True)
    assert predict(root) == NEW


def test_a_request_that_was_acknowledged_outlives_a_loop_that_is_killed_at_once(host, root):
    """P-01: whatever `trigger` returned a run for is trained, however often the loop dies on the way."""
    host.run("loop", root, until_idle=True)
    for _ in range(3):
        host.run("trigger", root, force=True)
        fence = one(root, "SELECT max(fence) FROM items")
        forked = host.start("loop", root)
        until(lambda: one(root, "SELECT max(fence) FROM items") > fence, what="a claim")
        forked.end()
    host.run("loop", root, until_idle=True)
    sound(root)
    assert one(root, "SELECT count(*) FROM runs WHERE state <> 'succeeded'") == 0
    assert one(root, "SELECT count(*) FROM runs") == 5
    assert one(root, "SELECT wanted FROM models") <= one(root, "SELECT trained FROM partitions")


@pytest.mark.parametrize("finished", [True, False], ids=["the other is done", "the other still fits"])
def test_a_loop_that_slept_past_its_lease_writes_nothing(host, root, finished):
    """P-06: SIGSTOP, another takes over, SIGCONT with a result in hand: nothing is written, and the sleeper works on."""
    (root / "orders").write_text("wait go")
    sleeper = host.start("loop", root, settings={"lease_s": 1.8, "beat_s": 0.4})
    until((root / "waiting").exists, what="the fit")
    (root / "orders").write_text("wait later")
    owner = one(root, "SELECT owner FROM items WHERE id = 2")
    sleeper.signal(signal.SIGSTOP)
    other = host.start("loop", root)
    until(lambda: begun(root) == BEGUN + 2, what="the fit of the other")
    (root / "go").touch()
    scratch = root / ".evertrain/scratch" / owner
    until(lambda: any(path.is_file() for path in scratch.iterdir()), what="the sleeper's own result")
    if finished:
        (root / "later").touch()
        until(lambda: one(root, "SELECT state FROM items WHERE id = 2") == "promoted", what="the other's promotion")
    assert rows(root, "SELECT attempt, crashes FROM items WHERE id = 2") == [(2, 1)]

    def seen():
        return {name: found for name, found in dump(root).items() if name not in ("workers", "roles")}

    before, workers = seen(), one(root, "SELECT count(*) FROM workers")
    sleeper.signal(signal.SIGCONT)
    until(lambda: one(root, "SELECT count(*) FROM workers") == workers + 1, what="a new lease of the sleeper")
    until(lambda: not scratch.exists(), what="the sleeper's clean scratch")
    assert seen() == before
    (root / "later").touch()
    until(lambda: one(root, "SELECT state FROM items WHERE id = 2") == "promoted", what="the promotion")
    assert one(root, "SELECT w.ended_at FROM workers w WHERE owner = ?", owner)
    for forked in (sleeper, other):
        forked.signal(signal.SIGTERM)
        assert forked.wait() == 0, forked.said
    done_once(root)
    assert begun(root) == BEGUN + 2
    assert at(root, "worker.lost") < at(root, "items.settled")


def test_two_loops_train_together_but_only_one_ticks_and_the_other_takes_over(host, tmp_path):
    """P-23, P-02: a change is seen once, nothing is trained twice, and a killed ticker is replaced."""
    root = tmp_path / "two"
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    write_rows(root / "rows.csv", 180, towns=6)
    host.run("build", root, executor="inline", train=False, partition_by="town", min_samples=5)
    loops = [host.start("loop", root, settings={"batch_items": 1}) for _ in range(2)]
    until(lambda: rows(root, "SELECT state FROM runs") == [("succeeded",)], what="one run that is done")
    sound(root)
    counted = Counter((root / "fitted").read_text().splitlines())
    assert len(counted) == 7
    assert set(counted.values()) == {1}
    assert one(root, "SELECT count(*) FROM fits") == one(root, "SELECT sum(attempt) FROM items") == 7
    assert one(root, "SELECT count(*) FROM events WHERE kind = 'loop.started'") == 1
    assert one(root, "SELECT count(*) FROM events WHERE kind = 'source.read'") == 1
    ticking = json.loads(one(root, "SELECT w.process FROM roles r JOIN workers w ON w.owner = r.owner"))["pid"]
    killed, heir = sorted(loops, key=lambda forked: forked.pid != ticking)
    assert killed.pid == ticking
    since = time.monotonic()
    killed.end()
    until(lambda: one(root, "SELECT count(*) FROM events WHERE kind = 'loop.started'") == 2, 2, "an heir")
    assert time.monotonic() - since < 2
    heir.signal(signal.SIGTERM)
    assert heir.wait() == 0, heir.said
    assert one(root, "SELECT count(*) FROM runs") == 1
