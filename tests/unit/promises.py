"""What holds for the record of a run: for every change of it, and at every moment."""

from __future__ import annotations

from collections.abc import Iterable

from executions.engine.plan import Lane, Plan, PoolStart
from executions.engine.ports import Start
from executions.engine.status import FINAL_STEP_STATUSES, RunStatus, StepStatus, step_may_become

from .record import KEEPS_DYING, Record, verdict


class Violation(Exception):  # noqa: N818  (it is a finding)
    """A promise is broken."""


def demand(holds: bool, promise: str) -> None:
    """Raises `Violation` with what happened instead of the promise."""
    if not holds:
        raise Violation(promise)


def check_change(plan: Plan, was: Record, now: Record) -> None:
    """What is final stays, requests stay, and statuses follow the arrows."""
    demand(not was.is_final or was == now, "a final run changed")
    demand(was.mode in ("", now.mode) or now.mode == "stop", "a request was weakened")
    for step, old, new in zip(plan.steps, was.rows, now.rows, strict=True):
        demand(new.asked >= old.asked, "a request was forgotten")
        if old.status in FINAL_STEP_STATUSES:
            demand(old == new, "a final step changed")
        elif old.status is not new.status:
            # A group may end an attempt, and what follows from that for the same step.
            again = step.retry_safe and old.attempt < step.attempts
            by_way_of_pending = step_may_become(StepStatus.PENDING, new.status) and again
            demand(
                step_may_become(old.status, new.status)
                or (old.status is StepStatus.RUNNING and by_way_of_pending)
                or new.attempt > old.attempt,
                "an arrow that is not in the table",
            )


def check_record(plan: Plan, record: Record, *, held: bool) -> None:
    """A record whose run somebody holds, or nobody."""
    running = [at for at, row in enumerate(record.rows) if row.status is StepStatus.RUNNING]
    critical = [at for at in running if plan.steps[at].lane is Lane.CRITICAL]
    demand(len(critical) <= 1, "two critical steps are running")
    demand((record.status is RunStatus.RUNNING) == held, "running and held are two things")
    demand(held or not running, "a step is running in a run that nobody holds")
    for row, step in zip(record.rows, plan.steps, strict=True):
        demand(row.attempt <= step.attempts, "more attempts than allowed")
    if record.is_final:
        done = all(row.status in FINAL_STEP_STATUSES for row in record.rows)
        demand(done, "the run is over and a step is not")
        demand(_is_honest(plan, record), f"{record.status} is not what the steps say")


def _is_honest(plan: Plan, record: Record) -> bool:
    """A run that was given up has failed, and one whose last steps were cancelled in the queue is
    cancelled. Of all others the steps tell.
    """
    if record.reason == KEEPS_DYING:
        return record.status is RunStatus.FAILED
    reasons = {row.reason for row in record.rows}
    if record.status is RunStatus.CANCELLED and "step_cancelled" in reasons:
        return True
    return record.status is verdict(plan, record)


def check_starts(plan: Plan, before: Record, after: Record, started: Iterable[Start]) -> None:
    """STARTs that a group brought into the record."""
    for start in started:
        step, row = plan.steps[start.position], before.rows[start.position]
        demand(not before.mode and not row.asked, "a START after the request")
        demand(start.attempt == row.attempt + 1, "an attempt was left out")
        barrier = plan.options.pool_start is PoolStart.AFTER_CRITICAL
        for other, stands in zip(plan.steps, after.rows, strict=True):
            goes_first = other.lane is Lane.CRITICAL and (
                other.position < step.position if step.lane is Lane.CRITICAL else barrier
            )
            ended = stands.status in FINAL_STEP_STATUSES
            demand(ended or not goes_first, "a START before its turn")
