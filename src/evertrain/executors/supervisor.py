"""The supervisor: takes items under its lease, hands them to an executor, judges what comes back, and writes.

It is the only one who writes for a running item, and everything it writes names owner and fence. Users' code, data
files and models are met in workers alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evertrain import gate, registry, watch
from evertrain.artifacts import Artifacts, Place
from evertrain.config import Home, Settings
from evertrain.errors import ArtifactError, EvertrainError, StaleAttempt
from evertrain.events import Kind
from evertrain.executors.jobs import Executor, Job, Lost, Message
from evertrain.executors.lease import LeaseKeeper
from evertrain.faults import fault_point
from evertrain.partitions import KeyText
from evertrain.sources import read
from evertrain.sources.index import Leaf, leaves
from evertrain.specs import Cause, ProjectSpec, encode
from evertrain.states import ItemState
from evertrain.store import champions, items, models
from evertrain.store.connect import Record, Store, Tx
from evertrain.trainers.make import family

Answer = Callable[[Message | Lost], None]

_RETRY_S = 5.0
_CANCEL_LOOK_S = 0.5
_PROGRESS_S = 0.5


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
        self.keeper = LeaseKeeper(store, lease_s=settings.lease_s, beat_s=settings.beat_s)
        self._held: list[_Batch] = []
        self._readings: dict[str, Job] = {}
        self._jobs: list[Job] = []
        self._looked = self._told = 0.0
        self._make_folders()

    @property
    def owner(self) -> str:
        return self.keeper.owner

    @property
    def scratch(self) -> Path:
        return self.home.scratch / self.owner

    def _make_folders(self) -> None:
        for folder in (self.home.folder, self.home.extracts, self.scratch, self.artifacts.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def busy(self) -> bool:
        """Whether anything is under way here."""
        return bool(self._jobs or self._held)

    @property
    def training(self) -> int:
        """How many items are under way here."""
        batches = [job.purpose for job in self._jobs if isinstance(job.purpose, _Batch)]
        return sum(len(batch.open) for batch in [*batches, *self._held])

    # --- one step ---------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.2) -> None:
        """Take what arrived, write it, and hand out what is ready; returns after at most about `timeout_s`."""
        if self.keeper.lost:
            self._abandon()
        for job, message in self.executor.poll(timeout_s if self._jobs else 0):
            self._handle(job, message)
        self._cancel_asked()
        if not self.draining:
            self._take()

    def _handle(self, job: Job, message: Message | Lost) -> None:
        if isinstance(message, Lost):
            self._end_job(job)
            self._lost(job, message)
        elif isinstance(job.purpose, _Batch):
            self._on_batch(job, job.purpose, message)
        elif isinstance(job.purpose, _Reading):
            self._on_reading(job, job.purpose, message)
        else:
            self._on_answer(job, message)

    def _end_job(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)

    def _start(self, job: Job) -> None:
        self._jobs.append(job)
        self.executor.start(job)

    # --- other tasks ------------------------------------------------------------------------------------------

    def ask(
        self, task: Message, family_name: str, answer: Answer, *, lane: str = "work", deadline_s: float = 600
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
                purpose=answer,
            )
        )
        return True

    def _on_answer(self, job: Job, message: Message) -> None:
        if message["type"] in ("begin", "progress"):
            return
        if message["type"] == "done":
            self._end_job(job)
            return
        if message["type"] == "error":
            self._end_job(job)
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
            users = [user for user in models.every(tx) if user.spec.source == name]
            task = watch.task(tx, project, name, users, root=self.home.root, folder=self.home.extracts, force=force)
        reading = _Reading(name, project, task, force, [answer] if answer else [])
        deadline = max((user.spec.deadline.total_seconds() for user in users), default=3600)
        job = Job(task, "reader", "read", deadline_s=deadline, purpose=reading)
        self._readings[name] = job
        self._start(job)

    def _on_reading(self, job: Job, reading: _Reading, message: Message) -> None:
        if message["type"] == "done":
            self._end_job(job)
            return
        if message["type"] == "error":
            self._end_job(job)
        self._readings.pop(reading.name, None)
        with self.store.write() as tx:
            if message["type"] == "error":
                watch.failed(tx, reading.project, reading.name, str(message["reason"]).removeprefix("DataError: "))
            else:
                watch.apply(tx, reading.project, reading.name, message, reading.task, force=reading.force)
        self._sweep_extracts()
        for answer in reading.answers:
            answer(message)
        waiting = [batch for batch in self._held if batch.model.spec.source == reading.name]
        self._held = [batch for batch in self._held if batch not in waiting]
        for batch in waiting:
            if message["type"] == "error":
                self._skip(batch, str(message["reason"]).removeprefix("DataError: "))
            else:
                self._begin(batch.claim)

    def _sweep_extracts(self) -> None:
        """Remove copies of rows that neither the store nor a job of this process needs."""
        with self.store.read() as tx:
            known = {Path(user.extract["path"]).stem for user in models.every(tx) if user.extract}
        known |= {Path(job.task["extract"]).stem for job in self._jobs if "extract" in job.task}
        known |= {Path(one["path"]).stem for job in self._readings.values() for one in job.task["models"]}
        for path in self.home.extracts.iterdir():
            # Another process may be training on a copy that was current a while ago.
            with contextlib.suppress(OSError):
                if path.stem not in known and time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    # --- taking items -----------------------------------------------------------------------------------------

    def _take(self) -> None:
        while self.executor.free("work") - len(self._held) > 0:
            with self.store.read() as tx:
                if not items.any_ready(tx):
                    return
            with self.store.write() as tx:
                claim = items.claim(tx, self.owner, most=self.settings.batch_items, seconds=self.settings.batch_s)
            if claim is None:
                return
            fault_point("claim.after_commit")
            self._begin(claim)

    def _begin(self, claim: items.Claim) -> None:
        """Hand claimed items out, after a fresh read of their source where one is owed."""
        with self.store.read() as tx:
            model = models.by_id(tx, claim.model_id)
            project = models.project(tx)
        assert project is not None
        batch = _Batch(claim, model, {item.id: item for item in claim.items})
        try:
            stat = read.look(project.sources[model.spec.source], self.home.root)
        except EvertrainError as error:
            self._skip(batch, str(error))
            return
        if self._usable(model, stat, max(item.wanted for item in claim.items)):
            self._dispatch(batch, project)
        else:
            self._held.append(batch)
            self.read_source(model.spec.source, force=any(item.forced for item in claim.items))

    @staticmethod
    def _usable(model: models.Model, stat: str | None, wanted: int) -> bool:
        """Return whether the last copy of the rows is as new as what is wanted, or the source unchanged since."""
        extract = model.extract
        if extract is None or not Path(extract["path"]).exists() or extract["recipe"] != model.recipe:
            return False
        return bool(extract["commit"] >= wanted or (stat is not None and extract["stat"] == stat))

    def _dispatch(self, batch: _Batch, project: ProjectSpec) -> None:
        model, claim = batch.model, batch.claim
        assert model.extract is not None
        with self.store.read() as tx:
            places = champions.facts(tx, [item.partition_id for item in claim.items])
            batch.champions = registry.fits(tx, [row.champion_id for row in places.values() if row.champion_id])
        where = {
            leaf.key: leaf
            for leaf in leaves(model.extract["index"], [KeyText(item.key) for item in claim.items if item.leaf])
        }
        gone = [
            item
            for item in claim.items
            if places[item.partition_id].state == "retired" or (item.leaf and item.key not in where)
        ]
        if gone:
            self._skip(batch, "the partition has no rows any more", gone)
        needless: list[tuple[Record, str]] = []
        for item in claim.items:
            if item.id not in batch.open:
                continue
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
                "champion": champion and champion.as_message(str(self.artifacts.path(champion.place.artifact))),
            }
        for reason in dict.fromkeys(reason for _, reason in needless):
            self._skip(batch, reason, [item for item, own in needless if own == reason])
        if batch.messages:
            self._start(self._job(batch, project, list(batch.messages.values())))

    @staticmethod
    def _needless(
        item: Record, place: Record, leaf: Leaf | None, champion: registry.Fit | None, model: models.Model
    ) -> str | None:
        """Return why nothing could be learnt from training this item, before any worker is troubled."""
        rows = leaf.rows if leaf else place.rows
        if rows is not None and rows < model.spec.min_samples:
            return f"Insufficient samples: {rows} < {model.spec.min_samples}"
        if champion is None or item.forced or item.cause not in (Cause.DATA_CHANGE, Cause.UPLOAD, Cause.MANUAL):
            return None
        if place.seen == champion.input and champion.signature.get("recipe") == model.recipe:
            return f"not needed: {champion.version} was trained on these very rows"
        return None

    def _job(self, batch: _Batch, project: ProjectSpec, messages: Sequence[Message]) -> Job:
        model, source = batch.model, project.sources[batch.model.spec.source]
        assert model.extract is not None
        task = {
            "kind": "train",
            "root": str(self.home.root),
            "scratch": str(self.scratch),
            "model": encode(model.spec),
            "extract": model.extract["path"],
            "columns": model.extract["columns"],
            "time": source.time,
            "key": list(source.key),
            "now": self.store.clock.now().isoformat(),
            "items": list(messages),
        }
        return Job(
            task,
            family(model.spec.trainer),
            deadline_s=model.spec.deadline.total_seconds(),
            memory_mb=model.spec.memory_mb,
            purpose=batch,
        )

    # --- results ----------------------------------------------------------------------------------------------

    def _on_batch(self, job: Job, batch: _Batch, message: Message) -> None:
        if message["type"] == "pack":
            self._settle(batch, message)
        elif message["type"] == "progress":
            self._tell(batch, message)
        elif message["type"] == "error":
            self._end_job(job)
            reason = str(message["reason"])
            self._close(
                batch,
                list(batch.open.values()),
                ItemState.FAILED,
                reason,
                error_class=reason.partition(":")[0],
                error=message.get("error"),
            )
        elif message["type"] == "done":
            self._end_job(job)
            self._release(batch)

    def _settle(self, batch: _Batch, message: Message) -> None:
        results = [one for one in message["results"] if one["item"] in batch.open]
        artifact, size = ("", 0)
        if message["path"]:
            artifact, size = self.artifacts.take(Path(message["path"]))
        fault_point("settle.after_artifact")
        losses = np.fromfile(message["losses"], dtype="<f8") if message["losses"] else np.empty(0)
        proposals, closings, retries = [], [], []
        for result in results:
            item = batch.open[result["item"]]
            if result["state"] == "fitted":
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
        if message["losses"]:
            Path(message["losses"]).unlink(missing_ok=True)
        self._write(batch, proposals, closings)
        self._retry(batch, retries, crashed=False)

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
        verdict = gate.judge(batch.model.spec.gate, measured, correction=bool(item.correction))
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
            encode(batch.model.spec.trainer),
            signature,
            result["scores"],
            verdict,
            result["rows"],
            result["seconds"],
            result["cpu_s"],
            result["peak_mb"],
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
            fault_point("settle.after_commit")
        except (StaleAttempt, ArtifactError) as error:
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
            item = batch.open.pop(item_id, None)
            if item is None:
                continue
            with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                if isinstance(error, ArtifactError):
                    items.release_items(tx, self.owner, [(item.id, item.fence)])
                elif item.id in items.cancelled_items(tx, self.owner):
                    self._finish_cancelled(tx, batch, item)

    def _judge_again(self, batch: _Batch, proposals: Sequence[registry.Proposal]) -> None:
        """Judge fits against champions that came meanwhile; nothing is fitted again."""
        with self.store.read() as tx:
            project = models.project(tx)
            facts = champions.facts(tx, [one.partition_id for one in proposals])
            now = {number: row.champion_id for number, row in facts.items()}
            batch.champions |= registry.fits(tx, [one for one in now.values() if one])
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
                "champion": champion and champion.as_message(str(self.artifacts.path(champion.place.artifact))),
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
        self._close(batch, list(only or batch.open.values()), ItemState.SKIPPED, reason)

    def _close(self, batch: _Batch, closing: Sequence[Record], state: ItemState, reason: str, **result: Any) -> None:
        self._write(
            batch,
            [],
            [
                registry.Closing(
                    self._end_of(item, state, {"reason": reason, **result}),
                    item.partition_id,
                    item.wanted,
                    batch.seen.get(item.id),
                )
                for item in closing
            ],
        )

    def _finish_cancelled(self, tx: Tx, batch: _Batch, item: Record) -> None:
        end = items.End(item.id, item.fence, ItemState.CANCELLED, "cancelled by a person")
        closing = registry.Closing(end, item.partition_id, item.wanted, None)
        registry.settle(tx, self.artifacts, self.owner, batch.claim.model_id, [], [closing])

    def _retry(self, batch: _Batch, ends: Sequence[items.End], *, crashed: bool) -> None:
        if not ends:
            return
        for end in ends:
            batch.open.pop(end.item_id, None)
            with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                items.retry_items(tx, self.owner, [end], delay_s=_RETRY_S, crashed=crashed)

    def _release(self, batch: _Batch) -> None:
        if batch.open:
            with self.store.write() as tx:
                items.release_items(tx, self.owner, [(item.id, item.fence) for item in batch.open.values()])
            batch.open.clear()

    def _lost(self, job: Job, lost: Lost) -> None:
        if isinstance(job.purpose, _Reading):
            self._on_reading(job, job.purpose, {"type": "error", "reason": f"reading it failed: {lost.reason}"})
        elif isinstance(job.purpose, _Batch):
            self._lost_batch(job, job.purpose, lost)
        else:
            job.purpose(lost)

    def _lost_batch(self, job: Job, batch: _Batch, lost: Lost) -> None:
        """Charge the item in progress alone; the others go back unharmed."""
        item = batch.open.get(job.item) if job.item is not None else None
        if item is None and len(batch.open) == 1:
            item = next(iter(batch.open.values()))
        if item is not None:
            if lost.error_class == "cancelled":
                with contextlib.suppress(StaleAttempt), self.store.write() as tx:
                    if item.id in items.cancelled_items(tx, self.owner):
                        batch.open.pop(item.id)
                        self._finish_cancelled(tx, batch, item)
            elif lost.error_class == "deadline":
                self._close(batch, [item], ItemState.FAILED, lost.reason, error_class="deadline")
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
        if item is None or time.monotonic() - self._told < _PROGRESS_S:
            return
        self._told = time.monotonic()
        # Telling is worth less than working: a busy store loses a line of progress, never a result.
        with contextlib.suppress(EvertrainError), self.store.write() as tx:
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
                if isinstance(message, Lost) or message["type"] in ("done", "error"):
                    self._end_job(job)
        self._jobs.clear()
        self._held.clear()
        self._readings.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.keeper.close()
        self.keeper = LeaseKeeper(self.store, lease_s=self.settings.lease_s, beat_s=self.settings.beat_s)
        self._make_folders()

    def drain(self, seconds: float) -> None:
        """Take nothing new, let what runs end for at most `seconds`, then give it back; tries are not counted."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self._jobs and time.monotonic() < deadline and not self.keeper.lost:
            self.step()

    def close(self) -> None:
        """Give back what is still held, end the children and the lease."""
        self.draining = True
        self.executor.close()
        with contextlib.suppress(EvertrainError):
            for batch in [*self._held, *(job.purpose for job in self._jobs if isinstance(job.purpose, _Batch))]:
                self._release(batch)
        self._held.clear()
        self._jobs.clear()
        with contextlib.suppress(EvertrainError):
            self.keeper.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _promoted_score(champion: registry.Fit | None, score: str) -> float | None:
    """Return a champion's score on its own hold-out, when it was judged."""
    found: float | None = (champion.scores.get("challenger") or {}).get(score) if champion else None
    return found
