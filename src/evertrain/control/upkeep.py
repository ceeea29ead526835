"""Looking after a project: what may be wrong with this machine, copies that can be trusted, what can be removed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from evertrain import loader, registry
from evertrain.artifacts import Artifacts, digest_of
from evertrain.config import Home, project_file
from evertrain.control.opened import Opened, observations_beside, open_project
from evertrain.errors import Conflict, EvertrainError, StoreError
from evertrain.events import Kind
from evertrain.sources import read
from evertrain.store import champions, items, leases, models, upkeep
from evertrain.store.connect import FIXED_SQLITE, file_system
from evertrain.store.migrations import MIGRATIONS

_MANIFEST = "evertrain-backup.json"
_DATABASE = "evertrain.db"
_OBSERVATIONS = "observations.db"
_LOW_DISK = 512 << 20
GRACE = timedelta(hours=1)


@dataclass(frozen=True)
class Finding:
    """One look of the doctor: `level` is "ok", "note", "warning" or "problem"; `help` is what to do about it."""

    level: str
    about: str
    text: str
    help: str = ""


def doctor(root: Path) -> list[Finding]:
    """Return what is well and what is not, of the machine and of the project in `root`; changes nothing."""
    found = [*_machine(root)]
    if project_file(root) is None:
        return [*found, Finding("problem", "project", f"no project file in {root}", "evertrain init")]
    try:
        opened = open_project(root)
    except EvertrainError as error:
        return [*found, Finding("problem", "store", str(error))]
    try:
        return [*found, *_project(opened)]
    except EvertrainError as error:
        return [*found, Finding("problem", "project", str(error), "evertrain reload")]
    finally:
        opened.close()


def _machine(root: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "ok" if sys.version_info >= (3, 11) else "problem", "python", f"Python {version}", "use Python 3.11 or newer"
    )
    if sys.platform == "darwin":
        yield Finding("note", "platform", "macOS is supported for development; memory limits do not hold here")
    fixed = sqlite3.sqlite_version_info >= FIXED_SQLITE
    yield Finding(
        "ok" if fixed else "warning",
        "sqlite",
        f"SQLite {sqlite3.sqlite_version}",
        ""
        if fixed
        else "versions before 3.51.3 can corrupt the WAL when several processes checkpoint; only the loop"
        " does here, which avoids it as far as we know; a Python with a newer SQLite is the sure way",
    )
    kind = file_system(root)
    yield Finding("ok", "file system", kind or "unknown")
    free = shutil.disk_usage(root).free
    yield Finding(
        "ok" if free > _LOW_DISK else "warning",
        "disk",
        f"{free / 2**30:.1f} GB free",
        "" if free > _LOW_DISK else "`evertrain gc` removes what nothing needs",
    )
    for name in ("scikit-learn", "skops", "polars", "pandas", "numpy"):
        try:
            yield Finding("ok", "library", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", "library", f"{name} is missing", f"pip install {name}")


def _project(opened: Opened) -> Iterator[Finding]:
    root, home = opened.home.root, opened.home
    with opened.store.read() as tx:
        broken = upkeep.quick_check(tx)
        held = leases.holder(tx, "loop")
        project = models.project(tx)
        applied = models.file_digest(tx)
    yield Finding(
        "problem" if broken else "ok",
        "store",
        broken or f"sound, schema {len(MIGRATIONS)}",
        "evertrain restore BACKUP" if broken else "",
    )
    try:
        seen = opened.observations().check()
    except StoreError as error:
        seen = str(error)
    yield Finding(
        "problem" if seen else "ok", "observations", seen or "sound", "evertrain restore BACKUP" if seen else ""
    )
    yield Finding(
        "ok" if held else "note",
        "loop",
        "running" if held else "no loop is running",
        "" if held else "evertrain start --detach",
    )
    for path in filter(Path.exists, (opened.store.path, opened.observations().path, home.folder)):
        mode = path.stat().st_mode & 0o077
        if mode:
            yield Finding("warning", "permissions", f"{path.name} can be read by others", f"chmod go= {path}")
        if path.stat().st_uid != os.getuid():
            yield Finding("problem", "permissions", f"{path.name} belongs to another user", "run as its owner")
    if project is None:
        yield Finding("problem", "project", "nothing is declared yet", "evertrain reload")
        return
    digest = loader.digest(root)
    if applied not in (digest, "python"):
        yield Finding("note", "project", "the project file changed since it was read", "evertrain reload")
    for name, source in project.sources.items():
        try:
            read.look(source, root)
            yield Finding("ok", "source", f"{name}: {read.called(source)}")
        except EvertrainError as error:
            yield Finding("problem", "source", f"{name}: {error}", "put it back; its models serve on meanwhile")
    with opened.store.read() as tx:
        needed = list(upkeep.needed_artifacts(tx))
        number = sum(champions.number(tx, model.id) for model in models.every(tx))
        stuck = upkeep.dead_items(tx)
    broken_files = [digest for digest, size in needed if not _is_sound(opened.artifacts, digest, size)]
    yield Finding(
        "problem" if broken_files else "ok",
        "champions",
        f"{number} serve" if not broken_files else f"{len(broken_files)} artifact files are missing or damaged",
        "evertrain restore BACKUP" if broken_files else "",
    )
    for run_id, model in stuck:
        yield Finding(
            "warning",
            "items",
            f"{model}: an item of run {run_id} is dead, its process died twice",
            f"evertrain runs {run_id} --retry-failed",
        )


def _is_sound(artifacts: Artifacts, digest: str, size: int) -> bool:
    try:
        return artifacts.size(digest) == size and digest_of(artifacts.path(digest))[0] == digest
    except OSError:
        return False


# --- copies -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    """A finished, verified copy."""

    path: str
    events: int
    artifacts: int
    bytes: int


def backup(opened: Opened, target: Path, actor: str) -> Backup:
    """Write a complete copy of store, artifacts and project file to the new folder `target`, and verify it.

    Safe under writers: the store is copied by SQLite itself, in one state; the artifacts that this state names
    exist by then, and they never change.

    Raises:
        Conflict: `target` exists.
        StoreError: the copy is not sound; it is left for inspection.
    """
    if target.exists():
        raise Conflict(f"{target} exists; name a new folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    opened.store.backup(part / _DATABASE)
    if opened.observations().backup(part / _OBSERVATIONS):
        (part / _OBSERVATIONS).chmod(0o600)
    copy = Artifacts(part / "artifacts")
    listed = upkeep.artifacts_of_copy(part / _DATABASE)
    for digest in listed:
        place = copy.path(digest)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(opened.artifacts.path(digest), place)
    if (file := project_file(opened.home.root)) is not None:
        shutil.copyfile(file, part / file.name)
    with opened.store.read() as tx:
        project = models.project(tx)
    made = Backup(
        str(target),
        upkeep.events_of_copy(part / _DATABASE),
        len(listed),
        sum(p.stat().st_size for p in part.rglob("*") if p.is_file()),
    )
    (part / _MANIFEST).write_text(
        json.dumps({**asdict(made), "schema": len(MIGRATIONS), "store": project and project.store})
    )
    verify(part)
    part.rename(target)
    with opened.store.write(actor) as tx:
        tx.event(Kind.STORE_BACKED_UP, artifacts=made.artifacts, bytes=made.bytes)
    return made


def verify(copy: Path) -> None:
    """Check a backup: the store's integrity and foreign keys, and every artifact's bytes.

    Raises:
        StoreError: something is damaged or missing; says what.
    """
    if not (copy / _MANIFEST).is_file() or not (copy / _DATABASE).is_file():
        raise StoreError(f"{copy} is no backup: {_MANIFEST} or {_DATABASE} is missing")
    try:
        problem, listed = upkeep.problem_of_copy(copy / _DATABASE), upkeep.artifacts_of_copy(copy / _DATABASE)
        if not problem and (copy / _OBSERVATIONS).is_file():
            problem = upkeep.problem_of_copy(copy / _OBSERVATIONS)
    except sqlite3.DatabaseError as error:  # so damaged that it cannot even be asked
        raise StoreError(f"the store in {copy} is damaged: {error}") from error
    if problem:
        raise StoreError(f"the store in {copy} is damaged: {problem}")
    artifacts = Artifacts(copy / "artifacts")
    for digest in listed:
        path = artifacts.path(digest)
        if not path.is_file() or digest_of(path)[0] != digest:
            raise StoreError(f"artifact {digest[:12]} in {copy} is missing or damaged")


def restore(root: Path, copy: Path, *, force: bool = False) -> None:
    """Put a verified backup in place of a project's store and artifacts.

    Work that ran when the backup was made is taken up again by the next loop. What stood here before is kept beside,
    as `.evertrain.before-restore` and `*.before-restore`.

    Raises:
        Conflict: there is a store here and `force` was not given, or a loop is running.
    """
    verify(copy)
    manifest: dict[str, Any] = json.loads((copy / _MANIFEST).read_text())
    url = manifest.get("store") or "sqlite:///evertrain.db"
    target = root / url.removeprefix("sqlite:///")
    if target.exists():
        if not force:
            raise Conflict(f"{target} exists; --force puts the backup in its place and keeps it beside")
        opened = open_project(root, store=url)
        with opened.store.read() as tx:
            held = leases.holder(tx, "loop")
        opened.close()
        if held:
            raise Conflict("a loop is running; `evertrain stop` first")
    home = Home(root)
    seen = observations_beside(target)
    # A journal that a crash left would be rolled back into the file that takes the place of its own.
    for path in (
        target, Path(f"{target}-wal"), Path(f"{target}-shm"), home.folder, seen, Path(f"{seen}-journal"),
    ):  # fmt: skip
        beside = path.with_name(path.name + ".before-restore")
        if path.exists():
            shutil.rmtree(beside, ignore_errors=True) if beside.is_dir() else beside.unlink(missing_ok=True)
            path.rename(beside)
    home.folder.mkdir(parents=True, mode=0o700)
    if (copy / "artifacts").exists():
        shutil.copytree(copy / "artifacts", home.artifacts)
    for name in ("project.py", "evertrain.toml"):
        if (copy / name).exists() and not (root / name).exists():
            shutil.copyfile(copy / name, root / name)
    shutil.copyfile(copy / _DATABASE, target)
    target.chmod(0o600)
    if (copy / _OBSERVATIONS).is_file():
        shutil.copyfile(copy / _OBSERVATIONS, seen)
        seen.chmod(0o600)
    opened = open_project(root, store=url)
    try:
        with opened.store.write() as tx:
            upkeep.forget_processes(tx)
            items.reap(tx)
    finally:
        opened.close()


# --- removing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would; `kept` says why the rest stays."""

    removed: int
    bytes: int
    marked: int
    kept: dict[str, int]


