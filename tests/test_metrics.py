"""Metrics: the names of the documents, totals that only grow, labels that are bounded, scrapes that cost what changed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from evertrain import registry
from evertrain.config import Home, Settings
from evertrain.control.opened import Opened
from evertrain.control.report import TRIGGER_TYPES
from evertrain.drift.signal import Severity
from evertrain.events import Kind
from evertrain.server.metrics import MODELS, OTHER, Counters, Metrics
from evertrain.specs import Cause, CsvFile, Series
from evertrain.states import ItemState
from evertrain.store import decisions, figures, leases, models, upkeep
from evertrain.store.connect import Store
from evertrain.triggers import Decision

from .api_kit import Api
from .test_report import Past
from .test_store_kit import SHOP, SOLO, model_spec, project_spec


def told(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by name and labels, in the order of their names."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def only(found: dict[tuple[str, ...], float], name: str) -> dict[tuple[str, ...], float]:
    return {labels[1:]: value for labels, value in found.items() if labels[0] == name}


def totals(found: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """What may only grow."""
    return {one: value for one, value in found.items() if one[0].endswith(("_total", "_bucket", "_count", "_sum"))}


@pytest.fixture
def past(store: Store, tmp_path: Path) -> Past:
    return Past(store, tmp_path)


@pytest.fixture
def metrics(past: Past) -> Metrics:
    return Metrics(past.opened)


def a_little_of_everything(past: Past) -> None:
    past.retrained(Cause.DECLARATION, wall_s=1.5, cpu_s=2)
    past.retrained(Cause.DATA_CHANGE, wall_s=20, gain=3.0)
    past.retrained(Cause.DRIFT, ItemState.REJECTED, wall_s=40, gain=-20.0)
    past.retrained(Cause.AGE, ItemState.FAILED, wall_s=4000)
    past.retrained(Cause.SCHEDULE, ItemState.SKIPPED, wall_s=5)


def decided(past: Past, *, fired: bool = True) -> None:
    with past.store.write() as tx:
        decision = Decision(Cause.DRIFT, "drift", fired, "x", "for the test", Severity.HIGH)
        decisions.record(tx, past.ids[SOLO], SOLO, decision, action="observe" if fired else "none")


def test_the_names_and_labels_are_those_of_the_documents(past: Past, metrics: Metrics) -> None:
    """S2-23, S2-24, S2-25, S2-26, S2-27; S0-34, S0-37."""
    a_little_of_everything(past)
    past.clock.advance(seconds=100)
    found = told(metrics)
    name = f"model_name={SOLO}"

    assert only(found, "model_retraining_triggered_total") == {
        (name, f"trigger_type={one}"): 1 for one in ("manual", "data_change", "drift", "age", "schedule")
    }
    assert only(found, "model_retraining_duration_seconds_count") == {
        (name, "status=success"): 3,
        (name, "status=failed"): 1,
    }
    assert only(found, "model_retraining_duration_seconds_sum") == pytest.approx(
        {(name, "status=success"): 61.5, (name, "status=failed"): 4000}, abs=0.01
    )
    buckets = only(found, "model_retraining_duration_seconds_bucket")
    assert [buckets[f"le={le}", name, "status=success"] for le in ("1.0", "2.0", "10.0", "30.0", "60.0", "+Inf")] == [
        0, 1, 1, 2, 3, 3,
    ]  # fmt: skip
    assert [buckets[f"le={le}", name, "status=failed"] for le in ("3600.0", "+Inf")] == [0, 1]
    assert only(found, "model_retraining_success_total") == {(name,): 3}
    assert only(found, "model_retraining_failure_total") == {("error_type=ValueError", name): 1}
    # The first champion gave way to the second, which was trained 40 + 4000 + 5 + 100 seconds ago.
    assert only(found, "model_age_seconds") == {(name,): pytest.approx(4145, abs=0.01)}


def test_verdicts_and_decisions_are_counted(past: Past, metrics: Metrics) -> None:
    a_little_of_everything(past)
    for fired in (True, True, False):
        decided(past, fired=fired)
    found, name = told(metrics), f"model_name={SOLO}"

    assert only(found, "evertrain_verdicts_total") == {
        (name, "verdict=promoted"): 2, (name, "verdict=refused"): 1, (name, "verdict=failed"): 1, (name, "verdict=skipped"): 1,
    }  # fmt: skip
    assert only(found, "evertrain_decisions_total") == {("action=observe", name, "trigger_type=drift"): 2}


def test_a_process_that_was_there_all_the_time_tells_what_one_that_starts_now_does(
    past: Past, metrics: Metrics
) -> None:
    """Totals are monotone across restarts: what was added step by step is what the tables sum up to."""
    past.find("Pilar", "Hermosa")
    before: dict[tuple[str, ...], float] = {}
    for step in range(8):
        if step % 2:
            a_little_of_everything(past)
        else:
            past.train(ItemState.REJECTED if step % 4 else ItemState.PROMOTED)
            past.cancel(past.asked("Pilar"))
        now = told(metrics)
        assert {
            one: (value, now.get(one)) for one, value in totals(before).items() if not now.get(one, -1) >= value
        } == {}
        before = now

    assert totals(told(Metrics(past.opened))) == pytest.approx(totals(before))
    assert sum(only(before, "model_retraining_triggered_total").values()) == len(past.rows("SELECT id FROM runs"))


def test_totals_survive_the_retention_of_the_log(past: Past, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go, what they told of stays: of this process, of one that missed them, and of one that starts later."""
    monkeypatch.setattr(upkeep, "_EVENTS_KEPT", 1)
    idle = Metrics(past.opened)
    a_little_of_everything(past)
    with past.store.write() as tx:
        figures.stood_in(tx, 7)
        tx.event(Kind.FORECAST_FALLBACK, model=SOLO, count=7, example="x", why="for the test")
    idle.render()
    decided(past)
    a_little_of_everything(past)
    decided(past)
    before = told(metrics)
    past.clock.advance(days=100)
    with past.store.write() as tx:
        assert upkeep.trim_events(tx, days=90) > 20
        assert tx.value("SELECT count(*) FROM events") == 1

    assert before["evertrain_forecast_fallback_total",] == 7
    assert sum(only(before, "evertrain_decisions_total").values()) == 2
    for one in (metrics, idle, Metrics(past.opened)):
        assert totals(told(one)) == pytest.approx(totals(before))


