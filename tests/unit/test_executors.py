from __future__ import annotations

import asyncio
import contextvars
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from executions.engine.cancellation import CancelReason
from executions.engine.context import StepContext
from executions.engine.executors import (
    Call,
    Executor,
    ExecutorRegistry,
    ExecutorSettings,
    default_executors,
)
from executions.engine.outcomes import MESSAGE_LIMIT, Outcome
from executions.engine.status import StepStatus
from tests.unit.calls import (
    DEADLINE,
    Started,
    make_call,
    make_settings,
    output_of,
    processes_of,
    wait_until,
)

ENDED_BY = [
    (CancelReason.STEP_CANCELLED, StepStatus.CANCELLED, "step_cancelled"),
    (CancelReason.RUN_CANCELLED, StepStatus.CANCELLED, "run_cancelled"),
    (CancelReason.TIMEOUT, StepStatus.TIMED_OUT, "timeout"),
    (CancelReason.SHUTDOWN, StepStatus.INTERRUPTED, "worker_stopped"),
    (CancelReason.FENCED, StepStatus.INTERRUPTED, "worker_stopped"),
]
KINDS = ["python", "command", "http", "management"]


@pytest.fixture
def settings(tmp_path: Path) -> ExecutorSettings:
    manage = tmp_path / "manage.py"
    manage.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'argv': sys.argv[1:], 'site': os.environ.get('SITE')}))\n"
    )
    return make_settings(
        tmp_path,
        manage=[sys.executable, str(manage)],
        management_environment={"PATH": os.environ["PATH"], "SITE": "here"},
    )


@pytest.fixture
def executors(settings: ExecutorSettings) -> ExecutorRegistry:
    return default_executors(settings)


def run_function(
    function: Callable[..., Any], tmp_path: Path, call: Call | None = None, **fields: Any
) -> Outcome:
    settings = make_settings(tmp_path, resolve=lambda name: function, **fields)
    return default_executors(settings).get("python").run(call or make_call())


def run_command(executors: ExecutorRegistry, *argv: str, **target: Any) -> tuple[Outcome, str]:
    call = make_call({"argv": list(argv), **target})
    outcome = executors.get("command").run(call)
    return outcome, output_of(call)


# --- Every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reason", "status", "word"), ENDED_BY)
def test_a_step_whose_token_has_fired_does_not_begin(
    executors: ExecutorRegistry, kind: str, reason: CancelReason, status: StepStatus, word: str
) -> None:
    """A request that overtook the START ends the step before anything of it ran."""
    call = make_call()
    call.token.cancel(reason)
    outcome = executors.get(kind).run(call)
    assert (outcome.status, outcome.reason) == (status, word)
    assert "nothing of it had begun" in outcome.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_that_makes_no_sense_fails(executors: ExecutorRegistry, kind: str) -> None:
    """No target can make an executor raise."""
    for target in ({}, {"argv": 3}, {"argv": [None]}, {"url": 7}, {"command": ["a"]}, {"env": 1}):
        outcome = executors.get(kind).run(make_call(target))
        assert outcome.status is StepStatus.FAILED
        assert outcome.message


@pytest.mark.parametrize("kind", KINDS)
def test_the_forecast_is_a_sentence(executors: ExecutorRegistry, kind: str) -> None:
    """The cancel dialog can say what will happen, also to protected steps."""
    executor = executors.get(kind)
    assert executor.forecast(make_call().step).endswith(".")
    protected = make_call(protected=True, timeout_seconds=90).step
    assert executor.forecast(protected) == (
        "Protected: it goes on, only its timeout of 90 s ends it."
    )


def test_processes_may_take_longer_to_stop_than_threads(executors: ExecutorRegistry) -> None:
    """A thread is abandoned after its grace; a process tree is given time to be proven empty."""
    step = make_call(grace_seconds=5).step
    seconds = {kind: executors.get(kind).stop_seconds(step) for kind in KINDS}
    assert seconds == {"python": 5, "http": 5, "command": 20, "management": 20}


