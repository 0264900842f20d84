"""What django-q2 calls."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def execute_run(run_id: int) -> None:
    """Execute what can be executed of the run now; nothing, if somebody else does already.

    Never raises: whatever goes wrong with a run is told in its own rows.
    """
    # Not at the top: whoever only sends hints needs no engine.
    from . import worker

    try:
        worker.execute(run_id)
    except Exception:
        logger.exception("Run %s could not be executed.", run_id)
