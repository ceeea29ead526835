"""Declarations: a wrong value is answered with its name, what it is, and what is allowed."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain import (
    Callback,
    Command,
    ConfigError,
    CsvFile,
    Custom,
    Estimator,
    Function,
    Gate,
    ParquetFile,
    Project,
    Retention,
    SqlQuery,
    UnknownName,
    cron,
    daily,
    loader,
    max_age,
    monthly,
    on_data_change,
    on_environment_change,
    on_score_drop,
    specs,
    sql_table,
    weekly,
)
from evertrain.specs import (
    BadRows,
    Dimension,
    Message,
    ModelSpec,
    ProjectSpec,
    decode_project,
    decode_trigger,
    encode,
    format_duration,
    parse_duration,
    parse_share,
)

LINE = Custom("toys:Line")


def model(**options: Any) -> ModelSpec:
    return ModelSpec("m", "rows", **{"target": "y", "trainer": LINE, **options})


# --- wrong values -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str, str, str]] = {
    # what is made; the name, the value, and what is allowed, as the message says them
    "holdout": (lambda: model(holdout="120%"), "holdout", "120%", "a share"),
    "no holdout": (lambda: model(holdout=0), "holdout", "0", "between 0 and 1"),
    "tolerance": (lambda: Gate(tolerance="five"), "Gate.tolerance", "'five'", "'5%'"),
    "tolerance of truth": (lambda: Gate(tolerance=True), "Gate.tolerance", "True", "'5%'"),
    "min_samples": (lambda: model(min_samples=0), "min_samples", "0", "1"),
    "min_samples of truth": (lambda: model(min_samples=True), "min_samples", "True", "whole number"),
    "name": (lambda: ModelSpec("../x", "rows", target="y", trainer=LINE), "name", "../x", "a-z"),
    "name that looks alike": (lambda: ModelSpec("ｍ", "rows", target="y", trainer=LINE), "name", "ｍ", "a-z"),
    "source name": (lambda: Project("p").source("My Rows", CsvFile("x.csv")), "source name", "My Rows", "a-z"),
    "source kind": (lambda: Project("p").source("rows", "x.csv"), "rows", "x.csv", "CsvFile, ParquetFile"),  # type: ignore[arg-type]
    "duration": (lambda: max_age("a day"), "max_age", "a day", "'24h'"),
    "no duration": (lambda: max_age("0s"), "max_age", "0s", "longer than nothing"),
    "negative": (lambda: max_age(timedelta(-1)), "max_age", "-1", "'24h'"),
    "endless": (lambda: max_age("99999999999d"), "max_age", "99999999999d", "at most 999999999 days"),
    "quiet": (lambda: on_data_change(quiet="2 parsecs"), "quiet", "2 parsecs", "'2s'"),
    "deadline": (lambda: model(deadline="0s"), "deadline", "0s", "longer than nothing"),
    "weekday": (lambda: weekly("someday"), "day", "someday", "mon, tue, wed"),
    "weekday 7": (lambda: weekly(7), "day", "7", "6 (Sunday)"),
    "threshold": (lambda: on_score_drop("lots"), "threshold", "lots", "'5%'"),
    "action": (lambda: on_environment_change("panic"), "Environment.action", "panic", "'report' or 'retrain'"),  # type: ignore[arg-type]
    "import path": (lambda: Function("no path"), "Function.function", "no path", "module:function"),
    "table": (lambda: sql_table("sqlite:///a.db", "a; drop table b"), "table", "a; drop table b", "SqlQuery"),
    "url": (lambda: SqlQuery("shop", "select 1"), "SqlQuery.url", "shop", "'env:NAME'"),
    "bad rows": (lambda: CsvFile("x.csv", on_bad_rows="ignore"), "CsvFile.on_bad_rows", "ignore", "'set_aside'"),  # type: ignore[arg-type]
    "delimiter": (lambda: CsvFile("x.csv", delimiter=",,"), "CsvFile.delimiter", ",,", "1 character"),
    "key": (lambda: CsvFile("x.csv", key="id"), "CsvFile.key", "id", "a list of names"),  # type: ignore[arg-type]
    "features": (lambda: model(features=["x", "x"]), "features", "x", "each once"),
    "features with target": (lambda: model(features=["x", "y"]), "features", "y", "other than the target"),
    "dimension twice": (lambda: model(partition_by=["town", "town"]), "partition_by", "town", "each column once"),
    "dimension target": (lambda: model(partition_by=["y"]), "partition_by", "y", "other than the target"),
    "rollup": (lambda: model(partition_by=["town"], rollups=[["city"]]), "rollups", "city", "town"),
    "rollup of all": (lambda: model(partition_by=["town"], rollups=[["town"]]), "rollups", "town", "drop at least one"),
    "rollup twice": (lambda: model(partition_by=["a", "b"], rollups=[["a"], ["a"]]), "rollups", "a", "each rollup once"),
    "attempts": (lambda: model(max_attempts=21), "max_attempts", "21", "20"),
    "memory": (lambda: model(memory_mb=1), "memory_mb", "1", "64"),
    "infinity": (lambda: Custom("toys:Line", {"a": [float("inf")]}), "Custom.params", "inf", "infinity"),
    "keep": (lambda: Retention(fits=0), "Retention.fits", "0", "1"),
    "auto": (lambda: Project("p", auto="maybe"), "auto", "maybe", "train, observe, off"),  # type: ignore[arg-type]
    "notify": (lambda: Project("p", notify=lambda *a: None), "notify", "lambda", "a function of a module"),
    "window": (
        lambda: ProjectSpec("p", sources={"rows": CsvFile("x.csv")}, models={"m": model(window="90d")}),
        "models.m.window",
        "90d",
        "where the source declares time=",
    ),
    "unknown trigger": (lambda: decode_trigger({"kind": "drfit"}), "trigger", "drfit", "'age'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_answered_with_its_name_itself_and_what_is_allowed(what: str) -> None:
    make, name, value, allowed = WRONG[what]
    with pytest.raises(ConfigError) as caught:
        make()
    assert name in caught.value.name
    assert value in str(caught.value)
    assert allowed in caught.value.allowed
    assert str(caught.value).startswith(caught.value.name)


def test_an_unknown_field_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"CsvFile field is 'sep'; allowed: .*delimiter.*encoding"):
        CsvFile("x.csv", sep=";")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", r"project field is 'sauce'; allowed: .*zone"),
        ("sources.gate", r"project.sources.gate.csv field is 'sauce'; allowed: .*delimiter"),
        ("models.gate", r"project.models.gate field is 'sauce'; allowed: .*min_samples"),
        ("models.gate.gate", r"project.models.gate.gate field is 'sauce'; allowed: beat_baseline, min_holdout, score"),
        ("keep", r"project.keep field is 'sauce'; allowed: days, events_days, fits"),
    ],
)
def test_an_unknown_field_of_a_file_is_answered_with_those_of_its_table(place: str, said: str) -> None:
    spec = ModelSpec("gate", "gate", target="y", trainer=LINE)
    data: Any = encode(ProjectSpec("p", sources={"gate": CsvFile("x.csv")}, models={"gate": spec}))
    table = data
    for step in filter(None, place.split(".")):
        table = table[step]
    table["sauce"] = 1
    with pytest.raises(UnknownName, match=said):
        decode_project(data)


def test_a_model_of_an_unknown_source_or_score_lists_those_there_are() -> None:
    project = Project("p")
    project.source("rows", CsvFile("x.csv"))
    with pytest.raises(UnknownName, match="source is 'row'; allowed: rows"):
        project.model("m", "row", target="y", trainer="toys:Line")
    with pytest.raises(UnknownName, match="accuracy"):
        project.model("m", "rows", target="y", trainer="toys:Line", scores=["accurracy"])
    with pytest.raises(ConfigError, match="five fields"):
        project.model("m", "rows", target="y", trainer="toys:Line", triggers=[cron("61 * * * *")])
    assert not project.spec.models


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@db/shop",
        "mysql+pymysql://ann:p:s3cret@db/shop",
        "postgresql://db/shop?user=ann&password=s3cret",
        "mssql://db/shop?pwd=s3cret;x=1",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """A-64."""
    for make in (lambda: SqlQuery(url, "select 1"), lambda: Message(url)):
        with pytest.raises(ConfigError, match="env:NAME") as caught:
            make()
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(caught.value.value)


def test_a_declaration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        model().min_samples = 5  # type: ignore[misc]


# --- values -----------------------------------------------------------------------------------------------------


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=100_000)))
def test_a_duration_reads_back_as_it_was_written(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@given(st.text())
def test_any_text_is_a_duration_or_refused_by_one_error(text: str) -> None:
    for parse in (parse_duration, parse_share, specs.parse_name, specs.parse_import_path):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("100 %", 1.0), ("0%", 0.0), ("0.5%", 0.005), (0.05, 0.05)])
def test_shares(text: object, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


# --- there and back ---------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
columns = st.text(min_size=1, max_size=5)
durations = st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=400))
sources = st.one_of(
    st.builds(CsvFile, columns, key=st.tuples(columns), time=columns, on_bad_rows=st.builds(BadRows)),
    st.builds(ParquetFile, columns),
    st.builds(SqlQuery, st.just("env:SHOP"), columns, probe=st.none() | columns, time=columns),
    st.builds(Function, st.just("rows:read"), params=st.dictionaries(columns, st.integers()), time=columns),
)
triggers = st.one_of(
    st.builds(on_data_change, durations, durations),
    st.builds(max_age, durations),
    st.builds(daily, st.just("04:30"), zone=st.sampled_from([None, "Europe/Berlin"])),
    st.builds(weekly, st.integers(0, 6)),
    st.builds(monthly, day=st.integers(1, 31)),
    st.just(cron("0 */6 * * *")),
    st.builds(on_score_drop, st.floats(0, 1), min_rows=st.integers(1, 100)),
    st.builds(on_environment_change, st.sampled_from(["report", "retrain"])),
)
trainers = st.one_of(
    st.builds(
        Custom, st.just("toys:Line"), params=st.dictionaries(columns, st.floats(allow_nan=False, allow_infinity=False))
    ),
    st.builds(Estimator, st.just("sklearn.linear_model:Ridge"), preprocess=st.sampled_from([None, True, False])),
    st.builds(Command, st.just("python train.py --data {data} --out {out}")),
)
specs_of_models = st.builds(
    ModelSpec,
    st.just("m"),
    st.just("rows"),
    target=st.just("the target"),
    trainer=trainers,
    triggers=st.lists(triggers, max_size=4).map(tuple),
    partition_by=st.lists(columns, max_size=3, unique=True).map(lambda found: [Dimension(one) for one in found]),
    min_samples=st.integers(1, 10**9),
    holdout=st.floats(0.01, 0.99),
    gap=durations,
    deadline=durations,
    auto=st.sampled_from(["train", "observe", "off"]),
)


@given(sources, specs_of_models, st.sampled_from(["train", "observe", "off"]))
def test_a_declaration_is_the_same_after_its_way_through_json(source: Any, spec: ModelSpec, auto: str) -> None:
    project = ProjectSpec(
        "p",
        auto=auto,  # type: ignore[arg-type]
        sources={"rows": source},
        models={"m": spec},
        notify=(Callback("told:told"), Message("env:CHANNEL")),
    )
    text = json.dumps(encode(project), allow_nan=False)
    assert decode_project(json.loads(text)) == project
    assert encode(decode_project(json.loads(text))) == encode(project)


# --- Python and TOML --------------------------------------------------------------------------------------------

TOML = """
name = "shop"
zone = "Europe/Berlin"

