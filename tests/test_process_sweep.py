"""Killed, or failed by the disk, at every system call between taking an item and having settled it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import TOYS, write_rows
from .process_kit import Host, cannot_trace, copy, nothing_left_over, one, predict, rows, sound, traced, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace() or "strace works")]

OLD, NEW = ("1.0.0", 2.0), ("1.1.0", 3.0)
CALLS = ["openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "mkdir", "close"]
# A transaction writes each page of the log with two calls, a head and a body; every third call meets both.
STRIDE = {"pwrite64": 3}
ERRORS = {
    "write": ["ENOSPC", "EIO"],
    "pwrite64": ["ENOSPC", "EIO"],
    "fsync": ["EIO", "ENOSPC"],
    "fdatasync": ["EIO", "ENOSPC"],
    "rename": ["EIO", "ENOSPC"],
    "openat": ["EMFILE", "ENOSPC"],
    "mkdir": ["ENOSPC"],
    "unlink": ["EIO"],
    "ftruncate": ["ENOSPC"],
    "pread64": ["EIO"],
}
# Every third is enough for a run of every day; 1 was run by hand.
ERROR_STRIDE = dict.fromkeys(ERRORS, 3)


class Bench:
    """A prepared project with one item that waits and its pack, and as many copies of it as there are points."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host, self.number = folder, host, 0
        self.template, self.packs = folder / "template", folder / "packs"
        self.template.mkdir()
        self.packs.mkdir()
        shutil.copy(TOYS, self.template / "toys.py")
        write_rows(self.template / "rows.csv")
        host.run("build", self.template, trainer="toys:Line")
        write_rows(self.template / "rows.csv", 70, offset=1)
        host.run("plan", self.template)
        host.run("record", self.template, into=str(self.packs))
        assert rows(self.template, "SELECT state, attempt FROM items") == [("promoted", 1), ("waiting", 0)]

    def settle(self, name: str, *options: str) -> tuple[Path, int, str]:
        """Settle the item in a fresh copy, under a tracer that knows nothing of what came before."""
        root, gate = copy(self.template, self.folder / name), self.folder / f"{name}.gate"
        os.mkfifo(gate)
        forked = self.host.start("settle", root, packs=str(self.packs), gate=str(gate))
        until(Path(f"{gate}.ready").exists, what=forked.said)
        with traced(forked.pid, list(options)):
            gate.write_bytes(b"!")
        return root, forked.wait(), forked.said

    def done(self, root: Path) -> None:
        for path in (root, root.with_name(f"{root.name}.gate"), root.with_name(f"{root.name}.gate.ready")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    host = Host()
    yield Bench(tmp_path_factory.mktemp("sweep"), host)
    host.close()


@pytest.fixture(scope="module", autouse=True)
def toys(bench):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(bench.template))
        yield


@pytest.fixture(scope="module")
def trace(bench):
    """What an undisturbed settle asks of the system: (call, line), in order."""
    path = bench.folder / "trace"
    root, code, said = bench.settle(
        "plain", "-y", "-s", "200", "-o", str(path), "-e", "trace=" + ",".join({*CALLS, *ERRORS})
    )
    assert (code, json.loads(said)) == (0, [])
    assert predict(root) == NEW
    sound(root)
    nothing_left_over(root)
    found = [(match[1], line) for line in path.read_text().splitlines() if (match := re.match(r"\d+ +(\w+)\(", line))]
    assert found
    return found


def points(trace, calls, stride):
    counted = Counter(call for call, _ in trace)
    return [(call, k) for call in calls for k in range(1, counted[call] + 1, stride.get(call, 1))]


def of_a_copy(trace):
    """Which reads are of a copy of the rows: a damaged copy is made anew by a reader, which this bench has none of."""
    counted = Counter()
    for call, line in trace:
        counted[call] += 1
        if call in ("pread64", "openat") and ".idx" in line:
            yield call, counted[call]


