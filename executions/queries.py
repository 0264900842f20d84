"""The read side: what pages, the API and sockets show. Nothing here writes.

The order of reading makes the change feed right: the Run row first, its steps after it, each
statement for itself. A change that lands in between is then in the rows already and comes a
second time with the next frame, which is harmless; the other way round it would be lost.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from django.db import connection
from django.db.models import Max
from django.utils import timezone

from steps.models import Batch, Step

from . import protocol
from .conf import conf
from .engine.plan import Lane, Plan
from .engine.status import ACTIVE_RUN_STATUSES, FINAL_STEP_STATUSES, RunStatus, StepStatus
from .models import LogChunk, Run, StepRun, Worker
from .protocol import Changes, Resync, RunObject, Snapshot, Table, WorkerRef, Workers, iso

TABLE_LIMIT = 200
"""Active runs that the dashboard lists."""
JUST_ENDED_SECONDS = 60
PAGE_LIMIT = 50

# ---- one run ------------------------------------------------------------------------------------


def snapshot(run_id: int) -> Snapshot:
    """A run with every step, in the order of the plan. Raises `Run.DoesNotExist`."""
    run = Run.objects.get(pk=run_id)
    steps = StepRun.objects.filter(run_id=run_id).order_by("position")
    usual = usual_seconds(run_id)
    return {
        "v": protocol.VERSION,
        "to": run.sequence,
        "now": _now(),
        "run": run_object(run),
        "columns": list(protocol.SNAPSHOT_COLUMNS),
        "steps": [
            [*map(_plain, row[:-1]), usual.get(row[-1])]
            for row in steps.values_list(*protocol.STORED_COLUMNS, "step_id")
        ],
    }


def changes_after(run_id: int, after: int) -> Changes | Resync:
    """The steps of a run that changed after sequence `after`, ordered by their sequence.

    A resync if the run never got as far as `after`. Raises `Run.DoesNotExist`.
    """
    run = Run.objects.get(pk=run_id)
    if after > run.sequence:
        return {"v": protocol.VERSION, "resync": True}
    return _changes(run, after)


def changes_after_any(run_id: int, starts: Iterable[int]) -> Changes:
    """As `changes_after`, reaching back to the smallest of `starts` that is not in the future."""
    run = Run.objects.get(pk=run_id)
    return _changes(
        run, min((start for start in starts if start < run.sequence), default=run.sequence)
    )


def _changes(run: Run, after: int) -> Changes:
    steps = StepRun.objects.filter(run_id=run.pk, sequence__gt=after).order_by("sequence")
    return {
        "v": protocol.VERSION,
        "from": after,
        "to": run.sequence,
        "now": _now(),
        "run": run_object(run),
        "columns": list(protocol.MUTABLE_COLUMNS),
        "steps": [list(map(_plain, row)) for row in steps.values_list(*protocol.MUTABLE_COLUMNS)],
    }


def _plain(value: Any) -> Any:
    """A stored value as JSON knows it."""
    return iso(value) if type(value) is datetime else value


def _now() -> str:
    return iso(timezone.now()) or ""


# ---- runs without their steps -------------------------------------------------------------------


def run_object(run: Run) -> RunObject:
    """A run as a JSON object."""
    return run_objects([run])[0]


def run_objects(runs: Sequence[Run]) -> list[RunObject]:
    """Runs as JSON objects. No query unless one of them is queued, then three."""
    waiting = waiting_sentences(runs)
    return [_run_object(run, waiting.get(run.pk, "")) for run in runs]


def _run_object(run: Run, waiting: str) -> RunObject:
    return {
        "id": run.pk,
        "batch": {"slug": run.batch_slug, "name": run.batch_name},
        "status": run.status,
        "reason": run.reason,
        "sequence": run.sequence,
        "total": run.total,
        "counts": {status: getattr(run, status) for status in Run.COUNTERS},
        "pool_width": run.pool_width,
        "pool_start": run.pool_start,
        "failure_policy": run.failure_policy,
        "cancel_requested_at": iso(run.cancel_requested_at),
        "cancel_requested_by": run.cancel_requested_by,
        "cancel_note": run.cancel_note,
        "cancel_mode": run.cancel_mode,
        "triggered_by": run.triggered_by,
        "queued_at": iso(run.queued_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "worker": _worker(run),
        "waiting": waiting,
    }


def _worker(run: Run) -> WorkerRef | None:
    if run.held_by is None:
        return None
    host, pid = run.held_by
    return {"host": host, "pid": pid}


def active_runs() -> Table:
    """Every run that is running or queued, and those that ended within the last minute.

    Running ones first, then the queue in its order, then the ended ones, the latest first.
    """
    # The names of the statuses happen to sort the wrong way round.
    active = list(Run.objects.active().order_by("-status", "id")[:TABLE_LIMIT])
    left_out = Run.objects.active().count() - len(active) if len(active) == TABLE_LIMIT else 0
    since = timezone.now() - timedelta(seconds=JUST_ENDED_SECONDS)
    ended = Run.objects.final().filter(finished_at__gte=since).order_by("-finished_at")[:PAGE_LIMIT]
    # One that ends between the two readings is in both; the later one is right.
    over = {run.pk for run in ended}
    return _table([*(run for run in active if run.pk not in over), *ended], left_out)


def runs_page(
    *,
    batch: str | None = None,
    status: str | None = None,
    before: int | None = None,
    only_active: bool = False,
) -> Table:
    """At most `PAGE_LIMIT` runs, the latest first; `before` is the last id of the page before."""
    runs = Run.objects.order_by("-id")
    if only_active:
        runs = runs.active()
    if batch is not None:
        runs = runs.filter(batch_slug=batch)
    if status is not None:
        runs = runs.filter(status=status)
    if before is not None:
        runs = runs.filter(pk__lt=before)
    return _table(list(runs[:PAGE_LIMIT]), 0)


def _table(runs: Sequence[Run], left_out: int) -> Table:
    return {
        "now": _now(),
        "runs": run_objects(runs),
        "left_out": max(0, left_out),
        "workers": workers(),
    }


# The relay asks these two many times a second: building them by the ORM costs ten times their run.
_SEQUENCES = "SELECT id, sequence, status FROM executions_run WHERE id IN ({})"
_ACTIVE = "SELECT id, sequence FROM executions_run WHERE status IN ({}) ORDER BY id"
# Literals, because SQLite uses a partial index only if it sees its condition.
_ACTIVE_LITERALS = ", ".join(f"'{status}'" for status in sorted(ACTIVE_RUN_STATUSES))


def sequences(run_ids: Collection[int]) -> dict[int, tuple[int, str]]:
    """Sequence and status of those of the runs that exist."""
    if not run_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_SEQUENCES.format(", ".join(["%s"] * len(run_ids))), list(run_ids))
        return {run_id: (sequence, status) for run_id, sequence, status in cursor.fetchall()}


def active_sequences() -> list[tuple[int, int]]:
    """Id and sequence of every active run: differs whenever the table of runs may differ."""
    with connection.cursor() as cursor:
        cursor.execute(_ACTIVE.format(_ACTIVE_LITERALS))
        rows: list[tuple[int, int]] = cursor.fetchall()
    return rows


# ---- waiting ------------------------------------------------------------------------------------


def waiting_reasons(run_ids: Iterable[int]) -> dict[int, str]:
    """Why those of the runs that are queued wait."""
    return waiting_sentences(list(Run.objects.queued().filter(pk__in=list(run_ids))))


def waiting_sentences(runs: Iterable[Run]) -> dict[int, str]:
    """Why the queued ones among `runs` wait; empty if a worker is about to take one."""
    queued = [run for run in runs if run.status == RunStatus.QUEUED]
    if not queued:
        return {}
    rivals = _rivals({run.batch_id for run in queued if run.batch_id is not None})
    capacity = workers()
    return {run.pk: _waiting(run, rivals.get(run.batch_id, ()), capacity) for run in queued}


@dataclass(frozen=True, slots=True)
class _Rival:
    """An active run of the same batch."""

    run_id: int
    is_running: bool
    limit: int
    """Runs of the batch that may run at once."""


def _rivals(batch_ids: Iterable[int]) -> Mapping[int | None, Sequence[_Rival]]:
    rivals: dict[int | None, list[_Rival]] = defaultdict(list)
    active = Run.objects.active().filter(batch_id__in=list(batch_ids)).order_by("pk")
    columns = ("batch_id", "pk", "status", "batch__max_active_runs")
    for batch_id, run_id, status, limit in active.values_list(*columns):
        rivals[batch_id].append(_Rival(run_id, status == RunStatus.RUNNING, limit))
    return rivals


def _waiting(run: Run, rivals: Sequence[_Rival], capacity: Workers) -> str:
    # The rule by which a run is claimed: those of a batch start in the order of their ids.
    ahead = [rival for rival in rivals if rival.is_running or rival.run_id < run.pk]
    if ahead and len(ahead) >= ahead[0].limit:
        return f"{_still_ahead(ahead)} (limit {ahead[0].limit})"
    if not capacity["alive"]:
        return "no worker is running"
    if capacity["busy"] >= capacity["slots"]:
        return f"workers busy {capacity['slots']}/{capacity['slots']}"
    return ""


def _still_ahead(ahead: Sequence[_Rival]) -> str:
    running = [rival.run_id for rival in ahead if rival.is_running]
    if not running:
        return f"run {ahead[0].run_id} of this batch comes first"
    if len(running) == 1:
        return f"run {running[0]} of this batch is still running"
    named = ", ".join(map(str, running[:-1]))
    return f"runs {named} and {running[-1]} of this batch are still running"


def plan_warnings(batch: Batch, plan: Plan) -> list[str]:
    """What somebody who is about to start `plan` should know, a sentence each."""
    warnings = []
    ahead = _rivals([batch.pk]).get(batch.pk, ())
    if len(ahead) >= batch.max_active_runs:
        limit = batch.max_active_runs
        warnings.append(f"This run will wait: {_still_ahead(ahead)} (limit {limit}).")
    if not workers()["alive"]:
        warnings.append("This run will wait: no worker is running.")
    missing = set(Step.objects.missing().values_list("name", flat=True))
    warnings += [
        f"“{step.name}” will fail: the function of its step is missing."
        for step in plan.steps
        if step.step_name in missing
    ]
    return warnings


def workers() -> Workers:
    """How many workers live, and how much of what they can do at once is in use."""
    since = timezone.now() - timedelta(seconds=conf.WORKER_SEEN_SECONDS)
    alive = Worker.objects.filter(stopped_at=None, seen_at__gte=since)
    slots = list(alive.values_list("slots", flat=True))
    return {"alive": len(slots), "slots": sum(slots), "busy": Run.objects.running().count()}


# ---- how long steps usually take ----------------------------------------------------------------

USUAL_SAMPLE = 20
"""Succeeded step runs of the same step that the median is taken from."""
USUAL_MINIMUM = 3
USUAL_ROWS = 20_000
"""For a run with very many different steps the sample shrinks, so that a snapshot stays cheap."""

_DIALECT = {
    "sqlite": {
        "seconds": "(julianday(past.finished_at) - julianday(past.started_at)) * 86400.0",
        "join": "group_concat(seconds)",
    },
    "postgresql": {
        "seconds": "extract(epoch from past.finished_at - past.started_at)",
        "join": "string_agg(seconds::text, ',')",
    },
}

# The index (step, -id) is walked from its end for each step; a window function would read the
# whole history of every step.
_DURATIONS = """
    SELECT step.step_id, (
        SELECT {join} FROM (
            SELECT {seconds} AS seconds FROM executions_steprun AS past
            WHERE past.step_id = step.step_id AND past.status = %s
            ORDER BY past.id DESC LIMIT %s
        ) AS sample
    )
    FROM (
        SELECT DISTINCT step_id FROM executions_steprun
        WHERE run_id = %s AND step_id IS NOT NULL
    ) AS step
