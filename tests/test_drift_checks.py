"""Drift checks from end to end: news, a worker's measures, one decision on a model, and the training that follows."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from evertrain import max_age, on_drift, on_score_drop
from evertrain.control import drift, tell
from evertrain.errors import ConfigError, NoModelYet, StoreBusy

FEATURES = ["distance", "parcels"]


UNRULY = '''
import ast, os, signal, time
from pathlib import Path

import numpy as np


def table(frame):
    return np.c_[np.ones(len(frame)), frame[["distance", "parcels"]].to_numpy(float)]


class Unruly:
    """A linear model that harms its process when it is asked about the town in the file `harm`."""

    task, libraries = "regression", ("numpy",)

    def fit(self, frame, context):
        found = np.linalg.lstsq(table(frame), frame[context.target].to_numpy(float), rcond=None)[0]
        return [context.partition["town"], *found.tolist()]

    def save(self, fitted):
        return repr(fitted).encode()

    def load(self, data):
        return ast.literal_eval(data.decode())

    def predict(self, fitted, frame):
        town, harm = Path("harm").read_text().split() if Path("harm").exists() else ("", "")
        if town == fitted[0]:
            if harm == "raise":
                raise RuntimeError("no " * 1000)
            if harm == "nan":
                return np.full(len(frame), np.nan)
            if harm == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if harm == "hog":
                kept = np.ones(100_000_000)
            time.sleep(30)
        return table(frame) @ np.array(fitted[1:])
'''


class World:
    """Deliveries of one or more towns: 60 a day each, whose minutes follow distance and parcels."""

    def __init__(self, project, towns=("Pilar",), **model):
        self.project, self.towns, self.rng, self.count = project, towns, np.random.default_rng(5), 0
        self.clock = project.opened.store.clock if project.spec.sources else project._clock
        self.rows = project.dataset("deliveries", key="id", time="at")
        options = {"triggers": [on_drift("24h")], "features": FEATURES, "min_samples": 100, **model}
        options = {"trainer": "sklearn.linear_model:LinearRegression", **options}
        project.model("minutes", self.rows, target="minutes", **options)

    def day(self, *, far=0.0, slow=(), each=60):
        """One day's deliveries: `far` is added to distances, in `slow` towns a kilometre takes half as long again."""
        frames = []
        for town in self.towns:
            frame = pd.DataFrame(
                {
                    "id": np.arange(self.count, self.count + each),
                    "at": [self.clock.now() + timedelta(minutes=10 * i) for i in range(each)],
                    "town": town,
                    "distance": self.rng.gamma(4, 2, each) + far,
                    "parcels": self.rng.integers(1, 30, each),
                }
            )
            self.count += each
            pace = 4.5 if town in slow else 3.0
            frame["minutes"] = 5 + pace * frame.distance + 2 * frame.parcels + self.rng.normal(0, 3, each)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def begin(self, days=12):
        for _ in range(days):
            self.rows.ingest(self.day())
            self.clock.advance(days=1)
        self.project.refresh()
        return self

    def live(self, days=1, *, logged=True, keep=True, **change):
        """Let days pass: the champion answers, its answers are logged, actuals come a day later, rows are kept."""
        for _ in range(days):
            frame = self.day(**change)
            if logged:
                self.log(frame)
            self.clock.advance(days=1)
            if logged:
                self.tell(frame)
            if keep:
                self.rows.ingest(frame)
            self.project.refresh()

    def log(self, frame):
        answered = frame.assign(prediction=self.project.predictor("minutes").predict(frame)).drop(columns="minutes")
        self.project.observe("minutes", answered, id="id", time="at")

    def tell(self, frame):
        self.project.actuals("minutes", frame[["id", "minutes"]])

    def why(self, key=None):
        return tell.why(self.project.opened, "minutes", key)

    def decision(self):
        return next(one for one in self.why()["decisions"] if one["rule"] == "drift")

    def runs(self):
        return [one["cause"] for one in reversed(self.project.history("minutes"))]


@pytest.fixture
def world(make, clock):
    def build(*args, executor="inline", **options):
        return World(make(executor=executor, clock=clock), *args, **options)

    return build


def test_a_harmless_shift_is_named_and_not_acted_on(world):
    """S3-01, S3-06: the inputs moved, the model is as right as before: one signal, and monitoring is what it asks for."""
    found = world().begin()
    found.live(8, far=2.0)
    told = found.why()["drift"]
    assert (told["triggered"], told["drift_type"]) == (False, "data_drift")
    assert "distance" in told["reason"]
    assert told["severity"] in ("low", "medium")
    assert found.runs() == ["declaration"]


