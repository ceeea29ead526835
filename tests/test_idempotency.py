"""P-09: a POST with an `Idempotency-Key` is done once, however often, from wherever and after whatever it is sent."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from evertrain.control import ask
from evertrain.errors import StaleAttempt
from evertrain.server import once
from evertrain.store import leases, requests
from evertrain.store.requests import Claim

from . import api_kit

RETRAIN = "/models/line/retrain"
FORCED = {"partitions": [{"town": "T00"}], "force": True}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with api_kit.opened(tmp_path_factory.mktemp("once") / "shop") as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_waits(api):
    yield
    for run in api.get("/runs", state="queued")["items"]:
        api.post(f"/runs/{run['run']}/cancel")


def asked(api, key, body=FORCED, path=RETRAIN, who=None):
    client = api.client if who is None else who
    return client.post(f"/api/v1{path}", json=body, headers={"Idempotency-Key": key})


def runs(api):
    return len(api.get("/runs", limit=1000)["items"])


def test_fifty_at_once_are_one_run_and_fifty_equal_answers(api):
    before = runs(api)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: asked(api, "fifty"), range(50)))
    assert {one.status_code for one in answers} == {202}
    assert len({one.content for one in answers}) == 1
    assert len({one.headers["location"] for one in answers}) == 1
    assert sum("idempotency-replayed" in one.headers for one in answers) == 49
    assert runs(api) == before + 1


def test_without_a_key_every_request_is_done(api):
    before = runs(api)
    for _ in range(2):
        api.post(RETRAIN, FORCED, 202)
    assert runs(api) == before + 2


def test_the_first_answer_is_given_again_after_a_restart(api):
    first = asked(api, "restart")
    again = asked(api_again := api_kit.Api(api.project), "restart")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert api_again.service is not api.service


@pytest.mark.parametrize(
    ("body", "path"), [({**FORCED, "force": False}, RETRAIN), (FORCED, RETRAIN + "?"), (None, "/models/line/pause")]
)
def test_a_key_stands_for_one_request(api, body, path):
    key = "one" + path
    assert asked(api, key).status_code == 202
    answer = asked(api, key, body, path)
    if path.endswith("?"):  # the same request, written otherwise
        assert answer.status_code == 202
    else:
        assert answer.status_code == 422
        assert "another request" in answer.json()["detail"]


def test_a_key_is_its_callers_own(api, monkeypatch):
    before = runs(api)
    asked(api, "shared")
    monkeypatch.setattr(once, "_caller", lambda caller: "token 7")
    assert "idempotency-replayed" not in asked(api, "shared").headers
    assert runs(api) == before + 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_is_short_printable_text(api, key):
    assert asked(api, key).status_code == 422


def test_a_refused_request_may_be_sent_again(api):
    wrong = {"partitions": [{"town": "T09"}]}
    assert asked(api, "refused", wrong).status_code == 404
    assert asked(api, "refused", wrong).status_code == 404
    assert asked(api, "refused").status_code == 202  # nothing was done for the key till now


def test_an_answer_is_kept_for_a_day(api):
    first = asked(api, "day").json()["run"]
    api.opened.store.clock.advance(hours=23, minutes=59)
    assert asked(api, "day").json()["run"] == first
    api.opened.store.clock.advance(minutes=2)
    assert asked(api, "day").json()["run"] > first


# --- a process that dies ----------------------------------------------------------------------------------------


@pytest.fixture
def dead(monkeypatch):
    """The identity of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = {**leases.identity(), "pid": process.pid, "start": leases._start(process.pid)}
    process.communicate(b"\n")
    return known


def claimed_by(api, monkeypatch, process, key, claim_only=True):
    """Begin a request as a process that dies before it answers, and return its claim and digest."""
    seen = []
    real = requests.begin

    def begin(tx, claim, digest):
        seen.append((claim, digest))
        return real(tx, claim, digest)

    with monkeypatch.context() as patch:
        patch.setattr(requests, "begin", begin)
        patch.setattr(leases, "identity", lambda: process)
        if claim_only:  # dead before anything was done
            patch.setattr(ask, "trigger", _dies)
        patch.setattr(requests, "answer", lambda *_: None)
        patch.setattr(requests, "release", lambda *_: None)
        asked(api, key)
    return seen[0]


def _dies(*_, **__):
    raise SystemError("the process is gone")


def test_what_a_dead_process_did_not_do_is_done(api, monkeypatch, dead):
    before = runs(api)
    claimed_by(api, monkeypatch, dead, "undone")
    assert runs(api) == before
    assert asked(api, "undone").status_code == 202
    assert runs(api) == before + 1


def test_what_a_dead_process_did_is_not_done_again(api, monkeypatch, dead):
    """The crash between the work and the answer: the work is in the store, and so is that it was done."""
    before = runs(api)
    claimed_by(api, monkeypatch, dead, "done", claim_only=False)
    assert runs(api) == before + 1
    answer = asked(api, "done")
    newest = api.get("/runs", limit=1)["items"][0]["run"]
    assert (answer.status_code, answer.json()["run"]) == (200, newest)
    assert answer.headers["location"] == f"/api/v1/runs/{newest}"
    assert runs(api) == before + 1


def test_one_that_was_given_up_cannot_do_it_any_more(api, monkeypatch, dead):
    """The fence: who comes back late finds the request done by another, and changes nothing."""
    claim, _ = claimed_by(api, monkeypatch, dead, "late")
    assert asked(api, "late").status_code == 202
    before = runs(api)
    token = once.with_it.set(lambda tx: requests.mark(tx, claim))
    try:
        with pytest.raises(StaleAttempt):
            ask.trigger(api.opened, "line", [{"town": "T00"}], force=True, actor="ana")
    finally:
        once.with_it.reset(token)
    assert runs(api) == before


def test_while_the_first_one_is_being_done_others_wait_and_then_are_told(api, monkeypatch):
    held, begun, real = Event(), Event(), ask.trigger

    def slow(*args, **options):
        begun.set()
        held.wait(10)
        return real(*args, **options)

    monkeypatch.setattr(ask, "trigger", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(asked, api, "slow")
        begun.wait(10)
        monkeypatch.setattr(once, "_WAIT_S", 0.3)
        assert asked(api, "slow").status_code == 409
        monkeypatch.setattr(once, "_WAIT_S", 20)
        second = pool.submit(asked, api, "slow")
        held.set()
        assert first.result().content == second.result().content


def test_a_process_elsewhere_is_given_up_after_a_while(api, monkeypatch):
    """Whether a process of another container lives cannot be seen from here."""
    claimed_by(api, monkeypatch, {**leases.identity(), "namespace": 1, "host": "elsewhere"}, "far")
    monkeypatch.setattr(once, "_WAIT_S", 0.2)
    assert asked(api, "far").status_code == 409
    api.opened.store.clock.advance(minutes=16)
    assert asked(api, "far").status_code == 202


def test_a_claim_is_one_row(store):
    with store.write() as tx:
        claim = Claim("ana", "k", "first")
        assert requests.begin(tx, claim, "d") == claim
        assert requests.begin(tx, Claim("ana", "k", "second"), "d") is None
        assert tx.value("SELECT count(*) FROM requests") == 1
