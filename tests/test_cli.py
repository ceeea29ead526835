"""The command line as a user meets it: every command in-process through `main`, a few as real processes.

Covers this project's commands for S2-12 … S2-17, S1-04, S1-10, S1-11, S1-27, S2-28, S2-32 and S2-38.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evertrain import errors
from evertrain.cli import EXIT_CODES, exit_code, here, main, show

from .conftest import TOYS, write_rows

PROGRAM = Path(sys.executable).with_name("evertrain")
ESCAPE = "\x1b"

DECLARED = """
name = "shop"
executor = "inline"

[sources.rows]
path = "rows.csv"

[models.line]
source = "rows"
target = "y"
features = ["x"]
trainer = "toys:Unruly"
min_samples = 10
triggers = ["data_change", {daily = "03:00"}]

[models.towns]
source = "rows"
target = "y"
trainer = "toys:Line"
partition_by = ["town"]
min_samples = 10
"""


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def following(self) -> str:
        """The one command of the `Next:` line, which is the last line."""
        lines = self.out.splitlines()
        found = [line for line in lines if line.startswith("Next: ")]
        assert len(found) == 1, self
        assert lines[-1] == found[0], self
        return found[0].removeprefix("Next: ")

    @property
    def json(self):
        return json.loads(self.out)


class Shell:
    """Types commands, each as if in a fresh process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Answer:
        here.root.clear()
        show.place.clear()
        self._patch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        self._captured.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._captured.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    def ok(self, *arguments: str) -> Answer:
        answer = self(*arguments)
        assert answer.code == 0, answer
        return answer

    def paste(self, answer: Answer) -> Answer:
        """Type what the `Next:` line of an answer names."""
        program, *arguments = shlex.split(answer.following)
        assert program == "evertrain"
        return self(*arguments)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("EVERTRAIN_PROJECT", raising=False)
    logger = logging.getLogger("evertrain")
    yield Shell(monkeypatch, capsys)
    here.root.clear()
    show.place.clear()
    logger.handlers.clear()
    logger.propagate = True


def declare(root: Path, text: str = DECLARED) -> None:
    root.mkdir(exist_ok=True)
    shutil.copy(TOYS, root / "toys.py")
    (root / "evertrain.toml").write_text(text)
    write_rows(root / "rows.csv", towns=3)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two models that were never trained; the current folder."""
    root = tmp_path / "shop"
    declare(root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both models were trained, and line twice; copied by `trained`."""
    root = tmp_path_factory.mktemp("prepared") / "shop"
    declare(root)
    run = [str(PROGRAM), "-C", str(root), "trigger"]
    for model, offset in (("line", 0.0), ("towns", 0.0), ("line", 5.0)):
        write_rows(root / "rows.csv", offset=offset, towns=3)
        subprocess.run([*run, model], cwd=root, check=True, capture_output=True)
    return root


