"""Say what will be run and how long it takes, then run it."""

from __future__ import annotations

import importlib.util
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
    return subprocess.call([sys.executable, "-m", "pytest", "-q", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
