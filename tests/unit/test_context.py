from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executions.engine.cancellation import CancelReason, StepCancelled
from executions.engine.context import StepContext
from executions.engine.errors import CannotStart, CommandFailed, CommandTimedOut
from executions.engine.executors import Call
from tests.unit.calls import (
    DEADLINE,
    make_call,
    make_settings,
    output_of,
    processes_of,
    wait_until,
)


@pytest.fixture
def call() -> Call:
    return make_call(
        parameters={"depth": {"levels": [1, 2]}},
        context={"workflow_id": 7, "dependencies": ["a"]},
        grace_seconds=0.4,
    )


@pytest.fixture
def context(call: Call, tmp_path: Path) -> Iterator[StepContext]:
    settings = make_settings(tmp_path)
    made = StepContext(call, secret=settings.secret, environment=settings.environment)
    yield made
    made.close()


def test_context_and_parameters_are_read_only(context: StepContext, call: Call) -> None:
    """A step cannot change what other steps and later attempts see, at any depth."""
    assert context.context["workflow_id"] == 7
    assert context.params["depth"]["levels"] == (1, 2)
    with pytest.raises(TypeError):
        context.context["workflow_id"] = 8
    with pytest.raises(TypeError):
        context.params["depth"]["levels"] = []
    with pytest.raises(AttributeError):
        context.context["dependencies"].append("b")
    assert call.context == {"workflow_id": 7, "dependencies": ["a"]}


def test_it_knows_its_attempt(context: StepContext, call: Call) -> None:
    """Name, attempt and key tell a step who it is."""
    assert (context.name, context.attempt, context.key) == ("entry", 1, call.key)


def test_log_adds_lines(context: StepContext, call: Call) -> None:
    """`log` puts its arguments together as `print` does."""
    context.log("three", 3, None)
    context.log()
    assert output_of(call) == "three 3 None\n\n"


@pytest.mark.parametrize(
    ("done", "total", "fraction"),
    [(1, 4, 0.25), (0.5, 1, 0.5), (9, 3, 1), (-1, 3, 0), (0, 0, 1), (float("nan"), 1, None)],
)
def test_progress_is_a_fraction(
    done: float, total: float, fraction: float | None, tmp_path: Path
) -> None:
    """Progress is between 0 and 1; what is no number changes nothing."""
    seen: list[float] = []
    settings = make_settings(tmp_path)
    call = make_call()
    object.__setattr__(call, "progress", seen.append)
    context = StepContext(call, secret=settings.secret, environment=settings.environment)
    context.progress(done, total)
    assert seen == ([] if fraction is None else [fraction])


def test_a_secret_is_masked_from_then_on(context: StepContext, call: Call) -> None:
    """Whoever reads a secret cannot show it by accident."""
    context.log(context.secret("TOKEN"))
    assert output_of(call) == "•••\n"
    with pytest.raises(KeyError, match="OTHER"):
        context.secret("OTHER")


def test_sleep_ends_when_the_step_should_stop(context: StepContext, call: Call) -> None:
    """A sleeping step learns of a cancel at once."""
    timer = threading.Timer(0.05, call.token.cancel, [CancelReason.STEP_CANCELLED])
    timer.start()
    started = time.monotonic()
    with pytest.raises(StepCancelled):
        context.sleep(60)
    assert time.monotonic() - started < DEADLINE
    with pytest.raises(StepCancelled):
        context.check_cancelled()


def test_run_gives_output_and_exit_code(context: StepContext, call: Call) -> None:
    """The output of a command is output of the step, and its end is returned."""
    done = context.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.exit_code, done.stdout) == (3, "out\nerr\n")
    assert output_of(call) == "out\nerr\n"


def test_run_uses_directory_and_environment(context: StepContext, tmp_path: Path) -> None:
    """`cwd` and `env` reach the command, beside the environment of every command."""
    done = context.run(["sh", "-c", "pwd; echo $EXTRA $LANG"], cwd=tmp_path, env={"EXTRA": "x"})
    assert done.stdout == f"{tmp_path}\nx C.UTF-8\n"


def test_run_raises_when_a_command_fails(context: StepContext) -> None:
    """An exit code other than 0 is an error that names it and the last line."""
    with pytest.raises(CommandFailed, match="sh: exit code 2: no such table") as caught:
        context.run(["sh", "-c", "echo no such table; exit 2"])
    assert caught.value.exit_code == 2


def test_run_raises_when_there_is_no_such_program(context: StepContext) -> None:
    """A missing program is named."""
    with pytest.raises(CannotStart, match="no-such-program"):
        context.run(["no-such-program"])


def test_run_ends_a_command_after_its_timeout(context: StepContext, call: Call) -> None:
    """The timeout of a command ends its tree and leaves the step running."""
    with pytest.raises(CommandTimedOut, match=r"sh: not finished after 0\.1 s"):
        context.run(["sh", "-c", "trap '' TERM; setsid sleep 60 & sleep 60"], timeout=0.1)
    assert processes_of(call.key) == []
    context.check_cancelled()


def test_run_ends_a_command_when_the_step_should_stop(context: StepContext, call: Call) -> None:
    """A cancel ends the tree of the command before `run` raises, within the step's grace."""
    errors: list[BaseException] = []

    def step() -> None:
        try:
            context.run(["sh", "-c", "trap '' TERM; setsid sleep 60 & echo up; sleep 60; sleep 60"])
        except StepCancelled as error:
            errors.append(error)

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    wait_until(lambda: len(processes_of(call.key)) >= 3, "the command is up")
    call.token.cancel(CancelReason.RUN_CANCELLED)
    thread.join(DEADLINE)
    assert len(errors) == 1
    assert processes_of(call.key) == []
    with pytest.raises(StepCancelled):
        context.run(["true"])


def test_many_commands_leave_no_descriptors(context: StepContext) -> None:
    """A step may run any number of commands."""
    descriptors = Path("/proc/self/fd")
    context.run(["true"])
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        context.run(["true"])
    assert len(list(descriptors.iterdir())) == before


def test_parameters_can_be_made_json_again(context: StepContext) -> None:
    """A top-level copy of flat parameters is ordinary data."""
    assert json.loads(json.dumps({**context.context})) == {"workflow_id": 7, "dependencies": ["a"]}
