"""The only writer of status, sequence and counters.

Every transaction here first locks its Run row by raising `sequence`; the engine's also name the
epoch they claimed, so a worker that lost its run writes nothing. Step runs change by
compare-and-set. Lock order is always Batch, Run, StepRun.
"""

from __future__ import annotations

from .cancels import (
    ALREADY_FINAL,
    CANCELLED,
    CANCELLING,
    PROTECTED,
    request_cancel_run,
    request_cancel_step,
)
from .creation import create_run, mark_hinted, overdue_hints
from .groups import Group, LogPiece, Recorded, record
from .leases import CancelRequests, FencedError, Lease, beat, claim_run, look, read_cancel_requests
from .rescues import WORKER_DIED, WORKER_LOST, rescue_run
from .rows import StaleTransitionError

__all__ = [
    "ALREADY_FINAL",
    "CANCELLED",
    "CANCELLING",
    "PROTECTED",
    "WORKER_DIED",
    "WORKER_LOST",
    "CancelRequests",
    "FencedError",
    "Group",
    "Lease",
    "LogPiece",
    "Recorded",
    "StaleTransitionError",
    "beat",
    "claim_run",
    "create_run",
    "look",
    "mark_hinted",
    "overdue_hints",
    "read_cancel_requests",
    "record",
    "request_cancel_run",
    "request_cancel_step",
    "rescue_run",
]