@pytest.mark.parametrize("executor", ["inline", pytest.param("children", marks=pytest.mark.slow)])
def test_a_harmful_change_is_trained_for_on_the_rows_since_it_began(world, executor):
    """S3-03, S3-06: errors rise, so the model is trained again; the new one knows the new pace, the old rows do not count."""
    found = world(executor=executor).begin()
    found.live(3)
    found.live(4, slow=["Pilar"])
    assert found.runs() == ["declaration", "drift"]
    near, far = found.project.predictor("minutes").predict([{"distance": x, "parcels": 9} for x in (9.0, 10.0)])
    assert far - near == pytest.approx(4.5, abs=0.3)
    assert found.why()["partition"]["version"] == "1.1.0"


def test_what_was_dropped_after_a_change_does_not_come_back_by_itself(world):
    """A training by hand after one for drift would else mix both paces, and be promoted without having been compared."""
    found = world().begin()
    found.live(3)
    found.live(4, slow=["Pilar"])
    assert found.runs() == ["declaration", "drift"]
    found.project.trigger("minutes", force=True)
    near, far = found.project.predictor("minutes").predict([{"distance": x, "parcels": 9} for x in (9.0, 10.0)])
    assert far - near == pytest.approx(4.5, abs=0.3)


def test_a_retraining_waits_for_rows_since_the_change(world):
    """One day of the new pace is known to hurt, and too little to learn from: trained now, the model would be as bad."""
    found = world(min_samples=150).begin()
    found.live(2)
    found.live(1, slow=["Pilar"])
    told = found.why()["drift"]
    assert (told["code"], told["severity"], found.runs()) == ("few_since", "critical", ["declaration"])
    assert "retraining waits for 150" in told["reason"]
    found.live(2, slow=["Pilar"])
    assert found.runs() == ["declaration", "drift"]


def test_rows_of_the_source_are_evidence_where_nothing_is_logged(world):
    found = world().begin()
    found.live(3, logged=False)
    assert found.why()["drift"]["evidence"]["labelled_rows"] == 180
    found.live(3, slow=["Pilar"], logged=False)
    assert found.runs() == ["declaration", "drift"]


def test_only_the_drifted_partition_and_its_rollups_are_trained(world):
    found = world(towns=("Balanga", "Orani", "Pilar"), partition_by="town").begin()
    found.live(2)
    found.live(4, slow=["Orani"])
    with found.project.opened.store.read() as tx:
        rows = tx.rows("SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id WHERE i.cause = 'drift'")
    assert {row.key for row in rows} == {'{"town":"Orani"}', "{}"}
    decision = found.why('{"town":"Balanga"}')["drift"]
    assert decision["triggered"] is False


def test_a_rollup_is_measured_on_the_rows_of_its_dataset_beside_logged_partitions(world):
    """Nobody logs predictions of a rollup: its rows are those of the source, and they lie in many places of it."""
    found = world(towns=("Balanga", "Pilar"), partition_by="town").begin()
    found.live(3)
    assert found.why()["drift"]["code"] == "steady"
    assert found.why("{}")["drift"]["evidence"]["labelled_rows"] == 360
    assert found.decision()["evidence"]["checked"] == 3


@pytest.mark.parametrize("harm", ["raise", "nan", "kill", "hog", "sleep"])
def test_a_model_that_cannot_answer_is_left_unmeasured_and_its_neighbours_are_not(make, clock, folder, harm):
    """Whatever a trainer does on one of many partitions: the others are measured, and the sentence says what is the matter."""
    (folder / "unruly.py").write_text(UNRULY)
    towns = ("Balanga", "Orani", "Pilar")
    limits = {"deadline": "8s"} if harm == "sleep" else {"memory_mb": 500} if harm == "hog" else {}
    found = World(
        make(executor="children", clock=clock),
        towns,
        partition_by="town",
        rollups=[],
        trainer="unruly:Unruly",
        **limits,
    )
    found.begin()
    (folder / "harm").write_text(f"Orani {harm}")
    found.live(1, logged=False, each=120)
    told = found.decision()
    assert (told["code"], told["evidence"]["severity"]["none"], told["evidence"]["severity"]["high"]) == (
        "failed",
        2,
        1,
    )
    assert told["reason"].startswith(
        "2 partitions checked, 1 could not be; none asks for training; most noticeable Orani"
    )
    assert len(told["reason"]) < 500
    assert found.why('{"town":"Pilar"}')["drift"]["evidence"]["labelled_rows"] == 120


