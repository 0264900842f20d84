"""The engine's changes, committed group by group under its lease."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from executions.engine import crash_points
from executions.engine.outcomes import MESSAGE_LIMIT
from executions.engine.ports import End, Finish, HandBack, Start, Sweep
from executions.engine.status import RunStatus, StepStatus
from executions.models import Attempt, LogChunk, Run, StepRun

from .leases import CancelRequests, FencedError, Lease, read_cancel_requests
from .rows import (
    StaleTransitionError,
    cancel_pending,
    check_step,
    count,
    counter_changes,
    end,
    end_if_settled,
    requeue,
)

_CHUNKS_AT_ONCE = 2
"""Drivers copy all the output that is in one statement, more than once."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Output to be stored in a step run's log from `offset` on."""

    step_run_id: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Group:
    """What the engine commits in one transaction."""

    finishes: list[Finish] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    end: End | HandBack | None = None
    logs: list[LogPiece] = field(default_factory=list)
    progress: dict[int, float] = field(default_factory=dict)
    """By id of the step run."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the STARTs of a group."""

    started: tuple[Start, ...]
    refused: tuple[Start, ...]


def record(lease: Lease, group: Group, ids: Sequence[int]) -> Recorded:
    """Commit a group under the lease; `ids` are the step runs by position.

    STARTs of a run or step whose cancel was requested are left out. May be repeated when it is not
    known whether the commit arrived. Raises `FencedError`, or `StaleTransitionError` if a row was
    not where its change starts from; then nothing is written.
    """
    try:
        return _record(lease, group, ids)
    except (StaleTransitionError, IntegrityError):
        recorded = _recorded_before(lease, group, ids)
        if recorded is None:
            raise
        return recorded


def _record(lease: Lease, group: Group, ids: Sequence[int]) -> Recorded:
    cancels = lease.cancels
    started = _permitted(group.starts, ids, cancels)
    connection = connections[DEFAULT_DB_ALIAS]
    with transaction.atomic(), _driver_cursor(connection) as cursor:
        sequence = _lock(cursor, lease, _deltas(group, started))
        if sequence != lease.sequence + 1:
            # Somebody wrote facts. The row is locked, so what is read now holds until the commit.
            cancels = read_cancel_requests(lease.run_id)
            permitted = _permitted(started, ids, cancels)
            _check_not_begun([item for item in started if item not in permitted], ids)
            _uncount(lease.run_id, len(started) - len(permitted))
            started = permitted
        rows = _Rows(cursor, connection.ops.adapt_datetimefield_value, ids, sequence)
        rows.progress(group.progress)
        rows.finish(group.finishes)
        rows.start(started)
        rows.sweep(group.sweeps)
        rows.log(group.logs)
        if started and lease.is_barren:
            Run.objects.filter(pk=lease.run_id).update(barren_claims=0)
        if group.end is not None:
            _write_end(lease, group.end)
        crash_points.passing("start_written", started)
        crash_points.passing("finish_written", group.finishes)
        crash_points.passing("end_written", isinstance(group.end, End))
        crash_points.passing("hand_back_written", isinstance(group.end, HandBack))
    crash_points.passing("start_committed", started)
    crash_points.passing("finish_committed", group.finishes)
    crash_points.passing("end_committed", isinstance(group.end, End))
    crash_points.passing("hand_back_committed", isinstance(group.end, HandBack))
    lease.sequence, lease.cancels = sequence, cancels
    lease.is_barren = lease.is_barren and not started
    refused = tuple(start for start in group.starts if start not in started)
    return Recorded(tuple(started), refused)


def _recorded_before(lease: Lease, group: Group, ids: Sequence[int]) -> Recorded | None:
    """What became of a group that is on record already; None if it is not.

    Only the holder of the epoch writes such rows. If they stand as the group leaves them, it was
    committed, and no more than the answer was lost with the connection.
    """
    if group.end is not None:
        return None  # the end of the lease, which is told otherwise
    sequence = Run.objects.values_list("sequence", flat=True).get(pk=lease.run_id)
    cancels = read_cancel_requests(lease.run_id)
    rows = StepRun.objects.filter(run_id=lease.run_id).values_list("pk", "status", "attempt")
    stands = {pk: (status, attempt) for pk, status, attempt in rows}
    sizes = dict(StepRun.objects.filter(run_id=lease.run_id).values_list("pk", "log_size"))

    def has_started(start: Start) -> bool:
        return stands[ids[start.position]] == (StepStatus.RUNNING, start.attempt)

    started = tuple(filter(has_started, group.starts))
    left = {item.position: item.status for item in group.finishes}
    left |= {position: item.status for item in group.sweeps for position in item.positions}
    for start in started:
        left.pop(start.position, None)  # a finish before it in the same group
    stored = {piece.step_run_id: piece.offset + len(piece.data) for piece in group.logs}
    if not (
        set(_permitted(group.starts, ids, cancels)) <= set(started)
        and all(stands[ids[position]][0] == status for position, status in left.items())
        and all(sizes[pk] == size for pk, size in stored.items())
    ):
        return None
    lease.sequence, lease.cancels = sequence, cancels
    return Recorded(started, tuple(item for item in group.starts if item not in started))