def test_models_beyond_the_fiftieth_share_one_label_and_none_moves(store: Store, tmp_path: Path) -> None:
    """The labels go to those that are trained most; what was named keeps its name, so that no total ever falls."""
    names = [f"m{number:02d}" for number in range(60)]
    past = Past(store, tmp_path, *(model_spec(one) for one in names))
    for name in names:
        past.plan(name)
    past.retrained(model="m59")
    with past.store.write() as tx:
        tx.run("UPDATE partitions SET trained_at = '2026-01-01T00:00:00.000000Z', champion_id = 1")
    metrics = Metrics(past.opened)
    found = only(told(metrics), "model_retraining_triggered_total")

    assert len({labels[0] for labels in found}) == MODELS + 1
    assert found[f"model_name={OTHER}", "trigger_type=manual"] == 10
    assert ("model_name=m59", "trigger_type=data_change") in found
    assert not [labels for labels in found if "m49" in labels[0]]
    past.retrained(model="m49")
    for name in ("model_age_seconds", "evertrain_partitions_live", "model_retraining_triggered_total"):
        labels = {one[0] for one in only(told(metrics), name)}
        assert len(labels) == MODELS + 1, name
        assert f"model_name={OTHER}" in labels
    metrics.counters.read("x" * 500)
    assert (
        only(told(metrics), "evertrain_forecast_reads_total")["answer=own", "behind=false", f"model_name={OTHER}"] == 1
    )


def test_errors_beyond_the_fiftieth_share_one_label(past: Past, metrics: Metrics) -> None:
    past.retrained(Cause.DECLARATION)
    for number in range(55):
        past.retrained(Cause.AGE, ItemState.FAILED, error_class=f"Error{number}")
    found = only(told(metrics), "model_retraining_failure_total")

    assert len(found) == 51
    assert found[f"error_type={OTHER}", f"model_name={SOLO}"] == 5