def test_a_log_of_predictions_that_another_process_holds_is_waited_for_once_a_round(world, monkeypatch):
    """It is the loop that waits, and so does everything else: seconds for each of thousands of partitions are hours."""
    found = world(towns=("Balanga", "Orani", "Pilar"), partition_by="town", rollups=[]).begin()
    tries = []

    def busy(*_given, **_named):
        tries.append(1)
        raise StoreBusy("observations.db")

    monkeypatch.setattr(drift, "_copy", busy)
    found.live(1)
    assert len(tries) == 1
    assert found.decision()["code"] == "unread"
    assert "3 partitions could not be checked" in found.decision()["reason"]
    assert found.decision()["evidence"]["mark"] == 0


def test_what_was_promoted_while_a_round_went_on_is_not_decided_on(world, monkeypatch):
    """A champion that is no more is nobody's reason to train."""
    found = world().begin()
    opened, measured = found.project.opened, drift.proceed

    def proceed(*given):
        if given[-1].found:
            with opened.store.write() as tx:
                tx.run("UPDATE partitions SET champion_id = NULL")
        return measured(*given)

    monkeypatch.setattr(drift, "proceed", proceed)
    found.live(3, slow=["Pilar"], logged=False)
    assert found.runs() == ["declaration"]
    assert found.decision()["code"] == "nothing_new"


def test_a_check_is_done_once_in_its_time_also_by_another_process(world, clock):
    found = world().begin()
    found.live(1)
    before = found.decision()
    found.log(found.day())
    clock.advance(hours=23)
    found.project.refresh()
    assert found.decision()["times"] == before["times"]
    clock.advance(hours=1)
    found.project.refresh()
    assert found.decision() != before


def test_what_was_refused_waits_for_new_rows(world):
    """Observations tell of harm, but no new row can teach: one try, and not another every day."""
    found = world(min_samples=50).begin()
    found.live(1)
    found.live(3, slow=["Pilar"], keep=False)
    runs = found.runs()
    assert runs.count("drift") == 1
    assert found.why()["drift"]["code"] == "no_news"
    assert "waits for new rows" in found.why()["drift"]["reason"]


def test_observing_records_what_would_have_been_trained(world):
    found = world(auto="observe")
    for _ in range(12):
        found.rows.ingest(found.day())
        found.clock.advance(days=1)
    found.project.trigger("minutes")
    found.live(4, slow=["Pilar"])
    assert found.decision()["action"] == "observe"
    assert found.runs() == ["manual"]


def test_actuals_that_come_fast_are_not_judged_before_the_others(world):
    """Labels that come fast are no random choice: here only late deliveries are told the same day."""
    found = world(triggers=[on_drift("24h", label_delay="48h")]).begin()
    found.live(2)
    frame = found.day(slow=["Pilar"])
    found.log(frame)
    late = frame[frame.minutes > frame.minutes.median()]
    found.tell(late)
    found.clock.advance(days=1)
    found.project.refresh()
    assert found.why()["drift"]["evidence"]["labelled_rows"] == 60  # of the day before yesterday, and no other
    assert found.runs() == ["declaration"]


def test_a_champion_from_before_drift_was_watched_says_so(world, make, clock):
    found = world(triggers=[max_age("365d")]).begin()
    project = found.project
    project._spec = project._spec.__class__(
        **{
            **{name: getattr(project._spec, name) for name in project._spec.__dataclass_fields__},
            "models": {"minutes": project._spec.models["minutes"].__class__(
                **{
                    **{n: getattr(project._spec.models["minutes"], n) for n in project._spec.models["minutes"].__dataclass_fields__},
                    "triggers": (on_drift("24h"),),
                }
            )},
        }
    )  # fmt: skip
    found.live(1)
    assert "trained before drift was watched" in found.why()["drift"]["reason"]
    assert found.runs() == ["declaration"]


def test_a_person_can_check_at_once_and_nothing_is_trained(world):
    found = world().begin()
    found.log(frame := found.day(slow=["Pilar"], each=140))
    found.tell(frame)
    found.clock.advance(days=2)
    report = found.project.check("minutes")
    assert report.decision.fired
    assert "<svg" in report.to_html()
    assert found.runs() == ["declaration"]


def test_a_model_that_does_not_watch_drift_is_not_checked(world):
    unwatched = world(triggers=[max_age("30d")])
    with pytest.raises(ConfigError, match="on_drift"):
        unwatched.project.check("minutes")


