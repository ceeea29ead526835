"""Batches whose writer is ended by `kill -9` at every step: whole or not at all, and the next writer goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from evertrain import datasets
from evertrain.errors import StoreBusy
from evertrain.specs import Dataset
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

from .process_kit import one, rows, until

pytestmark = pytest.mark.slow

SPEC = Dataset(key=("id",))
BEFORE = dict.fromkeys(range(8), 1.0)
AFTER = {**BEFORE, **dict.fromkeys(range(4, 13), 2.0)}  # four rows updated, five added: five chunks of two


def _frame(values):
    return pl.DataFrame({"id": list(values), "kg": list(values.values())})


def _contents(store, version=None):
    return dict(datasets.frame_at(store, "d", version).rows())


@pytest.fixture
def store(tmp_path):
    found = Store("sqlite:///evertrain.db", tmp_path)
    migrate(found)
    datasets.ingest(found, "d", SPEC, _frame(BEFORE))
    _frame(dict.fromkeys(range(4, 13), 2.0)).write_csv(tmp_path / "rows.csv")
    yield found
    found.close()


class Watching:
    """Reads the newest version all the time, and keeps every state it saw."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[dict[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(folder,))

    def _read(self, folder: Path) -> None:
        own = Store("sqlite:///evertrain.db", folder)
        while not self._over.is_set():
            found = _contents(own)
            if found not in self.seen:
                self.seen.append(found)
        own.close()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


CHUNKS = [f"chunk.{moment}_commit=kill@{n}" for n in range(1, 6) for moment in ("before", "after")]


@pytest.mark.parametrize("fault", CHUNKS)
def test_a_batch_whose_writer_is_killed_is_seen_whole_or_not_at_all_and_the_next_goes_on(host, store, tmp_path, fault):
    """P-03, P-36: between any two steps of a merge."""
    published = fault == CHUNKS[-1]
    with Watching(tmp_path) as reader:
        killed = host.start("write_batch", tmp_path, what="ingest", fault=fault, file="rows.csv")
        assert killed.wait() == -signal.SIGKILL, killed.said
        assert _contents(store) == (AFTER if published else BEFORE)
        small = datasets.edit(store, "d", [{"id": 0, "kg": 9.0}])  # waits for the turn of the dead to be over
        again = host.run("write_batch", tmp_path, what="ingest", file="rows.csv")

    assert again.code == 0
    assert all(one in (BEFORE, AFTER, {**BEFORE, 0: 9.0}, {**AFTER, 0: 9.0}) for one in reader.seen)
    assert small.version == (3 if published else 2)
    assert _contents(store) == {**AFTER, 0: 9.0}
    assert _contents(store, 1) == BEFORE
    assert one(tmp_path, "SELECT rows FROM datasets") == 13
    assert rows(tmp_path, "SELECT key, count(*) FROM ds_1 WHERE until IS NULL GROUP BY key HAVING count(*) > 1") == []
    assert one(tmp_path, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("fault", CHUNKS)
def test_an_undo_whose_writer_is_killed_is_seen_whole_or_not_at_all(host, store, tmp_path, fault):
    """P-03"""
    made = datasets.ingest(store, "d", SPEC, tmp_path / "rows.csv")
    killed = host.start("write_batch", tmp_path, what="undo", fault=fault, number=made.number)
    assert killed.wait() == -signal.SIGKILL, killed.said

    if fault == CHUNKS[-1]:
        assert _contents(store) == BEFORE
        return
    assert _contents(store) == AFTER
    host.run("write_batch", tmp_path, what="undo", number=made.number)
    assert _contents(store) == BEFORE
    assert _contents(store, 2) == AFTER


def test_a_large_batch_killed_at_any_moment_is_never_half_there(host, store, tmp_path):
    """P-03: at moments that nobody chose, with chunks of the real size."""
    big = dict.fromkeys(range(30000), 3.0)
    _frame(big).write_csv(tmp_path / "big.csv")
    for number in range(5):
        writer = host.start("write_batch", tmp_path, what="ingest", file="big.csv", chunk=4000)
        until(lambda: _taken(tmp_path) or writer.ended.is_set(), what="the writer's turn")
        time.sleep(0.05 * number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = _contents(store)
        assert found in (BEFORE, {**BEFORE, **big})
        if found != BEFORE:
            break
    with contextlib.suppress(StoreBusy):
        datasets.ingest(store, "d", SPEC, tmp_path / "big.csv")
    assert _contents(store) == {**BEFORE, **big}
    assert _contents(store, 1) == BEFORE


def _taken(folder: Path) -> bool:
    return one(folder, "SELECT writer FROM datasets") is not None
