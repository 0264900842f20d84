"""Runs the functions of Python steps."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from executions.engine.cancellation import CancelToken, StepCancelled
from executions.engine.context import StepContext
from executions.engine.masking import to_bytes
from executions.engine.outcomes import Outcome
from executions.engine.plan import PlannedStep

from . import verdicts
from .call import Call, ExecutorSettings

RESULT_LIMIT = 64 * 1024
"""Bytes of JSON; a larger result is not kept."""
_TRACEBACK_LIMIT = 64 * 1024
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class PythonExecutor:
    """Calls `f(ctx)` in the thread of the slot; an `async def` runs in an event loop of its own.

    Nothing can end a thread from outside: a step that ignores the request to stop is abandoned.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return step.grace_seconds

    def forecast(self, step: PlannedStep) -> str:
        if step.protected:
            return verdicts.protected(step)
        return (
            "It is asked to stop and does so when it next looks; if it has not returned after "
            f"{step.grace_seconds:g} s it is abandoned: it keeps its slot, its result is ignored."
        )

    def run(self, call: Call) -> Outcome:
        try:
            if call.token.is_cancelled:
                return verdicts.unbegun(call)
            try:
                function = self._settings.resolve(call.step.step_name)
            except Exception as error:
                return verdicts.failed(call, "unknown_step", _describe(error))
            return self._call(function, call)
        finally:
            call.output.close()

    def _call(self, function: Callable[..., Any], call: Call) -> Outcome:
        context = StepContext(
            call, secret=self._settings.secret, environment=self._settings.environment
        )
        try:
            # What the step sets in context variables must not reach the next step of this slot.
            value = contextvars.copy_context().run(_value, function, context, call.token)
            return verdicts.succeeded(call, result=_result(call, value))
        except BaseException as error:
            return _ended_by(call, function, error)
        finally:
            context.close()
            with suppress(Exception):
                self._settings.connection_cleanup()


def _value(function: Callable[..., Any], context: StepContext, token: CancelToken) -> Any:
    value = function(context)
    if inspect.iscoroutine(value):
        with asyncio.Runner() as runner:
            return runner.run(_cancellable(value, token))
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError("the step is a generator function, so none of it ran; it must not yield")
    return value


async def _cancellable(coroutine: Coroutine[Any, Any, Any], token: CancelToken) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)

    def cancel() -> None:
        with suppress(RuntimeError):  # the loop is closed: the step has returned
            loop.call_soon_threadsafe(task.cancel)

    token.on_cancel(cancel)
    return await task


def _ended_by(call: Call, function: Callable[..., Any], error: BaseException) -> Outcome:
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return verdicts.succeeded(call)
    frames = _own_frames(function, error)
    if call.token.is_cancelled and isinstance(error, (StepCancelled, asyncio.CancelledError)):
        return verdicts.stopped(call)
    with suppress(Exception):
        call.output.write(_traceback(error, frames))
    return verdicts.failed(call, "exception", _describe(error) + _place(function, frames))


def _own_frames(function: Callable[..., Any], error: BaseException) -> TracebackType | None:
    """The traceback from the step's function on; None if the error came before its first line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code is not code:
        frames = frames.tb_next
    return frames


def _traceback(error: BaseException, frames: TracebackType | None) -> str:
    lines = traceback.TracebackException(type(error), error, frames).format()
    return "".join(lines)[-_TRACEBACK_LIMIT:]


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    return f"{name}: {text}" if text else name


def _place(function: Callable[..., Any], frames: TracebackType | None) -> str:
    """Where in the step's own code it happened: its file, or one beside or below it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    home = str(Path(code.co_filename).parent)
    place = ""
    for frame, line in traceback.walk_tb(frames):
        path = frame.f_code.co_filename
        if path.startswith(home) and "site-packages" not in path:
            place = f" ({Path(path).name} line {line})"
    return place


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _result(call: Call, value: Any) -> Any:
    """`value` as JSON that every database takes, masked; None if it is no JSON or too large."""
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain)
        encoded = call.output.masker.mask(to_bytes(_ESCAPED_NUL.sub("\\1\ufffd", text)))
        return json.loads(encoded) if len(encoded) <= RESULT_LIMIT else None
    except (TypeError, ValueError, RecursionError):
        return None