@contextmanager
def _driver_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """A cursor of the driver itself for the transaction that is open; errors are Django's.

    Django's own looks for the parameters in every statement anew, which takes about as long as
    the statement.
    """
    with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
        yield cursor


@cache
def _native(sql: str) -> str:
    """The statement as the driver takes it."""
    return sql.replace("%s", "?") if connections[DEFAULT_DB_ALIAS].vendor == "sqlite" else sql


def _permitted(
    starts: Sequence[Start], ids: Sequence[int], cancels: CancelRequests
) -> Sequence[Start]:
    if cancels.mode:
        return ()
    return [start for start in starts if ids[start.position] not in cancels.step_ids]


def _deltas(group: Group, starts: Sequence[Start]) -> Counter[StepStatus]:
    """What the group does to the counters of the run."""
    deltas: Counter[StepStatus] = Counter()
    for finish in group.finishes:
        deltas[finish.was] -= 1
        deltas[finish.status] += 1
    deltas[StepStatus.PENDING] -= len(starts)
    deltas[StepStatus.RUNNING] += len(starts)
    for sweep in group.sweeps:
        deltas[StepStatus.PENDING] -= len(sweep.positions)
        deltas[sweep.status] += len(sweep.positions)
    return deltas


_LOCK = """UPDATE executions_run SET sequence = sequence + 1, beat = beat + 1,
    pending = pending + %s,
    running = running + %s, succeeded = succeeded + %s, failed = failed + %s,
    timed_out = timed_out + %s, cancelled = cancelled + %s, interrupted = interrupted + %s,
    skipped = skipped + %s
    WHERE id = %s AND epoch = %s AND status = %s RETURNING sequence"""


def _lock(cursor: Any, lease: Lease, deltas: Counter[StepStatus]) -> int:
    """Raise the run's sequence under the lease, which locks the row until the commit."""
    key = [lease.run_id, lease.epoch, RunStatus.RUNNING.value]
    cursor.execute(_native(_LOCK), [*counter_changes(deltas), *key])
    rows = cursor.fetchall()
    if not rows:
        raise FencedError(lease.run_id)
    return int(rows[0][0])


def _check_not_begun(refused: Sequence[Start], ids: Sequence[int]) -> None:
    """A START that meets a request now may have been committed before it, and the answer lost."""
    for start in refused:
        begun = StepRun.objects.filter(pk=ids[start.position], attempt=start.attempt)
        if begun.filter(status=StepStatus.RUNNING).exists():
            raise StaleTransitionError(f"step run {ids[start.position]} has started already")


def _uncount(run_id: int, starts: int) -> None:
    """Take back the count of STARTs that are not written after all."""
    if starts:
        count(run_id, {StepStatus.PENDING: starts, StepStatus.RUNNING: -starts})


def _write_end(lease: Lease, change: End | HandBack) -> None:
    run = Run.objects.get(pk=lease.run_id)
    if isinstance(change, End):
        end(run, change.status, change.reason)
    elif run.cancel_mode:
        # Requested since the worker decided to hand it back; nobody holds a queued run to meet it.
        cancel_pending(run)
        end_if_settled(run)
    else:
        requeue(run, barren=False)


_FINISH = """UPDATE executions_steprun SET status = %s, sequence = %s, finished_at = %s,
    retry_at = %s, abandoned_at = %s, reason = %s, message = %s, exit_code = %s, result = %s,
    receipt = %s WHERE id = %s AND status = %s"""
_START = """UPDATE executions_steprun SET status = %s, sequence = %s, started_at = %s, attempt = %s,
    slot = %s, retry_at = NULL, progress = NULL, reason = '', message = '', exit_code = NULL
    WHERE id = %s AND status = %s AND cancel_requested_at IS NULL"""
