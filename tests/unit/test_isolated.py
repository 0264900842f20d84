"""Python steps in a thread and in a process: one function, one behaviour. And what only processes
survive."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executions.engine import trees
from executions.engine.cancellation import CancelReason
from executions.engine.executors import Call, Executor, default_executors
from executions.engine.outcomes import MESSAGE_LIMIT, Outcome
from executions.engine.status import StepStatus
from tests.unit import step_functions
from tests.unit.calls import (
    Started,
    make_call,
    make_settings,
    output_of,
    processes_of,
    wait_until,
)
from tests.unit.test_executors import ENDED_BY
from tests.unit.test_processes import subreaper  # noqa: F401  (a fixture)

CHILD = [sys.executable, "-m", "tests.unit.isolated_child"]
SECRET = "s3cr3t-v4lue"


def make_executor(work_dir: Path, **fields: Any) -> Executor:
    values = {"resolve": step_functions.resolve, "isolated": CHILD} | fields
    return default_executors(make_settings(work_dir, **values)).get("python")


class Step:
    """An attempt at one of the functions, in a thread or in a process."""

    def __init__(self, executor: Executor, isolation: str, name: str, **fields: Any) -> None:
        self.progress: list[float] = []
        self._executor = executor
        self._output = ""
        self._started: Started | None = None
        values = {"grace_seconds": 5, "step_name": name} | fields
        call = make_call({"isolation": isolation}, **values)
        self.call: Call = replace(call, progress=self.progress.append)

    def run(self) -> Outcome:
        return self._executor.run(self.call)

    def begin(self) -> Step:
        """Start it in a thread of its own, and wait until it says that it is up."""
        self.start()
        wait_until(lambda: step_functions.BEGUN in self.progress, "the step is up")
        return self

    def start(self) -> Step:
        self._started = Started(self._executor, self.call)
        return self

    def outcome(self) -> Outcome:
        assert self._started is not None
        return self._started.outcome()

    def cancel(self, reason: CancelReason = CancelReason.STEP_CANCELLED) -> Outcome:
        self.call.token.cancel(reason)
        return self.outcome()

    def output_so_far(self) -> str:
        self._output += (self.call.output.take() or b"").decode()
        return self._output

    def output(self) -> str:
        return self.output_so_far() + output_of(self.call)


Make = Callable[..., Step]


@pytest.fixture(params=["thread", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(isolation: str, tmp_path: Path) -> Make:
    """Makes attempts under both isolations."""
    executor = make_executor(tmp_path)
    return lambda name, **fields: Step(executor, isolation, name, **fields)


@pytest.fixture
def isolated(tmp_path: Path) -> Iterator[Make]:
    """Makes attempts in processes, and sees to it that none is left."""
    executor = make_executor(tmp_path)
    steps: list[Step] = []

    def make(name: str, **fields: Any) -> Step:
        steps.append(Step(executor, "process", name, **fields))
        return steps[-1]

    yield make
    for step in steps:
        assert processes_of(step.call.key) == []


# --- Under both isolations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("nothing", None),
        ("mapping", {"rows": [1, 2], "deep": {"a": [None, True, 1.5]}}),
        ("text", "text"),
        ("no JSON", None),
        ("no number", None),
        ("set", None),
        ("large", None),
        ("huge", None),
        ("characters", "a\ufffdb \\u0000 \ufffd ü"),
        ("digits", 10**300),
        ("deep", None),
    ],
)
def test_a_result_is_kept_if_it_is_json(make: Make, what: str, result: object) -> None:
    """What a function returns becomes the result, or is dropped, without a word."""
    outcome = make("returns", parameters={"what": what}).run()
    assert outcome == Outcome(status=StepStatus.SUCCEEDED, result=result)


def test_an_exception_is_a_sentence_with_its_place(make: Make) -> None:
    """The message names the error and the line; the traceback shows the step's code alone."""
    step = make("looks_up")
    line = step_functions._vat_rate.__code__.co_firstlineno + 1
    assert step.run() == Outcome(
        status=StepStatus.FAILED,
        reason="exception",
        message=f"KeyError: 'vat_rate' (step_functions.py line {line})",
    )
    output = step.output()
    assert output.startswith("before\nTraceback (most recent call last):\n")
    assert output.endswith("KeyError: 'vat_rate'\n")
    assert "executions/engine" not in output


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("exit code", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("generator", "GeneratorExit"),
        ("memory", "MemoryError"),
        ("cancelled", "CancelledError"),
        ("stopped", "StepCancelled: by itself"),
        ("colours", "ValueError: two lines red"),
    ],
)
def test_whatever_is_raised_fails_the_step(make: Make, what: str, message: str) -> None:
    """Nothing that a step raises ends anything but the step."""
    outcome = make("raises", parameters={"what": what}).run()
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "exception")
    assert outcome.message.rpartition(" (")[0] == message


