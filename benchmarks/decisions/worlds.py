"""Worlds in which the truth is known: nothing changes, or this changes from here on.

Every world is written once, as one `.npz`, and every competitor reads the same bytes. All are seeded.

A world holds streams of equal length (first axis):
  reference  (streams, rows, columns) rows of the time before, out of sample for the model
  recent     (streams, rows, columns) rows since then, in order of time
  reference_errors, recent_errors (streams, rows)  1 where the model's answer was wrong
  reference_answers, recent_answers (streams, rows)  the model's answers, 0 or 1
  starts, stops  each check looks at recent[:, start:stop]
  categories  names of the columns whose numbers are codes of categories
  step_s  seconds between rows
  turn  the first so many streams are there to turn knobs on
  verify  whether a tool's shortcut is compared with its long way
  truth  (streams,)  1 where the change does harm; names (streams,) what changed
A missing value is NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WORLD = dict[str, Any]
_MIXED = ("normal", "log-normal", "t3", "20 levels", "30 % missing", "1000 levels")
DAY = {"season": 24, "season 80": 80}  # rows


def save(path: Path, world: WORLD) -> Path:
    """Write a world, and return where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **world)
    return path


def zipf(rng: np.random.Generator, shape: tuple[int, ...], levels: int) -> np.ndarray:
    """Codes of categories, the k-th as frequent as 1 / k."""
    weights = 1 / np.arange(1, levels + 1)
    return rng.choice(levels, size=shape, p=weights / weights.sum()).astype(float)


def markov(rng: np.random.Generator, share: np.ndarray, keep: float) -> np.ndarray:
    """0 and 1 with the given shares, (streams, rows); each row repeats the one before it with probability `keep`."""
    fresh = (rng.random(share.shape) < share).astype(float)
    if not keep:
        return fresh
    stays = rng.random(share.shape) < keep
    for row in range(1, share.shape[1]):
        fresh[:, row] = np.where(stays[:, row], fresh[:, row - 1], fresh[:, row])
    return fresh


def answers(rng: np.random.Generator, errors: np.ndarray) -> np.ndarray:
    """Answers of a model of two equally frequent classes, none of its errors of one kind."""
    return (rng.random(errors.shape) < 0.5).astype(float)


def columns(rng: np.random.Generator, kind: str, streams: int, rows: int, wide: int) -> tuple[np.ndarray, list[int]]:
    """Columns in which nothing changes, and which of them are categories.

    normal; mixed (`_MIXED`, in turn); ar (each row .9 of the one
    before); season (a day of 80 rows); outlets (mostly normal, the last ten not).
    """
    values = rng.normal(size=(streams, rows, wide))
    if kind == "normal":
        return values, []
    if kind == "ar":
        for row in range(1, rows):
            values[:, row] = 0.9 * values[:, row - 1] + np.sqrt(1 - 0.81) * values[:, row]
        return values, []
    if kind in DAY:
        phase = rng.random((streams, 1, wide)) * 2 * np.pi
        return np.sin(2 * np.pi * np.arange(rows)[None, :, None] / DAY[kind] + phase) + 0.7 * values, []
    if kind not in ("mixed", "outlets"):
        raise ValueError(f"columns {kind!r} are unknown; choose from normal, mixed, ar, season, season 80, outlets")
    kinds = [_MIXED[column % 6] if kind == "mixed" else "normal" for column in range(wide)]
    if kind == "outlets":
        kinds[-10:] = ["20 levels"] * 5 + ["10 % missing"] * 5
    for column, one in enumerate(kinds):
        cells = values[:, :, column]
        if one == "log-normal":
            np.exp(cells, out=cells)
        elif one == "t3":
            cells[:] = rng.standard_t(3, size=cells.shape)
        elif one.endswith("levels"):
            cells[:] = zipf(rng, cells.shape, int(one.split()[0]))
        elif one.endswith("missing"):
            cells[rng.random(cells.shape) < int(one.split()[0]) / 100] = np.nan
    return values, [column for column, one in enumerate(kinds) if one.endswith("levels")]


