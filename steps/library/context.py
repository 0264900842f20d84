"""What a built-in step sees of the run that it is part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class CompletedCommand(Protocol):
    """What a command left: its exit code, and the end of what it wrote."""

    @property
    def exit_code(self) -> int: ...

    @property
    def stdout(self) -> str: ...


class StepContext(Protocol):
    """The part of a step's `ctx` that the library uses; docs/steps.md describes the whole."""

    @property
    def attempt(self) -> int: ...

    @property
    def params(self) -> Mapping[str, Any]: ...

    def log(self, text: str) -> None: ...

    def progress(self, done: float, total: float = 1) -> None: ...

    def check_cancelled(self) -> None: ...

    def run(
        self, argv: Sequence[str], *, check: bool = True, cwd: Path | None = None
    ) -> CompletedCommand: ...


class CheckFailed(Exception):  # noqa: N818  (the step did its work; what it looked at is wrong)
    """A check found something wrong. The message says what, with the values, and what to do."""