def test_long_messages_are_cut(make: Make) -> None:
    """A message stays within its limit."""
    outcome = make("raises", parameters={"what": "long"}).run()
    assert len(outcome.message) == MESSAGE_LIMIT


def test_sys_exit_without_an_error_is_a_success(make: Make) -> None:
    """A function that ends as a program does has done its work."""
    assert make("exits").run() == Outcome(status=StepStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("unheard_of", "unknown_step", "LookupError: no step is called unheard_of"),
        ("generates", "exception", "must not yield"),
        ("takes_nothing", "exception", "takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_function_that_cannot_be_called_fails(
    make: Make, name: str, reason: str, words: str
) -> None:
    """What is wrong with it is the message."""
    outcome = make(name).run()
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, reason)
    assert words in outcome.message


def test_a_step_knows_itself_and_what_it_was_given(make: Make) -> None:
    """Name, attempt, key, context and parameters are those of the call."""
    parameters = {"depth": {"levels": [1, 2.5, None, "ü"]}}
    context = {"workflow_id": 7, "dependencies": ["a"], "large": "x" * 900_000}
    step = make("describes_itself", parameters=parameters)
    step.call = replace(step.call, context=context, attempt=2)
    assert step.run().result == {
        "name": "entry",
        "attempt": 2,
        "key": step.call.key,
        "context": [7, ["a"], 900_000],
        "params": parameters,
    }


def test_context_and_parameters_are_read_only(make: Make) -> None:
    """A step cannot change what it was given, at any depth."""
    step = make("tries_to_change", parameters={"depth": {"levels": [1, 2]}})
    errors = ["AttributeError"] * 3
    assert step.run().result == [*errors, "mappingproxy", "tuple"]


def test_log_adds_lines(make: Make) -> None:
    """`log` puts its arguments together as `print` does, whatever they are, in order."""
    step = make("logs")
    assert step.run().status is StepStatus.SUCCEEDED
    first, second, cut, last = step.output().splitlines()
    assert (first, second, last) == ("three 3 None", "ü \ufffd b'bytes'", "last")
    assert cut.endswith("x … 183,616 bytes of this line cut …")


def test_output_comes_while_the_step_runs(make: Make, tmp_path: Path) -> None:
    """A line can be read as soon as it was logged."""
    gate = tmp_path / "gate"
    step = make("waits_at_the_gate", parameters={"gate": str(gate)}).start()
    wait_until(lambda: step.output_so_far() == "waiting\n", "the first line")
    gate.touch()
    assert step.outcome().status is StepStatus.SUCCEEDED
    assert step.output() == "waiting\nopen\n"


def test_progress_is_a_fraction(make: Make) -> None:
    """Progress arrives in order, between 0 and 1."""
    step = make("reports_progress")
    step.run()
    assert step.progress == [0, 0.25, 0.5, 1, 0]


def test_a_secret_is_masked_wherever_it_shows(make: Make) -> None:
    """In output, result and message; also of commands, and split over writes."""
    step = make("shows_its_secret")
    outcome = step.run()
    assert outcome.result == {"token": "•••", "length": len(SECRET)}
    lines = step.output().splitlines()
    assert lines == [f"token •••, reversed {SECRET[::-1]}", f"{SECRET[:5]} {SECRET[5:]}", "•••"]
    step = make("fails_with_its_secret")
    assert step.run().message.startswith("ValueError: ••• (")
    assert SECRET not in step.output()


def test_a_missing_secret_is_a_key_error(make: Make) -> None:
    """The step may catch it; else it names the secret."""
    step = make("wants_another_secret")
    assert step.run().message.startswith("KeyError: 'OTHER' (")
    assert step.output().startswith("missing OTHER\nTraceback")


def test_a_secret_that_is_too_short_is_announced_once(isolation: str, tmp_path: Path) -> None:
    """The output says in its place that nothing hides it."""
    executor = make_executor(tmp_path, secret=lambda name: "abc")
    step = Step(executor, isolation, "shows_its_secret")
    step.run()
    first, second, *_ = step.output().splitlines()
    assert first == "The secret TOKEN is too short to be masked."
    assert second == "token abc, reversed cba"


