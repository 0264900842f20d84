"""Taking a run from a holder that died."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from executions.engine import crash_points
from executions.engine.plan import PlannedStep
from executions.engine.status import StepStatus
from executions.models import Attempt, Run, StepRun

from .rows import cancel_pending, count, end_if_settled, requeue, settle

WORKER_DIED = "worker_died"
"""The process that ran the step is proven dead."""
WORKER_LOST = "worker_lost"
"""The worker stopped answering; the step may still run where it was."""


def rescue_run(run_id: int, *, epoch: int, beat: int, proven: bool, waits: bool = True) -> bool:
    """Take a run from a holder that died, and say what is known of its steps.

    `proven`: the process is known to be dead, not only silent. False if the holder wrote meanwhile
    or, unless it `waits`, if somebody has the run locked. Retry-safe steps go back to PENDING while
    they have attempts left, the others end INTERRUPTED. A run whose cancel was requested ends here.
    """
    with transaction.atomic():
        held = Run.objects.running().filter(pk=run_id, epoch=epoch, beat=beat)
        if not held.select_for_update(skip_locked=not waits, no_key=True).exists():
            return False
        if not held.update(sequence=F("sequence") + 1):
            return False
        run = Run.objects.get(pk=run_id)
        if run.cancel_mode:
            _end_cancelled(run)
            return True
        _interrupt(run, proven=proven)
        if not end_if_settled(run):
            requeue(run, barren=True)
        crash_points.passing("rescue_written")
    crash_points.passing("rescue_committed")
    return True


def _end_cancelled(run: Run) -> None:
    running = run.step_runs.filter(status=StepStatus.RUNNING)
    message = "its worker died while the run was being cancelled"
    settle(run, running, StepStatus.INTERRUPTED, "run_cancelled", message)
    cancel_pending(run)
    end_if_settled(run)


def _interrupt(run: Run, *, proven: bool) -> None:
    running = list(run.step_runs.filter(status=StepStatus.RUNNING))
    if proven and (again := _to_try_again(run, running)):
        _return_to_pending(run, again)
        running = [item for item in running if item not in again]
    reason = WORKER_DIED if proven else WORKER_LOST
    message = (
        "its worker died; the outcome is unknown"
        if proven
        else "its worker stopped answering; it may still be running there"
    )
    lost = run.step_runs.filter(pk__in=[item.pk for item in running])
    settle(run, lost, StepStatus.INTERRUPTED, reason, message)


def _to_try_again(run: Run, running: Iterable[StepRun]) -> list[StepRun]:
    try:
        steps = run.input.load_plan().steps
    except (KeyError, TypeError, ValueError):
        return []  # by another version of this code: nothing is known to be safe
    return [item for item in running if _may_try_again(item, steps[item.position])]


def _may_try_again(step_run: StepRun, step: PlannedStep) -> bool:
    return (
        step.retry_safe
        and step_run.attempt < step.attempts
        and step_run.cancel_requested_at is None
    )


def _return_to_pending(run: Run, step_runs: Sequence[StepRun]) -> None:
    now, message = timezone.now(), "its worker died; it is safe to try again"
    Attempt.objects.bulk_create(
        Attempt(
            step_run=item,
            number=item.attempt,
            status=StepStatus.INTERRUPTED.value,
            reason=WORKER_DIED,
            message=message,
            started_at=item.started_at,
            finished_at=now,
        )
        for item in step_runs
    )
    run.step_runs.filter(pk__in=[item.pk for item in step_runs]).update(
        status=StepStatus.PENDING.value,
        sequence=run.sequence,
        retry_at=None,
        reason=WORKER_DIED,
        message=message,
    )
    number = len(step_runs)
    count(run.pk, {StepStatus.RUNNING: -number, StepStatus.PENDING: number})