@pytest.fixture
def trained(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose models serve: line 1.1.0 over 1.0.0, towns 1.0.0."""
    root = tmp_path / "shop"
    shutil.copytree(prepared, root)
    monkeypatch.chdir(root)
    return root


# --- beginning --------------------------------------------------------------------------------------------------


def visits(path: Path) -> None:
    lines = ["visit_id,day,town,temperature,visitors"]
    lines += [
        f"{n},2026-{1 + n // 2 // 28:02d}-{1 + n // 2 % 28:02d},{('Hermosa', 'Pilar')[n % 2]},{n % 17}.5,{n * 3}.25"
        for n in range(160)
    ]
    path.write_text("\n".join(lines) + "\n")


def test_init_guesses_time_target_key_and_frequency_each_with_its_reason(shell, tmp_path, monkeypatch):
    visits(tmp_path / "visits.csv")
    monkeypatch.chdir(tmp_path)

    answer = shell.ok("init", "visits.csv", "--no-train")

    told = {
        found[1]: (found[2], found[3]) for found in re.finditer(r"^(\S+)  +(\S+)  +(\S.*)$", answer.out, re.MULTILINE)
    }
    assert told["rows"][0] == "160"
    assert told["target"][0] == "visitors"
    assert "last column" in told["target"][1]
    assert told["task"][0] == "regression"
    assert told["time"] == ("day", "holds moments from 2026-01-01 to 2026-03-24")
    assert told["frequency"][0] == "daily"
    assert "1 h" not in told["frequency"][1]
    assert told["key"] == ("visit_id", "every value stands once, and its name says so")
    assert told["partition?"][0] == "town"
    assert answer.following == "evertrain trigger visits"
    assert 'time="day"' in (tmp_path / "project.py").read_text()


def test_init_takes_the_target_that_is_named_and_names_the_columns_when_it_is_none(shell, tmp_path, monkeypatch):
    visits(tmp_path / "visits.csv")
    monkeypatch.chdir(tmp_path)

    wrong = shell("init", "visits.csv", "--target", "vistors", "--no-train")
    shell.ok("init", "visits.csv", "--target", "temperature", "--no-train")

    assert (wrong.code, wrong.out) == (2, "")
    assert "'vistors'" in wrong.err
    assert "visitors" in wrong.err
    assert 'target="temperature",  # you named it' in (tmp_path / "project.py").read_text()


def test_init_refuses_to_overwrite_a_project_unless_forced(shell, shop):
    before = (shop / "evertrain.toml").read_text()

    refused = shell("init", "rows.csv", "--no-train")
    forced = shell("init", "rows.csv", "--no-train", "--force")

    assert refused.code == 4
    assert "--force" in refused.err
    assert forced.code == 0
    assert (shop / "evertrain.toml").read_text() == before
    assert (shop / "project.py").is_file()


def test_init_without_a_file_writes_an_example_that_python_accepts(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    answer = shell.ok("init")

    ast.parse((tmp_path / "project.py").read_text())
    assert answer.following == "evertrain doctor"


def test_init_prints_its_warnings_and_a_model_that_learnt_nothing_is_no_reason_to_start(shell, tmp_path, monkeypatch):
    import random

    chance = random.Random(3)
    rows = [f"{1 + n % 28}/{1 + n % 12}/26,{chance.random():.3f},{chance.gauss(0, 1):.3f}" for n in range(400)]
    (tmp_path / "noise.csv").write_text("\n".join(["date,x,sold", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERTRAIN_CHILDREN", "1")

    answer = shell.ok("init", "noise.csv")

    assert "Warning: column 'date' looks like dates written d/m/Y" in answer.out
    assert "Warning: it is no better than always the same answer" in answer.out
    assert answer.following == "evertrain why noise"


HOSTILE = [
    '"""); import os; os.system("touch owned")  #',
    "{target}",
    "a\x1b[31mred",
    "snow ☃ man",
    "line\nbreak",
    "q'\"q",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_column_name_is_data_in_the_project_file_and_escaped_on_the_terminal(
    shell, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    cell = '"' + name.replace('"', '""') + '"'
    (tmp_path / "data.csv").write_text(f"x,{cell}\n" + "".join(f"{n}.5,{n}.25\n" for n in range(40)))

    answer = shell.ok("init", "data.csv", "--no-train", "--target", name)

    text = (tmp_path / "project.py").read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword) and node.arg == "target"]
    assert [ast.literal_eval(call.value) for call in calls] == [name]
    assert ESCAPE not in answer.out
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("", "empty"),
        ("a,b\n", "no usable rows"),
        ("a\n1\n", "one column"),
        (b"\x00\xff,\xfe\n", "data.csv"),
    ],
    ids=["missing", "empty", "header only", "one column", "no text"],
)
def test_init_of_a_file_without_rows_says_what_is_wrong_and_writes_nothing(shell, tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    answer = shell("init", "data.csv", "--no-train")

    assert answer.code == 2, answer
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "project.py").exists()


# --- every command ----------------------------------------------------------------------------------------------

PLAIN = [
    "status", "history", "history --model line --limit 1", "why line", "why towns -p town=T01", "why towns -p Overall",
    'why towns -p {"town":"T02"}', "plan", "plan line", "runs", "runs 1", "runs --model towns", "versions line",
    "versions towns --limit 1", "rollback line", "rollback line --to 1.0.0", "rollback line --pin", "rollback line --unpin",
    "predict line --set x=1.5", "predict towns --set x=1 --set town=T01", "predict line --data rows.csv", "trigger line",
    "trigger line --force", "trigger towns -p town=T01", "trigger line --no-wait --force", "pause", "pause line", "resume",
    "resume line", "reload", "config", "config line", "config --model line", "config line --set gate.tolerance=3%",
    "schedule list", "schedule add line --weekly wed --at 04:00", "schedule remove 1", "gc", "gc --dry-run", "doctor",
    "stop", "backup ../copy",
]  # fmt: skip
JSON = [
    "status", "history", "why line", "plan", "runs", "runs 1", "versions line", "rollback line", "rollback line --unpin",
    "predict line --set x=1.5", "predict line --data rows.csv --out out.csv", "trigger line", "trigger line --force",
    "trigger line --no-wait", "runs 1 --cancel", "reload", "config", "config line", "schedule list", "gc --dry-run", "doctor",
    "backup ../copy",
]  # fmt: skip


def typed(text: str) -> list[str]:
    return shlex.split(text, posix='"' not in text)


@pytest.mark.parametrize("command", PLAIN)
def test_a_command_answers_in_plain_lines_and_ends_with_one_next_line_that_works_when_pasted(shell, trained, command):
    answer = shell.ok(*typed(command))

    assert ESCAPE not in answer.out + answer.err
    if answer.following == "evertrain start --detach":
        return  # pasted for real below
    pasted = shell.paste(answer)
    assert pasted.code == 0, pasted
    assert pasted.following


@pytest.mark.parametrize("command", JSON)
def test_json_is_the_whole_answer(shell, trained, command):
    answer = shell.ok(*typed(command), "--json")

    assert isinstance(answer.json, dict | list)
    assert answer.err == ""