def test_threads_of_a_step_may_ask_at_once(make: Make) -> None:
    """Each gets the answer to its own question."""
    assert make("asks_from_threads").run().result == [SECRET[:2]] * 8


def test_context_variables_do_not_reach_the_next_step(make: Make) -> None:
    """Steps share nothing."""
    assert [make("sets_a_variable").run().result for _ in range(2)] == ["clean", "clean"]


@pytest.mark.parametrize(("reason", "status", "word"), ENDED_BY)
def test_a_step_that_heeds_the_request_tells_how(
    make: Make, reason: CancelReason, status: StepStatus, word: str
) -> None:
    """Status and reason are those of the request, and the step learned the reason as well."""
    step = make("tells_why", timeout_seconds=1.5).begin()
    outcome = step.cancel(reason)
    assert (outcome.status, outcome.reason) == (status, word)
    assert step.output() == f"{reason}\n"
    if reason is CancelReason.TIMEOUT:
        assert outcome.message.startswith("not finished after 1.5 s")


@pytest.mark.parametrize("name", ["sleeps", "checks", "awaits"])
def test_a_cancel_is_no_error(make: Make, name: str) -> None:
    """However a step looks for it, it ends CANCELLED, without a traceback."""
    step = make(name).begin()
    outcome = step.cancel()
    assert (outcome.status, outcome.reason) == (StepStatus.CANCELLED, "step_cancelled")
    assert step.output() == ""


def test_a_success_after_the_request_stays_a_success(make: Make) -> None:
    """What was done is done, also after some cleaning up."""
    step = make("succeeds_all_the_same").begin()
    outcome = step.cancel()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, "done")
    assert outcome.message == ""
    assert step.output() == "cleaning up\n"


def test_an_error_after_the_request_is_a_cancel(make: Make) -> None:
    """The step ended because of the request; the error is told nevertheless."""
    step = make("breaks_when_stopped").begin()
    outcome = step.cancel(CancelReason.RUN_CANCELLED)
    assert (outcome.status, outcome.reason) == (StepStatus.CANCELLED, "run_cancelled")
    assert "ConnectionError: gone" in outcome.message
    assert "ConnectionError: gone" in step.output()


def test_async_steps_return_results_and_raise_errors(make: Make) -> None:
    """An `async def` step is a step like any other."""
    assert make("returns_later").run().result == 5
    step = make("raises_later")
    assert step.run().message.startswith("KeyError: 'x' (step_functions.py line")
    assert "asyncio" not in step.output()


def test_commands_of_a_step_return_and_fail(make: Make) -> None:
    """`run` gives output and exit code, and what it wrote is output of the step."""
    step = make("runs_commands")
    assert step.run().result == [3, "out\nerr\nx\n", "sh: exit code 2: no such table", 2]
    assert step.output() == "out\nerr\nx\nno such table\n"


def test_a_command_of_a_step_can_time_out(make: Make) -> None:
    """Its tree is ended, and the step goes on."""
    step = make("times_out_a_command", grace_seconds=1)
    assert step.run().result == "sh: not finished after 0.1 s"
    assert step.output() == "up\n"


def test_commands_of_a_step_end_with_it(make: Make) -> None:
    """When a step that runs a command is cancelled, the command's tree is gone."""
    step = make("runs_a_long_command", grace_seconds=2).start()
    wait_until(lambda: step.output_so_far() == "up\n", "the command is up")
    assert step.cancel().status is StepStatus.CANCELLED
    assert processes_of(step.call.key) == []


def test_a_step_whose_token_has_fired_does_not_begin(make: Make) -> None:
    """A request that overtook the START ends the step before anything of it ran."""
    step = make("raises", parameters={"what": "memory"})
    step.call.token.cancel(CancelReason.STEP_CANCELLED)
    outcome = step.run()
    assert outcome.status is StepStatus.CANCELLED
    assert "nothing of it had begun" in outcome.message


# --- Only in a process ----------------------------------------------------------------------------


def test_its_process_is_ended_as_commands_are(tmp_path: Path) -> None:
    """The dialog forecasts signals, and there is time to prove the tree empty."""
    executor = make_executor(tmp_path)
    thread, process = (
        make_call({"isolation": isolation}, grace_seconds=5).step
        for isolation in ("thread", "process")
    )
    assert (executor.stop_seconds(thread), executor.stop_seconds(process)) == (5, 20)
    assert "abandoned" in executor.forecast(thread)
    assert "SIGKILL" in executor.forecast(process)
    assert executor.forecast(replace(process, protected=True)).startswith("Protected")


