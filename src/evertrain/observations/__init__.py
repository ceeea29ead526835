"""Observations: predictions with their features and, later, their actuals, in a SQLite file of their own.

A row has two halves, the prediction and the actual, that meet by model and id in any order; until both are there the
actual waits. Every half is the newest by its time, so the same calls in any order leave the same table.

Features are kept row by row, eight bytes for each that is no text, so a window costs what it holds however its rows
were sent, and a row that is erased is gone. Past the bound on rows every second row goes, chosen by a hash of the id:
what stays is a uniform sample of everything that was seen, and says so.

The file has a rollback journal, not a WAL: many processes write it, none is its keeper, and beside a checkpoint a
commit can corrupt a WAL before SQLite 3.51.3 (sqlite.org/wal.html#walresetbug).
"""

from evertrain.observations.log import Labelled, News, Noted, Observations, Pruned
from evertrain.observations.recorder import Answered, Recorder
from evertrain.observations.rows import Value, Window

__all__ = ["Answered", "Labelled", "News", "Noted", "Observations", "Pruned", "Recorder", "Value", "Window"]