"""


def usual_seconds(run_id: int) -> dict[int, float]:
    """The median duration of each step of a run, by the step's id, where it is known.

    Taken from the last succeeded step runs of the same step in any run.
    """
    dialect = _DIALECT.get(connection.vendor)
    if dialect is None:
        return {}
    total = StepRun.objects.filter(run_id=run_id).values("step_id").distinct().count()
    sample = max(USUAL_MINIMUM, min(USUAL_SAMPLE, USUAL_ROWS // max(1, total)))
    with connection.cursor() as cursor:
        cursor.execute(_DURATIONS.format(**dialect), [StepStatus.SUCCEEDED, sample, run_id])
        rows = cursor.fetchall()
    return {step_id: usual for step_id, text in rows if (usual := _median(text)) is not None}


def _median(text: str | None) -> float | None:
    seconds = [float(part) for part in text.split(",")] if text else []
    if len(seconds) < USUAL_MINIMUM:
        return None
    return round(max(0.0, statistics.median(seconds)), 6)


# ---- output -------------------------------------------------------------------------------------

LOG_LIMIT = 1024 * 1024
"""Bytes of output that one answer holds at most."""
LOG_MINIMUM = 4
"""Bytes of the longest character: less could never return one."""


@dataclass(frozen=True, slots=True)
class LogSlice:
    """A piece of the output of a step run."""

    offset: int
    """Of the first byte; later than asked for if that was inside a character."""
    data: bytes
    size: int
    """Bytes that are stored by now."""
    is_final: bool
    """The step has ended: nothing will be added."""

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


def read_log(
    step_run_id: int, offset: int = 0, limit: int = LOG_LIMIT, *, tail: bool = False
) -> LogSlice:
    """Output from byte `offset` on, or its last `limit` bytes; never half a character.

    Half a character at the very end is held back while more may come. Raises
    `StepRun.DoesNotExist`.
    """
    # Size first: the chunks it counts are committed with it.
    size, status = StepRun.objects.values_list("log_size", "status").get(pk=step_run_id)
    is_final = StepStatus(status) in FINAL_STEP_STATUSES
    limit = max(LOG_MINIMUM, min(limit, LOG_LIMIT))
    start = max(0, size - limit) if tail else min(max(0, offset), size)
    end = min(start + limit, size)
    data = _stored_bytes(step_run_id, start, end)
    skipped = _continuation_bytes(data) if start > 0 else 0
    data = data[skipped:]
    if not (is_final and end == size):
        data = data[: len(data) - _unfinished_bytes(data)]
    return LogSlice(start + skipped, data, size, is_final)


def whole_log(step_run_id: int) -> bytes:
    """All stored output. Raises `StepRun.DoesNotExist`."""
    size = StepRun.objects.values_list("log_size", flat=True).get(pk=step_run_id)
    return _stored_bytes(step_run_id, 0, size)


def _stored_bytes(step_run_id: int, start: int, end: int) -> bytes:
    if start >= end:
        return b""
    chunks = LogChunk.objects.filter(step_run_id=step_run_id)
    first = chunks.filter(offset__lte=start).aggregate(first=Max("offset"))["first"] or 0
    pieces = []
    for offset, data in (
        chunks.filter(offset__gte=first, offset__lt=end)
        .order_by("offset")
        .values_list("offset", "data")
    ):
        pieces.append(bytes(data)[max(0, start - offset) : end - offset])
    return b"".join(pieces)


def _continuation_bytes(data: bytes) -> int:
    """How many bytes at the start belong to a character that began before it."""
    count = 0
    while count < min(3, len(data)) and data[count] & 0xC0 == 0x80:
        count += 1
    return count


def _unfinished_bytes(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character that goes on after it."""
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return count if needed > count else 0
    return 0


