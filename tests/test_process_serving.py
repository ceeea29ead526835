"""Serving across processes: swaps under constant asking, a way back, and bytes that were damaged on the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from evertrain import Project
from evertrain.artifacts import Artifacts, Place
from evertrain.errors import ArtifactError, EvertrainError

from .conftest import TOYS, write_rows
from .process_kit import Host, copy, one, predict, rows, sound, until

pytestmark = pytest.mark.slow

OLD, NEW = ("1.0.0", 2.0), ("1.1.0", 3.0)


@pytest.fixture(scope="module")
def template(tmp_path_factory, host):
    """A project with two versions, 1.0.0 and 1.1.0, which serves the second."""
    root = tmp_path_factory.mktemp("serving") / "template"
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    write_rows(root / "rows.csv")
    host.run("build", root, executor="inline", trainer="toys:Line")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        assert predict(root) == OLD
        retrain(host, root, 1)
        assert predict(root) == NEW
        yield root


@pytest.fixture
def root(template, tmp_path):
    return copy(template, tmp_path / "project")


def retrain(host: Host, root: Path, offset: int) -> None:
    """Change the rows, so that version 1.`offset`.0 is trained and answers 2 + `offset`."""
    (root / "rows.csv").unlink()  # another project may be linked to the same file
    write_rows(root / "rows.csv", 60 + offset, offset=offset)
    host.run("loop", root, until_idle=True)


class Asker:
    """Another process that asks all the time."""

    def __init__(self, host: Host, root: Path, folder: Path) -> None:
        self.into, self.stop = folder / "seen.json", folder / "stop"
        self.forked = host.start("ask_all_the_time", root, into=str(self.into), stop=str(self.stop), every_s=0.002)
        until(self.into.exists, what="the first answer")

    def sees(self, version: str, seconds: float = 1.5) -> None:
        until(lambda: f'"{version}"' in self.into.read_text(), seconds, f"an answer of {version}")

    def told(self) -> list[tuple[float, str, float]]:
        self.stop.touch()
        assert self.forked.wait() == 0, self.forked.said
        found = json.loads(self.into.read_text())
        assert found["errors"] == []
        assert found["count"] > 10
        return [(at, version, value) for at, version, value in found["seen"]]


def activated(root: Path) -> list[float]:
    """Return when each champion began to serve, in order."""
    return [
        datetime.fromisoformat(at).timestamp() for (at,) in rows(root, "SELECT from_at FROM activations ORDER BY id")
    ]


def stored(root: Path, version: str) -> tuple[Path, Place]:
    """Return where the bytes of a version are."""
    (found,) = rows(
        root,
        "SELECT artifact, start, size, f.digest FROM fits f JOIN versions v ON v.id = f.version_id"
        " WHERE v.major || '.' || v.minor || '.' || v.patch = ?",
        version,
    )
    place = Place(*found)
    return Artifacts(root / ".evertrain/artifacts").path(place.artifact), place


def test_every_swap_is_followed_within_a_second_and_no_answer_fails_or_goes_back(host, root, tmp_path):
    """P-30, P-31: two threads of another process ask all the time while six versions come; each is whole."""
    asker = Asker(host, root, tmp_path)
    for offset in range(2, 8):
        retrain(host, root, offset)
        asker.sees(f"1.{offset}.0")
    seen = asker.told()
    assert [(version, value) for _, version, value in seen] == [(f"1.{k}.0", 2.0 + k) for k in range(1, 8)]
    late = [at - since for (at, _, _), since in zip(seen[1:], activated(root)[2:], strict=True)]
    assert max(late) < 1, late
    sound(root)


def test_a_rollback_is_seen_elsewhere_within_a_second_and_holds(host, root, tmp_path):
    """P-32: one call, seen by a running process, survives restarts, and no loop without news undoes it."""
    asker = Asker(host, root, tmp_path)
    project = Project.open(root)
    assert (back := project.rollback("line")).after == "1.0.0", back
    project.close()
    asker.sees("1.0.0")
    seen = asker.told()
    assert [(version, value) for _, version, value in seen] == [NEW, OLD]
    assert seen[1][0] - activated(root)[-1] < 1
    host.run("loop", root, until_idle=True)
    assert predict(root) == OLD
    assert one(root, "SELECT count(*) FROM fits") == 2, "a way back asks for no training"
    assert one(root, "SELECT count(*) FROM events WHERE kind = 'champion.rolled_back'") == 1
    sound(root)
    retrain(host, root, 2)
    assert predict(root) == ("1.2.0", 4.0), "news goes on from there"


def test_a_training_that_was_under_way_does_not_undo_a_pinned_way_back(host, root):
    """P-32: pinned, the fit that ends after the rollback is judged, kept, and not promoted."""
    (root / "rows.csv").unlink()
    write_rows(root / "rows.csv", 80, offset=2)
    forked = host.start("loop", root, fault="settle.after_artifact=stop")
    until(lambda: "\nState:\tT" in Path(f"/proc/{forked.pid}/status").read_text(), what="a fit about to be settled")
    project = Project.open(root)
    project.rollback("line", pin=True)
    project.close()
    forked.signal(signal.SIGCONT)
    until(lambda: one(root, "SELECT 1 FROM runs WHERE id = 3 AND ended_at IS NOT NULL"), what="the late fit")
    forked.signal(signal.SIGTERM)
    assert forked.wait() == 0, forked.said
    assert predict(root) == OLD
    (reason,) = rows(root, "SELECT reason FROM items WHERE id = 3")[0]
    assert "pinned" in reason
    assert one(root, "SELECT state FROM items WHERE id = 3") == "rejected"
    sound(root)


def _flip(path, other):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _swap(path, other):
    path.write_bytes(other.read_bytes())


def _cut(path, other):
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path, other):
    path.write_bytes(b"")


def _missing(path, other):
    path.unlink()


def _link(path, other):
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def _folder(path, other):
    path.unlink()
    path.mkdir()


def _fifo(path, other):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [_flip, _cut, _empty, _missing, _swap, _link, _folder, _fifo])
def test_a_damaged_artifact_is_refused_and_the_version_before_serves(root, damage):
    """P-33: whatever was done to the file, it answers at once with the good one, and one event says so."""
    path, _ = stored(root, "1.1.0")
    damage(path, stored(root, "1.0.0")[0])
    left = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    since = time.monotonic()
    assert predict(root) == OLD
    assert time.monotonic() - since < 5
    assert predict(root) == OLD
    told = [json.loads(data) for (data,) in rows(root, "SELECT data FROM events WHERE kind = 'artifact.damaged'")]
    assert len(told) == 1, "told once, not at every look"
    assert (told[0]["version"], told[0]["serving"]) == ("1.1.0", "1.0.0")
    assert told[0]["reason"]
    assert rows(root, "SELECT condemned FROM fits ORDER BY id") == [(0,), (1,)]
    assert left is None or path.read_bytes() == left, "damaged bytes are kept to be looked at"
    assert one(root, "SELECT fit_id FROM activations WHERE until_at IS NULL") == 1


def test_processes_that_run_and_that_start_agree_about_a_damaged_version_and_it_heals(host, root, tmp_path):
    """P-33, P-30: found damaged by one process, the others swap within a second without an error; news heals it."""
    asker = Asker(host, root, tmp_path)
    _flip(stored(root, "1.1.0")[0], None)
    assert predict(root) == OLD
    asker.sees("1.0.0")
    seen = asker.told()
    assert [(version, value) for _, version, value in seen] == [NEW, OLD]
    project = Project.open(root)
    with pytest.raises(EvertrainError, match=r"no fit of version 1\.1\.0"):
        project.rollback("line", to="1.1.0")
    project.close()
    retrain(host, root, 2)
    assert predict(root) == ("1.2.0", 4.0)


def test_with_every_version_damaged_the_answer_is_a_plain_error_and_new_rows_heal_it(host, root):
    """P-33: no wrong answer, no crash; and nothing but a new fit is needed."""
    for version in ("1.0.0", "1.1.0"):
        _flip(stored(root, version)[0], None)
    for _ in range(2):
        with pytest.raises(EvertrainError):
            predict(root)
    assert one(root, "SELECT count(*) FROM events WHERE kind = 'artifact.damaged'") == 2
    retrain(host, root, 2)
    assert predict(root) == ("1.2.0", 4.0)


def test_every_bit_and_every_length_of_an_artifact_counts(root):
    """P-33: each single flipped bit and each cut of a stored fit is refused, and the whole one is not."""
    path, place = stored(root, "1.1.0")
    artifacts, good = Artifacts(root / ".evertrain/artifacts"), path.read_bytes()
    own = good[place.start : place.start + place.size]
    assert artifacts.read(place) == own
    for bit in range(8 * place.start, 8 * (place.start + place.size)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="damaged"):
            artifacts.read(place)
    for size in range(place.start + place.size):
        path.write_bytes(good[:size])
        with pytest.raises(ArtifactError, match="cut short"):
            artifacts.read(place)
    path.write_bytes(good)
    assert artifacts.read(place) == own
