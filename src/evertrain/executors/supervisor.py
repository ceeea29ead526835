"""The supervisor: takes items under its lease, hands them to an executor, judges what comes back, and writes.

It is the only one who writes for a running item, and everything it writes names owner and fence. Users' code, data
files and models are met in workers alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evertrain import gate, registry, watch
from evertrain.artifacts import Artifacts, Place
from evertrain.config import Home, Settings
from evertrain.errors import ArtifactError, Conflict, EvertrainError, StaleAttempt, StoreError
from evertrain.events import Kind
from evertrain.executors.jobs import Allowance, Executor, Job, Lost, Message
from evertrain.executors.lease import LeaseKeeper
from evertrain.faults import fault_point
from evertrain.partitions import KeyText, decode, label
from evertrain.sources import read
from evertrain.sources.index import Leaf, complete, leaves
from evertrain.specs import Cause, Dataset, ProjectSpec, encode
from evertrain.states import ItemState
from evertrain.store import champions, datasets, evaluations, figures, items, leases, models
from evertrain.store.connect import Record, Store, Tx
from evertrain.store.values import to_sql
from evertrain.trainers.make import family

Answer = Callable[[Message | Lost], None]

_RETRY_S = 5.0
_CANCEL_LOOK_S = 0.5


@dataclass
class _Batch:
    """Claimed items on their way through a worker."""

    claim: items.Claim
    model: models.Model
    open: dict[int, Record]
    messages: dict[int, Message] = field(default_factory=dict)
    seen: dict[int, str] = field(default_factory=dict)
    champions: dict[int, registry.Fit] = field(default_factory=dict)


@dataclass
class _Reading:
    name: str
    project: ProjectSpec
    task: Message
    force: bool
    answers: list[Answer] = field(default_factory=list)


class Supervisor:
    """One process's hands: call `step` again and again, then `close`."""

    def __init__(self, store: Store, home: Home, settings: Settings, executor: Executor) -> None:
        self.store, self.home, self.settings, self.executor = store, home, settings, executor
        self.artifacts = Artifacts(home.artifacts)
        self.draining = False
        self.stopping: Callable[[], bool] = lambda: False  # asked before each taking: a stop may come within a step
        self.keeper = LeaseKeeper(store, lease_s=settings.lease_s, beat_s=settings.beat_s)
        self._claimed: deque[items.Claim] = deque()
        self._held: list[_Batch] = []
        self._readings: dict[str, Job] = {}
        self._jobs: list[Job] = []
        self._inbox: deque[tuple[Job, Message | Lost]] = deque()
        self._looked = 0.0
        self._telling = Allowance()
        self._make_folders()
        _sweep(home.scratch)

    @property
    def owner(self) -> str:
        return self.keeper.owner

    @property
    def scratch(self) -> Path:
        return self.home.scratch / self.owner

    def _make_folders(self) -> None:
        for folder in (self.home.folder, self.home.extracts, self.home.scratch, self.artifacts.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._scratch_lock = own_folder(self.scratch)

    def _remove_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._scratch_lock)

    @property
    def busy(self) -> bool:
        """Whether anything is under way here."""
        return bool(self._jobs or self._held or self._claimed)

    @property
    def training(self) -> int:
        """How many items are under way here."""
        batches = [job.purpose for job in self._jobs if isinstance(job.purpose, _Batch)]
        return sum(len(batch.open) for batch in [*batches, *self._held]) + sum(len(one.items) for one in self._claimed)

    # --- one step ---------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.2) -> None:
        """Take what arrived, write it, and hand out what is ready; returns after at most about `timeout_s`."""
        if self.keeper.lost:
            self._abandon()
        self._inbox += self.executor.poll(timeout_s if self._jobs and not self._inbox else 0)
        while self._inbox:
            job, message = self._inbox.popleft()
            try:
                self._handle(job, message)
            except StoreError:
                # Nothing was written. No result is lost to a disk that is full or a store that is busy: it waits
                # here until it can be written, or until the lease is lost.
                self._inbox.appendleft((job, message))
                raise
            except EvertrainError:
                self._end_job(job, message)
                raise
            self._end_job(job, message)
        self._cancel_asked()
        if not self.draining and not self.stopping():
            self._take()

    def _handle(self, job: Job, message: Message | Lost) -> None:
        if job not in self._jobs:
            return  # it was abandoned
        if isinstance(message, Lost):
            self._lost(job, message)
        elif isinstance(job.purpose, _Batch):
            self._on_batch(job.purpose, message)
        elif isinstance(job.purpose, _Reading):
            self._on_reading(job.purpose, message)
        else:
            self._on_answer(job, message)

    def _end_job(self, job: Job, last: Message | Lost) -> None:
        if job in self._jobs and (isinstance(last, Lost) or last["type"] in ("done", "error")):
            self._jobs.remove(job)

    def _check_lease(self) -> None:
        with self.store.read() as tx:
            leases.check(tx, self.owner)

    def _start(self, job: Job) -> None:
        self._jobs.append(job)
        self.executor.start(job)

    # --- other tasks ------------------------------------------------------------------------------------------

    def ask(
        self,
        task: Message,
        family_name: str,
        answer: Answer,
        *,
        lane: str = "work",
        deadline_s: float = 600,
        memory_mb: int | None = None,
    ) -> bool:
        """Hand over a task that no item stands for; `answer` gets its one message. False when nobody is free."""
        if self.executor.free(lane) <= 0:
            return False
        self._start(
            Job(
                {**task, "scratch": str(self.scratch), "root": str(self.home.root)},
                family_name,
                lane,
                deadline_s=deadline_s,
                memory_mb=memory_mb,
                purpose=answer,
            )
        )
        return True

    def _on_answer(self, job: Job, message: Message) -> None:
        if message["type"] not in ("begin", "progress", "done"):
            self._check_lease()  # an answer that outlived its lease tells of a state long gone
            job.purpose(message)

    # --- reading ----------------------------------------------------------------------------------------------

    def read_source(self, name: str, *, force: bool = False, answer: Answer | None = None) -> None:
        """Begin to read a source, or join the reading under way; `answer` is called when it was applied."""
        if (job := self._readings.get(name)) is not None:
            if answer is not None:
                job.purpose.answers.append(answer)
            return
        with self.store.read() as tx:
            project = models.project(tx)
            assert project is not None
        if isinstance(project.sources[name], Dataset):
            self._catch_up(name)
            if answer is not None:
                answer({"type": "read"})
            return
        with self.store.read() as tx:
            users = [user for user in models.every(tx) if user.spec.source == name]
            task = watch.task(tx, project, name, users, root=self.home.root, folder=self.home.extracts, force=force)
        reading = _Reading(name, project, task, force, [answer] if answer else [])
        deadline = max((user.spec.deadline.total_seconds() for user in users), default=3600)
        job = Job(task, "reader", "read", deadline_s=deadline, purpose=reading)
        self._readings[name] = job
        self._start(job)

    def _catch_up(self, name: str) -> list[watch.Found]:
        """Take in the batches of a dataset since the last look: they are in the store, so no worker is needed."""
        with self.store.write() as tx:
            project = models.project(tx)
            assert project is not None
            return watch.apply_versions(tx, project, name)

    def _on_reading(self, reading: _Reading, message: Message) -> None:
        if message["type"] == "done":
            return
        if damaged := [one for one in message.get("models", {}).values() if not complete(one)]:
            message = {"type": "error", "reason": f"its copy {Path(damaged[0]['path']).name} was lost or damaged"}
        with self.store.write() as tx:
            leases.check(tx, self.owner)  # what was read before a long sleep is older than what others applied since
            if message["type"] == "error":
                reason = str(message["reason"]).removeprefix("DataError: ")
                found = watch.failed(tx, reading.project, reading.name, reason)
            else:
                found = watch.apply(tx, reading.project, reading.name, message, reading.task, force=reading.force)
        self._readings.pop(reading.name, None)
        self._sweep_extracts()
        for answer in reading.answers:
            answer(message)
        for batch in [one for one in self._held if one.model.spec.source == reading.name]:
            problem = next((one.problem for one in found if one.model == batch.model.name), None)
            if problem:
                self._unusable(batch, problem)
            else:
                self._claimed.append(batch.claim)
            self._held.remove(batch)

    def _sweep_extracts(self) -> None:
        """Remove copies of rows that neither the store nor a job of this process needs."""
        with self.store.read() as tx:
            known = {
                Path(user.extract["path"]).stem for user in models.every(tx) if user.extract and "path" in user.extract
            }
        known |= {Path(job.task["extract"]).stem for job in self._jobs if "extract" in job.task}
        known |= {Path(one["path"]).stem for job in self._readings.values() for one in job.task["models"]}
        for path in self.home.extracts.iterdir():
            # Another process may be training on a copy that was current a while ago.
            with contextlib.suppress(OSError):
                if path.stem not in known and time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    # --- taking items -----------------------------------------------------------------------------------------

    def _take(self) -> None:
        self._begin_claimed()
        while self.executor.free("work") - len(self._held) > 0:
            with self.store.read() as tx:
                if not items.any_ready(tx):
                    return
            with self.store.write() as tx:
                claim = items.claim(tx, self.owner, most=self.settings.batch_items, seconds=self.settings.batch_s)
            if claim is None:
                return
            fault_point("claim.after_commit")
            self._claimed.append(claim)
            self._begin_claimed()

    def _begin_claimed(self) -> None:
        while self._claimed:
            self._begin(self._claimed[0])  # a store that fails now finds it here the next time
            self._claimed.popleft()

    def _begin(self, claim: items.Claim) -> None:
        """Hand claimed items out, after a fresh read of their source where one is owed."""
        with self.store.read() as tx:
            model = models.by_id(tx, claim.model_id)
            project = models.project(tx)
        assert project is not None
        batch = _Batch(claim, model, {item.id: item for item in claim.items})
        if isinstance(project.sources[model.spec.source], Dataset):
            # Where nothing came since the last look there is nothing to take in: a look at all partitions for each batch
            # of items would cost what exists.
            found: list[watch.Found] = []
            if model.extract is None or watch.has_batches(self.store, model.spec.source):
                found = self._catch_up(model.spec.source)
            if problem := next((one.problem for one in found if one.model == model.name), None):
                self._unusable(batch, problem)
            else:
                self._dispatch(batch, project)
            return
        try:
            stat = read.look(project.sources[model.spec.source], self.home.root)
        except EvertrainError as error:
            self._unusable(batch, str(error))
            return
        if self._usable(model, stat, max(item.wanted for item in claim.items)):
            self._dispatch(batch, project)
        else:
            self.read_source(model.spec.source, force=any(item.forced for item in claim.items))
            self._held.append(batch)

    @staticmethod
    def _usable(model: models.Model, stat: str | None, wanted: int) -> bool:
        """Return whether the last copy of the rows is as new as what is wanted, or the source unchanged since."""
        extract = model.extract
        if extract is None or not complete(extract) or extract["recipe"] != model.recipe:
            return False
        return bool(extract["commit"] >= wanted or (stat is not None and extract["stat"] == stat))

    def _dispatch(self, batch: _Batch, project: ProjectSpec) -> None:
        claim = batch.claim
        with self.store.write() as tx:
            # Rows, marks and what is wanted, all of one moment: a mark that is newer than the rows would lose a change,
            # and a request that the read itself made is answered by this very item.
            leases.check(tx, self.owner)
            batch.open = items.begin(tx, self.owner, list(batch.open.values()))
            batch.model = model = models.by_id(tx, claim.model_id)
            places = champions.facts(tx, [item.partition_id for item in batch.open.values()])
            batch.champions = registry.fits(tx, [row.champion_id for row in places.values() if row.champion_id])
            forecasts = registry.forecasts(tx, list(batch.champions)) if model.spec.series else {}
        assert model.extract is not None
        where: dict[KeyText, Leaf] = {}
        if is_copy := "index" in model.extract:
            listed = leaves(model.extract["index"], [KeyText(item.key) for item in batch.open.values() if item.leaf])
            where = {leaf.key: leaf for leaf in listed}
        gone = [
            item
            for item in batch.open.values()
            if places[item.partition_id].state == "retired" or (is_copy and item.leaf and item.key not in where)
        ]
        if gone:
            self._skip(batch, "the partition has no rows any more", gone)
        needless: list[tuple[Record, str]] = []
        since = self._since(batch)
        for item in batch.open.values():
            place, leaf = places[item.partition_id], where.get(KeyText(item.key))
            champion = batch.champions.get(place.champion_id)
            batch.seen[item.id] = place.seen
            if why := self._needless(item, place, leaf, champion, model):
                needless.append((item, why))
                continue
            batch.messages[item.id] = {
                "id": item.id,
                "key": item.key,
                "input": place.seen,
                "start": leaf.start if leaf else None,
                "rows": leaf.rows if leaf else None,
                "leaf": bool(item.leaf),
                "forced": bool(item.forced),
                "champion": champion and self.asked(champion, forecasts),
                "since": since.get(item.partition_id),
                "kept_since": champion and champion.signature.get("since"),
            }
        for reason in dict.fromkeys(reason for _, reason in needless):
            self._skip(batch, reason, [item for item, own in needless if own == reason])
        if batch.messages:
            self._start(self._job(batch, project, list(batch.messages.values())))

    def _since(self, batch: _Batch) -> dict[int, str]:
        """Return from when on rows count, of the items that are trained because the losses of a champion have risen."""
        drifted = [item.partition_id for item in batch.open.values() if item.cause == Cause.DRIFT]
        if not drifted:
            return {}
        with self.store.read() as tx:
            return evaluations.since(tx, drifted)

    @staticmethod
    def _needless(
        item: Record, place: Record, leaf: Leaf | None, champion: registry.Fit | None, model: models.Model
    ) -> str | None:
        """Return why nothing could be learnt from training this item, before any worker is troubled."""
        rows = leaf.rows if leaf else place.rows
        if rows is not None and rows < model.spec.least_rows:
            return f"Insufficient samples: {rows} < {model.spec.least_rows}"
        if (
            champion is None
            or item.forced
            or item.cause not in (Cause.DATA_CHANGE, Cause.UPLOAD, Cause.MANUAL, Cause.DRIFT)
        ):
            return None
        if place.seen == champion.input and champion.signature.get("recipe") == model.recipe:
            return f"not needed: {champion.version} was trained on these very rows"
        return None

    def asked(self, fit: registry.Fit, forecasts: Mapping[int, Message]) -> Message:
        """Return what a worker needs to ask a stored fit, or to know what it forecast."""
        return fit.as_message(str(self.artifacts.path(fit.place.artifact))) | {"forecast": forecasts.get(fit.id)}

    def _job(self, batch: _Batch, project: ProjectSpec, messages: Sequence[Message]) -> Job:
        spec = batch.model.spec
        return Job(
            self.task("train", batch.model, project, messages),
            family(spec.trainer),
            deadline_s=spec.deadline.total_seconds(),
            memory_mb=spec.memory_mb,
            purpose=batch,
        )

    def task(
        self,
        kind: str,
        model: models.Model,
        project: ProjectSpec,
        messages: Sequence[Message],
        *,
        rows: bool = True,
        **more: Any,
    ) -> Message:
        """Return the task of doing something with the rows of partitions.

        Args:
            messages: one for each partition, with its `key` and whether it is a `leaf`.
            rows: False where the rows of the source are not looked at.
        """
        source = project.sources[model.spec.source]
        assert model.extract is not None
        task: Message = {
            "kind": kind,
            "root": str(self.home.root),
            "scratch": str(self.scratch),
            "model": encode(model.spec),
            "columns": model.extract["columns"],
            "time": source.time,
            "key": list(source.key),
            "now": self.store.clock.now().isoformat(),
            "series": model.extract.get("series"),
            "recipe": model.recipe,
            "items": list(messages),
            **more,
        }
        if not rows:
            return task
        if isinstance(source, Dataset):
            return task | {"copied": str(self._copied(model, messages))}
        unplaced = [KeyText(one["key"]) for one in messages if one["leaf"] and "start" not in one]
        where = {leaf.key: leaf for leaf in leaves(model.extract["index"], unplaced)} if unplaced else {}
        for one in messages:
            leaf = where.get(one["key"])
            one.setdefault("start", leaf.start if leaf else None)
            one.setdefault("rows", leaf.rows if leaf else None)
        return task | {"extract": model.extract["path"]}

    def _copied(self, model: models.Model, messages: Sequence[Message]) -> Path:
        """Copy the rows of these items out of their dataset, as they are in the version that was looked at."""
        assert model.extract is not None
        with self.store.read() as tx:
            dataset = datasets.by_name(tx, model.spec.source)
        assert dataset is not None
        dataset = replace(dataset, columns=model.extract["columns"])  # later columns are of later versions
        groups: dict[tuple[str, ...], list[list[Any]]] = {}
        for message in messages:
            key = decode(message["key"])
            values = [to_sql(dataset.columns[name], value, name) for name, value in key.items()]
            groups.setdefault(tuple(key), []).append(values)
        target = self.scratch / f"rows-{secrets.token_hex(8)}.db"
        datasets.copy_rows(self.store, dataset, model.extract["version"], list(groups.items()), target)
        return target

    # --- results ----------------------------------------------------------------------------------------------

    def _on_batch(self, batch: _Batch, message: Message) -> None:
        if message["type"] == "pack":
            self._settle(batch, message)
        elif message["type"] == "progress":
            self._tell(batch, message)
        elif message["type"] == "error":
            self._failed(batch, message)
        elif message["type"] == "done":
            self._release(batch)

    def _failed(self, batch: _Batch, message: Message) -> None:
        """End what is open of a batch that failed as a whole, or repeat it where trying again may help."""
        reason, error = str(message["reason"]), message.get("error")
        result = {"reason": reason, "error_class": reason.partition(":")[0], "error": error}
        if message.get("retryable"):
            ends = [self._end_of(item, ItemState.FAILED, result) for item in batch.open.values()]
            self._retry(batch, ends, crashed=False)
        else:
            self._close(batch, list(batch.open.values()), ItemState.FAILED, result)

    def _settle(self, batch: _Batch, message: Message) -> None:
        results = [one for one in message["results"] if one["item"] in batch.open]
        artifact, size, losses, problem = "", 0, np.empty(0), ""
        try:
            if message["losses"]:
                losses = np.fromfile(message["losses"], dtype="<f8")
            if message["path"]:
                # Taken once: a message whose writing failed comes here again.
                message["taken"] = message.get("taken") or self.artifacts.take(Path(message["path"]))
                artifact, size = message["taken"]
        except OSError as error:
            # A failed flush is final for these bytes: they are made anew by the next try.
            problem = f"its model could not be stored: {error.strerror or error}"
            with contextlib.suppress(OSError):
                Path(message["path"] or message["losses"]).unlink(missing_ok=True)
        fault_point("settle.after_artifact")
        proposals, closings, retries = [], [], []
        for result in results:
            item = batch.open[result["item"]]
            if result["state"] == "fitted" and problem:
                retries.append(
                    self._end_of(item, ItemState.FAILED, {**result, "reason": problem, "error_class": "storage"})
                )
            elif result["state"] == "fitted":
                proposals.append(self._proposal(batch, item, result, artifact, size, losses))
            elif result["state"] == "failed" and result["retryable"]:
                retries.append(self._end_of(item, ItemState.FAILED, result))
            else:
                closings.append(
                    registry.Closing(
                        self._end_of(item, ItemState(result["state"]), result),
                        item.partition_id,
                        item.wanted,
                        batch.seen.get(item.id),
                    )
                )
        self._write(batch, proposals, closings)
        self._retry(batch, retries, crashed=False)
        if message["losses"]:
            with contextlib.suppress(OSError):
                Path(message["losses"]).unlink(missing_ok=True)

    def _proposal(
        self, batch: _Batch, item: Record, result: Message, artifact: str, size: int, losses: Any
    ) -> registry.Proposal:
        champion = batch.champions.get(self._champion_id(batch, item))
        rows = {name: losses[start : start + count] for name, (start, count) in result["losses"].items()}
        measured = gate.Measured(
            **result["measured"],
            losses=rows,
            champion_beat_baseline=bool(champion and champion.signature.get("beats_baseline")),
            champion_promoted=_promoted_score(champion, result["measured"]["score"]),
        )
        spec = batch.model.spec
        verdict = gate.judge(spec.gate, measured, correction=bool(item.correction), least=spec.least_held)
        signature = {
            **result["signature"],
            "recipe": batch.model.recipe,
            "beats_baseline": gate.beats_baseline(measured),
        }
        return registry.Proposal(
            item.id,
            batch.claim.fence,
            item.run_id,
            batch.model.major,
            item.partition_id,
            item.wanted,
            batch.seen[item.id],
            champion.id if champion else None,
            Place(artifact, result["start"], result["size"], result["digest"]),
            size,
            result.get("trainer") or encode(spec.trainer),
            signature,
            result["scores"],
            verdict,
            result["rows"],
            result["seconds"],
            result["cpu_s"],
            result["peak_mb"],
            result.get("forecast"),
        )

    @staticmethod
    def _champion_id(batch: _Batch, item: Record) -> int:
        champion = (batch.messages.get(item.id) or {}).get("champion")
        return int(champion["id"]) if champion else -1

    @staticmethod
    def _end_of(item: Record, state: ItemState, result: Mapping[str, Any]) -> items.End:
        return items.End(
            item.id,
            item.fence,
            state,
            str(result["reason"])[:2000],
            result.get("error_class"),
            result.get("error"),
            result.get("seconds"),
            result.get("cpu_s"),
            result.get("peak_mb"),
        )

    def _write(
        self, batch: _Batch, proposals: Sequence[registry.Proposal], closings: Sequence[registry.Closing]
    ) -> None:
        """Write ends in one transaction; when one of them is no longer ours, each for itself."""
        number = len(proposals) + len(closings)
        if not number:
            return
        try:
            with self.store.write() as tx:
                changed = registry.settle(tx, self.artifacts, self.owner, batch.claim.model_id, proposals, closings)
                _tell_fallbacks(tx, batch, [one for one in proposals if one.item_id not in changed])
            fault_point("settle.after_commit")
        except (Conflict, ArtifactError) as error:
            if number > 1:
                for proposal in proposals:
                    self._write(batch, [proposal], [])
                for closing in closings:
                    self._write(batch, [], [closing])
            else:
                self._late(batch, [one.item_id for one in proposals] + [one.end.item_id for one in closings], error)
            return
        for one in [*(one.item_id for one in proposals), *(one.end.item_id for one in closings)]:
            if one not in changed:
                batch.open.pop(one, None)
        if changed:
            self._judge_again(batch, [one for one in proposals if one.item_id in changed])

    def _late(self, batch: _Batch, ids: Sequence[int], error: Exception) -> None:
        """Give up on results that may not be written: cancelled items end so, others are somebody else's now."""
        for item_id in ids:
            item = batch.open.get(item_id)
            if item is None:
                continue
            with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                if isinstance(error, ArtifactError):
                    items.release_items(tx, self.owner, [(item.id, item.fence)])
                elif item.id in items.cancelled_items(tx, self.owner):
                    self._finish(tx, batch, item, ItemState.CANCELLED, "cancelled by a person")
                elif not isinstance(error, StaleAttempt):  # its partition was retired while it was trained
                    self._finish(tx, batch, item, ItemState.SKIPPED, str(error))
            batch.open.pop(item_id)

    def _judge_again(self, batch: _Batch, proposals: Sequence[registry.Proposal]) -> None:
        """Judge fits against champions that came meanwhile; nothing is fitted again."""
        with self.store.read() as tx:
            project = models.project(tx)
            facts = champions.facts(tx, [one.partition_id for one in proposals])
            now = {number: row.champion_id for number, row in facts.items()}
            batch.champions |= registry.fits(tx, [one for one in now.values() if one])
            forecasts = registry.forecasts(tx, list(batch.champions)) if batch.model.spec.series else {}
        assert project is not None
        messages = []
        for one in proposals:
            champion = batch.champions.get(now[one.partition_id])
            fitted = {
                "path": str(self.artifacts.path(one.place.artifact)),
                "artifact": one.place.artifact,
                "start": one.place.start,
                "size": one.place.size,
                "digest": one.place.digest,
            }
            message = {
                **batch.messages[one.item_id],
                "fitted": fitted,
                "champion": champion and self.asked(champion, forecasts),
            }
            batch.messages[one.item_id] = message
            messages.append(message)
        again = _Batch(
            batch.claim,
            batch.model,
            {one.item_id: batch.open.pop(one.item_id) for one in proposals},
            batch.messages,
            batch.seen,
            batch.champions,
        )
        self._start(self._job(again, project, messages))

    # --- ends without a result --------------------------------------------------------------------------------

    def _skip(self, batch: _Batch, reason: str, only: Sequence[Record] | None = None) -> None:
        self._close(batch, list(only or batch.open.values()), ItemState.SKIPPED, {"reason": reason})

    def _unusable(self, batch: _Batch, problem: str) -> None:
        """End items whose source cannot be used: nothing was trained, and that is no success."""
        self._close(batch, list(batch.open.values()), ItemState.FAILED, {"reason": problem, "error_class": "data"})

    def _close(self, batch: _Batch, closing: Sequence[Record], state: ItemState, result: Mapping[str, Any]) -> None:
        self._write(
            batch,
            [],
            [
                registry.Closing(
                    self._end_of(item, state, result), item.partition_id, item.wanted, batch.seen.get(item.id)
                )
                for item in closing
            ],
        )

    def _finish(self, tx: Tx, batch: _Batch, item: Record, state: ItemState, reason: str) -> None:
        end = items.End(item.id, item.fence, state, reason)
        closing = registry.Closing(end, item.partition_id, item.wanted, None)
        registry.settle(tx, self.artifacts, self.owner, batch.claim.model_id, [], [closing])

    def _retry(self, batch: _Batch, ends: Sequence[items.End], *, crashed: bool) -> None:
        if not ends:
            return
        for end in ends:
            with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                items.retry_items(tx, self.owner, [end], delay_s=_RETRY_S, crashed=crashed)
            batch.open.pop(end.item_id, None)

    def _release(self, batch: _Batch) -> None:
        if batch.open:
            with self.store.write() as tx:
                items.release_items(tx, self.owner, [(item.id, item.fence) for item in batch.open.values()])
            batch.open.clear()

    def _lost(self, job: Job, lost: Lost) -> None:
        if isinstance(job.purpose, _Reading):
            self._on_reading(job.purpose, {"type": "error", "reason": f"reading it failed: {lost.reason}"})
        elif isinstance(job.purpose, _Batch):
            self._lost_batch(job, job.purpose, lost)
        else:
            self._check_lease()
            job.purpose(lost)

    def _lost_batch(self, job: Job, batch: _Batch, lost: Lost) -> None:
        """Charge the item in progress alone; the others go back unharmed."""
        item = batch.open.get(job.item) if job.item is not None else None
        if item is None and (job.item is None or len(batch.open) == 1):
            # It died on the way to the first: were nobody charged, a trainer that cannot be imported would be tried
            # without end.
            item = next(iter(batch.open.values()), None)
        if item is not None:
            if lost.error_class == "cancelled":
                with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                    if ours := item.id in items.cancelled_items(tx, self.owner):
                        self._finish(tx, batch, item, ItemState.CANCELLED, "cancelled by a person")
                if ours:
                    batch.open.pop(item.id)
            elif lost.error_class == "deadline":
                self._close(batch, [item], ItemState.FAILED, {"reason": lost.reason, "error_class": "deadline"})
            else:
                end = items.End(item.id, item.fence, ItemState.FAILED, lost.reason, lost.error_class)
                self._retry(batch, [end], crashed=True)
        self._release(batch)

    def _cancel_asked(self) -> None:
        if time.monotonic() - self._looked < _CANCEL_LOOK_S or not self._jobs:
            return
        self._looked = time.monotonic()
        with self.store.read() as tx:
            asked = items.cancelled_items(tx, self.owner)
        for job in self._jobs:
            if asked and isinstance(job.purpose, _Batch) and (job.item in asked or asked >= set(job.purpose.open)):
                self.executor.cancel(job, "cancelled by a person")

    def _tell(self, batch: _Batch, message: Message) -> None:
        item = batch.open.get(message["item"])
        if item is None or not self._telling.take():
            return
        # Telling is worth less than working: a busy store loses a line of progress, never a result.
        with contextlib.suppress(EvertrainError), self.store.write() as tx:
            leases.check(tx, self.owner)
            tx.event(
                Kind.ITEM_PROGRESS,
                model=batch.model.name,
                run_id=item.run_id,
                item=item.id,
                text=message["text"],
                fraction=message["fraction"],
            )

    # --- the end ----------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Stop everything that was under way: the lease is lost, and others may hold these items already."""
        for job in list(self._jobs):
            self.executor.cancel(job, "its lease was lost")
        deadline = time.monotonic() + 15
        while self._jobs and time.monotonic() < deadline:
            for job, message in self.executor.poll(0.1):
                self._end_job(job, message)
        self._jobs.clear()
        self._inbox.clear()
        self._claimed.clear()
        self._held.clear()
        self._readings.clear()
        self._remove_scratch()
        self.keeper.close()
        self.keeper = LeaseKeeper(self.store, lease_s=self.settings.lease_s, beat_s=self.settings.beat_s)
        self._make_folders()

    def drain(self, seconds: float) -> None:
        """Take nothing new, let what runs end for at most `seconds`, then give it back; tries are not counted."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self._jobs and time.monotonic() < deadline and not self.keeper.lost:
            try:
                self.step()
            except StoreError:  # it may work again before the time is over
                time.sleep(0.1)

    def close(self) -> None:
        """Give back what is still held, end the children and the lease."""
        self.draining = True
        self.executor.close()
        self.keeper.stop()
        with contextlib.suppress(EvertrainError):
            for batch in [*self._held, *(job.purpose for job in self._jobs if isinstance(job.purpose, _Batch))]:
                self._release(batch)
            with self.store.write() as tx:
                items.release_items(
                    tx, self.owner, [(one.id, one.fence) for claim in self._claimed for one in claim.items]
                )
            # Only an owner that holds nothing may end its lease: one that ran out is reaped, one that ended is not.
            self.keeper.end()
        self._claimed.clear()
        self._held.clear()
        self._jobs.clear()
        self._inbox.clear()
        self._remove_scratch()


def own_folder(folder: Path) -> int:
    """Make a folder that is locked while this process lives, and return the handle of the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # without locks nothing is swept
                fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_ino == os.fstat(handle).st_ino:
                    return handle
            os.close(handle)  # another process swept it between the two lines above


def _sweep(scratch: Path) -> None:
    """Remove the folders of processes that are gone: nobody holds their lock any more."""
    for folder in scratch.iterdir():
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _tell_fallbacks(tx: Tx, batch: _Batch, proposals: Sequence[registry.Proposal]) -> None:
    """Record which series got the naive forecast in the place of their trainer's, and why; one event for all."""
    found = [(one, why) for one in proposals if (why := (one.signature.get("series") or {}).get("fallback"))]
    if found:
        first, why = found[0]
        key = batch.messages[first.item_id]["key"]
        dimensions, overall = batch.model.spec.dimensions, batch.model.spec.overall
        name = label(decode(key), dimensions, overall) if dimensions else batch.model.name
        figures.stood_in(tx, len(found))
        tx.event(
            Kind.FORECAST_FALLBACK, model=batch.model.name, run_id=first.run_id, count=len(found), example=name, why=why
        )


def _promoted_score(champion: registry.Fit | None, score: str) -> float | None:
    """Return a champion's score on its own hold-out, when it was judged."""
    found: float | None = (champion.scores.get("challenger") or {}).get(score) if champion else None
    return found
