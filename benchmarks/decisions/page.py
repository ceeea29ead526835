"""The page of results and its picture; every number in it comes from one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np

from benchmarks.decisions import environments, measures, worlds
from benchmarks.decisions.measures import Share
from benchmarks.decisions.runs import Detector, Name, Runs
from benchmarks.measure import machine
from evertrain import __version__

PAGE = environments.ROOT / "docs" / "benchmarks-decisions.md"
PICTURE = PAGE.with_suffix(".svg")
WORDS = {
    "ours": "Evertrain",
    "evidently": "Evidently",
    "nannyml": "NannyML",
    "river": "river",
    "scipy": "loop over SciPy",
}
OF_MANY = ", one look of 30"
FIRST = "normal, 10 columns"
Rows = list[list[str]]


def written(
    runs: Runs, fast: list[tuple[str, str, Any]], size: Any, seconds: float, day: date
) -> tuple[str, Callable[[], None]]:
    """Return the page, and what draws its picture."""
    targets: Rows = []
    parts = [
        section(runs, targets)
        for world, section in (
            (FIRST, _months),
            ("nothing", _pairs),
            ("nothing, 0.0", _losses),
            ("harm", _harm),
            ("scenarios", _chances),
        )
        if world in runs.found
    ]
    if fast:
        parts.append(_speed(fast, targets))
    versions = ", ".join(f"{WORDS[one]} {environments.version(one)}" for one in environments.COMPETITORS)
    lines = [
        "# How good its decisions are", "",
        (f"Evertrain {__version__} beside {versions}, each in an environment of its own, in one run of"
        f" {seconds / 60:.0f} minutes: {machine()}, {day.isoformat()}, load {os.getloadavg()[1]:.1f}."),
        ("`make bench-decisions` measures it again and writes this page: with 300 streams, or `STREAMS=60`; `QUICK=1` shows a"
        " small one in about two minutes."), "",
        "All look at the same bytes of made-up worlds in which the truth is known.",
        "*As it comes* is a tool's own default.",
        (f"*Knob turned* is the most sensitive value of one knob that alarms in at most 5 % of {size.turn} streams in which nothing"
        f" changes (B1 but for its first world: {size.dear}), judged on others; Evertrain has no knob turned."),
        ("Evidently's knob is the bound on a column's score, NannyML's the number of standard deviations, river's each detector's"
        " main parameter."),
        "In brackets: Wilson's 95 % interval.",
        "The constants of Evertrain's confidence, and of its scan of losses with two values, were set on other draws of such worlds.", "",
        *_agreement(runs),
        *_kept(runs), "",
        "## Targets", "", *_table(["", "what", "target", "Evertrain", ""], targets), "",
        f"![the same as pictures]({PICTURE.name})", "",
    ]  # fmt: skip
    for part in parts:
        lines += part
    if runs.problems:
        lines += ["## Could not be run", "", *(f"- {one}: {why}" for one, why in runs.problems.items()), ""]
    return "\n".join(lines).rstrip() + "\n", lambda: _draw(runs, fast)


def _agreement(runs: Runs) -> list[str]:
    if not runs.agreed:
        return []
    same = sum(runs.agreed)
    return [
        (
            f"Evidently's verdicts are taken from the functions that its report calls; on {len(runs.agreed)} streams the report was"
            f" made, too, and said the same in {same}."
        )
    ]


def _kept(runs: Runs) -> list[str]:
    if not runs.kept:
        return []
    return [
        (
            f"Of the others' findings in {runs.kept + runs.looked} worlds, {runs.kept} are of an earlier run on the same bytes, with the"
            " same version and script; Evertrain and all speeds were measured in this one."
        )
    ]


def _table(head: list[str], rows: Rows) -> list[str]:
    return [
        f"| {' | '.join(head)} |", f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]  # fmt: skip


def _target(targets: Rows, section: str, what: str, target: str, value: str, met: bool, unsure: bool = False) -> None:
    targets.append(
        [section, what, target, value, "met" if met else "missed, within the error" if unsure else "**missed**"]
    )


def _called(name: Name) -> str:
    return f"{WORDS[name[0]]}: {name[1]}"


def _bound(runs: Runs, world: str, name: Name) -> float | None:
    """Return the knob turned on a world's streams; None without any."""
    detector = runs.found.get(world, {}).get(name)
    streams = runs.turning(world) if world in runs.truth else []
    return detector.knob(streams) if detector and streams and name[0] != "ours" else None


