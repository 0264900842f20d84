"""The record of one run as a value: what the transitions do, without a database.

A model, written a second time on purpose. The explorer builds on it, and
tests/integration/test_lifecycle_machine.py compares it with the database after every change, so
that it cannot drift from the transactions that it stands for. It shares with them the tables of
`engine/status.py`, the verdict over a run, and the number of barren claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from executions.engine.coordinator import Before
from executions.engine.outcomes import run_status
from executions.engine.plan import Plan
from executions.engine.ports import Change, End, Finish, HandBack, Start, Sweep
from executions.engine.status import (
    FINAL_RUN_STATUSES,
    FINAL_STEP_STATUSES,
    RunStatus,
    StepStatus,
    run_may_become,
    step_may_become,
)
from executions.transitions import WORKER_DIED, WORKER_LOST
from executions.transitions.leases import BARREN_CLAIMS_ALLOWED

KEEPS_DYING = "worker_keeps_dying"


class WrongChangeError(Exception):
    """The tables forbid this change, or the row is not where it starts from."""


class Row(NamedTuple):
    """A step run."""

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    reason: str = ""
    asked: bool = False
    """Its cancel was requested."""
    waits: bool = False
    """It has a time before which its next attempt does not start."""


class Record(NamedTuple):
    """A run with its step runs, by position. Who holds it is kept elsewhere."""

    rows: tuple[Row, ...]
    status: RunStatus = RunStatus.QUEUED
    reason: str = ""
    mode: str = ""
    """Of the cancel of the run; empty if none was requested."""
    barren: int = 0

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_RUN_STATUSES

    @property
    def asked(self) -> frozenset[int]:
        """Positions of the steps whose cancel was requested."""
        return frozenset(position for position, row in enumerate(self.rows) if row.asked)


def new(plan: Plan) -> Record:
    return Record(rows=(Row(),) * len(plan.steps))


def before(record: Record) -> list[Before]:
    """What the worker that claims the run is told of its steps."""
    return [
        Before(
            status=row.status,
            attempt=row.attempt,
            reason=row.reason,
            retry_in=1.0 if row.waits else 0.0,
            death_unproven=row.reason == WORKER_LOST,
        )
        for row in record.rows
    ]


# ---- what workers, people and the rescuer do to it ----------------------------------------------


def claim(record: Record) -> Record:
    """A worker takes a queued run; it ends instead if its workers keep dying."""
    record = _move(record, RunStatus.RUNNING)._replace(barren=record.barren + 1)
    if record.barren <= BARREN_CLAIMS_ALLOWED:
        return record
    record = _settle(record, StepStatus.PENDING, StepStatus.SKIPPED, KEEPS_DYING)
    return _move(record, RunStatus.FAILED)._replace(reason=KEEPS_DYING)


def cancel_run(record: Record, mode: str) -> Record:
    if record.is_final:
        return record
    record = record._replace(mode="stop" if "stop" in (record.mode, mode) else mode)
    if record.status is RunStatus.RUNNING:
        return record
    return _move(_cancel_pending(record), RunStatus.CANCELLED)


def cancel_step(plan: Plan, record: Record, position: int) -> Record:
    row = record.rows[position]
    if record.is_final or row.status in FINAL_STEP_STATUSES:
        return record
    if row.status is StepStatus.RUNNING and plan.steps[position].protected:
        return record
    record = _put(record, position, row._replace(asked=True))
    if record.status is RunStatus.RUNNING:
        return record
    record = _finish(record, position, StepStatus.CANCELLED, "step_cancelled")
    if any(row.status is StepStatus.PENDING for row in record.rows):
        return record
    return _move(record, RunStatus.CANCELLED)


def commit(
    plan: Plan, record: Record, changes: Sequence[Change], *, heed_cancels: bool = True
) -> tuple[Record, tuple[Start, ...], tuple[Start, ...]]:
    """A group of the holder: the record after it, the STARTs that happened, those that did not.

    Raises `WrongChangeError`; then nothing of the group happens.
    """
    starts = [item for item in changes if isinstance(item, Start)]
    refused = tuple(
        item
        for item in starts
        if heed_cancels and (record.mode or record.rows[item.position].asked)
    )
    started = tuple(item for item in starts if item not in refused)
    for item in changes:
        if isinstance(item, Finish):
            record = _record_finish(record, item)
    for item in started:
        record = _start(record, item)
    for item in changes:
        if isinstance(item, Sweep):
            for position in item.positions:
                _expect(record, position, StepStatus.PENDING)
                record = _finish(record, position, item.status, item.reason)
    if started:
        record = record._replace(barren=0)
    for item in changes:
        if isinstance(item, End):
            record = _move(_all_final(record), item.status)._replace(reason=item.reason)
        elif isinstance(item, HandBack):
            record = _hand_back(plan, record)
    return record, started, refused


def rescue(plan: Plan, record: Record, *, proven: bool) -> Record:
    """The run is taken from its holder. `proven`: neither it nor its steps run any more."""
    if record.mode:
        record = _settle(record, StepStatus.RUNNING, StepStatus.INTERRUPTED, "run_cancelled")
        return _end_if_settled(plan, _cancel_pending(record))
    for position, row in enumerate(record.rows):
        if row.status is not StepStatus.RUNNING:
            continue
        step = plan.steps[position]
        if proven and step.retry_safe and row.attempt < step.attempts and not row.asked:
            again = row._replace(status=StepStatus.PENDING, reason=WORKER_DIED, waits=False)
            record = _put(record, position, again)
        else:
            reason = WORKER_DIED if proven else WORKER_LOST
            record = _finish(record, position, StepStatus.INTERRUPTED, reason)
    ended = _end_if_settled(plan, record)
    return ended if ended.is_final else _move(record, RunStatus.QUEUED)


# ---- rows ---------------------------------------------------------------------------------------


def _record_finish(record: Record, finish: Finish) -> Record:
    _expect(record, finish.position, finish.was)
    record = _finish(record, finish.position, finish.status, finish.outcome.reason)
    row = record.rows[finish.position]._replace(waits=finish.retry_in is not None)
    return _put(record, finish.position, row)


def _start(record: Record, start: Start) -> Record:
    row = record.rows[start.position]
    _expect(record, start.position, StepStatus.PENDING)
    running = Row(StepStatus.RUNNING, start.attempt, asked=row.asked)
    return _put(record, start.position, running)


def _expect(record: Record, position: int, status: StepStatus) -> None:
    if record.rows[position].status is not status:
        raise WrongChangeError(f"step {position} is {record.rows[position].status}, not {status}")


def _finish(record: Record, position: int, status: StepStatus, reason: str) -> Record:
    row = record.rows[position]
    if not step_may_become(row.status, status):
        raise WrongChangeError(f"step {position} cannot go from {row.status} to {status}")
    return _put(record, position, row._replace(status=status, reason=reason, waits=False))


def _settle(record: Record, was: StepStatus, status: StepStatus, reason: str) -> Record:
    for position, row in enumerate(record.rows):
        if row.status is was:
            record = _finish(record, position, status, reason)
    return record


def _cancel_pending(record: Record) -> Record:
    return _settle(record, StepStatus.PENDING, StepStatus.CANCELLED, "run_cancelled")


def _put(record: Record, position: int, row: Row) -> Record:
    rows = (*record.rows[:position], row, *record.rows[position + 1 :])
    return record._replace(rows=rows)


# ---- the run ------------------------------------------------------------------------------------


def _move(record: Record, status: RunStatus) -> Record:
    if not run_may_become(record.status, status):
        raise WrongChangeError(f"a run cannot go from {record.status} to {status}")
    return record._replace(status=status)


def _all_final(record: Record) -> Record:
    """The record, which may end."""
    for position, row in enumerate(record.rows):
        if row.status not in FINAL_STEP_STATUSES:
            raise WrongChangeError(f"step {position} is {row.status} at the end of the run")
    return record


def _hand_back(plan: Plan, record: Record) -> Record:
    if record.mode:
        return _end_if_settled(plan, _cancel_pending(record))
    return _move(record, RunStatus.QUEUED)._replace(barren=0)


def _end_if_settled(plan: Plan, record: Record) -> Record:
    if any(row.status not in FINAL_STEP_STATUSES for row in record.rows):
        return record
    return _move(record, verdict(plan, record))


def verdict(plan: Plan, record: Record) -> RunStatus:
    """What the rows make of the run, by the function that production asks."""
    lanes = [step.lane for step in plan.steps]
    return run_status(
        (lane, row.status, row.reason) for lane, row in zip(lanes, record.rows, strict=True)
    )