def test_an_unknown_kind_fails_and_says_so() -> None:
    """A worker that lacks a kind does not die of it; a project can add its own."""
    registry = ExecutorRegistry()
    outcome = registry.get("quantum").run(make_call())
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "unknown_kind")
    assert "'quantum'" in outcome.message

    class Own:
        def run(self, call: Call) -> Outcome:
            return Outcome(status=StepStatus.SUCCEEDED)

        def stop_seconds(self, step: object) -> float | None:
            return None

        def forecast(self, step: object) -> str:
            return "Nothing."

    own: Executor = Own()
    registry.register("quantum", own)
    assert registry.get("quantum") is own


# --- Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        (None, None),
        ({"rows": (1, 2)}, {"rows": [1, 2]}),
        ("text", "text"),
        (object(), None),
        (float("nan"), None),
        ({1, 2}, None),
        ("x" * 70_000, None),
        ("a\0b \\u0000 \ud800", "a\ufffdb \\u0000 \ufffd"),
    ],
)
def test_a_result_is_kept_if_it_is_json(tmp_path: Path, returned: object, result: object) -> None:
    """What a function returns becomes the result, in a form that every database takes."""
    outcome = run_function(lambda ctx: returned, tmp_path)
    assert outcome.status is StepStatus.SUCCEEDED
    assert outcome.result == result


def test_context_and_parameters_can_be_returned(tmp_path: Path) -> None:
    """Read-only mappings are JSON again in the result."""
    call = make_call(parameters={"a": {"b": [1]}})
    assert run_function(lambda ctx: ctx.params, tmp_path, call).result == {"a": {"b": [1]}}


def test_an_exception_is_a_sentence_with_its_place(tmp_path: Path) -> None:
    """The message names the error and the line; the traceback shows the step's code alone."""

    def rates(table: Mapping[str, int]) -> int:
        return table["vat_rate"]

    def function(ctx: StepContext) -> None:
        ctx.log("before")
        rates({})

    call = make_call()
    outcome = run_function(function, tmp_path, call)
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "exception")
    line = rates.__code__.co_firstlineno + 1
    assert outcome.message == f"KeyError: 'vat_rate' (test_executors.py line {line})"
    output = output_of(call)
    assert output.startswith("before\nTraceback (most recent call last):\n")
    assert output.endswith("KeyError: 'vat_rate'\n")
    assert "executions/engine" not in output


class BrokenError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (MemoryError(), "MemoryError"),
        (asyncio.CancelledError(), "CancelledError"),
        (BrokenError(), "BrokenError: (its message cannot be shown)"),
        (ValueError("two\nlines \x1b[31mred\x1b[0m \u202e"), "ValueError: two lines red"),
    ],
)
def test_whatever_is_raised_fails_the_step(
    tmp_path: Path, error: BaseException, message: str
) -> None:
    """Nothing that a step raises reaches the slot's thread."""

    def function(ctx: StepContext) -> None:
        raise error

    outcome = run_function(function, tmp_path)
    assert outcome.status is StepStatus.FAILED
    assert outcome.message.rpartition(" (")[0] == message


def test_sys_exit_without_an_error_is_a_success(tmp_path: Path) -> None:
    """A function that ends as a program does has done its work."""
    assert run_function(lambda ctx: sys.exit(), tmp_path).status is StepStatus.SUCCEEDED


def test_long_messages_are_cut(tmp_path: Path) -> None:
    """A message stays within its limit."""

    def function(ctx: StepContext) -> None:
        raise ValueError("x" * 5000)

    assert len(run_function(function, tmp_path).message) == MESSAGE_LIMIT


def test_a_function_that_takes_no_context_fails(tmp_path: Path) -> None:
    """The error of the call itself needs no traceback."""
    outcome = run_function(lambda: None, tmp_path)
    assert "takes 0 positional arguments but 1 was given" in outcome.message


def test_a_generator_function_fails(tmp_path: Path) -> None:
    """A step that yields would never run; it must not look as if it had."""

    def function(ctx: StepContext) -> Any:
        yield 1

    assert "must not yield" in run_function(function, tmp_path).message