def test_every_trigger_type_is_of_the_one_list(past: Past, metrics: Metrics) -> None:
    for cause in Cause:
        past.retrained(cause)
    found = {
        labels[1].removeprefix("trigger_type=") for labels in only(told(metrics), "model_retraining_triggered_total")
    }

    assert found == set(TRIGGER_TYPES)


def test_what_waits_is_told_with_its_age_and_what_is_due_and_behind(past: Past, metrics: Metrics) -> None:
    past.find("Pilar", "Hermosa", "Orani")
    past.train()
    told(metrics)
    past.want(["Pilar", "Orani"])
    found, name = told(metrics), (f"model_name={SHOP}",)
    assert only(found, "evertrain_partitions_due")[name] == 2
    assert only(found, "evertrain_partitions_behind")[name] == 2
    assert only(found, "evertrain_partitions_live")[name] == 4

    past.plan(SHOP)
    past.clock.advance(seconds=30)
    found = told(metrics)
    assert only(found, "evertrain_queue_items") == {("state=waiting",): 2, ("state=running",): 0}
    assert found["evertrain_queue_age_seconds",] == pytest.approx(30)

    past.train(ItemState.REJECTED)
    found = told(metrics)
    assert (only(found, "evertrain_partitions_due")[name], only(found, "evertrain_partitions_behind")[name]) == (0, 2)
    assert found["evertrain_queue_age_seconds",] == 0


def test_periods_of_stored_forecasts_are_counted_where_they_serve(store: Store, tmp_path: Path) -> None:
    """S0-35: rows of forecasts: one for each period of each partition that has a champion."""
    past = Past(store, tmp_path)
    series = model_spec(SHOP, partition_by=["town"], series=Series(14))
    dated = replace(project_spec(), sources={"rows": CsvFile("rows.csv", time="ds")})
    with store.write() as tx:
        models.apply(tx, replace(dated, models={SHOP: series, SOLO: model_spec(SOLO)}), "x")
    past.find("Pilar", "Hermosa")
    metrics = Metrics(past.opened)
    assert sum(only(told(metrics), "evertrain_forecast_rows").values()) == 0
    past.train()

    assert only(told(metrics), "evertrain_forecast_rows") == {(f"model_name={SHOP}",): 3 * 14}


def test_the_age_of_the_loop_is_told_also_when_it_is_gone(past: Past, metrics: Metrics) -> None:
    assert "evertrain_loop_age_seconds" not in {one[0] for one in told(metrics)}
    owner = past.worker()
    with past.store.write() as tx:
        leases.take_role(tx, "loop", owner)
        leases.sign(tx, "loop")
    past.clock.advance(seconds=7)
    found = told(metrics)
    assert (found["evertrain_loop_up",], found["evertrain_loop_age_seconds",]) == (1, pytest.approx(7))
    past.clock.advance(minutes=5)
    found = told(metrics)
    assert (found["evertrain_loop_up",], found["evertrain_loop_age_seconds",]) == (0, pytest.approx(307))


def test_what_a_process_counts_is_told(past: Past, metrics: Metrics) -> None:
    """S0-36, S0-43: what answered, whether a training was due meanwhile, and how old the answer was."""
    counters = metrics.counters
    counters.read(SOLO, age_s=30)
    counters.read(SOLO, answer="rollup", behind=True, age_s=7200)
    counters.read(SOLO, answer="none")
    counters.swapped(0.2)
    for status in (200, 204, 404, 503):
        counters.request(status)
    with counters.stream(), counters.stream():
        found = told(metrics)
    name = f"model_name={SOLO}"

    assert only(found, "evertrain_forecast_reads_total") == {
        ("answer=own", "behind=false", name): 1, ("answer=rollup", "behind=true", name): 1, ("answer=none", "behind=false", name): 1,
    }  # fmt: skip
    assert found["evertrain_forecast_read_age_seconds_bucket", "le=60.0"] == 1
    assert found["evertrain_forecast_read_age_seconds_bucket", "le=3600.0"] == 1
    assert found["evertrain_forecast_read_age_seconds_count",] == 2
    assert found["evertrain_swap_seconds_bucket", "le=0.25"] == 1
    assert only(found, "evertrain_http_requests_total") == {("status=2xx",): 2, ("status=4xx",): 1, ("status=5xx",): 1}
    assert found["evertrain_streams_open",] == 2
    assert told(metrics)["evertrain_streams_open",] == 0