def _share(runs: Runs, world: str, name: Name, bound: float | None = None) -> Share:
    detector = runs.found.get(world, {}).get(name)
    if detector is None:
        return Share(0, 0)
    hits = detector.alarmed([one for one in runs.judging(world) if one in detector.lines], bound)
    return Share(int(hits.sum()), len(hits))


# --- B1 ---------------------------------------------------------------------------------------------------------


def _months(runs: Runs, targets: Rows) -> list[str]:
    made = [world for world in runs.found if world in runs.truth and runs.truth[world]["names"][0] in _STILL]
    names = list(runs.found[FIRST])
    rows: Rows = []
    for name in sorted(names, key=_order):
        rows.append([f"{_called(name)}, as it comes" if name[0] != "ours" else f"**{_called(name)}**"])
        rows[-1] += [str(_share(runs, world, name)) for world in made]
        if name[0] == "ours":
            continue
        here = [f"{_called(name)}, knob turned on this world"]
        first = [f"{_called(name)}, knob turned on the first"]
        for world in made:
            bound, usual = _bound(runs, world, name), _bound(runs, FIRST, name)
            here.append("-" if bound is None else str(_share(runs, world, name, bound)))
            first.append(
                "-" if usual is None or name not in runs.found[world] else str(_share(runs, world, name, usual))
            )
        rows += [here, first]
    for world in made:
        limit = 0.08 if world[:4] in ("each", "hour") else 0.05
        value = _share(runs, world, ("ours", "names something"))
        _target(
            targets,
            "B1",
            f"months with any alarm: {world}",
            f"at most {limit:.0%}",
            str(value),
            value.value <= limit,
            value.interval[0] <= limit,
        )
    return [
        "## B1: months in which nothing changes", "",
        ("Share of months with at least one alarm: 2,000 reference rows, then 30 days of 80 new rows (24 where they are hourly),"
        " a look at the newest 500 rows each day. One error in ten answers, never more."),
        "NannyML looks at each row once, in chunks of a tenth of the reference, its default; river at the errors alone.", "",
        *_table(["", *made], rows), "",
    ]  # fmt: skip


_STILL = ("normal", "ar", "season", "season 80", "mixed")
_PLACES = {"ours": 0, "evidently": 1, "nannyml": 2, "river": 3}


def _order(name: Name) -> tuple[int, str]:
    return _PLACES[name[0]], name[1]


# --- B2 ---------------------------------------------------------------------------------------------------------


def _pairs(runs: Runs, targets: Rows) -> list[str]:
    names: list[tuple[str, Name, bool]] = [
        ("Evertrain, one look by itself", ("ours", "names something"), False),
        ("Evertrain, one look of 30 in a month", ("ours", "names something" + OF_MANY), False),
        ("Evidently, as it comes", ("evidently", "any column"), False),
        ("Evidently, knob turned", ("evidently", "any column"), True),
        ("Evidently, dataset drift", ("evidently", "dataset drift"), False),
        ("NannyML, as it comes", ("nannyml", "any column"), False),
        ("NannyML, knob turned", ("nannyml", "any column"), True),
    ]
    rows: Rows = []
    for world in ["nothing", *worlds.CHANGES]:
        rows.append([world])
        for _, name, turned in names:
            bound = _bound(runs, "nothing", name) if turned else None
            rows[-1].append("-" if turned and bound is None else str(_share(runs, world, name, bound)))
    power = _share(runs, "shift 0.3", ("ours", "names something"))
    _target(
        targets,
        "B2",
        "a shift of .3 sigma in one of 50 columns, 1,000 rows each, at 5 % a check",
        "at least 95 %",
        str(power),
        power.value >= 0.95,
        power.interval[1] >= 0.95,
    )
    return [
        "## B2: what one look finds", "",
        "Share of looks that alarm: 1,000 recent beside 1,000 reference rows of 50 columns, of which one changed.",
        ("Sizes are standard deviations, factors and shares of rows; *correlation broken* leaves every single column as it was,"
        " and looking at columns together is off by default in Evertrain (`joint`), Evidently and NannyML."), "",
        *_table(["what changed", *(title for title, *_ in names)], rows), "",
    ]  # fmt: skip


# --- B3 ---------------------------------------------------------------------------------------------------------


