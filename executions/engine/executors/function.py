"""Calling the function of a Python step: the same in a thread and in a process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from executions.engine.cancellation import CancelToken, StepCancelled
from executions.engine.context import StepContext
from executions.engine.masking import to_bytes
from executions.engine.outcomes import Outcome

from . import verdicts
from .call import Call

RESULT_LIMIT = 64 * 1024
"""Bytes of JSON; a larger result is not kept."""
RESULT_DEPTH = 100
"""Levels of lists and objects in each other; what is nested deeper is not kept."""
STOPPED = "stopped"
"""The reason of an ending that the request to stop brought about."""
REASONS = ("", STOPPED, "exception", "unknown_step")
"""Of endings; the empty one means that the function returned."""
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How the function of a step ended; text as it was, neither masked nor cut."""

    reason: str = ""
    """One of REASONS."""
    message: str = ""
    result: str = ""
    """What it returned, as JSON; empty if that was None or is no JSON."""


def carry_out(
    call: Call,
    *,
    resolve: Callable[[str], Callable[..., Any]],
    secret: Callable[[str], str],
    environment: Mapping[str, str],
) -> Ending:
    """Call the step's function in this thread. Whatever it raises is an ending."""
    try:
        function = resolve(call.step.step_name)
    except Exception as error:
        return Ending(reason="unknown_step", message=_describe(error))
    context = StepContext(call, secret=secret, environment=environment)
    try:
        # What the step sets in context variables must not reach the next step of this slot.
        value = contextvars.copy_context().run(_value, function, context, call.token)
        return Ending(result=_json(value))
    except BaseException as error:
        return _ended_by(call, function, error)
    finally:
        context.close()


def judged(call: Call, ending: Ending, detail: str = "", **facts: Any) -> Outcome:
    """The outcome of an attempt whose function ended so; `detail` follows its message."""
    message = verdicts.clauses(ending.message, detail)
    if not ending.reason:
        return verdicts.succeeded(call, message, result=_result(call, ending.result), **facts)
    if ending.reason == STOPPED:
        return verdicts.stopped(call, message, **facts)
    return verdicts.failed(call, ending.reason, message, **facts)


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


def _ended_by(call: Call, function: Callable[..., Any], error: BaseException) -> Ending:
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return Ending()
    frames = _own_frames(function, error)
    if call.token.is_cancelled and isinstance(error, (StepCancelled, asyncio.CancelledError)):
        return Ending(reason=STOPPED)
    with suppress(Exception):
        call.output.write(_traceback(error, frames))
    return Ending(reason="exception", message=_describe(error) + _place(function, frames))


def _own_frames(function: Callable[..., Any], error: BaseException) -> TracebackType | None:
    """The traceback from the step's function on; None if the error came before its first line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code is not code:
        frames = frames.tb_next
    return frames


def _traceback(error: BaseException, frames: TracebackType | None) -> str:
    lines = traceback.TracebackException(type(error), error, frames).format()
    return "".join(lines)  # the output cuts it, but not in the middle of a secret


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


def _json(value: Any) -> str:
    if value is None:
        return ""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return ""


def _result(call: Call, text: str) -> Any:
    """The JSON `text` as every database takes it, masked; None if there is none or too much."""
    try:
        encoded = call.output.masker.mask(to_bytes(_ESCAPED_NUL.sub("\\1\ufffd", text)))
        value = json.loads(encoded) if text and len(encoded) <= RESULT_LIMIT else None
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper(value, RESULT_DEPTH) else value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in each other on more than `levels` levels."""
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)