def test_a_missing_function_fails_and_says_why(tmp_path: Path) -> None:
    """The registry's sentence is the step's message."""

    def resolve(name: str) -> Callable[..., Any]:
        raise LookupError(f"no step is called {name}")

    executors = default_executors(make_settings(tmp_path, resolve=resolve))
    outcome = executors.get("python").run(make_call())
    assert (outcome.reason, outcome.message) == (
        "unknown_step",
        "LookupError: no step is called step",
    )


def test_secrets_stay_out_of_message_result_and_output(tmp_path: Path) -> None:
    """A secret that a step has read is masked wherever the step could show it."""

    def fails(ctx: StepContext) -> None:
        raise ValueError(ctx.secret("TOKEN"))

    call = make_call()
    outcome = run_function(fails, tmp_path, call)
    assert outcome.message.startswith("ValueError: ••• (")
    assert "s3cr3t" not in output_of(call)
    outcome = run_function(lambda ctx: {"token": ctx.secret("TOKEN")}, tmp_path)
    assert outcome.result == {"token": "•••"}


def test_connections_are_cleaned_up_after_each_step(tmp_path: Path) -> None:
    """The cleanup runs in the step's thread, also after a failure, and cannot fail the step."""
    threads: list[int] = []

    def cleanup() -> None:
        threads.append(threading.get_ident())
        raise ConnectionError

    def function(ctx: StepContext) -> None:
        raise ValueError

    run_function(function, tmp_path, connection_cleanup=cleanup)
    outcome = run_function(lambda ctx: None, tmp_path, connection_cleanup=cleanup)
    assert outcome.status is StepStatus.SUCCEEDED
    assert threads == [threading.get_ident()] * 2


def test_context_variables_do_not_reach_the_next_step(tmp_path: Path) -> None:
    """Steps that share a thread share nothing else."""
    variable = contextvars.ContextVar("variable", default="clean")
    assert run_function(lambda ctx: variable.set("dirty") and None, tmp_path).result is None
    assert run_function(lambda ctx: variable.get(), tmp_path).result == "clean"


@pytest.mark.parametrize(("reason", "status", "word"), ENDED_BY)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_python_step_that_heeds_the_request_is_proven_ended(
    tmp_path: Path, is_async: bool, reason: CancelReason, status: StepStatus, word: str
) -> None:
    """A sleeping function and an awaiting one end at once, with the reason of the request."""
    begun = threading.Event()

    def sleeps(ctx: StepContext) -> None:
        begun.set()
        ctx.sleep(60)

    async def awaits(ctx: StepContext) -> None:
        begun.set()
        await asyncio.sleep(60)

    function = awaits if is_async else sleeps
    settings = make_settings(tmp_path, resolve=lambda name: function)
    call = make_call(timeout_seconds=1.5)
    started = Started(default_executors(settings).get("python"), call)
    assert begun.wait(DEADLINE)
    call.token.cancel(reason)
    outcome = started.outcome()
    assert (outcome.status, outcome.reason) == (status, word)
    assert output_of(call) == "", "a cancel is no error and needs no traceback"
    if reason is CancelReason.TIMEOUT:
        assert outcome.message == "not finished after 1.5 s"


def test_a_success_after_the_request_stays_a_success(tmp_path: Path) -> None:
    """What was done is done."""
    call = make_call()

    def function(ctx: StepContext) -> str:
        call.token.cancel(CancelReason.STEP_CANCELLED)
        return "done"

    outcome = run_function(function, tmp_path, call)
    assert (outcome.status, outcome.result) == (StepStatus.SUCCEEDED, "done")


def test_an_error_after_the_request_is_a_cancel(tmp_path: Path) -> None:
    """The step ended because of the request; the error is told nevertheless."""
    call = make_call()

    def function(ctx: StepContext) -> None:
        call.token.cancel(CancelReason.RUN_CANCELLED)
        raise ConnectionError("gone")

    outcome = run_function(function, tmp_path, call)
    assert (outcome.status, outcome.reason) == (StepStatus.CANCELLED, "run_cancelled")
    assert "ConnectionError: gone" in outcome.message
    assert "ConnectionError: gone" in output_of(call)


