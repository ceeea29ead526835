"""The API: every noun read a page at a time and steered, refusals in one shape."""

from __future__ import annotations

import json
import math

import pytest

from evertrain.control import browse
from evertrain.errors import StoreBusy, StoreError

from . import api_kit


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with api_kit.opened(tmp_path_factory.mktemp("api") / "shop") as found:
        yield found


def pages(api, path, **query):
    """Return all entries of a list, read in pages of its `limit`."""
    found, cursor = [], None
    while True:
        page = api.get(path, **query, **({"cursor": cursor} if cursor else {}))
        assert set(page) == {"items", "next"}
        assert len(page["items"]) <= query.get("limit", 50)
        found += page["items"]
        if (cursor := page["next"]) is None:
            return found


# --- lists ------------------------------------------------------------------------------------------------------


LISTS = [
    "/models", "/models/line/versions", "/models/line/partitions", "/models/line/scores", "/models/line/activations",
    "/models/line/decisions", "/runs", "/runs/2/items", "/decisions", "/events", "/schedules",
]  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
def test_a_list_read_one_by_one_is_the_whole_list(api, path):
    query = {"town": "T01"} if path.endswith(("/scores", "/activations")) else {}
    whole = pages(api, path, limit=1000, **query)
    assert pages(api, path, limit=1, **query) == whole
    assert len(whole) >= (1 if path == "/schedules" else 2)


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("limit", [0, -1, 1001, 10**9, "x", ""])
def test_a_page_has_between_one_and_a_thousand_entries(api, path, limit):
    """A-43."""
    assert "limit" in api.get(path, 422, limit=limit)["detail"]


def test_lists_are_filtered_by_what_is_allowed_alone(api):
    assert {one["state"] for one in api.get("/runs", state="succeeded")["items"]} == {"succeeded"}
    assert api.get("/runs", model="whole")["items"][0]["model"] == "whole"
    assert api.get("/runs", model="whole", state="failed")["items"] == []
    assert "order" in api.get("/runs", 422, order="id; DROP TABLE runs")["detail"]
    assert "state" in api.get("/runs", 422, state="' OR 1=1 --")["detail"]
    assert api.get("/runs", 404, model="other")["detail"].startswith("model 'other' is not declared; declared: line")
    kinds = {one["kind"] for one in api.get("/events", kind=["run.ended", "run.created"], limit=100)["items"]}
    assert kinds == {"run.ended", "run.created"}
    assert {one["run"] for one in api.get("/events", run=2)["items"]} == {2}
    assert {one["model"] for one in api.get("/events", model="whole")["items"]} == {"whole"}
    assert api.get("/decisions", fired="true", cause="manual")["items"][0]["reason"].startswith("asked by")


def test_the_events_of_a_model_hold_what_became_of_its_runs(api):
    model = next(one["model"] for one in api.get("/runs")["items"] if one["state"] == "succeeded")
    for kind in ("run.started", "items.settled", "run.ended"):
        found = api.get("/events", model=model, kind=kind)["items"]
        assert {one["model"] for one in found} == {model}, kind


def test_events_come_newest_first_without_a_gap(api):
    numbers = [one["id"] for one in pages(api, "/events", limit=7)]
    assert numbers == list(range(numbers[0], 0, -1))


def test_a_trainers_traceback_is_for_the_log_of_the_service_alone():
    """A-76."""
    from evertrain.clock import from_text
    from evertrain.events import Event, Kind

    failed = {"outcomes": {"failed": "7"}, "reason": "the trainer is unwell", "error": "Traceback: password=hunter2"}
    told = browse.told(Event(1, from_text("2026-01-01T00:00:00.000000Z"), Kind.ITEMS_SETTLED, "line", 7, "x", failed))
    assert "unwell" in told.text
    assert "hunter2" not in told.text
    assert "error" not in told.data


# --- cursors ----------------------------------------------------------------------------------------------------


def test_a_cursor_is_good_for_its_own_list_and_filters_alone(api):
    cursor = api.get("/events", limit=1, model="line")["next"]
    assert api.get("/events", limit=1, model="line", cursor=cursor)["items"]
    for path, query in (("/events", {}), ("/events", {"model": "whole"}), ("/runs", {}), ("/models/line/versions", {})):
        assert "cursor" in api.get(path, 422, cursor=cursor, **query)["detail"]


