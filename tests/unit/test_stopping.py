"""Steps in processes that are stopped: outcome and receipt agree, whatever the moment."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from executions.engine import namespaces, trees
from executions.engine.cancellation import CancelReason
from executions.engine.executors import Call, ExecutorRegistry, default_executors
from executions.engine.outcomes import Outcome
from executions.engine.status import StepStatus
from tests.chaos import survivors
from tests.unit.calls import Started, make_call, make_settings, processes_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the receipts are Linux's")

KEYS = {"signals", "processes", "proven_empty", "seconds", "kill_level", "after_exit"}
STOPPED = {StepStatus.CANCELLED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED}


@pytest.fixture
def executors(tmp_path: Path) -> ExecutorRegistry:
    manage = tmp_path / "manage.py"
    manage.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    return default_executors(make_settings(tmp_path, manage=[sys.executable, str(manage)]))


def command(*argv: str, **fields: Any) -> Call:
    return make_call({"argv": list(argv)}, **fields)


def check(outcome: Outcome) -> None:
    """What must hold for every outcome of a process step."""
    if outcome.status not in STOPPED:
        return
    receipt = outcome.receipt
    assert receipt is not None, outcome
    assert receipt.keys() - {"unknown_pids"} == KEYS
    assert receipt["proven_empty"] == (outcome.status is not StepStatus.INTERRUPTED)
    assert (receipt["signals"] == []) == (receipt["processes"] == 0)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (CancelReason.STEP_CANCELLED, StepStatus.CANCELLED),
        (CancelReason.RUN_CANCELLED, StepStatus.CANCELLED),
        (CancelReason.TIMEOUT, StepStatus.TIMED_OUT),
    ],
)
@pytest.mark.parametrize("kind", ["command", "management"])
def test_who_is_stopped_gets_a_receipt(
    executors: ExecutorRegistry, kind: str, reason: CancelReason, status: StepStatus
) -> None:
    """Also if SIGTERM was enough, and at once."""
    call = make_call({"argv": ["sleep", "60"], "command": "x"}, grace_seconds=30)
    started = Started(executors.get(kind), call)
    wait_until(lambda: processes_of(call.key), "it is up")
    call.token.cancel(reason)
    outcome = started.outcome()
    check(outcome)
    assert outcome.status is status
    assert outcome.receipt is not None
    assert outcome.receipt["signals"] == ["SIGTERM"]
    assert outcome.receipt["processes"] == 1


def test_a_cancel_before_the_first_process_has_a_receipt(executors: ExecutorRegistry) -> None:
    """There was nothing to end, and that is proven."""
    call = command("true")
    call.token.cancel(CancelReason.STEP_CANCELLED)
    outcome = executors.get("command").run(call)
    check(outcome)
    assert outcome.receipt is not None
    assert outcome.receipt["processes"] == 0


@pytest.mark.parametrize("code", [0, 3])
def test_outcome_and_receipt_agree_at_every_moment(executors: ExecutorRegistry, code: int) -> None:
    """Cancels around the very end of a step: success stands, everything else has its receipt."""
    dice = random.Random(3)
    for _ in range(40):
        call = command("sh", "-c", f"sleep 0.01; exit {code}")
        started = Started(executors.get("command"), call)
        call.token.wait(dice.uniform(0, 0.025))  # any moment will do
        call.token.cancel(CancelReason.RUN_CANCELLED)
        outcome = started.outcome()
        check(outcome)
        if outcome.exit_code == 0 and outcome.receipt is None:
            assert outcome.status is StepStatus.SUCCEEDED
        elif outcome.exit_code == code:
            assert outcome.status in (StepStatus.CANCELLED, StepStatus.FAILED)
        assert processes_of(call.key) == []


def test_a_doubt_after_the_exit_is_no_cancel(
    executors: ExecutorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command failed by itself, left something, and nobody knows whether all of it is gone."""
    call = command("sh", "-c", "sleep 60 & exit 3")

    def unknown(tree: trees.Tree) -> list[int]:
        call.token.cancel(CancelReason.STEP_CANCELLED)
        return [4711]

    monkeypatch.setattr(trees.Tree, "unknown", unknown)
    outcome = executors.get("command").run(call)
    assert outcome.status is StepStatus.INTERRUPTED
    assert outcome.is_unproven
    check(outcome)


# --- Many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", survivors.LEVELS)
@pytest.mark.parametrize("kill_worker", [False, True])
def test_of_many_hostile_steps_nothing_survives(level: str, kill_worker: bool) -> None:
    """260 processes that do everything to stay, cancelled at once or left by their worker."""
    if level == "namespace" and not namespaces.are_possible():
        pytest.skip("this host does not allow PID namespaces")
    result = survivors.attack(20, 0.3, level, kill_worker=kill_worker, shed_after=2.0)
    assert result.survivors == 0
    assert result.unproven == []
    assert len(result.outcomes) == (0 if kill_worker else 20)
    for outcome in result.outcomes:
        assert outcome["receipt"]["signals"] == ["SIGTERM", "SIGKILL"]
        assert outcome["receipt"]["processes"] >= survivors.SLEEPS
