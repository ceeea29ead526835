"""The log: one line for each event, whatever is in it, for people or for programs."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evertrain.cli.logs import log_to
from evertrain.control.opened import open_project
from evertrain.errors import ConfigError
from evertrain.store import models

#
NASTY = [
    "x\n2026-01-01 INFO admin logged in",
    "x\r2026-01-01 INFO admin logged in",
    "%0a%s%n{}{0}",
    "\x1b[2J\x1b]0;title\x07",
    "\x7f\x85\x9b31m\u2028\u202e",
    "lone \ud800 surrogate",
    "m" * 1_000_000,
    "ü" * 1_000_000,
    "😀\x00" * 100_000,
]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "logs" / "retraining.log"
    kept = {name: list(logging.getLogger(name).handlers) for name in ("evertrain", "uvicorn.error")}
    yield path
    for name, handlers in kept.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = True


def write(path: Path, form: str, text: str) -> bytes:
    log_to(path, form=form)
    logging.getLogger("evertrain").info("%s", text)
    logging.getLogger("evertrain").info("the next one")
    return path.read_bytes()


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_whatever_is_logged_is_one_json_object_on_one_line(log: Path, text: str) -> None:
    """A-75: control characters escaped, at most 8 KiB."""
    lines = write(log, "json", text).splitlines(keepends=True)

    assert len(lines) == 2
    assert all(len(line) <= 8192 and line.endswith(b"}\n") for line in lines)
    assert not re.search(rb"[\x00-\x1f\x7f-\xff]", lines[0][:-1])
    told = json.loads(lines[0])
    assert (told["level"], set(told)) == ("info", {"at", "level", "text"})
    if len(text) < 1000:
        assert told["text"] == text
    else:
        assert told["text"].endswith(" … (cut)")
        assert told["text"][:100] == text[:100]
        assert len(lines[0]) > 3000
    assert json.loads(lines[1])["text"] == "the next one"


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_whatever_is_logged_for_people_begins_no_line_and_moves_no_cursor(log: Path, text: str) -> None:
    """A-75: only lines of ours begin with a moment; what data brings stands indented and escaped."""
    written = write(log, "plain", text)

    assert len(written) <= 8192 + 100
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", written)
    lines = written.decode().split("\n")[:-1]
    assert [bool(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} info    ", line)) for line in lines] == [
        True, *[False] * (len(lines) - 2), True,
    ]  # fmt: skip
    assert all(line.startswith("    ") for line in lines[1:-1])


def test_an_event_is_told_to_programs_with_its_facts(log: Path, tmp_path: Path) -> None:
    log_to(log, form="json")
    opened = open_project(tmp_path, store="sqlite:///evertrain.db", actor="ann")
    with opened.store.write() as tx:
        models.pause(tx, None, paused=True)
    opened.close()
    told = json.loads(log.read_text().splitlines()[-1])

    assert {name: told[name] for name in ("level", "kind", "actor", "data", "text")} == {
        "level": "info", "kind": "project.paused", "actor": "ann", "data": {},
        "text": "paused by ann: nothing is trained until resumed",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["at"])


def test_facts_that_make_a_line_too_long_are_left_out_and_not_the_sentence(log: Path) -> None:
    log_to(log, form="json")
    facts: dict[str, Any] = {
        "kind": "item.progress",
        "model": "m",
        "run": 7,
        "actor": "a",
        "data": {"rows": ["r"] * 9000},
    }
    logging.getLogger("evertrain").warning("short", extra={"event": facts})
    told = json.loads(log.read_text())

    assert (told["text"], told["kind"], told["run"], told["level"]) == ("short", "item.progress", 7, "warning")
    assert "data" not in told


@pytest.mark.parametrize("form", ["plain", "json"])
def test_what_was_raised_is_in_the_log(log: Path, form: str) -> None:
    log_to(log, form=form)
    try:
        raise ValueError("of the test")
    except ValueError:
        logging.getLogger("evertrain").exception("it failed")
    written = log.read_text()

    assert "it failed" in written
    assert "ValueError: of the test" in written
    assert "test_logs.py" in written


def test_the_variable_says_which_form_and_the_terminal_gets_the_same(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("EVERTRAIN_LOG", "json")
    log_to(log, terminal=True)
    logging.getLogger("evertrain").info("once")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.error").warning("a client is odd")

    assert [json.loads(line)["text"] for line in log.read_text().splitlines()] == ["once", "a client is odd"]
    assert sys.stderr.getvalue() == log.read_text()
    monkeypatch.setenv("EVERTRAIN_LOG", "xml")
    with pytest.raises(ConfigError, match=r"EVERTRAIN_LOG .* plain or json"):
        log_to(log)
