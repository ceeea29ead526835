"""Two published data sets whose labels come late, as Evertrain would have met them: `python late_labels.py FOLDER`.

California: a model of dear and cheap districts serves for a year. Each month it answers, some of the labels of earlier
months come, and one check decides. Titanic: two files, and labels in a third, joined by id.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

# Boosting of a few thousand rows on several threads mostly waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from evertrain import Drift, Project, Settings, monthly, on_drift, should_retrain
from evertrain.clock import ManualClock
from evertrain.reports import Report

FILES = {
    "California": [f"california_housing_{part}.csv" for part in ("reference", "analysis", "analysis_gt")],
    "Titanic": [f"titanic_{part}.csv" for part in ("reference", "analysis", "target")],
}
DISTRICT = ["MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude"]
# `boat` and `body` are left out: who was in a lifeboat, and whose body was found, is the answer itself. So are ids.
PASSENGER = ["Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked"]
FIRST, SECOND = timedelta(days=30), timedelta(days=45)


# --- California -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Month:
    """One month of service, and the check at its end.

    Attributes:
        accuracy: of what was answered, and of what the first champion would have answered; by all labels, as only
            this script knows them. NaN in a month without answers.
        labelled: labels that came in this month, corrections among them.
        report: of the check at its end; None where no check is declared.
        version: of the champion that took over at the end of the month, or nothing.
        verdict: what the gate said of the training at the end of the month, or nothing.
    """

    month: str
    rows: int
    accuracy: float
    never: float
    labelled: int
    report: Report | None = None
    version: str = ""
    verdict: str = ""


def districts(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the first eight months, and those since with the labels that come late."""
    reference, analysis, labels = (pd.read_csv(data / name) for name in FILES["California"])
    both = [reference, analysis.merge(labels, on="id", validate="one_to_one")]
    first, since = (
        one[["id", "timestamp", *DISTRICT, "clf_target"]].assign(timestamp=pd.to_datetime(one.timestamp, utc=True))
        for one in both
    )
    return first, since


def letters(rows: pd.DataFrame, seed: int = 5) -> pd.DataFrame:
    """Return the labels as they come: id, clf_target, known.

    After 30 days 60 % of them, of which one in fifty is wrong; after 45 days another 20 %, and the corrections. The
    rest never comes.
    """
    rng = np.random.default_rng(seed)
    place, slip = rng.random(len(rows)), rng.random(len(rows)) < 0.02
    early, late = place < 0.6, (place >= 0.6) & (place < 0.8)
    own = rows[["id", "clf_target"]]
    wrong = own.assign(clf_target=own.clf_target.where(~slip, 1 - own.clf_target))
    parts = [
        wrong[early].assign(known=rows.timestamp[early] + FIRST),
        own[late].assign(known=rows.timestamp[late] + SECOND),
        own[early & slip].assign(known=rows.timestamp[early & slip] + SECOND),
    ]
    return pd.concat(parts).sort_values("known", ignore_index=True)


