"""The lifecycle tables, every pair of them."""

from __future__ import annotations

from itertools import product

import pytest

from executions.engine.status import (
    FINAL_RUN_STATUSES,
    FINAL_STEP_STATUSES,
    RunStatus,
    StepStatus,
    run_may_become,
    step_may_become,
)

RUN_ARROWS = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "partially_succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
}
STEP_ARROWS = {
    ("pending", "running"),
    ("pending", "skipped"),
    ("pending", "cancelled"),
    ("running", "pending"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "timed_out"),
    ("running", "cancelled"),
    ("running", "interrupted"),
}


@pytest.mark.parametrize(("before", "after"), [*product(RunStatus, RunStatus)])
def test_run_transitions(before: RunStatus, after: RunStatus) -> None:
    """A run may go exactly where docs/lifecycle.md draws an arrow."""
    assert run_may_become(before, after) == ((before, after) in RUN_ARROWS)


@pytest.mark.parametrize(("before", "after"), [*product(StepStatus, StepStatus)])
def test_step_transitions(before: StepStatus, after: StepStatus) -> None:
    """A step run may go exactly where docs/lifecycle.md draws an arrow."""
    assert step_may_become(before, after) == ((before, after) in STEP_ARROWS)


def test_final_statuses_have_no_way_out() -> None:
    """What is final stays as it is."""
    assert {"succeeded", "partially_succeeded", "failed", "cancelled"} == FINAL_RUN_STATUSES
    assert {*StepStatus} - {"pending", "running"} == FINAL_STEP_STATUSES
