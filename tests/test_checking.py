"""`evertrain check` and `evertrain execute`: files in, JSON out, exit codes that scripts can rely on."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from evertrain import Estimator
from evertrain.control import execute
from evertrain.drift.signal import DriftType
from evertrain.specs import Cause, ModelSpec
from evertrain.triggers import Decision

from .conftest import TOYS
from .test_cli import PROGRAM, Shell, shell

__all__ = ["shell"]

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "drift_scripts"
FIELDS = ["triggered", "drift_type", "severity", "confidence", "reason", "action", "signals"]


def rows(seed: int, number: int, slope: float = 3.0, shift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    x, z = random.normal(shift, 1, number), random.normal(0, 1, number)
    return pd.DataFrame({"x": x, "z": z, "y": slope * x + z + random.normal(0, 0.3, number)}).round(5)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with reference rows, steady and changed recent rows, and what the old model says of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERTRAIN_PROJECT", raising=False)
    rows(1, 1500).to_csv("train.csv", index=False)
    for name, recent in (("steady", rows(2, 400)), ("changed", rows(3, 400, slope=1.0))):
        recent.to_csv(f"{name}.csv", index=False)
        np.save(f"{name}_predictions.npy", (3 * recent["x"] + recent["z"]).to_numpy())
        np.save(f"{name}_actuals.npy", recent["y"].to_numpy())
    return tmp_path


def numbered(*names: str) -> None:
    """Give every row of these files a key of its own."""
    for place, name in enumerate(names):
        frame = pd.read_csv(f"{name}.csv")
        frame.insert(0, "id", range(10_000 * place, 10_000 * place + len(frame)))
        frame.to_csv(f"{name}.csv", index=False)


def checking(name: str, *more: str) -> list[str]:
    return [
        "check", "--reference-data", "train.csv", "--recent-data", f"{name}.csv", "--target", "y",
        "--recent-predictions", f"{name}_predictions.npy", "--recent-actuals", f"{name}_actuals.npy",
        "--baseline", "rmse=0.3", "--baseline", "r2=0.99", *more,
    ]  # fmt: skip


# --- check ------------------------------------------------------------------------------------------------------


def test_a_check_answers_json_and_nothing_else_and_needs_no_project(shell: Shell, files):
    """S3-11: files in, the decision out; exit 0 whatever the answer is."""
    steady, changed = (shell.ok(*checking(name)).json for name in ("steady", "changed"))

    assert [name for name in FIELDS if name not in steady] == []
    assert (steady["triggered"], steady["drift_type"], steady["severity"]) == (False, "none", "none")
    assert (changed["triggered"], changed["drift_type"], changed["action"]) == (True, "concept_drift", "retrain now")
    assert changed["confidence"] >= 95
    assert "rose by" in changed["reason"]
    assert {one["name"] for one in steady["signals"]} == {"x", "z", "loss"}
    assert sorted(path.suffix for path in files.iterdir()) == [".csv"] * 3 + [".npy"] * 4


def test_the_exit_code_tells_only_where_it_was_asked_to(shell: Shell, files):
    """S3-11, 4.6.15: 10 where retraining is asked for and `--exit-code` was given."""
    assert shell(*checking("changed")).code == 0
    assert shell(*checking("changed", "--exit-code")).code == 10
    assert shell(*checking("steady", "--exit-code")).code == 0


def test_actuals_come_from_the_target_column_where_no_file_has_them(shell: Shell, files):
    options = checking("changed")
    at = options.index("--recent-actuals")
    answer = shell.ok(*options[:at], *options[at + 2 :]).json

    assert (answer["triggered"], answer["labelled_rows"]) == (True, 400)


def test_a_shifted_input_is_named_with_its_effect(shell: Shell, files):
    rows(4, 400, shift=1.0).to_csv("shifted.csv", index=False)
    answer = shell.ok("check", "--reference-data", "train.csv", "--recent-data", "shifted.csv", "--target", "y").json

    assert answer["drift_type"] == "data_drift"
    assert answer["signals"][0]["name"] == "x"
    assert answer["signals"][0]["effect"] > answer["signals"][0]["floor"]
    assert "label" in answer["reason"]


def test_thresholds_and_required_confidence_are_options(shell: Shell, files):
    """S3-18"""
    assert shell.ok(*checking("changed", "--set", "error_increase=99%", "--min-confidence", "99")).json["triggered"]
    strict = shell.ok(*checking("changed", "--set", "severity=critical", "--set", "min_rows=401")).json
    seed = shell.ok(*checking("steady", "--profile", "seed")).json

    assert (strict["triggered"], strict["code"]) == (False, "few_rows")
    assert strict["reason"] == "Insufficient samples: 400 < 401"
    assert seed["profile"] == "seed"
    assert 'profile "seed" alarms often' in seed["reason"]


def test_a_page_for_people_is_written_beside(shell: Shell, files):
    shell.ok(*checking("changed", "--html", "report.html"))
    page = (files / "report.html").read_text()

    assert "retrain now" in page.lower()
    assert "<script" not in page


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    """Return wrong calls, and what the message must name."""
    base = ["check", "--reference-data", "train.csv", "--recent-data"]
    pair = [*base, "steady.csv", "--recent-predictions"]
    return {
        "no such file": ([*base, "nowhere.csv"], "nowhere.csv"),
        "no such array": ([*pair, "nowhere.npy"], "nowhere.npy"),
        "a folder": ([*base, "folder"], "folder"),
        "an empty file": ([*base, "empty.csv"], "empty.csv"),
        "a header alone": ([*base, "header.csv"], "header.csv has no usable rows"),
        "bytes that are no text": ([*base, "binary.csv"], "binary.csv"),
        "a damaged Parquet file": ([*base, "binary.parquet"], "binary.parquet"),
        "no such column": ([*base, "steady.csv", "--target", "price"], "price"),
        "no such time": ([*base, "steady.csv", "--time", "when"], "when"),
        "arrays of two lengths": (
            [*pair, "steady_predictions.npy", "--recent-actuals", "short.npy"], "3 actuals for 400 predictions",
        ),
        "actuals alone": ([*base, "steady.csv", "--recent-actuals", "short.npy"], "no predictions"),
        "a pickled array": ([*pair, "pickled.npy"], "pickled.npy is no .npy file"),
        "a text that is called an array": ([*pair, "text.npy"], "text.npy is no .npy file"),
        "an archive": ([*pair, "archive.npy"], "archive.npy is no .npy file"),
        "a header that promises too much": ([*pair, "bomb.npy"], "bomb.npy is no .npy file"),
        "a header that ends nowhere": ([*pair, "torn.npy"], "torn.npy is no .npy file"),
        "a matrix": ([*pair, "matrix.npy"], "one number or text per row"),
        "complex numbers": ([*pair, "complex.npy"], "complex128"),
        "a baseline without a value": ([*base, "steady.csv", "--baseline", "r2"], "name=value"),
        "a baseline that is no number": ([*base, "steady.csv", "--baseline", "r2=good"], "good"),
        "a baseline that is not finite": ([*base, "steady.csv", "--baseline", "r2=nan"], "finite"),
        "a baseline of an unknown score": ([*base, "steady.csv", "--baseline", "r3=0.8"], "r3"),
        "an unknown profile": ([*base, "steady.csv", "--profile", "nervous"], "conservative"),
        "an impossible confidence": ([*base, "steady.csv", "--min-confidence", "100"], "99"),
        "an unknown setting": ([*base, "steady.csv", "--set", "treshold=1"], "error_increase"),
        "a page in no folder": ([*base, "steady.csv", "--html", "no/where.html"], "--html"),
        "no recent rows named": (["check", "--reference-data", "train.csv"], "--recent-data"),
        "nothing named": (["check"], "give a model"),
        "a model and files": (["check", "line", "--recent-data", "steady.csv"], "not both"),
        "a model and a setting": (["check", "line", "--profile", "seed"], "not both"),
        "a partition of files": ([*base, "steady.csv", "--partition", "a=b"], "is of a model"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_ends_with_2_names_what_is_wrong_and_answers_nothing(shell: Shell, files, case):
    """S3-11, 4.6.15"""
    (files / "folder").mkdir()
    (files / "empty.csv").touch()
    (files / "header.csv").write_text("x,z,y\n")
    for name in ("binary.csv", "binary.parquet"):
        (files / name).write_bytes(bytes(range(256)) * 4)
    (files / "text.npy").write_text("1.0\n2.0\n")
    np.save("short.npy", np.zeros(3))
    np.save("pickled.npy", np.array([print, None], dtype=object), allow_pickle=True)
    np.savez("archive.npz", a=np.zeros(3))
    shutil.move("archive.npz", "archive.npy")
    np.save("matrix.npy", np.zeros((400, 2)))
    np.save("complex.npy", np.zeros(400, dtype=complex))
    whole = (files / "short.npy").read_bytes()
    (files / "bomb.npy").write_bytes(whole.replace(b"(3,), }           ", b"(999999999999,), }"))
    (files / "torn.npy").write_bytes(whole.replace(b"(3,), }", b"(3,), ("))
    assert {len(whole)} == {(files / name).stat().st_size for name in ("bomb.npy", "torn.npy")}
    arguments, named = bad_inputs()[case]

    answer = shell(*arguments)

    assert (answer.code, answer.out) == (2, ""), answer
    assert named in answer.err
    assert "Traceback" not in answer.err


def test_numbers_that_are_none_become_null_so_that_any_parser_reads_the_answer(shell: Shell, files):
    recent = rows(5, 400)
    recent["z"] = np.nan
    recent.to_csv("gone.csv", index=False)
    said = shell.ok("check", "--reference-data", "train.csv", "--recent-data", "gone.csv").out

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(said, parse_constant=refuse)


@pytest.mark.slow
def test_people_read_words_on_a_terminal_while_a_program_reads_json(files):
    mine, theirs = pty.openpty()
    done = subprocess.Popen([PROGRAM, *checking("changed")], stdout=subprocess.PIPE, stderr=theirs, cwd=files)
    out, _ = done.communicate(timeout=120)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(mine, 4096):
            said += piece
    except OSError:  # Linux ends a terminal that nobody writes to in this way
        pass
    os.close(mine)

    assert json.loads(out)["triggered"] is True
    assert b"CRITICAL" in said
    assert b"rose by" in said


LIVE = """
name = "shop"