# ---- results ------------------------------------------------------------------------------------


class Result(TypedDict):
    """What became of one step."""

    step: str
    success: bool
    status: str
    error: str | None
    """A sentence; null for a success."""
    execution_id: int
    duration_seconds: float | None
    """Null if it never started."""
    execution_mode: str
    """`sequential` or `parallel`."""
    timestamp: str | None
    """When it ended."""
    result: Any
    """What a Python step returned, if that was JSON."""


class ResultGroup(TypedDict):
    total: int
    successful: list[Result]
    failed: list[Result]
    """Failed, timed out or interrupted."""
    skipped: list[Result]
    cancelled: list[Result]


class Results(ResultGroup):
    """The results of a run: all of them, and again by lane."""

    run: int
    status: str
    unfinished: int
    """Steps that have not ended; they are in no list."""
    critical: ResultGroup
    parallel: ResultGroup


_RESULT_COLUMNS = (
    "id",
    "name",
    "lane",
    "status",
    "reason",
    "message",
    "started_at",
    "finished_at",
    "result",
)

_GROUP_OF = {
    StepStatus.SUCCEEDED: "successful",
    StepStatus.FAILED: "failed",
    StepStatus.TIMED_OUT: "failed",
    StepStatus.INTERRUPTED: "failed",
    StepStatus.SKIPPED: "skipped",
    StepStatus.CANCELLED: "cancelled",
}


