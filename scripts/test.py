"""Say what will be run and how long it takes, then run it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SUITES = {
    "store, decisions, data, trainers, command line, service, pages": ("about 10 min", None, None),
    "real processes, killed at every step": ("about 6 min, `make test-fast` leaves them out", None, None),
    "kill at every system call": ("part of the above", shutil.which("strace"), "sudo apt install strace"),
    "pages in a browser": (
        "part of the above",
        shutil.which("chromium") or shutil.which("google-chrome"),
        "sudo apt install chromium",
    ),
    "notifications through Apprise": (
        "seconds",
        importlib.util.find_spec("apprise"),
        ".venv/bin/pip install -e '.[notify]'",
    ),
}


ALONE = ("test_process_*.py", "test_slow_clients.py", "test_streams.py", "test_serving_start.py")


def main() -> int:
    for name, (takes, present, help_) in SUITES.items():
        missing = help_ is not None and not present
        print(f"  {'left out' if missing else 'runs    '}  {name}: {f'needs `{help_}`' if missing else takes}")
    sys.stdout.flush()
    if sys.argv[1:]:
        return run(*sys.argv[1:])
    # Those that watch the clock have the machine to themselves, one at a time; the others share it.
    alone = sorted(str(one) for name in ALONE for one in Path("tests").glob(name))
    return run("-n", "2", "--dist", "loadfile", *(f"--ignore={one}" for one in alone)) or run(*alone)


def run(*arguments: str) -> int:
    """Run pytest and return its exit code."""
    # Both workers of a parallel run must see the same tests, those that are made from sets as well.
    return subprocess.call(
        [sys.executable, "-m", "pytest", "-q", *arguments], env={**os.environ, "PYTHONHASHSEED": "0"}
    )


if __name__ == "__main__":
    sys.exit(main())