[sources.sales]
kind = "dataset"
key = ["id"]

[models.line]
source = "sales"
target = "y"
features = ["x", "z"]
trainer = "sklearn.linear_model:LinearRegression"
min_samples = 100
triggers = [{every = "1d", kind = "drift"}]
"""


@pytest.mark.slow
def test_a_model_of_the_project_is_checked_by_name(shell: Shell, files):
    """As the loop does every day: people read lines, a program JSON with the fields of the other check."""
    (files / "evertrain.toml").write_text(LIVE)
    numbered("train", "changed")
    shell.ok("ingest", "sales", "train.csv")
    shell.ok("trigger", "line")
    quiet = shell.ok("check", "line")
    shell.ok("ingest", "sales", "changed.csv")
    answer = shell("check", "line", "--json", "--exit-code", "--html", "line.html")
    told = shell.paste(shell.ok("check", "line", "--partition", "Overall"))

    assert "no champion has new observations" in quiet.out
    assert quiet.following == "evertrain why line"
    assert answer.code == 10, answer.json["reason"]
    assert [name for name in FIELDS if name not in answer.json] == []
    assert (answer.json["model"], answer.json["drift_type"]) == ("line", "concept_drift")
    assert "line" in (files / "line.html").read_text()
    assert told.code == 0


# --- execute ----------------------------------------------------------------------------------------------------


def executing(name: str, *more: str) -> list[str]:
    return ["execute", "--reference-data", "train.csv", "--recent-data", f"{name}.csv", *more]


LINEAR = ["--target", "y", "--trainer", "sklearn.linear_model:LinearRegression"]


@pytest.mark.slow
def test_execute_begins_a_model_retrains_what_has_become_worse_and_finds_it_again(shell: Shell, files):
    """S3-12: check, train, judge on recent rows that neither has seen, record; the next call finds the champion."""
    steady = shell.ok(*executing("steady", *LINEAR)).json
    changed = shell(*executing("changed", *LINEAR, "--exit-code"))
    again = shell.ok(*executing("changed", *LINEAR)).json
    answer = changed.json

    assert (steady["outcome"], steady["old_version"], steady["new_version"]) == ("not_needed", "1.0.0", "1.0.0")
    assert (steady["triggered"], steady["run"]) == (False, None)
    assert changed.code == 10
    assert (answer["triggered"], answer["outcome"]) == (True, "promoted")
    assert (answer["old_version"], answer["new_version"]) == ("1.0.0", "1.1.0")
    assert answer["score"] == "r2"
    assert answer["new_score"] == answer["scores"]["challenger"]["r2"] > answer["scores"]["champion"]["r2"]
    assert answer["improvement"] > 0
    assert answer["check"]["drift_type"] == "concept_drift"
    assert (again["outcome"], again["old_version"], again["new_version"]) == ("not_needed", "1.1.0", "1.1.0")
    with closing(sqlite3.connect("evertrain.db")) as database:
        told = database.execute(
            "SELECT trigger_type, severity, confidence, outcome, new_version FROM model_retraining_events ORDER BY item_id"
        ).fetchall()
    assert told == [("manual", "low", None, "promoted", "1.0.0"), ("drift", "critical", 99, "promoted", "1.1.0")]
    assert "1.1.0" in shell.ok("versions", "y").out


@pytest.mark.slow
def test_no_version_learns_a_row_of_the_hold_out_whatever_file_it_comes_in(shell: Shell, files):
    """Old and new are compared on recent rows that neither has learnt, also when they were given before."""
    shell.ok(*executing("changed", *LINEAR))
    held = {path.stem: pd.read_parquet(path) for path in (files / ".evertrain" / "held").iterdir()}
    given = pd.read_parquet(files / ".evertrain" / "given.parquet")
    changed, keys = pd.read_csv("changed.csv"), "evertrain_row"
    pd.concat([pd.read_csv("train.csv"), changed]).to_csv("train.csv", index=False)
    rows(6, 400, slope=-1.0).to_csv("other.csv", index=False)
    shell.ok(*executing("other", *LINEAR, "--force"))
    later = pd.read_parquet(files / ".evertrain" / "given.parquet")

    assert set(held) == {"1.0.0", "1.1.0"}
    assert set(held["1.1.0"]["y"]) < set(changed["y"])
    assert 0.1 < len(held["1.1.0"]) / len(changed) < 0.3
    assert set(held["1.1.0"][keys]) < set(given[keys])
    assert set(held["1.1.0"][keys]) & set(later[keys]) == set()


def test_old_and_new_are_compared_on_held_recent_rows_and_no_others():
    """A row is recent where it stands in both files; what is held of the old ones is neither learnt nor compared on."""
    spec = ModelSpec("m", "rows", "y", Estimator("sklearn.linear_model:Ridge"), features=("x", "z"))
    recent = rows(2, 400)
    old = execute._prepared(pl.from_pandas(pd.concat([rows(1, 1500), recent.head(50)])), spec, "the reference")
    new = execute._prepared(pl.from_pandas(recent), spec, "the recent file", old.frame)
    shifted, worse = (
        Decision(Cause.DRIFT, "drift", True, "", "", drift_type=one) for one in (DriftType.DATA, DriftType.CONCEPT)
    )

    (both,) = execute._candidates(old, new, shifted, 100)
    alone, after = execute._candidates(old, new, worse, 100)

    assert len(both.frame) == 400 + int((~old.held).sum()) - int((~new.held[:50]).sum())
    assert both.frame["evertrain_row"].is_unique().all()
    assert both.frame.filter(pl.Series(both.held)).equals(new.frame.filter(pl.Series(new.held)))
    assert alone.frame.equals(new.frame)
    assert after.frame.equals(both.frame)
    assert len(execute._candidates(old, new, worse, 401)) == 1


DATASET = """
name = "shop"
executor = "inline"

