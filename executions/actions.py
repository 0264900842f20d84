"""Use cases. Views, API, commands and admin call these and nothing below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from steps.models import Batch
from steps.selection import SelectedEntry, Selection, select
from steps.values import context_problem

from . import dispatch, transitions
from .engine import crash_points
from .engine.plan import FailurePolicy, Lane, Plan, PlannedStep, PoolStart, RunOptions
from .models import AuditEntry, CancelMode, Run, StepRun
from .transitions import ALREADY_FINAL, PROTECTED

DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: a user, or a name such as `command line`."""

    name: str
    user: User | None = None

    @classmethod
    def of(cls, user: User) -> Actor:
        return cls(user.get_username(), user)


class PlanChangedError(Exception):
    """What was previewed is not what would run now. `plan` is the plan as it would be."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("the rules, the steps or the batch changed since the preview")
        self.plan = plan


class ProtectedError(Exception):
    """A protected step that runs is ended by its timeout alone."""


def default_options(batch: Batch) -> RunOptions:
    """The options that a batch brings along."""
    return RunOptions(
        pool_width=batch.pool_width,
        failure_policy=FailurePolicy(batch.failure_policy),
        pool_start=PoolStart(batch.pool_start),
        default_timeout_seconds=batch.default_timeout_seconds,
    )


def preview(
    batch: Batch,
    *,
    context: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    options: RunOptions | None = None,
) -> Plan:
    """What `start_run` would do now. Raises `steps.selection.SelectionError`."""
    return _plan(batch, context, names, options)[0]


def start_run(
    batch: Batch,
    *,
    actor: Actor,
    context: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    options: RunOptions | None = None,
    expected_hash: str | None = None,
) -> Run:
    """Queue a run of the batch.

    `names` are entries (None: all that are on), `context` defaults to the batch's. With
    `expected_hash` the run is made only if the plan still has it, else `PlanChangedError`. Raises
    `steps.selection.SelectionError`, and `ValueError` for a context that is no JSON object.
    """
    plan, selection = _plan(batch, context, names, options)
    if expected_hash is not None and expected_hash != plan.hash:
        raise PlanChangedError(plan)
    with transaction.atomic():
        run = transitions.create_run(
            plan,
            batch=batch,
            ruleset_id=selection.ruleset.pk,
            step_ids={entry.step_name: entry.step_id for entry in selection.entries},
            triggered_by=actor.name,
        )
        _audit(actor, "triggered", run, details={"plan": plan.hash})
        dispatch.hint(run.pk)
        crash_points.passing("run_written")
    return run


def _plan(
    batch: Batch,
    context: Mapping[str, Any] | None,
    names: Sequence[str] | None,
    options: RunOptions | None,
) -> tuple[Plan, Selection]:
    context = batch.context if context is None else context
    if problem := context_problem(context):
        raise ValueError(f"the context {problem}")
    if options is None:
        options = default_options(batch)
    elif options.default_timeout_seconds is None:
        options = replace(options, default_timeout_seconds=batch.default_timeout_seconds)
    selection = select(batch, dict(context), names)
    return make_plan(batch.slug, selection, context, options), selection


def make_plan(
    name: str, selection: Selection, context: Mapping[str, Any], options: RunOptions
) -> Plan:
    """The plan of a selection."""
    fallback = options.default_timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    return Plan(
        batch=name,
        ruleset=selection.ruleset.hash,
        options=options,
        context=context,
        steps=tuple(_planned(entry, fallback) for entry in selection.entries),
    )


def _planned(entry: SelectedEntry, fallback_timeout: float) -> PlannedStep:
    return PlannedStep(
        position=entry.position,
        name=entry.name,
        step_name=entry.step_name,
        kind=entry.kind,
        category=entry.category,
        target=entry.target,
        parameters=entry.parameters,
        timeout_seconds=entry.timeout_seconds or fallback_timeout,
        grace_seconds=entry.grace_seconds,
        retry_safe=entry.retry_safe,
        attempts=entry.attempts if entry.retry_safe else 1,
        backoff_seconds=entry.backoff_seconds,
        protected=entry.protected,
        lane=Lane.CRITICAL if entry.critical else Lane.POOL,
        rule_position=entry.rule_position,
        because=entry.because,
    )


def cancel_run(run_id: int, *, actor: Actor, note: str = "", mode: str = CancelMode.STOP) -> str:
    """Cancel a run: `cancelled`, `cancelling` (its worker is told) or `already_final`."""
    with transaction.atomic():
        result = transitions.request_cancel_run(
            run_id, by=actor.name, note=note[:500], mode=CancelMode(mode)
        )
        if result != ALREADY_FINAL:
            run = Run.objects.get(pk=run_id)
            _audit(actor, "cancelled run", run, details={"mode": mode, "note": note[:500]})
        crash_points.passing("cancel_written")
    crash_points.passing("cancel_committed")
    return result


def cancel_step(step_run_id: int, *, actor: Actor, note: str = "") -> str:
    """Cancel one step of a run, as `cancel_run`. Raises `ProtectedError`."""
    step_run = StepRun.objects.select_related("run").get(pk=step_run_id)
    with transaction.atomic():
        result = transitions.request_cancel_step(step_run_id, by=actor.name, note=note[:500])
        if result == PROTECTED:
            raise ProtectedError(
                f"“{step_run.name}” is protected: while it runs, only its timeout of "
                f"{step_run.timeout_seconds:g} s ends it."
            )
        if result != ALREADY_FINAL:
            details = {"note": note[:500]}
            _audit(actor, "cancelled step", step_run.run, subject=step_run.name, details=details)
    return result


def cancel_all(*, actor: Actor, note: str = "", mode: str = CancelMode.STOP) -> list[int]:
    """Cancel every active run; the ids of those that this call reached."""
    active = list(Run.objects.active().order_by("pk").values_list("pk", flat=True))
    results = {pk: cancel_run(pk, actor=actor, note=note, mode=mode) for pk in active}
    return [pk for pk, result in results.items() if result != ALREADY_FINAL]


def _audit(
    actor: Actor, action: str, run: Run, *, subject: str = "", details: dict[str, Any]
) -> None:
    AuditEntry.objects.create(
        actor=actor.user,
        actor_name=actor.name,
        action=action,
        run=run,
        subject=subject or str(run),
        details=details,
    )
