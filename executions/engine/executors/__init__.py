"""Executors: how the steps of each kind are carried out. A project can register its own."""

from __future__ import annotations

from executions.engine.outcomes import Outcome
from executions.engine.plan import PlannedStep

from . import verdicts
from .call import Call, Executor, ExecutorSettings, step_key_prefix

__all__ = [
    "Call",
    "Executor",
    "ExecutorRegistry",
    "ExecutorSettings",
    "default_executors",
    "step_key_prefix",
]


class UnknownKind:
    """Stands in for a kind that nobody registered: its steps fail and say so."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def run(self, call: Call) -> Outcome:
        call.output.close()
        return verdicts.failed(
            call, "unknown_kind", f"this worker cannot run steps of kind {self._kind!r}"
        )

    def stop_seconds(self, step: PlannedStep) -> float | None:
        return step.grace_seconds

    def forecast(self, step: PlannedStep) -> str:
        return f"Nothing: this worker cannot run steps of kind {self._kind!r}."


class ExecutorRegistry:
    """Executors by kind."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}

    def register(self, kind: str, executor: Executor) -> None:
        """Let `executor` carry out the steps of `kind`, also instead of another."""
        self._executors[kind] = executor

    def get(self, kind: str) -> Executor:
        """The executor of a kind; for an unknown one, an executor whose steps fail."""
        return self._executors.get(kind) or UnknownKind(kind)


def default_executors(settings: ExecutorSettings) -> ExecutorRegistry:
    """A registry with the kinds python, command, http and management."""
    from .command import CommandExecutor
    from .http import HttpExecutor
    from .management import ManagementExecutor
    from .python import PythonExecutor

    registry = ExecutorRegistry()
    registry.register("python", PythonExecutor(settings))
    registry.register("command", CommandExecutor(settings))
    registry.register("http", HttpExecutor(settings))
    registry.register("management", ManagementExecutor(settings))
    return registry
