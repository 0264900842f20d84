"""The coordinator: one thread that decides what starts, what stops and when a run is over.

It owns readiness, deadlines and tokens, and never touches the database: changes go to the
journal, and a step begins only after its START came back committed. Everything that happens
reaches it as an event through one inbox, so nothing here needs a lock.
"""

from __future__ import annotations

import heapq
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import assert_never

from . import crash_points
from .cancellation import CancelReason, CancelToken
from .executors import Call, ExecutorRegistry, step_key_prefix
from .lanes import LaneState
from .outcomes import MISSES, Outcome, is_miss, run_status
from .plan import FailurePolicy, Lane, Plan, PlannedStep, PoolStart
from .ports import (
    CancelSeen,
    Change,
    Committed,
    End,
    Event,
    Fenced,
    Finish,
    HandBack,
    Journal,
    Returned,
    ShutDown,
    Start,
    Sweep,
)
from .status import FINAL_STEP_STATUSES, StepStatus

LONGEST_WAIT = 3600.0
"""Seconds the coordinator sleeps at most when nothing is due."""


class Result(StrEnum):
    """How the coordinator left the run."""

    ENDED = "ended"
    HANDED_BACK = "handed_back"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Before:
    """Where a step stood in the record when this worker claimed the run."""

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    reason: str = ""
    retry_in: float = 0.0
    death_unproven: bool = False
    """It was interrupted, and nobody knows whether it still runs somewhere."""


@dataclass(slots=True)
class Progress:
    """Where a step stands in this coordinator."""

    step: PlannedStep
    status: StepStatus
    attempt: int
    reason: str
    starting: bool = False
    """Its START is on the way to the journal."""
    cancel_requested: bool = False
    token: CancelToken = field(init=False)
    """Of the attempt that runs; there is none before the first one."""


class Due(StrEnum):
    """What a deadline is for."""

    TIMEOUT = "timeout"
    ABANDON = "abandon"
    RETRY = "retry"
    DRAINED = "drained"


