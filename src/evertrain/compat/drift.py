"""The drift detector of document 001 and the orchestrator of document 003."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evertrain import registry, scores, triggers
from evertrain.compat.retraining import champion, smallest_drop
from evertrain.control.opened import Opened
from evertrain.errors import NoModelYet
from evertrain.evidence import should_retrain
from evertrain.partitions import WHOLE
from evertrain.project import Project
from evertrain.specs import on_drift
from evertrain.store import models

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from evertrain.triggers import Decision

logger = logging.getLogger("evertrain")


@dataclass(frozen=True)
class DriftMetrics:
    """How a model does on recent rows.

    Attributes:
        accuracy_drift: how far the score lies below that at promotion, as a share of it; below 0 where it is better.
        requires_retraining: whether that is more than the smallest drop that the model declares or a job waits for,
            on enough rows to say so.
        score: by which it is judged: accuracy, or what decides of the model where it predicts numbers.
    """

    model_type: str
    accuracy_drift: float
    requires_retraining: bool
    score: str
    baseline: float
    recent: float
    samples: int
    reason: str


class DriftDetector:
    """Sets recent predictions against the score at promotion."""

    def __init__(self, project: Project | Opened) -> None:
        self.opened = project.opened if isinstance(project, Project) else project

    def check_drift(self, model_type: str, recent_predictions: ArrayLike, recent_actuals: ArrayLike) -> DriftMetrics:
        """Return how much worse the recent predictions are than the model was when it was promoted.

        Raises:
            NoModelYet: nothing was trained yet, so there is nothing to compare with.
            DataError: there are not equally many, or they cannot be scored.
        """
        fit = champion(self.opened, model_type)
        if fit is None:
            raise NoModelYet(f"{model_type} has no model yet; retrain_model({model_type!r}) trains one")
        with self.opened.store.read() as tx:
            model = models.by_name(tx, model_type)
        trigger = smallest_drop(model)
        name, baseline = _judged(fit, trigger.score)
        recent = scores.compute(name, recent_actuals, recent_predictions)
        change = scores.improvement(name, baseline, recent)
        drift = 0.0 if change.percent is None else -change.percent / 100
        rows = len(recent_actuals)  # type: ignore[arg-type]
        value = recent if math.isfinite(recent) else None
        decision = triggers.on_score(trigger, name, [triggers.Recheck(WHOLE, model_type, rows, baseline, value)])
        if decision.fired:
            logger.info("Drift detected in %s (drift: %.2f%%)", model_type, 100 * drift)
        return DriftMetrics(model_type, drift, decision.fired, name, baseline, recent, rows, decision.reason)


def _judged(fit: registry.Fit, wanted: str | None) -> tuple[str, float]:
    """Return the score that recent predictions alone can be judged by, and what it was at promotion."""
    known = fit.scores.get("challenger") or {}
    for name in (wanted, "accuracy", fit.verdict.get("score"), *known):
        if name and known.get(name) is not None and scores.get(name).needs == "predictions":
            return name, known[name]
    raise NoModelYet(f"version {fit.version} was promoted without a score to compare with")


class AutomaticRetrainingOrchestrator:
    """Decides by the plain rules of document 003: profile "seed".

    Args:
        data_drift_threshold: p-value below which a column counts as shifted: a smaller one is stricter with the
            evidence and triggers less.
        performance_threshold: drop of r2 that counts, relative to the baseline: a larger one triggers less.
        min_samples_for_retraining: recent rows without which nothing is said.
        error_threshold, rmse_threshold: rises that count, relative to the baseline.
    """

    def __init__(
        self,
        data_drift_threshold: float = 0.05,
        performance_threshold: float = 0.05,
        min_samples_for_retraining: int = 100,
        error_threshold: float = 0.15,
        rmse_threshold: float = 0.10,
    ) -> None:
        self.config = on_drift(
            profile="seed",
            p_value=data_drift_threshold,
            r2_drop=performance_threshold,
            min_rows=min_samples_for_retraining,
            error_increase=error_threshold,
            rmse_increase=rmse_threshold,
        )

    def should_retrain(
        self,
        reference_df: pd.DataFrame,
        recent_df: pd.DataFrame,
        predictions: ArrayLike | None = None,
        actuals: ArrayLike | None = None,
        baseline_metrics: Mapping[str, float] | None = None,
    ) -> Decision:
        """Return the decision: `triggered`, `drift_type.value`, `severity`, `confidence`, `reason`."""
        return should_retrain(reference_df, recent_df, predictions, actuals, baseline_metrics, config=self.config)
