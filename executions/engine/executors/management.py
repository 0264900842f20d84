"""Runs Django management commands as commands."""

from __future__ import annotations

from collections.abc import Mapping

from executions.engine.errors import CannotStart
from executions.engine.plan import PlannedStep

from .command import CommandExecutor, arguments


class ManagementExecutor(CommandExecutor):
    """Runs `manage.py command args…` in a process of its own.

    target: command; args. An argument that is exactly `{name}` becomes that parameter.
    """

    def _argv(self, step: PlannedStep) -> list[str]:
        name = step.target.get("command")
        if not isinstance(name, str) or not name or name.startswith("-"):
            raise CannotStart(f"{name!r} is no name of a management command")
        words = [name, *step.target.get("args", ())]
        return [*self._settings.manage, *arguments(words, step.parameters)]

    def _base_environment(self) -> Mapping[str, str]:
        chosen = self._settings.management_environment
        base = self._settings.environment if chosen is None else chosen
        return {"PYTHONUNBUFFERED": "1", **base}