_SWEEP = """UPDATE executions_steprun SET status = %s, sequence = %s, finished_at = %s, reason = %s,
    message = %s, retry_at = NULL WHERE id = %s AND status = %s"""
_LOG_SIZE = "UPDATE executions_steprun SET log_size = %s, sequence = %s WHERE id = %s"
_PROGRESS = """UPDATE executions_steprun SET progress = %s, sequence = %s
    WHERE id = %s AND status = %s"""


class _Rows:
    """Writes step runs within the transaction of a group, many rows with one statement.

    `executemany` costs a few microseconds a row where the ORM's `bulk_update` costs hundreds.
    """

    def __init__(self, cursor: Any, adapt: Any, ids: Sequence[int], sequence: int) -> None:
        self._cursor = cursor
        self._adapt = adapt
        self._ids = ids
        self._sequence = sequence
        self._now = timezone.now()
        self._moment = adapt(self._now)

    def finish(self, finishes: Sequence[Finish]) -> None:
        self._keep_attempts([item for item in finishes if item.retry_in is not None])
        self._change(_FINISH, [self._finish_row(item) for item in finishes])

    def _finish_row(self, finish: Finish) -> tuple[Any, ...]:
        outcome, after = finish.outcome, finish.status
        check_step(finish.was, after)
        return (
            after.value,
            self._sequence,
            None if after is StepStatus.PENDING else self._moment,
            None if finish.retry_in is None else self._adapt(self._later(finish.retry_in)),
            self._moment if outcome.abandoned else None,
            outcome.reason,
            outcome.message[:MESSAGE_LIMIT],
            outcome.exit_code,
            None if outcome.result is None else json.dumps(outcome.result),
            None if outcome.receipt is None else json.dumps(outcome.receipt),
            self._ids[finish.position],
            finish.was.value,
        )

    def _later(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=seconds)

    def _keep_attempts(self, finishes: Sequence[Finish]) -> None:
        """An attempt that is tried again moves to a row of its own."""
        if not finishes:
            return
        step_runs = StepRun.objects.in_bulk([self._ids[item.position] for item in finishes])
        Attempt.objects.bulk_create(
            Attempt(
                step_run_id=self._ids[item.position],
                number=item.attempt,
                status=item.outcome.status.value,
                reason=item.outcome.reason,
                message=item.outcome.message[:MESSAGE_LIMIT],
                started_at=step_runs[self._ids[item.position]].started_at,
                finished_at=self._now,
            )
            for item in finishes
        )

    def start(self, starts: Sequence[Start]) -> None:
        common = StepStatus.RUNNING.value, self._sequence, self._moment
        rows = [
            (*common, item.attempt, item.slot, self._ids[item.position], StepStatus.PENDING.value)
            for item in starts
        ]
        self._change(_START, rows)

    def sweep(self, sweeps: Sequence[Sweep]) -> None:
        for item in sweeps:
            check_step(StepStatus.PENDING, item.status)
            common = item.status.value, self._sequence, self._moment, item.reason, item.message
            ids = [self._ids[position] for position in item.positions]
            self._change(_SWEEP, [(*common, pk, StepStatus.PENDING.value) for pk in ids])

    def log(self, pieces: Sequence[LogPiece]) -> None:
        if not pieces:
            return
        LogChunk.objects.bulk_create(
            (
                LogChunk(step_run_id=piece.step_run_id, offset=piece.offset, data=piece.data)
                for piece in pieces
            ),
            batch_size=_CHUNKS_AT_ONCE,
        )
        sizes = {piece.step_run_id: piece.offset + len(piece.data) for piece in pieces}
        self._change(_LOG_SIZE, [(size, self._sequence, pk) for pk, size in sizes.items()])

    def progress(self, fractions: dict[int, float]) -> None:
        """A step that has ended meanwhile keeps what it has."""
        running = StepStatus.RUNNING.value
        rows = [(value, self._sequence, pk, running) for pk, value in fractions.items()]
        if rows:
            self._cursor.executemany(_native(_PROGRESS), rows)

    def _change(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run the statement for every row; each must change exactly one."""
        if not rows:
            return
        self._cursor.executemany(_native(sql), rows)
        if self._cursor.rowcount != len(rows):
            raise StaleTransitionError(
                f"{len(rows)} step runs were to change, {self._cursor.rowcount} did"
            )