def test_commands_work_from_below_from_outside_and_where_the_environment_says(shell, trained, monkeypatch, tmp_path):
    (trained / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(trained / "deep" / "er")
    below = shell.ok("status")
    monkeypatch.chdir("/")
    outside = shell.ok("-C", str(trained), "status")
    pasted = shell.paste(shell.ok("-C", str(trained), "why", "line"))
    monkeypatch.setenv("EVERTRAIN_PROJECT", str(trained))
    environment = shell.ok("status")

    for answer in (below, outside, environment):
        assert re.search(r"^line .* 1\.1\.0 ", answer.out, re.MULTILINE), answer
    assert outside.following == f"evertrain -C {trained} start --detach"
    assert pasted.code == 0
    assert f"-C {trained}" in pasted.following


def test_the_named_folder_comes_before_the_environment_and_a_wrong_one_is_named(shell, trained, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTRAIN_PROJECT", str(tmp_path / "nowhere"))
    named = shell("-C", str(trained), "status")
    wrong = shell("status")
    monkeypatch.delenv("EVERTRAIN_PROJECT")
    monkeypatch.chdir(tmp_path)
    outside = shell("status")
    missing = shell("-C", "nowhere", "status")

    assert named.code == 0
    assert (wrong.code, outside.code, missing.code) == (2, 2, 2)
    assert "EVERTRAIN_PROJECT" in wrong.err
    assert "nowhere" in wrong.err
    assert "evertrain init" in outside.err
    assert "'nowhere'" in missing.err
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_a_space_is_quoted_in_what_comes_next(shell, trained, tmp_path, monkeypatch):
    trained.rename(tmp_path / "my shop")
    monkeypatch.chdir(tmp_path)

    pasted = shell.paste(shell.ok("-C", "my shop", "versions", "line"))

    assert pasted.code == 0
    assert pasted.following.startswith("evertrain -C 'my shop' ")


# --- what is not there, and what is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said", "following"),
    [
        ("history", "Nothing was trained yet", "start --detach"),
        ("runs", "no runs yet", "start --detach"),
        ("versions line", "no version yet", "trigger line"),
        ("why line", "no trigger was evaluated yet", "history --model line"),
        ("status", "no model", "why line"),
    ],
)
def test_an_empty_answer_says_how_to_fill_it(shell, shop, command, said, following):
    answer = shell.ok(*command.split())

    assert said in answer.out
    assert answer.following == f"evertrain {following}"


def test_a_project_without_models_says_how_to_make_one(shell, shop):
    (shop / "evertrain.toml").write_text('name = "shop"\n')

    status, listed, schedules = shell.ok("status"), shell.ok("config"), shell.ok("schedule", "list")

    assert "evertrain init FILE.csv" in status.out
    assert "none yet" in listed.out
    assert "daily(" in schedules.out
    assert schedules.following == "evertrain status"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("trigger lin", 3, "declared: line, towns"),
        ("why lin", 3, "declared: line, towns"),
        ("versions lin", 3, "declared: line, towns"),
        ("rollback lin", 3, "declared: line, towns"),
        ("predict lin --set x=1", 3, "declared: line, towns"),
        ("history --model lin", 3, "declared: line, towns"),
        ("runs --model lin", 3, "declared: line, towns"),
        ("plan lin", 3, "declared: line, towns"),
        ("pause lin", 3, "declared: line, towns"),
        ("config lin", 3, "declared: line, towns"),
        ("schedule add lin --daily 03:00", 3, "declared: line, towns"),
        ("adopt lin toys.py", 3, "declared: line, towns"),
        ("trigger towns -p town=T0", 3, '{"town":"T00"}'),
        ("trigger towns -p city=T00", 2, "town=…, or Overall"),
        ("trigger towns -p T00", 2, "town=…, or Overall"),
        ("trigger towns -p {town", 2, '{"town":"Pilar"}'),
        ("trigger line -p town=T00", 2, "this model has no partitions"),
        ("why towns -p town=T9", 3, "T9"),
        ("rollback towns -p town=T9", 4, "no earlier fit"),
        ("runs 77", 3, "run 77"),
        ("runs 77 --cancel", 3, "run 77"),
        ("runs 1 --retry-failed", 4, "nothing failed in run 1"),
        ("runs --cancel", 2, "the number of a run"),
        ("rollback towns", 4, "1.0.0 serves"),
        ("rollback line --to 9.9.9", 4, "9.9.9"),
        ("rollback line --to nine", 4, "version nine"),
        ("schedule remove 77", 3, "schedule 77"),
        ("schedule add line", 2, "exactly one of --daily"),
        ("schedule add line --daily 3:00 --weekly mon", 2, "exactly one of --daily"),
        ("schedule add line --daily 25:00", 2, "'25:00'"),
        ("schedule add line --weekly 7", 2, "0 (Monday) to 6 (Sunday)"),
        ("schedule add line --weekly someday", 2, "'someday'"),
        ("schedule add line --monthly 32", 2, "32"),
        ("schedule add line --cron never", 2, "five fields"),
        ("schedule add line --daily 03:00 --zone Mars/Base", 2, "Mars/Base"),
        ("config line --set auto=maybe", 2, "'train', 'observe' or 'off'"),
        ("config line --set auto", 2, "field=value"),
        ("config line --set atuo=off", 2, "auto"),
        ("config line --set gate.tolerance=600%", 2, "from 0 to 1"),
        ("config line --reset auto", 2, "no field of line is set at run time"),
        ("config line --set auto=off --set auto=train", 2, "auto=off is set already"),
        ('config line --set gate.score=r2 --set scores=["accuracy"]', 2, "a score of a"),
        ("config line --model towns", 2, "line, or one of the two"),
        ("schedule add line --daily 05:00 --at 03:00", 2, "only beside --weekly or --monthly"),
        ("schedule add line --cron 0\\ 3\\ *\\ *\\ * --at 03:00", 2, "only beside --weekly or --monthly"),
        ("predict line", 2, "nothing to predict: give --data FILE, or --set"),
        ("predict line --set x=1 --data rows.csv", 2, "and not both"),
        ("predict line --set x", 2, "name=value"),
        ("predict line --set x=1 --set x=2", 2, "x=1 is set already"),
        ("predict line --set z=1", 2, "'x' is missing"),
        ("predict line --data no.csv", 2, "no.csv cannot be read"),
        ("predict line --set x=1 --out no/such/folder.csv", 2, "no/such"),
        ("start --data rows", 2, "NAME=PATH"),
        ("start --data row=rows.csv", 2, "rows"),
        ("adopt line toys.py", 4, "a champion already"),
        ("restore no-backup", 6, "no-backup"),
        ("backup toys.py", 4, "toys.py exists"),
        ("bogus", 2, "bogus"),
        ("statsu", 2, "statsu"),
        ("trigger", 2, "model"),
        ("history --limit 0", 2, "--limit"),
        ("history --limit many", 2, "--limit"),
        ("runs first", 2, "run"),
        ("status --jsno", 2, "--jsno"),
    ],
)
def test_an_error_names_the_value_and_what_is_allowed_with_a_documented_code(shell, trained, command, code, said):
    answer = shell(*(shlex.split(command) if "\\" in command else command.split()))

    assert answer.code == code, answer
    assert code in EXIT_CODES
    assert said in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert ESCAPE not in answer.err


