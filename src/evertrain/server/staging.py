"""The folder in which files lie between their arrival and their end."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

from evertrain.executors.supervisor import own_folder

MOST_AT_ONCE = 4


class Staging:
    """A folder of this process alone; others sweep it when this process has died.

    Attributes:
        at_once: how many files may be read at one time.
    """

    def __init__(self, scratch: Path) -> None:
        self.folder = scratch / f"uploads-{secrets.token_hex(8)}"
        self.at_once = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._handle: int | None = None
        self._lock = threading.Lock()

    def create(self, ending: str = "") -> tuple[Path, int]:
        """Create a file that was not there, for us alone; return its path and descriptor."""
        with self._lock:
            if self._handle is None:
                self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._handle = own_folder(self.folder)
        name = secrets.token_hex(16) + ending
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
        return self.folder / name, os.open(name, flags, 0o600, dir_fd=self._handle)

    def close(self) -> None:
        """Remove the folder."""
        with self._lock, contextlib.suppress(OSError):
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
                for one in self.folder.iterdir():
                    one.unlink()
                self.folder.rmdir()
