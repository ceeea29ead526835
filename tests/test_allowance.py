"""What trainers report is kept as far as a person would read it."""

from __future__ import annotations

from evertrain.executors import jobs
from evertrain.executors.training import Fitting


def test_a_hundred_reports_come_through_at_once_and_then_two_a_second(monkeypatch):
    """S4-02: every epoch of a network is told, however short it is."""
    now = [1000.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    sent = []
    context = Fitting("y", [], 1, {}, 7, sent.append)
    for number in range(300):
        context.progress(f"epoch {number}", number / 300)
    assert [one["text"] for one in sent] == [f"epoch {number}" for number in range(100)]
    now[0] += 1.5
    for number in range(10):
        context.progress(f"later {number}")
    assert [one["text"] for one in sent[100:]] == ["later 0", "later 1", "later 2"]
    now[0] += 3600
    for number in range(300):
        context.progress(f"much later {number}")
    assert len(sent) == 203, "an hour of silence is worth a hundred again, not more"
    context.progress("done", 1)
    assert sent[-1] == {"type": "progress", "item": 7, "text": "done", "fraction": 1}