def _delays(runs: Runs, world: str, name: Name, bound: float | None) -> np.ndarray:
    """Return the rows from the change to the alarm, 3,000 where there is none; streams with an alarm before are out."""
    detector = runs.found[world][name]
    firsts = [
        min(detector.alarms(one, bound), default=worlds.LIVE + 1)
        for one in runs.judging(world)
        if one in detector.lines
    ]
    return np.minimum([one - worlds.STILL for one in firsts if one > worlds.STILL], worlds.LIVE - worlds.STILL)


def _delay(runs: Runs, world: str, name: Name, bound: float | None) -> str:
    found = _delays(runs, world, name, bound)
    if not len(found):
        return "-"
    missed = (found >= worlds.LIVE - worlds.STILL).mean()
    error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
    return f"{found.mean():.0f} ± {1.96 * error:.0f}" + (f", {missed:.0%} missed" if missed else "")


def _losses(runs: Runs, targets: Rows) -> list[str]:
    changes = [(change, 0.0) for change in worlds.JUMPS] + [(".20 to .30", 0.3), (".20 to .40", 0.3)]
    rows: Rows = []
    for name in sorted(runs.found["nothing, 0.0"], key=_order):
        for turned in (False, True) if name[0] != "ours" else (False,):
            bounds = {keep: _bound(runs, f"nothing, {keep}", name) if turned else None for keep in (0.0, 0.3)}
            rows.append(
                [
                    f"**{_called(name)}**"
                    if name[0] == "ours"
                    else f"{_called(name)}, {'knob turned' if turned else 'as it comes'}"
                ]
            )
            for keep in (0.0, 0.3):
                rows[-1].append(str(_share(runs, f"nothing, {keep}", name, bounds[keep])))
                rows[-1] += [_delay(runs, f"{change}, {k}", name, bounds[k]) for change, k in changes if k == keep]
    ours = ("ours", "names something")
    for keep, limit in ((0.0, 300), (0.3, 600)):
        delay = _delays(runs, f".20 to .30, {keep}", ours, None).mean()
        alarms = _share(runs, f"nothing, {keep}", ours)
        met = bool(delay <= limit) and alarms.interval[0] <= 0.05
        what = "errors rise from .20 to .30" + (", each like the one before with chance .3" if keep else "")
        _target(targets, "B3", what, f"at most {limit} rows, 5 % false alarms", f"{delay:.0f} rows, {alarms}", met)
    head = ["", "false alarms", *(change for change, keep in changes if not keep)]
    head += ["false alarms, dependent", *(f"{change}, dependent" for change, keep in changes if keep)]
    return [
        "## B3: how soon a rise of errors is seen", "",
        ("1,000 reference errors at a share of .20, then 5,000 more; a look every 50 (Evidently: at the newest 500, NannyML: each"
        " 100 once, river: every row)."),
        "False alarms: share of streams with any among the 5,000 while nothing changes.",
        "Delay: mean rows from the change, at the 2,000th, to the first alarm, with its 95 % interval; a miss counts 3,000.",
        "*Dependent*: each error repeats the one before with chance .3; a turned knob is turned for it anew.", "",
        *_table(head, rows), "",
    ]  # fmt: skip


# --- B4 ---------------------------------------------------------------------------------------------------------


