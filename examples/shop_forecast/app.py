"""The shop's service: upload, forecast, page and loop on http://localhost:8000.

python app.py        every option of `evertrain serve` is understood
"""

from __future__ import annotations

import subprocess
import sys

if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "evertrain", "serve", *sys.argv[1:]]))
