"""Every line of Python and curl that the five documents print runs as printed, where nothing else was decided."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import sys
import textwrap
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from sqlalchemy.exc import IntegrityError
from starlette.testclient import TestClient

from evertrain import CsvFile, Custom, Series, Settings, compat, daily, on_data_change, on_score_drop
from evertrain.clock import ManualClock
from evertrain.compat import routes, words
from evertrain.control import tell
from evertrain.errors import ConfigError, Conflict, NotFound, UnknownName
from evertrain.server import app
from evertrain.server.service import Service
from evertrain.specs import TRIGGER_TYPES, Cause, ScoreDrop
from evertrain.store import migrations
from evertrain.store.connect import Store

from .seeds import PRINTED
from .test_streams import parsed

TYPES = ("climate_optimizer", "disease", "irrigation_threshold", "personalized_growth")


class Side:
    """Says "yes" above the middle of two classes; learns the middle, and which side is which."""

    task = "classification"
    libraries = ("numpy",)

    def fit(self, frame, context):
        yes = frame[context.target] == "yes"
        x = frame["x"]
        return {"middle": float((x[yes].mean() + x[~yes].mean()) / 2), "up": bool(x[yes].mean() > x[~yes].mean())}

    def save(self, fitted):
        return json.dumps(fitted).encode()

    def load(self, data):
        return json.loads(data)

    def predict(self, fitted, frame):
        return np.where((frame["x"] > fitted["middle"]) == fitted["up"], "yes", "no")


class Passing(ManualClock):
    """Goes on by a little with every look at it, so that quiet periods of files end without waiting."""

    def now(self):
        self.advance(seconds=0.05)
        return super().now()


def plants(path, rows=240, wrong=0.1, first=0, turned=False):
    """Write rows whose label follows x, but for a share; `turned` ones follow the other side."""
    random = np.random.default_rng(rows + first)
    x = random.normal(size=rows)
    label = ((x > 0) ^ turned) ^ (random.random(rows) < wrong)
    days = pd.date_range("2026-02-01", periods=first + rows, freq="h")[first:]
    frame = pd.DataFrame(
        {"day": days, "x": x.round(6), "light": random.random(rows).round(6), "sick": np.where(label, "yes", "no")}
    )
    frame.to_csv(path, mode="a" if first else "w", header=not first, index=False)
    return frame


@pytest.fixture
def farm(make, folder):
    """A project with the documents' model types, each a classifier of its own rows; nothing is trained yet."""
    project = make(clock=Passing(datetime.fromisoformat("2026-02-12T10:00:00+00:00")), zone="UTC")
    for name in TYPES:
        plants(folder / f"{name}.csv")
        rows = project.source(name, CsvFile(f"{name}.csv", time="day"))
        project.model(name, rows, target="sick", trainer=Side(), triggers=[], scores=["accuracy", "f1"])
    return project


@pytest.fixture
def trained(farm):
    """The same, after the first training of the model that most lines speak of."""
    farm.trigger("climate_optimizer")
    return farm


