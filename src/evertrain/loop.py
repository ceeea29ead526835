"""The loop: a role that one process at a time has; it looks, plans, trains, tells, and tidies up."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from evertrain import datasets, notify, registry
from evertrain.control import data, tick
from evertrain.control.opened import Opened
from evertrain.errors import EvertrainError, StaleAttempt
from evertrain.events import Kind
from evertrain.executors.jobs import Lost, Message
from evertrain.executors.supervisor import Supervisor
from evertrain.specs import CsvFile, Dataset, ParquetFile
from evertrain.store import demand, evaluations, items, leases, models, upkeep

logger = logging.getLogger("evertrain")

ROLE = "loop"
_TIDY_S = 3600.0
_SIGN_S = 30.0
_GRACE = timedelta(hours=1)


class Loop:
    """Keeps a project fresh while `run` runs. Several may run for one project; one of them ticks, all may train."""

    def __init__(self, opened: Opened, *, watch_files: bool = True) -> None:
        self.opened = opened
        self.hands: Supervisor = opened.supervisor()
        self.memory = tick.Memory()
        self.ticking = False
        self._watch_files = watch_files
        self._watcher: _Watcher | None = None
        self._looked = self._tidied = self._signed = 0.0
        self._stepped = time.monotonic()
        self._problem = ""

    def run(self, stop: Callable[[], bool] = lambda: False, *, until_idle: bool = False) -> None:
        """Work until `stop` answers true, a stop was asked for through the store, or nothing is left to do."""
        self.hands.stopping = stop
        try:
            while not stop() and not self._stop_asked():
                self.step()
                if until_idle and self.idle():
                    break
            self.hands.drain(0 if until_idle else self.opened.settings.drain_s)
        finally:
            self.close()

    @property
    def age_s(self) -> float:
        """Seconds since it last began a round: one that grows tells of a loop that hangs."""
        return time.monotonic() - self._stepped

    def step(self) -> None:
        """Do one round; a failing one is logged and does not end the loop."""
        self._stepped = time.monotonic()
        try:
            self._round()
            self._problem = ""
        except EvertrainError as error:
            if str(error) != self._problem:
                logger.error("%s", error)
            self._problem = str(error)
            time.sleep(min(1.0, self.opened.settings.tick_s))

    def _round(self) -> None:
        self.hands.step(0.1 if self.hands.busy else min(0.2, self.opened.settings.tick_s))
        if self.memory.rounds and self.ticking and tick.go_on(self.opened, self.hands, self.memory):
            return  # what was decided may be taken up at once
        hints = self._watcher.changed() if self._watcher else []
        if time.monotonic() - self._looked < self.opened.settings.tick_s and not hints:
            if not self.hands.busy:
                time.sleep(min(0.05, self.opened.settings.tick_s))
            return
        self._looked = time.monotonic()
        if not self._take_role():
            return
        with self.opened.store.read() as tx:
            lost = leases.lost(tx)
        if lost:
            with self.opened.store.write() as tx:
                items.reap(tx)
        tick.look(self.opened, self.hands, self.memory, hints)
        self._notify()
        self._scrub()
        if time.monotonic() - self._tidied > _TIDY_S:
            self._tidied = time.monotonic()
            self._tidy()

    def _take_role(self) -> bool:
        try:
            if self.ticking and time.monotonic() - self._signed < _SIGN_S:
                with self.opened.store.read() as tx:
                    held = leases.holder(tx, ROLE)
                if held is not None and held["owner"] == self.hands.owner:
                    return True
            with self.opened.store.write() as tx:
                mine = leases.take_role(tx, ROLE, self.hands.owner)
                if mine:
                    leases.sign(tx, ROLE)
                if mine and not self.ticking:
                    tx.event(Kind.LOOP_STARTED, owner=self.hands.owner)
        except StaleAttempt:
            mine = False
        self._signed = time.monotonic()
        if mine and not self.ticking:
            self.memory = tick.Memory()
            self._start_watcher()
        self.ticking = mine
        return mine

    def _stop_asked(self) -> bool:
        if not self.ticking:
            return False
        try:
            with self.opened.store.read() as tx:
                held = leases.holder(tx, ROLE)
        except EvertrainError:
            return False
        return bool(held and held["owner"] == self.hands.owner and held["stop_requested"])

    def idle(self) -> bool:
        """Return whether nothing runs, waits or is due, but for what a blackout or a quiet period holds back."""
        self._notify()  # what has just ended is told before anybody goes home
        if self.hands.busy or self.memory.looked or self.memory.under_way or self.memory.rounds:
            return False
        with self.opened.store.read() as tx:
            counts = items.open_counts(tx)
            held = sum(number for number, _ in items.held_back(tx).values()) if counts else 0
            return sum(counts.values()) == held and not demand.models_to_plan(tx)

    # --- watching, telling, tidying ---------------------------------------------------------------------------

    def _start_watcher(self) -> None:
        if self._watcher:
            self._watcher.close()
        self._watcher = None
        if self._watch_files:
            sources = self.opened.project().sources
            files = {
                name: (self.opened.home.root / source.path).resolve()
                for name, source in sources.items()
                if isinstance(source, CsvFile | ParquetFile)
            }
            if files:
                self._watcher = _Watcher(files)

    def _notify(self) -> None:
        project = self.opened.project()
        for channel in project.notify:
            name = notify.reader(channel)
            if name in self.memory.under_way or self.hands.executor.free("read") <= 0:
                continue
            with self.opened.store.write() as tx:
                found = notify.pending(tx, channel)
            if found is None:
                continue

            def answer(message: Message | Lost, channel=channel, told=found, name=name) -> None:  # type: ignore[no-untyped-def]
                self.memory.under_way.discard(name)
                problem = (
                    message.reason if isinstance(message, Lost) else message.get("problem") or message.get("reason")
                )
                done = 0 if isinstance(message, Lost) else message.get("done", 0)
                with self.opened.store.write() as tx:
                    notify.delivered(tx, channel, told, done, problem)

            if self.hands.ask(notify.task(channel, found), "reader", answer, lane="read", deadline_s=60):
                self.memory.under_way.add(name)

    def _scrub(self) -> None:
        with self.opened.store.read() as tx:
            wanted = upkeep.scrub_asked(tx)
        if wanted:
            data.scrub_once(self.opened, wanted)

    def _tidy(self) -> None:
        keep = self.opened.project().keep
        with self.opened.store.write() as tx:
            registry.collect(tx, self.opened.artifacts, newest=keep.fits, days=keep.days, grace=_GRACE)
        with self.opened.store.write() as tx:
            evaluations.prune(tx, tx.now - timedelta(days=keep.events_days))
        for name, source in self.opened.project().sources.items():
            if isinstance(source, Dataset):
                with self.opened.store.read() as tx:
                    users = [user for user in models.every(tx) if user.spec.source == name]
                taken_in = [user.extract["version"] if user.extract else 0 for user in users]
                datasets.compact(self.opened.store, name, source, newest=min(taken_in, default=2**62))
        self.opened.store.checkpoint()
        self.opened.observations().prune()

    def close(self) -> None:
        """End in good order: give back what is held, free the role."""
        if self._watcher:
            self._watcher.close()
        if self.ticking:
            with contextlib.suppress(EvertrainError), self.opened.store.write() as tx:
                tx.event(Kind.LOOP_STOPPED, owner=self.hands.owner)
        self.hands.close()


class _Watcher:
    """Tells which sources' files changed, from a thread; a hint to look, never the only way to see."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._names: dict[Path, list[str]] = {}
        for name, path in files.items():
            self._names.setdefault(path, []).append(name)
        self._found: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from watchfiles import watch

        folders = {path.parent for path in self._names}
        while not self._stop.is_set():
            present = [folder for folder in folders if folder.is_dir()]
            if not present:
                self._stop.wait(5)
                continue
            try:
                for changes in watch(
                    *present,
                    stop_event=self._stop,
                    recursive=False,
                    debounce=100,
                    step=50,
                    raise_interrupt=False,
                    watch_filter=None,
                ):
                    for _, changed in changes:
                        for name in self._names.get(Path(changed), ()):
                            self._found.put(name)
            except OSError as error:
                logger.warning("files are looked at every few minutes only, the watcher failed: %s", error)
                self._stop.wait(60)

    def changed(self) -> list[str]:
        """Return the sources whose files changed since the last call."""
        found: dict[str, None] = {}
        while True:
            try:
                found[self._found.get_nowait()] = None
            except queue.Empty:
                return list(found)

    def close(self) -> None:
        self._stop.set()