def test_many_threads_count_without_losing_any() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(2000):
            counters.read("m", age_s=1.0)
            counters.request(200)
            with counters.stream():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = counters.copied()

    assert found.reads == {("m", "own", False): 16_000}
    assert (found.requests["2xx"], found.streams, found.ages.counts[0]) == (16_000, 0, 16_000)


def test_the_build_is_told(metrics: Metrics) -> None:
    from evertrain import __version__

    assert [one for one in told(metrics) if one[0] == "evertrain_build_info" and f"version={__version__}" in one]


def test_a_scrape_reads_what_changed_and_not_what_exists(store: Store, tmp_path: Path, monkeypatch) -> None:
    """A hundred thousand partitions and two hundred thousand items are summed once."""
    past = Past(store, tmp_path, model_spec(SHOP, partition_by=["town"]))
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
    with past.store.write() as tx:
        tx.run(f"{many} INSERT INTO partitions(model_id, key, leaf) SELECT 1, json_object('town', i), 1 FROM n")
        past_run = "INSERT INTO runs(model_id, state, kind, cause, reason, actor, items, partitions, created_at) VALUES"
        tx.run(f"{past_run} (1, 'succeeded', 'full', 'age', 'x', 'x', 1, 1, '2026-01-01')")
        tx.run(
            f"{many} INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, available_at)"
            " SELECT 1, 1, i, 'promoted', 'age', 0, '' FROM n"
        )
    metrics = Metrics(past.opened)
    first = told(metrics)
    assert first["evertrain_verdicts_total", f"model_name={SHOP}", "verdict=promoted"] == 100_000

    def forbidden(*_: Any) -> Any:
        raise AssertionError("counted all partitions again")

    monkeypatch.setattr("evertrain.store.demand.counts", forbidden)
    begun = time.perf_counter()
    again = told(metrics)
    took = time.perf_counter() - begun
    assert again == first
    assert took < 0.25  # measured 6 ms; other tests share the machine
    with past.store.read() as tx:
        for sql in ("SELECT * FROM runs WHERE trained > 0 AND id IN (SELECT value FROM json_each('[1]'))",):
            plan = " ".join(str(row[-1]) for row in tx.rows(f"EXPLAIN QUERY PLAN {sql}"))
            assert "SEARCH runs USING INTEGER PRIMARY KEY" in plan


def test_an_adopted_model_is_no_retraining(past: Past, metrics: Metrics) -> None:
    told(metrics)
    place, size = past.place()
    fit = {
        "major": 1, "place": place, "artifact_size": size, "trainer": {}, "signature": {}, "scores": {}, "numbers": {},
        "rows": 10, "input": "x", "trained_at": past.clock.now() - timedelta(days=3),
    }  # fmt: skip
    with past.store.write() as tx:
        registry.adopt(tx, past.ids[SOLO], SOLO, past.part("", SOLO, tx).id, fit)
    found = told(metrics)

    assert only(found, "model_retraining_success_total") == {}
    assert only(found, "model_age_seconds") == {(f"model_name={SOLO}",): pytest.approx(3 * 86400)}
    assert totals(told(Metrics(past.opened))) == totals(found)


def test_a_project_that_declares_nothing_has_metrics(tmp_path: Path, store: Store) -> None:
    metrics = Metrics(Opened(Home(tmp_path), store, Settings()))
    assert told(metrics)["evertrain_loop_up",] == 0
    with store.read() as tx:
        assert models.every(tx) == []


def test_the_service_tells_its_metrics_with_its_own_requests_among_them(past: Past) -> None:
    api = Api(SimpleNamespace(opened=past.opened))
    assert api.client.get("/health").status_code == 200
    assert api.client.get("/nothing/here").status_code == 404
    answer = api.client.get("/metrics")
    found = {
        sample.name + str(sample.labels.get("status", "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }

    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert (found["evertrain_http_requests_total2xx"], found["evertrain_http_requests_total4xx"]) == (1, 1)
