"""Telling people and programs what became of trainings: who is told what, once, and without keeping anyone waiting."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evertrain import Callback, Custom, Message, notify, on_data_change
from evertrain.control import ask
from evertrain.events import Kind
from evertrain.loop import Loop
from evertrain.store import log

from .conftest import line_model, write_rows

TOLD = Callback("toys:told")


def told(folder: Path) -> list[list]:
    path = folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def refresh(project) -> None:
    """Do what is due, and tell what it came to: the first call may end with the last run, before it is told."""
    project.refresh()
    project.refresh()


@pytest.fixture
def shop(make, folder, monkeypatch):
    """Return a maker of projects that notify, with rows to train on; the current folder is theirs."""
    monkeypatch.chdir(folder)
    write_rows(folder / "rows.csv")

    def build(*channels: object, **options: object):
        project = make(notify=channels, **{"executor": "inline", **options})
        line_model(project, trainer=Custom("toys:Unruly"), max_attempts=1)
        return project

    return build


def test_a_callback_is_told_model_status_and_duration_and_the_rest_by_name(shop, folder):
    """S2-31: `(model_name, status, duration, **kwargs)`. S1-21: type, versions, scores and improvement are among them."""
    project = shop(TOLD)
    refresh(project)
    write_rows(folder / "rows.csv", offset=50)
    refresh(project)

    (_, first_status, _, first), (model, status, duration, second) = told(folder)

    assert (model, first_status, status) == ("line", "success", "success")
    assert duration > 0
    assert first["type"] == "model_retrained"
    assert (first["old_version"], first["new_version"]) == (None, "1.0.0")
    assert (second["old_version"], second["new_version"]) == ("1.0.0", "1.1.0")
    assert second["cause"] == "data_change"
    assert second["score"] == "r2"
    assert second["new_score"] == pytest.approx(1.0)
    assert second["old_score"] < second["new_score"]
    assert second["improvement"] > 0
    assert second["text"] == "Model retrained: line v1.1.0 (r2: 1.000)"
    assert "error" not in second


def test_a_failure_has_the_error_and_other_models_go_on(shop, folder):
    """S2-30, S2-31: the callback is called with `error`, and every other model is still trained."""
    project = shop(TOLD)
    line_model(project, "other", trainer=Custom("toys:Line"))
    (folder / "orders").write_text("raise")

    refresh(project)

    by_model = {model: (status, more) for model, status, _, more in told(folder)}
    status, more = by_model["line"]
    assert status == "failed"
    assert "the trainer is unwell" in more["error"]
    assert more["text"].startswith("Retraining failed: line (")
    assert by_model["other"][0] == "success"


def test_a_refused_model_is_no_failure_and_says_which_version_stays(shop, folder):
    project = shop(TOLD)
    refresh(project)
    line_model(project, trainer=Custom("toys:Line", params={"noise": 80.0}), trainer_version=1)
    project.trigger("line", force=True)
    refresh(project)

    model, status, _, more = told(folder)[-1]

    assert (model, status, more["promoted"]) == ("line", "success", 0)
    assert more["new_version"] == more["old_version"] == "1.0.0"
    assert more["text"].startswith("Retrained and not promoted: line, ")


def test_nothing_is_lost_or_told_twice_over_a_restart(shop, make, folder):
    """P-57: the place in the log is stored; a run that ends while nobody tells is told by the next process."""
    first = shop(TOLD)
    refresh(first)
    first.trigger("line", force=True)  # no loop runs, so nobody tells
    before = [more["run_id"] for *_, more in told(folder)]
    first.close()

    second = shop(TOLD)
    refresh(second)

    assert before == [1]
    assert [more["run_id"] for *_, more in told(folder)] == [1, 2]


def test_a_delivery_that_was_cut_short_is_repeated_with_the_same_run_number(shop, folder):
    """P-57: a process that dies between telling and noting tells again; the run's number lets the receiver see it."""
    project = shop()
    refresh(project)
    store = project.opened.store
    with store.write() as tx:
        assert notify.pending(tx, TOLD) is None  # a new channel begins at the end of the log
    project.trigger("line", force=True)

    with store.write() as tx:
        first = notify.pending(tx, TOLD)
    with store.write() as tx:
        again = notify.pending(tx, TOLD)
        notify.delivered(tx, TOLD, again, 1, None)
        after = notify.pending(tx, TOLD)

    assert first == again
    assert [one["run_id"] for one in first.values()] == [2]
    assert after is None


def test_a_receiver_that_is_down_is_tried_eight_times_ever_more_slowly_and_then_recorded(shop, clock):
    """P-57: what cannot be delivered waits, is told later in order, and is never dropped in silence."""
    project = shop(clock=clock)
    refresh(project)
    store = project.opened.store
    with store.write() as tx:
        notify.pending(tx, TOLD)
    project.trigger("line", force=True)
    waits = []

    for _ in range(8):
        with store.write() as tx:
            found = notify.pending(tx, TOLD)
            assert found is not None
            notify.delivered(tx, TOLD, found, 0, "ConnectionError: refused")
            place = log.cursor(tx, notify.reader(TOLD))
            early = notify.pending(tx, TOLD)
        if place.next_at:
            waits.append(round((notify_at(place) - clock.now()).total_seconds()))
            assert early is None
            clock.wall = notify_at(place)

    with store.read() as tx:
        failed = log.after(tx, 0, kinds=[Kind.NOTIFY_FAILED])
    assert waits == [10, 20, 40, 80, 160, 320, 640]
    assert [one.data["tries"] for one in failed] == [1, 8]
    assert failed[0].data["problem"] == "ConnectionError: refused"
    with store.write() as tx:
        assert notify.pending(tx, TOLD) is None


