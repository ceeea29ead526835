"""What tests share: small projects in a temporary folder, toy trainers, and a calm Hypothesis."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from evertrain import CsvFile, Custom, Project, Settings
from evertrain.clock import ManualClock
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

from .process_kit import Host

TOYS = Path(__file__).with_name("toys.py")

# A loaded machine is no failure.
settings.register_profile("evertrain", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("evertrain")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    """An empty store of the newest schema, on a clock that stands still."""
    found = Store("sqlite:///evertrain.db", tmp_path, clock=clock)
    migrate(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Starts real processes at little cost; ends those that are left."""
    found = Host()
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder in which the toy trainers can be imported by worker children, too."""
    shutil.copy(TOYS, tmp_path / "toys.py")
    return tmp_path


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Project]]:
    """Return a maker of projects in `folder`, closed at the end; `inline` ones train in this process."""
    monkeypatch.syspath_prepend(str(folder))
    made: list[Project] = []

    def build(**options: object) -> Project:
        quick = Settings(tick_s=0.05, check_s=3600)
        project = Project("test", root=folder, **{"settings": quick, "executor": "inline", **options})  # type: ignore[arg-type]
        made.append(project)
        return project

    yield build
    for project in made:
        project.close()


def write_rows(path: Path, rows: int = 60, *, offset: float = 0.0, towns: int = 0) -> None:
    """Write a CSV of `x, y` (y = 2x + offset), with a column `town` of that many towns."""
    lines = ["town,x,y" if towns else "x,y"]
    for i in range(rows):
        town = f"T{i % towns:02d}," if towns else ""
        lines.append(f"{town}{i}.5,{2 * i + offset}")
    path.write_text("\n".join(lines) + "\n")


def line_model(project: Project, name: str = "line", **options: object) -> None:
    """Declare a model of `rows.csv` that the toy `Line` trainer learns exactly."""
    if "rows" not in project.spec.sources:
        project.source("rows", CsvFile("rows.csv"))
    project.model(name, "rows", **{"target": "y", "trainer": Custom("toys:Line"), "min_samples": 10, **options})  # type: ignore[arg-type]
