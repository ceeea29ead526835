"""All commands: importing this module makes the app complete."""

from evertrain.cli import (
    access,
    asking,
    beginning,
    checking,
    data,
    figures,
    forecasting,
    looking,
    monitoring,
    observing,
    serving,
    settings,
    upkeep,
)
from evertrain.cli.here import app

# As a newcomer needs them: begin, keep fresh, look, act, look after.
_ORDER = [
    "init", "serve", "start", "stop", "status", "attention", "history", "why", "what-if", "check", "report", "trigger", "plan",
    "runs", "versions", "rollback", "predict", "forecast", "observe", "actuals", "execute", "adopt", "ingest", "batches",
    "undo", "erase", "export", "pause", "resume", "reload", "config", "schedule", "token", "doctor", "gc", "backup", "restore",
]  # fmt: skip
app.registered_commands.sort(key=lambda one: _ORDER.index(str(one.name or getattr(one.callback, "__name__", ""))))

__all__ = [
    "access",
    "app",
    "asking",
    "beginning",
    "checking",
    "data",
    "figures",
    "forecasting",
    "looking",
    "monitoring",
    "observing",
    "serving",
    "settings",
    "upkeep",
]
