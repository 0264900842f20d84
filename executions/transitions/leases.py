"""The right to run a run: taken by a claim, kept by beats, lost to a later epoch."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from executions.engine import crash_points
from executions.engine.status import RunStatus, StepStatus
from executions.models import Run, StepRun
from steps.models import Batch

from .rows import end, settle

BARREN_CLAIMS_ALLOWED = 3
"""Claims without a new START after which a run is given up."""


class FencedError(Exception):
    """The run is held under another epoch, or not running any more."""


@dataclass(frozen=True, slots=True)
class CancelRequests:
    """The cancel facts of a run."""

    mode: str = ""
    step_ids: frozenset[int] = frozenset()


@dataclass(slots=True)
class Lease:
    """The right to write for a run while it is RUNNING under this epoch."""

    run_id: int
    epoch: int
    sequence: int
    """The last change this worker knows of."""
    cancels: CancelRequests = CancelRequests()
    """As of `sequence`."""
    is_barren: bool = True
    """No START was committed under it so far."""


def claim_run(run_id: int, holder: str) -> Lease | None:
    """Take a QUEUED run; None if it is not to be had.

    That is the case if another worker was quicker, if the batch has no run to spare (runs of a
    batch start in the order in which they were triggered), or if its workers keep dying.
    """
    with transaction.atomic():
        run = Run.objects.queued().filter(pk=run_id).first()
        if run is None or not _batch_has_room(run):
            return None
        claimed = (
            Run.objects.queued()
            .filter(pk=run_id)
            .update(
                status=RunStatus.RUNNING.value,
                epoch=F("epoch") + 1,
                sequence=F("sequence") + 1,
                beat=F("beat") + 1,
                barren_claims=F("barren_claims") + 1,
                holder=holder,
                started_at=Coalesce(F("started_at"), timezone.now()),
            )
        )
        if not claimed:
            return None
        run.refresh_from_db()
        if run.barren_claims > BARREN_CLAIMS_ALLOWED:
            _give_up(run)
            return None
        crash_points.passing("claim_written")
        return Lease(run.pk, run.epoch, run.sequence, read_cancel_requests(run.pk))


def _batch_has_room(run: Run) -> bool:
    if run.batch_id is None:
        return True
    # Not the key: whoever writes a run twice holds the batch's key at its commit, after the run.
    batch = Batch.objects.select_for_update(no_key=True).get(pk=run.batch_id)
    ahead = Run.objects.filter(batch_id=run.batch_id).filter(
        Q(status=RunStatus.RUNNING) | Q(status=RunStatus.QUEUED, pk__lt=run.pk)
    )
    return ahead.count() < batch.max_active_runs


def _give_up(run: Run) -> None:
    message = f"{BARREN_CLAIMS_ALLOWED} workers in a row died before they started a step"
    pending = run.step_runs.filter(status=StepStatus.PENDING)
    settle(run, pending, StepStatus.SKIPPED, "worker_keeps_dying", message)
    end(run, RunStatus.FAILED, "worker_keeps_dying")


_BEAT = "UPDATE executions_run SET beat = beat + 1 WHERE id = %s AND epoch = %s AND status = %s"


def beat(lease: Lease) -> None:
    """Tell the others that this worker lives, and read what they wrote. Not a change of the run.

    Raises `FencedError`.
    """
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, [lease.run_id, lease.epoch, RunStatus.RUNNING.value])
        if not cursor.rowcount:
            raise FencedError(lease.run_id)
    crash_points.passing("beat_committed")
    look(lease)


def look(lease: Lease) -> bool:
    """Bring the lease up to date; whether anything was written by others.

    Raises `FencedError`.
    """
    run = Run.objects.running().filter(pk=lease.run_id, epoch=lease.epoch)
    sequence = run.values_list("sequence", flat=True).first()
    if sequence is None:
        raise FencedError(lease.run_id)
    if sequence == lease.sequence:
        return False
    lease.cancels = read_cancel_requests(lease.run_id)
    lease.sequence = sequence
    return True


def read_cancel_requests(run_id: int) -> CancelRequests:
    mode = Run.objects.values_list("cancel_mode", flat=True).get(pk=run_id)
    asked = StepRun.objects.filter(run_id=run_id, cancel_requested_at__isnull=False)
    return CancelRequests(mode, frozenset(asked.values_list("pk", flat=True)))
