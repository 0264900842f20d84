"""Making a run, and telling that it waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from executions.engine.plan import Plan, PlannedStep
from executions.models import Run, RunInput, StepRun
from steps.models import Batch


def create_run(
    plan: Plan,
    *,
    batch: Batch | None,
    ruleset_id: int,
    step_ids: Mapping[str, int],
    triggered_by: str,
) -> Run:
    """Store a QUEUED run of the plan with all its step runs.

    `step_ids` is by definition name. The run counts as hinted: the caller sends the hint.
    """
    options = plan.options
    with transaction.atomic():
        run = Run.objects.create(
            batch=batch,
            batch_slug=plan.batch,
            batch_name=batch.name if batch else plan.batch,
            ruleset_id=ruleset_id,
            pool_width=options.pool_width,
            pool_start=options.pool_start.value,
            failure_policy=options.failure_policy.value,
            total=len(plan.steps),
            pending=len(plan.steps),
            triggered_by=triggered_by,
            hinted_at=timezone.now(),
        )
        RunInput.objects.create(run=run, plan=plan.to_json())
        rows = (_step_run(run, step, step_ids.get(step.step_name)) for step in plan.steps)
        StepRun.objects.bulk_create(rows, batch_size=2000)
    return run


def _step_run(run: Run, step: PlannedStep, step_id: int | None) -> StepRun:
    return StepRun(
        run=run,
        position=step.position,
        name=step.name,
        step_id=step_id,
        step_name=step.step_name,
        kind=step.kind,
        category=step.category,
        lane=step.lane.value,
        rule_position=step.rule_position,
        because=step.because,
        protected=step.protected,
        timeout_seconds=step.timeout_seconds,
    )


def overdue_hints(age: timedelta) -> list[int]:
    """The ids of runs that could be claimed now and whose last hint is older than `age`."""
    taken = Counter(Run.objects.running().values_list("batch_id", flat=True))
    waiting = Run.objects.queued().annotate(is_overdue=_is_overdue(age)).order_by("pk")
    rows = waiting.values_list("pk", "batch_id", "batch__max_active_runs", "is_overdue")
    found = []
    for pk, batch_id, most, is_overdue in rows:
        if is_overdue and (batch_id is None or taken[batch_id] < most):
            found.append(pk)
        taken[batch_id] += 1  # the next one of the batch waits for this one
    return found


def mark_hinted(run_id: int, *, age: timedelta) -> bool:
    """Whether this caller may hint the run; of several, one gets True. Not a change of the run."""
    overdue = Run.objects.queued().filter(_is_overdue(age), pk=run_id)
    return bool(overdue.update(hinted_at=timezone.now()))


def _is_overdue(age: timedelta) -> Q:
    """A hint of the future was sent before the clock was put back: nobody knows how old it is."""
    now = timezone.now()
    return Q(hinted_at__isnull=True) | Q(hinted_at__lt=now - age) | Q(hinted_at__gt=now)