[sources.sales]
kind = "dataset"
key = ["id"]

[models.line]
source = "sales"
target = "y"
features = ["x"]
trainer = "toys:Line"
scores = ["r2", "rmse"]
min_samples = 10
"""


@pytest.fixture
def shop(files, monkeypatch) -> Path:
    """A project that keeps its rows in a dataset; both files are of it."""
    shutil.copy(TOYS, files / "toys.py")
    monkeypatch.syspath_prepend(str(files))
    (files / "evertrain.toml").write_text(DATASET)
    numbered("train", "steady", "changed")
    return files


def test_execute_uses_the_only_model_of_the_project_and_merges_recent_rows_into_its_dataset(shell: Shell, shop):
    """S3-12, 4.6.15: `--target`, `--model`, or the project's only model."""
    shell.ok("ingest", "sales", "train.csv")
    quiet = shell.ok(*executing("steady")).json
    forced = shell.ok(*executing("steady", "--model", "line", "--force")).json

    assert (quiet["outcome"], quiet["new_version"]) == ("not_needed", "1.0.0")
    assert forced["triggered"] is False
    assert forced["outcome"] in ("promoted", "refused")
    assert forced["scores"]["challenger"].keys() == {"r2", "rmse"}
    with closing(sqlite3.connect("evertrain.db")) as database:
        assert database.execute("SELECT added FROM batches ORDER BY id").fetchall() == [(1500,), (400,)]


