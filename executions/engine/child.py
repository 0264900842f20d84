"""The process of an isolated Python step: what the program at the other end of a channel does.

The program itself is not part of the engine: it makes the step's function importable, then calls
`main`.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from .cancellation import CancelReason, CancelToken
from .errors import EngineError
from .executors import Call
from .executors.channel import Channel, Message
from .executors.function import RESULT_LIMIT, Ending, carry_out
from .masking import to_bytes
from .output import StepOutput
from .plan import Lane, PlannedStep
from .trees import become_subreaper

EXIT_SECONDS = 5.0
"""What may still happen after the function has returned: other threads, `atexit`."""
_REASON_SECONDS = 1.0
"""Between the signal to stop and the message that says why."""
_LONGEST_TEXT = 64 * 1024
_LONGEST_RESULT = 4 * RESULT_LIMIT


def main(
    descriptor: int,
    *,
    resolve: Callable[[str], Callable[..., Any]],
    connection_cleanup: Callable[[], None],
) -> None:
    """Carry out the step that comes through the channel `descriptor`, and say how it ended.

    In the main thread, so that the step may do what Python allows nowhere else.
    """
    process = os.getpid()
    faulthandler.enable()
    become_subreaper()
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor), limit=math.inf)
    messages = channel.messages()
    request = next(messages, None)
    if request is None:
        return
    worker = _Worker(channel, messages)
    ending = carry_out(
        _call(request, worker),
        resolve=resolve,
        secret=worker.secret,
        environment=request["environment"],
    )
    if os.getpid() != process:
        os._exit(0)  # a fork that the step made and let return is not the step
    with suppress(Exception):
        connection_cleanup()
    channel.send({"ended": asdict(_sendable(ending))})
    _leave_in_time()


def _call(request: Message, worker: _Worker) -> Call:
    step = request["step"]
    return Call(
        step=PlannedStep(**{**step, "lane": Lane(step["lane"])}),
        context=request["context"],
        attempt=request["attempt"],
        key=request["key"],
        token=worker.token,
        output=_Output(),
        progress=worker.progress,
    )


def _sendable(ending: Ending) -> Ending:
    """Cut text could end with half a secret, which nobody recognises: it goes whole or not."""
    message, result = ending.message, ending.result
    if len(message) > _LONGEST_TEXT:
        name = message.partition(":")[0][:100]
        message = f"{name}: (its message has {len(message):,} characters)"
    if len(result) > _LONGEST_RESULT:
        result = ""
    return Ending(reason=ending.reason, message=message, result=result)


def _leave_in_time() -> None:
    """The step is over, so whatever keeps the interpreter from ending must not keep it for long."""
    timer = threading.Timer(EXIT_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()


class _Output(StepOutput):
    """Passes on what is written, in order with what the step prints; the worker does the rest."""

    __slots__ = ("_descriptor", "_writing")

    def __init__(self) -> None:
        super().__init__()
        # The step may close or redirect the number 1.
        self._descriptor = os.dup(sys.__stdout__.fileno() if sys.__stdout__ else 1)
        self._writing = threading.Lock()

    def write(self, data: bytes | str) -> None:
        rest = memoryview(to_bytes(data) if isinstance(data, str) else data)
        # If nobody reads any more, the worker is dead and the end is near.
        with self._writing, suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class _Worker:
    """The worker at the other end: tells the token to fire, and answers."""

    def __init__(self, channel: Channel, messages: Iterator[Message]) -> None:
        self.token = CancelToken()
        self._channel = channel
        self._messages = messages
        self._asking = threading.Lock()
        self._answers: SimpleQueue[Message] = SimpleQueue()
        self._heed_sigterm()
        threading.Thread(target=self._listen, name="worker", daemon=True).start()

    def progress(self, fraction: float) -> None:
        with suppress(OSError):
            self._channel.send({"progress": fraction})

    def secret(self, name: str) -> str:
        with self._asking:
            self._channel.send({"secret": name})
            answer = self._answers.get()
        match answer:
            case {"secret": str(value)}:
                return value
            case {"missing": what}:
                raise KeyError(what)
        raise EngineError("the worker is gone")

    def _listen(self) -> None:
        for message in self._messages:
            if "cancel" in message:
                self.token.cancel(CancelReason(message["cancel"]))
            else:
                self._answers.put(message)
        self.token.cancel(CancelReason.SHUTDOWN)
        self._answers.put({})

    def _heed_sigterm(self) -> None:
        """The token fires in another thread: the interrupted one may be in the middle of it."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        _keep_from_forks()
        watcher = threading.Thread(
            target=self._watch, args=(read_end,), name="signals", daemon=True
        )
        watcher.start()

    def _watch(self, signals: int) -> None:
        with suppress(OSError):
            while received := os.read(signals, 64):
                # The reason comes through the channel, unless somebody else sent the signal.
                if signal.SIGTERM in received and not self.token.wait(_REASON_SECONDS):
                    self.token.cancel(CancelReason.SHUTDOWN)


def _keep_from_forks() -> None:
    """A fork that the step makes ends as any process does, and its signals are not the step's."""
    masks: list[set[int]] = []

    def hold_back() -> None:
        # What is sent to the fork at once must not meet the handler that it inherits.
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}))

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def begin_anew() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        go_on()

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=begin_anew)
