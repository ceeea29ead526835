"""The service as a process: readers during swaps, a way back through two workers, and an end in good order."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from benchmarks.load import Asked
from benchmarks.service import FRUITS, PATH, Serving, farm, load, paths, problems, serving, swaps, token_of

from evertrain import Project
from evertrain.control import ask
from evertrain.control.opened import open_project

from .process_kit import copy, one, rows, until

pytestmark = pytest.mark.slow

SLOW = '''

class Slow(Stamped):
    """Takes its time while there is a file `slow`."""

    def fit(self, frame, context):
        from pathlib import Path
        while Path("slow").exists():
            time.sleep(0.05)
        return super().fit(frame, context)


Stamped = Slow
'''


@pytest.fixture(scope="module")
def template():
    """A project of five partitions and two rollups that were trained five times."""
    with farm(5, FRUITS[:1]) as root:
        (root / "toys.py").write_text((root / "toys.py").read_text() + SLOW)
        yield root


@pytest.fixture
def root(template, tmp_path):
    return copy(template, tmp_path / "project")


def test_readers_during_swaps_see_no_error_nothing_mixed_and_nothing_backward(root):
    """P-30, P-31: fifty readers, five seconds, every forecast swapped ten times a second by another process."""
    secret = token_of(root)
    with serving(root, "--require-token", "--no-loop") as service:
        asked = Asked(service.address, paths(root), 50, 5.0, pause_s=0.02, check=True, token=secret, streams=20)
        with swaps(root, 7.0, 0.1):
            told = load(asked)
    assert problems(root, told) == []
    assert (told.stale, told.streams_open) == (0, 20)
    assert told.requests > 1_000
    assert len({change[3].split()[0] for changes in told.seen.values() for change in changes}) >= 3, "swaps were seen"
    assert told.stream_bytes > 0


def asked_anew(service: Serving) -> str:
    """Ask over a connection of its own, which either worker may take."""
    with urllib.request.urlopen(f"http://{service.address}{PATH}?fruit=Avocado") as found:
        return json.load(found)["version"]


def test_a_way_back_is_served_by_two_workers_within_a_second_and_after_a_restart(root):
    """P-32."""
    with serving(root, "--workers", "2", "--no-loop") as service:
        pids = until(lambda: workers(service), 20, "a second process that answers")
        before = until(lambda: answering(service, pids), 20, "answers of both processes")
        project = Project.open(root)
        assert project.rollback("kg", to="1.1.0").after == "1.1.0"
        time.sleep(1.0)
        assert {asked_anew(service) for _ in range(100)} == {"1.1.0"}
        assert all(written(pid) > before[pid] for pid in pids), "both answered"
        project.close()
    with serving(root, "--no-loop") as service:
        assert asked_anew(service) == "1.1.0"


def workers(service: Serving) -> list[int] | None:
    below = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    pids = [service.process.pid, *(int(pid) for path in below for pid in path.read_text().split())]
    return pids if len(pids) == 2 else None


def answering(service: Serving, pids: list[int]) -> dict[int, int] | None:
    """Return how often each process has written, once both answer."""
    before = {pid: written(pid) for pid in pids}
    assert {asked_anew(service) for _ in range(50)} == {"1.4.0"}
    after = {pid: written(pid) for pid in pids}
    return after if all(after[pid] >= before[pid] + 5 for pid in pids) else None


def written(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["syscw"])


def test_a_signal_ends_it_with_streams_open_and_gives_back_what_runs_unharmed(root):
    """P-12: readers are answered and streams end while what runs gets its time; its attempt is not consumed."""
    (root / "slow").touch()
    service = Serving(root, EVERTRAIN_DRAIN_S="1", EVERTRAIN_TICK_S="0.05")
    try:
        streams = [
            urllib.request.urlopen(f"http://{service.address}/api/v1/events/live", timeout=30) for _ in range(20)
        ]
        opened = open_project(root)
        ask.trigger(opened, "kg", [{"fruit": "Avocado", "town": "Pilar"}], force=True, rollups=False)
        opened.close()
        until(lambda: one(root, "SELECT count(*) FROM items WHERE state = 'running'"), 20, "an item that runs")
        ends: list[float] = []
        listener = threading.Thread(
            target=lambda: ([stream.read() for stream in streams], ends.append(time.monotonic()))
        )
        listener.start()
        asked_at = time.monotonic()
        ended = threading.Thread(target=service.end)
        ended.start()
        until(lambda: not_ready(service), 5, "that it is not ready")
        assert time.monotonic() - asked_at < 1
        assert asked_anew(service) == "1.4.0", "while what runs gets its time"
        listener.join(20)
        ended.join(30)
        assert service.process.returncode == 0, service.log.read_text()[-2000:]
        assert ends
        assert ends[0] - asked_at < 2, "streams end at once"
        assert time.monotonic() - asked_at < 15
    finally:
        service.process.kill()
        service.process.wait()
    newest = "SELECT state, attempt, crashes, owner FROM items ORDER BY id DESC LIMIT 1"
    assert rows(root, newest)[0] == ("waiting", 0, 0, None)
    (root / "slow").unlink()
    with serving(root, EVERTRAIN_TICK_S="0.05"):
        until(lambda: rows(root, newest)[0][0] == "promoted", 30, "that it is trained after all")
    assert rows(root, newest)[0][1:3] == (1, 0)


def not_ready(service: Serving) -> bool:
    try:
        with urllib.request.urlopen(f"http://{service.address}/ready", timeout=5):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503