def test_async_steps_return_results_and_raise_errors(tmp_path: Path) -> None:
    """An `async def` step is a step like any other."""

    async def works(ctx: StepContext) -> int:
        await asyncio.sleep(0)
        return 5

    async def breaks(ctx: StepContext) -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    assert run_function(works, tmp_path).result == 5
    call = make_call()
    outcome = run_function(breaks, tmp_path, call)
    assert outcome.message.startswith("KeyError: 'x' (test_executors.py line")
    assert "asyncio" not in output_of(call)


def test_a_token_that_fires_after_an_async_step_disturbs_nobody(tmp_path: Path) -> None:
    """Its loop is closed by then; the coordinator must not hear of that."""

    async def works(ctx: StepContext) -> None:
        pass

    call = make_call()
    run_function(works, tmp_path, call)
    assert call.token.cancel(CancelReason.TIMEOUT)


def test_a_python_step_ends_its_commands_before_it_ends(tmp_path: Path) -> None:
    """When a step that runs a command is cancelled, the command's tree is gone."""
    settings = make_settings(
        tmp_path, resolve=lambda name: lambda ctx: ctx.run(["sh", "-c", "sleep 60 & sleep 60"])
    )
    call = make_call(grace_seconds=5)
    started = Started(default_executors(settings).get("python"), call)
    wait_until(lambda: len(processes_of(call.key)) == 3, "the command is up")
    call.token.cancel(CancelReason.STEP_CANCELLED)
    assert started.outcome().status is StepStatus.CANCELLED
    assert processes_of(call.key) == []


# --- Commands -------------------------------------------------------------------------------------


def test_a_command_succeeds_with_exit_code_0(executors: ExecutorRegistry) -> None:
    """Output goes to the step's output; there is nothing to say and no receipt."""
    outcome, output = run_command(executors, "echo", "hello")
    assert outcome == Outcome(status=StepStatus.SUCCEEDED, exit_code=0)
    assert output == "hello\n"


@pytest.mark.parametrize(
    ("script", "accepted", "message"),
    [
        ("exit 2", None, "exit code 2; accepted: 0"),
        ("exit 0", [3, 4], "exit code 0; accepted: 3, 4"),
        (
            "echo one; echo no such table; echo; exit 1",
            None,
            "exit code 1; accepted: 0; last line: no such table",
        ),
        (
            "printf '\\033[31mred\\033[0m\\n'; exit 1",
            None,
            "exit code 1; accepted: 0; last line: red",
        ),
        ("head -c 999 /dev/zero | tr '\\0' x; exit 1", None, "exit code 1; accepted: 0"),
        ("kill -SEGV $$", None, "ended by SIGSEGV; accepted: 0"),
    ],
)
def test_another_exit_code_fails_with_a_reason(
    executors: ExecutorRegistry, script: str, accepted: list[int] | None, message: str
) -> None:
    """The message tells code, accepted codes and the last short line."""
    target = {"exit_codes": accepted} if accepted else {}
    outcome, _ = run_command(executors, "sh", "-c", script, **target)
    assert outcome.status is StepStatus.FAILED
    assert outcome.message == message
    assert outcome.reason == ("signal" if "kill" in script else "exit_code")


def test_other_exit_codes_can_be_accepted(executors: ExecutorRegistry) -> None:
    """`grep` that finds nothing need not be a failure."""
    outcome, _ = run_command(executors, "sh", "-c", "exit 1", exit_codes=[0, 1])
    assert (outcome.status, outcome.exit_code) == (StepStatus.SUCCEEDED, 1)


INJECTIONS = ["; touch x", "$(id)", "`id`", "a b", "-rf", "", "'", '"', "{other}", "\n", "ü\u202e"]


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_parameter_is_one_argument_byte_for_byte(executors: ExecutorRegistry, value: str) -> None:
    """No character of a parameter means anything; it is never put inside other text."""
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    argv = [sys.executable, "-c", show, "{name}", "x{name}", "{ name }", "{}"]
    call = make_call({"argv": argv}, parameters={"name": value, "other": "no"})
    executors.get("command").run(call)
    assert json.loads(output_of(call)) == [value, "x{name}", "{ name }", "{}"]


