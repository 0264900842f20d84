"""The lifecycle: every status, and every change from one to another that may happen.

`transitions.py` and the CHECK constraints of the database are made from these tables.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    """Waits for a worker."""
    RUNNING = "running"
    """A worker holds it."""
    SUCCEEDED = "succeeded"
    """No step missed."""
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    """Every critical step succeeded, some step of the pool missed."""
    FAILED = "failed"
    """A critical step, or every step, missed."""
    CANCELLED = "cancelled"
    """A cancel of the run ended or prevented at least one step."""


class StepStatus(StrEnum):
    """Where a step run is in its life."""

    PENDING = "pending"
    """Not started, or waiting for its next attempt."""
    RUNNING = "running"
    """Its START is committed."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It raised, exited with a code that is not accepted, or could not be started."""
    TIMED_OUT = "timed_out"
    """Its deadline passed before it returned."""
    CANCELLED = "cancelled"
    """Cancelled, and proven not to run any more."""
    INTERRUPTED = "interrupted"
    """Its outcome was never observed: its worker died, or its thread was abandoned."""
    SKIPPED = "skipped"
    """Never started, because of what happened to another step."""


RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset(
        {
            RunStatus.QUEUED,
            RunStatus.SUCCEEDED,
            RunStatus.PARTIALLY_SUCCEEDED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
        }
    ),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.PARTIALLY_SUCCEEDED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    StepStatus.PENDING: frozenset({StepStatus.RUNNING, StepStatus.SKIPPED, StepStatus.CANCELLED}),
    StepStatus.RUNNING: frozenset(
        {
            StepStatus.PENDING,  # only for a further attempt
            StepStatus.SUCCEEDED,
            StepStatus.FAILED,
            StepStatus.TIMED_OUT,
            StepStatus.CANCELLED,
            StepStatus.INTERRUPTED,
        }
    ),
    StepStatus.SUCCEEDED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.TIMED_OUT: frozenset(),
    StepStatus.CANCELLED: frozenset(),
    StepStatus.INTERRUPTED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
}

FINAL_RUN_STATUSES = frozenset(status for status, after in RUN_TRANSITIONS.items() if not after)
ACTIVE_RUN_STATUSES = frozenset(RunStatus) - FINAL_RUN_STATUSES
FINAL_STEP_STATUSES = frozenset(status for status, after in STEP_TRANSITIONS.items() if not after)
ACTIVE_STEP_STATUSES = frozenset(StepStatus) - FINAL_STEP_STATUSES


def run_may_become(before: RunStatus, after: RunStatus) -> bool:
    """Whether a run may go from `before` to `after`."""
    return after in RUN_TRANSITIONS[before]


def step_may_become(before: StepStatus, after: StepStatus) -> bool:
    """Whether a step run may go from `before` to `after`."""
    return after in STEP_TRANSITIONS[before]
