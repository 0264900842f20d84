"""Runs commands: argv, never a shell string."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from executions.engine import processes
from executions.engine.context import last_line
from executions.engine.errors import CannotStart
from executions.engine.outcomes import Outcome
from executions.engine.plan import PlannedStep
from executions.engine.processes import STOP_MARGIN_SECONDS, Command, Ended, WakeUp
from executions.engine.status import StepStatus

from . import verdicts
from .call import Call, ExecutorSettings
from .workspace import Workspaces, context_file

logger = logging.getLogger(__name__)

CONTEXT_VARIABLE = "STEPSITE_CONTEXT"
"""Names a file with the run's context as JSON."""
_STOPPED = (StepStatus.CANCELLED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED)
_PARAMETER = re.compile(r"\{(\w[\w.-]*)\}")


def substitute(text: str, parameters: Mapping[str, Any]) -> str:
    """`text`, or the parameter that it names if all of it is `{name}`.

    A parameter that is no string becomes JSON. It is never put inside other text. Raises
    `CannotStart` if there is no such parameter.
    """
    match = _PARAMETER.fullmatch(text)
    if match is None:
        return text
    try:
        value = parameters[match[1]]
    except KeyError:
        raise CannotStart(f"parameter {match[1]!r} is missing; {text} stands for it") from None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def arguments(values: Iterable[Any], parameters: Mapping[str, Any]) -> list[str]:
    """The argv that `values` describe. Raises `CannotStart`."""
    argv = []
    for value in values:
        if not isinstance(value, str):
            raise CannotStart(f"argument {value!r} is no text; write it in quotes")
        argument = substitute(value, parameters)
        if "\0" in argument:
            raise CannotStart(f"{value!r} holds a NUL character, which no argument can")
        argv.append(argument)
    if not argv or not argv[0]:
        raise CannotStart("argv is empty; its first element is the program to run")
    return argv


class CommandExecutor:
    """Runs `argv` in a session of its own, with a clean environment and a private directory.

    target: argv; cwd; exit_codes (default [0]); env; secret_env, names of secrets that become
    variables of the same name and are masked in the output.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._workspaces = Workspaces(settings.work_dir)

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return step.grace_seconds + STOP_MARGIN_SECONDS

    def forecast(self, step: PlannedStep) -> str:
        if step.protected:
            return verdicts.protected(step)
        return (
            "SIGTERM to every process that it started, SIGKILL to those left after "
            f"{step.grace_seconds:g} s; it counts as cancelled when none is left."
        )

    def run(self, call: Call) -> Outcome:
        outcome = self._attempt(call)
        if outcome.status in _STOPPED and outcome.receipt is None:
            return replace(outcome, receipt=processes.nothing_to_end())
        return outcome

    def _attempt(self, call: Call) -> Outcome:
        try:
            if call.token.is_cancelled:
                return verdicts.unbegun(call)
            return self._carry_out(call)
        except (CannotStart, OSError) as error:
            return verdicts.failed(call, "cannot_start", str(error))
        except Exception as error:
            logger.exception("step %s", call.key)
            return verdicts.failed(call, "engine_error", f"{type(error).__name__}: {error}")
        finally:
            call.output.close()

    def _carry_out(self, call: Call) -> Outcome:
        return self._outcome(call, self._run(call))

    def _argv(self, step: PlannedStep) -> list[str]:
        return arguments(step.target.get("argv", ()), step.parameters)

    def _base_environment(self) -> Mapping[str, str]:
        return self._settings.environment

    def _run(self, call: Call) -> Ended:
        argv = self._argv(call.step)
        environment = self._environment(call)
        directory = self._workspaces.take(call.context)
        ended = None
        try:
            ended = self._run_in(directory, argv, environment, call)
            return ended
        finally:
            self._workspaces.give_back(directory, reusable=ended is not None and ended.is_proven)

    @staticmethod
    def _run_in(
        directory: str, argv: list[str], environment: Mapping[str, str], call: Call
    ) -> Ended:
        command = Command(
            argv=argv,
            key=call.key,
            environment={**environment, CONTEXT_VARIABLE: context_file(directory)},
            directory=call.step.target.get("cwd") or directory,
            private_directory=directory,
            grace_seconds=call.step.grace_seconds,
        )
        wake_up = WakeUp(call.token)
        try:
            return processes.run(command, wake_up=wake_up, on_output=call.output.write)
        finally:
            wake_up.close()

    def _environment(self, call: Call) -> dict[str, str]:
        target = call.step.target
        environment = {**self._base_environment(), **target.get("env", {})}
        for name in target.get("secret_env", ()):
            try:
                environment[name] = value = self._settings.secret(name)
            except KeyError:
                raise CannotStart(f"secret {name!r} is not set where the worker runs") from None
            call.output.hide(name, value)
        return environment

    def _outcome(self, call: Call, ended: Ended) -> Outcome:
        receipt, code = ended.receipt, ended.exit_code
        if ended.stopped or code is None:
            return verdicts.stopped(
                call, how_it_ended(ended), proven=ended.is_proven, exit_code=code, receipt=receipt
            )
        accepted = call.step.target.get("exit_codes") or [0]
        left = f"it left something running: {how_it_ended(ended)}" if receipt else ""
        if code in accepted:
            return verdicts.succeeded(call, left, exit_code=code, receipt=receipt)
        reason = "signal" if code < 0 else "exit_code"
        # Masked first: a line of a secret that has several may look like nothing.
        tail = call.output.masker.mask(ended.tail)
        message = "; ".join(filter(None, (_complaint(code, accepted, tail), left)))
        return verdicts.failed(call, reason, message, exit_code=code, receipt=receipt)


def _complaint(code: int, accepted: Iterable[int], tail: bytes) -> str:
    codes = ", ".join(map(str, accepted))
    what = f"ended by {signal_name(-code)}" if code < 0 else f"exit code {code}"
    line = last_line(tail)
    return f"{what}; accepted: {codes}" + (f"; last line: {line}" if line else "")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def how_it_ended(ended: Ended) -> str:
    """How its processes ended, as the end of a sentence."""
    receipt = ended.receipt
    if receipt is None:
        return ""
    text = (
        verdicts.count(receipt["processes"], "process", "processes")
        + " ended with "
        + " and ".join(receipt["signals"])
    )
    if ended.is_proven:
        return text
    unknown = receipt.get("unknown_pids")
    doubt = f"whose are pids {unknown}?" if unknown else "some could not be ended"
    return f"{text}, but it is not proven that none is left: {doubt}"
