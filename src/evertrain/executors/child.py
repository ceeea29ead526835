"""A worker child: one process, tasks in, messages out, as length-prefixed JSON over a socket of its own.

Started as `python -m evertrain.executors.child FD`. It never opens the store. It leads a process group of its own and
ends with its parent, also when the parent is killed; what trainers print goes to the log, not into the protocol.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

Message = dict[str, Any]
_HEAD = struct.Struct(">I")
_LIMIT = 1 << 30
_PR_SET_PDEATHSIG = 1


def send(channel: socket.socket, message: Message) -> None:
    """Write one message; numbers that JSON has no name for are refused."""
    data = json.dumps(message, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()
    channel.sendall(_HEAD.pack(len(data)) + data)


def receive(channel: socket.socket) -> Message | None:
    """Read one message, None at the end of the stream."""
    head = _exactly(channel, _HEAD.size)
    if head is None:
        return None
    (size,) = _HEAD.unpack(head)
    if size > _LIMIT:
        raise ValueError(f"a message of {size} bytes; allowed: {_LIMIT}")
    data = _exactly(channel, size)
    return None if data is None else json.loads(data)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def work(task: Message, emit: Any, inline: dict[str, Any] | None = None) -> None:
    """Do one task; the executors call this in a child or in their own process."""
    kind = task["kind"]
    if kind == "train":
        from evertrain.executors.training import train

        train(task, emit, inline)
    elif kind == "read":
        from evertrain.executors.reading import read_source

        read_source(task, emit)
    elif kind == "evaluate":
        from evertrain.executors.checking import evaluate

        evaluate(task, emit, inline)
    elif kind == "weigh":
        from evertrain.executors.evidence import weigh

        weigh(task, emit, inline)
    elif kind == "temporary":
        from evertrain.executors.series import temporary

        temporary(task, emit, inline)
    elif kind == "check":
        from evertrain.executors.checking import load_check

        load_check(task, emit, inline)
    elif kind == "notify":
        from evertrain.notify import deliver

        deliver(task, emit)
    else:
        raise ValueError(f"unknown task {kind!r}")


def end_with_parent(parent: int) -> None:
    """Let the system end this process when the thread that began it ends, `parent` being its process."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took hold
        os._exit(1)


def main() -> None:
    """Serve tasks until the parent closes the socket."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent(int(sys.argv[2]))
    sys.path.insert(0, str(Path.cwd()))  # the project's own modules
    lock = threading.Lock()

    def emit(message: Message) -> None:
        with lock:  # trainers may report progress from threads of their own
            send(channel, message)

    while (task := receive(channel)) is not None:
        try:
            work(task, emit)
            emit({"type": "done"})
        except MemoryError:
            os._exit(137)
        except Exception as error:  # noqa: BLE001 - everything that is no item's own failure
            emit(
                {
                    "type": "error",
                    "reason": f"{type(error).__name__}: {error}" if not hasattr(error, "allowed") else str(error),
                    "error": traceback.format_exc()[-8000:],
                    "data": type(error).__name__ == "DataError",
                }
            )
        sys.stdout.flush()
        sys.stderr.flush()
    # Whatever the last trainer started ends with this process.
    os.killpg(os.getpgrp(), signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(0)


if __name__ == "__main__":
    main()