def test_a_parameter_that_is_no_text_becomes_json(executors: ExecutorRegistry) -> None:
    """Numbers, lists and null have one form."""
    values = {"number": 5, "list": ["ä", None], "flag": True}
    call = make_call({"argv": ["echo", "{number}", "{list}", "{flag}"]}, parameters=values)
    executors.get("command").run(call)
    assert output_of(call) == '5 ["ä", null] true\n'


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["echo", "{missing}"], "parameter 'missing' is missing"),
        (["echo", "{nul}"], "NUL"),
        (["echo", "{lone}"], "not valid Unicode"),
        (["echo", 5], "argument 5 is no text"),
        ([], "argv is empty"),
        ([""], "argv is empty"),
        (["no-such-program"], "no such program in PATH"),
    ],
)
def test_a_command_that_cannot_start_fails(
    executors: ExecutorRegistry, argv: list[Any], words: str
) -> None:
    """The message names what is wrong."""
    call = make_call({"argv": argv}, parameters={"nul": "a\0b", "lone": "\ud800"})
    outcome = executors.get("command").run(call)
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "cannot_start")
    assert words in outcome.message


def test_the_context_is_a_private_file_that_goes_with_the_step(
    executors: ExecutorRegistry, settings: ExecutorSettings
) -> None:
    """It holds the run's context as JSON; file and directory belong to the worker alone."""
    script = (
        "cat $STEPSITE_CONTEXT; echo; stat -c %a $STEPSITE_CONTEXT .; pwd; mkdir -p a/b; touch a/c"
    )
    call = make_call({"argv": ["sh", "-c", script]}, context={"workflow_id": "ä\ud800"})
    executors.get("command").run(call)
    context, file_mode, directory_mode, directory = output_of(call).splitlines()
    assert json.loads(context) == {"workflow_id": "ä\ud800"}
    assert (file_mode, directory_mode) == ("600", "700")
    assert Path(directory).parent == settings.work_dir
    assert list(settings.work_dir.iterdir()) == []


def test_a_directory_is_used_again_only_if_it_is_clean(
    executors: ExecutorRegistry, settings: ExecutorSettings
) -> None:
    """No step ever finds files of another."""
    holder = Started(executors.get("command"), make_call({"argv": ["sleep", "60"]}))
    scripts = ["touch file", "chmod 755 .", "rm $STEPSITE_CONTEXT", "true"]
    for script in [*scripts, *scripts]:
        _, output = run_command(executors, "sh", "-c", f"ls; stat -c %a .; {script}")
        assert output == "context.json\n700\n"
    holder.call.token.cancel(CancelReason.STEP_CANCELLED)
    holder.outcome()
    assert list(settings.work_dir.iterdir()) == []


def test_a_directory_can_be_chosen(executors: ExecutorRegistry, tmp_path: Path) -> None:
    """A chosen directory stays as it is; a missing one is named."""
    outcome, output = run_command(executors, "sh", "-c", "pwd; touch kept", cwd=str(tmp_path))
    assert output == f"{tmp_path}\n"
    assert (tmp_path / "kept").exists()
    outcome, _ = run_command(executors, "true", cwd="/no/such/place")
    assert "'/no/such/place'" in outcome.message


