"""From a project file to its declaration, without importing the user's code into this process.

`project.py` is imported by a child process alone, which answers with the declaration as JSON. `evertrain.toml` is
that JSON in another spelling and needs no child. Before a declaration is made current, another child makes every
trainer once, so that a wrong import path is refused then and not found by the first training.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evertrain import gate, specs
from evertrain.config import PROJECT_FILES, project_file
from evertrain.errors import ConfigError, EvertrainError
from evertrain.specs import Custom, Estimator, ProjectSpec, decode_project

_WAIT_S = 120
_CHECK = "--check"


def digest(root: Path) -> str | None:
    """Return the digest of the project file in `root`; None when there is none."""
    path = project_file(root)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None


def load(root: Path) -> ProjectSpec:
    """Return what the project file in `root` declares.

    Raises:
        ConfigError: there is none, it cannot be imported, or a declaration in it is wrong.
    """
    path = project_file(root)
    if path is None:
        raise ConfigError("project folder", str(root), f"a folder that holds {' or '.join(PROJECT_FILES)}")
    if path.suffix == ".toml":
        return from_toml(path.read_text(encoding="utf-8"), path.name)
    return decode_project(_ask(path.parent, path.name)["project"])


def check(project: ProjectSpec, root: Path) -> None:
    """Have a child import and make every trainer once, and compare its task with the scores of its model.

    Apart from `load`, because whoever only looks or predicts needs no trainer's code: a backup serves without it.

    Raises:
        ConfigError: a trainer cannot be imported or made, is none, or cannot be measured by a score of its model.
    """
    if any(isinstance(one.trainer, Custom | Estimator) for one in project.models.values()):
        _ask(root, _CHECK, json.dumps(specs.encode(project)).encode())


def from_toml(text: str, name: str = "evertrain.toml") -> ProjectSpec:
    """Return the project that a TOML text declares: tables `[sources.NAME]`, `[datasets.NAME]` and
    `[models.NAME]`, same fields.

    A trainer may be written as its import path alone, a trigger as its kind or as `{weekly = "wed", at = "03:00"}`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(name, str(error), "TOML (toml.io)") from None
    for key, model in data.get("models", {}).items():
        if isinstance(model, dict):
            model.setdefault("name", key)
            model.setdefault("source", key)
            if isinstance(trainer := model.get("trainer"), str):
                model["trainer"] = _trainer(trainer)
            if isinstance(triggers := model.get("triggers"), list):
                model["triggers"] = [_trigger(one) for one in triggers]
    for key, dataset in data.pop("datasets", {}).items():
        data.setdefault("sources", {})[key] = {**dataset, "kind": "dataset"} if isinstance(dataset, dict) else dataset
    for source in data.get("sources", {}).values():
        if isinstance(source, dict) and "kind" not in source and "path" in source:
            source["kind"] = "parquet" if str(source["path"]).endswith((".parquet", ".pq")) else "csv"
    return decode_project(data)


def _trainer(text: str) -> dict[str, Any]:
    if ":" not in text or " " in text:
        return {"kind": "command", "run": text}
    return {"kind": "sklearn" if text.startswith("sklearn.") else "custom", "path": text}


def _trigger(one: Any) -> Any:
    if isinstance(one, str):
        return {"kind": one}
    if isinstance(one, Mapping) and "kind" not in one:
        words: dict[str, Callable[..., specs.Schedule]] = {
            "daily": specs.daily,
            "weekly": specs.weekly,
            "monthly": specs.monthly,
            "cron": specs.cron,
        }
        for word, make in words.items():
            if word in one:
                own = dict(one)
                return specs.encode(make(own.pop(word), **own))
    return one


def _ask(root: Path, what: str, given: bytes = b"") -> dict[str, Any]:
    """Return what a child of this module answers about a project file, or about the declaration `given`."""
    read, write = os.pipe()
    environment = {**os.environ, "EVERTRAIN_COMPILING": "1"}
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "evertrain.loader", what, str(write)],
            cwd=root,
            env=environment,
            pass_fds=[write],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(write)
    name = "trainer" if what == _CHECK else what
    data = bytearray()
    reader = threading.Thread(target=_take, args=(read, data), daemon=True)
    reader.start()
    try:
        _, printed = process.communicate(given, timeout=_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stderr):  # not read to the end, which another process may hold back
            if pipe is not None:
                pipe.close()
        raise ConfigError(name, f"no answer after {_WAIT_S} s", "a file that declares and returns") from None
    finally:
        reader.join(1)
    if not data:
        last = printed.decode(errors="replace").strip().splitlines()[-1:] or ["it ended without a word"]
        raise ConfigError(name, last[0], "a file that declares a project")
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise ConfigError(answer["name"], answer["error"], answer["allowed"])
    return answer


def _take(descriptor: int, data: bytearray) -> None:
    """Read the answer beside the limit: a process that the file began may hold the pipe open for ever."""
    with os.fdopen(descriptor, "rb") as answer:
        while part := answer.read1():
            data.extend(part)


def _check_trainers(project: ProjectSpec) -> None:
    from evertrain.trainers.make import check, make

    made: dict[str, object] = {}
    for model in project.models.values():
        if not isinstance(model.trainer, Custom | Estimator):
            continue
        known = json.dumps(specs.encode(model.trainer), sort_keys=True)
        if known not in made:
            try:
                made[known] = make(model.trainer, Path())
            except ConfigError as error:
                raise ConfigError(f"{model.name}.trainer: {error.name}", error.value, error.allowed) from None
            except Exception as error:
                said = f"a class that can be imported and made ({type(error).__name__}: {error})"
                raise ConfigError(f"{model.name}.trainer", model.trainer.path, said) from error
        check(model, made[known])
        gate.check(model, getattr(made[known], "task", None))


def declared(module: Any, name: str) -> ProjectSpec:
    """Return the declaration of the one project in an imported module.

    Raises:
        ConfigError: it holds none, or several.
    """
    found = {id(value): value for value in vars(module).values() if hasattr(type(value), "__evertrain_project__")}
    if len(found) != 1:
        raise ConfigError(name, f"{len(found)} projects", "exactly one: project = Project('name')")
    spec: ProjectSpec = next(iter(found.values())).spec
    return spec


def _imported(name: str) -> ProjectSpec:
    # Under its own name, so that classes declared in it can be found again by worker children.
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return declared(module, name)


def main() -> None:
    """Import a project file, or make the trainers of a declaration; write the answer, as JSON, to a descriptor."""
    name, target = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, str(Path.cwd()))
    try:
        answer: dict[str, Any] = {}
        if name == _CHECK:
            _check_trainers(decode_project(json.load(sys.stdin)))
        else:
            answer["project"] = specs.encode(_imported(name))
    except ConfigError as error:
        answer = {"name": error.name, "error": str(error.value), "allowed": error.allowed}
    except EvertrainError as error:
        answer = {"name": name, "error": str(error), "allowed": "see the message"}
    except Exception as error:  # noqa: BLE001 - whatever a user's file raises
        place = next(
            (frame for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename.endswith(name)),
            None,
        )
        line = (
            f" (line {place.lineno})" if place else f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        )
        answer = {
            "name": name,
            "error": f"{type(error).__name__}: {error}{line}",
            "allowed": "a Python file that can be imported",
        }
    with os.fdopen(target, "wb") as file:
        file.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
