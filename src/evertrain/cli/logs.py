"""The log: readable lines, or one JSON object on each, in a file of a few megabytes and on the terminal."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIMIT = 5 << 20
_KEPT = 5
# Longer lines are cut: some collectors drop them, and 1 MB of a trainer's words is no event.
_LINE = 8192
_CUT = " … (cut)"


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
            os.write(self._file, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
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


class Plain(logging.Formatter):
    """One line per event in local time; what more there is stands indented below, so that data begins no line.

    Control characters of data are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        from evertrain.partitions import printable

        at = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(record.created))
        lines = (printable(part) for part in _text(record).split("\n"))
        return cut(f"{at} {record.levelname.lower():7} " + "\n    ".join(lines))


class Json(logging.Formatter):
    """One JSON object per line, of ASCII alone: `at` (UTC), `level`, `text`; of events `kind`, `model`, `run`, `actor`, `data`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "text": _text(record)}
        event: dict[str, Any] = getattr(record, "event", {})
        found |= {name: value for name, value in event.items() if value is not None}
        line = _dump(found)
        if len(line) >= _LINE:
            found.pop("data", None)
            line = _dump(found)
        while len(line) >= _LINE:  # an escaped character takes up to twelve
            found["text"] = found["text"].removesuffix(_CUT)[: len(found["text"]) // 2] + _CUT
            line = _dump(found)
        return line


def _dump(found: dict[str, Any]) -> str:
    # JSON leaves one control character as it is.
    return json.dumps(found, default=str, separators=(",", ":")).replace("\x7f", "\\u007f")


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def cut(text: str) -> str:
    """Return text that takes at most 8 KiB with the end of its line; what is longer says that it was cut."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) < _LINE:
        return text
    return data[: _LINE - 1 - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def log_to(path: Path, *, terminal: bool = False, form: str | None = None) -> None:
    """Write what happens to `path`, and to standard error as well where `terminal`.

    Args:
        form: "plain" or "json"; None is what `EVERTRAIN_LOG` says.

    Raises:
        ConfigError: a variable of ours has a value that is not allowed.
    """
    if form is None:
        from evertrain.config import read_settings

        form = read_settings().log
    handlers: list[logging.Handler] = [_RotatingFile(path)]
    if terminal:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(Json() if form == "json" else Plain())
    # Of the server beneath the service only what went wrong.
    for name, level in (("evertrain", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers[:] = handlers
