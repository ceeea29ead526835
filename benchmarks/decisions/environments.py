"""An environment for each competitor, under .make/bench: their requirements contradict each other and ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".make" / "bench"
COMPETITORS = ("evidently", "nannyml", "river")


def interpreter(name: str) -> Path:
    """Return the Python of a competitor's environment, made first where it is missing.

    Raises:
        RuntimeError: the packages could not be installed; the last lines say why.
    """
    wanted = HERE / f"{name}.txt"
    mark = FOLDER / name / f"ready-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"
    python = FOLDER / name / "bin" / "python"
    if not mark.exists():
        print(f"Setting up {FOLDER / name}, once ...", flush=True)
        _run([sys.executable, "-m", "venv", str(FOLDER / name)])
        uv = Path(sys.executable).with_name("uv")
        tool = (
            [str(uv), "pip", "install", "--python", str(python)]
            if uv.exists()
            else [str(python), "-m", "pip", "install"]
        )
        _run([*tool, "-q", "-r", str(wanted)])
        mark.touch()
    return python


def version(name: str) -> str:
    """Return the competitor's version, as pinned."""
    return (HERE / f"{name}.txt").read_text().split("==")[1].split()[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    )
    if done.returncode:
        raise RuntimeError("; ".join(done.stderr.strip().splitlines()[-3:]))