def gc(opened: Opened, *, dry_run: bool = False) -> Collected:
    """Remove artifacts that nothing needs: never a champion's or its predecessor's, nor what is young or newest.

    The first call marks, a later one removes what was marked an hour before and is still not needed. Files without a
    row, older than a day, are what a crash left behind, and go as well.
    """
    keep = opened.project().keep
    with opened.store.read() as tx:
        unneeded = registry.collectable(tx, newest=keep.fits, days=keep.days)
        kept = upkeep.kept_because(tx, newest=keep.fits, days=keep.days)
        known = upkeep.all_artifacts(tx)
    if dry_run:
        return Collected(len(unneeded), sum(size for _, size in unneeded), 0, kept)
    with opened.store.write() as tx:
        removed, freed = registry.collect(tx, opened.artifacts, newest=keep.fits, days=keep.days, grace=GRACE)
        upkeep.trim_events(tx, days=keep.events_days)
    opened.observations().prune()
    now = opened.store.clock.now().timestamp()
    strays = [
        path for path in opened.artifacts.every() if path.name not in known and now - path.stat().st_mtime > 86400
    ]
    for path in strays:
        freed += path.stat().st_size
        path.unlink()
    return Collected(len(removed) + len(strays), freed, len(unneeded) - len(removed), kept)