def test_every_kind_of_error_has_a_documented_exit_code():
    made = {
        errors.ConfigError("a", "b", "c"): 2,
        errors.UnknownName("a", "b", []): 2,
        errors.DataError("rows"): 2,
        errors.NotFound("run"): 3,
        errors.NoModelYet("model"): 3,
        errors.Conflict("state"): 4,
        errors.StaleAttempt("late"): 4,
        errors.TrainingError("trainer"): 5,
        errors.Retryable("trainer"): 5,
        errors.StoreError("store"): 6,
        errors.StoreBusy("store"): 6,
        errors.ArtifactError("bytes", digest="ab"): 7,
        errors.EvertrainError("else"): 1,
    }

    assert {type(error).__name__: exit_code(error) for error in made} == {
        type(error).__name__: code for error, code in made.items()
    }
    assert set(made.values()) <= set(EXIT_CODES)


def test_a_wrong_setting_of_the_environment_is_named(shell, trained, monkeypatch):
    monkeypatch.setenv("EVERTRAIN_DRAIN_S", "soon")

    answer = shell("status")

    assert answer.code == 2
    assert "EVERTRAIN_DRAIN_S is 'soon'; allowed: a number" in answer.err


def test_a_project_file_that_is_wrong_is_answered_with_its_line_and_the_old_one_stays(shell, trained):
    (trained / "evertrain.toml").write_text(DECLARED.replace("min_samples = 10", "min_samples = -1", 1))

    wrong, status = shell("reload"), shell("status")

    assert wrong.code == 2
    assert "min_samples" in wrong.err
    assert "-1" in wrong.err
    assert status.code == 0, status


