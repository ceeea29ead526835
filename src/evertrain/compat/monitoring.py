"""The retraining manager of document 002: one configuration for each model, start, stop, status, history, trigger."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from evertrain import notify
from evertrain.compat import words
from evertrain.config import find_project
from evertrain.control import ask, tell
from evertrain.control import opened as use
from evertrain.control.opened import Opened
from evertrain.control.work import loop_alive, read_first, run_to_end
from evertrain.errors import ConfigError, Conflict
from evertrain.events import Kind
from evertrain.loop import Loop
from evertrain.project import Project
from evertrain.specs import CsvFile, DataChange, MaxAge, ParquetFile, ScoreDrop, Trigger, encode
from evertrain.store import log, models

logger = logging.getLogger("evertrain")

_LISTEN_S = 0.25


@dataclass
class RetrainingConfig:
    """What one model needs to be kept fresh.

    Attributes:
        model_name: a declared model; its trainer, target and gate are the project file's.
        data_path: its file, where it is another than the declared one.
        check_interval: seconds between two looks at files, age and score; of several models the shortest holds.
        min_data_size: rows without which nothing is trained.
        max_model_age_hours: age at which the model is trained again, counted from its training.
        performance_threshold: drop of the score that asks for training, relative to that at promotion.
        enable_auto_retraining: False only decides and records; a person can still trigger.
        notification_callback: called as `callback(model_name, status, duration, **more)` in the manager's process when
            a training has ended; `more` has `error` where it failed. It may be set later.
    """

    model_name: str
    data_path: str | None = None
    check_interval: float = 300
    min_data_size: int = 100
    max_model_age_hours: float = 24
    performance_threshold: float = 0.05
    enable_auto_retraining: bool = True
    notification_callback: Callable[..., Any] | None = None


def start_retraining_monitoring(
    configs: Mapping[str, RetrainingConfig], project: Project | Opened | None = None
) -> RetrainingManager:
    """Make the configurations current, begin to keep the models fresh in this process, and return what manages that.

    What differs from the project file is an override, which `evertrain config MODEL` shows and takes back.

    Args:
        configs: by model name.
        project: by default that of the current folder, or of EVERTRAIN_PROJECT.

    Raises:
        NotFound: a model is not declared.
        ConfigError: a value is not allowed, or a name is not that of its configuration.
    """
    if project is None:
        opened = use.open_project(find_project(Path.cwd()))
        use.reload(opened, only_if_changed=True)
    else:
        opened = project.opened if isinstance(project, Project) else project
    manager = RetrainingManager(opened, configs, owns=project is None)
    manager.start()
    return manager


class RetrainingManager:
    """Keeps the configured models fresh in a thread of this process, until it is stopped."""

    def __init__(self, opened: Opened, configs: Mapping[str, RetrainingConfig], *, owns: bool = False) -> None:
        self.opened, self.configs = opened, dict(configs)
        self._owns = owns
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for name, config in self.configs.items():
            if name != config.model_name:
                raise ConfigError("model_name", config.model_name, f"{name}, as it is called in configs")
            _configure(opened, config)
        if self.configs:
            shortest = min(one.check_interval for one in self.configs.values())
            opened.settings = replace(opened.settings, check_s=float(shortest))

    @property
    def is_running(self) -> bool:
        """Whether the models are kept fresh, by this process or another."""
        return loop_alive(self.opened)

    def start(self) -> None:
        """Begin; nothing happens where it has begun already."""
        if any(one.is_alive() for one in self._threads):
            return
        self._stop.clear()
        with self.opened.store.read() as tx:
            newest = log.newest(tx)
        loop = Loop(self.opened)
        self._threads = [
            threading.Thread(target=loop.run, args=(self._stop.is_set,), name="loop", daemon=True),
            threading.Thread(target=self._listen, args=(newest,), name="listener", daemon=True),
        ]
        for one in self._threads:
            one.start()

    def stop(self) -> None:
        """End; what runs gets time to finish, and every model serves on."""
        self._stop.set()
        for one in self._threads:
            one.join()
        self._threads = []
        if self._owns:
            self.opened.close()

    def status(self) -> dict[str, Any]:
        """Return how everything stands, see `status`."""
        return status(self.opened)

    def history(self, model_name: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Return what was trained, newest first, see `history`."""
        return history(self.opened, model_name, limit)

    def trigger(self, model_name: str) -> dict[str, Any]:
        """Train a model now and return what became of it, see `trigger`."""
        return trigger(self.opened, model_name, wait=True)

    def _listen(self, place: int) -> None:
        over = False
        while not over:
            over = self._stop.wait(_LISTEN_S) and not self._threads[0].is_alive()
            with self.opened.store.read() as tx:
                ended = log.after(tx, place, limit=100, kinds=[Kind.RUN_ENDED])
                told = [notify.describe(tx, event.run_id) for event in ended if event.run_id]
            for one in told:
                self._tell(one)
            place = ended[-1].id if ended else place

    def _tell(self, told: Mapping[str, Any] | None) -> None:
        config = self.configs.get(told["model"]) if told else None
        if told is None or config is None or config.notification_callback is None:
            return
        more = {name: value for name, value in told.items() if name not in ("model", "status", "duration")}
        try:
            config.notification_callback(told["model"], told["status"], told["duration"], **more)
        except Exception:
            logger.exception("the callback of %s failed; monitoring goes on", told["model"])


