"""Changes to rows whose run is locked by the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.db import connection
from django.db.models import F, QuerySet
from django.utils import timezone

from executions.engine.outcomes import run_status
from executions.engine.plan import Lane
from executions.engine.status import (
    ACTIVE_RUN_STATUSES,
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    RunStatus,
    StepStatus,
)
from executions.models import Run, StepRun


class StaleTransitionError(Exception):
    """A row was not in the status that this change starts from; nothing was written."""


def lock_active(run_id: int) -> Run | None:
    """Lock a run that is not final by raising its sequence."""
    active = Run.objects.filter(pk=run_id, status__in=ACTIVE_RUN_STATUSES)
    if not active.update(sequence=F("sequence") + 1):
        return None
    return Run.objects.get(pk=run_id)


def settle(
    run: Run, steps: QuerySet[StepRun], status: StepStatus, reason: str, message: str
) -> None:
    """Give step runs a final status and count them. `run` carries the current sequence."""
    before: Counter[StepStatus] = Counter(
        StepStatus(item) for item in steps.values_list("status", flat=True)
    )
    for was in before:
        check_step(was, status)
    steps.update(
        status=status.value,
        sequence=run.sequence,
        finished_at=timezone.now(),
        retry_at=None,
        reason=reason,
        message=message,
    )
    deltas = Counter({was: -number for was, number in before.items()})
    deltas[status] += sum(before.values())
    count(run.pk, deltas)


def cancel_pending(run: Run) -> None:
    pending = run.step_runs.filter(status=StepStatus.PENDING)
    message = "the run was cancelled before its turn"
    settle(run, pending, StepStatus.CANCELLED, "run_cancelled", message)


def end(run: Run, status: RunStatus, reason: str) -> None:
    move(run, status, reason=reason, finished_at=timezone.now())


def requeue(run: Run, *, barren: bool) -> None:
    """Back to the queue. The new epoch fences whoever held it."""
    claims = F("barren_claims") if barren else 0
    move(
        run, RunStatus.QUEUED, holder="", epoch=F("epoch") + 1, hinted_at=None, barren_claims=claims
    )


def move(run: Run, status: RunStatus, **fields: Any) -> None:
    before = [item.value for item, after in RUN_TRANSITIONS.items() if status in after]
    moved = Run.objects.filter(pk=run.pk, status__in=before).update(status=status.value, **fields)
    if not moved:
        raise StaleTransitionError(f"run {run.pk} cannot become {status}")


def end_if_settled(run: Run) -> bool:
    """End a run that nobody holds and that has nothing left to do."""
    run.refresh_from_db()
    if run.pending or run.running:
        return False
    rows = run.step_runs.values_list("lane", "status", "reason")
    end(run, run_status((Lane(lane), StepStatus(was), reason) for lane, was, reason in rows), "")
    return True


_COUNT = """UPDATE executions_run SET pending = pending + %s, running = running + %s,
    succeeded = succeeded + %s, failed = failed + %s, timed_out = timed_out + %s,
    cancelled = cancelled + %s, interrupted = interrupted + %s, skipped = skipped + %s
    WHERE id = %s"""


def count(run_id: int, deltas: Mapping[StepStatus, int]) -> None:
    """Add to the counters of a run."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, [*counter_changes(deltas), run_id])


def counter_changes(deltas: Mapping[StepStatus, int]) -> list[int]:
    """What to add to each counter, in the order of `StepStatus`."""
    return [deltas.get(status, 0) for status in StepStatus]


def check_step(before: StepStatus, after: StepStatus) -> None:
    """Raises `StaleTransitionError` if no step run may go that way."""
    if after not in STEP_TRANSITIONS[before]:
        raise StaleTransitionError(f"a step run cannot go from {before} to {after}")