def _harm(runs: Runs, targets: Rows) -> list[str]:
    truth, names = runs.truth["harm"]["truth"], runs.truth["harm"]["names"]
    rows: Rows = []
    for name in sorted(runs.found["harm"], key=_order):
        if name[1].endswith(OF_MANY):
            continue
        detector = runs.found["harm"][name]
        alarm, score = (
            detector.alarmed(detector.streams, None),
            np.array([detector.score(one) for one in detector.streams]),
        )
        if len(alarm) != len(truth):
            continue
        right = Share(int(truth[alarm].sum()), int(alarm.sum()))
        seen = Share(int(truth[alarm].sum()), int(truth.sum()))
        best = measures.at_recall(score, truth)
        low, high = measures.clustered({one: (score[names == one], truth[names == one]) for one in np.unique(names)}, 1)
        rows.append(
            [
                _called(name),
                str(right),
                str(seen),
                f"{measures.matthews(alarm.astype(float), truth):.2f}",
                f"{best:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
        if name == ("ours", "retrains"):
            rows[-1][0] = f"**{rows[-1][0]}**"
            _target(
                targets,
                "B4",
                "precision for harm at a recall of .8",
                "at least .85",
                f"{best:.2f} ({low:.2f} to {high:.2f})",
                best >= 0.85,
            )
    kinds: Rows = []
    shown = [("ours", "names something"), ("ours", "retrains"), ("evidently", "any column"), ("nannyml", "any column"),
             ("nannyml", "accuracy"), ("nannyml", "estimated accuracy"), ("river", "ADWIN")]  # fmt: skip
    shown = [name for name in shown if name in runs.found["harm"]]
    for kind in worlds.ARCHETYPES:
        places = np.flatnonzero(names == kind)
        rise = runs.truth["harm"]["rise"][places]
        kinds.append([kind, f"{rise.mean():+.0%}", f"{truth[places].mean():.0%}"])
        kinds[-1] += [f"{runs.found['harm'][name].alarmed(list(places), None).mean():.0%}" for name in shown]
    return [
        "## B4: does an alarm mean harm?", "",
        f"{len(truth)} checks of a trained model, twelve kinds of change; 1,000 reference and 500 recent rows with labels.",
        (f"Harm is measured: on 20,000 fresh rows the error rate is at least 15 % above the usual one; so it is in"
        f" {truth.mean():.0%} of the checks."),
        ("The last column moves each detector's bound, Evertrain's is on its confidence, until it finds 80 % of the harm; its"
        " interval draws whole kinds of change anew."), "",
        *_table(["", "alarms that are harm", "harm that is found", "Matthews", "precision at recall .8"], rows), "",
        *_table(["share of alarms", "errors", "harmful", *(_called(name) for name in shown)], kinds), "",
    ]  # fmt: skip


# --- B8 ---------------------------------------------------------------------------------------------------------


def _chances(runs: Runs, targets: Rows) -> list[str]:
    detector = runs.found["scenarios"][("ours", "retrains")]
    truth, names = runs.truth["scenarios"]["truth"], runs.truth["scenarios"]["names"]
    sure = np.array([detector.lines[one][0]["score"][0] for one in detector.streams])
    alarm = detector.alarmed(detector.streams, None)
    named = runs.found["scenarios"][("ours", "names something")]
    kinds = np.array([named.lines[one][0]["severity"][0] for one in named.streams])
    brier, error = measures.brier(sure, truth), measures.calibration_error(sure, truth)
    levels = ("none", "low", "medium", "high", "critical")
    _target(targets, "B8", "Brier score of the confidence", "at most .03", f"{brier:.3f}", brier <= 0.03)
    _target(targets, "B8", "expected calibration error", "at most .05", f"{error:.3f}", error <= 0.05)
    quiet = Share(int(alarm[truth == 0].sum()), int((truth == 0).sum()))
    caught = Share(int(alarm[truth == 1].sum()), int(truth.sum()))
    return [
        "## B8: is the confidence a probability?", "",
        (f"{len(truth):,} single checks, 10 columns, 1,000 reference and 300 recent rows: in 80 % nothing changes, in 10 % two columns"
        " do, in 5 % errors rise from .10 to .15 or up to .25, in 5 % both. No other tool here states such a probability."),
        (f"Brier score {brier:.3f}, expected calibration error {error:.3f} in ten bins; retrains without harm {quiet}, with harm"
        f" {caught}."), "",
        *_table(["severity given to", *levels], [
            [kind, *(f"{(kinds[names == kind] == level).mean():.1%}" for level in levels)]
            for kind in ("nothing", "harmless drift", "more errors", "both") if (names == kind).any()
        ]), "",
        *_table(["checks", "confidence", "became worse"], [
            [f"{number:,}", f"{said:.0%}", f"{was:.0%}"] for number, said, was in measures.reliability(sure, truth)
        ]), "",
    ]  # fmt: skip


# --- B9 ---------------------------------------------------------------------------------------------------------


def _speed(fast: list[tuple[str, str, Any]], targets: Rows) -> list[str]:
    rows: Rows = []
    for rows_of, competitor, found in fast:
        if isinstance(found, str):
            rows.append([rows_of, WORDS[competitor], found, "", "", ""])
            continue
        for step in found:
            took = [f"{step['seconds']:.2f} s", f"{step['clock']:.2f} s"]
            rows.append([rows_of, f"{WORDS[competitor]}, {step['detector']}", *took, f"{step['mb']:.0f} MB"])
            rows[-1].append(", ".join(_times(fast, rows_of, other, step) for other in ("evidently", "scipy")))
            if competitor == "ours":
                _speed_target(fast, rows_of, step, targets)
    return [
        "## B9: what a look costs", "",
        ("One look at so many recent rows beside 100,000 reference rows: 40 columns of numbers, 10 of 20 categories; one process at a"
         " time, one thread."),
        "Seconds are the processor's, which other work on the machine does not lengthen; the clock's stand beside them.",
        "Memory is what the step adds to the process's highest.",
        "Evertrain compares with a profile made before, as a champion has it; NannyML's fit is the same work for it.",
        "Evidently's is the preset's whole report.",
        "The last column says how many times as long Evidently and the loop over SciPy took.", "",
        *_table(["recent", "", "processor", "clock", "memory added", "beside Evidently, SciPy"], rows), "",
    ]  # fmt: skip


def _speed_target(fast: list[tuple[str, str, Any]], rows_of: str, step: dict[str, Any], targets: Rows) -> None:
    seconds, detector = step["seconds"], step["detector"]
    if "partitions" in detector:
        _target(targets, "B9", f"{detector}, 10 columns", "under 10 s", f"{seconds:.1f} s", seconds < 10)
        return
    if rows_of.startswith("100,000 ") and detector == "check, exact":
        _target(targets, "B9", "100,000 × 50, exact", "at most 2.5 s", f"{seconds:.2f} s", seconds <= 2.5)
    data_mb = int(rows_of.split(maxsplit=1)[0].replace(",", "")) * 50 * 8 / 2**20
    _target(
        targets,
        "B9",
        f"{rows_of}, {detector}: memory",
        f"under twice the {data_mb:.0f} MB",
        f"{step['mb']:.0f} MB",
        step["mb"] < 2 * data_mb,
    )
    for other, least in (("evidently", 20 if "exact" in detector else 50), ("scipy", 1 if "exact" in detector else 3)):
        times = _seconds(fast, rows_of, other) / seconds
        if np.isfinite(times):
            _target(
                targets,
                "B9",
                f"{rows_of}, {detector}, beside {WORDS[other]}",
                f"{least} × as fast",
                f"{times:.1f} ×",
                times >= least,
            )


def _seconds(fast: list[tuple[str, str, Any]], rows_of: str, competitor: str) -> float:
    found = next((steps for size, name, steps in fast if (size, name) == (rows_of, competitor)), "")
    return float("nan") if isinstance(found, str) or not found else float(found[-1]["seconds"])


def _times(fast: list[tuple[str, str, Any]], rows_of: str, competitor: str, step: dict[str, Any]) -> str:
    times = _seconds(fast, rows_of, competitor) / step["seconds"]
    return f"{times:.2g} ×" if np.isfinite(times) and times < 10 else f"{times:.0f} ×" if np.isfinite(times) else "-"


# --- the picture ------------------------------------------------------------------------------------------------


def _draw(runs: Runs, fast: list[tuple[str, str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update(
        {
            "svg.hashsalt": "decisions",
            "font.size": 8,
            "svg.fonttype": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    _draw_months(axes[0, 0], runs)
    _draw_power(axes[0, 1], runs)
    _draw_delays(axes[0, 2], runs)
    _draw_harm(axes[1, 0], runs)
    _draw_chances(axes[1, 1], runs)
    _draw_speed(axes[1, 2], fast)
    figure.savefig(PICTURE, metadata={"Date": None})


_COLOURS = {"ours": "#1b7837", "evidently": "#d6604d", "nannyml": "#762a83", "river": "#4393c3", "scipy": "#888888"}


def _draw_months(ax: Any, runs: Runs) -> None:
    names = sorted(runs.found[FIRST], key=_order, reverse=True)
    for place, name in enumerate(names):
        share = _share(runs, FIRST, name)
        low, high = share.interval
        ax.barh(place, 100 * share.value, color=_COLOURS[name[0]])
        ax.plot([100 * low, 100 * high], [place, place], color="black", lw=1)
    ax.set_yticks(range(len(names)), [_called(name) for name in names])
    ax.axvline(5, color="black", lw=0.8, ls=":")
    ax.set(title="B1: months with a false alarm, as they come", xlabel="%", xlim=(0, 100))


def _draw_power(ax: Any, runs: Runs) -> None:
    shifts = [0.0, 0.1, 0.2, 0.3, 0.5]
    for title, name, turned in (
        ("Evertrain, 5 % a check", ("ours", "names something"), False),
        ("Evertrain, 5 % a month", ("ours", "names something" + OF_MANY), False),
        ("Evidently, as it comes", ("evidently", "any column"), False), ("Evidently, knob turned", ("evidently", "any column"), True),
        ("NannyML, as it comes", ("nannyml", "any column"), False), ("NannyML, knob turned", ("nannyml", "any column"), True),
    ):  # fmt: skip
        bound = _bound(runs, "nothing", name) if turned else None
        shares = [_share(runs, f"shift {one}" if one else "nothing", name, bound) for one in shifts]
        if shares[0].of:
            dashed = "--" if turned or title.endswith("month") else "-"
            ax.plot(
                shifts,
                [100 * one.value for one in shares],
                dashed,
                marker="o",
                ms=3,
                color=_COLOURS[name[0]],
                label=title,
            )
    ax.set(title="B2: looks that alarm; one of 50 columns shifts", xlabel="shift in standard deviations", ylabel="%")
    ax.legend(frameon=False, fontsize=7)


def _draw_delays(ax: Any, runs: Runs) -> None:
    for name in sorted(runs.found["nothing, 0.0"], key=_order):
        for turned in (False, True) if name[0] != "ours" else (False,):
            bound = _bound(runs, "nothing, 0.0", name) if turned else None
            found = _delays(runs, ".20 to .30, 0.0", name, bound)
            if not len(found):
                continue
            alarms = 100 * _share(runs, "nothing, 0.0", name, bound).value
            marker = "*" if name[0] == "ours" else ("o" if turned else "x")
            ax.plot(alarms, found.mean(), marker, ms=11 if name[0] == "ours" else 5, color=_COLOURS[name[0]])
            if turned or name[0] == "ours":
                ax.annotate(
                    _called(name).split(": ")[1] if name[0] == "river" else _called(name),
                    (alarms, found.mean()),
                    xytext=(4, 2),
                    textcoords="offset points",
                    fontsize=6,
                )
    ax.axvline(5, color="black", lw=0.8, ls=":")
    ax.set(
        title="B3: errors rise from .20 to .30",
        xlabel="streams with a false alarm, %",
        ylabel="rows until seen",
        ylim=(0, 1_500),
    )
    ax.text(0.98, 0.98, "x as it comes, o knob turned", transform=ax.transAxes, ha="right", va="top")


def _draw_harm(ax: Any, runs: Runs) -> None:
    truth = runs.truth["harm"]["truth"]
    for name in sorted(runs.found["harm"], key=_order):
        detector: Detector = runs.found["harm"][name]
        if name[1].endswith(OF_MANY) or name == ("ours", "names something") or len(detector.lines) != len(truth):
            continue
        score = np.array([detector.score(one) for one in detector.streams])
        curve = [
            (truth[score >= bound].sum() / truth.sum(), truth[score >= bound].mean()) for bound in np.unique(score)
        ]
        recall, precision = zip(*curve, strict=True)
        if name[0] == "river" and name[1] != "ADWIN":
            continue
        style = {"accuracy": "--", "estimated accuracy": ":", "dataset drift": "-."}.get(name[1], "-")
        ax.plot(recall, precision, style, color=_COLOURS[name[0]], lw=1.2, label=_called(name))
    ax.axhline(truth.mean(), color="black", lw=0.8, ls=":")
    ax.set(
        title="B4: alarms and harm, every bound", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05)
    )
    ax.legend(frameon=False, fontsize=7, loc="lower left")


def _draw_chances(ax: Any, runs: Runs) -> None:
    detector, truth = runs.found["scenarios"][("ours", "retrains")], runs.truth["scenarios"]["truth"]
    sure = np.array([detector.lines[one][0]["score"][0] for one in detector.streams])
    for number, said, was in measures.reliability(sure, truth):
        low, high = Share(round(number * was), number).interval
        ax.plot([said, said], [low, high], color=_COLOURS["ours"], lw=1)
        ax.plot(said, was, "o", color=_COLOURS["ours"], ms=4)
    ax.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    ax.set(title="B8: confidence and truth", xlabel="confidence", ylabel="share that became worse")


def _draw_speed(ax: Any, fast: list[tuple[str, str, Any]]) -> None:
    bars = [
        (f"{rows_of}\n{WORDS[competitor]}, {step['detector']}", step["seconds"], competitor)
        for rows_of, competitor, found in fast if not isinstance(found, str) for step in found
    ][::-1]  # fmt: skip
    ax.barh(range(len(bars)), [seconds for _, seconds, _ in bars], color=[_COLOURS[one] for *_, one in bars])
    ax.set_yticks(range(len(bars)), [title for title, *_ in bars], fontsize=6)
    ax.set(title="B9: seconds a look", xscale="log", xlabel="processor seconds")