[sources.sales]
path = "sales.csv"
key = ["id"]
time = "day"

[sources.stock]
path = "stock.parquet"

[models.demand]
source = "sales"
target = "sold"
trainer = "sklearn.linear_model:Ridge"
triggers = ["data_change", {weekly = "wed", at = "04:00"}, {cron = "0 */6 * * *"}, {kind = "age", limit = "24h"}]
partition_by = ["town"]
window = "90d"
gap = "1d"
holdout = "10%"
gate = {score = "mae", tolerance = "3%"}

[models.stock]
target = "left"
trainer = "python train.py --data {data} --out {out}"
min_samples = 50
"""

PYTHON = """
from evertrain import CsvFile, Gate, ParquetFile, Project, cron, max_age, on_data_change, weekly

project = Project("shop", zone="Europe/Berlin")
sales = project.source("sales", CsvFile("sales.csv", key=["id"], time="day"))
stock = project.source("stock", ParquetFile("stock.parquet"))
project.model("demand", sales, target="sold", trainer="sklearn.linear_model:Ridge", window="90d", gap="1d",
    triggers=[on_data_change(), weekly("wed", at="04:00"), cron("0 */6 * * *"), max_age("24h")],
    partition_by="town", holdout="10%", gate=Gate(score="mae", tolerance="3%"))
