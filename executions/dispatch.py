"""Telling the workers that a run may have work."""

from __future__ import annotations

import logging
from functools import partial

from django.db import DatabaseError, transaction
from django_q.tasks import async_task

from .broker import broker
from .engine import crash_points
from .models import Run

logger = logging.getLogger(__name__)


def hint(run_id: int) -> None:
    """Tell a worker, once the current transaction is committed, that the run may have work.

    Never raises: the run is in the database, and rescue repeats hints that did not arrive.
    """
    transaction.on_commit(partial(_send, run_id))


def _send(run_id: int) -> None:
    crash_points.passing("hint_begun")
    try:
        # By name, so that nothing that starts a run imports what executes it.
        async_task("executions.tasks.execute_run", run_id, broker=broker())
        crash_points.passing("hint_sent")
    except Exception as error:
        logger.warning("The hint for run %s could not be sent, it will be later: %s", run_id, error)
        _forget_hint(run_id)


def _forget_hint(run_id: int) -> None:
    """Nothing is under way, so rescue need not wait for it before it hints the run again."""
    try:
        Run.objects.queued().filter(pk=run_id).update(hinted_at=None)
    except DatabaseError as error:
        logger.warning("run %s: its lost hint could not be noted: %s", run_id, error)


def queue_is_empty() -> bool:
    """Whether no hint is under way; False while the queue does not answer."""
    try:
        return broker().queue_size() == 0
    except broker().outages:
        return False  # the process that takes hints says so once; this is asked every second
