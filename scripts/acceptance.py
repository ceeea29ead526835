"""Fill docs/acceptance.md: which test shows which promise. The words in it are written by hand and kept.

A test claims an id (S1-04, P-08, A-36) in its docstring, in the name of a parameter, or in the comment that heads its
section. An id that is new gets a row without words; write them.

usage: python scripts/acceptance.py [--check]     --check: only say whether the page is current
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "acceptance.md"
ID = re.compile(r"\b(S[0-9]-[0-9]{2}|P-[0-9]{2}|A-[0-9]{2})\b")
ROW = re.compile(r"^\| (S[0-9]-[0-9]{2}|P-[0-9]{2}|A-[0-9]{2}) \| (.*?) \| (.*) \|$", re.MULTILINE)

HEAD = """# What is shown by which test

Each row is one thing that was asked for or promised, what it means here, and the tests that show it.
A row says no more than its tests do; what is not here is not claimed.
The last column is filled by `python scripts/acceptance.py`, the words are written by hand, and a test holds the page
current.
"""
GROUPS = {
    "S0": "Selective retraining",
    "S1": "Schedules, versions and rollback",
    "S2": "Files, age and score; the command line",
    "S3": "Drift and decisions",
    "S4": "Uploaded rows",
    "P-": "What holds when things go wrong",
    "A-": "What is refused",
}


def main() -> int:
    text = page()
    if sys.argv[1:] == ["--check"]:
        current = TARGET.is_file() and TARGET.read_text() == text
        print("docs/acceptance.md is current" if current else "docs/acceptance.md is old: python scripts/acceptance.py")
        return not current
    TARGET.write_text(text)
    for one, (words, _) in rows(text).items():
        if not words:
            print(f"{one} has no words yet")
    return 0


def page() -> str:
    """Return the page with today's tests and the words that stand in it."""
    known = rows(TARGET.read_text()) if TARGET.is_file() else {}
    found = claims()
    parts = [HEAD]
    for start, title in GROUPS.items():
        own = sorted(one for one in found if one.startswith(start))
        if own:
            parts += [f"## {title}\n", "| id | means here | shown by |", "|---|---|---|"]
            parts += [f"| {one} | {known.get(one, ('', []))[0]} | {links(found[one])} |" for one in own]
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def links(tests: list[str]) -> str:
    return "<br>".join(f"`{one}`" for one in tests)


def rows(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return the words and tests of each row of a page."""
    return {one: (words.strip(), re.findall(r"`([^`]+)`", tests)) for one, words, tests in ROW.findall(text)}


def claims() -> dict[str, list[str]]:
    """Return the tests and measurements that claim each id, in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in (*sorted((ROOT / "tests").glob("test_*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))):
        for one, name in claimed(path.read_text()):
            tests = found.setdefault(one, [])
            place = f"{path.relative_to(ROOT).as_posix()}::{name}"
            if place not in tests:
                tests.append(place)
    return found


def claimed(text: str) -> Iterator[tuple[str, str]]:
    """Return the ids of a file, each with the test that claims it."""
    lines, tree = text.splitlines(), ast.parse(text)
    section: list[str] = []
    end = 0
    for node in tree.body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        for line in lines[end : first - 1]:
            if line.startswith("# ---"):
                section = ID.findall(line)
        end = node.end_lineno or end
        own = ID.findall("\n".join(lines[first - 1 : end]))
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("test_", "measure")):
            yield from ((one, node.name) for one in [*own, *section])


if __name__ == "__main__":
    sys.exit(main())