def test_rows_merged_a_moment_ago_count_as_news(shell: Shell, shop):
    """What is in the dataset only since this call is trained on; the same rows again are not."""
    shell.ok("ingest", "sales", "train.csv")
    first, again = (shell.ok(*executing("changed", "--set", "severity=low")).json for _ in range(2))

    assert (first["triggered"], first["check"]["drift_type"]) == (True, "concept_drift")
    assert first["outcome"] in ("promoted", "refused")
    assert first["run"] is not None
    if first["outcome"] == "promoted":
        assert again["outcome"] == "not_needed"
    with closing(sqlite3.connect("evertrain.db")) as database:
        assert database.execute("SELECT max(rows) FROM model_retraining_events").fetchone() == (1900,)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--target", "z"], "line (of y)"),
        (["--model", "other"], "line"),
        (["--model", "line", "--target", "z"], "y, which line predicts"),
        (["--trainer", "sklearn.linear_model:Ridge"], "change it there"),
    ],
)
def test_a_model_that_is_not_there_is_told_with_those_that_are(shell: Shell, shop, options, named):
    answer = shell(*executing("steady", *options))

    assert (answer.code, answer.out) == (3 if "other" in options else 2, ""), answer
    assert named in answer.err


def test_too_few_recent_rows_are_an_answer(shell: Shell, shop):
    """4.6.23"""
    shell.ok("ingest", "sales", "train.csv")
    pd.read_csv("steady.csv").head(40).to_csv("few.csv", index=False)
    answer = shell.ok(*executing("few", "--exit-code")).json

    assert (answer["outcome"], answer["triggered"]) == ("insufficient_samples", False)
    assert answer["reason"] == "Insufficient samples: 40 < 100"


