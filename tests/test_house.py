"""The house: which room may import whom (DESIGN, the house), and what must not happen where."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "evertrain"

# A module imports only from rows above its own; modules of one row do not know each other.
ROWS = [
    ["errors", "clock", "faults"],
    ["config", "partitions", "events", "states"],
    ["specs"],
    ["schema", "drift", "scores", "calendar", "forecasting", "holdout"],
    ["triggers", "gate", "policy"],
    ["plan", "replay", "evidence"],
    ["sources", "artifacts", "store"],
    ["registry", "trainers", "notify", "observations", "watch", "datasets"],
    ["executors", "serving", "forecasts"],
    ["control", "loader", "plots", "reports"],
    ["loop"],
    ["project", "dashboard"],
    ["server"],
    ["compat", "testing"],
    ["cli"],
    ["demo"],
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
# `control` compiles project files through `loader`; both are the use-case row. `replay` decides again, as `evidence` does.
KNOWN = {("control", "loader"), ("replay", "evidence")}
FACES = {"__init__", "__main__"}


def _rooms() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in SOURCE.rglob("*.py"):
        rooms.setdefault(path.relative_to(SOURCE).parts[0].removesuffix(".py"), []).append(path)
    return rooms


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return {one.split(".")[1] for one in found if one.startswith("evertrain.")}


@pytest.mark.parametrize("room", sorted(set(_rooms()) - FACES))
def test_a_room_imports_only_from_rows_above_its_own(room):
    assert room in ROW, f"{room} has no place in the house"
    for path in _rooms()[room]:
        for other in _imports(path) & set(ROW):
            if other != room and (room, other) not in KNOWN:
                assert ROW[other] < ROW[room], f"{path.name} ({room}) must not import {other}"


PURE_ROWS = {name for row in ROWS[1:6] for name in row}
IMPURE = {
    "sqlite3",
    "socket",
    "threading",
    "subprocess",
    "time",
    "random",
    "secrets",
    "urllib",
    "sqlalchemy",
    "requests",
}


@pytest.mark.parametrize("room", sorted(PURE_ROWS & set(_rooms())))
def test_rows_two_to_six_are_pure(room):
    for path in _rooms()[room]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [one.name for one in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            assert not {name.split(".")[0] for name in names} & IMPURE, f"{path.name} imports {names}"


def test_only_the_clock_reads_the_system_clock():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if path.name != "clock.py":
            assert "datetime.now(UTC)" not in text, path
            assert "datetime.utcnow" not in text, path


def test_sql_is_written_in_the_store_and_the_registry_only():
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ("store", "registry", "observations") or path.name in ("extract.py", "index.py", "rows.py"):
            continue  # copies of rows are files of their own
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(("SELECT ", "INSERT ", "UPDATE ", "DELETE ")), (
                    f"{path.name}: {node.value[:60]}"
                )


@pytest.mark.parametrize("word", ["pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"])
def test_nothing_is_pickled(word):
    """A-53: no import of anything that executes what it reads."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert word not in {*(name.split(".")[0] for name in names), module.split(".")[0]}, path


@pytest.mark.parametrize("call", ["eval(", "exec(", "shell=True", "allow_pickle=True", "read_pickle", "os.fork("])
def test_nothing_is_evaluated_and_no_shell_is_started(call):
    """A-53, A-09."""
    for path in SOURCE.rglob("*.py"):
        lines = [line for line in path.read_text().splitlines() if call in line and "re." not in line]
        assert not [
            line for line in lines if f" {call}" in line or f"={call}" in line or line.strip().startswith(call)
        ], path


def test_the_light_processes_import_no_heavy_library():
    """The loop and the command line at rest: no scikit-learn, SciPy, skops, pandas or Polars."""
    code = (
        "import sys; import evertrain.loop, evertrain.cli.commands, evertrain.control.tell, evertrain.control.ask;"
        "print([m for m in ('sklearn', 'scipy', 'skops', 'pandas', 'polars', 'watchfiles') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_help_imports_nothing_but_typer():
    code = (
        "import sys; sys.argv = ['evertrain', '--help']\n"
        "from evertrain.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('sqlalchemy', 'pydantic', 'polars', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert found.strip() == "[]"
