"""The coordinator of production, one event at a time: no threads, no waiting, no clock.

What it decides is production's. Whoever uses it decides what happens and when: which step
returns, which deadline passes, when its changes are committed and when it hears of that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from executions.engine.coordinator import Before, Coordinator, Due, Progress, Result
from executions.engine.executors import Call, Executor, ExecutorRegistry, verdicts
from executions.engine.outcomes import Outcome
from executions.engine.plan import Plan, PlannedStep
from executions.engine.ports import Journal, Returned
from executions.engine.status import StepStatus


class _Patient:
    """Stands for every executor: allows a step its grace and then counts it as abandoned."""

    def run(self, call: Call) -> Outcome:
        raise NotImplementedError("nothing runs by itself here")

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return step.grace_seconds

    def forecast(self, step: PlannedStep) -> str:
        return ""


Act = tuple[Any, ...]
"""What happens to a coordinator: `("hear", *events)`, `("return", position, how)` or
`("due", due, position)`."""


class Unproven(dict[str, Any]):
    """The receipt of a tree that is not proven empty. Hashable, as everything else in a change."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0


class SteppedCoordinator(Coordinator):
    """Runs a plan event by event. A deadline may pass at any time once it is set."""

    def __init__(self, plan: Plan, before: Sequence[Before], journal: Journal) -> None:
        executors = ExecutorRegistry()
        for kind in {step.kind for step in plan.steps}:
            executors.register(kind, _Patient())
        super().__init__(plan, run_id=1, executors=executors, before=before, clock=lambda: 0.0)
        self.begun: list[Call] = []
        """Attempts that began and did not return, in the order in which they began."""
        for lane in self._lanes.values():
            for slot in lane._slots:
                slot.begin = self._begin_call
        self._journal = journal
        self._take_over()
        self._proceed()

    def _begin_call(self, executor: Executor, call: Call) -> None:
        self.begun.append(call)

    @property
    def result(self) -> Result | None:
        return self._result

    def act(self, act: Act) -> None:
        """Let this happen, and then decide anew."""
        match act:
            case ("hear", *events):
                for event in events:
                    self._handle(event)
            case ("return", position, how):
                call = self.call(position)
                self.begun.remove(call)
                self._handle(Returned(position, call.attempt, _outcome(call, how)))
            case ("due", due, position):
                self._pass(due, position)
        self._proceed()

    def ends(self) -> list[Act]:
        """How what it began may return now."""
        return [
            ("return", call.step.position, how)
            for call in self.begun
            for how in (_WHEN_ASKED if call.token.is_cancelled else _UNASKED)
        ]

    def call(self, position: int) -> Call:
        """The attempt at a step that began and did not return."""
        return next(call for call in self.begun if call.step.position == position)

    def due(self) -> list[tuple[Due, int]]:
        """Deadlines that would change something now, with the position of their step."""
        found = {
            (due, position)
            for _, _, due, position, attempt in self._deadlines
            if due is Due.DRAINED or self._matters(due, self._steps[position], attempt)
        }
        return sorted(found)

    def _matters(self, due: Due, progress: Progress, attempt: int) -> bool:
        waits_for = StepStatus.PENDING if due is Due.RETRY else StepStatus.RUNNING
        if progress.attempt != attempt or progress.status is not waits_for:
            return False
        return due is not Due.TIMEOUT or not progress.token.is_cancelled

    def _pass(self, due: Due, position: int) -> None:
        passed = [item for item in self._deadlines if (item[2], item[3]) == (due, position)]
        self._deadlines = [item for item in self._deadlines if item not in passed]
        if due is Due.DRAINED:
            self._end_drain()
        else:
            self._meet(due, self._steps[position])

    def stands(self) -> Hashable:
        """Everything that its further decisions depend on."""
        return (
            tuple(map(_progress, self._steps)),
            tuple(
                (
                    tuple(step.position for step in lane.waiting),
                    lane.held_by,
                    frozenset(lane._occupied),
                    frozenset(lane._abandoned),
                )
                for lane in self._lanes.values()
            ),
            tuple(self._unsettled.values()),
            tuple(self.due()),
            (self._cancel_mode, self._stopping, self._drained, self._fenced),
            (self._end_recorded, self._result, self.abandoned),
            tuple((call.step.position, call.attempt) for call in self.begun),
        )


_UNASKED = ("succeeds", "fails")
_WHEN_ASKED = ("succeeds", "is stopped", "is left")


def _outcome(call: Call, how: str) -> Outcome:
    match how:
        case "succeeds":
            return verdicts.succeeded(call)
        case "fails":
            return verdicts.failed(call, "exception", "it broke")
        case "is stopped":
            return verdicts.stopped(call)
        case _:
            return verdicts.stopped(call, proven=False, receipt=Unproven(proven_empty=False))


def _progress(progress: Progress) -> Hashable:
    runs = progress.status is StepStatus.RUNNING
    return (
        progress.status,
        progress.attempt,
        progress.reason,
        progress.starting,
        progress.cancel_requested,
        progress.token.reason if runs else None,
    )