def replay(
    reference: pd.DataFrame, since: pd.DataFrame, root: Path, triggers: Sequence[Any], *, dated: bool
) -> list[Month]:
    """Return what happened month by month, on a clock that is moved by hand.

    Args:
        triggers: when to train.
        dated: whether the dataset says which column is the time: the hold-out is then the newest fifth of the rows,
            and else any fifth.
    """
    began = since.timestamp.min().floor("D")
    clock = ManualClock(wall=began.to_pydatetime())
    project = Project("california", root=root, executor="inline", clock=clock, settings=Settings(check_s=3600))
    rows = project.dataset("districts", key="id", time="timestamp" if dated else None)
    trainer = HistGradientBoostingClassifier(max_iter=100)
    project.model("dear", rows, target="clf_target", trainer=trainer, features=DISTRICT, triggers=triggers)
    rows.ingest(reference)
    project.refresh()
    never = project.predictor("dear").predict(since[DISTRICT])
    post, found, watched = letters(since), [], any(isinstance(one, Drift) for one in triggers)
    last = (post.known.max() + pd.offsets.MonthBegin()).floor("D")
    for start, end in _months(began, last):
        asked = since[(since.timestamp >= start) & (since.timestamp < end)]
        answers = project.predictor("dear").predict(asked[DISTRICT]) if len(asked) else np.empty(0)
        clock.advance(seconds=(end - start).total_seconds())
        if len(asked):
            project.observe(
                "dear", asked.drop(columns="clf_target"), predictions=answers, id="id", time="timestamp"
            )  # fmt: skip
        came = post[(post.known > start) & (post.known <= end)]
        if len(came):
            project.actuals("dear", came, time="known")
            newest = came.drop_duplicates("id", keep="last").drop(columns="known")
            rows.ingest(since.drop(columns="clf_target").merge(newest, on="id"))
        # What the loop will see a moment later; of its own check Python gets no report.
        report = project.check("dear") if watched else None
        before = len(project.history("dear", limit=100))
        project.refresh()
        runs = project.history("dear", limit=100)
        new = runs[: len(runs) - before]
        found.append(
            Month(
                f"{start:%Y-%m}", len(asked), _share(answers == asked.clf_target), _share(never[asked.index] == asked.clf_target),
                len(came), report, verdict=new[0]["verdict"] if new else "",
                version=new[0]["version"] if new and new[0]["outcomes"].get("promoted") else "",
            )
        )  # fmt: skip
    project.close()
    return found


def _months(began: Any, last: Any) -> list[tuple[Any, Any]]:
    edges = [*pd.date_range(began, last, freq="MS"), last]
    edges = list(dict.fromkeys([began, *edges]))
    return list(itertools.pairwise(edges))


def _share(right: Any) -> float:
    return float(np.mean(right)) if len(right) else float("nan")


# --- Titanic ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One question about the two files, and the answer of Python and of the command line."""

    question: str
    labels: int
    fired: bool
    severity: str
    confidence: int | None
    reason: str
    command: str


