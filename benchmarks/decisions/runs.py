"""Running every competitor on the same worlds, each in its own environment, and reading what they found."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decisions import environments, worlds
from benchmarks.decisions.measures import knob

CORES = 2
_ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "NML_DISABLE_USAGE_LOGGING": "1", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass
class Detector:
    """One detector of one competitor on all streams of one world."""

    lines: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def streams(self) -> list[int]:
        return sorted(self.lines)

    def score(self, stream: int) -> float:
        """How much it speaks for a change at its loudest; for a detector run at many knobs, the deafest that alarms."""
        lines = self.lines[stream]
        if "score" in lines[0]:
            return max(lines[0]["score"])
        return max((len(lines) - place for place, line in enumerate(lines) if line["at"]), default=0)

    def alarms(self, stream: int, bound: float | None) -> list[int]:
        """Rows at which it alarms: as it comes, or where its score is above the bound."""
        lines = self.lines[stream]
        if "score" in lines[0]:
            (line,) = lines
            loud = line["alarm"] if bound is None else [score > bound for score in line["score"]]
            return [at for at, alarm in zip(line["at"], loud, strict=True) if alarm]
        if bound is None:
            return next(line["at"] for line in lines if line["usual"])
        place = len(lines) - int(bound) - 1  # the most nervous knob that is deaf enough
        return lines[place]["at"] if place >= 0 else []

    def alarmed(self, streams: list[int], bound: float | None) -> np.ndarray:
        return np.array([bool(self.alarms(stream, bound)) for stream in streams])

    def knob(self, streams: list[int]) -> float:
        return knob([self.score(stream) for stream in streams])

    def values(self, name: str) -> np.ndarray:
        return np.array([self.lines[stream][0][name] for stream in self.streams])


Name = tuple[str, str]  # competitor, detector


@dataclass
class Runs:
    """What was found, by world and detector, and what could not be run."""

    folder: Path
    found: dict[str, dict[Name, Detector]] = field(default_factory=dict)
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    agreed: list[bool] = field(default_factory=list)
    kept: int = 0
    looked: int = 0

    def python(self, competitor: str) -> Path | None:
        if competitor in ("ours", "scipy"):
            return Path(sys.executable)
        if competitor in self.problems:
            return None
        try:
            return environments.interpreter(competitor)
        except RuntimeError as error:
            self.problems[competitor] = f"could not be installed: {error}"
            return None

    def look(
        self, made: dict[str, Callable[[], worlds.WORLD]], competitors: tuple[str, ...], turn: dict[str, int]
    ) -> None:
        """Make worlds, let competitors look at them, and delete them.

        Knobs are turned on the first `turn` streams of a world, and judged on the others.
        """
        began = time.time()
        paths, digests = {}, {}
        for name, make in made.items():
            world = make()
            world["turn"] = turn.get(name, 0)
            world["verify"] = name in turn or len(made) == 1
            digests[name] = _digest(world)
            paths[name] = worlds.save(self.folder / f"{name}.npz", world)
            self.truth[name] = {key: world[key] for key in ("truth", "names", "rise", "turn") if key in world}
        jobs = []
        for competitor in competitors:
            missing = [name for name in made if not self._known(competitor, digests[name])]
            if competitor != "ours":
                self.kept, self.looked = self.kept + len(made) - len(missing), self.looked + len(missing)
            if missing and (python := self.python(competitor)):
                command = [str(python), "-m", f"benchmarks.decisions.{competitor}_"]
                files = [str(paths[name]) for name in missing]
                jobs += [(competitor, [*command, f"{part}/{CORES}", *files]) for part in range(CORES)]
        with ThreadPoolExecutor(CORES) as pool:
            looked = list(pool.map(self._one, jobs))
        for competitor in {competitor for competitor, _ in jobs if competitor not in self.problems}:
            self._keep(competitor, [line for one, lines in looked if one == competitor for line in lines], digests)
        for competitor, lines in looked:
            for line in lines:
                self._note(competitor, line)
        for path in paths.values():
            path.unlink()
        print(f"  {', '.join(made)}: {time.time() - began:.0f} s", flush=True)

    def _known(self, competitor: str, digest: str) -> bool:
        """Read what a competitor found before in the same bytes, with the same code and version; ours is never kept."""
        path = _kept(competitor, digest)
        if competitor == "ours" or not path.exists() or os.environ.get("FRESH"):
            return False
        for line in path.read_text().splitlines():
            self._note(competitor, json.loads(line))
        return True

    def _keep(self, competitor: str, lines: list[dict[str, Any]], digests: dict[str, str]) -> None:
        if competitor == "ours":
            return
        for name in {line["world"] for line in lines}:
            path = _kept(competitor, digests[name])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["world"] == name))

    def turning(self, world: str) -> list[int]:
        return list(range(int(self.truth[world]["turn"])))

    def judging(self, world: str) -> list[int]:
        return list(range(int(self.truth[world]["turn"]), len(self.truth[world]["truth"])))

    def _note(self, competitor: str, line: dict[str, Any]) -> None:
        if line["detector"] == "agreement":
            self.agreed.append(bool(line["same"]))
            return
        detectors = self.found.setdefault(line["world"], {})
        detector = detectors.setdefault((competitor, line["detector"]), Detector())
        detector.lines.setdefault(line["stream"], []).append(line)

    def _one(self, job: tuple[str, list[str]]) -> tuple[str, list[dict[str, Any]]]:
        competitor, command = job
        began = time.time()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_ENVIRONMENT, cwd=environments.ROOT
        )
        self.seconds[competitor] = self.seconds.get(competitor, 0) + time.time() - began
        if done.returncode:
            self.problems[competitor] = f"failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        return competitor, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def speed(self, competitor: str, path: Path, limit_s: float) -> list[dict[str, Any]] | str:
        """Return seconds and megabytes of each step of one check in a fresh process, or why there are none."""
        python = self.python(competitor)
        if python is None:
            return self.problems[competitor]
        command = [str(python), "-m", f"benchmarks.decisions.{competitor}_", "speed", str(path)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=_ENVIRONMENT,
                cwd=environments.ROOT,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {limit_s:.0f} s"
        if done.returncode:
            return f"failed ({done.returncode}): {' '.join(done.stderr.strip().splitlines()[-1:])[:200]}"
        return [json.loads(line) for line in done.stdout.splitlines()]


def _digest(world: worlds.WORLD) -> str:
    found = hashlib.sha256()
    for key in sorted(world):
        found.update(key.encode())
        found.update(np.ascontiguousarray(world[key]).tobytes())
    return found.hexdigest()


def _kept(competitor: str, digest: str) -> Path:
    """Return where the findings of a competitor in a world are: another script, version or world is another place."""
    code = hashlib.sha256(digest.encode())
    for name in (f"{competitor}_.py", f"{competitor}.txt", "streams.py"):
        path = environments.HERE / name
        code.update(path.read_bytes() if path.exists() else b"")
    return environments.FOLDER / "found" / f"{competitor}-{code.hexdigest()[:24]}.jsonl"