def results(run_id: int) -> Results:
    """What became of each step of a run, in the order of the plan. Raises `Run.DoesNotExist`."""
    run = Run.objects.get(pk=run_id)
    groups = {lane: _empty_group() for lane in ("all", Lane.CRITICAL, Lane.POOL)}
    steps = StepRun.objects.filter(run_id=run_id).order_by("position")
    unfinished = 0
    for row in steps.values_list(*_RESULT_COLUMNS):
        step = dict(zip(_RESULT_COLUMNS, row, strict=True))
        group = _GROUP_OF.get(StepStatus(step["status"]))
        unfinished += group is None
        for lane in ("all", Lane(step["lane"])):
            groups[lane]["total"] += 1
            if group is not None:
                groups[lane][group].append(_result(step))  # type: ignore[literal-required]
    return {
        "run": run.pk,
        "status": run.status,
        **groups["all"],
        "unfinished": unfinished,
        "critical": groups[Lane.CRITICAL],
        "parallel": groups[Lane.POOL],
    }


def _empty_group() -> ResultGroup:
    return {"total": 0, "successful": [], "failed": [], "skipped": [], "cancelled": []}


def _result(step: Mapping[str, Any]) -> Result:
    success = step["status"] == StepStatus.SUCCEEDED
    started, finished = step["started_at"], step["finished_at"]
    return {
        "step": step["name"],
        "success": success,
        "status": step["status"],
        "error": None if success else step["message"] or step["reason"] or step["status"],
        "execution_id": step["id"],
        "duration_seconds": (finished - started).total_seconds() if started and finished else None,
        "execution_mode": "sequential" if step["lane"] == Lane.CRITICAL else "parallel",
        "timestamp": iso(finished),
        "result": step["result"],
    }