def test_an_unexpected_error_is_one_sentence_and_the_log_has_the_rest(shell, trained, monkeypatch):
    from evertrain.control import tell

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by \x1b[31m zero")

    monkeypatch.setattr(tell, "status", broken)
    answer = shell("status")

    assert answer.code == 1
    assert (
        answer.err == "Unexpected ZeroDivisionError: by \\x1b[31m zero. The log has the details: logs/retraining.log\n"
    )
    assert "ZeroDivisionError" in (trained / "logs" / "retraining.log").read_text()


# --- training ---------------------------------------------------------------------------------------------------


def test_trigger_says_what_came_of_it(shell, shop):
    """S2-16: trigger NAME. S2-15: history. S2-28: a record has model, trigger, time, status, duration, data hash."""
    first = shell.ok("trigger", "line")
    again = shell.ok("trigger", "line")
    write_rows(shop / "rows.csv", 90, offset=1, towns=3)
    changed = shell.ok("trigger", "line")
    history = shell.ok("history", "--model", "line", "--json").json["history"]
    newest = shell.ok("history", "--limit", "1", "--json").json["history"]

    assert "promoted nothing -> 1.0.0: first model" in first.out
    assert first.following == "evertrain versions line"
    assert "not needed: 1.0.0 was trained on these very rows" in again.out
    assert again.following == "evertrain trigger line --force"
    assert "promoted 1.0.0 -> 1.1.0" in changed.out
    assert [one["version"] for one in history if one["version"]] == ["1.1.0", "1.0.0"]
    assert newest == history[:1]
    record = history[0]
    assert (record["model"], record["cause"], record["status"]) == ("line", "manual", "success")
    assert record["duration_s"] > 0
    assert record["data_hash"]
    assert record["at"].startswith("20")


def test_a_failed_training_exits_5_says_what_serves_and_is_tried_again_by_what_comes_next(shell, trained):
    """S2-37: why a retraining failed is found by what each command names next."""
    (trained / "orders").write_text("raise")
    failed = shell("trigger", "line", "--force")
    shown = shell.paste(failed)
    (trained / "orders").unlink()
    retried = shell.paste(shown)

    assert failed.code == 5
    assert "ValueError: the trainer is unwell" in failed.out
    assert "1.1.0 keeps serving." in failed.out
    assert "own words" in shown.out
    assert "ValueError: the trainer is unwell" in shown.out
    assert "--retry-failed" in shown.following
    assert retried.code == 0, retried
    assert "promoted" in retried.out


def test_too_few_rows_are_named_with_how_many_are_needed(shell, trained):
    """S1-15: "Insufficient samples: n < m", and nothing is trained. S1-33: the least number can be lowered."""
    shell.ok("config", "line", "--set", "min_samples=1000")
    few = shell.ok("trigger", "line", "--force")
    shell.ok("config", "line", "--reset", "min_samples")
    enough = shell.ok("trigger", "line", "--force")

    assert "Insufficient samples: 60 < 1000" in few.out
    assert few.following == "evertrain why line"
    assert "promoted" in enough.out


def test_a_worse_model_is_refused_and_the_command_says_which_serves(shell, trained):
    toml = (trained / "evertrain.toml").read_text()
    (trained / "evertrain.toml").write_text(
        toml.replace('"toys:Unruly"', '{kind = "custom", path = "toys:Line", params = {noise = 50.0}}')
    )
    shell.ok("reload")
    refused = shell.ok("trigger", "line")
    status = shell.ok("status")

    assert "refused" in refused.out
    assert "keeps serving" in refused.out
    assert refused.following == "evertrain why line"
    assert "line   refused" in status.out
    assert status.following == "evertrain why line"


def test_one_partition_is_trained_with_the_model_above_it(shell, trained):
    shell.ok("trigger", "towns")  # the rows changed since
    answer = shell.ok("trigger", "towns", "-p", "town=T01", "--force", "--json").json
    items = shell.ok("runs", str(answer["run_id"]), "--json").json["items"]

    assert sorted(one["partition"] for one in items) == ["Overall", "T01"]


def test_a_partition_that_is_called_like_the_rollup_is_another_than_it(shell, shop):
    write_rows(shop / "rows.csv", towns=3)
    rows = (shop / "rows.csv").read_text()
    assert "T01," in rows
    (shop / "rows.csv").write_text(rows.replace("T01,", "Overall,"))
    shell.ok("trigger", "towns")

    def asked(*partition: str) -> dict:
        return shell.ok("why", "towns", *partition, "--json").json["partition"]

    town, rollup = asked("-p", "town=Overall"), asked("-p", "Overall")

    assert (town["rows"], rollup["rows"]) == (20, 60)
    assert asked("-p", '{"town":"Overall"}') == town
    assert asked() == rollup


def test_nobody_waits_where_nobody_is_to_wait(shell, trained):
    asked = shell.ok("trigger", "line", "--force", "--no-wait")
    run = asked.following.rsplit(" ", 1)[1]
    listed = shell.ok("runs")
    cancelled = shell.ok("runs", run, "--cancel")
    shown = shell.ok("runs", run, "--json").json

    assert f"Run {run} asks for 1 of 1." in asked.out
    assert "queued" in listed.out
    assert f"Run {run} is cancelled." in cancelled.out
    assert shown["state"] == "cancelled"


def test_a_paused_model_is_shown_as_paused_until_resumed(shell, trained):
    one = shell.ok("pause", "line")
    status = shell.ok("status")
    resumed = shell.paste(one)
    everything = shell.ok("pause")
    paused = shell.ok("status")
    shell.paste(everything)

    assert "line   paused" in status.out
    assert "towns  paused" not in status.out
    assert "line resumed." in resumed.out
    assert "PAUSED" in paused.out
    assert "PAUSED" not in shell.ok("status").out


def test_rollback_takes_back_pins_and_frees(shell, trained):
    """S1-27: the earlier version serves again, and the message names both."""
    back = shell.ok("rollback", "line", "--pin")
    versions = {one["version"]: one["state"] for one in shell.ok("versions", "line", "--json").json["versions"]}
    predicted = shell.ok("predict", "line", "--set", "x=1.5", "--json").json
    held = shell.ok("trigger", "line", "--force")
    listed = shell.paste(back)
    freed = shell.ok("rollback", "line", "--unpin")
    forward = shell.ok("rollback", "line", "--to", "1.1.0")

    assert "Rolled back line: 1.1.0 -> 1.0.0, pinned" in back.out
    assert versions == {"1.1.0": "archived", "1.0.0": "serving"}
    assert predicted["predictions"] == pytest.approx([2.0])
    assert predicted["versions"] == ["1.0.0"]
    assert "pinned" in held.out
    assert back.following == "evertrain versions line"
    assert "rollback" not in listed.following
    assert "free for better models" in freed.out
    assert "1.0.0 -> 1.1.0" in forward.out


def test_what_follows_a_second_rollback_still_works(shell, trained):
    shell.ok("rollback", "line")

    versions = shell.ok("versions", "line")

    assert shell.paste(versions).code == 0


def test_predictions_of_a_file_are_written_beside_its_rows(shell, trained):
    answer = shell.ok("predict", "line", "--data", "rows.csv", "--out", "out.csv")

    lines = (trained / "out.csv").read_text().splitlines()
    assert "60 predictions written to out.csv" in answer.out
    assert lines[0] == "town,x,y,prediction,version"
    assert len(lines) == 61
    assert lines[1].endswith(",1.1.0")


def test_an_unknown_partition_is_answered_by_the_model_above_and_the_answer_says_so(shell, trained):
    answer = shell.ok("predict", "towns", "--set", "x=1.5", "--set", "town=Elsewhere", "--json").json

    assert answer["answered_by"] == ["Overall"]
    assert answer["fallback"]


def test_adopt_makes_a_file_the_first_champion_and_refuses_a_pickle(shell, shop):
    import numpy as np
    import skops.io
    from sklearn.linear_model import LinearRegression

    declared = DECLARED.replace('"toys:Unruly"', '{kind = "sklearn", path = "sklearn.linear_model:LinearRegression"}')
    (shop / "evertrain.toml").write_text(declared)
    x = np.arange(60.0).reshape(-1, 1) + 0.5
    import pandas as pd

    skops.io.dump(LinearRegression().fit(pd.DataFrame(x, columns=["x"]), 2 * x.ravel() - 1), shop / "model.skops")
    (shop / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")

    pickled = shell("adopt", "line", "model.pkl")
    adopted = shell("adopt", "line", "model.skops")

    assert pickled.code == 2
    assert "skops.io.dump" in pickled.err
    assert not (shop / "owned").exists()
    assert adopted.code == 0, adopted
    assert "model.skops serves as line 1.0.0." in adopted.out
    assert shell.paste(adopted).code == 0


# --- settings and schedules -------------------------------------------------------------------------------------


def test_an_override_is_shown_as_one_and_taken_back_by_what_comes_next(shell, trained):
    """S2-17: config --model NAME."""
    before = shell.ok("config", "--model", "line", "--json").json
    changed = shell.ok("config", "line", "--set", "gate.tolerance=3%", "--set", "auto=observe")
    listed = shell.ok("config", "line", "--json").json
    shell.paste(changed)

    assert re.search(r"^gate.tolerance +0.03 +set at run time$", changed.out, re.MULTILINE)
    assert listed["declaration"]["auto"] == "observe"
    assert sorted(listed["overrides"]) == ["auto", "gate.tolerance"]
    assert shell.ok("config", "line", "--json").json == before


def test_an_override_that_is_not_set_is_answered_with_those_that_are(shell, trained):
    shell.ok("config", "line", "--set", "auto=observe")

    answer = shell("config", "line", "--reset", "nonsense")

    assert answer.code == 2
    assert "--reset is 'nonsense'; allowed: auto, all" in answer.err


def test_schedules_are_added_listed_with_their_next_moment_and_removed(shell, trained):
    """S1-04: several rules for one model are added and numbered. S1-10: listed. S1-11: removed by number."""
    for options in (
        ["--weekly", "2", "--at", "03:00"],
        ["--monthly", "1"],
        ["--cron", "0 */6 * * *"],
        ["--daily", "02:00"],
    ):
        added = shell.ok("schedule", "add", "line", *options)
    listed = shell.paste(added)
    before = shell.ok("schedule", "list", "--json").json["schedules"]
    removed = shell.ok("schedule", "remove", str(before[0]["schedule"]))
    after = shell.ok("schedule", "list", "--json").json["schedules"]

    assert re.search(r"line +every Wednesday at 03:00", listed.out)
    assert len(before) == 5
    assert all(one["next_at"] for one in before)
    assert [one["next_at"] for one in before] == sorted(one["next_at"] for one in before)
    assert f"Schedule {before[0]['schedule']} of line removed." in removed.out
    assert [one["schedule"] for one in after] == [one["schedule"] for one in before[1:]]


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ('"os:system"', "line.trainer: parameters of os:system"),
        ('"os:getcwd"', "fit is missing"),
        ('"sklearn.linear_model:Nope"', "a name that sklearn.linear_model has"),
        (
            '"sklearn.linear_model:Ridge"\nscores = ["accuracy"]',
            "line.scores is 'accuracy'; allowed: a score of a regress",
        ),
        ('"no_such_module:Line"', "a module that is installed or in the project's folder"),
        ("{params = {}}", "a table with kind = 'sklearn', 'command' or 'custom'"),
    ],
)
def test_a_trainer_that_cannot_train_is_refused_by_reload_and_the_old_one_stays(shell, trained, trainer, said):
    (trained / "evertrain.toml").write_text(DECLARED.replace('"toys:Unruly"', trainer))

    answer = shell("reload")

    assert answer.code == 2, answer
    assert said in answer.err
    assert shell.ok("config", "line", "--json").json["declaration"]["trainer"]["path"] == "toys:Unruly"


