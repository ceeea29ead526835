"""The log file: readable lines with run numbers, kept to a few megabytes."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

_LIMIT = 5 << 20
_KEPT = 5


class _RotatingFile(logging.Handler):
    """Appends lines and rotates by size; several processes may write one file.

    The standard rotating handler loses lines when two processes rotate; here the one that finds the file too large
    takes a lock, looks again, and renames; the others notice by inode and open the new file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._inode = os.fstat(self._file).st_ino

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._follow()
            text = self.format(record).replace("\n", "\n    ")[:8192]
            os.write(self._file, (text + "\n").encode("utf-8", "backslashreplace"))
            if os.fstat(self._file).st_size > _LIMIT:
                self._rotate()
        except OSError:
            self.handleError(record)

    def _follow(self) -> None:
        try:
            current = self.path.stat().st_ino
        except FileNotFoundError:
            current = -1
        if current != self._inode:
            os.close(self._file)
            self._open()

    def _rotate(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if self.path.exists() and self.path.stat().st_ino == self._inode:
                for number in range(_KEPT - 1, 0, -1):
                    older = self.path.with_name(f"{self.path.name}.{number}")
                    if older.exists():
                        older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
                self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class _Formatter(logging.Formatter):
    """One line per event in local time; control characters of data are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        from evertrain.partitions import printable

        at = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(record.created))
        lines = (printable(part) for part in record.getMessage().split("\n"))
        return f"{at} {record.levelname.lower():7} " + "\n".join(lines)


def log_to(path: Path, *, terminal: bool = False) -> None:
    """Write what happens to `path`, and to standard error as well where `terminal`."""
    logger = logging.getLogger("evertrain")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handlers: list[logging.Handler] = [_RotatingFile(path)]
    if terminal:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
