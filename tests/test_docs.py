"""The documentation does what it says: its blocks are run in order, its commands exist, its generated pages are current."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def script(name: str):
    """Return a module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reader:
    """Someone who types what a page says, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.environment.pop("EVERTRAIN_PROJECT", None)

    def types(self, command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def runs(self, code: str) -> str:
        (self.folder / "typed.py").write_text(code)
        return self.types(f"{shlex.quote(sys.executable)} typed.py")


@pytest.fixture
def reader(tmp_path):
    found = Reader(tmp_path)
    yield found
    if any((tmp_path / name).exists() for name in ("project.py", "evertrain.toml")):
        found.types("evertrain stop")


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(reader):
    said: dict[str, list[str]] = {}
    for language, text in blocks(ROOT / "docs" / "tutorial.md"):
        if language == "python":
            said.setdefault("python", []).append(reader.runs(text))
        for line in text.splitlines() if language == "console" else []:
            assert line.startswith("$ ")
            said.setdefault(line.split()[2], []).append(reader.types(line.removeprefix("$ ")))

    assert "on 80 rows it never saw" in said["init"][0] or "rows it never saw" in said["init"][0]
    assert "always the same answer would get" in said["init"][0]
    assert "did not fire" in said["why"][0]
    assert "fired" not in said["why"][0].replace("did not fire", "")
    assert re.search(r"^promoted 1\.0\.0 -> 1\.1\.0", said["trigger"][0], re.MULTILINE)
    assert "Rolled back visits: 1.1.0 -> 1.0.0" in said["rollback"][0]
    assert re.search(r"^1\.0\.0 +serving", said["versions"][1], re.MULTILINE)
    assert "monitoring since" in said["status"][1]
    assert re.fullmatch(r"\[\d+\.?\d*\] \['1\.\d\.0'\]\n", said["python"][-1])


def test_the_readme_begins_as_the_tutorial_which_is_run():
    (typed,) = [text for _, text in blocks(ROOT / "README.md") if "evertrain init" in text]
    lines = [line.partition("  #")[0].strip() for line in typed.splitlines() if line.startswith("evertrain ")]

    assert lines == ["evertrain init sales.csv", "evertrain start --detach", "evertrain status"]
    assert {line.split()[1] for line in lines} <= set(re.findall(r"^\$ evertrain (\w+)", tutorial(), re.MULTILINE))


def tutorial() -> str:
    return (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.slow
def test_the_readme_declares_a_project_that_trains_and_answers(reader):
    from sklearn.datasets import load_iris

    iris = load_iris(as_frame=True)
    frame = iris.frame.assign(species=[iris.target_names[one] for one in iris.target]).drop(columns="target")
    (reader.folder / "data" / "raw").mkdir(parents=True)
    frame.to_csv(reader.folder / "data" / "raw" / "iris.csv", index=False)
    declared, asked = (text for language, text in blocks(ROOT / "README.md") if language == "python")
    (reader.folder / "project.py").write_text(declared)

    trained = reader.types("evertrain trigger iris")
    first, rest = asked.split("\n\n", 1)
    rows = f"import pandas as pd\nrows = pd.read_csv('data/raw/iris.csv').head(3)\n{first}\n{rest}\nprint(predictor.predict(rows))"
    answered = reader.runs(rows)
    table = re.findall(r"^\| `(evertrain [^`]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    # The tutorial trains again and takes back.
    said = {one: reader.types(one) for one in table if one.split()[1] not in ("trigger", "rollback")}

    assert "promoted nothing -> 1.0.0" in trained
    assert answered == "['setosa' 'setosa' 'setosa']\n"
    assert len(said) == 3
    assert "Next: " in said["evertrain why iris"]


# --- what the pages name ----------------------------------------------------------------------------------------


def named_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        spans = re.findall(r"`(evertrain [a-z][^`]*)`", BLOCK.sub("", text)) if page.name != "reference.md" else []
        typed = [
            line
            for _, block in BLOCK.findall(text)
            for line in re.findall(r"^(?:\$ )?(evertrain .+)$", block, re.MULTILINE)
        ]
        found += [(page.name, one.partition("  #")[0]) for one in [*spans, *typed]]
    return found


@pytest.mark.parametrize(("page", "command"), named_commands())
def test_a_command_that_a_page_names_exists_with_its_options(page, command):
    listed = (ROOT / "docs" / "reference.md").read_text()
    parts = re.split(r"^### `evertrain ([a-z-]+(?: [a-z-]+)?)[^`]*`$", listed, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    words = shlex.split(command)[1:]
    words = words[2:] if words[0] == "-C" else words

    name = next((one for one in (" ".join(words[:2]), words[0]) if one in sections), None)

    assert name, f"{page}: {command}"
    for option in [word for word in words if word.startswith("-")]:
        assert option in sections[name], f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_is_python_that_imports_what_exists(page):
    import evertrain

    for language, text in blocks(page):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "evertrain":
                assert [one.name for one in node.names if not hasattr(evertrain, one.name)] == []


# Made by `make bench`, `make bench-decisions` and `make recording`, on a machine that is named in them.
MADE = {"docs/benchmarks.md", "docs/benchmarks-decisions.md", "docs/benchmarks-decisions.svg", "docs/demo.svg"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        place = (page.parent / target).resolve()
        assert place.exists() or str(place.relative_to(ROOT)) in MADE, target


# --- generated pages --------------------------------------------------------------------------------------------


def test_the_reference_is_current():
    assert (ROOT / "docs" / "reference.md").read_text() == script("reference").reference()


def test_the_reference_describes_every_field_event_and_state():
    text = script("reference").reference()
    empty = [
        line
        for line in text.splitlines()
        if re.search(r"\| *\|$", line) and line.startswith("| `") and line.count("|") == 5
    ]
    from evertrain.events import Kind
    from evertrain.states import ItemState, RunState

    assert empty == []
    assert [one for one in (*Kind, *ItemState, *RunState) if f"| `{one}` |" not in text] == []


def test_every_id_that_a_test_names_has_a_row_with_words_and_with_tests_that_exist():
    acceptance = script("acceptance")
    text = (ROOT / "docs" / "acceptance.md").read_text()
    rows = acceptance.rows(text)
    named = {one for path in (ROOT / "tests").glob("test_*.py") for one in acceptance.ID.findall(path.read_text())}

    assert named - set(rows) == set(), "python scripts/acceptance.py adds the rows; then write their words"
    assert [one for one, (words, tests) in rows.items() if not words or not tests] == []
    for file, name in {tuple(test.split("::")) for _, tests in rows.values() for test in tests}:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)
    assert text == acceptance.page()


@pytest.mark.shared
def test_every_id_that_is_claimed_was_asked_for():
    asked = ROOT.parent / "shared" / "ACCEPTANCE.md"
    if not asked.exists():
        pytest.skip("the list of what was asked for is not next to the checkout")
    listed = set(re.findall(r"\b(S[0-9]-[0-9]{2})\b", asked.read_text()))

    assert {one for one in script("acceptance").claims() if one.startswith("S")} - listed == set()