@pytest.mark.parametrize("place", [["x"], [-1], [2**63], [1.5], [True], [None], [], [1, 2], [[1]], {"a": 1}])
def test_a_forged_cursor_is_refused(api, place):
    """A-43: whatever stands in it, nothing but a place of this very list reaches the store."""
    forged = browse.write_cursor("events", {}, place)
    assert api.get("/events", 422, cursor=forged)["field"] == "cursor"


@pytest.mark.parametrize("text", ["", "x", "e30", "bnVsbA", "W10", "?", "é", "A" * 4097, "[" * 300, "W1tbW1tb"])
def test_a_cursor_of_any_other_text_is_refused(api, text):
    assert "cursor" in api.get("/events", 422, cursor=text)["detail"]


# --- models -----------------------------------------------------------------------------------------------------


def test_a_model_is_shown_with_how_it_stands_and_what_it_is(api):
    found = api.get("/models/line")
    assert (found["name"], found["partitions"], found["serving"], found["due"]) == ("line", 5, 5, 0)
    assert found["dimensions"] == ["town"]
    assert found["rollups"] == [[]]
    assert found["features"] == ["x"]
    assert found["triggers"] == ["data_change", "schedule"]
    assert found["trained_at"].endswith("Z")
    assert api.get("/models/nothing", 404)["title"] == "Not Found"
    assert api.get("/models/line/config")["declaration"]["target"] == "y"
    assert api.get("/models/line/why")["partition"]["name"] == "Overall"


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("t01", ["T01"]),
        ("T0", ["T00", "T01", "T02", "T03"]),
        ("town", []),
        ("%", []),
        ("' OR 1=1 --", []),
        ("t0 2", ["T02"]),
    ],
)
def test_partitions_are_found_by_words_of_their_values(api, q, names):
    """A-43: a search is a text, never a pattern, and the names of dimensions are no values."""
    assert [one["name"] for one in api.get("/models/line/partitions", q=q)["items"]] == names


def test_partitions_are_filtered(api):
    def named(**query):
        return [one["name"] for one in api.get("/models/line/partitions", **query)["items"]]

    assert named(rollup="true") == ["Overall"]
    assert named(rollup="false") == ["T00", "T01", "T02", "T03"]
    assert named(behind="true") == ["T01"]
    assert len(named(behind="false")) == 4
    assert named(serving="false") == []
    assert len(named(outcome="promoted")) == 5
    assert named(outcome="failed") == []


def test_champion_activations_and_scores_tell_the_rollback(api):
    champion = api.get("/models/line/champion", town="T01")
    assert champion["version"] == "1.0.0"
    assert champion["why"] == "rolled back: a test"
    assert champion["name"] == "T01"
    served = api.get("/models/line/activations", town="T01")["items"]
    assert [(one["version"], one["rolled_back"]) for one in served] == [
        ("1.0.0", False),
        ("1.1.0", True),
        ("1.0.0", False),
    ]
    assert served[0]["until_at"] is None
    assert served[1]["until_at"] == served[0]["from_at"]
    scores = api.get("/models/line/scores", town="T01")["items"]
    assert [(one["version"], one["outcome"], one["serving"], one["rolled_back"]) for one in scores] == [
        ("1.1.0", "promoted", False, True),
        ("1.0.0", "promoted", True, False),
    ]
    assert len(scores[1]["served"]) == 2
    assert api.client.get("/api/v1/models/line/champion?town=T01").headers["X-Model-Version"] == "1.0.0"


def test_what_a_query_names_must_be_a_partition(api):
    assert "town" in api.get("/models/line/champion", 422, city="T01")["detail"]
    assert "T09" in api.get("/models/line/champion", 404, town="T09")["detail"]
    twice = api.client.get("/api/v1/models/line/champion?town=T01&town=T02")
    assert twice.status_code == 422
    assert "one value" in twice.text


def test_a_model_without_a_champion_says_how_far_its_first_training_is(api):
    assert "no model yet" in api.get("/models/new/champion", 404)["detail"]
    assert "no model yet" in api.post("/models/new/predict", {"rows": [{"x": 1.0}]}, 404)["detail"]


def test_a_version_counts_what_it_serves(api):
    found = api.get("/models/line/versions")["items"]
    assert [(one["version"], one["fits"], one["serving"], one["state"]) for one in found] == [
        ("1.1.0", 2, 1, "serving"),
        ("1.0.0", 5, 4, "serving"),
    ]


# --- answering --------------------------------------------------------------------------------------------------