def test_one_message_that_never_goes_through_costs_no_other(shop, clock):
    """P-57: those before it are told once, those behind it get their turn when its tries are over."""
    project = shop(clock=clock)
    refresh(project)
    store = project.opened.store
    with store.write() as tx:
        notify.pending(tx, TOLD)
    for _ in range(3):
        project.trigger("line", force=True)
    told = []

    while True:
        with store.write() as tx:
            found = notify.pending(tx, TOLD)
            if found is None:
                break
            runs = [one["run_id"] for one in found.values()]
            done = runs.index(3) if 3 in runs else len(runs)  # run 3 is never taken
            told += runs[:done]
            notify.delivered(tx, TOLD, found, done, "refused" if 3 in runs else None)
            place = log.cursor(tx, notify.reader(TOLD))
        if place.next_at:
            clock.wall = notify_at(place)

    assert told == [2, 4]


def notify_at(place):
    from evertrain.clock import from_text

    return from_text(place.next_at)


def test_what_failed_to_be_told_is_told_once_the_receiver_is_back(shop, clock, folder):
    (folder / "told").mkdir()  # so that the callback raises
    project = shop(TOLD, clock=clock)
    refresh(project)
    assert [one["state"] for one in project.history()] == ["succeeded"]

    (folder / "told").rmdir()
    clock.advance(seconds=11)
    refresh(project)

    assert [more["run_id"] for *_, more in told(folder)] == [1]


SLOW = """
import json, time
from pathlib import Path

def told(model_name, status, duration, **more):
    Path("began").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    with Path("told").open("a") as file:
        file.write(json.dumps([model_name, status, duration, more]) + "\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["asked for", "seen"])
def test_a_receiver_that_hangs_delays_no_training(shop, folder, way):
    """P-57: changed rows are seen, read and trained on while the message of the run before is still under way."""
    (folder / "slow.py").write_text(SLOW)
    project = shop(Callback("slow:told"), executor="children")
    line_model(project, trainer=Custom("toys:Line"), triggers=[on_data_change(quiet="0s")])
    opened, steps, ends = project.opened, [], time.monotonic() + 30

    def stop() -> bool:
        if not steps and (folder / "began").exists():
            steps.append("changed")
            write_rows(folder / "rows.csv", 70)
            if way == "asked for":
                ask.trigger(opened, "line")
        if steps == ["changed"] and "1.1.0" in [
            one["version"] for one in project.history() if one["state"] == "succeeded"
        ]:
            steps.append("trained afterwards" if told(folder) else "trained meanwhile")
        if len(steps) == 2 or time.monotonic() > ends:
            (folder / "go").touch()  # so that the receiver ends
            return True
        return False

    Loop(opened, watch_files=way == "seen").run(stop)

    assert steps == ["changed", "trained meanwhile"]


# --- Apprise ----------------------------------------------------------------------------------------------------


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes what is posted; answers with the server's `answer`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append(json.loads(body))  # type: ignore[attr-defined]
        self.send_response(self.server.answer)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    server.taken, server.answer = [], 200  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("on", ["changed", "all"])
def test_apprise_sends_the_sentence_of_what_changed(shop, receiver, monkeypatch, on):
    pytest.importorskip("apprise")
    monkeypatch.setenv("TELL", f"json://127.0.0.1:{receiver.server_port}/")
    project = shop(Message("env:TELL", on=on))
    refresh(project)
    project.trigger("line")  # not needed: nothing changes
    refresh(project)

    sent = [one["message"] for one in receiver.taken]  # type: ignore[attr-defined]
    assert sent[0] == "Model retrained: line v1.0.0 (r2: 1.000)"
    assert len(sent) == (1 if on == "changed" else 2)
    assert receiver.taken[0]["title"] == "Evertrain"  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_service_that_refuses_is_asked_again_later(shop, receiver, monkeypatch, clock):
    pytest.importorskip("apprise")
    monkeypatch.setenv("TELL", f"json://127.0.0.1:{receiver.server_port}/")
    receiver.answer = 500  # type: ignore[attr-defined]
    project = shop(Message("env:TELL"), clock=clock)
    refresh(project)
    receiver.answer = 200  # type: ignore[attr-defined]
    clock.advance(seconds=11)
    refresh(project)

    assert [one["message"] for one in receiver.taken] == ["Model retrained: line v1.0.0 (r2: 1.000)"] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["env:NOT_SET", "nonsense://somewhere"])
def test_a_channel_that_leads_nowhere_is_recorded_without_its_address(shop, url):
    pytest.importorskip("apprise")
    taken: list[dict] = []

    notify.deliver(notify.task(Message(url), {1: {"text": "hello"}}), taken.append)

    assert taken[0]["type"] == "delivered"
    assert "env:NAME" in taken[0]["problem"]
    assert "nonsense" not in taken[0]["problem"]
