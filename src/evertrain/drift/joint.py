"""Recent rows against a profile, all columns of numbers together: what column by column cannot show.

When two columns stop depending on each other, each may keep its distribution.
Needs a profile made with `joint=True`, which keeps at most 2,000 complete rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from evertrain.drift import statistics
from evertrain.drift.columns import ENOUGH
from evertrain.drift.profile import Numbers, Profile, complete, evenly
from evertrain.drift.signal import Family, Signal
from evertrain.drift.statistics import Floats
from evertrain.drift.table import instants
from evertrain.errors import DataError
from evertrain.specs import Drift

NAME = "all columns"
_ROWS = 5_000  # recent rows that are looked at
_VARIANCE = 0.65
_FOLDS = 5
# An AUC of 0.556 is what a shift of one normal column's mean by 0.2 standard deviations shows.
_PCA_FLOORS = {"sensitive": 0.1, "conservative": 0.3}
_AUC_FLOORS = {"sensitive": 0.028, "conservative": 0.084}


def compare(
    reference: Profile, recent: pd.DataFrame, config: Drift, *, times: object = None, seed: int = 0
) -> list[Signal]:
    """Return the signals that `config.joint` asks for: "pca", "classifier".

    Rows with a missing number are left out, and columns of weight 0.

    Args:
        recent: columns as the profile's.
        times: of the recent rows.
        seed: of the classifier and its folds.

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(600, 3))
    >>> x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    >>> old = pd.DataFrame(x, columns=["a", "b", "c"])
    >>> new = old.assign(b=random.permutation(old.b))  # the same values, no longer those of `a`
    >>> [found] = compare(Profile.of(old, joint=True), new, Drift(joint=("pca",)))
    >>> found.p < 1e-6, found.effect > found.floor
    (True, True)
    """
    if not config.joint:
        return []
    weights = reference.weights or {}
    used = [place for place, name in enumerate(reference.sampled) if weights.get(name) != 0]
    names = [reference.sampled[place] for place in used]
    why, before, now = "", reference.sample[:, used], np.empty((0, len(used)))
    if not reference.sampled:
        why = "the profile keeps no rows, or has no columns of numbers"
    elif len(used) < 2:
        why = f"{len(used)} column of numbers; 2 are needed"
    else:
        order = None if times is None else np.argsort(instants(times, len(recent)), kind="stable")
        try:
            now = evenly(complete(recent, names, order), _ROWS)
        except DataError as error:
            why = str(error)
        else:
            if min(len(before), len(now)) < 2 * ENOUGH:
                why = f"{len(before)} and {len(now)} complete rows; {2 * ENOUGH} are needed"
    if why:
        return [Signal(NAME, Family.DATA, kind, insufficient=why) for kind in config.joint]
    memory = _memory(reference, len(before))
    return [
        _pca(before, now, config) if kind == "pca" else _classifier(before, now, config, names, memory, seed)
        for kind in config.joint
    ]


def _memory(reference: Profile, sampled: int) -> float:
    """Return the longest autocorrelation time of the columns, in rows of the sample; 0 without an order in time."""
    if not reference.ordered:
        return 0.0
    longest = max(column.facts.tau for column in reference.columns if isinstance(column, Numbers))
    return longest * sampled / reference.rows


def _pca(before: Floats, now: Floats, config: Drift) -> Signal:
    """Return whether rows are rebuilt worse from their main components, learnt on every other reference row.

    Learning and comparing on the same rows would make recent ones look worse than they are.
    """
    learnt, held = before[::2], before[1::2]
    mean, sd = learnt.mean(axis=0), learnt.std(axis=0)
    sd[sd == 0] = 1.0
    _, sizes, axes = np.linalg.svd((learnt - mean) / sd, full_matrices=False)
    share = np.cumsum(np.square(sizes)) / np.square(sizes).sum() if sizes.any() else np.ones(len(sizes))
    axes = axes[: int(np.searchsorted(share, _VARIANCE)) + 1]
    errors = []
    for rows in (held, now):
        scaled = (rows - mean) / sd
        errors.append(np.linalg.norm(scaled - scaled @ axes.T @ axes, axis=1))
    n, m = len(held), len(now)
    z, p = statistics.welch(*errors)
    spread = float(errors[0].std())
    shift = float(errors[1].mean() - errors[0].mean()) / spread if spread > 0 else 0.0
    effect = math.sqrt(max(0.0, shift**2 - (1 / n + 1 / m)))
    return Signal(
        NAME, Family.DATA, "pca", p, effect, _PCA_FLOORS.get(config.profile, 0.2), "sd of the reconstruction error", n, m,
        detail={"z": z, "components": len(axes), "errors": [float(one.mean()) for one in errors]},
    )  # fmt: skip


def _classifier(before: Floats, now: Floats, config: Drift, names: list[str], memory: float, seed: int) -> Signal:
    """Return whether a classifier can tell recent rows from the reference, on rows that it has not seen.

    Its AUC varies a little more than that of a fixed score would, as folds share rows: p is five times that of the
    normal, so that 0.05 is z = 2.33.

    Source: Lopez-Paz and Oquab, Revisiting classifier two-sample tests (2017).
    """
    from sklearn.ensemble import RandomForestClassifier

    now = evenly(now, max(len(before), 500))
    x = np.concatenate([before, now])
    recent = np.arange(len(x)) >= len(before)
    places = np.concatenate([np.arange(len(before)), np.arange(len(now))])
    folds = np.concatenate([np.arange(n) * _FOLDS // n for n in (len(before), len(now))])
    if not memory:
        folds = np.random.default_rng(seed).permutation(folds)
    scores, importances = np.empty(len(x)), np.zeros(len(names))
    for fold in range(_FOLDS):
        test = folds == fold
        train = ~test
        if memory:  # neighbours of a row give it away
            for side in (recent, ~recent):
                block = places[test & side]
                train &= ~(side & (places >= block.min() - memory) & (places <= block.max() + memory))
        forest = RandomForestClassifier(60, min_samples_leaf=10, random_state=seed, n_jobs=1)
        forest.fit(x[train], recent[train])
        scores[test] = forest.predict_proba(x[test])[:, 1]
        importances += forest.feature_importances_ / _FOLDS
    n, m = (max(1.0, len(side) / max(1.0, memory)) for side in (before, now))
    auc = _auc(scores, recent)
    z = (auc - 0.5) / statistics.auc_null_sd(n, m)
    top = np.argsort(-importances)[:10]
    return Signal(
        NAME, Family.DATA, "classifier", min(1.0, 5 * math.erfc(z / math.sqrt(2)) / 2), max(0.0, auc - 0.5),
        _AUC_FLOORS.get(config.profile, 0.056), "AUC above one half", n, m,
        detail={"auc": auc, "z": z, "importances": {names[place]: float(importances[place]) for place in top}},
    )  # fmt: skip


def _auc(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    m = int(positive.sum())
    n = len(scores) - m
    return float((rankdata(scores)[positive].sum() - m * (m + 1) / 2) / (n * m))