class Coordinator:
    """Runs one plan. Make it, hand its `post` to whoever has events, then call `run`."""

    def __init__(
        self,
        plan: Plan,
        *,
        run_id: int,
        executors: ExecutorRegistry,
        before: Sequence[Before] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._key = f"{step_key_prefix(run_id, os.getpid())}{secrets.token_hex(6)}"
        self._executors = executors
        self._clock = clock
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._journal: Journal
        self._before = before or [Before() for _ in plan.steps]
        self._steps = [
            Progress(step, was.status, was.attempt, was.reason)
            for step, was in zip(plan.steps, self._before, strict=True)
        ]
        width = plan.options.pool_width
        self._lanes = {lane: LaneState(lane, width, self._report) for lane in Lane}
        self._unsettled = dict.fromkeys(Lane, 0)
        self._deadlines: list[tuple[float, int, Due, int, int]] = []
        self._deadline_number = 0
        self._changes: list[Change] = []
        self._cancel_mode = ""
        self._stopping = False
        self._drained = False
        self._fenced = False
        self._end_recorded = False
        self._result: Result | None = None
        self.abandoned = False
        """Whether something of a step may be left; the worker should be replaced after the run."""

    def post(self, event: Event) -> None:
        """Tell the coordinator what happened. From any thread; returns at once."""
        self._inbox.put(event)

    def run(self, journal: Journal) -> Result:
        """Run the plan to its end, in the calling thread."""
        self._journal = journal
        self._take_over()
        try:
            while self._result is None:
                self._proceed()
                for event in self._next_events():
                    self._handle(event)
                self._meet_deadlines()
        finally:
            self._close()
        return self._result

    def _close(self) -> None:
        """End the threads. If the engine itself failed, steps still run: nobody waits for them."""
        for progress in self._steps:
            if progress.status is StepStatus.RUNNING:
                progress.token.cancel(CancelReason.FENCED)
        for lane in self._lanes.values():
            lane.close()

    # ---- the loop ---------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Queue what is still to be done, and let earlier misses have their consequences."""
        for progress, was in zip(self._steps, self._before, strict=True):
            step, lane = progress.step, self._lanes[progress.step.lane]
            if progress.status is StepStatus.PENDING:
                self._unsettled[progress.step.lane] += 1
                if was.retry_in > 0:
                    # The record has a wall clock's time, which may have been put back meanwhile.
                    self._wait_for_retry(progress, min(was.retry_in, _backoff(progress)))
                else:
                    lane.waiting.append(step)
        for progress, was in zip(self._steps, self._before, strict=True):
            if progress.status in FINAL_STEP_STATUSES and progress.step.lane is Lane.CRITICAL:
                self._apply_policy(progress)
                if was.death_unproven:
                    self._skip_rest_of_lane(progress, "unproven_death")

    def _proceed(self) -> None:
        """Start what is ready, end the run if nothing is left, and pass the changes on."""
        if self._fenced:
            if all(lane.is_idle for lane in self._lanes.values()):
                self._result = Result.FENCED
            return
        for lane in self._lanes.values():
            self._fill(lane)
        self._end_if_over()
        if self._changes:
            self._journal.record(self._changes)
            self._changes = []

    def _next_events(self) -> Iterable[Event]:
        """All events that are there; waits for the first one until the next deadline."""
        if self._result is not None:
            return
        wait = LONGEST_WAIT
        if self._deadlines:
            wait = max(0.0, min(wait, self._deadlines[0][0] - self._clock()))
        try:
            yield self._inbox.get(timeout=wait)
            while True:
                yield self._inbox.get_nowait()
        except Empty:
            return

    def _handle(self, event: Event) -> None:
        match event:
            case Committed():
                self._on_committed(event)
            case Returned():
                self._on_returned(event)
            case CancelSeen():
                self._on_cancel_seen(event)
            case ShutDown():
                self._on_shut_down(event)
            case Fenced():
                self._on_fenced()
            case _:
                assert_never(event)

    # ---- readiness: the only place that knows what may start ---------------------------------

    def _is_open(self, lane: Lane) -> bool:
        """Whether the next step of the lane may start."""
        if self._stopping or self._cancel_mode:
            return False
        held_by = self._lanes[lane].held_by
        if held_by is not None and self._steps[held_by].status is StepStatus.PENDING:
            return False
        after_critical = self._plan.options.pool_start is PoolStart.AFTER_CRITICAL
        return not (lane is Lane.POOL and after_critical and self._unsettled[Lane.CRITICAL])

    def _fill(self, lane: LaneState) -> None:
        while lane.waiting and lane.has_free_slot and self._is_open(lane.lane):
            progress = self._steps[lane.waiting.popleft().position]
            if progress.status is StepStatus.PENDING:
                slot = lane.occupy(progress.step.position)
                progress.starting = True
                progress.attempt += 1
                start = Start(progress.step.position, progress.attempt, slot.number)
                self._changes.append(start)

    def _end_if_over(self) -> None:
        if self._end_recorded or not all(lane.is_idle for lane in self._lanes.values()):
            return
        if any(self._unsettled.values()):
            if self._stopping:
                self._end_recorded = True
                self._changes.append(HandBack())
            return
        steps = [(item.step.lane, item.status, item.reason) for item in self._steps]
        self._end_recorded = True
        self._changes.append(End(run_status(steps)))

    # ---- starting and returning ---------------------------------------------------------------

    def _on_committed(self, event: Committed) -> None:
        if self._fenced:
            return
        for start in event.refused:
            self._take_back(self._steps[start.position])
        for start in event.started:
            self._begin(self._steps[start.position])
        if event.ended and self._end_recorded:
            ended = not any(self._unsettled.values())
            self._result = Result.ENDED if ended else Result.HANDED_BACK

    def _take_back(self, progress: Progress) -> None:
        """A START met a cancel request: the step never started."""
        lane = self._lanes[progress.step.lane]
        progress.starting = False
        progress.attempt -= 1
        lane.release(progress.step.position)
        if self._cancel_mode or progress.cancel_requested:
            self._cancel_unbegun(progress, StepStatus.PENDING)
        else:
            # The request itself is on its way here; until it arrives the step is next again.
            lane.waiting.appendleft(progress.step)

    def _begin(self, progress: Progress) -> None:
        """The START is durable: run the step, unless it was cancelled meanwhile."""
        step = progress.step
        progress.starting = False
        if self._cancel_mode or progress.cancel_requested:
            self._lanes[step.lane].release(step.position)
            self._cancel_unbegun(progress, StepStatus.RUNNING)
            return
        progress.status = StepStatus.RUNNING
        progress.token = CancelToken()
        call = Call(
            step=step,
            context=self._plan.context,
            attempt=progress.attempt,
            key=f"{self._key}:{step.position}:{progress.attempt}",
            token=progress.token,
            output=self._journal.output(step.position),
            progress=lambda fraction: self._journal.progress(step.position, fraction),
        )
        self._set_deadline(step.timeout_seconds, Due.TIMEOUT, progress)
        if self._drained:
            # Its START took longer to be committed than the drain; it may not outlast that.
            self._stop(progress, CancelReason.SHUTDOWN)
        self._lanes[step.lane].slot_of(step.position).begin(self._executors.get(step.kind), call)
        crash_points.passing("step_begun")

    def _cancel_unbegun(self, progress: Progress, was: StepStatus) -> None:
        """Nothing of the step ever ran, so it is CANCELLED without further proof."""
        reason = "run_cancelled" if self._cancel_mode else "step_cancelled"
        outcome = Outcome(
            status=StepStatus.CANCELLED, reason=reason, message="cancelled before it began"
        )
        self._changes.append(Finish(progress.step.position, progress.attempt, outcome, was=was))
        self._settle(progress, outcome)

    def _report(self, call: Call, outcome: Outcome) -> None:
        """Called by slot threads."""
        self.post(Returned(call.step.position, call.attempt, outcome))

    def _on_returned(self, event: Returned) -> None:
        crash_points.passing("step_returned")
        progress = self._steps[event.position]
        self._lanes[progress.step.lane].release(event.position)
        if progress.status is StepStatus.RUNNING and progress.attempt == event.attempt:
            self._finish(progress, event.outcome)
        # Otherwise it was abandoned: its outcome is on record and this one comes too late.

    def _finish(self, progress: Progress, outcome: Outcome) -> None:
        # Also if this is never put on record: whoever surrenders the run has to know.
        self.abandoned |= outcome.is_unproven
        if self._fenced:
            progress.status = outcome.status
            return
        retry_in = self._retry_in(progress, outcome)
        position, attempt = progress.step.position, progress.attempt
        self._changes.append(Finish(position, attempt, outcome, retry_in=retry_in))
        if retry_in is not None:
            progress.status = StepStatus.PENDING
            if not self._stopping:
                self._wait_for_retry(progress, retry_in)
            return
        self._settle(progress, outcome)
        if outcome.is_unproven and progress.step.lane is Lane.CRITICAL:
            self._skip_rest_of_lane(progress, "unproven_death")

    def _settle(self, progress: Progress, outcome: Outcome) -> None:
        progress.status, progress.reason = outcome.status, outcome.reason
        self._unsettled[progress.step.lane] -= 1
        self._apply_policy(progress)

    def _retry_in(self, progress: Progress, outcome: Outcome) -> float | None:
        """Seconds until the next attempt, or None: this outcome is final."""
        step = progress.step
        if not (step.retry_safe and outcome.status in MISSES and progress.attempt < step.attempts):
            return None
        if outcome.is_unproven or self._cancel_mode or progress.cancel_requested:
            return None
        return _backoff(progress)

    def _wait_for_retry(self, progress: Progress, seconds: float) -> None:
        """Back-off frees a slot of the pool, but holds the critical lane in its order."""
        self._set_deadline(seconds, Due.RETRY, progress)
        if progress.step.lane is Lane.CRITICAL:
            self._lanes[Lane.CRITICAL].waiting.appendleft(progress.step)
            self._lanes[Lane.CRITICAL].held_by = progress.step.position

    # ---- misses and their consequences ---------------------------------------------------------

    def _apply_policy(self, progress: Progress) -> None:
        """A miss in the critical lane may end the lane or the run; no other miss does."""
        if progress.step.lane is not Lane.CRITICAL or self._cancel_mode:
            return
        if not is_miss(progress.status, progress.reason):
            return
        policy = self._plan.options.failure_policy
        what = f"“{progress.step.name}” {_WORDS[progress.status]}"
        if policy is FailurePolicy.STOP_CRITICAL:
            self._sweep(
                StepStatus.SKIPPED,
                "critical_missed",
                f"{what}, and the rest of the critical lane depends on it",
                lane=Lane.CRITICAL,
                after=progress.step.position,
            )
        elif policy is FailurePolicy.STOP_RUN:
            message = f"{what}, and the run starts nothing new after a critical miss"
            self._sweep(StepStatus.SKIPPED, "critical_missed", message)

    def _skip_rest_of_lane(self, progress: Progress, reason: str) -> None:
        message = f"“{progress.step.name}” may still be running, and no slot is left"
        self._sweep(StepStatus.SKIPPED, reason, message, lane=progress.step.lane)

    def _sweep(
        self,
        status: StepStatus,
        reason: str,
        message: str,
        *,
        lane: Lane | None = None,
        after: int = -1,
    ) -> None:
        """Give every pending step of the lane (None: of both) beyond `after` a final status.

        A step whose START is on its way is left out: the answer to it decides.
        """
        swept = [
            item
            for item in self._steps
            if item.status is StepStatus.PENDING
            and not item.starting
            and (lane is None or item.step.lane is lane)
            and item.step.position > after
        ]
        for item in swept:
            item.status, item.reason = status, reason
            self._unsettled[item.step.lane] -= 1
        if swept:
            positions = tuple(item.step.position for item in swept)
            self._changes.append(Sweep(positions, status, reason, message))

    # ---- cancelling ---------------------------------------------------------------------------

    def _on_cancel_seen(self, event: CancelSeen) -> None:
        if event.run and event.run != self._cancel_mode:
            self._cancel_run(event.run)
        for position in event.steps:
            self._cancel_step(self._steps[position])

    def _cancel_run(self, mode: str) -> None:
        if self._cancel_mode == "stop":
            return
        self._cancel_mode = mode
        self._sweep(StepStatus.CANCELLED, "run_cancelled", "the run was cancelled before its turn")
        if mode == "stop":
            for progress in self._steps:
                if progress.status is StepStatus.RUNNING and not progress.step.protected:
                    self._stop(progress, CancelReason.RUN_CANCELLED)

    def _cancel_step(self, progress: Progress) -> None:
        if progress.cancel_requested or progress.status in FINAL_STEP_STATUSES:
            return
        # Also if it is protected and runs: the journal will refuse a further attempt.
        progress.cancel_requested = True
        if progress.status is StepStatus.PENDING:
            if not progress.starting:
                self._cancel_unbegun(progress, StepStatus.PENDING)
        elif not progress.step.protected:
            self._stop(progress, CancelReason.STEP_CANCELLED)

    def _stop(self, progress: Progress, reason: CancelReason) -> None:
        """Ask a running step to stop, and set the time after which nobody waits for it."""
        if not progress.token.cancel(reason):
            return
        executor = self._executors.get(progress.step.kind)
        seconds = executor.stop_seconds(progress.step)
        if seconds is not None:
            self._set_deadline(seconds, Due.ABANDON, progress)

    def _on_shut_down(self, event: ShutDown) -> None:
        if not self._stopping:
            self._stopping = True
            self._push(self._clock() + event.drain_seconds, Due.DRAINED, 0, 0)

    def _on_fenced(self) -> None:
        self._fenced = True
        self._changes = []
        for progress in self._steps:
            if progress.starting:
                progress.starting = False
                self._lanes[progress.step.lane].release(progress.step.position)
            elif progress.status is StepStatus.RUNNING:
                self._stop(progress, CancelReason.FENCED)

    # ---- deadlines ----------------------------------------------------------------------------

    def _set_deadline(self, seconds: float, due: Due, progress: Progress) -> None:
        self._push(self._clock() + seconds, due, progress.step.position, progress.attempt)

    def _push(self, moment: float, due: Due, position: int, attempt: int) -> None:
        self._deadline_number += 1
        heapq.heappush(self._deadlines, (moment, self._deadline_number, due, position, attempt))

    def _meet_deadlines(self) -> None:
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, due, position, attempt = heapq.heappop(self._deadlines)
            if due is Due.DRAINED:
                self._end_drain()
            elif self._steps[position].attempt == attempt:
                self._meet(due, self._steps[position])

    def _meet(self, due: Due, progress: Progress) -> None:
        lane = self._lanes[progress.step.lane]
        if due is Due.RETRY and progress.status is StepStatus.PENDING:
            if lane.held_by == progress.step.position:
                lane.held_by = None
            else:
                lane.waiting.appendleft(progress.step)
        elif due is Due.TIMEOUT and progress.status is StepStatus.RUNNING:
            self._stop(progress, CancelReason.TIMEOUT)
        elif due is Due.ABANDON and progress.status is StepStatus.RUNNING:
            self._abandon(progress)

    def _end_drain(self) -> None:
        self._drained = True
        for progress in self._steps:
            if progress.status is StepStatus.RUNNING:
                self._stop(progress, CancelReason.SHUTDOWN)

    def _abandon(self, progress: Progress) -> None:
        """The step does not return: put on record what is known, and give up its slot."""
        lane = self._lanes[progress.step.lane]
        lane.abandon(progress.step.position)
        timed_out = progress.token.reason is CancelReason.TIMEOUT
        status = StepStatus.TIMED_OUT if timed_out else StepStatus.INTERRUPTED
        grace = progress.step.grace_seconds
        outcome = Outcome(
            status=status,
            reason=str(progress.token.reason),
            message=f"did not return within {grace:g} s of being asked to; it may still be running",
            abandoned=True,
        )
        self._finish(progress, outcome)
        if lane.has_no_slot_left:
            self._skip_rest_of_lane(progress, "no_slot_left")


def _backoff(progress: Progress) -> float:
    """Seconds between the attempt that was made last and the next one."""
    return progress.step.backoff_seconds * float(2 ** max(0, progress.attempt - 1))


_WORDS = {
    StepStatus.FAILED: "failed",
    StepStatus.TIMED_OUT: "timed out",
    StepStatus.INTERRUPTED: "was interrupted",
    StepStatus.CANCELLED: "was cancelled",
}