def test_what_a_trainer_prints_does_not_get_into_the_answer(shell: Shell, shop):
    (shop / "toys.py").write_text((shop / "toys.py").read_text().replace("x = frame[", "print('hello'); x = frame[", 1))
    sys.modules.pop("toys", None)
    shell.ok("ingest", "sales", "train.csv")
    answer = shell.ok(*executing("steady"))
    sys.modules.pop("toys", None)

    assert answer.json["outcome"] == "not_needed"
    assert "hello" in answer.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "evertrain init"),
        (["--target", "price"], "price"),
        (["--target", "y", "--trainer", "nowhere:Nothing"], "nowhere"),
        (["--target", "y", "--profile", "nervous"], "nervous"),
    ],
)
def test_what_cannot_begin_leaves_no_project_behind(shell: Shell, files, options, named):
    answer = shell(*executing("steady", *options))

    assert (answer.code, answer.out) == (2, ""), answer
    assert named in answer.err
    assert not (files / "project.py").exists()


def test_recent_rows_of_another_shape_are_refused(shell: Shell, shop):
    shell.ok("ingest", "sales", "train.csv")
    pd.read_csv("steady.csv").drop(columns="x").to_csv("narrow.csv", index=False)
    pd.read_csv("steady.csv").assign(x="much").to_csv("texts.csv", index=False)

    for name, named in (("narrow", "has no column 'x'"), ("texts", "holds text")):
        answer = shell(*executing(name))
        assert (answer.code, answer.out) == (2, ""), answer
        assert named in answer.err


# --- the page ---------------------------------------------------------------------------------------------------


