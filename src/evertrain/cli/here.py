"""Where a command stands: the one app, the project's folder, the opened project, and what people type for partitions."""

from __future__ import annotations

import contextlib
import getpass
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import show

if TYPE_CHECKING:
    from evertrain.control.opened import Opened
    from evertrain.specs import ModelSpec
    from evertrain.store.models import Model

app = typer.Typer(
    name="evertrain",
    help="Keeps machine-learning models fresh: decides, retrains what changed, proves it, swaps it in, can take it back.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
schedule_app = typer.Typer(help="List, add and remove schedules.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(schedule_app, name="schedule")
token_app = typer.Typer(
    help="Make, list and revoke tokens for the service.", rich_markup_mode=None, no_args_is_help=True
)
app.add_typer(token_app, name="token")

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]
Partitions = Annotated[
    list[str] | None,
    typer.Option(
        "--partition",
        "-p",
        help="A partition, as town=Pilar or as JSON, or the rollup's name alone: Overall is the model above all"
        " partitions, town=Overall a town of that name; may be repeated.",
    ),
]

root: list[Path] = []


def _tell_version(asked: bool) -> None:
    if asked:
        from evertrain import __version__

        show.line(f"evertrain {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    folder: Annotated[
        Path | None,
        typer.Option(
            "-C",
            "--project",
            metavar="DIR",
            help="The project's folder; else EVERTRAIN_PROJECT, else the nearest parent.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    if folder is not None:
        root[:] = [folder]
        show.place[:] = ["-C", show.quoted(folder)]


def folder() -> Path:
    from evertrain.config import find_project, project_file
    from evertrain.errors import ConfigError

    if root:
        if not project_file(root[0]):
            raise ConfigError(
                "-C", str(root[0]), "a folder that holds project.py or evertrain.toml; `evertrain init` writes one"
            )
        return root[0].resolve()
    return find_project(Path.cwd())


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@contextlib.contextmanager
def patiently(text: str) -> Iterator[None]:
    """Say on standard error what is being waited for, once that has taken a second."""
    teller = threading.Timer(1.0, lambda: show.console(stderr=True).print(f"{text} ...", style="dim"))
    teller.daemon = True
    teller.start()
    try:
        yield
    finally:
        teller.cancel()


@contextlib.contextmanager
def opened(*, keeper: bool = False, terminal: bool = False) -> Iterator[Opened]:
    """Open the project for one command; its first use reads the project file."""
    from evertrain import loader
    from evertrain.cli.logs import log_to
    from evertrain.config import project_file
    from evertrain.control.opened import declared as declare
    from evertrain.control.opened import open_project, reload
    from evertrain.store import models

    root = folder()
    log_to(root / "logs" / "retraining.log", terminal=terminal)
    if str(root) not in sys.path:
        sys.path.append(str(root))  # the project's own modules, for executor="inline"
    with patiently("Reading the project file"):
        opened = open_project(root, keeper=keeper, actor=user())
    try:
        with opened.store.read() as tx:
            declared = models.project(tx) is not None
        if not declared:
            with patiently("Reading the project file"):
                if project_file(root):
                    loader.check(declare(root), root)
                reload(opened, only_if_changed=True)
        yield opened
    finally:
        opened.close()


def model(opened: Opened, name: str) -> Model:
    from evertrain.store import models

    with opened.store.read() as tx:
        return models.by_name(tx, name)


def assigned(given: list[str], form: str, called: str = "--set") -> dict[str, str]:
    """Return what `--set name=value` options, or arguments of that form, say.

    Raises:
        ConfigError: one is not of that form, or a name is set twice.
    """
    from evertrain.errors import ConfigError

    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ConfigError(called, one, form)
        if name in found:
            raise ConfigError(called, one, f"each name once; {name}={found[name]} is set already")
        found[name] = value
    return found


def drift_settings(given: list[str]) -> dict[str, Any]:
    """Return what `--set name=value` options say of a `Drift`; numbers are numbers, and `joint` is divided by commas.

    >>> drift_settings(["error_increase=0.10", "missing_increase=5%", "joint=pca,classifier"])
    {'error_increase': 0.1, 'missing_increase': '5%', 'joint': ('pca', 'classifier')}
    """
    found: dict[str, Any] = dict(assigned(given, "name=value, such as error_increase=20%"))
    for name, value in found.items():
        with contextlib.suppress(ValueError):
            found[name] = json.loads(value)
    if "joint" in found:
        found["joint"] = tuple(str(found["joint"]).split(","))
    return found


def partitions(model: Model, given: list[str] | None) -> list[dict[str, Any]] | None:
    """Return the partitions that a person typed, with values of the columns' types."""
    return [_partition(model.spec, (model.extract or {}).get("columns", {}), text) for text in given] if given else None


def _partition(spec: ModelSpec, columns: dict[str, str], text: str) -> dict[str, Any]:
    from evertrain.errors import ConfigError

    if text.lower() == spec.overall.lower():
        return {}
    if text.startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise ConfigError("--partition", text, 'JSON such as {"town":"Pilar"}') from None
        return found
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name.strip() not in spec.dimensions:
            dims = ",".join(f"{name}=…" for name in spec.dimensions) or "none: this model has no partitions"
            raise ConfigError("--partition", text, f"{dims}, or {spec.overall}")
        kind = columns.get(name.strip())
        values[name.strip()] = int(value) if kind == "integer" and value.lstrip("-").isdigit() else value
    return values
