"""Check, retrain where needed, judge, record: the old script's name and options, done by Evertrain.

python retraining_executor.py --reference-data train.csv --recent-data recent.csv --target price

The answer is JSON and goes to retraining_executor.log as well, one line for each call; every option of
`evertrain execute` is understood.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

LOG = Path("retraining_executor.log")


def main() -> int:
    """Run the command and return its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "evertrain", "execute", *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False
    )
    sys.stdout.write(done.stdout)
    answer = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    answer.pop("check", None)  # pages of numbers; `evertrain why` has them
    line = {"at": datetime.now(UTC).isoformat(), "exit": done.returncode, **answer}
    with LOG.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