def typed_in(heading: str) -> list[str]:
    """Return the commands of a section of the how-to pages."""
    text = (ROOT / "docs" / "howto.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\$ evertrain (.+)$", section, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_against_too_many_alarms_or_none_run_as_the_page_has_them(shell: Shell, files):
    """S3-18, S3-20: look, observe, adjust, validate, optimise."""
    (files / "evertrain.toml").write_text(LIVE.replace("models.line", "models.sales"))
    numbered("train", "changed")
    shell.ok("ingest", "sales", "train.csv")
    shell.ok("trigger", "sales")
    shell.ok("ingest", "sales", "changed.csv")

    commands = typed_in("Too many alarms, or none")
    said = {one: shell.ok(*shlex.split(one)) for one in commands}

    assert [one.split()[0] for one in commands] == [
        "check", "why", "config", "why", "what-if", "what-if", "config", "history", "schedule",
    ]  # fmt: skip
    assert "retrain now" in said["check sales"].out
    assert (files / "report.html").exists()
    assert "1 would have fired; 1 do" in said[commands[4]].out


def test_the_commands_about_two_files_run_as_the_page_has_them(shell: Shell, files):
    """S3-11"""
    for name in ("train", "changed"):
        frame = pd.read_csv(f"{name}.csv").rename(columns={"y": "price"})
        frame.to_csv(f"{'recent' if name == 'changed' else name}.csv", index=False)
    for name in ("predictions", "actuals"):
        shutil.copy(f"changed_{name}.npy", f"{name}.npy")

    said = [
        shell.ok(*shlex.split(one)).json for one in typed_in("Ask of two files whether a model should be retrained")
    ]

    assert [one["triggered"] for one in said] == [False, True]
    assert (files / "report.html").exists()


# --- the example ------------------------------------------------------------------------------------------------


def test_the_old_class_answers_with_the_old_fields_by_the_old_thresholds(files, monkeypatch):
    """S3-07, S3-08, S3-09, S3-10: defaults 0.05, 0.05 and 100; a baseline of scores of two tasks is no error."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    old = importlib.import_module("automatic_retraining").AutomaticRetrainingOrchestrator
    random = np.random.default_rng(0)
    reference, recent = pd.read_csv("train.csv"), pd.read_csv("steady.csv")
    scores = {"r2": 0.85, "rmse": 0.35, "accuracy": 0.80}

    trigger = old().should_retrain(reference, recent, random.normal(size=100), random.normal(size=100), scores)
    few = old(min_samples_for_retraining=401).should_retrain(reference, recent)
    stricter, permissive = (
        old(0.03, 0.03, 200).config,
        old(data_drift_threshold=0.10, performance_threshold=0.10).config,
    )

    assert trigger.triggered
    assert trigger.drift_type.value in ("concept_drift", "performance_degradation")
    assert str(trigger.severity) in ("high", "critical")
    assert 1 <= trigger.confidence <= 99
    assert "r2" in trigger.reason
    assert few.reason.startswith("Insufficient samples: 400 < 401")
    assert (old().config.p_value, old().config.r2_drop, old().config.min_rows) == (0.05, 0.05, 100)
    assert (old().config.error_increase, old().config.rmse_increase) == (0.15, 0.10)
    assert (stricter.p_value, stricter.r2_drop, stricter.min_rows) == (0.03, 0.03, 200)
    assert (permissive.p_value, permissive.r2_drop) == (0.10, 0.10)


@pytest.mark.slow
def test_the_scripts_of_document_003_run_as_their_page_says(tmp_path):
    """S3-11, S3-12, S3-17: their names and options, by thin callers; each call leaves a line in the log."""
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, tmp_path)
    text = (EXAMPLE / "README.md").read_text()
    typed = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    (python,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("EVERTRAIN_PROJECT", None)

    def run(command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    said = [run(command) for command in typed]
    (tmp_path / "typed.py").write_text(python)
    asked = run("python typed.py")

    assert (json.loads(said[1])["triggered"], json.loads(said[1])["drift_type"]) == (True, "concept_drift")
    assert [json.loads(one)["outcome"] for one in said[2:4]] == ["promoted", "not_needed"]
    assert "1.1.0" in said[4]
    log = [json.loads(line) for line in (tmp_path / "retraining_executor.log").read_text().splitlines()]
    assert [(one["outcome"], one["exit"]) for one in log] == [("promoted", 0), ("not_needed", 0)]
    assert asked.startswith("True concept_drift ")
