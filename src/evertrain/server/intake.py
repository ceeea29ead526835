"""A child that reads what somebody sent: with limits on memory and time, so that a file can end it and nothing else.

Started as `python -m evertrain.server.intake`, with what is to be done as JSON on standard input; it answers lines of
JSON on standard output, the last of which says what came of it. It opens the project itself, so the service that
waits for it never reads a file of others, and its memory stays as it is.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROWS, COLUMNS = 5_000_000, 500
MEMORY = 1536 << 20
# Libraries reserve more than they use; this only stops what grows without end.
_ADDRESSES = 6 << 30
_TELL_S = 0.3
OUT_OF_MEMORY = 137


def limit() -> None:
    """Take from this process what it does not need."""
    for what, most in (
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_AS, _ADDRESSES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)


def tell(**message: Any) -> None:
    """Answer one line."""
    sys.stdout.write(json.dumps(message, ensure_ascii=True, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def check_size(path: Path) -> None:
    """Refuse a file with more rows or columns than are taken, before it is read as a whole.

    Raises:
        DataError: names the limit.
    """
    from evertrain.errors import DataError

    if path.suffix == ".parquet":
        import polars as pl

        try:
            lazy = pl.scan_parquet(path)
            columns = len(lazy.collect_schema())
            rows = int(lazy.select(pl.len()).collect().item())
        except pl.exceptions.PolarsError as error:
            raise DataError(f"it cannot be read as Parquet: {str(error).partition(chr(10))[0][:200]}") from None
    else:
        rows, columns = _counted(path)
    if rows > ROWS:
        raise DataError(f"it has {rows:,} rows; at most {ROWS:,} are taken at once. Send it in parts")
    if columns > COLUMNS:
        raise DataError(f"it has {columns:,} columns; at most {COLUMNS:,} are taken")


def _counted(path: Path) -> tuple[int, int]:
    """Return at most how many rows and columns a text file has, by the ends of lines and what may part columns."""
    lines = returns = 0
    with path.open("rb") as file:
        head = file.readline(1 << 20)
        file.seek(0)
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            returns += block.count(b"\r")
    return lines or returns, max(head.count(one) for one in (b",", b";", b"\t", b"|")) + 1


def work(task: dict[str, Any]) -> None:
    """Do what was asked, and say what came of it."""
    from evertrain.config import Settings
    from evertrain.control import data
    from evertrain.control.opened import open_project

    opened = open_project(Path(task["root"]), store=task["store"], settings=Settings(busy_s=task["busy_s"]))
    try:
        path, name = Path(task["path"]), task["dataset"]
        data.declared(opened, name)
        if task["do"] == "export":
            tell(done={"rows": data.export(opened, name, path, task["version"], for_spreadsheets=True)})
            return
        check_size(path)
        if task["do"] == "rehearse":
            trial, said = data.rehearse(opened, name, path, source=task["source"])
            tell(done={"trial": {one: value for one, value in vars(trial).items() if one != "groups"}, "would": said})
            return
        told = 0.0

        def merged(rows: int, of: int) -> None:
            nonlocal told
            if time.monotonic() - told > _TELL_S:
                told = time.monotonic()
                tell(merging=rows, of=of)

        batch = data.ingest(
            opened, name, path, source=task["source"], actor=task["actor"], token=task["token"], progress=merged
        )
        tell(done={"batch": {one: value for one, value in vars(batch).items() if one not in ("fits", "rolled_back")}})
    finally:
        opened.close()


def main() -> None:
    limit()
    task = json.loads(sys.stdin.buffer.read())
    from evertrain.errors import ConfigError, DataError, EvertrainError

    try:
        work(task)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except DataError as error:
        rows = [vars(one) for one in error.bad_rows]
        more = {"source": task["source"], "column": error.column, "bad_rows": rows, "bad_count": error.bad_count}
        text = str(error).replace(task["path"], task["source"] or "the file")  # where it lies is nobody's business
        tell(refused={"kind": "DataError", "text": text, "report": error.report, **more})
    except ConfigError as error:
        named = {"name": error.name, "value": str(error.value), "allowed": error.allowed}
        tell(refused={"kind": "ConfigError", "text": str(error), **named})
    except EvertrainError as error:
        tell(refused={"kind": type(error).__name__, "text": str(error)})


if __name__ == "__main__":
    main()
