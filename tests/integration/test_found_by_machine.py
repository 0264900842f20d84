"""What the state machine and the explorer found, each as the shortest way there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from executions import transitions
from executions.engine.coordinator import Before, Result
from executions.engine.outcomes import Outcome
from executions.engine.plan import FailurePolicy
from executions.engine.ports import Committed, Fenced, Finish, Returned, Start
from executions.engine.status import StepStatus
from executions.transitions import Group
from tests.integration.test_transitions import SUCCEEDED, check_counters, claim, make_run, statuses
from tests.unit.explorer import Explorer, Journal
from tests.unit.stepped import SteppedCoordinator
from tests.unit.world import critical, make_plan


@pytest.mark.django_db(transaction=True)
def test_a_start_whose_answer_was_lost_happened_also_if_a_cancel_came_before_the_repetition() -> (
    None
):
    """Told that it was refused, the worker would finish a step that is RUNNING on record from
    PENDING, fail over that, and give up the whole run.
    """
    run = make_run("a", "b")
    lease, ids = claim(run)
    group = Group(starts=[Start(0, 1, 1)])
    transitions.record(replace(lease), group, ids)  # committed; the answer never arrived
    assert transitions.request_cancel_step(ids[0], by="ada", note="") == transitions.CANCELLING
    repeated = transitions.record(lease, group, ids)
    check_counters(run)
    assert statuses(run) == {"a": "running", "b": "pending"}
    assert (repeated.started, repeated.refused) == ((Start(0, 1, 1),), ())
    transitions.record(lease, Group(finishes=[Finish(0, 1, SUCCEEDED)]), ids)


def test_a_worker_that_gives_up_says_so_if_a_step_may_still_run() -> None:
    """The coordinator heard that a process tree is not proven empty, and was fenced before that
    was on record. `abandoned` decides whether the worker surrenders its run as proven.
    """
    plan = make_plan(critical("a", retry_safe=True, attempts=2))
    coordinator = SteppedCoordinator(plan, [Before()], Journal())
    coordinator.act(("hear", Committed(started=(Start(0, 1, None),))))
    left = Outcome(status=StepStatus.TIMED_OUT, reason="timeout", receipt={"proven_empty": False})
    coordinator.begun.clear()
    coordinator.act(("hear", Returned(0, 1, left)))
    coordinator.act(("hear", Fenced()))
    assert coordinator.result is Result.FENCED
    assert coordinator.abandoned


def test_nothing_starts_beside_what_a_fenced_worker_left() -> None:
    """The same, to its end: another worker runs the step, or the next critical one, beside it."""
    safe = critical("a", retry_safe=True, attempts=2)
    plan = make_plan(safe, critical("b"), policy=FailurePolicy.CONTINUE)
    Explorer(plan, {"timeout", "left", "watchdog"}).explore()
