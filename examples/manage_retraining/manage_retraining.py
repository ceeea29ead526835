"""Manage retraining: the old script's commands, done by Evertrain.

python manage_retraining.py start [--iris-data PATH] [--housing-data PATH]
python manage_retraining.py stop | status
python manage_retraining.py history [--model NAME] [--limit N]
python manage_retraining.py trigger NAME
python manage_retraining.py config --model NAME

Every other option of the same command of `evertrain` is understood as well.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

COMMANDS = ("start", "stop", "status", "history", "trigger", "config")
FILES = {"--iris-data": "iris", "--housing-data": "housing"}


def translated(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `evertrain`: `start` goes on in the background, and each file has its source's name.

    >>> translated(["start", "--iris-data", "/data/iris.csv"])
    ['start', '--detach', '--data', 'iris=/data/iris.csv']
    """
    command, *rest = arguments
    if command != "start":
        return [command, *rest]
    found, left = ["start", "--detach"], list(rest)
    while left:
        one = left.pop(0)
        name, equals, path = one.partition("=")
        if name in FILES and (equals or left):
            found += ["--data", f"{FILES[name]}={path if equals else left.pop(0)}"]
        else:
            found.append(one)
    return found


def main() -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    return subprocess.call([sys.executable, "-m", "evertrain", *translated(arguments)])


if __name__ == "__main__":
    sys.exit(main())
