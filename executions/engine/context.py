"""What a Python step is given: `f(ctx)`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import processes
from .errors import CommandFailed, CommandTimedOut
from .processes import Command, Ended, WakeUp

if TYPE_CHECKING:
    from .executors import Call

_GRACE_SHARE = 0.5
"""Of the step's grace, for a command that it runs; the rest is left for killing and returning."""
_LAST_LINE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletedStep:
    """What `ctx.run` returns."""

    exit_code: int
    """Negative: minus the number of the signal that ended it."""
    stdout: str
    """The end of what it wrote on either stream, at most 64 KiB; unmasked, so take care."""


def frozen(value: Any) -> Any:
    """`value` with every mapping read-only and every list a tuple, all the way down."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: frozen(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    return value


_last_context: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, frozen({}))


def _frozen_context(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every step of a run shares one context, which may be large: it is frozen once."""
    global _last_context
    original, copy = _last_context
    if original is not context:
        copy = frozen(context)
        _last_context = (context, copy)
    return copy


class StepContext:
    """The argument of a Python step: what it may know, and how it talks to the engine.

    A step learns that it should stop from `check_cancelled`, `sleep` and `run`, which then raise
    `StepCancelled`; let it pass. The task of an `async def` step is cancelled instead, and the
    blocking `sleep` and `run` have no place there. A step that does not return within its grace
    is abandoned: its slot stays occupied, its result is ignored.

    Only what is passed to `log`, and what commands of `run` write, is part of the step's output.
    `print` and the logging module are not captured: all steps of a worker share them. In a process
    of its own a step has them to itself; there they are output too, and it is never abandoned.
    """

    __slots__ = ("_call", "_commands", "_context", "_environment", "_params", "_secret", "_wake_up")

    def __init__(
        self,
        call: Call,
        *,
        secret: Callable[[str], str],
        environment: Mapping[str, str],
    ) -> None:
        self._call = call
        self._secret = secret
        self._environment = environment
        self._context: Mapping[str, Any] | None = None
        self._params: Mapping[str, Any] | None = None
        self._wake_up: WakeUp | None = None
        self._commands = itertools.count(1)

    @property
    def name(self) -> str:
        """The entry's name in its batch."""
        return self._call.step.name

    @property
    def attempt(self) -> int:
        """From 1."""
        return self._call.attempt

    @property
    def key(self) -> str:
        """Unique for every attempt ever made."""
        return self._call.key

    @property
    def context(self) -> Mapping[str, Any]:
        """The JSON object that the run was triggered with; read-only, its lists are tuples."""
        if self._context is None:
            self._context = _frozen_context(self._call.context)
        return self._context

    @property
    def params(self) -> Mapping[str, Any]:
        """The step's parameters, with those of its entry; read-only, its lists are tuples."""
        if self._params is None:
            self._params = frozen(self._call.step.parameters)
        return self._params

    def log(self, *text: object) -> None:
        """Add a line to the step's output, as `print` would put it together."""
        self._call.output.write(" ".join(map(str, text)) + "\n")

    def progress(self, done: float, total: float = 1) -> None:
        """Show how far the step is: `done` of `total`."""
        fraction = done / total if total > 0 else 1.0
        if math.isfinite(fraction):
            self._call.progress(min(1.0, max(0.0, fraction)))

    def secret(self, name: str) -> str:
        """The secret `name`, masked in the output from now on. Raises `KeyError`."""
        value = self._secret(name)
        self._call.output.hide(name, value)
        return value

    def check_cancelled(self) -> None:
        """Raise `StepCancelled` if the step should stop. Costs next to nothing."""
        self._call.token.check()

    def sleep(self, seconds: float) -> None:
        """Wait; raises `StepCancelled` as soon as the step should stop."""
        self._call.token.wait(seconds)
        self._call.token.check()

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        timeout: float | None = None,
        check: bool = True,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CompletedStep:
        """Run a command; what it writes, on either stream, becomes output of the step.

        `env` is added to the environment that command steps get; `cwd` is the worker's own if it
        is not given. Raises `CannotStart`; `CommandFailed` after an exit code other than 0, unless
        `check` is off; `CommandTimedOut` after `timeout` seconds; `StepCancelled` when the step
        should stop. In the last two cases every process of the command is gone by then. So is
        what a command leaves running when it exits.
        """
        self.check_cancelled()
        command = Command(
            argv=[os.fspath(argument) for argument in argv],
            key=f"{self.key}:{next(self._commands)}",
            environment={**self._environment, **(env or {})},
            directory=None if cwd is None else os.fspath(cwd),
            grace_seconds=self._call.step.grace_seconds * _GRACE_SHARE,
        )
        ended = processes.run(
            command,
            wake_up=self._waking(),
            on_output=self._call.output.write,
            timeout_seconds=timeout,
        )
        return self._completed(Path(command.argv[0]).name, ended, timeout, check)

    def close(self) -> None:
        """The step has returned. For the engine."""
        if self._wake_up is not None:
            self._wake_up.close()

    def _waking(self) -> WakeUp:
        if self._wake_up is None:
            self._wake_up = WakeUp(self._call.token)
        return self._wake_up

    def _completed(
        self, program: str, ended: Ended, timeout: float | None, check: bool
    ) -> CompletedStep:
        if not ended.is_proven:
            self.log(f"{program}: not every process could be ended: {ended.receipt}")
        if ended.stopped:
            self.check_cancelled()
            raise CommandTimedOut(program, timeout or 0.0)
        if ended.exit_code is None:
            raise CommandFailed(program, -9)
        if check and ended.exit_code != 0:
            # Masked first: a line of a secret that has several may look like nothing.
            tail = self._call.output.masker.mask(ended.tail)
            raise CommandFailed(program, ended.exit_code, last_line(tail))
        return CompletedStep(exit_code=ended.exit_code, stdout=ended.tail.decode(errors="replace"))


def last_line(output: bytes) -> str:
    """The last line of `output` with anything on it, if it is short; else ""."""
    lines = output.decode(errors="replace").rstrip().rsplit("\n", 1)
    line = lines[-1].rsplit("\r", 1)[-1].strip()
    return line if len(line) <= _LAST_LINE else ""
