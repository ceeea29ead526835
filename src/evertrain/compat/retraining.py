"""The retraining service of document 001: jobs, retraining on request, and what became of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from evertrain import registry, scores
from evertrain.compat import words
from evertrain.control import accuracy, ask, drift, jobs, steer
from evertrain.control.opened import Opened
from evertrain.control.work import Outcome, Progress, loop_alive, read_first, read_now, run_to_end
from evertrain.errors import Conflict, TrainingError
from evertrain.loop import Loop
from evertrain.partitions import WHOLE
from evertrain.project import Project
from evertrain.specs import Drift, ScoreDrop
from evertrain.store import champions, models, runs
from evertrain.triggers import Decision

logger = logging.getLogger("evertrain")

THRESHOLD = 0.15
"""Relative drop of the accuracy that asks for retraining where nothing else is declared: the documents' number."""


@dataclass(frozen=True)
class RetrainingResult:
    """What became of a request for retraining.

    Attributes:
        old_version, new_version: that served before and serves after; None before the first training.
        old_metrics, new_metrics: scores of both on the same rows that neither has learnt; without a new model, those
            of the one that serves.
        improvement: of the deciding score, relative per cent, positive is better; 0 where nothing was compared.
        improvement_points: the same in the score's own unit.
        training_duration: seconds.
        outcome: "promoted", "refused", "not_needed" or "insufficient_samples".
        reason: why, in words.
    """

    model_type: str
    old_version: str | None
    new_version: str | None
    old_metrics: dict[str, float]
    new_metrics: dict[str, float]
    improvement: float
    training_samples: int
    training_duration: float
    outcome: str
    reason: str
    improvement_points: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RetrainingJob:
    """One job. Moments are this machine's, without a zone, as `datetime.now()` has them.

    Attributes:
        schedule_type: "daily", "weekly", "monthly" or "on_drift"; "cron" where the project file declares one.
        next_run: None for "on_drift".
        origin: "declared" in the project file, or "added" by `add_job`.
    """

    job_id: int
    model_type: str
    schedule_type: str
    schedule_config: dict[str, Any]
    last_run: datetime | None
    next_run: datetime | None
    drift_threshold: float | None = None
    min_samples: int | None = None
    origin: str = "added"


