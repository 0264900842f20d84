"""Runs the functions of Python steps."""

from __future__ import annotations

from contextlib import suppress

from executions.engine.outcomes import Outcome
from executions.engine.plan import PlannedStep

from . import verdicts
from .call import Call, Executor, ExecutorSettings
from .function import carry_out, judged
from .isolated import IsolatedExecutor


class PythonExecutor:
    """Calls `f(ctx)`, in the thread of the slot or in a process of its own.

    target: isolation, `thread` (the default) or `process`.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._thread = ThreadExecutor(settings)
        self._process = IsolatedExecutor(settings)

    def run(self, call: Call) -> Outcome:
        return self._chosen(call.step).run(call)

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return self._chosen(step).stop_seconds(step)

    def forecast(self, step: PlannedStep) -> str:
        return self._chosen(step).forecast(step)

    def _chosen(self, step: PlannedStep) -> Executor:
        return self._process if step.target.get("isolation") == "process" else self._thread


class ThreadExecutor:
    """Calls the function in the thread of the slot; an `async def` runs in a loop of its own.

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
        settings = self._settings
        try:
            if call.token.is_cancelled:
                return verdicts.unbegun(call)
            ending = carry_out(
                call,
                resolve=settings.resolve,
                secret=settings.secret,
                environment=settings.environment,
            )
            with suppress(Exception):
                settings.connection_cleanup()
            return judged(call, ending)
        finally:
            call.output.close()