def test_a_partition_without_a_model_cannot_be_checked(world):
    found = world(towns=("Pilar",), partition_by="town").begin()
    with pytest.raises(NoModelYet, match="Morong"):
        found.project.check("minutes", {"town": "Morong"})


def test_what_if_decides_stored_checks_anew(world):
    found = world().begin()
    found.live(6, far=2.0)
    assert found.project.what_if("minutes").fired_now == 0
    assert found.project.what_if("minutes", severity="low").fired_then > 0
    assert found.runs() == ["declaration"]


def test_live_accuracy_is_what_was_logged_against_the_promotion(world):
    """S1-14, S2-09: recent predictions and their actuals give the drop; 15 % of the score at promotion asks for training."""
    found = world(triggers=[on_score_drop("15%")]).begin()
    found.live(2, keep=False)
    steady = next(one for one in found.why()["decisions"] if one["rule"] == "score_drop")
    assert (steady["fired"], steady["code"]) == (False, "steady")
    found.live(3, slow=["Pilar"])
    assert "score_drop" in found.runs()
    with found.project.opened.store.read() as tx:
        said = tx.value("SELECT reason FROM decisions WHERE rule = 'score_drop' AND fired = 1")
    assert said.startswith("r2 fell from 0.9")


def test_labels_of_text_are_watched_like_numbers(make, clock):
    project = make(executor="inline", clock=clock)
    rows = project.dataset("mails", key="id", time="at")
    project.model(
        "spam", rows, target="kind", trainer="sklearn.linear_model:LogisticRegression", features=["words", "links"],
        triggers=[on_drift("24h")],
    )  # fmt: skip
    rng = np.random.default_rng(3)

    def mails(first, turned):
        frame = pd.DataFrame(
            {"id": np.arange(first, first + 200), "words": rng.normal(0, 1, 200), "links": rng.normal(0, 1, 200)}
        )
        frame["at"] = [clock.now() + timedelta(minutes=i) for i in range(200)]
        frame["kind"] = np.where((frame.words + 0.3 * rng.normal(0, 1, 200) > 0) ^ turned, "spam", "ham")
        return frame

    for number in range(4):
        rows.ingest(mails(number * 200, turned=False))
        clock.advance(days=1)
    project.refresh()
    for number in range(4, 6):
        rows.ingest(mails(number * 200, turned=True))
        clock.advance(days=1)
        project.refresh()
    assert [one["cause"] for one in project.history("spam")] == ["drift", "declaration"]
    assert project.predictor("spam").predict([{"words": 3.0, "links": 0.0}]).tolist() == ["ham"]


def test_neither_the_loop_nor_the_command_line_imports_scipy():
    code = (
        "import sys, evertrain.loop, evertrain.control.drift, evertrain.cli.commands, evertrain.reports, evertrain.replay;"
        "print([one for one in ('scipy', 'sklearn', 'pandas', 'matplotlib') if one in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


def test_a_damaged_log_of_predictions_stops_nothing_else(world, folder):
    """What cannot be read is told with the decision; rows of the source still count, and the loop goes on."""
    found = world(triggers=[on_drift("24h"), on_score_drop("5%")]).begin()
    found.live(1)
    found.project.opened.observations().close()
    (folder / "observations.db").write_bytes(b"not a database, not at all" * 400)
    found.live(3, slow=["Pilar"], logged=False)
    assert "cannot be read" in found.decision()["reason"]
    assert len(found.runs()) > 1


def test_columns_together_are_compared_where_that_is_asked_for(world):
    """Each column keeps its distribution and only their relation turns, which no column alone can show."""
    found = world(triggers=[on_drift("24h", joint=("pca", "classifier"), severity="critical")])
    for number in range(10):
        frame = found.day(each=140)
        frame["parcels"] = frame.distance * 2 + found.rng.normal(0, 1, len(frame))
        found.rows.ingest(frame)
        found.clock.advance(days=1)
        if number == 7:
            found.project.refresh()
    last = found.day(each=140)
    last["parcels"] = found.rng.permutation(last.distance * 2 + found.rng.normal(0, 1, len(last)))
    found.rows.ingest(last)
    found.clock.advance(days=2)
    found.project.refresh()
    kinds = {one["kind"]: one["p"] for one in found.why()["drift"]["evidence"]["signals"]}
    assert kinds["pca"] is not None
    assert kinds["classifier"] is not None
