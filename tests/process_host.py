"""A process that has everything imported and forks a real one for each request: a start costs 20 ms, not a second.

Run as a script; `process_kit.Host` speaks to it with one JSON line per request. Each forked process leads a session
of its own, works in the project's folder, and is ended by its id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from array import array
from pathlib import Path
from types import SimpleNamespace

from evertrain import CsvFile, Custom, Gate, Project, Settings, datasets, faults, registry
from evertrain.clock import from_text, to_text
from evertrain.control import ask
from evertrain.control.opened import open_project
from evertrain.executors import supervisor
from evertrain.executors.children import Children
from evertrain.executors.supervisor import Supervisor
from evertrain.loop import Loop
from evertrain.partitions import decode
from evertrain.specs import Dataset, on_data_change
from evertrain.store.connect import Store

STORE = "sqlite:///evertrain.db"
QUICK = {"tick_s": 0.05, "check_s": 3600.0}


def _settings(own):
    return Settings(**{**QUICK, **(own or {})})


def _opened(root, settings=None):
    return open_project(Path(root), store=STORE, settings=_settings(settings))


# --- what a forked process can do -------------------------------------------------------------------------------


def build(root, executor="inline", trainer="toys:Unruly", train=True, **model):
    """Declare the model `line` on `rows.csv` and train it once."""
    for given in ["inline", executor] if train else [executor]:
        project = Project("test", root=root, executor=given, settings=_settings(None))
        project.source("rows", CsvFile("rows.csv"))
        project.model(
            "line",
            "rows",
            target="y",
            trainer=Custom(trainer),
            **{"min_samples": 10, "gate": Gate(), "triggers": (on_data_change("0s"),), **model},
        )
        if train and given == "inline":
            project.refresh()
        _ = project.opened
        project.close()


def trigger(root, **options):
    """Ask for training by hand."""
    opened = _opened(root)
    ask.trigger(opened, "line", **options)
    opened.close()


def loop(root, settings=None, fault="", until_idle=False):
    """Run the loop until SIGTERM, or until nothing is left to do."""
    faults._PLAN = fault
    opened = _opened(root, settings)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    Loop(opened, watch_files=False).run(asked.is_set, until_idle=until_idle)
    opened.close()


def write_batch(root, what, fault="", chunk=2, turn_s=0.2, **given):
    """Write one batch to the dataset `d`, in chunks: "ingest" a file of the project, or "undo" a batch."""
    faults._PLAN = fault
    datasets.CHUNK, datasets._TURN_S = chunk, turn_s
    store = Store(STORE, Path(root))
    if what == "ingest":
        datasets.ingest(store, "d", Dataset(key=("id",)), Path(root) / given["file"])
    else:
        datasets.undo(store, "d", given["number"])
    store.close()


def plan(root):
    """Read the source and plan what is due, and train nothing of it."""
    opened = _opened(root)
    hands = opened.supervisor()
    hands.draining = True
    hands.read_source("rows")
    while hands.busy:
        hands.step(0.05)
    ask.plan_all(opened)
    hands.close()
    opened.close()


def record(root, into):
    """Train what waits, and keep what the worker answered in place of writing it: a ready pack for `settle`."""
    opened = _opened(root)
    hands = opened.supervisor()
    hands._take()
    assert len(hands._jobs) == 1
    packs = []
    for _, message in hands.executor.poll(0):
        if message["type"] == "pack":
            for name in ("path", "losses"):
                if message[name]:
                    shutil.copy(message[name], Path(into) / Path(message[name]).name)
                    message[name] = Path(message[name]).name
            packs.append(message)
    (Path(into) / "packs.json").write_text(json.dumps(packs))
    hands.close()
    opened.close()


class Canned:
    """An executor that answers with packs that were recorded."""

    def __init__(self, packs):
        self.packs, self.found, self.ready = Path(packs), [], []

    def free(self, lane="work"):
        return int(not self.found)

    def load(self, scratch):
        """Put the packs where a worker would have written them."""
        self.ready = json.loads((self.packs / "packs.json").read_text())
        for message in self.ready:
            for name in ("path", "losses"):
                if message[name]:
                    shutil.copy(self.packs / message[name], scratch / message[name])
                    message[name] = str(scratch / message[name])

    def start(self, job):
        if not self.ready:
            self.load(Path(job.task["scratch"]))
        self.found = [(job, message) for message in [*self.ready, {"type": "done"}]]
        self.ready = []

    def poll(self, timeout_s):
        found, self.found = self.found, []
        return found

    def cancel(self, job, why):
        pass

    def close(self):
        pass


def settle(root, packs, gate, settings=None):
    """Take the one item that waits, with its pack ready, and settle it; an error is reported and work goes on."""
    supervisor._RETRY_S = 0.02
    opened = _opened(root, {"lease_s": 300.0, "beat_s": 60.0, **(settings or {})})
    executor = Canned(packs)
    hands = Supervisor(opened.store, opened.home, opened.settings, executor)
    executor.load(hands.scratch)
    from_text(to_text(opened.store.clock.now()))  # imports what parsing a time imports
    _wait_at(gate)
    problems = []
    for _ in range(300):
        try:
            hands.step(0)
            with opened.store.read() as tx:
                if not tx.value("SELECT count(*) FROM items WHERE state IN ('waiting', 'running')"):
                    break
        except Exception as error:  # noqa: BLE001 - the loop catches its own kind; the test tells them apart by name
            problems.append(f"{type(error).__name__}: {error}")
        time.sleep(0.01)
    print(json.dumps(problems), flush=True)
    hands.close()
    opened.close()


def _wait_at(gate):
    """Wait until the tracer is attached: a byte comes through the FIFO `gate`."""
    handle = os.open(gate, os.O_RDWR)  # both ends, so that opening it waits for nobody and is over before the tracing
    Path(f"{gate}.ready").touch()
    os.read(handle, 1)


def hold(root, seconds, ready):
    """Hold the store's write lock, as another program may."""
    import sqlite3

    connection = sqlite3.connect(Path(root) / "evertrain.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    Path(ready).touch()
    time.sleep(seconds)
    connection.execute("COMMIT")


def spin(root, seconds, ready):
    """Hold the interpreter's lock in one call, as a C extension may."""
    Path(ready).touch()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def ask_all_the_time(root, into, stop, every_s=0.0):
    """Predict again and again, from two threads; write down each change of what answered one thread, the
    one that saw more of them, and every error.
    """
    project = Project.open(root)
    predictor = project.predictor("line")
    lock, seen, errors = threading.Lock(), [[], []], []  # by thread: between two, an answer may be noted late
    counts = [0, 0]

    def hammer(place):
        while not Path(stop).exists():
            try:
                found = predictor.answer({"x": [1.5]})
                one = (found.versions[0], round(float(found.values[0]), 6))
                with lock:
                    counts[place] += 1
                    own = seen[place]
                    if not own or own[-1][1:] != one:
                        own.append((time.time(), *one))
                        Path(into).write_text(json.dumps({"seen": max(seen, key=len), "errors": errors}))
            except Exception as error:  # noqa: BLE001 - every error is what the test looks for
                with lock:
                    if len(errors) < 20:
                        errors.append(f"{type(error).__name__}: {error}")
            time.sleep(every_s)

    threads = [threading.Thread(target=hammer, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(into).write_text(json.dumps({"seen": max(seen, key=len), "errors": errors, "count": sum(counts)}))
    project.close()


def ask_forecasts_all_the_time(root, into, stop, seed, most=0, every_s=0.0, pause_s=None):
    """Ask for the forecast of a random partition or rollup again and again; write down what answered each of them,
    in order, how long it took, and every answer that was missing or not of one piece.

    With `pause_s` it asks as one must not: for the champion in one transaction, and that long afterwards for the values
    in another.
    """
    if pause_s is not None:
        registry.served_forecasts = _torn(pause_s)
    project = Project.open(root)
    forecasts = project.forecasts("kg")
    with project.opened.store.read() as tx:
        keys = [decode(row.key) for row in tx.rows("SELECT key FROM partitions WHERE state = 'live' ORDER BY id")]
    draw = random.Random(seed)
    seen, errors, took = {}, [], array("d")
    while not Path(stop).exists() and (not most or len(took) < most):
        # A look at the file for each hundred questions: it costs as much as an answer.
        for _ in range(100):
            key = draw.choice(keys)
            began = time.perf_counter()
            try:
                found = forecasts.read(key)
            except Exception as error:  # noqa: BLE001 - every error is what the test looks for
                errors.append(f"{key}: {type(error).__name__}: {error}")
                continue
            took.append(time.perf_counter() - began)
            frame = {"ds": found.ds, "mean": found.mean, **found.intervals}
            if not _of_one_piece(frame) or found.answered_by != found.partition:
                errors.append(f"{key}: {found}")
            answer = [found.epoch, found.version, found.as_of, found.trained_at.isoformat(), frame]
            own = seen.setdefault(json.dumps(key), [])
            if not own or own[-1][1] != answer:
                own.append([time.time(), answer])
            if every_s:
                time.sleep(every_s)
    Path(into).write_text(json.dumps({"seen": seen, "errors": errors[:20], "took": took.tolist()}))
    project.close()


def _of_one_piece(frame):
    """Whether every value of a frame of the toy forecaster `Stamped` is of one fit."""
    mean = frame["mean"]
    steps = mean == [mean[0] + place for place in range(len(mean))] and len(frame["ds"]) == len(mean)
    own = {
        f"{side}-{one}": [v + sign * one for v in mean] for one in (80, 95) for side, sign in (("lo", -1), ("hi", 1))
    }
    return steps and all(frame[name] == values for name, values in own.items())


def _torn(pause_s):
    whole, store = registry.served_forecasts, Store("sqlite:///evertrain.db", Path.cwd())

    def torn(tx, model, keys):
        champions = whole(tx, model, keys)
        time.sleep(pause_s)
        with store.read() as later:
            frames = whole(later, model, keys)
        return {key: SimpleNamespace(**{**row._mapping, "frame": frames[key].frame}) for key, row in champions.items()}

    return torn


def soak(root, into, rounds, settings=None):
    """Retrain again and again in one supervisor; write down its memory, its files and its children after each."""
    opened = _opened(root, settings)
    hands = opened.supervisor()
    assert isinstance(hands.executor, Children)
    page, measured = os.sysconf("SC_PAGE_SIZE"), []
    for number in range(rounds):
        ask.trigger(opened, "line", force=True)
        with opened.store.read() as tx:
            done = tx.value("SELECT count(*) FROM items WHERE state = 'promoted'")
        for _ in range(3000):
            hands.step(0.05)
            with opened.store.read() as tx:
                if tx.value("SELECT count(*) FROM items WHERE state = 'promoted'") > done and not hands.busy:
                    break
        measured.append(
            {
                "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20,
                "files": len(os.listdir("/proc/self/fd")),
                "children": hands.executor.pids(),
            }
        )
        if number % 10 == 0:
            Path(into).write_text(json.dumps(measured))
    hands.close()
    Path(into).write_text(json.dumps(measured))
    opened.close()


# --- the host ---------------------------------------------------------------------------------------------------


def _forked(request):
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing, out = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    )
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(out)
    os.environ.update(request["environment"])
    os.chdir(request["root"])
    sys.path.insert(0, request["root"])
    code = 0
    try:
        globals()[request["do"]](request["root"], **request["options"])
    except BaseException:  # noqa: BLE001 - it ends here in any case, and says why
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main():
    mine, rest = set(), b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        while mine:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            mine.discard(pid)
            print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)
        if not ready:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                _forked(request)
            mine.add(pid)
            print(json.dumps({"number": request["number"], "pid": pid}), flush=True)
    for pid in mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
