"""The words of older retraining systems, answered by Evertrain: their Python names here, their routes in `routes`.

An application keeps its import lines with one small module of its own, e.g. `app/services/ai.py`:

>>> from evertrain.compat import *
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evertrain.compat.container import Container as Container
    from evertrain.compat.drift import AutomaticRetrainingOrchestrator as AutomaticRetrainingOrchestrator
    from evertrain.compat.drift import DriftDetector as DriftDetector
    from evertrain.compat.drift import DriftMetrics as DriftMetrics
    from evertrain.compat.monitoring import RetrainingConfig as RetrainingConfig
    from evertrain.compat.monitoring import RetrainingManager as RetrainingManager
    from evertrain.compat.monitoring import start_retraining_monitoring as start_retraining_monitoring
    from evertrain.compat.registry import ModelMetadata as ModelMetadata
    from evertrain.compat.registry import ModelRegistry as ModelRegistry
    from evertrain.compat.registry import ModelStatus as ModelStatus
    from evertrain.compat.registry import _bump_version as _bump_version
    from evertrain.compat.retraining import AutomatedRetrainingService as AutomatedRetrainingService
    from evertrain.compat.retraining import RetrainingJob as RetrainingJob
    from evertrain.compat.retraining import RetrainingResult as RetrainingResult

# Imported when first used, so that a script with one of these names starts at once.
_PLACES = {
    "container": ["Container"],
    "drift": ["AutomaticRetrainingOrchestrator", "DriftDetector", "DriftMetrics"],
    "monitoring": ["RetrainingConfig", "RetrainingManager", "start_retraining_monitoring"],
    "registry": ["ModelMetadata", "ModelRegistry", "ModelStatus", "_bump_version"],
    "retraining": ["AutomatedRetrainingService", "RetrainingJob", "RetrainingResult"],
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