@pytest.fixture
def words_of(farm, monkeypatch):
    """What the documents' lines find around them, and the modules that they import from."""
    monkeypatch.setenv("ENABLE_AUTOMATED_RETRAINING", PRINTED[1, 0].split("=")[1].strip())
    for name in ("app", "app.services", "app.services.ai", "app.workers", "src", "src.models", "src.models.retraining", "scripts",
                 "scripts.automatic_retraining"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update({one: getattr(compat, one) for one in compat.__all__})
    tasks = []

    def scheduled(interval):
        return lambda function: tasks.append((interval, function)) or function

    sys.modules["app.workers"].ScheduledTask = scheduled
    container = compat.Container(farm)
    return {
        "app": SimpleNamespace(container=container), "container": container, "datetime": datetime,
        "retraining": container.optional_ai.automated_retraining, "logger": logging.getLogger("farm"),
        "ScheduledTask": scheduled, "tasks": tasks, "analytics_repo": container.analytics_repo, "__name__": "farm",
        "drift_detector": container.ai.drift_detector, "model_registry": container.ai.model_registry,
        "training_data_repo": container.ai.training_data_repo, "feature_engineer": container.ai.feature_engineer,
        "ModelStatus": compat.ModelStatus, "model_type": "climate_optimizer",
    }  # fmt: skip


def typed(number, around):
    """Run a printed block of Python, in a function where it returns from one."""
    code = PRINTED[number]
    if re.search(r"^ +return\b", code, re.MULTILINE) and "def " not in code:
        code = f"def typed():\n{textwrap.indent(code, '    ')}\n    globals().update(locals())\ntyped()\n"
    exec(compile(code, f"document {number}", "exec"), around)
    return around


def runs(project, model="climate_optimizer"):
    return [(one["cause"], one["status"]) for one in reversed(project.history(model, 50))]


# --- document 001: jobs -----------------------------------------------------------------------------------------


def test_without_the_variable_there_is_no_service_and_callers_cope(farm, words_of):
    """S1-01, S1-02, S1-03, S1-36: ENABLE_AUTOMATED_RETRAINING decides, and is true or false."""
    assert compat.Container(farm, {}).optional_ai.automated_retraining is None
    assert compat.Container(farm, {"ENABLE_AUTOMATED_RETRAINING": "false"}).optional_ai.automated_retraining is None
    assert isinstance(words_of["retraining"], compat.AutomatedRetrainingService)
    with pytest.raises(ConfigError, match="ENABLE_AUTOMATED_RETRAINING is 'yes'; allowed: true or false"):
        compat.Container(farm, {"ENABLE_AUTOMATED_RETRAINING": "yes"})
    words_of["app"] = SimpleNamespace(container=compat.Container(farm, {}))
    typed((1, 20), words_of)
    [(interval, hourly)] = words_of["tasks"]
    assert (interval, hourly()) == (3600, None)

    farm.trigger("disease")
    asked = pd.DataFrame({"x": [1.0], "light": [0.5]})
    kept = compat.Container(farm, {"ENABLE_TRAINING_DATA_COLLECTION": "true"}).predictor("disease")
    assert len(kept.answer(asked).ids) == 1
    assert not compat.Container(farm, {}).predictor("disease").answer(asked).ids


def test_jobs_are_added_listed_and_removed_as_printed(farm, words_of, capsys):
    """S1-04, S1-06, S1-07, S1-10, S1-11, S1-22: the recipes; the same job again is the same number."""
    retraining = words_of["retraining"]
    for number in (1, 2, 14, 15, 16, 17, 27, 28):
        typed((1, number), words_of)
    said = capsys.readouterr().out
    assert said == "Scheduled job 3\n"
    listed = {one.job_id: one for one in retraining.get_retraining_schedule()}
    told = [
        (one.model_type, one.schedule_type, one.schedule_config, one.min_samples) for _, one in sorted(listed.items())
    ]
    assert told == [
        ("climate_optimizer", "weekly", {"day": 2, "time": "03:00"}, 100),
        ("disease", "on_drift", {"drift_threshold": 0.15}, 50),
        ("climate_optimizer", "daily", {"time": "02:00"}, 100),
        ("disease", "daily", {"time": "03:00"}, 50),
        ("personalized_growth", "monthly", {"day": 1, "time": "03:00"}, 200),
        ("climate_optimizer", "on_drift", {"drift_threshold": 0.15}, 100),
        ("climate_optimizer", "on_drift", {"drift_threshold": 0.2}, 100),
    ]
    assert listed[1].next_run == words.wall("2026-02-18T03:00:00.000000Z"), "the next Wednesday at three"
    assert listed[5].next_run == words.wall("2026-03-01T03:00:00.000000Z"), "the first of the month"
    assert (listed[2].next_run, listed[1].last_run) == (None, None)
    assert retraining.add_job("climate_optimizer", "weekly", 2, "03:00", min_samples=100) == 1
    typed((1, 4), words_of)
    assert "[1] climate_optimizer: weekly" in capsys.readouterr().out
    typed((1, 5), words_of)
    assert 5 not in {one.job_id for one in retraining.get_retraining_schedule()}
    with pytest.raises(NotFound):
        retraining.remove_job(job_id=5)


def test_a_job_that_could_never_run_is_refused_with_what_is_allowed(farm):
    """S1-07."""
    own = compat.AutomatedRetrainingService(farm)
    for wrong, said in [
        ({"schedule_type": "hourly"}, "schedule_type is 'hourly'; allowed: daily, monthly, on_drift, weekly"),
        ({"schedule_type": "weekly"}, "schedule_day is None; allowed: 0 (Monday) to 6 (Sunday)"),
        ({"schedule_type": "weekly", "schedule_day": 7}, "day is 7"),
        ({"schedule_type": "daily", "schedule_time": "25:00"}, "25:00"),
        ({"schedule_type": "daily", "schedule_day": 1}, "schedule_day is 1"),
        ({"schedule_type": "daily", "drift_threshold": 0.1}, "drift_threshold is 0.1"),
        ({"schedule_type": "on_drift"}, "drift_threshold is None"),
        ({"schedule_type": "on_drift", "drift_threshold": 15}, "drift_threshold is 15"),
        ({"schedule_type": "on_drift", "drift_threshold": 0.1, "schedule_time": "03:00"}, "schedule_time is '03:00'"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(said)):
            own.add_job("disease", **wrong)
    with pytest.raises(NotFound, match="'plum' is not declared; declared: climate_optimizer"):
        own.add_job("plum", "daily")
    assert own.get_retraining_schedule() == []


def test_two_jobs_of_one_moment_are_one_training_and_a_missed_one_is_made_up_for_once(farm, words_of, clock):
    """S1-08, S1-12, S1-13: check_and_execute_jobs does what is due, once, and only then."""
    retraining = words_of["retraining"]
    retraining.add_job("disease", "daily", schedule_time="03:00")
    retraining.add_job("disease", "weekly", schedule_day=4, schedule_time="03:00")
    first = {one.model_type: one for one in retraining.check_and_execute_jobs()}
    assert first["disease"].outcome == "promoted", "a model without a version is due from birth"
    assert retraining.check_and_execute_jobs() == []
    farm.opened.store.clock.advance(hours=17)  # Friday 03:00
    plants(farm.root / "disease.csv", 60, first=240)
    typed((1, 20), words_of)
    [(_, hourly)] = words_of["tasks"]
    hourly()
    assert runs(farm, "disease") == [("declaration", "success"), ("schedule", "success")]
    hourly()
    assert len(runs(farm, "disease")) == 2
    assert {one.last_run for one in retraining.get_retraining_schedule()} == {words.wall("2026-02-13T03:00:00.000000Z")}


def test_the_printed_loop_over_jobs_takes_each_moment_once(trained, words_of, monkeypatch):
    """S1-12, S1-13: `job.next_run <= datetime.now()`, and nobody does that moment again."""
    retraining = words_of["retraining"]
    retraining.add_job("climate_optimizer", "daily", schedule_time="03:00")
    before = words_of["scheduled_jobs"] = retraining.get_retraining_schedule()
    words_of["_execute_retraining_job"] = retraining._execute_retraining_job
    now = trained.opened.store.clock
    words_of["datetime"] = SimpleNamespace(now=lambda: words.wall(now.now()))
    typed((1, 6), words_of)
    assert len(runs(trained)) == 1, "three o'clock has not come"
    now.advance(hours=18)
    plants(trained.root / "climate_optimizer.csv", 60, first=240)
    typed((1, 6), words_of)
    assert runs(trained)[1:] == [("schedule", "success")]
    retraining.check_and_execute_jobs()
    again = retraining._execute_retraining_job(before[0])
    assert (again.outcome, again.reason) == ("not_needed", "the moment 2026-02-13T03:00Z of job 1 was had already")
    assert len(runs(trained)) == 2


def test_a_job_with_too_few_rows_says_so_and_trains_nothing(trained, words_of, caplog):
    """S1-15, S1-33: min_samples of a job, of a request, and a floor that a job lowers."""
    retraining = words_of["retraining"]
    plants(trained.root / "disease.csv", 60)
    [job] = [retraining.add_job("climate_optimizer", "daily", schedule_time="03:00", min_samples=500)]
    trained.opened.store.clock.advance(hours=18)
    assert [one for one in retraining.check_and_execute_jobs() if one.model_type == "climate_optimizer"] == []

    said = {one["rule"]: one["reason"] for one in tell.why(trained.opened, "climate_optimizer")["decisions"]}
    assert said[f"schedule:{job}"] == "Insufficient samples: 240 < 500"
    found = retraining._execute_retraining_job(retraining.get_retraining_schedule()[0])
    assert (found.outcome, found.reason) == ("insufficient_samples", "Insufficient samples: 240 < 500")

    found = retraining.retrain_model("climate_optimizer", force=True, min_samples=241)
    assert (found.outcome, found.new_version) == ("insufficient_samples", "1.0.0")
    assert "Insufficient samples: 240 < 241" in caplog.text
    typed((1, 30), words_of)
    assert len(words_of["training_data"]) == 240

    few = retraining.retrain_model("disease")
    assert (few.outcome, few.reason) == ("insufficient_samples", "Insufficient samples: 60 < 100")
    retraining.add_job("disease", "daily", min_samples=50)
    assert retraining.retrain_model("disease", force=True).outcome == "promoted"


def test_schedules_and_their_moments_of_before_survive_the_migration_that_allows_jobs_without_one(
    tmp_path, monkeypatch
):
    """P-37: a store of the release before keeps its schedules, and no moment is had twice."""
    before = migrations.MIGRATIONS[: migrations.MIGRATIONS.index(migrations._add_jobs)]
    own = Store("sqlite:///evertrain.db", tmp_path, clock=ManualClock())
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", before)
        migrations.migrate(own)
    with own.write() as tx:
        tx.run("INSERT INTO models(name, spec, generation, training, declared_at) VALUES ('m', '{}', '', '', '')")
        for number, removed in ((4, None), (7, "2026-01-01")):
            tx.run(
                "INSERT INTO schedules(id, model_id, rule, origin, next_at, removed_at) VALUES (:id, 1, '{}', 'added', 'n', :removed)",
                id=number,
                removed=removed,
            )
        tx.run("INSERT INTO slots(schedule_id, slot_at, fired_at) VALUES (4, 's', 'f')")
    migrations.migrate(own)
    with own.write() as tx:
        assert [tuple(row) for row in tx.rows("SELECT id, next_at, min_samples FROM schedules")] == [
            (4, "n", None),
            (7, "n", None),
        ]
        assert [tuple(row) for row in tx.rows("SELECT schedule_id, slot_at FROM slots")] == [(4, "s")]
        assert tx.rows("PRAGMA foreign_key_check") == []
        new = "INSERT INTO schedules(model_id, rule, origin) VALUES (1, '{}', 'added') RETURNING id"
        assert tx.value(new) == 8, "a number is never given again"
        with pytest.raises(IntegrityError):
            tx.run("INSERT INTO slots(schedule_id, slot_at, fired_at) VALUES (99, 's', 'f')")
    own.close()


# --- document 001: retraining -----------------------------------------------------------------------------------

FIELDS = ["model_type", "old_version", "new_version", "old_metrics", "new_metrics", "improvement", "training_samples",
          "training_duration"]  # fmt: skip


def test_force_retrains_and_the_result_is_printed_as_the_document_prints_it(trained, words_of, capsys):
    """S1-09, S1-25: a retraining bumps the minor version; outcome and reason are beside the documents' fields."""
    typed((1, 3), words_of)
    result = words_of["result"]
    said = capsys.readouterr().out.splitlines()
    assert list(vars(result))[:8] == FIELDS
    assert (result.outcome, result.old_version, result.new_version) == ("promoted", "1.0.0", "1.1.0")
    assert said[0] == "Retrained climate_optimizer: v1.0.0 \N{RIGHTWARDS ARROW} v1.1.0"
    assert re.fullmatch(r"Accuracy: \d\d\.\d\d% \N{RIGHTWARDS ARROW} \d\d\.\d\d%", said[1])
    assert set(result.new_metrics) >= {"accuracy", "f1_score"}
    assert result.training_samples > 100
    old, new = (one["accuracy"] for one in (result.old_metrics, result.new_metrics))
    assert result.improvement == pytest.approx(100 * (new - old) / old, abs=0.01), "relative per cent"
    assert result.improvement_points == pytest.approx(new - old, abs=1e-6)


def test_without_force_the_drift_check_decides(trained, words_of):
    """S1-09, S1-14: nothing drifted, nothing is trained; a drop beyond 15 % of the accuracy trains."""
    retraining = words_of["retraining"]
    typed((1, 31), words_of)
    result = words_of["result"]
    assert (result.outcome, result.old_version, result.new_version) == ("not_needed", "1.0.0", "1.0.0")
    assert (result.improvement, result.training_samples) == (0.0, 0)
    assert result.new_metrics == result.old_metrics != {}
    assert "the check needs 30" in result.reason
    plants(trained.root / "climate_optimizer.csv", 60, first=240)
    steady = retraining.retrain_model("climate_optimizer")
    assert (steady.outcome, len(runs(trained))) == ("not_needed", 1)
    assert "newer rows against" in steady.reason
    plants(trained.root / "climate_optimizer.csv", 400, wrong=0.05, first=300, turned=True)
    turned = retraining.retrain_model("climate_optimizer")
    assert turned.outcome == "promoted", turned.reason
    assert runs(trained)[1:] == [("score_drop", "success")]
    first = retraining.retrain_model("irrigation_threshold")
    assert (first.outcome, first.old_version, first.old_metrics) == ("promoted", None, {})


def test_a_refused_model_leaves_the_version_and_says_what_was_measured(trained, words_of):
    """S1-09, S1-26: unless promoted, the new version is the old one."""
    plants(trained.root / "climate_optimizer.csv", 240, wrong=0.5, first=0)
    result = words_of["retraining"].retrain_model("climate_optimizer", force=True)
    assert (result.outcome, result.old_version, result.new_version) == ("refused", "1.0.0", "1.0.0")
    assert result.new_metrics["accuracy"] < 0.75


@pytest.mark.parametrize("check", ["score", "drift"])
def test_an_on_drift_job_trains_for_a_drop_beyond_its_threshold_and_the_smallest_of_several_speaks(
    farm, words_of, check
):
    """S1-08, S1-14: two drops on one model are one training, with that of the project file beside them."""
    retraining = words_of["retraining"]
    farm.trigger("disease")
    first = retraining.add_job("disease", "on_drift", drift_threshold=0.15)
    retraining.add_job("disease", "on_drift", drift_threshold=0.20)
    if check == "drift":
        farm.model(
            "disease", "disease", target="sick", trainer=Side(), triggers=[on_score_drop("30%")], scores=["accuracy"]
        )
    retraining.check_and_execute_jobs()
    plants(farm.root / "disease.csv", 120, wrong=0.1, first=240)
    farm.opened.store.clock.advance(hours=2)
    retraining.check_and_execute_jobs()
    assert ("score_drop", "success") not in runs(farm, "disease"), "no drop, no training"
    plants(farm.root / "disease.csv", 400, wrong=0.35, first=360)  # a drop of 18 %: only the smallest speaks
    farm.opened.store.clock.advance(hours=2)
    retraining.check_and_execute_jobs()
    assert [one for one in runs(farm, "disease") if one[0] == "score_drop"] == [("score_drop", "success")]
    told = {one.job_id: one for one in retraining.get_retraining_schedule()}
    assert words.wall(farm.opened.store.clock.now()) - told[first].last_run < timedelta(minutes=5)


def test_check_drift_sets_recent_predictions_against_the_promotion(trained, words_of, caplog, capsys):
    """S1-14, S1-36: `accuracy_drift` is relative: 0.15 of 0.90 fires below 0.765."""
    caplog.set_level(logging.INFO)
    retraining, baseline = words_of["retraining"], trained.status().models[0].value
    actuals = np.array(["yes"] * 200)

    def predictions(accuracy):
        return np.array(["yes"] * round(200 * accuracy) + ["no"] * (200 - round(200 * accuracy)))

    detector = words_of["drift_detector"]
    for drop, fires in ((0.14, False), (0.16, True)):
        metrics = detector.check_drift("climate_optimizer", predictions(baseline * (1 - drop)), actuals)
        assert metrics.accuracy_drift == pytest.approx(drop, abs=0.01)
        assert metrics.requires_retraining is fires
    assert re.search(r"Drift detected in climate_optimizer \(drift: 1[56]\.\d\d%\)", caplog.text)
    few = detector.check_drift("climate_optimizer", ["no"] * 5, ["yes"] * 5)
    assert (few.accuracy_drift, few.requires_retraining) == (1.0, False)

    words_of |= {"predictions": predictions(0.1), "actuals": actuals}
    retraining.add_job("climate_optimizer", "on_drift", drift_threshold=0.2)
    words_of["drift_jobs"] = retraining.get_retraining_schedule()
    words_of["_execute_retraining_job"] = done = []
    words_of["_execute_retraining_job"] = done.append
    typed((1, 7), words_of)
    assert [one.model_type for one in done] == ["climate_optimizer"]

    for name in ("disease", "irrigation_threshold"):
        trained.trigger(name)
    words_of["get_recent_predictions"] = lambda name: predictions(0.2 if name == "disease" else 1.0)
    words_of["get_recent_actuals"] = lambda _: actuals
    typed((1, 21), words_of)
    [(interval, each_day)] = words_of["tasks"]
    each_day()
    assert interval == 86400
    assert [len(runs(trained, name)) for name in TYPES[:3]] == [1, 2, 1], "only what drifted was retrained"
    assert "Retrained disease: accuracy" in caplog.text


def test_samples_and_features_are_those_of_the_training_and_a_fit_of_ones_own_is_refused(trained, words_of):
    """S1-15, S1-16, S1-17, S1-18: what cannot be done honestly says what to use."""
    words_of["job"] = SimpleNamespace(min_samples=100)
    typed((1, 8), words_of)
    typed((1, 9), words_of)
    features = words_of["features"]
    assert features.feature_names == ["x", "light"]
    assert words_of["X"].shape == (240, 2)
    assert set(words_of["y"]) == {"yes", "no"}
    repo = words_of["training_data_repo"]
    assert len(repo.fetch_samples("climate_optimizer", time_range="last_5d")) == pytest.approx(0, abs=120)
    with pytest.raises(ConfigError, match="last_90d"):
        repo.fetch_samples("climate_optimizer", time_range="90 days")
    ai = words_of["container"].ai
    for refused in (
        lambda: ai.ml_trainer.train_model(X=1, y=2, model_type="disease", hyperparameters={}),
        lambda: ai.ml_trainer.validate_model(model=1, X_val=2, y_val=3),
        lambda: ai.model_registry.register_model("disease", object(), compat.ModelMetadata("disease", "1.0.0")),
    ):
        with pytest.raises(Conflict, match="retrain_model"):
            refused()


def test_versions_are_bumped_archived_and_rolled_back_as_printed(trained, words_of, caplog):
    """S1-18, S1-20, S1-25, S1-27: latest, previous, archived and active; one version always serves."""
    caplog.set_level(logging.INFO)
    registry, retraining = words_of["model_registry"], words_of["retraining"]
    result = retraining.retrain_model("climate_optimizer", force=True)
    assert "Archived climate_optimizer v1.0.0" in caplog.text
    latest = registry.get_latest_version("climate_optimizer")
    words_of |= {"old_version": "1.0.0", "current_version": latest}
    typed((1, 12), words_of)
    assert registry.get_model_status("climate_optimizer", "1.0.0") == "archived"
    typed((1, 19), words_of)
    assert trained.status().models[0].versions == ["1.0.0"]
    assert registry.get_model_status("climate_optimizer", "1.1.0") is compat.ModelStatus.ARCHIVED
    assert "Rolled back climate_optimizer: v1.1.0 \N{RIGHTWARDS ARROW} v1.0.0" in caplog.text
    assert "climate_optimizer v1.1.0 serves until another version is made active" in caplog.text
    assert registry.get_latest_version("climate_optimizer") == latest == result.new_version
    with pytest.raises(NotFound, match=r"no version before 1\.0\.0"):
        registry.get_previous_version("climate_optimizer", "1.0.0")
    with pytest.raises(NotFound, match=r"no version 9\.0\.0 that served; there are"):
        registry.set_model_status("climate_optimizer", "9.0.0", "active")
    with pytest.raises(UnknownName):
        registry.set_model_status("climate_optimizer", "1.0.0", "retired")

    worse = compat.RetrainingResult("climate_optimizer", "1.0.0", "1.1.0", {}, {}, -6.0, 1, 1.0, "promoted", "")
    registry.set_model_status("climate_optimizer", "1.1.0", "active")
    words_of["retraining"] = SimpleNamespace(retrain_model=lambda **_: worse)
    typed((1, 31), words_of)
    assert trained.status().models[0].versions == ["1.0.0"], "what the document does with a worse model is done"

    own, theirs = compat._bump_version, typed((1, 18), {})["_bump_version"]
    for version in ("1.2.0", "0.9.7"):
        for kind in ("major", "minor", "patch"):
            assert own(version, kind) == theirs(version, kind)
    assert own("1.2.0") == "1.3.0"
    with pytest.raises(UnknownName):
        own("1.2.0", "huge")


def test_insights_are_the_retrainings_of_some_days_by_improvement(trained, words_of, caplog):
    """S1-32: improvement below 0 is a warning, above 10 is notable; nothing older is told."""
    caplog.set_level(logging.INFO)
    retraining, repo = words_of["retraining"], words_of["analytics_repo"]
    trained.opened.store.clock.advance(days=8)
    assert repo.get_insights(type="model_retrained", time_range="last_7d") == []
    plants(trained.root / "climate_optimizer.csv", 700, wrong=0.05, first=240, turned=True)
    result = retraining.retrain_model("climate_optimizer", force=True)
    [insight] = repo.get_insights(type="model_retrained", time_range="last_7d")
    assert insight.data["model_type"] == "climate_optimizer"
    assert insight.data["improvement"] == pytest.approx(result.improvement, abs=0.01)
    assert insight.data["trigger_type"] == "manual"
    typed((1, 29), words_of)
    [(interval, weekly)] = words_of["tasks"]
    weekly()
    assert interval == 604800
    assert result.improvement > 10
    assert "Significant improvement in climate_optimizer" in caplog.text
    assert len(repo.get_insights(time_range="last_30d")) == 2
    with pytest.raises(UnknownName, match="model_retrained"):
        repo.get_insights(type="drift")


# --- over HTTP --------------------------------------------------------------------------------------------------


def curl(client, line):
    """Do what a printed curl line does, and return the answer."""
    arguments = shlex.split(line)
    assert arguments.pop(0) == "curl"
    method, headers, files, content, url = None, {}, None, None, ""
    while arguments:
        one = arguments.pop(0)
        if one == "-X":
            method = arguments.pop(0)
        elif one == "-H":
            name, _, value = arguments.pop(0).partition(":")
            headers[name] = value.strip()
        elif one == "-d":
            content, method = arguments.pop(0), method or "POST"
        elif one == "-F":
            name, _, path = arguments.pop(0).partition("=@")
            files, method = {name: (path, Path(path).read_bytes(), "text/csv")}, method or "POST"
        else:
            assert not one.startswith("-"), f"{one} is an option of curl that this test does not know"
            url = one
    return client.request(method or "GET", url, headers=headers, files=files, content=content)


def lines(number, start):
    """Return the lines of a printed block that begin with a word."""
    return [one for one in PRINTED[number].splitlines() if one.startswith(start)]


def served(project):
    return TestClient(app.create(Service(project.opened), routes.routers, [routes.STATIC]), "http://localhost:8000")


def test_the_routes_of_document_001_answer_in_its_fields(trained, words_of):
    """S1-28, S1-29, S1-30, S1-31: every field that the document prints is there, and of its kind."""
    result, listed, asked, added, removed = (json.loads(PRINTED[1, number]) for number in range(22, 27))
    with served(trained) as client:
        done = client.post("/api/v1/ai/retrain/climate_optimizer?force=true").json()
        assert list(done)[: len(result)] == list(result)
        assert {name: type(one) for name, one in done.items() if name in result} == {
            n: type(v) for n, v in result.items()
        }
        assert set(result["old_metrics"]) <= set(done["old_metrics"])
        assert (done["old_version"], done["new_version"], done["outcome"]) == ("1.0.0", "1.1.0", "promoted")
        skipped = client.post("/api/v1/ai/retrain/climate_optimizer").json()
        assert (skipped["outcome"], skipped["new_version"]) == ("not_needed", "1.1.0")

        numbers = [client.post("/api/v1/ai/retraining/schedule", json=one).json() for one in (asked, asked)]
        assert numbers == [{**added, "job_id": 1}] * 2, "the same job again is no second one"
        drift = {"model_type": "disease", "schedule_type": "on_drift", "drift_threshold": 0.15}
        assert client.post("/api/v1/ai/retraining/schedule", json=drift).json() == {**added, "job_id": 2}
        jobs = client.get("/api/v1/ai/retraining/schedule").json()["jobs"]
        assert [list(one) for one in jobs] == [list(one) for one in listed["jobs"]]
        assert jobs[0]["schedule_config"] == listed["jobs"][0]["schedule_config"] == {"day": 2, "time": "03:00"}
        assert (jobs[0]["next_run"], jobs[0]["last_run"]) == ("2026-02-18T03:00:00Z", None)
        assert (jobs[1]["schedule_config"], jobs[1]["next_run"]) == ({"drift_threshold": 0.15}, None)
        rules = [one["rule"] for one in client.get("/api/v1/schedules").json()["items"]]
        assert rules == ["every Wednesday at 03:00 (UTC)", "when the score drops by more than 15 %"]
        page = client.get("/schedules", headers={"Accept": "text/html"}).text
        assert "When the score drops by more than 15 %" in page
        assert client.delete("/api/v1/ai/retraining/schedule/2").json() == removed
        assert client.delete("/api/v1/ai/retraining/schedule/2").status_code == 404
        wrong = client.post("/api/v1/ai/retraining/schedule", json={"model_type": "disease", "schedule_type": "hourly"})
        assert (wrong.status_code, "daily" in wrong.json()["detail"]) == (422, True)
        assert client.post("/api/v1/ai/retrain/plum").status_code == 404
        assert ScoreDrop(0.15) not in trained.opened.project().models["disease"].triggers


HISTORY = json.loads(PRINTED[2, 18])


@pytest.fixture
def flowers(make, folder):
    """The two models of document 002, on a clock that goes by itself."""
    project = make(zone="UTC", settings=Settings(tick_s=0.05, check_s=0.3))
    (folder / "data" / "raw").mkdir(parents=True)
    for name in ("iris", "housing"):
        plants(folder / f"data/raw/{name}.csv")
        rows = project.source(name, CsvFile(f"data/raw/{name}.csv", time="day"))
        project.model(name, rows, target="sick", trainer=Side(), scores=["accuracy", "f1"])
    return project


def test_the_routes_of_document_002_start_tell_trigger_and_stop_as_printed(flowers, monkeypatch, capsys):
    """S2-18, S2-19, S2-20, S2-21, S2-22, S2-28: the curl lines, and the Python that prints what they answer."""
    told = [*lines((2, 2), "curl"), *lines((2, 3), "curl"), *lines((2, 16), "curl")]
    assert len(told) == 3
    with served(flowers) as client:
        asked = ModuleType("requests")
        asked.get, asked.post = client.get, client.post
        monkeypatch.setitem(sys.modules, "requests", asked)
        assert client.get("/retraining/status").json()["is_running"] is False
        by_hand = client.post("/retraining/trigger/iris").json()
        assert (by_hand["status"], by_hand["trigger_type"]) == ("success", "manual"), "no loop runs, so it is done here"
        for line in told:
            assert curl(client, line).status_code == 200, line
        exec(PRINTED[2, 11], {})
        said = capsys.readouterr().out
        assert "System running: True" in said
        assert "iris: manual - " in said
        for line in (*PRINTED[2, 8].splitlines(), *PRINTED[2, 9].splitlines(), *PRINTED[2, 10].splitlines()):
            if line and not line.startswith("#"):
                method, path = line.split()
                assert client.request(method, path.format(model_name="housing")).status_code == 200, line
        assert curl(client, told[0]).json()["is_running"] is True
        deadline = time.monotonic() + 30
        while client.get("/retraining/status").json()["running_retrainings"] and time.monotonic() < deadline:
            time.sleep(0.05)
        status = client.get("/retraining/status").json()
        iris = status["models"]["iris"]
        assert (iris["data_size"], iris["data_sufficient"], iris["metric"]) == (240, True, "accuracy")
        assert iris["model_age_seconds"] >= 0
        assert 0.5 < iris["performance"] <= 1
        found = client.get("/retraining/history?model_name=iris&limit=20").json()["history"]
        assert {one["model_name"] for one in found} == {"iris"}
        assert list(found[0])[: len(HISTORY)] == list(HISTORY)
        assert {one["trigger_type"] for one in found} <= set(TRIGGER_TYPES)
        assert len(client.get("/retraining/history?limit=1").json()["history"]) == 1
        stopped = client.post("/retraining/stop").json()
        assert stopped["is_running"] is False
        assert "models serve on" in stopped["message"]
        assert client.post("/retraining/trigger/plum").status_code == 404


def test_every_cause_has_one_of_the_trigger_types():
    """S2-21, S2-23, S3-14: one list for history, metrics and SQL."""
    assert {cause.trigger_type for cause in Cause} == set(TRIGGER_TYPES)
    assert words.HISTORY["trigger_type"][1]("declaration") == "manual"


# --- document 002: the manager ----------------------------------------------------------------------------------


def test_a_configuration_has_the_printed_defaults_and_the_shipped_ones_are_written_so():
    """S2-01, S2-02, S2-03."""
    config = compat.RetrainingConfig("iris")
    assert (config.check_interval, config.min_data_size, config.max_model_age_hours) == (300, 100, 24)
    assert (config.performance_threshold, config.enable_auto_retraining) == (0.05, True)
    shipped = {name: compat.RetrainingConfig(**one) for name, one in eval(PRINTED[2, 4]).items()}
    assert (shipped["iris"].check_interval, shipped["iris"].min_data_size) == (300, 50)
    assert (shipped["housing"].max_model_age_hours, shipped["housing"].performance_threshold) == (48, 0.03)
    around = {"RetrainingConfig": compat.RetrainingConfig}
    exec(PRINTED[2, 13], around)
    exec(PRINTED[2, 14], around)
    assert around["config"].performance_threshold == 0.05


def test_the_manager_configures_trains_tells_the_callback_and_stops(flowers, words_of_monitoring, capsys):
    """S2-04, S2-05, S2-07, S2-12, S2-13, S2-31: the custom example, with a function of this process as callback."""
    root = flowers.root
    (root / "data" / "custom").mkdir()
    plants(root / "data/custom/data.csv", 300)
    flowers.model("custom_model", "iris", target="sick", trainer=Side(), triggers=[daily()], scores=["accuracy"])
    around = words_of_monitoring
    exec(PRINTED[2, 27], around)
    manager, config = around["manager"], around["configs"]["custom_model"]
    around["config"] = config
    exec(PRINTED[2, 28], around)
    try:
        spec = flowers.opened.project()
        assert spec.sources["iris"].path == "data/custom/data.csv"

        declared = tell.config(flowers.opened, "custom_model")
        kinds = {one["kind"]: one for one in declared["declaration"]["triggers"]}
        assert set(kinds) == {"schedule", "data_change", "age", "score_drop"}
        assert (kinds["age"]["limit"], kinds["score_drop"]["threshold"]) == ("12h", 0.03)
        assert declared["overrides"]["min_samples"] == 200
        done = manager.trigger("custom_model")
        assert (done["status"], done["trigger_type"]) == ("success", "manual")
        deadline = time.monotonic() + 20
        said = ""
        while "completed in" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().out
        assert re.search(r"custom_model retraining completed in \d+\.\d\ds", said)
        assert manager.is_running
        assert manager.status()["models"]["custom_model"]["data_size"] == 300
        assert manager.history("custom_model", 1)[0]["status"] == "success"
        with (root / "data/custom/data.csv").open("a") as file:
            file.write("not a row of this file\n")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            reasons = [one["reason"] for one in tell.why(flowers.opened, "custom_model")["decisions"]]
            if any("no usable row changed" in one for one in reasons):
                break
            time.sleep(0.1)
        assert any("no usable row changed" in one for one in reasons), reasons
    finally:
        manager.stop()
    assert not manager.is_running
    around["retraining_notification"]("iris", "failed", 1.0, error="the trainer is unwell")
    assert "iris retraining failed: the trainer is unwell" in capsys.readouterr().out
    observing = compat.RetrainingConfig("custom_model", min_data_size=200, enable_auto_retraining=False)
    compat.RetrainingManager(flowers.opened, {"custom_model": observing})
    assert tell.config(flowers.opened, "custom_model")["declaration"]["auto"] == "observe"
    compat.RetrainingManager(flowers.opened, {"custom_model": config})
    assert tell.config(flowers.opened, "custom_model")["declaration"]["auto"] == "train"
    with pytest.raises(NotFound, match="'plum' is not declared"):
        compat.start_retraining_monitoring({"plum": compat.RetrainingConfig("plum")}, flowers)


@pytest.fixture
def words_of_monitoring(flowers, monkeypatch):
    for name in ("src", "src.models", "src.models.retraining"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    here = sys.modules["src.models.retraining"]
    here.RetrainingConfig = compat.RetrainingConfig
    here.start_retraining_monitoring = lambda configs: compat.start_retraining_monitoring(configs, flowers)
    return {}


# --- document 003 -----------------------------------------------------------------------------------------------


def test_the_orchestrator_answers_as_printed(words_of, tmp_path, monkeypatch, capsys):
    """S3-07, S3-08, S3-09, S3-10: the same class that the example has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "trainset").mkdir(parents=True)
    random = np.random.default_rng(3)
    for path, middle in (("data/trainset/train.csv", 0.0), ("data/recent_data.csv", 2.0)):
        pd.DataFrame({"size": random.normal(middle, 1, 400), "age": random.random(400)}).to_csv(path, index=False)
    around = typed((3, 1), {})
    assert around["trigger"].triggered
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["Type", "Severity", "Confidence", "Reason"]
    assert said["Confidence"].endswith("%")
    around |= {"AutomaticRetrainingOrchestrator": compat.AutomaticRetrainingOrchestrator}
    strict = typed((3, 6), around)["orchestrator"].config
    assert (strict.p_value, strict.r2_drop, strict.min_rows) == (0.03, 0.03, 200)
    permissive = typed((3, 10), around)["orchestrator"].config
    assert (permissive.p_value, permissive.r2_drop, permissive.min_rows) == (0.10, 0.10, 100)


# --- document 004 -----------------------------------------------------------------------------------------------


@pytest.fixture
def shop(make, folder, monkeypatch):
    """Daily sales of two products, and one model that forecasts their sum; the loop of the service trains it."""
    monkeypatch.chdir(folder)
    project = make()
    sales = project.dataset("sales", key=["date", "product_id"], time="date")
    trainer, series = Custom("toys:Repeat"), Series(7, freq="D")
    project.model("demand", sales, target="sales", trainer=trainer, series=series, triggers=[on_data_change("0s")])
    first = date.today() - timedelta(days=40)  # noqa: DTZ011 - a day of the shop
    days = [first + timedelta(days=number) for number in range(40)]
    rows = [
        f"{day},{product},north,{level + day.weekday()}"
        for day in days
        for product, level in (("P001", 20), ("P002", 90))
    ]
    sales.ingest(csv_of(folder / "sales.csv", rows[:-10]))
    csv_of(folder / "test_upload.csv", rows[-10:])
    service = Service(project.opened)
    service.start_loop()
    yield SimpleNamespace(project=project, service=service, folder=folder)
    service.stopping.set()
    service.wait_for_loop(20)


def csv_of(path, rows):
    path.write_text("\n".join(["date,product_id,region,sales", *rows]) + "\n")
    return path


def test_the_upload_is_streamed_and_the_forecast_is_of_its_rows(shop):
    """S4-10, S4-11, S4-12, S4-19: both curl lines as printed; filters are answered by a model of these rows."""
    retrain, forecast = lines((4, 8), "curl")
    shapes = [json.loads(line.replace("{...}", "{}")) for line in PRINTED[4, 0].splitlines()]
    with TestClient(app.create(shop.service, routes.routers, [routes.STATIC]), "http://localhost:8000") as client:
        shop.project.trigger("demand")
        answered = curl(client, retrain)
        assert answered.headers["content-type"].startswith("text/event-stream")
        found = [one for _, name, one in parsed(answered.text) if name is None]
        assert found[0] == shapes[0], "Reading uploaded CSV..."
        assert {tuple(one) for one in found} == {("type", "data")}
        assert {one["type"] for one in found[:-1]} == {"progress"}
        assert (list(found[-1]), list(found[-1]["data"])) == (list(shapes[-1]), list(shapes[-1]["data"]))
        assert (found[-1]["type"], found[-1]["data"]["status"]) == ("result", "success")
        assert found[-1]["data"]["meta"].get("outcome") == "promoted", found

        own = curl(client, forecast).json()
        assert (own["days"], own["filters"], len(own["forecast"])) == (7, {"product_id": "P001"}, 7)
        assert (list(own["forecast"][0]), own["model"]["temporary"]) == (["date", "sales", "lower", "upper"], True)
        whole = client.post("/forecast", json={"days": 7}).json()
        assert whole["model"]["data_to"] == str(date.today() - timedelta(days=1)), "the upload is in it"  # noqa: DTZ011
        assert not whole["model"]["temporary"]
        assert sum(one["sales"] for one in whole["forecast"]) > 2 * sum(one["sales"] for one in own["forecast"])
        assert {"safety_stock", "reorder_point", "recommendation"} <= set(whole["inventory"])

        for body, status, said in [
            ({"days": 0}, 422, "days is 0; allowed: a whole number from 1 to 90"),
            ({"days": "soon"}, 422, "days"),
            ({"days": 7, "colour": "red"}, 422, "'colour' is no column of sales"),
            ({"days": 7, "region": {"north": 1}}, 422, "region"),
            ({"days": 7, "product_id": "P999"}, 422, "P999"),
        ]:
            wrong = client.post("/forecast", json=body)
            assert (wrong.status_code, said in wrong.json()["detail"]) == (status, True), wrong.text
        bad = client.post("/retrain", files={"file": ("bad.csv", b"date,product_id\n2026-01-01,P001\n", "text/csv")})
        assert parsed(bad.text)[-1][2]["type"] == "error"
        assert client.post("/retrain?model=plum", files={"file": ("a.csv", b"a\n1\n")}).status_code == 404

        page = client.get("/static/retrain.html")
        assert "Upload &amp; Retrain" in page.text
        assert 'accept=".csv"' in page.text
        for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
            assert client.get(asset).status_code == 200, asset
        assert "style=" not in page.text
        assert not re.search(r"<script>|\son\w+=", page.text), "the content security policy forbids both"


def test_several_forecasting_models_are_asked_for_by_name(shop):
    """S4-12: a clear error names the choices."""
    shop.project.model("other", "sales", target="sales", trainer=Custom("toys:Repeat"), series=Series(3, freq="D"))
    opened = shop.project.opened
    with TestClient(app.create(shop.service, routes.routers), "http://localhost:8000") as client:
        asked = client.post("/forecast", json={"days": 3})
        assert (asked.status_code, "demand, other" in asked.json()["detail"]) == (409, True)
        assert routes.forecast.model_of(opened, "other") == "other"


# --- all of them ------------------------------------------------------------------------------------------------

DIAGRAM = "a drawing"
SHELL = "looks around with other programs; `evertrain status`, `why`, `doctor` and `history` say it"
LISTED = {
    (0, 0): "test_fruitcast.py runs the functions of the example",
    (0, 1): "test_fruitcast.py runs the functions of the example",
    (0, 2): "messages: test_partitions.py",
    (1, 10): "refused, with what to use: a model is trained by its run",
    (1, 11): "refused, with what to use: a version is registered by its run",
    (1, 13): "the run tells the channels itself: test_notify.py",
    (2, 0): DIAGRAM,
    (2, 1): "watchfiles comes with the package in place of watchdog",
    (2, 17): "test_metrics.py reads these names from /metrics",
    (2, 19): "MLflow is not connected yet",
    (2, 20): SHELL, (2, 21): SHELL, (2, 22): SHELL, (2, 23): SHELL, (2, 24): SHELL, (2, 25): SHELL, (2, 26): SHELL,
    (2, 29): "the same commands as a test: test_the_commands_of_document_002_run_as_printed",
    (3, 0): "test_checking.py runs the scripts of the example",
    (3, 2): "test_retraining_events.py runs every question from the document itself",
    (3, 3): "test_retraining_events.py", (3, 4): "test_retraining_events.py", (3, 5): "test_retraining_events.py",
    (3, 7): "test_retraining_events.py", (3, 8): SHELL, (3, 9): DIAGRAM, (3, 11): SHELL, (3, 12): DIAGRAM,
    (4, 1): "React: examples/shop_forecast/frontend/RetrainModel.jsx",
    (4, 2): "a list of files", (4, 3): "a list of files", (4, 4): "a list of files: test_example_shop.py",
    (4, 5): "`pip install evertrain`", (4, 6): "`evertrain serve`", (4, 7): "test_example_shop.py runs test_integration.py",
    (4, 9): DIAGRAM, (4, 10): DIAGRAM,
}  # fmt: skip


@pytest.mark.shared
def test_every_printed_block_is_run_as_it_stands_or_listed_with_the_reason():
    folder = Path(__file__).parents[2] / "shared" / "seeds"
    if not folder.exists():
        pytest.skip("the documents are not next to the checkout")
    found = {}
    for number in range(5):
        text = (folder / f"00{number}.md").read_text("utf-8")
        blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
        found |= {(number, place): textwrap.dedent(code) for place, code in enumerate(blocks)}
    assert {key: found[key] for key in PRINTED} == PRINTED
    assert set(found) - set(PRINTED) == set(LISTED)
    curls = [key for key, code in found.items() if "curl" in code]
    assert set(curls) <= set(PRINTED)


# --- whatever is sent -------------------------------------------------------------------------------------------


def test_nothing_that_is_sent_to_the_documents_routes_makes_them_fail(shop, trained_cheaply):
    """P-55: schemathesis finds no 5xx behind the routes of the documents."""
    schemathesis = pytest.importorskip("schemathesis")
    calm = settings(max_examples=6, derandomize=True, phases=[Phase.explicit, Phase.generate], deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip
    guarded = app.create(shop.service, routes.routers)
    wrong: dict[str, str] = {}
    asked = set()
    found = schemathesis.openapi.from_asgi("/api/v1/openapi.json", guarded)
    for operation in [one for one in (each.ok() for each in found.get_all_operations()) if "compat" in str(one.tags)]:
        if operation.path.endswith(("/start", "/stop")):
            continue
        kinds = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

        @calm
        @given(case=st.one_of(kinds), real=st.booleans())
        def holds(case, real):
            if real:
                case.path_parameters |= dict.fromkeys(case.path_parameters, "demand")
            answer = case.call()
            asked.add((case.method, case.path))
            if answer.status_code >= 500:
                wrong[f"{case.method} {case.path}"] = f"{case.as_curl_command()[:400]} -> {answer.text[:200]}"

        with contextlib.suppress(Unsatisfiable):
            holds()
    assert not wrong, wrong
    assert len(asked) == 9


@pytest.fixture
def trained_cheaply(shop):
    shop.project.trigger("demand")