def passengers(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with `Survived`, and those whose `Survived` is in a file of its own, joined by id."""
    reference, analysis, target = (pd.read_csv(data / name) for name in FILES["Titanic"])
    return reference, analysis.merge(target, on="PassengerId", how="left", validate="one_to_one")


def titanic(data: Path, root: Path, only: Sequence[str] = ()) -> list[Asked]:
    """Return what is said of the later passengers: without labels, with half of them, with all of them, and more."""
    reference, recent = passengers(data)
    prepare = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["Sex", "Embarked"]),
        (SimpleImputer(), ["Pclass", "Age", "SibSp", "Parch", "Fare"]),
    )
    model = make_pipeline(prepare, RandomForestClassifier(200, min_samples_leaf=3, random_state=0))
    unseen = cross_val_predict(model, reference[PASSENGER], reference.Survived, cv=5)
    wrong = (unseen != reference.Survived).to_numpy(dtype=float)
    answers = model.fit(reference[PASSENGER], reference.Survived).predict(recent[PASSENGER])
    half = recent.Survived.where(recent.index < len(recent) // 2)
    women = recent.Sex == "female"
    with_id = ["PassengerId", *PASSENGER]
    questions: list[tuple[str, list[str], Any, pd.Series | None]] = [
        ("no labels yet", PASSENGER, slice(None), None),
        ("the first half of the labels", PASSENGER, slice(None), half),
        ("all labels", PASSENGER, slice(None), recent.Survived),
        ("all labels, the id left in", with_id, slice(None), recent.Survived),
        ("only the women arrive", PASSENGER, women.to_numpy(), recent.Survived),
    ]
    found = []
    for question, columns, kept, known in questions:
        if only and question not in only:
            continue
        rows, said = recent[columns][kept], answers[kept]
        labels = None if known is None else known[kept].to_numpy(dtype=float)
        decision = should_retrain(
            reference[columns], rows, None if labels is None else said, labels, ref_losses=wrong
        )  # fmt: skip
        command = _command(root, reference[columns], rows, said, labels, 1 - wrong.mean())
        found.append(
            Asked(
                question, 0 if labels is None else int(np.isfinite(labels).sum()), decision.triggered,
                str(decision.severity), decision.confidence, decision.reason, command,
            )
        )  # fmt: skip
    return found


def _command(root: Path, reference: pd.DataFrame, recent: pd.DataFrame, said: Any, labels: Any, accuracy: float) -> str:
    """Return severity and reason as `evertrain check` prints them of the same, given as files."""
    reference.to_csv(root / "reference.csv", index=False)
    recent.to_csv(root / "recent.csv", index=False)
    given = ["--reference-data", root / "reference.csv", "--recent-data", root / "recent.csv"]
    if labels is not None:
        np.save(root / "predictions.npy", said.astype(float))
        np.save(root / "actuals.npy", labels)
        given += ["--recent-predictions", root / "predictions.npy", "--recent-actuals", root / "actuals.npy"]
        given += ["--baseline", f"accuracy={accuracy:.4f}"]
    done = subprocess.run(
        [sys.executable, "-m", "evertrain", "check", *map(str, given)], capture_output=True, text=True, check=True
    )  # fmt: skip
    answer = json.loads(done.stdout)
    return f"{answer['severity']}, {'retrain' if answer['triggered'] else 'do not retrain'}: {answer['reason']}"


# --- showing it -------------------------------------------------------------------------------------------------

COLOURS = {"none": "#9aa1ab", "low": "#1a7f37", "medium": "#e0b000", "high": "#f07a1a", "critical": "#c8201c"}


def table(found: Sequence[Month], blind: Sequence[Month]) -> str:
    """Return the months as a Markdown table: the answers of the first champion, of the served one, of a blind one."""
    lines = [
        "| month | never trained | on drift | every month | labels | check at its end | trained |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    told: dict[str, str] = {}
    for one, other in zip(found, blind, strict=True):
        scores = ["-" if np.isnan(one.accuracy) else f"{x:.2f}" for x in (one.never, one.accuracy, other.accuracy)]
        done = (one.version or "refused") + f": {one.verdict}" if one.verdict else ""
        reason = one.report.decision.reason if one.report else ""
        first = told.setdefault(reason, one.month)
        said = f"{_severity(one).upper()}: {reason if first == one.month else f'as in {first}'}"
        lines.append(f"| {one.month} | {' | '.join(scores)} | {one.labelled} | {said} | {done} |")
    return "\n".join(lines)


def _severity(one: Month) -> str:
    return str(one.report.decision.severity) if one.report else "none"


def summary(found: Sequence[Month], blind: Sequence[Month]) -> str:
    """Return the year in one line: accuracy over all rows, and trainings."""
    rows = [one.rows for one in found]

    def mean(values: Sequence[float]) -> float:
        return float(np.average(np.nan_to_num(values), weights=rows))

    return (
        f"accuracy over {sum(rows):,} answers: never trained {mean([one.never for one in found]):.3f}; on drift"
        f" {mean([one.accuracy for one in found]):.3f} with {sum(bool(one.verdict) for one in found)} trainings;"
        f" every month {mean([one.accuracy for one in blind]):.3f} with {sum(bool(one.verdict) for one in blind)}"
    )


def timeline(each: dict[str, tuple[Sequence[Month], Sequence[Month]]], path: Path) -> None:
    """Draw the accuracy by month with and without training, and the severity of the check at the end of each."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(len(each), 1, figsize=(10, 0.6 + 3.2 * len(each)), layout="constrained", squeeze=False)
    for axes, (title, (found, blind)) in zip(grid[:, 0], each.items(), strict=True):
        served = [one for one in found if one.rows]
        places = np.arange(len(served))
        monthly_too = [one.accuracy for one in blind if one.rows]
        axes.plot(places, monthly_too, color="#9dbfee", lw=1.6, label="trained every month")
        axes.plot(places, [one.accuracy for one in served], color="#1f5fd0", lw=2.8, label="trained on drift")
        axes.plot(places, [one.never for one in served], color="#1c1e21", lw=1.2, ls=(0, (3, 2)), label="never trained")
        for place, one in enumerate(found):
            axes.plot(place + 0.5, 1.05, "o", ms=9, color=COLOURS[_severity(one)], clip_on=False)
            if one.verdict:
                axes.axvline(place + 0.5, ymax=0.9, color="#1c1e21", lw=1, ls=":")
                name = one.version or "refused"
                axes.annotate(name, (place + 0.53, 0.96), fontsize=8, color="#1c1e21")
        axes.set_title(title, loc="left", fontsize=10, weight="bold")
        axes.set_xticks(np.arange(len(found)), [one.month for one in found])
        axes.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0], ["20 %", "40 %", "60 %", "80 %", "100 %"])
        axes.set_ylim(0.2, 1.09)
        axes.set_xlim(-0.3, len(found) - 0.3)
        axes.grid(axis="y", color="#e3e4e6")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8, colors="#5a6068")
    lines = grid[0, 0].get_legend_handles_labels()[0]
    dots = [
        plt.Line2D([], [], marker="o", ls="", ms=8, color=colour, label="check: none" if name == "none" else name)
        for name, colour in COLOURS.items()
    ]
    figure.legend(handles=[*lines, *dots], frameon=False, fontsize=8.5, ncols=8, loc="outside lower center")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _there(data: Path, name: str) -> bool:
    missing = [one for one in FILES[name] if not (data / one).is_file()]
    if missing:
        print(f"{data / missing[0]} is not there; {name} is left out", file=sys.stderr)
    return not missing