def test_a_project_file_that_takes_its_time_is_waited_for_aloud(shell, shop):
    (shop / "evertrain.toml").unlink()
    (shop / "project.py").write_text(
        "import time\ntime.sleep(1.5)\nfrom evertrain import CsvFile, Project\nproject = Project('shop')\n"
        "project.model('line', project.source('rows', CsvFile('rows.csv')), target='y', trainer='toys:Line')\n"
    )

    first, again = shell.ok("config", "--json"), shell.ok("reload")

    assert first.json == {"models": ["line"]}
    assert "Reading the project file ..." in first.err
    assert "Reading the project file ..." in again.err


def test_reload_tells_what_changed(shell, trained):
    nothing = shell.ok("reload")
    text = (trained / "evertrain.toml").read_text().replace("min_samples = 10", "min_samples = 20", 1)
    (trained / "evertrain.toml").write_text(text)
    changed = shell.ok("reload")

    assert "Nothing changed." in nothing.out
    assert "line" in changed.out
    assert shell.ok("config", "line", "--json").json["declaration"]["min_samples"] == 20


# --- copies -----------------------------------------------------------------------------------------------------


def test_a_backup_is_restored_in_place_and_elsewhere(shell, trained, tmp_path):
    made = shell.ok("backup", "../copy")
    shell.ok("rollback", "line")
    refused = shell("restore", "../copy")
    command = next(line for line in made.out.splitlines() if "restore" in line).partition(": ")[2]
    forced = shell(*shlex.split(command)[1:])
    elsewhere = shell("-C", str(tmp_path / "new"), "restore", str(tmp_path / "copy"))

    assert "verified" in made.out
    assert refused.code == 4
    assert "--force" in refused.err
    assert forced.code == 0, forced
    assert "1.1.0" in shell.ok("status").out
    assert (trained / "evertrain.db.before-restore").is_file()
    assert elsewhere.code == 0, elsewhere
    shutil.copy(TOYS, tmp_path / "new" / "toys.py")
    assert shell.ok("-C", str(tmp_path / "new"), "predict", "line", "--set", "x=1.5", "--json").json["versions"] == [
        "1.1.0"
    ]


