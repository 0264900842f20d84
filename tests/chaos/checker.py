"""What must hold when a scenario is over, whatever happened in it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from executions.engine.outcomes import run_status
from executions.engine.plan import Lane
from executions.engine.status import FINAL_RUN_STATUSES, FINAL_STEP_STATUSES, StepStatus
from tests.processes import until

from .stage import Line, Stage

LOST, DOUBLED, SURVIVED, WRONG = "lost", "doubled", "survived", "wrong"
SWEEP_SECONDS = 10.0
"""For a reaper to end what a killed worker left."""
USUAL = frozenset({"succeeded", "interrupted", "skipped", "cancelled"})
"""How a step may end that nothing is wrong with."""


@dataclass(frozen=True)
class Finding:
    """A broken promise: which sort, and what was seen."""

    sort: str
    text: str

    def __str__(self) -> str:
        return f"{self.sort}: {self.text}"


class RunRow(NamedTuple):
    id: int
    status: str
    sequence: int
    epoch: int
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    interrupted: int
    skipped: int


class StepRow(NamedTuple):
    id: int
    run_id: int
    position: int
    name: str
    lane: str
    status: str
    sequence: int
    attempt: int
    reason: str
    log_size: int


def check(stage: Stage, *, allowed: Iterable[str] = USUAL) -> list[Finding]:
    """All that is wrong, while the programs may go on. Every run must be over."""
    return [*_left(stage), *Record(stage, frozenset(allowed)).findings()]


def check_end(stage: Stage) -> list[Finding]:
    """Stop the site; what was wrong with its end, and with what is left of it."""
    wrong = [Finding(SURVIVED if "left" in text else WRONG, text) for text in stage.stop()]
    wrong += _left(stage)
    return wrong + [Finding(WRONG, text) for text in stage.set_up.faults()]


def _left(stage: Stage) -> list[Finding]:
    with suppress(AssertionError):
        until(lambda: not stage.step_processes(), "the end of steps", seconds=SWEEP_SECONDS)
    return [Finding(SURVIVED, f"process {pid} of a step") for pid in stage.step_processes()]


class Record:
    """Compares what the database says with what the steps wrote."""

    def __init__(self, stage: Stage, allowed: frozenset[str]) -> None:
        self._stage = stage
        self._allowed = allowed
        self._runs = _read(stage, RunRow, "executions_run", "id")
        self._steps = _read(stage, StepRow, "executions_steprun", "run_id, position")
        self._lines = stage.ledger()
        self._begins = _by_step(line for line in self._lines if line.event == "begin")
        self._ends = _by_step(line for line in self._lines if line.event == "end")
        self._earlier = dict(stage.rows(_EARLIER))
        self._plans = {pk: _json(plan) for pk, plan in stage.rows(_PLANS)}

    def findings(self) -> list[Finding]:
        return [
            *self._lost(),
            *(finding for run in self._runs for finding in self._run(run)),
            *(finding for step in self._steps for finding in self._step(step)),
            *(finding for run in self._runs for finding in self._order(run)),
            *self._unknown(),
            *self._logs(),
        ]

    def _lost(self) -> Iterator[Finding]:
        known = {run.id for run in self._runs}
        for run_id in self._stage.accepted:
            if run_id not in known:
                yield Finding(LOST, f"run {run_id} was accepted and is not on record")
        for run in self._runs:
            if run.status not in FINAL_RUN_STATUSES:
                yield Finding(LOST, f"run {run.id} is {run.status} for ever")

    def _run(self, run: RunRow) -> Iterator[Finding]:
        steps = [step for step in self._steps if step.run_id == run.id]
        counted = Counter(step.status for step in steps)
        if len(steps) != run.total or len(steps) != len(self._plan(run.id)):
            yield Finding(WRONG, f"run {run.id} has {len(steps)} steps of {run.total}")
        for status in StepStatus:
            if counted[status.value] != getattr(run, status.value):
                yield Finding(WRONG, f"run {run.id} counts {status} wrongly: {run}, {counted}")
        if run.status in FINAL_RUN_STATUSES:
            found = ((Lane(step.lane), StepStatus(step.status), step.reason) for step in steps)
            if (expected := run_status(found)) != run.status:
                yield Finding(WRONG, f"run {run.id} is {run.status}, its steps say {expected}")
        if any(step.sequence > run.sequence for step in steps):
            yield Finding(WRONG, f"a step of run {run.id} is ahead of its sequence")

    def _step(self, step: StepRow) -> Iterator[Finding]:
        key = step.run_id, step.position
        planned = self._plan(step.run_id)[step.position]
        begins, ends = self._begins[key], self._ends[key]
        what = f"{step.name} of run {step.run_id} ({step.status}, {step.reason})"
        allowed = planned["attempts"] if planned["retry_safe"] else 1
        if len(begins) > min(allowed, max(step.attempt, 1)):
            yield Finding(DOUBLED, f"{what} began {len(begins)} times, attempt {step.attempt}")
        if len({line.attempt for line in begins}) < len(begins):
            yield Finding(DOUBLED, f"an attempt at {what} began twice")
        if any(line.attempt > step.attempt for line in begins):
            yield Finding(DOUBLED, f"{what} began without a START: {begins}")
        if step.attempt > allowed:
            yield Finding(DOUBLED, f"{what} has attempt {step.attempt} of {allowed}")
        yield from self._status(step, what, {line.attempt for line in ends})

    def _status(self, step: StepRow, what: str, ended: set[int]) -> Iterator[Finding]:
        if step.status not in FINAL_STEP_STATUSES:
            yield Finding(LOST, f"{what} has no end")
        elif step.status not in self._allowed:
            yield Finding(WRONG, f"{what} should not end so")
        if step.status == "succeeded" and step.attempt not in ended:
            yield Finding(WRONG, f"{what} did not get to its end")
        if step.status == "skipped" and step.attempt:
            yield Finding(WRONG, f"{what} had begun")
        if step.status != "succeeded" and not step.reason:
            yield Finding(WRONG, f"{what} has no reason")
        earlier = self._earlier.get(step.id, 0)
        if step.status in ("succeeded", "failed", "interrupted") and earlier != step.attempt - 1:
            yield Finding(WRONG, f"{what} has attempt {step.attempt} and {earlier} earlier ones")

    def _order(self, run: RunRow) -> Iterator[Finding]:
        """Critical steps one at a time and in order, the pool after them and never too wide."""
        lanes = {step.position: step.lane for step in self._steps if step.run_id == run.id}
        width = self._plans[run.id]["options"]["pool_width"]
        open_critical: dict[int, Line] = {}
        open_pool: dict[int, Line] = {}
        highest = -1
        for line in self._lines:
            if line.run_id != run.id:
                continue
            opened = open_critical if lanes[line.position] == "critical" else open_pool
            if line.event == "end":
                opened.pop(line.position, None)
                continue
            # What another process executed is dead, or this one could not have claimed the run.
            for lane in (open_critical, open_pool):
                for position in [p for p, was in lane.items() if was.pid != line.pid]:
                    del lane[position]
            others = [position for position in open_critical if position != line.position]
            if others:
                yield Finding(WRONG, f"run {run.id}: {line} beside the critical {others}")
            opened[line.position] = line
            if opened is open_critical and line.position < highest:
                yield Finding(WRONG, f"run {run.id}: {line} out of order")
            if opened is open_critical:
                highest = max(highest, line.position)
            if len(open_pool) > width:
                yield Finding(WRONG, f"run {run.id}: {len(open_pool)} steps in a pool of {width}")

    def _unknown(self) -> Iterator[Finding]:
        known = {(step.run_id, step.position) for step in self._steps}
        for key, lines in self._begins.items():
            if lines and key not in known:
                yield Finding(DOUBLED, f"a step began that is not on record: {lines}")

    def _logs(self) -> Iterator[Finding]:
        stored = dict(self._stage.rows(_STORED))
        for step in self._steps:
            if stored.get(step.id, 0) != step.log_size:
                text = f"{step.name}: {stored.get(step.id, 0)} bytes of log, not {step.log_size}"
                yield Finding(WRONG, text)

    def _plan(self, run_id: int) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = self._plans[run_id]["steps"]
        return steps


_EARLIER = "SELECT step_run_id, count(*) FROM executions_attempt GROUP BY step_run_id"
_PLANS = "SELECT run_id, plan FROM executions_runinput"
_STORED = "SELECT step_run_id, sum(length(data)) FROM executions_logchunk GROUP BY step_run_id"


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _read(stage: Stage, row: Any, table: str, order: str) -> list[Any]:
    columns = ", ".join(row._fields)
    return [row(*found) for found in stage.rows(f"SELECT {columns} FROM {table} ORDER BY {order}")]


def _by_step(lines: Iterable[Line]) -> defaultdict[tuple[int, int], list[Line]]:
    grouped: defaultdict[tuple[int, int], list[Line]] = defaultdict(list)
    for line in lines:
        grouped[line.run_id, line.position].append(line)
    return grouped