HELD = {"any fifth of the rows": False, "the newest fifth": True}


def california(data: Path, root: Path, out: Path, keep: Path | None = None) -> None:
    """Replay the year for both ways to hold rows out, print the tables and draw the pictures."""
    reference, since = districts(data)
    each: dict[str, tuple[Sequence[Month], Sequence[Month]]] = {}
    for name, dated in HELD.items():
        own = []
        for rule, triggers in (("drift", [on_drift("28d")]), ("monthly", [monthly()])):
            folder = root / f"{name.split()[1]}_{rule}"
            folder.mkdir(parents=True)
            own.append(replay(reference, since, folder, triggers, dated=dated))
            for one in own[-1] if keep else []:
                if one.report:
                    one.report.save(folder / f"{one.month}.html")
        found, blind = own
        each[f"Accuracy by month, held out: {name}"] = found, blind
        print(
            f"\nCalifornia on a moved clock, held out: {name}\n\n{table(found, blind)}\n\n{summary(found, blind)}",
            flush=True,
        )
    reports = [one.report for found, _ in each.values() for one in found if one.report]
    worst = max(reports, key=lambda one: list(COLOURS).index(one.decision.severity))
    worst.plot().savefig(out / "late_labels_check.png", dpi=90)
    timeline(each, out / "late_labels_timeline.png")


def main() -> None:
    """Replay both, print what was decided and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the CSV files")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for the pictures")
    parser.add_argument("--keep", type=Path, help="an empty folder for the projects and a page of each check")
    arguments = parser.parse_args()
    there = [name for name in FILES if _there(arguments.data, name)]
    if not there:
        raise SystemExit(f"neither data set is in {arguments.data}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        root = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evertrain-late-")))
        root.mkdir(parents=True, exist_ok=True)
        if "California" in there:
            california(arguments.data, root, arguments.out, arguments.keep)
        if "Titanic" in there:
            print("\nTitanic\n\n| asked | labels | `should_retrain` | `evertrain check` |\n|---|---:|---|---|")
            for one in titanic(arguments.data, root):
                act = "retrain" if one.fired else "do not retrain"
                print(f"| {one.question} | {one.labels} | {one.severity}, {act}: {one.reason} | {one.command} |")


if __name__ == "__main__":
    main()
