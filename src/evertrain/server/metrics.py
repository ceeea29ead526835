"""Metrics of the service, as Prometheus reads them.

What is counted since the beginning comes from the tables: rows of runs, items and decisions are never removed, so a
restarted process goes on where the last one stopped, whatever retention does to the log. They are summed once; after
that a scrape reads the events behind the last one it saw and adds what those name. Only what a process alone can
know (reads, requests, streams, swaps) begins anew with it.
"""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from evertrain import __version__
from evertrain.clock import from_text
from evertrain.control import metrics as stored
from evertrain.control.opened import Opened
from evertrain.control.report import VERDICTS, trigger_type
from evertrain.control.work import LOOP_ROLE
from evertrain.events import Event, Kind, numbers
from evertrain.states import ItemState
from evertrain.store import demand, figures, items, leases, log, models
from evertrain.store.connect import Tx

CONTENT_TYPE = CONTENT_TYPE_LATEST
Labels: TypeAlias = tuple[str, ...]

# A label with a value for each model or error of the world would cost every scrape and every store of metrics.
MODELS = ERRORS = 50
OTHER = "other"

RETRAINING_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
_SWAP_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0)
_AGE_S = (60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 2 * 86400.0, 7 * 86400.0, 30 * 86400.0)
_EVENTS_AT_ONCE = 5000
_COUNTED = (
    Kind.RUN_CREATED, Kind.RUN_ENDED, Kind.ITEMS_SETTLED, Kind.DECISION_FIRED, Kind.CHAMPION_ADOPTED,
)  # fmt: skip


class Histogram:
    """Numbers counted by the smallest of some bounds that they do not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.add(bisect_left(self.bounds, value), 1, value)

    def add(self, place: int, number: int, total: float) -> None:
        self.counts[place] += number
        self.sum += total

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many numbers do not exceed each bound."""
        return list(zip([*map(str, self.bounds), "+Inf"], accumulate(map(float, self.counts)), strict=True))


class Counters:
    """What one process of the service counts itself, from any thread; a count costs well below a microsecond or two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reads: Counter[tuple[str, str, bool]] = Counter()
        self.requests: Counter[str] = Counter()
        self.ages, self.swaps = Histogram(_AGE_S), Histogram(_SWAP_S)
        self.streams = 0

    def read(self, model: str, *, answer: str = "own", behind: bool = False, age_s: float | None = None) -> None:
        """Count a read of a forecast or a prediction.

        Args:
            model: one that is declared: names that a client made up are no labels.
            answer: "own", "rollup" (a partition without a model), "temporary" or "none".
            behind: whether a training of what was asked for is due or under way.
            age_s: since what answered was trained.
        """
        with self._lock:
            self.reads[model, answer, behind] += 1
            if age_s is not None:
                self.ages.observe(age_s)

    def swapped(self, seconds: float) -> None:
        """Count a champion that this process serves from now on, that long after it was promoted."""
        with self._lock:
            self.swaps.observe(seconds)

    def request(self, status: int) -> None:
        """Count an answered request."""
        with self._lock:
            self.requests[f"{status // 100}xx"] += 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream as open while the block lasts."""
        with self._lock:
            self.streams += 1
        try:
            yield
        finally:
            with self._lock:
                self.streams -= 1

    def copied(self) -> Counters:
        """Return how things stand now, all of one moment."""
        found = Counters()
        with self._lock:
            found.reads, found.requests, found.streams = self.reads.copy(), self.requests.copy(), self.streams
            for own, new in ((self.ages, found.ages), (self.swaps, found.swaps)):
                new.counts, new.sum = list(own.counts), own.sum
        return found


class Names:
    """At most so many names as labels, first come; what comes later is "other", and a name once told stays."""

    def __init__(self, most: int) -> None:
        self._most, self._known = most, {OTHER}

    def __call__(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) > self._most:
                return OTHER
            self._known.add(name)
        return name


