"""Telling the workers that a run may have work."""

from __future__ import annotations

import logging
from functools import partial

from django.db import transaction
from django_q.tasks import async_task

from .broker import broker

logger = logging.getLogger(__name__)


def hint(run_id: int) -> None:
    """Tell a worker, once the current transaction is committed, that the run may have work.

    Never raises: the run is in the database, and rescue repeats hints that did not arrive.
    """
    transaction.on_commit(partial(_send, run_id))


def _send(run_id: int) -> None:
    try:
        # By name, so that nothing that starts a run imports what executes it.
        async_task("executions.tasks.execute_run", run_id, broker=broker())
    except Exception as error:
        logger.warning("The hint for run %s could not be sent, it will be later: %s", run_id, error)


def queue_is_empty() -> bool:
    """Whether no hint is under way; False while the queue does not answer."""
    try:
        return broker().queue_size() == 0
    except broker().outages as error:
        logger.warning("The queue does not answer: %s", error)
        return False
