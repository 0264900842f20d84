"""What became of a step, as a value, and what that makes of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .plan import Lane
from .status import RunStatus, StepStatus

MESSAGE_LIMIT = 2000
"""Characters of `Outcome.message` that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of one attempt at a step, decided in memory before anything is stored."""

    status: StepStatus
    reason: str = ""
    """A word for machines, such as `exit_code`, `exception`, `timeout`, `run_cancelled`."""
    message: str = ""
    """A sentence for people."""
    exit_code: int | None = None
    result: Any = None
    """What a Python step returned, if it is JSON; else None."""
    abandoned: bool = False
    """It did not return within its grace; its slot stays occupied."""
    receipt: dict[str, Any] | None = field(default=None)
    """How a process tree was ended: signals, number of processes, proven empty or not."""

    @property
    def is_unproven(self) -> bool:
        """Whether something of the step may still run."""
        return self.abandoned or (self.receipt or {}).get("proven_empty") is False


MISSES = frozenset({StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED})


def is_miss(status: StepStatus, reason: str) -> bool:
    """Whether a step did not do what it was there for.

    A step that was cancelled singly is a miss; one that the cancel of its run ended is not.
    """
    return status in MISSES or (status is StepStatus.CANCELLED and reason != "run_cancelled")


def run_status(steps: Iterable[tuple[Lane, StepStatus, str]]) -> RunStatus:
    """The final status of a run from the lane, status and reason of each of its steps.

    Skipped steps are the consequence of another step's miss and count for nothing by themselves.
    """
    results = list(steps)
    if any(reason == "run_cancelled" for _, _, reason in results):
        return RunStatus.CANCELLED
    missed = [lane for lane, status, reason in results if is_miss(status, reason)]
    if not missed:
        return RunStatus.SUCCEEDED
    succeeded = any(status is StepStatus.SUCCEEDED for _, status, _ in results)
    if Lane.CRITICAL in missed or not succeeded:
        return RunStatus.FAILED
    return RunStatus.PARTIALLY_SUCCEEDED