class Metrics:
    """Renders the metrics of one project for one process. Thread-safe; keep one, a second one sums all over again."""

    def __init__(self, opened: Opened, counters: Counters | None = None) -> None:
        self.opened, self.counters = opened, counters or Counters()
        self._lock = threading.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self._families))
        self._model, self._error = Names(MODELS), Names(ERRORS)
        self._partitions: dict[str, Mapping[str, int]] = {}
        self._declared: list[models.Model] | None = None
        self._forget()

    def render(self) -> bytes:
        """Return all metrics as text of `CONTENT_TYPE`; costs what changed since the last call.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._lock:
            return generate_latest(self._registry)

    def families(self) -> list[Metric]:
        """Return all metrics as objects, those without a sample among them."""
        with self._lock:
            return list(self._families())

    # --- since the beginning ------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._seen: int | None = None
        self._asked: Counter[Labels] = Counter()
        self._succeeded: Counter[Labels] = Counter()
        self._failed: Counter[Labels] = Counter()
        self._took: defaultdict[Labels, Histogram] = defaultdict(lambda: Histogram(RETRAINING_S))
        self._verdicts: Counter[Labels] = Counter()
        self._decisions: Counter[Labels] = Counter()

    def _catch_up(self, tx: Tx) -> None:
        """Add what happened since the last scrape; where the log does not reach back to it, sum all anew."""
        newest = log.newest(tx)
        # A store that was restored from a backup has fewer events than were seen.
        if self._seen is None or not figures.oldest_event(tx) - 1 <= self._seen <= newest:
            self._forget()
            self._drop({None})
            self._name_models(tx)
            self._add_asked(tx)
            self._add_ended(tx)
            self._add_items(tx)
            self._add_decisions(tx)
        elif self._seen < newest:
            self._drop(figures.touched(tx, self._seen))
            after = self._seen
            while found := log.after(tx, after, limit=_EVENTS_AT_ONCE, kinds=_COUNTED):
                self._add(tx, found)
                after = found[-1].id
        self._seen = newest

    def _name_models(self, tx: Tx) -> None:
        """Give the labels to those that are trained most; what is declared later takes the places that are left."""
        asked: Counter[str] = Counter()
        for row in figures.asked_total(tx):
            asked[row.model] += row.number
        for name in sorted(asked, key=lambda one: (-asked[one], one)):
            self._model(name)

    def _add(self, tx: Tx, events: Sequence[Event]) -> None:
        asked, ended, settled, decided = [], [], [], []
        for one in events:
            if one.kind in (Kind.RUN_CREATED, Kind.CHAMPION_ADOPTED):
                asked.append(one.run_id or 0)
            if one.kind is Kind.RUN_ENDED:
                ended.append(one.run_id or 0)
            elif one.kind is Kind.ITEMS_SETTLED:
                settled += [number for listed in one.data["outcomes"].values() for number in numbers(listed)]
            elif one.kind is Kind.CHAMPION_ADOPTED:
                settled.append(one.data["fit"])
            elif one.kind is Kind.DECISION_FIRED:
                decided.append(one.data["decision"])
        self._add_asked(tx, asked)
        self._add_ended(tx, ended)
        self._add_items(tx, settled)
        self._add_decisions(tx, decided)

    def _add_asked(self, tx: Tx, ids: Sequence[int] | None = None) -> None:
        for row in figures.asked_total(tx, ids):
            self._asked[self._model(row.model), trigger_type(row.cause)] += row.number

    def _add_ended(self, tx: Tx, ids: Sequence[int] | None = None) -> None:
        for row in figures.ended_total(tx, RETRAINING_S, ids):
            model = self._model(row.model)
            self._took[model, "failed" if row.failed else "success"].add(row.place, row.number, row.seconds)
            if row.failed:
                self._failed[model, self._error((row.error_class or "unknown")[:64])] += row.number
            else:
                self._succeeded[(model,)] += row.number

    def _add_items(self, tx: Tx, ids: Sequence[int] | None = None) -> None:
        for row in figures.items_total(tx, ids):
            self._verdicts[self._model(row.model), VERDICTS[ItemState(row.state)]] += row.number

    def _add_decisions(self, tx: Tx, ids: Sequence[int] | None = None) -> None:
        for row in figures.decisions_total(tx, ids):
            self._decisions[self._model(row.model), trigger_type(row.cause), row.action] += row.number

    def _drop(self, changed: set[str | None]) -> None:
        """Have the partitions of models counted anew; where it cannot be told of which, of all."""
        if None in changed:
            self._partitions.clear()
            self._declared = None
        for name in changed:
            self._partitions.pop(str(name), None)

    # --- as Prometheus reads it -----------------------------------------------------------------------------------

    def _families(self) -> Iterator[Metric]:
        with self.opened.store.read() as tx:
            self._catch_up(tx)
            gauges = list(self._now(tx))
            totals = stored.counters(tx)
        yield from self._retraining()
        yield from gauges
        by_name: dict[str, CounterMetricFamily] = {}
        for one in totals:
            name = one.name.removesuffix("_total")
            family = by_name.setdefault(name, CounterMetricFamily(name, one.help, labels=list(one.labels)))
            family.add_metric(list(one.labels.values()), one.value)
        yield from by_name.values()
        yield from self._of_this_process()

    def _retraining(self) -> Iterator[Metric]:
        name = "model_retraining"
        yield _counter(
            f"{name}_triggered", "Retrainings that were asked for.", ["model_name", "trigger_type"], self._asked
        )
        took = HistogramMetricFamily(
            f"{name}_duration_seconds", "From the first start of a retraining to its last verdict.",
            labels=["model_name", "status"],
        )  # fmt: skip
        for labels, found in sorted(self._took.items()):
            took.add_metric(labels, found.buckets(), found.sum)
        yield took
        said = "Retrainings in which no training failed; a refused model is a success."
        yield _counter(f"{name}_success", said, ["model_name"], self._succeeded)
        said = "Retrainings in which a training failed, by its first error."
        yield _counter(f"{name}_failure", said, ["model_name", "error_type"], self._failed)
        said = "Partitions by how their training ended."
        yield _counter("evertrain_verdicts", said, ["model_name", "verdict"], self._verdicts)
        said = "Decisions that fired, by trigger and by what followed."
        yield _counter("evertrain_decisions", said, ["model_name", "trigger_type", "action"], self._decisions)

    def _now(self, tx: Tx) -> Iterator[Metric]:
        """Yield how things stand: of a model that shares the label "other" the sum, and the oldest of ages."""
        ages: dict[str, float] = {}
        for name, at in sorted(figures.oldest_champions(tx).items()):
            label = self._model(name)
            ages[label] = max(ages.get(label, 0.0), (tx.now - from_text(at)).total_seconds())
        yield _gauge("model_age_seconds", "Since the oldest champion was trained.", ["model_name"], _single(ages))
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        rows: Counter[str] = Counter()
        if self._declared is None:
            self._declared = models.every(tx)
        for one in self._declared:
            if one.name not in self._partitions:
                self._partitions[one.name] = demand.counts(tx, one.id)
            found, label = self._partitions[one.name], self._model(one.name)
            counts[label].update(found)
            if one.spec.series:
                rows[label] += found["serving"] * one.spec.series.h
        for part, said in (
            ("live", "Partitions that have rows."),
            ("due", "Partitions for which training was asked since one was considered."),
            ("behind", "Partitions whose champion does not know what was asked for last."),
            ("serving", "Partitions that have a champion of their own."),
        ):
            of_part = _single({name: own[part] for name, own in counts.items()})
            yield _gauge(f"evertrain_partitions_{part}", said, ["model_name"], of_part)
        yield _gauge(
            "evertrain_forecast_rows", "Periods of stored forecasts that serve.", ["model_name"], _single(rows)
        )
        queue = items.open_counts(tx)
        yield _gauge(
            "evertrain_queue_items", "Partitions that wait for a worker, or that one has.", ["state"],
            {(state,): queue.get(state, 0) for state in ("waiting", "running")},
        )  # fmt: skip
        oldest = figures.oldest_waiting(tx)
        waits = (tx.now - from_text(oldest.at)).total_seconds() if oldest else 0.0
        yield _gauge("evertrain_queue_age_seconds", "Since the oldest request that waits was made.", [], {(): waits})
        paused = figures.paused(tx)
        yield _gauge("evertrain_models_paused", "Models that are not trained until resumed.", [], {(): paused})
        yield _gauge(
            "evertrain_loop_up", "Whether a process keeps the models fresh now.", [],
            {(): float(leases.holder(tx, LOOP_ROLE) is not None)},
        )  # fmt: skip
        if ticked := figures.last_tick(tx, LOOP_ROLE):
            age = (tx.now - from_text(ticked)).total_seconds()
            yield _gauge("evertrain_loop_age_seconds", "Since the loop gave its last sign of life.", [], {(): age})
        info = (__version__, platform.python_version())
        yield _gauge("evertrain_build_info", "What runs here; always 1.", ["version", "python"], {info: 1.0})

    def _of_this_process(self) -> Iterator[Metric]:
        own = self.counters.copied()
        reads: Counter[Labels] = Counter()
        for (model, answer, behind), number in own.reads.items():
            reads[self._model(model), answer, str(behind).lower()] += number
        said = "Forecasts and predictions that were read, by what answered and whether a training was due then."
        yield _counter("evertrain_forecast_reads", said, ["model_name", "answer", "behind"], reads)
        yield _histogram("evertrain_forecast_read_age_seconds", "Age of what answered when it was read.", own.ages)
        yield _histogram("evertrain_swap_seconds", "From a promotion to its first use in this process.", own.swaps)
        yield _counter(
            "evertrain_http_requests", "Answered requests by class of status.", ["status"], _single(own.requests)
        )
        yield _gauge("evertrain_streams_open", "Streams of events that are open.", [], {(): own.streams})


class _Families(Collector):
    """What a registry asks; an object of its own, so that registering does not scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()


def _single(found: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): number for name, number in found.items()}


def _counter(name: str, said: str, labels: list[str], found: Mapping[Labels, float]) -> Metric:
    family = CounterMetricFamily(name, said, labels=labels)
    for values, number in sorted(found.items()):
        family.add_metric(values, number)
    return family


def _gauge(name: str, said: str, labels: list[str], found: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(name, said, labels=labels)
    for values, number in sorted(found.items()):
        family.add_metric(values, number)
    return family


def _histogram(name: str, said: str, found: Histogram) -> Metric:
    family = HistogramMetricFamily(name, said)
    family.add_metric([], found.buckets(), found.sum)
    return family