def test_the_environment_is_what_the_settings_and_the_target_say(
    executors: ExecutorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the worker's environment is inherited, and nobody can forge the cookie."""
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    call = make_call({"argv": ["env"], "env": {"EXTRA": "1", "STEPSITE_STEP": "forged"}})
    executors.get("command").run(call)
    variables = dict(line.split("=", 1) for line in output_of(call).splitlines())
    assert variables.keys() == {"PATH", "LANG", "EXTRA", "STEPSITE_STEP", "STEPSITE_CONTEXT"}
    assert variables["STEPSITE_STEP"] == call.key


def test_secrets_reach_the_environment_and_nothing_else(executors: ExecutorRegistry) -> None:
    """A secret is a variable of the command and masked in output and message."""
    script = 'echo "${#TOKEN} $TOKEN"; exit 1'
    outcome, output = run_command(executors, "sh", "-c", script, secret_env=["TOKEN"])
    assert output == "12 •••\n"
    assert outcome.message.endswith("last line: 12 •••")


def test_a_missing_secret_fails_the_step(executors: ExecutorRegistry) -> None:
    """The step does not start without its secret."""
    outcome, _ = run_command(executors, "true", secret_env=["OTHER"])
    assert "secret 'OTHER' is not set" in outcome.message


@pytest.mark.parametrize(("reason", "status", "word"), ENDED_BY)
def test_a_command_that_is_stopped_tells_how(
    executors: ExecutorRegistry, reason: CancelReason, status: StepStatus, word: str
) -> None:
    """Status and reason are those of the request, the receipt those of the end."""
    call = make_call({"argv": ["sh", "-c", "sleep 60 & sleep 60"]}, grace_seconds=5)
    started = Started(executors.get("command"), call)
    wait_until(lambda: len(processes_of(call.key)) == 3, "the command is up")
    call.token.cancel(reason)
    outcome = started.outcome()
    assert (outcome.status, outcome.reason) == (status, word)
    assert outcome.message.endswith("; 3 processes ended with SIGTERM")
    assert outcome.receipt is not None
    assert outcome.receipt["proven_empty"]
    assert processes_of(call.key) == []


def test_an_unproven_cancel_is_an_interruption(
    executors: ExecutorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CANCELLED needs proof."""
    from executions.engine.trees import Tree

    monkeypatch.setattr(Tree, "unknown", lambda self: [4711])
    call = make_call({"argv": ["sleep", "60"]})
    started = Started(executors.get("command"), call)
    wait_until(lambda: processes_of(call.key), "the command is up")
    call.token.cancel(CancelReason.STEP_CANCELLED)
    outcome = started.outcome()
    assert (outcome.status, outcome.reason) == (StepStatus.INTERRUPTED, "step_cancelled")
    assert "4711" in outcome.message


def test_what_a_command_leaves_running_is_told(executors: ExecutorRegistry) -> None:
    """Success stands, and the message says that something had to be ended."""
    outcome, _ = run_command(executors, "sh", "-c", "sleep 60 &")
    assert outcome.status is StepStatus.SUCCEEDED
    assert outcome.message == "it left something running: 1 process ended with SIGTERM"


def test_a_cancel_during_much_output_is_quick(executors: ExecutorRegistry) -> None:
    """A noisy step can be cancelled, and its output stays within its limit."""
    call = make_call({"argv": ["yes"]})
    started = Started(executors.get("command"), call)
    wait_until(lambda: call.output.cut_bytes, "more output than is kept")
    begun = time.monotonic()
    call.token.cancel(CancelReason.STEP_CANCELLED)
    assert started.outcome().status is StepStatus.CANCELLED
    assert time.monotonic() - begun < 2
    assert len(output_of(call)) < 10 * 1024 * 1024 + 100


# --- Management commands --------------------------------------------------------------------------


def test_a_management_command_gets_its_arguments(executors: ExecutorRegistry) -> None:
    """manage.py is called with the command, its arguments, and the site's environment."""
    target = {"command": "clearsessions", "args": ["--verbosity", "{level}"]}
    call = make_call(target, parameters={"level": 2})
    outcome = executors.get("management").run(call)
    assert outcome.status is StepStatus.SUCCEEDED
    assert json.loads(output_of(call)) == {
        "argv": ["clearsessions", "--verbosity", "2"],
        "site": "here",
    }


@pytest.mark.parametrize("name", [None, "", "--settings=evil", 5])
def test_a_management_command_needs_a_name(executors: ExecutorRegistry, name: object) -> None:
    """An option is no command."""
    outcome = executors.get("management").run(make_call({"command": name}))
    assert (outcome.status, outcome.reason) == (StepStatus.FAILED, "cannot_start")