project.model("stock", stock, target="left", trainer="python train.py --data {data} --out {out}", min_samples=50)
"""


def test_a_project_file_that_does_not_end_is_given_up_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_WAIT_S", 1)
    (tmp_path / "project.py").write_text("import time\ntime.sleep(60)\n")

    with pytest.raises(ConfigError, match="no answer after 1 s"):
        loader.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": ["r2", "accuracy"]}, "m.scores is 'accuracy'; allowed: a score of a regression, as r2 is"),
        ({"scores": ["f1"], "gate": Gate("rmse")}, "m.gate.score is 'rmse'; allowed: a score of a classification"),
        ({"scores": ["r2"], "triggers": [on_score_drop(score="f1")]}, "m.triggers.score_drop.score is 'f1'"),
        ({"trainer": "sklearn.linear_model:RidgeClassifier", "scores": ["r2"]}, "which its trainer is for"),
        (
            {"trainer": "sklearn.ensemble:RandomForestRegressor", "gate": Gate("f1")},
            "not of a classification: r2, rmse",
        ),
        ({"trainer": Command("x", task="classification"), "gate": Gate("mae")}, "a score of a classification"),
    ],
)
def test_scores_of_another_task_than_the_model_are_refused_where_it_is_declared(options: Any, said: str) -> None:
    project = Project("p")
    with pytest.raises(ConfigError) as caught:
        project.model("m", project.source("rows", CsvFile("r.csv")), target="y", **{"trainer": LINE, **options})

    assert said in str(caught.value)


def test_toml_and_python_declare_the_same(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PYTHON)
    assert loader.load(tmp_path) == loader.from_toml(TOML)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "allowed: TOML"),
        ('name = "p"\nnmae = 1', "nmae"),
        ('name = "p"\n[models.m]\ntarget = "y"\ntrainer = "toys:Line"', "models.m.source is 'm'"),
        ('name = "p"\n[sources.a]\nkind = "excel"\npath = "x"', "kind = 'csv', 'parquet', 'sql', 'function' or 'dataset'"),
        ('name = "p"\n[sources.a]\npath = "a.csv"\n[models.a]\ntarget = "y"\ntrainer = {}', "kind = 'sklearn', 'command' or"),
        ('name = "p"\n[sources.a]\npath = "a.csv"\n[models.a]\ntarget = "y"\ntrainer = "t:T"\ntriggers = ["drfit"]', "drfit"),
        ('name = "p"\n[sources.a]\npath = "a.csv"\n[models.a]\ntarget = "y"\ntrainer = "t:T"\nholdout = 3', "holdout is 3"),
    ],
)  # fmt: skip
def test_a_wrong_toml_names_the_field(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loader.from_toml(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n1 / 0\n", r"ZeroDivisionError: division by zero \(line 2\)"),
        ("def broken(:\n", r"SyntaxError: .*\(line 1\)"),
        ("x = 1\n", "0 projects"),
        ("from evertrain import Project\na, b = Project('a'), Project('b')\n", "2 projects"),
        ("from evertrain import Gate\nGate(tolerance=7)\n", "Gate.tolerance is '7'"),
        ("import os\nos._exit(3)\n", "ended without a word"),
    ],
)
def test_a_wrong_project_file_names_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "project.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        loader.load(tmp_path)


OWN = """
from evertrain import CsvFile, Project

class Mine:
    task = "regression"
    libraries = ()
    def fit(self, frame, context): ...
    def save(self, fitted): ...
    def load(self, data): ...
    def predict(self, fitted, frame): ...

project = Project("p")
project.model("m", project.source("rows", CsvFile("r.csv")), target="y", trainer="project:Mine", scores=[{scores}])
"""


def test_a_trainer_is_checked_where_it_is_found_and_needed_by_nobody_who_only_reads_the_declaration(
    tmp_path: Path,
) -> None:
    (tmp_path / "project.py").write_text(OWN.format(scores='"r2"'))
    fine = loader.load(tmp_path)
    (tmp_path / "project.py").write_text(OWN.format(scores='"f1"'))
    wrong = loader.load(tmp_path)

    loader.check(fine, tmp_path)
    with pytest.raises(ConfigError, match=r"m\.scores is 'f1'; allowed: a score of a regression, which its trainer is"):
        loader.check(wrong, tmp_path)
    (tmp_path / "project.py").unlink()
    with pytest.raises(ConfigError, match=r"m\.trainer: import path is 'project:Mine'"):
        loader.check(fine, tmp_path)