def month(kind: str, wide: int, streams: int, seed: int, *, checks: int) -> WORLD:
    """A month without any change: 2,000 reference rows, 80 new rows a day, windows of the newest 500 rows (B1).

    Where the day has a cycle of 24 rows there are 24 new rows a day.
    """
    rng = np.random.default_rng([seed, wide, streams, sum(kind.encode())])
    day = DAY.get(kind, 80)
    step, window, before = 30 * day // checks, 500, 2_000
    rows = window + step * (checks - 1)
    values, codes = columns(rng, kind, streams, before + rows, wide)
    errors = markov(rng, np.full((streams, before + rows), 0.1), 0.3 if kind == "ar" else 0.0)
    starts = step * np.arange(checks)
    return {
        **_halves(values, errors, answers(rng, errors), before),
        "starts": starts, "stops": starts + window, "categories": np.array(codes, int), "step_s": 86_400 / day,
        "truth": np.zeros(streams), "names": np.array([kind] * streams),
    }  # fmt: skip


def _halves(values: np.ndarray, errors: np.ndarray, said: np.ndarray, before: int) -> WORLD:
    return {
        "reference": values[:, :before], "recent": values[:, before:],
        "reference_errors": errors[:, :before], "recent_errors": errors[:, before:],
        "reference_answers": said[:, :before], "recent_answers": said[:, before:],
    }  # fmt: skip


CHANGES = (
    "shift 0.1", "shift 0.2", "shift 0.3", "shift 0.5", "scale 1.2", "scale 1.5", "mixture 5 %",
    "missing +4 pp", "missing +8 pp", "3 new categories", "correlation broken",
)  # fmt: skip


def pair(change: str, streams: int, seed: int, *, rows: int = 1_000, wide: int = 50) -> WORLD:
    """One check of 1,000 recent against 1,000 reference rows, in which one column changed, or none (B2)."""
    rng = np.random.default_rng([seed, streams, rows, wide, sum(change.encode())])
    values, codes = columns(rng, "outlets", streams, 2 * rows, wide)
    if change == "correlation broken":
        values[:, :, 1] = 0.9 * values[:, :, 0] + np.sqrt(1 - 0.81) * values[:, :, 1]
    new = values[:, rows:]
    kind, _, size = change.partition(" ")
    if kind == "shift":
        new[:, :, 0] += float(size)
    elif kind == "scale":
        new[:, :, 0] *= float(size)
    elif kind == "mixture":
        new[:, :, 0] = np.where(rng.random((streams, rows)) < 0.05, rng.normal(4, 1, (streams, rows)), new[:, :, 0])
    elif kind == "missing":
        lost = float(size.split()[0]) / 100 / 0.9  # of the values that are there
        new[:, :, -1][rng.random((streams, rows)) < lost] = np.nan
    elif kind == "3":
        column = codes[0]
        fresh = 20 + rng.integers(0, 3, (streams, rows))
        new[:, :, column] = np.where(rng.random((streams, rows)) < 0.06, fresh, new[:, :, column])
    elif kind == "correlation":
        new[:, :, 1] = rng.normal(size=(streams, rows))
    elif kind != "nothing":
        raise ValueError(f"change {change!r} is unknown; choose from nothing, {', '.join(CHANGES)}")
    errors = markov(rng, np.full((streams, 2 * rows), 0.1), 0.0)
    return {
        **_halves(values, errors, answers(rng, errors), rows),
        "starts": np.array([0]), "stops": np.array([rows]), "categories": np.array(codes, int), "step_s": 60.0,
        "truth": np.zeros(streams), "names": np.array([change] * streams),
    }  # fmt: skip


JUMPS = {".20 to .25": 0.25, ".20 to .30": 0.30, ".20 to .40": 0.40, "gradual to .30": 0.30, "recurring .30": 0.30}
STILL, LIVE = 2_000, 5_000


