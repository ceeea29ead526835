"""Is retraining needed? The old script's name, options and class, answered by Evertrain.

python automatic_retraining.py --reference-data train.csv --recent-data recent.csv
    --recent-predictions predictions.npy --recent-actuals actuals.npy

The answer is JSON; every option of `evertrain check` is understood.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evertrain import on_drift
from evertrain.evidence import should_retrain

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from evertrain.triggers import Decision


class AutomaticRetrainingOrchestrator:
    """Decides by the old script's own rules: profile "seed".

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


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "evertrain", "check", *sys.argv[1:]]))
