"""What the process tests share: real processes, tracing, and looking at what was left behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evertrain import Project

HERE = Path(__file__).parent
STRACE = shutil.which("strace")


def until(
    found: Callable[[], Any], seconds: float = 20.0, what: str = "", step: Callable[[], Any] | None = None
) -> Any:
    """Return the first true answer of `found`, polling; fail loudly when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what or found}")
        step() if step else time.sleep(0.01)
    return answer


# --- processes --------------------------------------------------------------------------------------------------


class Forked:
    """One process that the host forked."""

    def __init__(self, pid: int, out: Path) -> None:
        self.pid, self.out = pid, out
        self.code: int | None = None
        self.ended = threading.Event()

    @property
    def said(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    def wait(self, seconds: float = 30.0) -> int:
        """Return the exit code, negative for a signal."""
        if not self.ended.wait(seconds):
            self.end()
            pytest.fail(f"process {self.pid} did not end within {seconds:g} s: {self.said[-2000:]}")
        assert self.code is not None
        return self.code

    def signal(self, number: int) -> None:
        if not self.ended.is_set():
            os.kill(self.pid, number)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.ended.wait(5)


class Host:
    """Starts processes; ends those that are left when it is closed."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "process_host.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._numbers = itertools.count()
        self._started: dict[int, Forked] = {}
        self._waiting: dict[int, tuple[threading.Event, list[Forked], Path]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if "code" in message:
                forked = self._started.pop(message["pid"])
                forked.code = message["code"]
                forked.ended.set()
            else:
                event, found, out = self._waiting.pop(message["number"])
                found.append(Forked(message["pid"], out))
                self._started[message["pid"]] = found[0]
                event.set()

    def start(self, do: str, root: Path, environment: dict[str, str] | None = None, **options: Any) -> Forked:
        with self._lock:
            number = next(self._numbers)
            out = root.parent / f"{root.name}.{number}.out"
            event, found = threading.Event(), []
            self._waiting[number] = event, found, out
            request = {"number": number, "do": do, "root": str(root), "out": str(out), "options": options}
            assert self._process.stdin
            self._process.stdin.write(json.dumps({**request, "environment": environment or {}}).encode() + b"\n")
            self._process.stdin.flush()
        assert event.wait(30), "the host does not answer"
        return found[0]

    def run(self, do: str, root: Path, seconds: float = 60.0, **options: Any) -> Forked:
        """Start it, wait for its end, and insist that it went well."""
        forked = self.start(do, root, **options)
        assert forked.wait(seconds) == 0, forked.said
        return forked

    def close(self) -> None:
        for forked in list(self._started.values()):
            forked.end()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._thread.join(5)
        self._process.stdout.close()


def processes_in(root: Path) -> dict[int, str]:
    """Return the living processes that work in a folder: a project's loop, children and grandchildren."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (folder / "cwd").readlink() == root and "\nState:\tZ" not in (folder / "status").read_text():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and not yet collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- projects ---------------------------------------------------------------------------------------------------


def copy(template: Path, target: Path) -> Path:
    """Copy a prepared project; its data files are linked, so that they look untouched."""
    shutil.copytree(template, target, symlinks=True)
    for path in template.glob("*.csv"):
        (target / path.name).unlink()
        os.link(path, target / path.name)
    return target


def rows(root: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the store of a project, from a connection of this test's own."""
    connection = sqlite3.connect(f"file:{root / 'evertrain.db'}?mode=rw", uri=True, timeout=20)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def one(root: Path, sql: str, *values: Any) -> Any:
    """Return a single value from the store."""
    found = rows(root, sql, *values)
    return found[0][0] if found else None


def dump(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    names = rows(root, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name: rows(root, f"SELECT * FROM {name}") for (name,) in sorted(names)}


def predict(root: Path, x: float = 1.5) -> tuple[str, float]:
    """Return the version that answers, asked by a predictor in this process, and what it answers."""
    project = Project.open(root)
    try:
        found = project.predictor("line").answer({"x": [x]})
        return found.versions[0], round(float(found.values[0]), 6)
    finally:
        project.close()


def sound(root: Path) -> None:
    """Insist on what must hold in every state of a store, whatever happened to the process that wrote it."""
    assert one(root, "PRAGMA integrity_check") == "ok", "the database is damaged"
    assert rows(root, "PRAGMA foreign_key_check") == [], "a row names another that is not there"
    champions = rows(root, "SELECT id, champion_id FROM partitions WHERE state = 'live' ORDER BY id")
    serving = rows(root, "SELECT partition_id, fit_id FROM activations WHERE until_at IS NULL ORDER BY partition_id")
    assert [row for row in champions if row[1] is not None] == serving, "the champion is not what the activations say"
    promoted = rows(root, "SELECT id FROM items WHERE state = 'promoted' ORDER BY id")
    assert promoted == rows(root, "SELECT DISTINCT fit_id FROM activations ORDER BY fit_id"), "promoted, not activated"
    fitted = rows(root, "SELECT id FROM items WHERE state IN ('promoted', 'rejected') ORDER BY id")
    assert fitted == rows(root, "SELECT id FROM fits ORDER BY id"), "an item and its fit are not one"
    settled = one(root, "SELECT count(*) FROM items WHERE state NOT IN ('waiting', 'running')")
    assert settled == one(root, "SELECT count(*) FROM items WHERE ended_at IS NOT NULL"), (
        "an item ended without a time, or has one and is open"
    )
    open_runs = rows(
        root,
        "SELECT id FROM runs r WHERE (state IN ('queued', 'running')) <> EXISTS (SELECT 1 FROM items WHERE"
        " (run_id = r.id OR id IN (SELECT item_id FROM joins WHERE run_id = r.id))"
        " AND state IN ('waiting', 'running'))",
    )
    assert open_runs == [], "a run is open without items, or ended with open ones"
    for digest, start, size, own in rows(root, "SELECT artifact, start, size, digest FROM fits WHERE condemned = 0"):
        data = (root / ".evertrain/artifacts/sha256" / digest[:2] / digest).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, "an artifact is not what its name says"
        assert hashlib.sha256(data[start : start + size]).hexdigest() == own, "a fit's bytes are not what its row says"


def nothing_left_over(root: Path) -> None:
    """Insist that no file is left that nobody needs: scratch is empty, every artifact is named by a row."""
    left = [str(path.relative_to(root)) for path in (root / ".evertrain/scratch").glob("*")]
    assert not left, f"left over: {left}"
    stored = {path.name for path in (root / ".evertrain/artifacts/sha256").glob("*/*")}
    named = {row[0] for row in rows(root, "SELECT digest FROM artifacts")}
    assert stored == named, f"unnamed: {stored - named}, missing: {named - stored}"


# --- strace -----------------------------------------------------------------------------------------------------


@functools.cache
def cannot_trace() -> str:
    """Return why system calls cannot be traced here, "" where they can."""
    if not STRACE:
        return "strace is not installed"
    tried = subprocess.run(
        [STRACE, "-o", os.devnull, "-e", "trace=none", "/bin/true"], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:200]}"


@contextlib.contextmanager
def traced(pid: int, options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Trace a process that waits, with all its threads, from here to its end."""
    assert STRACE
    process = subprocess.Popen([STRACE, "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = process.stderr.readline()
        assert "attached" in line, line
        yield process
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()
