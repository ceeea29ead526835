"""Is retraining needed? The old script's name, options and class, answered by Evertrain.

python automatic_retraining.py --reference-data train.csv --recent-data recent.csv
    --recent-predictions predictions.npy --recent-actuals actuals.npy

The answer is JSON; every option of `evertrain check` is understood.
"""

from __future__ import annotations

import subprocess
import sys

from evertrain.compat import AutomaticRetrainingOrchestrator

__all__ = ["AutomaticRetrainingOrchestrator"]

if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "evertrain", "check", *sys.argv[1:]]))