def every(work, given):
    """Do the work for each point, on as many cores as there are; return what was found wrong, by point."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {point: problem for point, problem in zip(given, pool.map(work, given), strict=True) if problem}


def attempt(check, *args):
    try:
        return check(*args) or ""
    except BaseException as error:  # noqa: BLE001 - a failed look is the finding; pytest.fail is no Exception
        return f"{type(error).__name__}: {error}"[:600]


def test_a_settle_killed_at_any_system_call_leaves_old_or_new_and_is_done_once_more(bench, trace):
    """P-03, P-01, P-05, T-1: as left, exactly one complete champion; after a restart, exactly one fit more."""
    given = points(trace, CALLS, STRIDE)
    killed = Counter()

    def look(point):
        call, k = point
        root, code, _ = bench.settle(
            f"{call}{k}", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={k}"
        )
        killed[code] += 1
        assert code == -9, f"ended with {code}"
        left = predict(root)
        assert left in (OLD, NEW), f"as left: {left}"
        sound(root)
        assert (left == NEW) == (one(root, "SELECT state FROM items WHERE id = 2") == "promoted")
        bench.host.run("loop", root, until_idle=True)
        assert predict(root) == NEW
        sound(root)
        nothing_left_over(root)
        assert one(root, "SELECT count(*) FROM fits") == one(root, "SELECT count(*) FROM activations") == 2
        assert one(root, "SELECT attempt FROM items WHERE id = 2") <= 2
        ends = "SELECT count(*) FROM events WHERE kind = 'run.ended' AND run_id = 2"
        assert one(root, ends) == 1
        bench.done(root)

    wrong = every(lambda point: attempt(look, point), given)
    assert not wrong, f"{len(wrong)} of {len(given)} points: {wrong}"
    assert killed[-9] == len(given) > 50


def test_a_disk_that_fails_any_write_is_reported_harms_nothing_and_is_used_again_once_it_works(bench, trace):
    """P-04, T-2: the process says what failed, nothing is half-done, and the same process settles it afterwards."""
    closing = next(place for place, (_, line) in enumerate(trace) if "write(1<" in line)
    while_working = Counter(call for call, _ in trace[:closing])
    copies = set(of_a_copy(trace))
    given = [
        (call, k, error)
        for call, k in points(trace, ERRORS, ERROR_STRIDE)
        for error in ERRORS[call]
        if not (call == "write" and k > while_working["write"])  # what this test's own process prints
        if (call, k) not in copies
    ]

    def look(point):
        call, k, error = point
        root, code, said = bench.settle(
            f"{call}{k}{error}", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={k}"
        )
        assert code == 0, said
        problems = json.loads(said.splitlines()[-1])
        told = rows(root, "SELECT data FROM events WHERE kind IN ('items.retried', 'items.released')")
        assert problems or told or k > while_working[call], "nobody was told"
        assert all(one.startswith("StoreError") for one in problems), problems
        sound(root)
        assert predict(root) == NEW
        assert one(root, "SELECT count(*) FROM fits") == one(root, "SELECT count(*) FROM activations") == 2
        if call == "openat" and any((root / ".evertrain/scratch").iterdir()):
            bench.host.run(
                "loop", root, until_idle=True
            )  # a folder that could not be opened is swept by the next start
        nothing_left_over(root)
        bench.done(root)

    wrong = every(lambda point: attempt(look, point), given)
    assert not wrong, f"{len(wrong)} of {len(given)} points: {wrong}"


def test_an_artifact_is_on_the_disk_before_a_row_names_it(trace):
    """P-34, T-10: fsync of the bytes, rename, fsync of the folder, and only then the log of the store."""
    where = [place for place, (call, _) in enumerate(trace) if call == "rename"]
    assert len(where) == 1, "one pack, one rename"
    source, target = re.findall(r'"([^"]+)"', trace[where[0]][1])
    assert re.search(r"/artifacts/sha256/(..)/\1[0-9a-f]{62}$", target)

    def synced(path, since, before):
        return [
            place
            for place, (call, line) in enumerate(trace)
            if since <= place < before
            and call in ("fsync", "fdatasync")
            and f"<{path}>" in line
            and line.endswith("= 0")
        ]

    log = [place for place, (call, line) in enumerate(trace) if call == "fdatasync" and "evertrain.db-wal>" in line]
    commit = next(place for place in log if place > where[0])
    assert synced(source, 0, where[0]), "the bytes were not flushed before they got their name"
    assert synced(Path(target).parent, where[0], commit), "the name was not flushed before the commit"
    assert synced(Path(target).parent.parent, 0, where[0]), "the new folder's own name was not flushed"
    writes = [place for place, (call, line) in enumerate(trace) if call == "pwrite64" and "db-wal>" in line]
    assert not [place for place in writes if where[0] > place > max(p for p in log if p < where[0])], "a row came early"
