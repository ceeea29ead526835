"""Asking for training: by hand, by a plan that is due, again after a failure; and taking a request back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evertrain import plan, watch
from evertrain.control.opened import Opened
from evertrain.drift.signal import Severity
from evertrain.errors import Conflict, NotFound, StoreError
from evertrain.partitions import KeyText, closure, decode, encode
from evertrain.specs import Cause, Dataset, ModelSpec
from evertrain.store import champions, decisions, demand, items, models, runs, sources
from evertrain.store.connect import Tx
from evertrain.triggers import Decision


@dataclass(frozen=True)
class Asked:
    """What became of a request: its run, or the reason why there is none.

    Attributes:
        announcement: what users of the application may read, where an application says that its records changed.
    """

    run_id: int | None
    partitions: int
    total: int
    reason: str
    announcement: str = ""


def keys_of(spec: ModelSpec, partitions: Sequence[Mapping[str, Any]] | None) -> list[KeyText] | None:
    """Return the keys that a person named, as the store knows them; None stays None: all.

    Raises:
        NotFound: a name is no dimension of the model.
    """
    if partitions is None:
        return None
    try:
        return [encode(one, spec.dimensions) for one in partitions]
    except ValueError as error:
        raise NotFound(f"{spec.name}: {error}") from None


def trigger(
    opened: Opened,
    model: str,
    partitions: Sequence[Mapping[str, Any]] | None = None,
    *,
    force: bool = False,
    actor: str = "evertrain",
    rollups: bool = True,
    most_waiting: int | None = None,
) -> Asked:
    """Ask for training by hand, of named partitions and the rollups above them, or of a whole model.

    Without `force` a partition whose champion was trained on exactly these rows is skipped: nothing could be learnt.
    `force` trains all the same, and accepts a source that lost most of its rows.

    Raises:
        NotFound: no such model or partition.
        QueueFull: `most_waiting` items wait already.
    """
    with opened.store.write(actor) as tx:
        found = models.by_name(tx, model)
        items.refuse_more(tx, most_waiting)
        _take_in(tx, found)
        keys = keys_of(found.spec, partitions)
        if keys is not None:
            known(tx, found, keys)
            if rollups:
                keys = list(closure(keys, found.spec.dimensions, found.spec.levels))
        decision = Decision(
            Cause.MANUAL,
            "manual",
            True,
            "asked",
            f"asked by {actor}" + (" with force" if force else ""),
            Severity.LOW,
            {"force": force, "partitions": None if keys is None else len(keys)},
        )
        request = demand.Request(Cause.MANUAL, f"asked by {actor}", actor, forced=force)
        return _asked(tx, found, request, decision, keys)


def retrain(opened: Opened, model: str, decision: Decision, *, actor: str = "evertrain") -> Asked:
    """Ask for training of a whole model for a reason that was decided outside of the loop, and record the decision.

    Raises:
        NotFound: no such model.
    """
    with opened.store.write(actor) as tx:
        found = models.by_name(tx, model)
        _take_in(tx, found)
        return _asked(tx, found, demand.Request(decision.cause, decision.reason, actor), decision, None)


def _asked(
    tx: Tx, model: models.Model, request: demand.Request, decision: Decision, keys: Sequence[KeyText] | None
) -> Asked:
    commit = demand.want(tx, model.id, model.name, request, keys)
    decisions.record(tx, model.id, model.name, decision, action="train", wanted=commit)
    run_id, made = plan_model(tx, model.id)
    if made is None:
        total, row = demand.live(tx, model.id), sources.state(tx, model.spec.source)
        why = row.problem if row is not None and row.problem else "its source has not been read"
        return Asked(None, 0, total, f"{model.name} has no partitions yet; {why}")
    return Asked(run_id, len(made.wanted), made.total, made.reason)


def changed(
    opened: Opened, model: str, partitions: Sequence[Mapping[str, Any]], *, actor: str, most_waiting: int | None = None
) -> Asked:
    """Make partitions due whose rows an application has changed, with the rollups above them.

    For applications that keep their own records: the source is read again before anything is trained, so partitions
    that are new are found, and those whose rows are as they were are left alone. Values that cannot be keys make the
    whole model due: something changed, and it cannot be told what.

    Raises:
        NotFound: no such model, or a name is no dimension of it.
        QueueFull: `most_waiting` items wait already.
    """
    with opened.store.write(actor) as tx:
        found = models.by_name(tx, model)
        items.refuse_more(tx, most_waiting)
        try:
            named = _encoded(found.spec, partitions)
        except ValueError as error:
            request = demand.Request(Cause.UPLOAD, f"{actor} changed rows, and {error}", actor, forced=True)
            demand.fall_back(tx, found.id, model, request)
            return _planned(tx, found, None)
        keys = list(closure(named, found.spec.dimensions, found.spec.levels))
        there = champions.known_keys(tx, found.id, keys)
        met = [key for key in keys if key in there]
        if len(met) < len(keys):
            sources.read_again(tx, found.spec.source)  # it holds partitions that nobody has met yet
        if not met:
            reason = f"none of these partitions is known yet; {found.spec.source} is read again at the next look"
            return Asked(None, 0, demand.live(tx, found.id), reason)
        storm = _leaves(found.spec, met) > (cap := found.spec.storm.cap(demand.leaves(tx, found.id)))
        if storm:
            reason = f"{actor} changed rows of more than {cap} partitions: the whole model is asked for"
            demand.want(tx, found.id, model, demand.Request(Cause.UPLOAD, reason, actor))
        else:
            request = demand.Request(Cause.UPLOAD, f"{actor} changed rows", actor)
            demand.want(tx, found.id, model, request, met, watch.delay_of(found.spec, met))
        return _planned(tx, found, None if storm else met)


def _encoded(spec: ModelSpec, partitions: Sequence[Mapping[str, Any]]) -> list[KeyText]:
    """Return the keys that an application names.

    Raises:
        NotFound: a name is no dimension of the model, which is a mistake in the application.
        ValueError: a value cannot be a key.
    """
    if strange := [name for one in partitions for name in one if name not in spec.dimensions]:
        keys_of(spec, [{strange[0]: None}])  # says which there are
    return [encode(one, spec.dimensions) for one in partitions]


def _planned(tx: Tx, model: models.Model, keys: Sequence[KeyText] | None) -> Asked:
    run_id, made = plan_model(tx, model.id)
    said = plan.announcement(model.spec, keys)
    if made is None:  # rollups that wait for their quiet period, or a source that was never read
        return Asked(None, 0, demand.live(tx, model.id), "noted; it is planned when its time comes", said)
    return Asked(run_id, len(made.wanted), made.total, made.reason, said)


def _leaves(spec: ModelSpec, keys: Sequence[KeyText]) -> int:
    return sum(len(decode(key)) == len(spec.dimensions) for key in keys)


def _take_in(tx: Tx, model: models.Model) -> None:
    """Take in what came to a dataset since the last look: a person who asks now means these rows and partitions."""
    project = models.project(tx)
    assert project is not None
    if isinstance(project.sources[model.spec.source], Dataset):
        watch.catch_up(tx, project, model.spec.source)


def known(tx: Tx, model: models.Model, keys: Sequence[KeyText]) -> Sequence[KeyText]:
    """Return the keys, each of which is a partition or a rollup.

    Raises:
        NotFound: one is not; names some that are.
    """
    there = champions.known_keys(tx, model.id, keys)
    if unknown := [key for key in keys if key not in there]:
        some = ", ".join(champions.some_keys(tx, model.id))
        raise NotFound(f"{model.name} has no partition {unknown[0]}; it has {some or 'none yet'}")
    return keys


def plan_model(tx: Tx, model_id: int) -> tuple[int | None, plan.Plan | None]:
    """Give everything that is wanted of a model a place in a run, in this transaction."""
    model = models.by_id(tx, model_id)
    made, everything = preview(tx, model)
    if made is None:
        return None, None
    if made.fallback:
        demand.fall_back(tx, model.id, model.name, demand.Request(made.cause, made.fallback))
    run = runs.NewRun(
        model.id,
        model.name,
        "full" if made.full else "selective",
        made.cause,
        made.reason,
        made.actor,
        [
            runs.NewItem(
                one.partition_id,
                one.cause,
                one.cause.is_correction,
                one.forced,
                plan.PRIORITY[one.cause],
                tx.now_text,
                one.waiting_item,
            )
            for one in made.wanted
        ],
        made.estimate_s,
    )
    run_id = runs.create_run(tx, run)
    demand.mark_planned(tx, model.id, [one.partition_id for one in made.wanted], everything=everything)
    return run_id, made


def preview(tx: Tx, model: models.Model) -> tuple[plan.Plan | None, bool]:
    """Return the plan that would be made now, and whether it speaks of the whole model; writes nothing.

    Where it cannot be told which partitions are due, it is of the whole model, and says why.
    """
    try:
        return _preview(tx, model)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, nothing that is wanted may be lost
        return _whole(tx, model, f"planning failed ({type(error).__name__}: {error})"), True


def _whole(tx: Tx, model: models.Model, why: str) -> plan.Plan | None:
    """Return a plan of everything that asks no partition for its reasons; those that are due are trained for sure."""
    wanted = [
        plan.Wanted(
            row.id,
            row.key,
            bool(row.leaf),
            Cause.DATA_CHANGE,
            f"fell back to a full run: {why}",
            forced=row.wanted > row.considered,
            waiting_item=row.waiting_item,
        )
        for row in demand.to_plan(tx, model.id, everything=True)
    ]
    made = plan.make(model.spec, wanted, len(wanted), model.seconds_each)
    return made and replace(made, fallback=why)


def _preview(tx: Tx, model: models.Model) -> tuple[plan.Plan | None, bool]:
    asked = demand.whole(tx, model.id)
    everything = bool(asked.wanted > asked.planned)
    wanted = []
    for row in demand.to_plan(tx, model.id, everything=everything):
        own = (
            row.wanted > row.considered
            and row.cause is not None
            and (not everything or (Cause(row.cause).is_correction and not Cause(asked.cause).is_correction))
        )
        speaks = row if own or not everything else asked
        wanted.append(
            plan.Wanted(
                row.id,
                row.key,
                bool(row.leaf),
                Cause(speaks.cause),
                speaks.reason or "",
                speaks.actor or "evertrain",
                bool(row.forced and own) or bool(asked.forced and everything),
                row.waiting_item,
            )
        )
    total = len(wanted) if everything else demand.live(tx, model.id)
    return plan.make(model.spec, wanted, total, model.seconds_each), everything


def plan_all(opened: Opened) -> list[int]:
    """Plan whatever is due and not planned yet, and return the new runs. Costs what is due, not what exists.

    Raises:
        StoreError: a model cannot be planned, not even as a whole; the others are planned, and what it wants is kept.
    """
    with opened.store.read() as tx:
        waiting = demand.models_to_plan(tx)
    made: list[int] = []
    problem: Exception | None = None
    for model_id in waiting:
        try:
            with opened.store.write() as tx:
                run_id, _ = plan_model(tx, model_id)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - one model's trouble is not that of the others
            problem = error
            continue
        if run_id is not None:
            made.append(run_id)
    if problem is not None:
        reason = (str(problem).splitlines() or [""])[0]
        raise StoreError(f"what is due cannot be planned: {type(problem).__name__}: {reason}") from problem
    return made


def newest_run(opened: Opened) -> int:
    """Return the number of the newest run, 0 before the first."""
    with opened.store.read() as tx:
        return next((row.id for row in runs.newest(tx, None, 1)), 0)


def plan_dataset(opened: Opened, name: str, since: int) -> list[int]:
    """Take in what came to a dataset, plan what it makes due, and return the runs of its models.

    For who waits for them: the quiet period, in which more rows could come, is over at once.

    Args:
        since: a run; later ones are returned also where they have ended already.
    """
    with opened.store.write() as tx:
        project = models.project(tx)
        assert project is not None
        watch.catch_up(tx, project, name)
        users = [user for user in models.every(tx) if user.spec.source == name]
        for user in users:
            if not models.is_paused(tx, user.name):
                plan_model(tx, user.id)
        return runs.open_of(tx, [user.id for user in users], since)


def cancel(opened: Opened, run_id: int, actor: str) -> str:
    """Cancel a run and return its state afterwards; items that other runs want go on for those."""
    with opened.store.write(actor) as tx:
        return runs.cancel_run(tx, run_id, actor)


def retry_failed(opened: Opened, run_id: int, actor: str, most_waiting: int | None = None) -> Asked:
    """Train again exactly the partitions that failed, died or were cancelled in a run.

    Raises:
        Conflict: none did.
        QueueFull: `most_waiting` items wait already.
    """
    with opened.store.write(actor) as tx:
        items.refuse_more(tx, most_waiting)
        run = runs.run_row(tx, run_id)
        keys = [KeyText(key) for key in runs.failed_partitions(tx, run_id)]
        if not keys:
            raise Conflict(f"nothing failed in run {run_id} that could be trained again; it {run.state}")
        request = demand.Request(Cause.MANUAL, f"retry of what failed in run {run_id}", actor, forced=True)
        demand.want(tx, run.model_id, run.model, request, keys)
        new_id, made = plan_model(tx, run.model_id)
        assert made is not None
        return Asked(new_id, len(made.wanted), made.total, made.reason)
