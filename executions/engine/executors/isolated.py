"""Runs the functions of Python steps in processes of their own: the worker's side."""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict
from typing import Any

from executions.engine import processes
from executions.engine.context import last_line
from executions.engine.errors import CannotStart
from executions.engine.outcomes import Outcome
from executions.engine.processes import Command, Ended, WakeUp

from . import verdicts
from .call import Call, ExecutorSettings
from .channel import Channel, Message
from .command import how_it_ended, signal_name
from .function import REASONS, STOPPED, Ending, judged
from .management import ManagementExecutor

_PAUSE_SECONDS = 0.01
"""Between two looks at what a step says: one that never stops talking must not cost the worker."""
_LINGER_SECONDS = 1.0
"""For the end of the channel, when the step's processes have ended."""


class IsolatedExecutor(ManagementExecutor):
    """Calls `f(ctx)` in a process that is ended as a command is.

    The process has the environment of management commands and the working directory of the
    worker. What it writes, and what `ctx.log` is given, is the step's output; all else passes
    through a channel, to `child.main`.
    """

    def _carry_out(self, call: Call) -> Outcome:
        if not self._settings.isolated:
            raise CannotStart("this worker cannot run steps in processes of their own")
        conversation = _Conversation(call, self._settings)
        try:
            ended = self._run_child(call, conversation.descriptor)
        finally:
            conversation.close()
        return _outcome(call, conversation.ending, ended)

    def _run_child(self, call: Call, descriptor: int) -> Ended:
        command = Command(
            argv=[*self._settings.isolated, str(descriptor)],
            key=call.key,
            environment=self._base_environment(),
            grace_seconds=call.step.grace_seconds,
            pass_fds=(descriptor,),
            may_have_namespace=False,
        )
        wake_up = WakeUp(call.token)
        try:
            return processes.run(command, wake_up=wake_up, on_output=call.output.write)
        finally:
            wake_up.close()


class _Conversation:
    """What the process of a step says and is told, in a thread of its own.

    The process asks for each secret that the step wants, so that a secret is masked in the output
    before the step can write it, and is never in an environment or an argument.
    """

    def __init__(self, call: Call, settings: ExecutorSettings) -> None:
        self._call = call
        self._settings = settings
        self.ending: Ending | None = None
        """How the function ended, if it was told."""
        ours, self._theirs = socket.socketpair()
        self._channel = Channel(ours)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="isolated step", daemon=True)
        self._thread.start()
        # Before anything else hears of a cancel: the reason is to arrive ahead of the signal.
        call.token.on_cancel(self._tell_to_stop)

    @property
    def descriptor(self) -> int:
        """Of the other end, for the process to inherit."""
        return self._theirs.fileno()

    def close(self) -> None:
        """The process has ended: hear what is left."""
        self._theirs.close()
        self._is_over.set()
        self._thread.join(_LINGER_SECONDS)
        # Only something that could not be ended holds the other end by now.
        self._channel.hang_up()
        self._thread.join()
        self._channel.close()

    def _tell_to_stop(self) -> None:
        self._channel.send_at_once({"cancel": self._call.token.reason})

    def _talk(self) -> None:
        try:
            self._channel.send(self._request())
            for message in self._channel.messages(lambda: self._is_over.wait(_PAUSE_SECONDS)):
                self._hear(message)
        except OSError:
            pass
        finally:
            self._channel.hang_up()  # or the process would wait for an answer for ever

    def _request(self) -> Message:
        call = self._call
        return {
            "step": asdict(call.step),
            "context": call.context,
            "attempt": call.attempt,
            "key": call.key,
            "environment": dict(self._settings.environment),
        }

    def _hear(self, message: Message) -> None:
        """The step's own code may have written it, so only what makes sense counts."""
        match message:
            case {"secret": name}:
                self._channel.send(self._secret(name))
            case {"progress": int() | float() as fraction} if 0 <= fraction <= 1:
                self._call.progress(float(fraction))
            case {
                "ended": {"reason": str(reason), "message": str(text), "result": str(result)}
            } if reason in REASONS and self.ending is None:
                self.ending = Ending(reason=reason, message=text, result=result)

    def _secret(self, name: Any) -> Message:
        try:
            value = self._settings.secret(name)
        except Exception as error:
            return {"missing": str(error.args[0] if error.args else error)}
        self._call.output.masker.add(value)
        return {"secret": value}


def _outcome(call: Call, ending: Ending | None, ended: Ended) -> Outcome:
    receipt = ended.receipt
    left = f"it left something running: {how_it_ended(ended)}" if receipt else ""
    if ending is not None and not ending.reason:
        return judged(call, ending, "" if ended.stopped else left, receipt=receipt)
    if ended.stopped or ended.exit_code is None:
        message = verdicts.clauses(ending.message if ending else "", how_it_ended(ended))
        return verdicts.stopped(call, message, receipt=receipt)
    if ending is None:
        return _died(call, ended.exit_code, ended.tail, left, receipt=receipt)
    if ending.reason == STOPPED and not call.token.is_cancelled:
        message = verdicts.clauses("ended by a SIGTERM that was not the worker's", left)
        return verdicts.failed(call, "signal", message, receipt=receipt)
    return judged(call, ending, left, receipt=receipt)


def _died(call: Call, code: int, tail: bytes, left: str, **facts: Any) -> Outcome:
    """Its process ended before the function did."""
    if code < 0:
        what, line = f"its process ended by {signal_name(-code)}", ""
    else:
        what = f"its process ended with exit code {code}"
        # Masked first: a line of a secret that has several may look like nothing.
        line = last_line(call.output.masker.mask(tail))
    last = f"last line: {line}" if line else ""
    message = verdicts.clauses(f"{what} before the step returned", last, left)
    reason = "signal" if code < 0 else "exit_code"
    return verdicts.failed(call, reason, message, exit_code=code, **facts)
