"""Looking after a project: copies that can be trusted, what may be removed, and what the doctor finds."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from evertrain import Retention, errors
from evertrain.artifacts import digest_of
from evertrain.control import ask, upkeep
from evertrain.control.opened import open_project
from evertrain.events import Kind
from evertrain.store import items, leases, log

from .conftest import line_model, write_rows

TOML = """
name = "test"
executor = "inline"
[sources.rows]
path = "rows.csv"
[models.line]
source = "rows"
target = "y"
trainer = "toys:Line"
min_samples = 10
"""


@pytest.fixture
def shop(make, folder, monkeypatch):
    """Return a maker of a project whose model was trained `times` times, each on other rows."""
    monkeypatch.chdir(folder)
    (folder / "evertrain.toml").write_text(TOML)

    def build(times: int = 1, **options: object):
        project = make(**options)
        line_model(project)
        train(project, folder, times)
        return project

    return build


def train(project, folder: Path, times: int, first: int = 0) -> None:
    for number in range(first, first + times):
        write_rows(folder / "rows.csv", 60 + number, offset=number)
        assert project.trigger("line").outcome == "promoted"


def version(opened) -> list[str]:
    with opened.store.read() as tx:
        return [row[0] for row in tx.rows("SELECT f.artifact FROM partitions p JOIN fits f ON f.id = p.champion_id")]


# --- copies -----------------------------------------------------------------------------------------------------


def test_a_backup_restored_elsewhere_serves_the_same_models(shop, tmp_path, make):
    project = shop(2)

    made = upkeep.backup(project.opened, tmp_path / "copy", "ann")
    upkeep.restore(tmp_path / "new", tmp_path / "copy")

    restored = open_project(tmp_path / "new")
    assert version(restored) == version(project.opened)
    for digest in version(restored):
        assert digest_of(restored.artifacts.path(digest))[0] == digest
    assert made.artifacts == 2
    assert (tmp_path / "new" / "evertrain.toml").read_text() == TOML
    with restored.store.read() as tx:
        kinds = [one.kind for one in log.after(tx, 0)]
    assert Kind.RUN_ENDED in kinds
    restored.close()


@pytest.mark.slow
def test_a_backup_under_writers_is_sound_and_holds_everything_that_was_acknowledged_before(shop, tmp_path, folder):
    """P-38: taken under four writers, again and again; each copy is whole, and nothing acknowledged is missing."""
    project = shop(1)
    acknowledged, ended = [0] * 4, threading.Event()

    def write(number: int) -> None:
        opened = open_project(folder)
        while not ended.is_set():
            try:
                ask.trigger(opened, "line", force=True, actor=f"writer {number}")
            except errors.StoreBusy:
                continue
            acknowledged[number] += 1
        opened.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    copies = []
    try:
        for number in range(5):
            before = sum(acknowledged)
            upkeep.backup(project.opened, tmp_path / f"copy-{number}", "ann")
            copies.append((before, tmp_path / f"copy-{number}"))
    finally:
        ended.set()
        for writer in writers:
            writer.join()

    assert sum(acknowledged) > 20
    for before, copy in copies:
        upkeep.verify(copy)
        with sqlite3.connect(copy / "evertrain.db") as found:
            (number,) = found.execute(
                "SELECT count(*) FROM events WHERE actor LIKE 'writer %' AND kind = 'wanted.raised'"
            ).fetchone()
        assert number >= before
    upkeep.restore(tmp_path / "new", copies[-1][1])
    restored = open_project(tmp_path / "new")
    with restored.store.read() as tx:
        assert tx.value("PRAGMA integrity_check") == "ok"
    restored.close()


def test_a_copy_of_the_database_file_alone_is_no_backup(shop, tmp_path, folder):
    """P-38: what only looks like one is refused before anything is touched."""
    shop(1)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "evertrain.db").write_bytes((folder / "evertrain.db").read_bytes())

    with pytest.raises(errors.StoreError, match="is no backup"):
        upkeep.restore(tmp_path / "new", tmp_path / "copy")

    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "database"])
def test_a_damaged_backup_is_refused_and_what_is_here_stays(shop, tmp_path, folder, damage):
    project = shop(1)
    upkeep.backup(project.opened, tmp_path / "copy", "ann")
    project.close()
    artifact = next(path for path in (tmp_path / "copy" / "artifacts").rglob("*") if path.is_file())
    data = artifact.read_bytes()
    if damage == "flip":
        artifact.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "cut":
        artifact.write_bytes(data[:-1])
    elif damage == "missing":
        artifact.unlink()
    else:
        database = tmp_path / "copy" / "evertrain.db"
        content = bytearray(database.read_bytes())
        content[4096 : 3 * 4096] = os.urandom(2 * 4096)
        database.write_bytes(bytes(content))
    before = (folder / "evertrain.db").read_bytes()

    with pytest.raises(errors.StoreError):
        upkeep.restore(folder, tmp_path / "copy", force=True)

    assert (folder / "evertrain.db").read_bytes() == before


def test_a_backup_is_never_written_over_and_a_half_one_is_not_called_one(shop, tmp_path, monkeypatch):
    project = shop(1)
    upkeep.backup(project.opened, tmp_path / "copy", "ann")
    with pytest.raises(errors.Conflict, match="exists; name a new folder"):
        upkeep.backup(project.opened, tmp_path / "copy", "ann")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upkeep.shutil, "copyfile", broken)
    with pytest.raises(OSError, match="No space left"):
        upkeep.backup(project.opened, tmp_path / "second", "ann")
    monkeypatch.undo()

    assert not (tmp_path / "second").exists()
    upkeep.backup(project.opened, tmp_path / "second", "ann")
    upkeep.verify(tmp_path / "second")


def test_restoring_over_a_store_needs_force_and_keeps_the_old_one_beside(shop, tmp_path, folder):
    project = shop(1)
    upkeep.backup(project.opened, tmp_path / "copy", "ann")
    then = version(project.opened)
    train(project, folder, 1, first=1)
    project.close()

    with pytest.raises(errors.Conflict, match="--force"):
        upkeep.restore(folder, tmp_path / "copy")
    upkeep.restore(folder, tmp_path / "copy", force=True)

    opened = open_project(folder)
    assert version(opened) == then
    opened.close()
    assert (folder / "evertrain.db.before-restore").is_file()
    assert (folder / ".evertrain.before-restore" / "artifacts").is_dir()


def test_work_that_ran_when_the_backup_was_made_is_taken_up_again(shop, tmp_path):
    project = shop(1)
    project.trigger("line", force=True, wait=False)
    with project.opened.store.write() as tx:
        owner = leases.new_owner()
        leases.register(tx, owner, 30)
        assert items.claim(tx, owner, most=1, seconds=5)

    upkeep.backup(project.opened, tmp_path / "copy", "ann")
    upkeep.restore(tmp_path / "new", tmp_path / "copy")

    restored = open_project(tmp_path / "new")
    with restored.store.read() as tx:
        states = {row[0]: row[1] for row in tx.rows("SELECT state, count(*) FROM items GROUP BY state")}
    restored.close()
    assert states == {"promoted": 1, "waiting": 1}


# --- removing ---------------------------------------------------------------------------------------------------

LEAST = Retention(fits=1, days=0)


def files(opened) -> set[str]:
    return {path.name for path in opened.artifacts.every()}


def test_gc_keeps_the_champion_and_its_predecessor_and_removes_the_rest_an_hour_later(shop, clock):
    """P-39: what serves and what it can go back to are always there."""
    project = shop(5, clock=clock, keep=LEAST)
    opened = project.opened
    clock.advance(days=30)

    dry = upkeep.gc(opened, dry_run=True)
    first = upkeep.gc(opened)
    everything = files(opened)
    clock.advance(minutes=59)
    early = upkeep.gc(opened)
    clock.advance(minutes=2)
    ripe = upkeep.gc(opened)

    assert (dry.removed, first.removed, first.marked, early.removed, ripe.removed) == (3, 0, 3, 0, 3)
    assert len(everything) == 5
    assert len(files(opened)) == 2
    assert dry.bytes == ripe.bytes
    back = project.rollback("line")
    assert (back.before, back.after) == ("1.4.0", "1.3.0")
    assert project.predictor("line").predict({"x": [1.5]}).tolist() == pytest.approx([5.0])


def test_a_rolled_back_champion_and_a_pinned_one_are_kept(shop, clock, folder):
    """P-39: after a rollback, the fit that serves is an old one."""
    project = shop(5, clock=clock, keep=LEAST)
    project.rollback("line", to="1.1.0", pin=True)
    clock.advance(days=30)

    upkeep.gc(project.opened)
    clock.advance(hours=2)
    upkeep.gc(project.opened)

    serving = version(project.opened)
    assert set(serving) <= files(project.opened)
    assert project.rollback("line").after == "1.0.0"


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Retention(fits=1, days=0), 2),
        (Retention(fits=3, days=0), 3),
        (Retention(fits=1, days=60), 5),
        (Retention(fits=9, days=0), 5),
    ],
    ids=["least", "newest three", "young", "more than there are"],
)
def test_retention_keeps_the_newest_and_the_young(shop, clock, keep, left):
    project = shop(5, clock=clock, keep=keep)
    clock.advance(days=30)
    upkeep.gc(project.opened)
    clock.advance(hours=2)

    upkeep.gc(project.opened)

    assert len(files(project.opened)) == left


def test_what_was_marked_and_is_needed_again_stays(shop, clock):
    project = shop(4, clock=clock, keep=LEAST)
    clock.advance(days=30)
    upkeep.gc(project.opened)

    project.rollback("line", to="1.0.0")
    clock.advance(hours=2)
    upkeep.gc(project.opened)

    assert set(version(project.opened)) <= files(project.opened)
    assert project.predictor("line").predict({"x": [1.5]}).tolist() == pytest.approx([2.0])


def test_a_file_that_a_crash_left_behind_goes_after_a_day(shop, clock):
    project = shop(1)
    stray = project.opened.artifacts.path("ab" * 32)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"left behind")
    young = upkeep.gc(project.opened)
    assert stray.exists()

    two_days_ago = project.opened.store.clock.now().timestamp() - 2 * 86400
    os.utime(stray, (two_days_ago, two_days_ago))
    old = upkeep.gc(project.opened)

    assert (young.removed, old.removed) == (0, 1)
    assert not stray.exists()


def test_gc_says_why_the_rest_stays(shop):
    found = upkeep.gc(shop(3).opened, dry_run=True)

    assert found.removed == 0
    assert found.kept["champions and their predecessors"] >= 1
    assert found.kept["younger than 7 days"] == 3


# --- the doctor -------------------------------------------------------------------------------------------------


def findings(folder: Path) -> dict[str, list[upkeep.Finding]]:
    found: dict[str, list[upkeep.Finding]] = {}
    for one in upkeep.doctor(folder):
        if one.level in ("problem", "warning") and one.about not in ("sqlite", "disk"):
            found.setdefault(one.about, []).append(one)
    return found


def test_the_doctor_finds_nothing_wrong_with_a_healthy_project_and_changes_nothing(shop, folder):
    """S2-37: a way to find what is wrong."""
    project = shop(1)
    with project.opened.store.read() as tx:
        before = log.newest(tx)

    assert findings(folder) == {}
    with project.opened.store.read() as tx:
        assert log.newest(tx) == before


def test_the_doctor_names_a_missing_source_a_cut_artifact_and_a_changed_file(shop, folder):
    """P-58: each with what helps."""
    project = shop(1)
    artifact = project.opened.artifacts.path(version(project.opened)[0])
    artifact.chmod(0o600)
    artifact.write_bytes(artifact.read_bytes()[:-1])
    (folder / "rows.csv").unlink()

    found = findings(folder)

    assert found["champions"][0].level == "problem"
    assert "evertrain restore" in found["champions"][0].help
    assert "rows" in found["source"][0].text


def test_the_doctor_names_a_store_that_others_can_read(shop, folder):
    """P-58"""
    shop(1)
    (folder / "evertrain.db").chmod(0o644)

    (found,) = findings(folder)["permissions"]

    assert "evertrain.db can be read by others" in found.text
    assert found.help == f"chmod go= {folder / 'evertrain.db'}"


def test_the_doctor_names_a_damaged_store(shop, folder):
    """P-58"""
    shop(1).close()
    (folder / "evertrain.db").write_bytes(b"this is no database, but a text " * 300)
    for suffix in ("-wal", "-shm"):
        (folder / f"evertrain.db{suffix}").unlink(missing_ok=True)

    found = findings(folder)

    assert found["store"][0].level == "problem"
    assert (folder / "evertrain.db").read_bytes().startswith(b"this is no database")


def test_the_doctor_names_what_died_and_the_command_that_tries_again(shop, folder, clock):
    project = shop(1, clock=clock)
    asked = project.trigger("line", force=True, wait=False)
    store = project.opened.store
    for _ in range(3):  # taken by processes that fall silent, one after the other
        with store.write() as tx:
            owner = leases.new_owner()
            leases.register(tx, owner, 30)
            assert items.claim(tx, owner, most=1, seconds=5)
        clock.advance(hours=1)
        with store.write() as tx:
            items.reap(tx)

    (found,) = findings(folder)["items"]

    assert found.help == f"evertrain runs {asked.run_id} --retry-failed"