class AutomatedRetrainingService:
    """Jobs and retraining by the words of document 001, over a project whose models are declared.

    Whoever runs the loop does the jobs. Without a loop `check_and_execute_jobs` does them, called from time to time.

    Args:
        actor: who is named in the log; by default who opened the project.
    """

    def __init__(self, project: Project | Opened, *, actor: str | None = None) -> None:
        self.opened = project.opened if isinstance(project, Project) else project
        self._actor = actor or self.opened.store.actor

    def add_job(
        self,
        model_type: str,
        schedule_type: str,
        schedule_day: int | None = None,
        schedule_time: str | None = None,
        drift_threshold: float | None = None,
        min_samples: int | None = None,
    ) -> int:
        """Add a job and return its number. The same job again is the same number: an application may add at each start.

        Several jobs of one model train it once for what they see together; of several drops of the accuracy the
        smallest speaks.

        Args:
            schedule_type: "daily", "weekly", "monthly" (the first day, unless `schedule_day` names another), "on_drift".
            schedule_day: 0 (Monday) to 6 (Sunday), for weekly jobs.
            schedule_time: "HH:MM" in the project's zone; 03:00 where it is not given.
            drift_threshold: relative: 0.15 of an accuracy of 0.90 fires below 0.765.
            min_samples: rows without which the job trains nothing.

        Raises:
            NotFound: no such model is declared.
            ConfigError: a value is not allowed, and what is.
        """
        rule = words.rule_of(schedule_type, schedule_day, schedule_time, drift_threshold)
        return jobs.add(self.opened, model_type, rule, min_samples=min_samples, actor=self._actor)

    def get_retraining_schedule(self) -> list[RetrainingJob]:
        """Return the jobs, in order of their next moment; those that wait for a drop come last."""
        return [_job(one) for one in jobs.every(self.opened)]

    def remove_job(self, job_id: int) -> None:
        """Remove a job. One that the project file declares comes back with the next reload.

        Raises:
            NotFound: there is no such job.
        """
        steer.remove_schedule(self.opened, job_id, actor=self._actor)

    def retrain_model(
        self,
        model_type: str,
        force: bool = False,
        min_samples: int | None = None,
        *,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> RetrainingResult:
        """Retrain a model where its drift check asks for it, or in any case, and wait for what becomes of it.

        A model that was never trained is trained without a check; so is, where rows changed, one that cannot tell new
        rows from those it was trained on: its source has no time column, and it waited for no drop or drift then.

        Args:
            force: skip the check, and train also where the rows are known already.
            min_samples: rows without which nothing is trained.
            progress: called with every event of the run meanwhile.
            stop: asked meanwhile; waiting ends when it answers true, and the run goes on elsewhere.

        Raises:
            NotFound: no such model is declared.
            TrainingError: the training failed; what served goes on.
            Conflict: it was cancelled, is paused, or waits for the end of a blackout; or `stop` ended the waiting.
        """
        read_first(self.opened, model_type)
        if min_samples is not None:
            short = self._short_of(model_type, min_samples)
            if short is not None:
                logger.warning("%s: %s", model_type, short)
                return self._without_training(model_type, "insufficient_samples", short)
        if force:
            asked = ask.trigger(self.opened, model_type, force=True, actor=self._actor)
        elif champion(self.opened, model_type) is None:
            asked = ask.trigger(self.opened, model_type, actor=self._actor)
        else:
            decision = drift_check(self.opened, model_type)
            if decision.code == "few_rows" and not _tells_new_rows(self.opened, model_type):
                # Nothing can be said about its drift: trained where any row is another.
                return self._done(model_type, ask.trigger(self.opened, model_type, actor=self._actor), progress, stop)
            if not decision.fired:
                return self._without_training(model_type, "not_needed", decision.reason)
            asked = ask.retrain(self.opened, model_type, decision, actor=self._actor)
        return self._done(model_type, asked, progress, stop)

    def check_and_execute_jobs(self) -> list[RetrainingResult]:
        """Do what is due now, once, and return what became of it; nothing where a loop does it all the time."""
        if loop_alive(self.opened):
            return []
        with self.opened.store.read() as tx:
            before = max((row.id for row in runs.newest(tx, None, 1)), default=0)
            asking = {
                one.spec.source
                for one in models.every(tx)
                if any(isinstance(r, ScoreDrop | Drift) for r in one.spec.triggers)
            }
        read_now(self.opened, asking)  # what is asked how it does is asked on the rows of now, not of the last call
        Loop(self.opened, watch_files=False).run(until_idle=True)
        with self.opened.store.read() as tx:
            ended = [row.id for row in runs.newest(tx, None, 1000) if row.id > before and row.ended_at]
        return [one for number in sorted(ended) if (one := self._told_if_well(number))]

    def _execute_retraining_job(self, job: RetrainingJob) -> RetrainingResult:
        """Do a job now; one whose moment has come has had it then, and nobody else does it again."""
        moment = job.next_run.astimezone(UTC) if job.next_run else None
        return self._done(job.model_type, jobs.execute(self.opened, job.job_id, moment=moment, actor=self._actor))

    # --- telling ----------------------------------------------------------------------------------------------

    def _short_of(self, model_type: str, least: int) -> str | None:
        with self.opened.store.read() as tx:
            source = models.by_name(tx, model_type).spec.source
        read_now(self.opened, [source])
        with self.opened.store.write(self._actor) as tx:
            model = models.by_name(tx, model_type)
            rows = model.extract["rows"] if model.extract else 0
            if rows >= least:
                jobs.lower_floor(tx, model, least)
        return None if rows >= least else f"Insufficient samples: {rows} < {least}"

    def _done(
        self,
        model_type: str,
        asked: ask.Asked,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> RetrainingResult:
        if asked.run_id is None:
            few = asked.reason.startswith("Insufficient samples")
            return self._without_training(model_type, "insufficient_samples" if few else "not_needed", asked.reason)
        return self._told(run_to_end(self.opened, asked, progress=progress, stop=stop))

    def _told_if_well(self, run_id: int) -> RetrainingResult | None:
        from evertrain.control.work import outcome

        try:
            return self._told(outcome(self.opened, run_id))
        except (TrainingError, Conflict) as error:
            logger.warning("%s", error)
            return None

    def _told(self, done: Outcome) -> RetrainingResult:
        if done.outcome == "failed":
            raise TrainingError(f"{done.model} could not be retrained: {done.reason}; what served goes on")
        if done.outcome == "cancelled":
            raise Conflict(f"the retraining of {done.model} was cancelled: {done.reason}")
        promoted = done.counts.get("promoted", 0) > 0
        known = ("refused", "not_needed", "insufficient_samples")
        outcome = "promoted" if promoted else done.outcome if done.outcome in known else "not_needed"
        assert done.run_id is not None
        with self.opened.store.read() as tx:
            fit = runs.speaking_fit(tx, done.run_id)
        if fit is None:
            return self._without_training(done.model, outcome, done.reason)
        # The numbers are those of the widest partition, so the word is its own, too.
        promoted = fit.state == "promoted"
        outcome = "promoted" if promoted else "refused" if fit.state == "rejected" else outcome
        shown = json.loads(fit.scores)
        change = scores.improvement(done.score, done.old_score, done.new_score) if done.score else None
        measured = change is not None and change.points == change.points
        result = RetrainingResult(
            done.model, done.old_version, done.new_version if promoted else done.old_version,
            words.metrics(shown.get("champion")), words.metrics(shown.get("challenger")),
            round(done.improvement or 0.0, 2), fit.rows, round(done.seconds, 3), outcome, done.reason,
            round(change.points, 6) if change is not None and measured else 0.0,
        )  # fmt: skip
        if promoted and result.old_version:
            logger.info("Archived %s v%s", done.model, result.old_version)
        return result

    def _without_training(self, model_type: str, outcome: str, reason: str) -> RetrainingResult:
        fit = champion(self.opened, model_type)
        version = fit.version if fit else None
        shown = words.metrics(fit.scores.get("challenger")) if fit else {}
        return RetrainingResult(model_type, version, version, shown, dict(shown), 0.0, 0, 0.0, outcome, reason)


def _job(one: jobs.Job) -> RetrainingJob:
    threshold = one.rule.threshold if isinstance(one.rule, ScoreDrop) else None
    return RetrainingJob(
        one.number, one.model, words.schedule_type(one.rule), words.schedule_config(one.rule),
        words.wall(one.last_at), words.wall(one.next_at), threshold, one.min_samples, one.origin,
    )  # fmt: skip


def champion(opened: Opened, model_type: str) -> registry.Fit | None:
    """Return the fit that serves a model, of its widest rollup where there are several; None before the first."""
    with opened.store.read() as tx:
        place = champions.widest(tx, models.by_name(tx, model_type).id)
        number = place.champion_id if place else None
        return registry.fits(tx, [number]).get(number) if number else None


def _tells_new_rows(opened: Opened, model_type: str) -> bool:
    fit = champion(opened, model_type)
    project = opened.project()
    source = project.sources[project.models[model_type].source]
    return fit is None or source.time is not None or "rows" in fit.signature


def drift_check(opened: Opened, model_type: str) -> Decision:
    """Return whether a model should be retrained: what `on_drift()` finds where it is declared, else how it scores.

    The score on labelled rows newer than the training is set against that at promotion; the smallest drop that the
    model declares, or a job waits for, decides.
    """
    with opened.store.read() as tx:
        model = models.by_name(tx, model_type)
    if model.spec.drift is not None:
        decided = drift.look(opened, model_type, None if model.spec.partition_by else [WHOLE])
        found = drift.together(model.spec, decided)
        if found.fired:
            return found
    return accuracy.look(opened, model_type, smallest_drop(model))


def smallest_drop(model: models.Model) -> ScoreDrop:
    """Return the smallest drop of a score that a model declares or a job of it waits for; else the documents' 15 %."""
    found = [one for one in model.spec.triggers if isinstance(one, ScoreDrop)]
    return min(found, key=lambda one: one.threshold, default=ScoreDrop(THRESHOLD))