def losses(change: str, keep: float, streams: int, seed: int) -> WORLD:
    """1,000 reference errors at .20, and 5,000 that follow; from the 2,000th on the share of errors changes (B3)."""
    rng = np.random.default_rng([seed, streams, int(100 * keep), sum(change.encode())])
    share = np.full(1_000 + LIVE, 0.2)
    after = np.arange(LIVE - STILL)
    if change.startswith("gradual"):
        share[1_000 + STILL :] += 0.1 * np.minimum(1, after / 1_000)
    elif change.startswith("recurring"):
        share[1_000 + STILL :] += 0.1 * ((after // 500) % 2 == 0)
    elif change != "nothing":
        share[1_000 + STILL :] = JUMPS[change]
    errors = markov(rng, np.tile(share, (streams, 1)), keep)
    stops = np.arange(50, LIVE + 1, 50)
    none = np.zeros((streams, 1_000 + LIVE, 0))
    return {
        **_halves(none, errors, answers(rng, errors), 1_000),
        "starts": np.maximum(0, stops - 500), "stops": stops, "categories": np.array([], int), "step_s": 60.0,
        "truth": np.full(streams, float(change != "nothing")), "names": np.array([change] * streams),
    }  # fmt: skip


ARCHETYPES = (
    "nothing", "unused column shifts", "unused columns change their unit", "new categories in an unused column",
    "used column shifts mildly", "used column shifts far", "relation turns", "relation turns in a segment",
    "labels get noisy", "feed masked by its mean", "feed half missing", "a fifth of the rows turns",
)  # fmt: skip


def harm(replicates: int, seed: int, *, rows: int = 1_000, recent: int = 500) -> WORLD:
    """Twelve ways in which rows change, half of them harmful, with a trained model; harm is measured (B4).

    Columns 0 to 4 count, 5 to 8 do not, 9 is a category that does not. Harm: on 20,000 fresh rows of the changed world
    the model's error rate is at least 15 % above that of 20,000 fresh unchanged rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    found: dict[str, list[Any]] = {
        name: [] for name in ("x0", "x1", "e0", "e1", "a0", "a1", "p0", "p1", "truth", "names", "rise")
    }
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        model = HistGradientBoostingClassifier(max_iter=80, random_state=replicate)
        model.fit(*_sample(rng, "nothing", 4_000))
        x0, y0 = _sample(rng, "nothing", rows)
        said0 = model.predict_proba(x0)[:, 1]
        x, y = _sample(rng, "nothing", 20_000)
        usual = float(np.mean(model.predict(x) != y))
        for name in ARCHETYPES:
            x, y = _sample(rng, name, 20_000)
            rise = float(np.mean(model.predict(x) != y)) / usual - 1
            x1, y1 = _sample(rng, name, recent)
            said1 = model.predict_proba(x1)[:, 1]
            for key, value in (
                ("x0", x0), ("x1", x1), ("e0", (said0 > 0.5) != y0), ("e1", (said1 > 0.5) != y1),
                ("a0", said0 > 0.5), ("a1", said1 > 0.5), ("p0", said0), ("p1", said1),
                ("truth", rise >= 0.15), ("names", name), ("rise", rise),
            ):  # fmt: skip
                found[key].append(value)
    arrays = {key: np.array(value) for key, value in found.items()}
    return {
        "reference": arrays["x0"], "recent": arrays["x1"],
        "reference_errors": arrays["e0"].astype(float), "recent_errors": arrays["e1"].astype(float),
        "reference_answers": arrays["a0"].astype(float), "recent_answers": arrays["a1"].astype(float),
        "reference_chances": arrays["p0"], "recent_chances": arrays["p1"],
        "starts": np.array([0]), "stops": np.array([recent]), "categories": np.array([9]), "step_s": 60.0,
        "truth": arrays["truth"].astype(float), "names": arrays["names"], "rise": arrays["rise"],
    }  # fmt: skip


def _sample(rng: np.random.Generator, change: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of a world, changed or not."""
    x = rng.normal(size=(rows, 10))
    x[:, 9] = zipf(rng, (rows,), 5)
    if change == "used column shifts mildly":
        x[:, 1] += 0.3
    elif change == "used column shifts far":
        x[:, 3] += 2.5
    turned = np.zeros(rows, bool)
    if change == "relation turns":
        turned[:] = True
    elif change == "relation turns in a segment":
        turned = x[:, 2] > 0.5
    elif change == "a fifth of the rows turns":
        turned = rng.random(rows) < 0.2
    sign = np.where(turned, -1.0, 1.0)
    logit = 3.0 * sign * x[:, 0] + 2.0 * x[:, 1] + 1.5 * x[:, 2] + 1.5 * np.sin(2 * x[:, 3]) + x[:, 4]
    y = rng.random(rows) < 1 / (1 + np.exp(-logit))
    if change == "labels get noisy":
        y ^= rng.random(rows) < 0.1
    elif change == "unused column shifts":
        x[:, 5] += 1.0
    elif change == "unused columns change their unit":
        x[:, 6:8] *= 100
    elif change == "new categories in an unused column":
        x[:, 9] = np.where(rng.random(rows) < 0.15, 5 + rng.integers(0, 3, rows), x[:, 9])
    elif change == "feed masked by its mean":
        x[rng.random(rows) < 0.9, 0] = 0.0
    elif change == "feed half missing":
        x[rng.random(rows) < 0.5, 0] = np.nan
    return x, y.astype(int)


def scenarios(number: int, seed: int) -> WORLD:
    """Single checks: 80 % nothing, 10 % harmless drift of columns, 5 % more errors, 5 % both (B8)."""
    rng = np.random.default_rng([seed, number])
    before, recent, wide = 1_000, 300, 10
    values = rng.normal(size=(number, before + recent, wide))
    kind = rng.choice(4, size=number, p=(0.8, 0.1, 0.05, 0.05))
    drifts = (kind == 1) | (kind == 3)
    values[drifts, before:, :2] += rng.uniform(0.3, 0.8, (int(drifts.sum()), 1, 2))
    share = np.full((number, before + recent), 0.1)
    worse = kind >= 2
    share[worse, before:] = rng.uniform(0.15, 0.25, (int(worse.sum()), 1))
    errors = markov(rng, share, 0.0)
    return {
        **_halves(values, errors, answers(rng, errors), before),
        "starts": np.array([0]), "stops": np.array([recent]), "categories": np.array([], int), "step_s": 60.0,
        "truth": worse.astype(float), "names": np.array(["nothing", "harmless drift", "more errors", "both"])[kind],
    }  # fmt: skip


def big(rows: int, seed: int, *, reference: int = 100_000, wide: int = 50) -> WORLD:
    """One check of many rows: 40 normal columns and 10 of 20 categories (B9)."""
    rng = np.random.default_rng([seed, rows])
    values = rng.normal(size=(1, reference + rows, wide))
    for column in range(wide - 10, wide):
        values[0, :, column] = zipf(rng, (reference + rows,), 20)
    errors = markov(rng, np.full((1, reference + rows), 0.1), 0.0)
    return {
        **_halves(values, errors, answers(rng, errors), reference),
        "starts": np.array([0]), "stops": np.array([rows]), "categories": np.arange(wide - 10, wide), "step_s": 1.0,
        "truth": np.zeros(1), "names": np.array(["nothing"]),
    }  # fmt: skip


def small(partitions: int, seed: int, *, rows: int = 100, wide: int = 10) -> WORLD:
    """One round of checks of many partitions with few rows each, beside one reference of 1,000 (B9)."""
    rng = np.random.default_rng([seed, partitions])
    values = rng.normal(size=(1, 1_000 + partitions * rows, wide))
    errors = markov(rng, np.full(values.shape[:2], 0.1), 0.0)
    return {
        **_halves(values, errors, answers(rng, errors), 1_000),
        "starts": np.array([0]), "stops": np.array([partitions * rows]), "categories": np.array([], int), "step_s": 1.0,
        "truth": np.zeros(1), "names": np.array(["nothing"]), "partitions": partitions,
    }  # fmt: skip
