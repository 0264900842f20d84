"""Cancel requests: met at once while nobody holds the run, else left as facts for its holder."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from executions.engine.status import RunStatus, StepStatus
from executions.models import CancelMode, Run, StepRun

from .rows import cancel_pending, end, lock_active, settle

ALREADY_FINAL, CANCELLING, CANCELLED = "already_final", "cancelling", "cancelled"
PROTECTED = "protected"


def request_cancel_run(run_id: int, *, by: str, note: str, mode: CancelMode) -> str:
    """Cancel a queued run, or leave the request for the holder of a running one.

    Returns CANCELLED, CANCELLING or ALREADY_FINAL. The first request's facts stay; the mode only
    rises from drain to stop.
    """
    with transaction.atomic():
        run = lock_active(run_id)
        if run is None:
            return ALREADY_FINAL
        facts: dict[str, Any] = {}
        if run.cancel_requested_at is None:
            facts = {
                "cancel_requested_at": timezone.now(),
                "cancel_requested_by": by,
                "cancel_note": note,
            }
        if run.cancel_mode != CancelMode.STOP:
            facts["cancel_mode"] = mode.value
        Run.objects.filter(pk=run_id).update(**facts)
        if run.status == RunStatus.RUNNING:
            return CANCELLING
        cancel_pending(run)
        end(run, RunStatus.CANCELLED, "")
        return CANCELLED


def request_cancel_step(step_run_id: int, *, by: str, note: str) -> str:
    """Cancel one step run, as `request_cancel_run`; PROTECTED if it runs and may not be stopped."""
    run_id = StepRun.objects.values_list("run_id", flat=True).get(pk=step_run_id)
    with transaction.atomic():
        run = lock_active(run_id)
        this = StepRun.objects.filter(pk=step_run_id, finished_at=None)
        if run is None or not this.exists():
            return ALREADY_FINAL
        if this.filter(protected=True, status=StepStatus.RUNNING).exists():
            return PROTECTED
        this.filter(cancel_requested_at=None).update(
            cancel_requested_at=timezone.now(),
            cancel_requested_by=by,
            cancel_note=note,
            sequence=run.sequence,
        )
        if run.status == RunStatus.RUNNING:
            return CANCELLING
        message = "cancelled before its turn"
        settle(run, this, StepStatus.CANCELLED, "step_cancelled", message)
        run.refresh_from_db()
        if not run.pending:
            end(run, RunStatus.CANCELLED, "")
        return CANCELLED