def test_doctor_names_the_problem_and_the_command_that_helps(shell, trained, tmp_path, monkeypatch):
    """S2-37: a way to find what is wrong."""
    (trained / "rows.csv").rename(trained / "gone.csv")
    broken = shell("doctor", "--json")
    (trained / "gone.csv").rename(trained / "rows.csv")
    monkeypatch.chdir(tmp_path)
    nowhere = shell("doctor")

    found = {one["about"]: one for one in broken.json}
    assert broken.code == 1
    assert found["source"]["level"] == "problem"
    assert "rows" in found["source"]["text"]
    assert nowhere.code == 1
    assert nowhere.following == "evertrain init"
    assert shell.paste(nowhere).code == 0


# --- names from data --------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[31mT\u202e\r"


def test_control_characters_of_data_are_shown_escaped_by_every_command(shell, shop):
    rows = [f'"{EVIL if n % 2 else "Pilar"}",{n}.5,{2 * n}' for n in range(60)]
    (shop / "rows.csv").write_text("town,x,y\n" + "\n".join(rows) + "\n", newline="")
    key = json.dumps({"town": EVIL})
    (shop / "orders").write_text("raise")

    answers = [shell("trigger", "towns"), shell("status"), shell("why", "towns", "-p", key), shell("runs", "1")]
    answers += [shell("trigger", "towns", "-p", json.dumps({"town": EVIL + "x"})), shell("history"), shell("doctor")]
    answers += [shell("predict", "towns", "--set", "x=1", "--set", f"town={EVIL}"), shell("plan"), shell(EVIL)]
    answers += [shell("trigger", EVIL), shell("config", "towns", "--set", EVIL), shell("-C", EVIL, "status")]

    assert [answer.code for answer in answers] == [0, 0, 0, 0, 3, 0, 0, 0, 0, 2, 3, 2, 2]
    for answer in answers:
        assert not set(answer.out + answer.err) & set("\x1b\x07\r\u202e"), answer
    assert "\\x1b[31mT" in answers[2].out
    log = (shop / "logs" / "retraining.log").read_text()
    assert not set(log) & set("\x1b\x07\r\u202e")


# --- help, and what a terminal gets -----------------------------------------------------------------------------


def commands() -> list[list[str]]:
    from evertrain.cli.commands import app

    names = [[str(one.name or one.callback.__name__)] for one in app.registered_commands]
    return [[], *names, ["schedule"], ["schedule", "list"], ["schedule", "add"], ["schedule", "remove"]]