def _configure(opened: Opened, config: RetrainingConfig) -> None:
    """Make a configuration current: another file by the declaration, everything else by overrides."""
    with opened.store.read() as tx:
        model, digest = models.by_name(tx, config.model_name), models.file_digest(tx)
    project = opened.project()
    source = project.sources[model.spec.source]
    if config.data_path is not None:
        if not isinstance(source, CsvFile | ParquetFile):
            raise ConfigError("data_path", config.data_path, f"nothing: {model.spec.source} is no file")
        if (opened.home.root / source.path).resolve() != (opened.home.root / config.data_path).resolve():
            other = {**project.sources, model.spec.source: replace(source, path=config.data_path)}
            use.apply(opened, replace(project, sources=other), digest or "")
    wanted = _triggers(model.spec.triggers, config)
    with opened.store.write() as tx:
        if config.min_data_size != model.spec.least_rows:
            models.set_override(tx, model.name, "min_samples", config.min_data_size)
        if wanted != list(model.spec.triggers):
            models.set_override(tx, model.name, "triggers", [encode(one) for one in wanted])
        known = models.overrides(tx, model.name)
        if not config.enable_auto_retraining and model.spec.auto == "train":
            models.set_override(tx, model.name, "auto", "observe")
        elif config.enable_auto_retraining and known.get("auto") == "observe":
            models.reset_override(tx, model.name, "auto")


def _triggers(declared: tuple[Trigger, ...], config: RetrainingConfig) -> list[Trigger]:
    """Return the triggers of a configuration; schedules, drift and environment stay as they are declared."""
    kept = [one for one in declared if not isinstance(one, MaxAge | ScoreDrop)]
    if not any(isinstance(one, DataChange) for one in kept):
        kept.insert(0, DataChange())
    drop = next((one for one in declared if isinstance(one, ScoreDrop)), ScoreDrop())
    age = MaxAge(timedelta(hours=config.max_model_age_hours))
    return [*kept, age, replace(drop, threshold=config.performance_threshold)]


# --- what people and HTTP ask -----------------------------------------------------------------------------------


def status(opened: Opened) -> dict[str, Any]:
    """Return how everything stands: `is_running`, and each model with age, performance, rows and whether they suffice."""
    found = tell.status(opened)
    known = {one.name: words.record(words.MODEL, vars(one)) for one in found.models}
    for one in known.values():
        one["data_sufficient"] = None if one["data_size"] is None else one["data_size"] >= one["min_data_size"]
    return {
        "is_running": found.monitoring,
        "is_paused": found.paused,
        "running_since": words.utc(found.since_at),
        "running_retrainings": [name for name, one in known.items() if one["is_retraining"]],
        "models": known,
    }


def history(opened: Opened, model_name: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Return what was trained, newest first, in the fields of document 002.

    Raises:
        NotFound: no such model.
    """
    return [words.record(words.HISTORY, one) for one in tell.history(opened, model_name, limit)]


def trigger(
    opened: Opened, model_name: str, *, wait: bool, actor: str | None = None, stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Ask for a training by hand and return what became of it; without `wait` only that it was asked for.

    Where no loop runs it is trained here in any case: nobody else would.

    Raises:
        NotFound: no such model.
        Conflict: training is paused; the request stays.
    """
    read_first(opened, model_name)
    asked = ask.trigger(opened, model_name, actor=actor or opened.store.actor)
    if asked.run_id is None:
        raise Conflict(asked.reason)
    told = {"model_name": model_name, "trigger_type": "manual", "run_id": asked.run_id}
    if not wait and loop_alive(opened):
        said = f"Retraining of {model_name} was asked for; GET /retraining/history tells how it ends"
        return {"message": said, **told, "status": "queued", "reason": asked.reason}
    done = run_to_end(opened, asked, stop=stop)
    ended = words.record(words.HISTORY, tell.run_detail(opened, asked.run_id, 0))
    said = f"Retraining of {model_name} ended: {done.outcome}, {done.reason}"
    return {"message": said, **told, "status": ended["status"], "duration": ended["duration"], "reason": done.reason}
