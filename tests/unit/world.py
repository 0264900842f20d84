"""A small world around a coordinator: a journal in memory and steps that do as they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from executions.engine.coordinator import Before, Coordinator, Result
from executions.engine.executors import Call, ExecutorRegistry
from executions.engine.outcomes import Outcome
from executions.engine.output import Masker, StepOutput
from executions.engine.plan import (
    FailurePolicy,
    Lane,
    Plan,
    PlannedStep,
    PoolStart,
    RunOptions,
)
from executions.engine.ports import (
    CancelSeen,
    Change,
    Committed,
    End,
    Finish,
    HandBack,
    Start,
    Sweep,
)
from executions.engine.status import RunStatus, StepStatus, step_may_become

DEADLINE = 10.0
"""Seconds after which a test gives up waiting."""

SUCCEEDED = Outcome(status=StepStatus.SUCCEEDED)
FAILED = Outcome(status=StepStatus.FAILED, reason="exception", message="it broke")

Body = Callable[[Call], Outcome]


def critical(name: str, **fields: object) -> PlannedStep:
    return _step(name, Lane.CRITICAL, fields)


def pooled(name: str, **fields: object) -> PlannedStep:
    return _step(name, Lane.POOL, fields)


def _step(name: str, lane: Lane, fields: dict[str, object]) -> PlannedStep:
    values = {"position": -1, "step_name": name, "kind": "fake", "grace_seconds": 0.05} | fields
    return PlannedStep(name=name, lane=lane, **values)


def make_plan(
    *steps: PlannedStep,
    width: int = 2,
    policy: FailurePolicy = FailurePolicy.STOP_CRITICAL,
    start: PoolStart = PoolStart.AFTER_CRITICAL,
) -> Plan:
    numbered = tuple(replace(step, position=number) for number, step in enumerate(steps))
    options = RunOptions(pool_width=width, failure_policy=policy, pool_start=start)
    return Plan(batch="test", ruleset="", options=options, steps=numbered)


@dataclass
class World:
    """Runs a plan with the given bodies, and keeps what the journal was told."""

    plan: Plan
    bodies: dict[str, Body] = field(default_factory=dict)
    before: Sequence[Before] | None = None
    cancels: CancelSeen = field(default_factory=CancelSeen)
    """Facts as the journal knows them; set by `request`."""

    def __post_init__(self) -> None:
        registry = ExecutorRegistry()
        registry.register("fake", Bodies(self))
        self.coordinator = Coordinator(self.plan, run_id=1, executors=registry, before=self.before)
        was = self.before or [Before() for _ in self.plan.steps]
        self.statuses = [item.status for item in was]
        self.outcomes: list[Outcome | None] = [None for _ in was]
        self.attempts = [item.attempt for item in was]
        self.log: list[Change] = []
        self.ended: RunStatus | None = None
        self.order: list[str] = []
        self.running: set[str] = set()
        self.most_at_once = dict.fromkeys(Lane, 0)
        self._lock = threading.Lock()
        self._begun: dict[str, threading.Event] = {
            step.name: threading.Event() for step in self.plan.steps
        }
        self.late = threading.Event()
        """Set it to let stubborn steps return."""

    # ---- use -------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run the plan to its end; fails if that takes longer than the deadline."""
        results: list[Result] = []
        thread = self.start(results)
        self.join(thread)
        return results[0]

    def start(self, results: list[Result]) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: results.append(self.coordinator.run(self)), daemon=True
        )
        thread.start()
        return thread

    def join(self, thread: threading.Thread) -> None:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"the run did not end: {self.by_name()}"

    def wait_for(self, name: str) -> None:
        """Until the step has begun."""
        assert self._begun[name].wait(DEADLINE), f"{name} did not begin"

    def request(self, *, run: str = "", steps: Sequence[str] = ()) -> None:
        """A cancel request: a fact in the record, and word of it to the coordinator."""
        positions = frozenset(step.position for step in self.plan.steps if step.name in steps)
        with self._lock:
            self.cancels = CancelSeen(run or self.cancels.run, self.cancels.steps | positions)
            self.coordinator.post(self.cancels)

    def by_name(self) -> dict[str, str]:
        names = [step.name for step in self.plan.steps]
        return {name: status.value for name, status in zip(names, self.statuses, strict=True)}

    def outcome(self, name: str) -> Outcome:
        position = next(step.position for step in self.plan.steps if step.name == name)
        outcome = self.outcomes[position]
        assert outcome is not None
        return outcome

    # ---- Journal ---------------------------------------------------------------------------

    def record(self, changes: list[Change]) -> None:
        with self._lock:
            self.log += changes
            started, refused, ended = [], [], False
            for change in changes:
                match change:
                    case Finish():
                        self._finish(change)
                    case Start() if self.cancels.run or change.position in self.cancels.steps:
                        refused.append(change)
                    case Start():
                        self._move(change.position, StepStatus.RUNNING)
                        self.attempts[change.position] = change.attempt
                        started.append(change)
                    case Sweep():
                        for position in change.positions:
                            self._move(position, change.status)
                            self.outcomes[position] = Outcome(
                                status=change.status, reason=change.reason, message=change.message
                            )
                    case End():
                        assert self.ended is None
                        self.ended, ended = change.status, True
                    case HandBack():
                        ended = True
        self.coordinator.post(Committed(tuple(started), tuple(refused), ended))

    def _finish(self, finish: Finish) -> None:
        assert self.statuses[finish.position] is finish.was
        again = finish.retry_in is not None
        self._move(finish.position, StepStatus.PENDING if again else finish.outcome.status)
        self.outcomes[finish.position] = finish.outcome

    def _move(self, position: int, status: StepStatus) -> None:
        assert step_may_become(self.statuses[position], status)
        self.statuses[position] = status

    def output(self, position: int) -> StepOutput:
        return StepOutput(limit=1000, line_limit=100, mask=Masker(), on_dirty=lambda: None)

    def progress(self, position: int, fraction: float) -> None:
        pass

    # ---- for the executor ------------------------------------------------------------------

    def enter(self, step: PlannedStep) -> None:
        with self._lock:
            self.running.add(step.name)
            self.order.append(step.name)
            mates = [other.name for other in self.plan.steps if other.lane is step.lane]
            at_once = len(self.running.intersection(mates))
            self.most_at_once[step.lane] = max(self.most_at_once[step.lane], at_once)
        self._begun[step.name].set()

    def leave(self, step: PlannedStep) -> None:
        with self._lock:
            self.running.discard(step.name)


class Bodies:
    """The executor of kind `fake`: runs the body that the world has for a step."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, call: Call) -> Outcome:
        self._world.enter(call.step)
        try:
            return self._world.bodies.get(call.step.name, lambda call: SUCCEEDED)(call)
        finally:
            self._world.leave(call.step)

    def stop_seconds(self, step: PlannedStep) -> float:
        return step.grace_seconds

    def forecast(self, step: PlannedStep) -> str:
        return ""


# ---- bodies -------------------------------------------------------------------------------------


def until_cancelled(call: Call) -> Outcome:
    """Runs until it is asked to stop, and then stops."""
    assert call.token.wait(DEADLINE), "nobody cancelled it"
    reason = str(call.token.reason)
    timed_out = reason == "timeout"
    stopped = reason in ("shutdown", "fenced")
    status = StepStatus.TIMED_OUT if timed_out else StepStatus.CANCELLED
    return Outcome(status=StepStatus.INTERRUPTED if stopped else status, reason=reason)
