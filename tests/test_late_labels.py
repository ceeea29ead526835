"""The example of late labels: what it shows happened, month by month, and it needs no downloaded data to run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evertrain import on_drift

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
EXAMPLE = ROOT / "examples" / "late_labels" / "late_labels.py"
there = pytest.mark.skipif(
    not (DATA / "california_housing_reference.csv").exists(), reason="the published files are not beside this checkout"
)


@pytest.fixture(scope="module")
def example():
    found = importlib.util.spec_from_file_location("late_labels", EXAMPLE)
    module = importlib.util.module_from_spec(found)
    sys.modules["late_labels"] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    yield module
    del sys.modules["late_labels"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with generated files of the published names and columns.

    Districts are dear where incomes are high; from the second month of service on, only where houses are new.
    """
    folder = tmp_path_factory.mktemp("stand_in")
    rng = np.random.default_rng(3)
    times = pd.date_range("2021-04-01", periods=4600, freq="h")
    rows = pd.DataFrame({
        "id": np.arange(len(times)), "MedInc": rng.gamma(4, 1, len(times)), "HouseAge": rng.uniform(1, 52, len(times)),
        "AveRooms": rng.normal(5, 1, len(times)), "AveBedrms": rng.normal(1, 0.1, len(times)),
        "Population": rng.gamma(2, 500, len(times)), "AveOccup": rng.normal(3, 0.5, len(times)),
        "Latitude": rng.uniform(33, 38, len(times)), "Longitude": rng.uniform(-122, -117, len(times)), "timestamp": times,
    })  # fmt: skip
    turned = times >= "2021-07-01"
    dear = np.where(turned, rows.HouseAge < 20, rows.MedInc > 4) ^ (rng.random(len(times)) < 0.1)
    rows["clf_target"] = dear.astype(int)
    known = rows.timestamp < "2021-06-01"
    rows[known].to_csv(folder / "california_housing_reference.csv", index=False)
    rows[~known].drop(columns="clf_target").to_csv(folder / "california_housing_analysis.csv", index=False)
    rows.loc[~known, ["id", "clf_target"]].to_csv(folder / "california_housing_analysis_gt.csv", index=False)

    count = 700
    sex = rng.choice(["male", "female"], count, p=[0.65, 0.35])
    lived = rng.random(count) < np.where(sex == "female", 0.8, 0.2)
    people = pd.DataFrame({
        "PassengerId": np.arange(1, count + 1), "Pclass": rng.integers(1, 4, count), "Name": "N", "Sex": sex,
        "Age": np.where(rng.random(count) < 0.2, np.nan, rng.uniform(1, 70, count)), "SibSp": rng.integers(0, 3, count),
        "Parch": rng.integers(0, 3, count), "Fare": rng.gamma(2, 15, count), "Embarked": rng.choice(["S", "C", "Q"], count),
        "Survived": lived.astype(int),
    })  # fmt: skip
    people[:400].to_csv(folder / "titanic_reference.csv", index=False)
    people[400:].drop(columns="Survived").to_csv(folder / "titanic_analysis.csv", index=False)
    people.loc[400:, ["PassengerId", "Survived"]].iloc[::-1].to_csv(folder / "titanic_target.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def months(example, stand_in, tmp_path_factory):
    reference, since = example.districts(stand_in)
    return example.replay(reference, since, tmp_path_factory.mktemp("replay"), [on_drift("28d")], dated=True)


def test_a_change_is_trained_away_as_soon_as_its_late_labels_are_there(months):
    by_month = {one.month: one for one in months}
    # June is as before, July is not; what July asked is labelled in August, and the check at its end trains.
    assert [one.month for one in months if one.version] == ["2021-08"]
    decision = by_month["2021-08"].report.decision
    assert decision.fired
    assert decision.found.changed_at[:7] == "2021-07"
    assert by_month["2021-07"].accuracy == by_month["2021-07"].never < 0.7
    assert by_month["2021-09"].accuracy > by_month["2021-09"].never + 0.15


def test_a_check_in_the_example_says_what_the_loop_then_does(months):
    assert [bool(one.verdict) for one in months] == [one.report.decision.fired for one in months]


def test_labels_come_late_in_two_parts_and_a_fifth_never(example, stand_in):
    _, since = example.districts(stand_in)
    post = example.letters(since).merge(since, on="id", suffixes=("", "_true"))
    delay = post.known - post.timestamp
    first, second = post[delay == example.FIRST], post[delay == example.SECOND]
    assert len(first) + len(second) == len(post)
    assert post.id.nunique() / len(since) == pytest.approx(0.8, abs=0.03)
    wrong = first[first.clf_target != first.clf_target_true]
    assert 0 < len(wrong) < 0.04 * len(first)
    assert (second.clf_target == second.clf_target_true).all()
    assert set(wrong.id) <= set(second.id)


def test_labels_of_a_third_file_are_joined_by_id_whatever_their_order(example, stand_in, tmp_path):
    _, recent = example.passengers(stand_in)
    target = pd.read_csv(stand_in / "titanic_target.csv").set_index("PassengerId").Survived
    assert recent.Survived.tolist() == [target[one] for one in recent.PassengerId]
    half, whole = example.titanic(stand_in, tmp_path, only=("the first half of the labels", "all labels"))
    assert (half.labels, whole.labels) == (150, 300)
    assert not whole.fired
    assert whole.command.startswith("none, do not retrain: nothing changed beyond chance")


def test_a_folder_without_the_files_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "california_housing_reference.csv is not there; California is left out" in done.stderr
    assert f"neither data set is in {tmp_path}" in done.stderr


@pytest.mark.shared
@there
def test_a_year_in_california_is_answered_better_with_trainings_on_drift_than_with_none(example, tmp_path):
    reference, since = example.districts(DATA)
    found = example.replay(reference, since, tmp_path, [on_drift("28d")], dated=False)
    assert sum(one.rows for one in found) == len(since) == 8232
    asked = np.array([one.rows for one in found])
    served, never = (np.nan_to_num([getattr(one, name) for one in found]) @ asked for name in ("accuracy", "never"))
    assert served > never
    assert 0 < sum(bool(one.verdict) for one in found) < len(found)
    assert [bool(one.verdict) for one in found] == [one.report.decision.fired for one in found]


@pytest.mark.shared
@there
def test_the_later_passengers_of_the_titanic_ask_for_no_training(example, tmp_path):
    asked = example.titanic(DATA, tmp_path, only=("no labels yet", "the first half of the labels", "all labels"))
    assert [one.labels for one in asked] == [0, 209, 418]
    assert not any(one.fired or " do not retrain" not in one.command for one in asked)