def test_predictions_name_their_version(api):
    answer = api.client.post(
        "/api/v1/models/line/predict", json={"rows": [{"town": "T01", "x": 3.0}, {"town": "T77", "x": 4}]}
    )
    told = answer.json()
    assert told["predictions"] == pytest.approx([5.0, 7.0], abs=0.1)
    assert told["answered_by"] == ["T01", "Overall"]
    assert told["fallback"]
    assert answer.headers["X-Model-Version"] == ", ".join(dict.fromkeys(told["versions"]))
    assert api.post("/models/whole/predict", {"rows": [{"x": 2.0}]})["ids"] == []


@pytest.mark.parametrize(
    "body",
    [
        '{"rows": [{"x": NaN}]}', '{"rows": [{"x": Infinity}]}', '{"rows": [{"x": 1e999}]}', '{"rows": [{"x": 1}], "y": 2}',
        '{"rows": []}', '{"rows": [1]}', '{"rows": [{"x": [1]}]}', '{"rows": [{"x": 1, "x": 2}]}', '{"rows"', "[]", "null", "",
        '{"rows": [{"x": 99999999999999999999}]}', '{"rows": [{"x": "\\ud800"}]}', "[" * 100_000, '{"rows": [{"x": 1}]} x',
        '{"rows": [{"x": 1}], "observe": "yes"}', '{"rows": [{"x": 1}], "partition": {"town": {}}}',
    ],
)  # fmt: skip
def test_json_that_is_not_strict_is_refused(api, body):
    """A-37, A-40."""
    answer = api.client.post("/api/v1/models/whole/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"


def test_json_comes_as_json(api):
    """A-11: a form or a plain text of another site is no request."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = api.client.post(
            "/api/v1/models/whole/predict", content='{"rows":[{"x":1}]}', headers={"content-type": kind}
        )
        assert answer.status_code in (403, 415, 422)


def test_a_request_predicts_ten_thousand_rows_at_most(api):
    api.post("/models/whole/predict", {"rows": [{"x": 1.0}] * 10_000})
    assert "10000" in api.post("/models/whole/predict", {"rows": [{"x": 1.0}] * 10_001}, 422)["detail"]


def test_what_a_model_answers_is_never_nan(api, monkeypatch):
    import numpy as np

    from evertrain.serving import Prediction, Predictor

    monkeypatch.setattr(
        Predictor,
        "answer",
        lambda self, rows, partition, ids: Prediction(np.array([math.nan, 1.0]), ["1.0.0"] * 2, ["w"] * 2, False),
    )
    assert api.post("/models/whole/predict", {"rows": [{"x": 1.0}] * 2})["predictions"] == [None, 1.0]


def test_observations_and_actuals_meet_by_id(api):
    rows = [{"order": f"A-{n}", "x": float(n), "prediction": 2.0 * n} for n in range(3)]
    noted = api.post("/models/whole/observations", {"rows": rows, "id": "order"}, 201)
    assert noted["new"] == 3
    assert noted["ids"] == ["A-0", "A-1", "A-2"]
    actual = [{"order": "A-1", "actual": 2.5}]
    assert api.post("/models/whole/actuals", {"rows": actual, "id": "order"}, 201)["matched"] == 1
    assert "prediction" in api.post("/models/whole/observations", {"rows": [{"x": 1.0}]}, 422)["detail"]


# --- steering ---------------------------------------------------------------------------------------------------


def test_retrain_is_taken_on_with_its_run(api):
    plan = api.get("/models/line/plan", town="T02")
    assert (plan["partitions"], plan["leaves"], plan["of"]) == (2, 1, 5)
    answer = api.client.post("/api/v1/models/line/retrain", json={"partitions": [{"town": "T02"}], "force": True})
    told = answer.json()
    assert (
        answer.status_code == 202 and told["partitions"] == 2 and told["reason"] == "asked by ana with force"
    ) or told
    assert answer.headers["Location"] == f"/api/v1/runs/{told['run']}"
    run = api.get(f"/runs/{told['run']}")
    assert run["state"] == "queued"
    assert run["actor"] == "ana"
    assert run["counts"] == {"waiting": 2}
    api.train(told["run"])
    ended = api.get(f"/runs/{told['run']}")
    assert ended["state"] == "succeeded"
    assert ended["done"] == 2
    assert ended["outcome"]
    items = api.get(f"/runs/{told['run']}/items", state="promoted")["items"]
    assert {one["name"] for one in items} == {"T02", "Overall"}
    assert "T09" in api.post("/models/line/retrain", {"partitions": [{"town": "T09"}]}, 404)["detail"]
    assert "no dimension" in api.post("/models/line/retrain", {"partitions": [{"city": "T02"}]}, 404)["detail"]


def test_an_application_that_changed_its_records_gets_the_announcement(api):
    """S0-23."""
    told = api.post("/models/line/retrain", {"partitions": [{"town": "T03"}], "changed": True}, 202)
    assert told["announcement"] == "Records updated. Models for T03 and Overall are being updated in the background."
    assert "partitions" in api.post("/models/line/retrain", {"changed": True}, 422)["allowed"]
    api.train(told["run"])


def test_a_run_is_cancelled_and_what_failed_in_it_tried_again(api):
    run = api.post("/models/line/retrain", {"force": True}, 202)["run"]
    assert api.post(f"/runs/{run}/cancel") == {"run": run, "state": "cancelled"}
    again = api.post(f"/runs/{run}/retry-failed", status=202)
    assert again["partitions"] == 5
    assert api.post(f"/runs/{again['run']}/cancel")["state"] == "cancelled"
    assert "nothing failed" in api.post("/runs/1/retry-failed", status=409)["detail"]


@pytest.mark.parametrize("number", ["0", "-1", "01", "%201", "1e9", "9223372036854775808", "x", "999999"])
def test_a_number_that_no_run_has_is_not_found(api, number):
    """A-05: whatever is wrong with it, the answer is the same."""
    for path in (f"/runs/{number}", f"/runs/{number}/items"):
        assert api.get(path, 404)["title"] == "Not Found"
    api.post(f"/runs/{number}/cancel", status=404)
    api.delete(f"/schedules/{number}", 404)
    api.delete(f"/tokens/{number}", 404)
    api.get(f"/runs/{number}/events", 404)


def test_rollback_and_pin(api):
    run = api.post("/models/whole/retrain", {"force": True}, 202)["run"]
    api.train(run)
    told = api.post("/models/whole/rollback", {"pin": True, "why": "orders look wrong"})
    assert (told["before"], told["after"], told["pinned"]) == ("1.1.0", "1.0.0", True)
    assert api.get("/models/whole/champion")["why"] == "rolled back: orders look wrong"
    assert api.get("/models/whole/champion")["pinned"]
    assert api.post("/models/whole/pin", {"pinned": False}) == {"model": "whole", "pinned": False, "partitions": 1}
    assert "serves" in api.post("/models/whole/rollback", {"to": "9.9.9"}, 409)["detail"]
    assert "to" in api.post("/models/whole/rollback", {"to": "../x"}, 422)["detail"]
    api.post("/models/line/pin", {"partitions": [{"town": "nowhere"}]}, 404)


def test_what_needs_a_human_says_how_to_clear_it(api):
    api.post("/models/whole/pause")
    need = next(one for one in api.get("/attention")["items"] if one["model"] == "whole" and one["call"])
    api._checked(api.client.request(need["call"]["method"], need["call"]["path"], json=need["call"]["body"]), 200)
    assert not api.get("/models/whole")["paused"]


def test_the_report_counts_retrainings(api):
    told = api.get("/report", last="30d", model="line")
    assert told["together"]["retrainings"] >= 2
    assert "last" in api.get("/report", 422, last="soon")["detail"]
    assert "price" in api.get("/report", 422, price="inf")["detail"]


def test_pausing_a_model_and_the_project(api):
    assert api.post("/models/line/pause") == {"model": "line", "paused": True}
    assert api.get("/models/line")["health"] == "paused"
    assert api.post("/models/line/resume")["paused"] is False
    api.post("/pause")
    assert api.get("/status")["paused"]
    api.post("/resume")
    assert not api.get("/status")["paused"]
    api.post("/models/nothing/pause", status=404)


def test_schedules_are_added_and_removed(api):
    added = api.post("/schedules", {"model": "line", "weekly": "mon", "at": "04:30"}, 201)
    assert added["origin"] == "added"
    assert "Monday" in added["rule"]
    assert [one["origin"] for one in api.get("/schedules", model="line")["items"]].count("added") == 1
    assert api.delete(f"/schedules/{added['schedule']}")["schedule"] == added["schedule"]
    api.delete(f"/schedules/{added['schedule']}", 404)
    for wrong in ({}, {"daily": "25:00"}, {"cron": "0 0 31 2 *"}, {"cron": "* * * * * *"}, {"daily": "03:00", "monthly": 2},
                  {"daily": "03:00", "zone": "../etc/passwd"}, {"weekly": "someday"}):  # fmt: skip
        assert api.post("/schedules", {"model": "line", **wrong}, 422)["allowed"]


def test_when_too_much_waits_nothing_more_is_taken_on(api, monkeypatch):
    """P-15: 429 says when to come again; what was accepted is still there."""
    from dataclasses import replace

    monkeypatch.setattr(api.service, "options", replace(api.service.options, max_queue=3))
    first = api.post("/models/line/retrain", {"partitions": [{"town": "T00"}, {"town": "T01"}], "force": True}, 202)
    answer = api.client.post("/api/v1/models/line/retrain", json={"partitions": [{"town": "T02"}], "force": True})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "5"
    assert "3 trainings wait" in answer.text
    assert api.get(f"/runs/{first['run']}")["counts"] == {"waiting": 3}
    api.post(f"/runs/{first['run']}/cancel")
    api.post("/models/line/retrain", {"partitions": [{"town": "T02"}], "force": True}, 202)
    api.post(f"/runs/{api.get('/runs')['items'][0]['run']}/cancel")


# --- the service ------------------------------------------------------------------------------------------------


def test_ready_tells_when_it_is_not(api, monkeypatch):
    """P-24: stopping, a loop that hangs, or a store that is away."""
    assert api.client.get("/health").json() == {"status": "ok"}
    assert api.client.get("/ready").json() == {"status": "ready", "loop_age_s": None}

    class Stuck:
        age_s = 59.9

    monkeypatch.setattr(api.service, "_loop", Stuck())
    assert api.client.get("/ready").status_code == 200
    Stuck.age_s = 60.1
    answer = api.client.get("/ready")
    assert answer.status_code == 503
    assert "60 s" in answer.json()["detail"]
    assert answer.headers["Retry-After"]
    monkeypatch.setattr(api.service, "_loop", None)
    with monkeypatch.context() as patch:
        patch.setattr(api.opened.store, "read", _failing(StoreError("the disk is gone")))
        assert api.client.get("/ready").json()["detail"] == "the disk is gone"
    api.service.stopping.set()
    assert api.client.get("/ready").status_code == 503
    api.service.stopping.clear()
    assert api.client.get("/ready").status_code == 200


def _failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status"), [(StoreBusy("busy"), 503), (StoreError("the disk is full: x cannot grow"), 507)]
)
def test_a_store_that_cannot_write_says_what_still_serves(api, monkeypatch, error, status):
    monkeypatch.setattr(api.opened.store, "write", _failing(error))
    told = api.client.post("/api/v1/models/line/retrain", json={})
    assert told.status_code == status
    assert told.headers["Retry-After"]
    assert "answered on" in told.json()["serving"]


def test_the_loop_is_started_and_stopped(api):
    assert api.post("/monitoring/start") == {"monitoring": True, "changed": True}
    assert api.post("/monitoring/start") == {"monitoring": True, "changed": False}
    api.post("/monitoring/stop")
    api.service.wait_for_loop(20)
    assert api.service.loop is None


# --- the description --------------------------------------------------------------------------------------------


def test_every_operation_is_described_with_examples(api):
    document = api.get("/openapi.json")
    names = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            names.append(told["operationId"])
            assert told["tags"], path
            assert told.get("description"), path
            if body := told.get("requestBody"):
                for kind, content in body["content"].items():
                    if "parquet" in kind or "multipart" in kind:  # bytes, which nobody reads as an example
                        continue
                    schema = content["schema"]
                    schema = (
                        document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                        if "$ref" in schema
                        else schema
                    )
                    assert "example" in content or "example" in schema or "examples" in schema, (method, path)
            good = [answer for status, answer in told["responses"].items() if status.startswith("2")]
            for answer in good:
                for kind, content in answer.get("content", {}).items():
                    assert kind != "application/json" or "example" in content, (method, path)
    assert len(set(names)) == len(names)
    listed = document["paths"]["/api/v1/runs"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert listed["next"] is None


def test_the_page_of_the_api_needs_no_script_and_no_other_host(api):
    """A-15: it opens offline under the content security policy."""
    page = api.client.get("/api/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for word in ("<script", "style=", "http-equiv", "https://"):
        assert word not in page.text
    assert "/api/v1/models/{name}/retrain" in page.text
    assert "curl" in page.text
    assert api.client.get("/static/docs.css").status_code == 200


def test_values_of_any_kind_are_answered_as_json(api):
    """No answer holds NaN: strict JSON reads every one."""
    for path in (
        "/report",
        "/attention",
        "/status",
        "/models",
        "/models/line",
        "/models/line/scores",
        "/decisions",
        "/runs",
        "/events",
    ):
        json.loads(api.client.get(f"/api/v1{path}").text, parse_constant=_failing(AssertionError("no JSON")))