def test_what_the_process_writes_is_output_in_order(isolated: Make) -> None:
    """`print`, stderr and children share the step's output with `log`."""
    step = isolated("prints")
    step.run()
    assert step.output() == "printed logged\nto stderr\nfrom a shell\nlast\n"


def test_the_process_knows_no_secret_that_it_did_not_ask_for(
    isolated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret is in its environment or argv, not even one that it was given."""
    monkeypatch.setenv("STEPSITE_SECRET_OTHER", "of no concern")
    result = isolated("tells_its_surroundings").run().result
    assert set(result.pop("variables")) == {
        "PATH",
        "LANG",
        "PYTHONUNBUFFERED",
        "STEPSITE_STEP",
    }
    assert result == {"leak": False, "directory": str(Path.cwd()), "main": True, "stdin": ""}


def test_a_step_that_is_stopped_has_a_receipt(isolated: Make) -> None:
    """The same proof as for commands, also if the step ended by itself when it was asked to."""
    outcome = isolated("sleeps").begin().cancel()
    assert outcome.receipt is not None
    assert (outcome.receipt["signals"], outcome.receipt["proven_empty"]) == (["SIGTERM"], True)
    assert outcome.message == "cancelled; 1 process ended with SIGTERM"


@pytest.mark.parametrize(
    "name", ["blocks_signals", "ignores_signals", "loops_in_c", "swallows_everything"]
)
def test_a_stubborn_step_is_killed(isolated: Make, name: str) -> None:
    """After its grace nothing can keep it alive, and its slot is free again."""
    step = isolated(name, grace_seconds=0.3, timeout_seconds=2).begin()
    outcome = step.cancel(CancelReason.TIMEOUT)
    assert (outcome.status, outcome.reason) == (StepStatus.TIMED_OUT, "timeout")
    assert outcome.message == "not finished after 2 s; 1 process ended with SIGTERM and SIGKILL"


@pytest.mark.parametrize("level", [trees.KillLevel.SUBREAPER, trees.KillLevel.SWEEP])
def test_everything_that_a_step_started_ends_with_it(
    isolated: Make, level: trees.KillLevel, request: pytest.FixtureRequest
) -> None:
    """Forks, orphans and sessions of their own do not help."""
    if level is trees.KillLevel.SUBREAPER:
        request.getfixturevalue("subreaper")
    step = isolated("spreads", grace_seconds=0.3).begin()
    outcome = step.cancel()
    assert outcome.status is StepStatus.CANCELLED
    assert outcome.receipt is not None
    assert outcome.receipt["processes"] >= 6
    assert processes_of(step.call.key) == []


def test_an_unproven_cancel_is_an_interruption(
    isolated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CANCELLED needs proof."""
    monkeypatch.setattr(trees.Tree, "unknown", lambda self: [4711])
    outcome = isolated("sleeps").begin().cancel()
    assert (outcome.status, outcome.reason) == (StepStatus.INTERRUPTED, "step_cancelled")
    assert "4711" in outcome.message


@pytest.mark.parametrize(
    ("name", "code", "reason", "message"),
    [
        ("ends_the_process", 3, "exit_code", "exit code 3 before the step returned; last line:"),
        ("ends_the_process", 0, "exit_code", "exit code 0 before the step returned; last line:"),
        ("segfaults", -11, "signal", "its process ended by SIGSEGV before the step returned"),
        ("kills_itself", -9, "signal", "its process ended by SIGKILL before the step returned"),
    ],
)
def test_a_process_that_dies_fails_its_step_alone(
    isolated: Make, name: str, code: int, reason: str, message: str
) -> None:
    """The message says how it died, and what died says where, if it can."""
    step = isolated(name, parameters={"code": code})
    outcome = step.run()
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, reason)
    assert outcome.exit_code == code
    assert message in outcome.message
    if name == "segfaults":
        assert re.search(r"step_functions\.py.* in segfaults", step.output())


def test_a_sigterm_from_elsewhere_is_heeded(isolated: Make) -> None:
    """Somebody on the machine may end a step; that is no cancel."""
    outcome = isolated("is_sent_sigterm").run()
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "signal")
    assert outcome.message == "ended by a SIGTERM that was not the worker's"


def test_what_a_step_leaves_running_is_ended(isolated: Make) -> None:
    """The result stands, and the message says that something was ended."""
    outcome = isolated("leaves_something").run()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, "done")
    assert outcome.message == "it left something running: 1 process ended with SIGTERM"


def test_a_thread_that_a_step_leaves_cannot_hold_its_slot(isolated: Make) -> None:
    """The function has returned, so the step is over."""
    outcome = isolated("leaves_a_thread", timeout_seconds=3600).run()
    assert outcome == Outcome(status=StepStatus.SUCCEEDED, result="done")


