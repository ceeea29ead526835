"""Named points at which a test can make the real program die or wait; nothing happens unless a test asks.

`EVERTRAIN_FAULT="settle.before_commit=kill"` ends the process with SIGKILL at that point, `=stop` stops it there,
`=error` raises `OSError`. `@2` behind the action acts on the second passage. The variable is read once, at import.
"""

from __future__ import annotations

import os
import signal

_PLAN = os.environ.get("EVERTRAIN_FAULT", "")
_passages: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Do nothing, or what the test that started this process asked for at `name`."""
    if not _PLAN:
        return
    for order in _PLAN.split(","):
        point, _, action = order.partition("=")
        action, _, nth = action.partition("@")
        if point != name:
            continue
        _passages[name] = _passages.get(name, 0) + 1
        if _passages[name] != int(nth or 1):
            continue
        if action == "error":
            raise OSError(f"fault injected at {name}")
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action])
