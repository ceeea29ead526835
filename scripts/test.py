"""Say what will be run and how long it takes, then run it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

SUITES = {
    "store, decisions, data, trainers, command line": ("about 3 min", None, None),
    "real processes, killed at every step": ("about 3 min, `make test-fast` leaves them out", None, None),
    "kill at every system call": ("part of the above", shutil.which("strace"), "sudo apt install strace"),
    "notifications through Apprise": (
        "seconds",
        importlib.util.find_spec("apprise"),
        ".venv/bin/pip install -e '.[notify]'",
    ),
}


def main() -> int:
    for name, (takes, present, help_) in SUITES.items():
        missing = help_ is not None and not present
        print(f"  {'left out' if missing else 'runs    '}  {name}: {f'needs `{help_}`' if missing else takes}")
    sys.stdout.flush()
    if sys.argv[1:]:
        return run(*sys.argv[1:])
    # Tests of real processes watch the clock, so each of them has the machine to itself.
    return run("-m", "not slow", "-n", "2", "--dist", "loadfile") or run("-m", "slow")


def run(*arguments: str) -> int:
    """Run pytest and return its exit code."""
    # Both workers of a parallel run must see the same tests, those that are made from sets as well.
    return subprocess.call(
        [sys.executable, "-m", "pytest", "-q", *arguments], env={**os.environ, "PYTHONHASHSEED": "0"}
    )


if __name__ == "__main__":
    sys.exit(main())
