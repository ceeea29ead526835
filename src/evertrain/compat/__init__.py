"""The words of older retraining systems, answered by Evertrain: their Python names here, their routes in `routes`.

An application keeps its import lines with one small module of its own:

>>> # app/services/ai.py:  from evertrain.compat import *
"""

from __future__ import annotations

from evertrain.compat.container import Container
from evertrain.compat.drift import AutomaticRetrainingOrchestrator, DriftDetector, DriftMetrics
from evertrain.compat.monitoring import RetrainingConfig, RetrainingManager, start_retraining_monitoring
from evertrain.compat.registry import ModelMetadata, ModelRegistry, ModelStatus, _bump_version
from evertrain.compat.retraining import AutomatedRetrainingService, RetrainingJob, RetrainingResult

__all__ = [
    "AutomatedRetrainingService", "AutomaticRetrainingOrchestrator", "Container", "DriftDetector", "DriftMetrics",
    "ModelMetadata", "ModelRegistry", "ModelStatus", "RetrainingConfig", "RetrainingJob", "RetrainingManager",
    "RetrainingResult", "_bump_version", "start_retraining_monitoring",
]  # fmt: skip
