"""Settings of a process: where the project lives and how hard it may work. Read from `EVERTRAIN_*` variables."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from evertrain.errors import ConfigError, UnknownName

PROJECT_FILES = ("project.py", "evertrain.toml")
LOGS = ("plain", "json")

# Variables that are no settings: where the project is, what is shown, and what tests and our own children are told.
_OTHERS = ("EVERTRAIN_PROJECT", "EVERTRAIN_DEBUG", "EVERTRAIN_FAULT", "EVERTRAIN_CHILD_FAULT", "EVERTRAIN_COMPILING")
# Kubernetes gives every container such variables of each service, also of one that is called evertrain.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_A_SERVICE = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)?)")
# What POSIX takes beside names, such as CET-1CEST: valid for the machine, though no name for a schedule.
_POSIX_ZONE = re.compile(r"(<[^>]+>|[A-Za-z]{3,})[+-]?[0-9].*|/.*")


@dataclass(frozen=True)
class Settings:
    """How this process behaves. Every field can be set as `EVERTRAIN_<FIELD>` in capitals.

    Attributes:
        children: worker child processes, at least 1; by default one less than the cores.
        lease_s: seconds after which a silent worker's items are given to another.
        beat_s: seconds between two signs of life; at most a third of `lease_s`.
        tick_s: seconds between two looks of the loop at schedules and queue.
        check_s: seconds between two looks at files, age and score; the watcher sees files sooner.
        drain_s: seconds that running items get to finish when the loop is asked to stop.
        batch_s: seconds of work, by the last measured fits, that are handed to a child at once.
        batch_items: items that are handed to a child at once, at most.
        busy_s: seconds to wait for another process's write before giving up.
        child_items: items after which a child is replaced.
        child_mb: memory after an item, in MB, at which a child is replaced.
        child_idle_s: seconds without work after which a child is ended, and its memory given back.
        temporary_s: seconds that a forecast of filtered rows may take, and that another waits for it.
        temporary_rows: rows without which no forecast of filtered rows is made.
        log: "plain", lines for people, or "json", one object per line for programs.
    """

    children: int = 0
    lease_s: float = 30.0
    beat_s: float = 5.0
    tick_s: float = 1.0
    check_s: float = 300.0
    drain_s: float = 30.0
    batch_s: float = 5.0
    batch_items: int = 500
    busy_s: float = 5.0
    child_items: int = 5000
    child_mb: float = 1500.0
    child_idle_s: float = 60.0
    temporary_s: float = 120.0
    temporary_rows: int = 10
    log: str = "plain"

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "log":
                if value not in LOGS:
                    raise ConfigError(one.name, value, " or ".join(LOGS))
            elif one.name == "children":
                if value < 0:
                    raise ConfigError(one.name, value, "a whole number of at least 0; 0 is one less than the cores")
            elif one.name == "drain_s" and value == 0:
                continue  # what runs is given back at once
            elif not (math.isfinite(value) and value > 0):
                raise ConfigError(one.name, value, "a finite number above 0")
        if self.lease_s < 3 * self.beat_s:
            raise ConfigError("beat_s", self.beat_s, f"at most a third of lease_s, {self.lease_s / 3:g}")

    @property
    def child_count(self) -> int:
        return self.children or max(1, (os.cpu_count() or 2) - 1)


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the environment, by default this process's.

    Raises:
        ConfigError: a value is not allowed, names the variable; or a variable of ours is none that exists.
    """
    environment = os.environ if environment is None else environment
    variables = {f"EVERTRAIN_{one.name.upper()}": one for one in fields(Settings)}
    for name in environment:
        if name.startswith("EVERTRAIN_") and name not in (*variables, *_OTHERS) and not _OF_A_SERVICE.fullmatch(name):
            near = get_close_matches(
                name.removeprefix("EVERTRAIN_"), [one.name.upper() for one in fields(Settings)], 2, 0.75
            )
            raise UnknownName("variable", name, [f"EVERTRAIN_{one}" for one in near] or variables)
    _check_zone(environment.get("TZ", ""))
    values: dict[str, float | str] = {}
    for variable, one in variables.items():
        if text := environment.get(variable):
            if one.type == "str":
                values[one.name] = text
                continue
            whole = one.type == "int"
            try:
                values[one.name] = int(text) if whole else float(text)
            except ValueError:
                raise ConfigError(variable, text, "a whole number" if whole else "a number") from None
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ConfigError as error:
        if error.name == "beat_s" and "beat_s" not in values and "lease_s" in values:
            least = f"at least three times beat_s, {3 * Settings.beat_s:g}"
            raise ConfigError("EVERTRAIN_LEASE_S", values["lease_s"], least) from None
        raise ConfigError(f"EVERTRAIN_{error.name.upper()}", error.value, error.allowed) from None


def _check_zone(text: str) -> None:
    """Refuse a `TZ` that names no time zone: the machine takes it for UTC without a word."""
    name = text.removeprefix(":")
    if not name or _POSIX_ZONE.fullmatch(name):
        return
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError("TZ", text, "a time zone such as Europe/Berlin, or no such variable") from None


@dataclass(frozen=True)
class Home:
    """Where a project's files are, all below its folder."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / ".evertrain"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def extracts(self) -> Path:
        return self.folder / "extracts"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def reports(self) -> Path:
        """Lists of rows that were refused or set aside."""
        return self.folder / "reports"

    @property
    def log(self) -> Path:
        return self.root / "logs" / "retraining.log"

    @property
    def output(self) -> Path:
        """What trainers print."""
        return self.root / "logs" / "trainers.log"


def find_project(start: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the project: `EVERTRAIN_PROJECT`, else the nearest parent that holds a project file.

    Raises:
        ConfigError: no folder up to the root holds one.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get("EVERTRAIN_PROJECT"):
        start = Path(named)
        if project_file(start):
            return start.resolve()
        raise ConfigError("EVERTRAIN_PROJECT", named, f"a folder that holds {' or '.join(PROJECT_FILES)}")
    for folder in (start.resolve(), *start.resolve().parents):
        if project_file(folder):
            return folder
    raise ConfigError(
        "project folder",
        str(start),
        f"a folder that holds {' or '.join(PROJECT_FILES)}, or one below it; "
        "`evertrain init` writes one, -C DIR names another",
    )


def project_file(folder: Path) -> Path | None:
    """Return the project file in `folder`, or None. `project.py` comes before `evertrain.toml`."""
    return next((folder / name for name in PROJECT_FILES if (folder / name).is_file()), None)