def test_every_command_has_help(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands():
        answer = shell(*words, "--help")
        assert answer.code == 0, words
        assert re.match(rf"Usage: .*evertrain {' '.join(words)}".rstrip(), answer.out)
        assert ESCAPE not in answer.out
        assert shell(*words, "-h").out == answer.out


def test_help_and_looking_import_no_heavy_library(trained):
    heavy = {"sklearn", "scipy", "pandas", "polars", "skops", "watchfiles"}
    script = (
        f"heavy = {heavy}\n"
        "import sys; from evertrain.cli import main\n"
        "for words in (['--help'], ['status'], ['history'], ['why', 'line'], ['versions', 'line'], ['runs', '1'], ['plan']):\n"
        "    sys.argv = ['evertrain', *words]\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert ended.code == 0, words\n"
        "    found = {one.partition('.')[0] for one in sys.modules} & heavy\n"
        "    assert not found, (words, found)\n"
    )

    subprocess.run([sys.executable, "-c", script], cwd=trained, check=True, stdout=subprocess.DEVNULL)


def in_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """Return what a command writes to a terminal."""
    leader, follower = pty.openpty()
    full = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", **environment}
    process = subprocess.Popen([str(PROGRAM), *arguments], cwd=folder, stdout=follower, stderr=follower, env=full)
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side is closed
            part = b""
        if not part:
            break
        parts.append(part)
    os.close(leader)
    assert process.wait() == 0
    return b"".join(parts).decode()


def test_a_terminal_gets_colours_unless_told_otherwise(trained):
    coloured = in_terminal(trained, "status")
    told = in_terminal(trained, "status", NO_COLOR="1")
    dumb = in_terminal(trained, "status", TERM="dumb")

    assert ESCAPE in coloured
    assert ESCAPE not in told
    assert ESCAPE not in dumb
    assert "Next: " in told


def test_a_terminal_is_shown_progress_that_no_color_turns_into_lines(trained):
    lively = in_terminal(trained, "trigger", "line", "--force")
    plain = in_terminal(trained, "trigger", "line", "--force", NO_COLOR="1")

    assert ESCAPE in lively
    assert ESCAPE not in plain
    assert "line: 1 of 1 (1 promoted)" in plain


def test_what_took_long_is_said_beside_the_answer_and_not_in_it(shell, trained, monkeypatch):
    from types import SimpleNamespace

    from evertrain.cli import live

    moments = iter(range(0, 1000, 7))
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    answer = shell.ok("rollback", "line", "--json")

    assert answer.json["after"] == "1.0.0"
    assert answer.err == "Trying the earlier model: 7.0 s\n"


TELLS = """
from toys import Line

class Tells(Line):
    def fit(self, frame, context):
        context.progress("[/b] \\x1b[2J epoch\\r", 0.5)
        return super().fit(frame, context)
"""


def test_what_a_trainer_tells_is_shown_as_text(trained):
    (trained / "tells.py").write_text(TELLS)
    toml = (trained / "evertrain.toml").read_text().replace("toys:Unruly", "tells:Tells")
    (trained / "evertrain.toml").write_text(toml)
    real(trained, "reload")

    piped = real(trained, "trigger", "line", "--force")
    shown = in_terminal(trained, "trigger", "line", "--force")

    assert piped.returncode == 0, piped
    assert "[/b] \\x1b[2J epoch\\r (50%)" in piped.stdout
    assert f"{ESCAPE}[2J" not in shown
    assert "promoted" in shown


def test_output_into_a_pipe_that_closes_early_is_no_error(trained):
    done = subprocess.run(
        f"{shlex.quote(str(PROGRAM))} config line | head -1",
        check=False,
        shell=True,
        cwd=trained,
        capture_output=True,
        text=True,
    )

    assert done.stderr == ""
    assert done.stdout.startswith("field")


# --- the loop as processes --------------------------------------------------------------------------------------


def real(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EVERTRAIN_TICK_S": "0.1", "EVERTRAIN_DRAIN_S": "5"}
    return subprocess.run(
        [str(PROGRAM), *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=60, env=environment
    )


def wait_for(found, what: str, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return answer


def test_start_detached_trains_what_is_due_answers_and_stops(shop):
    """S2-12: start. S2-13: stop. S2-14: status. S2-15: history. S2-32: the log file. S2-38: the sequence of a CI job."""
    started = real(shop, "start", "--detach")
    try:
        again = real(shop, "start", "--detach")
        status = wait_for(
            lambda: (
                (s := json.loads(real(shop, "status", "--json").stdout))
                and [one["health"] for one in s["models"]] == ["fresh", "fresh"]
                and s
            ),
            "both models are trained",
        )
        triggered = real(shop, "trigger", "line", "--force")
        refused = real(shop, "restore", "nowhere")
        history = json.loads(real(shop, "history", "--json").stdout)["history"]
    finally:
        stopped = real(shop, "stop")
    ended = real(shop, "status", "--json")

    assert started.returncode == 0, started
    assert "Monitoring in the background" in started.stdout
    assert "on already" in again.stdout
    assert status["monitoring"] is True
    assert triggered.returncode == 0, triggered
    assert "promoted 1.0.0 -> 1.1.0" in triggered.stdout
    assert refused.returncode == 6
    assert {one["model"] for one in history} == {"line", "towns"}
    assert "Monitoring ended" in stopped.stdout
    assert json.loads(ended.stdout)["monitoring"] is False
    assert "loop started" in (shop / "logs" / "retraining.log").read_text()


def test_start_in_the_foreground_reads_other_files_and_ends_on_a_signal(shop):
    """S2-12: start with the path of a source."""
    write_rows(shop / "other.csv", 80, towns=3)
    environment = {**os.environ, "EVERTRAIN_TICK_S": "0.1"}
    process = subprocess.Popen(
        [str(PROGRAM), "start", "--data", "rows=other.csv"],
        cwd=shop,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        wait_for(lambda: "80" in real(shop, "status").stdout, "the other file is read")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    assert "Monitoring line, towns." in out
    assert out.splitlines()[-1] == "Next: evertrain status" or out.splitlines()[-1].endswith("evertrain status")


def test_start_detached_that_cannot_start_says_why(shop):
    (shop / "evertrain.toml").write_text(DECLARED.replace("rows.csv", 'rows.csv" \n wrong'))

    answer = real(shop, "start", "--detach")

    assert answer.returncode == 2
    assert "TOML" in answer.stderr
