"""No order of actions of two workers, people and a rescuer breaks what a run promises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from executions.engine.coordinator import Before, Progress
from executions.engine.lanes import LaneState
from executions.engine.outcomes import MISSES, Outcome
from executions.engine.plan import FailurePolicy, Plan, PoolStart
from executions.engine.ports import Committed, Journal, Start
from executions.engine.status import RunStatus, StepStatus

from . import record as records
from .explorer import EVERYTHING, Explorer, State
from .promises import Violation
from .record import Record
from .stepped import SteppedCoordinator
from .world import critical, make_plan, pooled

SAFE = {"retry_safe": True, "attempts": 2}
GO_ON = FailurePolicy.CONTINUE

# The first letters of the lanes, capitals for steps that are safe to try again.
CC = make_plan(critical("a", **SAFE), critical("b", **SAFE), policy=GO_ON)
CP = make_plan(critical("a", **SAFE), pooled("b", **SAFE))
Cc = make_plan(critical("a", **SAFE), critical("b"), policy=GO_ON)
cc = make_plan(critical("a"), critical("b"), policy=GO_ON)
cc_protected = make_plan(critical("a", protected=True), critical("b"))
cp = make_plan(critical("a"), pooled("b"))
cp_stop_run = make_plan(critical("a"), pooled("b"), policy=FailurePolicy.STOP_RUN)
cp_beside = make_plan(critical("a"), pooled("b"), start=PoolStart.BESIDE_CRITICAL)
Pp = make_plan(pooled("a", **SAFE), pooled("b"), width=1)

CRASHES = frozenset({"crash", "lost"})


@dataclass(frozen=True)
class Case:
    name: str
    plan: Plan
    faults: frozenset[str]


CASES = [
    Case("cc, cancel run", cc, CRASHES | {"fail", "cancel run"}),
    Case("cc, cancel step", cc, CRASHES | {"cancel step"}),
    Case("cc, protected", cc_protected, frozenset({"crash", "cancel run", "cancel step"})),
    Case("cp, cancel run", cp, CRASHES | {"cancel run"}),
    Case("cp, cancel step", cp_stop_run, frozenset({"crash", "fail", "cancel step"})),
    Case("cp, beside", cp_beside, CRASHES | {"fail"}),
    Case("Pp, narrow", Pp, CRASHES | {"fail"}),
    Case("CC, fail", CC, CRASHES | {"fail"}),
    Case("Cc, abandon", Cc, CRASHES | {"timeout", "abandon"}),
    Case("cp, watchdog", cp, CRASHES | {"timeout", "watchdog"}),
    Case("Cc, left", Cc, CRASHES | {"timeout", "left"}),
    Case("Cc, left and fenced", Cc, frozenset({"timeout", "left", "watchdog"})),
    Case("CP, shut down", CP, frozenset({"crash", "shut down"})),
]
if os.environ.get("HYPOTHESIS_PROFILE") == "chaos":
    most = EVERYTHING - {"watchdog", "shut down", "timeout", "abandon", "left"}
    CASES += [Case("cc, most", cc, most), Case("Cc, crashes", Cc, EVERYTHING - {"cancel run"})]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_state_keeps_the_promises(case: Case) -> None:
    """At every moment of every order of actions; and from every state the run can end."""
    explored = Explorer(case.plan, case.faults).explore(most=5_000_000)
    print(f"{case.name}: {explored}")
    ends = {record.status for record in explored.ends}
    assert RunStatus.SUCCEEDED in ends
    assert RunStatus.FAILED in ends
    assert (RunStatus.CANCELLED in ends) == any("cancel" in fault for fault in case.faults)


def test_what_is_explored_is_not_trivial() -> None:
    """A step that was started by a worker that died ends interrupted, or is tried again."""
    ends = Explorer(Cc, CRASHES).explore().ends
    firsts = {(record.rows[0].status, record.rows[0].attempt) for record in ends}
    assert firsts >= {
        (StepStatus.SUCCEEDED, 1),
        (StepStatus.SUCCEEDED, 2),
        (StepStatus.INTERRUPTED, 1),
        (StepStatus.INTERRUPTED, 2),
        (StepStatus.SKIPPED, 0),
    }


# ---- protocols that are broken in one place: the explorer has to notice -------------------------


class NoFencing(Explorer):
    """Whoever once claimed the run may write."""

    def holds(self, state: State, which: int) -> bool:
        return True


class NoComparisonOfBeats(Explorer):
    """A rescuer takes the run from whoever holds it by now, because of what it saw earlier."""

    def _beaten(self, state: State) -> State:
        return state


class StartsDespiteCancel(Explorer):
    """A START is written although its cancel was requested."""

    def commit(self, record: Record, changes: tuple) -> tuple:
        return records.commit(self.plan, record, changes, heed_cancels=False)


class EveryDeathProven(Explorer):
    """A silent worker counts as dead, with everything that it ran."""

    def rescue(self, record: Record, proven: bool) -> Record:
        return super().rescue(record, True)


class StaysAfterRescue(Explorer):
    """A rescue that leaves steps as they were."""

    def rescue(self, record: Record, proven: bool) -> Record:
        return record._replace(status=RunStatus.QUEUED)


class _BeginsAtOnce(SteppedCoordinator):
    def _fill(self, lane: LaneState) -> None:
        known = len(self._changes)
        super()._fill(lane)
        for change in self._changes[known:]:
            assert isinstance(change, Start)
            self._begin(self._steps[change.position])

    def _on_committed(self, event: Committed) -> None:
        super()._on_committed(replace(event, started=()))


class BeginsBeforeTheCommit(Explorer):
    """A step begins as soon as its START is decided."""

    coordinator = _BeginsAtOnce


class _ForgetsUnprovenDeaths(SteppedCoordinator):
    def __init__(self, plan: Plan, before: Sequence[Before], journal: Journal) -> None:
        super().__init__(plan, [replace(was, death_unproven=False) for was in before], journal)


class ForgetsUnprovenDeaths(Explorer):
    """A worker that takes over does not ask whether an earlier critical step still runs."""

    coordinator = _ForgetsUnprovenDeaths


class _KeepsLane(SteppedCoordinator):
    def _skip_rest_of_lane(self, progress: Progress, reason: str) -> None:
        pass


class GoesOnBesideALeftStep(Explorer):
    """The critical lane goes on although its last step may still be running."""

    coordinator = _KeepsLane


class _RetriesEverything(SteppedCoordinator):
    def _retry_in(self, progress: Progress, outcome: Outcome) -> float | None:
        again = progress.step.retry_safe and progress.attempt < progress.step.attempts
        return 1.0 if again and outcome.status in MISSES else None


class RetriesALeftStep(Explorer):
    """A step is tried again beside what may be left of its last attempt."""

    coordinator = _RetriesEverything


class _HoldsForEver(SteppedCoordinator):
    def _take_back(self, progress: Progress) -> None:
        progress.starting = False


class HoldsTheSlotOfARefusedStart(Explorer):
    """A START that met a request keeps its slot, so the run waits for it for ever."""

    coordinator = _HoldsForEver


class _StartsAnyTime(SteppedCoordinator):
    def _is_open(self, lane: object) -> bool:
        return True


class NoBarrier(Explorer):
    """The pool does not wait for the critical lane."""

    coordinator = _StartsAnyTime


@pytest.mark.parametrize(
    ("broken", "plan", "faults", "finding"),
    [
        (NoFencing, cc, {"lost"}, "a fenced worker wrote"),
        (NoComparisonOfBeats, CC, {"crash"}, "a step runs twice at once"),
        (StartsDespiteCancel, cc, {"cancel run"}, "a START after the request"),
        (StartsDespiteCancel, cp, {"cancel step"}, "a START after the request"),
        (EveryDeathProven, CC, {"lost"}, "a step runs twice at once"),
        (EveryDeathProven, cc, {"lost"}, "two critical steps run at once"),
        (StaysAfterRescue, cc, {"crash"}, "a step is running in a run that nobody holds"),
        (BeginsBeforeTheCommit, cc, set(), "a step began without a durable START"),
        (ForgetsUnprovenDeaths, cc, {"lost"}, "two critical steps run at once"),
        (GoesOnBesideALeftStep, cc, {"timeout", "left"}, "two critical steps run at once"),
        (RetriesALeftStep, CC, {"timeout", "left"}, "a step runs twice at once"),
        (HoldsTheSlotOfARefusedStart, cc, {"cancel step"}, "the run cannot end"),
        (NoBarrier, cp, set(), "a START before its turn"),
    ],
)
def test_a_broken_protocol_is_noticed(
    broken: type[Explorer], plan: Plan, faults: set[str], finding: str
) -> None:
    """And the shortest way there is told."""
    with pytest.raises(Violation, match=finding) as found:
        broken(plan, faults).explore()
    print(found.value)