@pytest.mark.parametrize(
    ("name", "result"), [("returns_twice", "step"), ("dies_after_returning", "done")]
)
def test_the_first_word_of_the_step_itself_counts(isolated: Make, name: str, result: str) -> None:
    """A fork that returns as well, or a crash on the way out, changes nothing."""
    outcome = isolated(name).run()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, result)


def test_what_a_step_forks_can_be_ended_by_it(isolated: Make) -> None:
    """The handler of the step's own SIGTERM is not for its forks, nor are their signals for it."""
    outcome = isolated("ends_a_process_of_its_own").run()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, -15)


def test_a_large_context_arrives(make: Make) -> None:
    """Its JSON has three times the bytes here."""
    size = 1_000_000
    outcome = make("measures_its_context", context={"text": "ж" * size}).run()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, size)


@pytest.mark.parametrize("what", step_functions.NONSENSE)
def test_nonsense_on_the_channel_hurts_nobody(isolated: Make, what: str) -> None:
    """The step's code can reach the channel; what makes no sense there is skipped."""
    step = isolated("writes_to_the_channel", parameters={"what": what})
    outcome = step.run()
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, "done")
    assert step.progress == [step_functions.BEGUN]


def test_a_step_without_a_channel_fails(isolated: Make) -> None:
    """Nobody knows what became of it."""
    outcome = isolated("closes_everything").run()
    assert outcome.status is StepStatus.FAILED
    assert "before the step returned" in outcome.message


def test_log_needs_no_standard_output(isolated: Make) -> None:
    """A step may close or redirect the standard streams."""
    step = isolated("closes_its_output")
    assert step.run().result == "done"
    assert step.output() == "still heard\n"


@pytest.mark.parametrize("name", ["talks_for_ever", "prints_for_ever"])
def test_a_step_that_never_stops_talking_can_be_cancelled(isolated: Make, name: str) -> None:
    """It waits for the worker, not the worker for it."""
    step = isolated(name, grace_seconds=0.2).begin()
    assert step.cancel().status is StepStatus.CANCELLED


def test_a_huge_message_does_not_hide_the_error(isolated: Make) -> None:
    """Its name and its place in the traceback are kept."""
    outcome = isolated("has_a_huge_message").run()
    assert re.fullmatch(r"ValueError: \(its message has 9,000,0\d\d characters\)", outcome.message)


def test_a_program_that_does_not_start_fails_the_step(tmp_path: Path) -> None:
    """The message tells which, or that there is none; what it printed last helps."""
    for isolated, message in (
        ([], "this worker cannot run steps in processes of their own"),
        (["/no/such/python"], "cannot run '/no/such/python': No such file or directory"),
        (
            [sys.executable, "-c", "raise ValueError('no settings')"],
            "its process ended with exit code 1 before the step returned; "
            "last line: ValueError: no settings",
        ),
    ):
        outcome = Step(make_executor(tmp_path, isolated=isolated), "process", "sleeps").run()
        assert (outcome.status, outcome.message) == (StepStatus.FAILED, message)


def test_a_cancel_while_the_program_starts_ends_it(tmp_path: Path) -> None:
    """Also before anything there can listen."""
    deaf = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
    step = Step(make_executor(tmp_path, isolated=deaf), "process", "sleeps").start()
    wait_until(lambda: step.output_so_far() == "up\n", "the program is up")
    assert step.cancel().message == "cancelled; 1 process ended with SIGTERM"


def test_many_steps_leave_nothing_in_the_worker(isolated: Make) -> None:
    """Neither descriptors nor threads."""
    isolated("prints").run()
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for name in ("prints", "closes_everything", "writes_to_the_channel"):
        isolated(name, parameters={"what": "endless"}).run()
    after = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    assert after == before


WORKER = """
import sys
from pathlib import Path
from tests.unit.test_isolated import Step, make_executor
step = Step(make_executor(Path(sys.argv[1])), "process", "spreads", grace_seconds=60)
step.call.output._on_dirty = lambda: print(step.call.key, flush=True)
step.run()
"""


def test_a_step_dies_with_its_worker(tmp_path: Path) -> None:
    """However the worker goes, nothing of the step is left."""
    argv = [sys.executable, "-c", WORKER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        key = worker.stdout.readline().strip()
        wait_until(lambda: len(processes_of(key)) >= 6, "the step has spread")
        worker.kill()
    wait_until(lambda: processes_of(key) == [], "the end of its processes")
