"""An opened project: its store, its folders, its settings."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evertrain import calendar, forecasting, gate, loader, triggers
from evertrain.artifacts import Artifacts
from evertrain.clock import Clock, from_text, local_zone
from evertrain.config import Home, Settings, project_file, read_settings
from evertrain.errors import ConfigError, UnknownName
from evertrain.events import Event, Kind, sentence
from evertrain.executors.children import Children
from evertrain.executors.inline import InProcess
from evertrain.executors.jobs import Executor
from evertrain.executors.supervisor import Supervisor
from evertrain.observations import Observations
from evertrain.specs import CsvFile, ParquetFile, ProjectSpec, Retention, decode_project, encode
from evertrain.store import models, schedules
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

logger = logging.getLogger("evertrain")


@dataclass
class Opened:
    """A project that this process works with; `close` it in the end."""

    home: Home
    store: Store
    settings: Settings
    inline: Mapping[str, Any] = field(default_factory=dict)
    _observations: Observations | None = field(default=None, init=False, repr=False)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.home.artifacts)

    def project(self) -> ProjectSpec:
        """Return the current declaration.

        Raises:
            ConfigError: nothing was declared yet.
        """
        with self.store.read() as tx:
            found = models.project(tx)
        if found is None:
            raise ConfigError("project", str(self.home.root), "a declared project; `evertrain reload` reads its file")
        return found

    def observations(self) -> Observations:
        """Return the log of predictions and actuals, beside the store's file; the same one each time."""
        if self._observations is None:
            with self.store.read() as tx:
                found = models.project(tx)
            keep = found.keep if found else Retention()
            self._observations = Observations(
                observations_beside(self.store.path),
                self.store.clock,
                days=keep.observations_days,
                rows=keep.observations,
                busy_s=self.store.busy_s,
            )
        return self._observations

    def supervisor(self) -> Supervisor:
        """Return hands for this process: children, or this very process where the project says so."""
        return Supervisor(self.store, self.home, self.settings, self.executor())

    @contextlib.contextmanager
    def alone(self) -> Iterator[Supervisor]:
        """Lend hands for what the block hands them; items that wait are left to others."""
        hands = self.supervisor()
        hands.draining = True
        try:
            yield hands
        finally:
            hands.close()

    def executor(self) -> Executor:
        """Return what places work: local children, or this very process where the project says so."""
        if self.project().executor == "inline":
            return InProcess(self.inline)
        settings = self.settings
        return Children(
            self.home.root,
            self.home.output,
            settings.child_count,
            most_items=settings.child_items,
            most_mb=settings.child_mb,
            idle_s=settings.child_idle_s,
        )

    def close(self) -> None:
        if self._observations is not None:
            self._observations.close()
        self.store.close()


def observations_beside(store: Path) -> Path:
    """Return the file of observations that belongs to a store's file: two stores in one folder have two."""
    return store.with_name("observations.db" if store.stem == "evertrain" else f"{store.stem}-observations.db")


def open_project(
    root: Path,
    *,
    store: str | None = None,
    settings: Settings | None = None,
    clock: Clock | None = None,
    keeper: bool = False,
    actor: str = "evertrain",
) -> Opened:
    """Open the store of the project in `root`, bringing its schema up to date.

    Args:
        store: the store's URL; None takes it from the project file, which costs a child process for `project.py`
            when that file changed since it was read last.
    """
    settings = settings or read_settings()
    found = Store(store or _store_of(root), root, clock=clock, busy_s=settings.busy_s, keeper=keeper)
    found.actor = actor
    migrate(found)
    found.listeners.append(_log)
    return Opened(Home(root), found, settings)


def _store_of(root: Path) -> str:
    """Return the URL of the store: of the file as last read where it is wrong now, so that one can look and act."""
    try:
        return declared(root).store
    except ConfigError:
        with contextlib.suppress(ValueError, KeyError, OSError, ConfigError):
            return decode_project(json.loads((Home(root).folder / "declared.json").read_text())["project"]).store
        raise


def declared(root: Path, *, fresh: bool = False) -> ProjectSpec:
    """Return what the project file in `root` declares; one that is unchanged is not imported again unless `fresh`.

    Raises:
        ConfigError: there is no project file, or a declaration in it is wrong.
    """
    memory, digest = Home(root).folder / "declared.json", loader.digest(root)
    if not fresh and memory.is_file():
        with contextlib.suppress(ValueError, KeyError, OSError, ConfigError):
            known = json.loads(memory.read_text())
            if known["digest"] == digest:
                return decode_project(known["project"])
    found = loader.load(root)
    memory.parent.mkdir(exist_ok=True, mode=0o700)
    part = memory.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    part.write_text(json.dumps({"digest": digest, "project": encode(found)}))
    part.replace(memory)
    return found


def zone_of(project: ProjectSpec) -> str:
    """Return the project's time zone: the declared one, else this machine's."""
    return project.zone or local_zone()


def apply(opened: Opened, project: ProjectSpec, file_digest: str, *, only_if_changed: bool = False) -> list[str]:
    """Make a declaration the current one; return what changed, in words.

    Args:
        only_if_changed: leave alone what another process has declared from the same file meanwhile.

    Raises:
        ConfigError: a rule in it could never be evaluated.
    """
    calendar.check_zone("zone", zone_of(project))
    for spec in project.models.values():
        triggers.check(spec)
        gate.check(spec)
        forecasting.check(spec)
    with opened.store.write() as tx:
        if only_if_changed and models.file_digest(tx) == file_digest:
            return []
        changes = models.apply(tx, project, file_digest)
        for model in models.every(tx):
            schedules.declare(tx, model.id, model.spec, zone_of(project))
    return changes


def reload(opened: Opened, *, only_if_changed: bool = False, data: Mapping[str, str] | None = None) -> list[str]:
    """Read the project file again and make what it declares current; return what changed.

    Args:
        data: other files for some sources, by name.

    Raises:
        ConfigError: a declaration is wrong, or `data` names no file source.
    """
    root = opened.home.root
    if project_file(root) is None and only_if_changed:
        return []  # declared from Python in another process; the store has it
    digest = loader.digest(root) or ""
    if only_if_changed:
        with opened.store.read() as tx:
            if models.file_digest(tx) == digest:
                return []
    project = declared(root, fresh=not only_if_changed)
    for name, path in (data or {}).items():
        if not isinstance(source := project.sources.get(name), CsvFile | ParquetFile):
            raise UnknownName("--data", name, [one for one, s in project.sources.items() if hasattr(s, "path")])
        project = replace(project, sources={**project.sources, name: replace(source, path=path)})
    return apply(opened, project, digest, only_if_changed=only_if_changed)


def _log(written: list[dict[str, Any]]) -> None:
    for one in written:
        level = logging.WARNING if one["kind"] in _WARNINGS or "error" in one["data"] else logging.INFO
        event = Event(
            0, from_text(one["at"]), Kind(one["kind"]), one["model"], one["run_id"], one["actor"], one["data"]
        )
        facts = {
            "kind": event.kind,
            "model": event.model,
            "run": event.run_id,
            "actor": event.actor,
            "data": event.data,
        }
        logger.log(level, "%s", sentence(event), extra={"event": facts})


_WARNINGS = {
    Kind.RUN_FALLBACK,
    Kind.SOURCE_FAILED,
    Kind.WORKER_LOST,
    Kind.ARTIFACT_DAMAGED,
    Kind.NOTIFY_FAILED,
    Kind.ITEMS_REAPED,
}
